r"""Averages of a kernel over cells of a uniform grid, exact to rounding, for kernels singular at 0.

With k cells between two cells of widths h, and boxes over all axes,

.. math:: A_k = \int_{[-1/2, 1/2]^d} w((k + u) h)\,du, \qquad
          A^2_k = \int_{[-1, 1]^d} w((k + u) h) \prod_a (1 - |u_a|)\,du

are the mean of w between the center of one cell and all points of the other, and its mean between all points of both.
Away from 0 they are formed by Gauss rules, with the number of points that the distance of the singularity requires.
Near 0 the cells are cut into boxes that are small compared with their distance from 0; a box with a corner at 0 is
split into pyramids with their tips there (Duffy), where w is integrated along rays: in closed form for powers and
logarithms, otherwise by the double exponential rule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput

__all__ = ["Integrand", "box_rule", "cell_averages", "hat_rule", "ray_rule"]

Array = NDArray[np.float64]

#: Relative error of the Gauss rules.
ACCURACY = 1e-16
#: Largest number of points on each axis of a rule over a whole cell; where more are needed the cell is cut.
FAR_POINTS = 14
#: Points on each axis of the rule over a box near 0.
NEAR_POINTS = 18
#: A box near 0 is cut until its Bernstein ellipse free of singularities is this large on each axis,
NEAR_ELLIPSE = 2.8
#: and until it is no longer than this many lengths of the kernel.
NEAR_LENGTHS = 6.0
#: A box with a corner at 0 is cut until the ratio of its sides is at most this.
CORNER_RATIO = 2.0
#: Cuts of a box after which its average counts as divergent.
MAX_CUTS = 60
#: Relative agreement of two rules at which a function of unknown smoothness counts as integrated.
AGREEMENT = 1e-12
#: Values formed at a time.
BLOCK = 60_000


class Integrand(ABC):
    """The function to be averaged: a function of the displacement, smooth away from 0.

    Attributes
    ----------
    length : float
        Length on which it varies, beside the distance from 0; NaN if it is not known, so that rules are compared.
    breaks : tuple of float
        Displacement on each axis at which it may have a kink (half a period), infinite where there is none.
    """

    length: float
    breaks: tuple[float, ...]

    @abstractmethod
    def values(self, points: Array) -> Array:
        """Return values at displacements (d, m), shape (m,)."""

    @abstractmethod
    def rays(self, ends: Array, powers: Sequence[int]) -> Array:
        r"""Return :math:`\int_0^1 s^q w(s y)\,ds` for ends y (d, m) and powers q, shape (len(powers), m)."""


class _Boxes(NamedTuple):
    """Boxes in coordinates |y|, arrays (m, d), with weight alpha + beta |y| on an axis; values add up by owner."""

    low: Array
    high: Array
    alpha: Array
    beta: Array
    signs: Array
    owner: NDArray[np.intp]

    def take(self, rows) -> _Boxes:
        return _Boxes._make(a[rows] for a in self)

    def cut(self, axis, at) -> _Boxes:
        """Return both parts of each box, cut on its axis at its place."""
        rows = np.arange(len(self.low))
        low, high = self.low.copy(), self.high.copy()
        low[rows, axis], high[rows, axis] = at, at
        pairs = zip(self, self._replace(low=low))
        lower = self._replace(high=high)
        return _Boxes._make(np.concatenate([part, upper]) for part, (_, upper) in zip(lower, pairs))


def cell_averages(integrand: Integrand, offsets: Sequence[NDArray[np.intp]], widths: Sequence[float],
                  ) -> tuple[Array, Array]:
    """Return the means A and A^2 at the displacements offsets * widths of a tensor grid of integers.

    Returns
    -------
    single, double : arrays of shape (len(offsets[0]), ...)

    Raises
    ------
    InvalidInput
        If the function is not finite away from 0, or its integral does not converge.
    """
    shape = tuple(len(k) for k in offsets)
    cells = np.array([k.ravel() for k in np.meshgrid(*offsets, indexing="ij")], dtype=float).T
    h = np.array(widths, dtype=float)
    single = _average(integrand, cells, h, np.full(h.shape, 0.5), box_rule, _single_boxes)
    double = _average(integrand, cells, h, np.ones(h.shape), hat_rule, _double_boxes)
    return single.reshape(shape), double.reshape(shape)


def _average(integrand: Integrand, cells: Array, h: Array, reach: Array, rule, boxes) -> Array:
    counts = _points_needed(np.abs(cells) * h, reach * h, integrand.length)
    straddles = (np.abs(np.abs(cells) * h - np.array(integrand.breaks)) < (reach + 1e-9) * h).any(axis=1)
    near = (counts > FAR_POINTS) | straddles
    out = np.zeros(len(cells))
    for n in np.unique(counts[~near]):
        rows = np.flatnonzero((counts == n) & ~near)
        out[rows] = _by_rule(integrand, cells[rows], h, rule, int(n))
        if math.isnan(integrand.length):
            # Of unknown smoothness: rules of more points must agree.
            coarse, out[rows] = out[rows], _by_rule(integrand, cells[rows], h, rule, int(n) + 3)
            bad = ~(np.abs(coarse - out[rows]) <= AGREEMENT * np.abs(coarse).max())
            near[rows[bad]] = True
    rows = np.flatnonzero(near)
    if rows.size:
        out[rows] = _by_boxes(integrand, boxes(cells[rows], h), rows.size) / np.prod(h)
    return out


# -------------------------------------------------------------------- away from 0
def _by_rule(integrand: Integrand, cells: Array, h: Array, rule, n: int) -> Array:
    d = h.size
    nodes, weights = rule(n)
    points, weight = _tensor(nodes, weights, d)
    out = np.empty(len(cells))
    step = max(1, BLOCK // weight.size)
    for start in range(0, len(cells), step):
        block = cells[start:start + step]
        y = (block.T[:, :, None] + points[:, None, :]) * h[:, None, None]
        values = integrand.values(y.reshape(d, -1)).reshape(len(block), -1)
        out[start:start + step] = (values * weight).sum(axis=1)
    return out


def _tensor(nodes: Array, weights: Array, d: int) -> tuple[Array, Array]:
    """Return the product of a rule with itself on d axes: points (d, n^d), weights (n^d,); one of weight 1 if d = 0."""
    index = np.indices((nodes.size,) * d).reshape(d, nodes.size**d)
    return nodes[index], np.prod(weights[index], axis=0)


def _points_needed(centers: Array, reach: Array, length: float) -> NDArray[np.intp]:
    """Return points of a Gauss rule on each axis, for boxes of given half sides; FAR_POINTS + 1 if more are needed."""
    # No ellipse is smaller than 1, except by round-off.
    size = np.maximum(_ellipse(centers, reach).min(axis=1), 1.0 + 1e-9)
    points = 0.5 * -math.log(ACCURACY) / np.log(size)
    least = 2
    if math.isfinite(length):
        ratio = float((reach / length).max())
        # The decay of the Chebyshev coefficients of an exponential.
        while least <= FAR_POINTS and (2 * least * math.log(0.5 * ratio)
                                       > math.lgamma(2 * least + 1) + math.log(ACCURACY)):
            least += 1
    return np.clip(np.ceil(points), least, FAR_POINTS + 1).astype(np.intp)


def _ellipse(centers: Array, reach: Array) -> Array:
    """Return the size of the Bernstein ellipse on each axis of boxes in which a function of |y| is analytic, (m, d)."""
    out = np.empty(centers.shape)
    gap = np.maximum(centers - reach, 0.0) ** 2
    for axis in range(centers.shape[1]):
        others = np.sqrt(np.maximum(gap.sum(axis=1) - gap[:, axis], 0.0))
        half = reach[..., axis]
        z = (centers[:, axis] + 1j * others) / half
        root = np.sqrt(z * z - 1.0)
        out[:, axis] = np.maximum(np.abs(z + root), np.abs(z - root))
    return out


@lru_cache(maxsize=64)
def box_rule(n: int) -> tuple[Array, Array]:
    """Return the nodes and weights of Gauss' rule on [-1/2, 1/2]."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return 0.5 * nodes, 0.5 * weights


