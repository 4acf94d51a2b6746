"""SGD: the compiled kernel against a readable twin, its limits, its laws of large numbers, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from wgflow.activations import Erf, NonMonotone, Polynomial, Ramp, ReLU, Softplus, Tanh
from wgflow.compiled.sgd import sgd_steps
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, ResourceError
from wgflow.reduced_models import IsotropicGaussian
from wgflow.validation import run_sgd

MODEL = IsotropicGaussian(d=7, tau_plus2=1.8, tau_minus2=0.2)


def twin(w, a, b, x, y, steps, learn_ab, ridge, temperature, activation, rng):
    """The algorithm as it is written in the documentation, one sample at a time."""
    w, a, b = w.copy(), a.copy(), b.copy()
    for sample, label, s in zip(x, y, steps):
        z = w @ sample + b
        value, slope = activation(z), activation.derivative(z)
        e = 2 * s * (label - np.mean(a * value))
        c = 1 - 2 * ridge * s
        noise = np.zeros((len(a), w.shape[1] + (2 if learn_ab else 0)))
        if temperature > 0:
            noise = math.sqrt(4 * s * temperature) * rng.standard_normal(noise.shape)
        w = c * w + np.outer(e * a * slope, sample) + (noise[:, 2:] if learn_ab else noise)
        if learn_ab:
            a, b = c * a + e * value + noise[:, 0], c * b + e * a * slope + noise[:, 1]
    return w, a, b


@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), ReLU(0.2), Tanh(), Erf(), Softplus(),
                                        Polynomial([0.1, 1.0, 0.2])], ids=repr)
@pytest.mark.parametrize("learn_ab", [False, True])
@pytest.mark.parametrize(("ridge", "temperature"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.02)])
@pytest.mark.parametrize(("n", "d", "count"), [(1, 1, 5), (13, 7, 61), (150, 16, 40)])
def test_kernel_equals_its_twin(activation, learn_ab, ridge, temperature, n, d, count):
    rng = np.random.default_rng(2027 + n)
    w = rng.standard_normal((n, d))
    a, b = (rng.uniform(0.5, 1.5, n), rng.uniform(-0.3, 0.3, n)) if learn_ab else (np.ones(n), np.zeros(n))
    x, y, steps = rng.standard_normal((count, d)), rng.standard_normal(count), rng.uniform(1e-3, 4e-3, count)
    expected = twin(w, a, b, x, y, steps, learn_ab, ridge, temperature, activation, np.random.default_rng(5))
    before = w.copy()
    sgd_steps(w, a, b, x, y, steps, learn_ab, ridge, temperature, *activation.kernel_arguments(),
              np.random.default_rng(5))
    for ours, theirs in zip((w, a, b), expected):
        assert ours == pytest.approx(theirs, abs=1e-10, rel=1e-10)
    assert n == 1 or np.max(np.abs(w - before)) > 1e-5  # a run that stands still would agree as well


def test_strong_ridge_does_not_underflow():
    """Steps with 1 - 2 ridge s = .1 shrink the weights by 1e-300 within 300 samples."""
    w, rng = np.ones((3, 2)), np.random.default_rng(3)
    x, y, steps = rng.standard_normal((400, 2)), rng.standard_normal(400), np.full(400, 0.01)
    expected = twin(w, np.ones(3), np.zeros(3), x, y, steps, False, 45.0, 0.0, Tanh(), rng)
    sgd_steps(w, np.ones(3), np.zeros(3), x, y, steps, False, 45.0, 0.0, *Tanh().kernel_arguments(), rng)
    assert w == pytest.approx(expected[0], abs=1e-12)


def test_nan_is_not_hidden():
    w = np.ones((9, 3))
    x = np.full((9, 3), np.nan)
    sgd_steps(w, np.ones(9), np.zeros(9), x, np.ones(9), np.full(9, 0.1), False, 0.0, 0.0,
              *Tanh().kernel_arguments(), np.random.default_rng(3))
    assert np.isnan(w).all()


# -------------------------------------------------------------------- the driver
def test_result_shapes_and_content():
    sgd = run_sgd(MODEL, n_neurons=30, step_size=1e-3, t_eval=[0.0, 0.0104, 2.2], rng=7, n_runs=3, kappa=0.6)
    assert sgd.theta.shape == (3, 3, 30, 7)
    assert sgd.coordinates.shape == (3, 3, 30, 1)
    assert sgd.risk.shape == (3, 3)
    assert sgd.n_runs == 3
    assert sgd.steps.tolist() == [0, 10, 2200]
    assert sgd.t.tolist() == [0.0, 0.0104, 2.2]
    assert sgd.coordinates[..., 0] == pytest.approx(np.linalg.norm(sgd.theta, axis=-1), abs=1e-14)
    assert sgd.risk == pytest.approx(MODEL.population_risk(sgd.theta), abs=1e-14)
    assert len({w.tobytes() for w in sgd.theta[:, 0]}) == 3
    assert (sgd.seed_entropy, sgd.model, sgd.n_neurons, sgd.step_size) == (7, MODEL, 30, 1e-3)


def test_driver_equals_the_twin():
    """All the driver adds: blocks of samples, snapshots, the schedule, the spawned streams."""
    count, beta = 1100, 50.0
    sgd = run_sgd(MODEL, 12, 1e-3, [0.5, 1.1], rng=11, beta=beta, ridge=0.2, xi=lambda t: (1 + t) ** -0.25)
    start, data, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(11).spawn(1)[0].spawn(3))
    w = MODEL.initial_theta(12, 0.8, start)
    blocks = [MODEL.sample_data(1024, data) for _ in range(2)]
    x, y = (np.concatenate(parts)[:count] for parts in zip(*blocks))
    steps = 1e-3 * (1 + 1e-3 * np.arange(count)) ** -0.25
    expected, _, _ = twin(w, np.ones(12), np.zeros(12), x, y, steps, False, 0.2, 1 / beta, Ramp(), noise)
    assert sgd.theta[0, 1] == pytest.approx(expected, abs=1e-9)


def test_runs_repeat_bit_for_bit_whatever_the_output_times():
    few = run_sgd(MODEL, 20, 1e-3, [1.0, 3.0], rng=7, n_runs=2)
    # A snapshot cuts a batch of samples, which changes the order of additions but not the samples.
    many = run_sgd(MODEL, 20, 1e-3, np.linspace(0.0, 3.0, 31), rng=7)
    again = run_sgd(MODEL, 20, 1e-3, [1.0, 3.0], rng=7, n_runs=2)
    assert np.array_equal(few.theta, again.theta)
    assert many.theta[0, [10, 30]] == pytest.approx(few.theta[0], abs=1e-9)
    assert not np.array_equal(few.theta[0], few.theta[1])


def test_a_generator_is_a_source_of_runs():
    generator = np.random.default_rng(7)
    first = run_sgd(MODEL, 5, 1e-2, [0.1], rng=generator)
    second = run_sgd(MODEL, 5, 1e-2, [0.1], rng=generator)
    assert np.array_equal(first.theta, run_sgd(MODEL, 5, 1e-2, [0.1], rng=7).theta)
    assert not np.array_equal(first.theta, second.theta)
    stored = np.random.SeedSequence(**second.seed_state)
    assert np.array_equal(second.theta, run_sgd(MODEL, 5, 1e-2, [0.1], rng=stored).theta)


def test_theta0_is_used_and_left_alone():
    theta0 = MODEL.initial_theta(6, 1.0, np.random.default_rng(3))
    kept = theta0.copy()
    sgd = run_sgd(MODEL, 6, 1e-3, [0.0, 0.5], rng=7, n_runs=2, theta0=theta0)
    assert np.array_equal(theta0, kept)
    assert np.array_equal(sgd.theta[0, 0], theta0)
    assert np.array_equal(sgd.theta[1, 0], theta0)
    assert not np.array_equal(sgd.theta[0, 1], sgd.theta[1, 1])


def test_progress_and_storage_options(caplog):
    seen = []
    sgd = run_sgd(MODEL, 5, 1e-3, [0.5, 2.0], rng=7, n_runs=2, store_theta=False, progress=lambda *x: seen.append(x))
    assert sgd.theta is None
    assert sgd.risk.shape == (2, 2)
    assert seen[-1] == (4000, 4000)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    with caplog.at_level("INFO", logger="wgflow.validation.particles"):
        run_sgd(MODEL, 5, 1e-3, [0.1], rng=7, n_runs=2, progress=True)
    assert "SGD run 2 of 2 finished" in caplog.text


# -------------------------------------------------------------------- the mathematics
def test_small_steps_follow_the_gradient_flow_of_the_risk():
    """Three neurons, steps to 0: SGD converges to theta' = -N grad R_N, at the rate of its fluctuations."""
    model = IsotropicGaussian(d=3, tau_plus2=1.8, tau_minus2=0.2, activation=Polynomial([0.0, 0.5, 0.4]))
    theta0 = model.initial_theta(3, 1.0, np.random.default_rng(313))
    h = 1e-5

    def slope(t, flat):
        bumped = flat + h * np.concatenate([np.eye(9), -np.eye(9)])
        risks = model.population_risk(bumped.reshape(18, 3, 3))
        return -3.0 * (risks[:9] - risks[9:]) / (2 * h)

    exact = solve_ivp(slope, (0, 1), theta0.ravel(), rtol=1e-8, atol=1e-10).y[:, -1].reshape(3, 3)
    errors = []
    for step in (1.6e-3, 1e-4):
        sgd = run_sgd(model, 3, step, [1.0], rng=101, n_runs=60, theta0=theta0)
        errors.append(math.sqrt(np.mean((sgd.theta[:, 0] - exact) ** 2)))
        mean_error = np.abs(sgd.theta[:, 0].mean(axis=0) - exact)
        standard = sgd.theta[:, 0].std(axis=0) / math.sqrt(60)
    assert np.all(mean_error < 4.5 * standard + 5e-4)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)  # square root of the ratio of the steps
    assert np.abs(exact - theta0).max() > 0.2


