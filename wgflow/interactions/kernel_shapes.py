"""Shapes of radial kernels: values, slopes, antiderivatives on the line, and properties that a grid needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput

from .cell_averages import ray_rule

__all__ = ["Bessel", "Cosine", "Exponential", "Gaussian", "Log", "Newtonian", "Power", "Shape"]

Array = NDArray[np.float64]


class Shape(ABC):
    """A function of the distance :math:`r = |x|`.

    Attributes
    ----------
    axes : int or None
        The number of axes it is made for; None for any.
    infinite : bool
        Whether it is infinite at r = 0.
    smooth : bool
        Whether :math:`f(|x|)` is smooth at x = 0, so that a grid needs no averages over cells.
    exponent : float
        The a of the least :math:`r^a` at r = 0 that is not smooth in x, 0 for the logarithm; infinite if there is none.
    scale : float
        The length on which it varies, beside the distance from 0: the function is analytic except at 0, and grows no
        faster than exp(|r| / scale). Infinite for functions without a scale.
    """

    axes: int | None = None
    infinite: bool = False
    smooth: bool = False
    exponent: float = math.inf
    scale: float = math.inf

    @abstractmethod
    def value(self, r: Array) -> Array:
        """Return f(r) for r >= 0."""

    @abstractmethod
    def slope(self, r: Array) -> Array:
        """Return f'(r) for r > 0."""

    def ray(self, r: Array, power: int) -> Array:
        r"""Return :math:`\int_0^1 s^q f(s r)\,ds`."""
        s, weights = ray_rule()
        return (weights * s**power * self.value(s * r[..., None])).sum(axis=-1)

    def first(self, x: Array) -> Array:
        """Return the odd antiderivative of f(|x|) on the line."""
        raise InvalidInput(f"{self!r} has no antiderivative in closed form")

    def second(self, x: Array) -> Array:
        """Return the even function on the line with second derivative f(|x|), 0 at 0."""
        raise InvalidInput(f"{self!r} has no antiderivative in closed form")

    def diagonal(self, h: Array) -> Array:
        """Return the stand-in for f(0) in sums over points of the line at spacing h; f(0) if its error is O(h^2)."""
        return np.broadcast_to(self.value(np.zeros(1))[0], np.shape(h)).astype(float)

    def check(self, ndim: int) -> None:
        """Refuse a number of axes on which the kernel is not defined."""
        if self.axes is not None and self.axes != ndim:
            raise InvalidInput(f"{self!r} is a kernel on {self.axes} axes, the points have {ndim}; in reduced "
                               "coordinates (a radius) give its mean over directions, Interaction(lambda r, s: ...)")


@dataclass(frozen=True)
class Power(Shape):
    """r^p / p."""

    p: float

    @property
    def infinite(self):
        return self.p < 0

    @property
    def smooth(self):
        return self.p > 0 and self.p % 2 == 0

    @property
    def exponent(self):
        return math.inf if self.smooth else self.p

    def value(self, r):
        return r**self.p / self.p

    def slope(self, r):
        return r ** (self.p - 1)

    def ray(self, r, power):
        return self.value(r) / (power + 1.0 + self.p)

    def first(self, x):
        return np.sign(x) * np.abs(x) ** (self.p + 1) / (self.p * (self.p + 1))

    def second(self, x):
        return np.abs(x) ** (self.p + 2) / (self.p * (self.p + 1) * (self.p + 2))

    def diagonal(self, h):
        return -2.0 * _zeta_of_minus(self.p) / self.p * h**self.p

    def check(self, ndim):
        if self.p <= -ndim:
            raise InvalidInput(f"power({self.p:g}) has no integral at 0 on {ndim} axes; need p > {-ndim}")


@dataclass(frozen=True)
class Log(Shape):
    """log r."""

    infinite = True
    exponent = 0.0

    def value(self, r):
        return np.log(r)

    def slope(self, r):
        return 1.0 / r

    def ray(self, r, power):
        return (self.value(r) - 1.0 / (power + 1.0)) / (power + 1.0)

    def first(self, x):
        return x * (_log(x) - 1.0)

    def second(self, x):
        return x * x * (0.5 * _log(x) - 0.75)

    def diagonal(self, h):
        return np.log(h / (2.0 * math.pi))


