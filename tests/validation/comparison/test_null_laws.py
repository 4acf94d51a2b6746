"""The null laws of compare: where their scatter comes from, and how often the verdict is wrong, counted."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binom

import wgflow as wg
from wgflow.errors import InvalidInput, InvalidType
from wgflow.reduced_models import FiniteData, IsotropicGaussian, LinearNeuron
from wgflow.validation import compare, predict_scatter, run_gradient_flow, run_sgd
from wgflow.validation.comparison.marginal_laws import MarginalLaw, unresolved_share
from wgflow.validation.comparison.particle_runs import particle_runs
from wgflow.validation.comparison.predicted_scatter import PredictedMoments, scattering_more, second_order_variance
from wgflow.validation.comparison.scatter_of_runs import scatter_for
from wgflow.validation.fluctuations.gauss_atoms import gauss_atoms

TIMES = (0.0, 0.1, 0.4)
STEP = 1e-3


@cache
def linear():
    return LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)


@cache
def solution(speed=2.0, cells=300):
    model = linear()
    return wg.solve(model.energy(), model.initial_density(0.8, model.grid(cells=cells)), (0, TIMES[-1]), t_eval=TIMES,
                    time_scale=speed)


def runs(seed, n_runs, n_neurons=60, **options):
    return run_sgd(linear(), n_neurons, STEP, TIMES, rng=seed, n_runs=n_runs, store_theta=False, **options)


@cache
def scatter(n_neurons=60):
    return scatter_for(solution(), particle_runs(runs(1, 1, n_neurons), 1), linear())


# ------------------------------------------------------------------ how often the verdict is wrong
@pytest.mark.parametrize(("n_runs", "sets"), [(1, 200), (3, 200), (10, 100)])
def test_false_alarms_are_as_frequent_as_the_level_says(alarms, n_runs, sets):
    levels = (0.05, 0.2, 0.5)
    found, _ = alarms(solution(), runs(1000 * n_runs, n_runs * sets), n_runs, levels, scatter=scatter())
    for level, alarm in zip(levels, found):
        # Outside of these counts lies less than 2e-3 of the binomial law on each side.
        low, high = binom.ppf([2e-3, 1 - 2e-3], sets, level)
        # The allowance for the risk's excess, between 0 and K/N, makes alarms rarer, not more frequent.
        assert low - 0.2 * level * sets <= alarm.sum() <= high, (level, alarm.sum())


def test_the_verdicts_that_are_counted_are_those_of_compare(alarms):
    sgd = runs(23, 6)
    first, second = (replace(sgd, coordinates=sgd.coordinates[own], risk=sgd.risk[own]) for own in
                     (slice(0, 3), slice(3, 6)))
    found, shares = alarms(solution(), sgd, 3, (0.05,), scatter=scatter(), n_null=200)
    for k, own in enumerate((first, second)):
        result = compare(solution(), own, scatter=scatter(), n_null=200, level=0.05)
        assert result.passed != found[0, k]
        for name, share in zip(result.quantities, result.share_of_band):
            assert_allclose(np.abs(shares[name][0, k]), share, rtol=1e-9)


@pytest.mark.slow
def test_five_runs_of_800_neurons_find_what_is_five_percent_off():
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    times, step = (0.0, 0.03, 0.1), 2e-5
    predicted = predict_scatter(model, times, 800, step)

    def solved(other, speed=2.0):
        start = other.initial_density(0.8, other.grid(cells=400))
        return wg.solve(other.energy(), start, (0, times[-1]), t_eval=times, time_scale=speed)

    wrong = [solved(IsotropicGaussian(d=40, tau_plus2=1.8 * 1.05**2, tau_minus2=0.2)),
             solved(IsotropicGaussian(d=40, tau_plus2=1.8 / 1.05**2, tau_minus2=0.2 / 1.05**2)), solved(model, 2.1)]
    right = solved(model)
    for seed in range(4):
        sgd = run_sgd(model, 800, step, times, rng=seed, n_runs=5, store_theta=False)
        assert compare(right, sgd, scatter=predicted, n_null=200).passed
        assert not any(compare(each, sgd, scatter=predicted, n_null=200).passed for each in wrong)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_five_runs_of_800_neurons_find_a_beta_that_is_20_percent_off(factor):
    model, beta, ridge, times = linear(), 3.0, 0.7, (0.0, 0.5, 2.0)

    def solved(b):
        start = model.initial_density(0.8, model.grid(cells=300, beta=beta, ridge=ridge))
        return wg.solve(model.energy(b, ridge), start, (0, times[-1]), t_eval=times, time_scale=2.0)

    right, wrong = solved(beta), solved(factor * beta)
    for seed in range(3):
        sgd = run_sgd(model, 800, STEP, times, rng=seed, n_runs=5, beta=beta, ridge=ridge, store_theta=False)
        found = compare(right, sgd, n_null=200)
        assert found.scatter == "predicted"
        assert found.passed
        assert not compare(wrong, sgd, n_null=200).passed


@pytest.mark.parametrize("kind", ["predicted", "observed", "bootstrap"])
def test_every_null_law_lets_the_right_equation_pass_and_finds_a_wrong_one(kind):
    for seed in (3, 5):
        sgd = runs(seed, 5, 200)
        right, wrong = (compare(solution(speed), sgd, scatter=kind, n_null=200) for speed in (2.0, 4.0))
        assert right.passed
        assert not wrong.passed
        assert right.scatter == wrong.scatter == kind


# ------------------------------------------------------------------ p-values
def test_the_p_value_is_the_least_level_that_fails():
    sgd = runs(7, 3)
    for speed in (2.0, 2.3):
        first = compare(solution(speed), sgd, n_null=400)
        assert 1 / 401 <= first.p_value <= 1.0
        for level in (0.005, 0.05, 0.2, 0.45):
            again = compare(solution(speed), sgd, n_null=400, level=level)
            assert again.p_value == first.p_value
            assert again.passed == (again.p_value > level)


# ------------------------------------------------------------------ the predicted null law
def test_draws_have_the_predicted_covariance():
    found = scatter()
    moments = PredictedMoments(found, ("theta",), particle_runs(runs(1, 2), 1))
    draws = moments.draw(4000, 2, np.random.default_rng(3)).reshape(moments.variance.size, -1)
    rows = [found.functionals.index(name) for name in moments.names]
    exact = found.covariance[np.ix_(rows, range(3), rows, range(3))].reshape(len(draws), -1)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert_allclose(np.cov(draws) / scale, exact / scale, atol=0.06)
    assert_allclose(draws.mean(axis=1), found.bias[rows].ravel(), atol=0.06 * np.sqrt(np.diag(exact)).max())
    x = np.random.default_rng(5).normal(size=(6, 2, 60, 1))
    at = moments.draw(6, 2, np.random.default_rng(7))[:, 1]
    law = MarginalLaw.from_density(wg.Density.gaussian(wg.Grid((-4, 6), cells=500), 0.3, 0.8))
    moved = moments.displaced(x, at, [law])
    assert_allclose(moved[..., 0].mean(axis=2), law.mean + at[moments.names.index("mean of theta")])
    own = law.deviation * x[..., 0].std(axis=2).mean() / x.std()
    assert_allclose(moved[..., 0].std(axis=2), own + at[moments.names.index("deviation of theta")])


def test_draws_lie_about_the_measured_bias_of_finite_width():
    """With the scatter of second order in each run, and with the error of the measurement in all of them together."""
    found = scatter()
    rng = np.random.default_rng(3)
    samples = 0.4 + 3.0 * rng.normal(size=(16, 3, 3))
    error = np.full((3, 3), 0.7)
    measured = replace(found, width_bias=samples.mean(axis=0), width_samples=samples, width_error=error)
    several = particle_runs(runs(1, 8), 1)
    moments, plain = (PredictedMoments(each, ("theta",), several) for each in (measured, found))
    assert moments.knows_excess
    assert not plain.knows_excess
    draws = moments.draw(6000, 8, np.random.default_rng(5))
    half = np.array([0.0, 0.0, 0.5])[:, None]  # of the risk, anything between 0 and the bias of the step
    assert_allclose(draws.mean(axis=(2, 3)), (1.0 - half) * found.bias + measured.width_bias / 60,
                    atol=0.05 * draws.std(axis=(2, 3)).max())
    second = samples.var(axis=0, ddof=1) / 60**2
    assert_allclose(draws.var(axis=(2, 3)), found.variance + (1 + 1 / 16) * second, rtol=0.06)
    assert_allclose(draws.mean(axis=3).var(axis=2), (found.variance + second) / 8 + second / 16, rtol=0.08)
    assert_allclose([moments.allowance("mean of theta", j) for j in range(3)],
                    0.2 * np.abs(found.bias[0]) + 0.7 / 60)
    without = PredictedMoments(measured, ("theta",), several, (), with_bias=False)
    assert not without.knows_excess
    assert not without.bias.any()


@pytest.mark.slow
def test_bands_lie_about_a_bias_of_finite_width_that_was_measured():
    model, times = IsotropicGaussian(d=20, tau_plus2=1.8, tau_minus2=0.2), (0.0, 0.05)
    grid = model.grid(cells=300, r_max=3.0)
    sol = wg.solve(model.energy(), model.initial_density(0.8, grid), (0, times[-1]), t_eval=times, time_scale=2.0)
    sgd = run_sgd(model, 40, 2e-5, times, rng=7, n_runs=10, store_theta=False)
    words = "The bias of finite width was measured with small networks."
    scatters = [predict_scatter(model, times, 40, 2e-5, measure_width=measure) for measure in (True, False)]
    found, plain = (compare(sol, sgd, n_null=200, scatter=each) for each in scatters)
    assert found.passed
    assert words in found.notes
    assert words not in plain.notes
    # The band of the risk lies about the excess of finite width; it does not reach down to no excess.
    row = found.quantities.index("risk")
    assert 0.0 < found.lower[row, -1] < found.difference[row, -1] < found.upper[row, -1]


def test_means_have_the_bands_of_their_predicted_deviation():
    """At the start the neurons are independent draws; later they all follow the samples, and relax."""
    result = compare(solution(), runs(9, 4), n_null=400)
    i = result.quantities.index("mean of theta")
    half = 0.5 * (result.upper[i] - result.lower[i])
    deviation = scatter().deviation[scatter().functionals.index("mean of theta")] / 2  # of 4 runs
    factor = half / deviation
    assert np.ptp(factor) < 0.15 * factor.mean()
    assert 2.8 < factor.mean() < 4.5
    assert result.inflation[i, 0] == pytest.approx(1.0, abs=0.1)
    assert result.inflation[i, 2] == pytest.approx(deviation[2] * 2 / (0.8 / math.sqrt(60)), rel=0.1)


def test_batches_scatter_less():
    one, sixteen = (scatter_for(solution(), particle_runs(runs(1, 1, batch_size=m), 1), linear()) for m in (1, 16))
    assert_allclose(sixteen.samples, one.samples / 16)
    assert_allclose(sixteen.starts, one.starts)


def test_noise_constants_are_temperatures():
    model, ridge = linear(), 0.7
    start = model.initial_density(0.8, model.grid(cells=200, beta=3.0, ridge=ridge))
    sol = wg.solve(model.energy(6.0, ridge), start, (0, TIMES[-1]), t_eval=TIMES, time_scale=2.0)
    found = [scatter_for(sol, particle_runs(runs(1, 1, beta=beta, ridge=ridge, noise_constant=c), 1), model)
             for beta, c in ((6.0, 4.0), (3.0, 2.0))]
    assert_allclose(found[0].variance, found[1].variance, rtol=1e-12)
    assert found[0].noise.any()


def test_runs_that_scatter_more_than_predicted_are_found():
    sgd = runs(11, 5)
    shared = np.random.default_rng(13).normal(size=(5, 1, 1, 1)) * 0.3
    shaken = replace(sgd, coordinates=sgd.coordinates + shared)
    result = compare(solution(), shaken, n_null=200)
    assert "But the runs scatter more: mean of theta with" in result.verdict
    assert result.inflation[result.quantities.index("mean of theta")].max() > 2.0
    told = compare(solution(), shaken, n_null=200, scatter=scatter())
    assert "scatter more" not in told.verdict
    # What is asked for is used: the scatter that was given does not hold these runs.
    assert not told.passed


def test_scatter_of_second_order_is_not_more_than_predicted():
    # R + K/N |z|^2 / D with z of D modes: the risk of a network at its minimum, where the first order vanishes.
    rng, modes, excess = np.random.default_rng(17), 10, 0.02
    risk = 0.4 + excess * rng.chisquare(modes, size=(5, len(TIMES))) / modes
    own = particle_runs(replace(runs(11, 5), risk=risk), 1)
    moments = PredictedMoments(replace(scatter(), starts=1e-6 * scatter().starts, samples=0.0 * scatter().samples),
                               ("theta",), own, ("mean of theta", "deviation of theta"))
    assert list(scattering_more(moments, own, 0.01)) == ["risk"]
    of_risk = second_order_variance(np.full(len(TIMES), excess), modes)
    assert scattering_more(moments, own, 0.01, of_risk) == {}
    assert list(scattering_more(moments, own, 0.01, 1e-3 * of_risk)) == ["risk"]
    many = excess * rng.chisquare(modes, size=100_000) / modes
    assert of_risk[0] == pytest.approx(many.var(), rel=0.03)


def test_the_gradient_flow_has_no_noise_of_samples():
    flow = run_gradient_flow(linear(), 60, TIMES, rng=3, n_runs=2)
    result = compare(solution(), flow, n_null=200)
    assert result.passed
    assert result.scatter == "predicted"
    assert "bias of the step" not in result.verdict


def test_what_cannot_be_predicted_is_said():
    sgd = runs(15, 3)
    x, y = linear().sample_data(500, np.random.default_rng(3))
    passes = run_sgd(linear(), 60, STEP, TIMES, rng=3, n_runs=2, sample=(x, y), replacement=False)
    result = compare(solution(), passes, n_null=200)
    assert result.scatter == "observed"
    assert "was not predicted: the runs draw from a finite sample in passes" in result.verdict
    with pytest.raises(InvalidInput, match="scatter='predicted' is not possible: only that of run_sgd"):
        compare(solution(), (sgd.t, sgd.coordinates), scatter="predicted")
    assert compare(solution(), (sgd.t, sgd.coordinates), n_null=200).scatter == "observed"
    with pytest.raises(InvalidType, match="'observed', 'bootstrap' or what predict_scatter returns, got 'seen'"):
        compare(solution(), sgd, scatter="seen")
    atoms = wg.solve(linear().energy(), linear().initial_atoms(0.8), (0, TIMES[-1]), t_eval=TIMES, time_scale=2.0,
                     method=wg.Lagrangian())
    assert compare(atoms, sgd, n_null=200).scatter == "predicted"


def test_samples_of_finite_data_are_its_own():
    model = FiniteData(np.linspace(-1, 2, 7)[:, None], np.sin(np.arange(7.0)))
    times = [0.0, 0.2]
    start = model.initial_density(0.8, model.grid(cells=200))
    sol = wg.solve(model.energy(), start, (0, 0.2), t_eval=times, time_scale=model.time_scale)
    with_replacement, in_passes = (
        compare(sol, run_sgd(model, 50, 1e-3, times, rng=3, n_runs=2, replacement=each), n_null=200)
        for each in (True, False))
    assert with_replacement.scatter == "predicted"
    assert in_passes.scatter == "observed"


# ------------------------------------------------------------------ parts
def test_gauss_atoms_have_the_moments_of_the_density():
    grid = wg.Grid((0, 5), cells=400)
    rho = wg.Density.from_function(grid, lambda x: np.exp(-((x - 1.2) ** 2) / 0.1) + 0.3 * np.exp(-((x - 3) ** 2)))
    few, many = gauss_atoms(rho), wg.Atoms.from_density(rho)
    assert few.size == 32
    assert few.weights.min() > 0.0
    assert few.bounds == many.bounds
    for power in range(40):
        assert few.expect(lambda x, p=power: (x - 2) ** p) == pytest.approx(
            many.expect(lambda x, p=power: (x - 2) ** p) / many.mass, rel=1e-9)
    point = np.zeros(400)
    point[17] = 80.0
    assert gauss_atoms(wg.Density(grid, point)).mean() == pytest.approx(grid.centers[0][17], abs=0.5 * 5 / 400)


def test_cells_that_resolve_a_law_say_where_its_mass_is():
    assert unresolved_share(np.array([0.0, 0.0, 5.0, 0.0])).tolist() == [0.0, 0.0, 1.0, 0.0]
    # A box is unknown where it ends.
    assert unresolved_share(np.array([0.0, 2.0, 2.0, 2.0, 0.0])).tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    # At a wall there is no neighbor beyond.
    assert unresolved_share(np.array([2.0, 2.0, 1.0])).tolist() == [0.0, 0.5, 1.0]
    both = np.array([[1.0, 2.0], [1.0, 4.0]])
    assert unresolved_share(both, 0).tolist() == [[0.0, 1.0], [0.0, 0.5]]
    assert unresolved_share(both, 1).tolist() == [[1.0, 0.5], [1.0, 0.75]]
    # Half a cell for a point, second order for what is smooth.
    point = np.zeros(100)
    point[40] = 1.0
    law = MarginalLaw.from_density(wg.Density(wg.Grid((0, 100), cells=100), point))
    assert (law.half_cell, law.jump) == (0.5, 0.5)
    smooth = [MarginalLaw.from_density(wg.Density.gaussian(wg.Grid((-6, 6), cells=n), 0.0, 1.0)) for n in (200, 400)]
    for name in ("half_cell", "jump"):
        coarse, fine = (getattr(each, name) for each in smooth)
        assert coarse / fine == pytest.approx(4.0, rel=0.1)


def test_the_edges_of_what_the_cells_say_cover_the_truth():
    """A law known by cell averages: means, deviations and W1 of the true one lie within the resolution."""
    from scipy.stats import norm

    rng = np.random.default_rng(3)
    for cells in (15, 30, 60):
        for _ in range(5):
            m, s = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 1.0)
            grid = wg.Grid((-5, 5), cells=cells)
            masses = np.diff(norm.cdf(grid.edges[0], m, s))
            law = MarginalLaw.from_density(wg.Density(grid, masses / np.diff(grid.edges[0])))
            assert abs(law.mean - m) <= law.half_cell
            assert abs(law.deviation - s) <= law.half_cell
            x = np.linspace(-4.9, 4.9, 1500)
            assert np.abs(law.cdf(x) - norm.cdf(x, m, s)).max() <= law.jump + 1e-6
            levels = (np.arange(2000) + 0.5) / 2000
            assert np.mean(np.abs(law.quantile(levels) - norm.ppf(levels, m, s))) <= law.half_cell
