"""Readable twins of the kernels, in dense matrices and exact fractions, held against the compiled code."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled import lowrank
from wgflow.compiled import sweep as kernel
from wgflow.energies.dissipation import linear_dissipation

ULP = 2.0**-52
ROOT2, GAMMA = math.sqrt(2.0), 1.0 - math.sqrt(0.5)


# ---------------------------------------------------------------- the twin: one line, dense matrices
def neighbors(n, periodic):
    """The edges of a line as pairs of cells."""
    return [(i, (i + 1) % n) for i in range(n if periodic else n - 1)]


def bernoulli(z):
    return 1.0 if z == 0 else z / math.expm1(z) if z < 700 else 0.0


def twin_rates(psi, D, h, d, periodic):
    """Scharfetter-Gummel rates to the right and left neighbor of each cell."""
    right, left = np.zeros(len(h)), np.zeros(len(h))
    for e, (i, k) in enumerate(neighbors(len(h), periodic)):
        rise = psi[k] - psi[i]
        right[i] = (D * bernoulli(rise / D) if D > 0 else max(-rise, 0.0)) / (h[i] * d[e])
        left[k] = (D * bernoulli(-rise / D) if D > 0 else max(rise, 0.0)) / (h[k] * d[e])
    return right, left


def twin_curve(psi, D, d, periodic, right, left):
    """Factors of the rates for the curvature of Psi, and how far fluxes and density lean upwind."""
    n = len(psi)
    lean, wind = np.zeros(n), np.zeros(n)
    edges = neighbors(n, periodic)

    def second_derivative(cell):
        if not periodic and cell in (0, n - 1):
            return None
        before, after = d[(cell - 1) % n], d[cell]
        return ((psi[(cell + 1) % n] - psi[cell]) / after - (psi[cell] - psi[cell - 1]) / before) * 2 / (before + after)

    for e, (i, k) in enumerate(edges):
        rise = psi[k] - psi[i]
        both = [b for b in (second_derivative(i), second_derivative(k)) if b is not None]
        bend = d[e] ** 2 * (sum(both) / len(both) if both else 0.0)
        smooth = D**2 / (D**2 + bend**2) if D > 0 or bend != 0 else 0.0
        q = abs(rise) / D if D > 0 else math.inf
        langevin = q / 6 - q**3 / 360 if q < 0.02 else 1 / math.tanh(q / 2) - 2 / q
        slope = 1 / (6 * D) if rise == 0 and D > 0 else langevin / abs(rise) if rise != 0 else 0.0
        lean[i] = np.sign(rise) * langevin * smooth
        wind[i] = np.sign(rise) * langevin * (1 - smooth)
        wind[i] = wind[i] if abs(wind[i]) > kernel.WIND_LIMIT else 0.0
        factor = 1 + min(max(0.5 * bend * slope * smooth, -0.5), 0.5)
        right[i] *= factor
        left[k] *= factor
    return lean, wind


def twin_half_slopes(x, h, d, periodic):
    """Koren's h/2 times slope over density at the right and left end of each cell, limited where rho is not smooth."""
    n, rho = len(x), x / h
    up, down, falls, rises = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    inside = range(n) if periodic else range(1, n - 1)
    for i in inside:
        falls[i] = (rho[i] - rho[i - 1]) / d[i - 1] * h[i] / 2 * h[i]
        rises[i] = (rho[(i + 1) % n] - rho[i]) / d[i] * h[i] / 2 * h[i]
    bend = rises - falls
    for i in inside:
        fall, rise = falls[i], rises[i]
        limit = 2 * min(abs(fall), abs(rise)) if fall * rise > 0 else 0.0
        if all(bend[k] * bend[i] > bend[i] ** 2 / 4 for k in (i - 1, (i + 1) % n)):
            limit = abs(fall) + abs(rise)
        limit = min(limit, 0.9 * x[i])
        if x[i] > 0:
            up[i] = np.clip((fall + 2 * rise) / 3, -limit, limit) / x[i]
            down[i] = np.clip((2 * fall + rise) / 3, -limit, limit) / x[i]
    return up, down


