"""Densities: constructors, moments, quantiles, marginals and samples, against closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import wgflow as wg
from wgflow import Density, Grid
from wgflow.errors import InvalidInput

LINE = Grid((-8, 8), cells=400)
PLANE = Grid([(-6, 6), (-5, 5)], cells=(120, 100))
GRADED = Grid(edges=4 * np.linspace(-1, 1, 81) ** 3)


def test_values_masses_and_mass(rng):
    values = rng.random(80)
    rho = Density(GRADED, values)
    np.testing.assert_array_equal(rho.values, values)
    np.testing.assert_array_equal(rho.masses, values * np.diff(GRADED.edges[0]))
    assert rho.mass == pytest.approx(math.fsum(rho.masses), rel=1e-15)
    assert rho.normalized().mass == pytest.approx(1.0, rel=1e-15)
    assert Density.from_values(GRADED, values, normalize=True).mass == pytest.approx(1.0, rel=1e-15)
    assert Density.from_values(GRADED, values).mass == rho.mass
    assert "mass=" in repr(rho)


def test_cell_averages_of_a_polynomial_are_exact():
    # Five Gauss nodes an axis are exact to degree 9, three to degree 5.
    rho = Density.from_function(GRADED, lambda x: 2 + x**9 / 4**9, normalize=False)
    e = GRADED.edges[0]
    np.testing.assert_allclose(rho.values, 2 + np.diff(e**10 / 10) / np.diff(e) / 4**9, rtol=1e-11)
    rho = Density.from_function(PLANE, lambda x, y: 1 + x**4 * y**4, normalize=False)
    ax, ay = (np.diff(e**5 / 5) / np.diff(e) for e in PLANE.edges)
    np.testing.assert_allclose(rho.values, 1 + np.multiply.outer(ax, ay), rtol=1e-12)


def test_from_function_normalizes_unless_told():
    assert Density.from_function(LINE, lambda x: np.exp(-(x**2))).mass == pytest.approx(1.0, rel=1e-15)
    raw = Density.from_function(LINE, lambda x: np.exp(-(x**2)), normalize=False)
    assert raw.mass == pytest.approx(math.sqrt(math.pi), rel=1e-9)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (1.3, 0.3), (-2.0, 1e-6), (0.5, 0.01), (20.0, 1.0)])
def test_gaussian_cell_averages_are_exact_in_both_tails(mean, variance):
    rho = Density.gaussian(LINE, mean, variance)
    law = stats.norm(mean, math.sqrt(variance))
    e = LINE.edges[0]
    # Each cell from the side on which its probability is not a difference of numbers near 1, in logarithms.
    low, high = np.minimum(e[:-1], 2 * mean - e[1:]), np.minimum(e[1:], 2 * mean - e[:-1])
    log_p = law.logcdf(high) + np.log(-np.expm1(law.logcdf(low) - law.logcdf(high)))
    log_p -= special.logsumexp(log_p)
    there = log_p > -650
    assert there.sum() >= 2
    np.testing.assert_allclose(np.log(rho.masses[there]), log_p[there], atol=1e-9)
    assert rho.masses[~there].max(initial=0.0) < 1e-280


def test_a_gaussian_whose_mean_lies_outside_the_grid_says_so():
    with pytest.warns(wg.WGFlowWarning, match=r"mean=\[0.0, 9.0\]: y=9 lies outside the grid, \[-4, 4\]") as told:
        Density.gaussian(Grid([(-4, 4), (-4, 4)], cells=(8, 8), names=["x", "y"]), [0.0, 9.0], 1.0)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Density.gaussian(Grid((-4, 4), cells=8), -4.0, 1.0)


def test_a_gaussian_of_independent_axes_is_a_product():
    rho = Density.gaussian(PLANE, [1.0, -0.5], [0.4, 0.7])
    x, y = (Density.gaussian(Grid(edges=e), m, v) for e, m, v in zip(PLANE.edges, (1.0, -0.5), (0.4, 0.7)))
    np.testing.assert_allclose(rho.masses, np.multiply.outer(x.masses, y.masses), rtol=1e-13)


def test_a_correlated_gaussian_has_its_moments():
    cov = np.array([[0.8, 0.3], [0.3, 0.5]])
    rho = Density.gaussian(PLANE, [0.5, -0.2], cov)
    np.testing.assert_allclose(rho.mean(), [0.5, -0.2], atol=1e-6)
    np.testing.assert_allclose(rho.cov(), cov + np.diag([0.1**2, 0.1**2]) / 12, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(rho.cov(), rho.cov().T)
    narrow = Density.gaussian(PLANE, [0.5, -0.2], 1e-4 * cov)
    assert np.isfinite(narrow.values).all()
    assert narrow.mass == pytest.approx(1.0)


def test_moments_are_those_of_the_masses(rng):
    grid = Grid([(0, 1), (-1, 2), (3, 5)], cells=(4, 5, 6))
    rho = Density(grid, rng.random(grid.shape) * 3)
    points = np.stack([x.ravel() for x in grid.mesh()])
    weights = rho.masses.ravel()
    np.testing.assert_allclose(rho.mean(), points @ weights / weights.sum(), rtol=1e-13)
    np.testing.assert_allclose(rho.cov(), np.cov(points, aweights=weights, ddof=0), rtol=1e-12, atol=1e-15)
    assert rho.expect(lambda x, y, z: x * y * z) == pytest.approx(float(weights @ points.prod(axis=0)), rel=1e-12)
    assert rho.expect(rho.values) == pytest.approx(float((rho.values * rho.masses).sum()))


def test_one_axis_gives_plain_numbers():
    rho = Density.gaussian(LINE, 0.3, 0.5)
    assert isinstance(rho.mean(), float)
    assert isinstance(rho.cov(), float)
    assert isinstance(rho.quantile(0.5), float)
    assert isinstance(rho.expect(lambda x: x), float)


# ---------------------------------------------------------------- quantiles
def test_quantiles_of_a_gaussian():
    q = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6])
    np.testing.assert_allclose(Density.gaussian(LINE, 0.4, 1.0).quantile(q), 0.4 + special.ndtri(q), atol=2e-3)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 10.0)), min_size=2, max_size=30).filter(any), st.data())
def test_quantile_inverts_the_distribution_function(values, data):
    rho = Density(Grid((-1, 3), cells=len(values)), values)
    q = data.draw(st.floats(0, 1))
    x = rho.quantile(q)
    assert -1 <= x <= 3
    assert float(rho.cdf(x)) == pytest.approx(q, abs=1e-12)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_a_quantile_is_the_smallest_point_of_its_part(counts):
    # In parts of a power of two all sums and quotients are exact.
    total = 2 ** sum(counts).bit_length()
    masses = [*counts, total - sum(counts)]
    rho = Density(Grid((0, len(masses)), cells=len(masses)), masses)
    parts = np.cumsum([0, *masses]) / total
    assert rho.quantile(parts).tolist() == [float(np.argmax(parts >= q)) for q in parts]


def test_quantiles_jump_over_gaps_and_increase():
    rho = Density(Grid((0, 4), cells=4), [1.0, 0.0, 0.0, 1.0])
    assert rho.quantile(0.5) == pytest.approx(1.0)
    assert rho.quantile(0.5 + 1e-9) == pytest.approx(3.0, abs=1e-6)
    assert rho.quantile([0.0, 1.0]).tolist() == [0.0, 4.0]
    assert rho.quantile(np.full((2, 3), 0.25)).shape == (2, 3)
    assert (np.diff(rho.quantile(np.linspace(0, 1, 101))) >= 0).all()


def test_the_distribution_function_is_zero_and_one_outside():
    rho = Density.gaussian(LINE, 0.0, 1.0)
    np.testing.assert_array_equal(rho.cdf([-100.0, 100.0]), [0.0, 1.0])
    np.testing.assert_allclose(rho.cdf([-1.0, 0.0, 2.0]), special.ndtr([-1.0, 0.0, 2.0]), atol=1e-12)


# ---------------------------------------------------------------- marginals
def test_marginals_keep_masses_names_and_boundaries(rng):
    grid = Grid([(0, 1), (-1, 2), (3, 5)], cells=(4, 5, 6), boundary=("no-flux", "periodic", "no-flux"),
                names=("a", "b", "c"))
    rho = Density(grid, rng.random(grid.shape))
    np.testing.assert_allclose(rho.marginal(1).masses, rho.masses.sum(axis=(0, 2)), rtol=1e-13)
    pair = rho.marginal((0, 2))
    np.testing.assert_allclose(pair.masses, rho.masses.sum(axis=1), rtol=1e-13)
    assert pair.grid.names == ("a", "c")
    assert rho.marginal(1).grid.boundary == ("periodic",)
    assert pair.mass == pytest.approx(rho.mass, rel=1e-14)
    np.testing.assert_allclose(pair.mean(), rho.mean()[[0, 2]], rtol=1e-13)
    np.testing.assert_allclose(pair.cov(), rho.cov()[np.ix_([0, 2], [0, 2])], rtol=1e-11)


# ---------------------------------------------------------------- samples
def test_samples_follow_the_density():
    rho = Density.from_function(GRADED, lambda x: np.exp(-((x - 1) ** 2)) + 0.3 * (x < -2))
    x = rho.sample(40_000, rng=271)
    assert x.shape == (40_000,)
    assert stats.kstest(x, lambda t: np.asarray(rho.cdf(t))).pvalue > 1e-3
    counts = np.histogram(x, GRADED.edges[0])[0]
    expected = 40_000 * rho.masses
    big = expected > 5
    chi2 = ((counts - expected)[big] ** 2 / expected[big]).sum()
    assert 1e-4 < stats.chi2.sf(chi2, big.sum() - 1) < 1 - 1e-6
    # Inside cells they are uniform: the position in the cell is.
    cell = np.searchsorted(GRADED.edges[0], x) - 1
    assert stats.kstest((x - GRADED.edges[0][cell]) / GRADED.widths[0][cell], "uniform").pvalue > 1e-3


def test_samples_of_two_axes_have_the_covariance():
    rho = Density.gaussian(PLANE, [0.5, -0.2], [[0.8, 0.3], [0.3, 0.5]])
    x = rho.sample(50_000, rng=np.random.default_rng(273))
    assert x.shape == (50_000, 2)
    np.testing.assert_allclose(x.mean(axis=0), rho.mean(), atol=5 * 0.9 / math.sqrt(50_000))
    np.testing.assert_allclose(np.cov(x.T), rho.cov() + np.diag([0.01, 0.01]) / 12, atol=0.025)


def test_samples_stay_out_of_empty_cells_and_repeat_with_the_seed():
    values = np.zeros(10)
    values[[3, 7]] = 1.0, 3.0
    rho = Density(Grid((0, 10), cells=10), values)
    x = rho.sample(4000, rng=5)
    assert set(np.floor(x)) == {3.0, 7.0}
    assert (x < 5).mean() == pytest.approx(0.25, abs=0.035)
    np.testing.assert_array_equal(x, rho.sample(4000, rng=5))
    np.testing.assert_array_equal(x, rho.sample(4000, rng=np.random.default_rng(5)))
    assert (x != rho.sample(4000, rng=7)).any()


def test_points_on_centers_fill_their_cells():
    rho = Density.from_samples(Grid((0, 4), cells=4), [0.5, 0.5, 3.5, 3.5])
    np.testing.assert_allclose(rho.masses, [0.5, 0.0, 0.0, 0.5])
    weighted = Density.from_samples(Grid((0, 4), cells=4), [0.5, 0.5, 1.5, 3.5], weights=[1, 1, 0, 6])
    np.testing.assert_allclose(weighted.masses, [0.25, 0.0, 0.0, 0.75])
    np.testing.assert_allclose(Density.from_samples(Grid((0, 4), cells=4), [0.0, 4.0]).masses, [0.5, 0.0, 0.0, 0.5])


def test_points_are_a_histogram(rng):
    truth = Density.gaussian(PLANE, [0.0, 0.0], [0.5, 0.5])
    points = truth.sample(100_000, rng=rng)
    again = Density.from_samples(Grid([(-6, 6), (-5, 5)], cells=(30, 25)), points)
    coarse = truth.masses.reshape(30, 4, 25, 4).sum(axis=(1, 3))
    assert np.abs(again.masses - coarse).sum() < 0.05


@pytest.mark.parametrize("grid", [
    Grid((-9, 9), cells=60), Grid(edges=[np.sinh(np.linspace(-3, 3, 80))]), Grid([(-9, 9), (-8, 10)], cells=(40, 30)),
    Grid([(-9, 9), (-8, 10), (-9, 9)], cells=(20, 21, 30)), Grid((0, 12), cells=40, origin=True)])
@pytest.mark.parametrize("n", [3, 50, 2000])
def test_points_keep_their_mean_and_covariance(grid, n, rng):
    x = 1.3 + rng.standard_normal((n, grid.ndim)) @ (np.eye(grid.ndim) + 0.3 * np.tri(grid.ndim, k=-1))
    x = np.abs(x) if grid.bounds[0][0] == 0 else x
    weights = rng.random(n)
    rho = Density.from_samples(grid, x, weights=weights)
    assert rho.masses.min() >= 0
    assert rho.mass == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_allclose(rho.mean(), np.average(x, axis=0, weights=weights).squeeze(), atol=1e-12)
    if n > 3 + grid.ndim:
        np.testing.assert_allclose(rho.cov(), np.cov(x.T, aweights=weights, bias=True), atol=1e-12)


def test_one_point_keeps_its_place():
    grid = Grid([(-1, 1), (0, 3)], cells=(7, 10))
    for point in ([0.13, 1.31], [-0.77, 2.2], [2 / 7, 0.45]):
        rho = Density.from_samples(grid, [point])
        np.testing.assert_allclose(rho.mean(), point, atol=1e-14)
        assert np.count_nonzero(rho.masses > 1e-14) <= 4
    assert Density.from_samples(grid, [[2 / 7, 0.45]]).masses.max() == pytest.approx(1.0, abs=1e-12)


def test_points_on_a_circle_are_shared_over_the_seam():
    rho = Density.from_samples(Grid((0, 8), cells=8, boundary="periodic"), [0.25, 7.9, 3.5])
    np.testing.assert_allclose(rho.masses[[0, 7, 3]], [(0.75 + 0.4) / 3, (0.25 + 0.6) / 3, 1 / 3])


def test_points_without_mass_are_refused():
    with pytest.raises(wg.InvalidInput, match="weights are all 0"):
        Density.from_samples(Grid((0, 1), cells=4), [0.1, 0.2], weights=[0, 0])


# ---------------------------------------------------------------- other constructors
def test_a_log_function_far_outside_the_floats():
    rho = Density.from_log_function(LINE, lambda x: 5e4 - 2000 * (x - 1) ** 2)
    assert rho.mass == pytest.approx(1.0, rel=1e-14)
    assert rho.mean() == pytest.approx(1.0, abs=1e-10)
    plain = Density.from_log_function(LINE, lambda x: -(x**2))
    np.testing.assert_allclose(plain.values, np.exp(-(LINE.centers[0] ** 2)) / plain.mass
                               / (np.exp(-(LINE.centers[0] ** 2)) * 0.04).sum(), rtol=1e-12)


@pytest.mark.parametrize("grid", [LINE, PLANE, GRADED, Grid([(0, 2)] * 4, cells=3)])
def test_the_uniform_density(grid):
    rho = Density.uniform(grid)
    assert rho.mass == pytest.approx(1.0, rel=1e-14)
    assert np.ptp(rho.values) == 0.0
    assert not rho.values.flags.writeable
    np.testing.assert_allclose(np.atleast_1d(rho.mean()), [(lo + hi) / 2 for lo, hi in grid.bounds], atol=1e-12)


def test_a_density_is_its_own_copy(rng):
    values = rng.random(400)
    rho = wg.Density(LINE, values)
    assert not np.shares_memory(rho.values, values)
    with pytest.raises(ValueError, match="read-only"):
        rho.masses[0] = 1.0


def test_a_covariance_that_is_symmetric_up_to_rounding():
    """What a rotation of a multiple of the identity leaves off the diagonal."""
    grid = wg.Grid([(-2, 2), (-2, 2)], cells=(40, 40))
    turned = wg.Density.gaussian(grid, [0.0, 0.0], [[0.1, -5e-18], [3e-18, 0.1]])
    assert np.abs(turned.values - wg.Density.gaussian(grid, [0.0, 0.0], 0.1).values).max() < 1e-3
    with pytest.raises(InvalidInput, match="symmetric"):
        wg.Density.gaussian(grid, [0.0, 0.0], [[0.1, -5e-3], [3e-3, 0.1]])
