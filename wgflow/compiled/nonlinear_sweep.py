r"""Fluxes, Newton corrections and reconstructions of nonlinear diffusion, line by line.

A line has the masses m of its cells, and r = m / v, their density relative to the reference measure v (volume times
weight). With h = H'(r), p = r H'(r) - H(r) and Psi, the flux between neighbors 1 and 2 is a mobility times the fall of
the first variation, v = a + b with a = h_1 - h_2 and b = Psi_1 - Psi_2:

    a and b of one sign:     phi (p_1 - p_2) + s b,    s = up r_1 or down r_2, upwind of b
    diffusion outweighs b:   phi M (a + b),            M = (p_1 - p_2) / (h_1 - h_2), between r_1 and r_2
    b outweighs diffusion:   up r_1 (a + b) or down r_2 (a + b), upwind

M is the mean whose flux at b = 0 is the fall of the pressure; it is the logarithmic mean for the entropy. The factors
up, down and phi >= 0 come from a limited reconstruction of r at the edge (`reconstruct`) and are frozen during a step;
they are 1 in the plain scheme. Whatever they are, the flux increases with r_1, decreases with r_2, takes nothing from
empty cells, has the sign of v and vanishes with it: the implicit Euler step has one solution, it is non-negative, F
does not rise in it, and states with constant first variation on their support rest.

The Jacobian in the masses has unit column sums, so that it is eliminated without subtractions (Grassmann, Taksar and
Heyman 1985). The upwind mobility is that of Bailo, Carrillo and Hu (2020).
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: Falls of the first variation within 4 ulp of its summands are round-off, and drive no flux.
ROUND_OFF = 4 * 2.0**-52
#: For densities within this relative distance M is their arithmetic mean: the quotient would lose its digits.
NEAR = 1e-5
#: Bound of H'': an infinite one leaves NaNs in products with 0.
STIFFEST = 1e250
#: Status of a line in Newton's method: converged, or not finite; 0 while it is under way.
DONE, LOST = 1, 2
#: Corrections that no longer shrink end the iteration below this multiple of their bound: round-off keeps them there.
STAGNANT = 1e4
#: Damping: the share of a correction that is made is doubled if it shrinks the next one by this part of the share,
#: else halved.
SLOW = 0.1
#: The share is not halved below this.
LEAST_SHARE = 0.25
#: A correction moves no more than this part of the mass.
LONGEST = 0.3
#: No correction takes more than this part of a cell's mass away.
DRAIN = 0.9
#: The density counts as smooth in a cell if the second differences of both neighbors have its sign and this part of it.
ALIKE = 0.25
#: Largest half slope of a cell relative to its density: densities at edges stay positive.
STEEPEST = 0.9
#: Bounds of the factor phi.
LEAST_PHI, LARGEST_PHI = 0.5, 2.0


@jit
def _mean(r1, r2, h1, h2, p1, p2):
    """Return M, between r1 and r2."""
    if abs(r1 - r2) <= NEAR * (r1 + r2) or h1 == h2:
        return 0.5 * (r1 + r2)
    return min(max((p1 - p2) / (h1 - h2), min(r1, r2)), max(r1, r2))


@jit
def _fall(h1, h2, u1, u2):
    """Return the fall of the first variation from cell 1 to cell 2, less what may be round-off."""
    v = (h1 - h2) + (u1 - u2)
    slack = ROUND_OFF * (abs(h1) + abs(h2) + abs(u1) + abs(u2))
    return math.copysign(max(abs(v) - slack, 0.0), v)


@jit
def _flux(r1, r2, h1, h2, p1, p2, u1, u2, up, down, phi):
    """Return the flux over an edge: mobility times fall of the first variation."""
    v, a, b = _fall(h1, h2, u1, u2), h1 - h2, u1 - u2
    if v == 0.0:
        return 0.0
    if a * b >= 0.0:
        return phi * (p1 - p2) + (up * r1 if b > 0.0 else down * r2) * b
    if abs(a) > abs(b):
        return phi * _mean(r1, r2, h1, h2, p1, p2) * v
    return (up * r1 if v > 0.0 else down * r2) * v


@jit
def _slopes(r1, r2, h1, h2, p1, p2, q1, q2, c1, c2, u1, u2, up, down, phi):
    """Return d flux / d r1 and -d flux / d r2, both >= 0; q = r H''(r), c = H''(r)."""
    a, b = h1 - h2, u1 - u2
    if a * b >= 0.0:
        return phi * q1 + up * max(b, 0.0), phi * q2 + down * max(-b, 0.0)
    v = a + b
    if abs(a) > abs(b):
        share = -b / a
        carried = share * _mean(r1, r2, h1, h2, p1, p2)
        return phi * (q1 * (1.0 - share) + c1 * carried), phi * (q2 * (1.0 - share) + c2 * carried)
    if v > 0.0:
        return up * (v + q1), up * r1 * c2
    return down * r2 * c1, down * (q2 - v)


@jit
def _eliminate(right, left, periodic, b, x, work):
    """Solve (I - L) x = b, L the generator with rates ``right`` and ``left`` to the neighbors of each cell."""
    n = b.size
    forward, pivot, backward, to_border, from_border = work[0], work[1], work[2], work[3], work[4]
    border = n - 1 if periodic else n
    excess, last_excess = 1.0, 1.0
    s, t = (left[0], right[n - 1]) if periodic else (0.0, 0.0)
    count = border if periodic else n - 1
    for i in range(count):
        r, back = right[i], left[i + 1]
        if i == border - 1:
            s += r
            t += back
            r = back = 0.0
        inverse = 1.0 / (excess + r + s)
        forward[i], pivot[i], backward[i] = r * inverse, inverse, back * inverse
        to_border[i], from_border[i] = s * inverse, t * inverse
        last_excess += from_border[i] * excess
        t *= forward[i]
        s *= backward[i]
        excess = 1.0 + backward[i] * excess
    x[0] = b[0]
    last = b[n - 1]
    for i in range(count):
        last += to_border[i] * x[i]
        if i + 1 < border:
            x[i + 1] = b[i + 1] + forward[i] * x[i]
    if periodic:
        last /= last_excess
    else:
        last = x[n - 1] / excess
    x[n - 1] = last
    for i in range(n - 2, -1, -1):
        x[i] = x[i] * pivot[i] + backward[i] * x[i + 1] + (from_border[i] * last if periodic else 0.0)


@jit
def power_law(r, entropy, factors, powers, h, p, q, c):
    """Fill H', r H' - H, r H'' and H'' of D r log r + sum_k f_k r^(1 + e_k) / (e_k (1 + e_k)), e = powers, at r > 0."""
    for j in range(r.shape[0]):
        for i in range(r.shape[1]):
            x = r[j, i]
            if entropy > 0.0:
                slope, pressure, stiff = entropy * math.log(x), entropy * x, entropy
            else:
                slope = pressure = stiff = 0.0
            for k in range(powers.size):
                power = powers[k]
                part = factors[k] * (x if power == 1.0 else x * x if power == 2.0 else x**power)
                slope += part / power
                pressure += part * x / (1.0 + power)
                stiff += part
            h[j, i], p[j, i], q[j, i], c[j, i] = slope, pressure, stiff, min(stiff / x, STIFFEST)


@jit
def newton(m, r, h, p, q, c, psi, start, volumes, times, conductances, up, down, phi, periodic, bounds, totals, shares,
           sizes, status):
    """Apply a damped Newton correction of the implicit Euler step m - start + fluxes = 0 to each line with status 0.

    Parameters
    ----------
    m, r, h, p, q, c, psi, start, volumes : arrays, shape (lines, n)
        Iterate, which is moved; its relative density, H', r H' - H, r H'', H''; Psi; masses at the start; reference
        volumes.
    times : array, shape (lines,)
    conductances, up, down, phi : arrays, shape (lines, edges)
        Edges are n - 1, or n on a periodic line.
    bounds, totals : arrays, shape (lines,)
        L1 norm of a correction that ends the iteration; mass.
    shares, sizes : arrays, shape (lines,)
        Part of the last correction that was made, and its norm; updated.
    status : array of int, shape (lines,)
        Set to DONE or LOST.
    """
    lines, n = m.shape
    edges = conductances.shape[1]
    right, left, residual, delta, work = np.zeros(n), np.zeros(n), np.empty(n), np.empty(n), np.empty((5, n))
    for j in range(lines):
        if status[j] != 0:
            continue
        right[n - 1] = left[0] = 0.0
        for i in range(n):
            residual[i] = start[j, i] - m[j, i]
        for i in range(edges):
            k = i + 1 if i + 1 < n else 0
            reach = times[j] * conductances[j, i]
            flux = reach * _flux(r[j, i], r[j, k], h[j, i], h[j, k], p[j, i], p[j, k], psi[j, i], psi[j, k],
                                 up[j, i], down[j, i], phi[j, i])
            ahead, behind = _slopes(r[j, i], r[j, k], h[j, i], h[j, k], p[j, i], p[j, k], q[j, i], q[j, k], c[j, i],
                                    c[j, k], psi[j, i], psi[j, k], up[j, i], down[j, i], phi[j, i])
            right[i] = reach * ahead / volumes[j, i]
            left[k] = reach * behind / volumes[j, k]
            residual[i] -= flux
            residual[k] += flux
        _eliminate(right, left, periodic, residual, delta, work)
        size = 0.0
        for i in range(n):
            size += abs(delta[i])
        if not size < math.inf:
            status[j] = LOST
            continue
        slow = size > (1.0 - SLOW * shares[j]) * sizes[j]
        if size <= bounds[j] or (size <= STAGNANT * bounds[j] and size > 0.5 * sizes[j]):
            status[j] = DONE
        share = max(0.5 * shares[j], LEAST_SHARE) if slow else min(2.0 * shares[j], 1.0)
        shares[j] = min(share, LONGEST * totals[j] / max(size, bounds[j]))
        sizes[j] = size
        _move(m[j], delta, shares[j], totals[j])


@jit
def _move(m, delta, share, total):
    """Add a share of the correction, but leave each cell a part of its mass."""
    kept = 0.0
    drained = False
    for i in range(m.size):
        moved = m[i] + share * delta[i]
        least = (1.0 - DRAIN) * m[i]
        drained |= moved < least
        m[i] = max(moved, least)
        kept += m[i]
    if drained and kept > 0.0:
        # Draining less than the correction asks creates mass, which is scaled back in all cells.
        for i in range(m.size):
            m[i] *= total / kept


@jit
def fluxes(r, h, p, psi, reach, up, down, phi, out):
    """Fill ``out`` with ``reach`` times the flux over each edge, shapes (lines, n) and (lines, edges)."""
    lines, n = r.shape
    for j in range(lines):
        for i in range(reach.shape[1]):
            k = i + 1 if i + 1 < n else 0
            out[j, i] = reach[j, i] * _flux(r[j, i], r[j, k], h[j, i], h[j, k], p[j, i], p[j, k], psi[j, i], psi[j, k],
                                            up[j, i], down[j, i], phi[j, i])


@jit
def dissipation(r, h, p, psi, conductance, up, down, phi):
    """Sum over the edges of flux times fall of the first variation, a partial sum for each line."""
    lines, n = r.shape
    sums = np.zeros(lines)
    for j in range(lines):
        for i in range(conductance.shape[1]):
            k = i + 1 if i + 1 < n else 0
            flux = _flux(r[j, i], r[j, k], h[j, i], h[j, k], p[j, i], p[j, k], psi[j, i], psi[j, k],
                         up[j, i], down[j, i], phi[j, i])
            sums[j] += conductance[j, i] * flux * ((h[j, i] - h[j, k]) + (psi[j, i] - psi[j, k]))
    return sums.sum()


@jit
def _half_slope(fall, rise, smooth, most):
    """Return Koren's limited half slopes at the right and left end of a cell, from those on its two sides."""
    low, high = abs(fall), abs(rise)
    limit = low + high if smooth else (2.0 * min(low, high) if fall * rise > 0.0 else 0.0)
    limit = min(limit, most)
    return (max(-limit, min(limit, (fall + 2.0 * rise) / 3.0)), max(-limit, min(limit, (2.0 * fall + rise) / 3.0)))


