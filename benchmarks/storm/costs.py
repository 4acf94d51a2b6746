"""What checks cost, fresh processes under strict settings, the gates of the house, and the time of an import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
from figures import Figure, Scale, counted

import wgflow as wg
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.recorder import Recorder
from wgflow.solvers.finite_volume.compact_sweeps import CompactSweeps

ROOT = Path(__file__).resolve().parents[2]
#: Part of a step that its checks may take; seconds of an import.
PART, SECONDS = 0.05, 1.0
#: Every method, in a process that raises what others would warn of.
STRICT = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np
import runs
with np.errstate(all=sys.argv[2]):
    print(runs.digests())
"""
#: Tests that show a figure of another kind: that nothing runs data as code, that importing is cheap and harmless.
GATES = {"F22": ["tests/house/test_house.py::test_nothing_runs_data_as_code"],
         "F24": ["tests/house/test_house.py::test_importing_is_cheap",
                 "tests/house/test_house.py::test_importing_leaves_the_process_alone"]}


class _Clock:
    """Processor time within some functions, calls of one inside another counted once."""

    def __init__(self):
        self.spent, self.depth = 0, 0

    def around(self, function):
        def timed(*arguments, **options):
            if self.depth:
                return function(*arguments, **options)
            self.depth, begin = 1, time.thread_time_ns()
            try:
                return function(*arguments, **options)
            finally:
                self.spent += time.thread_time_ns() - begin
                self.depth = 0

        return timed


def _checks(scale: Scale) -> list[Figure]:
    """Time within the recorder (mass, sign, ends, audit, history), and of the energies and dissipations it judges."""
    found = []
    V = wg.Potential(lambda *x: sum(v**2 for v in x) / 2)
    pull = wg.Interaction(wg.Convolution(lambda *z: -np.exp(-sum(v**2 for v in z))))
    for name, cells, energy in (("line", (10_000,), wg.Entropy(4.0) + V), ("plane", (100, 100), wg.Entropy(4.0) + V),
                                ("plane, convolution", (100, 100), wg.Entropy(4.0) + V + pull)):
        grid = wg.Grid([(-4, 4)] * len(cells), cells=cells)
        start = wg.Density.gaussian(grid, mean=[0.3] * len(cells), cov=0.5 * np.eye(len(cells)))
        parts = []
        for _ in range(scale.pick(2, 5, 15)):
            clock = _Clock()
            with ExitStack() as stack:
                for owner, method in ((Recorder, "step"), (EnergyOnGrid, "weigh"), (CompactSweeps, "dissipation")):
                    stack.enter_context(mock.patch.object(owner, method, clock.around(getattr(owner, method))))
                begin = time.thread_time_ns()
                wg.solve(energy, start, (0, 0.5), wg.FiniteVolume(dt=0.005, threads=1))
                parts.append(clock.spent / (time.thread_time_ns() - begin))
        found.append(Figure("costs", f"checks as a part of a run of 1e4 cells: {name}", statistics.median(parts), PART,
                            len(parts), id="F20"))
    return found


def _python(*arguments: str, folder: Path = Path(__file__).parent) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=1200, cwd=folder)


def _strict() -> Figure:
    here, expected, wrong = str(Path(__file__).parent), None, []
    cases = [([], "warn"), (["-O"], "warn"), (["-W", "error"], "warn"), (["-X", "dev", "-W", "error"], "warn"),
             ([], "raise")]
    for flags, floats in cases:
        done = _python(*flags, "-c", STRICT, here, floats)
        told = f"{' '.join(flags) or 'plain'}, errstate {floats}"
        if done.returncode:
            wrong.append(f"{told}: {done.stderr.strip()[-250:]}")
        elif expected not in (None, done.stdout):
            wrong.append(f"{told}: other bits")
        expected = expected or done.stdout
    return counted("F19", "costs", "-O, -W error, -X dev, errstate raise: faults", len(cases), wrong)


def _gates() -> list[Figure]:
    found = []
    for name, tests in GATES.items():
        done = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, folder=ROOT)
        wrong = [] if done.returncode == 0 else [done.stdout[-300:]]
        what = {"F22": "data run as code: pickle, eval, shell", "F24": "imports that compile or leave traces"}[name]
        found.append(counted(name, "costs", what, len(tests), wrong))
    return found


def _import_time() -> Figure:
    code = "import time; begin = time.process_time(); import wgflow; print(time.process_time() - begin)"
    seconds = [float(_python("-c", code).stdout) for _ in range(5)]
    return Figure("costs", "importing wgflow, of the processor", statistics.median(seconds), SECONDS, 5, "s", id="F24")


def costs(scale: Scale) -> list[Figure]:
    """Costs, strict processes, gates."""
    return [*_checks(scale), _strict(), *_gates(), _import_time()]
