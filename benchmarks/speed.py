"""wgflow's finite volumes against referees, specialists and spectral methods, in one run: two readings.

    python benchmarks/speed.py [--case NAME ...] [--reading both] [--quick] [--rounds 5] [--threads 1] [--limit 20]
                               [--skip METHOD ...] [--json FILE]

**Same grid** (cases such as 2d-256): the grid is given, and so is the accuracy that a method of second order has on it.

1. wgflow at several tolerances; each run is a point (L1 error against the independent reference, CPU seconds).
2. Every referee goes through its ladder of settings, cheap to accurate, until it meets all error targets, stops
   improving, or passes ``--limit`` CPU seconds.
3. Equal error: a referee matches a wgflow point if its error is at most 1.05 max(wgflow's error, grid error); its
   fastest such setting counts.  The grid error is that of the referees' discretization with time steps resolved, which
   they could beat only by luck.
4. The chosen settings and wgflow are timed again in alternation (A B A B ...); medians are quoted.  Runs above
   ten seconds keep their single time.

**Own best grid** (contests such as 2d; best_grid.py): the accuracy is given, every method chooses grid and settings.

A name such as 2d stands for a contest with all cases of its problem; 2d-256 for one case, without a contest.

A run counts from the problem's callables to the final cell averages: evaluation of V and w, assembly, factorization and
stepping.  Imports and compilation are not counted (one warm-up).  All methods receive the cell averages of the start.
Ratios are of CPU seconds, referee over wgflow: above 1, wgflow is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from best_grid import LIMIT, QUICKLY_SKIPPED, run_contest
from measuring import Method, Point, best_for, climb, machine, measure, retime, set_threads, settle

SLACK = 1.05  # equal error, in the referees' favor
#: wgflow's settings on a given grid: the default, tolerances, and the fluxes of second order.
WGFLOW: list[dict[str, Any]] = [
    {}, *({"rtol": rtol} for rtol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)), {"order": 2},
]  # fmt: skip
DEFAULT: dict[str, Any] = {}


def grid_error(case: Any) -> float:
    """Return the error of the common discretization with the time steps resolved."""
    import network
    import referees
    import three_axes

    problem = case.problem
    if problem is network.NETWORK:
        values = network.lsoda(problem, case.cells, rtol=1e-9)
    elif problem.ndim == 1:
        values = referees.lsoda(problem, case.cells, scheme="sg", rtol=1e-9)
    elif problem.ndim == 2:
        values = referees.tr_bdf2(problem, case.cells, scheme="sg", steps=200 if problem.interaction is None else 120)
    else:
        values = three_axes.strang(problem, case.cells, scheme="sg", steps=40)
    return problem.error(values, case.cells)


def run_case(case: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one case on its grid, print its table and verdicts, and return them."""
    from methods import fipy, methods, run_wgflow

    print(f"\n== {case.name}: {case.problem.name}, same grid, {' x '.join(map(str, case.cells))} cells ==", flush=True)
    floor = grid_error(case)
    print(f"grid error of second order (L1, time steps resolved): {floor:.2e}")
    chosen = [m for m in methods(case.problem) if m.name not in arguments.skip]
    chosen += [] if "FiPy" in arguments.skip else fipy(case.problem)
    own = Method("wgflow", "wgflow", run_wgflow, WGFLOW)
    measure(own, case.problem, case.cells, DEFAULT, repeat=1)
    settle()
    ours = [measure(own, case.problem, case.cells, knobs) for knobs in WGFLOW]
    wanted = {id(p): SLACK * max(p.error, floor) for p in ours}
    strictest = min(wanted.values())
    climbed: dict[str, list[Point]] = {}
    for m in chosen:
        found = climb(m, case.problem, m.on(case.cells), strictest, arguments.limit)
        climbed.setdefault(m.name, []).extend(found)
        show(found, arguments.verbose)
    selected = [p for points in climbed.values() if points for p in picks(points, {*wanted.values()})]
    runs: dict[str, Callable[..., Any]] = {m.name: m.run for m in [own, *chosen]}
    retime(ours + selected, runs, case.problem, arguments.rounds)
    table(ours + selected, ours)
    tuned = best_for(ours, SLACK * floor)
    verdicts = [verdict(case, p, selected, wanted[id(p)], p is tuned) for p in ours]
    return {
        "case": case.name, "grid_error": floor, "points": [asdict(p) for p in ours + selected],
        "climbed": {k: [asdict(p) for p in v] for k, v in climbed.items()}, "verdicts": verdicts,
    }  # fmt: skip


def show(points: list[Point], verbose: bool) -> None:
    for p in points if verbose else []:
        print(f"    {p.method:26s} {'x'.join(map(str, p.cells)):12s} {p.settings:34s} {p.error:.2e} {p.cpu:9.4f} s")


