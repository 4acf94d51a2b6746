r"""Statistics beside those of `compare`: energy distance, maximum mean discrepancy, bounded Lipschitz functions.

    compare(sol, particles, statistics=(*STATISTICS, EnergyDistance(), MaximumMeanDiscrepancy(), BoundedLipschitz()))
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_count, check_positive

from .marginal_laws import MarginalLaw
from .statistics import Statistic

__all__ = ["BoundedLipschitz", "EnergyDistance", "MaximumMeanDiscrepancy"]

Array = NDArray[np.float64]
#: Numbers of points times frequencies that are held in memory at once.
_BLOCK = 4_000_000


class EnergyDistance(Statistic):
    r"""The root of :math:`2 E|X - Y| - E|X - X'| - E|Y - Y'| = 2 \int (F_n - F)^2 dx`, exact.

    X, X' are drawn from the sample, Y, Y' from the law. It sees all of the law, and its tails less than W_1 does.

    References
    ----------
    G. Szekely and M. Rizzo, Energy statistics: a class of statistics based on distances, J. Stat. Plan. Inference 143
    (2013) 1249-1272.
    """

    name = "energy distance"

    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return the distance of each sample."""
        n = x.shape[1]
        # Of the sorted sample: sum_ij |x_i - x_j| = 2 sum_i (2 i - n - 1) x_i.
        own = 2.0 * (x @ (2.0 * np.arange(1, n + 1) - n - 1.0)) / n**2
        between = _mean_distance(x, law).mean(axis=1)
        return np.sqrt(np.maximum(2.0 * between - own - _own_distance(law), 0.0))


class MaximumMeanDiscrepancy(Statistic):
    r"""The distance :math:`\sqrt{E k(X, X') - 2 E k(X, Y) + E k(Y, Y')}` of mean embeddings, with the kernel

    .. math:: k(x, y) = \sum_m \omega_m \cos\bigl(z_m (x - y) / \ell\bigr),

    Gauss-Hermite weights and nodes, which is the Gaussian kernel :math:`e^{-(x-y)^2 / 2 \ell^2}` for points within some
    lengths :math:`\ell`. It is the weighted distance of the characteristic functions, so that n points cost O(n).

    Parameters
    ----------
    length : float
        :math:`\ell` in standard deviations of the law.
    nodes : int
        Frequencies.

    References
    ----------
    A. Gretton and co-authors, A kernel two-sample test, J. Mach. Learn. Res. 13 (2012) 723-773.
    """

    largest = 2.0

    def __init__(self, length: float = 1.0, nodes: int = 16):
        self.length, count = check_positive("length", length), check_count("nodes", nodes)
        z, weights = np.polynomial.hermite_e.hermegauss(2 * count)
        self.frequencies, self.weights = z[count:], 2.0 * weights[count:] / weights.sum()
        self.name = "MMD" if self.length == 1.0 else f"MMD({self.length:g})"

    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return the distance of each sample."""
        scale = self.length * law.deviation
        if scale == 0.0:
            # Of a point mass: its rounding is the only length there is.
            scale = max(abs(law.mean), 1.0) * np.finfo(float).eps
        waves = self.frequencies / scale
        own, size = np.empty((len(x), waves.size), dtype=complex), max(1, _BLOCK // (x.shape[1] * waves.size))
        for first in range(0, len(x), size):
            part = x[first : first + size] - law.mean
            own[first : first + size] = np.exp(1j * part[:, :, None] * waves).mean(axis=1)
        gap = own - _characteristic_function(law, waves)
        return np.sqrt((np.abs(gap) ** 2) @ self.weights)


class BoundedLipschitz(Statistic):
    r"""The largest :math:`|\int f\,d\rho_N - \int f\,d\rho|` over functions with :math:`|f| \le 1` and slope at most
    :math:`1 / \ell`.

    The functions are the ramps :math:`f(x) = \max(-1, \min(1, (x - c)/\ell))` about quantiles c of the law, by which
    the bounded Lipschitz distance, in which the theorem on SGD and its mean field is stated, is bounded from below.

    Parameters
    ----------
    length : float
        :math:`\ell` in standard deviations of the law.
    ramps : int
        Number of ramps.

    References
    ----------
    S. Mei, A. Montanari and P.-M. Nguyen, A mean field view of the landscape of two-layer neural networks, PNAS 115
    (2018) E7665-E7671.
    """

    name = "bounded Lipschitz"
    largest = 2.0

    def __init__(self, length: float = 1.0, ramps: int = 15):
        self.length, self.ramps = check_positive("length", length), check_count("ramps", ramps)

    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return the largest difference of each sample."""
        length = self.length * law.deviation or max(abs(law.mean), 1.0) * np.finfo(float).eps
        found = np.zeros(len(x))
        for center in law.points(self.ramps):
            ends = (center - length, center + length)
            # E clip(x, a, b) = (a + b)/2 + (E|x - a| - E|x - b|)/2, for sample and law alike.
            exact = (_mean_distance(np.array(ends[:1]), law) - _mean_distance(np.array(ends[1:]), law))[0]
            own = 2.0 * np.clip(x, *ends).mean(axis=1) - sum(ends)
            found = np.maximum(found, np.abs(own - exact) / (2.0 * length))
        return found


def _mean_distance(x: Array, law: MarginalLaw) -> Array:
    """Return E|x - Y| for Y from the law, at points x of any shape: x (2 F - 1) + m - 2 int_{Q < x} Q."""
    q = law.law
    width = np.diff(q.levels)
    below = np.concatenate([[0.0], np.cumsum(width * 0.5 * (q.left + q.right))])
    flat = x.ravel()
    piece = np.searchsorted(q.left, flat, side="right") - 1
    k = np.maximum(piece, 0)
    length = q.right[k] - q.left[k]
    share = np.where(length > 0.0, np.clip((flat - q.left[k]) / np.where(length > 0.0, length, 1.0), 0.0, 1.0), 1.0)
    cdf = np.where(piece < 0, 0.0, q.levels[k] + share * width[k])
    partial = np.where(piece < 0, 0.0, below[k] + share * width[k] * (q.left[k] + 0.5 * share * length))
    return (flat * (2.0 * cdf - 1.0) + below[-1] - 2.0 * partial).reshape(x.shape)


def _own_distance(law: MarginalLaw) -> float:
    """Return E|Y - Y'| = 2 int F (1 - F) dx of the law."""
    q = law.law
    lo, hi = q.levels[:-1], q.levels[1:]
    # Within a piece F runs linearly from lo to hi; between two pieces it is constant.
    inside = (q.right - q.left) * (0.5 * (lo + hi) - (lo * lo + lo * hi + hi * hi) / 3.0)
    gaps = (q.left[1:] - q.right[:-1]) * hi[:-1] * (1.0 - hi[:-1])
    return 2.0 * float(inside.sum() + gaps.sum())


def _characteristic_function(law: MarginalLaw, waves: Array) -> Array:
    """Return E exp(i w (Y - m)) of the law at frequencies w."""
    q = law.law
    width = np.diff(q.levels)
    middle, half = 0.5 * (q.left + q.right) - law.mean, 0.5 * (q.right - q.left)
    found: Array = np.exp(1j * np.multiply.outer(waves, middle)) * np.sinc(np.multiply.outer(waves, half) / np.pi)
    return found @ width
