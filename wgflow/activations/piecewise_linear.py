"""Piecewise-linear activations: sums of hinges, for which every Gaussian average has a closed form."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import beta, betainc, ndtr

from wgflow.errors import InvalidInput

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
    residual,
    upper_orthant,
)

__all__ = ["NonMonotone", "PiecewiseLinear", "Ramp", "ReLU"]

_FAR = 40.0  # phi(40) underflows: standardized knots beyond it have reached their limit
_KNOTS_SHOWN = 16  # more of them are not printed one by one
_TINY = 1e-300  # stands for s = 0, so that every limit follows from the clipped knots


class PiecewiseLinear(Activation):
    r"""Continuous piecewise-linear activation through given points.

    .. math::
        \sigma(t) = c_0 + c_1 t + \sum_j m_j (t - t_j)_+ ,

    linear between the knots :math:`t_j` and with given slopes (0 by default) beyond the ends. With
    :math:`z_j = t_j/s`,

    .. math::
        q'(s) = \sum_j m_j \phi(z_j), \qquad
        a_k(s) = \frac{s}{\sqrt{k(k-1)}} \sum_j m_j \phi(z_j)\, he_{k-2}(z_j) \quad (k \ge 2),

    and pair expectations are sums over pairs of hinges through the bivariate normal distribution (Owen's T). All
    formulas hold at ``s = 0`` as limits. Rounding errors are of the order of machine precision times ``s`` in
    :math:`a_k, k \ge 1`, and times ``s1 s2`` in pair expectations.

    Parameters
    ----------
    knots : array_like, shape (n,)
        Break points, strictly increasing, ``n >= 1``.
    values : array_like, shape (n,)
        Values at the knots.
    left_slope, right_slope : float
        Slopes below the first and above the last knot. The table of a function that grows needs them: with 0 it is
        constant there.

    Raises
    ------
    InvalidInput
        If the knots do not increase strictly, lengths differ, or something is not finite.

    Examples
    --------
    >>> sigma = PiecewiseLinear([-1.0, 1.0], [0.0, 2.0])
    >>> float(sigma(0.5)), float(sigma.gaussian_mean(1.0))
    (1.5, 1.0)
    """

    def __init__(self, knots: ArrayLike, values: ArrayLike, left_slope: float = 0.0, right_slope: float = 0.0):
        t, v = finite_array("knots", knots), finite_array("values", values)
        ends = finite_array("left_slope and right_slope", [left_slope, right_slope])
        if t.ndim != 1 or t.size == 0 or v.shape != t.shape:
            raise InvalidInput(f"knots and values must be 1-D and of one length >= 1, got shapes {t.shape}, {v.shape}")
        if np.any(np.diff(t) <= 0.0):
            i = int(np.argmax(np.diff(t) <= 0.0))
            raise InvalidInput(f"knots must increase strictly: knots[{i + 1}]={t[i + 1]} <= knots[{i}]={t[i]}")
        self._knots, self._values = t + 0.0, v  # + 0.0: no negative zero, which would change signs in divisions
        self._slopes = np.concatenate([ends[:1], np.diff(v) / np.diff(t), ends[1:]])
        anchor = np.concatenate([t[:1], t])  # a knot on each piece
        self._intercepts = np.concatenate([v[:1], v]) - self._slopes * anchor
        self._jumps = np.diff(self._slopes)
        for array in (self._knots, self._values, self._slopes, self._intercepts, self._jumps):
            array.flags.writeable = False

    @property
    def knots(self) -> FloatArray:
        """Break points (read-only)."""
        return self._knots

    @property
    def slopes(self) -> FloatArray:
        """Slopes of the ``n + 1`` pieces (read-only)."""
        return self._slopes

    @property
    def length_scale(self) -> float:
        """Largest absolute knot, or 1 where the only knot is 0 and the activation has no scale."""
        scale = float(np.max(np.abs(self._knots)))
        return scale if scale > 0.0 else 1.0

    def value(self, t: ArrayLike) -> FloatArray:
        x = np.asarray(t, dtype=np.float64)
        piece = np.searchsorted(self._knots, x, side="left")
        # Relative to a knot of the same piece: exact at the knots, no cancellation of intercepts.
        anchor = np.maximum(piece - 1, 0)
        return self._values[anchor] + self._slopes[piece] * (x - self._knots[anchor])

    def derivative(self, t: ArrayLike) -> FloatArray:
        return self._slopes[np.searchsorted(self._knots, np.asarray(t, dtype=np.float64), side="left")]

    def _standardized(self, s: FloatArray, offset: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ``s`` bounded away from 0 and the knots ``z_j = (t_j - b) / s``, shape (n, *s.shape), clipped."""
        safe = np.maximum(s, _TINY)
        with np.errstate(over="ignore"):
            z = (self._knots.reshape((-1,) + (1,) * s.ndim) - offset) / safe
        return safe, np.clip(z, -_FAR, _FAR)

    def gaussian_mean(self, s: ArrayLike, order: int = 0, *, offset: ArrayLike = 0.0) -> FloatArray:
        check_order(order)
        s, b = np.broadcast_arrays(check_scale(s), check_offset(offset))
        s, z = self._standardized(s, b)
        jumps = self._column(self._jumps, z)
        if order == 1:
            return np.sum(jumps * normal_density(z), axis=0)
        if order == 2:
            return np.sum(jumps * normal_density(z) * z**2, axis=0) / s
        return self._mean(s, z, b)

    def _mean(self, s: FloatArray, z: FloatArray, b: FloatArray) -> FloatArray:
        # A sum over pieces, not hinges: differences of phi stay accurate where the sum of s phi(z_j) would cancel.
        slopes, intercepts = self._column(self._slopes, z), self._column(self._intercepts, z)
        phi = normal_density(z)
        spread = np.concatenate([-phi[:1], _phi_drop(z[:-1], z[1:]), phi[-1:]])
        return np.sum((intercepts + slopes * b) * self._piece_probabilities(z) + slopes * s * spread, axis=0)

    @staticmethod
    def _column(array: FloatArray, z: FloatArray) -> FloatArray:
        return array.reshape((-1,) + (1,) * (z.ndim - 1))

    @staticmethod
    def _piece_probabilities(z: FloatArray) -> FloatArray:
        """Return the probability that ``sG + b`` lies on each of the ``n + 1`` pieces."""
        upper = z[:-1] > 0.0  # differences of the smaller tail: no cancellation near 1
        inner = np.where(upper, ndtr(-z[:-1]) - ndtr(-z[1:]), ndtr(z[1:]) - ndtr(z[:-1]))
        return np.concatenate([ndtr(z[:1]), inner, ndtr(-z[-1:])])

    def hermite_coefficients(
        self, s: ArrayLike, degree: int, order: int = 0, *, offset: ArrayLike = 0.0, offset_order: int = 0
    ) -> FloatArray:
        check_degree(degree, order)
        scale, b = np.broadcast_arrays(check_scale(s), check_offset(offset))
        check_orders(scale, order, offset_order)
        s, z = self._standardized(scale, b)
        if order == offset_order == 0:
            a = np.empty((degree + 1, *s.shape))
            a[0] = self._mean(s, z, b)
            if degree:
                k = self._column(np.arange(1.0, degree + 1.0), z)
                a[1:] = s * self._slope_coefficients(z, degree - 1) / np.sqrt(k)
            return a
        more = {(1, 0): 1, (2, 0): 3, (0, 1): 0, (0, 2): 1, (1, 1): 2}[order, offset_order]
        slopes = self._slope_coefficients(z, degree + more)
        k = self._column(np.arange(slopes.shape[0], dtype=np.float64), z)
        if offset_order == 2:  # D_k' = sqrt(k+1) D_{k+1} / s
            return np.sqrt(k[1:]) * slopes[1:] / s
        if order + offset_order == 2:  # s dD_k/ds = k D_k + sqrt((k+1)(k+2)) D_{k+2}
            slopes = (k[:-2] * slopes[:-2] + np.sqrt(k[1:-1] * k[2:]) * slopes[2:]) / s
        if offset_order == 1:
            return slopes
        k = k[: degree + 1]
        below = np.concatenate([np.zeros_like(slopes[:1]), slopes[:degree]])
        return np.sqrt(k) * below + np.sqrt(k + 1.0) * slopes[1 : degree + 2]

    def _slope_coefficients(self, z: FloatArray, degree: int) -> FloatArray:
        """Return D_k = E sigma'(sG + b) he_k(G), k = 0, ..., ``degree``, from the standardized knots."""
        slopes = np.empty((degree + 1, *z.shape[1:]))
        slopes[0] = np.sum(self._column(self._slopes, z) * self._piece_probabilities(z), axis=0)
        jumps = self._column(self._jumps, z)
        previous, current = np.zeros_like(z), normal_density(z)  # phi(z) he_n(z), n = -1, 0: the recursion is stable
        for k in range(1, degree + 1):
            slopes[k] = np.sum(jumps * current, axis=0) / np.sqrt(k)
            previous, current = current, (z * current - np.sqrt(k - 1.0) * previous) / np.sqrt(k)
        return slopes

    def pair_expectation(
        self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike, *, offset1: ArrayLike = 0.0, offset2: ArrayLike = 0.0
    ) -> FloatArray:
        b1, b2 = check_offset(offset1, "offset1"), check_offset(offset2, "offset2")
        scales = check_scale(s1, "s1"), check_scale(s2, "s2")
        s1, s2, rho, b1, b2 = np.broadcast_arrays(*scales, check_correlation(rho), b1, b2)
        s1, z1 = self._standardized(s1, b1)
        s2, z2 = self._standardized(s2, b2)
        knots = self._column(self._knots, z1)
        t1, t2 = knots - b1, knots - b2
        c1, c0 = self._slopes[0], self._intercepts[0]
        line1, line2 = c0 + c1 * b1, c0 + c1 * b2
        hinge1, hinge2 = self._hinge_means(s1, z1, t1), self._hinge_means(s2, z2, t2)
        total = line1 * line2 + line1 * hinge2 + line2 * hinge1 + c1**2 * s1 * s2 * rho
        if c1 != 0.0:  # E G1 g(G2) = rho E g'(G2)
            active = np.sum(self._column(self._jumps, z1) * (ndtr(-z1) + ndtr(-z2)), axis=0)
            total = total + c1 * s1 * s2 * rho * active
        for i, mi in enumerate(self._jumps):
            for j, mj in enumerate(self._jumps):
                pair = _hinge_pair(t1[i], t2[j], s1, s2, z1[i], z2[j], rho)
                total = total + mi * mj * pair
        return total

    def pair_slopes(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> tuple[FloatArray, FloatArray]:
        s1, s2, rho = np.broadcast_arrays(check_scale(s1, "s1"), check_scale(s2, "s2"), check_correlation(rho))
        (s1, h), (s2, k) = (self._standardized(s, np.zeros(())) for s in (s1, s2))
        root = np.sqrt((1.0 - rho) * (1.0 + rho))
        slope = self._slopes[0]
        bent, both = np.zeros(rho.shape), np.full(rho.shape, slope**2)
        for i, mi in enumerate(self._jumps):
            # sigma'' is a point mass at each knot; given Z_1 there, Z_2 is normal.
            mean = self.gaussian_mean(s2 * root, offset=s2 * rho * h[i])
            bent = bent + mi * normal_density(h[i]) / s1 * mean
            both = both + slope * mi * (ndtr(-h[i]) + ndtr(-k[i]))
            for j, mj in enumerate(self._jumps):
                both = both + mi * mj * _orthant(h[i], k[j], rho, root)
        return bent, both

    def _hinge_means(self, s: FloatArray, z: FloatArray, t: FloatArray) -> FloatArray:
        """Return ``sum_j m_j E(sG - t_j)_+``."""
        return np.sum(self._column(self._jumps, z) * (s * normal_density(z) - t * ndtr(-z)), axis=0)

    def sphere_mean(self, t: ArrayLike, dim: int, order: int = 0) -> FloatArray:
        check_order(order)
        t = check_scale(t, "t")
        if dim == 1 and order == 2:
            raise InvalidInput("order=2 does not exist for a piecewise-linear activation at dim=1; use dim >= 2")
        knots = self._column(self._knots, np.empty((self._knots.size, *t.shape)))
        hinges = (_hinge_two_points if dim == 1 else _hinge_sphere)(knots, np.maximum(t, _TINY), dim, order)
        return (self._intercepts[0] if order == 0 else 0.0) + np.sum(self._column(self._jumps, knots) * hinges, axis=0)

    def kernel_arguments(self) -> KernelActivation:
        return KernelActivation(0, self._knots.copy(), self._slopes.copy(), self._intercepts.copy())

    def _key(self) -> tuple:
        # Knots without a change of slope do not change the function.
        bends = self._jumps != 0.0
        shape = (tuple(self._knots[bends]), tuple(self._jumps[bends]), self._slopes[0], self._intercepts[0])
        return ("piecewise linear", *shape)

    def __repr__(self) -> str:
        ends = ""
        if self._slopes[0] or self._slopes[-1]:
            ends = f", left_slope={self._slopes[0]:g}, right_slope={self._slopes[-1]:g}"
        if self._knots.size > _KNOTS_SHOWN:
            # Runs that are kept in files are known by this text: it tells any two tables apart.
            table = hashlib.sha256(np.concatenate([self._knots, self._values]).tobytes()).hexdigest()[:16]
            return (f"PiecewiseLinear(<{self._knots.size} knots from {self._knots[0]:g} to {self._knots[-1]:g}, "
                    f"sha256 {table}>{ends})")
        return f"PiecewiseLinear(knots={self._knots.tolist()}, values={self._values.tolist()}{ends})"


class Ramp(PiecewiseLinear):
    r"""The truncated ReLU of the isotropic-Gaussian experiment: -2.5 up to 0.5, 7.5 from 1.5 on, linear between."""

    def __init__(self) -> None:
        super().__init__([0.5, 1.5], [-2.5, 7.5])

    def __repr__(self) -> str:
        return "Ramp()"


class NonMonotone(PiecewiseLinear):
    r"""The activation that makes SGD fail from small weights: -2.5 up to 0, -4 at 0.5, 7.5 from 1.5 on."""

    def __init__(self) -> None:
        super().__init__([0.0, 0.5, 1.5], [-2.5, -4.0, 7.5])

    def __repr__(self) -> str:
        return "NonMonotone()"


class ReLU(PiecewiseLinear):
    r"""Rectifier :math:`\sigma(t) = (t + b)_+` with offset ``b``."""

    def __init__(self, offset: float = 0.0) -> None:
        self._offset = float(finite_array("offset", offset))
        super().__init__([-self._offset], [0.0], right_slope=1.0)

    def __repr__(self) -> str:
        return f"ReLU(offset={self._offset:g})" if self._offset else "ReLU()"


def _orthant(h: FloatArray, k: FloatArray, rho: FloatArray, root: FloatArray) -> FloatArray:
    """Return P(X > h, Y > k) at any correlation in [-1, 1]."""
    inside = root > 0.0
    general = upper_orthant(h, k, np.where(inside, rho, 0.0), np.where(inside, root, 1.0))
    line = np.where(rho > 0.0, ndtr(-np.maximum(h, k)), np.maximum(ndtr(-k) - ndtr(h), 0.0))
    return np.where(inside, general, line)


def _phi_drop(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return ``phi(a) - phi(b)`` without cancellation."""
    gap = 0.5 * (b - a) * (b + a)
    nearer = np.where(gap >= 0.0, a, b)
    return np.sign(gap) * normal_density(nearer) * -np.expm1(-np.abs(gap))


def _hinge_pair(
    ti: float, tj: float, s1: FloatArray, s2: FloatArray, h: FloatArray, k: FloatArray, rho: FloatArray
) -> FloatArray:
    """Return E(s1 X - ti)_+ (s2 Y - tj)_+ for standard normals of correlation ``rho``; h = ti/s1, k = tj/s2 clipped."""
    inside = np.abs(rho) < 1.0
    r = np.where(inside, rho, 0.0)
    root = np.sqrt((1.0 - r) * (1.0 + r))
    gap = residual(k, h, r) / root
    value = (
        (r * s1 * s2 + ti * tj) * upper_orthant(h, k, r, root)
        - s1 * tj * normal_density(h) * ndtr(-gap)
        - s2 * ti * normal_density(k) * ndtr(-residual(h, k, r) / root)
        + s1 * s2 * root * normal_density(h) * normal_density(np.clip(gap, -_FAR, _FAR))
    )
    if np.all(inside):
        return value
    m = np.maximum(h, k)
    plus = (s1 * s2 + ti * tj) * ndtr(-m) + (s1 * s2 * m - ti * s2 - tj * s1) * normal_density(m)
    mass = np.where(h > 0.0, ndtr(-h) - ndtr(k), ndtr(-k) - ndtr(h))
    minus = (ti * tj - s1 * s2) * mass - tj * s1 * normal_density(h) - ti * s2 * normal_density(k)
    return np.where(inside, value, np.where(rho > 0.0, plus, np.where(h < -k, minus, 0.0)))


def _hinge_sphere(k: FloatArray, t: FloatArray, dim: int, order: int) -> FloatArray:
    """Return the derivatives in ``t`` of E(t c - k)_+ for c of density proportional to (1 - c^2)^((dim-3)/2)."""
    with np.errstate(over="ignore"):
        u = np.clip(k / t, -1.0, 1.0)
    half, constant = 0.5 * (dim - 1), beta(0.5, 0.5 * (dim - 1))
    side = (1.0 - u) * (1.0 + u)
    if order == 2:
        with np.errstate(divide="ignore"):
            return np.where(side > 0.0, u * u * side ** (half - 1.0) / (constant * t), 0.0)
    slope = side**half / (2.0 * half * constant)
    if order == 1:
        return slope
    tail = 0.5 * betainc(half, 0.5, side)
    return t * slope - k * np.where(u >= 0.0, tail, 1.0 - tail)


def _hinge_two_points(k: FloatArray, t: FloatArray, dim: int, order: int) -> FloatArray:
    """Return the same for dim = 1, where c = +-1."""
    if order == 1:
        return 0.5 * ((t > k).astype(np.float64) - (-t > k))
    return 0.5 * (np.maximum(t - k, 0.0) + np.maximum(-t - k, 0.0))
