"""JKO steps by repeated linearization of the distance."""

from .solver import LinearizedSolver

__all__ = ["LinearizedSolver"]
