r"""Axes of cells whose widths vary smoothly, as images of even ones.

Let y(s) be the smooth function with :math:`y(i + 1/2) = c_i`, the centers of the cells, and :math:`g = y'`. With
:math:`\tilde\rho = g\,\rho`, the density in s, the flow along the axis is

.. math:: \partial_t \tilde\rho = \partial_s\Big( \frac{D}{g^2}\,e^{-\tilde\Psi/D}\,
          \partial_s (\tilde\rho\,e^{\tilde\Psi/D}) \Big), \qquad \tilde\Psi = \Psi - D \log g,

that of a mobility :math:`1/g^2` on even cells of width 1, for which compact fluxes are of fourth order
(docs/fourth-order.md). All functions of a problem keep their values at the centers.

The edges :math:`X_i` of the cells are not quite y(i): :math:`X_i = y(i + \tau_i)`, with tau about g'/(8 g). Cells of
the scheme exchange the strips between the two with the averages over the given cells, and a wall at
:math:`X_0 = y(-\delta)` adds to the first of them the strip

.. math:: \int_{-\delta}^0 \tilde\rho\,ds \approx \alpha \tilde\rho_0 - \kappa \tilde\rho_1, \qquad
          \alpha = \delta + \kappa, \quad \kappa = \tfrac12 \delta (1 + \delta),

by which the weights of the first two cells change, and the flux g of the first edge by :math:`\kappa \tilde\rho_1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GradedAxis", "graded_axis", "is_graded"]

Array = NDArray[np.float64]

#: Least number of cells.
FEWEST = 12
#: Largest change of the logarithm of the width from one cell to the next.
STEEPEST = 0.4
#: Widths vary smoothly if third differences of their logarithms are at most this part of the second ones near by (1 at
#: a kink of the widths, 2 at a jump), or this small.
SMOOTH, NEGLIGIBLE = 0.7, 1e-4
#: Cells beside a place that are near by.
NEAR = 3
#: Points of the polynomials through the centers.
POINTS = 7
#: Iterations by which values are found from averages, at most, and the relative change with which they end.
ITERATIONS, SETTLED = 40, 1e-15


@dataclass(frozen=True)
class GradedAxis:
    """An axis as the image of even cells of width 1.

    Attributes
    ----------
    pace : array (n,)
        g at the centers.
    shifts : array (n + 1,)
        tau at the edges.
    periodic : bool
    """

    pace: Array
    shifts: Array
    periodic: bool

    @property
    def strips(self) -> tuple[float, float]:
        """The widths delta of the strips at the lower and the upper wall, in cells; 0 on a circle."""
        return (0.0, 0.0) if self.periodic else (-float(self.shifts[0]), float(self.shifts[-1]))

    def exchange(self, p: Array) -> Array:
        """Return by how much averages over the given cells exceed those over cells of the scheme, along the first axis.

        Parameters
        ----------
        p : array (n, W)
            Values at the centers of the density in s.
        """
        n = len(p)
        shifts = self.shifts.reshape(-1, *[1] * (p.ndim - 1))
        inner = np.concatenate([p[-2:], p, p[:2]]) if self.periodic else p
        tau = shifts if self.periodic else shifts[2:-2]
        middle = (9.0 * (inner[1:-2] + inner[2:-1]) - inner[:-3] - inner[3:]) / 16.0
        within = tau * (middle + 0.5 * tau * (inner[2:-1] - inner[1:-2]))
        if self.periodic:
            return np.diff(within, axis=0)
        strips = np.empty((n + 1, *p.shape[1:]))
        strips[2:-2] = within
        for edge in (1, n - 1):
            low, high, tau = p[edge - 1], p[edge], self.shifts[edge]
            strips[edge] = 0.5 * tau * (low + high + tau * (high - low))
        for edge, first, second, delta in ((0, 0, 1, self.strips[0]), (n, n - 1, n - 2, self.strips[1])):
            kappa = 0.5 * delta * (1.0 + delta)
            strips[edge] = (delta + kappa) * p[first] - kappa * p[second]
        strips[0] *= -1.0
        return np.diff(strips, axis=0)

    def weights(self) -> Array:
        """Return what strips at walls add to the weights of the cells, (n,)."""
        found = np.zeros(self.pace.size)
        for delta, first, second in zip(self.strips, (0, -1), (1, -2)):
            kappa = 0.5 * delta * (1.0 + delta)
            found[first] += delta + kappa
            found[second] -= kappa
        return found


def is_graded(edges: Array, periodic: bool) -> bool:
    """Return whether the widths of cells vary smoothly from one to the next."""
    widths = np.diff(edges)
    if widths.size < FEWEST:
        return False
    logs = np.log(widths)
    if periodic:
        logs = np.concatenate([logs[-NEAR - 2:], logs, logs[:NEAR + 2]])
    first = np.diff(logs)
    second = np.abs(np.diff(first))
    third = np.abs(np.diff(first, 2))
    near = np.array([second[max(0, k - NEAR):k + NEAR + 2].max() for k in range(third.size)])
    noise = NEGLIGIBLE + 32.0 * np.finfo(float).eps * float(np.abs(edges).max() / widths.min())
    return bool(np.abs(first).max() <= STEEPEST and (third <= SMOOTH * near + noise).all())


def graded_axis(edges: Array, centers: Array, periodic: bool) -> GradedAxis:
    """Return an axis of smoothly varying widths as the image of even cells."""
    n, c = centers.size, centers
    ahead = POINTS if periodic else 0
    if periodic:
        period = edges[-1] - edges[0]
        c = np.concatenate([c[-ahead:] - period, c, c[:ahead] + period])
    i = np.arange(float(n)) + ahead
    pace = _along(c, i, 1)
    between = np.arange(n + 1.0) - 0.5 + ahead
    miss: Array = np.subtract(edges, _along(c, between, 0))
    slope = _along(c, between, 1)
    bend = _along(c, between, 2)
    shifts = miss / slope
    shifts *= 1.0 - 0.5 * shifts * bend / slope
    return GradedAxis(pace, shifts, periodic)


def _along(c: Array, places: NDArray[Any], derivative: int) -> Array:
    """Return derivatives of the polynomials through the centers nearest to places, which are given in indices."""
    start = np.clip(np.ceil(places - 0.5 * POINTS).astype(int), 0, c.size - POINTS)
    found = np.empty(places.size)
    for k, (first, place) in enumerate(zip(start.tolist(), places.tolist())):
        found[k] = _weights(place - first, derivative) @ c[first:first + POINTS]
    return found


@cache
def _weights(place: float, derivative: int) -> Array:
    """Return the weights of a derivative, at a place, of the polynomial through values at 0, 1, ..., POINTS - 1."""
    points = np.arange(POINTS) - place
    right = np.zeros(POINTS)
    right[derivative] = 2.0 if derivative == 2 else 1.0
    return np.linalg.solve(np.vander(points, increasing=True).T, right)
