"""The run of `Lagrangian` without noise: atoms follow the characteristics of the flow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgflow.certificate import ENERGY_TOLERANCE
from wgflow.errors import ConvergenceError
from wgflow.flows import Flow
from wgflow.interactions.terms import PairTerm
from wgflow.recorder import Interior, Step

from ..base import Run
from .at_bounds import held_velocity
from .at_rest import last_step
from .cloud import Cloud
from .driving import Driving

if TYPE_CHECKING:
    from .method import Lagrangian

__all__ = ["CharacteristicsRun"]

Array = NDArray[np.float64]

#: Solvers of SciPy by name, with the evaluations of an attempted step; 0 if their number varies.
ODE = {"DOP853": 12, "RK45": 6, "RK23": 3, "Radau": 0, "BDF": 0, "LSODA": 0}
#: Steps shorter than this, relative to the times of the run, end it: they cannot be resolved.
SMALLEST_STEP = 1e-14
#: Distance from their center, in units of the error that a step may have, at which atoms that have met are joined.
JOINED = 2.0
#: Atoms with several coordinates, up to which all pairs are looked at for a meeting.
MOST_PAIRED = 2000
#: The next step is at most this multiple of the one that the solver means to take.
GROWTH = 10.0
#: Places inside a step at which laws are told, for snapshots where there are no output times; and the part of the
#: width of all atoms that one has moved in steps with output times inside which they are told for the audit.
BETWEEN, FAR = (0.25, 0.5, 0.75), 0.1
#: Steps as long as the last one up to a stop, beside one for each coordinate, from which on rest is looked for.
MANY_LEFT = 200
#: Steps so still after which rest is first looked for; twice as many each time.
FIRST_LOOK = 20
#: Tolerances that an atom's way in a step, a few times its distance from rest, is at most where it may rest.
STILL = 10.0


class CharacteristicsRun(Run):
    """A run without noise; its state is the points, row by row, and the energy dissipated so far.

    With a time_scale function the solver goes by its clock, on which the flow is autonomous, so that no pulse of it is
    passed over.
    """

    method: Lagrangian

    def __init__(self, method: Lagrangian, flow: Flow):
        from scipy import integrate

        super().__init__(method, flow)
        self.cloud = Cloud(flow)
        self.Solver = getattr(integrate, method.ode)
        self.shape, self.weights = flow.atoms.points.shape, flow.atoms.weights
        self.points, self.lost = self.cloud.inside(flow.atoms.points), 0.0
        self.next_dt: float | None = None
        self.failure: Exception | None = None
        self.paired = self.shape[1] <= MOST_PAIRED and any(
            isinstance(term, PairTerm) and term.singles_out_pairs for _, term in flow.energy.terms)
        self.driving = Driving(flow, self.cloud) if flow.drive is not None else None
        self.work = 0.0
        # The current solver, the time at which it ends, and its longest step.
        self.solver, self.stop, self.largest = None, flow.t0, math.inf
        # Where the clock of the solver begins.
        self.origin = flow.t0
        # Steps until rest is looked for once more.
        self.patience = self.waiting = FIRST_LOOK

    def start(self) -> Step:
        self.energy = self.lowest = self.cloud.energy_of(self.points, self.flow.sides(self.t)[1])
        scale = np.abs(self.points).max(axis=1)
        sizes = np.repeat(np.where(scale > 0, scale, 1.0), self.shape[1])
        self.atol = self.method.rtol * np.append(sizes, max(1.0, abs(self.energy)))
        return Step(self.t, self.points, self.energy)

    def advance(self, stop: float) -> Iterator[Step | Interior]:
        if self.stop != stop:
            self.solver, self.stop, self.largest = None, stop, self.method.dt or math.inf
        if self.driving is not None:
            self._follow(self.driving, stop)
        elif (last := self._to_rest(stop)) is not None:
            yield last
            return
        if self.solver is None:
            self.solver = self._start(stop, self.largest)
        solver: Any = self.solver
        before = solver.nfev
        message = solver.step()
        if self.failure is not None:
            raise self.failure
        if solver.status == "failed":
            raise ConvergenceError(f"step too small at t = {self.t:.6g} ({message}); the flow changes faster than "
                                   "floats can resolve, or the energy is not finite where atoms move",
                                   reason="step too small", t=self.t)
        self._count_rejected(solver.nfev - before)
        t = stop if solver.status == "finished" else self._time(solver.t)
        moved = solver.y[:-1].reshape(self.shape)
        # Beyond a bound, where atoms go on until the end of the step, they overtake those that rest on it: no meeting.
        met = self._met(np.clip(moved, self.cloud.low, self.cloud.high) if self.cloud.bounded else moved)
        if met is not None:
            if not self._may_join(moved, met):
                self.largest, self.solver = self._halve(0.5 * (t - self.t)), None
                return
            moved = self._joined(moved, met)
        points = self.cloud.inside(moved)
        if self.cloud.mixed and self._passed(solver, moved, points):
            return
        energy = self.cloud.energy_of(points, self.flow.sides(t)[0])
        work = 0.0 if self.driving is None else self._work(self.driving, solver, t)
        if not self._acceptable(t, points, energy - work):
            self.largest, self.solver = self._halve(0.5 * (t - self.t)), None
            return
        far = not self.flow.t_eval or float(np.abs(moved - self.points).max()) > FAR * float(np.ptp(self.points))
        # Forces jump where atoms meet: the solver's interpolation is far off before they have settled at the end.
        if far and met is None:
            yield from self._within(solver)
        landed = self.cloud.bounded and not np.array_equal(np.clip(moved, self.cloud.low, self.cloud.high), moved)
        dt, self.lost = self._length(t - self.t), float(solver.y[-1])
        if self.driving is not None:
            jump = self.driving.jump(points, t)
            energy, work, self.lowest = energy + jump, work + jump, energy + jump
        self.t, self.points, self.energy, self.lowest = t, points, energy, min(energy, self.lowest)
        self.work += work
        natural = getattr(solver, "h_abs", None) or solver.step_size
        self.next_dt = max(natural, dt) if t == stop and self.next_dt else natural
        shortened = math.isfinite(self.largest) and self.largest != self.method.dt
        if landed or met is not None or self.released or shortened:
            self.solver, self.largest = None, self.method.dt or math.inf
        yield Step(t, points, energy, dissipated=self.lost, work=self.work)

    def _to_rest(self, stop: float) -> Step | None:
        """Return the step to a stop where many would be left up to it in which the atoms hardly move."""
        velocity = getattr(self.solver, "f", None)
        if velocity is None or self.flow.mobility is not None or self.method.dt is not None or not self.next_dt:
            return None
        left, size = self._length(stop - self.t), self.points.size
        tolerance = JOINED * math.sqrt(size) * float(self.atol[:-1].min())
        way = float(np.abs(velocity[:-1]).max()) * self.next_dt
        if not (left > (MANY_LEFT + size) * self.next_dt and way <= STILL * tolerance):
            return None
        self.waiting -= 1
        if self.waiting > 0:
            return None
        # Looking costs about as many evaluations as there are coordinates: seldom, the longer it is in vain.
        self.patience *= 2
        self.waiting = self.patience
        sizes = self.atol[:-1].reshape(self.shape)[:, 0] / self.method.rtol
        last = last_step(self.flow, self.cloud, self.points, self.flow.elapsed(self.t, stop - self.t), self.t, sizes,
                         tolerance)
        if last is None:
            return None
        energy = self.cloud.energy_of(last.points, stop)
        if not self._acceptable(stop, last.points, energy):
            return None
        self.flow.scheme = self.flow.scheme or (
            f"{self.method.ode} until t = {self.t:.6g}, where all atoms rest to its tolerance, then one step to each "
            "output time by the linear flow")
        self.t, self.points, self.energy, self.lowest = stop, last.points, energy, min(energy, self.lowest)
        self.lost += last.dissipated
        self.solver, self.waiting = None, 0
        return Step(stop, self.points, energy, dissipated=self.lost, work=self.work)

    def _passed(self, solver, moved: Array, points: Array) -> bool:
        """Return whether atoms went past a bound, which with mixed terms turns all their components; end there then."""
        most = JOINED * math.sqrt(moved.size) * float(self.atol[:-1].min())
        if float(np.abs(moved - points).max()) <= most:
            return False
        path = solver.dense_output()
        low, high = path.t_old, path.t
        while low < 0.5 * (low + high) < high:
            middle = 0.5 * (low + high)
            there = path(middle)[:-1].reshape(self.shape)
            # A little beyond the bound, so that the next attempt does reach it.
            beyond = np.abs(there - np.clip(there, self.cloud.low, self.cloud.high)).max()
            low, high = (low, middle) if beyond > 0.5 * most else (middle, high)
        if high == path.t:
            return False
        self.reason = "step too small"
        self.largest, self.solver = self._halve(self._time(high) - self.t), None
        return True

    def _follow(self, driving: Driving, stop: float) -> None:
        """Start again with shorter steps where the next one, however it grows, would not follow the driving."""
        ahead = stop - self.t
        if self.next_dt is not None:
            ahead = min(ahead, self._ahead(GROWTH * self.next_dt))
        longest = driving.longest(self.t, min(ahead, self.largest), self.points)
        if longest < min(ahead, self.largest):
            self.solver, self.largest = None, longest

    def _work(self, driving: Driving, solver, end: float) -> float:
        path = solver.dense_output()

        def law_at(t: float) -> Array:
            place = t if self.flow.clock is None else self.flow.elapsed(self.origin, t - self.origin)
            return self.cloud.inside(path(place)[:-1].reshape(self.shape))

        return driving.work(law_at, self.t, end)

    def _ahead(self, length: float) -> float:
        """Return a length as the solver counts it as one of time from now on, at least."""
        return length if self.flow.clock is None else length / self.flow.scale_at(self.t)

    def _met(self, moved: Array) -> Array | None:
        """Return the number of a group for each atom, one for all that have met in the step; None for no meeting.

        Two atoms have met if the way from one to the other has turned round: on the line they have changed places. At
        one place they have one velocity, and move as one from there on. With several coordinates all pairs are
        looked at, and so only for kernels between pairs, whose forces may jump where two atoms meet.
        """
        if self.shape[0] == 1:
            order = np.argsort(self.points[0], kind="stable")
            line = moved[0, order]
            ahead = np.maximum.accumulate(line)
            if (line >= ahead).all():
                return None
            behind = np.minimum.accumulate(line[::-1])[::-1]
            groups = np.empty(line.size, dtype=int)
            groups[order] = np.concatenate([[0], np.cumsum(ahead[:-1] <= behind[1:])])
            return groups
        if not self.paired:
            return None
        turned = sum((np.subtract.outer(x, x) * np.subtract.outer(y, y) for x, y in zip(self.points, moved)),
                     np.zeros((self.shape[1],) * 2)) < 0
        if not turned.any():
            return None
        from scipy.sparse import csgraph, csr_array

        return csgraph.connected_components(csr_array(turned), directed=False)[1]

    def _may_join(self, moved: Array, groups: Array) -> bool:
        """Return whether no atom is farther from the center of its group than the tolerance."""
        # SciPy bounds the root mean square of the errors of all coordinates.
        tolerance = JOINED * math.sqrt(moved.size) * float(self.atol[:-1].min())
        return float(np.abs(self._joined(moved, groups) - moved).max()) <= tolerance

    def _joined(self, moved: Array, groups: Array) -> Array:
        """Return the atoms with each group at its center of mass."""
        mass = np.bincount(groups, self.weights)
        alone = (np.bincount(groups) == 1)[groups]
        centers = np.array([np.bincount(groups, self.weights * x) / mass for x in moved])
        return np.where(alone, moved, centers[:, groups])

    def _within(self, solver) -> Iterator[Interior]:
        """Return the laws inside a step, which may be long, from the solver's own interpolation."""
        path = solver.dense_output()
        for share in BETWEEN:
            place = path.t_old + share * (path.t - path.t_old)
            t, points = self._time(place), self.cloud.inside(path(place)[:-1].reshape(self.shape))
            yield Interior(t, points, math.nan if self.flow.t_eval else self.cloud.energy_of(points, t))

    def _start(self, stop: float, largest: float):
        """Return a solver from the present state; components that press against a bound stay held while it runs."""
        self.held, _ = self.cloud.resting(self.points, self.flow.sides(self.t)[1])
        self.any_held = bool(self.held.any())
        self.released = False
        y = np.append(self.points.ravel(), self.lost)
        begin, end, self.origin = self.t, stop, self.t
        if self.flow.clock is not None:
            begin, end = 0.0, self._length(stop - self.t)
            largest = self._length(largest) if largest < stop - self.t else math.inf
        span = end - begin
        first = None if self.next_dt is None else min(self.next_dt, largest, span)
        with np.errstate(all="ignore"):
            return self.Solver(self._rate, begin, y, end, first_step=first, rtol=self.method.rtol, atol=self.atol,
                               max_step=min(largest, span) if math.isfinite(largest) else np.inf)

    def _length(self, dt: float) -> float:
        """Return a length of time from now on as the solver counts it."""
        return dt if self.flow.clock is None else self.flow.elapsed(self.t, dt)

    def _time(self, place: float) -> float:
        """Return the time at which the solver is somewhere."""
        if self.flow.clock is None:
            return place
        whole = self.stop - self.origin
        return self.flow.time_within(self.origin, whole, place / self.flow.elapsed(self.origin, whole))

    def _rate(self, t: float, y: Array) -> Array:
        try:
            points = y[:-1].reshape(self.shape)
            scale = self.flow.scale_at(t) if self.flow.clock is None else 1.0
            if self.driving is not None:
                # Jumps at the ends of the stretch lie outside it.
                t = min(max(self._time(t), self.flow.sides(self.origin)[1]), self.flow.sides(self.stop)[0])
            inside = self.cloud.inside(points)
            force = -self.cloud.gradient(inside, t)
            if self.any_held and self.cloud.mixed:
                velocity, _ = held_velocity(self.cloud.matrices(inside), force, self.held)
            else:
                velocity = force if self.flow.mobility is None else self.cloud.moved(inside, force)
        except Exception as error:  # an exception must not travel through SciPy's compiled solvers
            self.failure = self.failure or error
            return np.full(y.shape, np.nan)
        if self.any_held:
            velocity[self.held] = 0.0
        square = velocity * (velocity if self.flow.mobility is None else force)
        if self.cloud.bounded:
            # Components that leave the bounds within this step continue smoothly, and are clipped at its end.
            square[self.cloud.outward(points, velocity)] = 0.0
        return scale * np.append(velocity.ravel(), (self.weights * square.sum(axis=0)).sum())

    def _acceptable(self, t: float, points: Array, energy: float) -> bool:
        """Return whether F has not risen, and no held component should have left its bound within the step."""
        self.released = False
        # Compared with the lowest value so far: small rises in each of many steps would add up.
        if not energy <= self.lowest + 0.5 * ENERGY_TOLERANCE * max(1.0, abs(self.energy)):
            self.reason = "energy increase" if math.isfinite(energy) else "non-finite"
            return False
        if self.any_held:
            held, velocity = self.cloud.resting(points, self.flow.sides(t)[0])
            leaving = self.held & ~held & (velocity != 0)
            if leaving.any():
                missed = 0.5 * float(np.abs(velocity[leaving]).max()) * self.flow.elapsed(self.t, t - self.t)
                self.reason, self.released = "step too small", True
                return missed <= float(self.atol[:-1].min())
        return True

    def _halve(self, dt: float) -> float:
        self.n_rejected += 1
        if not dt > SMALLEST_STEP * max(abs(self.t), abs(self.flow.t1 - self.flow.t0)):
            text = {"energy increase": "the free energy rises however short the step: does a given gradient belong "
                                       "to its function?",
                    "non-finite": "the energy is not finite where atoms move",
                    "step too small": "atoms leave their bounds faster than floats can resolve"}[self.reason]
            raise ConvergenceError(f"step too small at t = {self.t:.6g}: {text}", reason=self.reason, t=self.t, dt=dt)
        self.next_dt = self._length(dt)
        return dt

    def _count_rejected(self, evaluations: int) -> None:
        """Count the attempts that the solver itself rejected, as far as its number of evaluations shows them."""
        attempt = ODE[self.method.ode]
        if attempt:
            self.n_rejected += max(0, evaluations // attempt - 1)
