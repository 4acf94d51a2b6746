"""Stationary states: the dual certificate, all branches against exact ones, and the flow that does not leave them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow import ConvergenceError, InvalidInput
from wgflow.activations import NonMonotone
from wgflow.errors import InvalidType
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solvers.stationary import Stationary, stationary, stationary_branches
from wgflow.solvers.stationary.dual_newton import factorize, is_convex, least_curvature
from wgflow.solvers.stationary.fixed_point import GibbsProblem, descend, find_root
from wgflow.validation.exact import DesaiZwanzig, Kuramoto

LINE = wg.Grid((-3, 3), cells=120)
PLANE = wg.Grid([(-3, 3), (-2, 2)], cells=(40, 30))


def bowl(*x):
    return sum(0.5 * a * a for a in x)


def wells(*x):
    return sum(a**4 / 4 - a**2 / 2 for a in x)


def boltzmann(energy, rho):
    """w exp(-beta Psi(rho)) M / Z, written out once more with the energy's own first variation."""
    psi = energy.first_variation(rho) - np.log(np.maximum(rho.masses, 5e-324)) / energy.beta
    log_masses = -energy.beta * psi  # the entropy's first variation brings the reference measure
    masses = np.exp(log_masses - log_masses.max())
    return masses * (rho.mass / masses.sum())


def self_consistency(energy, rho):
    return float(np.abs(rho.masses - boltzmann(energy, rho)).sum()) / rho.mass


def motion(energy, rho, steps=200, dt=0.1):
    """How far a finite-volume flow moves from a state: L1, and relative in each cell that holds 1e-250 or more."""
    final = wg.solve(energy, rho, (0, steps * dt), method=wg.FiniteVolume(dt=dt)).final
    seen = rho.values > 1e-250
    return (float(np.abs(final.masses - rho.masses).sum()) / rho.mass,
            float(np.abs(final.values[seen] / rho.values[seen] - 1).max()))


def random_energy(rng, beta, grid, rank, signs=None):
    x = grid.mesh()
    features = np.array([sum(c * np.cos(k * a + p) for k, (c, p, a) in enumerate(zip(rng.normal(size=6),
                         6 * rng.random(6), [*x] * 6), 1)) for _ in range(rank)])
    V = 2 * rng.normal() * np.cos(np.pi * x[0] / 3) + rng.normal() * np.sin(np.pi * x[0])
    return wg.Entropy(beta) + wg.Potential(V) + wg.LowRank(features, signs)


# -------------------------------------------------------------------- no interaction
@pytest.mark.parametrize("beta", [1e-3, 1.0, 50.0, 1e5])
@pytest.mark.parametrize("V", [bowl, wells])
@pytest.mark.parametrize("grid", [LINE, PLANE, wg.Grid(edges=3 * np.linspace(-1, 1, 80) ** 3)],
                         ids=["line", "plane", "graded"])
def test_without_interaction_it_is_the_gibbs_law(grid, V, beta):
    star = stationary(wg.Entropy(beta) + wg.Potential(V), grid)
    values = V(*grid.mesh())
    masses = np.exp(-beta * (values - values.min())) * grid.volumes
    assert star.method == "closed form"
    assert star.stable
    np.testing.assert_allclose(star.density.masses, masses / masses.sum(), rtol=1e-13 * (1 + beta), atol=1e-300)
    assert star.energy == pytest.approx(values.min() - math.log(masses.sum()) / beta, abs=1e-12 * (1 + 1 / beta))
    assert star.dual_value == pytest.approx(star.energy, abs=1e-12 * (1 + 1 / beta))


def test_an_ornstein_uhlenbeck_law_is_gaussian():
    grid = wg.Grid((-9, 9), cells=600)
    star = stationary(wg.Entropy(2.0) + wg.Potential(lambda x: 1.5 * (x - 0.5) ** 2), grid)
    # Sums over equal cells of a Gaussian are exact to rounding.
    assert star.density.mean() == pytest.approx(0.5, abs=1e-13)
    assert star.density.cov() == pytest.approx(1 / 6, abs=1e-13)


# -------------------------------------------------------------------- the network model
#: By an independent quadrature.
LEAST_ENERGY = -0.1042043091


