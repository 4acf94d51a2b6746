r"""Named kernels :math:`w(x)` of the displacement: logarithmic, Newtonian, powers, exponentials and their sums.

A `Kernel` is a sum of scaled radial functions, :math:`w(x) = \sum_k c_k f_k(|x|)`. Kernels scale and add
(``quadratic() + 2 * log()``) and are given to ``Convolution`` or ``Interaction``. They have:

* ``w(*displacement)``: values; one array for each axis; infinite at 0 if the kernel is.
* ``w.gradient(*displacement)``: shape (n_coordinates, n); 0 at 0 (the kernel is even).
* ``w.infinite``: whether w is infinite at 0. A sum over pairs of points then leaves out each point's pair with itself.
* ``w.smooth``: whether w is smooth at 0. If not, a grid takes averages over cells.
* on one axis: ``w.first(x)``, the odd antiderivative; ``w.second(x)``, the even function with second derivative w and
  value 0 at 0; ``w.diagonal(h)``, the stand-in for w(0) in sums over points at spacing h.

**Points on the line.** Let a smooth law have quantiles :math:`X_j` at equidistant levels, each standing for the same
mass m. Then (Euler and Maclaurin's formula at an algebraic or logarithmic singularity)

.. math:: \iint w(x - y)\,\rho\,\rho \approx \sum_{j \ne k} m^2\,w(X_j - X_k) + \sum_j m^2\,d(h_j),
          \qquad h_j = \tfrac12 (X_{j+1} - X_{j-1}),

with the diagonal :math:`d(h) = \log(h / 2\pi)` for the logarithm and :math:`-2 \zeta(-p)\,h^p / p` for
:math:`|x|^p / p` (h / 6 for :math:`|x|`), up to the order of the trapezoidal rule for smooth functions. Leaving the
diagonal out costs an error of order :math:`m \log m` for the logarithm.

**Quantile cells.** The interaction energy of a law on the line that is constant between positions
:math:`X_0 \le \dots \le X_n`, with density :math:`r_i` on cell i, is a sum over its jumps
:math:`s_j = r_j - r_{j-1}` (:math:`r_{-1} = r_n = 0`), by two integrations by parts:

.. math:: \tfrac12 \iint w(x - y)\,\rho(x)\,\rho(y) = -\tfrac12 \sum_{jk} s_j\,s_k\,W(X_j - X_k), \qquad W'' = w,

and its first variation at a point x is :math:`\sum_j s_j\,W'(x - X_j)`: exact and finite for every kernel on one axis.
For cells far from each other the sum loses digits (W is about :math:`x^2 w`); a Gauss rule is used there.

**On a grid.** ``term.operator(grid)`` of a convolution has ``w``, the kernel as a function of the displacement
(None for a table), and ``kernel``, the `Kernel` (None for a function or a table), beside ``apply(masses)``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_positive, check_real
from wgflow.errors import InvalidInput, InvalidType

from .kernel_shapes import Bessel, Cosine, Exponential, Gaussian, Log, Newtonian, Power, Shape

__all__ = ["Kernel", "bessel", "cosine", "exponential", "gaussian", "log", "morse", "newtonian", "power", "quadratic",
           "yukawa"]

Array = NDArray[np.float64]


class Kernel:
    r"""A sum of scaled radial functions, :math:`w(x) = \sum_k c_k f_k(|x|)`.

    The functions of this module make kernels; they can be added and multiplied by numbers.

    Attributes
    ----------
    parts : tuple of (float, Shape)
        Coefficients and functions.
    infinite, smooth : bool
        Whether w is infinite at 0, and whether it is smooth there.
    exponent : float
        The a of the least :math:`|x|^a` at 0 that is not smooth, 0 for a logarithm; infinite if there is none.
    scale : float
        The shortest length on which w varies, beside the distance from 0.
    """

    def __init__(self, parts: Iterable[tuple[float, Shape]]):
        merged: dict[Shape, float] = {}
        for factor, shape in parts:
            merged[shape] = merged.get(shape, 0.0) + factor
        self.parts = tuple((factor, shape) for shape, factor in merged.items() if factor != 0.0)
        self.infinite = any(shape.infinite for _, shape in self.parts)
        self.smooth = all(shape.smooth for _, shape in self.parts)
        self.exponent = min((shape.exponent for _, shape in self.parts), default=math.inf)
        self.scale = min((shape.scale for _, shape in self.parts), default=math.inf)

    def check(self, ndim: int) -> None:
        """Raise InvalidInput if the kernel is not defined, or has no integral, on so many axes."""
        for _, shape in self.parts:
            shape.check(ndim)

    def __call__(self, *displacement: ArrayLike) -> Array:
        return self.radial(self._distance(displacement))

    def radial(self, r: Array) -> Array:
        """Return the kernel at distances r >= 0."""
        with np.errstate(divide="ignore"):
            return sum((factor * shape.value(r) for factor, shape in self.parts), np.zeros(np.shape(r)))

    def gradient(self, *displacement: ArrayLike) -> Array:
        """Return the gradient of the kernel, shape (n_coordinates, ...); 0 at 0."""
        r = self._distance(displacement)
        apart = np.where(r > 0, r, 1.0)
        slope = sum((factor * shape.slope(apart) for factor, shape in self.parts), np.zeros(r.shape)) / apart
        return np.array([slope * np.asarray(x, dtype=float) for x in displacement])

    def first(self, x: ArrayLike) -> Array:
        """Return the odd antiderivative of w on the line."""
        return self._on_line("first", x)

    def second(self, x: ArrayLike) -> Array:
        """Return the even function on the line with second derivative w, 0 at 0."""
        return self._on_line("second", x)

    def diagonal(self, spacing: ArrayLike) -> Array:
        """Return the stand-in for w(0) in sums over points of the line at a spacing; see the module's text."""
        return self._on_line("diagonal", spacing)

    def _on_line(self, name: str, x: ArrayLike) -> Array:
        self.check(1)
        x = np.asarray(x, dtype=float)
        return sum((factor * getattr(shape, name)(x) for factor, shape in self.parts), np.zeros(x.shape))

    @staticmethod
    def _distance(displacement) -> Array:
        if len(displacement) == 1:
            return np.abs(np.asarray(displacement[0], dtype=float))
        return np.sqrt(sum(np.asarray(x, dtype=float) ** 2 for x in displacement))

    def __add__(self, other):
        return Kernel(self.parts + other.parts) if isinstance(other, Kernel) else NotImplemented

    def __radd__(self, other):
        return self if isinstance(other, numbers.Real) and other == 0 else NotImplemented  # the start of sum()

    def __sub__(self, other):
        return self + -1.0 * other if isinstance(other, Kernel) else NotImplemented

    def __neg__(self):
        return -1.0 * self

    def __mul__(self, factor):
        if isinstance(factor, bool) or not isinstance(factor, numbers.Real):
            return NotImplemented
        factor = check_real("factor", factor)
        return Kernel([(factor * f, shape) for f, shape in self.parts])

    __rmul__ = __mul__

    def __repr__(self):
        return " + ".join(repr(s) if f == 1 else f"{f:g}*{s!r}" for f, s in self.parts) or "Kernel([])"


