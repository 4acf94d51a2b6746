"""Noisy gradient descent with weight decay: the network of which the KL-regularized flow is the limit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_count, check_positive, real_array
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models import KLRegularizedNetwork

from .particles import StepProgress, output_times, seed_sequence, steps_at
from .trajectories import Trajectories, TrajectoryRecorder

__all__ = ["run_noisy_gradient_descent"]

Array = NDArray[np.float64]
#: Neurons whose outputs are formed at a time.
_BLOCK = 1 << 14
#: Arrays of the neurons' size that a run holds.
_WORK_ARRAYS = 6
#: Steps between two calls of a progress function.
_REPORTED = 50


def run_noisy_gradient_descent(
    model: KLRegularizedNetwork,
    n_neurons: int,
    step_size: float,
    t_eval: ArrayLike,
    rng: int | np.random.SeedSequence | np.random.Generator,
    n_runs: int = 1,
    *,
    paired: bool = True,
    theta0: ArrayLike | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], object] = False,
) -> Trajectories:
    r"""Train N neurons on the whole data set by gradient descent with weight decay and noise.

    With :math:`\theta_i = (u_i, w_i)`, :math:`f_k = \frac{\alpha}{N} \sum_i u_i\,h(\langle w_i, x_k \rangle)` and
    independent normal :math:`\xi`, a step is

    .. math::
        \theta_i \leftarrow \theta_i - \eta \Bigl[ \frac{2 \alpha}{n} \sum_k (f_k - y_k)\,\nabla (u_i h_{ik})
        + \lambda\,(u_i/\sigma_u^2,\, w_i/\sigma_w^2) \Bigr] + \sqrt{2 \eta \lambda}\;\xi_i ,

    :math:`\eta N` times the gradient of the regularized mean square, with noise. As N grows and :math:`\eta` falls the
    empirical law at step k tends to the flow of ``model.energy()`` at :math:`t = k \eta`.

    Parameters
    ----------
    model : KLRegularizedNetwork
        Inputs in any dimension.
    n_neurons : int
    step_size : float
        :math:`\eta`; descent is stable while it is below :math:`n / (\alpha^2 \max H)`, H being the tangent kernel.
    t_eval : array_like, shape (T,)
        Increasing output times, met to within half a step.
    rng : int, SeedSequence or Generator
        Each run spawns its own random numbers.
    n_runs : int
    paired : bool
        Whether the neurons start in pairs (u, w), (-u, w), so that the output starts at 0 exactly.
    theta0 : array_like, shape (n_neurons, n_coordinates), optional
        Another start than a draw of the prior.
    folder : path, optional
        A new folder to which the snapshots are written one by one, as in `run_sgd`.
    progress : bool or callable
        As in `run_sgd`.

    Returns
    -------
    Trajectories
        ``coordinates`` are the neurons (u, w), ``risk`` the mean square L of every run.

    Raises
    ------
    InvalidInput
        If an argument is out of range.
    ResourceError
        If the neurons or their snapshots would not fit in memory, or on the disk, before anything is computed.
    ConvergenceError
        If the descent overflows (the step is too large); the complete runs, or the snapshots so far, are its
        ``partial``.

    Examples
    --------
    >>> from wgflow.reduced_models import KLRegularizedNetwork
    >>> model = KLRegularizedNetwork([[1.0], [-0.5]], [0.5, 0.3], alpha=8.0, regularization=0.1)
    >>> run = run_noisy_gradient_descent(model, 2000, 1e-4, [0.0, 0.05], rng=7)
    >>> print(run.risk[0, 0].round(3), run.coordinates.shape)
    0.17 (1, 2, 2000, 2)
    """
    if not isinstance(model, KLRegularizedNetwork):
        raise InvalidType(f"model must be a wgflow.reduced_models.KLRegularizedNetwork, got {type(model).__name__}")
    n_neurons, n_runs = check_count("n_neurons", n_neurons), check_count("n_runs", n_runs)
    step_size = check_positive("step_size", step_size)
    t, seed = output_times(t_eval, step_size), seed_sequence(rng)
    counts = steps_at(t, step_size)
    if np.any(np.diff(counts) <= 0):
        raise InvalidInput(f"t_eval has times less than a step of {step_size:g} apart")
    width = model.n_coordinates
    if theta0 is not None:
        start = np.asarray(real_array(theta0, "theta0"))
        if start.shape != (n_neurons, width) or not np.isfinite(start).all():
            raise InvalidInput(f"theta0 has shape {start.shape}; need finite numbers, ({n_neurons}, {width})")
    report = StepProgress(progress, n_runs, int(counts[-1]), "noisy gradient descent")
    recorder = TrajectoryRecorder(
        {"n_neurons": n_neurons, "step_size": step_size, "seed_entropy": seed.entropy, "seed_state": dict(seed.state),
         "model": None, "beta": 1.0 / model.regularization, "ridge": 0.0, "noise_constant": 4.0,
         "batch_size": model.n_samples, "n_samples": model.n_samples, "replacement": False, "xi": 1.0,
         "simulator": "noisy gradient descent"},
        t, n_runs, {"coordinates": (n_neurons, width)}, folder,
        8.0 * n_neurons * (_WORK_ARRAYS * width + 2 * model.n_samples))

    def one(run: int, child: np.random.SeedSequence) -> None:
        first, noise = (np.random.default_rng(s) for s in child.spawn(2))
        theta = (model.draw(n_neurons, first, paired=paired) if theta0 is None else start).T.copy()
        done = 0
        for count in counts:
            while done < count:
                steps = min(_REPORTED, int(count) - done)
                with np.errstate(over="ignore", invalid="ignore"):  # told below
                    for _ in range(steps):
                        _step(model, theta, step_size, noise)
                done += steps
                if not np.isfinite(theta).all():
                    raise ConvergenceError(f"noisy gradient descent overflowed before t={done * step_size:.3g}; take "
                                           f"a smaller step_size than {step_size:g}", reason="non-finite",
                                           t=done * step_size, dt=step_size)
                report.advance(steps)
            recorder.take(run, done, {"coordinates": theta.T}, float(np.mean((_output(model, theta) - model.y) ** 2)))

    with report.report:
        return recorder.run_all(seed, one, report.finished)


def _output(model: KLRegularizedNetwork, theta: Array) -> Array:
    """Return f at the samples, for neurons (D, N), by blocks whose sum has a fixed order."""
    total = np.zeros(model.n_samples)
    for i in range(0, theta.shape[1], _BLOCK):
        block = theta[:, i : i + _BLOCK]
        total += np.sum(block[0] * model.activation.value(model.x @ block[1:]), axis=1)
    return model.alpha * total / theta.shape[1]


def _step(model: KLRegularizedNetwork, theta: Array, step_size: float, noise: np.random.Generator) -> None:
    """Move neurons (D, N) by one step, in place."""
    force = -2.0 * model.alpha * step_size / model.n_samples * (_output(model, theta) - model.y)
    decay = step_size * model.regularization
    amplitude = math.sqrt(2.0 * decay)
    for i in range(0, theta.shape[1], _BLOCK):
        block = theta[:, i : i + _BLOCK]
        z = model.x @ block[1:]
        by_u = force @ model.activation.value(z)
        by_w = model.x.T @ (force[:, None] * model.activation.derivative(z)) * block[0]
        block[0] += by_u - decay / model.readout_scale**2 * block[0]
        block[1:] += by_w - decay / model.weight_scale**2 * block[1:]
        block += amplitude * noise.standard_normal(block.shape)
