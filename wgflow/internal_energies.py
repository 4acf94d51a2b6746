"""Internal energies beside the entropy: nonlinear diffusion."""

from __future__ import annotations

import math
import numbers
import warnings
from abc import abstractmethod

import numpy as np

from wgflow.densities import Density
from wgflow.energies import Term
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.grids import Grid

__all__ = ["InternalEnergy", "PowerEntropy"]


class InternalEnergy(Term):
    r"""An internal energy :math:`\int H(\rho / w)\,w\,d\theta` with H convex and w the grid's reference measure.

    A subclass gives ``H`` and its derivatives as functions of the density :math:`r = \rho / w \ge 0`; the rest derives
    from them. On a grid without weight, :math:`r` is the density itself.
    """

    @abstractmethod
    def H(self, r) -> np.ndarray:
        """H at densities r >= 0."""

    @abstractmethod
    def derivative(self, r) -> np.ndarray:
        """H' at densities r >= 0."""

    @abstractmethod
    def second_derivative(self, r) -> np.ndarray:
        """H'' at densities r >= 0."""

    @abstractmethod
    def inverse_derivative(self, p) -> np.ndarray:
        r"""The density at which H' is p; 0 where p lies below H'(0), and infinity where p lies above all of H'.

        It is the derivative of the conjugate :math:`H^*(p) = \sup_{r \ge 0} (p r - H(r))`.
        """

    def conjugate(self, p) -> np.ndarray:
        r""":math:`H^*(p) = \sup_{r \ge 0} (p r - H(r))`; infinity where the supremum is."""
        p = np.asarray(p, dtype=float)
        r = self.inverse_derivative(p)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(np.isfinite(r), p * r - self.H(r), math.inf)

    def energy(self, rho: Density) -> float:
        _need_density(rho)
        return self.energy_of(rho.masses, rho.grid)

    def first_variation(self, rho: Density) -> np.ndarray:
        _need_density(rho)
        return self.derivative(relative_density(rho.masses, rho.grid))

    def energy_of(self, masses: np.ndarray, grid: Grid) -> float:
        """The energy of cell masses on a grid."""
        r = relative_density(masses, grid)
        with np.errstate(over="ignore", invalid="ignore"):
            return float((self.H(r) * np.exp(grid.log_reference)).sum())

    def check_grid(self, grid: Grid) -> None:
        """Warn where the energy makes no sense on a grid."""


class PowerEntropy(InternalEnergy):
    r"""The energy :math:`\int H(\rho/w)\,w` with :math:`H(r) = \dfrac{r^m}{m - 1}`, which gives nonlinear diffusion.

    The flow of it alone is :math:`\partial_t \rho = \Delta \rho^m`: the porous medium equation for m > 1 (fronts move
    at finite speed), fast diffusion for 0 < m < 1 (algebraic tails). As :math:`m \to 1` it tends to the heat equation,
    which is `Entropy`.

    In reduced coordinates :math:`\rho/w` is the density up to the constant that the weight leaves out (the area of the
    unit sphere, for a radius): unlike the entropy, a power feels it. Put it into ``log_weight``, or scale the term by
    area^(1 - m).

    Parameters
    ----------
    m : float
        The exponent, > 0 and not 1.

    Raises
    ------
    InvalidInput
        If m is 1, not positive or not finite.

    Examples
    --------
    >>> grid = Grid([(0, 1)], cells=4)
    >>> PowerEntropy(2.0)(Density.uniform(grid))
    1.0
    """

    m: float

    def __init__(self, m: float):
        if isinstance(m, (bool, np.bool_)) or not isinstance(m, numbers.Real):
            raise InvalidType(f"m must be a number, got {type(m).__name__} {m!r}")
        if m == 1:
            raise InvalidInput("m=1 is the entropy, for which r^m/(m-1) is not defined; use Entropy(beta)")
        if not (math.isfinite(m) and m > 0):
            raise InvalidInput(f"m={m:g}: the exponent of PowerEntropy must be finite, > 0 and not 1")
        self.m = float(m)

    def H(self, r) -> np.ndarray:
        return np.power(r, self.m) / (self.m - 1.0)

    def derivative(self, r) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return self.m / (self.m - 1.0) * np.power(r, self.m - 1.0)

    def second_derivative(self, r) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return self.m * np.power(r, self.m - 2.0)

    def energy_of(self, masses: np.ndarray, grid: Grid) -> float:
        # m H(r)/r by logarithms: r and the reference volume may lie outside the floats' range.
        filled = masses > 0
        log_r = np.log(masses[filled]) - grid.log_reference[filled]
        with np.errstate(over="ignore"):
            return float((masses[filled] * np.exp((self.m - 1.0) * log_r)).sum()) / (self.m - 1.0)

    def inverse_derivative(self, p) -> np.ndarray:
        p = np.asarray(p, dtype=float)
        with np.errstate(divide="ignore", over="ignore"):
            base = np.maximum((self.m - 1.0) / self.m * p, 0.0)
            return np.power(base, 1.0 / (self.m - 1.0))

    def check_grid(self, grid: Grid) -> None:
        critical = (grid.ndim - 2) / grid.ndim
        if self.m <= critical:
            warnings.warn(f"m={self.m:g} on {grid.ndim} axes: below m_c = {critical:g} fast diffusion loses mass to "
                          "infinity in the whole space; only the walls of the box hold it", WGFlowWarning, stacklevel=2)

    def __repr__(self):
        return f"PowerEntropy(m={self.m:g})"


def relative_density(masses: np.ndarray, grid: Grid) -> np.ndarray:
    """The density relative to the grid's reference measure, from cell masses; formed by logarithms on weighted grids.

    A weight such as r^319 makes it overflow where mass lies near the origin: infinity there, never a NaN.
    """
    if grid.log_weight is None:
        return masses / grid.volumes
    with np.errstate(divide="ignore", over="ignore"):
        return np.exp(np.log(masses) - grid.log_reference)


def edge_dissipation(masses: np.ndarray, mu: np.ndarray, grid: Grid) -> float:
    r""":math:`\int \rho |\nabla \mu|^2` from differences of mu between neighboring cells that both hold mass."""
    total = 0.0
    for axis in range(grid.ndim):
        m, u = (np.moveaxis(a, axis, -1) for a in (masses, mu))
        if grid.periodic[axis]:
            m, u = (np.concatenate((a, a[..., :1]), axis=-1) for a in (m, u))
        both = (m[..., 1:] > 0) & (m[..., :-1] > 0)
        with np.errstate(invalid="ignore"):
            rate = 0.5 * (m[..., 1:] + m[..., :-1]) * ((u[..., 1:] - u[..., :-1]) / grid.distances[axis]) ** 2
        total += float(rate[both].sum())
    return total


def _need_density(rho) -> None:
    if not isinstance(rho, Density):
        raise InvalidInput(f"an internal energy is finite for densities only, got {type(rho).__name__}; put the atoms "
                           "on a grid with Density.from_samples(grid, points, weights=weights)")
