"""Networks and data laws reduced to few coordinates: the potential V and the interaction U of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgflow.atoms import Atoms
from wgflow.calls.explained import misspelled

from . import radial_laws
from .anisotropic_gaussian import AnisotropicGaussian
from .base import NetworkModel, ReducedModel
from .critical_deltas import CriticalDeltas, StationaryDelta
from .finite_data import FiniteData
from .gaussian_laws import GaussianState
from .isotropic_gaussian import IsotropicGaussian
from .kernel_limit import KernelLimit, KernelPath
from .kl_regularization import KLRegularizedNetwork, RegularizedMinimum
from .linear_neuron import LinearNeuron
from .minimum_risk.measure_problem import LimitPoint
from .minimum_risk.minimize import MinimumRisk
from .model_checks import check_model
from .model_report import ModelCheck, ModelReport
from .quadratic_activation import QuadraticActivation
from .relu_network import ReLUNetwork
from .static_theories import (
    FiniteQuadraticTarget,
    GaussianDesign,
    LeastSquares,
    MaxMargin,
    QuadraticTarget,
    RandomFeatures,
    Staircase,
)
from .tangent_kernels import tangent_kernel

__all__ = [
    "AnisotropicGaussian",
    "Atoms",
    "CriticalDeltas",
    "FiniteData",
    "FiniteQuadraticTarget",
    "GaussianDesign",
    "GaussianState",
    "IsotropicGaussian",
    "KLRegularizedNetwork",
    "KernelLimit",
    "KernelPath",
    "LeastSquares",
    "LimitPoint",
    "LinearNeuron",
    "MaxMargin",
    "MinimumRisk",
    "ModelCheck",
    "ModelReport",
    "NetworkModel",
    "QuadraticActivation",
    "QuadraticTarget",
    "RandomFeatures",
    "ReLUNetwork",
    "ReducedModel",
    "RegularizedMinimum",
    "Staircase",
    "StationaryDelta",
    "check_model",
    "radial_laws",
    "tangent_kernel",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would let any misspelled name pass.
    def __getattr__(name):
        raise misspelled(__name__, name, __all__)
