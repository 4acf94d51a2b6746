r"""The memory of a run, told from the sizes of its arrays and asked for before any of it is taken.

A run holds the flow (the initial law, its grid, the energy as arrays), what its method works with, and the record: a
copy of each law that is kept, the densities that the solution is made of, and what waits for the audit. Each method
counts its own arrays, as multiples of the size of the law, and calls `reserve` when a run begins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wgflow import checks
from wgflow.audit.listener import KEPT_BYTES
from wgflow.audit.step_record import StepRecord

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.interactions.operators import InteractionOperator

__all__ = ["fixed_steps", "held", "reserve", "room_for_snapshots", "snapshots_at_most",
           "working_of_operators"]

#: Arrays of the size of the law that a flow holds: the law and its masses, the grid's volumes, potentials.
FLOW_ARRAYS = 6
#: The same on a single axis, where also the places and widths of the cells are as large.
LINE_ARRAYS = 10
#: Without t_eval about this many snapshots are kept, thinned as the run goes on, within this many bytes: a law and the
#: density that is made of it take up to five arrays.
SNAPSHOTS, FEWEST_SNAPSHOTS = 64, 4
SNAPSHOT_BYTES, ARRAYS_OF_SNAPSHOT = 256e6, 5
#: Bytes that the history takes for a step, as it grows and where it is copied into a Solution.
BYTES_OF_STEP = 2 * 66
#: Arrays that are in use for a moment where a solution or its certificate is made.
PASSING_ARRAYS = 8


def fixed_steps(flow: Flow, dt: float) -> float:
    """Return the number of steps of a given length, at least: more where the energy or a stop shortens them."""
    return math.ceil((flow.t1 - flow.t0) / dt) + len(flow.stops)


def held(flow: Flow) -> float:
    """Return the bytes that a flow holds."""
    if not flow.has_grid:
        return 8.0 * FLOW_ARRAYS * flow.size
    arrays = LINE_ARRAYS if flow.grid.ndim == 1 else FLOW_ARRAYS
    mobility = 0 if flow.mobility is None else flow.grid.ndim
    keepers = [*_operators(flow), *(term for _, term in flow.energy.terms)]
    return 8.0 * (arrays + mobility) * flow.size + sum(map(_bytes_of, keepers))


def _bytes_of(keeper: object) -> int:
    """Return the bytes of the arrays that an operator of an interaction or a term keeps."""
    found = {}
    for value in vars(keeper).values():
        if isinstance(value, np.ndarray):
            whole = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
            found[id(whole)] = whole.nbytes
    return sum(found.values())


def working_of_operators(flow: Flow) -> float:
    """Return the bytes that forming U m takes for a moment."""
    return max((operator.working_bytes for operator in _operators(flow)), default=0.0)


def reserve(flow: Flow, working: float, *, steps: float = math.inf, arrays_of_snapshot: int = 3) -> None:
    """Note the bytes that a run will take beyond its flow, and refuse a run that does not fit into the free memory.

    Snapshots at times that nobody chose are as many as there is room for.

    Parameters
    ----------
    flow : Flow
        Its ``reserved`` is set, and ``room`` where snapshots are at times that nobody chose.
    working : float
        Bytes that the method holds at most.
    steps : float
        Number of steps, where it is known before.
    arrays_of_snapshot : int
        Arrays of the size of the law for each snapshot: its copy, and those of the density that is made of it.

    Raises
    ------
    ResourceError
    """
    size = 8.0 * flow.size
    kept = snapshots_at_most(flow, steps)
    audit = min(KEPT_BYTES + size, size * (steps + 1))
    history = 0.0 if math.isinf(steps) else BYTES_OF_STEP * min(steps, StepRecord.ROOM)
    rest = working + size * PASSING_ARRAYS + audit + history
    flow.reserved = rest + size * arrays_of_snapshot * kept
    if flow.reserved <= checks.SMALL_REQUEST:
        return
    if flow.stream is None and not flow.t_eval and kept > FEWEST_SNAPSHOTS + 1:
        # Nobody asked for these: there are as many as find room.
        left = (checks.room_for(flow.reserved) - rest) / (size * arrays_of_snapshot)
        kept = max(FEWEST_SNAPSHOTS + 1, int(min(kept, left)))
        flow.room = kept - 1
        flow.reserved = rest + size * arrays_of_snapshot * kept
    record = size * arrays_of_snapshot * kept
    law = f"{flow.grid.size} cells" if flow.has_grid else f"{flow.size} coordinates of atoms"
    fix = f"take fewer {'cells' if flow.has_grid else 'atoms'}"
    if record > working:
        fix = "ask for fewer times in t_eval, or for those of a part of the run"
    checks.check_memory(flow.reserved, f"a run on {law} with {kept} snapshots", fix)


def snapshots_at_most(flow: Flow, steps: float) -> int:
    """Return the number of snapshots that a recorder holds of a run of so many steps, at most.

    Of those that are written to a file the one that is looked at is in memory.
    """
    if flow.stream is not None:
        return 1
    if flow.t_eval:
        return len(flow.t_eval) + 1
    return int(min(room_for_snapshots(flow.size), steps)) + 1


def room_for_snapshots(size: int) -> int:
    """Return for how many snapshots of laws of a size there is room where the user does not choose their times."""
    return max(FEWEST_SNAPSHOTS, min(SNAPSHOTS, int(SNAPSHOT_BYTES / (8 * ARRAYS_OF_SNAPSHOT * size))))


def _operators(flow: Flow) -> list[InteractionOperator]:
    return [operator for _, operator in flow.on_grid.operators] if flow.has_grid else []
