"""A run without diffusion on one axis: explicit steps of third order, many in one compiled call.

They have the fluxes of the sweeps, and need no equations; each is as long as its error allows, but carries at most 0.7
of a cell out of it. Where the error alone would allow much longer steps (a law that has nearly come to rest at a steep
minimum), and where the energy rises, the implicit steps of `run` take over for the rest of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.explicit import explicit_steps
from wgflow.energies.nodes import is_smooth
from wgflow.flows import Flow
from wgflow.grids import Grid

from .line_interaction import LineInteraction, line_interaction
from .stepper import State

if TYPE_CHECKING:
    from .method import FiniteVolume
    from .run import FiniteVolumeRun

__all__ = ["ExplicitSteps", "explicit_steps_of"]

#: The tolerance of a step is this part of the error of the grid, but at least and at most these.
SHARE, TIGHTEST, LOOSEST = 0.2, 1e-9, 1e-3
#: Implicit steps take over where those of the same error would be so many times longer.
LONGER = 8.0
#: Steps in one compiled call, at most, and numbers that they may take.
BATCH, BATCH_SIZE = 64, 1_000_000


def explicit_steps_of(flow: Flow, method: FiniteVolume) -> ExplicitSteps | None:
    """Return the explicit steps of a flow; None if it is not for them.

    They are for a smooth law on a line without diffusion, in a smooth field.
    """
    energy = flow.on_grid
    if not (flow.t1 > flow.t0 and flow.mobility is None and flow.grid.ndim == 1 and energy.diffusion == 0
            and not energy.internal and not energy.functionals and not flow.energy.time_dependent
            and not callable(flow.time_scale) and method.controlled and method.tol is None and method.corrected
            and (method.scheme == "extrapolated" or not energy.moves) and np.isfinite(energy.potential).all()
            and not energy.rough and is_smooth(flow.density.values, 0)):
        return None
    interaction = line_interaction(energy)
    return None if interaction is None else ExplicitSteps(flow, method.rtol, interaction)


class ExplicitSteps:
    """Explicit steps of a law on a line; see the module's text.

    Parameters
    ----------
    flow : Flow
    rtol : float, optional
        Tolerance of a step.
    interaction : LineInteraction

    Attributes
    ----------
    rate : float
        The dissipation at the start, at time_scale 1.
    """

    def __init__(self, flow: Flow, rtol: float | None, interaction: LineInteraction):
        n, grid, energy = flow.grid.size, flow.grid, flow.on_grid
        self.scale, self.mass, self.n = flow.time_scale, flow.rho0.mass, n
        # Copies that can be written to: compiled functions know one kind of array only.
        self.given = (np.array(np.broadcast_to(energy.potential, (n,))), *interaction, geometry(grid),
                      grid.periodic[0])
        self.tolerance = (-1.0 if rtol is None else rtol, SHARE, TIGHTEST, LOOSEST)
        self.batch = max(1, min(BATCH, BATCH_SIZE // n))
        self.rate = self._take(flow.density.masses.copy(), (flow.t0, flow.t0, 1.0, 0.0), np.zeros(3), 0)[0][4]

    def steps(self, run: FiniteVolumeRun, stop: float) -> Iterator[tuple[State, dict[str, float]]]:
        """Yield the states after steps towards a time, and what is known of them; note where they should end."""
        state, controller = run.state, run.controller
        numbers = np.array([controller.dt, controller.total_error, controller.dt_floor])
        (accepted, rejected, rises, longer, _), rows, laws, fields = self._take(
            state.masses, (state.t, stop, run.longest, state.energy), numbers, min(self.batch, run.room))
        controller.dt, controller.total_error = float(numbers[0]), float(numbers[1])
        before = run.n_rejected
        clock, moves = state.clock, run.flow.on_grid.moves
        for row, masses, field in zip(rows[:accepted].tolist(), laws, fields):
            t, length, energy, rate, total, mass, least, refused = row
            clock += length
            run.error_estimate, run.n_rejected = total, before + int(refused)
            yield State(t, clock, masses, energy, field if moves else None, None, length), {
                "rate": rate, "mass": mass, "min_density": least}
        run.n_rejected = before + rejected
        if rises or longer > LONGER:
            controller.left = run.t

    def _take(self, masses: np.ndarray, times: tuple[float, float, float, float], numbers: np.ndarray, count: int):
        """Return what the compiled steps return, and the arrays that they have filled."""
        rows, laws, fields = np.empty((count, 8)), np.empty((count, self.n)), np.empty((count, self.n))
        t, stop, longest, energy = times
        found = explicit_steps(masses, *self.given, (t, stop, longest, self.scale, energy, self.mass), numbers,
                                self.tolerance, rows, laws, fields)
        return found, rows, laws, fields


def geometry(grid: Grid) -> np.ndarray:
    """Return 1/h and h/2 of the cells of a line, 1/d of the edges to their left (0 at a wall), and 1/volume."""
    h, d = grid.widths[0], grid.distances[0]
    before = np.empty(h.size)
    before[1:] = 1.0 / d[:h.size - 1]
    before[0] = 1.0 / d[-1] if grid.periodic[0] else 0.0
    return np.stack([1.0 / h, 0.5 * h, before, 1.0 / grid.volumes])

