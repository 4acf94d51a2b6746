r"""The error of the grid over a whole run, by which the check of a tolerance is judged.

Along with the solution on n cells the same flow is solved on n/2 and on n/4 cells. With :math:`d_1`, :math:`d_2` the L1
distances of the densities on n and n/2 and on n/2 and n/4 cells, and c the factor by which the error falls from n/2 to
n cells,

.. math:: \|\rho_h - \rho\| \approx \frac{c}{1 - c}\,d_1, \qquad
          c = \max\Bigl(r_1,\ \frac{d_1}{d_2}\,\frac{r_1}{r_2}\Bigr),

where :math:`r_1`, :math:`r_2` are the factors by which the differences of neighboring cells fall, of the order of the
scheme: what a density has in it that its cells do not show. Where the error is of another order, since a kernel has a
kink or since the law was rough before, the first factor is too small and the second one, the observed fall
:math:`d_1/d_2` set right by how much better the finest grid resolves the law than the two others, is what counts. For
smooth laws on fine grids both are :math:`2^{-p}`, and this is Richardson's extrapolation. On coarse grids, which hardly
hold the law, they fall faster than that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput

from .coarsening import coarser
from .measures import distances
from .runs import Known, Runner, same_fluxes

if TYPE_CHECKING:
    from wgflow.energies.free_energy import FreeEnergy
    from wgflow.solution import Solution
    from wgflow.solvers.base import Method

__all__ = ["largest_grid_error"]

#: The laws of the coarser runs are held in memory: at most so many of each.
MOST_TIMES = 16
#: The error falls from half of the cells to all of them by this factor at least, and at most by half that of the order.
LEAST_FALL = 2.0**-0.5
#: Distances below this are round-off.
ROUNDING = 1e-12


def largest_grid_error(solution: Solution, energy: FreeEnergy, start: Density, method: Method) -> float | None:
    r"""Return :math:`\max_k \|\rho_h(t_k) - \rho(t_k)\|_{L^1}` relative to the mass, over up to 16 snapshots.

    Parameters
    ----------
    solution : Solution
        Of a run that reached its end.
    energy : FreeEnergy
    start : Density
        The initial law.
    method : Method

    Returns
    -------
    float or None
        None if the problem cannot be posed on fewer cells, or cannot be solved there.
    """
    runner = Runner(solution, energy, start, method, float(solution.t[-1]))
    last = len(solution.t) - 1
    if not runner.ends.size:
        return 0.0
    chosen = np.unique(np.linspace(min(1, last), last, MOST_TIMES).round().astype(int))
    times = [float(t) for t in solution.t[chosen]]
    try:
        half = coarser(start)
        coarse = [runner.along(law, runner.method_at(level), times)
                  for level, law in enumerate((half, coarser(half)), 1)]
    except (InvalidInput, ConvergenceError):
        return None
    own = [Known(solution.densities[int(k)], float(solution.energy[k]), solution.certificate.scheme) for k in chosen]
    return max(_error(*laws) for laws in zip(own, *coarse))


def _error(own: Known, half: Known, quarter: Known) -> float:
    """Return the L1 error of the first of three runs at one time, relative to the mass."""
    first, second = (float(distances(a.law, b.law)[0]) for a, b in ((own, half), (half, quarter)))
    order = 4 if "fourth" in own.scheme else 2
    if first <= ROUNDING:
        return first
    finest, middle, coarsest = (max(_roughness(known.law, order), ROUNDING) for known in (own, half, quarter))
    fall = finest / middle
    if same_fluxes(own, half) and same_fluxes(half, quarter):
        fall = max(fall, first / max(second, ROUNDING) * finest * coarsest / middle**2)
    fall = min(max(fall, 2.0 ** -(order + 1)), LEAST_FALL)
    return first * fall / (1.0 - fall)


def _roughness(law: object, order: int) -> float:
    """Return the sum over the axes of the differences of an order between neighboring cells, relative to the mass."""
    if not isinstance(law, Density):
        raise TypeError("the error of a grid is that of a density")
    values = law.masses if all(law.grid.uniform) else law.values
    return math.fsum(float(np.abs(np.diff(values, order, axis=axis)).sum())
                     for axis in range(values.ndim)) / float(values.sum())
