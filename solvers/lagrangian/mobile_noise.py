r"""Noise with a mobility A(x): a step of the diffusion whose generator is :math:`D\,\nabla\cdot(A \nabla f)`.

In Ito's form it is :math:`dX = a\,dt + \sum_j b^j\,dB_j` with :math:`a = D\,\nabla\cdot A` and the columns
:math:`b^j` of :math:`\sqrt{2D}\,L`, A = L L'. Without the drift a the law of X would tend to 1/A and not to a constant.

The step is Platen's explicit one of weak order 2 (Kloeden and Platen, Numerical Solution of Stochastic Differential
Equations, 1992, 15.1.3), which takes values of a and b alone:

.. math:: Y' = Y &+ \tfrac12 (a(\bar Y) + a)\,h \\
    &+ \tfrac14 \sum_j \Bigl[b^j(R_+^j) + b^j(R_-^j) + 2 b^j
       + \sum_{r \ne j} \bigl(b^j(U_+^r) + b^j(U_-^r) - 2 b^j\bigr)\Bigr] W_j \\
    &+ \tfrac14 \sum_j \Bigl[\bigl(b^j(R_+^j) - b^j(R_-^j)\bigr)(W_j^2 - h)
       + \sum_{r \ne j} \bigl(b^j(U_+^r) - b^j(U_-^r)\bigr)(W_j W_r + V_{rj})\Bigr] h^{-1/2},

with :math:`\bar Y = Y + a h + \sum_j b^j W_j`, :math:`R_\pm^j = Y + a h \pm b^j \sqrt h`,
:math:`U_\pm^r = Y \pm b^r \sqrt h`, normal W of variance h, and :math:`V_{rj} = -V_{jr} = \pm h` at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.mobility import Mobility

__all__ = ["mobile_step", "reflected"]

Array = NDArray[np.float64]


def mobile_step(points: Array, mobility: Mobility, diffusion: float, h: float, normals: Array, signs: Array,
                inside: Callable[[Array], Array], bounds: Sequence[tuple[float, float]]) -> Array:
    """Return points after a step of the noise, which may lie outside the bounds.

    Parameters
    ----------
    points : array (d, n)
    mobility : Mobility
    diffusion : float
        D = 1/beta.
    h : float
        Length of the step by the clock of time_scale.
    normals : array (d, n)
        Standard normal numbers.
    signs : array (d, d, n)
        Of which those below the diagonal are used: 1 or -1.
    inside : callable
        Moves points to where A is known.
    bounds : sequence of (lo, hi)
        Of the coordinates, infinite where they have none.
    """
    d, root = len(points), math.sqrt(h)
    if mobility.constant:
        # Exact.
        return points + math.sqrt(2.0 * diffusion) * root * np.einsum("ijn,jn->in", mobility.roots(points), normals)

    def columns(x: Array) -> Array:
        return math.sqrt(2.0 * diffusion) * mobility.roots(inside(x))

    def drift(x: Array) -> Array:
        return diffusion * mobility.divergence(inside(x), bounds)

    a, b, W = drift(points), columns(points), root * normals
    ahead = points + a * h
    out = points + 0.5 * h * (a + drift(ahead + np.einsum("ijn,jn->in", b, W)))
    near = [(columns(points + b[:, r] * root), columns(points - b[:, r] * root)) for r in range(d)] if d > 1 else []
    for j in range(d):
        up, down = columns(ahead + b[:, j] * root)[:, j], columns(ahead - b[:, j] * root)[:, j]
        out += 0.25 * (up + down + 2.0 * b[:, j]) * W[j] + 0.25 * (up - down) * (W[j] ** 2 - h) / root
        for r in range(d):
            if r != j:
                plus, minus = near[r][0][:, j], near[r][1][:, j]
                V = h * signs[r, j] if r > j else -h * signs[j, r]
                out += 0.25 * (plus + minus - 2.0 * b[:, j]) * W[j]
                out += 0.25 * (plus - minus) * (W[j] * W[r] + V) / root
    return out


def reflected(points: Array, mobility: Mobility, inside: Callable[[Array], Array],
              bounds: Sequence[tuple[float, float]]) -> Array:
    """Return points beyond a bound reflected along A n, n its normal: no flux across it needs that direction.

    With a diagonal A that is the normal.
    """
    for axis, (lo, hi) in enumerate(bounds):
        beyond = np.fmax(lo - points[axis], 0.0) - np.fmax(points[axis] - hi, 0.0)
        out = np.flatnonzero(beyond)
        if out.size:
            A = mobility.at(inside(points[:, out]))
            points = points.copy()
            points[:, out] += 2.0 * beyond[out] * A[:, axis] / A[axis, axis]
    return points
