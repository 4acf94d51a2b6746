"""Activation functions with exact Gaussian averages: sums of hinges, and smooth functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgflow.calls.explained import misspelled

from .base import Activation
from .of_function import Smooth
from .piecewise_linear import NonMonotone, PiecewiseLinear, Ramp, ReLU
from .smooth import Erf, Polynomial, Softplus, Tanh

__all__ = ["Activation", "Erf", "NonMonotone", "PiecewiseLinear", "Polynomial", "Ramp", "ReLU", "Smooth", "Softplus",
           "Tanh"]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would let any misspelled name pass.
    def __getattr__(name):
        raise misspelled(__name__, name, __all__)
