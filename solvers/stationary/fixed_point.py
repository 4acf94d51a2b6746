r"""Self-consistent laws :math:`\rho = M w e^{-\beta \Psi(\rho)} / Z` on a grid: the equation and two ways to solve it.

A law is held as the logarithms of its cell masses m. With the map :math:`B(m) = M\,w\,e^{-\beta(V + U m)} / Z` and

.. math:: x = \log B(m) - \log m, \qquad \langle f, g\rangle = \sum_i m_i f_i g_i / M,

a stationary state is x = const, and the derivative of F along :math:`m \circ v` is :math:`-\beta^{-1} M \langle x, v
\rangle` for v of mean 0. Minimizing F and solving x = 0 have the same Newton equation :math:`T v = x`, where
:math:`T v = v + \beta U (m v)` less its mean, symmetric in this inner product, is the Hessian of F in units of the
entropy's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput

__all__ = ["GibbsProblem", "Iterate", "descend", "descend_along_beta", "find_root"]

#: Unavoidable rounding error of log m, in units of 1 + beta (|V| + |U rho| + scale of U) + |log m|.
ROUNDING = 16 * np.finfo(float).eps
#: Where beta times the range of Psi, times eps, exceeds this, rounding errors dominate a Gibbs law.
LARGEST_SPAN = 1e-2
#: A residual above this counts as missed, however large the rounding error.
LARGEST_FLOOR = 1e-6
#: Part of the predicted decrease that a step must bring (Armijo).
SUFFICIENT = 1e-4
#: Halvings after which a step is given up.
HALVINGS = 40
#: Steps that a search by deflation may take where the line search fails.
LEAPS = 6
#: Iterations of conjugate gradients in one Newton step,
CG_STEPS = 200
#: and of MINRES, which an indefinite T needs more of.
MINRES_STEPS = 400
#: Cells with less than this part of the mass hardly count in the inner product; their v comes from the equation itself.
UNSEEN = 1e-8
#: After this many steps that lower neither F nor the residual beyond rounding, a damped fixed-point step is tried.
PATIENCE = 6
#: A path in beta starts where the Gibbs weights span this many e-foldings,
FIRST_SPAN = 10.0
#: and beta grows by at most this factor from stage to stage.
GROWTH = 8.0
#: Residual at which each stage of the path but the last ends.
STAGE_RESIDUAL = 1e-2
#: Doublings of a step that goes down along a direction of negative curvature.
DOUBLINGS = 8


class Iterate(NamedTuple):
    """A law, with the quantities that the methods need.

    ``log_masses``, ``masses``, ``field`` (U m) and ``step`` (x, of mean 0) are flat arrays over the cells;
    ``residual`` is the L1 distance of m and B(m) and ``floor`` its rounding error, both relative to the mass;
    ``energy`` is F and ``divergence`` the relative entropy of m to B(m); ``slack`` is the rounding error of F.
    """

    log_masses: np.ndarray
    masses: np.ndarray
    field: np.ndarray
    step: np.ndarray
    residual: float
    floor: float
    energy: float
    slack: float
    divergence: float


class GibbsProblem:
    """The self-consistency problem of a free energy on a grid, for laws of a given mass; arrays are flat.

    Parameters
    ----------
    on_grid : EnergyOnGrid
        With diffusion > 0.
    mass : float
    """

    def __init__(self, on_grid: EnergyOnGrid, mass: float):
        self.on_grid, self.mass = on_grid, mass
        self.diffusion, self.beta = on_grid.diffusion, 1.0 / on_grid.diffusion
        self.potential = on_grid.potential.ravel()
        self.log_reference = on_grid.grid.log_reference.ravel()
        self.size = on_grid.grid.size
        # The rounding error of an FFT has the size of the whole kernel's field, also where U m itself is small.
        self.scale = float(np.abs(self.interaction(np.full(self.size, mass / self.size))).max())
        span = self.beta * (float(np.ptp(self.potential)) + self.scale)
        if not span * np.finfo(float).eps < LARGEST_SPAN:
            raise InvalidInput(f"beta={self.beta:g}: beta times the range of V + U rho is {span:.1e}, beyond what "
                               "floats resolve; scale the energy down, or ask for the noiseless limit "
                               "(model.minimum_risk())")

    def interaction(self, masses: np.ndarray) -> np.ndarray:
        """Return U m, flat."""
        field = self.on_grid.interaction(masses.reshape(self.on_grid.grid.shape))
        return np.zeros(self.size) if field is None else field.ravel()

    def gibbs(self, psi: np.ndarray) -> np.ndarray:
        """Return the logarithms (normalized) of the masses of the Gibbs law of a potential."""
        return self.normalized(self.log_reference - self.beta * psi)[0]

    def normalized(self, log_masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the log masses shifted to the problem's mass, and the masses."""
        log_masses = log_masses - log_masses.max()
        masses = np.exp(log_masses)
        total = masses.sum() / self.mass
        return log_masses - np.log(total), masses / total

    def evaluate(self, log_masses: np.ndarray) -> Iterate:
        """Return the state with these log masses, which need not be normalized."""
        log_masses, m = self.normalized(log_masses)
        field = self.interaction(m)
        target = self.gibbs(self.potential + field)
        x = target - log_masses
        with np.errstate(over="ignore", invalid="ignore"):
            excess = np.where(np.abs(x) < 0.5, m * (np.expm1(x) - x), np.exp(target) - m - m * x)
        level = np.abs(self.potential) + np.abs(field)
        logs = log_masses - self.log_reference
        terms = m * (self.potential + 0.5 * field) + self.diffusion * m * logs
        rounding = (m * (self.beta * level + np.abs(logs))).sum() / self.mass
        return Iterate(
            log_masses, m, field, x - (m * x).sum() / self.mass,
            residual=float(np.abs(np.exp(target) - m).sum()) / self.mass,
            floor=min(LARGEST_FLOOR, ROUNDING * float(1.0 + rounding + self.beta * self.scale)),
            energy=float(terms.sum()),
            slack=ROUNDING * float((m * (level + self.diffusion * np.abs(logs))).sum() + self.mass * self.scale),
            divergence=float(excess.sum()),
        )

    def dual_value(self, state: Iterate) -> float:
        """Return the lower bound of F that a state gives where the interaction energy is convex."""
        target = self.log_reference - self.beta * (self.potential + state.field)
        top = float(target.max())
        log_partition = top + float(np.log(np.exp(target - top).sum()))
        own = 0.5 * float((state.masses * state.field).sum())
        return self.diffusion * self.mass * (float(np.log(self.mass)) - log_partition) - own

    def curved(self, state: Iterate, v: np.ndarray) -> np.ndarray:
        """Return T v."""
        push = self.beta * self.interaction(state.masses * v)
        return v + push - self.mean(state, push)

    def mean(self, state: Iterate, f: np.ndarray) -> float:
        """Return the mean of f under the law."""
        return float((state.masses * f).sum()) / self.mass


