r"""When attraction that is singular at 0 has won over diffusion: the law collapses to a point, which no grid resolves.

A mass m in a cell that shrinks to half its width pays :math:`D m\,d \log 2` of entropy and gains
:math:`\tfrac12 m^2 \delta`, with :math:`\delta` the fall of the kernel's average over the cell (``self_drop`` of its
operator). Beyond

.. math:: m_c = \frac{2 d D \log 2}{\delta}

it gains by shrinking further. For :math:`w = \chi \log|x|` this is the critical mass of Keller and Segel,
:math:`2 d D / \chi`, on any grid: the law blows up in finite time. So it is told where a block of three cells along
each axis holds more: there the mass is the kernel's and the grid's, and no longer the equation's.
"""

from __future__ import annotations

import math

import numpy as np

from wgflow.errors import ConvergenceError

#: Cells along each axis of the block that a collapsed mass lies in.
BLOCK = 3


class CollapseWatch:
    """Looks for a collapse under the singular attraction of an energy.

    Attributes
    ----------
    critical : float
        The mass in a block that is a collapse; infinite where nothing attracts singularly, or where diffusion is
        nonlinear (whose pressure may hold any mass apart) or absent (then laws collapse to points by right).
    """

    def __init__(self, parts):
        drop = sum(factor * operator.self_drop for factor, operator in parts.operators)
        self.grid, collapses = parts.grid, drop > 0 and parts.diffusion > 0 and not parts.internal
        self.critical = 2 * parts.grid.ndim * parts.diffusion * math.log(2.0) / drop if collapses else math.inf

    def check(self, t: float, dt: float, masses: np.ndarray) -> None:
        """Raise ConvergenceError (reason "blow-up") if the masses have collapsed."""
        if math.isinf(self.critical):
            return
        peak = float(masses.max())
        if peak * BLOCK**masses.ndim <= self.critical:
            return
        from scipy.ndimage import uniform_filter

        modes: list = ["wrap" if periodic else "constant" for periodic in self.grid.periodic]
        blocks = uniform_filter(masses, BLOCK, mode=modes) * BLOCK**masses.ndim
        cell = np.unravel_index(int(blocks.argmax()), blocks.shape)
        if blocks[cell] <= self.critical:
            return
        place = ", ".join(f"{c[k]:.4g}" for c, k in zip(self.grid.centers, cell))
        size = " x ".join([str(BLOCK)] * masses.ndim)
        raise ConvergenceError(
            f"blow-up: at t = {t:.6g} a mass of {blocks[cell]:.4g} lies in {size} cells around ({place}), "
            f"one of which holds {peak:.4g}; from {self.critical:.4g} on the singular attraction is stronger than "
            "diffusion. The solution up to here is in error.partial; finer cells follow it a little "
            "further, a kernel that is finite at 0 goes on", reason="blow-up", t=t, dt=dt)
