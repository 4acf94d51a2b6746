r"""Users' kernels of the distance as tables, so that a sum over pairs of points calls no Python.

On [0, R], R beyond the distance of all points, a table has :math:`w_k = w(r_k)` and :math:`w'_k` at nodes of spacing h;
between them w is the cubic with these values and slopes, and its gradient is the gradient of this cubic: forces belong
to the energy exactly. Slopes are one-sided at 0, where a kernel may have a kink, and are taken over a shorter distance
where a kink lies nearby.

The errors of the cubic are measured in the middle of every cell. A function that is not resolved, except in a few cells
where it has kinks or jumps of its slope, has no table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.compiled.pair_tables import distance_sums, own_distance_sums
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.gradients import STEP, box_of, differences, located, values_at

__all__ = ["DistanceTable", "Tables", "distance_table", "table_sums"]
Array = NDArray[np.float64]

CELLS = 2**14
#: Error of the cubic in the middle of a cell, relative to the largest value, up to which the cell is resolved.
RESOLVED = 1e-11
#: Number of cells that may have a kink, and the largest error there, relative to the largest value: a peak or a jump
#: of the function itself, which a cell does not see, is no kink.
MOST_KINKS = 16
KINK = 1e-4
#: Relative difference between slopes over a long and a short distance above which the short one is taken.
SAME_SLOPE = 1e-8
#: Pairs at which a function of a displacement is asked whether it depends on the distance alone.
PROBES = 256
EVEN = 1e-12
#: Relative difference of a function of two points that are moved together, up to which it depends on their
#: displacement: rounding.
MOVED = 1e-12


class DistanceTable(NamedTuple):
    """A function of the distance: its cubics, shape (n_cells, 4), in cells of width ``step`` from 0 on."""

    step: float
    cubics: Array


class Tables:
    """The tables of a kernel that is given by a user's function, the last of them kept.

    Parameters
    ----------
    function : callable
        Of the displacement, or of two points.
    pairs : bool
        Whether it takes two points. It is then compared with itself at pairs of points that are moved together.
    """

    def __init__(self, function: Callable, pairs: bool = False):
        self.function, self.pairs = function, pairs
        self._last: tuple[tuple, DistanceTable | None] | None = None

    def sums(self, rho: Density | Atoms, points: Array) -> tuple[Array, Array] | None:
        """Return U rho at points and its gradient there; None if the kernel has no table."""
        periodic, reach = any(box_of(rho)[1]), _reach(rho, points)
        key = (reach, len(points), periodic)
        if self._last is None or self._last[0] != key:
            function = self._of_displacement(rho, points, periodic) if self.pairs else self.function
            table = None if function is None else distance_table(function, reach, len(points), periodic)
            self._last = (key, table)
        table = self._last[1]
        return None if table is None else table_sums(table, rho, points)

    def _of_displacement(self, rho: Density | Atoms, points: Array, periodic: bool) -> Callable | None:
        """Return a function of two points as one of the displacement, or None."""
        if periodic:
            return None
        rng = np.random.default_rng(70913)
        sources, _ = located(rho)
        x, y = (law[:, rng.integers(law.shape[1], size=PROBES)] for law in (points, sources))
        middle = 0.5 * (points.mean(axis=1) + sources.mean(axis=1))[:, None]
        U = self.function

        def of_displacement(*z):
            half = 0.5 * np.array(z)
            return U(*(middle + half), *(middle - half))

        try:
            here = values_at(U, np.concatenate([x, y]), "U")
            there = values_at(of_displacement, x - y, "U")
        except InvalidInput:
            return None
        same = np.abs(here - there).max() <= MOVED * max(float(np.abs(here).max()), 1e-300)
        return of_displacement if same else None


def _reach(rho: Density | Atoms, points: Array) -> float:
    """Return a power of two beyond the distance of any of the points from any point of a law."""
    sources, _ = located(rho)
    spans = [min(max(x.max(), y.max()) - min(x.min(), y.min()), 0.5 * period if period else math.inf)
             for x, y, period in zip(points, sources, box_of(rho)[1])]
    span = math.hypot(*spans)
    return 2.0 ** (math.floor(math.log2(span)) + 1) if 0 < span < math.inf else 1.0


def distance_table(function: Callable, reach: float, ndim: int, periodic: bool) -> DistanceTable | None:
    """Return the table of a function of the displacement up to a distance.

    Parameters
    ----------
    function : callable
        Of one array for each coordinate.
    reach : float
    ndim : int
        Number of coordinates.
    periodic : bool
        Whether one of them is periodic: with several of them the function is then not asked beyond half a period.

    Returns
    -------
    DistanceTable or None
        None if the function does not depend on the distance alone, is not finite, or is not resolved.
    """
    if ndim > 1 and periodic:
        return None

    def along(r: Array) -> Array:
        zero = np.zeros(r.shape[-1])
        return values_at(function, np.array([r.reshape(-1), *[zero] * (ndim - 1)]), "w")

    try:
        if not _of_distance(function, along, reach, ndim):
            return None
        step = reach / CELLS
        nodes: Array = step * np.arange(CELLS + 1, dtype=np.float64)
        values = along(nodes)
        box = [(0.0, math.inf)]
        slopes = differences(along, nodes[None], box)[0]
        # The same over the distance h / 4 in place of `STEP`: exact next to a kink, with more rounding elsewhere.
        share = 0.25 * step / STEP
        short = differences(lambda r: along(share * r), nodes[None] / share, box)[0] / share
        middle = along(nodes[:-1] + 0.5 * step)
    except InvalidInput:
        return None
    size = float(np.abs(slopes).max())
    slopes = np.where(np.abs(short - slopes) > SAME_SLOPE * size, short, slopes)
    cubic = 0.5 * (values[:-1] + values[1:]) + step / 8 * (slopes[:-1] - slopes[1:])
    errors, scale = np.abs(cubic - middle), float(np.ptp(values))
    if np.count_nonzero(errors > RESOLVED * scale) > MOST_KINKS or errors.max() > KINK * scale:
        return None
    low, high, jump = step * slopes[:-1], step * slopes[1:], np.diff(values)
    cubics = np.stack([values[:-1], low, 3.0 * jump - 2.0 * low - high, low + high - 2.0 * jump], axis=1)
    return DistanceTable(step, np.ascontiguousarray(cubics))


def table_sums(table: DistanceTable, rho: Density | Atoms, points: Array) -> tuple[Array, Array]:
    """Return U rho at points (n_coordinates, n), shape (n,), and its gradient there, of the points' shape."""
    sources, masses = located(rho)
    potential, gradient = np.empty(points.shape[1]), np.empty(points.shape)
    places, known, weights, periods = (np.array(x, dtype=float, order="C")
                                       for x in (points, sources, masses, box_of(rho)[1]))
    if np.array_equal(places, known):
        own_distance_sums(places, weights, periods, table.step, table.cubics, potential, gradient)
    else:
        distance_sums(places, known, weights, periods, table.step, table.cubics, potential, gradient)
    return potential, gradient


def _of_distance(function: Callable, along: Callable[[Array], Array], reach: float, ndim: int) -> bool:
    rng = np.random.default_rng(90017)
    direction = rng.standard_normal((ndim, PROBES))
    direction /= np.sqrt((direction**2).sum(axis=0))
    r = reach * rng.random(PROBES)
    # At the very distances of these points, which rounding moves.
    points = r * direction
    here, there = values_at(function, points, "w"), along(np.sqrt((points**2).sum(axis=0)))
    return bool(np.abs(here - there).max() <= EVEN * max(float(np.abs(here).max()), 1e-300))
