"""The gradient flow of N neurons in the exact population risk: no samples, no step size, only the finite width."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_count, check_memory, check_positive
from wgflow.errors import ConvergenceError, InvalidType
from wgflow.reduced_models.base import NetworkModel

from .particles import SGDResult, StepProgress, initial_theta, output_times, seed_sequence

__all__ = ["run_gradient_flow"]

Array = NDArray[np.float64]
#: Neurons whose features are formed at a time: the memory of a step does not grow with the number of features.
_BLOCK = 1 << 14
#: Bounds of the factor by which a step grows or shrinks, and the share of the estimated longest step that is taken.
_SMALLEST, _LARGEST, _SAFETY = 0.2, 5.0, 0.9
#: A step shorter than this share of the time is not told from none.
_SHORTEST = 1e-13


def run_gradient_flow(
    model: NetworkModel,
    n_neurons: int,
    t_eval: ArrayLike,
    rng: int | np.random.SeedSequence | np.random.Generator,
    n_runs: int = 1,
    ridge: float = 0.0,
    kappa: float = 0.8,
    theta0: ArrayLike | None = None,
    *,
    tolerance: float = 1e-6,
    progress: bool | Callable[[int, int], object] = False,
) -> SGDResult:
    r"""Move N neurons along the gradient flow of the population risk, on the model's reduced coordinates.

    .. math::
        \dot\theta_i = -2\, \nabla \Psi_\lambda(\theta_i; \rho_N), \qquad \rho_N = \frac1N \sum_i \delta_{\theta_i},
        \qquad \Psi_\lambda = V + \int U\,d\rho_N + \tfrac{\lambda}{2} |\theta|^2 .

    This is SGD without its noise: what is left of the difference to the mean-field limit is the draw of the N initial
    neurons. V and U are those of the model's features, so that a step costs N times the number of features. In models
    whose coordinates are radii, U is averaged over directions, which the initial law has independent and uniform: the
    neurons then move in the field of all rotations of one another.

    Integrated by the explicit Runge-Kutta pair of orders 3 and 2 of Bogacki and Shampine (Appl. Math. Lett. 2, 1989)
    with steps chosen by its error estimate. All sums have a fixed order, so that the bits do not depend on the number
    of threads.

    Parameters
    ----------
    model : NetworkModel
        Gives features, initial law and coordinates.
    n_neurons : int
        Width N; a million is a matter of seconds a step.
    t_eval : array_like, shape (T,)
        Increasing output times on the clock of `run_sgd` (of ``time_scale=model.time_scale``), met exactly.
    rng : int, SeedSequence or Generator
        As in `run_sgd`. The same seed gives the same initial neurons as there.
    n_runs : int
        Number of independent runs.
    ridge : float
        Penalty :math:`\lambda`.
    kappa : float
        Scale of the initial weights; not used with ``theta0``.
    theta0 : array_like, shape (n_neurons, n_parameters) or (n_runs, n_neurons, n_parameters), optional
        Initial parameters.
    tolerance : float
        Root mean square of the error estimate of a step, relative to 1 + |coordinate|.
    progress : bool or callable
        As in `run_sgd`; the steps counted are the output times.

    Returns
    -------
    SGDResult
        Without ``theta``; ``step_size`` is 0 and ``steps`` counts accepted steps of the first run. ``risk`` is
        :math:`R(\rho_N)` of the reduced model, with directions averaged.

    Raises
    ------
    InvalidInput
        If an argument is out of range.
    ResourceError
        If the neurons would not fit in memory, before anything is computed.
    ConvergenceError
        If the steps shrink to nothing or coordinates overflow.

    Examples
    --------
    >>> from wgflow.reduced_models import IsotropicGaussian
    >>> model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    >>> flow = run_gradient_flow(model, 1000, [0.0, 0.1], rng=7)
    >>> bool(abs(flow.coordinates[0, 1].mean() - 1.166) < 0.01)
    True
    """
    if not isinstance(model, NetworkModel):
        raise InvalidType(f"model must be a wgflow.reduced_models.NetworkModel, got {type(model).__name__}")
    n_neurons, n_runs = check_count("n_neurons", n_neurons), check_count("n_runs", n_runs)
    ridge, tolerance = check_positive("ridge", ridge, zero=True), check_positive("tolerance", tolerance)
    t = output_times(t_eval, 1.0)
    numbers = n_neurons * (n_runs * t.size * model.n_coordinates + 10 * model.n_coordinates + 2 * model.n_parameters)
    check_memory(8.0 * numbers, f"n_neurons={n_neurons}: the gradient flow",
                 "take fewer neurons, runs or output times")
    starts = None if theta0 is None else initial_theta(model, theta0, n_runs, n_neurons)
    seed = seed_sequence(rng)
    state, report = dict(seed.state), StepProgress(progress, n_runs, t.size, "gradient flow")
    coordinates = np.empty((n_runs, t.size, n_neurons, model.n_coordinates))
    risk, steps = np.empty((n_runs, t.size)), np.zeros(t.size, dtype=np.int64)
    for run, child in enumerate(seed.spawn(n_runs)):
        first = np.random.default_rng(child.spawn(3)[0])
        theta = model.initial_theta(n_neurons, kappa, first) if starts is None else starts[run]
        flow = _Flow(model, np.ascontiguousarray(model.project(theta).T), ridge, tolerance)
        for j, end in enumerate(t):
            flow.advance(float(end))
            coordinates[run, j] = flow.x.T
            risk[run, j] = model.risk_of_moments(flow.moments(flow.x))
            steps[j] = flow.steps if run == 0 else steps[j]
            report.advance(1)
        report.finished(run)
    return SGDResult(t=t, steps=steps, theta=None, coordinates=coordinates, risk=risk, n_neurons=n_neurons,
                     step_size=0.0, seed_entropy=seed.entropy, seed_state=state, model=model, beta=math.inf,
                     ridge=ridge)


class _Flow:
    """The neurons of one run, shape (n_coordinates, N), at a time."""

    def __init__(self, model: NetworkModel, x: Array, ridge: float, tolerance: float):
        self.model, self.x, self.ridge, self.tolerance = model, x, ridge, tolerance
        self.t, self.steps, self._length = 0.0, 0, 0.0
        self._low = _lowest(model)[:, None]

    def advance(self, end: float) -> None:
        """Step to the time ``end``."""
        if end <= self.t:
            return
        k1 = self._rate(self.x)
        h = self._length or min(end, 0.01 / max(1.0, _root_mean_square(k1)))
        while self.t < end:
            last = self.t + h >= end
            dt = end - self.t if last else h
            k2 = self._rate(self.x + 0.5 * dt * k1)
            k3 = self._rate(self.x + 0.75 * dt * k2)
            new = np.maximum(self.x + dt * (2.0 * k1 + 3.0 * k2 + 4.0 * k3) / 9.0, self._low)
            k4 = self._rate(new)
            error = dt * (-5.0 / 72.0 * k1 + k2 / 12.0 + k3 / 9.0 - k4 / 8.0)
            size = _root_mean_square(error / (1.0 + np.abs(new))) / self.tolerance
            if not math.isfinite(size):
                size = math.inf
            factor = _LARGEST if size == 0.0 else _SAFETY * size ** (-1.0 / 3.0)
            if size <= 1.0:
                self.t, self.x, k1 = end if last else self.t + dt, new, k4
                self.steps += 1
                h = max(h, dt * min(factor, _LARGEST)) if last else dt * min(factor, _LARGEST)
            else:
                h = dt * min(max(factor, _SMALLEST), 1.0)
            if h < _SHORTEST * max(end, 1e-300):
                raise ConvergenceError(f"the gradient flow needs steps below {h:.1e} at t={self.t:.6g}: its "
                                       "coordinates overflow or its gradients jump", reason="step", t=self.t, dt=h)
        self._length = h

    def moments(self, x: Array) -> Array:
        """Return the mean features, shape (k,)."""
        total = np.zeros(self.model.target.size)
        for block in _blocks(x):
            total += np.sum(self.model.features(*block), axis=1)
        return total / x.shape[1]

    def _rate(self, x: Array) -> Array:
        """Return the velocity; a radius does not go below 0."""
        model, low = self.model, self._low
        inside = np.maximum(x, low)
        force = -model.time_scale * model.signs * (self.moments(inside) - model.target)
        rate = np.concatenate([np.sum(force[:, None, None] * model.feature_gradients(*block), axis=0)
                               for block in _blocks(inside)], axis=1)
        if self.ridge:
            rate -= 0.5 * model.time_scale * self.ridge * model.squared_norm_gradient(*inside)
        return np.where(x > low, rate, np.maximum(rate, 0.0))


def _blocks(x: Array) -> list[Array]:
    return [x[:, i : i + _BLOCK] for i in range(0, x.shape[1], _BLOCK)]


def _root_mean_square(x: Array) -> float:
    return float(np.sqrt(np.sum(x * x) / x.size))


def _lowest(model: NetworkModel) -> Array:
    """Return the lowest value of each coordinate: 0 for radii, which carry a reference measure, else -infinity."""
    grid = model.grid(8)
    low = np.array([lo for lo, _ in grid.bounds])
    return np.where((low == 0.0) & (model.log_weight(grid) is not None), 0.0, -np.inf)
