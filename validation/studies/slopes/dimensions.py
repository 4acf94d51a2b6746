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
from wgflow.reduced_models import IsotropicGaussian

from ...comparison.statistics import Statistic
from ...particles import seed_sequence
from ..base import Check, Study, StudyReport
from ..pictures import save_picture
from .drawing import draw_errors
from .fits import fit_slope
from .judging import no_growth, report_of, runs_folder
from .neurons import counts_of
from .references import STATISTICS, Reference, gathered, mean_field, predicted_scatter
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

__all__ = ["STUDY", "error_against_dimension"]

#: Seed and width of the experiment, and d times its step size.
_SEED, _WIDTH, _SCALE = 3571, 50, 0.008
#: Probability that a right theory fails any of its checks, and half the width that an interval of a slope may have.
_LEVEL, _PRECISION = 0.01, 0.25


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


class ErrorAgainstDimension(Study):
    name = "error-against-dimension"
    title = "the error does not grow with the dimension at steps of the order 1/d: two isotropic Gaussians"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        times, (dimensions, count) = (0.1,), ((10, 20, 40), 100) if quick else ((10, 20, 40, 80, 160), 400)
        study = error_against_dimension(_family, dimensions, times, count, n_neurons=_WIDTH, rng=_SEED, progress=True,
                                        dimension_times_step=_SCALE, folder=runs_folder(folder, fresh))
        conventions = ("x ~ N(0, tau^2 I_d), tau_+^2 = 1.8, tau_-^2 = 0.2 (s0 = d); w ~ N(0, 0.8^2 I/d); "
                       f"N = {_WIDTH}; {count} runs of SGD with step {_SCALE:g}/d at each d; points have two "
                       "standard errors; error of a difference: root mean square; scatter: about the mean of the runs, "
                       "dashed: predicted.")
        quantities = ("W1 of r", "mean of r", "risk of the law")
        level = 1.0 - _LEVEL / (len(quantities) + 1)
        checks = [no_growth("step c/d", study, quantity, times[0], _PRECISION, level) for quantity in quantities]
        checks.append(_like_prediction(study, "mean of r", times[0], level))
        figure = draw_errors([(study, "W1 of r", "error"), (study, "mean of r", "scatter"),
                              (study, "risk of the law", "error")])
        picture = save_picture(figure, folder / "error-against-dimension.png", conventions)
        return report_of(self.name, self.title, conventions, checks, {"scaled": study}, (picture,))


def _family(d: int) -> IsotropicGaussian:
    return IsotropicGaussian(d=d, tau_plus2=1.8, tau_minus2=0.2)


def _like_prediction(study: ErrorStudy, quantity: str, t: float, level: float) -> Check:
    """Judge whether the scatter over its prediction neither grows nor falls with the dimension."""
    curve = study.curve(quantity, "scatter", t)
    predicted = study.predicted[quantity][:, int(np.abs(study.t - t).argmin())]
    fit = fit_slope(curve.x, curve.y / predicted, curve.replicates / predicted, level=level)
    return Check(f"t = {t:g}: the scatter of {quantity} over its prediction has slope {fit} in d, predicted 0, known "
                 f"to {_PRECISION:g} or better", fit.contains(0.0) and fit.high - fit.low <= 2.0 * _PRECISION)


STUDY = ErrorAgainstDimension()
