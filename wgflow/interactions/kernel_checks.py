"""Kernels as users give them: evaluated between cells, and checked to be finite and symmetric."""

from __future__ import annotations

import numpy as np

from wgflow.checks import call_user, real_array
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

#: Relative agreement at which a sampled kernel counts as symmetric, as a convolution, or as of low rank.
EXACTNESS = 1e-11
#: Random pairs of cells on which a kernel's form is checked.
SAMPLED_PAIRS = 512


def check_sampled_symmetry(U, grid: Grid) -> float:
    """Check that a kernel is symmetric at random pairs of cells; return its sampled scale."""
    i, j = np.random.default_rng(20181).integers(grid.size, size=(2, SAMPLED_PAIRS))
    forward, backward = kernel_at(U, grid, i, j), kernel_at(U, grid, j, i)
    scale = float(np.abs(forward).max())
    gap = np.abs(forward - backward)
    if gap.max() > EXACTNESS * scale:
        k = int(gap.argmax())
        points = [tuple(round(float(c[m]), 6) for c, m in zip(grid.centers, np.unravel_index(cell, grid.shape)))
                  for cell in (i[k], j[k])]
        raise asymmetric(forward[k], backward[k], f"{points[0]} and {points[1]}")
    return scale


def kernel_at(U, grid: Grid, i, j) -> np.ndarray:
    """Return U between the cells with flat numbers i and j (broadcast), checked."""
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


def check_displacement_table(kernel: np.ndarray, grid: Grid) -> None:
    """Check that the table of a kernel in FFT order is finite and even; return it."""
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
    # At half a period both signs of a displacement share one entry, which equals itself. In the padding, which is
    # nowhere used, they do so while other coordinates change their signs.
    for axis, (n, length) in enumerate(zip(grid.shape, kernel.shape)):
        if length > n:
            gap[(slice(None),) * axis + (slice(n, length - n + 1),)] = 0.0
    if gap.max() > EXACTNESS * np.abs(kernel).max():
        worst = np.unravel_index(gap.argmax(), gap.shape)
        point = ", ".join(f"{x[worst]:.6g}" for x in mesh)
        raise InvalidInput(f"W not even: max difference {gap.max():.3g} at x=({point}); an interaction is symmetric, "
                           "U(x, y) = U(y, x): symmetrize it, or put one-body forces into a Potential")


def circular_offsets(n: int, length: int) -> np.ndarray:
    """Return displacements in cells in FFT order: 0, 1, ..., then negative ones; padding entries repeat the last."""
    k = np.arange(length)
    offsets = np.where(k <= length // 2, k, k - length)
    return offsets if length == n else np.clip(offsets, -(n - 1), n - 1)


def asymmetric(forward, backward, where: str) -> InvalidInput:
    return InvalidInput(f"U is not symmetric: U(i,j)={forward:.6g} but U(j,i)={backward:.6g} between {where} (the "
                        "worst pair found); an interaction energy depends on the symmetric part (U + U')/2 alone: "
                        "pass that")
