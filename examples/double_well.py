"""Two phases: weak attraction leaves a double well symmetric, strong attraction breaks the symmetry.

Particles in V = x^4/4 - x^2/2 that attract one another, U = |x - y|^2/2 (Desai and Zwanzig). Below the critical inverse
temperature beta_c = 2.188... every start ends with the mean 0, above it the mean stays away from 0.
"""

from __future__ import annotations

import wgflow as wg


def final_mean(beta: float, cells: int = 300) -> float:
    """Mean at t = 60 of the flow that starts from N(1, 0.2)."""
    grid = wg.Grid((-4, 4), cells=cells)
    energy = (wg.Entropy(beta) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
              + wg.Interaction(wg.Convolution(lambda z: z**2 / 2)))
    sol = wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.2), (0, 60))
    return sol.final.mean()


def main() -> dict[float, float]:
    """Print the mean for two temperatures on each side of the critical one."""
    means = {beta: final_mean(beta) for beta in (1.0, 1.5, 3.0, 4.0)}
    for beta, mean in means.items():
        print(f"beta = {beta:.1f}: mean {mean:.4f}")
    return means


if __name__ == "__main__":
    main()
