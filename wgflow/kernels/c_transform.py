r"""Sup-convolutions of splines along rows, and the deposits that are their derivatives.

On one axis, in units of cells (cell k is [k, k + 1], its node k + 1/2), with t the time step over the squared width:

.. math:: F(s) = \max_x \; \sum_k W_k(x) f_k - \frac{(x - s)^2}{2 t},

where W are B-splines on the nodes, mirrored at both walls: the c-transform of the spline is -F. The slopes of
:math:`x^2/2 - t f` at the edges, :math:`Y_e = e - t (f_e - f_{e-1})`, say everything: where they increase, the function
is convex and the maximizer follows from Y alone. Where they do not, nodes are pooled (greatest convex minorant, by
pooling adjacent violators), which means that mass at a pooled node goes on to the two ends of its block.

Two splines serve: quadratic ("smooth"), seen by ``points`` points a cell, whose maximizer moves smoothly with f; and
linear ("hat"), seen by the nodes s = k + 1/2 themselves, which a point at rest does not smear.

Where f falls toward a wall, mass arrives there from afar, and a mirrored spline, whose slope at the wall is 0, would
press it against the inner edge of the last cell. There the points that go to the last cell choose the share p of its
neighbor themselves, at the price :math:`(p - p_0)^2 / 2 t`. For points from other cells :math:`p - p_0` is their way to
the place p beyond the last node, for points of the last cell itself :math:`p_0` is the share at rest: F is convex in f
still, and the deposit continuous.

The arrays of a row of points: ``cell`` and ``place`` in [0, 1] of the maximizer and ``stretch``, how far it moves with
s; ``near`` holds the first point of the row that does not choose so at the left wall, and the first that does
at the right wall. For those that do, ``place`` is the share. Only points from ``first[r]`` to
``last[r]`` of row r are looked at: the others have no mass.
"""

from __future__ import annotations

from ._jit import jit

#: Narrower images of cells count as points.
NARROW = 1e-12
#: Falls of the slopes below this one are round-off of slopes that are even.
EVEN = 1e-10
#: Side of the blocks in which arrays are transposed.
BLOCK = 16