def test_pure_noise_and_ridge_reach_the_stated_variance():
    """Without a signal the stationary law is normal with variance 1/(beta ridge), exactly so up to O(step)."""
    flat = IsotropicGaussian(d=4, tau_plus2=1.0, tau_minus2=1.0, activation=Polynomial([0.0]))
    sgd = run_sgd(flat, 4000, 0.02, [6.0], rng=19, beta=3.0, ridge=0.7)
    c = 1 - 2 * 0.7 * 0.02
    expected = 4 * 0.02 / 3.0 / (1 - c * c)
    assert expected == pytest.approx(1 / (3.0 * 0.7), rel=0.02)
    assert np.mean(sgd.theta**2) == pytest.approx(expected, rel=0.05)


def test_rotated_data_give_rotated_weights():
    """The algorithm knows no preferred axes: rotating samples and weights together changes no radius."""
    rng = np.random.default_rng(17)
    rotation, _ = np.linalg.qr(rng.standard_normal((7, 7)))
    w = MODEL.initial_theta(40, 0.8, rng)
    x, y = MODEL.sample_data(500, rng)
    turned = w @ rotation
    for weights, samples in ((w, x), (turned, x @ rotation)):
        sgd_steps(weights, np.ones(40), np.zeros(40), np.ascontiguousarray(samples), y, np.full(500, 1e-3), False, 0.0,
                  0.0, *Ramp().kernel_arguments(), rng)
    assert turned == pytest.approx(w @ rotation, abs=1e-10)


