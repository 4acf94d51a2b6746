"""Values at cell centers from averages over cells, line by line: the inverse of 1 + delta^2/24."""

from __future__ import annotations

import numpy as np

from .jit import jit


@jit
def values_of_averages(flat, outer, n, inner, periodic):
    """Replace averages by values along one axis, in place: x_{i-1} + 22 x_i + x_{i+1} = 24 a_i.

    At a wall the average is (25 x_0 - 2 x_1 + x_2) / 24, which with the next equation gives x_0 - x_1 = a_0 - a_1.
    """
    work = np.empty((2, n))
    right, upper = work[0], work[1]
    for o in range(outer):
        for k in range(inner):
            start = o * n * inner + k
            if periodic:
                _cyclic(flat, start, inner, n, right)
                continue
            first, last = flat[start], flat[start + (n - 1) * inner]
            next_first, next_last = flat[start + inner], flat[start + (n - 2) * inner]
            # x_0 = x_1 + a_0 - a_1 and likewise at the other end.
            upper[1] = 1.0 / 23.0
            right[1] = (24.0 * next_first - (first - next_first)) / 23.0
            for i in range(2, n - 1):
                diagonal = 23.0 if i == n - 2 else 22.0
                value = 24.0 * flat[start + i * inner]
                if i == n - 2:
                    value -= last - next_last
                pivot = 1.0 / (diagonal - upper[i - 1])
                upper[i] = pivot
                right[i] = (value - right[i - 1]) * pivot
            flat[start + (n - 2) * inner] = right[n - 2]
            for i in range(n - 3, 0, -1):
                right[i] -= upper[i] * right[i + 1]
                flat[start + i * inner] = right[i]
            flat[start] = right[1] + first - next_first
            flat[start + (n - 1) * inner] = right[n - 2] + last - next_last


@jit
def _cyclic(flat, start, stride, n, x):
    """Solve the equations of a periodic line by sweeps of Gauss and Seidel in both directions."""
    for i in range(n):
        x[i] = flat[start + i * stride]
    for _ in range(12):
        for i in range(n):
            x[i] = (24.0 * flat[start + i * stride] - x[i - 1 if i > 0 else n - 1]
                    - x[i + 1 if i + 1 < n else 0]) * (1.0 / 22.0)
        for i in range(n - 1, -1, -1):
            x[i] = (24.0 * flat[start + i * stride] - x[i - 1 if i > 0 else n - 1]
                    - x[i + 1 if i + 1 < n else 0]) * (1.0 / 22.0)
    for i in range(n):
        flat[start + i * stride] = x[i]
