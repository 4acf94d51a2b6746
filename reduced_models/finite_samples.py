"""Checks of a finite sample (x, y) and an activation, shared by the models that are made of them."""

from __future__ import annotations

from numpy.typing import ArrayLike

from wgflow.activations.base import Activation, check_activation, finite_array
from wgflow.errors import InvalidInput

from .base import FloatArray

__all__ = ["checked_samples"]


def checked_samples(x: ArrayLike, y: ArrayLike, activation: Activation | None,
                    default: Activation) -> tuple[FloatArray, FloatArray, Activation]:
    """Return inputs (n, d), labels (n,) and the activation, or the default if there is none."""
    inputs, labels = finite_array("x", x), finite_array("y", y)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    if inputs.ndim != 2 or 0 in inputs.shape:
        raise InvalidInput(f"x has shape {inputs.shape}; need (n, d) or (n,), n >= 1 and d >= 1")
    if labels.shape != inputs.shape[:1]:
        raise InvalidInput(f"y has shape {labels.shape} for {len(inputs)} samples; need ({len(inputs)},)")
    used = default if activation is None else activation
    check_activation(used)
    return inputs, labels, used
