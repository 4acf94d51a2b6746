"""Flows with a mobility A(x): Gaussians under a constant matrix, moments in a well, modes between walls.

Of ``d rho/dt = div(rho A grad(V + D log rho))``, with states at rest that do not depend on A.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.mobility import Mobility
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import ExactProblem, box_of, check_axes, check_boxes, check_time
from .cells import gaussian_cell_averages, legendre_panels
from .gaussian import OrnsteinUhlenbeck, decay_matrix, integrated_decay, symmetric_matrix

__all__ = ["ConstantMobility", "MobilityJump", "MobilityWell", "PowerMobility"]


@dataclass(frozen=True)
class ConstantMobility(OrnsteinUhlenbeck):
    r"""Gaussian data in a quadratic potential, under a constant mobility matrix A.

    The solution stays Gaussian, with

    .. math:: m' = -A K (m - \mu), \qquad S' = -A K S - S K A + 2 D A.

    In the coordinates :math:`y = L^{-1} (x - \mu)`, A = L L', it is the flow of mobility 1 in the potential of
    L' K L. The dissipation is :math:`E\,g \cdot A g` with :math:`g = K (x - \mu) - D S^{-1} (x - m)`.

    Parameters
    ----------
    mobility_matrix : float or (d, d) array_like
        A, symmetric positive definite.
    stiffness, mean, variance, center, beta, t_end, bounds
        As in `OrnsteinUhlenbeck`.
    """

    mobility_matrix: Any = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        matrix = symmetric_matrix("mobility_matrix", self.mobility_matrix, self.ndim)
        if np.linalg.eigvalsh(matrix).min() <= 0.0:
            raise InvalidInput(f"mobility_matrix={self.mobility_matrix!r}: must be positive definite.")
        self._store(mobility_matrix=matrix)

    @property
    def has_jko_steps(self) -> bool:
        """Steps of JKO with the distance of this metric are not among those that are solved."""
        return False

    @property
    def mobility(self) -> Mobility:
        """The matrix A."""
        return Mobility([list(row) for row in self.mobility_matrix])

    def moments(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (d,) and covariance (d, d) at time ``t``."""
        t, root = check_time(t), np.linalg.cholesky(np.array(self.mobility_matrix))
        stiffness, center = root.T @ np.array(self.stiffness) @ root, np.array(self.center)
        decay = decay_matrix(stiffness, t)
        start = np.linalg.solve(root, np.linalg.solve(root, np.array(self.variance)).T)
        spread = decay @ start @ decay + 2.0 * self.diffusion * integrated_decay(stiffness, t, 2.0)
        mean = center + root @ decay @ np.linalg.solve(root, np.array(self.mean) - center)
        cov = root @ spread @ root.T
        return mean, 0.5 * (cov + cov.T)

    def _dissipation(self, cov: np.ndarray, mean_force: np.ndarray, stiffness: Any = None) -> float:
        matrix = np.array(self.mobility_matrix)
        pull = np.array(self.stiffness) @ cov - self.diffusion * np.eye(self.ndim)
        return float(mean_force @ matrix @ mean_force + np.trace(matrix @ pull @ np.linalg.solve(cov, pull.T)))


@dataclass(frozen=True)
class MobilityWell(ExactProblem):
    r"""``A = 1 + x^2`` and ``V = k log(1 + x^2)`` on the line: the first two moments close.

    .. math:: m' = (2D - 2k)\,m, \qquad (E x^2)' = 2D + (6D - 4k)\,E x^2,

    and the law at rest is :math:`(1 + x^2)^{-k/D} / Z`.

    Parameters
    ----------
    strength : float
        k > 3/2 D, with which the moments stay finite at rest.
    mean, variance : float
        Of the Gaussian at the start.
    beta, t_end : float
    bounds : (lo, hi)
        Box of the grid.
    """

    strength: float = 8.0
    mean: float = 0.5
    variance: float = 0.1
    beta: float = 1.0
    t_end: float = 0.05
    bounds: Any = (-4.0, 4.0)

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_positive("variance", self.variance)
        check_positive("t_end", self.t_end, zero=True)
        check_real("mean", self.mean)
        if not check_real("strength", self.strength) > 1.5 * self.diffusion:
            raise InvalidInput(f"strength={self.strength!r}: must be more than 3/2 of D = {self.diffusion:g}.")
        object.__setattr__(self, "bounds", check_boxes(self.bounds, 1))

    @property
    def has_density(self) -> bool:
        """The moments alone are known."""
        return False

    @property
    def mobility(self) -> Mobility:
        """1 + x^2."""
        return Mobility(lambda x: 1.0 + x * x, divergence=lambda x: 2.0 * x)

    def grid(self, cells: Any = 200) -> Grid:
        """Return the grid of the box."""
        return box_of(self.bounds, None, cells)

    def energy(self) -> FreeEnergy:
        """Return entropy and potential."""
        return self._with_entropy(Potential(lambda x: self.strength * np.log1p(x * x)))

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at the start; later densities are not known."""
        check_axes(grid, 1)
        if check_time(t) > 0.0:
            raise InvalidInput(f"t={t:g}: MobilityWell knows the density at the start alone, and moments later.")
        cov = np.array([[self.variance]])
        return Density.from_values(grid, gaussian_cell_averages(grid, np.array([self.mean]), cov))

    def quantities(self, t: float) -> dict[str, float]:
        """Return the mean and E x^2 at time ``t``."""
        t, D, k = check_time(t), self.diffusion, self.strength
        rate, start = 4.0 * k - 6.0 * D, self.variance + self.mean**2
        rest = 2.0 * D / rate
        return {"mean": self.mean * math.exp((2.0 * D - 2.0 * k) * t),
                "second_moment": rest + (start - rest) * math.exp(-rate * t)}

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the same of a computed density."""
        mean = float(np.atleast_1d(rho.mean())[0])
        return {"mean": mean, "second_moment": float(np.atleast_2d(rho.cov())[0, 0]) + mean**2}