def log(chi: float = 1.0) -> Kernel:
    r"""Return :math:`\chi \log |x|`: attraction for chi > 0 (Keller-Segel), repulsion for chi < 0 (log gas).

    On one axis with diffusion D mass 1 collapses for chi > 2 D; on two axes :math:`\chi = 1 / 2\pi` is the Keller-Segel
    kernel, with collapse for mass above :math:`8 \pi D`.
    """
    return check_real("chi", chi) * Kernel([(1.0, Log())])


def newtonian(dim: int) -> Kernel:
    r"""Return the repulsive Newtonian (Coulomb) potential on ``dim`` axes, whose slope is :math:`-r^{1-d}`.

    .. math:: -|x| \;(d = 1), \qquad -\log |x| \;(d = 2), \qquad 1 / |x| \;(d = 3),
              \qquad -\Delta w = |S^{d-1}|\,\delta,

    where the area of the unit sphere is 2, :math:`2 \pi`, :math:`4 \pi`. In these units the steady state of
    ``quadratic() + newtonian(d)`` is the uniform law on the unit ball. ``-1 * newtonian(d)`` attracts.
    """
    return Kernel([(1.0, Newtonian(_dimension(dim, (1, 2, 3))))])


def power(p: float) -> Kernel:
    r"""Return :math:`|x|^p / p`, p > -d on d axes: attraction of force :math:`|x|^{p-1}`; the limit p = 0 is `log`."""
    p = check_real("p", p)
    if p == 0:
        raise InvalidInput("power(0): |x|^p / p has no value at p = 0; its limit up to a constant is log()")
    return Kernel([(1.0, Power(p))])