def isotropic(cells, tolerance=1e-10, **options):
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2, tolerance=tolerance)
    energy = model.energy(beta=100.0, ridge=0.01)
    star = stationary(energy, model.grid(cells=cells, beta=100.0, ridge=0.01), **options)
    return model, energy, star


def test_the_noisy_network_reaches_the_values_of_an_independent_quadrature():
    rows = []
    for cells in (2000, 4000, 8000):
        model, _, star = isotropic(cells, tolerance=1e-13)
        assert star.method == "dual"
        assert star.residual <= 1e-13
        assert star.gap <= 1e-12
        assert abs(star.energy - star.dual_value) <= 1e-12
        rows.append([star.energy, model.risk(star.density), star.density.mean()])
    coarse, middle, fine = np.array(rows)
    expected = np.array([LEAST_ENERGY, 0.075357386, 2.486985668])
    assert np.log2((coarse - middle) / (middle - fine)) == pytest.approx(2.0, abs=0.01)  # second order
    first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    assert (np.abs((16 * second - first) / 15 - expected) <= [1e-10, 1e-9, 1e-9]).all()


def test_every_start_and_method_gives_the_same_state():
    model, energy, star = isotropic(500)
    grid = star.density.grid
    for kappa in (0.3, 2.5):
        for method in ("auto", "fixed-point"):
            other = stationary(energy, grid, rho0=model.initial_density(kappa, grid), method=method)
            assert np.abs(other.density.masses - star.density.masses).sum() <= 1e-11
            assert other.energy == pytest.approx(star.energy, abs=1e-14)


def test_the_flow_does_not_leave_the_state_and_falls_to_its_energy():
    model, energy, star = isotropic(400)
    assert max(motion(energy, star.density)) <= 1e-12
    start = model.initial_density(0.8, star.density.grid)
    sol = wg.solve(energy, start, (0, 400), time_scale=model.time_scale, method=wg.FiniteVolume(order=2))
    assert (sol.history.energy >= star.energy - 1e-12).all()
    assert sol.energy[-1] == pytest.approx(star.energy, abs=1e-8)
    assert sol.energy[-1] - star.energy < 1e-7 * (sol.energy[0] - star.energy)
    # By fluxes of fourth order the state is another one, nearer to the truth.
    sol = wg.solve(energy, start, (0, 400), time_scale=model.time_scale, method=wg.FiniteVolume(order=4))
    assert sol.dissipation[-1] < 1e-14
    assert abs(sol.energy[-1] - LEAST_ENERGY) < 0.1 * abs(star.energy - LEAST_ENERGY)


@pytest.mark.parametrize("beta", [1e-3, 1.0, 100.0, 1e4, 1e5])
def test_weights_of_320_dimensions_and_any_temperature(beta):
    model = IsotropicGaussian(d=320, tau_plus2=1.5, tau_minus2=0.5, activation=NonMonotone())
    energy = model.energy(beta=beta, ridge=0.01)
    star = stationary(energy, model.grid(cells=400, r_max=12.0))
    assert np.isfinite([star.energy, star.residual]).all()
    assert star.residual <= 1e-13 * (1 + beta)
    assert 0 <= star.gap <= 1e-12
    assert abs(star.energy - star.dual_value) <= 1e-13 * (1 + 1e4 / beta)
    assert self_consistency(energy, star.density) <= 1e-13 * (10 + beta)


def test_the_energy_falls_to_the_noiseless_infimum_as_beta_grows():
    # r* = 1.555 alone is optimal at Delta = .5, with risk .2467732089; F = R/2 at beta = infinity.
    model = IsotropicGaussian(d=40, delta=0.5)
    grid = model.grid(cells=2000, r_max=4.0)
    risks = [model.risk(stationary(model.energy(beta=beta), grid).density) for beta in (1e4, 1e5, 1e6, 1e7)]
    assert (np.diff(risks) < 0).all()
    assert risks[-1] == pytest.approx(0.2467732089, abs=1e-4)


