r"""Sup-convolutions of splines along rows, and the deposits that are their derivatives.

On one axis, in units of cells (cell k is [k, k + 1], its node k + 1/2), with t the time step over the squared width:

.. math:: F(s) = \max_x \; \sum_k W_k(x) f_k - \frac{(x - s)^2}{2 t},

where W are B-splines on the nodes, mirrored at both walls: the c-transform of the spline is -F. The slopes of
:math:`x^2/2 - t f` at the edges, :math:`Y_e = e - t (f_e - f_{e-1})`, say everything: where they increase, the function
is convex and the maximizer follows from Y alone. Where they do not, nodes are pooled (greatest convex minorant, by
pooling adjacent violators), which means that mass at a pooled node goes on to the two ends of its block.

Two splines serve: quadratic ("smooth"), seen by two points a cell, s = k + 1/4 and k + 3/4, whose maximizer moves
smoothly with f; and linear ("hat"), seen by the nodes s = k + 1/2 themselves, which a point at rest does not smear.
"""

from __future__ import annotations

from ._jit import jit


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
        monotone &= y[e] >= y[e - 1]
    for k in range(n):
        hat[k] = f[k]
    if monotone and y[n - 1] <= n:
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
def smooth_rows(f, t, points, begin, end, values, cell, place, stretch, y, hat, pooled, left, right):
    """Sup-convolution of quadratic splines at two points a cell, for rows ``begin`` to ``end``.

    Parameters
    ----------
    f : array, shape (rows, n)
    t : float
        Time step over the squared cell width.
    values : array, shape (rows, 2 n)
        Receives F at s = k + 1/4 and k + 3/4.
    cell, place : arrays, shape (rows, 2 n)
        Receive the cell of the maximizer and its place in the cell, in [0, 1].
    stretch : array, shape (rows, 2 n)
        Receives 1 / (dY/dx) there: how far the maximizer moves with s.
    y, hat : arrays, shape (n + 1,), (n,)
        Scratch.
    pooled : array of bool, shape (rows,)
    left, right : arrays of int32, shape (rows, n)
        Receive whether a row has pooled nodes, and the ends of their blocks.
    """
    n = f.shape[1]
    for r in range(begin, end):
        pooled[r] = _slopes(f[r], t, y, hat, left[r], right[r])
        k = 0
        for q in range(points * n):
            s = (q + 0.5) / points
            while k < n - 1 and y[k + 1] < s:
                k += 1
            width = y[k + 1] - y[k]
            p = (s - y[k]) / width if width > 1e-12 else 0.5
            below, above = max(k - 1, 0), min(k + 1, n - 1)
            move = k + p - s
            values[r, q] = (0.5 * (1.0 - p) * (1.0 - p) * hat[below] + (0.5 + p * (1.0 - p)) * hat[k]
                            + 0.5 * p * p * hat[above] - 0.5 * move * move / t)
            cell[r, q], place[r, q] = k, p
            stretch[r, q] = 1.0 / width if width > 1e-12 else 0.0


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
def node_rows(f, t, begin, end, values, cell, high, low, y, hat, pooled, left, right):
    r"""The transform that nodes see, for rows ``begin`` to ``end``: as `smooth_rows`, with arrays of n columns.

    A point at node s goes to a node i and from there spreads shares p and q to its two neighbors, at the price

    .. math:: \tfrac{1}{2t} \bigl((x_i - s + p - q)^2 + 2 p q\bigr), \qquad p, q \ge 0, \; p + q \le 1,

    which is the squared distance where it spreads to one side only. F is the largest gain. ``high`` and ``low`` receive
    p and q, ``cell`` receives i.
    """
    n = f.shape[1]
    for r in range(begin, end):
        pooled[r] = _slopes(f[r], t, y, hat, left[r], right[r])
        k = 0
        for q in range(n):
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
            values[r, q], cell[r, q], high[r, q], low[r, q] = best, center, best_high, best_low


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


@jit
def smooth_deposit(mass, begin, end, cell, place, pooled, left, right, out):
    """Deposit of masses at the maximizers of `smooth_rows` onto nodes: the derivative of sum(mass F) by f."""
    n = out.shape[1]
    for r in range(begin, end):
        out[r] = 0.0
        for q in range(mass.shape[1]):
            m, k, p = mass[r, q], cell[r, q], place[r, q]
            low, high = 0.5 * (1.0 - p) * (1.0 - p) * m, 0.5 * p * p * m
            out[r, max(k - 1, 0)] += low
            out[r, k] += m - low - high
            out[r, min(k + 1, n - 1)] += high
        if pooled[r]:
            _release(out[r], left[r], right[r])


