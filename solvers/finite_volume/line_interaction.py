"""The interactions of a line as arrays that compiled loops take."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.interactions.operators import ConvolutionOperator, InteractionOperator, TableOperator

__all__ = ["LineInteraction", "line_interaction"]

#: A convolution of more cells takes longer as a sum over pairs of cells than by Fourier transforms.
MOST_CELLS = 1000


class LineInteraction(NamedTuple):
    """U = sum_k s_k phi_k phi_k' plus a table whose row i begins at ``origin + i * pitch`` of a flat array.

    Attributes
    ----------
    features, signs : arrays (k, n) and (k,)
        Filled up with zeros to a multiple of 4.
    table : flat array
        Empty for none.
    shifts : (int, int)
        The origin and the pitch: 0 and n for a matrix, n - 1 and -1 for a function of the distance.
    """

    features: np.ndarray
    signs: np.ndarray
    table: np.ndarray
    shifts: tuple[int, int]


def line_interaction(energy: EnergyOnGrid) -> LineInteraction | None:
    """Return the interactions of an energy on a line as arrays; None where they have no such form, or a slow one."""
    n = energy.grid.size
    features, signs = [np.zeros((0, n))], [np.zeros(0)]
    tables: dict[tuple[int, int], np.ndarray] = {}
    for factor, operator in energy.operators:
        if operator.features is not None and operator.signs is not None:
            features.append(operator.features)
            signs.append(factor * operator.signs)
            continue
        found = _table(operator, n)
        if found is None:
            return None
        table, shifts = found
        tables[shifts] = tables.get(shifts, 0.0) + factor * table
    if len(tables) > 1:
        return None
    extra = -sum(map(len, signs)) % 4
    features.append(np.zeros((extra, n)))
    signs.append(np.zeros(extra))
    shifts, table = next(iter(tables.items()), ((0, 0), np.zeros(0)))
    return LineInteraction(np.concatenate(features), np.concatenate(signs), table, shifts)


def _table(operator: InteractionOperator, n: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Return a flat table of an operator, and where its rows begin."""
    if isinstance(operator, TableOperator) and operator.table is not None:
        return operator.table.reshape(n * n), (0, n)
    if isinstance(operator, ConvolutionOperator) and operator.table is not None and n <= MOST_CELLS:
        # The kernel at the distances n - 1, ..., 0, ..., n - 1 (on a circle: those modulo n).
        half = operator.table[:n]
        return np.concatenate([half[:0:-1], half]), (n - 1, -1)
    return None
