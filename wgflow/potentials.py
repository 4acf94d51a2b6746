"""Potential energies: what each point pays for where it is."""

from __future__ import annotations

import warnings

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import check_values, real_array
from wgflow.densities import Density
from wgflow.energies import Term
from wgflow.energy_on_grid import EnergyOnGrid
from wgflow.errors import InvalidType, WGFlowWarning
from wgflow.gradients import check_points, gradient_at, need_function, values_at
from wgflow.grids import Grid

__all__ = ["Potential"]

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
        default differences of sixth order are taken with a step of 0.005, right to about 12 digits where V varies on a
        scale of 1 (coordinates whose natural scale is far from 1 need the gradient).
    """

    def __init__(self, V, gradient=None):
        if not callable(V):
            V = real_array(V, "V")
        if gradient is not None and not callable(gradient):
            raise InvalidType(f"gradient must be a function of the coordinates, got {type(gradient).__name__}")
        self.V, self._gradient = V, gradient
        self._last: tuple[Grid, np.ndarray] | None = None

    def values(self, grid: Grid) -> np.ndarray:
        """V at the cell centers of a grid, finite, of the grid's shape; a read-only array."""
        if self._last is None or self._last[0] != grid:
            values = grid.evaluate(self.V, "V") if callable(self.V) else check_values(self.V, grid, "V")
            _warn_of_seams(values, grid)
            values.flags.writeable = False
            self._last = (grid, values)
        return self._last[1]

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        return EnergyOnGrid(grid, potential=self.values(grid))

    def energy(self, rho: Density | Atoms) -> float:
        if isinstance(rho, Atoms):
            return float((rho.weights * self._at(rho.points)).sum())
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
