r"""The error uniformly over [0, T], against N and against T.

The theorem bounds :math:`\sup_{t \le T}` of the error by :math:`K e^{KT}` times :math:`\sqrt{1/N \vee D \epsilon}`.
Here the supremum is taken of every run, over a grid of times, before it is averaged over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_count
from wgflow.errors import InvalidInput
from wgflow.reduced_models import IsotropicGaussian

from ..base import Check, Study, StudyReport
from ..pictures import save_picture
from .drawing import draw_errors
from .fits import SlopeFit, fit_slope
from .judging import at_least_as_fast, report_of, runs_folder, slope_check, slope_is
from .neurons import error_against_neurons
from .results import ErrorStudy
from .simulations import rising

__all__ = ["STUDY", "error_against_time", "growth_rate"]

#: Bootstrap draws behind the interval of a growth rate, and their seed.
_DRAWS, _DRAWS_SEED = 1000, 30011
#: Seed of the experiment; SGD's step size times N.
_SEED, _SCALE = 4441, 0.01
#: With few runs the interval of a slope has to hold -1/2: the probability that any does not; half of its largest width.
_LEVEL, _PRECISION = 0.01, 0.15
#: By how much the supremum over the longest interval may exceed that over the shortest: the theorem allows e^{KT}.
_GROWN = 1.25


def error_against_time(
    model: Any,
    horizons: ArrayLike,
    neurons: Sequence[int] = (50, 200, 800),
    n_runs: int | Sequence[int] = 64,
    *,
    times_each: int = 8,
    **options: Any,
) -> tuple[ErrorStudy, ErrorStudy]:
    r"""Measure the largest error over [0, T] for several T.

    Parameters
    ----------
    model : ReducedModel
    horizons : array_like
        The ends T, increasing and positive.
    neurons, n_runs
        As in `error_against_neurons`.
    times_each : int
        Times between one horizon and the next, which is the last of them; the first interval begins at 0, with 0.
    options
        As in `error_against_neurons`.

    Returns
    -------
    suprema : ErrorStudy
        Its times are the horizons, its quantities the suprema of those of the other.
    errors : ErrorStudy
        At all times of the grid.

    Raises
    ------
    InvalidInput
        If an argument is out of range.

    Examples
    --------
    >>> from wgflow.reduced_models import LinearNeuron
    >>> model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
    >>> suprema, errors = error_against_time(model, [0.5, 1.0], (20, 80), n_runs=6, times_each=2)
    >>> bool(growth_rate(suprema, "mean of theta", 80).slope >= 0.0)
    True
    """
    ends = rising("horizons", horizons)
    if ends[0] == 0.0:
        raise InvalidInput("horizons must be positive: the interval [0, 0] holds the start alone")
    count = check_count("times_each", times_each)
    grid = np.concatenate([[0.0], *(np.linspace(low, high, count + 1)[1:] for low, high in zip((0.0, *ends), ends))])
    errors = error_against_neurons(model, neurons, grid, n_runs, **options)
    at = count * np.arange(1, len(ends) + 1)
    suprema = {name: tuple(np.maximum.accumulate(np.abs(each), axis=1)[:, at] for each in runs)
               for name, runs in errors.errors.items()}
    resolution = {name: np.maximum.accumulate(own)[at] for name, own in errors.resolution.items()}
    return replace(errors, t=np.array(ends), errors=suprema, signed=(), scatters={}, predicted={},
                   resolution=resolution), errors


def growth_rate(study: ErrorStudy, quantity: str, value: float, *, low: float = 0.0, level: float = 0.95) -> SlopeFit:
    r"""Return the rate K of the growth :math:`e^{KT}` of an error at one value of the parameter, with its interval.

    Parameters
    ----------
    study : ErrorStudy
        Two or more times.
    quantity : str
    value : float
        Of the parameter: N.
    low : float
        Times before this one are left out.
    level : float
    """
    p = int(np.abs(study.values - value).argmin())
    kept = study.t >= low
    x, rng = np.abs(study.errors[quantity][p][:, kept]), np.random.default_rng(_DRAWS_SEED)
    # All times of a run are drawn together, since they depend on one another.
    drawn = x[rng.integers(len(x), size=(_DRAWS, len(x)))].mean(axis=1)
    return fit_slope(study.t[kept], x.mean(axis=0), drawn, level=level, log_x=False)


class ErrorAgainstTime(Study):
    name = "error-against-time"
    title = "the error uniformly over [0, T]: two isotropic Gaussians, d = 40"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model, runs = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), runs_folder(folder, fresh)
        ends = (0.3, 1.0) if quick else (0.3, 1.0, 3.0)
        counts, times_each = ((120, 80, 50), 3) if quick else ((1000, 600, 300), 4)
        flow, _ = error_against_time(model, ends, (50, 200, 800), counts, times_each=times_each, rng=_SEED,
                                     folder=runs, progress=True)
        sgd_ends, sgd_counts = ((0.1, 0.3), (100, 40)) if quick else ((0.3, 1.0), (400, 150))
        sgd, _ = error_against_time(model, sgd_ends, (50, 200), sgd_counts, times_each=times_each,
                                    dynamics="sgd", neurons_times_step=_SCALE, rng=_SEED, folder=runs, progress=True)
        conventions = ("x ~ N(0, tau^2 I_40), tau_+^2 = 1.8, tau_-^2 = 0.2; w ~ N(0, 0.8^2 I/d); gradient flow of N "
                       "neurons in the exact risk, directions averaged; SGD: step 0.01/N; the supremum over a grid "
                       "of times in [0, T] is taken of each run, then averaged over runs; points have two standard "
                       "errors.")
        quantities = ("W1 of r", "mean of r", "risk")
        label, level = "gradient flow, sup over [0, T]", 1.0 - _LEVEL / (len(quantities) * len(ends))
        checks = [slope_is(label, flow, quantity, "error", end, -0.5, _PRECISION, level) if quick else
                  slope_check(label, flow, quantity, "error", end, -0.5) for quantity in quantities for end in ends]
        checks += [at_least_as_fast("SGD, sup over [0, T]", sgd, quantity, end)
                   for quantity in quantities for end in sgd_ends]
        checks += [_uniform("gradient flow", flow, quantity, 800) for quantity in quantities]
        checks += [_uniform("SGD", sgd, quantity, 200) for quantity in quantities]
        figure = draw_errors([(flow, "W1 of r", "error"), (flow, "risk", "error"), (sgd, "W1 of r", "error")],
                             titles=["gradient flow: sup of W1 of r", "gradient flow: sup of the risk's error",
                                     "SGD: sup of W1 of r"], word="T")
        picture = save_picture(figure, folder / "error-against-time.png", conventions)
        return report_of(self.name, self.title, conventions, checks, {"flow": flow, "sgd": sgd}, (picture,))


def _uniform(label: str, study: ErrorStudy, quantity: str, n: int) -> Check:
    """Judge the supremum over the longest interval against that over the shortest, and tell the rate of growth."""
    fit = growth_rate(study, quantity, n)
    p = int(np.abs(study.values - n).argmin())
    first, last = (float(np.mean(study.errors[quantity][p][:, j])) for j in (0, -1))
    return Check(f"{label}: at N = {n} the supremum of the error of {quantity} over [0, {study.t[-1]:g}] is "
                 f"{last / first:.3f} times that over [0, {study.t[0]:g}], at most {_GROWN:g} times; rate of growth "
                 f"{fit}", last <= _GROWN * first, last / first, _GROWN)


STUDY = ErrorAgainstTime()
