r"""A free energy as arrays on one grid: all that a solver sees.

With the masses m of the cells (mass = density times volume) and the reference volumes v of the cells (volume times
weight of the grid) it is

.. math:: F(m) = \sum_i m_i\,[D \log (m_i / v_i) + V_i + \tfrac12 (U m)_i]
                 + \sum_k c_k\,E_k(m), \qquad
          \mu_i = D \log (m_i / v_i) + V_i + (U m)_i + \sum_k c_k\,\partial E_k / \partial m_i,

where the :math:`E_k` are internal energies other than the entropy, and functionals: smooth functions of moments
(`MomentsOnGrid`), and terms of the user's own. The chemical
potential mu is the derivative of F up to the constant D. Both are formed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from wgflow.compiled.compact import law_sums
from wgflow.energies.moments_on_grid import MomentsOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

if TYPE_CHECKING:
    from wgflow.interactions.operators import InteractionOperator

    from .internal_energies import InternalEnergy

__all__ = ["EnergyOnGrid", "Functional", "Weighed"]

#: Smallest positive double: stands for an empty cell inside logarithms, so that m log m is 0 and never a NaN.
TINY = 5e-324
NO_FIELD = np.empty(0)


class Weighed(NamedTuple):
    """What one look at the masses of cells tells.

    Attributes
    ----------
    energy : float
        F, or NaN where a mass is not finite.
    mass, least : float
        The sum and the smallest of the masses.
    logs : array or None
        D log m of each cell; None without diffusion.
    """

    energy: float
    mass: float
    least: float
    logs: np.ndarray | None


class Functional(Protocol):
    """Any other functional of the masses, known by its value and its derivative alone."""

    def energy(self, masses: np.ndarray) -> float:
        """Return the value at cell masses."""

    def first_variation(self, masses: np.ndarray) -> np.ndarray:
        """Return the derivative in each cell's mass, up to one constant."""


