"""The exact solutions with a mobility: against independent routes."""

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

import wgflow as wg
from wgflow.validation import exact

MODES = [exact.PowerMobility(), exact.MobilityJump(), exact.MobilityJump(right=0.3, place=0.37, modes={1: 0.3, 3: 0.1})]


def test_moments_in_a_well():
    found = exact.MobilityWell().quantities(0.05)
    assert found["mean"] == pytest.approx(0.248292651896, abs=1e-12)
    assert found["second_moment"] == pytest.approx(0.151345220405, abs=1e-12)


def test_moments_at_rest_are_those_of_the_gibbs_law():
    problem = exact.MobilityWell(strength=5.0, beta=2.0)
    weight = [quad(lambda x, p=p: x**p * (1 + x**2) ** (-5.0 * 2.0), -np.inf, np.inf)[0] for p in (0, 2)]
    assert problem.quantities(50.0)["second_moment"] == pytest.approx(weight[1] / weight[0], rel=1e-9)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gaussians_obey_their_equations(ndim, rng):
    root, shear = np.eye(ndim) + 0.3 * rng.standard_normal((2, ndim, ndim))
    A, K = root @ root.T, shear + shear.T
    problem = exact.ConstantMobility(stiffness=K, mobility_matrix=A, mean=rng.standard_normal(ndim), variance=0.4,
                                     center=rng.standard_normal(ndim), beta=1.7)

    def rate(t, y):
        m, S = y[:ndim], y[ndim:].reshape(ndim, ndim)
        spread = -A @ K @ S - S @ K @ A + 2 / 1.7 * A
        return np.concatenate([-A @ K @ (m - np.array(problem.center)), spread.ravel()])

    mean, cov = problem.moments(0.0)
    end = solve_ivp(rate, (0, 0.7), np.concatenate([mean, cov.ravel()]), rtol=1e-11, atol=1e-13).y[:, -1]
    np.testing.assert_allclose(np.concatenate([m.ravel() for m in problem.moments(0.7)]), end, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("problem", [*MODES, exact.ConstantMobility(), exact.ConstantMobility(
    stiffness=((1.2, -0.3), (-0.3, 0.8)), mean=(0.8, -0.5), variance=0.3, mobility_matrix=((1.0, 0.4), (0.4, 0.5)))])
def test_energy_falls_by_the_dissipation(problem):
    t, h = 0.4 * problem.t_end, 1e-4 * problem.t_end
    slope = (problem.quantities(t + h)["energy"] - problem.quantities(t - h)["energy"]) / (2 * h)
    assert -slope == pytest.approx(problem.quantities(t)["dissipation"], rel=1e-6)


@pytest.mark.parametrize("problem", MODES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_modes_solve_their_equation(problem, n):
    rate, u, flux = problem.mode(n)
    low, high = problem._ends()
    x = np.linspace(low, high, 400)[1:-1]
    x = x[np.abs(x - getattr(problem, "place", -9.0)) > 1e-3]
    h, size = 1e-5, np.abs(u(x)).max()
    slope = (u(x + h) - u(x - h)) / (2 * h)
    np.testing.assert_allclose(problem.mobility.at(x[None])[0, 0] * slope, flux(x), atol=1e-6 * rate * size)
    np.testing.assert_allclose((flux(x + h) - flux(x - h)) / (2 * h), -rate * u(x), atol=1e-5 * rate * size)
    assert np.abs(flux(np.array([low, high]))).max() < 1e-9
    if hasattr(problem, "place"):
        sides = np.array([problem.place - 1e-12, problem.place + 1e-12])
        assert np.ptp(u(sides)) < 1e-9
        assert np.ptp(flux(sides)) < 1e-8


@pytest.mark.parametrize("problem", MODES)
def test_averages_are_those_of_the_density(problem):
    grid = problem.grid(7)
    rho = problem.density(grid, problem.t_end)
    assert rho.mass == pytest.approx(1.0, abs=1e-13)
    for lo, hi, value in zip(grid.edges[0][:-1], grid.edges[0][1:], rho.values):
        points = [p for p in (getattr(problem, "place", None),) if p is not None and lo < p < hi]
        mean = quad(lambda x: float(problem.pdf(np.array([x]), problem.t_end)[0]), lo, hi, points=points or None)[0]
        assert value == pytest.approx(mean / (hi - lo), rel=1e-9)


@pytest.mark.parametrize(("make", "what"), [
    (lambda: exact.MobilityWell(strength=1.0), "strength"), (lambda: exact.PowerMobility(length=0.5), "length"),
    (lambda: exact.PowerMobility(modes={1: 5.0}), "modes"), (lambda: exact.MobilityJump(place=1.5), "place"),
    (lambda: exact.ConstantMobility(mobility_matrix=-1.0), "mobility_matrix"),
    (lambda: exact.MobilityWell().density(wg.Grid((-4, 4), cells=20), 0.1), "start"),
    (lambda: exact.ConstantMobility().jko_table(0.1, 2), "JKO")])
def test_bad_parameters(make, what):
    with pytest.raises(wg.InvalidInput, match=what):
        make()
