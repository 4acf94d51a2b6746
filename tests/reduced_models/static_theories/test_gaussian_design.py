"""Gaussian covariates of any covariance: closed forms, random features as a case, finite sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.activations import ReLU
from wgflow.reduced_models import GaussianDesign, RandomFeatures


def test_least_squares_and_least_norm_of_equal_eigenvalues():
    few = GaussianDesign(np.full(30, 2.0), np.full(30, 0.1), 50)
    assert few.risk(noise=0.7) == pytest.approx(0.7 * 30 / 20)
    assert few.training_error(noise=0.7) == pytest.approx(0.7 * (1 - 30 / 50))
    many = GaussianDesign(np.ones(50), np.full(50, 1 / 50), 30)
    assert many.risk(noise=0.7) == pytest.approx((1 - 30 / 50) + 0.7 * 30 / 20)
    assert many.training_error(0.7) == 0.0
    assert GaussianDesign(np.ones(30), np.ones(30), 30).risk(0.1) == np.inf


@given(st.floats(-3, 3), st.floats(-12, 3), st.integers(1, 300), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_the_root_solves_its_equation(decay, log_ridge, n, seed):
    rng = np.random.default_rng(seed)
    s = np.exp(decay * rng.standard_normal(60))
    ridge = 10.0**log_ridge
    theory = GaussianDesign(s, rng.random(60), n, ridge)
    assert theory.kappa == pytest.approx(ridge + np.sum(s * theory.kappa / (s + theory.kappa)) / n, rel=1e-9)
    assert 0.0 < theory.risk(0.5) < np.inf
    assert theory.training_error(0.5) == pytest.approx((ridge / theory.kappa) ** 2 * (theory.risk(0.5) + 0.5), rel=1e-6)


def test_ridgeless_is_a_limit():
    s = np.geomspace(0.01, 1.0, 80)
    for n in (30, 200):
        near, limit = (GaussianDesign(s, s, n, ridge) for ridge in (1e-12, 0.0))
        assert limit.risk(0.3) == pytest.approx(near.risk(0.3), rel=1e-6)


@pytest.mark.parametrize(("psi1", "psi2", "ridge"), [(2.0, 3.0, 1e-2), (4.0, 2.0, 0.1), (0.7, 1.5, 0.0)])
def test_random_features_are_a_case(psi1, psi2, ridge):
    """Features mu_1 W x + mu_* z with drawn W, and the target <beta, x> as seen through them."""
    d, rng = 300, np.random.default_rng(3)
    n_neurons, n = round(psi1 * d), round(psi2 * d)
    limit = RandomFeatures(ReLU(), psi1, psi2, ridge)
    _, linear, nonlinear = limit.coefficients
    w = rng.standard_normal((n_neurons, d))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    values, axes = np.linalg.eigh(linear**2 * w @ w.T + nonlinear**2 * np.eye(n_neurons))
    beta = axes.T @ (linear * w[:, :]) / values[:, None]  # of each direction of the target
    square = np.mean(beta**2, axis=1)
    rest = 1.0 - float(np.sum(square * values))
    theory = GaussianDesign(values, square, n, ridge * n_neurons / d)
    # What the features do not see of the target acts as noise, and stays.
    assert theory.risk(0.2 + rest) + rest == pytest.approx(limit.risk(1.0, noise=0.2), rel=0.01)
    assert theory.training_error(0.2 + rest) == pytest.approx(limit.training_error(1.0, noise=0.2), rel=0.01)


@pytest.mark.parametrize(("n", "ridge"), [(100, 0.02), (300, 0.0), (60, 0.0)])
def test_finite_size(n, ridge):
    s = 1.0 / np.arange(1.0, 151.0)
    theory = GaussianDesign(s, np.full(150, 0.05), n, ridge)
    found = theory.simulate(60, noise=0.3, rng=5)
    assert abs(found.mean - theory.risk(0.3)) < 3.5 * found.standard_error + 0.03 * theory.risk(0.3)


def test_population_of_features():
    rng = np.random.default_rng(3)
    s, beta = np.geomspace(0.05, 1.0, 40), rng.standard_normal(40)
    z = rng.standard_normal((20_000, 40)) * np.sqrt(s)
    theory, rest = GaussianDesign.of_features(z, z @ beta + 0.5 * rng.standard_normal(20_000), 100, 0.05)
    assert rest == pytest.approx(0.25, rel=0.03)
    assert theory.risk(rest) == pytest.approx(GaussianDesign(s, beta**2, 100, 0.05).risk(0.25), rel=0.03)


@pytest.mark.parametrize(("arguments", "words"), [
    (([1.0, -1.0], [1.0, 1.0], 5), "eigenvalues must be"), (([1.0], [1.0, 2.0], 5), "shapes"),
    (([0.0], [1.0], 5), "all 0"), (([1.0], [np.nan], 5), "signal"), (([1.0], [1.0], 0), "n_samples"),
    (([1.0], [1.0], 5, -1.0), "ridge"),
])
def test_bad_input(arguments, words):
    with pytest.raises(wg.InvalidInput, match=words):
        GaussianDesign(*arguments)


def test_bad_populations():
    with pytest.raises(wg.InvalidInput, match="shapes"):
        GaussianDesign.of_features(np.ones((4, 2)), np.ones(3), 2)
    with pytest.raises(wg.InvalidInput, match="all 0"):
        GaussianDesign.of_features(np.zeros((4, 2)), np.ones(4), 2)
