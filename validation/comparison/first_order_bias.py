"""The bias of SGD's step size and of finite width, to first order, measured by coarser runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput
from wgflow.solution import Solution

from .marginal_laws import MarginalLaw
from .null_law import Quantity, fits_of, laws_at
from .particle_runs import ParticleRuns, Particles, particle_runs
from .risk_response import risks_of
from .statistics import Statistic

if TYPE_CHECKING:
    from wgflow.reduced_models.base import ReducedModel

    from ..trajectories import SGDResult

__all__ = ["coarse_kinds", "first_order_bias"]

Array = NDArray[np.float64]


def coarse_kinds(coarse: Particles | list[SGDResult]) -> Sequence[Particles]:
    """Return the one or two kinds of coarser runs."""
    if not isinstance(coarse, list):
        return [coarse]
    if not 1 <= len(coarse) <= 2:
        raise InvalidInput(f"coarse has {len(coarse)} entries: give runs of half as many neurons with twice the step, "
                           "and if you have them those of a quarter as many with four times the step")
    return coarse


def first_order_bias(sol: Solution, t: Array, runs: ParticleRuns, coarse: Particles | list[SGDResult],
                     difference: Array, quantities: Sequence[Quantity], statistics: Sequence[Statistic],
                     model: ReducedModel | None, axes: Sequence[int] | None = None) -> tuple[Array, float]:
    r"""Return the size of the bias, (quantities, times), and by what factor the scatter of differences grows.

    The bias is what twice the step and half the neurons change, times a share that is 1 for means and the risk. With a
    third kind, of four times the step and a quarter of the neurons, its order p is measured: the second change is
    :math:`2^p` times the first, p in [1/2, 1], and the bias the first over :math:`2^p - 1`.

    What a coarsening changes is, of a difference, how far its values lie apart, and of a distance S the distance of the
    laws :math:`\rho_1` and :math:`\rho_2` of all particles of the two kinds. Where halvings go on to change
    :math:`2^{-p}` times as much, the triangle inequality gives

    .. math:: S(\rho_1, \rho) \le S(\rho_1, \rho_{1/2}) + S(\rho_{1/2}, \rho_{1/4}) + \dots
              = (2^{-p} + 4^{-p} + \dots) \, S(\rho_2, \rho_1) = \frac{S(\rho_2, \rho_1)}{2^p - 1},

    whereas :math:`S(\rho_2, \rho) - S(\rho_1, \rho)` can be smaller than :math:`S(\rho_2, \rho_1)` by any amount: a
    distance near its largest value, or that of laws which are off to different sides, does not grow as the bias does.

    A difference d of n runs with the bias b, and D of m coarser runs with the bias 2 b and twice the variance, leave
    :math:`d - (D - d) = 2 d - D`, whose variance is that of d times :math:`4 + 2 n/m`: the factor is its root.
    Distances, whose scatter moves both the same way, do not take it.

    Parameters
    ----------
    difference : array of shape (quantities, times)
        Of the runs themselves.
    axes : sequence of int, optional
        The coordinates of the solution that the runs have; all by default.
    """
    share = np.array([q.first_order_share for q in quantities])[:, None]
    with_risk = model if quantities[-1].statistic is None else None
    kinds = [runs]
    rows = [difference]
    for k, kind in enumerate(coarse_kinds(coarse)):
        kinds.append(_checked(sol, t, runs, kind, 2 * 2**k))
        rows.append(_differences(sol, t, kinds[-1], statistics, with_risk, axes))
    changes = np.abs(np.diff(rows, axis=0))
    distances = np.array([q.is_distance for q in quantities])
    changes[:, distances] = [_apart(fine, rough, quantities) for fine, rough in pairwise(kinds)]
    bias = share * changes[0] if len(changes) == 1 else changes[0] / (_growth(*changes) - 1.0)
    return bias, math.sqrt(4.0 + 2.0 * runs.n_runs / kinds[1].n_runs)


def _growth(first: Array, second: Array) -> Array:
    """Return 2^p for each quantity and time, from what the two coarsenings change."""
    grown: Array = np.clip(second / np.maximum(first, np.finfo(float).tiny), math.sqrt(2.0), 2.0)
    return grown


def _apart(fine: ParticleRuns, rough: ParticleRuns, quantities: Sequence[Quantity]) -> Array:
    """Return the distances between the laws of all particles of two kinds of runs, (distances, times)."""
    laws = [[[MarginalLaw.from_sorted(np.sort(own, axis=None)) for own in np.moveaxis(x, 2, 0)]
             for x in np.moveaxis(kind.coordinates, 1, 0)] for kind in (fine, rough)]
    return np.array([[q.statistic.between(one[q.coordinate], other[q.coordinate]) for one, other in zip(*laws)]
                     for q in quantities if q.statistic is not None and q.is_distance])


def _checked(sol: Solution, t: Array, runs: ParticleRuns, coarse: Particles, factor: int) -> ParticleRuns:
    """Return coarse runs, checked to be at the same times and coarser by a factor."""
    other = particle_runs(coarse, runs.coordinates.shape[3], "coarse")
    times = other.times_in(sol)
    if not np.array_equal(times, t):
        raise InvalidInput(f"coarse has {times.size} output times from {times[0]:g} to {times[-1]:g}: it must have "
                           "the output times of particles")
    step, count = {2: ("twice", "half"), 4: ("four times", "a quarter")}[factor]
    if not math.isclose(other.step_size, factor * runs.step_size, rel_tol=1e-9):
        raise InvalidInput(f"coarse.step_size={other.step_size:g} must be {step} particles.step_size="
                           f"{runs.step_size:g}")
    if runs.count != factor * other.count:
        raise InvalidInput(f"coarse has {other.count} particles, the others {runs.count}: it must have {count} as many")
    return other


def _differences(sol: Solution, t: Array, other: ParticleRuns, statistics: Sequence[Statistic],
                 model: ReducedModel | None, axes: Sequence[int] | None) -> Array:
    """Return the differences of coarse runs, (quantities, times)."""
    rows = [fits_of(statistics, laws_at(sol, s, axes).marginals, other.coordinates[None, :, j], spreads=False)[0][0]
            for j, s in enumerate(t)]
    if model is not None:
        rows = [np.append(row, value) for row, value in zip(rows, risks_of(sol, other, model, t).difference)]
    return np.array(rows).T
