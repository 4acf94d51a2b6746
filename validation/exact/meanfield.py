"""Interacting flows with a phase transition: the Desai-Zwanzig model on the line, noisy Kuramoto on the circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ive

from wgflow.checks import check_count, check_interval, check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.interactions.terms import Interaction

from .base import check_axes, check_time, entropy_and_dissipation
from .cells import cell_averages, legendre_panels
from .spectral import GibbsPolynomials, LegendreGalerkin, SpectralProblem, agree, double_well, integrate

__all__ = ["DesaiZwanzig", "Kuramoto"]

_BRANCHES = ("ordered", "disordered")


@dataclass(frozen=True)
class DesaiZwanzig(SpectralProblem):
    r"""Attracting particles in a double well: ``V = x^4/4 - x^2/2``, ``U = theta |x - x'|^2 / 2``.

    Stationary states are the laws ``rho_m = exp(-beta W_m) / Z_m``, ``W_m = V + theta (x - m)^2 / 2``, whose mean is m;
    their free energy is ``-log(Z_m)/beta``. ``m = 0`` always is one (disordered). Where
    ``theta beta int x^2 rho_0 > 1``, that is for beta above `critical_beta`, a pair ``+-m*`` appears and has the lower
    free energy (ordered). The flow itself is solved by a Legendre-Galerkin method on `bounds`.

    Parameters
    ----------
    coupling : float
        theta > 0.
    beta : float
        Inverse temperature.
    mean, variance : float
        The initial density is ``N(mean, variance)``.
    t_end : float
        Time of comparison.
    bounds : (lo, hi)
        No-flux interval, the same for the grid and for the reference solution.
    size : int
        Number of Legendre polynomials of the reference solution; compared with a run of 4/5 of them.
    tolerance : float
        Largest difference allowed between the two.

    Raises
    ------
    ConvergenceError
        By `density` and `quantities`, if the reference solution misses its tolerance.
    """

    coupling: float = 1.0
    beta: float = 4.0
    mean: float = 0.5
    variance: float = 0.2
    t_end: float = 0.5
    bounds: Any = (-4.0, 4.0)
    size: int = 175
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        check_positive("coupling", self.coupling)
        check_positive("beta", self.beta)
        check_real("mean", self.mean)
        check_positive("variance", self.variance)
        check_positive("t_end", self.t_end, zero=True)
        check_positive("tolerance", self.tolerance)
        check_count("size", self.size, 10)
        object.__setattr__(self, "bounds", check_interval("bounds", self.bounds))

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the interval `bounds`."""
        return Grid(self.bounds, cells=cells)

    potential = staticmethod(double_well)

    def kernel(self, x: np.ndarray) -> np.ndarray:
        """Return ``U(x, x') = theta |x - x'|^2 / 2`` as a function of ``x - x'``."""
        return 0.5 * self.coupling * x * x

    def energy(self) -> FreeEnergy:
        """Return the entropy, double well and attraction."""
        return self._with_entropy(Potential(self.potential), Interaction(self.kernel))

    # stationary states

    def _law(self, mean: float, degree: int = 2, beta: float | None = None) -> GibbsPolynomials:
        return GibbsPolynomials(
            lambda x: self.potential(x) + 0.5 * self.coupling * (x - mean) ** 2, beta or self.beta, degree
        )

    def _excess(self, mean: float) -> float:
        """Return the mean of the law ``rho_m`` over m, less one: zero at a stationary state, falling in m."""
        law = self._law(mean)
        return float(law.weights @ law.nodes) / mean - 1.0

    def critical_beta(self) -> float:
        """Return the inverse temperature above which the ordered branch exists: ``theta beta int x^2 rho_0 = 1``."""

        def margin(log_beta: float) -> float:
            beta = math.exp(log_beta)
            law = self._law(0.0, beta=beta)
            return self.coupling * beta * float(law.weights @ law.nodes**2) - 1.0

        low, high = -1.0, 1.0
        while margin(low) > 0.0:
            low -= 1.0
        while margin(high) < 0.0:
            high += 1.0
        return math.exp(brentq(margin, low, high, xtol=1e-15, rtol=1e-15))

    def stationary_mean(self) -> float:
        """Return m* > 0 of the ordered branch; 0 at and below the critical inverse temperature."""
        tiny = 1e-7
        if self._excess(tiny) <= 0.0:
            return 0.0
        high = 2.0
        while self._excess(high) > 0.0:
            high *= 2.0
        return float(brentq(self._excess, tiny, high, xtol=1e-15, rtol=1e-15))

    def stationary(self, branch: str = "ordered") -> dict[str, float]:
        """Return mean, variance and energy of a stationary state, ``"ordered"`` (mean m* >= 0) or ``"disordered"``."""
        mean = self._branch_mean(branch)
        law = self._law(mean)
        return {
            "mean": mean,
            "variance": float(law.weights @ (law.nodes - mean) ** 2),
            "energy": -self.diffusion * law.log_partition,
        }

    def stationary_density(self, grid: Grid, branch: str = "ordered") -> Density:
        """Return the cell averages of a stationary state."""
        check_axes(grid, 1)
        mean = self._branch_mean(branch)
        law = self._law(mean)

        def pdf(x: np.ndarray) -> np.ndarray:
            return np.exp(-self.beta * law.potential(x) - law.log_partition)

        return Density.from_values(grid, cell_averages(grid, pdf))

    def linear_rate(self, branch: str = "ordered") -> float:
        """Return the largest eigenvalue of the flow linearized at a stationary state; negative where it is stable."""
        rates = []
        for degree in (48, 64):
            law = self._law(self._branch_mean(branch), degree)
            # The mean of a perturbation moves the potential by -theta (delta m) x: a matrix of rank one.
            pull = np.outer(law.drift()[:, 0], law.coefficients(law.nodes))
            matrix = -self.diffusion * law.stiffness() + self.coupling * pull
            rates.append(float(np.linalg.eigvals(matrix[1:, 1:]).real.max()))
        agree("linear_rate", rates[0], rates[1], tolerance=self.tolerance)
        return rates[1]

    def _branch_mean(self, branch: str) -> float:
        if branch not in _BRANCHES:
            raise InvalidInput(f"branch={branch!r}: must be one of {_BRANCHES}.")
        return self.stationary_mean() if branch == "ordered" else 0.0

    # the flow

    def density(self, grid: Grid, t: float) -> Density:
        """Return the cell averages at time ``t``, integrals of the reference solution's polynomial."""
        check_axes(grid, 1)
        method, c = _legendre_run(self, check_time(t), self.size)
        edges = grid.edges[0]
        if edges[0] < self.bounds[0] or edges[-1] > self.bounds[1]:
            raise InvalidInput(f"grid: must lie in bounds={self.bounds}; use problem.grid(cells).")
        # Far in the tails the polynomial is rounding noise of either sign.
        return Density.from_values(grid, np.maximum(method.cell_masses(edges, c), 0.0) / grid.widths[0])

    def _sizes(self) -> tuple[int, int]:
        return 4 * self.size // 5, self.size

    def _quantities(self, t: float, size: int) -> dict[str, float]:
        method, c = _legendre_run(self, t, size)
        x, w = legendre_panels(self.bounds[0], self.bounds[1], panels=120)
        rho, slope = method.evaluate(x, c)
        mean = float(w @ (rho * x))
        variance = float(w @ (rho * x * x)) - mean**2
        force = x**3 - x + self.coupling * (x - mean)
        entropy, dissipation = entropy_and_dissipation(w, rho, slope, force, self.diffusion)
        energy = self.diffusion * entropy + float(w @ (rho * self.potential(x))) + 0.5 * self.coupling * variance
        return {"mean": mean, "variance": variance, "energy": energy, "dissipation": dissipation}


