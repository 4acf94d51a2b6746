"""The choice of few features for two blocks: a series, or a series in windows where a block has few dimensions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag
from scipy.special import xlogy

from wgflow.activations.base import Activation
from wgflow.errors import WGFlowWarning

from ..base import FloatArray
from ..radial_laws import cosine_moments
from .biradial import BiradialFeatures, Box, Terms
from .block_quadrature import Windows, kernel_diagonal, largest_rows, log_moments, plain, residual, windowed_polynomials

__all__ = ["choose_biradial_features"]

_DEGREES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # tried one after the other
_SMOOTH_DEGREES = (16, 28, 40)  # where coefficients come from quadrature, which resolves degrees up to 42
_SAMPLES = 41  # values of each radius at which errors are measured
_OFFSET_SAMPLES = 13  # values of the offset at which they are measured, where there is one
_MOST_TERMS = 1300  # of a class; more would make the features slow, and rarely much better
_TINY = 1e-300  # stands for s = 0
# The tolerance is shared out among three errors. The first two are bounds that are rarely reached.
_TAIL = 0.3  # the tail of the series beyond its degree
_TERMS = 0.3  # single terms left out
_DIRECTIONS = 0.4  # directions left out among combinations of terms
_CLOSED_PAIRS = (0, 2)  # activations whose pair expectation is a closed form
_FEW = 12  # dimensions of a block in which windows may be shorter than a long series
_LONG_SERIES = 500  # terms from which on windows are tried
_SIZES = (6, 8, 12, 16, 24, 32, 48, 64, 96)  # polynomials in each window, tried one after the other
_SMALL_PLANS = ((3, 6), (4, 6), (5, 6), (5, 8))  # windows and polynomials in each, where both blocks are small
_MOST_COLUMNS = 24  # even powers of the cosine of a block of many dimensions
_FINE = 161  # samples of the length of a small block, which shows the kinks
_FINE_BESIDE = 21  # samples of the length of the other block
_FINE_BOTH = 45  # samples of each length where both blocks are small
_FINE_WITH_OFFSET = (61, 9, 25)  # the same three numbers where there is an offset
_MOST_WINDOW_TERMS = 1600  # of a class
_COARSE = (1, 13, 13)  # samples of offset and lengths at which the diagonal is formed by quadrature
_COARSE_WITH_OFFSET = (5, 9, 9)  # the same where there is an offset
_RELAXED = 1e-3  # an error that is worth a warning even where no tolerance was asked for

_Pair = tuple[float, float]
_Points = tuple[FloatArray, FloatArray, FloatArray]


def choose_biradial_features(
    activation: Activation,
    deviations: tuple[float, float],
    dims: tuple[float, float],
    box: Box,
    tolerance: float,
    relax: bool = False,
    windows: bool = True,
) -> BiradialFeatures:
    """Return few features that reproduce the kernel on the box.

    By the Cauchy-Schwarz inequality the largest error of what is left out of a positive kernel lies on the diagonal.
    There it is the sum of three parts: the tail of the series, at most its next power moment times what remains of the
    second moment of the activation; single terms, added up; and the directions in the space of terms that are left out
    because no point of the box needs them, by a Gram-Schmidt process that takes the worst point next. Where a block has
    few dimensions and the series is long, windows join it; their tail is the difference to the diagonal by quadrature.

    Parameters
    ----------
    dims : (float, float)
        Dimensions of the two blocks; both infinite in the limit, where two features are exact.
    tolerance : float
        Relative to ``max(1, max U)`` on the box.
    relax : bool
        Where the longest series misses the tolerance, allow twice its tail: more features would not help.
    windows : bool
        Whether windows may join the series; without them ``error`` alone tells of a tolerance that is missed.
    """
    if math.isinf(dims[0]):
        zero = np.zeros(1, dtype=np.int64)
        plus, minus = (Terms((tau, 1.0), zero, zero, np.full(1, math.sqrt(0.5))) for tau in deviations)
        return BiradialFeatures(activation, (plus, minus), np.zeros((0, 2)), 0.0)
    samples = _samples(box, 0.0)
    scale = _kernel_scale(activation, deviations, samples)
    series = [_cut_series(activation, tau, dims, samples, tolerance * scale) for tau in deviations]
    if not windows:
        return _from_series(activation, series, box, tolerance, scale, relax)
    tail = float(np.max(series[0].tail + series[1].tail)) / scale
    n_terms = sum(one.terms.i.size for one in series)
    possible = activation.kernel_arguments().code in _CLOSED_PAIRS and min(dims) <= _FEW
    if possible and (tail > _TAIL * tolerance or n_terms > _LONG_SERIES):
        found = _choose_windows(activation, deviations, dims, box, tolerance * scale, scale, relax)
        if found.error <= tolerance or found.error <= tail:
            return _checked(found, dims, tolerance, relax)
    return _checked(_from_series(activation, series, box, tolerance, scale, relax), dims, tolerance, relax)


def _checked(found: BiradialFeatures, dims: _Pair, tolerance: float, relax: bool) -> BiradialFeatures:
    """Return the features, with a warning where they miss the tolerance that was asked for."""
    if found.error > (max(tolerance, _RELAXED) if relax else tolerance):
        warnings.warn(f"the kernel is accurate to {found.error:.1e}, not to tolerance={tolerance:.1e}, with "
                      f"{found.target.size} features: an activation with kinks converges slowly where a block has few "
                      f"dimensions ({min(dims):g} here)", WGFlowWarning, stacklevel=5)
    return found


def _from_series(
    activation: Activation, series: list[_Series], box: Box, tolerance: float, scale: float, relax: bool
) -> BiradialFeatures:
    """Return the features of the cut series of both classes."""
    allowed = tolerance * scale
    tail = series[0].tail + series[1].tail
    if relax:
        allowed = max(allowed, 2.0 * float(np.max(tail)))
    (plus, lost), (minus, also_lost) = (_without_small_terms(one, 0.5 * _TERMS * allowed) for one in series)
    tail = tail + lost + also_lost
    n = plus.i.size  # the first term of each class is its mean output, a feature of its own
    return _compressed(
        activation, [plus, minus], lambda terms: np.delete(terms, [0, n], axis=0),
        lambda rows: np.insert(rows, [0, n - 1], 0.0, axis=1), _DIRECTIONS * allowed, float(np.max(tail)), scale,
        math.inf, lambda shift: _samples(box, shift),
    )


def _compressed(
    activation: Activation,
    groups: list[Terms],
    combine: Callable[[FloatArray], FloatArray],
    expand: Callable[[FloatArray], FloatArray],
    allowed: float,
    tail: float,
    scale: float,
    goal: float,
    sample: Callable[[float], _Points],
) -> BiradialFeatures:
    """Return features in the directions that points of the box need, among orthonormal combinations of the terms.

    ``combine`` turns a table of terms into one of these combinations, ``expand`` turns their coefficients into those of
    the terms. Where the points between the samples keep the error above ``goal``, more directions are taken.
    """
    everything = BiradialFeatures(activation, groups, np.zeros((0, sum(g.i.size for g in groups))), 0.0)
    # Points between the samples have no part in the choice.
    table, check = (combine(everything.terms(*sample(shift))) for shift in (0.0, 0.5))
    for share in (allowed, 0.3 * allowed, 0.1 * allowed):
        directions = largest_rows(table, share)
        rest = max(residual(directions, table), residual(directions, check))
        if tail + rest <= goal or tail > goal:
            break
    return BiradialFeatures(activation, groups, expand(directions), (tail + rest) / scale)


# -------------------------------------------------------------------- windows
class _WindowTerms:
    """The terms of both classes for products of functions of the two lengths, and their orthonormal combinations."""

    def __init__(
        self, activation: Activation, deviations: _Pair, dims: _Pair, products: list[tuple[Windows, Windows]]
    ):
        v1, i = (np.concatenate([np.repeat(getattr(first, name), second.powers.size) for first, second in products])
                 for name in ("variances", "powers"))
        v2, j = (np.concatenate([np.tile(getattr(second, name), first.powers.size) for first, second in products])
                 for name in ("variances", "powers"))
        order = np.lexsort((j, i, -v2, -v1))  # the mean output comes first
        v1, v2, i, j = v1[order], v2[order], i[order], j[order]
        blocks = [np.kron(first.combinations, second.combinations) for first, second in products]
        self.combinations = block_diag(*blocks)[order]
        logs = 0.5 * (log_moments(i, j, dims) + dims[0] * np.log(v1) + dims[1] * np.log(v2))
        amplitudes = math.sqrt(0.5) * np.exp(logs)
        pairs = np.stack([v1, v2])
        starts = np.flatnonzero(np.append(True, np.any(pairs[:, 1:] != pairs[:, :-1], axis=0)))
        self.groups = [
            Terms((tau * math.sqrt(v1[k]), math.sqrt(v2[k])), i[k:end], j[k:end], amplitudes[k:end])
            for tau in deviations for k, end in zip(starts, np.append(starts[1:], i.size))
        ]
        self.size = i.size
        self.activation = activation

    def combine(self, terms: FloatArray) -> FloatArray:
        """Return the combinations of a table of terms, but for the mean outputs, those of the class + first."""
        return np.concatenate([self.combinations[:, 1:].T @ half for half in np.split(terms, 2)])

    def expand(self, rows: FloatArray) -> FloatArray:
        """Return the coefficients of the terms that rows of coefficients of the combinations stand for."""
        return np.concatenate([half @ self.combinations[:, 1:].T for half in np.split(rows, 2, axis=1)], axis=1)

    def diagonal(self, points: _Points) -> FloatArray:
        """Return the sum of squares of all combinations."""
        everything = BiradialFeatures(self.activation, self.groups, np.zeros((0, 2 * self.size)), 0.0)
        halves = np.split(everything.terms(*points), 2)
        return sum(np.sum((self.combinations.T @ half) ** 2, axis=0) for half in halves)


def _choose_windows(
    activation: Activation, deviations: _Pair, dims: _Pair, box: Box, allowed: float, scale: float, relax: bool
) -> BiradialFeatures:
    """Return the features from windows in the lengths of blocks of few dimensions, as few as the tolerance allows."""
    points = _mesh(box, _COARSE if box.b_max == 0.0 else _COARSE_WITH_OFFSET, 2, 0.0)
    diagonal = kernel_diagonal(activation, deviations, dims, points)
    plans = _full_plans if max(dims) <= _FEW else _growing_plans
    tail = math.inf
    chosen: list[tuple[Windows, Windows]] = []
    for products, found in plans(activation, deviations, dims, points, allowed, diagonal):
        n_terms = sum(first.powers.size * second.powers.size for first, second in products)
        if chosen and n_terms > _MOST_WINDOW_TERMS:
            break
        rest = float(np.max(diagonal - found))
        if rest >= tail:
            break
        tail, chosen = max(rest, 0.0), products
        if tail <= _TAIL * allowed:
            break
    terms = _WindowTerms(activation, deviations, dims, chosen)
    share = 0.5 * (allowed - tail) if tail < 0.8 * allowed else 0.5 * max(allowed, tail if relax else 0.0)
    sizes = _window_samples(dims, box.b_max > 0.0)
    return _compressed(activation, terms.groups, terms.combine, terms.expand, share, tail, scale,
                       max(allowed, 1.6 * tail if relax else 0.0), lambda shift: _mesh(box, sizes, 3, shift))


def _window_samples(dims: _Pair, with_offset: bool) -> tuple[int, int, int]:
    """Return numbers of samples of b, r1 and r2; kinks show in the length of the small block, where the other is 0."""
    fine, beside, both = _FINE_WITH_OFFSET if with_offset else (_FINE, _FINE_BESIDE, _FINE_BOTH)
    if max(dims) <= _FEW:
        return _OFFSET_SAMPLES, both, both
    return (_OFFSET_SAMPLES, fine, beside) if dims[0] < dims[1] else (_OFFSET_SAMPLES, beside, fine)


_Plans = Iterator[tuple[list[tuple[Windows, Windows]], FloatArray]]


def _full_plans(
    activation: Activation, deviations: _Pair, dims: _Pair, points: _Points, allowed: float, diagonal: FloatArray
) -> _Plans:
    """Yield products of windows in both lengths and their part of the kernel's diagonal."""
    for scales, size in _SMALL_PLANS:
        first, second = (windowed_polynomials(int(n), scales, size) for n in dims)
        products = [(first, second)]
        yield products, _WindowTerms(activation, deviations, dims, products).diagonal(points)


