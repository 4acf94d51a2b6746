r"""Quantile levels of a density and the weights of the quantiles.

A mesh is the positions :math:`X_0 < \dots < X_n` of some quantiles and the masses :math:`m_i` between them, which never
change. Integrals :math:`\int g\,d\rho` become sums :math:`\sum_j w_j\,g(X_j)`: the trapezoidal rule in the index of the
quantile, with Gregory's corrections at the ends, of fourth order inside where mesh and density are smooth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wgflow.checks import WORK_ARRAYS, check_memory
from wgflow.compiled.quantile import slopes_of_cdf
from wgflow.errors import InvalidInput
from wgflow.grids import Grid, log_power_cell_average

#: Cells at the ends with less than this part of the mass are left out; cells inside get at least this part.
NEGLIGIBLE = 1e-16
#: Cells at the ends with less than this part of the mass together are one cell where a law ends in a front: behind a
#: front, lighter cells are too narrow for their positions to be told apart.
BEHIND_FRONT = 1e-10
#: Where a cell has more than this many times the mean mass, the mesh is made finer than the grid.
CROWDED = 8.0
#: Where the law can spread, cells beside a void are cut into halves, fourths, ... down to this part of the mass.
TAIL_MASS = 1e-7
#: A neighbor counts as a void if its mass is below that of the cell over this ratio.
VOID = 32.0
#: Largest part of a cell's mass that high-order weights move between its two ends.
LARGEST_SHIFT = 0.45
#: Largest difference at which a log_weight counts as that of a power.
POWER_TOLERANCE = 1e-9


class Mesh(NamedTuple):
    """Initial positions (n + 1,), masses of the cells (n,), their logarithms, weights of the positions (n + 1,)."""

    positions: np.ndarray
    masses: np.ndarray
    log_masses: np.ndarray
    weights: np.ndarray


def make_mesh(edges: np.ndarray, masses: np.ndarray, spreads: bool, cells: int | None = None,
              internal: bool = False) -> Mesh:
    """Return quantile levels for the masses between edges.

    They are those of the grid's own edges. Where the mass lies in few cells, these are cut evenly, so that there are
    about as many cells as the grid has (or as many as given); each void inside is one cell. If a few cells would still
    hold much of the mass, half of the cells follow the mass and half the length. With ``spreads`` (diffusion that
    creates tails) the cells beside voids are cut geometrically; with internal energy that creates none (``internal``
    alone) the lightest at the ends are one cell.
    """
    mass = masses.sum()
    kept = np.flatnonzero(masses > NEGLIGIBLE * mass)
    wanted = cells or masses.size
    check_memory(8.0 * WORK_ARRAYS * wanted, f"inner='quantile' with {wanted} cells", "take fewer cells")
    parts = max(1, wanted // kept.size)
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    pieces = [_divided(edges[run[0]:run[-1] + 2], masses[run], parts) for run in runs]
    void = np.array([NEGLIGIBLE * mass])
    x = np.concatenate([piece for piece, _ in pieces])
    m = np.concatenate([part for _, piece in pieces for part in (piece, void)][:-1])
    if m.max() > CROWDED * mass / wanted or m.size > 2 * wanted:
        x, m = _shared(x, m, wanted)
    if spreads:
        x, m = _graded(x, m)
    elif internal:
        x, m = _blunted(x, m)
    m = m * (mass / m.sum())
    return Mesh(x, m, np.log(m), node_weights(m))


def _divided(edges, masses, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same cells, each cut into even parts."""
    if parts == 1:
        return edges.copy(), masses.copy()
    inner = edges[:-1, None] + np.diff(edges)[:, None] * (np.arange(1, parts) / parts)
    x = np.append(np.column_stack((edges[:-1], inner)).ravel(), edges[-1])
    below = np.column_stack((np.zeros(masses.size), _shares(edges, masses, inner), np.ones(masses.size)))
    return x, np.maximum((masses[:, None] * np.diff(below)).ravel(), NEGLIGIBLE * masses.sum())


def node_weights(masses: np.ndarray) -> np.ndarray:
    r"""Return weights of the n + 1 positions from the masses of the n cells; positive, with the same sum.

    Inside :math:`w_j = (7 (m_{j-1} + m_j) - m_{j-2} - m_{j+1}) / 12`. Each cell splits its mass between its ends, so
    that the sum is kept. The split is bounded, which matters where masses are rough.
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
    """Return (q, c) of a reference measure e^c r^(q-1) dr, or None where the weight is no power of the coordinate."""
    if grid.log_weight is None:
        return 1.0, 0.0
    edges, logs = grid.edges[0], grid.log_weight
    if np.ptp(logs) <= POWER_TOLERANCE:
        return 1.0, float(logs[0])
    if edges[0] < 0:
        return None
    centers = grid.centers[0]
    power = float((logs[-1] - logs[-2]) / math.log(centers[-1] / centers[-2]))
    # The averages of two cells give the power up to O(h^2), Newton's method on their ratio to round-off.
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
    """Refuse grids without quantiles."""
    if grid.ndim != 1:
        raise InvalidInput(f"inner='quantile' needs one axis (quantiles), the grid has {grid.ndim}; use "
                           "inner='linearized', 'back-and-forth' or 'entropic'")
    if grid.periodic[0]:
        raise InvalidInput("inner='quantile' needs a no-flux axis: a circle has no quantiles; use inner='linearized' "
                           "or FiniteVolume()")
    if grid.size < 4:
        raise InvalidInput(f"inner='quantile' needs at least 4 cells (for cubic splines of V), got {grid.size}")


def _shared(edges, masses, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mesh of given size, half of whose cells follow the mass and half the length."""
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


