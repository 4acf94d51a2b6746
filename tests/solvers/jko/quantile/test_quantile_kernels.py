"""The compiled kernels of the quantile solver, compared with plain twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from wgflow.compiled import quantile as kernels
from wgflow.compiled import splines
from wgflow.solvers.jko.quantile import refinement as refinement


# -------------------------------------------------------------------- kernels and their plain twins
def spline(nodes, f):
    factors = splines.factor_spline(nodes)
    return factors, splines.bend_spline(nodes, factors, f)


@pytest.mark.parametrize("n", [4, 5, 40])
def test_spline_twin(rng, n):
    from scipy.interpolate import CubicSpline

    nodes, f = np.cumsum(rng.random(n) + 0.2), rng.standard_normal(n)
    _, bends = spline(nodes, f)
    x = np.sort(nodes[0] - 0.1 + (np.ptp(nodes) + 0.2) * rng.random(50))
    out = np.empty((3, 50))
    splines.evaluate(nodes, f, bends, x, *out)
    plain = CubicSpline(nodes, f, bc_type="not-a-knot")
    for k in range(3):
        assert np.abs(out[k] - plain(x, k)).max() < 1e-9 * max(1, np.abs(plain(x, k)).max())


@pytest.mark.parametrize("derivative", [False, True])
def test_deposit_is_the_adjoint_of_evaluation(rng, derivative):
    nodes, f = np.cumsum(rng.random(12) + 0.2), rng.standard_normal(12)
    factors, bends = spline(nodes, f)
    x, weights = np.sort(nodes[0] + np.ptp(nodes) * rng.random(30)), rng.standard_normal(30)
    out, on_values, on_bends = np.empty((3, 30)), np.empty(12), np.empty(12)
    splines.evaluate(nodes, f, bends, x, *out)
    splines.deposit(nodes, x, weights, derivative, on_values, on_bends)
    on_grid = on_values + splines.bend_spline_adjoint(nodes, factors, on_bends)
    assert float(on_grid @ f) == pytest.approx(float(weights @ out[int(derivative)]), rel=1e-11)


def plain_objective(x, y, tau, weights, masses, terms, values):
    diffusion, factors, exponents, q, constant = terms
    volumes = np.exp(constant) * np.diff(x**q) / q
    r = masses / volumes
    internal = diffusion * np.sum(masses * np.log(r)) + sum(
        c * np.sum(volumes * r**k) / (k - 1) for c, k in zip(factors, exponents))
    return float(weights @ values), float(internal), float(weights @ (x - y) ** 2) / (2 * tau)


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0, 40.0])
def test_objective_and_forces_twin(rng, q):
    x, y = 1 + 0.1 * np.arange(12) + 0.05 * rng.random(12), np.sort(rng.random(12)) + 1
    masses, weights, values, slopes = rng.random(11) + 0.1, rng.random(12), rng.random(12), rng.random(12)
    terms = (0.7, np.array([0.4, 1.3]), np.array([2.0, 0.8]), q, 0.2)
    arguments = weights, masses, np.log(masses), terms
    found = kernels.objective(x, y, 0.3, *arguments, values)
    assert found == pytest.approx(plain_objective(x, y, 0.3, weights, masses, terms, values), rel=1e-11)

    def gradient(x):
        out = np.empty(12), np.empty(12), np.empty(11)
        kernels.forces(x, y, 0.3, *arguments, slopes, *out)
        return out

    def value(x):
        _, internal, inertia = plain_objective(x, y, 0.3, weights, masses, terms, values)
        return internal + inertia + float(weights @ (slopes * x))

    g, diagonal, off = gradient(x)
    h = 1e-5 * np.diff(x).min()
    steps = h * np.eye(12)
    assert np.array([(value(x + e) - value(x - e)) / (2 * h) for e in steps]) == pytest.approx(g, rel=1e-4, abs=1e-4)
    hessian = np.array([(gradient(x + e)[0] - gradient(x - e)[0]) / (2 * h) for e in steps])
    expected = np.diag(diagonal + weights / 0.3) + np.diag(off, 1) + np.diag(off, -1)
    assert np.abs(hessian - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_cell_at_the_origin_is_the_limit_of_cells_beside_it():
    y, masses, slopes = np.array([0.0, 0.4, 1.0]), np.array([0.3, 0.7]), np.zeros(3)
    for q in (2.0, 3.0, 10.0):
        terms = (1.0, np.zeros(0), np.zeros(0), q, 0.0)
        results = []
        for start in (0.0, 1e-7):
            x, out = np.array([start, 0.4, 1.0]), (np.empty(3), np.empty(3), np.empty(2))
            kernels.forces(x, y, 1.0, np.ones(3), masses, np.log(masses), terms, slopes, *out)
            results.append(np.concatenate(out))
        assert results[0] == pytest.approx(results[1], abs=1e-5, rel=1e-5)


def test_tridiagonal_twin(rng):
    n = 9
    diagonal, off, right = rng.random(n) + 6, rng.standard_normal(n - 1), rng.standard_normal(n)
    pinned = np.zeros(n, bool)
    pinned[[0, 4]] = True
    pivots, multipliers, out = np.empty((3, n))
    assert kernels.factor_tridiagonal(diagonal, off, pinned, pivots, multipliers)
    kernels.solve_tridiagonal(pivots, multipliers, pinned, right, out)
    matrix = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    free = ~pinned
    assert out[free] == pytest.approx(np.linalg.solve(matrix[np.ix_(free, free)], right[free]), rel=1e-12)
    assert (out[pinned] == 0).all()
    assert not kernels.factor_tridiagonal(diagonal - 7, off, pinned, pivots, multipliers)


def test_conjugate_gradients_twin(rng):
    n, pinned = 8, np.zeros(8, bool)
    pinned[[0, 5]] = True
    diagonal, off, (far, p) = rng.random(n) + 6, rng.standard_normal(n - 1), rng.standard_normal((2, n))
    matrix, product = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1), np.empty(n)
    curvature = kernels.tridiagonal_product(diagonal, off, pinned, p, far, product)
    expected = np.where(pinned, 0.0, matrix @ p + far)
    assert product == pytest.approx(expected, rel=1e-13, abs=1e-13)
    assert curvature == pytest.approx(p @ expected, rel=1e-13)
    pivots, multipliers, z, other = np.empty((4, n))
    kernels.factor_tridiagonal(diagonal, off, pinned, pivots, multipliers)
    direction, left = rng.standard_normal((2, n))
    moved, rest = direction + 0.3 * p, left - 0.3 * product
    kernels.solve_tridiagonal(pivots, multipliers, pinned, rest, other)
    total = kernels.conjugate_step(0.3, p, product, direction, left, pivots, multipliers, pinned, z)
    for found, plain in ((direction, moved), (left, rest), (z, other), (total, rest @ other)):
        assert found == pytest.approx(plain, rel=1e-13)


def test_raster_twin(rng):
    x, masses = np.sort(rng.random(30)) * 3, rng.random(29)
    edges = np.linspace(-0.5, 3.5, 14)
    slopes, width = kernels.slopes_of_cdf(x, masses), np.diff(x)
    below = np.concatenate(([0.0], np.cumsum(masses)))

    def cdf(point):
        i = int(np.clip(np.searchsorted(x, point, side="right") - 1, 0, 28))
        t = float(np.clip((point - x[i]) / width[i], 0, 1))
        left, right = slopes[i] * width[i], slopes[i + 1] * width[i]
        # The cubic Hermite interpolant.
        return (below[i] * (1 + 2 * t) * (1 - t) ** 2 + below[i + 1] * t**2 * (3 - 2 * t)
                + left * t * (1 - t) ** 2 - right * t**2 * (1 - t))

    expected = np.diff([0.0 if e <= x[0] else below[-1] if e >= x[-1] else cdf(e) for e in edges])
    found = kernels.raster(x, masses, edges)
    assert found == pytest.approx(expected, abs=1e-13)
    assert found.sum() == pytest.approx(masses.sum(), rel=1e-15)
    assert (found >= 0).all()


def test_raster_of_positions_that_coincide():
    x = np.array([0.0, 0.5, 0.5, 0.5, 1.0])
    found = kernels.raster(x, np.array([0.1, 0.4, 0.3, 0.2]), np.linspace(0, 1, 5))
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    assert found[0] + found[1] == pytest.approx(0.1, abs=1e-15)
    assert found[2] >= 0.7


def test_move_and_distances(rng):
    x, p, weights = np.sort(rng.random(8)), rng.standard_normal(8), rng.random(8)
    assert kernels.move(x, p, 2.0, (0.1, 0.6)) == pytest.approx(np.clip(x + 2 * p, 0.1, 0.6))
    assert kernels.inner_product(x, p) == pytest.approx(float(x @ p))
    assert kernels.weighted_distance(x, p, weights) == pytest.approx(float(weights @ (x - p) ** 2))
    mean = weights @ x / weights.sum()
    assert kernels.spread(x, weights) == pytest.approx(math.sqrt(weights @ (x - mean) ** 2 / weights.sum()))
    wide = x + np.arange(8)
    new = wide + 3 * p
    falling = np.arange(8.0, 0.0, -1.0)
    for bounds in ((-100.0, 100.0), (wide[0] - 0.1, wide[-1] + 0.1)):
        found = np.clip(new, *bounds)
        least = np.append(0.0, 0.1 * np.diff(wide)).cumsum()
        # Nearest positions with cells of at least these widths: isotonic regression, then the walls.
        nearest = isotonic_regression(found - least, weights=falling).x
        expected = np.clip(nearest, bounds[0], bounds[1] - least[-1]) + least
        kernels.pool(wide, found, 0.1, falling, bounds)
        assert found == pytest.approx(expected, rel=1e-13, abs=1e-13)
        assert (np.diff(found) > 0).all()
    kept = wide.copy()
    kernels.pool(wide, kept, 1.0, falling, (-100.0, 100.0))
    assert (kept == wide).all()
    kernels.mend(wide, new, 0.1, falling, (-100.0, 100.0))
    # Weights fall to the right: each position that comes too near its left neighbor is pushed on.
    expected = (wide + 3 * p).tolist()
    for j in range(1, 8):
        expected[j] = max(expected[j], expected[j - 1] + 0.1 * (wide[j] - wide[j - 1]))
    assert new == pytest.approx(expected, rel=1e-14)
    assert (np.diff(new) > 0).all()
    share = kernels.longest_step(x, p)
    assert share <= 1 / 0.9
    assert (np.diff(x + share * p) > -1e-12).all()
