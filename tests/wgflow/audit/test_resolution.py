"""A law that is narrower than the cells of its grid is not said to hold; the same law on finer cells is."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg

HALF = math.sqrt(0.5)


def line(curvature, beta, cells, t, periodic=False):
    """Return the run of a law in one well, which is (nearly) a parabola."""
    side = math.pi if periodic else 2.0
    grid = wg.Grid((-side, side), cells=cells, boundary="periodic" if periodic else "no-flux")
    rho = wg.Density.from_function(grid, lambda x: np.exp((np.cos(x - 0.5) - 1) / 0.09))
    well = wg.Potential((lambda x: -curvature * np.cos(x)) if periodic else lambda x: 0.5 * curvature * x**2)
    return wg.solve(wg.Entropy(beta) + well, rho, (0.0, t))


def valley(fast, cells, width):
    grid = wg.Grid([(-4, 4), (-4, 4)], cells=cells)
    energy = wg.Entropy(4.0) + wg.Potential(lambda x, y: 0.25 * (x + y) ** 2 + 0.25 * fast * (x - y) ** 2)
    sol = wg.solve(energy, wg.Density.gaussian(grid, [HALF, HALF], width**2), (0.0, 1.5))
    x, y = np.meshgrid(*grid.centers, indexing="ij")
    return sol, float((sol.final.masses * (x + y)).sum()) * HALF


@pytest.mark.slow
def test_a_valley_at_45_degrees_that_the_cells_do_not_resolve():
    sol, mean = valley(1000.0, 160, 0.1)
    assert abs(mean - math.exp(-1.5)) > 0.05
    assert sol.certificate.verdict == "not judged"
    assert "more cells" in sol.certificate.explain() or "times the cells" in sol.certificate.explain()


def test_a_valley_that_they_resolve():
    sol, mean = valley(10.0, 128, 0.3)
    assert mean == pytest.approx(math.exp(-1.5), rel=2e-3)
    assert sol.certificate.verdict == "holds"


@pytest.mark.parametrize("case", [
    (100.0, 100.0, 40, 0.02),
    (1.0, 1e4, 60, 4.0),
    (1.0, 1e4, 40, 3.0, True),
], ids=["a narrow well", "a law that narrows", "on a circle"])
def test_narrow_laws(case):
    sol = line(*case)
    assert sol.certificate.verdict == "not judged"
    assert sol.certificate.checks()["resolution"][0] is None
    assert "narrower than the cells of axis 0" in sol.certificate.explain()


@pytest.mark.parametrize("case", [
    (100.0, 100.0, 400, 0.02),
    (1.0, 1e4, 600, 4.0),
    (1.0, 1e2, 200, 3.0, True),
], ids=["a narrow well", "a law that narrows", "on a circle"])
def test_the_same_on_finer_cells_or_of_wider_laws(case):
    sol = line(*case)
    assert sol.certificate.verdict == "holds"
    assert "resolution" not in sol.certificate.checks()


def test_a_rough_start_that_spreads_is_resolved():
    grid = wg.Grid((-4, 4), cells=100)
    rho = wg.Density.from_samples(grid, np.random.default_rng(1).normal(size=100))
    sol = wg.solve(wg.Entropy(2.0) + wg.Potential(lambda x: 0.5 * x**2), rho, (0.0, 0.5))
    assert not sol.certificate.unresolved
