"""Compiled code on disk that is cut or changed, and code compiled in other ways: bounds checked, or not at all.

Each damage is followed by a fresh process, which must say so once, in a WGFlowWarning, and give the same results.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from figures import Figure, Scale, counted

#: Two kernels, which compile in a second.
KERNELS = """
from wgflow.compiled.jit import jit

@jit
def tripled(x):
    return 3.0 * x

@jit
def third(x):
    return x / 3.0

def result():
    return [tripled(2.0), third(6.0)]
"""
#: A run, whose kernels compile for a quarter of a minute.
SOLVE = """
import runs

def result():
    return [runs.digest(run.solve()) for run in runs.RUNS[:2]]
"""
CALL = """
import json, sys, warnings
sys.path[:0] = sys.argv[1:]
import called
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = called.result()
print(json.dumps([found, [f"{one.category.__name__}: {one.message}" for one in told]]))
"""
#: Laws at the end of short runs, which code that is compiled in another way must give too, but for round-off.
LAWS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import runs
print(json.dumps([run.solve(method=run.cut(3), throw=False).final.masses.ravel().tolist() for run in runs.RUNS]))
"""
ROUND_OFF = 1e-12
_TESTS = Path(__file__).resolve().parents[2] / "tests"
_JKO = _TESTS / "solvers" / "jko"
#: Tests of kernels, which must pass with code compiled in another way, too; and those for which Python is too slow,
#: among them steps whose numbers are not finite.
KERNEL_TESTS = [_TESTS / "wgflow" / "compiled", _JKO / "quantile" / "test_quantile_kernels.py",
                _JKO / "entropic" / "test_entropic_kernels.py", _JKO / "linearized" / "test_linearized_kernels.py"]
LONGER_TESTS = [_TESTS / "solvers" / "finite_volume" / "test_midpoint_kernels.py",
                _TESTS / "validation" / "test_particles.py", _TESTS / "wgflow" / "test_solve.py"]


def _python(code: str, *arguments: str, **settings: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=3000,
                          env={**os.environ, **settings})
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    return done.stdout


def _damaged(rng: np.random.Generator, data: bytes) -> bytes:
    at, act = int(rng.integers(len(data))), int(rng.integers(4))
    return (b"", data[:at], data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1:],
            data + rng.bytes(9))[act]


def _rounds(scale: Scale, program: str, count: int) -> Figure:
    rng, wrong = np.random.default_rng(scale.seed), []
    with tempfile.TemporaryDirectory(dir=scale.folder) as place:
        (Path(place) / "called.py").write_text(program, encoding="utf-8")
        store = Path(place) / "compiled"

        def call():
            return json.loads(_python(CALL, place, str(Path(__file__).parent), NUMBA_CACHE_DIR=str(store)))

        expected, _ = call()
        for k in range(count):
            files = sorted(store.rglob("*.nb?"))
            for path in rng.choice(files, min(len(files), int(rng.integers(1, 4))), replace=False):
                path.write_bytes(_damaged(rng, path.read_bytes()))
            try:
                found, told = call()
            except (RuntimeError, ValueError) as error:
                wrong.append(f"round {k}: {error}")
                continue
            if found != expected:
                wrong.append(f"round {k}: other results")
            if len([one for one in told if one.startswith("WGFlowWarning: compiled code in")]) != 1:
                wrong.append(f"round {k}: warnings: {told}")
    what = "kernels" if program is KERNELS else "a solver"
    return counted("F14", "compiled", f"damages of {what} not told once, or that change results", count, wrong)


def _modes(scale: Scale) -> list[Figure]:
    """Run with bounds checked, and with nothing compiled; and the tests of kernels in both ways."""
    expected, worst, wrong, failed = json.loads(_python(LAWS, str(Path(__file__).parent))), [], [], []
    modes = [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(scale.folder / "checked")}]
    for mode in modes:
        try:
            found = json.loads(_python(LAWS, str(Path(__file__).parent), **mode))
        except RuntimeError as error:
            wrong.append(f"{mode}: {error}")
            continue
        worst += [float(np.abs(np.subtract(a, b)).sum()) for a, b in zip(found, expected)]
        failed += _failures(mode)
    return [counted("F19", "compiled", "exceptions with bounds checked, or without compiling", len(modes), wrong),
            Figure("compiled", "and the largest change of a law by it (L1)", max(worst, default=np.inf), ROUND_OFF,
                   len(worst), id="F19"),
            counted("F19", "compiled", "tests of kernels that fail so", len(modes), failed)]


def _failures(mode: dict[str, str]) -> list[str]:
    """Return the tests of kernels that fail with some settings of Numba."""
    tests = KERNEL_TESTS if "NUMBA_DISABLE_JIT" in mode else KERNEL_TESTS + LONGER_TESTS
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-r", "fE",
                           *map(str, tests)], capture_output=True, text=True, env={**os.environ, **mode},
                          timeout=3000)
    failed = [f"{mode}: {line}" for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed or [f"{mode}: {done.stdout.strip()[-200:]}"] * (done.returncode != 0)


def compiled(scale: Scale) -> list[Figure]:
    """Damage the stored code of small kernels, then that of a solver."""
    found = [_rounds(scale, KERNELS, scale.pick(2, 10, 50))]
    return found if scale.size == "tiny" else [*found, _rounds(scale, SOLVE, scale.pick(0, 4, 40)), *_modes(scale)]
