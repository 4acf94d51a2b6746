"""The predicted bias of SGD's step: closed forms, steps drawn one by one, and SGD itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

import wgflow as wg
from wgflow.errors import InvalidInput
from wgflow.reduced_models import AnisotropicGaussian, IsotropicGaussian, LinearNeuron
from wgflow.validation import predict_scatter, run_sgd
from wgflow.validation.fluctuations.noisy_step_bias import NoisyStepBias


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_linear_neurons_lag_as_euler_steps_do(ridge):
    """E m_k = m* + (m_0 - m*) (1 - rate eps)^k: its derivative by eps at fixed t = k eps."""
    c, t = 1.5, np.array([0.0, 0.1, 0.4])
    model = LinearNeuron(covariance=c, direction=1.0, noise_variance=0.3)
    start = model.initial_atoms(math.sqrt(0.2), mean0=-0.5)
    found = predict_scatter(model, t, 100, 1e-3, start=start, ridge=ridge,
                            functionals=["mean of theta", "deviation of theta"])
    rate, rest = 2 * (c + ridge), c / (c + ridge)
    assert_allclose(found.step_bias[1, 0], -0.5 * rate**2 * t * np.exp(-rate * t) * (-0.5 - rest), atol=2e-5)
    # The noise of a sample moves all linear neurons alike; deviations decay with the ridge alone.
    decay = 2 * ridge
    assert_allclose(found.step_bias[0], 0.0, atol=1e-9)
    assert_allclose(found.step_bias[1, 1], -0.5 * decay**2 * t * np.exp(-decay * t) * math.sqrt(0.2), atol=2e-5)
    assert_allclose(found.bias, 1e-3 * found.step_bias.sum(axis=0))
    assert_allclose(found.rescaled(step_size=2e-3).bias, 2 * found.bias)


@pytest.mark.parametrize("d", [3, 40])
def test_drift_and_spread_of_the_length_are_those_of_steps(d):
    """Steps of a neuron of length r in a random direction, on samples drawn from the model."""
    model, rng, r, eps = IsotropicGaussian(d=d, tau_plus2=1.8, tau_minus2=0.2), np.random.default_rng(3), 1.3, 1e-4
    law = wg.Atoms([[r]], [1.0])
    drift, spread = model.hidden_noise(law)
    x, y = model.sample_data(200_000, rng)
    # By rotation invariance the first coordinate stands for the direction of the weights.
    size = np.linalg.norm(x, axis=1)
    u = rng.standard_normal((400_000, d))
    u = np.sort(u[:, 0] / np.linalg.norm(u, axis=1))[50::100]
    nodes = np.linspace(0.0, size.max(), 400)
    values = model.activation(r * np.multiply.outer(nodes, u))
    slopes = model.activation.derivative(r * np.multiply.outer(nodes, u)) * u
    error = y - np.interp(size, nodes, values.mean(axis=1))
    step = 2 * eps * error * model.activation.derivative(r * x[:, 0])
    across = step**2 * (size**2 - x[:, 0] ** 2) / (2 * r)
    assert across.mean() / eps**2 == pytest.approx(drift[0, 0], rel=0.03)
    alone = (step * x[:, 0]) ** 2 - (2 * eps * error * size * np.interp(size, nodes, slopes.mean(axis=1))) ** 2
    assert alone.mean() / eps**2 == pytest.approx(spread[0, 0, 0], rel=0.04)


def test_the_mean_of_sgd_is_off_as_predicted():
    model, runs, step, times = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), 100, 5e-5, [0.03, 0.1]
    found = predict_scatter(model, times, 200, step)
    sgd = run_sgd(model, 200, step, times, rng=5, n_runs=runs, store_theta=False)
    r = sgd.coordinates[..., 0]
    for k, values in enumerate((r.mean(axis=2), r.std(axis=2) * (1 + 0.75 / 200))):  # a sample's deviation is less
        off, error = values.mean(axis=0) - found.mean_field[k], values.std(axis=0, ddof=1) / math.sqrt(runs)
        # What is left is of second order in the step and of order 1/N: some percent of the bias.
        assert np.all(np.abs(off - found.bias[k]) < 3.5 * error + 0.15 * found.bias[k]), (off, found.bias[k], error)
    mean_error = r.mean(axis=2).std(axis=0, ddof=1) / math.sqrt(runs)
    assert np.all(found.bias[0] > 8 * mean_error)


def test_narrow_networks_are_off_by_less_than_independent_neurons_would_be():
    """Neurons meet themselves; the others answer to it and lower what this does."""
    model, runs, n = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), 150, 25
    found = predict_scatter(model, [0.0, 0.03], n, 2e-5)
    r = run_sgd(model, n, 2e-5, found.t, rng=5, n_runs=runs, store_theta=False).coordinates[..., 0].mean(axis=2)
    # What the draw of the start says is taken out.
    late = np.linalg.lstsq(np.stack([np.ones(runs), r[:, 0] - found.mean_field[0, 0]], axis=1), r[:, 1], rcond=None)[0]
    left = r[:, 1] - r[:, 0] * late[1]
    error = left.std() / math.sqrt(runs)
    off = late[0] - found.mean_field[0, 1] - found.bias[0, 1]
    end = found.width_bias[0, 1] / n
    assert end < -8 * error
    assert end - 3 * error < off < 0.5 * end
    assert not found.width_bias[:, 0].any()


@pytest.mark.slow
def test_the_measured_bias_of_finite_width_is_that_of_sgd():
    """Over 300 runs of 25 neurons: of the mean length and of the risk, when the bias of the step is taken off."""
    model, times = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), [0.0, 0.03, 0.1]
    runs, n, step = 300, 25, 1e-5
    found = predict_scatter(model, times, n, step, measure_width=True)
    sgd = run_sgd(model, n, step, times, rng=5, n_runs=runs, store_theta=False)
    seen = {"mean of r": sgd.coordinates[..., 0].mean(axis=2), "risk": sgd.risk}
    for k, name in enumerate(found.functionals):
        width, error = found.width_bias[k] / n, found.width_samples[:, k].std(axis=0, ddof=1) / 4 / n
        if name == "deviation of r":
            assert np.all(np.abs(width) < 4 * error + 0.02 * found.mean_field[k])
            continue
        off = seen[name] - found.mean_field[k] - found.bias[k]
        scatter = off.std(axis=0, ddof=1) / math.sqrt(runs)
        assert np.all(np.abs(off.mean(axis=0) - width) < 3.5 * np.hypot(scatter, error) + 0.1 * np.abs(width)
                      + 0.5 * np.abs(found.bias[k])), (name, off.mean(axis=0), width, scatter, error)
        assert np.all(np.abs(width[1:]) > 6 * scatter[1:])
    # The deviation is too noisy for its error to be seen; at t = 0 the risk's excess is exact.
    assert np.all(found.width_error[[0, 2], 1:] > 0)
    with pytest.raises(InvalidInput, match="measured without noise"):
        predict_scatter(model, times, n, step, beta=3.0, measure_width=True)
    with pytest.raises(InvalidInput, match="is not the length of a neuron"):
        predict_scatter(LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3), [0.0, 0.01], n, step,
                        measure_width=True)


def test_neurons_without_hidden_coordinates_meet_themselves_as_the_kernel_says():
    model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
    found = predict_scatter(model, [0.0, 0.4], 50, 1e-3, start=model.initial_atoms(0.8))
    assert_allclose(found.width_bias, 0.0, atol=1e-6)


def test_linear_neurons_with_noise_are_off_as_their_recursion_is():
    """E m_k as without noise; the variance has V_{k+1} = (1 - decay eps)^2 V_k + 4 eps / beta, in closed form."""
    c, ridge, beta, t, mean0, var0 = 1.5, 0.7, 3.0, np.array([0.0, 0.1, 0.4]), -0.5, 0.2
    model = LinearNeuron(covariance=c, direction=1.0, noise_variance=0.3)
    grid = model.grid(cells=300, kappa=math.sqrt(var0), mean0=mean0, beta=beta, ridge=ridge)
    start = model.initial_density(math.sqrt(var0), grid, mean0=mean0)
    found = predict_scatter(model, t, 100, 1e-3, start=start, ridge=ridge, beta=beta, n_steps=100)
    rate, rest, decay = 2 * (c + ridge), c / (c + ridge), 2 * ridge
    assert_allclose(found.step_bias[0], 0.0, atol=1e-9)
    assert_allclose(found.step_bias[1, 0], -0.5 * rate**2 * t * np.exp(-rate * t) * (mean0 - rest), rtol=2e-3)

    def deviation(step):
        kept = (1 - decay * step) ** (2 * t / step)
        end = 4 * step / beta / (1 - (1 - decay * step) ** 2)
        return np.sqrt(kept * var0 + (1 - kept) * end)

    slope = (deviation(1e-4) - deviation(5e-5)) / 5e-5
    assert np.abs(slope[1:]).min() > 0.01
    assert_allclose(found.step_bias[1, 1], slope, rtol=0.01, atol=1e-5)


def test_a_schedule_of_noise_moves_the_bias_as_the_recursion_does():
    """With xi(t) the steps take xi, and the variance of the noise, where they begin."""
    ridge, beta, end, var0 = 0.7, 3.0, 0.4, 0.2
    model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
    grid = model.grid(cells=300, kappa=math.sqrt(var0), mean0=-0.5, beta=beta, ridge=ridge)
    start = model.initial_density(math.sqrt(var0), grid, mean0=-0.5)
    found = predict_scatter(model, [end], 100, 1e-3, start=start, ridge=ridge, beta=beta,
                            xi=lambda u: 1.0 / (1.0 + 2.0 * u), functionals=["deviation of theta"])

    def deviation(step):
        variance = var0
        for k in range(round(end / step)):
            xi = 1.0 / (1.0 + 2.0 * k * step)
            variance = (1 - 2 * ridge * xi * step) ** 2 * variance + 4 * xi * step / beta
        return math.sqrt(variance)

    assert found.step_bias.sum() == pytest.approx((deviation(1e-3) - deviation(5e-4)) / 5e-4, rel=0.02)


@pytest.mark.slow
def test_the_mean_of_noisy_sgd_is_off_as_predicted():
    model, runs, step, times = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), 80, 4e-5, [0.02, 0.04]
    start = model.initial_density(0.8, model.grid(cells=600, beta=100.0, ridge=0.01))
    found = predict_scatter(model, times, 400, step, start=start, beta=100.0, ridge=0.01, n_steps=40)
    sgd = run_sgd(model, 400, step, times, rng=5, n_runs=runs, beta=100.0, ridge=0.01, store_theta=False)
    r = sgd.coordinates[..., 0]
    for k, values in enumerate((r.mean(axis=2), r.std(axis=2) * (1 + 0.75 / 400))):
        off, error = values.mean(axis=0) - found.mean_field[k], values.std(axis=0, ddof=1) / math.sqrt(runs)
        # What width adds, and what is left of second order: some percent of the bias.
        allowed = 3.5 * error + 0.15 * np.abs(found.bias[k]) + np.abs(found.width_bias[k]) / 400
        assert np.all(np.abs(off - found.bias[k]) < allowed), (off, found.bias[k], error)
        ratio = values.var(axis=0, ddof=1) / found.variance[k]
        assert np.all((ratio > 0.55) & (ratio < 1.65)), ratio  # five in a thousand at either side
    assert np.all(found.bias[0] > 5 * r.mean(axis=2).std(axis=0, ddof=1) / math.sqrt(runs))


def test_where_the_bias_is_not_known():
    several = predict_scatter(AnisotropicGaussian(d=60, s0=30, delta=0.4), [0.05], 100, 1e-3,
                              functionals=["mean of r1"])
    # A measure that is no power of the length, of a model of one's own.
    model = IsotropicGaussian(d=12, tau_plus2=1.5, tau_minus2=0.5)
    grid = model.grid(cells=100, beta=50.0)
    other = wg.Grid(edges=grid.edges, log_weight=grid.log_weight + np.sin(grid.centers[0]), names=["r"], origin=True,
                    boundary=grid.boundary)
    assert several.step_bias is None
    assert not several.bias.any()
    with pytest.raises(InvalidInput, match="a power of the coordinate"):
        NoisyStepBias(model, other, 50.0, 0.0, lambda u: 1.0)
    with pytest.raises(InvalidInput, match="hidden_noise"):
        AnisotropicGaussian(d=60, s0=30, delta=0.4).hidden_noise(wg.Atoms([[1.0], [1.0]], [1.0]))
    with pytest.raises(InvalidInput, match="d=inf"):
        IsotropicGaussian(d=math.inf, tau_plus2=1.5, tau_minus2=0.5).hidden_noise(wg.Atoms([[1.0]], [1.0]))


@pytest.mark.slow
def test_the_error_of_the_measured_bias_is_told_at_late_times():
    """At t = 3 networks of 40, 80 and 160 neurons tell 4.93, 4.69 and 4.53 for N times the excess risk."""
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    found = predict_scatter(model, [0.0, 3.0], 800, 1e-5, measure_width=True)
    row = found.functionals.index("risk")
    bias, error = found.width_bias[row, 1], found.width_error[row, 1]
    assert bias == pytest.approx(4.93, abs=0.05)
    assert abs(bias - 4.53) < error < 0.2 * bias
