"""The compact kernels with a mobility, along chains of cells, and for one line, against dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow.compiled import compact

GAMMA = 1 - math.sqrt(0.5)
KINDS = [compact.SECOND, compact.FIFTH, compact.EULER, compact.HALVES]


def langevin(q):
    return q / 6 - q**3 / 360 if abs(q) < 1e-3 else 1 / math.tanh(q / 2) - 2 / q


def bernoulli(q):
    return 1 - q / 2 + q * q / 12 if abs(q) < 1e-5 else q / math.expm1(q)


def chain_matrices(psi, diffusion, mobility, weights, closed, step=None):
    """Return B and A of a chain in units of its steps; edges at open ends are of second order; cut for a step."""
    n = psi.size
    flux, lean = np.zeros((n, n)), np.zeros((n, n))
    bend = (np.roll(psi, -1) - 2 * psi + np.roll(psi, 1)) / diffusion
    for i in range(n if closed else n - 1):
        k = (i + 1) % n
        ends = not closed and (i == 0 or k == n - 1)
        q = (psi[k] - psi[i]) / diffusion
        slope = langevin(q) / q if q else 1 / 6
        f = 1.0 if ends else min(max(1 + 0.25 * (bend[i] + bend[k]) * slope, 0.5), 1.5)
        flux[i, i], flux[i, k] = diffusion * bernoulli(q) * f, -diffusion * bernoulli(-q) * f
        middle, tilt = 1 / 6 - 0.5 * slope, 0.25 * langevin(q)
        low = max(middle - abs(tilt), 0)
        if not ends:
            lean[i, i], lean[i, k] = low + 2 * max(-tilt, 0), -(low + 2 * max(tilt, 0))
    flux, lean = flux * mobility / weights, lean / weights
    if step is not None:
        lean = np.sign(flux) * np.clip(np.sign(flux) * lean, 0, np.minimum(step * np.abs(flux), 0.5))
    return np.eye(n) - lean + np.roll(lean, 1, axis=0), np.roll(flux, 1, axis=0) - flux


def expected_move(kind, matrices, dt, m):
    """Return what a step makes of masses, without mending."""
    gamma = {compact.SECOND: GAMMA, compact.FIFTH: compact.GAMMA5, compact.EULER: 1.0, compact.HALVES: 0.5}[kind]
    b, a = matrices(gamma * dt if kind in (compact.EULER, compact.HALVES) else None)
    J = np.linalg.solve(b - gamma * dt * a, b)
    if kind == compact.SECOND:
        return J @ J @ m + math.sqrt(2) * (J @ J @ m - J @ m)
    if kind == compact.FIFTH:
        return sum(c * np.linalg.matrix_power(J, k + 1) @ m for k, c in enumerate(compact.FIFTH_WEIGHTS))
    return J @ m if kind == compact.EULER else J @ J @ m


def chains_of(rng, closed, n=14):
    """Return two chains of cells in mixed order, a single cell and one that is in none."""
    order = rng.permutation(2 * n + 2)[:2 * n + 1]
    starts = np.array([0, n, n + 1, 2 * n + 1])
    size = 2 * n + 2
    psi, m = 0.4 * rng.standard_normal(size), 1.0 + 0.2 * rng.random(size)
    mobility, weights = rng.uniform(0.5, 2.0, size), np.ones(size) if closed else rng.uniform(0.5, 1.0, size)
    return order, starts, psi, m, mobility, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_chains_move_as_dense_matrices_say(count, closed, kind, rng):
    order, starts, psi, m, mobility, weights = chains_of(rng, closed)
    diffusion, dt, found, moved = 0.7, 0.1, m.copy(), np.full(3, np.nan)
    compact.chain_steps(found, psi, mobility, weights, diffusion, dt, count, order, starts, closed, kind, moved, 0.0, 0,
                        3)
    expected = m.copy()
    for begin, end in ((starts[0], starts[1]), (starts[2], starts[3])):
        own = order[begin:end]

        def matrices(step, own=own):
            return chain_matrices(psi[own], diffusion, mobility[own], weights[own], closed, step)

        for _ in range(count):
            expected[own] = expected_move(kind, matrices, dt, expected[own])
    assert expected.min() > 0
    assert not np.array_equal(expected, m)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert moved.tolist() == [0.0, 0.0, 0.0]
    # Some of the chains alone, and chains whose masses are all negligible.
    part = m.copy()
    compact.chain_steps(part, psi, mobility, weights, diffusion, dt, count, order, starts, closed, kind, moved, 0.0, 2,
                        3)
    np.testing.assert_array_equal(part[order[starts[2]:]], found[order[starts[2]:]])
    np.testing.assert_array_equal(part[order[:starts[2]]], m[order[:starts[2]]])
    small = m.copy()
    compact.chain_steps(small, psi, mobility, weights, diffusion, dt, count, order, starts, closed, kind, moved, 2.0, 0,
                        3)
    np.testing.assert_array_equal(small, m)


@pytest.mark.parametrize("closed", [False, True])
def test_the_rate_of_energy_of_chains(closed, rng):
    order, starts, psi, m, mobility, weights = chains_of(rng, closed)
    mu, total = rng.standard_normal(m.size), 0.0
    for begin, end in ((starts[0], starts[1]), (starts[2], starts[3])):
        own = order[begin:end]
        b, a = chain_matrices(psi[own], 0.7, mobility[own], weights[own], closed)
        total -= mu[own] @ np.linalg.solve(b, a @ m[own])
    found = compact.chain_rate_of_energy(m, psi, mobility, weights, mu, 0.7, order, starts, closed, 0.0)
    assert found == pytest.approx(total, rel=1e-11)
    assert compact.chain_rate_of_energy(m, psi, mobility, weights, mu, 0.7, order, starts, closed, 2.0) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_mobility_multiplies_the_rates_from_each_cell(kind, rng):
    n, h, diffusion, dt, lines = 14, 0.2, 0.7, 0.003, 3
    psi, m = 0.4 * rng.standard_normal((lines, n)), 1.0 + 0.2 * rng.random((lines, n))
    mobility, found, moved = rng.uniform(0.5, 2.0, (lines, n)), m.copy().ravel(), np.empty(1)
    rates, factors = np.empty((1, 4, n, lines)), np.empty((1, 5, n, lines))
    for mode in (compact.FILL, compact.RATES, compact.BOTH, compact.NONE):
        found = m.copy().ravel()
        compact.compact_sweep(found, psi.ravel(), mobility.ravel(), diffusion, dt, 1, h, lines, 1, True, kind, mode,
                              rates, factors, moved, 0.0, 0, 1)
        for j in range(lines):
            def matrices(step, j=j):
                b, a = chain_matrices(psi[j], diffusion, mobility[j] / h**2, np.ones(n), True, step)
                return b, a

            np.testing.assert_allclose(found.reshape(lines, n)[j], expected_move(kind, matrices, dt, m[j]), rtol=1e-10)
        assert moved[0] == 0.0


@pytest.mark.parametrize("known", [False, True])
def test_a_line_tells_its_distance_to_a_lower_order_and_to_the_start(known, rng):
    n, diffusion, dt = 16, 0.7, 0.2
    psi, m = 0.4 * rng.standard_normal(n), 1.0 + 0.2 * rng.random(n)
    rates, f, x = np.empty((4, n, 1)), np.empty((5, n, 1)), np.empty((n, 1))
    compact._unit_rates(psi[:, None].copy(), diffusion, 1.0, True, rates)
    if known:
        compact._factor(rates, compact.GAMMA5 * dt, False, True, f)
    distance, whole, moved = compact.compact_line(m[:, None].copy(), rates, f, dt, known, True, x)
    b, a = chain_matrices(psi, diffusion, np.ones(n), np.ones(n), True)
    J = np.linalg.solve(b - compact.GAMMA5 * dt * a, b)
    powers = [np.linalg.matrix_power(J, k + 1) @ m for k in range(5)]
    fifth = sum(c * p for c, p in zip(compact.FIFTH_WEIGHTS, powers))
    third = sum(c * p for c, p in zip(compact.THIRD_WEIGHTS, powers))
    np.testing.assert_allclose(x[:, 0], fifth, rtol=1e-11)
    assert distance == pytest.approx(np.abs(fifth - third).sum(), rel=1e-7)
    assert whole == pytest.approx(np.abs(fifth - m).sum(), rel=1e-10)
    assert moved == 0.0


def test_a_line_is_mended_and_tells_the_mass_that_was_moved():
    n, spike = 17, np.zeros(17)
    spike[8] = 1.0
    rates, f, x = np.empty((4, n, 1)), np.empty((5, n, 1)), np.empty((n, 1))
    compact._unit_rates(np.zeros((n, 1)), 1.0, 0.1, False, rates)
    told = []
    for dt in (1e-3, 3e-3, 1e-2, 3e-2):
        moved = compact.compact_line(spike[:, None].copy(), rates, f, dt, False, False, x)[2]
        assert x.min() >= 0
        assert x.sum() == pytest.approx(1.0, abs=1e-14)
        told.append(moved)
    assert max(told) > 0
    # What replaces negative entries is a part of J^5 m.
    compact._unit_rates(np.zeros((n, 1)), 1.0, 0.1, True, rates)
    moved = compact.compact_line(spike[:, None].copy(), rates, f, 3e-3, False, True, x)[2]
    b, a = chain_matrices(np.zeros(n), 1.0, np.full(n, 100.0), np.ones(n), True)
    J = np.linalg.solve(b - compact.GAMMA5 * 3e-3 * a, b)
    powers = [np.linalg.matrix_power(J, k + 1) @ spike for k in range(5)]
    plain = sum(c * p for c, p in zip(compact.FIFTH_WEIGHTS, powers))
    assert plain.min() < 0
    raised = np.where(plain < 0, compact.LEFT * np.maximum(powers[-1], 0.0), plain)
    assert moved == pytest.approx((raised - plain).sum(), rel=1e-8)
    np.testing.assert_allclose(x[:, 0], raised / raised.sum(), rtol=1e-9, atol=1e-15)
    # By the definition: negative entries become a part of the safe ones, the line is scaled to its mass.
    raw, safe = np.array([[0.6], [-0.1], [0.5]]), np.array([[0.5], [0.2], [-0.3]])
    assert compact._mend(np.array([1.0]), safe, raw) == pytest.approx(0.1 + compact.LEFT * 0.2)
    whole = 1.1 + compact.LEFT * 0.2
    np.testing.assert_allclose(raw[:, 0], np.array([0.6, compact.LEFT * 0.2, 0.5]) / whole, rtol=1e-14)
    fine = np.array([[0.6], [0.3]])
    assert compact._mend(np.array([1.0]), safe[:2].copy(), fine) == 0.0
    assert fine.tolist() == [[0.6], [0.3]]


def test_what_is_not_a_number_stays_so():
    # An index formed of NaN would lie outside of a table of powers: seen with bounds checked, or nothing compiled.
    psi, rates = np.zeros((8, 1)), np.empty((4, 8, 1))
    psi[2] = math.nan
    compact._unit_rates(psi, 0.5, 0.1, True, rates)
    assert np.isnan(rates[:2, 1:3]).all()
    assert np.isfinite(rates[:, 5:7]).all()