# -------------------------------------------------------------------- several branches
@pytest.mark.parametrize("beta", [3.0, 4.0, 10.0])
def test_desai_zwanzig_has_three_states_below_the_critical_temperature(beta):
    problem = DesaiZwanzig(beta=beta)
    energy, grid = problem.energy(), problem.grid(300)
    branches = stationary_branches(energy, grid)
    assert [b.stable for b in branches] == [True, True, False]
    ordered, disordered = problem.stationary("ordered"), problem.stationary("disordered")
    means = [b.density.mean() for b in branches]
    assert sorted(means) == pytest.approx([-ordered["mean"], 0, ordered["mean"]], abs=1e-10)
    assert [b.energy for b in branches] == pytest.approx([ordered["energy"]] * 2 + [disordered["energy"]], abs=1e-10)
    assert branches[0].density.cov() == pytest.approx(ordered["variance"], abs=1e-10)
    for branch in branches:
        assert branch.gap is None
        assert branch.dual_value is None
        assert branch.residual <= 1e-12
        assert (branch.curvature > 0) == branch.stable
        # Also the unstable one is a fixed point, for as long as rounding has not grown.
        assert max(motion(energy, branch.density, steps=20)) <= 1e-12
    assert np.abs(branches[0].density.values - branches[1].density.values[::-1]).max() <= 1e-10


def test_known_values_of_the_ordered_branch():
    problem = DesaiZwanzig(coupling=1.0, beta=4.0)
    star = stationary(problem.energy(), problem.grid(300))
    assert abs(star.density.mean()) == pytest.approx(0.787550406844, abs=1e-10)
    assert star.energy == pytest.approx(-0.193501319059, abs=1e-10)
    assert star.stable


def test_desai_zwanzig_has_one_state_above_the_critical_temperature():
    problem = DesaiZwanzig(beta=2.0)
    assert problem.beta < problem.critical_beta()
    (only,) = stationary_branches(problem.energy(), problem.grid(200))
    assert only.stable
    assert only.density.mean() == pytest.approx(0, abs=1e-12)


def test_the_least_curvature_changes_sign_at_the_critical_temperature():
    critical = DesaiZwanzig().critical_beta()
    for factor, sign in ((0.99, 1), (1.01, -1)):
        problem = DesaiZwanzig(beta=factor * critical)
        rho0 = problem.stationary_density(problem.grid(200), "disordered")
        star = stationary(problem.energy(), rho0.grid, rho0=rho0)
        assert star.density.mean() == pytest.approx(0, abs=1e-8)
        assert np.sign(star.curvature) == sign
        assert abs(star.curvature) < 0.05


def test_the_start_decides_where_there_are_two_minima():
    problem = DesaiZwanzig(beta=4.0)
    grid = problem.grid(200)
    for side in (-1, 1):
        star = stationary(problem.energy(), grid, rho0=wg.Density.gaussian(grid, 0.2 * side, 0.3))
        assert star.density.mean() == pytest.approx(side * problem.stationary_mean(), abs=1e-10)
    # Newton's method on the self-consistency equation goes to what is near, a saddle too.
    saddle = stationary(problem.energy(), grid, rho0=wg.Density.gaussian(grid, 0.01, 0.5), method="dual")
    assert saddle.density.mean() == pytest.approx(0, abs=1e-10)
    assert saddle.method == "root"
    assert saddle.stable is False
    assert "saddle" in saddle.explain()


@pytest.mark.parametrize(("coupling", "count"), [(0.5, 1), (0.95, 1), (1.05, 2), (2.0, 2), (10.0, 2)])
def test_kuramoto_on_both_sides_of_the_threshold(coupling, count):
    problem = Kuramoto(coupling=coupling, beta=2.0)
    energy, grid = problem.energy(), problem.grid(128)
    branches = stationary_branches(energy, grid)
    assert len(branches) == count  # the rotations of a cluster are one branch
    exact = problem.stationary()
    star = stationary(energy, grid)
    for found in (branches[0], star):
        assert found.stable
        assert found.energy == pytest.approx(exact["energy"], abs=1e-12)
        assert problem.measure(found.density)["order"] == pytest.approx(exact["order"], abs=1e-7)
    if count == 2:
        assert branches[0].curvature == pytest.approx(0, abs=1e-9)  # rotations cost nothing
        assert branches[1].stable is False
        assert branches[1].curvature == pytest.approx(1 - coupling, abs=1e-12)  # -beta times K/2 - D
        assert np.ptp(branches[1].density.values) <= 1e-12


