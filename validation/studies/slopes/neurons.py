r"""The error against the number of neurons, and the experiment that shows its slope -1/2.

For a smooth functional of the law, to leading orders in 1/N and the step size :math:`\epsilon`,

.. math:: E\,|\Phi(\rho_N) - \Phi(\rho)|^2 = \frac{A}{N} + \epsilon B + \Bigl(\frac{c}{N} + b\,\epsilon\Bigr)^2 .

The scatter A of the starts and B of the samples is what `predict_scatter` gives. With :math:`\epsilon` proportional to
1/N the scatter has slope -1/2 exactly, and the bias slope -1; where the bias is the larger of the two, the error falls
faster than :math:`N^{-1/2}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_count, check_positive
from wgflow.errors import InvalidInput
from wgflow.solution import Solution

from ...comparison.statistics import Statistic
from .references import STATISTICS, Reference, gathered, mean_field, predicted_scatter
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

__all__ = ["counts_of", "error_against_neurons"]


def error_against_neurons(
    model: Any,
    neurons: Sequence[int] = (25, 100, 400, 1600, 6400),
    t_eval: ArrayLike = (0.1, 1.0),
    n_runs: int | Sequence[int] = 64,
    *,
    dynamics: str = "gradient flow",
    neurons_times_step: float | None = None,
    step_size: float | None = None,
    kappa: float = 0.8,
    beta: float = math.inf,
    ridge: float = 0.0,
    noise_constant: float = 4.0,
    sol: Solution | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
    rng: Any = 7,
    folder: str | Path | None = None,
    executor: Any = None,
    progress: bool = False,
) -> ErrorStudy:
    r"""Measure how the error between N particles and the mean field falls with N.

    Parameters
    ----------
    model : ReducedModel
        SGD needs a `NetworkModel`.
    neurons : sequence of int
        Widths N, increasing.
    t_eval : array_like
        Times, increasing.
    n_runs : int or sequence of int
        Independent runs at each width, at least 2.
    dynamics : {"gradient flow", "sgd"}
        N neurons in the exact population risk, or SGD on one fresh sample a step.
    neurons_times_step : float, optional
        Of SGD: the step size is this number over N, as in the theorem, whose error :math:`\sqrt{1/N \vee D \epsilon}`
        then has one term.
    step_size : float, optional
        Of SGD: the same step size at all widths, in place of ``neurons_times_step``.
    kappa, beta, ridge, noise_constant
        As in `run_sgd`.
    sol : Solution, optional
        The mean-field law at the times; by default characteristics (`mean_field`). Needed with noise.
    statistics : sequence of Statistic
        What is measured on each coordinate; W1, Kolmogorov and bounded Lipschitz distance and the mean by default.
    rng, folder, executor, progress
        As in `sweep`, but that the default executor is one of threads; finished runs are kept in ``folder``.

    Returns
    -------
    ErrorStudy
        With the quantities ``"W1 of r"`` and so on, ``"risk"`` (of the network under SGD) and, where it is not the
        same, ``"risk of the law"``, in which directions are averaged.

    Raises
    ------
    InvalidInput
        If an argument is out of range.

    Examples
    --------
    >>> from wgflow.reduced_models import LinearNeuron
    >>> model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
    >>> study = error_against_neurons(model, (25, 100, 400), [0.2], n_runs=100)
    >>> study.slope("mean of theta").within(-0.5, 0.06)
    True
    """
    widths, runs, times = *counts_of(neurons, n_runs), rising("t_eval", t_eval)
    steps = np.zeros(widths.size)
    if dynamics == "sgd":
        if (neurons_times_step is None) == (step_size is None):
            raise InvalidInput("SGD needs either neurons_times_step or step_size")
        steps = (np.full(widths.size, check_positive("step_size", step_size)) if neurons_times_step is None
                 else check_positive("neurons_times_step", neurons_times_step) / widths)
    elif neurons_times_step is not None or step_size is not None:
        raise InvalidInput("the gradient flow has no step size; take dynamics='sgd'")
    simulation = Simulation(model, times, dynamics, kappa, beta, ridge, noise_constant)
    reference = Reference(mean_field(simulation) if sol is None else sol, model, times, statistics)
    batches = simulate(simulation, list(zip(widths.tolist(), steps.tolist(), runs)),
                       Settings(rng, folder, executor, progress))
    return gathered([reference.observe(batch) for batch in batches], parameter="n_neurons", values=widths.astype(float),
                    t=np.array(times), n_neurons=widths, step_sizes=steps, signed=reference.signed,
                    predicted=predicted_scatter(simulation, list(zip(widths.tolist(), steps.tolist()))),
                    resolution=reference.resolution)


def counts_of(neurons: Sequence[int], n_runs: int | Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Return widths that increase, and the number of runs at each."""
    widths = np.array([check_count("neurons", n, 2) for n in neurons])
    if widths.size < 2 or np.any(np.diff(widths) <= 0):
        raise InvalidInput(f"neurons={list(neurons)}: need two or more widths that increase")
    runs = [n_runs] * widths.size if isinstance(n_runs, (int, np.integer)) else list(n_runs)
    if len(runs) != widths.size:
        raise InvalidInput(f"n_runs has {len(runs)} numbers for {widths.size} widths")
    return widths, [check_count("n_runs", each, 2) for each in runs]
