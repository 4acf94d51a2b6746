"""Sweeps along chains: what holds for any chain, and its limits of small and large differences of the potential."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow.compiled import chains

MODES = [chains.SECOND, chains.EULER, chains.HALVES]


def swept(m, psi, dt, mode, *, diffusion=0.7, closed=False, faces=None, least=0.0, negligible=0.0):
    """Return masses after a sweep along one chain of all cells in their order."""
    n, moved = m.size, m.copy()
    faces = np.ones(n) if faces is None else faces
    chains.chain_sweep(moved, psi, diffusion, dt, np.arange(n), np.array([0, n]), closed, faces, mode, least,
                       negligible, 0, 1)
    return moved


def dissipated(m, psi, mu, *, diffusion=0.7, closed=False, faces=None):
    n = m.size
    faces = np.ones(n) if faces is None else faces
    return chains.chain_dissipation(m, psi, mu, diffusion, np.arange(n), np.array([0, n]), closed, faces)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_gibbs_state_keeps_its_bits_and_dissipates_nothing(mode, closed, rng):
    psi, faces = rng.standard_normal(9), 0.5 + rng.random(9)
    gibbs = np.exp(-psi / 0.7)
    assert (swept(gibbs, psi, 50.0, mode, closed=closed, faces=faces) == gibbs).all()
    assert dissipated(gibbs, psi, rng.standard_normal(9), closed=closed, faces=faces) == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_nearly_a_gibbs_state_does_not_rest(mode, rng):
    """Neither one whose cells are off by thousands of roundings, nor one that is off where there is next to no mass."""
    psi, place = rng.standard_normal(9), np.arange(9) == 4
    near = np.exp(-psi / 0.7) * np.where(place, 1 + 5e-13, 1.0)
    assert (swept(near, psi, 50.0, mode) != near).any()
    moved = swept(np.array([1.0, 1.01 * math.exp(-40.0)]), np.array([0.0, 28.0]), 50.0, mode)
    assert moved[1] == pytest.approx(math.exp(-40.0), rel=1e-3)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("size", [1e-3, 0.05, 1.0])
def test_the_dissipation_is_the_rate_of_a_short_step(size, closed, rng):
    """Of sum mu m, for any mu, whether rates come from series or from exponentials."""
    psi, mu, m, faces = size * rng.standard_normal(9), rng.standard_normal(9), rng.random(9), 0.5 + rng.random(9)
    dt = 1e-6
    lost = mu @ (m - swept(m, psi, dt, chains.SECOND, closed=closed, faces=faces))
    assert dissipated(m, psi, mu, closed=closed, faces=faces) == pytest.approx(lost / dt, rel=1e-3)


def test_a_flat_potential_leaves_diffusion():
    """Its waves cos(pi k (i + 1/2) / n) decay with 4 D sin^2(pi k / 2n), and J(dt) divides by 1 + dt times that."""
    n, k, dt = 12, 3, 0.8
    wave = np.cos(math.pi * k * (np.arange(n) + 0.5) / n)
    rate = 4 * 0.7 * math.sin(0.5 * math.pi * k / n) ** 2
    found = swept(1 + 0.5 * wave, np.zeros(n), dt, chains.EULER)
    np.testing.assert_allclose(found, 1 + 0.5 * wave / (1 + dt * rate), rtol=1e-13)
    J = 1 / (1 + chains.GAMMA * dt * rate)
    found = swept(1 + 0.5 * wave, np.zeros(n), dt, chains.SECOND)
    np.testing.assert_allclose(found, 1 + 0.5 * wave * (J * J + math.sqrt(2) * (J * J - J)), rtol=1e-13)
    assert dissipated(1 + 0.5 * wave, np.zeros(n), wave) == pytest.approx(0.5 * rate * (wave @ wave), rel=1e-13)


@pytest.mark.parametrize("q", [0.0999, 0.1001])
def test_rates_are_those_of_the_bernoulli_function_on_both_sides_of_the_series(q):
    """Two cells have no second differences: the rates are D B(q) and D B(-q)."""
    m = np.array([2.0, 3.0])
    b = q / math.expm1(q)
    flux = 0.7 * (b * m[0] - b * math.exp(q) * m[1])
    assert dissipated(m, np.array([0.0, 0.7 * q]), np.array([1.0, 0.0])) == pytest.approx(flux, rel=1e-13)
    # Mirrored, and on three cells with the second difference q / D: the factor is 1 + q (coth(q/2) - 2/q) / (2 q).
    assert dissipated(m[::-1].copy(), np.array([0.7 * q, 0.0]), np.array([0.0, 1.0])) == pytest.approx(flux, rel=1e-13)
    factor = 1 + 0.5 * (1 / math.tanh(0.5 * q) - 2 / q)
    bent = dissipated(np.array([5.0, *m]), np.array([0.0, 0.0, 0.7 * q]), np.array([1.0, 1.0, 0.0]))
    assert bent == pytest.approx(factor * flux, rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_cliffs_carry_all_mass_down_and_stay_finite(mode):
    """Beyond exp(-708) nothing goes up; a cliff of height q has the rate q."""
    m, height = np.array([1.0, 1.0]), 1e5
    assert dissipated(m, np.array([0.0, height]), np.array([0.0, 1.0])) == pytest.approx(height, rel=1e-13)
    moved = swept(m, np.array([0.0, height]), 10.0, mode, negligible=math.inf)
    assert moved.sum() == pytest.approx(2.0, rel=1e-14)
    assert 0.0 <= moved[1] < 1e-5


def test_factors_of_second_differences_lie_between_a_half_and_three_halves():
    sharp = np.array([0.0, 0.7, 0.7, 0.0]) * 20
    mu = np.array([0.0, 0.0, 1.0, 1.0])
    # Between the two cells of one height q = 0 and the rates are D f; here the second differences are -20 D each.
    found = dissipated(np.array([0.0, 1.0, 0.0, 0.0]), sharp, mu)
    assert found == pytest.approx(-0.7 * 0.5, rel=1e-12)
    assert dissipated(np.array([0.0, 1.0, 0.0, 0.0]), -sharp, mu) == pytest.approx(-0.7 * 1.5, rel=1e-12)


@pytest.mark.parametrize("closed", [False, True])
def test_where_the_second_order_would_be_negative(closed, rng):
    """All mass in one cell and a long step: two halves instead, or what is negligible is raised and the mass kept."""
    psi, faces, m = rng.standard_normal(9), 0.5 + rng.random(9), np.where(np.arange(9) == 4, 1.0, 0.0)
    halves = swept(m, psi, 1.0, chains.HALVES, closed=closed, faces=faces)
    assert (swept(m, psi, 1.0, chains.SECOND, closed=closed, faces=faces) == halves).all()
    raised = swept(m, psi, 1.0, chains.SECOND, closed=closed, faces=faces, negligible=1.0)
    assert raised.min() > 0
    assert raised.sum() == pytest.approx(1.0, rel=1e-14)
    assert (raised != halves).all()
    # Negative entries become a tenth of those of J^2 m, which two halves of a step of 2 GAMMA make.
    safe = swept(m, psi, 2 * chains.GAMMA, chains.HALVES, closed=closed, faces=faces)
    once = swept(m, psi, chains.GAMMA, chains.EULER, closed=closed, faces=faces)
    second = safe + math.sqrt(2) * (safe - once)
    assert second.min() < 0
    mended = np.where(second < 0, 0.1 * safe, second)
    np.testing.assert_allclose(raised, mended / mended.sum(), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_chains_that_hold_next_to_nothing_and_single_cells_stay(mode, rng):
    m = np.concatenate([np.full(4, 0.3), [5.0], 1e-3 * rng.random(3)])
    psi, order, starts = rng.standard_normal(8), np.arange(8), np.array([0, 4, 5, 8])
    moved = m.copy()
    chains.chain_sweep(moved, psi, 0.7, 0.2, order, starts, False, np.ones(8), mode, m[5:].max(), 0.0, 0, 3)
    assert (moved[4:] == m[4:]).all()
    np.testing.assert_array_equal(moved[:4], swept(m[:4], psi[:4], 0.2, mode))
    assert (moved[:4] != m[:4]).all()
    # The chains from the second on alone, without a least mass.
    moved = m.copy()
    chains.chain_sweep(moved, psi, 0.7, 0.2, order, starts, False, np.ones(8), mode, 0.0, 0.0, 1, 3)
    assert (moved[:5] == m[:5]).all()
    np.testing.assert_array_equal(moved[5:], swept(m[5:], psi[5:], 0.2, mode))
    total = chains.chain_dissipation(m, psi, psi, 0.7, order, starts, False, np.ones(8))
    assert total == pytest.approx(dissipated(m[:4], psi[:4], psi[:4]) + dissipated(m[5:], psi[5:], psi[5:]), rel=1e-14)
