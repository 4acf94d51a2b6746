"""What a law owes to the sample it was made of: the same run from samples of the sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.densities import Density

from .measures import differences
from .result import Functional
from .runs import Known, Related

__all__ = ["REPLICATES", "spread_of_samples"]

Array = NDArray[np.float64]
#: Number of new samples; a standard error from so many is known to about a quarter.
REPLICATES = 8
#: Seed of the new samples: the estimate of a solution is always the same.
SEED = 93


def spread_of_samples(related: Related, law: Density, size: float, functional: Functional | None) -> Array:
    r"""Return the standard errors that a sample of so many points leaves in the end of a run: Efron's bootstrap.

    New samples are drawn from the initial law on coarse cells, and the flow is solved from each. How far their ends are
    from that of the law itself stands for how far this one is from the truth.

    Parameters
    ----------
    related : Related
    law : Density
        The initial law, on a quarter of the cells.
    size : float
        Number of points, or effective number of weighted ones.
    functional : callable, optional

    Returns
    -------
    array
        As of `differences`: means of the distances, roots of the mean squares of the other differences.

    References
    ----------
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 6.
    """
    rng = np.random.default_rng(SEED)
    count, parts = max(1, round(size)), law.masses.ravel() / law.masses.sum()
    center: Known = related.coarse[-1]
    found = []
    for _ in range(REPLICATES):
        drawn = rng.multinomial(count, parts).reshape(law.grid.shape) * (law.mass / count)
        found.append(differences(related.again(Density(law.grid, drawn / law.grid.volumes)), center, functional))
    gaps, far = np.array(found), 1 + law.grid.ndim
    return np.concatenate([gaps[:, :far].mean(axis=0), np.sqrt((gaps[:, far:] ** 2).mean(axis=0))])
