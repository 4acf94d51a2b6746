"""How kernels are compiled: parts within kernels, garbage collection, a missing place on disk."""

import gc
import pickle
import warnings

import numba
import numpy as np
import pytest

from wgflow.compiled.jit import CONFIG, Kernel, jit
from wgflow.errors import WGFlowWarning

pytestmark = pytest.mark.skipif(bool(CONFIG.DISABLE_JIT), reason="nothing is compiled")


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    monkeypatch.setattr(Kernel, "enable_caching", lambda self: None)


def halved(x):
    return 0.5 * x


def square_of(x):
    return x * x


def test_functions_called_by_kernels_are_compiled_inside_them():
    half, square = jit(halved), jit(square_of)

    @jit
    def row(x, out):
        for i in range(x.size):
            out[i] = half(square(x[i])) + square(1.0)

    @jit
    def rows(x, out):
        for k in range(x.shape[0]):
            row(x[k], out[k])
        return half(out[0, 0])

    x, out = np.arange(6.0).reshape(2, 3), np.empty((2, 3))
    assert rows(x, out) == 0.5
    assert np.array_equal(out, 0.5 * x * x + 1.0)
    # The inner functions have been compiled for their callers alone,
    for inner in (half, square, row):
        assert not inner.overloads
        assert len(inner.part.overloads) == 1
    # and serve Python as well where it calls them, for arguments of any type.
    assert half(3) == 1.5
    assert square(3) == 9
    row(x[1], out[0])
    assert np.array_equal(out[0], out[1])


def test_constants_are_numbers_of_their_type():
    """A function called with 0, with 1 and with a number is compiled once."""

    @jit
    def shifted(x, k):
        return x + k

    @jit(unrolled=False)
    def total(x, n):
        s = shifted(x, 0) * shifted(x, 1)
        for k in range(n):
            s += shifted(x, k)
        return s

    assert total(3.0, 3) == 24.0
    assert len(shifted.part.overloads) == 1


def test_loops_that_are_not_unrolled_give_the_same_bits():
    def moved(x, a, out):
        carry = 0.0
        for i in range(x.size):
            for k in range(4):
                carry = 0.3 * carry + a[k] * x[i]
            out[i] = np.exp(-x[i] * x[i]) * a[0] + carry
        return out.sum()

    rng = np.random.default_rng(5)
    x, a = rng.standard_normal(997), rng.standard_normal(4)
    rolled, unrolled = np.empty_like(x), np.empty_like(x)
    assert jit(unrolled=False)(moved)(x, a, rolled) == jit(moved)(x, a, unrolled)
    assert np.array_equal(rolled, unrolled)


def test_fast_arithmetic_is_that_of_the_inner_function():
    """Sums may be reordered in the function that allows it, and in no other."""

    def total(x):
        s = 0.0
        for i in range(x.size):
            s += x[i]
        return s

    exact, loose = jit(total), jit(fastmath={"reassoc"})(total)

    @jit
    def both(x):
        return exact(x), loose(x)

    x = np.random.default_rng(3).standard_normal(1000) * 10.0 ** np.arange(0, 10, 0.01)
    first, second = both(x)
    assert first == np.cumsum(x)[-1] == exact(x)
    assert second == pytest.approx(first, rel=1e-12)
    assert second != first


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collection_of_garbage_is_left_as_it_was(collecting):
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        assert jit(halved)(1.0) == 0.5
        assert gc.isenabled() == collecting
        with pytest.raises(Exception, match="halved"):
            jit(halved)("one")
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_newer_versions_of_numba_compile_functions_as_numba_does(monkeypatch):
    monkeypatch.setattr("wgflow.compiled.jit.PARTS", False)
    inner = jit(halved)

    @jit
    def twice_halved(x):
        return inner(inner(x))

    assert twice_halved(3.0) == 0.75
    assert "part" not in vars(inner)


def test_without_a_place_on_disk_kernels_are_compiled_in_memory(monkeypatch):
    def nowhere(self):
        raise RuntimeError("no locator available")

    monkeypatch.setattr(Kernel, "enable_caching", nowhere)
    kernel = jit(halved)
    with pytest.warns(WGFlowWarning, match="cannot cache halved on disk .no locator available.; compiling in memory"):
        assert kernel(1.0) == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel(3) == 1.5


def test_a_kernel_can_be_sent_to_another_process():
    again = pickle.loads(pickle.dumps(jit(halved)))
    assert again(3.0) == 1.5


def test_without_compiling_a_kernel_is_pythons_and_as_silent(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)

    @jit
    def quotient(x, y):
        return x / y

    assert not isinstance(quotient, Kernel)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quotient(np.float64(1.0), np.float64(0.0)) == np.inf
