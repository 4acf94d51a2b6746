r"""A grid on which the backward run with noise resolves what the law sees.

The rates of Scharfetter and Gummel carry a function g with the right velocity b, but spread it as a diffusion
:math:`D\,(q/2) \coth(q/2) = D\,(1 + q^2/12 - \dots)` would, with :math:`q = b h / D` on cells of width h: the scatter
of spreads comes out too large where noise is weak. The solution of the flow may be accurate on such a grid, since its
own scheme is of higher order. So where q is not small on the cells that mass visits, both are computed anew on cells
that reach no farther than the mass does, and are as narrow as q asks for.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import PchipInterpolator

from wgflow.densities import Density
from wgflow.grids import Grid
from wgflow.reduced_models.base import ReducedModel
from wgflow.solution import Solution

__all__ = ["resolved_start"]

#: The largest q of a step that is resolved: the diffusion is then 1 % too large; and the most cells.
_STEEP, _MOST = 0.35, 4000
#: Mass beyond the new grid's ends at any time, and mass of a cell that counts.
_TAIL, _HEAVY = 1e-12, 1e-6
#: What the new grid reaches beyond, as a share of its span.
_MARGIN = 0.1


def resolved_start(model: ReducedModel, sol: Solution, beta: float, ridge: float) -> Density | None:
    """Return the start of a solution on a finer grid on one axis, or None where its own resolves the flow.

    Parameters
    ----------
    model : ReducedModel
    sol : Solution
        Of densities with noise, on the start's own grid.
    beta, ridge : float
    """
    start = sol.densities[0]
    grid = start.grid
    if grid.ndim > 1 or grid.periodic[0]:
        return None
    steepest = max(_steepest(model, rho, beta, ridge) for rho in sol.densities[::4])
    if steepest <= _STEEP:
        return None
    low, high = _reach(sol)
    widths = np.asarray(grid.widths[0])
    count = math.ceil((high - low) / float(np.median(widths)) * steepest / _STEEP)
    fine = Grid([(low, high)], cells=min(count, _MOST), names=grid.names, origin=grid.origin, boundary="no-flux")
    if grid.log_weight is not None:
        fine = model.weighted(fine)
    total = np.concatenate([[0.0], np.cumsum(start.masses)])
    # Rounding of a sum that is close to 1 may leave differences below 0.
    masses = np.maximum(np.diff(PchipInterpolator(grid.edges[0], total)(np.asarray(fine.edges[0]))), 0.0)
    return Density(fine, masses / (masses.sum() * fine.volumes))


def _steepest(model: ReducedModel, rho: Density, beta: float, ridge: float) -> float:
    """Return the largest q between cells that hold mass."""
    grid, masses = rho.grid, np.asarray(rho.masses) / rho.mass
    points = [np.asarray(x) for x in grid.centers]
    psi = np.tensordot(model.moment_slopes(model.features(*points) @ masses), model.features(*points), axes=1)
    height = beta * (psi + 0.5 * ridge * np.asarray(model.squared_norm(*points)))
    if grid.log_weight is not None:
        height = height - grid.log_weight
    heavy = masses > _HEAVY
    return float(np.max(np.abs(np.diff(height))[heavy[1:] & heavy[:-1]], initial=0.0))


def _reach(sol: Solution) -> tuple[float, float]:
    """Return ends between which the mass stays; an end that is one of the domain is kept where mass is near."""
    grid = sol.densities[0].grid
    edges = np.asarray(grid.edges[0])
    below = np.max([np.cumsum(rho.masses) for rho in sol.densities], axis=0) / sol.densities[0].mass
    above = np.max([np.cumsum(np.asarray(rho.masses)[::-1]) for rho in sol.densities], axis=0)
    above = above[::-1] / sol.densities[0].mass
    low = float(edges[:-1][below > _TAIL][0])
    high = float(edges[1:][above > _TAIL][-1])
    margin = _MARGIN * (high - low)
    low = float(edges[0]) if grid.origin[0] else max(low - margin, float(edges[0]))
    return low, min(high + margin, float(edges[-1]))
