"""The compact kernels against readable NumPy: dense matrices B and A of a line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import expm

from wgflow.compiled import compact
from wgflow.compiled.node_values import averages_of_values, values_of_averages

WALL = np.array([26, 21, 25]) / 24


def langevin(q):
    return q / 6 - q**3 / 360 if abs(q) < 1e-3 else 1 / math.tanh(q / 2) - 2 / q


def bernoulli(q):
    return 1 - q / 2 + q * q / 12 if abs(q) < 1e-5 else q / math.expm1(q)


def weights(n, periodic):
    w = np.ones(n)
    if not periodic:
        w[:3], w[-3:] = WALL, WALL[::-1]
    return w


def matrices(psi, diffusion, h, periodic, cut=math.inf):
    """Return B and A of the point masses, by loops over the edges; weights are cut for a step."""
    n = psi.size
    w = weights(n, periodic)
    flux, lean = np.zeros((n, n)), np.zeros((n, n))
    second = [(psi[(i + 1) % n] - 2 * psi[i] + psi[i - 1]) / diffusion for i in range(n)]
    for i in range(n if periodic else n - 1):
        k = (i + 1) % n
        q = (psi[k] - psi[i]) / diffusion
        inner = [second[j] for j in (i, k) if periodic or 0 < j < n - 1]
        slope = langevin(q) / q if q else 1 / 6
        f = min(max(1 + 0.5 * np.mean(inner) * slope, 0.5), 1.5)
        flux[i, i], flux[i, k] = diffusion / h**2 * bernoulli(q) * f, -diffusion / h**2 * bernoulli(-q) * f
        middle, tilt = 1 / 6 - 0.5 * slope, 0.25 * langevin(q)
        low = max(middle - abs(tilt), 0)
        lean[i, i], lean[i, k] = low + 2 * max(-tilt, 0), -(low + 2 * max(tilt, 0))
    if not periodic:
        lean[0, 0] += 1 / 24
        lean[0, 1] += 1 / 24
        lean[1, 2] -= 1 / 24
        last = n - 2
        lean[last, last + 1] -= 1 / 24
        lean[last, last] -= 1 / 24
        lean[last - 1, last - 1] += 1 / 24
    flux, lean = flux / w, lean / w
    if cut < math.inf:
        lean = np.sign(flux) * np.clip(np.sign(flux) * lean, 0, np.minimum(cut * np.abs(flux), 0.5))
    return np.eye(n) - lean + np.roll(lean, 1, axis=0), np.roll(flux, 1, axis=0) - flux


def sweep(*problem, lines=1):
    return swept(*problem, lines=lines)[0]


def swept(masses, psi, diffusion, dt, h, periodic, kind, lines=1):
    """Return the masses after one step, and the mass that was moved to mend them."""
    n = masses.shape[0]
    moved = np.zeros(1)
    flat = masses.T.ravel().copy() if lines > 1 else masses.ravel().copy()
    shapes = np.empty((1, 4, n, lines)), np.empty((1, 5, n, lines))
    compact.compact_sweep(flat, np.tile(psi, lines), np.empty(0), diffusion, dt, 1, h, lines, 1, periodic, kind,
                          compact.FILL, *shapes, moved, 0.0, 0, 1)
    return (flat.reshape(lines, n).T if lines > 1 else flat), float(moved[0])


CASES = [(periodic, size) for periodic in (False, True) for size in (0.0, 0.3, 3.0, 40.0)]


@pytest.mark.parametrize(("periodic", "size"), CASES)
def test_a_resolvent_is_that_of_dense_matrices(periodic, size, rng):
    n, h, diffusion, dt = 17, 0.1, 0.7, 0.2
    psi, m = size * rng.standard_normal(n), rng.random(n)
    b, a = matrices(psi, diffusion, h, periodic)
    np.testing.assert_allclose(b.sum(axis=0), 1, atol=1e-14)
    np.testing.assert_allclose(a.sum(axis=0), 0, atol=1e-12 * np.abs(a).max())
    c, _ = matrices(psi, diffusion, h, periodic, cut=dt)
    np.testing.assert_allclose(sweep(m, psi, diffusion, dt, h, periodic, compact.EULER),
                               np.linalg.solve(c - dt * a, c @ m), rtol=1e-9)
    gamma = 1 - math.sqrt(0.5)
    resolvent = np.linalg.solve(b - gamma * dt * a, b)
    once = resolvent @ m
    twice = resolvent @ once
    expected = twice + math.sqrt(2) * (twice - once)
    if expected.min() > 0:
        np.testing.assert_allclose(sweep(m, psi, diffusion, dt, h, periodic, compact.SECOND), expected, rtol=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
def test_the_formula_of_order_five_is_a_sum_of_powers_of_the_resolvent(periodic, rng):
    n, h, diffusion, dt = 17, 0.1, 0.7, 0.004
    psi, m = 0.3 * rng.standard_normal(n), 1.0 + 0.1 * rng.random(n)
    b, a = matrices(psi, diffusion, h, periodic)
    resolvent = np.linalg.solve(b - compact.GAMMA5 * dt * a, b)
    expected = sum(weight * np.linalg.matrix_power(resolvent, k + 1) @ m
                   for k, weight in enumerate(compact.FIFTH_WEIGHTS))
    assert expected.min() > 0
    found, moved = swept(m, psi, diffusion, dt, h, periodic, compact.FIFTH)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert moved == 0.0


@pytest.mark.parametrize("kind", [compact.SECOND, compact.FIFTH])
@pytest.mark.parametrize("periodic", [False, True])
def test_negative_masses_are_mended_and_the_mass_that_was_moved_is_told(kind, periodic):
    n, spike = 17, np.zeros(17)
    spike[8] = 1.0
    plain = swept(spike, np.zeros(n), 1.0, 1e-3, 0.1, periodic, kind)
    mended = swept(spike, np.zeros(n), 1.0, 3e-2, 0.1, periodic, kind)
    for found, moved in (plain, mended):
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1.0, abs=1e-14)
        assert 0 <= moved < 0.5
    assert max(plain[1], mended[1]) > 0


@pytest.mark.parametrize("periodic", [False, True])
def test_lines_side_by_side_are_lines_alone(periodic, rng):
    n, psi, m = 20, rng.standard_normal(20), rng.random((20, 16))
    together = sweep(m, psi, 0.5, 0.3, 0.2, periodic, compact.SECOND, lines=16)
    for j in range(16):
        alone = sweep(m[:, j], psi, 0.5, 0.3, 0.2, periodic, compact.SECOND)
        np.testing.assert_allclose(together[:, j], alone, rtol=1e-12)
    assert n == together.shape[0]


@pytest.mark.parametrize("kind", [compact.EULER, compact.HALVES])
@pytest.mark.parametrize(("periodic", "size"), CASES)
def test_cut_weights_give_stochastic_matrices_of_any_length_that_keep_gibbs(kind, periodic, size, rng):
    n, h, diffusion = 12, 0.1, 0.7
    psi = size * rng.standard_normal(n)
    g = weights(n, periodic) * np.exp(-(psi - psi.min()) / diffusion)
    for dt in (1e-9, 1e-5, 1e-2, 10.0, 1e6):
        matrix = np.array([sweep(row, psi, diffusion, dt, h, periodic, kind) for row in np.eye(n)]).T
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)
        there = g > 1e-290
        np.testing.assert_allclose(sweep(g, psi, diffusion, dt, h, periodic, kind)[there], g[there], rtol=1e-11)


def test_the_formula_of_order_five():
    gamma, c, low = compact.GAMMA5, compact.FIFTH_WEIGHTS, compact.THIRD_WEIGHTS
    z = -np.array([0.4, 0.2, 0.1, 0.05])
    error = [abs(sum(ck / (1 - gamma * x) ** (k + 1) for k, ck in enumerate(c)) - math.exp(x)) for x in z]
    assert np.polyfit(np.log(-z), np.log(error), 1)[0] == pytest.approx(6, abs=0.3)
    error = [abs(sum(ck / (1 - gamma * x) ** (k + 1) for k, ck in enumerate(low)) - math.exp(x)) for x in z]
    assert np.polyfit(np.log(-z), np.log(error), 1)[0] == pytest.approx(4, abs=0.3)
    stiff = abs(sum(ck / (1 + gamma * 1e8) ** (k + 1) for k, ck in enumerate(c)))
    assert stiff < 1e-6


@pytest.mark.parametrize("periodic", [False, True])
def test_a_line_follows_the_exponential(periodic):
    n = 24
    h = 2 * np.pi / n
    x = h * (np.arange(n) + 0.5)
    psi, m = np.cos(x) + 0.3 * np.sin(x), h * (1 + 0.4 * np.cos(x + 0.3))
    b, a = matrices(psi, 1.0, h, periodic)
    exact = expm(np.linalg.solve(b, a) * 0.5) @ m
    errors = []
    for steps in (8, 16, 32):
        rates, f, now, new = np.empty((4, n, 1)), np.empty((5, n, 1)), m[:, None].copy(), np.empty((n, 1))
        compact._unit_rates(psi[:, None].copy(), 1.0, h, periodic, rates)
        for k in range(steps):
            compact.compact_line(now, rates, f, 0.5 / steps, k > 0, periodic, new)
            now, new = new, now
        errors.append(np.abs(now[:, 0] - exact).sum())
    assert errors[-1] < 1e-9
    assert math.log2(errors[0] / errors[-1]) / 2 > 4.5


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("n", [8, 9, 30, 31])
def test_a_single_line_is_solved_from_both_ends_as_several_are_from_one(n, cut, rng):
    psi, m = 9 * rng.standard_normal(n), rng.random(n)
    found = []
    for width in (1, 2):
        lines = np.repeat(psi[:, None], width, axis=1)
        rates, f, g, x = np.empty((4, n, width)), np.empty((3, n, width)), np.empty((2, width)), np.empty((n, width))
        compact._unit_rates(lines, 1.0, 0.1, False, rates)
        compact._factor(rates, 0.3, cut, False, f)
        compact._resolve(np.repeat(m[:, None], width, axis=1), rates, 0.3, cut, False, f, g, x)
        solved = np.repeat(m[:, None], width, axis=1)
        compact._solve(f, False, g[0], solved)
        found.append((x[:, 0], solved[:, 0]))
    for one, several in zip(*found):
        np.testing.assert_allclose(one, several, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("periodic", [False, True])
def test_the_dissipation_of_a_line(periodic, rng):
    n, h = 15, 0.2
    psi, m = rng.standard_normal(n), 0.5 + rng.random(n)
    mu = np.log(m / (h * weights(n, periodic))) + psi
    b, a = matrices(psi, 1.0, h, periodic)
    expected = -mu @ np.linalg.solve(b, a @ m)
    kept, both = np.full((1, 4, m.size, 1), np.nan), np.empty((2, 5, m.size, 1))
    compact.compact_start(m, psi, np.empty(0), mu, 1.0, h, periodic, np.empty((4, m.size, 1)), both)
    none = np.empty((0, 1, m.size, 1))
    for room, formed, factors in ((kept[:0], False, none), (kept, False, none), (kept, True, none),
                                  (kept, True, both[1:])):
        found = compact.compact_dissipation(m, psi, np.empty(0), mu, 1.0, h, 1, 1, periodic, 1, room, formed, factors,
                                            0.0)
        assert found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 513, 10_000])
def test_sums_over_a_law(n, rng):
    m, v, w = np.exp(rng.uniform(-745, 5, n)), rng.standard_normal(n), rng.standard_normal(n)
    for field in (np.empty(0), w):
        logs = np.empty(n)
        energy, mass, least = compact.law_sums(m, v, field, 0.5, 0.25, logs)
        terms = m * (0.25 * np.log(m) + v + (0.5 * w if field.size else 0.0))
        assert np.abs(logs - 0.25 * np.log(m)).max() <= 2 * np.spacing(0.25 * 745)
        # Each term is rounded four times, here and there.
        assert abs(energy - math.fsum(terms)) <= 8 * 2.0**-53 * math.fsum(np.abs(terms))
        assert mass == pytest.approx(math.fsum(m), rel=2**-52)
        assert least == m.min()
        without = m * (v + (0.5 * w if field.size else 0.0))
        assert compact.law_sums(m, v, field, 0.5, 0.0, logs)[0] == pytest.approx(
            math.fsum(without), abs=8 * 2.0**-53 * math.fsum(np.abs(without)))


def test_sums_over_many_equal_cells_do_not_gather_round_off():
    m = np.full(1_000_003, 0.1)
    assert compact.law_sums(m, m, np.empty(0), 1.0, 1.0, np.empty(m.size))[1] == pytest.approx(
        math.fsum(m), rel=2.0**-52)


def test_logarithms_of_small_large_and_empty_cells():
    m = np.array([0.0, 5e-324, 1e-310, 2.0**-1022, 1e-300, 0.5**0.5, 1 - 1e-16, 1.0, 1 + 1e-9, 1.5, 1e300])
    logs = np.empty(m.size)
    compact.law_sums(m, np.zeros(m.size), np.empty(0), 1.0, 1.0, logs)
    np.testing.assert_array_max_ulp(logs, np.log(np.maximum(m, compact.TINY)), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_masses_that_are_not_finite_have_no_energy(bad):
    m = np.array([1.0, bad, 2.0])
    assert math.isnan(compact.law_sums(m, np.full(3, -1e9), np.empty(0), 1.0, 1.0, np.empty(3))[0])


def test_second_and_fourth_differences(rng):
    u = rng.random((5, 9, 6))
    for axis, (outer, inner) in enumerate([(1, 54), (5, 6), (45, 1)]):
        assert compact.differences(u.ravel(), outer, u.shape[axis], inner) == pytest.approx(
            [np.abs(np.diff(u, k, axis=axis)).sum() for k in (2, 4)], rel=1e-13)


@pytest.mark.parametrize("stride", [0, 1, 3])
def test_what_the_cells_resolve(stride, rng):
    m, v = rng.random((5, 9, 6)), rng.standard_normal((5, 9, 6))
    for axis, (outer, inner) in enumerate([(1, 54), (5, 6), (45, 1)]):
        lines, psi = m.swapaxes(0, axis), v.swapaxes(0, axis)
        first, second, fourth = (np.diff(psi, k, axis=0) for k in (1, 2, 4))
        sums = [(np.abs(first) * (lines[1:] + lines[:-1])).sum(), (np.abs(second) * lines[1:-1]).sum(),
                (np.abs(fourth) * lines[2:-2]).sum(), np.abs(np.diff(lines, 2, axis=0)).sum()]
        some = slice(None, None, stride) if stride else slice(0)
        flat, mu = m.reshape(45, 6)[some], (v / 0.3 + np.log(m)).reshape(45, 6)[some]
        rise = (np.diff(mu, axis=1) ** 2 * (flat[:, 1:] + flat[:, :-1])).sum()
        found = compact.resolution(m.ravel(), v.ravel(), outer, m.shape[axis], inner, 0.3, stride if inner == 1 else 0)
        assert found[:4] == pytest.approx(sums, rel=1e-12)
        assert found[4] == pytest.approx(rise if inner == 1 else 0.0, rel=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [8, 9, 40])
def test_values_of_averages_solve_the_equations(n, periodic, rng):
    one = np.eye(n)
    bend = np.roll(one, 1, 0) - 2 * one + np.roll(one, -1, 0)
    third = np.roll(bend, -1, 0) - bend  # at the right edges of the cells
    if not periodic:
        bend[0], bend[-1] = bend[1], bend[-2]
        third[[0, -2, -1]] = 0
    matrix = one + bend / 24 - 17 / 5760 * (third - np.roll(third, 1, 0))
    p = 1.0 + 0.1 * rng.random((n, 3))
    x = matrix @ p
    averages_of_values(p, periodic, x)
    np.testing.assert_allclose(x, matrix @ p, rtol=1e-14)
    x[:] = np.nan
    values_of_averages(matrix @ p, periodic, x)
    np.testing.assert_allclose(x, p, atol=1e-14)


@pytest.mark.parametrize("periodic", [False, True])
def test_averages_of_positive_values_are_positive_and_lead_back(periodic, rng):
    # Third differences that are limited.
    steep = np.exp(-0.5 * (np.arange(24) - 9.0) ** 2)[:, None] * (0.5 + 0.5 * rng.random((24, 3)))
    averages = np.empty(steep.shape)
    averages_of_values(steep, periodic, averages)
    assert averages.min() > 0
    x = averages.copy()
    values_of_averages(averages, periodic, x)
    np.testing.assert_allclose(x, steep, atol=1e-14)
