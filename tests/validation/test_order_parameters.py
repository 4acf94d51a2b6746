"""The equations of the overlaps: against the flow in all parameters, exact laws, SGD and the PDE."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Erf, PiecewiseLinear, Polynomial, ReLU, Tanh
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models import (
    AnisotropicGaussian,
    FiniteData,
    IsotropicGaussian,
    LinearNeuron,
    QuadraticActivation,
    ReLUNetwork,
)
from wgflow.validation import order_parameter_flow, overlaps_of, run_gradient_flow, run_sgd
from wgflow.validation.order_parameters import _erf_squares, _polynomial_squares, _product_rule

TAUS = dict(tau_plus2=1.8, tau_minus2=0.2)


def two_neurons(d):
    """Neurons with the overlaps (1, .3, .8), the same at every d."""
    theta = np.zeros((2, d))
    theta[:, :2] = np.linalg.cholesky([[1.0, 0.3], [0.3, 0.8]])
    return theta


def several_neurons(n, d):
    """Neurons of length 1 with overlaps .2, but two of them."""
    if n == 2:
        return two_neurons(d)
    theta = np.zeros((n, d))
    theta[:, :n] = np.linalg.cholesky(0.8 * np.eye(n) + 0.2)
    return theta


@pytest.mark.parametrize("model", [
    IsotropicGaussian(d=8, **TAUS), IsotropicGaussian(d=8, **TAUS, activation=Erf()),
    AnisotropicGaussian(d=8, s0=3, **TAUS), LinearNeuron([2.0, 0.5, 0.5, 0.5], [1.0, -1.0, 0.0, 2.0], 0.3),
    QuadraticActivation([[1.0, 0.3, 0.0], [0.3, -0.5, 0.0], [0.0, 0.0, 0.0]], offset=0.2, covariance=[2.0, 1.0, 1.0]),
], ids=lambda model: f"{model.name}-{model.activation!r}"[:40])
def test_without_steps_it_is_the_flow_in_all_parameters(model):
    """Two routes to the same overlaps: weights in R^d, and the closed equations."""
    flow = run_gradient_flow(model, 5, [0.0, 0.3], rng=7, space="full", tolerance=1e-8, ridge=0.1)
    order = order_parameter_flow(model, 5, 0.0, [0.0, 0.3], rng=7, ridge=0.1)
    students, teachers = overlaps_of(model, flow.theta[0])
    assert order.students == pytest.approx(students, abs=1e-6)
    assert order.teachers == pytest.approx(teachers, abs=1e-6)
    assert order.risk == pytest.approx(flow.risk[0], abs=1e-6)
    assert np.abs(students[1] - students[0]).max() > 0.05
    if model.n_coordinates < model.n_parameters:
        assert order.radii == pytest.approx(flow.coordinates[0], abs=1e-6)


def test_averages_over_four_preactivations():
    """Closed form of the error function and rule for polynomials, both against a rule of many more nodes."""
    root = np.random.default_rng(5).standard_normal((3, 3))
    c, gamma = 0.5 * root @ root.T, np.array([-0.5, -0.5, 0.8])
    fine = _product_rule(60, 3)
    closed = _erf_squares(c, gamma, 1.0 + 0.3, 2)
    assert closed == pytest.approx(_polynomial_squares(Erf(), c, gamma, 1.0, 0.3, 2, fine), abs=1e-6)
    cubic = Polynomial([0.2, 0.5, -0.3, 0.1])
    exact = _polynomial_squares(cubic, c, gamma, 1.0, 0.3, 2, _product_rule(6, 3))
    assert exact == pytest.approx(_polynomial_squares(cubic, c, gamma, 1.0, 0.3, 2, _product_rule(12, 3)), rel=1e-11)
    assert exact != pytest.approx(_polynomial_squares(cubic, c, gamma, 1.0, 0.3, 2, _product_rule(4, 3)), rel=1e-6)


def test_one_linear_neuron_in_closed_form():
    """D = |w - b|^2 obeys D' = -4 c D + 4 eta c (c D + v), eta = epsilon d."""
    c, v, d, eps, t = 1.5, 0.3, 50, 0.002, np.array([0.0, 0.4, 3.0])
    model = LinearNeuron(c, [1.0] + [0.0] * (d - 1), v)
    order = order_parameter_flow(model, 1, eps, t, rng=1, theta0=np.full((1, d), 0.1))
    q, r = order.students[:, 0, 0, 0], order.teachers[:, 0, 0, 0]
    eta, rate = eps * d, 4 * c * (1 - eps * d * c)
    end = 4 * eta * c * v / rate
    distance = 0.01 * d - 2 * 0.1 + 1
    assert q - 2 * r + 1 == pytest.approx(end + (distance - end) * np.exp(-rate * t), abs=1e-6)
    assert r == pytest.approx(1 - 0.9 * np.exp(-2 * c * t), abs=1e-7)
    assert order.risk == pytest.approx(c * (q - 2 * r + 1) + v, abs=1e-10)


