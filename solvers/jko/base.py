r"""What every inner solver of a JKO step is.

A step of length tau from a density :math:`\rho_k` is the optimization problem

.. math:: \rho_{k+1} = \operatorname{argmin}_\rho \; F(\rho) + \frac{1}{2 \tau} W_2^2(\rho, \rho_k).

An inner solver solves it once and says how well; `wgflow.solvers.JKO` strings the steps together, judges and records
them. Here tau is measured on the clock of d rho/dt = div(rho grad dF/drho): time_scale is already in it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from wgflow.densities import Density
from wgflow.energy_on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep

__all__ = ["InnerSettings", "InnerSolver", "JKOStep"]


@dataclass(frozen=True)
class InnerSettings:
    """Settings that every inner solver has, and the options of one, complete and checked by name.

    Attributes
    ----------
    tolerance : float
        Largest ``residual`` of an accepted step.
    max_iterations : int
        Iterations after which the best iterate is returned, with its honest residual.
    options : dict
        The options of the inner solver (`InnerSolver.OPTIONS` with the user's values).
    """

    tolerance: float
    max_iterations: int
    options: dict = field(default_factory=dict)


class InnerSolver(ABC):
    """Solves one JKO step after another for one energy on one grid.

    A subclass states in `__init__` (after ``super().__init__``) which energies and grids it refuses, by InvalidInput
    that names what to use instead. Arrays that serve every step (transforms, factorizations) are made there.

    Parameters
    ----------
    parts : EnergyOnGrid
        The energy as arrays on the grid: ``diffusion``, ``potential``, ``operators``, ``internal``, and ``energy``.
    grid : Grid
    settings : InnerSettings
    """

    #: Orders in tau that the solver has; 2 needs `extrapolate`.
    ORDERS: ClassVar[tuple[int, ...]] = (1,)
    #: Defaults of JKO's ``tol`` and ``max_iterations``.
    TOLERANCE: ClassVar[float] = 1e-8
    MAX_ITERATIONS: ClassVar[int] = 200
    #: Whether the solver takes functionals known by their value and first variation alone (`EnergyOnGrid.functionals`).
    TAKES_FUNCTIONALS: ClassVar[bool] = False
    #: Names and defaults of the options that ``JKO(options={...})`` takes for this solver.
    OPTIONS: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: EnergyOnGrid, grid: Grid, settings: InnerSettings):
        self.parts, self.grid, self.settings = parts, grid, settings

    def begin(self, density: Density) -> JKOStep:
        """The state before the first step; override to add what the solver carries along."""
        return JKOStep(density, 0.0, self.parts.energy(density.masses), None, 0.0, 0, 0.0)

    def resume(self, rho0: Density, now: JKOStep) -> JKOStep:
        """Take up a run from a checkpoint: the last step, seen by `check_state`, as the run goes on from it.

        Override to make again what `begin` leaves on the solver itself.
        """
        return now

    def check_state(self, step: JKOStep) -> None:
        """Refuse a state that was not made by this solver on this grid: a file could hold anything.

        Raises
        ------
        ValueError
            If an array has another shape than the grid, or holds a NaN.
        """
        for name, value in step.state.items():
            if isinstance(value, np.ndarray) and (value.size != self.grid.size or np.isnan(value).any()):
                raise ValueError(f"{name} has shape {value.shape}, the grid {self.grid.shape}; or it holds a NaN")

    @abstractmethod
    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        """Solve one step from ``start.density`` (and ``start.state``).

        Parameters
        ----------
        start : JKOStep
            Where the step starts: what `begin`, `step` or `extrapolate` gave. It must not be changed.
        tau : float
        guess : JKOStep, optional
            A step believed to be near the result: a start for the iteration, for example the solution for a smaller
            tau in a continuation.

        Returns
        -------
        JKOStep
            The best iterate. Missing the tolerance is no exception here: ``residual`` says so, and JKO then shortens
            the step or raises ConvergenceError with this iterate on it. The density has exactly the mass of
            ``start.density`` (to 1e-13) and no negative cell.
        """

    def extrapolate(self, before: JKOStep, now: JKOStep, share: float) -> JKOStep:
        r"""The point beyond ``now`` on the geodesic from ``before``, by ``share`` of its length: the start of BDF2.

        With constant tau, ``share`` is 1/3 and the step from there has length 2 tau / 3.
        """
        raise InvalidInput(f"order=2: {type(self).__name__} has order {self.ORDERS}; use order=1")

    def distance_squared(self, first: JKOStep, second: JKOStep) -> float:
        """Squared Wasserstein distance of two states, where the solver has it cheaply; NaN otherwise.

        Used with order 2 only, where a step does not start at the density before it.
        """
        return math.nan