def _growing_plans(
    activation: Activation, deviations: _Pair, dims: _Pair, points: _Points, allowed: float, diagonal: FloatArray
) -> _Plans:
    """Yield products of windows in the length of the small block with polynomials of the other, and their diagonal.

    Polynomials in the length of the block of many dimensions converge fast. Each of them gets as many windows as help.
    """
    few, many = min(dims), max(dims)
    moments = cosine_moments(many, _MOST_COLUMNS) * float(np.max(diagonal))
    smooth = activation.kernel_arguments().code != 0
    n_columns = max(1, min(int(np.count_nonzero(moments > 0.02 * allowed)), 12 if smooth else _MOST_COLUMNS))
    scales = 7 if few <= 2 else 5
    columns: list[tuple[Windows, Windows] | None] = [None] * n_columns
    parts, settled = np.zeros((n_columns, diagonal.size)), np.zeros(n_columns, dtype=bool)
    for size in _SIZES:
        if smooth and 2 * (size + n_columns) - 3 > _SMOOTH_DEGREES[-1] + 1:
            break
        windows = windowed_polynomials(int(few), scales, size)
        for k in np.flatnonzero(~settled):
            pair = (windows, plain(2 * int(k)))
            trial = pair if dims[0] == few else pair[::-1]
            part = _WindowTerms(activation, deviations, dims, [trial]).diagonal(points)
            settled[k] = float(np.max(part - parts[k])) <= 0.02 * allowed / n_columns
            if not settled[k] or columns[0] is None:  # the mean outputs stay, even those of an odd activation
                columns[k], parts[k] = trial, part
        yield [column for column in columns if column is not None], np.sum(parts, axis=0)
        if settled.all():
            break