@lru_cache(maxsize=64)
def _legendre_run(problem: DesaiZwanzig, t: float, size: int) -> tuple[LegendreGalerkin, np.ndarray]:
    theta = problem.coupling
    method = LegendreGalerkin(lambda x: x**3 + (theta - 1.0) * x, theta, problem.diffusion, problem.bounds, size)

    def gaussian(x: np.ndarray) -> np.ndarray:
        spread = problem.variance
        return np.exp(-0.5 * (x - problem.mean) ** 2 / spread) / math.sqrt(2.0 * math.pi * spread)

    return method, method.run(method.project(gaussian), t, rtol=problem.tolerance)


@dataclass(frozen=True)
class Kuramoto(SpectralProblem):
    r"""Noisy phase oscillators: ``U = -K cos(x - x')`` on the circle, from ``rho0 = (1 + b cos(x - p)) / (2 pi)``.

    The stationary states are uniform or ``rho ~ exp(beta K r cos(x - psi))`` with the order parameter
    ``r = |E e^{ix}| = I_1(beta K r) / I_0(beta K r)``, which has a solution r > 0 for ``K > K_c = 2D``; then
    ``F = K r^2/2 - D log(2 pi I_0(beta K r))``. Near the uniform state the first mode grows at the rate ``K/2 - D``.
    In Fourier modes ``z_n = E e^{inx}`` the flow is

    .. math:: z_n' = -D n^2 z_n + \tfrac{K n}{2} (z_1 z_{n-1} - \bar z_1 z_{n+1}), \qquad z_0 = 1.

    Parameters
    ----------
    coupling : float
        K.
    beta : float
        Inverse temperature, ``D = 1/beta``.
    amplitude, phase : float
        b, with ``|b| < 1``, and p.
    t_end : float
        Time of comparison.
    size : int
        Number of Fourier modes of the reference solution; compared with a run of 4/5 of them.
    tolerance : float
        Largest difference allowed between the two.

    Raises
    ------
    ConvergenceError
        By `density` and `quantities`, if the reference solution misses its tolerance.
    """

    coupling: float = 2.0
    beta: float = 2.0
    amplitude: float = 0.2
    phase: float = 0.0
    t_end: float = 1.0
    size: int = 40
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        check_real("coupling", self.coupling)
        check_positive("beta", self.beta)
        check_real("phase", self.phase)
        check_positive("t_end", self.t_end, zero=True)
        check_positive("tolerance", self.tolerance)
        check_count("size", self.size, 10)
        if abs(check_real("amplitude", self.amplitude)) >= 1.0:
            raise InvalidInput(f"amplitude={self.amplitude!r}: must be between -1 and 1.")

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the periodic grid of ``[0, 2 pi]``."""
        return Grid((0.0, 2.0 * math.pi), cells=cells, boundary="periodic")

    def kernel(self, x: np.ndarray) -> np.ndarray:
        """Return ``U(x, x') = -K cos(x - x')`` as a function of ``x - x'``."""
        return -self.coupling * np.cos(x)

    def energy(self) -> FreeEnergy:
        """Return entropy and coupling."""
        return self._with_entropy(Interaction(self.kernel))

    @property
    def critical_coupling(self) -> float:
        """``K_c = 2D``."""
        return 2.0 * self.diffusion

    @property
    def growth_rate(self) -> float:
        """Rate ``K/2 - D`` of the first mode at the uniform state."""
        return 0.5 * self.coupling - self.diffusion

    def stationary(self) -> dict[str, float]:
        """Return the order parameter and energy of the stable stationary state."""
        order, slope = 0.0, self.coupling * self.beta

        def excess(r: float) -> float:
            return float(ive(1, slope * r) / ive(0, slope * r)) / r - 1.0

        if self.coupling > self.critical_coupling and excess(1e-8) > 0.0:
            order = float(brentq(excess, 1e-8, 1.0, xtol=1e-15, rtol=1e-15))
        log_partition = math.log(2.0 * math.pi * ive(0, slope * order)) + slope * order
        return {"order": order, "energy": 0.5 * self.coupling * order**2 - self.diffusion * log_partition}

    def density(self, grid: Grid, t: float) -> Density:
        """Return the cell averages at time ``t``, integrals of the reference solution's Fourier sum."""
        check_axes(grid, 1)
        z, edges = _fourier_run(self, check_time(t), self.size), grid.edges[0]
        n = np.arange(1, self.size + 1)
        # The density is (1 + 2 Re sum z_n e^{-inx}) / (2 pi).
        waves = np.exp(-1j * np.multiply.outer(edges, n)) @ (z / (-1j * n))
        masses = (np.diff(edges) + 2.0 * np.diff(waves.real)) / (2.0 * math.pi)
        return Density.from_values(grid, np.maximum(masses, 0.0) / grid.widths[0])

    def _sizes(self) -> tuple[int, int]:
        return 4 * self.size // 5, self.size

    def _quantities(self, t: float, size: int) -> dict[str, float]:
        z, n = _fourier_run(self, check_time(t), size), np.arange(1, size + 1)
        x = np.linspace(0.0, 2.0 * math.pi, 1024, endpoint=False)
        wave = np.exp(-1j * np.multiply.outer(x, n))
        rho = (1.0 + 2.0 * (wave @ z).real) / (2.0 * math.pi)
        slope = (wave @ (-1j * n * z)).real / math.pi
        force = self.coupling * (np.sin(x) * z[0].real - np.cos(x) * z[0].imag)
        w = np.full(x.size, 2.0 * math.pi / x.size)
        entropy, dissipation = entropy_and_dissipation(w, rho, slope, force, self.diffusion)
        energy = self.diffusion * entropy - 0.5 * self.coupling * abs(z[0]) ** 2
        return {"order": float(abs(z[0])), "energy": float(energy), "dissipation": dissipation}

    def order_at(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the order parameter at rising times, of the reference solution run once through them.

        Raises
        ------
        ConvergenceError
            If its two resolutions differ by more than the tolerance.
        """
        t = tuple(check_time(s) for s in times)
        coarse, fine = (np.abs(_fourier_run(self, t, size)[0]) for size in self._sizes())
        agree("order", coarse, fine, self.tolerance)
        return fine

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the order parameter, energy and dissipation of a computed density."""
        x = rho.grid.centers[0]
        order = math.hypot(rho.expect(np.cos(x)), rho.expect(np.sin(x)))
        return {"order": order} | self._measure_energies(rho)


@lru_cache(maxsize=64)
def _fourier_run(problem: Kuramoto, t: float | tuple[float, ...], size: int) -> np.ndarray:
    """Return the modes z_1 ... z_size at time ``t``, or as columns at several times."""
    n = np.arange(1, size + 1)
    decay, half = -problem.diffusion * n**2, 0.5 * problem.coupling * n
    start = np.zeros(size, dtype=complex)
    start[0] = 0.5 * problem.amplitude * np.exp(1j * problem.phase)

    def slope(_: float, z: np.ndarray) -> np.ndarray:
        below, above = np.concatenate([[1.0], z[:-1]]), np.concatenate([z[1:], [0.0]])
        return decay * z + half * (z[0] * below - np.conj(z[0]) * above)

    return integrate(slope, start, t, rtol=1e-2 * problem.tolerance, atol=1e-14)
