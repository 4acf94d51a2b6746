r"""The contract between JKO and the solvers of its steps.

A step of length tau from a density :math:`\rho_k` is the optimization problem

.. math:: \rho_{k+1} = \operatorname{argmin}_\rho \; F(\rho) + \frac{1}{2 \tau} W_2^2(\rho, \rho_k).

An inner solver (`InnerSolver`) solves one such problem and reports how accurately. `wgflow.solvers.JKO` takes one step
after the other, checks each and records it. Here tau is measured on the clock of d rho/dt = div(rho grad dF/drho): it
contains time_scale already.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from wgflow.densities import Density
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep

from ..base import no_limit

__all__ = ["InnerSettings", "InnerSolver", "JKOStep", "did_you_mean"]


@dataclass(frozen=True)
class InnerSettings(ABC):
    """The choice of an inner solver with its settings: ``JKO(tau=0.1, inner=Quantile(cells=300))``.

    A subclass is a frozen dataclass. Its fields are numbers, strings, True, False or None, each with a default and
    checked in ``__post_init__``. `solver_class` leads to its `InnerSolver`.
    """

    #: The string that stands for the default object: ``JKO(tau=0.1, inner="quantile")``.
    NAME: ClassVar[str]
    #: Arrays of the size of the grid that a step works with, at most: for the memory that a run asks for.
    ARRAYS: ClassVar[int] = 100

    def working_bytes(self, grid: Grid) -> float:
        """Return the bytes that steps on a grid work with, at most."""
        return 8.0 * self.ARRAYS * grid.size

    @classmethod
    @abstractmethod
    def solver_class(cls) -> type[InnerSolver]:
        """Return the class of the solver. It is imported here, when it is first used: it brings compiled code."""

    def given(self) -> dict[str, Any] | None:
        """Return the settings that differ from the defaults, by name; None where none does."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)
                  if getattr(self, entry.name) != entry.default}
        return values or None

    def changed(self, settings: dict[str, Any]) -> Self:
        """Return the same choice with other settings, given by name.

        Raises
        ------
        InvalidInput
            If there is no setting of a name.
        """
        known = [entry.name for entry in fields(self)]
        for name in settings:
            if name not in known:
                raise InvalidInput(f"unknown option {name!r} of inner={self.NAME!r}{did_you_mean(str(name), known)}; "
                                   f"allowed: {', '.join(known) or 'none'}")
        return replace(self, **settings)

    def on_coarser_grid(self, factor: int) -> Self:
        """Return the same choice with a resolution of its own, if it has one, that is coarser by a factor."""
        return self


class InnerSolver(ABC):
    """Solves JKO steps for one energy on one grid.

    ``__init__`` of a subclass calls that of this class first and then refuses, by an InvalidInput that says what to use
    instead, the energies and grids that it does not serve. Arrays that every step needs (transforms, factorizations)
    are made there.

    Parameters
    ----------
    parts : EnergyOnGrid
        The energy as arrays on the grid.
    grid : Grid
    settings : InnerSettings
        The settings of this solver alone.
    tolerance : float, optional
        Largest ``residual`` of an accepted step; by default `TOLERANCE`.
    max_iterations : int, optional
        Iterations after which the best iterate is returned, with the residual that it has; by default `MAX_ITERATIONS`.
    """

    #: Orders in tau that the solver offers; order 2 needs `extrapolate` and `distance_squared`.
    ORDERS: ClassVar[tuple[int, ...]] = (1,)
    #: The tolerance where JKO's ``tol`` is None.
    TOLERANCE: ClassVar[float] = 1e-8
    #: The iterations where JKO's ``max_iterations`` is None.
    MAX_ITERATIONS: ClassVar[int] = 200
    #: Whether the solver takes functionals known by their value and first variation alone (`EnergyOnGrid.functionals`).
    TAKES_FUNCTIONALS: ClassVar[bool] = False

    def __init__(self, parts: EnergyOnGrid, grid: Grid, settings: InnerSettings, tolerance: float | None = None,
                 max_iterations: int | None = None):
        self.parts, self.grid, self.settings = parts, grid, settings
        # Called in every loop of a step: it raises ConvergenceError where the run's time limit is reached.
        self.check_time: Callable[[], None] = no_limit
        self.tolerance = self.TOLERANCE if tolerance is None else tolerance
        self.max_iterations = self.MAX_ITERATIONS if max_iterations is None else max_iterations

    def begin(self, density: Density) -> JKOStep:
        """Return the state before the first step; override to add what the solver carries along."""
        return JKOStep(density, 0.0, self.energy(density.masses), None, 0.0, 0, 0.0)

    def energy(self, masses: np.ndarray) -> float:
        """Return F of cell masses, of the grid's shape."""
        return self.parts.energy(masses)

    def energy_of(self, step: JKOStep) -> float:
        """Return F of the law of a step, as this solver discretizes it; override where it is not that of its masses."""
        return self.energy(step.rho.masses)

    @property
    def is_nonlocal(self) -> bool:
        """Whether F has terms that couple distant cells, so that the potential of a cell depends on all masses."""
        return self.parts.moves

    def nonlocal_variation(self, masses: np.ndarray) -> np.ndarray | None:
        """Return the first variation of the nonlocal terms at cell masses; None where there is no such term."""
        return self.parts.field(masses, self.parts.interaction(masses))

    def resume(self, rho0: Density, now: JKOStep) -> JKOStep:
        """Return the step from which a run read from a checkpoint goes on.

        ``now`` is the last step in the checkpoint, which `check_state` has accepted. Override to set again the
        attributes that `begin` sets on the solver.
        """
        return now

    def check_state(self, step: JKOStep) -> None:
        """Refuse a state, read from a file, that this solver cannot have written on this grid.

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
            The step before, as `begin`, `step` or `extrapolate` returned it. It must not be changed.
        tau : float
        guess : JKOStep, optional
            A step that is believed to be close to the result, from which the iteration may start: the solution for a
            smaller tau in a continuation, for example.

        Returns
        -------
        JKOStep
            The best iterate. A step that misses the tolerance is returned like any other: its ``residual`` says so, and
            JKO then shortens the step or raises ConvergenceError, which carries this iterate. The density has the mass
            of ``start.density`` (to 1e-13) and no negative cell.
        """

    def remedy(self, missed: JKOStep) -> str:
        """Return what to do about a step that missed the tolerance, for the message of the error."""
        return "take a smaller tau, more max_iterations or a larger tol"

    def substitute(self, start: JKOStep, tau: float) -> JKOStep | None:
        """Return the step by another scheme than the one asked for, or None where the solver has none.

        JKO takes it where `step` misses the tolerance, also by way of shorter steps. It counts as a fallback, with
        which the certificate fails.
        """
        return None

    def extrapolate(self, before: JKOStep, now: JKOStep, share: float) -> JKOStep | None:
        r"""Return the point beyond ``now`` on the geodesic from ``before``, by ``share`` of its length.

        A step of order 2 (BDF2) starts there. With constant tau, ``share`` is 1/3 and the step from there has length
        2 tau / 3. None where the law does not allow it: JKO then takes a plain step, which counts as a fallback.
        """
        raise InvalidInput(f"order=2: {type(self).__name__} has order {self.ORDERS}; use order=1")

    def distance_squared(self, first: JKOStep, second: JKOStep) -> float:
        """Return the squared Wasserstein distance of two states, or NaN where the solver does not compute it.

        Order 2 needs it, since its steps do not start at the density before them, and adaptive steps do.
        """
        return math.nan


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the known name closest to ``name``; "" where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
