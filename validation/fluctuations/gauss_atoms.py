"""A few atoms in place of a density on one axis."""

from __future__ import annotations

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density

__all__ = ["gauss_atoms"]

#: Nodes of the quadrature.
_NODES = 32


def gauss_atoms(rho: Density) -> Atoms:
    """Return the Gauss quadrature of a density on one axis: the atoms with its first 2n moments, by Lanczos' method."""
    cells = Atoms.from_density(rho)
    keep = np.asarray(cells.weights) > 0.0
    x, weights = np.asarray(cells.points[0])[keep], np.asarray(cells.weights)[keep] / cells.weights.sum()
    if x.size <= _NODES:
        return cells
    center, scale = float(weights @ x), float(np.ptp(x))
    operator = (x - center) / scale
    basis = [np.sqrt(weights)]
    diagonal, side = [], []
    for _ in range(_NODES):
        image = operator * basis[-1]
        diagonal.append(float(image @ basis[-1]))
        for vector in (*basis, *basis):  # twice, against rounding
            image = image - (image @ vector) * vector
        norm = float(np.linalg.norm(image))
        if norm < 1e-13:
            break
        side.append(norm)
        basis.append(image / norm)
    count = len(diagonal)
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(side[: count - 1], 1) + np.diag(side[: count - 1], -1))
    return Atoms((center + scale * nodes)[None, :], vectors[0] ** 2, bounds=cells.bounds)
