r"""Velocities and steps of points that carry a law on a line: nonlinear diffusion, and charges that repel."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from wgflow.compiled.moving_mesh import (
    charge_jacobian,
    charge_velocities,
    factor_step,
    newton_correction,
    node_weights,
    solve_step,
    velocities,
)
from wgflow.compiled.splines import bend_spline, evaluate, factor_spline
from wgflow.contracts import Contract
from wgflow.grids import Grid

from .front_mesh import FrontMesh

__all__ = ["ChargeFronts", "Fronts", "PorousFronts"]

#: The L-stable SDIRK method of order 4 with five stages (Hairer and Wanner, Solving Ordinary Differential Equations II,
#: table IV.6.5): its diagonal, and the rows before it; the last stage is the step.
GAMMA = 0.25
STAGES = ((), (1 / 2,), (17 / 50, -1 / 25), (371 / 1360, -137 / 2720, 15 / 544),
          (25 / 24, -49 / 48, 125 / 16, -85 / 12))
#: Newton's method has converged when no point moves by more than this part of the length of the support.
CONVERGED = 1e-13
#: Corrections of Newton's method, after which there is no step.
MAX_CORRECTIONS = 60
#: Points for each cell of the grid.
POINTS = 2
#: Neighboring points are no farther apart than this multiple of the width of a cell,
WIDEST = 1.5
#: and charges than this multiple of their mean distance; on a semicircle it is pi/2.
UNEVEN = 3.0
#: Charges: fewest and most points; the work grows with their square.
FEWEST_CHARGES, MOST_CHARGES = 80, 160
#: A correction moves neighbors by no more than this part of their distance toward each other, and a matrix serves while
#: corrections shrink by this factor.
KEPT, SLOW = 0.9, 0.3


class Fronts(Contract):
    r"""How points that carry a law move, in a potential.

    A step is an L-stable SDIRK method of fourth order; with J(t) Y the implicit Euler step from Y, its stages are

    .. math:: X_i = J(\gamma t)\,Y_i, \qquad Y_i = X + \sum_{j < i} \frac{a_{ij}}{\gamma} (X_j - Y_j).

    Parameters
    ----------
    grid : Grid
    potential : array
        V at the centers of the cells; between them a cubic spline is taken.

    Attributes
    ----------
    exponent : float
        p of a front that moves: the mass beyond a place grows like the power p of the distance.
    grading : float
        The masses beyond the points nearest to an end grow with this power of their number.
    count : int
        Cells between the points.
    """

    exponent: float
    grading: float
    count: int

    def __init__(self, grid: Grid, potential: np.ndarray):
        self.nodes, self.potential = grid.centers[0].copy(), potential
        self.flat = not np.ptp(potential) > 0.0
        self.spline = bend_spline(self.nodes, factor_spline(self.nodes), potential)

    def step(self, mesh: FrontMesh, time: float) -> np.ndarray | None:
        """Return the points after a time, or None where no step is found."""
        self.begin(mesh, GAMMA * time)
        moves, points = np.zeros((len(STAGES), mesh.points.size)), mesh.points
        for i, row in enumerate(STAGES):
            start = mesh.points + np.array(row) @ moves[:i]
            found = self.euler(mesh, start, points, GAMMA * time)
            if found is None or not (np.diff(found) > 0.0).all():
                return None
            moves[i], points = (found - start) / GAMMA, found
        return points

    @abstractmethod
    def begin(self, mesh: FrontMesh, time: float) -> None:
        """Prepare the implicit Euler steps of a time from the points of a mesh."""

    @abstractmethod
    def euler(self, mesh: FrontMesh, start: np.ndarray, guess: np.ndarray, time: float) -> np.ndarray | None:
        """Return the implicit Euler step of a time from other points, found from a guess; None where none is found."""

    @abstractmethod
    def resolves(self, points: np.ndarray) -> bool:
        """Return whether points are close enough to each other."""

    @abstractmethod
    def velocities(self, mesh: FrontMesh) -> np.ndarray:
        """Return the velocities of the points."""

    def field(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first two derivatives of V at points."""
        values, slopes, bends = np.zeros((3, points.size))
        if not self.flat:
            evaluate(self.nodes, self.potential, self.spline, points, values, slopes, bends)
        return slopes, bends


