"""Energies that change with time by fluxes of fourth order: exact solutions, orders, work and dissipation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import gammainc

import wgflow as wg
from wgflow.grids import log_power_cell_average
from wgflow.solvers.finite_volume.compact import ONE_FROZEN, QUADRATIC, TWO_FROZEN
from wgflow.solvers.finite_volume.energy_in_time import work_of

D = 0.5
REPULSION = wg.Interaction(wg.Convolution(lambda z: np.exp(-z * z)))


def trap(t):
    return wg.Potential(lambda x: (1 + 0.5 * np.cos(t)) * (x - np.sin(2 * t)) ** 2 / 2)


def gaussian_in_trap(t1, scale=lambda t: 1.0):
    """Mean, variance and work at t1, of N(1, .3) at the start."""
    def rates(t, y):
        m, s, _ = y
        k, dk, a, da = 1 + 0.5 * np.cos(t), -0.5 * np.sin(t), np.sin(2 * t), 2 * np.cos(2 * t)
        return [-scale(t) * k * (m - a), scale(t) * (2 * D - 2 * k * s),
                0.5 * dk * (s + (m - a) ** 2) - k * da * (m - a)]

    return solve_ivp(rates, (0, t1), [1.0, 0.3, 0.0], rtol=1e-12, atol=1e-13).y[:, -1]


def solve(energy, rho, t1, time_scale=1.0, **settings):
    sol = wg.solve(energy, rho, (0, t1), wg.FiniteVolume(**settings), t_eval=[t1], time_scale=time_scale)
    assert sol.certificate.scheme == "fluxes of fourth order in space"
    return sol


def order(steps, errors):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def l1(rho, other):
    return float(np.abs(rho.masses - other.masses).sum())


# ---------------------------------------------------------------- space
def test_fourth_order_in_space_in_a_moving_and_breathing_trap():
    mean, variance, work = gaussian_in_trap(2.0)
    cells, errors = np.array([40, 56, 80, 112, 160]), []
    for n in cells:
        grid = wg.Grid((-6, 6), cells=n)
        sol = solve(wg.Entropy(2.0) + wg.TimeDependent(trap), wg.Density.gaussian(grid, 1.0, 0.3), 2.0, rtol=1e-9)
        errors.append([l1(sol.final, wg.Density.gaussian(grid, mean, variance)), abs(sol.history.work[-1] - work)])
        assert sol.certificate.ok, sol.certificate.explain()
    for column in np.transpose(errors):
        assert 3.85 <= -order(cells, column) <= 4.15
    assert errors[-1][0] < 2e-6


def test_fourth_order_in_space_in_a_turning_trap_in_the_plane():
    """m' = -K(t) m, S' = -K S - S K + 2 D, with K = R(t) diag(1, 3) R(t)'."""
    def stiffness(t):
        c, s = np.cos(2 * t), np.sin(2 * t)
        turn = np.array([[c, -s], [s, c]])
        return turn @ np.diag([1.0, 3.0]) @ turn.T

    def potential(t):
        k = stiffness(t)
        return wg.Potential(lambda x, y: 0.5 * (k[0, 0] * x * x + 2 * k[0, 1] * x * y + k[1, 1] * y * y))

    def rates(t, y):
        k, m, s = stiffness(t), y[:2], y[2:].reshape(2, 2)
        return np.concatenate([-k @ m, (-k @ s - s @ k + 2 * D * np.eye(2)).ravel()])

    end = solve_ivp(rates, (0, 0.5), [1.0, 0.5, 0.3, 0, 0, 0.4], rtol=1e-11, atol=1e-12).y[:, -1]
    cells, errors = np.array([28, 40, 56, 80]), []
    for n in cells:
        grid = wg.Grid([(-5, 5), (-5, 5)], cells=(n, n))
        sol = solve(wg.Entropy(1 / D) + wg.TimeDependent(potential),
                    wg.Density.gaussian(grid, [1.0, 0.5], [[0.3, 0], [0, 0.4]]), 0.5, rtol=1e-7)
        errors.append(l1(sol.final, wg.Density.gaussian(grid, end[:2], end[2:].reshape(2, 2))))
        assert sol.certificate.ok, sol.certificate.explain()
    assert 3.85 <= -order(cells, errors) <= 4.2


