"""FiPy as a referee: its answers against exact solutions and FiniteVolume, its traps, and what it refuses."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, WGFlowWarning

pytest.importorskip("fipy")

from wgflow.solvers.fipy_adapter import FiPy, load
from wgflow.solvers.fipy_adapter import implicit as _fipy_implicit
from wgflow.solvers.fipy_adapter import method as fipy_adapter

ENERGY = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)


def l1(one, other):
    return float((np.abs(one.values - other.values) * one.grid.volumes).sum())


def ornstein_uhlenbeck(cells, method, t=0.5):
    grid = wg.Grid((-4, 5), cells=cells)
    sol = wg.solve(ENERGY, wg.Density.gaussian(grid, 2.0, 0.25), (0, t), method=method, t_eval=[t])
    exact = wg.Density.gaussian(grid, 2 * math.exp(-t), 0.25 * math.exp(-2 * t) + 1 - math.exp(-2 * t))
    return sol, l1(sol.final, exact)


def test_second_order_in_space_on_ornstein_uhlenbeck():
    cells = np.array([24, 34, 48, 68, 96])
    errors = [ornstein_uhlenbeck(n, FiPy(dt=0.025))[1] for n in cells]
    order = -np.polyfit(np.log(cells), np.log(errors), 1)[0]
    assert order == pytest.approx(2.0, abs=0.15)
    assert errors[-1] < 3e-3


@pytest.mark.parametrize(("order", "bound"), [(1, 0.03), (2, 5e-4)])
def test_orders_in_time(order, bound):
    errors, steps = [], np.array([0.1, 0.05, 0.025])
    # The plain fluxes of FiniteVolume are those of FiPy, so that only time differs.
    reference, _ = ornstein_uhlenbeck(40, wg.FiniteVolume(dt=0.001, corrected=False))
    for dt in steps:
        errors.append(l1(ornstein_uhlenbeck(40, FiPy(dt=dt, order=order))[0].final, reference.final))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.25)
    assert errors[-1] < bound


@pytest.mark.slow
def test_it_agrees_with_finite_volumes_to_the_order_of_the_grid():
    cells, gaps, energies = np.array([24, 34, 48, 68]), [], []
    for n in cells:
        sol, _ = ornstein_uhlenbeck(n, FiPy(dt=0.025))
        other, _ = ornstein_uhlenbeck(n, wg.FiniteVolume(order=2))
        gaps.append(l1(sol.final, other.final))
        energies.append(abs(sol.energy[-1] - other.energy[-1]))
        # The plain fluxes are the same as FiPy's: what remains is the error in time, whatever the grid.
        plain, _ = ornstein_uhlenbeck(n, wg.FiniteVolume(dt=0.005, corrected=False))
        assert l1(sol.final, plain.final) < 3e-4
        assert sol.energy[-1] == pytest.approx(plain.energy[-1], abs=2e-5)
    for gap in (gaps, energies):
        assert -np.polyfit(np.log(cells), np.log(gap), 1)[0] > 1.8
    assert gaps[-1] < 2e-3


def test_its_certificate_is_computed_from_the_run():
    sol, _ = ornstein_uhlenbeck(40, FiPy(dt=0.02, order=1))
    c = sol.certificate
    assert c.ok
    assert (c.n_accepted, c.n_rejected, c.n_fallback) == (25, 0, 0)
    assert 0 <= c.mass_drift < 1e-13
    assert c.max_energy_increase == 0.0
    assert 0 < c.dissipation_defect < 0.05
    assert c.settings["method"] == "FiPy"
    assert not c.controlled
    assert sol.history.t[-1] == 0.5
    np.testing.assert_allclose(np.diff(sol.history.t), 0.02, rtol=1e-9)


def test_negative_values_are_told_and_not_hidden():
    # The midpoint rule rings in far tails, and where a step is far too long.
    grid = wg.Grid((-3, 3), cells=40, boundary="no-flux")
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    sol = wg.solve(energy, wg.Density.gaussian(grid, 0.5, 0.2), (0, 0.5), method=FiPy(dt=0.1))
    assert sol.success
    assert sol.certificate.min_density < 0
    assert not sol.certificate.ok
    assert "FAIL the smallest cell average" in sol.certificate.explain()
    assert all((rho.values >= 0).all() for rho in sol.densities)
    values = np.full(40, 0.01)
    values[20] = 50.0
    rough = wg.solve(wg.Entropy(1.0), wg.Density(grid, values), (0, 1), method=FiPy(dt=0.5), throw=False)
    assert rough.status == 1
    assert "of the mass a negative sign" in rough.message
    assert wg.solve(wg.Entropy(1.0), wg.Density(grid, values), (0, 1), method=FiPy(dt=0.5, order=1)).certificate.ok


@pytest.mark.slow
def test_desai_zwanzig_with_the_interaction_iterated_in_the_step():
    # Mean and energy of the exact flow at t = 0.5, beta = 4, from N(0.5, 0.2).
    grid = wg.Grid((-3, 3), cells=80)
    energy = (wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
              + wg.Interaction(lambda x, y: (x - y) ** 2 / 2))
    rho0 = wg.Density.gaussian(grid, 0.5, 0.2)
    sol = wg.solve(energy, rho0, (0, 0.5), method=FiPy(dt=0.05), t_eval=[0.5])
    assert sol.final.mean() == pytest.approx(0.547091647928, abs=1e-3)
    assert sol.energy[-1] == pytest.approx(-0.179760851877, abs=2e-4)
    assert 0 < sol.certificate.residual <= 1e-11
    # Lagging the interaction by one step would be of first order: the iterated step is of second.
    reference = wg.solve(energy, rho0, (0, 0.5), method=wg.FiniteVolume(dt=0.01, corrected=False), t_eval=[0.5])
    assert l1(sol.final, reference.final) < 2e-3


def test_two_axes_with_a_rotated_potential():
    K = np.array([[2.0, 0.8], [0.8, 1.0]])
    grid = wg.Grid([(-3.5, 3.5), (-4, 4)], cells=(36, 40))
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: x * x + 0.8 * x * y + 0.5 * y * y)
    rho0 = wg.Density.gaussian(grid, [0.8, -0.5], [0.4, 0.5])
    t = 0.25
    sol = wg.solve(energy, rho0, (0, t), method=FiPy(dt=0.025), t_eval=[t])
    values, vectors = np.linalg.eigh(K)
    decay = vectors @ np.diag(np.exp(-values * t)) @ vectors.T
    spread = vectors @ np.diag((1 - np.exp(-2 * values * t)) / values) @ vectors.T
    np.testing.assert_allclose(sol.final.mean(), decay @ [0.8, -0.5], atol=5e-3)
    np.testing.assert_allclose(sol.final.cov(), decay @ np.diag([0.4, 0.5]) @ decay + spread, atol=2e-2)
    other = wg.solve(energy, rho0, (0, t), t_eval=[t])
    assert l1(sol.final, other.final) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["periodic", "no-flux"])
@pytest.mark.parametrize("graded", [False, True])
def test_one_axis_of_any_kind(boundary, graded):
    edges = np.linspace(-math.pi, math.pi, 81)
    edges = edges + 0.2 * np.sin(edges) if graded else edges
    grid = wg.Grid(edges=edges, boundary=boundary)
    energy = wg.Entropy(2.0) + wg.Potential(np.cos) + wg.Interaction(lambda x, y: -np.cos(x - y))
    rho0 = wg.Density.from_function(grid, lambda x: 1 + 0.5 * np.sin(x))
    sol = wg.solve(energy, rho0, (0, 0.2), method=FiPy(dt=0.04), t_eval=[0.2])
    other = wg.solve(energy, rho0, (0, 0.2), t_eval=[0.2])
    assert l1(sol.final, other.final) < 2e-3
    assert l1(sol.final, rho0) > 0.1
    assert sol.certificate.mass_drift < 1e-13


@pytest.mark.parametrize("boundary", [("periodic", "no-flux", "periodic"), ("no-flux", "periodic", "no-flux"),
                                      ("no-flux", "no-flux", "periodic"), "periodic", "no-flux"])
def test_three_axes_in_their_order(boundary):
    grid = wg.Grid([(-math.pi, math.pi)] * 3, cells=(10, 8, 12), boundary=boundary)
    x, y, z = grid.mesh()
    V = 0.3 * np.cos(x) + 0.2 * np.cos(y) * np.sin(z) + 0.1 * np.cos(2 * z)
    rho0 = wg.Density.from_values(grid, 1 + 0.4 * np.sin(x) + 0.3 * np.cos(y + z), normalize=True)
    energy = wg.Entropy(1.0) + wg.Potential(V)
    sol = wg.solve(energy, rho0, (0, 0.2), method=FiPy(dt=0.1))
    other = wg.solve(energy, rho0, (0, 0.2), method=wg.FiniteVolume(dt=0.01, corrected=False))
    assert l1(sol.final, other.final) < 2e-3
    assert l1(sol.final, rho0) > 0.02


@pytest.mark.parametrize("boundary", [("periodic", "no-flux"), ("no-flux", "periodic"), "periodic"])
def test_two_axes_that_close(boundary):
    grid = wg.Grid(edges=[np.array([0.0, 0.5, 0.8, 1.3, 2.0, 2.4]), np.linspace(0, 1, 8)], boundary=boundary)
    x, y = grid.mesh()
    energy = wg.Entropy(1.0) + wg.Potential(np.sin(3 * x + y))
    rho0 = wg.Density.from_values(grid, 1 + 0.5 * np.cos(2 * x) * np.sin(5 * y), normalize=True)
    sol = wg.solve(energy, rho0, (0, 0.05), method=FiPy(dt=0.0025))
    other = wg.solve(energy, rho0, (0, 0.05), method=wg.FiniteVolume(dt=0.001, corrected=False))
    assert l1(sol.final, other.final) < 1e-4
    assert l1(sol.final, rho0) > 0.05


def test_reduced_coordinates_rest_at_their_gibbs_state():
    from wgflow.grids import log_power_cell_average

    edges = np.linspace(0, 5, 61)
    grid = wg.Grid((0, 5), cells=60, log_weight=log_power_cell_average(edges, 2))
    energy = wg.Entropy(1.0) + wg.Potential(lambda r: r * r / 2)
    star = wg.Density.from_values(grid, np.exp(grid.log_weight - grid.centers[0] ** 2 / 2), normalize=True)
    sol = wg.solve(energy, star, (0, 0.5), method=FiPy(dt=0.1))
    assert l1(sol.final, star) < 1e-6


def test_transport_without_diffusion():
    grid = wg.Grid((-3, 3), cells=200)
    rho0 = wg.Density.gaussian(grid, 1.5, 0.1)
    sol = wg.solve(wg.Potential(lambda x: x * x / 2), rho0, (0, 0.5), method=FiPy(dt=0.05), t_eval=[0.5])
    assert sol.final.mean() == pytest.approx(1.5 * math.exp(-0.5), abs=0.02)


def test_time_scale_is_a_clock():
    grid = wg.Grid((-4, 5), cells=30)
    rho0 = wg.Density.gaussian(grid, 2.0, 0.25)
    fast = wg.solve(ENERGY, rho0, (0, 0.2), method=FiPy(dt=0.02), time_scale=2.0)
    plain = wg.solve(ENERGY, rho0, (0, 0.4), method=FiPy(dt=0.04))
    np.testing.assert_allclose(fast.final.values, plain.final.values, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_barenblatt_with_a_front_that_moves():
    # u = t^-a (C - k x^2 t^-2a)_+ with a = 1/3, k = 1/12 solves u_t = (u^2)_xx.
    C, k = 0.360562392577, 1 / 12

    def exact(grid, t):
        s, radius = t ** (-1 / 3), math.sqrt(C / k) * t ** (1 / 3)
        z = np.clip(grid.edges[0], -radius, radius)
        return wg.Density.from_values(grid, np.maximum(np.diff(s * (C * z - k * z**3 / 3 * s * s)), 0) / grid.widths[0])

    grid = wg.Grid((-3.2, 3.2), cells=64)
    with pytest.warns(WGFlowWarning, match="accurate to about one percent"):
        sol = wg.solve(wg.PowerEntropy(2.0), exact(grid, 1.0), (1, 1.5), method=FiPy(dt=0.1), t_eval=[1.5])
    assert l1(sol.final, exact(grid, 1.5)) < 1e-3
    assert l1(sol.final, exact(grid, 1.0)) > 0.1
    front = grid.centers[0][sol.final.values > 1e-4].max()
    assert front == pytest.approx(math.sqrt(C / k) * 1.5 ** (1 / 3), abs=grid.widths[0][0])


# ---------------------------------------------------------------- traps
def test_the_smallest_steps_move_the_state():
    grid = wg.Grid((-4, 5), cells=40)
    rho0 = wg.Density.gaussian(grid, 2.0, 0.25)
    sol = wg.solve(ENERGY, rho0, (0, 1e-8), method=FiPy(dt=1e-9, order=1))
    other = wg.solve(ENERGY, rho0, (0, 1e-8), method=wg.FiniteVolume(dt=1e-9, corrected=False))
    moved = l1(other.final, rho0)
    assert moved > 1e-9
    assert l1(sol.final, rho0) == pytest.approx(moved, rel=1e-3)


def test_fipys_own_criterion_would_leave_it_where_it_is():
    # The trap itself, so that we learn when a later FiPy has none.
    fp = load()
    rho = fp.CellVariable(mesh=fp.Grid1D(nx=40, dx=0.2), value=np.sin(np.arange(40)) + 2, hasOld=True)
    before = np.array(rho.value)
    (fp.TransientTerm() == fp.DiffusionTerm(1.0)).solve(var=rho, dt=1e-9, solver=fp.LinearLUSolver())
    assert (rho.value == before).all()


def test_a_state_that_does_not_move_is_an_error(monkeypatch):
    monkeypatch.setattr(_fipy_implicit.Implicit, "step", lambda self, values, *rest: values)
    with pytest.raises(ConvergenceError, match="unchanged, though it dissipates") as caught:
        ornstein_uhlenbeck(20, FiPy(dt=0.1))
    assert caught.value.partial.certificate.n_accepted == 0


def test_a_linear_solver_that_stops_early_is_an_error(monkeypatch):
    solver = type(load().LinearLUSolver())
    monkeypatch.setattr(solver, "_solve_", _unsolved)
    with pytest.raises(ConvergenceError, match="linear solver stopped at residual"):
        ornstein_uhlenbeck(20, FiPy(dt=0.1))


def _unsolved(self, L, x, b):
    self._setConvergence(suite="scipy", code=0, iterations=10, residual=1.0)
    return x + 1e-3


def test_an_equilibrium_rests_and_is_no_error():
    grid = wg.Grid((-4, 4), cells=40)
    star = wg.Density.from_values(grid, np.exp(-grid.centers[0] ** 2 / 2), normalize=True)
    sol = wg.solve(ENERGY, star, (0, 1), method=FiPy(dt=0.1))
    assert l1(sol.final, star) < 1e-6


@pytest.mark.slow
def test_importing_fipy_leaves_the_process_alone():
    code = ("import os, sys, warnings; sys.argv = ['x', '--petsc', '--inline']; os.environ['FIPY_SOLVERS'] = 'petsc'; "
            "import wgflow.solvers.fipy_adapter as a; assert 'fipy' not in sys.modules; before = warnings.filters[:]; "
            "fp = a.load(); print(fp.solvers.solver_suite, sys.argv, os.environ['FIPY_SOLVERS'], "
            "warnings.filters[:] == before)")
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", code], capture_output=True,
                          text=True, timeout=120, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "scipy ['x', '--petsc', '--inline'] petsc True"


def test_a_missing_fipy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fipy", None)
    with pytest.raises(InvalidInput, match="pip install fipy"):
        ornstein_uhlenbeck(20, FiPy(dt=0.1))
    assert "FIPY_SOLVERS" not in os.environ


def test_other_solvers_are_refused(monkeypatch):
    monkeypatch.setattr(load().solvers, "solver_suite", "petsc")
    with pytest.raises(InvalidInput, match="FIPY_SOLVERS=scipy"):
        ornstein_uhlenbeck(20, FiPy(dt=0.1))


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(("settings", "error", "words"), [
    ({"dt": 0.0}, InvalidInput, "dt=0.0"), ({"dt": "1"}, InvalidType, "dt must be a number"),
    ({"order": 3}, InvalidInput, "order=3"), ({"order": 2.0}, InvalidType, "order must be an int"),
    ({"tol": 2.0}, InvalidInput, "tol=2"), ({"max_sweeps": 0}, InvalidInput, "max_sweeps=0"),
    ({"max_steps": 0}, InvalidInput, "max_steps=0"), ({"time_limit": -1.0}, InvalidInput, "time_limit=-1"),
])
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        FiPy(**settings)


def test_grids_that_fipy_has_not():
    four = wg.Grid([(0, 1)] * 4, cells=2)
    with pytest.raises(InvalidInput, match="4 axes, FiPy's meshes at most 3"):
        wg.solve(wg.Entropy(1.0), wg.Density.uniform(four), (0, 1), method=FiPy())
    half = wg.Grid((0, 1), cells=8, origin=True)
    with pytest.raises(InvalidInput, match="no half cell at an origin"):
        wg.solve(wg.Entropy(1.0), wg.Density.uniform(half), (0, 1), method=FiPy())
    weighted = wg.Grid((0, 1), cells=8, log_weight=np.ones(8))
    with pytest.raises(InvalidInput, match="nonlinear diffusion on a weighted grid"):
        wg.solve(wg.PowerEntropy(2.0), wg.Density.uniform(weighted), (0, 1), method=FiPy())


def test_an_iteration_that_does_not_converge_keeps_what_there_is():
    grid = wg.Grid((-2, 2), cells=30)
    energy = wg.Entropy(20.0) + wg.Interaction(lambda x, y: -5 * np.exp(-(x - y) ** 2))
    rho0 = wg.Density.gaussian(grid, 0.3, 0.3)
    with pytest.raises(ConvergenceError, match="after 3 iterations") as caught:
        wg.solve(energy, rho0, (0, 1), method=FiPy(dt=0.5, max_sweeps=3))
    assert caught.value.reason == "tolerance"
    assert caught.value.partial.t[-1] == 0.0


def test_limits_stop_a_run():
    with pytest.raises(ConvergenceError, match="max_steps=3 reached") as caught:
        ornstein_uhlenbeck(20, FiPy(dt=0.05, max_steps=3))
    assert caught.value.partial.certificate.n_accepted == 3
    assert caught.value.reason == "max steps"
    with pytest.raises(ConvergenceError, match="time_limit") as caught:
        ornstein_uhlenbeck(20, FiPy(dt=1e-6, time_limit=0.2))
    assert caught.value.reason == "time limit"


def test_equal_ends_take_no_step():
    grid = wg.Grid((-4, 5), cells=20)
    rho0 = wg.Density.gaussian(grid, 2.0, 0.25)
    sol = wg.solve(ENERGY, rho0, (1, 1), method=FiPy())
    assert sol.certificate.n_accepted == 0
    np.testing.assert_array_equal(sol.final.values, rho0.values)


@pytest.mark.slow
def test_the_default_step_and_output_times():
    grid = wg.Grid((-4, 5), cells=12)
    rho0 = wg.Density.gaussian(grid, 2.0, 0.25)
    sol = wg.solve(ENERGY, rho0, (0, 0.1), method=FiPy(order=1), t_eval=[0.0, 0.033, 0.1])
    assert sol.t.tolist() == [0.0, 0.033, 0.1]
    assert 200 <= sol.certificate.n_accepted <= 201
    assert fipy_adapter.DEFAULT_STEPS == 200
