"""Terms held against themselves: the energy that a solver uses, the term's own, and its first variation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wgflow.densities import Density
from wgflow.energies.on_grid import TINY
from wgflow.errors import InvalidInput, WGFlowError
from wgflow.grids import Grid

if TYPE_CHECKING:
    from wgflow.energies.free_energy import Term

__all__ = ["TermOnGrid", "check_term", "check_terms", "probe_densities"]

#: Relative difference at which two energies of one density are the same number.
SAME_ENERGY = 1e-9
#: Parts of the way between the two densities over which the energy is differenced; where it has a kink on one of them
#: the others decide.
DIFFERENCES = (1e-3, 1e-4, 1e-5)
#: Part of the size of the first variation by which a difference of energies may miss it.
SAME_SLOPE = 1e-4


class TermOnGrid:
    """A term as a functional of the masses of cells: each call makes a Density and asks the term.

    Parameters
    ----------
    term : Term
    grid : Grid
    """

    def __init__(self, term: Term, grid: Grid):
        self.term, self.grid = term, grid

    def energy(self, masses: np.ndarray) -> float:
        """Return the term's energy; infinite where the masses are no density."""
        if not _is_density(masses):
            return np.inf
        return float(self._ask("energy", self._density(masses)))

    def first_variation(self, masses: np.ndarray) -> np.ndarray:
        """Return the term's first variation, an array of the grid's shape; negative masses count as 0."""
        if not (np.isfinite(masses).all() and masses.max() > 0):
            return np.full(self.grid.shape, np.nan)
        values = np.asarray(self._ask("first_variation", self._density(np.maximum(masses, 0.0))), dtype=float)
        if values.shape != self.grid.shape:
            raise InvalidInput(f"{self.term!r}: first_variation returned shape {values.shape} on a grid of shape "
                               f"{self.grid.shape}; it must return one value for each cell")
        return values

    def _density(self, masses: np.ndarray) -> Density:
        return Density(self.grid, masses / self.grid.volumes)

    def _ask(self, name: str, rho: Density):
        try:
            return getattr(self.term, name)(rho)
        except (WGFlowError, MemoryError):
            raise
        except Exception as error:
            raise InvalidInput(f"{self.term!r}: {name} raised {type(error).__name__}: {error}; it is called with a "
                               "Density on the grid of the solve") from error

    def __repr__(self):
        return repr(self.term)


def check_terms(terms: Sequence[Term], grid: Grid) -> None:
    """Hold each term of a class that is not wgflow's own against itself."""
    for term in terms:
        if not type(term).__module__.startswith("wgflow."):
            check_term(term, grid)


def check_term(term: Term, grid: Grid) -> None:
    r"""Raise InvalidInput unless a term's three faces agree on a grid.

    On two densities :math:`\rho, \sigma` the energy of ``term.on_grid(grid)``, which solvers use, must be
    ``term.energy``, and

    .. math:: \frac{E(\rho + s (\sigma - \rho)) - E(\rho - s (\sigma - \rho))}{2 s}
              \approx \int \frac{\delta E}{\delta \rho}\,d(\sigma - \rho)

    with ``term.first_variation``, for one of three s at least.
    """
    on_grid = term.on_grid(grid)
    own = TermOnGrid(term, grid)
    rho, sigma = probe_densities(grid)
    for law in (rho, sigma):
        used, told = on_grid.energy(law.masses), own.energy(law.masses)
        if not abs(used - told) <= SAME_ENERGY * max(1.0, abs(told)):
            raise InvalidInput(f"{term!r}: solvers would use the energy {used:.9g} for a density whose term.energy is "
                               f"{told:.9g}; on_grid, or what it inherits, does not belong to energy")
    change = sigma.masses - rho.masses
    slope = own.first_variation(rho.masses)
    if not np.isfinite(slope).all():
        raise InvalidInput(f"{term!r}: first_variation is not finite at a positive density; it must be")
    expected = float((slope * change).sum())
    size = float((np.abs(slope - np.median(slope)) * np.abs(change)).sum())
    size += SAME_ENERGY * abs(own.energy(rho.masses)) + TINY
    quotients = [(own.energy(rho.masses + s * change) - own.energy(rho.masses - s * change)) / (2 * s)
                 for s in DIFFERENCES]
    if not min(abs(q - expected) for q in quotients) <= SAME_SLOPE * size:
        raise InvalidInput(f"{term!r}: from one density to another its energy changes at the rate {quotients[1]:.6g}, "
                           f"its first_variation says {expected:.6g}; first_variation must be the derivative of energy")
    difference = on_grid.chemical_potential(rho.masses) - slope
    if not np.ptp(difference) <= SAME_SLOPE * max(float(np.ptp(slope)), TINY) + SAME_ENERGY:
        raise InvalidInput(f"{term!r}: solvers would use another first variation than term.first_variation, by up to "
                           f"{np.ptp(difference):.3g}; on_grid does not belong to first_variation")


def probe_densities(grid: Grid) -> tuple[Density, Density]:
    """Return two positive densities of mass 1 that differ everywhere: smooth waves over the grid's cells."""
    waves = [np.zeros(grid.shape), np.zeros(grid.shape)]
    for axis, n in enumerate(grid.shape):
        shape = [-1 if k == axis else 1 for k in range(grid.ndim)]
        x = ((np.arange(n) + 0.5) / n).reshape(shape)
        waves[0] = waves[0] + np.cos(2 * np.pi * x + 0.4 + axis)
        waves[1] = waves[1] + np.sin(2 * np.pi * x - 0.7 * axis) + 0.5 * np.cos(6 * np.pi * x)
    first, second = (Density.from_values(grid, np.exp(0.5 * wave), normalize=True) for wave in waves)
    return first, second


def _is_density(masses: np.ndarray) -> bool:
    return bool(np.isfinite(masses).all() and masses.min() >= 0 and masses.sum() > 0)
