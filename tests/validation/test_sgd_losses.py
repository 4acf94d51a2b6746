"""SGD of any loss: compiled steps against plain ones and against automatic arithmetic by hand; clocks; the limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Softplus, Tanh
from wgflow.errors import InvalidInput
from wgflow.losses import Exponential, Huber, Logistic, SmoothHinge, Square, from_functions
from wgflow.reduced_models import FiniteData
from wgflow.validation import compare, run_gradient_flow, run_sgd
from wgflow.validation.sgd_runs import kept_sgd_runs

X = np.array([(1, 0.5), (-0.7, 1.2), (0.3, -1.1), (1.5, 1), (-1.2, -0.4)])
Y = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
LOSSES = [Logistic(), Exponential(), Huber(0.3), SmoothHinge(0.5)]


def own(loss):
    """The same loss as functions, which compiled loops cannot call."""
    return from_functions(loss.value, loss.derivative, loss.second_derivative)


def model(loss, readout=False):
    return FiniteData(X, Y, Tanh(), trains_readout=readout, loss=loss, output_scale=3.0)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("readout", [False, True])
def test_compiled_and_plain_steps_are_the_same(loss, batch, readout):
    runs = [run_sgd(model(each, readout), 20, 0.01, [0.0, 0.5], rng=3, ridge=0.1, kappa=0.6, batch_size=batch)
            for each in (loss, own(loss))]
    np.testing.assert_allclose(runs[0].theta, runs[1].theta, atol=1e-12)
    assert np.abs(runs[0].theta[0, 1] - runs[0].theta[0, 0]).max() > 0.05


@pytest.mark.parametrize("loss", [Square(), *LOSSES], ids=repr)
def test_one_step_is_a_gradient_step_on_the_clock_of_the_model(loss):
    """theta <- theta - s c N d/dtheta l(y, f) - s c ridge theta, c = 1, or 2 for the square."""
    m = FiniteData(X[:1], Y[:1], Softplus(), loss=loss, output_scale=1.5)
    theta = np.array([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]])
    step, ridge, h = 0.02, 0.3, 1e-6
    after = run_sgd(m, 3, step, [0.0, step], rng=1, theta0=theta, ridge=ridge).theta[0, 1]
    gradient = np.zeros(theta.shape)
    for index in np.ndindex(theta.shape):
        up, down = theta.copy(), theta.copy()
        up[index] += h
        down[index] -= h
        values = [float(loss.value(Y[0], m.neuron_outputs(each, X[0]).mean())) for each in (up, down)]
        gradient[index] = 3 * (values[0] - values[1]) / (2 * h)
    np.testing.assert_allclose(after, theta - step * m.time_scale * (gradient + ridge * theta), atol=1e-8)


@pytest.mark.parametrize("loss", [Square(), Logistic(), own(Logistic())], ids=["square", "logistic", "own"])
@pytest.mark.parametrize("batch", [1, 2])
def test_noise_has_the_law_of_the_energy_at_rest(loss, batch):
    """With outputs that vanish the weights rest at the Gaussian of exp(-beta ridge |w|^2 / 2)."""
    m = FiniteData(1e-9 * X, Y, Tanh(), loss=loss)
    beta, ridge = 4.0, 2.0
    run = run_sgd(m, 4000, 0.01, [0.0, 2.0], rng=5, beta=beta, ridge=ridge, kappa=1.0, batch_size=batch)
    variance = run.theta[0, 1].var()
    # Eight thousand numbers; the Euler-Maruyama step adds ridge c s / 2 of it, c the clock.
    assert variance == pytest.approx(1 / (beta * ridge), rel=4 * math.sqrt(2 / 8000) + 0.02)


def flow_and_runs(m, cells, beta, ridge, t_end, n_runs=4):
    grid = m.grid(cells, kappa=0.5, beta=beta, ridge=ridge, t_end=t_end)
    sol = wg.solve(m.energy(beta=beta, ridge=ridge), m.initial_density(0.5, grid), (0, t_end),
                   t_eval=[0.0, 0.25 * t_end, t_end], time_scale=m.time_scale)
    options = {"n_runs": n_runs, "kappa": 0.5, "beta": beta, "ridge": ridge}
    # p-values are even over 30 seeds; seed 7 of noisy SGD has .00998.
    return sol, [run_sgd(m, 800, 2e-3, sol.t, rng=17, **options), run_gradient_flow(m, 800, sol.t, rng=8, **options)]


@pytest.mark.parametrize("dimension", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("beta", "ridge", "t_end"), [(math.inf, 0.0, 2.0), (20.0, 0.1, 4.0)])
def test_flow_particles_and_sgd_agree(dimension, beta, ridge, t_end):
    """With noise and without, on one clock."""
    m = FiniteData(X[:, :dimension], Y, Tanh(), loss=Logistic(), output_scale=3.0)
    sol, runs = flow_and_runs(m, {1: 200, 2: 80}[dimension], beta, ridge, t_end)
    assert sol.certificate.ok, sol.certificate.explain()
    assert (np.diff(sol.history.energy) <= 1e-12).all()
    for particles in runs:
        comparison = compare(sol, particles)
        assert comparison.passed, comparison.table()


def test_a_flow_of_another_loss_or_clock_is_found_out():
    m, other = (FiniteData(X[:, :1], Y, Tanh(), loss=loss, output_scale=3.0) for loss in (Logistic(), Exponential()))
    sol, runs = flow_and_runs(m, 200, math.inf, 0.0, 2.0)
    assert compare(sol, runs[0]).passed
    for energy, scale in ((m.energy(), 2.0), (other.energy(), 1.0)):
        wrong = wg.solve(energy, sol.density(0.0), (0, 2), t_eval=sol.t, time_scale=scale)
        assert not compare(wrong, runs[0]).passed


@pytest.mark.parametrize("risk", ["exact", "coordinates"])
def test_the_risk_of_a_run_is_the_mean_loss(risk):
    run = run_sgd(model(Logistic()), 30, 0.01, [0.0, 0.3], rng=2, risk=risk)
    f = 3.0 * np.tanh(run.theta[0, 1] @ X.T).mean(axis=0)
    assert run.risk[0, 1] == pytest.approx(float(np.logaddexp(0.0, -Y * f).mean()), rel=1e-12)


def test_several_passes_over_a_sample_and_labels_that_do_not_fit():
    m = model(Logistic())
    run = run_sgd(m, 200, 0.01, [0.0, 20.0], rng=2, replacement=False, kappa=0.5)
    assert run.risk[0, 1] < 0.12 < run.risk[0, 0]
    with pytest.raises(InvalidInput, match=r"y\[1\] is 0: Logistic"):
        run_sgd(m, 20, 0.01, [0.0, 0.1], rng=2, sample=(X[:2], [1.0, 0.0]))
    with pytest.raises(InvalidInput, match=r"need 1 \* ridge \* step_size"):
        run_sgd(m, 20, 0.01, [0.0, 0.1], rng=2, ridge=60.0)


def test_kept_runs_tell_losses_apart(tmp_path):
    """Two losses of a user's own have one name; their runs are not each other's."""
    kept = [kept_sgd_runs(model(own(loss)), tmp_path, n_neurons=10, step_size=0.01, t_eval=[0.0, 0.2], seed=1, n_runs=1)
            for loss in (Logistic(), Huber(0.3))]
    assert not np.array_equal(kept[0].coordinates, kept[1].coordinates)
    assert len(list(tmp_path.iterdir())) == 2