@jit
def reconstruct(r, h, p, psi, widths, distances, periodic, up, down, phi):
    """Fill the factors of each edge from the density reconstructed at it in the upwind cell.

    A third of the difference on the near side of the cell and two thirds of that on the side of the edge, cut to twice
    the smaller and to 0 at extrema, but left whole where second differences in the cell and its neighbors are alike, so
    that smooth peaks are not clipped. Beside a wall the one difference that exists is taken.
    """
    lines, n = r.shape
    bend, ahead, behind = np.zeros(n), np.empty(n), np.empty(n)
    for j in range(lines):
        for i in range(n):
            if periodic or 0 < i < n - 1:
                a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
                bend[i] = ((r[j, e] - r[j, i]) / distances[i] - (r[j, i] - r[j, a]) / distances[a]) * widths[i]
        for i in range(n):
            most = STEEPEST * r[j, i]
            if periodic or 0 < i < n - 1:
                a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
                fall = 0.5 * widths[i] * (r[j, i] - r[j, a]) / distances[a]
                rise = 0.5 * widths[i] * (r[j, e] - r[j, i]) / distances[i]
                smooth = min(bend[a] * bend[i], bend[e] * bend[i]) > ALIKE * bend[i] * bend[i]
                ahead[i], behind[i] = _half_slope(fall, rise, smooth, most)
            else:
                e, d = (1, distances[0]) if i == 0 else (n - 2, distances[n - 2])
                only = 0.5 * widths[i] * (r[j, e] - r[j, i]) / d * (1.0 if i == 0 else -1.0)
                ahead[i] = behind[i] = max(-most, min(most, only))
        for i in range(up.shape[1]):
            k = i + 1 if i + 1 < n else 0
            up[j, i] = 1.0 + ahead[i] / r[j, i] if r[j, i] > 0.0 else 1.0
            down[j, i] = 1.0 - behind[k] / r[j, k] if r[j, k] > 0.0 else 1.0
            upwind = r[j, i] + ahead[i] if _fall(h[j, i], h[j, k], psi[j, i], psi[j, k]) > 0.0 else r[j, k] - behind[k]
            mean = _mean(r[j, i], r[j, k], h[j, i], h[j, k], p[j, i], p[j, k])
            phi[j, i] = min(max(upwind / mean, LEAST_PHI), LARGEST_PHI) if mean > 0.0 else 1.0


