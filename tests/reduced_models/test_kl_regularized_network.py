"""KL-regularized least squares: the dual against references and other routes, the flow, floors and classes."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

import wgflow as wg
from wgflow.activations import Erf, ReLU, Softplus, Tanh
from wgflow.reduced_models import Atoms, KLRegularizedNetwork
from wgflow.reduced_models.kl_regularization.duality import span_of
from wgflow.reduced_models.kl_regularization.quasi_random import minimize_scrambled

ANGLES = np.deg2rad([0.0, 60.0, 120.0])
X = 1.5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
Y = np.array([0.5, -0.3, 0.8])
LINE = ([1.0, -1.0], [0.8, -0.4], Softplus())


def model(alpha=4.0, regularization=0.1, **scales):
    return KLRegularizedNetwork(X, Y, alpha=alpha, regularization=regularization, **scales)


def test_reference_values_of_the_kernels():
    kernel, readout = model().prior_kernel(), model().readout_kernel()
    assert np.diag(kernel) == pytest.approx([1.2876721896] * 3, abs=6e-11)
    assert [kernel[0, 1], kernel[1, 2], kernel[0, 2]] == pytest.approx([0.5000641503, 0.5000641503, -0.5000641503],
                                                                       abs=6e-11)
    assert np.diag(readout) == pytest.approx([0.5406483809] * 3, abs=6e-11)
    assert abs(readout[0, 1]) == pytest.approx(0.2434743882, abs=6e-11)
    assert model().kernel_rate == pytest.approx(0.0958479630, abs=6e-11)


def test_reference_values_of_the_minimum_and_its_floor():
    best = model().minimum()
    assert best.value == pytest.approx(0.0358966590, abs=6e-11)
    assert best.risk == pytest.approx(0.00342805793, abs=6e-12)
    assert best.divergence == pytest.approx(0.324686011, abs=6e-10)
    assert best.gap < 1e-28
    floor = model().kernel_floor()
    assert floor.divergence * 16 == pytest.approx(8.0262037364, abs=6e-11)
    assert floor.risk * 4**4 / 0.01 == pytest.approx(222.0956437, abs=6e-8)


@pytest.mark.parametrize(("activation", "alpha", "regularization", "scales"), [
    (Tanh(), 1.0, 0.3, (1.0, 1.0)), (Erf(), 6.0, 0.05, (0.7, 1.3)), (Softplus(), 3.0, 0.2, (1.2, 0.6)),
])
def test_the_minimum_by_another_quadrature_and_a_general_minimizer(activation, alpha, regularization, scales):
    nodes, weights = np.polynomial.legendre.leggauss(200)
    nodes, weights = 12.0 * nodes, weights * np.exp(-0.5 * (12.0 * nodes) ** 2)
    weights = weights / weights.sum()
    w = scales[1] * np.stack([c.ravel() for c in np.meshgrid(nodes, nodes, indexing="ij")])
    prior, h, y = np.outer(weights, weights).ravel(), activation(X @ w), Y

    def dual(nu):
        s = alpha * scales[0] / regularization * (nu @ h)
        return 0.75 * nu @ nu + nu @ y + regularization * np.log(np.sum(prior * np.exp(0.5 * s * s)))

    start = -regularization / alpha**2 * Y
    expected = -minimize(dual, start, method="Nelder-Mead",
                         options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 9000}).fun
    found = KLRegularizedNetwork(X, Y, activation, alpha, regularization, *scales).minimum()
    assert found.value == pytest.approx(expected, abs=2e-9)
    assert found.value == pytest.approx(found.risk + regularization * found.divergence, rel=1e-12)


def test_scales_of_the_prior_are_units_of_the_parameters():
    """u = sigma_u u', w = sigma_w w': the scales multiply alpha and the inputs."""
    scaled = model(2.0, 0.2, readout_scale=1.5, weight_scale=0.8).minimum()
    plain = KLRegularizedNetwork(0.8 * X, Y, alpha=3.0, regularization=0.2).minimum()
    assert scaled.value == pytest.approx(plain.value, rel=1e-12)
    assert scaled.chi_square == pytest.approx(plain.chi_square, rel=1e-10)


def test_the_grid_has_the_same_minimum():
    m = model()
    best, grid = m.minimum(), m.grid(36)
    star = wg.stationary(m.energy(), grid)
    assert star.energy == pytest.approx(best.value, abs=1e-7)
    assert m.risk(star.density) == pytest.approx(best.risk, abs=1e-7)
    assert m.divergence(star.density) == pytest.approx(best.divergence, abs=2e-6)
    assert m.chi_square(star.density) == pytest.approx(best.chi_square, rel=1e-4)
    assert m.kernel(star.density) == pytest.approx(best.kernel, abs=1e-4)
    assert m.minimizer(grid).values == pytest.approx(star.density.values, abs=1e-6)
    assert abs(m.gap(star.density)) < 1e-12
    # Shannon and chi^2: KL <= log(1 + chi^2).
    assert best.divergence < np.log1p(best.chi_square)


def test_energy_is_the_regularized_mean_square():
    m = KLRegularizedNetwork(*LINE, alpha=3.0, regularization=0.4, readout_scale=0.9, weight_scale=1.2)
    grid = m.grid(96)
    rho = wg.Density.gaussian(grid, [0.4, -0.3], [[0.7, 0.2], [0.2, 0.9]])
    mean, cov, prior = np.array([0.4, -0.3]), np.array([[0.7, 0.2], [0.2, 0.9]]), np.diag([0.81, 1.44])
    inverse = np.linalg.inv(prior)
    divergence = 0.5 * (np.trace(inverse @ cov) + mean @ inverse @ mean - 2
                        + np.log(np.linalg.det(prior @ np.linalg.inv(cov))))
    assert m.divergence(rho) == pytest.approx(divergence, abs=5e-3)  # averages over cells
    assert m.energy()(rho) == pytest.approx(m.risk(rho) + 0.4 * m.divergence(rho), rel=1e-12)
    gradient = inverse @ mean
    information = gradient @ gradient + np.trace((inverse - np.linalg.inv(cov)) @ cov @ (inverse - np.linalg.inv(cov)))
    assert m.fisher_information(rho) == pytest.approx(information, rel=1e-2)


def test_gap_is_primal_less_dual():
    m = KLRegularizedNetwork(*LINE, alpha=3.0, regularization=0.4)
    grid = m.grid(64)
    rho = wg.Density.gaussian(grid, [0.2, 0.1], [0.9, 1.1])
    nu = -m.residual(rho)  # 2 (f - y)/n with n = 2
    w, u = grid.mesh()[1], grid.mesh()[0]
    h = np.stack([np.logaddexp(0.0, x * w) for x in (1.0, -1.0)])
    log_prior = -0.5 * (u**2 + w**2) - np.log(2 * np.pi)
    partition = np.sum(grid.volumes * np.exp(log_prior - 3.0 / 0.4 * u * np.tensordot(nu, h, axes=1)))
    dual = -0.5 * nu @ nu - nu @ np.array([0.8, -0.4]) - 0.4 * np.log(partition)
    assert m.gap(rho) == pytest.approx(m.energy()(rho) - dual, rel=1e-9)
    assert m.energy()(rho) - m.minimum().value < m.gap(rho)


@pytest.mark.parametrize("regularization", [0.1, 1.0])
def test_floors_at_large_alpha(regularization):
    ratios = []
    for alpha in (32.0, 64.0, 128.0):
        m = model(alpha, regularization)
        best, floor = m.minimum(), m.kernel_floor()
        ratios.append((best.risk / floor.risk - 1.0, best.divergence / floor.divergence - 1.0,
                       np.max(np.abs(best.output - m.ridge_output())) * alpha**4))
    off = np.abs(np.array(ratios))
    assert np.all(off[2, :2] < 0.02 + 0.1 * (regularization > 0.5))
    np.testing.assert_allclose(off[1:, :2] / off[:-1, :2], 0.25, atol=0.03)  # the next order is 1/alpha^2
    np.testing.assert_allclose(off[2, 2], off[1, 2], rtol=0.1)


def test_the_first_move_is_that_of_the_kernel():
    m = KLRegularizedNetwork(*LINE, alpha=4.0, regularization=0.1)
    start, end = 0.0, 2e-4
    sol = wg.solve(m.energy(), m.initial_density(1.0, m.grid(128)), (start, end), wg.FiniteVolume(dt=2e-5))
    slope = (m.output(sol.final) - m.output(sol.densities[0])) / end
    expected = 2 * 16 / 2 * m.prior_kernel() @ m.y
    assert slope == pytest.approx(expected, rel=2e-2)
    assert (m.lazy_output(1e-6) - m.lazy_output(0.0)) / 1e-6 == pytest.approx(expected, rel=1e-3)


def test_flow_ends_at_the_minimum_below_its_envelope():
    m = KLRegularizedNetwork(*LINE, alpha=4.0, regularization=1.0)
    times = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0, 8.0])
    sol = wg.solve(m.energy(), m.initial_density(1.0, m.grid(96)), (0.0, 8.0), t_eval=times)
    assert sol.certificate.ok
    gaps = np.array([m.gap(rho) for rho in sol.densities])
    assert gaps[-1] < 1e-6
    assert sol.energy[-1] == pytest.approx(m.minimum().value, abs=1e-5)
    risks = np.array([m.risk(rho) for rho in sol.densities])
    floor = m.envelope_floor(sol.densities)
    assert np.all(risks <= m.envelope(times, floor))
    assert risks[-1] > m.envelope(8.0)  # the floor is needed
    # A start in the prior: without it the law has information to lose.
    assert m.fisher_information(sol.densities[0]) < 1e-3


def test_distance_to_the_kernel_limit_is_of_second_order_from_the_prior_and_of_first_in_general():
    """Readouts of odd third moment move the kernel by O(1/alpha); the prior, even in u, by O(1/alpha^2)."""

    def distances(alpha, skewed):
        m = KLRegularizedNetwork(*LINE, alpha=alpha, regularization=0.1)
        grid = m.grid(128, bounds=[(-6.0, 8.0), (-6.5, 6.5)])
        start = m.initial_density(1.0, grid)
        if skewed:
            halves = [wg.Density.gaussian(grid, [mean, 0.0], [0.25, 1.0]).values for mean in (-0.7, 1.4)]
            start = wg.Density(grid, (2.0 * halves[0] + halves[1]) / 3.0)
        times = np.linspace(0.0, 2.0 / alpha**2, 5)
        sol = wg.solve(m.energy(), start, (0.0, times[-1]), wg.FiniteVolume(rtol=1e-6), t_eval=times)
        kernels = np.array([m.kernel(rho) for rho in sol.densities])
        lazy = m.lazy_output(times, m.output(sol.densities[0]), kernels[0])
        outputs = np.array([m.output(rho) for rho in sol.densities])
        return np.max(np.abs(outputs - lazy)), np.max(np.linalg.norm(kernels - kernels[0], axis=(1, 2)))

    def orders(near, far, skewed):
        return np.log(np.divide(distances(far, skewed), distances(near, skewed))) / np.log(far / near)

    np.testing.assert_allclose(orders(2.0, 8.0, False), -2.0, atol=0.05)
    # The even part, of second order, is still felt at alpha = 32.
    assert -1.2 < orders(32.0, 64.0, True)[1] < -1.0


def exact_complexity(m, radius):
    """The complexities by all signs: for KL the supremum by its dual, for chi^2 the norm in L2(p_0)."""
    z = np.linspace(-8, 8, 161)
    p = np.exp(-0.5 * z * z)
    p /= p.sum()
    u, w = np.meshgrid(z, z, indexing="ij")
    prior, n = np.outer(p, p), m.n_samples
    h = m.alpha * u * m.activation(np.multiply.outer(m.x[:, 0], w)) / n
    kl, chi = [], []
    for signs in itertools.product((-1.0, 1.0), repeat=n):
        g = np.tensordot(signs, h, axes=1)

        def bound(log_eta, g=g):
            eta = np.exp(log_eta)
            top = np.max(eta * g)
            return (radius + top + np.log(np.sum(prior * np.exp(eta * g - top)))) / eta

        kl.append(minimize_scalar(bound, bounds=(-6.0, 3.0), method="bounded").fun)
        chi.append(np.sqrt(radius * np.sum(prior * g * g)))
    return np.mean(chi), np.mean(kl)


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_complexity_bounds_hold_and_are_of_the_right_size(radius):
    m = KLRegularizedNetwork([0.4, -1.0, 2.0, 3.0], [0.1, 0.2, 0.3, -0.4], Erf(), alpha=2.0)
    chi, kl = exact_complexity(m, radius)
    bounds = m.complexity_bounds(radius)
    assert chi < bounds.chi_square < 1.5 * chi
    assert kl < bounds.divergence < 3.0 * kl
    assert bounds.chi_square == pytest.approx(2.0 * np.sqrt(radius * np.trace(m.readout_kernel())) / 4)


def test_small_radii_give_the_square_root():
    m = model(3.0)
    assert m.complexity_bounds(1e-8).divergence == pytest.approx(3.0 * np.sqrt(2e-8 / 3), rel=1e-3)
    assert m.complexity_bounds(0.0) == (0.0, 0.0)


def test_atoms_have_outputs_and_kernels():
    m = KLRegularizedNetwork(0.4 * X, Y, alpha=2.0, readout_scale=0.7)
    atoms = m.initial_atoms(nodes=24)
    assert m.kernel(atoms) == pytest.approx(m.prior_kernel(), abs=1e-5)
    assert m.output(atoms) == pytest.approx(np.zeros(3), abs=1e-14)
    tilted = Atoms(atoms.points + 0.1, atoms.weights)
    assert m.risk(tilted) == pytest.approx(np.mean((m.output(tilted) - Y) ** 2))
    paired = m.draw(10, np.random.default_rng(3))
    assert m.output(Atoms(paired.T, np.full(10, 0.1))) == pytest.approx(np.zeros(3), abs=1e-15)


def test_inputs_of_many_dimensions_on_a_plane():
    """The dual sees the span of the inputs."""
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((7, 7)))[0][:2]
    wide = KLRegularizedNetwork(X @ turn, Y, alpha=4.0, regularization=0.1)
    assert wide.minimum().value == pytest.approx(model().minimum().value, abs=1e-12)
    assert wide.prior_kernel() == pytest.approx(model().prior_kernel(), abs=1e-12)


def test_rectifiers_settle_within_their_error():
    best = KLRegularizedNetwork([1.0, -0.7], [0.4, 0.3], ReLU(), 4.0, 0.1).minimum()
    line = KLRegularizedNetwork([1.0, -0.7], [0.4, 0.3], ReLU(), 4.0, 0.1)
    star = wg.stationary(line.energy(), line.grid(400))
    assert star.energy == pytest.approx(best.value, abs=1e-6)
    assert best.quadrature_error < 1e-6


@pytest.mark.parametrize(("make", "words"), [
    (lambda: model(regularization=0.0), "regularization"), (lambda: model(regularization=-0.1), "regularization"),
    (lambda: model(alpha=-1.0), "alpha"), (lambda: model(readout_scale=0.0), "readout_scale"),
    (lambda: model(weight_scale=np.nan), "weight_scale"),
    (lambda: KLRegularizedNetwork(X, Y[:2]), "y has shape"),
    (lambda: KLRegularizedNetwork(np.eye(4), np.ones(4)).grid(), "take atoms"),
    (lambda: KLRegularizedNetwork([[1.0], [1.0]], [0.1, 0.2]).kernel_floor(), "rank 1"),
    (lambda: KLRegularizedNetwork(X, Y, ReLU()).complexity_bounds(0.1), "not bounded"),
    (lambda: model().complexity_bounds(-1.0), "radius"), (lambda: model().minimum_risk(), "FiniteData"),
    (lambda: model().lazy_output([0.0], output0=[1.0]), "shapes"),
    (lambda: KLRegularizedNetwork(*LINE, 1.0).envelope_floor([KLRegularizedNetwork(*LINE, 1.0).initial_density(
        0.2, KLRegularizedNetwork(*LINE, 1.0).grid(128))]), "less than half"),
    (lambda: model().draw(3, np.random.default_rng(1)), "pairs"),
    (lambda: model().gap(wg.Density.uniform(wg.Grid((0, 1), cells=4))), "axes"),
])
def test_bad_input(make, words):
    with pytest.raises(wg.InvalidInput, match=words):
        make()


def test_a_divergent_partition_function_is_told():
    with pytest.raises(wg.ConvergenceError, match="bounded activation"):
        KLRegularizedNetwork([1.0], [60.0], ReLU(), alpha=0.5, regularization=0.1).minimum()


# ---------------------------------------------------------------- inputs that span many dimensions
@pytest.mark.parametrize(("alpha", "regularization"), [(4.0, 0.1), (1.0, 0.5), (16.0, 0.1)])
def test_scrambled_points_against_the_trapezoidal_rule(alpha, regularization):
    exact = model(alpha, regularization).minimum()
    found, _ = minimize_scrambled(Tanh(), X, span_of(X), Y, alpha, regularization, 1.0, 1.0)
    assert 0 < found.quadrature_error < 1e-5 * exact.value
    assert found.value == pytest.approx(exact.value, abs=4 * found.quadrature_error)
    assert found.risk == pytest.approx(exact.risk, rel=1e-3)
    np.testing.assert_allclose(found.output, exact.output, atol=1e-5)


@pytest.mark.parametrize("d", [4, 7])
def test_orthonormal_inputs_of_many_dimensions_by_products(d):
    """With s = c nu.h, E e^(s^2/2) = E_g prod_k E_w e^(c g nu_k h(w)): one outer and d inner integrals on a line."""
    rng = np.random.default_rng(d)
    x, y = np.linalg.qr(rng.standard_normal((d, d)))[0], rng.uniform(-1, 1, d)
    alpha, lam = 1.5, 0.4
    best = KLRegularizedNetwork(x, y, alpha=alpha, regularization=lam).minimum()
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def dual(nu):
        lines = [weights @ np.exp(alpha / lam * v * np.multiply.outer(np.tanh(z), z)) for v in nu]
        return -0.25 * d * nu @ nu - nu @ y - lam * np.log(weights @ np.prod(lines, axis=0))

    assert best.value == pytest.approx(dual(best.multipliers), abs=4 * best.quadrature_error)
    assert best.quadrature_error < 1e-4 * best.value
    assert best.gap < 1e-20
    assert dual(best.multipliers) > max(dual(factor * best.multipliers) for factor in (0.98, 1.02))


def test_a_law_that_no_points_hold_is_told():
    with pytest.raises(wg.errors.ConvergenceError, match=r"span 5 dimensions .* of which one holds"):
        KLRegularizedNetwork(np.eye(5), np.full(5, -20.0), ReLU(), alpha=1.0, regularization=0.05).minimum()


@pytest.mark.parametrize("own", [model(), KLRegularizedNetwork(*LINE, alpha=2.0, regularization=0.3)])
def test_check_model(own):
    report = wg.reduced_models.check_model(own, throw=False)
    assert report.passed, str(report)
    assert report["energy"].passed
    own.penalty = lambda rho: 1.1 * type(own).penalty(own, rho)
    assert wg.reduced_models.check_model(own, throw=False)["energy"].passed is False
