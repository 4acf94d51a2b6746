"""Smooth activation functions: exact averages where they exist, quadrature with a checked tolerance elsewhere."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf, expit, ndtr

from wgflow.errors import ConvergenceError, InvalidInput

from .base import (
    Activation,
    FloatArray,
    KernelActivation,
    check_correlation,
    check_degree,
    check_offset,
    check_order,
    check_orders,
    check_scale,
    finite_array,
    normal_density,
    upper_orthant,
)

__all__ = ["Erf", "Polynomial", "SmoothActivation", "Softplus", "Tanh"]

_TOLERANCE = 1e-13  # change between two refinements, relative to max(1, |result|)
_REACH = 13.0  # phi(z) he_k(z) is below exp(-z^2/4) = 1e-18 beyond it, as long as 2 sqrt(k) is smaller
_FIRST_STEP = 0.5  # of the trapezoidal rule
_REFINEMENTS = 10  # halvings of the step before an average counts as not settled
_PAIR_REACH = 9.0  # the same without Hermite polynomials: phi(z) is below 1e-18 beyond it
_PAIR_DEGREE = 40  # of the Mehler series of a pair; pairs that need more are integrated over the plane
_BLOCK = 1 << 20  # numbers per temporary array
_PANEL_NODES = 16  # Gauss-Legendre nodes of each panel of a spherical average
_EMPTY = np.zeros(0)


class SmoothActivation(Activation):
    r"""An activation given by :math:`\sigma, \sigma', \sigma''`, averaged numerically.

    Gaussian averages use the trapezoidal rule on the line, which converges geometrically for functions analytic in a
    strip and, unlike Gauss-Hermite rules, keeps doing so when ``s`` makes the activation steep. The step is halved
    until two results agree to 1e-13. Spherical averages use Gauss-Legendre panels in the latitude, whose number is
    doubled in the same way.
    """

    @abstractmethod
    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        """Return the derivative of order 0, 1 or 2."""

    def _tolerance(self, order: int, reach: float) -> float:
        """Return what two refinements may differ by where a derivative is averaged at arguments of a size."""
        return _TOLERANCE

    def value(self, t: ArrayLike) -> FloatArray:
        return self._evaluate(np.asarray(t, dtype=np.float64), 0)

    def derivative(self, t: ArrayLike) -> FloatArray:
        return self._evaluate(np.asarray(t, dtype=np.float64), 1)

    @property
    def length_scale(self) -> float:
        return 1.0

    def gaussian_mean(self, s: ArrayLike, order: int = 0, *, offset: ArrayLike = 0.0) -> FloatArray:
        return self.hermite_coefficients(s, 0, order, offset=offset)[0]

    def hermite_coefficients(
        self, s: ArrayLike, degree: int, order: int = 0, *, offset: ArrayLike = 0.0, offset_order: int = 0
    ) -> FloatArray:
        check_degree(degree, order)
        scale, b = np.broadcast_arrays(check_scale(s), check_offset(offset))
        check_orders(np.ones(()), order, offset_order)
        if 4 * degree > _REACH**2:
            raise InvalidInput(f"degree={degree} is more than quadrature resolves for {self!r}; use degree <= 42")
        flat, shift = scale.ravel(), b.ravel()

        def integrand(z: FloatArray) -> FloatArray:
            values = self._evaluate(z[:, None] * flat + shift, order + offset_order) * (z**order)[:, None]
            return np.einsum("kz,zs->ks", _weighted_hermite(z, degree), values)

        reach = float(np.max(flat, initial=0.0) + np.max(np.abs(shift), initial=0.0))
        tolerance = self._tolerance(order + offset_order, reach)
        return _trapezoid(integrand, flat.size, tolerance).reshape(degree + 1, *scale.shape)

    def pair_expectation(
        self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike, *, offset1: ArrayLike = 0.0, offset2: ArrayLike = 0.0
    ) -> FloatArray:
        b1, b2 = check_offset(offset1, "offset1"), check_offset(offset2, "offset2")
        scales = check_scale(s1, "s1"), check_scale(s2, "s2")
        shape = np.broadcast_shapes(*(x.shape for x in (*scales, b1, b2)), np.shape(rho))
        s1, s2, rho, b1, b2 = (np.broadcast_to(x, shape).ravel() for x in (*scales, check_correlation(rho), b1, b2))
        result = np.empty(rho.size)
        one = np.abs(rho) == 1.0
        result[one] = self._product_mean(s1[one], b1[one], rho[one] * s2[one], b2[one])
        rest = np.flatnonzero(~one)
        a1 = self.hermite_coefficients(s1[rest], _PAIR_DEGREE, offset=b1[rest])
        a2 = self.hermite_coefficients(s2[rest], _PAIR_DEGREE, offset=b2[rest])
        power = rho[rest] ** np.arange(_PAIR_DEGREE + 1.0)[:, None]
        result[rest] = np.sum(a1 * a2 * power, axis=0)
        # By the Cauchy-Schwarz inequality the truncated terms are below |rho|^(degree + 1) (m1 m2)^(1/2), where m are
        # the parts of the second moments beyond the degree; these are known only up to rounding.
        moments = [self._product_mean(s[rest], b[rest], s[rest], b[rest]) for s, b in ((s1, b1), (s2, b2))]
        left = [np.maximum(m - np.sum(a * a, axis=0), 0.0) + 1e-15 * m for m, a in zip(moments, (a1, a2))]
        error = np.abs(rho[rest]) ** (_PAIR_DEGREE + 1) * np.sqrt(left[0] * left[1])
        far = rest[error > _TOLERANCE * np.maximum(1.0, np.sqrt(moments[0] * moments[1]))]
        if far.size:
            result[far] = self._plane_means(s1[far], b1[far], s2[far], b2[far], rho[far])
        return result.reshape(shape)

    def _product_mean(self, s1: FloatArray, b1: FloatArray, s2: FloatArray, b2: FloatArray) -> FloatArray:
        """Return E sigma(s1 G + b1) sigma(s2 G + b2) with one and the same G."""

        def integrand(z: FloatArray) -> FloatArray:
            first = self._evaluate(z[:, None] * s1 + b1, 0)
            return normal_density(z) @ (first * self._evaluate(z[:, None] * s2 + b2, 0))

        return _trapezoid(integrand, s1.size, _TOLERANCE)

    def _plane_means(
        self, s1: FloatArray, b1: FloatArray, s2: FloatArray, b2: FloatArray, rho: FloatArray
    ) -> FloatArray:
        """Return pair expectations by the trapezoidal rule on the plane, halving the step of those not settled."""
        root = np.sqrt((1.0 - rho) * (1.0 + rho))

        def rule(pairs: np.ndarray, h: float) -> FloatArray:
            n = int(_PAIR_REACH / h)
            z = h * np.arange(-n, n + 1.0)
            weights = h * normal_density(z)
            means, size = np.empty(pairs.size), max(1, _BLOCK // z.size**2)
            for i in range(0, pairs.size, size):
                p = pairs[i : i + size, None]
                first = weights * self._evaluate(s1[p] * z + b1[p], 0)
                mixed = self._evaluate((s2 * rho)[p, None] * z[:, None] + (s2 * root)[p, None] * z + b2[p, None], 0)
                means[i : i + size] = np.sum(first * np.sum(weights * mixed, axis=2), axis=1)
            return means

        result, pairs, h = np.empty(rho.size), np.arange(rho.size), _FIRST_STEP
        result[:] = rule(pairs, h)
        for _ in range(_REFINEMENTS):
            h *= 0.5
            finer = rule(pairs, h)
            moved = np.abs(finer - result[pairs]) > _TOLERANCE * np.maximum(1.0, np.abs(finer))
            result[pairs] = finer
            pairs = pairs[moved]
            if not pairs.size:
                return result
        worst = max(np.max(s1[pairs]), np.max(s2[pairs]))
        raise ConvergenceError(f"a pair expectation of {self!r} did not converge; is s = {worst:g} too large?")

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
        tolerance = self._tolerance(order, float(np.max(flat, initial=0.0)))
        while flat.size:
            finer = rule(n)
            if np.max(np.abs(finer - result)) <= tolerance * max(1.0, np.max(np.abs(finer))):
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


class Tanh(SmoothActivation):
    r"""Hyperbolic tangent."""

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        value = np.tanh(t)
        if order == 0:
            return value
        slope = (1.0 - value) * (1.0 + value)
        return slope if order == 1 else -2.0 * value * slope

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(1, _EMPTY, _EMPTY, _EMPTY)


class Softplus(SmoothActivation):
    r"""Smooth rectifier :math:`\log(1 + e^t)`."""

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        if order == 0:
            return np.logaddexp(0.0, t)
        return expit(t) if order == 1 else expit(t) * expit(-t)

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(4, _EMPTY, _EMPTY, _EMPTY)


class Erf(SmoothActivation):
    r"""Error function, with closed forms: with :math:`c = \sqrt{1 + 2s^2}` and :math:`x = \sqrt2\, b/c`,

    .. math::
        q(s, b) = \operatorname{erf}(b/c), \qquad
        a_k(s, b) = \frac{2 (-1)^{k-1}}{\sqrt k} \Bigl(\frac{\sqrt2\, s}{c}\Bigr)^k \phi(x)\, he_{k-1}(x)
        \quad (k \ge 1),

    and pair expectations are bivariate normal probabilities; without offsets
    :math:`\frac{2}{\pi} \arcsin (2 s_1 s_2 \rho / (c_1 c_2))`.
    """

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        if order == 0:
            return erf(t)
        slope = 2.0 / math.sqrt(math.pi) * np.exp(-t * t)
        return slope if order == 1 else -2.0 * t * slope

    def hermite_coefficients(
        self, s: ArrayLike, degree: int, order: int = 0, *, offset: ArrayLike = 0.0, offset_order: int = 0
    ) -> FloatArray:
        check_degree(degree, order)
        s, b = np.broadcast_arrays(check_scale(s), check_offset(offset))
        check_orders(np.ones(()), order, offset_order)
        if order == 1 and offset_order == 0:
            slopes = self.hermite_coefficients(s, degree + 1, offset=b, offset_order=1)
            k = np.arange(degree + 1.0).reshape((-1,) + (1,) * s.ndim)
            below = np.concatenate([np.zeros_like(slopes[:1]), slopes[:degree]])
            return np.sqrt(k) * below + np.sqrt(k + 1.0) * slopes[1:]
        if order:
            return super().hermite_coefficients(s, degree, order, offset=b, offset_order=offset_order)
        root = np.sqrt(1.0 + 2.0 * s * s)
        x, shrink = math.sqrt(2.0) * b / root, math.sqrt(2.0) * s / root
        a = np.empty((degree + 1, *s.shape))
        a[0] = erf(b / root)
        factor = (shrink, math.sqrt(2.0) / root, 2.0 / root**2)[offset_order]
        # phi(x) he_n(x) with its sign and its power of shrink, n = k + offset_order - 1.
        previous, current = np.zeros(s.shape), 2.0 * normal_density(x)
        if offset_order == 2:
            previous, current = current, -x * current
        for row in range(1 if offset_order == 0 else 0, degree + 1):
            n = row + offset_order - 1
            norm = (1.0 / math.sqrt(n + 1.0), 1.0, math.sqrt(n))[offset_order]
            a[row] = norm * factor * current
            previous, current = shrink * current, shrink * (-x * current - math.sqrt(n) * previous) / math.sqrt(n + 1.0)
        return a

    def pair_expectation(
        self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike, *, offset1: ArrayLike = 0.0, offset2: ArrayLike = 0.0
    ) -> FloatArray:
        s1, s2, rho = check_scale(s1, "s1"), check_scale(s2, "s2"), check_correlation(rho)
        b1, b2 = check_offset(offset1, "offset1"), check_offset(offset2, "offset2")
        c1, c2 = np.sqrt(1.0 + 2.0 * s1 * s1), np.sqrt(1.0 + 2.0 * s2 * s2)
        sine = 2.0 * s1 * s2 * rho / (c1 * c2)
        if not (np.any(b1) or np.any(b2)):
            return 2.0 / math.pi * np.arcsin(sine)
        h, k, sine = np.broadcast_arrays(-math.sqrt(2.0) * b1 / c1, -math.sqrt(2.0) * b2 / c2, sine)
        both = upper_orthant(h, k, sine, np.sqrt((1.0 - sine) * (1.0 + sine)))
        return 4.0 * both - 2.0 * ndtr(-h) - 2.0 * ndtr(-k) + 1.0

    def pair_slopes(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> tuple[FloatArray, FloatArray]:
        s1, s2, rho = check_scale(s1, "s1"), check_scale(s2, "s2"), check_correlation(rho)
        c1, cross = 1.0 + 2.0 * s1 * s1, 2.0 * s1 * s2 * rho
        both = 4.0 / math.pi / np.sqrt(c1 * (1.0 + 2.0 * s2 * s2) - cross * cross)
        return -cross / c1 * both, both

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(2, _EMPTY, _EMPTY, _EMPTY)


class Polynomial(Activation):
    r"""Polynomial :math:`\sigma(t) = \sum_n c_n t^n`; all averages are finite sums.

    .. math::
        a_k(s, b) = \sum_{m \ge 0} \frac{s^n \sigma^{(n)}(b)}{2^m m! \sqrt{k!}}, \quad n = k + 2m .

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

    def gaussian_mean(self, s: ArrayLike, order: int = 0, *, offset: ArrayLike = 0.0) -> FloatArray:
        return self.hermite_coefficients(s, 0, order, offset=offset)[0]

    def hermite_coefficients(
        self, s: ArrayLike, degree: int, order: int = 0, *, offset: ArrayLike = 0.0, offset_order: int = 0
    ) -> FloatArray:
        check_degree(degree, order)
        s, b = np.broadcast_arrays(check_scale(s), check_offset(offset))
        check_orders(np.ones(()), order, offset_order)
        polynomial = np.polynomial.polynomial
        a = np.zeros((degree + 1, *s.shape))
        for n in range(order, self._coefficients.size - offset_order):
            # The n-th Taylor coefficient at b, times the derivative of s^n.
            taylor = polynomial.polyval(b, polynomial.polyder(self._coefficients, n + offset_order))
            power = taylor * math.perm(n, order) * s ** (n - order)
            for k in range(n % 2, min(n, degree) + 1, 2):
                m = (n - k) // 2
                a[k] += power / (2.0**m * math.factorial(m) * math.sqrt(math.factorial(k)))
        return a

    def pair_expectation(
        self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike, *, offset1: ArrayLike = 0.0, offset2: ArrayLike = 0.0
    ) -> FloatArray:
        rho = check_correlation(rho)
        degree = self._coefficients.size - 1
        a1 = self.hermite_coefficients(s1, degree, offset=check_offset(offset1, "offset1"))
        a2 = self.hermite_coefficients(s2, degree, offset=check_offset(offset2, "offset2"))
        return sum((a1[k] * a2[k] * rho**k for k in range(degree + 1)), np.zeros(()))

    def pair_slopes(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> tuple[FloatArray, FloatArray]:
        rho, degree = check_correlation(rho), self._coefficients.size - 1
        plain, other = (self.hermite_coefficients(s2, degree, offset_order=k) for k in (0, 1))
        first, second = (self.hermite_coefficients(s1, degree, offset_order=k) for k in (1, 2))
        powers = [rho**k for k in range(degree + 1)]
        return (sum((second[k] * plain[k] * powers[k] for k in range(degree + 1)), np.zeros(())),
                sum((first[k] * other[k] * powers[k] for k in range(degree + 1)), np.zeros(())))

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


def _weighted_hermite(z: FloatArray, degree: int) -> FloatArray:
    """Return phi(z) he_k(z) for k = 0, ..., degree, shape (degree + 1, n)."""
    h = np.empty((degree + 1, z.size))
    previous, h[0] = np.zeros(z.size), normal_density(z)
    for n in range(degree):
        h[n + 1] = (z * h[n] - math.sqrt(n) * previous) / math.sqrt(n + 1.0)
        previous = h[n]
    return h


def _trapezoid(weighted_sum: Callable[[FloatArray], FloatArray], width: int, tolerance: float) -> FloatArray:
    """Return the integral over the line of a function given by its sum over nodes, halving the step until it converges.

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
        if finer.size == 0 or np.max(np.abs(finer - result)) <= tolerance * max(1.0, np.max(np.abs(finer))):
            return finer
        h, result = 0.5 * h, finer
    raise ConvergenceError(f"a Gaussian average did not converge with {2 * _REACH / h:.0f} nodes; is s too large?")