def test_two_clusters_of_a_bounded_attraction():
    # Far wells and a short-ranged attraction, of no low rank: left, right and split, with saddles between.
    grid = wg.Grid((-3, 3), cells=160)
    energy = wg.Entropy(20.0) + wg.Potential(lambda x: 0.2 * (x * x - 2) ** 2) + wg.Convolution(
        lambda x: -np.exp(-np.abs(x)))
    branches = stationary_branches(energy, grid)
    stable = [b for b in branches if b.stable]
    assert len(stable) >= 2
    assert any(b.stable is False for b in branches)
    assert stable[0].energy == branches[0].energy
    assert sorted(b.density.mean() for b in stable[:2])[0] < -1
    for branch in branches:
        mirrored = branch.density.values[::-1]
        assert any(np.abs(mirrored - other.density.values).max() <= 1e-8 for other in branches)
        assert self_consistency(energy, branch.density) <= 1e-12
    for branch in stable:
        assert max(motion(energy, branch.density, steps=50)) <= 1e-12


def test_given_starts_are_searched():
    problem = DesaiZwanzig(beta=4.0)
    grid = problem.grid(150)
    branches = stationary_branches(problem.energy(), grid, starts=[wg.Density.gaussian(grid, 1.0, 0.1)])
    assert problem.stationary_mean() == pytest.approx(max(b.density.mean() for b in branches), abs=1e-9)
    assert len(stationary_branches(problem.energy(), grid, max_branches=1)) == 1


def test_a_convex_energy_has_one_branch_with_a_gap():
    energy = wg.Entropy(3.0) + wg.Potential(wells) + wg.Convolution(lambda x: np.exp(-x * x))
    (only,) = stationary_branches(energy, LINE)
    assert only.gap <= 1e-14
    assert only.method == "dual"
    assert "only stationary state" in only.explain()


# -------------------------------------------------------------------- forms of the interaction
def test_forms_of_one_kernel_agree():
    x = LINE.centers[0]
    forms = [
        wg.LowRank(np.array([np.cos(x), np.sin(x)])), wg.Convolution(np.cos), wg.Dense(lambda a, b: np.cos(a - b)),
        wg.Interaction(lambda a, b: np.cos(a - b)),
        0.5 * wg.Convolution(np.cos) + 0.5 * wg.Dense(np.cos(x[:, None] - x)),
    ]
    states = [stationary(wg.Entropy(5.0) + wg.Potential(wells) + form, LINE) for form in forms]
    for star in states:
        assert star.method == "dual"
        assert star.gap <= 1e-14
        assert np.abs(star.density.masses - states[0].density.masses).sum() <= 1e-12


@pytest.mark.parametrize("beta", [0.1, 10.0, 1e3, 1e4])
def test_a_convex_kernel_of_no_low_rank_has_a_gap(beta):
    energy = wg.Entropy(beta) + wg.Potential(bowl) + wg.Convolution(lambda x: -np.abs(x))
    star = stationary(energy, LINE)
    assert star.method == "fixed-point"
    assert star.gap <= 1e-14
    assert abs(star.energy - star.dual_value) <= 1e-13 * (1 + 10 / beta)
    assert self_consistency(energy, star.density) <= 1e-13 * (10 + beta)
    assert max(motion(energy, star.density, steps=50)) <= 1e-13 * (10 + beta)
    with pytest.raises(InvalidInput, match="no low-rank form"):
        stationary(energy, LINE, method="dual")


