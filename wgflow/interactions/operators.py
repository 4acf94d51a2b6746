"""Operators that form U rho on a grid: one for each form of a kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property

import numpy as np

from wgflow.compiled.lowrank import combine_rows, rows_dot
from wgflow.contracts import Contract
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .kernel_checks import EXACTNESS, asymmetric, check_displacement_table, check_sampled_symmetry, kernel_at
from .named_kernels import Kernel

__all__ = ["BlockOperator", "CellPairsOperator", "ConvolutionOperator", "InteractionOperator", "LowRankOperator",
           "TableOperator"]
#: Entries of a dense kernel that are evaluated at a time (32 MB a block).
BLOCK_ENTRIES = 4_000_000
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

    @abstractmethod
    def apply(self, masses: np.ndarray) -> np.ndarray:
        """Return U rho at the cell centers, of the grid's shape, from cell masses."""

    @property
    def self_drop(self) -> float:
        return 0.0


class ConvolutionOperator(InteractionOperator):
    """U rho by fast Fourier transforms: zero-padded on no-flux axes, circular on periodic ones."""

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
        kernel, how = displacement_table(w, grid, self.lengths, average)
        check_displacement_table(kernel, grid)
        mirrored = np.roll(np.flip(kernel), 1, axis=tuple(range(grid.ndim)))
        self.table = 0.5 * (kernel + mirrored)
        self.transform = fft.rfftn(self.table).real
        self.form = f"convolution, {' x '.join(map(str, self.lengths))} FFT" + (f" of {how}" if how else "")

    @cached_property
    def self_drop(self) -> float:
        from .kernel_tables import self_drop

        return self_drop(self.w, self.grid, self.average)

    def apply(self, masses: np.ndarray) -> np.ndarray:
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
        self.signs, self.shape = signs, grid.shape
        self.form = f"low rank, {len(features)} features"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        z = rows_dot(self.features, masses.ravel())
        return combine_rows(self.features, self.signs * z).reshape(self.shape)


class TableOperator(InteractionOperator):
    """U rho by the table of the kernel between all cells."""

    def __init__(self, table: np.ndarray, grid: Grid):
        if not np.isfinite(table).all():
            i, j = (int(k) for k in np.argwhere(~np.isfinite(table))[0])
            raise InvalidInput(f"U is {table[i, j]} between cells {i} and {j}; it must be finite")
        gap = np.abs(table - table.T)
        scale = np.abs(table).max()
        if gap.max() > EXACTNESS * scale:
            i, j = (int(k) for k in np.unravel_index(gap.argmax(), gap.shape))
            raise asymmetric(table[i, j], table[j, i], f"cells {i} and {j}")
        self.table, self.shape = np.ascontiguousarray(0.5 * (table + table.T)), grid.shape
        self.form = f"dense table, {table.shape[0]} x {table.shape[1]}"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        return rows_dot(self.table, masses.ravel()).reshape(self.shape)


class CellPairsOperator(TableOperator):
    """U rho by the table of a named kernel between cells of different widths, without a Fourier transform."""

    def __init__(self, w: Kernel, grid: Grid, average=None):
        from .cell_pairs import pair_table

        super().__init__(pair_table(w, grid, average), grid)
        self.w = self.kernel = w
        self.grid, self.average = grid, average
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

    def apply(self, masses: np.ndarray) -> np.ndarray:
        n = self.grid.size
        rows = max(1, BLOCK_ENTRIES // n)
        out = np.empty(n)
        for start in range(0, n, rows):
            block = np.arange(start, min(n, start + rows))
            out[block] = rows_dot(kernel_at(self.U, self.grid, block[:, None], np.arange(n)[None, :]), masses.ravel())
        return out.reshape(self.grid.shape)
