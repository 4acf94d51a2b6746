"""Explicit against implicit steps without diffusion: the demo's network, and classical flows on one axis.

    python benchmarks/transport.py                # about a minute
    python benchmarks/transport.py --tiny         # few cells, each run once: does it run?

Both have one semi-discrete equation. Times are medians of processor time in alternation, on one thread, at default
settings; the error in time is the largest L1 difference over the output times from a run of short steps, and
the whole error that from a grid of sixteen times as many cells (the demo's problem alone).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.interpolate import CubicSpline

import wgflow as wg
from wgflow.solvers.finite_volume import run

TIMES = tuple(float(t) for t in 3.0 * np.linspace(0, 1, 62) ** 2)
EXPLICIT = run.explicit_steps_of
ROUNDS = 9


def solved(problem, explicit: bool, **settings) -> tuple[wg.Solution, float]:
    """Return a solution and its processor time in milliseconds."""
    run.explicit_steps_of = EXPLICIT if explicit else lambda flow, method: None
    energy, rho, t_eval, scale = problem
    start = time.process_time()
    sol = wg.solve(energy, rho, (0.0, t_eval[-1]), wg.FiniteVolume(**settings), t_eval=t_eval, time_scale=scale)
    return sol, 1e3 * (time.process_time() - start)


def network(cells: int):
    """Return the demo's problem."""
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    return model.energy(), model.initial_density(0.8, model.grid(cells=cells)), TIMES, model.time_scale


def others(cells: int) -> dict[str, tuple]:
    """Return flows on one axis by name."""
    line, circle = wg.Grid((-3, 3), cells=cells), wg.Grid((0, 2 * np.pi), cells=cells, boundary="periodic")
    rho, times = wg.Density.gaussian(line, 0.5, 0.3), (1.0, 2.0, 3.0)
    wave = wg.Density.from_function(circle, lambda x: 1.2 + np.sin(x))
    order = wg.LowRank(lambda x: np.stack([np.cos(x), np.sin(x)]), [-1.0, -1.0])
    return {"two wells": (1 * wg.Potential(lambda x: x**4 / 4 - x**2 / 2), rho, times, 1.0),
            "attraction, by convolution": (1 * wg.Convolution(lambda z: -np.exp(-z * z)), rho, times, 1.0),
            "oscillators on a circle": (1 * order, wave, times, 1.0)}


def distance(one: wg.Solution, other: wg.Solution) -> float:
    """Return the largest L1 difference over the output times."""
    return max(float(np.abs(a.masses - b.masses).sum()) for a, b in zip(one.densities, other.densities))


def whole_error(sol: wg.Solution, fine: wg.Solution) -> float:
    """Return the largest L1 difference from a solution on finer cells, interpolated."""
    gaps, edges = [], sol.grid.edges[0]
    for rho, true in zip(sol.densities, fine.densities):
        total = CubicSpline(fine.grid.edges[0], np.append(0.0, np.cumsum(true.masses)))
        gaps.append(float(np.abs(np.diff(total(edges)) - rho.masses).sum()))
    return max(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="few cells, each run once")
    tiny = parser.parse_args().tiny
    sizes, finest, rounds, shortest = ((30, 40), 80, 1, 0.1) if tiny else ((300, 600, 1200), 9600, ROUNDS, 2e-4)
    fine, _ = solved(network(finest), True)
    rows = [(f"network, {cells} cells", network(cells), fine) for cells in sizes]
    rows += [(name, problem, None) for name, problem in others(40 if tiny else 400).items()]
    print("| | steps | ms | error in time | whole error | implicit: steps | ms | error in time | whole error | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, problem, true in rows:
        reference, cells = solved(problem, True, rtol=1e-4 if tiny else 1e-8, max_step=shortest)[0], [name]
        spent: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for explicit in (True, False):
                spent[explicit].append(solved(problem, explicit)[1])
        for explicit in (True, False):
            sol, _ = solved(problem, explicit)
            cells += [str(sol.certificate.n_accepted), f"{np.median(spent[explicit]):.1f}",
                      f"{distance(sol, reference):.1e}", "" if true is None else f"{whole_error(sol, true):.2e}"]
        print("|", " | ".join([*cells, f"{np.median(spent[False]) / np.median(spent[True]):.1f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
