r"""The linearized JKO step, compiled: upwind transport and Hamilton-Jacobi on a graph of cells, internal energies.

Cells are nodes 0, ..., n - 1; an edge e joins first[e] and second[e]. Mass leaves cell K for its neighbor L at the rate
:math:`w_{KL} (\phi_K - \phi_L)^+ M_K` per unit of time, with :math:`w_{KL} = 1 / (d_{KL} h_K)`: the velocity is
:math:`-\nabla \phi`, and the upstream cell gives the density. ``forward[e]`` is w from first to second, ``backward[e]``
the other way. ``starts, cells, rates`` hold the same as rows: the neighbors of K and w out of K.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

__all__ = [
    "assemble", "compensated_dot", "excess_energy", "imbalance", "internal_slopes", "invert_hamiltonian", "multiply",
    "masses_of_slopes", "net_flux", "rows_of_edges", "slopes_of_sums", "transport",
]

#: Below this relative difference a Bregman distance is taken from its quadratic part: its terms cancel.
CLOSE = 1e-5
#: Bound of the logarithm of a density: exp(-745) is the smallest positive float.
LOG_BOUND = 745.0
#: Iterations of the scalar equation for that logarithm.
MAX_SCALAR = 200
#: Excess of a scalar equation, relative to its terms, that round-off explains.
ROUNDING = 4.0 * float(np.finfo(float).eps)


# -------------------------------------------------------------------- transport
@jit
def transport(phi, order, start_masses, tau, starts, cells, rates, masses, hamiltonian):
    r"""Solve the implicit upwind transport of masses by a potential: fill ``masses`` and the Hamiltonian p.

    .. math::
        M_K + \tau \sum_L [ w_{KL} (\phi_K - \phi_L)^+ M_K - w_{LK} (\phi_L - \phi_K)^+ M_L ] = M^0_K, \qquad
        p_K = \phi_K + \tfrac{\tau}{2} \sum_L w_{KL} ((\phi_K - \phi_L)^+)^2.

    Mass runs down the potential, so that the cells can be solved one after the other in falling order of it
    (``order``), by sums and products of non-negative numbers. Return the action,
    :math:`\sum M_K w_{KL} ((\phi_K - \phi_L)^+)^2`.
    """
    action, lost = 0.0, 0.0
    for i in range(phi.size):
        masses[i] = start_masses[i]
    for j in range(phi.size):
        i = order[j]
        out, square = 1.0, 0.0
        for s in range(starts[i], starts[i + 1]):
            fall = phi[i] - phi[cells[s]]
            if fall > 0.0:
                out += tau * rates[s] * fall
                square += rates[s] * fall * fall
        mass = masses[i] / out
        masses[i] = mass
        hamiltonian[i] = phi[i] + 0.5 * tau * square
        action, lost = _add(action, lost, mass * square)
        for s in range(starts[i], starts[i + 1]):
            fall = phi[i] - phi[cells[s]]
            if fall > 0.0:
                masses[cells[s]] += mass * (tau * rates[s] * fall)
    return action + lost


def invert_hamiltonian(pressure, tau, starts, cells, rates, phi, tolerance, iterations):
    r"""Solve :math:`\phi_K + \tfrac{\tau}{2} \sum_L w_{KL} ((\phi_K - \phi_L)^+)^2 = p_K` for phi, from a start.

    Newton's method: the left side is convex and its derivative an M-matrix that is triangular in the order of rising
    potential, so that from the second iterate on it converges monotonically. Return the defect, relative to the size
    of its terms.
    """
    change, worst = np.empty(phi.size), math.inf
    for _ in range(iterations):
        # Sorted here, since NumPy's sort takes a second to compile.
        worst = _hamiltonian_step(pressure, tau, starts, cells, rates, phi, np.argsort(phi), change)
        if worst <= tolerance or not math.isfinite(worst):
            break
        phi += change
    return worst


@jit
def _hamiltonian_step(pressure, tau, starts, cells, rates, phi, order, change):
    """Fill the change of phi by a step of Newton, and return the defect; ``order`` is that of rising potential."""
    n = phi.size
    size = max(abs(phi[order[0]]), abs(phi[order[n - 1]]), 1e-300)
    worst = 0.0
    for j in range(n):
        i = order[j]
        slope, square, right = 1.0, 0.0, 0.0
        for s in range(starts[i], starts[i + 1]):
            fall = phi[i] - phi[cells[s]]
            if fall > 0.0:
                rate = tau * rates[s] * fall
                slope += rate
                square += rate * fall
                if rate > 0.0:
                    right += rate * change[cells[s]]
        defect = pressure[i] - phi[i] - 0.5 * square
        worst = max(worst, abs(defect) / (slope * size))
        change[i] = (defect + right) / slope
    return worst


@jit
def imbalance(masses, start_masses, diagonal, coupling, first, second, right):
    """Fill ``right`` with the start masses less J' M: the residual of the transport equation for M."""
    for i in range(masses.size):
        right[i] = start_masses[i] - diagonal[i, 1] * masses[i]
    for e in range(first.size):
        a, b = first[e], second[e]
        right[b] -= coupling[e, 1] * masses[a]
        right[a] -= coupling[e, 2] * masses[b]


