"""Quadratic activations: the Riccati flow against closed forms, an ODE solver, particles, finite volumes and SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm, sqrtm

import wgflow as wg
from wgflow.atoms import Atoms
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models.quadratic_activation import QuadraticActivation
from wgflow.solvers.lagrangian import Lagrangian
from wgflow.solvers.stationary import stationary
from wgflow.validation import compare, run_sgd


def symmetric(d, rng):
    matrix = rng.standard_normal((d, d)) / math.sqrt(d)
    return 0.5 * (matrix + matrix.T)


def positive(d, rng, floor=0.2):
    factor = rng.standard_normal((d, d))
    return 0.5 * factor @ factor.T / d + floor * np.eye(d)


def model(d=3, centered=False, seed=421, noise=0.1):
    rng = np.random.default_rng(seed)
    return QuadraticActivation(symmetric(d, rng), 0.4, positive(d, rng), noise, centered)


def logistic(t, start, diffusion, growth, damping):
    """Solution of u' = diffusion + growth u - damping u^2."""
    root = math.sqrt(growth**2 + 4 * damping * diffusion)
    high, low = (growth + root) / (2 * damping), (growth - root) / (2 * damping)
    ratio = (start - high) / (start - low) * np.exp(-root * np.asarray(t))
    return (high - low * ratio) / (1 - ratio)


# -------------------------------------------------------------------- the exact solution
@pytest.mark.parametrize(("beta", "ridge", "start"), [(math.inf, 0.0, 0.3), (math.inf, 0.2, 4.0), (2.0, 0.0, 0.0),
                                                      (5.0, 0.3, 0.7), (5.0, 30.0, 0.7)])
def test_one_dimension_is_logistic(beta, ridge, start):
    b, offset, scale = 0.8, 0.3, 1.4
    m = QuadraticActivation(b, offset, scale)
    t = np.array([0.0, 0.01, 0.1, 0.7, 3.0])
    growth = 6 * scale**2 * b + 2 * scale * offset - ridge
    expected = logistic(4 * t, start, 1 / beta, growth, 6 * scale**2)
    state = m.exact(t, 0.0, start, beta, ridge)
    assert state.cov[:, 0, 0] == pytest.approx(expected, rel=2e-13)
    mean0 = math.sqrt(start)  # all of the second moment in the mean: noiseless flows see no difference
    if math.isinf(beta):
        assert m.exact(t, mean0, 0.0, beta, ridge).mean[:, 0] ** 2 == pytest.approx(expected, rel=2e-13)


@pytest.mark.parametrize("d", [2, 7])
def test_isotropic_laws_in_any_dimension_are_logistic(d):
    b, offset, beta, ridge = 0.6, -0.2, 4.0, 0.1
    state = QuadraticActivation(b * np.eye(d), offset).exact([0.05, 0.4, 2.0], 0.0, 0.2, beta, ridge)
    growth = 4 * b + 2 * d * b + 2 * offset - ridge
    expected = logistic([0.2, 1.6, 8.0], 0.2, 1 / beta, growth, 4 + 2 * d)
    assert state.cov == pytest.approx(expected[:, None, None] * np.eye(d), abs=2e-13)


def test_commuting_matrices_decouple_where_the_trace_is_left_out():
    b, scale, start = np.array([1.0, 0.3, -0.5]), np.array([1.0, 0.5, 2.0]), np.array([0.1, 0.5, 1.0])
    m = QuadraticActivation(np.diag(b), 0.7, scale, centered=True)
    state = m.exact(0.6, 0.0, start, beta=3.0, ridge=0.2)
    expected = [logistic(2.4, u, 1 / 3.0, 4 * s**2 * k - 0.2, 4 * s**2) for u, s, k in zip(start, scale, b)]
    assert np.diag(state.cov) == pytest.approx(expected, rel=1e-12)
    assert state.cov - np.diag(np.diag(state.cov)) == pytest.approx(np.zeros((3, 3)), abs=1e-16)


