"""SGD with a loss of a user's own, which compiled loops cannot call: the same steps in NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wgflow.activations.base import Activation
from wgflow.losses.base import Loss

__all__ = ["plain_steps"]

Array = NDArray[np.float64]


def plain_steps(w: Array, a: Array, b: Array, x: Array, y: Array, steps: Array, batch: int, learn_ab: bool,
                ridge: float, temperature: float, activation: Activation, loss: Loss, scale: float,
                rng: np.random.Generator) -> None:
    r"""Train on mini-batches in place, as `wgflow.compiled.sgd.sgd_batches` with the loss's derivative as the force.

    .. math:: w_i \leftarrow (1 - 2 \lambda s)\,w_i
              - \frac{s\,\alpha}{M} \sum_m l'(y_m, f_m)\,a_i\,\sigma'(z_{im})\,x_m + \sqrt{4 s T}\,g_i,
              \qquad f_m = \frac\alpha N \sum_i a_i\,\sigma(z_{im}) .

    Arguments as there; w of shape (N, d), x of shape (steps.size * batch, d).
    """
    for k, s in enumerate(steps):
        part = slice(k * batch, (k + 1) * batch)
        z = w @ x[part].T + b[:, None]
        values, slopes = activation.value(z), activation.derivative(z)
        outputs = scale * np.mean(a[:, None] * values, axis=0)
        force = -scale * s / batch * loss.derivative(y[part], outputs)
        shrink = 1.0 - 2.0 * ridge * s
        push = force * a[:, None] * slopes
        w *= shrink
        w += push @ x[part]
        if learn_ab:
            a *= shrink
            a += np.sum(force * values, axis=1)
            b *= shrink
            b += np.sum(push, axis=1)
        if temperature > 0.0:
            spread = math.sqrt(4.0 * s * temperature)
            for array in (a, b, w) if learn_ab else (w,):
                array += spread * rng.standard_normal(array.shape)
