"""Sweeps: the same bits on every executor and schedule, deaths of workers, restarts, damaged files, bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, StorageError, WGFlowError

HERE = Path(__file__).resolve().parent
GRID = {"a": [1.0, 2.0, 3.0], "b": [0, 5]}


@pytest.fixture(autouse=True)
def functions(monkeypatch):
    """The module of swept functions, found by this process and by those that it starts."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    import sweep_functions

    return sweep_functions


class Backwards(Executor):
    """Runs six calls in this process as soon as it has them, the last one first."""

    def __init__(self):
        self.calls = []

    def submit(self, function, /, *arguments):
        self.calls.append((Future(), function, arguments))
        if len(self.calls) == 6:
            for future, each, given in reversed(self.calls):
                future.set_result(each(*given))
        return self.calls[-1][0]


def expected():
    streams = np.random.SeedSequence(7).spawn(6)
    found = []
    for (a, b), stream in zip([(a, b) for a in GRID["a"] for b in GRID["b"]], streams):
        rng = np.random.default_rng(stream)
        found.append((a * rng.normal() + b, rng.normal(size=3)))
    return np.array([f[0] for f in found]).reshape(3, 2), np.array([f[1] for f in found]).reshape(3, 2, 3)


def check(result):
    sums, draws = expected()
    assert (result.values["sum"] == sums).all()
    assert (result.values["draws"] == draws).all()
    assert result.success


def test_threads_give_the_stream_of_each_item(functions):
    with ThreadPoolExecutor(3) as pool:
        check(wg.sweep(functions.draw, GRID, rng=7, executor=pool))
        check(wg.sweep(functions.draw, GRID, rng=np.random.default_rng(7), executor=pool))
        assert pool.submit(int, 3).result() == 3  # left open


def test_the_order_of_the_work_changes_nothing(functions):
    check(wg.sweep(functions.draw, GRID, rng=7, executor=Backwards()))


@pytest.mark.slow
def test_processes_give_the_same_bits(functions):
    check(wg.sweep(functions.draw, GRID, rng=7, executor=2))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        check(wg.sweep(functions.draw, GRID, rng=7, executor=pool))


@pytest.mark.slow
def test_workers_have_one_thread(functions):
    before = dict(os.environ)
    result = wg.sweep(functions.threads, {"a": [1]}, executor=1)
    assert result.values["numba"].tolist() == result.values["blas"].tolist() == [1]
    assert dict(os.environ) == before


@pytest.mark.slow
def test_a_worker_that_dies_once_loses_nothing(functions, tmp_path):
    sweep = partial(wg.sweep, functions.dies_once, {"a": [0, 1, 2, 3, 4], "folder": [str(tmp_path)]}, rng=3)
    result = sweep(executor=2)
    assert (tmp_path / "died").exists()
    with ThreadPoolExecutor(1) as pool:
        assert (result.values["draw"] == sweep(executor=pool).values["draw"]).all()


@pytest.mark.slow
def test_an_item_that_always_dies_fails_alone(functions):
    result = wg.sweep(functions.always_dies, {"a": list(range(6))}, executor=2, retries=1, throw=False)
    assert list(result.errors) == [2]
    assert "its worker died 2 times" in result.errors[2]
    double = result.values["double"]
    assert np.isnan(double[2])
    assert np.delete(double, 2).tolist() == [0, 2, 6, 8, 10]


