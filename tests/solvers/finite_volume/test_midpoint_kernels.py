"""The limited sweeps, their kept factors, and the solvers of equations, each against a plain twin."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled import sweep as kernel
from wgflow.solvers.finite_volume import nonlinear_equations as equations
from wgflow.solvers.finite_volume.splitting import Factors, LinearSweeps

GAMMA, ROOT2 = 1 - math.sqrt(0.5), math.sqrt(2.0)


# -------------------------------------------------------------------- twins of a line
def rates(psi, D, h, d, periodic):
    """Scharfetter-Gummel rates to the right and to the left, edge by edge."""
    n = len(psi)
    right, left = np.zeros(n), np.zeros(n)
    for i in range(n if periodic else n - 1):
        k = (i + 1) % n
        v = psi[k] - psi[i]
        if D > 0:
            z = min(abs(v) / D, 700.0)
            up = D * (1.0 if z < 1e-9 else z / math.expm1(z))
        else:
            up = 0.0
        right[i] = (up + max(-v, 0)) / (h[i] * d[i])
        left[k] = (up + max(v, 0)) / (h[k] * d[i])
    return right, left


def resolvent(right, left, s, m):
    """(I - s L)^-1 m by a dense solve."""
    n = len(m)
    L = np.zeros((n, n))
    for i in range(n):
        for k, rate in (((i + 1) % n, right[i]), ((i - 1) % n, left[i])):
            L[k, i] += rate
            L[i, i] -= rate
    return np.linalg.solve(np.eye(n) - s * L, m)


def limited(x, safe, periodic):
    """Take back what cells give to their neighbors and do not have, upstream cells first.

    A cell is left with a tenth of its safe mass at most, and with the less of it the less it lacked.
    """
    n = len(x)
    T = np.zeros(n + 1)
    T[1:] = np.cumsum(safe - x)
    if periodic:
        T -= T[:n].mean()
        T[n] = T[0]
    else:
        T[0] = T[n] = 0.0
    def depth(i):
        """How many cells the mass that a cell passes on has come through, where it runs one way."""
        steps, k = 0, i
        while T[k] > 0 and T[k + 1] > 0 and steps < n:
            k, steps = (k - 1) % n, steps + 1
        if steps == 0:
            while T[k] < 0 and T[k + 1] < 0 and steps < n:
                k, steps = (k + 1) % n, steps + 1
        return steps

    for i in sorted(range(n), key=depth):
        into, out = max(T[i], 0) + max(-T[i + 1], 0), max(-T[i], 0) + max(T[i + 1], 0)
        lack = out - into - safe[i]
        if lack <= 0:
            continue
        part = (safe[i] + into - 0.1 * safe[i] * lack / (lack + safe[i])) / out
        T[i] *= part if T[i] < 0 else 1.0
        T[i + 1] *= part if T[i + 1] > 0 else 1.0
        if periodic and i == 0:
            T[n] = T[0]
        elif periodic and i == n - 1:
            T[0] = T[n]
    return np.maximum(safe + T[:-1] - T[1:], 0.0)


def twin(m, psi, D, dt, h, d, periodic, mode):
    right, left = rates(psi, D, h, d, periodic)
    halves = resolvent(right, left, dt / 2, resolvent(right, left, dt / 2, m))
    if mode == kernel.HALVES:
        return halves
    once = resolvent(right, left, GAMMA * dt, m)
    twice = resolvent(right, left, GAMMA * dt, once)
    x = twice + ROOT2 * (twice - once)
    return limited(x, halves, periodic) if x.min() < 0 else x


def lines(rng, n, periodic):
    h = rng.uniform(0.5, 1.5, n) / n
    d = 0.5 * (h + np.roll(h, -1)) if periodic else 0.5 * (h[1:] + h[:-1])
    h.flags.writeable = False  # as those of a grid: another kind of array is another kernel, compiled for 20 s
    return h, d


def swept(m, psi, D, dt, h, d, periodic, mode):
    """The compiled sweep over lines (rows)."""
    count = len(m)
    width = min(kernel.WIDTH, count)
    x = m.ravel().copy()
    blocks = -(-count // width)
    cut = kernel.limited_sweep(x, psi.ravel().copy(), np.empty(0), D, dt, h, d, count, 1, periodic, mode,
                               kernel.NO_CACHE, np.empty((0, 4, 0, width)), 0.0, 0, blocks)
    return x.reshape(m.shape), cut


@pytest.mark.parametrize("mode", [kernel.LIMITED_PLAIN, kernel.HALVES])
@pytest.mark.parametrize("periodic", [False, True])
def test_sweeps_are_their_twins(mode, periodic):
    rng = np.random.default_rng(1313)
    cut = 0
    for _ in range(60):
        n, count = int(rng.integers(3, 25)), int(rng.integers(1, 5))
        h, d = lines(rng, n, periodic)
        m = rng.random((count, n)) ** 6
        m[0] = 0.0
        m[0, rng.integers(n)] = 1.0
        psi = rng.normal(size=(count, n)) * 10.0 ** rng.uniform(-1, 0.5)
        D, dt = float(rng.choice([1.0, 0.1, 0.0])), 10.0 ** rng.uniform(-4, 1)
        moved, blocks = swept(m, psi, D, dt, h, d, periodic, mode)
        cut += blocks
        for row, start, p in zip(moved, m, psi):
            expected = twin(start, p, D, dt, h, d, periodic, mode)
            np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12 * start.sum())
    assert (cut > 20) == (mode == kernel.LIMITED_PLAIN)


# -------------------------------------------------------------------- frozen moves
class Frozen:
    """A random grid, Psi, density and step."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(4, 50 if seed % 3 else 14, size=1 if seed % 3 else 2))
        self.grid = wg.Grid(edges=[np.linspace(-2, 2, n + 1) for n in shape],
                            boundary=tuple(str(rng.choice(["no-flux", "periodic"])) for _ in shape))
        self.D = float(rng.choice([1.0, 0.1, 1e-3, 1e-6, 0.0]))
        self.psi = 10.0 ** rng.uniform(-1, 1.5) * (rng.normal(size=shape) if rng.random() < 0.5 else
                                                   sum(np.cos(3 * x + 6 * rng.random()) for x in self.grid.mesh()))
        m = rng.random(shape) ** 3 * (rng.random(shape) < rng.choice([0.3, 1.0]))
        m.flat[rng.integers(m.size)] += rng.choice([1e-3, 10.0])
        self.m, self.dt = m / m.sum(), 10.0 ** rng.uniform(-3, 3)
        self.split = LinearSweeps(self.grid, self.D, True, 1e-16, False, 1)

    def energy(self, m):
        return float((m * self.psi).sum() + self.D * (m * np.log(np.maximum(m, 5e-324))).sum())


