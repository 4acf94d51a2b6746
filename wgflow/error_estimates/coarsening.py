"""The same law on a grid of about half the cells along each axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms_of_cells import powers_of
from wgflow.densities import Density
from wgflow.energies.nodes import is_smooth_everywhere
from wgflow.errors import InvalidInput
from wgflow.grids import Grid, log_power_cell_average

__all__ = ["coarser", "on_grid"]

Array = NDArray[np.float64]
#: Least number of cells of an axis on a coarser grid.
FEWEST_CELLS = 8
#: Edges through which the cumulative mass of a smooth law is interpolated: an error of sixth order.
STENCIL = 6


def coarser(rho: Density) -> Density:
    """Return the same law on cells of twice the width along each axis.

    Pairs of cells are joined where their number is even and the axis has no origin, which changes no mass. Otherwise n
    cells become (n + 1)/2 or, at an origin, n/2, whose masses are differences of the cumulative mass: interpolated by
    polynomials of degree 5 where the law is smooth on the scale of its cells, linearly where it is not.

    Raises
    ------
    InvalidInput
        If an axis would have fewer than 8 cells, or the weight of cells that cannot be joined in pairs is not a product
        of powers.
    """
    grid = rho.grid
    for axis, n in enumerate(grid.shape):
        if (n + 1) // 2 < FEWEST_CELLS:
            raise InvalidInput(f"error estimate: axis {axis} has {n} cells on the way to coarser grids; solve on at "
                               f"least {4 * FEWEST_CELLS} cells along each axis")
    edges = [_wider(e, half) for e, half in zip(grid.edges, grid.origin)]
    options = {"boundary": grid.boundary, "names": grid.names, "origin": grid.origin,
               "log_weight": _weight(grid, edges)}
    wide = (Grid(grid.bounds, cells=[e.size - 1 for e in edges], **options) if all(grid.uniform)
            else Grid(edges=edges, **options))
    coarse = Density(wide, on_grid(rho, wide) / wide.volumes)
    coarse.sample_size = rho.sample_size
    return coarse


def on_grid(rho: Density, wide: Grid) -> Array:
    """Return the masses of a law in the wider cells of another grid over the same box."""
    masses, smooth = rho.masses, is_smooth_everywhere(rho.values)
    for axis, (old, new) in enumerate(zip(rho.grid.edges, wide.edges)):
        lines = np.moveaxis(masses, axis, 0)
        if np.array_equal(new, old[::2]) or _halved(rho.grid, wide, axis):
            lines = lines[0::2] + lines[1::2]
        else:
            lines = _shared(lines, old, new, rho.grid.periodic[axis], smooth)
        masses = np.moveaxis(lines, 0, axis)
    masses = np.maximum(masses, 0.0)
    total = float(masses.sum())
    return masses if total == rho.mass else masses * (rho.mass / total)


def _halved(grid: Grid, wide: Grid, axis: int) -> bool:
    """Return whether the cells of an axis are pairs of cells: even ones of twice the number."""
    return (grid.uniform[axis] and wide.uniform[axis] and grid.shape[axis] == 2 * wide.shape[axis])


def _wider(edges: Array, half: bool) -> Array:
    """Return edges of half as many cells, at the same ends."""
    n = edges.size - 1
    if n % 2 == 0 and not half:
        return edges[::2]
    count = n // 2 if half else (n + 1) // 2
    # In units of a cell; the first one at an origin is half as wide.
    places = [np.arange(m + 1.0) - (0.5 if half else 0.0) for m in (n, count)]
    for p in places:
        p[0] = 0.0
    wide: Array = np.interp(places[1] * (places[0][-1] / places[1][-1]), places[0], edges)
    wide[0], wide[-1] = edges[0], edges[-1]
    return wide


def _weight(grid: Grid, edges: list[Array]) -> Array | None:
    """Return the logarithm of the weight of the wider cells."""
    if grid.log_weight is None:
        return None
    if not any(grid.origin) and all(n % 2 == 0 for n in grid.shape):
        volumes = np.log(grid.volumes)
        joined, wide = grid.log_weight + volumes, volumes
        for axis in range(grid.ndim):
            joined, wide = (np.logaddexp(*_pairs(a, axis)) for a in (joined, wide))
        return joined - wide
    powers = powers_of(grid)
    if powers is None:
        raise InvalidInput("error estimate: the weight of the grid is not a product of powers, so that its cells must "
                           "be joined in pairs; take a multiple of 4 cells along each axis, and no origin")
    fine, wide = (_product(e, powers) for e in (grid.edges, edges))
    return wide + float((grid.log_weight - fine).flat[-1])


def _pairs(a: Array, axis: int) -> tuple[Array, Array]:
    lines = np.moveaxis(a, axis, 0)
    return np.moveaxis(lines[0::2], 0, axis), np.moveaxis(lines[1::2], 0, axis)


def _product(edges, powers: tuple[float, ...]) -> Array:
    """Return the logarithms of the averages over cells of a product of powers."""
    lines = [log_power_cell_average(e, p) if p else np.zeros(e.size - 1) for e, p in zip(edges, powers)]
    total = lines[0]
    for line in lines[1:]:
        total = total[..., None] + line
    return total


def _shared(masses: Array, old: Array, new: Array, periodic: bool, smooth: bool) -> Array:
    """Return masses (first axis) in other cells, as differences of the interpolated cumulative mass."""
    below = np.concatenate([np.zeros((1, *masses.shape[1:])), np.cumsum(masses, axis=0)])
    ends = below[[0, -1]].copy()
    count = min(STENCIL, old.size) if smooth else 2
    if periodic and smooth:
        length, total, k = old[-1] - old[0], below[-1], STENCIL // 2
        old = np.concatenate([old[-k - 1:-1] - length, old, old[1:k + 1] + length])
        below = np.concatenate([below[-k - 1:-1] - total, below, below[1:k + 1] + total])
    first = np.clip(np.searchsorted(old, new) - count // 2, 0, old.size - count)
    places = first[:, None] + np.arange(count)
    x = old[places]
    weights = np.ones((new.size, count))
    for j in range(count):
        for i in range(count):
            if i != j:
                weights[:, j] *= (new - x[:, i]) / (x[:, j] - x[:, i])
    cumulative = np.einsum("ij,ij...->i...", weights, below[places])
    cumulative[[0, -1]] = ends
    return np.diff(cumulative, axis=0)
