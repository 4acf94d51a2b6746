"""Kernels of linearized JKO and its factorization, against plain twins."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled import block_ldl
from wgflow.compiled import linearized as kernels
from wgflow.solvers.jko.linearized.system import SaddleSystem, graph_of

GRIDS = [wg.Grid([(0, 1)], cells=9), wg.Grid([(0, 1)], cells=7, boundary="periodic"),
         wg.Grid([(0, 1), (0, 2)], cells=(5, 4), boundary=("periodic", "no-flux")),
         wg.Grid([(0, 1)] * 2, cells=(2, 3), boundary="periodic"), wg.Grid([(0, 1)] * 3, cells=(3, 4, 3)),
         wg.Grid(edges=[[0, 0.1, 0.3, 0.7, 1.0], [0, 0.5, 0.6, 1.0]])]


def dense_rates(grid) -> np.ndarray:
    """w[K, L] = 1 / (distance h_K) between neighbors, from the grid's own description."""
    rates = np.zeros((grid.size, grid.size))
    for cell in np.ndindex(*grid.shape):
        for axis in range(grid.ndim):
            n, distances = grid.shape[axis], grid.distances[axis]
            for sign in (-1, 1):
                other = list(cell)
                other[axis] += sign
                if not 0 <= other[axis] < n:
                    if not grid.periodic[axis]:
                        continue
                    other[axis] %= n
                face = (cell[axis] if sign > 0 else cell[axis] - 1) % n
                k, j = (np.ravel_multi_index(c, grid.shape) for c in (cell, tuple(other)))
                rates[k, j] += 1 / (distances[face] * grid.widths[axis][cell[axis]])
    return rates


def random_state(grid, seed=11):
    rng = np.random.default_rng(seed)
    return rng.normal(size=grid.size), rng.random(grid.size) + 0.1, rng.random(grid.size) + 0.2


def plain_transport(rates, phi, tau):
    fall = np.maximum(phi[:, None] - phi, 0)
    jacobian = np.eye(phi.size) * (1 + tau * (rates * fall).sum(axis=1)) - tau * rates * fall
    return jacobian, phi + 0.5 * tau * (rates * fall**2).sum(axis=1), (rates * fall**2).sum(axis=1)


@pytest.mark.parametrize("grid", GRIDS, ids=range(len(GRIDS)))
def test_graph_and_transport(grid):
    graph, rates, tau = graph_of(grid), dense_rates(grid), 0.3
    table = np.zeros_like(rates)
    table[graph.first, graph.second] = graph.forward
    table[graph.second, graph.first] = graph.backward
    assert table == pytest.approx(rates)
    rows = np.repeat(np.arange(grid.size), np.diff(graph.starts))
    again = np.zeros_like(rates)
    again[rows, graph.cells] = graph.rates
    assert again == pytest.approx(rates)
    phi, start, _ = random_state(grid)
    masses, hamiltonian = np.empty((2, grid.size))
    action = kernels.transport(phi, np.argsort(-phi), start, tau, *graph.rows, masses, hamiltonian)
    jacobian, expected, squares = plain_transport(rates, phi, tau)
    assert masses == pytest.approx(np.linalg.solve(jacobian.T, start), rel=1e-12)
    assert masses.sum() == pytest.approx(start.sum(), rel=1e-14)
    assert hamiltonian == pytest.approx(expected, rel=1e-12)
    assert action == pytest.approx((masses * squares).sum(), rel=1e-12)
    found = np.zeros(grid.size)
    assert kernels.invert_hamiltonian(expected, tau, *graph.rows, found, 1e-15, 200) <= 1e-14
    assert found == pytest.approx(phi, abs=1e-11)
    change = np.zeros(grid.size)
    assert kernels.net_flux(phi, masses, *graph.edges, change) == pytest.approx((masses * squares).sum(), rel=1e-12)
    assert masses - tau * change == pytest.approx(start, rel=1e-11)


@pytest.mark.parametrize("grid", GRIDS, ids=range(len(GRIDS)))
def test_newton_matrix_and_its_factorization(grid):
    graph, rates, tau, n = graph_of(grid), dense_rates(grid), 0.3, grid.size
    phi, masses, curvatures = random_state(grid)
    phi[1] = phi[0]
    system = SaddleSystem(grid, graph)
    assert sorted(system.order) == list(range(n))
    system.assemble(phi, masses, curvatures, tau)
    jacobian, _, _ = plain_transport(rates, phi, tau)
    # The mobility is that of the upstream cell, and the mean where there is no slope.
    stream = np.where(phi[:, None] > phi, 1.0, np.where(phi[:, None] < phi, 0.0, 0.5))
    mobility = tau * (stream * rates * masses[:, None] + stream.T * (rates * masses[:, None]).T)
    laplacian = np.diag(mobility.sum(axis=1)) - mobility
    matrix = np.block([[laplacian, jacobian.T], [jacobian, -np.diag(curvatures)]])
    x = np.random.default_rng(13).normal(size=(n, 2))
    product = (matrix @ x.T.ravel()).reshape(2, n).T
    assert system._product(x, None) == pytest.approx(product, abs=1e-12)
    assert system.factorize()
    assert system.direct(product) == pytest.approx(x, abs=1e-9)
    missing = np.empty(n)
    kernels.imbalance(masses, np.ones(n), system.diagonal, system.coupling, graph.first, graph.second, missing)
    assert missing == pytest.approx(1 - jacobian.T @ masses, abs=1e-13)
    # Cells that are empty, or rigid, or without curvature, leave it regular.
    masses[::2], curvatures[1::3], curvatures[2::3] = 0.0, 1e60, 0.0
    system.assemble(phi, masses, curvatures, tau)
    assert system.factorize()
    assert np.isfinite(system.direct(product)).all()
    x = system.direct(product)
    assert system._product(x, None) == pytest.approx(product, abs=1e-8 * np.abs(x[:, 0]).max())


