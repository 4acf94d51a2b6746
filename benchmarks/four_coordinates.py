"""Finite volumes on four coordinates: seconds a step and bytes a cell for the noisy ReLU network.

    python benchmarks/four_coordinates.py [--cells 16 20 24] [--steps 5]

The model is the rectifier network on anisotropic Gaussians (d = 320, s0 = 60, Delta = 0.4), whose law lives on
(a, b, r1, r2), with noise and ridge. Each grid is solved in a process of its own, whose peak memory is that of the
grid. The cost of a step should grow like the number of cells.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time


def measure(cells: int, steps: int) -> dict:
    """Run ``steps`` fixed steps at ``cells`` cells a coordinate; report time and memory."""
    import wgflow as wg

    model = wg.reduced_models.ReLUNetwork(d=320, s0=60, delta=0.4)
    grid = model.grid(cells=cells, bounds=((-1.0, 3.0), (-1.0, 3.0), (0.0, 2.0), (0.0, 2.0)))
    energy = model.energy(beta=400.0, ridge=0.01)
    rho0 = model.initial_density(0.8, grid, width=0.3)
    begin = time.perf_counter()
    flow = wg.solve(energy, rho0, (0.0, 0.0))  # features and V on the grid, without a step
    setup = time.perf_counter() - begin
    dt = 2e-3
    wg.solve(energy, rho0, (0.0, dt), method=wg.FiniteVolume(dt=dt), t_eval=[dt], time_scale=model.time_scale)
    begin = time.perf_counter()
    sol = wg.solve(energy, rho0, (0.0, steps * dt), method=wg.FiniteVolume(dt=dt), t_eval=[steps * dt],
                   time_scale=model.time_scale)
    seconds = (time.perf_counter() - begin) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return {"cells": cells, "size": grid.size, "rank": len(model.target), "setup": setup, "step": seconds,
            "nanoseconds": 1e9 * seconds / grid.size, "bytes": peak / grid.size, "peak": peak / 2**30,
            "risk": model.risk(sol.final), "ok": sol.certificate.ok and flow.success,
            "rise": sol.certificate.max_energy_increase, "drift": sol.certificate.mass_drift}


def main() -> None:
    """Print one line for each grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[16, 20, 24])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.steps)))
        return
    print(f"{'grid':>6} {'cells':>9} {'features':>8} {'set-up s':>9} {'s a step':>9} {'ns a cell':>9} "
          f"{'bytes a cell':>12} {'peak GiB':>8} {'mass drift':>10} {'energy rise':>11}  certificate")
    for cells in options.cells:
        done = subprocess.run([sys.executable, __file__, "--one", str(cells), "--steps", str(options.steps)],
                              capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(f"{row['cells']:>4}^4 {row['size']:>9} {row['rank']:>8} {row['setup']:>9.1f} {row['step']:>9.3f} "
              f"{row['nanoseconds']:>9.0f} {row['bytes']:>12.0f} {row['peak']:>8.2f} {row['drift']:>10.1e} "
              f"{row['rise']:>11.1e}  {'ok' if row['ok'] else 'FAILED'}", flush=True)


if __name__ == "__main__":
    main()
