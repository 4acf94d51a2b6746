"""The Lagrangian method: exact solutions, the models' reference flows, finite volumes, noise, and what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.atoms import Atoms
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models.radial_laws import chi_rule
from wgflow.solvers.lagrangian import Lagrangian
from wgflow.solvers.lagrangian.langevin import fold
from wgflow.validation import compare, run_sgd
from wgflow.validation.comparison.atom_laws import AtomLaws
from wgflow.validation.distances import wasserstein_1d


def cloud(n, seed, ndim=1, **more):
    rng = np.random.default_rng(seed)
    return Atoms(rng.normal(size=(ndim, n)), rng.random(n) + 0.01, **more)


def gauss_hermite(mean, deviation, n):
    """A product rule for a normal law with independent coordinates."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    mesh = np.meshgrid(*[m + s * x for m, s in zip(mean, deviation)], indexing="ij")
    weights = np.ones(1)
    for _ in mean:
        weights = np.multiply.outer(weights, w / w.sum())
    return Atoms([a.ravel() for a in mesh], weights.ravel())


def radial(model, kappa, n):
    x, w = chi_rule(model.d, n)
    return Atoms(kappa * x / math.sqrt(model.d), w, ((0, math.inf),), (model.d - 1.0,), ("r",))


# -------------------------------------------------------------------- exact solutions
S, B, RIDGE, NOISE2 = np.array([2.0, 0.5]), np.array([1.0, -1.0]), 0.7, 0.3
START, VARIANCE = np.array([-1.0, 2.0]), 0.2


def linear_neuron(beta=math.inf):
    """y = <b, x> + noise, x ~ N(0, diag S), one linear neuron: F = R/2 + ridge/2 |theta|^2 (+ entropy)."""
    second_moment = float(B @ (S * B)) + NOISE2

    def V(x, y):
        return -S[0] * B[0] * x - S[1] * B[1] * y + RIDGE / 2 * (x * x + y * y) + second_moment / 2

    def gradient(x, y):
        return np.array([-S[0] * B[0] + RIDGE * x, -S[1] * B[1] + RIDGE * y])

    root = np.sqrt(S)
    slopes = np.array([[root[0], 0.0], [0.0, root[1]]])
    terms = wg.Potential(V, gradient) + wg.LowRank(lambda x, y: np.array([root[0] * x, root[1] * y]), None,
                                                   lambda x, y: slopes[:, :, None] + 0 * x)
    return terms + wg.Entropy(beta)


def linear_neuron_mean(t):
    rate = S + RIDGE
    star = S * B / rate
    return star + (START - star) * np.exp(-2 * rate * t)


def test_linear_neuron_without_noise():
    times = [0.0, 0.1, 0.5, 2.0]
    sol = wg.solve(linear_neuron(), gauss_hermite(START, [math.sqrt(VARIANCE)] * 2, 4), (0, 2),
                   method=Lagrangian(rtol=1e-11), t_eval=times, time_scale=2.0)
    table = {0.1: (-0.27367288, 1.48435066), 0.5: (0.62375337, 0.31121935), 2.0: (0.74070523, -0.39677811)}
    for t, rho, energy in zip(times, sol.densities, sol.energy):
        mean = linear_neuron_mean(t)
        c = VARIANCE * math.exp(-4 * RIDGE * t)
        assert rho.mean() == pytest.approx(mean, abs=1e-9)
        if t in table:
            assert rho.mean() == pytest.approx(table[t], abs=6e-9)
        assert rho.cov() == pytest.approx(c * np.eye(2), abs=1e-9)
        risk = float((mean - B) @ (S * (mean - B))) + NOISE2
        assert energy == pytest.approx(risk / 2 + RIDGE / 2 * (mean @ mean + 2 * c), rel=1e-9)
    # -dF/dt = 2 D with D the mean square of the linear velocity.
    gradient = (S + RIDGE) * START - S * B
    assert sol.dissipation[0] == pytest.approx(gradient @ gradient + 2 * VARIANCE * RIDGE**2, rel=1e-10)
    assert sol.certificate.ok
    assert sol.certificate.dissipation_defect < 1e-8


@pytest.mark.parametrize("ode", ["DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA"])
def test_quadratic_attraction_contracts_about_the_mean(ode):
    rho0 = cloud(7, 21)
    tolerance = 1e-5 if ode == "RK23" else 1e-7
    sol = wg.solve(wg.Convolution(lambda x: 0.4 * x * x, lambda x: 0.8 * x), rho0, (0, 1.5),
                   method=Lagrangian(rtol=tolerance / 100, ode=ode), t_eval=[0.5, 1.5])
    mean, mass = rho0.mean(), rho0.mass
    for t, rho in zip(sol.t, sol.densities):
        exact = mean + (rho0.points - mean) * math.exp(-0.8 * mass * t)
        assert rho.points == pytest.approx(exact, abs=tolerance)
    assert sol.certificate.ok


def test_eighth_order_is_reached():
    """Fixed largest steps: the error of the drift x' = -sin x, of a known flow, falls like dt^8 or faster."""
    rho0, errors, steps = Atoms([[0.3, 1.0, 2.5]], [1, 1, 1]), [], np.array([0.8, 0.56, 0.4, 0.28])
    exact = 2 * np.arctan(np.tan(rho0.points / 2) * math.exp(-3.0))
    for dt in steps:
        sol = wg.solve(wg.Potential(lambda x: -np.cos(x), np.sin), rho0, (0, 3), method=Lagrangian(rtol=0.9, dt=dt))
        errors.append(np.abs(sol.final.points - exact).max())
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] > 7.0


