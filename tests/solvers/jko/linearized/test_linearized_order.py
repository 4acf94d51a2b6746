"""Steps of order 2 by inner="linearized": the law beyond the present one, and what they reach from stiff tails."""

import numpy as np
import pytest
from scipy.optimize import brentq, isotonic_regression

import wgflow as wg
from wgflow.compiled.remap import ends_of_levels, face_densities, remap_line
from wgflow.solvers.jko.linearized.extrapolation import beyond_on_line, distance_squared, map_in_order
from wgflow.validation import wasserstein


def sextic(x):
    return x**2 * (x**2 - 2.5) ** 2 / 6 + 0.15 * x


def quartic(x):
    return 0.5 * x**4


def jko(tau, inner="linearized"):
    return wg.JKO(tau=tau, inner=inner, order=2)


def slope(taus, errors):
    return np.polyfit(np.log(taus), np.log(errors), 1)[0]


@pytest.mark.parametrize(("beta", "potential", "box", "mean", "variance"), [
    (6.0, sextic, (-3, 3), 1.0, 0.3), (6.0, sextic, (-3, 3), 1.0, 0.09), (20.0, quartic, (-3, 4), 1.5, 0.4)])
def test_second_order_from_stiff_tails(beta, potential, box, mean, variance):
    # Steps in positions of another solver are the referee. In the tails tau V'' is far above 1 at first.
    grid = wg.Grid(box, cells=600)
    energy, rho0 = wg.Entropy(beta) + wg.Potential(potential), wg.Density.gaussian(grid, mean, variance)
    exact = wg.solve(energy, rho0, (0, 1), jko(0.003125, "quantile")).final
    taus, errors = (0.1, 0.05, 0.025), []
    for tau in taus:
        sol = wg.solve(energy, rho0, (0, 1), jko(tau))
        assert sol.certificate.ok
        assert sol.certificate.n_fallback == 0
        errors.append(wasserstein(sol.final, exact))
    assert errors[-1] < 2.5e-4
    assert 1.9 < slope(taus, errors) < 2.4


def test_on_a_coarse_grid_order_two_is_better_than_order_one():
    grid = wg.Grid((-3, 3), cells=256)
    energy, rho0 = wg.Entropy(6.0) + wg.Potential(sextic), wg.Density.gaussian(grid, 1.0, 0.3)
    exact = wg.solve(energy, rho0, (0, 1), jko(0.003125, "quantile")).final
    for tau in (0.05, 0.025, 0.0125):
        first = wg.solve(energy, rho0, (0, 1), wg.JKO(tau=tau, inner="linearized")).final
        second = wg.solve(energy, rho0, (0, 1), jko(tau)).final
        assert wasserstein(second, exact) < 0.15 * wasserstein(first, exact)


def test_extrapolation_that_loses_its_mass_is_told():
    # On a circle the law beyond is formed from densities, which a collapse in few steps does not allow.
    grid = wg.Grid((0, 1), cells=256, boundary="periodic")
    rho0 = wg.Density.from_function(grid, lambda x: 1 + 0.5 * np.sin(2 * np.pi * x))
    energy = wg.Entropy(5.0) + wg.Potential(lambda x: 20 * np.cos(2 * np.pi * x))
    with pytest.warns(wg.WGFlowWarning, match="may not be unique"):
        sol = wg.solve(energy, rho0, (0, 0.025), jko(0.00625))
    assert sol.certificate.n_fallback > 0
    assert not sol.certificate.checks()["scheme"][0]


# -------------------------------------------------------------------- the map in order
def test_ends_of_levels_invert_the_mass_below():
    rng = np.random.default_rng(37)
    edges, masses = np.sort(rng.uniform(-1, 2, 14)), rng.uniform(0, 1, 13)
    masses[[0, 5, 6]] = 0.0
    masses[1] = 1e-40
    density, below = np.empty(14), np.append(0.0, np.cumsum(masses))
    face_densities(masses, edges, 0, density)

    def mass_below(y):
        moved, rest = np.empty(1), np.empty(2)
        remap_line(masses, edges, density, np.array([edges[0], y]), moved, rest)
        return moved[0]

    levels = np.sort(np.concatenate(([3e-41], rng.uniform(0, below[-1], 40))))
    ends = np.empty(levels.size)
    ends_of_levels(levels, masses, edges, density, below, ends)
    for level, y in zip(levels, ends):
        assert mass_below(y) == pytest.approx(level, rel=1e-13)
        assert y == pytest.approx(brentq(lambda z, s=level: mass_below(z) - s, *edges[[0, -1]], xtol=1e-14), abs=1e-6)
    ends_of_levels(np.array([0.0, below[-1]]), masses, edges, density, below, ends[:2])
    assert list(ends[:2]) == [edges[1], edges[-1]]


@pytest.mark.parametrize("cells", [200, 400])
def test_gaussians_are_mapped_on_a_line(cells):
    grid = wg.Grid((-8, 8), cells=cells)
    h, (m, s), (n, t) = 16 / cells, (1.0, 0.8), (-0.5, 1.1)
    a, b = (wg.Density.gaussian(grid, mean, sd**2).masses for mean, sd in ((m, s), (n, t)))
    images, near = map_in_order(a, b, grid.edges[0]), np.abs(grid.edges[0] - m) < 4.5 * s
    assert images[near] == pytest.approx((n + t / s * (grid.edges[0] - m))[near], abs=h**2)
    assert distance_squared(a, b, grid.edges[0]) == pytest.approx((m - n) ** 2 + (s - t) ** 2, abs=h**2)
    law = wg.Density(grid, beyond_on_line(b, a, grid.edges[0], 1 / 3) / grid.volumes)
    assert law.mean() == pytest.approx(m + (m - n) / 3, abs=0.1 * h**2)
    # Without the variance of a cell, which averages add.
    assert law.cov() == pytest.approx((s + (s - t) / 3) ** 2, abs=0.3 * h**2)


@pytest.mark.parametrize("stretch", [(8.0, 8.0), (1.5, 6.0), (5.0, 0.5)])
def test_parts_that_would_overtake_each_other_stick_together(stretch):
    # From the halves of a uniform law, which were stretched before: isotonic regression of the moved quantiles.
    edges = np.linspace(0.0, 10.0, 1001)
    grid = wg.Grid((0, 10), cells=1000)
    centers = 0.5 * (edges[1:] + edges[:-1])
    masses = (np.abs(centers - 5.0) < 0.5) / 100.0
    levels = (np.arange(4000) + 0.5) / 4000
    now = 4.5 + levels
    old = 4.8 + np.where(levels < 0.5, stretch[0], stretch[1]) * (levels - 0.5)
    before = np.diff(np.interp(edges, [4.8 - stretch[0] / 2, 4.8, 4.8 + stretch[1] / 2], [0.0, 0.5, 1.0]))
    moved = beyond_on_line(before, masses, edges, 0.5)
    stuck = isotonic_regression(now + 0.5 * (now - old)).x
    assert (np.diff(stuck) == 0).mean() > 0.4
    assert moved.sum() == pytest.approx(1.0, abs=1e-14)
    assert moved.min() >= 0
    law = wg.Density(grid, moved / grid.volumes)
    assert law.mean() == pytest.approx(now.mean() + 0.5 * (now.mean() - old.mean()), abs=0.01)
    assert wasserstein(law, wg.Atoms(stuck, np.full(4000, 1 / 4000))) < 0.01