def test_the_noisy_newtonian_gas_tends_to_its_uniform_law():
    # U = |x - y|^2/2 - |x - y| without noise: 1/2 on [-1, 1]; F = 1/2 int int U rho rho = 1/6 - 1/3.
    grid = wg.Grid((-2, 2), cells=800)
    star = stationary(wg.Entropy(2000.0) + wg.Interaction(lambda x: x * x / 2 - np.abs(x)), grid,
                      rho0=wg.Density.gaussian(grid, 0.0, 0.3))
    inside = np.abs(grid.centers[0]) < 0.7
    assert star.density.values[inside] == pytest.approx(0.5, abs=1e-3)
    assert star.energy == pytest.approx(-1 / 6, abs=2e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_two_axes_with_a_convolution(sign):
    energy = wg.Entropy(4.0) + wg.Potential(bowl) + wg.Convolution(lambda x, y: sign * np.exp(-x * x - y * y))
    star = stationary(energy, PLANE)
    assert self_consistency(energy, star.density) <= 1e-13
    assert star.stable
    assert (star.gap is not None) == (sign == 1)
    assert max(motion(energy, star.density, steps=20)) <= 1e-12
    values = star.density.values
    assert np.abs(values - values[::-1]).max() <= 1e-12
    assert np.abs(values - values[:, ::-1]).max() <= 1e-12
    if sign == 1:
        assert star.gap <= 1e-14


def test_a_product_problem_is_the_product_of_its_axes():
    beta = 3.0
    plane = wg.Grid([(-3, 3), (-3, 3)], cells=(60, 60))
    V = wg.Potential(lambda x, y: bowl(x) + bowl(y))
    star = stationary(wg.Entropy(beta) + V + wg.Convolution(lambda x, y: np.cos(x) + np.cos(y)), plane)
    line = wg.Grid((-3, 3), cells=60)
    one = stationary(wg.Entropy(beta) + wg.Potential(bowl) + wg.Convolution(np.cos), line)
    assert np.abs(star.density.values - np.multiply.outer(one.density.values, one.density.values)).max() <= 1e-12
    assert star.energy == pytest.approx(2 * one.energy, abs=1e-12)


def test_mass_is_that_asked_for():
    energy = wg.Entropy(2.0) + wg.Potential(bowl) + wg.Convolution(np.cos)
    heavy = stationary(energy, LINE, mass=2.5)
    assert heavy.density.mass == pytest.approx(2.5, rel=1e-14)
    assert heavy.gap <= 1e-12
    assert abs(heavy.energy - heavy.dual_value) <= 1e-12
    rho0 = wg.Density(LINE, 2.5 * wg.Density.uniform(LINE).values)
    assert np.abs(stationary(energy, LINE, rho0=rho0).density.masses - heavy.density.masses).sum() <= 1e-12
    # F at mass M of U is M times F at mass 1 of M U, and M D log M.
    one = stationary(wg.Entropy(2.0) + wg.Potential(bowl) + 2.5 * wg.Convolution(np.cos), LINE)
    assert np.abs(heavy.density.masses - 2.5 * one.density.masses).sum() <= 1e-12
    assert heavy.energy == pytest.approx(2.5 * one.energy + 2.5 * math.log(2.5) / 2.0, abs=1e-12)


def test_a_reference_measure_acts_as_a_potential():
    beta = 3.0
    x = LINE.centers[0]
    weighted = wg.Grid(edges=[LINE.edges[0]], log_weight=-0.7 * beta * x)
    U = wg.Convolution(lambda x: np.exp(-x * x))
    one = stationary(wg.Entropy(beta) + wg.Potential(bowl) + U, weighted)
    other = stationary(wg.Entropy(beta) + wg.Potential(bowl) + wg.Potential(lambda x: 0.7 * x) + U, LINE)
    assert np.abs(one.density.masses - other.density.masses).sum() <= 1e-12
    assert one.energy == pytest.approx(other.energy, abs=1e-12)


# -------------------------------------------------------------------- properties
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), log_beta=st.floats(-2, 4), rank=st.integers(1, 6), periodic=st.booleans())
def test_random_convex_energies(seed, log_beta, rank, periodic):
    rng = np.random.default_rng(seed)
    grid = wg.Grid((-3, 3), cells=60, boundary="periodic" if periodic else "no-flux")
    beta = 10**log_beta
    energy = random_energy(rng, beta, grid, rank)
    star = stationary(energy, grid)
    scale = 1 + abs(star.energy) + 1 / beta
    assert 0 <= star.gap <= 1e-10
    assert abs(star.energy - star.dual_value) <= 1e-12 * scale
    assert self_consistency(energy, star.density) <= 1e-12 * (1 + beta)
    for power in (1, 8):
        rho = wg.Density.from_values(grid, rng.random(60) ** power, normalize=True)
        assert energy(rho) >= star.energy
        mixed = wg.Density.from_values(grid, 0.99 * star.density.values + 0.01 * rho.values)
        assert energy(mixed) >= star.energy - 1e-14 * scale
    other = stationary(energy, grid, rho0=rho)
    assert np.abs(other.density.masses - star.density.masses).sum() <= 1e-11 * (1 + beta)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), log_beta=st.floats(-1, 2.5), rank=st.integers(1, 4))
