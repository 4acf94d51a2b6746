r"""Nonlinear diffusion: d rho/dt = div(rho grad(H'(rho/w) + V + U rho)), line by line.

The flow goes as for linear diffusion (`stepper`): Psi = V + U rho frozen at the middle of the step, Strang splitting
by axis, each step checked, a damped implicit step as the fallback. What differs is the sweep along an axis. The
resolvent J is an implicit Euler step of the fluxes of `wgflow.kernels.nonlinear_sweep`, found by Newton's method for all
lines together: it keeps the mass and the sign, lowers the energy at any step and leaves states at rest that have a
constant first variation on their support. The second-order step has two of them (an L-stable SDIRK method with
gamma = 1 - 1/sqrt 2):

    m_1 = J(gamma dt) m,    m' = J(gamma dt) (m_1 + sqrt 2 (m_1 - m)),

where the transfers m_1 - m are left out around cells that would become negative, and the reconstruction factors are
those at the middle of the step, reached by an implicit Euler step.
"""

from __future__ import annotations

import math

import numpy as np

from wgflow.internal_energies import relative_density
from wgflow.kernels.nonlinear_sweep import fluxes, newton, push
from wgflow.kernels.sweep import CORRECTED, IMPLICIT_EULER, PLAIN
from wgflow.nonlinear_fluxes import Diffusion, Lines, dissipation_rate

from .stepper import Stepper

GAMMA, ROOT2 = 1.0 - math.sqrt(0.5), math.sqrt(2.0)
#: Newton's method has converged when a correction moves no more than this part of a line's mass; or, where round-off
#: holds it above, when it is below the second bound and stops shrinking.
CONVERGED, STAGNANT = 1e-13, 1e-9
#: Corrections after which a step is cut in parts, down to this part of it.
MAX_CORRECTIONS, SHORTEST = 80, 1e-12
#: The part of a correction that is made is halved, down to the least, where the next does not show it (by so much of
#: it), and doubled where it does; it moves no more than so many times the mass.
SLOW, LEAST_SHARE, LONGEST = 0.1, 0.25, 0.3
#: No correction takes more than this part of a cell's mass away.
DRAIN = 0.9
#: The first correction sees no density below this part of the largest: at a vacuum the derivatives vanish, or are
#: infinite, and mass would cross one cell in each correction.
FIRST_FLOOR = 0.02


class NonlinearStepper(Stepper):
    """Steps of one flow with nonlinear diffusion; see the module's text for the scheme.

    Parameters
    ----------
    flow : Flow
    corrected : bool
        Whether mobilities are reconstructed to second order.
    """

    def __init__(self, flow, corrected: bool):
        parts = flow.parts
        self.flow, self.parts, self.diffusion = flow, parts, parts.diffusion
        self.sweep_potential = parts.potential
        self.energy_potential = parts.energy_potential
        self.mass = flow.rho0.mass
        self.law = Diffusion(parts)
        self.split = NonlinearSplitting(flow.grid, self.law, 1e-16 * self.mass)
        self.mode = CORRECTED if corrected else PLAIN

    def energy(self, masses, interaction) -> float:
        """F of cell masses, with U rho given."""
        if self.law.others and np.isfinite(masses).all():
            self.law.check(relative_density(masses, self.flow.grid))
        total = super().energy(masses, interaction)
        return total + sum(factor * term.energy_of(masses, self.flow.grid) for factor, term in self.parts.internal)

    def dissipation(self, state) -> float:
        """-dF/dt at time_scale 1."""
        return dissipation_rate(state.masses, self._psi(state.interaction), self.flow.grid, self.law,
                                self.mode == CORRECTED)

    def space_error(self, state) -> float:
        """Size of the grid's own error, relative to the mass; of order 3/2 of the second differences at fronts."""
        values = state.masses if self.flow.even else state.masses / self.flow.grid.volumes
        bends = sum(float(np.abs(np.diff(values, 2, axis=axis)).sum()) for axis in range(values.ndim))
        return (bends / (12.0 * float(values.sum()))) ** 1.5


