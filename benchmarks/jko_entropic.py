"""Entropic JKO steps of porous media: iterations and CPU milliseconds a step, by Newton's method and by turns.

    python benchmarks/jko_entropic.py [--cells 256] [--plane 64] [--turns]

Both levels of epsilon that a step is solved at (for the estimate of its bias) count. With ``--turns`` the same steps
are also solved by law and self-scaling in turn alone, as the solver goes on where Newton's method does not help, in
the same run; the last column is the L1 difference between the laws at the end. Compiled before.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

import wgflow as wg
from wgflow.solvers.jko.entropic import solver


def problems(cells: int, plane: int) -> dict[str, tuple[wg.FreeEnergy, wg.Density, float]]:
    """Return energies, laws at the start and lengths of steps by name."""
    line, square = wg.Grid((-3, 3), cells=cells), wg.Grid([(0, 1)] * 2, cells=plane)
    well = wg.Potential(lambda x: x**2 / 2)
    gauss = wg.Density.gaussian(line, 0.5, 0.09)
    parabola = wg.Density.from_function(line, lambda x: np.maximum(1 - (x - 0.3) ** 2, 0))
    block = wg.Density.from_function(line, lambda x: (np.abs(x - 0.5) < 1) * 1.0)
    drop = wg.Density.from_function(
        square, lambda x, y: np.maximum(1 / (6 * np.pi) - (x - 0.5) ** 2 - (y - 0.5) ** 2, 0.0))
    return {
        "m = 2, Gaussian": (wg.PowerEntropy(2.0) + well, gauss, 0.05),
        "m = 2, parabola": (wg.PowerEntropy(2.0) + well, parabola, 0.05),
        "m = 2, parabola, no V": (1.0 * wg.PowerEntropy(2.0), parabola, 0.01),
        "m = 3, block": (wg.PowerEntropy(3.0) + well, block, 0.05),
        "m = 0.7, Gaussian": (wg.PowerEntropy(0.7) + well, gauss, 0.05),
        f"m = 2, {plane} x {plane}": (1.0 * wg.PowerEntropy(2.0), drop, 0.005),
        f"m = 2, {plane} x {plane}, short": (1.0 * wg.PowerEntropy(2.0), drop, 0.0005),
        f"m = 3, {plane} x {plane}": (1.0 * wg.PowerEntropy(3.0), drop, 0.002),
    }


def run(problem, steps: int, fast: float) -> tuple[wg.Solution, float]:
    """Return a solution and CPU milliseconds a step."""
    energy, rho, tau = problem
    solver.FAST = fast
    begin = time.process_time()
    sol = wg.solve(energy, rho, (0, steps * tau), wg.JKO(tau=tau, inner="entropic"))
    return sol, 1e3 * (time.process_time() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--plane", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", action="store_true")
    arguments = parser.parse_args()
    kept, ways = solver.FAST, [solver.FAST] + [math.inf] * arguments.turns
    print("| | iterations a step, mean (most) | ms a step | by turns: iterations | ms a step | L1 |")
    print("|---|---|---|---|---|---|")
    small = list(problems(min(64, arguments.cells), min(16, arguments.plane)).values())
    run(small[0], 2, kept)
    run(small[-1], 2, kept)
    for name, problem in problems(arguments.cells, arguments.plane).items():
        cells, laws = [name], []
        for fast in ways:
            try:
                sol, spent = run(problem, arguments.steps, fast)
            except wg.ConvergenceError as error:
                cells += [f"stopped: {error.reason}", "-"]
                continue
            counts = [step.iterations for step in sol.jko_steps]
            cells += [f"{np.mean(counts):.0f} ({max(counts)})", f"{spent:.0f}"]
            laws.append(sol.final.masses)
        cells.append(f"{np.abs(laws[0] - laws[1]).sum():.0e}" if len(laws) == 2 else "")
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
