"""What the experiments on static theories share: extrapolation, bands, networks on digits."""

import importlib
import sys

import numpy as np
import pytest

import wgflow as wg
from wgflow.reduced_models.static_theories import Simulated
from wgflow.validation.studies.static import digits
from wgflow.validation.studies.static.judging import LEVEL, Estimate, extrapolated, of_runs, within_bands


def simulated(values):
    values = np.asarray(values, dtype=float)
    return Simulated(float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size)), values)


def test_extrapolation_takes_the_first_order_away():
    rng = np.random.default_rng(3)
    first, last = (simulated(2.0 + 5.0 / d + 0.3 * rng.standard_normal(400)) for d in (10, 30))
    found = extrapolated((10, 30), (first, last))
    assert found.value == pytest.approx(1.5 * last.mean - 0.5 * first.mean)
    assert found.standard_error == pytest.approx(np.hypot(1.5 * last.standard_error, 0.5 * first.standard_error))
    assert abs(found.value - 2.0) < 4 * found.standard_error < 0.1
    assert 399 <= found.freedom <= 798


def test_bands_keep_their_level_and_see_what_is_wrong():
    rng, failures, repetitions = np.random.default_rng(5), 0, 2000
    for values in rng.standard_normal((repetitions, 6, 2, 8)):
        pairs = [(simulated(1.0 + 0.1 * first), simulated(1.0 + 0.05 * last)) for first, last in values]
        found = [extrapolated((10, 20), pair) for pair in pairs]
        failures += not within_bands("null", found, [1.0] * 6, 6).passed
    # Bonferroni's bound, and a binomial deviation of it.
    assert failures <= LEVEL * repetitions + 4 * np.sqrt(LEVEL * repetitions)
    assert failures > 0
    estimate = of_runs(simulated(rng.normal(1.0, 0.1, 50)))
    check = within_bands("wrong", [estimate], [1.1], 6)
    assert not check.passed
    assert check.value > 1.0 == check.bound
    assert not within_bands("lost", [Estimate(np.nan, 0.1, 5.0)], [1.0], 1).passed


@pytest.fixture(scope="module")
def images():
    pytest.importorskip("sklearn")
    return digits.load_digits()


def test_digits_lie_on_a_sphere(images):
    assert images.x.shape == (1797, 61)
    np.testing.assert_allclose(np.sum(images.x**2, axis=1), 61.0)
    assert set(images.y) == {-1.0, 1.0}
    assert 0.65 < images.linear_share < 0.75


@pytest.mark.parametrize(("width", "ridge"), [(20, 0.0), (30, 0.05), (90, 0.05)])
def test_cross_validation_is_that_of_the_hat_matrix(width, ridge):
    rng = np.random.default_rng(7)
    z, y = rng.standard_normal((50, width)), rng.standard_normal(50)
    hat = z @ np.linalg.solve(z.T @ z + ridge * np.eye(width), z.T)
    left, singular, _ = np.linalg.svd(z, full_matrices=False)
    found = digits._cross_validated(y, left.T @ y, singular**2, ridge)
    assert found == pytest.approx(np.mean((y - hat @ y) ** 2) / (1 - np.trace(hat) / 50) ** 2)


def test_cross_validation_without_a_ridge_is_a_limit():
    rng = np.random.default_rng(7)
    z, y = rng.standard_normal((50, 90)), rng.standard_normal(50)
    left, singular, _ = np.linalg.svd(z, full_matrices=False)
    near, limit = (digits._cross_validated(y, left.T @ y, singular**2, ridge) for ridge in (1e-7, 0.0))
    assert limit == pytest.approx(near, rel=1e-6)


def test_random_features_on_digits(images):
    found = digits.random_feature_errors(images, [20, 150, 400], 0.0, n_samples=150, n_draws=3, seed=1)
    assert found.test.shape == (3, 3) == found.predicted.shape
    assert np.all(found.train[:, 1:] < 1e-12)  # from N = n on every label is fitted
    assert np.all(found.train[:, 0] > 0.1)
    assert np.all(found.test[:, 1] > 3 * found.test[:, [0, 2]].max(axis=1))
    ridge = digits.random_feature_errors(images, [150], 0.1, n_samples=150, n_draws=3, seed=1)
    assert np.all(ridge.test[:, 0] < 0.2 * found.test[:, 1])
    again = digits.random_feature_errors(images, [150], 0.1, n_samples=150, n_draws=3, seed=1)
    np.testing.assert_array_equal(again.test, ridge.test)


def test_trained_networks_on_digits(images):
    found = digits.trained_errors(images, [2, 40], n_samples=100, n_draws=2, seed=3)
    assert np.all(found.train[:, 1] < 1e-3)
    assert np.all(found.wrong[:, 1] < 0.3)
    assert np.all(np.isnan(found.predicted))


@pytest.mark.parametrize(("arguments", "words"), [
    ({"ridge": -1.0}, "ridge"), ({"n_samples": 1797}, "n_samples=1797"), ({"widths": [0]}, "widths"),
    ({"noise": -0.1}, "noise"), ({"n_draws": 0}, "n_draws"),
])
def test_bad_input(images, arguments, words):
    with pytest.raises(wg.InvalidInput, match=words):
        digits.random_feature_errors(images, **{"widths": [5], "ridge": 0.1, **arguments})


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(wg.InvalidInput, match=r"wgflow\[learning\]"):
        digits.load_digits()
    study = importlib.import_module("wgflow.validation.studies").get("double-descent")
    assert study.name == "double-descent"  # the table of studies does not need it