def test_differences_serve_where_no_gradient_is_given():
    rho0 = cloud(20, 22, ndim=2)
    with_gradient = wg.Potential(lambda x, y: np.cos(x) * y**2, lambda x, y: np.array([-np.sin(x) * y**2,
                                                                                      2 * y * np.cos(x)]))
    without = wg.Potential(with_gradient.V)
    a, b = (wg.solve(e, rho0, (0, 0.5), method=Lagrangian()).final for e in (with_gradient, without))
    assert a.points == pytest.approx(b.points, abs=1e-8)


# -------------------------------------------------------------------- reference flows of the models
def isotropic(**more):
    return wg.reduced_models.IsotropicGaussian(**{"d": 40, "tau_plus2": 1.8, "tau_minus2": 0.2} | more)


@pytest.mark.parametrize("n", [48, 80])
def test_isotropic_flow(n):
    model = isotropic()
    sol = wg.solve(model.energy(), radial(model, 0.8, n), (0, 3), method=Lagrangian(), t_eval=[0, 0.1, 1, 3],
                   time_scale=2.0)
    assert 2 * sol.energy == pytest.approx([2.3848899178, 0.93594332, 0.05992200, 0.04543994], abs=6e-9)
    assert [rho.mean() for rho in sol.densities[:3]] == pytest.approx([0.7950161, 1.1659538, 1.8877332], abs=6e-8)
    assert [model.risk(rho) for rho in sol.densities] == pytest.approx(2 * sol.energy, rel=1e-9)
    assert sol.certificate.ok
    assert sol.certificate.max_energy_increase == 0.0
    assert sol.certificate.dissipation_defect < 1e-7


def test_isotropic_flow_in_the_limit_of_infinite_dimension():
    model = isotropic(d=np.inf)
    sol = wg.solve(model.energy(), Atoms([0.8], [1.0], ((0, math.inf),)), (0, 0.1), method=Lagrangian(), time_scale=2.0)
    assert 2 * sol.energy[-1] == pytest.approx(0.893211009, abs=6e-10)


def failing_model():
    return wg.reduced_models.IsotropicGaussian(d=320, tau_plus2=1.5, tau_minus2=0.5,
                                               activation=wg.activations.NonMonotone())


@pytest.mark.slow
def test_failing_flow_comes_to_rest_at_exactly_zero():
    model = failing_model()
    sol = wg.solve(model.energy(), radial(model, 0.1, 48), (0, 0.05), method=Lagrangian(rtol=1e-7), time_scale=2.0,
                   t_eval=[0, 0.01, 0.03, 0.05])
    assert 2 * sol.energy[:2] == pytest.approx([7.9037593978, 7.469337], abs=6e-7)
    assert (sol.final.points == 0.0).all()
    assert 2 * sol.energy[2:] == pytest.approx(7.25, abs=1e-12)
    assert sol.dissipation[-1] == 0.0
    assert sol.certificate.ok
    assert sol.certificate.boundary_mass == 0.0  # the origin of a radius is no artificial bound


def test_flow_that_does_not_fail_reaches_the_plateau():
    model = failing_model()
    sol = wg.solve(model.energy(), radial(model, 0.4, 48), (0, 10), method=Lagrangian(rtol=1e-7), time_scale=2.0,
                   t_eval=[0, 10])
    assert 2 * sol.energy[0] == pytest.approx(7.7654952069, abs=1e-9)
    assert 0.17 < 2 * sol.energy[1] < 0.19
    assert sol.final.points.min() > 0.2


def test_relu_network_in_four_coordinates():
    model = wg.reduced_models.ReLUNetwork(d=320, s0=60, delta=0.4)
    sol = wg.solve(model.energy(), model.initial_atoms(0.8, 12), (0, 1), method=Lagrangian(), t_eval=[0, 1],
                   time_scale=2.0)
    assert 2 * sol.energy == pytest.approx([2.07196437, 1.03780929], abs=6e-9)
    assert sol.final.mean() == pytest.approx([0.342487, 0.528073, 0.336843, 0.602758], abs=6e-7)


# -------------------------------------------------------------------- invariants
def network(seed, ndim):
    """A random energy with an indefinite low-rank interaction, growing at infinity."""
    rng = np.random.default_rng(seed)
    k, signs = rng.normal(size=(4, ndim)), rng.normal(size=4)

    def V(*x):
        r2 = sum(c * c for c in x)
        return r2 * r2 / 8 + sum(np.cos(2 * c) for c in x)

    return wg.Potential(V) + wg.LowRank(lambda *x: np.cos(np.tensordot(k, np.array(x), 1)), signs)


@settings(max_examples=15)
@given(st.integers(1, 2**31), st.integers(1, 3), st.integers(1, 25), st.sampled_from(["DOP853", "RK45", "LSODA"]))
def test_energy_falls_and_mass_stays(seed, ndim, n, ode):
    energy, rho0 = network(seed, ndim), cloud(n, seed, ndim)
    sol = wg.solve(energy, rho0, (0, 0.5), method=Lagrangian(rtol=1e-6, ode=ode))
    wg.testing.assert_energy_decays(sol)
    assert all(np.array_equal(rho.weights, rho0.weights) for rho in sol.densities)
    assert sol.certificate.mass_drift == 0.0
    assert sol.certificate.ok
    assert energy(sol.final) == sol.energy[-1]