def quadratic(k: float = 1.0) -> Kernel:
    r"""Return :math:`k |x|^2 / 2`: attraction to the mean."""
    return check_real("k", k) * Kernel([(1.0, Power(2.0))])


def exponential(range: float = 1.0) -> Kernel:
    r"""Return :math:`e^{-|x| / \ell}`, :math:`\ell` = ``range``, a repulsion; a negative multiple attracts."""
    return Kernel([(1.0, Exponential(check_positive("range", range)))])


def gaussian(range: float = 1.0) -> Kernel:
    r"""Return :math:`e^{-|x|^2 / 2 \ell^2}`, :math:`\ell` = ``range``, a repulsion; a negative multiple attracts."""
    return Kernel([(1.0, Gaussian(check_positive("range", range)))])


def morse(repulsion: float = 1.0, repulsion_range: float = 1.0, attraction: float = 0.5,
          attraction_range: float = 2.0) -> Kernel:
    r"""Return the Morse potential :math:`C_r e^{-|x| / \ell_r} - C_a e^{-|x| / \ell_a}` of swarms."""
    return (check_real("repulsion", repulsion) * exponential(check_positive("repulsion_range", repulsion_range))
            - check_real("attraction", attraction) * exponential(check_positive("attraction_range", attraction_range)))


def yukawa(dim: int, range: float = 1.0) -> Kernel:
    r"""Return the screened Newtonian potential, which solves :math:`-\Delta w + w / \ell^2 = |S^{d-1}|\,\delta`.

    It is :math:`\ell e^{-r/\ell}`, :math:`K_0(r / \ell)`, :math:`e^{-r/\ell} / r` on 1, 2, 3 axes; for a long range it
    is `newtonian` up to a constant.
    """
    dim, range = _dimension(dim, (1, 2, 3)), check_positive("range", range)
    return range * exponential(range) if dim == 1 else Kernel([(1.0, Bessel(dim, range))])


def bessel(dim: int, range: float = 1.0) -> Kernel:
    r"""Return the Bessel potential, the inverse of :math:`-\Delta + \ell^{-2}`: `yukawa` over :math:`|S^{d-1}|`.

    :math:`\tfrac{\ell}{2} e^{-r/\ell}`, :math:`K_0(r/\ell) / 2\pi`, :math:`e^{-r/\ell} / 4 \pi r` on 1, 2, 3 axes.
    """
    kernel = yukawa(dim, range)
    return (0.5, 0.5 / math.pi, 0.25 / math.pi)[dim - 1] * kernel


def cosine(K: float = 1.0, period: float = 2.0 * math.pi) -> Kernel:
    r"""Return :math:`-K \cos(2 \pi x / L)` on one axis, L the ``period``: the attraction of Kuramoto's oscillators."""
    return check_real("K", -K) * Kernel([(1.0, Cosine(check_positive("period", period)))])


def _dimension(dim, allowed: tuple[int, ...]) -> int:
    if isinstance(dim, bool) or not isinstance(dim, numbers.Integral):
        raise InvalidType(f"dim must be an int, got {type(dim).__name__} {dim!r}")
    if dim not in allowed:
        raise InvalidInput(f"dim={dim}: need one of {', '.join(map(str, allowed))}")
    return int(dim)
