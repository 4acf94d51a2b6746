"""Random features: the limit against the source's polynomials in 60 digits, closed forms, and finite sizes."""

import time
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.activations import Erf, Polynomial, ReLU, Tanh
from wgflow.reduced_models import LeastSquares, RandomFeatures
from wgflow.reduced_models.static_theories import equivalent_coefficients


def in_sixty_digits(zeta2, psi1, psi2, lam):
    """B and V as ratios of the three polynomials of the source, with the root by bisection."""
    with localcontext() as context:
        context.prec = 60
        z, p1, p2, lam = (Decimal(v) for v in (zeta2, psi1, psi2, lam))
        low, high = Decimal(0), max(p1, p2) * 2 + 2
        for _ in range(230):
            c = (low + high) / 2
            g = c * (1 + z + z * c) / (1 + z * c)
            small = g < min(p1, p2) and (p1 - g) * (p2 - g) > c * p1 * p2 * lam
            low, high = (c, high) if small else (low, c)
        x = -low
        e0 = (-(x**5) * z**3 + 3 * x**4 * z**2 + (p1 * p2 - p2 - p1 + 1) * x**3 * z**3 - 2 * x**3 * z**2 - 3 * x**3 * z
              + (p1 + p2 - 3 * p1 * p2 + 1) * x**2 * z**2 + 2 * x**2 * z + x**2 + 3 * p1 * p2 * x * z - p1 * p2)
        e1 = p2 * x**3 * z**2 - p2 * x**2 * z + p1 * p2 * x * z - p1 * p2
        e2 = (x**5 * z**3 - 3 * x**4 * z**2 + (p1 - 1) * x**3 * z**3 + 2 * x**3 * z**2 + 3 * x**3 * z
              + (-p1 - 1) * x**2 * z**2 - 2 * x**2 * z - x**2)
        return float(e1 / e0), float(e2 / e0)


@given(st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-12, 3)),
       st.sampled_from([ReLU(), Tanh(), ReLU(offset=0.7)]))
@settings(max_examples=60, deadline=None)
def test_polynomials_of_the_source(exponents, activation):
    psi1, psi2, ridge = (10.0**e for e in exponents)
    theory = RandomFeatures(activation, psi1, psi2, ridge)
    mu = theory.coefficients
    expected = in_sixty_digits((mu.linear / mu.nonlinear) ** 2, psi1, psi2, ridge / mu.nonlinear**2)
    # Near the threshold, at hardly any ridge, c is sensitive to the rounding of psi2 - psi1 in the arguments.
    assert (theory.bias, theory.variance) == pytest.approx(expected, rel=2e-9)


def test_reference_values():
    theory = RandomFeatures(ReLU(), 2, 3, 1e-3)
    assert (theory.bias, theory.variance) == pytest.approx((0.6011889087, 1.6314973935), abs=6e-11)
    ridgeless = RandomFeatures(ReLU(), 2, 3)
    assert (ridgeless.bias, ridgeless.variance) == pytest.approx((0.6848993928, 2.0), abs=6e-11)
    risks = RandomFeatures(ReLU(), [1, 2.9, 12], 3, 1e-8).risk(1.0, noise=0.2)
    np.testing.assert_allclose(risks, [0.771859, 10.31194, 0.207173], atol=6e-7, rtol=6e-7)
    assert RandomFeatures(ReLU(), 4, 2, 1e-2).risk(0.0, nonlinear=1.0) == pytest.approx(1.79584, abs=6e-6)


@pytest.mark.parametrize(("psi1", "psi2"), [(0.4, 3.0), (2.0, 2.5), (5.0, 1.0)])
def test_ridgeless_closed_form(psi1, psi2):
    theory = RandomFeatures(Tanh(), psi1, psi2)
    z = theory.zeta**2
    p = min(psi1, psi2)
    chi = -(np.sqrt((p * z - z - 1) ** 2 + 4 * z * p) + (p * z - z - 1)) / (2 * z)
    assert theory.bias == pytest.approx(RandomFeatures(Tanh(), psi1, psi2, 1e-15).bias, rel=1e-9)
    if psi1 < psi2:
        assert theory.variance == pytest.approx(psi1 / (psi2 - psi1), rel=1e-12)
    assert in_sixty_digits(z, psi1, psi2, 1e-40)[0] == pytest.approx(theory.bias, rel=1e-10)
    assert chi < 0


def test_infinite_ratios_are_limits():
    for finite, infinite in (((1e8, 2.0), (np.inf, 2.0)), ((2.0, 1e8), (2.0, np.inf)), ((1e8, 1e8), (np.inf, np.inf))):
        near, limit = RandomFeatures(ReLU(), *finite, 0.01), RandomFeatures(ReLU(), *infinite, 0.01)
        assert (limit.bias, limit.variance) == pytest.approx((near.bias, near.variance), rel=1e-6, abs=1e-7)


def test_threshold_is_infinite_and_told():
    theory = RandomFeatures(ReLU(), 2, 2)
    assert np.isinf(theory.bias)
    assert np.isinf(theory.variance)
    assert theory.training_error(1.0, 0.1) == 0.0


def test_ten_thousand_points_never_fail():
    draws = np.random.default_rng(13).uniform(size=(3, 10_000))
    start = time.process_time()
    theory = RandomFeatures(ReLU(), 10 ** (6 * draws[0] - 3), 10 ** (6 * draws[1] - 3), 10 ** (15 * draws[2] - 12))
    assert time.process_time() - start < 1.0
    for values in (theory.bias, theory.variance):
        assert values.shape == (10_000,)
        assert np.all(np.isfinite(values))
        assert np.all(values > 0.0)


