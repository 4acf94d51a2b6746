"""Points drawn from a law, and cells filled from points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_count, check_memory, described
from wgflow.errors import InvalidInput

if TYPE_CHECKING:
    from wgflow.grids import Grid

__all__ = ["deposit", "generator", "sampler"]
Array = NDArray[np.float64]

#: Newton steps with which moments are fitted; about five are needed.
NEWTON_STEPS = 40
#: Error of the moments, in units of the law's deviations, at which they count as fitted: rounding.
FITTED = 1e-14
#: Largest factor by which a cell's mass may change for the sake of the moments.
LARGEST_FACTOR = 8.0


def sampler(n: Any, ndim: int, rng: Any) -> np.random.Generator:
    """Return the generator for ``rng``, after checking that n points with ndim coordinates fit into the memory."""
    check_memory(8.0 * (3 * ndim + 3) * check_count("n", n), f"n={n} points", "draw fewer at a time")
    return generator(rng)


def generator(rng: Any) -> np.random.Generator:
    """Return `numpy.random.default_rng` of ``rng``; InvalidInput for what it cannot take."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"rng={described(rng)}: need None, an int >= 0, a SeedSequence or a Generator") from error


def deposit(grid: Grid, points: Array, weights: Array) -> Array:
    r"""Return the masses of cells that stand for points, with the points' mean and covariance.

    Each point is shared by the two centers around it on each axis, in proportion to its nearness, which keeps the mean
    and adds up to a quarter of a cell's width squared to a variance. The masses are then multiplied by

    .. math:: \exp(a + b \cdot x + x \cdot C x),

    the change of least Kullback-Leibler divergence after which mean and covariance are those of the points, where no
    mass changes by more than a factor of 8 (else the mean alone is fitted; a single point has no law with its
    covariance on cells). Periodic coordinates, which have neither, are left out of the fit.

    Parameters
    ----------
    grid : Grid
    points : array, shape (n, ndim)
        Inside the grid's box.
    weights : array, shape (n,)
        At least 0, with a sum that is positive.

    Returns
    -------
    array of the grid's shape, of sum 1
    """
    shares = [_shares(grid.centers[axis], points[:, axis], grid.bounds[axis], grid.periodic[axis])
              for axis in range(grid.ndim)]
    masses = np.zeros(grid.size)
    for corner in itertools.product((0, 1), repeat=grid.ndim):
        cells = np.ravel_multi_index([share[0][side] for share, side in zip(shares, corner)], grid.shape)
        parts = math.prod(share[1][side] for share, side in zip(shares, corner))
        masses += np.bincount(cells, weights * parts, grid.size)
    masses /= masses.sum()
    axes = [axis for axis in range(grid.ndim) if not grid.periodic[axis]]
    filled = np.flatnonzero(masses)
    places = np.unravel_index(filled, grid.shape)
    centers = np.array([grid.centers[axis][places[axis]] for axis in axes]).reshape(len(axes), filled.size)
    masses[filled] = _fitted(masses[filled], centers, points[:, axes].T, weights / weights.sum())
    return masses.reshape(grid.shape)


def _shares(centers: Array, x: Array, bounds: tuple[float, float], periodic: bool) -> tuple[Sequence, Sequence]:
    """Return the two cells that share each point of an axis, and their parts of it."""
    n, period = centers.size, bounds[1] - bounds[0]
    if periodic:
        centers = np.concatenate(([centers[-1] - period], centers, [centers[0] + period]))
    left = np.clip(np.searchsorted(centers, x, side="right") - 1, 0, centers.size - 2)
    share = np.clip((x - centers[left]) / (centers[left + 1] - centers[left]), 0.0, 1.0)
    first = (left - 1) % n if periodic else left
    return (first, (first + 1) % n if periodic else left + 1), (1.0 - share, share)


def _fitted(masses: Array, centers: Array, points: Array, weights: Array) -> Array:
    """Return masses at centers (k, m) with the moments of points (k, n), as many of them as can be had."""
    mean = points @ weights
    spread = np.sqrt((points - mean[:, None]) ** 2 @ weights)
    axes = np.flatnonzero(spread > 0)
    if not axes.size:
        return masses
    z, y = ((x[axes] - mean[axes, None]) / spread[axes, None] for x in (centers, points))
    pairs = list(itertools.combinations_with_replacement(range(axes.size), 2))
    squares = np.array([z[i] * z[j] for i, j in pairs]), np.array([y[i] * y[j] for i, j in pairs])
    for features, exact in ((np.concatenate([z, squares[0]]), np.concatenate([y, squares[1]]) @ weights),
                            (z, y @ weights)):
        fitted = _tilted(masses, features, exact)
        if fitted is not None:
            return fitted
    return masses


def _tilted(masses: Array, features: Array, wanted: Array) -> Array | None:
    """Return masses times exp(a + b . features) whose features have the wanted means; None if that changes too much."""
    tilt, exponent = masses, np.zeros(masses.size)
    for _ in range(NEWTON_STEPS):
        means = features @ tilt
        miss = wanted - means
        if np.abs(miss).max() <= FITTED:
            break
        deviations = features - means[:, None]
        try:
            step = np.linalg.solve((deviations * tilt) @ deviations.T, miss)
        except np.linalg.LinAlgError:
            return None
        trial = exponent + step @ deviations
        trial -= math.log(float((masses * np.exp(np.minimum(trial, 700.0))).sum()))
        if not np.abs(trial).max() <= math.log(LARGEST_FACTOR):
            return None
        if np.array_equal(trial, exponent):
            break
        exponent = trial
        tilt = masses * np.exp(exponent)
    return tilt if np.abs(wanted - features @ tilt).max() <= 100 * FITTED else None
