r"""Kernels of the displacement as tables over the displacements of a uniform grid, in the order of the FFT.

**Which average.** A kernel that is smooth enters by its values at the displacements of cell centers. Where it is
singular at 0 it enters by averages over cells. With A the averaging over one cell, :math:`A^2 w` is the mean over both
cells of a pair: the energy is then exact for densities that are constant on cells, but Psi is too smooth, by
:math:`h^2 / 12\,\Psi''`. The table holds

.. math:: (2 A - A^2)\,w = (1 - (1 - A)^2)\,w,

which leaves smooth functions unchanged up to :math:`h^4`, so that smooth and singular kernels are treated alike. Both
are symmetric, so that the energy falls with either.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wgflow._cell_averages import Integrand, cell_averages, ray_rule
from wgflow.errors import InvalidInput
from wgflow.grids import Grid, call_user, real_array
from wgflow.operators import circular_offsets
from wgflow.singular_kernels import Kernel

__all__ = ["displacement_table"]

Array = NDArray[np.float64]


def displacement_table(w, grid: Grid, lengths: tuple[int, ...], average) -> tuple[Array, str]:
    """The kernel at the displacements of an FFT of given lengths, and in words how it was formed.

    Parameters
    ----------
    w : Kernel, callable or array
    average : None, bool or "double"
        As in `wgflow.Convolution`.
    """
    offsets = [circular_offsets(n, m) for n, m in zip(grid.shape, lengths)]
    if isinstance(w, np.ndarray):
        return _from_array(w, grid, offsets), "a table"
    if isinstance(w, Kernel):
        w.check(grid.ndim)
        average = not w.smooth if average is None else average
    if not average:
        mesh = np.meshgrid(*[k * h[0] for k, h in zip(offsets, grid.widths)], indexing="ij")
        values = real_array(call_user(w, mesh, "w"), "w")
        values = np.full(lengths, float(values)) if values.ndim == 0 else values
        if values.shape != lengths:
            raise InvalidInput(f"w returned shape {values.shape} for displacements of shape {lengths}; "
                               "it must return one value for each")
        return values, ""
    places, inverse = zip(*[np.unique(np.abs(k) if isinstance(w, Kernel) else k, return_inverse=True) for k in offsets])
    integrand = _OfKernel(w) if isinstance(w, Kernel) else _OfFunction(w, grid)
    single, double = cell_averages(integrand, places, [float(h[0]) for h in grid.widths])
    table = double if average == "double" else 2.0 * single - double
    return table[np.ix_(*inverse)], "means over pairs of cells" if average == "double" else "cell averages"


def _from_array(table: Array, grid: Grid, offsets) -> Array:
    need = tuple(n if p else 2 * n - 1 for n, p in zip(grid.shape, grid.periodic))
    if table.shape != need:
        raise InvalidInput(f"w has shape {table.shape}; need {need}: 2 n - 1 displacements from -(n - 1) to n - 1 "
                           "cells on a no-flux axis, n displacements from 0 on a periodic one")
    index = [np.mod(k, n) if p else k + n - 1 for k, n, p in zip(offsets, grid.shape, grid.periodic)]
    return table[np.ix_(*index)]


class _OfKernel(Integrand):
    def __init__(self, kernel: Kernel):
        self.kernel, self.length = kernel, kernel.scale
        self.breaks = (math.inf,)

    def values(self, points):
        return self.kernel.radial(_length(points))

    def rays(self, ends, powers):
        r = _length(ends)
        return np.array([sum((c * shape.ray(r, q) for c, shape in self.kernel.parts), np.zeros(r.shape))
                         for q in powers])


class _OfFunction(Integrand):
    """A user's function; on a periodic axis it is given displacements between minus and plus half the period."""

    length = math.nan

    def __init__(self, w, grid: Grid):
        self.w, self.widths = w, [float(h[0]) for h in grid.widths]
        self.periods = [hi - lo if p else 0.0 for (lo, hi), p in zip(grid.bounds, grid.periodic)]
        self.breaks = tuple(0.5 * period if period else math.inf for period in self.periods)

    def values(self, points):
        points = np.array(points)
        for x, period in zip(points, self.periods):
            if period:
                x -= period * np.round(x / period)
        values = real_array(call_user(self.w, tuple(points), "w"), "w")
        values = np.full(points.shape[1], float(values)) if values.ndim == 0 else values
        if values.shape != points.shape[1:]:
            raise InvalidInput(f"w returned shape {values.shape} for displacements of shape {points.shape[1:]}; "
                               "it must return one value for each")
        if not np.isfinite(values).all():
            worst = int(np.argmin(np.isfinite(values)))
            place = ", ".join(f"{x[worst]:g}" for x in points)
            raise InvalidInput(f"W({place}) is {values[worst]}; an average over cells takes a function that is finite "
                               "away from 0")
        return values

    def rays(self, ends, powers):
        s, weights = ray_rule()
        values = self.values((ends[:, :, None] * s).reshape(len(ends), -1)).reshape(-1, s.size)
        return np.array([(values * (weights * s**q)).sum(axis=1) for q in powers])


def _length(points: Array) -> Array:
    return np.abs(points[0]) if len(points) == 1 else np.sqrt((points * points).sum(axis=0))
