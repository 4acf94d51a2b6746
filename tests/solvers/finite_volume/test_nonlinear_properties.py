"""Nonlinear diffusion: readable twins of its kernels, and what every step keeps on random problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.calls import memory
from wgflow.compiled import nonlinear_sweep as kernel
from wgflow.energies import nonlinear_fluxes
from wgflow.energies.internal_energies import InternalEnergy, PowerEntropy
from wgflow.grids import log_power_cell_average
from wgflow.testing import assert_energy_decays, assert_mass_conserved, assert_nonnegative


# ---------------------------------------------------------------- the twins: one line, dense matrices
def twin_mean(r1, r2, h1, h2, p1, p2):
    if abs(r1 - r2) <= kernel.NEAR * (r1 + r2) or h1 == h2:
        return (r1 + r2) / 2
    return float(np.clip((p1 - p2) / (h1 - h2), min(r1, r2), max(r1, r2)))


def twin_flux(law, r1, r2, u1, u2, up=1.0, down=1.0, phi=1.0):
    (h1, h2), (p1, p2) = (a[0] for a in law.evaluate(np.array([[r1, r2]]))[:2])
    a, b = h1 - h2, u1 - u2
    v = a + b
    slack = 4 * 2.0**-52 * (abs(h1) + abs(h2) + abs(u1) + abs(u2))
    if abs(v) <= slack:
        return 0.0
    v -= math.copysign(slack, v)

    def upwind(speed):
        return up * r1 if speed > 0 else down * r2

    if a * b >= 0:
        return phi * (p1 - p2) + upwind(b) * b
    return phi * twin_mean(r1, r2, h1, h2, p1, p2) * v if abs(a) > abs(b) else upwind(v) * v


def twin_factors(law, r, psi, h, d, periodic):
    """Koren's face values seen from both cells of each edge, over the density of the cell; and phi."""
    n = len(r)
    inside = range(n) if periodic else range(1, n - 1)
    falls, rises = np.zeros(n), np.zeros(n)
    for i in inside:
        falls[i] = (r[i] - r[i - 1]) / d[i - 1] * h[i] / 2
        rises[i] = (r[(i + 1) % n] - r[i]) / d[i] * h[i] / 2
    bend = 2 * (rises - falls)
    ahead, behind = np.zeros(n), np.zeros(n)
    for i in inside:
        fall, rise = falls[i], rises[i]
        limit = 2 * min(abs(fall), abs(rise)) if fall * rise > 0 else 0.0
        if all(bend[k] * bend[i] > bend[i] ** 2 / 4 for k in (i - 1, (i + 1) % n)):
            limit = abs(fall) + abs(rise)
        limit = min(limit, 0.9 * r[i])
        ahead[i] = np.clip((fall + 2 * rise) / 3, -limit, limit)
        behind[i] = np.clip((2 * fall + rise) / 3, -limit, limit)
    if not periodic:
        ends = (h[0] / 2 * (r[1] - r[0]) / d[0], h[-1] / 2 * (r[-1] - r[-2]) / d[-1])
        for i, slope in zip((0, n - 1), ends):
            ahead[i] = behind[i] = np.clip(slope, -0.9 * r[i], 0.9 * r[i])
    edges = [(i, (i + 1) % n) for i in range(len(d))]
    slope, pressure = (a[0] for a in law.evaluate(r[None])[:2])
    up = np.array([1 + ahead[i] / r[i] if r[i] > 0 else 1.0 for i, k in edges])
    down = np.array([1 - behind[k] / r[k] if r[k] > 0 else 1.0 for i, k in edges])
    phi = np.ones(len(d))
    for e, (i, k) in enumerate(edges):
        mean = twin_mean(r[i], r[k], slope[i], slope[k], pressure[i], pressure[k])
        face = up[e] * r[i] if slope[i] + psi[i] > slope[k] + psi[k] else down[e] * r[k]
        if mean > 0:
            phi[e] = np.clip(face / mean, 0.5, 2.0)
    return up, down, phi


