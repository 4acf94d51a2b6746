"""GMRES: its answers, the order in which it finds them, and that it says where it did not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow.solvers.krylov import gmres


def dot(x, y):
    return float((x * y).sum())


def spread_out(n, largest, rng):
    """A symmetric matrix with eigenvalues between 1 and ``largest``."""
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return q @ np.diag(np.linspace(1.0, largest, n)) @ q.T


@pytest.mark.parametrize("passes", [1, 2])
def test_answers_are_those_of_elimination(passes):
    rng = np.random.default_rng(811)
    for n in (1, 2, 7, 40):
        matrix, b = np.eye(n) + 0.3 * rng.normal(size=(n, n)), rng.normal(size=n)
        found = gmres(lambda x, matrix=matrix: matrix @ x, b, dot=dot, forcing=1e-13, limit=n, passes=passes)
        assert found.converged
        assert found.finite
        np.testing.assert_allclose(found.x, np.linalg.solve(matrix, b), rtol=1e-9, atol=1e-10)


def test_a_matrix_of_rank_r_beside_the_identity_takes_one_direction_more():
    rng = np.random.default_rng(813)
    for rank in (1, 3, 8):
        rows, calls = rng.normal(size=(rank, 200)), [0]

        def product(x, rows=rows, calls=calls):
            calls[0] += 1
            return x + rows.T @ (rows @ x) / 200

        b = rng.normal(size=200)
        found = gmres(product, b, dot=dot, forcing=1e-12, limit=60)
        assert found.converged
        assert calls[0] == rank + 1
        assert np.abs(product(found.x) - b).max() < 1e-10


def test_the_residual_falls_at_the_rate_of_chebyshev():
    # With eigenvalues between 1 and c: by (sqrt(c) - 1) / (sqrt(c) + 1) an iteration, from twice the first one.
    rng = np.random.default_rng(817)
    largest, n = 9.0, 400
    matrix, b = spread_out(n, largest, rng), rng.normal(size=n)
    rate = (math.sqrt(largest) - 1) / (math.sqrt(largest) + 1)
    left = []
    for limit in (10, 20, 30):
        found = gmres(lambda x: matrix @ x, b, dot=dot, forcing=1e-15, limit=limit)
        assert not found.converged
        left.append(np.linalg.norm(b - matrix @ found.x) / np.linalg.norm(b))
        assert left[-1] <= 2 * rate**limit
    orders = [(left[k + 1] / left[k]) ** 0.1 for k in range(2)]
    assert orders == pytest.approx([rate] * 2, abs=0.03)


def test_no_other_vector_of_the_space_leaves_less():
    rng = np.random.default_rng(819)
    matrix, b = np.eye(30) + 0.4 * rng.normal(size=(30, 30)), rng.normal(size=30)
    weight = rng.uniform(0.1, 5.0, 30)
    scaling = rng.uniform(0.5, 2.0, 30)

    def inner(x, y):
        return float((weight * x * y).sum())

    found = gmres(lambda x: matrix @ x, b, dot=inner, forcing=1e-15, limit=5, precondition=lambda x: scaling * x)
    space = [scaling * b]
    for _ in range(4):
        space.append(scaling * (matrix @ space[-1]))
    images = np.array([scaling * (matrix @ v) for v in space]).T
    root = np.sqrt(weight)
    shares = np.linalg.lstsq(root[:, None] * images, root * scaling * b, rcond=None)[0]
    np.testing.assert_allclose(found.x, np.array(space).T @ shares, rtol=1e-8)


def test_an_exact_preconditioner_takes_one_iteration():
    rng = np.random.default_rng(821)
    matrix, b = np.eye(25) + 0.2 * rng.normal(size=(25, 25)), rng.normal(size=25)
    found = gmres(lambda x: matrix @ x, b, dot=dot, forcing=1e-10, limit=1,
                  precondition=lambda x: np.linalg.solve(matrix, x))
    assert found.converged
    np.testing.assert_allclose(found.x, np.linalg.solve(matrix, b), rtol=1e-10)


def test_looser_forcing_takes_fewer_products_and_keeps_its_word():
    rng = np.random.default_rng(823)
    matrix, b = spread_out(100, 30.0, rng), rng.normal(size=100)
    counts = []
    for forcing in (1e-2, 1e-4, 1e-8):
        calls = [0]

        def product(x, calls=calls):
            calls[0] += 1
            return matrix @ x

        found = gmres(product, b, dot=dot, forcing=forcing, limit=100)
        assert found.converged
        assert np.linalg.norm(b - matrix @ found.x) <= 1.01 * forcing * np.linalg.norm(b)
        counts.append(calls[0])
    assert counts[0] < counts[1] < counts[2]


def test_arrays_of_any_shape():
    b = np.arange(1.0, 13.0).reshape(3, 4)
    found = gmres(lambda x: 2.0 * x + x[::-1], b, dot=dot, forcing=1e-13, limit=12)
    assert found.x.shape == (3, 4)
    np.testing.assert_allclose(2.0 * found.x + found.x[::-1], b, rtol=1e-12)


# -------------------------------------------------------------------- where there is nothing to solve
def test_a_right_side_of_zero():
    found = gmres(lambda x: x, np.zeros(5), dot=dot, forcing=1e-3, limit=5)
    assert found == (pytest.approx(np.zeros(5)), True, True)


def test_a_right_side_that_is_not_finite():
    found = gmres(lambda x: x, np.array([1.0, np.nan]), dot=dot, forcing=1e-3, limit=5)
    assert not found.converged
    assert not found.x.any()


def test_a_product_that_is_not_finite_ends_the_search():
    calls = [0]

    def product(x):
        calls[0] += 1
        return np.roll(x, 1) if calls[0] < 3 else np.full(x.shape, np.inf)

    b = np.eye(6)[0]
    found = gmres(product, b, dot=dot, forcing=1e-3, limit=6)
    assert not found.finite
    assert not found.converged
    assert np.isfinite(found.x).all()


def test_a_matrix_that_takes_everything_to_zero():
    found = gmres(np.zeros_like, np.ones(4), dot=dot, forcing=1e-3, limit=4)
    assert not found.converged
    assert found.finite
    assert not found.x.any()


def test_noise_ends_the_search():
    rng = np.random.default_rng(827)
    calls = [0]

    def product(x):
        calls[0] += 1
        return x + 1e-11 * rng.normal(size=x.size)

    b = rng.normal(size=50)
    found = gmres(product, b, dot=dot, forcing=1e-15, limit=50, passes=2, noise=1e-9)
    assert calls[0] == 1
    np.testing.assert_allclose(found.x, b, atol=1e-9)
