r"""Linear diffusion on two axes without splitting: one sparse system for all cells.

With Psi frozen the masses obey m' = A m with the Scharfetter-Gummel rates between neighbors i, j of an axis,

.. math:: a_{ji} = \frac{D}{h_i d_{ij}} B\Bigl(\frac{\Psi_j - \Psi_i}{D}\Bigr), \qquad B(z) = \frac{z}{e^z - 1} .

I - s A is an M-matrix whose columns sum to 1, so that its inverse J(s) keeps the mass and the sign, leaves the Gibbs
state of Psi as it is, and lowers every convex relative entropy, for any s. A step is

.. math:: S = J^2 + \sqrt2\,(J^2 - J), \qquad J = J(\gamma \Delta t), \quad \gamma = 1 - 1/\sqrt2,

which is of second order and damps stiff modes completely (L-stable). The second part is the divergence of fluxes,
:math:`(J^2 - J) m = \gamma \Delta t\, A J^2 m`; where S would be negative the fluxes out of such cells are cut, which
keeps the mass and the Gibbs states.

Sweeps along the axes in turn move a law in a narrow oblique valley out of it and back: their error stays small only for
steps of the size of the time across the valley. Here nothing ties the steps to that time, at the price of a sparse
factorization whenever Psi or the length of the step changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from wgflow.compiled.sweep import IMPLICIT_EULER, PLAIN
from wgflow.energies.dissipation import linear_dissipation
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.grids import Grid

from .splitting import second_differences
from .stepper import Sweeps

__all__ = ["UnsplitSteps"]

Array = NDArray[np.float64]
GAMMA = 1.0 - 1.0 / math.sqrt(2.0)
#: Factors kept: those of a step, of one of double length, and of implicit steps.
KEPT = 4
#: Digits of a length by which its factor is found again.
DIGITS = 12
#: Rounds in which fluxes out of negative cells are cut, before all that leave a cell are held to what it has.
ROUNDS = 8
#: Below this a difference of Psi/D is replaced by its series in the Bernoulli function,
FLAT = 1e-5
#: and above this the exponential would overflow.
STEEPEST = 700.0


@dataclass(frozen=True)
class Rates:
    """The rates between neighbors: for each edge its two cells, and the rates from the first to the second and back."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    forward: Array
    backward: Array

    def matrix(self, size: int, length: float) -> sparse.csc_matrix:
        """Return I - length A."""
        rows = np.concatenate([self.second, self.first, self.first, self.second])
        columns = np.concatenate([self.first, self.second, self.first, self.second])
        out, back = length * self.forward, length * self.backward
        values = np.concatenate([-out, -back, out, back])
        return (sparse.csc_matrix((values, (rows, columns)), shape=(size, size))
                + sparse.identity(size, format="csc"))

    def fluxes(self, masses: Array) -> Array:
        """Return the flux through each edge, from its first cell to its second."""
        found: Array = self.forward * masses[self.first] - self.backward * masses[self.second]
        return found


