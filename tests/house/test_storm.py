"""A very small storm: every part of it runs, and every figure holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).resolve().parents[2] / "benchmarks" / "storm"
PARTS = {"kills", "signals", "crafted", "bytes", "flows", "pools", "memory", "disk", "compiled", "sizes"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_a_very_small_storm():
    done = subprocess.run([sys.executable, str(STORM / "storm.py"), "--tiny", "--json"], capture_output=True, text=True,
                          timeout=580)
    assert done.stdout, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert {figure["part"] for figure in figures} == PARTS
    assert [figure for figure in figures if not figure["held"]] == []
    assert all(figure["cases"] > 0 for figure in figures)
    assert done.returncode == 0


def test_a_figure_without_cases_or_beyond_its_target_is_missed(monkeypatch):
    monkeypatch.syspath_prepend(str(STORM))
    from figures import Figure, counted, table

    kept, missed = counted("part", "faults", 3, []), counted("part", "faults", 3, ["one"])
    assert kept.held
    assert not missed.held
    assert not counted("part", "faults", 0, []).held
    assert not Figure("part", "error", float("nan"), 1.0, 3).held
    assert "1 of 2 figures held" in table([kept, missed])
    assert "! one" in table([kept, missed])
