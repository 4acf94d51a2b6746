"""A very small storm: every part of it runs, and every figure holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import wgflow as wg

STORM = Path(__file__).resolve().parents[2] / "benchmarks" / "storm"
PARTS = {"kills", "signals", "crafted", "stores", "bytes", "flows", "pools", "memory", "disk", "compiled", "sizes",
         "rows", "long"}


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

    kept, missed = counted("F1", "part", "faults", 3, []), counted("F2", "part", "faults", 3, ["one"])
    assert kept.held
    assert not missed.held
    assert not counted("F1", "part", "faults", 0, []).held
    assert not Figure("part", "error", float("nan"), 1.0, 3).held
    assert Figure("part", "order", 2.0, 1.9, 3, least=True).held
    assert not Figure("part", "order", 1.8, 1.9, 3, least=True).held
    assert "storm.py --figure F2" in table([kept, missed])
    assert "1 of 2 figures held" in table([kept, missed])
    assert "! one" in table([kept, missed])


def test_a_processor_that_rounds_subnormals_to_zero_is_pointed_out(monkeypatch):  # row 108 of the table of faults
    monkeypatch.syspath_prepend(str(STORM))
    import flush_to_zero
    if not flush_to_zero.AVAILABLE:
        pytest.skip("needs an x86-64 processor")
    grid = wg.Grid((-1, 1), cells=20, boundary="no-flux")

    def solve():
        return wg.solve(wg.Entropy(2.0), wg.Density.gaussian(grid, mean=0.1, cov=0.2), (0, 0.1))

    plain = solve()
    with flush_to_zero.flushed(), pytest.warns(wg.WGFlowWarning, match="below 2.2e-308 are rounded to 0"):
        flushed = solve()
    assert (flushed.final.values == plain.final.values).all()
    assert 2.0**-1074 * float(plain.success) > 0.0
