r"""Kernels with a kink where the two points meet, such as :math:`|x - y|`: tables whose sums keep fourth order.

For a smooth law on a line the sum over cells misses what the kink at x = y adds to the trapezoidal rule, by Euler and
Maclaurin's formula

.. math:: h \sum_j U(x_i, x_j)\,\rho_j - \int U(x_i, y)\,\rho(y)\,dy = -\tfrac{h^2}{12}\,J_i\,\rho_i + O(h^4),

with J the jump of the slope of U over y = x. The entry of a cell with itself is therefore raised by h J / 12, for
:math:`|x - y|` to h/6, which is the value of `wgflow.interactions.power` (1) by averages over cells. J is found from
the table. The jump at the far side of a circle (of a distance along it) is treated alike; it lies at a displacement, or
halfway between two, where the sum exceeds the integral by :math:`\tfrac{h^2}{24} J \rho`.
Other kinks are told in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.kinks import REACH, kink_along, slope_jump
from wgflow.grids import Grid

__all__ = ["kink_of_features", "kink_of_rows", "mend_displacements", "mend_pairs"]

Array = NDArray[np.float64]

#: What the sum misses at a kink on a point of the rule and halfway between two, in units of h^2 J.
ON_POINT, HALFWAY = 1.0 / 12.0, -1.0 / 24.0
#: Displacements from a mended kink at which its trace in second differences ends.
TRACE = 5
#: Largest change of a jump from row to row, as a part of the largest jump.
STEADY = 0.5
#: What a feature adds to a kernel counts from this part of it on: the last of many turn from cell to cell.
OF_FEATURES = 1e-4
#: Rows of a table in which kinks are looked for.
ROWS = 3


def mend_displacements(table: Array, grid: Grid) -> tuple[str, float]:
    """Mend the entries of a kernel at its kinks, in place.

    Return in words where it has others, and the exponent 1 of those mended, or infinity if there were none.

    Parameters
    ----------
    table : array
        The kernel at the displacements of a Fourier transform.
    grid : Grid
        Of uniform cells.
    """
    if min(grid.shape) < REACH + 1:
        return "", math.inf
    lines = []
    for axis, (n, around) in enumerate(zip(grid.shape, grid.periodic)):
        line = np.moveaxis(table, axis, 0)[(slice(None),) + (0,) * (table.ndim - 1)]
        lines.append(line if around else np.concatenate([line[-(n - 1):], line[:n]]))
    counts, exponent = np.ones(len(lines[0]), bool), math.inf
    if grid.ndim == 1:
        n, around = grid.shape[0], grid.periodic[0]
        zero = 0 if around else n - 1
        _mend(table, 0, float(slope_jump(table[:REACH])), counts, zero)
        if around:
            far = n // 2
            half = lines[0][far:far - REACH:-1] if n >= 2 * REACH else np.zeros(REACH)
            _mend(table, far, float(slope_jump(half, 0.5 * (n % 2))), counts, far, halfway=bool(n % 2))
        exponent = math.inf if counts.all() else 1.0
    for axis, line in enumerate(lines):
        found = kink_along(line, 0, grid.periodic[axis], counts if grid.ndim == 1 else None)
        if found is not None:
            step = found if grid.periodic[axis] else found - (grid.shape[axis] - 1)
            return (f"the kernel has a kink at displacement {abs(step) * grid.widths[axis][0]:.4g} along axis {axis}",
                    exponent)
    return "", exponent


def _mend(table: Array, place: int, jump: float, counts: NDArray[np.bool_], index: int, halfway: bool = False) -> None:
    """Add what sums miss at a kink of known jump, and note that it does not count any more."""
    if not math.isfinite(jump) or jump == 0.0:
        return
    if halfway:
        table[place] += 0.5 * HALFWAY * jump
        table[place + 1] += 0.5 * HALFWAY * jump
    else:
        table[place] += ON_POINT * jump
    counts[np.arange(index - TRACE, index + TRACE + 2) % counts.size] = False


def mend_pairs(table: Array, grid: Grid) -> tuple[str, float]:
    """Mend the diagonal of a table (n, n) of a kernel with a kink at x = y, in place.

    Return in words where it has others, and the exponent 1 if it was mended, else infinity.
    """
    n, mended = grid.size, False
    if min(grid.shape) < REACH + 1:
        return "", math.inf
    if grid.ndim == 1 and n > 2 * REACH and not grid.periodic[0]:
        rows = np.arange(REACH - 1, n - REACH + 1)
        jumps = slope_jump(np.array([0.5 * (table[rows, rows + k] + table[rows, rows - k]) for k in range(REACH)]))
        # A kink has the same kind of jump in neighboring rows.
        steep = np.abs(jumps).max()
        mended = bool(steep > 0.0 and np.abs(np.diff(jumps)).max(initial=0.0) <= STEADY * steep)
        if mended:
            diagonal = np.concatenate([jumps[0] + (jumps[1] - jumps[0]) * np.arange(1 - REACH, 0), jumps,
                                       jumps[-1] + (jumps[-1] - jumps[-2]) * np.arange(1, REACH)])
            table[np.arange(n), np.arange(n)] += ON_POINT * diagonal
    return kink_of_rows(table.__getitem__, grid, TRACE if mended else -1), 1.0 if mended else math.inf


def kink_of_rows(row_of: Callable[[int], Array], grid: Grid, beyond: int = -1) -> str:
    """Return in words where a kernel has a kink, as far as a few rows of its table tell; empty if they have none.

    Parameters
    ----------
    row_of : callable
        Returns the kernel between a cell, by its flat number, and all cells.
    grid : Grid
    beyond : int
        On one axis: kinks count that are farther from the cell than so many cells.
    """
    if min(grid.shape) < REACH + 1:
        return ""
    for part in np.linspace(0.3, 0.7, ROWS):
        cell = tuple(int(part * m) for m in grid.shape)
        values = row_of(int(np.ravel_multi_index(cell, grid.shape))).reshape(grid.shape)
        for axis in range(grid.ndim):
            counts = np.abs(np.arange(grid.size) - cell[0]) > beyond if beyond >= 0 else None
            found = kink_along(values, axis, grid.periodic[axis], counts)
            if found is not None:
                return (f"the kernel has a kink at {grid.names[axis]} = {grid.centers[axis][found]:.4g}, with the "
                        f"other point at {grid.centers[axis][cell[axis]]:.4g}")
    return ""


def kink_of_features(features: Array, grid: Grid, signs: Array | None = None) -> str:
    """Return in words where features, an array (k, size), have a kink; empty if they have none.

    With ``signs`` they count by their part of the kernel.
    """
    if signs is not None:
        features = features * (np.abs(signs) * np.abs(features).max(axis=1, initial=0.0))[:, None]
    values = features.reshape(-1, *grid.shape)
    for axis in range(grid.ndim):
        found = kink_along(values, axis + 1, grid.periodic[axis], noise=OF_FEATURES)
        if found is not None:
            return f"a feature of the kernel has a kink at {grid.names[axis]} = {grid.centers[axis][found]:.4g}"
    return ""
