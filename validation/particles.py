"""SGD of a finite network in the full space: particles with which a mean-field solution is compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_count, check_memory, check_positive, real_array
from wgflow.compiled.sgd import UNROLL, sgd_batches, sgd_steps
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models.base import NetworkModel

from .sampling import SAMPLE_BLOCK, SampleStream, check_sample

__all__ = ["SGDResult", "run_sgd"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SGDResult:
    """Trajectories of neurons, under SGD or the gradient flow, at the output times, with a leading axis for runs.

    Attributes
    ----------
    t : ndarray, shape (T,)
        Output times, as asked for.
    steps : ndarray of int, shape (T,)
        Number of steps made at each; ``steps * step_size`` is within half a step of ``t``.
    theta : ndarray, shape (runs, T, n_neurons, n_parameters), or None if not stored
        Parameters of every neuron.
    coordinates : ndarray, shape (runs, T, n_neurons, n_coordinates)
        Their reduced coordinates.
    risk : ndarray, shape (runs, T)
        Exact population risk of the network, not an estimate from samples.
    n_neurons, step_size, beta, ridge, noise_constant, batch_size, replacement, xi
        As given.
    n_samples : int or None
        Size of the finite sample that was drawn from; None for fresh samples of the model.
    seed_entropy : int or sequence of int
        Entropy of the seed; ``np.random.SeedSequence(**seed_state)`` repeats the runs.
    seed_state : dict
        State of the seed sequence before the runs were spawned from it.
    model : NetworkModel
    """

    t: NDArray[np.float64]
    steps: NDArray[np.int64]
    theta: NDArray[np.float64] | None = field(repr=False)
    coordinates: NDArray[np.float64] = field(repr=False)
    risk: NDArray[np.float64] = field(repr=False)
    n_neurons: int
    step_size: float
    seed_entropy: object
    seed_state: dict = field(repr=False)
    model: NetworkModel
    beta: float
    ridge: float
    noise_constant: float = 4.0
    batch_size: int = 1
    n_samples: int | None = None
    replacement: bool = True
    xi: float | Callable[[NDArray[np.float64]], ArrayLike] = field(default=1.0, repr=False)

    @property
    def n_runs(self) -> int:
        """Number of independent runs."""
        return self.risk.shape[0]

    @property
    def epochs(self) -> NDArray[np.float64] | None:
        """Passes over the finite sample that were made at each time, shape (T,); None for fresh samples."""
        return None if self.n_samples is None else np.asarray(self.steps * (self.batch_size / self.n_samples), float)


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
    store_theta: bool = True,
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
    solves with ``time_scale=model.time_scale`` for ``xi = 1``.

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
    store_theta : bool
        Whether to keep all parameters at the output times.
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
        If the snapshots would not fit in memory, before anything is computed.
    ConvergenceError
        If parameters overflow, which a smaller step cures; the snapshots so far are its ``partial``.

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
    t = output_times(t_eval, settings.step_size)
    counts = np.rint(t / settings.step_size).astype(np.int64)
    numbers = n_runs * counts.size * n_neurons * (model.n_coordinates + (width if store_theta else 0))
    check_memory(8.0 * (numbers + 4 * n_neurons * width), f"n_neurons={n_neurons}: the snapshots",
                 "take fewer neurons, runs or output times, or store_theta=False")
    check_memory(16.0 * (batch_size + UNROLL) * (n_neurons + width), f"batch_size={batch_size}: a mini-batch",
                 "take a smaller batch_size or fewer neurons")
    starts = None if theta0 is None else initial_theta(model, theta0, n_runs, n_neurons)
    return _independent_runs(settings, kappa, starts, n_runs, t, counts, seed_sequence(rng), store_theta,
                             StepProgress(progress, n_runs, int(counts[-1])))


def _independent_runs(settings: _Settings, kappa: float, starts: NDArray | None, n_runs: int, t: NDArray,
                      counts: NDArray, seed: np.random.SeedSequence, store_theta: bool,
                      report: StepProgress) -> SGDResult:
    """Return all runs; each has random numbers of its own for start, data and noise."""
    model, state = settings.model, dict(seed.state)
    runs: list[tuple] = []
    for run, child in enumerate(seed.spawn(n_runs)):
        start, data, noise = (np.random.default_rng(s) for s in child.spawn(3))
        theta = model.initial_theta(settings.n_neurons, kappa, start) if starts is None else starts[run].copy()
        snapshots: list[NDArray] = []
        try:
            for snapshot in _trajectory(settings, theta, counts, data, noise, report):
                snapshots.append(snapshot)
        except ConvergenceError as error:
            if snapshots:
                error.partial = _result(settings, t, counts, [_observe(model, snapshots, store_theta)], seed, state)
            raise
        runs.append(_observe(model, snapshots, store_theta))
        report.finished(run)
    return _result(settings, t, counts, runs, seed, state)


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

    def steps(self, first: int, count: int) -> NDArray[np.float64]:
        """Return s_k for the steps k = first, ..., first + count - 1, checked."""
        if callable(self.xi):
            values = real_array(self.xi(self.step_size * np.arange(first, first + count)), "xi(t)")
            values = np.broadcast_to(values, (count,)) if values.ndim == 0 else values
            if values.shape != (count,):
                raise InvalidInput(f"xi returned shape {values.shape} for {count} times; it must return one value each")
        else:
            values = np.full(count, check_positive("xi", self.xi))
        bad = ~((values > 0.0) & np.isfinite(values))
        if bad.any():
            raise InvalidInput(f"xi must be positive and finite; it is {values[bad][0]}")
        if 2.0 * self.ridge * self.step_size * np.max(values) > 0.5:
            raise InvalidInput(f"step_size={self.step_size:g} is too large for ridge={self.ridge:g}: a step would take "
                               f"away more than half of each weight; need 2 * ridge * step_size * xi <= 0.5")
        return self.step_size * values


class StepProgress:
    """Counts steps over all runs and reports them."""

    def __init__(self, progress: bool | Callable, n_runs: int, steps_per_run: int, label: str = "SGD"):
        if not (isinstance(progress, bool) or callable(progress)):
            raise InvalidType(f"progress must be a bool or a callable of (done, total), got {progress!r}")
        self.progress, self.n_runs, self.total, self.done = progress, n_runs, n_runs * steps_per_run, 0
        self.label = label

    def advance(self, steps: int) -> None:
        self.done += steps
        if callable(self.progress):
            self.progress(self.done, self.total)

    def finished(self, run: int) -> None:
        if self.progress is True:
            logger.info("%s run %d of %d finished", self.label, run + 1, self.n_runs)


def _trajectory(settings: _Settings, theta, counts, data, noise, report):
    """Yield a copy of ``theta`` after each of the given numbers of steps."""
    model = settings.model
    learn_ab = model.trains_readout
    w = np.ascontiguousarray(theta[:, 2:] if learn_ab else theta)
    a, b = (theta[:, 0].copy(), theta[:, 1].copy()) if learn_ab else (np.ones(len(theta)), np.zeros(len(theta)))
    activation, batch = model.activation.kernel_arguments(), settings.batch_size
    temperature = 0.25 * settings.noise_constant / settings.beta  # the compiled loops write the noise with c = 4
    stream = SampleStream(model, settings.sample, settings.replacement, data)
    block, done = max(1, SAMPLE_BLOCK // batch), 0
    for count in counts:
        while done < count:
            size = min(count - done, block - done % block)
            x, y = stream.take(size * batch)
            steps = settings.steps(done, size)
            if batch == 1:
                sgd_steps(w, a, b, x, y, steps, learn_ab, settings.ridge, temperature, *activation, noise)
            else:
                sgd_batches(w, a, b, x, y, steps, batch, learn_ab, settings.ridge, temperature, *activation, noise)
            done += size
            if not (np.isfinite(w).all() and np.isfinite(a).all() and np.isfinite(b).all()):
                t = done * settings.step_size
                raise ConvergenceError(f"SGD overflowed before t={t:.3g}; take a smaller step_size "
                                       f"than {settings.step_size:g}", reason="non-finite", t=t, dt=settings.step_size)
            report.advance(size)
        yield np.column_stack([a, b, w]) if learn_ab else w.copy()


def _observe(model: NetworkModel, snapshots: list[NDArray], store_theta: bool) -> tuple:
    theta = np.stack(snapshots)
    return theta if store_theta else None, model.project(theta), model.population_risk(theta)


def _result(settings: _Settings, t, counts, runs: list[tuple], seed, state: dict) -> SGDResult:
    theta, coordinates, risk = zip(*runs)
    return SGDResult(
        t=t[: risk[0].size],
        steps=counts[: risk[0].size],
        theta=None if theta[0] is None else np.stack(theta),
        coordinates=np.stack(coordinates),
        risk=np.stack(risk),
        n_neurons=settings.n_neurons,
        step_size=settings.step_size,
        seed_entropy=seed.entropy,
        seed_state=state,
        model=settings.model,
        beta=settings.beta,
        ridge=settings.ridge,
        noise_constant=settings.noise_constant,
        batch_size=settings.batch_size,
        n_samples=None if settings.sample is None else settings.sample[1].size,
        replacement=settings.replacement,
        xi=settings.xi,
    )


def output_times(t_eval: ArrayLike, step_size: float) -> NDArray[np.float64]:
    """Return the output times, checked."""
    t = np.atleast_1d(real_array(t_eval, "t_eval"))
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all() or t[0] < 0.0 or np.any(np.diff(t) <= 0.0):
        raise InvalidInput("t_eval must be a 1-D array of finite times >= 0 that increase strictly")
    if t[-1] / step_size > 1e15:
        raise InvalidInput(f"t_eval[-1]={t[-1]:g} needs {t[-1] / step_size:.1e} steps of step_size={step_size:g}")
    return t


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
