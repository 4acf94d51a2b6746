"""The verb: check the problem, run a method on it, return a Solution."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.arguments import check_span, check_times
from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.energies import FreeEnergy, Term
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, WGFlowError
from wgflow.grids import Grid
from wgflow.progress import run_progress
from wgflow.recorder import AtomRecorder, Recorder
from wgflow.solution import Solution

if TYPE_CHECKING:
    pass

__all__ = ["Flow", "solve"]
logger = logging.getLogger("wgflow")
#: Gauss-Legendre nodes with which a time_scale function is integrated over a step.
CLOCK_NODES, CLOCK_WEIGHTS = np.polynomial.legendre.leggauss(4)


@dataclass
class Flow:
    r"""A gradient flow to be solved, checked: :math:`\partial_t\rho = s\,\nabla\cdot(\rho \nabla \delta F/\delta\rho)`.

    Attributes
    ----------
    energy : FreeEnergy
    parts : Assembled or None
        The energy as arrays on the grid; None for atoms.
    rho0 : Density or Atoms
    t0, t1 : float
    t_eval : tuple of float
        Output times, empty where the method chooses.
    stops : list of float
        Times that a step must end on, the last being t1.
    time_scale : float or callable
    """

    energy: FreeEnergy
    parts: Any
    rho0: Any
    t0: float
    t1: float
    t_eval: tuple[float, ...]
    time_scale: float | Callable[[float], float]
    stops: list[float] = field(init=False)

    def __post_init__(self):
        self.stops = [t for t in self.t_eval if t > self.t0]
        if not self.stops or self.stops[-1] < self.t1:
            self.stops.append(self.t1)
        self.output_times = frozenset(self.t_eval)
        if isinstance(self.rho0, Atoms):
            self.size = self.rho0.points.size
            return
        self.size = self.grid.size
        self.even = all(self.grid.uniform)
        self.even_volume = float(self.grid.volumes.flat[0]) if self.even else 1.0

    @property
    def grid(self) -> Grid:
        """The grid of the initial density (atoms have none)."""
        return self.rho0.grid

    def energy_at(self, t: float) -> FreeEnergy:
        """The energy at a time; what goes wrong in a user's function ends the run, and nothing is lost."""
        return self._told(t, lambda: self.energy.at(t))

    def parts_at(self, t: float) -> Any:
        """The energy as arrays at a time."""
        if not self.energy.time_dependent:
            return self.parts
        return self._told(t, lambda: self.energy.at(t).assemble(self.grid))

    @staticmethod
    def _told(t: float, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            raise ConvergenceError(f"a TimeDependent term failed at t = {t:g}: {error}", reason="callback",
                                   t=t) from error

    def elapsed(self, t: float, dt: float) -> float:
        """The integral of time_scale from t to t + dt: the equation is autonomous in this clock."""
        scale = self.time_scale
        if not callable(scale):
            return scale * dt
        times = t + 0.5 * dt * (1 + CLOCK_NODES)
        return 0.5 * dt * float(CLOCK_WEIGHTS @ [self._scale_at(scale, float(s), dt) for s in times])

    def _scale_at(self, scale: Callable[[float], Any], t: float, dt: float) -> float:
        """A value of the time_scale function; what goes wrong in it ends the run, and nothing computed is lost."""
        try:
            value = scale(t)
        except Exception as error:
            raise ConvergenceError(f"time_scale({t:g}) raised {type(error).__name__}: {error}; it is called with times "
                                   f"between {self.t0:g} and {self.t1:g}", reason="callback", t=t, dt=dt) from error
        value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or value <= 0 or not value < math.inf:
            raise ConvergenceError(f"time_scale({t:g})={value!r}: need a finite number > 0", reason="callback",
                                   t=t, dt=dt)
        return float(value)


def solve(energy, rho0, t_span, method, *, t_eval=None, time_scale=1.0, progress=False, checkpoint=None, throw=True,
          error_estimate=False):
    r"""Solve the Wasserstein gradient flow of a free energy.

    .. math:: \partial_t \rho = s(t)\, \nabla\cdot\bigl(\rho\, \nabla \tfrac{\delta F}{\delta \rho}\bigr),
              \qquad \rho(t_0) = \rho_0.

    Every accepted step keeps the mass and the sign of the density and does not raise F; the Solution's certificate says
    how well.

    Parameters
    ----------
    energy : Term or FreeEnergy
        F, e.g. ``Entropy(beta=4.0) + Potential(V) + Interaction(U)``; `TimeDependent` terms change with time.
    rho0 : Density or Atoms
        The initial density; its grid is the grid of the solution. Atoms are for methods that move points
        (`Lagrangian`), which take a Density too and make atoms of it.
    t_span : (float, float)
        Start and end. Equal ends return rho0 as it is, in 0 steps.
    method : Method, optional
        How the flow is stepped, `FiniteVolume()` by default.
    t_eval : sequence of float, optional
        Increasing times inside ``t_span`` at which the density is kept; steps end on them. By default accepted steps
        are kept, thinned to about 64 snapshots.
    time_scale : float or callable
        The factor s > 0, a number or a function of t (2 xi(t) for the clock of the network talks).
    progress : bool
        Show a bar on a terminal, log lines (logger ``wgflow``, level INFO) elsewhere.
    checkpoint : path, optional
        File in which the state of the run is kept every few seconds and at its end, so that `wgflow.resume` can go on
        from it. A run interrupted and resumed gives the same bits as one that was not. Not for atoms.
    throw : bool
        Whether a run that cannot be finished raises; otherwise the Solution so far is returned with ``status`` 1.
    error_estimate : bool
        Whether to solve again on grids of half and of a quarter of the cells, with steps twice and four times as long
        where they are fixed, and to put Richardson's estimate of the error of the density and of the energy into the
        certificate. It takes a multiple of 4 cells along each axis, and an energy given by functions.

    Returns
    -------
    Solution

    Raises
    ------
    InvalidInput
        If an argument breaks a rule; nothing has been computed.
    ConvergenceError
        If the run could not go on; ``error.partial`` is the Solution up to the last accepted step.

    Examples
    --------
    >>> import wgflow as wg
    >>> grid = wg.Grid([(-5, 5)], cells=200)
    >>> energy = wg.Entropy(beta=1.0) + wg.Potential(lambda x: x**2 / 2)
    >>> rho = wg.solve(energy, wg.Density.gaussian(grid, 2.0, 0.25), (0, 1)).final
    >>> print(f"{rho.mean():.3f} {rho.cov():.3f}")
    0.736 0.898
    """
    if not hasattr(method, "integrate"):
        raise InvalidType(f"method must be a solver such as wgflow.FiniteVolume(), got {method!r}")
    flow = make_flow(energy, rho0, t_span, t_eval, time_scale, method)
    if checkpoint is not None and flow.parts is None:
        raise InvalidInput(f"checkpoint={checkpoint!r}: {type(method).__name__} keeps no checkpoints; solve in parts, "
                           "each from the .final of the one before, and save them")
    if not isinstance(error_estimate, bool):
        raise InvalidType(f"error_estimate={error_estimate!r}: need True or False")
    if error_estimate:
        from wgflow.error_estimates import coarser, with_error_estimate

        if flow.parts is None:
            raise InvalidInput(f"error_estimate=True: {type(method).__name__} has no grid; it is for laws on a grid")
        coarser(coarser(rho0))
    solution = run(flow, method, progress=progress, checkpoint=checkpoint, throw=throw)
    if not error_estimate or solution.status:
        return solution
    return with_error_estimate(solution, flow, method)


def make_flow(energy, rho0, t_span, t_eval, time_scale, method=None) -> Flow:
    """Check the arguments of `solve` and assemble the problem; a method with a ``cloud`` moves atoms."""
    cloud = getattr(method, "cloud", None)
    if isinstance(energy, Term) and energy.time_dependent and method is not None and not getattr(
            method, "DRIVEN", False):
        raise InvalidInput(f"{type(method).__name__} knows energies that do not change with time; use FiniteVolume() "
                           "for TimeDependent terms")
    if isinstance(rho0, Atoms) and cloud is None:
        raise InvalidInput(f"rho0 is Atoms, which {type(method).__name__} does not know; use "
                           "method=wgflow.Lagrangian(), or a Density (Density.from_samples makes one of points)")
    if not isinstance(rho0, (Density, Atoms)):
        raise InvalidType(f"rho0 must be a wgflow.Density{' or Atoms' if cloud else ''}, got {type(rho0).__name__}; "
                          "make one by Density.from_values(grid, values)")
    if not isinstance(energy, Term):
        raise InvalidType(f"energy must be a sum of terms such as Entropy(1.0) + Potential(V), got {energy!r}")
    energy = energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])
    t0, t1 = check_span(t_span)
    if cloud is not None:
        rho0 = cloud(energy.at(t0), rho0)
    size, unit = (rho0.points.size, "numbers") if isinstance(rho0, Atoms) else (rho0.grid.size, "cells")
    times = check_times(t_eval, t0, t1, size, unit)
    if not callable(time_scale):
        if isinstance(time_scale, bool) or not isinstance(time_scale, numbers.Real):
            raise InvalidType(f"time_scale must be a number or a function of t, got {time_scale!r}")
        if not math.isfinite(time_scale) or time_scale <= 0:
            raise InvalidInput(f"time_scale={time_scale}: need a finite number > 0")
        time_scale = float(time_scale)
    parts = None if cloud is not None else energy.at(t0).assemble(rho0.grid)
    return Flow(energy, parts, rho0, t0, t1, times, time_scale)


def run(flow: Flow, method, *, progress=False, checkpoint=None, throw=True, state=None) -> Solution:
    """Run a method on a checked problem; what it recorded survives any error."""
    with run_progress(flow, progress) as report:
        recorder = (AtomRecorder if flow.parts is None else Recorder)(flow, method, report)
        try:
            with _keeper(checkpoint, flow, method, recorder, state is not None) as keeper:
                method.integrate(flow, recorder, checkpoint=keeper, state=state)
        except ConvergenceError as error:
            error.partial = recorder.solution(1, str(error))
            if throw:
                raise
            return error.partial
        except (WGFlowError, KeyboardInterrupt, MemoryError) as error:
            if recorder.columns["t"]:
                vars(error)["partial"] = recorder.solution(1, f"{type(error).__name__}: {error}")
            raise
    return recorder.solution(0, "the solver reached the end of the time span")


def _keeper(path, flow, method, recorder, resumed):
    """What keeps the state of a run on disk, or nothing."""
    if path is None:
        return nullcontext()
    from wgflow.files.checkpoints import Checkpoint

    return Checkpoint(path, flow, method, recorder, resumed)
