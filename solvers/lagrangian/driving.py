r"""Terms that change with time on the way of atoms: how long a step may be, and the work that they do.

Along a step from a to b, with m the law in its middle and C the terms that change with time, the work is

.. math:: \int_a^b \partial_t C(\rho_t, t)\,dt = C(\rho_m, b) - C(\rho_m, a)
          + \int_a^b \partial_t \bigl[C(\rho_t, t) - C(\rho_m, t)\bigr] dt ,

the integral by Gauss's rule with differences in time. Where atoms rest the first part is all of it, and exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.free_energy import FreeEnergy
from wgflow.flows import Flow

from .cloud import Cloud

__all__ = ["Driving"]

Array = NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(4)
#: Differences in time are taken over this part of a step.
SHARE = 1e-3
#: A step may miss this part of the law's width of what it cannot follow of terms that change with time.
UNFOLLOWED = 1e-4


class Driving:
    """The terms of a flow of atoms that change with time.

    Parameters
    ----------
    flow : Flow
    cloud : Cloud
    """

    def __init__(self, flow: Flow, cloud: Cloud):
        self.flow, self.cloud = flow, cloud
        self.terms = FreeEnergy([pair for pair in flow.energy.terms if pair[1].time_dependent])

    def longest(self, t: float, dt: float, points: Array) -> float:
        """Return the longest step up to dt from t that follows the terms."""
        drive = self.flow.drive
        if drive is None or drive.follows(t, dt):
            return dt
        return drive.longest(t, dt, UNFOLLOWED, points, lambda s, length: self.flow.elapsed(s, length) / length)

    def work(self, law_at: Callable[[float], Array], begin: float, end: float) -> float:
        """Return the work over a step, of the laws at times inside it."""
        first, last = self.flow.sides(begin)[1], self.flow.sides(end)[0]
        length, middle = end - begin, law_at(0.5 * (begin + end))
        total = self._energy(middle, last) - self._energy(middle, first)
        for node, weight in zip(NODES, WEIGHTS):
            t, half = begin + 0.5 * length * (1.0 + node), SHARE * length
            law = law_at(float(t))
            if not np.array_equal(law, middle):
                change = [self._energy(x, float(t + half)) - self._energy(x, float(t - half)) for x in (law, middle)]
                total += 0.5 * length * weight * (change[0] - change[1]) / (2.0 * half)
        return float(total)

    def jump(self, points: Array, t: float) -> float:
        """Return the work at a time at which the terms jump; 0 elsewhere."""
        before, after = self.flow.sides(t)
        return 0.0 if before == after else self._energy(points, after) - self._energy(points, before)

    def _energy(self, points: Array, t: float) -> float:
        return self.cloud.energy_of(points, t, self.terms)