class _Modes(ExactProblem):
    r"""Diffusion between walls by modes of the generator, :math:`(A u')' = -\lambda u`, u' = 0 at the walls.

    .. math:: \rho(x, t) = \frac{1}{b - a} + \sum_n c_n e^{-D \lambda_n t} u_n(x),

    with averages over cells from :math:`\int u = -A u' / \lambda`.
    """

    modes: Mapping[int, float]

    @abstractmethod
    def _ends(self) -> tuple[float, float]:
        """Return the walls."""

    @abstractmethod
    def mode(self, n: int) -> tuple[float, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Return the eigenvalue, u and A u' of mode n >= 1."""

    @abstractmethod
    def _mobility_at(self, x: np.ndarray) -> np.ndarray:
        """Return A."""

    def _panels(self) -> tuple[np.ndarray, np.ndarray]:
        return legendre_panels(*self._ends())

    def _check_modes(self) -> None:
        check_positive("beta", self.beta)
        check_positive("t_end", self.t_end, zero=True)
        if any(n != int(n) or n < 1 for n in self.modes):
            raise InvalidInput(f"modes={dict(self.modes)!r}: the keys must be integers >= 1.")
        lowest = float(self.pdf(np.linspace(*self._ends(), 2001), 0.0).min())
        if lowest <= 0.0:
            raise InvalidInput(f"modes={dict(self.modes)!r}: the initial density falls to {lowest:.3g}, must be > 0; "
                               "use smaller ones.")

    @property
    def mobility(self) -> Mobility:
        """A."""
        return Mobility(self._mobility_at)

    def pdf(self, x: np.ndarray, t: float) -> np.ndarray:
        """Return the density at the points ``x``."""
        low, high = self._ends()
        total = np.full(np.shape(x), 1.0 / (high - low))
        for n, c in self.modes.items():
            rate, u, _ = self.mode(n)
            total += c * math.exp(-self.diffusion * rate * check_time(t)) * u(x)
        return total

    def grid(self, cells: Any = 200) -> Grid:
        """Return the no-flux grid."""
        return Grid(self._ends(), cells=cells, boundary="no-flux")

    def energy(self) -> FreeEnergy:
        """Return the entropy alone."""
        return self._with_entropy()

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time ``t``."""
        check_axes(grid, 1)
        low, high = self._ends()
        masses = grid.widths[0] / (high - low)
        for n, c in self.modes.items():
            rate, _, flux = self.mode(n)
            masses = masses - c * math.exp(-self.diffusion * rate * check_time(t)) * np.diff(flux(grid.edges[0])) / rate
        return Density.from_values(grid, masses / grid.widths[0])

    def quantities(self, t: float) -> dict[str, float]:
        """Return mean, energy and dissipation at time ``t``."""
        x, w = self._panels()
        rho, flux = self.pdf(x, t), np.zeros(x.size)
        for n, c in self.modes.items():
            rate, _, own = self.mode(n)
            flux += self.diffusion * c * math.exp(-self.diffusion * rate * t) * own(x)
        return {"mean": float(np.sum(w * rho * x)), "energy": float(self.diffusion * np.sum(w * rho * np.log(rho))),
                "dissipation": float(np.sum(w * flux**2 / (self._mobility_at(x) * rho)))}

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the same of a computed density."""
        return {"mean": float(np.atleast_1d(rho.mean())[0])} | self._measure_energies(rho)


@dataclass(frozen=True)
class PowerMobility(_Modes):
    r"""``A = scale x^2`` on ``[1, length]`` without a potential: geometric Brownian motion between walls.

    The modes are those of Euler's equation, :math:`u_n = x^{-1/2} \cos(\omega_n \log x + \phi_n)` with
    :math:`\omega_n = n \pi / \log(length)`, :math:`\tan\phi_n = -1/(2 \omega_n)` and
    :math:`\lambda_n = scale\,(\omega_n^2 + 1/4)`. In y = log x it is diffusion with the constant drift -D/2.

    Parameters
    ----------
    scale, length : float
    modes : mapping of int to float
        The amplitudes c_n; the initial density must be positive.
    beta, t_end : float
    """

    scale: float = 0.7
    length: float = 3.0
    modes: Mapping[int, float] = field(default_factory=lambda: {1: 0.3, 2: -0.1})
    beta: float = 2.0
    t_end: float = 0.1

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        if not check_positive("length", self.length) > 1.0:
            raise InvalidInput(f"length={self.length!r}: must be more than 1.")
        self._check_modes()

    def _ends(self) -> tuple[float, float]:
        return 1.0, self.length

    def _mobility_at(self, x: np.ndarray) -> np.ndarray:
        return self.scale * x * x

    def mode(self, n: int) -> tuple[float, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Return the eigenvalue, u and A u' of mode n >= 1."""
        omega = n * math.pi / math.log(self.length)
        phase = -math.atan(0.5 / omega)

        def u(x: np.ndarray) -> np.ndarray:
            return np.cos(omega * np.log(x) + phase) / np.sqrt(x)

        def flux(x: np.ndarray) -> np.ndarray:
            angle = omega * np.log(x) + phase
            return -self.scale * np.sqrt(x) * (0.5 * np.cos(angle) + omega * np.sin(angle))

        return self.scale * (omega**2 + 0.25), u, flux


@dataclass(frozen=True)
class MobilityJump(_Modes):
    r"""Diffusion on [0, 1] whose mobility jumps from 1 to ``right`` at ``place``: two media in contact.

    Density and flux are continuous at the jump. With :math:`p = \sqrt\lambda`, :math:`q = \sqrt{\lambda/a}`, s the
    place and a the mobility on the right, u is :math:`\cos(p x) \cos(q (1 - s))` on the left and
    :math:`\cos(p s) \cos(q (1 - x))` on the right, with

    .. math:: p \sin(p s) \cos(q (1 - s)) + a q \cos(p s) \sin(q (1 - s)) = 0.

    Parameters
    ----------
    right, place : float
    modes : mapping of int to float
        The amplitudes c_n; the initial density must be positive.
    beta, t_end : float
    """

    right: float = 5.0
    place: float = 0.5
    modes: Mapping[int, float] = field(default_factory=lambda: {1: 0.5, 2: 0.2})
    beta: float = 1.0
    t_end: float = 0.03

    def __post_init__(self) -> None:
        check_positive("right", self.right)
        if not 0.0 < check_real("place", self.place) < 1.0:
            raise InvalidInput(f"place={self.place!r}: must lie between 0 and 1.")
        self._check_modes()

    @property
    def smooth(self) -> bool:
        """The slope of the density jumps where A does."""
        return False

    @property
    def expected_order(self) -> float:
        """Order 2 where the jump lies between two cells."""
        return 2.0

    def _ends(self) -> tuple[float, float]:
        return 0.0, 1.0

    def _panels(self) -> tuple[np.ndarray, np.ndarray]:
        parts = [legendre_panels(0.0, self.place), legendre_panels(self.place, 1.0)]
        return np.concatenate([x for x, _ in parts]), np.concatenate([w for _, w in parts])

    def _mobility_at(self, x: np.ndarray) -> np.ndarray:
        return np.where(x < self.place, 1.0, self.right)

    def _condition(self, p: np.ndarray | float) -> Any:
        q, rest = p / math.sqrt(self.right), 1.0 - self.place
        return (p * np.sin(p * self.place) * np.cos(q * rest)
                + self.right * q * np.cos(p * self.place) * np.sin(q * rest))

    def mode(self, n: int) -> tuple[float, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Return the eigenvalue, u and A u' of mode n >= 1."""
        from scipy.optimize import brentq

        # In the variable of unit speed the walls are this far apart, and eigenvalues about as for one medium.
        width = self.place + (1.0 - self.place) / math.sqrt(self.right)
        p = np.linspace(1e-6, (n + 1.5) * math.pi / width, 400 * (n + 2))
        values = self._condition(p)
        turns = np.flatnonzero(values[:-1] * values[1:] < 0)
        root = brentq(self._condition, p[turns[n - 1]], p[turns[n - 1] + 1], xtol=1e-14)
        q, s = root / math.sqrt(self.right), self.place
        left, right = math.cos(q * (1.0 - s)), math.cos(root * s)

        def u(x: np.ndarray) -> np.ndarray:
            return np.where(x < s, left * np.cos(root * x), right * np.cos(q * (1.0 - x)))

        def flux(x: np.ndarray) -> np.ndarray:
            return np.where(x < s, -left * root * np.sin(root * x), self.right * right * q * np.sin(q * (1.0 - x)))

        return root**2, u, flux