@lru_cache(maxsize=64)
def hat_rule(n: int) -> tuple[Array, Array]:
    """Return the nodes and weights of Gauss' rule with the weight 1 - |u| on [-1, 1]."""
    t, w = np.polynomial.legendre.leggauss(n + 2)
    u, w = 0.5 * (t + 1.0), 0.5 * w
    u, w = np.concatenate([-u, u]), np.tile(w * (1.0 - u), 2)
    # Recurrence of the orthogonal polynomials (Stieltjes); odd and even ones alternate.
    betas: list[float] = []
    before, now = np.zeros(u.size), np.ones(u.size)
    norm = float((w * now * now).sum())
    for _ in range(n - 1):
        after = u * now - (betas[-1] * before if betas else 0.0)
        new = float((w * after * after).sum())
        betas.append(new / norm)
        before, now, norm = now, after, new
    off = np.sqrt(betas)
    nodes, vectors = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors[0] ** 2


# -------------------------------------------------------------------- near 0
def _double_boxes(cells: Array, h: Array) -> _Boxes:
    """Return the support of the hat around each displacement, cut at its kinks."""
    return _product([[(k - 1.0, k, 1.0 - k, np.ones_like(k)), (k, k + 1.0, 1.0 + k, -np.ones_like(k))]
                     for k in cells.T], h)


