r"""The exponential midpoint rule with the field extrapolated in time.

.. math:: m' = S(\Delta t; V + W)\,m, \qquad W \approx U\,\frac{m + m'}{2}.

W is extrapolated from the fields at the last two steps, or found by a half step if there is no last step. With the
exact average for W, F falls at any step, since
:math:`E_U(m') - E_U(m) = \langle U (m + m')/2, m' - m\rangle` and S lowers the frozen energy. With the extrapolated W
it falls for steps that resolve the flow, at the cost of one evaluation of U a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wgflow.compiled.sweep import IMPLICIT_EULER
from wgflow.energies.on_grid import EnergyOnGrid

from .stepper import LONGEST_EXTRAPOLATION, FieldRule, Move, State, Stepper

__all__ = ["Extrapolated"]


class Extrapolated(FieldRule):
    """The field at the middle of the step, extrapolated; see the module's text."""

    def moves(self, stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float,
              end: float) -> Iterator[Move]:
        field = self._middle(stepper, energy, state, scaled)
        masses = stepper.sweeps.move(state.masses, stepper.psi(energy, field), scaled, stepper.sweeps.second)
        yield Move(stepper.conserve(masses))

    @staticmethod
    def _middle(stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float) -> np.ndarray | None:
        now = state.interaction
        if now is None:
            return None
        if state.previous is not None and scaled <= LONGEST_EXTRAPOLATION * state.previous_dt:
            return now + (0.5 * scaled / state.previous_dt) * (now - state.previous)
        half = stepper.conserve(stepper.sweeps.move(state.masses, stepper.psi(energy, now), 0.5 * scaled,
                                                    IMPLICIT_EULER))
        return energy.field(half, energy.interaction(half))
