r"""A term of one's own: crowding, an energy of the density averaged over a neighborhood.

    E(rho) = int H(K * rho),  H(r) = r^3 / 3,      dE/drho = K * (K * rho)^2,      K a Gaussian of width s.

It is no internal energy (it sees the density elsewhere) and no interaction (it is not quadratic). Two methods are
enough: with them `FiniteVolume` solves its flow under both schemes, and `JKO(inner="linearized")` does too. That the
second is the derivative of the first is checked on two densities when a solve starts.
"""

from __future__ import annotations

import numpy as np

import wgflow as wg


class Crowding(wg.Term):
    """The energy of crowding on a grid with one axis.

    Parameters
    ----------
    width : float
        Standard deviation s of the kernel K.
    """

    def __init__(self, width: float):
        self.width = width

    def averaging(self, grid: wg.Grid) -> np.ndarray:
        """Return K between all cell centers, shape (n, n)."""
        x = grid.centers[0]
        return np.exp(-0.5 * ((x[:, None] - x) / self.width) ** 2) / (self.width * np.sqrt(2 * np.pi))

    def energy(self, rho: wg.Density) -> float:
        average = self.averaging(rho.grid) @ rho.masses
        return float((average**3 * rho.grid.volumes).sum() / 3)

    def first_variation(self, rho: wg.Density) -> np.ndarray:
        kernel = self.averaging(rho.grid)
        return kernel @ ((kernel @ rho.masses) ** 2 * rho.grid.volumes)


def main() -> dict[str, wg.Solution]:
    """Solve the flow by several methods; each reports the energy that the term itself has."""
    grid = wg.Grid((-3, 3), cells=120)
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**2 / 2) + 5 * Crowding(0.3)
    rho0 = wg.Density.gaussian(grid, mean=0.5, cov=0.1)
    methods = {"finite volumes": wg.FiniteVolume(), "midpoint scheme": wg.FiniteVolume(scheme="midpoint")}
    solutions = {}
    for name, method in methods.items():
        solutions[name] = sol = wg.solve(energy, rho0, (0, 0.5), method=method)
        print(f"{name:16s} F = {sol.energy[-1]:.5f}, deviation {sol.final.cov() ** 0.5:.4f}")
    return solutions


if __name__ == "__main__":
    main()
