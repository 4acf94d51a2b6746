"""What is refused of a user's kernel, at which place it is said to fail, and what is not refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.interactions.kernel_checks import (
    EXACTNESS,
    asymmetric,
    check_displacement_table,
    check_sampled_symmetry,
    circular_offsets,
    kernel_at,
)

LINE = wg.Grid((0, 1), cells=8, boundary="no-flux")
PLANE = wg.Grid([(0, 1), (0, 3)], cells=(4, 6), boundary="no-flux")


def test_a_kernel_is_evaluated_between_the_cells_named():
    i, j = np.array([0, 7, 3]), np.array([5, 1, 3])
    x = LINE.centers[0]
    np.testing.assert_array_equal(kernel_at(lambda a, b: 2 * a - b, LINE, i, j), 2 * x[i] - x[j])
    np.testing.assert_array_equal(kernel_at(lambda a, b: 2.5, LINE, i, j), [2.5] * 3)
    full = kernel_at(lambda a, b, c, d: a + 10 * b + 100 * c + 1000 * d, PLANE, np.arange(24)[:, None], np.arange(24))
    a, b = (c.ravel() for c in np.broadcast_arrays(*PLANE.mesh()))
    np.testing.assert_allclose(full, (a + 10 * b)[:, None] + 100 * (a + 10 * b), rtol=1e-14)


def test_a_kernel_returns_one_value_for_each_pair():
    for wrong in (lambda a, b: a[:2], lambda a, b: np.stack([a, b]), lambda a, b: np.ones(1)):
        with pytest.raises(wg.InvalidInput, match=r"U returned shape \(.*\) for coordinates of shape \(3,\)"):
            kernel_at(wrong, LINE, np.array([0, 1, 2]), np.array([3, 4, 5]))


def test_the_pair_at_which_a_kernel_is_not_finite_is_named():
    def hole(a, b, c, d):
        return np.where((a > 0.8) & (d > 2.7), math.nan, 1.0)

    i, j = np.array([0, 18, 6]), np.array([1, 5, 5])
    with pytest.raises(wg.InvalidInput, match=r"U is nan between \(0\.875, 0\.25\) and \(0\.125, 2\.75\)"):
        kernel_at(hole, PLANE, i, j)


def test_the_worst_pair_of_an_asymmetric_kernel_is_named():
    for size in (1.0, 1e-8, 1e8):
        smooth = check_sampled_symmetry(lambda a, b, size=size: size * np.cos(a - b), LINE)
        assert 0 < smooth <= size
        # Asymmetry of round-off's size passes.
        check_sampled_symmetry(lambda a, b, size=size: size * (1 + 0.4 * EXACTNESS * np.sign(a - b)), LINE)
        with pytest.raises(wg.InvalidInput, match="U is not symmetric"):
            check_sampled_symmetry(lambda a, b, size=size: size * (1 + 4 * EXACTNESS * np.sign(a - b)), LINE)
    # The largest gap is that between the two ends, which are among the pairs.
    with pytest.raises(wg.InvalidInput, match=r"between \((0\.0625|0\.9375),\) and \((0\.0625|0\.9375),\)") as caught:
        check_sampled_symmetry(lambda a, b: a, LINE)
    assert "0.0625" in str(caught.value)
    assert "0.9375" in str(caught.value)
    assert "U(i,j)=1 but U(j,i)=2 between here" in str(asymmetric(1.0, 2.0, "here"))


def test_displacements_in_the_order_of_transforms():
    assert circular_offsets(5, 5).tolist() == [0, 1, 2, -2, -1]
    assert circular_offsets(4, 4).tolist() == [0, 1, 2, -1]
    # Padding repeats the largest displacements that occur.
    assert circular_offsets(3, 8).tolist() == [0, 1, 2, 2, 2, -2, -2, -1]


def test_the_place_at_which_a_table_fails_is_named():
    offsets = circular_offsets(6, 12) * 0.5
    grid = wg.Grid((0, 3), cells=6, boundary="no-flux")
    even = np.cos(offsets)
    check_displacement_table(even, grid)
    check_displacement_table(even * (1 + 0.4 * EXACTNESS * np.sign(offsets)), grid)
    with pytest.raises(wg.InvalidInput, match=r"W not even: max difference 4e-\d+ at x=\((0\.5|-0\.5)\)"):
        check_displacement_table(1e-3 * (1 + 20 * EXACTNESS * np.sign(offsets) * (np.abs(offsets) == 0.5)) *
                                 np.ones(12), grid)
    for at, words in ((0, r"W\(0\) is inf: pass W as a singular kernel"), (2, r"W\(1\.0,\) is inf; it must be finite"),
                      (11, r"W\(-0\.5,\) is inf; it must be finite")):
        broken = even.copy()
        broken[at] = math.inf
        with pytest.raises(wg.InvalidInput, match=words):
            check_displacement_table(broken, grid)
