"""Operators that form U rho on a grid: one for each form of a kernel."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from wgflow.checks import check_memory
from wgflow.compiled.lowrank import combine_rows, rows_dot
from wgflow.contracts import Contract
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .kernel_checks import EXACTNESS, asymmetric, check_displacement_table, check_sampled_symmetry, kernel_at
from .kinked_kernels import kink_of_features, kink_of_rows, mend_displacements, mend_pairs
from .named_kernels import Kernel
from .separable import separable

__all__ = ["BlockOperator", "CellPairsOperator", "ConvolutionOperator", "InteractionOperator", "LowRankOperator",
           "TableOperator", "table_of_kernel"]
#: Entries of a dense kernel that are evaluated at a time (8 MB a block).
BLOCK_ENTRIES = 1_000_000
#: Arrays of such a block that evaluating a function takes.
BLOCK_ARRAYS = 6
#: FFTs of at least this many points use both cores; the result has the same bits.
THREADED_FFT = 1 << 17


class InteractionOperator(Contract):
    """The map from the masses of cells to U rho at their centers, linear and symmetric.

    A subclass gives `apply` and `form`. The other attributes are for methods that can use a special form; each is None
    where the operator does not have it.

    Attributes
    ----------
    form : str
        The form in words.
    shape : tuple of int
        The grid's shape.
    features, signs : array of shape (k, size), array of shape (k,), or None
        With them :math:`U = \\sum_k s_k \\phi_k \\phi_k'`.
    transform : array or None
        The real eigenvalues of a convolution, in the order of its padded Fourier transform.
    table : array or None
        The kernel between all pairs of cells, or at the displacements of the Fourier transform.
    w : callable or None
        The kernel as a function of the displacement.
    kernel : Kernel or None
        The same if it is a kernel of `wgflow.interactions`.
    average : bool, "double" or None
        Whether the kernel was averaged over cells.
    self_drop : float
        By how much the kernel's average at displacement 0 falls in cells of half the width; 0 for kernels that are
        finite there.
    kink : str
        In words where the kernel has a kink at which sums over cells lose their order; empty if none is known.
    exponent : float
        The a of the least :math:`|x - y|^a` that is not smooth where two points meet and whose sums keep a higher
        order than 2: of averages over cells, and 1 of tables mended at a kink. NaN if it is not known.
    """

    form: str
    shape: tuple[int, ...]
    features: np.ndarray | None = None
    signs: np.ndarray | None = None
    transform: np.ndarray | None = None
    table: np.ndarray | None = None
    w: Callable[..., np.ndarray] | None = None
    kernel: Kernel | None = None
    average: bool | str | None = None
    kink: str = ""
    exponent: float = math.inf

    @abstractmethod
    def apply(self, masses: np.ndarray) -> np.ndarray:
        """Return U rho at the cell centers, of the grid's shape, from cell masses."""

    @property
    def self_drop(self) -> float:
        return 0.0

    @property
    def working_bytes(self) -> float:
        """Bytes that `apply` takes for a moment, at most."""
        return 16.0 * math.prod(self.shape)


