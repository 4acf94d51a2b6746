"""Terms at points: the points of a law, values of users' functions, and gradients by sixth-order differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.checks import call_user, real_array
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid

__all__ = ["box_of", "check_points", "check_seams", "differences", "gradient_at", "located",
           "probe_atoms", "values_at"]
Array = NDArray[np.float64]
#: Step of the differences, relative to 1 or to the width of the box if that is smaller. For functions that vary on a
#: scale of 1/3 the errors of truncation, h^6 f^(7) / 140, and of round-off, about 2 eps f / h, are then about equal.
STEP = 0.005
#: Points at which differences are evaluated at a time.
BATCH = 100_000
#: Atoms from which the ends of a period are looked at,
SEAM_PROBES = 64
#: cells from which they are,
GRID_PROBES = 16
#: and the jump there that is more than rounding, relative to the largest value.
SEAM_JUMP = 1e-6
#: Part of the period by which points are moved off the atoms to see the size of a function.
INSIDE = 0.381966
#: Weights of the derivative at node s of the seven nodes -3, ..., 3, one row for each s.
_NODES = np.arange(-3, 4)
_WEIGHTS = np.array([np.linalg.solve(np.vander(_NODES - s, increasing=True).T.astype(float), np.eye(7)[1])
                     for s in _NODES])
_WEIGHTS[3] = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60.0


def located(rho: Density | Atoms) -> tuple[Array, Array]:
    """Return the points (n_coordinates, n) and masses (n,) of a law: the cell centers of a density."""
    if isinstance(rho, Atoms):
        return rho.points, rho.weights
    if not isinstance(rho, Density):
        raise InvalidType(f"rho must be a Density or Atoms, got {type(rho).__name__}")
    return np.array([c.ravel() for c in rho.grid.mesh()]), rho.masses.ravel()


def box_of(rho: Density | Atoms) -> tuple[list[tuple[float, float]], list[float]]:
    """Return the bounds of each coordinate (infinite where it is periodic), and its period (0 where it has none)."""
    bounds, periodic = (rho.bounds, rho.periodic) if isinstance(rho, Atoms) else (rho.grid.bounds, rho.grid.periodic)
    periods = [hi - lo if p else 0.0 for (lo, hi), p in zip(bounds, periodic)]
    return [(-math.inf, math.inf) if p else pair for pair, p in zip(bounds, periodic)], periods


def check_points(rho: Density | Atoms, points: Any) -> Array:
    """Return points as an array (n_coordinates, n), with as many coordinates as the law has."""
    array = real_array(points, "points")
    ndim = rho.ndim if isinstance(rho, Atoms) else rho.grid.ndim
    array = array[None] if array.ndim == 1 and ndim == 1 else array
    if array.ndim != 2 or len(array) != ndim:
        raise InvalidInput(f"points has shape {array.shape}; need ({ndim}, n), a row for each coordinate of rho")
    return array


def values_at(function: Callable[..., Any], points: Array, what: str, rows: tuple[int | None, ...] = ()) -> Array:
    """Return a user's function at points (n_coordinates, n), checked: shape (*rows, n), real and finite.

    A row count of None stands for any; a last row axis of count None or 1 may be missing. A number counts as a constant
    function if ``rows`` is empty.
    """
    n = points.shape[1]
    values = real_array(call_user(function, tuple(points), what), what)
    if not rows and values.ndim == 0:
        values = np.full(n, float(values))
    if rows and rows[-1] in (None, 1) and values.ndim == len(rows) and values.shape[-1:] == (n,):
        values = values[..., None, :]
    fits = values.ndim == len(rows) + 1 and values.shape[-1] == n
    if not fits or any(r is not None and r != m for r, m in zip(rows, values.shape)):
        need = ", ".join([*("k" if r is None else str(r) for r in rows), str(n)])
        raise InvalidInput(f"{what} returned shape {values.shape} for coordinates of shape ({n},); need ({need}"
                           + (",)" if not rows else ")"))
    if not np.isfinite(values).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(values))[0])
        place = ", ".join(f"{x:g}" for x in points[:, where[-1]])
        raise InvalidInput(f"{what} is {values[where]} at ({place}); it must be finite where the law is")
    return values


def gradient_at(gradient: Callable[..., Any] | None, function: Callable[[Array], Array], rho: Density | Atoms,
                points: Array, what: str) -> Array:
    """Return the user's gradient at points, or without one differences of ``function`` (of an array of points)."""
    if gradient is None:
        return differences(function, points, box_of(rho)[0])
    return values_at(gradient, points, what, (len(points),))


