"""The gradient flow of N neurons in the exact population risk: no samples, no step size, only the finite width."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.atoms import Atoms
from wgflow.atoms_of_cells import powers_of
from wgflow.checks import check_count, check_positive
from wgflow.densities import Density
from wgflow.energies.clocks import Clock
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import Entropy
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.grids import log_power_cell_average
from wgflow.reduced_models.base import NetworkModel, ReducedModel
from wgflow.solvers.lagrangian import Lagrangian

from .langevin import follow_particles
from .particles import StepProgress, initial_theta, output_times, schedule_values, seed_sequence
from .trajectories import SGDResult, TrajectoryRecorder

__all__ = ["run_gradient_flow"]

Array = NDArray[np.float64]
#: Neurons whose features are formed at a time: the memory of a step does not grow with the number of features.
_BLOCK = 1 << 14
#: Bounds of the factor by which a step grows or shrinks, and the share of the estimated longest step that is taken.
_SMALLEST, _LARGEST, _SAFETY = 0.2, 5.0, 0.9
#: A step shorter than this share of the time is not told from none.
_SHORTEST = 1e-13
#: Cells on each of one, two or more axes from which the powers of a reference measure are read,
_CELLS = {1: 1000, 2: 200, 3: 30}
#: and how far the measure may be from a product of these powers, in logarithms.
_WEIGHT_TOLERANCE = 1e-8
#: Copies of the parameters that a run holds, at most.
_WORK_ARRAYS = 12


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
    beta: float = math.inf,
    xi: float | Callable[[Array], ArrayLike] = 1.0,
    noise_constant: float = 4.0,
    space: str = "coordinates",
    tolerance: float = 1e-6,
    dt: float | None = None,
    store_theta: bool = True,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], object] = False,
) -> SGDResult:
    r"""Move N neurons along the gradient flow of the exact population risk, on reduced coordinates or in full.

    .. math::
        d\theta_i = -2 \xi(t)\, \nabla \Psi_\lambda(\theta_i; \rho_N)\,dt + \sqrt{c\,\xi(t)/\beta}\;dW_i, \qquad
        \rho_N = \frac1N \sum_i \delta_{\theta_i}, \qquad
        \Psi_\lambda = V + \int U\,d\rho_N + \tfrac{\lambda}{2} |\theta|^2 .

    This is SGD without the noise of its samples: what is left of the difference to the mean-field limit is the draw of
    the N neurons, and their noise at finite ``beta``.

    On reduced coordinates, the default, V and U are those of the model's features, so that a step costs N times the
    number of features. In models whose coordinates are radii, U is averaged over directions, which the initial law has
    independent and uniform: the neurons then move in the field of all rotations of one another.

    With ``space="full"`` the neurons keep all their parameters, and every two of them interact as they do in the
    network: the flow is :math:`\dot\theta_i = -\xi N \nabla_{\theta_i} R_N(\theta)`, the limit of SGD as
    :math:`\epsilon \to 0` at fixed N. A step costs N^2. The two spaces differ by O(1/N): where the directions of the
    weights are still independent, by a mean velocity of a neuron of

    .. math:: -\frac{2\xi}{N} \Bigl[\tfrac12 \nabla u(\theta)
              - \nabla_1 U(\theta, \theta')\big|_{\theta' = \theta}\Bigr], \qquad u(\theta) = E\,\sigma_*(x; \theta)^2 ,

    since a neuron is aligned with itself (U averages over directions), and by pairs whose overlaps the flow changes.

    Without noise it is integrated by the explicit Runge-Kutta pair of orders 3 and 2 of Bogacki and Shampine (Appl.
    Math. Lett. 2, 1989) with steps chosen by its error estimate, on the clock :math:`\int \xi`; with noise by the steps
    of `wgflow.Lagrangian`. All sums have a fixed order, so that the bits do not depend on the number of threads.

    Parameters
    ----------
    model : NetworkModel
        Gives features, initial law and coordinates.
    n_neurons : int
        Width N; on reduced coordinates a million is a matter of seconds a step.
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
    beta, noise_constant : float
        Inverse temperature and the constant c of the noise, as in noisy `run_sgd`: the stationary law is that of
        ``model.energy(4 * beta / noise_constant, ridge)``.
    xi : float or callable
        Step-size schedule, as in `run_sgd`.
    space : {"coordinates", "full"}
        Reduced coordinates, or all parameters, for models that know the gradient of their network
        (``model.network_gradient``).
    tolerance : float
        Root mean square of the error estimate of a step, relative to 1 + |coordinate|; without noise.
    dt : float, optional
        Length of a step with noise, chosen from the change of the drift if it is left out.
    store_theta : bool
        Whether to keep all parameters at the output times, in the full space.
    folder : path, optional
        A new folder to which the snapshots are written one by one, as in `run_sgd`.
    progress : bool or callable
        As in `run_sgd`; the steps counted are the output times.

    Returns
    -------
    SGDResult
        ``step_size`` is 0 and ``steps`` counts accepted steps of the first run. On reduced coordinates there is no
        ``theta``, and ``risk`` is :math:`R(\rho_N)` of the reduced model, with directions averaged; in the full space
        it is the exact risk of the network.

    Raises
    ------
    InvalidInput
        If an argument is out of range, or the model does not know the gradient in the full space.
    ResourceError
        If the neurons or their snapshots would not fit in memory, or on the disk, before anything is computed.
    ConvergenceError
        If the steps shrink to nothing or coordinates overflow; the complete runs, or the snapshots so far, are its
        ``partial``.

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
    beta = check_positive("beta", beta, infinite=True)
    noise_constant = check_positive("noise_constant", noise_constant)
    field = _field(model, space, ridge)
    t, seed = output_times(t_eval, 1.0), seed_sequence(rng)
    starts = None if theta0 is None else initial_theta(model, theta0, n_runs, n_neurons)
    clock, report = _clock(xi, float(t[-1])), StepProgress(progress, n_runs, t.size, "gradient flow")
    about = {"n_neurons": n_neurons, "step_size": 0.0, "seed_entropy": seed.entropy, "seed_state": dict(seed.state),
             "model": model, "beta": beta, "ridge": ridge, "noise_constant": noise_constant, "batch_size": 1,
             "n_samples": None, "replacement": True, "xi": xi, "simulator": "gradient flow"}
    shapes = {name: (n_neurons, width) for name, width in field.kept.items() if store_theta or name != "theta"}
    recorder = TrajectoryRecorder(about, t, n_runs, shapes, folder,
                                  8.0 * n_neurons * (_WORK_ARRAYS * field.width + 2 * model.n_parameters))

    def one(run: int, child: np.random.SeedSequence) -> None:
        first, _, noise = (np.random.default_rng(s) for s in child.spawn(3))
        x = field.start(model.initial_theta(n_neurons, kappa, first) if starts is None else starts[run])

        def take(steps: int, x: Array) -> None:
            recorder.take(run, steps, {k: v for k, v in field.arrays(x).items() if k in shapes}, field.risk(x))
            report.advance(1)

        if math.isfinite(beta):
            _noisy(field, x, 4.0 * beta / noise_constant, t, xi, Lagrangian(rng=noise, dt=dt), take)
        else:
            flow = _Flow(field, x, tolerance)
            for end in t:
                flow.advance(clock(float(end)))
                take(flow.steps, flow.x)

    with report.report:
        return cast(SGDResult, recorder.run_all(seed, one, report.finished))