@jit
def _slopes(f, t, y, hat, left, right):
    """Edge slopes of x^2/2 - t f made monotone, f as its minorant sees it, and the ends of each node's block.

    Returns whether a node was pooled; ``left`` and ``right`` are written only then. ``left[k] == right[k]`` is the one
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
    """Isotonic regression of y[1:n] by pooling adjacent violators, in place; ``first`` and ``count`` are scratch."""
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
    """Move what lies on pooled nodes to the ends of their blocks."""
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
    """Values at pooled nodes, interpolated from the ends of their blocks: the adjoint of `_release`."""
    for k in range(row.size):
        a, b = left[k], right[k]
        out[k] = row[a] if a == b else row[a] + (row[b] - row[a]) * ((k - a) / (b - a))


# -------------------------------------------------------------------- rows of smooth points
@jit
def _smooth_row(f, t, points, first, last, y, hat, pooled, left, right, values, cell, place, stretch, near):
    """F at the points of a row, and their maximizers; returns whether nodes were pooled."""
    n = f.size
    pooled = _slopes(f, t, y, hat, left, right)
    half, q, k = 0.5 / t, first, 0
    if n > 1 and y[1] > 1.0:
        gap = hat[1] - hat[0]
        while q < last and (q + 0.5) / points <= y[1]:
            s = (q + 0.5) / points
            rest = s - 0.5 if s > 1.0 else 0.5 * s * s
            share = max(rest - (y[1] - 1.0), 0.0)
            values[q] = hat[0] + share * gap - half * (share - rest) * (share - rest)
            cell[q], place[q], stretch[q] = 0, share, 1.0 if share > 0.0 else 0.0
            q += 1
    near[0] = q
    end = y[n - 1] if n > 1 and y[n - 1] < n - 1.0 else n + 1.0
    bottom, top, inverse = 0.0, -1.0, 0.0
    down = up = center = 0.0
    while q < last:
        s = (q + 0.5) / points
        if s > end:
            break
        if s > top:
            while k < n - 1 and y[k + 1] < s:
                k += 1
            bottom, top = y[k], y[k + 1]
            inverse = 1.0 / (top - bottom) if top - bottom > NARROW else 0.0
            center = hat[k]
            down, up = 0.5 * (center - hat[max(k - 1, 0)]), 0.5 * (hat[min(k + 1, n - 1)] - center)
        p = min(max((s - bottom) * inverse, 0.0), 1.0) if inverse > 0.0 else 0.5
        move = k + p - s
        values[q] = center + up * p * p - down * (1.0 - p) * (1.0 - p) - half * move * move
        cell[q], place[q], stretch[q] = k, p, inverse
        q += 1
    near[1] = q
    while q < last:
        s = n - (q + 0.5) / points
        rest = s - 0.5 if s > 1.0 else 0.5 * s * s
        share = max(rest - (n - 1.0 - y[n - 1]), 0.0)
        values[q] = hat[n - 1] + share * (hat[n - 2] - hat[n - 1]) - half * (share - rest) * (share - rest)
        cell[q], place[q], stretch[q] = n - 1, share, 1.0 if share > 0.0 else 0.0
        q += 1
    return pooled


@jit
def _smooth_deposit_row(mass, first, last, cell, place, near, row):
    """Deposit of masses at the maximizers of a row: the derivative of sum(mass F). ``row`` has spare ends."""
    n = row.size - 2
    row[:] = 0.0
    for q in range(first, near[0]):
        row[2] += place[q] * mass[q]
        row[1] += mass[q] - place[q] * mass[q]
    for q in range(near[0], near[1]):
        m, k, p = mass[q], cell[q], place[q]
        low, high = 0.5 * (1.0 - p) * (1.0 - p) * m, 0.5 * p * p * m
        row[k] += low
        row[k + 1] += m - low - high
        row[k + 2] += high
    for q in range(near[1], last):
        row[n - 1] += place[q] * mass[q]
        row[n] += mass[q] - place[q] * mass[q]


@jit
def _smooth_tangent_row(v, t, first, last, cell, place, stretch, near, values, moves):
    """Derivative of F and of the maximizers along a change of f; v has a mirrored entry on each side."""
    n = v.size - 2
    for q in range(first, near[0]):
        rise = v[2] - v[1]
        values[q], moves[q] = v[1] + place[q] * rise, t * stretch[q] * rise
    for q in range(near[0], near[1]):
        k, p = cell[q], place[q]
        center = v[k + 1]
        down, up = (1.0 - p) * (center - v[k]), p * (v[k + 2] - center)
        values[q] = center + 0.5 * (p * up - (1.0 - p) * down)
        moves[q] = t * stretch[q] * (down + up)
    for q in range(near[1], last):
        rise = v[n - 1] - v[n]
        values[q], moves[q] = v[n] + place[q] * rise, t * stretch[q] * rise


@jit
def _smooth_deposit_tangent_row(mass, change, moves, first, last, cell, place, near, row):
    """Derivative of the deposit along changes of the masses and moves of the points."""
    n = row.size - 2
    row[:] = 0.0
    for q in range(first, near[0]):
        high = place[q] * change[q] + mass[q] * moves[q]
        row[2] += high
        row[1] += change[q] - high
    for q in range(near[0], near[1]):
        m, k, p = change[q], cell[q], place[q]
        moved = mass[q] * moves[q]
        low = (1.0 - p) * (0.5 * (1.0 - p) * m - moved)
        high = p * (0.5 * p * m + moved)
        row[k] += low
        row[k + 1] += m - low - high
        row[k + 2] += high
    for q in range(near[1], last):
        low = place[q] * change[q] + mass[q] * moves[q]
        row[n - 1] += low
        row[n] += change[q] - low


@jit
def _fold(row, pooled, left, right, out):
    """A row with its spare entries folded in at the walls, and pooled nodes emptied."""
    n = out.size
    row[1] += row[0]
    row[n] += row[n + 1]
    for k in range(n):
        out[k] = row[k + 1]
    if pooled:
        _release(out, left, right)


@jit
def _unfold(v, pooled, left, right, row):
    """The adjoint of `_fold`: mirrored entries, and pooled nodes interpolated."""
    n = v.size
    if pooled:
        _gather(v, left, right, row[1:n + 1])
    else:
        for k in range(n):
            row[k + 1] = v[k]
    row[0], row[n + 1] = row[1], row[n]


# -------------------------------------------------------------------- sets of rows of smooth points
@jit
def smooth_transform(rows, active, kept, pooling, scratch, f, t, points, values):
    """F of the rows ``rows[0]`` to ``rows[1]`` of f.

    Parameters
    ----------
    rows : (int, int)
    active : (first, last)
        Arrays of int, shape (rows,): the points of each row that have mass.
    kept : (cell, place, stretch, near)
        Receive what the other kernels need; shape (rows, points n), ``near`` (rows, 2).
    pooling : (pooled, left, right)
        Receive whether a row has pooled nodes, shape (rows,), and the ends of their blocks, shape (rows, n).
    scratch : arrays of n + 2, n, and four of points n, the last one zero
    f : array, shape (rows, n)
    t : float
        Time step over the squared cell width.
    points : int
        Points a cell.
    values : array, shape (rows, points n)
        Receives F at s = (q + 1/2) / points.
    """
    cell, place, stretch, near = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            pooled[r] = _smooth_row(f[r], t, points, first[r], last[r], scratch[0], scratch[1], pooled[r], left[r],
                                    right[r], values[r], cell[r], place[r], stretch[r], near[r])


@jit
def smooth_deposit(rows, active, kept, pooling, scratch, mass, out):
    """Masses at the points, brought to where F is attained."""
    cell, place, _, near = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _smooth_deposit_row(mass[r], first[r], last[r], cell[r], place[r], near[r], scratch[0])
            _fold(scratch[0], pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


@jit
def smooth_evaluate(rows, active, kept, pooling, scratch, f, mass, t, points, totals, out):
    """`smooth_transform` and `smooth_deposit` at once; ``totals`` receives the sums of mass times F."""
    cell, place, stretch, near = kept
    pooled, left, right = pooling
    first, last = active
    values = scratch[2]
    for r in range(rows[0], rows[1]):
        totals[r] = 0.0
        if first[r] < last[r]:
            pooled[r] = _smooth_row(f[r], t, points, first[r], last[r], scratch[0], scratch[1], pooled[r], left[r],
                                    right[r], values, cell[r], place[r], stretch[r], near[r])
            for q in range(first[r], last[r]):
                totals[r] += mass[r, q] * values[q]
            _smooth_deposit_row(mass[r], first[r], last[r], cell[r], place[r], near[r], scratch[0])
            _fold(scratch[0], pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


@jit
def smooth_tangent(rows, active, kept, pooling, scratch, v, t, values, moves):
    """Derivative of F and of the maximizers along v."""
    cell, place, stretch, near = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
            _smooth_tangent_row(scratch[0], t, first[r], last[r], cell[r], place[r], stretch[r], near[r], values[r],
                                moves[0, r])


@jit
def smooth_deposit_tangent(rows, active, kept, pooling, scratch, mass, change, moves, out):
    """Derivative of the deposit along changes of the masses and moves of the points."""
    cell, place, _, near = kept
    pooled, left, right = pooling
    first, last = active
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _smooth_deposit_tangent_row(mass[r], change[r], moves[0, r], first[r], last[r], cell[r], place[r], near[r],
                                        scratch[0])
            _fold(scratch[0], pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


@jit
def smooth_curvature(rows, active, kept, pooling, scratch, v, mass, t, out):
    """`smooth_tangent` and `smooth_deposit_tangent` at once, for masses that do not change."""
    cell, place, stretch, near = kept
    pooled, left, right = pooling
    first, last = active
    values, moves, still = scratch[2], scratch[3], scratch[5]
    for r in range(rows[0], rows[1]):
        if first[r] < last[r]:
            _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
            _smooth_tangent_row(scratch[0], t, first[r], last[r], cell[r], place[r], stretch[r], near[r], values, moves)
            _smooth_deposit_tangent_row(mass[r], still, moves, first[r], last[r], cell[r], place[r], near[r],
                                        scratch[0])
            _fold(scratch[0], pooled[r], left[r], right[r], out[r])
        else:
            out[r] = 0.0


# -------------------------------------------------------------------- nodes that spread to neighbors
@jit
def _spread(y, hat, t, s, i, n):
    """Value of a point at s that goes to node i and spreads from there, with its shares for nodes i + 1 and i - 1."""
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
    """`_smooth_row` for nodes: F, the nodes that they go to, and the shares of the neighbors of those."""
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
        # Under strong expansion another node, from which both neighbors can be reached, may do better.
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
    """Deposit of masses as `_node_row` spreads them."""
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
def _node_tangent_row(v, t, occupied, cell, high, low, values, up, down):
    """Derivatives of F and of the two shares along a change of f; v has a mirrored entry on each side."""
    for q in range(cell.size):
        if not occupied[q]:
            continue
        i = cell[q]
        rise, fall = v[i + 2] - v[i + 1], v[i] - v[i + 1]
        p, m = high[q], low[q]
        values[q] = v[i + 1] + p * rise + m * fall
        # Shares move while they lie inside their triangle, along its edge when they add up to 1.
        grow, shrink = (t * rise if p > 0.0 else 0.0), (t * fall if m > 0.0 else 0.0)
        if p + m >= 1.0 - 1e-14:
            both = 0.5 * (grow - shrink) if p > 0.0 and m > 0.0 else 0.0
            grow, shrink = both, -both
        up[q], down[q] = grow, shrink


@jit
def _node_deposit_tangent_row(mass, change, up, down, occupied, cell, high, low, row):
    """Derivative of the deposit along changes of the masses and of the shares."""
    row[:] = 0.0
    for q in range(mass.size):
        if occupied[q]:
            m, i, dm = mass[q], cell[q], change[q]
            rise, fall = high[q] * dm + m * up[q], low[q] * dm + m * down[q]
            row[i] += fall
            row[i + 1] += dm - rise - fall
            row[i + 2] += rise


@jit
def node_transform(rows, active, kept, pooling, scratch, f, t, points, values):
    r"""The transform that nodes see, as `smooth_transform`; ``active`` says which nodes have mass, shape (rows, n).

    A point at node s goes to a node i and from there spreads shares p and q to its two neighbors, at the price

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
    """`node_transform` and `node_deposit` at once; ``totals`` receives the sums of mass times F."""
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
    """Masses at the nodes, brought to where F is attained."""
    cell, high, low = kept
    pooled, left, right = pooling
    for r in range(rows[0], rows[1]):
        _node_deposit_row(mass[r], active[r], cell[r], high[r], low[r], scratch[0])
        _fold(scratch[0], pooled[r], left[r], right[r], out[r])