def twin_residual(law, m, start, psi, volumes, reach, factors):
    out = m - start
    for e, c in enumerate(reach):
        i, k = e, (e + 1) % len(m)
        flux = c * twin_flux(law, m[i] / volumes[i], m[k] / volumes[k], psi[i], psi[k], *(f[e] for f in factors))
        out[i] += flux
        out[k] -= flux
    return out


LAWS = [[(1.0, 2.0)], [(0.4, 0.6)], [(1.0, 1.5), (0.3, 4.0)], []]


def make_law(powers, entropy):
    energy = sum((c * PowerEntropy(m) for c, m in powers), wg.FreeEnergy([]))
    return nonlinear_fluxes.Diffusion((energy + entropy * wg.Entropy(1.0)).assemble(wg.Grid([(0, 1)], cells=2)))


@pytest.mark.parametrize("powers", LAWS)
@pytest.mark.parametrize("entropy", [0.0, 0.7])
def test_the_law(powers, entropy, rng):
    r = rng.random((2, 9)) * 4
    slope, pressure, stiff, bend = make_law(powers, entropy).evaluate(r)
    terms = [(c, PowerEntropy(m)) for c, m in powers]
    assert slope == pytest.approx(sum(c * t.derivative(r) for c, t in terms) + entropy * np.log(r), rel=1e-13)
    H = sum(c * t.H(r) for c, t in terms) + entropy * r * (np.log(r) - 1)
    assert pressure == pytest.approx(r * slope - H, rel=1e-12)
    assert bend == pytest.approx(sum(c * t.second_derivative(r) for c, t in terms) + entropy / r, rel=1e-13)
    assert stiff == pytest.approx(r * bend, rel=1e-13)


def test_the_law_of_a_users_H_adds_to_the_others(rng):
    own = InternalEnergy(lambda r: np.cosh(r) - 1, np.sinh, np.cosh, up_to=50.0)
    energy = 0.5 * own + 2 * PowerEntropy(3.0)
    r = rng.random((1, 9)) * 4
    slope, pressure, stiff, bend = nonlinear_fluxes.Diffusion(energy.assemble(wg.Grid([(0, 1)], cells=2))).evaluate(r)
    assert slope == pytest.approx(0.5 * np.sinh(r) + 3 * r**2, rel=1e-13)
    assert pressure == pytest.approx(0.5 * (r * np.sinh(r) - np.cosh(r) + 1) + 2 * r**3, rel=1e-12)
    assert stiff == pytest.approx(0.5 * r * np.cosh(r) + 6 * r**2, rel=1e-13)
    assert bend == pytest.approx(0.5 * np.cosh(r) + 6 * r, rel=1e-13)


