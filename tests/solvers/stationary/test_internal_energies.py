"""Stationary states of nonlinear diffusion: exact profiles, components, and flows that stay where they start."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import gamma, lambertw

import wgflow as wg
from wgflow import InvalidInput
from wgflow.energies import InternalEnergy
from wgflow.reduced_models.radial_laws import log_sphere_weight
from wgflow.solvers.stationary import stationary, stationary_branches
from wgflow.solvers.stationary.components import fill, find_wells, neighbors
from wgflow.solvers.stationary.dual_newton import factorize, least_curvature
from wgflow.solvers.stationary.internal_laws import InternalProblem, Slope

LINE = wg.Grid((-3, 3), cells=300)


def bowl(*x):
    return sum(0.5 * a * a for a in x)


def wells(x):
    return 4 * (x * x - 1) ** 2


FAST_AND_SLOW = InternalEnergy(lambda r: r**2 - 2 * np.sqrt(r), lambda r: 2 * r - r**-0.5, lambda r: 2 + 0.5 * r**-1.5)
CROWDING = InternalEnergy(lambda r: r * np.log(r) + (1 - r) * np.log(1 - r), lambda r: np.log(r / (1 - r)),
                          lambda r: 1 / r + 1 / (1 - r), up_to=0.99)
SATURATED = InternalEnergy(lambda r: np.maximum(r - 1, 0) ** 2, lambda r: 2 * np.maximum(r - 1, 0),
                           lambda r: 2.0 * (r > 1))


def motion(energy, rho, time=2.0, dt=0.1):
    """How far a finite-volume flow moves from a law, L1 relative to the mass."""
    final = wg.solve(energy, rho, (0, time), method=wg.FiniteVolume(dt=dt)).final
    return float(np.abs(final.masses - rho.masses).sum()) / rho.mass


def rests(energy, star, slack=1e-10):
    """The first variation is constant on the support and no smaller elsewhere, for each component at least."""
    mu, filled = energy.first_variation(star.density).ravel(), star.density.masses.ravel() > 1e-20
    i, j = neighbors(star.density.grid)
    inner = filled[i] & filled[j]
    edge = filled[i] != filled[j]
    full, empty = np.where(filled[i], i, j)[edge], np.where(filled[i], j, i)[edge]
    size = slack * max(1.0, float(np.abs(mu[filled]).max()))
    return bool((np.abs(mu[i] - mu[j])[inner] <= size).all() and (mu[empty] >= mu[full] - size).all())


def parabola(m, d):
    """Constant, radius and energy of the minimizer of int r^m/(m-1) + |x|^2 r/2 on R^d, of mass 1."""
    power = 1 / (m - 1)
    area = 2 * math.pi ** (d / 2) / gamma(d / 2)
    scale = ((m - 1) / m) ** power

    def mass(c):
        # int_0^R (c - r^2/2)^power r^(d-1) dr, a Beta integral in r^2/(2c).
        beta = gamma(d / 2) * gamma(power + 1) / gamma(d / 2 + power + 1)
        return area * scale * c ** (power + d / 2) * 2 ** (d / 2 - 1) * beta

    c = brentq(lambda log_c: math.log(mass(math.exp(log_c))), -10, 10, xtol=1e-14)
    c = math.exp(c)
    # With int H' r + V r = c: m S + W = c for S = int r^m/(m-1), W = int V r; scaling gives (m-1) d S = 2 W.
    S = c / (m + 0.5 * (m - 1) * d)
    return c, math.sqrt(2 * c), S * (1 + 0.5 * (m - 1) * d)


# -------------------------------------------------------------------- exact profiles
def test_the_formula_of_the_parabola_is_that_of_the_literature():
    c, radius, energy = parabola(2, 1)
    assert radius == pytest.approx(1.44224957031, abs=1e-11)
    assert c / 2 == pytest.approx(0.520020955763, abs=1e-11)
    assert energy == pytest.approx(0.624025146916, abs=1e-11)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_power_entropies_in_a_bowl_on_a_line(m):
    c, radius, least = parabola(m, 1)
    misses = []
    for k in range(6):
        # The edge of the support at a fixed place in its cell, since the order is noisy otherwise.
        half, inside = 10 * 2**k, radius / (10 * 2**k - 0.5)
        grid = wg.Grid((-1.2 * half * inside, 1.2 * half * inside), cells=round(2.4 * half))
        energy = wg.PowerEntropy(m) + wg.Potential(bowl)
        star = stationary(energy, grid)
        exact = ((m - 1) / m * np.maximum(c - bowl(grid.centers[0]), 0)) ** (1 / (m - 1))
        misses.append((abs(star.energy - least), np.abs(star.density.values - exact).sum() * grid.widths[0][0]))
        assert star.gap < 1e-28
        assert abs(star.energy - star.dual_value) < 1e-14
        assert (star.method, star.components, star.beta) == ("closed form", pytest.approx([1.0]), math.inf)
        assert rests(energy, star)
    orders = -np.polyfit(np.log(2.0) * np.arange(6), np.log(misses), 1)[0]
    # Near the edge the density is a power 1/(m-1) of the distance.
    assert (orders > min(1.9, 0.95 * (1 + 1 / (m - 1)))).all()
    assert misses[-1][0] < 2e-5
    assert motion(energy, star.density) < 1e-13


@pytest.mark.parametrize(("m", "d"), [(2, 2), (3, 2), (5, 2), (2, 3)])
def test_power_entropies_on_several_axes_and_by_radius(m, d):
    _, _, least = parabola(m, d)
    box = wg.Grid([(-2, 2)] * d, cells={2: 80, 3: 24}[d])
    edges = np.linspace(0, 2.5, 401)
    radial = wg.Grid(edges=[edges], log_weight=log_sphere_weight(edges, d), names=["r"])
    for grid, miss in ((box, 4e-3), (radial, 3e-5)):
        energy = wg.PowerEntropy(m) + wg.Potential(bowl)
        star = stationary(energy, grid)
        assert star.energy == pytest.approx(least, rel=miss)
        assert star.gap < 1e-28
        assert star.boundary_mass == 0
        assert motion(energy, star.density, time=0.5) < 1e-13


def test_entropy_and_power_entropy_together():
    # log r + 2 r = c - x^2/2: r = W(2 e^(c - x^2/2)) / 2 with Lambert's W; its variance by an independent quadrature.
    energy = wg.Entropy(1.0) + wg.PowerEntropy(2) + wg.Potential(bowl)
    variances, energies = [], []
    for cells in (100, 200, 400):
        star = stationary(energy, wg.Grid((-7, 7), cells=cells))
        variances.append(star.density.cov())
        energies.append(star.energy)
        assert "only stationary state" in star.explain()
        assert star.gap < 1e-28
    assert variances[-1] == pytest.approx(1.24762, abs=2e-5)

    def moment(c, k):
        return quad(lambda x: x**k * lambertw(2 * np.exp(c - x * x / 2)).real, 0, 7, epsabs=1e-14)[0]

    c = brentq(lambda c: moment(c, 0) - 1, -5, 5, xtol=1e-13)
    assert variances == pytest.approx([moment(c, 2)] * 3, abs=1e-10)
    (only,) = stationary_branches(energy, wg.Grid((-7, 7), cells=400))
    assert only.density.cov() == variances[-1]
    assert motion(energy, star.density) < 1e-13


@pytest.mark.parametrize("internal", [
    wg.PowerEntropy(1.2), wg.PowerEntropy(0.5), wg.PowerEntropy(0.9), FAST_AND_SLOW, 0.05 * CROWDING,
    pytest.param(0.01 * SATURATED, marks=pytest.mark.slow),
    0.1 * wg.Entropy(2.0) + 3 * wg.PowerEntropy(5) + wg.PowerEntropy(0.7), wg.PowerEntropy(2) + wg.PowerEntropy(4),
    wg.Entropy(50.0) + 0.2 * FAST_AND_SLOW,
], ids=repr)
@pytest.mark.parametrize("V", [bowl, wells])
@pytest.mark.parametrize("grid", [LINE, wg.Grid(edges=3 * np.linspace(-1, 1, 101) ** 3),
                                  wg.Grid((-3, 3), cells=100, boundary="periodic")], ids=["line", "graded", "circle"])
def test_any_internal_energy_gives_a_law_at_rest(internal, V, grid):
    energy = internal + wg.Potential(V)
    star = stationary(energy, grid)
    assert star.residual <= 1e-13
    assert star.gap <= 1e-25 * (1 + abs(star.energy))
    assert star.energy == pytest.approx(star.dual_value, abs=1e-13 * (1 + abs(star.energy)))
    assert star.energy == pytest.approx(energy(star.density), rel=1e-14)
    rng = np.random.default_rng(31)
    for power in (1, 6):
        rho = wg.Density.from_values(grid, rng.random(grid.shape) ** power, normalize=True)
        near = wg.Density.from_values(grid, 0.99 * star.density.values + 0.01 * rho.values)
        # Not a number where the density is one that the energy excludes.
        assert not energy(near) < star.energy - 1e-14 * (1 + abs(star.energy))


@pytest.mark.parametrize("internal", [wg.PowerEntropy(0.5), FAST_AND_SLOW, 0.05 * CROWDING,
                                      0.1 * wg.Entropy(2.0) + 3 * wg.PowerEntropy(5) + wg.PowerEntropy(0.7)], ids=repr)
def test_the_flow_stays_there(internal):
    energy = internal + wg.Potential(bowl)
    assert motion(energy, stationary(energy, LINE).density) < 1e-12


def test_the_entropy_alone_is_the_limit_of_powers():
    # r^m/(m-1) - r/(m-1) tends to r log r, and a multiple of the mass changes no law.
    star = stationary(wg.Entropy(1.0) + wg.Potential(bowl), LINE)
    for m in (1 + 1e-6, 1 - 1e-6):
        near = stationary(wg.PowerEntropy(m) + wg.Potential(bowl), LINE)
        assert np.abs(near.density.masses - star.density.masses).sum() < 2e-6
        assert near.energy - 1 / (m - 1) == pytest.approx(star.energy, abs=1e-5)


def test_mass_and_a_multiple_of_the_energy():
    heavy = stationary(wg.PowerEntropy(2) + wg.Potential(bowl), LINE, mass=2.5)
    assert heavy.density.mass == pytest.approx(2.5, rel=1e-14)
    # With r = M s: H(M s) = M^2 H(s).
    one = stationary(2.5 * wg.PowerEntropy(2) + wg.Potential(bowl), LINE)
    assert np.abs(heavy.density.masses - 2.5 * one.density.masses).sum() < 1e-13
    assert heavy.energy == pytest.approx(2.5 * one.energy, rel=1e-13)


# -------------------------------------------------------------------- interactions
def test_quadratic_attraction_is_a_bowl_about_the_mean():
    # U = |x - y|^2/2 on laws of mass 1 and mean a is the potential (x - a)^2/2, with F less by half of it.
    energy = wg.PowerEntropy(3) + wg.Interaction(wg.Convolution(bowl))
    own = stationary(energy, LINE)
    bowl_alone = stationary(wg.PowerEntropy(3) + wg.Potential(bowl), LINE)
    middle = 0.5 * own.density.cov()  # of F: it is 1/2 int int |x - y|^2 / 2, the variance over 2, in place of V
    assert own.energy == pytest.approx(wg.PowerEntropy(3)(own.density) + middle, abs=1e-13)
    assert own.energy == pytest.approx(bowl_alone.energy, abs=1e-5)  # it stands at a cell's edge
    assert np.abs(np.sort(own.density.masses) - np.sort(bowl_alone.density.masses)).sum() < 0.02
    assert stationary(energy, LINE, rho0=bowl_alone.density).energy == pytest.approx(bowl_alone.energy, abs=1e-14)
    moved = stationary(energy, LINE, rho0=wg.Density.gaussian(LINE, 0.5, 0.1))
    assert moved.density.mean() == pytest.approx(0.5, abs=0.011)  # a line of cells holds it at a cell or an edge
    assert moved.energy == pytest.approx(own.energy, abs=1e-5)
    assert motion(energy, moved.density) < 1e-12


def test_compact_aggregation_is_a_cosine():
    # H' = r/2 and U = -exp(-|x-y|)/2: A cos(x) + B on half the length 3 pi/4, .359665324734 in the middle.
    misses = []
    for cells in (101, 201, 401, 801):
        grid = wg.Grid((-4, 4), cells=cells)
        energy = 0.25 * wg.PowerEntropy(2) + wg.Convolution(lambda z: -0.5 * np.exp(-np.abs(z)))
        star = stationary(energy, grid, rho0=wg.Density.gaussian(grid, 0.0, 0.5))
        misses.append(abs(star.density.values[cells // 2] - 0.359665324734))
        assert (star.density.values > 0).sum() * 8 / cells == pytest.approx(1.5 * math.pi, abs=32 / cells)
    assert max(misses[-1] / 1e-5, misses[-2] / 1e-4) < 1
    assert motion(energy, star.density) < 1e-12


def test_a_repulsion_closes_a_gap_by_both_methods():
    energy = 0.3 * wg.PowerEntropy(2) + wg.Potential(bowl) + wg.Convolution(lambda z: np.exp(-z * z))
    dual = stationary(energy, LINE)
    assert dual.method == "dual"
    other = stationary(energy, LINE, method="fixed-point", rho0=wg.Density.gaussian(LINE, 1.0, 0.1))
    assert np.abs(dual.density.masses - other.density.masses).sum() < 1e-12
    for star in (dual, other):
        assert star.gap < 1e-25
        assert star.energy - star.dual_value == pytest.approx(0, abs=1e-14)
        assert rests(energy, star)
    assert motion(energy, dual.density) < 1e-12


def test_the_gap_bounds_the_energy_of_a_law_that_is_not_the_minimum():
    energy = 0.3 * wg.PowerEntropy(3) + wg.Potential(bowl) + wg.Convolution(lambda z: np.exp(-z * z))
    least = stationary(energy, LINE).energy
    problem = InternalProblem(energy.assemble(LINE), 1.0)
    for width in (0.05, 0.3, 1.0):
        rho = wg.Density.gaussian(LINE, 0.2, width)
        state = problem.evaluate(problem.q_of(rho.masses))
        assert np.abs(state.masses - rho.masses).sum() < 1e-12
        assert state.energy == pytest.approx(energy(rho), rel=1e-12)
        assert problem.gap(state) >= energy(rho) - least
        assert problem.gap(state) == pytest.approx(energy(rho) - problem.dual_value(state), rel=1e-9)
    # Without interaction the bound is the distance itself.
    alone = 0.3 * wg.PowerEntropy(3) + wg.Potential(bowl)
    problem = InternalProblem(alone.assemble(LINE), 1.0)
    state = problem.evaluate(problem.q_of(wg.Density.gaussian(LINE, 0.2, 0.3).masses))
    assert problem.gap(state) == pytest.approx(state.energy - stationary(alone, LINE).energy, rel=1e-9)


def test_the_curvature_is_that_of_the_whole_energy():
    grid = wg.Grid((-2, 2), cells=80)
    energy = 0.2 * wg.PowerEntropy(2) + wg.Entropy(10.0) + wg.Convolution(lambda z: -np.exp(-z * z))
    problem = InternalProblem(energy.assemble(grid), 1.0)
    state = problem.evaluate(problem.law_of(0.3 * bowl(grid.centers[0])).q)
    r = state.masses / grid.volumes
    table = np.stack([problem.interaction(row) for row in np.eye(80)])
    hessian = np.diag((0.4 + 0.1 / r) / grid.volumes) + table  # H''(r) = 2 * .2 + D / r
    # In units of the internal energy's on changes of mass 0: the least of <v, hessian v> / <v, H'' v>.
    half = 1 / np.sqrt((0.4 + 0.1 / r) / grid.volumes)
    normal = half / np.linalg.norm(half)
    project = np.eye(80) - np.outer(normal, normal)
    matrix = project @ (half[:, None] * hessian * half) @ project + 2 * np.outer(normal, normal)
    curvature, _ = least_curvature(problem, state, factorize(problem))
    assert curvature == pytest.approx(np.linalg.eigvalsh(matrix)[0], abs=1e-9)
    assert curvature == pytest.approx(least_curvature(problem, state, None)[0], abs=1e-9)


@pytest.mark.slow
def test_copies_of_a_cluster_are_one_branch():
    grid = wg.Grid((-8, 8), cells=400)
    energy = 0.3 * wg.PowerEntropy(2) + wg.Convolution(lambda z: -np.maximum(1 - np.abs(z) / 2, 0.0) ** 2)
    branches = stationary_branches(energy, grid, max_branches=6)
    assert 2 <= len(branches) < 6
    assert branches[0].stable
    assert sorted(len(b.components) for b in branches)[-1] == 2
    for branch in branches:
        assert motion(energy, branch.density, time=1.0) < 1e-12


# -------------------------------------------------------------------- components
def halves(star):
    x, masses = star.density.grid.centers[0], star.density.masses
    return masses[x < 0].sum(), masses[x > 0].sum()


def test_two_wells_have_one_constant_or_the_masses_of_the_start():
    energy = 0.05 * wg.PowerEntropy(2) + wg.Potential(wells)
    least = stationary(energy, LINE)
    assert least.components == pytest.approx([0.5, 0.5], abs=1e-13)
    assert "one constant" in least.explain()
    for part in (0.2, 0.5, 0.95):
        x = LINE.centers[0]
        rho0 = wg.Density.from_values(LINE, np.where(x > 0, part, 1 - part) * np.exp(-20 * (np.abs(x) - 1) ** 2),
                                      normalize=True)
        star = stationary(energy, LINE, rho0=rho0)
        assert halves(star) == pytest.approx((rho0.masses[x < 0].sum(), rho0.masses[x > 0].sum()), abs=1e-12)
        assert halves(star) == pytest.approx([1 - part, part], abs=1e-9)
        assert star.energy >= least.energy - 1e-15
        assert "the mass that rho0 has there" in star.explain()
        assert rests(energy, star)
        assert motion(energy, star.density) < 1e-13
        # It is where the flow from rho0 goes, as nothing crosses the pass.
        sol = wg.solve(energy, rho0, (0, 20))
        assert np.abs(sol.final.masses - star.density.masses).sum() < 1e-6
    # The exact law of one well is that of the other, mirrored: F(1/2, 1/2) is the least by convexity.
    one, two = stationary_branches(energy, LINE, starts=[rho0, wg.Density.uniform(LINE)])
    assert one.energy < two.energy


def test_what_does_not_fit_in_a_well_runs_over():
    # V = (x^2 - 1)^2 and 1/4 r^2: a well below the pass holds int (1 - (x^2 - 1)^2) / (1/2) over one side, twice that
    # of int_0^sqrt2 (2 x^2 - x^4) dx = 8 sqrt2 / 15.
    energy = 0.25 * wg.PowerEntropy(2) + wg.Potential(lambda x: (x * x - 1) ** 2)
    grid = wg.Grid((-2, 2), cells=800)
    holds = 16 * math.sqrt(2) / 15
    rho0 = wg.Density(grid, 2 * wg.Density.gaussian(grid, 1.0, 0.005).values)
    star = stationary(energy, grid, rho0=rho0)
    assert halves(star) == pytest.approx([2 - holds, holds], abs=1e-3)
    assert rests(energy, star)
    assert motion(energy, star.density) < 1e-12
    full = stationary(energy, grid, rho0=wg.Density(grid, 1.6 * rho0.values))
    assert halves(full) == pytest.approx([1.6, 1.6], abs=1e-3)  # both over the pass
    assert len(full.components) == 1
    least = stationary(energy, grid, mass=3.2)
    assert np.abs(full.density.masses - least.density.masses).sum() < 1e-12


@pytest.mark.parametrize("height", [1e3, 1e6, 1e12])
def test_an_obstacle_keeps_masses_apart(height):
    energy = wg.PowerEntropy(2) + wg.Potential(lambda x: np.where(np.abs(x - 0.3) < 0.2, height, 0) + x * x / 2)
    x = LINE.centers[0]
    rho0 = wg.Density.from_values(LINE, np.where(x > 0.6, 1.0, 0.0) + np.where(x < 0, 0.01, 0.0), normalize=True)
    star = stationary(energy, LINE, rho0=rho0)
    left = rho0.masses[x < 0].sum()
    assert star.components == pytest.approx([1 - left, left], rel=1e-12)
    assert star.density.masses[np.abs(x - 0.3) < 0.2].sum() == 0
    assert motion(energy, star.density) < 1e-12


def test_components_that_attract_each_other():
    grid = wg.Grid((-8, 8), cells=400)
    energy = wg.PowerEntropy(3) + wg.Convolution(lambda z: -np.maximum(1 - np.abs(z) / 2, 0.0) ** 2)
    rho0 = wg.Density.from_function(
        grid, lambda x: 0.7 * np.exp(-2 * (x - 4) ** 2) + 0.3 * np.exp(-2 * (x + 4) ** 2)).normalized()
    star = stationary(energy, grid, rho0=rho0)
    assert star.components == pytest.approx([0.7, 0.3], abs=1e-10)
    assert star.gap is None
    assert rests(energy, star)
    assert motion(energy, star.density) < 1e-12


def test_wells_on_two_axes():
    plane = wg.Grid([(-2, 2), (-2, 2)], cells=(40, 40))
    energy = 0.02 * wg.PowerEntropy(2) + wg.Potential(lambda x, y: wells(x) + wells(y))
    x, y = plane.mesh()
    rho0 = wg.Density.from_values(plane, np.where((x > 0) & (y > 0), 3.0, 1.0), normalize=True)
    star = stationary(energy, plane, rho0=rho0)
    assert star.components == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6], rel=1e-12)
    assert rests(energy, star)
    assert motion(energy, star.density, time=0.5) < 1e-12


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), m=st.sampled_from([1.5, 2.0, 3.0]), log_size=st.floats(-3, 1))
def test_random_landscapes(seed, m, log_size):
    rng = np.random.default_rng(seed)
    grid = wg.Grid((0, 1), cells=60, boundary=rng.choice(["no-flux", "periodic"]))
    x = grid.centers[0]
    V = sum(rng.normal() * np.cos(2 * np.pi * k * x + 6 * rng.random()) for k in range(1, 5))
    energy = 10**log_size * wg.PowerEntropy(m) + wg.Potential(V)
    rho0 = wg.Density.from_values(grid, rng.random(60) ** 8, normalize=True)
    star = stationary(energy, grid, rho0=rho0)
    assert star.density.mass == pytest.approx(1, rel=1e-13)
    assert rests(energy, star)
    assert energy(star.density) <= energy(rho0) + 1e-12
    # Wells that do not spill keep the mass of the start.
    problem = InternalProblem(energy.assemble(grid), 1.0)
    before = find_wells(grid, V, rho0.masses)
    after = fill(problem, V, before)
    assert after.masses.sum() == pytest.approx(1, rel=1e-13)
    for k, mass in enumerate(after.masses):
        assert star.density.masses[after.labels == k].sum() == pytest.approx(mass, abs=1e-12)


# -------------------------------------------------------------------- the pieces
@pytest.mark.parametrize("energy", [
    wg.PowerEntropy(2), wg.PowerEntropy(0.5), wg.Entropy(3.0) + wg.PowerEntropy(4), 0.1 * CROWDING,
    1e-3 * wg.Entropy(1.0) + FAST_AND_SLOW, 0.1 * wg.Entropy(2.0) + 3 * wg.PowerEntropy(5) + wg.PowerEntropy(0.7),
    InternalEnergy(np.exp, np.exp, np.exp, up_to=20.0),
], ids=repr)
def test_the_slope_is_inverted(energy):
    slope = Slope((energy + wg.Potential(bowl)).assemble(LINE))
    log_r = np.linspace(-20, math.log(0.9), 200)
    p = slope(log_r)[0]
    assert slope(slope.log_density(p))[0] == pytest.approx(p, rel=1e-12, abs=1e-13)
    assert slope.log_density(np.array([slope.lowest - 1.0]))[0] == -np.inf


@pytest.mark.parametrize(("energy", "words"), [
    (wg.Potential(bowl), "without an entropy or another internal energy"),
    (0 * wg.PowerEntropy(2) + wg.Potential(bowl), "without an entropy or another internal energy"),
    (1e-300 * wg.PowerEntropy(2) + wg.Potential(bowl), "beyond what floats resolve"),
])
def test_refusals(energy, words):
    with pytest.raises(InvalidInput, match=words):
        stationary(energy, LINE)
