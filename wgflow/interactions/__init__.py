"""Interactions: the pairwise terms of a free energy, named kernels, and operators that form U rho on a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgflow.calls.explained import misspelled

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


if not TYPE_CHECKING:
    # Hidden from type checkers, which would let any misspelled name pass.
    def __getattr__(name):
        raise misspelled(__name__, name, __all__)