@jit
def node_tangent(rows, active, kept, pooling, scratch, v, t, values, moves):
    """Derivatives of F and of the shares along v."""
    cell, high, low = kept
    pooled, left, right = pooling
    for r in range(rows[0], rows[1]):
        _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
        _node_tangent_row(scratch[0], t, active[r], cell[r], high[r], low[r], values[r], moves[0, r], moves[1, r])


@jit
def node_deposit_tangent(rows, active, kept, pooling, scratch, mass, change, moves, out):
    """Derivative of the deposit along changes of the masses and of the shares."""
    cell, high, low = kept
    pooled, left, right = pooling
    for r in range(rows[0], rows[1]):
        _node_deposit_tangent_row(mass[r], change[r], moves[0, r], moves[1, r], active[r], cell[r], high[r], low[r],
                                  scratch[0])
        _fold(scratch[0], pooled[r], left[r], right[r], out[r])


@jit
def node_curvature(rows, active, kept, pooling, scratch, v, mass, t, out):
    """`node_tangent` and `node_deposit_tangent` at once, for masses that do not change."""
    cell, high, low = kept
    pooled, left, right = pooling
    values, up, down, still = scratch[2], scratch[3], scratch[4], scratch[5]
    for r in range(rows[0], rows[1]):
        _unfold(v[r], pooled[r], left[r], right[r], scratch[0])
        _node_tangent_row(scratch[0], t, active[r], cell[r], high[r], low[r], values, up, down)
        _node_deposit_tangent_row(mass[r], still, up, down, active[r], cell[r], high[r], low[r], scratch[0])
        _fold(scratch[0], pooled[r], left[r], right[r], out[r])


@jit
def majorize(f, t, y, left, right, out):
    """The rows as the transform sees them: the least functions above them that no point could tell from them."""
    changed = False
    for r in range(f.shape[0]):
        changed |= _slopes(f[r], t, y, out[r], left, right)
    return changed


@jit
def turn(source, out):
    """Exchange the last two of three axes, by blocks."""
    for b in range(source.shape[0]):
        for i in range(0, source.shape[1], BLOCK):
            for j in range(0, source.shape[2], BLOCK):
                for k in range(i, min(i + BLOCK, source.shape[1])):
                    for m in range(j, min(j + BLOCK, source.shape[2])):
                        out[b, m, k] = source[b, k, m]
