"""The energy of a flow as arrays at any time, and the work that its change does on a law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.flows import Flow

__all__ = ["EnergyInTime", "work_of"]

#: Number of times whose energies are kept: both ends of a step, its eighth, quarters and middle, and one to spare.
KEPT = 8


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

    def before(self, t: float) -> EnergyOnGrid:
        """Return the energy at the end of a step: before the jump, where the energy jumps."""
        return self._at(self.flow.sides(t)[0]) if self.driven else self.flow.on_grid

    def at(self, t: float) -> EnergyOnGrid:
        """Return the energy at a time: after the jump, where the energy jumps."""
        return self._at(self.flow.sides(t)[1]) if self.driven else self.flow.on_grid

    def jumps(self, t: float) -> bool:
        """Return whether the energy jumps at a time."""
        return self.flow.drive is not None and t in self.flow.drive.jumps

    def _at(self, t: float) -> EnergyOnGrid:
        kept = self._kept.pop(t, None)
        if kept is None:
            kept = self.flow.on_grid_at(t)
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
        # The order is that of use: what has not been used for longest makes room.
        self._kept[t] = kept
        return kept

    def within(self, t: float, dt: float, share: float) -> EnergyOnGrid:
        """Return the energy inside a step, when a part of it by the clock of time_scale has passed."""
        if not self.driven:
            return self.flow.on_grid
        return self._at(self.flow.time_within(t, dt, share))


def work_of(weights: np.ndarray, laws: Sequence[np.ndarray], energies: Sequence[EnergyOnGrid]) -> float:
    r"""Return :math:`\sum_{ij} A_{ij} F_j(\rho_i)`, the work :math:`\int \partial_t F(\rho(t), t)\,dt` by a quadrature.

    The rows of A add up to 0, so that only what changes with time counts.

    Parameters
    ----------
    weights : array (laws, energies)
    laws : sequence of arrays
        Masses at some times of a step.
    energies : sequence of EnergyOnGrid
        With potentials, interactions and functions of moments that change with time, at some times of the step.
    """
    operators, factors = _changing(energies, "operators")
    functionals, shares = _changing(energies, "functionals")
    total = 0.0
    for row, masses in zip(weights, laws):
        used = [(weight, energy.potential) for weight, energy in zip(row, energies) if weight]
        if not used:
            continue
        total += float((masses * sum(weight * potential for weight, potential in used)).sum())
        for key, operator in operators.items():
            factor = float(row @ (factors[key] - factors[key][0]))
            if factor:
                total += 0.5 * factor * float((masses * operator.apply(masses)).sum())
        for key, term in functionals.items():
            factor = float(row @ (shares[key] - shares[key][0]))
            if factor:
                total += factor * term.energy(masses)
    return total


def _changing(energies: Sequence[EnergyOnGrid], name: str) -> tuple[dict[int, Any], dict[int, np.ndarray]]:
    """Return the operators, or functionals, of some energies, and the coefficient of each in each energy."""
    pairs = [getattr(energy, name) for energy in energies]
    found = {id(part): part for known in pairs for _, part in known}
    return found, {key: np.array([sum(c for c, part in known if id(part) == key) for known in pairs]) for key in found}
