r"""Steps of a law with free boundaries on a line: points that carry its masses, read on the grid after each step.

A front moves with its end point, at any place in a cell, and is not smeared. The points obey the flow of the energy in
the metric of W2 (`front_moves`). The masses of the cells after a step are accepted as those of any other: if F has not
risen. Where it would rise (the law has come to rest as nearly as the cells can tell), where points are too far apart,
or a front comes to a wall, the fluxes take over for the rest of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.nodes import is_smooth
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow
from wgflow.interactions.kernel_shapes import Log, Power

from .front_mesh import FrontMesh, mesh_of_law
from .front_moves import ChargeFronts, Fronts, PorousFronts
from .stepper import FieldRule, Move, State, Stepper, Sweeps

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["FrontStepper", "fronts_of"]

#: Exponents of nonlinear diffusion whose fronts the points resolve.
LEAST_POWER, LARGEST_POWER = 1.2, 10.0
#: The law of the points differs from that of the cells by no more than this (L1, relative to the mass), nor by more
#: than this part of the error of the grid.
AGREE, AGREE_PART = 1e-4, 0.1
#: The dissipation is the change of F while the fastest point crosses this part of the shortest distance of two.
NUDGE = 1e-2
#: Largest dissipation at the start, relative to that of the fluxes.
INSTANT = 10.0
#: What the certificate says.
TOLD = "points that carry the masses, of second order in space, with fronts at any place in a cell"


def fronts_of(flow: Flow, method: FiniteVolume) -> Fronts | None:
    """Return the moves of the points that carry a law; None if it is not for them.

    They are for nonlinear diffusion by a power alone, and for the repulsion of charges on the line (a logarithm, with
    or without a quadratic kernel) without diffusion; in a smooth potential. ``order=2`` keeps to fluxes. Whether the
    law ends within the grid, and is smooth enough, is seen at the start.
    """
    energy, grid = flow.on_grid, flow.grid
    if not (flow.t1 > flow.t0 and flow.mobility is None and grid.ndim == 1 and not grid.periodic[0]
            and not any(grid.origin) and grid.log_weight is None and all(grid.uniform)
            and method.corrected and method.order is None
            and energy.diffusion == 0 and not energy.functionals and not flow.energy.time_dependent
            and flow.drive is None):
        return None
    potential = np.array(np.broadcast_to(energy.potential, grid.shape))
    if not (np.isfinite(potential).all() and is_smooth(potential - potential.min(), 0)):
        return None
    if energy.internal:
        factor, term = energy.internal[0]
        if len(energy.internal) > 1 or energy.moves or not isinstance(term, PowerEntropy):
            return None
        known = LEAST_POWER <= term.m <= LARGEST_POWER and factor > 0
        return PorousFronts(grid, potential, factor, term.m) if known else None
    charges = _charges(energy)
    if charges is None or method.scheme != "extrapolated":
        return None
    return ChargeFronts(grid, potential, *charges)


def _charges(energy: EnergyOnGrid) -> tuple[float, float] | None:
    """Return chi and k where the interaction is -chi log|x| + k x^2/2, chi > 0, and None otherwise."""
    repulsion = attraction = 0.0
    for factor, operator in energy.operators:
        if operator.kernel is None:
            return None
        for part, shape in operator.kernel.parts:
            if isinstance(shape, Log):
                repulsion -= factor * part
            elif isinstance(shape, Power) and shape.p == 2:
                attraction += factor * part
            else:
                return None
    return (repulsion, attraction) if repulsion > 0.0 else None


class FrontStepper(Stepper):
    """Steps by points that carry the masses, as long as they serve; then those of the fluxes.

    Parameters
    ----------
    flow : Flow
    sweeps : Sweeps
    rule : FieldRule
    fronts : Fronts
    """

    def __init__(self, flow: Flow, sweeps: Sweeps, rule: FieldRule, fronts: Fronts):
        super().__init__(flow, sweeps, rule)
        self.fronts, self.fluxes = fronts, flow.scheme
        # The time at which the fluxes have taken over.
        self.left: float | None = None

    def start(self) -> State:
        state = super().start()
        mesh = mesh_of_law(self.flow.grid, state.masses, self.fronts.exponent, self.fronts.grading, self.fronts.count)
        if mesh is None:
            return state
        missed = float(np.abs(mesh.on_grid(self.flow.grid) - state.masses).sum()) / self.mass
        if missed > min(AGREE, AGREE_PART * self.sweeps.space_error(state.masses)):
            return state
        self._tell(True)
        self.flow.places = True
        return state._replace(mesh=_stored(mesh))

    def step(self, state: State, dt: float, stop: float | None = None) -> State | None:
        if state.mesh is None or self.left is not None:
            new = super().step(state, dt, stop)
            return None if new is None else new._replace(left=self.left)
        new = self._carried(state, state.mesh, dt, stop)
        if new is None:
            self.left = state.t
            self._tell(True)
        return new

    def fallback(self, state: State, dt: float, stop: float | None = None) -> State:
        return super().fallback(state, dt, stop)._replace(left=self.left)

    def dissipation(self, state: State) -> float:
        if state.mesh is None:
            return super().dissipation(state)
        rate = self._rate(state, _restored(state.mesh))
        # A law that begins with a jump dissipates at an infinite rate for an instant.
        return rate if state.t > self.flow.t0 else min(rate, INSTANT * super().dissipation(state))

    def _rate(self, state: State, mesh: FrontMesh) -> float:
        """Return -dF/dt of the masses of the cells as the points move, by a difference quotient."""
        velocities, grid = self.fronts.velocities(mesh), self.flow.grid
        largest = float(np.abs(velocities).max())
        if not largest > 0.0:
            return 0.0
        time = NUDGE * float(np.diff(mesh.points).min()) / largest
        energy = self.energies.at(state.t)
        before, after = (energy.energy(mesh._replace(points=points).on_grid(grid))
                         for points in (mesh.points, mesh.points + time * velocities))
        return max(0.0, (before - after) / time)

    def take_up(self, state: State) -> None:
        self.left = state.left
        self.flow.places = state.mesh is not None or state.left is not None
        self._tell(self.flow.places)

    def _carried(self, state: State, stored: np.ndarray, dt: float, stop: float | None) -> State | None:
        """Return the state after a step of the points, or None where they do not serve."""
        mesh, edges = _restored(stored), self.flow.grid.edges[0]
        scaled, self.inside = self.flow.elapsed(state.t, dt), None
        points = self.fronts.step(mesh, scaled)
        if points is None or not (points[0] > edges[1] and points[-1] < edges[-2]):
            return None
        if not self.fronts.resolves(points):
            return None
        mesh = mesh._replace(points=points)
        masses = self.conserve(mesh.on_grid(self.flow.grid))
        energy: EnergyOnGrid = self.energies.within(state.t, dt, 0.5)
        new = self._accept(energy, state, dt, scaled, Move(masses), stop)
        return None if new is None else new._replace(mesh=_stored(mesh))

    def _tell(self, carried: bool) -> None:
        """Say in the certificate which steps were taken by points."""
        if carried:
            until = "" if self.left is None else f", to t = {self.left:.4g}, {self.fluxes} beyond"
            self.flow.scheme = TOLD + until


def _stored(mesh: FrontMesh) -> np.ndarray:
    """Return points and masses as one array (2, n + 1), for states."""
    return np.stack([mesh.points, np.append(mesh.masses, 0.0)])


def _restored(stored: np.ndarray) -> FrontMesh:
    return FrontMesh.of(stored[0].copy(), stored[1, :-1].copy())
