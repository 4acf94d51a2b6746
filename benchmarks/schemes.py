"""The two schemes of `FiniteVolume`: error against cost on the exact problems with an interaction.

    python benchmarks/schemes.py [--cells 200] [--steps 24 96] [--rounds 5] [--quick] [--json FILE]

Three tables, each of one run in which the schemes alternate:

1. Fixed steps. For every problem the time of a step (median CPU time of a run over its steps), the evaluations of the
   frozen sweep a step, and the time error: the L1 distance to a run with 20 times as many steps on the same grid, which
   excludes the error of the grid. "Equal error" is the ratio of the times in which both reach the same time error, if
   both are of second order: the ratio of times a step, times the square root of the ratio of errors.
2. The default: adaptive steps, time and error against the exact density.
3. Long steps. The network model with noise (beta = 100) from its stationary state: how far 30 steps leave it, and how
   often a step was cut or the fallback taken.

Problems without an interaction have no equation to solve, and take the same steps under both.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from typing import Any

import numpy as np

import wgflow as wg
from wgflow.errors import WGFlowError
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solvers.finite_volume import run as finite_volume
from wgflow.solvers.stationary import stationary
from wgflow.validation import exact
from wgflow.validation.verification.catalogue import Case, catalogue

SCHEMES = ("extrapolated", "midpoint")
PLANE_CELLS = 64
FINER = 20


def cases(cells: int, quick: bool) -> list[tuple[str, Any, int]]:
    """Return the name, problem and cells of each exact problem with an interaction on one or two axes."""
    found = []
    for case in catalogue():
        if not isinstance(case, Case) or case.ndim > 2 or (quick and case.ndim > 1):
            continue
        n = cells if case.ndim == 1 else PLANE_CELLS
        n = n if len(case.cells) > 1 else case.cells[0]
        if case.problem.energy().assemble(case.problem.grid(n)).operators:
            found.append((f"{case.family}, {case.name}", case.problem, n))
    return found


def run(problem, cells: int, scheme: str, **settings) -> tuple[Any, float, Any]:
    """Return the solution, its CPU seconds, and the stepper."""
    grid = problem.grid(cells)
    energy, start = problem.energy(), problem.initial_density(grid)
    kept, original = [], finite_volume.make_stepper

    def keep(*arguments):
        kept.append(original(*arguments))
        return kept[-1]

    finite_volume.make_stepper = keep
    try:
        method = wg.FiniteVolume(scheme=scheme, order=2, threads=1, **settings)
        begin = time.process_time()
        sol = wg.solve(energy, start, (0.0, problem.t_end), method=method)
        return sol, time.process_time() - begin, kept[-1]
    finally:
        finite_volume.make_stepper = original


def distance(one, other) -> float:
    return float(np.abs(one.masses - other.masses).sum()) / one.mass


def fixed_steps(problem, cells: int, steps: int, rounds: int) -> dict[str, Any]:
    """Return the time of a step and time error of both schemes."""
    dt = problem.t_end / steps
    truth = run(problem, cells, "midpoint", dt=dt / FINER)[0].final
    seconds: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
    row: dict[str, Any] = {"steps": steps}
    for _ in range(rounds):
        for scheme in SCHEMES:
            sol, spent, stepper = run(problem, cells, scheme, dt=dt)
            seconds[scheme].append(spent / steps)
            row[scheme] = {"error": distance(sol.final, truth), "cut": sol.certificate.n_rejected}
    row["evaluations"] = stepper.rule.n_evaluations / steps
    for scheme in SCHEMES:
        row[scheme]["seconds"] = statistics.median(seconds[scheme])
    row["cost"] = row["midpoint"]["seconds"] / row["extrapolated"]["seconds"]
    errors = row["midpoint"]["error"], row["extrapolated"]["error"]
    row["equal"] = row["cost"] * math.sqrt(errors[0] / errors[1]) if min(errors) > 0 else math.nan
    return row


def adaptive(problem, cells: int, rounds: int) -> dict[str, Any]:
    """Run the default settings against the exact density."""
    seconds: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
    row: dict[str, Any] = {}
    for _ in range(rounds):
        for scheme in SCHEMES:
            sol, spent, _ = run(problem, cells, scheme)
            seconds[scheme].append(spent)
            errors = problem.errors(sol.final)
            row[scheme] = {"error": errors.get("density", max(errors.values())), "steps": sol.certificate.n_accepted,
                           "cut": sol.certificate.n_rejected, "rise": sol.certificate.max_energy_increase}
    for scheme in SCHEMES:
        row[scheme]["seconds"] = statistics.median(seconds[scheme])
    row["cost"] = row["midpoint"]["seconds"] / row["extrapolated"]["seconds"]
    return row


def long_steps(cells: int, steps: int) -> list[dict[str, Any]]:
    """Run steps of any length from the stationary state of the network model."""
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2, tolerance=1e-10)
    energy, grid = model.energy(beta=100.0, ridge=0.01), model.grid(cells=cells, beta=100.0, ridge=0.01)
    rest = stationary(energy, grid).density
    rows = []
    for dt in (1e-3, 1e-1, 3.0, 30.0, 1e3):
        row: dict[str, Any] = {"dt": dt}
        for scheme in SCHEMES:
            sol = wg.solve(energy, rest, (0, steps * dt), method=wg.FiniteVolume(dt=dt, scheme=scheme, order=2))
            row[scheme] = {"moved": distance(sol.final, rest), "cut": sol.certificate.n_rejected,
                           "fallback": sol.certificate.n_fallback}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 96])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one axis, three rounds")
    parser.add_argument("--tiny", action="store_true", help="two problems of few cells, each run once: does it run?")
    parser.add_argument("--json")
    options = parser.parse_args()
    rounds = 1 if options.tiny else min(options.rounds, 3) if options.quick else options.rounds
    chosen = cases(32 if options.tiny else options.cells, options.quick or options.tiny)[:2 if options.tiny else None]
    steps_of = [4] if options.tiny else options.steps
    table: dict[str, Any] = {"fixed": {}, "adaptive": {}}
    run(exact.Kuramoto(), 50, "midpoint", dt=0.1)
    print(f"{'fixed steps':42}{'steps':>6}{'us a step':>20}{'ratio':>7}{'eval.':>7}{'time error':>22}"
          f"{'equal error':>13}")
    for name, problem, cells in chosen:
        table["fixed"][name] = []
        for steps in steps_of:
            try:
                row = fixed_steps(problem, cells, steps, rounds)
            except WGFlowError as error:
                print(f"{name:42}{steps:6}  {error}")
                continue
            table["fixed"][name].append(row)
            e, m = row["extrapolated"], row["midpoint"]
            print(f"{name:42}{steps:6}{1e6 * e['seconds']:10.0f}{1e6 * m['seconds']:10.0f}{row['cost']:7.2f}"
                  f"{row['evaluations']:7.2f}{e['error']:11.1e}{m['error']:11.1e}{row['equal']:13.2f}", flush=True)
    found = [row for rows in table["fixed"].values() for row in rows]
    equal = [row["equal"] for row in found if row["equal"] > 0]
    print(f"median ratio of a step {statistics.median(r['cost'] for r in found):.2f}, largest "
          f"{max(r['cost'] for r in found):.2f}; at equal error: median {statistics.median(equal):.2f}, geometric mean "
          f"{math.exp(statistics.fmean(map(math.log, equal))):.2f}")
    print(f"\n{'default steps':44}{'steps':>12}{'cut':>10}{'CPU ms':>16}{'ratio':>7}{'error (L1)':>22}")
    for name, problem, cells in chosen:
        try:
            row = adaptive(problem, cells, rounds)
        except WGFlowError as error:
            print(f"{name:42}  {error}")
            continue
        table["adaptive"][name] = row
        e, m = row["extrapolated"], row["midpoint"]
        print(f"{name:44}{e['steps']:6}{m['steps']:6}{e['cut']:5}{m['cut']:5}{1e3 * e['seconds']:8.1f}"
              f"{1e3 * m['seconds']:8.1f}{row['cost']:7.2f}{e['error']:11.2e}{m['error']:11.2e}", flush=True)
    print(f"\n{'network at rest, dt':20}{'moved (L1)':>22}{'cut':>12}{'fallback':>14}")
    table["long"] = long_steps(60 if options.tiny else 400, 3 if options.tiny else 30)
    for row in table["long"]:
        e, m = row["extrapolated"], row["midpoint"]
        print(f"{row['dt']:<20g}{e['moved']:11.1e}{m['moved']:11.1e}{e['cut']:6}{m['cut']:6}{e['fallback']:7}"
              f"{m['fallback']:7}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
