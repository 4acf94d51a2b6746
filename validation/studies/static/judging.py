"""How simulations of growing size are held against a limit: extrapolation in 1/d, and bands for all points at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from wgflow.reduced_models.static_theories import Simulated

from ..base import Check

__all__ = ["LEVEL", "Estimate", "extrapolated", "of_runs", "within_bands"]

#: Probability that an experiment with the right theory fails by the chance of its simulations, shared by its points.
LEVEL = 0.01


class Estimate(NamedTuple):
    """A number with its standard error and the degrees of freedom that the error was estimated from."""

    value: float
    standard_error: float
    freedom: float


def of_runs(found: Simulated) -> Estimate:
    """Return the mean of independent runs."""
    return Estimate(found.mean, found.standard_error, found.values.size - 1.0)


def extrapolated(sizes: tuple[float, float], found: tuple[Simulated, Simulated]) -> Estimate:
    r"""Return the limit of means :math:`m(d) = m + c/d` from two sizes :math:`d_1 < d_2`.

    .. math:: m = \frac{d_2\,m(d_2) - d_1\,m(d_1)}{d_2 - d_1},

    with the degrees of freedom of Welch and Satterthwaite.
    """
    weights = np.array([-sizes[0], sizes[1]], dtype=float) / (sizes[1] - sizes[0])
    parts = (weights * [each.standard_error for each in found]) ** 2
    freedom = np.array([each.values.size - 1.0 for each in found])
    variance = float(parts.sum())
    return Estimate(float(weights @ [each.mean for each in found]), variance**0.5,
                    variance**2 / float(np.sum(parts**2 / freedom)))


def within_bands(text: str, found: Sequence[Estimate], theory: Sequence[float], comparisons: int) -> Check:
    """Judge whether all estimates lie within their bands about the theory.

    A band is Student's quantile for `LEVEL`, shared by all ``comparisons`` of the experiment (Bonferroni), times the
    standard error. The words tell how wide the bands are, which says what the check could have seen.
    """
    expected, values = np.asarray(theory, dtype=float), np.array([each.value for each in found])
    freedom = np.array([each.freedom for each in found])
    bands = stdtrit(freedom, 1.0 - 0.5 * LEVEL / comparisons) * [each.standard_error for each in found]
    share = float(np.max(np.abs(values - expected) / bands))
    widths = bands / np.abs(expected)
    return Check.at_most(f"{text}: {len(found)} points, largest difference {share:.2f} of its band; bands are "
                         f"+- {np.median(widths):.2%} of the theory in the median, {np.max(widths):.2%} at most",
                         share, 1.0)
