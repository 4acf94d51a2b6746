"""Particles with a mobility A(x): the weak order of a step of noise, moving solutions, states at rest, walls."""

import math

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import lsq_linear

import wgflow as wg
from wgflow.energies.mobility import Mobility
from wgflow.solvers.lagrangian.at_bounds import resting
from wgflow.solvers.lagrangian.mobile_noise import mobile_step, reflected
from wgflow.validation import exact, run_langevin

FREE = [(-math.inf, math.inf)] * 2


def grows(x):
    return 1 + x**2


def same(x):
    return x


# ---------------------------------------------------------------- one step of noise
def step_moments(h):
    """Mean and mean square after a step of noise from x = 0.6 with A = 1 + x^2, D = 0.5, by Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x = np.full((1, 40), 0.6)
    moved = mobile_step(x, Mobility(grows), 0.5, h, nodes[None], np.ones((1, 1, 40)), same, FREE[:1])[0]
    weights = weights / weights.sum()
    return np.array([weights @ moved, weights @ moved**2])


def test_a_step_of_noise_is_of_weak_order_2():
    """(E x)' = 2 D E x and (E x^2)' = 2 D + 6 D E x^2: a step of length h errs by h^3."""
    steps, gaps = np.array([0.1, 0.05, 0.025]), []
    for h in steps:
        right = np.array([0.6 * math.exp(h), -1 / 3 + (0.36 + 1 / 3) * math.exp(3 * h)])
        gaps.append(np.abs(step_moments(h) - right))
    orders = np.log2(np.array(gaps)[:-1] / np.array(gaps)[1:])
    assert orders.min() > 2.7


def test_a_step_of_noise_in_the_plane_is_of_weak_order_2():
    """Against exp(h G) f for f = x y and x^2, G f = D div(A grad f), which is closed on these polynomials."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(14)
    weights = weights / weights.sum()
    a, b, signs = np.meshgrid(nodes, nodes, [-1.0, 1.0], indexing="ij")
    w = (weights[:, None, None] * weights[None, :, None] * 0.5 * np.ones(2)).ravel()
    # A = [[1 + y^2, x y / 2], [x y / 2, 1 + x^2]], D = 1. On the even polynomials 1, x^2, y^2, x y it is closed:
    # G 1 = 0, G x^2 = 2 (1 + y^2) + x^2, G y^2 = 2 (1 + x^2) + y^2, G xy = 2 x y.
    mobility = Mobility([[lambda x, y: 1 + y**2, lambda x, y: 0.5 * x * y],
                         [lambda x, y: 0.5 * x * y, lambda x, y: 1 + x**2]])
    G = np.array([[0, 2, 2, 0], [0, 1, 2, 0], [0, 2, 1, 0], [0, 0, 0, 2.0]])
    start, gaps = np.array([0.5, -0.4]), []
    for h in (0.08, 0.04, 0.02):
        s = np.ones((2, 2, w.size))
        s[1, 0] = signs.ravel()
        points = mobile_step(np.repeat(start[:, None], w.size, axis=1), mobility, 1.0, h,
                             np.array([a.ravel(), b.ravel()]), s, same, FREE)
        x, y = points
        found = np.array([w @ x**2, w @ y**2, w @ (x * y)])
        basis = np.array([1.0, start[0] ** 2, start[1] ** 2, start[0] * start[1]])
        gaps.append(np.abs(found - (basis @ expm(h * G))[1:]))
    orders = np.log2(np.array(gaps)[:-1] / np.array(gaps)[1:])
    assert orders.min() > 2.6


def test_the_divergence_of_a_matrix():
    mobility = Mobility([[lambda x, y: 1 + y**2 * x, lambda x, y: 0.5 * x * y], [lambda x, y: 0.5 * x * y, 3.0]])
    points = np.array([[0.3, 0.5], [0.2, -0.4]])
    x, y = points
    np.testing.assert_allclose(mobility.divergence(points, FREE), [y**2 + 0.5 * x, 0.5 * y], rtol=1e-9)


def test_a_reflected_point_moves_along_the_conormal():
    A = Mobility([[1.0, 0.5], [0.5, 2.0]])
    out = reflected(np.array([[-0.1, 0.3], [0.4, 0.4]]), A, same, [(0.0, math.inf), (-math.inf, math.inf)])
    np.testing.assert_allclose(out, [[0.1, 0.3], [0.4 + 0.1, 0.4]])


