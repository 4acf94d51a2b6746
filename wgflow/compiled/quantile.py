r"""The quantile solver, compiled: energies of moving cells and their derivatives, Newton systems, rasters.

Positions :math:`X_0 \le \dots \le X_n` are quantiles at fixed levels; cell i holds the mass :math:`m_i` between
:math:`X_i` and :math:`X_{i+1}`. With the reference measure :math:`e^c r^{q-1} dr` its reference volume is
:math:`v_i = e^c (X_{i+1}^q - X_i^q) / q`, and :math:`L_i = \log v_i` is what internal energies depend on.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

__all__ = [
    "conjugate_step", "excess_widths", "factor_tridiagonal", "forces", "inner_product", "longest_step", "mend", "move",
    "newton_system", "objective", "pool", "raster", "slopes_of_cdf", "solve_tridiagonal", "spread",
    "tridiagonal_product", "weighted_distance",
]


# -------------------------------------------------------------------- internal energies
@jit
def _log_volume(a, b, q):
    """Return log((b^q - a^q) / q), accurate for narrow cells and for large powers; NaN if b <= a."""
    if not b > a:
        return math.nan
    if q == 1.0:
        return math.log(b - a)
    if a <= 0.0 or b - a == b:
        return q * math.log(b) - math.log(q)
    return q * math.log(b) + math.log(-math.expm1(q * math.log1p((a - b) / b))) - math.log(q)


@jit
def objective(x, y, tau, weights, masses, log_masses, terms, values):
    """Return the potential, internal and inertial energy of positions; the sums are compensated (Neumaier).

    ``values`` are those of the potential at the positions. ``terms`` is (diffusion, factors, exponents, q,
    log_constant): the internal energy is the sum over the cells of v H(m / v), the entropy times ``diffusion`` and
    powers r^k / (k - 1) times ``factors``.
    """
    diffusion, factors, exponents, q, log_constant = terms
    potential, inertia, internal = 0.0, 0.0, 0.0
    lost_potential, lost_inertia, lost_internal = 0.0, 0.0, 0.0
    for j in range(x.size):
        potential, lost_potential = _add(potential, lost_potential, weights[j] * values[j])
        inertia, lost_inertia = _add(inertia, lost_inertia, weights[j] * (x[j] - y[j]) ** 2)
    if diffusion > 0.0 or factors.size:
        for i in range(masses.size):
            log_r = log_masses[i] - log_constant - _log_volume(x[i], x[i + 1], q)
            energy = diffusion * log_r
            for j in range(factors.size):
                k = exponents[j]
                energy += factors[j] * math.exp((k - 1.0) * log_r) / (k - 1.0)
            internal, lost_internal = _add(internal, lost_internal, masses[i] * energy)
    return potential + lost_potential, internal + lost_internal, 0.5 * (inertia + lost_inertia) / tau


@jit
def _add(total, lost, term):
    """Add a term to a sum with Neumaier's compensation; return the sum and the compensation."""
    new = total + term
    if abs(total) >= abs(term):
        return new, lost + ((total - new) + term)
    return new, lost + ((term - new) + total)


@jit
def forces(x, y, tau, weights, masses, log_masses, terms, slopes, gradient, diagonal, off):
    """Fill the gradient of the objective, and the diagonal and off-diagonal of the internal energies' Hessian."""
    diffusion, factors, exponents, q, log_constant = terms
    for j in range(x.size):
        gradient[j] = weights[j] * ((x[j] - y[j]) / tau + slopes[j])
        diagonal[j] = 0.0
    off[:] = 0.0
    if diffusion > 0.0 or factors.size:
        _internal_forces(x, masses, log_masses, diffusion, factors, exponents, q, log_constant, gradient, diagonal, off)