class NonlinearSplitting:
    """The sweeps of one grid, composed over its axes (`Splitting` for nonlinear diffusion).

    Parameters
    ----------
    grid : Grid
    law : Diffusion
    negligible : float
        Mass that counts as round-off.
    """

    def __init__(self, grid, law: Diffusion, negligible: float):
        self.law, self.negligible = law, negligible
        self.axes = [Lines(grid, axis) for axis in range(grid.ndim)]

    def move(self, masses: np.ndarray, psi: np.ndarray, dt: float, mode: int) -> np.ndarray:
        """The masses after a time dt with Psi frozen; a new array. NaN where no step is found, however short."""
        last = len(self.axes) - 1
        if mode == IMPLICIT_EULER:
            order = [(axis, dt) for axis in range(last + 1)]
        else:
            order = [(axis, 0.5 * dt) for axis in range(last)]
            order = [*order, (last, dt), *order[::-1]]
        for axis, part in order:
            cells = self.axes[axis]
            m, u = cells.lines(masses), cells.lines(psi)
            with np.errstate(over="ignore", invalid="ignore"):
                m = self._euler(cells, m, u, part) if mode == IMPLICIT_EULER else self._second(cells, m, u, part, mode)
            masses = cells.back(m)
        return masses

    def close(self) -> None:
        """Nothing to end: the lines are swept by one thread."""

    def _euler(self, cells: Lines, m, psi, dt: float) -> np.ndarray:
        return self._resolve(cells, m, psi, np.full(len(m), dt), cells.plain)[0]

    def _second(self, cells: Lines, m, psi, dt: float, mode: int) -> np.ndarray:
        """The two-stage step with frozen factors."""
        times, factors, guess = np.full(len(m), dt), cells.plain, None
        if mode == CORRECTED:
            half, _ = self._resolve(cells, m, psi, 0.5 * times, cells.factors(self.law, m, psi))
            factors = cells.factors(self.law, half, psi)
            guess = m + 2.0 * GAMMA * (half - m)
        first, whole = self._resolve(cells, m, psi, GAMMA * times, factors, guess)
        r = first / cells.volumes
        transfer = np.empty(cells.conductances.shape)
        fluxes(r, *self.law.state(r), psi, (GAMMA * times)[:, None] * cells.conductances, *factors, transfer)
        # A stage that was cut in parts has no transfers to go on from: the rest of the time follows it.
        start = np.empty(m.shape)
        push(first, transfer, np.where(whole, ROOT2, 0.0), start)
        guess = np.maximum(start + (first - m), 0.1 * start)
        return self._resolve(cells, start, psi, np.where(whole, GAMMA, 1.0 - GAMMA) * times, factors, guess)[0]

    def _resolve(self, cells: Lines, start, psi, times, factors, guess=None) -> tuple[np.ndarray, np.ndarray]:
        """An implicit Euler step of each line, and whether it was taken as a whole."""
        m, whole = self._newton(cells, start, psi, times, factors, guess)
        for j in np.flatnonzero(~whole):
            one = slice(j, j + 1)
            m[one] = self._walk(cells.part(one), start[one], psi[one], times[j], tuple(f[one] for f in factors))
        return m, whole

    def _walk(self, cells: Lines, m, psi, time: float, factors) -> np.ndarray:
        """Implicit Euler steps of one line as long as Newton's method takes them; NaN where it takes none."""
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
        """Implicit Euler steps of lines by Newton's method, and for which it has converged."""
        m = (start if guess is None else guess).copy()
        done = np.zeros(len(m), dtype=bool)
        total = start.sum(axis=1)
        bound = CONVERGED * total + self.negligible
        before, share = np.full(len(m), math.inf), np.ones(len(m))
        active, volumes, conductances = np.arange(len(m)), cells.volumes, times[:, None] * cells.conductances
        x, goal, u, parts = m.copy(), start, psi, factors
        for k in range(MAX_CORRECTIONS):
            r = x / volumes
            slope, pressure = self.law.state(r)
            seen = np.maximum(r, FIRST_FLOOR * r.max(axis=1, keepdims=True)) if k == 0 and guess is None else r
            delta, sizes = np.empty(x.shape), np.empty(len(x))
            newton(x, r, slope, pressure, *self.law.slopes(seen), u, goal, volumes, conductances, *parts,
                   cells.periodic, delta, sizes)
            share = np.where(sizes > (1.0 - SLOW * share) * before, 0.5 * share, np.minimum(2.0 * share, 1.0))
            share = np.minimum(np.maximum(share, LEAST_SHARE), LONGEST * total / np.maximum(sizes, bound))
            moved = x + share[:, None] * delta
            kept = np.maximum(moved, (1.0 - DRAIN) * x)
            # What is not drained is taken from all cells, since more mass than there is leads nowhere.
            wrong = (kept != moved).any(axis=1) & (total > 0)
            kept[wrong] *= (total[wrong] / kept[wrong].sum(axis=1))[:, None]
            x = kept
            ready = (sizes <= bound) | ((sizes <= STAGNANT / CONVERGED * bound) & (sizes > 0.5 * before))
            lost = ~np.isfinite(sizes)
            if ready.any() or lost.any():
                m[active[ready]], done[active[ready]] = x[ready], True
                stay = ~(ready | lost)
                if not stay.any():
                    break
                active, x, goal, u, share, total, sizes, bound, volumes, conductances = (
                    a[stay] for a in (active, x, goal, u, share, total, sizes, bound, volumes, conductances))
                parts = tuple(f[stay] for f in parts)
            before = sizes
        return m, done