def test_structure_of_the_factor():
    grid = wg.Grid([(0, 1)] * 2, cells=(6, 5))
    system, n = SaddleSystem(grid, graph_of(grid)), grid.size
    place = np.empty(n, dtype=int)
    place[system.order] = np.arange(n)
    filled = (dense_rates(grid) > 0)[np.ix_(system.order, system.order)]
    for k in range(n):
        below = np.flatnonzero(filled[:, k] & (np.arange(n) > k))
        filled[np.ix_(below, below)] = True
    for k in range(n):
        rows = system.factor_rows[system.columns[k]:system.columns[k + 1]]
        assert rows.tolist() == np.flatnonzero(filled[:, k] & (np.arange(n) > k)).tolist()


def test_nested_dissection_has_little_fill():
    fills = []
    for n in (16, 32, 64):
        grid = wg.Grid([(0, 1)] * 2, cells=(n, n))
        fills.append(SaddleSystem(grid, graph_of(grid)).factor_rows.size / (n * n * math.log2(n * n)))
    assert max(fills) < 2.0
    line = wg.Grid([(0, 1)], cells=50)
    assert SaddleSystem(line, graph_of(line)).factor_rows.size == 49
    assert block_ldl.order_box((5,), (False,)).tolist() == [0, 1, 2, 3, 4]


def test_systems_with_an_interaction():
    grid = wg.Grid([(0, 1)], cells=12)
    system = SaddleSystem(grid, graph_of(grid))
    phi, masses, curvatures = random_state(grid)
    system.assemble(phi, masses, curvatures, 0.2)
    table = np.cos(np.arange(12)[:, None] - np.arange(12))
    right = np.random.default_rng(17).normal(size=(12, 2))
    x = system.solve(right, np.ones((12, 2)), lambda m: table @ m)
    assert system._product(x, lambda m: table @ m) == pytest.approx(right, abs=0.05)
    # With an outdated factorization, too.
    system.assemble(phi + 0.01, masses, 1.3 * curvatures, 0.2)
    before = system.n_factorizations
    x = system.solve(right, np.ones((12, 2)))
    assert system.n_factorizations == before
    assert system._product(x, None) == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize("terms", [(0.7, [], []), (0.0, [0.5], [2.0]), (0.0, [0.5], [0.6]), (0.3, [0.5], [3.0]),
                                   (0.2, [0.1, 0.4], [2.0, 1.5])])
def test_internal_energies(terms):
    from scipy.optimize import minimize_scalar

    terms = (terms[0], np.array(terms[1]), np.array(terms[2]))
    rng = np.random.default_rng(19)
    masses, logs = rng.random(8) + 0.05, rng.normal(size=8)

    def energy(mass, log):
        r = mass / math.exp(log)
        return math.exp(log) * (terms[0] * r * math.log(r)
                                + sum(f * r**m / (m - 1) for f, m in zip(terms[1], terms[2])))

    slopes, curvatures = np.empty((2, 8))
    kernels.internal_slopes(masses, logs, 1e-30, terms, slopes, curvatures)
    for i in range(8):
        step = 1e-5 * masses[i]
        low, mid, high = (energy(masses[i] + s, logs[i]) for s in (-step, 0.0, step))
        assert slopes[i] == pytest.approx((high - low) / (2 * step), rel=1e-6, abs=1e-8)
        assert curvatures[i] == pytest.approx((high - 2 * mid + low) / step**2, rel=1e-3)
    # Fenchel's gap: zero at the slopes, and elsewhere what a search for the conjugate finds.
    assert kernels.excess_energy(masses, slopes, logs, 1e-30, terms) == pytest.approx(0.0, abs=1e-25)
    for shift in (-1e-3, 1e-7, 0.3, -0.4):
        pressures = np.where(np.arange(8) == 3, slopes + shift * np.abs(slopes), slopes)
        best = minimize_scalar(lambda y, q=pressures[3]: energy(math.exp(y), logs[3]) - math.exp(y) * q,
                               bracket=(math.log(masses[3]) - 1, math.log(masses[3]) + 1), tol=1e-12)
        expected = energy(masses[3], logs[3]) - masses[3] * pressures[3] - best.fun
        assert kernels.excess_energy(masses, pressures, logs, 1e-30, terms) == pytest.approx(expected, rel=1e-5,
                                                                                            abs=1e-14)


def test_internal_energies_of_empty_cells():
    terms = (0.5, np.array([]), np.array([]))
    slopes, curvatures = np.empty((2, 2))
    kernels.internal_slopes(np.array([0.0, 1e-30]), np.zeros(2), 1e-30, terms, slopes, curvatures)
    assert np.isfinite(slopes).all()
    assert slopes[0] == pytest.approx(slopes[1] - curvatures[1] * 1e-30)
    # The conjugate of powers below 1 is infinite at pressures above 0; above 1 empty cells rest at pressures below 0.
    fast, porous = (0.0, np.array([1.0]), np.array([0.5])), (0.0, np.array([1.0]), np.array([2.0]))
    assert kernels.excess_energy(np.ones(1), np.ones(1), np.zeros(1), 1e-30, fast) == math.inf
    assert kernels.excess_energy(np.zeros(1), -np.ones(1), np.zeros(1), 1e-30, porous) == pytest.approx(0, abs=1e-29)


def test_compensated_sums():
    x = np.array([1e16, 1.0, -1e16])
    assert kernels.compensated_dot(x, np.ones(3)) == 1.0
