r"""One step of a flow by finite volumes: composed of sweeps, a rule for the field, and one acceptance.

With W a fixed field in place of U rho, the `Sweeps` (linear or nonlinear diffusion, axis by axis) take masses m to
S(dt; V + W) m: they keep the mass, the sign and the Gibbs states of V + W and lower the frozen energy. A rule
(`Extrapolated`, `Midpoint`) chooses the field at the middle of the step. Whatever it chooses, a step is accepted only
if the free energy has not risen; the fallback lowers it in any case.

If the energy changes with time, a step from t to t + dt uses the energy at t + dt/2, which is of second order, and this
frozen F cannot rise. The rest of the change of F is the work of the terms that change with time:

.. math:: F_{n+1}(\rho_{n+1}) - F_n(\rho_n) = [F_{n+1/2}(\rho_{n+1}) - F_{n+1/2}(\rho_n)] + \Delta W.

A rule of higher order forms the work of its moves itself; they are accepted if F less the work has not risen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from wgflow.compiled.compact import ENERGY_SLACK, MASS_ALARM, MASS_SLACK
from wgflow.compiled.sweep import IMPLICIT_EULER
from wgflow.energies.on_grid import EnergyOnGrid, Weighed
from wgflow.errors import ConvergenceError
from wgflow.flows import Flow

from .energy_in_time import EnergyInTime

__all__ = ["FieldRule", "State", "Stepper", "Sweeps"]

#: If a step is longer than this multiple of the last one, a half step predicts the field instead of extrapolation.
LONGEST_EXTRAPOLATION = 3.0
#: Halvings of a move that would raise an energy with functionals.
MAX_DAMPINGS = 40


class State(NamedTuple):
    """The state of a run, which determines the next step: arrays and numbers, named as in stored checkpoints.

    Attributes
    ----------
    t, clock : float
        The time, and the integral of time_scale up to it.
    masses : array
    energy : float
        The free energy at t.
    interaction : array or None
        The field of the masses at t: U m, and the derivatives of functionals.
    previous, previous_dt : array or None, float
        The field before the last step, and the length of that step by the clock.
    work : float
        The work done on the law since the start.
    middle : array or None
        The field in the middle of the last step, where a rule keeps it.
    mesh : array of shape (2, n + 1) or None
        Points that carry the law, and the masses between them, where a stepper moves points.
    left : float or None
        The time at which points have given way to fluxes.
    """

    t: float
    clock: float
    masses: np.ndarray
    energy: float
    interaction: np.ndarray | None
    previous: np.ndarray | None
    previous_dt: float
    work: float = 0.0
    middle: np.ndarray | None = None
    mesh: np.ndarray | None = None
    left: float | None = None


class Sweeps(ABC):
    """Moves of the masses with Psi frozen: the diffusion of an energy, linear or not, split by axis.

    Attributes
    ----------
    second : int
        The mode of second order.
    smooth : (int, int)
        Modes that depend smoothly on Psi: of second order, and one that lowers the frozen energy whatever it is.
    """

    second: int
    smooth: tuple[int, int]
    #: The axes in the order of a step.
    sequence: tuple[int, ...] = (0,)

    @abstractmethod
    def potential(self, energy: EnergyOnGrid) -> np.ndarray:
        """Return the part of Psi that does not depend on the masses."""

    @abstractmethod
    def move(self, masses: np.ndarray, psi: np.ndarray, dt: float, mode: int, factors=None) -> np.ndarray:
        """Return the masses after a time dt with Psi frozen; a new array."""

    @abstractmethod
    def dissipation(self, masses: np.ndarray, psi: np.ndarray, mu: np.ndarray | None = None) -> float:
        """Return -dF/dt of the semi-discrete equations at time_scale 1; mu = Psi + D log rho where it is known."""

    @abstractmethod
    def space_error(self, masses: np.ndarray) -> float:
        """Return an estimate of the error due to the grid, in L1 relative to the mass."""

    def factors(self, mode: int):
        """Return storage for correction factors with which a mode depends smoothly on Psi; None if it needs none."""
        return None

    def check(self, masses: np.ndarray) -> None:
        """Refuse densities at which the internal energy is not convex; masses that are not finite pass."""

    def close(self) -> None:
        """End the threads."""


class FieldRule(ABC):
    """The choice of the field that replaces U rho at the middle of a step."""

    @abstractmethod
    def moves(self, stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float,
              end: float) -> Iterator[Move]:
        """Yield the masses after a step, the best first, until one is accepted.

        Parameters
        ----------
        stepper : Stepper
        energy : EnergyOnGrid
            In the middle of the step.
        state : State
        scaled, end : float
            The length of the step by the clock of time_scale, and the time at its end.
        """


class Move(NamedTuple):
    """Masses m after a step, with U m if it is known, and the field in the middle of the step if that is kept.

    Where a rule forms them, also the work done in the step by terms that change with time, and the masses in the middle
    of the step.
    """

    masses: np.ndarray
    interaction: np.ndarray | None = None
    middle: np.ndarray | None = None
    work: float | None = None
    half: np.ndarray | None = None


class Stepper:
    """Steps of one flow; see the module's text.

    Parameters
    ----------
    flow : Flow
    sweeps : Sweeps
    rule : FieldRule
    """

    def __init__(self, flow: Flow, sweeps: Sweeps, rule: FieldRule):
        self.flow, self.sweeps, self.rule = flow, sweeps, rule
        self.mass = flow.rho0.mass
        self.energies = EnergyInTime(flow)
        # The dissipation in the middle of the last step, where it was formed.
        self.inside: float | None = None
        # The masses that were looked at last, and what was found.
        self.looked_at: tuple[np.ndarray, Weighed] | None = None

    def start(self) -> State:
        """Return the state at the start of the flow."""
        # A copy that can be written to: compiled functions know one kind of array only.
        masses, energy = self.flow.density.masses.copy(), self.energies.at(self.flow.t0)
        interaction = energy.interaction(masses)
        self.sweeps.check(masses)
        return State(self.flow.t0, 0.0, masses, self.weigh(energy, masses, interaction).energy,
                     energy.field(masses, interaction), None, 0.0)

    def take_up(self, state: State) -> None:
        """Note the state at which a run is taken up again."""

    def step(self, state: State, dt: float, stop: float | None = None) -> State | None:
        """Return the state a time dt later (exactly at ``stop`` if given), or None if it breaks a property."""
        scaled, self.inside, self.looked_at = self.flow.elapsed(state.t, dt), None, None
        energy = self.energies.within(state.t, dt, 0.5)
        for move in self.rule.moves(self, energy, state, scaled, state.t + dt if stop is None else stop):
            new = self._accept(energy, state, dt, scaled, move, stop)
            if new is not None:
                return new
        return None

    def fallback(self, state: State, dt: float, stop: float | None = None) -> State:
        """Return an implicit step with Psi frozen, damped so that F cannot rise; first order, for any dt.

        Let m* be the frozen implicit step and d = m* - m. The frozen energy H is convex and H(m*) <= H(m). For a
        symmetric U, F(m + a d) <= F(m) - a (H(m) - H(m*)) + a^2/2 <d, U d>, so that
        a = min(1, (H(m) - H(m*)) / <d, U d>) lowers F. With functionals there is no such bound: a is halved until F has
        fallen, as it does for small a.
        """
        scaled, self.inside, self.looked_at = self.flow.elapsed(state.t, dt), None, None
        energy = self.energies.within(state.t, dt, 0.5)
        if self.energies.driven:
            state = state._replace(interaction=energy.field(state.masses, energy.interaction(state.masses)))
        moved = self.conserve(self.sweeps.move(state.masses, self.psi(energy, state.interaction), scaled,
                                               IMPLICIT_EULER))
        if not (np.isfinite(moved).all() and moved.min() >= 0):
            raise ConvergenceError(f"the step from t = {state.t:.6g} gives values that are not finite or negative, "
                                   "however short it is: Psi or its differences are too large for floats; scale the "
                                   "energy down", reason="non-finite", t=state.t, dt=dt)
        if energy.functionals:
            masses = self.conserve(damped(energy, state.masses, moved))
        else:
            share = _quadratic_share(energy, state, moved)
            masses = self.conserve((1.0 - share) * state.masses + share * moved)
        new = self._accept(energy, state, dt, scaled, Move(masses), stop)
        # At a stationary state the energy changes by round-off only: the state is kept.
        new = new or self._accept(energy, state, dt, scaled, Move(state.masses), stop)
        if new is None:
            raise ConvergenceError(f"the free energy at t = {state.t:.6g} was {state.energy:.6g} and now differs "
                                   "for the same density; make it finite, and U the same at every call",
                                   reason="energy increase", t=state.t, dt=dt)
        return new

    def dissipation(self, state: State) -> float:
        """Return -dF/dt at time_scale 1."""
        energy, known = self.energies.at(state.t), self.known(state.masses)
        mu: np.ndarray | None = None
        if known is not None and known.logs is not None:
            mu = self.psi_of(energy.energy_potential, state.interaction) + known.logs
        return self.sweeps.dissipation(state.masses, self.psi(energy, state.interaction), mu)

    def weigh(self, energy: EnergyOnGrid, masses: np.ndarray, interaction: np.ndarray | None) -> Weighed:
        """Return the energy of masses and what else a look at them tells, and keep it."""
        found = energy.weigh(masses, interaction)
        self.looked_at = masses, found
        return found

    def known(self, masses: np.ndarray) -> Weighed | None:
        """Return what was found when these very masses were looked at, if they were the last."""
        return self.looked_at[1] if self.looked_at is not None and self.looked_at[0] is masses else None

    def dissipation_before(self, state: State) -> float | None:
        """Return -dF/dt at time_scale 1 before the jump of the energy, where it jumps at the time of a state."""
        if not self.energies.jumps(state.t):
            return None
        energy = self.energies.before(state.t)
        field = energy.field(state.masses, energy.interaction(state.masses))
        return self.sweeps.dissipation(state.masses, self.psi(energy, field))

    def speed(self, state: State) -> float:
        """Return the L1 norm of d rho/dt over the mass, at time_scale 1; 0 if it is not finite."""
        psi = self.psi(self.energies.at(state.t), state.interaction)
        dt = 1e-8 * (self.flow.t1 - self.flow.t0)
        while dt > 0:
            change = self.sweeps.move(state.masses, psi, dt, IMPLICIT_EULER) - state.masses
            size = float(np.abs(change).sum()) / self.mass
            if size < 1e-3 or dt < 1e-290 or not math.isfinite(size):
                return size / dt if math.isfinite(size) else 0.0
            dt *= 1e-3
        return 0.0

    def psi(self, energy: EnergyOnGrid, field: np.ndarray | None) -> np.ndarray:
        """Return the potential of an energy plus a field."""
        return self.psi_of(self.sweeps.potential(energy), field)

    @staticmethod
    def psi_of(potential: np.ndarray, field: np.ndarray | None) -> np.ndarray:
        """Return a potential plus a field."""
        return potential if field is None else potential + field

    def conserve(self, masses: np.ndarray) -> np.ndarray:
        """Rescale to the exact mass: the solves keep it up to round-off, which would add up over 1e5 steps."""
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

    def _accept(self, frozen: EnergyOnGrid, state: State, dt: float, scaled: float, move: Move,
                stop: float | None) -> State | None:
        """Return the state after a move, or None if the frozen F has risen or a mass is negative."""
        masses, interaction, middle, done, _ = move
        driven = self.energies.driven
        if done is not None:
            return self._accept_with_work(frozen, state, dt, scaled, move, stop)
        if interaction is None or driven:
            interaction = frozen.interaction(masses)
        self.sweeps.check(masses)
        before = frozen.energy(state.masses) if driven else state.energy
        after, _, least, _ = self.weigh(frozen, masses, interaction)
        if not after <= before + ENERGY_SLACK * max(1.0, abs(before)) or not least >= 0:
            return None
        t = state.t + dt if stop is None else stop
        energy, work, now = after, state.work, frozen
        if driven:
            now = self.energies.before(t)
            interaction = now.interaction(masses)
            energy = now.energy(masses, interaction)
            work += (energy - state.energy) - (after - before)
        return self._over_jumps(State(t, state.clock + scaled, masses, energy, now.field(masses, interaction),
                                      state.interaction, scaled, work, middle))

    def _accept_with_work(self, frozen: EnergyOnGrid, state: State, dt: float, scaled: float, move: Move,
                          stop: float | None) -> State | None:
        """Return the state after a move that tells its work, or None if F less the work has risen."""
        masses, _, middle, done, half = move
        t = state.t + dt if stop is None else stop
        now, work = self.energies.before(t), done or 0.0
        interaction = now.interaction(masses)
        energy, _, least, _ = self.weigh(now, masses, interaction)
        if not energy - work <= state.energy + ENERGY_SLACK * max(1.0, abs(state.energy)) or not least >= 0:
            return None
        if half is not None:
            self.inside = self.sweeps.dissipation(half, self.psi(frozen, middle))
        return self._over_jumps(State(t, state.clock + scaled, masses, energy, now.field(masses, interaction),
                                      state.interaction, scaled, state.work + work, middle))

    def _over_jumps(self, state: State) -> State:
        """Return a state as it is after the jump of the energy at its time, if there is one: without a past."""
        if not self.energies.jumps(state.t):
            return state
        now = self.energies.at(state.t)
        interaction = now.interaction(state.masses)
        energy = now.energy(state.masses, interaction)
        return state._replace(energy=energy, work=state.work + energy - state.energy, previous=None, previous_dt=0.0,
                              interaction=now.field(state.masses, interaction), middle=None)


def damped(energy: EnergyOnGrid, masses: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the first point between ``masses`` and ``moved`` that lowers F, when the way is halved repeatedly."""
    before, share = energy.energy(masses), 1.0
    for _ in range(MAX_DAMPINGS):
        new = (1.0 - share) * masses + share * moved
        if energy.energy(new) <= before:
            return new
        share *= 0.5
    return masses.copy()


def _quadratic_share(energy: EnergyOnGrid, state: State, moved: np.ndarray) -> float:
    """Return a part of a move that lowers F, by the bound of `Stepper.fallback`."""
    if state.interaction is None:
        return 1.0
    change = moved - state.masses
    fall = energy.frozen_energy(state.masses, state.interaction) - energy.frozen_energy(moved, state.interaction)
    after = energy.interaction(moved)
    curvature = float((change * (after - state.interaction)).sum())
    return min(1.0, max(fall, 0.0) / curvature) if curvature > 0 else 1.0
