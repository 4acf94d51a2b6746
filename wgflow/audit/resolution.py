r"""Whether the cells of a grid resolve a law: its width against theirs.

Where a potential with curvature :math:`\Psi''` holds a law against the diffusion 1/beta, it comes to rest with the
deviation :math:`(\beta \Psi'')^{-1/2}`. If that is less than half a cell, :math:`h^2 \beta \Psi'' > 4`, and the law has
become as narrow as a cell, its second differences adding up to its mass or more, then fluxes between cells know neither
its width nor how fast it moves. Both are asked for: a rough law (a histogram, a point) will be smooth soon, and a
narrow potential beside the law does not matter.
"""

from __future__ import annotations

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid

__all__ = ["unresolved"]

#: The mean of h^2 beta |Psi''| over the law, and the sum of its second differences over its mass, above which both the
#: law is not resolved. For a Gaussian the latter is (h/deviation)^2, nearly.
STIFF, NARROW = 4.0, 1.0


def unresolved(energy: EnergyOnGrid, masses: np.ndarray) -> str:
    """Return why the cells do not resolve a law, and what to do; empty if they do, or where this is not judged.

    It is judged along even axes without a weight, for linear diffusion.
    """
    grid = energy.grid
    if energy.diffusion <= 0 or energy.internal or grid.log_weight is not None:
        return ""
    mass = float(masses.sum())
    for axis, even in enumerate(grid.uniform):
        if not even or grid.shape[axis] < 3:
            continue
        m = masses.swapaxes(0, axis)
        narrow = float(np.abs(m[2:] - 2.0 * m[1:-1] + m[:-2]).sum()) / mass
        if not narrow > NARROW:
            continue
        psi = energy.psi(energy.potential, masses)
        if not np.isfinite(psi).all():
            return ""
        stiff = float((np.abs(np.diff(psi.swapaxes(0, axis), 2, axis=0)) * m[1:-1]).sum()) / (mass * energy.diffusion)
        if stiff > STIFF:
            more = np.sqrt(stiff)
            return (f"the law at the end is narrower than the cells of axis {axis} (its second differences add up to "
                    f"{narrow:.2g} of its mass, and h^2 beta |Psi''| is {stiff:.2g} on average): its width and its "
                    f"speed are those of the grid; take {more:.2g} times the cells, or finer ones where it ends")
    return ""
