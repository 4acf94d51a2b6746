"""The predicted scatter of functionals: closed forms, limits, other ways to the same number, and SGD itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit
from scipy.stats import chi2

import wgflow as wg
from wgflow.activations import PiecewiseLinear, Ramp, ReLU, Tanh
from wgflow.activations.kinks import kinks_between
from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput, InvalidType
from wgflow.losses import Logistic, from_functions
from wgflow.reduced_models import (
    AnisotropicGaussian,
    FiniteData,
    IsotropicGaussian,
    LinearNeuron,
    QuadraticActivation,
    ReLUNetwork,
)
from wgflow.reduced_models.data_rules import laguerre_table, quadratic_form_moment
from wgflow.reduced_models.radial_laws import gauss_chi_rule
from wgflow.validation import compare, predict_scatter, run_sgd

C, B, V = 1.5, 1.0, 0.3


def linear():
    return LinearNeuron(covariance=C, direction=B, noise_variance=V)


def exact_parts(t, mean0, var0, n, step, beta=math.inf, ridge=0.0):
    """The three variances of the mean of linear neurons in one dimension, by their integrals."""
    rate, rest = 2 * (C + ridge), C * B / (C + ridge)
    u, weights = np.polynomial.legendre.leggauss(40)
    u, weights = 0.5 * t * (u + 1), 0.5 * t * weights
    gap = B - (rest + (mean0 - rest) * np.exp(-rate * u))
    decay = np.exp(-2 * rate * (t - u))
    return [math.exp(-2 * rate * t) * var0 / n, 4 * step * weights @ (decay * (2 * C**2 * gap**2 + C * V)),
            4 / (beta * n) * weights @ decay]


# ------------------------------------------------------------------ closed forms
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_linear_neurons_without_noise(ridge):
    model = linear()
    start = model.initial_atoms(math.sqrt(0.2), mean0=-0.5)
    found = predict_scatter(model, [0.0, 0.1, 0.4], 100, 1e-3, start=start, functionals=["mean of theta"], ridge=ridge)
    exact = np.array([exact_parts(t, -0.5, 0.2, 100, 1e-3, ridge=ridge) for t in found.t]).T
    assert_allclose(found.parts()[:, 0], exact, rtol=1e-6, atol=1e-15)


def test_linear_neurons_with_noise_converge_to_second_order():
    model, errors = linear(), []
    exact = exact_parts(0.4, -0.5, 0.2, 100, 1e-3, beta=3.0, ridge=0.7)
    # On fewer cells the backward run takes a finer grid of its own.
    for cells, steps in ((400, 100), (800, 200)):
        grid = model.grid(cells=cells, kappa=math.sqrt(0.2), mean0=-0.5, beta=3.0, ridge=0.7)
        start = model.initial_density(math.sqrt(0.2), grid, mean0=-0.5)
        found = predict_scatter(model, [0.4], 100, 1e-3, start=start, functionals=["mean of theta"], beta=3.0,
                                ridge=0.7, n_steps=steps)
        errors.append(np.abs(found.parts().ravel() / exact - 1.0))
    assert np.max(errors[-1]) < 1e-3
    assert np.all(np.abs(np.log2(errors[0] / errors[-1]) - 2.0) < 0.1)


@pytest.mark.slow
def test_covariances_with_the_start_are_answers_to_a_tilted_start():
    """Where lengths have a reference measure r^(d-1), and the law is nonlinear: the flow itself, solved twice.

    On the grid of 60 cells, of which some ten hold mass, the rates of the backward run would spread too much.
    """
    model, beta, ridge, times = IsotropicGaussian(d=12, tau_plus2=1.8, tau_minus2=0.2), 60.0, 0.1, [0.0, 0.1]
    grid = model.weighted(wg.Grid([(0, 4.0)], cells=800, names=["r"], origin=True, boundary="no-flux"))
    start = model.initial_density(0.8, grid)
    r, masses = grid.centers[0], np.asarray(start.masses)
    mean = masses @ r
    tilts = {"mean of r": r - mean, "deviation of r": (r - mean) ** 2}

    def moments(change):
        law = np.maximum(masses * (1 + change), 0.0)
        sol = wg.solve(model.energy(beta=beta, ridge=ridge), wg.Density(grid, law / law.sum() / grid.volumes),
                       (0, times[-1]), t_eval=times, time_scale=model.time_scale)
        last = np.asarray(sol.final.masses)
        center = last @ r
        return np.array([center, math.sqrt(last @ (r - center) ** 2), float(model.risk(sol.final))])

    answers = {name: (moments(0.01 * f) - moments(-0.01 * f)) / 0.02 for name, f in tilts.items()}
    variance = masses @ (r - mean) ** 2
    coarse = model.initial_density(0.8, model.weighted(
        wg.Grid([(0, 6.0)], cells=60, names=["r"], origin=True, boundary="no-flux")))
    for law, tolerance in ((start, 0.01), (coarse, 0.04)):
        found = predict_scatter(model, times, 100, 0.0, start=law, beta=beta, ridge=ridge, n_steps=30)
        scale = {"mean of r": 1.0, "deviation of r": 2.0 * math.sqrt(variance)}
        for i, (name, answer) in enumerate(answers.items()):
            assert_allclose(scale[name] * found.starts[i, 0, :, 1], answer, rtol=tolerance,
                            atol=tolerance * np.abs(answer).max())


def test_recursion_of_sgd_itself():
    """m <- m + 2 s (y - m x) x is SGD of linear neurons: its variance over many recursions."""
    rng, runs, s = np.random.default_rng(3), 40_000, 1e-3
    m = -0.5 + math.sqrt(0.2 / 100) * rng.standard_normal(runs)
    for _ in range(400):
        x = math.sqrt(C) * rng.standard_normal(runs)
        m += 2 * s * (B * x + math.sqrt(V) * rng.standard_normal(runs) - m * x) * x
    model = linear()
    start = model.initial_atoms(math.sqrt(0.2), mean0=-0.5)
    found = predict_scatter(model, [0.4], 100, s, start=start, functionals=["mean of theta"])
    # The prediction is of first order in s; the sampling error of the variance is .7 %.
    assert m.var() == pytest.approx(found.variance[0, 0], rel=0.03)


def test_times_are_correlated_as_the_decay_says():
    model = linear()
    start = model.initial_atoms(math.sqrt(0.2), mean0=-0.5)
    found = predict_scatter(model, [0.1, 0.4], 100, 0.0, start=start, functionals=["mean of theta"])
    decay = math.exp(-2 * C * 0.3)
    assert_allclose(found.covariance[0, 0, 0, 1], decay * found.variance[0, 0], rtol=1e-6)
    samples = predict_scatter(model, [0.1, 0.4], 100, 1e-3, start=start, functionals=["mean of theta"]).samples
    assert_allclose(samples[0, 0, 0, 1], decay * samples[0, 0, 0, 0], rtol=1e-6)


# ------------------------------------------------------------------ the start
def test_at_time_zero_the_neurons_are_independent_draws():
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    found = predict_scatter(model, [0.0], 800, 1e-5, functionals=["mean of r", "deviation of r", lambda r: r**2])
    atoms = model.initial_atoms(0.8)
    r, mean, variance = atoms.points[0], atoms.mean(), atoms.cov()
    fourth = atoms.expect((r - mean) ** 4)
    exact = [variance, (fourth - variance**2) / (4 * variance), atoms.expect(r**4) - atoms.expect(r**2) ** 2]
    assert_allclose(found.variance[:, 0], np.array(exact) / 800, rtol=1e-6)


def test_excess_of_independent_draws_in_the_risk():
    """The scatter of the risk at the start against networks drawn independently."""
    model, rng = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), np.random.default_rng(5)
    atoms = model.initial_atoms(0.8)
    found = predict_scatter(model, [0.0], 2000, 0.0, functionals=["risk"])
    total = np.array([model.psi(atoms, atoms.sample(2000, rng)).mean() for _ in range(500)])
    assert 2 * total.std() == pytest.approx(found.deviation[0, 0], rel=0.12)


# ------------------------------------------------------------------ other ways to the same number
def small_networks(model, draws, n, t, kappa, ridge=0.0):
    """Population gradient flow of n particles from independent draws: the functionals of each draw."""
    rng, found = np.random.default_rng(11), []
    for _ in range(draws):
        start = model.initial_theta(n, kappa, rng)
        atoms = wg.Atoms(model.project(start).T, np.full(n, 1.0 / n), bounds=model.initial_atoms(kappa).bounds)
        sol = wg.solve(model.energy(ridge=ridge), atoms, (0.0, t), method=wg.Lagrangian(), time_scale=2.0, t_eval=[t])
        rho = sol.densities[-1]
        found.append([rho.mean(), math.sqrt(rho.cov()), model.risk(rho)])
    return np.array(found)


@pytest.mark.slow
def test_population_flow_of_particles_has_the_first_term_alone():
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    found = predict_scatter(model, [0.3], 200, 0.0)
    observed = small_networks(model, 100, 200, 0.3, 0.8)
    ratio = observed.var(axis=0, ddof=1) / found.variance[:, 0]
    low, high = chi2.ppf([5e-4, 1 - 5e-4], 99) / 99
    assert np.all((ratio > low) & (ratio < high))


@pytest.mark.slow
@pytest.mark.parametrize("model", [
    IsotropicGaussian(d=12, tau_plus2=1.5, tau_minus2=0.5),
    IsotropicGaussian(d=3, tau_plus2=1.5, tau_minus2=0.5),
    IsotropicGaussian(d=20, tau_plus2=1.8, tau_minus2=0.2),
    AnisotropicGaussian(d=60, s0=30, delta=0.4),
    FiniteData(np.linspace(-1, 2, 7)[:, None], np.sin(np.arange(7.0)), trains_readout=True),
    QuadraticActivation([[1.0, 0.2], [0.2, 0.5]], offset=0.3, covariance=[1.0, 0.5], noise_variance=0.1),
    LinearNeuron([2.0, 0.5], [1.0, -1.0], 0.3),
], ids=lambda model: f"{type(model).__name__} {int(model.input_dimension)}")
def test_what_one_sample_adds_against_samples_and_neurons(model):
    """Cov[(y - yhat) B] from the model against its own data and many neurons, moved along their coordinates."""
    rng = np.random.default_rng(2)
    # Directions are averaged by drawing many neurons; where there are none to average, samples take their place.
    n_neurons, n_samples = (3000, 3000) if model.n_coordinates < model.n_parameters else (100, 100_000)
    theta = model.initial_theta(n_neurons, 0.8, rng)
    points = model.project(theta).T
    fields = np.stack([np.ones_like(points), points[::-1]])  # two vector fields on the coordinates
    found = model.sample_covariance(wg.Atoms(points, np.full(n_neurons, 1.0 / n_neurons)), fields)
    x, y = model.sample_data(n_samples, rng)
    error = y - model.neuron_outputs(theta[:, None], x).mean(axis=0)
    pushes = [error * np.mean((model.neuron_outputs(_moved(model, theta, field, 1e-4)[:, None], x)
                               - model.neuron_outputs(_moved(model, theta, field, -1e-4)[:, None], x)) / 2e-4, axis=0)
              for field in fields]
    scale = np.sqrt(np.multiply.outer(np.diag(found), np.diag(found)))
    assert_allclose(np.cov(pushes) / scale, found / scale, atol=0.1)


def _moved(model, theta, field, step):
    """The neurons with their coordinates moved along a field: lengths of blocks by scaling, others themselves."""
    if model.n_coordinates == model.n_parameters:
        return theta + step * field.T
    sizes = [theta.shape[1]] if isinstance(model, IsotropicGaussian) else [int(n) for n in model.dimensions]
    blocks = np.split(theta, np.cumsum(sizes)[:-1], axis=1)
    return np.hstack([own * (1 + step * push / np.linalg.norm(own, axis=1))[:, None]
                      for own, push in zip(blocks, field)])


def test_gaussian_moments_and_polynomials():
    assert quadratic_form_moment([np.eye(2)] * 2) == 8.0  # E |g|^4 in the plane
    rng = np.random.default_rng(0)
    matrices = [a + a.T for a in rng.standard_normal((3, 2, 2))]
    g, w = np.polynomial.hermite_e.hermegauss(8)
    pairs, weights = np.stack(np.meshgrid(g, g)).reshape(2, -1), np.outer(w, w).ravel() / (2 * np.pi)
    product = np.prod([np.einsum("in,ij,jn->n", pairs, a, pairs) for a in matrices], axis=0)
    assert_allclose(quadratic_form_moment(matrices), weights @ product, rtol=1e-12)
    x, weights = gauss_chi_rule(7, 12)
    table = laguerre_table(7, x, 6)
    assert_allclose((table.T * weights) @ table, np.eye(6), atol=1e-12)


# ------------------------------------------------------------------ SGD
@pytest.mark.slow
@pytest.mark.parametrize(("model", "kappa", "step"), [
    (IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), 0.8, 1e-5),
    (FiniteData(np.linspace(-1, 2, 7)[:, None], np.sin(np.arange(7.0)), trains_readout=True), 0.5, 1e-3),
    (QuadraticActivation([[1.0, 0.2], [0.2, 0.5]], noise_variance=0.1), 0.6, 1e-4),
], ids=lambda value: type(value).__name__ if not isinstance(value, float) else "")
def test_scatter_of_sgd(model, kappa, step):
    times, runs = [0.05, 0.2], 120
    sgd = run_sgd(model, 400, step, times, rng=5, n_runs=runs, kappa=kappa, store_theta=False)
    found = predict_scatter(model, times, 400, step, kappa=kappa)
    observed = {}
    if not isinstance(model, QuadraticActivation):  # whose risk is near its minimum, and its scatter of second order
        observed["risk"] = sgd.risk
    for k, name in enumerate(model.coordinate_names):
        observed[f"mean of {name}"] = sgd.coordinates[..., k].mean(axis=2)
        observed[f"deviation of {name}"] = sgd.coordinates[..., k].std(axis=2)
    low, high = chi2.ppf([5e-4, 1 - 5e-4], runs - 1) / (runs - 1)
    for name, values in observed.items():
        ratio = values.var(axis=0, ddof=1) / found.variance[found.functionals.index(name)]
        # What is neglected, of order D step and 1/N, adds some percent.
        assert np.all((ratio > 0.9 * low) & (ratio < 1.2 * high)), (name, ratio)


# ------------------------------------------------------------------ compare
def test_a_single_run_is_enough_with_a_predicted_scatter():
    """SGD with large steps: without a prediction its common noise and its bias leave the bands of a single run."""
    model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    times, step = [0.1, 0.3], 1e-4
    rho0 = model.initial_density(0.8, model.grid(400))
    sol = wg.solve(model.energy(), rho0, (0.0, 0.3), t_eval=times, time_scale=2.0)
    found = predict_scatter(model, times, 400, step)
    alarms = {"observed": 0, "predicted": 0}
    for seed in range(8):
        sgd = run_sgd(model, 400, step, times, rng=seed, store_theta=False)
        plain = compare(sol, sgd, n_null=200, scatter="observed")
        told = compare(sol, sgd, n_null=200, scatter=found)
        alarms["observed"] += not plain.passed
        alarms["predicted"] += not told.passed
        assert "So is the bias of the step" in told.verdict
        assert "One run" not in told.verdict
        assert "One run" in plain.verdict
    # At level .01 two alarms in eight have a probability of .3 %.
    assert alarms["predicted"] <= 1
    assert alarms["observed"] >= 6


def test_a_scatter_for_other_runs_is_refused():
    model = linear()
    sgd = run_sgd(model, 50, 1e-3, [0.0, 0.1], rng=1, store_theta=False)
    sol = wg.solve(model.energy(), model.initial_atoms(0.8), (0.0, 0.1), method=wg.Lagrangian(), t_eval=sgd.t,
                   time_scale=2.0)
    good = predict_scatter(model, sgd.t, 50, 1e-3)
    compare(sol, sgd, scatter=good)
    for wrong, word in ((good.rescaled(n_neurons=60), "n_neurons"), (good.rescaled(step_size=1e-4), "step_size"),
                        (predict_scatter(model, [0.0], 50, 1e-3), "no time")):
        with pytest.raises(InvalidInput, match=word):
            compare(sol, sgd, scatter=wrong)


# ------------------------------------------------------------------ refusals
def test_bad_input():
    model = linear()
    with pytest.raises(InvalidInput, match="mean of theta"):
        predict_scatter(model, [0.1], 100, 1e-3, functionals=["mean of x"])
    with pytest.raises(InvalidInput, match="increase"):
        predict_scatter(model, [0.2, 0.1], 100, 1e-3)
    with pytest.raises(InvalidType, match="initial_density"):
        predict_scatter(model, [0.1], 100, 1e-3, beta=3.0)
    falling = IsotropicGaussian(d=320, tau_plus2=1.5, tau_minus2=0.5, activation=wg.activations.NonMonotone())
    with pytest.raises(InvalidInput, match="length 0"):
        predict_scatter(falling, [0.2], 100, 1e-5, kappa=0.1)
    with pytest.raises(InvalidInput, match="few dimensions"):  # a series that does not hold fourth moments
        predict_scatter(AnisotropicGaussian(d=40, s0=20, delta=0.4), [0.1], 100, 1e-3)
    with pytest.raises(InvalidInput, match="centered=True"):
        predict_scatter(QuadraticActivation([[1.0]], centered=True), [0.1], 100, 1e-3)


def test_a_rectifier_network():
    model = ReLUNetwork(d=320, s0=60, delta=0.4)
    found = predict_scatter(model, [0.2], 800, 5e-5, start=model.initial_atoms(0.8, nodes=6))
    assert found.functionals[:2] == ("mean of a", "deviation of a")
    assert np.isfinite(found.deviation).all()
    assert found.deviation[0, 0] > 0.0
    assert "risk" in found.table()


# ------------------------------------------------------------------ any loss
@pytest.mark.parametrize("noisy", [False, True])
def test_scatter_of_logistic_training(noisy):
    """Means, deviations and risk of 400 runs, within the bounds of chi^2 of their predicted variances."""
    x, y = [[1.0, 0.5], [-0.7, 1.2], [0.3, -1.1], [1.5, 1.0], [-1.2, -0.4]], [1.0, -1.0, 1.0, 1.0, -1.0]
    if noisy:
        x = [row[:1] for row in x]
    model, t = FiniteData(x, y, loss=Logistic(), output_scale=3.0), [0.5, 2.0]
    more = {"beta": 20.0, "ridge": 0.1} if noisy else {}
    start = model.initial_density(0.6, model.grid(160, **more)) if noisy else model.initial_atoms(0.6)
    told = predict_scatter(model, t, 50, 0.01, start=start, **more)
    runs = run_sgd(model, 50, 0.01, t, rng=5, n_runs=400, kappa=0.6, **more)
    name = model.coordinate_names[0]
    seen = {f"mean of {name}": runs.coordinates[..., 0].mean(axis=2),
            f"deviation of {name}": runs.coordinates[..., 0].std(axis=2), "risk": runs.risk}
    low, high = chi2.ppf([1e-4, 1 - 1e-4], 399) / 399
    for key, values in seen.items():
        ratio = values.var(axis=0, ddof=1) / told.variance[told.functionals.index(key)]
        # The next order, of 1/N and of the step, is some per cent.
        assert np.all((0.93 * low < ratio) & (ratio < 1.07 * high)), (key, ratio)
    assert told.step_bias is None


def test_a_loss_of_functions_has_the_scatter_of_the_square():
    """(y - f)^2 / 2 through l, l', l'': the same linearized flow on another clock, of time 2 t and step 2 epsilon."""
    x, y = [[1.0], [-0.7], [0.3]], [0.5, -0.2, 0.4]
    plain = FiniteData(x, y)
    half_square = from_functions(lambda y, f: (y - f) ** 2 / 2, lambda y, f: f - y, lambda y, f: 0 * f + 1)
    own = FiniteData(x, y, loss=half_square)
    a = predict_scatter(plain, [0.5], 40, 1e-3, functionals=["mean of w"])
    b = predict_scatter(own, [1.0], 40, 2e-3, functionals=["mean of w"])
    assert_allclose(a.parts(), b.parts(), rtol=1e-6)
    assert_allclose(a.mean_field, b.mean_field, rtol=1e-8)


