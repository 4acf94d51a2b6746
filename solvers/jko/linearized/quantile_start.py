r"""A start for a JKO step on a line: the map of the same step in quantiles.

In quantiles a step is convex where V is, its unknowns stay in order, and void needs no cells, so that it is solved from
any law (`QuantileSolver`). Its positions X and Y before and after a step give the map, :math:`T(X) = Y`, hence

.. math:: p' = (T(x) - x) / \tau, \qquad q = p - V - U \rho,

up to the error of the two grids. It is extended linearly beyond the law.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.linearized import masses_of_slopes
from wgflow.densities import Density

from ..quantile.mesh import power_weight
from ..quantile.solver import QuantileSolver
from ..settings import Quantile

if TYPE_CHECKING:
    from .solver import LinearizedSolver

#: The residual of the step in quantiles, and its iterations: it is a start only.
TOLERANCE = 1e-6
ITERATIONS = 60
#: Levels at an end of the law that give the slope of the map beyond it.
END = 4
#: Bisections for the total mass.
BISECTIONS = 60
#: Least number of cells of a grid with quantiles.
LEAST_CELLS = 4


def can_start(solver: LinearizedSolver) -> bool:
    """Return whether `slopes_of_quantiles` serves the energy and the grid."""
    grid = solver.grid
    return (grid.ndim == 1 and not grid.periodic[0] and grid.size >= LEAST_CELLS
            and (solver.terms[1].size == 0 or power_weight(grid) is not None))


def slopes_of_quantiles(solver: LinearizedSolver, masses: np.ndarray, tau: float) -> np.ndarray:
    """Return H' of the cells after a step of length tau from masses, approximately."""
    grid, parts = solver.grid, solver.parts
    if parts.functionals:
        parts = replace(parts, potential=solver.field(masses), operators=[], functionals=[])
    quantiles = QuantileSolver(parts, grid, Quantile(), TOLERANCE, ITERATIONS)
    quantiles.check_time = solver.check_time
    step = quantiles.step(quantiles.begin(Density(grid, masses / grid.volumes)), tau)
    new = step.state["last"] + (grid.edges[0][0] - quantiles.edges[0])
    old = new - tau * step.state["velocity"]
    faces, (low, high) = grid.edges[0][1:-1], grid.bounds[0]
    images = np.interp(faces, new, old)
    for end, outside in ((slice(0, END + 1), np.minimum(faces - new[0], 0.0)),
                         (slice(-END - 1, None), np.maximum(faces - new[-1], 0.0))):
        width = float(np.ptp(new[end]))
        images += outside * (float(np.ptp(old[end])) / width if width > 0 else 1.0)
    images = np.clip(images, low, high)
    pressure = np.concatenate(([0.0], np.cumsum(grid.distances[0] * (images - faces)))) / tau
    moved = step.rho.masses
    slopes = pressure - solver.field(moved)
    return slopes + _constant(solver, slopes, moved)


def _constant(solver: LinearizedSolver, slopes: np.ndarray, masses: np.ndarray) -> float:
    """Return the constant that slopes lack for the total mass of masses, by bisection."""
    heaviest, total = int(masses.argmax()), float(masses.sum())
    known = solver.slopes(masses)[heaviest] - slopes[heaviest]
    width = float(np.ptp(slopes[masses > 0])) + abs(known) + 1.0
    low, high = known - width, known + width
    found, rest = np.empty((2, masses.size))
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        small = masses_of_slopes(slopes + middle, solver.log_reference, solver.terms, found, rest)
        low, high = (middle, high) if small and found.sum() < total else (low, middle)
    return low
