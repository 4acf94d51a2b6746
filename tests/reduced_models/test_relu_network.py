"""The rectifier network with all parameters trained: drift in the full dimension, reference flow, laws, SGD."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import roots_jacobi

import wgflow as wg
from wgflow.activations import Erf, Ramp, ReLU, Tanh
from wgflow.atoms import Atoms
from wgflow.compiled.sgd import sgd_steps
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.grids import Grid
from wgflow.reduced_models.anisotropic_gaussian import AnisotropicGaussian
from wgflow.reduced_models.relu_network import ReLUNetwork


def model(d=320, s0=60, plus=1.4, minus=0.6, activation=None, **options):
    return ReLUNetwork(d, s0, plus, minus, activation=activation, **options)


# -------------------------------------------------------------------- the drift in the full dimension
def random_points(n, seed):
    rng = np.random.default_rng(seed)
    return np.vstack([rng.uniform(-1.5, 1.5, (2, n)), rng.uniform(0.3, 1.6, (2, n))])


def full_drift(activation, tau2s, dims, theta, rho, nodes=36, degree=150):
    r"""Gradient of Psi in (a, b) and along the two blocks of w, from the d-dimensional kernel.

    The other neurons have random directions: their blocks make angles t1, t2 with those of w, by quadrature; what is
    orthogonal to w averages to zero. K = sum_k a_k(s, b) a_k(s', b') rho^k is differentiated term by term in w.
    """
    a, b, r1, r2 = theta
    rules = [roots_jacobi(nodes, 0.5 * (n - 3), 0.5 * (n - 3)) for n in dims]
    cosines = np.meshgrid(*[c for c, _ in rules], indexing="ij")
    shares = np.outer(*[w / w.sum() for _, w in rules])
    gradient, k = np.zeros(4), np.arange(degree + 1.0)[:, None, None]
    for sign, tau2 in zip((1.0, -1.0), tau2s):
        s = math.hypot(math.sqrt(tau2) * r1, r2)
        own = np.array([tau2 * r1, r2])  # Sigma w along the two blocks
        values, slopes, tilts = (
            np.array(activation.hermite_coefficients(s, degree, order, offset=b, offset_order=offset_order))
            for order, offset_order in ((0, 0), (1, 0), (0, 1))
        )
        gradient -= 0.5 * sign * np.array([values[0], a * tilts[0], *(a * slopes[0] * own / s)])
        for (a_, b_, *radii), weight in zip(rho.points.T, rho.weights):
            s_ = math.hypot(math.sqrt(tau2) * radii[0], radii[1])
            theirs = np.stack([tau2 * radii[0] * cosines[0], radii[1] * cosines[1]])  # Sigma w' along the blocks of w
            c = (r1 * theirs[0] + r2 * theirs[1]) / (s * s_)
            x = np.array(activation.hermite_coefficients(s_, degree, offset=b_))[:, None, None]
            v, ds, db = (y[:, None, None] for y in (values, slopes, tilts))
            turn = np.sum(k[1:] * v[1:] * x[1:] * c ** (k[1:] - 1), axis=0)
            along = np.sum(ds * x * c**k, axis=0) / s - turn * c / s**2
            in_w = along * own[:, None, None] + turn * theirs / (s * s_)
            parts = [np.sum(v * x * c**k, axis=0), a * np.sum(db * x * c**k, axis=0), *(a * in_w)]
            gradient += 0.5 * weight * a_ * np.array([np.sum(shares * part) for part in parts])
    return gradient


@pytest.mark.slow
@pytest.mark.parametrize("activation", [ReLU(), Ramp(), Erf()], ids=repr)
def test_reduced_drift_is_the_drift_of_the_full_dimension(activation):
    m = model(activation=activation, tolerance=1e-13)
    rho = Atoms(random_points(3, 5003), [0.2, 0.5, 0.3])
    for theta in random_points(3, 5009).T:
        expected = full_drift(activation, (1.4, 0.6), (60, 260), theta, rho)
        assert m.psi_gradient(rho, *theta) == pytest.approx(expected, abs=1e-10)


def test_drift_is_what_one_step_of_sgd_averages_to():
    m = model(6, 2, 1.8, 0.3)
    theta = m.initial_theta(4, 1.2, np.random.default_rng(5011), a=0.7, b=-0.2)
    theta[1, :2] = -1.1, 0.4
    x, y = m.sample_data(400_000, np.random.default_rng(5021))
    z = x @ theta[:, 2:].T + theta[:, 1]
    residual = y - np.mean(theta[:, 0] * np.maximum(z, 0.0), axis=1)
    steps = np.stack([2 * residual[:, None] * np.maximum(z, 0.0), 2 * residual[:, None] * theta[:, 0] * (z > 0)])
    mean, spread = steps.mean(axis=1), steps.std(axis=1) / math.sqrt(len(x))
    # -2 grad Psi at the empirical law, which is -N grad R_N, by differences of the exact risk.
    for i in range(4):
        for p in range(2):
            h, up, down = 1e-5, theta.copy(), theta.copy()
            up[i, p], down[i, p] = theta[i, p] + h, theta[i, p] - h
            exact = -4 * (m.population_risk(up) - m.population_risk(down)) / (2 * h)
            assert mean[p, i] == pytest.approx(exact, abs=4.5 * spread[p, i])


def test_the_sgd_kernel_takes_the_steps_of_the_model():
    m = model(6, 2)
    theta = m.initial_theta(5, 1.0, np.random.default_rng(5023), a=0.8, b=-0.1)
    theta[2, 0] = -1.3
    x, y = m.sample_data(40, np.random.default_rng(5039))
    a, b, w = theta[:, 0].copy(), theta[:, 1].copy(), theta[:, 2:].copy()
    steps = np.full(40, 0.03)
    sgd_steps(w, a, b, x, y, steps, True, 0.0, 0.0, *m.activation.kernel_arguments(), np.random.default_rng(1))
    for k in range(40):
        z = theta[:, 2:] @ x[k] + theta[:, 1]
        e = 2 * 0.03 * (y[k] - np.mean(theta[:, 0] * np.maximum(z, 0)))
        old = theta[:, 0].copy()
        theta[:, 0] += e * np.maximum(z, 0)
        theta[:, 1] += e * old * (z > 0)
        theta[:, 2:] += (e * old * (z > 0))[:, None] * x[k]
    assert a == pytest.approx(theta[:, 0], abs=1e-12)
    assert b == pytest.approx(theta[:, 1], abs=1e-12)
    assert w == pytest.approx(theta[:, 2:], abs=1e-12)


# -------------------------------------------------------------------- the reference flow
def characteristics(m, rho, times, method="LSODA", rtol=1e-9):
    """The law at given times: its points move by theta' = -2 grad Psi."""
    def slope(t, x):
        points = x.reshape(m.n_coordinates, -1)
        return -2.0 * m.psi_gradient(rho.moved(points), *points).ravel()

    flow = solve_ivp(slope, (0, times[-1]), rho.points.ravel(), t_eval=times, rtol=rtol, atol=0.01 * rtol,
                     method=method)
    return [rho.moved(x.reshape(m.n_coordinates, -1)) for x in flow.y.T]


