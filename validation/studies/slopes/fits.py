r"""The fit of a power law, and how well its exponent is known.

    log y_j = a + p log x_j + error_j

is fitted by least squares with the weights 1 / Var(log y_j). The variances and the interval of p come from the
bootstrap: the repetitions behind every y_j are drawn again with replacement, for each j on its own, and the fit is done
for each draw. The same helper fits exponential growth, log y = a + p x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincc

from wgflow.checks import check_flag, check_real, real_array
from wgflow.errors import InvalidInput

__all__ = ["SlopeFit", "fit_slope"]

Array = NDArray[np.float64]
#: Relative errors below this are rounding: such points would have all the weight.
_LEAST_ERROR = 1e-6


@dataclass(frozen=True)
class SlopeFit:
    """A fitted slope.

    Attributes
    ----------
    slope : float
        The exponent p of ``y = exp(a) x^p``, or the rate of ``y = exp(a + p x)``.
    low, high : float
        Its interval at ``level``, from the bootstrap.
    constant : float
        a.
    level : float
    misfit : float
        The probability that points on a line scatter as far from their fit as these do; small where the points bend.
        NaN for two points.
    x, y, errors : array of shape (points,)
        What was fitted, and the standard errors of log y.
    log_x : bool
        Whether x enters by its logarithm.
    """

    slope: float
    low: float
    high: float
    constant: float
    level: float
    misfit: float
    x: Array = field(repr=False)
    y: Array = field(repr=False)
    errors: Array = field(repr=False)
    log_x: bool = True

    def __str__(self) -> str:
        return f"{self.slope:.3f} ({self.low:.3f} to {self.high:.3f})"

    def within(self, center: float, half_width: float) -> bool:
        """Return whether the slope lies in ``center`` +- ``half_width``."""
        return bool(abs(self.slope - center) <= half_width)

    def contains(self, value: float) -> bool:
        """Return whether the interval of the slope contains a value."""
        return bool(self.low <= value <= self.high)

    def line(self, x: ArrayLike) -> Array:
        """Return the fitted y at x."""
        places = np.asarray(x, dtype=float)
        found: Array = np.exp(self.constant + self.slope * (np.log(places) if self.log_x else places))
        return found


def fit_slope(x: ArrayLike, y: ArrayLike, replicates: ArrayLike, *, level: float = 0.95,
              log_x: bool = True) -> SlopeFit:
    """Fit a straight line to log y against log x, or against x.

    Parameters
    ----------
    x : array_like, shape (points,)
        At least two different values, positive with ``log_x``.
    y : array_like, shape (points,)
        Positive.
    replicates : array_like, shape (draws, points)
        What y is when its repetitions are drawn again (`numpy.random.Generator.integers`); a draw that is not positive
        everywhere is left out.
    level : float
        Of the interval.
    log_x : bool
        False for exponential growth.

    Returns
    -------
    SlopeFit

    Raises
    ------
    InvalidInput
        If shapes do not fit, values are not positive, or fewer than half of the draws are positive: the y are then
        noise.

    Examples
    --------
    >>> rng = np.random.default_rng(3)
    >>> n = np.array([25, 100, 400, 1600])
    >>> noise = np.exp(0.05 * rng.standard_normal((501, 4)))
    >>> fit = fit_slope(n, n**-0.5 * noise[0], n**-0.5 * noise[0] * noise[1:])
    >>> fit.contains(-0.5), fit.within(-0.5, 0.1)
    (True, True)
    """
    places, values, draws = (real_array(each, name) for each, name in ((x, "x"), (y, "y"), (replicates, "replicates")))
    level, log_x = check_real("level", level), check_flag("log_x", log_x)
    if not 0.0 < level < 1.0:
        raise InvalidInput(f"level={level:g}: must be between 0 and 1")
    if places.ndim != 1 or np.unique(places).size < 2 or values.shape != places.shape:
        raise InvalidInput(f"x has shape {places.shape} and y {values.shape}: need two or more different points")
    if draws.ndim != 2 or draws.shape[1:] != places.shape or len(draws) < 10:
        raise InvalidInput(f"replicates has shape {draws.shape}; need (10 or more draws, {places.size} points)")
    if not (np.isfinite(values).all() and values.min() > 0.0) or (log_x and not places.min() > 0.0):
        raise InvalidInput("a power law needs positive x and y; a y of 0 has no logarithm")
    draws = draws[(draws > 0.0).all(axis=1) & np.isfinite(draws).all(axis=1)]
    if 2 * len(draws) < len(np.asarray(replicates)):
        raise InvalidInput("more than half of the draws have values that are not positive: y is no larger than its "
                           "noise; take more repetitions")
    horizontal, logs = np.log(places) if log_x else places, np.log(draws)
    errors = np.maximum(logs.std(axis=0, ddof=1), _LEAST_ERROR)
    constant, slope = _lines(horizontal, np.log(values)[None], errors)
    slopes = _lines(horizontal, logs, errors)[1]
    low, high = np.quantile(slopes, [0.5 * (1.0 - level), 0.5 * (1.0 + level)])
    residuals = (np.log(values) - constant[0] - slope[0] * horizontal) / errors
    free = places.size - 2
    misfit = float(gammaincc(0.5 * free, 0.5 * float(residuals @ residuals))) if free else math.nan
    return SlopeFit(float(slope[0]), float(low), float(high), float(constant[0]), level, misfit, places, values, errors,
                    log_x)


def _lines(x: Array, y: Array, errors: Array) -> tuple[Array, Array]:
    """Return constants and slopes of the weighted least-squares lines through each row of y."""
    weights = errors**-2 / np.sum(errors**-2)
    center = weights @ x
    slopes = (y * weights) @ (x - center) / (weights @ (x - center) ** 2)
    return y @ weights - slopes * center, slopes
