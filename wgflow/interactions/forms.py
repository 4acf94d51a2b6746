"""Detection of a kernel's form: a function of the displacement, of low rank, or neither."""

from __future__ import annotations

import inspect

import numpy as np

from wgflow.checks import check_memory
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .kernel_checks import EXACTNESS, SAMPLED_PAIRS, kernel_at

#: Cells sampled to find a kernel's numerical rank.
RANK_SAMPLE = 300
#: Largest rank that counts as low.
RANK_LIMIT = 96


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
    """Return the kernel as a function of the displacement, evaluated only at pairs of points inside the box."""
    def kernel(*displacement):
        first = [c[0] + np.maximum(d, 0.0) for c, d in zip(grid.centers, displacement)]
        second = [c[0] + np.maximum(-d, 0.0) for c, d in zip(grid.centers, displacement)]
        return U(*first, *second)

    return kernel


def low_rank_factors(U, grid: Grid, scale: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return features and signs of a kernel of low numerical rank, or None.

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
    check_memory(8.0 * 4 * rank * grid.size, f"U on {grid.size} cells: its {rank} features", "take fewer cells")
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


def count_arguments(function, ndim: int) -> int:
    """Return how many arrays of coordinates a kernel takes: ndim (a displacement) or 2 ndim (two points)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2 * ndim
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2 * ndim
    kinds = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in kinds)
    for count in (2 * ndim, ndim):
        if required <= count <= len(kinds):
            return count
    raise InvalidInput(f"U takes {required} arguments; on {ndim} axes it takes {2 * ndim} (two points) or {ndim} "
                       "(a displacement)")
