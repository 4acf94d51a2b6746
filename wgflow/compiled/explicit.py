r"""Explicit steps of third order for a law on one axis without diffusion, many in one call.

The law is carried at the velocity -Psi', Psi = V + U rho. With r = m / h the averages over the cells, a = -(rise of
Psi)/d the velocity at an edge and s a reconstructed slope, the flux is upwind,

    f = max(a, 0) (r_left + s_left) + min(a, 0) (r_right - s_right),       m' = f_{i-1/2} - f_{i+1/2},

with Koren's slopes of third order, as in the sweeps of `wgflow.compiled.sweep` at D = 0: the two have one semi-discrete
equation. Each flux runs down Psi, so that dF/dt = -sum f (fall of Psi) <= 0. One Euler stage m + dt f lets no cell give
more than it has: beyond, the fluxes out of the cell are scaled down, which keeps their direction. So no mass is
negative, however long the step, and the step

    m1 = E(m),   m2 = (3 m + E(m1)) / 4,   m3 = (m + 2 E(m2)) / 3           (Shu and Osher 1988)

keeps this by convexity. 2 m2 - m is Heun's step: its distance to m3 tells the error for nothing.

U is of low rank, sum_k s_k phi_k phi_k' (zeros make the number of features a multiple of 4), or a table whose row i
begins at ``origin + i * pitch`` of a flat array: pitch n for a matrix, -1 for a function of the distance. All functions
are in one file because Numba's cache does not look at others.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: Largest part of a cell that a step may carry out of it: third order holds up to about 1.2 on smooth laws.
COURANT = 0.7
#: A cell of less than this part of the mass does not bound the step.
NEGLIGIBLE = 1e-16
#: The density counts as smooth in a cell if the second differences of both neighbors have its sign and this part of it.
ALIKE = 0.25
#: A slope is at most this part of the density, so that fluxes keep their direction.
STEEPEST = 0.9
#: With d the distance to Heun's step and D the whole change of a step, d/D is proportional to dt^2, and the error of
#: the step was about this multiple of d (d/D)^(1/2), which is proportional to dt to the power
OF_DISTANCE, POWER = 1.0, 4.0
#: Factor by which a new step is shorter than the estimate allows; a step changes at once by no more than these factors.
SAFETY, SHRINK_LIMIT, GROWTH_LIMIT = 0.9, 0.1, 16.0
#: A step whose energy rises is halved so many times.
MAX_HALVINGS = 6
#: As in `wgflow.compiled.compact`: a rise of F that is round-off, a mass defect that is not corrected.
ENERGY_SLACK, MASS_SLACK = 5e-14, 4 * 2.0**-52
#: Smallest positive double: keeps quotients finite, or infinite of the right sign.
TINY = 5e-324


@jit(fastmath={"reassoc", "contract"})
def _field(m, features, signs, table, origin, pitch, field):
    """Fill U m; features come in fours, so that m and the sums are read once for all of them."""
    n = m.size
    for i in range(n):
        total = 0.0
        if table.size > 0:
            row = table[origin + i * pitch:][:n]
            for k in range(n):
                total += row[k] * m[k]
        field[i] = total
    for k in range(0, signs.size, 4):
        one, two, three, four = features[k], features[k + 1], features[k + 2], features[k + 3]
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            a += one[i] * m[i]
            b += two[i] * m[i]
            c += three[i] * m[i]
            d += four[i] * m[i]
        a, b, c, d = a * signs[k], b * signs[k + 1], c * signs[k + 2], d * signs[k + 3]
        for i in range(n):
            field[i] += one[i] * a + two[i] * b + (three[i] * c + four[i] * d)


@jit
def _fluxes(m, potential, field, lines, periodic, work, flux, speed):
    """Fill the flux over each edge i-1 | i, and the velocity there; edges 0 and n are the walls, or the seam."""
    n = m.size
    inverse_h, half, inverse_d = lines[0], lines[1], lines[2]
    r, slope, bend, up, down = work[0], work[1], work[2], work[3], work[4]
    for i in range(n):
        r[i] = m[i] * inverse_h[i]
    for i in range(1, n):
        slope[i] = (r[i] - r[i - 1]) * inverse_d[i]
        speed[i] = (potential[i - 1] - potential[i] + (field[i - 1] - field[i])) * inverse_d[i]
    slope[0] = slope[n] = speed[0] = speed[n] = 0.0
    if periodic:
        slope[0] = slope[n] = (r[0] - r[n - 1]) * inverse_d[0]
        speed[0] = speed[n] = (potential[n - 1] - potential[0] + (field[n - 1] - field[0])) * inverse_d[0]
    # bend[i + 1] belongs to cell i.
    for i in range(n):
        bend[i + 1] = half[i] * (slope[i + 1] - slope[i])
    if periodic:
        bend[0], bend[n + 1] = bend[n], bend[1]
    else:
        bend[0] = bend[1] = bend[n] = bend[n + 1] = 0.0
    for i in range(n):
        fall, rise, own = half[i] * slope[i], half[i] * slope[i + 1], bend[i + 1]
        smooth = min(bend[i] * own, bend[i + 2] * own) > ALIKE * own * own
        low, high = abs(fall), abs(rise)
        limit = (2.0 if fall * rise > 0.0 else 0.0) * min(low, high)
        limit = low + high if smooth else limit
        limit = min(limit, STEEPEST * r[i])
        up[i] = max(-limit, min(limit, (fall + 2.0 * rise) * (1.0 / 3.0)))
        down[i] = max(-limit, min(limit, (2.0 * fall + rise) * (1.0 / 3.0)))
    if not periodic:
        up[0] = down[0] = up[n - 1] = down[n - 1] = 0.0
    for i in range(1, n):
        flux[i] = max(speed[i], 0.0) * (r[i - 1] + up[i - 1]) + min(speed[i], 0.0) * (r[i] - down[i])
    flux[0] = flux[n] = 0.0
    if periodic:
        flux[0] = flux[n] = max(speed[0], 0.0) * (r[n - 1] + up[n - 1]) + min(speed[0], 0.0) * (r[0] - down[0])


@jit(fastmath={"reassoc"})
def _euler(m, dt, flux, periodic, scale, x):
    """Fill x = m plus dt times the fluxes, each scaled so that no cell gives more than it has."""
    n = m.size
    short = 0.0
    for i in range(n):
        scale[i] = dt * (max(flux[i + 1], 0.0) + max(-flux[i], 0.0))
        x[i] = m[i] + dt * (flux[i] - flux[i + 1])
    for i in range(n):
        short += 1.0 if scale[i] > m[i] else 0.0
    if short == 0.0:
        return
    for i in range(n):
        scale[i] = dt * min(1.0, m[i] / scale[i]) if scale[i] > 0.0 else dt
        x[i] = m[i]
    for i in range(0 if periodic else 1, n):
        before = i - 1 if i > 0 else n - 1
        given = flux[i] * (scale[before] if flux[i] > 0.0 else scale[i])
        x[before] -= given
        x[i] += given
    # What is left negative is round-off.
    for i in range(n):
        x[i] = max(x[i], 0.0)


@jit
def _outflow(m, mass, speed, lines):
    """Return the largest part of a cell that is carried out of it in unit time, over cells that are not negligible."""
    most, least = 0.0, NEGLIGIBLE * mass
    for i in range(m.size):
        if m[i] > least:
            most = max(most, (max(speed[i + 1], 0.0) + max(-speed[i], 0.0)) * lines[0, i])
    return most


@jit
def _grid_error(r):
    """Return (sum |r''| / 12)^(3/2) relative to the sum of r: the error of the grid, for smooth laws."""
    bends, total = 0.0, r[0] + r[r.size - 1]
    for i in range(1, r.size - 1):
        bends += abs(r[i - 1] - 2.0 * r[i] + r[i + 1])
        total += r[i]
    return (bends / (12.0 * total)) ** 1.5


@jit
def _energy(m, potential, field):
    """Return sum m (V + U m / 2)."""
    total = 0.0
    for first in range(0, m.size, 64):
        part = 0.0
        for i in range(first, min(first + 64, m.size)):
            part += m[i] * (potential[i] + 0.5 * field[i])
        total += part
    return total


@jit
def _fall(flux, potential, field, periodic):
    """Return the sum of the fluxes times the falls of Psi: -dF/dt."""
    n = potential.size
    total = 0.0
    for i in range(0 if periodic else 1, n):
        k = i - 1 if i > 0 else n - 1
        total += flux[i] * (potential[k] - potential[i] + (field[k] - field[i]))
    return total


@jit
def _three_stages(stages, dt, mass, potential, features, signs, table, origin, pitch, lines, periodic, flux, work,
                  field, later, speed):
    """Fill the three stages of a step, rows 1 to 3; row 0 is the law, whose fluxes are given, the last row is scratch.

    Fill U, the fluxes and the velocities of the last stage, too; return its distance to Heun's step and to the law.
    """
    m, y, x, euler = stages[0], stages[2], stages[3], stages[4]
    total, distance, whole = 0.0, 0.0, 0.0
    # A loop, so that each function is compiled into this one once.
    for k in range(3):
        old, new, kept = stages[k], stages[k + 1], (0.0 if k == 0 else (0.75 if k == 1 else 1.0 / 3.0))
        _euler(old, dt, flux if k == 0 else later, periodic, work[0], euler)
        for i in range(m.size):
            new[i] = kept * m[i] + (1.0 - kept) * euler[i]
        if k == 2:
            for i in range(m.size):
                total += x[i]
                distance += abs(x[i] - (2.0 * y[i] - m[i]))
                whole += abs(x[i] - m[i])
            if abs(total - mass) > MASS_SLACK * mass:
                for i in range(m.size):
                    x[i] *= mass / total
        _field(new, features, signs, table, origin, pitch, field)
        _fluxes(new, potential, field, lines, periodic, work, later, speed)
    return distance, whole


@jit
def explicit_steps(start, potential, features, signs, table, shifts, lines, periodic, times, control, tolerance, rows,
                    laws, fields):
    """Take steps until a time, until ``rows`` is full, or until there is trouble.

    Parameters
    ----------
    start : array (n,)
        Masses of the cells.
    potential : array (n,)
        V.
    features, signs : arrays (k, n) and (k,)
    table : flat array
        Empty for none; its rows begin as ``shifts`` = (origin, pitch) say.
    lines : array (4, n)
        1/h and h/2 of each cell, 1/d of the edge to its left, and 1/volume.
    periodic : bool
    times : (t, stop, longest, scale, energy, mass)
        The time, the end, the longest step allowed, the time_scale, the energy at t, and the mass.
    control : array (3,)
        Step length, sum of the errors, shortest length; brought up to date.
    tolerance : (rtol, share, tightest, loosest)
        rtol of a step, or a negative number and a multiple of the error of the grid with its bounds.
    rows : array (k, 8)
        Receives time, length by the clock, energy, dissipation, sum of the errors, mass, least density and steps
        rejected.
    laws, fields : arrays (k, n)
        Receive the masses, and U times them.

    Returns
    -------
    (int, int, bool, float, float)
        Steps accepted, steps rejected, whether the energy rises in short steps, too, how many times longer the next
        step could be for its error alone, and the dissipation at the end.
    """
    n = start.size
    t, stop, longest, scale, energy, mass = times
    rtol, share, tightest, loosest = tolerance
    origin, pitch = shifts
    work, edges, stages, fields_of = np.empty((5, n + 2)), np.empty((3, n + 1)), np.empty((5, n)), np.empty((2, n))
    flux, speed, later = edges[0], edges[1], edges[2]
    m, x = stages[0], stages[3]
    field, w = fields_of[0], fields_of[1]
    for i in range(n):
        m[i] = start[i]
    _field(m, features, signs, table, origin, pitch, field)
    _fluxes(m, potential, field, lines, periodic, work, flux, speed)
    most, rate = scale * _outflow(m, mass, speed, lines), _fall(flux, potential, field, periodic)
    accepted, rejected, halvings = 0, 0, 0
    while t < stop and accepted < rows.shape[0] and halvings <= MAX_HALVINGS:
        dt = min(control[0], longest, COURANT / max(most, TINY))
        count = max(1, math.ceil((stop - t) / dt * (1 - 1e-9)))
        dt = (stop - t) / count
        if t + dt == t:
            halvings = MAX_HALVINGS + 1
            break
        clock = dt * scale
        distance, whole = _three_stages(stages, clock, mass, potential, features, signs, table, origin, pitch, lines,
                                        periodic, flux, work, w, later, speed)
        after = _energy(x, potential, w)
        error = min(OF_DISTANCE * distance * math.sqrt(distance / max(whole, TINY)), distance) / mass
        if not (after <= energy + ENERGY_SLACK * max(1.0, abs(energy)) and error < math.inf):
            rejected += 1
            halvings += 1
            control[0] = 0.5 * dt
            continue
        allowed = rtol
        if rtol < 0.0:
            allowed = min(max(share * _grid_error(work[0, :n]), tightest), loosest)
        ratio = min(SAFETY * (allowed / max(error, TINY)) ** (1.0 / POWER), GROWTH_LIMIT)
        if error > allowed and dt > control[2]:
            rejected += 1
            control[0] = dt * max(SHRINK_LIMIT, min(ratio, SAFETY))
            continue
        control[0] = dt * ratio
        control[1] += error
        t = stop if count == 1 else t + dt
        energy, halvings = after, 0
        flux, later = later, flux
        total, least = 0.0, math.inf
        for i in range(n):
            laws[accepted, i] = m[i] = x[i]
            fields[accepted, i] = field[i] = w[i]
            total += x[i]
            least = min(least, x[i] * lines[3, i])
        most, rate = scale * _outflow(m, mass, speed, lines), _fall(flux, potential, field, periodic)
        rows[accepted, 0], rows[accepted, 1], rows[accepted, 2] = t, clock, energy
        rows[accepted, 3], rows[accepted, 4], rows[accepted, 5], rows[accepted, 6] = rate, control[1], total, least
        rows[accepted, 7] = rejected
        accepted += 1
    return accepted, rejected, halvings > MAX_HALVINGS, control[0] * most / COURANT, rate
