"""Rows of values made semiconvex, or of limited slope: where the solution of a JKO step along geodesics starts."""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

__all__ = ["limit_rows", "semiconvex_rows"]


@jit
def semiconvex_rows(values, points, curvature, raised):
    r"""Fill each row of ``raised`` with :math:`\max_j v_j - \tfrac c2 (x_i - x_j)^2`: no second derivative is below -c.

    Upper envelope of parabolas from left to right; values may be minus infinity.
    """
    rows, n = values.shape
    best, begin = np.empty(n, dtype=np.int64), np.empty(n)
    for r in range(rows):
        count = 0
        for j in range(n):
            value = values[r, j]
            if value == -math.inf:
                continue
            start = -math.inf
            while count > 0:
                k = best[count - 1]
                gap = points[j] - points[k]
                start = 0.5 * (points[j] + points[k]) - (value - values[r, k]) / (curvature * gap)
                if start > begin[count - 1]:
                    break
                count -= 1
                start = -math.inf
            best[count], begin[count] = j, start
            count += 1
        k = 0
        for i in range(n):
            raised[r, i] = -math.inf
            while k < count - 1 and begin[k + 1] <= points[i]:
                k += 1
            if count > 0:
                gap = points[i] - points[best[k]]
                raised[r, i] = values[r, best[k]] - 0.5 * curvature * gap * gap


@jit
def limit_rows(values, points, faces, tau, low, high):
    r"""Lower rows of values, in place, until no face goes beyond ``low`` or ``high`` by :math:`x + \tau v'(x)`.

    ``points`` are the places of values, ``faces`` those between them.
    """
    rows, n = values.shape
    for r in range(rows):
        for i in range(1, n):
            most = values[r, i - 1] + (points[i] - points[i - 1]) * (high - faces[i - 1]) / tau
            values[r, i] = min(values[r, i], most)
        for i in range(n - 2, -1, -1):
            most = values[r, i + 1] + (points[i + 1] - points[i]) * (faces[i] - low) / tau
            values[r, i] = min(values[r, i], most)
