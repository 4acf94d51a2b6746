r"""Quantile levels for a density: where its mass is cut, and the weights of the cuts.

A mesh is the positions :math:`X_0 < \dots < X_n` of some quantiles and the masses :math:`m_i` between them, which never
change. Integrals :math:`\int g\,d\rho` are sums :math:`\sum_j w_j\,g(X_j)`: the trapezoidal rule in the number of the
quantile, with corrections at the ends (Gregory), so that it is of fourth order inside where mesh and density are smooth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid, log_power_cell_average
from wgflow.kernels.quantile import steps_of_cdf

#: Cells at the ends with less than this part of the mass are left out, and cells inside are raised to it.
NEGLIGIBLE = 1e-16
#: A cell with more than this many times the mean mass asks for a mesh finer than the grid there.
CROWDED = 8.0
#: Where the law can spread, its end cells are cut into halves, fourths, ... down to this part of the mass.
TAIL_MASS = 1e-7
#: Largest part of a cell's mass that high-order weights move between its two ends.
LARGEST_SHIFT = 0.45
#: Agreement at which a log_weight counts as that of a power.
POWER_TOLERANCE = 1e-9


class Mesh(NamedTuple):
    """Initial positions (n + 1,), masses of the cells (n,), their logarithms, weights of the positions (n + 1,)."""

    positions: np.ndarray
    masses: np.ndarray
    log_masses: np.ndarray
    weights: np.ndarray


def make_mesh(rho: Density, spreads: bool, cells: int | None) -> Mesh:
    """Quantile levels for a density on one axis.

    The grid's own edges where the density is resolved by them; a mesh that shares its cells between length and mass
    where a few cells hold most of it, or where the number of cells is given. With ``spreads`` (diffusion that gives
    tails) the end cells are cut geometrically.
    """
    edges, masses = rho.grid.edges[0], rho.masses
    kept = np.flatnonzero(masses > NEGLIGIBLE * rho.mass)
    first, last = int(kept[0]), int(kept[-1]) + 1
    edges, masses = edges[first:last + 1].copy(), np.maximum(masses[first:last], NEGLIGIBLE * rho.mass)
    if cells is not None or masses.max() > CROWDED * rho.mass / rho.grid.size:
        edges, masses = _shared(edges, masses, cells or rho.grid.size)
    if spreads:
        edges, masses = _graded(edges, masses)
    masses = masses * (rho.mass / masses.sum())
    return Mesh(edges, masses, np.log(masses), node_weights(masses))


def node_weights(masses: np.ndarray) -> np.ndarray:
    r"""Weights of the n + 1 positions from the masses of the n cells; positive, with the same sum.

    Inside :math:`w_j = (7 (m_{j-1} + m_j) - m_{j-2} - m_{j+1}) / 12`. Each cell splits its mass between its ends, so
    that the sum is kept; the split is bounded where masses are rough.
    """
    shift = np.zeros_like(masses)
    if masses.size > 1:
        shift[1:-1] = (masses[2:] - masses[:-2]) / 12.0
        shift[0] = (5.0 * masses[1] - 3.0 * masses[0]) / 24.0
        shift[-1] = -(5.0 * masses[-2] - 3.0 * masses[-1]) / 24.0
        shift = np.clip(shift, -LARGEST_SHIFT * masses, LARGEST_SHIFT * masses)
    weights = np.zeros(masses.size + 1)
    weights[:-1] += 0.5 * masses - shift
    weights[1:] += 0.5 * masses + shift
    return weights


def power_weight(grid: Grid) -> tuple[float, float] | None:
    """(q, c) of a reference measure e^c r^(q-1) dr, or None where the weight is no power of the coordinate."""
    if grid.log_weight is None:
        return 1.0, 0.0
    edges, logs = grid.edges[0], grid.log_weight
    if np.ptp(logs) <= POWER_TOLERANCE:
        return 1.0, float(logs[0])
    if edges[0] < 0:
        return None
    centers = grid.centers[0]
    power = float((logs[-1] - logs[-2]) / math.log(centers[-1] / centers[-2]))
    # The averages of two cells give the power up to O(h^2); Newton's method on their ratio gives all its digits.
    for _ in range(8):
        if not power > -1:
            return None
        low, high = (log_power_cell_average(edges[-3:], p) for p in (power, power + 1e-4))
        slope = ((high[1] - high[0]) - (low[1] - low[0])) / 1e-4
        power += float((logs[-1] - logs[-2] - (low[1] - low[0])) / slope)
    nearest = round(power)
    power = float(nearest) if abs(power - nearest) < 1e-4 else power
    if not power >= 0:
        return None
    constant = logs - log_power_cell_average(edges, power)
    if np.ptp(constant) > POWER_TOLERANCE * max(1.0, abs(power)):
        return None
    return power + 1.0, float(np.mean(constant))


def check_axis(grid: Grid) -> None:
    """Refuse grids that have no quantiles."""
    if grid.ndim != 1:
        raise InvalidInput(f"inner='quantile' needs one axis (quantiles), the grid has {grid.ndim}; use "
                           "inner='linearized', 'back-and-forth' or 'entropic'")
    if grid.periodic[0]:
        raise InvalidInput("inner='quantile' needs a no-flux axis: a circle has no quantiles; use inner='linearized', or "
                           "FiniteVolume()")
    if grid.size < 4:
        raise InvalidInput(f"inner='quantile' needs at least 4 cells (it takes cubic splines of V), got {grid.size}")


def _shared(edges, masses, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """A mesh of given size, half of whose cells follow the mass and half the length."""
    total, length = masses.sum(), edges[-1] - edges[0]
    monitor = 0.5 * masses / total + 0.5 * np.diff(edges) / length
    targets = np.arange(1, cells) / cells
    inner = _invert(edges, monitor, targets)
    below = _cumulated(edges, masses, inner)
    cut = np.concatenate((edges[:1], inner, edges[-1:]))
    cut_masses = np.diff(np.concatenate(([0.0], below, [total])))
    keep = np.diff(cut) > 0
    keep[-1] = True
    return cut[np.append(True, keep)], np.maximum(cut_masses[keep], NEGLIGIBLE * total)


def _graded(edges, masses) -> tuple[np.ndarray, np.ndarray]:
    """Cut the first and the last cell into parts of 1/2, 1/4, ... of their mass, the smallest outermost."""
    total = masses.sum()
    for _ in range(2):
        count = math.ceil(math.log2(max(masses[0] / (TAIL_MASS * total), 1.0)))
        if count and masses.size > 1:
            shares = 0.5 ** np.arange(count, 0, -1.0)
            parts = masses[0] * np.concatenate((shares[:1], shares))
            inner = _invert(edges[:3], masses[:2], np.cumsum(parts)[:-1])
            edges, masses = np.concatenate((edges[:1], inner, edges[1:])), np.concatenate((parts, masses[1:]))
        edges, masses = -edges[::-1], masses[::-1]
    return edges, masses


def _cumulated(x, masses, points) -> np.ndarray:
    """Mass below points, by the monotone cubic through the cumulated masses."""
    slopes = steps_of_cdf(np.ascontiguousarray(x), np.ascontiguousarray(masses))
    cumulated = np.concatenate(([0.0], np.cumsum(masses)))
    i = np.clip(np.searchsorted(x, points, side="right") - 1, 0, masses.size - 1)
    width = x[i + 1] - x[i]
    t, m = (points - x[i]) / width, masses[i]
    left, right = slopes[i] * width / m, slopes[i + 1] * width / m
    return cumulated[i] + m * t * (left + t * (3 - 2 * left - right + t * (left + right - 2)))


def _invert(x, masses, levels) -> np.ndarray:
    """Points below which the mass has given levels: bisection, to the last bit of the relative place in the cell."""
    cumulated = np.concatenate(([0.0], np.cumsum(masses)))
    i = np.clip(np.searchsorted(cumulated, levels, side="right") - 1, 0, masses.size - 1)
    slopes = steps_of_cdf(np.ascontiguousarray(x), np.ascontiguousarray(masses))
    width, m = x[i + 1] - x[i], masses[i]
    left, right = slopes[i] * width / m, slopes[i + 1] * width / m
    share = (levels - cumulated[i]) / m
    low, high = np.zeros_like(share), np.ones_like(share)
    for _ in range(54):
        t = 0.5 * (low + high)
        above = t * (left + t * (3 - 2 * left - right + t * (left + right - 2))) > share
        low, high = np.where(above, low, t), np.where(above, t, high)
    return x[i] + width * 0.5 * (low + high)