def picks(points: list[Point], wanted: set[float]) -> list[Point]:
    """Return the points with which a method answers the errors wanted, or its most accurate one."""
    found = [p for p in (best_for(points, w) for w in wanted) if p is not None]
    found = found or [min(points, key=lambda p: p.error)]
    return [p for k, p in enumerate(found) if p not in found[:k]]


def table(points: list[Point], ours: list[Point]) -> None:
    default = next(p for p in ours if p.knobs == DEFAULT)
    numbers = f"{'L1 error':>9s}{'wall s':>10s}{'CPU s':>10s}{'ratio*':>8s}{'min rho':>10s}"
    print(f"\n{'method':22s}{'tier':11s}{'settings':34s}{numbers}")
    for p in points:
        print(
            f"{p.method:22s}{p.tier:11s}{p.settings:34s}{p.error:9.2e}{p.wall:10.4f}{p.cpu:10.4f}"
            f"{p.cpu / default.cpu:8.2f}{p.minimum:10.1e}" + ("" if p.runs > 1 else "  (one run)")
        )
    print("* CPU over that of wgflow at its default settings; for equal error see the verdicts")


def verdict(case: Any, mine: Point, points: list[Point], wanted: float, tuned: bool) -> dict[str, Any]:
    """Return the ratios to the fastest referee of each tier at equal error; a tier that misses the error gives a bound.

    ``tuned`` marks wgflow's own fastest setting that reaches the grid error: the counterpart of the tuned referees.
    """
    out: dict[str, Any] = {"settings": mine.knobs, "error": mine.error, "equal_error": wanted, "tuned": tuned}
    words = []
    targets = {
        "named": case.target, "specialist": 1.0, "spectral": None, "one-shot": None, "fipy": case.target_fipy,
    }  # fmt: skip
    for tier, target in targets.items():
        here = [p for p in points if p.tier == tier]
        if not here:
            continue
        best = best_for(here, wanted)
        reached = best is not None
        best = best or min(here, key=lambda p: p.error)
        ratio = best.cpu / mine.cpu
        out[tier] = {"method": best.method, "ratio": ratio, "reached": reached, "error": best.error}
        mark = "" if target is None else (f" [{'met' if ratio >= target else 'MISSED'}: {target:g}x]")
        words.append(f"{tier} {ratio:.2f}x {best.method}{'' if reached else f' (only {best.error:.1e})'}{mark}")
    faster = best_for([p for p in points if p.cpu < mine.cpu], wanted)
    out["winner"] = faster.method if faster else "wgflow"
    words.append(f"{faster.method} is fastest, {mine.cpu / faster.cpu:.1f} times" if faster else "wgflow is fastest")
    default = mine.knobs == DEFAULT
    if default or tuned:
        label = "VERDICT (both)" if default and tuned else "VERDICT (default)" if default else "VERDICT (tuned)"
        setting = f"{mine.settings or 'default'} err {mine.error:.1e} {1e3 * mine.cpu:.2f} ms"
        print(f"{label:17s} {case.name} {setting}: " + "; ".join(words))
    return out


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--case", nargs="+", default=None, help="names of cases or contests; all by default")
    parser.add_argument("--reading", choices=["same", "best", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="small cases, coarse ladders, no FiPy, RKC, ETD-RK4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of BLAS, OpenMP and wgflow")
    parser.add_argument("--limit", type=float, default=20.0, help="CPU seconds of one run that end a ladder")
    parser.add_argument("--skip", nargs="+", default=[], help="referees to leave out, by name")
    parser.add_argument("--verbose", action="store_true", help="print every point of every ladder")
    parser.add_argument("--json", default=None, help="file for all points")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = min(arguments.rounds, 3)
        arguments.skip = [*arguments.skip, "FiPy", *QUICKLY_SKIPPED]
    return arguments


def main() -> None:
    arguments = parse()
    set_threads(arguments.threads)
    from cases import QUICK, chosen

    names = arguments.case or (QUICK if arguments.quick else None)
    try:
        cases, contests = chosen(names)
    except ValueError as error:
        sys.exit(str(error))
    if "FiPy" not in arguments.skip and arguments.reading != "best":
        import fipy_referee

        fipy_referee.load()  # its import is not counted
    print(machine(arguments.threads))
    results: list[dict[str, Any]] = []
    if arguments.reading != "best":
        results += [run_case(case, arguments) for case in cases]
    if arguments.reading != "same":
        limit = min(arguments.limit, LIMIT[arguments.quick])
        results += [run_contest(c, limit, arguments) for c in contests]
    print("\nload at the end", f"{os.getloadavg()[0]:.1f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
