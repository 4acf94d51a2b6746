r"""Velocities and steps of points that carry a law on a line: nonlinear diffusion, and charges that repel."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from wgflow.compiled.moving_mesh import charge_velocities, newton_correction, node_weights, velocities
from wgflow.compiled.splines import bend_spline, evaluate, factor_spline
from wgflow.contracts import Contract
from wgflow.grids import Grid

from .front_mesh import FrontMesh

__all__ = ["ChargeFronts", "Fronts", "PorousFronts"]

#: The L-stable SDIRK method of order 4 with five stages (Hairer and Wanner, Solving Ordinary Differential Equations II,
#: table IV.6.5): its diagonal, and the rows before it; the last stage is the step.
GAMMA = 0.25
STAGES = ((), (1 / 2,), (17 / 50, -1 / 25), (371 / 1360, -137 / 2720, 15 / 544), (25 / 24, -49 / 48, 125 / 16, -85 / 12))
#: Newton's method has converged when no point moves by more than this part of the length of the support.
CONVERGED = 1e-13
#: Corrections of Newton's method, after which there is no step.
MAX_CORRECTIONS = 60
#: Points for each cell of the grid.
POINTS = 2
#: Charges: fewest and most points; the work grows with their square.
FEWEST_CHARGES, MOST_CHARGES = 100, 300
#: Damping of the Runge-Kutta-Chebyshev method, and the largest number of its stages.
DAMPING, MOST_STAGES = 2.0 / 13.0, 200


class Fronts(Contract):
    """How points that carry a law move, in a potential.

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

    @abstractmethod
    def step(self, mesh: FrontMesh, time: float) -> np.ndarray | None:
        """Return the points after a time, or None where no step is found."""

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

    A step is an L-stable SDIRK method of fourth order; with J(t) Y the implicit Euler step from Y, its stages are

    .. math:: X_i = J(\gamma t)\,Y_i, \qquad Y_i = X + \sum_{j < i} \frac{a_{ij}}{\gamma} (X_j - Y_j),

    each the minimum of a function that is convex where V is, and infinite where points would meet.

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
        slopes, _ = self.field(mesh.points)
        out = np.empty(mesh.points.size)
        velocities(mesh.points, mesh.masses, node_weights(mesh.masses, self.power), self.power, self.factor, slopes, out)
        return out

    def _euler(self, mesh: FrontMesh, weights, start, guess, time: float) -> np.ndarray | None:
        points, before = guess.copy(), math.inf
        least = CONVERGED * (points[-1] - points[0])
        for _ in range(MAX_CORRECTIONS):
            slopes, bends = self.field(points)
            size = newton_correction(points, start, time, mesh.masses, weights, self.power, self.factor, slopes, bends)
            if math.isnan(size):
                return None
            # Below the square root of the rounding a correction that does not shrink is rounding.
            if size <= least or (size <= 1e4 * least and size >= 0.5 * before):
                return points if (np.diff(points) > 0.0).all() else None
            before = size
        return None


class ChargeFronts(Fronts):
    r"""Points moved by charges that repel each other, :math:`-\chi \log|x - y| + k (x - y)^2/2`, without diffusion.

    Their fronts are roots, :math:`p = 3/2`. With S ~ j^3 the points are even functions of their index j at the ends, and
    :math:`\int \rho(y)\,dy/(X_j - y)` is the midpoint rule in the index: it has no self-force, and is of the order of
    the midpoints, 4. A step is the Runge-Kutta-Chebyshev method of second order (Verwer, Hundsdorfer and Sommeijer,
    Numer. Math. 57, 1990), with as many stages as the fastest wave of the points asks for.

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

    def step(self, mesh: FrontMesh, time: float) -> np.ndarray | None:
        start = mesh.points
        slope, fastest = self._velocities(mesh.masses, start)
        stages = max(2, math.ceil(math.sqrt(1.0 + 1.54 * time * fastest)))
        if stages > MOST_STAGES:
            return None
        w0 = 1.0 + DAMPING / stages**2
        t, first, second = _chebyshev(stages, w0)
        w1 = first[stages] / second[stages]
        b = np.empty(stages + 1)
        b[2:] = second[2:] / first[2:] ** 2
        b[0] = b[1] = b[2]
        last, now = start, start + b[1] * w1 * time * slope
        for j in range(2, stages + 1):
            mu, nu, weight = 2.0 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2.0 * b[j] * w1 / b[j - 1]
            if not (np.diff(now) > 0.0).all():
                return None
            found, _ = self._velocities(mesh.masses, now)
            rest = (1.0 - b[j - 1] * t[j - 1]) * weight
            last, now = now, ((1.0 - mu - nu) * start + mu * now + nu * last + weight * time * found
                              - rest * time * slope)
        return now if (np.diff(now) > 0.0).all() else None

    def velocities(self, mesh: FrontMesh) -> np.ndarray:
        return self._velocities(mesh.masses, mesh.points)[0]

    def _velocities(self, masses: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the velocities, and a bound on the rates at which they react to the points."""
        slopes, bends = self.field(points)
        out = np.empty(points.size)
        fastest = charge_velocities(points, masses, self.repulsion, self.attraction, slopes, out)
        return out, fastest + float(np.abs(bends).max())


def _chebyshev(n: int, x: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Chebyshev polynomials T_0 .. T_n at x, and their first two derivatives."""
    t, first, second = np.zeros((3, n + 1))
    t[0], t[1], first[1] = 1.0, x, 1.0
    for j in range(2, n + 1):
        t[j] = 2.0 * x * t[j - 1] - t[j - 2]
        first[j] = 2.0 * (t[j - 1] + x * first[j - 1]) - first[j - 2]
        second[j] = 2.0 * (2.0 * first[j - 1] + x * second[j - 1]) - second[j - 2]
    return t, first, second