@jit
def net_flux(potential, masses, first, second, forward, backward, change):
    r"""Add the rates :math:`\mathrm{div}(\rho \nabla \chi)` of masses that run down a potential to ``change``.

    Return the action, the sum of mobility times squared falls.
    """
    action = 0.0
    for e in range(first.size):
        a, b = first[e], second[e]
        fall = potential[a] - potential[b]
        mobility = forward[e] * masses[a] if fall > 0.0 else backward[e] * masses[b]
        if mobility > 0.0:
            change[a] -= mobility * fall
            change[b] += mobility * fall
            action += mobility * fall * fall
    return action


# -------------------------------------------------------------------- Newton systems
@jit
def assemble(phi, masses, curvatures, tau, first, second, forward, backward, diagonal, coupling):
    r"""Fill the symmetric matrix of a Newton step, in blocks of two unknowns :math:`(\delta\phi_K, \delta M_K)` a cell.

    With :math:`J = \partial p / \partial \phi` and the weighted Laplacian :math:`L` of the mobility it is
    [[L, J'], [J, -H'']]. Row K of ``diagonal`` is (L, J, -H'') of cell K; row e of ``coupling`` is (L, J, J') between
    first and second: J in the row of the first, and in the row of the second.
    """
    for i in range(phi.size):
        diagonal[i, 0], diagonal[i, 1], diagonal[i, 2] = 0.0, 1.0, -curvatures[i]
    for e in range(first.size):
        a, b = first[e], second[e]
        fall = phi[a] - phi[b]
        coupling[e, 1] = coupling[e, 2] = 0.0
        if fall > 0.0:
            mobility, rate = tau * forward[e] * masses[a], tau * forward[e] * fall
            diagonal[a, 1] += rate
            coupling[e, 1] = -rate
        elif fall < 0.0:
            mobility, rate = tau * backward[e] * masses[b], -tau * backward[e] * fall
            diagonal[b, 1] += rate
            coupling[e, 2] = -rate
        else:
            mobility = 0.5 * tau * (forward[e] * masses[a] + backward[e] * masses[b])
        diagonal[a, 0] += mobility
        diagonal[b, 0] += mobility
        coupling[e, 0] = -mobility


@jit
def multiply(diagonal, coupling, first, second, x, product):
    """Fill ``product`` with the matrix of `assemble` times x, shape (n, 2)."""
    for i in range(x.shape[0]):
        product[i, 0] = diagonal[i, 0] * x[i, 0] + diagonal[i, 1] * x[i, 1]
        product[i, 1] = diagonal[i, 1] * x[i, 0] + diagonal[i, 2] * x[i, 1]
    for e in range(first.size):
        a, b = first[e], second[e]
        laplacian, ahead, behind = coupling[e, 0], coupling[e, 1], coupling[e, 2]
        product[a, 0] += laplacian * x[b, 0] + behind * x[b, 1]
        product[a, 1] += ahead * x[b, 0]
        product[b, 0] += laplacian * x[a, 0] + ahead * x[a, 1]
        product[b, 1] += behind * x[a, 0]


# -------------------------------------------------------------------- internal energies
@jit
def internal_slopes(masses, log_reference, floor, terms, slopes, curvatures):
    """Fill H' of the internal energies at cell masses, and the derivative of H' in the mass.

    ``terms`` is (diffusion, factors, exponents) of the entropy and of powers r^m/(m - 1) of the density relative to the
    reference measure. Below the mass ``floor`` H' is continued by its tangent, so that an empty cell has finite values.
    """
    for i in range(masses.size):
        mass = max(masses[i], floor)
        slope, curvature = _slope(math.log(mass) - log_reference[i], terms)
        curvatures[i] = curvature / mass
        slopes[i] = slope + curvatures[i] * min(masses[i] - floor, 0.0)


