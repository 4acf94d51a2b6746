"""Integrals over time of what is known at the times of steps, by piecewise polynomials."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["step_integrals"]

Array = NDArray[np.float64]
#: Gauss-Legendre nodes of an interval: exact for cubics, and for a clock that changes, its own.
FEW, MANY = np.polynomial.legendre.leggauss(2), np.polynomial.legendre.leggauss(13)


def step_integrals(t: Array, scale: float | Callable[[float], float], points: int) -> Array:
    r"""Return the matrix of the integrals over each interval of s(t) times the polynomial through nearby values.

    Parameters
    ----------
    t : array of shape (n,)
        Increasing times.
    scale : float or callable
        The clock s.
    points : int
        Values that a polynomial goes through: 4 for cubics, of order 4; fewer where there are fewer times.

    Returns
    -------
    array of shape (n - 1, n)
        Times values at t it gives the n - 1 integrals.
    """
    count = t.size - 1
    points = min(points, t.size)
    nodes, weights = MANY if callable(scale) else FEW
    half = 0.5 * np.diff(t)[:, None]
    x = t[:-1, None] + half * (1.0 + nodes)
    factor = half * weights
    if callable(scale):
        factor = factor * np.array([[scale(float(s)) for s in row] for row in x])
    else:
        factor = factor * scale
    first = np.clip(np.arange(count) - (points - 1) // 2, 0, t.size - points)
    stencil = first[:, None] + np.arange(points)
    known = t[stencil]
    out = np.zeros((count, t.size))
    rows = np.arange(count)
    for j in range(points):
        basis = np.ones(x.shape)
        for k in range(points):
            if k != j:
                basis *= (x - known[:, k, None]) / (known[:, j] - known[:, k])[:, None]
        out[rows, stencil[:, j]] = (basis * factor).sum(axis=1)
    return out