@pytest.mark.slow
@settings(max_examples=10)
@given(st.integers(1, 2**31))
def test_order_of_the_atoms_does_not_matter(seed):
    energy, rho0 = network(seed, 2), cloud(12, seed, 2)
    order = np.random.default_rng(17).permutation(12)
    a = wg.solve(energy, rho0, (0, 0.4), method=Lagrangian()).final
    b = wg.solve(energy, Atoms(rho0.points[:, order], rho0.weights[order]), (0, 0.4), method=Lagrangian()).final
    assert b.points == pytest.approx(a.points[:, order], abs=1e-8)


def test_splitting_an_atom_in_two_changes_nothing():
    energy, rho0 = network(5, 1), cloud(6, 23)
    split = Atoms(np.append(rho0.points, rho0.points[:, :1], axis=1),
                  np.append(rho0.weights, 0.3 * rho0.weights[0]) * np.array([0.7] + [1.0] * 6))
    a, b = (wg.solve(energy, rho, (0, 1), method=Lagrangian(rtol=1e-11)).final for rho in (rho0, split))
    assert b.points[:, :6] == pytest.approx(a.points, abs=1e-9)


def test_time_scale_is_a_clock():
    energy, rho0 = network(6, 1), cloud(5, 24)
    slow = wg.solve(energy, rho0, (0, 1), method=Lagrangian(), t_eval=[1]).final
    fast = wg.solve(energy, rho0, (0, 0.5), method=Lagrangian(), t_eval=[0.5], time_scale=2.0).final
    end = math.sqrt(2) - 1  # where 2 t + t^2 = 1
    varying = wg.solve(energy, rho0, (0, end), method=Lagrangian(), time_scale=lambda t: 2 * (1 + t)).final
    assert fast.points == pytest.approx(slow.points, abs=1e-8)
    assert varying.points == pytest.approx(slow.points, abs=1e-8)


# -------------------------------------------------------------------- bounds and circles
def test_atoms_stay_on_a_bound_and_leave_it_again():
    """V = x + 2 y (x - 2) with y >= 0: y is pressed on its bound while x > 2, and pulled off it afterwards."""
    energy = wg.Potential(lambda x, y: x + 0 * y + 2 * y * (x - 2), lambda x, y: np.array([1 + 2 * y, 2 * (x - 2)]))
    rho = Atoms([[4.0], [1.0]], [1.0], bounds=((-math.inf, math.inf), (0.0, math.inf)))
    sol = wg.solve(energy, rho, (0, 4), method=Lagrangian(rtol=1e-11), t_eval=np.linspace(0, 4, 81))
    path = np.array([r.points[:, 0] for r in sol.densities])
    # y' = -2 (x - 2) takes it down to 0, where x' = -1.
    held = path[:, 1] == 0.0
    assert held.any()
    first, last = np.flatnonzero(held)[[0, -1]]
    assert held[first:last + 1].all()
    assert np.diff(path[first:last + 1, 0]) == pytest.approx(-0.05, abs=1e-9)
    assert path[last, 0] >= 2.0 - 1e-9 > path[last + 1, 0]
    # After leaving at x = 2: with u = x - 2, u' = -1 - 2 y, y' = -2 u: u = -sinh(2 s) / 2, y = (cosh 2s - 1) / 2.
    begin = sol.t[last] + (path[last, 0] - 2.0)
    s = sol.t[last + 1:] - begin
    assert path[last + 1:, 1] == pytest.approx((np.cosh(2 * s) - 1) / 2, rel=1e-6)
    assert path[last + 1:, 0] - 2 == pytest.approx(-np.sinh(2 * s) / 2, rel=1e-6)
    assert sol.certificate.ok


def test_both_ends_of_an_interval_hold():
    rho0 = Atoms([[-0.5, 0.0, 0.5]], [1, 1, 2], bounds=((-1, 1),))
    sol = wg.solve(wg.Potential(lambda x: -x * x / 2, lambda x: -x), rho0, (0, 5), method=Lagrangian())
    assert sol.final.points[0] == pytest.approx([-1.0, 0.0, 1.0], abs=1e-15)
    assert sol.certificate.boundary_mass == pytest.approx(0.5)
    assert sol.certificate.ok


def test_circle():
    grid = wg.Grid((0, 2 * math.pi), cells=40, boundary="periodic")
    rho0 = wg.Density.from_function(grid, lambda x: 1 + 0.5 * np.cos(x))
    energy = wg.Potential(lambda x: np.cos(x - 6.0), lambda x: -np.sin(x - 6.0))
    sol = wg.solve(energy, rho0, (0, 3), method=Lagrangian(rtol=1e-10), t_eval=[0, 1.5, 3])
    start = sol.densities[0].points[0]
    well = 6.0 + math.pi
    for t, rho in zip(sol.t, sol.densities):
        assert ((rho.points >= 0) & (rho.points <= 2 * math.pi)).all()
        exact = well + 2 * np.arctan(np.tan((start - well) / 2) * math.exp(-t))
        gap = np.exp(1j * rho.points[0]) - np.exp(1j * exact)
        assert np.abs(gap).max() < 1e-7


# -------------------------------------------------------------------- against finite volumes
def double_well():
    return (wg.Potential(lambda x: (x * x - 1) ** 2 / 4, lambda x: x**3 - x)
            + wg.LowRank(lambda x: np.array([1 + x * x, 1 - x * x, x]), [0.15, -0.15, -0.6],
                         lambda x: np.array([2 * x, -2 * x, 1 + 0 * x])))


