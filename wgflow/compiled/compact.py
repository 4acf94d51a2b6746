r"""Compact Scharfetter-Gummel sweeps of fourth order along one axis, for many lines of cells at a time.

The state is the point masses m_i = w_i h rho(x_i) of the cells of a uniform axis, with the quadrature weights w of
`wgflow.energies.nodes` (1 but at walls). With q the rise of Psi/D over an edge, L = coth(q/2) - 2/q, c the mean
of the second differences of Psi/D at its two cells and B(z) = z / (e^z - 1), the edge i | i+1 has

    a = D B(q) f / h^2,  b = D B(-q) f / h^2,  f = 1 + c L / (2 q)         (rates to the right and to the left),
    p = 1/6 - L/(2q) - L/4,  r = 1/6 - L/(2q) + L/4                         (weights; 1/12 at q = 0),

and the semi-discrete equation is B m' = A m, where A is the generator with these rates and (B m)_i = m_i - g_i +
g_{i-1}, g_i = p m_i - r m_{i+1}. The flux a m_i - b m_{i+1} is an average of the exact flux over the edge; its first
two moments give p and r. docs/fourth-order.md derives all of it.

J(s) = (B - s A)^{-1} B keeps the mass and every Gibbs state, and is a stochastic matrix where s a >= p and s b >= r. It
is eliminated as a generator with rates s a - p and s b - r, by sums alone (Grassmann, Taksar and Heyman 1985).

Arrays of lines are (n, W) blocks, W lines side by side, so that the recursions along i vectorize across lines. All
functions are in one file because Numba's cache does not look at others.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: Kinds of sweeps: J^2 + sqrt(2) (J^2 - J) with J(gamma dt); J(dt); J(dt/2)^2; the formula of order 5.
SECOND, EULER, HALVES, FIFTH = 0, 1, 2, 3
#: Cache modes: rates and factors are formed and forgotten; formed and kept; the rates are known; both are known.
NONE, FILL, RATES, BOTH = 0, 1, 2, 3
GAMMA = 1.0 - math.sqrt(0.5)
ROOT2 = math.sqrt(2.0)
SHARE = 1.0 / (1.0 + ROOT2)
LOG2E = 1.0 / math.log(2.0)
# ln 2 in two parts, the first with 32 bits, so that n * LN2_HIGH is exact for the n met here.
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
#: exp(-708) is close to the smallest normal number; for larger z the rates up the slope are practically zero. Numbers
#: are cut by min(EXP_LIMIT, z), which makes 708 of NaN, too: min(z, EXP_LIMIT) would look for NaN in a table.
EXP_LIMIT = 708.0
#: Below this q the functions of q are summed as series.
SERIES_LIMIT = 0.1
POWERS_OF_TWO = 2.0 ** -np.arange(1025.0)
TAYLOR = tuple(1.0 / math.factorial(k) for k in range(14))
#: Most lines of a block: up to so many cells of a line, and beyond.
WIDEST, LONG, WIDE = 64, 128, 32
#: Cells of a line that are copied together where the lines are not side by side.
TILE = 8
#: Smallest positive double: stands for an empty cell inside logarithms.
TINY = 5e-324
#: The logarithm of x = 2^k (1 + f), f between sqrt(1/2) - 1 and sqrt(2) - 1, with s = f / (2 + f): the coefficients of
#: log(1 + f) = 2 s + s^3 (c_1 + c_2 s^2 + ...) as fdlibm has them, to less than one ulp.
LOG = (6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
       1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01)
LOG2_HIGH, LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
#: Bits of doubles: those of sqrt(1/2), by how much 1 lies above them, those of a mantissa, and of 2^52, into whose last
#: bits k + 1023 is put to make a double of it.
HALF_BITS, ABOVE_HALF = 0x3FE6A09E << 32, (0x3FF00000 - 0x3FE6A09E) << 32
MANTISSA, WHOLE_BITS = (1 << 52) - 1, 0x433 << 52
WHOLE = 2.0**52 + 1023.0
#: Numbers below the smallest normal one are multiplied by 2^54 before.
NORMAL, RAISED = 2.0**-1022, 54.0
#: Cells of a law that are looked at together, and blocks of them whose sums are added up by a tree.
TOGETHER, BLOCKS = 64, 8
#: A rise of F beyond this part of max(1, |F|) rejects a step (round-off of the energy's sums stays below). Half of what
#: is promised: who forms F anew from the laws adds round-off of his own.
ENERGY_SLACK = 5e-14
#: Relative mass defect that is not corrected (4 ulp), so that a state at rest is not rescaled back and forth.
MASS_SLACK = 4 * 2.0**-52
#: Relative mass defect that is an error: the linear solves are accurate to a few ulp.
MASS_ALARM = 1e-10
#: The error of the grid is the sum of fourth differences times this, relative to the mass: measured at .0027 to .0037
#: of them for smooth densities.
GRID_SHARE = 1.0 / 320.0
#: With d the distance of the formulas of order 5 and 3 and D the whole change of a step, d/D is proportional to dt^3,
#: and the error of the former was about this multiple of d (d/D)^(2/3), which is proportional to dt to the power
OF_DISTANCE, LINE_POWER = 5.0, 6.0
#: Factor by which a new step is shorter than the estimate allows; a step shrinks at once to no less than this part, and
#: is not lengthened unless it can grow by this factor.
SAFETY, SHRINK_LIMIT, WORTH_GROWING = 0.9, 0.1, 1.2
#: Lengths of steps are multiples of their power of two over this number.
DIGITS = 2.0**40
#: With d = |F - C| / 3 and the whole change D of a step, d/D is proportional to dt^2, and the local error of E was
#: about this multiple of d (d/D)^(1/2).
OF_ESTIMATE = 1.5
#: The error of the field at the quarters of a step, as a part of that of the same extrapolation to its middle.
EXTRAPOLATED = 0.3125
#: A step longer than this multiple of the last one does not extrapolate the field.
LONGEST_EXTRAPOLATION = 2.5
#: Lines of a block none of whose cells has more than this part of the mass stay as they are: each line is a gradient
#: flow of its own, so that all that is lost are errors far below round-off of the sums.
EMPTY = 1e-20
#: Part of the positive J^2 m to which a negative entry is raised.
LEFT = 0.1


def resolvent_weights(gamma: float, stages: int, order: int) -> np.ndarray:
    r"""Return c with :math:`\sum_k c_k (1 - \gamma z)^{-k} = e^z + O(z^{order+1})`, k = 1..stages.

    The coefficient of :math:`z^j` is :math:`\sum_k c_k \binom{k-1+j}{j} \gamma^j`.
    """
    matrix = np.array([[math.comb(k - 1 + j, j) * gamma**j for k in range(1, stages + 1)] for j in range(order + 1)])
    right = np.array([1.0 / math.factorial(j) for j in range(order + 1)])
    return np.linalg.solve(matrix, right)


#: The L-stable member of order 5 with five stages,
GAMMA5 = 0.27805384113
FIFTH_WEIGHTS = tuple(float(c) for c in resolvent_weights(GAMMA5, 5, 4))
#: and the formula of order 3 with the first four of its stages.
THIRD_WEIGHTS = tuple(float(c) for c in resolvent_weights(GAMMA5, 4, 3))


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


@jit(apart=True)
def _edges(psi_a, psi_c, psi_e, psi_g, share_a, share_b, inverse, unit, right, left, lean_right, lean_left):
    """Fill the rates and weights of edges between cells c and e, whose outer neighbors are a and g.

    ``share_a`` and ``share_b`` weigh the second differences at c and at e; ``unit`` is D / h^2.
    """
    for t in range(right.size):
        rise = (psi_e[t] - psi_c[t]) * inverse
        bend = (share_a * (psi_e[t] - 2.0 * psi_c[t] + psi_a[t])
                + share_b * (psi_g[t] - 2.0 * psi_e[t] + psi_c[t])) * inverse
        q = min(EXP_LIMIT, abs(rise))
        e = _exp_minus(q)
        q2 = q * q
        small = q < SERIES_LIMIT
        # B(q) for q >= 0, and L(q)/q.
        up = (1.0 - 0.5 * q + q2 * (1 / 12 - q2 * (1 / 720 - q2 * (1 / 30240 - q2 * (1 / 1209600))))
              if small else q * e / (1.0 - e))
        slope = (1 / 6 - q2 * (1 / 360 - q2 * (1 / 15120 - q2 * (1 / 604800)))
                 if small else ((1.0 + e) / (1.0 - e) - 2.0 / q) / q)
        factor = unit * min(max(1.0 + 0.5 * bend * slope, 0.5), 1.5)
        right[t] = factor * (up + max(-rise, 0.0))
        left[t] = factor * (up + max(rise, 0.0))
        middle, lean = 1 / 6 - 0.5 * slope, 0.25 * slope * min(max(rise, -EXP_LIMIT), EXP_LIMIT)
        low = max(middle - abs(lean), 0.0)
        lean_right[t] = low + 2.0 * max(-lean, 0.0)
        lean_left[t] = low + 2.0 * max(lean, 0.0)


@jit
def _unit_rates(psi, diffusion, h, periodic, rates):
    """Fill the rates and weights of a block, (4, n, W): a, b, p, r of edge i in row i; the last edge is the seam."""
    n, width = psi.shape
    size = (n - 3) * width
    flat, out = psi.reshape(n * width), rates.reshape(4, n * width)
    inverse, unit = 1.0 / diffusion, diffusion / (h * h)
    w = width
    _edges(flat[:size], flat[w:][:size], flat[2 * w:][:size], flat[3 * w:][:size], 0.5, 0.5, inverse, unit,
           out[0, w:][:size], out[1, w:][:size], out[2, w:][:size], out[3, w:][:size])
    for i in (0, n - 2, n - 1):
        e = i + 1 if i + 1 < n else 0
        if periodic:
            before, after, share_a, share_b = (i + n - 1) % n, (e + 1) % n, 0.5, 0.5
        else:
            before, after = max(i - 1, 0), min(i + 2, n - 1)
            share_a, share_b = (0.0 if i == 0 else 1.0), (1.0 if i == 0 else 0.0)
        _edges(flat[before * w:][:w], flat[i * w:][:w], flat[e * w:][:w], flat[after * w:][:w], share_a, share_b,
               inverse, unit, out[0, i * w:][:w], out[1, i * w:][:w], out[2, i * w:][:w], out[3, i * w:][:w])
    if not periodic:
        _close(rates)


@jit
def _mobile(rates, mobility, periodic):
    """Multiply the rates from each cell by its mobility A (docs/fourth-order.md); Psi is then Psi - D log A."""
    n, width = mobility.shape
    for i in range(n if periodic else n - 1):
        e = i + 1 if i + 1 < n else 0
        for j in range(width):
            rates[0, i, j] *= mobility[i, j]
            rates[1, i, j] *= mobility[e, j]


@jit
def _add_strips(rates, low, high):
    """Change the rates and weights at both walls for strips of these widths, in cells, beyond the first and last cell.

    `wgflow.energies.graded_axes` derives them: with them the first two weights are 26/24 + low + k and 21/24 - k.
    """
    n, width = rates.shape[1], rates.shape[2]
    last = n - 2
    for j in range(width):
        k = 0.5 * low * (1.0 + low)
        first, second = 26.0 / 24.0 / (26.0 / 24.0 + low + k), 21.0 / 24.0 / (21.0 / 24.0 - k)
        rates[0, 0, j] *= first
        rates[2, 0, j] *= first
        rates[1, 0, j] *= second
        rates[3, 0, j] = (rates[3, 0, j] - 24.0 / 21.0 * k) * second
        rates[0, 1, j] *= second
        rates[2, 1, j] *= second
        k = 0.5 * high * (1.0 + high)
        first, second = 26.0 / 24.0 / (26.0 / 24.0 + high + k), 21.0 / 24.0 / (21.0 / 24.0 - k)
        rates[1, last, j] *= first
        rates[3, last, j] *= first
        rates[0, last, j] *= second
        rates[2, last, j] = (rates[2, last, j] - 24.0 / 21.0 * k) * second
        rates[1, last - 1, j] *= second
        rates[3, last - 1, j] *= second


@jit
def _close(rates):
    """Turn the rates and weights at both walls into those of point masses with weights (26, 21, 25)/24."""
    n, width = rates.shape[1], rates.shape[2]
    one = 1.0 / 24.0
    for j in range(width):
        for k in range(4):
            rates[k, n - 1, j] = 0.0
        last = n - 2
        rates[2, 0, j] += one
        rates[3, 0, j] -= one
        rates[3, 1, j] += one
        rates[3, last, j] += one
        rates[2, last, j] -= one
        rates[2, last - 1, j] += one
        for i in range(3):
            here = 24.0 / 26.0 if i == 0 else (24.0 / 21.0 if i == 1 else 24.0 / 25.0)
            there = 24.0 / 21.0 if i == 0 else (24.0 / 25.0 if i == 1 else 1.0)
            rates[0, i, j] *= here
            rates[2, i, j] *= here
            rates[1, i, j] *= there
            rates[3, i, j] *= there
            rates[1, last - i, j] *= here
            rates[3, last - i, j] *= here
            rates[0, last - i, j] *= there
            rates[2, last - i, j] *= there


@jit
def _cut(weight, step):
    """Return the weight of an edge, at most the rate of a step, so that J is stochastic, and 1/2, so that B is."""
    return max(min(weight, step, 0.5), 0.0)


@jit(apart=True)
def _factor_walls(a, b, p, r, s, cut, forward, pivot, backward, excess):
    """Eliminate B - s A of lines between walls; ``excess`` holds ones."""
    n, width = a.shape
    for i in range(n - 1):
        for j in range(width):
            right, left = s * a[i, j], s * b[i, j]
            right -= _cut(p[i, j], right) if cut else p[i, j]
            left -= _cut(r[i, j], left) if cut else r[i, j]
            inverse = 1.0 / (excess[j] + right)
            forward[i, j] = right * inverse
            pivot[i, j] = inverse
            backward[i, j] = left * inverse
            excess[j] = 1.0 + backward[i, j] * excess[j]
    for j in range(width):
        forward[n - 1, j] = backward[n - 1, j] = 0.0
        pivot[n - 1, j] = 1.0 / excess[j]


@jit
def _factor_line(a, b, p, r, s, cut, forward, pivot, backward):
    """Eliminate B - s A of a single line between walls, from both ends towards the cell n // 2.

    ``forward`` passes on towards that cell, ``backward`` away from it. A processor follows the two recursions, each of
    which waits for its own last number, at the same time.
    """
    n, middle, low, high = a.size, a.size // 2, 1.0, 1.0
    for i in range(middle):
        right, left = s * a[i], s * b[i]
        right -= _cut(p[i], right) if cut else p[i]
        left -= _cut(r[i], left) if cut else r[i]
        inverse = 1.0 / (low + right)
        forward[i], pivot[i], backward[i] = right * inverse, inverse, left * inverse
        low = 1.0 + backward[i] * low
        k = n - 1 - i
        if k > middle:
            right, left = s * a[k - 1], s * b[k - 1]
            right -= _cut(p[k - 1], right) if cut else p[k - 1]
            left -= _cut(r[k - 1], left) if cut else r[k - 1]
            inverse = 1.0 / (high + left)
            forward[k], pivot[k], backward[k] = left * inverse, inverse, right * inverse
            high = 1.0 + backward[k] * high
    forward[middle] = backward[middle] = 0.0
    pivot[middle] = 1.0 / (low + (high - 1.0))


@jit
def _factor(rates, s, cut, periodic, f):
    """Eliminate B - s A: f holds forward, pivot, backward, and on a periodic line to_border and from_border.

    Of a single line between walls as `_factor_line` has them, of several as `_factor_walls` has.
    """
    n, width = rates.shape[1], rates.shape[2]
    a, b, p, r = rates[0], rates[1], rates[2], rates[3]
    forward, pivot, backward = f[0], f[1], f[2]
    if not periodic and width == 1:
        _factor_line(a[:, 0], b[:, 0], p[:, 0], r[:, 0], s, cut, forward[:, 0], pivot[:, 0], backward[:, 0])
        return
    if not periodic:
        _factor_walls(a, b, p, r, s, cut, forward, pivot, backward, np.ones(width))
        return
    to_border, from_border = f[3], f[4]
    border = n - 1
    for j in range(width):
        e, last = 1.0, 1.0
        left = s * b[border, j]
        right = s * a[border, j]
        to, back_to = (left - (_cut(r[border, j], left) if cut else r[border, j]),
                       right - (_cut(p[border, j], right) if cut else p[border, j]))
        for i in range(border):
            right, left = s * a[i, j], s * b[i, j]
            right -= _cut(p[i, j], right) if cut else p[i, j]
            left -= _cut(r[i, j], left) if cut else r[i, j]
            if i == border - 1:
                to += right
                back_to += left
                right = left = 0.0
            inverse = 1.0 / (e + right + to)
            forward[i, j] = right * inverse
            pivot[i, j] = inverse
            backward[i, j] = left * inverse
            to_border[i, j] = to * inverse
            from_border[i, j] = back_to * inverse
            last += from_border[i, j] * e
            back_to *= forward[i, j]
            to *= backward[i, j]
            e = 1.0 + backward[i, j] * e
        forward[border, j] = backward[border, j] = 0.0
        pivot[border, j] = 1.0 / last


@jit
def _resolve(m, rates, s, cut, periodic, f, g, x):
    """Fill x = J(s) m; g has room for two times the width of the block."""
    if m.shape[1] == 1 and not cut and not periodic:
        _resolve_line(m[:, 0], rates[2, :, 0], rates[3, :, 0], f[0, :, 0], f[1, :, 0], f[2, :, 0], x[:, 0])
        return
    n, width = m.shape
    forward, pivot, backward, last = f[0], f[1], f[2], g[1]
    if not cut and not periodic:
        _resolve_block(m, rates[2], rates[3], forward, pivot, backward, g[0], last, x)
        return
    _product(m, rates, s, cut, periodic, g[0], last, x)
    if periodic:
        _solve_cyclic(f, last, x)
        return
    if width == 1:
        x[n - 1, 0] = last[0]
        _solve_line(forward[:, 0], pivot[:, 0], backward[:, 0], x[:, 0])
        return
    for i in range(1, n - 1):
        for j in range(width):
            x[i, j] += forward[i - 1, j] * x[i - 1, j]
    for j in range(width):
        x[n - 1, j] = (last[j] + forward[n - 2, j] * x[n - 2, j]) * pivot[n - 1, j]
    for i in range(n - 2, -1, -1):
        for j in range(width):
            x[i, j] = x[i, j] * pivot[i, j] + backward[i, j] * x[i + 1, j]


@jit
def _resolve_line(m, p, r, forward, pivot, backward, x):
    """Fill x = J m of a single line between walls: the product by B goes along with the recursion from both ends."""
    n, middle = m.size, m.size // 2
    low = high = before = after = 0.0
    for i in range(middle):
        flux = p[i] * m[i] - r[i] * m[i + 1]
        x[i] = (m[i] - flux + before) + low
        low, before = x[i] * forward[i], flux
        k = n - 1 - i
        if k > middle:
            flux = p[k - 1] * m[k - 1] - r[k - 1] * m[k]
            x[k] = (m[k] + flux - after) + high
            high, after = x[k] * forward[k], flux
    x[middle] = m[middle] - after + before
    _from_middle(pivot, backward, low + high, x)


@jit
def _from_middle(pivot, backward, arrived, x):
    """Go back from the middle of a line to both ends; ``arrived`` is what came there from them."""
    n, middle = x.size, x.size // 2
    low = high = (x[middle] + arrived) * pivot[middle]
    x[middle] = low
    for i in range(middle - 1, -1, -1):
        low = x[i] * pivot[i] + backward[i] * low
        x[i] = low
        k = n - 1 - i
        if k > middle:
            high = x[k] * pivot[k] + backward[k] * high
            x[k] = high


@jit(apart=True)
def _resolve_block(m, p, r, forward, pivot, backward, before, carry, x):
    """Fill x = J m of lines between walls as `_resolve_line` does, with what is carried along in two short arrays."""
    n, width = m.shape
    for j in range(width):
        before[j] = carry[j] = 0.0
    for i in range(n - 1):
        for j in range(width):
            flux = p[i, j] * m[i, j] - r[i, j] * m[i + 1, j]
            value = (m[i, j] - flux + before[j]) + carry[j]
            x[i, j] = value
            carry[j] = value * forward[i, j]
            before[j] = flux
    for j in range(width):
        carry[j] = ((m[n - 1, j] + before[j]) + carry[j]) * pivot[n - 1, j]
        x[n - 1, j] = carry[j]
    for i in range(n - 2, -1, -1):
        for j in range(width):
            value = x[i, j] * pivot[i, j] + backward[i, j] * carry[j]
            x[i, j] = carry[j] = value


@jit
def _product(m, rates, s, cut, periodic, before, last, x):
    """Fill x = B m, but for its last row, which goes to ``last``."""
    n, width = m.shape
    a, b, p, r = rates[0], rates[1], rates[2], rates[3]
    for j in range(width):
        before[j] = 0.0
        if periodic:
            e = n - 1
            before[j] = ((_cut(p[e, j], s * a[e, j]) if cut else p[e, j]) * m[e, j]
                         - (_cut(r[e, j], s * b[e, j]) if cut else r[e, j]) * m[0, j])
        last[j] = m[n - 1, j] - before[j]
    if cut:
        for i in range(n - 1):
            for j in range(width):
                flux = (_cut(p[i, j], s * a[i, j]) * m[i, j]
                        - _cut(r[i, j], s * b[i, j]) * m[i + 1, j])
                x[i, j] = m[i, j] - flux + before[j]
                before[j] = flux
    else:
        for i in range(n - 1):
            for j in range(width):
                flux = p[i, j] * m[i, j] - r[i, j] * m[i + 1, j]
                x[i, j] = m[i, j] - flux + before[j]
                before[j] = flux
    for j in range(width):
        last[j] += before[j]


@jit
def _solve_cyclic(f, last, x):
    """Solve (B - s A) y = x of a periodic line in place; the last row of x is given apart."""
    n, width = x.shape
    forward, pivot, backward, to_border, from_border = f[0], f[1], f[2], f[3], f[4]
    for i in range(n - 1):
        if i > 0:
            for j in range(width):
                x[i, j] += forward[i - 1, j] * x[i - 1, j]
        for j in range(width):
            last[j] += to_border[i, j] * x[i, j]
    for j in range(width):
        last[j] *= pivot[n - 1, j]
        x[n - 1, j] = last[j]
    for i in range(n - 2, -1, -1):
        for j in range(width):
            x[i, j] = x[i, j] * pivot[i, j] + backward[i, j] * x[i + 1, j] + from_border[i, j] * last[j]


@jit
def _generator(m, rates, periodic, g, x):
    """Fill x = A m; the array g is scratch."""
    n, width = m.shape
    size = (n - 1) * width
    a, b = rates[0].reshape(n * width), rates[1].reshape(n * width)
    mf, gf, xf = m.reshape(n * width), g.reshape(n * width), x.reshape(n * width)
    for t in range(size):
        gf[t] = a[t] * mf[t] - b[t] * mf[t + width]
    for t in range(size, size + width):
        gf[t] = a[t] * mf[t] - b[t] * mf[t - size]
    for t in range(size):
        xf[t + width] = gf[t] - gf[t + width]
    for t in range(width):
        xf[t] = (gf[t + size] if periodic else 0.0) - gf[t]


@jit
def _solve_line(forward, pivot, backward, x):
    """Solve (B - s A) y = x of a single line between walls in place."""
    n, middle, low, high = x.size, x.size // 2, 0.0, 0.0
    for i in range(middle):
        x[i] += low
        low = x[i] * forward[i]
        k = n - 1 - i
        if k > middle:
            x[k] += high
            high = x[k] * forward[k]
    _from_middle(pivot, backward, low + high, x)


@jit
def _solve(f, periodic, last, x):
    """Solve (B - s A) y = x in place with the factors of `_factor`; ``last`` has room for the width."""
    n, width = x.shape
    if periodic:
        for j in range(width):
            last[j] = x[n - 1, j]
        _solve_cyclic(f, last, x)
        return
    if width == 1:
        _solve_line(f[0, :, 0], f[1, :, 0], f[2, :, 0], x[:, 0])
        return
    for i in range(n - 1):
        for j in range(width):
            x[i + 1, j] += f[0, i, j] * x[i, j]
    for j in range(width):
        x[n - 1, j] *= f[1, n - 1, j]
    for i in range(n - 2, -1, -1):
        for j in range(width):
            x[i, j] = x[i, j] * f[1, i, j] + f[2, i, j] * x[i + 1, j]


@jit
def _combine(y, x):
    """Replace x by x + sqrt(2) (x - y); return whether an entry is negative."""
    negative = 0
    yf, xf = y.reshape(y.size), x.reshape(x.size)
    # Bits are joined and not a minimum kept, so that the loop vectorizes; so in the other loops of this file.
    for t in range(xf.size):
        xf[t] += ROOT2 * (xf[t] - yf[t])
        negative |= xf[t] < 0.0
    return negative != 0


@jit
def _mend(mass, safe, x):
    """Raise negative entries of the lines of x to a part of those of ``safe``, and scale the lines to their mass.

    Return the mass that was moved.
    """
    n, width = x.shape
    moved, sums = 0.0, np.zeros((2, width))
    raised, total = sums[0], sums[1]
    for i in range(n):
        for j in range(width):
            value = x[i, j] if x[i, j] >= 0.0 else LEFT * max(safe[i, j], 0.0)
            raised[j] += value - x[i, j]
            total[j] += value
            x[i, j] = value
    for j in range(width):
        moved += raised[j]
        # Nothing is scaled where nothing was raised.
        total[j] = mass[j] / total[j] if raised[j] > 0.0 and total[j] > 0.0 else 1.0
    for i in range(n):
        for j in range(width):
            x[i, j] *= total[j]
    return moved


@jit
def _mend_line(m, safe, x):
    """Raise negative entries of a line x to a part of those of ``safe``, and scale it to the mass of m, as `_mend`."""
    mass, raised, total = 0.0, 0.0, 0.0
    for i in range(x.size):
        value = x[i] if x[i] >= 0.0 else LEFT * max(safe[i], 0.0)
        mass += m[i]
        raised += value - x[i]
        total += value
        x[i] = value
    scale = mass / total if raised > 0.0 and total > 0.0 else 1.0
    for i in range(x.size):
        x[i] *= scale
    return raised


@jit
def _sums(m, mass):
    """Fill the sums of the lines of m."""
    n, width = m.shape
    for j in range(width):
        mass[j] = 0.0
    for i in range(n):
        for j in range(width):
            mass[j] += m[i, j]


@jit
def _second_order(m, rates, s, cut, periodic, f, g, y, x):
    """Fill x = J^2 m + sqrt(2) (J^2 - J) m, mended where it is negative; return the mass moved."""
    _resolve(m, rates, s, cut, periodic, f, g, y)
    _resolve(y, rates, s, cut, periodic, f, g, x)
    if not _combine(y, x):
        return 0.0
    yf, xf = y.reshape(y.size), x.reshape(x.size)
    for t in range(xf.size):
        yf[t] = (xf[t] + ROOT2 * yf[t]) * SHARE
    _sums(m, g[0])
    return _mend(g[0], y, x)


@jit
def _fifth_order(m, rates, s, cut, periodic, f, g, y, z, x):
    """Fill x = sum of c_k J^k m, k = 1..5, mended where it is negative; return the mass moved."""
    xf, negative = x.reshape(x.size), 0
    for k in range(5):
        old, new = (m if k == 0 else (y if k % 2 else z)), (z if k % 2 else y)
        _resolve(old, rates, s, cut, periodic, f, g, new)
        weight, nf = FIFTH_WEIGHTS[k], new.reshape(new.size)
        if k == 0:
            for t in range(xf.size):
                xf[t] = weight * nf[t]
        elif k < 4:
            for t in range(xf.size):
                xf[t] += weight * nf[t]
        else:
            for t in range(xf.size):
                xf[t] += weight * nf[t]
                negative |= xf[t] < 0.0
    if negative == 0:
        return 0.0
    _sums(m, g[0])
    return _mend(g[0], z, x)


@jit
def _load(flat, start, stride, step, lines, block):
    """Copy ``lines`` lines (``step`` apart) of cells (``stride`` apart) into a block, zeros in the columns left."""
    n, width = block.shape
    for i in range(n):
        for j in range(lines if step == 1 else 0):
            block[i, j] = flat[start + i * stride + j]
        for j in range(lines, width):
            block[i, j] = 0.0
    # Tiles: lines that are a power of two apart would drive each other out of the cache.
    for tile in range(0, n if step != 1 else 0, TILE):
        for j in range(lines):
            for i in range(tile, min(tile + TILE, n)):
                block[i, j] = flat[start + i * stride + j * step]


@jit
def _store(block, start, stride, step, lines, flat):
    n = block.shape[0]
    for i in range(n if step == 1 else 0):
        for j in range(lines):
            flat[start + i * stride + j] = block[i, j]
    for tile in range(0, n if step != 1 else 0, TILE):
        for j in range(lines):
            for i in range(tile, min(tile + TILE, n)):
                flat[start + i * stride + j * step] = block[i, j]


@jit
def _exceeds(block, size):
    """Return whether an entry is larger than a size."""
    flat, found = block.reshape(block.size), 0
    for t in range(flat.size):
        found |= abs(flat[t]) > size
    return found != 0


@jit
def _place(b, width, outer, n, inner):
    """Return where block b lies: start, stride along the line, step between lines, number of lines."""
    if inner == 1:
        first = b * width
        return first * n, 1, n, min(width, outer - first)
    per_slab = (inner + width - 1) // width
    slab, first = b // per_slab, (b % per_slab) * width
    return slab * n * inner + first, inner, 1, min(width, inner - first)


@jit(unrolled=False)
def compact_sweep(masses, psi, mobility, diffusion, dt, count, h, outer, inner, periodic, kind, mode, rates, factors,
                  moved, negligible, first, last):
    """Move the lines of blocks first..last-1 along one axis by ``count`` times a time dt, in place.

    Parameters
    ----------
    masses, psi : arrays, shape (outer * n * inner,)
        Point masses and Psi, flat in C order.
    mobility : array of the same shape, or empty
        On graded axes with the widths of the strips at both walls behind it.
        A along this axis at the centers; Psi is then Psi - D log A. Empty: A = 1.
    diffusion, dt : float
    count : int
    h : float
    outer, inner : int
        Products of the shape before and after the axis.
    kind : int
        SECOND; FIFTH; EULER and HALVES, whose resolvents are made stochastic at any dt by smaller weights.
    mode : int
        NONE; FILL, RATES or BOTH, with what is kept in
    rates, factors : arrays, shapes (blocks, 4, n, W) and (blocks, 3, n, W), or 5 factors on a periodic axis
        In mode NONE their last axes alone are used, as the shape of a block.
    moved : array, shape (blocks,)
        Receives the mass that was moved in each block to mend negative entries.
    negligible : float
        Blocks without a cell of more mass than this are left as they are.
    first, last : int
        Range of blocks.
    """
    n, width = rates.shape[2], rates.shape[3]
    work, g = np.empty((4, n, width)), np.empty((2, width))
    y, p = work[2], work[3]
    own = np.empty((9 if mode == NONE else 0, n, width))
    cut = kind in (EULER, HALVES)
    s = dt * (GAMMA if kind == SECOND else (1.0 if kind == EULER else (0.5 if kind == HALVES else GAMMA5)))
    for b in range(first, last):
        start, stride, step, lines = _place(b, width, outer, n, inner)
        _load(masses, start, stride, step, lines, work[0])
        unit = own[:4] if mode == NONE else rates[b]
        f = own[4:] if mode == NONE else factors[b]
        if mode in (NONE, FILL):
            _load(psi, start, stride, step, lines, p)
            _unit_rates(p, diffusion, h, periodic, unit)
            if mobility.size > 0:
                _load(mobility, start, stride, step, lines, p)
                _mobile(unit, p, periodic)
                if mobility.size > masses.size and not periodic:
                    _add_strips(unit, mobility[masses.size], mobility[masses.size + 1])
        if mode != BOTH:
            _factor(unit, s, cut, periodic, f)
        moved[b] = 0.0
        if not _exceeds(work[0], negligible):
            continue
        for k in range(count):
            m, x = work[k % 2], work[(k + 1) % 2]
            if kind == SECOND:
                moved[b] += _second_order(m, unit, s, cut, periodic, f, g, y, x)
                continue
            if kind == FIFTH:
                moved[b] += _fifth_order(m, unit, s, cut, periodic, f, g, y, p, x)
                continue
            _resolve(m, unit, s, cut, periodic, f, g, x if kind == EULER else y)
            if kind == HALVES:
                _resolve(y, unit, s, cut, periodic, f, g, x)
        _store(work[count % 2], start, stride, step, lines, masses)


@jit(apart=True)
def _add_stage(stage, weight, share, x, low):
    """Add parts of a stage of the formula of order 5 to a line, and to its distance to the formula of order 3."""
    for i in range(x.size):
        x[i] += weight * stage[i]
        low[i] += share * stage[i]


@jit(unrolled=False)
def compact_line(m, rates, f, dt, known, periodic, x):
    """Move one line (n, 1) by a time dt by the formula of order 5.

    Return its distance to the formula of order 3 and to the start, and the mass moved to mend negative entries.
    """
    n = m.shape[0]
    s = GAMMA5 * dt
    # Not a constant, for which the functions would be compiled again.
    cut = s < 0.0
    if not known:
        _factor(rates, s, cut, periodic, f)
    y, g, low = np.empty((2, n, 1)), np.empty((2, 1)), np.zeros(n)
    mf, xf = m.reshape(n), x.reshape(n)
    for i in range(n):
        xf[i], y[0, i, 0] = 0.0, mf[i]
    for k in range(5):
        c5 = FIFTH_WEIGHTS[k]
        c3 = THIRD_WEIGHTS[k] if k < 4 else 0.0
        old, new = y[k % 2], y[(k + 1) % 2]
        _resolve(old, rates, s, cut, periodic, f, g, new)
        _add_stage(new.reshape(n), c5, c5 - c3, xf, low)
    distance, whole = 0.0, 0.0
    for i in range(n):
        distance += abs(low[i])
        whole += abs(xf[i] - mf[i])
    return distance, whole, _mend_line(mf, y[1].reshape(n), xf)


@jit
def _chain_rates(psi, mobility, weights, diffusion, closed, rates):
    """Fill rates and weights of one chain of cells, (4, n, 1), in units of its steps.

    Edges at the ends of a chain have the rates of second order and no weights p and r. Rates are divided by the
    quadrature weight of the cell that they leave.
    """
    n = psi.size
    out = rates.reshape(4, n)
    for i in range(n if closed else n - 1):
        e = i + 1 if i + 1 < n else 0
        ends = not closed and (i == 0 or e == n - 1)
        before, after = (i - 1 if i > 0 else n - 1), (e + 1 if e + 1 < n else 0)
        before, after = (i if ends else before), (e if ends else after)
        share = 0.0 if ends else 0.5
        _edges(psi[before:][:1], psi[i:][:1], psi[e:][:1], psi[after:][:1], share, share, 1.0 / diffusion, diffusion,
               out[0, i:][:1], out[1, i:][:1], out[2, i:][:1], out[3, i:][:1])
        if ends:
            out[2, i] = out[3, i] = 0.0
        out[0, i] *= mobility[i] / weights[i]
        out[2, i] /= weights[i]
        out[1, i] *= mobility[e] / weights[e]
        out[3, i] /= weights[e]
    if not closed:
        for k in range(4):
            out[k, n - 1] = 0.0


@jit(unrolled=False)
def chain_steps(masses, psi, mobility, weights, diffusion, dt, count, order, starts, closed, kind, moved, negligible,
                first, last):
    """Move chains first..last-1 of cells by ``count`` times a time dt, in place, as `compact_sweep` moves lines.

    Parameters
    ----------
    masses, psi, weights : arrays, flat in C order
        Point masses, Psi - D log lambda, and the quadrature weights of the cells over their volume.
    mobility : array, flat in C order
        lambda > 0 at the centers, in units of the steps of the chains.
    diffusion, dt : float
    count : int
    order, starts, closed
        As in `wgflow.energies.oblique.Direction`.
    kind : int
    moved : array, shape (chains,)
    negligible : float
    first, last : int
    """
    g, size = np.empty((2, 1)), 0
    work, scratch = np.empty((4, size, 1)), np.empty((3, size))
    rates, f = np.empty((4, size, 1)), np.empty((5, size, 1))
    cut = kind in (EULER, HALVES)
    s = dt * (GAMMA if kind == SECOND else (1.0 if kind == EULER else (0.5 if kind == HALVES else GAMMA5)))
    for c in range(first, last):
        begin, n = starts[c], starts[c + 1] - starts[c]
        moved[c] = 0.0
        if n < 2:
            continue
        if n != size:
            size = n
            work, scratch = np.empty((4, n, 1)), np.empty((3, n))
            rates, f = np.empty((4, n, 1)), np.empty((5, n, 1))
        y, p = work[2], work[3]
        for i in range(n):
            at = order[begin + i]
            work[0, i, 0] = masses[at]
            scratch[0, i], scratch[1, i], scratch[2, i] = psi[at], mobility[at], weights[at]
        if not _exceeds(work[0], negligible):
            continue
        _chain_rates(scratch[0], scratch[1], scratch[2], diffusion, closed, rates)
        _factor(rates, s, cut, closed, f)
        for k in range(count):
            m, x = work[k % 2], work[(k + 1) % 2]
            if kind == SECOND:
                moved[c] += _second_order(m, rates, s, cut, closed, f, g, y, x)
            elif kind == FIFTH:
                moved[c] += _fifth_order(m, rates, s, cut, closed, f, g, y, p, x)
            else:
                _resolve(m, rates, s, cut, closed, f, g, x if kind == EULER else y)
                if kind == HALVES:
                    _resolve(y, rates, s, cut, closed, f, g, x)
        for i in range(n):
            masses[order[begin + i]] = work[count % 2, i, 0]


@jit(unrolled=False)
def chain_rate_of_energy(masses, psi, mobility, weights, mu, diffusion, order, starts, closed, negligible):
    """Return minus the part of dF/dt of one direction, -sum_i mu_i (B^{-1} A m)_i over its chains."""
    total, last, size = 0.0, np.empty(1), 0
    work, scratch = np.empty((3, size, 1)), np.empty((3, size))
    rates, f = np.empty((4, size, 1)), np.empty((5, size, 1))
    for c in range(starts.size - 1):
        begin, n = starts[c], starts[c + 1] - starts[c]
        if n < 2:
            continue
        if n != size:
            size = n
            work, scratch = np.empty((3, n, 1)), np.empty((3, n))
            rates, f = np.empty((4, n, 1)), np.empty((5, n, 1))
        m, g, x = work[0], work[1], work[2]
        for i in range(n):
            at = order[begin + i]
            m[i, 0] = masses[at]
            scratch[0, i], scratch[1, i], scratch[2, i] = psi[at], mobility[at], weights[at]
        if not _exceeds(m, negligible):
            continue
        _chain_rates(scratch[0], scratch[1], scratch[2], diffusion, closed, rates)
        # Not a constant, for which the functions would be compiled again.
        _factor(rates, 0.0, n < 1, closed, f)
        _generator(m, rates, closed, g, x)
        _solve(f, closed, last, x)
        part = 0.0
        for i in range(n):
            part -= mu[order[begin + i]] * x[i, 0]
        total += part
    return total


@jit
def _line_energy(m, mu, diffusion, logs):
    """Fill log m, return sum m (D log m + mu) of a line, in blocks, so that round-off does not grow with the line."""
    total = 0.0
    for first in range(0, m.size, 64):
        part = 0.0
        for i in range(first, min(first + 64, m.size)):
            logs[i] = math.log(max(m[i], TINY))
            part += m[i] * (diffusion * logs[i] + mu[i])
        total += part
    return total


@jit(unrolled=False)
def _add_tree(parts, q, sums, rest):
    """Add parts to a sum by a tree, carry its round-off along (Neumaier 1974), and set them to 0."""
    half = parts.size // 2
    while half > 0:
        for j in range(half):
            parts[j] += parts[j + half]
        half //= 2
    part = parts[0]
    total = sums[q] + part
    rest[q] += (sums[q] - total) + part if abs(sums[q]) >= abs(part) else (part - total) + sums[q]
    sums[q] = total
    for j in range(parts.size):
        parts[j] = 0.0


@jit(unrolled=False)
def law_sums(masses, potential, field, share, diffusion, logs):
    """Fill D log m; return sum m (D log m + V + share W), sum m and min m.

    V is ``potential`` and W ``field``, which may be empty; without diffusion ``logs`` is left as it is. Sums are formed
    by trees of 512 cells, whose round-off is carried along. Not finite masses have no energy.
    """
    n = masses.size
    x, k, shift = np.empty(TOGETHER), np.empty(TOGETHER), np.empty(TOGETHER)
    mu, energy, mass, low = np.empty(TOGETHER), np.zeros(TOGETHER), np.zeros(TOGETHER), np.full(TOGETHER, np.inf)
    bits, k_bits = x.view(np.int64), k.view(np.int64)
    sums, rest = np.zeros(2), np.zeros(2)
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        m, v = masses[first:first + size], potential[first:first + size]
        for j in range(size):
            mu[j] = v[j]
        if field.size > 0:
            w = field[first:first + size]
            for j in range(size):
                mu[j] += share * w[j]
        if diffusion > 0.0:
            own = logs[first:first + size]
            for j in range(size):
                small = m[j] < NORMAL
                x[j] = max(m[j], TINY) * 2.0**RAISED if small else m[j]
                shift[j] = WHOLE + RAISED if small else WHOLE
            for j in range(size):
                raised = bits[j] + ABOVE_HALF
                k_bits[j] = (raised >> 52) | WHOLE_BITS
                bits[j] = (raised & MANTISSA) + HALF_BITS
            for j in range(size):
                power, f = k[j] - shift[j], x[j] - 1.0
                s = f / (2.0 + f)
                z = s * s
                y = z * z
                r = y * (LOG[1] + y * (LOG[3] + y * LOG[5])) + z * (LOG[0] + y * (LOG[2] + y * (LOG[4] + y * LOG[6])))
                h = 0.5 * f * f
                own[j] = diffusion * (power * LOG2_HIGH - ((h - (s * (h + r) + power * LOG2_LOW)) - f))
            for j in range(size):
                mu[j] += own[j]
        for j in range(size):
            energy[j] += m[j] * mu[j]
            mass[j] += m[j]
            low[j] = m[j] if m[j] < low[j] else low[j]
        if first + TOGETHER < n and first // TOGETHER % BLOCKS < BLOCKS - 1:
            continue
        _add_tree(energy, 0, sums, rest)
        _add_tree(mass, 1, sums, rest)
    least = low[0]
    for j in range(1, TOGETHER):
        least = min(least, low[j])
    if not abs(sums[1]) < np.inf:
        return np.nan, sums[1], least
    # Beyond the floats there is no round-off to carry.
    return sums[0] + rest[0] if abs(sums[0]) < np.inf else sums[0], sums[1] + rest[1], least


@jit
def _line_dissipation(m, logs, mu, diffusion, rates, f, periodic, g, x):
    """Return -dF/dt of a line, given log m; f holds the factors of B itself."""
    _generator(m, rates, periodic, x, g)
    _solve(f, periodic, x[0], g)
    total = 0.0
    for i in range(m.shape[0]):
        total -= g[i, 0] * (diffusion * logs[i] + mu[i])
    return total


@jit
def _sound(x, mass):
    """Scale a line to its exact mass; return whether it had it up to round-off, and the smallest of its masses."""
    total, least = 0.0, x[0, 0]
    for i in range(x.shape[0]):
        total += x[i, 0]
        least = min(least, x[i, 0])
    if abs(total - mass) > MASS_SLACK * mass:
        for i in range(x.shape[0]):
            x[i, 0] *= mass / total
        least *= mass / total
    return abs(total - mass) <= MASS_ALARM * mass, least


@jit(unrolled=False)
def compact_start(start, psi, mobility, mu, diffusion, h, periodic, rates, f):
    """Fill rates and the factors of B of a single line.

    Return its energy, its dissipation, the L1 norm of A m, and the error of the grid times the mass.
    """
    n = start.size
    m, x, g = np.empty((n, 1)), np.empty((n, 1)), np.empty((n, 1))
    for i in range(n):
        m[i, 0] = start[i]
    _unit_rates(psi.reshape(n, 1), diffusion, h, periodic, rates)
    if mobility.size > 0:
        _mobile(rates, mobility[:n].reshape(n, 1), periodic)
        if mobility.size > n and not periodic:
            _add_strips(rates, mobility[n], mobility[n + 1])
    _factor(rates, 0.0, n < 1, periodic, f[1])
    _generator(m, rates, periodic, x, g)
    speed = 0.0
    for i in range(n):
        speed += abs(g[i, 0])
    logs = np.empty(n)
    energy = _line_energy(start, mu, diffusion, logs)
    rate = _line_dissipation(m, logs, mu, diffusion, rates, f[1], periodic, g, x)
    return energy, rate, speed, GRID_SHARE * differences(start, 1, n, 1)[1]


@jit(unrolled=False)
def compact_steps(start, mu, diffusion, periodic, scale, times, control, tolerance, rates, f, rows, laws):
    """Take steps of a single line with a fixed Psi, until a time, until ``rows`` is full, or until there is trouble.

    The steps of `compact_line`, accepted and controlled as those that Python takes one by one.

    Parameters
    ----------
    start : array (n,)
        Point masses.
    mu : array (n,)
        The chemical potential without its part D log m.
    diffusion : float
    periodic : bool
    scale : float
        The time_scale.
    times : (t, stop, longest, energy, mass)
        The time, the end, the longest step allowed, the energy at t, and the mass.
    control : array (4,)
        Step length, sum of the errors, shortest length, largest growth; brought up to date.
    tolerance : (rtol, share, tightest, loosest)
        rtol of a step, or a negative number and a multiple of the error of the grid with its bounds.
    rates, f : arrays (4, n, 1) and (2, 5, n, 1)
        As `compact_start` has filled them.
    rows : array (k, 7)
        Receives of each step time, length by the clock, energy, dissipation, sum of the errors, steps rejected, and the
        smallest mass.
    laws : array (k, n)
        Receives the point masses.

    Returns
    -------
    (int, int, bool)
        Steps accepted, steps rejected, and whether the next one needs another candidate.
    """
    n = start.size
    t, stop, longest, energy, mass = times
    rtol, share, tightest, loosest = tolerance
    m, x, g, logs = np.empty((n, 1)), np.empty((n, 1)), np.empty((n, 1)), np.empty(n)
    for i in range(n):
        m[i, 0] = start[i]
    last, accepted, rejected = -1.0, 0, 0
    while t < stop and accepted < rows.shape[0]:
        count = max(1, math.ceil((stop - t) / min(control[0], longest) * (1 - 1e-9)))
        dt = (stop - t) / count
        if t + dt == t:
            return accepted, rejected, True
        clock = round_length(dt * scale)
        distance, whole, moved = compact_line(m, rates, f[0], clock, clock == last, periodic, x)
        last = clock
        sound, least = _sound(x, mass)
        if not (sound and least >= 0.0):
            return accepted, rejected, True
        after = _line_energy(x[:, 0], mu, diffusion, logs)
        if not after <= energy + ENERGY_SLACK * max(1.0, abs(energy)):
            return accepted, rejected, True
        error = line_error(distance, whole, mass)
        allowed = rtol
        if rtol < 0.0:
            allowed = min(max(share * GRID_SHARE * differences(x[:, 0], 1, n, 1)[1] / mass, tightest), loosest)
        if not next_length(control, dt, error, LINE_POWER, allowed):
            rejected += 1
            continue
        control[1] += moved / mass
        t = stop if count == 1 else t + dt
        energy = after
        for i in range(n):
            laws[accepted, i] = m[i, 0] = x[i, 0]
        rows[accepted, 0], rows[accepted, 1], rows[accepted, 2] = t, clock, energy
        rows[accepted, 3] = _line_dissipation(m, logs, mu, diffusion, rates, f[1], periodic, g, x)
        rows[accepted, 4], rows[accepted, 5], rows[accepted, 6] = control[1], rejected, least
        accepted += 1
    return accepted, rejected, False


@jit(fastmath={"reassoc", "contract"})
def _line_field(m, features, signs, table, origin, pitch, field):
    """Fill U m; features come in fours, so that m and the sums are read once for all of them."""
    n = m.shape[0]
    for i in range(n):
        total = 0.0
        if table.size > 0:
            row = table[origin + i * pitch:][:n]
            for k in range(n):
                total += row[k] * m[k, 0]
        field[i] = total
    for k in range(0, signs.size, 4):
        one, two, three, four = features[k], features[k + 1], features[k + 2], features[k + 3]
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            a += one[i] * m[i, 0]
            b += two[i] * m[i, 0]
            c += three[i] * m[i, 0]
            d += four[i] * m[i, 0]
        a, b, c, d = a * signs[k], b * signs[k + 1], c * signs[k + 2], d * signs[k + 3]
        for i in range(n):
            field[i] += one[i] * a + two[i] * b + (three[i] * c + four[i] * d)


@jit
def _quadratic(t, t0, t1, t2, values, base, out):
    """Fill ``base`` plus the value at t of the parabola through the first three rows of values, at t0, t1 and t2."""
    w0 = (t - t1) / (t0 - t1) * ((t - t2) / (t0 - t2))
    w1 = (t - t0) / (t1 - t0) * ((t - t2) / (t1 - t2))
    w2 = (t - t0) / (t2 - t0) * ((t - t1) / (t2 - t1))
    for i in range(base.size):
        out[i, 0] = base[i] + (w0 * values[0, i] + w1 * values[1, i] + w2 * values[2, i])


@jit
def _line_sweep(m, psi, diffusion, h, periodic, dt, rates, f, g, y, x):
    """Fill x = S(dt) m of a single line; return the mass moved to mend negative entries."""
    _unit_rates(psi, diffusion, h, periodic, rates)
    # Not a constant, for which the functions would be compiled again.
    cut = dt < 0.0
    _factor(rates, dt * GAMMA, cut, periodic, f)
    return _second_order(m, rates, dt * GAMMA, cut, periodic, f, g, y, x)


@jit
def _field_step(work, dt, last, known, potential, features, signs, table, shifts, diffusion, h, periodic, rates, f, g,
                mu):
    """Fill the candidate of a step with an interaction; ``known`` has U m of the past, and receives that in the middle.

    ``work`` holds the law, the half step, the two halves F, the whole step C, the candidate E = F + (F - C) / 3, and
    two arrays of scratch. Return |F - C| / 3, the whole change, the mass moved, and the error beside |F - C|.
    """
    n = mu.size
    m, half, fine, coarse, x, y, psi = work[0], work[1], work[2], work[3], work[4], work[5], work[6]
    middle = known[3]
    moved, mended, missed = 0.0, 0.0, 0.0
    # A loop, so that each function is compiled into this one once.
    for k in range(3):
        if k < 2:
            _quadratic((0.25 + 0.5 * k) * dt, -last if k == 0 else -0.5 * last, -0.5 * last if k == 0 else 0.0,
                       0.0 if k == 0 else 0.5 * dt, known[k:], potential, psi)
        else:
            for i in range(n):
                psi[i, 0] = potential[i] + middle[i]
        mended = _line_sweep(work[k % 2], psi, diffusion, h, periodic, 0.5 * dt if k < 2 else dt, rates, f, g, y,
                             work[k + 1])
        moved += mended if k < 2 else 0.0
        if k == 0:
            _line_field(half, features, signs, table, shifts[0], shifts[1], middle)
            # What the extrapolation to the middle has missed.
            _quadratic(0.5 * dt, -last, -0.5 * last, 0.0, known, middle, psi)
            for i in range(n):
                mu[i] = psi[i, 0] - 2.0 * middle[i]
            missed = EXTRAPOLATED * dt * _speed_of_field(m, mu, h)
    distance, whole, negative = extrapolate(m[:, 0], fine[:, 0], coarse[:, 0], x[:, 0])
    missed += max(0.0, mended - moved)
    if negative < 0.0:
        _sums(fine, g[0])
        moved += _mend(g[0], fine, x)
    return distance, whole, moved, missed


@jit(unrolled=False)
def compact_field_steps(start, past, potentials, interaction, shifts, line, times, control, tolerance, rows, laws,
                        fields, middles):
    """Take steps of a single line with an interaction, until a time, until ``rows`` is full, or until there is trouble.

    The steps that Python takes one by one (`wgflow.solvers.finite_volume.compact`), where the first candidate is good
    and there are fields of the past.

    Parameters
    ----------
    start : array (n,)
        Point masses.
    past : array (3, n)
        U m at the start of the last step, in its middle, and now.
    potentials : array (2, n)
        The potential that drives the fluxes, and the chemical potential, both without U m and D log m.
    interaction : (features, signs, table)
        As `wgflow.solvers.finite_volume.line_interaction` makes them.
    shifts : (origin, pitch)
        Where the rows of the table begin.
    line : (diffusion, h, periodic)
    times : (t, stop, longest, scale, last, energy, mass)
        The time, the end, the longest step allowed, the time_scale, the length of the last step by the clock, the
        energy at t, and the mass.
    control, tolerance
        As in `compact_steps`.
    rows : array (k, 7)
        Receives of each step time, length by the clock, energy, dissipation, sum of the errors, steps rejected, and the
        smallest mass.
    laws, fields, middles : arrays (k, n)
        Receive the point masses, U m, and that in the middle of the step.

    Returns
    -------
    (int, int)
        Steps accepted, steps rejected. Fewer than wanted: the next one needs more care.
    """
    n = start.size
    t, stop, longest, scale, last, energy, mass = times
    rtol, share, tightest, loosest = tolerance
    diffusion, h, periodic = line
    features, signs, table = interaction
    rates, f, g = np.empty((4, n, 1)), np.empty((5, n, 1)), np.empty((2, 1))
    work, known, lines = np.empty((7, n, 1)), np.empty((4, n)), np.empty((3, n))
    m, fine, coarse, x, psi = work[0], work[2], work[3], work[4], work[6]
    middle, after, mu, logs = known[3], lines[0], lines[1], lines[2]
    for i in range(n):
        m[i, 0] = start[i]
        for k in range(3):
            known[k, i] = past[k, i]
    accepted, rejected = 0, 0
    while t < stop and accepted < rows.shape[0]:
        count = max(1, math.ceil((stop - t) / min(control[0], longest) * (1 - 1e-9)))
        dt = (stop - t) / count
        clock = dt * scale
        s = round_length(clock)
        if t + dt == t or s > LONGEST_EXTRAPOLATION * last:
            break
        distance, whole, moved, missed = _field_step(work, s, last, known, potentials[0], features, signs, table,
                                                     shifts, diffusion, h, periodic, rates, f, g, mu)
        sound, least = _sound(x, mass)
        if not (sound and least >= 0.0):
            break
        _line_field(x, features, signs, table, shifts[0], shifts[1], after)
        for i in range(n):
            mu[i] = potentials[1, i] + 0.5 * after[i]
        level = _line_energy(x[:, 0], mu, diffusion, logs)
        if not level <= energy + ENERGY_SLACK * max(1.0, abs(energy)):
            break
        error = OF_ESTIMATE * distance * math.sqrt(distance / whole) if whole > 0.0 else 0.0
        error = (min(error, distance) + missed) / mass
        allowed = rtol
        if rtol < 0.0:
            allowed = min(max(share * GRID_SHARE * differences(x[:, 0], 1, n, 1)[1] / mass, tightest), loosest)
        if not next_length(control, dt, error, 4.0, allowed):
            rejected += 1
            continue
        control[1] += moved / mass
        t = stop if count == 1 else t + dt
        last, energy = clock, level
        for i in range(n):
            laws[accepted, i] = m[i, 0] = x[i, 0]
            known[0, i], known[1, i], known[2, i] = known[2, i], middle[i], after[i]
            fields[accepted, i], middles[accepted, i] = after[i], middle[i]
            psi[i, 0], mu[i] = potentials[0, i] + after[i], potentials[1, i] + after[i]
        _unit_rates(psi, diffusion, h, periodic, rates)
        _factor(rates, 0.0, n < 1, periodic, f)
        rows[accepted, 0], rows[accepted, 1], rows[accepted, 2] = t, clock, energy
        rows[accepted, 3] = _line_dissipation(m, logs, mu, diffusion, rates, f, periodic, coarse, fine)
        rows[accepted, 4], rows[accepted, 5], rows[accepted, 6] = control[1], rejected, least
        accepted += 1
    return accepted, rejected


@jit
def _speed_of_field(m, field, h):
    """Return the L1 norm of div(rho grad field) on a line."""
    total, before, n = 0.0, 0.0, m.shape[0]
    for i in range(n - 1):
        flux = (m[i + 1, 0] + m[i, 0]) * (field[i + 1] - field[i]) * (0.5 / (h * h))
        total += abs(flux - before)
        before = flux
    return total + abs(before)


@jit(apart=True)
def _add_flux(here, there, low, high, scale, change, changed):
    """Move the fluxes (m_i + m_e) (W_e - W_i) of edges from cells i to cells e, in place."""
    for t in range(here.size):
        flux = (there[t] + here[t]) * (high[t] - low[t]) * scale
        change[t] += flux
        changed[t] -= flux


@jit(unrolled=False)
def add_speed_of_field(masses, field, mobility, scale, outer, n, inner, change):
    """Add ``scale`` times the divergence of rho A grad field along one axis to ``change``; all flat in C order.

    ``mobility`` is A at the centers, or empty for A = 1.
    """
    size = n * inner
    for o in range(outer):
        first, last = o * size, (o + 1) * size - inner
        if mobility.size == 0:
            _add_flux(masses[first:last], masses[first + inner:][:last - first], field[first:last],
                      field[first + inner:][:last - first], scale, change[first:last],
                      change[first + inner:][:last - first])
            continue
        for k in range(first, last):
            e = k + inner
            flux = (masses[e] + masses[k]) * (field[e] - field[k]) * scale * (0.5 * (mobility[e] + mobility[k]))
            change[k] += flux
            change[e] -= flux


@jit(unrolled=False)
def mixed(weights, a, b, c, out):
    """Fill out = w_0 a + w_1 b + w_2 c in one pass."""
    w0, w1, w2 = weights
    for t in range(out.size):
        out[t] = w0 * a[t] + w1 * b[t] + w2 * c[t]


@jit(unrolled=False)
def round_length(dt):
    """Return a length of time rounded to 12 digits: steps that are equal but for round-off share their factors."""
    mantissa, exponent = math.frexp(dt)
    return math.ldexp(math.floor(mantissa * DIGITS + 0.5) / DIGITS, exponent)


@jit(unrolled=False)
def line_error(distance, whole, mass):
    """Return the estimated error of a step by the formula of order 5, relative to the mass."""
    error = OF_DISTANCE * distance * (distance / whole) ** (2.0 / 3.0) if whole > 0.0 else 0.0
    return min(error, distance) / mass


@jit(unrolled=False)
def next_length(control, dt, error, power, tolerance):
    """Accept or reject a step of length dt by its error, and set the next length.

    ``control`` holds the length, the sum of the errors, the shortest length, and the largest growth.
    """
    if not error < math.inf:
        control[0] = dt * SHRINK_LIMIT
        return False
    ratio = control[3] if error == 0.0 else SAFETY * (tolerance / error) ** (1.0 / power)
    if error > tolerance and dt > control[2]:
        control[0] = dt * max(SHRINK_LIMIT, min(ratio, SAFETY))
        return False
    control[1] += error
    control[0] = dt * min(ratio, control[3]) if ratio > WORTH_GROWING or ratio < 1.0 else dt
    return True


@jit(unrolled=False, fastmath={"reassoc"})
def extrapolate(start, fine, coarse, best):
    """Fill best = fine + (fine - coarse) / 3.

    Return the L1 norm of the correction and of the whole change since the start, and the sum of the negative entries.
    """
    distance, whole, negative = 0.0, 0.0, 0.0
    for t in range(fine.size):
        change = (fine[t] - coarse[t]) * (1.0 / 3.0)
        best[t] = fine[t] + change
        distance += abs(change)
        whole += abs(fine[t] - start[t])
        negative += min(best[t], 0.0)
    return distance, whole, negative


@jit(unrolled=False, fastmath={"reassoc"})
def combine(one, two, three, weights, distances, best):
    """Fill best with a linear combination of three laws.

    Return the L1 norm of another one, and the sum of the negative entries of best.
    """
    u, v, w = weights
    a, b, c = distances
    distance, negative = 0.0, 0.0
    for t in range(best.size):
        best[t] = u * one[t] + v * two[t] + w * three[t]
        distance += abs(a * one[t] + b * two[t] + c * three[t])
        negative += min(best[t], 0.0)
    return distance, negative


@jit(apart=True, fastmath={"reassoc"})
def _second_differences(a, b, c):
    """Return the sum of abs(a - 2 b + c)."""
    total = 0.0
    for t in range(b.size):
        total += abs(a[t] + c[t] - 2.0 * b[t])
    return total


@jit(apart=True, fastmath={"reassoc"})
def _fourth_differences(a, b, c, d, e):
    """Return the sum of abs(a - 4 b + 6 c - 4 d + e)."""
    total = 0.0
    for t in range(c.size):
        total += abs(a[t] + e[t] - 4.0 * (b[t] + d[t]) + 6.0 * c[t])
    return total


@jit(unrolled=False)
def differences(flat, outer, n, inner):
    """Return the sums of the absolute second and fourth differences along an axis of n >= 5 cells."""
    second, fourth = 0.0, 0.0
    for o in range(outer):
        line = flat[o * n * inner:][:n * inner]
        size = (n - 4) * inner
        # Slices, whose indices the compiler knows to be at least 0, so that the loops vectorize.
        second += _second_differences(line[:size + 2 * inner], line[inner:][:size + 2 * inner], line[2 * inner:])
        low, middle, high = line[inner:][:size], line[2 * inner:][:size], line[3 * inner:][:size]
        fourth += _fourth_differences(line[:size], low, middle, high, line[4 * inner:])
    return second, fourth


@jit(apart=True, fastmath={"reassoc"})
def _bends(a, b, c, m, low, high):
    """Return the sums of abs(a - 2 b + c) m and abs(low - 2 m + high)."""
    bend, rough = 0.0, 0.0
    for t in range(b.size):
        bend += abs(a[t] + c[t] - 2.0 * b[t]) * m[t]
        rough += abs(low[t] + high[t] - 2.0 * m[t])
    return bend, rough


@jit(apart=True, fastmath={"reassoc"})
def _weighted_fourth(a, b, c, d, e, m):
    """Return the sum of abs(a - 4 b + 6 c - 4 d + e) m."""
    total = 0.0
    for t in range(c.size):
        total += abs(a[t] + e[t] - 4.0 * (b[t] + d[t]) + 6.0 * c[t]) * m[t]
    return total


@jit(apart=True, fastmath={"reassoc"})
def _rises(a, b, m, high):
    """Return the sum of abs(b - a) (m + high)."""
    total = 0.0
    for t in range(a.size):
        total += abs(b[t] - a[t]) * (m[t] + high[t])
    return total


@jit(unrolled=False)
def resolution(masses, pull, outer, n, inner, diffusion, stride):
    """Return what the cells of an axis of n >= 5 resolve of a potential and a law: five sums.

    Of the absolute first (twice), second and fourth differences of the potential times the masses, of the absolute
    second differences of the masses, and, over every ``stride``-th line (0: none) of an axis whose cells lie side by
    side, of the squared differences of D^-1 pull + log m times the masses of both cells.
    """
    slope, bend, kink, rough, rise = 0.0, 0.0, 0.0, 0.0, 0.0
    for o in range(outer):
        m, p = masses[o * n * inner:][:n * inner], pull[o * n * inner:][:n * inner]
        one, two, four = (n - 1) * inner, (n - 2) * inner, (n - 4) * inner
        slope += _rises(p[:one], p[inner:], m[:one], m[inner:])
        bent, rougher = _bends(p[:two], p[inner:][:two], p[2 * inner:], m[inner:][:two], m[:two], m[2 * inner:])
        bend, rough = bend + bent, rough + rougher
        kink += _weighted_fourth(p[:four], p[inner:][:four], p[2 * inner:][:four], p[3 * inner:][:four],
                                 p[4 * inner:], m[2 * inner:][:four])
        if stride > 0 and o % stride == 0:
            before = math.log(max(m[0], TINY))
            for i in range(1, n):
                now = math.log(max(m[i], TINY))
                rise += ((p[i] - p[i - 1]) / diffusion + (now - before)) ** 2 * (m[i] + m[i - 1])
                before = now
    return slope, bend, kink, rough, rise


def compact_layout(shape, axis: int) -> tuple[int, int, int, int]:
    """Return (outer, inner, width, blocks) of an axis: how `compact_sweep` cuts the grid into blocks of lines.

    A block of up to 64 lines, a multiple of 8 where there are so many, whose dozen arrays fit into a cache of 1 MB.
    """
    outer, inner, n = math.prod(shape[:axis]), math.prod(shape[axis + 1:]), shape[axis]
    lines = outer if inner == 1 else inner
    most = WIDEST if n <= LONG else WIDE
    width = -(-lines // -(-lines // most))
    width = width if lines < 8 else 8 * (-(-width // 8))
    blocks = -(-lines // width)
    return outer, inner, width, blocks if inner == 1 else outer * blocks


@jit(apart=True)
def _rate_between_walls(m, u, a, b, forward, pivot, backward, before, carry, x, sums):
    """Fill the sums of u B^{-1} A m of lines between walls, with the factors of B."""
    n, width = m.shape
    for j in range(width):
        before[j] = carry[j] = 0.0
    for i in range(n - 1):
        for j in range(width):
            flux = a[i, j] * m[i, j] - b[i, j] * m[i + 1, j]
            value = (before[j] - flux) + carry[j]
            x[i, j] = value
            carry[j] = value * forward[i, j]
            before[j] = flux
    for j in range(width):
        carry[j] = (before[j] + carry[j]) * pivot[n - 1, j]
        sums[j] = u[n - 1, j] * carry[j]
    for i in range(n - 2, -1, -1):
        for j in range(width):
            value = x[i, j] * pivot[i, j] + backward[i, j] * carry[j]
            carry[j] = value
            sums[j] += u[i, j] * value


@jit(apart=True)
def _products(u, x, sums):
    """Fill the sums of u x of lines."""
    n, width = x.shape
    for j in range(width):
        sums[j] = 0.0
    for i in range(n):
        for j in range(width):
            sums[j] += u[i, j] * x[i, j]


@jit(unrolled=False)
def compact_dissipation(masses, psi, mobility, mu, diffusion, h, outer, inner, periodic, width, kept, formed,
                        factors, negligible):
    """Return minus the part of dF/dt of one axis, -sum_i mu_i (B^{-1} A m)_i.

    ``kept`` has room for the rates of all blocks, or of none; it holds them if they are ``formed``, else receives them.
    ``factors`` holds those of B of all blocks, or of none. Blocks without a cell above ``negligible`` are left out.
    """
    total = 0.0
    n = masses.size // (outer * inner)
    blocks = (outer + width - 1) // width if inner == 1 else outer * ((inner + width - 1) // width)
    work, single = np.empty((5, n, width)), width == 1 and blocks == 1
    m, p, x, g, u = work[0], work[1], work[2], work[3], work[4]
    if single:
        m, u = masses.reshape(n, 1), mu.reshape(n, 1)
    own = np.empty((0 if kept.shape[0] else 4, n, width))
    own_factors, sums = np.empty((0 if factors.shape[0] else (5 if periodic else 3), n, width)), np.empty(width)
    for b in range(blocks):
        start, stride, step, lines = _place(b, width, outer, n, inner)
        if not single:
            _load(masses, start, stride, step, lines, m)
        rates, empty = kept[b] if kept.shape[0] else own, not _exceeds(m, negligible)
        if empty and (formed or kept.shape[0] == 0):
            continue
        if not formed:
            _load(psi, start, stride, step, lines, p)
            _unit_rates(p, diffusion, h, periodic, rates)
            if mobility.size > 0:
                _load(mobility, start, stride, step, lines, p)
                _mobile(rates, p, periodic)
                if mobility.size > masses.size and not periodic:
                    _add_strips(rates, mobility[masses.size], mobility[masses.size + 1])
        f = factors[b] if factors.shape[0] else own_factors
        if empty:
            continue
        if factors.shape[0] == 0:
            # B - 0 A = B: the elimination serves for B itself.
            _factor(rates, 0.0, width < 1, periodic, f)
        if not single:
            _load(mu, start, stride, step, lines, u)
        if periodic or width == 1:
            _generator(m, rates, periodic, g, x)
            _solve(f, periodic, g[0], x)
            _products(u, x, sums)
        else:
            _rate_between_walls(m, u, rates[0], rates[1], f[0], f[1], f[2], g[0], g[1], x, sums)
        part = 0.0
        for j in range(lines):
            part -= sums[j]
        total += part
    return total
