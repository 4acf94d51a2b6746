"""Activations: every closed form against an independent quadrature, sampling or finite differences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from wgflow.activations import (
    Erf,
    NonMonotone,
    PiecewiseLinear,
    Polynomial,
    Ramp,
    ReLU,
    Softplus,
    Tanh,
)
from wgflow.errors import InvalidInput, InvalidType

SLANTED = PiecewiseLinear([-1.0, 0.0, 0.4], [1.0, 2.0, -1.0], left_slope=0.3, right_slope=-0.7)
PIECEWISE = [Ramp(), NonMonotone(), ReLU(), ReLU(0.3), SLANTED]
SMOOTH = [Tanh(), Erf(), Softplus(), Polynomial([1.0, 2.0, -0.5, 0.3])]
ALL = PIECEWISE + SMOOTH
SCALES = np.array([0.3, 1.0, 2.5])


def named(activations):
    return pytest.mark.parametrize("sigma", activations, ids=repr)


def gaussian_average(f, bends):
    """Adaptive quadrature on the pieces between the bends of the integrand."""
    edges = np.unique([-12.0, *(z for z in bends if abs(z) < 12), 0.0, 12.0])


    def weighted(z):
        return f(z) * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)

    return sum(quad(weighted, a, b, epsabs=1e-12, epsrel=1e-12)[0] for a, b in pairwise(edges))


def average_over_angles(sigma, t, dim):
    """E sigma(t c) by adaptive quadrature in the angle."""
    bends = [np.arccos(k / t) for k in getattr(sigma, "knots", []) if abs(k) < t]
    edges = np.unique([0.0, *bends, 0.5 * np.pi, np.pi])

    def integral(f):
        return sum(quad(lambda x: f(np.cos(x)) * np.sin(x) ** (dim - 2), a, b)[0] for a, b in pairwise(edges))

    return integral(lambda c: sigma(t * c)) / integral(np.ones_like)


def hermite(k, z):
    previous, current = 0.0, 1.0
    for n in range(k):
        previous, current = current, (z * current - np.sqrt(n) * previous) / np.sqrt(n + 1)
    return current


@named(ALL)
def test_values_are_consistent_with_derivatives(sigma):
    t = np.linspace(-3, 3, 37) + 0.0123
    difference = (sigma(t + 1e-6) - sigma(t - 1e-6)) / 2e-6
    assert sigma.derivative(t) == pytest.approx(difference, abs=1e-8)


def test_the_talks_activations():
    assert Ramp()([-9.0, 0.5, 1.0, 1.5, 9.0]).tolist() == [-2.5, -2.5, 2.5, 7.5, 7.5]
    assert NonMonotone()([-9.0, 0.0, 0.5, 1.0, 1.5, 9.0]).tolist() == [-2.5, -2.5, -4.0, 1.75, 7.5, 7.5]
    assert ReLU(0.5)([-1.0, -0.5, 0.0, 1.0]).tolist() == [0.0, 0.0, 0.5, 1.5]
    assert Ramp().derivative([0.5, 0.6, 1.5, 1.6]).tolist() == [0.0, 10.0, 10.0, 0.0]  # at a kink: from the left


@named(ALL)
@pytest.mark.parametrize("s", SCALES)
def test_mean_and_hermite_coefficients_against_quadrature(sigma, s):
    coefficients = sigma.hermite_coefficients(s, 6)
    bends = [t / s for t in getattr(sigma, "knots", [])]
    for k in range(7):
        expected = gaussian_average(lambda z, k=k: sigma(s * z) * hermite(k, z), bends)
        assert coefficients[k] == pytest.approx(expected, abs=2e-12)
    assert sigma.gaussian_mean(s) == pytest.approx(coefficients[0], abs=1e-14)


@named(ALL)
def test_derivatives_in_the_scale(sigma):
    h = 1e-5
    for order in (1, 2):
        difference = (sigma.gaussian_mean(SCALES + h, order - 1) - sigma.gaussian_mean(SCALES - h, order - 1)) / (2 * h)
        assert sigma.gaussian_mean(SCALES, order) == pytest.approx(difference, abs=1e-7)
        up, down = (sigma.hermite_coefficients(SCALES + e, 8, order - 1) for e in (h, -h))
        assert sigma.hermite_coefficients(SCALES, 8, order) == pytest.approx((up - down) / (2 * h), abs=1e-6)


@named(ALL)
def test_scale_zero_is_the_limit(sigma):
    a = sigma.hermite_coefficients([0.0, 1e-300, 1e-12], 5)
    assert a[0] == pytest.approx(float(sigma(0.0)), abs=1e-11)
    assert np.max(np.abs(a[1:])) < 1e-10
    assert np.isfinite(sigma.hermite_coefficients(0.0, 5, 1)).all()
    assert sigma.pair_expectation(0.0, 1.3, 0.4) == pytest.approx(sigma(0.0) * sigma.gaussian_mean(1.3), abs=1e-13)


OFFSETS = np.array([-1.4, 0.0, 0.3, 2.2])


@pytest.mark.slow
@named(ALL)
@pytest.mark.parametrize("b", OFFSETS)
def test_offsets_against_quadrature(sigma, b):
    for s in SCALES:
        bends = [(t - b) / s for t in getattr(sigma, "knots", [])]
        coefficients = sigma.hermite_coefficients(s, 5, offset=b)
        slopes = sigma.hermite_coefficients(s, 5, offset=b, offset_order=1)
        for k in range(6):
            expected = gaussian_average(lambda z, k=k, s=s: sigma(s * z + b) * hermite(k, z), bends)
            assert coefficients[k] == pytest.approx(expected, abs=3e-12)
            expected = gaussian_average(lambda z, k=k, s=s: sigma.derivative(s * z + b) * hermite(k, z), bends)
            assert slopes[k] == pytest.approx(expected, abs=3e-12)
        assert sigma.gaussian_mean(s, offset=b) == pytest.approx(coefficients[0], abs=1e-14)


@named(ALL)
@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (0, 1)])
def test_derivatives_in_scale_and_offset(sigma, orders):
    s, b, h = SCALES[:, None], OFFSETS, 1e-5
    order, offset_order = orders

    def coefficients(s, b, order=order, offset_order=offset_order):
        return sigma.hermite_coefficients(s, 8, order, offset=b, offset_order=offset_order)

    difference = (coefficients(s + h, b) - coefficients(s - h, b)) / (2 * h)
    assert coefficients(s, b, order + 1) == pytest.approx(difference, abs=2e-6)
    difference = (coefficients(s, b + h) - coefficients(s, b - h)) / (2 * h)
    assert coefficients(s, b, offset_order=offset_order + 1) == pytest.approx(difference, abs=2e-6)


@named(ALL)
def test_an_offset_is_a_shift_of_the_activation(sigma):
    """Stein's rule and the two derivatives hold between coefficients that are computed by different formulas."""
    s, b, k = SCALES[:, None], OFFSETS, np.arange(1.0, 13.0)[:, None, None]
    a = sigma.hermite_coefficients(s, 14, offset=b)
    slopes = sigma.hermite_coefficients(s, 13, offset=b, offset_order=1)
    assert a[1:13] == pytest.approx(s * slopes[:12] / np.sqrt(k), abs=1e-12)
    derivative = sigma.hermite_coefficients(s, 12, 1, offset=b)
    assert derivative[1:] == pytest.approx(np.sqrt(k) * slopes[:12] + np.sqrt(k + 1) * slopes[2:], abs=1e-12)


