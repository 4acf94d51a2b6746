r"""Points that carry a law with compact support on a line: found from the averages over cells, and read back.

Near an end the mass beyond x is a power of the distance, :math:`S(x) \approx c\,|x - X_0|^p`: p = 1 at a jump, 2 where
the density is linear. The place of the end within its cell and p are those that give the masses of the first three
cells. Points are spread evenly, or closer at an end, such that :math:`S \sim (j/n)^q` there with q as large as wanted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wgflow.compiled.moving_mesh import FLATTEST, masses_between
from wgflow.grids import Grid

__all__ = ["FrontMesh", "mesh_of_law"]

#: Cells of less than this part of the mass are empty.
EMPTY = 1e-14
#: Exponents this near to that of a jump or of a front are theirs: the fit has an error of the order of a cell.
NEAR = 0.2
#: The fewest cells in which the exponent is looked for; below it the law is constant in its outer cells.
FEWEST = 4
#: Bisections, and steps of Newton's method.
BISECTIONS, CORRECTIONS = 50, 20


class FrontMesh(NamedTuple):
    """Points (n + 1,), the masses between them (n,), and the masses below and above each point (n + 1,)."""

    points: np.ndarray
    masses: np.ndarray
    below: np.ndarray
    above: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, masses: np.ndarray) -> FrontMesh:
        """Return the mesh of points and the masses between them."""
        below, above = np.zeros(points.size), np.zeros(points.size)
        np.cumsum(masses, out=below[1:])
        np.cumsum(masses[::-1], out=above[1:])
        return cls(points, masses, below, np.ascontiguousarray(above[::-1]))

    def on_grid(self, grid: Grid) -> np.ndarray:
        """Return the masses of the cells of a grid."""
        out = np.empty(grid.size)
        masses_between(self.points, self.below, self.above, (0.0, 0.0), np.array(grid.edges[0]), out)
        return out


def mesh_of_law(grid: Grid, masses: np.ndarray, exponent: float, grading: float, count: int) -> FrontMesh | None:
    """Return points that carry the masses of cells; None if the law does not end as a power within the grid.

    Parameters
    ----------
    grid : Grid
        Of one axis.
    masses : array, shape (n,)
    exponent : float
        p at the fronts of the flow.
    grading : float
        The power q of their number with which the masses beyond the first points grow, at least.
    count : int
        n.
    """
    from scipy.special import betainc

    full = np.flatnonzero(masses > EMPTY * masses.sum())
    a, b = int(full[0]), int(full[-1]) + 1
    if a == 0 or b == grid.size or full.size < b - a:
        return None
    held, edges = masses[a:b], grid.edges[0][a:b + 1]
    cells = FrontMesh.of(edges, held)
    left = _end(edges, cells.below, exponent)
    right = _end(-edges[::-1], cells.above[::-1], exponent)
    if left is None or right is None:
        return None
    ends, exponents = np.array([left[0], -right[0]]), (left[1], right[1])
    at = edges.copy()
    at[0], at[-1] = ends
    spread = betainc(*(max(1.0, grading / p) for p in exponents), np.arange(count + 1) / count)
    points = ends[0] + (ends[1] - ends[0]) * spread
    if not (np.diff(points) > 0.0).all():
        return None
    parts = np.empty(count)
    masses_between(at, cells.below, cells.above, exponents, points, parts)
    if not parts.min() > 0.0:
        return None
    return FrontMesh.of(points, parts * (held.sum() / parts.sum()))


def _end(edges: np.ndarray, below: np.ndarray, exponent: float) -> tuple[float, float] | None:
    """Return the place where a law begins and the exponent p there, from masses below the edges; None if it is flat.

    p makes the roots :math:`S^{1/p}` at three edges lie on a line; the end is the zero of the parabola through them.
    """
    if edges.size - 1 < FEWEST:
        return float(edges[0]), 1.0
    x, s = edges[1:4], below[1:4]

    def bend(p: float) -> float:
        z = s ** (1.0 / p)
        return float((z[2] - z[1]) / (x[2] - x[1]) - (z[1] - z[0]) / (x[1] - x[0]))

    low, high = 1.0, FLATTEST
    if bend(high) > 0.0:
        return None
    if bend(low) <= 0.0:
        high = low
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if bend(middle) > 0.0 else (low, middle)
    p = next((known for known in (1.0, exponent) if abs(high - known) < NEAR), high)
    z = s ** (1.0 / p)
    slope = (z[1] - z[0]) / (x[1] - x[0])
    curve = ((z[2] - z[1]) / (x[2] - x[1]) - slope) / (x[2] - x[0])
    place = x[0] - z[0] / slope
    for _ in range(CORRECTIONS):
        rise = slope + curve * (2.0 * place - x[0] - x[1])
        if not rise > 0.0:
            break
        place -= (z[0] + (place - x[0]) * (slope + curve * (place - x[1]))) / rise
    # Within the first cell, and not so near to its far end that it would have no width.
    return float(min(max(place, edges[0]), x[0] - 1e-6 * (x[0] - edges[0]))), p
