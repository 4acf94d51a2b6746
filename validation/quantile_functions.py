r"""Piecewise linear quantile functions, in which distances on the line are finite sums.

A density given by cell averages has a piecewise linear quantile function Q, a weighted sample a piecewise constant one.
Between the merged breakpoints of two of them the gap :math:`Q_a(s) - Q_b(s)` is linear, and the mean of its p-th power
is known in closed form: :math:`W_p^p = \int_0^1 |Q_a - Q_b|^p\, ds` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["GAUSS_NODES", "GAUSS_WEIGHTS", "QuantileFunction", "mean_power", "merged_gaps"]

Array = NDArray[np.float64]
GAUSS_NODES, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True)
class QuantileFunction:
    """A piecewise linear quantile function: on levels[k] < s < levels[k+1] it runs from left[k] to right[k].

    A point mass has left == right. Pieces without mass are left out, so both ``left`` and ``right`` are non-decreasing.
    """

    levels: Array
    left: Array
    right: Array

    @classmethod
    def from_masses(cls, masses: Array, left: Array, right: Array) -> QuantileFunction:
        """Return the law with the given masses spread evenly over the intervals [left, right]."""
        keep = masses > 0
        # Extended precision where the platform has it: levels of two laws must agree to the last bit where they
        # coincide.
        total = np.concatenate([[0.0], np.cumsum(masses[keep], dtype=np.longdouble)])
        return cls((total / total[-1]).astype(np.float64), left[keep], right[keep])

    @classmethod
    def from_sorted(cls, x: Array) -> QuantileFunction:
        """Return the law of a sorted sample with equal weights."""
        # k/n is correctly rounded, so the levels of samples of sizes n and m coincide exactly where they should.
        return cls(np.arange(x.size + 1) / x.size, x, x)

    def at(self, piece: NDArray[np.intp], level: Array) -> Array:
        """Return the quantile at ``level`` on the given pieces; the piece decides between the two limits at a joint."""
        width = self.levels[piece + 1] - self.levels[piece]
        # A piece in the tail may be narrower than the rounding of its levels.
        share = np.clip((level - self.levels[piece]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        return self.left[piece] + share * (self.right[piece] - self.left[piece])

    def __call__(self, level: Array) -> Array:
        piece = np.clip(np.searchsorted(self.levels, level, side="right") - 1, 0, self.left.size - 1)
        return self.at(piece, level)

    def cdf(self, x: Array, side: Literal["left", "right"]) -> Array:
        """Return the distribution function F(x) (side="right") or its left limit F(x-) (side="left")."""
        piece = np.searchsorted(self.left, x, side=side) - 1
        k = np.maximum(piece, 0)
        width = self.right[k] - self.left[k]
        share = np.where(width > 0, np.clip((x - self.left[k]) / np.where(width > 0, width, 1.0), 0.0, 1.0), 1.0)
        return np.where(piece < 0, 0.0, self.levels[k] + share * (self.levels[k + 1] - self.levels[k]))

    def largest_cdf_gap(self, other: QuantileFunction) -> float:
        """Return the Kolmogorov distance: both distribution functions are piecewise linear, breakpoints suffice."""
        x = np.concatenate([self.left, self.right, other.left, other.right])
        sides: tuple[Literal["left", "right"], ...] = ("left", "right")
        return float(max(np.abs(self.cdf(x, side) - other.cdf(x, side)).max() for side in sides))


def mean_power(d0: Array, d1: Array, p: float) -> Array:
    """Return the mean of |d|^p over a piece on which d runs linearly from d0 to d1, to relative rounding error."""
    if p == 2:
        return (d0 * d0 + d0 * d1 + d1 * d1) / 3.0
    a, b = np.abs(d0), np.abs(d1)
    if p == 1:
        total = np.where(a + b > 0, a + b, 1.0)
        return np.where(d0 * d1 >= 0, 0.5 * (a + b), 0.5 * (a * a + b * b) / total)
    # (G(d1) - G(d0)) / (d1 - d0), G = sign |d|^(p+1)/(p+1), cancels when d0 ~ d1; Gauss is then exact to rounding.
    gap = d1 - d0
    close = np.abs(gap) < 0.2 * np.maximum(a, b)
    nodes = 0.5 * (d0 + d1)[..., None] + 0.5 * gap[..., None] * GAUSS_NODES
    smooth = 0.5 * np.abs(nodes) ** p @ GAUSS_WEIGHTS
    primitive = (np.copysign(b ** (p + 1), d1) - np.copysign(a ** (p + 1), d0)) / (p + 1)
    return np.where(close | (gap == 0), smooth, primitive / np.where(gap == 0, 1.0, gap))


def merged_gaps(a: QuantileFunction, b: QuantileFunction) -> tuple[Array, Array, Array]:
    """Return the widths of the levels of the common pieces, and Q_a - Q_b at the two ends of each."""
    levels = np.union1d(a.levels, b.levels)
    lo, hi = levels[:-1], levels[1:]
    middle = 0.5 * (lo + hi)
    ka = np.clip(np.searchsorted(a.levels, middle) - 1, 0, a.left.size - 1)
    kb = np.clip(np.searchsorted(b.levels, middle) - 1, 0, b.left.size - 1)
    return hi - lo, a.at(ka, lo) - b.at(kb, lo), a.at(ka, hi) - b.at(kb, hi)