class PorousFronts(Fronts):
    r"""Points moved by nonlinear diffusion, the pressure being :math:`a \rho^k`.

    J is the minimum of a function that is convex where V is, and infinite where points would meet.

    Parameters
    ----------
    grid, potential
        As for `Fronts`.
    factor, power : float
        a and k > 1; :math:`p = k / (k - 1)`.
    """

    def __init__(self, grid: Grid, potential: np.ndarray, factor: float, power: float):
        super().__init__(grid, potential)
        self.factor, self.power = float(factor), float(power)
        self.exponent = self.grading = power / (power - 1.0)
        self.count = POINTS * grid.size
        self.widest = WIDEST * float(grid.widths[0].max())

    def resolves(self, points: np.ndarray) -> bool:
        return bool(np.diff(points).max() <= self.widest)

    def velocities(self, mesh: FrontMesh) -> np.ndarray:
        out, weights = np.empty(mesh.points.size), node_weights(mesh.masses, self.power)
        velocities(mesh.points, mesh.masses, weights, self.power, self.factor, self.field(mesh.points)[0], out)
        return out

    def begin(self, mesh: FrontMesh, time: float) -> None:
        self.weights = node_weights(mesh.masses, self.power)

    def euler(self, mesh: FrontMesh, start: np.ndarray, guess: np.ndarray, time: float) -> np.ndarray | None:
        points, before = guess.copy(), math.inf
        least = CONVERGED * float(points[-1] - points[0])
        for _ in range(MAX_CORRECTIONS):
            slopes, bends = self.field(points)
            size = newton_correction(points, start, time, mesh.masses, self.weights, self.power, self.factor, slopes,
                                     bends)
            if math.isnan(size):
                return None
            # Below the square root of the rounding a correction that does not shrink is rounding.
            if size <= least or (size <= 1e4 * least and size >= 0.5 * before):
                return points
            before = size
        return None


class ChargeFronts(Fronts):
    r"""Points moved by charges that repel each other, :math:`-\chi \log|x - y| + k (x - y)^2/2`, without diffusion.

    Their fronts are roots, :math:`p = 3/2`. With S ~ j^3 the points are even functions of their index j at the ends,
    and :math:`\int \rho(y)\,dy/(X_j - y)` is the midpoint rule in the index: it has no self-force, and is of fourth
    order, third at the ends. Steps are those of nonlinear diffusion; J is found by Newton's method with a full matrix,
    kept while it serves.

    Parameters
    ----------
    grid, potential
        As for `Fronts`.
    repulsion, attraction : float
        chi > 0 and k.
    """

    exponent, grading = 1.5, 3.0

    def __init__(self, grid: Grid, potential: np.ndarray, repulsion: float, attraction: float):
        super().__init__(grid, potential)
        self.repulsion, self.attraction = float(repulsion), float(attraction)
        self.count = min(max(grid.size, FEWEST_CHARGES), MOST_CHARGES)
        self.factors = np.zeros((0, 0))

    def resolves(self, points: np.ndarray) -> bool:
        return bool(np.diff(points).max() * self.count <= UNEVEN * (points[-1] - points[0]))

    def velocities(self, mesh: FrontMesh) -> np.ndarray:
        return self._velocities(mesh.masses, mesh.points)

    def begin(self, mesh: FrontMesh, time: float) -> None:
        self._factor(mesh.masses, mesh.points, time)

    def euler(self, mesh: FrontMesh, start: np.ndarray, guess: np.ndarray, time: float) -> np.ndarray | None:
        points, before = guess.copy(), math.inf
        least = CONVERGED * float(points[-1] - points[0])
        for _ in range(MAX_CORRECTIONS):
            change = start + time * self._velocities(mesh.masses, points) - points
            solve_step(self.factors, change)
            size, gaps = float(np.abs(change).max()), np.diff(points)
            if not (math.isfinite(size) and gaps.min() > 0.0):
                return None
            # Points keep their order.
            rate = max(KEPT, float((-np.diff(change) / gaps).max()))
            points += change * (KEPT / rate)
            if size <= least or (size <= 1e4 * least and size >= 0.5 * before):
                return points
            if size > SLOW * before or rate > KEPT:
                self._factor(mesh.masses, points, time)
            before = size
        return None

    def _velocities(self, masses: np.ndarray, points: np.ndarray) -> np.ndarray:
        out = np.empty(points.size)
        charge_velocities(points, masses, self.repulsion, self.attraction, self.field(points)[0], out)
        return out

    def _factor(self, masses: np.ndarray, points: np.ndarray, time: float) -> None:
        """Factor 1 - time v'."""
        matrix = np.empty((points.size, points.size))
        charge_jacobian(points, masses, self.repulsion, self.attraction, self.field(points)[1], matrix)
        factor_step(matrix, time)
        self.factors = matrix