@pytest.mark.parametrize("mode", [kernel.LIMITED_PLAIN, kernel.LIMITED_CORRECTED, kernel.HALVES])
def test_frozen_moves_keep_sign_and_mass_and_lower_the_energy(mode):
    for seed in range(401, 801):
        f = Frozen(seed)
        moved = f.split.move(f.m, f.psi, f.dt, mode)
        before = f.energy(f.m)
        assert moved.min() >= 0
        assert abs(moved.sum() - 1) <= 1e-13
        assert f.energy(moved) <= before + 1e-13 * max(1.0, abs(before)), seed


@pytest.mark.parametrize("mode", [kernel.LIMITED_PLAIN, kernel.LIMITED_CORRECTED, kernel.HALVES])
@pytest.mark.parametrize("dt", [1e-3, 1.0, 1e3])
def test_gibbs_states_stay(mode, dt):
    grid = wg.Grid([(-2, 2), (-2, 2)], cells=(30, 20), boundary=("no-flux", "periodic"))
    x, y = grid.mesh()
    psi, D = np.cos(3 * x) + np.sin(np.pi * y), 0.3
    gibbs = np.exp(-psi / D)
    gibbs /= gibbs.sum()
    split, factors = LinearSweeps(grid, D, True, 1e-16, False, 1), Factors()
    extra = (factors,) if mode == kernel.LIMITED_CORRECTED else ()
    for _ in range(3):
        np.testing.assert_array_equal(split.move(gibbs, psi, dt, mode, *extra), gibbs)


