"""A place of Newton's method for a step in quantiles."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = ["Point", "objective_of"]


class Point(NamedTuple):
    """Positions with what a Newton step needs: energy, objective, slopes and second derivatives of V + U rho."""

    x: np.ndarray
    energy: float
    objective: float
    slopes: np.ndarray
    curvatures: np.ndarray


def objective_of(point: Point) -> float:
    """Return the objective, infinite where it is not finite."""
    return point.objective if math.isfinite(point.objective) else math.inf
