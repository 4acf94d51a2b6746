"""Langevin particles that you simulate yourself, held against the density.

Anything with ``t`` and ``coordinates`` (runs, times, particles, coordinates) can be compared: here particles that relax
in V = x^2/2 and repel one another, U = -|x - y|^2/4.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import wgflow as wg
from wgflow.validation import Comparison, compare

TIMES = np.array([0.0, 0.25, 0.5, 1.0])


def simulate(runs: int, count: int, rng: np.random.Generator, dt: float = 0.005) -> SimpleNamespace:
    """Euler-Maruyama for dX = -(X - (X - mean)/2) dt + dW/sqrt(2), in ``runs`` independent clouds."""
    x = rng.normal(1.5, 0.3, size=(runs, count))
    snapshots = [x]
    for span in np.diff(TIMES):
        for _ in range(round(span / dt)):
            drift = -x + 0.5 * (x - x.mean(axis=1, keepdims=True))
            x = x + dt * drift + np.sqrt(0.5 * dt) * rng.normal(size=x.shape)
        snapshots.append(x)
    return SimpleNamespace(t=TIMES, coordinates=np.stack(snapshots, axis=1)[..., None])


def main() -> Comparison:
    """Solve, simulate, compare, print the verdict."""
    grid = wg.Grid((-4, 5), cells=300, names=["x"])
    energy = (wg.Entropy(beta=4.0) + wg.Potential(lambda x: x**2 / 2)
              + wg.Interaction(wg.Convolution(lambda z: -(z**2) / 4)))
    sol = wg.solve(energy, wg.Density.gaussian(grid, 1.5, 0.09), (0, 1), t_eval=TIMES)
    result = compare(sol, simulate(3, 400, np.random.default_rng(2027)), n_null=200)
    print(result.verdict)
    return result


if __name__ == "__main__":
    main()
