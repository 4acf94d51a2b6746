"""Cubic splines on the nodes of one axis (not-a-knot), their derivatives at points, and the adjoints of both."""

from __future__ import annotations

import numpy as np

from .jit import jit

__all__ = ["bend_spline", "bend_spline_adjoint", "deposit", "evaluate", "factor_spline"]


@jit
def factor_spline(nodes):
    """Return the factored tridiagonal system of a spline's second derivatives at the inner nodes, for `bend_spline`.

    Not-a-knot: the second derivative is linear over the first two and the last two intervals. Rows of the result:
    lower diagonal, pivots and upper diagonal after elimination.
    """
    n = nodes.size
    k = n - 2
    lower, diagonal, upper = np.zeros(k), np.empty(k), np.zeros(k)
    for i in range(k):
        a, b = nodes[i + 1] - nodes[i], nodes[i + 2] - nodes[i + 1]
        lower[i], diagonal[i], upper[i] = a / 6.0, (a + b) / 3.0, b / 6.0
    a, b = nodes[1] - nodes[0], nodes[2] - nodes[1]
    diagonal[0] += a / 6.0 * (1.0 + a / b)
    upper[0] -= a / 6.0 * (a / b)
    a, b = nodes[n - 1] - nodes[n - 2], nodes[n - 2] - nodes[n - 3]
    diagonal[k - 1] += a / 6.0 * (1.0 + a / b)
    lower[k - 1] -= a / 6.0 * (a / b)
    for i in range(1, k):
        lower[i] /= diagonal[i - 1]
        diagonal[i] -= lower[i] * upper[i - 1]
    return np.vstack((lower, diagonal, upper))


@jit
def bend_spline(nodes, factors, f):
    """Return the second derivatives at the nodes of the cubic spline through the values f."""
    n = nodes.size
    k = n - 2
    bends = np.empty(n)
    for i in range(k):
        right = (f[i + 2] - f[i + 1]) / (nodes[i + 2] - nodes[i + 1])
        left = (f[i + 1] - f[i]) / (nodes[i + 1] - nodes[i])
        bends[i + 1] = right - left
        if i > 0:
            bends[i + 1] -= factors[0, i] * bends[i]
    for i in range(k - 1, -1, -1):
        if i < k - 1:
            bends[i + 1] -= factors[2, i] * bends[i + 2]
        bends[i + 1] /= factors[1, i]
    ratio = (nodes[1] - nodes[0]) / (nodes[2] - nodes[1])
    bends[0] = bends[1] + ratio * (bends[1] - bends[2])
    ratio = (nodes[n - 1] - nodes[n - 2]) / (nodes[n - 2] - nodes[n - 3])
    bends[n - 1] = bends[n - 2] + ratio * (bends[n - 2] - bends[n - 3])
    return bends


@jit
def bend_spline_adjoint(nodes, factors, on_bends):
    """Return the transpose of `bend_spline`, applied to an array of n numbers."""
    n = nodes.size
    k = n - 2
    y = on_bends[1:n - 1].copy()
    ratio = (nodes[1] - nodes[0]) / (nodes[2] - nodes[1])
    y[0] += (1.0 + ratio) * on_bends[0]
    y[1] -= ratio * on_bends[0]
    ratio = (nodes[n - 1] - nodes[n - 2]) / (nodes[n - 2] - nodes[n - 3])
    y[k - 1] += (1.0 + ratio) * on_bends[n - 1]
    y[k - 2] -= ratio * on_bends[n - 1]
    for i in range(k):
        if i > 0:
            y[i] -= factors[2, i - 1] * y[i - 1]
        y[i] /= factors[1, i]
    for i in range(k - 2, -1, -1):
        y[i] -= factors[0, i + 1] * y[i + 1]
    out = np.zeros(n)
    for i in range(k):
        a, b = nodes[i + 1] - nodes[i], nodes[i + 2] - nodes[i + 1]
        out[i] += y[i] / a
        out[i + 1] -= y[i] / a + y[i] / b
        out[i + 2] += y[i] / b
    return out


@jit
def _interval(nodes, x, i):
    """Return the interval of the nodes that holds x, or the first or last one, from a guess i near it."""
    last = nodes.size - 2
    while i < last and x >= nodes[i + 1]:
        i += 1
    while i > 0 and x < nodes[i]:
        i -= 1
    return i


@jit
def evaluate(nodes, f, bends, x, values, slopes, curvatures):
    """Fill value, first and second derivative of a spline at points, best sorted."""
    i = 0
    for j in range(x.size):
        i = _interval(nodes, x[j], i)
        h = nodes[i + 1] - nodes[i]
        b = (x[j] - nodes[i]) / h
        a = 1.0 - b
        values[j] = (a * f[i] + b * f[i + 1]
                     + h * h / 6.0 * ((a * a * a - a) * bends[i] + (b * b * b - b) * bends[i + 1]))
        slopes[j] = ((f[i + 1] - f[i]) / h
                     + h / 6.0 * ((1.0 - 3.0 * a * a) * bends[i] + (3.0 * b * b - 1.0) * bends[i + 1]))
        curvatures[j] = a * bends[i] + b * bends[i + 1]


@jit
def deposit(nodes, x, weights, derivative, on_values, on_bends):
    """Apply the adjoint of `evaluate` for values (or slopes, if ``derivative``): add weights of points to the nodes."""
    on_values[:] = 0.0
    on_bends[:] = 0.0
    i = 0
    for j in range(x.size):
        i = _interval(nodes, x[j], i)
        h = nodes[i + 1] - nodes[i]
        b = (x[j] - nodes[i]) / h
        a = 1.0 - b
        g = weights[j]
        if derivative:
            on_values[i] -= g / h
            on_values[i + 1] += g / h
            on_bends[i] += g * h / 6.0 * (1.0 - 3.0 * a * a)
            on_bends[i + 1] += g * h / 6.0 * (3.0 * b * b - 1.0)
        else:
            on_values[i] += g * a
            on_values[i + 1] += g * b
            on_bends[i] += g * h * h / 6.0 * (a * a * a - a)
            on_bends[i + 1] += g * h * h / 6.0 * (b * b * b - b)
