"""Steps by three members of a ladder of Strang steps, and blocks of lines that are empty."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.nodes import density_of_nodes, node_grid, nodes_of_density
from wgflow.flows import make_flow
from wgflow.solvers.finite_volume import compact, compact_sweeps
from wgflow.solvers.finite_volume.compact_run import CompactRun


def tilted(x, y):
    return x**4 / 4 - x**2 / 2 + y**2 + x * y / 2


PLANE = wg.Grid([(-3.6, 3.6), (-3.2, 3.2)], cells=(48, 40))
SPOT = wg.Density.gaussian(PLANE, [0.5, 0.4], [0.15, 0.2])
ENERGY = wg.Entropy(2.0) + wg.Potential(tilted)


def ladder(run, masses, dt):
    """Return the first candidate of a step."""
    psi = run.stepper.sweeps.potential(run.stepper.flow.on_grid)
    return next(run.rule._ladder(run.stepper, psi, masses, dt)).masses


def test_the_order_in_time():
    run = CompactRun(wg.FiniteVolume(), make_flow(ENERGY, SPOT, (0, 1), None, 1.0, wg.FiniteVolume()))
    start, laws = run.stepper.start().masses, {}
    for n in (6, 8, 11, 16, 44):
        laws[n] = start
        for _ in range(n):
            laws[n] = ladder(run, laws[n], 1.0 / n)
    counts = [6, 8, 11, 16]
    errors = [np.abs(laws[n] - laws[44]).sum() for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > 4.3
    assert errors[-1] < 1e-7


def test_the_estimate_is_the_local_error():
    run = CompactRun(wg.FiniteVolume(), make_flow(ENERGY, SPOT, (0, 1), None, 1.0, wg.FiniteVolume()))
    start = run.stepper.start().masses
    for dt in (0.06, 0.12):
        whole, parts = ladder(run, start, dt), start
        estimate = run.rule.error
        for _ in range(8):
            parts = ladder(run, parts, dt / 8)
        assert 0.1 < np.abs(whole - parts).sum() / estimate < 5


def test_tight_tolerances_take_fewer_steps(monkeypatch):
    few = wg.solve(ENERGY, SPOT, (0, 1), wg.FiniteVolume(rtol=1e-7), t_eval=[1.0])
    monkeypatch.setattr(compact, "LADDER_BELOW", 0.0)
    many = wg.solve(ENERGY, SPOT, (0, 1), wg.FiniteVolume(rtol=1e-7), t_eval=[1.0])
    truth = wg.solve(ENERGY, SPOT, (0, 1), wg.FiniteVolume(rtol=1e-10), t_eval=[1.0])
    assert few.certificate.n_accepted < many.certificate.n_accepted / 2
    gap = [np.abs(sol.final.values - truth.final.values).sum() for sol in (few, many)]
    assert gap[0] < gap[1]


@pytest.mark.parametrize("start", ["smooth", "rough", "holes", "cell"])
@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
def test_mass_sign_and_decay(start, boundary, rng):
    grid = wg.Grid([(0, 2 * np.pi), (0, 1)], cells=(36, 20), boundary=boundary)
    x, y = grid.mesh()
    values = {"smooth": 2 + np.cos(x) * np.cos(2 * np.pi * y), "rough": rng.random(grid.shape) ** 6,
              "holes": 1.0 * (rng.random(grid.shape) < 0.1), "cell": np.zeros(grid.shape)}[start]
    values[7, 9] += start == "cell"
    energy = wg.Entropy(3.0) + wg.Potential(lambda x, y: np.cos(x) + np.sin(x + 2 * np.pi * y))
    rho = wg.Density.from_values(grid, values, normalize=True)
    sol = wg.solve(energy, rho, (0, 2), wg.FiniteVolume(rtol=1e-6, order=4))
    certificate = sol.certificate
    assert certificate.mass_drift < 1e-13
    assert certificate.min_density >= 0
    assert certificate.max_energy_increase <= 1e-13
    assert (np.diff(sol.energy) <= 1e-13).all()


@pytest.mark.parametrize("dt", [1e-3, 0.1, 10.0, 1000.0])
def test_gibbs_states_stay(dt):
    grid = node_grid(PLANE)
    rho = density_of_nodes(wg.Density.from_values(grid, np.exp(-2.0 * tilted(*PLANE.mesh())), normalize=True))
    run = CompactRun(wg.FiniteVolume(), make_flow(ENERGY, rho, (0, 1), None, 1.0, wg.FiniteVolume()))
    start = masses = nodes_of_density(rho).masses
    for _ in range(10):
        masses = ladder(run, masses, dt)
    assert np.abs(masses - start).sum() < 1e-13


def test_three_axes():
    grid = wg.Grid([(-2.5, 2.5)] * 3, cells=(20, 24, 22))
    rho = wg.Density.gaussian(grid, [0.3, -0.2, 0.1], [0.2, 0.25, 0.3])
    energy = wg.Entropy(2.0) + wg.Potential(lambda x, y, z: (x - y) ** 2 / 2 + (y + z) ** 2 / 2 + x**2 + z**2 / 2)
    laws = [wg.solve(energy, rho, (0, 0.5), wg.FiniteVolume(rtol=rtol), t_eval=[0.5]).final.values
            for rtol in (1e-5, 1e-9)]
    assert np.abs(laws[0] - laws[1]).sum() * np.prod([h[0] for h in grid.widths]) < 1e-5


def test_empty_blocks_change_nothing_above_round_off(monkeypatch):
    grid = wg.Grid([(-6, 6), (-16, 16)], cells=(80, 256))
    rho = wg.Density.gaussian(grid, [0.5, 0.4], [0.15, 0.2])
    laws = []
    for part in (1e-20, 0.0):
        monkeypatch.setattr(compact_sweeps, "EMPTY", part)
        laws.append(wg.solve(ENERGY, rho, (0, 0.3), wg.FiniteVolume(rtol=1e-6), t_eval=[0.3]).final.masses)
    assert 0.0 < np.abs(laws[0] - laws[1]).sum() < 1e-13


def test_averages_are_of_sixth_order():
    errors, counts = [], [12, 18, 27, 40]
    for n in counts:
        grid = wg.Grid((0, 2 * np.pi), cells=n, boundary="periodic")
        edges = grid.edges[0]
        exact = 2 + np.diff(np.sin(edges)) / np.diff(edges)
        nodes = nodes_of_density(wg.Density.from_values(grid, exact))
        errors.append(np.abs(nodes.values - (2 + np.cos(grid.centers[0]))).max())
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > 5.7
    assert errors[-1] < 1e-7
