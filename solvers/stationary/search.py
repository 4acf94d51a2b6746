r"""Stationary states of a free energy on a grid: :math:`H'(\rho_*/w) + V + U \rho_*` is constant on the support."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from wgflow.audit.open_ends import Outside, goes_on, judge_outside, mass_outside
from wgflow.calls.explained import explained
from wgflow.certificate import boundary_mass
from wgflow.checks import check_count, check_positive, kind_of
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term, not_an_energy
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, WGFlowWarning
from wgflow.gradients import probe_atoms
from wgflow.grids import Grid
from wgflow.progress import Progress, Reporter, check_progress

from .components import fill, find_wells, support_components
from .dual_newton import Factors, default_starts, factorize, is_convex, least_curvature, maximize_dual
from .fixed_point import descend, descend_by_stages, find_root, not_told
from .gibbs import LARGEST_FLOOR, GibbsProblem, Iterate
from .internal_laws import InternalProblem
from .result import SAME_STATE, Stationary, distinct

__all__ = ["Stationary", "stationary", "stationary_branches"]

METHODS = ("auto", "dual", "fixed-point")
#: Least curvature, in units of the internal energy's, above which a state counts as stable; a rotation gives 0.
NEUTRAL = 1e-6
#: Relative difference of the energies of a state and a rotation of it.
SAME_ENERGY = 1e-9
#: Relative difference of masses that counts as rounding.
SAME_MASS = 1e-9
#: Searches by deflation from one start.
DEFLATIONS = 3
#: Newton steps of a search for a root; a search that needs more is given up.
ROOT_STEPS = 60
#: Rounds in which the wells of Psi and the law in them are found in turn,
WELL_ROUNDS = 40
#: until the law changes by less than this part of the mass.
SAME_WELLS = 1e-10


@explained("wgflow.stationary(energy, grid)")
def stationary(energy, grid, *, rho0=None, method="auto", tolerance=1e-13, max_iterations=500, mass=None,
               progress: Progress = False) -> Stationary:
    r"""Return the stationary state of a flow, the law that reproduces itself:

    .. math:: H'(\rho_*/w) + \Psi(\rho_*) = c \text{ where } \rho_* > 0, \quad \ge c \text{ elsewhere},
              \qquad \Psi(\rho) = V + U \rho,

    for the free energy of the grid itself, the one that FiniteVolume lowers with fluxes of second order, with its cell
    masses as unknowns. With the entropy alone it is :math:`\rho_* = M w\,e^{-\beta \Psi(\rho_*)} / Z`; with power
    entropies (m > 1) alone its support is compact.

    Beside an interaction :math:`\Psi` may hold the derivative :math:`\sum_k \partial_k \Phi\,F_k` of a convex function
    of moments (`MomentEnergy`). Where the interaction energy is convex on laws of one mass (every network energy, any
    positive definite kernel), F has one minimum, and ``gap`` bounds the distance of the energy to it from the dual
    problem. Elsewhere there can be several: with ``rho0`` the energy is lowered from there; without, from several
    starts, and the lowest state found is returned (`stationary_branches` returns all).

    A compact support can fall into components, which exchange no mass at rest. Without ``rho0`` they have one
    constant c, as at a minimum of F. With ``rho0`` each well of Psi keeps the mass that ``rho0`` has in it, and a
    constant of its own, unless it is filled over a pass: then it shares its mass with the next well, as communicating
    vessels do. (The flow from ``rho0`` may carry mass over a pass on its way; a run of FiniteVolume shows it.)

    Parameters
    ----------
    energy : Term or FreeEnergy
        With an internal energy: an entropy of finite beta, a PowerEntropy, an InternalEnergy, or several.
    grid : Grid
    rho0 : Density, optional
        Where to start, and how the mass is shared among components. A start with a symmetry of the energy keeps it,
        and may end in a saddle (``stable`` says so).
    method : {"auto", "dual", "fixed-point"}
        ``"dual"``: Newton's method on the dual of an interaction of low rank (found numerically for any form of kernel,
        up to rank 96), in stages of falling internal energy; if its signs are mixed the dual has a saddle, and Newton's
        method on the self-consistency equation finds the stationary state near ``rho0``, stable or not.
        ``"fixed-point"``: the damped fixed-point iteration accelerated by conjugate gradients, with F falling at every
        step; for any interaction. ``"auto"``: the dual where it is concave, else the fixed point.
    tolerance : float
        Bound of the residual. Where rounding does not allow it (beta times the size of Psi above 1e2, say), the bound
        is the rounding error.
    max_iterations : int
        Newton steps from one start.
    mass : float, optional
        The mass M; by default that of ``rho0``, or 1.
    progress : bool or callable
        As in `wgflow.solve`; a function is called with the Newton step and ``max_iterations``.

    Returns
    -------
    Stationary

    Raises
    ------
    InvalidInput
        If there is no internal energy, a term of a kind of its own, or an argument breaks a rule.
    ConvergenceError
        If the tolerance is missed; ``error.partial`` is the best state.

    Warns
    -----
    WGFlowWarning
        If the coordinates of a network model end where mass lies: the box, not the equation, then holds the state.

    References
    ----------
    S. Mei, A. Montanari and P.-M. Nguyen, A mean field view of the landscape of two-layer neural networks, PNAS 115
    (2018) E7665-E7671 (uniqueness and the fixed-point equation).

    Examples
    --------
    >>> import wgflow as wg
    >>> from wgflow.solvers.stationary import stationary
    >>> grid = wg.Grid((-4, 4), cells=200)
    >>> well, attraction = wg.Potential(lambda x: x**4 / 4 - x**2 / 2), wg.Interaction(lambda x: x**2 / 2)
    >>> star = stationary(wg.Entropy(beta=4.0) + well + attraction, grid)
    >>> print(f"{abs(star.density.mean()):.3f} {star.energy:.4f} {star.stable}")
    0.788 -0.1935 True
    """
    search = _Search(energy, grid, mass, rho0, tolerance, max_iterations)
    if method not in METHODS:
        raise InvalidInput(f"method={method!r}: need one of {', '.join(map(repr, METHODS))}")
    start = None if rho0 is None else search.start_masses(rho0, "rho0")
    with search.telling("stationary", progress):
        return search.one(method, start)


@explained("wgflow.stationary_branches(energy, grid)")
def stationary_branches(energy, grid, *, starts=None, tolerance=1e-13, max_iterations=200, mass=None,
                        max_branches=32, progress: Progress = False) -> list[Stationary]:
    """Return all stationary states that a search finds, sorted by energy, each labeled stable or unstable.

    The search lowers F and solves the self-consistency equation from every start, follows the unstable direction of
    each saddle both ways down, looks for saddles between each two minima, and looks again with the states already
    found divided out (deflation). States that a symmetry moves freely, such as the rotations of a cluster on a circle,
    are one branch, represented by one member. A convex F provably has one state; otherwise no search can prove that it
    is complete. Components of compact supports have one constant c here (`stationary` with ``rho0`` has the others),
    unless F is convex: then there is one state for each start.

    Parameters
    ----------
    energy, grid, tolerance, mass, progress
        As in `stationary`.
    starts : sequence of Density, optional
        Where to start; by default the Gibbs law of the potential, the reference measure, lumps at several places, and
        tilts along the leading features of the interaction.
    max_iterations : int
        Newton steps of one search.
    max_branches : int
        The search ends when it has found this many.

    Returns
    -------
    list of Stationary
        With at least one entry.

    Raises
    ------
    InvalidInput
        As in `stationary`.
    ConvergenceError
        If no start leads to a state within the tolerance; ``error.partial`` is the best state.
    """
    check_count("max_branches", max_branches)
    if starts is not None:
        if isinstance(starts, Density) or not isinstance(starts, (list, tuple)):
            raise InvalidType("starts must be a list of wgflow.Density")
        if not starts:
            raise InvalidInput("starts is empty; give densities, or None for the default starts")
    first = starts[0] if starts else None
    search = _Search(energy, grid, mass, first, tolerance, max_iterations)
    given = None if starts is None else [search.start_masses(rho, f"starts[{k}]") for k, rho in enumerate(starts)]
    with search.telling("stationary branches", progress):
        if not search.convex:
            return search.all(given, max_branches)
        if given is None:
            return [search.one("auto", None)]
        several = given if search.problem.compact else given[:1]
        return distinct([search.one("auto", start) for start in several])


class _Search:
    """Searches for stationary states of one problem, whose arguments have been checked."""

    def __init__(self, energy, grid, mass, rho0, tolerance, max_iterations):
        if isinstance(energy, Grid) and isinstance(grid, Term):
            raise InvalidType("energy and grid are swapped: stationary(energy, grid)")
        if not isinstance(energy, Term):
            raise not_an_energy(energy)
        if not isinstance(grid, Grid):
            raise InvalidType(f"grid must be a wgflow.Grid, got {kind_of(grid)}")
        if rho0 is not None and not isinstance(rho0, Density):
            raise InvalidType(f"rho0 must be a wgflow.Density, got {type(rho0).__name__}")
        check_positive("tolerance", tolerance)
        check_count("max_iterations", max_iterations)
        check_positive("mass", mass, allow_none=True)
        self.energy = energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])
        self.grid, self.tolerance, self.budget = grid, tolerance, max_iterations
        if any(grid.periodic):
            self.energy.check_atoms(probe_atoms(grid))
        on_grid = self.energy.assemble(grid)
        on_grid.check_terms("the search for stationary states", internal=True, moments=True)
        nonlinear = any(factor > 0 for factor, _ in on_grid.internal)
        if not nonlinear and (not on_grid.diffusion > 0 or math.isinf(1.0 / on_grid.diffusion)):
            raise InvalidInput("beta=infinity: without an entropy or another internal energy a stationary state is a "
                               "set of atoms, not a density, and the infimum of F need not be attained; add "
                               "Entropy(beta), or, for a network model, ask model.minimum_risk() or the stationary "
                               "deltas of the model")
        self.mass = float(mass) if mass is not None else 1.0 if rho0 is None else rho0.mass
        self.problem = InternalProblem(on_grid, self.mass) if nonlinear else GibbsProblem(on_grid, self.mass)
        self.uniform = self.problem.compact and grid.log_weight is None and not np.ptp(self.problem.potential) and all(
            operator.transform is not None for _, operator in on_grid.operators)
        self.factors: Factors | None = factorize(self.problem) if on_grid.operators else None
        self.convex = True if not on_grid.operators else is_convex(self.problem, self.factors)
        for factor, term in on_grid.of_moments:
            if not (self.convex and term.phi.convex and factor > 0.0):
                raise InvalidInput(f"{term!r}: the search for stationary states knows functions of moments where they "
                                   "and the interaction are convex, and here they are not known to be; run the flow to "
                                   "rest with FiniteVolume(scheme='midpoint')")
        self.tell = not_told

    @contextmanager
    def telling(self, label: str, progress: Progress) -> Iterator[None]:
        """Tell the Newton steps of the searches in the block."""
        with Reporter(label, check_progress(progress), estimate=False) as report:
            self.tell = lambda step, residual: report(step, self.budget, f"Newton step {step}, residual {residual:.1e}")
            yield

    def start_masses(self, rho, name: str) -> np.ndarray:
        """Return the masses of a start, flat."""
        if not isinstance(rho, Density):
            raise InvalidType(f"{name} must be a wgflow.Density, got {type(rho).__name__}")
        if rho.grid != self.grid:
            raise InvalidInput(f"{name} lives on {rho.grid}, not on the grid {self.grid}; make it on the same grid")
        if abs(rho.mass - self.mass) > SAME_MASS * self.mass:
            raise InvalidInput(f"{name} has mass {rho.mass:g}, the stationary state is to have {self.mass:g}; give "
                               "densities of one mass (rho.normalized()), or leave mass out")
        return rho.masses.ravel()

    # ---------------------------------------------------------------- one state
    def one(self, method: str, masses: np.ndarray | None) -> Stationary:
        """Return the state that `stationary` returns, from the masses of a start."""
        problem = self.problem
        start = None if masses is None else problem.q_of(masses)
        if masses is None or not isinstance(problem, InternalProblem) or not problem.compact:
            return self.checked(*self.solve(method, start))
        psi, steps = problem.potential + problem.interaction(masses) + problem.of_moments(masses), 0
        try:
            for _ in range(WELL_ROUNDS):
                wells = fill(problem, psi, find_wells(self.grid, psi, masses))
                self.problem = problem.parted(wells.labels, wells.masses)
                target = self.problem.law_of(psi).masses
                if steps and np.abs(target - masses).sum() <= SAME_WELLS * self.mass:
                    break
                state, more, name = self.solve(method, start)
                masses, start, steps = state.masses, state.q, steps + max(1, more)
                psi = problem.potential + state.field
            else:
                raise ConvergenceError(f"the wells of Psi still change after {WELL_ROUNDS} rounds; give a rho0 nearer "
                                       "to a state at rest, or none for the minimum of F", reason="tolerance")
            return self.checked(state, steps, name)
        finally:
            self.problem = problem

    def solve(self, method: str, start: np.ndarray | None) -> tuple[Iterate, int, str]:
        """Return a state, the number of Newton steps and the method that found it."""
        problem, goal = self.problem, self.tolerance
        if not problem.on_grid.moves:
            return problem.evaluate(problem.gibbs(problem.potential)), 0, "closed form"
        ranked = self.factors is not None or not problem.on_grid.operators
        if method == "dual" and not ranked:
            raise InvalidInput("method='dual': the interaction has no low-rank form (rank 96, to rounding) on this "
                               "grid; use method='fixed-point' or 'auto'")
        if ranked and self.convex and method != "fixed-point":
            law = problem.law_of(problem.potential) if start is None else problem.law(start)
            q, steps = maximize_dual(problem, self.factors, law.masses, self.budget, self.tell)
            state, more = descend(problem, problem.evaluate(q), goal, self.budget, self.tell)
            return state, steps + more, "dual"
        if method == "dual":
            q = problem.gibbs(problem.potential) if start is None else start
            return *find_root(problem, problem.evaluate(q), goal, self.budget, (), self.tell), "root"
        if self.convex:
            return *descend_by_stages(problem, start, goal, self.budget, self.tell), "fixed-point"
        if start is not None:
            return *descend(problem, problem.evaluate(start), goal, self.budget, self.tell), "fixed-point"
        ends = [self.down(problem.evaluate(q)) for q in default_starts(self.problem, self.factors)]
        reached = [end for end in ends if self.good(end[0])]
        best = min(reached or ends, key=lambda end: end[0].energy if reached else end[0].residual)
        return *best, "fixed-point"

    def down(self, state: Iterate) -> tuple[Iterate, int]:
        """Lower F to a minimum: a saddle is left along its unstable direction, to the lower side."""
        state, steps = descend(self.problem, state, self.tolerance, self.budget, self.tell)
        for _ in range(3):
            if not self.good(state):
                break
            ends = self.leave(state)
            if not ends:
                break
            state, more = min(ends, key=lambda end: end[0].energy)
            steps += more
        return state, steps

    def leave(self, state: Iterate) -> list[tuple[Iterate, int]]:
        """Return where F leads from a saddle, to either side along its most unstable direction; empty at a minimum."""
        curvature, mode = least_curvature(self.problem, state, self.factors)
        if not curvature < -NEUTRAL:
            return []
        mode = mode / np.sqrt(self.problem.mean(state, mode * mode))
        ends = []
        for side in (0.5, -0.5):
            while abs(side) > 1e-4:
                trial = self.problem.evaluate(state.q + side * mode)
                if trial.energy < state.energy:
                    ends.append(descend(self.problem, trial, self.tolerance, self.budget, self.tell))
                    break
                side *= 0.5
        return ends

    # ---------------------------------------------------------------- several states
    def all(self, starts, limit: int) -> list[Stationary]:
        """Return the states that `stationary_branches` returns."""
        found: list[tuple[Iterate, int, str]] = []
        best: Iterate | None = None
        short = min(self.budget, ROOT_STEPS)
        starts = default_starts(self.problem, self.factors) if starts is None else map(self.problem.q_of, starts)
        first = [self.problem.evaluate(q) for q in starts]

        def add(end: tuple[Iterate, int], method: str) -> bool:
            nonlocal best
            state, steps = end
            if best is None or state.residual < best.residual:
                best = state
            if len(found) >= limit or not self.good(state) or any(self.same(state, other) for other, _, _ in found):
                return False
            found.append((state, steps, method))
            for down in self.leave(state):
                add(down, "fixed-point")
            return True

        for state in first:
            add(descend(self.problem, state, self.tolerance, self.budget, self.tell), "fixed-point")
            add(find_root(self.problem, state, self.tolerance, short, (), self.tell), "root")
        passes = [self.problem.evaluate(0.5 * (a[0].q + b[0].q))
                  for a, b in itertools.islice(itertools.combinations(found, 2), limit)]
        for state in [*passes, *first]:
            for _ in range(DEFLATIONS):
                known = [other for other, _, _ in found]
                if not add(find_root(self.problem, state, self.tolerance, short, known, self.tell), "root"):
                    break
        if not found and best is not None:
            raise self.failure(best, self.budget, "fixed-point")
        return sorted((self.result(*entry) for entry in found), key=lambda branch: branch.energy)

    def same(self, a: Iterate, b: Iterate) -> bool:
        """Return whether two states are one, or moved into each other by a symmetry that leaves both free to move."""
        square = float(((np.sqrt(a.masses) - np.sqrt(b.masses)) ** 2).sum()) / self.mass
        if square <= SAME_STATE**2:
            return True
        if self.uniform:
            # Where nothing but walls tells places apart, a state of compact support can stand anywhere.
            shapes = np.sqrt(np.sort(a.masses)) - np.sqrt(np.sort(b.masses))
            if float((shapes**2).sum()) <= SAME_STATE**2 * self.mass:
                return True
        if abs(a.energy - b.energy) > SAME_ENERGY * (abs(a.energy) + self.problem.unit * self.mass):
            return False
        return all(abs(least_curvature(self.problem, state, self.factors)[0]) <= NEUTRAL for state in (a, b))

    # ---------------------------------------------------------------- results
    def good(self, state: Iterate) -> bool:
        """Return whether a state is within the tolerance, or within what rounding allows."""
        return state.residual <= max(self.tolerance, state.floor)

    def checked(self, state: Iterate, steps: int, method: str) -> Stationary:
        """Return the result; raise ConvergenceError with it if it is not good."""
        if not self.good(state):
            raise self.failure(state, steps, method)
        return self.result(state, steps, method)

    def failure(self, state: Iterate, steps: int, method: str) -> ConvergenceError:
        """Return the error for a missed tolerance, with the best state."""
        fix = ("rounding errors of Psi are too large beside the internal energy: lower beta, or scale the other terms "
               "down" if state.floor >= LARGEST_FLOOR else
               "start nearer (rho0=), raise max_iterations, or loosen the tolerance")
        error = ConvergenceError(
            f"residual {state.residual:.2e} after {steps} iterations ({method}), tolerance={self.tolerance:g} at "
            f"beta={self.energy.beta:g}; {fix}", reason="tolerance")
        error.partial = self.result(state, steps, method)
        return error

    def result(self, state: Iterate, steps: int, method: str) -> Stationary:
        """Return a state with its certificate."""
        problem = self.problem
        rho = Density(self.grid, state.masses.reshape(self.grid.shape) / self.grid.volumes)
        gap = dual = None
        curvature = 1.0
        if self.convex:
            gap = problem.gap(state)
            dual = problem.dual_value(state)
        else:
            curvature = least_curvature(problem, state, self.factors)[0]
        stable = None if math.isnan(curvature) else curvature >= -NEUTRAL
        if state.residual <= self.tolerance:
            message = f"the residual is within tolerance={self.tolerance:g} ({method}, {steps} iterations)"
        elif self.good(state):
            message = (f"the residual is at the rounding error {state.floor:.1e} of beta Psi, above "
                       f"tolerance={self.tolerance:g} ({method}, {steps} iterations)")
        else:
            message = f"the tolerance={self.tolerance:g} was missed ({method}, {steps} iterations)"
        held = boundary_mass(rho.masses, self.grid)
        outside = mass_outside(problem.on_grid, rho.masses) if any(map(any, self.grid.open_ends)) else None
        cut = self.box_words(outside)
        if cut:
            warnings.warn(cut, WGFlowWarning, stacklevel=4)
            message += f"; but {cut}"
        parts = support_components(self.grid, state.masses) if problem.compact else (self.mass,)
        level = ""
        if problem.compact:
            level = ("a constant of the first variation for each well of Psi, with the mass that rho0 has there; F is "
                     "compared with laws of these masses" if problem.groups is not None else
                     "one constant of the first variation on all of it, as at a minimum of F; rho0 would decide the "
                     "masses of components")
        return Stationary(rho, float(self.energy(rho)), gap, dual, state.residual, steps, method, self.energy.beta,
                          stable, curvature, message, held, parts, level, None if outside is None else outside.part,
                          goes_on(self.energy))

    def box_words(self, outside: Outside | None) -> str:
        """Return what is wrong where ends that stand for infinity cut the state off; else nothing."""
        reduced = goes_on(self.energy)
        if outside is None or judge_outside(outside.part, reduced):
            return ""
        box = " x ".join(f"[{low:g}, {high:g}]" for low, high in self.grid.bounds)
        return (f"grid: an estimated part {outside.part:.1e} of the mass of the stationary state lies beyond the box "
                f"{box}, most of it at {outside.end}; " + (
                    "these coordinates have no walls there, and the state and its energy are those of the box: enlarge "
                    "it; model.grid(cells, beta=beta, ridge=ridge) chooses one" if reduced else
                    "the state and its energy are those of the box: enlarge it, or say boundary='no-flux' if the "
                    "domain ends there"))
