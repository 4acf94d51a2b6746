"""Between mean field and kernel: the exact model, kernels in closed form, and how fast the limit comes."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import wgflow as wg
from wgflow.activations import PiecewiseLinear, Polynomial, Ramp, ReLU, Softplus, Tanh
from wgflow.reduced_models import Atoms, KernelLimit, tangent_kernel
from wgflow.reduced_models.tangent_kernels import slope_expectation

X = np.array([[1.0, 0.0], [0.5, 0.8], [-1.0, 0.3], [0.0, -1.2], [2.0, 1.0]])
Y = np.array([1.0, -0.5, 0.3, 0.8, -1.0])
BENT = PiecewiseLinear([-0.5, 0.3], [0.0, 1.0], 0.2, -0.7)


@pytest.mark.parametrize("activation", [ReLU(), Ramp(), BENT, Tanh()])
def test_tangent_kernel_by_draws(activation):
    w = np.random.default_rng(3).standard_normal((2, 400_000))
    z = 1.1 * X @ w
    outputs, slopes = activation(z), activation.derivative(z)
    drawn = outputs @ outputs.T / w.shape[1] + 0.7 * (slopes @ slopes.T / w.shape[1]) * (X @ X.T)
    kernel = tangent_kernel(activation, X, 0.7, 1.1)
    np.testing.assert_allclose(kernel, drawn, atol=0.01 * np.max(np.abs(drawn)))
    np.testing.assert_array_equal(kernel, kernel.T)


def test_rectifiers_in_closed_form():
    lengths = np.linalg.norm(X, axis=1)
    cosine = np.clip(X @ X.T / np.outer(lengths, lengths), -1, 1)
    np.fill_diagonal(cosine, 1.0)
    t = np.arccos(cosine)
    outputs = np.outer(lengths, lengths) * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)
    kernel = outputs + (np.pi - t) / (2 * np.pi) * (X @ X.T)
    np.testing.assert_allclose(tangent_kernel(ReLU(), X), kernel, atol=1e-13)


@pytest.mark.parametrize("rho", [-1.0, -0.3, 0.0, 0.6, 1.0])
def test_slopes_at_every_correlation(rho):
    """A step of an activation with one knot: an orthant probability by plain quadrature of the conditional law."""
    from scipy.special import ndtr

    hinge = PiecewiseLinear([0.4], [0.0], 0.0, 1.0)
    z = np.linspace(0.4 / 0.9, 9, 200_001)
    if abs(rho) < 1:
        inner = ndtr(-(0.4 / 1.3 - rho * z) / np.sqrt(1 - rho**2))
    else:
        inner = (rho * z > 0.4 / 1.3) * 1.0
    expected = np.trapezoid(inner * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi), z)
    assert slope_expectation(hinge, 0.9, 1.3, rho) == pytest.approx(expected, abs=1e-8)


def test_an_input_of_length_zero():
    kernel = tangent_kernel(ReLU(), [[0.0, 0.0], [1.0, 0.0]])
    assert np.all(np.isfinite(kernel))
    assert kernel[0, 0] == 0.0
    assert tangent_kernel(Ramp(), [[0.0], [1.0]])[0, 0] == pytest.approx(Ramp()(0.0) ** 2)


def exact_model(alpha, h0=1.0):
    def rate(_, s):
        return (1.0 - alpha * h0 / 2 * np.sinh(2 * s)) / alpha

    s = solve_ivp(rate, (0, 1), [0.0], rtol=1e-12, atol=1e-14, method="DOP853").y[0, -1]
    return 1.0 - alpha * h0 / 2 * np.sinh(2 * s)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 7.0])
def test_exact_model(alpha):
    model = KernelLimit([[1.0]], [1.0], Polynomial([0.0, 1.0]), alpha)
    points = np.array([[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]) / np.sqrt(2)
    path = model.follow(Atoms(points, np.full(4, 0.25)), [0.0, 1.0])
    assert path.residual[-1, 0] == pytest.approx(exact_model(alpha), abs=1e-9)
    assert path.lazy_residual[-1, 0] == pytest.approx(np.exp(-1.0), abs=1e-14)


def test_reference_value_of_the_exact_model():
    assert exact_model(1.0) == pytest.approx(0.262150262, abs=6e-10)


@pytest.mark.parametrize(("start", "order"), [("pairs", -2.0), ("skewed", -1.0)])
def test_distance_to_the_kernel_limit_falls_as_stated(start, order):
    """Both starts have output 0; the third moment of skewed read-outs moves the kernel at first order."""
    alphas = np.array([128.0, 256.0, 512.0, 1024.0])
    w = np.random.default_rng(7).standard_normal((2, 20))
    a = (1.0, -1.0) if start == "pairs" else np.array([2.0, -1.0, -1.0]) / np.sqrt(2)
    points = np.concatenate([np.concatenate([np.full((1, 20), value), w]) for value in a], axis=1)
    atoms = Atoms(points, np.full(points.shape[1], 1.0 / points.shape[1]), names=("a", "w1", "w2"))
    found = []
    for alpha in alphas:
        path = KernelLimit(X, Y, Softplus(), alpha).follow(atoms, np.linspace(0.0, 4.0, 5))
        assert np.max(np.abs(path.residual[0] - Y)) < 1e-12 * alpha
        found.append((np.max(np.abs(path.residual - path.lazy_residual)), path.kernel_movement.max(),
                      path.movement.max()))
    slopes = np.polyfit(np.log(alphas), np.log(found), 1)[0]
    assert slopes == pytest.approx([order, order, -1.0], abs=0.05)


def test_residual_moves_by_the_kernel():
    model = KernelLimit(X, Y, Tanh(), 2.0)
    start = model.initial_atoms(1.0, 30, rng=11)
    path = model.follow(start, [0.0, 1e-4])
    slope = (path.residual[1] - path.residual[0]) / 1e-4
    np.testing.assert_allclose(slope, -model.kernel(start) @ model.residual(start) / 5, atol=2e-4)


def test_risk_is_the_energy_in_units_of_alpha():
    model = KernelLimit(X, Y, Tanh(), 3.0)
    start = model.initial_atoms(1.0, 30, symmetric=False, rng=11)
    assert model.risk(start) == pytest.approx(2 * 9 * model.energy()(start), rel=1e-12)


def test_density_and_neurons_agree():
    model = KernelLimit([[1.0]], [1.0], Polynomial([0.0, 1.0]), 2.0)
    grid = model.grid(cells=(96, 96))
    sol = wg.solve(model.energy(), model.initial_density(1.0, grid), (0.0, 1.0), time_scale=model.time_scale)
    assert model.residual(sol.final)[0] == pytest.approx(exact_model(2.0, h0=2.0), abs=5e-3)


def test_density_residual_and_kernel_together():
    """The exact model with the density of N(0, I): H = h0 cosh 2s; the path is no shorter than W2 from the start."""
    alpha, times = 1.0, np.linspace(0.0, 1.0, 6)
    model = KernelLimit([[1.0]], [1.0], Polynomial([0.0, 1.0]), alpha)
    s = solve_ivp(lambda _, s: (1.0 - alpha * np.sinh(2 * s)) / alpha, (0, 1), [0.0], rtol=1e-12, atol=1e-14,
                  t_eval=times).y[0]
    errors, kernel = [], 2.0 * np.cosh(2 * s)
    for cells in (64, 128):
        path = model.follow(model.initial_density(1.0, model.grid(cells)), times)
        assert path.solution.certificate.ok
        assert path.atoms is None
        errors.append([np.max(np.abs(path.residual[:, 0] - 1.0 + alpha * np.sinh(2 * s))),
                       np.max(np.abs(path.kernels[:, 0, 0] - kernel))])
        np.testing.assert_allclose(path.kernel_movement, path.kernels[:, 0, 0] / path.kernels[0, 0, 0] - 1, atol=1e-12)
    assert np.all(np.array(errors[1]) < 0.4 * np.array(errors[0]))
    assert errors[1][1] < 2e-3
    # a + w grows by e^s and a - w shrinks by it, so that the law is normal with variances e^(2s), e^(-2s).
    exact = np.sqrt((np.exp(s) - 1) ** 2 + (np.exp(-s) - 1) ** 2)
    assert np.all(path.movement >= exact - 1e-9)
    np.testing.assert_allclose(path.movement, exact, rtol=0.01, atol=1e-9)


def test_risk_of_finite_networks_is_in_its_own_units():
    """E risk = risk(rho) + K/N for independent neurons, with the risk's factor alpha^2."""
    model = KernelLimit(X, Y, Tanh(), 3.0)
    law = model.initial_atoms(1.0, 60, symmetric=False, rng=2)
    rng, n = np.random.default_rng(4), 50
    risks = [model.risk(Atoms(law.points[:, rng.integers(60, size=n)], np.full(n, 1 / n))) for _ in range(4000)]
    excess = model.finite_width_excess(law) / n
    assert np.mean(risks) - model.risk(law) == pytest.approx(excess, abs=4 * np.std(risks) / np.sqrt(4000))
    assert excess > 20 * np.std(risks) / np.sqrt(4000)


