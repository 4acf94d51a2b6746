r"""Free energies as sums of terms.

.. math:: F(\rho) = \beta^{-1} \int \rho \log(\rho / w) + \int V \rho + \tfrac12 \iint U \rho \rho

The factor 1/2 of the interaction is stated in `EnergyOnGrid` and in the interactions' own energy, and nowhere else.
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import check_real, described
from wgflow.contracts import Contract
from wgflow.densities import Density
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.energies.term_checks import TermOnGrid, check_terms
from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import check_points
from wgflow.grids import Grid
from wgflow.uphill import uphill

if TYPE_CHECKING:
    from wgflow.energies.mobility import Mobility

__all__ = ["FreeEnergy", "Term", "not_an_energy"]


class Term(Contract):
    r"""One term E of a free energy. Terms add, and a number scales them: ``Entropy(4.0) + 2 * Potential(V)``.

    A subclass gives `energy` and `first_variation`,

    .. math:: E(\rho), \qquad \frac{\delta E}{\delta \rho}(\theta; \rho)
              = \frac{d}{ds}\Big|_{s=0} E(\rho + s \delta_\theta) \quad\text{up to a constant},

    and its flow can be solved: by `FiniteVolume`, which checks at every step that F falls, and by the JKO solvers that
    take any functional. That the two belong together is checked on two densities when a solve starts. A law is a
    `Density` on a grid or `Atoms`, weighted points, which have no internal energy.

    Examples
    --------
    A crowding energy, the cube of the density averaged over a neighborhood:

    >>> import numpy as np
    >>> import wgflow as wg
    >>> class Crowding(wg.Term):
    ...     def average(self, rho):
    ...         x = rho.grid.centers[0]
    ...         return np.exp(-(x[:, None] - x) ** 2 / 0.18) @ rho.masses
    ...     def energy(self, rho):
    ...         return float((self.average(rho) ** 3 * rho.grid.volumes).sum() / 3)
    ...     def first_variation(self, rho):
    ...         x = rho.grid.centers[0]
    ...         return np.exp(-(x[:, None] - x) ** 2 / 0.18) @ (self.average(rho) ** 2 * rho.grid.volumes)
    >>> grid = wg.Grid((-3, 3), cells=60)
    >>> sol = wg.solve(wg.Entropy(4.0) + Crowding(), wg.Density.gaussian(grid, 0.0, 0.2), (0, 0.1))
    >>> bool(abs(sol.energy[-1] - sol.free_energy(sol.final)) < 1e-12)
    True
    """

    #: Whether the term is an internal energy, int H(rho), which atoms do not have.
    is_internal: bool = False
    #: The coefficient of the Laplacian that the term gives: 1 / beta for an entropy.
    diffusion: float = 0.0

    @abstractmethod
    def energy(self, rho: Density | Atoms) -> float:
        """Return the value of the term at a law."""

    @abstractmethod
    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        """Return d(term)/d(rho) at the cell centers, of the grid's shape, or at the atoms, up to a constant."""

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        """Return the gradient of the first variation at points, both of shape (n_coordinates, n); without entropies.

        Methods that move points need it.

        Raises
        ------
        InvalidInput
            If the term is known at the centers of cells alone, or is not finite at a point.
        """
        raise InvalidInput(f"{self!r} has no gradient at points")

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        """Return the term as arrays on a grid: by default a functional, known by its value and its derivative."""
        return EnergyOnGrid(grid, functionals=[(1.0, TermOnGrid(self, grid))])

    def check_grid(self, grid: Grid, energy: FreeEnergy) -> None:
        """Refuse a grid on which the term makes no sense as a part of an energy; by default none."""

    def check_atoms(self, rho: Atoms) -> None:
        """Refuse atoms on whose coordinates the term makes no sense; by default none."""

    @property
    def spreads(self) -> bool:
        """Whether the term is an internal energy that spreads the law."""
        return self.is_internal

    @property
    def time_dependent(self) -> bool:
        """Whether the term changes with time (see `TimeDependent`)."""
        return False

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Times at which the term jumps."""
        return ()

    def at(self, t: float) -> Term:
        """Return the term as it is at a time: itself, unless it changes with time."""
        return self

    #: NumPy leaves ``array * term`` to the term, which refuses it, and does not make an array of terms.
    __array_ufunc__ = None

    def __call__(self, rho: Density | Atoms) -> float:
        return self.energy(_checked_law(rho))

    def __add__(self, other: Term) -> FreeEnergy:
        return FreeEnergy([(1.0, self)]) + other

    def __radd__(self, other: float) -> Term:
        if isinstance(other, numbers.Real) and other == 0:
            return self  # the start of sum()
        raise _not_a_term(other)

    def __sub__(self, other: Term) -> FreeEnergy:
        return self + (-1.0) * _checked_term(other)

    def __rsub__(self, other: object) -> FreeEnergy:
        raise _not_a_term(other)

    def __neg__(self) -> FreeEnergy:
        return self * -1.0

    def __mul__(self, factor: float) -> FreeEnergy:
        return FreeEnergy([(1.0, self)]) * factor

    __rmul__ = __mul__

    def __repr__(self):
        return f"{type(self).__name__}(...)"


class FreeEnergy(Term):
    """A sum of scaled terms; what ``+``, ``-`` and ``*`` of terms give.

    Parameters
    ----------
    terms : sequence of (float, Term)
    """

    def __init__(self, terms: Sequence[tuple[float, Term]]):
        self.terms = tuple(terms)

    @property
    def beta(self) -> float:
        """Inverse temperature of the entropy terms together; infinity where there is none."""
        diffusion = sum(factor * term.diffusion for factor, term in self.terms)
        return 1.0 / diffusion if diffusion > 0 else math.inf

    @property
    def is_internal(self) -> bool:  # type: ignore[override]
        """Whether every term is an internal energy."""
        return bool(self.terms) and all(term.is_internal for _, term in self.terms)

    @property
    def spreads(self) -> bool:
        """Whether an internal energy spreads the law: an entropy at finite beta, or any other."""
        return any(factor and term.spreads for factor, term in self.terms)

    @cached_property
    def time_dependent(self) -> bool:  # type: ignore[override]
        """Whether a term changes with time."""
        return any(term.time_dependent for _, term in self.terms)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Times at which a term jumps, in order."""
        return tuple(sorted({t for _, term in self.terms for t in term.breakpoints}))

    def at(self, t: float) -> FreeEnergy:
        """The free energy as it is at a time."""
        if not self.time_dependent:
            return self
        pairs: list[tuple[float, Term]] = []
        for factor, term in self.terms:
            now = term.at(t)
            pairs += [(factor * f, part) for f, part in now.terms] if isinstance(now, FreeEnergy) else [(factor, now)]
        return FreeEnergy(pairs)

    def energy(self, rho: Density | Atoms) -> float:
        """F; of atoms, whose entropy is infinite, the sum of the other terms."""
        _checked_law(rho)
        return float(sum(factor * term.energy(rho) for factor, term in self._parts_of(rho)))

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        """dF/d(rho) at the cell centers; at atoms its part without the entropy, Psi."""
        _checked_law(rho)
        shape = rho.weights.shape if isinstance(rho, Atoms) else rho.grid.shape
        return sum((factor * term.first_variation(rho) for factor, term in self._parts_of(rho)), np.zeros(shape))

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        r""":math:`\nabla \Psi` at points, both of shape (n_coordinates, n): the first variation without entropies."""
        points = check_points(rho, points)
        return sum((factor * term.gradient(rho, points) for factor, term in self.terms if not term.is_internal),
                   np.zeros(points.shape))

    def dissipation(self, rho: Density | Atoms, mobility: Mobility | None = None) -> float:
        r"""Return :math:`\int \rho\,\nabla\mu\cdot A\,\nabla\mu`, mu = dF/drho, formed from the finite-volume fluxes.

        It is the exact -dF/dt of the finite-volume equations at time_scale 1. For atoms it is
        :math:`\sum_i w_i |\nabla \Psi(\theta_i)|^2` without the components that press an atom against its bounds:
        the exact -dF/dt of the characteristics. With an entropy atoms have no dissipation (InvalidInput). A is 1
        without a ``mobility``.
        """
        return uphill("wgflow.energies.dissipation", "dissipation")(self, _checked_law(rho), mobility)

    def assemble(self, grid: Grid, *, check: bool = True) -> EnergyOnGrid:
        """Return the terms as arrays on a grid, each user function evaluated once.

        Terms of classes that wgflow does not know are compared with themselves: the energy that a solver will use with
        ``term.energy`` on two densities, and ``term.first_variation`` with differences of it (unless ``check`` is
        False, for energies that have been checked already).

        Raises
        ------
        InvalidInput
            If a term does not fit the grid, changes with time (take ``energy.at(t)``), or disagrees with itself.
        """
        total = self.added_to(EnergyOnGrid(grid, potential=np.zeros(grid.shape)), self)
        if check:
            check_terms([term for _, term in self.terms], grid)
        return total

    def added_to(self, rest: EnergyOnGrid, whole: FreeEnergy) -> EnergyOnGrid:
        """Return an energy on a grid plus these terms, parts of a whole of which the terms may refuse the grid."""
        self.check_grid(rest.grid, whole)
        moving = next((term for _, term in self.terms if term.time_dependent), None)
        if moving is not None:
            raise InvalidInput(f"{moving!r} changes with time; take energy.at(t)")
        total = rest.plus([(factor, term.on_grid(rest.grid)) for factor, term in self.terms])
        if not np.isfinite(total.potential).all():
            raise InvalidInput("the sum of the potentials is not finite; scale them down")
        return total

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        return self.assemble(grid)

    def check_grid(self, grid: Grid, energy: FreeEnergy) -> None:
        for _, term in self.terms:
            term.check_grid(grid, energy)

    def check_atoms(self, rho: Atoms) -> None:
        for _, term in self.terms:
            term.check_atoms(rho)

    def _parts_of(self, rho: Density | Atoms) -> list[tuple[float, Term]]:
        """Return the terms that a law has a value of."""
        if isinstance(rho, Density):
            self.check_grid(rho.grid, self)
        return [pair for pair in self.terms if not (isinstance(rho, Atoms) and pair[1].is_internal)]

    def __add__(self, other: Term) -> FreeEnergy:
        if isinstance(other, FreeEnergy):
            return FreeEnergy(self.terms + other.terms)
        return FreeEnergy((*self.terms, (1.0, _checked_term(other))))

    def __mul__(self, factor: float) -> FreeEnergy:
        factor = factor[()] if isinstance(factor, np.ndarray) and factor.ndim == 0 else factor
        if isinstance(factor, (bool, np.bool_)) or not isinstance(factor, numbers.Real):
            raise InvalidType(f"{described(factor)} times a term: a term is scaled by a number, as in 2 * term; terms "
                              "are joined by +")
        factor = check_real("factor", factor)
        if factor < 0 and any(term.is_internal for _, term in self.terms):
            raise InvalidInput(f"factor={factor:g}: an entropy times a negative number is backward diffusion, "
                               "which has no solution; scale the other terms alone")
        return FreeEnergy([(factor * f, term) for f, term in self.terms])

    __rmul__ = __mul__

    def __repr__(self):
        return " + ".join(repr(t) if f == 1 else f"{f:g}*{t!r}" for f, t in self.terms) or "FreeEnergy([])"


