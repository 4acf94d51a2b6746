"""Losses l(y, f) of a label y and an output f: values, derivatives in f, and convex conjugates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgflow.calls.explained import misspelled

from .base import KernelLoss, Loss, from_functions
from .named import Exponential, Huber, Logistic, SmoothHinge, Square

__all__ = ["Exponential", "Huber", "KernelLoss", "Logistic", "Loss", "SmoothHinge", "Square", "from_functions"]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would let any misspelled name pass.
    def __getattr__(name):
        raise misspelled(__name__, name, __all__)
