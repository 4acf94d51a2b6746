r"""Components of a law of compact support: wells of the potential, filled like communicating vessels.

Where H'(0) is finite, a law at rest has one constant c of the first variation on each component of its support, and the
masses of the components are free. A start decides them: each well of Psi (the cells from which the way down leads to
one minimum) holds the mass that the start has there. Wells that are filled over the pass between them exchange mass:
both over the pass become one well; of one alone, what does not fit below the pass runs over to the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wgflow.errors import ConvergenceError
from wgflow.grids import Grid

from .internal_laws import InternalProblem

__all__ = ["Wells", "find_wells", "fill", "support_components"]

#: Wells less deep than this part of the range of Psi are rounding errors, and belong to their neighbors.
SHALLOW = 1e-9
#: Largest number of wells; the shallowest are joined.
MOST_WELLS = 64
#: A level over a pass by less than this part of their size is at it.
SAME_LEVEL = 1e-12
#: Components with less than this part of the mass are not counted.
LIGHTEST = 1e-12
#: Exchanges of mass after which the filling is given up.
EXCHANGES = 2000


class Wells(NamedTuple):
    """A label for each cell, shape (n,), and the mass in the cells of each label."""

    labels: np.ndarray
    masses: np.ndarray


def neighbors(grid: Grid) -> np.ndarray:
    """Return the pairs of cells with a common face, shape (2, pairs)."""
    cells, pairs = np.arange(grid.size).reshape(grid.shape), []
    for axis, n in enumerate(grid.shape):
        lines = np.moveaxis(cells, axis, 0)
        pairs.append(np.stack([lines[:-1].ravel(), lines[1:].ravel()]))
        if grid.periodic[axis] and n > 2:
            pairs.append(np.stack([lines[-1].ravel(), lines[0].ravel()]))
    return np.concatenate(pairs, axis=1)


def support_components(grid: Grid, masses: np.ndarray) -> tuple[float, ...]:
    """Return the masses of the connected components of a support, the largest first; without those of rounding."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = neighbors(grid)
    pairs = pairs[:, (masses[pairs] > 0).all(axis=0)]
    links = coo_matrix((np.ones(pairs.shape[1]), pairs), shape=(grid.size, grid.size))
    labels = connected_components(links, directed=False)[1]
    totals = np.bincount(labels, masses)
    return tuple(float(total) for total in np.sort(totals[totals > LIGHTEST * masses.sum()])[::-1])


def find_wells(grid: Grid, psi: np.ndarray, masses: np.ndarray) -> Wells:
    """Return the wells of a potential and the masses that a law has in them."""
    a, b = neighbors(grid)
    # A cell goes with its lowest neighbor.
    order = np.lexsort((np.minimum(psi[a], psi[b]), np.maximum(psi[a], psi[b])))
    pairs, least = list(zip(a[order].tolist(), b[order].tolist())), SHALLOW * float(np.ptp(psi))
    while True:
        labels = _watershed(pairs, psi.tolist(), least)
        if labels.max() < MOST_WELLS:
            return Wells(labels, np.bincount(labels, masses))
        least *= 10.0


def _watershed(pairs: list[tuple[int, int]], psi: list[float], least: float) -> np.ndarray:
    """Return the label of each cell's well, from pairs of neighbors by increasing height."""
    parent, bottom = list(range(len(psi))), list(psi)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        i, j = root(a), root(b)
        if bottom[i] > bottom[j]:
            i, j = j, i
        # A single cell has no depth below the height of the pair and joins; two wells that meet stay apart.
        if i != j and max(psi[a], psi[b]) - bottom[j] <= least:
            parent[j] = i
    roots = np.array([root(i) for i in range(len(psi))])
    return np.unique(roots, return_inverse=True)[1].ravel()


def fill(problem: InternalProblem, psi: np.ndarray, wells: Wells) -> Wells:
    """Return the wells after they have exchanged mass, as communicating vessels do, with Psi fixed."""
    grid, lowest = problem.on_grid.grid, problem.slope.lowest
    labels, masses = wells.labels.copy(), wells.masses.copy()
    a, b = neighbors(grid)
    between = labels[a] != labels[b]
    a, b = a[between], b[between]
    heights = np.maximum(psi[a], psi[b]) + lowest

    def level(k: int) -> float:
        cells = labels == k
        return problem.level(-problem.beta * psi[cells], problem.log_reference[cells], float(masses[k]))[0]

    levels = np.array([level(k) for k in range(masses.size)])
    for _ in range(EXCHANGES):
        one, two = labels[a], labels[b]
        top, other = np.maximum(levels[one], levels[two]), np.minimum(levels[one], levels[two])
        size = np.abs(heights) + np.abs(top) + problem.unit
        over = np.where((one != two) & (top - other > SAME_LEVEL * size), top - heights, 0.0) - SAME_LEVEL * size
        if not over.size or over.max() <= 0:
            break
        k = int(over.argmax())
        high, low = (int(one[k]), int(two[k])) if levels[one[k]] > levels[two[k]] else (int(two[k]), int(one[k]))
        cells = labels == high
        kept = float(problem.at_level(heights[k] - psi[cells], problem.log_reference[cells])[0].sum())
        before = masses[high], masses[low]
        masses[high], masses[low] = kept, masses[low] + masses[high] - kept
        levels[low] = level(low)
        levels[high] = heights[k]
        if levels[low] > heights[k]:
            labels[labels == low] = high
            masses[high], masses[low] = sum(before), 0.0
            levels[high], levels[low] = level(high), -np.inf
    else:
        raise ConvergenceError(f"the wells of Psi exchanged mass {EXCHANGES} times and were not in balance; give no "
                               "rho0 for the minimum of F", reason="tolerance")
    kept_labels, labels = np.unique(labels, return_inverse=True)
    return Wells(labels.ravel(), masses[kept_labels])
