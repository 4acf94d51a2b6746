r"""The error against the dimension, at a fixed shape of the model.

The theorem bounds the error by :math:`\mathrm{Func}(T) \sqrt{1/N \vee D \epsilon}`: with :math:`\epsilon = c/D` it does
not grow with the dimension. Of functionals of the lengths of weights the scatter even falls, as lengths concentrate;
the bias :math:`b\,\epsilon` has b proportional to D, and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_positive
from wgflow.errors import InvalidInput

from ...comparison.statistics import Statistic
from ...particles import seed_sequence
from .neurons import counts_of
from .references import STATISTICS, Reference, gathered, mean_field, predicted_scatter
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

__all__ = ["error_against_dimension"]


def error_against_dimension(
    family: Callable[[int], Any],
    dimensions: Sequence[int],
    t_eval: ArrayLike,
    n_runs: int | Sequence[int] = 64,
    *,
    n_neurons: int = 200,
    dimension_times_step: float | None = None,
    step_size: float | None = None,
    kappa: float = 0.8,
    ridge: float = 0.0,
    statistics: Sequence[Statistic] = STATISTICS,
    rng: Any = 7,
    folder: str | Path | None = None,
    executor: Any = None,
    progress: bool = False,
) -> ErrorStudy:
    r"""Measure the error of SGD against the dimension of the inputs.

    Parameters
    ----------
    family : callable
        The model of a dimension d: ``lambda d: AnisotropicGaussian(d, s0=d // 2, delta=0.4)``.
    dimensions : sequence of int
        Increasing.
    t_eval : array_like
        Times, increasing.
    n_runs : int or sequence of int
        Runs in each dimension.
    n_neurons : int
        N, the same in all.
    dimension_times_step : float
        The step size is this number over d, as the theorem asks.
    step_size : float
        The same step size in all, in place of that.
    kappa, ridge, statistics, rng, folder, executor, progress
        As in `error_against_neurons`.

    Returns
    -------
    ErrorStudy

    Raises
    ------
    InvalidInput
        If an argument is out of range, or the models have different coordinates.
    """
    values, runs = counts_of(dimensions, n_runs)
    times = rising("t_eval", t_eval)
    if (dimension_times_step is None) == (step_size is None):
        raise InvalidInput("give either dimension_times_step or step_size")
    steps = (np.full(values.size, check_positive("step_size", step_size)) if dimension_times_step is None
             else check_positive("dimension_times_step", dimension_times_step) / values)
    models = [family(int(d)) for d in values]
    if len({tuple(model.coordinate_names) for model in models}) > 1:
        raise InvalidInput("family returns models of different coordinates, whose errors cannot be compared")
    observed, predicted, sols = [], [], []
    resolution: dict[str, np.ndarray] = {}
    signed: tuple[str, ...] = ()
    for model, step, count, spawned in zip(models, steps.tolist(), runs, _seeds(rng, values.size)):
        simulation = Simulation(model, times, "sgd", kappa, math.inf, ridge)
        reference = Reference(mean_field(simulation), model, times, statistics)
        batch = simulate(simulation, [(n_neurons, step, count)], Settings(spawned, folder, executor, progress))[0]
        observed.append(reference.observe(batch))
        predicted.append(predicted_scatter(simulation, [(n_neurons, step)]))
        sols.append(reference.sol)
        signed = reference.signed
        resolution = {name: np.maximum(own, resolution.get(name, 0.0)) for name, own in reference.resolution.items()}
    known = set.intersection(*(set(each) for each in predicted))
    return gathered(observed, parameter="dimension", values=values.astype(float), t=np.array(times),
                    n_neurons=np.full(values.size, n_neurons), step_sizes=steps, signed=signed, resolution=resolution,
                    solutions=tuple(sols),
                    predicted={name: np.concatenate([each[name] for each in predicted]) for name in sorted(known)})


def _seeds(rng: Any, count: int) -> list[np.random.SeedSequence]:
    seed = seed_sequence(rng)
    # Not by spawn, which would count on in the user's own sequence.
    return [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, k)) for k in range(count)]
