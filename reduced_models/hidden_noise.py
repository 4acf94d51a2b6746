r"""What the samples of SGD add to the length of a neuron through its direction, which the length leaves open.

A step on the sample (x, y) moves the weights by :math:`\delta = 2 \epsilon\,(y - \hat y)\,\sigma'(\langle w, x \rangle)
\,x`. Over uniform directions of w, with :math:`u` the cosine of the angle between w and x, the length drifts by
:math:`|\delta_\perp|^2 / 2r` to second order, and spreads by what is left of :math:`\delta_r^2` when the move that all
neurons of the length share is taken out:

.. math:: \kappa = \frac{2}{r} E (y - \hat y)^2 |x|^2\,E_u[\sigma'^2 (1 - u^2)], \qquad
          D = 4 E (y - \hat y)^2 |x|^2 \bigl(E_u[\sigma'^2 u^2] - E_u[\sigma' u]^2\bigr) .
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from wgflow.activations.base import Activation

from .base import FloatArray
from .features.radial import QuadratureFeatures

__all__ = ["radial_noise"]

#: Directions of equal probability, and the least weight of a length of the data that counts.
_DIRECTIONS, _TINY = 256, 1e-9


def radial_noise(activation: Activation, outputs: QuadratureFeatures, d: int, r: FloatArray,
                 weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return kappa and D at lengths r of the given weights, each of the shape of r.

    Parameters
    ----------
    outputs : QuadratureFeatures
        The mean outputs over directions at the nodes of a rule for |x|.
    """
    root, labels = np.abs(outputs.target), np.sign(outputs.target)
    error = labels - outputs(r, 0) @ weights / root
    together = outputs(r, 1) / root[:, None]
    lengths = np.concatenate([tau * outputs.nodes for tau in outputs.deviations])
    share = root**2 * error**2
    keep = root**2 > _TINY
    half = 0.5 * (d - 1.0)
    u = np.array([-1.0, 1.0])
    if d > 1:
        u = 2.0 * betaincinv(half, half, (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS) - 1.0
    x = lengths[keep]
    squares = activation.derivative(x[:, None, None] * r[:, None] * u) ** 2
    along, across = squares @ (u * u) / u.size, squares @ (1.0 - u * u) / u.size
    weighted = share[keep] * x * x
    drift = 2.0 * (weighted @ across) / np.where(r > 0.0, r, np.inf)
    spread = 4.0 * (weighted @ along - share[keep] @ together[keep] ** 2)
    return drift, np.maximum(spread, 0.0)
