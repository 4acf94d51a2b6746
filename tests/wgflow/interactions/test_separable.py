"""Convolutions with kernels that are products: short products along each axis, held against the sum over cells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled.lowrank import along_axis, cross_factors
from wgflow.interactions.separable import separable

PLANE = wg.Grid([(-4, 4), (-3, 3)], cells=(37, 50))
CYLINDER = wg.Grid([(-4, 4), (0, 2)], cells=(40, 33), boundary=("no-flux", "periodic"))
TORUS = wg.Grid([(0, 2), (0, 2)], cells=(24, 30), boundary="periodic")
BOX = wg.Grid([(-2, 2)] * 3, cells=(9, 12, 8))
PRODUCTS = {
    "gaussian": (PLANE, lambda x, y: -2.5 * np.exp(-(x**2 + y**2))),
    "two widths": (PLANE, lambda x, y: np.exp(-(x**2) - y**2 / 3)),
    "odd": (PLANE, lambda x, y: x * y * np.exp(-(x**2) - y**2 / 2)),
    "constant": (PLANE, lambda x, y: 3.0 + 0 * x),
    "far from 0": (PLANE, lambda x, y: x**2 * y**4),
    "narrow": (PLANE, lambda x, y: np.exp(-50 * (x**2 + y**2))),
    "cylinder": (CYLINDER, lambda x, y: np.exp(-(x**2)) * (2 + np.cos(np.pi * y))),
    "torus": (TORUS, lambda x, y: np.cos(np.pi * x) * (1 + 0.5 * np.cos(np.pi * y))),
    "box": (BOX, lambda x, y, z: np.exp(-(x**2) - 2 * y**2 - z**2 / 3)),
}


def direct(grid, w, masses):
    """Return sum_j w(x_i - x_j) m_j, with displacements on circles in [-period/2, period/2]."""
    places, total = [np.ravel(x) for x in np.meshgrid(*grid.centers, indexing="ij")], 0.0
    gaps = []
    for x, (lo, hi), around in zip(places, grid.bounds, grid.periodic):
        gap = np.subtract.outer(x, x)
        gaps.append(gap - (hi - lo) * np.round(gap / (hi - lo)) if around else gap)
    total = w(*gaps) @ masses.ravel()
    return total.reshape(grid.shape)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_the_sum_over_cells(name):
    grid, w = PRODUCTS[name]
    operator = wg.Convolution(w).operator(grid)
    assert operator.separable is not None, operator.form
    assert operator.form.endswith(f"{operator.separable.ranks[-1]} products")
    masses = np.random.default_rng(3).uniform(0, 1, grid.shape)
    found, exact = operator.apply(masses), direct(grid, w, masses)
    scale = np.abs(operator.table).max() * masses.sum()
    np.testing.assert_allclose(found, exact, rtol=0, atol=4e-15 * scale)
    operator.separable = None
    np.testing.assert_allclose(found, operator.apply(masses), rtol=0, atol=4e-15 * scale)


def test_others_are_left_to_fourier_transforms():
    for w in (lambda x, y: np.exp(-(x**2 + x * y + y**2)), lambda x, y: x**2 + y**2, lambda x, y: 0 * x,
              lambda x, y: np.exp(-(x**2 + y**2)) + 1e-12 * np.exp(-((x + y) ** 2))):
        operator = wg.Convolution(w).operator(PLANE)
        assert operator.separable is None
        assert operator.form.endswith("FFT")
    # Products whose factors are of full rank, where transforms are the faster ones; a single axis.
    noise = np.random.default_rng(0).normal(size=200)
    rough = np.concatenate([noise, [0.0], noise[:0:-1]])
    assert separable(np.multiply.outer(rough, rough), (200, 200)) is None
    assert separable(np.exp(-np.arange(8.0)), (4,)) is None


def test_a_run_is_that_with_fourier_transforms(monkeypatch):
    rho = wg.Density.from_function(PLANE, lambda x, y: np.exp(-2 * (x - 0.5) ** 2 - 2 * y**2), normalize=True)
    ends = []
    for _ in range(2):
        well = wg.Entropy(beta=4.0) + wg.Potential(lambda x, y: x**2 + y**2)
        ends.append(wg.solve(well + wg.Convolution(PRODUCTS["gaussian"][1]), rho, (0.0, 0.3)).final.values)
        monkeypatch.setattr("wgflow.interactions.operators.separable", lambda table, shape: None)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-12 * ends[1].max())
    assert not np.array_equal(ends[0], ends[1])


@pytest.mark.parametrize("shape", list(itertools.product((1, 2, 5, 8), (1, 3, 4, 7), (1, 4, 9))))
def test_products_along_an_axis(shape):
    k, n, inner = shape
    rng = np.random.default_rng(1)
    matrix, x = rng.normal(size=(k, n)), rng.normal(size=(3, n, inner))
    found = along_axis(matrix, np.ascontiguousarray(matrix.T), x)
    np.testing.assert_allclose(found, np.einsum("kn,ani->aki", matrix, x), rtol=0, atol=1e-14)


def test_cross_factors():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 20))
    left, right = np.zeros((20, 5)), np.zeros((5, 20))
    assert cross_factors(matrix.copy(), 1e-13, left, right) == 3
    np.testing.assert_allclose(left @ right, matrix, rtol=0, atol=1e-13)
    assert cross_factors(matrix.copy(), 1e-13, left[:, :2].copy(), right[:2].copy()) == -1
    assert cross_factors(np.zeros((20, 20)), 0.0, left, right) == 0
