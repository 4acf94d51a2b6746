"""Interactions: the pairwise terms of a free energy, named kernels, and operators that form U rho on a grid."""

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
