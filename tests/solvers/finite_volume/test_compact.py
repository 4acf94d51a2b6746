"""Fluxes of fourth order: when they are taken, how accurate they are, and what they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import gammainc

import wgflow as wg
from wgflow.energies.nodes import NodeGrid, density_of_nodes, nodes_of_density
from wgflow.grids import log_power_cell_average
from wgflow.solvers.finite_volume import compact_run
from wgflow.solvers.finite_volume.tolerance import Tolerance
from wgflow.validation import exact

GRID = wg.Grid((-4, 4), cells=80)
WELL = wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
RHO = wg.Density.gaussian(GRID, 0.5, 0.1)
ATTRACTION = wg.Interaction(wg.Convolution(lambda z: -np.exp(-z * z)))
PLANE = wg.Grid([(-4, 4), (-4, 4)], cells=(40, 48))
TILTED = wg.Potential(lambda x, y: x**4 / 4 - x**2 / 2 + 2 * y**2 + x * y / 2)
SPOT = wg.Density.gaussian(PLANE, [0.5, 0.8], [0.1, 0.15])


def run(energy, rho, t=0.5, **settings):
    return wg.solve(energy, rho, (0, t), wg.FiniteVolume(**settings), t_eval=[0, t])


# ---------------------------------------------------------------- when
OTHERS = [
    ("order=2", wg.Entropy(2.0) + WELL, RHO, {"order": 2}),
    ("corrected=False", wg.Entropy(2.0) + WELL, RHO, {"corrected": False}),
    ("no linear diffusion", 1 * WELL, RHO, {}),
    ("nonlinear diffusion", wg.Entropy(2.0) + wg.PowerEntropy(2.0), RHO, {}),
    ("not uniform", wg.Entropy(2.0) + WELL, wg.Density.uniform(wg.Grid(edges=np.linspace(-1, 1, 40) ** 3)), {}),
    ("cells too wide", wg.Entropy(500.0) + WELL, wg.Density.gaussian(wg.Grid((-4, 4), cells=30), 0.5, 0.3), {}),
    ("not smooth at 0", wg.Entropy(2.0) + wg.Convolution(wg.interactions.power(1.0), average=False), RHO, {}),
    ("averaged over both cells", wg.Entropy(2.0) + wg.Convolution(wg.interactions.power(1.0), average="double"), RHO,
     {}),
    ("infinite at 0", wg.Entropy(2.0) + wg.Interaction(wg.interactions.log(0.1)), RHO, {}),
    ("a start at rest", wg.Entropy(2.0) + WELL, wg.Density.from_log_function(GRID, lambda x: x**2 - x**4 / 2), {}),
]


@pytest.mark.parametrize(("reason", "energy", "rho", "settings"), OTHERS, ids=[case[0] for case in OTHERS])
def test_the_certificate_says_why_the_fluxes_are_others(reason, energy, rho, settings):
    sol = run(energy, rho, 0.01, **settings)
    assert "second order" in sol.certificate.scheme
    assert reason in sol.certificate.scheme
    assert sol.certificate.scheme in sol.certificate.explain()
    if "order" not in settings:
        with pytest.raises(wg.InvalidInput, match="order=4"):
            run(energy, rho, 0.01, **settings, order=4)


@pytest.mark.parametrize("energy", [wg.Entropy(2.0) + WELL, wg.Entropy(2.0) + WELL + ATTRACTION])
def test_smooth_problems_take_them(energy):
    sol = run(energy, RHO)
    assert sol.certificate.scheme == "fluxes of fourth order in space"
    assert sol.certificate.ok


@pytest.mark.parametrize("settings", [{"order": 3}, {"tol": 0.0}, {"tol": 2.0}, {"tol": 1e-3, "rtol": 1e-4},
                                      {"tol": 1e-3, "dt": 0.1}, {"max_step": -1.0}, {"max_step": 0.1, "dt": 0.1}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(wg.InvalidInput, match=next(iter(settings))):
        wg.FiniteVolume(**settings)


# ---------------------------------------------------------------- how accurate
def test_a_rough_start_leaves_the_accuracy_in_time():
    # A box: after it has spread the error is that of its edges on the grid, not of the steps.
    energy, errors = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2), []
    for n in (100, 200):
        grid = wg.Grid((-8, 8), cells=n)
        values = (np.abs(grid.centers[0]) < 1).astype(float)
        rho = wg.Density.from_values(grid, values, normalize=True)
        sol = run(energy, rho, 1.0)
        assert sol.certificate.max_energy_increase == 0
        assert sol.certificate.n_accepted < 60
        errors.append(abs(sol.final.cov() - (1 - 2 / 3 * math.exp(-2))))
    assert errors[1] < 1e-2


@pytest.mark.parametrize("d", [2, 3, 8, 40])
def test_radial_weights_keep_the_order(d):
    def averages(variance, edges):
        return np.diff(gammainc(d / 2, edges**2 / (2 * variance))) / np.diff(edges)

    end, errors, cells = math.sqrt(d) + 6.5, [], (50, 71, 100, 141)
    for n in cells:
        edges = np.linspace(0, end, n + 1)
        grid = wg.Grid((0, end), cells=n, log_weight=log_power_cell_average(edges, d - 1))
        rho = wg.Density.from_values(grid, averages(0.5, edges), normalize=True)
        sol = run(wg.Entropy(1.0) + wg.Potential(lambda r: r**2 / 2), rho, rtol=1e-10, order=4)
        truth = wg.Density.from_values(grid, averages(1 - 0.5 * math.exp(-1), edges), normalize=True)
        errors.append(np.abs(sol.final.masses - truth.masses).sum())
    assert -np.polyfit(np.log(cells), np.log(errors), 1)[0] > 3.7
    assert errors[-1] < 5e-4


def test_a_noisy_network_on_its_own_grid():
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    energy, means = model.energy(beta=100.0), []
    for n in (200, 400, 800):
        grid = model.grid(cells=n, beta=100.0)
        sol = run(energy, model.initial_density(0.8, grid), 2.0)
        assert "fourth" in sol.certificate.scheme
        assert sol.certificate.ok
        means.append(sol.final.mean())
    assert abs(means[1] - means[2]) < 0.15 * abs(means[0] - means[1])


@pytest.mark.parametrize(("energy", "rho"), [
    (wg.Entropy(4.0) + WELL, RHO), (wg.Entropy(4.0) + TILTED, SPOT), (wg.Entropy(4.0) + WELL + ATTRACTION, RHO),
], ids=["line", "plane", "field"])
@pytest.mark.parametrize("dt", [0.05, 0.1])
def test_the_estimate_is_the_local_error(energy, rho, dt, monkeypatch):
    told = []
    for name in ("_of_line", "_extrapolated"):
        original = getattr(compact_run.Compact, name)

        def noting(self, *arguments, original=original):
            for move in original(self, *arguments):
                told.append(self.error)
                yield move

        monkeypatch.setattr(compact_run.Compact, name, noting)
    for start in (rho, run(energy, rho, 0.1, dt=0.002).final):
        told.clear()
        one = run(energy, start, dt, dt=dt).final
        estimate = told[0]
        error = np.abs(one.masses - run(energy, start, dt, dt=dt / 64).final.masses).sum()
        assert 0.3 < error / estimate < 3.0


def test_two_evaluations_of_the_interaction_a_step(monkeypatch):
    from wgflow.interactions.operators import ConvolutionOperator

    count, original = [0], ConvolutionOperator.apply

    def counting(self, masses):
        count[0] += 1
        return original(self, masses)

    monkeypatch.setattr(ConvolutionOperator, "apply", counting)
    few = run(wg.Entropy(2.0) + WELL + ATTRACTION, RHO, 0.2, dt=0.01)
    first, count[0] = count[0], 0
    many = run(wg.Entropy(2.0) + WELL + ATTRACTION, RHO, 0.4, dt=0.01)
    assert count[0] - first == 2 * (many.certificate.n_accepted - few.certificate.n_accepted) == 40


def test_a_start_without_a_past_is_of_third_order():
    problem = exact.Kuramoto()
    grid = problem.grid(64)
    energy, rho = problem.energy(), problem.initial_density(grid)
    errors = [np.abs(run(energy, rho, dt, dt=dt).final.masses - run(energy, rho, dt, dt=dt / 64).final.masses).sum()
              for dt in (0.2, 0.1)]
    assert math.log2(errors[0] / errors[1]) > 3.6


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(("energy", "cells"), [(wg.Entropy(4.0) + WELL, 160),
                                               (wg.Entropy(4.0) + WELL + ATTRACTION, 80)], ids=["line", "field"])
def test_a_tolerance_for_the_whole_run(energy, cells, tol):
    rho = wg.Density.gaussian(wg.Grid((-4, 4), cells=cells), 0.5, 0.1)
    sol = run(energy, rho, tol=tol)
    fine = wg.Grid((-4, 4), cells=640)
    truth = run(energy, wg.Density.gaussian(fine, 0.5, 0.1), rtol=1e-9).final
    error = np.abs(sol.final.masses - truth.masses.reshape(rho.grid.size, -1).sum(axis=1)).sum()
    assert error < tol
    passed, words = sol.certificate.checks()["tolerance"]
    assert passed, words
    assert sol.certificate.error_estimate <= 0.6 * tol


def test_a_kink_of_the_kernel_is_seen_by_the_tolerance():
    # Errors of second order, of which the density itself shows nothing. (Kinks where two points meet are mended.)
    attraction = 2.0 * wg.Interaction(lambda x, y: np.maximum(np.abs(x - y), 0.4))
    energy = wg.Potential(lambda x: 0.5 * x**2) + attraction + wg.Entropy(5.0)
    laws = [run(energy, wg.Density.gaussian(wg.Grid((-6, 6), cells=n), 0.5, 0.3), tol=tol)
            for n, tol in ((128, 1e-4), (512, 1e-4), (1024, 1e-4))]
    joined = [laws[-1].final.masses.reshape(n, -1).sum(axis=1) for n in (128, 512)]
    errors = [np.abs(sol.final.masses - masses).sum() for sol, masses in zip(laws, joined)]
    assert errors[0] > 2e-4
    assert errors[1] < 1e-4
    assert [sol.certificate.checks()["tolerance"][0] for sol in laws] == [False, True, True]
    assert 0.5 * errors[0] < laws[0].certificate.grid_error < 2.0 * errors[0]
    assert all("of second order here: the kernel has a kink at displacement 0." in sol.certificate.scheme
               for sol in laws)


def test_the_sentence_says_how_the_error_of_the_grid_was_found():
    grid = wg.Grid((-4, 4), cells=128)
    start = wg.Density.gaussian(grid, 1.0, 0.2)
    by_function, by_values = (run(wg.Potential(v) + wg.Entropy(1.0), start, tol=1e-3)
                              for v in (lambda x: x**2 / 2, grid.centers[0] ** 2 / 2))
    assert by_function.certificate.grid_compared
    assert not by_values.certificate.grid_compared
    assert "differences of neighboring cells" in by_values.certificate.checks()["tolerance"][1]
    assert "neighboring" not in by_function.certificate.checks()["tolerance"][1]
    assert by_values.estimate_grid_error() is None
    assert by_function.estimate_grid_error() == by_function.certificate.grid_error
    # Atoms and runs without a tolerance are not judged; the estimate is there for the asking.
    plain = run(wg.Potential(lambda x: x**2 / 2) + wg.Entropy(1.0), start)
    assert plain.certificate.grid_error is None
    assert plain.estimate_grid_error() == pytest.approx(by_function.certificate.grid_error, rel=0.2)


def test_a_resumed_run_has_the_same_tolerance_check(tmp_path):
    energy = wg.Potential(lambda x: x**2 / 2) + wg.Entropy(1.0)
    start, file = wg.Density.gaussian(wg.Grid((-5, 5), cells=128), 1.0, 0.2), tmp_path / "run.npz"
    whole = run(energy, start, tol=1e-3)
    with pytest.raises(wg.ConvergenceError):
        wg.solve(energy, start, (0, 0.5), wg.FiniteVolume(tol=1e-3, max_steps=5), t_eval=[0, 0.5], checkpoint=file)
    again = wg.resume(file, energy=energy, method=wg.FiniteVolume(tol=1e-3))
    assert again.certificate.checks()["tolerance"] == whole.certificate.checks()["tolerance"]


def test_steps_share_a_tolerance_without_exceeding_it():
    # Each step makes the error that it may make.
    tolerance, total, count = Tolerance(None, 1e-3, 1.0, 0.0, 1.0), 0.0, 500
    for k in range(count):
        total += tolerance.of_step(math.nan, total, 1.0 / count, 1.0 - k / count)
    assert total <= 1e-3


def test_too_wide_cells_fail_the_tolerance_and_say_how_many_would_do():
    sol = run(wg.Entropy(4.0) + WELL, RHO, tol=1e-6)
    assert not sol.certificate.ok
    words = sol.certificate.checks()["tolerance"][1]
    more = float(words.split("take ")[1].split(" times")[0])
    cells = 8 * math.ceil(80 * more / 8)
    again = run(wg.Entropy(4.0) + WELL, wg.Density.gaussian(wg.Grid((-4, 4), cells=cells), 0.5, 0.1), tol=1e-6)
    assert again.certificate.ok, again.certificate.explain()


def test_the_longest_step():
    for order in (2, 4):
        sol = run(wg.Entropy(4.0) + WELL, RHO, max_step=0.01, order=order)
        assert sol.history.dt.max() <= 0.01 * (1 + 1e-9)


def test_mended_masses_do_not_shorten_the_steps():
    # In the steep tails of coarse grids the equations themselves lead below 0, at a rate that no dt changes.
    problem = exact.Heat()
    rho = problem.initial_density(problem.grid(20))
    for rtol in (1e-5, 1e-7, 1e-9):
        assert run(problem.energy(), rho, problem.t_end, rtol=rtol).certificate.n_accepted < 200


@pytest.mark.parametrize("start", ["cell", "holes", "rough"])
def test_rough_starts_are_not_at_rest(start, rng):
    values = {"cell": np.eye(80)[30], "holes": 1.0 * (rng.random(80) < 0.3), "rough": rng.random(80) ** 4}[start]
    sol = run(wg.Entropy(2.0) + WELL, wg.Density.from_values(GRID, values, normalize=True), 0.1)
    assert "rest" not in sol.certificate.scheme
    assert sol.certificate.max_energy_increase == 0


# ---------------------------------------------------------------- what they keep
@pytest.mark.parametrize(("energy", "rho"), [(wg.Entropy(4.0) + WELL, RHO), (wg.Entropy(4.0) + TILTED, SPOT)])
def test_energies_are_those_of_the_snapshots(energy, rho):
    sol = wg.solve(energy, rho, (0, 1))
    np.testing.assert_allclose([energy(law) for law in sol.densities], sol.energy, rtol=1e-12)
    np.testing.assert_array_equal(sol.densities[0].values, rho.values)
    assert (np.diff(sol.energy) <= 1e-13).all()


def test_parts_of_a_run_join():
    energy = wg.Entropy(4.0) + TILTED
    half = run(energy, SPOT, 0.25, dt=0.05).final
    whole = run(energy, SPOT, 0.5, dt=0.05).final
    np.testing.assert_allclose(run(energy, half, 0.25, dt=0.05).final.values, whole.values, atol=1e-12)
    # And through the averages alone, as from a file.
    again = wg.Density.from_values(PLANE, half.values)
    np.testing.assert_allclose(run(energy, again, 0.25, dt=0.05).final.values,
                               run(energy, half, 0.25, dt=0.05).final.values, atol=1e-11)


def test_one_compiled_loop_takes_the_steps_of_python(monkeypatch):
    energy = wg.Entropy(4.0) + WELL
    loop = wg.solve(energy, RHO, (0, 2), t_eval=[0.3, 2.0], time_scale=1.5)
    original = compact_run.CompactRun.__init__

    def without(self, *arguments):
        original(self, *arguments)
        self.loop = None

    monkeypatch.setattr(compact_run.CompactRun, "__init__", without)
    single = wg.solve(energy, RHO, (0, 2), t_eval=[0.3, 2.0], time_scale=1.5)
    assert loop.certificate.n_accepted == single.certificate.n_accepted > 5
    for a, b in zip(loop.densities, single.densities):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-11)
    np.testing.assert_allclose(loop.history.energy, single.history.energy, rtol=1e-13)
    assert loop.certificate.dissipation_defect == pytest.approx(single.certificate.dissipation_defect, rel=1e-6)


@pytest.mark.slow
def test_threads_give_the_same_bits():
    grid = wg.Grid([(-4, 4), (-4, 4)], cells=(192, 192))
    rho = wg.Density.gaussian(grid, [0.5, 0.8], [0.1, 0.15])
    one, two = (run(wg.Entropy(4.0) + TILTED, rho, 0.05, threads=k) for k in (1, 2))
    np.testing.assert_array_equal(one.final.values, two.final.values)


# ---------------------------------------------------------------- averages and values
@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
def test_averages_and_values_are_inverses(boundary):
    grid = wg.Grid([(0, 2 * np.pi), (0, 1)], cells=(32, 24), boundary=boundary)

    def law(x, y):
        return 2 + np.cos(x) * np.cos(2 * np.pi * y) + (boundary == "no-flux") * x * y

    rho = wg.Density.from_function(grid, law)
    nodes = nodes_of_density(rho)
    assert nodes.mass == pytest.approx(rho.mass, rel=1e-14)
    np.testing.assert_allclose(density_of_nodes(nodes).values, rho.values, rtol=1e-13)
    truth = law(*grid.mesh())
    assert np.abs(nodes.values / nodes.values.mean() - truth / truth.mean()).max() < 1e-3


def test_a_histogram_is_left_as_it_is(rng):
    rho = wg.Density.from_samples(GRID, rng.standard_normal(300))
    np.testing.assert_allclose(nodes_of_density(rho).values, rho.values, rtol=1e-12)


def test_the_volumes_of_nodes_are_a_quadrature_of_fourth_order():
    errors = []
    for n in (10, 20, 40):
        grid = wg.Grid((0, 1), cells=n)
        errors.append(abs((np.exp(grid.centers[0]) * NodeGrid(grid).volumes).sum() - (math.e - 1)))
    assert math.log2(errors[0] / errors[2]) / 2 > 3.7