# ---------------------------------------------------------------- whole runs
def test_moments_of_a_moving_law():
    """A = 1 + x^2 and V = 8 log(1 + x^2): both moments in closed form."""
    problem = exact.MobilityWell()
    rho = problem.initial_density(problem.grid(200))
    run = run_langevin(problem.energy(), rho, 20_000, [0.0, 0.05], rng=11, n_runs=2, mobility=problem.mobility)
    x = run.coordinates[:, 1].ravel()
    right = problem.quantities(0.05)
    for values, name in ((x, "mean"), (x**2, "second_moment")):
        assert abs(values.mean() - right[name]) < 4.5 * values.std() / math.sqrt(x.size)


def test_the_law_at_rest_does_not_depend_on_the_mobility():
    """The Gibbs law of a double well: without the drift div A it would be exp(-V)/A."""
    grid = wg.Grid((-3, 3), cells=300)
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2, gradient=lambda x: x**3 - x)
    star = wg.stationary(energy, grid).density
    run = run_langevin(energy, star, 20_000, [0.0, 1.0], rng=3, dt=0.02, mobility=lambda x: 0.3 + np.exp(-2 * x**2))
    x = run.coordinates[0, 1].ravel()
    for power in (2, 4):
        right = star.expect(lambda z, power=power: z**power)
        assert abs((x**power).mean() - right) < 4.5 * (x**power).std() / math.sqrt(x.size)
    wrong = np.average(grid.centers[0] ** 2, weights=star.masses / (0.3 + np.exp(-2 * grid.centers[0] ** 2)))
    assert abs((x**2).mean() - wrong) > 10 * (x**2).std() / math.sqrt(x.size)


def test_a_uniform_law_stays_between_walls_with_a_matrix():
    grid = wg.Grid([(0, 1), (0, 1)], cells=(20, 20), boundary="no-flux")
    run = run_langevin(1.0 * wg.Entropy(1.0), wg.Density.uniform(grid), 20_000, [0.0, 0.1], rng=5, dt=1e-3,
                       mobility=((1.0, 0.6), (0.6, 0.8)))
    x, y = run.coordinates[0, 1].T
    for values, right in ((x, 0.5), (x * y, 0.25), (x**2, 1 / 3), ((x - 0.5) * (y - 0.5), 0.0)):
        # Reflected steps of a finite length have an error of their own at walls.
        assert abs(values.mean() - right) < 4.5 * values.std() / math.sqrt(x.size) + 2e-3


def test_compare_knows_particles_with_the_mobility_and_without():
    grid = wg.Grid((-4, 4), cells=160)
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
    rho, times = wg.Density.gaussian(grid, 1.0, 0.1), [0.1, 0.3]
    sol = wg.solve(energy, rho, (0, 0.3), t_eval=times, mobility=lambda x: 0.5 + x**2)
    right = run_langevin(energy, rho, 4000, times, rng=1, n_runs=3, mobility=lambda x: 0.5 + x**2)
    wrong = run_langevin(energy, rho, 4000, times, rng=1, n_runs=3)
    assert wg.validation.compare(sol, right).passed
    assert not wg.validation.compare(sol, wrong).passed


def test_characteristics_follow_the_mobility():
    x0 = np.array([0.5, 1.0, 2.0])
    sol = wg.solve(1.0 * wg.Potential(lambda x: x**2 / 2), wg.Atoms(x0[None], np.ones(3) / 3), (0, 1), wg.Lagrangian(),
                   mobility=grows)
    u = np.exp(-1) * x0 / np.sqrt(1 + x0**2)
    np.testing.assert_allclose(sol.final.points[0], u / np.sqrt(1 - u**2), rtol=1e-8)
    assert sol.certificate.verdict == "holds"
    A = np.array([[1.0, 0.4], [0.4, 0.6]])
    bowl = 1.0 * wg.Potential(lambda x, y: x**2 / 2 + y**2)
    plane = wg.solve(bowl, wg.Atoms(np.array([[1.0], [0.5]]), [1.0]), (0, 1), wg.Lagrangian(), mobility=A)
    np.testing.assert_allclose(plane.final.points[:, 0], expm(-A @ np.diag([1.0, 2.0])) @ [1.0, 0.5], rtol=1e-7)


def test_atoms_that_come_to_a_bound():
    atoms = wg.Atoms(np.array([[0.5], [0.5]]), [1.0], [(0.0, 1.0), (0.0, 1.0)])
    slope = 1.0 * wg.Potential(lambda x, y: x + 0 * y)
    sol = wg.solve(slope, atoms, (0, 2), wg.Lagrangian(), mobility=(1.0, 0.5))
    assert sol.final.points[:, 0] == pytest.approx([0.0, 0.5])


