r"""Features :math:`F_k(\theta)` of laws: their values on grids and at points, moments, and combinations of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import call_user, real_array
from wgflow.compiled.lowrank import combine_rows, rows_dot
from wgflow.densities import Density
from wgflow.energies.nodes import at_nodes
from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import box_of, check_points, differences, need_function, values_at
from wgflow.grids import Grid

__all__ = ["Features"]


class Features:
    r"""Features of a user's own, known on grids, and at points where they are a function.

    Parameters
    ----------
    features : callable or array, shape (k, *grid.shape)
        A function of the coordinates that returns the k features, or their values at the cell centers.
    gradients : callable, optional
        Of the coordinates, returns shape (k, n_coordinates, n). By default differences of sixth order are taken, with a
        step of 0.005.
    """

    def __init__(self, features: Callable[..., Any] | np.ndarray, gradients: Callable[..., Any] | None = None):
        self.function = features if callable(features) else real_array(features, "features")
        if gradients is not None and not callable(gradients):
            raise InvalidType(f"gradients must be a function of the coordinates, got {type(gradients).__name__}")
        self._gradients = gradients
        self._last: tuple[Grid, np.ndarray] | None = None

    def on_grid(self, grid: Grid) -> np.ndarray:
        """Return the values at the cell centers of a grid, shape (k, grid.size); evaluated once for each grid."""
        if self._last is None or self._last[0] != grid:
            self._last = (grid, self._checked(grid))
        return self._last[1]

    def _checked(self, grid: Grid) -> np.ndarray:
        features: Any = self.function
        if callable(features):
            features = real_array(call_user(features, grid.mesh(), "features"), "features")
        if features.ndim == grid.ndim:
            features = features[None]
        if features.ndim != grid.ndim + 1 or features.shape[1:] != grid.shape:
            raise InvalidInput(f"features has shape {features.shape}; need (k, {', '.join(map(str, grid.shape))}): "
                               "one row of the grid's shape for each feature")
        if not np.isfinite(features).all():
            where = tuple(int(k) for k in np.argwhere(~np.isfinite(features))[0])
            raise InvalidInput(f"features is {features[where]} at {where} (feature, cell); it must be finite")
        return np.ascontiguousarray(features.reshape(len(features), grid.size))

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the values at points (n_coordinates, n), shape (k, n)."""
        need_function(self.function, "features")
        return np.ascontiguousarray(values_at(cast(Any, self.function), points, "features", (None,)))

    def moments(self, rho: Density | Atoms) -> np.ndarray:
        r"""Return the moments :math:`\int F_k\,d\rho`, shape (k,)."""
        if isinstance(rho, Atoms):
            return rows_dot(self.at(rho.points), rho.weights)
        return rows_dot(self.on_grid(rho.grid), at_nodes(rho).masses.ravel())

    def gradient(self, rho: Density | Atoms, points: np.ndarray, g: np.ndarray) -> np.ndarray:
        r"""Return the gradient of :math:`\sum_k g_k F_k` at points, of their shape; differences keep inside ``rho``."""
        points = check_points(rho, points)
        if self._gradients is None:
            return differences(lambda x: combine_rows(self.at(x), g), points, box_of(rho)[0])
        slopes = values_at(self._gradients, points, "gradients", (g.size, len(points)))
        return combine_rows(np.ascontiguousarray(slopes.reshape(g.size, -1)), g).reshape(points.shape)
