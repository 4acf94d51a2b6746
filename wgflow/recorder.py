"""Recorders: what collects the accepted steps of a run, and makes the Solution and its certificate of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from wgflow.atoms import Atoms
from wgflow.audit.atom_listener import AtomAudit
from wgflow.audit.listener import Audit
from wgflow.audit.open_ends import Outermost, Outside, goes_on
from wgflow.audit.resolution import unresolved
from wgflow.audit.sealing import LITTLE_OUTSIDE, audited, outside_at
from wgflow.audit.step_record import StepRecord
from wgflow.calls.memory import SNAPSHOTS, room_for_snapshots
from wgflow.certificate import (
    Certificate,
    boundary_mass,
    library_versions,
    of_sample,
)
from wgflow.densities import Density
from wgflow.energies.on_grid import TINY
from wgflow.files.streams import SnapshotStream, StoredLaws
from wgflow.solution import History, Solution
from wgflow.watching.steps import Interior, Step, Steps

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.solvers.base import Method, Run
    from wgflow.watching.watch import Watch

__all__ = ["Interior", "Recorder", "Step", "Steps"]

#: Relative rounding of an energy, a sum over cells, as a part of the sum of the sizes of its terms.
ROUNDING = 1e-13
#: What lies beyond the ends is estimated anew where what lies at them has grown by this factor.
GROWN = 2.0


class Recorder:
    """Collects accepted steps while a method runs, and makes the Solution of them.

    Parameters
    ----------
    flow : Flow
        The problem.
    method : Method
    report : callable, optional
        Told the time after each accepted step (a progress bar).
    watch : Watch, optional
        What is called after each accepted step, and may end the run.

    Attributes
    ----------
    stopped : str
        Why the run was ended before its time span, in words; empty where it was not.
    """

    COUNTERS = ("stride", "since_snapshot", "n_rejected", "n_fallback", "dissipated", "boundary", "residual",
                "error_estimate", "grid_error", "edi_defect", "bias", "_last_rate", "least", "most", "outside",
                "outside_at", "outermost", "n_rates")
    #: Counters that files of former versions lack, and the values they have then.
    ADDED = MappingProxyType({"least": None, "most": None, "outside": 0.0, "outside_at": "", "outermost": 0.0,
                              "n_rates": None})

    def __init__(self, flow: Flow, method: Method, report: Callable[[float], None] | None = None,
                 watch: Watch | None = None):
        self.flow, self.method, self.report, self.watch, self.stopped = flow, method, report, watch, ""
        self.settings = method.settings()
        # What a method that is not told of changes may miss is looked for in every single step.
        self.steps = StepRecord(whole=flow.drive is not None and not method.follows)
        self.snapshots: list[tuple[float, np.ndarray, float]] | SnapshotStream = (
            [] if flow.stream is None else flow.stream)
        self.stride, self.since_snapshot = 1, 0
        self.n_rejected = self.n_fallback = 0
        self.dissipated = self.boundary = self.residual = 0.0
        # Bounds of the dissipation integrated; None where it is not known at the start.
        self.least: float | None = None
        self.most: float | None = None
        self.error_estimate: float | None = None
        self.grid_error: float | None = None
        self._last_rate: tuple[float, float] | None = None
        # After how many steps the dissipation was formed; None where a file of former versions does not tell.
        self.n_rates: int | None = 0
        # What is estimated to lie beyond ends that stand for infinity; what lay at them when that was done last.
        self.outside, self.outside_at, self.outermost = 0.0, "", 0.0
        self.has_open_ends = any(map(any, flow.open_ends))
        self.ends = Outermost(flow.grid) if self.has_open_ends and flow.has_grid else None
        self.even_volume: float | None = None
        if flow.has_grid and all(flow.grid.uniform):
            self.even_volume = flow.grid.volumes.item(0)
        self.jko_steps: list = []
        self.edi_defect: float | None = None
        self.bias: float | None = None
        self.audit: Audit | AtomAudit
        if not flow.has_grid:
            self.audit = AtomAudit(flow)
        else:
            # On three axes, and where it is asked for, JKO is solved with a distance that is linear near each step.
            options = self.settings.get("options") or {}
            self.audit = Audit(flow, options.get("metric") == "linear" or flow.grid.ndim > 2)

    def start(self, first: Step) -> None:
        """Record the initial state, a step of length 0."""
        self._append(first, 0.0)
        self.boundary = self.at_boundary(first.law)
        self._look_outside(first.t, first.law)
        if first.rate is not None:
            self.least = self.most = 0.0
            self.rate(0.0, first.rate)
        self.audit.start(first)
        if not self.flow.t_eval or self.flow.t_eval[0] == self.flow.t0:
            self.snapshots.append((self.flow.t0, first.law.copy(), first.energy))

    def step(self, step: Step) -> None:
        """Record an accepted step."""
        self.n_fallback += step.fallback
        self.residual = max(self.residual, step.residual)
        if step.bias is not None:
            self.bias = (self.bias or 0.0) + step.bias
        if step.excess is not None:
            self.edi_defect = max(self.edi_defect or 0.0, step.excess)
        if step.dissipated is not None:
            self.dissipated = step.dissipated
        if step.rate is not None:
            self.n_rates = None if self.n_rates is None else self.n_rates + 1
            if self._last_rate is None:
                # Nothing is known of the start: the first value stands for it.
                self.rate(0.0, step.rate)
            elif step.inside is not None:
                self.rate(0.5 * (self._last_rate[0] + step.clock), step.inside)
            if step.rate_before is not None:
                self.rate(step.clock, step.rate_before)
            self.rate(step.clock, step.rate)
        if step.jko is not None:
            self.jko_steps.append(step.jko)
            # Each of them is told with its step.
            self.steps.whole = True
        self._append(step, step.t - self.steps.latest("t"))
        self._look_outside(step.t, step.law)
        self.audit.step(step, self.error_estimate)
        self._keep(step.t, step.law, step.energy, step.fresh)

    def several(self, steps: Steps) -> None:
        """Record several accepted steps, as `step` records each of them."""
        laws, count = steps.laws, len(steps.t)
        if self._last_rate is None:
            self.rate(0.0, steps.rate[0])
        for clock, value in zip(steps.clock, steps.rate):
            self.rate(clock, value)
        self.n_rates = None if self.n_rates is None else self.n_rates + count
        volume, before = self.even_volume, self.steps.latest("t")
        least = [mass / volume for mass in steps.least] if volume is not None else (
            (laws / self.flow.grid.volumes).min(axis=1).tolist())
        self.steps.extend({
            "t": steps.t, "dt": [after - start for start, after in zip((before, *steps.t), steps.t)],
            "energy": steps.energy, "mass": laws.sum(axis=1).tolist(), "min_density": least,
            "rejected": steps.rejected, "fallback": [False] * count, "work": [0.0] * count})
        if self.ends is not None and self._is_news(self.ends.most_of_several(laws)):
            for t, law in zip(steps.t, laws):
                self._look_outside(t, law)
        # Only methods on a grid take several steps at once.
        audit = cast(Audit, self.audit)
        for t, law, energy, error in zip(steps.t, laws, steps.energy, steps.error):
            audit.take(t, law, error)
            self._keep(t, law, energy)
        self.last_masses = laws[-1]
        self.n_rejected, self.error_estimate = steps.rejected[-1], steps.error[-1]

    def needs_rate(self, step: Step) -> bool:
        """Return whether the dissipation is integrated from its values, and a step, if it is the last, lacks one."""
        return step.rate is None and self._last_rate is not None

    def end(self, words: str, last: Step, rate: float | None) -> None:
        """Take a step as the end of the run; ``rate`` is the dissipation there, where the step does not tell it."""
        self.stopped = words
        if rate is not None:
            self.n_rates = None if self.n_rates is None else self.n_rates + 1
            self.rate(last.clock, rate)
        self.audit.end(last, self.error_estimate)

    def take(self, run: Run) -> None:
        """Note what a run says of itself so far."""
        self.n_rejected, self.error_estimate, self.grid_error = run.n_rejected, run.error_estimate, run.grid_error

    def within(self, inside: Interior) -> None:
        """Record a law inside the coming step, if the method chooses the snapshots."""
        self.audit.within(inside.t, inside.law)
        if self.flow.t_eval:
            return
        self.since_snapshot += 1
        if self.since_snapshot >= self.stride:
            self._snapshot(inside.t, inside.law, inside.energy)

    def rate(self, scaled_time: float, value: float) -> None:
        """Add the dissipation at a time (measured by the integral of time_scale) to its integral.

        Between two values the logarithmic mean is taken: exact for exponential decay, and calm where an initial
        density with empty cells dissipates at a huge rate for an instant.
        """
        if self._last_rate is not None:
            before_time, before = self._last_rate
            length = scaled_time - before_time
            self.dissipated += length * _logarithmic_mean(before, value)
            if self.least is not None and self.most is not None:
                self.least += length * min(before, value)
                self.most += length * max(before, value)
        self._last_rate = (scaled_time, value)

    def dump(self) -> dict:
        """What has been recorded: numbers, and lists of which only the first ``rows`` and ``n_snapshots`` are meant."""
        return {**self.steps.dump(), "snapshots": self.snapshots,
                "n_snapshots": len(self.snapshots), "jko_steps": self.jko_steps, "n_jko_steps": len(self.jko_steps),
                "audit": self.audit.dump(),
                **{name: getattr(self, name) for name in self.COUNTERS}}

    def restore(self, saved: dict, masses) -> None:
        """Take up what `dump` gave, and the masses that were recorded last."""
        self.steps.restore(saved["columns"], saved["of_steps"])
        self.snapshots, self.last_masses = saved["snapshots"], masses
        self.jko_steps = list(saved["jko_steps"])
        for name in self.COUNTERS:
            setattr(self, name, saved.get(name, self.ADDED[name]) if name in self.ADDED else saved[name])
        self.audit.restore(saved.get("audit"), masses)

    def solution(self, status: int, message: str) -> Solution:
        """The Solution of what has been recorded."""
        if (status != 0 or self.stopped) and self.steps.count and (
                not self.snapshots or self.steps.latest("t") != self.snapshots[-1][0]):
            self._snapshot(self.steps.latest("t"), self.last_masses, self.steps.latest("energy"))
        densities: Sequence[Any] = StoredLaws(self.flow.stream, self._kept) if self.flow.stream is not None else [
            self._kept(k, state) for k, (_, state, _) in enumerate(self.snapshots)]
        for _, state, _ in self.snapshots:
            self.boundary = max(self.boundary, self.at_boundary(np.asarray(state)))
        times, audit = [t for t, _, _ in self.snapshots], self.audit
        history = self._history_of(times, densities)
        made = self._certificate_of(history, status)
        return Solution(t=times, densities=densities, energy=[s[2] for s in self.snapshots],
                        history=lambda: history()[0], status=status, message=message,
                        certificate=lambda: audited(made(), audit, zip(times, densities)),
                        free_energy=self.flow.energy, method=str(self.method), time_scale=self.flow.time_scale,
                        jko_steps=self.jko_steps, stepped_by=self.method, start=self.flow.given,
                        mobility=self.flow.mobility, stopped=self.stopped)

    def _history_of(self, times: list[float], densities: Sequence[Any]) -> Callable[[], tuple[History, float]]:
        """Return a function that makes the history when it is read, and tells the smallest density."""
        steps, nodal = self.steps, self.flow.law is not None

        @functools.cache
        def made() -> tuple[History, float]:
            history, least = steps.history(), steps.least()
            if nodal:
                # The smallest average over a cell, where it is known; else the smallest value at a center.
                known = {t: float(rho.values.min()) for t, rho in zip(times, densities) if isinstance(rho, Density)}
                history.min_density = np.array([known.get(t, value) for t, value in
                                                zip(history.t.tolist(), history.min_density.tolist())])
                least = min([least, *known.values()]) if steps.stride > 1 else float(history.min_density.min())
            return history, least

        return made

    def _append(self, step: Step, dt: float) -> None:
        mass, least = step.mass, step.min_density
        if mass is None or least is None:
            own, lowest = self._weigh(step.law)
            mass, least = own if mass is None else mass, lowest if least is None else least
        self.steps.append({"t": step.t, "dt": dt, "energy": step.energy, "mass": mass, "min_density": least,
                           "rejected": self.n_rejected, "fallback": step.fallback, "work": step.work})
        self.last_masses = step.law

    def _weigh(self, masses) -> tuple[float, float]:
        """Return the mass, and the smallest density."""
        if self.even_volume is not None:
            return float(masses.sum()), float(masses.min()) / self.even_volume
        return float(masses.sum()), float((masses / self.flow.grid.volumes).min())

    def law_of(self, masses) -> Density | Atoms:
        if self.flow.law is not None:
            return self.flow.law(masses)
        with np.errstate(over="ignore"):  # of a damaged file: the density is refused by its own words
            return Density(self.flow.grid, masses / self.flow.grid.volumes)

    def at_boundary(self, masses) -> float:
        return boundary_mass(masses, self.flow.grid)

    def _look_outside(self, t: float, masses: np.ndarray) -> None:
        """Estimate what lies beyond ends that stand for infinity, if more lies at them than when that was done last."""
        if self.ends is None:
            return
        outermost = self.ends.most_outside(masses)
        if self._is_news(outermost):
            self.outermost = outermost
            self._keep_outside(outside_at(self.flow, t, masses))

    def _is_news(self, outermost: float) -> bool:
        """Return whether more lies at the ends than when what is beyond them was estimated last, and enough to look."""
        return outermost > max(GROWN * self.outermost, LITTLE_OUTSIDE * self.steps.first("mass"))

    def _keep_outside(self, found: Outside) -> None:
        if found.part > self.outside:
            self.outside, self.outside_at = found

    def _kept(self, k: int, state) -> Density | Atoms:
        first = k == 0 and self.snapshots[0][0] == self.flow.t0 and self.flow.law is None
        return self.flow.rho0 if first else self.law_of(state)

    def _keep(self, t: float, law: np.ndarray, energy: float, fresh: bool = False) -> None:
        """Keep the law after a step if it is one of the snapshots, and tell those who watch the progress."""
        if not self.flow.t_eval:
            self.since_snapshot += 1
            if t >= self.flow.t1 or self.since_snapshot >= self.stride:
                self._snapshot(t, law, energy, fresh)
        elif t in self.flow.output_times:
            self._snapshot(t, law, energy, fresh)
        if self.report is not None:
            self.report(t)

    def _snapshot(self, t: float, masses: np.ndarray, energy: float, fresh: bool = False) -> None:
        self.snapshots.append((t, masses if fresh else masses.copy(), energy))
        self.since_snapshot = 0
        room = room_for_snapshots(self.flow.size) if self.flow.room is None else self.flow.room
        if not self.flow.t_eval and len(self.snapshots) > room:
            self.snapshots = self.snapshots[:1] + self.snapshots[2::2]
            self.stride *= 2

    def _certificate_of(self, history: Callable[[], tuple[History, float]], status: int) -> Callable[[], Certificate]:
        """Return a function that makes the certificate when it is read, without the snapshots.

        Where the flow changes with time they are needed, and functions of the user's, and for atoms at bounds, too: it
        is made at once.
        """
        if not self.flow.has_grid or self.flow.drive is not None or self.flow.clock is not None or (
                self.flow.stream is not None):
            certificate = self._certificate(*history(), status)
            return lambda: certificate
        kept = type(self).__new__(type(self))
        vars(kept).update(vars(self), snapshots=[], report=None, watch=None)
        return lambda: kept._certificate(*history(), status)

    def _certificate(self, history: History, least: float, status: int) -> Certificate:
        worst = self.steps.extremes()
        unseen, missed = self._seen(history)
        # What the law lost by itself: the work of terms that change with time is not its own.
        energy = history.energy - history.work
        lost = float(energy[0] - energy[-1]) if len(history) > 1 else 0.0
        return Certificate(
            mass_drift=worst["drift"], min_density=least, max_energy_increase=worst["rise"],
            dissipation_defect=float(abs(lost - self.dissipated) / max(1.0, lost)),
            boundary_mass=self.boundary,
            n_accepted=self.steps.count - 1, n_rejected=self.n_rejected, n_fallback=self.n_fallback,
            residual=self.residual, error_estimate=self.error_estimate, edi_defect=self.edi_defect,
            bias=self.bias, grid_error=self.grid_error, scheme=self.flow.scheme_in_words,
            dissipation_gap=self._dissipation_gap(lost), n_dissipations=self.n_rates,
            completed=status == 0, stopped=self.stopped, controlled=self.method.controlled,
            settings=self.settings, versions=library_versions(),
            functionals=self._functionals(), substituted=self._substituted(),
            unseen_pulse=unseen, missed_drive=missed, unresolved=self._unresolved(history),
            mass_outside=self.outside if self.has_open_ends else None, outside_at=self.outside_at,
            unbounded=self.has_open_ends and goes_on(self.flow.energy), **of_sample(self.flow.given))

    def _unresolved(self, history: History) -> str:
        """Return why the grid does not resolve the law at the end, if steps were chosen by an error tolerance."""
        if not (self.flow.has_grid and self.method.controlled and len(history) > 1):
            return ""
        return unresolved(self.flow.on_grid_at(float(history.t[-1])), self.last_masses)

    def _substituted(self) -> float | None:
        """Return the part of the path in steps of another scheme than the one asked for; None for other methods."""
        if not self.jko_steps:
            return None
        lengths = np.sqrt([max(0.0, step.w2_squared) for step in self.jko_steps])
        others = float(lengths[self.steps.history().fallback[1:]].sum())
        return others / float(lengths.sum()) if others > 0 else 0.0

    def _seen(self, history: History) -> tuple[float | None, float | None]:
        """Return which pulses may have gone unseen, and what steps could not follow; None where nothing changes."""
        drive, clock = self.flow.drive, self.flow.clock
        if (drive is None and clock is None) or len(history) < 2:
            return None, None
        gap = max(part.gap for part in (drive, clock) if part is not None)
        missed = None
        if drive is not None:
            # Of those in a file as many as memory would hold.
            some = self.snapshots[::1 if self.flow.stream is None else 1 + len(self.snapshots) // SNAPSHOTS]
            missed = 0.0 if self.method.follows else drive.missed(
                history.t, [(t, np.asarray(law)) for t, law, _ in some], self.flow.elapsed)
        return min(gap, self.steps.extremes()["longest"]), missed

    def _dissipation_gap(self, lost: float) -> float | None:
        """Return how far the energy lost lies outside the bounds of the dissipation integrated, relative to it."""
        if self.least is None or self.most is None or not self.flow.has_grid:
            return None
        outside = max(self.least - lost, lost - self.most, 0.0)
        if outside == 0.0:
            return 0.0
        # Sums over cells of numbers as large as these are rounded, at both ends.
        rounding = ROUNDING * self.flow.on_grid.size_of_terms(self.flow.density.masses)
        return max(0.0, outside - rounding) / max(lost, self.least, rounding, TINY)

    def _functionals(self) -> tuple[str, ...]:
        return tuple(repr(term) for _, term in self.flow.on_grid.opaque)


def _logarithmic_mean(a: float, b: float) -> float:
    low, high = min(a, b), max(a, b)
    if low <= 0.0 or high <= low * (1 + 1e-6):
        return 0.5 * (low + high) if low > 0.0 or high == 0.0 else 0.0
    return (high - low) / math.log(high / low)
