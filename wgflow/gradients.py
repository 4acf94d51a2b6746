"""Terms at points: where a law sits, what a user's function is there, and gradients by sixth-order differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import call_user, real_array
from wgflow.kernels.lowrank import rows_dot
from wgflow.singular_kernels import Kernel

__all__ = ["at_pairs", "box_of", "check_points", "differences", "displaced", "gradient_at", "kernel_sum", "located",
           "pair_sum", "values_at"]

Array = NDArray[np.float64]

#: Step of the differences, relative to 1 or to the width of the box if that is smaller: where the error of truncation,
#: h^6 f^(7) / 140, and that of round-off, about 2 eps f / h, are alike for functions that vary on a scale of 1/3.
STEP = 0.005
#: Points at which differences are evaluated at a time.
BATCH = 100_000
#: Pairs of points evaluated at a time (32 MB a block).
BLOCK_ENTRIES = 4_000_000
#: Weights of the derivative at node s of the seven nodes -3, ..., 3, one row for each s.
_NODES = np.arange(-3, 4)
_WEIGHTS = np.array([np.linalg.solve(np.vander(_NODES - s, increasing=True).T.astype(float), np.eye(7)[1])
                     for s in _NODES])
_WEIGHTS[3] = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60.0


def located(rho: Density | Atoms) -> tuple[Array, Array]:
    """Points (n_coordinates, n) and masses (n,) of a law: the cell centers of a density."""
    if isinstance(rho, Atoms):
        return rho.points, rho.weights
    if not isinstance(rho, Density):
        raise InvalidType(f"rho must be a Density or Atoms, got {type(rho).__name__}")
    return np.array([c.ravel() for c in rho.grid.mesh()]), rho.masses.ravel()


def box_of(rho: Density | Atoms) -> tuple[list[tuple[float, float]], list[float]]:
    """Bounds of each coordinate (infinite where it is periodic), and its period (0 where it has none)."""
    bounds, periodic = (rho.bounds, rho.periodic) if isinstance(rho, Atoms) else (rho.grid.bounds, rho.grid.periodic)
    periods = [hi - lo if p else 0.0 for (lo, hi), p in zip(bounds, periodic)]
    return [(-math.inf, math.inf) if p else pair for pair, p in zip(bounds, periodic)], periods


def check_points(rho: Density | Atoms, points: Any) -> Array:
    """Points as an array (n_coordinates, n) of as many coordinates as the law has."""
    array = real_array(points, "points")
    ndim = rho.ndim if isinstance(rho, Atoms) else rho.grid.ndim
    array = array[None] if array.ndim == 1 and ndim == 1 else array
    if array.ndim != 2 or len(array) != ndim:
        raise InvalidInput(f"points has shape {array.shape}; need ({ndim}, n), a row for each coordinate of rho")
    return array


def values_at(function: Callable[..., Any], points: Array, what: str, rows: tuple[int | None, ...] = ()) -> Array:
    """A user's function at points (n_coordinates, n), checked: shape (*rows, n), real and finite.

    A row count of None stands for any; a last row count of None or 1 may be left out. A number is taken for a constant
    where ``rows`` is empty.
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
    """The user's gradient at points, or differences of ``function`` (of an array of points) where there is none."""
    if gradient is None:
        return differences(function, points, box_of(rho)[0])
    return values_at(gradient, points, what, (len(points),))


