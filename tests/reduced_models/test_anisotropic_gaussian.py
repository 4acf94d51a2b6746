"""The anisotropic Gaussian model: drift against the full dimension, risks, initial laws, limits, by other routes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import roots_jacobi
from scipy.stats import chi

import wgflow as wg
from wgflow.activations import Erf, NonMonotone, Polynomial, Ramp, ReLU, Tanh
from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.reduced_models import IsotropicGaussian
from wgflow.reduced_models.anisotropic_gaussian import AnisotropicGaussian

RADII = np.array([0.0, 0.1, 0.5, 0.8, 1.5, 2.5, 4.0])


def model(d=320, s0=60, plus=1.4, minus=0.6, activation=None, **options):
    return AnisotropicGaussian(d, s0, plus, minus, activation=activation, **options)


# -------------------------------------------------------------------- the drift in the full dimension
def directions(dim, nodes):
    """Nodes (cos, sin) and weights for the angle to a random direction of R^dim."""
    c, weights = roots_jacobi(nodes, 0.5 * (dim - 3), 0.5 * (dim - 3))
    return c, np.sqrt(1 - c * c), weights / weights.sum()


def full_drift(activation, covariances, w, others, weights, degree=120):
    r"""Gradient in w of V(w) + sum_j weights_j U(w, w_j), in all its d components, U by its Mehler series."""
    drift = np.zeros(w.size)
    for sign, c in zip((1.0, -1.0), covariances):
        s, own = math.sqrt(w @ (c * w)), c * w
        s_, cross = np.sqrt(np.sum(others * c * others, axis=1)), others @ (c * w)
        rho = cross / (s * s_)
        drift -= 0.5 * sign * float(activation.gaussian_mean(s, 1)) * own / s
        k = np.arange(degree + 1.0)[:, None]
        a, slope = (activation.hermite_coefficients(s, degree, order)[:, None] for order in (0, 1))
        a_ = activation.hermite_coefficients(s_, degree)
        along = 0.5 * weights * np.sum(slope * a_ * rho**k, axis=0) / s
        turn = 0.5 * weights * np.sum(k[1:] * a[1:] * a_[1:] * rho ** (k[1:] - 1), axis=0)
        drift += np.sum(along - turn * rho / s**2) * own + np.sum((turn / (s * s_))[:, None] * (others * c), axis=0)
    return drift


def spread_over_rotations(blocks, w, radii, nodes=36):
    """Weights whose blocks have given lengths and directions at quadrature angles to those of w, and their shares."""
    rng = np.random.default_rng(4001)
    vectors, shares = np.zeros((1, 0)), np.ones(1)
    for block, r in zip(blocks, radii):
        v = w[block]
        e = v / np.linalg.norm(v)
        f = rng.standard_normal(v.size)
        f -= (f @ e) * e
        f /= np.linalg.norm(f)
        c, s, share = directions(v.size, nodes)
        part = r * (np.concatenate([c, c])[:, None] * e + np.concatenate([s, -s])[:, None] * f)
        share = 0.5 * np.concatenate([share, share])
        vectors = np.concatenate([np.repeat(vectors, len(part), axis=0), np.tile(part, (len(vectors), 1))], axis=1)
        shares = np.repeat(shares, share.size) * np.tile(share, shares.size)
    return vectors, shares


@pytest.mark.slow
@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), Erf()], ids=repr)
def test_reduced_drift_is_the_drift_of_the_full_dimension(activation):
    m = model(activation=activation, tolerance=1e-13)
    rng = np.random.default_rng(4003)
    w = m.initial_theta(1, 1.5, rng)[0]
    w[:60] *= 2.0
    blocks = slice(0, 60), slice(60, 320)
    rho = Atoms([[0.4, 1.7], [0.9, 0.5]], [0.3, 0.7])
    others, shares = zip(*(spread_over_rotations(blocks, w, radii) for radii in rho.points.T))
    weights = np.concatenate([p * x for p, x in zip(rho.weights, shares)])
    covariances = [np.repeat([tau2, 1.0], [60, 260]) for tau2 in (1.4, 0.6)]
    drift = full_drift(activation, covariances, w, np.concatenate(others), weights)
    r1, r2 = m.project(w[None])[0]
    reduced = m.psi_gradient(rho, r1, r2)
    units = [np.where(np.arange(320) < 60, w / r1, 0.0), np.where(np.arange(320) < 60, 0.0, w / r2)]
    assert [drift @ u for u in units] == pytest.approx(reduced, abs=1e-10)
    assert drift == pytest.approx(reduced[0] * units[0] + reduced[1] * units[1], abs=1e-10)


def test_reduced_drift_of_the_isotropic_model_is_that_of_the_full_dimension():
    m = IsotropicGaussian(40, 1.8, 0.2, tolerance=1e-13)
    w = m.initial_theta(1, 1.5, np.random.default_rng(4007))[0]
    rho = Atoms([[0.6, 1.7]], [0.3, 0.7])
    others, shares = zip(*(spread_over_rotations((slice(0, 40),), w, radii, 80) for radii in rho.points.T))
    weights = np.concatenate([p * x for p, x in zip(rho.weights, shares)])
    covariances = [np.full(40, 1.8), np.full(40, 0.2)]
    drift = full_drift(m.activation, covariances, w, np.concatenate(others), weights, degree=200)
    r = float(m.project(w[None])[0, 0])
    assert drift == pytest.approx(m.psi_gradient(rho, r)[0] * w / r, abs=1e-10)


# -------------------------------------------------------------------- kernel and limits
@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), Polynomial([0.5, 1.0, 0.3])], ids=repr)
def test_on_the_axes_it_is_an_isotropic_model(activation):
    m = model(activation=activation, tolerance=1e-10)
    r, s = np.meshgrid(RADII, RADII, indexing="ij")
    first = IsotropicGaussian(60, 1.4, 0.6, activation=activation).kernel((r,), (s,))
    assert m.kernel((r, 0.0), (s, 0.0)) == pytest.approx(first, abs=3e-10 * np.max(first))
    second = IsotropicGaussian(260, 1.0, 1.0, activation=activation).kernel((r,), (s,))
    assert m.kernel((0.0, r), (0.0, s)) == pytest.approx(second, abs=3e-10 * np.max(second))
    assert m.potential(RADII, 0.0) == pytest.approx(IsotropicGaussian(60, 1.4, 0.6, activation=activation)
                                                     .potential(RADII), abs=1e-14)


def test_the_potential_is_that_of_the_mean_outputs():
    m = model()
    r1, r2 = np.meshgrid(RADII, RADII, indexing="ij")
    q = [Ramp().gaussian_mean(np.hypot(tau * r1, r2)) for tau in m.deviations]
    assert m.potential(r1, r2) == pytest.approx(-0.5 * q[0] + 0.5 * q[1], abs=1e-13)


def test_infinite_dimension_is_the_limit():
    r1, r2 = np.meshgrid(RADII, RADII, indexing="ij")
    limit = model(math.inf, None, gamma=0.25)
    assert limit.target.size == 2
    expected = limit.kernel((r1, r2), (0.7, 1.1))
    gaps = [np.max(np.abs(model(d, d // 4).kernel((r1, r2), (0.7, 1.1)) - expected)) for d in (400, 1600, 6400)]
    assert gaps[1] / gaps[0] == pytest.approx(1 / 4, rel=0.1)
    assert gaps[2] / gaps[1] == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.1, 0.5, 0.75, 0.9])
def test_least_risk_of_the_limit_is_that_of_the_isotropic_limit(delta):
    m = AnisotropicGaussian(math.inf, delta=delta, gamma=0.2)
    isotropic = IsotropicGaussian(math.inf, delta=delta).minimum_risk()
    found = m.minimum_risk()
    assert m.search_box() == ((0.0, math.inf), (0.0, math.inf))
    assert found.value == pytest.approx(isotropic.value, abs=1e-10)
    if isotropic.value > 1e-6:
        assert found.atoms[0] == pytest.approx([isotropic.atoms[0, 0], 0.0], abs=1e-5)
    else:  # many measures have risk 0
        assert delta >= 0.75


def test_least_risk_over_all_lengths():
    m = model(320, 60, tolerance=1e-7)
    found = m.minimum_risk(tolerance=1e-7, samples=2500)
    assert found.gap <= 1e-7
    assert m.risk(found.measure) == pytest.approx(found.value, abs=1e-9)
    # No law of finite or infinite lengths does better against it: Psi is least at its atoms.
    rng = np.random.default_rng(4027)
    r = rng.exponential(30.0, (2, 400))
    best = m.psi(found.measure, *found.atoms[0])
    assert np.all(m.psi(found.measure, *r) >= best - 1e-7)


def test_neurons_that_go_to_infinity_where_the_classes_are_alike():
    # The best constant output is 0; at infinity neurons say (7.5 - 2.5)/2 = 2.5, at the origin -2.5.
    m = model(40, 10, 1.0, 1.0)
    (limit,) = m.limit_points()
    assert limit.mass == 1.0
    assert limit.features[:2] == pytest.approx([2.5 * math.sqrt(0.5)] * 2)
    assert not limit.features[2:].any()
    assert limit.diagonal == 0.5 * (2.5**2 + 7.5**2)
    far = m.features([1e6, 0.0, 1e6], [0.0, 1e6, 1e6])
    assert far == pytest.approx(np.repeat(limit.features[:, None], 3, axis=1), abs=1e-4)
    assert model(math.inf, None, 1.0, 1.0, gamma=0.3).minimum_risk().value == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("activation", [ReLU(), Polynomial([0.5, 1.0, 0.3])], ids=repr)
def test_unbounded_activations_have_no_limit(activation):
    m = model(40, 20, activation=activation)
    assert m.limit_points() == ()
    assert m.search_box() == m.grid(8).bounds


@pytest.mark.slow
@pytest.mark.parametrize(("d", "s0"), [(320, 4), (40, 36)])
def test_blocks_of_few_dimensions_reach_the_tolerance(d, s0):
    m = model(d, s0)
    assert m.feature_error <= 1e-8
    r = np.linspace(0.0, 4.0, 9)
    mesh = np.meshgrid(r, r, indexing="ij")
    first = IsotropicGaussian(4, *((1.4, 0.6) if s0 == 4 else (1.0, 1.0))).kernel((mesh[0],), (mesh[1],))
    pairs = ((mesh[0], 0.0), (mesh[1], 0.0)) if s0 == 4 else ((0.0, mesh[0]), (0.0, mesh[1]))
    assert m.kernel(*pairs) == pytest.approx(first, abs=1e-8 * np.max(first))


@settings(max_examples=10, deadline=None)
@given(st.integers(12, 200), st.integers(12, 200), st.floats(0.1, 3), st.floats(0.1, 3), st.integers(0, 99999))
def test_kernel_is_symmetric_positive_and_bounded_by_the_diagonal(s0, rest, plus, minus, seed):
    m = model(s0 + rest, s0, plus, minus, tolerance=1e-6)
    r = np.random.default_rng(seed).uniform(0, 4, (2, 12))
    table = m.kernel(tuple(x[:, None] for x in r), tuple(x[None, :] for x in r))
    assert np.array_equal(table, table.T)
    assert np.linalg.eigvalsh(table)[0] > -1e-10
    assert np.all(np.diag(table) <= m.diagonal(*r) + 1e-9)
    assert m.feature_error <= m.tolerance


# -------------------------------------------------------------------- energies and initial laws
def test_risk_is_twice_the_energy():
    m = model(80, 20)
    grid = m.grid((40, 30))
    rho = m.initial_density(0.8, grid)
    assert 2 * m.energy()(rho) == pytest.approx(m.risk(rho), abs=1e-9)
    ridged = m.energy(ridge=0.3).first_variation(rho)
    assert ridged - 0.5 == pytest.approx(m.psi(rho, *grid.mesh(), ridge=0.3), abs=1e-9)
    second = float(np.sum(rho.masses * sum(x * x for x in grid.mesh())))
    assert m.energy(ridge=0.3)(rho) == pytest.approx(0.5 * m.risk(rho) + 0.15 * second, abs=1e-9)


def test_entropy_is_that_of_the_full_space():
    d, kappa, beta = 40, 0.8, 7.0
    m = model(d, 10)
    normal = -0.5 * d * (1 + math.log(2 * math.pi * kappa**2 / d))  # int rho log rho of N(0, kappa^2/d I)
    errors = []
    for n in (150, 300):
        rho = m.initial_density(kappa, m.grid((n, n), r_max=(1.2, 1.4)))
        errors.append(wg.Entropy(beta)(rho) - normal / beta)
    assert abs(errors[1]) < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(("d", "s0"), [(2, 1), (40, 10), (320, 60), (5000, 4900)])
def test_initial_laws(d, s0):
    m, kappa = model(d, s0), 0.8
    grid = m.grid((60, 70), r_max=(4.0, 4.0))
    rho = m.initial_density(kappa, grid)
    for axis, n in enumerate((s0, d - s0)):
        law = chi(n, scale=kappa / math.sqrt(d))
        exact = np.diff(law.cdf(grid.edges[axis]))
        assert np.sum(rho.masses, axis=1 - axis) == pytest.approx(exact, abs=1e-12)
    atoms = m.initial_atoms(kappa, nodes=8)
    assert atoms.mass == pytest.approx(1.0, abs=1e-14)
    assert atoms.powers == (s0 - 1.0, d - s0 - 1.0)
    # Polynomials in the squares are integrated exactly.
    for axis, n in enumerate((s0, d - s0)):
        x = atoms.points[axis] ** 2 * d / kappa**2
        assert atoms.weights @ x == pytest.approx(n, rel=1e-12)
        assert atoms.weights @ x**3 == pytest.approx(n * (n + 2) * (n + 4), rel=1e-12)


def test_initial_risk_by_two_routes():
    m = model()
    exact = [m.risk(m.initial_atoms(0.8, nodes)) for nodes in (16, 24)]
    assert exact[0] == pytest.approx(exact[1], abs=1e-9)
    errors = [abs(m.risk(m.initial_density(0.8, m.grid((n, n), r_max=(0.8, 1.2)))) - exact[1]) for n in (60, 120)]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_the_limit_starts_from_one_atom():
    m = model(math.inf, None, gamma=0.25)
    assert m.initial_atoms(0.8).points.ravel() == pytest.approx([0.4, 0.8 * math.sqrt(0.75)])
    rho = m.initial_density(0.8, m.grid(50))
    assert rho.mean() == pytest.approx([0.4, 0.8 * math.sqrt(0.75)], abs=1e-12)


def test_grids():
    m = model(40, 10)
    assert m.grid().shape == (160, 120)
    assert m.grid().bounds == ((0.0, 3.5 * 1.5), (0.0, 2.0 * 1.5))
    assert m.grid(beta=100.0, ridge=0.01).bounds[0][1] > math.sqrt(10) + 7
    grid = m.grid((9, 11), r_max=(2.0, 3.0))
    balls = [0.5 * n * math.log(math.pi) - math.lgamma(0.5 * n + 1) + n * math.log(r) for n, r in ((10, 2), (30, 3))]
    total = np.logaddexp.reduce(grid.log_reference.ravel())
    assert total == pytest.approx(sum(balls), rel=1e-12)  # the volume of the product of two balls


# -------------------------------------------------------------------- the network
@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), Tanh(), Polynomial([0.2, 1.0, 0.4])], ids=repr)
@pytest.mark.parametrize(("d", "s0"), [(2, 1), (40, 10)])
def test_population_risk_against_all_pairs_in_closed_form(d, s0, activation):
    m = model(d, s0, activation=activation)
    w = m.initial_theta(7, 1.5, np.random.default_rng(313))
    w[1] = 1.3 * w[0]  # parallel, opposite, nearly parallel, dead and one-block neurons
    w[2] = -w[0]
    w[3] = w[0] + 1e-7
    w[4] = 0.0
    w[5, s0:] = 0.0
    expected = 1.0
    for sign, tau2 in ((1.0, 1.4), (-1.0, 0.6)):
        covariance = w @ (np.repeat([tau2, 1.0], [s0, d - s0])[:, None] * w.T)
        s = np.sqrt(np.diag(covariance))
        scale = np.where(np.outer(s, s) > 0, np.outer(s, s), 1.0)
        pairs = activation.pair_expectation(s[:, None], s[None, :], np.clip(covariance / scale, -1, 1))
        expected += 0.5 * pairs.mean() - sign * activation.gaussian_mean(s).mean()
    assert m.population_risk(w) == pytest.approx(expected, abs=1e-7)


def test_population_risk_against_fresh_samples():
    m = model(8, 3, activation=NonMonotone())
    w = m.initial_theta(30, 1.2, np.random.default_rng(77))
    x, y = m.sample_data(200_000, np.random.default_rng(79))
    losses = (y - m.activation(x @ w.T).mean(axis=1)) ** 2
    assert m.population_risk(w) == pytest.approx(losses.mean(), abs=4 * losses.std() / math.sqrt(losses.size))


def test_population_risk_in_blocks(monkeypatch):
    from wgflow.reduced_models import anisotropic_gaussian

    m = model(10, 4)
    w = m.initial_theta(50, 0.8, np.random.default_rng(57))
    whole = m.population_risk(np.stack([w, 2 * w]))
    assert whole.shape == (2,)
    monkeypatch.setattr(anisotropic_gaussian, "_BLOCK", 120)
    assert m.population_risk(np.stack([w, 2 * w])) == pytest.approx(whole, abs=1e-13)
    assert m.population_risk(w[::-1]) == pytest.approx(whole[0], abs=1e-13)


def test_expected_risk_of_a_wide_network():
    m = model(40, 15)
    rho = m.initial_atoms(0.8, nodes=24)
    draws = m.population_risk(np.stack([m.initial_theta(60, 0.8, np.random.default_rng(901 + k)) for k in range(300)]))
    assert np.mean(draws) == pytest.approx(m.risk(rho) + m.finite_width_excess(rho) / 60,
                                           abs=4 * np.std(draws) / math.sqrt(300))


def test_samples_follow_the_stated_law():
    m = model(6, 2, 1.8, 0.2)
    x, y = m.sample_data(40_000, np.random.default_rng(99))
    assert set(np.unique(y)) == {-1.0, 1.0}
    assert x[y > 0].var(axis=0) == pytest.approx([1.8, 1.8, 1, 1, 1, 1], rel=0.05)
    assert x[y < 0].var(axis=0) == pytest.approx([0.2, 0.2, 1, 1, 1, 1], rel=0.05)


def test_projection():
    m = model(6, 2)
    theta = np.array([[3.0, 4.0, 0.0, 0.0, 5.0, 12.0]])
    assert m.project(theta).tolist() == [[5.0, 13.0]]


def test_sgd_lies_in_the_bands_of_the_flow():
    m = model(60, 20, 1.8, 0.2)
    times = [0.0, 0.05, 0.1]
    grid = m.grid((90, 60), r_max=(2.2, 1.4))
    sol = wg.solve(m.energy(), m.initial_density(0.8, grid), t_span=(0.0, 0.1), t_eval=times, time_scale=m.time_scale)
    sgd = wg.validation.run_sgd(m, n_neurons=400, step_size=5e-6, t_eval=times, rng=4021, n_runs=2)
    assert sgd.coordinates.shape == (2, 3, 400, 2)
    found = wg.validation.compare(sol, sgd)
    assert found.passed, str(found)
    assert sgd.risk[:, -1].mean() < 0.8 * sgd.risk[:, 0].mean()


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d=1, s0=1, delta=0.2), "d=1"),
        (dict(d=40, delta=0.2), "d=40: give s0"),
        (dict(d=40, s0=40, delta=0.2), "s0=40 must be < d=40"),
        (dict(d=40, s0=0, delta=0.2), "s0=0"),
        (dict(d=40, s0=2.5, delta=0.2), "s0 must be an int"),
        (dict(d=40, s0=True, delta=0.2), "s0 must be an int"),
        (dict(d=40, s0=10, gamma=0.2, delta=0.2), "gamma is for d=inf"),
        (dict(d=math.inf, s0=10, delta=0.2), "d=inf: give gamma"),
        (dict(d=math.inf, delta=0.2), "d=inf: give gamma"),
        (dict(d=math.inf, gamma=1.0, delta=0.2), "gamma=1 must be < 1"),
        (dict(d=math.inf, gamma=0.0, delta=0.2), "gamma=0"),
        (dict(d=math.inf, gamma=math.nan, delta=0.2), "gamma=nan"),
        (dict(d=40, s0=10, tau_plus2=1.0), "both tau_plus2 and tau_minus2"),
        (dict(d=40, s0=10, tau_plus2=1.0, tau_minus2=-1.0), "tau_minus2=-1"),
        (dict(d=40, s0=10, delta=0.2, convention="std"), "convention='std'"),
        (dict(d=40, s0=10, delta=0.2, tolerance=0.0), "tolerance=0"),
        (dict(d=40, s0=10, delta=0.2, activation=np.tanh), "activation must be"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        AnisotropicGaussian(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.energy(beta=0.0), "beta=0"),
        (lambda m: m.initial_density(0.0, m.grid(20)), "kappa=0"),
        (lambda m: m.initial_density(9.0, m.grid(20)), r"outside the grid's r1 in \[0, 5.25\]; .* larger range"),
        (lambda m: m.initial_density(0.8, Grid((0, 1), cells=4)), "1 axes"),
        (lambda m: m.initial_atoms(0.8, nodes=0), "nodes=0"),
        (lambda m: m.grid(r_max=(1.0, -1.0)), r"r_max\[1\]=-1"),
        (lambda m: m.grid(r_max=3.0), "r_max=3.0 must be a pair"),
        (lambda m: m.risk(Density.uniform(Grid((0, 1), cells=4))), "1 axes"),
        (lambda m: m.population_risk(np.ones((3, 7))), "theta has shape"),
        (lambda m: m.project(np.full((3, 40), np.nan)), r"theta\[0, 0\] is nan"),
        (lambda m: m.initial_theta(0, 0.8, np.random.default_rng(3)), "n_neurons=0"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(model(40, 20))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.energy(beta=10.0),
        lambda m: m.population_risk(np.ones((2, 3))),
        lambda m: m.sample_data(3, np.random.default_rng(3)),
        lambda m: m.initial_theta(3, 0.8, np.random.default_rng(3)),
    ],
)
def test_the_limit_refuses_what_it_does_not_have(call):
    with pytest.raises(InvalidInput, match="inf"):
        call(model(math.inf, None, gamma=0.3))


def test_activation_of_the_wrong_kind_is_a_type_error():
    with pytest.raises(InvalidType):
        AnisotropicGaussian(40, 10, delta=0.2, activation="ramp")


def test_repr_names_the_model():
    assert repr(model(40, 10)) == "AnisotropicGaussian(d=40, s0=10, tau_plus2=1.4, tau_minus2=0.6, activation=Ramp())"
    assert "gamma=0.25" in repr(model(math.inf, None, gamma=0.25, activation=ReLU()))