def test_a_breathing_trap_for_a_radius():
    """The variance of each of d coordinates obeys s' = 2 D - 2 k(t) s."""
    d = 8

    def averages(variance, edges):
        return np.diff(gammainc(d / 2, edges**2 / (2 * variance))) / np.diff(edges)

    variance = solve_ivp(lambda t, s: 2 - 2 * (1 + 0.5 * np.sin(3 * t)) * s, (0, 1), [0.5], rtol=1e-11).y[0, -1]
    cells, errors = np.array([50, 71, 100, 141]), []
    for n in cells:
        edges = np.linspace(0, 9.5, n + 1)
        grid = wg.Grid((0, 9.5), cells=n, log_weight=log_power_cell_average(edges, d - 1))
        sol = solve(wg.Entropy(1.0) + wg.TimeDependent(
            lambda t: wg.Potential(lambda r: (1 + 0.5 * np.sin(3 * t)) * r * r / 2)),
            wg.Density.from_values(grid, averages(0.5, edges), normalize=True), 1.0, rtol=1e-9)
        errors.append(l1(sol.final, wg.Density.from_values(grid, averages(variance, edges), normalize=True)))
        assert sol.certificate.ok, sol.certificate.explain()
    assert 3.7 <= -order(cells, errors) <= 4.6


# ---------------------------------------------------------------- time
@pytest.mark.parametrize("scale", [1.0, lambda t: 1 + 0.5 * np.sin(3 * t)], ids=["plain", "clock"])
@pytest.mark.parametrize("driven", [trap, lambda t: trap(t) + (1 + np.sin(3 * t)) * REPULSION], ids=["trap", "field"])
def test_third_order_in_time(driven, scale):
    grid = wg.Grid((-6, 6), cells=80)
    steps, rho = 0.2 / 2.0 ** np.arange(4), wg.Density.gaussian(grid, 1.0, 0.3)
    found = [solve(wg.Entropy(2.0) + wg.TimeDependent(driven), rho, 1.0, scale, dt=dt) for dt in (*steps, 0.003125)]
    limit = found.pop()
    assert order(steps, [l1(sol.final, limit.final) for sol in found]) >= 2.9
    assert order(steps[1:], [abs(sol.history.work[-1] - limit.history.work[-1]) for sol in found[1:]]) >= 2.7
    for sol in found:
        assert np.diff(sol.history.energy - sol.history.work).max() <= 1e-13


def test_the_clock_and_the_drive_together():
    def scale(t):
        return 1 + 0.8 * np.sin(5 * t)

    mean, variance, work = gaussian_in_trap(2.0, scale)
    grid = wg.Grid((-6, 6), cells=160)
    sol = solve(wg.Entropy(2.0) + wg.TimeDependent(trap), wg.Density.gaussian(grid, 1.0, 0.3), 2.0, scale)
    assert l1(sol.final, wg.Density.gaussian(grid, mean, variance)) < 1e-5
    assert abs(sol.history.work[-1] - work) < 2e-5
    assert sol.certificate.ok, sol.certificate.explain()


def test_an_attraction_that_grows():
    """var' = -2 (a + k(t)) var + 2 D."""
    grid = wg.Grid((-6, 6), cells=160)
    pull = wg.Interaction(wg.Convolution(lambda z: z**2 / 2))
    energy = (wg.Entropy(1 / D) + wg.Potential(lambda x: x**2 / 4) + wg.TimeDependent(lambda t: np.tanh(4 * t) * pull))
    variance = solve_ivp(lambda t, s: -2 * (0.5 + np.tanh(4 * t)) * s + 2 * D, (0, 1.5), [0.4], rtol=1e-11,
                         atol=1e-12).y[0, -1]
    sol = solve(energy, wg.Density.gaussian(grid, 0.7, 0.4), 1.5)
    assert l1(sol.final, wg.Density.gaussian(grid, 0.7 * np.exp(-0.75), variance)) < 1e-5
    assert sol.certificate.ok, sol.certificate.explain()