def test_reference_flow():
    m = ReLUNetwork(320, 60, delta=0.4, tolerance=1e-9)
    start, later = characteristics(m, m.initial_atoms(0.8, nodes=12), [0.0, 1.0])
    assert m.risk(start) == pytest.approx(2.07196437, abs=5e-9)
    assert m.risk(later) == pytest.approx(1.03780929, abs=2e-8)
    assert later.mean() == pytest.approx([0.342487, 0.528073, 0.336843, 0.602758], abs=2e-6)


@pytest.mark.slow
def test_the_reference_flow_leaves_its_plateau():
    m = ReLUNetwork(320, 60, delta=0.4)
    plateau, end = characteristics(m, m.initial_atoms(0.8, nodes=10), [20.0, 100.0], "DOP853", 1e-6)
    assert m.risk(plateau) == pytest.approx(0.9688, abs=1e-4)
    assert m.risk(end) == pytest.approx(0.16728, abs=2e-5)


def test_the_default_tolerance_follows_the_reference_flow():
    m = ReLUNetwork(320, 60, delta=0.4)
    (later,) = characteristics(m, m.initial_atoms(0.8, nodes=8), [2.0])
    assert m.target.size < 15
    assert later.mean()[[0, 3]] == pytest.approx([0.18939, 0.57868], abs=2e-5)


