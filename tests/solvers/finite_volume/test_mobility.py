"""Finite volumes with a mobility A(x): orders against exact solutions, and the guarantees at any step."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.compiled import chains
from wgflow.energies.dissipation import linear_dissipation
from wgflow.energies.nodes import density_of_nodes, node_grid
from wgflow.energies.oblique import directions_of, oblique_dissipation
from wgflow.flows import make_flow
from wgflow.validation import exact

MATRIX = ((1.0, 0.45), (0.45, 0.4))
OBLIQUE = {"stiffness": ((1.2, -0.3), (-0.3, 0.8)), "mean": (0.8, -0.5), "beta": 2.0, "t_end": 0.3,
           "variance": ((0.3, 0.05), (0.05, 0.2))}


def errors(problem, cells, name="density", **options):
    found = []
    for n in cells:
        grid = problem.grid(n)
        sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end),
                       wg.FiniteVolume(**options), mobility=problem.mobility)
        found.append(problem.errors(sol.final)[name])
    return np.array(found)


def order(cells, found):
    return -np.polyfit(np.log(cells), np.log(found), 1)[0]


# ---------------------------------------------------------------- orders
@pytest.mark.parametrize(("problem", "name"), [
    (exact.MobilityWell(), "second_moment"), (exact.PowerMobility(), "density"),
    (exact.PowerMobility(scale=2.0, length=6.0, modes={1: 0.1}, t_end=0.05), "density"),
    (exact.ConstantMobility(), "density")], ids=["moments", "walls", "steep", "constant"])
def test_compact_fluxes_keep_the_fourth_order(problem, name):
    cells = (50, 71, 100, 141, 200)
    assert order(cells, errors(problem, cells, name, rtol=1e-11, order=4)) > 3.6


@pytest.mark.parametrize("problem", [exact.PowerMobility(), exact.ConstantMobility(t_end=0.2)], ids=["walls", "well"])
def test_fluxes_of_second_order_keep_it(problem):
    cells = (40, 57, 80, 113, 160)
    assert 1.8 < order(cells, errors(problem, cells, rtol=1e-8, order=2)) < 2.5


def test_two_media_are_of_second_order_with_the_jump_between_cells():
    cells = (40, 56, 80, 112, 160)
    problem = exact.MobilityJump(right=8.0)
    assert order(cells, errors(problem, cells, rtol=1e-8)) > 1.9


def test_a_diagonal_that_depends_on_all_coordinates():
    """Against the same flow on a grid of twice the cells: fourth order, a ratio of 16."""
    energy = wg.Entropy(2.0) + wg.Potential(lambda x, y: x**2 / 2 + y**2 - 0.5 * x * y)
    mobility = (lambda x, y: 1.0 + 0.3 * np.sin(x + 2 * y), lambda x, y: 0.6 + 0.3 * np.cos(y - x))
    finals = []
    for n in (24, 48, 96):
        grid = wg.Grid([(-4, 4), (-3.5, 3.5)], cells=(n, n))
        start = wg.Density.gaussian(grid, (0.5, -0.3), (0.4, 0.3))
        finals.append(wg.solve(energy, start, (0, 0.3), wg.FiniteVolume(rtol=1e-8), mobility=mobility))
        assert "fourth order" in finals[-1].certificate.scheme

    def coarse(rho):
        return rho.masses.reshape(rho.grid.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))

    gaps = [np.abs(coarse(fine.final) - rough.final.masses).sum() for rough, fine in pairwise(finals)]
    assert gaps[0] / gaps[1] > 12


@pytest.mark.parametrize("matrix", [MATRIX, ((0.7, -0.2), (-0.2, 0.5)), ((2.0, 1.3), (1.3, 1.0))])
def test_a_constant_matrix_is_of_fourth_order(matrix):
    cells = (40, 50, 64, 80)
    problem = exact.ConstantMobility(mobility_matrix=matrix, **OBLIQUE)
    assert order(cells, errors(problem, cells, rtol=1e-8, order=4)) > 3.7


def test_a_smooth_matrix_is_of_fourth_order():
    """One set of directions serves everywhere; the truth is a grid of twice the cells."""
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: x**2 + y**2 - 0.5 * x * y)
    mobility = [[lambda x, y: 1.0 + 0.2 * np.sin(x), 0.3], [0.3, lambda x, y: 0.8 + 0.2 * np.cos(x + y)]]
    finals = []
    for n in (28, 56, 112):
        grid = wg.Grid([(-4, 4), (-4, 4)], cells=(n, n))
        sol = wg.solve(energy, wg.Density.gaussian(grid, (0.6, -0.3), 0.4), (0, 0.2),
                       wg.FiniteVolume(rtol=1e-8, order=4), mobility=mobility)
        finals.append(sol.final.masses)
        assert sol.certificate.verdict == "holds"
    gaps = [np.abs(fine.reshape(n, 2, n, 2).sum(axis=(1, 3)) - rough).sum()
            for n, rough, fine in zip((28, 56), finals, finals[1:])]
    assert gaps[0] / gaps[1] > 12


def test_a_matrix_is_of_second_order_by_fluxes_of_second_order():
    cells = (32, 45, 64, 90)
    problem = exact.ConstantMobility(mobility_matrix=MATRIX, **OBLIQUE)
    found = errors(problem, cells, rtol=1e-6, order=2)
    assert 1.85 < order(cells, found) < 2.3
    assert found[-1] < 2e-3


def test_a_matrix_that_turns_with_the_place_is_of_second_order():
    """Superbases change from place to place here; the truth is a grid of twice the cells."""
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: x**2 + y**2)

    def entry(i, j):
        def value(x, y):
            angle = 0.8 * x + 0.5 * y
            u = (np.cos(angle), np.sin(angle))
            return 0.5 * (i == j) + 2.0 * u[i] * u[j]
        return value

    mobility = [[entry(0, 0), entry(0, 1)], [entry(1, 0), entry(1, 1)]]
    finals = []
    for n in (24, 48, 96):
        grid = wg.Grid([(-3.5, 3.5), (-3.5, 3.5)], cells=(n, n))
        sol = wg.solve(energy, wg.Density.gaussian(grid, (0.6, -0.3), 0.3), (0, 0.1), wg.FiniteVolume(rtol=1e-6),
                       mobility=mobility)
        finals.append(sol.final)
        assert "change with the place" in sol.certificate.scheme
    gaps = [np.abs(fine.masses.reshape(n, 2, n, 2).sum(axis=(1, 3)) - rough.masses).sum()
            for n, rough, fine in zip((24, 48), finals, finals[1:])]
    assert gaps[0] / gaps[1] > 3.2


def test_constant_mobility_is_a_clock():
    grid = wg.Grid((-6, 7), cells=200)
    energy, rho = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2), wg.Density.gaussian(grid, 1.0, 0.5)
    for options in ({"rtol": 1e-9}, {"rtol": 1e-7, "order": 2}):
        slow = wg.solve(energy, rho, (0, 0.6), wg.FiniteVolume(**options)).final
        fast = wg.solve(energy, rho, (0, 0.3), wg.FiniteVolume(**options), mobility=2.0).final
        assert np.abs(slow.masses - fast.masses).sum() < 2e-6


def test_both_axes_at_once_take_the_mobility():
    problem = exact.ConstantMobility(mobility_matrix=((1.0, 0.0), (0.0, 0.3)), **OBLIQUE)
    split, whole = (errors(problem, [48], rtol=1e-7, splitting=splitting)[0] for splitting in ("strang", "none"))
    assert whole == pytest.approx(split, rel=0.02)


def test_nonlinear_diffusion_takes_a_diagonal():
    """rho_t = (A (rho^2)')' with A = 1 + x^2/4: for phi = log(1 + x^2/4)... the mean moves by int A' rho^2."""
    grid = wg.Grid((-3, 3), cells=240)
    rho = wg.Density.gaussian(grid, 0.3, 0.1)
    sol = wg.solve(1.0 * wg.PowerEntropy(2.0), rho, (0, 1e-3), wg.FiniteVolume(dt=2.5e-4),
                   mobility=lambda x: 1 + x**2 / 4)
    x = grid.centers[0]
    rates = [float((0.5 * x * law.values**2 * grid.widths[0]).sum()) for law in (rho, sol.final)]
    assert sol.final.mean() - rho.mean() == pytest.approx(0.5e-3 * sum(rates), rel=2e-3)
    assert sol.certificate.mass_drift < 1e-13
    assert sol.certificate.max_energy_increase <= 1e-13


def test_no_diffusion_takes_a_diagonal():
    """x' = -(1 + x^2) x from a Gaussian: quantiles follow in closed form."""
    grid = wg.Grid((-3, 3), cells=400)
    rho = wg.Density.gaussian(grid, 0.8, 0.05)
    sol = wg.solve(1.0 * wg.Potential(lambda x: x**2 / 2), rho, (0, 0.3), mobility=lambda x: 1 + x**2)
    for q in (0.2, 0.5, 0.8):
        x0 = rho.quantile(q)
        u = np.exp(-0.3) * x0 / np.sqrt(1 + x0**2)
        assert sol.final.quantile(q) == pytest.approx(u / np.sqrt(1 - u**2), abs=2e-3)
    assert sol.certificate.verdict == "holds"


# ---------------------------------------------------------------- guarantees
matrices = st.tuples(st.floats(-1.5, 1.5), st.floats(0.0, 3.2), st.floats(0.3, 30.0))


def turned(log_size, angle, ratio):
    u = np.array([np.cos(angle), np.sin(angle)])
    return np.exp(log_size) * (np.eye(2) + (ratio - 1.0) * np.outer(u, u))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), matrix=matrices, log_dt=st.floats(-3, 3), beta=st.floats(0.3, 50.0),
       periodic=st.booleans(), attraction=st.floats(-2.0, 2.0))