def _clock(xi: float | Callable, end: float) -> Callable[[float], float]:
    """Return the integral of the schedule from 0 to t, as a function of t."""
    if not callable(xi):
        value = check_positive("xi", xi)
        return lambda t: value * t
    if end == 0.0:
        return lambda t: 0.0
    clock = Clock(lambda t: float(schedule_values(xi, np.array([t]))[0]), 0.0, end)
    return lambda t: clock.elapsed(0.0, t) if t > 0.0 else 0.0


def _noisy(field: _CoordinateField | _NetworkField, x: Array, beta: float, t: Array, xi: float | Callable,
           method: Lagrangian, take: Callable[[int, Array], None]) -> None:
    """Follow the neurons with noise."""
    scale = field.model.time_scale
    law = Atoms(x, np.full(x.shape[1], 1.0 / x.shape[1]), field.bounds, field.powers, field.names)
    rate = (lambda s: scale * float(schedule_values(xi, np.array([s]))[0])) if callable(xi) else scale * xi
    follow_particles(field.energy(beta), law, t, rate, method, take)


class _Flow:
    """The neurons of one run, shape (width, N), at a time of the clock on which the flow is autonomous."""

    def __init__(self, field: _CoordinateField | _NetworkField, x: Array, tolerance: float):
        self.field, self.x, self.tolerance = field, x, tolerance
        self.t, self.steps, self._length = 0.0, 0, 0.0
        self._low = np.array([low for low, _ in field.bounds])[:, None]

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

    def _rate(self, x: Array) -> Array:
        """Return the velocity; a radius does not go below 0."""
        rate = self.field.rate(np.maximum(x, self._low))
        return np.where(x > self._low, rate, np.maximum(rate, 0.0))