def test_a_trap_that_will_be_too_narrow_for_the_cells():
    """The variance ends at 1/1600, a deviation of a quarter of a cell; with more cells the fluxes are the others."""
    energy = wg.Entropy(1.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: (1.0 if t < 0.9 else 1600) * x**2 / 2))
    schemes = []
    for n in (120, 1200):
        sol = wg.solve(energy, wg.Density.gaussian(wg.Grid((-6, 6), cells=n), 0.0, 0.9), (0, 1))
        schemes.append(sol.certificate.scheme)
    assert "second order" in schemes[0]
    assert "too wide" in schemes[0]
    assert "fourth order" in schemes[1]
    assert sol.certificate.ok, sol.certificate.explain()
    assert sol.final.cov() == pytest.approx(1 / 1600, rel=0.01)


# ---------------------------------------------------------------- work
def test_the_weights_are_those_of_the_quadrature():
    """A_ij = int l_i l_j' with l_i = 1, s, s^2 interpolated; every row adds up to 0."""
    nodes = np.array([0, 0.5, 1])
    bases = [np.poly1d(np.polyfit(nodes, row, 2)) for row in np.eye(3)]
    exact = [[np.polyint(a * np.polyder(b))(1.0) for b in bases] for a in bases]
    np.testing.assert_allclose(QUADRATIC[:, ::2], exact, atol=1e-14)
    for weights in (QUADRATIC, TWO_FROZEN, ONE_FROZEN):
        np.testing.assert_allclose(weights.sum(axis=1), 0, atol=1e-15)
        np.testing.assert_allclose(weights.sum(axis=0), [-1, 0, 0, 0, 1], atol=1e-15)


def test_the_work_is_a_sum_over_energies():
    grid = wg.Grid((-6, 6), cells=40)
    energy = wg.Entropy(1.0) + wg.TimeDependent(lambda t: trap(t) + t * REPULSION) + REPULSION
    energies = [energy.at(t).assemble(grid) for t in (0, 0.25, 0.5, 0.75, 1.0)]
    laws = [wg.Density.gaussian(grid, m, 0.4).masses for m in (0.0, 0.3, 0.5)]
    for weights in (QUADRATIC, TWO_FROZEN, ONE_FROZEN):
        sums = sum(weights[i, j] * energies[j].energy(laws[i]) for i in range(3) for j in range(5))
        assert work_of(weights, laws, energies) == pytest.approx(sums, rel=1e-12)


@pytest.mark.parametrize("frequency", [0.3, 3.0, 10.0])
def test_a_law_at_rest_that_is_shaken(frequency):
    """m' = sin(w t) - m from rest; the dissipation vanishes twice a period."""
    grid = wg.Grid((-6, 6), cells=60)
    energy = wg.Entropy(1.0) + wg.TimeDependent(
        lambda t: wg.Potential(lambda x: (x - np.sin(frequency * t)) ** 2 / 2))
    sol = solve(energy, wg.Density.from_log_function(grid, lambda x: -x * x / 2), 5.0, rtol=1e-6)
    mean = solve_ivp(lambda t, m: np.sin(frequency * t) - m, (0, 5), [0.0], rtol=1e-10, atol=1e-12).y[0, -1]
    assert abs(sol.final.mean() - mean) < 3e-5
    assert sol.certificate.ok, sol.certificate.explain()
    assert sol.certificate.n_fallback == 0


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    path, grid = tmp_path / "run.npz", wg.Grid((-6, 6), cells=60)
    energy = wg.Entropy(2.0) + wg.TimeDependent(lambda t: trap(t) + np.sin(t) * REPULSION)
    rho0 = wg.Density.gaussian(grid, 1.0, 0.3)
    whole = wg.solve(energy, rho0, (0, 2), wg.FiniteVolume())
    with pytest.raises(wg.ConvergenceError, match="max_steps"):
        wg.solve(energy, rho0, (0, 2), wg.FiniteVolume(max_steps=5), checkpoint=path)
    resumed = wg.resume(path, energy=energy, method=wg.FiniteVolume())
    assert np.array_equal(resumed.final.values, whole.final.values)
    assert np.array_equal(resumed.history.work, whole.history.work)
