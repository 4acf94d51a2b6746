"""Networks and data laws reduced to few coordinates: the potential V and the interaction U of each model."""

from __future__ import annotations

from ._gaussian_laws import GaussianState
from .anisotropic_gaussian import AnisotropicGaussian
from .base import Atoms, NetworkModel, ReducedModel
from .finite_data import FiniteData
from .isotropic_gaussian import IsotropicGaussian, StationaryDelta
from .linear_neuron import LinearNeuron
from .quadratic_activation import QuadraticActivation
from .relu_network import ReLUNetwork

__all__ = [
    "AnisotropicGaussian",
    "Atoms",
    "FiniteData",
    "GaussianState",
    "IsotropicGaussian",
    "LinearNeuron",
    "NetworkModel",
    "QuadraticActivation",
    "ReLUNetwork",
    "ReducedModel",
    "StationaryDelta",
]
