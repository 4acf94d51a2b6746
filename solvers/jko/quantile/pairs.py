r"""Repulsion that is singular at 0, as sums over pairs of quantiles, without a grid between them.

.. math:: \tfrac12 \iint w(x - y)\,\rho\,\rho \approx \tfrac12 \sum_{j \ne k} w_j w_k\,w(X_j - X_k)
          + \tfrac12 \sum_j w_j^2\,d(h_j), \qquad h_j = \tfrac12 (X_{j+1} - X_{j-1}),

with the diagonal d of the kernel (`wgflow.interactions.named_kernels`) for the pairs within a cell. A grid would cut
such forces off at the width of a cell, and positions closer to each other than that could change places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.interactions.named_kernels import Kernel

__all__ = ["PairSums", "split_operators"]

Array = NDArray[np.float64]

#: Number of positions up to which pairs are summed; time and memory grow with its square.
MOST_POSITIONS = 3000
#: In the diagonal, which assumes weights that vary slowly, a weight counts up to this multiple of its lighter neighbor.
EVEN = 1.5
#: Distance, relative to the grid's length, at which the sign of a kernel's gradient decides whether it repels.
NEAR = 1e-9
#: Relative step of differences.
STEP = 1e-5


def split_operators(parts: EnergyOnGrid) -> tuple[list[tuple[float, Kernel]], list]:
    """Return the kernels that repel and are not smooth at 0, with their coefficients, and all other operators."""
    kernels, rest = [], []
    near = NEAR * float(np.ptp(parts.grid.edges[0]))
    for factor, operator in parts.operators:
        kernel = getattr(operator, "kernel", None)
        repels = kernel is not None and not kernel.smooth and factor * float(kernel.gradient(near)[0]) < 0
        if kernel is not None and repels and parts.grid.size <= MOST_POSITIONS // 2:
            kernels.append((float(factor), kernel))
        else:
            rest.append((factor, operator))
    return kernels, rest


class PairSums:
    """Energy, slopes and Hessian of sums over pairs of positions; a sum of kernels with coefficients."""

    def __init__(self, kernels: list[tuple[float, Kernel]]):
        self.kernel = sum(factor * kernel for factor, kernel in kernels)

    def energy(self, x: Array, weights: Array) -> tuple[float, Array]:
        """Return the energy, infinite where positions coincide or change places, and its slopes over the weights."""
        if not (np.diff(x) > 0).all():
            return np.inf, np.zeros(x.size)
        gaps = x[:, None] - x
        values = self.kernel.radial(np.abs(gaps) + np.eye(x.size))
        np.fill_diagonal(values, 0.0)
        h, squares = self._spacings(x), self._squares(weights)
        total = 0.5 * float(weights @ (values @ weights)) + 0.5 * float(squares @ self.kernel.diagonal(h))
        slopes = self.kernel.gradient(gaps)[0] @ weights
        return total, slopes + self._spread(0.5 * squares * self._derivative(h)) / weights

    def hessian(self, x: Array, weights: Array) -> Array:
        """Return the second derivatives, a full matrix, by differences of first ones."""
        gaps = np.abs(x[:, None] - x) + np.eye(x.size)
        far, close = (self.kernel.gradient(gaps * (1 + s))[0] for s in (STEP, -STEP))
        second = (far - close) / (2 * STEP * gaps)
        np.fill_diagonal(second, 0.0)
        matrix = -weights[:, None] * second * weights
        matrix[np.diag_indices(x.size)] = weights * (second @ weights)
        h = self._spacings(x)
        bend = (self._derivative(h * (1 + STEP)) - self._derivative(h * (1 - STEP))) / (2 * STEP * h)
        # Each spacing is a difference of two positions.
        low, high, share = self._ends(x.size)
        value = 0.5 * self._squares(weights) * bend * share**2
        for rows, columns, sign in ((low, low, 1), (high, high, 1), (low, high, -1), (high, low, -1)):
            np.add.at(matrix, (rows, columns), sign * value)
        return matrix

    def _derivative(self, h: Array) -> Array:
        return (self.kernel.diagonal(h * (1 + STEP)) - self.kernel.diagonal(h * (1 - STEP))) / (2 * STEP * h)

    @staticmethod
    def _squares(weights: Array) -> Array:
        """Return squares of the weights, bounded beside light ones, which heavy neighbors would push out of order."""
        padded = np.concatenate((weights[:1], weights, weights[-1:]))
        return np.minimum(weights, EVEN * np.minimum(padded[:-2], padded[2:])) ** 2

    @staticmethod
    def _ends(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        """Return the two positions whose difference, times a share, is the spacing at each position."""
        low, high = np.maximum(np.arange(n) - 1, 0), np.minimum(np.arange(n) + 1, n - 1)
        return low, high, 1.0 / (high - low)

    def _spacings(self, x: Array) -> Array:
        low, high, share = self._ends(x.size)
        return share * (x[high] - x[low])

    def _spread(self, on_spacings: Array) -> Array:
        """Apply the adjoint of the spacings."""
        low, high, share = self._ends(on_spacings.size)
        out = np.zeros(on_spacings.size)
        np.add.at(out, high, share * on_spacings)
        np.add.at(out, low, -share * on_spacings)
        return out
