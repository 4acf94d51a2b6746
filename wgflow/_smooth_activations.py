"""Smooth activation functions: exact averages where they exist, quadrature with a checked tolerance elsewhere."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf, expit

from wgflow._activation_base import (
    Activation,
    FloatArray,
    KernelActivation,
    check_degree,
    check_order,
    check_scale,
    finite_array,
)
from wgflow.errors import ConvergenceError, InvalidInput

__all__ = ["Erf", "Polynomial", "Softplus", "Tanh"]

_TOLERANCE = 1e-13  # change between two refinements, relative to max(1, |result|)
_REACH = 13.0  # phi(z) he_k(z) is below exp(-z^2/4) = 1e-18 beyond it, as long as 2 sqrt(k) is smaller
_FIRST_STEP = 0.5
_REFINEMENTS = 10
_BLOCK = 1 << 20  # numbers per temporary array
_PANEL_NODES = 16
_EMPTY = np.zeros(0)


class _SmoothActivation(Activation):
    r"""An activation given by :math:`\sigma, \sigma', \sigma''`, averaged numerically.

    Gaussian averages use the trapezoidal rule on the line, which converges geometrically for functions analytic in a
    strip and, unlike Gauss-Hermite rules, keeps doing so when ``s`` makes the activation steep. The step is halved
    until two results agree to 1e-13. Spherical averages use Gauss-Legendre panels in the
    latitude, doubled likewise.
    """

    @abstractmethod
    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        """Return the derivative of order 0, 1 or 2."""

    def value(self, t: ArrayLike) -> FloatArray:
        return self._evaluate(np.asarray(t, dtype=np.float64), 0)

    def derivative(self, t: ArrayLike) -> FloatArray:
        return self._evaluate(np.asarray(t, dtype=np.float64), 1)

    @property
    def length_scale(self) -> float:
        return 1.0

    def gaussian_mean(self, s: ArrayLike, order: int = 0) -> FloatArray:
        return self.hermite_coefficients(s, 0, order)[0]

    def hermite_coefficients(self, s: ArrayLike, degree: int, order: int = 0) -> FloatArray:
        check_degree(degree, order)
        scale = check_scale(s)
        if 4 * degree > _REACH**2:
            raise InvalidInput(f"degree={degree} is more than quadrature resolves for {self!r}; use degree <= 42")
        flat = scale.ravel()

        def integrand(z: FloatArray) -> FloatArray:
            values = self._evaluate(z[:, None] * flat, order) * (z**order)[:, None]
            return np.einsum("kz,zs->ks", _weighted_hermite(z, degree), values)

        return _trapezoid(integrand, flat.size).reshape(degree + 1, *scale.shape)

    def pair_expectation(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> FloatArray:
        s1, s2, rho = np.broadcast_arrays(check_scale(s1, "s1"), check_scale(s2, "s2"), np.asarray(rho, np.float64))
        if not np.all(np.abs(rho) <= 1.0):
            raise InvalidInput("rho is a correlation and must lie in [-1, 1]; clip rounding errors before the call")
        f1, f2, r = s1.ravel(), s2.ravel(), rho.ravel()
        result = np.empty(r.size)
        root = np.sqrt((1.0 - r) * (1.0 + r))
        for i in range(r.size):  # one pair at a time: a rule of n^2 nodes

            def inner(z: FloatArray, i: int = i) -> FloatArray:
                def outer(x: FloatArray) -> FloatArray:
                    mixed = self._evaluate(f2[i] * (r[i] * z[None, :] + root[i] * x[:, None]), 0)
                    return _phi(x) @ mixed

                smoothed = _trapezoid(outer, z.size) if root[i] > 0.0 else self._evaluate(f2[i] * r[i] * z, 0)
                return np.array([np.sum(_phi(z) * self._evaluate(f1[i] * z, 0) * smoothed)])

            result[i] = _trapezoid(inner, 1)[0]
        return result.reshape(rho.shape)

    def sphere_mean(self, t: ArrayLike, dim: int, order: int = 0) -> FloatArray:
        check_order(order)
        t = check_scale(t, "t")
        flat = t.ravel()
        if dim == 1:
            odd_sign = (-1.0) ** order
            return 0.5 * (self._evaluate(t, order) + odd_sign * self._evaluate(-t, order))

        def rule(n: int) -> FloatArray:
            c, weights = _sphere_rule(dim, n)
            weights = weights * c**order
            size = max(1, _BLOCK // c.size)
            blocks = [flat[i : i + size] for i in range(0, flat.size, size)]
            return np.concatenate([np.sum(weights * self._evaluate(b[:, None] * c, order), axis=1) for b in blocks])

        n, result = 32, rule(16) if flat.size else _EMPTY
        while flat.size:
            finer = rule(n)
            if np.max(np.abs(finer - result)) <= _TOLERANCE * max(1.0, np.max(np.abs(finer))):
                result = finer
                break
            if n >= 2048:
                raise ConvergenceError(f"spherical average of {self!r} up to t={np.max(flat):g} not resolved")
            n, result = 2 * n, finer
        return result.reshape(t.shape)

    def _key(self) -> tuple:
        return (type(self).__name__,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Tanh(_SmoothActivation):
    r"""Hyperbolic tangent."""

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        value = np.tanh(t)
        if order == 0:
            return value
        slope = (1.0 - value) * (1.0 + value)
        return slope if order == 1 else -2.0 * value * slope

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(1, _EMPTY, _EMPTY, _EMPTY)


class Softplus(_SmoothActivation):
    r"""Smooth rectifier :math:`\log(1 + e^t)`."""

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        if order == 0:
            return np.logaddexp(0.0, t)
        return expit(t) if order == 1 else expit(t) * expit(-t)

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(4, _EMPTY, _EMPTY, _EMPTY)


class Erf(_SmoothActivation):
    r"""Error function, with closed forms: with :math:`v = 1/(1 + 2s^2)`,

    .. math::
        a_{2j+1}(s) = \frac{2s\sqrt{v}}{\sqrt{\pi (2j+1)}}\,\frac{(2j-1)!!}{\sqrt{(2j)!}}\,(v-1)^j, \qquad
        E\,\sigma(s_1 G_1)\sigma(s_2 G_2)
        = \frac{2}{\pi} \arcsin \frac{2 s_1 s_2 \rho}{\sqrt{(1+2s_1^2)(1+2s_2^2)}} .
    """

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        if order == 0:
            return erf(t)
        slope = 2.0 / math.sqrt(math.pi) * np.exp(-t * t)
        return slope if order == 1 else -2.0 * t * slope

    def hermite_coefficients(self, s: ArrayLike, degree: int, order: int = 0) -> FloatArray:
        check_degree(degree, order)
        if order:
            return super().hermite_coefficients(s, degree, order)
        s = check_scale(s)
        v = 1.0 / (1.0 + 2.0 * s * s)
        a = np.zeros((degree + 1, *s.shape))
        term = 2.0 * s * np.sqrt(v / math.pi)
        for k in range(1, degree + 1, 2):
            a[k] = term / math.sqrt(k)
            term = term * (-2.0 * s * s * v) * math.sqrt(k / (k + 1.0))
        return a

    def pair_expectation(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> FloatArray:
        s1, s2, rho = check_scale(s1, "s1"), check_scale(s2, "s2"), np.asarray(rho, dtype=np.float64)
        if not np.all(np.abs(rho) <= 1.0):
            raise InvalidInput("rho is a correlation and must lie in [-1, 1]; clip rounding errors before the call")
        sine = 2.0 * s1 * s2 * rho / np.sqrt((1.0 + 2.0 * s1 * s1) * (1.0 + 2.0 * s2 * s2))
        return 2.0 / math.pi * np.arcsin(sine)

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(2, _EMPTY, _EMPTY, _EMPTY)


class Polynomial(Activation):
    r"""Polynomial :math:`\sigma(t) = \sum_n c_n t^n`; all averages are finite sums.

    .. math::
        a_k(s) = \sum_{m \ge 0} c_n s^n \frac{n!}{2^m m! \sqrt{k!}}, \quad n = k + 2m .

    Parameters
    ----------
    coefficients : array_like, shape (n + 1,)
        In increasing order of degree; at most degree 20.
    """

    def __init__(self, coefficients: ArrayLike) -> None:
        c = finite_array("coefficients", coefficients)
        if c.ndim != 1 or c.size == 0:
            raise InvalidInput(f"coefficients must be a 1-D array of length >= 1, got shape {c.shape}")
        used = np.flatnonzero(c)
        self._coefficients = c[: used[-1] + 1] if used.size else c[:1]
        if self._coefficients.size > 21:
            raise InvalidInput(f"degree {self._coefficients.size - 1} of the polynomial must be <= 20")
        self._coefficients.flags.writeable = False

    @property
    def coefficients(self) -> FloatArray:
        """Coefficients in increasing order, without trailing zeros (read-only)."""
        return self._coefficients

    @property
    def length_scale(self) -> float:
        return 1.0

    def value(self, t: ArrayLike) -> FloatArray:
        return cast(FloatArray, np.polynomial.polynomial.polyval(np.asarray(t, dtype=np.float64), self._coefficients))

    def derivative(self, t: ArrayLike) -> FloatArray:
        slope = np.polynomial.polynomial.polyder(self._coefficients)
        return cast(FloatArray, np.polynomial.polynomial.polyval(np.asarray(t, dtype=np.float64), slope))

    def _scaled(self, moments: FloatArray, s: FloatArray, order: int) -> FloatArray:
        """Return the derivative in ``s`` of ``sum_n c_n moments_n s^n``."""
        series = np.polynomial.polynomial.polyder(self._coefficients * moments, order)
        return cast(FloatArray, np.polynomial.polynomial.polyval(s, series))

    def gaussian_mean(self, s: ArrayLike, order: int = 0) -> FloatArray:
        return self.hermite_coefficients(s, 0, order)[0]

    def hermite_coefficients(self, s: ArrayLike, degree: int, order: int = 0) -> FloatArray:
        check_degree(degree, order)
        s = check_scale(s)
        a = np.zeros((degree + 1, *s.shape))
        size = self._coefficients.size
        for k in range(min(degree + 1, size)):
            moments = np.zeros(size)
            for m in range((size - 1 - k) // 2 + 1):
                n = k + 2 * m
                moments[n] = math.factorial(n) / (2**m * math.factorial(m)) / math.sqrt(math.factorial(k))
            a[k] = self._scaled(moments, s, order)
        return a

    def pair_expectation(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> FloatArray:
        rho = np.asarray(rho, dtype=np.float64)
        if not np.all(np.abs(rho) <= 1.0):
            raise InvalidInput("rho is a correlation and must lie in [-1, 1]; clip rounding errors before the call")
        degree = self._coefficients.size - 1
        a1, a2 = self.hermite_coefficients(s1, degree), self.hermite_coefficients(s2, degree)
        return sum((a1[k] * a2[k] * rho**k for k in range(degree + 1)), np.zeros(()))

    def sphere_mean(self, t: ArrayLike, dim: int, order: int = 0) -> FloatArray:
        check_order(order)
        moments = np.zeros(self._coefficients.size)
        moments[::2] = np.cumprod([1.0] + [(1.0 + 2.0 * i) / (dim + 2.0 * i) for i in range((moments.size - 1) // 2)])
        return self._scaled(moments, check_scale(t, "t"), order)

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(3, _EMPTY, self._coefficients.copy(), _EMPTY)

    def _key(self) -> tuple:
        return ("polynomial", *self._coefficients.tolist())

    def __repr__(self) -> str:
        return f"Polynomial({self._coefficients.tolist()})"


def _sphere_rule(dim: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Return about ``n`` nodes and weights, of sum 1, for the cosine of an angle between random directions.

    Gauss-Legendre panels in the latitude, whose density is a power of its cosine: smooth in every dimension >= 2, and
    cut where the power is below 1e-36.
    """
    z, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    panels = max(1, n // _PANEL_NODES)
    reach = min(0.5 * math.pi, _REACH / math.sqrt(max(dim - 2, 1)))
    latitude = reach * ((2.0 * np.arange(panels)[:, None] + 1.0 + z) / panels - 1.0).ravel()
    weights = np.tile(weights, panels) * np.exp((dim - 2) * np.log(np.cos(latitude)))
    return np.sin(latitude), weights / np.sum(weights)


def _phi(z: FloatArray) -> FloatArray:
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def _weighted_hermite(z: FloatArray, degree: int) -> FloatArray:
    """Return phi(z) he_k(z) for k = 0, ..., degree, shape (degree + 1, n)."""
    h = np.empty((degree + 1, z.size))
    previous, h[0] = np.zeros(z.size), _phi(z)
    for n in range(degree):
        h[n + 1] = (z * h[n] - math.sqrt(n) * previous) / math.sqrt(n + 1.0)
        previous = h[n]
    return h


def _trapezoid(weighted_sum: Callable[[FloatArray], FloatArray], width: int) -> FloatArray:
    """Return the integral over the line of a function given by its sum over nodes, halving the step until it settles.

    ``weighted_sum(z)`` returns the sum over the nodes ``z`` of the integrand; ``width`` is the number of values that
    it makes at each node, by which the nodes are cut into blocks.
    """
    size = max(1, _BLOCK // max(width, 1))

    def total(z: np.ndarray) -> FloatArray:
        return sum((weighted_sum(z[i : i + size]) for i in range(size, z.size, size)), weighted_sum(z[:size]))

    h = _FIRST_STEP
    result = h * total(h * np.arange(-int(_REACH / h), int(_REACH / h) + 1))
    for _ in range(_REFINEMENTS):
        midpoints = h * (np.arange(-int(_REACH / h), int(_REACH / h)) + 0.5)
        finer = 0.5 * (result + h * total(midpoints))
        if finer.size == 0 or np.max(np.abs(finer - result)) <= _TOLERANCE * max(1.0, np.max(np.abs(finer))):
            return finer
        h, result = 0.5 * h, finer
    raise ConvergenceError(f"a Gaussian average did not settle with {2 * _REACH / h:.0f} nodes; is s too large?")
