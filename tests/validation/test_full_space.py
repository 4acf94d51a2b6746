"""The gradient flow of a network in all its parameters: against the risk, the reduced flow, SGD and exact laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow.activations import Erf, NonMonotone, Polynomial, Ramp, Tanh
from wgflow.errors import InvalidInput
from wgflow.reduced_models import (
    AnisotropicGaussian,
    FiniteData,
    IsotropicGaussian,
    LinearNeuron,
    QuadraticActivation,
    ReLUNetwork,
)
from wgflow.validation import run_gradient_flow, run_sgd

TAUS = dict(tau_plus2=1.8, tau_minus2=0.2)


@pytest.mark.parametrize("model", [
    *(IsotropicGaussian(d=6, **TAUS, activation=a) for a in (Erf(), Ramp(), NonMonotone(), Polynomial([0.3, 1, -0.4]))),
    *(AnisotropicGaussian(d=6, s0=2, **TAUS, activation=a) for a in (Erf(), Ramp())),
    LinearNeuron([2.0, 0.5], [1.0, -1.0], 0.3),
    QuadraticActivation([[1.0, 0.3], [0.3, -0.5]], offset=0.2),
    FiniteData(x=[[-1.0, 0.2], [0.5, 1.0], [2.0, -0.3]], y=[-0.5, 0.2, 0.4], activation=Tanh()),
], ids=lambda model: f"{model.name}-{getattr(model, 'activation', '')!r}"[:40])
def test_the_gradient_is_that_of_the_exact_risk(model):
    """(N/2) grad R_N by central differences, with two neurons in one direction among the others."""
    n, width = 4, model.n_parameters
    theta = 0.7 * np.random.default_rng(3).standard_normal((n, width))
    theta[3] = 1.3 * theta[2]
    h = 1e-4
    moved = theta + h * np.concatenate([np.eye(n * width), -np.eye(n * width)]).reshape(-1, n, width)
    risks = model.population_risk(moved)
    expected = n / 2 * (risks[: n * width] - risks[n * width :]).reshape(n, width) / (2 * h)
    gradient = model.network_gradient(theta)
    assert gradient == pytest.approx(expected, abs=3e-7 * max(1.0, np.abs(expected).max()))
    assert np.abs(expected).max() > 0.05


def test_models_without_closed_forms_refuse_by_name():
    with pytest.raises(InvalidInput, match=r"Tanh\(\) has no closed form"):
        run_gradient_flow(IsotropicGaussian(d=5, **TAUS, activation=Tanh()), 4, [0.1], rng=7, space="full")
    with pytest.raises(InvalidInput, match="does not know the gradient"):
        run_gradient_flow(ReLUNetwork(d=20, s0=5, delta=0.4), 4, [0.1], rng=7, space="full")
    with pytest.raises(InvalidInput, match="space='half'"):
        run_gradient_flow(LinearNeuron(1.0, [1.0]), 4, [0.1], rng=7, space="half")


def test_the_mean_velocity_differs_by_the_overlap_of_a_neuron_with_itself():
    """Over independent directions: full - reduced = -(2/N) [u'(r)/2 - d_1 U(r, r)], for every radius."""
    model, n, draws = IsotropicGaussian(d=10, **TAUS, activation=Erf()), 6, 3000
    r = np.linspace(0.4, 2.4, n)
    rng = np.random.default_rng(11)
    velocities = np.empty((draws, n))
    for k in range(draws):
        unit = rng.standard_normal((n, 10))
        unit /= np.linalg.norm(unit, axis=1)[:, None]
        velocities[k] = -2.0 * np.sum(unit * model.network_gradient(r[:, None] * unit), axis=1)
    features, slopes = model.features(r), model.feature_gradients(r)[:, 0]
    reduced = -2.0 * slopes.T @ (features.mean(axis=1) - model.target)
    h = 1e-5
    own = 0.5 * (model.diagonal(r + h) - model.diagonal(r - h)) / (2 * h) - np.sum(slopes * features, axis=0)
    standard = velocities.std(axis=0) / math.sqrt(draws)
    assert np.all(np.abs(velocities.mean(axis=0) - reduced + 2.0 / n * own) < 4 * standard)
    assert np.abs(2.0 / n * own).max() > 20 * standard.max()


@pytest.mark.slow
def test_the_two_spaces_differ_as_one_over_n():
    model, gaps = IsotropicGaussian(d=40, **TAUS), []
    for n in (25, 100):
        full, reduced = (run_gradient_flow(model, n, [0.3], rng=7, n_runs=6, tolerance=1e-4, space=space)
                         for space in ("full", "coordinates"))
        gaps.append(np.mean(full.coordinates - reduced.coordinates))
        # R_N - R(rho_N) is K/N on average, models.md 13, while directions are independent.
        assert full.theta.shape == (6, 1, n, 40)
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.3)


def test_where_coordinates_are_parameters_the_spaces_are_one():
    model = LinearNeuron(np.diag([2.0, 0.5]), [1.0, -1.0])
    full, reduced = (run_gradient_flow(model, 20, [0.0, 0.5], rng=3, ridge=0.2, space=space, tolerance=1e-8)
                     for space in ("full", "coordinates"))
    assert full.coordinates == pytest.approx(reduced.coordinates, abs=1e-12)
    assert full.risk == pytest.approx(reduced.risk, abs=1e-12)


def test_linear_neurons_of_more_parameters_than_a_grid_has_axes():
    flow = run_gradient_flow(LinearNeuron(1.0, np.ones(9)), 10, [0.0, 1.0], rng=3)
    m0, m1 = flow.coordinates[0].mean(axis=1)
    assert m1 == pytest.approx(1.0 + (m0 - 1.0) * math.exp(-2.0), abs=1e-5)


def test_the_mean_of_sgd_tends_to_the_flow():
    """Small steps from the same neurons: the mean over runs within 4 standard errors and the bias of order epsilon."""
    model = IsotropicGaussian(d=5, **TAUS, activation=Erf())
    theta0 = model.initial_theta(4, 1.0, np.random.default_rng(31))
    flow = run_gradient_flow(model, 4, [1.0], rng=7, theta0=theta0, space="full", tolerance=1e-8)
    sgd = run_sgd(model, 4, 2e-4, [1.0], rng=101, n_runs=60, theta0=theta0)
    standard = sgd.theta[:, 0].std(axis=0) / math.sqrt(60)
    assert np.all(np.abs(sgd.theta[:, 0].mean(axis=0) - flow.theta[0, 0]) < 4.5 * standard + 5e-4)
    assert np.abs(flow.theta[0, 0] - theta0).max() > 50 * standard.max()
