"""Networks on a data set: features, empirical risk, compression, flows against particles and SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import wgflow as wg
from wgflow.activations import PiecewiseLinear, Polynomial, ReLU, Softplus, Tanh
from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput, InvalidType, ResourceError
from wgflow.grids import Grid
from wgflow.reduced_models.finite_data import FiniteData
from wgflow.validation import compare, run_sgd


def data(n, d, seed=601):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return x, np.tanh(1.5 * x[:, 0]) - 0.3 * x[:, -1] ** 2 + 0.1 * rng.standard_normal(n)


#: Every shape of theta that fits four coordinates.
CASES = [(1, False), (2, False), (4, False), (1, True), (2, True)]


def model(d=2, readout=False, n=7, **options):
    return FiniteData(*data(n, d), trains_readout=readout, **options)


def network(m, theta):
    """Outputs on the samples of a network, one neuron and one sample at a time."""
    out = np.zeros(m.n_samples)
    for neuron in theta:
        a, b, w = (neuron[0], neuron[1], neuron[2:]) if m.trains_readout else (1.0, 0.0, neuron)
        out += [a * float(m.activation(np.dot(w, x) + b)) for x in m.x]
    return out / len(theta)


# -------------------------------------------------------------------- features and risk
@pytest.mark.parametrize("tolerance", [None, 1e-9])
@pytest.mark.parametrize(("d", "readout"), CASES)
def test_risk_is_the_mean_square_over_the_samples(d, readout, tolerance):
    m = model(d, readout, n=90 if tolerance else 7, tolerance=tolerance)
    theta = 0.7 * np.random.default_rng(3).standard_normal((5, m.n_coordinates))
    loss = np.mean((m.y - network(m, theta)) ** 2)
    rho = Atoms(theta.T, np.full(5, 0.2))
    assert m.population_risk(theta) == pytest.approx(loss, abs=1e-14)
    assert m.risk(rho) == pytest.approx(loss, abs=1e-14 if tolerance is None else 1e-7)
    assert 2.0 * m.energy()(rho) == pytest.approx(m.risk(rho), abs=1e-12)
    assert m.label_second_moment == pytest.approx(np.mean(m.y**2), abs=1e-14)


@pytest.mark.parametrize("activation", [Tanh(), Softplus(), ReLU(), Polynomial([0.1, 1.0, 0.5])], ids=repr)
@pytest.mark.parametrize(("d", "readout"), CASES)
def test_kernel_potential_and_gradients(d, readout, activation):
    m = model(d, readout, activation=activation)
    assert m.target.size == 7
    u, v = np.random.default_rng(19).standard_normal((2, m.n_coordinates, 6))
    single = [np.array([network(m, [p]) for p in points.T]) for points in (u, v)]  # (6, n) outputs of single neurons
    assert m.kernel(tuple(u), tuple(v)) == pytest.approx(np.mean(single[0] * single[1], axis=1), abs=1e-12)
    assert m.potential(*u) == pytest.approx(-np.mean(m.y * single[0], axis=1), abs=1e-12)
    assert m.diagonal(*u) == pytest.approx(np.mean(single[0] ** 2, axis=1), abs=1e-12)
    gradients, h = m.feature_gradients(*u), 1e-6
    assert gradients.shape == (7, m.n_coordinates, 6)
    for axis in range(m.n_coordinates):
        shift = h * np.eye(m.n_coordinates)[axis][:, None]
        difference = (m.features(*(u + shift)) - m.features(*(u - shift))) / (2 * h)
        assert gradients[:, axis] == pytest.approx(difference, abs=2e-8)


@pytest.mark.parametrize("tolerance", [None, 1e-8])
def test_features_broadcast_and_take_numbers(tolerance):
    m = model(2, n=100, tolerance=tolerance)
    k = m.target.size
    assert m.features(np.zeros((3, 1)), np.zeros(4)).shape == (k, 3, 4)
    assert m.feature_gradients(np.zeros((3, 1)), np.zeros(4)).shape == (k, 2, 3, 4)
    assert m.features(1.0, 0.5).shape == (k,)
    assert m.feature_gradients(1.0, 0.5).shape == (k, 2)
    assert m.diagonal(1.0, np.zeros(3)).shape == (3,)
    assert m.features(np.zeros(0), np.zeros(0)).shape == (k, 0)


def test_samples_may_repeat_and_be_permuted():
    x, y = data(6, 2)
    rho = Atoms(np.random.default_rng(7).standard_normal((2, 4)), np.full(4, 0.25))
    once = FiniteData(x, y)
    for other in (FiniteData(np.tile(x, (3, 1)), np.tile(y, 3)), FiniteData(x[::-1], y[::-1])):
        assert other.risk(rho) == pytest.approx(once.risk(rho), abs=1e-14)
        assert other.psi_gradient(rho, 0.3, -0.2) == pytest.approx(once.psi_gradient(rho, 0.3, -0.2), abs=1e-14)


def test_one_sample_and_one_dimensional_input():
    m = FiniteData([2.0], [0.5])
    assert m.coordinate_names == ("w",)
    assert m.risk(Atoms([[0.3]], [1.0])) == pytest.approx((0.5 - math.tanh(0.6)) ** 2, abs=1e-15)
    assert FiniteData([1.0, 2.0], [0.0, 1.0], trains_readout=True).coordinate_names == ("a", "b", "w")
    silent = FiniteData([0.0, 0.0], [0.0, 0.0])
    assert silent.risk(silent.initial_density(0.8, silent.grid())) == 0.0


def test_the_arrays_given_are_copied_and_kept():
    x, y = data(5, 1)
    m = FiniteData(x, y)
    x[0], y[0] = 99.0, 99.0
    assert m.x.max() < 90
    assert m.y.max() < 90
    with pytest.raises(ValueError, match="read-only"):
        m.x[0, 0] = 1.0


# -------------------------------------------------------------------- fewer features
@pytest.mark.parametrize(("d", "readout", "n"), [(1, False, 400), (2, False, 500), (1, True, 500)])
def test_compression_keeps_the_kernel_to_its_tolerance(d, readout, n):
    x, y = data(n, d)
    full, tolerance = FiniteData(x, y, trains_readout=readout), 1e-6
    small = FiniteData(x, y, trains_readout=readout, tolerance=tolerance)
    assert small.target.size < n / 3
    lo, hi = np.array(full.grid(8).bounds).T
    points = (lo + (hi - lo) * np.random.default_rng(43).random((40, lo.size))).T
    table = [m.kernel(tuple(p[:, None] for p in points), tuple(p[None, :] for p in points)) for m in (full, small)]
    scale = np.max(full.diagonal(*np.meshgrid(*full.grid(8).bounds)))
    assert np.max(np.abs(table[0] - table[1])) <= 4 * tolerance * scale
    assert small.potential(*points) == pytest.approx(full.potential(*points), abs=1e-13 * math.sqrt(scale) * 10)
    rho = Atoms(points, np.full(40, 1 / 40))
    assert 0.0 <= full.risk(rho) - small.risk(rho) + 1e-13 <= 2 * tolerance * scale
    slope = full.psi_gradient(rho, *points)
    assert small.psi_gradient(rho, *points) == pytest.approx(slope, abs=1e-5 * scale)
    assert small.population_risk(points.T) == full.population_risk(points.T)


def test_coarser_tolerances_keep_fewer_features():
    sizes = [model(1, n=300, tolerance=e).target.size for e in (1e-3, 1e-7, 1e-11)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < 100


def test_features_that_cannot_be_compressed_are_all_kept():
    """A kink at every sample: no few directions hold such neurons."""
    x = np.linspace(0.3, 3.0, 80)
    m = FiniteData(np.stack([x, np.ones(80)], axis=1), np.sin(x), activation=ReLU(), tolerance=1e-24)
    assert m.target.size == 80


def test_compressed_flow_is_the_flow():
    x, y = data(300, 1)
    ends = []
    for tolerance in (None, 1e-10):
        m = FiniteData(x, y, tolerance=tolerance)
        grid = m.grid(cells=200)
        ends.append(wg.solve(m.energy(), m.initial_density(0.8, grid), (0, 1), time_scale=m.time_scale).final)
    assert ends[1].values == pytest.approx(ends[0].values, abs=1e-5)


# -------------------------------------------------------------------- initial laws and grids
@pytest.mark.parametrize(("d", "readout"), CASES)
def test_initial_laws_agree(d, readout):
    m = model(d, readout)
    mean0 = np.linspace(-0.2, 0.4, m.n_coordinates)
    deviations = np.array([0.6] * (2 * readout) + [0.6 / math.sqrt(d)] * d)
    cells = {1: 200, 2: 100, 3: 40, 4: 24}[m.n_coordinates]
    rho = m.initial_density(0.6, m.grid(cells, kappa=0.6, mean0=mean0), mean0)
    atoms = m.initial_atoms(0.6, nodes=5, mean0=mean0)
    theta = m.initial_theta(40_000, 0.6, np.random.default_rng(11), mean0)
    assert atoms.size == 5**m.n_coordinates
    assert np.atleast_1d(atoms.mean()) == pytest.approx(mean0, abs=1e-13)
    assert np.sqrt(np.diag(np.atleast_2d(atoms.cov()))) == pytest.approx(deviations, abs=1e-13)
    assert np.atleast_1d(rho.mean()) == pytest.approx(mean0, abs=1e-4)
    within = np.array([h[0] ** 2 / 12 for h in rho.grid.widths])
    assert np.diag(np.atleast_2d(rho.cov())) - within == pytest.approx(deviations**2, abs=1e-4)
    assert theta.mean(axis=0) == pytest.approx(mean0, abs=0.02)
    assert theta.std(axis=0) == pytest.approx(deviations, rel=0.02)
    assert rho.grid.names == m.coordinate_names
    assert np.array_equal(m.project(theta), theta)


def test_a_scale_for_each_coordinate():
    m = model(1, True)
    atoms = m.initial_atoms([0.0, 0.3, 1.1], nodes=6, mean0=[1.0, 0.0, 0.0])
    assert atoms.size == 36
    assert np.all(atoms.points[0] == 1.0)
    assert np.sqrt(np.diag(atoms.cov())) == pytest.approx([0.0, 0.3, 1.1], abs=1e-13)
    assert m.initial_atoms([0.0, 0.0, 0.0], mean0=[1.0, 2.0, 3.0]).points.ravel().tolist() == [1.0, 2.0, 3.0]
    theta = m.initial_theta(5, [0.0, 0.3, 1.1], np.random.default_rng(5), mean0=[1.0, 0.0, 0.0])
    assert np.all(theta[:, 0] == 1.0)


def test_default_grids_hold_noise_and_the_initial_law():
    m = model(2)
    assert m.grid(cells=9, beta=2.0, ridge=0.01).bounds[0][1] > 6 / math.sqrt(0.02) - 1e-9
    assert m.grid(cells=9, kappa=3.0).bounds[0][1] >= 18 / math.sqrt(2) - 1e-9
    assert m.grid(cells=(5, 6), bounds=[(-1, 1), (-2, 2)]).shape == (5, 6)


# -------------------------------------------------------------------- flows
def particle_flow(m, atoms, times):
    """The gradient flow of weighted particles, by an ODE solver with its own formula of the drift."""
    shape = atoms.points.shape

    def rhs(_, z):
        theta = z.reshape(shape)
        pre = m.x @ theta
        outputs = m.activation(pre) @ atoms.weights
        return 2.0 * np.einsum("k,km,kd->dm", m.y - outputs, m.activation.derivative(pre), m.x).ravel() / m.n_samples

    run = solve_ivp(rhs, (0, times[-1]), atoms.points.ravel(), t_eval=times, rtol=1e-10, atol=1e-12)
    return [atoms.moved(z.reshape(shape)) for z in run.y.T]


def test_flow_in_one_dimension_against_particles():
    m, times = model(1, n=9), [0.1, 0.4]
    exact = particle_flow(m, m.initial_atoms(0.8, nodes=120), times)
    errors = []
    for cells in (200, 400):
        sol = wg.solve(m.energy(), m.initial_density(0.8, m.grid(cells)), (0, 0.4), t_eval=times,
                       method=wg.FiniteVolume(rtol=1e-6), time_scale=m.time_scale)
        assert sol.certificate.ok
        errors.append([max(abs(rho.mean() - e.mean()), abs(m.risk(rho) - m.risk(e)))
                       for rho, e in zip(sol.densities, exact)])
    assert np.max(errors[1]) <= 3e-5
    assert np.max(errors[1]) <= np.max(errors[0]) / 2.5


def test_flow_in_two_dimensions_against_particles():
    m, times = model(2, n=9), [0.3, 1.0]
    exact = particle_flow(m, m.initial_atoms(0.8, nodes=16), times)
    sol = wg.solve(m.energy(), m.initial_density(0.8, m.grid(128)), (0, 1), t_eval=times, time_scale=m.time_scale)
    assert sol.certificate.ok
    for rho, law in zip(sol.densities, exact):
        assert rho.mean() == pytest.approx(law.mean(), abs=2e-3)
        assert m.risk(rho) == pytest.approx(m.risk(law), abs=2e-3)


@pytest.mark.parametrize(("d", "readout"), CASES)
def test_drift_of_neurons_is_the_gradient_of_the_networks_risk(d, readout):
    m, h = model(d, readout), 1e-6
    theta = np.random.default_rng(3).standard_normal((5, m.n_coordinates))
    psi = m.psi_gradient(Atoms(theta.T, np.full(5, 0.2)), *theta.T)
    for axis in range(m.n_coordinates):
        step = np.zeros_like(theta)
        step[2, axis] = h
        slope = (m.population_risk(theta + step) - m.population_risk(theta - step)) / (2 * h)
        assert 5 * slope == pytest.approx(2 * psi[axis, 2], abs=1e-7)


@pytest.mark.parametrize("beta", [math.inf, 20.0])
def test_sgd_on_the_data_set_agrees_with_the_flow(beta):
    m, times, ridge = model(2, n=12), [0.0, 0.2, 1.0], 0.05
    sgd = run_sgd(m, 300, 1e-3, times, rng=31, n_runs=3, beta=beta, ridge=ridge)
    grid = m.grid(96, beta=beta, ridge=ridge)
    sol = wg.solve(m.energy(beta, ridge), m.initial_density(0.8, grid), (0, 1), t_eval=times, time_scale=m.time_scale)
    result = compare(sol, sgd, n_null=200)
    assert result.passed, result.table()


@pytest.mark.slow
def test_sgd_with_a_readout_agrees_with_the_flow_on_three_coordinates():
    m, times = model(1, True, n=8), [0.0, 0.3]
    sgd = run_sgd(m, 200, 1e-3, times, rng=37, n_runs=3, beta=20.0)
    grid = m.grid(48, bounds=[(-6.5, 6.5)] * 3)
    sol = wg.solve(m.energy(20.0), m.initial_density(0.8, grid), (0, 0.3), t_eval=times, time_scale=m.time_scale)
    result = compare(sol, sgd, n_null=200)
    assert result.passed, result.table()


def test_samples_are_drawn_with_replacement_and_evenly():
    m = model(2, n=6)
    x, y = m.sample_data(60_000, np.random.default_rng(13))
    counts = [np.sum(y == value) for value in m.y]
    assert sum(counts) == 60_000
    assert np.abs(np.array(counts) / 10_000 - 1).max() < 0.06
    assert np.array_equal(x[y == m.y[2]][0], m.x[2])


def test_population_risk_in_blocks(monkeypatch):
    from wgflow.reduced_models import finite_data

    m = model(2, n=30, tolerance=1e-6)
    theta = np.random.default_rng(17).standard_normal((2, 3, 20, 2))
    whole, own, features = m.population_risk(theta), m.diagonal(*theta[0, 0].T), m.features(*theta[0, 0].T)
    assert whole.shape == (2, 3)
    monkeypatch.setattr(finite_data, "_BLOCK", 100)
    assert m.population_risk(theta) == pytest.approx(whole, abs=1e-14)
    assert m.diagonal(*theta[0, 0].T) == pytest.approx(own, abs=1e-14)
    assert m.features(*theta[0, 0].T) == pytest.approx(features, abs=1e-14)


# -------------------------------------------------------------------- input
X, Y = data(4, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(x=np.zeros((0, 2)), y=[]), "x has shape"),
        (dict(x=np.zeros((3, 0)), y=np.zeros(3)), "x has shape"),
        (dict(x=np.zeros((3, 2, 1)), y=np.zeros(3)), "x has shape"),
        (dict(x=1.0, y=1.0), "x has shape"),
        (dict(x=X, y=Y[:3]), "y has shape"),
        (dict(x=X, y=Y[:, None]), "y has shape"),
        (dict(x=np.where(X[1, 1] == X, np.nan, X), y=Y), r"x\[1, 1\] is nan"),
        (dict(x=X, y=np.where(Y[2] == Y, np.inf, Y)), r"y\[2\] is inf"),
        (dict(x=np.zeros((3, 5)), y=np.zeros(3)), "5 inputs"),
        (dict(x=np.zeros((3, 3)), y=np.zeros(3), trains_readout=True), "3 inputs"),
        (dict(x=X, y=Y, trains_readout="yes"), "trains_readout='yes': need True or False"),
        (dict(x=X, y=Y, activation=np.tanh), "activation must be"),
        (dict(x=X, y=Y, tolerance=0.0), "tolerance=0"),
        (dict(x=X, y=1e200 * Y), "overflow"),
        (dict(x=1e200 * X, y=Y), "overflow"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        FiniteData(**arguments)


@pytest.mark.parametrize("bad", ["data", [[1.0], [1.0, 2.0]], np.ones((4, 2), complex), [None, 1.0]])
def test_wrong_kinds(bad):
    with pytest.raises(InvalidType):
        FiniteData(bad, Y)
    with pytest.raises(InvalidType):
        FiniteData(X, bad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.initial_density(0.0, m.grid()), "kappa=0"),
        (lambda m: m.initial_density([0.1, 0.0], m.grid()), "every scale > 0"),
        (lambda m: m.initial_density([0.1, -0.2], m.grid()), "must be >= 0"),
        (lambda m: m.initial_density([0.1, 0.1, 0.1], m.grid()), "kappa has shape"),
        (lambda m: m.initial_density(0.8, m.grid(), 60.0), "outside the grid"),
        (lambda m: m.initial_density(0.8, Grid((0, 1), cells=4)), "1 axes"),
        (lambda m: m.initial_atoms(0.8, nodes=0), "nodes=0"),
        (lambda m: m.grid(beta=-1.0), "beta=-1"),
        (lambda m: m.features(1.0), "2 coordinates"),
        (lambda m: m.population_risk(np.ones((3, 5))), "theta has shape"),
        (lambda m: m.risk(np.ones(3)), "rho must be"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(model(2))


def test_features_that_do_not_fit_in_memory_are_refused_at_once():
    m = FiniteData(np.zeros((3000, 1)), np.zeros(3000))
    axis = np.broadcast_to(0.0, (10**9,))
    with pytest.raises(ResourceError, match="give the model a tolerance"):
        m.features(axis)


def test_activations_with_kinks():
    m = FiniteData(X, Y, activation=PiecewiseLinear([-1.0, 1.0], [-1.0, 1.0]))
    sol = wg.solve(m.energy(), m.initial_density(0.8, m.grid(64)), (0, 1), time_scale=m.time_scale)
    assert sol.certificate.ok
    assert m.risk(sol.final) < m.risk(sol.densities[0])
