"""One run of FiniteVolume: fixed or adaptive steps, halved where the energy rises, and the fallback."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wgflow.energies.nonlinear_fluxes import Diffusion
from wgflow.flows import Flow
from wgflow.recorder import Step

from ..base import Run
from .blow_up import CollapseWatch
from .choice import carries
from .explicit import ExplicitSteps, explicit_steps_of
from .extrapolated import Extrapolated
from .fronts import FrontStepper, fronts_of
from .midpoint import Midpoint
from .nonlinear import NonlinearSweeps
from .oblique import ObliqueSweeps
from .splitting import LinearSweeps, default_threads, sequence_of_axes
from .step_size import LOOSEST, SPACE_SHARE, TIGHTEST, Controller
from .stepper import FieldRule, State, Stepper, Sweeps
from .tolerance import Tolerance
from .transport import TransportSweeps

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["FiniteVolumeRun", "make_stepper"]

#: A step whose energy rises is halved so many times before the fallback takes over.
MAX_HALVINGS = 6
#: Times nearer to each other than this part of a fixed step are the same.
TIME_SLACK = 1e-6
#: The dissipation is formed when this part of all the energy lost so far has gone since the last time,
DISSIPATION_SHARE = 0.01
#: and at every eighth step; on grids of so many cells, where it would show in the cost, after this part, and at every
#: 32nd step. The certificate tells after how many steps it was formed.
DISSIPATION_STRIDE = 8
LARGE_GRID, LARGE_GRID_SHARE, LARGE_GRID_STRIDE = 4096, 0.1, 32
#: What states of former versions do not have.
ADDED = ("middle", "mesh", "left")
#: Part of the mass that counts as round-off.
NEGLIGIBLE = 1e-16


def make_stepper(flow: Flow, method: FiniteVolume) -> Stepper:
    """Return the steps of a flow: sweeps by its diffusion, and the rule for the field by the method's scheme."""
    energy, negligible = flow.on_grid, NEGLIGIBLE * flow.rho0.mass
    threads, mobility = method.threads or default_threads(), flow.diagonal_mobility
    directions = None if flow.mobility is None else flow.mobility.directions(flow.grid)
    sweeps: Sweeps
    if directions is not None:
        sweeps = ObliqueSweeps(flow.grid, energy.diffusion, directions, negligible, threads)
    elif energy.internal:
        sweeps = NonlinearSweeps(flow.grid, Diffusion(energy), method.corrected, negligible, mobility)
    elif carries(flow, method):
        sweeps = TransportSweeps(flow.grid, energy.rough, threads)
    else:
        static = not (energy.moves or flow.energy.time_dependent)
        sweeps = LinearSweeps(flow.grid, energy.diffusion, method.corrected, negligible, static, threads, mobility)
    sweeps.sequence = sequence_of_axes(flow)
    rule: FieldRule = Midpoint() if method.scheme == "midpoint" else Extrapolated()
    fronts = fronts_of(flow, method)
    return Stepper(flow, sweeps, rule) if fronts is None else FrontStepper(flow, sweeps, rule, fronts)


