r"""Sums :math:`\log \sum_y \exp(f(y) - |x - y|^2 / 2\varepsilon)` over uniform grids, axis by axis, and their averages.

Terms are exponentiated relative to the largest of their row: an epsilon far below the squared width of a cell, or
values that span thousands, neither overflow nor lose a cell. A row of the result needs the columns whose terms exceed
exp(-CUT) of its largest one, wherever they lie: the band follows the transport map and not the diagonal.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .jit import jit

__all__ = ["LogConvolution", "LogSum", "weighted_dot"]

#: Terms below exp(-CUT) of the largest one of their row are left out: below rounding, however many they are.
CUT = 44.0
#: From this many cells on two threads share the lines of a pass; the result has the same bits.
THREADED = 1 << 14
#: Rows of a tile, the largest that fits the table; four times as many columns share one table of exponentials.
TILES = (16, 8, 4, 2, 1)
#: The logarithm of the largest number in that table is at most this.
TABLE_RANGE = 550.0


class LogConvolution:
    r"""The Gaussian kernel :math:`K(x, y) = \exp(-|x - y|^2 / 2\varepsilon)` between the cells of a uniform grid.

    Parameters
    ----------
    shape : tuple of int
        Cells of each axis.
    widths : sequence of float
        Width of the cells of each axis.
    periodic : sequence of bool
        On a periodic axis the kernel is the sum over a point's images one period to either side.
    epsilon : float
    """

    def __init__(self, shape, widths, periodic, epsilon: float):
        self.shape, self.epsilon = tuple(shape), float(epsilon)
        self.axes = []
        for axis, (n, h, images) in enumerate(zip(shape, widths, periodic)):
            ratio = h * h / epsilon
            # Rows times columns from the middle of a tile: 2 T * T / 2 in units of ratio.
            tile = next((t for t in TILES if t * t * ratio <= TABLE_RANGE), 1)
            view = math.prod(shape[:axis]), n, math.prod(shape[axis + 1:])
            self.axes.append((view, bool(images), ratio, tile, _table(tile, ratio)))
        self._threads = ThreadPoolExecutor(2) if math.prod(shape) >= THREADED else None

    def __call__(self, values: np.ndarray) -> LogSum:
        r"""Return :math:`\log \sum_y K(x, y) e^{f(y)}`, with what is needed to average under it.

        Parameters
        ----------
        values : array of the grid's shape
            f; -infinity stands for an empty cell.
        """
        passes = []
        for axis in self.axes:
            values, done = self._pass(values, axis)
            passes.append(done)
        return LogSum(self, values, passes)

    def _pass(self, values: np.ndarray, axis):
        view, images, ratio, tile, table = axis
        lines, tiles = view[0] * view[2], -(-view[1] // tile)
        x, out = np.ascontiguousarray(values).reshape(view), np.empty(view)
        first, last = np.empty((2, lines, tiles), dtype=np.int64)
        self._run(find_windows, lines, x, images, ratio, tile, first, last)
        columns, chunks = np.empty((2, first.size + 1), dtype=np.int64)
        count_windows(first, last, tile, columns, chunks)
        weights, scales = np.empty(columns[-1]), np.empty((chunks[-1], tile))
        self._run(sum_windows, lines, x, images, ratio, tile, table, first, last, columns, chunks, weights, scales, out)
        return out.reshape(self.shape), (first, last, columns, chunks, weights, scales)

    def _run(self, function, lines: int, *arguments) -> None:
        """Run a compiled function over all lines, in two threads where that pays."""
        if self._threads is None or lines < 2:
            function(0, lines, *arguments)
            return
        half = lines // 2
        parts = [self._threads.submit(function, *ends, *arguments) for ends in ((0, half), (half, lines))]
        for part in parts:
            part.result()


class LogSum:
    r"""The sums of a `LogConvolution`, and averages :math:`\sum_y \pi(y | x) z(y)` with their terms as weights.

    Attributes
    ----------
    values : array of the grid's shape
        :math:`\log \sum_y K(x, y) e^{f(y)}`; -infinity where no cell is filled.
    """

    def __init__(self, convolution: LogConvolution, values: np.ndarray, passes):
        self.values = values
        self._convolution, self._passes = convolution, passes

    def average(self, z: np.ndarray) -> np.ndarray:
        r"""Return the mean of z under :math:`\pi(y | x) \propto K(x, y) e^{f(y)}`; 0 where no cell is filled."""
        convolution = self._convolution
        for (view, images, _, tile, table), done in zip(convolution.axes, self._passes):
            x, out = np.ascontiguousarray(z).reshape(view), np.empty(view)
            convolution._run(average_windows, view[0] * view[2], x, images, tile, table, *done, out)
            z = out
        return z.reshape(convolution.shape)


def _table(tile: int, ratio: float) -> np.ndarray:
    """Return exp(ratio a b), rows a from the middle of a tile, columns b from that of a chunk; shape (tile, 4 tile)."""
    rows = np.arange(tile) - 0.5 * (tile - 1)
    columns = np.arange(4 * tile) - 2.0 * tile
    return np.exp(ratio * rows[:, None] * columns)


@jit
def weighted_dot(weights, x, y):
    """Return the sum of w x y over flat arrays; the weights are not negative, and 0 where entries may be infinite."""
    total = 0.0
    for i in range(x.size):
        if weights[i] > 0.0:
            total += weights[i] * x[i] * y[i]
    return total


# -------------------------------------------------------------------- compiled, for lines start to stop
@jit
def _load(x, line, images, buffer):
    """Copy a line; on a periodic axis also its images to either side."""
    n, inner = x.shape[1], x.shape[2]
    outer, k = line // inner, line % inner
    for j in range(n):
        buffer[j] = x[outer, j, k]
    if images:
        for j in range(n):
            buffer[n + j] = buffer[j]
            buffer[2 * n + j] = buffer[j]


@jit
def _row_largest(f, first, last, half, row):
    """Return the largest term of one row among columns first to last."""
    best = -math.inf
    for j in range(first, last):
        best = max(best, f[j] - half * (row - j) ** 2)
    return best


@jit
def find_windows(start, stop, x, images, ratio, tile, first, last):
    """Find the columns that each tile of rows needs.

    Tiles of columns are kept or left out by bounds on their terms. The two ends are then trimmed exactly: a column at
    the left end weighs most in the first row, one at the right end in the last row.
    """
    n = x.shape[1]
    columns = 3 * n if images else n
    offset = n if images else 0
    half = 0.5 * ratio
    f = np.empty(columns)
    count = (columns + tile - 1) // tile
    places, peaks = np.empty(count, dtype=np.int64), np.empty(count)
    for line in range(start, stop):
        _load(x, line, images, f)
        for b in range(count):
            place = b * tile
            for j in range(b * tile, min((b + 1) * tile, columns)):
                if f[j] > f[place]:
                    place = j
            places[b], peaks[b] = place, f[place]
        for t in range(first.shape[1]):
            top, bottom = t * tile + offset, min((t + 1) * tile, n) - 1 + offset
            floor = -math.inf
            for b in range(count):
                far = max(abs(top - places[b]), abs(bottom - places[b]))
                floor = max(floor, peaks[b] - half * far * far)
            low, high = columns, 0
            if floor > -math.inf:
                for b in range(count):
                    near = max(0, b * tile - bottom, top - min((b + 1) * tile, columns) + 1)
                    if peaks[b] - half * near * near >= floor - CUT:
                        low, high = min(low, b * tile), min((b + 1) * tile, columns)
            if low >= high:
                first[line, t], last[line, t] = 0, 0
                continue
            bar = _row_largest(f, low, high, half, top) - CUT
            while f[low] - half * (top - low) ** 2 < bar:
                low += 1
            bar = _row_largest(f, low, high, half, bottom) - CUT
            while f[high - 1] - half * (bottom - high + 1) ** 2 < bar:
                high -= 1
            first[line, t], last[line, t] = low, high


@jit
def count_windows(first, last, tile, columns, chunks):
    """Fill where the columns, and the chunks of columns, of each tile begin among those of all tiles."""
    columns[0] = chunks[0] = 0
    index = 0
    for line in range(first.shape[0]):
        for t in range(first.shape[1]):
            width = last[line, t] - first[line, t]
            columns[index + 1] = columns[index] + width
            chunks[index + 1] = chunks[index] + (width + 4 * tile - 1) // (4 * tile)
            index += 1


@jit(fastmath={"reassoc", "contract"})
def _multiply(table, terms, width, sums):
    """Multiply the table by the first terms; sums may be reordered, since they are of positive numbers or averages."""
    for i in range(sums.size):
        total = 0.0
        for j in range(width):
            total += table[i, j] * terms[j]
        sums[i] = total


@jit
def sum_windows(start, stop, x, images, ratio, tile, table, first, last, columns, chunks, weights, scales, out):
    """Fill the sums, and for `average_windows` a weight for each column of a tile and a scale for each row.

    The exponent splits as (x - y)^2 = (c - y)^2 + 2 (c - m) a + 2 (m - y) a + a^2 with the middle c of the tile,
    a = x - c, and the middle m of a chunk of columns; the third term is in the table.
    """
    n, inner = x.shape[1], x.shape[2]
    offset = n if images else 0
    f = np.empty(3 * n if images else n)
    half, reach = 0.5 * ratio, 4 * tile
    sums, logs, terms = np.empty(tile), np.empty(tile), np.empty(reach)
    for line in range(start, stop):
        _load(x, line, images, f)
        outer, k = line // inner, line % inner
        for t in range(first.shape[1]):
            middle = t * tile + 0.5 * (tile - 1) + offset
            low, high = first[line, t], last[line, t]
            index = line * first.shape[1] + t
            at = columns[index] - low
            logs[:] = -math.inf
            for chunk in range(chunks[index], chunks[index + 1]):
                begin = low + (chunk - chunks[index]) * reach
                end = min(begin + reach, high)
                peak = -math.inf
                for j in range(begin, end):
                    peak = max(peak, f[j] - half * (middle - j) ** 2)
                for j in range(begin, end):
                    terms[j - begin] = math.exp(f[j] - half * (middle - j) ** 2 - peak) if f[j] > -math.inf else 0.0
                    weights[at + j] = terms[j - begin]
                _multiply(table, terms, end - begin, sums)
                for i in range(tile):
                    a = i - 0.5 * (tile - 1)
                    shift = peak - ratio * (middle - begin - 2 * tile) * a - half * a * a
                    if not (sums[i] > 0 and peak > -math.inf):
                        scales[chunk, i] = -math.inf
                        continue
                    new = shift + math.log(sums[i])
                    if chunks[index + 1] - chunks[index] == 1:
                        logs[i], scales[chunk, i] = new, 1.0 / sums[i]
                    else:
                        big = max(logs[i], new)
                        logs[i] = big + math.log(math.exp(logs[i] - big) + math.exp(new - big))
                        scales[chunk, i] = shift
            for chunk in range(chunks[index], chunks[index + 1]):
                for i in range(tile):
                    if scales[chunk, i] == -math.inf:
                        scales[chunk, i] = 0.0
                    elif chunks[index + 1] - chunks[index] > 1:
                        scales[chunk, i] = math.exp(scales[chunk, i] - logs[i])
            for i in range(min(tile, n - t * tile)):
                out[outer, t * tile + i, k] = logs[i]


@jit
def average_windows(start, stop, x, images, tile, table, first, last, columns, chunks, weights, scales, out):
    """Fill the averages whose weights are the terms of `sum_windows`."""
    n, inner = x.shape[1], x.shape[2]
    f = np.empty(3 * n if images else n)
    reach = 4 * tile
    sums, totals, terms = np.empty(tile), np.empty(tile), np.empty(reach)
    for line in range(start, stop):
        _load(x, line, images, f)
        outer, k = line // inner, line % inner
        for t in range(first.shape[1]):
            low, high = first[line, t], last[line, t]
            index = line * first.shape[1] + t
            at = columns[index] - low
            totals[:] = 0.0
            for chunk in range(chunks[index], chunks[index + 1]):
                begin = low + (chunk - chunks[index]) * reach
                end = min(begin + reach, high)
                for j in range(begin, end):
                    terms[j - begin] = weights[at + j] * f[j]
                _multiply(table, terms, end - begin, sums)
                for i in range(tile):
                    totals[i] += scales[chunk, i] * sums[i]
            for i in range(min(tile, n - t * tile)):
                out[outer, t * tile + i, k] = totals[i]
