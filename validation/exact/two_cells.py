"""Two cells: the smallest system of finite volumes, with the rate of the Scharfetter-Gummel flux in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import ExactProblem, check_axes, check_time

__all__ = ["TwoCells"]


@dataclass(frozen=True)
class TwoCells(ExactProblem):
    r"""Diffusion between two cells of width h whose potentials differ by ``j``.

    With ``z = beta j`` the Scharfetter-Gummel flux lets the occupations relax to the Gibbs law, in which the upper cell
    holds ``1/(1 + e^z)``, at the rate

    .. math:: \lambda = \frac{D}{h^2}\,z \coth\frac{z}{2}.

    The solution of the finite-volume equations themselves: plain fluxes (``FiniteVolume(corrected=False)``) have no
    error in space here.

    Parameters
    ----------
    jump : float
        ``j = V_2 - V_1``.
    beta : float
        Inverse temperature, ``D = 1/beta``.
    width : float
        h.
    upper : float
        Mass of the second cell at time 0; the first holds the rest of 1.
    t_end : float
        Time of comparison.
    """

    jump: float = 2.0
    beta: float = 1.5
    width: float = 1.0
    upper: float = 0.8
    t_end: float = 0.5

    def __post_init__(self) -> None:
        check_real("jump", self.jump)
        check_positive("beta", self.beta)
        check_positive("width", self.width)
        check_positive("t_end", self.t_end, zero=True)
        if not 0.0 < check_real("upper", self.upper) < 1.0:
            raise InvalidInput(f"upper={self.upper!r}: must be between 0 and 1.")

    @property
    def rate(self) -> float:
        """lambda."""
        z = self.beta * self.jump
        return self.diffusion / self.width**2 * (2.0 if z == 0.0 else z / math.tanh(0.5 * z))

    def grid(self, cells: int | Sequence[int] = 2) -> Grid:
        """Return the two cells, centered at ``-h/2`` and ``h/2``; ``cells`` must be 2."""
        if np.ndim(cells) or cells != 2:
            raise InvalidInput(f"cells={cells!r}: this problem has 2 cells.")
        return Grid((-self.width, self.width), cells=2, boundary="no-flux")

    def potential(self, x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = j x/h``."""
        return self.jump * x / self.width

    def energy(self) -> FreeEnergy:
        """Return entropy and potential."""
        return self._with_entropy(Potential(self.potential))

    def occupation(self, t: float) -> float:
        """Return the mass of the second cell at time ``t``."""
        rest = 1.0 / (1.0 + math.exp(self.beta * self.jump))
        return rest + (self.upper - rest) * math.exp(-self.rate * check_time(t))

    def density(self, grid: Grid, t: float) -> Density:
        """Return the two cells at time ``t``."""
        check_axes(grid, 1)
        upper = self.occupation(t)
        return Density.from_values(grid, np.array([1.0 - upper, upper]) / self.width)

    def quantities(self, t: float) -> dict[str, float]:
        """Return the occupation of the second cell and the energy of the two at time ``t``."""
        masses = np.array([1.0 - self.occupation(t), self.occupation(t)])
        potential = np.array([-0.5, 0.5]) * self.jump
        return {"occupation": float(masses[1]),
                "energy": float(masses @ (potential + self.diffusion * np.log(masses / self.width)))}

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the same quantities of a computed density."""
        return {"occupation": float(rho.masses[1]), "energy": float(self.energy()(rho))}