def _checked_term(value: object) -> Term:
    """Return a term; say of anything else what it may have been meant as."""
    if not isinstance(value, Term):
        raise _not_a_term(value)
    return value


def _not_a_term(value: object) -> InvalidType:
    """Return the exception for what was added to a term, or subtracted, and is none."""
    if isinstance(value, type) and issubclass(value, Term):
        use = vars(value).get("EXAMPLE") or f"{value.__name__}(...)"
        return InvalidType(f"{value.__name__} is a class and no term; make one: {use}")
    if callable(value):
        return InvalidType(f"{described(value)} cannot be added to a term: a function of a point is a Potential("
                           "function), one of two points an Interaction(function)")
    return InvalidType(f"{described(value)} cannot be added to a term: terms are added to terms, such as Potential(V), "
                       "and scaled by numbers, factor * term; a constant changes no flow")


def not_an_energy(value: object) -> InvalidType:
    """Return the exception for an argument ``energy`` that is none."""
    if isinstance(value, type) or callable(value):
        return InvalidType(f"energy must be a sum of terms: {_not_a_term(value)}")
    return InvalidType(f"energy must be a sum of terms such as Entropy(1.0) + Potential(V), got {described(value)}")


def _checked_law(rho: Density | Atoms) -> Density | Atoms:
    if not isinstance(rho, (Density, Atoms)):
        raise InvalidType(f"rho is {described(rho)}: an energy is a function of a Density or of Atoms; make one by "
                          "wgflow.Density.from_values(grid, values)")
    return rho
