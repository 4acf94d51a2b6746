"""The scatter of functionals of particles about the mean field, predicted to first order in 1/N and the step size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.activations.kinks import WIDTH as KINK_WIDTH
from wgflow.activations.kinks import kinks_between
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_positive, real_array
from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models.base import ReducedModel
from wgflow.reduced_models.finite_data import FiniteData
from wgflow.solution import Solution
from wgflow.verbs import solve

from .backward import Covariances, along_characteristics, law_along
from .functionals import Functional, WeightedPoints, functionals_of
from .on_grid import on_grid
from .resolved_starts import resolved_start
from .step_bias import step_bias
from .width_bias import measured_width_bias

__all__ = ["Scatter", "predict_scatter", "with_width"]

Array = NDArray[np.float64]
#: Times at which the arguments of an activation are looked at.
_LOOKS = 33


@dataclass(frozen=True)
class Scatter:
    r"""The covariance of functionals of :math:`\rho_N` at several times, to first order in 1/N and the step size.

    Attributes
    ----------
    t : array of shape (times,)
    functionals : tuple of str
    mean_field : array of shape (functionals, times)
        The functionals of the mean-field law.
    n_neurons : int
    step_size : float
        0 for the population gradient flow, which sees no samples.
    starts, samples, noise : array of shape (functionals, times, functionals, times)
        N times the covariance from independent starts, 1/epsilon times that from the samples, N times that from noise.
    step_bias : array of shape (2, functionals, times), or None
        1/epsilon times the bias of SGD's step, from the noise of the samples and from the length of the steps; None
        where it is not known: with another loss than the square, for several coordinates, for models without
        ``hidden_noise``.
    width_bias : array of shape (functionals, times), or None
        N times the bias of finite width while the neurons are independent, an upper end of it later; or, with
        ``width_samples``, as measured, that of the risk too.
    width_samples : array of shape (pairs, functionals, times), or None
        The same in each of the independent experiments whose mean ``width_bias`` is.
    width_error : array of shape (functionals, times), or None
        How far ``width_bias``, as measured, may be off since the networks measured are small.
    """

    t: Array
    functionals: tuple[str, ...]
    mean_field: Array
    n_neurons: int
    step_size: float
    starts: Array = field(repr=False)
    samples: Array = field(repr=False)
    noise: Array = field(repr=False)
    step_bias: Array | None = field(default=None, repr=False)
    width_bias: Array | None = field(default=None, repr=False)
    width_samples: Array | None = field(default=None, repr=False)
    width_error: Array | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return (f"Scatter({', '.join(self.functionals)} at {len(self.t)} times, n_neurons={self.n_neurons}, "
                f"step_size={self.step_size:g})")

    @property
    def bias(self) -> Array:
        """By how much the mean over runs is off the mean field, to first order in the step; (functionals, times).

        0 where it is not known.
        """
        zero = np.zeros_like(self.mean_field)
        return zero if self.step_bias is None else self.step_size * self.step_bias.sum(axis=0)

    @property
    def covariance(self) -> Array:
        """The covariances, shape (functionals, times, functionals, times)."""
        return (self.starts + self.noise) / self.n_neurons + self.step_size * self.samples

    @property
    def variance(self) -> Array:
        """The variances, shape (functionals, times)."""
        return self.parts().sum(axis=0)

    @property
    def deviation(self) -> Array:
        """The standard deviations, shape (functionals, times)."""
        return np.sqrt(self.variance)

    def parts(self) -> Array:
        """Return the variances from starts, samples and noise, shape (3, functionals, times)."""
        return np.stack([np.einsum("itit->it", part) for part in
                         (self.starts / self.n_neurons, self.step_size * self.samples, self.noise / self.n_neurons)])

    def rescaled(self, n_neurons: int | None = None, step_size: float | None = None) -> Scatter:
        """Return the same for another number of neurons or another step size; nothing is computed anew."""
        return replace(
            self, n_neurons=self.n_neurons if n_neurons is None else check_count("n_neurons", n_neurons),
            step_size=self.step_size if step_size is None else check_positive("step_size", step_size, zero=True))

    def table(self) -> str:
        """Return plain text, a line for each functional and time: mean field, deviation, and its parts."""
        width = max(len(name) for name in self.functionals)
        lines = [f"{'functional':<{width}}  {'t':>8}  {'mean field':>10}  {'deviation':>10}  {'starts':>10}  "
                 f"{'samples':>10}  {'noise':>10}"]
        lines.append("-" * len(lines[0]))
        parts = np.sqrt(self.parts())
        for i, name in enumerate(self.functionals):
            for j, u in enumerate(self.t):
                numbers = [self.mean_field[i, j], self.deviation[i, j], *parts[:, i, j]]
                lines.append(f"{name:<{width}}  {u:8.4g}  " + "  ".join(f"{value:10.4g}" for value in numbers))
        return "\n".join(lines)


def predict_scatter(
    model: ReducedModel,
    t_eval: ArrayLike,
    n_neurons: int,
    step_size: float,
    *,
    kappa: float = 0.8,
    start: Atoms | Density | None = None,
    functionals: Sequence[str | Callable[..., Array]] | None = None,
    beta: float = math.inf,
    ridge: float = 0.0,
    xi: float | Callable[[Array], ArrayLike] = 1.0,
    n_steps: int = 200,
    measure_width: bool = False,
) -> Scatter:
    r"""Predict how functionals of a network's neurons scatter over independent runs of SGD.

    To first order in 1/N and the step size :math:`\epsilon`, for the mean of a function f at time t,

    .. math::
        \mathrm{Var} \int f\,d\rho_N(t) = \frac1N \mathrm{Var}_{\rho_0}(g_0)
        + 4 \epsilon \int_0^t \xi^2\,\mathrm{Var}_{(x, y)} \Bigl[ (y - \hat y_u(x))
          \int \nabla g_u \cdot \nabla \sigma_*(x; \theta)\,\rho_u(d\theta) \Bigr] du
        + \frac{4}{\beta N} \int_0^t \xi \int |\nabla g_u|^2 \rho_u\,du

    with the solution g of the adjoint of the linearized flow that ends as f: independent starts, the samples that all
    neurons share, and injected noise. Other functionals enter by their influence functions.

    With another loss than the square, on its clock, :math:`4 (y - \hat y)^2` becomes :math:`l'(y, \hat y)^2` and the
    last factor :math:`2/(\beta N)`; the linearized flow has the second derivatives l'' at the outputs of its time. The
    bias of the step is not known then.

    Parameters
    ----------
    model : ReducedModel
    t_eval : array_like, shape (times,)
        Increasing times, on the clock of SGD.
    n_neurons : int
        N.
    step_size : float
        The step :math:`\epsilon`; 0 for the population gradient flow of N particles.
    kappa : float
        Scale of the initial law, as in ``model.initial_atoms``; not used with ``start``.
    start : Atoms or Density, optional
        The law of which the starts are independent draws; ``model.initial_atoms(kappa)`` by default. With noise a
        density is needed, on a grid that holds the law at all times.
    functionals : sequence of str or callables, optional
        ``"mean of r"``, ``"deviation of r"`` and so on for each coordinate, ``"risk"``, or functions of the
        coordinates, whose means are meant; by default all that have a name.
    beta, ridge : float
        Inverse temperature and penalty.
    xi : float or callable
        Step-size schedule, as in `run_sgd`.
    n_steps : int
        With noise: steps of second order in which the equation is solved backward on the grid.
    measure_width : bool
        Measure the bias of finite width by the flows of sixteen networks of 40 neurons, their halves and quarters, a
        matter of seconds: without noise, for models on one radius that know the gradient of their network.

    Returns
    -------
    Scatter

    Raises
    ------
    InvalidInput
        If an argument is out of range, the model does not say what one sample adds (``sample_covariance``), neurons
        reach length 0 on the way, or, without noise, the activation of a network on finite data has a kink where its
        neurons take it.

    References
    ----------
    J. Sirignano and K. Spiliopoulos, Mean field analysis of neural networks: a central limit theorem, Stochastic
    Processes and their Applications 130 (2020) 1820-1852.

    Examples
    --------
    A linear neuron, where the recursion of SGD itself can be solved:

    >>> from wgflow.reduced_models import LinearNeuron
    >>> model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
    >>> start = model.initial_atoms(0.2**0.5, mean0=-0.5)
    >>> found = predict_scatter(model, [0.4], 100, 1e-3, start=start, functionals=["mean of theta"])
    >>> found.parts().round(8).ravel().tolist()
    [0.00018144, 0.00174242, 0.0]
    """
    if not isinstance(model, ReducedModel):
        raise InvalidType(f"model must be a wgflow.reduced_models.ReducedModel, got {type(model).__name__}")
    t = _times(t_eval)
    n_neurons, step_size = check_count("n_neurons", n_neurons), check_positive("step_size", step_size, zero=True)
    beta, ridge = check_positive("beta", beta, infinite=True), check_positive("ridge", ridge, zero=True)
    chosen, schedule = functionals_of(model, functionals), _schedule(xi)
    if measure_width and math.isfinite(beta):
        raise InvalidInput(f"measure_width=True with beta={beta:g}: the bias of finite width is measured without noise")
    if math.isinf(beta):
        law_at = _law_of(model, start, kappa, t, ridge, schedule)
        found, bias = _noiseless(model, law_at, t, chosen, ridge, schedule)
    else:
        found, bias = _noisy(model, start, t, chosen, beta, ridge, schedule, check_count("n_steps", n_steps))
    shape = (t.size, len(chosen), t.size, len(chosen))
    starts, samples, noise = (part.reshape(shape).transpose(1, 0, 3, 2)
                              for part in (found.starts - found.noise, found.samples, found.noise))
    scatter = Scatter(t, tuple(each.name for each in chosen), found.values.T, n_neurons, step_size, starts, samples,
                      noise, None if bias is None else bias[:2], None if bias is None else bias[2])
    return with_width(scatter, model, chosen, start, kappa, ridge, xi) if measure_width else scatter


def with_width(scatter: Scatter, model: ReducedModel, functionals: tuple[Functional, ...],
               start: Atoms | Density | None, kappa: float, ridge: float,
               xi: float | Callable[[Array], ArrayLike]) -> Scatter:
    """Return a prediction with the bias of finite width as `measured_width_bias` finds it."""
    law_at = _law_of(model, start, kappa, scatter.t, ridge, _schedule(xi))
    found, error = measured_width_bias(model, law_at, scatter.t, functionals, ridge, xi)
    return replace(scatter, width_bias=found.mean(axis=0), width_samples=found, width_error=error)


def _law_of(model: ReducedModel, start: Atoms | Density | None, kappa: float, t: Array, ridge: float,
            xi: Callable[[float], float]) -> Callable[[float], WeightedPoints]:
    """Return the law at each time, of points that move with the flow."""
    law = model.initial_atoms(kappa) if start is None else start
    if isinstance(law, Density):
        law = Atoms.from_density(law)
    if not isinstance(law, Atoms) or law.ndim != model.n_coordinates:
        raise InvalidType(f"start must be Atoms or a Density on the {model.n_coordinates} coordinates of {model.name}")
    lower = np.full(law.ndim, -np.inf) if law.bounds is None else np.array([low for low, _ in law.bounds])
    points = WeightedPoints(np.array(law.points), np.asarray(law.weights) / law.mass)
    if isinstance(model, FiniteData):
        _refuse_kinks(model, [points])
    law_at = law_along(model, points, float(t[-1]), ridge, xi, lower)
    if isinstance(model, FiniteData):
        _refuse_kinks(model, map(law_at, np.linspace(0.0, t[-1], _LOOKS)))
    return law_at


def _noiseless(model: ReducedModel, law_at: Callable[[float], WeightedPoints], t: Array,
               functionals: tuple[Functional, ...], ridge: float,
               xi: Callable[[float], float]) -> tuple[Covariances, Array | None]:
    found = along_characteristics(model, law_at, t, functionals, ridge, xi)
    try:
        return found, step_bias(model, law_at, t, functionals, ridge, xi)
    except (InvalidInput, ConvergenceError):
        return found, None


def _refuse_kinks(model: FiniteData, laws: Iterable[WeightedPoints]) -> None:
    """Refuse an activation with a kink that passes a sample, as neurons at the points of the laws see it.

    Psi then has a kink for this sample, among the neurons or on their way: its second derivatives, which carry
    fluctuations on, are not functions.
    """
    low, high = np.full(model.n_samples, np.inf), np.full(model.n_samples, -np.inf)
    for law in laws:
        reached = model.arguments(law.points)
        low, high = np.minimum(low, reached.min(axis=1)), np.maximum(high, reached.max(axis=1))
    kinks = kinks_between(model.activation, float(low.min()), float(high.max()))
    margin = KINK_WIDTH * (1.0 + np.abs(kinks))
    passed = np.any((low[:, None] <= kinks + margin) & (kinks - margin <= high[:, None]), axis=0)
    if passed.any():
        raise InvalidInput(
            f"without noise the scatter of a network on finite data with {model.activation!r} is not linear, since the "
            f"force on a neuron jumps where a kink passes a sample, here that at {kinks[passed][0]:.4g}; take an "
            "activation without kinks, or several runs and their observed scatter")


def _noisy(model: ReducedModel, start: Atoms | Density | None, t: Array, functionals: tuple[Functional, ...],
           beta: float, ridge: float, xi: Callable[[float], float],
           n_steps: int) -> tuple[Covariances, Array | None]:
    if not isinstance(start, Density):
        raise InvalidType(f"beta={beta:g} needs start=model.initial_density(kappa, grid): with noise the equation is "
                          f"solved on the cells of a grid; got start of type {type(start).__name__}")
    times = _steps(t, n_steps)
    if times.size == 1:
        raise InvalidInput("t_eval holds the time 0 alone; with noise give a later time")

    def solved(law: Density) -> Solution:
        return solve(model.energy(beta=beta, ridge=ridge), law, (0.0, float(t[-1])), t_eval=times,
                     time_scale=lambda u: model.time_scale * xi(u))

    sol = solved(start)
    finer = resolved_start(model, sol, beta, ridge)
    sol = sol if finer is None else solved(finer)
    return on_grid(model, sol, t, functionals, beta, ridge, xi)


def _steps(t: Array, n_steps: int) -> Array:
    """Return ends and middles of steps that shrink toward time 0, where laws change fastest, and end at the times t."""
    end = float(t[-1])
    ends = np.union1d(end * np.linspace(0.0, 1.0, n_steps + 1) ** 2, t)
    # A step that a time t has cut to almost nothing would be a step all the same.
    keep = np.append(np.diff(ends) > 1e-9 * end, True) | np.isin(ends, t) | (ends == 0.0)
    ends = ends[keep]
    return np.sort(np.concatenate([ends, 0.5 * (ends[1:] + ends[:-1])]))


def _times(t_eval: ArrayLike) -> Array:
    t = np.atleast_1d(real_array(t_eval, "t_eval"))
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all() or t[0] < 0.0 or np.any(np.diff(t) <= 0.0):
        raise InvalidInput("t_eval must be a 1-D array of finite times >= 0 that increase strictly")
    return t


def _schedule(xi: float | Callable[[Array], ArrayLike]) -> Callable[[float], float]:
    """Return the schedule as a function of one time, checked where it is called."""
    if not callable(xi):
        value = check_positive("xi", xi)
        return lambda u: value
    return lambda u: check_positive("xi(t)", float(np.asarray(xi(np.array([u]))).ravel()[0]))