def descend(problem: GibbsProblem, state: Iterate, tolerance: float, budget: int) -> tuple[Iterate, int]:
    """Lower F to a stationary state: the damped fixed-point iteration, accelerated by conjugate gradients.

    The direction is the Newton step by conjugate gradients from 0, whose first iterate is the fixed-point step x. They
    stop at negative curvature, with a direction of descent; a line search chooses the length. Where steps in log m
    fail, one damped fixed-point step is taken. The caller compares the residual of the result with the tolerance.

    Returns
    -------
    state, iterations
    """
    best, idle = state, 0
    for iteration in range(budget):
        if state.residual <= max(tolerance, state.floor):
            return _polished(problem, state, _newton_step(problem, state)[0]), iteration
        direction, negative = _newton_step(problem, state)
        new = _line_search(problem, state, direction, negative)
        if new is None:
            new = _line_search(problem, state, state.step, False)
        if new is None or idle >= PATIENCE:
            new, idle = _mix(problem, state), 0
        if new is None:
            return best, iteration
        idle = 0 if new.residual < 0.9 * best.residual or new.energy < state.energy - 10 * state.slack else idle + 1
        best = new if new.residual < best.residual or new.energy < best.energy - best.slack else best
        state = new
    return best, budget


def descend_along_beta(problem: GibbsProblem, start: np.ndarray | None, tolerance: float,
                       budget: int) -> tuple[Iterate, int]:
    """Lower a convex F along a path in beta, each stage from the potential Psi of the one before; see `descend`.

    Parameters
    ----------
    start : array, shape (n,), optional
        Log masses whose Psi begins the path; by default Psi = V.
    """
    psi = problem.potential + (0.0 if start is None else problem.evaluate(start).field)
    span = float(np.ptp(psi))
    beta = min(problem.beta, FIRST_SPAN / span) if span > 0 else problem.beta
    steps = 0
    while beta < problem.beta:
        stage = GibbsProblem(replace(problem.on_grid, diffusion=1.0 / beta), problem.mass)
        state, more = descend(stage, stage.evaluate(stage.gibbs(psi)), STAGE_RESIDUAL, budget)
        steps += more
        psi = problem.potential + state.field
        beta = min(problem.beta, GROWTH * beta)
    state, more = descend(problem, problem.evaluate(problem.gibbs(psi)), tolerance, budget)
    return state, steps + more


