"""SGD of a finite network in the full space: particles with which a mean-field solution is compared."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.calls.explained import explained
from wgflow.checks import check_count, check_memory, check_positive, real_array
from wgflow.compiled.sgd import UNROLL, sgd_batches, sgd_steps
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.progress import Reporter
from wgflow.reduced_models.base import NetworkModel

from .plain_sgd import plain_steps
from .sampling import SAMPLE_BLOCK, SampleStream, check_sample
from .trajectories import SGDResult, TrajectoryRecorder

__all__ = ["SGDResult", "run_sgd"]

logger = logging.getLogger(__name__)

#: Neurons whose features are formed at a time for the risk.
RISK_BLOCK = 1 << 14


@explained("run_sgd(model, n_neurons=800, step_size=1e-4, t_eval=[0.0, 0.5, 1.0], rng=7)")
def run_sgd(
    model: NetworkModel,
    n_neurons: int,
    step_size: float,
    t_eval: ArrayLike,
    rng: int | np.random.SeedSequence | np.random.Generator,
    n_runs: int = 1,
    beta: float = math.inf,
    ridge: float = 0.0,
    kappa: float = 0.8,
    theta0: ArrayLike | None = None,
    *,
    xi: float | Callable[[NDArray[np.float64]], ArrayLike] = 1.0,
    batch_size: int = 1,
    sample: tuple[ArrayLike, ArrayLike] | None = None,
    replacement: bool = True,
    noise_constant: float = 4.0,
    risk: str = "exact",
    store_theta: bool = True,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], object] = False,
) -> SGDResult:
    r"""Train a network of ``n_neurons`` neurons by SGD: one-pass by default, one fresh sample a step.

    .. math::
        \theta_i \leftarrow (1 - 2 \lambda s_k)\,\theta_i
        + \frac{2 s_k}{M} \sum_{m=1}^{M} (y_{km} - \hat y_{km}) \nabla_{\theta_i} \sigma_*(x_{km}; \theta_i)
        + \sqrt{c\, s_k / \beta}\; g_i^k,
        \qquad s_k = \epsilon\, \xi(k \epsilon), \quad t = k \epsilon ,

    with mini-batches of M = ``batch_size`` samples, M = 1 by default, and the noise constant c = 4. With ``sample``
    the data are drawn from a finite sample, pass after pass, and the limit is the flow of the empirical risk, which
    `wgflow.reduced_models.FiniteData` solves in up to four dimensions.

    With c = 4 and as :math:`N \to \infty, \epsilon \to 0` the law of the neurons follows
    :math:`\partial_t \rho = 2 \xi \nabla\cdot(\rho \nabla \delta F_{\beta,\lambda}/\delta\rho)`, which `wgflow.solve`
    solves with ``time_scale=model.time_scale`` for ``xi = 1``. A model of another loss than the square
    (`wgflow.reduced_models.FiniteData`) is trained by gradients of its loss, on the clock of time_scale 1,

    .. math::
        \theta_i \leftarrow (1 - \lambda s_k)\,\theta_i
        - \frac{s_k}{M} \sum_{m=1}^{M} l'(y_{km}, \hat y_{km}) \nabla_{\theta_i} \sigma_*(x_{km}; \theta_i)
        + \sqrt{c\, s_k / 2 \beta}\; g_i^k,

    whose limit is :math:`\partial_t \rho = \xi \nabla\cdot(\rho \nabla \delta F_{\beta,\lambda}/\delta\rho)`,
    with the same stationary laws.

    Parameters
    ----------
    model : NetworkModel
        Gives the activation, the data and the reduced coordinates.
    n_neurons : int
        Width ``N``.
    step_size : float
        The step :math:`\epsilon`. Fluctuations are of the order of :math:`\epsilon D`; keep it well below 1/D.
    t_eval : array_like, shape (T,)
        Increasing output times; the snapshot is taken after the nearest whole number of steps.
    rng : int, SeedSequence or Generator
        Source of randomness; each run spawns its own. ``None`` is refused, since the run could not be repeated.
    n_runs : int
        Number of independent runs.
    beta, ridge : float
        Inverse temperature and penalty :math:`\lambda`.
    kappa : float
        Scale of the initial weights, as in ``model.initial_density``; not used with ``theta0``.
    theta0 : array_like, shape (n_neurons, n_parameters) or (n_runs, n_neurons, n_parameters), optional
        Initial parameters.
    xi : float or callable
        Step-size schedule, positive; a callable takes an array of times.
    batch_size : int
        Samples M in the mini-batch of a step. The noise of sampling has 1/M of the variance.
    sample : (x, y), optional
        A finite sample, shapes (n, input_dimension) and (n,), to draw from; by default ``model.sample_data``, which
        for `FiniteData` draws from its own samples with replacement. ``risk`` remains the model's population risk.
    replacement : bool
        ``False`` uses every sample of the finite sample once a pass, in an order drawn anew for each pass; a
        mini-batch may hold the end of one pass and the beginning of the next. Without ``sample`` this takes the
        samples of a `FiniteData` model.
    noise_constant : float
        The constant c of the noise. The limit has :math:`\frac{c\,\xi}{2\beta} \Delta\rho` and the stationary law
        :math:`\exp(-4 \beta \Psi_\lambda / c)`: at c = 4 that of ``model.energy(beta, ridge)``, at c = 2 and c = 1,
        which are in use too, that of ``model.energy(4 * beta / c, ridge)``.
    risk : {"exact", "coordinates"}
        ``"exact"`` is ``model.population_risk``, a sum over all pairs of neurons. For networks too wide for that,
        ``"coordinates"`` is its mean over what the reduced coordinates leave open (the directions of the weights,
        independent and uniform),
        :math:`R(\rho_N) + \frac1{N^2} \sum_i [U(\theta_i, \theta_i) - \sum_k s_k F_k(\theta_i)^2]`.
    store_theta : bool
        Whether to keep all parameters at the output times.
    folder : path, optional
        A new folder to which each snapshot is written when it is taken, in place of keeping all of them in memory: the
        result reads them when they are asked for, and `load_trajectories` opens the folder later, also that of a run
        which was interrupted.
    progress : bool or callable
        ``True`` logs each finished run; a callable is called as ``progress(steps_done, steps_in_all)``.

    Returns
    -------
    SGDResult

    Raises
    ------
    InvalidInput
        If an argument is out of range; ``theta0`` that is not finite is named by index.
    ResourceError
        If the snapshots would not fit in memory, or on the disk, before anything is computed.
    StorageError
        If ``folder`` is not new, or cannot be written to; what was written before stays, and is the ``partial``.
    ConvergenceError
        If parameters overflow, which a smaller step cures; the complete runs, or the snapshots so far, are its
        ``partial``.

    Examples
    --------
    >>> from wgflow.reduced_models import IsotropicGaussian
    >>> model = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    >>> run_sgd(model, n_neurons=50, step_size=1e-4, t_eval=[0.0, 0.1], rng=7).risk.shape
    (1, 2)
    """
    if not isinstance(model, NetworkModel):
        raise InvalidType(f"model must be a wgflow.reduced_models.NetworkModel, got {type(model).__name__}")
    settings = _Settings(
        model=model,
        n_neurons=check_count("n_neurons", n_neurons),
        step_size=check_positive("step_size", step_size),
        beta=check_positive("beta", beta, infinite=True),
        ridge=check_positive("ridge", ridge, zero=True),
        xi=xi,
        noise_constant=check_positive("noise_constant", noise_constant),
        batch_size=check_count("batch_size", batch_size),
        sample=check_sample(model, sample, replacement),
        replacement=replacement,
    )
    n_runs, width = check_count("n_runs", n_runs), model.n_parameters
    risk_of, t = _risk_function(model, risk), output_times(t_eval, settings.step_size)
    counts = steps_at(t, settings.step_size)
    check_memory(32.0 * n_neurons * width, f"n_neurons={n_neurons}: the weights", "take fewer neurons")
    check_memory(16.0 * (batch_size + UNROLL) * (n_neurons + width), f"batch_size={batch_size}: a mini-batch",
                 "take a smaller batch_size or fewer neurons")
    seed = seed_sequence(rng)
    shapes = {"coordinates": (n_neurons, model.n_coordinates)} | ({"theta": (n_neurons, width)} if store_theta else {})
    report = StepProgress(progress, n_runs, int(counts[-1]))
    starts = None if theta0 is None else initial_theta(model, theta0, n_runs, n_neurons)
    if counts[-1] > 0:
        settings.steps(0, 1)
    recorder = TrajectoryRecorder(settings.about(seed), t, n_runs, shapes, folder, 32.0 * n_neurons * width)

    def one(run: int, child: np.random.SeedSequence) -> None:
        start, data, noise = (np.random.default_rng(s) for s in child.spawn(3))
        theta = model.initial_theta(n_neurons, kappa, start) if starts is None else starts[run].copy()
        for count, snapshot in zip(counts, _trajectory(settings, theta, counts, data, noise, report)):
            coordinates = model.project(snapshot)
            arrays = {"coordinates": coordinates, "theta": snapshot if store_theta else None}
            recorder.take(run, int(count), arrays, risk_of(snapshot, coordinates))

    with report.report:
        return cast(SGDResult, recorder.run_all(seed, one, report.finished))


def _risk_function(model: NetworkModel, risk: str) -> Callable[[NDArray, NDArray], float]:
    """Return the risk of a network as a function of its parameters and its coordinates."""
    def of_coordinates(theta: NDArray, coordinates: NDArray) -> float:
        z, own, n = np.zeros(model.target.size), 0.0, len(coordinates)
        for block in np.array_split(coordinates.T, max(1, n // RISK_BLOCK), axis=1):
            features = model.features(*block)
            z += np.sum(features, axis=1)
            if not model.quadratic:
                # The coordinates are all parameters, which leave nothing open.
                continue
            own += float(np.sum(model.diagonal(*block)) - np.sum(model.signs * np.sum(features * features, axis=1)))
        return model.risk_of_moments(z / n) + own / n**2

    if risk == "coordinates":
        if not model.quadratic and model.n_coordinates != model.n_parameters:
            raise InvalidInput(f"risk='coordinates': with {model.loss!r} the mean over what the coordinates of "
                               f"{model.name} leave open is not known; use risk='exact'")
        return of_coordinates
    if risk != "exact":
        raise InvalidInput(f"risk={risk!r}: need 'exact' or 'coordinates'")
    return lambda theta, coordinates: float(model.population_risk(theta))


@dataclass(frozen=True)
class _Settings:
    model: NetworkModel
    n_neurons: int
    step_size: float
    beta: float
    ridge: float
    xi: float | Callable
    noise_constant: float
    batch_size: int
    sample: tuple[NDArray, NDArray] | None
    replacement: bool

    def about(self, seed: np.random.SeedSequence) -> dict[str, Any]:
        """Return what is known of the result at the start."""
        return {"n_neurons": self.n_neurons, "step_size": self.step_size, "seed_entropy": seed.entropy,
                "seed_state": dict(seed.state), "model": self.model, "beta": self.beta, "ridge": self.ridge,
                "noise_constant": self.noise_constant, "batch_size": self.batch_size,
                "n_samples": None if self.sample is None else self.sample[1].size,
                "replacement": self.replacement, "xi": self.xi, "simulator": "SGD"}

    def steps(self, first: int, count: int) -> NDArray[np.float64]:
        """Return s_k for the steps k = first, ..., first + count - 1, checked."""
        values = schedule_values(self.xi, self.step_size * np.arange(first, first + count))
        if self.model.risk_per_energy * self.ridge * self.step_size * np.max(values) > 0.5:
            raise InvalidInput(f"step_size={self.step_size:g} is too large for ridge={self.ridge:g}: a step would take "
                               f"away more than half of each weight; need {self.model.risk_per_energy:g} * ridge * "
                               "step_size * xi <= 0.5")
        return self.step_size * values


def schedule_values(xi: float | Callable, t: NDArray) -> NDArray[np.float64]:
    """Return the step-size schedule at an array of times, checked."""
    if callable(xi):
        values = real_array(xi(t), "xi(t)")
        values = np.broadcast_to(values, t.shape) if values.ndim == 0 else values
        if values.shape != t.shape:
            raise InvalidInput(f"xi returned shape {values.shape} for {t.size} times; it must return one value each")
    else:
        values = np.full(t.shape, check_positive("xi", xi))
    bad = ~((values > 0.0) & np.isfinite(values))
    if bad.any():
        raise InvalidInput(f"xi must be positive and finite; it is {values[bad][0]}")
    return values


class StepProgress:
    """Counts steps over all runs and reports them."""

    def __init__(self, progress: bool | Callable, n_runs: int, steps_per_run: int, label: str = "SGD"):
        if not (isinstance(progress, bool) or callable(progress)):
            raise InvalidType(f"progress must be a bool or a callable of (done, total), got {progress!r}")
        self.progress, self.n_runs, self.total, self.done = progress, n_runs, n_runs * steps_per_run, 0
        self.report = Reporter(label, progress)
        self.label = label

    def advance(self, steps: int) -> None:
        self.done += steps
        self.report(self.done, self.total)

    def inside(self, run: int, share: float) -> None:
        """Tell which part of a run is done between two of the steps that are counted; functions are told the latter."""
        if self.progress is True and share < 1.0:
            self.report(run + share, self.n_runs)

    def finished(self, run: int) -> None:
        if self.progress is True:
            logger.info("%s run %d of %d finished", self.label, run + 1, self.n_runs)


def _trajectory(settings: _Settings, theta, counts, data, noise, report):
    """Yield ``theta`` after each of the given numbers of steps; it changes when the next one is asked for."""
    model = settings.model
    learn_ab = model.trains_readout
    w = np.ascontiguousarray(theta[:, 2:] if learn_ab else theta)
    a, b = (theta[:, 0].copy(), theta[:, 1].copy()) if learn_ab else (np.ones(len(theta)), np.zeros(len(theta)))
    activation, batch = model.activation.kernel_arguments(), settings.batch_size
    # The loops are written for the square (y - f)^2 and the noise with c = 4.
    clock, loss = 0.5 * model.risk_per_energy, model.loss.kernel_arguments()
    temperature, ridge = clock * 0.25 * settings.noise_constant / settings.beta, clock * settings.ridge
    stream = SampleStream(model, settings.sample, settings.replacement, data)
    block, done = max(1, SAMPLE_BLOCK // batch), 0
    for count in counts:
        while done < count:
            size = min(count - done, block - done % block)
            x, y = stream.take(size * batch)
            steps = settings.steps(done, size)
            if loss is None:
                plain_steps(w, a, b, x, y, steps, batch, learn_ab, ridge, temperature, model.activation, model.loss,
                            model.output_scale, noise)
            elif batch == 1:
                sgd_steps(w, a, b, x, y, steps, learn_ab, ridge, temperature, *activation, noise, *loss,
                          model.output_scale)
            else:
                sgd_batches(w, a, b, x, y, steps, batch, learn_ab, ridge, temperature, *activation, noise, *loss,
                            model.output_scale)
            done += size
            if not (np.isfinite(w).all() and np.isfinite(a).all() and np.isfinite(b).all()):
                t = done * settings.step_size
                raise ConvergenceError(f"SGD overflowed before t={t:.3g}; take a smaller step_size "
                                       f"than {settings.step_size:g}", reason="non-finite", t=t, dt=settings.step_size)
            report.advance(size)
        yield np.column_stack([a, b, w]) if learn_ab else w


def output_times(t_eval: ArrayLike, step_size: float) -> NDArray[np.float64]:
    """Return the output times, checked."""
    t = np.atleast_1d(real_array(t_eval, "t_eval"))
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all() or t[0] < 0.0 or np.any(np.diff(t) <= 0.0):
        raise InvalidInput("t_eval must be a 1-D array of finite times >= 0 that increase strictly")
    if t[-1] / step_size > 1e15:
        raise InvalidInput(f"t_eval[-1]={t[-1]:g} needs {t[-1] / step_size:.1e} steps of step_size={step_size:g}")
    return t


def steps_at(t: NDArray[np.float64], step_size: float) -> NDArray[np.int64]:
    """Return the numbers of steps after which there are output times, the nearest ones; no two may be the same."""
    counts = np.rint(t / step_size).astype(np.int64)
    same = np.flatnonzero(np.diff(counts) == 0)
    if same.size:
        raise InvalidInput(f"t_eval: {t[same[0]]:g} and {t[same[0] + 1]:g} are the same step, of step_size="
                           f"{step_size:g}; take shorter steps, or times that are farther apart")
    return counts


def initial_theta(model: NetworkModel, theta0: ArrayLike, n_runs: int, n_neurons: int) -> NDArray[np.float64]:
    array = model.check_theta(theta0)
    shape = (n_runs, n_neurons, model.n_parameters)
    if array.shape not in (shape, shape[1:]):
        raise InvalidInput(f"theta0 has shape {array.shape}; need {shape[1:]} or {shape}")
    return np.broadcast_to(array, shape)


def seed_sequence(rng: object) -> np.random.SeedSequence:
    """Return the seed sequence of ``rng``, refusing seeds that could not be written down and used again."""
    if rng is None:
        raise InvalidInput("rng=None could not be repeated; give an integer seed or a Generator")
    if isinstance(rng, np.random.Generator):
        seed = rng.bit_generator.seed_seq
        if not isinstance(seed, np.random.SeedSequence):
            raise InvalidInput("rng is a Generator without a SeedSequence; build it by np.random.default_rng(seed)")
        return seed
    if isinstance(rng, np.random.SeedSequence):
        return rng
    return np.random.SeedSequence(check_count("rng", rng, 0))
