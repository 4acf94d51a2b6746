"""Linear flows that are sums of decaying modes: cosines in a no-flux box, sedimentation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import ExactProblem, box_of, check_axes, check_boxes, check_time
from .cells import legendre_panels

__all__ = ["Box", "Sedimentation"]


@dataclass(frozen=True)
class Box(ExactProblem):
    r"""Diffusion in a no-flux box: cosine modes decay on their own.

    .. math:: \rho(x, t) = \frac{1}{|\Omega|} \Big(1 + \sum_n a_n e^{-\lambda_n t} \prod_j \cos(n_j \pi s_j)\Big),
              \qquad \lambda_n = D \sum_j (n_j \pi / L_j)^2, \quad s_j = (x_j - lo_j) / L_j.

    Parameters
    ----------
    modes : mapping of int or tuple of int to float
        Amplitude of each mode; the sum of their absolute values must be < 1, which keeps rho positive.
    bounds : sequence of (lo, hi)
        One pair for each axis (in one dimension also the pair alone).
    beta : float
        Inverse temperature, ``D = 1/beta``.
    t_end : float
        Time of comparison.
    """

    modes: Mapping[Any, float] = field(default_factory=lambda: {1: 0.5, 3: 0.2})
    bounds: Any = (0.0, 1.0)
    beta: float = 1.0
    t_end: float = 0.05

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_positive("t_end", self.t_end, zero=True)
        given = check_boxes(self.bounds, 1 if np.ndim(self.bounds) == 1 else len(self.bounds))
        object.__setattr__(self, "bounds", given)
        modes = {}
        for key, value in self.modes.items():
            index = (key,) if np.ndim(key) == 0 else tuple(key)
            if len(index) != len(given) or min(index) < 0 or max(index) == 0 or any(n != int(n) for n in index):
                raise InvalidInput(f"modes: {key!r} must be {len(given)} integers >= 0, not all of them 0.")
            modes[tuple(int(n) for n in index)] = check_real("modes", value)
        if sum(abs(a) for a in modes.values()) >= 1.0:
            raise InvalidInput(f"modes={self.modes!r}: the amplitudes' absolute values must sum to less than 1.")
        object.__setattr__(self, "modes", modes)

    def rate(self, mode: int | Sequence[int]) -> float:
        """Return the decay rate ``D sum_j (n_j pi/L_j)^2`` of a mode."""
        index = np.atleast_1d(mode)
        return self.diffusion * sum((n * math.pi / (hi - lo)) ** 2 for n, (lo, hi) in zip(index, self.bounds))

    def discrete_rate(self, mode: int | Sequence[int], cells: int | Sequence[int]) -> float:
        """Return the decay rate ``sum_j (4D/h_j^2) sin^2(n_j pi h_j/(2 L_j))`` of a mode under the two-point flux."""
        index = np.atleast_1d(mode)
        total = 0.0
        for n, (lo, hi), count in zip(index, self.bounds, np.broadcast_to(cells, index.shape)):
            total += 4.0 * (count / (hi - lo)) ** 2 * math.sin(0.5 * n * math.pi / count) ** 2
        return self.diffusion * total

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the box."""
        return box_of(self.bounds, None, cells, "no-flux")

    def energy(self) -> FreeEnergy:
        """Return the entropy alone."""
        return self._with_entropy()

    def _volume(self) -> float:
        return math.prod(hi - lo for lo, hi in self.bounds)

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time ``t``."""
        check_axes(grid, len(self.bounds))
        t = check_time(t)
        total = np.ones(grid.shape)
        for mode, amplitude in self.modes.items():
            factors = []
            for n, edges, (lo, hi) in zip(mode, grid.edges, self.bounds):
                k = n * math.pi / (hi - lo)
                width = np.diff(edges)
                factors.append(np.diff(np.sin(k * (edges - lo))) / (k * width) if n else np.ones(width.size))
            total += amplitude * math.exp(-self.rate(mode) * t) * _outer(factors)
        return Density.from_values(grid, total / self._volume())

    def quantities(self, t: float) -> dict[str, float]:
        """Return the amplitude of each mode (``mode_n``), energy and dissipation at time ``t``."""
        decayed = {mode: a * math.exp(-self.rate(mode) * check_time(t)) for mode, a in self.modes.items()}
        nodes, weights = np.polynomial.legendre.leggauss(48 + 8 * max(itertools.chain(*self.modes), default=0))
        s = [0.5 * (nodes + 1.0)] * len(self.bounds)
        relative, slopes = np.ones((nodes.size,) * len(s)), [np.zeros((nodes.size,) * len(s)) for _ in s]
        for mode, amplitude in decayed.items():
            cosines = [np.cos(n * math.pi * x) for n, x in zip(mode, s)]
            relative += amplitude * _outer(cosines)
            for axis, (lo, hi) in enumerate(self.bounds):
                factors = list(cosines)
                factors[axis] = -mode[axis] * math.pi / (hi - lo) * np.sin(mode[axis] * math.pi * s[axis])
                slopes[axis] += amplitude * _outer(factors)
        weight = _outer([0.5 * weights] * len(s))
        energy = self.diffusion * (float(np.sum(weight * relative * np.log(relative))) - math.log(self._volume()))
        fisher = float(np.sum(weight * sum(slope**2 for slope in slopes) / relative))
        named = {_mode_name(mode): a for mode, a in decayed.items()}
        return named | {"energy": energy, "dissipation": self.diffusion**2 * fisher}

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the amplitude of each mode, energy and dissipation of a computed density."""
        named = {}
        for mode in self.modes:
            factors, norm = [], 1.0
            for n, x, (lo, hi) in zip(mode, rho.grid.centers, self.bounds):
                factors.append(np.cos(n * math.pi * (x - lo) / (hi - lo)))
                norm *= 2.0 if n else 1.0
            named[_mode_name(mode)] = norm * rho.expect(_outer(factors))
        return named | self._measure_energies(rho)


