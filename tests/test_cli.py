"""The command line: help, one-line errors, the demo with its cache, and what happens to damaged files."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from wgflow import cli
from wgflow.errors import StorageError

SMALL = ["demo", "--neurons", "40", "--step-size", "1e-3", "--runs", "2", "--cells", "200"]


def run(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys):
    for arguments in ((), ("--help",)):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        for command in ("demo", "warmup", "versions"):
            assert command in out
    code, out, _ = run(capsys, "demo", "--help")
    assert code == 0
    for option in ("--out", "--neurons", "--step-size", "--runs", "--cells", "--seed", "--fresh"):
        assert option in out


@pytest.mark.parametrize(("arguments", "words"), [
    (["dmeo"], "No such command 'dmeo'"),
    (["demo", "--nurons", "3"], "No such option"),
    (["demo", "--neurons", "many"], "--neurons"),
    (["demo", "--neurons", "0"], "--neurons"),
    (["demo", "--runs"], "--runs"),
    (["demo", "--seed", "-3"], "--seed"),
    (["versions", "extra"], "extra"),
])
def test_a_bad_option_gives_one_line(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("wgflow: ")
    assert words in err


def test_bad_values_give_one_line(capsys, tmp_path):
    code, _, err = run(capsys, *SMALL, "--out", tmp_path, "--step-size", "-1")
    assert code == 2
    assert err.splitlines()[-1].startswith("wgflow: step_size=-1")
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, *SMALL, "--out", tmp_path / "file" / "below")
    assert code == 2
    assert "cannot use the folder" in err.splitlines()[-1]


def test_versions(capsys):
    code, out, _ = run(capsys, "versions")
    assert code == 0
    for name in ("python", "wgflow", "numpy", "scipy", "numba"):
        assert name in out


def test_demo_writes_its_results_and_reuses_them(capsys, tmp_path, monkeypatch):
    # At this coarse step SGD's own bias may show: the verdict is either word, but it is consistent with the exit code.
    code, out, _ = run(capsys, *SMALL, "--out", tmp_path)
    assert (code == 0) == ("PASS" in out)
    assert ("FAIL: " in out) == (code == 1)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files[:3] == ["comparison.png", "report.txt", "sgd-" + files[2][4:]]
    assert len([f for f in files if f.startswith("sgd-")]) == 2
    assert not [f for f in files if f.endswith(".part")]
    for picture in ("comparison.png", "solution.png"):
        assert (tmp_path / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    report = (tmp_path / "report.txt").read_text()
    assert "certificate: all checks passed" in report
    assert "W2 of r" in report

    from wgflow import validation

    calls = []
    real = validation.run_sgd
    monkeypatch.setattr("wgflow.validation.particles.run_sgd", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    code_again, _, _ = run(capsys, *SMALL, "--out", tmp_path)
    assert code_again == code
    assert calls == []
    assert (tmp_path / "report.txt").read_text() == report
    # One file damaged, one run more: exactly those two are computed, and the rest stays as it was.
    damaged = next(tmp_path.glob("sgd-*-1.npz"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    run(capsys, *SMALL, "--out", tmp_path, "--runs", "3")
    assert len(calls) == 2
    with np.load(damaged, allow_pickle=False) as data:
        assert data["coordinates"].shape == (len(cli.SGD_TIMES), 40, 1)
    # Other settings are other files.
    run(capsys, *SMALL, "--out", tmp_path, "--seed", "9")
    assert len(calls) == 4


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        cli._write_run(tmp_path / "none" / "run.npz", {"risk": np.zeros(2), "coordinates": np.zeros((2, 3, 1))})
    assert list(tmp_path.iterdir()) == []


def test_pickled_data_in_the_cache_is_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    np.savez(tmp_path / "run.npz", risk=np.array([Bomb()], dtype=object), coordinates=np.zeros((1, 4, 1)))
    assert cli._read_run(tmp_path / "run.npz", (1, 4)) is None
    assert not (tmp_path / "boom").exists()


def test_log_lines_where_there_is_no_terminal(capsys, caplog):
    caplog.set_level("INFO", logger="wgflow.cli")
    with cli._progress("work") as report:
        for k in range(101):
            report(k / 100)
    assert [record.getMessage() for record in caplog.records] == [f"work: {10 * k} %" for k in range(1, 11)]


@pytest.mark.slow
def test_the_installed_script(tmp_path):
    script = [sys.executable, "-m", "wgflow.cli"]
    done = subprocess.run([*script, "warmup"], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kernels ready" in done.stdout
    done = subprocess.run([*script, "nothing"], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
