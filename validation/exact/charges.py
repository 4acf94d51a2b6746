"""Charges that repel each other: the log gas, Newtonian repulsion from balls and from any data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.interactions.named_kernels import Kernel, log, newtonian, quadratic
from wgflow.interactions.terms import Interaction

from .base import DEVIATIONS, ExactProblem, StateProblem, box_of, check_axes, check_boxes, check_time, name_moments
from .cells import cell_averages, legendre_panels, normal_cell_masses
from .mixture import QuadraticAttraction
from .scaling import Place, ScalingProblem

__all__ = ["LogGas", "NewtonianBall", "NewtonianCloud", "NewtonianLine"]


@dataclass(frozen=True)
class LogGas(ScalingProblem):
    r"""Charges on a line: ``U = k |x - x'|^2/2 - chi log|x - x'|``, from a semicircle; Dyson's Brownian motion.

    A semicircle stays one: ``(R^2)' = -2 k M R^2 + 4 chi M``. For any data, smooth or not, the variance obeys
    ``var' = -2 k M var + chi M``.

    Parameters
    ----------
    repulsion, attraction : float
        chi > 0 and k.
    radius : float, optional
        R0; half the stationary radius by default.
    mean : float
        Center, which stays.
    mass, t_end, bounds
        As elsewhere.
    """

    repulsion: float = 1.0
    attraction: float = 1.0
    radius: Any = None
    mean: Any = 0.0
    mass: float = 1.0
    t_end: float = 0.5
    bounds: Any = None
    ndim: int = 1

    def __post_init__(self) -> None:
        self._check()
        check_positive("repulsion", self.repulsion)
        check_real("attraction", self.attraction)
        if self.ndim != 1:
            raise InvalidInput(f"ndim={self.ndim!r}: the semicircle is a law on the line; in the plane use "
                               "NewtonianBall.")

    @property
    def exponent(self) -> float:
        """p = 1/2."""
        return 0.5

    @property
    def dilation(self) -> tuple[float, float, float]:
        """k M, 2 chi M and 2."""
        return self.attraction * self.mass, 2.0 * self.repulsion * self.mass, 2.0

    def _energy_at(self, place: Place) -> float:
        # E log|x - x'| = log(R/2) - 1/4.
        pairs = self.attraction * place.radius**2 / 4.0 - self.repulsion * (math.log(place.radius / 2.0) - 0.25)
        return 0.5 * self.mass**2 * pairs

    @property
    def kernel(self) -> Kernel:
        """``U`` as a function of ``x - x'``."""
        return quadratic(self.attraction) + log(-self.repulsion)

    def energy(self) -> FreeEnergy:
        """Return the interaction alone."""
        return FreeEnergy([(1.0, Interaction(self.kernel))])


@dataclass(frozen=True)
class NewtonianBall(ScalingProblem):
    r"""Newtonian repulsion and quadratic attraction from a uniform ball: ``U = k |x - x'|^2/2 + chi N(x - x')``.

    ``N = -|x|`` on the line and ``-log|x|`` in the plane, of slope ``-r^{1-d}``: a uniform ball stays one, with
    ``R' = -k M R + chi M R^{1-d}``, and settles at ``R^d = chi/k``.

    Parameters
    ----------
    ndim : int
        1 or 2.
    repulsion, attraction : float
        chi > 0 and k.
    radius, mean, mass, t_end, bounds
        As in `LogGas`; the mean has one number for each axis.
    """

    ndim: int = 2
    repulsion: float = 1.0
    attraction: float = 1.0
    radius: Any = None
    mean: Any = 0.0
    mass: float = 1.0
    t_end: float = 0.5
    bounds: Any = None

    def __post_init__(self) -> None:
        self._check()
        check_positive("repulsion", self.repulsion)
        check_real("attraction", self.attraction)

    @property
    def exponent(self) -> float:
        """p = 0."""
        return 0.0

    @property
    def expected_order(self) -> float:
        """1: jumps are kept within a cell. On the line their place in it is right, too, and the order higher."""
        return 1.0

    @property
    def front_level(self) -> float:
        """1/2: the density jumps."""
        return 0.5

    @property
    def dilation(self) -> tuple[float, float, float]:
        """k M, chi M and d."""
        return self.attraction * self.mass, self.repulsion * self.mass, float(self.ndim)

    def _energy_at(self, place: Place) -> float:
        # E|x - x'| = 2R/3 on an interval, E log|x - x'| = log R - 1/4 in a disk.
        r = place.radius
        mean_potential = -2.0 * r / 3.0 if self.ndim == 1 else 0.25 - math.log(r)
        return 0.5 * self.mass**2 * (self.attraction * self.ndim * self.spread * r * r
                                     + self.repulsion * mean_potential)

    @property
    def kernel(self) -> Kernel:
        """``U`` as a function of ``x - x'``."""
        return quadratic(self.attraction) + self.repulsion * newtonian(self.ndim)

    def energy(self) -> FreeEnergy:
        """Return the interaction alone."""
        return FreeEnergy([(1.0, Interaction(self.kernel))])


