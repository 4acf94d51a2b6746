r"""No diffusion: d rho/dt = div(rho grad Psi), carried along characteristics, line by line.

A step is composed as for linear diffusion (`stepper`): Psi = V + U rho frozen at the middle of the step, Strang
splitting by axis, each step checked. Only the sweep along an axis differs: the masses of a line are moved along the
characteristics of the frozen Psi and added up in the cells again (`wgflow.compiled.transport`). At any dt it keeps the
mass and the sign, lowers the frozen energy :math:`\sum_i \Psi_i m_i`, and leaves states at rest whose Psi is constant
on their support; so that one move serves all modes,
which differ in the order of the axes alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from wgflow.compiled.interfaces import find_interfaces
from wgflow.compiled.sweep import CORRECTED, IMPLICIT_EULER
from wgflow.compiled.transport import ROUGH_FIELD, SMOOTH_FIELD, carry
from wgflow.energies.dissipation import transport_rate
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.grids import Grid

from .splitting import THREADED_CELLS, order_of_sweeps, second_differences, shared
from .stepper import Sweeps

__all__ = ["TransportSweeps"]


class TransportSweeps(Sweeps):
    """The sweeps of one grid without diffusion; see the module's text.

    Parameters
    ----------
    grid : Grid
    rough : bool
        Whether a kernel of the interaction is not smooth at 0.
    threads : int
        Number of threads among which lines are shared; the result has the same bits for any number.
    """

    second, smooth = CORRECTED, (CORRECTED, IMPLICIT_EULER)

    def __init__(self, grid: Grid, rough: bool, threads: int):
        self.grid, self.rough, self.threads, self.sequence = grid, rough, threads, tuple(range(grid.ndim))
        self.field = ROUGH_FIELD if rough else SMOOTH_FIELD
        self.pool = ThreadPoolExecutor(threads) if threads > 1 and grid.size >= THREADED_CELLS else None

    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        return energy.sweep_potential

    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        return transport_rate(masses, psi, self.grid, self.rough)

    def space_error(self, masses: np.ndarray) -> float:
        """Return the size of second differences to the power 3/2, as the reconstruction is of third order."""
        return second_differences(masses, self.grid) ** 1.5

    def move(self, masses: np.ndarray, psi: np.ndarray, dt: float, mode: int, factors=None) -> np.ndarray:
        """Return the masses after a time dt with Psi frozen; a new array. NaN where Psi is not finite."""
        if not np.isfinite(psi).all():
            return np.full(masses.shape, np.nan)
        for place, part in order_of_sweeps(self.grid.ndim, dt, mode):
            axis = self.sequence[place]
            m, p = (_lines(values, axis) for values in (masses, psi))
            moved = np.empty(m.shape)
            kernel = partial(carry, m, p, self.grid.widths[axis], self.grid.distances[axis], self.field,
                             _interfaces_along(m, axis, self.grid), part, moved)
            shared(kernel, len(m), self.pool, self.threads)
            shape = np.moveaxis(masses, axis, -1).shape
            masses = np.ascontiguousarray(np.moveaxis(moved.reshape(shape), -1, axis))
        return masses

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


def _interfaces_along(lines: np.ndarray, axis: int, grid: Grid) -> np.ndarray:
    """Return the profiles of cells in the plane that a jump of the density cuts, (4, lines, n); (4, lines, 0) for none.

    ``lines`` are the masses of the cells by lines along an axis.
    """
    if grid.ndim != 2 or not all(grid.uniform):
        return np.empty((4, len(lines), 0))
    found, widths = np.empty((4, *lines.shape)), [grid.widths[a][0] for a in range(2)]
    rings = np.array([grid.periodic[1 - axis], grid.periodic[axis]])
    find_interfaces(lines / widths[axis], rings, found)
    return found


def _lines(values: np.ndarray, axis: int) -> np.ndarray:
    """Return an array of the grid's shape as lines along an axis, a new array."""
    return np.array(np.moveaxis(values, axis, -1), dtype=float, order="C").reshape(-1, values.shape[axis])