@jit
def _internal_forces(x, masses, log_masses, diffusion, factors, exponents, q, log_constant, gradient, diagonal, off):
    """Add the gradient and the Hessian (diagonal, off-diagonal) of the internal energy in the positions.

    With P = -dE/dL and Q = d^2E/dL^2 a cell gives -P grad L, and Q grad L grad L' - P hess L; for the entropy P = D m
    and Q = 0, for a power P = m r^(k-1) and Q = (k - 1) P.
    """
    for i in range(masses.size):
        a, b = x[i], x[i + 1]
        log_r = log_masses[i] - log_constant - _log_volume(a, b, q)
        pressure, stiffness = diffusion * masses[i], 0.0
        for j in range(factors.size):
            k = exponents[j]
            part = factors[j] * masses[i] * math.exp((k - 1.0) * log_r)
            pressure += part
            stiffness += (k - 1.0) * part
        if q == 1.0:
            s = 1.0 / (b - a)
            la, lb, laa, lab, lbb = -s, s, -s * s, s * s, -s * s
        elif a <= 0.0 or b - a == b:
            la, lb, laa, lab, lbb = 0.0, q / b, 0.0, 0.0, -q / (b * b)
            if q == 2.0:
                laa = -2.0 / (b * b)
        else:
            exponent = q * math.log1p((a - b) / b)
            t, u = math.exp(exponent), -math.expm1(exponent)
            la, lb = -q * t / (a * u), q / (b * u)
            laa = -q * t * (q - u) / (a * a * u * u)
            lbb = -q * (u + q * t) / (b * b * u * u)
            lab = q * q * t / (a * b * u * u)
        gradient[i] -= pressure * la
        gradient[i + 1] -= pressure * lb
        diagonal[i] += stiffness * la * la - pressure * laa
        diagonal[i + 1] += stiffness * lb * lb - pressure * lbb
        off[i] += stiffness * la * lb - pressure * lab


# -------------------------------------------------------------------- Newton's method
@jit
def factor_tridiagonal(diagonal, off, pinned, pivots, multipliers):
    """Factor a symmetric tridiagonal matrix without its pinned rows as L D L'; False if it is not positive definite."""
    n = diagonal.size
    positive = True
    for j in range(n):
        multipliers[j] = 0.0
        if pinned[j]:
            pivots[j] = 1.0
            continue
        pivots[j] = diagonal[j]
        if j > 0 and not pinned[j - 1]:
            multipliers[j] = off[j - 1] / pivots[j - 1]
            pivots[j] -= multipliers[j] * off[j - 1]
        # A pivot that has lost all its digits counts as not positive.
        if not pivots[j] > 1e-15 * abs(diagonal[j]):
            positive = False
            pivots[j] = max(abs(diagonal[j]), 1e-300)
    return positive


@jit
def solve_tridiagonal(pivots, multipliers, pinned, right, out):
    """Solve with the factors of `factor_tridiagonal`; 0 in pinned rows."""
    n = right.size
    for j in range(n):
        out[j] = 0.0 if pinned[j] else right[j]
        if j > 0:
            out[j] -= multipliers[j] * out[j - 1]
    out[n - 1] /= pivots[n - 1]
    for j in range(n - 2, -1, -1):
        out[j] = out[j] / pivots[j] - multipliers[j + 1] * out[j + 1]


@jit
def tridiagonal_product(diagonal, off, pinned, p, far, product):
    """Fill ``product`` with a tridiagonal matrix times p, plus ``far``, 0 in pinned rows; return p times product."""
    n = p.size
    total = 0.0
    for j in range(n):
        y = diagonal[j] * p[j] + far[j]
        if j > 0:
            y += off[j - 1] * p[j - 1]
        if j < n - 1:
            y += off[j] * p[j + 1]
        product[j] = 0.0 if pinned[j] else y
        total += p[j] * product[j]
    return total


@jit
def conjugate_step(share, p, product, direction, left, pivots, multipliers, pinned, z):
    """Move ``direction`` by a share of p, ``left`` by that of -product; solve for z and return left times z."""
    n = p.size
    for j in range(n):
        direction[j] += share * p[j]
        left[j] -= share * product[j]
    solve_tridiagonal(pivots, multipliers, pinned, left, z)
    total = 0.0
    for j in range(n):
        total += left[j] * z[j]
    return total