def test_kept_factors_give_the_same_move_again_and_are_those_of_the_first_psi():
    for seed in range(1001, 1061):
        f = Frozen(seed)
        factors = Factors()
        free = f.split.move(f.m, f.psi, f.dt, kernel.LIMITED_CORRECTED)
        first = f.split.move(f.m, f.psi, f.dt, kernel.LIMITED_CORRECTED, factors)
        np.testing.assert_array_equal(free, first)
        assert factors.known
        kept = [a.copy() for a in factors.arrays]
        np.testing.assert_allclose(f.split.move(f.m, f.psi, f.dt, kernel.LIMITED_CORRECTED, factors), first,
                                   rtol=1e-9, atol=1e-12)
        other = f.split.move(f.m, f.psi[::-1].copy(), f.dt, kernel.LIMITED_CORRECTED, factors)
        assert other.min() >= 0
        for now, then in zip(factors.arrays, kept):
            np.testing.assert_array_equal(now, then)
        assert all(a.min() >= kernel.LEAST_FACTOR and a.max() <= kernel.LARGEST_FACTOR for a in kept)


def test_limited_moves_depend_on_psi_continuously():
    """Near a Psi at which a cell turns negative the result bends and does not jump; the Patankar step's does."""
    jumps = {}
    for mode in (kernel.LIMITED_PLAIN, kernel.PLAIN):
        worst = 0.0
        for seed in range(1201, 1231):
            rng = np.random.default_rng(seed)
            split = LinearSweeps(wg.Grid((-2, 2), cells=30), 0.5, True, 1e-16, False, 1)
            one, two = rng.normal(size=(2, 30))
            m = rng.random(30) ** 8
            path = [split.move(m, (1 - s) * one + s * two, 1.0, mode) for s in np.linspace(0, 1, 2001)]
            moves = np.abs(np.diff(path, axis=0)).sum(axis=1)
            worst = max(worst, float(moves.max() / np.median(moves)))
        jumps[mode] = worst
    assert jumps[kernel.LIMITED_PLAIN] < 30
    assert jumps[kernel.PLAIN] > 3 * jumps[kernel.LIMITED_PLAIN]


# -------------------------------------------------------------------- solvers of equations
def close(x, size, rate):
    return rate * size <= 1e-12


def test_newton_needs_one_direction_more_than_the_rank():
    rng = np.random.default_rng(77)
    rows = rng.normal(size=(3, 400))
    calls = [0]
    matrix = rows.T @ (np.diag([3.0, -0.4, 20.0]) @ rows) / 400
    b = rng.normal(size=400)

    def residual(x):
        calls[0] += 1
        return b - matrix @ x - x

    x, solved = equations.newton_krylov(residual, np.zeros(400), lambda x, size, _: size <= 1e-9, 1e-4)
    assert solved
    np.testing.assert_allclose(x, np.linalg.solve(np.eye(400) + matrix, b), atol=1e-8)
    # Two corrections of four directions each, for rank three, and their own residuals.
    assert calls[0] <= 1 + 2 * 5


def test_acceleration_solves_what_simple_iteration_does_not():
    def residual(x):
        return 0.5 - np.array([2.5, 3.5, 0.9]) * x - 0.01 * np.sin(x)

    x, solved = equations.accelerate(residual, np.zeros(3), close)
    assert solved
    np.testing.assert_allclose(residual(x), 0, atol=1e-8)
    simple = np.zeros(3)
    for _ in range(20):
        simple = simple + residual(simple)
    assert np.abs(residual(simple)).max() > 1e3


def test_newton_with_a_line_search_solves_a_stiff_equation():
    def residual(x):
        return np.tanh(40 * (1 - x)) - x - 0.3 * np.roll(x, 1)

    x, solved = equations.newton_krylov(residual, np.full(6, -3.0), close, 1e-7)
    assert solved
    assert np.abs(residual(x)).max() <= 1e-11


def test_solvers_end_where_there_is_no_root():
    def residual(x):
        return 1.0 + x * x

    def broken(x):
        return np.full(x.shape, np.nan)

    for solve in (equations.accelerate, lambda *a: equations.newton_krylov(*a, 1e-7)):
        for function in (residual, broken):
            _, solved = solve(function, np.full(4, 0.3), close)
            assert not solved
    assert not equations.newton_krylov(residual, np.zeros(4), close, 0.0)[1]
