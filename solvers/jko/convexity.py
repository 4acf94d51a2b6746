r"""The concavity of an energy, beyond the inverse of which a JKO step may have several minimizers.

Along a geodesic of velocity v, :math:`\frac{d^2 F}{ds^2} \ge (\min D^2 V + M \min D^2 w) \int |v|^2 \rho` with the mass
M, if all other terms are convex there: internal energies are, under McCann's condition on H and the dimension.
"""

from __future__ import annotations

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.grids import Grid

__all__ = ["concavity", "is_convex_form"]

#: Rounding errors of the values, relative to the largest; second differences are raised by their effect.
ROUNDING = 8.0 * float(np.finfo(float).eps)


def concavity(parts: EnergyOnGrid, grid: Grid, mass: float) -> float:
    """Return lambda_- >= 0, the largest concavity of V, and of smooth kernels w on one axis, as cells resolve it."""
    lowest = _least_curvature(parts.potential, grid)
    for factor, operator in parts.operators:
        w, kernel = getattr(operator, "w", None), getattr(operator, "kernel", None)
        if w is None or grid.ndim > 1 or not grid.uniform[0] or (kernel is not None and not kernel.smooth):
            continue
        h, n = float(grid.widths[0][0]), grid.size // 2 if grid.periodic[0] else grid.size
        # Only distances >= 0: points that keep their order never cross the kink of a repulsive kernel at 0.
        values = factor * np.broadcast_to(np.asarray(w(h * np.arange(0.0, n)), dtype=float), (n,))
        lowest += mass * min(0.0, float(_second(values, h).min()))
    return max(0.0, -lowest)


def _second(values: np.ndarray, h: float) -> np.ndarray:
    """Return second differences along the first axis, raised by their largest rounding error."""
    return (values[2:] - 2.0 * values[1:-1] + values[:-2] + 4.0 * ROUNDING * np.abs(values).max()) / h**2


def _least_curvature(values: np.ndarray, grid: Grid) -> float:
    """Return the least eigenvalue of the Hessian of a function at cell centers, over all but the outermost cells."""
    if any(n < 3 for n in grid.shape) or not np.isfinite(values).all():
        return 0.0
    d, inside = grid.ndim, (slice(1, -1),) * grid.ndim
    slack = 4.0 * ROUNDING * float(np.abs(values).max()) / min(float(h.min()) for h in grid.widths) ** 2
    hessian = np.empty((*(n - 2 for n in grid.shape), d, d))
    for i in range(d):
        first = np.diff(values, axis=i) / _along(np.diff(grid.centers[i]), i, d)
        centers = grid.centers[i]
        second = np.diff(first, axis=i) / _along(0.5 * (centers[2:] - centers[:-2]), i, d)
        hessian[..., i, i] = second[tuple(slice(None) if k == i else slice(1, -1) for k in range(d))] + slack
        slope = np.gradient(values, centers, axis=i)
        for j in range(i):
            hessian[..., i, j] = hessian[..., j, i] = np.gradient(slope, grid.centers[j], axis=j)[inside]
    return float(hessian.min() if d == 1 else np.linalg.eigvalsh(hessian).min())


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return values.reshape([-1 if k == axis else 1 for k in range(ndim)])

def is_convex_form(factor: float, operator) -> bool:
    """Return whether the form of an interaction shows that it is positive semi-definite."""
    if factor == 0:
        return True
    for name in ("signs", "transform"):
        spectrum = getattr(operator, name, None)
        if spectrum is not None:
            return bool((factor * spectrum >= -1e-13 * np.abs(spectrum).max()).all())
    return False
