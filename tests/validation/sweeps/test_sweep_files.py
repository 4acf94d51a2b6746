"""Sweeps from a TOML file, by the command line: values, restart, JSON, and bad files in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wgflow import cli

SOURCE = """
def noisy(a, b, rng):
    if a == 13:
        raise ValueError("unlucky")
    return {"sum": a + b + rng.normal()}
"""
PLAN = 'function = "study.py:noisy"\nseed = 7\n[parameters]\na = [1, 2]\nb = [10]\n'


@pytest.fixture
def run(capsys, tmp_path):
    (tmp_path / "study.py").write_text(SOURCE)

    def call(plan, *arguments):
        (tmp_path / "plan.toml").write_text(plan)
        code = cli.main(["sweep", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out"), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.slow
def test_a_sweep_by_the_command_line(run, tmp_path):
    expected = [a + 10 + np.random.default_rng(s).normal() for a, s in zip([1, 2], np.random.SeedSequence(7).spawn(2))]
    code, out, err = run(PLAN, "--json", "--workers", "1")
    assert code == 0, err
    assert [item["sum"] for item in json.loads(out)["items"]] == expected
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "plan").glob("item-*")}
    assert len(times) == 2
    code, out, _ = run(PLAN)
    assert code == 0
    assert out.splitlines()[0].split() == ["a", "b", "sum"]
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "plan").glob("item-*")}
    assert (tmp_path / "out" / "plan" / "table.csv").read_text().startswith("a,b,sum\n1,10,")
    # A change of the Python file is another sweep; a failing item gives exit code 1 and null.
    (tmp_path / "study.py").write_text(SOURCE.replace("a + b", "a - b"))
    code, out, _ = run(PLAN.replace("[1, 2]", "[1, 13]"), "--json")
    found = json.loads(out)
    assert code == 1
    assert found["items"][0]["sum"] == pytest.approx(expected[0] - 20, abs=1e-12)
    assert found["items"][1]["sum"] is None
    assert "unlucky" in found["errors"]["1"]


@pytest.mark.parametrize(("plan", "words"), [
    ("function = 3", 'need "file.py:name"'),
    ("function = ", "not a TOML file"),
    (PLAN.replace("study.py", "missing.py"), "cannot read"),
    (PLAN.replace("noisy", "quiet"), "has no function quiet"),
    ("sede = 7\n" + PLAN, "key 'sede'"),
    (PLAN.replace("[1, 2]", "[]"), "is empty"),
    (PLAN.replace("seed = 7", "seed = -7"), "rng=-7"),
])
def test_a_bad_plan_gives_one_line(run, plan, words):
    code, out, err = run(plan)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wgflow ")
