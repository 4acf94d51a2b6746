r"""The law that weighted points stand for: what :func:`wgflow.validation.compare` holds particles against.

Atoms of a quadrature (40 Gauss nodes, say) are not what particles are distributed like: integrals against them are
right to many digits, distances to them are not. On the line their order is kept by the flow, and atom i, which holds
the levels between the cumulative weights c_{i-1} and c_i, lies where the quantile function passes their middle.
So the law is taken as the piecewise linear quantile function through these points, continued to the levels 0 and 1 and
cut at the bounds. Means, deviations and risks are those of the quadrature itself.

In D > 1 coordinates (those in which the cloud extends at the start) the atoms of a product rule fall on about n^(1/D)
places of each coordinate, so that a marginal has no more to say than so many points: sorted atoms are merged into
n^(1/D) blocks of about equal mass before the interpolation. Then means remain sharp while distances of marginals are
known coarsely, which the bands say: they are widened by the distance between the law and the one of half as many
blocks, three times the error of the finer where it falls with the square. A point mass (atoms at one place) widens the
band of the Kolmogorov distance by itself, since particles that miss it by any distance are that far away.

Random particles (Langevin) are a sample: their law is known to about n^(-1/2), and the band is widened by the largest
of so many bootstrap replicates of its own error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..distances import _Law, _mean_power, _merged

__all__ = ["AtomLaws", "MarginalLaw", "extent_of"]

Array = NDArray[np.float64]
Index = NDArray[np.intp]
_REPLICATES = 64  # of the bootstrap
_SEED = 40427
_ROUNDING = 1e-12  # relative to the largest coordinate
_NOTHING = 1e-14  # levels nearer to each other than this are the same


@dataclass(frozen=True)
class MarginalLaw:
    """One coordinate's law with its exact mean and deviation, and what is not known of it, by statistic.

    ``block_of`` says for each atom which piece of levels ``block_levels[b] < s < block_levels[b + 1]`` it holds.
    """

    law: _Law
    mean: float
    deviation: float
    resolution: dict[str, float]
    block_of: Index = field(repr=False)
    block_levels: Array = field(repr=False)


class AtomLaws:
    """The marginal laws of atoms, and samples of them all together.

    Parameters
    ----------
    rho : Atoms
    noisy : bool
        Whether the atoms are themselves a random sample.
    extent : int, optional
        The number D of coordinates in which the cloud was made, see `extent_of`; all of them by default.
    """

    def __init__(self, rho: Any, noisy: bool, extent: int | None = None):
        self.rho, self.noisy = rho, noisy
        self.share = rho.weights / rho.weights.sum()
        self.effective_size = 1.0 / float(np.sum(self.share**2))
        extent = rho.ndim if extent is None else max(1, extent)
        blocks = rho.size if noisy else max(2, round(rho.size ** (1.0 / extent)))
        rng = np.random.default_rng(_SEED)
        resampled = rng.multinomial(rho.size, self.share, _REPLICATES) / rho.size if noisy else None
        self.marginals = [self._marginal(x, bounds, blocks, resampled) for x, bounds in zip(rho.points, rho.bounds)]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, Index]:
        """Points (count, coords) and the atoms they belong to; each marginal is the interpolated law exactly."""
        index = np.searchsorted(np.cumsum(self.share), rng.random(count), side="right")
        index = np.minimum(index, self.share.size - 1)
        points = np.empty((count, len(self.marginals)))
        for k, marginal in enumerate(self.marginals):
            block = marginal.block_of[index]
            low, high = marginal.block_levels[block], marginal.block_levels[block + 1]
            points[:, k] = marginal.law(low + rng.random(count) * (high - low))
        return points, index

    def _marginal(self, x: Array, bounds: tuple[float, float], blocks: int, resampled: Array | None) -> MarginalLaw:
        order = np.argsort(x, kind="stable")
        order = order[self.share[order] > _NOTHING]
        own = _blocks_of(self.share[order], blocks)
        law, levels = _interpolated(x[order], self.share[order], own, bounds)
        coarse, _ = _interpolated(x[order], self.share[order], own // 2, bounds)
        mean = float(self.share @ x)
        deviation = float(np.sqrt(self.share @ (x - mean) ** 2))
        distances = _distances(law, coarse)
        resolution = {"W1": distances[0], "W2": distances[1], "Kolmogorov": max(distances[2], _point_mass(law)),
                      "mean": 0.0, "deviation": 0.0}
        resolution = {name: error + _ROUNDING * float(np.abs(x).max()) for name, error in resolution.items()}
        if resampled is not None:
            for name, error in _bootstrap(x, order, law, own, bounds, mean, deviation, resampled).items():
                resolution[name] += error
        block_of = np.zeros(x.size, dtype=np.intp)
        block_of[order] = own
        return MarginalLaw(law, mean, deviation, resolution, block_of, levels)


def extent_of(rho: Any) -> int:
    """In how many coordinates atoms at the start of a flow extend: the flow moves a family of so many dimensions."""
    spread = np.ptp(rho.points, axis=1)
    return int(np.sum(spread > _ROUNDING * np.maximum(1.0, np.abs(rho.points).max(axis=1))))


def _blocks_of(share: Array, blocks: int) -> Index:
    """Number of the block of each sorted atom: its own, or that of the equal part of the levels in which it lies."""
    if blocks >= share.size:
        return np.arange(share.size)
    total = np.cumsum(share)
    part = np.minimum(((total - 0.5 * share) / total[-1] * blocks).astype(np.intp), blocks - 1)
    return np.unique(part, return_inverse=True)[1].reshape(-1)


def _interpolated(x: Array, share: Array, block: Index, bounds: tuple[float, float]) -> tuple[_Law, Array]:
    """The law through the means of the blocks at their middle levels, and the levels between the blocks."""
    mass = np.bincount(block, share)
    place = np.bincount(block, share * x) / mass
    place = np.maximum.accumulate(place)  # round-off of equal places
    levels = np.concatenate([[0.0], np.cumsum(mass)])
    levels /= levels[-1]
    middle = 0.5 * (levels[1:] + levels[:-1])
    if place.size == 1:
        return _Law(np.array([0.0, 1.0]), place, place), levels
    first = place[0] - (place[1] - place[0]) / (middle[1] - middle[0]) * middle[0]
    last = place[-1] + (place[-1] - place[-2]) / (middle[-1] - middle[-2]) * (1.0 - middle[-1])
    nodes = np.concatenate([[max(first, bounds[0])], place, [min(last, bounds[1])]])
    return _Law(np.concatenate([[0.0], middle, [1.0]]), nodes[:-1], nodes[1:]), levels


def _distances(a: _Law, b: _Law) -> tuple[float, float, float]:
    """W_1, W_2 and the Kolmogorov distance."""
    width, d0, d1 = _merged(a, b)
    x = np.concatenate([a.left, a.right, b.left, b.right])
    sup = max(float(np.abs(a.cdf(x, side) - b.cdf(x, side)).max()) for side in ("left", "right"))
    return float(_mean_power(d0, d1, 1) @ width), float(np.sqrt(_mean_power(d0, d1, 2) @ width)), sup


def _point_mass(law: _Law) -> float:
    """The largest mass at one place."""
    flat = law.left == law.right
    if not flat.any():
        return 0.0
    return float(np.bincount(np.unique(law.left[flat], return_inverse=True)[1].reshape(-1),
                             np.diff(law.levels)[flat]).max())


def _bootstrap(x: Array, order: Index, law: _Law, own: Index, bounds: tuple[float, float], mean: float,
               deviation: float, resampled: Array) -> dict[str, float]:
    """Largest error of each statistic over replicates of the sample."""
    errors = []
    for share in resampled:
        kept = share[order] > _NOTHING
        other, _ = _interpolated(x[order][kept], share[order][kept], np.arange(int(kept.sum())), bounds)
        m = float(share @ x)
        errors.append([*_distances(law, other), abs(m - mean), abs(np.sqrt(share @ (x - m) ** 2) - deviation)])
    return dict(zip(("W1", "W2", "Kolmogorov", "mean", "deviation"), np.max(errors, axis=0).tolist()))
