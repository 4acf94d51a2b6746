"""Averages over uniform inputs of a sphere, by their expansion in Gegenbauer polynomials."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.special import gammaln

from wgflow.activations.base import Activation
from wgflow.activations.piecewise_linear import PiecewiseLinear
from wgflow.checks import check_count
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType

from ..base import FloatArray

__all__ = ["SphereKernel", "harmonics", "legendre_values"]

_DEGREE = 400  # at which the series is given up
_NODES = 12  # of a Gauss-Legendre panel
_PANELS = 160  # over the latitudes that carry mass
_TAIL = 92.0  # log of the density, relative to its peak, beyond which latitudes carry none
_ERROR = 1e-13  # of a kernel, relative to E sigma^2
_TANGENT_ERROR = 1e-10  # largest of four terms in a row at which its second derivative ends


def harmonics(d: int, degree: int) -> FloatArray:
    """Return the numbers B(d, k) of independent harmonics of degree k = 0, ..., ``degree`` on the sphere of R^d."""
    k = np.arange(1.0, degree + 1.0)
    counts = np.exp(np.log(2.0 * k + d - 2.0) - np.log(k) + gammaln(k + d - 2.0) - gammaln(k) - gammaln(d - 1.0))
    return np.concatenate([[1.0], counts])


def legendre_values(c: FloatArray, d: int):
    r"""Yield Q_0(c), Q_1(c), ..., the Gegenbauer polynomials with Q_k(1) = 1, and their first two derivatives.

    :math:`(k + d - 2) Q_{k+1} = (2k + d - 2)\,c\,Q_k - k\,Q_{k-1}`; :math:`Q_k = P_k` for d = 3.
    """
    zero, one = np.zeros_like(c), np.ones_like(c)
    before, now = (zero, zero, zero), (one, zero, zero)
    k = 0
    while True:
        yield now
        a, b = (2.0 * k + d - 2.0) / (k + d - 2.0), k / (k + d - 2.0)
        after = (a * c * now[0] - b * before[0], a * (now[0] + c * now[1]) - b * before[1],
                 a * (2.0 * now[1] + c * now[2]) - b * before[2])
        before, now = now, after
        k += 1


def _polynomials(c: FloatArray, d: int):
    """Yield Q_0(c), Q_1(c), ... as :func:`legendre_values`, without the derivatives."""
    before, now, k = np.zeros_like(c), np.ones_like(c), 0
    while True:
        yield now
        a, b = (2.0 * k + d - 2.0) / (k + d - 2.0), k / (k + d - 2.0)
        before, now, k = now, a * c * now - b * before, k + 1


class SphereKernel:
    r"""Second moments of :math:`\sigma(\langle w, x \rangle)`, |w| = 1, x uniform on the sphere of radius sqrt(d).

    With :math:`F_k = \sqrt{B(d, k)}\,E\,\sigma(\sqrt d\,c)\,Q_k(c)`, c the first coordinate of a uniform unit vector,

    .. math::
        E\,\sigma(\langle w, x \rangle)\,\sigma(\langle w', x \rangle) = \sum_k F_k^2\,Q_k(\langle w, w' \rangle) .

    Parameters
    ----------
    activation : Activation
    d : int
        At least 3.

    Notes
    -----
    The sums end where the rest is below 1e-13 of :math:`E\sigma^2` (1e-10 for tangent features); the diagonal
    is an integral of its own. Neurons that are nearly parallel in few dimensions need more
    than 400 terms and are refused.
    """

    def __init__(self, activation: Activation, d: int):
        if not isinstance(activation, Activation):
            raise InvalidType(f"activation={activation!r}: need an activation of wgflow.activations, such as ReLU()")
        self.activation, self.d = activation, check_count("d", d, 3)
        c, self._weights = self._rule()
        self._c, s = c, np.sqrt(d) * c
        self._value, self._slope = activation.value(s), s * activation.derivative(s)
        self._derivative = activation.derivative(s)

    def _rule(self) -> tuple[FloatArray, FloatArray]:
        """Return nodes and weights of the first coordinate, with panels that end at the kinks of the activation."""
        d = self.d
        reach = min(0.5 * np.pi, np.sqrt(2.0 * _TAIL / max(d - 2.0, 1.0)))
        ends = np.linspace(0.5 * np.pi - reach, 0.5 * np.pi + reach, _PANELS + 1)
        if isinstance(self.activation, PiecewiseLinear):
            kinks = self.activation.knots / np.sqrt(d)
            angles = np.arccos(kinks[np.abs(kinks) < 1.0])
            ends = np.unique(np.concatenate([ends, angles[np.abs(angles - 0.5 * np.pi) < reach]]))
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        half = 0.5 * np.diff(ends)[:, None]
        angle = (0.5 * (ends[1:] + ends[:-1])[:, None] + half * nodes).ravel()
        density = np.exp((d - 2.0) * np.log(np.sin(angle))) * (half * weights).ravel()
        return np.cos(angle), density / density.sum()

    @cached_property
    def _counts(self) -> FloatArray:
        return harmonics(self.d, _DEGREE)

    @cached_property
    def _coefficients(self) -> tuple[FloatArray, FloatArray]:
        r"""f_k = E sigma(s) Q_k and h_k = E s sigma'(s) Q_k, the derivative of f_k in |w|."""
        values = np.empty((2, _DEGREE + 1))
        for k, polynomial in zip(range(_DEGREE + 1), _polynomials(self._c, self.d)):
            weighted = self._weights * polynomial
            values[:, k] = weighted @ self._value, weighted @ self._slope
        return values[0], values[1]

    def coefficient(self, degree: int) -> tuple[float, float]:
        """Return (f, h) of a degree: E sigma Q and its derivative in the length of w."""
        if check_count("degree", degree, 0) > _DEGREE:
            raise InvalidInput(f"degree={degree}: at most {_DEGREE}")
        return float(self._coefficients[0][degree]), float(self._coefficients[1][degree])

    @property
    def mean(self) -> float:
        """E sigma."""
        return self.coefficient(0)[0]

    @property
    def linear(self) -> float:
        """a in E x sigma(<w, x>) = a w."""
        return float(np.sqrt(self.d)) * self.coefficient(1)[0]

    @property
    def quadratic(self) -> float:
        """a in E sigma(<w, x>) x'Mx = a w'Mw, for symmetric M without trace."""
        return self.d * self.coefficient(2)[0]

    def values(self, w: FloatArray) -> FloatArray:
        """Return the matrix of E sigma sigma' for unit vectors ``w``, shape (n, d)."""
        f, _ = self._coefficients
        square = float(self._weights @ self._value**2)
        rho = _products(w)
        matrix = np.zeros_like(rho)
        left = square
        for k, q in zip(range(_DEGREE + 1), _polynomials(rho, self.d)):
            matrix += f[k] ** 2 * self._counts[k] * q
            left -= f[k] ** 2 * self._counts[k]
            if k > 1 and max(left, 0.0) * np.max(np.abs(q), initial=0.0) <= _ERROR * square:
                break
        else:
            raise self._failure(rho)
        matrix[np.diag_indices(len(w))] = square
        return matrix

    def centered(self, w: FloatArray) -> FloatArray:
        """Return the covariances of the neurons: :meth:`values` less (E sigma)^2."""
        return self.values(w) - self.mean**2

    def tangent_values(self, w: FloatArray) -> FloatArray:
        r"""Return E sigma'(<w, x>) sigma'(<w', x>) x x', shape (n, d, n, d), for unit vectors ``w``.

        These are the mixed derivatives in w and w' of :math:`\sum_k f_k(|w|) f_k(|w'|) B_k Q_k(\rho)`.
        """
        f, h = self._coefficients
        n, d = w.shape
        rho = _products(w)
        sums = np.zeros((4, n, n))  # hh Q, hf Q', ff Q', ff Q''
        small = 0
        for k, (q, dq, ddq) in zip(range(_DEGREE + 1), legendre_values(rho, d)):
            ff, hf, hh = (self._counts[k] * a for a in (f[k] ** 2, h[k] * f[k], h[k] ** 2))
            terms = (hh * q, hf * dq, ff * dq, ff * ddq)
            for total, term in zip(sums, terms):
                total += term
            sizes = [np.max(np.abs(term), initial=0.0) for term in terms]
            small = small + 1 if max(sizes) <= _TANGENT_ERROR * max(1.0, np.max(np.abs(sums))) else 0
            if k > 4 and small > 3:
                break
        else:
            raise self._failure(rho)
        radial, mixed, tangent, bent = sums
        result = tangent[:, None, :, None] * np.eye(d)[None, :, None, :]
        own, other = w[:, :, None, None], w[None, None, :, :]  # w_i in the row index, w_j in the column index
        rest_row = w.T[None, :, :, None] - rho[:, None, :, None] * own  # w_j - rho w_i, in the row index
        rest_column = w[:, None, None, :] - rho[:, None, :, None] * other  # w_i - rho w_j, in the column index
        radial, mixed, tangent, bent = (a[:, None, :, None] for a in (radial, mixed, tangent, bent))
        result = result + radial * own * other + mixed * (own * rest_column + rest_row * other)
        result += bent * rest_row * rest_column - tangent * (own * w[:, None, None, :] + rest_row * other)
        square = self._weights @ self._derivative**2
        along = self._weights @ self._slope**2
        for i in range(n):
            result[i, :, i, :] = (d * square - along) / (d - 1.0) * (np.eye(d) - np.outer(w[i], w[i]))
            result[i, :, i, :] += along * np.outer(w[i], w[i])
        return result

    def _failure(self, rho: FloatArray) -> ConvergenceError:
        return ConvergenceError(f"d={self.d}: a kernel between neurons of correlation {np.max(np.abs(rho)):.6f} is not "
                                f"resolved by {_DEGREE} harmonics; take more dimensions or fewer neurons")


def _products(w: FloatArray) -> FloatArray:
    """Return the correlations of unit vectors, with 0 on the diagonal, which has integrals of its own."""
    rho = np.clip(w @ w.T, -1.0, 1.0)
    np.fill_diagonal(rho, 0.0)
    return rho
