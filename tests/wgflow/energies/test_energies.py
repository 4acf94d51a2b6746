"""Terms: values against quadrature, first variations against differences, the algebra of sums, dissipation = -dF/dt."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow import Density, Entropy, FreeEnergy, Grid, Interaction, Potential

GRIDS = {
    "line": Grid((-3, 3), cells=50),
    "graded": Grid(edges=3 * np.linspace(-1, 1, 41) ** 3),
    "weighted": Grid((0, 3), cells=50, log_weight=wg.grids.log_power_cell_average(np.linspace(0, 3, 51), 9)),
    "plane": Grid([(-3, 3), (-2, 2)], cells=(16, 14), boundary=("no-flux", "periodic")),
    "box": Grid([(-1, 1)] * 3, cells=(5, 6, 4)),
}


def V(*x):
    return sum(np.cos(2 * a) + 0.1 * a**2 for a in x)


def U(*points):
    half = len(points) // 2
    # Of period 4, which is that of the periodic axis.
    apart = sum(np.sin(np.pi / 4 * (a - b)) ** 2 for a, b in zip(points[:half], points[half:]))
    return -np.exp(-apart) + points[0] * points[half]


def terms():
    return {"entropy": Entropy(3.0), "potential": Potential(V), "interaction": Interaction(U),
            "sum": Entropy(3.0) + Potential(V) + 2 * Interaction(U)}


def density(grid, rng):
    return Density(grid, rng.uniform(0.2, 1.0, grid.shape))


# ---------------------------------------------------------------- values
def test_the_entropy_of_a_gaussian():
    # int rho log rho = -log(2 pi e s) / 2, and its difference to the grid's is of second order.
    rho = Density.gaussian(Grid((-10, 10), cells=2000), 0.0, 1.5)
    assert Entropy(2.0)(rho) == pytest.approx(-0.25 * math.log(2 * math.pi * math.e * 1.5), abs=1e-5)


def test_potential_and_interaction_energies_of_a_gaussian():
    rho = Density.gaussian(Grid((-10, 10), cells=1000), 0.7, 0.5)
    h2 = 0.02**2 / 12
    assert Potential(lambda x: x**2 / 2)(rho) == pytest.approx((0.7**2 + 0.5 + h2) / 2, rel=1e-9)
    # The factor one half: 1/2 int int (x - y)^2 / 2 = var / 2.
    assert Interaction(lambda x, y: (x - y) ** 2 / 2)(rho) == pytest.approx((0.5 + h2) / 2, rel=1e-9)
    assert Interaction(lambda x, y: x * y)(rho) == pytest.approx(0.7**2 / 2, rel=1e-9)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_values_by_plain_sums(grid, rng):
    rho = density(grid, rng)
    m = rho.masses.ravel()
    w = 0.0 if grid.log_weight is None else grid.log_weight
    expected = {"entropy": float((rho.masses * (np.log(rho.values) - w)).sum() / 3),
                "potential": float((rho.masses * V(*grid.mesh())).sum())}
    points = [x.ravel() for x in grid.mesh()]
    table = U(*(x[:, None] for x in points), *(x[None, :] for x in points))
    expected["interaction"] = float(m @ table @ m) / 2
    expected["sum"] = expected["entropy"] + expected["potential"] + 2 * expected["interaction"]
    for name, term in terms().items():
        assert term(rho) == pytest.approx(expected[name], rel=1e-11, abs=1e-12)
        assert term(rho) == term.energy(rho)


def test_an_empty_cell_has_no_entropy():
    grid = GRIDS["line"]
    values = np.zeros(50)
    values[10] = 1 / 0.12
    rho = Density(grid, values)
    assert Entropy(1.0)(rho) == pytest.approx(math.log(1 / 0.12), rel=1e-13)
    assert np.isfinite(Entropy(1.0).first_variation(rho)).all()


# ---------------------------------------------------------------- first variations
@pytest.mark.parametrize("name", ["entropy", "potential", "interaction", "sum"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_first_variations_against_differences(grid, name, rng):
    # d/de F(rho + e phi) at e = 0 is int dF/drho phi, for phi of mass 0; central differences of order 4.
    term, rho = terms()[name], density(grid, rng)
    phi = rng.normal(size=grid.shape)
    phi -= (phi * grid.volumes).sum() / grid.volumes.sum()

    def along(e):
        return term(Density(grid, rho.values + e * phi))

    e = 1e-3 * 0.2 / np.abs(phi).max()
    difference = (8 * (along(e) - along(-e)) - (along(2 * e) - along(-2 * e))) / (12 * e)
    exact = float((term.first_variation(rho) * phi * grid.volumes).sum())
    assert abs(exact) > 1e-6
    assert difference == pytest.approx(exact, rel=1e-6, abs=1e-8)
    assert term.first_variation(rho).shape == grid.shape


# ---------------------------------------------------------------- dissipation
@pytest.mark.parametrize("order", [2, None])
@pytest.mark.parametrize("beta", [0.5, 3.0, 100.0, math.inf])
@pytest.mark.parametrize("grid", [GRIDS[k] for k in ("line", "graded", "weighted", "plane", "box")], ids=GRIDS)
def test_dissipation_is_the_rate_at_which_the_energy_falls(grid, beta, order):
    # Exactly that of the finite-volume equations: F along very short steps, extrapolated to zero length.
    energy = Entropy(beta) + Potential(V) + Interaction(U)
    x = grid.mesh()
    rho = Density(grid, 1.5 + np.prod([np.sin(2 * a + 0.3) for a in x], axis=0))
    before = wg.solve(energy, rho, (0, 1e-8), method=wg.FiniteVolume(dt=1e-8, order=order)).densities[0]
    dissipation = energy.dissipation(before)
    assert dissipation > 1e-3

    def slope(dt):
        after = wg.solve(energy, before, (0, dt), method=wg.FiniteVolume(dt=dt, order=order)).final
        return (energy(before) - energy(after)) / dt

    dt = 2e-8  # short enough for the narrowest cells, long enough for the digits of the energy
    extrapolated = 2 * slope(dt) - slope(2 * dt)
    assert extrapolated == pytest.approx(dissipation, rel=1e-4)


def test_the_dissipation_tends_to_its_integral():
    # V = x^2 / 2, beta = 1, N(m, s): int rho (x + (log rho)')^2 = m^2 + s (1 - 1/s)^2.
    m, s = 0.8, 0.5
    exact, errors = m * m + s * (1 - 1 / s) ** 2, []
    for n in (100, 200, 400):
        grid = Grid((-7, 7), cells=n)
        energy = Entropy(1.0) + Potential(lambda x: x**2 / 2)
        errors.append(abs(energy.dissipation(Density.gaussian(grid, m, s)) - exact))
    assert errors[-1] < 2e-3
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(2.0, abs=0.3)


# ---------------------------------------------------------------- algebra
def test_terms_add_and_scale(rng):
    grid = GRIDS["plane"]
    rho = density(grid, rng)
    a, b, c = Entropy(2.0), Potential(V), Interaction(U)
    total = a + b + 3 * c
    assert isinstance(total, FreeEnergy)
    assert total(rho) == pytest.approx(a(rho) + b(rho) + 3 * c(rho), rel=1e-13)
    for same in (b + a + c * 3, a + (b + 3 * c), sum([a, b, c, c, c]), 0.5 * (2 * total)):
        assert same(rho) == pytest.approx(total(rho), rel=1e-13)
        np.testing.assert_allclose(same.first_variation(rho), total.first_variation(rho), rtol=1e-12, atol=1e-12)
        assert same.dissipation(rho) == pytest.approx(total.dissipation(rho), rel=1e-12)
    assert (total + (-1.0) * Potential(V))(rho) == pytest.approx(a(rho) + 3 * c(rho), rel=1e-12, abs=1e-12)
    assert repr(total) == "Entropy(beta=2) + Potential(V) + 3*Interaction(U)"


def test_entropies_add_their_temperatures():
    assert (Entropy(2.0) + Potential(V)).beta == 2.0
    assert (Entropy(2.0) + Entropy(2.0)).beta == 1.0
    assert (3 * Entropy(6.0)).beta == 2.0
    assert (Entropy(math.inf) + Potential(V)).beta == math.inf
    assert FreeEnergy([(1.0, Potential(V))]).beta == math.inf


@pytest.mark.parametrize("bad", ["2", None, True, [1.0]])
def test_only_numbers_scale_a_term(bad):
    with pytest.raises(TypeError):
        bad * Potential(V)
    with pytest.raises(TypeError):
        Entropy(1.0) + bad


def test_one_term_serves_many_grids(rng):
    potential, interaction = Potential(V), Interaction(U)
    for _ in range(2):
        for name in ("line", "plane", "line", "graded"):
            rho = density(GRIDS[name], rng)
            assert potential.first_variation(rho).shape == rho.grid.shape
            assert interaction(rho) == pytest.approx(Interaction(U)(rho), rel=1e-13)
