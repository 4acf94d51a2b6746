"""Studies of errors: fitted slopes against known laws, and each study against closed forms of linear neurons."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import wgflow as wg
from wgflow.errors import InvalidInput, InvalidType
from wgflow.reduced_models import IsotropicGaussian, LinearNeuron
from wgflow.reduced_models.base import ReducedModel
from wgflow.validation.comparison.statistics import Mean, Wasserstein
from wgflow.validation.studies.slopes import (
    error_against_dimension,
    error_against_neurons,
    error_against_step_size,
    error_against_time,
    fit_slope,
    growth_rate,
    noise_conventions,
)

C, B, V = 1.5, 1.0, 0.3


def linear():
    return LinearNeuron(covariance=C, direction=B, noise_variance=V)


class Pull(ReducedModel):
    """A model without a network: F(x) = x, target 1, so that m' = -2 (m - 1)."""

    name, coordinate_names, label_second_moment = "pull", ("x",), 1.0

    def features(self, x):
        return np.asarray(x, dtype=float)[None]

    def feature_gradients(self, x):
        return np.ones((1, 1, *np.shape(x)))

    @property
    def target(self):
        return np.ones(1)

    def diagonal(self, x):
        return np.square(np.asarray(x, dtype=float))

    def grid(self, cells=400):
        return wg.Grid((-6.0, 6.0), cells=cells, names=["x"])

    def initial_density(self, kappa, grid):
        return wg.Density.gaussian(grid, 0.0, kappa**2)


# ------------------------------------------------------------------ fits
def test_an_exact_power_is_found_to_rounding():
    x = np.array([25.0, 100.0, 400.0])
    noise = np.exp(0.1 * np.random.default_rng(1).standard_normal((200, 3)))
    fit = fit_slope(x, 3.0 * x**-0.7, 3.0 * x**-0.7 * noise)
    assert fit.slope == pytest.approx(-0.7, abs=1e-12)
    assert math.exp(fit.constant) == pytest.approx(3.0)
    assert fit.low < -0.7 < fit.high
    assert fit.misfit == pytest.approx(1.0)
    assert_allclose(fit.line(x), 3.0 * x**-0.7)
    growth = fit_slope(x / 100, np.exp(0.3 * x / 100), np.exp(0.3 * x / 100) * noise, log_x=False)
    assert growth.slope == pytest.approx(0.3)
    assert_allclose(growth.line(x / 100), np.exp(0.3 * x / 100))


def test_points_with_small_errors_have_the_weight():
    x, rng = np.array([1.0, 10.0, 100.0, 1000.0]), np.random.default_rng(2)
    y = x**-0.5 * np.array([1.0, 1.0, 1.0, 3.0])  # the last is off, and is known to be uncertain
    replicates = y * np.exp(np.array([0.01, 0.01, 0.01, 1.0]) * rng.standard_normal((500, 4)))
    assert fit_slope(x, y, replicates).within(-0.5, 0.01)


def test_the_interval_holds_the_slope_as_often_as_it_says():
    """Deviations of n Gaussian numbers with a true slope of -1/2, 300 times."""
    rng, x, hits = np.random.default_rng(5), np.array([25.0, 100.0, 400.0, 1600.0]), 0
    for _ in range(300):
        samples = x[:, None] ** -0.5 * rng.standard_normal((4, 60))
        again = rng.integers(60, size=(300, 4, 60))
        draws = np.take_along_axis(np.broadcast_to(samples, (300, 4, 60)), again, axis=2).std(axis=2, ddof=1)
        hits += fit_slope(x, samples.std(axis=1, ddof=1), draws).contains(-0.5)
    # Binomial with .95: 3 standard deviations are .038; the bootstrap of 60 numbers is a little narrow.
    assert 0.90 <= hits / 300 <= 0.99


def test_a_bend_is_a_misfit():
    x = np.array([1.0, 10.0, 100.0, 1000.0])
    y = np.sqrt(1 / x + 4 / x**2)
    replicates = y * np.exp(0.01 * np.random.default_rng(3).standard_normal((300, 4)))
    assert fit_slope(x, y, replicates).misfit < 1e-6
    assert math.isnan(fit_slope(x[:2], y[:2], replicates[:, :2]).misfit)