@named(ALL)
def test_scale_zero_with_an_offset_is_the_limit(sigma):
    b = OFFSETS + 0.05  # no knot among them, where the limit depends on the path
    a = sigma.hermite_coefficients([[0.0], [1e-300], [1e-12]], 4, offset=b)
    assert a[0] == pytest.approx(np.broadcast_to(sigma(b), (3, 4)), abs=1e-11)
    assert np.max(np.abs(a[1:])) < 1e-10
    slopes = sigma.hermite_coefficients(0.0, 4, offset=b, offset_order=1)
    assert slopes[0] == pytest.approx(sigma.derivative(b), abs=1e-12)
    assert slopes[1:] == pytest.approx(np.zeros((4, 4)), abs=1e-12)
    at_a_knot = ReLU().hermite_coefficients(0.0, 4, offset=0.0, offset_order=1)
    assert at_a_knot == pytest.approx(ReLU().hermite_coefficients(1.0, 4, offset_order=1), abs=1e-15)


def test_closed_forms_of_a_rectifier_with_offset():
    s, b = 0.7, 0.4
    phi = np.exp(-0.5 * (b / s) ** 2) / np.sqrt(2 * np.pi)
    cdf = gaussian_average(lambda z: np.where(z < b / s, 1.0, 0.0), [b / s])
    a = ReLU().hermite_coefficients(s, 4, offset=b)
    expected = [s * phi + b * cdf, s * cdf] + [s / np.sqrt(k * (k - 1)) * phi * hermite(k - 2, -b / s)
                                               for k in (2, 3, 4)]
    assert a == pytest.approx(np.array(expected, dtype=float), abs=1e-13)
    assert ReLU(b).hermite_coefficients(s, 4) == pytest.approx(a, abs=1e-15)


