"""Laws of a radius against quadrature, SciPy's distributions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad, solve_ivp

from wgflow.errors import InvalidInput, InvalidType
from wgflow.reduced_models import AnisotropicGaussian, IsotropicGaussian, ReLUNetwork
from wgflow.reduced_models.radial_laws import (
    check_held,
    chi_masses,
    chi_rule,
    cosine_moments,
    gauss_chi_rule,
    log_sphere_weight,
    noisy_deviation,
)

EDGES = np.array([0.0, 0.3, 0.5, 1.1, 2.0])


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_sphere_weight_integrates_to_volumes_of_balls(n):
    log_volumes = log_sphere_weight(EDGES, n) + np.log(np.diff(EDGES))
    ball = math.pi ** (n / 2) / math.gamma(n / 2 + 1) * EDGES**n
    np.testing.assert_allclose(np.exp(log_volumes), np.diff(ball), rtol=1e-12)


def test_sphere_weight_of_many_dimensions_is_finite():
    assert np.isfinite(log_sphere_weight(EDGES, 100_000)).all()


@pytest.mark.parametrize("n", [1, 2, 7, 320])
def test_chi_masses_against_scipy(n):
    d, kappa = n + 5, 0.8
    edges = np.linspace(0.0, 2.0, 41)
    expected = np.diff(stats.chi(n, scale=kappa / math.sqrt(d)).cdf(edges))
    np.testing.assert_allclose(chi_masses(edges, n, kappa, d), expected, rtol=1e-9, atol=1e-15)


def test_chi_masses_are_accurate_in_both_tails():
    # exp(-r^2 / kappa^2) is the upper tail for n = d = 2.
    edges = np.array([0.0, 1e-8, 1.0, 20.0, 20.5])
    expected = np.array([1e-16, 1 - math.exp(-1.0) - 1e-16, math.exp(-1.0), math.exp(-400.0) - math.exp(-420.25)])
    np.testing.assert_allclose(chi_masses(edges, 2, 1.0), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_gauss_rule_is_exact_for_polynomials_of_the_square(n):
    x, weights = gauss_chi_rule(n, 6)
    assert weights.sum() == pytest.approx(1.0, abs=1e-15)
    for k in range(12):  # E chi^(2k) = n (n + 2) ... (n + 2k - 2)
        moment = math.prod(n + 2 * i for i in range(k))
        assert np.sum(weights * x ** (2 * k)) == pytest.approx(moment, rel=1e-12)
    missed = math.prod(n + 2 * i for i in range(12))
    assert abs(np.sum(weights * x**24) / missed - 1) > 1e-9


@pytest.mark.parametrize("n", [1, 3, 40])
def test_panel_rule_integrates_a_kink(n):
    x, weights = chi_rule(n, 512)
    knot = 0.4 * math.sqrt(n)
    density = stats.chi(n).pdf
    exact = quad(lambda r: (r - knot) * density(r), knot, knot + 40, epsabs=1e-13, limit=400, points=[math.sqrt(n)])[0]
    assert np.sum(weights * np.maximum(x - knot, 0.0)) == pytest.approx(exact, abs=3e-5)
    assert np.sum(weights * x**2) == pytest.approx(n, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_cosine_moments(n):
    moments = cosine_moments(n, 3)
    if n == 1:
        expected = [1.0] * 4
    else:
        norm = quad(lambda a: math.sin(a) ** (n - 2), 0, math.pi)[0]
        expected = [quad(lambda a, k=2 * k: math.cos(a) ** k * math.sin(a) ** (n - 2), 0, math.pi)[0] / norm
                    for k in range(4)]
    np.testing.assert_allclose(moments, expected, rtol=1e-9)


def test_cosine_moments_vanish_in_the_limit():
    assert cosine_moments(math.inf, 3).tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: log_sphere_weight([-1.0, 1.0], 3), InvalidInput, r"edges\[0\]=-1: .* starts at 0 or above"),
    (lambda: log_sphere_weight([0.0, 1.0], 0), InvalidInput, "n=0: need an integer >= 1"),
    (lambda: log_sphere_weight([0.0, 1.0], 2.0), InvalidType, "n must be an int"),
    (lambda: chi_masses([-1.0, 1.0], 3, 0.8), InvalidInput, "starts at 0 or above"),
    (lambda: chi_masses([1.0], 3, 0.8), InvalidInput, r"shape \(1,\)"),
    (lambda: chi_masses(1.0, 3, 0.8), InvalidInput, r"edges have shape \(\): need"),
    (lambda: chi_masses([[0.0, 1.0]], 3, 0.8), InvalidInput, r"edges have shape \(1, 2\): need"),
    (lambda: chi_masses([0.0, 1.0], 3, 0.0), InvalidInput, "kappa=0"),
    (lambda: chi_masses([0.0, 1.0], 3, 0.8, 2), InvalidInput, "d=2: need an integer >= 3"),
    (lambda: gauss_chi_rule(3, 0), InvalidInput, "nodes=0"),
    (lambda: check_held(np.array([0.9]), EDGES, "kappa=3", "r"), InvalidInput, r"kappa=3: .* r in \[0, 2\]"),
])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kappa", [None, 0.5, 3.0])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("clock", [1.0, 2.5])
def test_noise_and_ridge_widen_a_weight_as_its_variance_obeys(kappa, ridge, clock):
    """v' = c (2 / beta - 2 ridge v): the largest v until a time, of n = 8 weights."""
    beta, t_end, start = 4.0, 0.7, 0.0 if kappa is None else kappa**2 / 8
    v = solve_ivp(lambda t, v: clock * (2 / beta - 2 * ridge * v), (0, t_end), [start], rtol=1e-11, atol=1e-13).y[0]
    assert noisy_deviation(kappa, 8, beta, ridge, t_end, clock) == pytest.approx(math.sqrt(v.max()), rel=1e-9)
    assert noisy_deviation(kappa, 8, beta, ridge, 0.0, clock) == pytest.approx(math.sqrt(start), rel=1e-15)
    # For all times: what comes to rest, or the start where no ridge, no noise or infinitely many weights keep it.
    rest = max(start, 1 / (beta * ridge)) if ridge else start
    assert noisy_deviation(kappa, 8, beta, ridge, None, clock) == pytest.approx(math.sqrt(rest), rel=1e-15)
    assert noisy_deviation(kappa, 8, math.inf, ridge, t_end, clock) == pytest.approx(math.sqrt(start), rel=1e-15)
    assert noisy_deviation(kappa, math.inf, beta, ridge, t_end, clock) == 0.0


def test_models_take_their_weights_from_here():
    line = IsotropicGaussian(d=7, delta=0.5).grid(cells=30)
    np.testing.assert_array_equal(line.log_weight, log_sphere_weight(line.edges[0], 7))
    plane = AnisotropicGaussian(d=9, s0=3, delta=0.5).grid(cells=(8, 6))
    expected = log_sphere_weight(plane.edges[0], 3)[:, None] + log_sphere_weight(plane.edges[1], 6)
    np.testing.assert_array_equal(plane.log_weight, expected)
    space = ReLUNetwork(d=9, s0=3, delta=0.5).grid(cells=6)
    np.testing.assert_array_equal(space.log_weight[2, 3],
                                  log_sphere_weight(space.edges[2], 3)[:, None] + log_sphere_weight(space.edges[3], 6))
