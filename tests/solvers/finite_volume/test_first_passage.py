"""An absorbing end as a cliff of the potential (docs/first-passage.md), against exact laws of first-passage times.

Behind the end b the potential falls by 2/beta a cell, from the last center before b on. With fluxes exact for
potentials that are linear between centers, the stationary profile in front is 0 at b: an error of second order in the
cell.
"""

from __future__ import annotations

import numpy as np

import wgflow as wg

EXACT_FOR_LINEAR = wg.FiniteVolume(order=2, corrected=False, rtol=1e-6)


def not_yet(cells: int, times: list[float], wells: bool) -> np.ndarray:
    """P(T > t), T when a Brownian motion (beta = 1), uniform on (0, 1/2) at first, is at 1, or with ``wells`` at 0."""
    h = 1 / cells
    low = -40 * h if wells else 0.0
    grid = wg.Grid((low, 1 + 40 * h), cells=cells + (80 if wells else 40), boundary="no-flux")
    x = grid.centers[0]
    cliff = 2 / h * np.clip(x - (1 - h / 2), 0, 15 * h)
    if wells:
        cliff = cliff + 2 / h * np.clip(h / 2 - x, 0, 15 * h)
    start = wg.Density.from_function(grid, lambda x: np.where((x > 0) & (x < 0.5), 2.0, 0.0), normalize=True)
    sol = wg.solve(wg.Entropy(1.0) + wg.Potential(-cliff), start, (0, times[-1]), EXACT_FOR_LINEAR, t_eval=times)
    assert sol.certificate.verdict == "holds"
    return np.array([rho.masses[(x > 0) & (x < 1)].sum() for rho in sol.densities])


def test_brownian_motion_with_a_wall_and_an_end_that_absorbs():
    # Eigenfunctions cos(k x) with k = (n + 1/2) pi: the sum over n of 2 <rho0, cos> <1, cos> exp(-k^2 t).
    times = [0.1, 0.3]
    k = (np.arange(60) + 0.5) * np.pi
    exact = np.array([(4 * np.sin(k / 2) / k * np.sin(k) / k * np.exp(-k**2 * t)).sum() for t in times])
    errors = [np.abs(not_yet(cells, times, wells=False) - exact).max() for cells in (50, 100)]
    assert errors[0] < 1e-4
    assert errors[1] < errors[0] / 3


def test_brownian_motion_between_two_ends_that_absorb():
    # Eigenfunctions sin(n pi x).
    times = [0.05, 0.1]
    k = np.arange(1, 120) * np.pi
    exact = np.array([(4 * (1 - np.cos(k / 2)) / k * (1 - np.cos(k)) / k * np.exp(-k**2 * t)).sum() for t in times])
    errors = [np.abs(not_yet(cells, times, wells=True) - exact).max() for cells in (50, 100)]
    assert errors[0] < 4e-4
    assert errors[1] < errors[0] / 3


def test_mean_time_of_an_ornstein_uhlenbeck_process():
    # From the center of V = x^2/2, beta = 1, to b = 1: int_0^b exp(y^2/2) int_-inf^y exp(-z^2/2) dz dy.
    end, cells = 1.0, 120
    h = 6 / cells
    grid = wg.Grid((-5, end + 40 * h), cells=cells + 40, boundary=[(None, "no-flux")])
    x = grid.centers[0]
    cliff = 2 / h * np.clip(x - (end - h / 2), 0, 15 * h)
    start = wg.Density.gaussian(grid, 0.0, 0.05)
    times = np.linspace(0, 40, 1601)
    energy = wg.Entropy(1.0) + wg.Potential(np.minimum(x, end) ** 2 / 2 - cliff)
    sol = wg.solve(energy, start, (0, 40), EXACT_FOR_LINEAR, t_eval=times)
    mean_time = np.trapezoid([rho.masses[x < end].sum() for rho in sol.densities], times)
    y = np.linspace(-8, end, 40001)
    slope = np.exp(y**2 / 2) * np.cumsum(np.exp(-(y**2) / 2)) * (y[1] - y[0])
    mean_from = np.cumsum(slope[::-1])[::-1] * (y[1] - y[0])
    exact = np.interp(x, y, mean_from) @ (start.masses * (x < end))
    assert abs(mean_time / exact - 1) < 2e-3
