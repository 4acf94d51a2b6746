"""wgflow's finite volumes against the referees, at equal error, in one run.

    python benchmarks/speed.py [--case NAME ...] [--quick] [--rounds 5] [--threads 1] [--skip METHOD ...] [--json FILE]

How a case is run:

1. wgflow at several tolerances; each run is a point (L1 error against the independent reference, CPU seconds).
2. Every referee goes through its ladder of settings, cheap to accurate, until it meets all error targets, stops
   improving, or passes ``--limit`` CPU seconds.
3. Equal error: a referee matches a wgflow point if its error is at most 1.05 max(wgflow's error, grid error); its
   fastest such setting counts.  The grid error is that of the common discretization with time steps resolved, which a
   referee could beat only by luck.
4. The chosen settings and wgflow are timed again in alternation (A B A B ...); medians are quoted.  Runs above
   ``SLOW`` seconds keep their single time.

A run counts from the problem's callables to the final cell averages: evaluation of V and w, assembly, factorization and
stepping.  Imports and compilation are not counted (one warm-up).  All methods receive the cell averages of the start.
Ratios are of CPU seconds, referee over wgflow: above 1, wgflow is faster.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

SLACK = 1.05  # equal error, in the referees' favor
SLOW = 10.0  # CPU seconds above which a run is not repeated
STALLED = 0.01  # relative change of the error below which a ladder has reached the grid error
WGFLOW: list[dict[str, Any]] = [
    {}, {"rtol": 1e-3}, {"rtol": 1e-3, "corrected": False}, {"rtol": 1e-2, "corrected": False}, {"rtol": 1e-5},
]  # fmt: skip
DEFAULT: dict[str, Any] = {}

STEPS = [8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 57, 68, 80, 95, 113, 135, 160, 190, 226, 270, 320, 380, 450, 540]
DECADES = [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8]


@dataclass(frozen=True)
class Method:
    """A referee, its ladder of settings, and the problems to which it applies."""

    name: str
    tier: str  # "named", "specialist", "one-shot" or "fipy"
    run: Callable[..., Any]
    ladder: list[dict[str, Any]]
    applies: Callable[[Any], bool] = lambda case: True


@dataclass
class Point:
    """One method at one setting: its error and what it cost."""

    method: str
    tier: str
    knobs: dict[str, Any]
    error: float
    wall: float
    cpu: float
    minimum: float
    runs: int = 1

    @property
    def settings(self) -> str:
        return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.knobs.items())


def linear(case: Any) -> bool:
    return case.problem.interaction is None


def methods() -> list[Method]:
    """Return all referees; they are imported here, after the thread counts are set."""
    import fipy_referee
    import referees
    import specialists

    def steps(counts: list[int]) -> list[dict[str, Any]]:
        return [{"steps": n, "scheme": "sg"} for n in counts]

    def decades(lowest: float) -> list[dict[str, Any]]:
        return [{"rtol": r, "scheme": "sg"} for r in DECADES if r >= lowest]

    def small(case: Any) -> bool:  # the band of a 2-D Jacobian is as wide as the grid
        return linear(case) and (case.problem.ndim == 1 or case.cells[1] <= 128)

    def nonlocal_(case: Any) -> bool:
        return not linear(case)

    solve_ivp_lsoda = [dict(k, driver="solve_ivp") for k in decades(1e-8)]
    return [
        Method("LSODA (odeint)", "named", referees.lsoda, decades(1e-8), small),
        Method("LSODA (solve_ivp)", "named", referees.lsoda, solve_ivp_lsoda, lambda c: c.problem.ndim == 1),
        Method("BDF (solve_ivp)", "named", referees.bdf, decades(1e-6)),
        Method("TR-BDF2", "named", referees.tr_bdf2, steps(STEPS)),
        Method("SBDF2", "named", referees.sbdf2, steps(STEPS), nonlocal_),
        Method("ADI", "specialist", specialists.adi, steps(STEPS), lambda c: c.problem.ndim == 2),
        Method("RKC", "specialist", specialists.rkc, steps(STEPS), lambda c: c.problem.ndim == 2),
        Method(
            "rational exp", "one-shot", specialists.rational,
            [{"poles": n, "scheme": "sg"} for n in (4, 6, 8, 10, 12)], linear,
        ),
        Method("FiPy", "fipy", fipy_referee.fipy, [{"steps": n} for n in STEPS[1::2]], linear),
        Method("FiPy", "fipy", fipy_referee.fipy, [{"steps": n, "sweeps": 2} for n in STEPS[1::2]], nonlocal_),
    ]  # fmt: skip


def run_wgflow(problem: Any, cells: tuple[int, ...], **settings: Any) -> Any:
    """Solve the same problem by wgflow's public functions."""
    import wgflow as wg

    grid = wg.Grid(list(problem.bounds), cells=cells)
    energy = wg.Entropy(beta=problem.beta) + wg.Potential(problem.potential)
    if problem.interaction is not None:
        energy = energy + wg.Convolution(problem.interaction)
    start = wg.Density.from_values(grid, problem.start(cells), normalize=True)
    method = wg.FiniteVolume(threads=int(os.environ.get("OMP_NUM_THREADS", "1")), **settings)
    return wg.solve(energy, start, (0.0, problem.t_end), method, t_eval=[problem.t_end]).densities[-1].values


