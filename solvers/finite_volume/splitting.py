"""Linear diffusion: one step of a frozen generator as a composition of sweeps along the axes (Strang splitting).

Each sweep is itself a gradient flow of F for a degenerate metric, so it keeps mass, sign and Gibbs states and lowers F.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np

from wgflow.compiled.sweep import (
    CORRECTED,
    FILL_CACHE,
    FILL_FACTORS,
    HALVES,
    IMPLICIT_EULER,
    LIMITED_CORRECTED,
    LIMITED_PLAIN,
    NO_CACHE,
    PLAIN,
    USE_CACHE,
    USE_FACTORS,
    axis_layout,
    limited_sweep,
    sweep,
)
from wgflow.energies.dissipation import linear_dissipation
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow
from wgflow.grids import Grid

from .stepper import Sweeps

#: Modes that `limited_sweep` serves.
LIMITED = (LIMITED_PLAIN, LIMITED_CORRECTED, HALVES)
#: Rates that never change are kept for reuse, up to this many bytes.
CACHE_BYTES = 1e9
#: From this many cells on a sweep is shared among threads.
THREADED_CELLS = 1 << 15


class Factors:
    """The correction factors of the rates in the sweeps of one move, kept for other moves of the same masses.

    Attributes
    ----------
    known : bool
        Whether the next move uses them; otherwise it finds them.
    arrays : list
        An array (blocks, 1, n, width) for each sweep.
    """

    def __init__(self):
        self.known, self.arrays = False, []


class LinearSweeps(Sweeps):
    """The sweeps of one grid with linear diffusion, or none.

    Parameters
    ----------
    grid : Grid
    diffusion : float
        beta^-1.
    corrected : bool
        Whether fluxes are corrected to second order at any Peclet number.
    negligible : float
        Mass that counts as round-off on the whole grid.
    static : bool
        Whether Psi never changes, so that rates can be kept.
    threads : int
        Number of threads among which lines are shared; the result has the same bits for any number.
    mobility : sequence of arrays, optional
        The diagonal of A in the cells, one array for each axis.
    """

    def __init__(self, grid: Grid, diffusion: float, corrected: bool, negligible: float, static: bool, threads: int,
                 mobility: Sequence[np.ndarray] | None = None):
        self.mobility = mobility
        self.mobile = [np.empty(0)] * grid.ndim if mobility is None else [a.ravel() for a in mobility]
        self.grid, self.diffusion, self.static = grid, diffusion, static
        self.second = CORRECTED if corrected else PLAIN
        self.smooth = (LIMITED_CORRECTED if corrected else LIMITED_PLAIN), HALVES
        self.axes = []
        for axis in range(grid.ndim):
            outer, inner, width, blocks = axis_layout(grid.shape, axis)
            self.axes.append((grid.widths[axis], grid.distances[axis], outer, inner, grid.periodic[axis], width, blocks,
                              negligible / (outer * inner)))
        self.pool = ThreadPoolExecutor(threads) if threads > 1 and grid.size >= THREADED_CELLS else None
        self.threads, self.sequence = threads, tuple(range(grid.ndim))
        self.cache: dict = {}
        self.none = [np.empty((0, 4, 0, axis[5])) for axis in self.axes]
        self.known_factors = Factors()

    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        return energy.sweep_potential

    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        return linear_dissipation(masses, psi, self.grid, self.diffusion, self.second == CORRECTED, self.mobility, mu)

    def space_error(self, masses: np.ndarray) -> float:
        """Return h^2 rho'' / 12 in L1, relative to the mass, by second differences.

        Without diffusion it is taken to the power 3/2: the reconstruction is of third order for smooth densities.
        """
        error = second_differences(masses, self.grid)
        return error if self.diffusion > 0 else error**1.5

    def factors(self, mode: int) -> Factors | None:
        if mode != LIMITED_CORRECTED:
            return None
        self.known_factors.known = False
        return self.known_factors

    def move(self, masses, psi, dt: float, mode: int, factors: Factors | None = None) -> np.ndarray:
        """Return the masses after a time dt of the generator frozen at Psi, a new array.

        Parameters
        ----------
        masses, psi : array
            Of the grid's shape.
        dt : float
        mode : int
            Of `wgflow.compiled.sweep.sweep`.
        factors : Factors, optional
            Receives the factors that this move finds, or holds those that it uses.
        """
        flat, psi = masses.ravel().copy(), psi.ravel()
        order = order_of_sweeps(len(self.axes), dt, mode)
        if factors is not None and not factors.arrays:
            shapes = [(self.axes[axis][6], 1, self.axes[axis][0].size, self.axes[axis][5])
                      for axis in (self.sequence[place] for place, _ in order)]
            factors.arrays = [np.empty(shape) for shape in shapes]
        for k, (place, part) in enumerate(order):
            axis = self.sequence[place]
            if factors is None:
                cache, cache_mode = self._rates(axis, mode)
            else:
                cache, cache_mode = factors.arrays[k], USE_FACTORS if factors.known else FILL_FACTORS
            self._sweep(axis, flat, psi, part, mode, cache, cache_mode)
        if factors is not None:
            factors.known = True
        return flat.reshape(masses.shape)

    def _sweep(self, axis: int, flat, psi, dt: float, mode: int, cache, cache_mode: int) -> None:
        h, distance, outer, inner, periodic, _, blocks, negligible = self.axes[axis]
        arguments = (flat, psi, self.mobile[axis], self.diffusion, dt, h, distance, outer, inner, periodic, mode,
                     cache_mode, cache, negligible)
        kernel = limited_sweep if mode in LIMITED else sweep
        shared(partial(kernel, *arguments), blocks, self.pool, self.threads)

    def _rates(self, axis: int, mode: int):
        """Return the array for the rates of an axis, and whether to use, fill or ignore it (it may be too large)."""
        if (axis, mode) in self.cache:
            return self.cache[axis, mode], USE_CACHE
        h, _, _, _, _, width, blocks, _ = self.axes[axis]
        shape = (blocks, 4, h.size, width)
        if not self.static or 8.0 * math.prod(shape) + sum(a.nbytes for a in self.cache.values()) > CACHE_BYTES:
            return self.none[axis], NO_CACHE
        self.cache[axis, mode] = np.empty(shape)
        return self.cache[axis, mode], FILL_CACHE

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


def shared(lines: Callable[[int, int], object], blocks: int, pool: ThreadPoolExecutor | None, threads: int) -> None:
    """Call a sweep for all blocks of lines, shared among threads where there are enough."""
    if pool is None or blocks < threads:
        lines(0, blocks)
        return
    cuts = [blocks * k // threads for k in range(threads + 1)]
    jobs = [pool.submit(lines, a, b) for a, b in pairwise(cuts[1:])]
    lines(cuts[0], cuts[1])
    for job in jobs:
        job.result()


def order_of_sweeps(ndim: int, dt: float, mode: int) -> list[tuple[int, float]]:
    """Return the places in the sequence of axes to sweep, and for how long.

    One after the other for an Euler step, else Strang's palindrome.
    """
    if mode == IMPLICIT_EULER:
        return [(axis, dt) for axis in range(ndim)]
    halves = [(axis, 0.5 * dt) for axis in range(ndim - 1)]
    return [*halves, (ndim - 1, dt), *halves[::-1]]


def sequence_of_axes(flow: Flow) -> tuple[int, ...]:
    r"""Return the axes in the order in which a step sweeps them, the one in the middle of Strang's palindrome last.

    The strongest drift comes first: with A outside and B in the middle the error of a step is
    :math:`\Delta t^3 (\tfrac1{24} [A, [A, B]] + \tfrac1{12} [B, [B, A]])` up to signs. Drift is the mean of A |grad V|
    over the initial law; where it is the same the steeper law comes first, then the more cells. A problem with
    exchanged axes then has the exchanged solution to rounding, unless all three are the same for two axes of a problem
    that is not symmetric in them.
    """
    grid = flow.grid
    if grid.ndim == 1:
        return (0,)
    masses, mobility, keys = flow.density.masses, flow.diagonal_mobility, []
    for axis in range(grid.ndim):
        v = flow.on_grid.potential
        low, high = _neighbors(masses, axis, grid.periodic[axis])
        with np.errstate(all="ignore"):
            drift = 0.0
            if v.ndim:
                below, above = _neighbors(v, axis, grid.periodic[axis])
                force = np.abs(above - below)
                if mobility is not None:
                    force = force * np.add(*_neighbors(mobility[axis], axis, grid.periodic[axis]))
                drift = float((force * (low + high)).sum()) / float(grid.widths[axis].mean())
            steep = float(np.abs(high - low).sum()) / float(grid.widths[axis].mean())
        keys.append((_rounded(drift), _rounded(steep), grid.shape[axis]))
    return tuple(sorted(range(grid.ndim), key=lambda axis: keys[axis], reverse=True))


def _neighbors(values: np.ndarray, axis: int, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the values at both sides of each face of an axis, the seam of a circle among them."""
    lines = values.swapaxes(0, axis)
    return (lines, np.roll(lines, -1, axis=0)) if periodic else (lines[:-1], lines[1:])


def _rounded(value: float) -> float:
    """Return a number to six digits, which sums in other orders agree to; 0 for none."""
    return float(f"{value:.5e}") if math.isfinite(value) else 0.0


def second_differences(masses: np.ndarray, grid: Grid) -> float:
    """Return the sum of h^2 |rho''| / 12 over the axes, in L1 relative to the mass."""
    values = masses if all(grid.uniform) else masses / grid.volumes
    bends = sum(float(np.abs(np.diff(values, 2, axis=axis)).sum()) for axis in range(values.ndim))
    return bends / (12.0 * float(values.sum()))


def default_threads() -> int:
    """Return the number of threads that this process may use, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
