"""Networks and data laws reduced to few coordinates: the potential V and the interaction U of each model."""

from __future__ import annotations

from ._critical_deltas import CriticalDeltas
from ._gaussian_laws import GaussianState
from ._minimum_risk import MinimumRisk
from .anisotropic_gaussian import AnisotropicGaussian
from .base import Atoms, LimitPoint, NetworkModel, ReducedModel
from .finite_data import FiniteData
from .isotropic_gaussian import IsotropicGaussian, StationaryDelta
from .linear_neuron import LinearNeuron
from .quadratic_activation import QuadraticActivation
from .relu_network import ReLUNetwork

__all__ = [
    "AnisotropicGaussian",
    "Atoms",
    "CriticalDeltas",
    "FiniteData",
    "GaussianState",
    "IsotropicGaussian",
    "LimitPoint",
    "LinearNeuron",
    "MinimumRisk",
    "NetworkModel",
    "QuadraticActivation",
    "ReLUNetwork",
    "ReducedModel",
    "StationaryDelta",
]
