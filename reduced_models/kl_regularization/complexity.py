"""How rich the networks near the prior are: bounds of their Rademacher complexity."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from wgflow.activations.base import Activation
from wgflow.checks import check_positive
from wgflow.errors import InvalidInput

from ..base import FloatArray

__all__ = ["ComplexityBounds", "bound_complexity"]

#: Arguments among which an activation's bound is sought, in its length scales, and their number.
_NEAR, _POINTS = 50.0, 20_001
#: An argument at which growth shows.
_FAR = 1e8


class ComplexityBounds(NamedTuple):
    """Bounds of the empirical Rademacher complexity of two classes of networks.

    Attributes
    ----------
    chi_square : float
        Of the networks whose law has a chi^2 divergence from the prior of at most the radius.
    divergence : float
        Of those whose law has a Kullback-Leibler divergence of at most the radius, a larger class.
    """

    chi_square: float
    divergence: float


def bound_complexity(
    activation: Activation, second_moments: FloatArray, scale: float, radius: float
) -> ComplexityBounds:
    """Return the bounds of `KLRegularizedNetwork.complexity_bounds`.

    Parameters
    ----------
    activation : Activation
    second_moments : ndarray, shape (n,)
        Of h under the prior, at each sample.
    scale : float
        alpha sigma_u.
    radius : float
    """
    radius, n = check_positive("radius", radius, zero=True), len(second_moments)
    simple = scale * math.sqrt(radius * float(np.sum(second_moments))) / n
    c = scale * _largest_value(activation) / math.sqrt(n)
    if radius == 0.0 or c == 0.0:
        return ComplexityBounds(simple, 0.0)

    def bound(share: float) -> float:
        return c * (radius - 0.5 * math.log1p(-share * share)) / share

    best = minimize_scalar(bound, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-12})
    return ComplexityBounds(simple, bound(float(best.x)))


def _largest_value(activation: Activation) -> float:
    """Return the largest absolute value of an activation, which must be bounded."""
    reach = _NEAR * max(activation.length_scale, 1.0)
    near = float(np.max(np.abs(activation.value(np.linspace(-reach, reach, _POINTS)))))
    far = float(np.max(np.abs(activation.value(np.array([-_FAR, _FAR])))))
    if not far <= 2.0 * near:
        raise InvalidInput(f"{activation!r} is not bounded; the bounds need a bounded activation, such as Tanh() or "
                           "Erf()")
    return max(near, far)
