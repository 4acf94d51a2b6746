r"""Bases of functions of the length of a few Gaussian inputs, and the kernel's diagonal by quadrature over angles.

Given the lengths :math:`\chi_1, \chi_2` of the two blocks of an input, two neurons of random direction are independent:

.. math:: U = E\, F(\chi)\, F'(\chi), \qquad
          F(\chi) = E_{c_1, c_2}\, \sigma(\tau r_1 \chi_1 c_1 + r_2 \chi_2 c_2 + b) .

Any functions :math:`\psi_m` of :math:`\chi` that are orthonormal in the law of :math:`\chi` give features
:math:`E\, \psi_m F` whose kernel is U, but for the part of F outside their span. Polynomials give the Hermite series.
Where an activation has kinks, F has them at lengths :math:`\propto 1/r`, which may be small, and polynomials resolve
them poorly. Polynomials times Gaussian windows resolve small lengths as well as large ones, and their features are
terms of the same Hermite series at other variances: with :math:`1/v = 1 + 2p`, over n inputs,

.. math:: E\, e^{-p \chi^2} f(\chi) = v^{n/2}\, E\, f(\sqrt v\, \chi) .
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import svd
from scipy.special import gammaln, roots_jacobi

from wgflow.activations.base import Activation

from ..base import FloatArray

__all__ = ["Windows", "kernel_diagonal", "largest_rows", "log_moments", "plain", "residual", "windowed_polynomials"]

_RATIO = 4.0  # of the variances of one window and the next
_CUT = 5e-7  # singular values of the windows, relative to the largest, below which combinations cost too many digits
_PANELS = 100  # of the rule for lengths
_PANEL_NODES = 16  # Gauss-Legendre nodes of each panel
_BEND = 0.05  # the rule is even in asinh(chi / _BEND)
_LOW_DIMENSION = 12  # up to here angles come near 0, where the pair expectation is less smooth
_ANGLES = 32  # nodes on a quarter of the circle
_FEWER_ANGLES = 28  # the same where both blocks need so many
_NEAR = 0.7  # correlations up to which the Mehler series is summed; closer pairs take the closed form
_DEGREE = 100  # of that series
_CHUNK = 1 << 18  # numbers of a temporary array


class Windows(NamedTuple):
    r"""Functions :math:`e^{-p\chi^2} p_i(\chi/\sqrt v)` of the length of n inputs and orthonormal combinations of them.

    The :math:`p_i`, i even, are orthonormal polynomials in the law of :math:`\chi`, of positive leading coefficient.
    The columns of ``combinations`` hold the coefficients of orthonormal functions; the first is the constant 1.
    """

    variances: FloatArray
    powers: np.ndarray
    combinations: FloatArray


def plain(power: int) -> Windows:
    """Return the polynomial of one even degree alone."""
    return Windows(np.ones(1), np.array([power]), np.ones((1, 1)))


def windowed_polynomials(n: int, scales: int, size: int) -> Windows:
    """Return ``size`` polynomials in each of ``scales`` windows, and an orthonormal basis of what they span well."""
    x, weights = _length_rule(n, 2.0 * math.sqrt(size) + 2.0 * math.sqrt(n) + 8.0)
    variances, powers = np.repeat(_RATIO ** -np.arange(scales), size), np.tile(2 * np.arange(size), scales)
    roots = np.sqrt(weights)
    table = np.concatenate([_polynomials_in_window(n, x, _RATIO**-m, size) for m in range(scales)]) * roots
    norms = np.sqrt(np.sum(table * table, axis=1))
    others = table[1:] / norms[1:, None]
    means = np.sum(others * roots, axis=1)
    left, values, _ = svd(others - means[:, None] * roots, full_matrices=False)
    kept = values > _CUT * values[0]
    own = left[:, kept] / values[kept]
    combinations = np.zeros((len(table), 1 + own.shape[1]))
    combinations[0, 0] = 1.0
    combinations[0, 1:] = -np.sum(means[:, None] * own, axis=0)
    combinations[1:, 1:] = own / norms[1:, None]
    return Windows(variances, powers, combinations)


def _length_rule(n: int, end: float) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights, of sum 1, for the length of n normal variables, dense near 0 and up to ``end``."""
    z, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    width = math.asinh(end / _BEND) / _PANELS
    s = (width * (np.arange(_PANELS)[:, None] + 0.5 * (z + 1.0))).ravel()
    x = _BEND * np.sinh(s)
    weights = np.tile(weights, _PANELS) * np.exp((n - 1.0) * np.log(x) - 0.5 * x * x) * np.cosh(s)
    return x, weights / np.sum(weights)


def _polynomials_in_window(n: int, x: FloatArray, variance: float, size: int) -> FloatArray:
    """Return the polynomials of degree 0, 2, ... in ``x / sqrt(variance)`` times the window, shape (size, nodes)."""
    alpha, y = 0.5 * n - 1.0, 0.5 * x * x / variance
    table = np.zeros((size + 1, x.size))
    table[0] = np.exp(-0.5 * (1.0 / variance - 1.0) * x * x)
    for k in range(size - 1):
        below = math.sqrt(k * (k + alpha)) * table[k - 1] if k else 0.0
        table[k + 1] = ((y - (2 * k + 1 + alpha)) * table[k] - below) / math.sqrt((k + 1) * (k + 1 + alpha))
    return table[:size]


