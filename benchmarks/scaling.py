"""How the cost of a finite-volume step grows: time, memory, threads, and the share of the machine's bandwidth.

    python benchmarks/scaling.py [--axes 1 2 3 4] [--quick] [--json FILE]
    python benchmarks/scaling.py --threads                # one thread against two, alone, on an idle machine

The problems are those of speed.py on one, two and three axes, and a well on four (linear, smooth, beta = 4), at four
sizes an axis. Each grid is run in a process of its own, with fixed steps:

* **time of a step** (CPU seconds of one thread): the difference of a long and a short run over the difference of their
  steps, so that assembly and the first step, which fills the factors, drop out (they are given as "set-up"); the
  exponent is the slope of its logarithm against that of the cells an axis, by least squares and from one size to the
  next. Work proportional to the cells has exponent 1, 2, 3 or 4.
* **nanoseconds a cell**, and what is left of them beside a fixed time a step: a line through the times of the smallest
  and the largest grid against their cells.
* **bytes a cell**: the peak of what Python's allocators hand out (tracemalloc), and the growth of the process's peak
  memory beyond that of imports and compilation ("-" where it does not grow).
* **order** of the fluxes in space: cells that are too wide for the fourth are served by those of the second, whose
  resolvents are not counted.
* **share of the bandwidth**: a resolvent along an axis must at least read the law and three factors and write the
  law, 40 bytes a cell; a sweep of order 3 takes two of them, one of order 5 five. The time of a NumPy copy that moves
  as many bytes (measured in the same process, in arrays as large as those that a resolvent touches, so that a grid in
  cache is held against the cache), times the resolvents of a step, over the time of the step. At 1 nothing but fewer
  of them could be faster.
* **threads**: the wall time of a step with one thread over that with two, at 512^2 and 64^3.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import machine, set_threads

SIZES = {1: (1024, 4096, 16384, 65536), 2: (64, 128, 256, 512), 3: (24, 32, 48, 64), 4: (12, 16, 20, 24)}
QUICK = {1: (512, 1024, 2048, 4096), 2: (32, 64, 96, 128), 3: (16, 20, 24, 32), 4: (8, 10, 12, 14)}
TINY = {1: (32, 64), 2: (32, 48), 3: (8, 10), 4: (6, 8)}
THREADED = ((2, 512), (3, 64))  # axes and cells an axis where two threads are held against one
DT = 0.01
BYTES_OF_A_RESOLVENT = 40
WORTH, TINY_WORTH = 0.4, 0.02  # seconds that the long run should take
ROUNDS = 5


def fastest(task: Callable[[], Any], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time) -> float:
    """Return the least seconds of some runs."""
    times = []
    for _ in range(rounds):
        begin = clock()
        task()
        times.append(clock() - begin)
    return min(times)


def peak(afresh: bool = False) -> float:
    """Return the largest memory that this process has had, in bytes; where Linux allows it, counted afresh from now.

    ``ru_maxrss`` of a child begins with the memory of its parent, so that it is only the second choice.
    """
    status = Path("/proc/self/status")
    if afresh and os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024.0 * float(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def copy_bandwidth(moved: float) -> float:
    """Return the bytes a second that a NumPy copy reads and writes, if it moves ``moved`` bytes."""
    import numpy as np

    a = np.ones(max(64, int(moved / 16)))
    b = np.empty_like(a)
    repeat = max(1, int(2e7 / a.size))

    def copy() -> None:
        for _ in range(repeat):
            np.copyto(b, a)

    copy()
    return 16.0 * a.size * repeat / fastest(copy)


def resolvents_a_step(solve: Callable[[int], Any]) -> float:
    """Return how many resolvents a step takes, counted on the compact sweeps; NaN where they do not serve."""
    from wgflow.compiled.compact import EULER, FIFTH, HALVES, SECOND
    from wgflow.solvers.finite_volume.compact_sweeps import CompactSweeps

    counted = 0.0
    originals = CompactSweeps._sweep, CompactSweeps.line
    resolvents = {EULER: 1, SECOND: 2, HALVES: 2, FIFTH: 5}

    def sweep(self, axis, flat, psi, dt, kind, count=1, *rest):
        nonlocal counted
        counted += resolvents[kind] * count if dt > 0 else 0
        return originals[0](self, axis, flat, psi, dt, kind, count, *rest)

    def line(self, *arguments):
        nonlocal counted
        counted += resolvents[FIFTH]
        return originals[1](self, *arguments)

    CompactSweeps._sweep, CompactSweeps.line = sweep, line
    try:
        solve(1)
        once = counted
        solve(3)
        return (counted - 2 * once) / 2 or math.nan
    finally:
        CompactSweeps._sweep, CompactSweeps.line = originals


def measure(ndim: int, cells: int, threads: int, worth: float = WORTH) -> dict[str, float]:
    """Return what the steps of one grid cost, in this process; the long run should take ``worth`` seconds."""
    from problems import ANISOTROPIC, DOUBLE_WELL, Problem
    from three_axes import ROTATED

    import wgflow as wg

    well = Problem("well-4d", ((-4.0, 4.0),) * 4, lambda *x: sum(v**2 for v in x) + x[0] * x[1] / 2,
                   lambda *x: (), 4.0, (0.5,) * 4, (0.4,) * 4, 1.0)
    problem = {1: DOUBLE_WELL, 2: ANISOTROPIC, 3: ROTATED, 4: well}[ndim]
    energy = wg.Entropy(beta=problem.beta) + wg.Potential(problem.potential)
    method = wg.FiniteVolume(dt=DT, threads=threads)

    def prepared(cells: int) -> Callable[[int], Any]:
        shape = (cells,) * ndim
        grid = wg.Grid(list(problem.bounds), cells=shape)
        start = wg.Density.from_values(grid, problem.start(shape), normalize=True)
        return lambda steps: wg.solve(energy, start, (0.0, steps * DT), method, t_eval=[steps * DT])

    prepared({1: 32, 2: 32, 3: 16, 4: 6}[ndim])(2)  # compiles or loads
    before = peak(afresh=True)
    solve = prepared(cells)
    fourth = "fourth order" in solve(2).certificate.scheme
    memory = peak() - before
    clock = time.process_time if threads == 1 else time.perf_counter
    one = fastest(lambda: solve(1), 2, clock)
    step = max((fastest(lambda: solve(5), 2, clock) - one) / 4, 1e-6)
    few, many = 2, 2 + max(4, min(400, int(worth / step)))
    short = fastest(lambda: solve(few), ROUNDS, clock)
    # A difference of times: on a busy machine it may come out negative.
    step = max((fastest(lambda: solve(many), ROUNDS, clock) - short) / (many - few), 1e-9)
    wall = step
    if threads == 1:
        once = fastest(lambda: solve(few), 3, time.perf_counter)
        wall = (fastest(lambda: solve(many), 3, time.perf_counter) - once) / (many - few)
    tracemalloc.start()
    solve(3)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = float(cells) ** ndim
    resolvents = resolvents_a_step(solve)
    least = resolvents * BYTES_OF_A_RESOLVENT * size / copy_bandwidth(BYTES_OF_A_RESOLVENT * size)
    return {
        "axes": ndim, "cells": cells, "threads": threads, "step": step, "wall": wall,
        "setup": max(short - few * step, 0.0), "nanoseconds": 1e9 * step / size, "traced": traced / size,
        "resident": memory / size, "resolvents": resolvents, "share": least / step,
        "order": 4 if fourth else 2,
    }  # fmt: skip


def in_a_process(ndim: int, cells: int, threads: int, tiny: bool = False) -> dict[str, float]:
    """Run `measure` in a new process."""
    command = [sys.executable, str(Path(__file__)), "--one", str(ndim), str(cells), str(threads)]
    command += ["--tiny"] if tiny else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{cells}^{ndim} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def slope(x: list[float], y: list[float]) -> float:
    """Return the slope of log y against log x by least squares."""
    u, v = [math.log(a) for a in x], [math.log(a) for a in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    return sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v)) / sum((a - mean_u) ** 2 for a in u)


def growth(ndim: int, sizes: tuple[int, ...], tiny: bool) -> list[dict[str, float]]:
    """Measure the sizes of one number of axes, and print their table and exponents."""
    print(
        f"\n{'grid':>9} {'step ms':>10} {'ns a cell':>10} {'set-up ms':>10} {'traced B':>9} {'resident B':>10} "
        f"{'order':>5} {'resolvents':>10} {'bandwidth':>9}"
    )
    rows = []
    for cells in sizes:
        row = in_a_process(ndim, cells, 1, tiny)
        rows.append(row)
        resident = f"{row['resident']:.0f}" if row["resident"] > 0 else "-"
        print(
            f"{f'{cells}^{ndim}':>9} {1e3 * row['step']:>10.3f} {row['nanoseconds']:>10.1f} "
            f"{1e3 * row['setup']:>10.1f} {row['traced']:>9.0f} {resident:>10} {row['order']:>5} "
            f"{row['resolvents']:>10.0f} {row['share']:>9.0%}",
            flush=True,
        )
    x, y = [row["cells"] for row in rows], [row["step"] for row in rows]
    local = ", ".join(f"{slope(x[k : k + 2], y[k : k + 2]):.2f}" for k in range(len(x) - 1))
    print(f"a step grows like cells an axis to the {slope(x, y):.2f} (from size to size: {local}); linear work: {ndim}")
    each = (y[-1] - y[0]) / (x[-1] ** ndim - x[0] ** ndim)
    print(f"{1e9 * each:.1f} ns a cell, and {1e6 * (y[0] - each * x[0] ** ndim):.0f} us a step whatever the cells")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--axes", type=int, nargs="+", default=[1, 2, 3, 4], choices=list(SIZES))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small grids")
    size.add_argument("--tiny", action="store_true", help="two grids of a few cells an axis: does it run?")
    parser.add_argument("--threads", action="store_true", help="one thread against two, and nothing else")
    parser.add_argument("--json", default=None, help="file for all rows")
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        set_threads(arguments.one[2])
        print(json.dumps(measure(*arguments.one, TINY_WORTH if arguments.tiny else WORTH)))
        return
    set_threads(1)
    print(machine(1))
    far, near = copy_bandwidth(256e6) / 1e9, copy_bandwidth(5e5) / 1e9
    print(f"a NumPy copy that moves 256 MB runs at {far:.1f} GB/s, one of 0.5 MB at {near:.1f}")
    sizes = TINY if arguments.tiny else QUICK if arguments.quick else SIZES
    rows: list[dict[str, float]] = []
    for ndim in arguments.axes if not arguments.threads else ():
        rows += growth(ndim, sizes[ndim], arguments.tiny)
    for ndim, cells in THREADED if arguments.threads else ():
        # one, two, one: a load that comes or goes shows as a difference of the first and the last
        first, two, last = (in_a_process(ndim, cells, threads)["wall"] for threads in (1, 2, 1))
        print(
            f"{cells}^{ndim}: two threads {(first + last) / 2 / two:.2f} times as fast as one "
            f"({1e3 * first:.1f}, {1e3 * two:.1f}, {1e3 * last:.1f} ms a step with 1, 2, 1)"
        )
        rows.append({"axes": ndim, "cells": cells, "one": first, "two": two, "one again": last})
    print("load at the end", f"{os.getloadavg()[0]:.1f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