class _CoordinateField:
    """The field of the model's features, on neurons of shape (n_coordinates, N)."""

    def __init__(self, model: NetworkModel, ridge: float):
        self.model, self.ridge, self.width, self.names = model, ridge, model.n_coordinates, model.coordinate_names
        line, half = (-math.inf, math.inf), (0.0, math.inf)
        grid = None if model.n_coordinates == model.n_parameters else model.grid(8)
        weighted = grid is not None and grid.log_weight is not None
        # Radii, which carry a reference measure, end at 0; a parameter has no ends, whatever the range of a grid.
        self.bounds = [half if weighted and low == 0.0 else line
                       for low, _ in (grid.bounds if grid is not None else [line] * self.width)]
        self.weighted, self.kept = weighted, {"coordinates": model.n_coordinates}

    def start(self, theta: Array) -> Array:
        """Return neurons as the flow moves them."""
        return np.ascontiguousarray(self.model.project(theta).T)

    def arrays(self, x: Array) -> dict[str, Array]:
        """Return what is kept of neurons."""
        return {"coordinates": x.T}

    @property
    def powers(self) -> tuple[float, ...] | None:
        """The powers of the coordinates of which the reference measure is a product, where there is one."""
        return _powers(self.model) if self.weighted else None

    def energy(self, beta: float) -> Term:
        """Return the free energy whose Langevin particles the noisy neurons are."""
        return self.model.energy(beta, self.ridge)

    def risk(self, x: Array) -> float:
        """Return the risk of the empirical law."""
        return self.model.risk_of_moments(self.moments(x))

    def moments(self, x: Array) -> Array:
        """Return the mean features, shape (k,)."""
        total = np.zeros(self.model.target.size)
        for block in _blocks(x):
            total += np.sum(self.model.features(*block), axis=1)
        return total / x.shape[1]

    def rate(self, x: Array) -> Array:
        """Return the velocity on the clock of the model."""
        model = self.model
        force = -model.time_scale * model.moment_slopes(self.moments(x))
        rate = np.concatenate([np.sum(force[:, None, None] * model.feature_gradients(*block), axis=0)
                               for block in _blocks(x)], axis=1)
        if self.ridge:
            rate -= 0.5 * model.time_scale * self.ridge * model.squared_norm_gradient(*x)
        return rate


