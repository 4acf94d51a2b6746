"""Flows: checked problems, and the run of a method on one."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wgflow.atom_recorder import AtomRecorder
from wgflow.atoms import Atoms
from wgflow.calls.arguments import check_span, check_times
from wgflow.checks import check_positive, check_subnormals, kind_of, out_of_memory
from wgflow.densities import Density
from wgflow.energies.clocks import Clock
from wgflow.energies.drives import Drive
from wgflow.energies.free_energy import FreeEnergy, Term, not_an_energy
from wgflow.energies.mobility import Mobility, as_mobility
from wgflow.energies.nodes import NodeGrid
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.energies.probes import AtomProbe, GridProbe
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, WGFlowError
from wgflow.files.checkpoints import Checkpoint
from wgflow.gradients import probe_atoms
from wgflow.grids import Grid
from wgflow.progress import Progress, run_progress
from wgflow.recorder import Recorder
from wgflow.solution import Solution

if TYPE_CHECKING:
    from wgflow.files.streams import SnapshotStream
    from wgflow.solvers.base import Method
    from wgflow.watching.watch import Watch

__all__ = ["HIGH_ORDER", "Flow", "make_flow", "run"]

#: What the scheme of a run says where steps of order 6 were taken.
HIGH_ORDER = ", with steps of order 6 where little error is allowed"

T = TypeVar("T")

#: A time is found by its place on the clock up to this part of a step, in at most so many trials.
CLOCK_SLACK, CLOCK_TRIALS = 1e-9, 40


@dataclass
class Flow:
    r"""A gradient flow, checked: :math:`\partial_t\rho = s\,\nabla\cdot(\rho\,A \nabla \delta F/\delta\rho)`.

    Attributes
    ----------
    energy : FreeEnergy
    on_grid : EnergyOnGrid
        The energy as arrays on the grid, at t0; a flow of atoms has none (`has_grid` is False).
    rho0 : Density or Atoms
    t0, t1 : float
    t_eval : tuple of float
        Output times; empty if the method chooses them.
    stops : list of float
        Times at which a step must end, the last being t1.
    time_scale : float or callable
    open_ends : tuple of (bool, bool)
        Which ends of each axis stand for infinity (`Grid.open_ends`); empty where atoms were given, whose bounds are
        walls.
    mobility : Mobility or None
        A(x); None for 1.
    """

    energy: FreeEnergy
    rho0: Density | Atoms
    t0: float
    t1: float
    t_eval: tuple[float, ...]
    time_scale: float | Callable[[float], float]
    open_ends: tuple[tuple[bool, bool], ...] = ()
    mobility: Mobility | None = None
    stops: list[float] = field(init=False)

    def __post_init__(self):
        self.stops = [t for t in self.t_eval if t > self.t0]
        if not self.stops or self.stops[-1] < self.t1:
            self.stops.append(self.t1)
        self.output_times = frozenset(self.t_eval)
        # The law as it was given: a method that moves points makes atoms of a density.
        self.given: Density | Atoms = self.rho0
        # How a scheme that does not hold the masses of cells makes a density of what it holds.
        self.law: Callable[[np.ndarray], Density] | None = None
        # Whether the scheme knows where in a cell the mass lies.
        self.places = False
        # The error that a step may have where its length is prescribed, which decides among steps of several orders.
        self.allowed_error = math.inf
        # Bytes that the run has asked for beyond what the flow holds (`wgflow.calls.memory`).
        self.reserved = 0.0
        # Snapshots that are kept at most where the user does not choose their times; None before a run has begun.
        self.room: int | None = None
        # What the certificate says of the scheme, and how it finds where that loses its order, once it is read.
        self.scheme = ""
        self.loss: Callable[[Flow], str] | None = None
        self.size = self.rho0.points.size if isinstance(self.rho0, Atoms) else self.rho0.grid.size
        scale = self.time_scale
        self.clock = Clock(self.scale_at, self.t0, self.t1) if callable(scale) and self.t1 > self.t0 else None
        # Where snapshots are written, if not kept in memory.
        self.stream: SnapshotStream | None = None
        # What the terms that change with time were sampled to be, once `scan` has been called.
        self.drive: Drive | None = None

    @property
    def has_grid(self) -> bool:
        """Whether the law is a density on a grid, and not atoms."""
        return isinstance(self.rho0, Density)

    @cached_property
    def density(self) -> Density:
        """The initial law of a flow on a grid."""
        if not isinstance(self.rho0, Density):
            raise InvalidInput("this flow moves atoms, which have no grid")
        return self.rho0

    @property
    def atoms(self) -> Atoms:
        """The initial law of a flow of atoms."""
        if not isinstance(self.rho0, Atoms):
            raise InvalidInput("this flow is that of a density on a grid, not of atoms")
        return self.rho0

    @cached_property
    def grid(self) -> Grid:
        """The grid of the initial density."""
        return self.density.grid

    @property
    def diagonal_mobility(self) -> list[np.ndarray] | None:
        """The diagonal of A at the cell centers, one array for each axis; None where A is 1."""
        return None if self.mobility is None else self.mobility.on(self.grid)[0]

    @property
    def scheme_in_words(self) -> str:
        """What the certificate says of the scheme, with the order that it loses."""
        lost = "" if self.loss is None else self.loss(self)
        return f"{self.scheme}; {lost}" if lost else self.scheme

    @cached_property
    def on_grid(self) -> EnergyOnGrid:
        """The energy as arrays on the grid, at the start."""
        return self.energy.at(self.t0).assemble(self.grid)

    def on_law(self, rho0: Density, energy: EnergyOnGrid) -> Flow:
        """Return the same flow from the same law in another form, and its energy as arrays on the grid of that."""
        found = Flow.__new__(Flow)
        vars(found).update(vars(self), rho0=rho0, density=rho0, grid=rho0.grid, on_grid=energy)
        vars(found).pop("_parts", None)
        return found

    def energy_at(self, t: float) -> FreeEnergy:
        """Return the energy at a time; an error in a user's function ends the run with a ConvergenceError."""
        return self._driven(t, lambda: self.energy.at(t))

    @cached_property
    def _parts(self) -> tuple[EnergyOnGrid, FreeEnergy]:
        """The terms that never change as arrays on the cells, and the others."""
        # Terms know cells; the same arrays serve sums over point masses.
        cells = self.grid.cells if isinstance(self.grid, NodeGrid) else self.grid
        still, driven = (FreeEnergy([pair for pair in self.energy.terms if pair[1].time_dependent is moving])
                         for moving in (False, True))
        return still.assemble(cells, check=False), driven

    def on_grid_at(self, t: float) -> EnergyOnGrid:
        """Return the energy as arrays at a time."""
        if not self.energy.time_dependent:
            return self.on_grid
        still, driven = self._parts
        now = self._driven(t, lambda: driven.at(t).added_to(still, self.energy))
        return now.on(self.grid) if now.grid is not self.grid else now

    def sides(self, t: float) -> tuple[float, float]:
        """Return the times at which the energy is looked at for the end of a step, and for the start of the next."""
        return (t, t) if self.drive is None else self.drive.sides(t)

    def scan(self) -> None:
        """Sample the terms that change with time over the whole span; steps will end on their jumps."""
        if not self.energy.time_dependent or self.t1 <= self.t0:
            return
        probe = AtomProbe(self.rho0) if isinstance(self.rho0, Atoms) else GridProbe(self.rho0)
        given = tuple(t for t in self.energy.breakpoints if self.t0 <= t < self.t1)
        self.drive = Drive(self.energy, probe, self.t0, self.t1, given)
        self.stops = sorted({*self.stops, *self.drive.jumps})

    @staticmethod
    def _driven(t: float, make: Callable[[], T]) -> T:
        try:
            return make()
        except MemoryError:
            raise
        except Exception as error:
            raise ConvergenceError(f"a TimeDependent term failed at t = {t:g}: {error}", reason="callback",
                                   t=t) from error

    def elapsed(self, t: float, dt: float) -> float:
        """Return the integral of time_scale from t to t + dt, the clock in which the equation is autonomous."""
        if self.clock is not None:
            return self.clock.elapsed(t, dt)
        return self.scale_at(t) * dt

    def time_within(self, t: float, dt: float, share: float) -> float:
        """Return the time at which a part of the step from t to t + dt has passed by the clock of time_scale."""
        if not callable(self.time_scale):
            return t + share * dt
        goal, low, high = share * self.elapsed(t, dt), 0.0, dt
        length = share * dt
        for _ in range(CLOCK_TRIALS):
            miss = self.elapsed(t, length) - goal
            low, high = (low, length) if miss > 0 else (length, high)
            if abs(miss) <= CLOCK_SLACK * goal:
                break
            # Newton's method, and halving where it leaves the bracket.
            length -= miss / self.scale_at(t + length, dt)
            if not low < length < high:
                length = 0.5 * (low + high)
        return t + length

    def scale_at(self, t: float, dt: float = 0.0) -> float:
        """Return time_scale at a time; an error in its function ends the run with a ConvergenceError."""
        scale = self.time_scale
        if not callable(scale):
            return scale
        try:
            value = scale(t)
        except MemoryError:
            raise
        except Exception as error:
            raise ConvergenceError(f"time_scale({t:g}) raised {type(error).__name__}: {error}; it is called with times "
                                   f"between {self.t0:g} and {self.t1:g}", reason="callback", t=t, dt=dt) from error
        value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or value <= 0 or not value < math.inf:
            raise ConvergenceError(f"time_scale({t:g})={value!r}: need a finite number > 0", reason="callback",
                                   t=t, dt=dt)
        return float(value)