def test_fits_refuse_noise_and_wrong_shapes():
    x, rng = np.array([1.0, 2.0, 4.0]), np.random.default_rng(4)
    with pytest.raises(InvalidInput, match="no larger than its noise"):
        fit_slope(x, [0.1, 0.1, 0.1], rng.standard_normal((100, 3)))
    with pytest.raises(InvalidInput, match="positive"):
        fit_slope(x, [0.1, 0.0, 0.1], np.ones((100, 3)))
    with pytest.raises(InvalidInput, match="two or more different points"):
        fit_slope([1.0, 1.0], [1.0, 1.0], np.ones((100, 2)))
    with pytest.raises(InvalidInput, match="replicates has shape"):
        fit_slope(x, [1.0, 1.0, 1.0], np.ones((5, 3)))
    with pytest.raises(InvalidInput, match="level=1"):
        fit_slope(x, [1.0, 1.0, 1.0], np.ones((50, 3)), level=1.0)


# ------------------------------------------------------------------ neurons
@pytest.mark.slow
def test_linear_neurons_scatter_as_their_closed_form():
    study = error_against_neurons(linear(), (20, 80, 320), [0.1, 0.4], n_runs=100)
    exact = np.exp(-2 * C * study.t) * 0.8 / np.sqrt(study.values[:, None])
    assert_allclose(study.predicted["mean of theta"], exact, rtol=1e-6)
    for t in study.t:
        assert study.slope("mean of theta", t=t).within(-0.5, 0.08)
        assert study.slope("W1 of theta", t=t).within(-0.5, 0.05)
        _, low, high = study.over_prediction("mean of theta", t, level=0.999)
        assert np.all((low < 1) & (high > 1))
        curves = {kind: study.curve("mean of theta", kind, t).y for kind in ("error", "scatter", "bias")}
        # The mean square is the variance, with n in place of n - 1, and the squared mean.
        assert_allclose(curves["error"] ** 2, curves["scatter"] ** 2 * 99 / 100 + curves["bias"] ** 2, rtol=1e-10)
    # The scatter about the mean of the runs is the error where there is no bias.
    assert_allclose(study.curve("W1 of theta", "scatter", 0.4).y, study.curve("W1 of theta", "error", 0.4).y, rtol=0.1)


def test_a_model_without_a_network():
    study = error_against_neurons(Pull(), (20, 80), [0.3], n_runs=60, kappa=0.8)
    curve, exact = study.curve("mean of x", "scatter"), 0.8 * math.exp(-0.6) / np.sqrt([20, 80])
    assert np.all(np.abs(curve.y - exact) < 4 * curve.standard_errors)
    # The model does not say what a sample adds, so that nothing is predicted.
    assert study.predicted == {}
    with pytest.raises(InvalidInput, match="no NetworkModel"):
        error_against_neurons(Pull(), (20, 80), [0.3], dynamics="sgd", step_size=1e-3)


@pytest.mark.slow
def test_the_risk_of_a_wide_network_and_that_of_its_law():
    """Under SGD the network's risk lies above that of the law of lengths, whose directions are averaged, by K/N."""
    model = IsotropicGaussian(d=20, tau_plus2=1.8, tau_minus2=0.2)
    study = error_against_neurons(model, (25, 100), [0.0, 0.02], n_runs=20, dynamics="sgd", neurons_times_step=0.005)
    excess = model.finite_width_excess(model.initial_atoms(0.8)) / study.values
    bias, error = (study.curve("risk", "bias", 0.0), study.curve("risk of the law", "bias", 0.0))
    assert np.all(np.abs(bias.y - excess) < 4 * bias.standard_errors)
    assert np.all(error.y < 4 * error.standard_errors)
    assert study.kinds("risk") == ("error", "scatter", "bias")
    assert study.kinds("W1 of r") == ("error", "scatter")


