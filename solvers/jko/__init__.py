"""JKO: minimizing movements, one optimization problem a step, each step certified."""

from wgflow.jko_steps import JKOStep

from .base import InnerSettings, InnerSolver
from .method import JKO

__all__ = ["InnerSettings", "InnerSolver", "JKO", "JKOStep"]
