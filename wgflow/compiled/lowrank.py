"""Products with low-rank and dense symmetric matrices, in one fixed order of summation whatever the thread count.

BLAS changes its order with the number of threads, and with it the last bits; these loops do not.
"""

from __future__ import annotations

import numpy as np

from .jit import jit


@jit(fastmath={"reassoc", "contract"})
def rows_dot(rows, x):
    """Return ``rows @ x`` for rows of shape (k, n)."""
    k, n = rows.shape
    out = np.empty(k)
    for a in range(k):
        total = 0.0
        for i in range(n):
            total += rows[a, i] * x[i]
        out[a] = total
    return out


@jit(fastmath={"contract"})
def combine_rows(rows, z):
    """Return ``rows.T @ z`` for rows of shape (k, n)."""
    k, n = rows.shape
    out = np.zeros(n)
    for a in range(k):
        factor = z[a]
        for i in range(n):
            out[i] += rows[a, i] * factor
    return out


@jit(apart=True, fastmath={"contract"})
def _add_rows(a0, a1, a2, a3, b0, b1, b2, b3, x0, x1, x2, x3, c, d):
    """Add to two rows combinations of four, which are then read once for both."""
    for j in range(c.size):
        c[j] += a0 * x0[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j]
        d[j] += b0 * x0[j] + b1 * x1[j] + b2 * x2[j] + b3 * x3[j]


@jit
def _add_product(a, x, out):
    """Add ``a @ x`` to out."""
    p, q = a.shape
    fours, twos = q - q % 4, p - p % 2
    for k in range(0, fours, 4):
        for i in range(0, twos, 2):
            _add_rows(a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3], a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2],
                      a[i + 1, k + 3], x[k], x[k + 1], x[k + 2], x[k + 3], out[i], out[i + 1])
    for i in range(p):
        for k in range(0 if i >= twos else fours, q):
            for j in range(out.shape[1]):
                out[i, j] += a[i, k] * x[k, j]


@jit(unrolled=False)
def along_axis(matrix, transposed, x):
    """Return the products of a matrix (k, n) with all lines of x, (outer, n, inner), along its middle axis.

    ``transposed`` is the same matrix as (n, k), in C order like the others.
    """
    outer, n, inner = x.shape
    k = matrix.shape[0]
    out = np.zeros((outer, k, inner))
    if inner == 1:
        _add_product(x.reshape(outer, n), transposed, out.reshape(outer, k))
    else:
        for o in range(outer):
            _add_product(matrix, x[o], out[o])
    return out


@jit(apart=True, fastmath={"nnan", "nsz", "reassoc"})
def _largest(row):
    """Return the largest absolute value."""
    most = 0.0
    for j in range(row.size):
        most = max(most, abs(row[j]))
    return most


@jit(unrolled=False)
def cross_factors(rest, least, left, right):
    """Fill left (n, k) and right (k, n) so that left @ right is a matrix but for entries of at most ``least``.

    By elimination with complete pivoting of the matrix ``rest``, which is overwritten. Return the number of columns
    that it took, or -1 if k are not enough.
    """
    n = rest.shape[0]
    for k in range(left.shape[1] + 1):
        most, row, column = 0.0, 0, 0
        for i in range(n):
            here = _largest(rest[i])
            if here > most:
                most, row = here, i
        if most <= least:
            return k
        if k == left.shape[1]:
            break
        for j in range(n):
            if abs(rest[row, j]) == most:
                column = j
        pivot = rest[row, column]
        for i in range(n):
            left[i, k] = rest[i, column]
            right[k, i] = rest[row, i] / pivot
        for i in range(n):
            factor = left[i, k]
            for j in range(n):
                rest[i, j] -= factor * right[k, j]
    return -1
