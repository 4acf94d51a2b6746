"""Every script of benchmarks/ runs, on problems as small as its options allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
#: Scripts, their options, and words of the output without which nothing was measured; "{}" is a folder.
RUNS = {
    "atom_faults-of-fault_injection": (["fault_injection.py", "--only", "atoms: "], "faults do not hold"),
    "best_grid": (["best_grid.py", "--case", "1d", "--limit", "0.0005", "--rounds", "1", "--json", "{}/1d.json"],
                  "chosen:"),
    "best_grid, stored": (["best_grid.py", "--load", "{}/1d.json", "--plot", "{}/1d.png"], "wrote"),
    "false_alarms": (["false_alarms.py", "--count", "1"], "1 problems: 0 false alarms"),
    "four_coordinates": (["four_coordinates.py", "--cells", "6", "--steps", "1"], "  ok"),
    "jko_entropic": (["jko_entropic.py", "--cells", "16", "--plane", "6", "--steps", "1"], "m = 3, 6 x 6"),
    "jko_lines": (["jko_lines.py", "--cells", "32", "--tau", "0.5", "--runs", "1"], "repulsion"),
    "jko_speed": (["jko_speed.py", "--cells", "16", "--steps", "1"], "all steps"),
    "network": (["network.py"], "Lawson-RK4"),
    "problems": (["problems.py", "--tiny"], "Legendre-Galerkin"),
    "reference_runs": (["reference_runs.py", "record", "{}/before.json", "--only", "1-D plain"], ""),
    "reference_runs, compared": (["reference_runs.py", "compare", "{}/before.json", "--only", "1-D plain"],
                                 "1 of 1 runs have the same bits"),
    "scaling": (["scaling.py", "--tiny", "--axes", "1", "2", "--json", "{}/scaling.json"], "ns a cell, and"),
    "schemes": (["schemes.py", "--tiny"], "network at rest"),
    "sgd_speed": (["sgd_speed.py", "--tiny"], "of the copy"),
    "speed": (["speed.py", "--case", "1d-400", "--reading", "same", "--rounds", "1", "--limit", "0.001"],
              "VERDICT"),
    "stiff_valleys": (["stiff_valleys.py", "--times", "0.005", "--cells", "24", "--beta", "0.03"], "split, rtol=1e-5"),
    "three_axes": (["three_axes.py", "--tiny"], "largest coefficient"),
    "transport": (["transport.py", "--tiny"], "oscillators on a circle"),
    "verdict_power": (["verdict_power.py", "--cases", "isotropic", "--seeds", "1", "--runs", "1", "--neurons", "10",
                       "--workers", "1"], "false alarms"),
}
#: Scripts that are too long for a test, and why.
ELSEWHERE = {"mutations.py": "it runs the tests themselves, once for each mutant, and needs cosmic-ray"}


def test_no_script_is_left_out():
    scripts = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert scripts == {command[0] for command, _ in RUNS.values()} | ELSEWHERE.keys()


@pytest.mark.slow
def test_each_runs(tmp_path):
    failed = []
    for name, (command, words) in RUNS.items():
        script, *options = (part.replace("{}", str(tmp_path)) for part in command)
        done = subprocess.run([sys.executable, str(FOLDER / script), *options], capture_output=True, text=True)
        if done.returncode or words not in done.stdout:
            failed.append(f"{name}: status {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")
    assert not failed, "\n".join(failed)