@jit
def _slope(y, terms):
    """Return H' and r H'' at r = e^y."""
    diffusion, factors, exponents = terms
    slope, curvature = diffusion * (y + 1.0), diffusion
    for j in range(factors.size):
        m = exponents[j]
        power = factors[j] * m * math.exp((m - 1.0) * y)
        slope += power / (m - 1.0)
        curvature += power
    return slope, curvature


@jit
def masses_of_slopes(slopes, log_reference, terms, masses, derivatives):
    """Invert `internal_slopes`: fill the masses at which H' has given values, and their derivatives in these values.

    Return False if some slope belongs to no mass. With powers above 1 alone, a slope <= 0 means an empty cell.
    """
    diffusion, factors, _ = terms
    for i in range(slopes.size):
        q = slopes[i]
        if factors.size == 0:
            y, curvature = q / diffusion - 1.0, diffusion
        else:
            y = _log_density(0.0, q, terms)
            curvature = _slope(y, terms)[1]
        if not y < LOG_BOUND or y + log_reference[i] >= 0.99 * LOG_BOUND:
            return False
        masses[i] = math.exp(y + log_reference[i]) if y > -LOG_BOUND else 0.0
        derivatives[i] = masses[i] / curvature if masses[i] > 0.0 else 0.0
    return True


@jit
def slopes_of_sums(sums, factor, log_reference, terms, masses, slopes):
    """Solve q + factor M(q) = s in each cell, where M(q) is the mass at which H' is q: fill ``slopes`` with q.

    The left side rises with slope 1 at least; Newton's method in a bracket for the logarithm of the density, from
    ``masses``. With the entropy alone it is Wright's omega function. With powers above 1 alone, s <= 0 means an empty
    cell.
    """
    diffusion, factors, exponents = terms
    bounded = diffusion == 0.0
    for j in range(exponents.size):
        bounded = bounded and exponents[j] > 1.0
    entropy = diffusion > 0.0 and factors.size == 0
    shift = math.log(factor / diffusion) if entropy else 0.0
    for i in range(sums.size):
        s, reference = sums[i], log_reference[i]
        if entropy:
            # With w = factor M / diffusion: w + log w = s / diffusion - 1 + shift.
            rest = s / diffusion - 1.0
            w = _omega(rest + reference + shift)
            y = rest - w if w < 1.0 else math.log(w) - reference - shift
            slopes[i] = diffusion * (min(max(y, -LOG_BOUND), LOG_BOUND) + 1.0)
            continue
        if bounded and s <= 0.0:
            slopes[i] = s
            continue
        low, high = -LOG_BOUND, LOG_BOUND
        y = math.log(masses[i]) - reference if masses[i] > 0.0 else -0.5 * LOG_BOUND
        slope, before = 0.0, math.inf
        for _ in range(MAX_SCALAR):
            slope, curvature = _slope(y, terms)
            mass = factor * math.exp(min(y + reference, LOG_BOUND))
            excess = slope + mass - s
            if excess < math.inf and abs(excess) <= ROUNDING * (abs(slope) + mass + abs(s)):
                break
            if excess > 0.0:
                high = y
            else:
                low = y
            new = y - excess / (curvature + mass) if curvature + mass > 0.0 else math.nan
            if not (low < new < high) or abs(new - y) > 0.5 * before:
                new = 0.5 * (low + high)
            before = abs(new - y)
            y = new
            if before <= 1e-15 * (1.0 + abs(new)):
                break
        slopes[i] = s - factor * math.exp(min(y + reference, LOG_BOUND)) if bounded else _slope(y, terms)[0]


@jit
def _omega(z):
    """Return Wright's omega function, the solution of w + log w = z.

    Two iterations of fourth order from expansions (F. N. Fritsch, R. E. Shafer and W. P. Crowley, Comm. ACM 16 (1973)
    123-124).
    """
    if z < -36.0:
        return math.exp(z) if z > -LOG_BOUND else 0.0
    if z < -2.0:
        w = math.exp(z)
        w *= 1.0 - w * (1.0 - 1.5 * w)
    elif z < 4.0:
        t = z - 1.0
        w = 1.0 + t * (0.5 + t * (0.0625 - t / 192.0))
    else:
        log = math.log(z)
        w = z - log + log / z
    for _ in range(2 if z < -3.0 or z > -1.0 else 3):
        r, t = z - w - math.log(w), 1.0 + w
        u = t * (t + 2.0 / 3.0 * r)
        w *= 1.0 + r / t * (u - 0.5 * r) / (u - r)
    return w


