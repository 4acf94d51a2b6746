"""Sweeps for a mobility with mixed terms: along the directions of the grid whose sum it is, by Strang splitting.

Each sweep is a gradient flow of F for the degenerate metric of one direction (`wgflow.energies.oblique`): it keeps
mass, sign and Gibbs states and lowers F.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.chains import EMPTY, EULER, HALVES, SECOND, chain_sweep
from wgflow.compiled.compact import EMPTY as FOURTH_EMPTY
from wgflow.compiled.compact import EULER as FOURTH_EULER
from wgflow.compiled.compact import chain_steps
from wgflow.compiled.sweep import IMPLICIT_EULER
from wgflow.energies.nodes import NodeGrid
from wgflow.energies.oblique import Direction, oblique_dissipation, quadrature_weights
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow
from wgflow.grids import Grid

from .compact_sweeps import CompactSweeps, order_of_axes
from .splitting import THREADED_CELLS, order_of_sweeps, second_differences, shared
from .stepper import Sweeps

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["ObliqueCompactSweeps", "ObliqueSweeps", "why_not_oblique"]


class ObliqueSweeps(Sweeps):
    """The sweeps of one grid along some directions, with linear diffusion.

    Parameters
    ----------
    grid : Grid
    diffusion : float
        beta^-1 > 0.
    directions : list of Direction
    negligible : float
        Mass that counts as round-off on the whole grid.
    threads : int
        Number of threads among which chains are shared; the result has the same bits for any number.
    """

    second = SECOND
    smooth = (SECOND, HALVES)

    def __init__(self, grid: Grid, diffusion: float, directions: list[Direction], negligible: float, threads: int):
        self.grid, self.diffusion, self.directions, self.negligible = grid, diffusion, directions, negligible
        self.pool = ThreadPoolExecutor(threads) if threads > 1 and grid.size >= THREADED_CELLS else None
        self.threads = threads

    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        return energy.sweep_potential

    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        return oblique_dissipation(masses, psi, self.grid, self.diffusion, self.directions)

    def space_error(self, masses: np.ndarray) -> float:
        """Return h^2 rho'' / 12 in L1, relative to the mass, by second differences."""
        return second_differences(masses, self.grid)

    def move(self, masses: np.ndarray, psi: np.ndarray, dt: float, mode: int, factors=None) -> np.ndarray:
        """Return the masses after a time dt of the generator frozen at Psi, a new array."""
        kind = EULER if mode == IMPLICIT_EULER else mode
        flat, psi = np.array(masses, dtype=float).ravel(), np.array(psi, dtype=float).ravel()
        least = EMPTY * float(flat.sum())
        for k, part in order_of_sweeps(len(self.directions), dt, mode):
            one = self.directions[k]
            chains = one.starts.size - 1
            sweep = partial(chain_sweep, flat, psi, self.diffusion, part, one.order, one.starts, one.closed, one.faces,
                            kind, least, self.negligible / chains)
            shared(sweep, chains, self.pool, self.threads)
        return flat.reshape(masses.shape)

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()


class ObliqueCompactSweeps(CompactSweeps):
    """Compact sweeps of fourth order along some directions of the grid, all of which serve everywhere.

    Parameters
    ----------
    grid : NodeGrid
    diffusion : float
    static : bool
    threads : int
    directions : list of Direction
    diagonal : list of arrays
        The diagonal of A, for estimates.
    """

    def __init__(self, grid: NodeGrid, diffusion: float, static: bool, threads: int, directions: list[Direction],
                 diagonal: list[np.ndarray]):
        super().__init__(grid, diffusion, static, threads, diagonal)
        # Rates are not kept.
        self.directions, self.keeps, self.known = directions, False, [False] * grid.ndim
        self.weights = quadrature_weights(grid)
        self.logarithms = [diffusion * np.log(one.part) for one in directions]

    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        return oblique_dissipation(masses, psi, self.grid, self.diffusion, self.directions)

    def move(self, masses, psi, dt: float, mode: int, factors=None, count: int = 1) -> np.ndarray:
        """Return the point masses after ``count`` steps dt of the generator frozen at Psi, a new array."""
        kind = FOURTH_EULER if mode == IMPLICIT_EULER else mode
        flat, psi = masses.ravel().copy(), np.array(psi, dtype=float).ravel()
        self.moved, least = 0.0, FOURTH_EMPTY * float(flat.sum())
        for k, part, times in order_of_axes(len(self.directions), dt, kind, count):
            one = self.directions[k]
            moved = np.zeros(one.starts.size - 1)
            sweep = partial(chain_steps, flat, psi - self.logarithms[k], one.part, self.weights, self.diffusion, part,
                            times, one.order, one.starts, one.closed, kind, moved, least)
            shared(sweep, moved.size, self.pool, self.threads)
            self.moved += float(moved.sum())
        return flat.reshape(masses.shape)


def why_not_oblique(flow: Flow, method: FiniteVolume) -> str | None:
    """Return what of a flow or a method the sweeps along directions do not serve, in words; None if they serve."""
    energy = flow.on_grid
    for holds, reason in (
        (energy.diffusion <= 0, "an energy without linear diffusion (Entropy of finite beta)"),
        (bool(energy.internal), "nonlinear diffusion"),
        (method.scheme != "extrapolated" and energy.moves, f"scheme={method.scheme!r}"),
        (method.splitting == "none", "splitting='none'"),
    ):
        if holds:
            return reason
    return None