@dataclass(frozen=True)
class NewtonianLine(StateProblem):
    r"""Newtonian repulsion and quadratic attraction on the line, from a mixture of Gaussians.

    ``U = k |x - x'|^2/2 - chi |x - x'|``. The force on a particle depends on its rank s alone, so that for any data

    .. math:: X(s, t) = X_\infty(s) + (X_0(s) - X_\infty(s))\,e^{-kMt}, \qquad
              X_\infty(s) = c + \frac{\chi}{k} (2 s - 1):

    it settles in the uniform law of ``[c - chi/k, c + chi/k]``, at the rate ``e^{-kMt}`` in W2, and stays smooth. A JKO
    step is an implicit Euler step of each X(s).

    Parameters
    ----------
    weights, means, variances : sequences of float
        The mixture at time 0; weights are scaled to sum to `mass`.
    repulsion, attraction : float
        chi >= 0 and k, neither zero at once; k > 0.
    mass, t_end, bounds
        As elsewhere.
    """

    weights: Sequence[float] = (0.3, 0.7)
    means: Sequence[float] = (-1.0, 0.6)
    variances: Sequence[float] = (0.1, 0.2)
    repulsion: float = 1.0
    attraction: float = 1.0
    mass: float = 1.0
    t_end: float = 0.5
    bounds: Any = None
    beta: float = math.inf

    def __post_init__(self) -> None:
        start = self._start()
        for name in ("weights", "means", "variances"):
            object.__setattr__(self, name, getattr(start, name))
        check_positive("repulsion", self.repulsion, zero=True)
        check_positive("attraction", self.attraction)
        object.__setattr__(self, "bounds", check_boxes(self.bounds, 1))

    def _start(self) -> QuadraticAttraction:
        """Return a problem with the same initial data, for its formulas of mixtures."""
        return QuadraticAttraction(self.weights, self.means, self.variances, mass=self.mass, t_end=self.t_end)

    @property
    def has_jko_steps(self) -> bool:
        """True."""
        return True

    @property
    def kernel(self) -> Kernel:
        """``U`` as a function of ``x - x'``."""
        return quadratic(self.attraction) + self.repulsion * newtonian(1)

    def energy(self) -> FreeEnergy:
        """Return the interaction alone."""
        return FreeEnergy([(1.0, Interaction(self.kernel))])

    def state(self, t: float) -> float:
        """Return ``a`` of the map from data to solution, ``X = a X_0 + (1 - a) X_infinity``."""
        return math.exp(-self.attraction * self.mass * t)

    def jko_step(self, state: float, tau: float) -> float:
        """Return ``a/(1 + tau k M)``."""
        return state / (1.0 + tau * self.attraction * self.mass)

    def _center(self) -> float:
        return float(np.dot(self.weights, self.means) / math.fsum(self.weights))

    def _rank(self, x0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distribution function and density of the data, of mass 1."""
        weights = np.array(self.weights) / math.fsum(self.weights)
        z = (np.asarray(x0)[..., None] - self.means) / np.sqrt(self.variances)
        pdf = np.exp(-0.5 * z * z) / np.sqrt(2.0 * math.pi * np.array(self.variances))
        return ndtr(z) @ weights, pdf @ weights

    def _map(self, x0: np.ndarray, a: float) -> np.ndarray:
        """Return where the particles of ``x0`` are."""
        rest = self._center() + self.repulsion / self.attraction * (2.0 * self._rank(x0)[0] - 1.0)
        return a * x0 + (1.0 - a) * rest

    def foot(self, x: np.ndarray, a: float) -> np.ndarray:
        """Return where the particles at ``x`` started, by bisection to rounding."""
        x = np.asarray(x, dtype=float)
        reach = self.repulsion / self.attraction
        shift = x - (1.0 - a) * self._center()
        low, high = (shift - (1.0 - a) * reach) / a - 1e-9, (shift + (1.0 - a) * reach) / a + 1e-9
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self._map(middle, a) < x
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def _quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        half = DEVIATIONS * np.sqrt(self.variances)
        return legendre_panels(float((self.means - half).min()), float((self.means + half).max()), panels=120)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of `bounds`, by default the least interval with 7.2 deviations of the data."""
        return box_of(self.bounds, self._reach, cells)

    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        ends = self._quadrature()[0][[0, -1]]
        places = np.array([self._map(ends, self.state(t)) for t in np.linspace(0.0, self.t_end, 33)])
        return places[:, :1], places[:, 1:]

    def density_of(self, grid: Grid, state: float) -> Density:
        """Return the exact cell averages, from the masses of the data between the feet of the edges."""
        check_axes(grid, 1)
        feet = self.foot(grid.edges[0], state)
        weights = np.array(self.weights) * self.mass / math.fsum(self.weights)
        masses = sum(w * normal_cell_masses(feet, m, math.sqrt(v))
                     for w, m, v in zip(weights, self.means, self.variances))
        return Density.from_values(grid, masses / grid.widths[0])

    def quantities_of(self, state: float) -> dict[str, float]:
        """Return the mean, variance, energy and dissipation."""
        x0, w = self._quadrature()
        rank, pdf = self._rank(x0)
        weight, x, center = w * pdf, self._map(x0, state), self._center()
        variance = float(weight @ (x - center) ** 2)
        # E|x - x'| = 2 int (2 s - 1) X ds.
        apart = 2.0 * float(weight @ ((2.0 * rank - 1.0) * x))
        force = self.attraction * (x - center) - self.repulsion * (2.0 * rank - 1.0)
        return {
            "mean": center,
            "variance": variance,
            "energy": 0.5 * self.mass**2 * (self.attraction * variance - self.repulsion * apart),
            "dissipation": self.mass**3 * float(weight @ force**2),
        }


@dataclass(frozen=True)
class NewtonianCloud(ExactProblem):
    r"""Newtonian repulsion and quadratic attraction in the plane, from a Gaussian.

    ``U = k |x - x'|^2/2 - chi log|x - x'|``. The force on a particle depends on the mass ``s`` inside its radius alone:

    .. math:: r^2(s, t) = \frac{\chi s}{k M} + \Big(r_0^2(s) - \frac{\chi s}{k M}\Big) e^{-2kMt},

    and along its path ``1/rho = (1/rho_0 - pi chi/k) e^{-2kMt} + pi chi/k``: it settles in a uniform disk, and stays
    smooth. For any data ``E|x|^2' = -2 k M E|x|^2 + chi M``.

    Parameters
    ----------
    variance : float
        Of each coordinate at time 0.
    repulsion, attraction : float
        chi and k, both > 0.
    mass, t_end, bounds
        As elsewhere.
    """

    variance: float = 0.1
    repulsion: float = 1.0
    attraction: float = 1.0
    mass: float = 1.0
    t_end: float = 0.5
    bounds: Any = None
    beta: float = math.inf

    def __post_init__(self) -> None:
        for name in ("variance", "repulsion", "attraction", "mass"):
            check_positive(name, getattr(self, name))
        check_positive("t_end", self.t_end, zero=True)
        object.__setattr__(self, "bounds", check_boxes(self.bounds, 2))

    @property
    def kernel(self) -> Kernel:
        """``U`` as a function of ``x - x'``."""
        return quadratic(self.attraction) + self.repulsion * newtonian(2)

    def energy(self) -> FreeEnergy:
        """Return the interaction alone."""
        return FreeEnergy([(1.0, Interaction(self.kernel))])

    def _decay(self, t: float) -> tuple[float, float]:
        a = math.exp(-2.0 * self.attraction * self.mass * check_time(t))
        return a, self.repulsion / self.attraction * (1.0 - a)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the square `bounds`."""
        return box_of(self.bounds, self._reach, cells)

    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        squares = [a * DEVIATIONS**2 * self.variance + b
                   for a, b in (self._decay(t) for t in np.linspace(0.0, self.t_end, 33))]
        half = np.full((1, 2), math.sqrt(max(squares)))
        return -half, half

    def pdf(self, x: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
        """Return the density at points."""
        a, b = self._decay(t)
        z, target, spread = np.zeros(np.shape(x)), np.asarray(x) ** 2 + np.asarray(y) ** 2, 2.0 * self.variance
        # Newton's method for a z + b (1 - e^(-z/spread)) = r^2, concave in z = r0^2: from 0 it rises to the root.
        for _ in range(100):
            gone = np.exp(-z / spread)
            step = (target - a * z - b * (1.0 - gone)) / (a + b * gone / spread)
            z = z + step
            if np.abs(step).max() <= 1e-14 * max(1.0, float(np.max(target))):
                break
        start = np.exp(-z / spread) / (math.pi * spread)
        return self.mass * start / (a + math.pi * b * start)

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time ``t``."""
        check_axes(grid, 2)
        return Density.from_values(grid, cell_averages(grid, lambda x, y: self.pdf(x, y, t), points=5))

    def quantities(self, t: float) -> dict[str, float]:
        """Return the mean, covariance, energy and dissipation at time ``t``."""
        a, b = self._decay(t)
        # Over z = r0^2 / (2 variance), in which the data have the density e^-z.
        z, w = legendre_panels(0.0, 0.5 * DEVIATIONS**2 + 10.0, panels=80)
        rank = -np.expm1(-z)
        r2 = a * 2.0 * self.variance * z + b * rank
        weight = w * np.exp(-z)
        second = float(weight @ r2)
        # E log max(r, r') = int log r d(s^2).
        logs = float((2.0 * weight * rank) @ (0.5 * np.log(r2)))
        force = self.repulsion * rank / np.sqrt(r2) - self.attraction * np.sqrt(r2)
        return name_moments(np.zeros(2), 0.5 * second * np.eye(2)) | {
            "energy": 0.5 * self.mass**2 * (self.attraction * second - self.repulsion * logs),
            "dissipation": self.mass**3 * float(weight @ force**2),
        }