def test_finite_volumes_agree_on_the_line():
    gaps = []
    for cells in (100, 200, 400):
        rho0 = wg.Density.gaussian(wg.Grid((-2.5, 3), cells=cells), 0.3, 0.25)
        grid = wg.solve(double_well(), rho0, (0, 0.8), t_eval=[0.8]).final
        atoms = wg.solve(double_well(), rho0, (0, 0.8), method=Lagrangian(), t_eval=[0.8]).final
        gaps.append(wasserstein_1d(grid, AtomLaws(atoms, False).marginals[0].law))
    scale = math.sqrt(atoms.cov())
    assert gaps[-1] < 1e-3 * scale
    assert gaps[0] > 2.5 * gaps[1] > 2.5**2 * gaps[2]


@pytest.mark.slow
def test_finite_volumes_agree_in_the_plane():
    def V(x, y):
        return (x * x - 1) ** 2 / 8 + 0.4 * y * y + 0.25 * x * y

    zero = np.zeros_like
    energy = wg.Potential(V, lambda x, y: np.array([x * (x * x - 1) / 2 + 0.25 * y, 0.8 * y + 0.25 * x])) + wg.LowRank(
        lambda x, y: np.array([1 + x * x + y * y, 1 - x * x - y * y, x, y]), [0.05, -0.05, -0.2, -0.2],
        lambda x, y: np.array([[2 * x, 2 * y], [-2 * x, -2 * y], [1 + zero(x), zero(x)], [zero(x), 1 + zero(x)]]))
    worst = []
    for cells in (54, 108, 216):
        rho0 = wg.Density.gaussian(wg.Grid([(-3.4, 3.8), (-3.2, 3.2)], cells=cells), [0.2, 0.1], [0.3, 0.25])
        grid = wg.solve(energy, rho0, (0, 0.6), t_eval=[0.6]).final
        atoms = wg.solve(energy, rho0, (0, 0.6), t_eval=[0.6], method=Lagrangian(rtol=1e-5)).final
        gaps = [wasserstein_1d(grid.marginal(k), atoms.marginal(k)) for k in (0, 1)]
        # Directions in which the atoms, one a cell, do not hide behind one another.
        gaps += [_projected_distance(grid, atoms, part * math.pi) for part in (0.13, 0.3, 0.81)]
        worst.append(max(gaps) / math.sqrt(np.trace(atoms.cov())))
    assert worst[-1] < 1e-3
    assert worst[0] > 3 * worst[1] > 3 * 2 * worst[2]


def _projected_distance(rho, atoms, angle, parts=8):
    """W2 between the projections on a direction, which is at most the one in the plane."""
    direction = np.array([math.cos(angle), math.sin(angle)])
    inside = (np.arange(parts) + 0.5) / parts - 0.5
    shifts = (h[0] * s for h, s in zip(rho.grid.widths, np.meshgrid(inside, inside, indexing="ij")))
    places = sum(d * (c[..., None, None] + s) for d, c, s in zip(direction, rho.grid.mesh(), shifts))
    return wasserstein_1d(places.ravel(), direction @ atoms.points,
                          a_weights=np.repeat(rho.masses.ravel(), parts**2), b_weights=atoms.weights)


# -------------------------------------------------------------------- noise
def harmonic(beta):
    return wg.Entropy(beta) + wg.Potential(lambda *x: sum(c * c for c in x) / 2, lambda *x: np.array(x))


def test_noise_alone_is_exact_for_any_step():
    """Without a drift one step is the exact law: Brownian motion, the Bessel process, reflection at a wall."""
    n, beta, t = 200_000, 2.0, 0.7
    rho0 = Atoms(np.tile([[0.4], [0.4], [0.4]], n), np.full(n, 1 / n), ((-math.inf, math.inf), (0, math.inf),
                                                                       (0, math.inf)), (0, 4, 0))
    flat = wg.Entropy(beta) + wg.Potential(lambda x, y, z: 0 * x, lambda x, y, z: np.zeros((3, x.size)))
    for dt in (0.7, 0.1):
        x, r, y = wg.solve(flat, rho0, (0, t), method=Lagrangian(rng=7, dt=dt)).final.points
        variance = 2 * t / beta
        assert x.mean() == pytest.approx(0.4, abs=4 * math.sqrt(variance / n))
        assert x.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
        # E r^2 = r0^2 + d variance, and its fluctuation, with d = 5.
        assert (r**2).mean() == pytest.approx(0.16 + 5 * variance, abs=4 * (r**2).std() / math.sqrt(n))
        assert (r**2).var() == pytest.approx(2 * 5 * variance**2 + 4 * 0.16 * variance, rel=0.03)
        assert r.min() > 0
        s = math.sqrt(variance)
        folded = s * math.sqrt(2 / math.pi) * math.exp(-0.08 / variance) + 0.4 * math.erf(0.4 / (s * math.sqrt(2)))
        assert y.mean() == pytest.approx(folded, abs=4 * s / math.sqrt(n))