def test_random_energies_of_mixed_signs(seed, log_beta, rank):
    rng = np.random.default_rng(seed)
    energy = random_energy(rng, 10**log_beta, LINE, rank, rng.choice([-1.0, 1.0], rank) * rng.random(rank))
    rho0 = wg.Density.from_values(LINE, rng.random(LINE.size), normalize=True)
    star = stationary(energy, LINE, rho0=rho0)
    assert star.energy <= energy(rho0)
    assert self_consistency(energy, star.density) <= 1e-12 * (1 + energy.beta)
    lowest = stationary(energy, LINE)
    assert lowest.stable
    for _ in range(5):
        noise = 1 + 1e-3 * rng.normal(size=LINE.size)
        near = wg.Density.from_values(LINE, lowest.density.values * noise, normalize=True)
        assert energy(near) >= lowest.energy - 1e-13 * (1 + abs(lowest.energy))


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_reflection_and_exchange_of_axes(seed):
    rng = np.random.default_rng(seed)
    plane, swapped = wg.Grid([(-3, 3), (-2, 2)], cells=(20, 15)), wg.Grid([(-2, 2), (-3, 3)], cells=(15, 20))
    V = rng.normal(size=plane.shape)
    width = 0.5 + rng.random()
    energies = [wg.Entropy(2.0) + wg.Potential(v) + wg.Convolution(lambda *x: np.exp(-bowl(*x) / width**2))
                for v in (V, V[::-1], V.T)]
    star, mirrored, turned = (stationary(e, g).density.values for e, g in zip(energies, (plane, plane, swapped)))
    assert np.abs(mirrored - star[::-1]).max() <= 1e-12 * star.max()
    assert np.abs(turned - star.T).max() <= 1e-12 * star.max()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), constant=st.floats(-50, 50))
def test_constants_move_the_energy_alone(seed, constant):
    energy = random_energy(np.random.default_rng(seed), 3.0, LINE, 3)
    star = stationary(energy, LINE)
    lifted = stationary(energy + wg.Potential(lambda x: constant + 0 * x)
                        + wg.LowRank(np.ones((1, LINE.size)), [constant]), LINE)
    assert lifted.gap is not None  # convexity is asked on laws of one mass: a constant kernel of any sign is none
    assert np.abs(lifted.density.masses - star.density.masses).sum() <= 1e-11
    assert lifted.energy == pytest.approx(star.energy + 1.5 * constant, abs=1e-11)


# -------------------------------------------------------------------- the pieces
@pytest.mark.parametrize(("form", "convex"), [
    (wg.Convolution(lambda x: np.exp(-x * x)), True),
    (wg.Convolution(lambda x: -np.exp(-x * x)), False),
    (wg.Convolution(lambda x: -np.abs(x)), True),  # on laws of one mass
    (wg.Convolution(lambda x: x * x), False),
    (wg.Convolution(lambda x: -x * x), True),
    (wg.Convolution(lambda x: np.exp(-np.abs(x))), True),
    (wg.Convolution(lambda x: np.minimum(np.abs(x), 1.0)), False),
    (wg.Dense(lambda x, y: np.minimum(x, y)), True),
    (wg.LowRank(lambda x: np.array([x, x * x]), [1.0, -1.0]), False),
    (wg.LowRank(lambda x: np.array([x, x]), [1.0, -0.5]), True),
])
def test_convexity_is_recognized(form, convex):
    problem = GibbsProblem((wg.Entropy(1.0) + form).assemble(LINE), 1.0)
    assert is_convex(problem, factorize(problem)) is convex
    # Against the spectrum of the kernel, as a table without its mean.
    table = np.stack([problem.interaction(row) for row in np.eye(LINE.size)])
    centered = table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()
    values = np.linalg.eigvalsh(0.5 * (centered + centered.T))
    assert (values[0] >= -1e-12 * np.abs(values).max()) is np.bool_(convex)


def hessian(problem, state):
    """beta times the Hessian of F, seen from the entropy's, on changes of mass 0: a matrix of LINE.size."""
    s = np.sqrt(state.masses / problem.mass)
    table = np.stack([problem.interaction(row) for row in np.eye(problem.size)])
    project = np.eye(problem.size) - np.outer(s, s)
    return np.eye(problem.size) + problem.beta * problem.mass * project @ (s[:, None] * table * s) @ project