# -------------------------------------------------------------------- kernel, potential, risk
def test_potential_and_kernel_against_their_parts():
    m, w_only = model(activation=Ramp()), AnisotropicGaussian(320, 60, 1.4, 0.6)
    r1, r2 = random_points(20, 5051)[2:]
    assert m.potential(-1.7, 0.0, r1, r2) == pytest.approx(-1.7 * w_only.potential(r1, r2), abs=1e-12)
    first = m.kernel((0.3, 0.0, r1, r2), (-2.0, 0.0, r2, r1))
    assert first == pytest.approx(-0.6 * w_only.kernel((r1, r2), (r2, r1)), abs=1e-5)
    a, b = random_points(20, 5059)[:2]
    q = [ReLU().gaussian_mean(np.hypot(tau * r1, r2), offset=b) for tau in m.deviations]
    assert model().potential(a, b, r1, r2) == pytest.approx(-0.5 * a * (q[0] - q[1]), abs=1e-13)


def test_a_rectifier_is_homogeneous():
    m, point = model(), random_points(20, 5077)
    a, b, r1, r2 = point
    assert m.features(a, 100 * b, 100 * r1, 100 * r2) == pytest.approx(100 * m.features(*point), rel=1e-9, abs=1e-9)
    assert m.features(-3 * a, b, r1, r2) == pytest.approx(-3 * m.features(*point), rel=1e-13)


def test_gradients_against_differences():
    m, point, h = model(tolerance=1e-10), random_points(30, 5081), 1e-4
    point[2:] += 0.3
    gradients = m.feature_gradients(*point)
    assert gradients.shape == (m.target.size, 4, 30)
    for axis in range(4):
        step = h * (np.arange(4) == axis)[:, None]
        near = (m.features(*(point + step)) - m.features(*(point - step))) / (2 * h)
        far = (m.features(*(point + 2 * step)) - m.features(*(point - 2 * step))) / (4 * h)
        assert gradients[:, axis] == pytest.approx((4 * near - far) / 3, abs=5e-11)


def test_shapes_broadcast():
    m = model()
    a, b, r1, r2 = np.array([1.0, -2.0])[:, None], 0.3, np.array([0.2, 0.5, 0.7]), 0.9
    assert m.features(a, b, r1, r2).shape == (m.target.size, 2, 3)
    assert m.feature_gradients(a, b, r1, r2).shape == (m.target.size, 4, 2, 3)
    assert m.features(1.0, b, 0.2, r2).shape == (m.target.size,)
    assert m.feature_gradients(1.0, b, 0.2, r2).shape == (m.target.size, 4)
    full = m.feature_gradients(*np.broadcast_arrays(a, b, r1, r2))
    assert np.array_equal(m.feature_gradients(a, b, r1, r2), full)
    grid = m.grid((3, 4, 5, 6))
    mesh = grid.mesh()
    at = tuple(x[2, 1, 3, 4] for x in mesh)
    assert m.features(*mesh)[:, 2, 1, 3, 4] == pytest.approx(m.features(*at), abs=1e-14)
    assert m.feature_gradients(*mesh)[:, :, 2, 1, 3, 4] == pytest.approx(m.feature_gradients(*at), abs=1e-14)


