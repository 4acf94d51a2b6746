"""Networks and data laws reduced to few coordinates: the potential V and the interaction U of each model."""

from __future__ import annotations

from .base import Atoms, NetworkModel, ReducedModel
from .isotropic_gaussian import IsotropicGaussian, StationaryDelta

__all__ = ["Atoms", "IsotropicGaussian", "NetworkModel", "ReducedModel", "StationaryDelta"]
