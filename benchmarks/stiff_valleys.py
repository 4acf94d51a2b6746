"""Split steps against steps that solve both axes at once, in a curved valley that is oblique to the axes.

    python benchmarks/stiff_valleys.py            # some minutes
    python benchmarks/stiff_valleys.py --times 0.01 --cells 24 --beta 0.03       # does it run?

The potential is Rosenbrock's, (1 - x)^2 + 100 (y - x^2)^2, at beta = 3 on 160^2 cells, from a spot at (-1, 1); steps
without splitting want cells that resolve it. Both kinds of steps have one semi-discrete equation; the truth is that
equation at rtol = 1e-6 without splitting. Printed are the mean of x, its error, the steps and the processor time, as a
ratio to that without splitting at default settings.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import wgflow as wg

KINDS = {"both at once": {"splitting": "none"}, "split": {}, "split, rtol=1e-4": {"rtol": 1e-4},
         "split, rtol=1e-5": {"rtol": 1e-5}}


def solved(t: float, cells: int, beta: float, **settings) -> tuple[float, int, float]:
    """Return the mean of x, the number of steps, and seconds of processor time."""
    grid = wg.Grid([(-1.6, 2.4), (-1.0, 5.0)], cells=cells)
    rho = wg.Density.gaussian(grid, [-1.0, 1.0], 0.15**2)
    energy = wg.Entropy(beta) + wg.Potential(lambda x, y: (1 - x) ** 2 + 100 * (y - x * x) ** 2)
    start = time.process_time()
    sol = wg.solve(energy, rho, (0.0, t), wg.FiniteVolume(threads=1, **settings), t_eval=[t])
    seconds = time.process_time() - start
    masses = sol.final.masses.sum(axis=1)
    return float(masses @ grid.centers[0]), sol.certificate.n_accepted, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=float, nargs="+", default=[2.0, 20.0])
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--beta", type=float, default=3.0)
    given = parser.parse_args()
    # What is compiled is compiled beforehand.
    solved(0.001, given.cells, given.beta)
    solved(0.001, given.cells, given.beta, splitting="none")
    for t in given.times:
        truth = solved(t, given.cells, given.beta, splitting="none", rtol=1e-6)[0]
        print(f"t = {t:g}: mean of x {truth:.6f}")
        base = np.nan
        for name, settings in KINDS.items():
            mean, steps, seconds = solved(t, given.cells, given.beta, **settings)
            base = seconds if settings.get("splitting") else base
            print(f"  {name:18s} mean {mean:.6f}  error {abs(mean - truth):.1e}  {steps:6d} steps  {seconds:6.1f} s"
                  f"  ratio {seconds / base:.2f}", flush=True)


if __name__ == "__main__":
    main()