@jit
def newton_system(x, tau, weights, curvatures, bounds, gradient, diagonal, off, pinned, pivots, multipliers):
    """Complete the tridiagonal part of the Hessian in ``diagonal`` and ``off``, in place, and factor it.

    Positions that a wall holds are pinned, and their gradient is set to 0. If that part is not positive definite the
    concave part of the potential is left out, so that the Newton direction is one of descent.
    """
    low, high = bounds
    for j in range(x.size):
        pinned[j] = (x[j] <= low and gradient[j] >= 0.0) or (x[j] >= high and gradient[j] <= 0.0)
        if pinned[j]:
            gradient[j] = 0.0
        diagonal[j] += weights[j] * (1.0 / tau + curvatures[j])
    if not factor_tridiagonal(diagonal, off, pinned, pivots, multipliers):
        for j in range(x.size):
            diagonal[j] -= weights[j] * min(curvatures[j], 0.0)
        factor_tridiagonal(diagonal, off, pinned, pivots, multipliers)


@jit
def move(x, p, share, bounds):
    """Return x + share p, kept between the walls."""
    low, high = bounds
    out = np.empty(x.size)
    for j in range(x.size):
        out[j] = min(max(x[j] + share * p[j], low), high)
    return out


@jit
def mend(x, new, least, weights, bounds):
    """Move the lighter end of each cell that became narrower than the part ``least`` of what it was in x; in place.

    One small cell then does not shorten the step of all others. Positions at a wall stay there. Cells that this cannot
    widen are left as they are.
    """
    low, high = bounds
    n = x.size
    for j in range(1, n):
        width = least * (x[j] - x[j - 1])
        if new[j] - new[j - 1] < width and (weights[j] <= weights[j - 1] or new[j - 1] <= low) and new[j] < high:
            new[j] = min(new[j - 1] + width, high)
    for j in range(n - 2, -1, -1):
        width = least * (x[j + 1] - x[j])
        if new[j + 1] - new[j] < width and (weights[j] < weights[j + 1] or new[j + 1] >= high) and new[j] > low:
            new[j] = max(new[j + 1] - width, low)


@jit
def pool(x, new, least, weights, bounds):
    """Move ``new``, in place, to the nearest positions whose cells are at least the part ``least`` of those of x.

    For laws that end in fronts, where many cells are inverted at once. Nearest in the metric of the masses: light
    positions give way to heavy ones, and one small cell does not shorten the step of all others. With the least widths
    taken off this is isotonic regression, found by pooling adjacent violators. Positions that need not move keep their
    bits.
    """
    n = x.size
    narrow = False
    for j in range(1, n):
        narrow = narrow or new[j] - new[j - 1] < least * (x[j] - x[j - 1])
    if not narrow:
        return
    places, masses, counts = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
    blocks, taken = 0, 0.0
    for j in range(n):
        if j > 0:
            taken += least * (x[j] - x[j - 1])
        place, mass, count = new[j] - taken, weights[j], 1
        while blocks > 0 and places[blocks - 1] > place:
            blocks -= 1
            whole = masses[blocks] + mass
            place += (places[blocks] - place) * (masses[blocks] / whole)
            mass = whole
            count += counts[blocks]
        places[blocks], masses[blocks], counts[blocks] = place, mass, count
        blocks += 1
    low, high = bounds
    high -= taken
    taken, j = 0.0, 0
    for block in range(blocks):
        place = min(max(places[block], low), high)
        for _ in range(counts[block]):
            if j > 0:
                taken += least * (x[j] - x[j - 1])
            if counts[block] > 1 or place != places[block]:
                new[j] = place + taken
            j += 1


@jit
def longest_step(x, p):
    """Return the largest s <= 1 / 0.9 for which no cell of x + s p has a negative width."""
    # Tracked as the largest shrinking rate, so that the division happens once.
    rate = 0.9
    for i in range(x.size - 1):
        width, change = x[i + 1] - x[i], p[i + 1] - p[i]
        if change < -rate * width:
            rate = -change / width if width > 0.0 else math.inf
    return 1.0 / rate


