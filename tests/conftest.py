"""Fixtures and hypothesis profiles of the tests.

Profiles: "ci" and "quick" draw the same cases in every run; HYPOTHESIS_PROFILE=explore draws new ones and keeps what
fails. How many cases a test draws stands at the test.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

# xdist gives every worker a core of its own. A BLAS that starts one thread for each core in every worker makes them wait
# for each other, and waits by spinning: on two busy cores the small matrices here then take three times as long.
for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

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