@pytest.mark.parametrize(("make", "eta", "n"), [
    (lambda d: IsotropicGaussian(d=d, **TAUS, activation=Erf()), 0.5, 2),
    (lambda d: IsotropicGaussian(d=d, **TAUS, activation=Polynomial([0.0, 0.3, 0.3])), 0.1, 2),
    (lambda d: LinearNeuron(1.0, [1.0] + [0.0] * (d - 1), 0.3), 0.3, 2),
    (lambda d: AnisotropicGaussian(d=d, s0=d // 4, **TAUS, activation=Erf()), 0.5, 2),
    (lambda d: IsotropicGaussian(d=d, **TAUS, activation=ReLU()), 0.2, 2),
    (lambda d: IsotropicGaussian(d=d, **TAUS, activation=PiecewiseLinear([0.0], [-0.5], -0.3, 1.0)), 0.2, 3),
    (lambda d: AnisotropicGaussian(d=d, s0=d // 4, **TAUS, activation=ReLU()), 0.3, 4),
    (lambda d: IsotropicGaussian(d=d, **TAUS, activation=ReLU()), 0.3, 6),
], ids=["error function", "quadratic", "linear teacher", "two blocks", "two rectifiers", "leaky rectifiers",
        "rectifiers in two blocks", "six rectifiers"])
@pytest.mark.slow
def test_sgd_follows_the_equations_as_d_grows(make, eta, n):
    """At fixed epsilon d: means over runs within their error, single runs as near as d^(-1/2)."""
    misses, n_runs = [], 100
    for d in (50, 200):
        model, theta0 = make(d), several_neurons(n, d)
        sgd = run_sgd(model, n, eta / d, [0.5, 1.0], rng=3, n_runs=n_runs, theta0=theta0, risk="exact")
        order = order_parameter_flow(model, n, eta / d, [0.5, 1.0], rng=1, theta0=theta0)
        students, teachers = overlaps_of(model, sgd.theta)
        found = np.concatenate([students.reshape(n_runs, 2, -1), teachers.reshape(n_runs, 2, -1)], axis=2)
        expected = np.concatenate([order.students.reshape(2, -1), order.teachers.reshape(2, -1)], axis=1)
        standard = found.std(axis=0) / math.sqrt(n_runs)
        # Overlaps of one pair stand twice among them; the mean is off by O(1/d) beside its scatter.
        assert np.all(np.abs(found.mean(axis=0) - expected) < 3 * standard + 2.0 / d)
        misses.append(math.sqrt(np.mean((found - expected) ** 2)))
    assert misses[0] / misses[1] == pytest.approx(2.0, rel=0.2)
    # The noise of the samples is seen: the flow without it misses by many errors.
    still = order_parameter_flow(model, n, 0.0, [0.5, 1.0], rng=1, theta0=theta0).students.reshape(2, -1)
    assert np.max(np.abs(students.reshape(n_runs, 2, -1).mean(axis=0) - still) / standard[:, : still.shape[1]]) > 8


def test_many_neurons_tend_to_the_equation():
    """Orthogonal neurons of length .8 are the law of d = inf: R(.1) = .893211009, reached as 1/N."""
    risks = []
    for n in (10, 20, 40):
        model = IsotropicGaussian(d=40, **TAUS)
        order = order_parameter_flow(model, n, 0.0, [0.1], rng=7, theta0=0.8 * np.eye(40)[:n])
        risks.append(order.risk[0])
    limit = IsotropicGaussian(d=np.inf, **TAUS)
    sol = wg.solve(limit.energy(), limit.initial_atoms(0.8), (0, 0.1), time_scale=2.0, method=wg.Lagrangian())
    assert limit.risk(sol.final) == pytest.approx(0.893211009, abs=1e-8)
    gaps = np.array(risks) - limit.risk(sol.final)
    assert gaps[:2] / gaps[1:] == pytest.approx([2.0, 2.0], rel=0.1)
    assert 2 * risks[2] - risks[1] == pytest.approx(0.893211009, abs=2e-3)


def test_the_start_is_that_of_sgd():
    model = IsotropicGaussian(d=12, **TAUS, activation=Erf())
    order = order_parameter_flow(model, 4, 1e-3, [0.0], rng=7)
    sgd = run_sgd(model, 4, 1e-3, [0.0], rng=7)
    assert order.students[0] == pytest.approx(overlaps_of(model, sgd.theta[0, 0])[0])
    assert order.risk[0] == pytest.approx(sgd.risk[0, 0], rel=1e-12)
    assert order.teachers.shape == (1, 1, 4, 0)


def test_batches_schedules_and_noise_enter_as_in_sgd():
    model = IsotropicGaussian(d=30, **TAUS, activation=Erf())
    theta0 = two_neurons(30)

    def last(step, t=0.5, **more):
        return order_parameter_flow(model, 2, step, [t], rng=1, theta0=theta0, **more).students[0, 0]

    assert last(0.02, batch_size=2) == pytest.approx(last(0.01), rel=1e-7)
    assert last(0.01, xi=2.0, t=0.25) == pytest.approx(last(0.02), rel=1e-7)
    assert last(0.01, t=1.0, xi=lambda t: 0.5 + t) != pytest.approx(last(0.01, t=1.0), rel=1e-3)
    assert last(0.02) != pytest.approx(last(0.01), rel=1e-3)
    flat = LinearNeuron(np.zeros(30), np.zeros(30))
    warm = order_parameter_flow(flat, 2, 1e-3, [0.0, 0.7], rng=1, theta0=theta0, beta=5.0, ridge=0.3)
    end = 30 / (5.0 * 0.3)
    diagonal = np.einsum("tii->ti", warm.students[:, 0])
    assert diagonal[1] == pytest.approx(end + (diagonal[0] - end) * math.exp(-4 * 0.3 * 0.7), rel=1e-6)
    assert warm.students[1, 0, 0, 1] == pytest.approx(0.3 * math.exp(-4 * 0.3 * 0.7), rel=1e-6)


@pytest.mark.slow
def test_weights_that_grow_without_bound_are_an_error():
    model = QuadraticActivation(np.diag([1.0] + [0.0] * 19))
    with pytest.raises(ConvergenceError, match="could not be followed beyond"):
        order_parameter_flow(model, 1, 0.5, [0.0, 50.0], rng=7)


@pytest.mark.parametrize(("change", "message"), [
    (dict(model=IsotropicGaussian(d=9, **TAUS)), r"step_size > 0: for Ramp\(\)"),
    (dict(model=IsotropicGaussian(d=9, **TAUS, activation=ReLU(0.1))), r"one kink, at 0, such as ReLU"),
    (dict(model=IsotropicGaussian(d=9, **TAUS, activation=Tanh()), step_size=0.0), r"Tanh\(\) has no closed form"),
    (dict(model=ReLUNetwork(d=20, s0=5, delta=0.4)), "the overlaps of its weights do not close"),
    (dict(model=FiniteData(x=[[1.0]], y=[1.0])), "the overlaps of its weights do not close"),
    (dict(model=LinearNeuron(np.arange(1.0, 10.0), np.ones(9))), "9 different variances"),
    (dict(model=QuadraticActivation(np.eye(12))), "nodes"),
    (dict(n_neurons=0), "n_neurons=0"), (dict(step_size=-1.0), "step_size=-1"), (dict(t_eval=[1.0, 0.5]), "increase"),
    (dict(batch_size=0), "batch_size=0"), (dict(xi=-1.0), "xi=-1"), (dict(theta0=np.ones((3, 9))), "theta0 has shape"),
    (dict(tolerance=0.0), "tolerance=0"),
])
def test_bad_input(change, message):
    good = dict(model=IsotropicGaussian(d=9, **TAUS, activation=Erf()), n_neurons=2, step_size=1e-3, t_eval=[0.1],
                rng=7)
    with pytest.raises(InvalidInput, match=message):
        order_parameter_flow(**{**good, **change})
    with pytest.raises(InvalidType, match="NetworkModel"):
        order_parameter_flow(**{**good, "model": "isotropic"})
