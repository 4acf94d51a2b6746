r"""Empty tails of a law on a line in Newton's method: the map is continued into them, linearly.

Beyond the levels at which next to no mass is left (`LEVEL`) the equations of a step say nothing in floating point: the
images of the faces there move mass below rounding errors, but in exponentials, so that a small error of a slope takes
many iterations back. There the ends y of the faces go on linearly from inside. With them the pressure is known,

.. math:: p' = (y - x) / \tau, \qquad q = p - V - U \rho,

and the cells leave the iteration; their masses are kept, and none is negative. A slope q is at least that of a mass far
below rounding, so that the map takes whatever is left in a tail down a steep V.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.linearized import internal_slopes
from wgflow.compiled.remap import ends_of_levels

if TYPE_CHECKING:
    from .stage import Stage

__all__ = ["Tails"]

#: Part of the mass beyond which a tail counts as empty.
LEVEL = 1e-13
#: The slope of the map there is that between this level and the other.
INSIDE = 1e-12
#: Least number of faces between which that slope is taken.
FACES = 4
#: Part of the mass that the cells together hold at least, as slopes.
LEAST_MASS = 1e-22


class Tails:
    """The tails of the law from which a step starts, on a line with two ends.

    Parameters
    ----------
    stage : Stage
        The equations of the step.
    """

    def __init__(self, stage: Stage):
        self.stage, solver, row = stage, stage.solver, stage.row
        levels = np.array([LEVEL, INSIDE]) * stage.total
        self.left = _below(levels, row, stage.exact.edges[0], stage.density)
        self.right = -_below(levels, row[::-1], -stage.exact.edges[0][::-1], stage.density[::-1])
        volumes = stage.grid.volumes.ravel()
        self.least, rest = np.empty((2, row.size))
        internal_slopes(volumes * (LEAST_MASS * stage.total / volumes.sum()), solver.log_reference, 0.0, solver.terms,
                        self.least, rest)

    def continued(self, unknown: np.ndarray, ends: np.ndarray, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return slopes q and ends with those in the tails replaced; ``field`` is V + U rho."""
        n, x, distances = unknown.size, self.stage.exact.edges[0], self.stage.grid.distances[0]
        low, high = np.flatnonzero(ends[1:n] <= self.left[0]), np.flatnonzero(ends[1:n] >= self.right[0])
        # The first and the last face that count.
        a, b = int(low[-1]) + 2 if low.size else 1, int(high[0]) if high.size else n - 1
        if b - a < 4 * FACES or (a == 1 and b == n - 1):
            return unknown, ends
        inside = ends[a:b + 1]
        c = min(a + max(FACES, int(np.count_nonzero(inside < self.left[1]))), b)
        d = max(b - max(FACES, int(np.count_nonzero(inside > self.right[1]))), a)
        pressure, images = unknown + field, ends.copy()
        for face, inner, outside in ((a, c, slice(1, a)), (b, d, slice(b + 1, n))):
            slope = max((ends[inner] - ends[face]) / (x[inner] - x[face]), 0.0)
            images[outside] = ends[face] + slope * (x[outside] - x[face])
        np.clip(images, x[0], x[-1], out=images)
        rises = distances * (images[1:n] - x[1:n]) / self.stage.tau
        pressure[:a - 1] = pressure[a - 1] - np.cumsum(rises[a - 2::-1])[::-1] if a > 1 else pressure[:0]
        pressure[b + 1:] = pressure[b] + np.cumsum(rises[b:])
        slopes = unknown.copy()
        for outside in (slice(0, a - 1), slice(b + 1, n)):
            slopes[outside] = np.maximum(pressure[outside] - field[outside], self.least[outside])
        found = np.clip(self.stage.ends(slopes + field), x[0], x[-1])
        images[1:a], images[b + 1:n] = found[1:a], found[b + 1:n]
        return slopes, images


def _below(levels: np.ndarray, masses: np.ndarray, edges: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return the points below which masses of given levels lie."""
    row, ends = np.ascontiguousarray(masses), np.empty(levels.size)
    ends_of_levels(levels, row, np.ascontiguousarray(edges), np.ascontiguousarray(density),
                   np.append(0.0, np.cumsum(row)), ends)
    return ends