class _Series(NamedTuple):
    """A series of one class: its terms, their diagonal at samples (terms, n), and a bound of what is left out (n,)."""

    terms: Terms
    diagonal: FloatArray
    tail: FloatArray


def _cut_series(activation: Activation, tau: float, dims: _Pair, samples: _Points, allowed: float) -> _Series:
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
    return _Series(Terms((tau, 1.0), i, j, np.sqrt(weights)), diagonal, tail)


def _without_small_terms(series: _Series, allowed: float) -> tuple[Terms, FloatArray]:
    """Return the terms without the smallest, and the diagonal of these at the samples, at most ``allowed``."""
    peaks = np.max(series.diagonal, axis=1)
    peaks[0] = math.inf  # the potential needs i = j = 0
    order = np.argsort(peaks, kind="stable")[:-1]
    left_out = np.cumsum(series.diagonal[order], axis=0)
    n_small = int(np.searchsorted(np.max(left_out, axis=1), allowed)) if order.size else 0
    lost = left_out[n_small - 1] if n_small else np.zeros(series.tail.shape)
    kept = np.sort(np.concatenate([[0], order[n_small:]]))
    terms = series.terms
    return Terms(terms.scales, terms.i[kept], terms.j[kept], terms.amplitudes[kept]), lost


def _all_terms(dims: _Pair, peaks: FloatArray) -> tuple[np.ndarray, np.ndarray, FloatArray, FloatArray]:
    """Return powers i, j and weights of all terms, i + j < len(peaks), and bounds of them where a_k^2 <= peaks[k].

    The term i = j = 0, which the potential needs, comes first; its bound is infinite.
    """
    degree = len(peaks) - 1
    i, j = (x.ravel() for x in np.meshgrid(*[np.arange(0, degree + 1, 2)] * 2, indexing="ij"))
    i, j = i[i + j <= degree], j[i + j <= degree]
    k = np.maximum(i + j, 1)
    weights = 0.5 * np.exp(log_moments(i, j, dims))
    angular = np.exp(xlogy(i, i / k) + xlogy(j, j / k))  # the maximum of c1^2i c2^2j
    bounds = weights * angular * peaks[i + j]
    bounds[0] = math.inf
    return i, j, weights, bounds


