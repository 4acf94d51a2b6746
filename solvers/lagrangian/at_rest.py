r"""The end of a run whose atoms come to rest: one step as long as the time that is left.

An explicit solver takes steps of a few times 1/lambda, with the largest rate lambda of the flow, however little moves.
About the present places the flow is y' = v - J y, with the velocity v and J = -grad v, so that the way over a time T
and what it dissipates are, along each eigenvector of J,

.. math:: y(T) = \frac{1 - e^{-\lambda T}}{\lambda}\,v, \qquad
          \int_0^T |y'|^2\,dt = \frac{1 - e^{-2\lambda T}}{2\lambda}\,v^2 ,

the first at most :math:`v/\lambda` however large T is. What bends the flow is of second order in the way: where that is
within the tolerance of the run, so is the step. Where an eigenvalue is negative, or not known to be positive, the bound
takes its growth into account: near a saddle nothing is said to rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.potentials import Potential
from wgflow.flows import Flow

from .cloud import Cloud

__all__ = ["Last", "last_step"]

Array = NDArray[np.float64]
#: Length of the differences that form J, relative to the size of a coordinate.
DIFFERENCE = 1e-3
#: Coordinates of all atoms together, up to which J is formed where they act on one another.
MOST_COUPLED = 1000
#: Part of the largest eigenvalue that J is uncertain by at least, and at most where it counts as known.
ROUNDED, KNOWN = 1e-9, 1e-2
#: Largest exponent of growth whose exponential is formed.
LARGEST_EXPONENT = 300.0


class Last(NamedTuple):
    """The step to the end: the points, and what it dissipates."""

    points: Array
    dissipated: float


def last_step(flow: Flow, cloud: Cloud, points: Array, length: float, t: float, sizes: Array,
              tolerance: float) -> Last | None:
    """Return the step over a time by the clock of time_scale; None unless all atoms move less than a tolerance in it.

    Parameters
    ----------
    flow, cloud : Flow, Cloud
        Without terms that change with time, and without a mobility.
    points : array (d, n)
    length : float
        The time that is left.
    t : float
    sizes : array (d,)
        Of the coordinates in the run, not of where the atoms rest.
    tolerance : float
    """
    weights = flow.atoms.weights
    alone = all(isinstance(term, Potential) for _, term in flow.energy.terms)
    if not (alone or points.size <= MOST_COUPLED) or not (weights > 0).all():
        return None
    held, velocity = cloud.resting(points, t)
    if not np.isfinite(velocity).all():
        return None
    found = _linear(cloud, points, held, weights, t, sizes, alone)
    if found is None:
        return None
    rates, vectors, doubt = found

    def modes(values: Array) -> Array:
        rows = (values * np.sqrt(weights)).T if alone else (values * np.sqrt(weights)).reshape(1, -1)
        return np.einsum("bji,bj->bi", vectors, rows)

    own = modes(velocity)
    # With the growth that the differences cannot exclude.
    if not _bound(own, rates - doubt, length, weights) <= tolerance:
        return None
    way = np.einsum("bij,bj->bi", vectors, own * _passed(rates, length))
    moved = points + (way.T if alone else way.reshape(points.shape)) / np.sqrt(weights)
    if not np.array_equal(cloud.inside(moved), moved):
        return None
    held_then, left = cloud.resting(moved, t)
    # What the linear flow has not seen must not move the atoms either.
    missed = modes(left) - own * np.exp(-np.clip(rates * length, None, LARGEST_EXPONENT))
    if not np.array_equal(held, held_then) or not _bound(missed, rates - doubt, length, weights) <= tolerance:
        return None
    return Last(moved, float((own**2 * _passed(2.0 * rates, length)).sum()))


def _bound(own: Array, rates: Array, length: float, weights: Array) -> float:
    """Return the farthest that an atom can move by the velocities of the modes."""
    if (-rates * length > LARGEST_EXPONENT).any():
        return math.inf if own[-rates * length > LARGEST_EXPONENT].any() else _bound(
            own, np.maximum(rates, 0.0), length, weights)
    return float(np.sqrt(((own * _passed(rates, length)) ** 2).sum() / weights.min()))


def _passed(rates: Array, length: float) -> Array:
    """Return (1 - exp(-lambda T)) / lambda."""
    exponents = np.maximum(rates * length, -LARGEST_EXPONENT)
    small = np.abs(exponents) < 1e-8
    return np.where(small, length, -np.expm1(-exponents) / np.where(small, 1.0, rates))


def _linear(cloud: Cloud, points: Array, held: NDArray[np.bool_], weights: Array, t: float, sizes: Array,
            alone: bool) -> tuple[Array, Array, float] | None:
    """Return eigenvalues (b, m) and eigenvectors (b, m, m) of J in places times the roots of weights, and their doubt.

    There J is symmetric. Atoms that do not act on one another are a block each. Directions that a bound holds do not
    move.
    """
    d, n = points.shape
    near = DIFFERENCE * sizes[:, None]
    if (~held & ((points - cloud.low < near) | (cloud.high - points < near))).any():
        return None
    found = []
    for share in (1.0, 0.5):
        h = share * DIFFERENCE * sizes
        if alone:
            blocks = np.empty((n, d, d))
            for k in range(d):
                # Out of a bound terms need have no value.
                step = np.zeros((d, n))
                step[k] = np.where(held[k], 0.0, h[k])
                change = cloud.gradient(points + step, t) - cloud.gradient(points - step, t)
                blocks[:, :, k] = (change / (2.0 * h[k])).T
        else:
            blocks, roots = np.empty((1, d * n, d * n)), np.sqrt(weights)
            for k, j in np.ndindex(d, n):
                step = np.zeros((d, n))
                step[k, j] = 0.0 if held[k, j] else h[k]
                change = cloud.gradient(points + step, t) - cloud.gradient(points - step, t)
                blocks[0, :, k * n + j] = (change * roots / (2.0 * h[k] * roots[j])).ravel()
        found.append(blocks)
    if not np.isfinite(found).all():
        return None
    still = held.T if alone else held.reshape(1, -1)
    pairs = still[:, :, None] | still[:, None, :]
    J = (4.0 * found[1] - found[0]) / 3.0
    doubts = [np.where(pairs, 0.0, gap) for gap in (found[1] - found[0], J - J.swapaxes(1, 2))]
    largest = float(np.abs(np.where(pairs, 0.0, J)).max())
    doubt = max(float(np.linalg.norm(gap, axis=(1, 2)).max()) for gap in doubts) + ROUNDED * largest
    if not doubt <= KNOWN * largest:
        return None
    J = np.where(pairs, largest * np.eye(J.shape[1]), 0.5 * (J + J.swapaxes(1, 2)))
    rates, vectors = np.linalg.eigh(J)
    return rates, vectors, doubt
