r"""How concave an energy is: a JKO step with tau beyond 1 / lambda_- may have several minimizers.

Along a geodesic of velocity v, :math:`\frac{d^2 F}{ds^2} \ge (\min D^2 V + M \min D^2 w) \int |v|^2 \rho` with the mass
M, if all other parts are convex there (McCann): internal energies are, where the dimension allows them.
"""

from __future__ import annotations

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.grids import Grid

__all__ = ["concavity"]

#: Rounding errors of the values, in units of the largest, that second differences are freed from.
ROUNDING = 8.0 * float(np.finfo(float).eps)


def concavity(parts: EnergyOnGrid, grid: Grid, mass: float) -> float:
    """The number lambda_- >= 0: the largest concavity of V, and of smooth kernels w on one axis, between cells."""
    lowest = _least_curvature(parts.potential, grid)
    for factor, operator in parts.operators:
        w, kernel = getattr(operator, "w", None), getattr(operator, "kernel", None)
        if w is None or grid.ndim > 1 or not grid.uniform[0] or (kernel is not None and not kernel.smooth):
            continue
        h, n = float(grid.widths[0][0]), grid.size // 2 if grid.periodic[0] else grid.size
        # From 0 on: a kink there that repels is none between points that keep their order.
        values = factor * np.broadcast_to(np.asarray(w(h * np.arange(0.0, n)), dtype=float), (n,))
        lowest += mass * min(0.0, float(_second(values, h).min()))
    return max(0.0, -lowest)


def _second(values: np.ndarray, h: float) -> np.ndarray:
    """Second differences along the first axis, raised by what rounding may do to them."""
    return (values[2:] - 2.0 * values[1:-1] + values[:-2] + 4.0 * ROUNDING * np.abs(values).max()) / h**2


def _least_curvature(values: np.ndarray, grid: Grid) -> float:
    """The least eigenvalue of the Hessian of a function known at cell centers, at cells away from the ends."""
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