@pytest.mark.slow
def test_weak_order_two():
    """Ornstein-Uhlenbeck from a point: the variance is right up to an error that falls with the square of the step."""
    n, beta = 1_000_000, 2.0
    exact = (1 - math.exp(-2)) / beta
    errors = []
    for dt in (0.5, 0.25):
        rho0 = Atoms(np.full((1, n), 2.0), np.full(n, 1 / n))
        rho = wg.solve(harmonic(beta), rho0, (0, 1), method=Lagrangian(rng=11, dt=dt)).final
        errors.append((rho.mean() - 2 * math.exp(-1), rho.cov() - exact))
    spread = math.sqrt(exact / n)
    for (coarse, fine), band in zip(zip(*errors), (4 * spread, 4 * exact * math.sqrt(2 / n))):
        assert coarse > 10 * band  # the bias of the coarse step is seen
        assert 3.0 < coarse / fine < 5.7


def test_linear_neuron_with_noise_inside_statistical_bands():
    n, beta, t = 40_000, 3.0, 0.5
    rng = np.random.default_rng(31)
    rho0 = Atoms(START[:, None] + math.sqrt(VARIANCE) * rng.standard_normal((2, n)), np.full(n, 1 / n))
    sol = wg.solve(linear_neuron(beta), rho0, (0, t), method=Lagrangian(rng=13, dt=0.01), t_eval=[0.1, t],
                   time_scale=2.0)
    for time, expected, rho in zip((0.1, t), (0.26745020, 0.40808274), sol.densities):
        variance = 1 / (beta * RIDGE) + (VARIANCE - 1 / (beta * RIDGE)) * math.exp(-4 * RIDGE * time)
        assert variance == pytest.approx(expected, abs=6e-9)
        assert np.diag(rho.cov()) == pytest.approx([variance] * 2, rel=4 * math.sqrt(2 / n) + 2e-3)
        assert rho.mean() == pytest.approx(linear_neuron_mean(time), abs=4 * math.sqrt(variance / n) + 2e-3)
    assert sol.certificate.ok
    assert sol.certificate.noisy


def test_radial_equilibrium():
    """exp(-beta r^2 / 2) r^(d-1): E r^2 = d / beta. Without the drift of the measure it would be 1 / beta."""
    n, d, beta = 20_000, 40, 5.0
    rho0 = Atoms(np.full((1, n), 2.0), np.full(n, 1 / n), powers=(d - 1,))
    rho = wg.solve(harmonic(beta), rho0, (0, 4), method=Lagrangian(rng=17, dt=0.05)).final
    assert rho.expect(np.square) == pytest.approx(d / beta, abs=4 * math.sqrt(2 * d / n) / beta + 0.01)


def test_particles_of_a_density_agree_with_finite_volumes():
    grid = wg.Grid((-3, 3), cells=200)
    rho0 = wg.Density.gaussian(grid, 0.4, 0.2)
    energy = double_well() + wg.Entropy(4.0)
    exact = wg.solve(energy, rho0, (0, 1), t_eval=[1.0]).final
    sol = wg.solve(energy, rho0, (0, 1), t_eval=[1.0], method=Lagrangian(rng=19, n_particles=4000, dt=0.02))
    n, deviation = 4000, math.sqrt(exact.cov())
    assert sol.final.size == n
    assert sol.final.mean() == pytest.approx(exact.mean(), abs=4 * deviation / math.sqrt(n))
    assert sol.final.cov() == pytest.approx(exact.cov(), rel=4 * math.sqrt(2 / n))
    own = np.random.default_rng(5)
    null = [wasserstein_1d(exact, exact.sample(n, own)) for _ in range(30)]
    assert wasserstein_1d(exact, sol.final) < np.mean(null) + 4 * np.std(null)


def test_seeds():
    rho0 = wg.Density.gaussian(wg.Grid((-4, 4), cells=50), 0.0, 0.5)

    def run(rng):
        return wg.solve(harmonic(2.0), rho0, (0, 0.3), method=Lagrangian(rng=rng, n_particles=50, dt=0.1))

    a, b, c = run(7), run(7), run(9)
    assert a.final == b.final
    assert not np.array_equal(a.final.points, c.final.points)
    assert run(np.random.default_rng(7)).final.size == 50
    assert a.certificate.settings["rng"] == 7


def test_weights_are_kept_and_particles_can_be_drawn_from_atoms():
    rho0 = Atoms([[0.0, 1.0]], [0.25, 0.75])
    kept = wg.solve(harmonic(2.0), rho0, (0, 0.1), method=Lagrangian(rng=7)).final
    assert kept.weights.tolist() == [0.25, 0.75]
    drawn = wg.solve(harmonic(2.0), rho0, (0, 0.1), method=Lagrangian(rng=7, n_particles=400)).final
    assert drawn.size == 400
    assert drawn.mass == pytest.approx(1.0)


@settings(max_examples=50)
@given(st.floats(-50, 50), st.floats(-3, 3), st.floats(0.1, 4))
def test_folding_reflects_as_often_as_it_takes(x, lo, width):
    hi, y = lo + width, x
    for _ in range(2000):
        if lo <= y <= hi:
            break
        y = 2 * lo - y if y < lo else 2 * hi - y
    assert fold(np.array([x]), lo, hi)[0] == pytest.approx(y, abs=1e-9)
    assert fold(np.array([x]), lo, math.inf)[0] == pytest.approx(lo + abs(x - lo))
    assert fold(np.array([x]), -math.inf, hi)[0] == pytest.approx(hi - abs(x - hi))