def test_kernel_of_two_neurons_is_that_of_every_model():
    model = KernelLimit(X, Y, Tanh(), 3.0)
    first, second = (0.7, 0.2, -0.4), (-1.1, 0.5, 0.3)
    expected = np.mean(0.7 * np.tanh(X @ first[1:]) * -1.1 * np.tanh(X @ second[1:]))
    assert model.kernel(first, second) == pytest.approx(expected, rel=1e-12)


def test_closed_kernel_is_that_of_many_neurons():
    model = KernelLimit(X, Y, Tanh())
    drawn = model.kernel(model.initial_atoms(0.8, 100_000, rng=5))
    np.testing.assert_allclose(drawn, model.initial_kernel(0.8), atol=0.02)
    half = model.initial_kernel(0.8, readout=0.5)
    np.testing.assert_allclose(half, tangent_kernel(Tanh(), X, 0.25, 0.8), atol=1e-14)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: KernelLimit(X, Y[:3]), "y has shape"), (lambda: KernelLimit(X, Y, alpha=0.0), "alpha"),
    (lambda: KernelLimit(X, Y, activation=np.tanh), "activation"),
    (lambda: KernelLimit(X, Y).minimum_risk(), "FiniteData"),
    (lambda: KernelLimit(np.eye(4), np.ones(4)).grid(), "take atoms"),
    (lambda: KernelLimit(np.eye(2), [1.0, np.nan]), "y"),
    (lambda: KernelLimit(X, Y).initial_atoms(1.0, 3), "pairs"),
    (lambda: KernelLimit(X, Y).follow(None, [1.0, 0.0]), "t must"),
    (lambda: KernelLimit(X, Y).lazy_residual([0.0], [1.0], [[1.0]]), "shapes"),
    (lambda: tangent_kernel(ReLU(), X, -1.0), "readout_square"), (lambda: tangent_kernel(ReLU(), []), "x has shape"),
])
def test_bad_input(make, words):
    with pytest.raises(wg.InvalidInput, match=words):
        make()
