"""The gradient flow of N neurons with noise and with a step-size schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput
from wgflow.reduced_models import AnisotropicGaussian, IsotropicGaussian, LinearNeuron
from wgflow.validation import compare, run_gradient_flow, run_sgd

ISOTROPIC = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)


@pytest.mark.parametrize("space", ["coordinates", "full"])
@pytest.mark.parametrize("c", [4.0, 2.0])
def test_linear_neurons_have_the_stated_law(space, c):
    """C(t) = D + (C_0 - D) exp(-4 ridge t), D = c / (4 beta ridge); the mean is that without noise."""
    n, beta, ridge, t = 4000, 3.0, 0.7, 0.5
    model = LinearNeuron(np.diag([2.0, 0.5]), [1.0, -1.0])
    flow = run_gradient_flow(model, n, [0.0, t], rng=3, ridge=ridge, beta=beta, noise_constant=c, space=space)
    x0, x1 = flow.coordinates[0]
    end = c / (4 * beta * ridge)
    variance = end + (x0.var(axis=0) - end) * math.exp(-4 * ridge * t)
    assert x1.var(axis=0) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
    rates = np.array([2.0, 0.5]) + ridge
    rest = np.array([2.0, -0.5]) / rates
    expected = rest + (x0.mean(axis=0) - rest) * np.exp(-2 * rates * t)
    assert x1.mean(axis=0) == pytest.approx(expected, abs=5 * math.sqrt(variance.max() / n))
    assert np.abs(x1.var(axis=0) / x0.var(axis=0) - 1).max() > 0.2


def test_radii_feel_the_noise_of_all_directions():
    """Without a signal the noisy radius tends to that of a normal vector in R^d of variance 1/(beta ridge)."""
    from wgflow.activations import Polynomial

    flat = IsotropicGaussian(d=12, tau_plus2=1.0, tau_minus2=1.0, activation=Polynomial([0.0]))
    flow = run_gradient_flow(flat, 4000, [3.0], rng=19, beta=3.0, ridge=0.7)
    assert np.mean(flow.coordinates**2) == pytest.approx(12 / 2.1, rel=5 * math.sqrt(2 / 12 / 4000))


@pytest.mark.slow
def test_agrees_with_the_equation_and_with_noisy_sgd():
    beta, ridge, times = 100.0, 0.01, [0.0, 0.1, 0.4]
    flow = run_gradient_flow(ISOTROPIC, 400, times, rng=5, n_runs=3, beta=beta, ridge=ridge)
    grid = ISOTROPIC.grid(400, kappa=0.8, beta=beta, ridge=ridge)
    sol = wg.solve(ISOTROPIC.energy(beta, ridge), ISOTROPIC.initial_density(0.8, grid), (0, 0.4), t_eval=times,
                   time_scale=2.0)
    assert compare(sol, flow, n_null=200).passed
    sgd = run_sgd(ISOTROPIC, 400, 5e-5, times, rng=5, n_runs=3, beta=beta, ridge=ridge)
    assert flow.coordinates.mean(axis=(0, 2, 3)) == pytest.approx(sgd.coordinates.mean(axis=(0, 2, 3)), abs=0.02)
    wrong = run_gradient_flow(ISOTROPIC, 400, times, rng=5, n_runs=3, beta=0.5 * beta, ridge=ridge)
    assert not compare(sol, wrong, n_null=200).passed


@pytest.mark.parametrize("space", ["coordinates", "full"])
def test_a_schedule_is_a_change_of_clock(space):
    """With xi(t) = 3 t^2 the flow at t is that with xi = 1 at t^3."""
    model = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    slow = run_gradient_flow(model, 10, [0.0, 0.5, 0.9], rng=7, xi=lambda t: 3 * t**2 + 1e-9, space=space,
                             tolerance=1e-6)
    plain = run_gradient_flow(model, 10, [0.0, 0.125, 0.729], rng=7, space=space, tolerance=1e-6)
    assert slow.coordinates == pytest.approx(plain.coordinates, abs=1e-4)
    twice = run_gradient_flow(model, 10, [0.0625], rng=7, xi=2.0, space=space, tolerance=1e-6)
    assert twice.coordinates[0, 0] == pytest.approx(plain.coordinates[0, 1], abs=1e-4)


def test_a_schedule_scales_the_noise():
    """Pure noise: after the clock tau = int xi the variance has grown by 4 tau / beta."""
    flat = LinearNeuron(np.zeros((2, 2)), [0.0, 0.0])
    flow = run_gradient_flow(flat, 5000, [0.0, 1.0], rng=7, beta=2.0, xi=lambda t: 1.0 + t)
    grown = flow.coordinates[0, 1].var() - flow.coordinates[0, 0].var()
    assert grown == pytest.approx(4 * 1.5 / 2.0, rel=0.05)


def test_the_same_seed_gives_the_same_start_with_noise():
    noisy = run_gradient_flow(ISOTROPIC, 10, [0.0, 0.01], rng=7, n_runs=2, beta=10.0)
    still = run_gradient_flow(ISOTROPIC, 10, [0.0, 0.01], rng=7, n_runs=2)
    again = run_gradient_flow(ISOTROPIC, 10, [0.0, 0.01], rng=7, n_runs=2, beta=10.0)
    assert np.array_equal(noisy.coordinates[:, 0], still.coordinates[:, 0])
    assert np.array_equal(noisy.coordinates, again.coordinates)
    assert not np.array_equal(noisy.coordinates[:, 1], still.coordinates[:, 1])
    assert noisy.beta == 10.0


def test_two_blocks_have_the_powers_of_their_dimensions():
    model = AnisotropicGaussian(d=60, s0=20, tau_plus2=1.0, tau_minus2=1.0, tolerance=1e-5)
    flow = run_gradient_flow(model, 1000, [0.0, 1e-4], rng=7, beta=0.01, dt=5e-5)
    grown = np.mean(flow.coordinates[0, 1] ** 2 - flow.coordinates[0, 0] ** 2, axis=0)
    assert grown == pytest.approx(4e-4 / 0.01 * np.array([20, 40]), rel=0.05)


@pytest.mark.parametrize(("change", "message"), [
    (dict(beta=0.0), "beta=0"),
    (dict(noise_constant=-1.0), "noise_constant=-1"),
    (dict(xi=0.0), "xi=0"),
    (dict(xi=lambda t: t - 0.05), "xi must be positive"),
    (dict(xi=lambda t: np.ones((2, 2))), "xi returned shape"),
    (dict(dt=-1.0, beta=1.0), "dt=-1"),
])
def test_bad_input(change, message):
    with pytest.raises(InvalidInput, match=message):
        run_gradient_flow(**{**dict(model=ISOTROPIC, n_neurons=4, t_eval=[0.0, 0.1], rng=7), **change})
