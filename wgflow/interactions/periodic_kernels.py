r"""Named kernels on circles, cylinders and tori.

On periodic axes a kernel is replaced by its sum over the images of the displacement,
:math:`w_{per}(x) = \sum_n w(x + n L)`:

* exponential, gaussian, morse, yukawa, bessel: the sum itself, the periodic Green's function for the last two;
* log on one axis: :math:`\log |2 \sin(\pi x / L)|`, the sum without its infinite constant; on two axes, and newtonian:
  the periodic Green's function, of mean 0, with a uniform background, :math:`-\Delta w = |S^{d-1}| (\delta - 1/|T|)`.
  On two axes with one of them periodic: :math:`\log |2 \sin(\pi (x + i y) / L)|`, linear in :math:`|y|` far away;
* cosine: the kernel itself, if the axis is a whole number of its periods;
* powers (quadratic too) have no periodic sum and are refused; a function of the displacement, such as
  ``Convolution(lambda d: d**2 / 2)``, is evaluated at the displacement the shorter way around instead.

The images next to the displacement are summed directly. The sum of the others is a smooth function, which is expanded
once in Chebyshev polynomials, from image sums, closed forms, or Ewald's sum (three axes).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from wgflow.errors import InvalidInput

from .kernel_shapes import Bessel, Cosine, Exponential, Gaussian, Log, Newtonian, Shape
from .named_kernels import Kernel

__all__ = ["PeriodicKernel"]

Array = NDArray[np.float64]

#: Even Chebyshev polynomials on a periodic axis, over one period to either side: the next singularity lies two away.
TERMS = 18
#: Images farther than this many lengths of the kernel are left out: exp(-40) is below rounding,
CUTOFF = 40.0
#: and so is exp(-9^2 / 2).
GAUSSIAN_CUTOFF = 9.0
#: A sum over images takes at most this many values; longer ranges are refused.
MOST_VALUES = 1e8
#: Terms of Ewald's sums with arguments of erfc and exp(-x^2) beyond this are left out.
EWALD = 6.2
#: Values of the series formed at a time.
BLOCK = 200_000


class PeriodicKernel:
    """A `Kernel` made periodic on some of its axes.

    Parameters
    ----------
    kernel : Kernel
    periods : sequence of float
        The period of each axis, 0 where it has none.
    reach : sequence of float
        Largest displacement on the axes that have none.

    Raises
    ------
    InvalidInput
        If the kernel has no periodic sum on such axes.
    """

    def __init__(self, kernel: Kernel, periods: Sequence[float], reach: Sequence[float]):
        self.kernel, self.periods = kernel, tuple(periods)
        kernel.check(len(self.periods))
        waves = [(c, shape) for c, shape in kernel.parts if isinstance(shape, Cosine)]
        self.waves = Kernel(waves)
        self.rest = Kernel([(c, shape) for c, shape in kernel.parts if not isinstance(shape, Cosine)])
        for _, shape in waves:
            turns = self.periods[0] / shape.period
            if abs(turns - round(turns)) > 1e-9 * turns:
                raise InvalidInput(f"{shape!r} on a periodic axis of length {self.periods[0]:.12g}: the axis must be a "
                                   "whole number of its periods; pass period=")
        self.shifts = np.array(list(itertools.product(*[(-1, 0, 1) if p else (0,) for p in self.periods])))
        self.extent = np.array([p or r for p, r in zip(self.periods, reach)], dtype=float)
        shortest = min(p for p in self.periods if p)
        self.counts = [TERMS if p else _terms(r / shortest) for p, r in zip(self.periods, self.extent)]
        self.coefficients = self._expand() if self.rest.parts else np.zeros((1,) * len(self.periods))

    def __call__(self, *displacement) -> Array:
        x = self._reduced(displacement)
        near = sum((self.rest(*(x + shift)) for shift in self._steps(x.ndim)), np.zeros(x.shape[1:]))
        return self.waves(*x) + near + self._series(self.coefficients, x)

    def gradient(self, *displacement) -> Array:
        x = self._reduced(displacement)
        out = self.waves.gradient(*x) + sum(self.rest.gradient(*(x + shift)) for shift in self._steps(x.ndim))
        for axis in range(len(x)):
            if self.coefficients.shape[axis] > 1:
                slopes = chebyshev.chebder(self.coefficients, axis=axis)
                out[axis] += 4.0 * x[axis] / self.extent[axis] ** 2 * self._series(slopes, x)
        return out

    def series_table(self, offsets, widths, nodes: Array, weights: Array) -> Array:
        """Return the smooth part averaged by a rule (in units of the widths) around displacements offsets * widths."""
        out = self.coefficients
        for axis, (k, h) in enumerate(zip(offsets, widths)):
            t = 2.0 * ((k[:, None] + nodes) * h / self.extent[axis]) ** 2 - 1.0
            basis = chebyshev.chebvander(t, out.shape[axis] - 1)
            means = (weights[:, None] * basis).sum(axis=1)
            out = np.moveaxis(np.tensordot(means, out, (1, axis)), 0, axis)
        return out

    # ---------------------------------------------------------------- the smooth part
    def _expand(self) -> Array:
        """Return Chebyshev coefficients of the smooth part on each axis, in t = 2 (x / extent)^2 - 1."""
        nodes = [chebyshev.chebpts1(n) for n in self.counts]
        mesh = np.meshgrid(*[e * np.sqrt(0.5 * (t + 1.0)) for t, e in zip(nodes, self.extent)], indexing="ij")
        points = np.array([x.ravel() for x in mesh])
        out = np.zeros(points.shape[1])
        for factor, shape in self.rest.parts:
            out += factor * _others(shape, points, np.array(self.periods))
        out = out.reshape(self.counts)
        for axis, t in enumerate(nodes):
            inverse = np.linalg.inv(chebyshev.chebvander(t, t.size - 1))
            out = np.moveaxis(np.tensordot(inverse, out, (1, axis)), 0, axis)
        return out

    def _series(self, coefficients: NDArray[np.floating], x: Array) -> Array:
        shape = x.shape[1:]
        t = 2.0 * (x.reshape(len(x), -1) / self.extent[:, None]) ** 2 - 1.0
        out = np.empty(t.shape[1])
        step = max(1, BLOCK // coefficients.size)
        for start in range(0, out.size, step):
            values = coefficients[..., None]
            for row in t[:, start:start + step]:
                values = chebyshev.chebval(row, values, tensor=False)
            out[start:start + step] = values
        return out.reshape(shape)

    def _reduced(self, displacement) -> Array:
        """Return displacements the shorter way around."""
        x = np.array([np.asarray(d, dtype=float) for d in displacement])
        for axis, period in enumerate(self.periods):
            if period:
                x[axis] -= period * np.round(x[axis] / period)
        return x

    def _steps(self, ndim: int):
        return [(shift * self.periods).reshape(-1, *(1,) * (ndim - 1)) for shift in self.shifts]


def _terms(ratio: float) -> int:
    """Return the number of even Chebyshev polynomials on an axis without period; ratio: reach over shortest period."""
    ellipse = 1.0 / ratio + math.sqrt(1.0 + 1.0 / ratio**2)
    return max(TERMS, math.ceil(0.5 * 40.0 / math.log(ellipse)))


def _others(shape: Shape, points: Array, periods: Array) -> Array:
    """Return the sum over all images but those next to the displacement: the smooth part of the periodic kernel."""
    all_periodic, ndim = bool((periods > 0).all()), len(points)
    if isinstance(shape, (Exponential, Gaussian, Bessel)):
        return _far_images(shape, points, periods)
    if isinstance(shape, Log) and ndim == 1:
        return _log_circle(points[0], periods[0])
    if isinstance(shape, (Log, Newtonian)) and ndim == 2:
        whole = _log_torus(points, periods) if all_periodic else _log_cylinder(points, periods)
        return (1.0 if isinstance(shape, Log) else -1.0) * (whole - _next_images(Log(), points, periods))
    if isinstance(shape, Newtonian) and ndim == 1:
        return points[0] ** 2 / periods[0] + periods[0] / 6.0 + 2.0 * periods[0]
    if isinstance(shape, Newtonian) and all_periodic:
        return _ewald(points, periods)
    raise InvalidInput(f"{shape!r} has no sum over the images of a periodic axis on axes of periods "
                       f"{tuple(periods.tolist())} (0: none); give a periodic function of the displacement")


def _images(periods: Array, radius: float) -> NDArray[np.intp]:
    return np.array(list(itertools.product(*[range(-m, m + 1) for m in
                                             (math.ceil(radius / p) + 1 if p else 0 for p in periods)])))


def _far_images(shape, points: Array, periods: Array) -> Array:
    radius = (GAUSSIAN_CUTOFF if isinstance(shape, Gaussian) else CUTOFF) * shape.length
    values = points.shape[1] * math.prod(2 * math.ceil(radius / p) + 3 for p in periods if p)
    if values > MOST_VALUES:
        raise InvalidInput(f"{shape!r} is long for periods {tuple(periods.tolist())}: its periodic sum would take "
                           f"{values:.1e} values; take a shorter range or larger periods")
    out = np.zeros(points.shape[1])
    for image in _images(periods, radius):
        if np.abs(image).max() > 1:
            out += shape.value(np.sqrt(((points + (image * periods)[:, None]) ** 2).sum(axis=0)))
    return out


def _next_images(shape: Shape, points: Array, periods: Array) -> Array:
    images = itertools.product(*[(-1, 0, 1) if p else (0,) for p in periods])
    return sum((shape.value(np.sqrt(((points + (np.array(image) * periods)[:, None]) ** 2).sum(axis=0)))
                for image in images), np.zeros(points.shape[1]))


def _log_circle(x: Array, period: float) -> Array:
    """Return log |2 sin(pi x / L)| less the logarithms of x, x + L and x - L."""
    z = x / period
    # sin(pi z) / (z (1 - z^2)), which is smooth over [-1, 1]: a product with 1 / Gamma(2 - z) and 1 / Gamma(2 + z).
    from scipy.special import rgamma

    return np.log(2.0 * math.pi * rgamma(2.0 - z) * rgamma(2.0 + z)) - 3.0 * math.log(period)


def _log_torus(points: Array, periods: Array) -> Array:
    """Return the Green's function of the torus, zero in the mean, as a sum of image rows of the cylinder's."""
    (x, y), (a, b) = points, periods
    if a > b:
        (x, y), (a, b) = (y, x), (b, a)
    y = y - b * np.round(y / b)
    out = math.pi / a * (np.abs(y) - y * y / b - b / 6.0)
    rows = math.ceil(EWALD * a / b) + 1
    for row in range(-rows, rows + 1):
        out += _log_row(x / a, np.abs(y + row * b) / a)
    return out


def _log_row(u: Array, v: Array) -> Array:
    """Return log |1 - exp(2 pi i (u + i v))|, without cancellation."""
    q = np.exp(-2.0 * math.pi * v)
    return 0.5 * np.log(np.expm1(-2.0 * math.pi * v) ** 2 + 4.0 * q * np.sin(math.pi * u) ** 2)


def _log_cylinder(points: Array, periods: Array) -> Array:
    (x, y), period = points if periods[0] else points[::-1], periods.max()
    return math.pi * np.abs(y) / period + _log_row(x / period, np.abs(y) / period)


def _ewald(points: Array, periods: Array) -> Array:
    """Return 1 / r over the images of three axes less those next to 0, by Ewald's sum with a neutral background."""
    from scipy.special import erf, erfc

    volume = float(periods.prod())
    alpha = math.sqrt(math.pi) / volume ** (1.0 / 3.0)
    out = np.full(points.shape[1], -math.pi / (alpha**2 * volume))
    for image in _images(periods, EWALD / alpha + periods.max()):
        r = np.sqrt(((points + (image * periods)[:, None]) ** 2).sum(axis=0))
        out += -erf(alpha * r) / r if np.abs(image).max() <= 1 else erfc(alpha * r) / r
    for wave in _images(2.0 * math.pi / periods, 2.0 * EWALD * alpha):
        k = 2.0 * math.pi * wave / periods
        square = float((k * k).sum())
        if square:
            out += (4.0 * math.pi / volume / square * math.exp(-square / (4.0 * alpha**2))
                    * np.cos((k[:, None] * points).sum(axis=0)))
    return out


@lru_cache(maxsize=8)
def periodic_kernel(parts, periods: tuple[float, ...], reach: tuple[float, ...]) -> PeriodicKernel:
    """Return a periodic kernel, from the cache if it was made before."""
    return PeriodicKernel(Kernel(parts), periods, reach)