def test_risk_is_twice_the_energy():
    m = model()
    rho = m.initial_density(0.8, m.grid((10, 9, 12, 11)), width=0.3)
    assert 2 * m.energy()(rho) == pytest.approx(m.risk(rho), abs=1e-9)
    atoms = m.initial_atoms(0.8, nodes=6)
    assert 2 * m.energy()(atoms) == pytest.approx(m.risk(atoms), abs=1e-9)


def test_the_limit_has_two_features_and_risk_zero_with_signed_readout():
    m = ReLUNetwork(math.inf, delta=0.4, gamma=0.2)
    assert m.target.size == 2
    assert m.initial_atoms(0.8).points.ravel() == pytest.approx([1, 1, 0.8 * math.sqrt(0.2), 0.8 * math.sqrt(0.8)])
    # Means of the two classes are linear in a: two neurons of different ratio reach (1, -1).
    one, two = (m.features(1.0, *x)[:2] * math.sqrt(2.0) for x in ((0.0, 1.0, 0.0), (-1.0, 1.5, 0.0)))
    a = np.linalg.solve(np.column_stack([one, two]), [1.0, -1.0])
    rho = Atoms(np.column_stack([[2 * a[0], 0.0, 1.0, 0.0], [2 * a[1], -1.0, 1.5, 0.0]]), [0.5, 0.5])
    assert m.risk(rho) == pytest.approx(0.0, abs=1e-11)


def test_least_risk_is_that_of_a_box():
    m = ReLUNetwork(math.inf, delta=0.4, gamma=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WGFlowWarning)  # whether atoms lie on the edge is not the point
        wide = m.minimum_risk(tolerance=1e-6, throw=False)
        narrow = m.minimum_risk(box=((-0.5, 0.5),) * 2 + ((0.0, 0.5),) * 2, tolerance=1e-6, throw=False)
        wider = m.minimum_risk(box=((-12, 12), (-3, 3), (0, 7), (0, 4)), tolerance=1e-6, throw=False)
    assert m.limit_points() == ()
    assert wide.box == m.grid(8).bounds
    assert narrow.value > 0.1  # outputs of small neurons are too small to tell the classes apart
    assert 0.01 < wide.value < 0.5 * narrow.value
    assert wider.value < 0.1 * wide.value  # the infimum over all measures is 0


# -------------------------------------------------------------------- initial laws and grids
def test_initial_density():
    m = model(40, 10)
    grid = m.grid((30, 32, 20, 25), bounds=((-1, 3), (-2, 2), (0, 2), (0, 2)))
    rho = m.initial_density(0.8, grid, a=0.9, b=-0.3)
    assert rho.mass == pytest.approx(1.0, abs=1e-13)
    mean, cov = rho.mean(), rho.cov()
    assert mean[:2] == pytest.approx([0.9, -0.3], abs=1e-6)
    # One cell wide, and cell averages add the variance of a uniform law in a cell.
    assert np.diag(cov)[:2] == pytest.approx([(4 / 30) ** 2 * 13 / 12, (4 / 32) ** 2 * 13 / 12], rel=1e-2)
    fixed = m.initial_density(0.8, grid, width=0.2)
    assert math.sqrt(fixed.cov()[0, 0]) == pytest.approx(0.2, rel=0.05)
    w_only = AnisotropicGaussian(40, 10, 1.4, 0.6)
    radial = w_only.initial_density(0.8, w_only.grid((20, 25), r_max=(2, 2)))
    assert np.sum(rho.masses, axis=(0, 1)) == pytest.approx(radial.masses, abs=1e-13)


def test_initial_atoms():
    atoms = model().initial_atoms(0.8, nodes=7, a=-0.5, b=0.25)
    assert atoms.points.shape == (4, 49)
    assert set(atoms.points[0]) == {-0.5}
    assert set(atoms.points[1]) == {0.25}
    assert atoms.powers == (0.0, 0.0, 59.0, 259.0)
    assert atoms.weights @ atoms.points[2] ** 2 == pytest.approx(0.64 * 60 / 320, rel=1e-12)


