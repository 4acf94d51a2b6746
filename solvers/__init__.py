"""Methods: how a flow is stepped. Each is an object that `wgflow.solve` takes."""

from .finite_volume import FiniteVolume

__all__ = ["FiniteVolume"]
