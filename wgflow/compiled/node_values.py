r"""Averages over cells of values at their centers, and values of averages, line by line.

The averages are :math:`a = (1 + \delta^2/24) p - \delta g`, where :math:`g = \tfrac{17}{5760} \delta^3 p` at the edges,
which makes them of sixth order, is bounded by :math:`\tfrac{17}{5760} K \min(p_i, p_{i+1})` and left out where it would
reach beyond a wall. The bound keeps averages of positive values positive, :math:`22/24 - 2 \cdot 17 K/5760 > 0`.

With :math:`T = 1 + \delta^2/24` the values are the limit of :math:`p \leftarrow p + T^{-1} (a - T p + \delta g(p))`.
In the largest norm :math:`T^{-1}` is at most 24/20, and :math:`\delta g` changes by at most
:math:`2 \cdot 17 K/5760` times what p does: an error shrinks to .23 of itself at least, and to about
:math:`.003\,(h/\ell)^4` where p varies over lengths l.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: The factor of the third difference, and the largest third difference as a multiple of the smaller value.
SIXTH, LARGEST = 17.0 / 5760.0, 32.0
#: Iterations, at most, and the relative change with which they end.
ITERATIONS, SETTLED = 30, 1e-15
#: T = (1 + z S)(1 + z / S) / (24 z) for the shift S; z^k is below 1e-21 after so many cells.
ROOT, FAR = 11.0 - math.sqrt(120.0), 16


@jit
def averages_of_values(p, periodic, out):
    """Fill the averages of values p along lines, both of shape (n, W); at a wall (25 p_0 - 2 p_1 + p_2) / 24."""
    n, width = p.shape
    before = np.zeros(width)
    for k in range(-1 if periodic else 0, n):
        i = k if k >= 0 else n - 1
        e = i + 1 if i + 1 < n else 0
        b, d = (i - 1 if i > 0 else n - 1), (e + 1 if e + 1 < n else 0)
        # The cell whose second difference counts, and those beside it.
        c = i if periodic else min(max(i, 1), n - 2)
        low, high = (c - 1 if c > 0 else n - 1), (c + 1 if c + 1 < n else 0)
        # Bounds of 0 where the third difference would reach beyond a wall.
        bound = SIXTH * LARGEST if periodic or 0 < i < n - 2 else 0.0
        for j in range(width):
            most = bound * max(min(p[i, j], p[e, j]), 0.0)
            flux = min(max(SIXTH * (p[d, j] - p[b, j] - 3.0 * (p[e, j] - p[i, j])), -most), most)
            bend = p[high, j] - 2.0 * p[c, j] + p[low, j]
            out[i, j] = p[i, j] + (bend / 24.0 - (flux - before[j]))
            before[j] = flux


@jit
def values_of_averages(averages, periodic, x):
    """Fill x with the values that belong to averages over the cells of lines, both of shape (n, W)."""
    n, width = x.shape
    rest, inverse, carry, size = np.empty((n, width)), np.empty(n), np.empty(width), 0.0
    flat, rf, xf = averages.reshape(n * width), rest.reshape(n * width), x.reshape(n * width)
    for i in range(n):
        inverse[i] = ROOT if periodic else (1.0 / (22.0 - inverse[i - 1]) if i > 0 else -1.0)
    for t in range(flat.size):
        size = max(size, SETTLED * abs(flat[t]))
        xf[t], rf[t] = 0.0, flat[t]
    for k in range(ITERATIONS):
        if k > 0:
            averages_of_values(x, periodic, rest)
            for t in range(flat.size):
                rf[t] = flat[t] - rf[t]
        _solve_second(rest, periodic, inverse, carry)
        moved = 0
        for t in range(flat.size):
            moved |= abs(rf[t]) > size
            xf[t] += rf[t]
        if moved == 0:
            return


@jit
def _solve_second(x, periodic, inverse, carry):
    """Solve (1 + delta^2/24) y = x along lines in place.

    At a wall the first row less the second is y_0 - y_1 = x_0 - x_1. On a circle both recursions begin so far ahead
    that what they began with is forgotten.
    """
    n, width = x.shape
    last, far = n - 1, (FAR if periodic else 0)
    for j in range(width):
        carry[j] = 0.0
        if not periodic:
            x[0, j] -= x[1, j]
            x[last, j] -= x[last - 1, j]
            carry[j] = x[0, j]
    for i in range(-far if periodic else 1, n if periodic else last):
        row = i % n
        for j in range(width):
            carry[j] = (24.0 * x[row, j] - carry[j]) * inverse[row]
            if i >= 0:
                x[row, j] = carry[j]
    if not periodic:
        for j in range(width):
            carry[j] = x[last, j] = (x[last, j] + x[last - 1, j]) / (1.0 + inverse[last - 1])
    for i in range(last + far if periodic else last - 1, -1, -1):
        row = i % n
        for j in range(width):
            carry[j] = x[row, j] - inverse[row] * carry[j]
            if i < n:
                x[row, j] = carry[j]
