"""One run of JKO: from the start to the end of a time span."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.errors import ConvergenceError, InvalidInput, WGFlowWarning
from wgflow.flows import Flow
from wgflow.jko_steps import JKOStep
from wgflow.recorder import Step

from ..base import TIME_SLACK, Run
from .convexity import concavity
from .driving import Driving, same
from .restart import flatten, rebuild

if TYPE_CHECKING:
    from .method import JKO

__all__ = ["JKORun"]

#: Rise of F + W2^2 / (2 tau) over F(rho_k), relative to max(1, abs(F)), that round-off explains.
ENERGY_SLACK = 1e-13
#: More time than this multiple of tau (by the mean of time_scale) does not pass by the clock in a step.
FASTER = 4.0
#: A step that misses its tolerance is approached from steps shorter by these factors, the last first.
CONTINUATION = (4.0, 16.0, 64.0)
#: Adaptive steps: halvings in a row after which the run stops.
MAX_HALVINGS = 12
#: Adaptive steps: least factor by which the next step is shorter.
SHRINK = 0.2
#: Adaptive steps: largest factor by which the next step is longer.
GROW = 2.0
#: Adaptive steps: part of the step predicted to meet the tolerance that is taken.
SAFETY = 0.9


class JKORun(Run):
    """One run of JKO: where it is, and how it moves on."""

    method: JKO

    def __init__(self, method: JKO, flow: Flow):
        super().__init__(method, flow)
        self.frozen = flow.on_grid
        self.inner = method.make_inner(self.frozen, flow.grid)
        self.tolerance = self.inner.tolerance
        self.steps, self.clock = 0, 0.0
        self.tau = method.tau
        self.before: JKOStep | None = None
        self.driving = Driving(flow) if flow.energy.time_dependent else None
        # With terms that change with time: F, and the work so far.
        self.total, self.work = 0.0, 0.0
        # How much time may pass by the clock in a step.
        span = flow.t1 - flow.t0
        self.most = FASTER * method.tau * (flow.elapsed(flow.t0, span) / span) if span > 0 else math.inf
        # Steps of equal length: where they began, their number, how many of them are done, and where they end.
        self.row: tuple[float, int, int] = (flow.t0, 0, 0)
        self.goal = flow.t0

    def start(self) -> Step:
        self.inner.check_time = self.check_time
        self.now = self.inner.begin(self.flow.density)
        self.total = self.now.energy
        if math.isfinite(self.now.energy):
            self._warn_of_concavity()
        return Step(self.t, self.now.rho.masses, self.now.energy)

    def _warn_of_concavity(self) -> None:
        """A warning where the first step is longer than convexity allows."""
        dt = min(self.method.tau, self.flow.t1 - self.flow.t0)
        if not dt > 0:
            return
        concave = concavity(self.flow.on_grid, self.flow.grid, self.flow.rho0.mass)
        scaled = self.flow.elapsed(self.flow.t0, dt)
        if scaled * concave > 1.0:
            warnings.warn(f"tau={scaled:.3g} > 1/{concave:.3g}: the minimizer of a step may not be unique, since V and "
                          f"U are so concave somewhere; tau below {dt / (scaled * concave):.3g} is safe", WGFlowWarning,
                          stacklevel=2)

    def restore(self, saved: dict[str, Any], recorded: dict[str, Any]) -> np.ndarray:
        self.t, self.tau, self.clock = (float(saved[name]) for name in ("t", "tau", "clock"))
        self.steps = int(saved["steps"])
        if self.driving is not None:
            self.total, self.work = float(saved["total"]), float(saved["work"])
        begin, count, done = saved["row"]
        self.row = float(begin), int(count), int(done)
        # Files of former versions lack the end, and go on to the stop that they had.
        self.goal = float(saved.get("stop", next((s for s in self.flow.stops if s > self.t), self.flow.t1)))
        self.now = rebuild(saved, "now", self.flow.grid)
        self.before = rebuild(saved, "before", self.flow.grid) if "before" in saved else None
        for step in (self.now, self.before):
            if step is not None:
                self.inner.check_state(step)
        self.inner.check_time = self.check_time
        self.now = self.inner.resume(self.flow.density, self.now)
        return self.now.rho.masses

    def dump(self) -> dict[str, Any]:
        state = {"t": self.t, "tau": self.tau, "clock": self.clock, "steps": self.steps, "row": list(self.row),
                 "stop": self.goal}
        state |= flatten(self.now, "now")
        if self.driving is not None:
            state |= {"total": self.total, "work": self.work}
        if self.before is not None and self.method.order == 2:
            state |= flatten(self.before, "before")
        return state

    def advance(self, stop: float) -> Iterator[Step]:
        if self.method.adaptive:
            yield from self._adaptive(stop - self.t, self._count(stop - self.t), stop)
        else:
            yield self._fixed(stop)

    def _count(self, remaining: float) -> int:
        return max(1, math.ceil(remaining / self.tau * (1 - 1e-9)))

    def _fixed(self, stop: float) -> Step:
        """The next of the steps of equal length to the next stop."""
        begin, count, done = self.row
        if done >= count or stop != self.goal:
            begin, count, done, self.goal = self.t, self._count(stop - self.t), 0, stop
        k = done + 1
        self.row = begin, count, done
        target = stop if k == count else begin + (stop - begin) * (k / count)
        end = self._followed(target)
        self.check_moves(end - self.t)
        scaled = self.flow.elapsed(self.t, end - self.t)
        if self.driving is not None:
            self._freeze(self.driving, end)
        new, fell = self._solve(self.now, self.before, scaled, end - self.t)
        self.row = begin, count, k if end == target else done
        return self._commit(new, fell, end)

    def _followed(self, target: float) -> float:
        """Return the end of a step to a time, or of a part of it where the clock runs fast or terms change."""
        dt = target - self.t
        if self.flow.clock is not None:
            parts = math.ceil(self.flow.elapsed(self.t, dt) / self.most * (1 - TIME_SLACK))
            if parts > 1:
                return self.flow.time_within(self.t, dt, 1.0 / parts)
        if self.driving is not None:
            parts = math.ceil(dt / self.driving.longest(self.t, dt, self.now.rho.masses) * (1 - TIME_SLACK))
            if parts > 1:
                return self.t + dt / parts
        return target

    def _freeze(self, driving: Driving, end: float) -> None:
        """Take the mean of the energy over the coming step as the energy."""
        parts = driving.mean(self.t, end)
        if not same(parts, self.frozen):
            self.frozen, self.inner = parts, self.method.make_inner(parts, self.flow.grid)
            self.inner.check_time = self.check_time
            self.now = self.inner.resume(self.flow.density, self.now)
        self.now = replace(self.now, energy=self.inner.energy_of(self.now))

    def _with_work(self, driving: Driving, new: JKOStep, t: float) -> float:
        """Return F after a step, and count what is not the step's own as work."""
        masses = new.rho.masses
        total = new.energy + driving.energy(masses, t) - self.frozen.energy(masses)
        self.work += total - self.total - (new.energy - self.now.energy)
        self.total = total
        return total

    def _adaptive(self, remaining: float, count: int, stop: float) -> Iterator[Step]:
        """Two steps against one of double length."""
        count += count % 2
        failure: ConvergenceError | None = None
        for _ in range(MAX_HALVINGS):
            dt = remaining / count
            self.check_moves(dt)
            middle, end = self.t + dt, stop if count == 2 else self.t + 2 * dt
            halves = self.flow.elapsed(self.t, dt), self.flow.elapsed(middle, end - middle)
            try:
                whole, _ = self._solve(self.now, self.before, sum(halves), 2 * dt)
                first, fell = self._solve(self.now, self.before, halves[0], dt)
                second, fell2 = self._solve(first, self.now, halves[1], dt)
            except ConvergenceError as missed:
                if missed.reason in ("callback", "time limit"):
                    raise
                error, failure = math.inf, missed
            else:
                error, failure = self._distance(whole, second) / self.method.rtol, None
            factor = SAFETY * max(error, 1e-12) ** (-1.0 / (self.method.order + 1))
            if error <= 1.0:
                yield self._commit(first, fell, middle)
                self.error_estimate = (self.error_estimate or 0.0) + error * self.method.rtol
                self.tau = min(self.method.tau, dt * min(GROW, max(SHRINK, factor)))
                yield self._commit(second, fell2, end)
                return
            self.n_rejected += 1
            count *= 2 if error < 4.0 else 4
        if failure is not None:
            raise failure
        raise ConvergenceError(f"step too small: at t = {self.t:.6g} even dt = {dt:.3g} misses rtol="
                               f"{self.method.rtol:g}; loosen rtol", reason="step too small", t=self.t, dt=dt)

    def _distance(self, first: JKOStep, second: JKOStep) -> float:
        """Distance of two densities relative to their spread."""
        squared = self.inner.distance_squared(first, second)
        variance = float(np.trace(np.atleast_2d(second.rho.cov()))) * second.rho.mass
        if math.isnan(squared):
            raise InvalidInput(f"adaptive: inner={self.inner.settings.NAME!r} does not compare densities by their "
                               "distance; use fixed steps or inner='quantile'")
        return math.sqrt(squared / max(variance, 1e-300))

    # ---------------------------------------------------------------- one step
    def _solve(self, now: JKOStep, before: JKOStep | None, scaled: float, dt: float) -> tuple[JKOStep, bool]:
        """A step that passes every check, and whether it is another one than was asked for: a plain step in place of
        one of second order, or one of another scheme."""
        if self.method.order == 2 and before is not None:
            ratio = scaled / now.tau
            start = self.inner.extrapolate(before, now, ratio * ratio / (1 + 2 * ratio))
            if start is None:
                return self._plain(now, scaled, dt)[0], True
            new = self.inner.step(start, scaled * (1 + ratio) / (1 + 2 * ratio))
            if new.residual <= self.tolerance and new.energy <= now.energy + self._slack(now):
                return _of_length(new, scaled, self.inner.distance_squared(now, new)), False
            return self._plain(now, scaled, dt)[0], True
        return self._plain(now, scaled, dt)

    def _plain(self, now: JKOStep, scaled: float, dt: float) -> tuple[JKOStep, bool]:
        """A step of first order, and whether another scheme than the one asked for has taken it."""
        new, other = self.inner.step(now, scaled), None
        if not new.residual <= self.tolerance:
            new = self._continue(now, scaled, new)
        if not new.residual <= self.tolerance:
            other = self.inner.substitute(now, scaled)
            new = new if other is None else other
        where = f"the JKO step from t = {self.t:.6g}, tau = {dt:.4g} (inner={self.inner.settings.NAME!r})"
        if not new.residual <= self.tolerance:
            raise _failure(f"{where} stopped at residual {new.residual:.2e} after {new.iterations} iterations, "
                           f"tolerance {self.tolerance:.2e}; {self.inner.remedy(new)}",
                           "tolerance", new, self.t, dt)
        allowed = max(self._slack(now), new.gap or 0.0, new.round_off or 0.0) + _blur(new)
        if not self._excess(now, new) <= allowed:
            raise _failure(f"{where} breaks F(k+1) + W2^2/(2 tau) <= F(k) by {self._excess(now, new):.2e}; take a "
                           "smaller tau or tol", "energy increase", new, self.t, dt)
        return new, other is not None

    def _continue(self, now: JKOStep, scaled: float, missed: JKOStep) -> JKOStep:
        """Approach a step that missed its tolerance from shorter ones; the best iterate if that does not help."""
        best, guess = missed, None
        for factor in sorted(CONTINUATION, reverse=True):
            shorter = self.inner.step(now, scaled / factor, guess)
            if shorter.residual <= self.tolerance:
                guess = shorter
        if guess is not None:
            new = self.inner.step(now, scaled, guess)
            best = new if new.residual < best.residual else best
        return best

    def _excess(self, now: JKOStep, new: JKOStep) -> float:
        return new.energy + new.w2_squared / (2.0 * new.tau) - now.energy

    def _slack(self, now: JKOStep) -> float:
        return ENERGY_SLACK * max(1.0, abs(now.energy))

    def _commit(self, new: JKOStep, fallback: bool, t: float) -> Step:
        """Go on to a step that was solved; return what is recorded of it."""
        rate = new.w2_squared / new.tau**2 if new.dissipation is None else new.dissipation
        # Without an estimate of the bias, the length of the blur is the best one there is.
        bias = new.blur_length if new.bias is None else new.bias
        excess = None
        if self.method.order == 1:
            excess = float(self._excess(self.now, new) - _blur(new)) / max(1.0, abs(self.now.energy))
        energy = new.energy if self.driving is None else self._with_work(self.driving, new, t)
        self.clock += new.tau
        self.before, self.now, self.t = self.now, new, t
        self.steps += 1
        return Step(t, new.rho.masses, energy, self.clock, rate if math.isfinite(rate) else None, work=self.work,
                    fallback=fallback, residual=float(new.residual), bias=None if bias is None else float(bias),
                    excess=excess, jko=new.summary())


def _of_length(step: JKOStep, tau: float, w2_squared: float) -> JKOStep:
    """Return a BDF2 step with the length and the distance from the density before it, not from where it started."""
    return replace(step, tau=tau, w2_squared=w2_squared)


def _blur(step: JKOStep) -> float:
    """Return the most that regularization may add to the energy of a step."""
    return max(0.0, step.blur or 0.0)


def _failure(message: str, reason: str, best: JKOStep, t: float, dt: float) -> ConvergenceError:
    error = ConvergenceError(message, reason=reason, t=t, dt=dt)
    vars(error)["best"] = best
    return error
