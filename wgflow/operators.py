"""How U rho is formed on a grid: an operator for each form of a kernel, and what tells which form a kernel has."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from wgflow.errors import InvalidInput
from wgflow.grids import Grid, call_user, real_array
from wgflow.kernels.lowrank import combine_rows, rows_dot
from wgflow.singular_kernels import Kernel

__all__ = ["BlockOperator", "CellPairsOperator", "ConvolutionOperator", "LowRankOperator", "TableOperator",
           "check_sampled_symmetry", "circular_offsets", "depends_on_displacement", "displacement_kernel", "kernel_at",
           "low_rank_factors"]

#: Relative agreement at which a sampled kernel counts as symmetric, as a convolution, or as of low rank.
EXACTNESS = 1e-11
#: Random pairs of cells on which a kernel's form is checked.
SAMPLED_PAIRS = 512
#: Cells sampled to find a kernel's numerical rank, and the largest rank that is still called low.
RANK_SAMPLE, RANK_LIMIT = 300, 96
#: Entries of a dense kernel evaluated at a time on the fly (32 MB a block).
BLOCK_ENTRIES = 4_000_000
#: FFTs of at least this many points use both cores; the result has the same bits.
THREADED_FFT = 1 << 17


class ConvolutionOperator:
    """U rho by FFT.

    Attributes
    ----------
    w : callable or None
        The kernel as a function of the displacement; None for a table.
    kernel : Kernel or None
        The same where it is a named kernel.
    table : array
        The kernel at the displacements of the FFT.
    form : str
    self_drop : float
        By how much the kernel's average at displacement 0 falls in cells of half the width, where it is infinite at 0.
    """

    def __init__(self, w, grid: Grid, average=None):
        from scipy import fft

        from wgflow._kernel_tables import displacement_table

        if not all(grid.uniform):
            raise InvalidInput("Convolution needs a uniform grid; on given edges use Interaction(U) of two points")
        self.w, self.kernel = w if callable(w) else None, w if isinstance(w, Kernel) else None
        self.shape, self.grid, self.average = grid.shape, grid, average
        self.lengths = tuple(n if p else fft.next_fast_len(2 * n - 1, real=True)
                             for n, p in zip(grid.shape, grid.periodic))
        self.workers = 2 if np.prod(self.lengths) >= THREADED_FFT else 1
        kernel, how = displacement_table(w, grid, self.lengths, average)
        _check_kernel(kernel, grid)
        mirrored = np.roll(np.flip(kernel), 1, axis=tuple(range(grid.ndim)))
        self.table = 0.5 * (kernel + mirrored)
        self.transform = fft.rfftn(self.table).real
        self.form = f"convolution, {' x '.join(map(str, self.lengths))} FFT" + (f" of {how}" if how else "")

    @cached_property
    def self_drop(self) -> float:
        from wgflow._kernel_tables import self_drop

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


class LowRankOperator:
    def __init__(self, features: np.ndarray, signs: np.ndarray, grid: Grid):
        self.features = np.ascontiguousarray(features.reshape(len(features), grid.size))
        self.signs, self.shape = signs, grid.shape
        self.form = f"low rank, {len(features)} features"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        z = rows_dot(self.features, masses.ravel())
        return combine_rows(self.features, self.signs * z).reshape(self.shape)


class TableOperator:
    def __init__(self, table: np.ndarray, grid: Grid):
        if not np.isfinite(table).all():
            i, j = (int(k) for k in np.argwhere(~np.isfinite(table))[0])
            raise InvalidInput(f"U is {table[i, j]} between cells {i} and {j}; it must be finite")
        gap = np.abs(table - table.T)
        scale = np.abs(table).max()
        if gap.max() > EXACTNESS * scale:
            i, j = (int(k) for k in np.unravel_index(gap.argmax(), gap.shape))
            raise _asymmetric(table[i, j], table[j, i], f"cells {i} and {j}")
        self.table, self.shape = np.ascontiguousarray(0.5 * (table + table.T)), grid.shape
        self.form = f"dense table, {table.shape[0]} x {table.shape[1]}"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        return rows_dot(self.table, masses.ravel()).reshape(self.shape)


class CellPairsOperator(TableOperator):
    """U rho by the table of a named kernel between cells of different widths, as `ConvolutionOperator` else."""

    def __init__(self, w: Kernel, grid: Grid, average=None):
        from wgflow._cell_pairs import pair_table

        super().__init__(pair_table(w, grid, average), grid)
        self.w = self.kernel = w
        self.grid, self.average = grid, average
        self.form += " of cell averages" if (not w.smooth if average is None else average) else ""

    @cached_property
    def self_drop(self) -> float:
        from wgflow._kernel_tables import self_drop

        return self_drop(self.w, self.grid, self.average)


class BlockOperator:
    def __init__(self, U, grid: Grid):
        check_sampled_symmetry(U, grid)
        self.U, self.grid = U, grid
        self.form = "dense, evaluated on the fly"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        n = self.grid.size
        rows = max(1, BLOCK_ENTRIES // n)
        out = np.empty(n)
        for start in range(0, n, rows):
            block = np.arange(start, min(n, start + rows))
            out[block] = rows_dot(kernel_at(self.U, self.grid, block[:, None], np.arange(n)[None, :]), masses.ravel())
        return out.reshape(self.grid.shape)


# -------------------------------------------------------------------- which form a kernel has
def check_sampled_symmetry(U, grid: Grid) -> float:
    """The kernel's sampled scale, after checking that it is symmetric at random pairs of cells."""
    i, j = np.random.default_rng(20181).integers(grid.size, size=(2, SAMPLED_PAIRS))
    forward, backward = kernel_at(U, grid, i, j), kernel_at(U, grid, j, i)
    scale = float(np.abs(forward).max())
    gap = np.abs(forward - backward)
    if gap.max() > EXACTNESS * scale:
        k = int(gap.argmax())
        points = [tuple(round(float(c[m]), 6) for c, m in zip(grid.centers, np.unravel_index(cell, grid.shape)))
                  for cell in (i[k], j[k])]
        raise _asymmetric(forward[k], backward[k], f"{points[0]} and {points[1]}")
    return scale


