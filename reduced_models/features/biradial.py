"""Features of the kernel between weights whose two blocks of coordinates have random directions."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wgflow.activations.base import Activation
from wgflow.errors import InvalidInput

from ..base import FloatArray
from ..data_rules import DataRule, radial_data
from .radial import tail_at_infinity

__all__ = ["BiradialFeatures", "Box", "Terms", "without_constant_axes"]

_BLOCK = 1 << 22  # numbers per temporary array
_TINY = 1e-300  # stands for s = 0


class Box(NamedTuple):
    """The box on which features are to be accurate: ``|b| <= b_max, 0 <= r1 <= r1_max, 0 <= r2 <= r2_max``."""

    b_max: float
    r1_max: float
    r2_max: float


class Terms(NamedTuple):
    """Terms of one class in one pair of windows: even powers of the two cosines, and amplitudes.

    ``scales`` are the factors of r1 and r2: tau and 1, times the standard deviations of the windows.
    """

    scales: tuple[float, float]
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

    Where a block has few dimensions the same terms at smaller scales of r1 or r2 join them, those of Gaussian windows
    (see `_block_quadrature`). The first two features are the terms with i = j = 0 of the two classes; the others are
    combinations of all. In the derivatives :math:`a_k = s D_{k-1}/\sqrt k`, :math:`D_k = \partial_b a_k`, so that
    nothing is divided by s:

    .. math:: \partial_{r_1} a_k c_1^i c_2^j = \tau \Bigl( \sqrt{k+1}\, D_{k+1} c_1
              + \frac{i}{\sqrt k} D_{k-1} c_1^{-1} \Bigr) c_1^i c_2^j, \qquad k = i + j .

    Parameters
    ----------
    activation : Activation
    groups : sequence of Terms
        Those of the class + in its first half, then those of the class -. The first term of each half has i = j = 0
        and no window.
    rotation : ndarray, shape (k - 2, terms)
        Coefficients of the features after the first two.
    error : float
        Bound of the kernel's error, relative to ``max(1, max U)``, over the box.

    Attributes
    ----------
    target : ndarray, shape (k,)
    """

    def __init__(self, activation: Activation, groups: Sequence[Terms], rotation: FloatArray, error: float):
        self.activation, self.groups, self.rotation, self.error = activation, tuple(groups), rotation, error
        self._highest = [max(int(np.max(powers)) for powers in pair)
                         for pair in zip(*((terms.i, terms.j) for terms in groups))]
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

    def data_rule(self, dims: tuple[float, float], box: Box) -> DataRule:
        """Return the data of the two classes with the functions that belong to the features.

        Raises
        ------
        InvalidInput
            Where windows serve a block of few dimensions, or the series does not hold fourth moments on the box.
        """
        refusal = InvalidInput(f"blocks of {dims} dimensions: where a block has few dimensions the noise of single "
                               "samples is not known; take blocks of more dimensions")
        if len(self.groups) != 2:
            raise refusal
        halves = [(terms.i // 2, terms.j // 2) for terms in self.groups]
        degrees = [max(int(half[k].max()) for half in halves) for k in (0, 1)]
        weights, (first, second) = radial_data(dims, degrees)
        terms = [math.sqrt(2.0) * first[:, i] * second[:, j] for i, j in halves]
        zeros = [np.zeros_like(table) for table in terms]
        both = np.block([[terms[0], zeros[1]], [zeros[0], terms[1]]])
        # The features are the first term of each class, and orthonormal combinations of all the others.
        means = both[:, [0, terms[0].shape[1]]]
        labels = np.repeat([1.0, -1.0], weights.size)
        rule = DataRule(0.5 * np.tile(weights, 2), labels, np.concatenate([means, both @ self.rotation.T], axis=1))
        if not self._holds_fourth_moments(rule, box):
            raise refusal
        return rule

    def _holds_fourth_moments(self, rule: DataRule, box: Box) -> bool:
        """Return whether the fourth moment of each neuron's mean output is below that of its output, as it must be."""
        points = [x.ravel() for x in np.meshgrid(*(np.linspace(low, high, 5) for low, high in (
            (-box.b_max, box.b_max), (0.0, box.r1_max), (0.0, box.r2_max))), indexing="ij")]
        series = rule.weights @ (rule.outputs @ self(*points)) ** 4
        z, weights = np.polynomial.hermite_e.hermegauss(60)
        spreads = [np.hypot(terms.scales[0] * points[1], terms.scales[1] * points[2]) for terms in self.groups]
        outputs = [self.activation.value(np.multiply.outer(z, s) + points[0]) for s in spreads]
        exact = 0.5 * sum(weights @ own**4 for own in outputs) / np.sum(weights)
        return bool(np.all(series <= 1.02 * exact + 1e-12))

    @property
    def at_infinity(self) -> tuple[FloatArray, float] | None:
        """The one limit of the features as r1 or r2 grows, and that of U(r, r); None where there is no such limit."""
        tail = tail_at_infinity(self.activation)
        if tail is None or not math.isfinite(tail[2]):
            return None
        same = copy.copy(self)
        same.activation = tail[0]  # a constant: the even Hermite coefficients from the second on tend to 0
        return same(np.zeros(()), np.ones(()), np.zeros(())), tail[2]

    def _parts(self, n: int) -> list[slice]:
        width = 4 * sum(c.i.size + c.degree for c in self.groups)
        size = max(1, _BLOCK // width)
        return [slice(first, first + size) for first in range(0, n, size)]

    def _combine(self, terms: list[FloatArray], out: FloatArray) -> None:
        out[0], out[1] = terms[0][0], terms[len(terms) // 2][0]
        out[2:] = 0.0
        first = 0
        for own in terms if len(out) > 2 else []:
            rotation = self.rotation[:, first : first + len(own)]
            first += len(own)
            if len(terms) > 2:  # many terms: worth a product by BLAS, whose rounding may depend on its threads
                out[2:] += (rotation @ own.reshape(len(own), -1)).reshape(-1, *own.shape[1:])
            else:
                out[2:] += np.einsum("kt,t...->k...", rotation, own)

    def terms(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return all terms, shape (terms, n), at n points."""
        return np.concatenate(self._terms(b, r1, r2))

    def _terms(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> list[FloatArray]:
        """Return the terms of each group, shape (terms, n)."""
        s, first, second = self._scales_and_powers(r1, r2)
        a = self.activation.hermite_coefficients(s, max(terms.degree for terms in self.groups), offset=b)
        return [terms.amplitudes[:, None] * a[terms.i + terms.j, m] * first[terms.i, m] * second[terms.j, m]
                for m, terms in enumerate(self.groups)]

    def _slopes(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> list[FloatArray]:
        """Return the terms of each group and their derivatives, shape (terms, 4, n)."""
        s, first, second = self._scales_and_powers(r1, r2)
        degree = max(terms.degree for terms in self.groups) + 1
        slopes = self.activation.hermite_coefficients(s, degree, offset=b, offset_order=1)
        means = self.activation.gaussian_mean(s, offset=b)
        result = []
        for m, terms in enumerate(self.groups):
            i, j, k = terms.i, terms.j, (terms.i + terms.j)[:, None]
            up = np.sqrt(k + 1.0) * slopes[i + j + 1, m]
            down = slopes[np.maximum(i + j - 1, 0), m] / np.sqrt(np.maximum(k, 1))
            both = first[i, m] * second[j, m]
            in_first = up * first[i + 1, m] + i[:, None] * down * first[np.maximum(i - 1, 0), m]
            in_second = up * second[j + 1, m] + j[:, None] * down * second[np.maximum(j - 1, 0), m]
            own = np.stack([
                np.where(k > 0, s[m] * down, means[m]) * both,
                slopes[i + j, m] * both,
                terms.scales[0] * in_first * second[j, m],
                terms.scales[1] * in_second * first[i, m],
            ], axis=1)
            result.append(terms.amplitudes[:, None, None] * own)
        return result

    def _scales_and_powers(self, r1: FloatArray, r2: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return s of all groups, shape (groups, n), and powers of the cosines, 0 at s = 0: (powers, groups, n)."""
        parts = np.array([[terms.scales[0] * r1, terms.scales[1] * r2] for terms in self.groups]).transpose(1, 0, 2)
        s = np.hypot(parts[0], parts[1])
        cosines = parts / np.maximum(s, _TINY)
        powers = []
        for cosine, highest in zip(cosines, self._highest):
            table = np.ones((highest + 2, *s.shape))
            for k in range(1, highest + 2):
                table[k] = table[k - 1] * cosine
            powers.append(table)
        return s, powers[0], powers[1]


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
