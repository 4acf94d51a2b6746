"""JKO steps by entropic scaling."""

from .solver import EntropicSolver

__all__ = ["EntropicSolver"]
