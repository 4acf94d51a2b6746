r"""The error uniformly over [0, T], against N and against T.

The theorem bounds :math:`\sup_{t \le T}` of the error by :math:`K e^{KT}` times :math:`\sqrt{1/N \vee D \epsilon}`.
Here the supremum is taken of every run, over a grid of times, before it is averaged over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_count
from wgflow.errors import InvalidInput

from .fits import SlopeFit, fit_slope
from .neurons import error_against_neurons
from .results import ErrorStudy
from .simulations import rising

__all__ = ["error_against_time", "growth_rate"]

#: Bootstrap draws behind the interval of a growth rate, and their seed.
_DRAWS, _DRAWS_SEED = 1000, 30011


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
    >>> suprema, errors = error_against_time(model, [0.5, 1.0], (50, 200), n_runs=30)
    >>> bool(growth_rate(suprema, "mean of theta", 200).slope >= 0.0)
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
