"""What the overlaps of a network need to know of a model: classes of Gaussian inputs, and directions in the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wgflow.activations.base import Activation
from wgflow.errors import InvalidInput
from wgflow.reduced_models import AnisotropicGaussian, IsotropicGaussian, LinearNeuron, QuadraticActivation
from wgflow.reduced_models.base import NetworkModel

__all__ = ["GaussianLaw", "gaussian_law"]

Array = NDArray[np.float64]
#: Eigenvalues that differ by less than this share of the largest are one.
SAME = 1e-10
#: Blocks of inputs, at most.
MOST_BLOCKS = 8


@dataclass(frozen=True)
class GaussianLaw:
    r"""Classes of centered Gaussian inputs whose variances are constant in blocks of coordinates, and labels.

    In class m the labels are :math:`y_m + \sum_n \lambda_n \sigma(\langle v_n, x \rangle)` plus noise.

    Attributes
    ----------
    activation : Activation
        The :math:`\sigma` of neurons and labels.
    probabilities, labels : ndarray, shape (classes,)
        The p_m and y_m.
    variances : ndarray, shape (classes, blocks)
    axes : ndarray, shape (d, d), or None
        Columns are the coordinates that the blocks refer to; None for the inputs themselves.
    dimensions : tuple of int
        Numbers of coordinates in the blocks, one block after the other.
    directions : ndarray, shape (M, d)
        The v_n.
    factors : ndarray, shape (M,)
        The lambda_n.
    noise_variance : float
    """

    activation: Activation
    probabilities: Array
    labels: Array
    variances: Array
    axes: Array | None = field(repr=False)
    dimensions: tuple[int, ...]
    directions: Array = field(repr=False)
    factors: Array
    noise_variance: float

    def coefficients(self, n: int) -> Array:
        """Return the factors of the outputs of n neurons and of the directions in the error, shape (n + M,)."""
        return np.concatenate([np.full(n, -1.0 / n), self.factors])

    def overlaps(self, theta: Array) -> Array:
        """Return the overlaps of neurons (..., n, d) and directions in each block, shape (..., blocks, K, K)."""
        shape = (*theta.shape[:-2], *self.directions.shape)
        units = np.concatenate([theta, np.broadcast_to(self.directions, shape)], axis=-2)
        units = units if self.axes is None else units @ self.axes
        ends = np.cumsum((0, *self.dimensions))
        parts = [units[..., a:b] for a, b in pairwise(ends)]
        return np.stack([np.einsum("...ik,...jk->...ij", x, x) for x in parts], axis=-3)


def gaussian_law(model: NetworkModel) -> GaussianLaw:
    """Return the law of a model's data in these terms.

    Raises
    ------
    InvalidInput
        If the data of the model are not of this kind.
    """
    if isinstance(model, (IsotropicGaussian, AnisotropicGaussian)):
        return _two_classes(model)
    if isinstance(model, LinearNeuron):
        return _one_class(model, model.activation, model.covariance, 0.0, model.direction[None], np.ones(1),
                          model.noise_variance)
    if isinstance(model, QuadraticActivation):
        values, vectors = np.linalg.eigh(model.matrix)
        used = np.abs(values) > SAME * max(float(np.abs(values).max()), 1e-300)
        return _one_class(model, model.activation, model.covariance, model.offset, vectors.T[used], values[used],
                          model.noise_variance)
    raise InvalidInput(f"{model.name}: the overlaps of its weights do not close; models with Gaussian inputs that "
                       "train the first layer alone have order parameters: IsotropicGaussian, AnisotropicGaussian, "
                       "LinearNeuron, QuadraticActivation")


def _two_classes(model: IsotropicGaussian | AnisotropicGaussian) -> GaussianLaw:
    d = model.n_parameters
    if isinstance(model, IsotropicGaussian):
        variances, dimensions = [[model.tau_plus2], [model.tau_minus2]], [d]
    else:
        s0 = int(model.s0 or 0)
        variances, dimensions = [[model.tau_plus2, 1.0], [model.tau_minus2, 1.0]], [s0, d - s0]
    return GaussianLaw(model.activation, np.full(2, 0.5), np.array([1.0, -1.0]), np.array(variances), None,
                       tuple(dimensions), np.zeros((0, d)), np.zeros(0), 0.0)


def _one_class(model: NetworkModel, activation: Activation, covariance: Array, label: float, directions: Array,
               factors: Array, noise_variance: float) -> GaussianLaw:
    values, axes = np.linalg.eigh(covariance)
    steps = np.flatnonzero(np.diff(values) > SAME * max(float(values[-1]), 1e-300)) + 1
    parts = np.split(np.maximum(values, 0.0), steps)
    if len(parts) > MOST_BLOCKS:
        raise InvalidInput(f"{model.name}: its inputs have {len(parts)} different variances; there are overlaps for "
                           f"each, and at most {MOST_BLOCKS} are taken")
    return GaussianLaw(activation, np.ones(1), np.array([label]), np.array([[part.mean() for part in parts]]), axes,
                       tuple(part.size for part in parts), directions, factors, noise_variance)