# -------------------------------------------------------------------- the solution
def test_output_times_are_reached_exactly_and_ends_may_be_equal():
    energy, rho0 = network(8, 2), cloud(6, 25, 2)
    times = [0.0, 0.1, 1 / 3, 0.7]
    sol = wg.solve(energy, rho0, (0, 0.7), method=Lagrangian(), t_eval=times)
    assert sol.t.tolist() == times
    assert set(times) <= set(sol.history.t.tolist())
    assert sol.density(1 / 3) is sol.densities[2]
    assert sol.grid is None
    assert sol.is_atomic
    still = wg.solve(energy, rho0, (1, 1), method=Lagrangian())
    assert still.final == rho0
    assert len(still.history) == 1


def test_snapshots_lie_inside_long_steps_too():
    sol = wg.solve(wg.Potential(lambda x: x * x / 2, lambda x: x), Atoms([[1.0]], [1.0]), (0, 4), method=Lagrangian())
    assert len(sol.t) > 2 * len(sol.history)
    exact = np.exp(-sol.t)
    assert np.array([rho.points[0, 0] for rho in sol.densities]) == pytest.approx(exact, abs=1e-6)
    assert (np.diff(sol.t) > 0).all()


def test_density_between_snapshots():
    rho0 = Atoms([[0.5], [0.95]], [1.0], ((-math.inf, math.inf), (0, 1)), periodic=(False, True))
    turn = 2 * math.pi
    energy = wg.Potential(lambda x, y: -x - np.sin(turn * y) / turn, lambda x, y: np.array([-1 + 0 * x,
                                                                                           -np.cos(turn * y)]))
    sol = wg.solve(energy, rho0, (0, 0.2), method=Lagrangian(), t_eval=[0, 0.2])
    end = sol.final.points[1, 0]
    assert 0.05 < end < 0.15
    assert sol.density(0.1).points[:, 0] == pytest.approx([0.6, 0.5 * (end - 0.05)])
    assert sol.density(0.01).points[1, 0] == pytest.approx(0.95 + 0.05 * (end + 0.05))
    noisy = wg.solve(energy + wg.Entropy(1.0), rho0, (0, 0.2), method=Lagrangian(rng=7), t_eval=[0, 0.2])
    with pytest.raises(InvalidInput, match="not known there"):
        noisy.density(0.1)
    with pytest.raises(InvalidInput, match="no entropy"):
        _ = noisy.dissipation


@pytest.mark.parametrize("suffix", ["npz", "nc"])
@pytest.mark.parametrize("noisy", [False, True])
def test_solutions_of_atoms_come_back_to_the_last_bit(tmp_path, suffix, noisy):
    rho0 = cloud(9, 26, 2, bounds=((-5, math.inf), (-6, 6)), names=("r 1", "time"), periodic=(False, True))
    energy = wg.Potential(lambda x, y: x * x / 2 - np.cos(np.pi * y / 6))
    if noisy:
        energy = energy + wg.Entropy(3.0)
    sol = wg.solve(energy, rho0, (0, 1), method=Lagrangian(rng=7 if noisy else None), t_eval=[0, 0.5, 1])
    path = tmp_path / f"run.{suffix}"
    sol.save(path)
    back = wg.load(path)
    assert back.densities == sol.densities
    assert back.certificate == sol.certificate
    assert back.message == sol.message
    for name in ("t", "energy"):
        assert np.array_equal(getattr(back, name), getattr(sol, name))
    assert back.has_dissipation is not noisy
    if not noisy:
        assert np.array_equal(back.dissipation, sol.dissipation)
    for name, column in sol.history.to_dict().items():
        assert np.array_equal(column, getattr(back.history, name))


def test_dataset_of_atoms():
    sol = wg.solve(network(9, 2), cloud(9, 27, 2), (0, 0.2), method=Lagrangian(), t_eval=[0, 0.2])
    data = sol.dataset
    assert dict(data.sizes)["atom"] == 9
    assert np.array_equal(data["x"].values[1], sol.final.points[0])
    assert np.array_equal(data["weight"].values, sol.final.weights)


@pytest.mark.parametrize(("ndim", "noisy"), [
    (1, True), (2, False), (3, True), *(pytest.param(*case, marks=pytest.mark.slow)
                                        for case in ((1, False), (2, True), (3, False)))])
def test_pictures(tmp_path, ndim, noisy):
    energy = network(10, ndim) + wg.Entropy(5.0 if noisy else math.inf)
    sol = wg.solve(energy, cloud(30, 28, ndim), (0, 0.3), method=Lagrangian(rng=7))
    figure = sol.plot(tmp_path / "solution.png")
    assert (tmp_path / "solution.png").stat().st_size > 10_000
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert ("energy without entropy" in titles) is noisy
    if ndim < 3:
        sol.animate(tmp_path / "solution.gif", frames=3)
        assert (tmp_path / "solution.gif").stat().st_size > 5_000


def test_a_picture_of_a_point_mass():
    rho0 = Atoms([[0.1, 0.3]], [1, 1], bounds=((0, math.inf),))
    sol = wg.solve(wg.Potential(lambda x: x, lambda x: 1 + 0 * x), rho0, (0, 1), method=Lagrangian())
    assert (sol.final.points == 0).all()
    assert sol.plot().axes


# -------------------------------------------------------------------- compared with particles
def small_runs(**more):
    model = isotropic(d=20)
    return model, run_sgd(model, **{"n_neurons": 200, "step_size": 5e-5, "t_eval": [0.0, 0.1, 0.5], "rng": 7,
                                    "n_runs": 3} | more)