def kernel_diagonal(
    activation: Activation,
    deviations: tuple[float, float],
    dims: tuple[float, float],
    points: tuple[FloatArray, FloatArray, FloatArray],
) -> FloatArray:
    r"""Return U of pairs of neurons of equal (b, r1, r2) and independent directions, by quadrature over both angles.

    .. math:: U = \tfrac12 \sum_\pm E_{c_1, c_2}\, K_\pm(\rho), \qquad
              \rho = (\tau_\pm^2 r_1^2 c_1 + r_2^2 c_2)/s_\pm^2,

    with K the closed-form expectation of a pair of neurons whose preactivations have correlation :math:`\rho`.
    """
    b, r1, r2 = points
    nodes = _ANGLES if max(dims) > _LOW_DIMENSION else _FEWER_ANGLES
    (c1, w1), (c2, w2) = (_angle_rule(int(n), nodes) for n in dims)
    c1, c2, shares = np.repeat(c1, c2.size), np.tile(c2, c1.size), np.outer(w1, w2).ravel()
    total = np.zeros(b.size)
    size = max(1, _CHUNK // shares.size)
    for tau in deviations:
        s = np.hypot(tau * r1, r2)
        first = (tau * r1 / np.maximum(s, 1e-300)) ** 2
        second = (r2 / np.maximum(s, 1e-300)) ** 2
        for start in range(0, b.size, size):
            part = slice(start, start + size)
            rho = np.clip(first[part, None] * c1 + second[part, None] * c2, -1.0, 1.0)
            total[part] += 0.5 * np.sum(_pair_expectations(activation, s[part], b[part], rho) * shares, axis=1)
    return total


def _pair_expectations(activation: Activation, s: FloatArray, b: FloatArray, rho: FloatArray) -> FloatArray:
    """Return K at correlations of shape (n, nodes): far ones by the series, which is faster."""
    if activation.kernel_arguments().code:
        return activation.pair_expectation(s[:, None], s[:, None], rho, offset1=b[:, None], offset2=b[:, None])
    squares = activation.hermite_coefficients(s, _DEGREE, offset=b) ** 2
    inside = np.clip(rho, -_NEAR, _NEAR)
    result = np.zeros(rho.shape)
    for row in squares[::-1]:
        result *= inside
        result += row[:, None]
    rows, columns = np.nonzero(np.abs(rho) > _NEAR)
    near, own = s[rows], b[rows]
    result[rows, columns] = activation.pair_expectation(near, near, rho[rows, columns], offset1=own, offset2=own)
    return result


def _angle_rule(n: int, nodes: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights, of sum 1, for the cosine of the angle between random directions of n dimensions."""
    if n == 1:
        return np.array([1.0, -1.0]), np.array([0.5, 0.5])
    if n > _LOW_DIMENSION:
        c, weights = roots_jacobi(16 if n > 30 else 40, 0.5 * (n - 3), 0.5 * (n - 3))
        return c, weights / np.sum(weights)
    u, weights = np.polynomial.legendre.leggauss(nodes)
    u = 0.5 * (u + 1.0)
    angle = 0.5 * math.pi * u**4  # dense near 0, where kinks of the two neurons meet
    weights = weights * u**3 * np.sin(angle) ** (n - 2.0)
    c = np.cos(angle)
    return np.concatenate([c, -c]), np.concatenate([weights, weights]) / (2.0 * np.sum(weights))


def log_moments(i: np.ndarray, j: np.ndarray, dims: tuple[float, float]) -> FloatArray:
    """Return the logarithm of binom(i + j, i) M_i M_j."""
    binomial = gammaln(i + j + 1.0) - gammaln(i + 1.0) - gammaln(j + 1.0)
    moments = [gammaln(0.5 * (k + 1)) - gammaln(0.5) + gammaln(0.5 * n) - gammaln(0.5 * (k + n))
               for k, n in zip((i, j), dims)]
    return binomial + moments[0] + moments[1]


def largest_rows(table: FloatArray, allowed: float) -> FloatArray:
    """Return orthonormal rows that leave of each column, in squares, no more than ``allowed``."""
    columns = np.ascontiguousarray(table.T)
    rest = np.sum(table * table, axis=0)  # squares of what is left of each column
    rows = np.empty(table.shape[:1] * 2)
    n = 0
    while n < len(table) and np.max(rest, initial=0.0) > allowed:
        row = columns[int(np.argmax(rest))]
        for _ in range(2):  # a second pass takes away what rounding has left
            row = row - np.einsum("kt,k->t", rows[:n], np.einsum("kt,t->k", rows[:n], row))
        rows[n] = row / np.sqrt(np.sum(row * row))
        rest -= np.einsum("t,nt->n", rows[n], columns) ** 2
        n += 1
    return rows[:n].copy()


def residual(rotation: FloatArray, table: FloatArray) -> float:
    """Return the largest sum of squares that the rows of ``rotation`` leave of a column."""
    if not table.size:
        return 0.0
    inside = np.einsum("kt,tn->kn", rotation, table)
    return max(float(np.max(np.sum(table * table, axis=0) - np.sum(inside * inside, axis=0))), 0.0)
