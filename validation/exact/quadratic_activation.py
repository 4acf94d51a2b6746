"""A network with quadratic activation in the space of its weights: a matrix Riccati equation on a grid."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from wgflow.checks import check_real
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.potentials import Potential
from wgflow.interactions.terms import LowRank

from .base import name_moments
from .gaussian import GaussianProblem, symmetric_matrix
from .spectral import integrate

__all__ = ["QuadraticActivation"]


@dataclass(frozen=True)
class QuadraticActivation(GaussianProblem):
    r"""Neurons of activation ``(w'x)^2`` that learn a matrix A*: ``U(w, z) = (w'z)^2``, ``V = -w'A*w + lam |w|^2/2``.

    The second moments ``A = int w w' rho`` close:

    .. math:: A' = 2 (A_* A + A A_*) - 4 A^2 - 2 \lambda A + 2 D I,

    and since the force ``-G w``, ``G = 2 (A - A_*) + lam I``, is linear, Gaussian data stay Gaussian: ``m' = -G m``,
    ``S' = -(G S + S G) + 2 D I``, ``A = S + m m'``; integrated to 1e-12. Without diffusion A has a closed form
    (`riccati`). The free energy is
    ``tr(A^2)/2 - tr(A* A) + lam tr(A)/2 - D/2 log det(2 pi e S)``.

    Parameters
    ----------
    target : float or (d, d) array_like
        Symmetric A*.
    ridge : float
        lam.
    mean, variance : float or array_like
        m0 of shape (d,) and S0 of shape (d, d); they set d, 1 to 4.
    beta, t_end, bounds
        As in `OrnsteinUhlenbeck`.
    """

    target: Any = ((0.8, 0.2), (0.2, -0.3))
    ridge: float = 0.1
    mean: Any = (0.3, 0.0)
    variance: Any = 0.3
    beta: float = 5.0
    t_end: float = 0.5
    bounds: Any = None
    stiffness: Any = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("ridge", self.ridge)
        self._store(target=symmetric_matrix("target", self.target, self.ndim))

    @property
    def has_jko_steps(self) -> bool:
        """False."""
        return False

    def moments(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (d,) and covariance (d, d) at time ``t``."""
        state = _moments(self, float(t))
        return state[: self.ndim].copy(), state[self.ndim :].reshape(self.ndim, self.ndim).copy()

    def riccati(self, t: float) -> np.ndarray:
        r"""Return A at time ``t`` without diffusion: :math:`e^{Bt} (A_0^{-1} + 4 \int_0^t e^{2Bs} ds)^{-1} e^{Bt}`.

        With ``B = 2 A* - lam I``.
        """
        second = np.array(self.variance) + np.outer(self.mean, self.mean)
        rates, axes = np.linalg.eigh(2.0 * np.array(self.target) - self.ridge * np.eye(self.ndim))
        grown = np.array([t if r == 0.0 else math.expm1(2.0 * r * t) / (2.0 * r) for r in rates])
        growth = (axes * np.exp(rates * t)) @ axes.T
        return growth @ np.linalg.inv(np.linalg.inv(second) + 4.0 * (axes * grown) @ axes.T) @ growth

    def features(self, *w: np.ndarray) -> np.ndarray:
        """Return ``w_i^2`` and ``sqrt(2) w_i w_j``, whose products sum to ``(w'z)^2``."""
        pairs = itertools.combinations(range(len(w)), 2)
        return np.stack([x * x for x in w] + [math.sqrt(2.0) * w[i] * w[j] for i, j in pairs])

    def potential(self, *w: np.ndarray) -> np.ndarray:
        """Return ``V(w) = -w'A*w + lam |w|^2/2``."""
        matrix = 0.5 * self.ridge * np.eye(self.ndim) - np.array(self.target)
        return sum(matrix[i, j] * w[i] * w[j] for i in range(self.ndim) for j in range(self.ndim))

    def energy(self) -> FreeEnergy:
        """Return the entropy, potential and the interaction of low rank."""
        return self._with_entropy(Potential(self.potential), LowRank(self.features))

    def _force(self, second: np.ndarray) -> np.ndarray:
        return 2.0 * (second - np.array(self.target)) + self.ridge * np.eye(self.ndim)

    def quantities_of(self, state: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        """Return the mean, covariance, energy and dissipation of ``N(m, S)``."""
        mean, cov = state
        second = cov + np.outer(mean, mean)
        energy = 0.5 * np.sum(second**2) - np.sum(np.array(self.target) * second) + 0.5 * self.ridge * np.trace(second)
        force = self._force(second)
        return name_moments(mean, cov) | {
            "energy": float(energy) + self._entropy(cov), "dissipation": self._dissipation(cov, force @ mean, force),
        }


@lru_cache(maxsize=256)
def _moments(problem: QuadraticActivation, t: float) -> np.ndarray:
    """Return mean and covariance in one row."""
    d = problem.ndim

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        mean, cov = state[:d], state[d:].reshape(d, d)
        force = problem._force(cov + np.outer(mean, mean))
        change = 2.0 * problem.diffusion * np.eye(d) - force @ cov - cov @ force
        return np.concatenate([-force @ mean, change.ravel()])

    start = np.concatenate([problem.mean, np.ravel(problem.variance)])
    return integrate(slope, start, t, rtol=1e-12, atol=1e-13)