def twin_correct(x, lean, wind, h, d, periodic, right, left):
    """Rates times the factors that move each flux to the middle of its edge."""
    n, edges = len(x), neighbors(len(x), periodic)
    flux = np.zeros(n)
    for i, k in edges:
        flux[i] = right[i] * x[i] - left[k] * x[k]
    up, down = twin_half_slopes(x, h, d, periodic)
    right, left = right.copy(), left.copy()
    for e, (i, k) in enumerate(edges):
        fall = (flux[i] - flux[i - 1]) * d[e] / (6 * h[i])
        rise = (flux[k] - flux[i]) * d[e] / (6 * h[k])
        moved = -lean[i] * (fall + rise + (rise if lean[i] < 0 else fall))
        factor = 1 + moved * flux[i] / (flux[i] ** 2 + moved**2 + fall**2 + rise**2 + 1e-290)
        factor *= 1 - wind[i] * (up[i] if wind[i] < 0 else down[k])
        right[i] *= factor
        left[k] *= factor
    return right, left


def generator(right, left):
    """L with L[k, i] the rate from cell i to cell k; columns sum to zero."""
    n = len(right)
    L = np.zeros((n, n))
    for i in range(n):
        for k, rate in (((i + 1) % n, right[i]), ((i - 1) % n, left[i])):
            L[k, i] += rate
            L[i, i] -= rate
    return L


def resolvent(rates, m):
    return np.linalg.solve(np.eye(len(m)) - generator(*rates), m)


def scaled(rates, factor):
    return rates[0] * factor, rates[1] * factor


def twin_sweep(m, psi, D, dt, h, d, periodic, mode):
    """A sweep of one line as long as no entry turns negative."""
    rates = twin_rates(psi, D, h, d, periodic)
    if mode == kernel.IMPLICIT_EULER:
        return resolvent(scaled(rates, dt), m)
    if mode == kernel.CORRECTED:
        lean, wind = twin_curve(psi, D, d, periodic, *rates)
        half = twin_correct(m, lean, wind, h, d, periodic, *scaled(rates, dt / 2))
        rates = twin_correct(resolvent(half, m), lean, wind, h, d, periodic, *scaled(rates, GAMMA * dt))
    else:
        rates = scaled(rates, GAMMA * dt)
    once = resolvent(rates, m)
    twice = resolvent(rates, once)
    return twice + ROOT2 * (twice - once)


def line(rng, n, periodic, graded):
    h = rng.uniform(0.5, 1.5, n) / n if graded else np.full(n, 1.0 / n)
    return h, centers_apart(h, periodic)


def centers_apart(h, periodic):
    return 0.5 * (h + np.roll(h, -1)) if periodic else 0.5 * (h[1:] + h[:-1])


