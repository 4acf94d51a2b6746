"""Pairs of laws whose Wasserstein distance is known in closed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wgflow.checks import check_interval, check_positive, check_real
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import DEVIATIONS
from .cells import ball_cell_averages, gaussian_cell_averages
from .gaussian import real_vector, symmetric_matrix

__all__ = ["ExactDistance", "GaussianPair", "NormalUniform", "UniformPair"]


class ExactDistance(ABC):
    """Two laws and their W2 distance."""

    @property
    @abstractmethod
    def distance(self) -> float:
        """W2 of the two laws."""

    @abstractmethod
    def densities(self, cells: int | Sequence[int] = 400) -> tuple[Density, Density]:
        """Return the exact cell averages of the two laws on one grid."""


@dataclass(frozen=True)
class UniformPair(ExactDistance):
    r"""Two uniform laws of the line: ``W2^2 = (c_1 - c_2)^2 + (h_1 - h_2)^2/3``, with centers c and half-lengths h.

    Parameters
    ----------
    first, second : (lo, hi)
    """

    first: Any = (0.0, 1.0)
    second: Any = (2.0, 5.0)

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            object.__setattr__(self, name, check_interval(name, getattr(self, name)))

    @property
    def distance(self) -> float:
        """W2."""
        (a, b), (c, d) = self.first, self.second
        return math.sqrt(0.25 * (a + b - c - d) ** 2 + ((b - a) - (d - c)) ** 2 / 12.0)

    def densities(self, cells: int | Sequence[int] = 400) -> tuple[Density, Density]:
        """Return the exact cell averages of the two laws, on the smallest interval that holds both."""
        grid = Grid((min(self.first[0], self.second[0]), max(self.first[1], self.second[1])), cells=cells)
        return _uniform(grid, self.first), _uniform(grid, self.second)


@dataclass(frozen=True)
class NormalUniform(ExactDistance):
    r"""A normal and a uniform law of the line:

    .. math:: W_2^2 = (m - c)^2 + s^2 + \frac{h^2}{3} - \frac{2 s h}{\sqrt \pi}

    for ``N(m, s^2)`` and the interval of center c and half-length h.

    Parameters
    ----------
    mean, deviation : float
        m and s.
    interval : (lo, hi)
    """

    mean: float = 0.0
    deviation: float = 1.0
    interval: Any = (-1.0, 1.0)

    def __post_init__(self) -> None:
        check_real("mean", self.mean)
        check_positive("deviation", self.deviation)
        object.__setattr__(self, "interval", check_interval("interval", self.interval))

    @property
    def distance(self) -> float:
        """W2."""
        lo, hi = self.interval
        s, h, shift = self.deviation, 0.5 * (hi - lo), self.mean - 0.5 * (lo + hi)
        return math.sqrt(shift**2 + s * s + h * h / 3.0 - 2.0 * s * h / math.sqrt(math.pi))

    def densities(self, cells: int | Sequence[int] = 400) -> tuple[Density, Density]:
        """Return the exact cell averages of the two laws, on the least interval with 7.2 deviations and the other."""
        half = DEVIATIONS * self.deviation
        grid = Grid((min(self.mean - half, self.interval[0]), max(self.mean + half, self.interval[1])), cells=cells)
        normal = gaussian_cell_averages(grid, np.array([self.mean]), np.array([[self.deviation**2]]))
        return Density.from_values(grid, normal, normalize=True), _uniform(grid, self.interval)


@dataclass(frozen=True)
class GaussianPair(ExactDistance):
    r"""Two Gaussians in one to three dimensions (Bures): ``W2^2 = |m_1 - m_2|^2 + tr(S + T - 2 (S^1/2 T S^1/2)^1/2)``.

    Parameters
    ----------
    means : pair of float or (d,) array_like
    variances : pair of float or (d, d) array_like
    """

    means: Any = ((0.0, 0.0), (1.0, -0.5))
    variances: Any = (0.3, ((0.6, 0.2), (0.2, 0.3)))

    def __post_init__(self) -> None:
        if len(self.means) != 2 or len(self.variances) != 2:
            raise InvalidInput("means and variances: need one for each of the two laws.")
        means = [real_vector("means", m) for m in self.means]
        if means[0].size != means[1].size:
            raise InvalidInput(f"means={self.means!r}: the two laws must have the same number of axes.")
        covs = [symmetric_matrix("variances", v, means[0].size) for v in self.variances]
        if min(np.linalg.eigvalsh(c).min() for c in covs) <= 0.0:
            raise InvalidInput(f"variances={self.variances!r}: must be positive definite.")
        object.__setattr__(self, "means", tuple(tuple(m.tolist()) for m in means))
        object.__setattr__(self, "variances", tuple(tuple(map(tuple, c.tolist())) for c in covs))

    @property
    def distance(self) -> float:
        """W2."""
        first, second = (np.array(c) for c in self.variances)
        root = _root(first)
        cross = _root(root @ second @ root)
        shift = np.subtract(*self.means)
        return math.sqrt(float(shift @ shift + np.trace(first + second - 2.0 * cross)))

    def densities(self, cells: int | Sequence[int] = 400) -> tuple[Density, Density]:
        """Return the exact cell averages of the two laws, in the smallest box that holds 7.2 deviations of both."""
        half = [DEVIATIONS * np.sqrt(np.diag(c)) for c in self.variances]
        low = np.min([np.array(m) - h for m, h in zip(self.means, half)], axis=0)
        high = np.max([np.array(m) + h for m, h in zip(self.means, half)], axis=0)
        counts = tuple(np.broadcast_to(cells, low.shape).tolist())
        grid = Grid(list(zip(low.tolist(), high.tolist())), cells=counts)
        first, second = (Density.from_values(grid, gaussian_cell_averages(grid, np.array(m), np.array(c)),
                                             normalize=True) for m, c in zip(self.means, self.variances))
        return first, second


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return the square root of a symmetric positive semi-definite matrix."""
    values, axes = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T


def _uniform(grid: Grid, interval: tuple[float, float]) -> Density:
    center, half = 0.5 * (interval[0] + interval[1]), 0.5 * (interval[1] - interval[0])
    return Density.from_values(grid, np.maximum(ball_cell_averages(grid, (center,), half, 0.0), 0.0))
