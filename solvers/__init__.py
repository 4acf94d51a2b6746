"""Methods: how a flow is stepped. Each is an object that `wgflow.solve` takes; `Method` is what your own one is."""

from wgflow.recorder import Step

from .base import EvenSteps, Method, Run
from .finite_volume import FiniteVolume
from .fipy_adapter import FiPy
from .jko import JKO, BackAndForth, Entropic, Linearized, Quantile
from .lagrangian import Lagrangian

__all__ = ["BackAndForth", "Entropic", "EvenSteps", "FiPy", "FiniteVolume", "JKO", "Lagrangian", "Linearized", "Method",
           "Quantile", "Run", "Step"]

#: Names of the methods, as checkpoints have them.
METHODS = ("FiPy", "FiniteVolume", "JKO", "Lagrangian")
