"""Finite volumes: Scharfetter-Gummel fluxes, the exponential midpoint rule, splitting by axis."""

from .method import FiniteVolume

__all__ = ["FiniteVolume"]
