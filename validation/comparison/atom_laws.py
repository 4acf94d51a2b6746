r"""The law that weighted points stand for, where a solution consists of atoms.

Atoms of a quadrature (40 Gauss nodes, say) are not what particles are distributed like: integrals against them are
right to many digits, distances to them are not. On the line the flow keeps their order, and atom i, which holds
the levels between the cumulative weights c_{i-1} and c_i, lies where the quantile function passes the middle of these.
So the law is taken as the piecewise linear quantile function through these points, continued to the levels 0 and 1 and
cut at the bounds. Means, deviations and risks are those of the quadrature itself.

In D > 1 coordinates (those in which the cloud extends at the start) the atoms of a product rule fall on about n^(1/D)
places of each coordinate, so that a marginal is known no better than from so many points: sorted atoms are merged into
n^(1/D) blocks of about equal mass before the interpolation. Means remain sharp, distances of marginals are known
coarsely, and the bands say so: they are widened by the distance between the law and the one of half as many
blocks, three times the error of the finer one where the error falls with the square. A point mass (atoms at one place)
widens the band of the Kolmogorov distance by itself, since particles that miss it by any distance are that far away.

Random particles (Langevin) are a sample: their law is known to about n^(-1/2), and the band is widened by the largest
of so many bootstrap replicates of its own error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms

from ..quantile_functions import QuantileFunction
from .marginal_laws import MarginalLaw

__all__ = ["AtomLaws", "extent_of"]

Array = NDArray[np.float64]
Index = NDArray[np.intp]
#: Replicates of the bootstrap.
_REPLICATES = 64
#: Seed of the bootstrap.
_SEED = 40427
#: Rounding error relative to the largest coordinate.
_ROUNDING = 1e-12
#: Weights below this share of the mass hold nothing.
_NOTHING = 1e-14


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

    def __init__(self, rho: Atoms, noisy: bool, extent: int | None = None):
        self.rho, self.noisy = rho, noisy
        self.share = rho.weights / rho.weights.sum()
        self.effective_size = 1.0 / float(np.sum(self.share**2))
        extent = rho.ndim if extent is None else max(1, extent)
        blocks = rho.size if noisy else max(2, round(rho.size ** (1.0 / extent)))
        rng = np.random.default_rng(_SEED)
        resampled = rng.multinomial(rho.size, self.share, _REPLICATES) / rho.size if noisy else None
        made = [self._marginal(x, bounds, blocks, resampled) for x, bounds in zip(rho.points, rho.bounds)]
        self.marginals = [law for law, _, _ in made]
        # For each coordinate the block of each atom, and the levels block_levels[b] < s < block_levels[b + 1] it holds.
        self._blocks = [(block_of, block_levels) for _, block_of, block_levels in made]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, Index]:
        """Return points (count, coordinates), each marginal the interpolated law exactly, and the atom of each."""
        index = np.searchsorted(np.cumsum(self.share), rng.random(count), side="right")
        index = np.minimum(index, self.share.size - 1)
        points = np.empty((count, len(self.marginals)))
        for k, (marginal, (block_of, block_levels)) in enumerate(zip(self.marginals, self._blocks)):
            block = block_of[index]
            low, high = block_levels[block], block_levels[block + 1]
            points[:, k] = marginal.law(low + rng.random(count) * (high - low))
        return points, index

    def _marginal(self, x: Array, bounds: tuple[float, float], blocks: int,
                  resampled: Array | None) -> tuple[MarginalLaw, Index, Array]:
        order = np.argsort(x, kind="stable")
        order = order[self.share[order] > _NOTHING]
        own = _blocks_of(self.share[order], blocks)
        law, levels = _interpolated(x[order], self.share[order], own, bounds)
        coarse, _ = _interpolated(x[order], self.share[order], own // 2, bounds)
        mean = float(self.share @ x)
        deviation = float(np.sqrt(self.share @ (x - mean) ** 2))
        block_of = np.zeros(x.size, dtype=np.intp)
        block_of[order] = own

        def replicates() -> Iterator[MarginalLaw]:
            for share in () if resampled is None else resampled:
                kept = share[order] > _NOTHING
                other, _ = _interpolated(x[order][kept], share[order][kept], np.arange(int(kept.sum())), bounds)
                m = float(share @ x)
                yield MarginalLaw(other, m, float(np.sqrt(share @ (x - m) ** 2)))

        # The quadrature itself gives mean and deviation, so the coarse law has the same.
        marginal = MarginalLaw(law, mean, deviation, jump=_point_mass(law),
                               coarse=MarginalLaw(coarse, mean, deviation),
                               rounding=_ROUNDING * float(np.abs(x).max()), resample=replicates)
        return marginal, block_of, levels


def extent_of(rho: Atoms) -> int:
    """Return in how many coordinates atoms extend at the start of a flow; they stay in a family of this dimension."""
    spread = np.ptp(rho.points, axis=1)
    return int(np.sum(spread > _ROUNDING * np.maximum(1.0, np.abs(rho.points).max(axis=1))))


def _blocks_of(share: Array, blocks: int) -> Index:
    """Return the block of each sorted atom: one of its own, or the equal part of the levels in which it lies."""
    if blocks >= share.size:
        return np.arange(share.size)
    total = np.cumsum(share)
    part = np.minimum(((total - 0.5 * share) / total[-1] * blocks).astype(np.intp), blocks - 1)
    return np.unique(part, return_inverse=True)[1].reshape(-1)


def _interpolated(x: Array, share: Array, block: Index, bounds: tuple[float, float]) -> tuple[QuantileFunction, Array]:
    """Return the law through the means of the blocks at their middle levels, and the levels between the blocks."""
    mass = np.bincount(block, share)
    place = np.bincount(block, share * x) / mass
    place = np.maximum.accumulate(place)  # round-off of equal places
    levels = np.concatenate([[0.0], np.cumsum(mass)])
    levels /= levels[-1]
    middle = 0.5 * (levels[1:] + levels[:-1])
    if place.size == 1:
        return QuantileFunction(np.array([0.0, 1.0]), place, place), levels
    first = place[0] - (place[1] - place[0]) / (middle[1] - middle[0]) * middle[0]
    last = place[-1] + (place[-1] - place[-2]) / (middle[-1] - middle[-2]) * (1.0 - middle[-1])
    nodes = np.concatenate([[max(first, bounds[0])], place, [min(last, bounds[1])]])
    return QuantileFunction(np.concatenate([[0.0], middle, [1.0]]), nodes[:-1], nodes[1:]), levels


def _point_mass(law: QuantileFunction) -> float:
    """Return the largest mass at one place."""
    flat = law.left == law.right
    if not flat.any():
        return 0.0
    return float(np.bincount(np.unique(law.left[flat], return_inverse=True)[1].reshape(-1),
                             np.diff(law.levels)[flat]).max())
