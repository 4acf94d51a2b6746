r"""JKO steps of inner="linearized" along straight geodesics: exact in tau, of second order in h, on one or two axes.

With :math:`p = \delta F / \delta\rho` at the new density, the map :math:`T = \mathrm{id} + \tau \nabla p` takes the
new density to the old one. So the new mass of a cell K is the old mass of its image,

.. math:: P_K(p) = \int_{T(K)} \rho_k, \qquad M_K = P_K(p), \qquad p = H'(M) + V + U M,

one equation for each cell, with :math:`q = H'(M)` as unknown. P keeps the mass and is never negative
(`wgflow.compiled.remap`). On one axis it is the derivative of a concave function of p,

.. math::
    W_h^*(p) = \min_P \frac{W_h^2(P)}{2 \tau} + \langle p, P \rangle, \qquad
    W_h^2 = \sum_f 2 d_f \int_{x_f}^{T(x_f)} (s - x_f) \rho_k(s) \, ds,

so that the step minimizes :math:`F + W_h^2 / 2 \tau` over masses, with a dual value, a gap, and the energy-dissipation
inequality by comparison with the old density. The derivative of P is the Laplacian weighted by
:math:`\tau \rho_k(T(x_f))`: Newton's matrix linearizes the distance again and again about the present iterate. On two
axes the weight is :math:`\tau \rho (1 + \tau \partial_{ii} p)^{-1}`, an approximation, and Anderson's acceleration is
added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.envelopes import limit_rows, semiconvex_rows
from wgflow.compiled.linearized import compensated_dot, masses_of_slopes
from wgflow.compiled.remap import repeated, sort_ends

from .quantile_start import can_start, slopes_of_quantiles
from .stage import Iterate, Stage
from .system import ScalarSystem

if TYPE_CHECKING:
    from .solver import LinearizedSolver

MAX_AXES = 2
#: Least second derivative of H' of a start, times tau.
LOWEST = -0.8
#: Iterations from one start.
ITERATIONS = 60
#: Iterations, on a line, from the step before, whose tails may be far from the solution's, before a better start is
#: formed; and from the masses.
FEW_ITERATIONS = 5
LONGER = 12
#: Cells with less than this part of the mean mass are empty.
SPARSE = 1e-12
#: Iterations that leave out empty tails: these converge at once, or the tails are not what they assume.
INSIDE_ITERATIONS = 3
#: Least 1 + tau times a second derivative of the pressure in the approximate matrix.
LEAST_STRETCH = 0.05


class ExactStep:
    """Steps along straight geodesics for one solver.

    Parameters
    ----------
    solver : LinearizedSolver
    """

    def __init__(self, solver: LinearizedSolver):
        self.solver, self.grid = solver, solver.grid
        grid = solver.grid
        self.line = grid.ndim == 1
        self.system = ScalarSystem(grid, solver.graph, solver.system)
        # Whether the field does not depend on the masses.
        self.local = not solver.is_nonlocal
        self.singular = solver.parts.diffusion > 0 or min(solver.terms[2], default=2.0) < 1
        self.newton = self.line and solver.internal
        self.edges = tuple(repeated(edges, closed) for edges, closed in zip(grid.edges, grid.periodic))

    def order(self, ends: np.ndarray, masses: np.ndarray) -> bool:
        """Sort ends on a line in place; return whether they were sorted, and inside it."""
        edges = self.edges[0]
        if not self.grid.periodic[0]:
            return sort_ends(ends, masses, edges[0], edges[-1])
        period = self.grid.edges[0][-1] - self.grid.edges[0][0]
        ends[0] = min(max(ends[0], edges[0]), edges[-1] - period)
        ends[-1] = ends[0] + period
        return sort_ends(ends, masses, ends[0], ends[-1])

    # ---------------------------------------------------------------- one step
    def solve(self, start: np.ndarray, tau: float, unknowns: list[np.ndarray]) -> tuple[Iterate | None, int]:
        """Return the best iterate of a step from cell masses, and the iterations; None if no start is usable."""
        stage, count = Stage(self, start, tau), 0
        best: Iterate | None = None
        for unknown, limit, tails in self._guesses(stage, unknowns):
            point = stage.look(unknown)
            if point is None or not math.isfinite(point.residual):
                continue
            point, used = stage.newton(point, limit, tails)
            count += used
            if best is None or point.residual < best.residual:
                best = point
            if best.residual <= self.solver.tolerance or count >= self.solver.max_iterations:
                break
        return best, count

    def follows(self, masses: np.ndarray) -> bool:
        """Return whether a step from masses may start from the slopes of the step before.

        On a line whose energy leaves cells empty it may not: the front was elsewhere.
        """
        return not self.newton or self.singular or float(masses.min()) > SPARSE * float(masses.sum()) / masses.size

    def _guesses(self, stage: Stage, unknowns: list[np.ndarray]) -> Iterator[tuple[np.ndarray, int, bool]]:
        """Yield guesses, each with a limit of iterations and whether empty tails are left out.

        Where there can be empty tails a guess is tried without them first, and that of the step before only so: with
        its tails the way is longer than from a better guess.
        """
        leave_out = self.newton and self.singular and not self.grid.periodic[0]
        few = FEW_ITERATIONS if self.line else ITERATIONS
        guesses = [((lambda q=q: q), 0 if leave_out else few) for q in unknowns] + self._starts(stage.start, stage.tau)
        for make, limit in guesses:
            unknown = make()
            if self.solver.internal:
                unknown = self.limited(unknown, stage.start, stage.tau)
            if leave_out:
                yield unknown, INSIDE_ITERATIONS, True
            if limit > 0:
                yield unknown, limit, False

    def _starts(self, masses: np.ndarray, tau: float) -> list[tuple[Callable[[], np.ndarray], int]]:
        """Return functions that form guesses without a step before, the most promising first, with iterations."""
        most = self.solver.max_iterations
        if not self.solver.internal:
            return [(lambda: masses, most)]
        if not self.line:
            return [(lambda: self.solver.slopes(masses), ITERATIONS), (lambda: self.spread_out(masses, tau), most)]
        if not can_start(self.solver):
            return [(lambda: self.spread_out(masses, tau), most)]

        def spread() -> np.ndarray:
            return self.spread_out(masses, tau)

        quantiles = (lambda: slopes_of_quantiles(self.solver, masses, tau)), most
        # Where H' is finite at 0 the law stays where it is in its tails, and the start from the masses is often at once
        # the better one.
        return [quantiles, (spread, most)] if self.singular else [(spread, LONGER), quantiles, (spread, most)]

    def spread_out(self, masses: np.ndarray, tau: float) -> np.ndarray:
        r"""Return H' of the masses, raised until it has no second derivative below `LOWEST` / tau.

        Then id + tau grad p keeps cells in order where V is not too concave, and empty cells get the parabolic tails of
        a heat kernel.
        """
        slopes = self.solver.slopes(masses)
        if self.singular:
            slopes = np.where(masses > 0, slopes, -np.inf)
        slopes = slopes.reshape(self.grid.shape)
        for axis in range(self.grid.ndim):
            slopes = self._semiconvex(slopes, axis, -LOWEST / tau)
        return slopes.ravel()

    def limited(self, unknown: np.ndarray, masses: np.ndarray, tau: float) -> np.ndarray:
        """Return an unknown lowered where its pressure takes faces out of the box: no mass comes from there."""
        grid = self.grid
        asked = masses if self.local else np.empty(masses.size)
        if not self.local and not masses_of_slopes(unknown, self.solver.log_reference, self.solver.terms, asked,
                                                    np.empty(masses.size)):
            return unknown
        field = self.solver.field(asked)
        pressure = (unknown + field).reshape(grid.shape)
        for axis in range(grid.ndim):
            if not grid.periodic[axis]:
                rows = np.moveaxis(pressure, axis, -1)
                flat = np.ascontiguousarray(rows).reshape(-1, rows.shape[-1])
                limit_rows(flat, grid.centers[axis], grid.edges[axis][1:-1], tau, *grid.bounds[axis])
                pressure = np.moveaxis(flat.reshape(rows.shape), -1, axis)
        return pressure.ravel() - field

    def _semiconvex(self, values: np.ndarray, axis: int, curvature: float) -> np.ndarray:
        points, flat, _ = self.rows(values, axis)
        raised = np.empty_like(flat)
        semiconvex_rows(flat, points, curvature, raised)
        return self.back(raised, axis)

    def cost(self, start: np.ndarray, point: Iterate, tau: float) -> float:
        r"""Return the squared distance of start and moved masses; on two axes :math:`\tau^2 \int \rho |\nabla p|^2`."""
        if self.line:
            return Stage(self, start, tau).squared_distance(point.pressure)
        return tau**2 * compensated_dot(point.moved, 2.0 * self._kinetic(point.pressure))

    def rows(self, values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return centers of an axis, an array as rows along it, and edges, repeated where the axis is periodic."""
        edges, rows = self.edges[axis], np.moveaxis(values, axis, -1)
        turns = (edges.size - 1) // rows.shape[-1]
        points = np.array(self.grid.centers[axis])
        if turns > 1:
            low, high = self.grid.bounds[axis]
            shifts = (np.arange(turns) - turns // 2) * (high - low)
            points = (points + shifts[:, None]).ravel()
            rows = np.concatenate((rows,) * turns, axis=-1)
        # Writable, as all that the compiled functions take: for a read-only array they would be compiled again.
        return points, np.require(rows, requirements=["C", "W"]).reshape(-1, rows.shape[-1]), edges

    def back(self, flat: np.ndarray, axis: int) -> np.ndarray:
        """Return rows of `rows` as an array of the grid."""
        shape = list(self.grid.shape)
        n = shape.pop(axis)
        first = n * (flat.shape[-1] // n // 2)
        return np.ascontiguousarray(np.moveaxis(flat[:, first:first + n].reshape(*shape, n), -1, axis))

    def _kinetic(self, pressure: np.ndarray) -> np.ndarray:
        return 0.5 * self._product(pressure, pressure)

    def _product(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the inner product of two gradients at the cells: the mean over both faces of each axis."""
        total = np.zeros(self.grid.shape)
        for axis in range(self.grid.ndim):
            a, b = (self.differences(values, axis) for values in (first, second))
            product = a * b
            total += 0.5 * (np.take(product, range(self.grid.shape[axis]), axis=axis)
                            + np.take(product, range(1, self.grid.shape[axis] + 1), axis=axis))
        return total.ravel()

    def differences(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Return derivatives at the faces of an axis, the first and last of which are walls (0) or the same face."""
        grid = self.grid
        values = np.moveaxis(values.reshape(grid.shape), axis, -1)
        gradient = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
        n = values.shape[-1]
        gradient[..., 1:n] = np.diff(values, axis=-1) / grid.distances[axis][:n - 1]
        if grid.periodic[axis]:
            gradient[..., 0] = gradient[..., n] = (values[..., 0] - values[..., -1]) / grid.distances[axis][-1]
        return np.moveaxis(gradient, -1, axis)

    def rates(self, masses: np.ndarray, pressure: np.ndarray, tau: float) -> list[np.ndarray]:
        """Return approximate derivatives of the moved masses in differences of the pressure, for each axis."""
        grid, rates = self.grid, []
        shaped = masses.reshape(grid.shape)
        for axis in range(grid.ndim):
            slopes = np.moveaxis(self.differences(pressure, axis), axis, -1)
            stretch = 1.0 + tau * np.diff(slopes, axis=-1) / grid.widths[axis]
            density = np.moveaxis(shaped, axis, -1) / grid.widths[axis] / np.maximum(stretch, LEAST_STRETCH)
            rolled = np.roll(density, -1, axis=-1)
            count = grid.distances[axis].size
            faces = 0.5 * (density + rolled)[..., :count] * tau / grid.distances[axis]
            rates.append(np.moveaxis(faces, -1, axis))
        return rates
