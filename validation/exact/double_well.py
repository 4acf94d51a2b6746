"""Relaxation in a double well, from the spectrum of its Fokker-Planck operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.checks import check_count, check_interval, check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import check_axes, check_time
from .cells import cell_averages
from .spectral import GibbsPolynomials, SpectralProblem, agree, double_well

if TYPE_CHECKING:
    from wgflow.solution import Solution

__all__ = ["DoubleWellDecay"]

# The default interval ends where the Gibbs law has fallen to e^-38, below the rounding of one.
_LOG_TAIL = 38.0


@dataclass(frozen=True)
class DoubleWellDecay(SpectralProblem):
    r"""The double well ``V = x^4/4 - x^2/2`` after a field b has been switched off.

    Before ``t = 0`` the state was the Gibbs law of ``V - b x``; from then on ``rho_t = D rho'' + (V' rho)'``. With the
    eigenvalues ``0 = lambda_0 < lambda_1 < ...`` of the generator and its eigenfunctions phi_n, orthonormal in the
    Gibbs law of V,

    .. math:: E\,x(t) = \sum_n e^{-\lambda_n t} \langle \phi_n \rangle_{\rho_0} \langle x \phi_n \rangle_\infty;

    at low temperature lambda_1 is the slow exchange between the wells. Everything is computed in polynomials
    orthonormal in the Gibbs law (`GibbsPolynomials`), at two degrees that must agree.

    Parameters
    ----------
    beta : float
        Inverse temperature, ``D = 1/beta``.
    field : float
        b.
    t_end : float
        Time of comparison.
    bounds : (lo, hi), optional
        No-flux interval of the grid; by default it ends where the Gibbs laws have fallen to 1e-16.
    degree : int
        Degree of the polynomials; compared with 3/4 of it.
    tolerance : float
        Largest difference allowed between the two.

    Raises
    ------
    ConvergenceError
        By `rates` and `quantities`, if the two degrees differ by more.
    """

    beta: float = 4.0
    field: float = 0.2
    t_end: float = 1.0
    bounds: Any = None
    degree: int = 80
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_real("field", self.field)
        check_positive("t_end", self.t_end, zero=True)
        check_positive("tolerance", self.tolerance)
        check_count("degree", self.degree, 8)
        if self.bounds is not None:
            object.__setattr__(self, "bounds", check_interval("bounds", self.bounds))

    potential = staticmethod(double_well)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the interval `bounds`."""
        bounds = self.bounds
        if bounds is None:
            reach = 2.0
            while self.beta * (self.potential(reach) - abs(self.field) * reach) < _LOG_TAIL:
                reach *= 1.02
            bounds = (-reach, reach)
        return Grid(bounds, cells=cells)

    def energy(self) -> FreeEnergy:
        """Return entropy and double well."""
        return self._with_entropy(Potential(self.potential))

    def rates(self, count: int = 3) -> np.ndarray:
        """Return the ``count`` smallest nonzero eigenvalues lambda_1 < lambda_2 < ... of the generator."""
        if not 1 <= count <= self.degree // 4:
            raise InvalidInput(f"count={count!r}: must be from 1 to degree/4 = {self.degree // 4}; raise degree.")
        coarse, fine = (_modes(self.beta, degree)[1][1 : count + 1] for degree in self._sizes())
        agree("rates", coarse, fine, self.tolerance)
        return fine.copy()

    def pdf(self, x: np.ndarray, t: float) -> np.ndarray:
        """Return the density at the points ``x``."""
        law, c = self._coefficients(check_time(t), self.degree)
        return np.maximum(law.pdf(np.asarray(x, dtype=float), c), 0.0)

    def density(self, grid: Grid, t: float) -> Density:
        """Return the cell averages at time ``t``."""
        check_axes(grid, 1)
        return Density.from_values(grid, cell_averages(grid, lambda x: self.pdf(x, t)))

    @property
    def times(self) -> tuple[float, ...]:
        """``3 t_end/4`` and `t_end`, between which the decay of the mean is looked at."""
        return 0.75 * self.t_end, self.t_end

    def path_quantities(self, sol: Solution) -> dict[str, tuple[float, float]]:
        """Return the rate at which the mean falls between the two `times`; at late times it is lambda_1."""
        early, late = self.times

        def rate(first: float, second: float) -> float:
            return math.log(first / second) / (late - early)

        measured = rate(*(float(sol.density(t).mean()) for t in self.times))
        return {"rate": (measured, rate(*(self.quantities(t)["mean"] for t in self.times)))}

    def _sizes(self) -> tuple[int, int]:
        return 3 * self.degree // 4, self.degree

    def _coefficients(self, t: float, degree: int) -> tuple[GibbsPolynomials, np.ndarray]:
        law, rates, vectors = _modes(self.beta, degree)
        # rho0 / w = exp(beta b x) / E exp(beta b x): bounded away from overflow by its largest exponent.
        exponent = self.beta * self.field * law.nodes
        seen = law.weights > 0.0
        start = np.where(seen, np.exp(np.where(seen, exponent - exponent[seen].max(), 0.0)), 0.0)
        start /= law.weights @ start
        return law, vectors @ (np.exp(-rates * t) * (vectors.T @ law.coefficients(start)))

    def _quantities(self, t: float, degree: int) -> dict[str, float]:
        law, c = self._coefficients(t, degree)
        # Where the law itself is below rounding the polynomials are not resolved and add nothing.
        seen = law.weights > 1e-22 * law.weights.max()
        weights, x = law.weights[seen], law.nodes[seen]
        ratio, slope = np.maximum(c @ law.values[:, seen], 1e-300), c @ law.slopes[:, seen]
        mean = float(weights @ (ratio * x))
        relative_entropy = self.diffusion * float(weights @ (ratio * np.log(ratio)))
        return {
            "mean": mean,
            "variance": float(weights @ (ratio * x * x)) - mean**2,
            "energy": relative_entropy - self.diffusion * law.log_partition,
            "dissipation": self.diffusion**2 * float(weights @ (slope**2 / ratio)),
        }


@lru_cache(maxsize=16)
def _modes(beta: float, degree: int) -> tuple[GibbsPolynomials, np.ndarray, np.ndarray]:
    law = GibbsPolynomials(DoubleWellDecay.potential, beta, degree)
    return (law, *law.modes())
