"""Richardson's error estimate of a solution: the same run on grids of half and of a quarter of the cells."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput
from wgflow.flows import Flow, make_flow, run
from wgflow.grids import Grid
from wgflow.solution import Solution

__all__ = ["coarser", "with_error_estimate"]

#: Least number of cells of an axis on the coarsest grid.
FEWEST_CELLS = 8
#: Bounds of the observed order.
ORDERS = (1.0, 5.0)


def with_error_estimate(solution: Solution, flow: Flow, method) -> Solution:
    r"""Return the solution with Richardson's estimate of all its discretization errors in its certificate.

    With :math:`d_1` and :math:`d_2` the L1 distances between the densities on the grids of n and n/2 and of n/2 and n/4
    cells, taken on the coarser one, the observed order is :math:`p = \log_2(d_2 / d_1)`, kept between 1 and 5, and the
    estimate is :math:`\max(d_1, 2^{-p} d_2) / (2^p - 1)`, relative to the mass; distances are the largest over the
    output times (without any, at the end). The error of the energy is estimated likewise. Fixed steps are doubled with
    the cells, so that the estimate includes errors in time.

    Raises
    ------
    InvalidInput
        If the grid cannot be halved twice, or the energy is given by values on its cells.
    """
    runs, law = [solution], flow.density
    for _ in range(2):
        law, method = coarser(law), _longer_steps(method)
        runs.append(_solve_again(flow, law, method, solution))
    first, second = (_distance(fine, coarse) for fine, coarse in pairwise(runs))
    order = min(max(math.log2(second / first), ORDERS[0]), ORDERS[1]) if first > 0 and second > 0 else ORDERS[0]
    energies = [float(run.energy[-1]) for run in runs]
    energy_error = max(abs(energies[0] - energies[1]), abs(energies[1] - energies[2]) / 2.0**order)
    gain = 2.0**order - 1.0
    solution.certificate = replace(solution.certificate, error_estimate=max(first, second / 2.0**order) / gain,
                                   error_order=order, energy_error=energy_error / gain)
    return solution


def coarser(rho: Density) -> Density:
    """Return the same law on cells of twice the width along each axis."""
    grid = rho.grid
    if any(grid.origin):
        raise InvalidInput("error_estimate: the grid has an axis with an origin, whose half cell cannot be joined; "
                           "solve again on another grid")
    for axis, n in enumerate(grid.shape):
        if n % 2 or n < 2 * FEWEST_CELLS:
            raise InvalidInput(f"error_estimate: axis {axis} has {n} cells on the way to coarser grids; take a "
                               f"multiple of 4 cells, at least {4 * FEWEST_CELLS}")
    log_weight = None
    if grid.log_weight is not None:
        log_weight = _join(grid.log_reference, np.logaddexp) - np.log(_join(grid.volumes))
    options = {"boundary": grid.boundary, "names": grid.names, "log_weight": log_weight}
    if all(grid.uniform):
        wide = Grid(grid.bounds, cells=[n // 2 for n in grid.shape], **options)
    else:
        wide = Grid(edges=[edges[::2] for edges in grid.edges], **options)
    return Density(wide, _join(rho.masses) / wide.volumes)


def _join(values: np.ndarray, combine=np.add) -> np.ndarray:
    """Return sums over pairs of cells along each axis."""
    for axis in range(values.ndim):
        values = combine(*np.moveaxis(values, axis, 0).reshape(-1, 2, *np.delete(values.shape, axis)).swapaxes(0, 1))
        values = np.moveaxis(values, 0, axis)
    return values


def _longer_steps(method):
    steps = {name: getattr(method, name) for name in method.STEPS if getattr(method, name, None) is not None}
    return replace(method, **{name: 2 * step for name, step in steps.items()})


def _solve_again(flow: Flow, rho0: Density, method, solution: Solution) -> Solution:
    try:
        again = make_flow(flow.energy, rho0, (flow.t0, flow.t1), flow.t_eval or None, flow.time_scale, method)
    except InvalidInput as error:
        refusal = InvalidInput(f"error_estimate: the energy must be given by functions, which coarser grids need; "
                               f"{error}")
        refusal.partial = solution
        raise refusal from error
    try:
        return run(again, method)
    except ConvergenceError as error:
        failure = ConvergenceError(f"error_estimate: the run on {rho0.grid.shape} cells failed: {error}; the solution "
                                   "without an estimate is error.partial", reason=error.reason)
        failure.partial = solution
        raise failure from error


def _distance(fine: Solution, coarse: Solution) -> float:
    """Return the largest L1 distance of the densities at the common times, relative to the mass."""
    laws: list[tuple[Any, Any]] = [(fine.final, coarse.final)]
    if np.array_equal(fine.t, coarse.t):
        laws = list(zip(fine.densities, coarse.densities))
    return max(float(np.abs(_join(a.masses) - b.masses).sum()) / b.mass for a, b in laws)