@pytest.mark.parametrize("form", [wg.Convolution(lambda x: x * x / 2), wg.Convolution(lambda x: -np.exp(-np.abs(x))),
                                  wg.LowRank(lambda x: np.array([x, np.sin(x)]), [-2.0, 1.0])])
@pytest.mark.parametrize("cells", [120, 450])
def test_the_least_curvature_is_that_of_the_hessian(form, cells):
    grid = wg.Grid((-3, 3), cells=cells)
    problem = GibbsProblem((wg.Entropy(3.0) + wg.Potential(wells) + form).assemble(grid), 1.0)
    state = problem.evaluate(problem.gibbs(problem.potential + 0.3 * grid.centers[0]))
    curvature, mode = least_curvature(problem, state, factorize(problem))
    matrix = hessian(problem, state)
    assert curvature == pytest.approx(np.linalg.eigvalsh(matrix)[0], abs=1e-8)
    w = np.sqrt(state.masses) * mode
    assert np.abs(matrix @ w - curvature * w).max() <= 1e-6 * np.abs(w).max()


def test_descent_lowers_the_energy_and_ends_in_a_minimum(rng):
    problem = GibbsProblem(DesaiZwanzig(beta=6.0).energy().assemble(LINE), 1.0)
    for _ in range(5):
        state = problem.evaluate(3 * rng.normal(size=LINE.size))
        energies = [state.energy]
        while state.residual > 1e-13:
            state, steps = descend(problem, state, 1e-13, 1)
            energies.append(state.energy)
            assert steps == 1
            assert len(energies) < 40
        assert (np.diff(energies) <= state.slack).all()
        assert np.linalg.eigvalsh(hessian(problem, state))[0] > 0


def test_descent_brings_mass_into_cells_that_hold_none():
    # A rough kernel at a temperature where all mass sits in a cell or two: the way down leads over empty cells.
    for seed in range(1, 20, 2):
        rng = np.random.default_rng(seed)
        table = rng.normal(size=(40, 40))
        energy = wg.Entropy(5e3) + wg.Potential(rng.normal(size=40)) + wg.Dense(table + table.T)
        grid = wg.Grid((0, 1), cells=40)
        start = np.zeros(40)
        start[rng.integers(40)] = 1.0
        rho0 = wg.Density.from_values(grid, start, normalize=True)
        star = stationary(energy, grid, rho0=rho0)
        assert star.energy <= energy(rho0)
        assert star.stable
        psi = energy.first_variation(star.density)
        seen = star.density.values > 1e-200
        assert np.ptp(psi[seen]) <= 1e-10
        # Cells without mass have no lower Psi, or mass would flow there.
        assert (psi[~seen] >= psi[seen].min() - 1e-10).all()


def test_deflation_leaves_what_is_known():
    problem = GibbsProblem(DesaiZwanzig(beta=4.0).energy().assemble(LINE), 1.0)
    start = problem.evaluate(problem.gibbs(problem.potential + LINE.centers[0]))
    found = []
    for _ in range(3):
        state, _ = find_root(problem, start, 1e-12, 100, found)
        assert state.residual <= 1e-12
        found.append(state)
    assert sorted((s.masses * LINE.centers[0]).sum() for s in found) == pytest.approx([-0.78755, 0, 0.78755], abs=1e-4)


def test_the_result_is_a_frozen_record():
    star = stationary(wg.Entropy(1.0) + wg.Potential(bowl), LINE)
    assert isinstance(star, Stationary)
    assert star.beta == 1.0
    with pytest.raises(AttributeError):
        star.energy = 0.0
    assert "F - min F" in star.explain()
    page = star._repr_html_()
    assert page.startswith("<pre")
    assert "<" not in page.partition(">")[2].removesuffix("</pre>")


# -------------------------------------------------------------------- bad inputs
CONVEX = wg.Entropy(2.0) + wg.Potential(bowl) + wg.Convolution(np.cos)
NETWORK = IsotropicGaussian(d=40, delta=0.5)


