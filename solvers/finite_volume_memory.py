"""The memory of a run of FiniteVolume: its arrays, counted in arrays of the size of the grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wgflow.calls.memory import fixed_steps, reserve, working_of_operators
from wgflow.compiled.compact import compact_layout
from wgflow.compiled.sweep import axis_layout

from .finite_volume.compact_sweeps import FACTORS, LENGTHS
from .finite_volume.splitting import CACHE_BYTES

if TYPE_CHECKING:
    from wgflow.flows import Flow

    from .finite_volume.method import FiniteVolume

__all__ = ["reserve_for"]

#: Arrays of a run on values at centers: the law and the grid at centers, its potentials, the candidates of a step;
CENTERS = 16
#: of one by second order: the law before and after a step, and what a sweep takes;
AVERAGES = 12
#: of one with nonlinear diffusion: Newton's method, its matrix and its line search;
NEWTON = 22
#: of one along characteristics, or along directions of the grid.
CARRIED = 16
#: On a single axis compiled loops keep rates, factors and candidates of their own, at centers and by averages.
LINE_AT_CENTERS, LINE = 12, 8
#: Fields of an interaction: at both ends of a step, in the middle, and of the step before; by second order fewer.
FIELDS_AT_CENTERS, FIELDS = 14, 7
#: Energies at the times of a step, where terms change with time.
TIMES = 12
#: Snapshots hold masses, and densities values and masses; those of values at centers these, too.
OF_SNAPSHOT, OF_NODAL_SNAPSHOT = 3, 5
#: A sparse LU decomposition of a plane of n cells has about (5.9 log2 n - 41) n entries, as measured to 400 x 400, of
#: 12 bytes: a float and the number of a row. Other arrays of steps that solve both axes at once.
LU_ENTRIES, LU_LESS, LU_BYTES, UNSPLIT = 5.9, 41.0, 12.0, 50


def reserve_for(flow: Flow, method: FiniteVolume, compact: bool) -> None:
    """Ask for the memory of a run; raise ResourceError if it is more than is free.

    Parameters
    ----------
    flow : Flow
    method : FiniteVolume
    compact : bool
        Whether the run is on values at centers, with fluxes of fourth order.
    """
    steps = math.inf if method.dt is None else fixed_steps(flow, method.dt)
    arrays = CENTERS if compact else NEWTON if flow.on_grid.internal else AVERAGES
    oblique = flow.mobility is not None and flow.mobility.directions(flow.grid) is not None
    internal = bool(flow.on_grid.internal)
    if oblique or not (compact or internal or flow.on_grid.diffusion > 0):
        arrays += CARRIED
    if flow.grid.ndim == 1 and not internal:
        arrays += LINE_AT_CENTERS if compact else LINE
    if flow.mobility is not None or (compact and not all(flow.grid.uniform)):
        arrays += 2 * flow.grid.ndim
    if flow.on_grid.moves:
        arrays += FIELDS_AT_CENTERS if compact else FIELDS
    if flow.energy.time_dependent:
        arrays += TIMES
    size = 8.0 * flow.size
    working = arrays * size + working_of_operators(flow)
    if method.splitting == "none":
        entries = max(10.0, LU_ENTRIES * math.log2(flow.size) - LU_LESS)
        # With steps of equal length one decomposition serves, else one that is replaced and the new one.
        working += UNSPLIT * size + LU_BYTES * entries * flow.size * (1 if method.dt is not None else 3)
    elif compact:
        working += _kept_by_compact_sweeps(flow, method)
    elif not internal:
        working += _kept_by_sweeps(flow, method)
    reserve(flow, working, steps=steps, arrays_of_snapshot=OF_NODAL_SNAPSHOT if compact else OF_SNAPSHOT)


def _kept_by_compact_sweeps(flow: Flow, method: FiniteVolume) -> float:
    """Return the bytes of rates and factors: of sweeps of order 3, and where small errors are asked for of order 5."""
    grid = flow.grid
    high = method.dt is None and grid.ndim > 1 and not (flow.on_grid.moves or flow.energy.time_dependent)
    total = most = 0.0
    for axis, periodic in enumerate(grid.periodic):
        _, _, width, blocks = compact_layout(grid.shape, axis)
        cells = 8.0 * blocks * grid.shape[axis] * width
        total += cells * (4 + (2 if high else 1) * LENGTHS * FACTORS[periodic])
        most += cells * (4 + 2 * grid.ndim * FACTORS[periodic])
    return total if most <= CACHE_BYTES else 0.0


def _kept_by_sweeps(flow: Flow, method: FiniteVolume) -> float:
    """Return the bytes of the rates that never change, for each kind of sweep."""
    grid, energy = flow.grid, flow.on_grid
    if energy.moves or flow.energy.time_dependent or flow.mobility is not None:
        return 0.0
    kinds, total = 1 if method.dt is not None else 2, 0.0
    for axis in range(grid.ndim):
        _, _, width, blocks = axis_layout(grid.shape, axis)
        total += 8.0 * 4 * kinds * blocks * grid.shape[axis] * width
    return min(total, CACHE_BYTES)
