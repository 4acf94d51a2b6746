"""The bias of SGD's step size and of finite width, to first order, measured by coarser runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput
from wgflow.solution import Solution

from .null_law import Quantity, fits_of, laws_at
from .particle_runs import ParticleRuns, Particles, particle_runs
from .risk_response import risks_of
from .statistics import Statistic

if TYPE_CHECKING:
    from wgflow.reduced_models.base import ReducedModel

__all__ = ["first_order_bias"]

Array = NDArray[np.float64]


def first_order_bias(sol: Solution, t: Array, runs: ParticleRuns, coarse: Particles, difference: Array,
                     quantities: Sequence[Quantity], statistics: Sequence[Statistic],
                     model: ReducedModel | None) -> Array:
    """Return the size of the bias, (quantities, times): what twice the step and half the neurons change.

    Parameters
    ----------
    difference : array of shape (quantities, times)
        Of the runs themselves.
    """
    share = np.array([q.first_order_share for q in quantities])[:, None]
    with_risk = quantities[-1].statistic is None
    found: Array = share * np.abs(
        _differences(sol, t, runs, coarse, statistics, model if with_risk else None) - difference)
    return found


def _differences(sol: Solution, t: Array, runs: ParticleRuns, coarse: Particles, statistics: Sequence[Statistic],
                 model: ReducedModel | None) -> Array:
    """Return the differences, (quantities, times), of runs checked to be coarser by a factor of two."""
    other = particle_runs(coarse, runs.coordinates.shape[3], "coarse")
    times = other.times_in(sol)
    if not np.array_equal(times, t):
        raise InvalidInput(f"coarse has {times.size} output times from {times[0]:g} to {times[-1]:g}: it must have "
                           "the output times of particles")
    if not math.isclose(other.step_size, 2.0 * runs.step_size, rel_tol=1e-9):
        raise InvalidInput(f"coarse.step_size={other.step_size:g} must be twice particles.step_size={runs.step_size:g}")
    if runs.count != 2 * other.count:
        raise InvalidInput(f"coarse has {other.count} particles, the others {runs.count}: it must have half as many")
    rows = [fits_of(statistics, laws_at(sol, s).marginals, other.coordinates[None, :, j], spreads=False)[0][0]
            for j, s in enumerate(t)]
    if model is not None:
        rows = [np.append(row, value) for row, value in zip(rows, risks_of(sol, other, model, t).difference)]
    return np.array(rows).T