class OfTwoFunctions(wg.activations.Activation):
    """An activation of a user's own, known by its value and its slope alone."""

    def __init__(self, value, slope):
        self._value, self._slope = value, slope

    def value(self, t):
        return self._value(np.asarray(t, dtype=float))

    def derivative(self, t):
        return self._slope(np.asarray(t, dtype=float))

    length_scale = 1.0
    gaussian_mean = hermite_coefficients = pair_expectation = sphere_mean = kernel_arguments = None

    def _key(self):
        return (id(self),)


def leaky_relu(at=0.0):
    return OfTwoFunctions(lambda t: np.where(t > at, t - at, 0.1 * (t - at)), lambda t: np.where(t > at, 1.0, 0.1))


def hard_tanh():
    return OfTwoFunctions(lambda t: np.clip(t, -1.0, 1.0), lambda t: 1.0 * ((t > -1.0) & (t <= 1.0)))


def sharp_softplus(k):
    return OfTwoFunctions(lambda t: np.logaddexp(0.0, k * t) / k, lambda t: expit(k * t))


def of_table(count):
    knots = np.linspace(-8.0, 8.0, count)
    values = np.tanh(knots - 0.404)  # so that no knot is without a jump by symmetry
    slopes = np.diff(values) / np.diff(knots)
    return OfTwoFunctions(lambda t: np.interp(t, knots, values),
                          lambda t: slopes[np.clip(np.searchsorted(knots, t) - 1, 0, count - 2)])


