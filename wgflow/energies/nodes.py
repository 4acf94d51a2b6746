r"""Laws by their values at cell centers, and the averages over cells that belong to them.

Compact finite volumes of fourth order hold the values :math:`p_i = \rho(x_i)` at the centers of uniform cells, for
which a flow splits exactly into its axes; cells whose widths vary smoothly are images of uniform ones
(`graded_axes`). A `Density` is known by the averages :math:`a_i` over its cells. Along each
axis

.. math:: a_i = p_i + \tfrac{1}{24} \delta^2 p_i - \tfrac{17}{5760} \delta^4 p_i + O(h^6), \qquad
          a_0 = p_0 + \tfrac{1}{24}(p_0 - 2 p_1 + p_2) + O(h^3)

at a wall; the flux of the last term, 17/5760 of a third difference, is left out at edges where it would reach beyond
one, and bounded by a part of the values beside the edge, so that averages stay positive. The mass of the averages is
that of the values with the weights :math:`w = (26, 21, 25) / 24` at the three
cells next to each wall and 1 elsewhere: :math:`\sum_i a_i = \sum_i w_i p_i`, a quadrature of fourth order. Energies are
sums over the point masses :math:`m_i = w_i h p_i` in the same form as over masses of cells, on a `NodeGrid`, whose
volumes contain the weights.

Both maps are inverses of each other. They are left out along an axis on which the density is not smooth on
the scale of the cells (a box, a histogram), where a value at a center means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar, cast

import numpy as np

from wgflow.compiled.compact import differences
from wgflow.compiled.node_values import averages_of_values, values_of_averages
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .graded_axes import ITERATIONS, SETTLED, GradedAxis, graded_axis, is_graded

Law = TypeVar("Law")

__all__ = ["NodeGrid", "at_nodes", "density_of_nodes", "has_nodes", "is_smooth",
           "is_smooth_everywhere", "node_grid", "nodes_of_density",
           "with_nodes"]

#: Quadrature weights of the three cells next to a wall.
WALL = np.array([26.0, 21.0, 25.0]) / 24.0
#: Least number of cells along an axis.
FEWEST_CELLS = 8
#: Least number of cells that have a fourth difference.
FEWEST_DIFFERENCES = 5
#: A weight vanishes at an origin if its logarithm there is below that of this cell by so much: from r^4 on.
INNER, VANISHING = 5, -12.0
#: A density is smooth along an axis if the sum of its fourth differences is at most this multiple of that of its second
#: differences: 4 at a jump and at a kink, 3.4 for noise, (h/width)^2 times 2.9 for a Gaussian.
SMOOTH = 2.0


class NodeGrid(Grid):
    """A grid whose cells stand for their centers: its volumes contain the weights of a quadrature.

    Parameters
    ----------
    cells : Grid
        For which `has_nodes` holds.

    Attributes
    ----------
    images : tuple of GradedAxis or None
        For each axis whose cells are not even, how it is an image of even ones; its widths are their images.
    steps : tuple of float
        For each axis the width of its even cells; 1 where they have images.
    """

    cells: Grid
    images: tuple[GradedAxis | None, ...]
    steps: tuple[float, ...]

    def __init__(self, cells: Grid):
        vars(self).update({name: value for name, value in vars(cells).items()
                           if name not in ("volumes", "log_volumes", "log_reference", "_nodes")})
        self.cells = cells
        self.images = tuple(None if even or half else graded_axis(e, c, around) for even, half, e, c, around in
                            zip(cells.uniform, cells.origin, cells.edges, cells.centers, cells.periodic))
        # The half cell at an origin counts as a whole one with half the weight.
        self.widths = tuple(axis.pace if axis is not None else np.full(h.size, h[-1]) if half else h
                            for h, axis, half in zip(cells.widths, self.images, cells.origin))
        self.steps = tuple(1.0 if axis is not None else float(h[0]) for h, axis in zip(self.widths, self.images))
        if cells.log_weight is not None:
            self.log_weight = _log_values(cells.log_weight, cells.periodic)
            for axis, half in enumerate(cells.origin):
                if half:
                    np.moveaxis(self.log_weight, axis, 0)[0] = np.moveaxis(cells.log_weight, axis, 0)[0] - np.log(2.0)

    @cached_property
    def volumes(self) -> np.ndarray:
        volumes = self.widths[0].copy()
        for h in self.widths[1:]:
            volumes = volumes[..., None] * h
        for axis, periodic in enumerate(self.periodic):
            if not periodic:
                lines, graded = volumes.swapaxes(axis, -1), self.images[axis]
                if graded is None:
                    lines[..., :3] *= WALL
                    lines[..., -3:] *= WALL[::-1]
                else:
                    weights = np.ones(self.shape[axis])
                    weights[:3], weights[-3:] = WALL, WALL[::-1]
                    lines *= weights + graded.weights()
        volumes.flags.writeable = False
        return volumes

    @cached_property
    def log_volumes(self) -> np.ndarray:
        """Logarithms of the volumes."""
        return np.log(self.volumes)


def node_grid(grid: Grid) -> NodeGrid:
    """Return the `NodeGrid` of a grid, made once."""
    if "_nodes" not in vars(grid):
        vars(grid)["_nodes"] = NodeGrid(grid)
    return vars(grid)["_nodes"]


def has_nodes(grid: Grid) -> bool:
    """Return whether a grid's cells are even, or vary smoothly, and enough for the closures at its walls.

    A half cell at an origin is allowed where the weight vanishes fast enough for what lies there not to matter.
    """
    if min(grid.shape) < FEWEST_CELLS or isinstance(grid, NodeGrid):
        return False
    for axis, (even, half, h) in enumerate(zip(grid.uniform, grid.origin, grid.widths)):
        if even:
            continue
        if not half and grid.log_weight is None and is_graded(grid.edges[axis], grid.periodic[axis]):
            continue
        if not half or grid.log_weight is None or not ((h[1:] == h[-1]).all() and h[0] == 0.5 * h[-1]):
            return False
        lines = np.moveaxis(grid.log_weight, axis, 0)
        if not (lines[0] - lines[INNER] < VANISHING).all():
            return False
    return True


def at_nodes(rho: Law) -> Law:
    """Return a law by its values at the centers, if a solver has attached them; else the law itself."""
    nodal = getattr(rho, "nodal", None)
    return rho if nodal is None else nodal


def nodes_of_density(rho: Density) -> Density:
    """Return a density by its values at the centers, on a `NodeGrid`; those attached to it, if any."""
    if rho.nodal is not None:
        return rho.nodal
    grid, nodes = rho.grid, node_grid(rho.grid)
    values, graded = rho.values, any(nodes.images)
    if graded:
        values = _in_even_cells(values, grid.widths, nodes)
    if any(grid.origin):
        values = values.copy()
        _scale_origins(values, grid, 0.5)
    # Bounds make the maps of the axes depend on their order.
    for axis in reversed(_steepest_first(values, grid.periodic)):
        if is_smooth(values, axis):
            values = _along(values_of_averages, values, axis, nodes)
    if graded:
        values = _in_even_cells(values, nodes.widths, nodes, back=True)
    return Density.trusted(nodes, _of_mass(values, nodes, rho.mass))


def with_nodes(rho: Density, values: np.ndarray) -> Density:
    """Attach values at the centers to a density that was made together with them, and return it."""
    if not has_nodes(rho.grid):
        raise InvalidInput(f"a density on {rho.grid} has no values at centers")
    rho.nodal = Density(node_grid(rho.grid), values)
    return rho


def density_of_nodes(nodal: Density) -> Density:
    """Return the density whose values at the centers are given; they are attached to it."""
    nodes = cast(NodeGrid, nodal.grid)
    grid, values = nodes.cells, nodal.values
    if any(nodes.images):
        values = _in_even_cells(values, nodes.widths, nodes)
    for axis in _steepest_first(values, grid.periodic):
        if is_smooth(values, axis):
            values = _along(averages_of_values, values, axis, nodes)
    if any(nodes.images):
        values = _in_even_cells(values, grid.widths, nodes, back=True)
    if any(grid.origin):
        values = values.copy()
        _scale_origins(values, grid, 2.0)
    rho = Density.trusted(grid, _of_mass(np.ascontiguousarray(values), grid, nodal.mass))
    rho.nodal = nodal
    return rho


def _steepest_first(values: np.ndarray, periodic: Sequence[bool]) -> list[int]:
    """Return the axes by how much values vary along them, an order that does not depend on their numbers.

    Around a circle the seam counts as well, so that it does not matter where that is. To four digits, which the
    averages over cells and the values at their centers mostly have in common.
    """
    if values.ndim == 1:
        return [0]
    ways = []
    for axis, around in enumerate(periodic):
        p = values.swapaxes(0, axis)
        change = np.abs(p[1:] - p[:-1]).sum() + (np.abs(p[0] - p[-1]).sum() if around else 0.0)
        ways.append(float(f"{change / (len(p) - 1 + around):.3e}"))
    return sorted(range(values.ndim), key=lambda axis: (ways[axis], values.shape[axis]), reverse=True)


def law_of_nodes(first: Density, nodal: Density) -> Callable[[np.ndarray], Density]:
    """Return a function that makes a density of masses at centers, and returns the first law for those it began with.

    Parameters
    ----------
    first : Density
        The first law.
    nodal : Density
        The same by its values at the centers.
    """
    start = Density.__new__(Density)
    vars(start).update(grid=first.grid, values=first.values, masses=first.masses, mass=first.mass, nodal=nodal)

    def law(masses: np.ndarray) -> Density:
        middle = masses.size // 2
        if masses.item(middle) == nodal.masses.item(middle) and np.array_equal(masses, nodal.masses):
            return start
        return density_of_nodes(Density.trusted(nodal.grid, masses / nodal.grid.volumes))

    return law


def _log_values(log_averages: np.ndarray, periodic: tuple[bool, ...]) -> np.ndarray:
    """Return the logarithm of a weight at the centers from that of its averages: w - delta^2 w / 24 along each axis.

    Where the weight grows by large factors from cell to cell the differences are relative to the cell, and bounded.
    """
    logs = log_averages
    for axis, turns in enumerate(periodic):
        lines = np.moveaxis(logs, axis, 0)
        with np.errstate(over="ignore"):
            if turns:
                bend = np.exp(np.roll(lines, -1, 0) - lines) + np.exp(np.roll(lines, 1, 0) - lines) - 2.0
            else:
                bend = np.empty(lines.shape)
                bend[1:-1] = np.exp(lines[2:] - lines[1:-1]) + np.exp(lines[:-2] - lines[1:-1]) - 2.0
                bend[0] = np.exp(lines[2] - lines[0]) - 2.0 * np.exp(lines[1] - lines[0]) + 1.0
                bend[-1] = np.exp(lines[-3] - lines[-1]) - 2.0 * np.exp(lines[-2] - lines[-1]) + 1.0
        bend = np.clip(bend / 24.0, -0.5, None)
        logs = logs + np.moveaxis(np.where(bend < 0.5, np.log1p(-np.minimum(bend, 0.5)), -np.log1p(bend)), 0, axis)
    return logs


def _scale_origins(values: np.ndarray, grid: Grid, factor: float) -> None:
    """Scale the values in the half cells at origins, in place."""
    for axis, half in enumerate(grid.origin):
        if half:
            np.moveaxis(values, axis, 0)[0] *= factor


def _in_even_cells(values: np.ndarray, widths: Sequence[np.ndarray], nodes: NodeGrid,
                   back: bool = False) -> np.ndarray:
    """Return densities times the widths of graded cells, or divided by them on the way back; a new array."""
    values = values.copy()
    for axis, graded in enumerate(nodes.images):
        if graded is not None:
            h = widths[axis].reshape(-1, *[1] * (values.ndim - axis - 1))
            values *= 1.0 / h if back else h
    return values


def _along(convert: Callable[..., None], values: np.ndarray, axis: int, nodes: NodeGrid) -> np.ndarray:
    """Return averages of values or values of averages along an axis, by a function of the lines of that axis."""
    periodic, graded = nodes.periodic[axis], nodes.images[axis]
    # Copies, since compiled functions know arrays that can be written to alone.
    lines = values.swapaxes(0, axis).copy(order="C")
    given = lines.reshape(len(lines), -1)
    found: np.ndarray = np.empty(given.shape)
    convert(given, periodic, found)
    if graded is not None and convert is averages_of_values:
        found += graded.exchange(given)
    elif graded is not None:
        most = SETTLED * float(np.abs(given).max())
        for _ in range(ITERATIONS):
            before = found.copy()
            convert(given - graded.exchange(before), periodic, found)
            if np.abs(found - before).max() <= most:
                break
    found = found.reshape(lines.shape)
    return found if axis == 0 else np.ascontiguousarray(found.swapaxes(0, axis))


def is_smooth(values: np.ndarray, axis: int) -> bool:
    """Return whether a density varies on a scale of more than a cell along an axis."""
    if values.shape[axis] < FEWEST_DIFFERENCES:
        return True
    flat = values.ravel() if values.flags.writeable else values.flatten()
    second, fourth = differences(flat, math.prod(values.shape[:axis]), values.shape[axis],
                                 math.prod(values.shape[axis + 1:]))
    # Round-off of a flat density is no roughness.
    return bool(fourth <= SMOOTH * second or fourth <= SMOOTH * second + 1e-12 * float(values.max()) * values.size)


def is_smooth_everywhere(values: np.ndarray) -> bool:
    """Return whether a density is smooth along all axes."""
    return all(is_smooth(values, axis) for axis in range(values.ndim))


def _of_mass(values: np.ndarray, grid: Grid, mass: float) -> np.ndarray:
    """Return values with negative ones raised to 0, scaled to a mass."""
    values = np.maximum(values, 0.0)
    total = float((values * grid.volumes).sum())
    return values if total == mass else values * (mass / total)