def measure(name: str, tier: str, run: Callable[..., Any], case: Any, knobs: dict[str, Any], repeat: int = 1) -> Point:
    """Time the fastest of ``repeat`` runs."""
    best = (float("inf"), float("inf"))
    for _ in range(repeat):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        values = run(case.problem, case.cells, **knobs)
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        if best[0] > 1:
            break
    return Point(name, tier, knobs, case.problem.error(values, case.cells), best[1], best[0], float(values.min()))


def climb(method: Method, case: Any, wanted: float, limit: float) -> list[Point]:
    """Return the points of a ladder until the error is reached, stalls, or the next setting would be too slow."""
    points: list[Point] = []
    for knobs in method.ladder:
        points.append(measure(method.name, method.tier, method.run, case, knobs, repeat=2))
        print(
            f"    {method.name:18s} {points[-1].settings:34s} {points[-1].error:.2e} {points[-1].cpu:9.4f} s",
            flush=True,
        )
        errors = [p.error for p in points[-4:]]
        stalled = len(errors) == 4 and max(errors) - min(errors) < STALLED * errors[-1]
        if errors[-1] <= wanted or stalled or points[-1].cpu > limit:
            break
    return points


def grid_error(case: Any) -> float:
    """Return the error of the common discretization with the time steps resolved."""
    import referees

    knobs = {"rtol": 1e-9, "driver": "odeint"} if case.problem.ndim == 1 else {"steps": 200 if linear(case) else 120}
    run = referees.lsoda if case.problem.ndim == 1 else referees.tr_bdf2
    return case.problem.error(run(case.problem, case.cells, scheme="sg", **knobs), case.cells)


def retime(points: list[Point], runs: dict[str, Callable[..., Any]], case: Any, rounds: int) -> None:
    """Time all points in turn, ``rounds`` times; medians replace the first times."""
    fast = [p for p in points if p.cpu < SLOW]
    times: dict[int, list[tuple[float, float]]] = {id(p): [] for p in fast}
    for _ in range(rounds):
        for p in fast:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            runs[p.method](case.problem, case.cells, **p.knobs)
            times[id(p)].append((time.perf_counter() - wall, time.process_time() - cpu))
    for p in fast:
        p.wall = statistics.median(t[0] for t in times[id(p)])
        p.cpu = statistics.median(t[1] for t in times[id(p)])
        p.runs = rounds


def best_for(points: list[Point], wanted: float) -> Point | None:
    good = [p for p in points if p.error <= wanted]
    return min(good, key=lambda p: p.cpu) if good else None


