"""Averages over independent simulations, with their standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wgflow.checks import check_count

from ..base import FloatArray

__all__ = ["Simulated", "as_generator", "over_runs", "sphere_points"]


class Simulated(NamedTuple):
    """The mean over independent runs, its standard error, and the values themselves."""

    mean: float
    standard_error: float
    values: FloatArray

    def deviation(self, theory: float) -> float:
        """Return (mean - theory) in standard errors."""
        return (self.mean - theory) / self.standard_error


def as_generator(rng: int | np.random.Generator | None) -> np.random.Generator:
    """Return the generator of a seed; a generator is used as it is."""
    return np.random.default_rng(rng)


def over_runs(one: Callable[[np.random.Generator], float], n_runs: int, generator: np.random.Generator) -> Simulated:
    """Return mean and standard error of ``one(generator)`` over ``n_runs`` generators spawned from the given one."""
    check_count("n_runs", n_runs, 2)
    values = np.array([one(child) for child in generator.spawn(n_runs)])
    return Simulated(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n_runs)), values)


def sphere_points(generator: np.random.Generator, count: int, d: int, radius: float) -> FloatArray:
    """Return uniform points of the sphere of R^d, one a row."""
    points = generator.standard_normal((count, d))
    return points * (radius / np.linalg.norm(points, axis=1, keepdims=True))
