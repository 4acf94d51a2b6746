"""Mini-batches, finite samples and the noise conventions of SGD, against twins, limits and exact laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Erf, Polynomial, Ramp, ReLU, Tanh
from wgflow.atoms import Atoms
from wgflow.compiled.sgd import sgd_batches, sgd_steps
from wgflow.errors import InvalidInput, InvalidType, ResourceError
from wgflow.reduced_models import FiniteData, IsotropicGaussian, LinearNeuron
from wgflow.validation import run_sgd
from wgflow.validation.sampling import SampleStream

MODEL = IsotropicGaussian(d=7, tau_plus2=1.8, tau_minus2=0.2)
DATA = FiniteData(x=np.linspace(-2.0, 2.0, 12), y=np.sin(np.linspace(-2.0, 2.0, 12)), trains_readout=True)


def twin(w, a, b, x, y, steps, batch, learn_ab, ridge, temperature, activation, rng):
    """One mini-batch a step, as the documentation writes it."""
    for k, s in enumerate(steps):
        part = slice(k * batch, (k + 1) * batch)
        z = w @ x[part].T + b[:, None]
        value, slope = activation(z), activation.derivative(z)
        e = 2 * s * (y[part] - np.mean(a[:, None] * value, axis=0)) / batch
        c = 1 - 2 * ridge * s
        noise = np.zeros((len(a), w.shape[1] + (2 if learn_ab else 0)))
        if temperature > 0:
            noise = math.sqrt(4 * s * temperature) * rng.standard_normal(noise.shape)
        change_a, change_b = value @ e, a * (slope @ e)
        w = c * w + (a[:, None] * slope * e) @ x[part] + (noise[:, 2:] if learn_ab else noise)
        if learn_ab:
            a, b = c * a + change_a + noise[:, 0], c * b + change_b + noise[:, 1]
    return w, a, b


@pytest.mark.parametrize("activation", [Ramp(), ReLU(0.2), Tanh(), Erf(), Polynomial([0.1, 1.0, 0.2])], ids=repr)
@pytest.mark.parametrize("learn_ab", [False, True])
@pytest.mark.parametrize(("ridge", "temperature"), [(0.0, 0.0), (0.5, 0.02)])
@pytest.mark.parametrize(("n", "d", "batch"), [(1, 1, 2), (13, 7, 8), (300, 16, 11)])
def test_batches_equal_their_twin(activation, learn_ab, ridge, temperature, n, d, batch):
    rng = np.random.default_rng(2027 + n)
    w = rng.standard_normal((n, d))
    a, b = (rng.uniform(0.5, 1.5, n), rng.uniform(-0.3, 0.3, n)) if learn_ab else (np.ones(n), np.zeros(n))
    x, y, steps = rng.standard_normal((9 * batch, d)), rng.standard_normal(9 * batch), rng.uniform(1e-3, 4e-3, 9)
    rest = (batch, learn_ab, ridge, temperature)
    expected = twin(w, a, b, x, y, steps, *rest, activation, np.random.default_rng(5))
    before = w.copy()
    sgd_batches(w, a, b, x, y, steps, *rest, *activation.kernel_arguments(), np.random.default_rng(5))
    for ours, theirs in zip((w, a, b), expected):
        assert ours == pytest.approx(theirs, abs=1e-10, rel=1e-10)
    assert n == 1 or np.max(np.abs(w - before)) > 1e-5


@pytest.mark.parametrize("temperature", [0.0, 0.02])
def test_batches_of_one_are_the_steps_of_one_pass_sgd(temperature):
    rng = np.random.default_rng(3)
    w, x, y = rng.standard_normal((20, 5)), rng.standard_normal((50, 5)), rng.standard_normal(50)
    other, rest = w.copy(), (False, 0.3, temperature, *Ramp().kernel_arguments())
    sgd_batches(w, np.ones(20), np.zeros(20), x, y, np.full(50, 0.01), 1, *rest, np.random.default_rng(5))
    sgd_steps(other, np.ones(20), np.zeros(20), x, y, np.full(50, 0.01), *rest, np.random.default_rng(5))
    assert w == pytest.approx(other, abs=1e-11)


def test_strong_ridge_does_not_underflow_in_batches():
    rng, w = np.random.default_rng(3), np.ones((3, 2))
    x, y, steps = rng.standard_normal((800, 2)), rng.standard_normal(800), np.full(400, 0.01)
    expected = twin(w, np.ones(3), np.zeros(3), x, y, steps, 2, False, 45.0, 0.0, Tanh(), rng)
    sgd_batches(w, np.ones(3), np.zeros(3), x, y, steps, 2, False, 45.0, 0.0, *Tanh().kernel_arguments(), rng)
    assert w == pytest.approx(expected[0], abs=1e-12)


def test_the_driver_gives_batches_the_samples_of_one_pass():
    """The stream of samples is that of batch_size=1: 7 steps of 150 cross the blocks in which it is drawn."""
    sgd = run_sgd(MODEL, 12, 1e-3, [0.004, 0.007], rng=11, batch_size=150)
    start, data = (np.random.default_rng(s) for s in np.random.SeedSequence(11).spawn(1)[0].spawn(3)[:2])
    w = MODEL.initial_theta(12, 0.8, start)
    x, y = (np.concatenate(parts) for parts in zip(*(MODEL.sample_data(1024, data) for _ in range(2))))
    expected, _, _ = twin(w, np.ones(12), np.zeros(12), x, y, np.full(7, 1e-3), 150, False, 0.0, 0.0, Ramp(), None)
    assert sgd.theta[0, 1] == pytest.approx(expected, abs=1e-10)
    assert (sgd.batch_size, sgd.n_samples, sgd.epochs) == (150, None, None)


def test_batches_have_less_noise_by_their_size():
    """The scatter of the mean parameter around its mean over runs falls as 1/M in variance."""
    model = LinearNeuron(np.eye(2), [1.0, -1.0], noise_variance=0.5)
    theta0, spread = np.zeros((5, 2)), []
    for batch in (1, 16):
        sgd = run_sgd(model, 5, 2e-3, [3.0], rng=5, n_runs=300, theta0=theta0, batch_size=batch)
        spread.append(np.var(sgd.theta[:, 0].mean(axis=1), axis=0).mean())
    assert spread[0] / spread[1] == pytest.approx(16.0, rel=0.35)


# -------------------------------------------------------------------- finite samples
def test_without_replacement_every_sample_comes_once_a_pass():
    sample = (np.arange(10.0)[:, None], np.arange(10.0))
    line = FiniteData(*sample)
    stream = SampleStream(line, sample, False, np.random.default_rng(3))
    passes = np.concatenate([stream.take(k)[1] for k in (3, 9, 18)]).reshape(3, 10)
    assert np.array_equal(np.sort(passes, axis=1), np.tile(np.arange(10.0), (3, 1)))
    assert not np.array_equal(passes[0], passes[1])


def test_with_replacement_is_what_finite_data_draws():
    stream = SampleStream(DATA, (DATA.x, DATA.y), True, np.random.default_rng(3))
    x, y = DATA.sample_data(1024, np.random.default_rng(3))
    ours = stream.take(1024)
    assert np.array_equal(ours[0], x)
    assert np.array_equal(ours[1], y)


@pytest.mark.parametrize("replacement", [True, False])
def test_many_passes_follow_the_flow_of_the_empirical_risk(replacement):
    """SGD of 40 neurons in 12 samples, step to 0, is the characteristics of the same 40 atoms."""
    theta0 = DATA.initial_theta(40, 0.8, np.random.default_rng(3))
    sol = wg.solve(DATA.energy(), Atoms(theta0.T, np.full(40, 1 / 40)), (0, 1.0), time_scale=2.0,
                   method=wg.Lagrangian(rtol=1e-8))
    errors = []
    for step in (4e-3, 2.5e-4):
        sgd = run_sgd(DATA, 40, step, [1.0], rng=5, n_runs=20, theta0=theta0, replacement=replacement)
        errors.append(np.sqrt(np.mean((sgd.risk[:, 0] - DATA.risk(sol.final)) ** 2)))
    assert errors[0] > 2.5 * errors[1]
    assert errors[1] < 0.05 * DATA.risk(sol.density(0.0))
    assert sgd.epochs[-1] == pytest.approx(4000 / 12)


def test_a_whole_sample_as_batch_is_gradient_descent():
    """Without replacement and M = n every step takes the whole sample: nothing is random but the order."""
    theta0 = DATA.initial_theta(9, 0.8, np.random.default_rng(3))
    sgd = run_sgd(DATA, 9, 0.05, [2.0], rng=5, n_runs=2, theta0=theta0, replacement=False, batch_size=12)
    h, theta = 1e-6, theta0
    assert sgd.theta[0] == pytest.approx(sgd.theta[1], abs=1e-12)
    for _ in range(40):
        bumped = theta + h * np.concatenate([np.eye(27), -np.eye(27)]).reshape(54, 9, 3)
        risks = DATA.population_risk(bumped)
        theta = theta - 0.05 * 9 * ((risks[:27] - risks[27:]) / (2 * h)).reshape(9, 3)
    assert sgd.theta[0, 0] == pytest.approx(theta, abs=1e-7)


def test_few_passes_overfit_what_fresh_samples_do_not():
    sample = MODEL.sample_data(20, np.random.default_rng(9))
    many = run_sgd(MODEL, 30, 1e-3, [5.0], rng=7, sample=sample)
    fresh = run_sgd(MODEL, 30, 1e-3, [5.0], rng=7)
    x, y = sample
    errors = [np.mean((y - MODEL.neuron_outputs(s.theta[0, 0][:, None], x).mean(axis=0)) ** 2) for s in (many, fresh)]
    assert errors[0] < errors[1]
    assert many.risk[0, 0] > fresh.risk[0, 0]
    assert many.n_samples == 20


# -------------------------------------------------------------------- noise conventions
@pytest.mark.parametrize("constant", [1.0, 2.0, 4.0])
def test_the_noise_constant_sets_the_stationary_variance(constant):
    """V = U = 0: the variance is c / (4 beta ridge) up to O(step): .119, .238, .476 for beta = 3, ridge = .7."""
    flat = IsotropicGaussian(d=4, tau_plus2=1.0, tau_minus2=1.0, activation=Polynomial([0.0]))
    sgd = run_sgd(flat, 4000, 0.02, [6.0], rng=19, beta=3.0, ridge=0.7, noise_constant=constant, batch_size=2)
    c = 1 - 2 * 0.7 * 0.02
    expected = constant * 0.02 / 3.0 / (1 - c * c)
    assert expected == pytest.approx(constant / (4 * 3.0 * 0.7), rel=0.02)
    assert np.mean(sgd.theta**2) == pytest.approx(expected, rel=0.05)
    assert sgd.noise_constant == constant


def test_beta_and_noise_constant_enter_by_their_ratio():
    slides = run_sgd(MODEL, 10, 1e-3, [0.1], rng=7, beta=5.0, noise_constant=1.0)
    ours = run_sgd(MODEL, 10, 1e-3, [0.1], rng=7, beta=20.0)
    assert slides.theta == pytest.approx(ours.theta, abs=1e-14)


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(("change", "error", "message"), [
    (dict(batch_size=0), InvalidInput, "batch_size=0"),
    (dict(batch_size=2.0), InvalidType, "batch_size must be an int"),
    (dict(batch_size=10**12), ResourceError, "batch_size=1000000000000"),
    (dict(replacement=False), InvalidInput, "needs a finite sample"),
    (dict(replacement=1), InvalidType, "replacement=1"),
    (dict(noise_constant=0.0), InvalidInput, "noise_constant=0"),
    (dict(sample=np.ones((3, 7))), InvalidInput, "pair"),
    (dict(sample=(np.ones((3, 6)), np.ones(3))), InvalidInput, r"need \(n, 7\)"),
    (dict(sample=(np.ones((3, 7)), np.ones(2))), InvalidInput, r"need \(n, 7\)"),
    (dict(sample=(np.ones((3, 7)), [1.0, np.nan, 1.0])), InvalidInput, r"sample\[1\]\[1\] is not finite"),
])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        run_sgd(**{**dict(model=MODEL, n_neurons=4, step_size=1e-3, t_eval=[0.0, 0.1], rng=7), **change})
