"""The base of flows that only move and dilate a profile."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from wgflow.checks import check_positive
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .base import StateProblem, box_of, check_axes, check_boxes, check_time, name_moments
from .cells import ball_cell_averages
from .gaussian import real_vector

__all__ = ["Place", "ScalingProblem"]

#: Room left beside the largest ball on the default grid, in radii.
_MARGIN = 0.25


class Place(NamedTuple):
    """Center (d,) and radius of the profile."""

    center: np.ndarray
    radius: float


class ScalingProblem(StateProblem):
    r"""A flow that moves and dilates a profile: ``rho(x, t) = M R^-d P((x - c)/R)``, ``v = c' + (R'/R)(x - c)``.

    The radius and the center obey

    .. math:: R' = -k R + \kappa R^{1-q}, \qquad c' = -k_c\,c,

    so that ``R^q = kappa/k + (R0^q - kappa/k) e^{-qkt}``, and ``R0^q + q kappa t`` at ``k = 0``. A JKO step, whose
    displacement is linear in x, moves R and c by implicit Euler steps of these two equations. The dissipation is
    ``M ((R'/R)^2 E|x - c|^2 + |c'|^2)``.

    A profile of the ball is ``P ~ (1 - |y|^2)_+^p``, with ``E|y|^2 = d/(d + 2p + 2)``.
    """

    ndim: int
    mass: float
    radius: Any
    mean: Any
    bounds: Any
    beta: float = math.inf

    def _check(self) -> None:
        check_positive("mass", self.mass)
        check_positive("t_end", self.t_end, zero=True)
        if self.ndim not in (1, 2):
            raise InvalidInput(f"ndim={self.ndim!r}: must be 1 or 2.")
        if self.radius is not None:
            check_positive("radius", self.radius)
        object.__setattr__(self, "mean", tuple(real_vector("mean", self.mean, self.ndim).tolist()))
        object.__setattr__(self, "bounds", check_boxes(self.bounds, self.ndim))

    # ---------------------------------------------------------------- what a family says
    @property
    @abstractmethod
    def exponent(self) -> float:
        """p of the profile."""

    @property
    @abstractmethod
    def dilation(self) -> tuple[float, float, float]:
        """k, kappa and q."""

    @property
    def pull(self) -> float:
        """k_c, towards the origin."""
        return 0.0

    @abstractmethod
    def _energy_at(self, place: Place) -> float:
        """Return the free energy."""

    # ---------------------------------------------------------------- derived
    @property
    def smooth(self) -> bool:
        """False: the ball has an edge."""
        return False

    @property
    def front_level(self) -> float:
        """1e-3 where the slope at the edge is infinite, else 1e-4."""
        return 1e-3 if self.exponent < 1.0 else 1e-4

    @property
    def has_jko_steps(self) -> bool:
        """True."""
        return True

    @property
    def start_radius(self) -> float:
        """R0; by default half the stationary radius, or 1 where there is none."""
        if self.radius is not None:
            return float(self.radius)
        return 0.5 * self.stationary_radius if self.dilation[0] > 0.0 else 1.0

    @property
    def stationary_radius(self) -> float:
        """``(kappa/k)^(1/q)``; infinite without confinement."""
        k, push, q = self.dilation
        return math.inf if k <= 0.0 else (push / k) ** (1.0 / q)

    @property
    def spread(self) -> float:
        """``E|y|^2`` of the profile, over d: variance of a coordinate at R = 1."""
        return 1.0 / (self.ndim + 2.0 * self.exponent + 2.0)

    def state(self, t: float) -> Place:
        """Return the center and radius at time ``t``."""
        k, push, q = self.dilation
        grown = t if k == 0.0 else -math.expm1(-q * k * t) / (q * k)
        power = self.start_radius**q * math.exp(-q * k * t) + q * push * grown
        return Place(np.array(self.mean) * math.exp(-self.pull * t), power ** (1.0 / q))

    def jko_step(self, state: Place, tau: float) -> Place:
        """Return ``c' = c/(1 + tau k_c)`` and the root R' of ``(1 + tau k) R' - tau kappa R'^(1-q) = R``."""
        k, push, q = self.dilation
        if 1.0 + tau * k <= 0.0:
            raise InvalidInput(f"tau={tau!r}: 1 + tau k = {1.0 + tau * k:.3g} must be > 0, or the step has no minimum.")

        def excess(log_radius: float) -> float:
            r = math.exp(log_radius)
            return (1.0 + tau * k) * r - tau * push * r ** (1.0 - q) - state.radius

        low = high = math.log(state.radius)
        while excess(low) > 0.0:
            low -= 1.0
        while excess(high) < 0.0:
            high += 1.0
        radius = math.exp(brentq(excess, low, high, xtol=1e-15, rtol=1e-15)) if low < high else math.exp(low)
        return Place(state.center / (1.0 + tau * self.pull), radius)

    def front(self, t: float) -> np.ndarray | None:
        """Return ``c -+ R`` on each axis."""
        center, radius = self.state(check_time(t))
        return np.stack([center - radius, center + radius], axis=1)

    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the no-flux grid of the box `bounds`, by default a quarter of a radius wider than the ball."""
        return box_of(self.bounds, self._reach, cells)

    def _reach(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        places = [self.state(t) for t in np.linspace(0.0, self.t_end, 33)]
        half = (1.0 + _MARGIN) * max(place.radius for place in places)
        return [place.center - half for place in places], [place.center + half for place in places]

    def density_of(self, grid: Grid, state: Place) -> Density:
        """Return the exact cell averages."""
        check_axes(grid, self.ndim)
        values = self.mass * ball_cell_averages(grid, state.center.tolist(), state.radius, self.exponent)
        return Density.from_values(grid, np.maximum(values, 0.0))

    def quantities_of(self, state: Place) -> dict[str, float]:
        """Return the mean, covariance, energy and dissipation."""
        center, radius = state
        k, push, q = self.dilation
        variance = self.spread * radius**2
        stretch = -k + push * radius**-q
        speed2 = self.ndim * stretch**2 * variance + self.pull**2 * float(center @ center)
        return name_moments(center, variance * np.eye(self.ndim)) | {
            "energy": self._energy_at(state), "dissipation": self.mass * speed2,
        }
