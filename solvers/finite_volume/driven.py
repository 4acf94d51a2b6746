r"""Steps of a flow whose energy changes with time.

A step from t to t + dt goes with the energy frozen at t + dt/2: of second order, and the frozen F cannot rise. The rest
of the change of F is the work of the terms that change with time:

.. math:: F_{n+1}(\rho_{n+1}) - F_n(\rho_n) = [F_{n+1/2}(\rho_{n+1}) - F_{n+1/2}(\rho_n)] + \Delta W.
"""

from __future__ import annotations

from typing import Any

from .nonlinear import NonlinearStepper
from .stepper import ENERGY_SLACK, State, Stepper

#: Energies kept, by their times: the middle and the end of a step, and those of the two halves of a doubled one.
KEPT = 6


class Driven:
    """What a stepper does otherwise where the energy changes with time."""

    flow: Any
    parts: Any

    def __init__(self, *arguments):
        self._energies: dict[float, Any] = {}
        super().__init__(*arguments)

    def freeze(self: Any, t: float) -> None:
        """Take the energy of a time."""
        if t not in self._energies:
            if len(self._energies) >= KEPT:
                del self._energies[next(iter(self._energies))]
            self._energies[t] = self.flow.parts_at(t)
        self.take(self._energies[t])

    def step(self: Any, state: State, dt: float, stop: float | None = None) -> State | None:
        self.freeze(state.t + 0.5 * dt)
        return super().step(state, dt, stop)  # type: ignore[misc]

    def fallback(self: Any, state: State, dt: float, stop: float | None = None) -> State:
        self.freeze(state.t + 0.5 * dt)
        frozen = state._replace(interaction=self.parts.interaction(state.masses))
        return super().fallback(frozen, dt, stop)  # type: ignore[misc]

    def dissipation(self: Any, state: State) -> float:
        self.freeze(state.t)
        return super().dissipation(state)  # type: ignore[misc]

    def _accept(self: Any, state: State, dt: float, scaled: float, masses, stop: float | None) -> State | None:
        t = state.t + dt if stop is None else stop
        self.freeze(state.t + 0.5 * dt)
        before = self.energy(state.masses, self.parts.interaction(state.masses))
        after = self.energy(masses, self.parts.interaction(masses))
        if not after <= before + ENERGY_SLACK * max(1.0, abs(before)) or not masses.min() >= 0:
            return None
        self.freeze(t)
        interaction = self.parts.interaction(masses)
        energy = self.energy(masses, interaction)
        work = state.work + ((energy - state.energy) - (after - before))
        return State(t, state.clock + scaled, masses, energy, interaction, state.interaction, scaled, work)


class DrivenStepper(Driven, Stepper):
    """Steps of a driven flow with linear diffusion; see `Stepper`."""


class DrivenNonlinearStepper(Driven, NonlinearStepper):
    """Steps of a driven flow with nonlinear diffusion; see `NonlinearStepper`."""
