"""Two ways to a self-consistent law: lowering F, and Newton's method on the equation x = 0 of `gibbs`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .gibbs import GibbsProblem, Iterate

__all__ = ["GibbsProblem", "Tell", "descend", "descend_by_stages", "find_root", "not_told"]

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
#: Cells with less than this weight hardly count in the inner product; their v comes from the equation itself.
UNSEEN = 1e-8
#: After this many steps that lower neither F nor the residual beyond rounding, a damped fixed-point step is tried.
PATIENCE = 6
#: Stages begin with an internal energy so large that Psi spans this many of its units,
FIRST_SPAN = 10.0
#: and it falls by at most this factor from stage to stage.
GROWTH = 8.0
#: Residual at which each stage but the last ends.
STAGE_RESIDUAL = 1e-2
#: Doublings of a step that goes down along a direction of negative curvature.
DOUBLINGS = 8

#: Told the number of a Newton step and the residual before it.
Tell = Callable[[int, float], None]


def not_told(step: int, residual: float) -> None:
    """Tell nobody."""


def descend(problem: GibbsProblem, state: Iterate, tolerance: float, budget: int,
            tell: Tell = not_told) -> tuple[Iterate, int]:
    """Lower F to a stationary state: the damped fixed-point iteration, accelerated by conjugate gradients.

    The direction is the Newton step by conjugate gradients from 0, whose first iterate is the fixed-point step x. They
    stop at negative curvature, with a direction of descent; a line search chooses the length. Where steps in q
    fail, one damped fixed-point step is taken. The caller compares the residual of the result with the tolerance.

    Returns
    -------
    state, iterations
    """
    best, idle = state, 0
    for iteration in range(budget):
        tell(iteration, state.residual)
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


def descend_by_stages(problem: GibbsProblem, start: np.ndarray | None, tolerance: float,
                      budget: int, tell: Tell = not_told) -> tuple[Iterate, int]:
    """Lower a convex F by stages of falling internal energy, each from the potential Psi of the one before.

    Parameters
    ----------
    start : array, shape (n,), optional
        The q of a law whose Psi begins the first stage; by default Psi = V.
    """
    psi = problem.potential + (0.0 if start is None else problem.evaluate(start).field)
    factor, steps = first_factor(problem, psi), 0
    while factor > 1.0:
        stage = problem.scaled(factor)
        state, more = descend(stage, stage.evaluate(stage.gibbs(psi)), STAGE_RESIDUAL, budget, tell)
        steps += more
        psi = problem.potential + state.field
        factor = max(1.0, factor / GROWTH)
    state, more = descend(problem, problem.evaluate(problem.gibbs(psi)), tolerance, budget, tell)
    return state, steps + more


def first_factor(problem: GibbsProblem, psi: np.ndarray) -> float:
    """Return the multiple of the internal energy with which stages begin, at least 1."""
    return max(1.0, problem.beta * float(np.ptp(psi)) / FIRST_SPAN)


def _newton_step(problem: GibbsProblem, state: Iterate) -> tuple[np.ndarray, bool]:
    """Return T^-1 x by conjugate gradients in the law's inner product, and whether they met negative curvature."""
    weights = state.weights
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
    slope = problem.unit * state.total * problem.mean(state, state.step * direction)
    if not slope > 0:
        return None
    size = 1.0
    for _ in range(HALVINGS):
        trial = problem.evaluate(state.q + size * direction)
        if trial.energy < state.energy and trial.energy <= state.energy - SUFFICIENT * size * slope:
            break
        if trial.energy <= state.energy + state.slack and trial.residual < 0.9 * state.residual:
            return trial
        size *= 0.5
    else:
        return None
    for _ in range(DOUBLINGS if stretch and size == 1.0 else 0):
        size *= 2.0
        further = problem.evaluate(state.q + size * direction)
        if not further.energy < trial.energy:
            break
        trial = further
    return trial


