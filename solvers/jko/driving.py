r"""Terms that change with time, in steps of JKO.

A step minimizes the mean of the energy over its time, by the clock of time_scale,

.. math:: \bar F = \frac{1}{\tau} \int_{t_k}^{t_{k+1}} F(\cdot, t)\,s(t)\,dt,

by Gauss's rule with four nodes, so that no pulse inside it is passed over; steps are shortened until polynomials follow
the terms (`wgflow.energies.drives`). The scheme stays of first order, and a step obeys
:math:`\bar F(\rho_{k+1}) + W_2^2 / (2 \tau) \le \bar F(\rho_k)`. The rest of the change of F is the work of the terms:

.. math:: W_{k+1} - W_k = F(\rho_{k+1}, t_{k+1}) - F(\rho_k, t_k) - \bar F(\rho_{k+1}) + \bar F(\rho_k) .
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow
from wgflow.interactions.operators import InteractionOperator

__all__ = ["Driving", "same"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(4)
#: The part of the mass that a step may move without knowing.
UNFOLLOWED = 1e-3


class Driving:
    """The energy of a flow with terms that change with time."""

    def __init__(self, flow: Flow):
        self.flow = flow

    def longest(self, t: float, dt: float, masses: np.ndarray) -> float:
        """Return the longest step up to dt that follows the terms."""
        drive = self.flow.drive
        if drive is None or drive.follows(t, dt):
            return dt
        return drive.longest(t, dt, UNFOLLOWED, masses, lambda s, length: self.flow.elapsed(s, length) / length)

    def mean(self, t: float, end: float) -> EnergyOnGrid:
        """Return the mean of the energy over a step."""
        first, last = self.flow.sides(t)[1], self.flow.sides(end)[0]
        found = [(float(weight), self.flow.on_grid_at(min(max(
            self.flow.time_within(t, end - t, float(node)), first), last)))
            for node, weight in zip(0.5 * (1.0 + NODES), 0.5 * WEIGHTS)]
        potential = sum((weight * now.potential for weight, now in found), np.zeros(self.flow.grid.shape))
        factors: dict[int, tuple[float, InteractionOperator]] = {}
        for weight, now in found:
            for factor, operator in now.operators:
                known = factors.get(id(operator), (0.0, operator))[0]
                factors[id(operator)] = known + weight * factor, operator
        return replace(found[0][1], potential=potential, operators=list(factors.values()))

    def energy(self, masses: np.ndarray, t: float) -> float:
        """Return F at a time; after the jump, where the terms jump."""
        return self.flow.on_grid_at(self.flow.sides(t)[1]).energy(masses)


def same(first: EnergyOnGrid, second: EnergyOnGrid) -> bool:
    """Return whether two energies of a flow are one."""
    return np.array_equal(first.potential, second.potential) and (
        [(c, id(part)) for c, part in first.operators] == [(c, id(part)) for c, part in second.operators])
