"""JKO steps by ascent of the dual."""

from .solver import BackAndForthSolver

__all__ = ["BackAndForthSolver"]
