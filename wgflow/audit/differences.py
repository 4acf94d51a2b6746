"""Differences and interpolation of values on the cells of a grid, for the audit alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.potentials import Potential
from wgflow.grids import Grid

__all__ = ["at_faces", "center_slopes", "log_at_faces", "of_one_axis", "slopes"]

Array = NDArray[np.float64]
#: Logarithm of the factor over four cells up to which a weight is taken for a polynomial.
MODERATE = 2.0


def slopes(values: Array, x: Array) -> Array:
    """Return the slopes along the first axis of the polynomials through each value and its four neighbors."""
    if len(values) < 5:
        return np.gradient(values, x.reshape(-1), axis=0)
    first = np.clip(np.arange(len(values)) - 2, 0, len(values) - 5)
    known = x[first[:, None] + np.arange(5)]
    out = np.zeros(values.shape)
    for j in range(5):
        others = [k for k in range(5) if k != j]
        weight = np.zeros(x.shape)
        for skipped in others:
            rest = [k for k in others if k != skipped]
            weight = weight + (x[:, None] - known[:, rest]).prod(axis=1)
        out += values[first + j] * weight / (known[:, j, None] - known[:, others]).prod(axis=1)
    return out


def center_slopes(values: Array, grid: Grid) -> list[Array]:
    """Return differences of values at the centers of cells along each axis."""
    out = []
    for axis, x in enumerate(grid.centers):
        v = np.moveaxis(values, axis, 0)
        x = x.reshape(-1, *[1] * (grid.ndim - 1))
        slope = np.empty(v.shape)
        slope[1:-1] = (v[2:] - v[:-2]) / (x[2:] - x[:-2])
        if grid.periodic[axis]:
            lo, hi = grid.bounds[axis]
            slope[0] = (v[1] - v[-1]) / (x[1] - x[-1] + hi - lo)
            slope[-1] = (v[0] - v[-2]) / (x[0] - x[-2] + hi - lo)
        else:
            slope[0], slope[-1] = (v[1] - v[0]) / (x[1] - x[0]), (v[-1] - v[-2]) / (x[-1] - x[-2])
        out.append(np.ascontiguousarray(np.moveaxis(slope, 0, axis)))
    return out


def of_one_axis(ratio: Array) -> Array:
    """Return an array with its other axes shrunk to 1 where it varies along the first alone."""
    line = ratio[(slice(None), *[slice(0, 1)] * (ratio.ndim - 1))]
    return line if np.allclose(ratio, line, rtol=1e-9, atol=0.0) else ratio


def log_at_faces(log_w: Array) -> Array:
    """Return the logarithm of a weight between cells from those of its averages, of fourth order.

    By polynomials where the weight varies by a moderate factor over four cells (exact for r, r^2, r^3), by its
    logarithm where it varies by more: the average of e^(a x) over a cell of width 1 is sinh(a/2) / (a/2) times its
    value at the center.
    """
    low, high = log_w[:-1], log_w[1:]
    out = 0.5 * (low + high)
    if len(log_w) < 4:
        return out
    middle, outer = out[1:-1], 0.5 * (low[:-2] + high[2:])
    half = np.maximum(0.5 * np.abs(high - low)[1:-1], 1e-8)
    steep = 1.125 * middle - 0.125 * outer - (half + np.log1p(-np.exp(-2.0 * half)) - np.log(2.0 * half))
    with np.errstate(over="ignore"):
        near = np.exp(low[1:-1] - middle) + np.exp(high[1:-1] - middle)
        far = np.exp(low[:-2] - middle) + np.exp(high[2:] - middle)
        gentle = middle + np.log(np.maximum((7.0 * near - far) / 12.0, 0.5))
    out[1:-1] = np.where(np.abs(high[2:] - low[:-2]) < MODERATE, gentle, steep)
    return out


def at_faces(term: Potential, mesh: list[Array], axis: int, grid: Grid) -> Array:
    """Return V at the faces across an axis; where it is known at centers alone, or infinite, from its values there."""
    V = term.V
    found = None
    if callable(V):
        with np.errstate(all="ignore"):
            found = np.array(np.broadcast_to(np.asarray(V(*mesh), dtype=float), mesh[0].shape))
        if np.isfinite(found).all():
            return found
    center = np.moveaxis(term.values(grid), axis, 0)
    faces = np.empty((center.shape[0] + 1, *center.shape[1:]))
    faces[1:-1] = 0.5 * (center[1:] + center[:-1])
    faces[0], faces[-1] = 1.5 * center[0] - 0.5 * center[1], 1.5 * center[-1] - 0.5 * center[-2]
    faces = np.moveaxis(faces, 0, axis)
    return faces if found is None else np.where(np.isfinite(found), found, faces)
