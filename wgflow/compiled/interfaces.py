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

#: The density jumps if its step over three cells exceeds this multiple of the differences on its two sides.
JUMP = 8.0
#: Cells from the cell to the ends of the columns whose sums are heights.
REACH = 3
#: A cell is cut if both sides have more than this part of it.
LEAST = 1e-12
#: Curves less inclined than this are parallel to a line of cells.
FLAT = 1e-9


@jit
def _place(share, slope):
    """Return H of the line y = H + slope (x - 1/2) below which ``share`` of the unit square lies."""
    s = abs(slope)
    part, low = min(share, 1.0 - share), min(1.0, s)
    # The height of the line's upper end over the corner of the smaller part: of a triangle, or of what is cut from it.
    if 2.0 * s * part <= low * low:
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
def _sides(r, i, j, along):
    """Return the densities on the two sides of a jump in a column, and whether it jumps at its middle cell."""
    low, high = _at(r, i, j, along, -2, 0), _at(r, i, j, along, 2, 0)
    before, after = _at(r, i, j, along, -1, 0), _at(r, i, j, along, 1, 0)
    end, start = _at(r, i, j, along, -3, 0), _at(r, i, j, along, 3, 0)
    # A curve that is no steeper than a cell a column cuts this cell, and no more than one of its neighbors.
    first = abs(high - before) > JUMP * (abs(before - low) + abs(start - high))
    second = abs(after - low) > JUMP * (abs(after - high) + abs(low - end))
    return low, high, first or second


@jit
def _slope(r, i, j, along, low, high):
    """Return the slope of the curve by the heights of three columns."""
    sums = [0.0, 0.0, 0.0]
    for c in range(3):
        for k in range(-REACH, REACH + 1):
            share = (_at(r, i, j, along, k, c - 1) - high) / (low - high)
            sums[c] += min(max(share, 0.0), 1.0)
    before, after = sums[1] - sums[0], sums[2] - sums[1]
    if abs(after - before) > 1.0:
        # A corner: the side that is the less inclined.
        return before if abs(before) < abs(after) else after
    return 0.5 * (before + after)


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
            if not _inside(r, i, j, 1 if along else REACH, REACH if along else 1, rings):
                continue
            low, high, jumps = _sides(r, i, j, along)
            if not jumps:
                continue
            share = (r[i, j] - high) / (low - high)
            if LEAST < share < 1.0 - LEAST:
                slope = _slope(r, i, j, along, low, high)
                _profile(share, slope, along, low, high, found[:, i, j])
