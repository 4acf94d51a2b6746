r"""Gradients of the risk of a network in the space of all parameters.

For centered Gaussian inputs of covariance :math:`\Sigma` and preactivations :math:`z_i = \langle w_i, x \rangle`,
integration by parts (Stein) gives

.. math:: \nabla_{w_i} E\,\sigma(z_i)\sigma(z_j)
          = \Sigma\,\bigl( w_i\, E\,\sigma''(z_i)\sigma(z_j) + w_j\, E\,\sigma'(z_i)\sigma'(z_j) \bigr),

whose two averages depend on the overlaps :math:`w_i^T \Sigma w_j` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wgflow.activations.base import Activation
from wgflow.errors import InvalidInput

if TYPE_CHECKING:
    from ..base import FloatArray, NetworkModel

__all__ = ["feature_gradient", "pair_averages", "two_class_gradient"]

_BLOCK = 1 << 18  # pairs of neurons handled at a time
_TINY = 1e-150  # deviation below which a neuron counts as one at rest: quotients of smaller numbers have no digits


def feature_gradient(model: NetworkModel, theta: FloatArray) -> FloatArray:
    """Return the gradient of Psi at the neurons of a network whose coordinates are its parameters."""
    if model.n_coordinates != model.n_parameters:
        raise InvalidInput(f"{model.name} does not know the gradient of its network in the space of all parameters; "
                           "use the reduced coordinates, space='coordinates', or give its class a method "
                           "network_gradient(theta)")
    moments = np.mean(model.features(*theta.T), axis=1)
    force = model.moment_slopes(moments)
    return np.einsum("k,kcn->nc", force, model.feature_gradients(*theta.T))


def pair_averages(activation: Activation, overlaps: FloatArray, deviations: FloatArray,
                  first: int = 0) -> tuple[FloatArray, FloatArray]:
    r"""Return :math:`E\,\sigma''(z_i)\sigma(z_j)` and :math:`E\,\sigma'(z_i)\sigma'(z_j)`, shape (rows, n).

    Parameters
    ----------
    overlaps : ndarray, shape (rows, n)
        Covariances of z_i and z_j, for the i from ``first`` on and all j.
    deviations : ndarray, shape (n,)
        Standard deviations of the z_j.
    """
    s = np.maximum(deviations, _TINY)
    rows = s[first : first + len(overlaps), None]
    correlation = np.clip(overlaps / (rows * s), -1.0, 1.0)
    # The correlation of a neuron with itself is 1 whatever rounding makes of it.
    own = np.arange(len(overlaps))
    correlation[own, first + own] = 1.0
    return activation.pair_slopes(rows, s, correlation)


def two_class_gradient(activation: Activation, variances: FloatArray, labels: FloatArray,
                       theta: FloatArray) -> FloatArray:
    r"""Return the gradient of Psi at the neurons of a network that learns its first layer, shape (n, d).

    Parameters
    ----------
    activation : Activation
        One with closed forms for `Activation.pair_slopes`.
    variances : ndarray, shape (classes, d)
        Variances of the inputs in each of the equally likely classes.
    labels : ndarray, shape (classes,)
    theta : ndarray, shape (n, d)
    """
    n = len(theta)
    total = np.zeros_like(theta)
    for variance, label in zip(variances, labels):
        scaled = theta * variance
        s = np.sqrt(np.sum(theta * scaled, axis=1))
        safe = np.maximum(s, _TINY)
        total -= (label * activation.gaussian_mean(safe, 1) / safe)[:, None] * scaled
        rows = max(1, _BLOCK // n)
        for first in range(0, n, rows):
            part = slice(first, min(n, first + rows))
            bent, both = pair_averages(activation, np.einsum("ik,jk->ij", theta[part], scaled), s, first)
            total[part] += (np.sum(bent, axis=1)[:, None] * scaled[part] + np.einsum("ij,jk->ik", both, scaled)) / n
    return total / len(labels)
