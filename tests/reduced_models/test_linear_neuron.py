"""Linear neurons: the closed form against tables, ODEs, Monte-Carlo, finite volumes and SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import wgflow as wg
from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.reduced_models.linear_neuron import LinearNeuron
from wgflow.solvers.lagrangian import Lagrangian
from wgflow.solvers.stationary import stationary
from wgflow.validation import compare, run_sgd

#: S = diag(2, .5), b = (1, -1), E y^2 = 2.8; lambda = .7, beta = 3, m0 = (-1, 2), C0 = .2 I, xi = 1.
TABLE = [
    (0.0, (-1.0, 2.0), 0.2, 7.8805202820, 12.8, -61.747556),
    (0.1, (-0.27367288, 1.48435066), 0.26745020, 3.7934733948, 6.63048434, -25.730587),
    (0.5, (0.62375337, 0.31121935), 0.40808274, 0.5299202547, 1.44277114, -1.747698),
    (2.0, (0.74070523, -0.39677811), 0.47516916, 0.1900174543, 0.61640588, -0.00114352),
]
START = {"mean0": [-1.0, 2.0], "cov0": 0.2, "beta": 3.0, "ridge": 0.7}
TILTED = np.array([[2.0, 0.6], [0.6, 0.5]])


def model(covariance=(2.0, 0.5), direction=(1.0, -1.0), noise=0.3):
    return LinearNeuron(np.array(covariance), direction, noise)


def other(d, seed=811):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((d, d))
    return LinearNeuron(factor @ factor.T / d, rng.standard_normal(d), 0.2)


def matrix(d, seed):
    factor = np.random.default_rng(seed).standard_normal((d, d))
    return factor @ factor.T / d + 0.1 * np.eye(d)


# -------------------------------------------------------------------- the exact solution
@pytest.mark.parametrize(("t", "mean", "variance", "energy", "risk", "rate"), TABLE)
def test_the_table(t, mean, variance, energy, risk, rate):
    state = model().exact(t, **START)
    assert model().label_second_moment == pytest.approx(2.8, abs=1e-14)
    assert state.mean == pytest.approx(mean, abs=5.1e-9)
    assert state.cov == pytest.approx(variance * np.eye(2), abs=5.1e-9)
    assert state.energy == pytest.approx(energy, abs=5.1e-11)
    assert state.risk == pytest.approx(risk, abs=5.1e-9)
    assert state.energy_rate == pytest.approx(rate, rel=3e-7, abs=6e-9)
    assert state.energy_rate == -2.0 * state.dissipation


def test_many_times_at_once():
    states = model().exact([[0.0, 0.1], [0.5, 2.0]], **START)
    assert states.mean.shape == (2, 2, 2)
    assert states.cov.shape == states.second_moment.shape == (2, 2, 2, 2)
    assert states.energy.ravel() == pytest.approx([row[3] for row in TABLE], abs=1e-10)
    assert states.second_moment[0, 0] == pytest.approx(0.2 * np.eye(2) + np.outer([-1, 2], [-1, 2]), abs=1e-14)


@pytest.mark.parametrize("beta", [2.0, math.inf])
@pytest.mark.parametrize("ridge", [0.0, 0.4])
@pytest.mark.parametrize("singular", [False, True])
def test_moments_and_energy_against_the_equation(beta, ridge, singular):
    """m' and C' integrated, and dF/dt as the slope of F, for a general initial covariance and the clock 1."""
    d = 3
    base = other(d)
    m = LinearNeuron(np.diag([1.5, 0.0, 0.3]), [1.0, 2.0, -1.0], 0.1) if singular else base
    m0, c0, s = np.array([0.3, -1.0, 0.5]), matrix(d, 17), m.covariance

    def rhs(_, z):
        mean, cov = z[:d], z[d:].reshape(d, d)
        return np.concatenate([-(s + ridge * np.eye(d)) @ mean + s @ m.direction,
                               (-2.0 * ridge * cov + 2.0 / beta * np.eye(d)).ravel()])

    flow = solve_ivp(rhs, (0, 1.3), np.concatenate([m0, c0.ravel()]), rtol=1e-12, atol=1e-13, method="DOP853")
    state = m.exact(1.3, m0, c0, beta, ridge, time_scale=1.0)
    assert state.mean == pytest.approx(flow.y[:d, -1], abs=1e-10)
    assert state.cov.ravel() == pytest.approx(flow.y[d:, -1], abs=1e-10)
    h = 1e-3
    f = m.exact([1.3 - 2 * h, 1.3 - h, 1.3 + h, 1.3 + 2 * h], m0, c0, beta, ridge, time_scale=1.0).energy
    assert state.energy_rate == pytest.approx((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h), abs=1e-9)


def test_the_clock_only_rescales_time():
    slow, fast = other(4).exact(1.0, 0.5, 0.3, 2.0, 0.1, time_scale=1.0), other(4).exact(0.5, 0.5, 0.3, 2.0, 0.1)
    assert fast.cov == pytest.approx(slow.cov, abs=1e-14)
    assert fast.energy == pytest.approx(slow.energy, abs=1e-13)
    assert fast.energy_rate == pytest.approx(2.0 * slow.energy_rate, rel=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 9999), st.floats(0, 2), st.sampled_from([0.5, 10.0, math.inf]))
def test_energy_falls_and_composes(d, seed, ridge, beta):
    m, rng = other(d, seed), np.random.default_rng(seed)
    m0, c0 = rng.standard_normal(d), matrix(d, seed + 1)
    first = m.exact(0.3, m0, c0, beta, ridge)
    whole, part = m.exact(1.0, m0, c0, beta, ridge), m.exact(0.7, first.mean, first.cov, beta, ridge)
    assert part.mean == pytest.approx(whole.mean, abs=1e-11)
    assert part.cov == pytest.approx(whole.cov, abs=1e-10)
    assert whole.energy <= first.energy + 1e-12
    assert whole.dissipation >= 0.0


def test_the_stationary_law():
    m, beta, ridge = model(TILTED), 3.0, 0.7
    state = m.exact(200.0, [-1.0, 2.0], matrix(2, 5), beta, ridge)
    assert state.mean == pytest.approx(np.linalg.solve(TILTED + ridge * np.eye(2), TILTED @ [1.0, -1.0]), abs=1e-13)
    assert state.cov == pytest.approx(np.eye(2) / (beta * ridge), abs=1e-13)
    assert state.dissipation == pytest.approx(0.0, abs=1e-20)


def test_a_point_mass_under_noise_has_infinite_energy_at_first():
    states = model().exact([0.0, 0.1], 0.0, 0.0, beta=3.0)
    assert states.energy[0] == states.dissipation[0] == math.inf
    assert np.isfinite(states.energy[1])
    assert model().exact([0.0, 0.1], 0.0, 0.0).energy == pytest.approx([1.4, 0.83], abs=0.1)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_a_law_on_a_line_under_noise_dissipates_without_bound(d):
    """Its covariance is singular, up to rounding of either sign."""
    m = other(d)
    for seed in range(8):
        v = np.random.default_rng(seed).standard_normal(d)
        assert m.exact(0.0, 0.0, np.outer(v, v), beta=3.0).dissipation > 1e12


@pytest.mark.parametrize("arguments", [(1e300, 0.0, 1.0, 1e-300), (0.0, 1e160, 1.0), (0.5, 0.0, 1e308, 1e-308)])
def test_moments_that_overflow_are_refused(arguments):
    with pytest.raises(InvalidInput, match="overflow"):
        model().exact(*arguments)


# -------------------------------------------------------------------- features
@pytest.mark.parametrize("d", [1, 2, 4, 9])
def test_kernel_potential_and_gradients(d):
    m, rng = other(d), np.random.default_rng(91)
    u, v = rng.standard_normal((2, d, 5))
    assert m.kernel(tuple(u), tuple(v)) == pytest.approx(np.einsum("ik,ij,jk->k", u, m.covariance, v), abs=1e-12)
    assert m.potential(*u) == pytest.approx(-u.T @ m.covariance @ m.direction, abs=1e-12)
    assert m.diagonal(*u) == pytest.approx(m.kernel(tuple(u), tuple(u)), abs=1e-12)
    assert m.features(*u).shape == (d, 5)
    gradients, h = m.feature_gradients(*u), 1e-6
    assert gradients.shape == (d, d, 5)
    for axis in range(d):
        shift = h * np.eye(d)[axis][:, None]
        assert gradients[:, axis] == pytest.approx((m.features(*(u + shift)) - m.features(*(u - shift))) / (2 * h),
                                                   abs=1e-8)
    rho = Atoms(v, np.full(5, 0.2))
    assert m.risk(rho) == pytest.approx(m.population_risk(v.T), abs=1e-12)
    assert m.risk(rho) == pytest.approx(2.0 * m.energy()(rho), abs=1e-12)


def test_features_broadcast_and_take_numbers():
    m = model(TILTED)
    assert m.features(np.zeros((3, 1)), np.zeros(4)).shape == (2, 3, 4)
    assert m.features(1.0, 0.0).shape == (2,)
    assert m.feature_gradients(1.0, 0.0).shape == (2, 2)
    assert m.feature_gradients(np.zeros((3, 1)), np.zeros(4)).shape == (2, 2, 3, 4)


def test_risk_and_kernel_against_samples():
    m = model(TILTED)
    x, y = m.sample_data(400_000, np.random.default_rng(3))
    theta = np.array([[0.5, -1.0], [1.5, 0.3], [-0.2, -0.2]])
    products = (x @ theta[0]) * (x @ theta[1])
    error = 5 / math.sqrt(len(x))
    assert products.mean() == pytest.approx(m.kernel(tuple(theta[0]), tuple(theta[1])), abs=error * products.std())
    assert np.mean(-y * (x @ theta[0])) == pytest.approx(m.potential(*theta[0]), abs=error * np.std(y * (x @ theta[0])))
    losses = (y - (x @ theta.T).mean(axis=1)) ** 2
    assert losses.mean() == pytest.approx(m.population_risk(theta), abs=error * losses.std())
    assert np.mean(y**2) == pytest.approx(m.label_second_moment, abs=error * np.std(y**2))


# -------------------------------------------------------------------- initial laws
def test_initial_laws_agree():
    m, mean0 = model(TILTED), [0.3, -0.4]
    grid = m.grid(cells=60, mean0=mean0)
    rho, atoms = m.initial_density(0.8, grid, mean0), m.initial_atoms(0.8, mean0=mean0)
    theta = m.initial_theta(40_000, 0.8, np.random.default_rng(21), mean0)
    for law in (rho, atoms):
        assert law.mean() == pytest.approx(mean0, abs=1e-6)
        assert law.cov() == pytest.approx(0.32 * np.eye(2), abs=4e-3)
    assert atoms.cov() == pytest.approx(0.32 * np.eye(2), abs=1e-14)
    assert atoms.size == 64
    assert atoms.names == grid.names == ("theta1", "theta2")
    assert m.initial_atoms(0.8, nodes=5).size == 25
    assert theta.mean(axis=0) == pytest.approx(mean0, abs=0.02)
    assert theta.std(axis=0) == pytest.approx(math.sqrt(0.32), rel=0.02)
    assert m.risk(atoms) == pytest.approx(m.exact(0.0, mean0, 0.32).risk, abs=1e-13)
    assert np.array_equal(m.project(theta), theta)


def test_many_coordinates_have_atoms_but_no_grid():
    m = other(9)
    atoms = m.initial_atoms(0.8, mean0=0.5)
    assert atoms.size == 18
    assert atoms.mean() == pytest.approx(np.full(9, 0.5), abs=1e-14)
    assert atoms.cov() == pytest.approx(0.64 / 9 * np.eye(9), abs=1e-14)
    with pytest.raises(InvalidInput, match="9 coordinates"):
        m.grid()


def test_the_default_grid_holds_the_law_at_all_times():
    m = model(TILTED, direction=(3.0, -2.0))
    grid = m.grid(cells=20, kappa=0.5, mean0=[-1.0, 2.0], beta=5.0, ridge=0.1)
    state = m.exact(np.linspace(0, 30, 200), [-1.0, 2.0], 0.125, 5.0, 0.1)
    for axis, (lo, hi) in enumerate(grid.bounds):
        reach = 5.9 * np.sqrt(state.cov[:, axis, axis])
        assert lo <= (state.mean[:, axis] - reach).min()
        assert hi >= (state.mean[:, axis] + reach).max()
    assert m.grid(bounds=[(-1, 1), (-2, 2)]).bounds == ((-1.0, 1.0), (-2.0, 2.0))
    assert m.grid(cells=(5, 7)).shape == (5, 7)
    assert [other(d).grid().shape for d in (1, 2, 3, 4)] == [(400,), (128,) * 2, (48,) * 3, (24,) * 4]


# -------------------------------------------------------------------- the flow by finite volumes and by SGD
def finite_volume_errors(cells, order, rtol):
    """Largest errors of mean, covariance, energy and risk, and the error of the covariance at the end."""
    m, mean0 = model(TILTED), [-1.0, 1.0]
    beta, ridge, times = 3.0, 0.7, [0.0, 0.2, 1.0]
    grid = m.grid(cells=cells, kappa=0.8, mean0=mean0, beta=beta, ridge=ridge)
    sol = wg.solve(m.energy(beta, ridge), m.initial_density(0.8, grid, mean0), (0, 1), t_eval=times,
                   method=wg.FiniteVolume(rtol=rtol, order=order), time_scale=m.time_scale)
    assert sol.certificate.ok
    exact = m.exact(times, mean0, 0.32, beta, ridge)
    # Averages over cells put at their centers have moments that are too large by this.
    within = 0.0 if order == 4 else np.diag([h[0] ** 2 / 12.0 for h in grid.widths])
    mean = max(np.abs(rho.mean() - e).max() for rho, e in zip(sol.densities, exact.mean))
    cov = [np.abs(rho.cov() - within - e).max() for rho, e in zip(sol.densities, exact.cov)]
    risk = np.abs([m.risk(rho) - r for rho, r in zip(sol.densities, exact.risk)]).max()
    return np.array([mean, max(cov), np.abs(sol.energy - exact.energy).max(), risk, cov[-1]])


def test_finite_volumes_converge_to_the_exact_law_at_second_order():
    coarse, fine = (finite_volume_errors(n, order=2, rtol=1e-6) for n in (48, 96))
    assert np.all(fine <= [1e-4, 1e-3, 1e-3, 2e-4, 1e-3])
    assert np.log2(coarse[[2, 4]] / fine[[2, 4]]) == pytest.approx([2.0, 2.0], abs=0.15)


def test_finite_volumes_converge_to_the_exact_law_at_fourth_order():
    coarse, fine = (finite_volume_errors(n, order=4, rtol=1e-8) for n in (64, 96))
    assert np.all(fine <= [2e-6, 1e-5, 3e-6, 5e-6, 1e-6])
    assert np.log(coarse[[2, 4]] / fine[[2, 4]]) / np.log(1.5) == pytest.approx([4.0, 4.0], abs=0.15)


def test_noiseless_transport_keeps_the_shape():
    m = model(covariance=(2.0,), direction=(1.0,))
    grid = m.grid(cells=600)
    sol = wg.solve(m.energy(), m.initial_density(0.8, grid), (0, 0.5), time_scale=m.time_scale)
    exact = m.exact(0.5, 0.0, 0.64)
    assert sol.final.mean() == pytest.approx(exact.mean[0], abs=1e-3)
    assert sol.final.cov() == pytest.approx(0.64, abs=2e-3)
    assert sol.certificate.ok


def test_sgd_agrees_with_the_flow():
    m, times = model(TILTED), [0.0, 0.1, 0.5]
    sgd = run_sgd(m, 200, 1e-4, times, rng=17, n_runs=3, beta=5.0, ridge=0.2)
    grid = m.grid(cells=64, beta=5.0, ridge=0.2)
    sol = wg.solve(m.energy(5.0, 0.2), m.initial_density(0.8, grid), (0, 0.5), t_eval=times, time_scale=m.time_scale)
    result = compare(sol, sgd, n_null=200)
    assert result.passed, result.table()
    exact = m.exact(times, 0.0, 0.32, 5.0, 0.2)
    pooled = sgd.coordinates.transpose(1, 0, 2, 3).reshape(3, 600, 2)
    assert pooled.mean(axis=1) == pytest.approx(exact.mean, abs=0.12)
    assert m.finite_width_excess(m.initial_atoms(0.8)) == pytest.approx(0.32 * 2.5, abs=1e-12)


def test_gradient_descent_in_many_dimensions_follows_the_mean():
    m = other(12)
    theta0 = m.initial_theta(9, 0.8, np.random.default_rng(5))
    rho = Atoms(theta0.T, np.full(9, 1 / 9))

    def rhs(_, z):
        points = z.reshape(12, 9)
        return (-2.0 * m.psi_gradient(rho.moved(points), *points)).ravel()

    end = solve_ivp(rhs, (0, 0.7), theta0.T.ravel(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(12, 9)
    exact = m.exact(0.7, theta0.mean(axis=0), np.cov(theta0.T, bias=True))
    assert end.mean(axis=1) == pytest.approx(exact.mean, abs=1e-9)
    assert np.cov(end, bias=True) == pytest.approx(exact.cov, abs=1e-9)
    assert m.risk(rho.moved(end)) == pytest.approx(exact.risk, abs=1e-9)
    assert exact.mean == pytest.approx(m.direction + expm(-1.4 * m.covariance) @ (theta0.mean(axis=0) - m.direction))


def test_characteristics_follow_the_exact_law():
    m, mean0 = model(TILTED), [-1.0, 1.0]
    sol = wg.solve(m.energy(ridge=0.1), m.initial_atoms(0.8, mean0=mean0), (0, 1), t_eval=[0.3, 1.0],
                   method=Lagrangian(), time_scale=m.time_scale)
    exact = m.exact([0.3, 1.0], mean0, 0.32, ridge=0.1)
    assert sol.final.mean() == pytest.approx(exact.mean[1], abs=1e-8)
    assert sol.final.cov() == pytest.approx(exact.cov[1], abs=1e-8)
    assert sol.energy == pytest.approx(exact.energy, abs=1e-8)


def test_the_stationary_state_is_the_limit_of_the_exact_law():
    m = model(TILTED)
    star = stationary(m.energy(3.0, 0.7), m.grid(96, beta=3.0, ridge=0.7))
    exact = m.exact(100.0, 0.0, 1.0, 3.0, 0.7)
    assert star.energy == pytest.approx(float(exact.energy), abs=1e-8)
    assert star.density.mean() == pytest.approx(exact.mean, abs=1e-7)


def test_the_least_risk_is_the_noise():
    assert model(TILTED).minimum_risk().value == pytest.approx(0.3, abs=1e-12)


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, []), "direction has shape"),
        ((1.0, [[1.0]]), "direction has shape"),
        ((1.0, [1.0, np.nan]), r"direction\[1\] is nan"),
        (([1.0, 2.0, 3.0], [1.0, 2.0]), "covariance has shape"),
        (([[1.0, 0.5], [0.0, 1.0]], [1.0, 2.0]), "covariance must be symmetric"),
        (([[1.0, 2.0], [2.0, 1.0]], [1.0, 2.0]), "eigenvalue -1"),
        ((-1.0, [1.0, 2.0]), "eigenvalue -1"),
        ((np.inf, [1.0, 2.0]), "covariance is inf"),
        ((1e300, [1e200, 2.0]), "overflows"),
        ((1.0, [1.0], -0.1), "noise_variance=-0.1"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        LinearNeuron(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.exact(-1.0, 0.0, 1.0), "t=-1.0"),
        (lambda m: m.exact(np.nan, 0.0, 1.0), "t=nan"),
        (lambda m: m.exact(1.0, [0.0], 1.0), "mean0 has shape"),
        (lambda m: m.exact(1.0, 0.0, -1.0), "cov0 has the eigenvalue -1"),
        (lambda m: m.exact(1.0, 0.0, 1.0, beta=0.0), "beta=0"),
        (lambda m: m.exact(1.0, 0.0, 1.0, ridge=-1.0), "ridge=-1"),
        (lambda m: m.exact(1.0, 0.0, 1.0, time_scale=0.0), "time_scale=0"),
        (lambda m: m.grid(beta=2.0), "spreads forever"),
        (lambda m: m.grid(kappa=0.0), "kappa=0"),
        (lambda m: m.initial_density(0.8, m.grid(), 50.0), "outside the grid"),
        (lambda m: m.initial_density(0.8, Grid((0, 1), cells=4)), "1 axes"),
        (lambda m: m.initial_density(-0.8, m.grid()), "kappa=-0.8"),
        (lambda m: m.initial_atoms(0.8, nodes=0), "nodes=0"),
        (lambda m: m.initial_theta(0, 0.8, np.random.default_rng(3)), "n_neurons=0"),
        (lambda m: m.features(1.0), "2 coordinates"),
        (lambda m: m.population_risk(np.ones((3, 5))), "theta has shape"),
        (lambda m: m.project(np.full((3, 2), np.inf)), r"theta\[0, 0\] is inf"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(model())


@pytest.mark.parametrize("bad", ["1", None, [[1.0], [1.0, 2.0]], 1j])
def test_wrong_kinds(bad):
    with pytest.raises(InvalidType):
        LinearNeuron(1.0, bad)
    with pytest.raises(InvalidType):
        LinearNeuron(bad, [1.0, 2.0])
    with pytest.raises(InvalidType):
        model().exact(1.0, bad, 1.0)
