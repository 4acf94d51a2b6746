"""Nonlinear diffusion: Barenblatt's solutions, the flow in a quadratic well, a front with a waiting time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.special import beta as beta_function
from scipy.special import betainc

from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import ExactProblem, box_of, check_axes, check_boxes, check_time
from .cells import cell_averages
from .scaling import Place, ScalingProblem

if TYPE_CHECKING:
    from wgflow.solution import Solution

__all__ = ["Barenblatt", "PorousMedium", "WaitingTime"]

#: Mass beyond the default grid of a profile with algebraic tails.
_TAIL_MASS = 1e-8
#: Such a grid is stretched by sinh(_STRETCH).
_STRETCH = 5.0


@dataclass(frozen=True)
class PorousMedium(ScalingProblem):
    r"""Nonlinear diffusion in a quadratic well: ``H = a rho^m/(m - 1)``, ``V = lam |x|^2/2``.

    The profile is ``(1 - |y|^2)_+^p``, ``p = 1/(m - 1)`` for ``m > 1`` (porous medium, a free boundary) and
    ``(1 + |y|^2)^{-n}``, ``n = 1/(1 - m)``, for ``d/(d + 2) < m < 1`` (fast diffusion, algebraic tails). With Z its
    integral, ``k = lam``, ``kappa = 2 a m/|m - 1| (M/Z)^{m-1}`` and ``q = d (m - 1) + 2``.

    Parameters
    ----------
    m : float
        The exponent.
    ndim : int
        1 or 2.
    stiffness : float
        lam; 0 leaves the Barenblatt solution.
    radius : float, optional
        R0; half the stationary radius by default.
    mean : float or sequence
        c0.
    strength : float
        a.
    mass, t_end, bounds
        As elsewhere. The default box of fast diffusion leaves 1e-8 of the mass out, and its grid is stretched.
    """

    m: float = 2.0
    ndim: int = 1
    stiffness: float = 1.0
    radius: Any = None
    mean: Any = 0.0
    strength: float = 1.0
    mass: float = 1.0
    t_end: float = 1.0
    bounds: Any = None

    def __post_init__(self) -> None:
        self._check()
        check_real("stiffness", self.stiffness)
        check_positive("strength", self.strength)
        least = self.ndim / (self.ndim + 2.0)
        if check_positive("m", self.m) <= least or self.m == 1.0:
            raise InvalidInput(f"m={self.m!r}: must be > d/(d + 2) = {least:.3g}, for a finite variance, and not 1; "
                               "for m = 1 use Heat or OrnsteinUhlenbeck.")

    @property
    def smooth(self) -> bool:
        """Whether ``m < 1``."""
        return self.m < 1.0

    @property
    def exponent(self) -> float:
        """``1/(m - 1)``: negative for fast diffusion."""
        return 1.0 / (self.m - 1.0)

    @property
    def pull(self) -> float:
        """lam."""
        return self.stiffness

    @property
    def dilation(self) -> tuple[float, float, float]:
        """lam, ``2 a m/|m - 1| (M/Z)^(m-1)`` and ``d (m - 1) + 2``."""
        push = 2.0 * self.strength * self.m / abs(self.m - 1.0) * (self.mass / self._volume) ** (self.m - 1.0)
        return self.stiffness, push, self.ndim * (self.m - 1.0) + 2.0

    @property
    def _volume(self) -> float:
        """Z, the integral of the profile."""
        half, p = 0.5 * self.ndim, self.exponent
        second = p + 1.0 if p > 0.0 else -p - half
        return math.pi**half / math.gamma(half) * float(beta_function(half, second))

    @property
    def spread(self) -> float:
        """``E|y|^2 / d``."""
        p = self.exponent
        return super().spread if p > 0.0 else 1.0 / (-2.0 * p - self.ndim - 2.0)

    def peak(self, t: float) -> float:
        """Return the density at the center."""
        return self.mass / self._volume / self.state(check_time(t)).radius ** self.ndim

    def _energy_at(self, place: Place) -> float:
        # The mean of P^(m-1), which is 1 - |y|^2 or 1 + |y|^2.
        share = 1.0 - math.copysign(self.ndim * self.spread, self.exponent)
        power = (self.mass / self._volume / place.radius**self.ndim) ** (self.m - 1.0)
        internal = self.strength * self.mass * power * share / (self.m - 1.0)
        second = self.ndim * self.spread * place.radius**2 + float(place.center @ place.center)
        return internal + 0.5 * self.stiffness * self.mass * second

    def front(self, t: float) -> np.ndarray | None:
        """Return ``c -+ R`` on each axis; None for fast diffusion."""
        return super().front(t) if self.m > 1.0 else None

    def energy(self) -> FreeEnergy:
        """Return internal energy, and the well where there is one."""
        terms: list[tuple[float, Term]] = [(self.strength, PowerEntropy(self.m))]
        if self.stiffness:
            terms.append((1.0, Potential(self.potential)))
        return FreeEnergy(terms)

    def potential(self, *x: np.ndarray) -> np.ndarray:
        """Return ``V(x) = lam |x|^2 / 2``."""
        return 0.5 * self.stiffness * sum(axis * axis for axis in x)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the box; stretched by sinh for fast diffusion without `bounds`."""
        if self.m > 1.0 or self.bounds is not None:
            return super().grid(cells)
        # Mass beyond r in radii: about (M/Z) |S| r^(d - 2n) / (2n - d).
        decay = -2.0 * self.exponent - self.ndim
        sphere = 2.0 * math.pi ** (0.5 * self.ndim) / math.gamma(0.5 * self.ndim)
        radius = max(self.state(t).radius for t in np.linspace(0.0, self.t_end, 33))
        reach = radius * (sphere / (self._volume * decay * _TAIL_MASS)) ** (1.0 / decay)
        counts = np.broadcast_to(cells, (self.ndim,))
        return Grid(edges=[center + reach * np.sinh(_STRETCH * np.linspace(-1.0, 1.0, n + 1)) / math.sinh(_STRETCH)
                           for n, center in zip(counts, self.mean)])

    def density_of(self, grid: Grid, state: Place) -> Density:
        """Return the exact cell averages."""
        if self.m > 1.0:
            return super().density_of(grid, state)
        check_axes(grid, self.ndim)
        center, radius = state
        if self.ndim == 1:
            y2 = ((edges := grid.edges[0] - center[0]) / radius) ** 2
            # 1 - I(y^2/(1 + y^2)), the mass outside, keeps its relative accuracy in the tails.
            outside = 0.5 * betainc(-self.exponent - 0.5, 0.5, 1.0 / (1.0 + y2))
            right, left = edges[1:] > 0.0, edges[:-1] < 0.0
            masses = np.where(right & left, 1.0 - outside[1:] - outside[:-1], np.abs(np.diff(outside)))
            return Density.from_values(grid, self.mass * masses / grid.widths[0])
        scale = self.mass / self._volume / radius**self.ndim

        def pdf(*x: np.ndarray) -> np.ndarray:
            r2 = sum(((axis - c) / radius) ** 2 for axis, c in zip(x, center))
            return scale * (1.0 + r2) ** self.exponent

        return Density.from_values(grid, cell_averages(grid, pdf))


