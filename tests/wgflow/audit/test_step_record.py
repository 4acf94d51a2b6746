"""The record of steps: bounded, exact in what a certificate says of all steps, and resumed with the same bits."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

import wgflow as wg
from wgflow.audit.step_record import StepRecord
from wgflow.certificate import largest_drift, largest_rise
from wgflow.errors import InvalidInput
from wgflow.solution import History

LINE = wg.Density.gaussian(wg.Grid((-5, 5), cells=60), 1.0, 0.3)
ENERGY = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)


def _rows(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    dt = np.append(0.0, rng.uniform(0.5, 1.5, count - 1))
    return {"t": np.cumsum(dt), "dt": dt, "energy": rng.normal(size=count).cumsum(),
            "mass": 1 + 1e-3 * rng.normal(size=count), "min_density": rng.uniform(size=count),
            "rejected": np.arange(count) // 7, "fallback": rng.uniform(size=count) < 0.1,
            "work": rng.normal(size=count)}


def _record(columns: dict[str, np.ndarray], room: int, start: StepRecord | None = None, begin: int = 0) -> StepRecord:
    record = StepRecord() if start is None else start
    record.ROOM = room
    for k in range(begin, columns["t"].size):
        record.append({name: column[k].item() for name, column in columns.items()})
    return record


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 16, 17, 18, 100, 1000])
@pytest.mark.parametrize("room", [8, 10, 64])
def test_extremes_are_those_of_all_steps(count, room):
    columns = _rows(count, count + room)
    record = _record(columns, room)
    history, worst = record.history(), record.extremes()
    assert worst == {"drift": largest_drift(columns["mass"]), "rise": largest_rise(columns["energy"] - columns["work"]),
                     "least": columns["min_density"].min(), "longest": columns["dt"].max()}
    assert len(record.columns["t"]) <= room
    assert history.steps == count - 1
    assert history.is_whole == (count <= room)
    # Those kept are steps as they were, the first and the last among them.
    for name, column in columns.items():
        assert np.array_equal(getattr(history, name), column[history.accepted])
        assert (record.first(name), record.latest(name)) == (column[0], column[-1])
    assert history.accepted[0] == 0
    assert np.unique(np.diff(history.accepted[:-1])).size <= 1
    assert history.fallback.dtype == bool


@pytest.mark.parametrize("block", [1, 3, 7, 50])
@pytest.mark.parametrize("room", [8, 16, 1 << 20])
def test_several_steps_at_once_are_steps_one_by_one(block, room):
    columns = _rows(120, 5)
    one, several = _record(columns, room), _record({name: column[:1] for name, column in columns.items()}, room)
    for begin in range(1, 120, block):
        several.extend({name: column[begin:begin + block].tolist() for name, column in columns.items()})
    assert (several.count, several.stride, several.last) == (one.count, one.stride, one.last)
    assert several.extremes() == one.extremes()
    for name in History.NAMES:
        assert np.array_equal(getattr(several.history(), name), getattr(one.history(), name))


def test_what_is_not_a_number_stays():
    columns = _rows(200, 1)
    columns["energy"][150] = math.nan
    columns["mass"][3] = math.nan
    worst = _record(columns, 16).extremes()
    assert math.isnan(worst["rise"])
    assert math.isnan(worst["drift"])


@pytest.mark.parametrize("cut", [1, 9, 10, 33, 34, 35, 160])
def test_resumed_anywhere_it_is_the_same(cut):
    columns = _rows(300, 2)
    whole = _record(columns, 16)
    part = _record({name: column[:cut] for name, column in columns.items()}, 16)
    dumped = part.dump()
    stored, latest = StepRecord.to_arrays(dumped), part.latest("t")
    # What was dumped is what is meant, however the record has gone on since.
    _record(columns, 16, part, cut)
    assert all(np.array_equal(stored[name], column) for name, column in StepRecord.to_arrays(dumped).items())
    again = StepRecord()
    from wgflow.files.checkpoints import _column
    again.restore({name: _column(name, stored[name]) for name in History.NAMES}, dumped["of_steps"])
    assert again.latest("t") == latest
    _record(columns, 16, again, cut)
    assert again.extremes() == whole.extremes()
    for name in History.NAMES:
        assert np.array_equal(getattr(again.history(), name), getattr(whole.history(), name))


def test_a_long_run_is_bounded_and_its_certificate_exact(tmp_path, monkeypatch):
    """2,000 steps of which 64 are kept, cut in the middle and resumed."""
    method = wg.FiniteVolume(dt=1e-3, order=2)
    whole = wg.solve(ENERGY, LINE, (0, 2), method=method, t_eval=[1.0, 2.0])
    monkeypatch.setattr(StepRecord, "ROOM", 64)
    path = tmp_path / "run.npz"
    sol = wg.solve(ENERGY, LINE, (0, 2), method=method, t_eval=[1.0, 2.0])
    part = wg.solve(ENERGY, LINE, (0, 2), method=method, t_eval=[1.0, 2.0], checkpoint=path,
                    stop=lambda t, rho: t > 1.2345)
    unfinished = wg.load(path)
    assert unfinished.history.steps == part.history.steps == 1235
    assert unfinished.certificate.min_density == part.certificate.min_density
    again = wg.resume(path, energy=ENERGY)
    for one in (sol, again):
        assert len(one.history) <= 65
        assert one.history.steps == whole.history.steps == one.certificate.n_accepted == 2000
        assert one.certificate.explain() == whole.certificate.explain()
        assert np.array_equal(one.final.values, whole.final.values)
        assert repr(one.history) == f"History(2000 steps, {len(one.history) - 1} of them kept, t = 0 to 2)"
    assert all(np.array_equal(getattr(sol.history, name), getattr(again.history, name)) for name in History.NAMES)
    sol.save(tmp_path / "sol.npz")
    assert wg.load(tmp_path / "sol.npz").history.steps == 2000
    with pytest.raises(InvalidInput, match="64 of 2000 steps are kept"):
        sol.estimate_error()


def test_memory_of_a_step():
    """66 bytes for each, and after the room is used none more."""
    columns = {name: column[:1] for name, column in _rows(2, 0).items()}
    row = {name: column[0].item() for name, column in columns.items()}
    record = StepRecord()
    record.ROOM = 20_000
    tracemalloc.start()
    try:
        for _ in range(100_000):
            record.append(dict(row))
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 299}, {"count": 10**12}, {"stride": 3}, {"drift": None}])
def test_a_record_that_does_not_belong_together_is_refused_and_takes_up_nothing(wrong):
    from wgflow.files.checkpoints import _column
    dumped = _record(_rows(300, 2), 16).dump()
    stored = StepRecord.to_arrays(dumped)
    columns = {name: _column(name, stored[name]) for name in History.NAMES}
    told = {name: value for name, value in (dumped["of_steps"] | wrong).items() if value is not None}
    record = StepRecord()
    with pytest.raises(ValueError, match="its record has"):
        record.restore(columns, told)
    assert record.count == 0
