"""Any loss on two Gaussian classes: against the square, closed forms, samples, other methods and duality; refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Ramp, ReLU
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.losses import Exponential, Huber, Logistic, SmoothHinge, Square, from_functions
from wgflow.reduced_models import AnisotropicGaussian, IsotropicGaussian, ReLUNetwork, check_model
from wgflow.validation import predict_scatter, run_sgd

LOSSES = [Logistic(), Exponential(), Huber(0.7), SmoothHinge(0.4)]
SQUARE = from_functions(Square().value, Square().derivative, Square().second_derivative, name="half square")


def isotropic(**options):
    return IsotropicGaussian(20, 1.8, 0.2, **options)


def anisotropic(**options):
    return AnisotropicGaussian(90, 40, delta=0.4, **options)


def rectifier(**options):
    return ReLUNetwork(90, 40, delta=0.4, **options)


def a_law(model, seed=3):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.2, 1.8, size=(model.n_coordinates, 6))
    return wg.Atoms(points, rng.dirichlet(np.ones(6)))


@pytest.mark.parametrize("make", [isotropic, anisotropic, rectifier, lambda **k: IsotropicGaussian(5, 1.8, 0.2, **k),
                                  lambda **k: IsotropicGaussian(math.inf, 1.8, 0.2, **k),
                                  lambda **k: AnisotropicGaussian(math.inf, gamma=0.3, delta=0.4, **k)])
def test_the_square_as_any_loss_is_half_the_risk(make):
    """Two routes: a series of the kernel, and outputs at nodes; they agree to the error that the model states."""
    square, own = make(), make(loss=SQUARE)
    law = a_law(square)
    allowed = 5 * own.feature_error + 5 * square.feature_error + 1e-12
    assert allowed < 2e-6
    assert 2 * own.risk(law) == pytest.approx(square.risk(law), abs=allowed)
    np.testing.assert_allclose(own.psi(law, *law.points), square.psi(law, *law.points), atol=allowed)
    assert own.energy()(law) == pytest.approx(square.energy()(law), abs=allowed)
    assert 2 * own.finite_width_excess(law) == pytest.approx(square.finite_width_excess(law), rel=2e-2)
    assert own.time_scale == 1.0
    assert not own.quadratic


@pytest.mark.parametrize("make", [isotropic, anisotropic, rectifier])
@pytest.mark.filterwarnings("ignore:the mean of SmoothHinge")
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_risk_of_networks_against_samples(make, loss):
    model, rng = make(loss=loss), np.random.default_rng(7)
    theta = model.initial_theta(60, 0.8, rng)
    a, b, w = (theta[:, 0], theta[:, 1], theta[:, 2:]) if model.trains_readout else (1.0, 0.0, theta)
    x, y = model.sample_data(40_000, rng)
    values = loss.value(y, np.mean(a * model.activation.value(x @ w.T + b), axis=1))
    error = math.hypot(values.std() / 200.0, float(model.population_risk_error(theta)))
    assert float(model.population_risk(theta)) == pytest.approx(values.mean(), abs=3.5 * error)
    # The mean field is below by about K/N, which the samples resolve.
    gap = float(model.population_risk(theta)) - model.risk(wg.Atoms(model.project(theta).T, np.full(60, 1 / 60)))
    assert gap > 4 * float(model.population_risk_error(theta))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_stated_error_holds_against_many_nodes(loss):
    """Of mixtures as well as of the single lengths by which rules are judged; trapezoids over the density of chi."""
    from scipy.stats import chi

    model = isotropic(loss=loss)
    lengths = np.linspace(0.0, 14.0, 7001)
    share = chi.pdf(lengths, 20) * (lengths[1] - lengths[0])
    for seed in range(3):
        law = a_law(model, seed)
        outputs = [model.activation.sphere_mean(tau * lengths[:, None] * law.points[0], 20) @ law.weights
                   for tau in model.deviations]
        risk = 0.5 * sum(share @ loss.value(label, f) for label, f in zip((1.0, -1.0), outputs))
        assert model.risk(law) == pytest.approx(risk, abs=model.feature_error * max(1.0, risk) + 1e-9)


def test_the_limit_of_many_dimensions_in_closed_form():
    model = IsotropicGaussian(math.inf, 1.8, 0.2, loss=Logistic())
    law, sigma = a_law(model), Ramp()
    outputs = [float(sigma.gaussian_mean(tau * law.points[0]) @ law.weights) for tau in model.deviations]
    assert model.risk(law) == pytest.approx(
        0.5 * math.log1p(math.exp(-outputs[0])) + 0.5 * math.log1p(math.exp(outputs[1])), rel=1e-14)
    np.testing.assert_allclose(model.outputs(law), outputs, rtol=1e-14)
    # The least risk: over all pairs of lengths on a fine mesh, and one at infinity, with the best weights.
    found = model.minimum_risk()
    r = np.linspace(0, 12, 241)
    q = np.array([sigma.gaussian_mean(tau * r) for tau in model.deviations])
    shares = np.linspace(0, 1, 41)[:, None, None]
    mixed = [shares * line[:, None] + (1 - shares) * line for line in q]
    best = float((0.5 * np.logaddexp(0, -mixed[0]) + 0.5 * np.logaddexp(0, mixed[1])).min())
    assert found.gap < 1e-10
    assert best - 2e-3 < found.value <= best


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_flow_particles_and_duality(loss):
    model = isotropic(loss=loss)
    grid = model.grid(300)
    sol = wg.solve(model.energy(), model.initial_density(0.8, grid), (0, 1), time_scale=model.time_scale)
    atoms = wg.solve(model.energy(), model.initial_atoms(0.8, 30), (0, 1), method=wg.Lagrangian(rtol=1e-6))
    assert sol.certificate.ok, sol.certificate.explain()
    assert np.all(np.diff(sol.energy) <= 0)
    assert model.risk(sol.final) == pytest.approx(model.risk(atoms.final), abs=2e-3)
    beta, ridge = 50.0, 0.05
    star = wg.stationary(model.energy(beta, ridge), model.grid(300, beta=beta, ridge=ridge))
    assert star.gap < 1e-10
    # The dual by the conjugate of l, without a value of Phi: g_k = l'(y_k, f_k).
    own, y, w = star.density.grid, model.node_labels, model.node_weights
    g = loss.derivative(y, model.outputs(star.density))
    psi = np.tensordot(np.sqrt(w) * g, model.features(*own.mesh()), axes=1) + 0.5 * ridge * own.centers[0] ** 2
    logs = own.log_reference - beta * psi
    partition = float(logs.max() + np.log(np.exp(logs - logs.max()).sum())) / beta
    assert star.energy == pytest.approx(-float(w @ loss.conjugate(y, g)) - partition, abs=1e-9)
    least = model.minimum_risk()
    assert 0 <= least.gap < 1e-10
    assert least.value <= model.risk(star.density)


def test_neurons_that_escape_have_no_mass():
    """A rectifier's outputs are >= 0, and a vanishing part of the neurons may be infinitely long."""
    model = IsotropicGaussian(20, 1.8, 0.2, activation=ReLU(0.5), loss=Logistic())
    found = model.minimum_risk()
    assert 0 <= found.gap < 1e-10
    rng = np.random.default_rng(2)
    for _ in range(50):
        law = wg.Atoms(rng.exponential(3.0, size=(1, 4)), rng.dirichlet(np.ones(4)))
        assert model.risk(law) > found.value - 1e-12