def run_case(case: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    print(f"\n== {case.name}: {case.problem.name}, {' x '.join(map(str, case.cells))} cells ==", flush=True)
    floor = grid_error(case)
    print(f"grid error (L1, time steps resolved): {floor:.2e}")
    chosen = [m for m in methods() if m.applies(case) and m.name not in arguments.skip]
    runs: dict[str, Callable[..., Any]] = {m.name: m.run for m in chosen}
    ours: list[Point] = []
    if not arguments.referees_only:
        runs["wgflow"] = run_wgflow
        run_wgflow(case.problem, case.cells)
        ours = [measure("wgflow", "wgflow", run_wgflow, case, knobs, repeat=2) for knobs in WGFLOW]
    wanted = {id(p): SLACK * max(p.error, floor) for p in ours}
    strictest = min(wanted.values(), default=SLACK * floor)
    climbed = {m.name: climb(m, case, strictest, arguments.limit) for m in chosen}
    selected: list[Point] = []
    for points in climbed.values():
        picks = [best_for(points, w) for w in {*wanted.values(), strictest}]
        picks = [p for p in picks if p is not None] or [min(points, key=lambda p: p.error)]
        selected += [p for k, p in enumerate(picks) if p not in picks[:k]]
    retime(ours + selected, runs, case, arguments.rounds)
    table(ours + selected, ours)
    tuned = best_for(ours, SLACK * floor)
    verdicts = [verdict(case, p, selected, wanted[id(p)], p is tuned) for p in ours]
    return {
        "case": case.name, "grid_error": floor, "points": [asdict(p) for p in ours + selected],
        "climbed": {k: [asdict(p) for p in v] for k, v in climbed.items()}, "verdicts": verdicts,
    }  # fmt: skip


def table(points: list[Point], ours: list[Point]) -> None:
    default = next((p for p in ours if p.knobs == DEFAULT), None)
    numbers = f"{'L1 error':>9s}{'wall s':>10s}{'CPU s':>10s}{'ratio*':>8s}{'min rho':>10s}"
    print(f"\n{'method':19s}{'tier':11s}{'settings':34s}{numbers}")
    for p in points:
        ratio = f"{p.cpu / default.cpu:8.2f}" if default else " " * 8
        print(
            f"{p.method:19s}{p.tier:11s}{p.settings:34s}{p.error:9.2e}{p.wall:10.4f}{p.cpu:10.4f}{ratio}{p.minimum:10.1e}"
            + ("" if p.runs > 1 else "  (one run)")
        )
    print("* CPU over that of wgflow at its default settings; for equal error see the verdicts")


def verdict(case: Any, mine: Point, points: list[Point], wanted: float, tuned: bool) -> dict[str, Any]:
    """Return the ratios to the fastest referee of each tier at equal error; a tier that misses the error gives a bound.

    ``tuned`` marks wgflow's own fastest setting that reaches the grid error: the counterpart of the tuned referees.
    """
    out: dict[str, Any] = {"settings": mine.knobs, "error": mine.error, "equal_error": wanted, "tuned": tuned}
    words = []
    targets = {"named": case.target, "specialist": 1.0, "one-shot": None, "fipy": case.target_fipy}
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
    label = "VERDICT (default)" if mine.knobs == DEFAULT else "also"
    if tuned:
        label = "VERDICT (both)" if label.startswith("VERDICT") else "VERDICT (tuned)"
    print(
        f"{label:17s} {case.name} {mine.settings or 'default'} err {mine.error:.1e} {mine.cpu:.4f} s: "
        + "; ".join(words)
    )
    return out


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--case", nargs="+", default=None, help="names from problems.CASES; all by default")
    parser.add_argument("--quick", action="store_true", help="the small cases, fewer rounds, no FiPy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of BLAS, OpenMP and wgflow")
    parser.add_argument("--limit", type=float, default=120.0, help="CPU seconds of one run that end a ladder")
    parser.add_argument("--skip", nargs="+", default=[], help="referees to leave out, by name")
    parser.add_argument("--referees-only", action="store_true", help="leave wgflow out")
    parser.add_argument("--json", default=None, help="file for all points")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.case = arguments.case or ["1d-400", "2d-128", "mv-128"]
        arguments.rounds = min(arguments.rounds, 3)
        arguments.skip = [*arguments.skip, "FiPy"]
    return arguments


def main() -> None:
    arguments = parse()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    import numpy
    import scipy
    from problems import CASES

    if "FiPy" not in arguments.skip:
        import fipy_referee

        fipy_referee.load()  # its import is not counted
    unknown = sorted(set(arguments.case or ()) - set(CASES))
    if unknown:
        sys.exit(f"unknown case {unknown[0]!r}; there are {', '.join(CASES)}")
    print(
        f"Python {sys.version.split()[0]}, numpy {numpy.__version__}, scipy {scipy.__version__}, "
        f"{os.cpu_count()} CPUs, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f} at the start"
    )
    results = [run_case(CASES[name], arguments) for name in arguments.case or CASES]
    print("\nload at the end", f"{os.getloadavg()[0]:.1f}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