class Barenblatt(PorousMedium):
    r"""The solution of ``d rho/dt = Laplacian rho^m`` that starts from a point mass at time ``-start``.

    ``R^q = q kappa (start + t)``; see `PorousMedium`, of which this is the case ``lam = 0``.

    Parameters
    ----------
    m, ndim, mean, mass, t_end, bounds
        As in `PorousMedium`.
    start : float
        Age of the solution at time 0.
    """

    def __init__(self, m: float = 2.0, ndim: int = 1, start: float = 1.0, mean: Any = 0.0, mass: float = 1.0,
                 t_end: float = 1.0, bounds: Any = None) -> None:
        check_positive("start", start)
        super().__init__(m=m, ndim=ndim, stiffness=0.0, radius=1.0, mean=mean, mass=mass, t_end=t_end, bounds=bounds)
        _, push, q = self.dilation
        object.__setattr__(self, "radius", float((q * push * start) ** (1.0 / q)))


@dataclass(frozen=True)
class WaitingTime(ExactProblem):
    r"""Nonlinear diffusion whose front waits: ``d rho/dt = (rho^m)''`` from ``rho0 = A cos(x/l)^{2/(m-1)}``, m > 1.

    The pressure ``m/(m-1) rho^{m-1}`` starts below the parabola ``alpha s^2``, s the distance from the edge, and
    touches it there: ``alpha = m/(m-1) A^{m-1}/l^2``. The edges at ``+-pi l/2`` then rest until exactly

    .. math:: t_* = \frac{1}{2 (m + 1)\,\alpha},

    1/12 for m = 2, A = 1, l = 1, and move from then on.

    Parameters
    ----------
    m : float
        The exponent, > 1.
    height, length : float
        A and l.
    t_end : float, optional
        Time of comparison; 0.96 of `waiting_time` by default.
    bounds : (lo, hi), optional
        By default 1.3 times the support.
    """

    m: float = 2.0
    height: float = 1.0
    length: float = 1.0
    t_end: Any = None
    bounds: Any = None
    beta: float = math.inf

    def __post_init__(self) -> None:
        if check_real("m", self.m) <= 1.0:
            raise InvalidInput(f"m={self.m!r}: must be > 1: for m <= 1 there is no front.")
        check_positive("height", self.height)
        check_positive("length", self.length)
        if self.t_end is None:
            object.__setattr__(self, "t_end", 0.96 * self.waiting_time)
        check_positive("t_end", self.t_end, zero=True)
        object.__setattr__(self, "bounds", check_boxes(self.bounds, 1))

    @property
    def smooth(self) -> bool:
        """False: there are fronts."""
        return False

    @property
    def has_density(self) -> bool:
        """False: beyond time 0 only the fronts are known."""
        return False

    @property
    def waiting_time(self) -> float:
        """t_*."""
        return (self.m - 1.0) * self.length**2 / (2.0 * self.m * (self.m + 1.0) * self.height ** (self.m - 1.0))

    @property
    def times(self) -> tuple[float, ...]:
        """A half and all of `t_end`."""
        return 0.5 * self.t_end, self.t_end

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the interval `bounds`."""
        edge = 1.3 * 0.5 * math.pi * self.length
        return box_of(self.bounds, lambda: (np.array([[-edge]]), np.array([[edge]])), cells)

    def energy(self) -> FreeEnergy:
        """Return the internal energy."""
        return FreeEnergy([(1.0, PowerEntropy(self.m))])

    def density(self, grid: Grid, t: float) -> Density:
        """Return the cell averages at time 0; later the density is not known.

        Raises
        ------
        InvalidInput
            If ``t > 0``.
        """
        check_axes(grid, 1)
        if check_time(t) > 0.0:
            raise InvalidInput(f"t={t!r}: the density is known at t=0 only; see front(t) and quantities(t).")
        edges = np.clip(grid.edges[0], -0.5 * math.pi * self.length, 0.5 * math.pi * self.length)
        # int cos^(2p) over [0, x] is B(1/2, p + 1/2) I(sin^2 x; 1/2, p + 1/2) / 2.
        p = 1.0 / (self.m - 1.0)
        part = np.sign(edges) * betainc(0.5, p + 0.5, np.sin(edges / self.length) ** 2)
        masses = 0.5 * self.height * self.length * beta_function(0.5, p + 0.5) * np.diff(part)
        return Density.from_values(grid, np.maximum(masses, 0.0) / grid.widths[0])

    @property
    def mass(self) -> float:
        """Mass of the initial density."""
        return self.height * self.length * float(beta_function(0.5, 1.0 / (self.m - 1.0) + 0.5))

    def quantities(self, t: float) -> dict[str, float]:
        """Return the mean, and up to `waiting_time` the part of the mass beyond the resting edges: both zero."""
        if check_time(t) > self.waiting_time:
            return {"mean": 0.0}
        return {"mean": 0.0, "escaped": 0.0}

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the same quantities of a computed density; a cell that an edge cuts counts as inside."""
        left, right = rho.grid.edges[0][:-1], rho.grid.edges[0][1:]
        edge = 0.5 * math.pi * self.length
        outside = (left >= edge) | (right <= -edge)
        return {"mean": float(np.atleast_1d(rho.mean())[0]), "escaped": float(rho.masses[outside].sum()) / rho.mass}

    def path_quantities(self, sol: Solution) -> dict[str, tuple[float, float]]:
        """Return the mass beyond the edges at the earlier of `times`."""
        early = self.times[0]
        return {"escaped early": (self.measure(cast(Density, sol.density(early)))["escaped"], 0.0)}

    def front(self, t: float) -> np.ndarray | None:
        """Return ``+-pi l/2`` up to `waiting_time`; None later, when they have moved."""
        edge = 0.5 * math.pi * self.length
        return np.array([[-edge, edge]]) if check_time(t) <= self.waiting_time else None
