"""What an error estimate measures of a law, and how far the ends of two runs are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.checks import check_real
from wgflow.densities import Density

from .coarsening import on_grid
from .result import Functional
from .runs import Known, Law

__all__ = ["differences", "distances"]

Array = NDArray[np.float64]


def differences(fine: Known, coarse: Known, functional: Functional | None) -> Array:
    """Return how far two ends are apart, on the grid of the second.

    Returns
    -------
    array, shape (2 + 3 ndim,), or one more with a functional
        The L1 distance of the densities relative to the mass (NaN for atoms); the W1 distances of the marginals (NaN
        for atoms on a circle); and with their signs the differences of energy, means, variances and functional.
    """
    gaps = _numbers(fine, functional) - _numbers(coarse, functional)
    return np.concatenate([distances(fine.law, coarse.law), gaps])


def distances(fine: Law, coarse: Law) -> Array:
    """Return the first 1 + ndim of the `differences`."""
    if isinstance(fine, Density) and isinstance(coarse, Density):
        masses = fine.masses if fine.grid == coarse.grid else on_grid(fine, coarse.grid)
        change = (masses - coarse.masses) / coarse.mass
        return np.array([np.abs(change).sum(), *(_w1_of_cells(change, coarse, k) for k in range(coarse.grid.ndim))])
    if not (isinstance(fine, Atoms) and isinstance(coarse, Atoms)):
        raise TypeError("two laws of one kind are compared")
    # Its import takes longer than many a run.
    from scipy.stats import wasserstein_distance

    return np.array([np.nan, *(np.nan if circle else wasserstein_distance(x, y, fine.weights, coarse.weights)
                               for x, y, circle in zip(fine.points, coarse.points, fine.periodic))])


def _numbers(known: Known, functional: Functional | None) -> Array:
    law = known.law
    numbers = [known.energy, *np.atleast_1d(law.mean()), *np.diag(np.atleast_2d(law.cov()))]
    if functional is not None:
        numbers.append(check_real("functional(rho)", functional(law)))
    return np.array(numbers)


def _w1_of_cells(change: Array, rho: Density, axis: int) -> float:
    """Return the integral of the absolute difference of the distribution functions along an axis."""
    below = np.concatenate([[0.0], np.cumsum(change.sum(axis=tuple(k for k in range(change.ndim) if k != axis)))])
    if rho.grid.periodic[axis]:
        # Around a circle any flux may be added: the median makes the integral least.
        below = below - np.median(below)
    return float((rho.grid.widths[axis] * 0.5 * (np.abs(below[1:]) + np.abs(below[:-1]))).sum())
