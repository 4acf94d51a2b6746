r"""Steps of a law with free boundaries on a line: points that carry its masses, read on the grid after each step.

A front moves with its end point, at any place in a cell, and is not smeared. The points obey the flow of the energy in
the metric of W2 (`wgflow.compiled.moving_mesh`). A step is an L-stable SDIRK method of fourth order; with J(t) Y the
implicit Euler step from Y, its stages are

.. math:: X_i = J(\gamma t)\,Y_i, \qquad Y_i = X + \sum_{j < i} \frac{a_{ij}}{\gamma} (X_j - Y_j),

each the minimum of a function that is convex where V is, and infinite where points would meet. The masses of the cells
after the last are accepted as those of any other step: if F has not risen. Where it would rise (the law has come to rest as nearly as the
cells can tell), where points are too far apart, or a front comes to a wall, the fluxes take over for the rest of the
run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.moving_mesh import newton_correction, node_weights, velocities
from wgflow.compiled.splines import bend_spline, evaluate, factor_spline
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.nodes import is_smooth
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow
from wgflow.grids import Grid

from .front_mesh import FrontMesh, mesh_of_law
from .stepper import FieldRule, Move, State, Stepper, Sweeps

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["FrontStepper", "PorousFronts", "fronts_of"]

#: The L-stable SDIRK method of order 4 with five stages (Hairer and Wanner, Solving Ordinary Differential Equations II,
#: table IV.6.5): its diagonal, and the rows before it; the last stage is the step.
GAMMA = 0.25
STAGES = ((), (1 / 2,), (17 / 50, -1 / 25), (371 / 1360, -137 / 2720, 15 / 544), (25 / 24, -49 / 48, 125 / 16, -85 / 12))
#: Exponents of nonlinear diffusion whose fronts the points resolve.
LEAST_POWER, LARGEST_POWER = 1.2, 10.0
#: The law of the points differs from that of the cells by no more than this (L1, relative to the mass), nor by more
#: than this part of the error of the grid.
AGREE, AGREE_PART = 1e-4, 0.1
#: Neighboring points are no farther apart than this multiple of the width of a cell.
WIDEST = 1.5
#: Newton's method has converged when no point moves by more than this part of the length of the support.
CONVERGED = 1e-13
#: Corrections of Newton's method, after which there is no step.
MAX_CORRECTIONS = 60
#: The dissipation is the change of F while the fastest point crosses this part of the shortest distance of two.
NUDGE = 1e-2
#: Largest dissipation at the start, relative to that of the fluxes.
INSTANT = 10.0
#: What the certificate says.
TOLD = "points that carry the masses, of second order in space, with fronts at any place in a cell"


def fronts_of(flow: Flow, method: FiniteVolume) -> PorousFronts | None:
    """Return the moves of the points that carry a law; None if it is not for them.

    They are for nonlinear diffusion by a power alone, in a smooth potential, of a law with one interval as its support
    that is smooth inside; ``order=2`` keeps to fluxes.
    """
    energy, grid = flow.on_grid, flow.grid
    if not (flow.t1 > flow.t0 and grid.ndim == 1 and not grid.periodic[0] and not any(grid.origin)
            and grid.log_weight is None and all(grid.uniform) and method.corrected and method.order is None
            and not energy.functionals and not flow.energy.time_dependent and flow.drive is None):
        return None
    if energy.diffusion > 0 or energy.moves or len(energy.internal) != 1:
        return None
    factor, term = energy.internal[0]
    if not (isinstance(term, PowerEntropy) and LEAST_POWER <= term.m <= LARGEST_POWER and factor > 0):
        return None
    potential = np.array(np.broadcast_to(energy.potential, grid.shape))
    if not (np.isfinite(potential).all() and is_smooth(potential, 0)):
        return None
    return PorousFronts(grid, factor, term.m, potential)


class PorousFronts:
    """Moves of points by nonlinear diffusion in a potential.

    Parameters
    ----------
    grid : Grid
    factor, power : float
        a and k of the pressure a rho^k.
    potential : array
        V at the centers of the cells; between them a cubic spline is taken.

    Attributes
    ----------
    exponent : float
        p = k / (k - 1): the mass beyond a front that moves grows like the power p of the distance.
    """

    def __init__(self, grid: Grid, factor: float, power: float, potential: np.ndarray):
        self.factor, self.power, self.exponent = float(factor), float(power), power / (power - 1.0)
        self.nodes, self.potential = grid.centers[0].copy(), potential
        self.flat = not np.ptp(potential) > 0.0
        self.spline = bend_spline(self.nodes, factor_spline(self.nodes), potential)

    def step(self, mesh: FrontMesh, time: float) -> np.ndarray | None:
        """Return the points after a time, or None where no step is found."""
        weights = node_weights(mesh.masses, self.power)
        moves, points = np.zeros((len(STAGES), mesh.points.size)), mesh.points
        for i, row in enumerate(STAGES):
            start = mesh.points + np.array(row) @ moves[:i]
            found = self._euler(mesh, weights, start, points, GAMMA * time)
            if found is None:
                return None
            moves[i], points = (found - start) / GAMMA, found
        return points

    def velocities(self, mesh: FrontMesh) -> np.ndarray:
        """Return the velocities of the points."""
        _, slopes, _ = self._field(mesh.points)
        out = np.empty(mesh.points.size)
        velocities(mesh.points, mesh.masses, node_weights(mesh.masses, self.power), self.power, self.factor, slopes, out)
        return out

    def _euler(self, mesh: FrontMesh, weights, start, guess, time: float) -> np.ndarray | None:
        points, before = guess.copy(), math.inf
        least = CONVERGED * (points[-1] - points[0])
        for _ in range(MAX_CORRECTIONS):
            _, slopes, bends = self._field(points)
            size = newton_correction(points, start, time, mesh.masses, weights, self.power, self.factor, slopes, bends)
            if math.isnan(size):
                return None
            # Below the square root of the rounding a correction that does not shrink is rounding.
            if size <= least or (size <= 1e4 * least and size >= 0.5 * before):
                return points if (np.diff(points) > 0.0).all() else None
            before = size
        return None

    def _field(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return V and its first two derivatives at points."""
        values, slopes, bends = np.zeros((3, points.size))
        if not self.flat:
            evaluate(self.nodes, self.potential, self.spline, points, values, slopes, bends)
        return values, slopes, bends


class FrontStepper(Stepper):
    """Steps by points that carry the masses, as long as they serve; then those of the fluxes.

    Parameters
    ----------
    flow : Flow
    sweeps : Sweeps
    rule : FieldRule
    fronts : PorousFronts
    """

    def __init__(self, flow: Flow, sweeps: Sweeps, rule: FieldRule, fronts: PorousFronts):
        super().__init__(flow, sweeps, rule)
        self.fronts, self.fluxes = fronts, flow.scheme
        # The time at which the fluxes have taken over.
        self.left: float | None = None

    def start(self) -> State:
        state = super().start()
        mesh = mesh_of_law(self.flow.grid, state.masses, self.fronts.exponent)
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
        if np.diff(points).max() > WIDEST * (edges[1] - edges[0]):
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
