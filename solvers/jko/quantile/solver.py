"""inner="quantile": JKO steps on one axis, where quantile functions make the Wasserstein distance Euclidean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from wgflow.compiled.quantile import (
    conjugate_step,
    forces,
    inner_product,
    longest_step,
    mend,
    move,
    newton_system,
    objective,
    pool,
    raster,
    solve_tridiagonal,
    spread,
    tridiagonal_product,
    weighted_distance,
)
from wgflow.compiled.splines import bend_spline, bend_spline_adjoint, deposit, evaluate, factor_spline
from wgflow.densities import Density
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep
from wgflow.progress import pulse

from ..base import InnerSolver
from ..settings import Quantile
from .mesh import Mesh, check_axis, make_mesh, power_weight
from .pairs import PairSums, split_operators
from .points import Point, objective_of
from .refinement import between, check_state, halved, mesh_of, refined, squared_distance, together

#: Part of its width that a step of Newton's method leaves each cell at least.
LEAST_WIDTH = 0.1
#: Where that does not help: part of the way to the first collision of two positions that a step goes.
FRACTION = 0.9
#: Least part of the predicted decrease that a step must give.
ARMIJO = 1e-4
#: Halvings of a step.
MAX_HALVINGS = 40
#: Where the predicted decrease is below this part of the objective, round-off hides it: the step is then judged by the
#: slope at its end.
HIDDEN = 1e-9
#: The part by which the objective may rise in such a step.
ROUND_OFF = 1e-12
#: Part of the decrease promised by the slope from which on a step is lengthened.
GROWING = 0.8
#: The longest step, in units of Newton's.
LONGEST = 1024.0
#: Iterations in a row without a lower residual after which the iteration stops.
PATIENCE = 60
#: Iterations after which a step is tried on half as many cells, and least number of cells for that.
PATIENT = 25
COARSEST = 40
#: Residual of the linear systems relative to the right side.
FORCING = 1e-3
#: Iterations of the conjugate gradients.
MAX_LINEAR = 60
EPSILON = float(np.finfo(float).eps)
#: Rounds of cutting cells in a step.
MOST_ROUNDS = 8
#: The scale of the residual is the spread of the law, at least this part of the grid's length.
SMALLEST_SPREAD = 1e-3


class QuantileSolver(InnerSolver):
    r"""JKO steps in quantile coordinates.

    A law on one axis is given by the positions :math:`X_0 \le \dots \le X_n` of its quantiles at fixed levels. Cell i
    between two of them holds the mass :math:`m_i`, position j has the weight :math:`w_j`. The Wasserstein distance is
    Euclidean, so that a step is

    .. math::
        \min_X \; \frac{1}{2\tau} \sum_j w_j (X_j - Y_j)^2 + \sum_j w_j V(X_j)
        + \tfrac12 \sum_{jk} w_j w_k U(X_j, X_k) + \sum_i v_i H(m_i / v_i)

    with the reference volume :math:`v_i` of the cell between two positions: convex for convex V, U and internal
    energies, otherwise for tau below 1 over the largest concavity of V and U. It is solved by Newton's method, whose
    matrix is tridiagonal but for the interaction. Conjugate gradients, preconditioned by the tridiagonal part, form the
    product of the interaction with a vector by the operator of the grid (FFT, low rank or dense). A line search keeps
    the order of the positions.

    The positions are kept through the run. The density is formed for output only, by the monotone cubic through the
    cumulated masses: mass never moves from cell to cell, and nothing is interpolated twice. Without internal energy
    (beta = infinity) the positions are atoms of constant weight.

    V and U are interpolated between cell centers by cubic splines (not-a-knot). Where the law lies in fewer cells than
    the mesh needs, or can develop tails, the mesh of levels is refined at the start (`make_mesh`). The ends of the grid
    are walls.

    With internal energy, a step may stretch cells, over a barrier or by spreading. Where one then spans more than two
    cells of the grid, cells are cut at the start of the step and the step is solved again, until all are resolved
    (`wgflow.solvers.jko.quantile.refinement`). The same law may have more energy on the finer mesh, by the error of the
    quadrature; ``extras["credit"]`` :math:`\le 0` is the part of that which reported energies leave out. It is paid
    back by later steps, out of what they lose beyond the energy-dissipation inequality.

    The residual is the length of the Newton step from the result, :math:`|H^{-1} g|_w / \sqrt M` with gradient g and
    Hessian H, over the spread of the law: the distance W2 to the exact minimizer up to a factor that tends to 1.

    Parameters
    ----------
    parts, grid, settings, tolerance, max_iterations : see `InnerSolver`
        The settings are those of `Quantile`.

    Raises
    ------
    InvalidInput
        If the grid has more than one axis or is periodic, or an internal energy is no power.
    """

    ORDERS: ClassVar[tuple[int, ...]] = (1, 2)
    TOLERANCE: ClassVar[float] = 1e-9
    MAX_ITERATIONS: ClassVar[int] = 300

    settings: Quantile
    mesh: Mesh

    def __init__(self, parts: EnergyOnGrid, grid: Grid, settings: Quantile, tolerance: float | None = None,
                 max_iterations: int | None = None):
        super().__init__(parts, grid, settings, tolerance, max_iterations)
        check_axis(grid)
        for factor, term in parts.internal:
            if not isinstance(term, PowerEntropy):
                raise InvalidInput(f"inner='quantile' knows Entropy and PowerEntropy, not {factor:g}*{term!r}; use "
                                   "inner='back-and-forth', or FiniteVolume()")
        factors = np.array([factor for factor, _ in parts.internal], dtype=np.float64)
        exponents = np.array([t.m for _, t in parts.internal if isinstance(t, PowerEntropy)], dtype=np.float64)
        self.potential = np.array(parts.potential)
        self.internal = parts.diffusion > 0 or len(parts.internal) > 0
        kernels, rest = split_operators(parts)
        self.parts, self.pairs = replace(parts, operators=rest), PairSums(kernels) if kernels else None
        # Whether the energy itself keeps the positions in order.
        self.ordered = self.internal or self.pairs is not None
        self.spreads = parts.diffusion > 0 or bool((exponents < 1).any())
        weight = power_weight(grid)
        if weight is None and exponents.size:
            raise InvalidInput("inner='quantile' takes PowerEntropy with the reference measure r^p dr alone; this "
                               "grid's log_weight is no power: use inner='linearized'")
        if weight is None and grid.log_weight is not None:
            # In the entropy a smooth weight acts as a potential.
            self.potential = self.potential - parts.diffusion * grid.log_weight
        self.terms = (parts.diffusion, factors, exponents, *(weight or (1.0, 0.0)))
        # Where 0 is far from the grid, positions are measured from its middle, so that narrow cells keep their digits.
        low, high = grid.bounds[0]
        far = min(abs(low), abs(high)) > high - low and self.terms[3] == 1.0
        shift = 0.5 * (low + high) if far else 0.0
        self.edges, self.nodes = grid.edges[0] - shift, grid.centers[0] - shift
        self.bounds = float(self.edges[0]), float(self.edges[-1])
        self.spline = factor_spline(self.nodes)
        self.bends = bend_spline(self.nodes, self.spline, self.potential)

    # ---------------------------------------------------------------- the contract of InnerSolver
    def begin(self, density: Density) -> JKOStep:
        self.mesh = make_mesh(self.edges, density.masses, self.spreads, self.settings.cells, self.internal)
        self.mass, x = density.mass, self.mesh.positions
        energy = self._look(x, x, 1.0).energy
        return JKOStep(density, 0.0, energy, None, 0.0, 0, 0.0, state={
            "positions": x, "velocity": np.zeros(x.size), "last": x, "masses": self.mesh.masses,
            "depths": np.zeros(self.mesh.masses.size, dtype=np.int64), "first_cells": self.mesh.masses.size,
            "credit": 0.0})

    def resume(self, rho0: Density, now: JKOStep) -> JKOStep:
        state = now.state
        self.mass = rho0.mass
        self.mesh = mesh_of(state["last"], state["masses"], state["depths"])
        return now

    def energy_of(self, step: JKOStep) -> float:
        self._use(step.state)
        return self._look(step.state["last"], step.state["last"], 1.0).energy + float(step.state["credit"])

    def check_state(self, step: JKOStep) -> None:
        check_state(step.state, self.bounds)

    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        state, (low, high) = start.state, self.bounds
        self._use(state)
        starts = self._first(state, tau, guess)
        # The law from which the step starts is known; only its distance to where the step is measured from is not.
        y = state["positions"]
        known = start.energy - state["credit"] + weighted_distance(state["last"], y, self.mesh.weights) / (2.0 * tau)
        point, residual, iterations = self._minimize(y, tau, starts, known)
        for _ in range(MOST_ROUNDS):
            finer = self._refined(state, point.x) if residual <= self.tolerance else None
            if finer is None:
                break
            new, new_residual, more = self._minimize(finer[0]["positions"], tau, [finer[1], finer[0]["last"]])
            iterations += more
            if not new_residual <= self.tolerance:
                self._use(state)
                break
            state, point, residual = finer[0], new, new_residual
        x, y = point.x, state["positions"]
        if not self.internal:
            # Atoms that overtake each other, by more than round-off, are no minimizer: tau is beyond convexity there.
            disorder = float(np.maximum(x[:-1] - x[1:], 0.0).max()) / self._scale(x)
            if disorder > self.tolerance:
                residual = max(residual, disorder)
            x = np.maximum.accumulate(x)
        density = Density(self.grid, raster(x, self.mesh.masses, self.edges) / self.grid.volumes)
        force, _, _ = self._derivatives(point._replace(x=x), x, 1.0)
        force[((x <= low) & (force > 0)) | ((x >= high) & (force < 0))] = 0.0
        # At a minimizer the force is the pull towards y. Nodes of hardly any mass may be far from theirs, without a
        # trace in the energy, with forces that are large beside their mass.
        pull = self.mesh.weights * (y - x) / tau
        force = np.where(np.abs(pull) < np.abs(force), pull, force)
        dissipation = inner_product(force, force / self.mesh.weights)
        w2_squared = weighted_distance(x, y, self.mesh.weights)
        # The energy that new levels added is paid back out of the loss beyond the inequality.
        spare = start.energy - point.energy - w2_squared / (2.0 * tau)
        credit = max(state["credit"], min(0.0, spare)) if state["credit"] < 0 else 0.0
        return JKOStep(density, w2_squared, point.energy + credit, None, residual, iterations, tau,
                       dissipation=dissipation, round_off=self._round_off(x),
                       extras={"cells": x.size - 1, "credit": credit},
                       state={**state, "positions": x, "velocity": (x - state["last"]) / tau, "last": x,
                              "credit": credit})

    def extrapolate(self, before: JKOStep, now: JKOStep, share: float) -> JKOStep:
        x, behind = together(now.state, before.state)
        if x.size > now.state["positions"].size:
            raise InvalidInput("extrapolate: the mesh of the step before is finer than the one of this step")
        return JKOStep(None, 0.0, now.energy, None, 0.0, 0, now.tau,
                       state={**now.state, "positions": x + share * (x - behind)})

    def distance_squared(self, first: JKOStep, second: JKOStep) -> float:
        return squared_distance(first.state, second.state)

    def _use(self, state: dict) -> None:
        """Take the mesh of a state."""
        if state["masses"] is not self.mesh.masses:
            self.mesh = mesh_of(state["last"], state["masses"], state["depths"])

    def _refined(self, state: dict, x: np.ndarray) -> tuple[dict, np.ndarray] | None:
        """Return the state from which a step starts, and the law x, at finer levels; None where x is resolved."""
        if not self.internal or self.settings.cells is not None:
            return None
        finer = refined(state, x, self.edges)
        if finer is None:
            return None
        before = self._look(state["last"], state["last"], 1.0).energy
        new, x = finer
        self._use(new)
        rise = self._look(new["last"], new["last"], 1.0).energy - before
        return {**new, "credit": state["credit"] - max(0.0, rise)}, x

    # ---------------------------------------------------------------- Newton's method
    def _first(self, state: dict, tau: float, guess: JKOStep | None) -> list[np.ndarray]:
        """Return positions from which to start, the most promising first, each in order."""
        last = state["last"]
        if guess is not None:
            return [guess.state["positions"], last]
        ahead = tau * state["velocity"]
        if not ahead.any():
            return [last]
        return [self._moved(last, ahead, 1.0), last]

    def _minimize(self, y, tau: float, starts: list[np.ndarray],
                  known: float = -math.inf) -> tuple[Point, float, int]:
        """Return the best iterate, its residual and the iterations; ``known`` is the objective at the last start."""
        # A front moves by so many cells in an iteration: where cells are many, half as many are tried first.
        mesh = self.mesh
        first = self.max_iterations if mesh.masses.size < COARSEST else min(PATIENT, self.max_iterations)
        best, least, iterations = self._iterate(y, tau, starts, known, first)
        if least <= self.tolerance or first == self.max_iterations or not self.internal:
            return best, least, iterations
        self.mesh, kept = halved(mesh, y)
        coarse, _, more = self._minimize(y[kept], tau, [best.x[kept]])
        self.mesh = mesh
        starts = [between(coarse.x, kept, mesh.masses), best.x]
        point, residual, last = self._iterate(y, tau, starts, best.objective, self.max_iterations - first)
        best, least = (point, residual) if residual < least else (best, least)
        return best, least, iterations + more + last

    def _iterate(self, y, tau: float, starts: list[np.ndarray], known: float,
                 most: int) -> tuple[Point, float, int]:
        """Return the same from at most so many iterations on this mesh alone."""
        point = self._look(starts[0], y, tau)
        if len(starts) > 1 and not point.objective <= known:
            point = min(point, self._look(starts[-1], y, tau), key=objective_of)
        best, least, since, iteration = point, math.inf, 0, 0
        while iteration < most and since < PATIENCE:
            iteration += 1
            pulse(f"Newton step {iteration}, residual {least:.1e}")
            gradient, diagonal, off = self._derivatives(point, y, tau)
            direction = self._newton(point, tau, gradient, diagonal, off)
            decrement = inner_product(gradient, direction)
            length = inner_product(direction, self.mesh.weights * direction)
            residual = math.sqrt(length / self.mass) / self._scale(point.x)
            # Far from the minimum the residual may grow for a while; near it that is round-off.
            since = 0 if residual < least or decrement > HIDDEN * max(1.0, abs(point.objective)) else since + 1
            if residual < least:
                best, least = point, residual
            if residual <= self.tolerance or not math.isfinite(residual):
                break
            new = self._search(point, y, tau, direction, decrement)
            if new is None:
                break
            point = new
        return best, least, iteration

    def _look(self, x, y, tau: float) -> Point:
        """Return the point at positions x: energy, objective, and the slopes of V + U rho."""
        self.check_time()
        nodes, mesh = self.nodes, self.mesh
        values, slopes, curvatures = np.empty((3, x.size))
        field, bends, excess = self.potential, self.bends, 0.0
        if self.is_nonlocal:
            on_grid = self._to_grid(x, mesh.weights, False)
            interaction = self.nonlocal_variation(on_grid)
            field = field + interaction
            bends = bend_spline(nodes, self.spline, field)
            # The potential U rho counts each pair twice.
            excess = 0.5 * inner_product(on_grid, interaction)
        evaluate(nodes, field, bends, x, values, slopes, curvatures)
        potential, internal, inertia = objective(x, y, tau, mesh.weights, mesh.masses, mesh.log_masses, self.terms,
                                                 values)
        energy = potential - excess + internal
        if self.pairs is not None:
            repulsion, forces_ = self.pairs.energy(x, mesh.weights)
            energy, slopes = energy + repulsion, slopes + forces_
        return Point(x, energy, energy + inertia, slopes, curvatures)

    def _derivatives(self, point: Point, y, tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gradient of the objective, and diagonal and off-diagonal of the internal energies' Hessian."""
        x, mesh = point.x, self.mesh
        gradient, diagonal, off = np.empty(x.size), np.empty(x.size), np.empty(x.size - 1)
        forces(x, y, tau, mesh.weights, mesh.masses, mesh.log_masses, self.terms, point.slopes, gradient, diagonal, off)
        return gradient, diagonal, off

    def _newton(self, point: Point, tau: float, gradient, diagonal, off) -> np.ndarray:
        """Return the direction H^-1 g; entries of the gradient whose position rests at a wall are set to 0."""
        x = point.x
        pinned, (direction, pivots, multipliers) = np.empty(x.size, dtype=bool), np.empty((3, x.size))
        matrix = None
        if self.pairs is not None:
            matrix = self.pairs.hessian(x, self.mesh.weights)
            diagonal += matrix.diagonal()
            off += matrix.diagonal(1)
            matrix = matrix - (np.diag(matrix.diagonal()) + np.diag(matrix.diagonal(1), 1)
                               + np.diag(matrix.diagonal(1), -1))
        newton_system(x, tau, self.mesh.weights, point.curvatures, self.bounds, gradient, diagonal, off, pinned, pivots,
                      multipliers)
        if self.is_nonlocal or matrix is not None:
            return self._conjugate_gradients(x, gradient, diagonal, off, pinned, pivots, multipliers, matrix)
        solve_tridiagonal(pivots, multipliers, pinned, gradient, direction)
        return direction

    def _conjugate_gradients(self, x, gradient, diagonal, off, pinned, pivots, multipliers, far=None) -> np.ndarray:
        """Return H^-1 g; the interaction's mixed derivatives are applied on the grid, or by a matrix."""
        weights = self.mesh.weights
        direction, left, (z, product, none) = np.zeros(x.size), gradient.copy(), np.zeros((3, x.size))
        solve_tridiagonal(pivots, multipliers, pinned, left, z)
        p, rho = z.copy(), inner_product(left, z)
        target = FORCING**2 * rho
        for k in range(MAX_LINEAR):
            if not rho > 0:
                break
            mixed = weights * self._mixed(x, weights * p) if self.is_nonlocal else none
            if far is not None:
                mixed = mixed + far @ p
            curvature = tridiagonal_product(diagonal, off, pinned, p, mixed, product)
            if not curvature > 0:
                # The interaction makes H indefinite. What the directions so far combine to is a direction of descent.
                return direction if k else p
            before = rho
            rho = conjugate_step(rho / curvature, p, product, direction, left, pivots, multipliers, pinned, z)
            if rho <= target:
                break
            p = z + (rho / before) * p
        return direction

    def _search(self, point: Point, y, tau: float, direction, decrement: float) -> Point | None:
        """Return the next positions along the direction, or None where no step lowers the objective."""
        new = self._look(self._moved(point.x, direction, -1.0), y, tau)
        if self._lowers(point, new, y, tau, direction, decrement):
            return self._farther(point, new, y, tau, direction, decrement)
        share = min(1.0, FRACTION * longest_step(point.x, -direction)) if self.ordered else 0.5
        share = 0.5 if share == 1.0 else share
        for _ in range(MAX_HALVINGS):
            new = self._look(move(point.x, direction, -share, self.bounds), y, tau)
            if self._lowers(point, new, y, tau, direction, share * decrement):
                return new
            share *= 0.5
        return None

    def _moved(self, x, direction, share: float) -> np.ndarray:
        """Return the positions x + share * direction, between the walls and in order."""
        new = move(x, direction, share, self.bounds)
        if self.ordered:
            (mend if self.spreads else pool)(x, new, LEAST_WIDTH, self.mesh.weights, self.bounds)
        return new

    def _farther(self, point: Point, new: Point, y, tau: float, direction, decrement: float) -> Point:
        """Return the best of steps of twice, four times, ... the length, while the objective falls as fast as at first.

        A step of Newton's method lowers a quadratic objective by half the decrease that the slope promises. A larger
        decrease shows that the concave part, which is left out of the matrix, dominates.
        """
        length = 1.0
        while new.objective < point.objective - GROWING * length * decrement and length < LONGEST:
            length *= 2.0
            farther = self._look(self._moved(point.x, direction, -length), y, tau)
            if not farther.objective < new.objective:
                break
            new = farther
        return new

    def _lowers(self, point: Point, new: Point, y, tau: float, direction, predicted: float) -> bool:
        """Return whether a step of predicted decrease lowers the objective, as far as round-off allows to tell."""
        if new.objective <= point.objective - ARMIJO * predicted:
            return True
        size = max(1.0, abs(point.objective))
        if predicted > HIDDEN * size or not new.objective <= point.objective + ROUND_OFF * size:
            return False
        gradient, _, _ = self._derivatives(new, y, tau)
        return -inner_product(gradient, direction) <= 0.8 * predicted

    # ---------------------------------------------------------------- between positions and the grid
    def _to_grid(self, x, weights, derivative: bool) -> np.ndarray:
        """Return what U is applied to, at the nodes: the adjoint of a spline's values (slopes) at the positions."""
        on_values, on_bends = np.empty(self.nodes.size), np.empty(self.nodes.size)
        deposit(self.nodes, x, weights, derivative, on_values, on_bends)
        return on_values + bend_spline_adjoint(self.nodes, self.spline, on_bends)

    def _mixed(self, x, weights) -> np.ndarray:
        """Return the slopes, at the positions, of U applied to dipoles of given weights there."""
        field = self.nonlocal_variation(self._to_grid(x, weights, True))
        values, slopes, curvatures = np.empty((3, x.size))
        evaluate(self.nodes, field, bend_spline(self.nodes, self.spline, field), x, values, slopes, curvatures)
        return slopes

    def _round_off(self, x) -> float:
        """Return a bound on the rounding errors in the energy of V: the largest V at the cells in use counts."""
        first, last = np.searchsorted(self.nodes, (x[0], x[-1]))
        return EPSILON * self.mass * float(np.abs(self.potential[max(first - 1, 0):last + 1]).max())

    def _scale(self, x) -> float:
        """Return the spread of the law, the scale of residuals."""
        low, high = self.bounds
        return max(spread(x, self.mesh.weights), SMALLEST_SPREAD * (high - low))
