r"""Sparse factorization of symmetric matrices in blocks of two, A = W D^{-1} W', without pivoting.

It serves saddle-point matrices :math:`\begin{pmatrix} L & J^\top \\ J & -H \end{pmatrix}` with L and H positive
semi-definite and J a nonsingular M-matrix, ordered by cells: each pivot is the 2 x 2 block of a cell, and stays
regular. The order and the structure of the factor depend on the graph alone and are found once (`order_box`,
`structure`).

Column j of W holds the blocks (j, j) and (i, j), i > j, of the matrix after the elimination of columns 0 to j - 1.

References
----------
A. George, Nested dissection of a regular finite element mesh, SIAM J. Numer. Anal. 10 (1973) 345-363. T. A. Davis,
Direct Methods for Sparse Linear Systems, SIAM (2006).
"""

from __future__ import annotations

import numpy as np

from .jit import jit

__all__ = ["factor", "factor_scalar", "order_box", "solve", "solve_scalar", "structure"]

#: Boxes of at most this many cells are not cut further.
LEAF = 6


def order_box(shape: tuple[int, ...], periodic: tuple[bool, ...]) -> np.ndarray:
    """Return the cells of a box in an order of elimination with little fill: nested dissection; a line from end to end.

    Returns
    -------
    array of int64, shape (n,)
        ``order[k]`` is the cell eliminated in place k.
    """
    cells = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    parts: list[np.ndarray] = []
    last: list[np.ndarray] = []
    for axis, closed in enumerate(periodic):
        if closed and cells.shape[axis] > 2:
            # Without one plane a periodic axis is an open one.
            last.append(np.take(cells, 0, axis=axis).ravel())
            cells = np.delete(cells, 0, axis=axis)
    _dissect(cells, parts)
    return np.concatenate(parts + last[::-1])


def _dissect(cells: np.ndarray, parts: list[np.ndarray]) -> None:
    """Append the cells of a box: one side of a separating plane, the other side, the plane."""
    axis = int(np.argmax(cells.shape))
    n = cells.shape[axis]
    if cells.size <= LEAF or n < 3 or cells.size == n:
        parts.append(cells.ravel())
        return
    middle = n // 2
    left, plane, right = np.split(cells, [middle, middle + 1], axis=axis)
    _dissect(left, parts)
    _dissect(right, parts)
    parts.append(plane.ravel())


@jit
def structure(n, starts, neighbors):
    """Return the rows of each column of the factor below its diagonal, ascending: (column starts, rows).

    The graph is that of the matrix in the order of elimination, as rows: the neighbors of i are
    ``neighbors[starts[i]:starts[i + 1]]``.
    """
    marks = np.full(n, -1, dtype=np.int64)
    child, sibling = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    columns = np.zeros(n + 1, dtype=np.int64)
    rows = np.empty(max(8 * n, 16), dtype=np.int64)
    size = 0
    for j in range(n):
        begin = size
        marks[j] = j
        # Rows of column j come from the matrix, and from the columns whose first row is j.
        for s in range(starts[j], starts[j + 1]):
            i = neighbors[s]
            if i > j and marks[i] != j:
                marks[i] = j
                if size == rows.size:
                    rows = _longer(rows)
                rows[size] = i
                size += 1
        k = child[j]
        while k >= 0:
            for s in range(columns[k], columns[k + 1]):
                i = rows[s]
                if marks[i] != j:
                    marks[i] = j
                    if size == rows.size:
                        rows = _longer(rows)
                    rows[size] = i
                    size += 1
            k = sibling[k]
        columns[j + 1] = size
        if size > begin:
            _sort(rows, begin, size)
            parent = rows[begin]
            sibling[j], child[parent] = child[parent], j
    return columns, rows[:size].copy()


@jit
def _sort(x, start, stop):
    """Sort a run of entries in place (Shell 1959, gaps of Ciura 2001): NumPy's sort takes a second to compile."""
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(start + gap, stop):
            value, k = x[i], i
            while k >= start + gap and x[k - gap] > value:
                x[k] = x[k - gap]
                k -= gap
            x[k] = value


@jit
def _longer(array):
    new = np.empty(2 * array.size, dtype=array.dtype)
    for i in range(array.size):
        new[i] = array[i]
    return new