def make_line(rng, law, periodic, n=9, empty=True):
    """A random line: masses with holes, Psi, cells, conductances, factors."""
    widths = rng.uniform(0.5, 1.5, n)
    distances = 0.5 * (widths + np.roll(widths, -1))[: n if periodic else n - 1]
    volumes = widths * rng.uniform(0.5, 2.0, n)
    m = rng.random(n) ** 3 * (rng.random(n) < 0.8 if empty else 1.0)
    psi = rng.normal(size=n) * 3
    factors = twin_factors(law, m / volumes, psi, widths, distances, periodic)
    return m, psi, widths, distances, volumes, rng.uniform(0.5, 3.0, distances.size), factors


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("powers", LAWS)
def test_reconstruction_and_fluxes(powers, periodic, rng):
    law = make_law(powers, 0.2 if not powers else 0.0)
    for _ in range(20):
        m, psi, widths, distances, volumes, reach, factors = make_line(rng, law, periodic)
        r = (m / volumes)[None]
        slope, pressure = law.evaluate(r)[:2]
        found = [np.empty((1, distances.size)) for _ in range(4)]
        kernel.reconstruct(r, slope, pressure, psi[None], widths, distances, periodic, *found[:3])
        for a, b in zip(found, factors):
            assert a[0] == pytest.approx(b, rel=1e-12, abs=1e-14)
        kernel.fluxes(r, slope, pressure, psi[None], reach[None], *(f[None] for f in factors), found[3])
        total = twin_residual(law, m, m, psi, volumes, reach, factors)
        change = np.zeros(m.size)
        for e, flux in enumerate(found[3][0]):
            change[e] += flux
            change[(e + 1) % m.size] -= flux
        assert change == pytest.approx(total, rel=1e-11, abs=1e-13)
        # The dissipation is the work of these fluxes.
        mu = slope[0] + psi
        work = sum(flux * (mu[e] - mu[(e + 1) % m.size]) for e, flux in enumerate(found[3][0]))
        rate = kernel.dissipation(r, slope, pressure, psi[None], reach[None], *(f[None] for f in factors))
        assert rate == pytest.approx(work, rel=1e-12)
        assert rate >= 0


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("powers", LAWS)
@pytest.mark.parametrize("n", [2, 3, 9])
def test_newton_corrections(powers, periodic, n, rng):
    law = make_law(powers, 0.2 if not powers else 0.0)
    for _ in range(10):
        m, psi, _, _, volumes, reach, _ = make_line(rng, law, periodic, max(n, 3), empty=False)
        m, psi, volumes, reach = m[:n] + 0.05, psi[:n], volumes[:n], reach[:n if periodic else n - 1]
        factors = [rng.uniform(0.6, 1.4, reach.size) for _ in range(3)]
        start = rng.random(n)
        jacobian = np.empty((n, n))
        for k in range(n):
            step = np.zeros(n)
            step[k] = 1e-6 * m[k]
            ends = [twin_residual(law, m + s * step, start, psi, volumes, reach, factors) for s in (1, -1)]
            jacobian[:, k] = (ends[0] - ends[1]) / (2 * step[k])
        expected = np.linalg.solve(jacobian, -twin_residual(law, m, start, psi, volumes, reach, factors))
        moved, shares, sizes, status = m[None].copy(), np.ones(1), np.full(1, math.inf), np.zeros(1, dtype=np.int64)
        total = np.array([1e6])  # so that the correction is not cut to a part of the mass
        r = (m / volumes)[None]
        kernel.newton(moved, r, *law.evaluate(r), psi[None], start[None], volumes[None], np.ones(1), reach[None],
                      *(f[None] for f in factors), periodic, np.array([1e-12]), total, shares, sizes, status)
        assert status[0] == 0
        assert sizes[0] == pytest.approx(np.abs(expected).sum(), rel=1e-5)
        if (m + expected >= 0.1 * m).all():
            assert moved[0] == pytest.approx(m + expected, rel=1e-5, abs=1e-6)


def test_the_ends_of_newtons_method():
    # A state at rest has no correction; a law that is no number loses the line, and only that line.
    law = make_law([(1.0, 2.0)], 0.0)
    m = np.full((2, 5), 0.2)
    slope, pressure, stiff, bend = law.evaluate(m)
    slope[1, 2] = math.nan
    ones, status, sizes = np.ones((2, 5)), np.zeros(2, dtype=np.int64), np.full(2, math.inf)
    kernel.newton(m, m.copy(), slope, pressure, stiff, bend, 0 * ones, m.copy(), ones, np.ones(2), ones, ones, ones,
                  ones, True, np.full(2, 1e-13), np.ones(2), np.ones(2), sizes, status)
    assert status.tolist() == [kernel.DONE, kernel.LOST]
    assert sizes[0] == 0.0
    assert (m == 0.2).all()


@pytest.mark.parametrize("periodic", [True, False])
def test_push_keeps_mass_and_sign(periodic, rng):
    for _ in range(50):
        n = 8
        transfer = rng.normal(size=(1, n if periodic else n - 1))
        moved = 2 * rng.random((1, n))
        out = np.empty((1, n))
        kernel.push(moved, transfer, np.ones(1), out)
        assert out.min() >= 0
        assert out.sum() == pytest.approx(moved.sum(), rel=1e-14)
        whole = moved.copy()
        for e, t in enumerate(transfer[0]):
            whole[0, e] -= t
            whole[0, (e + 1) % n] += t
        if whole.min() >= 0:
            assert out == pytest.approx(whole, abs=1e-14)
        kernel.push(moved, 1e-3 * transfer, np.zeros(1), out)
        assert (out == moved).all()


