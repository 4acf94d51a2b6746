r"""Free energies as sums of terms.

.. math:: F(\rho) = \beta^{-1} \int \rho \log(\rho / w) + \int V \rho + \tfrac12 \iint U \rho \rho

The factor 1/2 of the interaction is stated here and nowhere else (`FreeEnergy.assemble`, `Interaction.energy`).
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid, check_values, real_array

__all__ = ["Assembled", "Entropy", "FreeEnergy", "Potential", "Term"]

#: Smallest positive double: stands for an empty cell inside logarithms, so that m log m is 0 and never a NaN.
TINY = 5e-324
#: A jump of V across a periodic seam, relative to its largest jump between neighbors, that deserves a warning.
SEAM_RATIO = 10.0


class Term(ABC):
    """One term of a free energy. Terms add, and a number scales them: ``Entropy(4.0) + 2 * Potential(V)``."""

    @abstractmethod
    def energy(self, rho: Density) -> float:
        """Value of the term at a density."""

    @abstractmethod
    def first_variation(self, rho: Density) -> np.ndarray:
        """d(term)/d(rho) at the cell centers, an array of the grid's shape, up to a constant."""

    def __call__(self, rho: Density) -> float:
        return self.energy(rho)

    def __add__(self, other):
        return FreeEnergy([(1.0, self)]) + other

    def __radd__(self, other):
        return self if isinstance(other, numbers.Real) and other == 0 else NotImplemented  # the start of sum()

    def __mul__(self, factor):
        return FreeEnergy([(1.0, self)]) * factor

    __rmul__ = __mul__


class Entropy(Term):
    r"""The entropy :math:`\beta^{-1} \int \rho \log(\rho / w)` relative to the grid's reference measure w.

    It gives the diffusion :math:`\beta^{-1} \Delta \rho`.

    Parameters
    ----------
    beta : float
        Inverse temperature, > 0; infinity means no diffusion.

    Raises
    ------
    InvalidInput
        If beta is 0, negative or NaN.
    """

    def __init__(self, beta: float = 1.0):
        if isinstance(beta, (bool, str)) or not isinstance(beta, numbers.Real):
            raise InvalidType(f"beta must be a number, got {type(beta).__name__} {beta!r}")
        if beta == 0:
            raise InvalidInput("beta=0 means infinite diffusion; beta must be > 0 (infinity: no diffusion)")
        if not beta > 0:
            raise InvalidInput(f"beta={beta} must be > 0 (infinity: no diffusion)")
        self.beta: float = float(beta)

    def energy(self, rho: Density) -> float:
        return float((rho.masses * self.first_variation(rho)).sum())

    def first_variation(self, rho: Density) -> np.ndarray:
        if math.isinf(self.beta):
            return np.zeros(rho.grid.shape)
        return (np.log(np.maximum(rho.masses, TINY)) - rho.grid.log_reference) / self.beta

    def __repr__(self):
        return f"Entropy(beta={self.beta:g})"


class Potential(Term):
    r"""The potential energy :math:`\int V \rho`.

    Parameters
    ----------
    V : callable or array
        A vectorized function of the coordinates, one array for each axis, evaluated once for each grid at the cell
        centers; or its values there, an array of the grid's shape.
    """

    def __init__(self, V):
        if not callable(V):
            V = real_array(V, "V")
        self.V = V
        self._last: tuple[Grid, np.ndarray] | None = None

    def values(self, grid: Grid) -> np.ndarray:
        """V at the cell centers of a grid, finite, of the grid's shape; a read-only array."""
        if self._last is None or self._last[0] != grid:
            values = grid.evaluate(self.V, "V") if callable(self.V) else check_values(self.V, grid, "V")
            _warn_of_seams(values, grid)
            values.flags.writeable = False
            self._last = (grid, values)
        return self._last[1]

    def energy(self, rho: Density) -> float:
        return float((rho.masses * self.values(rho.grid)).sum())

    def first_variation(self, rho: Density) -> np.ndarray:
        return self.values(rho.grid)

    def __repr__(self):
        return f"Potential({getattr(self.V, '__name__', type(self.V).__name__)})"


