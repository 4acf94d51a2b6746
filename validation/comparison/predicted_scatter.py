r"""A null law with the scatter of :func:`wgflow.validation.predict_scatter`.

To first order in 1/N and the step size the means and deviations of all coordinates and the risk are jointly Gaussian
over all times, with the predicted covariance. A replicate of a run has independent draws from the law at each time,
shifted and stretched on each coordinate so that its mean and deviation are those of a Gaussian vector with that
covariance: what particles do together is a smooth displacement, which on a law that is narrow beside the scale of the
potential is affine, and the rest of their fluctuations is that of independent draws. So distances have the null law of
particles that share noise and interact, with the broadening that pooling brings.

Where the bias of SGD's step is predicted too, all of this is centered at mean field plus bias, and the bands are
widened by a fifth of the bias for what its first order leaves out. The bias of finite width is known for independent
neurons; these interact, and anything between 0 and it counts as explained. Where it is measured
(``predict_scatter(..., measure_width=True)``), the replicates lie about it instead, with the error of the measurement,
and the bands are widened by what the next order in 1/N makes of it (``scatter.width_error``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from wgflow.errors import InvalidInput, InvalidType

from .marginal_laws import MarginalLaw
from .particle_runs import ParticleRuns

if TYPE_CHECKING:
    from ..fluctuations import Scatter

__all__ = ["PredictedMoments", "check_scatter", "scattering_more", "second_order_variance"]

Array = NDArray[np.float64]
#: Share of the level that is spent on finding runs that scatter more than predicted.
_SHARE = 0.1
#: Share of the predicted bias that is allowed for what is neglected.
_NEGLECTED = 0.2


def check_scatter(scatter: Scatter, runs: ParticleRuns) -> None:
    """Refuse a prediction for other particles than those of the runs."""
    from ..fluctuations import Scatter

    if not isinstance(scatter, Scatter):
        raise InvalidType("scatter must be 'predicted', 'observed', 'bootstrap' or what predict_scatter returns, got "
                          f"{type(scatter).__name__}")
    if scatter.n_neurons != runs.count:
        raise InvalidInput(f"scatter is predicted for n_neurons={scatter.n_neurons}, the runs have {runs.count}: give "
                           f"scatter.rescaled(n_neurons={runs.count})")
    if not np.isclose(scatter.step_size, runs.step_size, rtol=1e-9, atol=0.0):
        raise InvalidInput(f"scatter is predicted for step_size={scatter.step_size:g}, the runs have "
                           f"{runs.step_size:g}: give scatter.rescaled(step_size={runs.step_size:g})")
    span = max(float(runs.t[-1]), 1e-300)
    missing = np.abs(scatter.t[:, None] - runs.t).min(axis=0) > max(1e-9 * span, 0.51 * runs.step_size)
    if missing.any():
        raise InvalidInput(f"scatter has no time {runs.t[missing][0]:g}: predict_scatter(..., t_eval=particles.t)")


class PredictedMoments:
    """Means, deviations and risk of replicates of the runs, jointly Gaussian over all times.

    Parameters
    ----------
    scatter : Scatter
    coordinates : sequence of str
        Names of the coordinates.
    runs : ParticleRuns
    without : collection of str
        Functionals that are not used, although they are predicted; without its mean no coordinate is.
    with_bias : bool
        Whether the predicted bias of the step is used.

    Attributes
    ----------
    comonotone : bool
        Whether particles keep their order, so that the draws of all times are those of the same levels.
    knows_excess : bool
        Whether the replicates of the risk have the bias of finite width, which then is not to be allowed for.
    """

    def __init__(self, scatter: Scatter, coordinates: Sequence[str], runs: ParticleRuns, without: Collection[str] = (),
                 with_bias: bool = True):
        wanted = [name for k in coordinates if f"mean of {k}" not in without for name in _of(k)] + ["risk"]
        self.names = [name for name in wanted if name in scatter.functionals and name not in without]
        self.coordinates = tuple(coordinates)
        times = np.abs(scatter.t[:, None] - runs.t).argmin(axis=0)
        rows = [scatter.functionals.index(name) for name in self.names]
        joint: Array = scatter.covariance[np.ix_(rows, times, rows, times)]
        self.variance: Array = np.einsum("itit->it", joint).copy()
        step, width = (0.0 * scatter.bias, 0.0 * scatter.bias)
        samples = scatter.width_samples if with_bias and scatter.step_size > 0.0 else None
        measured = samples is not None
        if with_bias:
            step = scatter.bias
            width = self._width_of(scatter) if samples is None else samples.mean(axis=0) / scatter.n_neurons
        of_risk = np.array([name == "risk" for name in scatter.functionals])[:, None]
        # Of the risk anything between 0 and the bias of the step counts as explained, as the head of this file says.
        center = np.where(of_risk, 0.5 * step, step)
        unknown = np.where(of_risk, 0.5, 0.0) + _NEGLECTED
        self.bias: Array = (center + (1.0 if measured else 0.5) * width)[np.ix_(rows, times)]
        told = scatter.width_error if measured else None
        error = 0.5 * np.abs(width) if told is None else told / scatter.n_neurons
        self._allowed = (unknown * np.abs(step) + error)[np.ix_(rows, times)]
        self._shape = (len(rows), times.size)
        size = len(rows) * times.size
        self._error = np.zeros((0, size))
        self.knows_excess = measured and "risk" in self.names
        joint = joint.reshape(size, size)
        if samples is not None:
            samples = samples[:, rows][:, :, times].reshape(-1, size) / scatter.n_neurons
            departures = (samples - samples.mean(axis=0)) / np.sqrt(len(samples) - 1.0)
            # The bias is the mean of what is of second order in the starts; that scatters among runs as among samples.
            joint = joint + departures.T @ departures
            self._error = departures / np.sqrt(len(samples))
        values, vectors = np.linalg.eigh(joint)
        self._root = vectors * np.sqrt(np.maximum(values, 0.0))
        self.comonotone = len(self.coordinates) == 1 and not scatter.noise.any()

    def draw(self, sets: int, runs: int, rng: np.random.Generator) -> Array:
        """Return departures from the mean field, shape (functionals, times, sets, runs)."""
        normal = rng.standard_normal((self._root.shape[1], sets * runs))
        found = (self._root @ normal).reshape(*self._shape, sets, runs) + self.bias[:, :, None, None]
        if len(self._error):  # of the measurement, the same for all runs
            found += (self._error.T @ rng.standard_normal((len(self._error), sets))).reshape(*self._shape, sets, 1)
        return found

    def allowance(self, name: str, time: int) -> float:
        """Return what is allowed for the part of a functional's bias that is not predicted, at one of the times."""
        return float(self._allowed[self.names.index(name), time]) if name in self.names else 0.0

    @staticmethod
    def _width_of(scatter: Scatter) -> Array:
        """Return the bias of finite width; 0 for the risk, whose excess K/N is known apart, and where it is unknown."""
        if scatter.width_bias is None or scatter.step_size == 0.0:  # the gradient flow runs on the coordinates alone
            return np.zeros_like(scatter.mean_field)
        risk = np.array([name == "risk" for name in scatter.functionals])
        return np.where(risk[:, None], 0.0, scatter.width_bias / scatter.n_neurons)

    def covers(self, coordinate: int | None) -> bool:
        """Return whether a coordinate, or the risk where it is None, is predicted."""
        return ("risk" if coordinate is None else f"mean of {self.coordinates[coordinate]}") in self.names

    def risk(self, moments: Array) -> Array | None:
        """Return the departures of the risk, shape (sets, runs), from moments of shape (functionals, sets, runs)."""
        return moments[self.names.index("risk")] if "risk" in self.names else None

    def displaced(self, x: Array, moments: Array, laws: Sequence[MarginalLaw]) -> Array:
        """Return draws x of shape (sets, runs, N, coordinates) with the means and deviations that moments say.

        Parameters
        ----------
        laws : sequence of MarginalLaw
            The law of each coordinate.
        """
        found = x.copy()
        for k, name in enumerate(self.coordinates):
            if not self.covers(k):
                continue
            own, mean, width = x[..., k], x[..., k].mean(axis=2), x[..., k].std(axis=2)
            factor = np.ones_like(width)
            if f"deviation of {name}" in self.names:
                # The deviation of N draws is on average less than that of all of them.
                least = laws[k].deviation * float(width.mean()) / (float(own.std()) or 1.0)
                wanted = np.maximum(least + moments[self.names.index(f"deviation of {name}")], 0.0)
                factor = wanted / np.where(width > 0.0, width, 1.0)
            shift = laws[k].mean + moments[self.names.index(f"mean of {name}")]
            found[..., k] = (own - mean[..., None]) * factor[..., None] + shift[..., None]
        return found