def test_best_ridge_is_a_minimum():
    theory = RandomFeatures(ReLU(), 3.0, 2.0)
    ridge, risk = theory.best_ridge(1.0, noise=0.3)
    around = RandomFeatures(ReLU(), 3.0, 2.0, ridge * np.array([0.8, 0.98, 1.0, 1.02, 1.25])).risk(1.0, noise=0.3)
    assert np.argmin(around) == 2
    assert around[2] == pytest.approx(risk, rel=1e-12)
    assert RandomFeatures(ReLU(), 0.5, np.inf).best_ridge(1.0)[0] == 0.0  # the population, no noise: no ridge


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "theory_parts"), [
    ("linear", {"signal": 1.0}), ("noise", {"signal": 0.0, "noise": 1.0}), ("both", {"signal": 1.0, "noise": 0.3}),
    ("quadratic", {"signal": 0.0, "nonlinear": 1.0}),
])
def test_finite_size_within_three_standard_errors(kind, theory_parts):
    theory = RandomFeatures(ReLU(), 2, 3, 1e-2)
    found = theory.simulate(150, 12, rng=11, **theory_parts)
    allowed = 3 * found.standard_error + 2.0 / 150 * theory.risk(**theory_parts)  # and the difference O(1/d)
    assert abs(found.mean - theory.risk(**theory_parts)) < allowed
    if kind != "quadratic":
        same = theory.simulate(150, 12, rng=17, equivalent=True, **theory_parts)
        assert abs(same.mean - theory.risk(**theory_parts)) < 3 * same.standard_error + 2.0 / 150


@pytest.mark.slow
def test_error_falls_as_one_over_d():
    theory = RandomFeatures(Tanh(), 1.5, 3, 1e-2)
    errors = [abs(theory.simulate(d, 4_000 // d, rng=5, equivalent=True, noise=0.5).mean - theory.risk(1.0, noise=0.5))
              for d in (10, 40)]
    assert errors[1] < 0.5 * errors[0]


def test_training_error_against_fits():
    rng, d = np.random.default_rng(29), 120
    theory = RandomFeatures(ReLU(), 1.5, 2.0, 0.05)
    mu, values = theory.coefficients, []
    for _ in range(8):
        w = rng.standard_normal((180, d))
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        x = rng.standard_normal((240, d))
        z = mu.linear * (x @ w.T) + mu.nonlinear * rng.standard_normal((240, 180))
        y = x[:, 0] + np.sqrt(0.3) * rng.standard_normal(240)
        a = np.linalg.solve(z.T @ z / 240 + 0.05 * 1.5 * np.eye(180), z.T @ y / 240)
        values.append(np.mean((y - z @ a) ** 2))
    error = np.std(values, ddof=1) / np.sqrt(8)
    assert abs(np.mean(values) - theory.training_error(1.0, noise=0.3)) < 3 * error


@pytest.mark.parametrize(("arguments", "words"), [
    ({"psi1": 0.0}, "psi1=0.0: must be > 0"), ({"psi2": -1.0}, "psi2"), ({"ridge": -1e-9}, "ridge"),
    ({"psi1": [1, 2], "psi2": [1, 2, 3]}, "broadcast"), ({"activation": Polynomial([0.0, 1.0])}, "nonlinear part"),
    ({"psi1": np.nan}, "psi1"), ({"psi1": np.inf, "psi2": np.inf, "ridge": 0.0}, "both infinite"),
    ({"activation": np.tanh}, "activation"), ({"psi1": "two"}, "psi1"),
])
def test_bad_input(arguments, words):
    given_arguments = {"activation": ReLU(), "psi1": 2.0, "psi2": 3.0, "ridge": 0.1, **arguments}
    with pytest.raises(wg.InvalidInput, match=words):
        RandomFeatures(**given_arguments)


def test_simulation_refuses_what_has_no_size():
    with pytest.raises(wg.InvalidInput, match="psi1"):
        RandomFeatures(ReLU(), [1.0, 2.0], 3.0).simulate(50)
    with pytest.raises(wg.InvalidInput, match="nonlinear"):
        RandomFeatures(ReLU(), 1.0, 3.0).simulate(50, nonlinear=1.0, equivalent=True)


def test_coefficients_of_the_error_function():
    # E erf(G)^2 = (2/pi) arcsin(2/3), E G erf(G) = 2/sqrt(3 pi)
    square, slope = 2 / np.pi * np.arcsin(2 / 3), 2 / np.sqrt(3 * np.pi)
    mean, linear, nonlinear = equivalent_coefficients(Erf())
    assert (mean, linear) == pytest.approx((0.0, slope), abs=1e-13)
    assert nonlinear**2 == pytest.approx(square - slope**2, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(50, 30), (30, 50), (12, 40)])
def test_least_squares(n, d):
    theory = LeastSquares(n, d)
    found = theory.simulate(200, signal=1.0, noise=1.0, rng=3)
    assert abs(found.deviation(theory.risk(1.0, 1.0))) < 3.5
    assert theory.bias == max(0.0, 1 - n / d)


def test_least_squares_reference_and_threshold():
    assert LeastSquares(50, 30).variance == pytest.approx(30 / 19) == LeastSquares(30, 50).variance
    assert LeastSquares(30, 30).variance == np.inf == LeastSquares(31, 30).risk(1.0, 0.1)
    assert LeastSquares(30, 30).risk(1.0, 0.0) == 0.0
