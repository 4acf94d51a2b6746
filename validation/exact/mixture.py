"""Flows solved along characteristics: mixtures of Gaussians under quadratic attraction, transport in a cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wgflow.checks import check_interval, check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.interactions.terms import Interaction

from .base import DEVIATIONS, ExactProblem, StateProblem, box_of, check_axes, check_time, entropy_and_dissipation
from .cells import legendre_panels, normal_cell_masses

__all__ = ["CosineTransport", "QuadraticAttraction"]

_Components = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class QuadraticAttraction(StateProblem):
    r"""A mixture of Gaussians under ``U = k |x - x'|^2 / 2`` and ``V = a x^2 / 2``, of mass M, in one dimension.

    ``U rho = k M ((x - m)^2 + var)/2`` is quadratic whatever rho is, so that mixtures stay mixtures with constant
    weights. With m the mean of the whole, component j has

    .. math:: \mu_j - m \propto e^{-(a + kM) t}, \qquad m = m(0) e^{-at}, \qquad
              s_j' = -2 (a + kM) s_j + 2D,

    and the variance of the whole obeys the same equation as each s_j. The free energy is
    ``D int rho log rho + M (a (var + m^2) + k M var)/2``. ``beta = inf`` gives attraction without diffusion.

    Parameters
    ----------
    weights, means, variances : sequences of float
        The mixture; weights are positive and are scaled to sum to `mass`.
    attraction, confinement : float
        k and a; either may be zero or negative.
    beta : float
        Inverse temperature, ``D = 1/beta``; may be infinite.
    mass : float
        M.
    t_end : float
        Time of comparison.
    bounds : (lo, hi), optional
        By default the smallest interval that holds 7.2 standard deviations of every component up to `t_end`.
    """

    weights: Sequence[float] = (0.3, 0.7)
    means: Sequence[float] = (-2.0, 1.0)
    variances: Sequence[float] = (0.1, 0.2)
    attraction: float = 1.0
    confinement: float = 0.0
    beta: float = 4.0
    mass: float = 1.0
    t_end: float = 0.5
    bounds: Any = None

    def __post_init__(self) -> None:
        for name in ("weights", "means", "variances"):
            values = tuple(check_real(name, v) for v in getattr(self, name))
            if len(values) != len(self.weights) or not values:
                raise InvalidInput(f"{name}={values}: weights, means and variances must have the same length >= 1.")
            if name != "means" and min(values) <= 0.0:
                raise InvalidInput(f"{name}={values}: must be > 0.")
            object.__setattr__(self, name, values)
        check_real("attraction", self.attraction)
        check_real("confinement", self.confinement)
        check_positive("beta", self.beta, infinite=True)
        check_positive("mass", self.mass)
        check_positive("t_end", self.t_end, zero=True)
        if self.bounds is not None:
            object.__setattr__(self, "bounds", check_interval("bounds", self.bounds))

    def components(self, t: float) -> _Components:
        """Return normalized weights, means and variances of the components at time ``t``."""
        t = check_time(t)
        weights = np.array(self.weights) / math.fsum(self.weights)
        rate = self._rate
        center = float(weights @ self.means)
        means = center * math.exp(-self.confinement * t) + (np.array(self.means) - center) * math.exp(-rate * t)
        spread = t if rate == 0.0 else -math.expm1(-2.0 * rate * t) / (2.0 * rate)
        return weights, means, np.array(self.variances) * math.exp(-2.0 * rate * t) + 2.0 * self.diffusion * spread

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the interval `bounds`."""
        return box_of(self.bounds, self._reach, cells)

    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        parts = [self.components(t)[1:] for t in np.linspace(0.0, self.t_end, 33)]
        means, half = np.ravel([p[0] for p in parts])[:, None], DEVIATIONS * np.sqrt(np.ravel([p[1] for p in parts]))
        return means - half[:, None], means + half[:, None]

    def state(self, t: float) -> _Components:
        """Return the `components`."""
        return self.components(t)

    @property
    def _rate(self) -> float:
        return self.confinement + self.attraction * self.mass

    @property
    def has_jko_steps(self) -> bool:
        """Whether there is one component, or no diffusion."""
        return len(self.weights) == 1 or math.isinf(self.beta)

    def jko_step(self, state: _Components, tau: float) -> _Components:
        """Return ``m' = m/(1 + tau a)`` and, about it, the step of an Ornstein-Uhlenbeck flow of stiffness a + k M."""
        weights, means, variances = state
        if not self.has_jko_steps:
            raise InvalidInput("the JKO steps of a mixture have a closed form only at beta=inf; take one component.")
        center, b = float(weights @ means), 1.0 + tau * self._rate
        if min(b, 1.0 + tau * self.confinement) <= 0.0:
            raise InvalidInput(f"tau={tau!r}: 1 + tau (a + k M) and 1 + tau a must be > 0, or the step has no minimum.")
        deviations = (np.sqrt(variances) + np.sqrt(variances + 4.0 * tau * self.diffusion * b)) / (2.0 * b)
        return weights, center / (1.0 + tau * self.confinement) + (means - center) / b, deviations**2

    def potential(self, x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = a x^2 / 2``."""
        return 0.5 * self.confinement * x * x

    def kernel(self, x: np.ndarray) -> np.ndarray:
        """Return ``U(x, x') = k |x - x'|^2 / 2`` as a function of ``x - x'``."""
        return 0.5 * self.attraction * x * x

    def energy(self) -> FreeEnergy:
        """Return the entropy, confinement and attraction, each only if it is there."""
        terms: list[Term] = [Potential(self.potential)] if self.confinement else []
        if self.attraction or not terms:
            terms.append(Interaction(self.kernel))
        return self._with_entropy(*terms)

    def pdf(self, x: np.ndarray, t: float) -> np.ndarray:
        """Return the density at the points ``x``."""
        return self._pdf_and_slope(np.asarray(x, dtype=float), self.components(t))[0]

    def _pdf_and_slope(self, x: np.ndarray, state: _Components) -> tuple[np.ndarray, np.ndarray]:
        weights, means, variances = state
        shift = x[..., None] - means
        parts = self.mass * weights * np.exp(-0.5 * shift**2 / variances) / np.sqrt(2.0 * math.pi * variances)
        return parts.sum(-1), np.sum(-shift / variances * parts, axis=-1)

    def density_of(self, grid: Grid, state: _Components) -> Density:
        """Return the exact cell averages of the mixture."""
        check_axes(grid, 1)
        masses = sum(weight * normal_cell_masses(grid.edges[0], mean, math.sqrt(variance))
                     for weight, mean, variance in zip(*state))
        return Density.from_values(grid, self.mass * masses / grid.widths[0])

    def quantities_of(self, state: _Components) -> dict[str, float]:
        """Return the mean, variance, energy and dissipation of the mixture."""
        weights, means, variances = state
        mean = float(weights @ means)
        variance = float(weights @ (variances + (means - mean) ** 2))
        reach = DEVIATIONS * np.sqrt(variances)
        x, w = legendre_panels(float((means - reach).min()), float((means + reach).max()), panels=120)
        rho, slope = self._pdf_and_slope(x, state)
        force = self.confinement * x + self.attraction * self.mass * (x - mean)
        entropy, dissipation = entropy_and_dissipation(w, rho, slope, force, self.diffusion)
        pull = self.confinement * (variance + mean**2) + self.attraction * self.mass * variance
        return {
            "mean": mean,
            "variance": variance,
            "energy": self.diffusion * entropy + 0.5 * self.mass * pull,
            "dissipation": dissipation,
        }


@dataclass(frozen=True)
class CosineTransport(ExactProblem):
    r"""Transport without diffusion in ``V = -a cos x`` on the circle, from ``rho0 = (1 + b cos(x - p)) / (2 pi)``.

    The characteristics ``x' = -a sin x`` are ``tan(x/2) = e^{-at} tan(x0/2)``, so that with ``x0(x)`` the foot of the
    characteristic through x the mass of ``[x1, x2]`` is that of ``[x0(x1), x0(x2)]`` at time zero. The density stays
    smooth at every time and gathers in a peak of height ``e^{at} rho0(0)`` at the origin.

    Parameters
    ----------
    strength : float
        a > 0.
    amplitude, phase : float
        b, with ``|b| < 1``, and p.
    t_end : float
        Time of comparison.
    """

    strength: float = 1.0
    amplitude: float = 0.5
    phase: float = 1.0
    t_end: float = 1.0
    beta: float = math.inf

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)
        check_real("phase", self.phase)
        check_positive("t_end", self.t_end, zero=True)
        if abs(check_real("amplitude", self.amplitude)) >= 1.0:
            raise InvalidInput(f"amplitude={self.amplitude!r}: must be between -1 and 1.")
        if self.beta != math.inf:
            raise InvalidInput(f"beta={self.beta!r}: must be infinite; with diffusion no closed form is known.")

    def foot(self, x: np.ndarray, t: float) -> np.ndarray:
        """Return the point ``x0`` in ``[-pi, pi]`` from which ``x`` in ``[-pi, pi]`` is reached at time ``t``."""
        # arctan2 rather than tan keeps x = +-pi, a point at rest, where it is.
        half = 0.5 * np.asarray(x, dtype=float)
        return 2.0 * np.arctan2(math.exp(self.strength * check_time(t)) * np.sin(half), np.cos(half))

    def pdf(self, x: np.ndarray, t: float) -> np.ndarray:
        """Return the density at the points ``x`` of ``[-pi, pi]``."""
        growth, half = math.exp(self.strength * check_time(t)), 0.5 * np.asarray(x, dtype=float)
        stretch = growth / (np.cos(half) ** 2 + (growth * np.sin(half)) ** 2)
        return (1.0 + self.amplitude * np.cos(self.foot(x, t) - self.phase)) / (2.0 * math.pi) * stretch

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the periodic grid of ``[-pi, pi]``."""
        return Grid((-math.pi, math.pi), cells=cells, boundary="periodic")

    def potential(self, x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = -a cos x``."""
        return -self.strength * np.cos(x)

    def energy(self) -> FreeEnergy:
        """Return the potential alone."""
        return self._with_entropy(Potential(self.potential))

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time ``t``."""
        check_axes(grid, 1)
        foot = self.foot(grid.edges[0], t)
        # sin b - sin a = 2 sin((b - a)/2) cos((a + b)/2) does not cancel in small cells.
        middle, half = 0.5 * (foot[1:] + foot[:-1]), 0.5 * np.diff(foot)
        masses = (half + self.amplitude * np.sin(half) * np.cos(middle - self.phase)) / math.pi
        return Density.from_values(grid, masses / grid.widths[0])

    def quantities(self, t: float) -> dict[str, float]:
        """Return ``E cos x``, ``E sin x``, energy ``-a E cos x`` and dissipation ``a^2 E sin^2 x`` at time ``t``."""
        x0, w = legendre_panels(-math.pi, math.pi, panels=200)
        # Integrate over the initial mass: its density is smooth whatever the height of the peak.
        weight = w * (1.0 + self.amplitude * np.cos(x0 - self.phase)) / (2.0 * math.pi)
        growth = math.exp(self.strength * check_time(t))
        x = 2.0 * np.arctan2(np.sin(0.5 * x0), growth * np.cos(0.5 * x0))
        cosine = float(np.sum(weight * np.cos(x)))
        return {
            "cosine": cosine,
            "sine": float(np.sum(weight * np.sin(x))),
            "energy": -self.strength * cosine,
            "dissipation": self.strength**2 * float(np.sum(weight * np.sin(x) ** 2)),
        }

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the same quantities of a computed density."""
        x = rho.grid.centers[0]
        named = {"cosine": rho.expect(np.cos(x)), "sine": rho.expect(np.sin(x))}
        return named | self._measure_energies(rho)