@named(ALL)
@pytest.mark.parametrize("rho", [-1.0, -0.6, 0.0, 0.35, 0.97, 1.0])
@pytest.mark.parametrize(("s1", "b1", "s2", "b2"), [(0.7, 0.3, 1.9, -1.4), (1.1, -0.5, 0.4, 0.5)])
def test_pair_expectation_with_offsets_against_quadrature(sigma, rho, s1, b1, s2, b2):
    knots, root = np.asarray(getattr(sigma, "knots", [])), np.sqrt(1 - rho * rho)

    def inner(z):
        if root == 0.0:
            return sigma(s2 * rho * z + b2)
        edges = ((knots - b2) / s2 - rho * z[..., None]) / root
        return _panels(lambda x: sigma(s2 * (rho * z[..., None, None] + root * x) + b2), edges)

    bends = [*(knots - b1) / s1, *(rho * (knots - b2) / s2 if root == 0.0 else [])]
    expected = _panels(lambda z: sigma(s1 * z + b1) * inner(z), bends)
    pair = sigma.pair_expectation(s1, s2, rho, offset1=b1, offset2=b2)
    assert pair == pytest.approx(expected, abs=1e-10)


def _panels(f, bends):
    """Averages over a normal law by Gauss-Legendre panels that end at the bends, one for each row of bends."""
    bends = np.clip(np.asarray(bends, dtype=float), -10.0, 10.0)
    equal = np.broadcast_to(np.linspace(-10.0, 10.0, 9), (*bends.shape[:-1], 9))
    edges = np.sort(np.concatenate([equal, bends], axis=-1), axis=-1)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    a, b = edges[..., :-1, None], edges[..., 1:, None]
    z = 0.5 * (a + b) + 0.5 * (b - a) * nodes
    return np.sum(0.5 * (b - a) * weights * f(z) * np.exp(-0.5 * z * z), axis=(-2, -1)) / np.sqrt(2 * np.pi)


def test_pair_expectations_broadcast_over_all_arguments():
    s, b, rho = SCALES[:, None], OFFSETS, np.linspace(-1, 1, 5)[:, None, None]
    for sigma in (SLANTED, Erf(), Tanh()):
        table = sigma.pair_expectation(s, 0.8, rho, offset1=b, offset2=-0.2)
        assert table.shape == (5, 3, 4)
        one = sigma.pair_expectation(SCALES[1], 0.8, -0.5, offset1=OFFSETS[2], offset2=-0.2)
        assert table[1, 1, 2] == pytest.approx(float(one), abs=1e-13)
        swapped = sigma.pair_expectation(0.8, s, rho, offset1=-0.2, offset2=b)
        assert table == pytest.approx(swapped, abs=1e-12)


@named(PIECEWISE[:2])
def test_means_at_huge_scales_do_not_cancel(sigma):
    assert sigma.gaussian_mean([1e8, 1e300]) == pytest.approx(2.5, abs=1e-7)


@pytest.mark.parametrize(
    ("s1", "s2", "rho", "expected"),
    [(0.7, 1.9, 0.3, 0.9402352813315), (1.3, 1.3, -0.8, -4.9235001379967), (0.4, 3.0, 0.95, -1.4838277319232)],
)
def test_pair_expectation_reference(s1, s2, rho, expected):
    assert Ramp().pair_expectation(s1, s2, rho) == pytest.approx(expected, abs=5e-13)


@named(ALL)
@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.35])
def test_pair_expectation_is_the_mehler_series(sigma, rho):
    degree = 42 if sigma in SMOOTH else 120
    a = sigma.hermite_coefficients(SCALES, degree)
    series = np.einsum("ki,kj,k->ij", a, a, rho ** np.arange(degree + 1))
    pair = sigma.pair_expectation(SCALES[:, None], SCALES[None, :], rho)
    assert pair == pytest.approx(series, abs=2e-11)


