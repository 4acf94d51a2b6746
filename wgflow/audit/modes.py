r"""Test functions: products of cosines along the axes of a box.

.. math:: \varphi(x) = \prod_j \cos(\kappa_j (x_j - a_j) + p_j)

On a no-flux axis from a to b, p = 0 and :math:`\kappa (b - a) / \pi` is a whole number, so that normal derivatives
vanish at the ends; on a periodic axis they are Fourier modes, cosines and sines. The wave numbers are the lowest ones
of the box, and those of the scale of the initial law, which is what counts where the box stands for infinity.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.compiled.lowrank import rows_dot

__all__ = ["Modes", "choose_modes", "contract"]

Array = NDArray[np.float64]
#: A wave is at least this many cells long.
CELLS_PER_WAVE = 24.0
#: Modes that vary along several axes, at most.
MOST_MIXED = 4


class Modes(NamedTuple):
    """Test functions of one box, K of them.

    Attributes
    ----------
    waves : array of shape (K, n_axes)
        The wave numbers kappa; 0 along an axis on which a mode is constant.
    phases : array of shape (K, n_axes)
    low : array of shape (n_axes,)
        The lower ends a of the axes.
    """

    waves: Array
    phases: Array
    low: Array

    @property
    def bend(self) -> Array:
        r"""Eigenvalues of minus the Laplacian, the sum of kappa^2; also a bound of :math:`|D^2\varphi|`."""
        return (self.waves ** 2).sum(axis=1)

    def factors(self, axis: int, x: Array, widths: Array | None = None) -> tuple[Array, Array]:
        """Return the factors of one axis and their derivatives at points, each (K, n); averaged over cells of a width.

        The average of a cosine over a cell is exact: its value at the center times sin(q)/q, q = kappa h / 2.
        """
        waves = self.waves[:, axis, None]
        angle = waves * (x - self.low[axis]) + self.phases[:, axis, None]
        value, slope = np.cos(angle), np.sin(angle)
        slope *= -waves
        if widths is not None:
            mean = np.sinc(waves * widths / (2.0 * math.pi))
            value *= mean
            slope *= mean
        return value, slope


def choose_modes(bounds, periodic, shape, spread: Array) -> Modes:
    """Return test functions for a box.

    Parameters
    ----------
    bounds, periodic, shape : sequences with an entry for each axis
    spread : array
        Standard deviation of the initial law along each axis.
    """
    rows: list[tuple[dict[int, float], dict[int, float]]] = []
    lengths = [hi - lo for lo, hi in bounds]
    base = [(2.0 if turns else 1.0) * math.pi / length for turns, length in zip(periodic, lengths)]
    lowest: list[list[int]] = []
    for axis, unit in enumerate(base):
        last = max(1, int(2.0 * math.pi * shape[axis] / (CELLS_PER_WAVE * unit * lengths[axis])))
        of_law = min(last, max(1, round(1.0 / (unit * max(spread[axis], 1e-9 * lengths[axis])))))
        numbers = {1, 2, of_law} if len(base) > 1 else {1, 2, 3, max(1, round(of_law / 2)), of_law}
        lowest.append(sorted(k for k in numbers if k <= last))
        for k in lowest[-1]:
            rows.append(({axis: k * unit}, {}))
            if periodic[axis]:
                rows.append(({axis: k * unit}, {axis: -0.5 * math.pi}))
    mixed = [pair for size in range(2, len(base) + 1) for pair in itertools.combinations(range(len(base)), size)]
    for pair in mixed[:MOST_MIXED]:
        rows.append(({axis: lowest[axis][-1 if j == 0 else 0] * base[axis] for j, axis in enumerate(pair)}, {}))
    waves, phases = np.zeros((2, len(rows), len(base)))
    for row, (wave, phase) in enumerate(rows):
        for axis, value in wave.items():
            waves[row, axis] = value
        for axis, value in phase.items():
            phases[row, axis] = value
    return Modes(waves, phases, np.array([lo for lo, _ in bounds]))


def contract(field: Array, factors: list[Array]) -> Array:
    """Return the sums of a field (n_1, ..., n_d) against K products of factors (K, n_j), shape (K,)."""
    if field.ndim == 1:
        # Not by BLAS, whose last bits depend on where an array lies: a run that is resumed has the same certificate.
        return rows_dot(factors[0], field if field.flags.writeable else field.copy())
    table = field @ factors[-1].T
    for factor in factors[-2::-1]:
        table = (table * factor.T).sum(axis=-2)
    return table
