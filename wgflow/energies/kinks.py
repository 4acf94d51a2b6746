r"""Kinks of potentials and kernels, found from their values on a grid.

Let d be the second differences of values along an axis. Where the values are smooth on the scale of the cells, d at one
place is near the cubic through d at distances 2 and 3 on both sides, (9 (d_{-2} + d_2) - 4 (d_{-3} + d_3)) / 10. At a
kink, a jump J of the slope at a part :math:`\theta` of the way from one point to the next, d exceeds it by
:math:`(1 - \theta) h J` and :math:`\theta h J` at these two: by h J / 2 at least, where smooth parts are of size
:math:`h^2`. A kink that is missed has J below about :math:`h` times the second derivative beside it, and an effect of
third order.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["kink_along", "slope_jump"]

Array = NDArray[np.float64]

#: An excess of d counts as a kink if it is above this part of the largest d beside it. It is .09 of it for a wave of 12
#: points, .46 for one of 8.
SPIKE = 0.5
#: Rounding of second differences, in units of the largest value.
ROUNDING = 64 * 2.0**-52
#: Cells on each side of a place from whose values d is known at distances up to 3.
AROUND = 4
#: Jumps of the slope by three formulas agree to this part at a kink; for smooth functions they differ 16-fold or more,
#: and where cells are wide two of them may agree by chance.
AGREE, SMOOTH = 0.1, 0.25
#: Points on one side from which the slope is formed: 0..4, and 0, 2, 4, 6.
REACH = 7


def kink_along(values: Array, axis: int, periodic: bool, counts: NDArray[np.bool_] | None = None,
               noise: float = ROUNDING) -> int | None:
    """Return the index along an axis at which values have their strongest kink; None if there is none.

    Parameters
    ----------
    values : array
    axis : int
    periodic : bool
        Whether the first value follows the last.
    counts : array of bool, optional
        Where a kink counts.
    noise : float
        The error of second differences, as a part of the largest value.
    """
    v = np.moveaxis(values, axis, 0)
    if len(v) <= 2 * AROUND:
        return None
    if periodic:
        v = np.concatenate([v[-AROUND:], v, v[:AROUND]])
    with np.errstate(over="ignore", invalid="ignore"):
        d = v[2:] - 2.0 * v[1:-1] + v[:-2]
        inner = d[3:-3]
        far, near = (d[:-6], d[6:]), (d[1:-5], d[5:-1])
        excess = np.abs(inner - 0.9 * (near[0] + near[1]) + 0.4 * (far[0] + far[1]))
        size = np.maximum(np.maximum(np.abs(near[0]), np.abs(near[1])), np.maximum(np.abs(far[0]), np.abs(far[1])))
        excess -= SPIKE * size + noise * float(np.abs(v).max())
    if counts is not None:
        c = np.moveaxis(counts, axis, 0)
        excess = np.where(c if periodic else c[AROUND:-AROUND], excess, 0.0)
    worst = int(np.argmax(excess))
    if not excess.flat[worst] > 0.0:
        return None
    place = worst // math.prod(excess.shape[1:])
    return place if periodic else place + AROUND


def slope_jump(values: Array, offset: float = 0.0) -> Array:
    r"""Return the jump of the slope of even functions at 0, times the spacing; 0 where they are smooth.

    NaN where values are neither those of a smooth function nor of one with a kink, as for :math:`|x|^{1/2}`.

    Parameters
    ----------
    values : array (7, ...)
        At offset, offset + 1, ... times the spacing.
    offset : float
        0 or 1/2.
    """
    near = 2.0 * np.tensordot(_slope_weights(offset, 1, 5), values[:5], 1)
    wide = 2.0 * np.tensordot(_slope_weights(offset, 2, 4), values[:REACH:2], 1)
    lower = 2.0 * np.tensordot(_slope_weights(offset, 1, 4), values[:4], 1)
    noise = ROUNDING * np.abs(values).max(axis=0, initial=0.0)
    smooth = np.abs(near) <= np.maximum(SMOOTH * np.abs(wide), noise)
    agree = np.maximum(np.abs(near - wide), np.abs(near - lower)) <= AGREE * np.abs(near)
    return np.where(smooth, 0.0, np.where(agree, near, np.nan))


@cache
def _slope_weights(offset: float, stride: int, count: int) -> Array:
    """Return the weights of the slope at 0 of the polynomial through values at offset + stride k, k < count."""
    points = offset + stride * np.arange(count)
    return np.linalg.solve(np.vander(points, increasing=True).T, np.eye(count)[1])
