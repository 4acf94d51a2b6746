r"""A distance of one's own in a comparison: the energy distance between particles and a density.

    D^2 = 2 E|X - Y| - E|X - X'| - E|Y - Y'| = 2 int (F_n - F)^2 dx,      X a particle, Y drawn from the density.

A `Statistic` is a name and a function of samples and a law; its band, the number that a right solution stays below,
comes from simulating the law itself. D, not its square, falls like n^(-1/2), as the bands ask for.
"""

from __future__ import annotations

import numpy as np

import wgflow as wg
from wgflow.validation import STATISTICS, Comparison, Statistic, compare


class EnergyDistance(Statistic):
    """The energy distance on one coordinate, its integral by the trapezoidal rule.

    Parameters
    ----------
    nodes : int
        Of the rule, between the extremes of law and particles.
    """

    name = "energy distance"

    def __init__(self, nodes: int = 400):
        self.nodes = nodes

    def value(self, x: np.ndarray, law) -> np.ndarray:
        """Return D for each row of x, shape (samples, n)."""
        low, high = law.quantile([0.0, 1.0])
        y = np.linspace(min(low, x.min()), max(high, x.max()), self.nodes)
        below = np.stack([np.searchsorted(row, y, side="right") for row in x]) / x.shape[1]
        return np.sqrt(2.0 * np.trapezoid((below - law.cdf(y)) ** 2, y, axis=1))


def main() -> Comparison:
    """Compare Langevin particles with the density of their flow, the new distance among the others."""
    times = np.array([0.0, 0.2, 0.6])
    grid = wg.Grid((-3, 4), cells=200)
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
    sol = wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.1), (0, 0.6), t_eval=times)
    start = wg.Atoms(np.random.default_rng(11).normal(1.0, np.sqrt(0.1), size=(1, 500)), np.full(500, 1 / 500))
    particles = wg.solve(energy, start, (0, 0.6), t_eval=times, method=wg.Lagrangian(rng=7, dt=0.02))
    comparison = compare(sol, particles, statistics=(*STATISTICS, EnergyDistance()))
    print(comparison.table())
    print(comparison.verdict)
    return comparison


if __name__ == "__main__":
    main()