def make_flow(energy: Term, rho0: Density | Atoms, t_span, t_eval, time_scale, method: Method,
              mobility: Any = None, *, streamed: bool = False) -> Flow:
    """Return the problem of `solve`, its arguments checked and the energy assembled.

    With ``streamed`` the snapshots need not fit into memory.

    Raises
    ------
    InvalidInput
        If an argument breaks a rule, or the method does not support the law or the energy.
    """
    check_subnormals()
    name = type(method).__name__
    if isinstance(energy, (Density, Atoms)) and isinstance(rho0, Term):
        raise InvalidType("energy and rho0 are swapped: solve(energy, rho0, t_span)")
    if isinstance(t_span, (Density, Atoms)) and not isinstance(rho0, (Density, Atoms)):
        raise InvalidType("rho0 and t_span are swapped: solve(energy, rho0, t_span)")
    if not isinstance(energy, Term):
        raise not_an_energy(energy)
    if energy.time_dependent and not method.DRIVEN:
        raise InvalidInput(f"{name} supports only energies that do not change with time; use FiniteVolume() for "
                           "TimeDependent terms")
    if isinstance(rho0, Atoms) and not method.MOVES_ATOMS:
        raise InvalidInput(f"rho0 is Atoms, which {name} does not support; use method=wgflow.Lagrangian(), or a "
                           "Density (Density.from_samples makes one of points)")
    if not isinstance(rho0, (Density, Atoms)):
        raise InvalidType(f"rho0 must be a wgflow.Density{' or Atoms' if method.MOVES_ATOMS else ''}, got "
                          f"{kind_of(rho0)}; make one by Density.from_values(grid, values)")
    energy = energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])
    given = rho0
    t0, t1 = check_span(t_span)
    open_ends = rho0.grid.open_ends if isinstance(rho0, Density) else ()
    if method.MOVES_ATOMS:
        rho0 = method.atoms(energy.at(t0), rho0)
    size, unit = (rho0.points.size, "numbers") if isinstance(rho0, Atoms) else (rho0.grid.size, "cells")
    times = check_times(t_eval, t0, t1, 1 if streamed else size, unit)
    if not callable(time_scale):
        time_scale = check_positive("time_scale", time_scale)
    flow = Flow(energy, rho0, t0, t1, times, time_scale, open_ends, _check_mobility(mobility, rho0, method))
    flow.given = given
    if flow.has_grid and any(flow.grid.periodic):
        # A potential that jumps at the seam of a circle has one meaning for all methods: none.
        energy.at(t0).check_atoms(probe_atoms(flow.grid))
    if flow.has_grid:
        # An energy that cannot be assembled is refused here, before the run.
        _ = flow.on_grid
    flow.scan()
    return flow


