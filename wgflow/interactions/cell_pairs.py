r"""Averages of a kernel between all pairs of cells of an axis with cells of different widths.

With :math:`A_x, A_y` the averages over the cells of x and of y, the table holds :math:`(A_x + A_y - A_x A_y) w`, or
with ``average="double"`` :math:`A_x A_y w`. On equal cells the former is :math:`(2 A - A^2) w` of `kernel_tables`. On
the line both are differences of antiderivatives; far away, where those lose digits, the second average is formed by a
Gauss rule.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_memory
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .named_kernels import Kernel

__all__ = ["pair_table"]

Array = NDArray[np.float64]

#: Points of the Gauss rule, for cells whose distance exceeds the width of the larger one.
POINTS = 12
#: Entries of the table formed at a time.
BLOCK = 500_000


def pair_table(kernel: Kernel, grid: Grid, average) -> Array:
    """Return the kernel between all cells of a grid of one no-flux axis, shape (n, n), symmetric.

    Raises
    ------
    InvalidInput
        If the grid has several axes, is periodic, or has an origin.
    """
    kernel.check(grid.ndim)
    if grid.ndim > 1 or grid.periodic[0] or grid.origin[0]:
        raise InvalidInput(f"{kernel!r} needs a uniform grid, or one no-flux axis; in reduced coordinates (a radius) "
                           "give its mean over directions, Interaction(lambda r, s: ...)")
    n = grid.size
    check_memory(5 * 8.0 * n * n, f"{kernel!r} between {n} cells of different widths: its table", "take a uniform grid")
    x, (a, b) = grid.centers[0], (grid.edges[0][:-1], grid.edges[0][1:])
    if not (not kernel.smooth if average is None else average):
        return kernel(x[:, None] - x)
    single, double = np.empty((n, n)), np.empty((n, n))
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    step = max(1, BLOCK // (n * POINTS))
    for start in range(0, n, step):
        rows = slice(start, min(n, start + step))
        single[rows] = _over_cells(kernel, x[rows, None], a, b)
        points = x[rows, None] + 0.5 * (b - a)[rows, None] * nodes
        double[rows] = 0.5 * (_over_cells(kernel, points[..., None], a, b) * weights[:, None]).sum(axis=1)
    h = b - a
    apart = np.maximum(a[:, None] - b, a - b[:, None])
    i, j = np.nonzero(apart <= np.maximum(h[:, None], h))
    second = kernel.second
    corners = second(b[i] - a[j]) - second(b[i] - b[j]) - second(a[i] - a[j]) + second(a[i] - b[j])
    double[i, j] = corners / (h[i] * h[j])
    double = 0.5 * (double + double.T)
    return double if average == "double" else single + single.T - double


def _over_cells(kernel: Kernel, x: Array, a: Array, b: Array) -> Array:
    """Return the mean of w(x - y) over y in [a, b]."""
    return (kernel.first(x - a) - kernel.first(x - b)) / (b - a)
