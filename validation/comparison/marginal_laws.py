r"""The law of one coordinate, in the form in which a statistic sees it.

A `MarginalLaw` is a law on the line with a piecewise linear quantile function Q, its exact mean and deviation, and what
is not known of it: a density on a grid says where in a cell the mass lies only as far as the neighboring cells tell
(:func:`unresolved_share`), atoms of a quadrature nothing about the law between them, and a random sample is off its own
law by its fluctuations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.densities import Density

from ..quantile_functions import QuantileFunction

__all__ = ["ChosenLaws", "DensityLaws", "MarginalLaw", "unresolved_share"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MarginalLaw:
    """The law of one coordinate.

    Attributes
    ----------
    law : QuantileFunction
        The quantile function Q, piecewise linear.
    mean, deviation : float
    half_cell : float
        By how much points may be displaced inside their cells, see `unresolved_share`, in the mean square; 0 for atoms.
    jump : float
        By how much the distribution function may be off inside a cell, or the largest mass that atoms have at one
        place.
    coarse : MarginalLaw, optional
        Of atoms: the law that half as many of them stand for.
    rounding : float
        Rounding error of the coordinates.
    """

    law: QuantileFunction
    mean: float
    deviation: float
    half_cell: float = 0.0
    jump: float = 0.0
    coarse: MarginalLaw | None = None
    rounding: float = 0.0
    resample: Callable[[], Iterator[MarginalLaw]] | None = field(default=None, repr=False)
    _plans: dict[int, _Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_density(cls, rho: Density) -> MarginalLaw:
        """Return the law of a density on one axis, constant in each cell."""
        edges, masses = np.asarray(rho.grid.edges[0]), np.asarray(rho.masses)
        share, a, b = masses / masses.sum(), edges[:-1], edges[1:]
        mean = float(share @ (0.5 * (a + b)))
        # Of the piecewise constant density itself, with the variance inside the cells.
        deviation = float(np.sqrt(share @ ((a - mean) ** 2 + (a - mean) * (b - mean) + (b - mean) ** 2) / 3.0))
        unknown = unresolved_share(share / (b - a))
        return cls(QuantileFunction.from_masses(masses, a, b), mean, deviation,
                   half_cell=0.5 * float(np.sqrt(share @ (unknown * (b - a)) ** 2)),
                   jump=0.5 * float(np.max(share * unknown)))

    @classmethod
    def from_sorted(cls, x: Array) -> MarginalLaw:
        """Return the law of a sorted sample."""
        return cls(QuantileFunction.from_sorted(x), float(x.mean()), float(x.std()))

    def quantile(self, level: ArrayLike) -> Array:
        """Return Q(s) at levels s in [0, 1]."""
        return self.law(np.asarray(level, dtype=float))

    def cdf(self, x: ArrayLike, side: Literal["left", "right"] = "right") -> Array:
        """Return F(x), or its left limit F(x-) with ``side="left"``."""
        return self.law.cdf(np.asarray(x, dtype=float), side)

    def points(self, count: int) -> Array:
        """Return ``count`` sorted points of equal weight that stand for the law: the quantiles at (i + 1/2)/count."""
        return self.quantile((np.arange(count) + 0.5) / count)

    def shifted(self, distance: float) -> MarginalLaw:
        """Return the law moved along the axis."""
        q = self.law
        return MarginalLaw(QuantileFunction(q.levels, q.left + distance, q.right + distance), self.mean + distance,
                           self.deviation)

    def widened(self, deviation: float) -> MarginalLaw:
        """Return the law stretched about its mean to a deviation; a point mass becomes two points."""
        if self.deviation == 0.0:
            places = self.mean + deviation * np.array([-1.0, 1.0])
            return MarginalLaw(QuantileFunction(np.array([0.0, 0.5, 1.0]), places, places), self.mean, deviation)
        q, factor = self.law, deviation / self.deviation
        left, right = (self.mean + factor * (ends - self.mean) for ends in (q.left, q.right))
        return MarginalLaw(QuantileFunction(q.levels, left, right), self.mean, deviation)

    @property
    def neighbors(self) -> tuple[MarginalLaw, ...]:
        """Laws within what is unknown of this one: moved or widened by half a cell, or of half as many atoms."""
        if self.half_cell > 0.0:
            h = self.half_cell
            return self.shifted(-h), self.shifted(h), self.widened(self.deviation + h)
        return () if self.coarse is None else (self.coarse,)

    def replicates(self) -> Iterator[MarginalLaw]:
        """Return bootstrap replicates of a law that is itself a random sample; none of any other."""
        return iter(()) if self.resample is None else self.resample()

    def gaps(self, x: Array) -> tuple[Array, Array, Array]:
        """Return what W_p between the law and each sorted sample x[..., n] is a sum over.

        Returns
        -------
        width : array of shape (pieces,)
            Widths of the pieces of [0, 1] on which Q is linear and the sample's quantile function constant.
        lower, upper : array of shape (..., pieces)
            Q minus the sample's quantile function at the two ends of each.
        """
        count = x.shape[-1]
        if count not in self._plans:
            self._plans[count] = _Plan.make(self.law, count)
        plan = self._plans[count]
        values = x[..., plan.index]
        return plan.width, plan.lower - values, plan.upper - values


@dataclass(frozen=True)
class _Plan:
    """Where the levels i/count of a sample and those of a law fall into each other: the same for every sample."""

    width: Array
    lower: Array
    upper: Array
    index: NDArray[np.intp]

    @classmethod
    def make(cls, law: QuantileFunction, count: int) -> _Plan:
        levels = np.union1d(law.levels, np.arange(count + 1) / count)
        lo, hi = levels[:-1], levels[1:]
        middle = 0.5 * (lo + hi)
        piece = np.clip(np.searchsorted(law.levels, middle) - 1, 0, law.left.size - 1)
        index = np.clip((middle * count).astype(np.intp), 0, count - 1)
        return cls(hi - lo, law.at(piece, lo), law.at(piece, hi), index)


def unresolved_share(values: Array, axis: int = 0) -> Array:
    r"""Return by which share a density in each cell may depart from its average along an axis, at most 1.

    Inside cell i the density departs from its average :math:`\rho_i` by no more than the larger jump to a neighbor,

    .. math:: u_i = \min(1, \max(|\rho_{i+1} - \rho_i|, |\rho_i - \rho_{i-1}|) / \rho_i),

    so that points lie within :math:`u_i h_i / 2` of where a constant density has them, and the distribution function
    within :math:`u_i m_i / 2`. A mass in a single cell has u = 1; where the law is resolved u is of order h.

    Parameters
    ----------
    values : array
        Averages over the cells of a grid.
    axis : int
    """
    moved = np.moveaxis(values, axis, 0)
    jumps = np.abs(np.diff(moved, axis=0))
    none = np.zeros_like(moved[:1])
    largest = np.maximum(np.concatenate([jumps, none]), np.concatenate([none, jumps]))
    share = np.minimum(largest / np.where(moved > 0.0, moved, 1.0), 1.0)
    return np.moveaxis(np.where(moved > 0.0, share, 0.0), 0, axis)


class DensityLaws:
    """The marginal laws of a density on a grid, and samples of them all together."""

    def __init__(self, rho: Density):
        self.rho = rho
        axes = [rho] if rho.grid.ndim == 1 else [rho.marginal(k) for k in range(rho.grid.ndim)]
        self.marginals = [MarginalLaw.from_density(axis) for axis in axes]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, None]:
        """Return points of shape (count, coordinates), and None, since they belong to no atoms."""
        return np.asarray(self.rho.sample(count, rng)).reshape(count, -1), None


class ChosenLaws:
    """Some of the marginals of a law, and samples of these coordinates together.

    Parameters
    ----------
    source : DensityLaws or AtomLaws
    axes : sequence of int
        Which coordinates.
    """

    def __init__(self, source: Any, axes: Sequence[int]):
        self.rho, self._source, self._axes = source.rho, source, list(axes)
        self.marginals = [source.marginals[k] for k in axes]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, Any]:
        """Return points of shape (count, axes), and what they belong to."""
        points, atoms = self._source.sample(count, rng)
        return points[:, self._axes], atoms
