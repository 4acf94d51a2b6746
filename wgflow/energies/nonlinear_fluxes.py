"""Ingredients of the fluxes of nonlinear diffusion: the function H of an energy, and the edges of a grid's lines."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property

import numpy as np

from wgflow.compiled.nonlinear_sweep import STIFFEST, dissipation, power_law, reconstruct
from wgflow.energies.internal_energies import VACUUM, PowerEntropy, check_convex
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

__all__ = ["Diffusion", "Lines", "dissipation_rate"]

#: Reference volumes below this leave no digits for the density relative to them.
LEAST_VOLUME = 1e-280


class Diffusion:
    r"""The sum of the internal energies, :math:`H(r) = D r \log r + \sum_k c_k H_k(r)`, through its derivatives.

    Parameters
    ----------
    energy : EnergyOnGrid
    """

    def __init__(self, energy):
        self.entropy = energy.diffusion
        powers = [(factor * term.m, term.m - 1.0) for factor, term in energy.internal if isinstance(term, PowerEntropy)]
        self.factors, self.powers = np.array(powers, dtype=float).reshape(-1, 2).T.copy()
        self.others = [(factor, term) for factor, term in energy.internal
                       if not isinstance(term, PowerEntropy) and factor > 0]

    def evaluate(self, r: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return H', the pressure r H' - H, r H'' and H'' at densities r >= 0, shape (lines, n)."""
        r = np.maximum(r, VACUUM)
        slope, pressure, stiff, bend = np.empty((4, *r.shape))
        power_law(r, self.entropy, self.factors, self.powers, slope, pressure, stiff, bend)
        for factor, term in self.others:
            slope += factor * term.derivative(r)
            pressure += factor * term.pressure(r)
            second = term.second_derivative(r)
            second = factor * np.where(second >= 0, second, np.nan)
            stiff += second * r
            bend += second
        return slope, pressure, stiff, np.minimum(bend, STIFFEST) if self.others else bend

    def check(self, r: np.ndarray) -> None:
        """Refuse densities at which a user's H is not convex; Newton's method passes over them silently."""
        for _, term in self.others:
            check_convex(np.maximum(r, VACUUM), term.second_derivative(r), "H''")


class Lines:
    """The cells of a grid as lines along one axis, arrays of shape (lines, n), and the edges between them.

    Attributes
    ----------
    volumes : array, shape (lines, n)
        Volume times weight of each cell.
    conductances : array, shape (lines, edges)
        Area times weight of each edge over the distance of its cells, times the mobility there.
    """

    def __init__(self, grid: Grid, axis: int, mobility: np.ndarray | None = None):
        self.grid, self.axis, self.periodic = grid, axis, grid.periodic[axis]
        self.widths, self.distances = grid.widths[axis], grid.distances[axis]
        self.shape = np.moveaxis(np.empty(grid.shape, dtype=bool), axis, -1).shape
        area = self.lines(grid.volumes / grid.widths[axis].reshape([-1 if k == axis else 1 for k in range(grid.ndim)]))
        self.volumes = self.lines(np.exp(grid.log_reference))
        if not (self.volumes > LEAST_VOLUME).all() or not np.isfinite(self.volumes).all():
            low, high = grid.log_reference.min(), grid.log_reference.max()
            raise InvalidInput(f"log_weight: the logarithms of the cells' reference volumes run from {low:.4g} to "
                               f"{high:.4g}; with nonlinear diffusion they must lie between -640 and 700: add a "
                               "constant to log_weight, or start the axis farther from the origin")
        self.conductances = np.ascontiguousarray(area[:, :self.distances.size] / self.distances)
        if grid.log_weight is not None:
            self.conductances *= edge_weights(np.exp(self.lines(grid.log_weight)), self.periodic)
        if mobility is not None:
            a = self.lines(mobility)
            near, far = a[:, :self.distances.size], np.roll(a, -1, axis=1)[:, :self.distances.size]
            self.conductances *= 2.0 * near * far / (near + far)

    @cached_property
    def plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The factors of the plain scheme: ones."""
        ones = np.ones(self.conductances.shape)
        return ones, ones, ones

    def part(self, lines) -> Lines:
        """Return the fluxes on some of the lines."""
        part = copy(self)
        part.volumes, part.conductances = self.volumes[lines], self.conductances[lines]
        return part

    def lines(self, values: np.ndarray) -> np.ndarray:
        """Return an array of the grid's shape as lines, a new array."""
        return np.array(np.moveaxis(values, self.axis, -1), dtype=float, order="C").reshape(-1, self.shape[-1])

    def back(self, lines: np.ndarray) -> np.ndarray:
        """Return lines as an array of the grid's shape."""
        return np.ascontiguousarray(np.moveaxis(lines.reshape(self.shape), -1, self.axis))

    def factors(self, law: Diffusion, masses: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the factors of the reconstruction, for lines of masses and Psi."""
        r = masses / self.volumes
        up, down, phi = (np.empty(self.conductances.shape) for _ in range(3))
        reconstruct(r, *law.evaluate(r)[:2], psi, self.widths, self.distances, self.periodic, up, down, phi)
        return up, down, phi


def edge_weights(weights: np.ndarray, periodic: bool) -> np.ndarray:
    """Return the values at the edges of a density given by its cell averages w > 0, shape (lines, n).

    They are values of the cubic with the averages of four cells, exact for r, r^2 and r^3; where such a value does not
    lie between its two neighbors, as for steep weights, their geometric mean.
    """
    if periodic:
        wide = np.concatenate((weights[:, -1:], weights, weights[:, :2]), axis=1)
        middle = (7.0 * (wide[:, 1:-2] + wide[:, 2:-1]) - wide[:, :-3] - wide[:, 3:]) / 12.0
        low, high = wide[:, 1:-2], wide[:, 2:-1]
    else:
        low, high = weights[:, :-1], weights[:, 1:]
        middle = 0.5 * (low + high)
        if weights.shape[1] > 2:
            middle[:, 0] = (2.0 * weights[:, 0] + 5.0 * weights[:, 1] - weights[:, 2]) / 6.0
            middle[:, -1] = (2.0 * weights[:, -1] + 5.0 * weights[:, -2] - weights[:, -3]) / 6.0
        if weights.shape[1] > 3:
            middle[:, 1:-1] = (7.0 * (low + high)[:, 1:-1] - weights[:, :-3] - weights[:, 3:]) / 12.0
    inside = (middle >= np.minimum(low, high)) & (middle <= np.maximum(low, high))
    return np.where(inside, middle, np.sqrt(low) * np.sqrt(high))


def dissipation_rate(masses: np.ndarray, psi: np.ndarray, grid: Grid, law: Diffusion, corrected: bool = True,
                     mobility: Sequence[np.ndarray] | None = None) -> float:
    r"""Return :math:`\sum_{edges} flux \cdot (\mu_1 - \mu_2)`, mu = H' + Psi: -dF/dt of the semi-discrete equations."""
    total = 0.0
    for axis in range(grid.ndim):
        cells = Lines(grid, axis, None if mobility is None else mobility[axis])
        m, u = cells.lines(masses), cells.lines(psi)
        factors = cells.factors(law, m, u) if corrected else cells.plain
        r = m / cells.volumes
        total += float(dissipation(r, *law.evaluate(r)[:2], u, cells.conductances, *factors))
    return total
