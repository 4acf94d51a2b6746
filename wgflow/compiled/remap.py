r"""Remapping: cell masses moved by a map of the line or of the plane, with their sum kept.

On a line, cell i of the result gets the mass between the points ``ends[i]`` and ``ends[i + 1]``. The density inside a
cell is the quadratic with the cell's mass and with given values at its two faces; these are limited so that it is
nowhere negative. Masses are sums of positive numbers, so that far tails keep their relative accuracy.

On a plane the map :math:`T = \mathrm{id} + \tau \nabla p` acts in two cascades: along each row of cells mass goes to
the strips between the images of the vertical faces, and in each strip to the images of the horizontal ones.

A periodic line is treated as a longer one on which its cells are repeated (`repeated`); ends stay within it.

References
----------
R. D. Nair, J. S. Scroggs and F. H. M. Semazzi, Efficient conservative global transport schemes for climate and
atmospheric chemistry models, Mon. Weather Rev. 130 (2002) 2059-2073 (cascades).
"""

from __future__ import annotations

import numpy as np

from .jit import jit

__all__ = ["advance_rows", "cost_of_ends", "ends_of_levels", "ends_of_sums", "face_densities", "image_of_faces",
           "remap_line", "remap_plane", "repeated", "sort_ends", "sums_of_ends"]

#: A quadratic density with end values up to this multiple of its mean is nowhere negative.
STEEPEST = 3.0
#: Turns around a periodic axis that an end may take, either way.
TURNS = 1
#: Iterations of a scalar equation.
MAX_SCALAR = 60
#: Excess of such an equation, relative to its terms, that round-off explains.
ROUNDING = 4.0 * float(np.finfo(float).eps)
#: Weight of ends between empty cells.
SMALLEST = 1e-300


def repeated(edges: np.ndarray, periodic: bool) -> np.ndarray:
    """Return the edges of a line of cells, with `TURNS` repetitions on both sides where it is periodic."""
    if not periodic:
        return np.array(edges)
    period = edges[-1] - edges[0]
    inner = [edges[:-1] + turn * period for turn in range(-TURNS, TURNS + 1)]
    return np.concatenate((*inner, edges[-1:] + TURNS * period))


@jit
def face_densities(masses, edges, period, density):
    """Fill ``density`` (n + 1,) with densities at the faces of a line, at most `STEEPEST` times those beside them.

    ``period`` is the number of cells after which those of a `repeated` line are the same, else 0.
    """
    n = masses.size
    width = edges[1] - edges[0]
    other = edges[2] - edges[1]
    a, b = masses[0] / width, masses[1] / other
    density[0] = min(max(a + (a - b) / (width + other) * width, 0.0), STEEPEST * a)
    for f in range(1, n):
        other = edges[f + 1] - edges[f]
        b = masses[f] / other
        density[f] = min((other * a + width * b) / (width + other), STEEPEST * min(a, b))
        if f == n - 1:
            density[n] = min(max(b + (b - a) / (width + other) * other, 0.0), STEEPEST * b)
        width, a = other, b
    if period > 0:
        density[0], density[n] = density[period], density[n - period]


@jit
def _inside(mean, left, right, x):
    """Return the density at the part x of a cell."""
    return 6.0 * mean * x * (1.0 - x) + left * (1.0 - x) * (1.0 - 3.0 * x) - right * x * (2.0 - 3.0 * x)


@jit
def _part(mean, left, right, a, b):
    """Return the integral of the density of a cell of width 1 from a to b, for which Simpson's rule is exact."""
    middle = _inside(mean, left, right, 0.5 * (a + b))
    ends = _inside(mean, left, right, a) + _inside(mean, left, right, b)
    return (b - a) * (ends + 4.0 * middle) / 6.0


@jit
def remap_line(masses, edges, density, ends, moved, weights):
    """Fill ``moved`` with the mass between consecutive ``ends`` (m + 1,) and ``weights`` with the density at them.

    Ends outside the line are taken as its ends. Masses between ends in falling order are negative.
    """
    n = masses.size
    before, start, k = 0, 0.0, 0
    for f in range(ends.size):
        y = ends[f]
        while k < n - 1 and y >= edges[k + 1]:
            k += 1
        while k > 0 and y < edges[k]:
            k -= 1
        width = edges[k + 1] - edges[k]
        place = min(max((y - edges[k]) / width, 0.0), 1.0)
        weights[f] = _inside(masses[k] / width, density[k], density[k + 1], place)
        if f > 0:
            if k > before or (k == before and place >= start):
                moved[f - 1] = _between(masses, edges, density, before, start, k, place)
            else:
                moved[f - 1] = -_between(masses, edges, density, k, place, before, start)
        before, start = k, place