def test_grids():
    m = model()
    grid = m.grid(6)
    assert grid.shape == (6, 6, 6, 6)
    assert grid.names == ("a", "b", "r1", "r2")
    assert grid.bounds == ((-3.0, 3.0), (-3.0, 3.0), (0.0, 3.5), (0.0, 2.0))
    wide = m.grid(6, beta=10.0, ridge=0.01)
    assert wide.bounds[0][1] == pytest.approx(8 / math.sqrt(0.1))
    assert wide.bounds[3][1] > math.sqrt(260 / 0.1)
    volume = np.logaddexp.reduce(model(8, 3).grid(6, bounds=((0, 1), (0, 2), (0, 2), (0, 3))).log_reference.ravel())
    balls = [0.5 * n * math.log(math.pi) - math.lgamma(0.5 * n + 1) + n * math.log(r) for n, r in ((3, 2), (5, 3))]
    assert volume == pytest.approx(sum(balls) + math.log(2.0), rel=1e-12)


# -------------------------------------------------------------------- the network
@pytest.mark.parametrize("activation", [ReLU(), Ramp(), Tanh()], ids=repr)
@pytest.mark.parametrize(("d", "s0"), [(2, 1), (40, 10)])
def test_population_risk_against_all_pairs_in_closed_form(d, s0, activation):
    m = model(d, s0, activation=activation)
    theta = m.initial_theta(6, 1.5, np.random.default_rng(5087))
    theta[:, :2] = np.random.default_rng(5099).uniform(-1, 1, (6, 2))
    theta[1, 2:] = -theta[0, 2:]
    theta[2] = theta[0]
    theta[3, 2:] = 0.0
    a, b, w = theta[:, 0], theta[:, 1], theta[:, 2:]
    expected = 1.0
    for sign, tau2 in ((1.0, 1.4), (-1.0, 0.6)):
        covariance = w @ (np.repeat([tau2, 1.0], [s0, d - s0])[:, None] * w.T)
        s = np.sqrt(np.diag(covariance))
        scale = np.where(np.outer(s, s) > 0, np.outer(s, s), 1.0)
        rho = np.clip(covariance / scale, -1, 1)
        pairs = activation.pair_expectation(s[:, None], s[None, :], rho, offset1=b[:, None], offset2=b[None, :])
        expected += 0.5 * np.mean(np.outer(a, a) * pairs) - sign * np.mean(a * activation.gaussian_mean(s, offset=b))
    assert m.population_risk(theta) == pytest.approx(expected, abs=1e-9)


def test_population_risk_against_fresh_samples():
    m = model(8, 3)
    theta = m.initial_theta(30, 1.2, np.random.default_rng(5101))
    theta[:, :2] += np.random.default_rng(5107).uniform(-1, 1, (30, 2))
    x, y = m.sample_data(200_000, np.random.default_rng(5113))
    outputs = np.mean(theta[:, 0] * np.maximum(x @ theta[:, 2:].T + theta[:, 1], 0.0), axis=1)
    losses = (y - outputs) ** 2
    assert m.population_risk(theta) == pytest.approx(losses.mean(), abs=4 * losses.std() / math.sqrt(losses.size))


def test_expected_risk_of_a_wide_network():
    m = model(40, 15)
    rho = m.initial_atoms(0.8, nodes=24)
    draws = m.population_risk(np.stack([m.initial_theta(50, 0.8, np.random.default_rng(901 + k)) for k in range(200)]))
    assert np.mean(draws) == pytest.approx(m.risk(rho) + m.finite_width_excess(rho) / 50,
                                           abs=4 * np.std(draws) / math.sqrt(200))


def test_projection():
    theta = np.array([[0.5, -0.25, 3.0, 4.0, 0.0, 0.0, 5.0, 12.0]])
    assert model(6, 2).project(theta).tolist() == [[0.5, -0.25, 5.0, 13.0]]


