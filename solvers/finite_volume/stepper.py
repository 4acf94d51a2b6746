r"""The exponential midpoint rule, and the fallback that always lowers the energy.

One step of d rho/dt = L[V + U rho] rho takes rho^{n+1} = S(dt; V + W) rho^n, where W approximates
U (rho^n + rho^{n+1})/2 by extrapolation in time (by a half step where there is no past), and S is a stochastic
second-order approximation of exp(dt L) that keeps Gibbs states (`wgflow.compiled.sweep`, composed over the axes by
`Splitting`).

With the exact average for W, F falls at any step, since
E_U(n+1) - E_U(n) = <U (rho^n + rho^{n+1})/2, rho^{n+1} - rho^n> and S lowers the frozen energy. The extrapolated W
makes this true for steps that resolve the flow, with one evaluation of U a step; each step is checked, and where F
rises the step is cut. The fallback needs no such luck.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from wgflow.compiled.sweep import CORRECTED, IMPLICIT_EULER, PLAIN, TINY, dissipation_rate
from wgflow.errors import ConvergenceError

from .splitting import Splitting

#: A rise of F beyond this part of max(1, |F|) rejects a step (round-off of the energy's sums stays below).
ENERGY_SLACK = 1e-13
#: Mass defect that is left alone (4 ulp), so that a state at rest is not rescaled to and fro.
MASS_SLACK = 4 * 2.0**-52
#: Mass defect of the linear solves beyond which something is wrong; they are accurate to a few ulp.
MASS_ALARM = 1e-10
#: Beyond this ratio of steps the past no longer predicts the interaction, and a half step is taken for it.
LONGEST_EXTRAPOLATION = 3.0


class State(NamedTuple):
    """All that determines the next step: arrays and numbers only."""

    t: float
    clock: float
    masses: np.ndarray
    energy: float
    interaction: np.ndarray | None
    previous: np.ndarray | None
    previous_dt: float
    work: float = 0.0


class Stepper:
    """Steps of one flow; see the module's text for the scheme.

    Parameters
    ----------
    flow : Flow
    corrected : bool
    threads : int
    """

    def __init__(self, flow, corrected: bool, threads: int):
        parts = flow.parts
        self.flow, self.diffusion, self.mass = flow, parts.diffusion, flow.rho0.mass
        self.take(parts)
        static = not (parts.operators or flow.energy.time_dependent)
        self.split: Any = Splitting(flow.grid, parts.diffusion, 1e-16 * self.mass, static, threads)
        self.mode = CORRECTED if corrected else PLAIN

    def take(self, parts) -> None:
        """Take the energy as arrays."""
        self.parts, self.energy_potential = parts, parts.energy_potential
        # A writable array: the kernels are compiled for one kind only.
        self.sweep_potential = np.require(parts.sweep_potential, requirements=["C", "W"])

    def start(self) -> State:
        """The state at the start of the flow."""
        masses = self.flow.rho0.masses
        interaction = self.parts.interaction(masses)
        return State(self.flow.t0, 0.0, masses, self.energy(masses, interaction), interaction, None, 0.0)

    def energy(self, masses, interaction) -> float:
        """F of cell masses, with U rho given."""
        mu = self.energy_potential
        if interaction is not None:
            mu = mu + 0.5 * interaction
        if self.diffusion > 0:
            logs = np.log(np.maximum(masses, TINY))
            logs *= self.diffusion
            logs += mu
            mu = logs
        with np.errstate(over="ignore", invalid="ignore"):
            return float((masses * mu).sum())

    def step(self, state: State, dt: float, stop: float | None = None) -> State | None:
        """The state a time dt later (exactly at ``stop`` if given), or None if it breaks a property."""
        scaled = self.flow.elapsed(state.t, dt)
        masses = self._conserve(self.split.move(state.masses, self._midpoint(state, scaled), scaled, self.mode))
        return self._accept(state, dt, scaled, masses, stop)

    def fallback(self, state: State, dt: float, stop: float | None = None) -> State:
        """An implicit step with Psi frozen, damped so that F cannot rise; first order, for any dt and symmetric U.

        Let m* be the frozen implicit step and d = m* - m. The frozen energy H is convex and H(m*) <= H(m), so
        F(m + a d) <= F(m) - a (H(m) - H(m*)) + a^2/2 <d, U d>: a = min(1, (H(m) - H(m*)) / <d, U d>) lowers F.
        """
        scaled = self.flow.elapsed(state.t, dt)
        psi = self._psi(state.interaction)
        moved = self._conserve(self.split.move(state.masses, psi, scaled, IMPLICIT_EULER))
        if not (np.isfinite(moved).all() and moved.min() >= 0):
            raise ConvergenceError(f"the step from t = {state.t:.6g} gives values that are not finite or negative, "
                                   "however short it is: Psi or its differences are too large for floats; scale the "
                                   "energy down", reason="non-finite", t=state.t, dt=dt)
        share = 1.0
        if state.interaction is not None:
            change = moved - state.masses
            frozen = 2.0 * state.interaction
            fall = self.energy(state.masses, frozen) - self.energy(moved, frozen)
            curvature = float((change * (self.parts.interaction(moved) - state.interaction)).sum())
            if curvature > 0:
                share = min(1.0, max(fall, 0.0) / curvature)
        masses = self._conserve((1.0 - share) * state.masses + share * moved)
        new = self._accept(state, dt, scaled, masses, stop)
        # At a stationary state the energy can move by round-off only: then the state rests.
        new = new or self._accept(state, dt, scaled, state.masses, stop)
        if new is None:
            raise ConvergenceError(f"the free energy at t = {state.t:.6g} was {state.energy:.6g} and is not found "
                                   "again for the same density; make it finite, and U the same at every call",
                                   reason="energy increase", t=state.t, dt=dt)
        return new

    def dissipation(self, state: State) -> float:
        """-dF/dt at time_scale 1."""
        return dissipation_rate(state.masses, self._psi(state.interaction), self.flow.grid, self.diffusion,
                                self.mode == CORRECTED)

    def speed(self, state: State) -> float:
        """L1 norm of d rho/dt over the mass, at time_scale 1; 0 where it cannot be told."""
        dt = 1e-8 * (self.flow.t1 - self.flow.t0)
        while dt > 0:
            change = self.split.move(state.masses, self._psi(state.interaction), dt, IMPLICIT_EULER) - state.masses
            size = float(np.abs(change).sum()) / self.mass
            if size < 1e-3 or dt < 1e-290 or not math.isfinite(size):
                return size / dt if math.isfinite(size) else 0.0
            dt *= 1e-3
        return 0.0

    def space_error(self, state: State) -> float:
        """Size of the grid's own error, relative to the mass: h^2 rho'' / 12 in L1, by second differences.

        Without diffusion the reconstruction is of third order where the density is smooth: its power 3/2.
        """
        values = state.masses if self.flow.even else state.masses / self.flow.grid.volumes
        bends = sum(float(np.abs(np.diff(values, 2, axis=axis)).sum()) for axis in range(values.ndim))
        error = bends / (12.0 * float(values.sum()))
        return error if self.diffusion > 0 else error**1.5

    def _psi(self, interaction):
        return self.sweep_potential if interaction is None else self.sweep_potential + interaction

    def _midpoint(self, state: State, scaled: float) -> np.ndarray:
        """Psi at the middle of the coming step."""
        now = state.interaction
        if now is None:
            return self.sweep_potential
        if state.previous is not None and scaled <= LONGEST_EXTRAPOLATION * state.previous_dt:
            return self._psi(now + (0.5 * scaled / state.previous_dt) * (now - state.previous))
        half = self._conserve(self.split.move(state.masses, self._psi(now), 0.5 * scaled, IMPLICIT_EULER))
        return self._psi(self.parts.interaction(half))

    def _conserve(self, masses: np.ndarray) -> np.ndarray:
        """Put the last digits of the mass back: the solves keep it to round-off, which would add up over 1e5 steps."""
        total = float(masses.sum())
        if abs(total - self.mass) <= MASS_SLACK * self.mass:
            return masses
        if not abs(total - self.mass) <= MASS_ALARM * self.mass:
            if math.isfinite(total):
                raise ConvergenceError(f"the mass changed by {total / self.mass - 1:.1e} in a linear solve; "
                                       "please report this", reason="mass")
            return masses
        masses *= self.mass / total
        return masses

    def _accept(self, state: State, dt, scaled, masses, stop) -> State | None:
        interaction = self.parts.interaction(masses)
        energy = self.energy(masses, interaction)
        if not energy <= state.energy + ENERGY_SLACK * max(1.0, abs(state.energy)) or not masses.min() >= 0:
            return None
        return State(state.t + dt if stop is None else stop, state.clock + scaled, masses, energy,
                     interaction, state.interaction, scaled)
