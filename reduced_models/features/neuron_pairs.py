"""Sums of the kernel over pairs of neurons of one network, in the full dimension."""

from __future__ import annotations

import math

import numpy as np

from wgflow.activations.base import Activation
from wgflow.compiled.neuron_pairs import mehler_rows

from ..base import FloatArray

__all__ = ["kernel_pair_sums"]

_SERIES_DEGREE = 160  # of the Mehler series; pairs of neurons that need more take the closed form
_SMOOTH_DEGREE = 42  # the same where coefficients come from quadrature, which resolves no higher degrees
_PAIR_TOLERANCE = 1e-14  # tail at which the series of a pair stops, relative to the largest second moment
_BLOCK = 1 << 20  # pairs of neurons handled at a time


def kernel_pair_sums(
    activation: Activation, deviations: tuple[float, float], w: FloatArray, r: FloatArray, own: FloatArray
) -> FloatArray:
    r"""Return sums over pairs i < j of :math:`U_{ij} = \tfrac12 \sum_\pm E\,\sigma(\tau_\pm G_i)\sigma(\tau_\pm G_j)`.

    Parameters
    ----------
    w : ndarray, shape (networks, n, d)
        Weights, of lengths ``r`` (networks, n); ``own`` holds the U_ii.

    Returns
    -------
    ndarray, shape (networks,)
    """
    degree = _SMOOTH_DEGREE if activation.kernel_arguments().code else _SERIES_DEGREE
    a = np.stack([activation.hermite_coefficients(tau * r, degree) for tau in deviations])
    rest = 2.0 * own - np.cumsum(np.sum(a * a, axis=0), axis=0)  # what lies beyond degree k, both laws together
    coefficients = np.ascontiguousarray(a.transpose(2, 3, 1, 0))
    networks = zip(w, r, own, coefficients, rest.transpose(1, 0, 2))
    return np.array([_pair_sum(activation, deviations, *network) for network in networks])


def _pair_sum(
    activation: Activation, deviations: tuple[float, float], w: FloatArray, r: FloatArray, own: FloatArray,
    coefficients: FloatArray, rest: FloatArray,
) -> float:
    """Return the sum over pairs i < j of one network."""
    tails = np.maximum(np.max(rest, axis=1), 0.0)
    tolerance = _PAIR_TOLERANCE * max(1.0, float(np.max(own)))
    n = r.size
    row_sums, far_sums = np.zeros(n), []
    rows = min(n, max(1, _BLOCK // n))
    far_i, far_j, cosine = (np.empty(rows * n, dtype) for dtype in (np.int64, np.int64, np.float64))
    for first in range(0, n, rows):
        last = min(n, first + rows)
        count = mehler_rows(w, r, coefficients, tails, tolerance, first, last, row_sums, far_i, far_j, cosine)
        if count:
            ri, rj, c = r[far_i[:count]], r[far_j[:count]], cosine[:count]
            far = sum(activation.pair_expectation(tau * ri, tau * rj, c) for tau in deviations)
            far_sums.append(float(np.sum(far)))
    return 0.5 * (float(np.sum(row_sums)) + math.fsum(far_sums))
