r"""Multigrid V-cycles for symmetric positive definite systems of cells and the edges between them.

.. math:: (A x)_i = d_i x_i + \sum_{j \sim i} w_{ij} (x_i - x_j), \qquad d, w \ge 0

on arrays of three axes (some of length 1). Coarse cells are pairs along each axis; an edge between two of them has half
the sum of the edges that it replaces, as its ends are twice as far apart. One cycle with Gauss-Seidel relaxation,
forward before and backward after the coarse correction, is a symmetric positive definite operation: a preconditioner
for conjugate gradients whose quality does not suffer when coefficients vary over many orders of magnitude.
"""

from __future__ import annotations

import numpy as np

from .jit import jit

#: A level of at most this many cells is solved by relaxation alone,
COARSEST = 12
#: in this many pairs of sweeps.
COARSEST_SWEEPS = 8


@jit
def _rows_around(x, b, e0, e1, i, j, out):
    """Write b plus the sum of w_ij x_j over the neighbors of row (i, j) along the first two axes."""
    n0, n1, n2 = x.shape
    for k in range(n2):
        out[k] = b[i, j, k]
    if j > 0:
        w, other = e1[i, j - 1], x[i, j - 1]
        for k in range(n2):
            out[k] += w[k] * other[k]
    if j < n1 - 1:
        w, other = e1[i, j], x[i, j + 1]
        for k in range(n2):
            out[k] += w[k] * other[k]
    if i > 0:
        w, other = e0[i - 1, j], x[i - 1, j]
        for k in range(n2):
            out[k] += w[k] * other[k]
    if i < n0 - 1:
        w, other = e0[i, j], x[i + 1, j]
        for k in range(n2):
            out[k] += w[k] * other[k]


@jit
def _relax(x, b, inverse, e0, e1, e2, row, forward):
    """Do one Gauss-Seidel sweep in place; ``inverse`` is the reciprocal of the diagonal, ``row`` scratch."""
    n0, n1, n2 = x.shape
    for a in range(n0):
        i = a if forward else n0 - 1 - a
        for c in range(n1):
            j = c if forward else n1 - 1 - c
            _rows_around(x, b, e0, e1, i, j, row)
            line, w, scale = x[i, j], e2[i, j], inverse[i, j]
            if forward:
                for k in range(n2 - 1):
                    row[k] += w[k] * line[k + 1]
                last = 0.0
                for k in range(n2):
                    last = row[k] * scale[k] + last * (w[k - 1] * scale[k]) if k > 0 else row[k] * scale[k]
                    line[k] = last
            else:
                for k in range(1, n2):
                    row[k] += w[k - 1] * line[k - 1]
                last = 0.0
                for k in range(n2 - 1, -1, -1):
                    last = row[k] * scale[k] + last * (w[k] * scale[k]) if k < n2 - 1 else row[k] * scale[k]
                    line[k] = last