def run_sweep(m, psi, D, dt, h, d, periodic, mode, shape=None, axis=0, cached=False):
    """The compiled sweep over an array of lines along one axis."""
    h = np.array(h)
    h.flags.writeable = False  # as those of a grid: another kind of array is another kernel, compiled for 20 s
    shape = m.shape if shape is None else shape
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1:])
    width = min(kernel.WIDTH, outer * inner)
    blocks = -(-outer // width) if inner == 1 else outer * -(-inner // width)
    cache = np.empty((blocks, 4, shape[axis], width)) if cached else np.empty((0, 4, 0, width))
    results = []
    for cache_mode in ((kernel.FILL_CACHE, kernel.USE_CACHE) if cached else (kernel.NO_CACHE,)):
        x = np.ascontiguousarray(m, dtype=float).ravel().copy()
        fallbacks = kernel.sweep(x, np.ascontiguousarray(psi).ravel(), np.empty(0), D, dt, h, d, outer, inner,
                                 periodic, mode, cache_mode, cache, 1e-16 * m.sum() / (outer * inner), 0, blocks)
        results.append(x.reshape(shape))
    if cached:
        np.testing.assert_array_equal(*results)
    return results[0], fallbacks


# ---------------------------------------------------------------- exp and Bernoulli
def ulps(value, exact: Decimal):
    return abs(Decimal(float(value)) - exact) / Decimal(math.ulp(float(exact)))


def test_exp_is_right_to_an_ulp():
    points = np.concatenate([np.linspace(0, 708, 701), 10.0 ** np.linspace(-18, 2.85, 300), [0.0, 5e-324, 0.5, 708.0]])
    with localcontext() as context:
        context.prec = 45
        worst = max(ulps(kernel._exp_minus(q), (-Decimal(float(q))).exp()) for q in points)
    assert worst <= 1.5
    assert kernel._exp_minus(0.0) == 1.0


@pytest.mark.parametrize("D", [1.0, 0.3, 1e-6, 1e5])
def test_the_bernoulli_function_is_right_to_some_ulp(D):
    z = np.concatenate([10.0 ** np.linspace(-17, 2.8, 500), np.linspace(0.09, 0.11, 101)])
    with localcontext() as context:
        context.prec = 60
        worst = 0
        for a in z * D:
            q, exact_D = Decimal(float(a)) / Decimal(D), Decimal(D)
            exact = exact_D * q / (q.exp() - 1)
            # The argument a / D is rounded once, which exp multiplies by q: an error that is not the function's.
            worst = max(worst, ulps(kernel._bernoulli(a, D, 1.0 / D), exact) / (8 + 2 * q))
    assert worst <= 1.0
    assert kernel._bernoulli(0.0, D, 1.0 / D) == D


@pytest.mark.parametrize("z", [800.0, 1e6, 1e300])
def test_the_bernoulli_function_neither_overflows_nor_turns_negative(z):
    assert 0.0 <= kernel._bernoulli(z, 1.0, 1.0) <= z * math.exp(-707)


# ---------------------------------------------------------------- elimination
def eliminate(right, left, m, periodic):
    n = len(right)
    right, left, m = (np.ascontiguousarray(a, dtype=float).reshape(n, -1) for a in (right, left, m))
    factors = np.empty((5, *right.shape))
    x = np.empty_like(m)
    kernel._factor(right, left, periodic, *factors)
    kernel._solve(m, periodic, *factors, x)
    return x


def exact_resolvent(right, left, m):
    """(I - L)^{-1} m in fractions, by plain Gaussian elimination."""
    n = len(m)
    rows = [[Fraction(0)] * n + [Fraction(float(m[i]))] for i in range(n)]
    for i in range(n):
        rows[i][i] += 1
        for k, rate in (((i + 1) % n, right[i]), ((i - 1) % n, left[i])):
            rows[k][i] -= Fraction(float(rate))
            rows[i][i] += Fraction(float(rate))
    for c in range(n):
        for r in range(n):
            if r != c and rows[r][c]:
                share = rows[r][c] / rows[c][c]
                rows[r] = [a - share * b for a, b in zip(rows[r], rows[c])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_elimination_against_a_dense_solve(n, width, periodic, rng):
    right, left = rng.exponential(size=(2, n, width)) * 10.0 ** rng.uniform(-2, 2, (2, n, width))
    if not periodic:
        right[-1], left[0] = 0.0, 0.0
    m = rng.random((n, width))
    x = eliminate(right, left, m, periodic)
    for j in range(width):
        np.testing.assert_allclose(x[:, j], resolvent((right[:, j], left[:, j]), m[:, j]), rtol=1e-11)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e6, 1e15])
def test_every_entry_is_right_relative_to_itself(size, width, periodic, rng):
    # Rates over 60 decades and mass in one cell: entries far below round-off of the whole keep their digits.
    n = 9
    right, left = size * 10.0 ** rng.uniform(-30, 30, (2, n))
    m = np.zeros(n)
    if not periodic:
        right[-1] = left[0] = 0.0
    m[2] = 1.0
    x = eliminate(*(np.repeat(a[:, None], width, 1) for a in (right, left, m)), periodic)
    exact = exact_resolvent(right, left, m)
    assert (x >= 0).all()
    for value, truth in zip(x[:, 0], exact):
        assert truth >= 0
        if truth > 1e-290:
            assert abs(Fraction(float(value)) / truth - 1) < 60 * ULP
    np.testing.assert_array_equal(x, np.repeat(x[:, :1], width, 1))
    assert math.fsum(x[:, 0]) == pytest.approx(1.0, rel=60 * ULP)


# ---------------------------------------------------------------- whole sweeps
@pytest.mark.parametrize("mode", [kernel.PLAIN, kernel.CORRECTED, kernel.IMPLICIT_EULER])
@pytest.mark.parametrize("D", [1.0, 0.05, 1e-4, 0.0])
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [2, 3, 5, 24])
def test_a_sweep_against_its_twin(n, periodic, graded, D, mode, rng):
    for dt in (1e-6, 1e-4, 1e-3):
        h, d = line(rng, n, periodic, graded)
        x = np.cumsum(h)
        psi = np.cos(2 * np.pi * x + 0.3) + 0.2 * np.sin(6 * np.pi * x) + 0.01 * rng.normal(size=n)
        m = h * (1.2 + np.sin(2 * np.pi * x) + 0.1 * rng.random(n))
        twin = twin_sweep(m, psi, D, dt, h, d, periodic, mode)
        assert twin.min() > 0
        moved, fallbacks = run_sweep(m, psi, D, dt, h, d, periodic, mode, cached=True)
        assert fallbacks == 0
        np.testing.assert_allclose(moved, twin, rtol=2e-12)
        assert (moved != m).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 33, 18), (40, 3, 2), (3, 2, 40)])
