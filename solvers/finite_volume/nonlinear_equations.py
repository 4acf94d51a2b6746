"""Equations r(x) = 0 in many unknowns whose residual is g(x) - x: Anderson acceleration, and Newton's method.

Both need only the residual. If it depends on x through few combinations, as with an interaction of low rank, the spaces
that they search have at most that many dimensions.

All sums are NumPy's: the last bits of products by BLAS depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..krylov import gmres

#: Secants that the acceleration keeps.
SECANTS = 12
#: Evaluations after which Newton's method takes over.
MAX_EVALUATIONS = 10
#: A residual that has grown by this much ends the acceleration.
GROWTH_LIMIT = 1e3
#: Directions of one linear solve by GMRES.
DIRECTIONS = 24
#: Relative residual at which a linear solve ends.
FORCING = 1e-3
#: Corrections of Newton's method.
MAX_CORRECTIONS = 30
#: Least part of a correction that the line search tries.
SHORTEST = 1 / 256
#: A part t of a correction must lower the residual by at least this times t, relative to its size.
DECREASE = 1e-4
#: A secant is left out if less than this part of it is linearly independent of the others.
DEPENDENT = 1e-4
#: A linear solve ends if no more than this part of a direction is independent of the others: the noise of differences.
NOISE = 1e-9

Residual = Callable[[np.ndarray], np.ndarray]
Converged = Callable[[np.ndarray, float, float], bool]


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Euclidean inner product."""
    return float((x * y).sum())


def norm(x: np.ndarray) -> float:
    """Return the Euclidean norm."""
    return math.sqrt(dot(x, x))


def accelerate(residual: Residual, x: np.ndarray, converged: Converged) -> tuple[np.ndarray, bool]:
    """Solve r(x) = 0 by Anderson's acceleration of x <- x + r(x); return the best x, and whether it converged.

    The last differences of residuals are kept orthonormal, each with its step. ``converged`` is called with x, the norm
    of r(x) and the ratio of this norm to the one before, at most 1.
    """
    r = residual(x)
    first = least = size = norm(r)
    best: np.ndarray = x
    secants: list[tuple[np.ndarray, np.ndarray]] = []
    if converged(x, size, 1.0):
        return x, True
    for _ in range(MAX_EVALUATIONS - 1):
        step = r
        for q, p in secants:
            step = step - float((q * r).sum()) * p
        x = x + step
        change, r = r, residual(x)
        last, size = size, norm(r)
        if not size <= GROWTH_LIMIT * first:
            break
        if converged(x, size, min(1.0, size / last)):
            return x, True
        if size < least:
            best, least = x, size
        change = r - change
        move, length = change + step, norm(change)
        for q, p in secants:
            part = float((q * change).sum())
            change, move = change - part * q, move - part * p
        left = norm(change)
        if left > DEPENDENT * length:
            secants = [*secants[-SECANTS + 1:], (change / left, move / left)]
    return best, False


def newton_krylov(residual: Residual, x: np.ndarray, converged: Converged, scale: float) -> tuple[np.ndarray, bool]:
    """Solve r(x) = 0 by Newton's method with a line search and GMRES; return the last x, and whether it is a root.

    Directional derivatives are differences over the length ``scale``, at which the residual is nearly linear and not
    yet dominated by rounding.
    """
    r = residual(x)
    size = norm(r)
    for _ in range(MAX_CORRECTIONS):
        if converged(x, size, 1.0):
            return x, True
        direction = _correction(residual, x, r, scale) if scale > 0 else None
        if direction is None:
            return x, False
        part = 1.0
        while part >= SHORTEST:
            new = x + part * direction
            r_new = residual(new)
            size_new = norm(r_new)
            if size_new <= (1.0 - DECREASE * part) * size:
                break
            part *= 0.5
        else:
            return x, False
        x, r, size = new, r_new, size_new
    return x, converged(x, size, 1.0)


def _correction(residual: Residual, x: np.ndarray, r: np.ndarray, scale: float) -> np.ndarray | None:
    """Return d with r + r'(x) d small, by differences of residuals; None if a difference is not finite."""

    def product(direction: np.ndarray) -> np.ndarray:
        length = scale / float(np.abs(direction).max())
        return (r - residual(x + length * direction)) / length

    found = gmres(product, r, dot=dot, forcing=FORCING, limit=min(DIRECTIONS, r.size), passes=2, noise=NOISE)
    return found.x if found.finite else None