def test_a_matrix_keeps_mass_sign_decay_and_gibbs_states(seed, matrix, log_dt, beta, periodic, attraction):
    rng = np.random.default_rng(seed)
    grid = wg.Grid([(-2, 2), (-1.5, 1.5)], cells=(14, 11), boundary="periodic" if periodic else "no-flux")
    try:
        mobility = wg.Mobility(turned(*matrix).tolist())
        mobility.directions(grid)
    except wg.InvalidInput:
        return
    V = rng.standard_normal(grid.shape)
    energy = wg.Entropy(beta) + wg.Potential(V)
    whole = energy + attraction * wg.LowRank(lambda x, y: np.array([np.cos(np.pi * x / 2)]), signs=np.ones(1))
    rho = wg.Density.from_values(grid, rng.random(grid.shape) ** 8 + 1e-12, normalize=True)
    dt = 10.0**log_dt
    sol = wg.solve(whole, rho, (0, 3 * dt), wg.FiniteVolume(dt=dt), mobility=mobility)
    assert sol.certificate.mass_drift < 1e-13
    assert sol.certificate.min_density >= 0
    assert sol.certificate.max_energy_increase <= 2e-13
    star = wg.Density.from_values(grid, np.exp(-beta * (V - V.min())), normalize=True)
    rest = wg.solve(energy, star, (0, 3 * dt), wg.FiniteVolume(dt=dt), mobility=mobility)
    assert np.abs(rest.final.masses - star.masses).sum() < 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), log_dt=st.floats(-3, 3), beta=st.floats(0.3, 50.0), periodic=st.booleans(),
       order=st.sampled_from([None, 2]))
