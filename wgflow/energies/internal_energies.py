"""Internal energies: the entropy, and those of nonlinear diffusion."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import as_float, call_user, real_array
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.nodes import at_nodes
from wgflow.energies.on_grid import TINY, EnergyOnGrid
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.grids import Grid

__all__ = ["InternalEnergy", "PowerEntropy", "RelativeEntropy"]

#: The density at which H and its derivatives are evaluated in a vacuum, where H' may have a pole.
VACUUM = 1e-300
#: Least of the densities at which a user's H is checked.
LEAST_SAMPLE = 1e-6
#: Number of these densities.
SAMPLES = 201
#: Relative difference that is allowed between difference quotients of a user's H and its derivative; where H is smooth
#: it is 1e-8.
MISFIT = 1e-3
#: Logarithm of the largest density at which H' is inverted.
LOG_LARGEST = 690.0
#: Bisections of log r between VACUUM and there that reach an ulp of r.
BISECTIONS = 64


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

    EXAMPLE: ClassVar[str] = "Entropy(beta=1.0)"

    is_internal = True

    def __init__(self, beta: float = 1.0):
        beta = as_float("beta", beta)
        if beta == 0:
            raise InvalidInput("beta=0 means infinite diffusion; beta must be > 0 (infinity: no diffusion)")
        if not beta > 0:
            raise InvalidInput(f"beta={beta} must be > 0 (infinity: no diffusion)")
        self.beta: float = beta
        self.diffusion: float = 1.0 / self.beta

    @property
    def spreads(self) -> bool:
        return self.beta < math.inf

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        return EnergyOnGrid(grid, self.diffusion)

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
        return at_nodes(rho)

    def __repr__(self):
        return f"Entropy(beta={self.beta:g})"


class InternalEnergy(Term):
    r"""An internal energy :math:`\int H(\rho / w)\,w\,d\theta` with H convex and w the grid's reference measure.

    Its flow is :math:`\partial_t \rho = \nabla\cdot(\rho \nabla H'(\rho/w))`: nonlinear diffusion with the pressure
    :math:`p(r) = r H'(r) - H(r)`. On a grid without weight, :math:`r = \rho/w` is the density itself.

    Parameters
    ----------
    H, H1, H2 : callable
        H and its first and second derivative: vectorized functions of the density r > 0. In an empty cell they are
        evaluated at r = 1e-300, so H' may have a pole at 0; H itself must stay finite.
    up_to : float
        Largest density of the samples on which H is checked: that it is convex, and that H1 and H2 are its
        derivatives. During a solve H'' is checked at the densities met.

    Raises
    ------
    InvalidInput
        If H is not convex or not finite on the samples (the density is named), or the derivatives do not fit.

    Examples
    --------
    Fast diffusion at low and porous medium at high densities:

    >>> import numpy as np
    >>> H = InternalEnergy(lambda r: r**2 - 2 * np.sqrt(r), lambda r: 2 * r - r**-0.5, lambda r: 2 + 0.5 * r**-1.5)
    >>> grid = Grid([(0, 1)], cells=4)
    >>> round(H(Density.uniform(grid)), 12)
    -1.0
    """

    is_internal = True

    def __init__(self, H, H1, H2, *, up_to: float = 100.0):
        for name, function in (("H", H), ("H1", H1), ("H2", H2)):
            if not callable(function):
                raise InvalidType(f"{name} must be a function of the density, got {type(function).__name__}")
        up_to = as_float("up_to", up_to)
        if not LEAST_SAMPLE < up_to < math.inf:
            raise InvalidInput(f"up_to={up_to}: need a finite density > {LEAST_SAMPLE:g}")
        self._functions: dict[str, Callable] = {"H": H, "H1": H1, "H2": H2}
        self._check(np.geomspace(LEAST_SAMPLE, up_to, SAMPLES))

    def _call(self, name: str, r) -> np.ndarray:
        """Return a user's function at densities, checked: an array of their shape."""
        r = np.maximum(np.asarray(r, dtype=float), VACUUM)
        values = real_array(call_user(self._functions[name], [r], name), name)
        if values.shape != r.shape:
            if values.ndim:
                raise InvalidInput(f"{name} returned shape {values.shape} for densities of shape {r.shape}; it must "
                                   "return one value for each")
            values = np.full(r.shape, float(values))
        return values

    def _check(self, r: np.ndarray) -> None:
        values = {name: self._call(name, r) for name in self._functions}
        for name, value in values.items():
            if not np.isfinite(value).all():
                k = int(np.argmin(np.isfinite(value)))
                raise InvalidInput(f"{name}({r[k]:.6g})={value[k]}: H, H1 and H2 must be finite at densities up to "
                                   f"{r[-1]:g}; lower up_to if larger ones never occur")
        check_convex(r, values["H2"], "H2")
        step = 1e-4 * r
        for name, slope in (("H", "H1"), ("H1", "H2")):
            quotient = (self._call(name, r + step) - self._call(name, r - step)) / (2 * step)
            # By the mean value theorem the quotient lies between the slopes around, up to round-off (of values near
            # those at density 1, of which H may be a difference). So a kink of H1 is allowed.
            around = np.stack([self._call(slope, r - step), values[slope], self._call(slope, r + step)])
            noise = 1e-14 * np.maximum(np.abs(values[name]), np.abs(self._call(name, min(1.0, r[-1])))) / step
            room = MISFIT * np.abs(around).max(axis=0) + noise + VACUUM
            wrong = (quotient < around.min(axis=0) - room) | (quotient > around.max(axis=0) + room)
            if wrong.any():
                k = int(np.argmax(wrong))
                raise InvalidInput(f"{slope}({r[k]:.6g})={values[slope][k]:.6g}, but {name} has the slope "
                                   f"{quotient[k]:.6g} there; {slope} must be the derivative of {name}")

    def H(self, r) -> np.ndarray:
        """Return H at densities r >= 0."""
        return self._call("H", r)

    def derivative(self, r) -> np.ndarray:
        """Return H' at densities r >= 0."""
        return self._call("H1", r)

    def second_derivative(self, r) -> np.ndarray:
        """Return H'' at densities r >= 0."""
        return self._call("H2", r)

    def inverse_derivative(self, p) -> np.ndarray:
        r"""Return the density at which H' is p; 0 where p lies below H'(0), and infinity where p lies above all of H'.

        It is the derivative of the conjugate :math:`H^*(p) = \sup_{r \ge 0} (p r - H(r))`; found by bisection here.
        """
        p = np.asarray(p, dtype=float)
        low, high = np.full(p.shape, math.log(VACUUM)), np.full(p.shape, LOG_LARGEST)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            value = self._call("H1", np.exp(middle))
            # Values that overflow count as above p.
            below = (value < p) & np.isfinite(value)
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        r = np.where(low == math.log(VACUUM), 0.0, np.exp(0.5 * (low + high)))
        return np.where(high == LOG_LARGEST, math.inf, r)

    def pressure(self, r) -> np.ndarray:
        """Return the pressure r H'(r) - H(r), at densities r > 0."""
        return r * self.derivative(r) - self.H(r)

    def conjugate(self, p) -> np.ndarray:
        r"""Return :math:`H^*(p) = \sup_{r \ge 0} (p r - H(r))`; infinity where the supremum is infinite."""
        p = np.asarray(p, dtype=float)
        r = self.inverse_derivative(p)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(np.isfinite(r), p * r - self.H(r), math.inf)

    def energy(self, rho: Density) -> float:
        _need_density(rho)
        return self.energy_of(rho.masses, rho.grid)

    def first_variation(self, rho: Density) -> np.ndarray:
        _need_density(rho)
        return self.slope_of(rho.masses, rho.grid)

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        return EnergyOnGrid(grid, internal=[(1.0, self)])

    def slope_of(self, masses: np.ndarray, grid: Grid) -> np.ndarray:
        """Return H' at the density of each cell, from cell masses."""
        return self.derivative(relative_density(masses, grid))

    def energy_of(self, masses: np.ndarray, grid: Grid) -> float:
        """Return the energy of cell masses on a grid."""
        r = relative_density(masses, grid)
        with np.errstate(over="ignore", invalid="ignore"):
            return float((self.H(r) * np.exp(grid.log_reference)).sum())



