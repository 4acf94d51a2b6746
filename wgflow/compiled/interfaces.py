r"""Where in its cell a curve lies across which a density in the plane jumps: straight pieces found from the averages.

Beside the curve the density is nearly constant: L on one side, U on the other, found two cells off along the axis that
is nearer to the normal. The sums of (r - U) / (L - U) over seven cells of three neighboring columns are the heights of
the curve, and half the difference of the outer two is its slope sigma. In units of the cell it is

.. math:: y = H + \sigma (x - 1/2),

where H gives the average of the cell (volume-of-fluid methods: Youngs 1982; heights: Cummins, Francois and Kothe,
Comput. Struct. 83, 2005). Averaged over the width of a line of cells, the density is then constant, linear and constant
again along the line: this profile is what a sweep carries.
"""

from __future__ import annotations

import math

from .jit import jit

#: The density jumps if its step over three cells exceeds these multiples of the first differences on its two sides, and
#: of the second ones.
STEEP, JUMP = 4.0, 8.0
#: Cells from the cell to the ends of the columns whose sums are heights.
REACH = 3
#: Cells that are looked at beside a cell.
LOOKED = 4
#: Curves of a radius below three cells are corners.
BENT = 0.3
#: A cell is cut if both sides have more than this part of it.
LEAST = 1e-12
#: Curves less inclined than this are parallel to a line of cells.
FLAT = 1e-9
#: Where a curve that is parallel on one side rises by more than this on the other, a box has a corner.
EDGE = 1e-3


@jit
def _place(share, slope):
    """Return H of the line y = H + slope (x - 1/2) below which ``share`` of the unit square lies."""
    s = abs(slope)
    part, low = min(share, 1.0 - share), min(1.0, s)
    # The height of the line's upper end over the corner of the smaller part: of a triangle, or of what is cut from it.
    if 2.0 * s * part < low * low:
        end = math.sqrt(2.0 * s * part)
    else:
        end = part + 0.5 * s if s < 1.0 else part * s + 0.5
    below = end - 0.5 * s
    return below if share <= 0.5 else 1.0 - below


@jit
def _at(r, i, j, along, k, c):
    """Return the density k cells on along a column and c columns off; the column runs along the lines or across."""
    lines, n = r.shape
    a, b = (i + c, j + k) if along else (i + k, j + c)
    return r[a % lines, b % n]


@jit
def _inside(r, i, j, across, ahead, rings):
    """Return whether the cells so far off lie on the grid; ``rings`` tells of each axis if it is periodic."""
    lines, n = r.shape
    return (rings[0] or across <= i < lines - across) and (rings[1] or ahead <= j < n - ahead)


@jit
def _rise(r, i, j):
    """Return four times the rise of the density along a line and across the lines, by three cells each."""
    ahead = across = 0.0
    for c in range(-1, 2):
        weight = 2.0 if c == 0 else 1.0
        ahead += weight * (_at(r, i, j, True, 1, c) - _at(r, i, j, True, -1, c))
        across += weight * (_at(r, i, j, False, 1, c) - _at(r, i, j, False, -1, c))
    return ahead, across


@jit
def _side(r, i, j, along, sign, near):
    """Return density, changes away and roughness on one side of a jump, with whole cells from ``near`` on."""
    here, beyond = _at(r, i, j, along, sign * near, 0), _at(r, i, j, along, sign * (near + 1), 0)
    one, other = here - beyond, beyond - _at(r, i, j, along, sign * (near + 2), 0)
    return here, one if abs(one) < abs(other) else other, abs(one), abs(one - other), one * other > 0.0


@jit
def _jumps(low, high):
    """Return whether the density jumps from one side to the other."""
    size = abs(low[0] - high[0])
    return size > STEEP * (low[2] + high[2]) and size > JUMP * (low[3] + high[3])


@jit
def _limited(side, near, other):
    """Return the density of a side halfway into its part of the cut cell, and its change per cell."""
    most = 0.5 * min(side[0], abs(side[0] - other)) if side[4] else 0.0
    change = max(-most, min(most, (near - 0.25) * side[1]))
    return side[0] + change, change / (near - 0.25)


