r"""The c-transform along rows: sup-convolutions of splines, and the deposits of mass that are their derivatives.

On one axis, in units of cells (cell k is [k, k + 1], its node k + 1/2), with t the time step over the squared width:

.. math:: F(s) = \max_x \; \sum_k W_k(x) f_k - \frac{(x - s)^2}{2 t},

where W are B-splines on the nodes, mirrored at both walls: the c-transform of the spline is -F. The slopes of
:math:`x^2/2 - t f` at the edges, :math:`Y_e = e - t (f_e - f_{e-1})`, determine the maximizer: where they increase, the
function is convex and mass in :math:`[Y_e, Y_{e+1}]` goes to the cell e. Where they do not, nodes are pooled (greatest
convex minorant, by pooling adjacent violators): mass at a pooled node goes on to the two ends of its block.

There are two splines. The quadratic one ("smooth") is transformed at intervals, ``points`` of them a cell, over which F
is averaged exactly; an interval that is stretched over many cells fills them all, and what it leaves in each has a
smooth derivative. The linear one ("hat") is transformed at the nodes s = k + 1/2, and leaves a point at rest unsmeared.

The Y_e cut each interval into segments. The arrays ``cell`` (where a segment goes), ``owner`` (its interval), ``start``
and ``end`` (places in the cell, from 0 to 1) and ``length`` hold them, ``count[r]`` in row r. Only the intervals from
``first[r]`` to ``last[r]`` are treated: the others have no mass.
"""

from __future__ import annotations

from .jit import jit

#: Decreases of the slopes below this are round-off of equal slopes.
EVEN = 1e-10
#: Images of cells below this width are none.
FLAT = 1e-9
#: Side of the blocks in which arrays are transposed.
BLOCK = 16


@jit
def _slopes(f, t, y, hat, left, right):
    """Fill y with monotone edge slopes of x^2/2 - t f, ``hat`` with the f of these, and the ends of nodes' blocks.

    Return whether a node was pooled; ``left`` and ``right`` are written only then. ``left[k] == right[k]`` is the one
    end of a block at a wall.
    """
    n = f.size
    y[0], y[n] = 0.0, float(n)
    monotone = True
    for e in range(1, n):
        y[e] = e - t * (f[e] - f[e - 1])
        monotone &= y[e] >= y[e - 1] - EVEN
    for k in range(n):
        hat[k] = f[k]
    if monotone and y[n - 1] <= n + EVEN:
        return False
    _pool(y, left, right, n)
    for k in range(n):
        left[k] = right[k] = k
    start = 1
    while start < n and y[start] <= 0.0:
        y[start] = 0.0
        start += 1
    stop = n - 1
    while stop >= start and y[stop] >= n:
        y[stop] = float(n)
        stop -= 1
    for k in range(start - 2, -1, -1):
        left[k] = right[k] = start - 1
        hat[k] = hat[k + 1] - (k + 1) / t
    for k in range(stop + 1, n):
        left[k] = right[k] = stop
        hat[k] = hat[k - 1] + (k - n) / t
    e = start
    while e <= stop:
        last = e
        while last < stop and y[last + 1] == y[e]:
            last += 1
        for k in range(e, last):
            left[k], right[k] = e - 1, last
            hat[k] = hat[k - 1] + (k - y[e]) / t
        e = last + 1
    return True


@jit
def _pool(y, first, count, n):
    """Replace y[1:n] by its isotonic regression (pool adjacent violators); ``first`` and ``count`` are scratch."""
    blocks = 0
    for e in range(1, n):
        value, size = y[e], 1
        while blocks > 0 and y[first[blocks - 1]] >= value:
            blocks -= 1
            previous = count[blocks]
            value = (y[first[blocks]] * previous + value * size) / (previous + size)
            size += previous
        start = e - size + 1
        first[blocks], count[blocks] = start, size
        y[start] = value
        blocks += 1
    for b in range(blocks):
        for e in range(first[b] + 1, first[b] + count[b]):
            y[e] = y[first[b]]


@jit
def _release(row, left, right):
    """Move the mass on pooled nodes to the ends of their blocks."""
    for k in range(row.size):
        a, b = left[k], right[k]
        if a == b:
            if a != k:
                row[a] += row[k]
                row[k] = 0.0
        else:
            share = row[k] * ((k - a) / (b - a))
            row[a] += row[k] - share
            row[b] += share
            row[k] = 0.0