@pytest.mark.slow
def test_sgd_agrees_with_a_few_atoms_and_not_with_the_wrong_clock():
    model, sgd = small_runs()
    for n in (16, 48):
        sol = wg.solve(model.energy(), radial(model, 0.8, n), (0, 0.5), method=Lagrangian(), t_eval=sgd.t,
                       time_scale=2.0)
        result = compare(sol, sgd, n_null=200)
        assert result.passed, result.table()
        assert "interpolated" in result.verdict
    wrong = wg.solve(model.energy(), radial(model, 0.8, 48), (0, 0.5), method=Lagrangian(), t_eval=sgd.t)
    result = compare(wrong, sgd, n_null=200)
    assert not result.passed
    assert result.inside[:, 0].all()
    # Few atoms are not an excuse: distances tell the wrong clock too.
    assert not result.inside[result.quantities.index("W2 of r"), 1:].any()


@pytest.mark.slow
def test_bands_of_atoms_are_hardly_wider_than_those_of_a_density():
    model, sgd = small_runs()
    grid = model.grid(cells=1600)
    options = {"t_eval": sgd.t, "time_scale": 2.0}
    fv = compare(wg.solve(model.energy(), model.initial_density(0.8, grid), (0, 0.5), **options), sgd, n_null=200)
    atoms = compare(wg.solve(model.energy(), radial(model, 0.8, 80), (0, 0.5), method=Lagrangian(), **options), sgd,
                    n_null=200)
    assert fv.quantities == atoms.quantities
    assert (atoms.upper < 1.3 * fv.upper).all()
    assert atoms.pde[-1] == pytest.approx(fv.pde[-1], rel=1e-3)


def plane_runs(mean, seed, n=180):
    """Five runs of independent points of the law that the flow x' = -x, y' = -2 y makes of a normal one."""
    t = np.array([0.0, 0.4])
    rng = np.random.default_rng(seed)
    start = np.array(mean) + rng.standard_normal((5, 1, n, 2)) * np.array([0.5, 0.3])
    decay = np.exp(-t[:, None, None] * np.array([1.0, 2.0]))
    return SimpleNamespace(t=t, coordinates=start * decay, risk=None, model=None)


def test_atoms_of_a_product_rule_are_compared_in_the_plane():
    energy = wg.Potential(lambda x, y: x * x / 2 + y * y, lambda x, y: np.array([x, 2 * y]))
    rho0 = gauss_hermite([1.0, -0.5], [0.5, 0.3], 12)
    sol = wg.solve(energy, rho0, (0, 0.4), method=Lagrangian(), t_eval=[0, 0.4])
    right = compare(sol, plane_runs([1.0, -0.5], 41), n_null=200)
    assert right.passed, right.table()
    assert "smoothed from 144 atoms" in right.verdict
    wrong = compare(sol, plane_runs([1.0, -0.4], 43), n_null=200)
    assert not wrong.passed
    assert not wrong.inside[wrong.quantities.index("mean of y")].any()
    assert wrong.inside[wrong.quantities.index("mean of x")].all()


def test_particles_are_compared_with_particles():
    energy = harmonic(2.0)
    exact = wg.solve(energy, wg.Density.gaussian(wg.Grid((-5, 6), cells=500), 1.0, 0.04), (0, 0.5), t_eval=[0, 0.5])
    rng = np.random.default_rng(45)
    draws = np.stack([[rho.sample(180, rng) for rho in exact.densities] for _ in range(5)])[..., None]
    runs = SimpleNamespace(t=exact.t, coordinates=draws, risk=None, model=None)
    sol = wg.solve(energy, Atoms(exact.densities[0].sample(500, 3), np.full(500, 1 / 500)), (0, 0.5), t_eval=[0, 0.5],
                   method=Lagrangian(rng=47, dt=0.02))
    result = compare(sol, runs, n_null=200)
    assert result.passed, result.table()
    assert "itself a sample" in result.verdict
    shifted = SimpleNamespace(t=exact.t, coordinates=draws + 0.3, risk=None, model=None)
    assert not compare(sol, shifted, n_null=200).passed


def test_a_point_mass_is_compared_without_a_zero_division():
    sol = wg.solve(wg.Potential(lambda x: x, lambda x: 1 + 0 * x), Atoms([[0.1, 0.2]], [1, 1], ((0, 9),)), (0, 1),
                   method=Lagrangian(), t_eval=[0, 1])
    x = np.zeros((5, 2, 50, 1))
    x[:, 0] = np.random.default_rng(3).random((5, 50, 1)) * 0.2 + 0.05
    result = compare(sol, SimpleNamespace(t=np.array([0.0, 1.0]), coordinates=x, risk=None, model=None), n_null=200)
    assert np.isfinite(result.upper).all()
    assert result.inside[:, 1].all()
    assert (result.upper[result.quantities.index("Kolmogorov of x")] <= 1.0).all()
    assert np.isfinite(result.share_of_band[:, 1]).all()


# -------------------------------------------------------------------- what is refused
RHO = cloud(5, 29)
QUADRATIC = wg.Potential(lambda x: x * x / 2, lambda x: x)


@pytest.mark.parametrize(("settings_", "words"), [
    ({"rtol": 0.0}, "rtol"), ({"rtol": 1e-15}, "2.2e-14"), ({"rtol": math.nan}, "rtol"), ({"ode": "Euler"}, "DOP853"),
    ({"dt": -1.0}, "dt"), ({"n_particles": 0}, "n_particles"), ({"max_steps": 0}, "max_steps"),
    ({"time_limit": 0.0}, "time_limit"), ({"rng": -3}, "rng"), ({"rng": "seven"}, "rng"),
])
def test_bad_settings(settings_, words):
    with pytest.raises(InvalidInput, match=words):
        Lagrangian(**settings_)