@dataclass(frozen=True)
class Sedimentation(ExactProblem):
    r"""Diffusion under gravity, ``V = g x`` on ``[0, L]`` with no flux through the ends.

    With ``a = g/(2D)`` and ``k_n = n pi/L`` the solution is

    .. math:: \rho(x, t) = \frac{2a e^{-2ax}}{1 - e^{-2aL}} + \sum_n c_n e^{-\lambda_n t}
              e^{-ax} \big(\cos k_n x - \tfrac{a}{k_n} \sin k_n x\big), \qquad \lambda_n = D (a^2 + k_n^2).

    Parameters
    ----------
    gravity : float
        g, not zero.
    length : float
        L.
    modes : mapping of int to float
        The amplitudes c_n; the initial density must be positive.
    beta : float
        Inverse temperature, ``D = 1/beta``.
    t_end : float
        Time of comparison.
    """

    gravity: float = 1.0
    length: float = 1.0
    modes: Mapping[int, float] = field(default_factory=lambda: {1: 0.3, 2: -0.1})
    beta: float = 2.0
    t_end: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_positive("length", self.length)
        check_positive("t_end", self.t_end, zero=True)
        if check_real("gravity", self.gravity) == 0.0:
            raise InvalidInput("gravity=0: must not be zero; without gravity use Box.")
        if any(n != int(n) or n < 1 for n in self.modes):
            raise InvalidInput(f"modes={dict(self.modes)!r}: the keys must be integers >= 1.")
        lowest = self.pdf(np.linspace(0.0, self.length, 200 * max(self.modes, default=1) + 1), 0.0).min()
        if lowest <= 0.0:
            raise InvalidInput(
                f"modes={dict(self.modes)!r}: the initial density falls to {lowest:.3g}, must be > 0; use smaller ones."
            )

    def _shape(self, mode: int) -> tuple[float, float]:
        return self.gravity / (2.0 * self.diffusion), mode * math.pi / self.length

    def rate(self, mode: int) -> float:
        """Return the decay rate ``D ((g/2D)^2 + (n pi/L)^2)`` of mode n."""
        a, k = self._shape(mode)
        return self.diffusion * (a * a + k * k)

    def eigenfunction(self, mode: int, x: np.ndarray) -> np.ndarray:
        """Return ``e^{-ax} (cos k x - (a/k) sin k x)``; mode 0 is the stationary density."""
        a, k = self._shape(mode)
        if mode == 0:
            return 2.0 * a * np.exp(-2.0 * a * x) / -math.expm1(-2.0 * a * self.length)
        return np.exp(-a * x) * (np.cos(k * x) - a / k * np.sin(k * x))

    def _flux(self, mode: int, x: np.ndarray) -> np.ndarray:
        """Return ``D phi' + g phi``, whose derivative is ``-lambda phi``."""
        a, k = self._shape(mode)
        return -self.diffusion * np.exp(-a * x) * (k + a * a / k) * np.sin(k * x)

    def pdf(self, x: np.ndarray, t: float) -> np.ndarray:
        """Return the density at the points ``x``."""
        total = self.eigenfunction(0, x)
        for mode, c in self.modes.items():
            total = total + c * math.exp(-self.rate(mode) * check_time(t)) * self.eigenfunction(mode, x)
        return total

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of ``[0, L]``."""
        return Grid((0.0, self.length), cells=cells, boundary="no-flux")

    def energy(self) -> FreeEnergy:
        """Return entropy and gravity."""
        return self._with_entropy(Potential(lambda x: self.gravity * x))

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time ``t``."""
        check_axes(grid, 1)
        t, edges = check_time(t), grid.edges[0]
        a, _ = self._shape(0)
        masses = np.exp(-2.0 * a * edges[:-1]) * -np.expm1(-2.0 * a * np.diff(edges))
        masses /= -math.expm1(-2.0 * a * self.length)
        for mode, c in self.modes.items():
            rate = self.rate(mode)
            masses -= c * math.exp(-rate * t) * np.diff(self._flux(mode, edges)) / rate
        return Density.from_values(grid, masses / grid.widths[0])

    def quantities(self, t: float) -> dict[str, float]:
        """Return the amplitude of each mode (``mode_n``), mean, energy and dissipation at time ``t``."""
        x, w = legendre_panels(0.0, self.length)
        rho, flux = self.pdf(x, t), np.zeros_like(x)
        named = {}
        for mode, c in self.modes.items():
            named[f"mode_{mode}"] = c * math.exp(-self.rate(mode) * t)
            flux += named[f"mode_{mode}"] * self._flux(mode, x)
        energy = float(np.sum(w * rho * (self.diffusion * np.log(rho) + self.gravity * x)))
        return named | {
            "mean": float(np.sum(w * rho * x)),
            "energy": energy,
            "dissipation": float(np.sum(w * flux**2 / rho)),
        }

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the amplitude of each mode, mean, energy and dissipation of a computed density."""
        x = rho.grid.centers[0]
        named = {}
        for mode in self.modes:
            a, k = self._shape(mode)
            # The generator is symmetric in L2(e^{V/D}): project on e^{V/D} phi_n, of squared norm L (1 + (a/k)^2)/2.
            dual = np.exp(2.0 * a * x) * self.eigenfunction(mode, x)
            named[f"mode_{mode}"] = rho.expect(dual) / (0.5 * self.length * (1.0 + (a / k) ** 2))
        return named | {"mean": float(np.atleast_1d(rho.mean())[0])} | self._measure_energies(rho)


def _outer(factors: list[np.ndarray]) -> np.ndarray:
    """Return the outer product of one array for each axis."""
    total = np.ones(())
    for factor in factors:
        total = np.multiply.outer(total, factor)
    return total


def _mode_name(mode: tuple[int, ...]) -> str:
    return "mode_" + "_".join(str(n) for n in mode)