@pytest.mark.parametrize("time_scale", [1.0, 2.0])
def test_noiseless_matrix_riccati_in_closed_form(time_scale):
    """M' = H M + M H - 8 s M^2 has M = E R (I + 8 s R J R)^-1 R E, R = M0^(1/2), E = e^(Ht), J the integral of E^2."""
    rng = np.random.default_rng(71)
    d, ridge, t, s = 5, 0.3, 0.4, time_scale
    b, start = symmetric(d, rng), positive(d, rng)
    h = s * (4 * b - ridge * np.eye(d))
    rates, axes = np.linalg.eigh(h)
    integral = (axes * (np.expm1(2 * rates * t) / (2 * rates))) @ axes.T
    root, growth = sqrtm(start).real, expm(h * t)
    expected = growth @ root @ np.linalg.solve(np.eye(d) + 8 * s * root @ integral @ root, root @ growth)
    state = QuadraticActivation(b, centered=True).exact(t, 0.0, start, ridge=ridge, time_scale=s)
    assert state.cov == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("beta", "ridge"), [(math.inf, 0.0), (5.0, 0.3)])
@pytest.mark.parametrize("d", [3, 6])
def test_general_flows_against_an_ode_solver(d, beta, ridge, centered):
    """The equations written out from V and U, at 1e-12."""
    m, rng = model(d, centered), np.random.default_rng(5)
    s, b = m.covariance, m.matrix
    m0, c0 = 0.3 * rng.standard_normal(d), positive(d, rng)

    def rhs(_, z):
        mean, cov = z[:d], z[d:].reshape(d, d)
        gap = cov + np.outer(mean, mean) - b
        a = 4 * s @ gap @ s + ridge * np.eye(d)
        if not centered:
            a = a + 2 * (np.trace(s @ gap) - m.offset) * s
        return 2 * np.concatenate([-a @ mean, (-a @ cov - cov @ a + 2 / beta * np.eye(d)).ravel()])

    t = [0.05, 0.3, 2.0]
    flow = solve_ivp(rhs, (0, 2), np.concatenate([m0, c0.ravel()]), t_eval=t, rtol=1e-13, atol=1e-15, method="DOP853")
    state = m.exact(t, m0, c0, beta, ridge)
    assert state.mean == pytest.approx(flow.y[:d].T, abs=1e-12)
    assert state.cov.reshape(3, -1) == pytest.approx(flow.y[d:].T, abs=1e-12)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("beta", "ridge"), [(math.inf, 0.0), (3.0, 0.4)])
def test_energy_falls_at_the_stated_rate(beta, ridge, centered):
    m, h = model(4, centered), 5e-4
    times = np.array([-2, -1, 0, 1, 2]) * h + 0.1
    state = m.exact(times, 0.3, 0.4, beta, ridge)
    f = state.energy
    assert state.energy_rate[2] == pytest.approx((f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h), rel=1e-6)
    assert state.energy_rate == pytest.approx(-2.0 * state.dissipation)
    if math.isinf(beta) and ridge == 0.0:
        assert state.risk == pytest.approx(2.0 * state.energy)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 9999), st.sampled_from([0.5, 20.0, math.inf]), st.booleans())
def test_the_flow_composes_and_keeps_covariances(d, seed, beta, centered):
    m, rng = model(d, centered, seed), np.random.default_rng(seed)
    m0, c0 = rng.standard_normal(d), positive(d, rng, 0.0)
    first = m.exact(0.1, m0, c0, beta, 0.1)
    whole, part = m.exact(0.4, m0, c0, beta, 0.1), m.exact(0.3, first.mean, first.cov, beta, 0.1)
    assert part.cov == pytest.approx(whole.cov, abs=1e-11)
    assert part.mean == pytest.approx(whole.mean, abs=1e-11)
    assert np.linalg.eigvalsh(whole.cov)[0] >= -1e-15
    assert whole.energy <= first.energy + 1e-12


def test_times_in_any_order_and_shape():
    m = model()
    states = m.exact([[2.0, 0.0], [0.1, 0.1]], 0.2, 0.3)
    assert states.risk.shape == (2, 2)
    assert states.risk[0, 1] > states.risk[1, 0] == states.risk[1, 1] > states.risk[0, 0]
    assert states.cov[0, 1] == pytest.approx(0.3 * np.eye(3), abs=1e-15)
    assert m.exact(0.1, 0.2, 0.3).cov == pytest.approx(states.cov[1, 0], abs=1e-14)
    assert m.exact([], 0.2, 0.3).energy.shape == (0,)


