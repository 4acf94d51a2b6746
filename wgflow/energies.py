r"""Free energies as sums of terms.

.. math:: F(\rho) = \beta^{-1} \int \rho \log(\rho / w) + \int V \rho + \tfrac12 \iint U \rho \rho

The factor 1/2 of the interaction is stated here and nowhere else (`FreeEnergy.assemble`, `Interaction.energy`).
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import check_values, real_array
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import box_of, check_points, gradient_at, values_at
from wgflow.grids import Grid

__all__ = ["Assembled", "Entropy", "FreeEnergy", "Potential", "Term"]

#: Smallest positive double: stands for an empty cell inside logarithms, so that m log m is 0 and never a NaN.
TINY = 5e-324
#: Part of itself by which a cell's reference measure may miss the one that an energy asks for: far below the error of
#: any grid, and far above rounding, which is that of the logarithms, a part 1e-12 of their size (7e4 for r^9999), even
#: where cells have been joined by `error_estimates.coarser`. Logarithms do not underflow.
REFERENCE_TOLERANCE = 1e-8
LOG_ROUNDING = 1e-12
#: A jump of V across a periodic seam, relative to its largest jump between neighbors, that deserves a warning.
SEAM_RATIO = 10.0


class Term(ABC):
    """One term of a free energy. Terms add, and a number scales them: ``Entropy(4.0) + 2 * Potential(V)``.

    A law is a `Density` on a grid or `Atoms`, weighted points, which have no entropy.
    """

    @abstractmethod
    def energy(self, rho: Density | Atoms) -> float:
        """Value of the term at a law."""

    @abstractmethod
    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        """d(term)/d(rho) at the cell centers, an array of the grid's shape, or at the atoms, up to a constant."""

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        """Gradient of the first variation at points, both of shape (n_coordinates, n); without entropies.

        Raises
        ------
        InvalidInput
            If the term is known at the centers of cells alone, or is not finite at a point.
        """
        raise InvalidInput(f"{self!r} has no gradient at points")

    @property
    def time_dependent(self) -> bool:
        """Whether the term changes with time (see `TimeDependent`)."""
        return False

    def at(self, t: float) -> Term:
        """The term as it is at a time: itself, unless it changes with time."""
        return self

    def __call__(self, rho: Density | Atoms) -> float:
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

    def energy(self, rho: Density | Atoms) -> float:
        rho = self._need_density(rho)
        return float((rho.masses * self.first_variation(rho)).sum())

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        rho = self._need_density(rho)
        if math.isinf(self.beta):
            return np.zeros(rho.grid.shape)
        return (np.log(np.maximum(rho.masses, TINY)) - rho.grid.log_reference) / self.beta

    @staticmethod
    def _need_density(rho: Density | Atoms) -> Density:
        if isinstance(rho, Atoms):
            raise InvalidInput("the entropy of atoms is infinite; take a Density, or the sum of the other terms "
                               "(a FreeEnergy leaves the entropy of atoms out)")
        return rho

    def __repr__(self):
        return f"Entropy(beta={self.beta:g})"


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
    reference : callable, optional
        For coordinates that stand for a reduction of more parameters: a function of a grid that returns the logarithm
        of the reference measure's cell averages there, or None for Lebesgue measure. A sum with an entropy or another
        internal energy then refuses grids with another reference measure, on which it would be another energy.
    """

    def __init__(self, V, gradient=None, *, reference: Callable[[Grid], np.ndarray | None] | None = None):
        if not callable(V):
            V = real_array(V, "V")
        if gradient is not None and not callable(gradient):
            raise InvalidType(f"gradient must be a function of the coordinates, got {type(gradient).__name__}")
        if reference is not None and not callable(reference):
            raise InvalidType(f"reference must be a function of a grid, got {type(reference).__name__}")
        self.V, self._gradient, self._reference = V, gradient, reference
        self._last: tuple[Grid, np.ndarray] | None = None
        self._checked: tuple[Grid, bool] | None = None

    def values(self, grid: Grid) -> np.ndarray:
        """V at the cell centers of a grid, finite, of the grid's shape; a read-only array."""
        if self._last is None or self._last[0] != grid:
            values = grid.evaluate(self.V, "V") if callable(self.V) else check_values(self.V, grid, "V")
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
            Whether a constant factor may differ: it adds a constant to an entropy, and changes other internal energies.

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
                   f"{excess.flat[0]:.6g} everywhere, which internal energies other than the entropy feel")
            raise InvalidInput("log_weight: the entropy is relative to the reference measure of these reduced "
                               f"coordinates, and the grid has {'Lebesgue measure' if given is None else 'another one'}"
                               f": {how}; use model.grid(...), or model.weighted(grid) for cells of your own")
        self._checked = (grid, scaled)

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

    def psi(self, potential: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """A potential plus U rho."""
        interaction = self.interaction(masses)
        return potential if interaction is None else potential + interaction

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

    @property
    def spreads(self) -> bool:
        """Whether an internal energy spreads the law: an entropy at finite beta, or any other."""
        return any(is_internal(term) and getattr(term, "beta", 1.0) < math.inf for _, term in self.terms)

    @property
    def time_dependent(self) -> bool:
        """Whether a term changes with time."""
        return any(term.time_dependent for _, term in self.terms)

    def at(self, t: float) -> FreeEnergy:
        """The free energy as it is at a time."""
        if not self.time_dependent:
            return self
        now = [factor * (FreeEnergy([]) + term.at(t)) for factor, term in self.terms]
        return FreeEnergy([pair for part in now for pair in part.terms])

    def energy(self, rho: Density | Atoms) -> float:
        """F; of atoms, whose entropy is infinite, the sum of the other terms."""
        return float(sum(factor * term.energy(rho) for factor, term in self._parts_of(rho)))

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        """dF/d(rho) at the cell centers; at atoms its part without the entropy, Psi."""
        shape = rho.weights.shape if isinstance(rho, Atoms) else rho.grid.shape
        return sum((factor * term.first_variation(rho) for factor, term in self._parts_of(rho)), np.zeros(shape))

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        r""":math:`\nabla \Psi` at points, both of shape (n_coordinates, n): the first variation without entropies."""
        points = check_points(rho, points)
        return sum((factor * term.gradient(rho, points) for factor, term in self.terms if not is_internal(term)),
                   np.zeros(points.shape))

    def dissipation(self, rho: Density | Atoms) -> float:
        r""":math:`\int \rho\,|\nabla\,\delta F/\delta\rho|^2`, formed from the finite-volume fluxes.

        It is the exact -dF/dt of the finite-volume equations at time_scale 1. For atoms it is
        :math:`\sum_i w_i |\nabla \Psi(\theta_i)|^2` without the components that press an atom against its bounds:
        the exact -dF/dt of the characteristics. With an entropy atoms have no dissipation (InvalidInput).
        """
        if isinstance(rho, Atoms):
            if self.spreads:
                raise InvalidInput("atoms have no entropy, hence no dissipation of a flow that spreads; take a Density")
            return float((rho.weights * (free_part(-self.gradient(rho, rho.points), rho) ** 2).sum(axis=0)).sum())
        from wgflow.compiled.sweep import dissipation_rate

        parts = self.assemble(rho.grid)
        if parts.internal:
            from wgflow.nonlinear_fluxes import Diffusion
            from wgflow.nonlinear_fluxes import dissipation_rate as nonlinear_rate

            return nonlinear_rate(rho.masses, parts.psi(parts.potential, rho.masses), rho.grid, Diffusion(parts))
        psi = parts.psi(parts.sweep_potential, rho.masses)
        return dissipation_rate(rho.masses, psi, rho.grid, parts.diffusion)

    def assemble(self, grid: Grid) -> Assembled:
        """The terms as arrays on a grid, each user function evaluated once."""
        self.check_reference(grid)
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
            elif term.time_dependent:
                raise InvalidInput(f"{term!r} changes with time; take energy.at(t)")
            elif not isinstance(term, Entropy):
                raise InvalidType(f"term {term!r}: solvers know Entropy, PowerEntropy, Potential and Interaction")
        if not np.isfinite(potential).all():
            raise InvalidInput("the sum of the potentials is not finite; scale them down")
        return Assembled(grid, self._diffusion(), potential, operators, internal)

    def _parts_of(self, rho) -> list:
        """The terms that a law has a value of."""
        if isinstance(rho, Density):
            self.check_reference(rho.grid)
        return [pair for pair in self.terms if not (isinstance(rho, Atoms) and is_internal(pair[1]))]

    def check_reference(self, grid: Grid) -> None:
        """Refuse a grid whose reference measure is not the potentials', if an internal energy feels the difference."""
        beside = any(factor and hasattr(term, "energy_of") for factor, term in self.terms)
        if beside or self._diffusion() > 0:
            for _, term in self.terms:
                if isinstance(term, Potential):
                    term.check_reference(grid, scaled=not beside)

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


def is_internal(term: Term) -> bool:
    """Whether a term is an internal energy int H(rho), which atoms have not."""
    return isinstance(term, Entropy) or hasattr(term, "energy_of")


def need_function(function, what: str) -> None:
    """Refuse values at cell centers where points are asked for."""
    if not callable(function):
        raise InvalidInput(f"{what} is an array of values at cell centers, so it is not known at points; give a "
                           "function of the coordinates")


def free_part(velocity: np.ndarray, rho: Atoms) -> np.ndarray:
    """Velocities (n_coordinates, n) of atoms without the components that would leave the bounds."""
    for axis, (lo, hi) in enumerate(box_of(rho)[0]):
        x, v = rho.points[axis], velocity[axis]
        held = ((x <= lo) & (v < 0)) | ((x >= hi) & (v > 0))
        if held.any():
            velocity = velocity.copy()
            velocity[axis, held] = 0.0
    return velocity


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