class PowerEntropy(InternalEnergy):
    r"""The energy :math:`\int H(\rho/w)\,w` with :math:`H(r) = \dfrac{r^m}{m - 1}`, which gives nonlinear diffusion.

    Its flow is :math:`\partial_t \rho = \Delta \rho^m`: the porous medium equation for m > 1 (fronts move at finite
    speed), fast diffusion for 0 < m < 1 (algebraic tails). As :math:`m \to 1` it tends to the heat equation, which is
    the flow of `Entropy`.

    In reduced coordinates :math:`\rho/w` is the density up to a constant that the weight leaves out (the area of the
    unit sphere, for a radius). It matters for a power, not for the entropy: include it in ``log_weight``, or scale the
    term by area^(1 - m).

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

    EXAMPLE: ClassVar[str] = "PowerEntropy(2.0)"

    m: float

    def __init__(self, m: float):
        m = as_float("m", m)
        if m == 1:
            raise InvalidInput("m=1 is the entropy, for which r^m/(m-1) is not defined; use Entropy(beta)")
        if not (math.isfinite(m) and m > 0):
            raise InvalidInput(f"m={m:g}: the exponent of PowerEntropy must be finite, > 0 and not 1")
        self.m = m

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

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        critical = (grid.ndim - 2) / grid.ndim
        if self.m <= critical:
            warnings.warn(f"m={self.m:g} on {grid.ndim} axes: below m_c = {critical:g} fast diffusion loses mass to "
                          "infinity in the whole space; only the walls of the box hold it", WGFlowWarning, stacklevel=2)
        return super().on_grid(grid)

    def pressure(self, r) -> np.ndarray:
        return np.power(r, self.m)

    def __repr__(self):
        return f"PowerEntropy(m={self.m:g})"


class RelativeEntropy(FreeEnergy):
    r"""The entropy relative to a given law (Kullback-Leibler divergence), :math:`\beta^{-1} \int \rho \log(\rho/\pi)`.

    It is ``Entropy(beta)`` plus the potential :math:`-\beta^{-1} \log(\pi/w)`: linear diffusion toward :math:`\pi`, a
    regularizer for flows with a prior.

    Parameters
    ----------
    reference : Density or callable
        The law :math:`\pi`, positive in every cell; or its density relative to the grid's reference measure w, a
        positive vectorized function of the coordinates (a factor of it adds a constant to the energy).
    beta : float
        The inverse of the factor in front, > 0 and finite.

    Raises
    ------
    InvalidInput
        If the reference vanishes somewhere (the divergence is infinite there), or beta is out of its range.

    Examples
    --------
    >>> grid = Grid([(-6, 6)], cells=400)
    >>> round(RelativeEntropy(Density.gaussian(grid, 0.0, 1.0))(Density.gaussian(grid, 1.0, 1.0)), 3)
    0.5
    """

    def __init__(self, reference, beta: float = 1.0):
        entropy = Entropy(beta)
        if not math.isfinite(entropy.beta):
            raise InvalidInput(f"beta={beta}: the relative entropy would vanish; leave the term out")
        potential = _MinusLog(reference)
        self.reference, self._words = reference, f"RelativeEntropy({potential.name}, beta={entropy.beta:g})"
        super().__init__([(1.0, entropy), (1.0 / entropy.beta, potential)])

    def __repr__(self):
        return self._words


class _MinusLog(Potential):
    """The potential -log(pi / w) of a law."""

    def __init__(self, reference):
        self.grid: Grid | None = None
        self.at_centers = False
        if isinstance(reference, Density):
            empty = reference.values <= 0
            if empty.any():
                cell = tuple(int(k) for k in np.argwhere(empty)[0])
                raise InvalidInput(f"reference is 0 in cell {cell} and {int(empty.sum())} cells in all; the relative "
                                   "entropy is infinite where it vanishes: take a reference that is positive")
            if abs(reference.mass - 1.0) > 1e-9:
                raise InvalidInput(f"reference: its mass is {reference.mass:.10g}; the relative entropy is taken to "
                                   "a probability law: use reference.normalized()")
            self.grid, self.name = reference.grid, "Density"
            weight = reference.grid.log_weight
            self.at_centers = True
            super().__init__((0.0 if weight is None else weight) - np.log(reference.values))
            return
        if not callable(reference):
            raise InvalidType(f"reference must be a Density or a function, got {type(reference).__name__}")
        self.name = getattr(reference, "__name__", type(reference).__name__)
        super().__init__(partial(_minus_log, reference))

    def values(self, grid: Grid) -> np.ndarray:
        if self.grid is not None and grid != self.grid:
            raise InvalidInput(f"reference lives on {self.grid}, the density on {grid}; put both on one grid")
        return super().values(grid)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        if self.at_centers:
            raise InvalidInput("RelativeEntropy: its reference is a Density, known at the centers of cells and not at "
                               "points; give it as a function of the coordinates")
        return super().gradient(rho, points)

    def __repr__(self):
        return f"Potential(-log {self.name})"


def _minus_log(reference, *x) -> np.ndarray:
    values = np.asarray(reference(*x), dtype=float)
    if not (values > 0).all():
        raise InvalidInput(f"reference is {values.min():g} somewhere; it must be positive")
    return -np.log(values)


def check_convex(r: np.ndarray, second: np.ndarray, name: str) -> None:
    """Refuse an H whose second derivative is negative or not a number at one of the densities r."""
    if not (second >= 0).all():
        k = np.unravel_index(int(np.where(np.isnan(second), -math.inf, second).argmin()), r.shape)
        raise InvalidInput(f"{name}({r[k]:.6g})={second[k]:.6g}: H must be convex, H'' >= 0, at every density that "
                           "occurs; a non-convex H makes mass clump, and the equation has no solution")


def relative_density(masses: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the density relative to the grid's reference measure, from cell masses; by logarithms on weighted grids.

    With a weight such as r^319 it may overflow near the origin: it is infinite there, never NaN.
    """
    if grid.log_weight is None:
        return masses / grid.volumes
    with np.errstate(divide="ignore", over="ignore"):
        return np.exp(np.log(masses) - grid.log_reference)


def _need_density(rho) -> None:
    if not isinstance(rho, Density):
        raise InvalidInput(f"an internal energy is finite for densities only, got {type(rho).__name__}; put the atoms "
                           "on a grid with Density.from_samples(grid, points, weights=weights)")
