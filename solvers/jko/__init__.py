"""JKO: minimizing movements, one optimization problem a step, each step certified."""

from .base import InnerSettings, InnerSolver, JKOStep
from .method import JKO

__all__ = ["InnerSettings", "InnerSolver", "JKO", "JKOStep"]
