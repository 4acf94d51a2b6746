"""Timed runs: points of error and cost, ladders of grids and settings, medians of runs in alternation.

Nothing here imports NumPy, so that `set_threads` comes before it.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

SLOW = 10.0  # CPU seconds above which a run is not repeated
STALLED = 0.01  # relative change of the error below which a ladder has reached the grid error
ONCE = 0.05  # CPU seconds above which a ladder's run is timed once
BACK = 3  # settings before the first that served on the last rung, at which the next rung begins

Cells = tuple[int, ...]
Rung = tuple[Cells, dict[str, Any]]


def set_threads(threads: int) -> None:
    """Set the threads of BLAS, OpenMP and Numba; before NumPy is imported."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)


def settle() -> None:
    """Leave all objects of imports and compilation out of the collections between runs, which would dominate."""
    gc.collect()
    gc.freeze()


def machine(threads: int) -> str:
    """Return versions and load in one line."""
    import numpy
    import scipy

    return (
        f"Python {sys.version.split()[0]}, numpy {numpy.__version__}, scipy {scipy.__version__}, "
        f"{os.cpu_count()} CPUs, {threads} thread(s), load {os.getloadavg()[0]:.1f} at the start"
    )


@dataclass(frozen=True)
class Method:
    """A way to solve a problem, with its ladder of settings from cheap to accurate.

    ``rungs`` holds knobs that are fixed while the ladder is climbed; a method that is ``meshfree`` has its resolution
    among them, others are given grids with at most ``most`` cells an axis.
    """

    name: str
    tier: str  # "wgflow", "named", "specialist", "one-shot", "spectral" or "fipy"
    run: Callable[..., Any]
    ladder: list[dict[str, Any]]
    rungs: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    meshfree: bool = False
    most: int = 1 << 30

    def on(self, cells: Cells) -> list[Rung]:
        """Return the rungs on one grid; none if it is too large for the method."""
        return [(cells, knobs) for knobs in self.rungs] if max(cells) <= self.most else []

    def own(self, grids: list[Cells], output: Cells) -> list[Rung]:
        """Return the rungs if the method chooses its grid; a method without cells hands over on ``output``."""
        if self.meshfree:
            return self.on(output)
        return [rung for cells in grids for rung in self.on(cells)]


@dataclass
class Point:
    """One method at one setting: its error and what it cost."""

    method: str
    tier: str
    cells: Cells
    knobs: dict[str, Any]
    error: float
    wall: float
    cpu: float
    minimum: float
    runs: int = 1

    @property
    def settings(self) -> str:
        shown = {k: v for k, v in self.knobs.items() if k != "scheme"}
        return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown.items())


def measure(method: Method, problem: Any, cells: Cells, knobs: dict[str, Any], repeat: int = 2) -> Point:
    """Time the fastest of ``repeat`` runs; a result that is not finite has an infinite error."""
    import numpy

    best = (float("inf"), float("inf"))
    for _ in range(repeat):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        with numpy.errstate(all="ignore"):  # explicit methods overflow at steps that are too long
            values = method.run(problem, cells, **knobs)
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        if best[0] > ONCE:
            break
    error = problem.error(values, cells)
    error = error if math.isfinite(error) else math.inf
    return Point(method.name, method.tier, cells, knobs, error, best[1], best[0], float(values.min()))


def climb(
    method: Method, problem: Any, rungs: Iterable[Rung], wanted: float, limit: float, stride: int = 1
) -> list[Point]:
    """Return the points of all rungs until the error is reached or a rung's first setting is too slow.

    On a rung settings go on until the error is reached, stalls, or a run takes more than ``limit`` CPU seconds. A rung
    begins a little before the setting that resolved time on the rung before. A ``stride`` leaves out settings.
    """
    points: list[Point] = []
    first, ladder = 0, method.ladder[::stride]
    for cells, extra in rungs:
        here: list[Point] = []
        for knobs in ladder[first:]:
            here.append(measure(method, problem, cells, {**extra, **knobs}))
            errors = [p.error for p in here[-4:]]
            stalled = len(errors) == 4 and max(errors) - min(errors) < STALLED * errors[-1]
            if errors[-1] <= wanted or stalled or here[-1].cpu > limit:
                break
        points += here
        best = min(p.error for p in here)
        if best <= wanted or here[0].cpu > limit:
            break
        if math.isfinite(best) and len(ladder) > 7:
            first = max(0, first + next(k for k, p in enumerate(here) if p.error <= 2 * best) - BACK // stride)
    return points


def retime(points: list[Point], runs: dict[str, Callable[..., Any]], problem: Any, rounds: int) -> None:
    """Time all points in turn, ``rounds`` times; medians replace the first times."""
    fast = [p for p in points if p.cpu < SLOW]
    times: dict[int, list[tuple[float, float]]] = {id(p): [] for p in fast}
    for _ in range(rounds):
        for p in fast:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            runs[p.method](problem, p.cells, **p.knobs)
            times[id(p)].append((time.perf_counter() - wall, time.process_time() - cpu))
    for p in fast:
        p.wall = statistics.median(t[0] for t in times[id(p)])
        p.cpu = statistics.median(t[1] for t in times[id(p)])
        p.runs = rounds


def reaching(points: Iterable[Point], wanted: float) -> list[Point]:
    """Return the points that reach an error, the cheapest first."""
    return sorted((p for p in points if p.error <= wanted), key=lambda p: p.cpu)


def best_for(points: Iterable[Point], wanted: float) -> Point | None:
    return next(iter(reaching(points, wanted)), None)
