"""A run of FiniteVolume by compact sweeps, with steps whose error estimate is free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from wgflow.compiled.compact import compact_start, compact_steps, next_length
from wgflow.energies.nodes import law_of_nodes, node_grid, nodes_of_density
from wgflow.flows import HIGH_ORDER, Flow
from wgflow.recorder import Step, Steps

from .compact import LADDER_BELOW, Compact
from .compact_sweeps import CompactSweeps
from .field_loop import field_loop
from .midpoint import Midpoint
from .oblique import ObliqueCompactSweeps
from .run import MAX_HALVINGS, FiniteVolumeRun
from .splitting import default_threads, sequence_of_axes
from .step_size import Controller
from .stepper import FieldRule, State, Stepper
from .tolerance import BUDGET_LEFT, Tolerance
from .unsplit import Unsplit, UnsplitSweeps

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["CompactMidpointRun", "CompactRun"]

#: Without ``rtol`` the tolerance of a step is this multiple of the error of the grid: without an interaction, where the
#: flow contracts what a step has missed, and with one; on several axes, whose steps of order 6 miss a small part of
#: what they estimate;
SHARE, SHARE_OF_FIELD, SHARE_OF_LADDER = 3.0, 1.0, 12.0
#: but at least and at most these.
TIGHTEST, LOOSEST = 1e-10, 5e-3
#: On several axes, what the errors of all steps may add up to before steps become more accurate.
BUDGET = 0.02
#: In stiff valleys steps of order 6 miss more of what they estimate than others: less is left to them at least.
LEFT_TO_LADDER = 0.005
#: A step grows at once by no more than this factor, and with an interaction by less, so that the fields of the past
#: still serve.
GROWTH_LIMIT, CALM_GROWTH = 4.0, 2.0
#: The first step of order 6 is longer than one of order 3 by about this factor.
LADDER_LENGTH = 3.4
#: Steps of order 6 that a run without ``rtol`` takes at least: with fewer the certificate could not judge the equation.
FEWEST_STEPS = 4
#: Steps of a single line that are taken in one compiled call, at most, and numbers that they may take.
BATCH, BATCH_SIZE = 16, 1_000_000


class CompactRun(FiniteVolumeRun):
    """One run of FiniteVolume on values at the centers of cells: where it is, and how it moves on."""

    HOLDS = "values at centers"

    def __init__(self, method: FiniteVolume, flow: Flow):
        super().__init__(method, flow)
        sweeps, scale = cast(CompactSweeps, self.stepper.sweeps), flow.time_scale
        single = sweeps.static and flow.grid.ndim == 1 and sweeps.keeps
        self.loop = Loop(self.stepper, scale) if single and method.tol is None and not callable(scale) else None
        if self.loop is not None:
            sweeps.of_weights = [self.loop.storage[1][1:]]
        if self.controller is not None and self.controller.ladder and method.rtol is None:
            self.longest = min(self.longest, (flow.t1 - flow.t0) / FEWEST_STEPS)
        # The loop with an interaction knows no mobility, which graded axes have, too.
        fast = method.tol is None and method.controlled and flow.mobility is None and not any(sweeps.grid.images)
        self.field_loop = field_loop(self.stepper, scale) if fast else None

    def make_stepper(self, flow: Flow, method: FiniteVolume) -> Stepper:
        self.rule = Unsplit() if method.splitting == "none" and flow.t1 > flow.t0 else Compact()
        return stepper_at_centers(flow, method, self.rule)

    def make_controller(self) -> CompactController:
        calm, method = self.flow.on_grid.moves, self.method
        # On one axis there is no error of splitting, which is what adds up.
        budget = BUDGET if self.flow.grid.ndim > 1 else math.inf
        static = not (self.flow.on_grid.moves or self.flow.energy.time_dependent)
        ladder = static and self.flow.grid.ndim > 1 and method.splitting != "none"
        share = SHARE_OF_FIELD if calm else SHARE_OF_LADDER if ladder else SHARE
        tolerance = Tolerance(method.rtol, method.tol, share, TIGHTEST, LOOSEST, budget,
                              LEFT_TO_LADDER if ladder else BUDGET_LEFT)
        return CompactController(tolerance, calm, ladder)

    def advance(self, stop: float) -> Iterator[Step | Steps]:
        if self.method.dt is not None:
            self.rule.wanted = self.flow.allowed_error
            yield from self._fixed(self.method.dt, stop)
            return
        control = self.controller
        if not control.begun:
            control.begin(self.flow.t1 - self.flow.t0, self._speed(), self._space_error(self.state))
        loop = self.loop or self.field_loop
        found = loop.steps(self, stop) if loop is not None and not self.rejections else None
        if found is None:
            yield from self._one(control, stop)
            return
        steps, last = found
        if self.room == 1:
            yield self._commit(last, False, steps.rate[-1])
        else:
            # Several at once are recorded so, where none looks at each of them.
            self._go_on(last, len(steps.t))
            self.measured = last.energy - last.work
            yield steps
        self._watch()

    def _one(self, control: CompactController, stop: float) -> Iterator[Step]:
        """Try one step."""
        remaining = stop - self.state.t
        longest = self._seen(min(remaining, control.dt, self.longest))
        count = max(1, math.ceil(remaining / longest * (1 - 1e-9)))
        dt = remaining / count
        self.check_moves(dt)
        end, self.rule.moved, self.rule.wanted = stop if count == 1 else None, 0.0, control.wanted
        new, fallback = self.stepper.step(self.state, dt, end), False
        if new is None or not control.judge(dt, self.rule.error, self.rule.power, self._space_error(new),
                                            self.flow.t1 - self.state.t):
            self.n_rejected += 1
            self.rejections += 1
            if new is None:
                control.dt = 0.5 * dt
            if new is not None or self.rejections <= MAX_HALVINGS:
                return
            new, fallback = self.stepper.fallback(self.state, dt, end), True
            self.rule.moved = 0.0
        if self.rule.by_ladder and not fallback and not control.high_order:
            control.high_order = True
            self.flow.scheme += HIGH_ORDER
        control.total_error += self.rule.moved
        self.rejections, self.error_estimate = 0, control.total_error
        yield self._commit(new, fallback)
        self._watch()

    def restore(self, saved: dict[str, Any], recorded: dict[str, Any]) -> np.ndarray:
        masses = super().restore(saved, recorded)
        if self.controller is not None and self.controller.high_order:
            self.flow.scheme += HIGH_ORDER
        return masses

    def _speed(self) -> float:
        if self.loop is not None and self.steps == 0:
            return self.loop.scale * self.loop.speed / self.stepper.mass
        return super()._speed()

    def _first_state(self) -> State:
        return self.loop.first if self.loop is not None else super()._first_state()

    def _first_rate(self) -> float:
        return self.loop.rate if self.loop is not None else super()._first_rate()

    def _space_error(self, state: State) -> float:
        if self.loop is not None and self.steps == 0:
            return self.loop.space_error / self.stepper.mass
        return self.stepper.sweeps.space_error(state.masses)


class CompactMidpointRun(FiniteVolumeRun):
    """A run on values at the centers of cells whose field is the average over each step: of second order in time."""

    HOLDS = CompactRun.HOLDS

    def make_stepper(self, flow: Flow, method: FiniteVolume) -> Stepper:
        return stepper_at_centers(flow, method, Midpoint())

    def make_controller(self) -> Controller:
        return Controller(Tolerance(self.method.rtol, self.method.tol, SHARE_OF_FIELD, TIGHTEST, LOOSEST))


def stepper_at_centers(flow: Flow, method: FiniteVolume, rule: FieldRule) -> Stepper:
    """Return the steps of a flow of values at the centers of cells, and let the flow record such laws."""
    rho0 = nodes_of_density(flow.density)
    energy = flow.on_grid.on(rho0.grid)
    nodal = flow.on_law(rho0, energy)
    flow.law = law_of_nodes(flow.density, rho0)
    static, threads = not (energy.moves or flow.energy.time_dependent), method.threads or default_threads()
    diagonal = flow.diagonal_mobility
    directions = None if flow.mobility is None else flow.mobility.directions(flow.grid)
    if directions is not None and diagonal is not None:
        return Stepper(nodal, ObliqueCompactSweeps(node_grid(flow.grid), energy.diffusion, static, threads, directions,
                                                   diagonal), rule)
    kind = UnsplitSweeps if isinstance(rule, Unsplit) else CompactSweeps
    sweeps = kind(node_grid(flow.grid), energy.diffusion, static, threads, diagonal)
    sweeps.sequence = sequence_of_axes(flow)
    return Stepper(nodal, sweeps, rule)


class CompactController:
    """The choice of dt: the local error of each step stays below a tolerance.

    Parameters
    ----------
    tolerance : Tolerance
    calm : bool
        Whether steps grow slowly.
    ladder : bool
        Whether steps are those of order 6 where little error is allowed.

    Attributes
    ----------
    dt : float
        The step to take; 0 before the first.
    wanted : float
        The error that the last step was allowed, or the first.
    total_error : float
        Sum of the error estimates so far.
    high_order : bool
        Whether a step of order 6 has been taken.
    """

    def __init__(self, tolerance: Tolerance, calm: bool, ladder: bool):
        self.tolerance, self.growth, self.ladder = tolerance, CALM_GROWTH if calm else GROWTH_LIMIT, ladder
        self.dt = self.total_error = self.dt_floor = 0.0
        self.wanted, self.high_order = math.inf, False

    @property
    def begun(self) -> bool:
        """Whether the first step is set."""
        return self.dt > 0.0

    def begin(self, span: float, speed: float, space_error: float) -> None:
        """Set the first step from the length of the time span and the initial speed of the density."""
        tolerance = self.tolerance.of_step(space_error, 0.0, 0.1 * span, span)
        first = 0.12 * (tolerance / 1e-5) ** 0.25 / speed if speed > 0 else span
        if self.ladder and tolerance <= LADDER_BELOW:
            first *= LADDER_LENGTH
        self.wanted = tolerance
        self.dt, self.dt_floor = min(span, first), 1e-12 * span

    @property
    def numbers(self) -> np.ndarray:
        """Length, sum of the errors, shortest length and largest growth, as compiled functions take them."""
        return np.array([self.dt, self.total_error, self.dt_floor, self.growth])

    def take(self, numbers: np.ndarray) -> None:
        """Take up what a compiled function has made of the numbers."""
        self.dt, self.total_error = float(numbers[0]), float(numbers[1])

    def judge(self, dt: float, error: float, power: float, space_error: float, remaining: float) -> bool:
        """Accept or reject a step, and set the next one; ``remaining`` is the time from its start to the end."""
        numbers = self.numbers
        self.wanted = self.tolerance.of_step(space_error, self.total_error, dt, remaining)
        good = next_length(numbers, dt, error, power, self.wanted)
        self.take(numbers)
        return bool(good)


class Loop:
    """Steps of a single line with a fixed Psi, many in one compiled call.

    Parameters
    ----------
    stepper : Stepper
    scale : float
        The time_scale.
    """

    def __init__(self, stepper: Stepper, scale: float):
        energy = stepper.flow.on_grid
        self.stepper, self.scale, self.grid, self.diffusion = stepper, scale, energy.grid, energy.diffusion
        # Copies, since compiled functions know arrays that can be written to alone.
        self.mu, masses = energy.energy_potential.copy(), stepper.flow.density.masses.copy()
        n = self.grid.size
        self.storage = np.empty((4, n, 1)), np.empty((2, 5, n, 1))
        sweeps = cast(CompactSweeps, stepper.sweeps)
        mobility, logarithm = sweeps.mobile[0]
        pull = energy.sweep_potential.copy() if logarithm is None else energy.sweep_potential - logarithm
        first, self.rate, self.speed, self.space_error = compact_start(
            masses, pull, mobility, self.mu, self.diffusion, sweeps.grid.steps[0], self.grid.periodic[0], *self.storage)
        self.first = State(stepper.flow.t0, 0.0, masses, first, None, None, 0.0)
        self.batch = max(1, min(BATCH, BATCH_SIZE // n))

    def steps(self, run: CompactRun, stop: float) -> tuple[Steps, State] | None:
        """Return steps towards a time and the state after the last; None where the next one needs more care."""
        state, control, tolerance = run.state, run.controller, run.controller.tolerance
        count = min(self.batch, run.room)
        rows, laws, numbers = np.empty((count, 7)), np.empty((count, self.grid.size)), control.numbers
        rtol = -1.0 if tolerance.rtol is None else tolerance.rtol
        accepted, rejected, _ = compact_steps(
            state.masses, self.mu, self.diffusion, self.grid.periodic[0], self.scale,
            (state.t, stop, run.longest, state.energy, self.stepper.mass), numbers,
            (rtol, tolerance.share, tolerance.tightest, tolerance.loosest), *self.storage, rows, laws)
        control.take(numbers)
        before = run.n_rejected
        run.n_rejected += rejected
        if not accepted:
            return None
        t, lengths, energy, rate, error, refused, least = rows[:accepted].T.tolist()
        clock = list(accumulate(lengths, initial=state.clock))[1:]
        run.error_estimate = error[-1]
        steps = Steps(t, laws[:accepted], energy, clock, rate, error, [before + int(k) for k in refused], least)
        return steps, State(t[-1], clock[-1], laws[accepted - 1], energy[-1], None, None, lengths[-1])