@jit
def _sides(r, i, j, along):
    """Return the densities below and above a jump in a column with their changes per cell away, and if it jumps.

    A curve that is no steeper than a cell a column cuts this cell, and no more than one of its neighbors.
    """
    low, lower = _side(r, i, j, along, -1, 1), _side(r, i, j, along, -1, 2)
    high, higher = _side(r, i, j, along, 1, 1), _side(r, i, j, along, 1, 2)
    first, second = _jumps(low, higher), _jumps(lower, high)
    below, above = 1 if first else 2, 1 if second else 2
    if below == 2:
        low = lower
    if above == 2:
        high = higher
    start, down = _limited(low, below, high[0])
    end, up = _limited(high, above, low[0])
    return start, down, end, up, first or second


@jit
def _height(r, i, j, along, low, down, high, up, c):
    """Return the height of the curve in the column c off, by sums; densities are carried on from the column's ends."""
    start = _at(r, i, j, along, -REACH, c) - _at(r, i, j, along, -REACH, 0)
    end = _at(r, i, j, along, REACH, c) - _at(r, i, j, along, REACH, 0)
    total = 0.0
    for k in range(-REACH, REACH + 1):
        below, above = low + start + min(k, 0) * down, high + end - max(k, 0) * up
        if not (below - above) * (low - high) > 0.0:
            below, above = low, high
        total += min(max((_at(r, i, j, along, k, c) - above) / (below - above), 0.0), 1.0)
    return total


@jit
def _slope(r, i, j, along, low, down, high, up):
    """Return the slope of the curve by the heights of three columns; NaN where a parallel edge ends."""
    here = _height(r, i, j, along, low, down, high, up, 0)
    before = here - _height(r, i, j, along, low, down, high, up, -1)
    after = _height(r, i, j, along, low, down, high, up, 1) - here
    least, most = min(abs(before), abs(after)), max(abs(before), abs(after))
    if least < FLAT and most > EDGE:
        return math.nan
    mean = 0.5 * (before + after)
    if abs(after - before) > BENT * (1.0 + mean * mean) ** 1.5:
        # A corner: the side that is the less inclined.
        return before if abs(before) < abs(after) else after
    return mean


@jit
def _profile(share, slope, along, low, high, out):
    """Fill the profile along the line of a cell of which ``share`` has the density ``low``, below the curve."""
    place = _place(share, slope)
    if along:
        half = 0.5 * abs(slope)
        out[0], out[1], out[2], out[3] = low, high, place - half, place + half
    elif slope > FLAT:
        out[0], out[1], out[2], out[3] = high, low, 0.5 - place / slope, 0.5 + (1.0 - place) / slope
    elif slope < -FLAT:
        out[0], out[1], out[2], out[3] = low, high, 0.5 + (1.0 - place) / slope, 0.5 - place / slope
    else:
        mean = high + share * (low - high)
        out[0], out[1], out[2], out[3] = mean, mean, 0.0, 1.0


@jit
def find_interfaces(r, rings, found):
    """Fill the profiles along the lines of the cells in which the density jumps.

    Parameters
    ----------
    r : array, shape (lines, n)
        Densities on even cells.
    rings : array of bool, shape (2,)
        Whether each axis is periodic.
    found : array, shape (4, lines, n)
        The density at the beginning of the cell's profile, -1 where the density does not jump; that at its end; and the
        places between which the profile is linear, in units of the cell, which may lie outside of it.
    """
    lines, n = r.shape
    for i in range(lines):
        for j in range(n):
            found[0, i, j] = -1.0
            if not _inside(r, i, j, 1, 1, rings):
                continue
            ahead, across = _rise(r, i, j)
            along = abs(ahead) >= abs(across)
            if not _inside(r, i, j, 1 if along else LOOKED, LOOKED if along else 1, rings):
                continue
            low, down, high, up, jumps = _sides(r, i, j, along)
            if not jumps:
                continue
            share = (r[i, j] - high) / (low - high)
            if LEAST < share < 1.0 - LEAST:
                slope = _slope(r, i, j, along, low, down, high, up)
                if not math.isfinite(slope):
                    continue
                _profile(share, slope, along, low, high, found[:, i, j])