def _single_boxes(cells: Array, h: Array) -> _Boxes:
    return _product([[(k - 0.5, k, np.ones_like(k), np.zeros_like(k)), (k, k + 0.5, np.ones_like(k), np.zeros_like(k))]
                     for k in cells.T], h)


def _product(intervals, h: Array) -> _Boxes:
    """Return the boxes from two intervals on each axis: low, high, and a weight alpha + beta y, in units of h."""
    d, m = len(intervals), intervals[0][0][0].size
    columns: list[list[Array]] = [[] for _ in range(5)]
    owner = np.tile(np.arange(m), 2**d)
    for axis, pair in enumerate(intervals):
        picked = [np.concatenate([pair[(choice >> axis) & 1][field] for choice in range(2**d)]) for field in range(4)]
        low, high, alpha, beta = picked
        negative = high <= 0
        low, high = np.where(negative, -high, low) * h[axis], np.where(negative, -low, high) * h[axis]
        for column, values in zip(columns, (low, high, alpha, np.where(negative, -beta, beta) / h[axis],
                                            np.where(negative, -1.0, 1.0))):
            column.append(values)
    return _Boxes._make([*(np.array(column).T for column in columns), owner])


def _by_boxes(integrand: Integrand, boxes: _Boxes, count: int) -> Array:
    """Return the integrals over boxes, summed by their owners."""
    out = np.zeros(count)
    unknown = math.isnan(integrand.length)
    longest = math.inf if unknown else integrand.length
    for axis, place in enumerate(integrand.breaks):
        across = (boxes.low[:, axis] < place) & (boxes.high[:, axis] > place)
        if across.any():
            parts = boxes.take(across).cut(axis, place)
            boxes = _Boxes._make(np.concatenate([a[~across], b]) for a, b in zip(boxes, parts))
    for level in range(MAX_CUTS):
        half = 0.5 * (boxes.high - boxes.low)
        corner = (boxes.low == 0).all(axis=1)
        longer = half / longest > NEAR_LENGTHS
        size = _ellipse(0.5 * (boxes.high + boxes.low), half)
        axis = np.where(longer.any(axis=1) | corner, half.argmax(axis=1), size.argmin(axis=1))
        split = np.where(corner, half.max(axis=1) > CORNER_RATIO * half.min(axis=1), size.min(axis=1) < NEAR_ELLIPSE)
        split |= longer.any(axis=1)
        done = boxes.take(~split & ~corner)
        value = _gauss(integrand, done, NEAR_POINTS)
        if unknown:
            coarse = _gauss(integrand, done, NEAR_POINTS - 4)
            scale = np.abs(value).max(initial=0.0) + np.abs(out).max(initial=0.0)
            bad = ~(np.abs(coarse - value) <= AGREEMENT * scale)
            split[np.flatnonzero(~split & ~corner)[bad]] = True
            axis = np.where(split & ~corner & (size.min(axis=1) >= NEAR_ELLIPSE), half.argmax(axis=1), axis)
            value = np.where(bad, 0.0, value)
        np.add.at(out, done.owner, value)
        tips = boxes.take(corner & ~split)
        np.add.at(out, tips.owner, _pyramids(integrand, tips))
        if not split.any():
            return out
        rows = np.flatnonzero(split)
        middle = 0.5 * (boxes.low + boxes.high)[rows, axis[rows]]
        boxes = boxes.take(rows).cut(axis[rows], middle)
        if level > 6 and len(boxes.low) > 200_000:
            break
    raise InvalidInput("w has averages over cells that do not converge: it is rough away from 0, or not "
                       "integrable at 0; give a table of averages")


