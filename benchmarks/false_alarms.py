"""Random problems whose true answers are known by refinement: how often the certificate is wrong about them.

``python benchmarks/false_alarms.py --count 200`` draws wells, interactions, temperatures and starts (smooth ones,
boxes, histograms, points), solves each by `FiniteVolume()` with Richardson's error estimate, and again on four times
the cells. It counts

* false alarms: the verdict is "failed", or "not judged", though the error is below the estimate or below one percent;
* misses: the verdict is "holds", though the error is above three times the estimate.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import wgflow as wg

#: Cells of a solve, and how many times as many the true answer has.
CELLS, FINER = 160, 4
#: An error that is small whatever the estimate says.
SMALL = 0.01


def energy_of(rng: np.random.Generator) -> wg.Term:
    a, b, c = rng.uniform(0.1, 0.5), rng.uniform(-1.0, 1.0), rng.uniform(-0.5, 0.5)
    total = wg.Entropy(rng.uniform(1.0, 8.0)) + wg.Potential(lambda x: a * x**4 / 2 + b * x**2 / 2 + c * np.sin(2 * x))
    kind = rng.integers(4)
    if kind == 1:
        strength = rng.uniform(-0.3, 1.0)
        total = total + wg.Interaction(wg.Convolution(lambda z: strength * z**2 / 2))
    elif kind == 2:
        strength, width = rng.uniform(-1.0, 1.0), rng.uniform(0.5, 1.5)
        total = total + wg.Interaction(wg.Convolution(lambda z: strength * np.exp(-((z / width) ** 2))))
    elif kind == 3:
        total = total + wg.Interaction(wg.interactions.log(-rng.uniform(0.1, 0.5)))
    return total


def start_of(rng: np.random.Generator) -> np.ndarray:
    """Return averages over the cells of the coarse grid."""
    grid = wg.Grid((-4, 4), cells=CELLS, boundary="no-flux")
    kind = rng.integers(4)
    if kind == 0:
        return wg.Density.gaussian(grid, rng.uniform(-1, 1), rng.uniform(0.1, 0.6)).values
    if kind == 1:
        m, w = rng.uniform(-1, 1), rng.uniform(0.2, 1.0)
        return wg.Density.from_function(grid, lambda x: (np.abs(x - m) < w) * 1.0).values
    if kind == 2:
        points = rng.normal(rng.uniform(-1, 1), 0.5, 200)
        return wg.Density.from_samples(grid, points[np.abs(points) < 4]).values
    values = np.zeros(CELLS)
    values[rng.integers(60, 100)] = 20.0
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=8191)
    options = parser.parse_args()
    alarms = misses = unjudged = 0
    ratios = []
    for k in range(options.count):
        rng = np.random.default_rng([options.seed, k])
        energy, values, t_end = energy_of(rng), start_of(rng), rng.uniform(0.2, 2.0)
        order = (None, 2)[rng.integers(2)]
        rho0 = wg.Density(wg.Grid((-4, 4), cells=CELLS, boundary="no-flux"), values)
        fine0 = wg.Density(wg.Grid((-4, 4), cells=FINER * CELLS, boundary="no-flux"), np.repeat(values, FINER))
        sol = wg.solve(energy, rho0, (0, t_end), wg.FiniteVolume(order=order), error_estimate=True)
        true = wg.solve(energy, fine0, (0, t_end), wg.FiniteVolume(order=order, rtol=1e-6))
        error = float(np.abs(true.final.masses.reshape(CELLS, FINER).sum(axis=1) - sol.final.masses).sum())
        c = sol.certificate
        estimate = c.error_estimate or 0.0
        ratios.append(c.equation_defect / c.equation_bound if c.equation_bound else 0.0)
        alarm = c.verdict == "failed" and error <= max(estimate, SMALL)
        shy = c.verdict == "not judged" and error <= max(estimate, SMALL)
        miss = c.ok and error > 3 * estimate and error > 1e-3
        alarms, misses, unjudged = alarms + alarm, misses + miss, unjudged + shy
        if alarm or shy or miss:
            print(f"problem {k}: {c.verdict}, error {error:.1e}, estimate {estimate:.1e}, defect over bound "
                  f"{ratios[-1]:.2f}: {[name for name, (answer, _) in c.checks().items() if answer is not True]}")
    print(f"{options.count} problems: {alarms} false alarms, {unjudged} not judged though right, {misses} misses; "
          f"defect over bound: median {np.median(ratios):.3f}, largest {max(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