@jit
def _restrict_residual(x, b, inverse, e0, e1, e2, row, coarse, f0, f1, f2):
    """Sum b - A x over coarse cells; the factors f are 2 along the axes that are coarsened and 1 along the others."""
    n0, n1, n2 = x.shape
    coarse[:] = 0.0
    for i in range(n0):
        for j in range(n1):
            _rows_around(x, b, e0, e1, i, j, row)
            line, w, scale, target = x[i, j], e2[i, j], inverse[i, j], coarse[i // f0, j // f1]
            for k in range(n2 - 1):
                row[k] += w[k] * line[k + 1]
                row[k + 1] += w[k] * line[k]
            for k in range(n2):
                row[k] -= line[k] / scale[k]
            if f2 == 1:
                for k in range(n2):
                    target[k] += row[k]
            else:
                for k in range(n2 // 2):
                    target[k] += row[2 * k] + row[2 * k + 1]
                if n2 % 2 == 1:
                    target[n2 // 2] += row[n2 - 1]


@jit
def _prolong(x, coarse, f0, f1, f2):
    """Add the coarse values to the cells of each coarse cell."""
    n0, n1, n2 = x.shape
    for i in range(n0):
        for j in range(n1):
            line, source = x[i, j], coarse[i // f0, j // f1]
            if f2 == 1:
                for k in range(n2):
                    line[k] += source[k]
            else:
                for k in range(n2 // 2):
                    line[2 * k] += source[k]
                    line[2 * k + 1] += source[k]
                if n2 % 2 == 1:
                    line[n2 - 1] += source[n2 // 2]


@jit
def add_bending(v, weight, scale, flow, out):
    r"""Add :math:`s\,D^T w\,D v` to ``out``, D the second difference along the middle axis, mirrored at its ends.

    Parameters
    ----------
    v, weight, flow, out : arrays of one shape of three axes
        ``flow`` is scratch.
    scale : float
        s.
    """
    before, n, after = v.shape
    for b in range(before):
        for i in range(n):
            low, high = max(i - 1, 0), min(i + 1, n - 1)
            for a in range(after):
                flow[b, i, a] = scale * weight[b, i, a] * (v[b, low, a] - 2.0 * v[b, i, a] + v[b, high, a])
        for i in range(n):
            low, high = max(i - 1, 0), min(i + 1, n - 1)
            for a in range(after):
                out[b, i, a] += flow[b, low, a] - 2.0 * flow[b, i, a] + flow[b, high, a]


def _sums(array: np.ndarray, axis: int) -> np.ndarray:
    """Return the sums of pairs along an axis; an odd last entry stays alone."""
    return np.add.reduceat(array, np.arange(0, array.shape[axis], 2), axis=axis)


class Multigrid:
    """V-cycles for one matrix.

    Parameters
    ----------
    diagonal : array
        d, at least 0 and somewhere above; 1 to 3 axes.
    edges : list of arrays
        For each axis the weights w between neighbors along it: one entry less along that axis, positive.
    """

    def __init__(self, diagonal: np.ndarray, edges: list[np.ndarray]):
        extra = 3 - diagonal.ndim
        self.shape = diagonal.shape
        d = diagonal.reshape((1,) * extra + diagonal.shape)
        w = [np.zeros((0, *d.shape[1:])), np.zeros((1, 0, d.shape[2]))][:extra]
        w += [e.reshape((1,) * extra + e.shape) for e in edges]
        self.levels = []
        while True:
            total = d.copy()
            for axis, e in enumerate(w):
                lower, upper = [slice(None)] * 3, [slice(None)] * 3
                lower[axis], upper[axis] = slice(0, e.shape[axis]), slice(1, e.shape[axis] + 1)
                total[tuple(lower)] += e
                total[tuple(upper)] += e
            factors = tuple(2 if n > 2 else 1 for n in d.shape)
            last = d.size <= COARSEST or factors == (1, 1, 1)
            self.levels.append((1.0 / total, [*w, np.empty(d.shape[2])], factors, np.empty_like(d), last))
            if last:
                return
            d, w = self._coarsened(d, w, factors)

    @staticmethod
    def _coarsened(d, w, factors):
        for axis in range(3):
            if factors[axis] == 2:
                d = _sums(d, axis)
                # Only edges between different pairs survive: the odd ones.
                w = [0.5 * e.take(np.arange(1, e.shape[axis], 2), axis) if a == axis else _sums(e, axis)
                     for a, e in enumerate(w)]
        return np.ascontiguousarray(d), [np.ascontiguousarray(e) for e in w]

    def cycle(self, b: np.ndarray) -> np.ndarray:
        """Return an approximate solution of A x = b, linear and symmetric in b."""
        return self._cycle(0, b.reshape(self.levels[0][0].shape)).reshape(self.shape).copy()

    def _cycle(self, level: int, b: np.ndarray) -> np.ndarray:
        inverse, w, factors, x, last = self.levels[level]
        x[:] = 0.0
        _relax(x, b, inverse, *w, True)
        if last:
            for _ in range(COARSEST_SWEEPS):
                _relax(x, b, inverse, *w, True)
                _relax(x, b, inverse, *w, False)
            _relax(x, b, inverse, *w, False)
            return x
        coarse = np.empty_like(self.levels[level + 1][3])
        _restrict_residual(x, b, inverse, *w, coarse, *factors)
        _prolong(x, self._cycle(level + 1, coarse), *factors)
        _relax(x, b, inverse, *w, False)
        return x
