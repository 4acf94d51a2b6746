"""Own best grid: the cheapest way of every method to given errors, and the curves of error against cost.

    python benchmarks/best_grid.py [--case 1d 2d mv 3d network] [--quick] [--rounds 5] [--limit 3] [--json FILE]
    python benchmarks/best_grid.py --case 1d 2d mv --plot error_cost.png
    python benchmarks/best_grid.py --load 1d.json 2d.json --plot error_cost.png

Every method climbs a ladder of grids (methods without cells: of modes and boxes), and on each a ladder of settings,
until it reaches the smallest error asked for or a grid's cheapest run takes more than ``--limit`` CPU seconds. For each
error the cheapest three (grid, setting) that meet it are timed again, all methods in alternation; medians count. wgflow
has its own knobs alone: cells, the default tolerance, and ``rtol``. "-" means not reached within the limit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from typing import Any

from measuring import Point, best_for, climb, machine, measure, reaching, retime, set_threads, settle

QUICKLY_SKIPPED = ("RKC", "ETD-RK4")  # never the fastest of their tier, and slow to tune
LIMIT = {False: 3.0, True: 0.3}  # CPU seconds of one run that end a ladder; quick
CANDIDATES = 3  # settings for one error that are timed again, below
DEAR = 0.2  # CPU seconds; above, only the cheapest is
TIERS = ("named", "specialist", "one-shot", "spectral")
GAIN = 0.8  # points of a curve that lower the error by less are left out
#: Colors that eyes of all kinds can tell apart (Okabe and Ito).
COLORS = {
    "wgflow": "#000000", "named": "#D55E00", "specialist": "#009E73", "one-shot": "#E69F00", "spectral": "#0072B2",
}  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P")


def run_contest(contest: Any, limit: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one contest, print its table, and return its points and the winner of each error."""
    from methods import methods, wgflow

    print(f"\n== {contest.name}: {contest.problem.name}, own best grid (runs up to {limit:g} s) ==", flush=True)
    own = wgflow()
    left_out = {*arguments.skip, "LSODA (solve_ivp)"}  # the same Fortran as odeint, with more Python around it
    everyone = [own, *[m for m in methods(contest.problem, own_grid=True) if m.name not in left_out]]
    measure(own, contest.problem, contest.grids[0], {}, repeat=1)
    settle()
    climbed: dict[str, list[Point]] = {}
    for m in everyone:
        rungs = m.own(contest.grids, contest.output)
        points = climb(m, contest.problem, rungs, min(contest.targets), limit, 2 if arguments.quick else 1)
        climbed.setdefault(m.name, []).extend(points)
        if arguments.verbose:
            print(f"    {m.name}: {len(points)} points, {sum(p.cpu for p in points):.1f} s", flush=True)
    selected = {name: candidates(points, contest.targets) for name, points in climbed.items()}
    again = [p for points in selected.values() for p in points]
    retime(again, {m.name: m.run for m in everyone}, contest.problem, arguments.rounds)
    best = {
        name: {t: p for t in contest.targets if (p := best_for(points, t))} for name, points in selected.items()
    }
    report(contest, best)
    return {
        "contest": contest.name, "problem": contest.problem.name, "targets": contest.targets,
        "climbed": {k: [asdict(p) for p in v] for k, v in climbed.items()},
        "best": {k: {f"{t:g}": asdict(p) for t, p in v.items()} for k, v in best.items()},
        "lines": [line(t, best) for t in contest.targets],
    }  # fmt: skip


def candidates(points: list[Point], targets: tuple[float, ...]) -> list[Point]:
    """Return the cheapest points for each error, each once."""
    found: list[Point] = []
    for target in targets:
        cheap = reaching(points, target)[:CANDIDATES]
        found += [p for k, p in enumerate(cheap) if p not in found and (k == 0 or p.cpu < DEAR)]
    return found


def line(target: float, best: dict[str, dict[float, Point]]) -> dict[str, Any]:
    """Return who wins at one error, and the best of each tier over wgflow."""
    here = {name: found[target] for name, found in best.items() if target in found}
    mine = here.get("wgflow")
    out: dict[str, Any] = {"target": target}
    for tier in TIERS:
        p = min((p for p in here.values() if p.tier == tier), key=lambda p: p.cpu, default=None)
        out[tier] = None if p is None else {
            "method": p.method, "ms": 1e3 * p.cpu, "ratio": p.cpu / mine.cpu if mine else None
        }  # fmt: skip
    order = sorted(here.values(), key=lambda p: p.cpu)
    out["winner"] = order[0].method if order else None
    if mine and order[0] is not mine:
        out["verdict"] = f"{order[0].method} wins, {mine.cpu / order[0].cpu:.1f} times faster than wgflow"
    elif mine:
        others = f", {order[1].cpu / mine.cpu:.1f} times faster than {order[1].method}" if order[1:] else " alone"
        out["verdict"] = f"wgflow wins{others}"
    else:
        out["verdict"] = f"{order[0].method} wins; wgflow does not reach it" if order else "nobody reaches it"
    return out


