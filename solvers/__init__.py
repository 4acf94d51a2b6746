"""Methods: how a flow is stepped. Each is an object that `wgflow.solve` takes."""

from .finite_volume import FiniteVolume
from .fipy_adapter import FiPy
from .jko import JKO, BackAndForth, Entropic, Linearized, Quantile
from .lagrangian import Lagrangian

__all__ = ["BackAndForth", "Entropic", "FiPy", "FiniteVolume", "JKO", "Lagrangian", "Linearized", "Quantile"]
