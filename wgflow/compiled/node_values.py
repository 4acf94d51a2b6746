r"""Values at cell centers from averages over cells: the inverse of :math:`1 + \delta^2/24 - \delta g`, line by line.

:math:`g = \tfrac{17}{5760} \delta^3 p` at the edges, which makes averages of sixth order, is bounded by
:math:`\tfrac{17}{5760} K \min(p_i, p_{i+1})` and left out where it would reach beyond a wall. The bound keeps averages
of positive values positive, :math:`22/24 - 2 \cdot 17 K/5760 > 0`, and both maps are Lipschitz with a small constant.
"""

from __future__ import annotations

from .jit import jit

#: The factor of the third difference, and the largest third difference as a multiple of the smaller value.
SIXTH, LARGEST = 17.0 / 5760.0, 32.0
#: Double sweeps, at most, and the relative change with which they end.
SWEEPS, SETTLED = 30, 1e-15


@jit
def values_of_averages(averages, periodic, x):
    """Fill x with the values that belong to averages over the cells of lines, both of shape (n, W).

    By Gauss and Seidel's sweeps in both directions: the terms beside the diagonal are small. At a wall the average is
    (25 x_0 - 2 x_1 + x_2) / 24.
    """
    n, width = x.shape
    for _ in range(SWEEPS):
        change, largest = 0.0, 0.0
        for half in range(2):
            for k in range(n):
                i = k if half == 0 else n - 1 - k
                wall = not periodic and (i == 0 or i == n - 1)
                if wall:
                    side = 1 if i == 0 else -1
                    for j in range(width):
                        value = (24.0 * averages[i, j] + 2.0 * x[i + side, j] - x[i + 2 * side, j]) * (1.0 / 25.0)
                        change = max(change, abs(value - x[i, j]))
                        x[i, j] = value
                    continue
                a, b, d, e = (i - 2) % n, (i - 1) % n, (i + 1) % n, (i + 2) % n
                before, after = periodic or i > 1, periodic or i < n - 2
                for j in range(width):
                    p, left, right = x[i, j], x[b, j], x[d, j]
                    flux = 0.0
                    if after:
                        most = SIXTH * LARGEST * max(min(p, right), 0.0)
                        flux += min(max(SIXTH * (x[e, j] - left - 3.0 * (right - p)), -most), most)
                    if before:
                        most = SIXTH * LARGEST * max(min(left, p), 0.0)
                        flux -= min(max(SIXTH * (right - x[a, j] - 3.0 * (p - left)), -most), most)
                    value = (24.0 * (averages[i, j] + flux) - left - right) * (1.0 / 22.0)
                    change = max(change, abs(value - p))
                    largest = max(largest, abs(value))
                    x[i, j] = value
        if change <= SETTLED * largest:
            return
