"""Finite volumes on four coordinates: the noisy rectifier network against Langevin particles of the same flow."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg

BETA, RIDGE, T, WIDTH = 400.0, 0.01, 0.2, 0.3
BOX = ((-0.6, 2.6), (-0.6, 2.6), (0.1, 0.8), (0.5, 1.3))


@pytest.fixture(scope="module")
def model():
    return wg.reduced_models.ReLUNetwork(d=320, s0=60, delta=0.4)


def by_volumes(model, cells):
    grid = model.grid(cells=cells, bounds=BOX)
    sol = wg.solve(model.energy(beta=BETA, ridge=RIDGE), model.initial_density(0.8, grid, width=WIDTH), (0.0, T),
                   t_eval=[T], time_scale=model.time_scale)
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.certificate.n_fallback == 0
    return sol


def by_particles(model, n, seed):
    rng = np.random.default_rng(seed)
    points = np.array(model.project(model.initial_theta(n, 0.8, rng)).T)
    points[:2] += WIDTH * rng.standard_normal((2, n))
    start = model.initial_atoms(0.8, nodes=2)
    atoms = wg.Atoms(points, np.full(n, 1.0 / n), start.bounds, start.powers)
    return wg.solve(model.energy(beta=BETA, ridge=RIDGE), atoms, (0.0, T), method=wg.Lagrangian(rng=seed, dt=0.005),
                    t_eval=[T], time_scale=model.time_scale).final


@pytest.mark.slow
def test_the_rectifier_network_against_particles(model):
    coarse, fine = (by_volumes(model, cells).final.mean() for cells in ((10, 10, 20, 24), (15, 15, 30, 36)))
    limit = fine + (fine - coarse) / (1.5**2 - 1.0)
    runs = np.array([by_particles(model, 3000, seed).mean() for seed in (11, 13, 17, 19, 23)])
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    # Five runs: Student's 99.9 % point of 4 degrees of freedom, and a tenth of what the extrapolation moved.
    assert (np.abs(runs.mean(axis=0) - limit) <= 8.6 * error + 0.1 * np.abs(limit - fine)).all()
    # The flow has moved by far more than that.
    assert (np.abs(limit - [1.0, 1.0, 0.345, 0.7204]) > 20 * error).all()


def test_memory_is_a_few_arrays_of_the_grid(model):
    import tracemalloc

    grid = model.grid(cells=20, bounds=BOX)
    rho0, energy = model.initial_density(0.8, grid, width=WIDTH), model.energy(beta=BETA, ridge=RIDGE)
    wg.solve(energy, rho0, (0.0, 1e-3), method=wg.FiniteVolume(dt=5e-4), t_eval=[1e-3], time_scale=2.0)
    tracemalloc.start()
    wg.solve(energy, rho0, (0.0, 1e-3), method=wg.FiniteVolume(dt=5e-4), t_eval=[1e-3], time_scale=2.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 40^4 cells at this rate take less than half of 24 GB, features included.
    assert peak / grid.size <= 8.0 * (len(model.target) + 40)
