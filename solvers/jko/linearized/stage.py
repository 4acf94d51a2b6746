"""The equations of one JKO step along straight geodesics, and Newton's method for them; see `_linearized_exact`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wgflow.compiled.linearized import compensated_dot, excess_energy, internal_slopes, masses_of_slopes
from wgflow.compiled.remap import cost_of_ends, face_densities, remap_line, remap_plane

#: Part of the mass that is spread evenly where H' of empty cells is infinite: tails fall off by thousands of orders of
#: magnitude where V is steep, and masses below this part have no say.
BACKGROUND = 1e-14
#: Least part of the predicted rise of the dual value that a step must give, its part below which round-off hides it,
#: halvings of a step, and the factor by which the missing mass may grow in an accelerated step.
ARMIJO, HIDDEN, MAX_HALVINGS, GROWTH = 1e-4, 1e-11, 12, 1.2
#: Iterations for the interaction in a direction, and what they leave of the residual.
INNER_ITERATIONS, FORCING = 40, 1e-9
#: Earlier iterates that acceleration uses; iterations with one factorization.
DEPTH, FACTOR_ITERATIONS = 6, 12
#: Largest change of H', in units of the mean of r H'', that an iteration aims at where masses hardly depend on it.
LARGEST_CHANGE = 8.0


class Iterate(NamedTuple):
    """The unknown with what follows from it: masses M that it asks for, masses P that the transport gives.

    ``slope`` is the derivative of the dual value of the transport: P, but on a line with ends out of order.
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

    def __init__(self, exact: Any, start: np.ndarray, tau: float):
        self.exact, self.start, self.tau = exact, np.ascontiguousarray(start), tau
        self.solver, self.grid = exact.solver, exact.grid
        self.total, self.sharp = float(start.sum()), False
        if exact.singular:
            volumes = self.grid.volumes.ravel()
            self.start = (1 - BACKGROUND) * self.start + BACKGROUND * self.total / volumes.sum() * volumes
        if exact.line:
            self.row = np.tile(self.start, (exact.edges[0].size - 1) // start.size)
            self.density = np.empty(self.row.size + 1)
            face_densities(self.row, exact.edges[0], start.size if self.grid.periodic[0] else 0, self.density)

    def ends(self, pressure: np.ndarray) -> np.ndarray:
        """Where the map takes the faces of a line."""
        return self.grid.edges[0] + self.tau * self.exact.differences(pressure, 0)

    def cost(self, origins: np.ndarray, ends: np.ndarray) -> float:
        """The cost of transport on a line from points that belong to the faces to others."""
        first = 0 if self.grid.periodic[0] else 1
        faces = slice(first, self.start.size)
        distances = np.roll(self.grid.distances[0], 1) if first == 0 else self.grid.distances[0]
        return cost_of_ends(self.row, self.exact.edges[0], self.density, distances, origins[faces], ends[faces])

    def squared_distance(self, pressure: np.ndarray) -> float:
        """W_h^2 of the start and what the map of a pressure makes of it, on a line."""
        ends = self.ends(pressure)
        self.exact.order(ends, self.start)
        return self.cost(self.grid.edges[0], ends)

    def move(self, pressure: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, float]:
        """Masses that the map of a pressure gives, none negative; the derivative of the dual; densities; disorder.

        The last is what sorting the ends on a line adds to the gap.
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
        """All that follows from an unknown; None where nothing does."""
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
        if not solver.internal and self.exact.smooth:
            asked, slope = moved, moved
        missing = float(np.abs(slope - asked).sum())
        gap, residual = self._judged(unknown, asked, moved, disorder)
        return Iterate(unknown, asked, pressure, moved, slope, weights, missing, gap, residual)

    def value(self, point: Iterate) -> float:
        """The dual value of the step on a line."""
        solver = self.solver
        value = (self.cost(self.grid.edges[0], self.ends(point.pressure)) / (2 * self.tau)
                 + compensated_dot(point.slope, point.pressure) + solver.internal_energy(point.asked)
                 - compensated_dot(point.asked, point.unknown))
        if solver.parts.operators:
            value -= 0.5 * compensated_dot(point.asked, solver.field(point.asked) - solver.base)
        return value

    def _judged(self, unknown, asked, moved, disorder) -> tuple[float, float]:
        """Gap and residual: on a line the one from the other, else the square of the missing part of the mass."""
        solver, rest = self.solver, moved - asked
        missing = float(np.abs(rest).sum()) / self.total
        square = missing * missing
        if not (self.exact.line and solver.internal):
            return np.inf, square
        pull = 0.5 * compensated_dot(rest, solver.field(rest) - solver.base) if solver.parts.operators else 0.0
        slopes, curvatures = np.empty((2, moved.size))
        floor = solver.floor(self.start)
        internal_slopes(moved, solver.log_reference, floor, solver.terms, slopes, curvatures)
        excess = excess_energy(moved, unknown, solver.log_reference, floor, solver.terms) + disorder
        residual = excess / (self.total * solver.spread(moved, curvatures, slopes, solver.field(moved)))
        return excess + max(pull, 0.0), residual if np.isfinite(residual) else np.inf

    # ---------------------------------------------------------------- Newton's method
    def newton(self, point: Iterate, limit: int) -> tuple[Iterate, int]:
        """Iterate until the residual is at most the tolerance or nothing helps; the best iterate."""
        settings, history = self.solver.settings, History()
        best, iteration, factored, self.sharp = point, 0, None, False
        while best.residual > settings.tolerance and iteration < min(settings.max_iterations, limit):
            if self.exact.newton or factored is None or iteration - factored >= FACTOR_ITERATIONS:
                if not self._factorize(point):
                    break
                factored = iteration
                history.clear()
            iteration += 1
            direction = self._direction(point)
            if self.exact.newton:
                new = self._search(point, direction)
            else:
                new = self._accelerated(point, direction, history)
            if new is None:
                # Again with a new factorization; on a line without the density beyond walls, to which ends may return.
                if self.sharp or (not self.exact.newton and factored == iteration - 1):
                    break
                factored, self.sharp = None, self.exact.newton
                continue
            point, self.sharp = new, False
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
        if exact.line:
            distances = self.grid.distances[0]
            weights = np.maximum(np.asarray(point.weights), 0.0)
            if self.sharp:
                ends = self.ends(point.pressure)
                weights[(ends < exact.edges[0][0]) | (ends > exact.edges[0][-1])] = 0.0
            rates = [weights[1:][:distances.size] * self.tau / distances]
        else:
            rates = exact.rates(np.maximum(point.moved, 0.0), point.pressure, self.tau)
        self.derivatives, laplacian = derivatives, exact.system.set_rates(rates)
        return exact.system.factorize(derivatives + laplacian)

    def _direction(self, point: Iterate) -> np.ndarray:
        rest = point.slope - point.asked
        if not self.solver.internal:
            return rest
        direction = self.exact.system.solve(rest)
        if not self.exact.newton:
            return np.clip(direction, -self.largest, self.largest)
        return direction if self.exact.smooth else self._with_interaction(direction, rest)

    def _with_interaction(self, direction: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Newton's direction x, where (L + D) x + L U D x is the rest, D the derivatives of masses; x from U = 0."""
        solver, system = self.solver, self.exact.system
        weights, history = np.sqrt(np.maximum(system.diagonal, 0.0)), History()
        begin = float(np.linalg.norm(weights * direction))
        for _ in range(INNER_ITERATIONS):
            pull = system.laplacian(solver.field(self.derivatives * direction) - solver.base)
            change = system.solve(rest - pull) - direction
            if not np.isfinite(change).all():
                break
            if np.linalg.norm(weights * change) <= FORCING * begin:
                return direction + change
            direction = direction + history.step(direction, change, weights)
        return direction

    def _search(self, point: Iterate, direction: np.ndarray) -> Iterate | None:
        """A point along Newton's direction with less mass missing, or with a larger dual value."""
        change = direction
        if not self.exact.smooth:
            change = direction + self.solver.field(self.derivatives * direction) - self.solver.base
        rise = compensated_dot(point.slope - point.asked, change)
        value, share = None, 1.0
        for _ in range(2 * MAX_HALVINGS):
            new = self.look(point.unknown + share * direction)
            if new is not None:
                if new.missing < (1 - 0.1 * share) * point.missing:
                    return new
                value = self.value(point) if value is None else value
                if rise > HIDDEN * max(1.0, abs(value)) and self.value(new) >= value + ARMIJO * share * rise:
                    return new
            share *= 0.5
        return None

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
        """The step from x that makes f least, in the weighted norm, over combinations of the iterates."""
        self.points = [*self.points[-DEPTH:], x]
        self.steps = [*self.steps[-DEPTH:], f]
        if len(self.points) < 2:
            return f
        changes = np.diff(np.array(self.steps), axis=0)
        share = np.linalg.lstsq((changes * weights).T, f * weights, rcond=1e-10)[0]
        return f - share @ (changes + np.diff(np.array(self.points), axis=0))