def report(contest: Any, best: dict[str, dict[float, Point]]) -> None:
    """Print ms by method and error, the ratios, the winners, and the chosen grids and settings."""
    targets = contest.targets
    print(f"\n{'CPU ms':27s}{'tier':11s}" + "".join(f"{t:>11.1e}" for t in targets))
    for name, found in best.items():
        tier = next((p.tier for p in found.values()), "")
        cells = [f"{1e3 * found[t].cpu:11.2f}" if t in found else f"{'-':>11s}" for t in targets]
        print(f"{name:27s}{tier:11s}" + "".join(cells))
    lines = [line(t, best) for t in targets]
    for tier in TIERS:
        ratios = [one[tier]["ratio"] if one[tier] else None for one in lines]
        shown = ["-" if r is None else f"{r:.2f}" for r in ratios]
        print(f"{'best ' + tier + ' / wgflow':38s}" + "".join(f"{text:>11s}" for text in shown))
    for one in lines:
        words = [
            f"{tier} {one[tier]['method']} {one[tier]['ratio']:.2f}x"
            for tier in TIERS if one[tier] and one[tier]["ratio"]
        ]  # fmt: skip
        print(f"{contest.name} {one['target']:.1e}: {one['verdict']}" + (f" ({'; '.join(words)})" if words else ""))
    print("chosen:")
    for name, found in best.items():
        words = [f"{t:.1e}: {where(p)} {p.settings}".rstrip() for t, p in found.items()]
        print(f"  {name}: " + " | ".join(words))


def where(point: Point) -> str:
    return "" if point.tier == "spectral" else "x".join(map(str, point.cells))


# --- the picture ------------------------------------------------------------------------------------------------------


def front(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points that no other point beats in both error and cost, without those that gain little error."""
    found: list[dict[str, Any]] = []
    for p in sorted(points, key=lambda p: (p["cpu"], p["error"])):
        if math.isfinite(p["error"]) and (not found or p["error"] < GAIN * found[-1]["error"]):
            found.append(p)
    return found


def plot(results: list[dict[str, Any]], path: str) -> None:
    """Draw error against cost, one panel for each contest; the legend has a panel of its own."""
    from matplotlib.figure import Figure

    columns = min(3, len(results) + 1)
    rows = -(-(len(results) + 1) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    looks = styles(results)
    handles: dict[str, Any] = {}
    for panel, result in zip(panels, results):
        largest = max(result["targets"])
        for name, points in result["climbed"].items():
            shown = [p for p in front(points) if p["error"] <= 4 * largest]
            if shown:
                xs, ys = [p["error"] for p in shown], [1e3 * p["cpu"] for p in shown]
                handles.setdefault(name, panel.plot(xs, ys, **looks[name])[0])
        panel.set(xscale="log", yscale="log", title=result["problem"], xlabel="L1 error", ylabel="CPU ms")
        panel.set_xlim(4 * largest, min(result["targets"]) / 2)
        panel.grid(True, which="major", color="0.9", linewidth=0.6)
    for panel in panels[len(results) :]:
        panel.axis("off")
    legend(panels[len(results)], handles, tiers(results))
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def legend(panel: Any, handles: dict[str, Any], groups: dict[str, list[str]]) -> None:
    """Fill a panel with the names of the curves, by tier."""
    from matplotlib.lines import Line2D

    entries = []
    for tier, names in groups.items():
        shown = [name for name in names if name in handles]
        if shown and tier != "wgflow":
            entries.append((Line2D([], [], linestyle=""), f"{tier}:"))
        entries += [(handles[name], name) for name in shown]
    panel.legend(*zip(*entries), loc="center", frameon=False, fontsize=8, labelspacing=0.25)


def tiers(results: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the names of the methods of each tier."""
    found: dict[str, list[str]] = {tier: [] for tier in COLORS}
    for result in results:
        for name, points in result["climbed"].items():
            if points and name not in found[points[0]["tier"]]:
                found[points[0]["tier"]].append(name)
    return found


def styles(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return color by tier and marker by method."""
    return {
        name: {
            "color": COLORS[tier], "marker": MARKERS[k % len(MARKERS)], "markersize": 4,
            "linewidth": 2.4 if tier == "wgflow" else 1.1, "linestyle": ("-", "--")[k // len(MARKERS) % 2],
            "zorder": 3 if tier == "wgflow" else 2,
        }
        for tier, names in tiers(results).items() for k, name in enumerate(names)
    }  # fmt: skip


def loaded(files: list[str]) -> list[dict[str, Any]]:
    """Return the contests in files of earlier runs; methods of one contest from several files are joined."""
    found: dict[str, dict[str, Any]] = {}
    for name in files:
        with open(name, encoding="utf-8") as file:
            for result in json.load(file):
                if "contest" in result:
                    kept = found.setdefault(result["contest"], result)
                    kept["climbed"] = {**result["climbed"], **kept["climbed"]}
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--case", nargs="+", default=None, help="names of contests; all by default")
    parser.add_argument("--quick", action="store_true", help="every second setting, short runs, no RKC, ETD-RK4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=None, help="CPU seconds of one run that end a ladder")
    parser.add_argument("--skip", nargs="+", default=[], help="methods to leave out, by name")
    parser.add_argument("--verbose", action="store_true", help="say what each ladder took")
    parser.add_argument("--json", default=None, help="file for all points")
    parser.add_argument("--load", nargs="+", default=None, help="files of earlier runs, in place of runs")
    parser.add_argument("--plot", default=None, help="file for the picture")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    if arguments.load:
        results = loaded(arguments.load)
    else:
        set_threads(arguments.threads)
        from cases import CONTESTS

        unknown = sorted(set(arguments.case or ()) - set(CONTESTS))
        if unknown:
            sys.exit(f"unknown contest {unknown[0]!r}; there are {', '.join(CONTESTS)}")
        if arguments.quick:
            arguments.rounds = min(arguments.rounds, 3)
            arguments.skip = [*arguments.skip, *QUICKLY_SKIPPED]
        print(machine(arguments.threads))
        limit = arguments.limit or LIMIT[arguments.quick]
        results = [run_contest(CONTESTS[name], limit, arguments) for name in arguments.case or CONTESTS]
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