def test_sgd_follows_the_characteristics():
    m = model(80, 20, 1.6, 0.4)
    sgd = wg.validation.run_sgd(m, n_neurons=800, step_size=2e-5, t_eval=[0.2], rng=5119, n_runs=2)
    assert sgd.coordinates.shape == (2, 1, 800, 4)
    (law,) = characteristics(m, m.initial_atoms(0.8, nodes=8), [0.2])
    means = sgd.coordinates[:, 0].mean(axis=1)
    # Neurons of a run share its samples: the mean of a run fluctuates by about (eps D)^(1/2) times the step.
    assert means.mean(axis=0) == pytest.approx(law.mean(), abs=0.015)
    assert sgd.risk[:, 0].mean() == pytest.approx(m.risk(law), abs=0.03)
    moved = np.abs(law.mean() - m.initial_atoms(0.8, nodes=8).mean())
    assert moved[0] > 0.1
    assert moved[1] > 0.1


@pytest.mark.slow
def test_a_solution_in_four_coordinates_is_compared_with_sgd():
    m = model(80, 20, 1.6, 0.4)
    grid = m.grid((16, 16, 16, 16), bounds=((0.4, 1.6), (0.4, 1.6), (0.1, 0.75), (0.3, 1.1)))
    times = [0.0, 0.02]
    sol = wg.solve(m.energy(), m.initial_density(0.8, grid, width=0.1), t_span=(0.0, 0.02), t_eval=times,
                   time_scale=m.time_scale)
    rng = np.random.default_rng(5147)
    theta = np.stack([m.initial_theta(200, 0.8, rng) for _ in range(2)])
    theta[..., :2] += 0.1 * rng.standard_normal((2, 200, 2))
    sgd = wg.validation.run_sgd(m, 200, 2e-5, times, rng=5153, n_runs=2, theta0=theta)
    found = wg.validation.compare(sol, sgd)
    assert {f"mean of {name}" for name in m.coordinate_names} <= set(found.quantities)
    assert found.passed, str(found)


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.initial_density(0.8, m.grid(8), a=np.nan), "a=nan: must be finite"),
        (lambda m: m.initial_density(0.8, m.grid(8), a=[1.0, 2.0]), "a must be a number, got list"),
        (lambda m: m.initial_density(0.8, m.grid(8), a=5.0), r"outside the grid's a in \[-3, 3\]"),
        (lambda m: m.initial_density(0.8, m.grid(8), width=0.0), "width=0"),
        (lambda m: m.initial_density(0.8, m.grid(8), b=1.0, width=2.0), "outside the grid's"),
        (lambda m: m.initial_density(30.0, m.grid(8)), "outside the grid's r1"),
        (lambda m: m.initial_density(0.8, Grid((0, 1), cells=4)), "1 axes"),
        (lambda m: m.initial_atoms(-1.0), "kappa=-1"),
        (lambda m: m.grid(8, bounds=((0, 1), (0, 1))), "2 axes"),
        (lambda m: m.grid(8, bounds=((0, 1), (0, 1), (-1, 1), (0, 1))), "start at 0"),
        (lambda m: m.population_risk(np.ones((3, 40))), "theta has shape"),
        (lambda m: m.project(np.full((3, 42), np.inf)), r"theta\[0, 0\] is inf"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(model(40, 20))


def test_offsets_of_the_wrong_kind():
    with pytest.raises(InvalidType, match="b must be a number, got str"):
        model(40, 20).initial_atoms(0.8, b="one")


def test_the_limit_refuses_what_it_does_not_have():
    limit = ReLUNetwork(math.inf, delta=0.3, gamma=0.2)
    for call in (lambda: limit.energy(beta=3.0), lambda: limit.initial_theta(3, 0.8, np.random.default_rng(3)),
                 lambda: limit.n_parameters):
        with pytest.raises(InvalidInput, match="inf"):
            call()


def test_repr_names_the_model():
    assert repr(model(40, 10)) == "ReLUNetwork(d=40, s0=10, tau_plus2=1.4, tau_minus2=0.6, activation=ReLU())"
