r"""Finer quantile levels for a law whose cells a step has stretched: the cells to cut, and the law at the new levels.

A mesh resolves a law where its cells are about as wide as those of the grid. A step that carries mass over a barrier,
or spreads it, widens cells; those that are too wide for their mass afterwards are cut into halves, fourths, ... of it.
The depth of a cell is the number of its cuts. Depths of neighbors differ by one at most, and runs of one depth have
several cells, so that quadrature in the index of the quantile keeps its order. Old levels are kept: meshes are nested.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from wgflow.compiled.quantile import excess_widths, weighted_distance

from .mesh import Mesh, node_weights, places

__all__ = ["between", "check_state", "cut", "depths_wanted", "halved", "levels_of", "mesh_of", "positions_at",
           "refined", "squared_distance", "together"]

#: Number of the grid's cells that a cell may span.
WIDEST = 2.0
#: Number of the grid's cells that a cell may span after a cut; less than `WIDEST`, so that cuts are rare.
WANTED = 1.25
#: Part of the mass below which a cell may span any number of the grid's cells.
TOO_LIGHT = 1e-6
#: Number of cells on either side of a cell whose depth is at most one less.
MARGIN = 4
#: Cuts of a cell at a time.
MOST_CUTS = 3
#: Largest number of cells, relative to that at the start of the run.
MOST_CELLS = 6


def mesh_of(positions: np.ndarray, masses: np.ndarray, depths: np.ndarray) -> Mesh:
    """Return a mesh whose quadrature treats each run of one depth by itself."""
    ends = np.concatenate(([0], np.flatnonzero(np.diff(depths)) + 1, [masses.size]))
    weights = np.zeros(masses.size + 1)
    for first, last in pairwise(ends):
        weights[first:last + 1] += node_weights(masses[first:last])
    return Mesh(positions, masses, np.log(masses), weights)


def depths_wanted(x: np.ndarray, masses: np.ndarray, depths: np.ndarray, edges: np.ndarray) -> np.ndarray | None:
    """Return the depths at which cells resolve a law at positions x; None where the mesh resolves it already."""
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
    """Return the largest value within ``reach`` places of each."""
    padded = np.pad(values, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)


def cut(masses: np.ndarray, depths: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masses and depths of the cells, each cut to the depth wanted of it; sums of masses keep their bits."""
    parts = 2 ** (wanted - depths)
    return np.repeat(masses / parts, parts), np.repeat(wanted, parts)


def levels_of(depths: np.ndarray) -> np.ndarray:
    """Return the levels between cells, counted in cells of depth 0: binary fractions, hence exact."""
    return np.append(0.0, np.cumsum(0.5**depths))


def positions_at(levels: np.ndarray, x: np.ndarray, masses: np.ndarray, depths: np.ndarray,
                 smooth: bool = True) -> np.ndarray:
    """Return the positions of a law at finer levels, by the monotone cubic through the cumulated masses or by lines."""
    own = levels_of(depths)
    cell = np.minimum(np.searchsorted(own, levels, side="right") - 1, masses.size - 1)
    share = (levels - own[cell]) * 2.0 ** depths[cell]
    inside = (share > 0) & (share < 1)
    out = np.where(share < 1, x[cell], x[-1])
    cell, share = cell[inside], share[inside]
    out[inside] = places(x, masses, cell, share) if smooth else x[cell] + share * (x[cell + 1] - x[cell])
    return out


def halved(mesh: Mesh, positions: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """Return the mesh of every second level, at its part of the positions, and which levels it keeps."""
    kept = np.append(np.arange(0, mesh.masses.size, 2), mesh.masses.size)
    masses = np.add.reduceat(mesh.masses, kept[:-1])
    return Mesh(positions[kept], masses, np.log(masses), node_weights(masses)), kept


def between(x: np.ndarray, kept: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return positions at all levels from those that are kept, with one density in each coarse cell."""
    levels = np.concatenate(([0.0], np.cumsum(masses)))
    low, high = np.repeat(kept[:-1], np.diff(kept)), np.repeat(kept[1:], np.diff(kept))
    left, right = np.repeat(x[:-1], np.diff(kept)), np.repeat(x[1:], np.diff(kept))
    inside = left + (right - left) * ((levels[:-1] - levels[low]) / (levels[high] - levels[low]))
    return np.append(inside, x[-1])


# -------------------------------------------------------------------- the solver's states, dicts of arrays
def refined(state: dict, x: np.ndarray, edges: np.ndarray) -> tuple[dict, np.ndarray] | None:
    """Return a state, and the result x of a step from it, on a mesh that resolves x; None if the present one does."""
    masses, depths = state["masses"], state["depths"]
    wanted = depths_wanted(x, masses, depths, edges)
    if wanted is None or (2 ** (wanted - depths)).sum() > MOST_CELLS * state["first_cells"]:
        return None
    new_masses, new_depths = cut(masses, depths, wanted)
    levels, old = levels_of(new_depths), levels_of(depths)
    last = positions_at(levels, state["last"], masses, depths)
    # The extrapolation of BDF2 and the velocity are smooth functions of the level.
    ahead, velocity = (np.interp(levels, old, f) for f in (state["positions"] - state["last"], state["velocity"]))
    new = {**state, "last": last, "positions": last + ahead, "velocity": velocity, "masses": new_masses,
           "depths": new_depths}
    return new, positions_at(levels, x, masses, depths, False)


def together(one: dict, two: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of two states, whose meshes refine the same one, at the levels of both."""
    if one["masses"] is two["masses"]:
        return one["positions"], two["positions"]
    levels = np.union1d(levels_of(one["depths"]), levels_of(two["depths"]))
    a, b = (positions_at(levels, s["positions"], s["masses"], s["depths"]) for s in (one, two))
    return a, b


def squared_distance(one: dict, two: dict) -> float:
    """Return W2^2 of two states."""
    a, b = together(one, two)
    masses, depths = one["masses"], one["depths"]
    if a.size > masses.size + 1:
        levels = np.union1d(levels_of(depths), levels_of(two["depths"]))
        cell = np.searchsorted(levels_of(depths), levels[:-1], side="right") - 1
        masses = masses[cell] * np.diff(levels) * 2.0 ** depths[cell]
        depths = np.zeros(masses.size, dtype=depths.dtype)
    return weighted_distance(a, b, mesh_of(a, masses, depths).weights)


def check_state(state: dict, bounds: tuple[float, float]) -> None:
    """Refuse a state, read from a file, that no run can have written, by a ValueError that says why."""
    n, (low, high) = state["masses"].size, bounds
    for name, size in {"masses": n, "depths": n, "last": n + 1, "positions": n + 1, "velocity": n + 1}.items():
        if state[name].shape != (size,) or not np.isfinite(state[name]).all():
            raise ValueError(f"{name} has shape {state[name].shape}, need {size} finite entries")
    x, depths = state["last"], state["depths"]
    if n < 1 or not (low <= x[0] and (np.diff(x) >= 0).all() and x[-1] <= high):
        raise ValueError("last: need positions on the grid in order")
    if not (low <= state["positions"].min() and state["positions"].max() <= high):
        raise ValueError("positions: need positions on the grid")
    if not (state["masses"] > 0).all() or depths.dtype != np.int64 or not ((depths >= 0) & (depths < 60)).all():
        raise ValueError("masses and depths of quantile cells must be positive, and small integers")
    if not all(np.isfinite(state[name]) for name in ("credit", "first_cells")):
        raise ValueError("credit and first_cells must be finite")
