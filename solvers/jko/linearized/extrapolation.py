"""Beyond the present law on the geodesic from the one before: where a step of order 2 starts (inner="linearized")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.remap import advance_rows, ends_of_levels, face_densities, remap_line, sort_ends

from .stage import Stage

if TYPE_CHECKING:
    from .exact_step import ExactStep

#: Part of the mass, at either end of a line, that moves like the mass beside it: its own map is round-off.
TAIL = 1e-13
#: Largest factor by which extrapolation changes the mass of a cell: far tails cannot be extrapolated from densities.
LARGEST_FACTOR = 4.0
#: Largest part of the extrapolation that this limit may cost; else there is no step of order 2.
LOST = 0.05


def beyond(exact: ExactStep, before: np.ndarray, masses: np.ndarray, pressure: np.ndarray | None,
           tau: float, share: float) -> np.ndarray | None:
    r"""Return the masses a ``share`` farther on the geodesic from those a time tau before, or None where it is lost.

    On a line with two ends the map in order is known (`beyond_on_line`). Elsewhere it is not. Geodesics R that pass
    the present masses in almost the same direction have almost the same second derivative there. So the one with
    velocity :math:`-\nabla p` corrects the curvature of the linear extrapolation:
    :math:`R(s \tau) + s (R(-\tau) - \rho_{k-1})`, up to :math:`O(\tau^3)`, as long as no cell's mass changes by a large
    factor. A step of the published scheme has no such pressure.
    """
    if exact.line and not exact.grid.periodic[0]:
        return beyond_on_line(before, masses, np.array(exact.grid.edges[0]), share)
    if pressure is None:
        return None
    there, back = _along(exact, masses, pressure, share * tau), _along(exact, masses, pressure, -tau)
    new = there + share * (back - before)
    limited = np.clip(new, masses / LARGEST_FACTOR, masses * LARGEST_FACTOR)
    return limited if np.abs(limited - new).sum() <= LOST * np.abs(new - masses).sum() else None


# -------------------------------------------------------------------- a line with two ends
def beyond_on_line(before: np.ndarray, masses: np.ndarray, edges: np.ndarray, share: float) -> np.ndarray:
    r"""Return masses moved by :math:`x + s (x - T(x))`, where T is the map in order from them to those before.

    Parts of the law that would overtake each other stick together: the projection, in L2, onto maps that keep order
    (the metric extrapolation of Gallouet, Natale and Todeschini).
    """
    row = np.array(masses)
    change = share * (edges - map_in_order(row, before * (row.sum() / before.sum()), edges))
    below, least = np.cumsum(row), TAIL * row.sum()
    first, last = int(np.searchsorted(below, least)), int(np.searchsorted(below, below[-1] - least))
    change[:first], change[last + 2:] = change[first], change[last + 1]
    images = edges + change
    sort_ends(images, row, edges[0], edges[-1])
    ends = np.interp(edges, images, edges)
    ends[0], ends[-1] = edges[0], edges[-1]
    (density, weights), moved = np.empty((2, edges.size)), np.empty(row.size)
    face_densities(row, edges, 0, density)
    remap_line(row, edges, density, ends, moved, weights)
    return moved


def map_in_order(masses: np.ndarray, onto: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the images of the faces of a line under the map in order that takes masses to others of the same sum."""
    below = np.cumsum(masses)
    half = int(np.searchsorted(below, 0.5 * below[-1]))
    # From either side up to the median, so that the levels of far tails keep their digits.
    left = _quantiles(below[:half], np.array(onto), edges)
    mirrored = np.ascontiguousarray(-edges[::-1])
    right = -_quantiles(np.cumsum(masses[:half:-1]), np.ascontiguousarray(onto[::-1]), mirrored)[::-1]
    return np.concatenate((edges[:1], left, right, edges[-1:]))


def distance_squared(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> float:
    """Return the squared distance W2 between masses of the same sum on a line; the map is linear in each cell."""
    change = map_in_order(first, second * (first.sum() / second.sum()), edges) - edges
    left, right = change[:-1], change[1:]
    return float((first * (left * left + left * right + right * right)).sum()) / 3.0


def _quantiles(levels: np.ndarray, masses: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the ends below which masses of given levels lie."""
    density, ends = np.empty(edges.size), np.empty(levels.size)
    face_densities(masses, edges, 0, density)
    ends_of_levels(levels, masses, edges, density, np.append(0.0, np.cumsum(masses)), ends)
    return ends


# -------------------------------------------------------------------- circles and the plane
def _along(exact: ExactStep, masses: np.ndarray, pressure: np.ndarray, length: float) -> np.ndarray:
    r"""Return masses that have moved with velocity :math:`-\nabla p` on straight lines for a time.

    The pressure at the end solves :math:`\partial_t p = |\nabla p|^2 / 2`, one axis after the other.
    """
    ahead, shaped = pressure.reshape(exact.grid.shape), masses.reshape(exact.grid.shape)
    for axis in range(exact.grid.ndim):
        points, flat, edges = exact.rows(ahead, axis)
        advanced = np.empty_like(flat)
        advance_rows(flat, exact.rows(shaped, axis)[1], points, edges, length, advanced)
        ahead = exact.back(advanced, axis)
    return Stage(exact, masses, length).move(ahead.ravel())[0]
