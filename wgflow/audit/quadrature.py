"""Integrals over time of what is known at the times of steps, by piecewise polynomials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepIntegrals", "passed"]

Array = NDArray[np.float64]
#: Gauss-Legendre nodes of an interval: exact for cubics, and for a clock that changes, its own.
FEW, MANY = np.polynomial.legendre.leggauss(2), np.polynomial.legendre.leggauss(13)
#: Values at both ends of a panel of the polynomial through values at its nodes, beyond which this part of it lies.
ENDS = np.array([[np.prod([(end - x) / (own - x) for x in MANY[0] if x != own]) for own in MANY[0]]
                 for end in (-1.0, 1.0)])
OUTSIDE = 1.0 + float(MANY[0][0])
#: What a clock's integral may miss, relative to it, and how often an interval is halved at most.
EXACT, HALVINGS = 1e-7, 24
#: Panels of all intervals together.
MOST_PANELS = 5000


def passed(scale: float | Callable[[float], float], t: Array) -> Array:
    """Return the integrals of a clock from the first of some times to each, where it is not smooth by halving."""
    if not callable(scale):
        return scale * (t - t[0])

    panels: list[float] = []

    def gauss(a: float, b: float) -> tuple[float, float]:
        """Return the integral over a panel, and what the polynomial through the nodes misses at its two ends."""
        nodes, weights = MANY
        half = 0.5 * (b - a)
        values = np.array([float(scale(a + half * (1.0 + x))) for x in nodes.tolist()])
        missed = abs(ENDS @ values - np.array([float(scale(a)), float(scale(b))])).sum()
        return half * float(weights @ values), half * OUTSIDE * float(missed)

    def integral(a: float, b: float, whole: tuple[float, float], left: int) -> float:
        middle = 0.5 * (a + b)
        first, second = gauss(a, middle), gauss(middle, b)
        total = first[0] + second[0]
        panels.append(total)
        missed = abs(total - whole[0]) + whole[1] + first[1] + second[1]
        if not left or len(panels) > MOST_PANELS or missed <= EXACT * total:
            return total
        return integral(a, middle, first, left - 1) + integral(middle, b, second, left - 1)

    parts = [integral(a, b, gauss(a, b), HALVINGS) for a, b in pairwise(t.tolist())]
    return np.concatenate([[0.0], np.cumsum(parts)])


class StepIntegrals:
    r"""The integrals over each interval of s(t) times the polynomial through nearby values.

    Parameters
    ----------
    t : array of shape (n,)
        Increasing times.
    scale : float or callable
        The clock s.
    jumps : sequence of float
        Times at which values have kinks, since terms jump there: no polynomial goes across.
    """

    def __init__(self, t: Array, scale: float | Callable[[float], float], jumps: Sequence[float] = ()):
        nodes, weights = MANY if callable(scale) else FEW
        half = 0.5 * np.diff(t)[:, None]
        self.t, self.nodes = t, t[:-1, None] + half * (1.0 + nodes)
        speed = np.array([[scale(float(s)) for s in row] for row in self.nodes]) if callable(scale) else scale
        self.factor = half * weights * speed
        self.weights: dict[int, tuple[NDArray[np.int64], Array]] = {}
        cuts = np.unique(np.searchsorted(t, [s for s in jumps if t[0] < s < t[-1]]))
        self.pieces = list(pairwise([0, *cuts.tolist(), t.size - 1]))
        # The integral of s over each interval.
        self.lengths = self.factor.sum(axis=1)[:, None]

    def __call__(self, values: Array, points: int) -> Array:
        """Return the integrals (n - 1, K) of values (n, K).

        Parameters
        ----------
        values : array
        points : int
            Values that a polynomial goes through: 4 for cubics, of order 4; fewer where there are fewer times.
        """
        if points not in self.weights:
            self.weights[points] = self._weights(points)
        stencil, weights = self.weights[points]
        return np.einsum("nj,njk->nk", weights, values[stencil])

    def _weights(self, points: int) -> tuple[NDArray[np.int64], Array]:
        """Return the places of the values for each interval, and their weights; 0 for places that do not count."""
        stencil = np.zeros((self.t.size - 1, points), dtype=np.int64)
        weights = np.zeros(stencil.shape)
        for begin, end in self.pieces:
            count = min(points, end - begin + 1)
            first = np.clip(np.arange(begin, end) - (count - 1) // 2, begin, end + 1 - count)
            places = first[:, None] + np.arange(count)
            known = self.t[places]
            # Lagrange polynomial j at node x is the product over k != j of (x - t_k) / (t_j - t_k).
            away = self.nodes[begin:end, :, None] - known[:, None, :]
            apart = known[:, :, None] - known[:, None, :]
            for j in range(count):
                others = [k for k in range(count) if k != j]
                basis = (away[:, :, others] / apart[:, None, j, others]).prod(axis=2)
                weights[begin:end, j] = (basis * self.factor[begin:end]).sum(axis=1)
            stencil[begin:end, :count] = places
        return stencil, weights

    def ends(self, values: Array) -> Array:
        """Return the integrals of the values at the ends of the intervals."""
        return self.lengths * values[1:]

    def mean(self, values: Array) -> Array:
        """Return the integrals of the means of the values at the two ends."""
        return 0.5 * self.lengths * (values[1:] + values[:-1])
