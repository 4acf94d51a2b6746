"""JKO steps on one axis, in quantile coordinates."""

from .solver import QuantileSolver

__all__ = ["QuantileSolver"]
