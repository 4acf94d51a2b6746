r"""Kernels of the displacement as tables over the displacements of a uniform grid, in the order of the FFT.

**Averages.** A smooth kernel is represented by its values at the displacements of cell centers, a kernel that is
singular at 0 by averages over cells. Let :math:`A w` be the average of w over one cell of a pair, so that :math:`A^2 w`
is its mean over both: with that the energy is exact for densities that are constant on cells, but Psi is too smooth, by
:math:`h^2 / 12\,\Psi''`. The table holds

.. math:: (2 A - A^2)\,w = (1 - (1 - A)^2)\,w,

which leaves smooth functions unchanged up to :math:`h^4`, so that smooth and singular kernels are treated alike. Both
are symmetric, so that the energy falls with either.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import call_user, real_array
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .cell_averages import Integrand, box_rule, cell_averages, hat_rule, ray_rule
from .kernel_checks import circular_offsets
from .named_kernels import Kernel
from .periodic_kernels import PeriodicKernel, periodic_kernel

__all__ = ["displacement_table", "self_drop"]

Array = NDArray[np.float64]

#: Points of the rules that average the smooth part of a periodic kernel.
MEAN_POINTS = 24
#: Least distance from 0, in cells, at which a function of several coordinates is evaluated: its square does not
#: underflow.
CLOSEST = 1e-140
#: A function counts as integrable if the last point of the rule along a ray adds at most this part of the integral.
TAIL = 1e-12


def displacement_table(w, grid: Grid, lengths: tuple[int, ...], average) -> tuple[Array, str]:
    """Return the kernel at the displacements of an FFT of given lengths, and in words how it was formed.

    Parameters
    ----------
    w : Kernel, callable or array
    average : None, bool or "double"
        As in `wgflow.Convolution`.
    """
    offsets = [circular_offsets(n, m) for n, m in zip(grid.shape, lengths)]
    if isinstance(w, np.ndarray):
        return _from_array(w, grid, offsets), "a table"
    widths = [float(h[0]) for h in grid.widths]
    function, periodic = w, None
    if isinstance(w, Kernel):
        w.check(grid.ndim)
        average = not w.smooth if average is None else average
        if any(grid.periodic):
            reach = tuple(n * h for n, h in zip(grid.shape, widths))
            function = periodic = periodic_kernel(w.parts, _periods(grid), reach)
    if not average:
        mesh = np.meshgrid(*[k * h for k, h in zip(offsets, widths)], indexing="ij")
        values = real_array(call_user(function, mesh, "w"), "w")
        values = np.full(lengths, float(values)) if values.ndim == 0 else values
        if values.shape != lengths:
            raise InvalidInput(f"w returned shape {values.shape} for displacements of shape {lengths}; "
                               "it must return one value for each")
        return values, ""
    places, inverse = zip(*[np.unique(np.abs(k) if isinstance(w, Kernel) else k, return_inverse=True) for k in offsets])
    if periodic is not None:
        single, double = _periodic_averages(periodic, grid.shape, places, widths)
    else:
        single, double = cell_averages(_OfKernel(w) if isinstance(w, Kernel) else _OfFunction(w, grid), places, widths)
    table = double if average == "double" else 2.0 * single - double
    return table[np.ix_(*inverse)], "means over pairs of cells" if average == "double" else "cell averages"


def self_drop(w, grid: Grid, average) -> float:
    """Return by how much a kernel's average at displacement 0 falls in cells of half the width; 0 if w(0) is finite."""
    if isinstance(w, Kernel):
        infinite = w.infinite and average is not False
    else:
        infinite = bool(average) and callable(w) and _is_infinite(w, grid.ndim)
    if not infinite:
        return 0.0
    integrand = _OfKernel(w) if isinstance(w, Kernel) else _OfFunction(w, grid)
    values = []
    for part in (1.0, 0.5):
        single, double = cell_averages(integrand, [np.zeros(1, int)] * grid.ndim, [part * h.max() for h in grid.widths])
        values.append(float((double if average == "double" else 2.0 * single - double).ravel()[0]))
    return values[0] - values[1]


def _is_infinite(w, ndim: int) -> bool:
    return not np.isfinite(np.asarray(call_user(w, [np.zeros(1)] * ndim, "w"), dtype=float)).all()


def _periodic_averages(kernel: PeriodicKernel, shape, places, widths) -> list[Array]:
    """Return the two means of a periodic kernel: of the images next to 0, and of the smooth rest."""
    waves = cell_averages(_OfKernel(kernel.waves), places, widths)
    reach = [np.arange(k.max() + n + 1 if p else k.max() + 1) for k, n, p in zip(places, shape, kernel.periods)]
    free = cell_averages(_OfKernel(kernel.rest), reach, widths)
    out = []
    for whole, wave, rule in zip(free, waves, (box_rule, hat_rule)):
        rest = kernel.series_table(places, widths, *rule(MEAN_POINTS))
        near = sum(whole[np.ix_(*[np.abs(k + s * n) for k, s, n in zip(places, shift, shape)])]
                   for shift in kernel.shifts)
        out.append(wave + rest + near)
    return out


def _periods(grid: Grid) -> tuple[float, ...]:
    return tuple(hi - lo if p else 0.0 for (lo, hi), p in zip(grid.bounds, grid.periodic))


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
        self.periods = _periods(grid)
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
        if len(ends) > 1:
            # Squares of coordinates must not underflow.
            s, weights = s[s > CLOSEST], weights[s > CLOSEST]
        values = self.values((ends[:, :, None] * s).reshape(len(ends), -1)).reshape(-1, s.size)
        parts = values * (weights * s ** powers[0])
        if np.abs(parts[:, 0]).max(initial=0.0) > TAIL * np.abs(parts).sum(axis=1).max(initial=0.0):
            raise InvalidInput("w has no integral at 0, or quadrature does not find it: it grows like |x|^-d there, on "
                               "d axes; give a table of averages")
        return np.array([(parts * s ** (q - powers[0])).sum(axis=1) for q in powers])


def _length(points: Array) -> Array:
    return np.abs(points[0]) if len(points) == 1 else np.sqrt(np.einsum("ij,ij->j", points, points))