@named(ALL)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("s1", "s2"), [(0.7, 0.7), (0.7, 1.9), (2.5, 0.3)])
def test_pair_expectation_at_the_ends_is_one_dimensional(sigma, sign, s1, s2):
    bends = [t / s for t in getattr(sigma, "knots", []) for s in (s1, s2, -s2)]
    expected = gaussian_average(lambda z: sigma(s1 * z) * sigma(sign * s2 * z), bends)
    assert sigma.pair_expectation(s1, s2, sign) == pytest.approx(expected, abs=1e-10)


@named(PIECEWISE)
def test_pair_expectation_is_continuous_at_the_ends(sigma):
    for s2 in (0.7, 0.7 + 1e-9, 1.3):
        for sign in (1.0, -1.0):
            near = sigma.pair_expectation(0.7, s2, sign * (1.0 - 1e-13))
            assert near == pytest.approx(float(sigma.pair_expectation(0.7, s2, sign)), abs=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=5, unique_by=lambda x: round(x, 3)),
    st.integers(0, 10**6),
    st.floats(0.05, 4),
    st.floats(0.05, 4),
    st.floats(-0.5, 0.5),
)
def test_any_piecewise_linear_pair_is_its_series(knots, seed, s1, s2, rho):
    rng = np.random.default_rng(seed)
    left, right = rng.uniform(-1, 1, 2)
    knots = np.sort(knots)
    values = np.cumsum(rng.uniform(-1, 1, knots.size) * np.diff(knots, prepend=knots[0] - 1.0))
    sigma = PiecewiseLinear(knots, values, left, right)
    a1, a2 = sigma.hermite_coefficients(s1, 60), sigma.hermite_coefficients(s2, 60)
    series = np.sum(a1 * a2 * rho ** np.arange(61))
    assert sigma.pair_expectation(s1, s2, rho) == pytest.approx(series, abs=1e-10)


@named(ALL)
@pytest.mark.parametrize("dim", [2, 3, 7, 40])
def test_sphere_mean_against_quadrature(sigma, dim):
    for t in (0.7, 3.0):
        assert sigma.sphere_mean(t, dim) == pytest.approx(average_over_angles(sigma, t, dim), abs=1e-9)
        for order in (1, 2):
            up, down = (sigma.sphere_mean(t + h, dim, order - 1) for h in (1e-6, -1e-6))
            difference = (up - down) / 2e-6
            assert sigma.sphere_mean(t, dim, order) == pytest.approx(difference, abs=1e-6)


@named(ALL)
def test_sphere_mean_on_two_points(sigma):
    t = np.array([0.0, 0.7, 3.0])
    assert sigma.sphere_mean(t, 1) == pytest.approx(0.5 * (sigma(t) + sigma(-t)), abs=1e-14)


@named(ALL)
def test_sphere_mean_tends_to_the_gaussian_mean(sigma):
    dim = 4000
    assert sigma.sphere_mean(np.sqrt(dim) * SCALES, dim) == pytest.approx(sigma.gaussian_mean(SCALES), abs=2e-2)


@named(ALL)
def test_equality_hash_and_repr(sigma):
    again = eval(repr(sigma), {k: v for k, v in globals().items() if isinstance(v, type)})
    assert again == sigma
    assert hash(again) == hash(sigma)
    assert sum(sigma == other for other in ALL) == 1


def test_equality_is_of_functions():
    assert PiecewiseLinear([0.5, 1.0, 1.5], [-2.5, 2.5, 7.5]) == Ramp()
    assert PiecewiseLinear([0.0], [0.0], right_slope=1.0) == ReLU()
    assert Polynomial([1.0, 0.0]) == Polynomial([1.0])


