"""Fixtures and hypothesis profiles of the tests.

Profiles: "ci" and "quick" draw the same cases in every run; HYPOTHESIS_PROFILE=explore draws new ones and keeps what
fails. How many cases a test draws stands at the test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

# xdist gives every worker a core of its own. With one thread for each core in every worker, BLAS makes them wait for
# each other, and it waits by spinning: the small matrices here then take two to five times as long.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")
os.environ["MKL_NUM_THREADS"] = os.environ.get("MKL_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", derandomize=True, database=None, print_blob=True, **COMMON)
# Without shrinking, so that a failure is seen at once.
settings.register_profile(
    "quick", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], **COMMON
)
settings.register_profile("explore", **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "quick"))


def pytest_collection_modifyitems(items) -> None:
    """The experiments first: a long test at the end would keep one worker busy and the others idle."""
    items.sort(key=lambda item: "test_studies" not in item.nodeid)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with the same seed in every test."""
    return np.random.default_rng(60317)


@pytest.fixture
def ticking(monkeypatch):
    """Give a module a clock that goes on by 1/64 s at each look: limits of time are then limits of work, the same ones
    on any machine.
    """
    def tick(module: str) -> None:
        looks = iter(range(10**9))
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: next(looks) / 64))

    return tick


RUNS = """
import os, signal, sys
import wgflow as wg
from wgflow.files.checkpoints import Checkpoint

Checkpoint.INTERVAL = Checkpoint.PATIENCE = 0.0
{setting}
start(1e-3, None)  # loads the kernels
for path in sys.stdin:
    child = os.fork()
    if child == 0:
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
# A process started in the background of a shell ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
start(1000.0, path.strip())
"""


class Killer:
    """Long runs with a checkpoint, each in a process of its own, that are stopped by a signal.

    One process imports wgflow once and forks for each run, whose end is then that of any Python program.

    Parameters
    ----------
    setting : str
        Code that defines ``start(t_end, path)``: a run to ``t_end`` with a checkpoint at ``path``.
    """

    def __init__(self, setting: str):
        code = RUNS.format(setting=textwrap.dedent(setting))
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def __call__(self, path, number, ready) -> int:
        """Start a run, send the signal as soon as ``ready()``, and return the exit code (minus the signal, if that
        ended it).
        """
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        limit = time.monotonic() + 60
        while not ready():
            if time.monotonic() > limit:
                number = 9
                break
            time.sleep(0.002)
        os.kill(child, number)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate("", timeout=60)


@pytest.fixture
def killer():
    """`Killer`, closed after the test."""
    opened = []

    def open_one(setting: str) -> Killer:
        opened.append(Killer(setting))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
