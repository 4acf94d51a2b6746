r"""Where the slope of an activation jumps, found from the function itself.

Theories that linearize the motion of neurons need :math:`\sigma''`. At a kink it is a point mass, and between the kinks
of a piecewise-linear function it is 0: differences of :math:`\sigma'` see none of it. A corner that is smooth on the
scale of these differences has no jump: over a hundredth of a short interval its slope changes by about a hundredth.
"""

from __future__ import annotations

import numpy as np

from .base import Activation, FloatArray
from .piecewise_linear import PiecewiseLinear

__all__ = ["kinks_between"]

#: Width of the smallest interval, relative to 1 + |t|: that of the differences by which second derivatives are formed.
WIDTH = 1e-5
#: How many times as wide the interval is that it is compared with, and the share of its change that makes a jump.
_WIDER, _SHARE = 100.0, 0.5
#: Changes of the slope below this, relative to the largest slope, are rounding.
_ROUNDING = 1e-9
_CELLS, _HALVINGS = 8192, 60


def kinks_between(activation: Activation, low: float, high: float) -> FloatArray:
    r"""Return the arguments in [low, high] at which :math:`\sigma'` jumps, in ascending order.

    Those of a `PiecewiseLinear` activation are its knots. Of any other, each of 8192 cells is halved, and the half in
    which the slope changes more is kept, down to a width of 1e-5 (1 + \|t\|); a jump is left where that changes the
    slope by at least half of what a hundred times the width does. So a smooth corner as narrow as that is taken for
    a kink too, and of two kinks in one cell the larger one is found.

    Parameters
    ----------
    activation : Activation
    low, high : float
        Finite, low <= high.

    Returns
    -------
    ndarray
        Exact for `PiecewiseLinear`, else up to the width.

    Examples
    --------
    >>> from wgflow.activations import Ramp, Tanh
    >>> kinks_between(Ramp(), -3.0, 3.0).tolist(), kinks_between(Tanh(), -3.0, 3.0).tolist()
    ([0.5, 1.5], [])
    """
    if isinstance(activation, PiecewiseLinear):
        knots = activation.knots[np.diff(activation.slopes) != 0.0]
        return knots[(knots >= low) & (knots <= high)]
    # A kink at an end is inside, and so is one that all arguments share.
    edges = np.linspace(low - WIDTH * (1.0 + abs(low)), high + WIDTH * (1.0 + abs(high)), _CELLS + 1)
    slopes = np.asarray(activation.derivative(edges), dtype=np.float64)
    rounding = _ROUNDING * float(np.max(np.abs(slopes), initial=0.0))
    left, right, below, above = edges[:-1], edges[1:], slopes[:-1], slopes[1:]
    for _ in range(_HALVINGS):
        changes = np.abs(above - below) > rounding
        left, right, below, above = (each[changes] for each in (left, right, below, above))
        if np.all(right - left <= WIDTH * (1.0 + np.abs(left))):
            break
        middle = 0.5 * (left + right)
        between = np.asarray(activation.derivative(middle), dtype=np.float64)
        lower = np.abs(between - below) >= np.abs(above - between)
        left, below = np.where(lower, left, middle), np.where(lower, below, between)
        right, above = np.where(lower, middle, right), np.where(lower, between, above)
    center = 0.5 * (left + right)
    reach = 0.5 * _WIDER * WIDTH * (1.0 + np.abs(center))
    wide = np.abs(activation.derivative(center + reach) - activation.derivative(center - reach))
    found: FloatArray = center[np.abs(above - below) >= _SHARE * wide]
    return found
