"""The base class of activation functions: values, Gaussian and spherical averages, Hermite coefficients."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, owens_t

from wgflow.checks import check_count, described, real_array
from wgflow.contracts import Contract
from wgflow.errors import InvalidInput, InvalidType

__all__ = [
    "Activation",
    "KernelActivation",
    "check_activation",
    "check_correlation",
    "check_degree",
    "check_offset",
    "check_order",
    "check_orders",
    "check_scale",
    "finite_array",
    "normal_density",
    "residual",
    "upper_orthant",
]

FloatArray = NDArray[np.float64]


class KernelActivation(NamedTuple):
    """An activation as plain data for compiled functions, which never take a Python function.

    ``code`` selects the formula (0 piecewise linear, 1 tanh, 2 erf, 3 polynomial, 4 softplus, 5 cubics). For code 0,
    ``sigma(t) = intercepts[i] + slopes[i] t`` on piece ``i``, the number of knots below ``t``. For code 3, ``slopes``
    holds the coefficients in increasing order. For code 5, ``knots`` holds the ends of the table and the slopes of the
    straight lines beyond them, ``slopes`` and ``intercepts`` the slopes and values at even distances between the ends.
    """

    code: int
    knots: FloatArray
    slopes: FloatArray
    intercepts: FloatArray


class Activation(Contract):
    r"""An activation :math:`\sigma` of one real variable and its exact averages.

    With :math:`G` standard Gaussian, :math:`he_k` the orthonormal Hermite polynomials and :math:`c` the first
    coordinate of a uniform point of the sphere :math:`S^{d-1}`, the reduced models need

    .. math::
        q(s, b) = E\,\sigma(sG + b), \quad a_k(s, b) = E\,\sigma(sG + b)\,he_k(G), \quad
        E\,\sigma(s_1 G_1 + b_1)\,\sigma(s_2 G_2 + b_2) = \sum_k a_k(s_1, b_1)\, a_k(s_2, b_2)\, \rho^k, \quad
        E\,\sigma(t c),

    where :math:`b` is the offset of a neuron, 0 unless it is given.

    Activations are immutable, compare equal when they are the same function, and can be called.
    """

    def __call__(self, t: ArrayLike) -> FloatArray:
        """Return :math:`\\sigma(t)`."""
        return self.value(t)

    @abstractmethod
    def value(self, t: ArrayLike) -> FloatArray:
        """Return :math:`\\sigma(t)`, of the shape of ``t``."""

    @abstractmethod
    def derivative(self, t: ArrayLike) -> FloatArray:
        """Return :math:`\\sigma'(t)`; at a kink, the slope on its left."""

    @abstractmethod
    def gaussian_mean(self, s: ArrayLike, order: int = 0, *, offset: ArrayLike = 0.0) -> FloatArray:
        """Return :math:`q(s, b) = E\\,\\sigma(sG + b)` or its derivative of order 1 or 2 in ``s``, for ``s >= 0``."""

    @abstractmethod
    def hermite_coefficients(
        self, s: ArrayLike, degree: int, order: int = 0, *, offset: ArrayLike = 0.0, offset_order: int = 0
    ) -> FloatArray:
        r"""Return :math:`a_0(s, b), ..., a_{degree}(s, b)` or their derivatives.

        With the coefficients :math:`D_k = \partial_b a_k = E\,\sigma'(sG + b)\,he_k(G)` of the derivative,

        .. math:: a_k = s D_{k-1} / \sqrt k \quad (k \ge 1), \qquad
                  \partial_s a_k = \sqrt k\, D_{k-1} + \sqrt{k+1}\, D_{k+1} .

        Parameters
        ----------
        s : array_like
            Standard deviations, ``s >= 0`` (``s > 0`` for two derivatives).
        degree : int
            Highest ``k``.
        order : {0, 1, 2}
            Number of derivatives in ``s``.
        offset : array_like
            The offsets ``b``, which broadcast with ``s``.
        offset_order : {0, 1, 2}
            Number of derivatives in ``b``; at most two derivatives in all.

        Returns
        -------
        ndarray, shape (degree + 1, *shape) with the common shape of ``s`` and ``offset``
        """

    @abstractmethod
    def pair_expectation(
        self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike, *, offset1: ArrayLike = 0.0, offset2: ArrayLike = 0.0
    ) -> FloatArray:
        """Return :math:`E\\,\\sigma(s_1 G_1 + b_1)\\sigma(s_2 G_2 + b_2)` at correlation ``rho`` in [-1, 1].

        All arguments broadcast.
        """

    def pair_slopes(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> tuple[FloatArray, FloatArray]:
        r"""Return :math:`E\,\sigma''(Z_1)\sigma(Z_2)` and :math:`E\,\sigma'(Z_1)\sigma'(Z_2)`.

        :math:`Z_1, Z_2` are centered normals of deviations ``s1 > 0, s2`` and correlation ``rho``. Of their covariance
        C, the pair expectation has the derivatives :math:`E\,\sigma''(Z_1)\sigma(Z_2) / 2` in :math:`C_{11}` and
        :math:`E\,\sigma'(Z_1)\sigma'(Z_2)` in :math:`C_{12}` (Price's theorem).

        Raises
        ------
        InvalidInput
            By an activation without closed forms for them.
        """
        raise InvalidInput(f"{self!r} has no closed form for the expectations of its slopes over pairs of neurons; "
                           "Erf, Polynomial and PiecewiseLinear activations have")

    @abstractmethod
    def sphere_mean(self, t: ArrayLike, dim: int, order: int = 0) -> FloatArray:
        """Return the derivative of the given order (0, 1 or 2) in ``t >= 0`` of :math:`E\\,\\sigma(t c)`.

        ``c`` is the first coordinate of a uniform point of the unit sphere of :math:`R^{dim}`.
        """

    @abstractmethod
    def kernel_arguments(self) -> KernelActivation:
        """Return the activation as arrays for compiled functions."""

    @property
    @abstractmethod
    def length_scale(self) -> float:
        """Distance from 0 over which the activation bends: the outermost knot of a piecewise-linear one."""

    @abstractmethod
    def _key(self) -> tuple:
        """Return a key that is the same for activations that are the same function."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Activation):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def finite_array(name: str, value: ArrayLike) -> FloatArray:
    """Return ``value`` as a float64 copy, or say which entry is not a finite real number."""
    array = real_array(value, name)
    if not np.isfinite(array).all():
        index = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise InvalidInput(f"{name}{index or ''} is {array[tuple(index)]}; it must be finite")
    return array


def check_scale(s: ArrayLike, name: str = "s") -> FloatArray:
    """Return standard deviations as float64, refusing negative ones and NaN."""
    array = np.asarray(s, dtype=np.float64)
    if not np.all(array >= 0.0):
        raise InvalidInput(f"{name} is a standard deviation and must be >= 0, got {np.min(array)}")
    return array


def check_offset(b: ArrayLike, name: str = "offset") -> FloatArray:
    """Return offsets as float64, refusing NaN and infinities."""
    array = np.asarray(b, dtype=np.float64)
    if not np.all(np.isfinite(array)):
        raise InvalidInput(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def check_activation(value: object) -> Activation:
    """Return an activation; raise InvalidType for anything else."""
    if isinstance(value, Activation):
        return value
    table = ("; give a smooth function of yours as Smooth(function), one with kinks by a table, "
             "PiecewiseLinear(t, sigma(t), left_slope=, right_slope=)"
             if callable(value) else "")
    raise InvalidType("activation must be a wgflow.activations.Activation such as Tanh(), got "
                      f"{described(value)}{table}")


def check_correlation(rho: ArrayLike) -> FloatArray:
    """Return correlations as float64, refusing what lies outside [-1, 1]."""
    array = np.asarray(rho, dtype=np.float64)
    if not np.all(np.abs(array) <= 1.0):
        raise InvalidInput("rho is a correlation and must lie in [-1, 1]; clip rounding errors before the call")
    return array


def check_degree(degree: int, order: int) -> None:
    """Refuse degrees and orders of differentiation for which no formula exists."""
    check_count("degree", degree, 0)
    check_order(order)


def check_order(order: int) -> None:
    """Refuse orders of differentiation other than 0, 1 and 2."""
    if order not in (0, 1, 2):
        raise InvalidInput(f"order={order!r} must be 0, 1 or 2")


def check_orders(scale: FloatArray, order: int, offset_order: int) -> None:
    """Refuse more than two derivatives in all, and two at ``s = 0``."""
    check_order(order)
    if offset_order not in (0, 1, 2):
        raise InvalidInput(f"offset_order={offset_order!r} must be 0, 1 or 2")
    if order + offset_order > 2:
        raise InvalidInput(f"order={order} and offset_order={offset_order}: at most two derivatives in all")
    if order + offset_order == 2 and not np.all(scale > 0.0):
        name = "order=2" if order == 2 else f"order={order} with offset_order={offset_order}"
        raise InvalidInput(f"{name} needs s > 0: the second derivative at s = 0 may not exist")


def normal_density(z: FloatArray) -> FloatArray:
    """Return the standard normal density."""
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def upper_orthant(h: FloatArray, k: FloatArray, rho: FloatArray, root: FloatArray) -> FloatArray:
    """Return P(X > h, Y > k) at correlation ``rho``, ``|rho| < 1``, ``root = sqrt(1 - rho^2)``, by Owen's T."""
    h, k = (np.where(np.abs(x) < 1e-150, 0.0, x) for x in (h, k))  # ratios of denormal numbers have no digits
    both_zero = (h == 0.0) & (k == 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        th = owens_t(h, residual(k, h, rho) / (h * root))
        tk = owens_t(k, residual(h, k, rho) / (k * root))
    opposite = (h < 0.0) != (k < 0.0)  # a zero counts as +0, as it does in the divisions above
    general = 0.5 * ndtr(-h) + 0.5 * ndtr(-k) - th - tk - 0.5 * opposite
    return np.where(both_zero, 0.25 + np.arcsin(rho) / (2.0 * np.pi), general)


def residual(k: FloatArray, h: FloatArray, rho: FloatArray) -> FloatArray:
    """Return ``k - rho h``, accurate also where ``k`` is near ``+-h`` and ``rho`` near ``+-1``."""
    return np.where(rho >= 0.0, (k - h) + (1.0 - rho) * h, (k + h) - (1.0 + rho) * h)
