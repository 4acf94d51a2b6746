"""The linear and the nonlinear part of an activation under a standard normal law."""

from __future__ import annotations

import math
from typing import NamedTuple

from wgflow.activations.base import Activation
from wgflow.errors import InvalidInput, InvalidType

__all__ = ["EquivalentCoefficients", "equivalent_coefficients"]

_ROUNDING = 1e-13  # share of E sigma^2 below which a nonlinear part cannot be told from rounding


class EquivalentCoefficients(NamedTuple):
    r"""The coefficients of :math:`\sigma(G) \simeq \mu_0 + \mu_1 G + \mu_* Z` with Z independent of G.

    :math:`\mu_0 = E\,\sigma(G), \mu_1 = E\,G \sigma(G), \mu_*^2 = E\,\sigma(G)^2 - \mu_0^2 - \mu_1^2`, for G normal.
    """

    mean: float
    linear: float
    nonlinear: float


def equivalent_coefficients(activation: Activation) -> EquivalentCoefficients:
    r"""Return :math:`\mu_0, \mu_1, \mu_*`: in high dimension features behave like linear ones with noise.

    Examples
    --------
    >>> from wgflow.activations import ReLU
    >>> mean, linear, nonlinear = equivalent_coefficients(ReLU())
    >>> f"{mean:.6f} {linear:.6f} {nonlinear**2:.14f}"
    '0.398942 0.500000 0.09084505690810'
    """
    if not isinstance(activation, Activation):
        raise InvalidType(f"activation={activation!r}: need an activation of wgflow.activations, such as ReLU()")
    mean, linear = (float(a) for a in activation.hermite_coefficients(1.0, 1))
    square = float(activation.pair_expectation(1.0, 1.0, 1.0))
    rest = square - mean**2 - linear**2
    return EquivalentCoefficients(mean, linear, math.sqrt(rest) if rest > _ROUNDING * square else 0.0)


def check_nonlinear(activation: Activation, coefficients: EquivalentCoefficients) -> None:
    """Refuse an activation without a nonlinear part, for which zeta = mu_1/mu_* is infinite."""
    if coefficients.nonlinear == 0.0:
        raise InvalidInput(f"activation={activation!r} has no nonlinear part (mu_* = 0), so that zeta = mu_1/mu_* is "
                           "infinite; its features are linear in x: LeastSquares has their risk")
