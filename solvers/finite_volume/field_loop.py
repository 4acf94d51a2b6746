"""Steps by compact sweeps of a single line with an interaction, many in one compiled call."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.compact import compact_field_steps
from wgflow.recorder import Steps

from .line_interaction import LineInteraction, line_interaction
from .stepper import State, Stepper

if TYPE_CHECKING:
    from .compact_run import CompactRun

__all__ = ["FieldLoop", "field_loop"]

#: Steps in one compiled call, at most, and numbers that they may take.
BATCH, BATCH_SIZE = 16, 1_000_000


def field_loop(stepper: Stepper, scale: object) -> FieldLoop | None:
    """Return the loop for the steps of a stepper; None if there is none for its interaction."""
    energy = stepper.flow.on_grid
    if (energy.grid.ndim > 1 or not energy.operators or energy.functionals or stepper.flow.energy.time_dependent
            or not isinstance(scale, int | float)):
        return None
    interaction = line_interaction(energy)
    return None if interaction is None else FieldLoop(stepper, float(scale), interaction)


class FieldLoop:
    """Steps of a single line with an interaction; the first, and those that need care, are left to the stepper.

    Parameters
    ----------
    stepper : Stepper
    scale : float
        The time_scale.
    interaction : LineInteraction
    """

    def __init__(self, stepper: Stepper, scale: float, interaction: LineInteraction):
        energy = stepper.flow.on_grid
        self.stepper, self.scale, n = stepper, scale, energy.grid.size
        potentials = np.array([np.broadcast_to(p, (n,)) for p in (energy.sweep_potential, energy.energy_potential)])
        *arrays, shifts = interaction
        self.given = (potentials, tuple(arrays), shifts,
                      (energy.diffusion, float(energy.grid.widths[0][0]), energy.grid.periodic[0]))
        self.n, self.batch = n, max(1, min(BATCH, BATCH_SIZE // n))

    def steps(self, run: CompactRun, stop: float) -> tuple[Steps, State] | None:
        """Return steps towards a time and the state after the last; None where the next one needs more care."""
        state, control, tolerance = run.state, run.controller, run.controller.tolerance
        past = state.previous, state.middle, state.interaction
        if any(field is None for field in past):
            return None
        # Where a law may collapse each step is looked at before the next one.
        count = min(self.batch, run.room) if math.isinf(run.collapse.critical) else 1
        rows, numbers = np.empty((count, 7)), control.numbers
        laws, fields, middles = np.empty((3, count, self.n))
        accepted, rejected = compact_field_steps(
            state.masses, np.array(past), *self.given,
            (state.t, stop, run.longest, self.scale, state.previous_dt, state.energy, self.stepper.mass), numbers,
            (-1.0 if tolerance.rtol is None else tolerance.rtol, tolerance.share, tolerance.tightest,
             tolerance.loosest), rows, laws, fields, middles)
        control.take(numbers)
        before = run.n_rejected
        run.n_rejected += rejected
        if not accepted:
            return None
        t, lengths, energy, rate, error, refused, least = rows[:accepted].T.tolist()
        clock = list(accumulate(lengths, initial=state.clock))[1:]
        run.error_estimate, last = error[-1], accepted - 1
        steps = Steps(t, laws[:accepted], energy, clock, rate, error, [before + int(k) for k in refused], least)
        return steps, State(t[-1], clock[-1], laws[last], energy[-1], fields[last],
                            fields[last - 1] if last else state.interaction, lengths[-1], middle=middles[last])