class FiniteVolumeRun(Run):
    """One run of FiniteVolume: where it is, and how it moves on."""

    method: FiniteVolume
    #: What the numbers of the state are.
    HOLDS: ClassVar[str] = "masses of cells"

    def __init__(self, method: FiniteVolume, flow: Flow):
        super().__init__(method, flow)
        self.stepper = self.make_stepper(flow, method)
        self.collapse = CollapseWatch(flow.on_grid)
        self.controller: Any = self.make_controller() if method.dt is None else None
        self.longest = method.max_step or math.inf
        # Whether a law that has been calm may be moved all of a sudden.
        self.moved_from_outside = flow.drive is not None or flow.clock is not None
        self.steps = 0
        self.even_volume = flow.grid.volumes.item(0) if all(flow.grid.uniform) else None
        self.explicit, self.fluxes = explicit_steps_of(flow, method), flow.scheme
        # Where a fixed step is crossed in parts: its end, and the length of the part tried next.
        self.target: float | None = None
        self.trial = 0.0
        self.rejections = 0

    def make_stepper(self, flow: Flow, method: FiniteVolume) -> Stepper:
        """Return the steps of the flow."""
        return make_stepper(flow, method)

    def make_controller(self) -> Any:
        """Return the choice of the step lengths."""
        return Controller(Tolerance(self.method.rtol, self.method.tol, SPACE_SHARE, TIGHTEST, LOOSEST))

    def start(self) -> Step:
        self.state = self._first_state()
        self.first_energy = self.measured = self.state.energy
        rate = None
        if self.flow.t1 > self.flow.t0 and math.isfinite(self.state.energy):
            rate = self._first_rate()
        return Step(self.state.t, self.state.masses, self.state.energy, rate=rate)

    def dump(self) -> dict[str, Any] | None:
        if self.rejections or self.target is not None:
            return None
        controller = None if self.controller is None else {
            name: value for name, value in vars(self.controller).items() if not isinstance(value, Tolerance)}
        return {**self.state._asdict(), "holds": self.HOLDS, "steps": self.steps, "measured": self.measured,
                "controller": controller}

    def restore(self, saved: dict[str, Any], recorded: dict[str, Any]) -> np.ndarray:
        if saved.get("holds", FiniteVolumeRun.HOLDS) != self.HOLDS:
            raise ValueError(f"it holds {saved.get('holds')}, and the run goes on with {self.HOLDS}: it is of other "
                             "settings, or by another version of wgflow")
        # Files of former versions know no field in the middle of a step, and no points.
        values: dict[str, Any] = {name: saved.get(name) if name in ADDED else saved[name] for name in State._fields}
        self.state = State(**values)
        self.stepper.take_up(self.state)
        self.t, self.steps, self.measured = self.state.t, saved["steps"], saved["measured"]
        self.first_energy = recorded["columns"]["energy"][0]
        if self.controller is not None:
            vars(self.controller).update(saved["controller"])
            self.error_estimate = self.controller.total_error if self.steps else None
        self._tell_explicit()
        return self.state.masses

    def advance(self, stop: float) -> Iterator[Step]:
        if self.explicit is not None and self.controller.left is None:
            yield from self._explicit(self.explicit, stop)
        elif self.controller is not None:
            yield from self._adaptive(self.controller, stop)
        else:
            yield from self._fixed(self.method.dt or math.inf, stop)

    def close(self) -> None:
        self.stepper.sweeps.close()

    def dissipation(self) -> float:
        return self.stepper.dissipation(self.state)

    def _first_state(self) -> State:
        return self.stepper.start()

    def _first_rate(self) -> float:
        return self.stepper.dissipation(self.state) if self.explicit is None else self.explicit.rate

    def _tell_explicit(self) -> None:
        """Say in the certificate which steps were explicit ones."""
        if self.explicit is not None:
            left = self.controller.left
            until = "" if left is None else f" to t = {left:.4g}, implicit ones beyond"
            self.flow.scheme = f"{self.fluxes}, explicit steps of third order in time{until}"

    def _speed(self) -> float:
        return self.stepper.speed(self.state) * self.flow.elapsed(self.flow.t0, 1e-9) * 1e9

    def _space_error(self, state: State) -> float:
        return self.stepper.sweeps.space_error(state.masses)

    def _seen(self, dt: float) -> float:
        """Return the longest step, up to a length, whose driving was seen."""
        drive = self.flow.drive
        if drive is None or drive.follows(self.state.t, dt):
            return dt
        tolerance = self.controller.tolerance.of_step(self._space_error(self.state), self.controller.total_error, dt,
                                                      self.flow.t1 - self.state.t)
        return drive.longest(self.state.t, dt, tolerance, self.state.masses,
                             lambda t, length: self.flow.elapsed(t, length) / length)

    # ---------------------------------------------------------------- fixed steps
    def _fixed(self, dt: float, stop: float) -> Iterator[Step]:
        """Go to the next multiple of dt in one step, or in as many as the energy asks for: the next of them."""
        if self.target is None:
            t0 = self.flow.t0
            # A time that misses a multiple by round-off counts as having reached it.
            target = t0 + (math.floor((self.state.t - t0) / dt + TIME_SLACK) + 1) * dt
            self.target = target if target < stop - TIME_SLACK * dt else stop
            self.trial, self.rejections = self.target - self.state.t, 0
        remaining = self.target - self.state.t
        end = self.target if self.trial >= remaining * (1 - 1e-12) else None
        part = remaining if end is not None else self.trial
        self.check_moves(part)
        new, fallback = self.stepper.step(self.state, part, end), False
        if new is None:
            self.n_rejected += 1
            self.rejections += 1
            if self.rejections <= MAX_HALVINGS:
                self.trial = 0.5 * part
                return
            new, fallback = self.stepper.fallback(self.state, part, end), True
        self.rejections, self.trial = max(0, self.rejections - 1), 2.0 * part
        if end is not None:
            self.target, self.rejections = None, 0
        yield self._commit(new, fallback)
        self._watch()

    # ---------------------------------------------------------------- adaptive steps
    def _explicit(self, explicit: ExplicitSteps, stop: float) -> Iterator[Step]:
        """Take explicit steps, as many as one compiled call does."""
        controller = self.controller
        if not controller.begun:
            controller.begin(self.flow.t1 - self.flow.t0, 0.0, 0.0)
        for new, known in explicit.steps(self, stop):
            yield self._commit(new, False, **known)
        self._tell_explicit()

    def _adaptive(self, controller: Controller, stop: float) -> Iterator[Step]:
        if not controller.begun:
            controller.begin(self.flow.t1 - self.flow.t0, self._speed(), self._space_error(self.state))
        remaining = stop - self.state.t
        longest = self._seen(min(remaining, controller.dt, self.longest))
        count = max(2 if controller.check_due else 1, math.ceil(remaining / longest * (1 - 1e-9)))
        dt = remaining / count
        self.check_moves(dt)
        end = stop if count == 1 else None
        if controller.check_due:
            found = self._pair(controller, dt, stop if count == 2 else None)
        else:
            found = self._single(controller, dt, end)
        fallback = False
        if not found:
            self.n_rejected += 1
            self.rejections += 1
            if not (self.rejections > MAX_HALVINGS and self.energy_rose):
                return
            found, fallback = [self.stepper.fallback(self.state, dt, end)], True
        self.rejections, self.error_estimate = 0, controller.total_error
        for new in found:
            yield self._commit(new, fallback)
            self._watch()

    def _single(self, controller: Controller, dt: float, stop: float | None) -> list[State]:
        new = self.stepper.step(self.state, dt, stop)
        self.energy_rose = new is None
        if new is None:
            controller.cut(dt)
            return []
        speed = float(np.abs(new.masses - self.state.masses).sum()) / (self.stepper.mass * dt)
        if self.moved_from_outside and not controller.calm(speed):
            # Nothing of the last steps says how accurate this one is.
            controller.trust = 0
            return []
        controller.watch(speed)
        return [new]

    def _pair(self, controller: Controller, dt: float, stop: float | None) -> list[State]:
        """Two steps against one of double length: the difference estimates the error of the two.

        That is so for two steps of one length by the clock of time_scale.
        """
        part = dt if self.flow.clock is None else self.flow.time_within(self.state.t, 2 * dt, 0.5) - self.state.t
        first = self.stepper.step(self.state, part)
        second = self.stepper.step(first, 2 * dt - part, stop) if first is not None else None
        self.energy_rose = second is None
        if first is None or second is None:
            controller.cut(dt)
            return []
        whole = self.stepper.step(self.state, 2 * dt)
        if whole is None:
            error = math.inf if dt > controller.dt_floor else 0.0
        else:
            error = float(np.abs(second.masses - whole.masses).sum()) / (3.0 * self.stepper.mass)
        speed = float(np.abs(second.masses - first.masses).sum()) / (self.stepper.mass * dt)
        judged = controller.judge(dt, error, speed, self._space_error(second), self.flow.t1 - self.state.t)
        return [first, second] if judged else []

    # ---------------------------------------------------------------- both
    def _go_on(self, new: State, steps: int = 1) -> None:
        """Go on to the state after some steps."""
        self.last_dt, self.state, self.t = new.t - self.t, new, new.t
        if self.method.tol is not None:
            self.grid_error = max(self.grid_error or 0.0, self._space_error(new))
        self.steps += steps

    def _commit(self, new: State, fallback: bool, rate: float | None = None, mass: float | None = None,
                min_density: float | None = None) -> Step:
        """Go on to a state, and form its dissipation where that is due and not given."""
        self._go_on(new)
        lost = self.first_energy + new.work - new.energy
        large = self.flow.grid.size >= LARGE_GRID
        share = LARGE_GRID_SHARE if large else DISSIPATION_SHARE
        if rate is not None:
            self.measured = new.energy - new.work
        elif (self.stepper.energies.driven or self.measured + new.work - new.energy > share * lost
                or self.steps % (LARGE_GRID_STRIDE if large else DISSIPATION_STRIDE) == 0
                or new.t >= self.flow.t1):
            rate, self.measured = self.stepper.dissipation(new), new.energy - new.work
        inside, self.stepper.inside = self.stepper.inside, None
        # States of the stepper have arrays of their own; those of compiled loops are rows of larger ones.
        known = self.stepper.known(new.masses)
        if known is not None and mass is None and self.even_volume is not None:
            mass, min_density = known.mass, known.least / self.even_volume
        return Step(new.t, new.masses, new.energy, new.clock, rate, work=new.work, fallback=fallback, mass=mass,
                    min_density=min_density, inside=inside, rate_before=self.stepper.dissipation_before(new),
                    fresh=known is not None)

    def _watch(self) -> None:
        self.collapse.check(self.t, self.last_dt, self.state.masses)