def test_finished_items_are_not_computed_again(functions, tmp_path, caplog):
    calls = tmp_path / "calls"
    folder = tmp_path / "kept"
    parameters = {"a": [0, 1, 2], "log": [str(calls)]}
    with ThreadPoolExecutor(1) as pool:
        sweep = partial(wg.sweep, functions.slow_draw, parameters, rng=5, folder=folder, executor=pool)
        first = sweep()
        again = sweep()
        assert (first.n_computed, again.n_computed) == (3, 0)
        assert calls.read_text().split() == ["0", "1", "2"]
        assert (first.values["draws"] == again.values["draws"]).all()
        # A damaged file is computed again, a missing one too; another seed is another sweep.
        paths = sorted(folder.glob("item-*.npz"))
        assert len(paths) == 3
        data = bytearray(paths[0].read_bytes())
        data[len(data) // 2] ^= 1
        paths[0].write_bytes(data)
        paths[1].unlink()
        with caplog.at_level("WARNING", logger="wgflow"):
            mended = sweep()
        assert mended.n_computed == 2
        assert caplog.text.count("computed again") == 1
        assert (mended.values["draws"] == first.values["draws"]).all()
        assert sweep(rng=6).n_computed == 3
        # A file under another item's name does not pass for its own.
        paths = sorted(folder.glob("item-*.npz"))
        paths[0].write_bytes(paths[1].read_bytes())
        assert sweep().n_computed + sweep(rng=6).n_computed == 1


def test_an_exception_fails_its_item_alone(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        sweep = partial(wg.sweep, inverse, {"a": [1.0, 0.0, 4.0]}, folder=tmp_path, executor=pool)
        with pytest.raises(WGFlowError, match=r"1 of 3 items failed.*'a': 0.0.*ZeroDivisionError") as caught:
            sweep()
        assert caught.value.partial.values["inverse"][[0, 2]].tolist() == [1.0, 0.25]
        result = sweep(throw=False)
        assert result.n_computed == 1
        assert list(result.errors) == [1]


def inverse(a):
    return {"inverse": 1.0 / a}


def number(a):
    return a


def solved(beta):
    grid = wg.Grid((-6, 6), cells=80)
    return wg.solve(wg.Entropy(beta) + wg.Potential(lambda x: x**2 / 2), wg.Density.gaussian(grid, 0.5, 0.3), (0, 0.1))


def test_solutions_tables_and_datasets():
    pytest.importorskip("xarray")
    with ThreadPoolExecutor(1) as pool:
        result = wg.sweep(solved, {"beta": [1.0, 4.0]}, executor=pool)
    assert result.values["energy"].tolist() == [solved(beta).energy[-1] for beta in (1.0, 4.0)]
    assert result.values["certified"].all()
    assert result.table.columns[:3] == ("beta", "t", "energy")
    assert result.table.rows[1][0] == 4.0
    dataset = result.dataset
    assert float(dataset.energy.sel(beta=4.0)) == result.values["energy"][1]
    with ThreadPoolExecutor(1) as pool:
        points = wg.sweep(inverse, [{"a": 2.0}, {"a": 8.0}], executor=pool)
    assert points.dataset.inverse.values.tolist() == [0.5, 0.125]
    assert points.dataset.a.values.tolist() == [2.0, 8.0]


@pytest.mark.parametrize(("change", "words"), [
    ({"parameters": {}}, "names no values"),
    ({"parameters": {"a": []}}, "is empty"),
    ({"parameters": {"a": 3}}, "must be a list"),
    ({"parameters": {"a": [1, 1]}}, "twice"),
    ({"parameters": {"a": [float("nan")]}}, "not NaN"),
    ({"parameters": {"a": [object()]}}, "inside the function"),
    ({"parameters": {"a b": [1]}}, "name of an argument"),
    ({"parameters": {"rng": [1]}, "rng": 3}, "'rng'"),
    ({"parameters": [{"a": 1}, {"b": 1}]}, "same parameters"),
    ({"function": 3}, "callable"),
    ({"rng": -1}, "rng=-1"),
    ({"retries": -1}, "retries=-1"),
    ({"executor": "dask"}, "executor='dask'"),
    ({"executor": 0}, "executor=0"),
    ({"throw": 1}, "throw=1"),
])
def test_bad_input_is_named(change, words):
    call = {"function": inverse, "parameters": {"a": [1.0]}, **change}
    with pytest.raises(InvalidInput, match=words):
        wg.sweep(call.pop("function"), call.pop("parameters"), **call)


def test_functions_that_cannot_be_told_apart_or_imported(tmp_path):
    with pytest.raises(InvalidInput, match="top of a module"):
        wg.sweep(lambda a: {"a": a}, {"a": [1.0]}, executor=1)
    scale = 3.0
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(InvalidInput, match="cannot tell apart"):
            wg.sweep(lambda a: {"b": scale * a}, {"a": [1.0]}, folder=tmp_path, executor=pool)
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot use the folder"):
            wg.sweep(inverse, {"a": [1.0]}, folder=tmp_path / "file", executor=pool)
        with pytest.raises(WGFlowError, match="function must return"):
            wg.sweep(number, {"a": [1.0]}, executor=pool)


def test_an_executor_that_is_shut_says_what_is_left():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(WGFlowError, match=r"takes no more work.*1 items are left"):
        wg.sweep(inverse, {"a": [1.0]}, executor=pool)


SCRIPT = """
import sys
import sweep_functions
import wgflow as wg

if __name__ == "__main__":
    parameters = {"a": list(range(24)), "log": [sys.argv[2]]}
    wg.sweep(sweep_functions.slow_draw, parameters, rng=11, folder=sys.argv[1], executor=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_stopped_ends_with_the_same_bits(functions, tmp_path, number):
    script, kept, log = tmp_path / "script.py", tmp_path / "kept", tmp_path / "log"
    script.write_text(SCRIPT)
    # A program that was started in the background of a shell would ignore SIGINT.
    start = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, script, kept, log], preexec_fn=start, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while len(list(kept.glob("item-*.npz"))) < 4 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    done = len(list(kept.glob("item-*.npz")))
    assert 4 <= done < 24
    parameters = {"a": list(range(24)), "log": [str(log)]}
    with ThreadPoolExecutor(4) as pool:
        rest = wg.sweep(functions.slow_draw, parameters, rng=11, folder=kept, executor=pool)
        whole = wg.sweep(functions.slow_draw, parameters, rng=11, executor=pool)
    assert rest.n_computed == 24 - done
    assert rest.values["draws"].tobytes() == whole.values["draws"].tobytes()
    assert not list(kept.glob(".*.tmp"))


@pytest.mark.slow
def test_a_cluster_of_dask_loses_no_item_with_a_worker(functions, tmp_path):
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (distributed.LocalCluster(**settings) as cluster,
          distributed.Client(cluster) as client):
        check(wg.sweep(functions.draw, GRID, rng=7, executor=client))
        parameters = {"a": [0, 1, 2, 3, 4], "folder": [str(tmp_path)]}
        result = wg.sweep(functions.dies_once, parameters, rng=3, executor=client.get_executor())
    assert (tmp_path / "died").exists()
    streams = np.random.SeedSequence(3).spawn(5)
    assert result.values["draw"].ravel().tolist() == [a + np.random.default_rng(s).normal()
                                                      for a, s in enumerate(streams)]