def _newton_step(problem: GibbsProblem, state: Iterate) -> tuple[np.ndarray, bool]:
    """Return T^-1 x by conjugate gradients in the law's inner product, and whether they met negative curvature."""
    weights = state.masses / problem.mass
    r = state.step
    v, p = np.zeros_like(r), r
    rr = first = float((weights * r * r).sum())
    goal = min(1e-2, first) * first  # squared: the relative residual of a step is at most 0.1 and falls with x
    for _ in range(CG_STEPS):
        Tp = problem.curved(state, p)
        curvature = float((weights * p * Tp).sum())
        if not curvature > 1e-13 * float((weights * p * p).sum()):
            return (v, True) if v.any() else (state.step, True)
        v = v + (rr / curvature) * p
        r = r - (rr / curvature) * Tp
        previous, rr = rr, float((weights * r * r).sum())
        if rr <= goal:
            break
        p = r + (rr / previous) * p
    return np.where(weights < UNSEEN, v + r, v), False


def _line_search(problem: GibbsProblem, state: Iterate, direction: np.ndarray, stretch: bool) -> Iterate | None:
    """Return the first of the steps 1, 1/2, ... that lowers F enough (or, at rounding level, the residual), or None."""
    slope = problem.diffusion * problem.mass * problem.mean(state, state.step * direction)
    if not slope > 0:
        return None
    size = 1.0
    for _ in range(HALVINGS):
        trial = problem.evaluate(state.log_masses + size * direction)
        if trial.energy < state.energy and trial.energy <= state.energy - SUFFICIENT * size * slope:
            break
        if trial.energy <= state.energy + state.slack and trial.residual < 0.9 * state.residual:
            return trial
        size *= 0.5
    else:
        return None
    for _ in range(DOUBLINGS if stretch and size == 1.0 else 0):
        size *= 2.0
        further = problem.evaluate(state.log_masses + size * direction)
        if not further.energy < trial.energy:
            break
        trial = further
    return trial


def _mix(problem: GibbsProblem, state: Iterate) -> Iterate | None:
    """Return the damped fixed-point step (1 - a) m + a B(m) with the first a = 1/2, 1/4, ... that lowers F, or None.

    It brings mass into cells whose mass has underflowed, which no step in log m of moderate size can.
    """
    image, _ = problem.normalized(state.log_masses + state.step)
    slope = problem.diffusion * float(((np.exp(image) - state.masses) * state.step).sum())
    size = 0.5
    while SUFFICIENT * size * slope > state.slack:
        trial = problem.evaluate(np.logaddexp(state.log_masses + np.log1p(-size), image + np.log(size)))
        if trial.energy <= state.energy - SUFFICIENT * size * slope:
            return trial
        size *= 0.5
    return None


