r"""Finer levels for a law that a step tears apart: which cells are cut, and the law at the new levels.

A mesh resolves a law where its cells are about as wide as those of the grid. A step that carries mass over a barrier,
or lets it spread, widens cells; those that became too wide for the mass in them are cut into halves, fourths, ... of
their mass. The depth of a cell says how often it was cut. Depths of neighbors differ by one at most, in runs of several
cells, so that quadrature in the number of the quantile keeps its order. Old levels stay: meshes are nested.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from wgflow.compiled.quantile import excess_widths, weighted_distance

from .mesh import Mesh, node_weights, places

__all__ = ["check_state", "cut", "depths_wanted", "levels_of", "mesh_of", "positions_at", "refined",
           "squared_distance", "together"]

#: Cells of the grid that a cell may span; what cells are cut to once one spans more, so that this is rare; the part of
#: the mass below which a cell may span any number.
WIDEST, WANTED, TOO_LIGHT = 2.0, 1.25, 1e-6
#: Cells on either side of a cell that are at most one cut behind it, and cuts at a time.
MARGIN, MOST_CUTS = 4, 3
#: Cells relative to those that a run starts with.
MOST_CELLS = 6


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


# -------------------------------------------------------------------- states of the solver: dicts of arrays
def refined(state: dict, x: np.ndarray, edges: np.ndarray) -> tuple[dict, np.ndarray] | None:
    """A state and the law x that a step made of it on a mesh that resolves x better; None where that is not needed."""
    masses, depths = state["masses"], state["depths"]
    wanted = depths_wanted(x, masses, depths, edges)
    if wanted is None or (2 ** (wanted - depths)).sum() > MOST_CELLS * state["first_cells"]:
        return None
    new_masses, new_depths = cut(masses, depths, wanted)
    levels, old = levels_of(new_depths), levels_of(depths)
    last = positions_at(levels, state["last"], masses, depths)
    # What BDF2 goes ahead, and the velocity, are smooth functions of the level.
    ahead, velocity = (np.interp(levels, old, f) for f in (state["positions"] - state["last"], state["velocity"]))
    new = {**state, "last": last, "positions": last + ahead, "velocity": velocity, "masses": new_masses,
           "depths": new_depths}
    return new, positions_at(levels, x, masses, depths, False)


def together(one: dict, two: dict) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two states, whose meshes are refinements of the same one, at the levels of both."""
    if one["masses"] is two["masses"]:
        return one["positions"], two["positions"]
    levels = np.union1d(levels_of(one["depths"]), levels_of(two["depths"]))
    a, b = (positions_at(levels, s["positions"], s["masses"], s["depths"]) for s in (one, two))
    return a, b


def squared_distance(one: dict, two: dict) -> float:
    """W2^2 of two states."""
    a, b = together(one, two)
    masses, depths = one["masses"], one["depths"]
    if a.size > masses.size + 1:
        levels = np.union1d(levels_of(depths), levels_of(two["depths"]))
        cell = np.searchsorted(levels_of(depths), levels[:-1], side="right") - 1
        masses = masses[cell] * np.diff(levels) * 2.0 ** depths[cell]
        depths = np.zeros(masses.size, dtype=depths.dtype)
    return weighted_distance(a, b, mesh_of(a, masses, depths).weights)


def check_state(state: dict, bounds: tuple[float, float]) -> None:
    """Refuse a state from a file that no run could have made; ValueError says what is wrong."""
    n, (low, high) = state["masses"].size, bounds
    for name, size in {"masses": n, "depths": n, "last": n + 1, "positions": n + 1, "velocity": n + 1}.items():
        if state[name].shape != (size,) or not np.isfinite(state[name]).all():
            raise ValueError(f"{name} has shape {state[name].shape}, need {size} finite entries")
    x, depths = state["last"], state["depths"]
    if n < 1 or not (low <= x[0] and (np.diff(x) >= 0).all() and x[-1] <= high):
        raise ValueError("last: positions on the grid that do not fall are needed")
    if not (state["masses"] > 0).all() or depths.dtype != np.int64 or not ((depths >= 0) & (depths < 60)).all():
        raise ValueError("masses and depths of quantile cells must be positive, and small integers")
    if not all(np.isfinite(state[name]) for name in ("credit", "first_cells")):
        raise ValueError("credit and first_cells must be finite")
