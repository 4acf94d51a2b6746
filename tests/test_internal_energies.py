"""PowerEntropy: H and its derivatives, its conjugate, its values on grids, and who refuses it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wgflow as wg
from wgflow.grids import log_power_cell_average
from wgflow.internal_energies import PowerEntropy

EXPONENTS = st.one_of(st.floats(0.2, 0.95), st.floats(1.05, 6.0))


@given(m=EXPONENTS, r=st.floats(0.05, 20.0))
def test_derivatives_are_those_of_H(m, r):
    term, h = PowerEntropy(m), 1e-5 * r
    assert term.H(r) == pytest.approx(r**m / (m - 1), rel=1e-14)
    assert term.derivative(r) == pytest.approx((term.H(r + h) - term.H(r - h)) / (2 * h), rel=1e-7)
    slope = (term.derivative(r + h) - term.derivative(r - h)) / (2 * h)
    assert term.second_derivative(r) == pytest.approx(slope, rel=1e-6)
    assert term.second_derivative(r) > 0


@given(m=EXPONENTS, r=st.floats(0.05, 20.0))
def test_inverse_derivative_and_conjugate(m, r):
    term = PowerEntropy(m)
    p = term.derivative(r)
    assert term.inverse_derivative(p) == pytest.approx(r, rel=1e-9)
    assert term.conjugate(p) == pytest.approx(p * r - term.H(r), rel=1e-8, abs=1e-12)
    # Fenchel: H*(p) >= p s - H(s) for every s >= 0.
    s = np.geomspace(1e-3, 1e3, 301)
    assert (term.conjugate(p) >= p * s - term.H(s) - 1e-9 * max(1.0, abs(p) * r)).all()


def test_inverse_derivative_beyond_the_range_of_the_derivative():
    assert PowerEntropy(2.0).inverse_derivative(-3.0) == 0.0
    assert PowerEntropy(2.0).conjugate(-3.0) == 0.0
    # H' = -m/(1-m) r^(m-1) stays below 0 for m < 1: no density has a positive one, and the supremum is infinite.
    assert PowerEntropy(0.5).inverse_derivative(0.1) == math.inf
    assert PowerEntropy(0.5).conjugate(0.1) == math.inf


def test_empty_cells():
    porous, fast = PowerEntropy(2.0), PowerEntropy(0.5)
    assert porous.H(0.0) == 0.0
    assert porous.derivative(0.0) == 0.0
    assert fast.H(0.0) == 0.0
    assert fast.derivative(0.0) == -math.inf


def test_energy_of_the_porous_medium_equilibrium():
    # rho = (R^2 - x^2)_+ / 4 minimizes int rho^2 + int x^2/2 rho; R^3 = 3.
    radius = 3 ** (1 / 3)
    grid = wg.Grid([(-2, 2)], cells=2000)
    rho = wg.Density.from_function(grid, lambda x: np.maximum(radius**2 - x**2, 0) / 4)
    energy = PowerEntropy(2.0) + wg.Potential(lambda x: x**2 / 2)
    assert energy(rho) == pytest.approx(0.624025146916, abs=2e-6)
    inside = np.abs(grid.centers[0]) < radius - 0.01
    # The first variation is constant on the support of the minimizer.
    assert np.ptp(energy.first_variation(rho)[inside]) < 2e-6


def test_first_variation_is_the_derivative_of_the_energy(rng):
    grid = wg.Grid([(0, 1), (0, 2)], cells=(6, 5))
    rho = wg.Density.from_values(grid, rng.random(grid.shape) + 0.2)
    for m in (0.6, 1.5, 3.0):
        term, change = PowerEntropy(m), rng.standard_normal(grid.shape)
        h = 1e-6
        moved = [term(wg.Density(grid, rho.values + s * h * change)) for s in (1, -1)]
        expected = float((term.first_variation(rho) * change * grid.volumes).sum())
        assert (moved[0] - moved[1]) / (2 * h) == pytest.approx(expected, rel=1e-7)


def test_dissipation():
    # rho = (1 - x^2)/c: with H = r^2 the velocity is -2 rho' = 4 x / c, in any number of axes.
    grid = wg.Grid([(-1.5, 1.5)], cells=1200)
    rho = wg.Density.from_function(grid, lambda x: np.maximum(1 - x**2, 0))
    exact = (3.0) ** 2 / 5
    assert (1 * PowerEntropy(2.0)).dissipation(rho) == pytest.approx(exact, rel=5e-3)
    ring = wg.Grid([(0, 1), (0, 2 * math.pi)], cells=(3, 400), boundary=("no-flux", "periodic"))
    wave = wg.Density.from_function(ring, lambda x, y: 2 + np.sin(y) + 0 * x)
    # int rho (2 rho')^2 with rho = (2 + sin)/(4 pi): 4 / (4 pi)^3 int (2 + sin) cos^2 = 8 pi / (4 pi)^3.
    assert (1 * PowerEntropy(2.0)).dissipation(wave) == pytest.approx(8 * math.pi / (4 * math.pi) ** 3, rel=1e-3)
    # At the minimizer nothing moves, wherever V would push empty cells.
    energy = PowerEntropy(0.5) + wg.Entropy(1.0) + wg.Potential(lambda x: x**2)
    rest = wg.Density.from_values(grid, np.where(np.abs(grid.centers[0]) < 0.5, 1.0, 0.0))
    assert math.isfinite(energy.dissipation(rest))


def test_radius_and_plane_agree():
    # int p^2 over the plane is int (rho / w)^2 w dr with w = 2 pi r: the weight carries the constant.
    radius = wg.Grid([(0, 6)], cells=1500)
    radius = wg.Grid([(0, 6)], cells=1500,
                     log_weight=log_power_cell_average(radius.edges[0], 1) + math.log(2 * math.pi))
    rho = wg.Density.from_function(radius, lambda r: r * np.exp(-(r**2) / 2))
    plane = wg.Grid([(-6, 6)] * 2, cells=(300, 300))
    flat = wg.Density.gaussian(plane, (0, 0), 1.0)
    for m in (0.8, 2.0, 3.0):
        assert PowerEntropy(m)(rho) == pytest.approx(PowerEntropy(m)(flat), rel=2e-3)
    assert PowerEntropy(2.0)(rho) == pytest.approx(1 / (4 * math.pi), rel=1e-5)


def test_large_weights_do_not_overflow():
    edges = np.linspace(0, 30, 201)
    grid = wg.Grid([(0, 30)], cells=200, log_weight=log_power_cell_average(edges, 319))
    rho = wg.Density.from_log_function(grid, lambda r: 319 * np.log(np.maximum(r, 1e-9)) - r**2 / 2)
    with np.errstate(all="raise", under="ignore"):
        assert math.isfinite(PowerEntropy(1.1)(rho))
        assert math.isfinite(PowerEntropy(0.9)(rho))


def test_tends_to_the_entropy():
    grid = wg.Grid([(-5, 5)], cells=200)
    rho = wg.Density.gaussian(grid, 0.3, 0.7)
    m = 1 + 1e-6
    assert PowerEntropy(m)(rho) - rho.mass / (m - 1) == pytest.approx(wg.Entropy(1.0)(rho), abs=1e-5)


def test_terms_add_and_scale():
    grid = wg.Grid([(0, 1)], cells=8)
    rho = wg.Density.uniform(grid)
    assert (3 * PowerEntropy(2.0))(rho) == pytest.approx(3.0)
    assert repr(3 * PowerEntropy(2.0) + wg.Entropy(2)) == "3*PowerEntropy(m=2) + Entropy(beta=2)"
    parts = (3 * PowerEntropy(2.0) + wg.Entropy(2)).assemble(grid)
    assert [(factor, term.m) for factor, term in parts.internal] == [(3.0, 2.0)]
    assert parts.diffusion == 0.5
    with pytest.raises(wg.InvalidInput, match="backward diffusion"):
        -1 * PowerEntropy(2.0)


@pytest.mark.parametrize(("m", "words"), [(1, "m=1 is the entropy.*Entropy"), (1.0, "m=1 is the entropy"),
                                          (0, "m=0"), (-2, "> 0"), (math.nan, "finite"), (math.inf, "finite")])
def test_bad_exponents(m, words):
    with pytest.raises(wg.InvalidInput, match=words):
        PowerEntropy(m)


@pytest.mark.parametrize("m", [True, "2", None, 2j, np.array([2.0])])
def test_exponents_of_other_kinds(m):
    with pytest.raises(TypeError, match="m must be a number"):
        PowerEntropy(m)


def test_lost_mass_is_pointed_out():
    grid = wg.Grid([(-1, 1)] * 3, cells=4)
    with pytest.warns(wg.WGFlowWarning, match=r"m_c = 0.333"):
        (1 * PowerEntropy(0.3)).assemble(grid)


def test_atoms_have_no_internal_energy():
    from wgflow.atoms import Atoms

    with pytest.raises(wg.InvalidInput, match=r"Atoms.*Density\.from_samples"):
        PowerEntropy(2.0).energy(Atoms(np.array([[0.0, 1.0]]), np.array([0.5, 0.5])))
