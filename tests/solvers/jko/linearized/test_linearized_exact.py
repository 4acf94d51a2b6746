"""inner="linearized" along straight geodesics: exact JKO steps, orders in tau and h, what every step has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import fsolve, minimize

import wgflow as wg
from wgflow.compiled.remap import face_densities, remap_line
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.solvers.jko import JKO


def quadratic(*x):
    return sum(a**2 for a in x) / 2


def jko(tau, **settings):
    return JKO(tau=tau, inner="linearized", **settings)


def solve(energy, rho0, span, method):
    """A run all of whose steps went along straight geodesics."""
    sol = wg.solve(energy, rho0, span, method)
    assert {step.metric for step in sol.jko_steps} == {"exact"}
    assert sol.certificate.mass_drift < 1e-13
    assert sol.certificate.min_density >= 0
    assert sol.certificate.n_fallback == 0
    return sol


def slope(x, y) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def gaussian_step(mean, std, tau, k=1.0, diffusion=1.0, pull=0.0):
    total = k + pull
    return (mean / (1 + tau * k),
            (std + math.sqrt(std**2 + 4 * tau * diffusion * (1 + tau * total))) / (2 * (1 + tau * total)))


# -------------------------------------------------------------------- exact steps
@pytest.mark.parametrize(("k", "pull"), [(1.0, 0.0), (0.4, 0.6)])
def test_a_gaussian_step(k, pull):
    energy = wg.Entropy(1.0) + k * wg.Potential(quadratic)
    energy = energy + pull * wg.Interaction(lambda d: d**2 / 2) if pull else energy
    rho0 = wg.Density.gaussian(wg.Grid([(-4, 6)], cells=400), 2.0, 0.25)
    sol = solve(energy, rho0, (0, 0.1), jko(0.1))
    mean, std = gaussian_step(2.0, 0.5, 0.1, k, 1.0, pull)
    assert std == pytest.approx(0.604846539224, abs=1e-12)
    assert sol.final.mean() == pytest.approx(mean, abs=1e-8)
    assert math.sqrt(sol.final.cov()) == pytest.approx(std, abs=5e-5)
    assert sol.jko_steps[0].w2_squared == pytest.approx((mean - 2) ** 2 + (std - 0.5) ** 2, rel=1e-3)


def test_ten_steps():
    rho0 = wg.Density.gaussian(wg.Grid([(-4, 6)], cells=400), 2.0, 0.25)
    sol = solve(wg.Entropy(1.0) + wg.Potential(quadratic), rho0, (0, 1), jko(0.1))
    assert sol.final.mean() == pytest.approx(0.771086578859, abs=1e-6)
    assert math.sqrt(sol.final.cov()) == pytest.approx(0.934188954641, abs=2e-5)


def test_steps_have_the_order_one_in_tau_of_exact_ones():
    rho0 = wg.Density.gaussian(wg.Grid([(-4, 6)], cells=400), 2.0, 0.25)
    errors, taus = [], (0.1, 0.05, 0.025, 0.0125)
    for tau in taus:
        sol = solve(wg.Entropy(1.0) + wg.Potential(quadratic), rho0, (0, 1), jko(tau))
        exact = 2.0, 0.5
        for _ in range(round(1 / tau)):
            exact = gaussian_step(*exact, tau)
        found = sol.final.mean(), math.sqrt(sol.final.cov())
        assert found == pytest.approx(exact, abs=1e-4)
        errors.append(found[0] - 2 * math.exp(-1))
    # The error constant of the table: 2 e^-1 / 2 for the mean.
    assert 2 * errors[-1] / taus[-1] - errors[-2] / taus[-2] == pytest.approx(math.exp(-1), rel=0.02)


def test_a_step_is_of_second_order_in_h():
    mean, std = gaussian_step(2.0, 0.5, 0.1)
    cells, errors = (50, 71, 100, 141, 200), []
    for n in cells:
        grid = wg.Grid([(-4, 6)], cells=n)
        x, h = grid.centers[0], 10 / n
        # Means over cells of the Gaussian, so that its grouping adds h^2 / 12 before and after.
        sol = solve(wg.Entropy(1.0) + wg.Potential(quadratic), wg.Density.gaussian(grid, 2.0, 0.25), (0, 0.1), jko(0.1))
        exact = wg.Density.gaussian(grid, mean, std**2)
        errors.append(np.abs(sol.final.masses - exact.masses).sum())
        assert (sol.final.masses * x).sum() == pytest.approx(mean, abs=1e-3 * h)
    assert -2.2 < slope(cells, errors) < -1.8


def test_a_step_of_the_porous_medium_equation():
    edge, cells, errors = 1.44224957031, (100, 141, 200, 283, 400, 566), []
    for n in cells:
        grid = wg.Grid([(-1.2, 1.2)], cells=n)
        rho0 = wg.Density.from_function(grid, lambda x: np.maximum(edge**2 - (x / 0.5) ** 2, 0), normalize=True)
        sol = solve(PowerEntropy(2.0) + wg.Potential(quadratic), rho0, (0, 0.1), jko(0.1))
        errors.append(abs(math.sqrt(5 * sol.final.cov()) / edge - 0.66199071551))
    # Second order below an envelope: the edge lies elsewhere in its cell on every grid.
    assert (np.array(errors) < 1.2 / np.array(cells) ** 2).all()


@pytest.mark.parametrize("cells", [64, 96])
def test_a_gaussian_step_in_the_plane(cells):
    stiffness, mean = np.array([[1.5, 0.6], [0.6, 0.8]]), np.array([1.5, -0.5])
    before, tau = np.array([[0.25, 0.08], [0.08, 0.35]]), 0.1

    def defect(entries):
        after = np.array([[entries[0], entries[1]], [entries[1], entries[2]]])
        back = np.eye(2) + tau * (stiffness - np.linalg.inv(after))
        return (back @ after @ back - before)[np.triu_indices(2)]

    exact = fsolve(defect, before[np.triu_indices(2)], xtol=1e-13)
    grid = wg.Grid([(-3, 5), (-4, 4)], cells=cells)
    energy = wg.Entropy(1.0) + wg.Potential(
        lambda x, y: (stiffness[0, 0] * x * x + 2 * stiffness[0, 1] * x * y + stiffness[1, 1] * y * y) / 2)
    sol = solve(energy, wg.Density.gaussian(grid, mean, before), (0, tau), jko(tau))
    assert sol.final.mean() == pytest.approx(np.linalg.solve(np.eye(2) + tau * stiffness, mean), abs=1e-6)
    covariance = sol.final.cov()
    assert np.sqrt(np.diag(covariance)) == pytest.approx(np.sqrt(exact[[0, 2]]), abs=8e-4)
    assert covariance[0, 1] == pytest.approx(exact[1], abs=3e-4)


def test_the_porous_medium_in_the_plane():
    # rho = (R^2 - |x|^2/s^2)_+ / (4 s^2), pi R^4 / 8 = 1; s' (1 + tau) - tau / s'^3 = s.
    radius, s, tau = (8 / math.pi) ** 0.25, 0.6, 0.1
    grid = wg.Grid([(-1.3, 1.3)] * 2, cells=48)
    rho0 = wg.Density.from_function(grid, lambda x, y: np.maximum(radius**2 - (x**2 + y**2) / s**2, 0), normalize=True)
    sol = solve(PowerEntropy(2.0) + wg.Potential(quadratic), rho0, (0, tau), jko(tau))
    after = float(fsolve(lambda a: a * (1 + tau) - tau / a**3 - s, s)[0])
    h = 2.6 / 48
    second = sol.final.expect(lambda x, y: x**2 + y**2) - h * h / 6
    assert math.sqrt(3 * second) / radius == pytest.approx(after, abs=1e-3)


def test_without_internal_energy_a_step_is_a_map():
    rho0 = wg.Density.gaussian(wg.Grid([(-1, 3)], cells=400), 1.0, 0.02)
    sol = solve(wg.Entropy(math.inf) + wg.Potential(quadratic), rho0, (0, 1), jko(0.1))
    assert sol.final.mean() == pytest.approx(1.1**-10, abs=1e-6)
    assert math.sqrt(sol.final.cov()) == pytest.approx(math.sqrt(0.02) * 1.1**-10, rel=2e-3)


# -------------------------------------------------------------------- the discrete problem
@pytest.mark.slow
def test_the_step_is_the_minimizer():
    """Against a minimization over the ends of cells: F of the masses between them plus the cost of the ends."""
    grid, tau, n = wg.Grid([(0, 1)], cells=6), 0.05, 6
    energy = wg.Entropy(2.0) + wg.Potential(lambda x: 3 * (x - 0.3) ** 2) + 0.3 * PowerEntropy(2.0)
    rho0 = wg.Density.from_values(grid, [0.5, 1.0, 2.0, 1.5, 0.7, 0.3])
    edges, density, moved, rest = grid.edges[0], np.empty(n + 1), np.empty(n), np.empty(n + 1)
    face_densities(rho0.masses, edges, 0, density)
    nodes, weights = np.polynomial.legendre.leggauss(4)

    def density_at(s):
        k = np.minimum((s * n).astype(int), n - 1)
        x = s * n - k
        return (6 * rho0.masses[k] * n * x * (1 - x) + density[k] * (1 - x) * (1 - 3 * x)
                - density[k + 1] * x * (2 - 3 * x))

    def cost(x, y):
        stops = np.array(sorted({x, y, *(e for e in edges if min(x, y) < e < max(x, y))}))
        points = stops[:-1, None] + np.diff(stops)[:, None] * (nodes + 1) / 2
        integral = (np.diff(stops)[:, None] * weights / 2 * np.abs(points - x) * density_at(points)).sum()
        return 2 / n * integral

    def objective(inner):
        ends = np.concatenate(([0.0], inner, [1.0]))
        if np.diff(ends).min() <= 0:
            return 1e9
        remap_line(rho0.masses, edges, density, ends, moved, rest)
        if moved.min() <= 0:
            return 1e9
        return energy(wg.Density(grid, moved * n)) + sum(map(cost, edges[1:-1], inner)) / (2 * tau)

    best = minimize(objective, edges[1:-1], method="Nelder-Mead",
                    options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 20000, "maxfev": 20000})
    inner = jko(tau).make_inner(energy.assemble(grid), grid)
    step = inner.step(inner.begin(rho0), tau)
    assert step.metric == "exact"
    assert step.energy + step.w2_squared / (2 * tau) == pytest.approx(best.fun, abs=1e-10)
    remap_line(rho0.masses, edges, density, np.concatenate(([0.0], best.x, [1.0])), moved, rest)
    assert step.density.masses == pytest.approx(moved, abs=1e-4)


def test_the_gap_bounds_the_distance_to_the_minimum():
    grid, tau = wg.Grid([(-3, 3)], cells=60), 0.2
    energy = wg.Entropy(2.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2) + wg.LowRank(lambda x: x)
    rho0 = wg.Density.gaussian(grid, 1.0, 0.2)
    inner = jko(tau).make_inner(energy.assemble(grid), grid)
    best = inner.step(inner.begin(rho0), tau)
    least = best.energy + best.w2_squared / (2 * tau)
    assert best.gap < 1e-11
    for tolerance in (1e-1, 1e-3, 1e-6):
        rough = jko(tau, tol=tolerance).make_inner(energy.assemble(grid), grid)
        step = rough.step(rough.begin(rho0), tau)
        assert step.metric == "exact"
        value = step.energy + step.w2_squared / (2 * tau)
        assert least - best.gap - 1e-13 <= value <= least + step.gap + 1e-13


def test_gibbs_states_rest():
    for grid in (wg.Grid([(-3, 3)], cells=60), wg.Grid([(-3, 3), (-2, 2)], cells=(30, 20))):
        def potential(x, y=0.0):
            return x**4 / 4 + x * y / 2 + y**2

        energy = wg.Entropy(2.0) + wg.Potential(potential)
        rho = wg.Density.from_log_function(grid, lambda *x: -2 * potential(*x))
        sol = solve(energy, rho, (0, 5), jko(1.0))
        assert np.abs(sol.final.masses - rho.masses).sum() < 1e-6
        assert sol.jko_steps[-1].w2_squared < 1e-10


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-0.5, 0.5), cells=st.integers(24, 60))
@example(shift=0.385, cells=48)  # as many cells as points at which the seam is looked at
def test_a_circle_has_no_beginning(shift, cells):
    """Turned data give turned results."""
    grid = wg.Grid([(0, 1)], cells=cells, boundary="periodic")
    turn = round(shift * cells)
    x = grid.centers[0]
    values = 1 + 0.5 * np.sin(2 * np.pi * x) + 0.3 * np.cos(4 * np.pi * x)
    potential = np.cos(2 * np.pi * x)
    laws = []
    for k in (0, turn):
        energy = wg.Entropy(5.0) + wg.Potential(lambda x, k=k: np.roll(potential, k))
        rho0 = wg.Density.from_values(grid, np.roll(values, k), normalize=True)
        laws.append(np.roll(wg.solve(energy, rho0, (0, 0.1), jko(0.05)).final.masses, -k))
    assert np.abs(laws[0] - laws[1]).max() < 1e-7


# -------------------------------------------------------------------- order 2
def test_order_two_is_bdf2_of_positions():
    # In positions m + s xi the step of order 2 is BDF2 for m' = -m and s' = 1 / s - s, after one Euler step.
    grid = wg.Grid([(-4, 6)], cells=400)
    energy, rho0 = wg.Entropy(1.0) + wg.Potential(quadratic), wg.Density.gaussian(grid, 2.0, 0.25)

    def spread(z, dt):
        return (z + np.sqrt(z * z + 4 * dt * (1 + dt))) / (2 * (1 + dt))

    taus, errors = (0.1, 0.05, 0.025), []
    for tau in taus:
        means, spreads = [2.0, 2.0 / (1 + tau)], [0.5, spread(0.5, tau)]
        for _ in range(round(1 / tau) - 1):
            means.append((4 * means[-1] - means[-2]) / 3 / (1 + 2 * tau / 3))
            spreads.append(spread((4 * spreads[-1] - spreads[-2]) / 3, 2 * tau / 3))
        law = solve(energy, rho0, (0, 1), jko(tau, order=2)).final
        h = 10 / 400
        assert law.mean() == pytest.approx(means[-1], abs=0.1 * h**2)
        assert law.cov() == pytest.approx(spreads[-1] ** 2, abs=0.1 * h**2)
        errors.append(abs(law.mean() - 0.735758882343))
    assert errors[-1] < 1e-3
    assert 1.8 < slope(taus, errors) < 2.3


def test_second_order_in_the_plane():
    grid = wg.Grid([(-3, 4), (-3.5, 3.5)], cells=56)
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: (x**2 + 0.8 * x * y + y**2) / 2)
    rho0 = wg.Density.gaussian(grid, [1.0, -0.5], [[0.4, 0.1], [0.1, 0.5]])
    exact = wg.solve(energy, rho0, (0, 0.4), jko(0.0125, order=2)).final.masses
    taus = (0.2, 0.1, 0.05)
    for order, low, high in ((1, 0.85, 1.1), (2, 1.7, 2.3)):
        errors = [np.abs(solve(energy, rho0, (0, 0.4), jko(tau, order=order)).final.masses - exact).sum()
                  for tau in taus]
        assert low < slope(taus, errors) < high


# -------------------------------------------------------------------- effort, settings
def test_later_steps_are_cheap():
    line, plane = wg.Grid([(-4, 6)], cells=1600), wg.Grid([(0, 1)] * 2, cells=(40, 40))
    cases = [(wg.Entropy(1.0) + wg.Potential(quadratic), wg.Density.gaussian(line, 2.0, 0.25), 0.1),
             (wg.Entropy(2.0) + wg.Potential(lambda x, y: 4 * ((x - 0.5) ** 2 + (y - 0.4) ** 2)),
              wg.Density.gaussian(plane, [0.4, 0.5], 0.01), 0.005)]
    for energy, rho0, tau in cases:
        inner = jko(tau).make_inner(energy.assemble(rho0.grid), rho0.grid)
        step, iterations = inner.begin(rho0), []
        for _ in range(12):
            step = inner.step(step, tau)
            assert step.metric == "exact"
            iterations.append(step.iterations)
        assert np.median(iterations) <= 5


def test_the_metric_is_an_option():
    grid = wg.Grid([(-1, 1)], cells=8)
    with pytest.raises(wg.InvalidInput, match="metric"):
        wg.solve(wg.Entropy(1.0), wg.Density.uniform(grid), (0, 1), jko(0.1, options={"metric": "euclidean"}))
    rho0 = wg.Density.gaussian(grid, 0.1, 0.1)
    for grid_or_metric in ("linear", "exact"):
        sol = wg.solve(wg.Entropy(1.0), rho0, (0, 0.1), jko(0.1, options={"metric": grid_or_metric}))
        assert sol.jko_steps[0].metric == grid_or_metric