@jit
def push(moved, transfer, share, out):
    """Fill ``out`` with ``moved`` plus ``share`` of the transfers, except beside cells that would become negative.

    With all of them left out ``out`` would be ``moved``, which is non-negative.
    """
    lines, n = moved.shape
    edges = transfer.shape[1]
    line, lacking = np.empty(n + 1), np.empty(n, np.bool_)
    for j in range(lines):
        # line[i] comes into cell i, line[i + 1] goes out of it; on a ring the first is the last.
        line[:] = 0.0
        for i in range(edges):
            line[i + 1] = share[j] * transfer[j, i]
        if edges == n:
            line[0] = line[n]
        # All negative cells are found before any transfer is dropped, so that the order of the cells does not matter.
        dropped = True
        while dropped:
            dropped = False
            for i in range(n):
                lacking[i] = moved[j, i] + (line[i] - line[i + 1]) < 0.0 and (line[i] != 0.0 or line[i + 1] != 0.0)
            for i in range(n):
                if lacking[i]:
                    line[i] = line[i + 1] = 0.0
                    if edges == n and i == 0:
                        line[n] = 0.0
                    if edges == n and i == n - 1:
                        line[0] = 0.0
                    dropped = True
        for i in range(n):
            out[j, i] = max(moved[j, i] + (line[i] - line[i + 1]), 0.0)
