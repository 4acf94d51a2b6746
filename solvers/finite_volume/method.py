"""FiniteVolume: the default method, and its run from the start to the end of a time span."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wgflow.checks import check_count, check_positive
from wgflow.errors import ConvergenceError, InvalidInput, StorageError

from ..base import Method
from .blow_up import CollapseWatch
from .driven import DrivenNonlinearStepper, DrivenStepper
from .midpoint import (
    DrivenMidpointStepper,
    DrivenNonlinearMidpointStepper,
    MidpointStepper,
    NonlinearMidpointStepper,
)
from .nonlinear import NonlinearStepper
from .splitting import default_threads
from .step_size import Controller
from .stepper import State, Stepper

#: How the interaction at the middle of a step is found.
SCHEMES = ("extrapolated", "midpoint")
#: A step whose energy rises is halved so many times before the fallback takes over.
MAX_HALVINGS = 6
#: Times nearer to each other than this part of a fixed step are the same.
TIME_SLACK = 1e-6
#: The dissipation is formed when this part of all the energy lost so far has gone since the last time (the second value
#: on grids beyond so many cells, where it would show in the cost), and at every eighth step.
DISSIPATION_SHARES, DISSIPATION_CELLS, DISSIPATION_STRIDE = (0.01, 0.1), 20_000, 8


@dataclass(frozen=True)
class FiniteVolume(Method):
    r"""Second-order finite volumes that keep mass, sign and Gibbs states and never raise the energy.

    Fluxes: Scharfetter-Gummel, :math:`F = \frac{1}{\beta h}[B(q) \rho_i - B(-q) \rho_{i+1}]` with
    :math:`q = \beta (\Psi_{i+1} - \Psi_i)` and :math:`B(z) = z / (e^z - 1)`, times a positive factor for each edge that
    takes away their numerical diffusion: second order also at large cell Peclet numbers and beta = infinity. Time: the
    exponential midpoint rule with a stochastic second-order resolvent product for the exponential; Strang splitting by
    axis.

    Behavior: without ``dt`` steps are chosen so that the local time error (L1, by step doubling) stays below ``rtol``,
    by default a small part of the error of the grid, estimated from the second differences of the density. A step whose
    energy rises is halved, six times at most, after which an implicit damped step takes over that lowers F for any
    symmetric U (``certificate.n_fallback``).

    Good values: the default, which leaves the time error below the space error; ``rtol=1e-8`` for references. Fixed
    ``dt`` is for convergence studies.

    Parameters
    ----------
    dt : float, optional
        Fixed step (the last one before an output time is cut short). By default steps are adaptive.
    rtol : float, optional
        Tolerance of the local error of a pair of adaptive steps, relative to the mass.
    max_steps : int
        Steps after which the run stops with ConvergenceError (reason "max steps").
    time_limit : float, optional
        Seconds after which the run stops with ConvergenceError (reason "time limit").
    corrected : bool
        Whether the fluxes are corrected for the curvature of Psi and the slope of the flux; plain
        Scharfetter-Gummel fluxes (upwind at beta = infinity) otherwise.
    threads : int, optional
        Threads for large grids; all cores by default. Results have the same bits for any number.
    scheme : str
        How the interaction at the middle of a step is found. "extrapolated": from the step before, or from a half step,
        with one evaluation of U a step. "midpoint": as the average of U rho at both ends, for which an equation is
        solved, with two or three evaluations for steps that resolve the flow (1.5 to 2 times the work for a time error
        that is as small or smaller). F then falls at any step for any symmetric U without a step being cut, and
        stationary states that are stable stay so under steps of any length: for long steps, runs to rest, strong and
        singular interactions. Without an interaction the two take the same steps. It serves nonlinear diffusion too.

    Raises
    ------
    InvalidInput
        If a setting is out of its range.
    """

    dt: float | None = None
    rtol: float | None = None
    max_steps: int = 1_000_000
    time_limit: float | None = None
    corrected: bool = True
    threads: int | None = None
    scheme: str = "extrapolated"

    DRIVEN = True
    #: Settings that may change when a run is taken up again.
    LIMITS: ClassVar[tuple[str, ...]] = ("max_steps", "time_limit", "threads")

    def __post_init__(self):
        check_positive("dt", self.dt, allow_none=True)
        check_positive("rtol", self.rtol, allow_none=True)
        if self.rtol is not None and not 100 * np.finfo(float).eps <= self.rtol < 1:
            raise InvalidInput(f"rtol={self.rtol:g}: need a number between 100 eps = 2.2e-14 and 1")
        check_count("max_steps", self.max_steps)
        check_positive("time_limit", self.time_limit, allow_none=True)
        if not isinstance(self.corrected, bool):
            raise InvalidInput(f"corrected={self.corrected!r}: need True or False")
        if self.threads is not None:
            check_count("threads", self.threads)
        if self.scheme not in SCHEMES:
            raise InvalidInput(f"scheme={self.scheme!r}: need one of {', '.join(map(repr, SCHEMES))}")

    @property
    def controlled(self) -> bool:
        """Whether steps follow the error tolerance."""
        return self.dt is None

    def integrate(self, flow, recorder, *, checkpoint=None, state=None) -> None:
        """Step the flow to its end; see `Method.integrate`."""
        run = _Run(self, flow, recorder, checkpoint)
        try:
            if state is None:
                run.begin()
            else:
                run.restore(*state)
            run.go()
        finally:
            run.stepper.split.close()


def make_stepper(flow, method: FiniteVolume) -> Any:
    """The steps of a flow: by scheme, linear or nonlinear diffusion, and whether its energy changes with time."""
    midpoint, driven = method.scheme == "midpoint", flow.energy.time_dependent
    if flow.parts.internal:
        kinds = ((NonlinearStepper, DrivenNonlinearStepper), (NonlinearMidpointStepper, DrivenNonlinearMidpointStepper))
        return kinds[midpoint][driven](flow, method.corrected)
    linear = ((Stepper, DrivenStepper), (MidpointStepper, DrivenMidpointStepper))
    return linear[midpoint][driven](flow, method.corrected, method.threads or default_threads())


class _Run:
    """One run of FiniteVolume: where it is, and how it moves on."""

    def __init__(self, method: FiniteVolume, flow, recorder, checkpoint=None):
        self.method, self.flow, self.recorder, self.checkpoint = method, flow, recorder, checkpoint
        self.stepper = make_stepper(flow, method)
        self.deadline = time.monotonic() + method.time_limit if method.time_limit else math.inf
        self.steps = self.earlier_steps = 0
        self.collapse = CollapseWatch(flow.parts)
        self.controller = Controller(method.rtol) if method.dt is None else None

    def begin(self) -> None:
        """Take the initial state, and choose the first step."""
        self.state = self.stepper.start()
        self.recorder.start(self.state.masses, self.state.energy)
        self.measured = self.state.energy
        if self.flow.t1 == self.flow.t0:
            return
        if not math.isfinite(self.state.energy):
            raise ConvergenceError(f"the free energy of rho0 is {self.state.energy}; scale the energy down",
                                   reason="non-finite", t=self.flow.t0)
        self.recorder.rate(0.0, self.stepper.dissipation(self.state))
        if self.controller is not None:
            self.controller.begin(self.flow.t1 - self.flow.t0, self._speed(), self.stepper.space_error(self.state))

    def restore(self, recorded: dict, saved: dict) -> None:
        """Take a state from a checkpoint; see `_mark`."""
        try:
            self.state = State(**{name: saved[name] for name in State._fields})
            self.steps = self.earlier_steps = saved["steps"]
            self.measured = saved["measured"]
            if self.controller is not None:
                vars(self.controller).update(saved["controller"])
            self.recorder.restore(recorded, self.state.masses)
        except (KeyError, TypeError) as error:
            raise StorageError(f"the checkpoint lacks a part of its state: {error}") from error

    def go(self) -> None:
        """Step to the end of the time span."""
        for stop in self.flow.stops:
            if self.method.dt is not None:
                self._fixed(self.method.dt, stop)
            elif self.controller is not None:
                self._adaptive(self.controller, stop)
        if self.controller is not None and self.state.t > self.flow.t0:
            self.recorder.error_estimate = self.controller.total_error
        self._mark()

    def _mark(self) -> None:
        """Hand over all that determines the rest of the run; called only where the run can go on from there."""
        if self.checkpoint is not None:
            controller = None if self.controller is None else dict(vars(self.controller))
            self.checkpoint.mark({**self.state._asdict(), "steps": self.steps, "measured": self.measured,
                                  "controller": controller})

    def _speed(self) -> float:
        return self.stepper.speed(self.state) * self.flow.elapsed(self.flow.t0, 1e-9) * 1e9

    # ---------------------------------------------------------------- fixed steps
    def _fixed(self, dt: float, stop: float) -> None:
        t0 = self.flow.t0
        while self.state.t < stop:
            self._mark()
            self._check_limits(min(dt, stop - self.state.t))
            # The next multiple of dt; a time that misses one by round-off counts as having reached it.
            target = t0 + (math.floor((self.state.t - t0) / dt + TIME_SLACK) + 1) * dt
            self._cross(target if target < stop - TIME_SLACK * dt else stop)

    def _cross(self, target: float) -> None:
        """Go to a time in one step, or in as many as the energy asks for."""
        trial, rejections = target - self.state.t, 0
        while self.state.t < target:
            remaining = target - self.state.t
            stop = target if trial >= remaining * (1 - 1e-12) else None
            dt = remaining if stop is not None else trial
            self._check_limits(dt)
            new = self.stepper.step(self.state, dt, stop)
            if new is None:
                self.recorder.n_rejected += 1
                rejections += 1
                if rejections <= MAX_HALVINGS:
                    trial = 0.5 * dt
                    continue
                self._commit(self.stepper.fallback(self.state, dt, stop), fallback=True)
            else:
                self._commit(new)
            rejections = max(0, rejections - 1)
            trial = 2.0 * dt

    # ---------------------------------------------------------------- adaptive steps
    def _adaptive(self, controller: Controller, stop: float) -> None:
        rejections = 0
        while self.state.t < stop:
            if rejections == 0:
                self._mark()
            remaining = stop - self.state.t
            count = max(2 if controller.check_due else 1, math.ceil(remaining / controller.dt * (1 - 1e-9)))
            dt = remaining / count
            self._check_limits(dt)
            end = stop if count == 1 else None
            if controller.check_due:
                moved = self._pair(controller, dt, stop if count == 2 else None)
            else:
                moved = self._single(controller, dt, end)
            if moved:
                rejections = 0
                continue
            self.recorder.n_rejected += 1
            rejections += 1
            if rejections > MAX_HALVINGS and self.energy_rose:
                self._commit(self.stepper.fallback(self.state, dt, end), fallback=True)
                rejections = 0

    def _single(self, controller: Controller, dt: float, stop: float | None) -> bool:
        new = self.stepper.step(self.state, dt, stop)
        self.energy_rose = new is None
        if new is None:
            controller.cut(dt)
            return False
        controller.watch(float(np.abs(new.masses - self.state.masses).sum()) / (self.stepper.mass * dt))
        self._commit(new)
        return True

    def _pair(self, controller: Controller, dt: float, stop: float | None) -> bool:
        """Two steps against one of double length: the difference estimates the error of the two."""
        first = self.stepper.step(self.state, dt)
        second = self.stepper.step(first, dt, stop) if first is not None else None
        self.energy_rose = second is None
        if first is None or second is None:
            controller.cut(dt)
            return False
        whole = self.stepper.step(self.state, 2 * dt)
        if whole is None:
            error = math.inf if dt > controller.dt_floor else 0.0
        else:
            error = float(np.abs(second.masses - whole.masses).sum()) / (3.0 * self.stepper.mass)
        speed = float(np.abs(second.masses - first.masses).sum()) / (self.stepper.mass * dt)
        if not controller.judge(dt, error, speed, self.stepper.space_error(second)):
            return False
        self._commit(first)
        self._commit(second)
        return True

    # ---------------------------------------------------------------- both
    def _commit(self, new: State, fallback: bool = False) -> None:
        self.recorder.step(new.t, new.t - self.state.t, new.masses, new.energy, fallback=fallback,
                           work=new.work)
        dt, self.state = new.t - self.state.t, new
        self.steps += 1
        self.collapse.check(new.t, dt, new.masses)
        lost = self.recorder.columns["energy"][0] + new.work - new.energy
        share = DISSIPATION_SHARES[self.flow.grid.size > DISSIPATION_CELLS]
        if (self.measured + new.work - new.energy > share * lost or self.steps % DISSIPATION_STRIDE == 0
                or new.t >= self.flow.t1):
            self.recorder.rate(new.clock, self.stepper.dissipation(new))
            self.measured = new.energy - new.work

    def _check_limits(self, dt: float) -> None:
        t = self.state.t
        if t + dt == t:
            raise ConvergenceError(f"step too small: t = {t:.6g} + dt = {dt:.3g} does not move; the flow changes "
                                   "faster than floats can resolve, rescale time", reason="step too small", t=t, dt=dt)
        if self.steps - self.earlier_steps >= self.method.max_steps:
            raise ConvergenceError(f"max_steps={self.method.max_steps} reached at t = {t:.6g}; raise max_steps, or "
                                   "loosen rtol", reason="max steps", t=t, dt=dt)
        if time.monotonic() > self.deadline:
            raise ConvergenceError(f"time_limit={self.method.time_limit:g} s reached at t = {t:.6g}",
                                   reason="time limit", t=t, dt=dt)