def _samples(box: Box, shift: float) -> _Points:
    """Return points of the box, denser near 0; with a shift, those between."""
    n = _SAMPLES if box.b_max == 0.0 else (_SAMPLES + 1) // 2
    return _mesh(box, (_OFFSET_SAMPLES, n, n), 2, shift)


def _mesh(box: Box, sizes: tuple[int, int, int], power: int, shift: float) -> _Points:
    """Return a mesh of the box; the radii are powers of evenly spaced numbers."""
    u1, u2 = ((np.arange(n) + shift) / (n - 1 + shift) for n in sizes[1:])
    b = np.zeros(1) if box.b_max == 0.0 else box.b_max * np.linspace(-1.0, 1.0, sizes[0] + (shift > 0.0))
    mesh = np.meshgrid(b, box.r1_max * u1**power, box.r2_max * u2**power, indexing="ij")
    return mesh[0].ravel(), mesh[1].ravel(), mesh[2].ravel()


def _kernel_scale(activation: Activation, deviations: _Pair, samples: _Points) -> float:
    """Return max(1, max U) with the mean outputs alone in U, a lower bound that makes the tolerance stricter."""
    b, r1, r2 = samples
    squares = [activation.gaussian_mean(np.hypot(tau * r1, r2), offset=b) ** 2 for tau in deviations]
    return max(1.0, float(np.max(0.5 * (squares[0] + squares[1]))))


def _power_moment(k: int, dims: _Pair, square: FloatArray, other: FloatArray) -> FloatArray:
    """Return E (c1^2 cos t1 + c2^2 cos t2)^k, which falls as the even number k grows."""
    i = np.arange(0, k + 1, 2)
    weights = np.exp(log_moments(i, k - i, dims))
    return np.sum(weights[:, None] * square ** i[:, None] * other ** (k - i)[:, None], axis=0)
