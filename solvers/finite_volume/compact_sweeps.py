"""Compact sweeps of fourth order: one step of a frozen generator on values at cell centers, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from wgflow.compiled.compact import (
    BOTH,
    EMPTY,
    EULER,
    FIFTH,
    FILL,
    GRID_SHARE,
    HALVES,
    NONE,
    RATES,
    SECOND,
    compact_layout,
    compact_line,
    compact_sweep,
    differences,
)
from wgflow.compiled.sweep import IMPLICIT_EULER
from wgflow.energies.dissipation import compact_dissipation_on_grid, mobile_axes
from wgflow.energies.nodes import NodeGrid
from wgflow.energies.on_grid import EnergyOnGrid

from .splitting import CACHE_BYTES, THREADED_CELLS, shared
from .stepper import Sweeps

#: Parts of a line's factors: forward, pivot, backward, and two more on a periodic axis.
FACTORS = {False: 3, True: 5}
#: Lengths of sweeps of one kind whose factors are kept: those of a whole step and of its halves.
LENGTHS = 2


@dataclass
class _Factors:
    """The factors of an axis for sweeps of one kind and length."""

    kind: int
    dt: float
    array: np.ndarray


class CompactSweeps(Sweeps):
    """The compact sweeps of one grid; what never changes is kept.

    Parameters
    ----------
    grid : NodeGrid
    diffusion : float
        beta^-1 > 0.
    static : bool
        Whether Psi never changes.
    threads : int
        Number of threads among which lines are shared; the result has the same bits for any number.
    mobility : sequence of arrays, optional
        The diagonal of A at the centers, one array for each axis.

    Attributes
    ----------
    moved : float
        The mass that the last move had to move to mend negative entries.
    """

    second = SECOND
    smooth = (SECOND, HALVES)

    def __init__(self, grid: NodeGrid, diffusion: float, static: bool, threads: int,
                 mobility: Sequence[np.ndarray] | None = None):
        self.grid, self.diffusion, self.static, self.threads = grid, diffusion, static, threads
        self.mobility = mobility
        self.mobile = mobile_axes(mobility, diffusion, grid)
        self.axes = []
        for axis in range(grid.ndim):
            outer, inner, width, blocks = compact_layout(grid.shape, axis)
            self.axes.append((grid.steps[axis], outer, inner, grid.periodic[axis], grid.shape[axis], width,
                              blocks))
        self.pool = ThreadPoolExecutor(threads) if threads > 1 and grid.size >= THREADED_CELLS else None
        self.moved, self.sequence = 0.0, tuple(range(grid.ndim))
        # For each axis the rates, whether they are those of this Psi, and the factors for some lengths of sweeps.
        self.rates: list[np.ndarray] = []
        self.known = [False] * grid.ndim
        self.lengths: list[list[_Factors]] = [[] for _ in range(grid.ndim)]
        self.room: dict[int, list[np.ndarray]] = {}
        # For each axis the factors of B itself, with which the dissipation is formed, where they are kept.
        self.of_weights: list[np.ndarray] = []
        self.psi: np.ndarray | None = None
        shapes = [(b, 4 + 2 * grid.ndim * FACTORS[periodic], n, w) for _, _, _, periodic, n, w, b in self.axes]
        self.keeps = 8.0 * sum(map(math.prod, shapes)) <= CACHE_BYTES

    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        return energy.sweep_potential

    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        if not (self.static and self.keeps):
            return compact_dissipation_on_grid(masses, psi, self.grid, self.diffusion, mobility=self.mobility,
                                               mu=mu)
        rates, formed = [self._rates(axis) for axis in range(self.grid.ndim)], all(self.known)
        self.known = [True] * self.grid.ndim
        return compact_dissipation_on_grid(masses, psi, self.grid, self.diffusion, rates, formed, self.of_weights,
                                           self.mobility, mu)

    def space_error(self, masses: np.ndarray) -> float:
        """Return the error of the grid in L1, relative to the mass, by fourth differences."""
        flat = masses.ravel()
        total = sum(differences(flat, outer, n, inner)[1] for _, outer, inner, _, n, _, _ in self.axes)
        return GRID_SHARE * total / float(masses.sum())

    def move(self, masses, psi, dt: float, mode: int, factors=None, count: int = 1) -> np.ndarray:
        """Return the point masses after ``count`` steps dt of the generator frozen at Psi, a new array.

        Parameters
        ----------
        masses, psi : array
            Of the grid's shape.
        dt : float
        mode : int
            SECOND, HALVES or FIFTH of `wgflow.compiled.compact`, or IMPLICIT_EULER.
        count : int
        """
        kind = EULER if mode == IMPLICIT_EULER else mode
        flat, self.moved = masses.ravel().copy(), 0.0
        negligible = EMPTY * float(flat.sum())
        if not self.static and psi is not self.psi:
            self.known, self.psi = [False] * self.grid.ndim, psi
            for kept in self.lengths:
                for one in kept:
                    one.dt = math.nan
        psi = psi.ravel()
        for place, part, times in order_of_axes(len(self.axes), dt, kind, count):
            self._sweep(self.sequence[place], flat, psi, part, kind, times, negligible)
        return flat.reshape(masses.shape)

    def line(self, masses: np.ndarray, psi: np.ndarray, dt: float) -> tuple[np.ndarray, float, float]:
        """Return the point masses of a single line after dt by the formula of order 5.

        And its distance to that of order 3, and to the start.
        """
        n, periodic = masses.size, self.axes[0][3]
        if not self.rates:
            # A sweep of no length fills the rates.
            self._sweep(0, masses.copy(), psi, 0.0, EULER)
        factors, known = self._factors(0, dt, FIFTH)
        new = np.empty((n, 1))
        distance, whole, self.moved = compact_line(masses.reshape(n, 1), self.rates[0][0], factors.array[0], dt, known,
                                                   periodic, new)
        return new.reshape(n), distance, whole

    def _sweep(self, axis: int, flat, psi, dt: float, kind: int, count: int = 1, negligible: float = 0.0) -> None:
        h, outer, inner, periodic, _, _, blocks = self.axes[axis]
        mode, rates, factors = self._kept(axis, dt, kind)
        moved = np.empty(blocks)
        mobility, logarithm = self.mobile[axis]
        psi = psi if logarithm is None or mode not in (NONE, FILL) else psi - logarithm
        arguments = (flat, psi, mobility, self.diffusion, dt, count, h, outer, inner, periodic, kind, mode, rates,
                     factors, moved, negligible)
        if self.pool is None:
            compact_sweep(*arguments, 0, blocks)
        else:
            shared(partial(compact_sweep, *arguments), blocks, self.pool, self.threads)
        self.moved += sum(moved.tolist())

    def _kept(self, axis: int, dt: float, kind: int):
        """Return the mode of a sweep, and the arrays for its rates and factors."""
        _, _, _, _, n, width, _ = self.axes[axis]
        if not self.keeps:
            return NONE, np.empty((0, 4, n, width)), np.empty((0, 1, n, width))
        mode, rates = RATES if self.known[axis] else FILL, self._rates(axis)
        self.known[axis] = True
        factors, known = self._factors(axis, dt, kind)
        return BOTH if known and mode == RATES else mode, rates, factors.array

    def _rates(self, axis: int) -> np.ndarray:
        """Return the array for the rates of an axis."""
        if not self.rates:
            self.rates = self._room(lambda periodic: 4)
        return self.rates[axis]

    def _room(self, parts: Callable[[bool], int], times: int = 1) -> list[np.ndarray]:
        """Return arrays (blocks, parts, n, W) for all axes, a number of times, in one piece of memory.

        Of one piece NumPy tells the system that it is large, which then gives it by pages that are large, too; many
        pieces cost as much time to get as a sweep takes.
        """
        shapes = [(blocks, parts(periodic), n, width) for _, _, _, periodic, n, width, blocks in self.axes] * times
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
        whole = np.empty(ends[-1])
        return [whole[end - math.prod(shape):end].reshape(shape) for end, shape in zip(ends, shapes)]

    def _factors(self, axis: int, dt: float, kind: int) -> tuple[_Factors, bool]:
        """Return the factors for a sweep, and whether they are known; those used least recently make room."""
        for one in self.lengths[axis]:
            if one.dt == dt and one.kind == kind:
                return one, True
        kept = [one for one in self.lengths[axis] if one.kind == kind]
        if len(kept) < LENGTHS:
            if kind not in self.room:
                self.room[kind] = self._room(FACTORS.__getitem__, LENGTHS)
            one = _Factors(kind, dt, self.room[kind][axis + len(kept) * len(self.axes)])
        else:
            one = kept[0]
            self.lengths[axis].remove(one)
            one.dt = dt
        self.lengths[axis].append(one)
        return one, False

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


def order_of_axes(ndim: int, dt: float, kind: int, count: int = 1) -> list[tuple[int, float, int]]:
    """Return the places in the sequence of axes to sweep, for how long and how often.

    One after the other for an Euler step, else Strang's palindrome, ``count`` times. Sweeps of one axis that follow
    each other are taken at once, by the formula of order 5 as a single one.
    """
    if kind == EULER:
        return [(axis, dt, 1) for axis in range(ndim)] * count
    halves = [(axis, 0.5 * dt) for axis in range(ndim - 1)]
    order: list[tuple[int, float, int]] = []
    for axis, part in [*halves, (ndim - 1, dt), *halves[::-1]] * count:
        if order and order[-1][0] == axis:
            before = order[-1]
            order[-1] = (axis, before[1] + part, 1) if kind == FIFTH else (axis, part, before[2] + 1)
        else:
            order.append((axis, part, 1))
    return order
