"""The staircase: kernels on the sphere against draws, and exact risks against regressions."""

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import ReLU, Tanh
from wgflow.reduced_models import Staircase
from wgflow.reduced_models.static_theories import SphereKernel
from wgflow.reduced_models.static_theories.simulated import sphere_points
from wgflow.reduced_models.static_theories.sphere_kernels import harmonics, legendre_values

SHIFTED = ReLU(offset=-0.5)


def test_polynomials_are_orthogonal_and_legendre_in_three_dimensions():
    from scipy.special import eval_legendre

    c = np.linspace(-1, 1, 7)
    for k, (value, slope, bend) in zip(range(6), legendre_values(c, 3)):
        np.testing.assert_allclose(value, eval_legendre(k, c), atol=1e-14)
        h = 1e-5
        near = [eval_legendre(k, c + s * h) for s in (-1, 0, 1)]
        np.testing.assert_allclose(slope, (near[2] - near[0]) / (2 * h), atol=1e-8)
        np.testing.assert_allclose(bend, (near[2] - 2 * near[1] + near[0]) / h**2, atol=2e-4)
    kernel = SphereKernel(Tanh(), 9)
    for k, (value, _, _) in zip(range(8), legendre_values(kernel._c, 9)):
        assert kernel._weights @ value**2 == pytest.approx(1 / harmonics(9, 8)[k], rel=1e-12)
    assert harmonics(3, 4) == pytest.approx([1, 3, 5, 7, 9])
    assert harmonics(10, 2) == pytest.approx([1, 10, 54])


@pytest.mark.parametrize("activation", [SHIFTED, Tanh()])
def test_kernels_against_draws(activation):
    rng, d = np.random.default_rng(3), 8
    w, x = sphere_points(rng, 3, d, 1.0), sphere_points(rng, 200_000, d, np.sqrt(d))
    kernel = SphereKernel(activation, d)
    s, slope = activation(x @ w.T), activation.derivative(x @ w.T)
    np.testing.assert_allclose(kernel.values(w), s.T @ s / len(x), atol=0.01)
    np.testing.assert_allclose(kernel.linear * w, s.T @ x / len(x), atol=0.015)
    form = np.diag(np.arange(d) - (d - 1) / 2)
    drawn = s.T @ np.sum((x @ form) * x, axis=1) / len(x)
    np.testing.assert_allclose(kernel.quadratic * np.sum((w @ form) * w, axis=1), drawn, atol=0.1)
    g = (slope[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    np.testing.assert_allclose(kernel.tangent_values(w).reshape(3 * d, 3 * d), g.T @ g / len(x), atol=0.025)


def test_tangent_kernel_is_the_second_derivative_of_the_kernel():
    """w_i' K_ij w_j = E s sigma'(s) t sigma'(t), whose series is that of another function of the same neurons."""
    d, w = 7, sphere_points(np.random.default_rng(5), 4, 7, 1.0)
    kernel = SphereKernel(Tanh(), d)
    radial = np.einsum("ia,iajb,jb->ij", w, kernel.tangent_values(w), w)
    rho = w @ w.T
    series = sum(kernel.coefficient(k)[1] ** 2 * harmonics(d, 60)[k] * q
                 for k, (q, _, _) in zip(range(61), legendre_values(rho, d)))
    np.testing.assert_allclose(radial, series, atol=1e-10)


def test_trace_of_the_tangent_kernel_of_rectifiers():
    w = sphere_points(np.random.default_rng(5), 4, 30, 1.0)
    trace = np.einsum("iaja->ij", SphereKernel(ReLU(), 30).tangent_values(w))
    angle = np.arccos(np.clip(w @ w.T, -1, 1))
    np.testing.assert_allclose(trace, 30 * (np.pi - angle) / (2 * np.pi), atol=1e-6)


def test_reference_staircase():
    stairs = Staircase(SHIFTED, 30, 90)
    risks = [stairs.random_features(degree, 4, rng=11) for degree in range(4)]
    for found, expected in zip(risks, (0.026, 0.22, 0.878, 0.999)):
        assert abs(found.mean - expected) < 5 * found.standard_error + 0.02
    assert stairs.level == 1


@pytest.mark.slow
def test_risks_against_regressions():
    rng, d, n = np.random.default_rng(3), 10, 12
    stairs = Staircase(SHIFTED, d, n)
    x = sphere_points(rng, 60_000, d, np.sqrt(d))
    w = sphere_points(np.random.default_rng(7).spawn(2)[0], n, d, 1.0)
    s = x @ w.T
    tangent = (SHIFTED.derivative(s)[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    for degree in (1, 2, 3):
        for k, (q, _, _) in zip(range(degree + 1), legendre_values(x[:, 0] / np.sqrt(d), d)):
            y = q * np.sqrt(harmonics(d, k)[k])
        for z, found in ((SHIFTED(s), stairs.random_features(degree, 2, rng=7)),
                         (tangent, stairs.tangent(degree, 2, rng=7))):
            a = np.linalg.lstsq(z, y)[0]
            sampled = np.mean((y - z @ a) ** 2) / np.mean(y**2) / (1 - z.shape[1] / len(x))
            assert sampled == pytest.approx(found.values[0], abs=0.02)


def test_the_tangent_model_climbs_one_step_further():
    stairs = Staircase(SHIFTED, 12, 14)
    assert stairs.level == 1
    assert stairs.tangent(2, rng=3).mean < 0.4 < 0.8 < stairs.random_features(2, rng=3).mean
    assert stairs.tangent(4, rng=3).mean > 0.95


@pytest.mark.parametrize("tangent", [False, True])
def test_directions_share_their_mean(tangent):
    stairs = Staircase(SHIFTED, 14, 5)
    one = stairs.over_degrees([0, 1, 2], 40, 3, tangent=tangent)
    many = stairs.over_degrees([0, 1, 2], 40, 4, tangent=tangent, n_directions=14)
    for degree in (1, 2):
        apart = one[degree].mean - many[degree].mean
        assert abs(apart) < 4 * np.hypot(one[degree].standard_error, many[degree].standard_error)
    assert many[2].standard_error < 0.6 * one[2].standard_error


@pytest.mark.parametrize("tangent", [False, True])
def test_learned_shares_of_all_harmonics_are_at_most_the_features(tangent):
    stairs = Staircase(Tanh(), 6, 4)
    features = 24 if tangent else 4
    found = stairs.over_degrees(range(8), 20, 3, tangent=tangent, n_directions=6)
    learned = {k: harmonics(6, 7)[k] * (1 - each.mean) for k, each in found.items()}
    spread = np.sqrt(sum((harmonics(6, 7)[k] * each.standard_error) ** 2 for k, each in found.items()))
    # An odd activation has no even part, its derivative times x neither: the even degrees learn nothing.
    assert max(abs(learned[k]) for k in (0, 2, 4, 6)) < 1e-8
    assert sum(learned.values()) < features + 4 * spread
    assert sum(learned.values()) > 0.6 * features - 4 * spread


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Staircase(SHIFTED, 5, 3).over_degrees([1], n_directions=6), "n_directions=6"),
    (lambda: Staircase(SHIFTED, 2, 5), "d=2"), (lambda: Staircase(SHIFTED, 5, 0), "n_neurons"),
    (lambda: Staircase(np.tanh, 5, 3), "activation"), (lambda: Staircase(SHIFTED, 5, 3).random_features(-1), "degree"),
    (lambda: Staircase(SHIFTED, 5, 3).random_features(500), "degree=500"),
])
def test_bad_input(make, words):
    with pytest.raises(wg.InvalidInput, match=words):
        make()