def _blunted(edges, masses) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells with the lightest at either end as one."""
    light = BEHIND_FRONT * masses.sum()
    first, last = (int(np.searchsorted(np.cumsum(m), light)) for m in (masses, masses[::-1]))
    kept = np.concatenate(([0], np.arange(max(first, 1), masses.size - max(last, 1) + 1), [masses.size]))
    return edges[kept], np.add.reduceat(masses, kept[:-1])


def _graded(edges, masses) -> tuple[np.ndarray, np.ndarray]:
    """Cut cells beside a void into parts of 1/2, 1/4, ... of their mass, the smallest at the void.

    The quantiles of these parts resolve the tail of mass that spreads into the void.
    """
    floor = TAIL_MASS * masses.sum()
    left = np.concatenate(([0.0], masses[:-1]))
    right = np.concatenate((masses[1:], [0.0]))
    parts, places = [], []
    for i in np.flatnonzero((masses > 2 * floor) & (np.minimum(left, right) < masses / VOID)):
        sides = [masses[i] / max(m, floor) if m < masses[i] / VOID else 1.0 for m in (left[i], right[i])]
        both = min(sides) > 1.0
        halves = [_halvings(r) * (0.5 if both else 1.0) for r in sides if r > 1.0]
        shares = np.concatenate((halves[0], halves[1][::-1])) if both else (
            halves[0] if sides[0] > 1.0 else halves[0][::-1])
        places.append(int(i))
        parts.append(shares * masses[i])
    if not places:
        return edges, masses
    cumulated = np.concatenate(([0.0], np.cumsum(masses)))
    levels = np.concatenate([cumulated[i] + np.cumsum(part)[:-1] for i, part in zip(places, parts)])
    cells = np.split(masses, np.ravel([(i, i + 1) for i in places]))
    cells[1::2] = parts
    return np.sort(np.concatenate((edges, _invert(edges, masses, levels)))), np.concatenate(cells)


def _halvings(ratio: float) -> np.ndarray:
    """Return shares 2^-k, 2^-k, ..., 1/4, 1/2 of a mass, the smallest about 1 / ratio."""
    shares = 0.5 ** np.arange(math.ceil(math.log2(ratio)), 0, -1.0)
    return np.concatenate((shares[:1], shares))


def _shares(x, masses, points) -> np.ndarray:
    """Return the parts of the cells' masses below points in them, shape (cells, points), by monotone cubics."""
    slopes, width = slopes_of_cdf(np.ascontiguousarray(x), np.ascontiguousarray(masses)), np.diff(x)
    left, right = (slopes[:-1] * width / masses)[:, None], (slopes[1:] * width / masses)[:, None]
    t = (points - x[:-1, None]) / width[:, None]
    return t * (left + t * (3 - 2 * left - right + t * (left + right - 2)))


def _cumulated(x, masses, points) -> np.ndarray:
    """Return the mass below points."""
    slopes = slopes_of_cdf(np.ascontiguousarray(x), np.ascontiguousarray(masses))
    cumulated = np.concatenate(([0.0], np.cumsum(masses)))
    i = np.clip(np.searchsorted(x, points, side="right") - 1, 0, masses.size - 1)
    width = x[i + 1] - x[i]
    t, m = (points - x[i]) / width, masses[i]
    left, right = slopes[i] * width / m, slopes[i + 1] * width / m
    return cumulated[i] + m * t * (left + t * (3 - 2 * left - right + t * (left + right - 2)))


def _invert(x, masses, levels) -> np.ndarray:
    """Return the points below which the mass has given levels."""
    cumulated = np.concatenate(([0.0], np.cumsum(masses)))
    i = np.clip(np.searchsorted(cumulated, levels, side="right") - 1, 0, masses.size - 1)
    return places(x, masses, i, (levels - cumulated[i]) / masses[i])


def places(x: np.ndarray, masses: np.ndarray, cells: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the points in cells below which given parts of the cells' masses lie, by bisection to the last bit."""
    slopes = slopes_of_cdf(np.ascontiguousarray(x), np.ascontiguousarray(masses))
    width, m = x[cells + 1] - x[cells], masses[cells]
    left, right = slopes[cells] * width / m, slopes[cells + 1] * width / m
    low, high = np.zeros(cells.size), np.ones(cells.size)
    for _ in range(54):
        t = 0.5 * (low + high)
        above = t * (left + t * (3 - 2 * left - right + t * (left + right - 2))) > shares
        low, high = np.where(above, low, t), np.where(above, t, high)
    return x[cells] + width * 0.5 * (low + high)
