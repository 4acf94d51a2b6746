"""Potential energies: an energy V for each point of the domain."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import check_values, real_array
from wgflow.densities import Density
from wgflow.energies.free_energy import Term
from wgflow.energies.nodes import at_nodes
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.gradients import check_points, check_seams, gradient_at, need_function, values_at
from wgflow.grids import Grid

from .free_energy import FreeEnergy

__all__ = ["Potential"]

#: Relative difference allowed between a cell's reference measure and the one that an energy requires: far below the
#: error of any grid, and far above rounding.
REFERENCE_TOLERANCE = 1e-8
#: Relative rounding of the logarithms of a reference measure (7e4 for r^9999), also after `error_estimates.coarser`.
LOG_ROUNDING = 1e-12
#: A jump of V across a periodic seam, relative to its largest jump between neighbors, that deserves a warning.
SEAM_RATIO = 10.0


class Potential(Term):
    r"""The potential energy :math:`\int V \rho`.

    Parameters
    ----------
    V : callable or array
        A vectorized function of the coordinates, one array for each axis, evaluated once for each grid at the cell
        centers; or its values there, an array of the grid's shape.
    gradient : callable, optional
        The gradient of V for methods that move points: of the coordinates, returns shape (n_coordinates, n). By
        default differences of sixth order are taken with a step of 0.005, accurate to about 12 digits if V varies on a
        scale of 1 (coordinates whose natural scale is far from 1 need the gradient).
    reference : callable, optional
        For reduced coordinates: a function of a grid that returns the logarithm of the reference measure's cell
        averages there, or None for Lebesgue measure. A sum with an entropy or another internal energy then refuses
        grids with a different reference measure, on which it would be a different energy.
    """

    EXAMPLE: ClassVar[str] = "Potential(lambda x: x**2 / 2)"

    def __init__(self, V, gradient=None, *, reference: Callable[[Grid], np.ndarray | None] | None = None):
        if not callable(V):
            V = real_array(V, "V")
            if V.ndim == 0:
                raise InvalidType(f"V={V:g}: need a function of the coordinates, or its values at the cell centers; a "
                                  "constant changes no flow")
        if gradient is not None and not callable(gradient):
            raise InvalidType(f"gradient must be a function of the coordinates, got {type(gradient).__name__}")
        if reference is not None and not callable(reference):
            raise InvalidType(f"reference must be a function of a grid, got {type(reference).__name__}")
        self.V, self._gradient, self._reference = V, gradient, reference
        self._last: tuple[Grid, np.ndarray] | None = None
        self._checked: tuple[Grid, bool] | None = None

    @property
    def reduced(self) -> bool:
        """Whether the potential is one of reduced coordinates, which have a reference measure of their own."""
        return self._reference is not None

    def values(self, grid: Grid) -> np.ndarray:
        """Return V at the cell centers of a grid, finite, of the grid's shape; a read-only array."""
        if self._last is None or self._last[0] != grid:
            values = grid.evaluate(self.V, "V") if callable(self.V) else check_values(self.V, grid, "V")
            if not callable(self.V):
                _warn_of_seams(values, grid)
            values.flags.writeable = False
            self._last = (grid, values)
        return self._last[1]

    def check_reference(self, grid: Grid, *, scaled: bool = True) -> None:
        """Refuse a grid whose reference measure is not the one of the coordinates.

        Parameters
        ----------
        grid : Grid
        scaled : bool
            Whether a constant factor is allowed: it adds a constant to an entropy, and changes other internal energies.

        Raises
        ------
        InvalidInput
            If the logarithms differ by more than 1e-8 (or than their rounding, where they are huge).
        """
        if self._reference is None or self._checked == (grid, scaled):
            return
        own, given = self._reference(grid), grid.log_weight
        wanted, found = (np.zeros(grid.shape) if log is None else log for log in (own, given))
        excess = found - wanted
        miss = float(np.ptp(excess) if scaled else np.abs(excess).max())
        if not miss <= max(REFERENCE_TOLERANCE, LOG_ROUNDING * max(np.abs(wanted).max(), np.abs(found).max())):
            places = [", ".join(f"{name}={c[k]:.4g}" for name, c, k in zip(grid.names, grid.centers, cell))
                      for cell in (np.unravel_index(i, grid.shape) for i in (excess.argmin(), excess.argmax()))]
            how = (f"from ({places[0]}) to ({places[1]}) its logarithm rises by {np.ptp(excess):.3g} more than it "
                   "should" if np.ptp(excess) > REFERENCE_TOLERANCE else f"its logarithm is off by "
                   f"{excess.flat[0]:.6g} everywhere, which changes internal energies other than the entropy")
            raise InvalidInput("log_weight: the entropy is relative to the reference measure of these reduced "
                               f"coordinates, and the grid has {'Lebesgue measure' if given is None else 'another one'}"
                               f": {how}; use model.grid(...), or model.weighted(grid) for cells of your own")
        self._checked = (grid, scaled)

    def check_grid(self, grid: Grid, energy: FreeEnergy) -> None:
        if energy.spreads:
            nonlinear = any(factor and term.spreads and not term.diffusion for factor, term in energy.terms)
            self.check_reference(grid, scaled=not nonlinear)

    def check_atoms(self, rho: Atoms) -> None:
        if callable(self.V):
            check_seams(self._at, rho, "V")

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        return EnergyOnGrid(grid, potential=self.values(grid))

    def energy(self, rho: Density | Atoms) -> float:
        if isinstance(rho, Atoms):
            return float((rho.weights * self._at(rho.points)).sum())
        rho = at_nodes(rho)
        return float((rho.masses * self.values(rho.grid)).sum())

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        return self._at(rho.points) if isinstance(rho, Atoms) else self.values(rho.grid)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        need_function(self.V, "V")
        return gradient_at(self._gradient, self._at, rho, check_points(rho, points), "gradient of V")

    def _at(self, points: np.ndarray) -> np.ndarray:
        need_function(self.V, "V")
        return values_at(self.V, points, "V")

    def __repr__(self):
        return f"Potential({getattr(self.V, '__name__', type(self.V).__name__)})"


def _warn_of_seams(values: np.ndarray, grid: Grid) -> None:
    for axis in range(grid.ndim):
        if grid.periodic[axis]:
            seam = np.abs(np.take(values, 0, axis) - np.take(values, -1, axis)).max()
            inside = np.abs(np.diff(values, axis=axis)).max()
            if seam > SEAM_RATIO * inside:
                warnings.warn(f"V differs by {seam:.3g} across the seam of periodic axis {axis}, and by at most "
                              f"{inside:.3g} between other neighbors; is it periodic?", WGFlowWarning, stacklevel=4)
