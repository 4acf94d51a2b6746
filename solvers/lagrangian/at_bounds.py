r"""Atoms on bounds with a mobility A that has mixed terms: the velocity is projected in the metric of A.

A gradient flow in a box follows, among the velocities that do not leave it, the one nearest to A g, with the force g,

.. math:: \min_v \; (v - A g)^\top A^{-1} (v - A g), \qquad \pm v_k \ge 0 \text{ on a bound of coordinate } k .

Its solution is :math:`v = A (g - r)` with the part r of the force that the bounds bear: nonzero in held coordinates
alone, where :math:`A_{HH}\, r_H = (A g)_H` keeps v at 0, and presses against their bounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["held_velocity", "resting"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def held_velocity(matrices: Array, force: Array, held: Mask) -> tuple[Array, Array]:
    """Return the velocity with held coordinates at rest, and the force that their bounds bear.

    Parameters
    ----------
    matrices : array, shape (d, d, n)
        A at each atom.
    force, held : arrays, shape (d, n)
    """
    a, mask = np.moveaxis(matrices, -1, 0), held.T
    free = np.einsum("nij,nj->ni", a, force.T)
    system = np.where(mask[:, :, None] & mask[:, None, :], a, np.eye(len(force)))
    borne = np.linalg.solve(system, np.where(mask, free, 0.0)[..., None])[..., 0]
    velocity = np.where(mask, 0.0, free - np.einsum("nij,nj->ni", a, borne))
    return velocity.T, borne.T


def resting(matrices: Array, force: Array, low: Mask, high: Mask) -> tuple[Mask, Array]:
    """Return which coordinates their bounds hold, and the velocity; ``low`` and ``high`` say which lie on a bound."""
    held = np.zeros(force.shape, dtype=bool)
    velocity, borne = held_velocity(matrices, force, held)
    # At most d coordinates of an atom come and go: few rounds.
    for _ in range(4 * len(force)):
        leaving = (low & (velocity < 0)) | (high & (velocity > 0))
        pulled = held & ((low & (borne > 0)) | (high & (borne < 0)))
        if not (leaving | pulled).any():
            break
        held = (held | leaving) & ~pulled
        velocity, borne = held_velocity(matrices, force, held)
    return held, velocity