def depends_on_displacement(U, grid: Grid, scale: float) -> bool:
    rng = np.random.default_rng(31337)
    pairs = [rng.integers(n, size=(2, SAMPLED_PAIRS)) for n in grid.shape]
    shifted = []
    for (i, j), n, periodic in zip(pairs, grid.shape, grid.periodic):
        if periodic:
            move = rng.integers(n, size=SAMPLED_PAIRS)
            shifted.append(((i + move) % n, (j + move) % n))
        else:
            low = np.minimum(i, j)
            move = np.floor(rng.random(SAMPLED_PAIRS) * (n - np.abs(i - j))).astype(int) - low
            shifted.append((i + move, j + move))
    here = kernel_at(U, grid, *(np.ravel_multi_index([p[s] for p in pairs], grid.shape) for s in (0, 1)))
    there = kernel_at(U, grid, *(np.ravel_multi_index([p[s] for p in shifted], grid.shape) for s in (0, 1)))
    return bool(np.abs(here - there).max() <= EXACTNESS * scale)


def displacement_kernel(U, grid: Grid):
    """The kernel as a function of the displacement, evaluated only at pairs of points inside the box."""
    def kernel(*displacement):
        first = [c[0] + np.maximum(d, 0.0) for c, d in zip(grid.centers, displacement)]
        second = [c[0] + np.maximum(-d, 0.0) for c, d in zip(grid.centers, displacement)]
        return U(*first, *second)

    return kernel