def test_weights_at_edges():
    edges = np.linspace(0, 2, 21)
    for power in (1, 2, 3):
        weights = np.exp(log_power_cell_average(edges, power))[None]
        found = nonlinear_fluxes.edge_weights(weights, False)[0]
        assert found[1:-1] == pytest.approx(edges[2:-2] ** power, rel=1e-12)
        if power < 3:
            assert found == pytest.approx(edges[1:-1] ** power, rel=1e-12)
    # Steep weights stay between their neighbors.
    weights = np.exp(log_power_cell_average(edges[5:], 200))[None]
    found = nonlinear_fluxes.edge_weights(weights, False)[0]
    assert (found >= weights[0, :-1]).all()
    assert (found <= weights[0, 1:]).all()
    ring = np.exp(0.3 * np.sin(2 * np.pi * (np.arange(40) + 0.5) / 40))[None]
    turned = nonlinear_fluxes.edge_weights(np.roll(ring, 7), True)
    assert turned == pytest.approx(np.roll(nonlinear_fluxes.edge_weights(ring, True), 7), rel=1e-15)
    assert turned[0] == pytest.approx(np.exp(0.3 * np.sin(2 * np.pi * (np.arange(40) - 6) / 40)), rel=2e-3)


def test_lines_go_and_come_back(rng):
    grid = wg.Grid([(0, 1), (0, 2), (0, 3)], cells=(3, 4, 5))
    values = rng.random(grid.shape)
    for axis in range(3):
        cells = nonlinear_fluxes.Lines(grid, axis)
        lines = cells.lines(values)
        assert lines.shape == (60 // grid.shape[axis], grid.shape[axis])
        assert (cells.back(lines) == values).all()
        assert (np.diff(lines[0]) == np.diff(np.moveaxis(values, axis, -1).reshape(-1, grid.shape[axis])[0])).all()
        # Volumes over conductances: width times distance, here the square of the width.
        assert cells.volumes[:, 1:] / cells.conductances == pytest.approx(grid.widths[axis][0] ** 2, rel=1e-13)


# ---------------------------------------------------------------- what every step keeps, on random problems
@pytest.fixture
def _keep_every_density(monkeypatch):
    monkeypatch.setattr(memory, "SNAPSHOTS", 100_000)


@st.composite
def problems(draw):
    """Any mix of exponents and an entropy, rough or smooth V of any size, U of any sign, vacua, rings and weights."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    ndim = draw(st.sampled_from([1, 1, 1, 2]))
    shape = tuple(draw(st.integers(3, 70 if ndim == 1 else 14)) for _ in range(ndim))
    boundary = tuple(draw(st.sampled_from(["no-flux", "periodic"])) for _ in range(ndim))
    cells = draw(st.sampled_from(["even", "even", "graded", "weighted"]))
    edges = [np.linspace(-2, 2, n + 1) for n in shape]
    if cells == "graded":
        edges = [np.concatenate(([0.0], np.cumsum(rng.uniform(0.2, 1.0, n)))) for n in shape]
    grid = wg.Grid(edges=edges, boundary=boundary, log_weight=rng.normal(size=shape) if cells == "weighted" else None)
    exponents = draw(st.lists(st.sampled_from([0.3, 0.6, 0.9, 1.1, 1.5, 2.0, 2.0, 3.0, 5.0]), min_size=1, max_size=2))
    energy = sum((10.0 ** draw(st.floats(-1, 1))) * PowerEntropy(m) for m in exponents)
    beta = draw(st.sampled_from([None, None, 1.0, 30.0]))
    energy = energy + wg.Entropy(beta or math.inf)
    size = 10.0 ** draw(st.floats(-1, 1.5))
    V = size * (rng.normal(size=shape) if draw(st.booleans()) else
                sum(np.cos(1.5 * x + rng.normal()) for x in grid.mesh()))
    energy = energy + wg.Potential(V)
    table = np.zeros((grid.size, grid.size))
    if draw(st.booleans()):
        features, signs = rng.normal(size=(3, *shape)) * math.sqrt(size), rng.choice([-1.0, 1.0], 3)
        energy = energy + wg.Interaction(wg.LowRank(features, signs))
        table = features.reshape(3, -1).T @ (signs[:, None] * features.reshape(3, -1))
    start = draw(st.sampled_from(["rough", "holes", "delta", "smooth"]))
    values = rng.random(shape) ** 3
    if start == "holes":
        values *= rng.random(shape) < 0.5
    elif start == "delta":
        values = np.zeros(shape)
    elif start == "smooth":
        values = np.exp(-2 * sum(x**2 for x in grid.mesh()))
    if not values.any():
        values.flat[rng.integers(grid.size)] = 1.0
    rho = wg.Density.from_values(grid, values, normalize=True)
    return energy, rho, (V, table, exponents, beta, seed)


def plain_energy(energy, rho, V, table):
    """F once more, in plain NumPy."""
    m = rho.values * rho.grid.volumes
    reference = rho.grid.volumes * (1.0 if rho.grid.log_weight is None else np.exp(rho.grid.log_weight))
    total, r = (m * V).sum() + 0.5 * m.ravel() @ table @ m.ravel(), m / reference
    for factor, term in energy.terms:
        if isinstance(term, PowerEntropy):
            total += factor * (r**term.m / (term.m - 1) * reference).sum()
        elif isinstance(term, wg.Entropy):
            total += factor / term.beta * (m[m > 0] * np.log(r[m > 0])).sum()
    return float(total)


def check_run(problem, dt, corrected):
    energy, rho, (V, table, _, _, _) = problem
    sol = wg.solve(energy, rho, (0, 5 * dt), method=wg.FiniteVolume(dt=dt, corrected=corrected))
    assert len(sol.densities) == sol.certificate.n_accepted + 1
    assert_nonnegative(sol)
    assert_mass_conserved(sol)
    assert_energy_decays(sol, lambda law: plain_energy(energy, law, V, table))
    F = np.array([plain_energy(energy, law, V, table) for law in sol.densities])
    np.testing.assert_allclose(F, sol.energy, rtol=1e-11, atol=1e-11 * max(1.0, np.abs(F).max()))
    assert sol.certificate.mass_drift <= 1e-13
    assert sol.certificate.max_energy_increase <= 1e-12
    if np.abs(sol.final.masses - sol.densities[0].masses).sum() > 1e-6:
        assert F[-1] < F[0]
    return sol


@pytest.mark.usefixtures("_keep_every_density")
@settings(max_examples=60)
@given(problems(), st.floats(-3, 2), st.sampled_from([True, True, False]))
def test_sign_mass_and_energy_decay(problem, exponent, corrected):
    check_run(problem, 10.0**exponent, corrected)


@pytest.mark.slow
@pytest.mark.usefixtures("_keep_every_density")
@settings(max_examples=500)
@given(problems(), st.floats(-3, 3), st.sampled_from([True, True, False]))
def test_sign_mass_and_energy_decay_in_five_hundred_cases(problem, exponent, corrected):
    check_run(problem, 10.0**exponent, corrected)


@pytest.mark.usefixtures("_keep_every_density")
def test_a_run_moves():
    grid = wg.Grid([(-1, 1)], cells=40)
    x = grid.centers[0]
    V, table = 0.5 * np.cos(np.pi * x), 0.3 * np.cos(np.pi * np.subtract.outer(x, x))
    energy = PowerEntropy(2.0) + wg.Potential(V) + wg.Interaction(wg.Dense(table))
    rho = wg.Density.from_function(grid, lambda x: 1 + 0.5 * np.cos(np.pi * x))
    sol = check_run((energy, rho, (V, table, [2.0], None, 0)), 0.01, True)
    assert np.abs(sol.final.masses - rho.masses).sum() > 0.05