@jit
def factor(columns, rows, diagonal, coupling, cells, edge_starts, edge_rows, edges, flipped, blocks, inverses):
    """Fill ``blocks`` (size of rows, 4) and the inverse pivots ``inverses`` (n, 3); False where a pivot is singular.

    ``diagonal`` (n, 3) and ``coupling`` (m, 3) are the matrix as `wgflow.compiled.linearized.assemble` gives it. Cell
    ``cells[j]`` is eliminated in place j; the edges from it to later places ``edge_rows`` are ``edges``, ``flipped``
    where the later place is the first cell of the edge.
    """
    n = cells.size
    work = np.zeros((n, 4))
    head, following = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    place = np.empty(n, dtype=np.int64)
    for j in range(n):
        c = cells[j]
        a, b, d = diagonal[c, 0], diagonal[c, 1], diagonal[c, 2]
        for s in range(edge_starts[j], edge_starts[j + 1]):
            e, i = edges[s], edge_rows[s]
            # Block (i, j): rows of cell i, columns of cell j.
            work[i, 0] = coupling[e, 0]
            if flipped[s]:
                work[i, 1], work[i, 2] = coupling[e, 2], coupling[e, 1]
            else:
                work[i, 1], work[i, 2] = coupling[e, 1], coupling[e, 2]
        k = head[j]
        while k >= 0:
            after = following[k]
            s = place[k]
            # Y = D_k^{-1} W_jk'.
            x0, x1, x2 = inverses[k, 0], inverses[k, 1], inverses[k, 2]
            w0, w1, w2, w3 = blocks[s, 0], blocks[s, 1], blocks[s, 2], blocks[s, 3]
            y0, y1 = x0 * w0 + x1 * w1, x0 * w2 + x1 * w3
            y2, y3 = x1 * w0 + x2 * w1, x1 * w2 + x2 * w3
            a -= w0 * y0 + w1 * y2
            b -= w0 * y1 + w1 * y3
            d -= w2 * y1 + w3 * y3
            for t in range(s + 1, columns[k + 1]):
                i = rows[t]
                v0, v1, v2, v3 = blocks[t, 0], blocks[t, 1], blocks[t, 2], blocks[t, 3]
                work[i, 0] -= v0 * y0 + v1 * y2
                work[i, 1] -= v0 * y1 + v1 * y3
                work[i, 2] -= v2 * y0 + v3 * y2
                work[i, 3] -= v2 * y1 + v3 * y3
            s += 1
            place[k] = s
            if s < columns[k + 1]:
                following[k], head[rows[s]] = head[rows[s]], k
            k = after
        determinant = a * d - b * b
        if not abs(determinant) > 0.0 or not np.isfinite(determinant):
            return False
        inverses[j, 0], inverses[j, 1], inverses[j, 2] = d / determinant, -b / determinant, a / determinant
        for t in range(columns[j], columns[j + 1]):
            i = rows[t]
            for r in range(4):
                blocks[t, r] = work[i, r]
                work[i, r] = 0.0
        if columns[j] < columns[j + 1]:
            place[j] = columns[j]
            i = rows[columns[j]]
            following[j], head[i] = head[i], j
    return True


@jit
def solve(columns, rows, blocks, inverses, cells, right, x):
    """Solve A x = right, both of shape (n, 2) in the order of the cells."""
    n = cells.size
    z = np.empty((n, 2))
    for j in range(n):
        z[j, 0], z[j, 1] = right[cells[j], 0], right[cells[j], 1]
    for j in range(n):
        u = inverses[j, 0] * z[j, 0] + inverses[j, 1] * z[j, 1]
        v = inverses[j, 1] * z[j, 0] + inverses[j, 2] * z[j, 1]
        z[j, 0], z[j, 1] = u, v
        for t in range(columns[j], columns[j + 1]):
            i = rows[t]
            z[i, 0] -= blocks[t, 0] * u + blocks[t, 1] * v
            z[i, 1] -= blocks[t, 2] * u + blocks[t, 3] * v
    for j in range(n - 1, -1, -1):
        u, v = 0.0, 0.0
        for t in range(columns[j], columns[j + 1]):
            i = rows[t]
            u += blocks[t, 0] * z[i, 0] + blocks[t, 2] * z[i, 1]
            v += blocks[t, 1] * z[i, 0] + blocks[t, 3] * z[i, 1]
        z[j, 0] -= inverses[j, 0] * u + inverses[j, 1] * v
        z[j, 1] -= inverses[j, 1] * u + inverses[j, 2] * v
        x[cells[j], 0], x[cells[j], 1] = z[j, 0], z[j, 1]


# -------------------------------------------------------------------- one unknown a cell
@jit
def factor_scalar(columns, rows, diagonal, coupling, cells, edge_starts, edge_rows, edges, values, inverses):
    """As `factor`, for a matrix with the entries ``diagonal`` (n,) and ``coupling`` (m,) in place of blocks."""
    n = cells.size
    work = np.zeros(n)
    head, following = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    place = np.empty(n, dtype=np.int64)
    for j in range(n):
        pivot = diagonal[cells[j]]
        for s in range(edge_starts[j], edge_starts[j + 1]):
            work[edge_rows[s]] = coupling[edges[s]]
        k = head[j]
        while k >= 0:
            after = following[k]
            s = place[k]
            y = inverses[k] * values[s]
            pivot -= values[s] * y
            for t in range(s + 1, columns[k + 1]):
                work[rows[t]] -= values[t] * y
            s += 1
            place[k] = s
            if s < columns[k + 1]:
                following[k], head[rows[s]] = head[rows[s]], k
            k = after
        if not abs(pivot) > 0.0 or not np.isfinite(pivot):
            return False
        inverses[j] = 1.0 / pivot
        for t in range(columns[j], columns[j + 1]):
            values[t] = work[rows[t]]
            work[rows[t]] = 0.0
        if columns[j] < columns[j + 1]:
            place[j] = columns[j]
            i = rows[columns[j]]
            following[j], head[i] = head[i], j
    return True


@jit
def solve_scalar(columns, rows, values, inverses, cells, right, x):
    """Solve A x = right, both of shape (n,) in the order of the cells, with the factor of `factor_scalar`."""
    n = cells.size
    z = np.empty(n)
    for j in range(n):
        z[j] = right[cells[j]]
    for j in range(n):
        z[j] *= inverses[j]
        for t in range(columns[j], columns[j + 1]):
            z[rows[t]] -= values[t] * z[j]
    for j in range(n - 1, -1, -1):
        u = 0.0
        for t in range(columns[j], columns[j + 1]):
            u += values[t] * z[rows[t]]
        z[j] -= inverses[j] * u
        x[cells[j]] = z[j]