@jit
def sums_of_ends(ends, masses, edges, density, below, scale, sums):
    """Fill ``sums`` with y + R(y) / scale at ends y, where R(y) is the mass below y; ``below`` is R at the edges."""
    n = masses.size
    k = 0
    for f in range(ends.size):
        y = ends[f]
        while k < n - 1 and y >= edges[k + 1]:
            k += 1
        while k > 0 and y < edges[k]:
            k -= 1
        width = edges[k + 1] - edges[k]
        place = min(max((y - edges[k]) / width, 0.0), 1.0)
        part = width * _part(masses[k] / width, density[k], density[k + 1], 0.0, place)
        sums[f] = y + (below[k] + part) / scale


@jit
def ends_of_sums(sums, masses, edges, density, below, scale, ends):
    """Invert `sums_of_ends`: fill the ends; Newton's method in a bracket, since the sum rises with slope 1 at least."""
    n = masses.size
    k = 0
    for f in range(sums.size):
        s = sums[f]
        while k < n - 1 and s >= edges[k + 1] + below[k + 1] / scale:
            k += 1
        while k > 0 and s < edges[k] + below[k] / scale:
            k -= 1
        width = edges[k + 1] - edges[k]
        mean, left, right = masses[k] / width, density[k], density[k + 1]
        rest = s - edges[k] - below[k] / scale
        if rest <= 0.0:
            ends[f] = edges[k] + rest
            continue
        if rest >= width + masses[k] / scale:
            ends[f] = edges[k + 1] + (rest - width - masses[k] / scale)
            continue
        low, high, x = 0.0, 1.0, rest / (width + masses[k] / scale)
        for _ in range(MAX_SCALAR):
            excess = width * (x + _part(mean, left, right, 0.0, x) / scale) - rest
            if abs(excess) <= ROUNDING * rest:
                break
            if excess > 0.0:
                high = x
            else:
                low = x
            new = x - excess / (width * (1.0 + _inside(mean, left, right, x) / scale))
            if not low < new < high:
                new = 0.5 * (low + high)
            change = abs(new - x)
            x = new
            if change <= 1e-16 or high - low <= 1e-16:
                break
        ends[f] = edges[k] + x * width


@jit
def ends_of_levels(levels, masses, edges, density, below, ends):
    """Fill the ends below which given masses lie, in rising order; Newton's method in a bracket.

    ``below`` is the mass below the edges. A level in a void has the void's upper end.
    """
    n = masses.size
    k = 0
    for f in range(levels.size):
        while k < n - 1 and levels[f] >= below[k + 1]:
            k += 1
        width = edges[k + 1] - edges[k]
        rest = (levels[f] - below[k]) / width
        mean, left, right = masses[k] / width, density[k], density[k + 1]
        if rest <= 0.0 or rest >= mean:
            ends[f] = edges[k] if rest <= 0.0 else edges[k + 1]
            continue
        low, high, x = 0.0, 1.0, rest / mean
        for _ in range(MAX_SCALAR):
            excess = _part(mean, left, right, 0.0, x) - rest
            if excess > 0.0:
                high = x
            else:
                low = x
            slope = _inside(mean, left, right, x)
            new = x - excess / slope if slope > 0.0 else low
            if not low < new < high:
                new = 0.5 * (low + high)
            change = abs(new - x)
            x = new
            if change <= 1e-16 or high - low <= 1e-16:
                break
        ends[f] = edges[k] + x * width


@jit
def _between(masses, edges, density, k, start, last, end):
    """Return the mass from the place ``start`` in cell k to ``end`` in cell ``last``."""
    width = edges[k + 1] - edges[k]
    if k == last:
        return width * _part(masses[k] / width, density[k], density[k + 1], start, end)
    total = masses[k]
    if start > 0.0:
        total = width * _part(masses[k] / width, density[k], density[k + 1], start, 1.0)
    for j in range(k + 1, last):
        total += masses[j]
    if end > 0.0:
        width = edges[last + 1] - edges[last]
        total += width * _part(masses[last] / width, density[last], density[last + 1], 0.0, end)
    return total


@jit
def sort_ends(ends, masses, low, high):
    """Bring ends into rising order between two bounds, in place; return whether they already were.

    Weighted isotonic regression (pool adjacent violators): the weight of an end is the sum of the ``masses`` of its two
    cells, so that the ends of empty cells do not displace those of full ones.
    """
    m = ends.size - 1
    sorted_before = ends[0] >= low and ends[m] <= high
    for f in range(m):
        sorted_before = sorted_before and ends[f + 1] >= ends[f]
    if sorted_before:
        return True
    value, weight, count = np.empty(m + 1), np.empty(m + 1), np.empty(m + 1, dtype=np.int64)
    blocks = 0
    for f in range(m + 1):
        y = min(max(ends[f], low), high)
        w = masses[max(f - 1, 0)] + masses[min(f, m - 1)] + SMALLEST
        size = 1
        while blocks > 0 and value[blocks - 1] > y:
            blocks -= 1
            w += weight[blocks]
            y += (value[blocks] - y) * (weight[blocks] / w)
            size += count[blocks]
        value[blocks], weight[blocks], count[blocks] = y, w, size
        blocks += 1
    f = 0
    for k in range(blocks):
        for _ in range(count[k]):
            ends[f] = value[k]
            f += 1
    return False