class ConvolutionOperator(InteractionOperator):
    """U rho by fast Fourier transforms: zero-padded on no-flux axes, circular on periodic ones.

    For a kernel that is a product of smooth functions of one coordinate each, by short products along each axis.
    """

    table: np.ndarray

    def __init__(self, w, grid: Grid, average=None):
        from scipy import fft

        from .kernel_tables import displacement_table

        if not all(grid.uniform):
            raise InvalidInput("Convolution(w) needs a uniform grid; on given edges take a function of two points, "
                               "Dense(lambda x, y: w(x - y))")
        self.w, self.kernel = w if callable(w) else None, w if isinstance(w, Kernel) else None
        self.shape, self.grid, self.average = grid.shape, grid, average
        self.lengths = tuple(n if p else fft.next_fast_len(2 * n - 1, real=True)
                             for n, p in zip(grid.shape, grid.periodic))
        self.workers = 2 if np.prod(self.lengths) >= THREADED_FFT else 1
        check_memory(8.0 * (grid.ndim + 5) * math.prod(self.lengths), f"a kernel on {grid.size} cells: its table of "
                     f"{' x '.join(map(str, self.lengths))} displacements", "take fewer cells, or LowRank")
        kernel, how = displacement_table(w, grid, self.lengths, average)
        check_displacement_table(kernel, grid)
        mirrored = np.roll(np.flip(kernel), 1, axis=tuple(range(grid.ndim)))
        self.table = 0.5 * (kernel + mirrored)
        if self.kernel is not None:
            self.exponent = self.kernel.exponent
        elif average:
            self.exponent = math.nan
        elif callable(w):
            self.kink, self.exponent = mend_displacements(self.table, grid)
        elif mend_displacements(self.table.copy(), grid) != ("", math.inf):
            # A table is taken as it is: it may hold averages.
            self.exponent = math.nan
        self.separable = separable(self.table, grid.shape)
        sizes, kind = (self.lengths, "FFT") if self.separable is None else (self.separable.ranks, "products")
        self.form = f"convolution, {' x '.join(map(str, sizes))} {kind}" + (f" of {how}" if how else "")
        if self.separable is None:
            # Now, where running out of memory is expected.
            _ = self.transform

    @cached_property
    def transform(self) -> np.ndarray:  # type: ignore[override]
        from scipy import fft

        # A view of the real parts would keep the imaginary ones in memory.
        return np.ascontiguousarray(fft.rfftn(self.table).real)

    @cached_property
    def self_drop(self) -> float:
        from .kernel_tables import self_drop

        return self_drop(self.w, self.grid, self.average)

    @property
    def working_bytes(self) -> float:
        return 16.0 * math.prod(self.lengths if self.separable is None else self.shape)

    def apply(self, masses: np.ndarray) -> np.ndarray:
        if self.separable is not None:
            return self.separable.apply(masses)
        from scipy import fft

        # Axis by axis, so that rows of padding zeros are never transformed.
        lengths, ndim, workers = self.lengths, masses.ndim, self.workers
        x = fft.rfft(masses, lengths[-1], axis=-1, workers=workers)
        for axis in range(ndim - 2, -1, -1):
            x = fft.fft(x, lengths[axis], axis=axis, overwrite_x=True, workers=workers)
        x *= self.transform
        for axis in range(ndim - 1):
            x = fft.ifft(x, axis=axis, overwrite_x=True, workers=workers)
            x = x[(slice(None),) * axis + (slice(0, self.shape[axis]),)]
        return fft.irfft(x, lengths[-1], axis=-1, workers=workers)[..., :self.shape[-1]]


class LowRankOperator(InteractionOperator):
    """U rho by features: two products with a matrix of k rows."""

    def __init__(self, features: np.ndarray, signs: np.ndarray, grid: Grid):
        self.features = np.ascontiguousarray(features.reshape(len(features), grid.size))
        self.signs, self.shape, self.grid = signs, grid.shape, grid
        self.form = f"low rank, {len(features)} features"

    @cached_property
    def kink(self) -> str:
        return kink_of_features(np.asarray(self.features), self.grid, self.signs)

    def apply(self, masses: np.ndarray) -> np.ndarray:
        z = rows_dot(self.features, masses.ravel())
        return combine_rows(self.features, self.signs * z).reshape(self.shape)


class TableOperator(InteractionOperator):
    """U rho by the table of the kernel between all cells; the given table is kept, and made symmetric in place.

    Parameters
    ----------
    table : array (n, n)
    grid : Grid
    mend : bool
        Whether the table holds values at points, whose diagonal is mended where the kernel has a kink there. Others
        are taken as they are: they may hold averages.
    """

    table: np.ndarray

    def __init__(self, table: np.ndarray, grid: Grid, mend: bool = True):
        _symmetrize(table)
        if mend:
            self.kink, self.exponent = mend_pairs(table, grid)
        elif kink_of_rows(table.__getitem__, grid):
            self.exponent = math.nan
        self.table, self.shape = table, grid.shape
        self.form = f"dense table, {table.shape[0]} x {table.shape[1]}"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        return rows_dot(self.table, masses.ravel()).reshape(self.shape)


