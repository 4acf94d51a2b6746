"""What walls do that stand for infinity: the mass that would lie beyond them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from wgflow.densities import Density

if TYPE_CHECKING:
    from wgflow.solution import Solution

__all__ = ["beyond_walls"]

#: A density at a wall above this part of its largest value ends there by the nature of the problem.
TAIL = 0.03
#: The part of an axis next to a wall over which the decay of a tail is measured.
OUTER = 0.05
#: Mass that is less than this part of it counts as none.
NEGLIGIBLE = 1e-15


def beyond_walls(solution: Solution, start: Density, k: int) -> tuple[NDArray[np.float64], list[str]]:
    r"""Return the largest parts of the mass that lie beyond the walls up to the k-th snapshot, and what is to be said.

    A tail that decays like :math:`e^{-x / \ell}` next to a wall at L has the mass :math:`\ell\,\rho(L)` beyond it.

    Parameters
    ----------
    solution : Solution
        On a grid.
    start : Density
    k : int

    Returns
    -------
    array, shape (ndim, 2)
        For the lower and the upper end of each axis: 0 at walls that were declared and natural ends, NaN at those taken
        for walls.
    list of str
        The ends that were taken for walls of the problem.
    """
    laws = [start, *(cast(Density, rho) for rho in solution.densities[:k + 1])]
    grid = start.grid
    beyond, notes = np.zeros((grid.ndim, 2)), []
    for axis in range(grid.ndim):
        for side in (0, 1):
            if not grid.open_ends[axis][side]:
                # A wall that was declared, or a natural end.
                continue
            beyond[axis, side] = np.max([_beyond(rho, axis, side) for rho in laws])
            if math.isnan(beyond[axis, side]):
                notes.append(f"mass lies at the {('lower', 'upper')[side]} end of {grid.names[axis]}, which was taken "
                             "for a wall of the problem; enlarge the grid if it stands for infinity")
    return beyond, notes


def _beyond(rho: Density, axis: int, side: int) -> float:
    """Return the part of the mass beyond an end of an axis; NaN where it is no tail."""
    widths = rho.grid.widths[axis]
    profile = rho.masses.sum(axis=tuple(j for j in range(rho.grid.ndim) if j != axis)) / (rho.mass * widths)
    # From the end inwards.
    if side == 1:
        profile, widths = profile[::-1], widths[::-1]
    count = max(2, round(OUTER * widths.size))
    last, inner = float(profile[0]), float(profile[count])
    length = float(0.5 * (widths[0] + widths[count]) + widths[1:count].sum())
    if last * float(widths.sum()) <= NEGLIGIBLE:
        return 0.0
    if last > TAIL * float(profile.max()) or inner <= last:
        return math.nan if last * float(widths.sum()) > 1e-9 else last * float(widths.sum())
    return last * length / math.log(inner / last)
