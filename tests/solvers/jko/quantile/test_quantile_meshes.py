"""Quantile levels: the first mesh of a density, meshes that grow finer, and pairs of quantiles that repel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow import interactions as named
from wgflow.compiled import quantile as kernels
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.grids import log_power_cell_average
from wgflow.solvers.jko import JKO
from wgflow.solvers.jko.quantile import refinement as refinement
from wgflow.solvers.jko.quantile.mesh import make_mesh, node_weights, power_weight
from wgflow.solvers.jko.quantile.pairs import PairSums, split_operators


def quadratic(x):
    return x**2 / 2


def gaussian_step(s: float, tau: float, k: float, diffusion: float) -> float:
    """Deviation after one exact JKO step of a Gaussian with V = k x^2 / 2."""
    return (s + math.sqrt(s * s + 4 * tau * diffusion * (1 + tau * k))) / (2 * (1 + tau * k))


def order_of(sizes, errors) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


# -------------------------------------------------------------------- meshes of levels
def test_node_weights_integrate_smooth_functions_to_fourth_order():
    errors = []
    sizes = (20, 40, 80)
    for n in sizes:
        edges = np.linspace(-6, 6, n + 1)
        cdf = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in edges])
        errors.append(abs(float((node_weights(np.diff(cdf)) * edges**2).sum()) - 1))
    assert order_of(1 / np.array(sizes), np.maximum(errors, 1e-15)) > 3.8


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), spreads=st.booleans(),
       cells=st.one_of(st.none(), st.integers(1, 200)))
@settings(max_examples=60)
def test_meshes_of_any_density(seed, n, spreads, cells):
    rng = np.random.default_rng(seed)
    grid = wg.Grid([(-1, 2)], cells=n + 3)
    values = rng.random(n + 3) ** 8 * (rng.random(n + 3) > 0.4)
    values[rng.integers(n + 3)] += 0.1
    rho = wg.Density.from_values(grid, values)
    mesh = make_mesh(grid.edges[0], rho.masses, spreads, cells)
    assert (np.diff(mesh.positions) > 0).all()
    assert mesh.positions[0] >= -1
    assert mesh.positions[-1] <= 2
    assert (mesh.masses > 0).all()
    assert (mesh.weights > 0).all()
    assert mesh.masses.sum() == pytest.approx(rho.mass, rel=1e-14)
    assert mesh.weights.sum() == pytest.approx(rho.mass, rel=1e-14)
    # Mass stays where it is: the cells of the grid get back what they had, where the mesh resolves them.
    if cells is None:
        back = kernels.raster(mesh.positions, mesh.masses, grid.edges[0])
        assert np.abs(np.cumsum(back) - np.cumsum(rho.masses)).max() < 0.05 * rho.mass


def test_light_cells_behind_a_front_are_one_cell():
    masses = np.array([1e-13, 3e-13, 2e-12, 0.25, 0.5, 0.25, 1e-13])
    edges = np.arange(8.0)
    mesh = make_mesh(edges, masses, False, None, True)
    assert (mesh.positions == [0, 3, 4, 5, 6, 7]).all()
    assert mesh.masses == pytest.approx([2.4e-12, 0.25, 0.5, 0.25, 1e-13], rel=1e-10)
    # Tails that diffusion makes, and atoms, keep all cells.
    for internal, spreads in ((False, False), (True, True)):
        assert make_mesh(edges, masses, spreads, None, internal).masses.size >= 7


def test_known_powers_of_a_weight():
    edges = np.linspace(0, 3, 51)
    for power in (1, 2, 0.5, 39, 319):
        grid = wg.Grid([(0, 3)], cells=50, log_weight=log_power_cell_average(edges, power) + 0.7)
        q, constant = power_weight(grid)
        assert q == pytest.approx(power + 1, rel=1e-9)
        assert constant == pytest.approx(0.7, abs=1e-8 * max(1, power))
    assert power_weight(wg.Grid([(0, 3)], cells=50)) == (1.0, 0.0)
    assert power_weight(wg.Grid([(-1, 3)], cells=50, log_weight=np.full(50, 0.3))) == (1.0, pytest.approx(0.3))
    assert power_weight(wg.Grid([(0, 3)], cells=50, log_weight=np.sin(edges[1:]))) is None


def test_other_weights_act_as_a_potential():
    grid = wg.Grid([(-3, 3)], cells=200, log_weight=-wg.Grid([(-3, 3)], cells=200).centers[0] ** 2 / 2)
    sol = wg.solve(1 * wg.Entropy(1.0), wg.Density.gaussian(grid, 0.5, 0.5), (0, 1), JKO(tau=0.1))
    plain = wg.Grid([(-3, 3)], cells=200)
    other = wg.solve(wg.Entropy(1.0) + wg.Potential(quadratic), wg.Density.gaussian(plain, 0.5, 0.5), (0, 1),
                     JKO(tau=0.1))
    assert np.abs(sol.final.values - other.final.values).max() < 1e-9
    with pytest.raises(wg.InvalidInput, match="no power"):
        wg.solve(1 * PowerEntropy(2.0), wg.Density.gaussian(grid, 0.5, 0.5), (0, 1), JKO(tau=0.1))


# -------------------------------------------------------------------- meshes that grow finer
def long_step(cells, quantile_cells=None, steps=1, beta=20.0):
    rho0 = wg.Density.gaussian(wg.Grid([(-5, 5)], cells=cells), 0.5, 0.4)
    energy = wg.Entropy(beta) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    return wg.solve(energy, rho0, (0, 5.0 * steps), JKO(tau=5.0, options={"cells": quantile_cells}))


@pytest.mark.parametrize(("steps", "mean"), [(1, 0.4370772), (2, 0.4233951)])
def test_a_long_step_over_a_barrier(steps, mean):
    # The limit of many cells; a fixed mesh of 6400 cells agrees with itself at 12800 to 1e-6.
    errors = [abs(long_step(n, steps=steps).final.mean() - mean) for n in (100, 200, 400, 800)]
    assert max(errors) < 3e-4
    assert errors[-1] < 7e-5
    # What it was for: a mesh that does not follow is wrong in the second digit.
    assert abs(long_step(200, 200, steps).final.mean() - mean) > 0.02
    sol = long_step(200, steps=steps)
    assert sol.jko_steps[0].extras["cells"] > 250
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.certificate.edi_defect <= 0


@pytest.mark.parametrize(("seed", "tau"), [(1478776, 1.173), (1498784, 1.0), (11, 0.1), (23, 0.5), (35, 1.0),
                                           (57, 0.2)])
def test_barriers_of_any_shape(seed, tau):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 3))
    energy = wg.Entropy(15.0) + wg.Potential(
        lambda x: sum(0.3 * a[k] * np.cos((k + 1) * x + b[k]) for k in range(3)) + x**2 / 8)
    mean = 0.3 * rng.standard_normal()
    # A fixed mesh is no referee: in the first case one of 8000 cells is farther from the limit than ours of 200.
    one, fine = (wg.solve(energy, wg.Density.gaussian(wg.Grid([(-6, 6)], cells=n), mean, 0.5), (0, tau), JKO(tau=tau))
                 for n in (200, 1000))
    assert one.certificate.verdict != "failed", one.certificate.explain()
    assert one.final.mean() == pytest.approx(fine.final.mean(), abs=2.5e-3)
    assert math.sqrt(one.final.cov()) == pytest.approx(math.sqrt(fine.final.cov()), abs=2.5e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_energies_fall_while_meshes_grow(order):
    # Heat from a narrow law at short steps: the mesh is cut again and again, and no step shows it as a rise.
    grid = wg.Grid([(-6, 6)], cells=300)
    sol = wg.solve(1 * wg.Entropy(1.0), wg.Density.gaussian(grid, 0.0, 0.05), (0, 1), JKO(tau=2e-3, order=order))
    cells = [step.extras["cells"] for step in sol.jko_steps]
    credits = [step.extras["credit"] for step in sol.jko_steps]
    assert cells[-1] > 1.5 * cells[0]
    assert np.diff(cells).min() >= 0
    assert (np.diff(sol.history.energy) < 0).all()
    assert max(credits) <= 0
    assert credits[-1] == 0.0
    s = math.sqrt(0.05)
    for _ in range(500):
        s = gaussian_step(s, 2e-3, 0.0, 1.0)
    assert sol.final.cov() - (12 / 300) ** 2 / 12 == pytest.approx(s * s if order == 1 else 2.05, rel=2e-4)
    assert sol.energy[-1] == pytest.approx((1 * wg.Entropy(1.0))(sol.final), abs=1e-3)


def test_adaptive_steps_on_growing_meshes():
    grid = wg.Grid([(-5, 5)], cells=200)
    energy = wg.Entropy(20.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    rho0 = wg.Density.gaussian(grid, 0.5, 0.4)
    finals = []
    for order in (1, 2):
        sol = wg.solve(energy, rho0, (0, 4), JKO(tau=1.0, adaptive=True, rtol=1e-4, order=order))
        assert sol.certificate.ok
        assert sol.jko_steps[-1].extras["cells"] > sol.jko_steps[0].extras["cells"]
        finals.append(sol.final)
    reference = wg.solve(energy, rho0, (0, 4), wg.FiniteVolume()).final
    assert [f.mean() for f in finals] == pytest.approx([reference.mean()] * 2, abs=5e-3)


def test_cells_are_cut_where_they_are_wide():
    edges = np.linspace(0, 10, 101)
    masses, depths = np.full(20, 0.05), np.zeros(20, dtype=np.int64)
    x = np.concatenate((np.linspace(1, 2, 11), np.linspace(5, 6, 10)))
    wanted = refinement.depths_wanted(x, masses, depths, edges)
    # One cell spans 30 cells of the grid, all others about one: three cuts of it and its neighbors, then one fewer for
    # every four cells on either side.
    assert wanted.tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1]
    finer, deeper = refinement.cut(masses, depths, wanted)
    assert finer.sum() == pytest.approx(1.0, abs=1e-15)
    assert finer.size == deeper.size == (2**wanted).sum()
    levels = refinement.levels_of(deeper)
    assert set(refinement.levels_of(depths)) <= set(levels)
    for smooth in (True, False):
        new = refinement.positions_at(levels, x, masses, depths, smooth)
        assert (np.diff(new) > 0).all()
        assert set(x) <= set(new)
    assert refinement.depths_wanted(x[:11], masses[:10], depths[:10], edges) is None
    mesh = refinement.mesh_of(new, finer, deeper)
    assert mesh.weights.sum() == pytest.approx(1.0, abs=1e-15)
    assert (mesh.weights > 0).all()


def test_cuts_keep_smooth_laws():
    # A normal law, cut everywhere: new positions are its quantiles to fourth order.
    errors, sizes = [], (20, 40, 80, 160)
    for n in sizes:
        x = np.linspace(-3, 3, n + 1)
        cdf = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in x])
        masses, depths = np.diff(cdf), np.zeros(n, dtype=np.int64)
        _, deeper = refinement.cut(masses, depths, depths + 1)
        new = refinement.positions_at(refinement.levels_of(deeper), x, masses, depths)[1::2]
        middle = 0.5 * (cdf[1:] + cdf[:-1])
        errors.append(max(abs(0.5 * math.erfc(-z / math.sqrt(2)) - q) for z, q in zip(new[3:-3], middle[3:-3])))
    assert order_of(1 / np.array(sizes), errors) > 3.7


def test_excess_widths_twin(rng):
    edges = np.cumsum(rng.random(12))
    x = np.sort(edges[0] + np.ptp(edges) * rng.random(30))
    masses = rng.random(29)
    place = np.interp(x, edges, np.arange(12.0))
    spans = np.diff(place) / 0.3
    expected = np.where((masses > 0.2) & (spans > 1), spans, 0.0)
    assert kernels.excess_widths(x, masses, edges, 0.3, 0.2) == pytest.approx(expected, abs=1e-12)


# -------------------------------------------------------------------- pairs that repel
def test_pair_sums_twin(rng):
    x, weights = np.cumsum(rng.random(9) + 0.3), np.full(9, 0.1) * (1 + 0.1 * rng.random(9))
    for kernel in (named.quadratic() - named.log(), named.newtonian(1), named.power(1.5) + 0.5 * named.newtonian(1)):
        sums = PairSums([(2.0, kernel)])

        def plain(x, kernel=kernel):
            total = 0.0
            for j in range(9):
                left, right = max(j - 1, 0), min(j + 1, 8)
                h = (x[right] - x[left]) / (right - left)
                total += weights[j] ** 2 * float(kernel.diagonal(h))
                total += sum(weights[j] * weights[k] * float(kernel(x[j] - x[k])) for k in range(9) if k != j)
            return total

        energy, slopes = sums.energy(x, weights)
        assert energy == pytest.approx(plain(x), rel=1e-12)
        steps = 1e-6 * np.eye(9)
        gradient = np.array([(plain(x + e) - plain(x - e)) / 2e-6 for e in steps])
        assert weights * slopes == pytest.approx(gradient, abs=1e-7)
        hessian = np.array([(sums.energy(x + e, weights)[1] - sums.energy(x - e, weights)[1]) * weights for e in steps])
        assert np.abs(sums.hessian(x, weights) - hessian / 2e-6).max() < 1e-5
    assert PairSums([(1.0, -1.0 * named.log())]).energy(x[::-1], weights)[0] == np.inf


def test_which_kernels_are_summed_over_pairs():
    grid = wg.Grid([(-3, 3)], cells=50)
    for kernel, expected in ((named.quadratic() - named.log(), 1), (named.newtonian(1), 1), (named.log(), 0),
                             (named.power(1), 0), (named.quadratic(), 0)):
        kernels, rest = split_operators((1 * named.Convolution(kernel)).assemble(grid))
        assert (len(kernels), len(rest)) == (expected, 1 - expected)
        # A negative coefficient turns attraction into repulsion.
        kernels, _ = split_operators((-1.0 * named.Convolution(kernel)).assemble(grid))
        assert len(kernels) == (0 if kernel.smooth else 1 - expected)
    plain = (1 * wg.Interaction(lambda d: d**2)).assemble(grid)
    assert split_operators(plain)[0] == []


@given(seed=st.integers(0, 2**32 - 1), tau=st.floats(1e-3, 10.0))
@settings(max_examples=10)
def test_repelling_atoms_keep_their_order(seed, tau):
    rng = np.random.default_rng(seed)
    grid = wg.Grid([(-3, 3)], cells=60)
    rho0 = wg.Density.from_values(grid, (rng.random(60) > 0.5) * rng.random(60) + 1e-3, normalize=True)
    repulsion = named.newtonian(1) if seed % 2 else -1.0 * named.log()
    energy = wg.FreeEnergy([(1.0, named.Convolution(named.quadratic() + repulsion))])
    solver = JKO(tau=tau).make_inner(energy.assemble(grid), grid)
    step = solver.begin(rho0)
    for _ in range(3):
        new = solver.step(step, tau)
        assert new.residual <= 1e-9
        assert (np.diff(new.state["positions"]) > 0).all()
        assert new.energy + new.w2_squared / (2 * tau) <= step.energy + 1e-13
        step = new