def _check_mobility(given: Any, rho0: Density | Atoms, method: Method) -> Mobility | None:
    """Return the mobility of a flow, looked at where the law is; refuse methods that do not know it."""
    mobility = as_mobility(given)
    if mobility is None:
        return None
    name = type(method).__name__
    if not method.KNOWS_MOBILITY:
        raise InvalidInput(f"mobility={mobility!r}: {name} knows the flow of mobility 1 alone, and would solve another "
                           "equation; use FiniteVolume(), or Lagrangian() for particles")
    if isinstance(rho0, Density):
        mobility.on(rho0.grid)
        return mobility
    if any(rho0.powers):
        raise InvalidInput(f"mobility={mobility!r}: {name} does not know it on coordinates with a reference measure "
                           "such as r^p dr; use FiniteVolume()")
    mobility.at(rho0.points)
    return mobility


def law_after(energy: FreeEnergy, rho: Density, t0: float, t1: float, time_scale: float | Callable[[float], float],
              method: Method, mobility: Mobility | None = None) -> Density | None:
    """Return the law at t1 of the flow from a law at t0; None where the run fails."""
    try:
        final = run(make_flow(energy, rho, (t0, t1), [t1], time_scale, method, mobility), method).final
    except (ConvergenceError, InvalidInput):
        return None
    return final if isinstance(final, Density) else None