@pytest.mark.parametrize(("energy", "rho0", "method", "words"), [
    (QUADRATIC, RHO, wg.FiniteVolume(), r"use method=wgflow\.Lagrangian"),
    (QUADRATIC + wg.Entropy(1.0), RHO, Lagrangian(), "need random numbers"),
    (QUADRATIC, RHO, Lagrangian(n_particles=9), "leave it out"),
    (wg.Potential(np.zeros(5)), RHO, Lagrangian(), "array of values at cell centers"),
    (wg.Potential(lambda x, y: x), RHO, Lagrangian(), "V raised TypeError"),
    (wg.Potential(lambda x: np.nan * x), RHO, Lagrangian(), "V is nan"),
    (QUADRATIC, [1.0, 2.0], Lagrangian(), "Density or Atoms"),
])
def test_bad_problems(energy, rho0, method, words):
    with pytest.raises(InvalidInput, match=words):
        wg.solve(energy, rho0, (0, 1), method=method)


def test_nonlinear_diffusion_is_not_noise():
    from wgflow.energies.internal_energies import PowerEntropy

    with pytest.raises(InvalidInput, match="linear diffusion"):
        wg.solve(QUADRATIC + PowerEntropy(2.0), RHO, (0, 1), method=Lagrangian(rng=7))


def test_a_weight_that_is_no_product_of_powers_is_refused_with_noise_only():
    grid = wg.Grid((1, 2), cells=20, log_weight=np.sin(np.linspace(0, 3, 20)))
    rho0 = wg.Density.uniform(grid)
    with pytest.raises(InvalidInput, match="product of powers"):
        wg.solve(QUADRATIC + wg.Entropy(1.0), rho0, (0, 1), method=Lagrangian(rng=7))
    assert wg.solve(QUADRATIC, rho0, (0, 0.1), method=Lagrangian()).success


def test_checkpoints_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(InvalidInput, match="keeps no checkpoints"):
        wg.solve(QUADRATIC, RHO, (0, 1), method=Lagrangian(), checkpoint=path)
    assert not path.exists()


def test_a_gradient_of_the_wrong_sign_is_found_out():
    wrong = wg.Potential(lambda x: x * x / 2, lambda x: -x)
    with pytest.raises(ConvergenceError, match="does a given gradient belong") as caught:
        wg.solve(wrong, RHO, (0, 1), method=Lagrangian())
    assert caught.value.reason == "energy increase"
    assert caught.value.partial.final.points == pytest.approx(RHO.points, abs=1e-9)
    assert caught.value.partial.t[-1] < 1e-9


@pytest.mark.parametrize("noisy", [False, True])
def test_a_callback_that_fails_on_the_way_keeps_what_was_computed(noisy):
    calls = []

    def gradient(x):
        calls.append(1)
        if len(calls) > 60:
            raise RuntimeError("out of luck")
        return x

    energy = wg.Potential(lambda x: x * x / 2, gradient)
    if noisy:
        energy = energy + wg.Entropy(1.0)
    method = Lagrangian(rng=7, dt=0.02, rtol=1e-12)
    with pytest.raises(ConvergenceError, match="out of luck") as caught:
        wg.solve(energy, RHO, (0, 5), method=method)
    assert caught.value.reason == "callback"
    assert 0 < caught.value.partial.t[-1] < 5
    calls.clear()
    sol = wg.solve(energy, RHO, (0, 5), method=method, throw=False)
    assert sol.status == 1
    assert not sol.certificate.ok


def test_runaway_atoms_end_the_run_with_a_reason():
    """x' = x^3 leaves the floats at t = 1/2."""
    with pytest.raises(ConvergenceError, match="step too small") as caught:
        wg.solve(wg.Potential(lambda x: -(x**4) / 4, lambda x: -(x**3)), Atoms([[1.0]], [1.0]), (0, 1),
                 method=Lagrangian())
    assert caught.value.partial.t[-1] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("noisy", [False, True])
def test_limits(noisy):
    energy = QUADRATIC + wg.Entropy(1.0 if noisy else math.inf)
    with pytest.raises(ConvergenceError, match="max_steps=3 reached") as caught:
        wg.solve(energy, RHO, (0, 50), method=Lagrangian(rng=7, max_steps=3, dt=0.1))
    assert caught.value.reason == "max steps"
    assert len(caught.value.partial.history) == 4
    with pytest.raises(ConvergenceError, match="time_limit") as caught:
        wg.solve(energy, RHO, (0, 1e6), method=Lagrangian(rng=7, time_limit=0.2, dt=0.01))
    assert caught.value.reason == "time limit"


def test_bad_time_scale_on_the_way():
    with pytest.raises(ConvergenceError, match="time_scale") as caught:
        wg.solve(QUADRATIC, RHO, (0, 1), method=Lagrangian(), time_scale=lambda t: 0.5 - t)
    assert caught.value.reason == "callback"


def test_atoms_are_read_only_for_callbacks():
    def spoil(x):
        x[:] = 0.0
        return x

    with pytest.raises(InvalidInput, match="read-only"):
        wg.solve(wg.Potential(spoil), RHO, (0, 1), method=Lagrangian())
    with pytest.raises(InvalidType):
        wg.solve(wg.Potential(lambda x: x + 1j), RHO, (0, 1), method=Lagrangian())