@jit
def _gather(row, left, right, out):
    """Interpolate values at pooled nodes from the ends of their blocks: the adjoint of `_release`."""
    for k in range(row.size):
        a, b = left[k], right[k]
        out[k] = row[a] if a == b else row[a] + (row[b] - row[a]) * ((k - a) / (b - a))


@jit
def _fold(row, pooled, left, right, out):
    """Copy a row to ``out``: its spare entries are added to those at the walls, and pooled nodes are emptied."""
    n = out.size
    row[1] += row[0]
    row[n] += row[n + 1]
    for k in range(n):
        out[k] = row[k + 1]
    if pooled:
        _release(out, left, right)


@jit
def _unfold(v, pooled, left, right, row):
    """Apply the adjoint of `_fold`: entries beyond the walls are mirrored, pooled nodes interpolated."""
    n = v.size
    if pooled:
        _gather(v, left, right, row[1:n + 1])
    else:
        for k in range(n):
            row[k + 1] = v[k]
    row[0], row[n + 1] = row[1], row[n]


# -------------------------------------------------------------------- rows of intervals
@jit
def _segments(y, hat, t, points, first, last, values, cell, owner, start, end, length):
    """Cut the intervals of a row at the edges y, and average F over them; return the number of segments."""
    n, j, k = hat.size, 0, 0
    w, third = 1.0 / points, 1.0 / 3.0
    a = first * w
    while k < n - 1 and y[k + 1] <= a:
        k += 1
    inverse = 1.0 / (y[k + 1] - y[k]) if y[k + 1] > y[k] else 0.0
    place = min(max((a - y[k]) * inverse, 0.0), 1.0)
    for q in range(first, last):
        stop, total = (q + 1) * w, 0.0
        while True:
            whole = k < n - 1 and y[k + 1] <= stop
            e = max(y[k + 1], a) if whole else stop
            to = 1.0 if whole else min(max((e - y[k]) * inverse, place), 1.0)
            cell[j], owner[j], start[j], end[j], length[j] = k, q, place, to, (e - a) * points
            below, above = max(k - 1, 0), min(k + 1, n - 1)
            low, high, m0, m1 = 1.0 - place, 1.0 - to, k + place - a, k + to - e
            total += length[j] * (hat[k] + 0.5 * third * (
                (hat[above] - hat[k]) * (place * place + place * to + to * to)
                - (hat[k] - hat[below]) * (low * low + low * high + high * high)
                - (m0 * m0 + m0 * m1 + m1 * m1) / t))
            j += 1
            a = e
            if not whole:
                place = to
                break
            k, place = k + 1, 0.0
            inverse = 1.0 / (y[k + 1] - y[k]) if y[k + 1] > y[k] else 0.0
        values[q] = total
    return j


@jit
def _deposit(mass, count, cell, owner, start, end, length, row):
    """Fill ``row``, which has spare ends, with what intervals leave on the nodes: the derivative of sum(mass F)."""
    # Cells come in rising order: sums for three nodes are kept in registers, and written once they are passed.
    node, below, here, above = 0, 0.0, 0.0, 0.0
    for j in range(count):
        k, a, b, m = cell[j], start[j], end[j], length[j] * mass[owner[j]]
        while node < k:
            row[node] = below
            below, here, above, node = here, above, 0.0, node + 1
        c, d = 1.0 - a, 1.0 - b
        low, high = (c * c + c * d + d * d) * m / 6.0, (a * a + a * b + b * b) * m / 6.0
        below += low
        here += m - low - high
        above += high
    row[node], row[node + 1], row[node + 2] = below, here, above
    row[node + 3:] = 0.0


@jit
def _tangent(v, first, last, count, cell, owner, start, end, length, values):
    """Fill ``values`` with the derivative of the averages of F along v, which has a mirrored entry on each side."""
    for q in range(first, last):
        values[q] = 0.0
    for j in range(count):
        k, a, b = cell[j], start[j], end[j]
        c, d, center = 1.0 - a, 1.0 - b, v[k + 1]
        values[owner[j]] += length[j] * (center + ((v[k + 2] - center) * (a * a + a * b + b * b)
                                                   - (center - v[k]) * (c * c + c * d + d * d)) / 6.0)