def test_a_diagonal_keeps_mass_sign_decay_and_gibbs_states(seed, log_dt, beta, periodic, order):
    rng = np.random.default_rng(seed)
    grid = wg.Grid([(0, 1), (0, 1.3)], cells=(16, 12), boundary="periodic" if periodic else "no-flux")
    k, phase = rng.integers(1, 3, 2), rng.uniform(0, 6, 2)

    def wave(x, y):
        return np.cos(2 * np.pi * (k[0] * x + k[1] * y / 1.3) + phase[0])

    mobility = (lambda x, y: np.exp(wave(x, y)), lambda x, y: 0.3 + wave(y * 10 / 13, x * 1.3) ** 2)
    energy = wg.Entropy(beta) + wg.Potential(wave)
    rho = wg.Density.from_values(grid, rng.random(grid.shape) ** 8 + 1e-12, normalize=True)
    dt = 10.0**log_dt
    sol = wg.solve(energy, rho, (0, 3 * dt), wg.FiniteVolume(dt=dt, order=order), mobility=mobility)
    assert sol.certificate.mass_drift < 1e-13
    assert sol.certificate.min_density >= 0
    assert sol.certificate.max_energy_increase <= 2e-13
    star = wg.Density.from_values(grid, np.exp(-beta * wave(*np.meshgrid(*grid.centers, indexing="ij"))),
                                  normalize=True)
    rest = wg.solve(energy, star, (0, 3 * dt), wg.FiniteVolume(dt=dt, order=order), mobility=mobility)
    assert np.abs(rest.final.masses - star.masses).sum() < 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), matrix=matrices, log_dt=st.floats(-3, 3), beta=st.floats(0.3, 5.0),
       periodic=st.booleans(), attraction=st.floats(-2.0, 2.0))
