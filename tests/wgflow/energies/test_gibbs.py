"""Gibbs states, w exp(-beta V) / Z cell by cell, are exact fixed points; what is near them moves towards them."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.nodes import density_of_nodes, node_grid

LINE = {
    "no-flux": wg.Grid((-2, 2), cells=48),
    "periodic": wg.Grid((-2, 2), cells=48, boundary="periodic"),
    "graded": wg.Grid(edges=2 * np.linspace(-1, 1, 50) ** 3),
    "weighted": wg.Grid((0, 3), cells=48, log_weight=wg.grids.log_power_cell_average(np.linspace(0, 3, 49), 39)),
}
PLANE = wg.Grid([(-2, 2), (-2, 2)], cells=(24, 20), boundary=("no-flux", "periodic"))


def wells(*x):
    coupling = np.prod([np.sin(np.pi * a) for a in x], axis=0)
    return sum(np.cos(np.pi * a) + 0.3 * np.sin(np.pi * a) for a in x) + 0.4 * coupling


def gibbs(grid, beta, psi):
    log_values = -beta * psi + (0.0 if grid.log_weight is None else grid.log_weight)
    return wg.Density.from_values(grid, np.exp(log_values - log_values.max()), normalize=True)


def assert_stays(energy, rho, dt, steps, tolerance=1e-12, **settings):
    sol = wg.solve(energy, rho, (0, steps * dt), method=wg.FiniteVolume(dt=dt, **settings), t_eval=[steps * dt])
    assert sol.certificate.n_accepted == steps
    assert sol.certificate.n_rejected == 0
    there = rho.values > 1e-290  # below that exp(-beta V) itself has lost digits
    assert np.abs(sol.final.values[there] / rho.values[there] - 1).max() <= tolerance
    assert np.abs(sol.final.values - rho.values).max() <= tolerance * rho.values.max()


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("dt", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("beta", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("grid", LINE.values(), ids=LINE)
def test_a_gibbs_state_stays_for_200_steps(grid, beta, dt, corrected):
    energy = wg.Entropy(beta) + wg.Potential(wells)
    assert_stays(energy, gibbs(grid, beta, wells(*grid.mesh())), dt, 200, corrected=corrected)


# Every other case: each grid with every step and with both betas, each beta with every step.
LONG = [pytest.param(grid, beta, dt, id=f"{name}-{beta:g}-{dt:g}")
        for i, (name, grid) in enumerate({**LINE, "plane": PLANE}.items()) for j, beta in enumerate([1.0, 1e3])
        for k, dt in enumerate([1e-3, 0.1, 10.0]) if (i + j + k) % 2 == 0]


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "beta", "dt"), LONG)
def test_a_gibbs_state_stays_for_ten_thousand_steps(grid, beta, dt):
    energy = wg.Entropy(beta) + wg.Potential(wells)
    assert_stays(energy, gibbs(grid, beta, wells(*grid.mesh())), dt, 10_000)


@pytest.mark.parametrize("dt", [1e-2, 1.0])
def test_a_gibbs_state_of_an_interaction_stays(dt):
    # rho = exp(-beta (V + U rho)) / Z by plain iteration, which contracts at this beta.
    grid, beta = LINE["no-flux"], 1.5
    x = grid.centers[0]
    table = 0.5 * (x[:, None] - x) ** 2
    rho = wg.Density.uniform(grid)
    for _ in range(400):
        rho = gibbs(grid, beta, wells(x) + table @ rho.masses)
    assert_stays(wg.Entropy(beta) + wg.Potential(wells) + wg.Interaction(table), rho, dt, 500)


# ---------------------------------------------------------------- of fluxes of fourth order, by values at the centers
EVEN = {"no-flux": LINE["no-flux"], "periodic": LINE["periodic"], "plane": PLANE,
        "weighted": wg.Grid((0, 3), cells=48, log_weight=wg.grids.log_power_cell_average(np.linspace(0, 3, 49), 3))}


def assert_nodes_stay(energy, rho, dt, steps, tolerance=1e-12):
    method = wg.FiniteVolume(dt=dt, order=4)
    sol = wg.solve(energy, rho, (0, steps * dt), method=method, t_eval=[steps * dt])
    assert sol.certificate.n_accepted == steps
    assert sol.certificate.n_rejected == 0
    assert np.abs(sol.final.nodal.values / rho.nodal.values - 1).max() <= tolerance
    assert np.abs(sol.final.values / rho.values - 1).max() <= tolerance
    assert sol.energy[-1] == pytest.approx(energy(rho), abs=1e-13)


@pytest.mark.parametrize("dt", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("grid", EVEN.values(), ids=EVEN)
def test_a_gibbs_state_at_nodes_stays_for_200_steps(grid, beta, dt):
    rho = density_of_nodes(gibbs(node_grid(grid), beta, wells(*grid.mesh())))
    assert_nodes_stay(wg.Entropy(beta) + wg.Potential(wells), rho, dt, 200)


@pytest.mark.slow
@pytest.mark.parametrize("dt", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("grid", EVEN.values(), ids=EVEN)
def test_a_gibbs_state_at_nodes_stays_for_ten_thousand_steps(grid, dt):
    rho = density_of_nodes(gibbs(node_grid(grid), 1.0, wells(*grid.mesh())))
    assert_nodes_stay(wg.Entropy(1.0) + wg.Potential(wells), rho, dt, 10_000)


@pytest.mark.parametrize("dt", [1e-3, 0.3, 10.0])
def test_a_gibbs_state_of_an_interaction_at_nodes_stays(dt):
    grid, beta = LINE["no-flux"], 1.5
    x, nodes = grid.centers[0], node_grid(grid)
    table = 0.5 * (x[:, None] - x) ** 2
    rho = wg.Density.uniform(nodes)
    for _ in range(400):
        rho = gibbs(nodes, beta, wells(x) + table @ rho.masses)
    energy = wg.Entropy(beta) + wg.Potential(wells) + wg.Interaction(table)
    assert_nodes_stay(energy, density_of_nodes(rho), dt, 200)


@pytest.mark.parametrize("size", [1e-3, 1e-8])
@pytest.mark.parametrize("grid", EVEN.values(), ids=EVEN)
def test_a_state_near_a_gibbs_state_at_nodes_moves_to_it(grid, size):
    star = gibbs(node_grid(grid), 1.0, wells(*grid.mesh()))
    values = star.values * (1 + size * np.sin(1 + grid.mesh()[0]))
    rho = density_of_nodes(wg.Density.from_values(star.grid, values, normalize=True))
    sol = wg.solve(wg.Entropy(1.0) + wg.Potential(wells), rho, (0, 60), method=wg.FiniteVolume(dt=0.2, order=4))
    before, after = (np.abs(r.nodal.values / star.values - 1).max() for r in (rho, sol.final))
    assert before > 0.1 * size
    assert after < 1e-4 * before + 1e-12


def test_the_dissipation_of_a_gibbs_state_at_nodes_is_zero():
    for grid in EVEN.values():
        for beta in (1.0, 50.0):
            energy = wg.Entropy(beta) + wg.Potential(wells)
            rho = density_of_nodes(gibbs(node_grid(grid), beta, wells(*grid.mesh())))
            assert abs(energy.dissipation(rho)) < 1e-24 * 10 * beta


# ---------------------------------------------------------------- near them
@pytest.mark.parametrize("size", [1e-3, 1e-8])
@pytest.mark.parametrize("grid", [*LINE.values(), PLANE], ids=[*LINE, "plane"])
def test_a_state_near_a_gibbs_state_moves_to_it(grid, size):
    # The fixed points above are no frozen runs: a deviation of 1e-8 is seen, and dies out.
    beta = 1.0
    star = gibbs(grid, beta, wells(*grid.mesh()))
    rho = wg.Density.from_values(grid, star.values * (1 + size * np.sin(1 + grid.mesh()[0])), normalize=True)
    sol = wg.solve(wg.Entropy(beta) + wg.Potential(wells), rho, (0, 60), method=wg.FiniteVolume(dt=0.2))
    before, after = (np.abs(r.values / star.values - 1).max() for r in (rho, sol.final))
    assert before > 0.1 * size
    assert after < 1e-4 * before + 1e-12


def test_the_dissipation_of_a_gibbs_state_is_zero():
    for grid in (*LINE.values(), PLANE):
        for beta in (1.0, 50.0):
            energy = wg.Entropy(beta) + wg.Potential(wells)
            assert abs(energy.dissipation(gibbs(grid, beta, wells(*grid.mesh())))) < 1e-24 * 10 * beta
            assert energy.dissipation(wg.Density.uniform(grid)) > 1e-2


@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_every_start_ends_in_the_gibbs_state(beta, rng):
    grid = LINE["weighted"]
    energy = wg.Entropy(beta) + wg.Potential(lambda x: x**2)
    rho = wg.Density.from_values(grid, rng.random(48) ** 4, normalize=True)
    sol = wg.solve(energy, rho, (0, 400))
    star = gibbs(grid, beta, grid.centers[0] ** 2)
    assert np.abs(sol.final.masses - star.masses).sum() < 1e-8
    assert sol.energy[-1] == pytest.approx(energy(star), abs=1e-12)
