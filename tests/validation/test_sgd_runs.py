"""SGD runs kept in files: what is read again, what is not, and what happens to damaged files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from wgflow.errors import InvalidInput, StorageError
from wgflow.progress import progress_of
from wgflow.reduced_models import IsotropicGaussian
from wgflow.validation import sgd_runs
from wgflow.validation.particles import run_sgd
from wgflow.validation.sgd_runs import kept_sgd_runs

TIMES = [0.0, 0.01]


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(sgd_runs, "run_sgd", lambda *a, **k: (made.append(1), run_sgd(*a, **k))[1])
    return made


def kept(folder, model=None, **changes):
    model = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2) if model is None else model
    settings = {"n_neurons": 12, "step_size": 1e-3, "t_eval": TIMES, "seed": 11, "n_runs": 2, **changes}
    return kept_sgd_runs(model, folder, **settings)


def test_runs_are_read_again_and_are_those_of_run_sgd(tmp_path, calls):
    first = kept(tmp_path)
    again = kept(tmp_path)
    assert len(calls) == 2
    assert np.array_equal(first.coordinates, again.coordinates)
    assert np.array_equal(first.risk, again.risk)
    model = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    alone = run_sgd(model, 12, 1e-3, TIMES, rng=np.random.SeedSequence(11, spawn_key=(1,)))
    assert np.array_equal(alone.risk[0], first.risk[1])
    assert not np.array_equal(first.risk[0], first.risk[1])


@pytest.mark.parametrize("change", [
    {"n_neurons": 13}, {"step_size": 5e-4}, {"t_eval": [0.0, 0.02]}, {"seed": 13}, {"kappa": 0.5}, {"beta": 10.0},
    {"ridge": 0.1}, {"xi": 0.5}, {"xi": lambda t: (t + 1e-3) ** -0.25}, {"fresh": True},
    {"model": IsotropicGaussian(d=10, tau_plus2=1.8 + 1e-9, tau_minus2=0.2)},
])
def test_another_setting_is_another_run(tmp_path, calls, change):
    kept(tmp_path)
    kept(tmp_path, **change)
    assert len(calls) == 4


def test_a_run_more_leaves_the_others_as_they_are(tmp_path, calls):
    two = kept(tmp_path)
    three = kept(tmp_path, n_runs=3)
    assert len(calls) == 3
    assert np.array_equal(three.risk[:2], two.risk)


def test_a_damaged_file_is_run_again(tmp_path, calls):
    whole = kept(tmp_path)
    damaged = next(tmp_path.glob("sgd-*-1.npz"))
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert np.array_equal(kept(tmp_path).risk, whole.risk)
    assert len(calls) == 3


def test_bad_settings(tmp_path):
    with pytest.raises(InvalidInput, match="n_runs"):
        kept(tmp_path, n_runs=0)
    with pytest.raises(InvalidInput, match="seed"):
        kept(tmp_path, seed=-3)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        sgd_runs._write(tmp_path / "none" / "run.npz", {"risk": np.zeros(2), "coordinates": np.zeros((2, 3, 1))})
    assert list(tmp_path.iterdir()) == []


def test_pickled_data_is_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    np.savez(tmp_path / "run.npz", risk=np.array([Bomb()], dtype=object), coordinates=np.zeros((1, 4, 1)))
    assert sgd_runs._read(tmp_path / "run.npz", (1, 4, 1)) is None
    assert not (tmp_path / "boom").exists()


def test_log_lines_where_there_is_no_terminal(capsys, caplog):
    caplog.set_level("INFO", logger="wgflow.progress")
    with progress_of("work") as report:
        for k in range(101):
            report(k / 100)
    assert [record.getMessage() for record in caplog.records] == [f"work: {10 * k} %" for k in range(1, 11)]