def differences(function: Callable[[Array], Array], points: Array, bounds: Sequence[tuple[float, float]]) -> Array:
    """Return the gradient (n_coordinates, n) of ``function`` at points, by differences of sixth order over seven nodes.

    The nodes are spaced by `STEP` (of the box, where that is narrower than 1) and centered at the point; near a bound
    they are moved inside.
    """
    out = np.zeros(points.shape)
    moved, weights = [], []
    for axis, (lo, hi) in enumerate(bounds):
        h = STEP * min(1.0, hi - lo)
        x = points[axis]
        # Number of nodes by which the stencil moves to stay inside: the point is then node -shift of it.
        shift = np.clip(np.ceil((lo - x) / h) + 3, 0, 3) - np.clip(np.ceil((x - hi) / h) + 3, 0, 3)
        for node, weight in zip(_NODES, _WEIGHTS[(3 - shift).astype(int)].T / h):
            if weight.any():
                moved.append(points.copy())
                moved[-1][axis] = x + (node + shift) * h
                weights.append((axis, weight))
    # Few points are evaluated in one call, since a call of a user's function costs more than its arithmetic.
    count = max(1, BATCH // max(1, points.shape[1]))
    for start in range(0, len(moved), count):
        batch = moved[start:start + count]
        values = function(np.concatenate(batch, axis=1)).reshape(len(batch), -1)
        for (axis, weight), value in zip(weights[start:start + count], values):
            out[axis] += weight * value
    return out


def _pointwise(function: Callable[[Array], Array], first: Array, last: Array, values: Array) -> bool:
    """Return whether a function gives the same for the same points, in another order and number.

    One that returns kept values of cells, whatever the points, may have as many of them as there were points.
    """
    try:
        with np.errstate(all="ignore"):
            again = np.asarray(function(np.concatenate([last, first], axis=1))).reshape(2, -1)
    except (InvalidInput, ValueError):
        return False
    return again.shape == values[:2].shape and np.allclose(again[::-1], values[:2], equal_nan=True)


def check_seams(function: Callable[[Array], Array], rho: Atoms, what: str) -> None:
    """Refuse a function of points that differs between the two ends of a periodic coordinate.

    On a circle such a function has a jump at the seam, where a constant force round the circle was probably meant,
    which is not a gradient. A method on a grid would find the law of the jump, and points would walk through it, since
    no gradient shows it.

    Raises
    ------
    InvalidInput
        If it jumps by more than 1e-6 of its largest value.
    """
    probes = rho.points[:, :: max(1, rho.points.shape[1] // SEAM_PROBES)]
    for axis, (turns, (lo, hi)) in enumerate(zip(rho.periodic, rho.bounds)):
        if not turns:
            continue
        first, last, inside = probes.copy(), probes.copy(), probes.copy()
        first[axis], last[axis] = lo, hi
        # Away from the atoms, where interactions may be singular.
        inside[axis] = lo + np.mod(probes[axis] - lo + INSIDE * (hi - lo), hi - lo)
        try:
            with np.errstate(all="ignore"):
                values = function(np.concatenate([first, last, inside], axis=1)).reshape(3, -1)
        except InvalidInput:
            # It has no value at the ends, so that it has no jump either that could be named.
            continue
        # The points inside tell the size of a function that vanishes at both ends, but for rounding.
        jump = float(np.abs(values[1] - values[0]).max())
        if jump > SEAM_JUMP * float(np.abs(values).max()) and _pointwise(function, first, last, values):
            raise InvalidInput(f"{what} differs by {jump:.3g} between the two ends ({lo:g} and {hi:g}) of the periodic "
                               f"coordinate {rho.names[axis]}, so that it jumps where they meet. A constant force "
                               "round a circle is not a gradient, and out of scope; give a periodic function, or "
                               "boundary='no-flux' on this axis for a wall there. Where a jump is meant, as that of a "
                               "sawtooth, choose the period so that it lies inside, and take a method on a grid")


def probe_atoms(grid: Grid) -> Atoms:
    """Return atoms of different weights at some cell centers of a grid."""
    cells = np.unique(np.linspace(0, grid.size - 1, GRID_PROBES).astype(int))
    points = np.array([c[index] for c, index in zip(grid.centers, np.unravel_index(cells, grid.shape))])
    weights = 1.0 / np.arange(1.0, cells.size + 1.0)
    return Atoms(points, weights / weights.sum(), grid.bounds, None, grid.names, grid.periodic)


def need_function(function, what: str) -> None:
    """Refuse values at cell centers where values at points are needed."""
    if not callable(function):
        raise InvalidInput(f"{what} is an array of values at cell centers, so it is not known at points; give a "
                           "function of the coordinates")


def free_part(velocity: np.ndarray, rho: Atoms) -> np.ndarray:
    """Return the velocities (n_coordinates, n) of atoms without the components that would leave the bounds."""
    for axis, (lo, hi) in enumerate(box_of(rho)[0]):
        x, v = rho.points[axis], velocity[axis]
        held = ((x <= lo) & (v < 0)) | ((x >= hi) & (v > 0))
        if held.any():
            velocity = velocity.copy()
            velocity[axis, held] = 0.0
    return velocity
