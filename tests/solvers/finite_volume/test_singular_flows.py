"""Flows under singular kernels against exact solutions, on grids and by points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow import Atoms, Convolution, Density, Entropy, FiniteVolume, Grid, Interaction, Potential
from wgflow.interactions import cosine, exponential, log, morse, newtonian, power, quadratic


def from_cdf(grid, cdf):
    return Density(grid, np.maximum(np.diff(cdf(grid.edges[0])), 0.0) / grid.volumes)


def distance(rho, cdf):
    """L1 distance of cell masses."""
    return float(np.abs(np.diff(cdf(rho.grid.edges[0])) - rho.masses).sum())


def order(sizes, errors):
    """Observed order: minus the slope of log(error) over log(cells)."""
    return -np.polyfit(np.log(sizes), np.log(np.abs(errors)), 1)[0]


def variance(rho):
    return float(np.squeeze(rho.cov()))


def semicircle(radius):
    def cdf(x):
        x = np.clip(x, -radius, radius)
        return 0.5 + (x * np.sqrt(radius**2 - x * x) / radius**2 + np.arcsin(x / radius)) / math.pi

    return cdf


# ---------------------------------------------------------------- one axis
def test_the_log_gas_comes_to_the_semicircle():
    # The edge lies in the middle of its cell on each grid.
    energy, errors, sizes = Interaction(quadratic() - log()), [], []
    for m in (16, 20, 26, 32, 40, 52):
        h = math.sqrt(2) / (m + 0.5)
        grid = Grid((-(m + 8) * h, (m + 8) * h), cells=2 * m + 16)
        rho = wg.solve(energy, Density.gaussian(grid, 0.0, 0.3), (0, 12)).density(12)
        errors.append([distance(rho, semicircle(math.sqrt(2))), variance(rho) - 0.5,
                       energy(rho) - 3 / 8 - math.log(2) / 4])
        sizes.append(m)
    errors = np.abs(errors)
    assert order(sizes, errors[:, 0]) > 1.3
    assert (errors[-1] < [3e-3, 3e-4, 3e-6]).all(), errors


def test_a_semicircle_stays_one_as_it_grows():
    # The variance obeys v' = 1 - 2 v; the radius is 2 sqrt v.
    energy = Interaction(quadratic() - log())
    grid = Grid((-2, 2), cells=200)
    solution = wg.solve(energy, from_cdf(grid, semicircle(0.8)), (0, 0.5))
    v = 0.5 + (0.16 - 0.5) * math.exp(-1)
    rho = solution.density(0.5)
    assert variance(rho) == pytest.approx(v, rel=1e-3)
    assert distance(rho, semicircle(2 * math.sqrt(v))) < 2e-3
    assert solution.energy[-1] == pytest.approx(v / 2 - 0.5 * (math.log(math.sqrt(v)) - 0.25), rel=1e-3)


def test_the_newtonian_line_moves_each_quantile_by_itself():
    # X(s, t) = c + 2 s - 1 + (X(s, 0) - c - 2 s + 1) e^(-t), from a raised cosine on [-.6, .6].
    t, y = 0.7, np.linspace(-1, 1, 40_001)
    levels = 0.5 + 0.5 * y + np.sin(np.pi * y) / (2 * np.pi)
    start = 0.6 * y
    end = 2 * levels - 1 + (start - 2 * levels + 1) * math.exp(-t)
    errors, sizes = [], (48, 60, 76, 96, 120, 152, 200)
    for n in sizes:
        rho0 = from_cdf(Grid((-2, 2), cells=n), lambda x: np.interp(x, start, levels))
        rho = wg.solve(Interaction(quadratic() + newtonian(1)), rho0, (0, t)).density(t)
        errors.append([distance(rho, lambda x: np.interp(x, end, levels)),
                       variance(rho) - np.trapezoid(end**2, levels)])
    errors = np.array(errors)
    assert order(sizes, errors[:, 0]) == pytest.approx(2.0, abs=0.2)
    assert abs(errors[-1, 0]) < 1.5e-3
    assert abs(errors[-1, 1]) < 1e-4


def test_the_newtonian_line_ends_uniform():
    grid = Grid((-1.5, 1.5), cells=120)
    rho = wg.solve(Interaction(quadratic() + newtonian(1)), Density.gaussian(grid, 0.0, 0.1), (0, 12)).density(12)
    assert distance(rho, lambda x: np.clip((x + 1) / 2, 0, 1)) < 2e-3
    inside = np.abs(grid.centers[0]) < 0.9
    np.testing.assert_allclose(rho.values[inside], 0.5, rtol=2e-4)


@pytest.mark.parametrize("chi", [0.6, 0.9, -1.5])
def test_second_moments_under_the_logarithm_and_diffusion(chi):
    # Keller-Segel below chi = 2 D, and repulsion: m2' = 2 D - chi - 2 m2 with V = x^2 / 2.
    D, t = 0.5, 1.0
    errors = []
    for n in (100, 200):
        grid = Grid((-6, 6), cells=n)
        energy = Entropy(1 / D) + Potential(lambda x: x * x / 2) + Interaction(log(chi))
        rho = wg.solve(energy, Density.gaussian(grid, 0.7, 0.5), (0, t), FiniteVolume(rtol=1e-7)).density(t)
        m2 = rho.expect(grid.centers[0] ** 2)
        errors.append(m2 - (D - chi / 2 + (0.99 - D + chi / 2) * math.exp(-2 * t)))
    assert float(np.squeeze(rho.mean())) == pytest.approx(0.7 * math.exp(-t), abs=1e-3)
    assert abs(errors[1]) < 3e-4
    assert abs(errors[1]) < abs(errors[0])


@pytest.mark.parametrize(("fluxes", "known"), [(2, 2.0), (4, 3.0)])
def test_order_of_charges_on_the_circle(fluxes, known):
    # Log gas with diffusion in a cosine field: against 768 cells, from which coarser grids' cells are joined exactly.
    def run(n):
        grid = Grid((0, 2 * np.pi), cells=n, boundary="periodic")
        rho0 = from_cdf(grid, lambda x: (x + 0.6 * np.sin(x - 1)) / (2 * np.pi))
        energy = Entropy(4.0) + Potential(lambda x: 0.5 * np.cos(2 * x)) + Interaction(-1 * log())
        return wg.solve(energy, rho0, (0, 0.5), FiniteVolume(rtol=1e-8, order=fluxes)).density(0.5).masses

    fine = run(768)
    sizes = (24, 32, 48, 64, 96)
    errors = [np.abs(run(n) - fine.reshape(n, -1).sum(axis=1)).sum() for n in sizes]
    assert order(sizes, errors) == pytest.approx(known, abs=0.1 if fluxes == 2 else 0.25)
    assert errors[-1] < (5e-4 if fluxes == 2 else 2e-5)


def test_oscillators_by_the_named_kernel():
    errors, sizes = [], (48, 64, 96, 128, 192)
    for n in sizes:
        grid = Grid((0, 2 * np.pi), cells=n, boundary="periodic")
        rho0 = from_cdf(grid, lambda x: (x + 0.2 * np.sin(x)) / (2 * np.pi))
        rho = wg.solve(Entropy(2.0) + Interaction(cosine(2.0)), rho0, (0, 1), FiniteVolume(rtol=1e-8)).density(1)
        errors.append(abs((rho.masses * np.exp(1j * grid.centers[0])).sum()) - 0.163475234796)
    assert order(sizes, errors) == pytest.approx(2.0, abs=0.1)
    assert abs(errors[-1]) < 3e-5


def test_compact_aggregation_comes_to_its_profile():
    eps, length = 0.5, 2.35619449019
    w = math.sqrt(1 / eps - 1)
    constant = -math.cos(w * length)
    mass = 2 * (math.sin(w * length) / w + constant * length)

    def cdf(x):
        x = np.clip(x, -length, length)
        return 0.5 + (np.sin(w * x) / w + constant * x) / mass

    assert (1 + constant) / mass == pytest.approx(0.359665324734, abs=1e-11)
    energy = eps / 2 * wg.PowerEntropy(2) + Interaction(-0.5 * exponential())
    grid = Grid((-4, 4), cells=161)
    rho = wg.solve(energy, from_cdf(grid, lambda x: cdf(1.15 * x)), (0, 160)).density(160)
    assert rho.values[80] == pytest.approx(0.359665324734, abs=1e-4)
    assert distance(rho, cdf) < 5e-4
    edge = grid.edges[0][np.flatnonzero(rho.values > 1e-4)[-1] + 1]
    assert abs(edge - length) < 1.01 * grid.widths[0][0]


def test_the_log_gas_on_cells_of_different_widths():
    errors, sizes = [], (50, 72, 100, 120, 144, 180)
    for n in sizes:
        u = np.linspace(-1, 1, n + 1)
        rho0 = Density.gaussian(Grid(edges=2 * (u + 0.3 * u**3) / 1.3), 0.0, 0.3)
        rho = wg.solve(Interaction(quadratic() - log()), rho0, (0, 10)).density(10)
        errors.append([distance(rho, semicircle(math.sqrt(2))), variance(rho) - 0.5])
    errors = np.abs(errors)
    assert order(sizes, errors[:, 0]) > 1.3
    assert errors[-1, 1] < 2e-4


def test_a_disk_of_charges_by_its_radius():
    # In the radius the mean of the kernel over directions is (r^2 + s^2) / 2 - log max(r, s).
    edges = np.linspace(0, 1.5, 101)
    grid = Grid((0, 1.5), cells=100, log_weight=wg.grids.log_power_cell_average(edges, 1))
    rho0 = from_cdf(grid, lambda r: np.minimum(r, 0.7) ** 2 / 0.49)
    energy = Interaction(lambda r, s: (r * r + s * s) / 2 - np.log(np.maximum(r, s)))
    rho = wg.solve(energy, rho0, (0, 0.5)).density(0.5)
    square = 1 + (0.49 - 1) * math.exp(-1)
    assert rho.expect(grid.centers[0] ** 2) == pytest.approx(square / 2, rel=1e-3)


KERNELS = st.sampled_from([log(), newtonian(1), power(-0.5), power(1.5), morse(1.0, 0.1, 0.8, 0.5), exponential(0.05)])


@settings(max_examples=40, deadline=None)
@given(KERNELS, st.floats(-2, 2), st.sampled_from([1.0, 20.0, 1e3, math.inf]), st.integers(8, 40),
       st.sampled_from(["no-flux", "periodic", "graded"]), st.integers(0, 2**20), st.sampled_from([None, "double"]))
def test_any_kernel_keeps_mass_sign_and_decay(kernel, factor, beta, cells, kind, seed, average):
    edges = np.sinh(np.linspace(-2, 2, cells + 1)) if kind == "graded" else None
    if kind == "periodic" and "Power" in repr(kernel):
        kind = "no-flux"
    grid = Grid(edges=edges) if kind == "graded" else Grid((-1, 1), cells=cells, boundary=kind)
    rho0 = Density(grid, np.random.default_rng(seed).random(cells) ** 3)
    rho0 = Density(grid, rho0.values / rho0.mass)
    energy = Entropy(beta) + Convolution(factor * kernel, average=average)
    solution = wg.solve(energy, rho0, (0, 0.05), throw=False)
    assert solution.certificate.max_energy_increase <= 1e-12 * max(1.0, np.abs(solution.energy).max())
    assert solution.certificate.min_density >= 0
    assert solution.certificate.mass_drift <= 1e-13
    assert solution.energy[-1] == pytest.approx(energy(solution.density(solution.t[-1])), rel=1e-11, abs=1e-11)
    assert "blow-up" in solution.message or solution.t[-1] == 0.05


# ---------------------------------------------------------------- two and three axes
def disk(grid, radius, parts=16):
    """A uniform disk, its cells averaged over points."""
    points = [np.concatenate([e[:-1, None] + np.diff(e)[:, None] * (np.arange(parts) + 0.5) / parts]).ravel()
              for e in grid.edges]
    inside = sum(np.meshgrid(*[x**2 for x in points], indexing="ij")) < radius**2
    for axis, n in enumerate(grid.shape):
        inside = inside.reshape(*inside.shape[:axis], n, parts, *inside.shape[axis + 1:]).mean(axis=axis + 1)
    return Density(grid, inside / (inside * grid.volumes).sum())


def test_a_disk_of_charges():
    # R^2 = 1 + (R0^2 - 1) e^(-2 t); E |x|^2 = R^2 / 2 and F = R^2 / 4 - (log R - 1/4) / 2.
    energy = Interaction(quadratic() + newtonian(2))
    for shape in ((120, 120), (100, 140)):
        grid = Grid([(-1.5, 1.5)] * 2, cells=shape)
        solution = wg.solve(energy, disk(grid, 0.7), (0, 0.5))
        square = 1 + (0.49 - 1) * math.exp(-1)
        x, y = grid.mesh()
        rho = solution.density(0.5)
        assert rho.expect(x * x + y * y) == pytest.approx(square / 2, rel=2.5e-3)
        assert solution.energy[0] == pytest.approx(0.49 / 4 - (math.log(0.7) - 0.25) / 2, rel=3e-4)
        assert solution.energy[-1] == pytest.approx(square / 4 - (math.log(square) / 2 - 0.25) / 2, rel=1e-3)
        assert rho.values[shape[0] // 2, shape[1] // 2] == pytest.approx(1 / (math.pi * square), rel=2e-3)


def test_charges_come_to_the_uniform_disk():
    energy, grid = Interaction(quadratic() + newtonian(2)), Grid([(-1.4, 1.6), (-1.5, 1.5)], cells=(72, 64))
    solution = wg.solve(energy, Density.gaussian(grid, [0.1, 0.0], 0.1), (0, 6))
    rho = solution.density(6)
    x, y = grid.mesh()
    assert rho.expect((x - 0.1) ** 2 + y**2) == pytest.approx(0.5, abs=5e-4)
    assert solution.energy[-1] == pytest.approx(3 / 8, abs=5e-6)
    inside = np.hypot(x - 0.1, y) < 0.85
    np.testing.assert_allclose(rho.values[inside], 1 / math.pi, rtol=1e-2)


@pytest.mark.slow
def test_charges_come_to_the_uniform_ball():
    # On three axes with 1 / r: radius 1, E |x|^2 = 3/5, F = 9/10.
    energy, grid = Interaction(quadratic() + newtonian(3)), Grid([(-1.3, 1.3)] * 3, cells=24)
    solution = wg.solve(energy, Density.gaussian(grid, [0.0] * 3, 0.15), (0, 5))
    rho = solution.density(5)
    x, y, z = grid.mesh()
    assert rho.expect(x * x + y * y + z * z) == pytest.approx(0.6, abs=6e-3)
    assert solution.energy[-1] == pytest.approx(0.9, rel=2e-3)
    inside = np.sqrt(x * x + y * y + z * z) < 0.75
    np.testing.assert_allclose(rho.values[inside], 0.75 / math.pi, rtol=0.05)


def test_second_moments_of_chemotaxis_in_the_plane():
    # d/dt E |x|^2 = 4 D - chi M / (2 pi), here with a box far away: m2 of mass M = 4 pi D is 2 D t above its start.
    grid, D = Grid([(-4, 4)] * 2, cells=(96, 96)), 0.25
    rho0 = Density.gaussian(grid, [0.2, 0.0], 0.2)
    energy = Entropy(1 / D) + Interaction(log(2 * D))
    x, y = grid.mesh()
    rho = wg.solve(energy, rho0, (0, 0.5)).density(0.5)
    growth = rho.expect(x * x + y * y) - rho0.expect(x * x + y * y)
    assert growth == pytest.approx(2 * D * 0.5, rel=4e-3)


@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
def test_axes_may_be_exchanged_and_reflected(boundary, rng):
    kernel, shape = 0.5 * newtonian(2) + 0.1 * exponential(0.2), (14, 11)
    values = rng.random(shape)

    def run(values, bounds):
        grid = Grid(bounds, cells=values.shape, boundary=boundary)
        return Interaction(kernel).first_variation(Density(grid, values))

    here = run(values, [(0, 1), (0, 2)])
    scale = np.abs(here).max()
    np.testing.assert_allclose(run(values.T, [(0, 2), (0, 1)]).T, here, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(run(values[::-1, ::-1], [(0, 1), (0, 2)])[::-1, ::-1], here, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(run(values, [(5, 6), (-7, -5)]), here, rtol=0, atol=1e-12 * scale)
    if boundary == "periodic":
        np.testing.assert_allclose(np.roll(run(np.roll(values, (3, 5), (0, 1)), [(0, 1), (0, 2)]), (-3, -5), (0, 1)),
                                   here, rtol=0, atol=1e-13 * scale)


# ---------------------------------------------------------------- points
def test_charges_on_the_line_move_exactly_by_points():
    n, t = 40, 1.3
    start = np.sort(np.random.default_rng(901).normal(0.4, 0.3, n))
    levels = (np.arange(n) + 0.5) / n
    solution = wg.solve(Interaction(quadratic() + newtonian(1)), Atoms(start, np.full(n, 1 / n)), (0, t),
                        wg.Lagrangian(rtol=1e-10))
    c = start.mean()
    expected = c + 2 * levels - 1 + (start - c - 2 * levels + 1) * math.exp(-t)
    np.testing.assert_allclose(np.sort(solution.density(t).points[0]), expected, atol=1e-8)


def test_the_log_gas_by_points_has_its_second_moment():
    # Of n atoms without the pairs with themselves: v' = 1 - 1/n - 2 v.
    n, t = 30, 0.8
    start = np.random.default_rng(77).normal(0.0, 1.0, n)
    solution = wg.solve(Interaction(quadratic() - log()), Atoms(start, np.full(n, 1 / n)), (0, t), wg.Lagrangian())
    limit = 0.5 * (1 - 1 / n)
    expected = limit + (start.var() - limit) * math.exp(-2 * t)
    assert solution.density(t).points.var() == pytest.approx(expected, rel=1e-7)


def test_vortex_like_points_in_the_plane_keep_their_second_moment():
    n, t = 12, 0.4
    points = np.random.default_rng(301).normal(size=(2, n))
    solution = wg.solve(Interaction(newtonian(2)), Atoms(points, np.full(n, 1 / n)), (0, t), wg.Lagrangian())
    moved = solution.density(t).points
    before, after = ((p - p.mean(axis=1, keepdims=True)) ** 2 for p in (points, moved))
    assert after.sum() / n == pytest.approx(before.sum() / n + t * (1 - 1 / n), rel=1e-7)


def test_a_kernel_that_is_a_function_moves_points_alike():
    atoms = Atoms(np.array([0.0, 0.35, 1.0]), np.ones(3) / 3)
    there = np.array([[0.2, -0.4, 2.0]])
    by_name = Convolution(exponential(0.5)).gradient(atoms, there)
    by_function = Convolution(lambda d: np.exp(-np.abs(d) / 0.5)).gradient(atoms, there)
    np.testing.assert_allclose(by_name, by_function, rtol=1e-9)
