"""Laws with fronts, carried by points: readings on the grid, equations, observed orders, what always holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

import wgflow as wg
from wgflow.compiled.moving_mesh import (
    charge_jacobian,
    charge_velocities,
    factor_step,
    masses_between,
    newton_correction,
    node_weights,
    solve_step,
    velocities,
)
from wgflow.interactions import log, quadratic
from wgflow.solvers.finite_volume.front_mesh import FrontMesh, mesh_of_law
from wgflow.validation import exact

CARRIED = "points that carry the masses"
GRID = wg.Grid((-2.5, 2.5), cells=100)
STARTS = {
    "box": lambda x: 1.0 * (np.abs(x - 0.03) < 0.7),
    "slope": lambda x: np.where(np.abs(x) < 0.8, 1 + 0.8 * x, 0.0),
    "parabola": lambda x: np.maximum(1 - x**2, 0.0),
    "flat ends": lambda x: np.maximum(1 - x**2, 0.0) ** 4,
    "root": lambda x: np.maximum(1 - x**2, 0.0) ** 0.5,
    "one cell": lambda x: 1.0 * (np.abs(x - 0.02) < 0.02),
    "steps": lambda x: np.where(np.abs(x) < 0.9, 1 + 2.0 * (x > 0), 0.0),
    "two": lambda x: 1.0 * (np.abs(np.abs(x) - 0.8) < 0.4),
    "at a wall": lambda x: 1.0 * (x < 0),
    "everywhere": lambda x: np.exp(-10 * x**2),
}


def law(start, grid=GRID):
    return wg.Density.from_function(grid, STARTS[start])


def distance(a, b):
    return float(np.abs(a.masses - b.masses).sum())


def ends_of(problem, cells):
    grid = problem.grid(cells)
    return grid, problem.initial_density(grid), problem.front(0.0)[0]


# -------------------------------------------------------------------- kernels
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, 0.013, 0.37, 0.999])
def test_masses_of_powers_are_exact_wherever_the_end_is(p, shift):
    x = shift + np.linspace(0.0, 2.0, 41) ** 1.3
    below = (x - shift) ** p
    places = np.arange(0.0, 1.6, 0.1)
    out = np.empty(places.size - 1)
    masses_between(x, below, below[-1] - below, (0.0, 0.0), places, out)
    assert np.abs(out - np.diff(np.maximum(places - shift, 0.0) ** p)).max() < 1e-12


def test_no_mass_is_lost():
    rng = np.random.default_rng(3)
    mesh = FrontMesh.of(np.sort(rng.uniform(-2, 2, 60)), rng.uniform(0.0, 1.0, 59) ** 4)
    found = mesh.on_grid(GRID)
    assert found.min() >= 0.0
    assert found.sum() == pytest.approx(mesh.masses.sum(), rel=1e-14)


@pytest.mark.parametrize("power", [1.3, 2.0, 3.0, 6.0])
def test_a_front_moves_at_its_velocity(power):
    """rho = (c x)^(1/(k-1)) has the velocity -c k/(k - 1) everywhere; even halves of cells would be off at the end."""
    p, n = power / (power - 1.0), 400
    x = np.linspace(0.0, 1.0, n + 1)
    masses = np.diff(x**p / p)
    found = np.empty(n + 1)
    velocities(x, masses, node_weights(masses, power), power, 1.0, np.zeros(n + 1), found)
    assert np.abs(found[:n // 2] * (power - 1.0) / power + 1.0).max() < 2e-3
    halves = 0.5 * (np.append(masses, 0.0) + np.append(0.0, masses))
    velocities(x, masses, halves, power, 1.0, np.zeros(n + 1), found)
    assert abs(found[0] * (power - 1.0) / power + 1.0) > 0.05


def test_node_weights_keep_the_mass():
    masses = np.random.default_rng(5).uniform(0.5, 1.0, 50)
    for power in (1.3, 2.0, 7.0):
        weights = node_weights(masses, power)
        assert weights.min() > 0.0
        assert weights.sum() == pytest.approx(masses.sum(), rel=1e-14)


def test_an_implicit_step_is_a_minimum():
    rng, time, power, factor = np.random.default_rng(7), 0.1, 2.5, 0.7
    start = np.sort(rng.uniform(-1, 1, 9))
    masses = rng.uniform(0.5, 1.5, 8)
    weights, x = node_weights(masses, power), start.copy()

    def objective(x):
        internal = factor * (masses * (masses / np.diff(x)) ** (power - 1)).sum() / (power - 1)
        return internal + (weights * (x**4 / 4 + (x - start) ** 2 / (2 * time))).sum()

    for _ in range(60):
        newton_correction(x, start, time, masses, weights, power, factor, x**3, 3 * x**2)
    assert (np.diff(x) > 0).all()
    assert np.abs(approx_fprime(x, objective, 1e-7)).max() < 1e-5 * np.abs(approx_fprime(start, objective, 1e-7)).max()


def semicircle(n):
    angle = np.linspace(0.0, math.pi, n + 1)
    x, below = -np.cos(angle), (angle - 0.5 * np.sin(2 * angle)) / math.pi
    return x, np.diff(below)


def test_charges_on_a_semicircle_dilate_it():
    """int rho(y) / (x - y) dy = 2 x / R^2 for the semicircle of radius R = 1."""
    errors = []
    for n in (40, 80):
        x, masses = semicircle(n)
        found = np.empty(n + 1)
        charge_velocities(x, masses, 1.5, 0.4, np.zeros(n + 1), found)
        errors.append(np.abs(found - (3.0 - 0.4) * x).max())
    # Of fourth order inside, and of third at the ends.
    assert errors[0] < 1.2e-4
    assert errors[1] < errors[0] / 7.5


def test_derivatives_of_the_charges_velocities_and_their_steps():
    x, masses = semicircle(12)
    x = x + 0.02 * np.sin(5 * x)
    slopes, n = np.zeros(13), 13
    matrix, columns = np.empty((n, n)), np.empty((n, n))
    charge_jacobian(x, masses, 1.5, 0.4, np.zeros(n), matrix)
    for j in range(n):
        step = 1e-6 * np.eye(n)[j]
        up, down = np.empty(n), np.empty(n)
        charge_velocities(x + step, masses, 1.5, 0.4, slopes, up)
        charge_velocities(x - step, masses, 1.5, 0.4, slopes, down)
        columns[:, j] = (up - down) / 2e-6
    assert np.abs(matrix - columns).max() < 1e-5 * np.abs(matrix).max()
    right = np.cos(np.arange(13.0))
    wanted = np.linalg.solve(np.eye(n) - 0.3 * matrix, right)
    factor_step(matrix, 0.3)
    solve_step(matrix, right)
    assert np.abs(right - wanted).max() < 1e-12


# -------------------------------------------------------------------- a law by points
@pytest.mark.parametrize("m", [1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("mean", [0.0, 0.011, 0.037])
def test_ends_are_found_within_their_cells(m, mean):
    grid, rho, (left, right) = ends_of(exact.Barenblatt(m=m, mean=mean, bounds=(-4.0, 4.0)), 160)
    mesh = mesh_of_law(grid, rho.masses, m / (m - 1), m / (m - 1), 320)
    width = grid.widths[0][0]
    assert abs(mesh.points[0] - left) < 2e-3 * width
    assert abs(mesh.points[-1] - right) < 2e-3 * width
    assert np.abs(mesh.on_grid(grid) - rho.masses).sum() < 1e-6


@pytest.mark.parametrize("start", ["two", "at a wall", "everywhere"])
def test_laws_without_ends_are_left_to_fluxes(start):
    assert mesh_of_law(GRID, law(start).masses, 2.0, 2.0, 200) is None
    scheme = wg.solve(wg.PowerEntropy(2), law(start), (0, 0.01)).certificate.scheme
    assert scheme == "fluxes of second order in space (no linear diffusion)"


def test_laws_that_points_do_not_reproduce_are_left_to_fluxes():
    rho = law("steps")
    mesh = mesh_of_law(GRID, rho.masses, 2.0, 2.0, 200)
    assert np.abs(mesh.on_grid(GRID) - rho.masses).sum() > 1e-4
    assert CARRIED not in wg.solve(wg.PowerEntropy(2), rho, (0, 0.01)).certificate.scheme


def test_order_2_keeps_to_fluxes():
    assert CARRIED in wg.solve(wg.PowerEntropy(2), law("box"), (0, 0.01)).certificate.scheme
    sol = wg.solve(wg.PowerEntropy(2), law("box"), (0, 0.01), method=wg.FiniteVolume(order=2))
    assert sol.certificate.scheme == "fluxes of second order in space (order=2)"


# -------------------------------------------------------------------- right answers
@pytest.mark.parametrize(("problem", "least", "limit"), [
    (exact.Barenblatt(m=3.0), 1.9, 1e-5), (exact.Barenblatt(m=4.0, mean=0.1), 1.9, 1e-5),
    (exact.PorousMedium(m=3.0, t_end=0.4), 1.9, 1.5e-5), (exact.LogGas(), 1.3, 2e-7),
    (exact.LogGas(mean=0.3, repulsion=0.5, mass=2.0), 1.3, 2e-6),
], ids=["m = 3", "m = 4", "m = 3 in a well", "semicircle", "another semicircle"])
def test_fronts_are_of_second_order(problem, least, limit):
    cells, errors = (50, 71, 101), []
    for n in cells:
        grid = problem.grid(n)
        sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end), wg.FiniteVolume(rtol=1e-9))
        assert sol.certificate.verdict == "holds"
        errors.append(problem.errors(sol.final)["density"])
    assert errors[-1] < limit
    assert -np.polyfit(np.log(cells), np.log(errors), 1)[0] > least


def test_steps_are_of_third_order_at_least():
    """Of four in the limit; the fast waves of the diffusion reduce that of steps that do not resolve them."""
    problem = exact.PorousMedium(m=3.0, mean=0.4)
    grid = problem.grid(60)
    rho = problem.initial_density(grid)
    laws = [wg.solve(problem.energy(), rho, (0, 0.4), method=wg.FiniteVolume(dt=0.4 / n)).final
            for n in (16, 32, 64, 256)]
    errors = [distance(one, laws[-1]) for one in laws[:-1]]
    assert errors[0] / errors[1] > 8.0
    assert errors[1] / errors[2] > 11.0


@pytest.mark.parametrize("m", [2.0, 3.0])
def test_a_box_against_fluxes_on_a_fine_grid(m):
    fine = wg.Grid((-2.5, 2.5), cells=1600)
    energy, start = 1 * wg.PowerEntropy(m), wg.Density.from_function(fine, lambda x: 1.0 * (np.abs(x) < 0.7))
    coarse = wg.Density.from_values(GRID, start.values.reshape(100, 16).mean(axis=1))
    truth = wg.solve(energy, start, (0, 0.1), method=wg.FiniteVolume(rtol=1e-6, order=2)).final
    sol = wg.solve(energy, coarse, (0, 0.1))
    assert np.abs(sol.final.masses - truth.masses.reshape(100, 16).sum(axis=1)).sum() < 1e-4
    assert sol.certificate.verdict == "holds"


@pytest.mark.parametrize("m", [2.0, 3.0])
def test_a_front_that_waits(m):
    problem = exact.WaitingTime(m=m, t_end=2.0)
    grid = problem.grid(101)
    times = [0.9 * problem.waiting_time, 3.0 * problem.waiting_time]
    sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, times[-1]), t_eval=times)
    assert problem.measure(sol.densities[0])["escaped"] == 0.0
    fluxes = wg.solve(problem.energy(), problem.initial_density(grid), (0, times[-1]), t_eval=times,
                      method=wg.FiniteVolume(order=2, rtol=1e-6))
    late = [problem.measure(one.final)["escaped"] for one in (sol, fluxes)]
    assert late[0] > 1e-4
    assert late[0] == pytest.approx(late[1], rel=0.1)


def test_the_clock_is_kept():
    problem = exact.Barenblatt(m=3.0)
    grid = problem.grid(60)
    rho = problem.initial_density(grid)
    one = wg.solve(problem.energy(), rho, (0, 0.5), method=wg.FiniteVolume(rtol=1e-8)).final
    clocked = wg.solve(problem.energy(), rho, (0, 1), method=wg.FiniteVolume(rtol=1e-8), time_scale=lambda t: t)
    assert CARRIED in clocked.certificate.scheme
    assert distance(one, clocked.final) < 1e-6


@pytest.mark.parametrize("energy", [wg.PowerEntropy(3) + wg.Potential(lambda x: np.cos(2 * x) + 0.3 * x),
                                    1 * wg.Interaction(quadratic() + log(-1.0))], ids=["porous", "charges"])
def test_mirror_images(energy):
    mirrored = energy
    if isinstance(energy.terms[0][1], wg.PowerEntropy):
        mirrored = wg.PowerEntropy(3) + wg.Potential(lambda x: np.cos(2 * x) - 0.3 * x)
    rho = law("slope")
    a = wg.solve(energy, rho, (0, 0.1), method=wg.FiniteVolume(dt=0.02))
    b = wg.solve(mirrored, wg.Density(GRID, rho.values[::-1]), (0, 0.1), method=wg.FiniteVolume(dt=0.02))
    assert CARRIED in a.certificate.scheme
    assert np.abs(a.final.masses - b.final.masses[::-1]).max() < 1e-11


# -------------------------------------------------------------------- hand-over
def test_points_give_way_at_a_wall_and_at_rest():
    walls = wg.Grid((-2.5, 2.5), cells=100, boundary="no-flux")
    sol = wg.solve(wg.PowerEntropy(2), law("box", walls), (0, 60.0))
    assert CARRIED in sol.certificate.scheme
    assert sol.certificate.scheme.endswith("fluxes of second order in space (no linear diffusion) beyond")
    assert distance(sol.final, wg.Density.uniform(walls)) < 1e-3
    assert sol.certificate.verdict == "holds"


def test_a_law_at_rest_stays():
    energy = wg.PowerEntropy(2) + wg.Potential(lambda x: x**2)
    rest = wg.stationary(energy, GRID).density
    sol = wg.solve(energy, rest, (0, 5.0))
    assert distance(sol.final, rest) < 1e-9


def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path):
    energy, path = wg.PowerEntropy(2) + wg.Potential(lambda x: np.cos(3 * x)), tmp_path / "run.npz"
    whole = wg.solve(energy, law("box"), (0, 1.0))
    with pytest.raises(wg.ConvergenceError, match="max_steps"):
        wg.solve(energy, law("box"), (0, 1.0), method=wg.FiniteVolume(max_steps=9), checkpoint=path)
    rest = wg.resume(path, energy=energy, method=wg.FiniteVolume())
    assert np.array_equal(rest.final.values, whole.final.values)
    assert rest.certificate.scheme == whole.certificate.scheme
    assert "to t = " in whole.certificate.scheme


# -------------------------------------------------------------------- what always holds
@st.composite
def runs(draw):
    grid = wg.Grid((-2.5, 2.5), cells=draw(st.sampled_from([16, 33, 64])))
    a, b, shift = (draw(st.floats(0.5, 6.0)), draw(st.floats(-1.5, 1.5)), draw(st.floats(-0.2, 0.2)))
    kind = draw(st.sampled_from([*STARTS, "histogram", "bumps"]))
    if kind == "histogram":
        rho = wg.Density.from_samples(grid, np.random.default_rng(draw(st.integers(0, 99))).normal(0, 0.5, 60))
    elif kind == "bumps":
        rho = wg.Density.from_function(grid, lambda x: np.maximum(1 - x**2, 0) ** a * (1.2 + np.sin(3 * b * x)))
    else:
        # A start of one cell may lie between the centers of a coarse grid.
        start = STARTS[kind] if kind != "one cell" else lambda x: 1.0 * (np.abs(x) < 0.51 * grid.widths[0][0])
        rho = wg.Density.from_function(grid, lambda x: start(x - shift))
    if draw(st.booleans()):
        energy = draw(st.floats(0.1, 3.0)) * wg.PowerEntropy(draw(st.sampled_from([1.2, 1.5, 2.0, 3.0, 6.0, 10.0])))
    else:
        kernel = draw(st.floats(-1.0, 3.0)) * quadratic() + log(-draw(st.floats(0.1, 3.0)))
        energy = 1.0 * wg.Interaction(kernel)
    if draw(st.booleans()):
        slope, bend = draw(st.floats(-3, 3)), draw(st.floats(-3, 3))
        energy = energy + wg.Potential(lambda x: slope * x + bend * np.cos(2 * x))
    dt = draw(st.sampled_from([None, None, 1e-3, 0.03, 1.0, 1e3]))
    return energy, rho, draw(st.sampled_from([0.01, 0.3])) if dt is None else 4 * dt, {"dt": dt}


def check(run):
    energy, rho, span, options = run
    sol = wg.solve(energy, rho, (0, span), method=wg.FiniteVolume(**options))
    certificate = sol.certificate
    assert certificate.mass_drift <= 1e-13
    assert certificate.min_density >= 0.0
    assert certificate.max_energy_increase <= 1e-12
    assert np.isfinite(sol.final.values).all()
    return sol


@settings(max_examples=40, deadline=None)
@given(runs())
def test_sign_mass_and_energy_decay(run):
    check(run)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(runs())
def test_sign_mass_and_energy_decay_in_a_thousand_cases(run):
    check(run)
