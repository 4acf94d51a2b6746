"""inner="linearized": JKO steps by linearizing the Wasserstein distance, by finite volumes on one to three axes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np

from wgflow.compiled.linearized import compensated_dot, excess_energy, internal_slopes, net_flux, transport
from wgflow.densities import Density
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep

from ..base import InnerSolver
from ..convexity import is_convex_form
from ..settings import Linearized
from .exact_step import MAX_AXES as EXACT_AXES
from .exact_step import ExactStep
from .extrapolation import beyond, distance_squared
from .start import approach, improve
from .system import Product, SaddleSystem, graph_of

#: Below this part of the mean mass of a cell H' is continued along its tangent.
FLOOR = 1e-100
#: Iterations in potentials before iterations in masses take over.
FEW_ITERATIONS = 6
#: How often the two take turns, at most.
ROUNDS = 4
#: Least part of the predicted decrease that a step must give.
ARMIJO = 1e-4
#: Halvings of a step.
MAX_HALVINGS = 30
#: Part of the energy below which round-off hides a decrease.
HIDDEN = 1e-11
#: Part of its mass that extrapolation leaves in a cell at least.
KEPT = 0.05
#: Length of differences of functionals' derivatives, relative to the largest mass.
DIFFERENCE = 1e-6
#: Least scale of energies per mass; its square is not 0 in floating point.
SMALLEST = 1e-150
#: A large number in place of an infinite second derivative.
STIFF = 1e14
MAX_AXES = 3
#: Rise of F + W2^2 / (2 tau), relative to max(1, abs(F)), that round-off explains.
ENERGY_SLACK = 1e-13


class _Point(NamedTuple):
    """A potential phi with the quantities that follow from it."""

    phi: np.ndarray
    masses: np.ndarray
    hamiltonian: np.ndarray
    action: float
    energy: float
    objective: float
    pressure: np.ndarray
    defect: np.ndarray
    curvatures: np.ndarray
    gap: float
    residual: float


class LinearizedSolver(InnerSolver):
    r"""JKO steps by linearizing the Wasserstein distance: about the step itself, or once.

    On one and two axes, with ``metric="exact"`` (the default), the distance is linearized again and again about the
    present iterate, along straight geodesics, until

    .. math:: \rho_k = (\mathrm{id} + \tau \nabla p)_\# \rho_{k+1}, \qquad
        p = \frac{\delta F}{\delta \rho}(\rho_{k+1}),

    which is the exact JKO step for every tau, up to :math:`O(h^2)` (`ExactStep`). On one axis the discrete step
    minimizes F plus a discrete distance, has a dual value and a gap, and obeys the energy-dissipation inequality, by
    comparison with the density that it starts from. On two axes masses are moved by the map, none becomes negative,
    their sum is kept, and the inequality is checked; the residual is the square of the missing part of the mass. With
    ``order=2`` the step starts beyond :math:`\rho_k` on the geodesic from :math:`\rho_{k-1}`, where this is known.

    With ``metric="linear"`` and on three axes the step is that of Cances, Gallouet and Todeschini, the convex problem

    .. math::
        \min_{\rho \ge 0} \; F(\rho) + \frac{1}{2\tau} \|\rho_k - \rho\|^2_{\dot H^{-1}_\rho}, \qquad
        \tfrac12 \|\mu\|^2_{\dot H^{-1}_\rho}
        = \sup_\psi \int \psi \, d\mu - \tfrac12 \int \rho\,|(\nabla \psi)^+|^2,

    whose weight is the new density, taken upstream on each face. With the potential :math:`\phi = \psi / \tau`,

    .. math::
        \frac{\rho - \rho_k}{\tau} = \mathrm{div}(\rho \nabla \phi), \qquad
        \phi + \tfrac{\tau}{2} |(\nabla \phi)^+|^2 = \frac{\delta F}{\delta \rho}.

    For a given :math:`\phi` the first equation is a linear system with an M-matrix, triangular in the order of falling
    :math:`\phi`; Newton's method solves the second one. The gap is the sum over cells of :math:`H(r) + H^*(q) - r q`,
    with :math:`q = \phi + \tfrac\tau2 |\nabla\phi|^2 - V - U\rho`. Newton's matrix, symmetric and quasi-definite, is
    factorized in blocks of two in the order of nested dissection. Such a step differs from the exact one by
    :math:`O(\tau^2)` and is of first order in h. With ``order=2`` it starts from
    :math:`\rho_k + s (\rho_k - \rho_{k-1})`, and :math:`\int \tfrac\sigma2 |(\nabla\phi_k)^+|^2 \rho` is added to the
    energy, which cancels the derivative of the metric. Its ``w2_squared`` is the squared weighted norm instead of the
    distance W2.

    Where a step of the first kind does not converge or would raise the energy, also by way of shorter steps, JKO takes
    one of the second kind as a fallback, with which the certificate fails (`substitute`). ``metric`` of a step says of
    which kind it is. Where there is a gap, the residual is the gap over the mass and the
    spread of the energy per mass. A gap is reported where the energy is known to be convex.

    Parameters
    ----------
    parts, grid, settings, tolerance, max_iterations : see `InnerSolver`
        The settings are those of `Linearized`.

    Raises
    ------
    InvalidInput
        If the grid has four axes, or an internal energy is no power.
    ResourceError
        If the factorization would not fit in memory.

    References
    ----------
    C. Cances, T. O. Gallouet and G. Todeschini, A variational finite volume scheme for Wasserstein gradient flows,
    Numer. Math. 146 (2020) 437-480. T. O. Gallouet, A. Natale and G. Todeschini, From geodesic extrapolation to a
    variational BDF2 scheme for Wasserstein gradient flows, Math. Comp. 93 (2024) 2769-2810.
    """

    ORDERS: ClassVar[tuple[int, ...]] = (1, 2)
    TAKES_FUNCTIONALS: ClassVar[bool] = True
    TOLERANCE: ClassVar[float] = 1e-12
    MAX_ITERATIONS: ClassVar[int] = 300

    settings: Linearized

    def __init__(self, parts: EnergyOnGrid, grid: Grid, settings: Linearized, tolerance: float | None = None,
                 max_iterations: int | None = None):
        super().__init__(parts, grid, settings, tolerance, max_iterations)
        if grid.ndim > MAX_AXES:
            raise InvalidInput(f"inner='linearized' factorizes matrices on up to {MAX_AXES} axes, the grid has "
                               f"{grid.ndim}; use FiniteVolume()")
        for factor, term in parts.internal:
            if not isinstance(term, PowerEntropy):
                raise InvalidInput(f"inner='linearized' knows Entropy and PowerEntropy, not {factor:g}*{term!r}; use "
                                   "inner='back-and-forth', or FiniteVolume()")
        used = [(c, term.m) for c, term in parts.internal if c > 0 and isinstance(term, PowerEntropy)]
        self.terms = (parts.diffusion, np.array([f for f, _ in used]), np.array([m for _, m in used]))
        self.bare = replace(parts, potential=np.zeros(grid.shape), operators=[], functionals=[])
        self.internal = parts.diffusion > 0 or len(used) > 0
        self.potential = np.ascontiguousarray(parts.potential.ravel())
        self.base = self.potential
        self.log_reference = np.ascontiguousarray(grid.log_reference.ravel())
        self.graph = graph_of(grid)
        self.system = SaddleSystem(grid, self.graph)
        # Newton's matrix is tried with the interaction's second variation, then without it (of functionals, always).
        self.second_variations: tuple[Product | None, ...] = (self._interaction, None) if parts.operators else (None,)
        self.exact = ExactStep(self) if settings.metric == "exact" and grid.ndim <= EXACT_AXES else None
        self.convex = not parts.functionals and all(is_convex_form(factor, op) for factor, op in parts.operators)

    # ---------------------------------------------------------------- the contract of InnerSolver
    def begin(self, density: Density) -> JKOStep:
        return JKOStep(density, 0.0, self.energy(density.masses), None, 0.0, 0, 0.0,
                       state={"phi": None, "previous": None})

    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        if self.exact is None:
            return self._linear_step(start, tau, guess)
        return self._exact_step(self.exact, start, tau, guess)

    def substitute(self, start: JKOStep, tau: float) -> JKOStep | None:
        return None if self.exact is None else self._linear_step(start, tau)

    def _exact_step(self, exact: ExactStep, start: JKOStep, tau: float, guess: JKOStep | None) -> JKOStep:
        """Return a step along straight geodesics, of infinite residual where it breaks the inequality of energies."""
        state = start.state
        masses = state.get("masses", start.rho.masses.ravel())
        q, previous = state.get("q"), state.get("q_previous")
        starts = [] if q is None or not exact.follows(masses) else [q if previous is None else 2 * q - previous]
        if guess is not None and guess.state.get("q") is not None:
            starts = [guess.state["q"]]
        self.base = self.potential
        # Iterates that diverge are judged and dropped.
        with np.errstate(over="ignore", invalid="ignore"):
            point, iterations = exact.solve(masses, tau, starts)
        if point is None or not math.isfinite(point.residual):
            return JKOStep(start.density, 0.0, start.energy, None, math.inf, iterations, tau, metric="exact",
                           state=state)
        new = point.moved * (masses.sum() / point.moved.sum())
        density = Density(self.grid, new.reshape(self.grid.shape) / self.grid.volumes)
        energy, cost = self.energy(density.masses), exact.cost(masses, point, tau)
        before = self.energy(masses.reshape(self.grid.shape))
        gap = point.gap if self.convex and math.isfinite(point.gap) else None
        obeys = energy + cost / (2 * tau) - before <= max(ENERGY_SLACK * max(1.0, abs(before)), gap or 0.0)
        dissipation = net_flux(point.pressure, new, *self.graph.edges, np.zeros(new.size))
        return JKOStep(density, cost, energy, gap, point.residual if obeys else math.inf, iterations, tau,
                       dissipation=dissipation, metric="exact",
                       state={"phi": None, "previous": None, "q": point.unknown, "q_previous": q,
                              "pressure": point.pressure})

    def _linear_step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        """Return the step of the published scheme, the best iterate."""
        # Nothing of an earlier step may enter, so that a resumed run has the same bits: no old factorization either.
        self.system.usable = self.system.fresh = False
        state = start.state
        masses = state.get("masses", start.rho.masses.ravel())
        phi = state["phi"]
        if guess is not None and guess.state["phi"] is not None:
            starts = [guess.state["phi"]]
        elif phi is None:
            starts = []
        else:
            starts = [phi] if state["previous"] is None else [2 * phi - state["previous"], phi]
        self.base = self.potential + state.get("lift", 0.0)
        point, iterations = self._minimize(masses, tau, starts)
        new = point.masses * (masses.sum() / point.masses.sum())
        density = Density(self.grid, new.reshape(self.grid.shape) / self.grid.volumes)
        slope = point.hamiltonian - point.defect - (self.base - self.potential)
        dissipation = net_flux(slope, new, *self.graph.edges, np.zeros(new.size))
        return JKOStep(density, tau**2 * point.action, point.energy, point.gap if self.convex else None,
                       point.residual, iterations, tau, dissipation=dissipation, metric="linear",
                       state={"phi": point.phi, "previous": phi})

    def extrapolate(self, before: JKOStep, now: JKOStep, share: float) -> JKOStep | None:
        # share = w^2 / (1 + 2 w) for steps of ratio w; the step from here has length tau w (1 + w) / (1 + 2 w).
        ratio = share + math.sqrt(share * share + share)
        sigma = now.tau * ratio * (1 + ratio) / (1 + 2 * ratio)
        old, masses, phi = before.rho.masses.ravel(), now.rho.masses.ravel(), now.state["phi"]
        ahead: np.ndarray | None = np.maximum(masses + share * (masses - old), KEPT * masses)
        if self.exact is not None:
            ahead = beyond(self.exact, old, masses, now.state.get("pressure"), now.tau, share)
        if ahead is None:
            return None
        state = {**now.state, "masses": ahead * (masses.sum() / ahead.sum())}
        if phi is not None:
            state["lift"] = self._hamiltonian(phi, sigma) - phi
        return JKOStep(now.density, 0.0, now.energy, None, 0.0, 0, now.tau, state=state)

    def distance_squared(self, first: JKOStep, second: JKOStep) -> float:
        """Return W2 squared on a line with two ends, else the squared H^-1 norm weighted by the mean of the two."""
        a, b = first.rho.masses.ravel(), second.rho.masses.ravel()
        if self.grid.ndim == 1 and not self.grid.periodic[0]:
            return distance_squared(a, b, np.array(self.grid.edges[0]))
        self.system.assemble(np.zeros(a.size), 0.5 * (a + b), np.full(a.size, STIFF), 1.0)
        if not self.system.factorize():
            return math.nan
        right = np.column_stack((a - b, np.zeros(a.size)))
        return max(0.0, compensated_dot(right[:, 0], self.system.direct(right)[:, 0]))

    # ---------------------------------------------------------------- Newton's method
    def _minimize(self, masses, tau: float, starts: list[np.ndarray]) -> tuple[_Point, int]:
        tolerance, limit = self.tolerance, self.max_iterations
        best, count = None, 0
        if starts:
            first = min((self._look(phi, masses, tau) for phi in starts), key=_rank)
            best, count = self._finish(first, masses, tau, limit, 1)
            if best.residual <= tolerance:
                return best, count
        phi, used = approach(self, masses, tau)
        point, more = self._finish(self._look(phi, masses, tau), masses, tau, limit, ROUNDS)
        return min(point, best or point, key=_residual), count + used + more

    def _finish(self, point: _Point, masses, tau: float, limit: int, rounds: int) -> tuple[_Point, int]:
        """Iterate by Newton's method in potentials and in masses in turn: each is fast where the other is slow."""
        best, count = self._newton(point, masses, tau, min(FEW_ITERATIONS, limit))
        for _ in range(rounds):
            if best.residual <= self.tolerance or count >= limit or not self.internal:
                break
            phi, used = improve(self, masses, tau, best.masses, best.phi)
            new, more = self._newton(self._look(phi, masses, tau), masses, tau, FEW_ITERATIONS)
            best, count = min(best, new, key=_residual), count + used + more
        if not self.internal:
            best, count = self._newton(best, masses, tau, limit)
        return best, count

    def _newton(self, point: _Point, masses, tau: float, iterations: int) -> tuple[_Point, int]:
        best, iteration = point, 0
        while not best.residual <= self.tolerance and iteration < iterations:
            iteration += 1
            new = self._search(point, masses, tau)
            if new is None:
                break
            point = new
            if point.residual < best.residual:
                best = point
        return best, iteration

    def _search(self, point: _Point, masses, tau: float) -> _Point | None:
        """Return the next point along Newton's direction, or None where none lowers the objective or the residual."""
        for second_variation in self.second_variations:
            direction = self._direction(point, tau, second_variation)
            if direction is None:
                continue
            decrease = compensated_dot(point.defect, direction[:, 1])
            if not decrease > 0 and second_variation is not None:
                continue
            share = 1.0
            for _ in range(MAX_HALVINGS):
                new = self._look(point.phi + share * direction[:, 0], masses, tau)
                hidden = HIDDEN * max(1.0, abs(point.objective))
                if decrease > 0 and new.objective <= point.objective - ARMIJO * share * decrease:
                    return new
                if new.residual < 0.9 * point.residual and new.objective <= point.objective + hidden:
                    return new
                share *= 0.5
        return None

    def _direction(self, point: _Point, tau: float, second_variation: Product | None) -> np.ndarray | None:
        system = self.system
        system.assemble(point.phi, point.masses, point.curvatures, tau)
        right = np.zeros((point.phi.size, 2))
        right[:, 1] = -point.defect
        direction = system.solve(right, self.scales(point.masses), second_variation)
        return direction if direction is not None and np.isfinite(direction).all() else None

    def _look(self, phi, start_masses, tau: float) -> _Point:
        """Return the point of a potential: masses, energy and defects that follow from it."""
        n = phi.size
        masses, hamiltonian, slopes, curvatures = np.empty((4, n))
        order = np.argsort(-phi, kind="stable")
        action = transport(phi, order, start_masses, tau, *self.graph.rows, masses, hamiltonian)
        field = self.field(masses)
        if self.internal:
            internal_slopes(masses, self.log_reference, self.floor(masses), self.terms, slopes, curvatures)
        else:
            slopes, curvatures = np.zeros(n), np.zeros(n)
        pressure = hamiltonian - field
        defect = pressure - slopes
        energy = self.energy(masses.reshape(self.grid.shape))
        objective = energy + compensated_dot(masses, self.base - self.potential) + 0.5 * tau * action
        point = _Point(phi, masses, hamiltonian, action, energy, objective, pressure, defect, curvatures, math.inf,
                       math.inf)
        gap, residual = self._judged(point)
        return point._replace(gap=gap, residual=residual)

    def _judged(self, point: _Point) -> tuple[float, float]:
        """Return gap and residual."""
        masses, total = point.masses, float(point.masses.sum())
        spread = self.spread(masses, point.curvatures, point.pressure - point.defect,
                             point.hamiltonian - point.pressure)
        if self.internal:
            gap = excess_energy(masses, point.pressure, self.log_reference, self.floor(masses), self.terms)
            residual = gap / (total * spread)
        else:
            gap = compensated_dot(masses, point.defect.max() - point.defect)
            residual = compensated_dot(masses, point.defect**2) / (total * spread**2)
        return gap, residual if math.isfinite(residual) else math.inf

    def spread(self, masses, curvatures, slopes, field) -> float:
        """Return the scale of energies per mass: the mean of r H'', and the deviations of the field and of H'."""
        stiffness = float((masses**2 * curvatures).sum() / masses.sum())
        return max(stiffness + _deviation(field, masses) + _deviation(slopes, masses), SMALLEST)

    def residual(self, phi, start_masses, tau: float) -> float:
        """Return the residual of a step at a potential."""
        return self._look(phi, start_masses, tau).residual

    def scales(self, masses) -> np.ndarray:
        """Return typical sizes (n, 2) of changes of potential and masses, in which the linear solver measures them."""
        typical = masses + 1e-6 * masses.mean()
        return np.column_stack((1.0 / np.sqrt(typical), np.sqrt(typical)))

    def internal_energy(self, masses: np.ndarray) -> float:
        """Return the internal energies of masses."""
        return self.bare.energy(masses.reshape(self.grid.shape))

    # ---------------------------------------------------------------- nonlocal terms
    def field(self, masses: np.ndarray) -> np.ndarray:
        """Return V + E'(m) at the cells, all but H'; at order 2 with the correction of the metric."""
        self.check_time()
        if not self.is_nonlocal:
            return self.base
        variation = self.nonlocal_variation(masses.reshape(self.grid.shape))
        return self.base + (0.0 if variation is None else variation.ravel())

    def response(self, change: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Return the change of the field with a change of the masses m: E''(m) applied to it.

        Of the interaction it is U times the change; derivatives of functionals are differenced.
        """
        # As a difference of fields, whose rounding errors are those that the residual has.
        total = self.base + self._interaction(change) - self.base
        size = float(np.abs(change).max())
        if self.parts.functionals and size > 0:
            shape, step = self.grid.shape, DIFFERENCE * float(masses.max()) / size
            ahead = np.maximum(masses + step * change, 0.0).reshape(shape)
            for factor, term in self.parts.functionals:
                slope = term.first_variation(ahead) - term.first_variation(masses.reshape(shape))
                total = total + (factor / step) * slope.ravel()
        return total

    def nonlocal_remainder(self, masses: np.ndarray, field: np.ndarray) -> float:
        r"""Return :math:`E(m) - \langle E'(m), m \rangle` of the nonlocal energy, from the field at m."""
        if not self.is_nonlocal:
            return 0.0
        if self.parts.functionals:
            return self._nonlocal_energy(masses) - compensated_dot(masses, field - self.base)
        return -0.5 * compensated_dot(masses, field - self.base)

    def nonlocal_divergence(self, masses: np.ndarray, others: np.ndarray) -> float:
        r"""Return :math:`E(m) - E(n) - \langle E'(n), m - n \rangle` of the nonlocal energy."""
        if not self.is_nonlocal:
            return 0.0
        change = masses - others
        if self.parts.functionals:
            rise = self._nonlocal_energy(masses) - self._nonlocal_energy(others)
            return rise - compensated_dot(change, self.field(others) - self.base)
        return 0.5 * compensated_dot(change, self.base + self._interaction(change) - self.base)

    def _nonlocal_energy(self, masses: np.ndarray) -> float:
        """Return the energy of interactions and functionals."""
        shaped = masses.reshape(self.grid.shape)
        total = 0.5 * compensated_dot(masses, self._interaction(masses))
        return total + sum(factor * term.energy(shaped) for factor, term in self.parts.functionals)

    def _interaction(self, masses: np.ndarray) -> np.ndarray:
        """Return U m, flat."""
        product = self.parts.interaction(masses.reshape(self.grid.shape))
        return np.zeros(masses.size) if product is None else product.ravel()

    # ---------------------------------------------------------------- small quantities
    def _hamiltonian(self, phi, tau: float) -> np.ndarray:
        masses, hamiltonian = np.empty((2, phi.size))
        transport(phi, np.argsort(-phi, kind="stable"), np.zeros(phi.size), tau, *self.graph.rows, masses, hamiltonian)
        return hamiltonian

    def slopes(self, masses: np.ndarray) -> np.ndarray:
        """Return H' of masses."""
        slopes, curvatures = np.empty((2, masses.size))
        floor = self.floor(masses)
        internal_slopes(np.maximum(masses, floor), self.log_reference, floor, self.terms, slopes, curvatures)
        return slopes

    def floor(self, masses) -> float:
        return FLOOR * float(masses.sum()) / masses.size


def _rank(point: _Point) -> float:
    return point.objective if math.isfinite(point.objective) else math.inf


def _residual(point: _Point) -> float:
    return point.residual


def _deviation(values, masses) -> float:
    total = masses.sum()
    mean = (masses * values).sum() / total
    return math.sqrt(max(0.0, float((masses * (values - mean) ** 2).sum() / total)))
