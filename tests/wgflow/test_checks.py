"""Checks of numbers, axes, intervals and memory: what passes at the bounds, what is refused, and in which words."""

from __future__ import annotations

import math
import resource

import numpy as np
import pytest

import wgflow as wg
from wgflow import checks
from wgflow.errors import InvalidType


# ---------------------------------------------------------------- words for values
@pytest.mark.parametrize(("value", "words"), [
    (2**63, "1e19"), (-(2**63), "-1e19"), (2**63 - 1, str(2**63 - 1)), (10**5000, "1e5000"), (True, "True"),
    (int, "the class int"), (np.zeros(5), "an ndarray of shape (5,)"), (np.zeros(4), "array([0., 0., 0., 0.])"),
    (math.cos, "the function cos"), ("x" * 58, repr("x" * 58)), ("x" * 59, "a str"), (list(range(99)), "a list"),
    ("a\nb", "'a\\nb'"),
], ids=lambda value: type(value).__name__)
def test_values_in_messages(value, words):
    assert checks.described(value) == words


def test_an_article_fits_its_noun():
    class Instance:
        def __repr__(self):
            return "y" * 61

    class Apple(Instance):
        pass

    assert checks.described(Instance()) == "an Instance"
    assert checks.described(Apple()) == "an Apple"
    assert checks.kind_of(Apple) == "the class Apple"
    assert checks.kind_of(3.0) == "float"


# ---------------------------------------------------------------- numbers
def test_numbers_at_their_bounds():
    assert checks.check_positive("n", 0, zero=True) == 0.0
    assert checks.check_positive("n", math.inf, infinite=True) == math.inf
    assert checks.check_positive("n", 5e-324) == 5e-324
    assert checks.check_positive("n", None, allow_none=True) is None
    for value, options, words in ((0, {}, "must be finite and > 0"), (-1e-300, {"zero": True}, "finite and >= 0"),
                                  (math.inf, {}, "finite"), (math.inf, {"zero": True}, "finite"),
                                  (-math.inf, {"infinite": True}, "must be > 0"), (math.nan, {"zero": True}, ">= 0"),
                                  (math.nan, {"infinite": True}, "> 0")):
        with pytest.raises(wg.InvalidInput, match=f"n=.*{words}"):
            checks.check_positive("n", value, **options)
    with pytest.raises(InvalidType):
        checks.check_positive("n", None)
    assert checks.check_real("x", math.inf, infinite=True) == math.inf
    for value, infinite in ((math.inf, False), (-math.inf, False), (math.nan, False), (math.nan, True)):
        with pytest.raises(wg.InvalidInput, match="must be"):
            checks.check_real("x", value, infinite=infinite)
    assert checks.check_count("n", 3, least=3) == 3
    assert checks.check_count("n", 1) == 1
    assert checks.check_count("n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(wg.InvalidInput, match="n=2: need an integer >= 3"):
        checks.check_count("n", 2, least=3)
    with pytest.raises(wg.ResourceError, match="2\\^63 - 1"):
        checks.check_count("n", 2**63)


def test_flags_are_true_or_false():
    assert checks.check_flag("on", np.True_) is True
    assert checks.check_flag("on", False) is False
    for value in (0, 1, None, "yes"):
        with pytest.raises(InvalidType, match=r"on=.*need True or False"):
            checks.check_flag("on", value)


def test_intervals():
    assert checks.check_interval("ends", [0, 2]) == (0.0, 2.0)
    for value in (3.0, (1, 2, 3), (0, math.inf), (math.nan, 1), ("a", "b")):
        with pytest.raises(wg.InvalidInput, match=r"ends=.*must be a pair \(lo, hi\) of finite numbers"):
            checks.check_interval("ends", value)
    for value in ((1, 1), (2, 1)):
        with pytest.raises(wg.InvalidInput, match="lo must be < hi"):
            checks.check_interval("ends", value)


def test_axes_by_number_and_by_name():
    assert checks.axis_numbers(1, ("x", "y")) == (1,)
    assert checks.axis_numbers("y", ("x", "y")) == (1,)
    assert checks.axis_numbers(["y", 0], ("x", "y")) == (1, 0)
    assert checks.axis_numbers(range(2), ("x", "y")) == (0, 1)
    assert checks.axis_numbers(np.array([1]), ("x", "y")) == (1,)
    with pytest.raises(wg.InvalidInput, match="no axis is called 'z'; there are x, y"):
        checks.axis_numbers(("x", "z"), ("x", "y"))
    for axes in (1.5, None, {"x"}, [0, True], [0.5]):
        with pytest.raises(InvalidType, match="need the number or the name of an axis"):
            checks.axis_numbers(axes, ("x", "y"))


# ---------------------------------------------------------------- arrays and functions
def test_arrays_of_real_numbers():
    assert checks.real_array([True, False], "v").tolist() == [1.0, 0.0]
    assert checks.real_array(np.ma.masked_array([1.0, 2.0], mask=[False, False]), "v").tolist() == [1.0, 2.0]
    given = np.array([1.0, 2.0])
    assert checks.real_array(given, "v") is not given
    assert checks.length_of(range(7)) == 7
    assert checks.length_of(3.0) == 1
    assert checks.length_of(range(10**30)) == 2**63 - 1


def test_a_function_is_called_with_views_that_it_cannot_change():
    x = np.array([1.0, 2.0])
    assert checks.call_user(lambda a, b: (a.flags.writeable, b), (x, 3), "f") == (False, 3)
    assert x.flags.writeable

    def starved(a):
        raise MemoryError

    with pytest.raises(wg.ResourceError, match=r"f, called with 2 values, ran out of memory"):
        checks.call_user(starved, (x,), "f")
    with pytest.raises(wg.ResourceError, match=r"f, called with 1 values, ran"):
        checks.call_user(starved, (3.0,), "f")
    with pytest.raises(wg.InvalidInput, match=r"called with 1 coordinate, .*np\.where"):
        checks.call_user(lambda a: 1 if a else 2, (x,), "f")
    with pytest.raises(wg.InvalidInput, match=r"called with 2 coordinates, "):
        checks.call_user(lambda a, b: 1 / 0, (x, x), "f")


# ---------------------------------------------------------------- memory
def test_requests_are_held_against_the_memory_that_is_free(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda: 10**8)
    checks.check_memory(64e6, "a thing", "fix")
    checks.check_memory(1e8, "a thing", "fix")
    with pytest.raises(wg.ResourceError, match=r"a thing needs .* GiB, 0\.0931 GiB are free for this process; fix"):
        checks.check_memory(1.0001e8, "a thing", "fix")
    checks.check_size(range(12_500_000), "t")
    checks.check_size(np.broadcast_to(0.0, 12_500_000), "t")
    for values in (range(12_600_000), np.broadcast_to(0.0, (2, 6_300_000)), range(10**30)):
        with pytest.raises(wg.ResourceError, match="take fewer"):
            checks.check_size(values, "t")
    checks.check_grid_memory((1_000_000,))
    with pytest.raises(wg.ResourceError, match="take fewer cells"):
        checks.check_grid_memory((1000, 1100))
    monkeypatch.setattr(checks, "available_memory", lambda: 0)
    checks.check_memory(64e6, "a small thing", "fix")
    with pytest.raises(wg.ResourceError):
        checks.check_memory(64e6 + 1, "a thing", "fix")


def test_the_least_of_what_machine_containers_and_limits_leave(monkeypatch):
    parts = {"_free_of_machine": 50, "_left_by_containers": [70, 40], "_left_by_limit": 60}
    for name, value in parts.items():
        monkeypatch.setattr(checks, name, lambda value=value: value)
    assert checks.available_memory() == 40
    monkeypatch.setattr(checks, "_left_by_containers", list)
    assert checks.available_memory() == 50
    monkeypatch.setattr(checks, "_left_by_limit", lambda: -3)
    assert checks.available_memory() == 0


def test_what_is_read_of_the_system(monkeypatch):
    files = {"/proc/meminfo": ["MemTotal: 9 kB\n", "MemAvailable:    5 kB\n"], "/proc/self/statm": ["7 2 1\n"]}
    monkeypatch.setattr(checks, "_lines", lambda path: files.get(path, []))
    assert checks._free_of_machine() == 5 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10**9, 10**9))
    assert checks._left_by_limit() == 10**9 - 7 * resource.getpagesize()
    files.clear()
    assert checks._left_by_limit() == 10**9
    assert checks._free_of_machine() == 8 * 2**30
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, 0))
    assert checks._left_by_limit() == 2**63