def test_piecewise_linear_arrays_are_protected():
    knots = np.array([0.0, 1.0])
    sigma = PiecewiseLinear(knots, [0.0, 1.0])
    knots[0] = -5.0
    assert sigma.knots[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        sigma.knots[0] = 3.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PiecewiseLinear([1.0, 0.0], [0.0, 1.0]), r"knots\[1\]=0.0 <= knots\[0\]=1.0"),
        (lambda: PiecewiseLinear([0.0, 1.0], [0.0]), "one length"),
        (lambda: PiecewiseLinear([], []), "length >= 1"),
        (lambda: PiecewiseLinear([0.0, np.nan], [0.0, 1.0]), r"knots\[1\] is nan; it must be finite"),
        (lambda: PiecewiseLinear([0.0], [0.0], right_slope=np.inf), "finite"),
        (lambda: Polynomial([]), "length >= 1"),
        (lambda: Polynomial(np.ones(30)), "<= 20"),
        (lambda: Ramp().gaussian_mean(-1.0), ">= 0"),
        (lambda: Ramp().gaussian_mean(np.nan), ">= 0"),
        (lambda: Ramp().pair_expectation(1.0, 1.0, 1.0001), r"\[-1, 1\]"),
        (lambda: Tanh().pair_expectation(1.0, 1.0, np.nan), r"\[-1, 1\]"),
        (lambda: Ramp().hermite_coefficients(1.0, -1), "degree=-1"),
        (lambda: Ramp().hermite_coefficients(1.0, 3, 3), "order=3"),
        (lambda: Ramp().hermite_coefficients(0.0, 3, 2), "s > 0"),
        (lambda: Tanh().hermite_coefficients(1.0, 60), "degree=60"),
        (lambda: Ramp().sphere_mean(1.0, 1, 2), "dim=1"),
        (lambda: Ramp().gaussian_mean(1.0, offset=np.nan), "offset must be finite"),
        (lambda: Tanh().hermite_coefficients(1.0, 3, offset=np.inf), "offset must be finite"),
        (lambda: Erf().pair_expectation(1.0, 1.0, 0.5, offset2=np.nan), "offset2 must be finite"),
        (lambda: Ramp().hermite_coefficients(1.0, 3, 1, offset_order=2), "at most two derivatives"),
        (lambda: Ramp().hermite_coefficients(1.0, 3, offset_order=3), "offset_order=3"),
        (lambda: Ramp().hermite_coefficients(0.0, 3, 1, offset_order=1), "s > 0"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(InvalidInput, match=message):
        build()


@pytest.mark.parametrize("knots", [["a", "b"], [1j, 2.0], [None]])
def test_knots_of_the_wrong_kind(knots):
    with pytest.raises(InvalidType, match=r"knots has .*need real numbers"):
        PiecewiseLinear(knots, [0.0] * len(knots))


@pytest.mark.parametrize("activation", [
    Erf(), Polynomial([0.3, 1.0, -0.4, 0.2]), Ramp(), NonMonotone(), ReLU(0.2),
    PiecewiseLinear([-1.0, 0.5], [0.3, 1.0], left_slope=0.7, right_slope=-0.2),
], ids=repr)
def test_pair_slopes_are_derivatives_in_the_covariance(activation):
    """d/dC_11 = E sigma'' sigma / 2 and d/dC_12 = E sigma' sigma', by differences; at rho = +-1 along the line."""
    def mean(c11, c12, c22):
        return activation.pair_expectation(np.sqrt(c11), np.sqrt(c22), c12 / np.sqrt(c11 * c22))

    h = 1e-5
    bent, both = activation.pair_slopes(np.sqrt(1.3), np.sqrt(0.8), 0.6 / np.sqrt(1.3 * 0.8))
    assert bent / 2 == pytest.approx((mean(1.3 + h, 0.6, 0.8) - mean(1.3 - h, 0.6, 0.8)) / (2 * h), abs=1e-8)
    assert both == pytest.approx((mean(1.3, 0.6 + h, 0.8) - mean(1.3, 0.6 - h, 0.8)) / (2 * h), abs=1e-8)
    for sign in (1.0, -1.0):
        bent, both = activation.pair_slopes(np.sqrt(1.3), np.sqrt(1.3), sign)
        line = [activation.pair_expectation(np.sqrt(c), np.sqrt(c), sign) for c in (1.3 + h, 1.3 - h)]
        assert bent + sign * both == pytest.approx((line[0] - line[1]) / (2 * h), abs=1e-8)


def test_pair_slopes_without_closed_form_are_refused():
    with pytest.raises(InvalidInput, match=r"Tanh\(\) has no closed form"):
        Tanh().pair_slopes(1.0, 1.0, 0.5)


def test_long_tables_are_shown_in_short_and_told_apart():
    t = np.linspace(-5.0, 5.0, 101)
    one, other = PiecewiseLinear(t, t**3, right_slope=75.0), PiecewiseLinear(t, t**3 + (t == 0.0), right_slope=75.0)
    assert repr(one).startswith("PiecewiseLinear(<101 knots from -5 to 5, sha256 ")
    assert len(repr(one)) < 120
    assert repr(one) != repr(other)
    assert repr(one) == repr(PiecewiseLinear(t, t**3, right_slope=75.0))