class _NetworkField:
    """The field of the network itself, on neurons with all their parameters, shape (n_parameters, N)."""

    powers = None

    def __init__(self, model: NetworkModel, ridge: float):
        self.model, self.ridge, self.width = model, ridge, model.n_parameters
        self.names = [f"theta{k}" for k in range(self.width)]
        self.bounds = [(-math.inf, math.inf)] * self.width
        self.kept = {"coordinates": model.n_coordinates, "theta": model.n_parameters}
        model.network_gradient(np.full((2, self.width), 0.1) + 0.1 * np.eye(2, self.width))  # a model may refuse

    def start(self, theta: Array) -> Array:
        """Return neurons as the flow moves them."""
        return np.ascontiguousarray(theta.T)

    def arrays(self, x: Array) -> dict[str, Array]:
        """Return what is kept of neurons."""
        return {"coordinates": self.model.project(x.T), "theta": x.T}

    def energy(self, beta: float) -> Term:
        """Return the free energy whose Langevin particles the noisy neurons are."""
        return FreeEnergy([(1.0, Entropy(beta)), (1.0, _NetworkEnergy(self))])

    def risk(self, x: Array) -> float:
        """Return the exact risk of the network."""
        return float(self.model.population_risk(np.ascontiguousarray(x.T)))

    def gradient(self, x: Array) -> Array:
        """Return the gradient of Psi with its ridge at each neuron."""
        return self.model.network_gradient(np.ascontiguousarray(x.T)).T + self.ridge * x

    def rate(self, x: Array) -> Array:
        """Return the velocity on the clock of the model."""
        return -self.model.time_scale * self.gradient(x)


class _NetworkEnergy(Term):
    """The energy of the network, half the risk of the square loss, and its ridge, of the atoms that are its neurons."""

    def __init__(self, field: _NetworkField):
        self.field = field

    def energy(self, rho: Density | Atoms) -> float:
        x = self._neurons(rho)
        energy = self.field.risk(x) / self.field.model.risk_per_energy
        return energy + 0.5 * self.field.ridge * float(np.mean(np.sum(x * x, axis=0)))

    def first_variation(self, rho: Density | Atoms) -> Array:
        raise InvalidInput("the energy of a network is known by its gradient at the neurons alone")

    def gradient(self, rho: Density | Atoms, points: Array) -> Array:
        x = self._neurons(rho)
        if not np.array_equal(points, x[:, : points.shape[1]]):
            raise InvalidInput("the energy of a network has a gradient at its neurons alone")
        return self.field.gradient(x)[:, : points.shape[1]]

    @staticmethod
    def _neurons(rho: Density | Atoms) -> Array:
        if not isinstance(rho, Atoms):
            raise InvalidInput("the energy of a network is that of its neurons, given as Atoms")
        return rho.points


def _powers(model: NetworkModel) -> tuple[float, ...]:
    """Return the powers of the coordinates in the reference measure of a model, which must be a product of them."""
    if type(model).initial_atoms is ReducedModel.initial_atoms:
        powers = powers_of(model.grid(_CELLS[min(model.n_coordinates, 3)]))
    else:
        powers = model.initial_atoms(1.0, 2).powers
    grid = model.grid(8)
    weight = np.zeros(grid.shape) if grid.log_weight is None else grid.log_weight
    for axis, (edges, power) in enumerate(zip(grid.edges, powers or ())):
        if power:
            shape = [-1 if k == axis else 1 for k in range(grid.ndim)]
            weight = weight - log_power_cell_average(edges, power).reshape(shape)
    if powers is None or np.ptp(weight) > _WEIGHT_TOLERANCE * max(1.0, sum(powers)):
        raise InvalidInput(f"{model.name}: its reference measure is not a product of powers of the coordinates, so "
                           "that neurons with noise on them are not known; use space='full', or beta=inf")
    return powers


def _field(model: NetworkModel, space: str, ridge: float) -> _CoordinateField | _NetworkField:
    if space not in ("coordinates", "full"):
        raise InvalidInput(f"space={space!r}: need 'coordinates' or 'full'")
    return _CoordinateField(model, ridge) if space == "coordinates" else _NetworkField(model, ridge)


def _blocks(x: Array) -> list[Array]:
    return [x[:, i : i + _BLOCK] for i in range(0, x.shape[1], _BLOCK)]


def _root_mean_square(x: Array) -> float:
    return float(np.sqrt(np.sum(x * x) / x.size))
