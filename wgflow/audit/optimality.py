"""How far a law is from rest, in weak form."""

from __future__ import annotations

import numpy as np

from wgflow.audit.weak_form import WeakForm
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term

__all__ = ["distance_from_rest"]

#: Test functions whose parts are below this part of the largest are left out.
LEAST = 1e-3


def distance_from_rest(energy: Term, rho: Density) -> float:
    r"""Return how far a law is from a stationary state: the largest of :math:`|R_k| / \sum_{parts} |R_k^{part}|`.

    With the rates R of `wgflow.audit.weak_form` a stationary state has :math:`R_k = 0` for every test function. A law
    that has come to rest on a grid leaves what the grid leaves, of second order in the width of the cells; a term that
    was left out leaves its whole share, however well a solver has converged.

    Parameters
    ----------
    energy : Term or FreeEnergy
        Given by functions; not one that changes with time.
    rho : Density

    Examples
    --------
    >>> import wgflow as wg
    >>> grid = wg.Grid((-5, 5), cells=200)
    >>> energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
    >>> distance_from_rest(energy, wg.Density.gaussian(grid, 0.0, 1.0)) < 1e-3
    True
    >>> distance_from_rest(energy, wg.Density.gaussian(grid, 0.0, 1.1)) > 0.03
    True
    """
    energy = energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])
    sides = WeakForm(energy, rho).sides(rho.masses)
    rate = np.abs(sides.drift + sides.interaction + sides.diffusion)
    parts = np.abs(sides.drift) + np.abs(sides.interaction) + np.abs(sides.diffusion)
    return float((rate / np.maximum(parts, max(LEAST * float(parts.max()), np.finfo(float).tiny))).max())