@jit
def _deposit_tangent(v, tp, mass, change, count, cell, owner, start, end, length, row):
    """Fill ``row`` with the derivative of the deposit along changes of masses and f; tp is t times intervals a cell."""
    node, below, here, above = 0, 0.0, 0.0, 0.0
    for j in range(count):
        k, a, b, q = cell[j], start[j], end[j], owner[j]
        while node < k:
            row[node] = below
            below, here, above, node = here, above, 0.0, node + 1
        c, d, m, center = 1.0 - a, 1.0 - b, length[j] * change[q], v[k + 1]
        upper, lower = (a * a + a * b + b * b) / 3.0, (c * c + c * d + d * d) / 3.0
        # The averages of p^2, (1 - p)^2 and p (1 - p) over the places p that the segment fills.
        flow = tp * mass[q] * (b - a)
        both = 0.5 * (a + b) - upper
        fall, rise = flow * (center - v[k]), flow * (v[k + 2] - center)
        low = 0.5 * m * lower - (lower * fall + both * rise)
        high = 0.5 * m * upper + (both * fall + upper * rise)
        below += low
        here += m - low - high
        above += high
    row[node], row[node + 1], row[node + 2] = below, here, above
    row[node + 3:] = 0.0


# -------------------------------------------------------------------- sets of rows of intervals
@jit
def smooth_transform(rows, active, kept, pooling, scratch, f, t, points, values):
    """Fill ``values`` with F of the rows ``rows[0]`` to ``rows[1]`` of f, averaged over intervals.

    Parameters
    ----------
    rows : (int, int)
    active : (first, last)
        Arrays of int, shape (rows,): the intervals of each row that have mass.
    kept : (count, cell, owner, start, end, length)
        Receive the segments; shape (rows,), and (rows, (points + 1) n).
    pooling : (pooled, left, right)
        Receive whether a row has pooled nodes, shape (rows,), and the ends of their blocks, shape (rows, n).
    scratch : arrays of n + 2, n, points n, n + 2
    f : array, shape (rows, n)
    t : float
        Time step over the squared cell width.
    points : int
        Intervals a cell.
    values : array, shape (rows, points n)
        Receives the averages of F over [q / points, (q + 1) / points].
    """
    count, cell, owner, start, end, length = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            pooled[r] = _slopes(f[r], t, scratch[0], scratch[1], left[r], right[r])
            count[r] = _segments(scratch[0], scratch[1], t, points, first[r], last[r], values[r], cell[r], owner[r],
                                 start[r], end[r], length[r])


