"""The energy of a flow as arrays at any time; the same arrays at all times if it does not change."""

from __future__ import annotations

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow

__all__ = ["EnergyInTime"]

#: Number of times whose energies are kept: the middle and the end of a step, and of each half of a doubled step.
KEPT = 6


class EnergyInTime:
    """The energy of a flow at any time; the last few are kept.

    Attributes
    ----------
    driven : bool
        Whether it changes with time.
    """

    def __init__(self, flow: Flow):
        self.flow, self.driven = flow, flow.energy.time_dependent
        self._kept: dict[float, EnergyOnGrid] = {}

    def at(self, t: float) -> EnergyOnGrid:
        """Return the energy at a time."""
        if not self.driven:
            return self.flow.on_grid
        if t not in self._kept:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[t] = self.flow.on_grid_at(t)
        return self._kept[t]