def _gauss(integrand: Integrand, boxes: _Boxes, n: int) -> Array:
    d = boxes.low.shape[1]
    points, weight = _tensor(*np.polynomial.legendre.leggauss(n), d)
    out = np.empty(len(boxes.low))
    step = max(1, BLOCK // weight.size)
    for start in range(0, len(out), step):
        part = boxes.take(slice(start, start + step))
        half = 0.5 * (part.high - part.low)
        y = 0.5 * (part.high + part.low).T[:, :, None] + half.T[:, :, None] * points[:, None, :]
        factor = np.prod(part.alpha.T[:, :, None] + part.beta.T[:, :, None] * y, axis=0)
        values = integrand.values((part.signs.T[:, :, None] * y).reshape(d, -1)).reshape(factor.shape)
        out[start:start + step] = (values * factor * weight).sum(axis=1) * np.prod(half, axis=1)
    return out


def _pyramids(integrand: Integrand, boxes: _Boxes) -> Array:
    """Return integrals over boxes with a corner at 0: a pyramid an axis, y = s (high * t) with t = 1 on that axis."""
    m, d = boxes.high.shape
    out = np.zeros(m)
    if not m:
        return out
    points, weight = _tensor(*np.polynomial.legendre.leggauss(NEAR_POINTS + 2), d - 1)
    faces, weight = 0.5 * (points + 1.0), 0.5 ** (d - 1) * weight
    for axis in range(d):
        t = np.insert(faces, axis, 1.0, axis=0)
        y = boxes.high.T[:, :, None] * t[:, None, :]
        coefficients = [np.ones(y.shape[1:])]
        for alpha, slope in zip(boxes.alpha.T[:, :, None], boxes.beta.T[:, :, None] * y):
            shifted = [np.zeros(y.shape[1:]), *(slope * c for c in coefficients)]
            coefficients = [alpha * c + s for c, s in zip([*coefficients, np.zeros(y.shape[1:])], shifted)]
        ends = (boxes.signs.T[:, :, None] * y).reshape(d, -1)
        rays = integrand.rays(ends, range(d - 1, 2 * d)).reshape(d + 1, *y.shape[1:])
        out += (sum(c * ray for c, ray in zip(coefficients, rays)) * weight).sum(axis=1)
    return out * np.prod(boxes.high, axis=1)


@lru_cache(maxsize=1)
def ray_rule() -> tuple[Array, Array]:
    """Return the nodes and weights on [0, 1] for functions with a singularity at 0: the double exponential rule."""
    t = np.arange(-6.0, 3.7, 0.07)
    e = np.exp(-math.pi * np.abs(np.sinh(t)))
    s = np.where(t < 0, e, 1.0) / (1.0 + e)
    return s, 0.07 * math.pi * np.cosh(t) * e / (1.0 + e) ** 2
