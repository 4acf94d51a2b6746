r"""Nonlinear diffusion: d rho/dt = div(rho grad(H'(rho/w) + V + U rho)), line by line.

A step is composed as for linear diffusion (`stepper`): Psi = V + U rho frozen at the middle of the step, Strang
splitting by axis, each step checked, a damped implicit step as the fallback. Only the sweep along an axis differs. The
resolvent J is an implicit Euler step of the fluxes of `wgflow.compiled.nonlinear_sweep`, found by Newton's method for
all lines together: it keeps the mass and the sign, lowers the energy at any step, and does not move states whose first
variation is constant on their support. The second-order step has two of them (an L-stable SDIRK method with
gamma = 1 - 1/sqrt 2):

    m_1 = J(gamma dt) m,    m' = J(gamma dt) (m_1 + sqrt 2 (m_1 - m)),

where the transfers m_1 - m are left out around cells that would become negative. The reconstruction factors are those
at the middle of the step, which is found by an implicit Euler step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wgflow.compiled.nonlinear_sweep import DONE, fluxes, newton, push
from wgflow.compiled.sweep import CORRECTED, IMPLICIT_EULER, PLAIN
from wgflow.energies.internal_energies import relative_density
from wgflow.energies.nonlinear_fluxes import Diffusion, Lines, dissipation_rate
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.grids import Grid

from .splitting import order_of_sweeps, second_differences
from .stepper import Sweeps

GAMMA = 1.0 - math.sqrt(0.5)
ROOT2 = math.sqrt(2.0)
#: Newton's method has converged when a correction moves no more than this part of a line's mass.
CONVERGED = 1e-13
#: Corrections of Newton's method after which a step is divided,
MAX_CORRECTIONS = 80
#: down to this part of it.
SHORTEST = 1e-12
#: In the first correction derivatives are taken at densities of at least this part of the largest: in a vacuum they
#: vanish or are infinite, and mass would cross only one cell in each correction.
FIRST_FLOOR = 0.02


class NonlinearSweeps(Sweeps):
    """The sweeps of one grid with nonlinear diffusion; see the module's text for the scheme.

    Parameters
    ----------
    grid : Grid
    law : Diffusion
    corrected : bool
        Whether mobilities are reconstructed to second order.
    negligible : float
        Mass that counts as round-off.
    mobility : sequence of arrays, optional
        The diagonal of A in the cells, one array for each axis.
    """

    def __init__(self, grid: Grid, law: Diffusion, corrected: bool, negligible: float,
                 mobility: Sequence[np.ndarray] | None = None):
        self.grid, self.law, self.negligible, self.mobility = grid, law, negligible, mobility
        self.sequence = tuple(range(grid.ndim))
        self.second = CORRECTED if corrected else PLAIN
        self.smooth = self.second, IMPLICIT_EULER
        self.axes = [Lines(grid, axis, None if mobility is None else mobility[axis]) for axis in range(grid.ndim)]

    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        return energy.potential

    def check(self, masses: np.ndarray) -> None:
        if self.law.others and np.isfinite(masses).all():
            self.law.check(relative_density(masses, self.grid))

    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        return dissipation_rate(masses, psi, self.grid, self.law, self.second == CORRECTED, self.mobility)

    def space_error(self, masses: np.ndarray) -> float:
        """Return the size of second differences to the power 3/2, the order of the error at fronts."""
        return second_differences(masses, self.grid) ** 1.5

    def move(self, masses: np.ndarray, psi: np.ndarray, dt: float, mode: int, factors=None) -> np.ndarray:
        """Return the masses after a time dt with Psi frozen; a new array. NaN where no step is found, however short."""
        for place, part in order_of_sweeps(len(self.axes), dt, mode):
            cells = self.axes[self.sequence[place]]
            m, u = cells.lines(masses), cells.lines(psi)
            with np.errstate(over="ignore", invalid="ignore"):
                m = self._euler(cells, m, u, part) if mode == IMPLICIT_EULER else self._second(cells, m, u, part, mode)
            masses = cells.back(m)
        return masses

    def _euler(self, cells: Lines, m, psi, dt: float) -> np.ndarray:
        return self._resolve(cells, m, psi, np.full(len(m), dt), cells.plain)[0]

    def _second(self, cells: Lines, m, psi, dt: float, mode: int) -> np.ndarray:
        """Do the two-stage step with frozen factors."""
        times, guess = np.full(len(m), dt), None
        factors: tuple[np.ndarray, ...] = cells.plain
        if mode == CORRECTED:
            half, _ = self._resolve(cells, m, psi, 0.5 * times, cells.factors(self.law, m, psi))
            factors = cells.factors(self.law, half, psi)
            guess = m + 2.0 * GAMMA * (half - m)
        first, whole = self._resolve(cells, m, psi, GAMMA * times, factors, guess)
        r = first / cells.volumes
        transfer = np.empty(cells.conductances.shape)
        fluxes(r, *self.law.evaluate(r)[:2], psi, GAMMA * dt * cells.conductances, *factors, transfer)
        # A stage that was divided has no transfers to extrapolate: it is followed by the rest of the time.
        start = np.empty(m.shape)
        push(first, transfer, np.where(whole, ROOT2, 0.0), start)
        start[~np.isfinite(first).all(axis=1)] = math.nan
        guess = np.maximum(start + (first - m), 0.1 * start)
        return self._resolve(cells, start, psi, np.where(whole, GAMMA, 1.0 - GAMMA) * times, factors, guess)[0]

    def _resolve(self, cells: Lines, start, psi, times, factors, guess=None) -> tuple[np.ndarray, np.ndarray]:
        """Return implicit Euler steps of the lines, and for each line whether it was one whole step."""
        m, whole = self._newton(cells, start, psi, times, factors, guess)
        for j in np.flatnonzero(~whole):
            one = slice(j, j + 1)
            m[one] = self._walk(cells.part(one), start[one], psi[one], times[j], tuple(f[one] for f in factors))
        return m, whole

    def _walk(self, cells: Lines, m, psi, time: float, factors) -> np.ndarray:
        """Return implicit Euler steps of one line while Newton's method converges for them; NaN where it never does."""
        if not np.isfinite(m).all():
            return np.full(m.shape, math.nan)
        done, dt = 0.0, 0.25 * time
        while done < time:
            dt = min(dt, time - done)
            new, found = self._newton(cells, m, psi, np.array([dt]), factors)
            if found[0]:
                m, done, dt = new, done + dt, 2.0 * dt
            elif dt < SHORTEST * time:
                return np.full(m.shape, math.nan)
            else:
                dt *= 0.25
        return m

    def _newton(self, cells: Lines, start, psi, times, factors, guess=None) -> tuple[np.ndarray, np.ndarray]:
        """Return implicit Euler steps of lines by Newton's method, and for which lines it converged."""
        count = len(start)
        m, done, active = np.empty(start.shape), np.zeros(count, dtype=bool), np.arange(count)
        x, cold = (start if guess is None else guess).copy(), guess is None
        totals = start.sum(axis=1)
        bounds, shares, sizes = CONVERGED * totals + self.negligible, np.ones(count), np.full(count, math.inf)
        status = np.zeros(count, dtype=np.int64)
        arrays = (psi, start, cells.volumes, times, cells.conductances, *factors)
        for k in range(MAX_CORRECTIONS):
            r = x / arrays[2]
            slope, pressure, stiff, bend = self.law.evaluate(r)
            if k == 0 and cold:
                _, _, stiff, bend = self.law.evaluate(np.maximum(r, FIRST_FLOOR * r.max(axis=1, keepdims=True)))
            newton(x, r, slope, pressure, stiff, bend, *arrays, cells.periodic, bounds, totals, shares, sizes, status)
            ended = np.count_nonzero(status)
            if 2 * ended > len(x):
                # The lines that have ended are removed once they are the majority.
                found, stay = status == DONE, status == 0
                m[active[found]], done[active[found]] = x[found], True
                if ended == len(x):
                    return m, done
                active, x, totals, bounds, shares, sizes, status = (
                    a[stay] for a in (active, x, totals, bounds, shares, sizes, status))
                arrays = tuple(a[stay] for a in arrays)
        found = status == DONE
        m[active[found]], done[active[found]] = x[found], True
        return m, done