@pytest.mark.parametrize(("activation", "at"), [
    (leaky_relu(), [0.0]), (leaky_relu(0.3), [0.3]), (hard_tanh(), [-1.0, 1.0]), (sharp_softplus(1e7), [0.0]),
    (sharp_softplus(20.0), []), (sharp_softplus(1e3), []), (Tanh(), []), (Ramp(), [0.5, 1.5]),
    (PiecewiseLinear([0.0, 1.0], [0.0, 1.0], 1.0, 1.0), []),
    (of_table(9), list(np.linspace(-2, 2, 3))), (of_table(1601), list(np.linspace(-2, 2, 401)))])
def test_kinks_are_found_from_the_function(activation, at):
    found = kinks_between(activation, -2.005, 2.003)
    assert_allclose(found, at, atol=3e-5)
    assert_allclose(kinks_between(activation, -2.005, -1.495), [x for x in at if x < -1.495], atol=3e-5)


def test_kinks_on_finite_data_are_refused_and_compared_by_what_is_observed():
    x = np.linspace(-2, 2, 9)[:, None]
    knots = np.linspace(-4, 4, 5)
    table = PiecewiseLinear(knots, knots / (1 + np.exp(-knots)), right_slope=1.0)
    for activation in (table, Ramp(), ReLU(), leaky_relu(), hard_tanh(), of_table(81), sharp_softplus(1e7)):
        model = FiniteData(x, np.sin(x[:, 0]), activation)
        with pytest.raises(InvalidInput, match="force on a neuron jumps where a kink passes a sample"):
            predict_scatter(model, [0.5], 50, 1e-2, start=Atoms(np.linspace(-1, 1, 8), np.full(8, 1 / 8)))
    model = FiniteData(x, np.sin(x[:, 0]), ReLU())
    rho = model.initial_density(0.8, model.grid())
    sol = wg.solve(model.energy(), rho, (0, 0.5), t_eval=[0, 0.5], time_scale=model.time_scale)
    runs = wg.validation.run_sgd(model, n_neurons=50, step_size=1e-2, t_eval=sol.t, rng=1, n_runs=5)
    assert "a kink passes a sample" in wg.validation.compare(sol, runs, n_null=200).verdict