@pytest.mark.slow
def test_sgd_follows_the_flow():
    model = isotropic(loss=Logistic())
    t = [0.0, 0.3, 1.0]
    runs = run_sgd(model, 400, 1e-4, t, rng=11, n_runs=4)
    flow = wg.solve(model.energy(), model.initial_density(0.8, model.grid(600)), (0, 1), t_eval=t,
                    time_scale=model.time_scale)
    verdict = wg.validation.compare(flow, runs, model=model, scatter="predicted")
    assert verdict.passed, str(verdict)
    # On the clock of the square loss the same flow would be far ahead.
    wrong = wg.solve(model.energy(), model.initial_density(0.8, model.grid(600)), (0, 1), t_eval=t, time_scale=2.0)
    assert not wg.validation.compare(wrong, runs, model=model, scatter="predicted").passed


@pytest.mark.slow
def test_scatter_is_predicted_for_any_loss():
    model, t = isotropic(loss=Logistic()), [0.0, 0.3, 1.0]
    told = predict_scatter(model, t, 100, 5e-4)
    runs = run_sgd(model, 100, 5e-4, t, rng=5, n_runs=120)
    means = runs.coordinates[..., 0].mean(axis=2)
    ratio = means.std(axis=0, ddof=1) / told.deviation[told.functionals.index("mean of r")]
    np.testing.assert_allclose(ratio, 1.0, atol=0.18)
    assert told.step_bias is None


@pytest.mark.slow
@pytest.mark.parametrize("make", [isotropic, lambda **k: AnisotropicGaussian(40, 20, delta=0.4, **k),
                                  lambda **k: ReLUNetwork(40, 20, delta=0.4, **k)])
@pytest.mark.parametrize("loss", [Logistic(), Huber(0.7)], ids=repr)
def test_check_model_holds_it_against_samples(make, loss):
    report = check_model(make(loss=loss), throw=False)
    assert report.passed, str(report)
    wrong = make(loss=loss)
    wrong.moment_slopes = lambda z: 1.3 * type(wrong).moment_slopes(wrong, z)
    assert "step of SGD" in [check.name for check in check_model(wrong, throw=False).failed]


# ---------------------------------------------------------------- who refuses
@pytest.mark.parametrize("ask", [lambda m: m.potential(0.5), lambda m: m.kernel((0.5,), (0.5,)), lambda m: m.signs,
                                 lambda m: m.stationary_deltas(), lambda m: m.hidden_noise(m.initial_atoms(0.8)),
                                 lambda m: m.network_gradient(np.ones((3, 20)))])
def test_what_the_square_loss_alone_has_is_refused_by_name(ask):
    with pytest.raises(InvalidInput, match=r"IsotropicGaussian\(d=20.*loss=Logistic\(\)"):
        ask(isotropic(loss=Logistic()))


def test_bad_input_is_refused():
    for make in (isotropic, anisotropic, rectifier):
        with pytest.raises(InvalidType, match="loss must be one of"):
            make(loss="logistic")
        with pytest.raises(InvalidType, match=r"make one, as in Logistic\(\)"):
            make(loss=Logistic)
    with pytest.raises(InvalidInput, match="few dimensions"):
        AnisotropicGaussian(10, 2, delta=0.4, loss=Logistic()).features(0.5, 0.5)
    with pytest.raises(InvalidInput, match=r"Exponential\(\): its mean over the data does not settle"):
        AnisotropicGaussian(40, 20, delta=0.4, loss=Exponential()).features(0.5, 0.5)
    with pytest.raises(InvalidInput, match="no outputs at nodes"):
        isotropic().outputs(a_law(isotropic()))
    with pytest.warns(WGFlowWarning, match="a loss whose slope bends"):
        isotropic(loss=Huber(0.7), tolerance=1e-9).features(0.5)
    with pytest.raises(InvalidInput, match="risk='coordinates'"):
        run_sgd(isotropic(loss=Logistic()), 5, 1e-3, [0.0], rng=1, risk="coordinates")
