"""Risks in the limit of many neurons, samples and dimensions at fixed ratios: no flow, but curves beside the flows."""

from __future__ import annotations

from .equivalent_coefficients import EquivalentCoefficients, equivalent_coefficients
from .finite_quadratic_target import FiniteQuadraticTarget, TrainedQuadratic
from .gaussian_design import GaussianDesign
from .least_squares import LeastSquares
from .max_margin import MarginSimulation, MaxMargin
from .quadratic_target import QuadraticTarget
from .random_features import RandomFeatures
from .simulated import Simulated
from .sphere_kernels import SphereKernel
from .staircase import Staircase

__all__ = [
    "EquivalentCoefficients",
    "FiniteQuadraticTarget",
    "GaussianDesign",
    "LeastSquares",
    "MarginSimulation",
    "MaxMargin",
    "QuadraticTarget",
    "RandomFeatures",
    "Simulated",
    "SphereKernel",
    "Staircase",
    "TrainedQuadratic",
    "equivalent_coefficients",
]