def low_rank_factors(U, grid: Grid, scale: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and signs of a kernel of low numerical rank, or None.

    A pivoted QR of the kernel between sampled cells gives the rank and pivot cells J. With Q an orthonormal basis of
    the columns U[:, J], U = Q B Q^T, where B follows from the rows J; its eigenvectors turn Q into features.
    """
    from scipy.linalg import qr

    rng = np.random.default_rng(4711)
    count = min(grid.size, RANK_SAMPLE)
    cells = rng.choice(grid.size, count, replace=False)
    _, triangle, order = qr(kernel_at(U, grid, cells[:, None], cells[None, :]), mode="economic", pivoting=True)
    decay = np.abs(np.diag(triangle))
    rank = int((decay > 1e-15 * decay[0]).sum()) if decay[0] > 0 else 1
    if rank > min(RANK_LIMIT, 0.5 * count):
        return None
    pivots = cells[order[:rank]]
    basis, _ = np.linalg.qr(kernel_at(U, grid, np.arange(grid.size)[:, None], pivots[None, :]))
    columns = kernel_at(U, grid, np.arange(grid.size)[:, None], pivots[None, :])
    core = (basis.T @ columns) @ np.linalg.pinv(basis[pivots].T)
    signs, vectors = np.linalg.eigh(0.5 * (core + core.T))
    keep = np.abs(signs) > 1e-15 * np.abs(signs).max() if signs.any() else np.ones(1, bool)
    features, signs = (basis @ vectors[:, keep]).T, signs[keep]
    i, j = rng.integers(grid.size, size=(2, 4 * SAMPLED_PAIRS))
    error = np.abs((features[:, i] * signs[:, None] * features[:, j]).sum(axis=0) - kernel_at(U, grid, i, j)).max()
    return (features, signs) if error <= EXACTNESS * scale else None


def kernel_at(U, grid: Grid, i, j) -> np.ndarray:
    """U between the cells with flat numbers i and j (broadcast), checked."""
    i, j = np.broadcast_arrays(i, j)
    points = [c[k] for cells in (i, j) for c, k in zip(grid.centers, np.unravel_index(cells, grid.shape))]
    values = real_array(call_user(U, points, "U"), "U")
    if values.shape != i.shape:
        if values.ndim:
            raise InvalidInput(f"U returned shape {values.shape} for coordinates of shape {i.shape}; "
                               "it must return one value for each pair")
        values = np.full(i.shape, float(values))
    if not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0])
        places = [round(float(p[where]), 6) for p in points]
        raise InvalidInput(f"U is {values[where]} between {tuple(places[:grid.ndim])} and {tuple(places[grid.ndim:])}; "
                           "it must be finite on the grid (a kernel of the displacement that is singular at 0: pass "
                           "one of wgflow.interactions, or Convolution(w, average=True))")
    return values


def _check_kernel(kernel: np.ndarray, grid: Grid) -> None:
    """The table of a kernel in FFT order: finite and even."""
    mesh = np.meshgrid(*[circular_offsets(n, m) * h[0] for n, m, h in zip(grid.shape, kernel.shape, grid.widths)],
                       indexing="ij", sparse=True)
    mesh = np.broadcast_arrays(*mesh)
    if not np.isfinite(kernel).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(kernel))[0])
        place = tuple(float(x[where]) for x in mesh)
        hint = (": pass W as a singular kernel (cell average): a kernel of wgflow.interactions such as log(), or "
                "Convolution(w, average=True)") if not any(place) else "; it must be finite"
        name = "W(0)" if not any(place) else f"W{place}"
        raise InvalidInput(f"{name} is {kernel[where]}{hint}")
    mirrored = np.roll(np.flip(kernel), 1, axis=tuple(range(kernel.ndim)))
    gap = np.abs(kernel - mirrored)
    # At half a period (or in the padding) the two signs of a displacement share one entry: nothing to compare there.
    if gap.max() > EXACTNESS * np.abs(kernel).max():
        worst = np.unravel_index(gap.argmax(), gap.shape)
        point = ", ".join(f"{x[worst]:.6g}" for x in mesh)
        raise InvalidInput(f"W not even: max difference {gap.max():.3g} at x=({point}); an interaction is symmetric, "
                           "U(x, y) = U(y, x): symmetrize it, or put one-body forces into a Potential")


def circular_offsets(n: int, length: int) -> np.ndarray:
    """Displacements in cells in FFT order: 0, 1, ..., then the negative ones; padding entries repeat the last."""
    k = np.arange(length)
    offsets = np.where(k <= length // 2, k, k - length)
    return offsets if length == n else np.clip(offsets, -(n - 1), n - 1)


def _asymmetric(forward, backward, where: str) -> InvalidInput:
    return InvalidInput(f"U is not symmetric: U(i,j)={forward:.6g} but U(j,i)={backward:.6g} between {where} (the "
                        "worst pair looked at); an interaction energy sees only the symmetric part (U + U')/2: "
                        "pass that")