def test_kinks_that_no_neuron_meets_are_none():
    """Hard tanh between its kinks is the identity; so are leaky rectifiers where all arguments are positive."""
    x, start = np.linspace(0.2, 0.8, 5)[:, None], Atoms(np.linspace(0.3, 0.9, 6), np.full(6, 1 / 6))
    y = 0.6 * x[:, 0]
    line = OfTwoFunctions(lambda t: t, np.ones_like)
    expected = predict_scatter(FiniteData(x, y, line), [0.3], 50, 1e-2, start=start)
    for activation in (hard_tanh(), leaky_relu(), ReLU(), PiecewiseLinear([-1.0, 1.0], [-1.0, 1.0])):
        found = predict_scatter(FiniteData(x, y, activation), [0.3], 50, 1e-2, start=start)
        assert_allclose(found.covariance, expected.covariance, rtol=1e-6, atol=1e-12)
    # Reached on the way, not at the start.
    with pytest.raises(InvalidInput, match="at 1"):
        predict_scatter(FiniteData(x, 4 * y, hard_tanh()), [0.0, 20.0], 50, 1e-2, start=start)


def test_a_smooth_corner_is_predicted_as_the_flow_answers_to_it():
    """The covariance with the start's mean is how means answer to a start that is tilted by it."""
    x = np.linspace(-2, 2, 9)[:, None]
    model = FiniteData(x, np.maximum(x[:, 0], -0.3), sharp_softplus(20.0))
    points, tilt = np.linspace(-1, 1, 60), 1e-4
    found = predict_scatter(model, [0.0, 0.5], 50, 0.0, start=Atoms(points, np.full(60, 1 / 60)),
                            functionals=["mean of w", "risk"])
    ends = [predict_scatter(model, [0.5], 50, 0.0, start=Atoms(points, (1 + sign * tilt * points) / 60),
                            functionals=["mean of w", "risk"]).mean_field[:, 0] for sign in (1, -1)]
    assert_allclose(found.starts[0, 0, :, 1], (ends[0] - ends[1]) / (2 * tilt), rtol=1e-4)
