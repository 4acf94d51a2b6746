"""Networks on given samples whose output is scaled by alpha: what the mean field and the kernel limit share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation
from wgflow.atoms import Atoms
from wgflow.checks import check_memory, check_positive
from wgflow.densities import Density
from wgflow.energies.nodes import at_nodes
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grid_checks import MAX_AXES

from .base import FloatArray, ReducedModel
from .finite_samples import checked_samples
from .gaussian_laws import coordinate_names, stack_coordinates
from .minimum_risk.minimize import MinimumRisk

__all__ = ["ScaledNetwork"]

_BLOCK = 1 << 22  # numbers of a temporary array


class ScaledNetwork(ReducedModel):
    r"""A network :math:`f = \alpha \int a\,\sigma(\langle w, x \rangle)\,\rho(da, dw)` on n samples.

    The features are the outputs of one neuron, :math:`F_k = c\,a\,\sigma(\langle w, x_k \rangle)/\sqrt n` in units c
    that a subclass chooses (``feature_scale``), with the target :math:`p_k = c\,y_k/(\alpha \sqrt n)`.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
    y : array_like, shape (n,)
    activation : Activation
    alpha : float

    Raises
    ------
    InvalidInput
        If shapes disagree, a number is not finite, or alpha is not positive.
    """

    time_scale = 1.0
    activation: Activation

    def __init__(self, x: ArrayLike, y: ArrayLike, activation: Activation, alpha: float):
        inputs, labels, self.activation = checked_samples(x, y, activation, activation)
        self.alpha = check_positive("alpha", alpha)
        self.x, self.y = inputs, labels
        for array in (self.x, self.y):
            array.flags.writeable = False
        self.coordinate_names = ("a", *coordinate_names("w", inputs.shape[1]))
        with np.errstate(over="ignore"):
            self.label_second_moment = float(np.mean((self.feature_scale * labels / self.alpha) ** 2))
        if not math.isfinite(self.label_second_moment):
            raise InvalidInput("the squares of y/alpha overflow; scale y down or alpha up")

    @property
    def feature_scale(self) -> float:
        """The units c of the features: 1, or alpha, where the risk of the features is the mean of u^2."""
        return 1.0

    @property
    def n_samples(self) -> int:
        """Number n of samples."""
        return self.y.size

    def __repr__(self) -> str:
        return (f"{self.name}({self.n_samples} samples, d={self.x.shape[1]}, {self.activation!r}, "
                f"alpha={self.alpha:g})")

    # ---------------------------------------------------------------- the model
    @property
    def target(self) -> FloatArray:
        return self.feature_scale * self.y / (self.alpha * math.sqrt(self.n_samples))

    def features(self, *coordinates: ArrayLike) -> FloatArray:
        points = stack_coordinates(self, coordinates)  # type: ignore[arg-type]
        z = np.tensordot(self.x, points[1:], axes=1)
        return self.feature_scale * points[0] * self.activation.value(z) / math.sqrt(self.n_samples)

    def feature_gradients(self, *coordinates: ArrayLike) -> FloatArray:
        points = stack_coordinates(self, coordinates)  # type: ignore[arg-type]
        check_memory(8.0 * self.n_samples * points.size,
                     f"gradients of {self.n_samples} outputs at {points[0].size} neurons",
                     "take fewer neurons or samples")
        return self.feature_scale * self._gradients(points) / math.sqrt(self.n_samples)

    def _gradients(self, points: FloatArray) -> FloatArray:
        """Return the gradients of a neuron's outputs, (n, D, *shape), at points (D, *shape)."""
        z = np.tensordot(self.x, points[1:], axes=1)
        slope = points[0] * self.activation.derivative(z)
        by_w = slope[:, None] * self.x.reshape(*self.x.shape, *(1,) * (points.ndim - 1))
        return np.concatenate([self.activation.value(z)[:, None], by_w], axis=1)

    def diagonal(self, *coordinates: ArrayLike) -> FloatArray:
        return np.sum(self.features(*coordinates) ** 2, axis=0)

    def output(self, rho: Density | Atoms) -> FloatArray:
        r"""Return :math:`f = \alpha \int a\,\sigma(\langle w, x_k \rangle)\,\rho` at the samples, shape (n,)."""
        return self.alpha / self.feature_scale * math.sqrt(self.n_samples) * self.moments(rho)

    def residual(self, rho: Density | Atoms) -> FloatArray:
        """Return u = y - f at the samples."""
        return self.y - self.output(rho)

    def risk(self, rho: Density | Atoms) -> float:
        """Return the mean of u^2 over the samples."""
        return float(np.mean(self.residual(rho) ** 2))

    def finite_width_excess(self, rho: Density | Atoms) -> float:
        return (self.alpha / self.feature_scale) ** 2 * super().finite_width_excess(rho)

    def minimum_risk(self, **_: object) -> MinimumRisk:  # type: ignore[override]
        """Refused: the infimum does not depend on alpha, and ``FiniteData`` with a read-out has it."""
        raise InvalidInput("the least risk does not depend on alpha; FiniteData(x, y, activation, trains_readout=True) "
                           "has it, with an offset b that you may hold at 0 by its box")

    # ---------------------------------------------------------------- kernels
    def kernel(self, rho: Density | Atoms | tuple[ArrayLike, ...],  # type: ignore[override]
               other: tuple[ArrayLike, ...] | None = None) -> FloatArray:
        r"""Return the tangent kernel of a law on the samples, shape (n, n):

        .. math:: H_\rho(x_i, x_j) = \int \langle \nabla \sigma_*(x_i), \nabla \sigma_*(x_j) \rangle\,\rho, \qquad
                  \sigma_* = a\,\sigma(\langle w, x \rangle) .

        With two tuples of coordinates it is the kernel U of their neurons, as in every reduced model.
        """
        if other is not None and isinstance(rho, tuple):
            return super().kernel(rho, other)
        if isinstance(rho, Atoms):
            points, weights = rho.points, rho.weights
        elif isinstance(rho, Density):
            self._check_axes(rho.grid)
            points = np.stack([np.ravel(c) for c in np.broadcast_arrays(*rho.grid.mesh())])
            weights = at_nodes(rho).masses.ravel()
        else:
            raise InvalidType(f"kernel takes a Density or Atoms, got {type(rho).__name__}")
        total = np.zeros((self.n_samples, self.n_samples))
        size = max(1, _BLOCK // (self.n_samples * self.n_coordinates))
        for i in range(0, weights.size, size):
            gradients = self._gradients(points[:, i : i + size])
            flat = gradients.reshape(self.n_samples, -1)
            total += (gradients * weights[i : i + size]).reshape(flat.shape) @ flat.T
        return 0.5 * (total + total.T)

    def _check_grid_axes(self) -> None:
        """Refuse a grid for more coordinates than a grid has axes."""
        if self.n_coordinates > MAX_AXES:
            raise InvalidInput(f"the coordinates {self.coordinate_names} are more than {MAX_AXES}; take atoms "
                               "(initial_atoms)")
