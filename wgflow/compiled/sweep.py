r"""One sweep of the finite-volume step along one axis, for many lines of cells at a time.

The state is the masses m of the cells. Rates along a line are those of Scharfetter and Gummel, with v the rise of Psi
over an edge, D = 1/beta and the Bernoulli function B (`_bernoulli`):

    right[i] = D B(v/D) / (h_i d),   left[i+1] = D B(-v/D) / (h_{i+1} d),   B(z) = z / (e^z - 1),

which is upwind at D = 0. `_correct` multiplies both rates of an edge by one positive factor that removes the leading
error of these fluxes; it changes neither the Gibbs state nor the signs of the fluxes, so that the energy still falls.

J(s) = (I - s L)^{-1} with L the generator of these rates is a stochastic matrix and is applied by an elimination that
never subtracts (the idea of Grassmann, Taksar and Heyman 1985): each entry is positive and accurate relative to
itself, however large s.

Second-order step: J^2 m + sqrt(2) (J^2 - J) m with J = J(gamma dt), gamma = 1 - 1/sqrt(2), the L-stable second-order
combination. Around cells where it is negative the fluxes of the modified Patankar step (Burchard, Deleersnijder and
Meister 2003) are taken instead, which is positive and of second order as well. The LIMITED modes go over to
J(dt/2)^2 m there, which is of first order; the result then depends continuously on Psi, and all of its terms lower
the energy of the frozen Psi. A scheme that solves for Psi needs both.

Arrays of lines are (n, W) blocks, W lines side by side, so that the recursions along i vectorize across lines; loops
without a recursion run over the flat block, so that a single line vectorizes as well.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: Lines that are swept side by side: long enough runs to vectorize, short enough for the working set to stay in cache.
WIDTH = 32
#: Modes of `sweep`: second order, with plain or with corrected fluxes;
PLAIN, CORRECTED = 0, 1
#: implicit Euler, with plain fluxes.
IMPLICIT_EULER = 2
#: Modes of `limited_sweep`: second order limited by J(dt/2)^2, with plain or with corrected fluxes;
LIMITED_PLAIN, LIMITED_CORRECTED = 3, 4
#: J(dt/2)^2 itself, with plain fluxes.
HALVES = 5
#: Cache modes: the rates of an axis are formed and forgotten, formed and kept, or taken from the cache;
NO_CACHE, FILL_CACHE, USE_CACHE = 0, 1, 2
#: or, of `limited_sweep`, the factors by which they are corrected are kept, or taken.
FILL_FACTORS, USE_FACTORS = 3, 4
#: Bounds of the factors that are kept, wider than those of the two corrections together.
LEAST_FACTOR, LARGEST_FACTOR = 0.02, 5.0
#: Part of the safe mass that a limited cell keeps at most.
LEFT = 0.1
GAMMA = 1.0 - math.sqrt(0.5)
ROOT2 = math.sqrt(2.0)
LOG2E = 1.0 / math.log(2.0)
# ln 2 in two parts, the first with 32 bits, so that n * LN2_HIGH is exact for the n met here.
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
#: exp(-708) is close to the smallest normal number; for larger z the rates up the slope are practically zero. Numbers
#: are cut by min(EXP_LIMIT, z), which makes 708 of NaN, too: min(z, EXP_LIMIT) would look for NaN in a table.
EXP_LIMIT = 708.0
#: Below this z the Bernoulli function is summed as a series: 1 - exp(-z) would cancel.
SERIES_LIMIT = 0.1
#: A line is at rest if no more than this part of its mass moves (16 ulp): the fluxes of a Gibbs state vanish up to the
#: round-off of exp, which is some ulp times beta Psi;
REST = 16 * 2.0**-52
#: and if no cell changes by more than this part of its own mass.
REST_OF_CELL = 1e-12
TINY = 5e-324
#: Squares of fluxes, and masses, below this have few digits left; they are not corrected.
SQUARES = 1e-290
#: The density counts as smooth in a cell if the second differences of both neighbors have its sign and this part of it.
ALIKE = 0.25
#: If less than this part of the correction would come from the density, all of it comes from the flux.
WIND_LIMIT = 1e-3
POWERS_OF_TWO = 2.0 ** -np.arange(1025.0)
TAYLOR = tuple(1.0 / math.factorial(k) for k in range(14))


@jit
def _exp_minus(q):
    """Return exp(-q) for 0 <= q <= 708, to about 1 ulp; without calls or branches, so that loops over it vectorize."""
    n = math.floor(q * LOG2E + 0.5)
    r = (n * LN2_HIGH - q) + n * LN2_LOW
    p = TAYLOR[13]
    p = p * r + TAYLOR[12]
    p = p * r + TAYLOR[11]
    p = p * r + TAYLOR[10]
    p = p * r + TAYLOR[9]
    p = p * r + TAYLOR[8]
    p = p * r + TAYLOR[7]
    p = p * r + TAYLOR[6]
    p = p * r + TAYLOR[5]
    p = p * r + TAYLOR[4]
    p = p * r + TAYLOR[3]
    p = p * r + TAYLOR[2]
    p = p * r + 1.0
    p = p * r + 1.0
    return p * POWERS_OF_TWO[np.uint64(n)]


@jit
def _bernoulli(a, diffusion, inverse):
    """Return D B(a/D) for a >= 0, B(z) = z / (e^z - 1) the Bernoulli function: the rate up a rise a of Psi."""
    q = min(EXP_LIMIT, a * inverse)
    e = _exp_minus(q)
    q2 = q * q
    series = 1.0 - 0.5 * q + q2 * (1 / 12 - q2 * (1 / 720 - q2 * (1 / 30240 - q2 * (1 / 1209600))))
    return diffusion * series if q < SERIES_LIMIT else a * e / (1.0 - e)


@jit
def _regular_from(h, distance):
    """Return the first edge from which on all edges but the last share their geometry; h.size if there is none."""
    n = h.size
    for i in range(2, n):
        if h[i] != h[1]:
            return n
    if h[0] == h[1]:
        return 1
    for i in range(1, distance.size):
        if distance[i] != distance[0]:
            return n
    return 2


# For short compilation arrays are filled, copied and searched by loops (slices, min, max and the like take seconds),
# and large functions that few others call are inlined: otherwise everything below them is optimized again for each.
@jit
def _fill(x, start, stop, value):
    """Set entries of a flat array to a number."""
    for t in range(start, stop):
        x[t] = value


@jit
def _copy(x, y):
    """Copy a flat array x to y."""
    for t in range(x.size):
        y[t] = x[t]


@jit
def _any(x):
    """Return whether a flat array has an entry other than 0."""
    for t in range(x.size):
        if abs(x[t]) > 0.0:
            return True
    return False


@jit
def _any_negative(x, j):
    """Return whether line j of a block has a negative cell."""
    for i in range(x.shape[0]):
        if x[i, j] < 0.0:
            return True
    return False


@jit
def _segment(i, n, regular):
    """Return the end of the run of edges, from edge i on, that share their geometry and have two neighbors each."""
    return n - 2 if regular <= i < n - 2 else i + 1


@jit
def _rates(psi, diffusion, h, distance, periodic, regular, width, right, left):
    """Fill the rates at unit time from each cell of a block to its right and left neighbor; flat (n * width) arrays."""
    n = h.size
    _fill(right, (n - 1) * width, n * width, 0.0)
    _fill(left, 0, width, 0.0)
    inverse = 1.0 / diffusion if diffusion > 0.0 else 0.0
    edges = n if periodic else n - 1
    i = 0
    while i < edges:
        stop = _segment(i, n, regular)
        k = i + 1 if i + 1 < n else 0
        here, there = 1.0 / (h[i] * distance[i]), 1.0 / (h[k] * distance[i])
        count = (stop - i) * width
        psi_c, psi_e = psi[i * width:][:count], psi[k * width:][:count]
        right_c, left_e = right[i * width:][:count], left[k * width:][:count]
        if diffusion > 0.0:
            for t in range(count):
                rise = psi_e[t] - psi_c[t]
                up = _bernoulli(abs(rise), diffusion, inverse)
                right_c[t] = here * (up + max(-rise, 0.0))
                left_e[t] = there * (up + max(rise, 0.0))
        else:
            for t in range(count):
                rise = psi_e[t] - psi_c[t]
                right_c[t] = here * max(-rise, 0.0)
                left_e[t] = there * max(rise, 0.0)
        i = stop


@jit
def _curve(psi, diffusion, h, distance, periodic, regular, width, right, left, lean, wind, factor):
    """Account for the curvature of Psi in the rates, and fill how far the fluxes lie off the middle of the edges.

    Scharfetter-Gummel fluxes take Psi as linear between two centers. They depend on the average of exp(Psi/D) over the
    edge, which a second derivative Psi'' changes by the factor 1 - Psi'' d^2 L / (2 dPsi), and they are the flux at a
    point L d/2 uphill of the middle of the edge. L = coth(q/2) - 2/q (Langevin), q = dPsi/D; at D = 0 it is the sign of
    dPsi. L goes to ``lean``; the rates are multiplied by the factor, cut to [1/2, 3/2].

    Where the second difference of Psi exceeds D (everywhere at D = 0) the flux has no smooth profile near a minimum of
    Psi, and the density upwind of the edge is reconstructed instead: L goes to ``wind`` in that proportion.
    """
    n = h.size
    edges = n if periodic else n - 1
    inverse = 1.0 / diffusion if diffusion > 0.0 else 0.0
    square = diffusion * diffusion
    i = 0
    while i < edges:
        stop = _segment(i, n, regular)
        before, k = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        after = k + 1 if k + 1 < n else 0
        # The second differences at the two cells of the edge, averaged; a cell at a wall has none.
        inner_a, inner_b = periodic or i > 0, periodic or k < n - 1
        share = 0.0 if not (inner_a or inner_b) else (0.5 if inner_a and inner_b else 1.0)
        d = distance[i]
        da, db = distance[before] if inner_a else d, distance[k] if inner_b else d
        weight_a = share * d * 2.0 / (d + da) if inner_a else 0.0
        weight_b = share * d * 2.0 / (d + db) if inner_b else 0.0
        own, behind, ahead = weight_a - weight_b, weight_a * d / da, weight_b * d / db
        count = (stop - i) * width
        psi_a, psi_c = psi[before * width:][:count], psi[i * width:][:count]
        psi_e, psi_g = psi[k * width:][:count], psi[after * width:][:count]
        lean_c, wind_c, factor_c = (lean[i * width:][:count], wind[i * width:][:count], factor[i * width:][:count])
        for t in range(count):
            rise = psi_e[t] - psi_c[t]
            bend = own * rise - behind * (psi_c[t] - psi_a[t]) + ahead * (psi_g[t] - psi_e[t])
            smooth = square / max(square + bend * bend, TINY)
            q = min(EXP_LIMIT, abs(rise) * inverse)
            ratio = _exp_minus(q)
            # L(q) and L(q) / rise; the series also serves where a rise is 0 up to round-off.
            series = 1.0 / 6.0 - q * q * (1.0 / 360.0 - q * q * (1.0 / 15120.0))
            size = q * series if q < SERIES_LIMIT else (1.0 + ratio) / (1.0 - ratio) - 2.0 / (abs(rise) * inverse)
            size = size if diffusion > 0.0 else 1.0
            slope = inverse * series if q < SERIES_LIMIT else size / max(abs(rise), TINY)
            size = size if rise > 0.0 else -size
            size = size if rise != 0.0 else 0.0
            lean_c[t] = size * smooth
            blow = size * (1.0 - smooth)
            wind_c[t] = blow if abs(blow) > WIND_LIMIT else 0.0
            part = 0.5 * bend * slope * smooth
            factor_c[t] = 1.0 + max(-0.5, min(0.5, part))
        _apply(factor_c, right[i * width:], left[k * width:])
        i = stop


@jit
def _apply(factor, right, left):
    """Multiply the two rates of each edge by its factor."""
    for t in range(factor.size):
        right[t] *= factor[t]
        left[t] *= factor[t]


@jit
def _scale(unit_right, unit_left, part, right, left):
    """Fill the rates for a step: ``part`` times the rates at unit time."""
    for t in range(right.size):
        right[t] = unit_right[t] * part
        left[t] = unit_left[t] * part


@jit
def _fluxes(x, periodic, regular, width, n, right, left, flux):
    """Fill the flux over each edge by the rates; flat (n * width) arrays."""
    if not periodic:
        _fill(flux, (n - 1) * width, n * width, 0.0)
    edges = n if periodic else n - 1
    i = 0
    while i < edges:
        stop = _segment(i, n, regular)
        count, c, e = (stop - i) * width, i * width, (i + 1 if i + 1 < n else 0) * width
        flux_c, x_c, x_e, right_c, left_e = flux[c:][:count], x[c:], x[e:], right[c:], left[e:]
        for t in range(count):
            flux_c[t] = right_c[t] * x_c[t] - left_e[t] * x_e[t]
        i = stop


@jit
def _lean_factors(lean, h, distance, periodic, regular, width, flux, factor):
    """Fill the factor of each edge that moves its flux to the middle of the edge; positive, in [1/2, 3/2].

    The flux J by the rates lies off the middle by lean * d/2; its slope along the line gives the flux at the middle,
    J2 = J - (lean d/2) J' (third-order upwind-biased).
    """
    n = h.size
    edges = n if periodic else n - 1
    i = 0
    while i < edges:
        stop = _segment(i, n, regular)
        before, k = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        here, there = distance[i] / (6.0 * h[i]), distance[i] / (6.0 * h[k])
        count, a, c, e = (stop - i) * width, before * width, i * width, k * width
        flux_a, flux_c, flux_e, lean_c, factor_c = flux[a:], flux[c:], flux[e:], lean[c:], factor[c:][:count]
        for t in range(count):
            own = flux_c[t]
            fall = (own - flux_a[t]) * here
            rise = (flux_e[t] - own) * there
            tilt = lean_c[t]
            moved = -tilt * (fall + rise + (rise if tilt < 0.0 else fall))
            # The wanted 1 + moved / own where that is small. Where the flux turns it goes to 1 over a part of a cell,
            # by the differences of the flux: a turning point that moves past an edge is then seen by steps that take
            # less than the time in which it moves by that part.
            size = own * own + moved * moved + fall * fall + rise * rise
            factor_c[t] = 1.0 + moved * own / (size + SQUARES)
        i = stop


@jit
def _wind_factors(wind, periodic, width, n, up, down, factor):
    """Multiply the factor of each edge by that of the reconstructed density; positive, in [1/10, 19/10].

    By ``wind`` the density of the upwind cell is taken at the edge, with Koren's limited slope (`_half_slopes`).
    """
    last = (n - 1) * width
    for t in range(last):
        blow = wind[t]
        factor[t] *= 1.0 - blow * (up[t] if blow < 0.0 else down[t + width])
    if periodic:
        for j in range(width):
            blow = wind[last + j]
            factor[last + j] *= 1.0 - blow * (up[last + j] if blow < 0.0 else down[j])


@jit
def _correct(x, lean, wind, windy, h, distance, periodic, regular, width, right, left, flux, up, down, factor):
    """Multiply both rates of each edge by the factors of `_lean_factors` and, if it is ``windy``, `_wind_factors`."""
    _fluxes(x, periodic, regular, width, h.size, right, left, flux)
    if windy:
        _half_slopes(x, h, distance, periodic, regular, width, up, down, factor)
    _lean_factors(lean, h, distance, periodic, regular, width, flux, factor)
    if windy:
        _wind_factors(wind, periodic, width, h.size, up, down, factor)
    _apply_factors(factor, periodic, width, right, left)


@jit
def _half_slopes(x, h, distance, periodic, regular, width, up, down, bend):
    """Fill slopes of the density times h/2, relative to the density, for the right and left end of each cell.

    Koren's third-order upwind-biased value: a third of the difference on the near side of the cell and two thirds of
    that on the side of the face, cut to twice the smaller and to 0 at extrema; but left whole where second differences
    in the cell and its neighbors are alike, so that smooth peaks are not clipped. In [-0.9, 0.9]; 0 at no-flux ends.
    """
    n = h.size
    for start in (0, (n - 1) * width):
        _fill(up, start, start + width, 0.0)
        _fill(down, start, start + width, 0.0)
        _fill(bend, start, start + width, 0.0)
    first, cells = (0, n) if periodic else (1, n - 1)
    i = first
    while i < cells:
        stop = _segment(i, n, regular)
        before, after = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        here, there = 0.5 * h[i] / distance[before], 0.5 * h[i] / distance[i]
        to_before, to_after = h[i] / h[before], h[i] / h[after]
        count, c = (stop - i) * width, i * width
        x_a, x_c, x_e, bend_c = x[before * width:], x[c:], x[after * width:], bend[c:][:count]
        for t in range(count):
            bend_c[t] = (x_e[t] * to_after - x_c[t]) * there - (x_c[t] - x_a[t] * to_before) * here
        i = stop
    i = first
    while i < cells:
        stop = _segment(i, n, regular)
        before, after = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        here, there = 0.5 * h[i] / distance[before], 0.5 * h[i] / distance[i]
        to_before, to_after = h[i] / h[before], h[i] / h[after]
        count, c = (stop - i) * width, i * width
        x_a, x_c, x_e, up_c, down_c = x[before * width:], x[c:], x[after * width:], up[c:][:count], down[c:][:count]
        bend_a, bend_c, bend_e = bend[before * width:], bend[c:], bend[after * width:]
        for t in range(count):
            fall = (x_c[t] - x_a[t] * to_before) * here
            rise = (x_e[t] * to_after - x_c[t]) * there
            own = bend_c[t]
            smooth = min(bend_a[t] * own, bend_e[t] * own) > ALIKE * own * own
            low, high = abs(fall), abs(rise)
            limit = (2.0 if fall * rise > 0.0 else 0.0) * min(low, high)
            limit = low + high if smooth else limit
            # The density bounds the slope, which keeps signs; a cell that is empty, or nearly so, has no slope.
            limit = min(limit, 0.9 * x_c[t])
            inverse = 1.0 / max(x_c[t], SQUARES)
            up_c[t] = inverse * max(-limit, min(limit, (fall + 2.0 * rise) * (1.0 / 3.0)))
            down_c[t] = inverse * max(-limit, min(limit, (2.0 * fall + rise) * (1.0 / 3.0)))
        i = stop


@jit
def _factor(right, left, periodic, forward, pivot, backward, to_border, from_border):
    """Eliminate I - L: factors of a forward and a backward recursion, all non-negative.

    ``excess`` is the sum of the remaining entries of a column, 1 before the elimination; pivots are formed from it by
    sums alone. On a periodic line the last cell is the border, eliminated last.
    """
    n, width = right.shape
    if not periodic and width == 1:
        carry = 1.0
        for i in range(n - 1):
            inverse = 1.0 / (carry + right[i, 0])
            forward[i, 0] = right[i, 0] * inverse
            pivot[i, 0] = inverse
            backward[i, 0] = left[i + 1, 0] * inverse
            carry = 1.0 + backward[i, 0] * carry
        forward[n - 1, 0] = backward[n - 1, 0] = 0.0
        pivot[n - 1, 0] = 1.0 / carry
        return
    excess = np.empty(width)
    _fill(excess, 0, width, 1.0)
    if not periodic:
        for i in range(n - 1):
            for j in range(width):
                inverse = 1.0 / (excess[j] + right[i, j])
                forward[i, j] = right[i, j] * inverse
                pivot[i, j] = inverse
                backward[i, j] = left[i + 1, j] * inverse
                excess[j] = 1.0 + backward[i, j] * excess[j]
        for j in range(width):
            forward[n - 1, j] = 0.0
            backward[n - 1, j] = 0.0
            pivot[n - 1, j] = 1.0 / excess[j]
        return
    border = n - 1
    for j in range(width):
        e, last_excess = 1.0, 1.0
        s, t = left[0, j], right[border, j]
        for i in range(border):
            r, back = right[i, j], left[i + 1, j]
            if i == border - 1:
                s += r
                t += back
                r = back = 0.0
            inverse = 1.0 / (e + r + s)
            forward[i, j] = r * inverse
            pivot[i, j] = inverse
            backward[i, j] = back * inverse
            to_border[i, j] = s * inverse
            from_border[i, j] = t * inverse
            last_excess += from_border[i, j] * e
            t *= forward[i, j]
            s *= backward[i, j]
            e = 1.0 + backward[i, j] * e
        forward[border, j] = 0.0
        backward[border, j] = 0.0
        pivot[border, j] = 1.0 / last_excess


@jit
def _solve(m, periodic, forward, pivot, backward, to_border, from_border, x):
    """Solve (I - L) x = m with the factors of `_factor`."""
    n, width = m.shape
    if not periodic and width == 1:
        carry = 0.0
        for i in range(n):
            carry = m[i, 0] + carry
            x[i, 0] = carry
            carry *= forward[i, 0]
        carry = 0.0
        for i in range(n - 1, -1, -1):
            carry = x[i, 0] * pivot[i, 0] + backward[i, 0] * carry
            x[i, 0] = carry
        return
    for j in range(width):
        x[0, j] = m[0, j]
    if not periodic:
        for i in range(n - 1):
            for j in range(width):
                x[i + 1, j] = m[i + 1, j] + forward[i, j] * x[i, j]
        for j in range(width):
            x[n - 1, j] *= pivot[n - 1, j]
        for i in range(n - 2, -1, -1):
            for j in range(width):
                x[i, j] = x[i, j] * pivot[i, j] + backward[i, j] * x[i + 1, j]
        return
    last = np.empty(width)
    for j in range(width):
        last[j] = m[n - 1, j]
    for i in range(n - 1):
        for j in range(width):
            last[j] += to_border[i, j] * x[i, j]
            x[i + 1, j] = m[i + 1, j] + forward[i, j] * x[i, j]
    for j in range(width):
        last[j] *= pivot[n - 1, j]
        x[n - 1, j] = last[j]
    for i in range(n - 2, -1, -1):
        for j in range(width):
            x[i, j] = x[i, j] * pivot[i, j] + backward[i, j] * x[i + 1, j] + from_border[i, j] * last[j]


@jit
def _patankar(m, periodic, right, left, forward, pivot, backward, to_border, from_border, x):
    """Do a modified Patankar-Runge-Kutta step (MPRK22): rates of the second stage are weighted by (1 + m / x1) / 2."""
    n, width = m.shape
    for i in range(n):
        for j in range(width):
            right[i, j] /= GAMMA
            left[i, j] /= GAMMA
    _factor(right, left, periodic, forward, pivot, backward, to_border, from_border)
    _solve(m, periodic, forward, pivot, backward, to_border, from_border, x)
    for i in range(n):
        for j in range(width):
            if x[i, j] > 0.0:
                weight = 0.5 * (1.0 + m[i, j] / x[i, j])
                right[i, j] *= weight
                left[i, j] *= weight
    _factor(right, left, periodic, forward, pivot, backward, to_border, from_border)
    _solve(m, periodic, forward, pivot, backward, to_border, from_border, x)


@jit
def _mend(x, y, negligible):
    """Raise negative entries of x to those of y in lines where this costs negligible mass; return if it mended all."""
    n, width = x.shape
    complete = True
    for j in range(width):
        cost = 0.0
        for i in range(n):
            if x[i, j] < 0.0:
                cost += y[i, j] - x[i, j]
        if cost > negligible:
            complete = False
        elif cost > 0.0:
            for i in range(n):
                if x[i, j] < 0.0:
                    x[i, j] = y[i, j]
    return complete


@jit
def _limit(x, safe, j, transfer, line):
    """Make line j of x non-negative by going over to the line of ``safe``, in flux form, around negative cells only.

    Both lines have the same mass, so they differ by transfers over the edges. Those next to a negative cell are left
    out, until no cell is negative; with all left out the line is ``safe``.
    """
    n = x.shape[0]
    total = 0.0
    for i in range(n):
        line[i] = safe[i, j]
        total += line[i]
    # Partial sums from the nearer end keep the transfers in both tails accurate relative to themselves.
    passed, running = 0.0, 0.0
    split = n - 1
    for i in range(n - 1):
        passed += line[i]
        if passed > 0.5 * total:
            split = i
            break
        running += line[i] - x[i, j]
        transfer[i + 1] = running
    running = 0.0
    for i in range(n - 2, split - 1, -1):
        running -= line[i + 1] - x[i + 1, j]
        transfer[i + 1] = running
    transfer[0] = transfer[n] = 0.0
    # Dropping the transfers of a cell may make its neighbors negative, so repeat until none is. All negative cells are
    # found before any transfer is dropped, so that the order of the cells does not matter.
    lacking = np.empty(n, np.bool_)
    dropped = True
    while dropped:
        dropped = False
        for i in range(n):
            lacking[i] = line[i] + transfer[i] - transfer[i + 1] < 0.0
        for i in range(n):
            if lacking[i]:
                transfer[i] = transfer[i + 1] = 0.0
                dropped = True
    for i in range(n):
        x[i, j] = line[i] + transfer[i] - transfer[i + 1]


@jit
def _patankar_block(x, y, m, periodic, right, left, forward, pivot, backward, to_border, from_border, transfer, line):
    """Limit the lines of x that have a negative cell by the Patankar step; the rates are those of J(gamma dt)."""
    _patankar(m, periodic, right, left, forward, pivot, backward, to_border, from_border, y)
    for j in range(x.shape[1]):
        if _any_negative(x, j):
            if periodic:
                # The transfers around a ring are known up to a constant only.
                for i in range(x.shape[0]):
                    x[i, j] = y[i, j]
            else:
                _limit(x, y, j, transfer, line)


@jit
def _curb(x, safe, j, periodic, transfer):
    """Make line j of x non-negative by reducing the transfers from ``safe`` out of cells that would become negative.

    The neighbors downstream then receive less. Transfers run one way on each edge, so the cells are treated in this
    order: those that give to both sides, then those that pass mass to the right, from left to right, then the others.
    The result is continuous in both arguments: a cell that lacks little is left near 0, one that lacks much keeps LEFT
    of ``safe`` (with exact zeros round-off would choose the slopes there).
    """
    n = x.shape[0]
    total = 0.0
    for i in range(n):
        total += safe[i, j]
    # Partial sums from the nearer end keep the transfers in both tails accurate relative to themselves.
    passed, running, split = 0.0, 0.0, n - 1
    for i in range(n - 1):
        passed += safe[i, j]
        if passed > 0.5 * total:
            split = i
            break
        running += safe[i, j] - x[i, j]
        transfer[i + 1] = running
    running = 0.0
    for i in range(n - 2, split - 1, -1):
        running -= safe[i + 1, j] - x[i + 1, j]
        transfer[i + 1] = running
    transfer[0] = 0.0
    origin = 0
    if periodic:
        # Transfers around a ring are known up to a constant; those without net circulation are taken. Each run of
        # transfers in one direction then begins at a cell that gives to both sides.
        mean = 0.0
        for i in range(n):
            mean += transfer[i]
        mean /= n
        for i in range(n):
            transfer[i] -= mean
        while origin < n - 1 and not transfer[origin] <= 0.0 < transfer[origin + 1]:
            origin += 1
    for way in range(3):
        for k in range(n):
            i = (origin + k) % n if way < 2 else (origin + n - 1 - k) % n
            # On a line transfer[0] serves both ends, where nothing passes.
            e = i + 1 if i + 1 < n else 0
            gives_left, gives_right = transfer[i] < 0.0, transfer[e] > 0.0
            if gives_left and gives_right if way == 0 else (gives_right and not gives_left if way == 1 else
                                                             gives_left and not gives_right):
                into = max(transfer[i], 0.0) + max(-transfer[e], 0.0)
                out = max(-transfer[i], 0.0) + max(transfer[e], 0.0)
                lack = out - safe[i, j] - into
                if lack > 0.0:
                    part = (safe[i, j] * (1.0 - LEFT * lack / (lack + safe[i, j])) + into) / out
                    transfer[i] *= part if gives_left else 1.0
                    transfer[e] *= part if gives_right else 1.0
    for i in range(n):
        value = safe[i, j] + transfer[i] - transfer[i + 1 if i + 1 < n else 0]
        # Negative values that are left are round-off.
        x[i, j] = max(value, 0.0)


@jit
def _curb_block(x, y, m, periodic, right, left, forward, pivot, backward, to_border, from_border, transfer):
    """Limit the lines of x that have a negative cell by J(dt/2)^2 m; right and left are the rates of J(gamma dt)."""
    _scale(right.reshape(-1), left.reshape(-1), 0.5 / GAMMA, right.reshape(-1), left.reshape(-1))
    _factor(right, left, periodic, forward, pivot, backward, to_border, from_border)
    _solve(m, periodic, forward, pivot, backward, to_border, from_border, right)
    _solve(right, periodic, forward, pivot, backward, to_border, from_border, y)
    for j in range(x.shape[1]):
        if _any_negative(x, j):
            _curb(x, y, j, periodic, transfer)


@jit
def _rest(x, m):
    """Undo the move of lines that move by round-off only, so that a Gibbs state does not creep from step to step."""
    n, width = x.shape
    for j in range(width):
        moved, mass = 0.0, 0.0
        for i in range(n):
            change = abs(x[i, j] - m[i, j])
            moved += change
            mass += m[i, j]
            if change > REST_OF_CELL * m[i, j]:
                moved = math.inf
                break
        if moved <= REST * mass:
            for i in range(n):
                x[i, j] = m[i, j]


@jit
def _load(flat, start, stride, step, lines, block):
    """Copy ``lines`` lines (``step`` apart) of cells (``stride`` apart) into a block, zeros in the columns left."""
    n, width = block.shape
    if step == 1:
        for i in range(n):
            at = start + i * stride
            for j in range(lines):
                block[i, j] = flat[at + j]
    else:
        for j in range(lines):
            at = start + j * step
            for i in range(n):
                block[i, j] = flat[at + i * stride]
    for j in range(lines, width):
        for i in range(n):
            block[i, j] = 0.0


@jit
def _load_mobility(flat, start, stride, step, lines, block):
    """Copy lines as `_load` does, with ones in the columns left."""
    _load(flat, start, stride, step, lines, block)
    for i in range(block.shape[0]):
        for j in range(lines, block.shape[1]):
            block[i, j] = 1.0


@jit
def _store(block, start, stride, step, lines, flat):
    n = block.shape[0]
    if step == 1:
        for i in range(n):
            at = start + i * stride
            for j in range(lines):
                flat[at + j] = block[i, j]
    else:
        for j in range(lines):
            at = start + j * step
            for i in range(n):
                flat[at + i * stride] = block[i, j]


@jit
def _place(b, width, outer, n, inner):
    """Return where block b lies: start, stride along the line, step between lines, number of lines."""
    if inner == 1:
        first = b * width
        return first * n, 1, n, min(width, outer - first)
    per_slab = (inner + width - 1) // width
    slab, first = b // per_slab, (b % per_slab) * width
    return slab * n * inner + first, inner, 1, min(width, inner - first)


@jit
def _edge_sums(right, left, periodic, width, sums):
    """Fill the sum of the two rates of each edge; in the flat arrays right[i] and left[i + 1] belong together."""
    last = right.size - width
    _fill(sums, last, right.size, 0.0)
    for t in range(last):
        sums[t] = right[t] + left[t + width]
    if periodic:
        for j in range(width):
            sums[last + j] = right[last + j] + left[j]


@jit
def _note_factors(right, left, periodic, width, part, sums, factors):
    """Fill the factor between the rates of each edge and ``part`` times the unit rates (sums); 1 where those are 0."""
    _edge_sums(right, left, periodic, width, factors)
    for t in range(factors.size):
        before = sums[t] * part
        factors[t] = min(max(factors[t] / before, LEAST_FACTOR), LARGEST_FACTOR) if before > 0.0 else 1.0


@jit
def _apply_factors(factors, periodic, width, right, left):
    """Multiply the two rates of every edge by its factor."""
    last = right.size - width
    _apply(factors[:last], right, left[width:])
    if periodic:
        _apply(factors[last:], right[last:], left)


@jit
def _mobile(mobility, periodic, width, right, left):
    """Multiply both rates of every edge by the harmonic mean of the mobility in its two cells."""
    last = right.size - width
    for t in range(last):
        face = 2.0 * mobility[t] * mobility[t + width] / (mobility[t] + mobility[t + width])
        right[t] *= face
        left[t + width] *= face
    if periodic:
        for j in range(width):
            face = 2.0 * mobility[last + j] * mobility[j] / (mobility[last + j] + mobility[j])
            right[last + j] *= face
            left[j] *= face


@jit
def _unit_rates(psi, mobility, diffusion, h, distance, periodic, regular, width, corrected, right, left, lean, wind,
                factor):
    """Fill the rates at unit time of a whole block, and what their correction needs."""
    _rates(psi, diffusion, h, distance, periodic, regular, width, right, left)
    if mobility.size > 0:
        _mobile(mobility, periodic, width, right, left)
    if corrected:
        _fill(lean, 0, lean.size, 0.0)
        _fill(wind, 0, wind.size, 0.0)
        _curve(psi, diffusion, h, distance, periodic, regular, width, right, left, lean, wind, factor)


@jit
def _corrected_rates(m, rates, h, distance, periodic, regular, dt, part, right, left, x, y, f):
    """Fill the rates of a step of length ``part``, with correction factors of the density at the middle of the step dt.

    That density is found by an implicit Euler step with the factors of the density at the start. Without them it would
    be off by dt times the correction, so that the step would be of first order in time, with a small factor.
    """
    width = m.shape[1]
    size = m.size
    unit, work = rates.reshape(4, size), f.reshape(5, size)
    right_1, left_1 = right.reshape(size), left.reshape(size)
    windy = _any(unit[3])
    _scale(unit[0], unit[1], 0.5 * dt, right_1, left_1)
    _correct(m.reshape(size), unit[2], unit[3], windy, h, distance, periodic, regular, width, right_1, left_1,
             y.reshape(size), work[0], work[1], work[2])
    _factor(right, left, periodic, f[0], f[1], f[2], f[3], f[4])
    _solve(m, periodic, f[0], f[1], f[2], f[3], f[4], x)
    _scale(unit[0], unit[1], part, right_1, left_1)
    _correct(x.reshape(size), unit[2], unit[3], windy, h, distance, periodic, regular, width, right_1, left_1,
             y.reshape(size), work[0], work[1], work[2])


@jit
def _combine(x, y, lowest):
    """Replace x by y + sqrt(2) (y - x); return whether any entry is negative."""
    n, width = x.shape
    _fill(lowest, 0, width, 0.0)
    for i in range(n):
        for j in range(width):
            x[i, j] = y[i, j] + ROOT2 * (y[i, j] - x[i, j])
            lowest[j] = min(lowest[j], x[i, j])
    for j in range(width):
        if lowest[j] < 0.0:
            return True
    return False


@jit
def _step_rates(m, psi, mobility, diffusion, h, distance, periodic, regular, dt, part, corrected, known, rates, right,
                left, x, y, f):
    """Fill the rates of a step of length ``part``; those at unit time are formed from Psi unless they are ``known``."""
    size, width = m.size, m.shape[1]
    unit = rates.reshape(4, size)
    if not known:
        _unit_rates(psi.reshape(size), mobility, diffusion, h, distance, periodic, regular, width, corrected, unit[0],
                    unit[1], unit[2], unit[3], y.reshape(size))
    if corrected:
        _corrected_rates(m, rates, h, distance, periodic, regular, dt, part, right, left, x, y, f)
    else:
        _scale(unit[0], unit[1], part, right.reshape(size), left.reshape(size))


@jit
def sweep(masses, psi, mobility, diffusion, dt, h, distance, outer, inner, periodic, mode, cache_mode, cache,
          negligible, first, last):
    """Move the lines of blocks first..last-1 along one axis by a time dt, in place.

    Parameters
    ----------
    masses, psi : arrays, shape (outer * n * inner,)
        Cell masses and Psi, flat in C order; n = h.size cells along the axis.
    mobility : array of the same shape, or empty
        A along this axis in the cells; empty: A = 1.
    diffusion, dt : float
    h, distance : arrays
        Cell widths, and distances between neighboring centers (n - 1, or n on a periodic axis).
    outer, inner : int
        Products of the shape before and after the axis.
    mode : int
        PLAIN or CORRECTED: second order with plain Scharfetter-Gummel fluxes or corrected ones; IMPLICIT_EULER.
    cache_mode, cache
        NO_CACHE; FILL_CACHE or USE_CACHE with the rates of this mode in an array (blocks, 4, n, width).
    negligible : float
        Mass below the round-off of the whole. If the negative entries of a line can be raised to those of J^2 m, which
        are positive, at the cost of no more mass than this, they are; else the line takes the Patankar step.
    first, last : int
        Range of blocks.

    Returns
    -------
    int
        Number of blocks that took the Patankar step.
    """
    n, width = h.size, cache.shape[3]
    regular = _regular_from(h, distance)
    work = np.empty((6, n, width))
    m, p, x, y, right, left = work[0], work[1], work[2], work[3], work[4], work[5]
    own, f = np.empty((4, n, width)), np.empty((5, n, width))
    transfer, line, lowest = np.empty(n + 1), np.empty(n), np.empty(width)
    moves = np.empty((n if mobility.size > 0 else 0, width))
    cut_blocks = 0
    part = dt if mode == IMPLICIT_EULER else GAMMA * dt
    for b in range(first, last):
        start, stride, step, lines = _place(b, width, outer, n, inner)
        _load(masses, start, stride, step, lines, m)
        known = cache_mode == USE_CACHE
        if not known:
            _load(psi, start, stride, step, lines, p)
            if moves.size > 0:
                _load_mobility(mobility, start, stride, step, lines, moves)
        rates = own if cache_mode == NO_CACHE else cache[b]
        _step_rates(m, p, moves.reshape(moves.size), diffusion, h, distance, periodic, regular, dt, part,
                    mode == CORRECTED, known, rates, right, left, x, y, f)
        _factor(right, left, periodic, f[0], f[1], f[2], f[3], f[4])
        _solve(m, periodic, f[0], f[1], f[2], f[3], f[4], x)
        if mode != IMPLICIT_EULER:
            _solve(x, periodic, f[0], f[1], f[2], f[3], f[4], y)
            if _combine(x, y, lowest) and not _mend(x, y, negligible):
                cut_blocks += 1
                _patankar_block(x, y, m, periodic, right, left, f[0], f[1], f[2], f[3], f[4], transfer, line)
        _rest(x, m)
        _store(x, start, stride, step, lines, masses)
    return cut_blocks


@jit
def limited_sweep(masses, psi, mobility, diffusion, dt, h, distance, outer, inner, periodic, mode, cache_mode, cache,
                  negligible, first, last):
    """Move lines like `sweep`, by modes whose result depends continuously on Psi.

    A function of its own, so that flows which do not need it do not wait for its compilation. Parameters as in `sweep`,
    but for

    Parameters
    ----------
    mode : int
        LIMITED_PLAIN or LIMITED_CORRECTED: second order, limited continuously; HALVES: two implicit Euler steps of half
        the length.
    cache_mode, cache
        As there, or FILL_FACTORS or USE_FACTORS with the factors of the edges in an array (blocks, 1, n, width), which
        this sweep leaves there or takes instead of those that the mode would find.

    Returns
    -------
    int
        Number of blocks that were limited.
    """
    n, width = h.size, cache.shape[3]
    regular = _regular_from(h, distance)
    size = n * width
    work = np.empty((6, n, width))
    m, p, x, y, right, left = work[0], work[1], work[2], work[3], work[4], work[5]
    flat = work.reshape(6, size)
    own, f = np.empty((4, n, width)), np.empty((5, n, width))
    unit = own.reshape(4, size)
    transfer, lowest = np.empty(n + 1), np.empty(width)
    moves = np.empty((n if mobility.size > 0 else 0, width))
    cut_blocks = 0
    part = 0.5 * dt if mode == HALVES else GAMMA * dt
    corrected = mode == LIMITED_CORRECTED and cache_mode != USE_FACTORS
    for b in range(first, last):
        start, stride, step, lines = _place(b, width, outer, n, inner)
        _load(masses, start, stride, step, lines, m)
        known = cache_mode == USE_CACHE
        if not known:
            _load(psi, start, stride, step, lines, p)
            if moves.size > 0:
                _load_mobility(mobility, start, stride, step, lines, moves)
        rates = cache[b] if cache_mode in (FILL_CACHE, USE_CACHE) else own
        _step_rates(m, p, moves.reshape(moves.size), diffusion, h, distance, periodic, regular, dt, part, corrected,
                    known, rates, right, left, x, y, f)
        if cache_mode == FILL_FACTORS:
            _rates(flat[1], diffusion, h, distance, periodic, regular, width, unit[0], unit[1])
            if moves.size > 0:
                _mobile(moves.reshape(moves.size), periodic, width, unit[0], unit[1])
            _edge_sums(unit[0], unit[1], periodic, width, flat[2])
            _note_factors(flat[4], flat[5], periodic, width, part, flat[2], cache[b, 0].reshape(size))
        elif cache_mode == USE_FACTORS:
            _apply_factors(cache[b, 0].reshape(size), periodic, width, flat[4], flat[5])
        _factor(right, left, periodic, f[0], f[1], f[2], f[3], f[4])
        _solve(m, periodic, f[0], f[1], f[2], f[3], f[4], x)
        _solve(x, periodic, f[0], f[1], f[2], f[3], f[4], y)
        if mode == HALVES:
            _copy(flat[3], flat[2])
        elif _combine(x, y, lowest) and not _mend(x, y, negligible):
            cut_blocks += 1
            _curb_block(x, y, m, periodic, right, left, f[0], f[1], f[2], f[3], f[4], transfer)
        _rest(x, m)
        _store(x, start, stride, step, lines, masses)
    return cut_blocks


@jit
def _axis_dissipation(masses, psi, mobility, mu, diffusion, h, distance, outer, inner, periodic, corrected, width):
    """Return the sum over the edges of an axis of flux times fall of mu."""
    n = h.size
    regular = _regular_from(h, distance)
    blocks = (outer + width - 1) // width if inner == 1 else outer * ((inner + width - 1) // width)
    size, whole = n * width, 0.0
    work = np.empty((5, n, width))
    m, p, u, y, z = work[0], work[1], work[2], work[3], work[4]
    rates = np.empty((4, n * width))
    moves = np.empty((n if mobility.size > 0 else 0, width))
    for b in range(blocks):
        start, stride, step, lines = _place(b, width, outer, n, inner)
        _load(masses, start, stride, step, lines, m)
        _load(psi, start, stride, step, lines, p)
        if moves.size > 0:
            _load_mobility(mobility, start, stride, step, lines, moves)
        _unit_rates(p.reshape(size), moves.reshape(moves.size), diffusion, h, distance, periodic, regular, width,
                    corrected, rates[0], rates[1], rates[2], rates[3], y.reshape(size))
        if corrected:
            windy = _any(rates[3])
            _correct(m.reshape(size), rates[2], rates[3], windy, h, distance, periodic, regular, width, rates[0],
                     rates[1], u.reshape(size), y.reshape(size), z.reshape(size), p.reshape(size))
        _load(mu, start, stride, step, lines, u)
        total = 0.0
        for i in range(n if periodic else n - 1):
            k = i + 1 if i + 1 < n else 0
            for j in range(lines):
                flux = rates[0][i * width + j] * m[i, j] - rates[1][k * width + j] * m[k, j]
                total += flux * (u[i, j] - u[k, j])
        whole += total
    return whole


def axis_layout(shape, axis: int) -> tuple[int, int, int, int]:
    """Return (outer, inner, width, blocks) of an axis: how `sweep` cuts the grid into blocks of lines."""
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1:])
    width = min(WIDTH, outer * inner)
    blocks = -(-outer // width) if inner == 1 else outer * -(-inner // width)
    return outer, inner, width, blocks
