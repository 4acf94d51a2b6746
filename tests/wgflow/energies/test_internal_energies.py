"""Internal energies: H and its derivatives, conjugates, values on grids; a user's H; relative entropies."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wgflow as wg
from wgflow.energies.internal_energies import InternalEnergy, PowerEntropy, RelativeEntropy, check_convex
from wgflow.grids import log_power_cell_average

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


# ---------------------------------------------------------------- a user's H
def own(m=2.0, **options):
    return InternalEnergy(lambda r: r**m / (m - 1), lambda r: m / (m - 1) * r ** (m - 1), lambda r: m * r ** (m - 2),
                          **options)


@given(m=EXPONENTS)
def test_a_users_H_has_what_a_power_has(m):
    a, b, r = own(m), PowerEntropy(m), np.geomspace(1e-4, 50, 40)
    for name in ("H", "derivative", "second_derivative", "pressure"):
        np.testing.assert_allclose(getattr(a, name)(r), getattr(b, name)(r), rtol=1e-12)
    p = b.derivative(np.geomspace(1e-2, 10, 15))
    np.testing.assert_allclose(a.inverse_derivative(p), b.inverse_derivative(p), rtol=1e-9)
    np.testing.assert_allclose(a.conjugate(p), b.conjugate(p), rtol=1e-8, atol=1e-9)
    grid = wg.Grid([(0, 3)], cells=30, log_weight=np.linspace(-1, 1, 30))
    rho = wg.Density.from_function(grid, lambda x: 1 + x)
    assert a(rho) == pytest.approx(b(rho), rel=1e-12)
    np.testing.assert_allclose(a.first_variation(rho), b.first_variation(rho), rtol=1e-12)


def test_a_users_H_beyond_its_range():
    porous, fast = own(2.0), own(0.5)
    assert porous.inverse_derivative(-1.0) == 0.0
    assert porous.conjugate(-1.0) == pytest.approx(0.0, abs=1e-300)
    assert fast.inverse_derivative(0.1) == math.inf
    assert fast.conjugate(0.1) == math.inf
    constant = InternalEnergy(lambda r: r**2, lambda r: 2 * r, lambda r: 2.0)
    assert constant.second_derivative(np.ones(3)).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("functions", "words"), [
    ((lambda r: -(r**2), lambda r: -2 * r, lambda r: -2 + 0 * r), r"H2\(.*\)=-2: H must be convex"),
    ((lambda r: r**2 - r**4, lambda r: 2 * r - 4 * r**3, lambda r: 2 - 12 * r**2), r"H2\(100\)=-119998: H must be"),
    ((lambda r: r**2, lambda r: 3 * r, lambda r: 3 + 0 * r), r"H1\(.*\)=.*, but H has the slope .* there"),
    ((lambda r: r**2, lambda r: 2 * r, lambda r: r), r"H2\(.*\)=.*, but H1 has the slope 2 there"),
    ((lambda r: 1 / (r - r), lambda r: r, lambda r: r), r"H\(1e-06\)=inf: H, H1 and H2 must be finite"),
    ((lambda r: np.exp(20 * r), lambda r: 20 * np.exp(20 * r), lambda r: 400 * np.exp(20 * r)), "lower up_to"),
    ((lambda r: 1 / 0, lambda r: r, lambda r: r), "H raised ZeroDivisionError"),
    ((lambda r: r[:3], lambda r: r, lambda r: r), r"H returned shape \(3,\)"),
])
def test_bad_functions(functions, words):
    with pytest.raises(wg.InvalidInput, match=words):
        InternalEnergy(*functions)


@pytest.mark.parametrize(("arguments", "options", "error", "words"), [
    ((2.0, np.sin, np.cos), {}, TypeError, "H must be a function"),
    ((np.sin, np.sin, None), {}, TypeError, "H2 must be a function"),
    ((np.exp, np.exp, np.exp), {"up_to": "3"}, TypeError, "up_to must be a number"),
    ((np.exp, np.exp, np.exp), {"up_to": 0.0}, ValueError, "up_to=0"),
    ((np.exp, np.exp, np.exp), {"up_to": math.inf}, ValueError, "up_to=inf"),
])
def test_bad_arguments(arguments, options, error, words):
    with pytest.raises(error, match=words):
        InternalEnergy(*arguments, **options)


def test_a_kink_in_H_is_no_fault():
    # Pressure of congestion: none below density 1.
    soft = InternalEnergy(lambda r: np.maximum(r - 1, 0) ** 2, lambda r: 2 * np.maximum(r - 1, 0),
                          lambda r: np.where(r > 1, 2.0, 0.0))
    grid = wg.Grid([(-2, 2)], cells=80)
    rho = wg.Density.gaussian(grid, 0.0, 0.02)
    sol = wg.solve(soft, rho, (0, 20))
    assert sol.certificate.ok
    assert rho.values.max() > 2.5
    assert sol.final.values.max() < 1.01


# ---------------------------------------------------------------- relative entropy
def test_relative_entropy_of_normal_laws():
    grid = wg.Grid([(-10, 10)], cells=2000)
    prior, rho = wg.Density.gaussian(grid, 0.5, 2.0), wg.Density.gaussian(grid, -1.0, 0.5)
    exact = 0.5 * (0.5 / 2.0 + 1.5**2 / 2.0 - 1 + math.log(2.0 / 0.5))
    assert RelativeEntropy(prior)(rho) == pytest.approx(exact, rel=1e-4)
    assert RelativeEntropy(prior, beta=4.0)(rho) == pytest.approx(exact / 4, rel=1e-4)
    assert (4 * RelativeEntropy(prior, beta=4.0))(rho) == pytest.approx(exact, rel=1e-4)
    assert RelativeEntropy(prior)(prior) == pytest.approx(0.0, abs=1e-13)
    assert RelativeEntropy(prior).beta == 1.0
    assert np.ptp(RelativeEntropy(prior).first_variation(prior)) < 1e-12

    def density(x):
        return np.exp(-((x - 0.5) ** 2) / 4) / math.sqrt(4 * math.pi)

    assert RelativeEntropy(density)(rho) == pytest.approx(exact, rel=1e-4)
    assert repr(RelativeEntropy(density, 2)) == "RelativeEntropy(density, beta=2)"


def test_relative_entropy_on_a_weighted_grid():
    weight = log_power_cell_average(np.linspace(0, 4, 81), 2)
    grid = wg.Grid([(0, 4)], cells=80, log_weight=weight)
    prior = wg.Density.from_values(grid, np.exp(weight - grid.centers[0] ** 2), normalize=True)
    rho = wg.Density.from_function(grid, lambda r: r**2 * np.exp(-r))
    kl = float((rho.masses * np.log(rho.values / prior.values)).sum())
    assert RelativeEntropy(prior)(rho) == pytest.approx(kl, rel=1e-12)
    relative = RelativeEntropy(lambda r: np.exp(-(r**2)))
    # A factor of the reference shifts the energy by a constant.
    gap = RelativeEntropy(prior)(rho) - relative(rho)
    assert RelativeEntropy(prior)(prior) - relative(prior) == pytest.approx(gap, rel=1e-10)


def test_bad_references():
    grid = wg.Grid([(0, 1)], cells=4)
    with pytest.raises(wg.InvalidInput, match=r"reference is 0 in cell \(1,\) and 2 cells in all"):
        RelativeEntropy(wg.Density.from_values(grid, [1.0, 0, 0, 1]))
    with pytest.raises(TypeError, match="reference must be a Density or a function, got float"):
        RelativeEntropy(1.0)
    with pytest.raises(wg.InvalidInput, match="beta=inf: the relative entropy would vanish"):
        RelativeEntropy(wg.Density.uniform(grid), beta=math.inf)
    with pytest.raises(wg.InvalidInput, match="reference lives on"):
        RelativeEntropy(wg.Density.uniform(grid))(wg.Density.uniform(wg.Grid([(0, 2)], cells=4)))
    with pytest.raises(wg.InvalidInput, match=r"reference is -0\.5.* somewhere; it must be positive"):
        RelativeEntropy(lambda x: x - 0.625)(wg.Density.uniform(grid))
    with pytest.raises(wg.InvalidInput, match="backward diffusion"):
        -1 * RelativeEntropy(wg.Density.uniform(grid))


# ---------------------------------------------------------------- what is refused, and where it is said to be
def test_functions_of_the_density_return_one_value_for_each():
    def two(r):
        return np.full((2, *np.shape(r)), 1.0)

    for wrong in (two, lambda r: r[:1]):
        with pytest.raises(wg.InvalidInput, match="H2 returned shape"):
            wg.InternalEnergy(lambda r: r**2, lambda r: 2 * r, wrong)
    square = wg.InternalEnergy(lambda r: r**2, lambda r: 2 * r, lambda r: 2.0)
    assert square.second_derivative([0.0, 1.0, 5.0]).tolist() == [2.0, 2.0, 2.0]


def test_fast_diffusion_is_warned_of_from_the_critical_exponent_down():
    grids = {n: wg.Grid([(0, 1)] * n, cells=4, boundary="no-flux") for n in (1, 2, 4)}
    for n, least in ((1, 0.01), (2, 0.01), (4, 0.51)):  # m_c = (n - 2) / n
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wg.PowerEntropy(least).on_grid(grids[n])
            wg.PowerEntropy(2.0).on_grid(grids[n])
    for m in (0.5, 0.3):
        with pytest.warns(wg.WGFlowWarning, match="m_c = 0.5"):
            wg.PowerEntropy(m).on_grid(grids[4])


def test_a_relative_entropy_is_taken_to_a_probability_law():
    grid = wg.Grid((0, 1), cells=4, boundary="no-flux")
    for mass in (2.0, 0.5, 1 + 1e-6):
        with pytest.raises(wg.InvalidInput, match="its mass is"):
            RelativeEntropy(wg.Density(grid, np.full(4, mass)))
    assert RelativeEntropy(wg.Density(grid, np.full(4, 1 + 1e-12)))(wg.Density.uniform(grid)) == (
        pytest.approx(0.0, abs=1e-11))


def test_the_density_at_which_convexity_is_lost_is_named():
    r = np.array([1.0, 2.0, 3.0, 4.0])
    for second, named in (([1.0, -1.0, -3.0, 2.0], "3"), ([1.0, math.nan, -3.0, 2.0], "2")):
        with pytest.raises(wg.InvalidInput, match=rf"H2\({named}\)="):
            check_convex(r, np.array(second), "H2")
    check_convex(r, np.zeros(4), "H2")