def test_every_line_of_every_axis_is_swept(shape, periodic, axis, rng):
    n = shape[axis]
    h, d = line(rng, n, periodic, False)
    # Rough enough for the density to be reconstructed on every line, which is decided for each block.
    psi, m = rng.normal(size=shape), rng.uniform(0.5, 1.0, shape)
    for mode in (kernel.PLAIN, kernel.CORRECTED):
        moved, _ = run_sweep(m, psi, 0.02, 1e-5, h, d, periodic, mode, axis=axis, cached=True)
        columns = [np.moveaxis(a, axis, -1).reshape(-1, n) for a in (m, psi, moved)]
        for before, V, after in zip(*columns):
            np.testing.assert_allclose(after, twin_sweep(before, V, 0.02, 1e-5, h, d, periodic, mode), rtol=1e-11)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("mode", [kernel.PLAIN, kernel.CORRECTED, kernel.IMPLICIT_EULER])
def test_any_step_keeps_mass_and_sign(mode, periodic, rng):
    fallbacks = 0
    for _ in range(300):
        n, D = int(rng.integers(2, 40)), float(rng.choice([0.0, 1e-6, 1e-2, 1.0]))
        h, d = line(rng, n, periodic, bool(rng.integers(2)))
        psi, m = rng.normal(size=n) * 10.0 ** rng.uniform(-2, 2), rng.random(n) ** 8 * (rng.random(n) < 0.6)
        m[rng.integers(n)] = 1.0
        moved, count = run_sweep(m, psi, D, 10.0 ** rng.uniform(-6, 6), h, d, periodic, mode)
        fallbacks += count
        assert moved.min() >= 0.0
        assert abs(math.fsum(moved) / math.fsum(m) - 1) < 1e-13
    assert (fallbacks > 20) == (mode != kernel.IMPLICIT_EULER)


@pytest.mark.parametrize("periodic", [False, True])
def test_the_patankar_step_against_its_twin(periodic, rng):
    for n in (2, 5, 17):
        h, d = line(rng, n, periodic, True)
        m, rates = rng.random(n), scaled(twin_rates(rng.normal(size=n), 0.3, h, d, periodic), 0.05)
        first = resolvent(rates, m)
        weights = 0.5 * (1 + m / first)
        twin = resolvent((rates[0] * weights, rates[1] * weights), m)
        right, left = ((GAMMA * a)[:, None].copy() for a in rates)
        out, factors = np.empty((n, 1)), np.empty((5, n, 1))
        kernel._patankar(m[:, None].copy(), periodic, right, left, *factors, out)
        np.testing.assert_allclose(out[:, 0], twin, rtol=1e-11)


def test_negative_entries_cost_a_negligible_mass_or_are_refused():
    x, y = np.array([[-1e-20, -0.1], [0.5, 0.6]]), np.array([[1e-21, 0.1], [0.5, 0.4]])
    assert not kernel._mend(x, y, 1e-16)
    np.testing.assert_array_equal(x, [[1e-21, -0.1], [0.5, 0.6]])
    assert kernel._mend(np.array([[-1e-20], [1.0]]), y[:, :1].copy(), 1e-16)


def test_limiting_changes_the_neighborhood_of_negative_cells_only(rng):
    n = 30
    for _ in range(200):
        safe = rng.random(n)
        # x differs from safe by transfers over edges, large around cell 12.
        flow = np.zeros(n + 1)
        flow[1:-1] = 0.1 * rng.uniform(-1, 1, n - 1) * np.minimum(safe[1:], safe[:-1])
        flow[12] += 2 * rng.choice([-1, 1])
        x = safe + flow[:-1] - flow[1:]
        limited = x[:, None].copy()
        kernel._limit(limited, safe[:, None].copy(), 0, np.empty(n + 1), np.empty(n))
        limited = limited[:, 0]
        assert limited.min() >= 0
        assert abs(limited.sum() / safe.sum() - 1) < 1e-14
        far = np.abs(np.arange(n) - 11.5) > 8
        np.testing.assert_allclose(limited[far], x[far], rtol=1e-12)