@jit
def excess_energy(masses, pressures, log_reference, floor, terms):
    r"""Return the sum over cells of :math:`H(r) + H^*(q) - r q \ge 0` times the reference measure, at pressures q.

    It vanishes if each q is H'(r), and is the gap between the primal and the dual value of a step. It is infinite where
    the conjugate H^* is.
    """
    diffusion, factors, _ = terms
    total, lost = 0.0, 0.0
    for i in range(masses.size):
        mass, q = max(masses[i], floor), pressures[i]
        y = math.log(mass) - log_reference[i]
        slope, curvature = _slope(y, terms)
        defect = q - slope
        if factors.size == 0:
            x = defect / diffusion
            share = 0.5 * x * x if abs(x) < CLOSE else math.expm1(x) - x
            part = diffusion * mass * share
        elif abs(defect) < CLOSE * curvature:
            part = 0.5 * mass * defect * defect / curvature
        else:
            part = mass * _bregman(y, q, terms)
        total, lost = _add(total, lost, part)
    return total + lost if math.isfinite(total) else math.inf


@jit
def _bregman(y, q, terms):
    """Return (H(r) + H*(q) - r q) / r at r = e^y."""
    z = _log_density(y, q, terms)
    if z >= LOG_BOUND:
        return math.inf
    ratio = math.exp(z - y) if z > -LOG_BOUND else 0.0
    # H(r)/r of both densities, less q times their difference.
    return _per_mass(y, terms) - q - ratio * (_per_mass(z, terms) - q if ratio > 0.0 else 0.0)


@jit
def _per_mass(y, terms):
    """Return H(r) / r at r = e^y."""
    diffusion, factors, exponents = terms
    value = diffusion * y
    for j in range(factors.size):
        value += factors[j] * math.exp((exponents[j] - 1.0) * y) / (exponents[j] - 1.0)
    return value


@jit
def _log_density(y, q, terms):
    """Return the logarithm of the density at which H' is q, by iteration from y; + or - LOG_BOUND if there is none."""
    diffusion, factors, exponents = terms
    if diffusion == 0.0 and factors.size == 1:
        ratio = q * (exponents[0] - 1.0) / (factors[0] * exponents[0])
        if not ratio > 0.0:
            return -LOG_BOUND if exponents[0] > 1.0 else LOG_BOUND
        return min(max(math.log(ratio) / (exponents[0] - 1.0), -LOG_BOUND), LOG_BOUND)
    low, high, before = -LOG_BOUND, LOG_BOUND, math.inf
    for _ in range(MAX_SCALAR):
        slope, curvature = _slope(y, terms)
        if slope > q:
            high = y
        else:
            low = y
        # Newton's method on logarithms where both are positive: a power is then linear.
        step = slope * math.log(slope / q) if slope > 0.0 and q > 0.0 else slope - q
        new = y - step / curvature
        if not (low < new < high) or abs(new - y) > 0.5 * before:
            new = 0.5 * (low + high)
        before = abs(new - y)
        y = new
        if before <= 1e-15 * (1.0 + abs(new)):
            break
    if y > LOG_BOUND - 1.0:
        return LOG_BOUND
    return y if y > 1.0 - LOG_BOUND else -LOG_BOUND


@jit
def _add(total, lost, value):
    """Add a value to a sum with Neumaier's compensation; return the sum and the compensation."""
    new = total + value
    if abs(total) >= abs(value):
        lost += (total - new) + value
    else:
        lost += (value - new) + total
    return new, lost


@jit
def compensated_dot(x, y):
    """Return the inner product of two flat arrays."""
    total, lost = 0.0, 0.0
    for i in range(x.size):
        total, lost = _add(total, lost, x[i] * y[i])
    return total + lost


def rows_of_edges(n, first, second, forward, backward):
    """Return the edges as rows: starts (n + 1,), cells and rates (2 m,), the neighbors of each cell in order."""
    tails, heads = np.concatenate((first, second)), np.concatenate((second, first))
    rates = np.concatenate((forward, backward))
    order = np.lexsort((heads, tails))
    starts = np.zeros(n + 1, dtype=np.int64)
    np.add.at(starts, tails + 1, 1)
    return np.cumsum(starts), heads[order], rates[order]