@jit
def smooth_deposit(rows, active, kept, pooling, scratch, mass, out):
    """Move the masses of the intervals to where F is attained."""
    count, cell, owner, start, end, length = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _deposit(mass[r], count[r], cell[r], owner[r], start[r], end[r], length[r], scratch[0])
            _fold(scratch[0], pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


@jit
def smooth_evaluate(rows, active, kept, pooling, scratch, f, mass, t, points, totals, out):
    """Do `smooth_transform` and `smooth_deposit` at once; ``totals`` receives the sums of mass times F."""
    count, cell, owner, start, end, length = kept
    pooled, left, right = pooling
    first, last = active
    values = scratch[2]
    for r in range(rows[0], rows[1]):
        totals[r] = 0.0
        if first[r] < last[r]:
            pooled[r] = _slopes(f[r], t, scratch[0], scratch[1], left[r], right[r])
            count[r] = _segments(scratch[0], scratch[1], t, points, first[r], last[r], values, cell[r], owner[r],
                                 start[r], end[r], length[r])
            for q in range(first[r], last[r]):
                totals[r] += mass[r, q] * values[q]
            _deposit(mass[r], count[r], cell[r], owner[r], start[r], end[r], length[r], scratch[0])
            _fold(scratch[0], pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


@jit
def smooth_tangent(rows, active, kept, pooling, scratch, v, values):
    """Fill ``values`` with the derivative of the averages of F along v."""
    count, cell, owner, start, end, length = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
            _tangent(scratch[0], first[r], last[r], count[r], cell[r], owner[r], start[r], end[r], length[r], values[r])


@jit
def smooth_deposit_tangent(rows, active, kept, pooling, scratch, v, t, points, mass, change, out):
    """Fill ``out`` with the derivative of the deposit along v and a change of the masses."""
    count, cell, owner, start, end, length = kept
    pooled, left, right = pooling
    first, last = active
    row = scratch[3]
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
            _deposit_tangent(scratch[0], t * points, mass[r], change[r], count[r], cell[r], owner[r], start[r], end[r],
                             length[r], row)
            _fold(row, pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


# -------------------------------------------------------------------- nodes whose mass spreads to neighbors
@jit
def _spread(y, hat, t, s, i, n):
    """Return the value of a point at s that goes to node i and spreads to i + 1 and i - 1, and their shares."""
    high = max(s + 0.5 - y[i + 1], 0.0) if i < n - 1 else 0.0
    low = max(y[i] + 0.5 - s, 0.0) if i > 0 else 0.0
    slope_high, slope_low, excess = high, low, high + low - 1.0
    if excess > 0.0:
        high, low = high - 0.5 * excess, low - 0.5 * excess
        if high < 0.0:
            high, low = 0.0, 1.0
        elif low < 0.0:
            high, low = 1.0, 0.0
    move = i + 0.5 - s
    gain = high * (slope_high - 0.5 * high) + low * (slope_low - 0.5 * low)
    return hat[i] + (gain - 0.5 * move * move) / t, high, low


@jit
def _node_row(f, t, occupied, y, hat, pooled, left, right, values, cell, high, low):
    """Fill, for the nodes of a row, F, the node to which each goes, and the shares of that node's two neighbors."""
    n = f.size
    pooled = _slopes(f, t, y, hat, left, right)
    k = 0
    for q in range(n):
        if not occupied[q]:
            continue
        s = q + 0.5
        while k < n - 1 and y[k + 1] < s:
            k += 1
        best, best_high, best_low = _spread(y, hat, t, s, k, n)
        center = k
        # Under strong expansion another node, from which both neighbors can be reached, may have a larger gain.
        i = k + 1
        while i < n - 1 and y[i + 1] - s < 0.5:
            value, p, m = _spread(y, hat, t, s, i, n)
            if value > best:
                best, best_high, best_low, center = value, p, m, i
            i += 1
        i = k - 1
        while i > 0 and s - y[i] < 0.5:
            value, p, m = _spread(y, hat, t, s, i, n)
            if value > best:
                best, best_high, best_low, center = value, p, m, i
            i -= 1
        values[q], cell[q], high[q], low[q] = best, center, best_high, best_low
    return pooled


@jit
def _node_deposit_row(mass, occupied, cell, high, low, row):
    """Deposit masses as `_node_row` spreads them."""
    row[:] = 0.0
    for q in range(mass.size):
        if occupied[q]:
            m, i = mass[q], cell[q]
            up = high[q] * m
            down = min(low[q] * m, m - up)
            row[i] += down
            row[i + 1] += m - up - down
            row[i + 2] += up


@jit
def _shares(v, t, i, p, m):
    """Return the derivatives along v of the gain of a node that goes to i with shares p and m, and of the shares."""
    rise, fall = v[i + 2] - v[i + 1], v[i] - v[i + 1]
    # Shares move while they lie inside their triangle, along its edge when they add up to 1.
    grow, shrink = (t * rise if p > 0.0 else 0.0), (t * fall if m > 0.0 else 0.0)
    if p + m >= 1.0 - 1e-14:
        both = 0.5 * (grow - shrink) if p > 0.0 and m > 0.0 else 0.0
        grow, shrink = both, -both
    return v[i + 1] + p * rise + m * fall, grow, shrink


@jit
def node_transform(rows, active, kept, pooling, scratch, f, t, points, values):
    r"""Fill the transform for nodes, as `smooth_transform`; ``active`` says which nodes have mass, shape (rows, n).

    A point at node s goes to a node i and from there spreads shares p and q to its two neighbors, at the cost

    .. math:: \tfrac{1}{2t} \bigl((x_i - s + p - q)^2 + 2 p q\bigr), \qquad p, q \ge 0, \; p + q \le 1,

    which is the squared distance where it spreads to one side only. F is the largest gain. ``kept`` are i, p and q.
    """
    cell, high, low = kept
    pooled, left, right = pooling
    for r in range(rows[0], rows[1]):
        pooled[r] = _node_row(f[r], t, active[r], scratch[0], scratch[1], pooled[r], left[r], right[r], values[r],
                              cell[r], high[r], low[r])


@jit
def node_evaluate(rows, active, kept, pooling, scratch, f, mass, t, points, totals, out):
    """Do `node_transform` and `node_deposit` at once; ``totals`` receives the sums of mass times F."""
    cell, high, low = kept
    pooled, left, right = pooling
    values = scratch[2]
    for r in range(rows[0], rows[1]):
        pooled[r] = _node_row(f[r], t, active[r], scratch[0], scratch[1], pooled[r], left[r], right[r], values,
                              cell[r], high[r], low[r])
        totals[r] = 0.0
        for q in range(values.size):
            if active[r, q]:
                totals[r] += mass[r, q] * values[q]
        _node_deposit_row(mass[r], active[r], cell[r], high[r], low[r], scratch[0])
        _fold(scratch[0], pooled[r], left[r], right[r], out[r])


@jit
def node_deposit(rows, active, kept, pooling, scratch, mass, out):
    """Move the masses at the nodes to where F is attained."""
    cell, high, low = kept
    pooled, left, right = pooling
    for r in range(rows[0], rows[1]):
        _node_deposit_row(mass[r], active[r], cell[r], high[r], low[r], scratch[0])
        _fold(scratch[0], pooled[r], left[r], right[r], out[r])


@jit
def node_tangent(rows, active, kept, pooling, scratch, v, t, values):
    """Fill ``values`` with the derivative of F along v."""
    cell, high, low = kept
    pooled, left, right = pooling
    for r in range(rows[0], rows[1]):
        _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
        for q in range(v.shape[1]):
            if active[r, q]:
                values[r, q] = _shares(scratch[0], t, cell[r, q], high[r, q], low[r, q])[0]


@jit
def node_deposit_tangent(rows, active, kept, pooling, scratch, v, t, points, mass, change, out):
    """Fill ``out`` with the derivative of the deposit along v and a change of the masses."""
    cell, high, low = kept
    pooled, left, right = pooling
    row = scratch[3]
    for r in range(rows[0], rows[1]):
        _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
        row[:] = 0.0
        for q in range(v.shape[1]):
            if active[r, q]:
                i, dm = cell[r, q], change[r, q]
                _, grow, shrink = _shares(scratch[0], t, i, high[r, q], low[r, q])
                rise, fall = high[r, q] * dm + mass[r, q] * grow, low[r, q] * dm + mass[r, q] * shrink
                row[i] += fall
                row[i + 1] += dm - rise - fall
                row[i + 2] += rise
        _fold(row, pooled[r], left[r], right[r], out[r])


@jit
def majorize(f, t, y, left, right, out):
    """Fill ``out`` with the least functions above the rows that have the same transform; return whether any changed."""
    changed = False
    for r in range(f.shape[0]):
        changed |= _slopes(f[r], t, y, out[r], left, right)
    return changed


@jit
def settle(f, t, wanted, masses, left, right, share):
    """Move what nodes without an image have beyond the wanted masses to the ends of their blocks, along rows.

    The rows f are least functions as of `majorize`. Mass at such a node may as well be at the two ends of its block, at
    the same sum of mass times F: the maximizers there are many. ``left``, ``right`` and ``share`` say for each node
    where it was moved, and which share to the left; ``left[k] == right[k] == k`` where nothing was.
    """
    n = f.shape[1]
    for r in range(f.shape[0]):
        low = -1
        lower = 0.0
        for k in range(n):
            upper = k + 1 - t * (f[r, k + 1] - f[r, k]) if k + 1 < n else float(n)
            upper = min(max(upper, 0.0), float(n))
            left[r, k] = low
            if upper - lower > FLAT:
                low = left[r, k] = k
            lower = upper
        high = -1
        for k in range(n - 1, -1, -1):
            if left[r, k] == k:
                high = k
            right[r, k] = high
            low = left[r, k]
            share[r, k] = 1.0
            excess = masses[r, k] - wanted[r, k]
            if low == high or (low < 0 and high < 0) or not excess >= 0.0:
                left[r, k] = right[r, k] = k
            elif low < 0:
                left[r, k] = high
            elif high < 0:
                right[r, k] = low
            else:
                share[r, k] = (high - k) / (high - low)
        for k in range(n):
            if right[r, k] != k or left[r, k] != k:
                excess = masses[r, k] - wanted[r, k]
                masses[r, k] -= excess
                masses[r, left[r, k]] += share[r, k] * excess
                masses[r, right[r, k]] += (1.0 - share[r, k]) * excess


@jit
def turn(source, out):
    """Exchange the last two of three axes, by blocks."""
    for b in range(source.shape[0]):
        for i in range(0, source.shape[1], BLOCK):
            for j in range(0, source.shape[2], BLOCK):
                for k in range(i, min(i + BLOCK, source.shape[1])):
                    for m in range(j, min(j + BLOCK, source.shape[2])):
                        out[b, m, k] = source[b, k, m]
