"""Atoms from a density on a grid: quadratures of fourth order, and the powers in a grid's weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.grids import Grid, log_power_cell_average

if TYPE_CHECKING:
    from wgflow.densities import Density

__all__ = ["atoms_of_cells", "powers_of"]

#: Cells with less than this part of the mean mass of a cell are left out: together they are round-off of the mass.
EMPTY = 1e-17
#: Least number of atoms for a density on one axis; on more axes each cell becomes one.
LINE_ATOMS = 1000
#: A grid's weight counts as a product of powers if their logarithms differ by at most this.
WEIGHT_TOLERANCE = 1e-9


def atoms_of_cells(rho: Density, per_cell: int | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points (ndim, n) and weights (n,) of the atoms of a density; see `Atoms.from_density`."""
    if rho.grid.ndim == 1:
        points, weights = _gauss_points(rho, per_cell or max(2, math.ceil(LINE_ATOMS / rho.grid.size)))
    else:
        points, weights = _shifted_centers(rho)
    keep = weights > EMPTY * rho.mass / weights.size
    return points[:, keep], weights[keep] * (rho.mass / weights[keep].sum())


def _edge_values(rho: Density, axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values at the lower and upper edges of the cells along an axis, from the cumulative masses.

    They are derivatives of the cumulative mass: at an edge, of the quartic through the five values around it, on equal
    cells (7 (a + b) - (c + d)) / 12. They are kept between the averages on both sides, which avoids new extrema.
    """
    grid = rho.grid
    values = np.moveaxis(rho.values, axis, -1)
    h, periodic = grid.widths[axis], grid.periodic[axis]
    around = [np.roll(values, k, axis=-1) for k in (2, 1, 0, -1)]
    width = [np.roll(h, k) for k in (2, 1, 0, -1)]
    # Newton's form on the points -(h1 + h0), -h1, 0, h2, h2 + h3 around each lower edge: three divided differences.
    a, b, c, d = around
    ha, hb, hc, hd = width
    first = (b - a) / (ha + hb), (c - b) / (hb + hc), (d - c) / (hc + hd)
    second = (first[1] - first[0]) / (ha + hb + hc), (first[2] - first[1]) / (hb + hc + hd)
    third = (second[1] - second[0]) / (ha + hb + hc + hd)
    edge = b + hb * first[1] - hb * hc * second[0] + hb * hc * (ha + hb) * third
    if not periodic:
        low = b + hb * first[1]
        edge[..., 1], edge[..., -1] = low[..., 1], low[..., -1]
    edge = np.clip(edge, np.minimum(b, c), np.maximum(b, c))
    lower, upper = edge, np.roll(edge, -1, axis=-1)
    if not periodic:
        lower[..., 0] = np.maximum(0.0, 1.5 * values[..., 0] - 0.5 * values[..., 1])
        upper = upper.copy()
        upper[..., -1] = np.maximum(0.0, 1.5 * values[..., -1] - 0.5 * values[..., -2])
    return np.moveaxis(lower, -1, axis), np.moveaxis(upper, -1, axis)


def _gauss_points(rho: Density, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Gauss points of the parabola in each cell of a line; a parabola with a negative value is flattened."""
    edges, h = rho.grid.edges[0], rho.grid.widths[0]
    nodes, weights = np.polynomial.legendre.leggauss(count)
    xi = 0.5 * (1.0 + nodes)
    a, (low, high) = rho.values[:, None], (e[:, None] for e in _edge_values(rho, 0))
    deviation = low + xi * (high - low + 6.0 * (a - 0.5 * (low + high)) * (1.0 - xi)) - a
    least = -deviation.min(axis=1, keepdims=True)
    deviation *= np.minimum(1.0, np.divide(a, least, out=np.ones_like(a), where=least > 0))
    masses = np.maximum(0.5 * weights * h[:, None] * (a + deviation), 0.0)
    return (edges[:-1, None] + h[:, None] * xi).reshape(1, -1), masses.ravel()


def _shifted_centers(rho: Density) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centers of the cells, moved halfway to the cells' centers of mass."""
    points = []
    for axis, center in enumerate(rho.grid.mesh()):
        low, high = _edge_values(rho, axis)
        shape = [1] * rho.grid.ndim
        shape[axis] = -1
        h = rho.grid.widths[axis].reshape(shape)
        # A linear density of slope s has its center of mass h^2 s / (12 a) beyond the center, at most h / 6.
        shift = h * np.divide(high - low, 24.0 * rho.values, out=np.zeros(rho.grid.shape), where=rho.values > 0)
        points.append((center + np.clip(shift, -h / 12.0, h / 12.0)).ravel())
    return np.array(points), rho.masses.ravel()


def powers_of(grid: Grid) -> tuple[float, ...] | None:
    """Return the exponents of a grid's weight if it is a product of powers of the coordinates up to a factor."""
    if grid.log_weight is None:
        return None
    powers, rest = [], grid.log_weight
    for axis, (edges, centers) in enumerate(zip(grid.edges, grid.centers)):
        line = np.moveaxis(grid.log_weight, axis, 0).reshape(len(centers), -1)[:, -1]
        if np.ptp(line) <= WEIGHT_TOLERANCE:
            powers.append(0.0)
            continue
        if edges[0] < 0:
            return None
        # Beyond the first cells the average of r^p is close to the value at the center, and p is a whole number.
        power = float(round((line[-1] - line[-2]) / math.log(centers[-1] / centers[-2])))
        if power < 0:
            return None
        powers.append(power)
        shape = [1] * grid.ndim
        shape[axis] = -1
        rest = rest - log_power_cell_average(edges, power).reshape(shape)
    return tuple(powers) if np.ptp(rest) <= WEIGHT_TOLERANCE * max(1.0, float(np.abs(grid.log_weight).max())) else None
