r"""Energies of moments, :math:`\Phi(\int F\,d\rho)`: risks of networks under any loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import check_flag
from wgflow.compiled.lowrank import combine_rows
from wgflow.densities import Density
from wgflow.energies.features import Features
from wgflow.energies.free_energy import Term
from wgflow.energies.moments_on_grid import MomentFunction, MomentsOnGrid
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.energies.term_checks import probe_densities
from wgflow.gradients import check_seams
from wgflow.grids import Grid

__all__ = ["MomentEnergy"]

#: Part of the weights of atoms by which they are changed where a function of their moments is checked.
TILT = 0.3


class MomentEnergy(Term):
    r"""A smooth function of moments of the law,

    .. math:: E(\rho) = \Phi(z), \quad z_k = \int F_k\,d\rho, \qquad
              \frac{\delta E}{\delta \rho}(\theta) = \sum_k \partial_k \Phi(z)\,F_k(\theta) .

    With :math:`\Phi(z) = \tfrac12 \sum_k s_k z_k^2` it is the interaction of low rank `LowRank`. The risk of a
    network under any loss, :math:`\frac1n \sum_k l(y_k, f_k)` with the outputs
    :math:`f_k = \int \sigma_*(x_k; \cdot)\,\rho`, is another.

    F falls at every step of `FiniteVolume`, of any length with ``scheme="midpoint"``, which freezes the discrete
    gradient :math:`\bar g` with :math:`\Phi(z') - \Phi(z) = \bar g \cdot (z' - z)`. JKO with
    inner="linearized", "back-and-forth" or "entropic", and `Lagrangian` take it, too. Where :math:`\Phi` is convex, F
    has one minimum, and `stationary` bounds the distance to it by the dual problem

    .. math:: \min F = \max_g\; -\Phi^*(g) - \frac1\beta \log \int e^{-\beta (V + \sum_k g_k F_k)} .

    Parameters
    ----------
    features : callable or array, shape (k, *grid.shape)
        A function of the coordinates, one array for each axis, that returns the k features F; or their values at the
        cell centers.
    value : callable
        :math:`\Phi`, of an array (k,) of moments, returns a number.
    gradient : callable
        :math:`\nabla \Phi`, returns shape (k,).
    hessian : callable, optional
        The second derivatives, shape (k, k), or (k,) for a diagonal matrix; for `stationary`. By default differences of
        the gradient.
    feature_gradients : callable, optional
        The gradients of the features for methods that move points: of the coordinates, returns shape
        (k, n_coordinates, n). By default differences of sixth order are taken, with a step of 0.005.
    convex : bool
        Whether :math:`\Phi` is convex.
    name : str
        What messages call it.

    Raises
    ------
    InvalidInput
        (when a solve starts) If on the way between two laws the gradient is not that of the value, or the function is
        not convex and said to be; if a shape is wrong.

    Examples
    --------
    The law whose mean and second moment are drawn to 1 and 2 by a loss that grows linearly:

    >>> import numpy as np
    >>> import wgflow as wg
    >>> target = np.array([1.0, 2.0])
    >>> pull = MomentEnergy(lambda x: np.array([x, x**2]), lambda z: np.sqrt(1 + (z - target)**2).sum(),
    ...                     lambda z: (z - target) / np.sqrt(1 + (z - target)**2))
    >>> grid = wg.Grid((-6, 6), cells=120)
    >>> sol = wg.solve(wg.Entropy(4.0) + pull, wg.Density.gaussian(grid, 0.0, 0.5), (0, 1))
    >>> bool(sol.certificate.ok and (np.diff(sol.history.energy) <= 1e-12).all())
    True
    """

    def __init__(
        self,
        features: Callable[..., Any] | np.ndarray,
        value: Callable[..., Any],
        gradient: Callable[..., Any],
        hessian: Callable[..., Any] | None = None,
        *,
        feature_gradients: Callable[..., Any] | None = None,
        convex: bool = True,
        name: str = "MomentEnergy(...)",
    ):
        self.features = Features(features, feature_gradients)
        self.phi = MomentFunction(value, gradient, hessian, check_flag("convex", convex))
        self.name = str(name)
        self._last: tuple[Grid, MomentsOnGrid] | None = None

    def moments(self, rho: Density | Atoms) -> np.ndarray:
        r"""Return :math:`z = \int F\,d\rho`, shape (k,)."""
        return self.features.moments(rho)

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        if self._last is None or self._last[0] != grid:
            features = self.features.on_grid(grid)
            found = MomentsOnGrid(features, self.phi, grid.shape, self.name)
            first, second = (found.moments(rho.masses) for rho in probe_densities(grid))
            self.phi.check(first, second)
            self._last = (grid, found)
        return EnergyOnGrid(grid, functionals=[(1.0, self._last[1])])

    def check_atoms(self, rho: Atoms) -> None:
        if not callable(self.features.function):
            return
        features = self.features.at(rho.points)
        others = rho.weights * (1.0 + TILT * np.sin(1.0 + np.arange(rho.size)))
        self.phi.check(features @ rho.weights, features @ others)
        if any(rho.periodic):
            for k in range(len(features)):
                check_seams(partial(self._feature, k), rho, f"features[{k}]")

    def _feature(self, k: int, points: np.ndarray) -> np.ndarray:
        return self.features.at(points)[k]

    def energy(self, rho: Density | Atoms) -> float:
        return self.phi.value(self.moments(rho))

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        g = self.phi.gradient(self.moments(rho))
        if isinstance(rho, Atoms):
            return combine_rows(self.features.at(rho.points), g)
        return combine_rows(self.features.on_grid(rho.grid), g).reshape(rho.grid.shape)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        return self.features.gradient(rho, points, self.phi.gradient(self.moments(rho)))

    def __repr__(self) -> str:
        return self.name
