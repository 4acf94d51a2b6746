"""Parts of the studies of phase transitions: branches on a grid, the transition itself, rates of return."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from scipy.optimize import brentq

from wgflow.densities import Density
from wgflow.grids import Grid
from wgflow.solvers import FiniteVolume
from wgflow.solvers.stationary import stationary, stationary_branches
from wgflow.verbs import solve

from ..exact import ExactProblem

__all__ = ["Branch", "branches", "critical_value", "late_flow"]

#: A flow is followed for so many times the time in which the distance to its limit falls by e, and its rate is taken
#: between the first two of these: other modes and the nonlinear part, which is of the relative size of the distance
#: itself, have left it by then.
_WATCHED = (10.0, 12.0, 14.0)
#: The longest step, in units of that time.
_FRACTION = 0.05


class Branch(NamedTuple):
    """A stationary state: the size of its order parameter, its energy and whether it is stable."""

    order: float
    energy: float
    stable: bool


class LateFlow(NamedTuple):
    """The end of a long flow, and the rate of its approach: NaN where it had arrived before the rate could be taken."""

    order: float
    rate: float
    certified: bool
    words: str


def branches(problem: ExactProblem, grid: Grid, order: Callable[[Density], float]) -> list[Branch]:
    """Return the stationary states of a problem on a grid; states that a symmetry exchanges count once."""
    found: list[Branch] = []
    for state in stationary_branches(problem.energy(), grid):
        branch = Branch(abs(order(state.density)), state.energy, bool(state.stable))
        if all(abs(branch.order - other.order) > 1e-6 for other in found):
            found.append(branch)
    return sorted(found)


def critical_value(make: Callable[[float], ExactProblem], low: float, high: float, grid: Grid) -> float:
    """Return the parameter at which the symmetric state loses its stability: where its least curvature is zero.

    Parameters
    ----------
    make : callable
        The problem of a parameter.
    low, high : float
        Between which it changes.
    grid : Grid
        Symmetric, so that a symmetric start stays so.
    """
    start = Density.uniform(grid)

    def curvature(value: float) -> float:
        return stationary(make(value).energy(), grid, rho0=start).curvature

    return float(brentq(curvature, low, high, xtol=1e-11))


def late_flow(problem: ExactProblem, rho0: Density, order: Callable[[Density], float], rate: float,
              limit: float, longest_step: float) -> LateFlow:
    """Follow a flow to its stationary state.

    Late in the run the whole change is below the tolerance of a step, which is relative to the mass, so that nothing
    but the longest step decides how well what is left of the distance is resolved.

    Parameters
    ----------
    problem : ExactProblem
    rho0 : Density
    order : callable
        The order parameter of a density.
    rate : float
        About the rate of its decay, which sets the times of the run.
    limit : float
        The stationary value that the order parameter falls or rises to.
    longest_step : float
        Short beside the times of the relaxation without interaction and of the pull of the mean field. Near a
        transition ``rate`` is the small difference of these two rates, and a small error of either a large one of it.
    """
    times = [span / rate for span in _WATCHED]
    method = FiniteVolume(rtol=1e-7, max_step=min(longest_step, _FRACTION / rate))
    sol = solve(problem.energy(), rho0, (0.0, times[-1]), method, t_eval=times)
    first, second = (abs(order(sol.density(t)) - limit) for t in times[:2])
    found = math.log(first / second) / (times[1] - times[0]) if second > 0.0 else math.nan
    return LateFlow(order(sol.final), found, sol.certificate.ok, sol.certificate.explain())
