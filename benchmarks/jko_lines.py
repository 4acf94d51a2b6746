"""JKO steps on a line: CPU milliseconds of whole runs, `wg.solve` with its certificate, and the error in time.

    python benchmarks/jko_lines.py [--cells 256] [--tau 0.05] [--runs 21] [--inner quantile linearized] [--wide 1]

Five problems to t = 1. The runs of all problems are timed in turn, after compilation, so that a busy spell of the
machine falls on all of them; the median and the least are printed. "W2 to the limit": distance to a run of order 2 with
steps a sixteenth as long. ``--wide 4`` takes boxes four times as wide, whose tails are empty up to round-off.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import wgflow as wg

#: Name: energy, box, mean and variance of the Gaussian at the start.
PROBLEMS = {
    "quadratic": (wg.Entropy(3.0) + wg.Potential(lambda x: 0.35 * x**2), (-4, 4), 0.5, 0.09),
    "three wells": (wg.Entropy(6.0) + wg.Potential(lambda x: x**2 * (x**2 - 2.5) ** 2 / 6 + 0.15 * x), (-3, 3), 1.0,
                    0.3),
    "porous": (wg.PowerEntropy(2.0) + wg.Potential(lambda x: 0.5 * x**2), (-3, 3), 0.5, 0.09),
    "attraction": (wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
                   + wg.Interaction(wg.Convolution(lambda z: z**2 / 2)), (-4, 4), 1.0, 0.3),
    "repulsion": (wg.Entropy(4.0) + wg.Potential(lambda x: 0.5 * x**2)
                  + wg.Interaction(wg.Convolution(lambda z: np.exp(-(z**2)))), (-4, 4), 0.5, 0.09),
}


def report(inner: str, cells: int, tau: float, runs: int, wide: float) -> None:
    starts = {name: wg.Density.gaussian(wg.Grid([(wide * box[0], wide * box[1])], cells=cells), mean, variance)
              for name, (_, box, mean, variance) in PROBLEMS.items()}
    method, times = wg.JKO(tau=tau, inner=inner), {name: [] for name in PROBLEMS}
    found = {name: wg.solve(PROBLEMS[name][0], rho0, (0, 1), method=method) for name, rho0 in starts.items()}
    for _ in range(runs):
        for name, rho0 in starts.items():
            begin = time.process_time()
            wg.solve(PROBLEMS[name][0], rho0, (0, 1), method=method)
            times[name].append(1e3 * (time.process_time() - begin))
    print(f"\ninner={inner!r}, {cells} cells, tau = {tau:g}, boxes {wide:g} times as wide")
    print(f"  {'':12s}{'median ms':>10s}{'least ms':>10s}{'ms a step':>10s}{'iterations':>12s}{'W2 to the limit':>17s}"
          "  certificate")
    for name, sol in found.items():
        fine = wg.JKO(tau=tau / 16, inner=inner, order=2)
        limit = wg.solve(PROBLEMS[name][0], starts[name], (0, 1), method=fine).final
        print(f"  {name:12s}{np.median(times[name]):10.1f}{min(times[name]):10.1f}"
              f"{np.median(times[name]) / len(sol.jko_steps):10.2f}"
              f"{sum(step.iterations for step in sol.jko_steps):12d}{wg.validation.wasserstein(sol.final, limit):17.1e}"
              f"  {'ok' if sol.certificate.ok else 'not ok'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--tau", type=float, default=0.05)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--inner", nargs="+", default=["quantile", "linearized"])
    parser.add_argument("--wide", type=float, default=1.0)
    arguments = parser.parse_args()
    for inner in arguments.inner:
        report(inner, arguments.cells, arguments.tau, arguments.runs, arguments.wide)


if __name__ == "__main__":
    main()
