"""Flows that keep a Gaussian Gaussian, in one to four dimensions: heat, Ornstein-Uhlenbeck, rank-one interaction."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.interactions.terms import LowRank

from .base import DEVIATIONS, StateProblem, box_of, check_axes, check_boxes, check_time, name_moments
from .cells import gaussian_cell_averages

__all__ = ["GaussianProblem", "Heat", "OrnsteinUhlenbeck", "RankOne"]

_Moments = tuple[np.ndarray, np.ndarray]
#: Matrices whose commutator is below this part of their size commute.
_COMMUTING = 1e-12


class GaussianProblem(StateProblem):
    """Grid, density and measurements of a solution ``N(m(t), S(t))``; parameters are kept as nested tuples."""

    stiffness: Any
    mean: Any
    variance: Any
    bounds: Any

    def __post_init__(self) -> None:
        check_positive("beta", self.beta, infinite=True)
        check_positive("t_end", self.t_end, zero=True)
        mean = real_vector("mean", self.mean)
        variance = symmetric_matrix("variance", self.variance, mean.size)
        if np.linalg.eigvalsh(variance).min() <= 0.0:
            raise InvalidInput(f"variance={self.variance!r}: must be positive definite.")
        self._store(mean=mean, stiffness=symmetric_matrix("stiffness", self.stiffness, mean.size), variance=variance)
        object.__setattr__(self, "bounds", check_boxes(self.bounds, mean.size))

    def _store(self, **arrays: np.ndarray) -> None:
        # Tuples, so that a problem can be compared, hashed and printed.
        for name, array in arrays.items():
            value = tuple(tuple(row) for row in array.tolist()) if array.ndim == 2 else tuple(array.tolist())
            object.__setattr__(self, name, value)

    @property
    def ndim(self) -> int:
        """Number of axes d."""
        return len(self.mean)

    @abstractmethod
    def moments(self, t: float) -> _Moments:
        """Return mean (d,) and covariance (d, d) at time ``t``."""

    def state(self, t: float) -> _Moments:
        """Return the `moments`."""
        return self.moments(t)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the box `bounds` with ``cells`` cells on each axis."""
        return box_of(self.bounds, self._reach, cells)

    def _reach(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        reach = [(mean, DEVIATIONS * np.sqrt(np.diag(cov))) for mean, cov in
                 (self.moments(t) for t in np.linspace(0.0, self.t_end, 33))]
        return [mean - half for mean, half in reach], [mean + half for mean, half in reach]

    def density_of(self, grid: Grid, state: _Moments) -> Density:
        """Return the exact cell averages of ``N(m, S)``."""
        check_axes(grid, self.ndim)
        return Density.from_values(grid, gaussian_cell_averages(grid, *state))

    # The steps of the covariance: S' maps to S by I + tau (K - D S'^-1), a symmetric matrix.
    @property
    def has_jko_steps(self) -> bool:
        """Whether K and S0 commute."""
        stiffness, cov = np.array(self.stiffness), np.array(self.variance)
        gap = np.abs(stiffness @ cov - cov @ stiffness).max()
        return bool(gap <= _COMMUTING * np.abs(stiffness).max() * np.abs(cov).max())

    def _spread_step(self, cov: np.ndarray, tau: float) -> np.ndarray:
        """Return the covariance after a JKO step: in each common eigenvector ``s' (1 + tau k) - tau D / s' = s``."""
        if not self.has_jko_steps:
            raise InvalidInput("the JKO steps have a closed form only where the stiffness and the variance commute.")
        # A generic combination has the common eigenvectors also where one of the two is degenerate.
        stiffness = np.array(self.stiffness)
        axes = np.linalg.eigh(cov / np.abs(cov).max() + 0.6180339887 * stiffness / max(np.abs(stiffness).max(), 1.0))[1]
        s = np.sqrt(np.einsum("ij,ik,kj->j", axes, cov, axes))
        b = 1.0 + tau * np.einsum("ij,ik,kj->j", axes, stiffness, axes)
        if b.min() <= 0.0:
            raise InvalidInput(f"tau={tau!r}: I + tau K must be positive definite, or the step has no minimum.")
        new = (s + np.sqrt(s * s + 4.0 * tau * self.diffusion * b)) / (2.0 * b)
        return (axes * new**2) @ axes.T

    def _spread(self, t: float) -> np.ndarray:
        """Return the covariance under the drift ``-K x``: ``e^{-Kt} S0 e^{-Kt} + D K^-1 (I - e^{-2Kt})``."""
        decay = decay_matrix(self.stiffness, t)
        cov = decay @ np.array(self.variance) @ decay + 2.0 * self.diffusion * integrated_decay(self.stiffness, t, 2.0)
        return 0.5 * (cov + cov.T)

    def _dissipation(self, cov: np.ndarray, mean_force: np.ndarray, stiffness: Any = None) -> float:
        """Return ``E |K (x - m) - D S^-1 (x - m) + f|^2 = |f|^2 + tr((K S - D I) S^-1 (K S - D I)')``."""
        drift = np.array(self.stiffness if stiffness is None else stiffness) @ cov - self.diffusion * np.eye(self.ndim)
        return float(mean_force @ mean_force + np.trace(drift @ np.linalg.solve(cov, drift.T)))

    def _entropy(self, cov: np.ndarray) -> float:
        """Return ``D int rho log rho = -D/2 log det(2 pi e S)``; zero at ``beta = inf``."""
        return -0.5 * self.diffusion * float(np.linalg.slogdet(2.0 * math.pi * math.e * cov)[1])


@dataclass(frozen=True)
class OrnsteinUhlenbeck(GaussianProblem):
    r"""Gaussian data in a quadratic potential ``V = (x - mu)' K (x - mu) / 2``.

    The solution stays Gaussian, with

    .. math:: m(t) = \mu + e^{-Kt}(m_0 - \mu), \qquad
              S(t) = e^{-Kt} S_0 e^{-Kt} + D K^{-1} (I - e^{-2Kt}),

    free energy ``tr(K (S + (m - mu)(m - mu)'))/2 - D/2 log det(2 pi e S)`` and dissipation
    ``|K (m - mu)|^2 + tr((K - D S^-1) S (K - D S^-1))``. A matrix K that is not diagonal mixes the axes. K may be
    singular or indefinite, and ``beta = inf`` is pure transport, ``rho(x, t) = e^{tr K t} rho0(mu + e^{Kt} (x - mu))``.

    Parameters
    ----------
    stiffness : float or (d, d) array_like
        Symmetric K.
    mean, center : float or (d,) array_like
        m0 and mu.
    variance : float or (d, d) array_like
        S0, symmetric positive definite.
    beta : float
        Inverse temperature, ``D = 1/beta``; may be infinite.
    t_end : float
        Time of comparison.
    bounds : sequence of (lo, hi), optional
        Box of the grid. By default the smallest that holds 7.2 standard deviations at every time up to `t_end`.

    Raises
    ------
    InvalidInput
        If shapes do not fit each other, K is not symmetric or S0 not positive definite.
    """

    stiffness: Any = 1.0
    mean: Any = 2.0
    variance: Any = 0.25
    center: Any = 0.0
    beta: float = 1.0
    t_end: float = 1.0
    bounds: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._store(center=real_vector("center", self.center, self.ndim))

    def moments(self, t: float) -> _Moments:
        """Return mean (d,) and covariance (d, d) at time ``t``."""
        t, center = check_time(t), np.array(self.center)
        return center + decay_matrix(self.stiffness, t) @ (np.array(self.mean) - center), self._spread(t)

    def jko_step(self, state: _Moments, tau: float) -> _Moments:
        """Return ``m' = mu + (I + tau K)^-1 (m - mu)``, and `_spread_step`."""
        center, cov = np.array(self.center), self._spread_step(state[1], tau)
        return center + np.linalg.solve(np.eye(self.ndim) + tau * np.array(self.stiffness), state[0] - center), cov

    def potential(self, *x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = (x - mu)' K (x - mu) / 2``."""
        return quadratic_form(self.stiffness, self.center, x)

    def energy(self) -> FreeEnergy:
        """Return entropy and potential; without the entropy at ``beta = inf``."""
        return self._with_entropy(Potential(self.potential))

    def quantities_of(self, state: _Moments) -> dict[str, float]:
        """Return the mean, covariance, energy and dissipation of ``N(m, S)``."""
        mean, cov = state
        stiffness, shift = np.array(self.stiffness), mean - np.array(self.center)
        energy = 0.5 * float(np.sum(stiffness * (cov + np.outer(shift, shift)))) + self._entropy(cov)
        named = {"energy": energy, "dissipation": self._dissipation(cov, stiffness @ shift)}
        return name_moments(mean, cov) | named


class Heat(OrnsteinUhlenbeck):
    r"""The heat equation ``d rho/dt = D Laplacian rho`` from a Gaussian: ``N(m0, S0 + 2 D t I)``.

    Free energy ``-D/2 log det(2 pi e S)``, dissipation ``D^2 tr S^-1``.

    Parameters
    ----------
    mean, variance, beta, t_end, bounds
        As in `OrnsteinUhlenbeck`, of which this is the case ``K = 0``.
    """

    def __init__(
        self, mean: Any = 0.0, variance: Any = 0.1, beta: float = 2.0, t_end: float = 0.5, bounds: Any = None
    ) -> None:
        check_positive("beta", beta)
        super().__init__(stiffness=0.0, mean=mean, variance=variance, beta=beta, t_end=t_end, bounds=bounds)

    def energy(self) -> FreeEnergy:
        """Return the entropy alone."""
        return self._with_entropy()


@dataclass(frozen=True)
class RankOne(GaussianProblem):
    r"""The smallest network: ``U(x, x') = phi(x) phi(x')`` with ``phi = w'x`` and ``V = x'Kx/2 - y phi(x)``.

    The interaction sees rho only through ``s(t) = int phi rho``. With a Gaussian start the solution stays Gaussian,

    .. math:: m' = -(K + w w') m + y w, \qquad S' = -(K S + S K) + 2 D I,

    and ``F = tr(K (S + m m'))/2 - y w'm + (w'm)^2/2 - D/2 log det(2 pi e S)``.

    Parameters
    ----------
    stiffness : float or (d, d) array_like
        Symmetric K.
    direction : float or (d,) array_like
        w.
    target : float
        y.
    mean, variance : float or array_like
        m0 of shape (d,) and S0 of shape (d, d).
    beta, t_end, bounds
        As in `OrnsteinUhlenbeck`.
    """

    stiffness: Any = 0.5
    direction: Any = 1.0
    target: float = 1.0
    mean: Any = -1.0
    variance: Any = 0.3
    beta: float = 4.0
    t_end: float = 1.0
    bounds: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("target", self.target)
        self._store(direction=real_vector("direction", self.direction, self.ndim))

    def _mean_stiffness(self) -> np.ndarray:
        return np.array(self.stiffness) + np.outer(self.direction, self.direction)

    def moments(self, t: float) -> _Moments:
        """Return mean (d,) and covariance (d, d) at time ``t``."""
        t, matrix = check_time(t), self._mean_stiffness()
        pull = self.target * np.array(self.direction)
        mean = decay_matrix(matrix, t) @ np.array(self.mean) + integrated_decay(matrix, t, 1.0) @ pull
        return mean, self._spread(t)

    def jko_step(self, state: _Moments, tau: float) -> _Moments:
        """Return ``m' = (I + tau (K + w w'))^-1 (m + tau y w)``, and the step of the covariance under K."""
        cov = self._spread_step(state[1], tau)
        matrix = np.eye(self.ndim) + tau * self._mean_stiffness()
        return np.linalg.solve(matrix, state[0] + tau * self.target * np.array(self.direction)), cov

    def feature(self, *x: np.ndarray) -> np.ndarray:
        """Return ``phi(x) = w'x``."""
        return sum(w * axis for w, axis in zip(self.direction, x))

    def potential(self, *x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = x'Kx/2 - y phi(x)``."""
        return quadratic_form(self.stiffness, (0.0,) * self.ndim, x) - self.target * self.feature(*x)

    def energy(self) -> FreeEnergy:
        """Return the entropy, potential and the rank-one interaction."""
        return self._with_entropy(
            Potential(self.potential), LowRank(lambda *x: self.feature(*x)[None], signs=np.ones(1))
        )

    def quantities_of(self, state: _Moments) -> dict[str, float]:
        """Return the mean, covariance, energy and dissipation of ``N(m, S)``."""
        mean, cov = state
        stiffness, w = np.array(self.stiffness), np.array(self.direction)
        s = float(w @ mean)
        energy = 0.5 * float(np.sum(stiffness * (cov + np.outer(mean, mean)))) - self.target * s + 0.5 * s * s
        force = stiffness @ mean + (s - self.target) * w
        return name_moments(mean, cov) | {
            "energy": energy + self._entropy(cov),
            "dissipation": self._dissipation(cov, force),
        }


def real_vector(name: str, value: Any, size: int | None = None) -> np.ndarray:
    """Return a vector of ``size`` finite numbers (one to four when ``size`` is None); a scalar is repeated."""
    try:
        vector = np.atleast_1d(np.asarray(value, dtype=float))
    except (TypeError, ValueError) as error:
        raise InvalidType(f"{name}={value!r}: must be real numbers.") from error
    if size is not None and vector.shape == (1,):
        vector = np.full(size, vector[0])
    if vector.ndim != 1 or not np.isfinite(vector).all() or vector.size != (size or vector.size):
        raise InvalidInput(f"{name}={value!r}: must be {size or 'one to four'} finite numbers.")
    if vector.size > 4:
        raise InvalidInput(f"{name}={value!r}: grids have at most four axes.")
    return vector


def symmetric_matrix(name: str, value: Any, size: int) -> np.ndarray:
    """Return a symmetric ``(size, size)`` matrix; a scalar stands for that multiple of the identity."""
    try:
        matrix = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidType(f"{name}={value!r}: must be real numbers.") from error
    if matrix.size == 1:
        matrix = matrix.reshape(()) * np.eye(size)
    if matrix.shape != (size, size) or not np.isfinite(matrix).all():
        raise InvalidInput(f"{name}={value!r}: must be a number or a finite ({size}, {size}) matrix.")
    gap = float(np.abs(matrix - matrix.T).max())
    if gap > 1e-12 * max(1.0, float(np.abs(matrix).max())):
        raise InvalidInput(f"{name}={value!r}: must be symmetric, entries differ by {gap:.3g}; use (K + K.T) / 2.")
    return 0.5 * (matrix + matrix.T)


def decay_matrix(matrix: Any, t: float) -> np.ndarray:
    """Return ``e^{-At}`` of a symmetric matrix A."""
    rates, axes = np.linalg.eigh(np.array(matrix))
    return (axes * np.exp(-rates * t)) @ axes.T


def integrated_decay(matrix: Any, t: float, speed: float) -> np.ndarray:
    """Return ``int_0^t e^{-speed A s} ds`` of a symmetric matrix A, singular or not."""
    rates, axes = np.linalg.eigh(speed * np.array(matrix))
    return (axes * np.array([t if k == 0.0 else -math.expm1(-k * t) / k for k in rates])) @ axes.T


def quadratic_form(matrix: Any, center: Sequence[float], x: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``(x - c)' A (x - c) / 2`` on arrays of coordinates."""
    shift = [axis - c for axis, c in zip(x, center)]
    return 0.5 * sum(
        matrix[i][j] * shift[i] * shift[j] for i in range(len(shift)) for j in range(len(shift)) if matrix[i][j]
    ) + np.zeros_like(shift[0])
