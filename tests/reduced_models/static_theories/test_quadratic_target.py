"""A quadratic target: limits, exact finite dimension, training."""

import numpy as np
import pytest

import wgflow as wg
from wgflow.reduced_models import FiniteQuadraticTarget, QuadraticTarget


def test_reference_values():
    target = QuadraticTarget(0.5, 0.5)
    assert (target.risk_rf, target.risk_nt, target.risk_nn) == pytest.approx((0.833333, 0.375, 0.033313), abs=5e-7)


@pytest.mark.parametrize("kappa", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("psi", [0.05, 0.6, 1.5])
def test_default_spectrum_is_a_gamma_law(kappa, psi):
    sample = np.random.default_rng(5).gamma(kappa / (1 - kappa), size=400_000)
    own = np.mean(sample) ** 2 / np.mean(sample**2)
    given_sample = QuadraticTarget(own, psi, eigenvalues=sample)
    assert QuadraticTarget(kappa, psi).risk_nn == pytest.approx(given_sample.risk_nn, abs=0.01)


def test_ends_of_kappa_and_psi():
    assert QuadraticTarget(1.0, 0.3).risk_nn == pytest.approx(0.7)
    assert QuadraticTarget(0.0, 0.3).risk_nn == 0.0
    many = QuadraticTarget(0.4, np.inf)
    assert (many.risk_rf, many.risk_nt, many.risk_nn) == (0.6, 0.0, 0.0)


def test_finite_risks_meet_their_limits_and_their_draws():
    eigenvalues = np.random.default_rng(3).exponential(size=200)
    target = FiniteQuadraticTarget(eigenvalues, 80)
    limit = target.limit()
    assert limit.risk_nn == pytest.approx(target.risk_nn, abs=1e-12)
    assert limit.risk_nt == pytest.approx(target.risk_nt, abs=0.01)
    drawn = target.tangent(30, rng=7)
    assert abs(drawn.deviation(target.risk_nt)) < 3.5
    features = target.random_features(8, rng=7)
    assert abs(features.mean - limit.risk_rf) < 3 * features.standard_error + 0.02


def test_another_law_of_the_weights():
    eigenvalues = np.random.default_rng(3).exponential(size=200)
    target = FiniteQuadraticTarget(eigenvalues, 100, covariance=eigenvalues / eigenvalues.sum())
    limit, features = target.limit(), target.random_features(8, rng=7)
    assert limit.alignment == pytest.approx(1.0)
    assert limit.spread > 1.5
    assert abs(features.mean - limit.risk_rf) < 3 * features.standard_error + 0.02


def test_random_features_by_sampled_least_squares():
    """R = 1 - v'K^-1 v/(2 |B|^2) against a regression on drawn inputs."""
    target = FiniteQuadraticTarget([2.0, 1.0, 0.5, -0.3], 3)
    exact = target.random_features(2, rng=9).values[0]
    generator = np.random.default_rng(9).spawn(2)[0]
    w = generator.standard_normal((3, 4)) / 2.0
    x = np.random.default_rng(1).standard_normal((400_000, 4))
    f, z = (x**2 - 1) @ np.array([2.0, 1.0, 0.5, -0.3]), (x @ w.T) ** 2 - 1
    a = np.linalg.lstsq(z, f)[0]
    assert np.mean((f - z @ a) ** 2) / np.mean(f**2) == pytest.approx(exact, abs=0.01)


def test_as_many_features_as_there_are_squares_and_a_constant_learn_everything():
    for d, covariance in ((2, None), (4, None), (3, [1.0, 0.5, 0.2])):
        target = FiniteQuadraticTarget(np.arange(1.0, d + 1), d * (d + 1) // 2 + 1, covariance=covariance)
        np.testing.assert_allclose(target.random_features(4, rng=2).values, 0.0, atol=1e-7)


def test_gradient_flow_finds_the_largest_eigenvalues():
    target = FiniteQuadraticTarget(np.linspace(0.0, 1.0, 12), 4)
    path = target.gradient_flow(200.0, rng=3)
    assert path.risk[-1] == pytest.approx(target.risk_nn, abs=1e-9)
    assert np.all(np.diff(path.risk) <= 1e-9)


def test_gradient_flow_is_the_gradient_of_the_risk():
    target = FiniteQuadraticTarget([1.0, 0.4, -0.2], 2)
    w = np.array([[0.3, -0.2, 0.5], [0.1, 0.7, -0.4]])
    path = target.gradient_flow(1e-4, 2, w0=w)
    scale, h = 2 * np.sum(target.matrix**2), 1e-6
    slope = np.zeros_like(w)
    for i in np.ndindex(w.shape):
        step = np.zeros_like(w)
        step[i] = h
        slope[i] = scale * (target.risk(w + step, 0.0) - target.risk(w - step, 0.0)) / (2 * h)
    np.testing.assert_allclose((path.w[1] - path.w[0]) / 1e-4, -slope, rtol=5e-3, atol=1e-3)


def test_sgd_tends_to_the_flow():
    target = FiniteQuadraticTarget(np.linspace(0.0, 1.0, 8), 3)
    w0 = np.random.default_rng(5).standard_normal((3, 8)) / np.sqrt(8)
    flow = target.gradient_flow(1.0, 11, w0=w0)
    errors = [np.max(np.abs(np.mean([target.sgd(1.0, step, 11, w0=w0, rng=seed).risk for seed in range(6)], axis=0)
                            - flow.risk)) for step in (1e-3, 5e-5)]
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize(("make", "words"), [
    (lambda: QuadraticTarget(1.2, 0.5), "kappa"), (lambda: QuadraticTarget(0.5, 0.0), "psi"),
    (lambda: QuadraticTarget(0.5, 0.5, spread=0.5), "spread"),
    (lambda: QuadraticTarget(0.5, 0.5, eigenvalues=[1.0, 1.0]), "kappa = mean"),
    (lambda: FiniteQuadraticTarget(np.zeros((3, 3)), 2), "nothing to learn"),
    (lambda: FiniteQuadraticTarget([[0.0, 1.0], [2.0, 0.0]], 1), "symmetric"),
    (lambda: FiniteQuadraticTarget([1.0, 2.0], 5).random_features(2), "linearly dependent"),
    (lambda: FiniteQuadraticTarget([1.0, 2.0, 0.5], 5, covariance=[1.0, 1.0, 0.0]).random_features(2), "r = 2"),
    (lambda: FiniteQuadraticTarget([1.0, 2.0, 0.5], 2, covariance=np.zeros(3)), "covariance is zero"),
    (lambda: FiniteQuadraticTarget([1.0, 2.0], 4, covariance=[1.0, 1e-11]).random_features(2, 1), "to rounding"),
    (lambda: FiniteQuadraticTarget([1.0, 2.0], 1).gradient_flow(1.0, w0=[1.0, 2.0]), "w0 has shape"),
    (lambda: FiniteQuadraticTarget([1.0, 2.0], 1, covariance=[[1.0, 2.0], [2.0, 1.0]]), "covariance"),
])
def test_bad_input(make, words):
    with pytest.raises(wg.InvalidInput, match=words):
        make()


def test_sgd_that_diverges_is_told():
    with pytest.raises(wg.ConvergenceError, match="step_size=1"):
        FiniteQuadraticTarget([3.0, 2.0], 1).sgd(50.0, 1.0, rng=3)