def test_few_neurons_reach_the_best_approximation_of_their_rank():
    """Four neurons in twelve dimensions, centered data: 2 sum of the squared eigenvalues beyond the fourth is left."""
    rng = np.random.default_rng(37)
    values = np.array([3.0, 2.5, 2.0, 1.5, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    axes, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    m = QuadraticActivation((axes * values) @ axes.T, -values.sum(), centered=True)
    theta = rng.standard_normal((4, 12))
    state = m.exact([0.0, 8.0], 0.0, theta.T @ theta / 4)
    assert state.risk[0] == pytest.approx(m.population_risk(theta), rel=1e-13)
    assert state.risk[1] == pytest.approx(2 * np.sum(values[4:] ** 2), abs=1e-12)
    assert np.linalg.matrix_rank(state.cov[1]) == 4


def test_the_flow_learns_a_positive_target_exactly():
    rng = np.random.default_rng(9)
    m = QuadraticActivation(positive(5, rng), 0.0, positive(5, rng, 0.5), noise_variance=0.25)
    state = m.exact(60.0, 0.0, 0.1)
    assert state.cov == pytest.approx(m.matrix, abs=1e-9)
    assert state.risk == pytest.approx(0.25, abs=1e-12)


def test_rest_and_start_without_width():
    m = model()
    assert m.exact(3.0, 0.0, 0.0).cov == pytest.approx(np.zeros((3, 3)), abs=0)
    noisy = m.exact([0.0, 0.2], 0.0, 0.0, beta=4.0)
    assert noisy.energy[0] == math.inf
    assert np.linalg.eigvalsh(noisy.cov[1])[0] > 0
    tiny = QuadraticActivation(1.0).exact(2.0, 0.0, 1e-30)
    assert tiny.cov[0, 0] == pytest.approx(logistic(8.0, 1e-30, 0.0, 6.0, 6.0), rel=1e-12)


@pytest.mark.parametrize("start", [1e-300, 1e10, 1e60])
def test_starts_of_any_size(start):
    state = QuadraticActivation(1.0).exact([0.3, 2.0], 0.0, start)
    assert state.cov[:, 0, 0] == pytest.approx(logistic([1.2, 8.0], start, 0.0, 6.0, 6.0), rel=1e-12)


@pytest.mark.parametrize("arguments", [(1.0, 1e160, 1.0), (1.0, 0.0, 1.0, 1e-300), (0.0, 0.0, 1e200)])
def test_moments_that_overflow_are_refused(arguments):
    with pytest.raises(InvalidInput, match="overflow"):
        model().exact(*arguments)


# -------------------------------------------------------------------- features
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("d", [1, 2, 4, 6])
def test_kernel_potential_and_gradients(d, centered):
    m, rng = model(d, centered), np.random.default_rng(23)
    u, v = rng.standard_normal((2, d, 6))
    s, b = m.covariance, m.matrix
    overlap, own_u, own_v = (np.einsum("ik,ij,jk->k", f, s, g) for f, g in ((u, v), (u, u), (v, v)))
    expected = 2 * overlap**2 + (0 if centered else own_u * own_v)
    assert m.kernel(tuple(u), tuple(v)) == pytest.approx(expected, rel=1e-11, abs=1e-12)
    pull = 2 * np.einsum("ik,ij,jk->k", u, s @ b @ s, u) + (0 if centered else (np.trace(s @ b) + m.offset) * own_u)
    assert m.potential(*u) == pytest.approx(-pull, rel=1e-11, abs=1e-12)
    assert m.diagonal(*u) == pytest.approx(m.kernel(tuple(u), tuple(u)), rel=1e-11)
    assert m.target.size == d * (d + 1) // 2
    gradients, h = m.feature_gradients(*u), 1e-6
    assert gradients.shape == (m.target.size, d, 6)
    for axis in range(d):
        shift = h * np.eye(d)[axis][:, None]
        difference = (m.features(*(u + shift)) - m.features(*(u - shift))) / (2 * h)
        assert gradients[:, axis] == pytest.approx(difference, abs=1e-8)
    rho = Atoms(v, np.full(6, 1 / 6))
    assert m.risk(rho) == pytest.approx(m.population_risk(v.T), rel=1e-12)
    assert m.risk(rho) == pytest.approx(2 * m.energy()(rho), rel=1e-12)


def test_features_broadcast_and_take_numbers():
    m = model(2)
    assert m.features(np.zeros((3, 1)), np.zeros(4)).shape == (3, 3, 4)
    assert m.features(1.0, 0.5).shape == (3,)
    assert m.feature_gradients(1.0, 0.5).shape == (3, 2)
    assert m.feature_gradients(np.zeros((3, 1)), np.zeros(4)).shape == (3, 2, 3, 4)


@pytest.mark.parametrize("centered", [False, True])
def test_risk_kernel_and_potential_against_samples(centered):
    m = model(3, centered)
    x, y = m.sample_data(400_000, np.random.default_rng(15))
    theta = np.random.default_rng(31).standard_normal((4, 3))
    neurons = (x @ theta.T) ** 2
    if centered:
        neurons -= np.einsum("ki,ij,kj->k", theta, m.covariance, theta)
    for samples, exact in [
        (neurons[:, 0] * neurons[:, 1], m.kernel(tuple(theta[0]), tuple(theta[1]))),
        (-y * neurons[:, 2], m.potential(*theta[2])),
        ((y - neurons.mean(axis=1)) ** 2, m.population_risk(theta)),
        (y**2, m.label_second_moment),
    ]:
        assert samples.mean() == pytest.approx(float(exact), abs=5 * samples.std() / math.sqrt(len(x)))


def test_drift_of_neurons_is_the_gradient_of_the_networks_risk():
    m, rng = model(4), np.random.default_rng(3)
    theta = rng.standard_normal((7, 4))
    rho, h = Atoms(theta.T, np.full(7, 1 / 7)), 1e-6
    psi = m.psi_gradient(rho, *theta.T)
    for i, axis in [(0, 0), (3, 2), (6, 1)]:
        step = np.zeros_like(theta)
        step[i, axis] = h
        slope = (m.population_risk(theta + step) - m.population_risk(theta - step)) / (2 * h)
        assert 7 * slope == pytest.approx(2 * psi[axis, i], abs=1e-6)


# -------------------------------------------------------------------- grids and initial laws
def test_initial_laws_and_many_coordinates():
    m = model(2)
    rho, finer = (m.initial_density(0.8, m.grid(cells=n, mean0=0.3), 0.3) for n in (80, 160))
    atoms = m.initial_atoms(0.8, mean0=0.3)
    assert rho.mean() == pytest.approx([0.3, 0.3], abs=1e-9)
    assert atoms.cov() == pytest.approx(0.32 * np.eye(2), abs=1e-14)
    assert m.risk(atoms) == pytest.approx(m.exact(0.0, 0.3, 0.32).risk, rel=1e-12)
    errors = [abs(m.risk(law) - m.risk(atoms)) for law in (rho, finer)]
    assert errors[1] < 6e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    wide = model(9)
    assert wide.risk(wide.initial_atoms(0.8)) == pytest.approx(wide.exact(0.0, 0.0, 0.64 / 9).risk, rel=1e-12)
    with pytest.raises(InvalidInput, match="9 coordinates"):
        wide.grid()


@pytest.mark.slow
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("beta", "ridge"), [(math.inf, 0.0), (2.0, 0.0), (2.0, 0.5)])
def test_the_default_grid_holds_the_law_at_all_times(beta, ridge, centered):
    for seed in range(5):
        m = model(2, centered, 100 + seed)
        half = m.grid(cells=8, mean0=0.4, beta=beta, ridge=ridge).bounds[0][1]
        state = m.exact(np.append(0, np.geomspace(1e-3, 20, 60)), 0.4, 0.32, beta, ridge)
        reach = np.abs(state.mean) + 6 * np.sqrt(np.diagonal(state.cov, axis1=1, axis2=2))
        assert half >= reach.max() * (1 - 1e-12)
        assert half < 12 * reach.max()


# -------------------------------------------------------------------- the flow by other methods
@pytest.mark.parametrize(("beta", "order"), [(math.inf, None), (4.0, 2), (4.0, 4)])
def test_finite_volumes_in_one_dimension(beta, order):
    m = QuadraticActivation(0.8, 0.2, 1.2)
    errors = []
    for cells in (100, 200):
        grid = m.grid(cells=cells, kappa=0.5, beta=beta)
        sol = wg.solve(m.energy(beta), m.initial_density(0.5, grid), (0, 0.5), t_eval=[0.1, 0.5],
                       method=wg.FiniteVolume(rtol=1e-9 if order == 4 else 1e-6, order=order), time_scale=m.time_scale)
        assert sol.certificate.ok
        exact = m.exact([0.1, 0.5], 0.0, 0.25, beta)
        within = 0.0 if order == 4 else grid.widths[0][0] ** 2 / 12
        errors.append([abs(rho.cov() - within - c) for rho, c in zip(sol.densities, exact.cov[:, 0, 0])])
        risk = [m.risk(rho) for rho in sol.densities]
    assert risk == pytest.approx(exact.risk, abs=1e-2)
    coarse, fine = np.array(errors)
    if order == 4:
        assert np.all(fine <= 1e-5)
        # At rest the error of the grid is below that of the steps.
        assert np.all((fine <= coarse / 13.0) | (fine <= 1e-8))
    else:
        assert np.all(fine <= 1e-3)
        assert np.all(fine <= coarse / 3.0)


def test_finite_volumes_in_two_dimensions():
    m = QuadraticActivation([[0.9, 0.3], [0.3, 0.2]], 0.1, noise_variance=0.2)
    beta, ridge, times = 4.0, 0.2, [0.05, 0.3]
    grid = m.grid(cells=128, beta=beta, ridge=ridge, mean0=[0.3, 0.0])
    sol = wg.solve(m.energy(beta, ridge), m.initial_density(0.8, grid, [0.3, 0.0]), (0, 0.3), t_eval=times,
                   method=wg.FiniteVolume(rtol=1e-5), time_scale=m.time_scale)
    assert sol.certificate.ok
    exact = m.exact(times, [0.3, 0.0], 0.32, beta, ridge)
    within = grid.widths[0][0] ** 2 / 12 * np.eye(2)
    for rho, mean, cov in zip(sol.densities, exact.mean, exact.cov):
        assert rho.mean() == pytest.approx(mean, abs=1e-3)
        assert rho.cov() - within == pytest.approx(cov, abs=1e-3)
    assert sol.energy == pytest.approx(exact.energy, abs=2e-3)


@pytest.mark.parametrize("centered", [False, True])
def test_particles_in_six_dimensions(centered):
    m, rng = model(6, centered), np.random.default_rng(77)
    theta0 = 0.3 + 0.5 * rng.standard_normal((9, 6))
    rho = Atoms(theta0.T, np.full(9, 1 / 9))

    def rhs(_, z):
        points = z.reshape(6, 9)
        return (-2 * m.psi_gradient(rho.moved(points), *points) - 2 * 0.1 * points).ravel()

    end = solve_ivp(rhs, (0, 0.8), theta0.T.ravel(), rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1].reshape(6, 9)
    exact = m.exact(0.8, theta0.mean(axis=0), np.cov(theta0.T, bias=True), ridge=0.1)
    assert end.mean(axis=1) == pytest.approx(exact.mean, abs=1e-9)
    assert end @ end.T / 9 == pytest.approx(exact.second_moment, abs=1e-9)
    assert m.risk(rho.moved(end)) == pytest.approx(exact.risk, abs=1e-9)
    assert m.energy(ridge=0.1)(rho.moved(end)) == pytest.approx(exact.energy, abs=1e-9)


@pytest.mark.parametrize("d", [2, 6])
def test_characteristics_follow_the_exact_law(d):
    m = model(d)
    sol = wg.solve(m.energy(ridge=0.1), m.initial_atoms(0.8, mean0=0.2), (0, 1), t_eval=[0.3, 1.0],
                   method=Lagrangian(), time_scale=m.time_scale)
    exact = m.exact([0.3, 1.0], 0.2, 0.64 / d, ridge=0.1)
    assert sol.final.mean() == pytest.approx(exact.mean[1], abs=1e-7)
    assert sol.final.cov() == pytest.approx(exact.cov[1], abs=1e-7)
    assert sol.energy == pytest.approx(exact.energy, abs=1e-7)


def test_stationary_state_and_least_risk_are_limits_of_the_flow():
    m = QuadraticActivation([[0.9, 0.3], [0.3, -0.2]], 0.1, noise_variance=0.2)
    star = stationary(m.energy(4.0, 0.2), m.grid(96, beta=4.0, ridge=0.2))
    assert star.energy == pytest.approx(float(m.exact(30.0, 0.0, 1.0, 4.0, 0.2).energy), abs=1e-8)
    # The negative eigenvalue is out of reach of squares: the least risk is above the noise.
    least = m.minimum_risk().value
    assert least == pytest.approx(float(m.exact(100.0, 0.0, 0.5).risk), abs=1e-9)
    assert least > 0.3


def test_sgd_agrees_with_the_flow():
    m, times = QuadraticActivation(0.8, 0.2, noise_variance=0.1), [0.0, 0.1, 0.3]
    sgd = run_sgd(m, 400, 5e-5, times, rng=29, n_runs=3, kappa=0.5)
    sol = wg.solve(m.energy(), m.initial_density(0.5, m.grid(kappa=0.5)), (0, 0.3), t_eval=times,
                   time_scale=m.time_scale)
    result = compare(sol, sgd, n_null=200)
    assert result.passed, result.table()
    exact = m.exact(times, 0.0, 0.25)
    assert np.mean(sgd.coordinates**2, axis=(0, 2, 3)) == pytest.approx(exact.cov[:, 0, 0], abs=0.06)


def test_sgd_refuses_centered_neurons():
    with pytest.raises(InvalidInput, match="centered=True"):
        run_sgd(model(2, centered=True), 10, 1e-4, [0.0, 0.1], rng=7)


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(matrix=[1.0, 2.0]), "matrix has shape"),
        (dict(matrix=[[1.0, 2.0]]), "matrix has shape"),
        (dict(matrix=np.zeros((0, 0))), "matrix has shape"),
        (dict(matrix=[[1.0, 2.0], [0.0, 1.0]]), "matrix must be symmetric"),
        (dict(matrix=[[1.0, np.nan], [np.nan, 1.0]]), r"matrix\[0, 1\] is nan"),
        (dict(matrix=1.0, offset=np.inf), "offset=inf: must be finite"),
        (dict(matrix=1.0, offset=[1.0]), "offset must be a number"),
        (dict(matrix=np.eye(2), covariance=[1.0, -1.0]), "covariance has the eigenvalue"),
        (dict(matrix=np.eye(2), covariance=np.eye(3)), "covariance has shape"),
        (dict(matrix=1.0, noise_variance=-1.0), "noise_variance=-1"),
        (dict(matrix=1.0, centered=1), "centered=1: need True or False"),
        (dict(matrix=1e200), "overflows"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        QuadraticActivation(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.exact(-1.0, 0.0, 1.0), "t=-1.0"),
        (lambda m: m.exact(1.0, [0.0], 1.0), "mean0 has shape"),
        (lambda m: m.exact(1.0, 0.0, -1.0), "cov0 has the eigenvalue -1"),
        (lambda m: m.exact(1.0, 0.0, 1.0, beta=-1.0), "beta=-1"),
        (lambda m: m.initial_density(9.0, m.grid()), "outside the grid"),
        (lambda m: m.initial_atoms(0.0), "kappa=0"),
        (lambda m: m.features(1.0), "3 coordinates"),
        (lambda m: m.population_risk(np.ones((3, 5))), "theta has shape"),
        (lambda m: QuadraticActivation(np.eye(2), covariance=[1.0, 0.0]).grid(beta=2.0), "may grow forever"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(model())


def test_wrong_kinds():
    with pytest.raises(InvalidType):
        QuadraticActivation("1")
    with pytest.raises(InvalidType):
        QuadraticActivation([[1.0], [1.0, 2.0]])


def test_times_beyond_reach_say_so(monkeypatch):
    from wgflow.reduced_models import quadratic_activation

    monkeypatch.setattr(quadratic_activation, "_MAX_STEPS", 5)
    with pytest.raises(ConvergenceError, match="Taylor steps") as caught:
        model().exact(1e4, 0.0, 0.3)
    assert caught.value.reason == "max steps"
