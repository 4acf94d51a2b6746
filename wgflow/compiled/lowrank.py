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
