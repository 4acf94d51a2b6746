"""SGD runs kept in files: what is read again, what is not, and what happens to damaged files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from wgflow.activations import PiecewiseLinear
from wgflow.errors import InvalidInput, StorageError
from wgflow.progress import progress_of
from wgflow.reduced_models import IsotropicGaussian
from wgflow.validation import sgd_runs
from wgflow.validation.particles import run_sgd
from wgflow.validation.sgd_runs import kept_sgd_runs

TIMES = [0.0, 0.01]
SAMPLE = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2).sample_data(30, np.random.default_rng(3))


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
    {"model": IsotropicGaussian(d=10, tau_plus2=1.8 + 1e-9, tau_minus2=0.2)}, {"batch_size": 2}, {"sample": SAMPLE},
    {"beta": 10.0, "noise_constant": 2.0}, {"theta0": 0.1 * np.ones((12, 10))},
    {"model": IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2,
                                activation=PiecewiseLinear([0.5, 1.5 + 1e-12], [-2.5, 7.5]))},
    {"xi": lambda t: 1.0 + (np.abs(t - 0.005) < 1e-3)},
])
def test_another_setting_is_another_run(tmp_path, calls, change):
    kept(tmp_path)
    kept(tmp_path, **change)
    assert len(calls) == 4


def test_the_samples_and_their_order_are_in_the_key(tmp_path, calls):
    first = kept(tmp_path, sample=SAMPLE)
    x, y = SAMPLE
    for changed in ({"sample": (x, y + 1e-12)}, {"sample": (x[::-1], y[::-1])},
                    {"sample": SAMPLE, "replacement": False}):
        before = len(calls)
        other = kept(tmp_path, **changed)
        assert len(calls) == before + 2
        assert not np.array_equal(other.coordinates, first.coordinates)
    assert np.array_equal(kept(tmp_path, sample=SAMPLE).risk, first.risk)
    assert len(calls) == 8


def test_the_result_says_what_was_run(tmp_path):
    found = kept(tmp_path, sample=SAMPLE, replacement=False, batch_size=2, noise_constant=1.0, beta=9.0, xi=0.5)
    model = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    alone = run_sgd(model, 12, 1e-3, TIMES, rng=np.random.SeedSequence(11, spawn_key=(0,)), sample=SAMPLE, beta=9.0,
                    replacement=False, batch_size=2, noise_constant=1.0, xi=0.5)
    assert np.array_equal(found.coordinates[0], alone.coordinates[0])
    for name in ("n_neurons", "step_size", "beta", "ridge", "noise_constant", "batch_size", "n_samples", "replacement",
                 "xi"):
        assert getattr(found, name) == getattr(alone, name), name
    assert np.array_equal(found.epochs, alone.epochs)


def test_runs_have_starts_of_their_own(tmp_path, calls):
    starts = np.random.default_rng(5).normal(size=(2, 12, 10))
    found = kept(tmp_path, theta0=starts)
    assert found.coordinates[:, 0, :, 0] == pytest.approx(np.linalg.norm(starts, axis=2))
    kept(tmp_path, theta0=starts + [[[0.0]], [[1.0]]])
    assert len(calls) == 3


def test_a_run_more_leaves_the_others_as_they_are(tmp_path, calls):
    two = kept(tmp_path)
    three = kept(tmp_path, n_runs=3)
    assert len(calls) == 3
    assert np.array_equal(three.risk[:2], two.risk)


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda data: data[:300], flipped, lambda data: b""])
def test_a_damaged_file_is_run_again(tmp_path, calls, caplog, damage):
    whole = kept(tmp_path)
    damaged = next(tmp_path.glob("sgd-*-1.npz"))
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert np.array_equal(kept(tmp_path).risk, whole.risk)
    assert len(calls) == 3
    assert "the run is made again" in caplog.text


def test_a_file_of_another_run_is_not_taken(tmp_path, calls):
    whole = kept(tmp_path)
    first, second = sorted(tmp_path.glob("sgd-*.npz"))
    kept(tmp_path, seed=13)
    other = next(file for file in tmp_path.glob("sgd-*-0.npz") if file != first)
    first.write_bytes(other.read_bytes())
    assert np.array_equal(kept(tmp_path).risk, whole.risk)
    assert len(calls) == 5
    assert second.exists()


def test_bad_settings(tmp_path):
    with pytest.raises(InvalidInput, match="n_runs"):
        kept(tmp_path, n_runs=0)
    with pytest.raises(InvalidInput, match="seed"):
        kept(tmp_path, seed=-3)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(StorageError):
        kept(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_pickled_data_is_not_loaded(tmp_path, calls):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    kept(tmp_path)
    np.savez(next(tmp_path.glob("sgd-*-0.npz")), risk=np.array([Bomb()], dtype=object), coordinates=np.zeros((1, 4, 1)))
    kept(tmp_path)
    assert len(calls) == 3
    assert not (tmp_path / "boom").exists()


def test_log_lines_where_there_is_no_terminal(capsys, caplog):
    caplog.set_level("INFO", logger="wgflow.progress")
    with progress_of("work") as report:
        for k in range(101):
            report(k / 100)
    assert [record.getMessage() for record in caplog.records] == [f"work: {10 * k} %" for k in range(1, 11)]