def _mix(problem: GibbsProblem, state: Iterate) -> Iterate | None:
    """Return the damped fixed-point step (1 - a) m + a B(m) with the first a = 1/2, 1/4, ... that lowers F, or None.

    It brings mass into cells whose mass has underflowed, which no step in q of moderate size can.
    """
    slope = problem.unit * float(((state.target.masses - state.masses) * state.step).sum())
    size = 0.5
    while SUFFICIENT * size * slope > state.slack:
        trial = problem.evaluate(problem.mixed(state, size))
        if trial.energy <= state.energy - SUFFICIENT * size * slope:
            return trial
        size *= 0.5
    return None


def find_root(problem: GibbsProblem, state: Iterate, tolerance: float, budget: int, known=(),
              tell: Tell = not_told) -> tuple[Iterate, int]:
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
        tell(iteration, state.residual)
        direction = _root_direction(problem, state)
        if state.residual <= max(tolerance, state.floor):
            return _polished(problem, state, direction), iteration
        factor, slope = _deflation(problem, state, roots, direction)
        stretch = 1.0 / (1.0 - slope) if abs(1.0 - slope) > 0.05 else 20.0
        size, goal = 1.0, factor * float(np.linalg.norm(state.step))
        for _ in range(HALVINGS // 3):
            trial = problem.evaluate(state.q + size * stretch * direction)
            if _deflation(problem, trial, roots)[0] * np.linalg.norm(trial.step) < (1 - SUFFICIENT * size) * goal:
                break
            size *= 0.5
        else:
            # Between two poles of the factor the product has spurious minima: leap out of them.
            if leaps == 0:
                return state, iteration
            leaps -= 1
            spread = np.sqrt(problem.mean(state, direction * direction))
            trial = problem.evaluate(state.q + np.sign(stretch) * min(abs(stretch), 2.0 / spread) * direction)
        state = trial
    return state, budget


def _polished(problem: GibbsProblem, state: Iterate, direction: np.ndarray) -> Iterate:
    """Return a state within the tolerance, or the better of it and the result of one more Newton step."""
    trial = problem.evaluate(state.q + direction)
    return trial if trial.residual < state.residual else state


def _root_direction(problem: GibbsProblem, state: Iterate) -> np.ndarray:
    """Return T^-1 x, also where T is indefinite: MINRES on its symmetric form, with sqrt(weights) v for v."""
    from scipy.sparse.linalg import LinearOperator, minres

    w, _ = minres(LinearOperator((problem.size, problem.size), matvec=symmetric_form(problem, state), dtype=float),
                  np.sqrt(state.weights) * state.step, rtol=1e-12, maxiter=MINRES_STEPS)
    push = problem.push(state, state.total * np.sqrt(state.weights) * projected(problem, state, w))
    return state.step - problem.beta * problem.centered(state, push)


def symmetric_form(problem: GibbsProblem, state: Iterate):
    """Return the product of T with vectors sqrt(weights) v, in which it is a symmetric matrix."""
    s = np.sqrt(state.weights)

    def apply(w: np.ndarray) -> np.ndarray:
        w = w.ravel()
        push = problem.push(state, state.total * s * projected(problem, state, w))
        return w + problem.beta * projected(problem, state, s * push)

    return apply


def projected(problem: GibbsProblem, state: Iterate, w: np.ndarray) -> np.ndarray:
    """Return sqrt(weights) (v less its mean), from w = sqrt(weights) v."""
    s = np.sqrt(state.weights)
    if problem.groups is None:
        return w - s * (s @ w)
    shares = np.bincount(problem.groups, s * s)
    means = np.bincount(problem.groups, s * w) / np.where(shares > 0, shares, 1.0)
    return w - s * means[problem.groups]


def _deflation(problem: GibbsProblem, state: Iterate, roots, direction=None) -> tuple[float, float]:
    """Return the factor of the deflated residual, and the derivative of its logarithm along a direction."""
    factor, slope = 1.0, 0.0
    root = np.sqrt(state.masses / problem.mass)
    for other in roots:
        square = max(float(((root - other) ** 2).sum()), 1e-30)
        factor *= 1.0 + 1.0 / square
        if direction is not None:
            change = problem.change(state, problem.centered(state, direction)) / problem.mass
            moved = np.divide(change, root, out=np.zeros_like(root), where=root > 0)
            slope += float((other * moved).sum()) / (square * (1.0 + square))
    return factor, slope
