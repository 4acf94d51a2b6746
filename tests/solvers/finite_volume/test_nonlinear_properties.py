"""Nonlinear diffusion: what every step keeps, on random problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.calls import memory
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.testing import assert_energy_decays, assert_mass_conserved, assert_nonnegative


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
