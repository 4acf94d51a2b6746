"""Smooth extension of a function from some cells of a grid to the others, layer by layer."""

from __future__ import annotations

import numpy as np

from .jit import jit

#: A new value is fitted to those within this many cells to each side.
REACH = 3
#: Ridge on the fitted slopes, relative to the sum of the weights: it keeps the fit solvable where cells are few.
RIDGE = 1e-3


@jit
def _mirrored(i, n):
    if i < 0:
        i = -1 - i
    return 2 * n - 1 - i if i >= n else i


@jit
def _fit(values, level, here, i, j, k, system, right):
    """Return the value at a cell of a plane fitted to the lower levels around it; near cells weigh more."""
    n0, n1, n2 = values.shape
    r0, r1, r2 = min(REACH, n0 - 1), min(REACH, n1 - 1), min(REACH, n2 - 1)
    system[:] = 0.0
    right[:] = 0.0
    for a in range(-r0, r0 + 1):
        for b in range(-r1, r1 + 1):
            for c in range(-r2, r2 + 1):
                u, v, w = _mirrored(i + a, n0), _mirrored(j + b, n1), _mirrored(k + c, n2)
                if 0 <= level[u, v, w] < here:
                    weight, value = 1.0 / (a * a + b * b + c * c), values[u, v, w]
                    row = (1.0, float(a), float(b), float(c))
                    for p in range(4):
                        right[p] += weight * row[p] * value
                        for q in range(4):
                            system[p, q] += weight * row[p] * row[q]
    for p in range(1, 4):
        system[p, p] += RIDGE * system[0, 0]
    # Symmetric elimination from the slopes to the value.
    for p in range(3, 0, -1):
        for q in range(p):
            factor = system[q, p] / system[p, p]
            right[q] -= factor * right[p]
            for s in range(p):
                system[q, s] -= factor * system[p, s]
    return right[0] / system[0, 0]


@jit
def extend(values, known, layers):
    """Extend in place from the known cells: linearly through a number of layers around them, by averages beyond.

    Parameters
    ----------
    values : array of three axes (some of length 1)
    known : array of bool of its shape, True somewhere
    layers : int
    """
    n0, n1, n2 = values.shape
    level = np.full(values.shape, -1, np.int32)
    queue = np.empty((values.size, 3), np.int32)
    system, right = np.empty((4, 4)), np.empty(4)
    head, tail = 0, 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if known[i, j, k]:
                    level[i, j, k] = 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if known[i, j, k]:
                    tail = _enqueue(level, queue, tail, i, j, k)
    while head < tail:
        i, j, k = queue[head]
        head += 1
        here = level[i, j, k]
        if here <= layers:
            values[i, j, k] = _fit(values, level, here, i, j, k, system, right)
        else:
            values[i, j, k] = _mean(values, level, here, i, j, k)
        tail = _enqueue(level, queue, tail, i, j, k)


@jit
def _enqueue(level, queue, tail, i, j, k):
    """Assign the next level to the neighbors that have none, and append them to the queue; return its new end."""
    n0, n1, n2 = level.shape
    for u in range(max(i - 1, 0), min(i + 2, n0)):
        for v in range(max(j - 1, 0), min(j + 2, n1)):
            for w in range(max(k - 1, 0), min(k + 2, n2)):
                if level[u, v, w] < 0:
                    level[u, v, w] = level[i, j, k] + 1
                    queue[tail, 0], queue[tail, 1], queue[tail, 2] = u, v, w
                    tail += 1
    return tail


@jit
def _mean(values, level, here, i, j, k):
    n0, n1, n2 = level.shape
    total, count = 0.0, 0
    for u in range(max(i - 1, 0), min(i + 2, n0)):
        for v in range(max(j - 1, 0), min(j + 2, n1)):
            for w in range(max(k - 1, 0), min(k + 2, n2)):
                if 0 <= level[u, v, w] < here:
                    total += values[u, v, w]
                    count += 1
    return total / count
