r"""Sweeps along chains of cells, x, x + e, x + 2e, ..., for mobilities with mixed terms (`wgflow.energies.oblique`).

The edge between two cells of a chain has Scharfetter and Gummel's rates, with q the rise of Psi/D, the Bernoulli
function B(z) = z / (e^z - 1), the mobility a >= 0 between them (in units of the steps of the chain), c the mean of the
second differences of Psi/D and L = coth(q/2) - 2/q:

    right = D a f B(q),   left = D a f B(-q),   f = 1 + c L / (2 q), cut to [1/2, 3/2].

J(s) = (I - s L)^{-1} with L the generator of these rates is stochastic, keeps Gibbs states, and is applied by sums
alone (Grassmann, Taksar and Heyman 1985). All functions are in one file because Numba's cache does not look at others.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: Modes: J^2 + sqrt(2) (J^2 - J) with J(gamma dt); J(dt); J(dt/2)^2.
SECOND, EULER, HALVES = 0, 1, 2
GAMMA = 1.0 - math.sqrt(0.5)
ROOT2 = math.sqrt(2.0)
#: exp(-708) is close to the smallest normal number.
EXP_LIMIT = 708.0
#: Below this q the functions of q are summed as series.
SERIES_LIMIT = 0.1
#: Chains none of whose cells has more than this part of the mass stay as they are.
EMPTY = 1e-20
#: Part of the positive J^2 m to which a negative entry is raised.
LEFT = 0.1
#: A chain rests if no cell changes by more than the first part of its mass, and the chain by the second (16 ulp).
REST_OF_CELL, REST = 1e-12, 16 * 2.0**-52


@jit
def _rates(psi, faces, diffusion, closed, right, left):
    """Fill the rates over edge i, from cell i to i + 1 and back; the last edge is the seam of a closed chain."""
    n = psi.size
    for i in range(n if closed else n - 1):
        k = i + 1 if i + 1 < n else 0
        rise = (psi[k] - psi[i]) / diffusion
        # Second differences at the two cells; those at the ends of a chain are not known.
        bend, known = 0.0, 0
        if closed or i > 0:
            bend += psi[k] - 2.0 * psi[i] + psi[i - 1 if i > 0 else n - 1]
            known += 1
        if closed or k < n - 1:
            bend += psi[k + 1 if k + 1 < n else 0] - 2.0 * psi[k] + psi[i]
            known += 1
        bend = bend / (diffusion * known) if known > 0 else 0.0
        q = min(abs(rise), EXP_LIMIT)
        e, q2 = math.exp(-q), q * q
        if q < SERIES_LIMIT:
            up = 1.0 - 0.5 * q + q2 * (1 / 12 - q2 * (1 / 720 - q2 * (1 / 30240)))
            slope = 1 / 6 - q2 * (1 / 360 - q2 * (1 / 15120))
        else:
            up = q * e / (1.0 - e)
            slope = ((1.0 + e) / (1.0 - e) - 2.0 / q) / q
        factor = diffusion * faces[i] * min(max(1.0 + 0.5 * bend * slope, 0.5), 1.5)
        right[i] = factor * (up + max(-rise, 0.0))
        left[i] = factor * (up + max(rise, 0.0))
    if not closed:
        right[n - 1] = left[n - 1] = 0.0


@jit
def _factor(right, left, s, closed, f):
    """Eliminate I - s L from cell 0 on: f holds forward, pivot, backward, and for a closed chain to and from its last
    cell, which is eliminated last.
    """
    n = right.size
    border = n - 1
    excess, last = 1.0, 1.0
    to = s * left[border] if closed else 0.0
    back = s * right[border] if closed else 0.0
    for i in range(border):
        ahead, behind = s * right[i], s * left[i]
        if i == border - 1:
            to += ahead
            back += behind
            ahead = behind = 0.0
        inverse = 1.0 / (excess + ahead + to)
        f[0, i] = ahead * inverse
        f[1, i] = inverse
        f[2, i] = behind * inverse
        f[3, i] = to * inverse
        f[4, i] = back * inverse
        last += f[4, i] * excess
        back *= f[0, i]
        to *= f[2, i]
        excess = 1.0 + f[2, i] * excess
    f[1, border] = 1.0 / last


@jit
def _solve(f, m, x):
    """Fill x = J m."""
    n = m.size
    last = m[n - 1]
    for i in range(n - 1):
        x[i] = m[i] + (f[0, i - 1] * x[i - 1] if i > 0 else 0.0)
        last += f[3, i] * x[i]
    last *= f[1, n - 1]
    x[n - 1] = last
    following = 0.0
    for i in range(n - 2, -1, -1):
        following = x[i] * f[1, i] + f[2, i] * following + f[4, i] * last
        x[i] = following


@jit
def _move(m, right, left, dt, mode, closed, negligible, f, y, x):
    """Fill x with the masses of one chain after dt."""
    n = m.size
    if mode == SECOND:
        _factor(right, left, GAMMA * dt, closed, f)
        _solve(f, m, y)
        _solve(f, y, x)
        total, raised, lowest = 0.0, 0.0, 0.0
        for i in range(n):
            safe = x[i]
            x[i] += ROOT2 * (x[i] - y[i])
            y[i] = safe
            lowest = min(lowest, x[i])
            raised += max(LEFT * safe - x[i], 0.0) if x[i] < 0.0 else 0.0
            total += m[i]
        if lowest >= 0.0:
            return
        if raised <= negligible:
            for i in range(n):
                x[i] = (x[i] if x[i] >= 0.0 else LEFT * y[i]) * (total / (total + raised))
            return
    s = dt if mode == EULER else 0.5 * dt
    _factor(right, left, s, closed, f)
    _solve(f, m, x)
    if mode != EULER:
        for i in range(n):
            y[i] = x[i]
        _solve(f, y, x)


@jit
def chain_sweep(masses, psi, diffusion, dt, order, starts, closed, faces, mode, least, negligible, first, last):
    """Move chains first..last-1 by a time dt, in place.

    Parameters
    ----------
    masses, psi : arrays, flat in C order
    diffusion : float
        D > 0.
    dt : float
    order, starts, closed, faces
        As in `wgflow.energies.oblique.Direction`.
    mode : int
        SECOND, EULER or HALVES. A chain of which SECOND would have to raise more negative mass than ``negligible``
        takes HALVES.
    least : float
        Chains none of whose cells has more mass than this stay as they are.
    negligible : float
    first, last : int
    """
    longest = 0
    for c in range(first, last):
        longest = max(longest, starts[c + 1] - starts[c])
    work, factors = np.empty((6, longest)), np.zeros((5, longest))
    for c in range(first, last):
        begin, n = starts[c], starts[c + 1] - starts[c]
        if n < 2:
            continue
        m, p, right, left, y, x = (work[0, :n], work[1, :n], work[2, :n], work[3, :n], work[4, :n], work[5, :n])
        largest = 0.0
        for i in range(n):
            m[i], p[i] = masses[order[begin + i]], psi[order[begin + i]]
            largest = max(largest, m[i])
        if largest <= least:
            continue
        _rates(p, faces[begin:begin + n], diffusion, closed, right, left)
        _move(m, right, left, dt, mode, closed, negligible, factors[:, :n], y, x)
        moved, mass, rests = 0.0, 0.0, True
        for i in range(n):
            change = abs(x[i] - m[i])
            moved += change
            mass += m[i]
            rests = rests and change <= REST_OF_CELL * m[i]
        # A Gibbs state does not creep from step to step.
        if rests and moved <= REST * mass:
            continue
        for i in range(n):
            masses[order[begin + i]] = x[i]


@jit
def chain_dissipation(masses, psi, mu, diffusion, order, starts, closed, faces):
    """Return the sum over all edges of flux times fall of mu."""
    longest = 0
    for c in range(starts.size - 1):
        longest = max(longest, starts[c + 1] - starts[c])
    work, total = np.empty((3, longest)), 0.0
    for c in range(starts.size - 1):
        begin, n = starts[c], starts[c + 1] - starts[c]
        if n < 2:
            continue
        p, right, left = work[0, :n], work[1, :n], work[2, :n]
        for i in range(n):
            p[i] = psi[order[begin + i]]
        _rates(p, faces[begin:begin + n], diffusion, closed, right, left)
        part = 0.0
        for i in range(n if closed else n - 1):
            a, b = order[begin + i], order[begin + (i + 1 if i + 1 < n else 0)]
            part += (right[i] * masses[a] - left[i] * masses[b]) * (mu[a] - mu[b])
        total += part
    return total