@dataclass(frozen=True)
class Newtonian(Shape):
    """-r, -log r, 1 / r: the function of slope -r^(1 - dim)."""

    dim: int

    @property
    def axes(self):
        return self.dim

    @property
    def infinite(self):
        return self.dim > 1

    @property
    def exponent(self):
        return 2.0 - self.dim

    def value(self, r):
        return -np.log(r) if self.dim == 2 else 1.0 / r if self.dim == 3 else -r

    def slope(self, r):
        return -(1.0 / r) ** (self.dim - 1)

    def ray(self, r, power):
        if self.dim == 2:
            return (self.value(r) + 1.0 / (power + 1.0)) / (power + 1.0)
        return self.value(r) / (power + 3.0 - self.dim)

    def first(self, x):
        return -0.5 * x * np.abs(x)

    def second(self, x):
        return -(np.abs(x) ** 3) / 6.0

    def diagonal(self, h):
        return -h / 6.0


@dataclass(frozen=True)
class Exponential(Shape):
    """exp(-r / length)."""

    length: float
    exponent = 1.0

    @property
    def scale(self):
        return self.length

    def value(self, r):
        return np.exp(-r / self.length)

    def slope(self, r):
        return -np.exp(-r / self.length) / self.length

    def first(self, x):
        return -self.length * np.sign(x) * np.expm1(-np.abs(x) / self.length)

    def second(self, x):
        z = np.abs(x) / self.length
        return self.length**2 * (np.expm1(-z) + z)

    def diagonal(self, h):
        return 1.0 - h / (6.0 * self.length)


@dataclass(frozen=True)
class Gaussian(Shape):
    """exp(-r^2 / (2 length^2))."""

    length: float
    smooth = True

    @property
    def scale(self):
        # In the relevant range its Chebyshev coefficients decay like those of exp(r / scale).
        return self.length / 3.0

    def value(self, r):
        return np.exp(-0.5 * (r / self.length) ** 2)

    def slope(self, r):
        return -r / self.length**2 * self.value(r)

    def first(self, x):
        from scipy.special import erf

        return self.length * math.sqrt(0.5 * math.pi) * erf(x / (self.length * math.sqrt(2.0)))

    def second(self, x):
        return x * self.first(x) + self.length**2 * np.expm1(-0.5 * (x / self.length) ** 2)


@dataclass(frozen=True)
class Bessel(Shape):
    """K_0(r / length) on two axes, exp(-r / length) / r on three."""

    dim: int
    length: float
    infinite = True

    @property
    def axes(self):
        return self.dim

    @property
    def exponent(self):
        return 2.0 - self.dim

    @property
    def scale(self):
        return self.length

    def value(self, r):
        from scipy.special import k0

        return k0(r / self.length) if self.dim == 2 else np.exp(-r / self.length) / r

    def slope(self, r):
        from scipy.special import k1

        if self.dim == 2:
            return -k1(r / self.length) / self.length
        return -np.exp(-r / self.length) * (1.0 / r + 1.0 / self.length) / r


@dataclass(frozen=True)
class Cosine(Shape):
    """cos(2 pi r / period) on one axis."""

    period: float
    axes = 1
    smooth = True

    @property
    def scale(self):
        return self.period / (2.0 * math.pi)

    def value(self, r):
        return np.cos(2.0 * math.pi / self.period * r)

    def slope(self, r):
        k = 2.0 * math.pi / self.period
        return -k * np.sin(k * r)

    def first(self, x):
        k = 2.0 * math.pi / self.period
        return np.sin(k * x) / k

    def second(self, x):
        k = 2.0 * math.pi / self.period
        return 2.0 * (np.sin(0.5 * k * x) / k) ** 2


def _log(x: Array) -> Array:
    """Return log |x|, and 0 at x = 0, where it is multiplied by a power of x."""
    return np.log(np.where(x == 0, 1.0, np.abs(x)))


def _zeta_of_minus(p: float) -> float:
    """Return Riemann's zeta function at -p, p > -1."""
    from scipy.special import zeta

    if p > 0:
        return -2.0 * (2.0 * math.pi) ** (-p - 1.0) * math.sin(0.5 * math.pi * p) * math.gamma(1.0 + p) * zeta(1.0 + p)
    # Euler and Maclaurin's formula with the tail from n = 20 on.
    n, s = 20.0, -p
    head = float((np.arange(1.0, n) ** -s).sum())
    return (head + n ** (1.0 - s) / (s - 1.0) + n**-s * (0.5 + s / (12.0 * n) * (1.0 - (s + 1.0) * (s + 2.0) / (
        60.0 * n * n) * (1.0 - (s + 3.0) * (s + 4.0) / (42.0 * n * n)))))