@pytest.mark.slow
def test_bounds_and_mixed_terms():
    """Along a wall of x the projected velocity has the mobility A_yy - A_xy^2 / A_xx, and forces on x do nothing."""
    A, walls = ((2.0, 1.0), (1.0, 2.0)), [(0.0, 3.0), (-9.0, 9.0)]
    x, y = np.array([0.2, 0.9]), np.array([-1.0, 0.5])
    atoms = wg.Atoms(np.array([x, y]), [0.4, 0.6], walls)
    sol = wg.solve(1.0 * wg.Potential(lambda x, y: x + 0 * y), atoms, (0, 2), wg.Lagrangian(), mobility=A)
    np.testing.assert_allclose(sol.final.points, [np.zeros(2), y - x / 2], atol=1e-7)
    sol = wg.solve(1.0 * wg.Potential(lambda x, y: x + y), atoms, (0, 2), wg.Lagrangian(), mobility=A)
    np.testing.assert_allclose(sol.final.points, [np.zeros(2), y - x - 1.5 * (2 - x / 3)], atol=1e-7)
    assert sol.certificate.max_energy_increase == 0
    assert sol.certificate.dissipation_defect < 1e-5
    # Diagonal matrices written as full ones change nothing.
    full, own = (wg.solve(1.0 * wg.Potential(lambda x, y: x + y**2), atoms, (0, 2), wg.Lagrangian(), mobility=m).final
                 for m in (((1.0, 1e-300), (1e-300, 0.5)), (1.0, 0.5)))
    np.testing.assert_allclose(full.points, own.points, atol=1e-7)


@pytest.mark.slow
def test_atoms_leave_a_bound_with_mixed_terms():
    """At a minimum inside atoms end, also where the way leads along the wall; pressed into a corner they stay there."""
    A, walls = ((1.0, 0.9), (0.9, 1.0)), [(0.0, 3.0), (-5.0, 5.0)]
    valley = 1.0 * wg.Potential(lambda x, y: (x + 0.5 * np.cos(y)) ** 2 / 2 + (y - 2) ** 2 / 2)
    atoms = wg.Atoms(np.array([[1.0, 0.2], [-1.0, 1.0]]), [0.6, 0.4], walls)
    sol = wg.solve(valley, atoms, (0, 60), wg.Lagrangian(), mobility=A)
    np.testing.assert_allclose(sol.final.points, np.array([[-0.5 * math.cos(2)] * 2, [2.0] * 2]), atol=1e-3)
    corner = wg.solve(1.0 * wg.Potential(lambda x, y: x + y), atoms, (0, 40), wg.Lagrangian(), mobility=A)
    np.testing.assert_allclose(corner.final.points, np.array([[0.0] * 2, [-5.0] * 2]), atol=1e-7)


def test_held_velocities_solve_the_quadratic_program(rng):
    """Against the nearest velocity in the metric of A^-1, found by least squares with bounds."""
    for d in (2, 3, 4):
        roots = rng.standard_normal((40, d, d)) + 0.5 * np.eye(d)
        force = rng.standard_normal((d, 40))
        low, high = rng.random((d, 40)) < 0.4, rng.random((d, 40)) > 0.7
        high &= ~low
        held, velocity = resting(np.einsum("nij,nkj->ikn", roots, roots), force, low, high)
        for k, root in enumerate(roots):
            ends = (np.where(low[:, k], 0.0, -np.inf), np.where(high[:, k], 0.0, np.inf))
            inverse = np.linalg.inv(root)
            nearest = lsq_linear(inverse, root.T @ force[:, k], ends, method="bvls", tol=1e-14).x
            np.testing.assert_allclose(velocity[:, k], nearest, atol=1e-6 * (1 + np.abs(nearest).max()))
            assert (velocity[held[:, k], k] == 0).all()


def test_a_radius_with_a_mobility_is_refused():
    atoms = wg.Atoms(np.array([[0.5, 1.0]]), [0.5, 0.5], [(0.0, math.inf)], [2.0])
    with pytest.raises(wg.InvalidInput, match="reference measure"):
        wg.solve(wg.Entropy(1.0) + wg.Potential(lambda r: r**2), atoms, (0, 1), wg.Lagrangian(rng=1), mobility=2.0)
