r"""A law on an interval of the line, carried by points between which its masses stay: readings, and implicit steps.

Points :math:`X_0 < \dots < X_n` have the masses :math:`m_i` between them. Near an end at which the law is a power,
the mass between it and x is :math:`S(x) \approx c\,|x - X_0|^p`, so that :math:`S^{1/p}` is smooth in x: it is
interpolated by monotone cubics, from either end up to half of the mass. Masses between given places follow with the end
of the support anywhere in a cell.

Nonlinear diffusion with the pressure :math:`P = a \rho^k` in a potential V moves them by

.. math:: w_j \dot X_j = -\partial_j E(X), \qquad
          E = \sum_i \frac{a\,m_i}{k - 1} \Big(\frac{m_i}{X_{i+1} - X_i}\Big)^{k-1} + \sum_j w_j V(X_j),

the flow of the energy in the metric of W2 (dX/dt = -dP/ds - V' in the mass coordinate s), with the node weights of
`node_weights`.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

__all__ = [
    "charge_jacobian", "charge_velocities", "factor_step", "masses_between", "newton_correction", "node_weights",
    "solve_step", "velocities",
]

#: Cells of less than this part of the mass before them are far from the end: their mass is halved evenly.
FAR = 1e-6
#: Largest exponent of the mass beyond an end.
FLATTEST = 6.0
#: A correction moves a point by no more than this part of the way to its neighbor, relative to each other.
SHORTENED = 0.9


# -------------------------------------------------------------------- masses between places
@jit
def _slopes(x, z):
    """Return slopes at the nodes of a rising function: of the quartic through five of them, kept monotone."""
    n = x.size
    slopes = np.empty(n)
    for j in range(1, n - 1):
        before, after = (z[j] - z[j - 1]) / (x[j] - x[j - 1]), (z[j + 1] - z[j]) / (x[j + 1] - x[j])
        reach = 2 if 2 <= j < n - 2 else 1
        value = 0.0
        for k in range(j - reach, j + reach + 1):
            if k == j:
                continue
            weight = 1.0 / (x[k] - x[j])
            for i in range(j - reach, j + reach + 1):
                if i != k and i != j:
                    weight *= (x[j] - x[i]) / (x[k] - x[i])
            value += weight * (z[k] - z[j])
        slopes[j] = max(0.0, min(value, 3.0 * min(before, after)))
    for j, k, i in ((0, 1, 2), (n - 1, n - 2, n - 3)):
        near, far = (z[k] - z[j]) / (x[k] - x[j]), (z[i] - z[k]) / (x[i] - x[k])
        value = near + (far - near) / (x[i] - x[j]) * (x[j] - x[k])
        slopes[j] = max(0.0, min(value, 3.0 * near))
    return slopes


@jit
def _exponent(near, far, less, more):
    """Return the power of the distance that has given masses at two distances, between 1 and FLATTEST."""
    return min(max(math.log(more / less) / math.log(far / near), 1.0), FLATTEST)


@jit
def masses_between(x, below, above, exponents, places, out):
    """Fill the masses between rising places, by powers of monotone cubics; their sum is that of the law within.

    Parameters
    ----------
    x, below, above : arrays, shape (n + 1,)
        The points, and the masses on both sides of each.
    exponents : (float, float)
        p at the two ends: the mass beyond a place grows like the power p of the distance from the end. Where one is 0
        it is that of the first two points from the end.
    places : array, shape (k + 1,)
    out : array, shape (k,)
    """
    n = x.size - 1
    p = exponents[0] if exponents[0] > 0.0 else _exponent(x[1] - x[0], x[2] - x[0], below[1], below[2])
    q = exponents[1] if exponents[1] > 0.0 else _exponent(x[n] - x[n - 1], x[n] - x[n - 2], above[n - 1], above[n - 2])
    first, last = 1.0 / p, 1.0 / q
    rising, falling = below**first, -above**last
    up, down = _slopes(x, rising), _slopes(x, falling)
    total, k = below[n], 0
    left, mass, was_left = 0.0, 0.0, True
    for i in range(places.size):
        y = places[i]
        while k < n - 1 and y >= x[k + 1]:
            k += 1
        h = x[k + 1] - x[k]
        t = min(max((y - x[k]) / h, 0.0), 1.0)
        s, u = t * t * (3.0 - 2.0 * t), h * t * (1.0 - t)
        is_left = below[k] + below[k + 1] < above[k] + above[k + 1]
        if is_left:
            value = rising[k] + s * (rising[k + 1] - rising[k]) + u * ((1.0 - t) * up[k] - t * up[k + 1])
            mass = max(value, 0.0) ** p
        else:
            value = falling[k] + s * (falling[k + 1] - falling[k]) + u * ((1.0 - t) * down[k] - t * down[k + 1])
            mass = max(-value, 0.0) ** q
        if i > 0:
            if was_left and is_left:
                part = mass - left
            elif is_left or not was_left:
                part = left - mass
            else:
                part = total - left - mass
            out[i - 1] = max(part, 0.0)
        left, was_left = mass, is_left


# -------------------------------------------------------------------- nonlinear diffusion
@jit
def _shares(masses, power):
    r"""Return the part of each cell's mass before the level at which the pressure of the cell's mean density is taken.

    For a front at the beginning: :math:`x = s^{1/p}`, :math:`p = k/(k - 1)`, and the pressure is proportional to s.
    """
    p = power / (power - 1.0)
    out, below = np.empty(masses.size), 0.0
    for i in range(masses.size):
        if below == 0.0:
            out[i] = p**-power
        elif masses[i] < FAR * below:
            out[i] = 0.5
        else:
            ratio = masses[i] / below
            width = math.expm1(math.log1p(ratio) / p) * p / ratio
            out[i] = math.expm1(-power * math.log(width)) / ratio
        below += masses[i]
    return out


@jit
def node_weights(masses, power):
    r"""Return the masses that stand for the n + 1 points: their sum is that of the n cells.

    Inside they are about half of the two cells beside each. With them the discrete equation is exact for a front that
    moves at constant velocity, :math:`\rho \sim |x - X_0|^{1/(k-1)}`, at either end.
    """
    n = masses.size
    first, last = _shares(masses, power), _shares(masses[::-1], power)[::-1]
    weights = np.zeros(n + 1)
    for i in range(n):
        share = first[i] + 0.5 - last[i]
        weights[i] += share * masses[i]
        weights[i + 1] += (1.0 - share) * masses[i]
    return weights


@jit
def velocities(x, masses, weights, power, factor, slopes, out):
    """Fill the velocities of the points; ``slopes`` are those of V there."""
    n = masses.size
    before = 0.0
    for j in range(n + 1):
        after = factor * (masses[j] / (x[j + 1] - x[j])) ** power if j < n else 0.0
        out[j] = (before - after) / weights[j] - slopes[j]
        before = after


@jit
def newton_correction(x, start, time, masses, weights, power, factor, slopes, bends):
    """Correct the points of an implicit Euler step from ``start``, in place; return the largest correction, or NaN.

    The step is the minimum of E(x) + |x - start|^2 / (2 time), which is convex where V is, and infinite where points
    meet: points keep their order. ``slopes`` and ``bends`` are the derivatives of V at the points; a V that is more
    concave than the step is short counts as flat. A correction that was shortened is infinite.
    """
    n = masses.size
    pivots, right = np.empty(n + 1), np.empty(n + 1)
    off = 0.0
    before = 0.0
    multiplier = 0.0
    stiff = np.empty(n)
    for j in range(n + 1):
        after, hard = 0.0, 0.0
        if j < n:
            h = x[j + 1] - x[j]
            after = factor * (masses[j] / h) ** power
            hard = power * after / h
            stiff[j] = hard
        bend = 1.0 / time + bends[j]
        diagonal = weights[j] * (bend if bend > 0.0 else 1.0 / time) + off + hard
        force = before - after - weights[j] * ((x[j] - start[j]) / time + slopes[j])
        if j > 0:
            multiplier = off / pivots[j - 1]
            diagonal -= multiplier * off
            force += multiplier * right[j - 1]
        pivots[j], right[j] = diagonal, force
        before, off = after, hard
    right[n] /= pivots[n]
    for j in range(n - 1, -1, -1):
        right[j] = (right[j] + stiff[j] * right[j + 1]) / pivots[j]
    rate, largest = SHORTENED, 0.0
    for j in range(n):
        rate = max(rate, (right[j] - right[j + 1]) / (x[j + 1] - x[j]))
    for j in range(n + 1):
        if not math.isfinite(right[j]):
            return math.nan
        largest = max(largest, abs(right[j]))
        x[j] += right[j] * (SHORTENED / rate)
    return largest if rate <= SHORTENED else math.inf


# -------------------------------------------------------------------- charges
@jit
def _middles(x, masses, y, mu):
    """Fill the middles of the cells in the index of the points, and the masses that stand there; see below."""
    n = masses.size
    for i in range(n):
        before, after = masses[i - 1] if i > 0 else masses[0], masses[i + 1] if i < n - 1 else masses[n - 1]
        mu[i] = (26.0 * masses[i] - before - after) / 24.0
        left, right = x[i - 1] if i > 0 else x[1], x[i + 2] if i < n - 1 else x[n - 1]
        y[i] = (9.0 * (x[i] + x[i + 1]) - left - right) / 16.0


@jit
def charge_velocities(x, masses, repulsion, attraction, slopes, out):
    r"""Fill the velocities of points by a logarithmic repulsion and a quadratic attraction.

    .. math:: \dot X_j = \sum_i \mu_i \Big[\frac{\chi}{X_j - Y_i} - k (X_j - Y_i)\Big] - V'(X_j)

    with Y the middles of the cells in the index of the points, X being an even function of it at both ends, and mu the
    derivatives of the masses there, S being odd.
    """
    n = masses.size
    y, mu = np.empty(n), np.empty(n)
    _middles(x, masses, y, mu)
    total = first = 0.0
    for i in range(n):
        total += mu[i]
        first += mu[i] * y[i]
    for j in range(n + 1):
        force = 0.0
        for i in range(n):
            force += mu[i] / (x[j] - y[i])
        out[j] = repulsion * force - attraction * (total * x[j] - first) - slopes[j]


@jit
def charge_jacobian(x, masses, repulsion, attraction, bends, out):
    """Fill the derivatives of the velocities of `charge_velocities`, (n + 1, n + 1); ``bends`` are those of V'."""
    n = masses.size
    y, mu = np.empty(n), np.empty(n)
    _middles(x, masses, y, mu)
    out[:, :] = 0.0
    for j in range(n + 1):
        own = -bends[j]
        for i in range(n):
            near = 1.0 / (x[j] - y[i])
            rate = mu[i] * (repulsion * near * near + attraction)
            own -= rate
            out[j, i] += 9.0 / 16.0 * rate
            out[j, i + 1] += 9.0 / 16.0 * rate
            out[j, i - 1 if i > 0 else 1] -= rate / 16.0
            out[j, i + 2 if i < n - 1 else n - 1] -= rate / 16.0
        out[j, j] += own


@jit
def factor_step(jacobian, time):
    """Replace the derivatives v' by the factors of 1 - time v' = L R, without pivots; 1 on the diagonal of L.

    The matrix is nearly that of a convex function in the metric of the masses, whose pivots are positive.
    """
    n = len(jacobian)
    for i in range(n):
        for j in range(n):
            jacobian[i, j] *= -time
        jacobian[i, i] += 1.0
    for k in range(n):
        for i in range(k + 1, n):
            share = jacobian[i, k] / jacobian[k, k]
            jacobian[i, k] = share
            for j in range(k + 1, n):
                jacobian[i, j] -= share * jacobian[k, j]


@jit
def solve_step(factors, right):
    """Solve with the factors of `factor_step`, in place."""
    n = right.size
    for i in range(n):
        total = right[i]
        for j in range(i):
            total -= factors[i, j] * right[j]
        right[i] = total
    for i in range(n - 1, -1, -1):
        total = right[i]
        for j in range(i + 1, n):
            total -= factors[i, j] * right[j]
        right[i] = total / factors[i, i]
