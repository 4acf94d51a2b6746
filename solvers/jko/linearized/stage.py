"""The equations of one JKO step along straight geodesics (`ExactStep`), and Newton's method for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wgflow.compiled.linearized import compensated_dot, excess_energy, internal_slopes, masses_of_slopes
from wgflow.compiled.remap import cost_of_ends, face_densities, remap_line, remap_plane
from wgflow.progress import pulse

from .line import LineNewton

if TYPE_CHECKING:
    from .exact_step import ExactStep

#: Part of the mass that is spread evenly where H' of empty cells is infinite: tails fall off by thousands of orders of
#: magnitude where V is steep, and masses below this part do not count.
BACKGROUND = 1e-16
#: Halvings of a step.
MAX_HALVINGS = 12
#: Factor by which the missing mass may grow in an accelerated step.
GROWTH = 1.2
#: Earlier iterates that acceleration uses.
DEPTH = 6
#: Iterations with one factorization.
FACTOR_ITERATIONS = 12
#: Largest change of H', in units of the mean of r H'', that an iteration aims at where masses hardly depend on it.
LARGEST_CHANGE = 8.0


class Iterate(NamedTuple):
    """The unknown q = H'(M) and what follows from it: ``asked`` are the masses M, ``moved`` those of the transport, P.

    ``slope`` is the derivative of the dual value of the transport: P, except on a line whose ends are out of order.
    """

    unknown: np.ndarray
    asked: np.ndarray
    pressure: np.ndarray
    moved: np.ndarray
    slope: np.ndarray
    weights: np.ndarray | None
    missing: float
    gap: float
    residual: float


class Stage:
    """The equations of one step, from given masses, of length tau."""

    def __init__(self, exact: ExactStep, start: np.ndarray, tau: float):
        # A copy: kernels are compiled again for arrays that cannot be written to.
        self.exact, self.start, self.tau = exact, np.array(start, order="C"), tau
        self.solver, self.grid = exact.solver, exact.grid
        self.total = float(start.sum())
        if exact.singular:
            volumes = self.grid.volumes.ravel()
            self.start = (1 - BACKGROUND) * self.start + BACKGROUND * self.total / volumes.sum() * volumes
        if exact.line:
            self.row: np.ndarray = np.tile(self.start, (exact.edges[0].size - 1) // start.size)
            self.density: np.ndarray = np.empty(self.row.size + 1)
            face_densities(self.row, exact.edges[0], start.size if self.grid.periodic[0] else 0, self.density)

    def ends(self, pressure: np.ndarray) -> np.ndarray:
        """Return the points to which the map takes the faces of a line."""
        return self.grid.edges[0] + self.tau * self.exact.differences(pressure, 0)

    def cost(self, origins: np.ndarray, ends: np.ndarray) -> float:
        """Return the cost of transport on a line, from one point to another for each face."""
        first = 0 if self.grid.periodic[0] else 1
        faces = slice(first, self.start.size)
        distances = np.roll(self.grid.distances[0], 1) if first == 0 else self.grid.distances[0]
        return cost_of_ends(self.row, self.exact.edges[0], self.density, distances, origins[faces], ends[faces])

    def squared_distance(self, pressure: np.ndarray) -> float:
        """Return W_h^2 between the start and its image under the map of a pressure, on a line."""
        ends = self.ends(pressure)
        self.exact.order(ends, self.start)
        return self.cost(np.array(self.grid.edges[0]), ends)

    def move(self, pressure: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, float]:
        """Return the masses that the map of a pressure gives, the derivative of the dual, densities, and disorder.

        No mass is negative. Disorder is the amount that sorting the ends on a line adds to the gap.
        """
        grid, exact = self.grid, self.exact
        moved = np.empty(grid.shape)
        if not exact.line:
            remap_plane(self.start.reshape(grid.shape), pressure.reshape(grid.shape), self.tau, grid.edges, exact.edges,
                        grid.centers, grid.distances, grid.periodic, moved)
            moved = moved.ravel()
            return moved, moved, None, 0.0
        ends, weights = self.ends(pressure), np.empty(grid.size + 1)
        remap_line(self.row, exact.edges[0], self.density, ends, moved, weights)
        ordered = ends.copy()
        if exact.order(ordered, self.start):
            return moved, moved, weights, 0.0
        sorted_moved, other = np.empty(grid.size), np.empty(grid.size + 1)
        remap_line(self.row, exact.edges[0], self.density, ordered, sorted_moved, other)
        return sorted_moved, moved, weights, self.cost(ends, ordered) / (2 * self.tau)

    def look(self, unknown: np.ndarray) -> Iterate | None:
        """Return the iterate of an unknown; None where the unknown is out of range."""
        solver = self.solver
        if not np.isfinite(unknown).all():
            return None
        asked = unknown
        if solver.internal:
            asked, derivatives = np.empty((2, unknown.size))
            if not masses_of_slopes(unknown, solver.log_reference, solver.terms, asked, derivatives):
                return None
        field = solver.field(asked)
        pressure = unknown + field if solver.internal else field
        moved, slope, weights, disorder = self.move(pressure)
        if not solver.internal and self.exact.local:
            asked, slope = moved, moved
        missing = float(np.abs(slope - asked).sum())
        gap, residual = self._judged(unknown, asked, moved, disorder)
        return Iterate(unknown, asked, pressure, moved, slope, weights, missing, gap, residual)

    def _judged(self, unknown, asked, moved, disorder) -> tuple[float, float]:
        """Return gap and residual: on a line the residual is the scaled gap, else the missing part of the mass squared.
        """
        solver, rest = self.solver, moved - asked
        missing = float(np.abs(rest).sum()) / self.total
        square = missing * missing
        if not (self.exact.line and solver.internal):
            return np.inf, square
        divergence = solver.nonlocal_divergence(moved, asked)
        slopes, curvatures = np.empty((2, moved.size))
        floor = solver.floor(self.start)
        internal_slopes(moved, solver.log_reference, floor, solver.terms, slopes, curvatures)
        excess = excess_energy(moved, unknown, solver.log_reference, floor, solver.terms) + disorder
        residual = excess / (self.total * solver.spread(moved, curvatures, slopes, solver.field(moved)))
        return excess + max(divergence, 0.0), residual if np.isfinite(residual) else np.inf

    # ---------------------------------------------------------------- Newton's method
    def newton(self, point: Iterate, limit: int, tails: bool = False) -> tuple[Iterate, int]:
        """Iterate until the residual meets the tolerance or no step helps; return the best iterate, and the count.

        On a line empty tails may be left out (``tails``).
        """
        if self.exact.newton:
            return LineNewton(self, tails).run(point, limit)
        solver, history = self.solver, History()
        best, iteration, factored = point, 0, None
        while best.residual > solver.tolerance and iteration < limit:
            pulse(f"iteration {iteration + 1}, residual {best.residual:.1e}")
            if factored is None or iteration - factored >= FACTOR_ITERATIONS:
                if not self._factorize(point):
                    break
                factored = iteration
                history.clear()
            iteration += 1
            new = self._accelerated(point, self._direction(point), history)
            if new is None:
                # Try again with a new factorization.
                if factored == iteration - 1:
                    break
                factored = None
                continue
            point = new
            if point.residual < best.residual:
                best = point
        return best, iteration

    def _factorize(self, point: Iterate) -> bool:
        solver, exact = self.solver, self.exact
        if not solver.internal:
            return True
        floor, asked = solver.floor(self.start), np.asarray(point.asked)
        slopes, curvatures = np.empty((2, asked.size))
        reached = np.where(asked > 0, asked, np.maximum(point.slope, floor))
        internal_slopes(reached, solver.log_reference, floor, solver.terms, slopes, curvatures)
        self.largest = LARGEST_CHANGE * compensated_dot(reached**2, curvatures) / float(reached.sum())
        derivatives = np.maximum(1.0 / curvatures, np.abs(point.slope - asked) / self.largest)
        laplacian = exact.system.set_rates(exact.rates(np.maximum(point.moved, 0.0), point.pressure, self.tau))
        return exact.system.factorize(derivatives + laplacian)

    def _direction(self, point: Iterate) -> np.ndarray:
        rest = point.slope - point.asked
        if not self.solver.internal:
            return rest
        return np.clip(self.exact.system.solve(rest), -self.largest, self.largest)

    def _accelerated(self, point: Iterate, direction: np.ndarray, history: History) -> Iterate | None:
        weights = np.sqrt(np.maximum(self.exact.system.diagonal, 0.0)) if self.solver.internal else np.ones(1)
        change = history.step(point.unknown, direction, weights)
        new = self.look(point.unknown + change)
        if new is not None and new.missing <= GROWTH * point.missing:
            return new
        history.clear()
        share = 1.0
        for _ in range(MAX_HALVINGS):
            new = self.look(point.unknown + share * direction)
            if new is not None and new.missing < (1 - 0.1 * share) * point.missing:
                return new
            share *= 0.5
        return None


class History:
    """Anderson's acceleration of a fixed-point iteration x + f(x)."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Forget all iterates."""
        self.points: list[np.ndarray] = []
        self.steps: list[np.ndarray] = []

    def step(self, x: np.ndarray, f: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the step from x that minimizes f, in the weighted norm, over combinations of the iterates."""
        self.points = [*self.points[-DEPTH:], x]
        self.steps = [*self.steps[-DEPTH:], f]
        if len(self.points) < 2:
            return f
        changes = np.diff(np.array(self.steps), axis=0)
        share = np.linalg.lstsq((changes * weights).T, f * weights, rcond=1e-10)[0]
        return f - share @ (changes + np.diff(np.array(self.points), axis=0))