def second_order_variance(excess: Array, n_parameters: int) -> Array:
    r"""Return the largest variance that the part of second order gives to the risk of a run.

    :math:`R(\rho + \eta) = R(\rho) + 2 \int \Psi\,d\eta + \int\int U\,d\eta\,d\eta`, and near a minimum, where
    :math:`\Psi` is constant, the last term is all. It is a sum of squares of Gaussian modes, whose mean is at most the
    excess K/N; spread evenly over the D parameters of a neuron, or over more modes, its variance is at most
    :math:`2 (K/N)^2 / D`.

    Parameters
    ----------
    excess : array of shape (times,)
        K/N.
    n_parameters : int
        D.
    """
    return 2.0 * excess**2 / n_parameters


def scattering_more(moments: PredictedMoments, runs: ParticleRuns, level: float,
                    of_risk: Array | None = None) -> dict[str, float]:
    """Return the functionals that scatter more over the runs than predicted, and by which factor their variance is.

    What chance leaves with a probability of a tenth of the level is not taken for more.

    Parameters
    ----------
    of_risk : array of shape (times,), optional
        The variance that the risk may have beyond that of first order.
    """
    if runs.n_runs == 1:
        return {}
    found = {}
    x, degrees = runs.coordinates, runs.n_runs - 1
    limit = chdtri(degrees, _SHARE * level / max(moments.variance.size, 1)) / degrees
    for name, variance in zip(moments.names, moments.variance):
        if name == "risk":
            values = runs.risk
        else:
            own = x[..., moments.coordinates.index(name.split(" of ", 1)[1])]
            values = own.mean(axis=2) if name.startswith("mean") else own.std(axis=2)
        if values is None:
            continue
        if name == "risk" and of_risk is not None:
            variance = variance + of_risk
        seen = values.var(axis=0, ddof=1)
        ratio = float(np.max(seen[variance > 0.0] / variance[variance > 0.0], initial=0.0))
        if ratio > limit:
            found[name] = ratio
    return found


def _of(coordinate: str) -> tuple[str, str]:
    return f"mean of {coordinate}", f"deviation of {coordinate}"
