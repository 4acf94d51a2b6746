"""JKO: minimizing movements, one optimization problem a step, each step certified."""

from wgflow.jko_steps import JKOStep

from .base import InnerSettings, InnerSolver
from .method import JKO
from .settings import BackAndForth, Entropic, Linearized, Quantile

__all__ = ["BackAndForth", "Entropic", "InnerSettings", "InnerSolver", "JKO", "JKOStep", "Linearized", "Quantile"]
