r"""Methods, and the run of a method from the start to the end of a time span.

`wgflow.solve` hands a checked problem (`wgflow.flows.Flow`) to a `Method`, which begins a `Run` of it. A run knows one
thing: how to go on from where the law is. All else stands once, in `run_to_end`: the times that steps end on, the
limits, checkpoints, the record of every accepted step and of the dissipation.

A new method is a frozen dataclass of its settings with `begin`, and a run with `start` and `advance`; where steps have
equal lengths between output times, an `EvenSteps` with `move` alone.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from wgflow.contracts import Contract
from wgflow.energies.dissipation import dissipation_on_grid
from wgflow.errors import ConvergenceError, InvalidInput, StorageError
from wgflow.progress import pulse
from wgflow.recorder import Interior, Recorder, Step, Steps
from wgflow.watching.watch import Moment

from .settings import changed, table_of

if TYPE_CHECKING:
    from wgflow.atoms import Atoms
    from wgflow.densities import Density
    from wgflow.energies.free_energy import FreeEnergy
    from wgflow.files.checkpoints import Checkpoint
    from wgflow.flows import Flow
    from wgflow.grids import Grid

__all__ = ["EvenSteps", "Interior", "Method", "Run", "Step", "run_to_end"]

#: A time that misses a multiple of the step by less than this part of it has reached it.
TIME_SLACK = 1e-9
#: Part of the mass that a step of even length may change: more than round-off, less than shows.
MASS_SLACK = 1e-9


def no_limit() -> None:
    """Let a step go on for as long as it takes."""


class Method(Contract):
    """A way of stepping a flow: a frozen dataclass of its settings.

    Attributes
    ----------
    max_steps : int
        Accepted steps after which a run stops with ConvergenceError (reason "max steps").
    time_limit : float or None
        Seconds after which a run stops with ConvergenceError (reason "time limit").
    """

    max_steps: int = 1_000_000
    time_limit: float | None = None

    def __str__(self) -> str:
        """Return the name of the method and those of its settings that are not the defaults."""
        return f"{type(self).__name__}({', '.join(changed(self))})"

    @property
    def controlled(self) -> bool:
        """Whether the steps are chosen by an error tolerance; fixed steps are reported, not judged."""
        return False

    @property
    def follows(self) -> bool:
        """Whether steps are shortened until they can follow terms that change with time (see `Drive.longest`)."""
        return False

    #: Whether the method knows energies that change with time.
    DRIVEN: ClassVar[bool] = False
    #: Whether the method knows a mobility A(x), d rho/dt = div(rho A grad dF/drho).
    KNOWS_MOBILITY: ClassVar[bool] = False
    #: Whether the law is held by points, which `atoms` makes of the initial law, and not by the cells of a grid.
    MOVES_ATOMS: ClassVar[bool] = False
    #: Whether a run can be taken up again from the states that it dumps.
    KEEPS_CHECKPOINTS: ClassVar[bool] = True
    #: Settings that may change when a run is taken up again.
    LIMITS: ClassVar[tuple[str, ...]] = ("max_steps", "time_limit")
    #: Settings that are lengths of steps.
    STEPS: ClassVar[tuple[str, ...]] = ("dt", "tau")

    @property
    def time_order(self) -> int:
        """Order of the error in time, at least: for error estimates."""
        return 1

    def stop_to_stop(self, longest: float, span: float) -> Method | None:
        """Return the method with one step from each stop of a flow to the next; None where steps cannot be given.

        An error estimate repeats the steps of a run by it, on other grids.

        Parameters
        ----------
        longest, span : float
            The longest of the steps, and the whole time.
        """
        names = [name for name in self.STEPS if hasattr(self, name)]
        return cast(Method, replace(cast(Any, self), **dict.fromkeys(names, longest))) if names else None

    def on_coarser_grid(self, factor: int) -> Method:
        """Return the method with a resolution of its own, if it has one, that is coarser by a factor."""
        return self

    @abstractmethod
    def begin(self, flow: Flow) -> Run:
        """Return a run of the method on a problem, which has not moved yet.

        Raises
        ------
        InvalidInput
            If the method cannot serve the energy or the grid; the message names the term and who serves it.
        """

    def atoms(self, energy: FreeEnergy, rho0: Density | Atoms) -> Atoms:
        """Return the atoms that stand for the initial law; only for methods that move atoms."""
        raise NotImplementedError(f"{type(self).__name__} does not move atoms")

    def settings(self) -> dict[str, Any]:
        """Return the settings by name: numbers, strings, and tables of them, with which a class can be made again."""
        return {"method": type(self).__name__, **table_of(self)}

    def check_state(self, grid: Grid, state: dict[str, Any]) -> None:
        """Refuse a state from a file that no run of this method can have dumped on this grid.

        By default every array must have the grid's shape and hold finite floats.

        Raises
        ------
        ValueError
            With what is wrong; the caller names the file.
        """
        for name, array in state.items():
            if isinstance(array, np.ndarray) and (
                    array.dtype != float or array.shape != grid.shape or not np.isfinite(array).all()):
                raise ValueError(f"{name} has shape {array.shape}, dtype {array.dtype}; need finite floats of shape "
                                 f"{grid.shape}")

    def integrate(self, flow: Flow, recorder: Recorder, *, checkpoint: Checkpoint | None = None,
                  state: tuple[dict, dict] | None = None) -> None:
        """Go from ``flow.t0``, or from a state, to ``flow.t1``, recording every accepted step.

        Parameters
        ----------
        flow : Flow
        recorder : Recorder
        checkpoint : Checkpoint, optional
            Is handed the state of the run whenever the run could go on from it.
        state : (dict, dict), optional
            What the recorder had recorded and what the run had dumped, to go on from.
        """
        run_to_end(self, self.begin(flow), flow, recorder, checkpoint, state)


class Run(Contract):
    """One run of a method: where the law is, and how it goes on.

    Attributes
    ----------
    t : float
        The time reached.
    n_rejected : int
        Attempts that were not accepted, so far.
    error_estimate : float or None
        Sum of the estimated local errors in time so far (L1, relative to the mass), where the method estimates them.
    room : int
        Steps that `advance` may yield, at most, where it yields several.
    grid_error : float or None
        Largest estimated error of the grid so far (L1, relative to the mass), where the method estimates it.
    check_time : callable
        For `advance` to call in every loop of a step that may take long: it raises ConvergenceError where the time
        limit is reached, and lets those who watch the progress know that the step goes on.
    """

    error_estimate: float | None = None
    grid_error: float | None = None
    n_rejected: int = 0
    room: int = 1

    def __init__(self, method: Method, flow: Flow):
        self.method, self.flow, self.t = method, flow, flow.t0
        self.check_time: Callable[[], None] = no_limit

    @abstractmethod
    def start(self) -> Step:
        """Return the initial state as a step of length 0."""

    @abstractmethod
    def advance(self, stop: float) -> Iterator[Step | Interior | Steps]:
        """Try to go on towards a time: yield each step that is accepted, in order, and nothing if none was.

        Called again and again until the time is reached: an accepted step ends at ``stop`` or before. A step is
        recorded when it is yielded. Whoever shortens a step counts it in ``n_rejected``.

        Raises
        ------
        ConvergenceError
            If there is no way on.
        """

    def dissipation(self) -> float | None:
        """Return -dF/dt of the law reached at time_scale 1, if the last step did not tell it and it is cheap to form.

        By default it is formed from the energy, where a run is told to end or a condition asks for it.
        """
        return None

    def dump(self) -> dict[str, Any] | None:
        """Return all that determines the rest of the run, or None where the run could not go on from here.

        Numbers, None, tables of numbers, and arrays, which are not changed afterwards. ``t`` must be among them.
        """
        return None

    def restore(self, saved: dict[str, Any], recorded: dict[str, Any]) -> np.ndarray:
        """Take up what `dump` gave; return the masses (or points) of the law reached.

        Parameters
        ----------
        saved : dict
        recorded : dict
            What had been recorded: ``recorded["columns"]["energy"][0]`` is the energy at the start, say.

        Raises
        ------
        LookupError, TypeError, ValueError
            If the state is not one that `dump` gives.
        """
        raise InvalidInput(f"{type(self.method).__name__} keeps no checkpoints")

    def close(self) -> None:
        """End threads, close files: called once, however the run ends."""

    def check_moves(self, dt: float) -> None:
        """Raise ConvergenceError (reason "step too small") if a step so short does not move the time."""
        if self.t + dt == self.t:
            raise ConvergenceError(f"step too small: t = {self.t:.6g} + dt = {dt:.3g} does not move; the flow changes "
                                   "faster than floats can resolve: rescale time, or take larger steps",
                                   reason="step too small", t=self.t, dt=dt)


class EvenSteps(Run):
    """A run on a grid whose steps have equal lengths between two output times, at most ``dt``.

    A subclass gives `move`; it can be resumed.

    Parameters
    ----------
    method : Method
    flow : Flow
    dt : float
    """

    def __init__(self, method: Method, flow: Flow, dt: float):
        super().__init__(method, flow)
        self.dt, self.clock, self.masses = dt, 0.0, flow.density.masses
        # Where the steps of equal length began, and their number; how many are done, and where they end.
        self.row: tuple[float, int] = (flow.t0, 0)
        self.done, self.goal = 0, flow.t0

    @abstractmethod
    def move(self, masses: np.ndarray, t: float, elapsed: float) -> np.ndarray:
        r"""Return the masses of the cells after a step; a new array, of the same total and at least 0.

        Parameters
        ----------
        masses : array of the grid's shape
            At the start of the step; not to be changed.
        t : float
            The time at the start.
        elapsed : float
            The integral of time_scale over the step: with this clock the equation is
            :math:`\partial_t\rho = \nabla\cdot(\rho\nabla\,\delta F/\delta\rho)`.
        """

    def start(self) -> Step:
        return self._step(self.t, self.masses)

    def advance(self, stop: float) -> Iterator[Step | Interior]:
        begin, count = self.row
        if self.done >= count or stop != self.goal:
            begin, self.done, self.goal = self.t, 0, stop
            count = max(1, math.ceil((stop - self.t) / self.dt * (1 - TIME_SLACK)))
        k = self.done + 1
        target = stop if k == count else begin + (stop - begin) * (k / count)
        self.check_moves(target - self.t)
        elapsed = self.flow.elapsed(self.t, target - self.t)
        masses = self.move(self.masses, self.t, elapsed)
        if not (np.isfinite(masses).all() and masses.min() >= 0):
            raise ConvergenceError(f"the step from t = {self.t:.6g} gave masses that are negative or not finite; take "
                                   f"a smaller dt (now {target - self.t:.3g})", reason="non-finite", t=self.t,
                                   dt=target - self.t)
        total, mass = float(masses.sum()), self.flow.rho0.mass
        if not abs(total - mass) <= MASS_SLACK * mass:
            raise ConvergenceError(f"the step from t = {self.t:.6g} changed the mass by {total / mass - 1:.1e}; what "
                                   f"{type(self).__name__}.move returns must have the mass of the initial law",
                                   reason="mass", t=self.t, dt=target - self.t)
        self.masses, self.clock, self.t = masses, self.clock + elapsed, target
        self.row, self.done = (begin, count), k
        yield self._step(target, masses)

    def dump(self) -> dict[str, Any]:
        return {"t": self.t, "clock": self.clock, "begin": self.row[0], "count": self.row[1], "done": self.done,
                "stop": self.goal, "masses": self.masses}

    def restore(self, saved: dict[str, Any], recorded: dict[str, Any]) -> np.ndarray:
        self.t, self.clock, self.masses = float(saved["t"]), float(saved["clock"]), saved["masses"]
        self.row, self.done = (float(saved["begin"]), int(saved["count"])), int(saved["done"])
        # Files of former versions lack the end, and go on to the stop that they had.
        self.goal = float(saved.get("stop", next((s for s in self.flow.stops if s > self.t), self.flow.t1)))
        return self.masses

    def _step(self, t: float, masses: np.ndarray) -> Step:
        energy = self.flow.on_grid_at(t)
        return Step(t, masses, energy.energy(masses), self.clock, dissipation_on_grid(energy, masses))


def run_to_end(method: Method, run: Run, flow: Flow, recorder: Recorder, checkpoint: Checkpoint | None,
               state: tuple[dict, dict] | None) -> None:
    """Go to the end of the time span; see `Method.integrate`."""
    limits = _Limits(method)
    run.check_time = lambda: limits.check_time(run.t)
    try:
        if state is None:
            _begin(run, flow, recorder, checkpoint)
        else:
            _take_up(run, recorder, *state)
        _check_steps(method, flow)
        for stop in flow.stops:
            while run.t < stop and not recorder.stopped:
                recorder.take(run)
                _mark(run, checkpoint)
                room = limits.check(run.t)
                run.room = room if recorder.watch is None else 1
                _advance(run, stop, recorder, limits, checkpoint)
        if not recorder.stopped:
            _mark(run, checkpoint)
    finally:
        recorder.take(run)
        run.close()
        # It holds the run, which holds it: with both the arrays of the run would wait for the garbage collector.
        run.check_time = no_limit


def _advance(run: Run, stop: float, recorder: Recorder, limits: _Limits, checkpoint: Checkpoint | None) -> None:
    """Record the steps of one attempt, up to the one with which the run is told to end."""
    before, words, watch, rate, alone = run.t, "", recorder.watch, None, True
    for step in run.advance(stop):
        if words:
            # It came along with the one at which the run ends, and is taken again if the run is resumed.
            alone = False
            continue
        if isinstance(step, Steps):
            recorder.several(step)
            limits.steps, before = limits.steps + len(step.t), step.t[-1]
            continue
        recorder.take(run)
        if isinstance(step, Interior):
            recorder.within(step)
            continue
        if not step.t > before:
            raise ConvergenceError(f"step too small: the step from t = {before:.6g} ends at {step.t:.6g}; "
                                   "take larger steps", reason="step too small", t=before)
        recorder.step(step)
        limits.steps += 1
        before = step.t
        if watch is not None:
            now = Moment(step, run, recorder)
            words, last = watch.look(now), step
            if words and recorder.needs_rate(step):
                rate = now.dissipation
    if words:
        if alone:
            _mark(run, checkpoint)
        recorder.end(words, last, rate)


def _begin(run: Run, flow: Flow, recorder: Recorder, checkpoint: Checkpoint | None) -> None:
    """Record the initial state, and look whether the run is to end there."""
    first = run.start()
    recorder.start(first)
    if flow.t1 > flow.t0 and not math.isfinite(first.energy):
        raise ConvergenceError(f"the free energy of rho0 is {first.energy}; scale the energy down, or start from a law "
                               "of finite energy", reason="non-finite", t=flow.t0)
    words = "" if recorder.watch is None else recorder.watch.look(Moment(first, run, recorder))
    if words:
        _mark(run, checkpoint)
        recorder.end(words, first, None)


def _check_steps(method: Method, flow: Flow) -> None:
    """Refuse steps so short that the time stands still before the end: no limit on their number would be met."""
    late = max(abs(flow.t0), abs(flow.t1))
    for name in Method.STEPS:
        step = getattr(method, name, None)
        if step is not None and flow.t1 > flow.t0 and flow.t1 - step == flow.t1:
            raise ConvergenceError(f"step too small: {name}={step:g} is below {math.ulp(late):.2g}, the spacing of "
                                   f"floats at t = {late:g}, and would not move the time; take a larger {name}, or "
                                   "rescale time", reason="step too small", t=flow.t0, dt=step)


def _take_up(run: Run, recorder: Recorder, recorded: dict, saved: dict) -> None:
    """Go back to a state from a checkpoint."""
    try:
        law = run.restore(saved, recorded)
        recorder.restore(recorded, law)
        run.n_rejected = recorder.n_rejected
        if run.error_estimate is None:
            run.error_estimate = recorder.error_estimate
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"the checkpoint has no state that can be used: {type(error).__name__}: {error}") from error


def _mark(run: Run, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None and (state := run.dump()) is not None:
        checkpoint.mark(state)


class _Limits:
    """The limits of a run, looked at before every attempt."""

    def __init__(self, method: Method):
        self.method, self.steps = method, 0
        self.deadline = time.monotonic() + method.time_limit if method.time_limit else math.inf

    def check(self, t: float) -> int:
        """Return how many steps are left; raise ConvergenceError where a limit is reached."""
        if self.steps >= self.method.max_steps:
            raise ConvergenceError(f"max_steps={self.method.max_steps} reached at t = {t:.6g}; raise max_steps, or "
                                   "take longer steps (a looser tolerance, a larger dt); a checkpoint can be resumed",
                                   reason="max steps", t=t)
        self.check_time(t)
        return self.method.max_steps - self.steps

    def check_time(self, t: float) -> None:
        """Raise ConvergenceError where the time limit is reached; runs whose steps take long look at it inside them."""
        pulse()
        if time.monotonic() > self.deadline:
            raise ConvergenceError(f"time_limit={self.method.time_limit:g} s reached at t = {t:.6g}",
                                   reason="time limit", t=t)
