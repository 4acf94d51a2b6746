"""The free energies of reduced models without their entropy: quadratic in the features' moments, or of any loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.moment_energy import MomentEnergy
from wgflow.energies.potentials import Potential
from wgflow.interactions.terms import LowRank

if TYPE_CHECKING:
    from .base import ReducedModel

__all__ = ["combine", "loss_terms", "quadratic_terms"]

FloatArray = NDArray[np.float64]
_EXACT = 1e-9  # error of the features' kernel below which gradients of V are formed from them


def quadratic_terms(model: ReducedModel, ridge: float, own_form: bool) -> FreeEnergy:
    """Return half the risk and the ridge penalty; ``own_form`` if the model has a form of V of its own."""
    def V(*coordinates: FloatArray) -> FloatArray:
        confinement = 0.5 * ridge * model.squared_norm(*coordinates)
        return model.potential(*coordinates) + confinement + 0.5 * model.label_second_moment

    slopes = _remember_last(model.feature_gradients)

    def gradient(*coordinates: FloatArray) -> FloatArray:
        own = combine(-model.signs * model.target, slopes(*coordinates))
        return own + 0.5 * ridge * model.squared_norm_gradient(*coordinates) if ridge else own

    # Where V has a form of its own, features of low accuracy would give a gradient that is not quite V's.
    exact = not own_form or getattr(model, "feature_error", 0.0) <= _EXACT
    potential = Potential(V, gradient if exact else None, reference=model.log_weight)
    return potential + LowRank(model.features, model.signs, slopes)


def loss_terms(model: ReducedModel, ridge: float, name: str) -> FreeEnergy:
    """Return the mean loss as a function of the moments, and the ridge penalty."""
    def V(*coordinates: FloatArray) -> FloatArray:
        return 0.5 * ridge * model.squared_norm(*coordinates)

    def gradient(*coordinates: FloatArray) -> FloatArray:
        return 0.5 * ridge * model.squared_norm_gradient(*coordinates)

    risk = MomentEnergy(model.features, model.risk_of_moments, model.moment_slopes, model.moment_curvature,
                        feature_gradients=model.feature_gradients, name=name)
    return Potential(V, gradient, reference=model.log_weight) + risk


def combine(weights: FloatArray, features: FloatArray) -> FloatArray:
    """Return ``sum_k weights_k features_k`` in a fixed order of summation."""
    return np.sum(weights.reshape((-1,) + (1,) * (features.ndim - 1)) * features, axis=0)


def _remember_last(function: Callable[..., FloatArray]) -> Callable[..., FloatArray]:
    """Return the function with its last value kept: the terms of an energy ask for the same points in turn."""
    last: list[tuple[tuple[FloatArray, ...], FloatArray]] = []

    def remembering(*coordinates: FloatArray) -> FloatArray:
        if last and all(np.array_equal(a, b) for a, b in zip(last[0][0], coordinates)):
            return last[0][1]
        value = function(*coordinates)
        last[:] = [(tuple(np.array(c) for c in coordinates), value)]
        return value

    return remembering