def test_the_same_bits_on_any_executor_and_from_the_folder(tmp_path):
    options = {"neurons": (20, 40), "t_eval": [0.1], "n_runs": 5, "rng": 3}
    with ThreadPoolExecutor(1) as one:
        first = error_against_neurons(linear(), executor=one, folder=tmp_path, **options)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert len(files) == 10
    again = error_against_neurons(linear(), folder=tmp_path, **options)
    other = error_against_neurons(linear(), **options)
    for name in first.quantities:
        for one_, two, three in zip(first.errors[name], again.errors[name], other.errors[name]):
            assert_array_equal(one_, two)
            assert_array_equal(one_, three)
    # Another model, or another setting, has files of its own.
    error_against_neurons(LinearNeuron(C, B + 1e-9, V), folder=tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 20


def test_table_dataset_and_picture():
    pytest.importorskip("xarray")
    study = error_against_neurons(linear(), (20, 40), [0.1, 0.2], n_runs=12, statistics=(Wasserstein(2), Mean()))
    assert study.quantities == ("W2 of theta", "mean of theta", "risk")
    assert len(study.table.rows) == 3 * 2 * 2
    assert study.to_csv().splitlines()[0].startswith("quantity,t,n_neurons,N,step size,runs,error,")
    data = study.dataset
    assert dict(data.sizes) == {"quantity": 3, "n_neurons": 2, "t": 2}
    assert float(data["error"].sel(quantity="W2 of theta", n_neurons=40, t=0.2)) == study.curve("W2 of theta").y[1]
    assert np.isnan(data["bias"].sel(quantity="W2 of theta")).all()
    assert len(study.plot().axes) == 3
    assert len(study.slopes().rows) == 2 * (2 + 3 + 3)


def test_a_law_known_too_coarsely_is_told():
    model = linear()
    grid = model.grid(cells=12, kappa=0.8)
    sol = wg.solve(model.energy(), model.initial_density(0.8, grid), (0, 0.1), t_eval=[0.1], time_scale=2.0)
    study = error_against_neurons(model, (200, 800), [0.1], n_runs=4, sol=sol)
    assert any("give a finer sol" in note for note in study.notes)
    assert error_against_neurons(model, (20, 80), [0.1], n_runs=4).notes == ()


# ------------------------------------------------------------------ step size
@pytest.mark.slow
def test_bias_and_scatter_of_the_step_are_those_of_the_recursion():
    """E m_k = b + (m_0 - b)(1 - 2 s c)^k exactly, and Var m = s B with the B of the prediction."""
    model, steps, t = linear(), 0.005 * 2.0 ** np.arange(4), 0.4
    study = error_against_step_size(model, steps, [t], n_runs=(1600, 800, 400, 200), n_neurons=20)
    start = np.random.SeedSequence(7, spawn_key=(2**31 - 1,))
    m0 = model.initial_theta(20, 0.8, np.random.default_rng(start)).mean()
    exact = B + (m0 - B) * (1 - 2 * steps * C) ** np.rint(t / steps)
    bias = study.curve("mean of theta", "bias")
    assert bias.x.size == 3
    assert np.all(np.abs(bias.y - np.abs(np.diff(exact))) < 4 * bias.standard_errors)
    assert study.slope("mean of theta", "scatter").within(0.5, 0.1)
    _, low, high = study.over_prediction("mean of theta", level=0.999)
    assert low[0] < 1.1
    assert high[0] > 0.9


def test_step_sizes_that_miss_the_times_are_refused():
    with pytest.raises(InvalidInput, match=r"t=0.1 is 33.3333 steps of 0.003"):
        error_against_step_size(linear(), [0.001, 0.002, 0.003], [0.1])
    with pytest.raises(InvalidInput, match="three or more"):
        error_against_step_size(linear(), [0.001, 0.002], [0.1])
    with pytest.raises(InvalidInput, match="must be differences"):
        error_against_step_size(linear(), [0.001, 0.002, 0.005], [0.1], statistics=[Wasserstein(1)])


# ------------------------------------------------------------------ dimension, time, noise
@pytest.mark.slow
def test_dimension():
    def family(d):
        return IsotropicGaussian(d=d, tau_plus2=1.5, tau_minus2=0.5)

    study = error_against_dimension(family, (40, 160), [0.05], n_runs=30, n_neurons=50, dimension_times_step=0.008)
    assert_allclose(study.step_sizes, [0.0002, 0.00005])
    # The lengths of the starts concentrate: their scatter falls like d^(-1/2). The bias, like d times the step, stays.
    scatter, error = study.slope("mean of r", "scatter"), study.slope("W1 of r")
    assert scatter.within(-0.5, 0.25), scatter
    assert abs(error.slope) < 0.3, error
    with pytest.raises(InvalidInput, match="different coordinates"):
        error_against_dimension(lambda d: LinearNeuron(np.ones(d), np.ones(d)), (2, 3), [0.05],
                                dimension_times_step=0.1)
    with pytest.raises(InvalidInput, match="either"):
        error_against_dimension(family, (40, 160), [0.05])


@pytest.mark.slow
def test_suprema_over_time():
    suprema, errors = error_against_time(linear(), [0.2, 0.4], (20, 80), n_runs=50, times_each=3)
    assert_allclose(errors.t, np.linspace(0, 0.4, 7))
    for name in errors.quantities:
        for sup, each in zip(suprema.errors[name], errors.errors[name]):
            assert_array_equal(sup[:, 0], np.abs(each[:, :4]).max(axis=1))
            assert_array_equal(sup[:, 1], np.abs(each).max(axis=1))
    assert suprema.slope("mean of theta").within(-0.5, 0.1)
    # The mean decays, so that its largest error is that of the start.
    assert growth_rate(suprema, "mean of theta", 80).slope == pytest.approx(0.0, abs=1e-9)
    assert growth_rate(errors, "mean of theta", 80, low=0.1).slope == pytest.approx(-2 * C, rel=1e-3)
    with pytest.raises(InvalidInput, match="must be positive"):
        error_against_time(linear(), [0.0, 0.4])


@pytest.mark.slow
def test_each_convention_of_the_noise_converges_to_its_own_flow():
    model = linear()
    grid = model.grid(cells=300, kappa=0.8, beta=3.0, ridge=0.7)
    found = noise_conventions(model, grid, 3.0, [2.0], (50, 400), n_runs=8, neurons_times_step=0.5, ridge=0.7)
    assert found.betas == (3.0, 6.0, 12.0)
    assert found.separation("W1 of theta") > 4.0
    for c, sol in zip(found.constants, found.solutions):
        # Variance c / (4 beta lambda) at rest.
        assert sol.final.cov() == pytest.approx(c / (4 * 3.0 * 0.7), rel=0.06)
        right = found.studies[c, c].curve("W1 of theta").y
        wrong = [found.studies[c, other].curve("W1 of theta").y for other in found.constants if other != c]
        assert right[1] < 0.5 * right[0]
        assert all(each[1] > 0.7 * each[0] for each in wrong)
    assert len(found.table("W1 of theta").rows) == 9


def test_wrong_arguments_are_named():
    with pytest.raises(InvalidInput, match="either neurons_times_step or step_size"):
        error_against_neurons(linear(), (20, 40), [0.1], dynamics="sgd")
    with pytest.raises(InvalidInput, match="no step size"):
        error_against_neurons(linear(), (20, 40), [0.1], step_size=0.1)
    with pytest.raises(InvalidInput, match="widths that increase"):
        error_against_neurons(linear(), (40, 20), [0.1])
    with pytest.raises(InvalidInput, match="dynamics='newton'"):
        error_against_neurons(linear(), (20, 40), [0.1], dynamics="newton")
    with pytest.raises(InvalidInput, match="has no noise"):
        error_against_neurons(linear(), (20, 40), [0.1], beta=3.0)
    with pytest.raises(InvalidInput, match="t_eval must be"):
        error_against_neurons(linear(), (20, 40), [0.2, 0.1])
    with pytest.raises(InvalidInput, match="n_runs has 3 numbers"):
        error_against_neurons(linear(), (20, 40), [0.1], n_runs=(2, 2, 2))
    with pytest.raises(InvalidType, match="ReducedModel"):
        error_against_neurons(3, (20, 40), [0.1])
    study = error_against_neurons(linear(), (20, 40), [0.1], n_runs=4)
    for words, call in (("no quantity", lambda: study.curve("W3 of theta")), ("kind='bias'",
                        lambda: study.curve("W1 of theta", "bias")), ("t=7", lambda: study.curve("risk", t=7.0)),
                        ("no scatter is predicted", lambda: study.over_prediction("W1 of theta"))):
        with pytest.raises(InvalidInput, match=words):
            call()