def test_a_matrix_of_fourth_order_keeps_mass_sign_and_decay(seed, matrix, log_dt, beta, periodic, attraction):
    rng = np.random.default_rng(seed)
    grid = wg.Grid([(0, 1), (0, 1.3)], cells=(16, 12), boundary="periodic" if periodic else "no-flux")
    mobility, k = wg.Mobility(turned(*matrix).tolist()), rng.integers(1, 3, 2)
    try:
        mobility.directions(grid)
    except wg.InvalidInput:
        return

    def wave(x, y):
        return np.cos(2 * np.pi * (k[0] * x + k[1] * y / 1.3) + seed)

    energy = wg.Entropy(beta) + 0.5 * wg.Potential(wave)
    whole = energy + attraction * wg.LowRank(lambda x, y: np.array([np.cos(2 * np.pi * x)]), signs=np.ones(1))
    rho = wg.Density.from_values(grid, rng.random(grid.shape) ** 2 + 1e-12, normalize=True)
    dt = 10.0**log_dt
    # By itself fluxes of second order are taken where the cells are too wide.
    sol = wg.solve(whole, rho, (0, 3 * dt), wg.FiniteVolume(dt=dt), mobility=mobility)
    assert sol.certificate.mass_drift < 1e-13
    assert min(state.values.min() for state in sol.densities) >= 0
    assert sol.certificate.max_energy_increase <= 2e-13


@pytest.mark.parametrize("mobility", [MATRIX, (1.0, lambda x, y: 0.5 + 0.4 * np.sin(x + y))],
                         ids=["matrix", "diagonal"])
@pytest.mark.parametrize("dt", [0.01, 0.3, 50.0])
def test_gibbs_states_at_the_centers_stay(mobility, dt):
    grid = wg.Grid([(0, 2), (0, 2)], cells=(24, 24), boundary="no-flux")
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: np.cos(2 * x) * np.sin(y))
    x, y = np.meshgrid(*grid.centers, indexing="ij")
    star = density_of_nodes(wg.Density.from_values(node_grid(grid), np.exp(-np.cos(2 * x) * np.sin(y)), normalize=True))
    sol = wg.solve(energy, star, (0, 2 * dt), wg.FiniteVolume(dt=dt, order=4), mobility=mobility)
    assert "fourth order" in sol.certificate.scheme
    np.testing.assert_allclose(sol.final.nodal.values, star.nodal.values, rtol=1e-11)


def test_compact_steps_keep_their_gibbs_states():
    """Those of values at the centers, which do not depend on A."""
    grid = wg.Grid((0, 2), cells=40, boundary="no-flux")
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: np.cos(3 * x))
    rho = wg.Density.gaussian(grid, 0.7, 0.2)
    rests = [wg.solve(energy, rho, (0, 60), wg.FiniteVolume(order=4), mobility=A).final.nodal.values
             for A in (1.0, lambda x: 0.2 + x**2)]
    gibbs = np.exp(-np.cos(3 * grid.centers[0]))
    for values in rests:
        assert np.ptp(np.log(values / gibbs)) < 1e-9


# ---------------------------------------------------------------- kernels
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("mode", [chains.SECOND, chains.EULER, chains.HALVES])
def test_a_chain_is_swept_as_dense_matrices_say(closed, mode, rng):
    n, D, dt = 9, 0.7, 0.3
    psi, m, faces = rng.standard_normal(n), 1.0 + rng.random(n), 0.5 + rng.random(n)
    order = rng.permutation(n).astype(np.int64)
    if not closed:
        faces[-1] = 0.0
    p = psi[order]

    def bernoulli(z):
        return z / np.expm1(z)

    L = np.zeros((n, n))
    for i in range(n if closed else n - 1):
        k = (i + 1) % n
        q = (p[k] - p[i]) / D
        bends = [(p[(j + 1) % n] - 2 * p[j] + p[j - 1]) / D for j in (i, k) if closed or 0 < j < n - 1]
        slope = (1 / np.tanh(q / 2) - 2 / q) / q
        factor = D * faces[i] * np.clip(1 + 0.5 * np.mean(bends) * slope, 0.5, 1.5)
        right, left = factor * bernoulli(q), factor * bernoulli(-q)
        L[k, i] += right
        L[i, i] -= right
        L[i, k] += left
        L[k, k] -= left
    x = m[order]
    if mode == chains.SECOND:
        J = np.linalg.inv(np.eye(n) - chains.GAMMA * dt * L)
        expected = J @ J @ x + np.sqrt(2) * (J @ J @ x - J @ x)
    else:
        J = np.linalg.inv(np.eye(n) - (dt if mode == chains.EULER else dt / 2) * L)
        expected = J @ x if mode == chains.EULER else J @ J @ x
    assert expected.min() > 0
    moved = m.copy()
    chains.chain_sweep(moved, psi, D, dt, order, np.array([0, n]), closed, faces, mode, 0.0, 0.0, 0, 1)
    np.testing.assert_allclose(moved[order], expected, rtol=1e-12)


