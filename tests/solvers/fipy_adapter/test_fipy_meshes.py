"""Flows on meshes of FiPy that are no grid: triangles, holes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning

pytest.importorskip("fipy")

from wgflow.solvers.fipy_adapter import load, solve_on_mesh

BOWL = wg.Entropy(1.0) + wg.Potential(lambda x, y: (x**2 + y**2) / 2)


def triangles(n, half=3.0):
    return load().Tri2D(nx=n, ny=n, dx=2 * half / n, dy=2 * half / n) - [[half], [half]]


def test_ornstein_uhlenbeck_on_triangles():
    # Each coordinate by itself: mean m e^-t, variance 1 + (s - 1) e^-2t.
    t, errors = 0.4, []
    for n in (8, 12, 18):
        sol = solve_on_mesh(triangles(n, 4.0), BOWL, lambda x, y: np.exp(-((x - 1) ** 2 + y**2)), (0, t), dt=0.05)
        mean = sol.expect(lambda x, y: x)
        errors.append(abs(mean - math.exp(-t)))
        assert sol.expect(lambda x, y: y) == pytest.approx(0.0, abs=1e-9)
        assert sol.expect(lambda x, y: y * y) == pytest.approx(1 - 0.5 * math.exp(-2 * t), abs=0.4 / n)
        assert sol.mass_drift < 1e-12
        assert sol.max_energy_increase == 0.0
        assert sol.history["energy"][-1] < sol.history["energy"][0] - 0.1
    assert errors[-1] < 0.6 * errors[0]
    assert errors[-1] < 5e-3
    assert sol.t.tolist() == [0.0, t]
    assert sol.values.shape == (2, 4 * 18**2)


@pytest.mark.slow
def test_a_grid_of_squares_agrees_with_finite_volumes():
    fp = load()
    mesh = fp.Grid2D(nx=20, ny=16, dx=0.3, dy=0.3) - [[3.0], [2.4]]
    grid = wg.Grid([(-3.0, 3.0), (-2.4, 2.4)], cells=(20, 16))

    def f(x, y):
        return np.exp(-((x - 0.5) ** 2) - 2 * y**2)

    energy = BOWL + 0.5 * wg.Interaction(lambda x, y, u, v: np.exp(-((x - u) ** 2) - (y - v) ** 2))
    start = wg.Density.from_values(grid, f(*grid.mesh()), normalize=True)
    sol = solve_on_mesh(mesh, energy, f, (0, 0.3), dt=0.025)
    other = wg.solve(energy, start, (0, 0.3), method=wg.FiniteVolume(dt=0.01, corrected=False))
    values = sol.values[-1].reshape(16, 20).T
    assert float((np.abs(values - other.final.values) * grid.volumes).sum()) < 1e-3
    assert sol.history["energy"][-1] == pytest.approx(other.energy[-1], abs=1e-4)
    assert 0 < sol.sweep_change <= 1e-11


@pytest.mark.slow
def test_one_kernel_in_two_forms_on_a_ring():
    # A square with a hole: a sum of grids.
    fp = load()
    piece = fp.Grid2D(nx=2, ny=2, dx=0.5, dy=0.5)
    mesh = sum((piece + [[i], [j]] for i in range(3) for j in range(3) if (i, j) not in [(0, 0), (1, 1)]), piece)
    rank_one = wg.Entropy(2.0) + wg.LowRank(lambda x, y: np.stack([np.sin(x + y)]))
    pairs = wg.Entropy(2.0) + wg.Interaction(lambda x, y, u, v: np.sin(x + y) * np.sin(u + v))
    one, other = (solve_on_mesh(mesh, energy, lambda x, y: 1 + x, (0, 0.5), dt=0.1) for energy in (rank_one, pairs))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-9)
    assert one.values.shape[1] == 32
    assert np.abs(one.values[-1] - one.values[0]).max() > 1e-3
    assert one.mass_drift < 1e-12


def test_output_times():
    sol = solve_on_mesh(triangles(3), BOWL, lambda x, y: np.ones_like(x), (0, 1), dt=0.3, t_eval=[0.5, 0.75], order=1)
    assert sol.t.tolist() == [0.5, 0.75]
    assert sol.history["t"][[0, -1]].tolist() == [0.0, 1.0]
    assert sol.history["min_density"].min() >= 0


def test_a_skewed_mesh_is_pointed_out():
    mesh = load().Tri2D(nx=3, ny=3, dx=1.0, dy=0.5)
    with pytest.warns(WGFlowWarning, match="miss the normals"):
        solve_on_mesh(mesh, BOWL, lambda x, y: 1 + x, (0, 0.1), dt=0.1)


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ({"mesh": "tri"}, InvalidType, "mesh must be a mesh of FiPy"),
    ({"energy": 3.0}, InvalidType, "sum of terms"),
    ({"energy": wg.PowerEntropy(2.0)}, InvalidInput, "only Entropy, Potential and interactions"),
    ({"energy": wg.Potential(np.ones(36))}, InvalidInput, "array of values at cell centers"),
    ({"rho0": np.ones(35)}, InvalidInput, r"\(35,\); need \(36,\)"),
    ({"rho0": -np.ones(36)}, InvalidInput, "finite, >= 0"),
    ({"rho0": lambda x, y: x * np.nan}, InvalidInput, "finite, >= 0"),
    ({"rho0": lambda x: x}, InvalidInput, "rho0 raised TypeError"),
    ({"t_span": (1, 0)}, InvalidInput, "backward"),
    ({"t_eval": [2.0]}, InvalidInput, "outside t_span"),
    ({"dt": -1.0}, InvalidInput, "dt=-1"),
])
def test_bad_arguments(arguments, error, words):
    given = {"mesh": triangles(3), "energy": BOWL, "rho0": np.ones(36), "t_span": (0, 0.1), "dt": 0.1} | arguments
    with pytest.raises(error, match=words):
        solve_on_mesh(given.pop("mesh"), given.pop("energy"), given.pop("rho0"), given.pop("t_span"), **given)
