"""Attraction against diffusion: the Keller-Segel model on the line, a compact aggregate under an exponential kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gamma, hyp1f1

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.interactions.named_kernels import Kernel, exponential, log
from wgflow.interactions.terms import Interaction

from .base import DEVIATIONS, ExactProblem, box_of, check_axes, check_boxes, check_time, name_moments
from .cells import cell_averages, gaussian_cell_averages

__all__ = ["CompactAggregation", "KellerSegelLine"]

_STARTS = ("gaussian", "stationary")


@dataclass(frozen=True)
class KellerSegelLine(ExactProblem):
    r"""The Keller-Segel model with the logarithmic kernel on the line: ``U = chi log|x - x'|``, ``V = a x^2/2``.

    For any data of mass 1 the mean and the second moment obey ``mean' = -a mean`` and
    ``m2' = -2 a m2 + 2 D - chi``; above ``chi_c = 2 D`` the second moment would reach zero at `collapse_time` at the
    latest. Below it the stationary state (a beta ensemble of negative index at high temperature) is, with
    ``nu = chi/(2D)``, ``z = x sqrt(a/D)`` and the parabolic cylinder function,

    .. math:: \rho_\infty = \sqrt{\frac{a}{2 \pi D}}\;\frac{1}{\Gamma(1 - \nu)\,|D_\nu(i z)|^2}.

    ``chi < 0`` is repulsion.

    Parameters
    ----------
    attraction : float
        chi.
    stiffness : float
        a >= 0.
    beta : float
        Inverse temperature, ``D = 1/beta``.
    start : {"gaussian", "stationary"}
        Data: ``N(mean, variance)``, or the stationary state, where the flow stays.
    mean, variance : float
        Of a Gaussian start.
    t_end : float
        Time of comparison.
    bounds : (lo, hi), optional
    """

    attraction: float = 1.0
    stiffness: float = 1.0
    beta: float = 1.0
    start: str = "gaussian"
    mean: float = 0.5
    variance: float = 1.0
    t_end: float = 0.5
    bounds: Any = None

    def __post_init__(self) -> None:
        check_real("attraction", self.attraction)
        check_positive("stiffness", self.stiffness, zero=True)
        check_positive("beta", self.beta)
        check_real("mean", self.mean)
        check_positive("variance", self.variance)
        check_positive("t_end", self.t_end, zero=True)
        if self.start not in _STARTS:
            raise InvalidInput(f"start={self.start!r}: must be one of {_STARTS}.")
        if self.start == "stationary":
            self._index()
        object.__setattr__(self, "bounds", check_boxes(self.bounds, 1))

    @property
    def critical_attraction(self) -> float:
        """``chi_c = 2 D``, above which mass 1 collapses."""
        return 2.0 * self.diffusion

    @property
    def collapse_time(self) -> float:
        """When the second moment would reach zero, before which a solution ends; infinite if it never does."""
        limit, m2 = self.diffusion - 0.5 * self.attraction, self.variance + self.mean**2
        if limit >= 0.0:
            return math.inf
        # m2 = limit/a + (m2 - limit/a) e^{-2at}
        if self.stiffness == 0.0:
            return -0.5 * m2 / limit
        return 0.5 / self.stiffness * math.log1p(-self.stiffness * m2 / limit)

    def _index(self) -> float:
        nu = 0.5 * self.attraction / self.diffusion
        if nu >= 1.0 or self.stiffness == 0.0:
            raise InvalidInput(f"attraction={self.attraction!r}, stiffness={self.stiffness!r}: a stationary state "
                               f"needs attraction < {self.critical_attraction:g} and stiffness > 0.")
        return nu

    def stationary_pdf(self, x: np.ndarray) -> np.ndarray:
        """Return the stationary density at the points ``x``."""
        nu, scale = self._index(), math.sqrt(self.stiffness * self.beta)
        z2 = 0.5 * (scale * np.asarray(x, dtype=float)) ** 2
        # D_nu(iz) e^{-z^2/4} 2^{-nu/2}, by Kummer's function of a real argument.
        real = math.sqrt(math.pi) / gamma(0.5 * (1.0 - nu)) * hyp1f1(-0.5 * nu, 0.5, -z2)
        imaginary = 2.0 * math.sqrt(math.pi) * np.sqrt(z2) * _over_gamma(-0.5 * nu) * hyp1f1(0.5 - 0.5 * nu, 1.5, -z2)
        square = 2.0**nu * (real**2 + imaginary**2)
        return scale / math.sqrt(2.0 * math.pi) * np.exp(-z2) / (gamma(1.0 - nu) * square)

    @property
    def has_density(self) -> bool:
        """Whether the flow starts, and stays, in the stationary state."""
        return self.start == "stationary"

    @property
    def kernel(self) -> Kernel:
        """``U`` as a function of ``x - x'``."""
        return log(self.attraction)

    def potential(self, x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = a x^2 / 2``."""
        return 0.5 * self.stiffness * x * x

    def energy(self) -> FreeEnergy:
        """Return the entropy, interaction, and the potential where there is one."""
        terms: list[Term] = [Interaction(self.kernel)]
        if self.stiffness:
            terms.append(Potential(self.potential))
        return self._with_entropy(*terms)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of `bounds`, by default 7.2 deviations of a Gaussian that holds the solution."""
        return box_of(self.bounds, self._reach, cells)

    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        # Tails are those of the flow without attraction (times a power); repulsion widens by its own equilibrium.
        a, d = self.stiffness, self.diffusion
        spread = d / a if a else self.variance + 2.0 * d * self.t_end
        if self.start == "gaussian":
            spread = max(spread, self.variance)
        half = DEVIATIONS * math.sqrt(spread) + abs(self.mean)
        if self.attraction < 0.0:
            grown = 2.0 * self.t_end if self.stiffness == 0.0 else 1.0 / self.stiffness
            half += math.sqrt(-2.0 * self.attraction * grown)
        return np.array([[-half]]), np.array([[half]])

    def density(self, grid: Grid, t: float) -> Density:
        """Return the cell averages: at time 0, and at any time from the stationary state.

        Raises
        ------
        InvalidInput
            If the density is not known.
        """
        check_axes(grid, 1)
        if self.start == "stationary":
            return Density.from_values(grid, cell_averages(grid, self.stationary_pdf))
        if check_time(t) > 0.0:
            raise InvalidInput(f"t={t!r}: from a Gaussian only the moments are known; see quantities(t).")
        cov = np.array([[self.variance]])
        return Density.from_values(grid, gaussian_cell_averages(grid, np.array([self.mean]), cov))

    def quantities(self, t: float) -> dict[str, float]:
        """Return mean and variance at time ``t``."""
        limit, a, t = self.diffusion - 0.5 * self.attraction, self.stiffness, check_time(t)
        if self.start == "stationary":
            return name_moments(np.zeros(1), np.array([[limit / a]]))
        grown = t if a == 0.0 else -math.expm1(-2.0 * a * t) / (2.0 * a)
        mean = self.mean * math.exp(-a * t)
        second = (self.variance + self.mean**2) * math.exp(-2.0 * a * t) + 2.0 * limit * grown
        return name_moments(np.array([mean]), np.array([[second - mean**2]]))


@dataclass(frozen=True)
class CompactAggregation(ExactProblem):
    r"""Quadratic diffusion against exponential attraction: ``H = eps rho^2/2``, ``U = -c e^{-|x - x'|/l}/2``.

    With ``b = c l/eps > 1`` the flow settles in the compact aggregate

    .. math:: \rho_\infty = A \cos(\omega x/\ell) + B, \quad |x| \le L, \qquad
              \omega = \sqrt{b - 1}, \quad L = \ell\,\frac{\pi - \arctan \omega}{\omega},

    ``A = M omega/(2 l sin(omega L/l) (1 + L/l))``, ``B = A sin(omega L/l)/omega``: the kernel is a Green's function of
    ``1 - l^2 d^2/dx^2``, which turns ``eps rho + U rho = const`` into an ODE.

    Parameters
    ----------
    eps, strength, length : float
        eps, c and l.
    stretch : float
        The data are the aggregate stretched by this factor; at 1 the flow stays where it is. Otherwise the density is
        known at time 0 and at `t_end`, which must be late enough for the flow to have settled.
    mass, t_end, bounds
        As elsewhere.
    """

    eps: float = 0.5
    strength: float = 1.0
    length: float = 1.0
    stretch: float = 1.2
    mass: float = 1.0
    t_end: float = 250.0
    bounds: Any = None
    beta: float = math.inf

    def __post_init__(self) -> None:
        for name in ("eps", "strength", "length", "stretch", "mass"):
            check_positive(name, getattr(self, name))
        check_positive("t_end", self.t_end, zero=True)
        if self.strength * self.length <= self.eps:
            raise InvalidInput(f"eps={self.eps!r}: must be < strength * length = {self.strength * self.length:g}, or "
                               "diffusion wins and nothing holds together.")
        object.__setattr__(self, "bounds", check_boxes(self.bounds, 1))

    @property
    def smooth(self) -> bool:
        """False: the aggregate has edges."""
        return False

    @property
    def frequency(self) -> float:
        """omega, the frequency of the profile."""
        return math.sqrt(self.strength * self.length / self.eps - 1.0)

    @property
    def half_length(self) -> float:
        """L, half the length of the support at the start."""
        return self.length * (math.pi - math.atan(self.frequency)) / self.frequency

    def _shape(self) -> tuple[float, float]:
        w, reach = self.frequency, self.half_length / self.length
        amplitude = self.mass * w / (2.0 * self.length * math.sin(w * reach) * (1.0 + reach))
        return amplitude, amplitude * math.sin(w * reach) / w

    def peak(self) -> float:
        """Return the density of the aggregate in its middle, A + B."""
        return sum(self._shape())

    def front(self, t: float) -> np.ndarray | None:
        """Return ``+-L``, stretched at time 0."""
        edge = self.half_length * self._stretch_at(t)
        return np.array([[-edge, edge]])

    def _stretch_at(self, t: float) -> float:
        if check_time(t) == 0.0:
            return self.stretch
        if self.stretch != 1.0 and t < self.t_end:
            raise InvalidInput(f"t={t!r}: on its way to the aggregate the density is not known; see t=0 and t_end.")
        return 1.0

    @property
    def kernel(self) -> Kernel:
        """``U`` as a function of ``x - x'``."""
        return -0.5 * self.strength * exponential(self.length)

    def energy(self) -> FreeEnergy:
        """Return internal energy and interaction."""
        return FreeEnergy([(0.5 * self.eps, PowerEntropy(2.0)), (1.0, Interaction(self.kernel))])

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the interval `bounds`, by default a quarter wider than the support."""
        edge = 1.25 * self.half_length * max(1.0, self.stretch)
        return box_of(self.bounds, lambda: (np.array([[-edge]]), np.array([[edge]])), cells)

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time 0 or from `t_end` on; at any time if the flow starts at rest."""
        check_axes(grid, 1)
        (a, b), stretch, length = self._shape(), self._stretch_at(t), self.length
        x = np.clip(grid.edges[0] / stretch, -self.half_length, self.half_length)
        primitive = a * length / self.frequency * np.sin(self.frequency * x / length) + b * x
        return Density.from_values(grid, np.maximum(np.diff(primitive), 0.0) / grid.widths[0])

    def quantities(self, t: float) -> dict[str, float]:
        """Return the mean, variance, energy and dissipation of the aggregate; mean and variance at time 0."""
        (a, b), w, edge, stretch = self._shape(), self.frequency / self.length, self.half_length, self._stretch_at(t)
        # int x^2 cos(wx) over [-L, L].
        cosine = 2.0 * ((edge**2 / w - 2.0 / w**3) * math.sin(w * edge) + 2.0 * edge / w**2 * math.cos(w * edge))
        variance = stretch**2 * (a * cosine + 2.0 * b * edge**3 / 3.0) / self.mass
        named = {"mean": 0.0, "variance": variance}
        if stretch == 1.0:
            # dF/drho = -eps omega^2 B on the support, and F is quadratic.
            named["energy"] = -0.5 * self.eps * self.frequency**2 * b * self.mass
        return named


def _over_gamma(x: float) -> float:
    """Return ``1/Gamma(x)``, zero at its poles."""
    return 0.0 if x <= 0.0 and x == math.floor(x) else 1.0 / gamma(x)
