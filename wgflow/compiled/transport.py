r"""Transport without diffusion along lines of cells: masses carried along characteristics, jumps kept within a cell.

A line has the masses m of its cells, and r = m / h, their density along the line. With Psi frozen the velocity at the
edge between cells 1 and 2 is

    a = (Psi_1 - Psi_2) / d,

0 at walls and linear in between, so that characteristics are known in closed form: over a piece of width h with
velocities a_0 and a_1 of one sign at its ends they take the time h log(a_1 / a_0) / (a_1 - a_0), and a piece with a
zero of the velocity is never crossed. With y_i the point from which the edge x_i is reached in a time dt, the new mass
of cell i is

    m'_i = int_{y_i}^{y_{i+1}} r(x) dx,

of a reconstruction r(x) >= 0 with the masses of the cells (`_reconstruct`). Hence, at any dt, mass and sign are kept;
what crosses an edge goes the way of the velocity there, so that sum_i Psi_i m_i falls; and where Psi is constant on the
support nothing moves.

A cell in which the density jumps is cut at the point where two constants, the densities on its two sides, give its
mass: Harten's subcell resolution (J. Comput. Phys. 83, 1989). Such a jump stays within one cell at all times, at the
right place in it.

Velocities at edges are improved where that is possible, but always keep their signs:

* SMOOTH_FIELD: from Psi in four cells, a - (a_before - 2 a + a_after) / 24 on even cells.
* ROUGH_FIELD, for kernels that are singular at 0: Psi is smooth where the density is. There, too, it is taken from four
  cells. But Psi knows the mass of a cut cell, and not where in the cell it is, which is an error of first order: beside
  a cut cell velocities are extrapolated from the side that has mass.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: How velocities at edges are improved.
SMOOTH_FIELD, ROUGH_FIELD = 0, 1
#: Differences of Psi within 4 ulp of its values are round-off, and carry nothing.
ROUND_OFF = 4 * 2.0**-52
#: The density jumps in a cell if the step over it exceeds this multiple of the differences on its two sides. Over a
#: front at which the density vanishes like a root it is 3.4 times as large at most.
JUMP = 8.0
#: The density counts as smooth in a cell if the second differences of both neighbors have its sign and ALIKE of its
#: size, and as rough below UNLIKE of it. In between slopes are limited in part: a sharp switch would be noise to the
#: choice of the steps.
UNLIKE, ALIKE = 0.1, 0.4
#: Squares below this have few digits left: what they belong to counts as rough.
SQUARES = 1e-290
#: Pieces of less than this part of a cell are left out.
THINNEST = 1e-9
#: Profiles of a line that no curve cuts.
NO_PROFILES = np.empty((4, 0))
#: Largest half slope of a cell relative to its density: parabolas stay positive.
STEEPEST = 0.9
#: Speeds at the ends of a piece within this relative distance are equal: their quotient would lose its digits.
NEAR = 1e-8
#: Beyond a jump to less than this part of the density there is too little mass for velocities of its own.
THIN = 0.1
#: In rough fields Psi is taken from four cells where the smallest density is at least this part of the largest.
EVEN = 0.02
#: An improved speed is at least this part of the one that Psi gives, and at most this multiple.
LEAST, LARGEST = 0.5, 2.0
#: A line is at rest if no more than this part of its mass moves: 16 ulp.
REST = 16 * 2.0**-52


# -------------------------------------------------------------------- the density
@jit
def _half_slope(fall, rise, smooth, most):
    """Return Koren's limited half slopes at the right and left end of a cell, from those on its two sides.

    ``smooth`` is the part of the difference between unlimited and limited slopes that is left to them.
    """
    low, high = abs(fall), abs(rise)
    limit = 2.0 * min(low, high) if fall * rise > 0.0 else 0.0
    limit = min(limit + smooth * (low + high - limit), most)
    return (max(-limit, min(limit, (fall + 2.0 * rise) / 3.0)), max(-limit, min(limit, (2.0 * fall + rise) / 3.0)))


@jit
def _profile_at(found, i, place):
    """Return the density of a profile at a place in its cell."""
    low, high, start, end = found[0, i], found[1, i], found[2, i], found[3, i]
    if place <= start:
        return low
    return high if place >= end else low + (high - low) * ((place - start) / (end - start))


@jit
def _reconstruct(r, widths, distances, periodic, found, bend, step, left, right, cut):
    """Fill the densities at the ends of each cell, and the part of it before a jump from one to the other; -1 if none.

    ``found`` holds the profiles of the cells of this line that a curve in the plane cuts (`interfaces`).

    Without a jump r is the parabola through the values at the ends: a third of the difference on the near side of the
    cell and two thirds of that on the side of the end, cut to twice the smaller and to 0 at extrema, but left whole
    where second differences in the cell and its neighbors are alike. Beside a jump the difference over it is replaced
    by the other one. Cells at walls are constant.
    """
    n = r.size
    first, last = (0, n) if periodic else (1, n - 1)
    for i in range(n):
        left[i] = right[i] = r[i]
        bend[i] = step[i] = 0.0
        cut[i] = -1.0
    for i in range(first, last):
        a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        b, f = (a - 1 if a > 0 else n - 1), (e + 1 if e + 1 < n else 0)
        bend[i] = ((r[e] - r[i]) / distances[i] - (r[i] - r[a]) / distances[a]) * widths[i]
        size = abs(r[e] - r[a])
        sides = (abs(r[a] - r[b]) if periodic or a > 0 else 0.0) + (abs(r[f] - r[e]) if periodic or e < n - 1 else 0.0)
        if size > JUMP * sides and min(r[a], r[e]) <= r[i] <= max(r[a], r[e]):
            step[i] = size
    for i in range(first, last):
        # Of neighbors that might all have the jump, it is in the one with the largest step. The mark is replaced below.
        a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        if step[i] > 0.0 and step[i] >= max(step[a], step[e]):
            cut[i] = 1.0
    for i in range(found.shape[1]):
        if found[0, i] >= 0.0:
            cut[i] = 1.0
    for i in range(first, last):
        a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        if cut[i] > 0.0 or (cut[a] > 0.0 and cut[e] > 0.0):
            continue
        fall = 0.5 * widths[i] * (r[i] - r[a]) / distances[a]
        rise = 0.5 * widths[i] * (r[e] - r[i]) / distances[i]
        if cut[e] > 0.0:
            rise = fall
        elif cut[a] > 0.0:
            fall = rise
        alike, own = min(bend[a] * bend[i], bend[e] * bend[i]), bend[i] * bend[i]
        smooth = min(max((alike - UNLIKE * own) / ((ALIKE - UNLIKE) * own), 0.0), 1.0) if own > SQUARES else 0.0
        ahead, behind = _half_slope(fall, rise, smooth, STEEPEST * r[i])
        left[i], right[i] = r[i] - behind, r[i] + ahead
    for i in range(first, last):
        if cut[i] < 0.0:
            continue
        if found.shape[1] > 0 and found[0, i] >= 0.0:
            low, high = found[0, i], found[1, i]
            left[i], right[i] = _profile_at(found, i, 0.0), _profile_at(found, i, 1.0)
            cut[i] = (r[i] - high) / (low - high) if low != high else 0.5
            continue
        a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        before, after = r[a] if cut[a] >= 0.0 else right[a], r[e] if cut[e] >= 0.0 else left[e]
        cut[i] = -1.0
        if before != after and min(before, after) <= r[i] <= max(before, after):
            left[i], right[i], cut[i] = before, after, (r[i] - after) / (before - after)


# -------------------------------------------------------------------- the velocity
@jit
def _own_speeds(psi, distances, speed):
    """Fill the velocities at the edges, n + 1 with both ends: 0 at walls, and where Psi differs by round-off."""
    n = psi.size
    speed[0] = speed[n] = 0.0
    for i in range(distances.size):
        k = i + 1 if i + 1 < n else 0
        fall = psi[i] - psi[k]
        rounding = abs(fall) <= ROUND_OFF * (abs(psi[i]) + abs(psi[k]))
        speed[i + 1] = 0.0 if rounding else fall / distances[i]
    if distances.size == n:
        speed[0] = speed[n]


@jit
def _bounded(wanted, own):
    """Return the speed that is wanted, but of the sign of ``own`` and of a size near to it."""
    size = abs(own)
    return math.copysign(min(max(wanted if own > 0.0 else -wanted, LEAST * size), LARGEST * size), own)


@jit
def _smooth_speeds(own, r, cut, least, widths, distances, periodic, speed):
    """Fill derivatives at the edges of the cubic through Psi at the centers of four cells, by divided differences.

    With ``least`` > 0 only where no cell of the four is cut, and their smallest density is at least this part of the
    largest.
    """
    n = widths.size
    first, last = (0, n) if periodic else (2, n - 1)
    for i in range(first, last):
        a, b = (i - 1 if i > 0 else n - 1), (i - 2 if i > 1 else n - 2 + i)
        e = i + 1 if i + 1 < n else 0
        if least > 0.0 and (max(cut[b], cut[a], cut[i], cut[e]) >= 0.0
                            or min(r[b], r[a], r[i], r[e]) < least * max(r[b], r[a], r[i], r[e])):
            continue
        before, here, after = distances[b], distances[a], distances[i]
        low = (own[i] - own[a]) / (before + here)
        high = (own[i + 1] - own[i]) / (here + after)
        t, u = 0.5 * widths[a], -0.5 * widths[i]
        cubic = (high - low) / (before + here + after)
        wanted = own[i] + low * (t + u) + cubic * (u * (t + before) + t * (t + before) + t * u)
        speed[i] = _bounded(wanted, own[i])
    if periodic:
        speed[n] = speed[0]


@jit
def _rough_speeds(own, widths, periodic, left, right, cut, speed):
    """Fill speeds beside cut cells, extrapolated from their sides; from one where the other has next to no mass."""
    n = widths.size
    for i in range(n):
        if cut[i] < 0.0:
            continue
        a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        b, f = a - 1 if a > 0 else n - 1, e + 1 if e + 1 < n else 0
        thin_before, thin_after = left[i] < THIN * right[i], right[i] < THIN * left[i]
        if (periodic or i > 2) and cut[a] < 0.0 and cut[b] < 0.0 and not thin_before:
            slope = (own[a] - own[b]) / widths[b]
            speed[i] = _bounded(own[a] + slope * widths[a], own[i])
            if thin_after:
                speed[i + 1] = _bounded(own[a] + slope * (widths[a] + widths[i]), own[i + 1])
        if (periodic or i < n - 3) and cut[e] < 0.0 and cut[f] < 0.0 and not thin_after:
            slope = (own[f + 1] - own[e + 1]) / widths[f]
            speed[i + 1] = _bounded(own[e + 1] - slope * widths[e], own[i + 1])
            if thin_before:
                speed[i] = _bounded(own[e + 1] - slope * (widths[e] + widths[i]), own[i])
    if periodic:
        # Either may have been replaced, as an end of the last cell or of the first.
        if speed[n] == own[n]:
            speed[n] = speed[0]
        speed[0] = speed[n]


@jit
def _improve(own, r, widths, distances, periodic, field, left, right, cut, speed):
    """Fill the improved velocities at the edges."""
    # By loops: assigning an array to a slice would bring in an error message, and a second of compilation for strings.
    for i in range(own.size):
        speed[i] = own[i]
    if widths.size < 4:
        return
    _smooth_speeds(own, r, cut, EVEN if field == ROUGH_FIELD else 0.0, widths, distances, periodic, speed)
    if field == ROUGH_FIELD:
        _rough_speeds(own, widths, periodic, left, right, cut, speed)


# -------------------------------------------------------------------- the pieces
@jit
def _divide_profile(m, width_of_cell, found, i, begin, end, k, speed, width, mass, ends):
    """Fill the pieces of a cell with a profile from piece k on, up to three, and return the number of the next."""
    start, last, rest = 0.0, k, m
    for part in range(3):
        stop = 1.0 if part == 2 else min(max(found[2 + part, i], 0.0), 1.0)
        if stop - start <= THINNEST:
            continue
        speed[k], width[k] = begin + start * (end - begin), (stop - start) * width_of_cell
        ends[0, k], ends[1, k] = _profile_at(found, i, start), _profile_at(found, i, stop)
        if part == 0:
            ends[1, k] = found[0, i]
        elif part == 2:
            ends[0, k] = found[1, i]
        mass[k] = min(0.5 * (ends[0, k] + ends[1, k]) * width[k], rest)
        rest -= mass[k]
        start, last, k = stop, k, k + 1
    # What is left by rounding; the mass of the cell is kept.
    mass[last] += rest
    return k


@jit
def _divide(m, r, widths, edge_speed, left, right, cut, found, node, speed, width, mass, ends):
    """Fill the pieces of the cells, two where the density jumps, and return their number.

    ``node[i]`` is the piece that begins at edge i; ``speed`` is given at the ends of the pieces, ``ends`` holds the
    densities at both ends of each. At a jump the speed is extrapolated from both sides, weighted by the densities.
    """
    n, k = widths.size, 0
    for i in range(n):
        node[i], speed[k] = k, edge_speed[i]
        s, begin, end = cut[i], edge_speed[i], edge_speed[i + 1]
        if found.shape[1] > 0 and found[0, i] >= 0.0:
            k = _divide_profile(m[i], widths[i], found, i, begin, end, k, speed, width, mass, ends)
        elif 0.0 < s < 1.0:
            a, e = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
            width[k], width[k + 1] = s * widths[i], (1.0 - s) * widths[i]
            mass[k] = min(left[i] * width[k], m[i])
            mass[k + 1] = m[i] - mass[k]
            ends[0, k] = ends[1, k] = mass[k] / width[k]
            ends[0, k + 1] = ends[1, k + 1] = mass[k + 1] / width[k + 1]
            linear = begin + s * (end - begin)
            near = linear if begin * end > 0.0 else begin if left[i] > right[i] else end
            speed[k + 1] = linear
            if near != 0.0:
                up = begin + width[k] * (begin - edge_speed[a]) / widths[a]
                down = end - width[k + 1] * (edge_speed[e + 1] - end) / widths[e]
                wanted = (left[i] * up + right[i] * down) / (left[i] + right[i])
                speed[k + 1] = _bounded(wanted, near)
            k += 2
        else:
            width[k], mass[k] = widths[i], m[i]
            ends[0, k], ends[1, k] = (left[i], right[i]) if s < 0.0 else (r[i], r[i])
            k += 1
    node[n], speed[k] = k, edge_speed[n]
    return k


@jit
def _part(mean, left, right, share):
    """Return the mass of the first ``share`` of a piece with a parabola, over its width."""
    bend = 6.0 * mean - 3.0 * (left + right)
    return share * (left + share * (0.5 * (right - left + bend) - bend / 3.0 * share))


@jit
def _reach(fast, slow, width, time):
    """Return how far a characteristic goes in a piece, against the flow, from the end of speed ``fast`` > 0."""
    grow = (fast - slow) / width
    z = grow * time
    if abs(z) < NEAR:
        return fast * time
    return -fast * math.expm1(-z) / grow


@jit
def _crossing(a, b, width):
    """Return the time in which a piece is crossed, of speeds a and b at its ends; infinite if one is 0 or against."""
    if not a * b > 0.0:
        return math.inf
    if abs(a - b) <= NEAR * abs(a + b):
        return 2.0 * width / abs(a + b)
    return abs(width * math.log(a / b) / (a - b))


@jit
def _foot(k, count, speed, width, time, left):
    """Return the piece, counted beyond the ends of a ring, and the place in it from which the beginning of k comes."""
    if speed[k] > 0.0:
        k -= 1
        while left >= time[k % count]:
            left -= time[k % count]
            k -= 1
        c = k % count
        return k, max(1.0 - _reach(speed[c + 1], speed[c], width[c], left) / width[c], 0.0)
    if speed[k] < 0.0:
        while left >= time[k % count]:
            left -= time[k % count]
            k += 1
        c = k % count
        return k, min(_reach(-speed[c], -speed[c + 1], width[c], left) / width[c], 1.0)
    return k, 0.0


@jit
def _gather(mass, width, ends, count, foot, place, out):
    """Fill the masses between the points from which the ends of each cell come."""
    for i in range(out.size):
        a, b = foot[i], foot[i + 1]
        c, d = a % count, b % count
        low = high = 0.0
        if place[i] > 0.0:
            low = width[c] * _part(mass[c] / width[c], ends[0, c], ends[1, c], place[i])
        if place[i + 1] > 0.0:
            high = width[d] * _part(mass[d] / width[d], ends[0, d], ends[1, d], place[i + 1])
        if a == b:
            total = high - low
        else:
            total = (mass[c] - low) + high
            for k in range(a + 1, b):
                total += mass[k % count]
        out[i] = max(total, 0.0)


@jit
def _keep_rest(m, out):
    """Undo the move of a line that moves by round-off only."""
    change, total = 0.0, 0.0
    for i in range(m.size):
        change += abs(out[i] - m[i])
        total += m[i]
    if change <= REST * total:
        for i in range(m.size):
            out[i] = m[i]


# -------------------------------------------------------------------- lines
@jit
def carry(masses, psi, widths, distances, field, found, dt, moved, first, last):
    """Fill rows first..last-1 of ``moved`` with lines of masses after a time dt with Psi frozen.

    Parameters
    ----------
    masses, psi, moved : arrays, shape (lines, n)
    widths, distances : arrays
        Of the cells, and between neighboring centers: n - 1, or n on a periodic line.
    field : int
        SMOOTH_FIELD or ROUGH_FIELD.
    found : array, shape (4, lines, n)
        The profiles of `interfaces.find_interfaces`; of shape (4, lines, 0) where none are looked for.
    dt : float
    first, last : int
        Range of lines.
    """
    n, periodic = widths.size, distances.size == widths.size
    cells, pieces, edges = np.empty((6, n)), np.empty((3, 3 * n)), np.empty((3, n + 1))
    r, bend, step, left, right, cut = cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
    width, mass, time = pieces[0], pieces[1], pieces[2]
    own, better, place = edges[0], edges[1], edges[2]
    speed, ends = np.empty(3 * n + 1), np.empty((2, 3 * n))
    node, foot = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    for j in range(first, last):
        for i in range(n):
            r[i] = masses[j, i] / widths[i]
        _reconstruct(r, widths, distances, periodic, found[:, j], bend, step, left, right, cut)
        _own_speeds(psi[j], distances, own)
        _improve(own, r, widths, distances, periodic, field, left, right, cut, better)
        count = _divide(masses[j], r, widths, better, left, right, cut, found[:, j], node, speed, width, mass,
                        ends)
        for k in range(count):
            time[k] = _crossing(speed[k], speed[k + 1], width[k])
        for i in range(n + 1):
            foot[i], place[i] = _foot(node[i], count, speed, width, time, dt)
        _gather(mass, width, ends, count, foot, place, moved[j])
        _keep_rest(masses[j], moved[j])


@jit
def transport_dissipation(masses, psi, widths, distances, field):
    r"""Return the sum over the edges of lines of flux times fall of Psi: -d/dt sum_i Psi_i m_i, semi-discrete.

    The flux is the density at the edge, of the cell that it comes from, times the speed. At a cell that is cut the fall
    over half of the cell is replaced by that over the part on this side of the jump: a cell that fills up counts by its
    mass, where the flux over its far edge comes all at once.
    """
    lines, n = masses.shape
    periodic = distances.size == n
    cells, edges = np.empty((6, n)), np.empty((2, n + 1))
    r, bend, step, left, right, cut = cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
    own, better = edges[0], edges[1]
    total = 0.0
    for j in range(lines):
        for i in range(n):
            r[i] = masses[j, i] / widths[i]
        _reconstruct(r, widths, distances, periodic, NO_PROFILES, bend, step, left, right, cut)
        _own_speeds(psi[j], distances, own)
        _improve(own, r, widths, distances, periodic, field, left, right, cut, better)
        for i in range(distances.size):
            k = i + 1 if i + 1 < n else 0
            length = distances[i]
            if cut[i] >= 0.0:
                length += (0.5 - cut[i]) * widths[i]
            if cut[k] >= 0.0:
                length += (cut[k] - 0.5) * widths[k]
            total += (right[i] if own[i + 1] > 0.0 else left[k]) * length * own[i + 1] * better[i + 1]
    return total
