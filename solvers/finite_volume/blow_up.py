r"""Detection of blow-up: singular attraction has overcome diffusion, and the law collapses to a point.

If a mass m that fills a cell shrinks to half the cell's width, its entropy term rises by :math:`D m\,d \log 2` and its
interaction energy falls by :math:`\tfrac12 m^2 \delta`, with :math:`\delta` the fall of the kernel's average over the
cell (``self_drop`` of its operator). Beyond

.. math:: m_c = \frac{2 d D \log 2}{\delta}

shrinking lowers the energy. For :math:`w = \chi \log|x|` this is the critical mass of Keller and Segel,
:math:`2 d D / \chi`, on any grid: the law blows up in finite time. A run ends with a ConvergenceError when a block of
three cells along each axis holds more: from there on the result depends on the grid and not on the equation.
"""

from __future__ import annotations

import math

import numpy as np

from wgflow.errors import ConvergenceError

#: Cells along each axis of the block that a collapsed mass lies in.
BLOCK = 3


class CollapseWatch:
    """A watch for a collapse under the singular attraction of an energy.

    Attributes
    ----------
    critical : float
        The mass in a block that counts as a collapse. Infinite without singular attraction, with nonlinear diffusion
        (whose pressure may resist any mass) and without diffusion (the exact law then collapses to points, too).
    """

    def __init__(self, energy):
        drop = sum(factor * operator.self_drop for factor, operator in energy.operators)
        self.grid, collapses = energy.grid, drop > 0 and energy.diffusion > 0 and not energy.internal
        self.critical = 2 * energy.grid.ndim * energy.diffusion * math.log(2.0) / drop if collapses else math.inf

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
            "further, and with a kernel that is finite at 0 the run goes on", reason="blow-up", t=t, dt=dt)
