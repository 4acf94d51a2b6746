"""What a model asks of an activation function: values, Gaussian and spherical averages, Hermite coefficients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.errors import InvalidInput, InvalidType

__all__ = ["Activation", "KernelActivation", "check_degree", "check_scale", "finite_array"]

FloatArray = NDArray[np.float64]


class KernelActivation(NamedTuple):
    """An activation as plain data for the compiled kernels, which never take a function.

    ``code`` selects the formula (0 piecewise linear, 1 tanh, 2 erf, 3 polynomial, 4 softplus). For code 0,
    ``sigma(t) = intercepts[i] + slopes[i] t`` on piece ``i``, the number of knots below ``t``. For code 3, ``slopes``
    holds the coefficients in increasing order.
    """

    code: int
    knots: FloatArray
    slopes: FloatArray
    intercepts: FloatArray


class Activation(ABC):
    r"""An activation :math:`\sigma` of one real variable and its exact averages.

    With :math:`G` standard Gaussian, :math:`he_k` the orthonormal Hermite polynomials and :math:`c` the first
    coordinate of a uniform point of the sphere :math:`S^{d-1}`, the reduced models need

    .. math::
        q(s) = E\,\sigma(sG), \quad a_k(s) = E\,\sigma(sG)\,he_k(G), \quad
        E\,\sigma(s_1 G_1)\sigma(s_2 G_2) = \sum_k a_k(s_1) a_k(s_2) \rho^k, \quad E\,\sigma(t c).

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
    def gaussian_mean(self, s: ArrayLike, order: int = 0) -> FloatArray:
        """Return the derivative of the given order (0, 1 or 2) of :math:`q(s) = E\\,\\sigma(sG)`, for ``s >= 0``."""

    @abstractmethod
    def hermite_coefficients(self, s: ArrayLike, degree: int, order: int = 0) -> FloatArray:
        """Return :math:`a_0(s), ..., a_{degree}(s)` or their derivatives in ``s``.

        Parameters
        ----------
        s : array_like
            Standard deviations, ``s >= 0`` (``s > 0`` for ``order=2``).
        degree : int
            Highest ``k``.
        order : {0, 1, 2}
            Number of derivatives in ``s``.

        Returns
        -------
        ndarray, shape (degree + 1, *s.shape)
        """

    @abstractmethod
    def pair_expectation(self, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> FloatArray:
        """Return :math:`E\\,\\sigma(s_1 G_1)\\sigma(s_2 G_2)` at correlation ``rho`` in [-1, 1], by broadcasting."""

    @abstractmethod
    def sphere_mean(self, t: ArrayLike, dim: int, order: int = 0) -> FloatArray:
        """Return the derivative of the given order (0, 1 or 2) in ``t >= 0`` of :math:`E\\,\\sigma(t c)`.

        ``c`` is the first coordinate of a uniform point of the unit sphere of :math:`R^{dim}`.
        """

    @abstractmethod
    def kernel_arguments(self) -> KernelActivation:
        """Return the activation as arrays for the compiled kernels."""

    @property
    @abstractmethod
    def length_scale(self) -> float:
        """Distance from 0 over which the activation bends: the outermost knot of a piecewise-linear one."""

    @abstractmethod
    def _key(self) -> tuple:
        """Return what makes two activations the same function."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Activation):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def finite_array(name: str, value: ArrayLike) -> FloatArray:
    """Return ``value`` as a float64 copy, or say which entry is not a finite real number."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise InvalidType(f"{name} must be real numbers, got dtype {array.dtype}; pass floats")
    array = np.array(array, dtype=np.float64)
    if not np.all(np.isfinite(array)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InvalidInput(f"{name} must be finite, got {array[index]} at index {index}")
    return array


def check_scale(s: ArrayLike, name: str = "s") -> FloatArray:
    """Return standard deviations as float64, refusing negative ones and NaN."""
    array = np.asarray(s, dtype=np.float64)
    if not np.all(array >= 0.0):
        raise InvalidInput(f"{name} is a standard deviation and must be >= 0, got {np.min(array)}")
    return array


def check_degree(degree: int, order: int) -> None:
    """Refuse degrees and orders of differentiation for which no formula exists."""
    if isinstance(degree, bool) or not isinstance(degree, Integral) or degree < 0:
        raise InvalidInput(f"degree={degree!r} must be an integer >= 0")
    check_order(order)


def check_order(order: int) -> None:
    """Refuse orders of differentiation other than 0, 1 and 2."""
    if order not in (0, 1, 2):
        raise InvalidInput(f"order={order!r} must be 0, 1 or 2")