@pytest.mark.parametrize(("energy", "arguments", "error", "words"), [
    (wg.Potential(bowl), {}, InvalidInput, r"beta=infinity.*minimum_risk\(\)"),
    (wg.Entropy(math.inf) + wg.Potential(bowl), {}, InvalidInput, "beta=infinity"),
    (NETWORK.energy(), {"grid": NETWORK.grid(cells=50)}, InvalidInput, "stationary deltas"),
    (bowl, {}, InvalidType, "energy must be a sum of terms"),
    (CONVEX, {"grid": 5}, InvalidType, "grid must be a wgflow.Grid, got int"),
    (CONVEX, {"rho0": np.ones(120)}, InvalidType, "rho0 must be a wgflow.Density, got ndarray"),
    (CONVEX, {"rho0": wg.Density.uniform(wg.Grid((-3, 3), cells=60))}, InvalidInput, "rho0 lives on"),
    (CONVEX, {"rho0": wg.Density.uniform(LINE), "mass": 2.0}, InvalidInput, "rho0 has mass 1.*to have 2"),
    (CONVEX, {"method": "newton"}, InvalidInput, "method='newton': need one of 'auto', 'dual', 'fixed-point'"),
    (CONVEX, {"tolerance": 0.0}, InvalidInput, "tolerance=0.0: must be finite and > 0"),
    (CONVEX, {"tolerance": "tight"}, InvalidType, "tolerance must be a number"),
    (CONVEX, {"tolerance": math.nan}, InvalidInput, "tolerance=nan"),
    (CONVEX, {"max_iterations": 0}, InvalidInput, "max_iterations=0"),
    (CONVEX, {"max_iterations": 2.5}, InvalidType, "max_iterations must be an int"),
    (CONVEX, {"mass": -1.0}, InvalidInput, "mass=-1.0"),
    (CONVEX, {"mass": math.inf}, InvalidInput, "mass=inf"),
    (1e300 * wg.Potential(bowl) + wg.Entropy(1.0), {}, InvalidInput, "beyond what floats resolve"),
    (wg.Entropy(1e300) + wg.Potential(bowl), {}, InvalidInput, "beyond what floats resolve"),
    (wg.Entropy(1.0) + wg.Potential(lambda x: np.log(x)), {}, InvalidInput, "V is nan"),
])
def test_bad_inputs(energy, arguments, error, words):
    with pytest.raises(error, match=words):
        stationary(energy, **{"grid": LINE, **arguments})


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ({"starts": []}, InvalidInput, "starts is empty"),
    ({"starts": wg.Density.uniform(LINE)}, InvalidType, "starts must be a list"),
    ({"starts": [wg.Density.uniform(LINE), 3]}, InvalidType, r"starts\[1\] must be a wgflow.Density"),
    ({"starts": [3]}, InvalidType, "must be a wgflow.Density, got int"),
    ({"max_branches": 0}, InvalidInput, "max_branches=0"),
])
def test_bad_inputs_of_the_search(arguments, error, words):
    with pytest.raises(error, match=words):
        stationary_branches(CONVEX, LINE, **arguments)


@pytest.mark.parametrize("method", ["auto", "fixed-point"])
def test_a_missed_tolerance_keeps_the_best_state(method):
    energy = wg.Entropy(200.0) + wg.Potential(wells) + wg.Convolution(lambda x: np.exp(-x * x))
    with pytest.raises(ConvergenceError, match="max_iterations") as caught:
        stationary(energy, LINE, method=method, max_iterations=1)
    assert caught.value.reason == "tolerance"
    partial = caught.value.partial
    assert partial.residual > 1e-10
    assert partial.density.mass == pytest.approx(1, rel=1e-13)
    assert partial.energy < energy(wg.Density.uniform(LINE))
    assert "missed" in partial.message


def test_no_state_at_all_is_an_error_too():
    problem = DesaiZwanzig(beta=30.0)
    with pytest.raises(ConvergenceError) as caught:
        stationary_branches(problem.energy(), LINE, starts=[wg.Density.gaussian(LINE, 0.4, 0.01)], max_iterations=1)
    assert isinstance(caught.value.partial, Stationary)


def test_inputs_are_left_alone():
    rho0 = wg.Density.gaussian(LINE, 0.5, 0.2)
    before = rho0.values.copy()
    first = stationary(CONVEX, LINE, rho0=rho0)
    again = stationary(CONVEX, LINE, rho0=rho0)
    assert np.array_equal(rho0.values, before)
    assert np.array_equal(first.density.values, again.density.values)
