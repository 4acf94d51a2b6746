"""A long drift in a narrow curved valley: sweeps along the axes against one sparse system for all cells.

    python benchmarks/valley.py [--cells 160] [--limit 300]

The law starts at (-1, 1) in the valley of V = (1 - x)^2 / 2 + 50 (y - x^2)^2 at beta = 4 and drifts to t = 20. Printed
are the mean of x at the end, beside its value by refinement (all axes at once on 320^2 and 160^2 cells, extrapolated
with order 2: 0.975), the steps, and the processor time of one run each.
"""

from __future__ import annotations

import argparse
import time

import wgflow as wg


def run(cells: int, limit: float, **options) -> str:
    """Return one line of the table."""
    grid = wg.Grid([(-2.2, 3.0), (-1.5, 7.5)], cells=(cells, cells))
    energy = wg.Entropy(4.0) + wg.Potential(lambda x, y: (1 - x) ** 2 / 2 + 50 * (y - x**2) ** 2)
    rho = wg.Density.gaussian(grid, [-1.0, 1.0], [0.04, 0.04])
    start = time.process_time()
    sol = wg.solve(energy, rho, (0.0, 20.0), method=wg.FiniteVolume(time_limit=limit, **options), throw=False)
    seconds, name = time.process_time() - start, ", ".join(f"{key}={value!r}" for key, value in options.items())
    found = sol.certificate
    return (f"{name or 'default':<32} {cells:>5} {sol.final.mean()[0]:>9.4f} {sol.t[-1]:>6.3g} {found.n_accepted:>7} "
            f"{seconds:>8.1f}  {found.verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a run ends")
    arguments = parser.parse_args()
    print(f"{'method':<32} {'cells':>5} {'mean of x':>9} {'t':>6} {'steps':>7} {'seconds':>8}  certificate")
    for options in ({}, {"rtol": 1e-3}, {"rtol": 5e-5}, {"order": 2}, {"splitting": "none"}):
        print(run(arguments.cells, arguments.limit, **options), flush=True)


if __name__ == "__main__":
    main()