@jit
def inner_product(a, b):
    """Return the inner product of two arrays."""
    total = 0.0
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@jit
def weighted_distance(a, b, weights):
    """Return the sum of w (a - b)^2: the squared Wasserstein distance of two laws with the same levels."""
    total = 0.0
    for j in range(a.size):
        total += weights[j] * (a[j] - b[j]) ** 2
    return total


@jit
def spread(x, weights):
    """Return the standard deviation of the law."""
    mass, mean, square = 0.0, 0.0, 0.0
    for j in range(x.size):
        mass += weights[j]
        mean += weights[j] * x[j]
    mean /= mass
    for j in range(x.size):
        square += weights[j] * (x[j] - mean) ** 2
    return math.sqrt(square / mass)


# -------------------------------------------------------------------- between grids and positions
@jit
def excess_widths(x, masses, edges, widest, lightest):
    """Return how many cells of the grid each cell spans, over ``widest``; 0 if that is at most 1, or the cell light."""
    n, last = masses.size, edges.size - 2
    out = np.zeros(n)
    k, left = 0, 0.0
    for j in range(n + 1):
        while k < last and x[j] >= edges[k + 1]:
            k += 1
        right = k + (x[j] - edges[k]) / (edges[k + 1] - edges[k])
        if j > 0 and masses[j - 1] > lightest and right - left > widest:
            out[j - 1] = (right - left) / widest
        left = right
    return out


@jit
def slopes_of_cdf(x, masses):
    """Return the slopes at the nodes of a monotone cubic through the cumulated masses: the density there.

    It is the derivative of the quartic through five nodes where the cells are even, else of the parabola through three,
    limited to three times the smaller neighbor, which keeps each cubic monotone (Fritsch and Carlson).
    """
    n = masses.size
    density = np.empty(n)
    for i in range(n):
        density[i] = masses[i] / max(x[i + 1] - x[i], 1e-300)
    slopes = np.empty(n + 1)
    for j in range(1, n):
        a, b = x[j] - x[j - 1], x[j + 1] - x[j]
        value = 0.5 * (density[j - 1] + density[j]) if a + b <= 0 else (density[j - 1] * b + density[j] * a) / (a + b)
        if 2 <= j <= n - 2:
            c, d = x[j - 1] - x[j - 2], x[j + 2] - x[j + 1]
            if max(a, b, c, d) <= 1.001 * min(a, b, c, d):
                value = (7.0 * (density[j - 1] + density[j]) - density[j - 2] - density[j + 1]) / 12.0
        slopes[j] = max(0.0, min(value, 3.0 * min(density[j - 1], density[j])))
    slopes[0] = max(0.0, min(1.5 * density[0] - 0.5 * slopes[1], 3.0 * density[0]))
    slopes[n] = max(0.0, min(1.5 * density[n - 1] - 0.5 * slopes[n - 1], 3.0 * density[n - 1]))
    return slopes


@jit
def _share(t, left, right):
    """Return the part of a cell's mass below the relative place t, by the monotone cubic with these end slopes."""
    return t * (left + t * (3.0 - 2.0 * left - right + t * (left + right - 2.0)))


@jit
def raster(x, masses, edges):
    """Return the masses of moving cells between the edges of a grid, each by its monotone cubic; none is lost."""
    slopes = slopes_of_cdf(x, masses)
    n, out = masses.size, np.zeros(edges.size - 1)
    last = out.size - 1
    k = 0
    for i in range(n):
        width = x[i + 1] - x[i]
        while k < last and x[i] >= edges[k + 1]:
            k += 1
        if x[i + 1] <= edges[k + 1] or k == last or width <= 0.0:
            out[k] += masses[i]
            continue
        left, right = slopes[i] * width / masses[i], slopes[i + 1] * width / masses[i]
        below, cell = 0.0, k
        while cell < last and edges[cell + 1] < x[i + 1]:
            share = _share((edges[cell + 1] - x[i]) / width, left, right)
            out[cell] += masses[i] * max(share - below, 0.0)
            below = max(share, below)
            cell += 1
        out[cell] += masses[i] * max(1.0 - below, 0.0)
    return out
