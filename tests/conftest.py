"""Fixtures and hypothesis profiles of the tests.

Profiles: "ci" and "quick" draw the same cases in every run; HYPOTHESIS_PROFILE=explore draws new ones and keeps what
fails. How many cases a test draws stands at the test.
"""

from __future__ import annotations

import os

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
