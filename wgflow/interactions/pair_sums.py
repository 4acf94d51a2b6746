"""Sums over pairs of points: U rho and its gradient where the law is given by points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.compiled.lowrank import rows_dot
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.gradients import box_of, located, values_at

from .named_kernels import Kernel

#: Pairs of points evaluated at a time (8 MB a block).
BLOCK_ENTRIES = 1_000_000


def pair_sum(kernel, rho: Density | Atoms, points: np.ndarray, rows: int | None = None) -> np.ndarray:
    """Return sum_j m_j k(x, theta_j) at points x (n_coordinates, n): (n,), or (rows, n) for a kernel with several rows.

    ``kernel`` takes two arrays (n_coordinates, n) of points, and is called with blocks of pairs.
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
    """Return a function of two points at pairs of them."""
    return values_at(function, np.concatenate([x, y]), what, () if rows is None else (rows,))


def displaced(function, x: np.ndarray, y: np.ndarray, rho, what: str, rows: int | None = None) -> np.ndarray:
    """Return a function of the displacement at pairs of points, by the shorter way around on a periodic coordinate."""
    gap = x - y
    for axis, period in enumerate(box_of(rho)[1]):
        if period:
            gap[axis] -= period * np.round(gap[axis] / period)
    return values_at(function, gap, what, () if rows is None else (rows,))


def kernel_sum(kernel: Kernel, rho: Density | Atoms, points: np.ndarray, rows: int | None = None) -> np.ndarray:
    """Return sum_j m_j w(x - theta_j) of a named kernel at points (n_coordinates, n), or with ``rows`` its gradient.

    On periodic coordinates it is the periodic kernel. For a kernel that is infinite at 0 an atom at the point itself is
    left out, atoms that coincide are refused, and so is a density.
    """
    kernel.check(len(points))
    if kernel.infinite:
        _check_apart(kernel, rho)
    periods = tuple(box_of(rho)[1])
    if any(periods):
        from wgflow.interactions.periodic_kernels import periodic_kernel

        sources, _ = located(rho)
        # Powers of two, so that moving points reuse the same expansion.
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