def test_what_control_groups_leave(monkeypatch):
    root = "/sys/fs/cgroup"
    files = {"/proc/self/cgroup": ["1:name=x:/other\n", "0::/a.d/b\n"],
             f"{root}/a.d/b/memory.max": ["1000\n"], f"{root}/a.d/b/memory.current": ["300\n"],
             f"{root}/a.d/b/memory.stat": ["anon 5\n", "inactive_file 50\n"],
             f"{root}/a.d/memory.max": ["max\n"], f"{root}/a.d/memory.current": ["400\n"],
             f"{root}/a/memory.max": ["200\n"], f"{root}/a/memory.current": ["0\n"],  # of others
             f"{root}/memory.max": ["900\n"], f"{root}/memory.current": ["100\n"],
             f"{root}/memory/memory.limit_in_bytes": ["800\n"], f"{root}/memory/memory.usage_in_bytes": ["1\n"]}
    monkeypatch.setattr(checks, "_lines", lambda path: files.get(path, []))
    assert sorted(checks._left_by_containers()) == [750, 799, 800]
    files.clear()
    assert checks._left_by_containers() == []


def test_an_error_of_memory_says_what_is_free(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda: 2**30)
    own = wg.ResourceError("told")
    assert checks.out_of_memory(own, "a run") is own
    assert "a run ran out of memory: no more memory; 1 GiB" in str(checks.out_of_memory(MemoryError(), "a run"))
    assert "memory: 7 GiB; 1" in str(checks.out_of_memory(MemoryError("7  GiB"), "a run"))


def test_numbers_that_are_rounded_to_zero_are_warned_of(monkeypatch, recwarn):
    checks.check_subnormals()
    assert not recwarn
    monkeypatch.setattr(checks, "ONE", 0.0)  # as a processor does that rounds the product to 0
    with pytest.warns(wg.WGFlowWarning, match="rounded to 0"):
        checks.check_subnormals()


def test_values_on_a_grid():
    grid = wg.Grid([(0, 1), (0, 2)], cells=(2, 4), boundary="no-flux")
    values = np.ones((2, 4))
    assert checks.check_values(np.asfortranarray(values), grid, "V").flags.c_contiguous
    for bad, place in (((0, 3), r"\(0\.25, 1\.75\), cell \(0, 3\), and in 1 cells"),
                       ((1, 0), r"\(0\.75, 0\.25\), cell \(1, 0\), and in 1 cells")):
        values = np.ones((2, 4))
        values[bad] = math.inf
        with pytest.raises(wg.InvalidInput, match=f"V is inf at {place}"):
            checks.check_values(values, grid, "V")
