"""Checks of the arguments of models with two blocks of inputs."""

from __future__ import annotations

import math

import numpy as np

from wgflow.checks import check_count, check_positive
from wgflow.errors import InvalidInput

__all__ = ["block", "pair"]


def block(d: float, s0: object, gamma: object) -> tuple[int | None, float]:
    """Return s0 (None in the limit) and the part of the inputs in the first block."""
    if math.isinf(d):
        if s0 is not None or gamma is None:
            raise InvalidInput("d=inf: give gamma, the part of the inputs in the first block, and no s0")
        part = check_positive("gamma", gamma)
        if part >= 1.0:
            raise InvalidInput(f"gamma={part:g} must be < 1; with all inputs in one block use IsotropicGaussian")
        return None, part
    if s0 is None or gamma is not None:
        raise InvalidInput(f"d={d}: give s0, the number of inputs in the first block; gamma is for d=inf")
    first = check_count("s0", s0)
    if first >= d:
        raise InvalidInput(f"s0={first} must be < d={d}; with all inputs in one block use IsotropicGaussian")
    return first, first / d


def pair(name: str, value: object) -> tuple[float, float]:
    """Return two positive numbers, one for each of the two lengths."""
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
        raise InvalidInput(f"{name}={value!r} must be a pair of numbers, one for r1 and one for r2")
    return check_positive(f"{name}[0]", value[0]), check_positive(f"{name}[1]", value[1])