def find_root(problem: GibbsProblem, state: Iterate, tolerance: float, budget: int, known=()) -> tuple[Iterate, int]:
    r"""Find a root by Newton's method, also at a saddle of F; states already known are divided out.

    The residual is multiplied by :math:`\prod_j (1 + 1/d_j^2)`, with :math:`d_j` the Hellinger distance to the j-th
    known state (deflation: P. E. Farrell, A. Birkisson and S. W. Funke, SIAM J. Sci. Comput. 37 (2015) A2026-A2045).
    Only the length of the Newton step changes by it. The search halves steps until the product falls.

    Returns
    -------
    state, iterations
    """
    roots = [np.sqrt(other.masses / problem.mass) for other in known]
    leaps = LEAPS if known else 0
    for iteration in range(budget):
        direction = _root_direction(problem, state)
        if state.residual <= max(tolerance, state.floor):
            return _polished(problem, state, direction), iteration
        factor, slope = _deflation(problem, state, roots, direction)
        stretch = 1.0 / (1.0 - slope) if abs(1.0 - slope) > 0.05 else 20.0
        size, goal = 1.0, factor * float(np.linalg.norm(state.step))
        for _ in range(HALVINGS // 3):
            trial = problem.evaluate(state.log_masses + size * stretch * direction)
            if _deflation(problem, trial, roots)[0] * np.linalg.norm(trial.step) < (1 - SUFFICIENT * size) * goal:
                break
            size *= 0.5
        else:
            # Between two poles of the factor the product has spurious minima: leap out of them.
            if leaps == 0:
                return state, iteration
            leaps -= 1
            spread = np.sqrt(problem.mean(state, direction * direction))
            trial = problem.evaluate(state.log_masses + np.sign(stretch) * min(abs(stretch), 2.0 / spread) * direction)
        state = trial
    return state, budget


def _polished(problem: GibbsProblem, state: Iterate, direction: np.ndarray) -> Iterate:
    """Return a state within the tolerance, or the better of it and the result of one more Newton step."""
    trial = problem.evaluate(state.log_masses + direction)
    return trial if trial.residual < state.residual else state


def _root_direction(problem: GibbsProblem, state: Iterate) -> np.ndarray:
    """Return T^-1 x, also where T is indefinite: MINRES on its symmetric form, with sqrt(m) v for v."""
    from scipy.sparse.linalg import LinearOperator, minres

    s = np.sqrt(state.masses / problem.mass)

    def project(w: np.ndarray) -> np.ndarray:
        return w - s * (s * w).sum()

    def apply(w: np.ndarray) -> np.ndarray:
        w = project(w.ravel())
        return w + problem.beta * project(s * problem.interaction(problem.mass * s * w))

    operator = LinearOperator((problem.size, problem.size), matvec=apply, dtype=float)
    w, _ = minres(operator, s * state.step, rtol=1e-12, maxiter=MINRES_STEPS)
    push = problem.beta * problem.interaction(problem.mass * s * project(w))
    return state.step - push + problem.mean(state, push)


def _deflation(problem: GibbsProblem, state: Iterate, roots, direction=None) -> tuple[float, float]:
    """Return the factor of the deflated residual, and the derivative of its logarithm along a direction."""
    factor, slope = 1.0, 0.0
    root = np.sqrt(state.masses / problem.mass)
    for other in roots:
        square = max(float(((root - other) ** 2).sum()), 1e-30)
        factor *= 1.0 + 1.0 / square
        if direction is not None:
            centered = direction - problem.mean(state, direction)
            slope += float((root * other * centered).sum()) / (square * (1.0 + square))
    return factor, slope