@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_directions_add_up_to_the_matrix(ndim, boundary, rng):
    grid = wg.Grid([(0, 1), (0, 2), (0, 1.5)][:ndim], cells=(8, 9, 7)[:ndim], boundary=boundary)
    root = np.eye(ndim) + 0.4 * rng.standard_normal((ndim, ndim))
    A = root @ root.T
    found = directions_of(np.broadcast_to(A.reshape(ndim, ndim, *[1] * ndim), (ndim, ndim, *grid.shape)).copy(), grid)
    h = np.array([w[0] for w in grid.widths])
    total = sum(one.faces.max() * np.outer(h * one.step, h * one.step) for one in found)
    np.testing.assert_allclose(total, A, rtol=1e-12, atol=1e-12)
    for one in found:
        assert sorted(one.order) == list(range(grid.size))
        assert (one.faces >= 0).all()
        places = np.array(np.unravel_index(one.order, grid.shape))
        for start, end in zip(one.starts[:-1], one.starts[1:]):
            gaps = np.diff(places[:, start:end], axis=1) - np.array(one.step)[:, None]
            assert (gaps % np.array(grid.shape)[:, None] == 0).all()
            assert boundary == "periodic" or (gaps == 0).all()


def test_a_matrix_without_mixed_terms_has_the_dissipation_of_its_diagonal(rng):
    grid = wg.Grid([(0, 1), (0, 2)], cells=(12, 15), boundary="no-flux")
    psi, m = rng.standard_normal(grid.shape), 0.5 + rng.random(grid.shape)
    A = np.zeros((2, 2, *grid.shape))
    A[0, 0], A[1, 1] = 2.0, 0.5
    found = oblique_dissipation(m, psi, grid, 100.0, directions_of(A, grid))
    expected = linear_dissipation(m, psi, grid, 100.0, corrected=False, mobility=[A[0, 0], A[1, 1]])
    assert found == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- refusals
GRID = wg.Grid([(-2, 2), (-2, 2)], cells=(16, 16))
RHO = wg.Density.gaussian(GRID, (0, 0), 0.2)
WELL = wg.Potential(lambda x, y: x**2 + y**2)


@pytest.mark.parametrize(("energy", "options", "mobility", "what"), [
    (1.0 * WELL, {}, MATRIX, "linear diffusion"),
    (wg.PowerEntropy(2.0) + WELL, {}, MATRIX, "linear diffusion"),
    (wg.Entropy(1e3) + WELL, {"order": 4}, MATRIX, "order=4"),
    (wg.Entropy(1.0) + WELL, {"splitting": "none"}, MATRIX, "splitting"),
    (wg.Entropy(1.0) + WELL, {}, turned(0.0, 0.02, 1e5), "oblique to the grid"),
    (wg.Entropy(1.0) + WELL, {}, ((1.0, 0.2), (0.1, 1.0)), "symmetric"),
    (wg.Entropy(1.0) + WELL, {}, ((1.0, 2.0), (2.0, 1.0)), "positive definite"),
    (wg.Entropy(1.0) + WELL, {}, (1.0, 2.0, 3.0), "3 coordinates"),
    (wg.Entropy(1.0) + WELL, {}, lambda x, y: x, "positive"),
    (wg.Entropy(1.0) + WELL, {}, -1.0, "> 0"),
])
def test_what_is_not_served_is_refused_by_name(energy, options, mobility, what):
    with pytest.raises(wg.InvalidInput, match=what):
        wg.solve(energy, RHO, (0, 0.1), wg.FiniteVolume(**options), mobility=mobility)


@pytest.mark.parametrize("method", [wg.JKO(tau=0.1), wg.FiPy()], ids=["JKO", "FiPy"])
def test_methods_that_do_not_know_it_refuse_it(method):
    grid = wg.Grid((-2, 2), cells=40)
    with pytest.raises(wg.InvalidInput, match="mobility"):
        make_flow(wg.Entropy(1.0) + wg.Potential(lambda x: x**2), wg.Density.gaussian(grid, 0, 0.2), (0, 1), None, 1.0,
                  method, 2.0)