# ---------------------------------------------------------------- dissipation and products
@pytest.mark.parametrize("D", [0.7, 0.0])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("corrected", [False, True])
def test_dissipation_against_its_twin(corrected, periodic, D, rng):
    n = 23
    edges = np.concatenate(([0.0], np.cumsum(rng.uniform(0.5, 1.5, n))))
    grid = wg.Grid(edges=edges, boundary="periodic" if periodic else "no-flux")
    h = grid.widths[0]
    d = centers_apart(h, periodic)
    psi, m = np.cos(edges[1:]), rng.uniform(0.5, 1.0, n)
    right, left = twin_rates(psi, D, h, d, periodic)
    if corrected:
        lean, wind = twin_curve(psi, D, d, periodic, right, left)
        right, left = twin_correct(m, lean, wind, h, d, periodic, right, left)
    mu = psi + D * np.log(m / h)
    twin = sum((right[i] * m[i] - left[k] * m[k]) * (mu[i] - mu[k]) for i, k in neighbors(n, periodic))
    assert linear_dissipation(m, psi, grid, D, corrected) == pytest.approx(twin, rel=1e-12)
    assert twin > 0


@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 7), (5, 1000), (64, 333)])
def test_products_with_rows(k, n, rng):
    rows, x, z = rng.normal(size=(k, n)), rng.normal(size=n), rng.normal(size=k)
    scale = np.abs(rows) @ np.abs(x)
    exact = np.array([math.fsum(row * x) for row in rows])
    assert (np.abs(lowrank.rows_dot(rows, x) - exact) <= n * ULP * scale).all()
    exact = np.array([math.fsum(column * z) for column in rows.T])
    assert (np.abs(lowrank.combine_rows(rows, z) - exact) <= k * ULP * (np.abs(rows.T) @ np.abs(z))).all()


# ---------------------------------------------------------------- what a sweep tells
def test_blocks_that_are_limited_are_counted():
    n, lines = 12, 40  # two blocks of lines side by side
    h, d = np.full(n, 1.0 / n), np.full(n - 1, 1.0 / n)
    h.flags.writeable = False
    calm = np.full((lines, n), 1.0 / n)
    rest = np.zeros((lines, n))
    for spikes, count in (((), 0), ((0, 1), 1), ((39,), 1), ((3, 35), 2)):
        m = calm.copy()
        for j in spikes:
            m[j] = np.eye(n)[5]
        moved, found = run_sweep(m, rest, 1.0, 0.05, h, d, False, kernel.PLAIN, axis=1)
        assert found == count
        assert moved.min() >= 0
        flat = m.ravel().copy()
        found = kernel.limited_sweep(flat, rest.ravel(), np.empty(0), 1.0, 0.05, h, d, lines, 1, False,
                                     kernel.LIMITED_PLAIN, kernel.NO_CACHE, np.empty((0, 4, 0, kernel.WIDTH)), 1e-16, 0,
                                     2)
        assert found == count
        assert flat.min() >= 0
        np.testing.assert_allclose(flat.reshape(m.shape).sum(axis=1), m.sum(axis=1), rtol=1e-13)


def test_the_formula_of_second_order_tells_whether_an_entry_is_negative():
    x, y, lowest = np.array([[1.0, 0.5], [0.2, 0.3]]), np.array([[0.9, 0.5], [0.3, 0.2]]), np.empty(2)
    expected = y + ROOT2 * (y - x)
    assert not kernel._combine(x, y, lowest)
    np.testing.assert_allclose(x, expected, rtol=1e-15)
    for i, j in ((0, 0), (1, 1)):
        x = y.copy()
        x[i, j] += 1.0
        assert kernel._combine(x, y, lowest)


@pytest.mark.parametrize("D", [0.3, 0.0])
def test_what_is_not_a_number_stays_so(D):
    # An index formed of NaN would lie outside of a table of powers: seen with bounds checked, or nothing compiled.
    psi, n = np.zeros(6), 6
    psi[2] = math.nan
    h, d = np.full(n, 1.0), np.full(n - 1, 1.0)
    h.flags.writeable = False
    right, left = np.empty(n), np.empty(n)
    kernel._rates(psi, D, h, d, False, kernel._regular_from(h, d), 1, right, left)
    assert np.isnan(right[1:3]).all()
    assert np.isnan(left[2:4]).all()
    assert np.isfinite(right[3:]).all()
    for mode in (kernel.PLAIN, kernel.CORRECTED, kernel.IMPLICIT_EULER):
        moved, _ = run_sweep(np.full(n, 1.0), psi, D, 0.1, h, d, False, mode)
        assert not np.isfinite(moved).all()