def run(flow: Flow, method: Method, *, progress: Progress = False, checkpoint=None, throw: bool = True,
        state: tuple[dict, dict] | None = None, watch: Watch | None = None) -> Solution:
    """Return the Solution of a method on a checked problem; after an error the record is in ``error.partial``."""
    if watch is not None:
        watch.check(flow)
    with run_progress(flow, progress) as report:
        recorder = (Recorder if flow.has_grid else AtomRecorder)(flow, method, report, watch)
        try:
            with _keeper(checkpoint, flow, method, recorder, state is not None) as keeper:
                method.integrate(flow, recorder, checkpoint=keeper, state=state)
        except ConvergenceError as error:
            if not recorder.steps.count:
                # Before anything was known.
                raise
            error.partial = recorder.solution(1, str(error))
            if throw:
                raise
            return error.partial
        except KeyboardInterrupt as error:
            if not recorder.steps.count:
                raise
            words = f"interrupted at t = {recorder.steps.latest('t'):.6g} of {flow.t1:g}"
            partial = recorder.solution(1, words)
            if not throw:
                return partial
            vars(error)["partial"] = partial
            error.args = (f"{words}; what was computed is in .partial of this exception (at a prompt: "
                          "sys.last_value.partial), and solve(..., throw=False) returns it",)
            raise
        except (WGFlowError, MemoryError) as error:
            told: Exception = error
            if isinstance(error, MemoryError):
                told = out_of_memory(error, f"the run of {type(method).__name__}")
            if recorder.steps.count:
                vars(told)["partial"] = recorder.solution(1, f"{type(told).__name__}: {told}")
            if told is error:
                raise
            raise told from error
    return recorder.solution(0, recorder.stopped or "the solver reached the end of the time span")


def _keeper(path, flow, method, recorder, resumed):
    """Return the context that keeps the state of a run on disk; without a path it does nothing."""
    if path is None:
        return nullcontext()
    return Checkpoint(path, flow, method, recorder, resumed)
