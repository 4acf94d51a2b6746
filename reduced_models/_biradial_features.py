"""Low-rank forms of the kernel between weights whose two blocks of coordinates have random directions."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, xlogy

from wgflow.activations import Activation
from wgflow.errors import WGFlowWarning

from .base import FloatArray

__all__ = ["BiradialFeatures", "Box", "choose_biradial_features", "without_constant_axes"]

_DEGREES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # tried one after the other
_SMOOTH_DEGREES = (16, 28, 40)  # where coefficients come from quadrature, which resolves degrees up to 42
_SAMPLES = 41  # values of each radius at which errors are measured, and of the offset, where there is one
_OFFSET_SAMPLES = 13
_MOST_TERMS = 1300  # of a class; more would make the features slow, and rarely much better
_BLOCK = 1 << 22  # numbers per temporary array
_TINY = 1e-300  # stands for s = 0
# How the tolerance is shared out among the tail beyond the degree, single terms and directions left out; the first two
# are bounds that are rarely reached.
_TAIL, _TERMS, _DIRECTIONS = 0.3, 0.3, 0.4
_RELAXED = 1e-3  # an error that is worth a warning even where no tolerance was asked for


class Box(NamedTuple):
    """Where the features are to be accurate: ``|b| <= b_max, 0 <= r1 <= r1_max, 0 <= r2 <= r2_max``."""

    b_max: float
    r1_max: float
    r2_max: float


class _Terms(NamedTuple):
    """Terms of one class: even powers of the two cosines, and amplitudes."""

    tau: float
    i: np.ndarray
    j: np.ndarray
    amplitudes: FloatArray

    @property
    def degree(self) -> int:
        return int(np.max(self.i + self.j))


class BiradialFeatures:
    r"""Features of neurons :math:`\sigma(\langle w, x\rangle + b)` under two Gaussian classes with two blocks.

    With :math:`s = \sqrt{\tau^2 r_1^2 + r_2^2}`, the cosines :math:`c_1 = \tau r_1/s, c_2 = r_2/s` and the moments
    :math:`M_i(n)` of a cosine between random directions of :math:`R^n`, the terms are

    .. math:: \sqrt{\tfrac12 \tbinom{i+j}{i} M_i(n_1) M_j(n_2)}\; a_{i+j}(s, b)\, c_1^i c_2^j, \quad i, j\ \text{even} .

    The first two features are the terms with i = j = 0 of the two classes; the others are orthonormal combinations of
    the rest. In the derivatives :math:`a_k = s D_{k-1}/\sqrt k`, :math:`D_k = \partial_b a_k`, so that nothing is
    divided by s:

    .. math:: \partial_{r_1} a_k c_1^i c_2^j = \tau \Bigl( \sqrt{k+1}\, D_{k+1} c_1
              + \frac{i}{\sqrt k} D_{k-1} c_1^{-1} \Bigr) c_1^i c_2^j, \qquad k = i + j .

    Attributes
    ----------
    target : ndarray, shape (k,)
    error : float
        Bound of the kernel's error, relative to ``max(1, max U)``, over the box.
    """

    def __init__(self, activation: Activation, classes: tuple[_Terms, _Terms], rotation: FloatArray, error: float):
        self.activation, self.classes, self.rotation, self.error = activation, classes, rotation, error
        self._highest = [max(int(np.max(powers)) for powers in pair)
                         for pair in zip(*((terms.i, terms.j) for terms in classes))]
        self.target = np.zeros(2 + len(rotation))
        self.target[:2] = math.sqrt(0.5), -math.sqrt(0.5)

    def __call__(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return the features, shape (k, *shape)."""
        b, r1, r2 = np.broadcast_arrays(b, r1, r2)
        out = np.empty((self.target.size, b.size))
        for part in self._parts(b.size):
            points = (x.ravel()[part] for x in (b, r1, r2))
            self._combine(self._terms(*points), out[:, part])
        return out.reshape(-1, *b.shape)

    def gradients(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return the derivatives in b, r1 and r2, shape (k, 3, *shape)."""
        return self.with_gradients(b, r1, r2)[:, 1:]

    def with_gradients(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return the features and their derivatives in b, r1 and r2, shape (k, 4, *shape)."""
        b, r1, r2 = np.broadcast_arrays(b, r1, r2)
        out = np.empty((self.target.size, 4, b.size))
        for part in self._parts(b.size):
            points = (x.ravel()[part] for x in (b, r1, r2))
            self._combine(self._slopes(*points), out[:, :, part])
        return out.reshape(-1, 4, *b.shape)

    def _parts(self, n: int) -> list[slice]:
        width = 4 * sum(c.i.size + c.degree for c in self.classes)
        size = max(1, _BLOCK // width)
        return [slice(first, first + size) for first in range(0, n, size)]

    def _combine(self, terms: list[FloatArray], out: FloatArray) -> None:
        out[0], out[1] = terms[0][0], terms[1][0]
        if len(out) > 2:
            split = self.classes[0].i.size - 1
            out[2:] = np.einsum("kt,t...->k...", self.rotation[:, :split], terms[0][1:])
            out[2:] += np.einsum("kt,t...->k...", self.rotation[:, split:], terms[1][1:])

    def varying(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return all terms but those with i = j = 0, of both classes, shape (terms, n), at n points."""
        return np.concatenate([terms[1:] for terms in self._terms(b, r1, r2)])

    def _terms(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> list[FloatArray]:
        """Return the terms of each class, shape (terms, n)."""
        s, first, second = self._scales_and_powers(r1, r2)
        a = self.activation.hermite_coefficients(s, max(terms.degree for terms in self.classes), offset=b)
        return [terms.amplitudes[:, None] * a[terms.i + terms.j, m] * first[terms.i, m] * second[terms.j, m]
                for m, terms in enumerate(self.classes)]

    def _slopes(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> list[FloatArray]:
        """Return the terms of each class and their derivatives, shape (terms, 4, n)."""
        s, first, second = self._scales_and_powers(r1, r2)
        degree = max(terms.degree for terms in self.classes) + 1
        slopes = self.activation.hermite_coefficients(s, degree, offset=b, offset_order=1)
        means = self.activation.gaussian_mean(s, offset=b)
        result = []
        for m, terms in enumerate(self.classes):
            i, j, k = terms.i, terms.j, (terms.i + terms.j)[:, None]
            up = np.sqrt(k + 1.0) * slopes[i + j + 1, m]
            down = slopes[np.maximum(i + j - 1, 0), m] / np.sqrt(np.maximum(k, 1))
            both = first[i, m] * second[j, m]
            in_first = up * first[i + 1, m] + i[:, None] * down * first[np.maximum(i - 1, 0), m]
            in_second = up * second[j + 1, m] + j[:, None] * down * second[np.maximum(j - 1, 0), m]
            own = np.stack([
                np.where(k > 0, s[m] * down, means[m]) * both,
                slopes[i + j, m] * both,
                terms.tau * in_first * second[j, m],
                in_second * first[i, m],
            ], axis=1)
            result.append(terms.amplitudes[:, None, None] * own)
        return result

    def _scales_and_powers(self, r1: FloatArray, r2: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return s of both classes, shape (2, n), and powers of the cosines, which are 0 at s = 0: (powers, 2, n)."""
        parts = np.array([[terms.tau * r1, r2] for terms in self.classes]).transpose(1, 0, 2)
        s = np.hypot(parts[0], parts[1])
        cosines = parts / np.maximum(s, _TINY)
        powers = []
        for cosine, highest in zip(cosines, self._highest):
            table = np.ones((highest + 2, *s.shape))
            for k in range(1, highest + 2):
                table[k] = table[k - 1] * cosine
            powers.append(table)
        return s, powers[0], powers[1]


def choose_biradial_features(
    activation: Activation,
    deviations: tuple[float, float],
    dims: tuple[float, float],
    box: Box,
    tolerance: float,
    relax: bool = False,
) -> BiradialFeatures:
    """Return few features that reproduce the kernel on the box.

    By the Cauchy-Schwarz inequality the largest error of what is left out of a positive kernel lies on the diagonal.
    There it is the sum of three parts: the tail of the series, at most its next power moment times what remains of the
    second moment of the activation; single terms, added up; and the directions in the space of terms that are left out
    because no point of the box needs them, by a Gram-Schmidt process that takes the worst point next.

    Parameters
    ----------
    dims : (float, float)
        Dimensions of the two blocks; both infinite in the limit, where two features are exact.
    tolerance : float
        Relative to ``max(1, max U)`` on the box.
    relax : bool
        Where the longest series misses the tolerance, allow twice its tail: more features would not help.
    """
    if math.isinf(dims[0]):
        zero = np.zeros(1, dtype=np.int64)
        plus, minus = (_Terms(tau, zero, zero, np.full(1, math.sqrt(0.5))) for tau in deviations)
        return BiradialFeatures(activation, (plus, minus), np.zeros((0, 0)), 0.0)
    samples = _samples(box, 0.0)
    scale = _kernel_scale(activation, deviations, samples)
    allowed = tolerance * scale
    series = [_cut_series(activation, tau, dims, samples, allowed) for tau in deviations]
    tail = series[0].tail + series[1].tail
    if relax:
        allowed = max(allowed, 2.0 * float(np.max(tail)))
    (plus, lost), (minus, also_lost) = (_without_small_terms(one, 0.5 * _TERMS * allowed) for one in series)
    tail = tail + lost + also_lost
    everything = BiradialFeatures(activation, (plus, minus), np.zeros((0, 0)), 0.0)
    rotation = _directions(everything.varying(*samples), _DIRECTIONS * allowed)
    # Points between the samples have had no part in the choice.
    rest = max(_residual(rotation, everything.varying(*_samples(box, shift))) for shift in (0.0, 0.5))
    error = (float(np.max(tail)) + rest) / scale
    if error > (max(tolerance, _RELAXED) if relax else tolerance):
        warnings.warn(f"the kernel is accurate to {error:.1e}, not to tolerance={tolerance:.1e}, with "
                      f"{2 + len(rotation)} features: an activation with kinks converges slowly where a block has few "
                      f"dimensions ({min(dims):g} here)", WGFlowWarning, stacklevel=4)
    return BiradialFeatures(activation, everything.classes, rotation, error)


class _Series(NamedTuple):
    """A series of one class: its terms, their diagonal at samples (terms, n), and a bound of what is left out (n,)."""

    terms: _Terms
    diagonal: FloatArray
    tail: FloatArray


def _cut_series(activation, tau, dims, samples, allowed) -> _Series:
    """Return the series up to a degree at which its tail is small enough, or the last that keeps the terms few."""
    b, r1, r2 = samples
    s = np.hypot(tau * r1, r2)
    square, other = ((x / np.maximum(s, _TINY)) ** 2 for x in (tau * r1, r2))
    second_moment = activation.pair_expectation(s, s, 1.0, offset1=b, offset2=b)
    found: list[tuple[FloatArray, FloatArray, np.ndarray, np.ndarray, FloatArray]] = []  # at most one
    for degree in _SMOOTH_DEGREES if activation.kernel_arguments().code else _DEGREES:
        squares = activation.hermite_coefficients(s, degree, offset=b) ** 2
        i, j, weights, bounds = _all_terms(dims, np.max(squares, axis=1))
        order = np.argsort(bounds, kind="stable")
        small = np.cumsum(bounds[order]) <= 0.1 * _TAIL * allowed
        if found and np.count_nonzero(~small) > _MOST_TERMS:
            break
        rest = np.maximum(second_moment - np.sum(squares, axis=0), 0.0) + 1e-15 * second_moment
        tail = 0.5 * rest * _power_moment(degree + 2, dims, square, other)
        kept = np.sort(order[~small])  # i = j = 0 stays the first
        found = [(squares, tail + float(np.sum(bounds[order[small]])), i[kept], j[kept], weights[kept])]
        if np.max(tail) <= 0.4 * _TAIL * allowed:
            break
    squares, tail, i, j, weights = found[0]
    diagonal = weights[:, None] * squares[i + j] * square ** i[:, None] * other ** j[:, None]
    return _Series(_Terms(tau, i, j, np.sqrt(weights)), diagonal, tail)


def _without_small_terms(series: _Series, allowed: float) -> tuple[_Terms, FloatArray]:
    """Return the terms without the smallest, and the diagonal of these at the samples, at most ``allowed``."""
    peaks = np.max(series.diagonal, axis=1)
    peaks[0] = math.inf  # the potential needs i = j = 0
    order = np.argsort(peaks, kind="stable")[:-1]
    left_out = np.cumsum(series.diagonal[order], axis=0)
    n_small = int(np.searchsorted(np.max(left_out, axis=1), allowed)) if order.size else 0
    lost = left_out[n_small - 1] if n_small else np.zeros(series.tail.shape)
    kept = np.sort(np.concatenate([[0], order[n_small:]]))
    terms = series.terms
    return _Terms(terms.tau, terms.i[kept], terms.j[kept], terms.amplitudes[kept]), lost


def _all_terms(dims, peaks: FloatArray) -> tuple[np.ndarray, np.ndarray, FloatArray, FloatArray]:
    """Return powers i, j and weights of all terms, i + j < len(peaks), and bounds of them where a_k^2 <= peaks[k].

    The term i = j = 0, which the potential needs, comes first; its bound is infinite.
    """
    degree = len(peaks) - 1
    i, j = (x.ravel() for x in np.meshgrid(*[np.arange(0, degree + 1, 2)] * 2, indexing="ij"))
    i, j = i[i + j <= degree], j[i + j <= degree]
    k = np.maximum(i + j, 1)
    weights = 0.5 * np.exp(_log_moments(i, j, dims))
    angular = np.exp(xlogy(i, i / k) + xlogy(j, j / k))  # the maximum of c1^2i c2^2j
    bounds = weights * angular * peaks[i + j]
    bounds[0] = math.inf
    return i, j, weights, bounds


def _samples(box: Box, shift: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return points of the box, denser near 0; with a shift, those between."""
    u = (np.arange(_SAMPLES) + shift) / (_SAMPLES - 1 + shift)
    radii = u * u
    if box.b_max == 0.0:
        b = np.zeros(1)
    else:
        b = box.b_max * np.linspace(-1.0, 1.0, _OFFSET_SAMPLES + (shift > 0))
        radii = radii[::2]
    mesh = np.meshgrid(b, box.r1_max * radii, box.r2_max * radii, indexing="ij")
    return mesh[0].ravel(), mesh[1].ravel(), mesh[2].ravel()


def _kernel_scale(activation, deviations, samples) -> float:
    """Return max(1, max U) with the mean outputs alone in U, a lower bound that makes the tolerance stricter."""
    b, r1, r2 = samples
    squares = [activation.gaussian_mean(np.hypot(tau * r1, r2), offset=b) ** 2 for tau in deviations]
    return max(1.0, float(np.max(0.5 * (squares[0] + squares[1]))))


def _directions(table: FloatArray, allowed: float) -> FloatArray:
    """Return orthonormal rows that leave of each column, in squares, no more than ``allowed``."""
    rest = np.sum(table * table, axis=0)  # squares of what is left of each column
    rows = np.empty(table.shape[:1] * 2)
    n = 0
    while n < len(table) and np.max(rest, initial=0.0) > allowed:
        row = table[:, int(np.argmax(rest))]
        for _ in range(2):  # a second pass takes away what rounding has left
            row = row - np.einsum("kt,k->t", rows[:n], np.einsum("kt,t->k", rows[:n], row))
        rows[n] = row / np.sqrt(np.sum(row * row))
        rest -= np.einsum("t,tn->n", rows[n], table) ** 2
        n += 1
    return rows[:n].copy()


def _residual(rotation: FloatArray, table: FloatArray) -> float:
    """Return the largest sum of squares that the rows of ``rotation`` leave of a column."""
    if not table.size:
        return 0.0
    inside = np.einsum("kt,tn->kn", rotation, table)
    outside = table - np.einsum("kt,kn->tn", rotation, inside)
    return float(np.max(np.sum(outside * outside, axis=0)))


def without_constant_axes(*arrays: FloatArray) -> list[FloatArray]:
    """Return the arrays broadcast to one shape, with length 1 along every axis on which all of them are constant.

    On the mesh of a grid this leaves out the axes that a function does not depend on.
    """
    kept = list(np.broadcast_arrays(*arrays))
    for axis in range(kept[0].ndim):
        first, last = ([x.take([end], axis=axis) for x in kept] for end in (0, -1))
        if all(np.array_equal(x, y) for x, y in zip(first, last)) and all(
            np.array_equal(np.broadcast_to(y, x.shape), x) for x, y in zip(kept, first)
        ):
            kept = first
    return kept


def _log_moments(i: np.ndarray, j: np.ndarray, dims: tuple[float, float]) -> FloatArray:
    """Return the logarithm of binom(i + j, i) M_i M_j."""
    binomial = gammaln(i + j + 1.0) - gammaln(i + 1.0) - gammaln(j + 1.0)
    moments = [gammaln(0.5 * (k + 1)) - gammaln(0.5) + gammaln(0.5 * n) - gammaln(0.5 * (k + n))
               for k, n in zip((i, j), dims)]
    return binomial + moments[0] + moments[1]


def _power_moment(k: int, dims, square: FloatArray, other: FloatArray) -> FloatArray:
    """Return E (c1^2 cos t1 + c2^2 cos t2)^k, which falls as the even number k grows."""
    i = np.arange(0, k + 1, 2)
    weights = np.exp(_log_moments(i, k - i, dims))
    return np.sum(weights[:, None] * square ** i[:, None] * other ** (k - i)[:, None], axis=0)