def test_the_talks_experiment():
    """d = 40, N = 800: the risk of SGD and the mean radius follow the mean-field limit up to the finite width."""
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    sgd = run_sgd(model, 800, 2e-5, [0.1, 0.3, 1.0], rng=7)
    assert sgd.risk[0] == pytest.approx([0.943, 0.314, 0.0658], abs=0.03)
    assert sgd.coordinates[0, 0].mean() == pytest.approx(1.1659538, abs=0.01)
    assert sgd.coordinates[0, 2].mean() == pytest.approx(1.8877332, abs=0.01)


# -------------------------------------------------------------------- input
GOOD = dict(model=MODEL, n_neurons=4, step_size=1e-3, t_eval=[0.0, 0.1], rng=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model="isotropic"), "NetworkModel"),
        (dict(model=IsotropicGaussian(np.inf, 1.8, 0.2)), "finite d"),
        (dict(n_neurons=0), "n_neurons=0"),
        (dict(n_neurons=-1), "n_neurons=-1"),
        (dict(n_neurons=2.0), "n_neurons must be an int"),
        (dict(n_neurons=True), "n_neurons must be an int"),
        (dict(step_size=0.0), "step_size=0"),
        (dict(step_size=np.nan), "step_size=nan"),
        (dict(step_size=np.inf), "step_size=inf"),
        (dict(t_eval=[0.1, 0.0]), "increase strictly"),
        (dict(t_eval=[0.0, 0.0]), "increase strictly"),
        (dict(t_eval=[-0.1]), "increase strictly"),
        (dict(t_eval=[np.nan]), "increase strictly"),
        (dict(t_eval=[]), "increase strictly"),
        (dict(t_eval=[1e300]), "steps of step_size"),
        (dict(t_eval=["a"]), "t_eval"),
        (dict(rng=None), "could not be repeated"),
        (dict(rng=-1), "rng=-1"),
        (dict(rng=7.0), "rng must be an int"),
        (dict(rng=True), "rng must be an int"),
        (dict(rng="7"), "rng must be an int"),
        (dict(n_runs=0), "n_runs=0"),
        (dict(beta=0.0), "beta=0"),
        (dict(ridge=-1.0), "ridge=-1"),
        (dict(ridge=1000.0), "too large for ridge"),
        (dict(kappa=-0.8), "kappa=-0.8"),
        (dict(xi=0.0), "xi=0"),
        (dict(xi=lambda t: t), "xi must be positive"),
        (dict(xi=lambda t: np.ones((2, 2))), "xi returned shape"),
        (dict(theta0=np.ones((4, 3))), "theta has shape"),
        (dict(theta0=np.ones((5, 7))), "theta0 has shape"),
        (dict(theta0=np.ones((2, 4, 7))), "theta0 has shape"),
        (dict(progress="yes"), "progress must be"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(InvalidInput, match=message):
        run_sgd(**{**GOOD, **change})


def test_a_position_that_is_not_finite_is_named():
    theta0 = np.ones((4, 7))
    theta0[2, 5] = np.nan
    with pytest.raises(InvalidInput, match=r"theta\[2, 5\] is nan"):
        run_sgd(**GOOD, theta0=theta0)


def test_wrong_kinds_are_type_errors():
    for change in (dict(n_neurons="4"), dict(rng=1.5), dict(theta0=np.full((4, 7), "x"))):
        with pytest.raises(InvalidType):
            run_sgd(**{**GOOD, **change})


def test_too_many_neurons_are_refused_before_allocation():
    with pytest.raises(ResourceError, match="n_neurons=1000000000000"):
        run_sgd(**{**GOOD, "n_neurons": 10**12})


def test_overflow_is_reported_with_what_was_computed():
    model = IsotropicGaussian(d=7, tau_plus2=1.8, tau_minus2=0.2, activation=Polynomial([0.0, 0.0, 0.0, 1.0]))
    with pytest.raises(ConvergenceError, match="smaller step_size") as caught:
        run_sgd(model, 4, 0.2, [0.0, 400.0], rng=7)
    assert caught.value.reason == "non-finite"
    assert caught.value.t <= 400.0
    assert caught.value.partial.t.tolist() == [0.0]
    assert caught.value.partial.theta.shape == (1, 1, 4, 7)