@jit
def cost_of_ends(masses, edges, density, distances, origins, ends):
    r"""Return the sum over f of :math:`2 d_f \int_{x_f}^{y_f} (s - x_f) \rho(s) ds`, from origins x to ends y.

    For the inner faces x and :math:`y = T(x) = x + \tau p'(x)` it is the squared W2 distance between the masses and
    their image under T, by a rule of one point for each face.
    """
    n = masses.size
    total, k = 0.0, 0
    for f in range(ends.size):
        x = origins[f]
        low, high = min(x, ends[f]), max(x, ends[f])
        while k < n - 1 and low >= edges[k + 1]:
            k += 1
        while k > 0 and low < edges[k]:
            k -= 1
        moment = 0.0
        j = k
        while j < n and edges[j] < high:
            left, width = edges[j], edges[j + 1] - edges[j]
            a, b = max(0.0, (low - left) / width), min(1.0, (high - left) / width)
            if b > a:
                mean, m = masses[j] / width, 0.5 * (a + b)
                moment += (b - a) * width / 6.0 * (
                    abs(left + a * width - x) * _inside(mean, density[j], density[j + 1], a)
                    + 4.0 * abs(left + m * width - x) * _inside(mean, density[j], density[j + 1], m)
                    + abs(left + b * width - x) * _inside(mean, density[j], density[j + 1], b))
            j += 1
        total += 2.0 * distances[f] * moment
    return total


# -------------------------------------------------------------------- the plane
@jit
def image_of_faces(masses, potential, tau, edges, centers, distances, periodic, images):
    r"""Fill ``images`` (nx + 1, ny) with where the images of the vertical faces cross the middles of the rows.

    Face f and the lower and upper end of row b meet in points whose images have the ordinates
    :math:`y + \tau \partial_y p`; the middle of the row goes to Y, the mean of these, and to
    :math:`X = x_f + \tau \partial_x p`. Between the images of neighboring rows X is linear in Y, beyond the last ones
    constant. Ordinates out of order are sorted, weighted by the masses. ``edges, centers, distances, periodic`` are
    pairs. Displacements at walls are 0.
    """
    nx, ny = potential.shape
    (edges_x, edges_y), centers_y = edges, centers[1]
    distances_x, distances_y = distances
    height = edges_y[ny] - edges_y[0]
    turns = TURNS if periodic[1] else 0
    xs, ys = np.empty((2 * turns + 1) * ny), np.empty((2 * turns + 1) * ny)
    offset, ends, column = turns * ny, np.empty(ny + 1), np.empty(ny)
    for f in range(0 if periodic[0] else 1, nx):
        i, j = f - 1 if f > 0 else nx - 1, f
        for b in range(ny):
            xs[offset + b] = edges_x[f] + tau * (potential[j, b] - potential[i, b]) / distances_x[i]
        ends[0], ends[ny] = edges_y[0], edges_y[ny]
        for b in range(0 if periodic[1] else 1, ny):
            c = b - 1 if b > 0 else ny - 1
            rise = potential[i, b] - potential[i, c] + potential[j, b] - potential[j, c]
            ends[b] = edges_y[b] + 0.5 * tau * rise / distances_y[c]
        if periodic[1]:
            ends[ny] = ends[0] + height
        for b in range(ny):
            column[b] = masses[i, b] + masses[j, b]
        low, high = (ends[0], ends[ny]) if periodic[1] else (edges_y[0], edges_y[ny])
        sort_ends(ends, column, low, high)
        for b in range(ny):
            ys[offset + b] = 0.5 * (ends[b] + ends[b + 1])
        for turn in range(-turns, turns + 1):
            if turn != 0:
                for b in range(ny):
                    xs[offset + turn * ny + b] = xs[offset + b]
                    ys[offset + turn * ny + b] = ys[offset + b] + turn * height
        k = 0
        for b in range(ny):
            y = centers_y[b]
            while k < ys.size and ys[k] <= y:
                k += 1
            if k == 0:
                images[f, b] = xs[0]
            elif k == ys.size:
                images[f, b] = xs[k - 1]
            else:
                share = (y - ys[k - 1]) / (ys[k] - ys[k - 1])
                images[f, b] = xs[k - 1] + (xs[k] - xs[k - 1]) * share
    for b in range(ny):
        if periodic[0]:
            images[nx, b] = images[0, b] + edges_x[nx] - edges_x[0]
        else:
            images[0, b], images[nx, b] = edges_x[0], edges_x[nx]


