"""Interactions: the pairwise terms of a free energy, kernels by name, and how U rho is formed on a grid."""

from .kernel_checks import EXACTNESS
from .named_kernels import (
    Kernel,
    bessel,
    cosine,
    exponential,
    gaussian,
    log,
    morse,
    newtonian,
    power,
    quadratic,
    yukawa,
)
from .terms import Convolution, Dense, Interaction, LowRank

__all__ = ["EXACTNESS", "Convolution", "Dense", "Interaction", "Kernel", "LowRank", "bessel", "cosine", "exponential",
           "gaussian", "log", "morse", "newtonian", "power", "quadratic", "yukawa"]
