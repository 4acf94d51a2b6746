"""Activation functions with exact Gaussian averages: sums of hinges, and smooth functions."""

from .base import Activation
from .of_function import Smooth
from .piecewise_linear import NonMonotone, PiecewiseLinear, Ramp, ReLU
from .smooth import Erf, Polynomial, Softplus, Tanh

__all__ = ["Activation", "Erf", "NonMonotone", "PiecewiseLinear", "Polynomial", "Ramp", "ReLU", "Smooth", "Softplus",
           "Tanh"]
