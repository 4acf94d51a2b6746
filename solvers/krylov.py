r"""GMRES: linear systems of which only products with the matrix are at hand.

.. math:: x_k = \operatorname{argmin}_{x \in K_k} |P (b - A x)|, \qquad
          K_k = \operatorname{span}\{P b, (P A) P b, \dots, (P A)^{k-1} P b\},

with a preconditioner P and the norm of an inner product, both chosen by the caller. Sums are formed by that inner
product alone, so that a result has the same bits on any number of threads if the caller's sums do: those of a BLAS do
not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["KrylovSolution", "Vector", "gmres"]

Vector = np.ndarray


class KrylovSolution(NamedTuple):
    """The result of `gmres`.

    Attributes
    ----------
    x : array
        The best solution in the space that was searched.
    converged : bool
        Whether its preconditioned residual met the tolerance.
    finite : bool
        Whether every product was finite; if not, the search ended before the one that was not.
    """

    x: Vector
    converged: bool
    finite: bool = True


def gmres(product: Callable[[Vector], Vector], right: Vector, *, dot: Callable[[Vector, Vector], float], forcing: float,
          limit: int, precondition: Callable[[Vector], Vector] | None = None, passes: int = 1,
          noise: float = 0.0) -> KrylovSolution:
    r"""Solve :math:`A x = b` by GMRES from x = 0, preconditioned from the left.

    The basis is orthogonalized by the modified Gram-Schmidt process, and the least-squares problem is solved by Givens
    rotations, which give the norm of the residual without forming it (Y. Saad and M. H. Schultz, SIAM J. Sci. Stat.
    Comput. 7 (1986) 856-869). After n iterations in n unknowns the solution is exact up to round-off; where A is the
    identity plus a matrix of rank r, after r + 1.

    Parameters
    ----------
    product : callable
        A times a vector.
    right : array, shape (n,)
        b.
    dot : callable
        The inner product of two vectors.
    forcing : float
        Residual relative to that of x = 0 at which to stop.
    limit : int
        Iterations at most.
    precondition : callable, optional
        P times a vector; the identity by default.
    passes : int
        How often each direction is orthogonalized: 2 where products carry noise, so that the basis stays orthogonal.
    noise : float
        A direction of which at most this part is new ends the search: the rest is the noise of the products.

    Returns
    -------
    KrylovSolution
    """
    begin = right if precondition is None else precondition(right)
    norm = math.sqrt(dot(begin, begin))
    if not (norm > 0 and math.isfinite(norm)):
        return KrylovSolution(np.zeros_like(begin), norm == 0)
    basis = [begin / norm]
    triangle = np.zeros((limit + 1, limit))
    rotations: list[tuple[float, float]] = []
    rest = [norm]
    for k in range(limit):
        image = product(basis[k])
        v = image if precondition is None else precondition(image)
        if not np.isfinite(v).all():
            return KrylovSolution(_combined(basis, triangle, rest, k), False, False)
        whole = math.sqrt(dot(v, v)) if noise > 0 else 0.0
        for _ in range(passes):
            for j, u in enumerate(basis):
                part = dot(u, v)
                triangle[j, k] += part
                v = v - part * u
        length = math.sqrt(dot(v, v))
        if not _rotate(triangle, rotations, rest, k, length):
            return KrylovSolution(_combined(basis, triangle, rest, k), False, math.isfinite(length))
        if abs(rest[k + 1]) <= forcing * norm or length == 0:
            return KrylovSolution(_combined(basis, triangle, rest, k + 1), True)
        if length <= noise * whole:
            return KrylovSolution(_combined(basis, triangle, rest, k + 1), False)
        basis.append(v / length)
    return KrylovSolution(_combined(basis, triangle, rest, limit), False)


def _rotate(triangle: np.ndarray, rotations: list[tuple[float, float]], rest: list[float], k: int,
            length: float) -> bool:
    """Bring column k of the Hessenberg matrix to triangular form; False where it vanishes or is not finite."""
    # As Python's own numbers: entries of an array take ten times as long.
    column = triangle[:k + 1, k].tolist()
    for j, (c, s) in enumerate(rotations):
        above, below = column[j], column[j + 1]
        column[j], column[j + 1] = c * above + s * below, c * below - s * above
    size = math.hypot(column[k], length)
    if not (size > 0 and math.isfinite(size)):
        return False
    c, s = column[k] / size, length / size
    rotations.append((c, s))
    column[k] = size
    triangle[:k + 1, k] = column
    rest.append(-s * rest[k])
    rest[k] *= c
    return True


def _combined(basis: list[Vector], triangle: np.ndarray, rest: list[float], count: int) -> Vector:
    """The combination of the first ``count`` directions with the least residual."""
    weights = np.linalg.solve(triangle[:count, :count], rest[:count]) if count else np.zeros(0)
    x = np.zeros(basis[0].shape)
    for weight, u in zip(weights, basis):
        x += weight * u
    return x