@jit
def node_deposit(mass, begin, end, cell, high, low, pooled, left, right, out):
    """Deposit of masses as `node_rows` spreads them."""
    n = out.shape[1]
    for r in range(begin, end):
        out[r] = 0.0
        for q in range(mass.shape[1]):
            m, i = mass[r, q], cell[r, q]
            up, down = high[r, q] * m, low[r, q] * m
            out[r, max(i - 1, 0)] += down
            out[r, i] += m - up - down
            out[r, min(i + 1, n - 1)] += up
        if pooled[r]:
            _release(out[r], left[r], right[r])


@jit
def smooth_tangent(v, t, begin, end, cell, place, stretch, pooled, left, right, scratch, values, moves):
    """Derivative of F and of the maximizer along a change v of f, after `smooth_rows`."""
    n = v.shape[1]
    for r in range(begin, end):
        if pooled[r]:
            _gather(v[r], left[r], right[r], scratch)
        else:
            scratch[:] = v[r]
        for q in range(cell.shape[1]):
            k, p = cell[r, q], place[r, q]
            down = scratch[k] - scratch[max(k - 1, 0)]
            up = scratch[min(k + 1, n - 1)] - scratch[k]
            values[r, q] = scratch[k] - 0.5 * (1.0 - p) * (1.0 - p) * down + 0.5 * p * p * up
            moves[r, q] = t * stretch[r, q] * ((1.0 - p) * down + p * up)


@jit
def node_tangent(v, t, begin, end, cell, high, low, pooled, left, right, scratch, values, up, down):
    """Derivatives of F and of the two shares along a change v of f, after `node_rows`."""
    n = v.shape[1]
    for r in range(begin, end):
        if pooled[r]:
            _gather(v[r], left[r], right[r], scratch)
        else:
            scratch[:] = v[r]
        for q in range(cell.shape[1]):
            i = cell[r, q]
            rise = scratch[min(i + 1, n - 1)] - scratch[i]
            fall = scratch[max(i - 1, 0)] - scratch[i]
            p, m = high[r, q], low[r, q]
            values[r, q] = scratch[i] + p * rise + m * fall
            # Shares move while they lie inside their triangle, along its edge when they add up to 1.
            grow, shrink = (t * rise if p > 0.0 else 0.0), (t * fall if m > 0.0 else 0.0)
            if p + m >= 1.0 - 1e-14:
                both = 0.5 * (grow - shrink) if p > 0.0 and m > 0.0 else 0.0
                grow, shrink = both, -both
            up[r, q], down[r, q] = grow, shrink


@jit
def smooth_deposit_tangent(mass, change, moves, begin, end, cell, place, pooled, left, right, out):
    """Derivative of `smooth_deposit` along changes of the masses and moves of the points."""
    n = out.shape[1]
    for r in range(begin, end):
        out[r] = 0.0
        for q in range(mass.shape[1]):
            m, k, p = change[r, q], cell[r, q], place[r, q]
            moved = mass[r, q] * moves[r, q]
            low = 0.5 * (1.0 - p) * (1.0 - p) * m - (1.0 - p) * moved
            high = 0.5 * p * p * m + p * moved
            out[r, max(k - 1, 0)] += low
            out[r, k] += m - low - high
            out[r, min(k + 1, n - 1)] += high
        if pooled[r]:
            _release(out[r], left[r], right[r])


@jit
def node_deposit_tangent(mass, change, up, down, begin, end, cell, high, low, pooled, left, right, out):
    """Derivative of `node_deposit` along changes of the masses and of the shares."""
    n = out.shape[1]
    for r in range(begin, end):
        out[r] = 0.0
        for q in range(mass.shape[1]):
            m, i, dm = mass[r, q], cell[r, q], change[r, q]
            rise = high[r, q] * dm + m * up[r, q]
            fall = low[r, q] * dm + m * down[r, q]
            out[r, max(i - 1, 0)] += fall
            out[r, i] += dm - rise - fall
            out[r, min(i + 1, n - 1)] += rise
        if pooled[r]:
            _release(out[r], left[r], right[r])
