r"""Finer levels for a law that a step tears apart: which cells are cut, and the law at the new levels.

A mesh resolves a law where its cells are about as wide as those of the grid. A step that carries mass over a barrier,
or lets it spread, widens cells; those that became too wide for the mass in them are cut into halves, fourths, ... of
their mass. The depth of a cell says how often it was cut. Depths of neighbors differ by one at most, in runs of several
cells, so that quadrature in the number of the quantile keeps its order. Old levels stay: meshes are nested.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from wgflow.kernels.quantile import excess_widths

from ._quantile_mesh import Mesh, node_weights, places

__all__ = ["common_levels", "cut", "depths_wanted", "levels_of", "mesh_of", "positions_at"]

#: Cells of the grid that a cell may span; what cells are cut to once one spans more, so that this is rare; the part of
#: the mass below which a cell may span any number.
WIDEST, WANTED, TOO_LIGHT = 2.0, 1.25, 1e-6
#: Cells on either side of a cell that are at most one cut behind it, and cuts at a time.
MARGIN, MOST_CUTS = 4, 3


def mesh_of(positions: np.ndarray, masses: np.ndarray, depths: np.ndarray) -> Mesh:
    """A mesh whose quadrature treats each run of one depth by itself."""
    ends = np.concatenate(([0], np.flatnonzero(np.diff(depths)) + 1, [masses.size]))
    weights = np.zeros(masses.size + 1)
    for first, last in pairwise(ends):
        weights[first:last + 1] += node_weights(masses[first:last])
    return Mesh(positions, masses, np.log(masses), weights)


def depths_wanted(x: np.ndarray, masses: np.ndarray, depths: np.ndarray, edges: np.ndarray) -> np.ndarray | None:
    """Depths that a law at positions x asks of its cells; None where the mesh resolves it."""
    over = excess_widths(x, masses, edges, WANTED, TOO_LIGHT * float(masses.sum()))
    if not over.max() * WANTED > WIDEST:
        return None
    wide = over > 0
    cuts = np.clip(np.ceil(np.log2(np.where(wide, over, 1.0))), 1, MOST_CUTS).astype(depths.dtype)
    wanted = np.maximum(depths, _largest_near(np.where(wide, depths + cuts, 0), 1))
    while True:
        balanced = np.maximum(wanted, _largest_near(wanted, MARGIN) - 1)
        if np.array_equal(balanced, wanted):
            return wanted
        wanted = balanced


def _largest_near(values: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within ``reach`` places of each."""
    padded = np.pad(values, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)


def cut(masses: np.ndarray, depths: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masses and depths of the cells after each was cut to the depth wanted of it; sums keep their bits."""
    parts = 2 ** (wanted - depths)
    return np.repeat(masses / parts, parts), np.repeat(wanted, parts)


def levels_of(depths: np.ndarray) -> np.ndarray:
    """The levels between cells, counted in cells of depth 0: whole numbers and binary fractions, hence exact."""
    return np.append(0.0, np.cumsum(0.5**depths))


def common_levels(depths: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The levels of two refinements of one mesh."""
    return np.union1d(levels_of(depths), levels_of(others))


def positions_at(levels: np.ndarray, x: np.ndarray, masses: np.ndarray, depths: np.ndarray,
                 smooth: bool = True) -> np.ndarray:
    """Positions of a law at finer levels: by the monotone cubic through the cumulated masses, or straight lines."""
    own = levels_of(depths)
    cell = np.minimum(np.searchsorted(own, levels, side="right") - 1, masses.size - 1)
    share = (levels - own[cell]) * 2.0 ** depths[cell]
    inside = (share > 0) & (share < 1)
    out = np.where(share < 1, x[cell], x[-1])
    cell, share = cell[inside], share[inside]
    out[inside] = places(x, masses, cell, share) if smooth else x[cell] + share * (x[cell + 1] - x[cell])
    return out