@dataclass(frozen=True)
class Assembled:
    """A free energy as arrays on one grid: all that a solver sees.

    Attributes
    ----------
    grid : Grid
    diffusion : float
        beta^-1, the sum over the entropy terms.
    potential : array of shape ``grid.shape``
        V, the sum over the potentials.
    operators : list of (float, operator)
        Coefficient and operator of each interaction; ``operator.apply(masses)`` is U rho at the cell centers.
    internal : list of (float, InternalEnergy)
        Coefficient and term of each internal energy beside the entropy.
    """

    grid: Grid
    diffusion: float
    potential: np.ndarray
    operators: list = field(default_factory=list)
    internal: list = field(default_factory=list)

    def interaction(self, masses: np.ndarray) -> np.ndarray | None:
        """U rho at the cell centers, or None where no term interacts."""
        if not self.operators:
            return None
        total = None
        for factor, operator in self.operators:
            part = operator.apply(masses)
            if factor != 1.0:
                part = part * factor
            total = part if total is None else total + part
        return total

    @property
    def sweep_potential(self) -> np.ndarray:
        """V - beta^-1 log w: what drives the fluxes of linear diffusion, apart from the interaction."""
        if self.internal:
            raise InvalidInput(f"{self.internal[0][1]!r}: this solver knows linear diffusion only (Entropy); use "
                               "method=wgflow.JKO(tau=...) for nonlinear diffusion")
        if self.diffusion == 0 or self.grid.log_weight is None:
            return self.potential
        return self.potential - self.diffusion * self.grid.log_weight

    @property
    def energy_potential(self) -> np.ndarray:
        """V - beta^-1 log(w vol): the energy is sum m (this + U rho / 2 + beta^-1 log m) over cell masses m."""
        if self.diffusion == 0:
            return self.potential
        return self.potential - self.diffusion * self.grid.log_reference


class FreeEnergy(Term):
    """A sum of scaled terms; what ``+`` and ``*`` of terms give.

    Parameters
    ----------
    terms : sequence of (float, Term)
    """

    def __init__(self, terms):
        self.terms = tuple(terms)

    @property
    def beta(self) -> float:
        """Inverse temperature of the entropy terms together; infinity where there is none."""
        diffusion = self._diffusion()
        return 1.0 / diffusion if diffusion > 0 else math.inf

    def energy(self, rho: Density) -> float:
        return float(sum(factor * term.energy(rho) for factor, term in self.terms))

    def first_variation(self, rho: Density) -> np.ndarray:
        return sum((factor * term.first_variation(rho) for factor, term in self.terms), np.zeros(rho.grid.shape))

    def dissipation(self, rho: Density) -> float:
        r""":math:`\int \rho\,|\nabla\,\delta F/\delta\rho|^2`, formed from the finite-volume fluxes.

        It is the exact -dF/dt of the finite-volume equations at time_scale 1.
        """
        from wgflow.kernels.sweep import dissipation_rate

        parts = self.assemble(rho.grid)
        psi = parts.sweep_potential
        interaction = parts.interaction(rho.masses)
        if interaction is not None:
            psi = psi + interaction
        return dissipation_rate(rho.masses, psi, rho.grid, parts.diffusion)

    def assemble(self, grid: Grid) -> Assembled:
        """The terms as arrays on a grid, each user function evaluated once."""
        potential = np.zeros(grid.shape)
        operators, internal = [], []
        for factor, term in self.terms:
            if isinstance(term, Potential):
                with np.errstate(over="ignore", invalid="ignore"):
                    potential = potential + factor * term.values(grid)
            elif hasattr(term, "operator"):
                operators.append((factor, term.operator(grid)))
            elif hasattr(term, "energy_of"):
                term.check_grid(grid)
                internal.append((factor, term))
            elif not isinstance(term, Entropy):
                raise InvalidType(f"term {term!r}: solvers know Entropy, PowerEntropy, Potential and Interaction")
        if not np.isfinite(potential).all():
            raise InvalidInput("the sum of the potentials is not finite; scale them down")
        return Assembled(grid, self._diffusion(), potential, operators, internal)

    def _diffusion(self) -> float:
        return float(sum(factor / term.beta for factor, term in self.terms if isinstance(term, Entropy)))

    def __add__(self, other):
        if isinstance(other, FreeEnergy):
            return FreeEnergy(self.terms + other.terms)
        if isinstance(other, Term):
            return FreeEnergy((*self.terms, (1.0, other)))
        return NotImplemented

    def __mul__(self, factor):
        if isinstance(factor, bool) or not isinstance(factor, numbers.Real):
            return NotImplemented
        factor = float(factor)
        if not math.isfinite(factor):
            raise InvalidInput(f"factor={factor}: a term is scaled by a finite number")
        if factor < 0 and any(isinstance(term, Entropy) or hasattr(term, "energy_of") for _, term in self.terms):
            raise InvalidInput(f"factor={factor:g}: an entropy times a negative number is backward diffusion, "
                               "which has no solution; scale the other terms alone")
        return FreeEnergy([(factor * f, term) for f, term in self.terms])

    __rmul__ = __mul__

    def __repr__(self):
        return " + ".join(repr(t) if f == 1 else f"{f:g}*{t!r}" for f, t in self.terms) or "FreeEnergy([])"


def _warn_of_seams(values: np.ndarray, grid: Grid) -> None:
    import warnings

    from wgflow.errors import WGFlowWarning

    for axis in range(grid.ndim):
        if grid.periodic[axis]:
            seam = np.abs(np.take(values, 0, axis) - np.take(values, -1, axis)).max()
            inside = np.abs(np.diff(values, axis=axis)).max()
            if seam > SEAM_RATIO * inside:
                warnings.warn(f"V differs by {seam:.3g} across the seam of periodic axis {axis}, and by at most "
                              f"{inside:.3g} between other neighbors; is it periodic?", WGFlowWarning, stacklevel=4)
