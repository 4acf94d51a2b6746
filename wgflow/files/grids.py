"""Grids and mobilities in files: what solutions and checkpoints keep of them."""

from __future__ import annotations

import numpy as np

from wgflow.energies.mobility import Mobility, UnknownMobility
from wgflow.grids import Grid

__all__ = ["pack_axes", "unpack_grid", "unpack_mobility"]


def pack_axes(grid: Grid) -> list[dict]:
    """Return name, boundary, origin and ends of each axis: what `unpack_grid` takes beside arrays."""
    return [{"name": name, "boundary": "periodic" if periodic else "no-flux", "origin": origin, "open_ends": list(ends)}
            for name, periodic, origin, ends in zip(grid.names, grid.periodic, grid.origin, grid.open_ends)]


def unpack_grid(axes: list[dict], arrays: dict[str, np.ndarray]) -> Grid:
    """Return the grid of axes (name, boundary, origin, open_ends) and arrays (edges_0, ..., log_weight).

    Files of former versions do not know which ends are walls: they have the default.
    """
    boundary = ["periodic" if axis["boundary"] == "periodic" else
                tuple(None if is_open else "no-flux" for is_open in axis.get("open_ends", (True, True)))
                for axis in axes]
    return Grid(edges=[arrays[f"edges_{k}"] for k in range(len(axes))], boundary=boundary,
                log_weight=arrays.get("log_weight"), names=[axis["name"] for axis in axes],
                origin=[axis.get("origin", False) for axis in axes])


def unpack_mobility(told: dict | None) -> Mobility | None:
    """Return the mobility of numbers, or one that is known by its text alone; None if there was none."""
    if told is None:
        return None
    numbers = told["numbers"]
    if numbers is None:
        return UnknownMobility(str(told["text"]))
    return Mobility.of_numbers(numbers)
