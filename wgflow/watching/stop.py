r"""Conditions that end a run before its time span does: ``wg.solve(..., stop=wg.stop.stationary(1e-6))``.

A condition is looked at where the run starts and after every accepted step. The run ends at the first time at which one
is met; its Solution has ``stopped``, the reason in words, and is certified as if the time span had ended there. In
place of a condition any function of (t, rho), or of (t, rho, energy), that returns True or False will do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wgflow.checks import check_positive, check_real
from wgflow.errors import InvalidInput

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.watching.watch import Moment

__all__ = ["Condition", "energy_below", "mass_at_boundary", "stationary"]


class Condition(ABC):
    """What ends a run: `met` is asked after every accepted step."""

    @abstractmethod
    def met(self, now: Moment) -> str:
        """Return why the run ends here, in words; an empty string where it goes on."""

    def check(self, flow: Flow) -> None:
        """Refuse a flow on which the condition has no meaning (InvalidInput)."""


@dataclass(frozen=True)
class stationary(Condition):
    r"""The law rests: the root mean square of the velocity of its mass is at most ``tol``.

    .. math:: \Bigl( \frac{1}{M} \int \rho\, |\nabla \tfrac{\delta F}{\delta \rho}|^2 \Bigr)^{1/2} \le tol,
              \qquad M = \int \rho .

    The left side is the speed of the law in the Wasserstein distance, by the clock of time_scale (that is, at
    time_scale 1). Where F is convex with constant :math:`\lambda` along geodesics, the law is then within
    tol/:math:`\lambda` of the state at rest (W2), and its energy within :math:`M\,tol^2/(2\lambda)`.

    Parameters
    ----------
    tol : float
        A length over a time, greater than 0.

    Raises
    ------
    InvalidInput
        If ``tol`` is not a finite number > 0; from `solve`, for particles with noise, which never rest.
    """

    tol: float

    def __post_init__(self):
        check_positive("tol", self.tol)

    def check(self, flow: Flow) -> None:
        if not flow.has_grid and flow.energy.spreads:
            raise InvalidInput(f"stop=stationary({self.tol:g}): particles with noise never rest, and their dissipation "
                               "is not known; stop at an energy, by a function of your own, or solve on a grid")

    def met(self, now: Moment) -> str:
        speed = math.sqrt(max(0.0, now.dissipation) / now.mass)
        return f"the mass moves at {speed:.2g} (root mean square, at most {self.tol:g})" if speed <= self.tol else ""


@dataclass(frozen=True)
class energy_below(Condition):
    r"""The free energy has fallen to a value: :math:`F(\rho) \le` ``energy``.

    For particles with noise, whose entropy is not known, F is the sum of its other terms.

    Parameters
    ----------
    energy : float

    Raises
    ------
    InvalidInput
        If ``energy`` is not a finite number.
    """

    energy: float

    def __post_init__(self):
        check_real("energy", self.energy)

    def met(self, now: Moment) -> str:
        return f"F = {now.energy:.6g} is at most {self.energy:g}" if now.energy <= self.energy else ""


@dataclass(frozen=True)
class mass_at_boundary(Condition):
    """More than a part of the mass has come to an end of the domain.

    On a grid the mass in the outermost 1 % of the cells at any no-flux end counts (the origin of a radius is no end);
    of atoms, what lies on a bound.

    Parameters
    ----------
    part : float
        Of the whole mass, between 0 and 1.

    Raises
    ------
    InvalidInput
        If ``part`` is not a number between 0 and 1.
    """

    part: float

    def __post_init__(self):
        if not 0 <= check_real("part", self.part) < 1:
            raise InvalidInput(f"part={self.part}: need a part of the mass, 0 <= part < 1")

    def met(self, now: Moment) -> str:
        found = now.boundary_mass
        return f"a part {found:.2g} of the mass lies at an end (more than {self.part:g})" if found > self.part else ""
