"""Sums over pairs of points of a function of their distance, which is given by a table."""

from __future__ import annotations

import numpy as np

from .jit import jit


@jit(fastmath={"contract"})
def distance_sums(points, sources, masses, periods, step, cubics, potential, gradient):
    r"""Form :math:`\sum_j m_j f(|x_i - y_j|)` and its gradient in :math:`x_i`.

    Parameters
    ----------
    points, sources : array, shape (n_coordinates, n) and (n_coordinates, m)
    masses : array, shape (m,)
    periods : array, shape (n_coordinates,)
        0 where a coordinate has none; the shorter way around counts.
    step : float
        Width of the cells [0, step], [step, 2 step], ... of the table; the last of them lies beyond every distance.
    cubics : array, shape (n_cells, 4)
        Coefficients of f in powers of (r - left end) / step in each cell.
    potential, gradient : array, shape (n,) and (n_coordinates, n)
        Where the sums go. The gradient of a pair at distance 0 is 0.
    """
    ndim, n = points.shape
    last = len(cubics) - 1
    per_step = 1.0 / step
    for i in range(n):
        total = 0.0
        gradient[:, i] = 0.0
        for j in range(masses.size):
            square = 0.0
            for k in range(ndim):
                d = points[k, i] - sources[k, j]
                if periods[k] > 0.0:
                    d -= periods[k] * np.floor(d / periods[k] + 0.5)
                square += d * d
            r = np.sqrt(square)
            s = r * per_step
            cell = min(int(s), last)
            s -= cell
            a, b, c, e = cubics[cell, 0], cubics[cell, 1], cubics[cell, 2], cubics[cell, 3]
            total += masses[j] * (a + s * (b + s * (c + s * e)))
            if r > 0.0:
                pull = masses[j] * per_step * (b + s * (2.0 * c + 3.0 * s * e)) / r
                for k in range(ndim):
                    d = points[k, i] - sources[k, j]
                    if periods[k] > 0.0:
                        d -= periods[k] * np.floor(d / periods[k] + 0.5)
                    gradient[k, i] += pull * d
        potential[i] = total


@jit(fastmath={"contract"})
def own_distance_sums(points, masses, periods, step, cubics, potential, gradient):
    r"""Form the sums of `distance_sums` for points that are their own sources: each pair once, action as reaction."""
    ndim, n = points.shape
    last = len(cubics) - 1
    per_step = 1.0 / step
    d = np.empty(ndim)
    for i in range(n):
        potential[i] = masses[i] * cubics[0, 0]
    gradient[:] = 0.0
    for i in range(n):
        total, mass = 0.0, masses[i]
        for j in range(i):
            square = 0.0
            for k in range(ndim):
                d[k] = points[k, i] - points[k, j]
                if periods[k] > 0.0:
                    d[k] -= periods[k] * np.floor(d[k] / periods[k] + 0.5)
                square += d[k] * d[k]
            r = abs(d[0]) if ndim == 1 else np.sqrt(square)
            s = r * per_step
            cell = min(int(s), last)
            s -= cell
            a, b, c, e = cubics[cell, 0], cubics[cell, 1], cubics[cell, 2], cubics[cell, 3]
            value = a + s * (b + s * (c + s * e))
            total += masses[j] * value
            potential[j] += mass * value
            if r > 0.0:
                pull = per_step * (b + s * (2.0 * c + 3.0 * s * e)) / r
                for k in range(ndim):
                    force = pull * d[k]
                    gradient[k, i] += masses[j] * force
                    gradient[k, j] -= mass * force
        potential[i] += total
