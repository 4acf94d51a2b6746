"""Checks of a grid's arguments at their bounds, and the edges and widths that are made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow import grid_checks as checks
from wgflow.errors import InvalidType


def test_bounds_are_pairs_of_numbers():
    assert checks.check_bounds((0, 2)) == [(0.0, 2.0)]
    assert checks.check_bounds([(0, 2)]) == [(0.0, 2.0)]
    assert checks.check_bounds([(0, 2), (-1, 1)]) == [(0.0, 2.0), (-1.0, 1.0)]
    for wrong in (3.0, [3.0, (0, 1)], [1, 2, 3], None):
        with pytest.raises(InvalidType, match=r"bounds=.*need a \(lo, hi\) pair for each axis"):
            checks.check_bounds(wrong)
    for wrong in ([(0, 1, 2)], [(0,)], [(0, "1")], [("a", "b"), (0, 1)]):
        with pytest.raises(wg.InvalidInput, match=r"bounds\[0\]=.*need a pair of numbers"):
            checks.check_bounds(wrong)
    for wrong in ((0, math.inf), (-math.inf, 0), (math.nan, 0)):
        with pytest.raises(wg.InvalidInput, match="must be finite"):
            checks.check_bounds(wrong)
    for n, fits in ((0, False), (1, True), (4, True), (5, False)):
        if fits:
            checks.check_axes(n, "edges")
        else:
            with pytest.raises(wg.InvalidInput, match=f"edges has {n} axes; a grid has 1 to 4"):
                checks.check_axes(n, "edges")


def test_numbers_of_cells():
    assert checks.check_cells(2, 3) == (2, 2, 2)
    assert checks.check_cells([2, 5], 2) == checks.check_cells(np.array([2, 5]), 2) == (2, 5)
    assert checks.check_cells(2**60, 1) == (2**60,)
    with pytest.raises(wg.ResourceError, match=r"cells\[0\] is larger"):
        checks.check_cells(2**60 + 1, 1)
    with pytest.raises(wg.InvalidInput, match="say how many cells"):
        checks.check_cells(None, 1)
    with pytest.raises(wg.InvalidInput, match=r"cells\[1\]=1: need an integer >= 2"):
        checks.check_cells((2, 1), 2)
    for wrong in ((2, 3), (2, 3, 4, 5)):
        with pytest.raises(wg.InvalidInput, match=f"cells has {len(wrong)} entries, bounds 3"):
            checks.check_cells(wrong, 3)


def test_edges_of_even_cells_and_of_half_cells():
    assert checks.uniform_edges(0, -1.0, 3.0, 4, False).tolist() == [-1, 0, 1, 2, 3]
    # Half a cell at the origin, and n - 1 whole ones.
    np.testing.assert_allclose(checks.uniform_edges(0, 0.0, 7.0, 4, True), [0, 1, 3, 5, 7], rtol=1e-15)
    # A width of four spacings of the floats there is the least.
    ulp = math.ulp(1.0)
    assert checks.uniform_edges(0, 1.0, 1.0 + 8 * ulp, 2, False).size == 3
    for lo, hi in ((1.0, 1.0 + 7 * ulp), (-1.0 - 7 * ulp, -1.0)):
        with pytest.raises(wg.InvalidInput, match=r"bounds\[3\]: cell width .* is not resolvable at x=1"):
            checks.uniform_edges(3, lo, hi, 2, False)


def test_widths_are_the_same_to_the_bit_where_they_are_even():
    edges = np.linspace(0.1, 0.7, 8)
    assert set(checks.widths_of(edges, True, False)) == {(edges[-1] - edges[0]) / 7}
    half = checks.uniform_edges(0, 0.0, 0.7, 5, True)
    widths = checks.widths_of(half, False, True)
    assert widths[1:].tolist() == [0.7 / 4.5] * 4
    assert widths[0] == 0.5 * widths[1]
    # Not so without a half cell, where the first cell is no half, or the others differ.
    np.testing.assert_array_equal(checks.widths_of(half, False, False), np.diff(half))
    for other in (np.array([0.0, 0.4, 1.4, 2.4]), np.array([0.0, 0.5, 1.5, 2.6])):
        np.testing.assert_array_equal(checks.widths_of(other, False, True), np.diff(other))
    assert checks.is_uniform(edges)
    assert checks.is_uniform(edges + 3 * np.spacing(0.7) * np.array([0, 1, -1, 1, -1, 1, -1, 0]))
    assert not checks.is_uniform(edges + 6 * np.spacing(0.7) * np.array([0, 1, -1, 1, -1, 1, -1, 0]))


def test_edges_are_lines_of_increasing_numbers():
    for given in ([0.0, 1.0, 3.0], np.array([0.0, 1.0, 3.0]), [[0.0, 1.0, 3.0]], ((0.0, 1.0, 3.0),)):
        (found,) = checks.check_edges(given)
        assert found.tolist() == [0, 1, 3]
    assert [e.size for e in checks.check_edges([np.arange(3), np.arange(5)])] == [3, 5]
    for wrong, words in (([[0.0, 1.0]], "at least 3 edges"), ([np.zeros((3, 3))], r"has shape \(3, 3\)"),
                         ([[0.0, 1.0, math.inf]], "must be finite, got inf"),
                         ([[0.0, 2.0, 3.0, 3.0, 1.0]], r"edges\[3\]=3 <= edges\[2\]=3")):
        with pytest.raises(wg.InvalidInput, match=words):
            checks.check_edges(wrong)
    for wrong in ("ab", {1.0}, 3.0):
        with pytest.raises(InvalidType, match="must be a sequence of 1-D arrays"):
            checks.check_edges(wrong)


def test_origins():
    assert checks.check_origin(True, 2) == (True, True)
    assert checks.check_origin([True, False], 2) == (True, False)
    for wrong in ([True], [True, 0], 1, None, "ab"):
        with pytest.raises(wg.InvalidInput, match=r"origin=.*need True or False"):
            checks.check_origin(wrong, 2)


def test_boundaries_by_axis_and_by_end():
    wall, free, turns = "no-flux", None, "periodic"
    for given, ndim, periodic, walls in (
            (None, 2, (False, False), ((False, False),) * 2), (wall, 1, (False,), ((True, True),)),
            (turns, 2, (True, True), ((False, False),) * 2), ((wall, free), 1, (False,), ((True, False),)),
            ((free, wall), 1, (False,), ((False, True),)),
            ((turns, wall), 2, (True, False), ((False, False), (True, True))),
            ([(wall, free), turns], 2, (False, True), ((True, False), (False, False))),
            ([(turns, turns)], 1, (True,), ((False, False),))):
        assert checks.check_boundary(given, ndim) == (periodic, walls)
    for given, ndim, words in ((["periodic", "no-flux"], 1, "periodic needs both sides of axis 0"),
                               ([None, (wall, turns)], 2, "periodic needs both sides of axis 1"),
                               ([(wall,), wall], 2, "need one word for the axis"),
                               ([wall], 2, "has 1 entries, the grid 2"),
                               ("open", 1, "first-passage"), ("Robin", 1, "first-passage"),
                               ("neumann", 1, "'no-flux'"),
                               ("Reflecting", 1, "'no-flux'"),
                               ("no_flux", 1, "'no-flux'"), ("perodic", 1, "'periodic'"),
                               ("qqqq", 1, "unknown boundary; allowed")):
        with pytest.raises(wg.InvalidInput, match=words):
            checks.check_boundary(given, ndim)
    with pytest.raises(InvalidType, match="boundary must be one of"):
        checks.check_boundary(0, 1)


def test_names():
    assert checks.check_names(None, 3) == ("x", "y", "z")
    assert checks.check_names("r", 1) == ("r",)
    assert checks.check_names(["r", "s"], 2) == ("r", "s")
    for wrong in ((), (1, 2), 3):
        with pytest.raises(InvalidType, match="need strings, one for each axis"):
            checks.check_names(wrong, 2)
    for wrong in (("a",), ("a", "a"), ("a", "b", "c")):
        with pytest.raises(wg.InvalidInput, match="need 2 different names, one for each column"):
            checks.check_names(wrong, 2, "column")


def test_weights():
    weight = np.array([0.0, 1.0])
    found = checks.check_log_weight(weight, (2,))
    assert not found.flags.writeable
    assert weight.flags.writeable
    with pytest.raises(wg.InvalidInput, match=r"has shape \(2,\), the grid \(3,\)"):
        checks.check_log_weight(weight, (3,))
    with pytest.raises(wg.InvalidInput, match="must be finite"):
        checks.check_log_weight([0.0, -math.inf], (2,))