class CellPairsOperator(TableOperator):
    """U rho by the table of a named kernel between cells of different widths, without a Fourier transform."""

    def __init__(self, w: Kernel, grid: Grid, average=None):
        from .cell_pairs import pair_table

        super().__init__(pair_table(w, grid, average), grid, mend=False)
        self.w = self.kernel = w
        self.grid, self.average, self.exponent = grid, average, w.exponent
        self.form += " of cell averages" if (not w.smooth if average is None else average) else ""

    @cached_property
    def self_drop(self) -> float:
        from .kernel_tables import self_drop

        return self_drop(self.w, self.grid, self.average)


class BlockOperator(InteractionOperator):
    """U rho by blocks of rows that are evaluated at each product, for tables that are too large for the memory."""

    def __init__(self, U, grid: Grid):
        check_sampled_symmetry(U, grid)
        self.U, self.grid, self.shape = U, grid, grid.shape
        self.form = "dense, evaluated on the fly"
        self.kink = kink_of_rows(lambda cell: kernel_at(U, grid, cell, np.arange(grid.size)), grid)

    def apply(self, masses: np.ndarray) -> np.ndarray:
        out = np.empty(self.grid.size)
        for block, rows in _rows_of_kernel(self.U, self.grid):
            out[block] = rows_dot(rows, masses.ravel())
        return out.reshape(self.grid.shape)

    @property
    def working_bytes(self) -> float:
        return 8.0 * BLOCK_ARRAYS * max(BLOCK_ENTRIES, self.grid.size)


def table_of_kernel(U, grid: Grid) -> np.ndarray:
    """Return the values of a function of two points between all cells, (n, n), evaluated by blocks of rows."""
    table = np.empty((grid.size, grid.size))
    for block, rows in _rows_of_kernel(U, grid):
        table[block] = rows
    return table


def _rows_of_kernel(U, grid: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows of the table of a kernel, and which they are."""
    n = grid.size
    step, columns = max(1, BLOCK_ENTRIES // n), np.arange(n)[None, :]
    for start in range(0, n, step):
        stop = min(n, start + step)
        yield slice(start, stop), kernel_at(U, grid, np.arange(start, stop)[:, None], columns)


def _symmetrize(table: np.ndarray) -> None:
    """Replace a table by the mean of itself and its transpose, in place, or refuse it."""
    n = len(table)
    step, scale, worst, place = max(1, BLOCK_ENTRIES // max(1, n)), 0.0, 0.0, (0, 0)
    blocks = [slice(start, min(n, start + step)) for start in range(0, n, step)]
    for block in blocks:
        rows = table[block]
        if not np.isfinite(rows).all():
            i, j = (int(k) for k in np.argwhere(~np.isfinite(rows))[0])
            raise InvalidInput(f"U is {rows[i, j]} between cells {block.start + i} and {j}; it must be finite")
        gap = np.abs(rows - table[:, block].T)
        scale = max(scale, float(np.abs(rows).max()))
        if gap.max() > worst:
            worst = float(gap.max())
            i, j = (int(k) for k in np.unravel_index(gap.argmax(), gap.shape))
            place = block.start + i, j
    if worst > EXACTNESS * scale:
        i, j = place
        raise asymmetric(table[i, j], table[j, i], f"cells {i} and {j}")
    for block in blocks:
        # What lies before the block has been done together with its mirror image.
        mean = 0.5 * (table[block, block.start:] + table[block.start:, block].T)
        table[block, block.start:], table[block.start:, block] = mean, mean.T