def differences(function: Callable[[Array], Array], points: Array, bounds: Sequence[tuple[float, float]]) -> Array:
    """Gradient (n_coordinates, n) of ``function`` at points, by differences of sixth order over seven nodes.

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
    # Few points are handed over all at once, since a call of a user's function costs more than its arithmetic.
    count = max(1, BATCH // max(1, points.shape[1]))
    for start in range(0, len(moved), count):
        batch = moved[start:start + count]
        values = function(np.concatenate(batch, axis=1)).reshape(len(batch), -1)
        for (axis, weight), value in zip(weights[start:start + count], values):
            out[axis] += weight * value
    return out


# -------------------------------------------------------------------- sums over pairs of points
def pair_sum(kernel, rho: Density | Atoms, points: np.ndarray, rows: int | None = None) -> np.ndarray:
    """sum_j m_j k(x, theta_j) at points x (n_coordinates, n), shape (n,), or (rows, n) for a kernel of as many rows.

    ``kernel`` takes two arrays (n_coordinates, n) of points and is given blocks of all pairs.
    """
    sources, masses = located(rho)
    n, m = points.shape[1], masses.size
    out = np.empty((n,) if rows is None else (rows, n))
    step = max(1, BLOCK_ENTRIES // (m * (rows or 1)))
    for start in range(0, n, step):
        block = points[:, start:start + step]
        count = block.shape[1]
        values = kernel(np.repeat(block, m, axis=1), np.tile(sources, count)).reshape(-1, m)
        sums = rows_dot(np.ascontiguousarray(values), masses)
        out[..., start:start + count] = sums.reshape(out.shape[:-1] + (count,))
    return out


def at_pairs(function, x: np.ndarray, y: np.ndarray, what: str, rows: int | None = None) -> np.ndarray:
    """A function of two points at pairs of them."""
    return values_at(function, np.concatenate([x, y]), what, () if rows is None else (rows,))


def displaced(function, x: np.ndarray, y: np.ndarray, rho, what: str, rows: int | None = None) -> np.ndarray:
    """A function of the displacement at pairs of points, the shorter way around on a periodic coordinate."""
    gap = x - y
    for axis, period in enumerate(box_of(rho)[1]):
        if period:
            gap[axis] -= period * np.round(gap[axis] / period)
    return values_at(function, gap, what, () if rows is None else (rows,))


def kernel_sum(kernel: Kernel, rho: Density | Atoms, points: np.ndarray, rows: int | None = None) -> np.ndarray:
    """sum_j m_j w(x - theta_j) of a named kernel at points (n_coordinates, n), or with ``rows`` its gradient.

    Periodic coordinates take the periodic kernel. Under a kernel that is infinite at 0 a point feels no atom at its own
    place, which is itself; atoms that coincide are refused, and so is a density, whose cells are no points.
    """
    kernel.check(len(points))
    if kernel.infinite:
        _check_apart(kernel, rho)
    periods = tuple(box_of(rho)[1])
    if any(periods):
        from wgflow.periodic_kernels import periodic_kernel

        sources, _ = located(rho)
        # Powers of two, so that moving points meet the same expansion.
        reach = [0.0 if period else 2.0 ** math.ceil(math.log2(max(1e-300, float(np.ptp(np.append(x, y))))))
                 for period, x, y in zip(periods, points, sources)]
        function: Any = periodic_kernel(kernel.parts, periods, tuple(reach))
    else:
        function = kernel

    def at(x, y):
        gap = x - y
        for axis, period in enumerate(periods):
            if period:
                gap[axis] -= period * np.round(gap[axis] / period)
        values = function(*gap) if rows is None else function.gradient(*gap)
        if kernel.infinite:
            values[..., (gap == 0).all(axis=0)] = 0.0
        return values

    return pair_sum(at, rho, points, rows)


def _check_apart(kernel: Kernel, rho: Density | Atoms) -> None:
    """Refuse atoms that coincide."""
    if not isinstance(rho, Atoms):
        raise InvalidInput(f"{kernel!r} is infinite at 0, so that a Density has no sum over points; take "
                           "Atoms.from_density(rho), or first_variation(rho) on its grid")
    order = np.lexsort(rho.points)
    same = (np.diff(rho.points[:, order]) == 0).all(axis=0)
    if same.any():
        i, j = sorted(int(k) for k in order[int(same.argmax()):][:2])
        place = ", ".join(f"{x:g}" for x in rho.points[:, i])
        raise InvalidInput(f"atoms {i} and {j} coincide at ({place}), where {kernel!r} is infinite; move them apart, "
                           "or merge them into one of their joint weight")