class UnsplitSteps(Sweeps):
    """Steps of all axes at once on one grid, with linear diffusion; see the module's text.

    Parameters
    ----------
    grid : Grid
        On two axes.
    diffusion : float
        beta^-1, positive.
    static : bool
        Whether Psi never changes, so that factors can be kept.
    """

    second = PLAIN
    smooth = PLAIN, IMPLICIT_EULER

    def __init__(self, grid: Grid, diffusion: float, static: bool):
        self.grid, self.diffusion, self.static = grid, diffusion, static
        self.edges = _edges(grid)
        self.rates: Rates | None = None
        self.factors_of: dict[str, SuperLU] = {}

    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        return energy.sweep_potential

    def dissipation(self, masses: np.ndarray, psi: np.ndarray) -> float:
        return linear_dissipation(masses, psi, self.grid, self.diffusion, False)

    def space_error(self, masses: np.ndarray) -> float:
        """Return h^2 rho'' / 12 in L1, relative to the mass, by second differences."""
        return second_differences(masses, self.grid)

    def move(self, masses: np.ndarray, psi: np.ndarray, dt: float, mode: int, factors: object = None) -> np.ndarray:
        """Return the masses after a time dt with Psi frozen, a new array.

        Parameters
        ----------
        masses, psi : array
            Of the grid's shape.
        dt : float
        mode : int
            ``PLAIN``, of second order, or ``IMPLICIT_EULER``.
        factors : None
            Not used: the rates depend smoothly on Psi.
        """
        if self.rates is None or not self.static:
            self.rates, self.factors_of = _rates(self.edges, psi.ravel(), self.diffusion), {}
        flat = masses.ravel()
        if mode == IMPLICIT_EULER:
            return self._solve(self.rates, dt, flat).reshape(masses.shape)
        length = GAMMA * dt
        once = self._solve(self.rates, length, flat)
        twice = self._solve(self.rates, length, once)
        found = twice + math.sqrt(2.0) * (twice - once)
        if not found.min() >= 0.0:
            found = _limited(twice, math.sqrt(2.0) * length * self.rates.fluxes(twice), self.rates)
        return found.reshape(masses.shape)

    def _solve(self, rates: Rates, length: float, masses: Array) -> Array:
        """Return J m; lengths that agree to 12 digits have one factor, so that a resumed run has the same bits."""
        key = f"{length:.{DIGITS - 1}e}"
        if key not in self.factors_of:
            if len(self.factors_of) >= KEPT:
                del self.factors_of[next(iter(self.factors_of))]
            # Without pivoting an M-matrix has factors of one sign, and its solutions stay positive in rounding.
            self.factors_of[key] = splu(rates.matrix(masses.size, float(key)), permc_spec="MMD_AT_PLUS_A",
                                        diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        found: Array = self.factors_of[key].solve(masses)
        return found


def _edges(grid: Grid) -> list[tuple[NDArray[np.intp], NDArray[np.intp], Array, Array]]:
    """Return, for each axis, the two cells of each edge, and 1 / (h d) seen from each of them."""
    index = np.arange(grid.size).reshape(grid.shape)
    found = []
    for axis in range(grid.ndim):
        distance, widths = np.asarray(grid.distances[axis]), np.asarray(grid.widths[axis])
        count = distance.size
        first = index.take(np.arange(count), axis=axis)
        second = np.roll(index, -1, axis=axis).take(np.arange(count), axis=axis)
        shape = [-1 if k == axis else 1 for k in range(grid.ndim)]
        per_first = 1.0 / (widths[:count] * distance)
        per_second = 1.0 / (np.roll(widths, -1)[:count] * distance)
        seen = [np.broadcast_to(per.reshape(shape), first.shape).ravel() for per in (per_first, per_second)]
        found.append((first.ravel(), second.ravel(), seen[0], seen[1]))
    return found


def _rates(edges: list[tuple[NDArray[np.intp], NDArray[np.intp], Array, Array]], psi: Array,
           diffusion: float) -> Rates:
    first, second, per_first, per_second = (np.concatenate(parts) for parts in zip(*edges))
    climb = (psi[second] - psi[first]) / diffusion
    return Rates(first, second, diffusion * per_first * _bernoulli(climb), diffusion * per_second * _bernoulli(-climb))


def _bernoulli(z: Array) -> Array:
    """Return z / (exp(z) - 1)."""
    flat = np.abs(z) < FLAT
    safe = np.where(flat, 1.0, np.minimum(z, STEEPEST))
    return np.where(flat, 1.0 - 0.5 * z + z * z / 12.0, safe / np.expm1(safe))


def _limited(masses: Array, fluxes: Array, rates: Rates) -> Array:
    """Return masses less the divergence of fluxes, with fluxes out of cells cut that would become negative."""
    kept = np.ones_like(fluxes)
    for _ in range(ROUNDS):
        moved = kept * fluxes
        new = masses - _divergence(moved, rates, masses.size)
        if new.min() >= 0.0:
            return new
        # A negative cell gives away what it has and what flows in, and no more.
        out = _outflow(moved, rates, masses.size)
        share = np.where(new < 0.0, np.clip((new + out) / np.where(out > 0.0, out, 1.0), 0.0, 1.0), 1.0)
        kept *= share[np.where(fluxes > 0.0, rates.first, rates.second)]
    out = _outflow(fluxes, rates, masses.size)
    share = np.minimum(1.0, masses / np.where(out > 0.0, out, 1.0))
    moved = fluxes * share[np.where(fluxes > 0.0, rates.first, rates.second)]
    return np.maximum(masses - _divergence(moved, rates, masses.size), 0.0)


def _divergence(fluxes: Array, rates: Rates, size: int) -> Array:
    return _sums(rates.first, fluxes, size) - _sums(rates.second, fluxes, size)


def _outflow(fluxes: Array, rates: Rates, size: int) -> Array:
    return _sums(rates.first, np.maximum(fluxes, 0.0), size) + _sums(rates.second, np.maximum(-fluxes, 0.0), size)


def _sums(cells: NDArray[np.intp], values: Array, size: int) -> Array:
    """Return the sums of values over the cells that they belong to."""
    return np.asarray(np.bincount(cells, values, size), dtype=np.float64)