@jit
def remap_plane(masses, potential, tau, edges, long_edges, centers, distances, periodic, moved):
    r"""Fill ``moved`` with the masses of the images of the cells under :math:`T = \mathrm{id} + \tau \nabla p`.

    ``long_edges`` are the edges as `repeated` gives them. Ends out of order are sorted, so that no mass is negative;
    return whether all were in order.
    """
    nx, ny = masses.shape
    images = np.empty((nx + 1, ny))
    image_of_faces(masses, potential, tau, edges, centers, distances, periodic, images)
    strips = np.empty((nx, ny))
    n = long_edges[0].size - 1
    row, part, density = np.empty(n), np.empty(nx), np.empty(n + 1)
    ends, weights = np.empty(nx + 1), np.empty(nx + 1)
    rising = True
    for b in range(ny):
        for a in range(nx):
            row[a] = masses[a, b]
        for a in range(nx, n):
            row[a] = row[a - nx]
        for a in range(nx + 1):
            ends[a] = images[a, b]
        rising &= _sorted_turn(ends, row[:nx], long_edges[0], periodic[0])
        face_densities(row, long_edges[0], nx if periodic[0] else 0, density)
        remap_line(row, long_edges[0], density, ends, part, weights)
        for a in range(nx):
            strips[a, b] = part[a]
    n = long_edges[1].size - 1
    row, density = np.empty(n), np.empty(n + 1)
    ends, weights = np.empty(ny + 1), np.empty(ny + 1)
    for a in range(nx):
        for b in range(ny):
            row[b] = strips[a, b]
        for b in range(ny, n):
            row[b] = row[b - ny]
        ends[0], ends[ny] = edges[1][0], edges[1][ny]
        for b in range(0 if periodic[1] else 1, ny):
            c = b - 1 if b > 0 else ny - 1
            ends[b] = edges[1][b] + tau * (potential[a, b] - potential[a, c]) / distances[1][c]
        if periodic[1]:
            ends[ny] = ends[0] + edges[1][ny] - edges[1][0]
        rising &= _sorted_turn(ends, masses[a], long_edges[1], periodic[1])
        face_densities(row, long_edges[1], ny if periodic[1] else 0, density)
        remap_line(row, long_edges[1], density, ends, moved[a], weights)
    return rising


@jit
def _sorted_turn(ends, masses, edges, periodic):
    """Sort ends on a line, or within one turn around a periodic one; return whether they already were in order."""
    m = ends.size - 1
    if not periodic:
        return sort_ends(ends, masses, edges[0], edges[edges.size - 1])
    # One turn, inside the repetitions, that begins at the first end.
    period = (edges[edges.size - 1] - edges[0]) / (2 * TURNS + 1)
    ends[0] = min(max(ends[0], edges[0]), edges[0] + 2 * TURNS * period)
    ends[m] = ends[0] + period
    return sort_ends(ends, masses, ends[0], ends[0] + period)


# -------------------------------------------------------------------- geodesics
@jit
def advance_rows(values, masses, points, edges, time, advanced):
    r"""Solve :math:`\partial_t v = |v'|^2 / 2` along rows, for a time of either sign, by characteristics.

    The value at x comes from the point z with :math:`x = z - t v'(z)`, and is :math:`v(z) - (x - z)^2 / 2 t`; v' is
    linear in each cell, from differences at the inner ``edges``, and 0 at the outer ones. Characteristics that cross
    are sorted, weighted by ``masses``.
    """
    rows, n = values.shape
    slopes, feet = np.empty(n + 1), np.empty(n + 1)
    for r in range(rows):
        slopes[0] = slopes[n] = 0.0
        for f in range(1, n):
            slopes[f] = (values[r, f] - values[r, f - 1]) / (points[f] - points[f - 1])
        for f in range(n + 1):
            feet[f] = edges[f] - time * slopes[f]
        sort_ends(feet, masses[r], edges[0], edges[n])
        k = 0
        for i in range(n):
            x = points[i]
            while k < n - 1 and feet[k + 1] <= x:
                k += 1
            width = feet[k + 1] - feet[k]
            share = min(max((x - feet[k]) / width, 0.0), 1.0) if width > 0.0 else 0.5
            z = edges[k] + share * (edges[k + 1] - edges[k])
            d = z - points[k]
            value = values[r, k] + 0.5 * d * (slopes[k] + slopes[k + 1])
            value += 0.5 * d * d * (slopes[k + 1] - slopes[k]) / (edges[k + 1] - edges[k])
            advanced[r, i] = value - 0.5 * (x - z) ** 2 / time