@dataclass(frozen=True)
class EnergyOnGrid:
    """A free energy as arrays on one grid; see the module's text for the formula.

    Attributes
    ----------
    grid : Grid
    diffusion : float
        D = beta^-1, the sum over the entropy terms.
    potential : array of shape ``grid.shape``
        V, the sum over the potentials.
    operators : sequence of (float, InteractionOperator)
        Coefficient and operator of each interaction; ``operator.apply(masses)`` is U m at the cell centers.
    internal : sequence of (float, InternalEnergy)
        Coefficient and term of each internal energy beside the entropy.
    functionals : sequence of (float, Functional)
        Coefficient of each further term, and the term as a function of cell masses.
    """

    grid: Grid
    diffusion: float = 0.0
    potential: np.ndarray = field(default_factory=lambda: np.zeros(()))
    operators: Sequence[tuple[float, InteractionOperator]] = ()
    internal: Sequence[tuple[float, InternalEnergy]] = ()
    functionals: Sequence[tuple[float, Functional]] = ()

    def plus(self, others: Sequence[tuple[float, EnergyOnGrid]]) -> EnergyOnGrid:
        """Return the sum of this energy and multiples of others on the same grid."""
        diffusion, potential = self.diffusion, self.potential
        operators, internal, functionals = [*self.operators], [*self.internal], [*self.functionals]
        with np.errstate(over="ignore", invalid="ignore"):
            for factor, other in others:
                diffusion = diffusion + factor * other.diffusion
                if other.potential.ndim or other.potential:
                    potential = potential + factor * other.potential
                operators += [(factor * c, part) for c, part in other.operators]
                internal += [(factor * c, part) for c, part in other.internal]
                functionals += [(factor * c, part) for c, part in other.functionals]
        return EnergyOnGrid(self.grid, diffusion, potential, operators, internal, functionals)

    def on(self, grid: Grid) -> EnergyOnGrid:
        """Return the same arrays on another grid of their shape, such as that of the centers of the cells."""
        return EnergyOnGrid(grid, self.diffusion, self.potential, self.operators, self.internal, self.functionals)

    # ---------------------------------------------------------------- values
    def energy(self, masses: np.ndarray, interaction: np.ndarray | None = None) -> float:
        """Return F of cell masses.

        Parameters
        ----------
        masses : array of shape ``grid.shape``
        interaction : array, optional
            U m, if it is known already.
        """
        return self.weigh(masses, self.interaction(masses) if interaction is None else interaction).energy

    def weigh(self, masses: np.ndarray, interaction: np.ndarray | None) -> Weighed:
        """Return F of cell masses, their sum, the smallest of them and their logarithms, given U m."""
        found = self._weighed(masses, interaction, 0.5)
        if not self.functionals:
            return found
        return found._replace(energy=found.energy + sum(factor * term.energy(masses)
                                                        for factor, term in self.functionals))

    def size_of_terms(self, masses: np.ndarray) -> float:
        """Return the sum of the absolute values of what is added up to F, up to interactions: it rounds like that."""
        sizes = np.abs(self.potential)
        if self.diffusion > 0:
            sizes = sizes + self.diffusion * (np.abs(np.log(np.maximum(masses, TINY)))
                                              + np.abs(self.grid.log_reference))
        with np.errstate(over="ignore", invalid="ignore"):
            return float((masses * sizes).sum())

    def frozen_energy(self, masses: np.ndarray, field: np.ndarray | None) -> float:
        """Return the energy with a fixed field W in place of interactions and functionals, which is convex in m."""
        return self._weighed(masses, field, 1.0).energy

    def _weighed(self, masses: np.ndarray, field: np.ndarray | None, share: float) -> Weighed:
        """Return the energy with a part of a field in place of interactions and functionals, and the rest."""
        if masses.size != self._flat_potential.size:
            raise ValueError(f"masses of {masses.size} cells on a grid of {self._flat_potential.size}")
        if field is not None and field.shape != masses.shape:
            field = np.broadcast_to(field, masses.shape)
        logs = np.empty(masses.shape if self.diffusion > 0 else 0)
        total, mass, least = law_sums(_flat(masses), self._flat_potential, NO_FIELD if field is None else _flat(field),
                                      share, float(self.diffusion), logs.ravel())
        for factor, term in self.internal:
            total += factor * term.energy_of(masses, self.grid)
        return Weighed(total, mass, least, logs if self.diffusion > 0 else None)

    def chemical_potential(self, masses: np.ndarray, field: np.ndarray | None = None) -> np.ndarray:
        """Return mu, the derivative of F in the mass of each cell up to the constant D; the `field` if it is known."""
        mu = self.psi(self.energy_potential, masses) if field is None else self.energy_potential + field
        if self.diffusion > 0:
            mu = mu + self.diffusion * np.log(np.maximum(masses, TINY))
        for factor, term in self.internal:
            mu = mu + factor * term.slope_of(masses, self.grid)
        return mu

    def interaction(self, masses: np.ndarray) -> np.ndarray | None:
        """Return U m at the cell centers, or None where no term interacts."""
        if not self.operators:
            return None
        total = None
        for factor, operator in self.operators:
            part = operator.apply(masses)
            if factor != 1.0:
                part = part * factor
            total = part if total is None else total + part
        return total

    def field(self, masses: np.ndarray, interaction: np.ndarray | None) -> np.ndarray | None:
        """Return what drives the law beside V and diffusion: U m (which is given) plus the functionals' derivatives.

        None where nothing does.
        """
        total = interaction
        for factor, term in self.functionals:
            part = factor * term.first_variation(masses)
            total = part if total is None else total + part
        return total

    def psi(self, potential: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Return a potential plus the `field` of cell masses."""
        field = self.field(masses, self.interaction(masses))
        return potential if field is None else potential + field

    # ---------------------------------------------------------------- parts
    @property
    def moves(self) -> bool:
        """Whether the field changes with the law."""
        return bool(self.operators or self.functionals)

    @property
    def opaque(self) -> list[tuple[float, Functional]]:
        """The functionals that are known by their value and their derivative alone."""
        return [pair for pair in self.functionals if not isinstance(pair[1], MomentsOnGrid)]

    @property
    def of_moments(self) -> list[tuple[float, MomentsOnGrid]]:
        """The functionals that are functions of moments."""
        return [(factor, term) for factor, term in self.functionals if isinstance(term, MomentsOnGrid)]

    @property
    def rough(self) -> bool:
        """Whether a kernel of the interaction is not smooth at 0, as far as that is known."""
        return any((operator.kernel is not None and not operator.kernel.smooth) or bool(operator.average)
                   for _, operator in self.operators)

    @cached_property
    def sweep_potential(self) -> np.ndarray:
        """V - D log w: what drives the fluxes of linear diffusion, apart from the field."""
        self.check_terms("linear diffusion", functionals=True)
        if self.diffusion == 0 or self.grid.log_weight is None:
            return self.potential
        return self.potential - self.diffusion * self.grid.log_weight

    @cached_property
    def energy_potential(self) -> np.ndarray:
        """V - D log v: the part of the chemical potential that does not depend on the masses."""
        if self.diffusion == 0:
            return self.potential
        return self.potential - self.diffusion * self.grid.log_reference

    @cached_property
    def _flat_potential(self) -> np.ndarray:
        """`energy_potential` of all cells, one after the other."""
        return _flat(np.broadcast_to(self.energy_potential, self.grid.shape))

    def check_terms(self, who: str, *, internal: bool = False, functionals: bool = False,
                    moments: bool = False) -> None:
        """Refuse the terms that a method does not know, by name, and say who serves them.

        Parameters
        ----------
        who : str
            The method, as the message is to call it.
        internal, functionals, moments : bool
            Whether it knows internal energies beside the entropy, functionals of the user's own, and among these
            functions of moments.

        Raises
        ------
        InvalidInput
        """
        if not (self.internal or self.functionals):
            return
        known = "Entropy, Potential and interactions" + (", PowerEntropy and InternalEnergy" if internal else "")
        known += ", and MomentEnergy" if moments else ""
        unknown = [] if functionals else self.opaque if moments else self.functionals
        if self.internal and not internal:
            raise InvalidInput(f"{self.internal[0][1]!r}: {who} knows {known} alone, and would leave this term out; "
                               "FiniteVolume() and JKO(tau=...) solve flows with nonlinear diffusion")
        if unknown:
            raise InvalidInput(f"{unknown[0][1]!r}: {who} knows {known} alone, and would leave this term out; "
                               "FiniteVolume(), and JKO with inner='linearized', 'back-and-forth' or 'entropic', "
                               "solve the flow of any term that has an energy and a first variation")


def _flat(values: np.ndarray) -> np.ndarray:
    """Return an array in one line that can be written to: compiled functions know one kind of array only."""
    flat = values.ravel()
    return flat if flat.flags.writeable else flat.copy()
