r"""What changes an energy with time, sampled ahead of a run: how long a step may be, and which jumps it must end on.

A step knows the energy at a few times inside it only, and a pulse between them would leave no trace. So the terms that
change with time are sampled over the whole time span at a few points: psi_k, the value of their first variation at time
t_k. The samples stand closer where psi is not linear between them, and a jump is found by bisection.

A step from t to t + dt is followed if a polynomial p of degree 4 in time describes the samples in it: a scheme that
looks at the ends, the quarters and the middle of a step sees that polynomial. What is left over can have moved at most

.. math:: \sum_k \Delta t_k\,\| \nabla\cdot(\rho \nabla(\psi_k - p(t_k))) \|_1

of the mass of the law rho (of atoms: the mean distance over the width of the law). Steps are shortened until this is
below their tolerance.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from wgflow.energies.free_energy import FreeEnergy, Term

__all__ = ["Drive", "Probe"]

#: Samples over the time span, and additional ones where they are needed.
SAMPLES, MORE = 128, 400
#: Samples between two given breakpoints, at least.
BETWEEN = 8
#: Samples are moved by up to this part of their distance, so that a periodic drive cannot hide between them.
IRREGULAR, GOLDEN = 0.25, 0.6180339887498949
#: The scan goes on between two samples where what it does not know could move this part of the mass.
ROUGH = 1e-4
#: An interval has a jump in it if this part of its change stands in one half of it, however often it is halved,
CONCENTRATED = 0.75
#: and if it changes by this multiple of what its neighbors do.
STEEP = 8.0
#: Jumps that are looked for, and the distance at which two times are the same, relative to the times.
JUMPS, SAME_TIME = 30, 2.0**-50
#: Samples before and after a step that are taken with those in it, and the degree of the polynomial.
BESIDE, DEGREE = 2, 4
#: A step with so few samples in it is not checked.
HARDLY = 2
#: The check of a step looks farther ahead, so that the next ones need none: by these factors of the last time.
LONGER, SHORTER = 1.5, 0.6
#: Rounding of a drive that does not change, relative to its values.
ROUNDING = 1e-13


class Probe(Protocol):
    """A few points at which terms that change with time are sampled, and the law that they act on."""

    def sample(self, terms: list[tuple[float, Term]]) -> np.ndarray:
        """Return a vector of values of a sum of terms."""

    def weigh(self, law: np.ndarray) -> None:
        """Take the masses of cells, or the points of atoms, as the law."""

    def effect(self, changes: np.ndarray) -> np.ndarray:
        """Return how fast each of some vectors (rows), as a change of the terms, would move the law."""

    def bend(self, values: np.ndarray) -> np.ndarray:
        """Return how much each of some vectors (rows) bends with the place, over the law."""


class Drive:
    """The terms that change with time, sampled; see the module's text.

    Parameters
    ----------
    energy : FreeEnergy
    probe : Probe
    t0, t1 : float
    breakpoints : sequence of float
        Times inside the span at which the terms may jump.

    Attributes
    ----------
    times : array (k,)
    gap : float
        The longest time between two samples: a shorter pulse may have been missed.
    jumps : dict
        For each time of a jump the last time before it and the first after it at which the terms are looked at.
    clear : (float, float)
        The times between which steps have been found to be followed.
    """

    def __init__(self, energy: FreeEnergy, probe: Probe, t0: float, t1: float, breakpoints: tuple[float, ...] = ()):
        self.terms = [(factor, term) for factor, term in energy.terms if term.time_dependent]
        self.probe, self.t0, self.t1 = probe, t0, t1
        self.same = SAME_TIME * max(abs(t0), abs(t1))
        self.jumps = {t: (math.nextafter(t, -math.inf), math.nextafter(t, math.inf)) for t in breakpoints}
        self.known: dict[float, np.ndarray] = {}
        self.clear, self.stretch = (t0, t0), 0.0
        for t in self._first_times():
            self._look(t)
        self._sort()
        self._refine()
        self._find_jumps()
        self.gap = float(np.diff(self.times).max(initial=0.0)) if self.times.size > 1 else t1 - t0
        self.ends = sorted(self.jumps)
        # The samples between two jumps: the first after each, with both ends of the list.
        self.firsts = [0, *np.searchsorted(self.times, self.ends).tolist(), self.times.size]

    # ---------------------------------------------------------------- sampling
    def _first_times(self) -> list[float]:
        """Return the times of the first look: irregular, and on both sides of given breakpoints."""
        ends = [self.t0, *sorted(self.jumps), self.t1]
        times: list[float] = []
        for begin, end in pairwise(ends):
            first, last = self.jumps.get(begin, (begin, begin))[1], self.jumps.get(end, (end, end))[0]
            if not last > first:
                continue
            count = max(BETWEEN, math.ceil(SAMPLES * (end - begin) / (self.t1 - self.t0)))
            k = np.arange(1, count)
            inner = first + (last - first) * (k + IRREGULAR * (2.0 * np.mod(k * GOLDEN, 1.0) - 1.0)) / count
            times += [first, *inner.tolist(), last]
        return times

    def _look(self, t: float) -> np.ndarray | None:
        """Return the sample at a time; None where a user's function fails, which the run itself will meet."""
        if t not in self.known:
            try:
                self.known[t] = self.probe.sample([(factor, term.at(t)) for factor, term in self.terms])
            except MemoryError:
                raise
            except Exception:
                return None
        return self.known[t]

    def _sort(self) -> None:
        self.times = np.array(sorted(self.known))
        self.values = np.array([self.known[t] for t in self.times.tolist()])
        if not np.isfinite(self.values).all():
            # The run will meet what is not finite.
            good = np.isfinite(self.values).all(axis=1)
            self.times, self.values = self.times[good], self.values[good]
        self.gaps = np.gradient(self.times) if self.times.size > 1 else np.zeros(self.times.size)
        size = float(np.abs(self.values).max(initial=0.0))
        change = np.abs(np.diff(self.values, axis=0)).max(axis=1, initial=0.0) if self.times.size > 1 else np.zeros(0)
        # The number of intervals before each sample in which the drive changes.
        self.changes = np.concatenate([[0], np.cumsum(change > ROUNDING * size)])

    def _refine(self) -> None:
        """Add samples where those around do not tell the drive, the worst first."""
        if self.times.size < 3 or self.changes[-1] == 0:
            return
        share = ((self.times[1:-1] - self.times[:-2]) / (self.times[2:] - self.times[:-2]))[:, None]
        off = self.values[1:-1] - (1.0 - share) * self.values[:-2] - share * self.values[2:]
        if float((self.probe.effect(off) * self.gaps[1:-1]).max()) <= ROUGH:
            # Straight lines would do.
            return
        times, order = self.times, self.times.tolist()
        # What the cubic polynomials through two samples on each side miss; at the ends, the lines through one.
        around = [np.clip(np.arange(1, times.size - 1) + k, 0, times.size - 1) for k in (-2, -1, 1, 2)]
        bend = self.probe.effect(self.values[1:-1] - _interpolated(times[1:-1], times, self.values, around))
        rough = np.maximum(np.append(bend, 0.0), np.append(0.0, bend)) * np.diff(times)
        crossed = {self.jumps[t][0] for t in self.jumps}
        queue = [(-size, a, b) for size, (a, b) in zip(rough.tolist(), pairwise(order))
                 if size > ROUGH and a not in crossed]
        heapq.heapify(queue)
        left = MORE
        while queue and left:
            _, a, b = heapq.heappop(queue)
            middle, k = 0.5 * (a + b), bisect_right(order, a)
            near = order[max(0, k - 2):k + 2]
            value = self._look(middle)
            left -= 1
            if value is None or not b - a > 4.0 * self.same:
                continue
            insort(order, middle)
            guess = sum(weight * self.known[t] for weight, t in zip(_weights(middle, near), near))
            size = float(self.probe.effect((value - guess)[None])[0]) * 0.5 * (b - a)
            if size > ROUGH:
                heapq.heappush(queue, (-size, a, middle))
                heapq.heappush(queue, (-size, middle, b))
        if left < MORE:
            self._sort()

    def _find_jumps(self) -> None:
        """Find the times of jumps by bisection."""
        if self.times.size < 4 or self.changes[-1] == 0:
            return
        change = self.probe.effect(np.diff(self.values, axis=0))
        crossed = {self.jumps[t][0] for t in self.jumps}
        beside = np.maximum(np.append(change[1:], 0.0), np.append(0.0, change[:-1]))
        found = np.flatnonzero((change > STEEP * beside) & (change * (self.t1 - self.t0) > ROUGH))
        for k in sorted(found.tolist(), key=lambda k: -change[k])[:JUMPS]:
            a, b = float(self.times[k]), float(self.times[k + 1])
            if a not in crossed:
                self._bisect(a, b, float(change[k]))
        if found.size:
            self._sort()

    def _bisect(self, a: float, b: float, size: float) -> None:
        while b - a > self.same:
            middle = 0.5 * (a + b)
            if not a < middle < b:
                break
            value = self._look(middle)
            if value is None:
                return
            first, second = self.probe.effect(np.array([value - self.known[a], self.known[b] - value])).tolist()
            if max(first, second) < CONCENTRATED * size:
                return
            a, b = (a, middle) if first > second else (middle, b)
        self.jumps[b] = (a, b)

    def most_bent(self) -> float:
        """Return the time at which the terms bend most over the law."""
        return float(self.times[int(np.argmax(self.probe.bend(self.values)))]) if self.times.size else self.t0

    # ---------------------------------------------------------------- steps
    def sides(self, t: float) -> tuple[float, float]:
        """Return the times at which the terms are looked at for the end of a step, and for the start of the next."""
        return self.jumps.get(t, (t, t))

    def follows(self, t: float, dt: float) -> bool:
        """Return whether a step needs no check: it has been checked, or has hardly any samples in it.

        The times at which such a step looks at the terms stand closer than the samples do.
        """
        if self.clear[0] <= t and t + dt <= self.clear[1]:
            return True
        low, high = np.searchsorted(self.times, (t, t + dt), side="right")
        return bool(high - low <= HARDLY)

    def rests(self, t: float, dt: float) -> bool:
        """Return whether the samples show no change in a step, whose ends are not after a jump and before it."""
        low = max(0, int(np.searchsorted(self.times, t, side="right")) - 1)
        high = min(self.times.size - 1, int(np.searchsorted(self.times, t + dt)))
        return t not in self.jumps and t + dt not in self.jumps and self.changes[low] == self.changes[high]

    def longest(self, t: float, dt: float, allowed: float, law: np.ndarray,
                speed: Callable[[float, float], float]) -> float:
        """Return the longest step up to dt from t that the samples allow.

        Parameters
        ----------
        t, dt : float
        allowed : float
            The part of the mass that a step may move without knowing.
        law : array
            The present law.
        speed : callable
            Of t and dt: the mean of time_scale over a step.
        """
        self.probe.weigh(law)
        end = [*self.ends, self.t1][bisect_right(self.ends, t)]
        # What has been followed at one stretch before is tried first.
        ahead = min(max(self.stretch, dt), end - t)
        if self._left_over(t, ahead)[0] * speed(t, ahead) <= allowed:
            self.clear, self.stretch = (t, t + ahead), LONGER * ahead
            return dt
        self.stretch = SHORTER * ahead
        while True:
            left, least = self._left_over(t, dt)
            if left * speed(t, dt) <= allowed or dt <= least or self.follows(t, dt):
                return dt
            dt = max(0.5 * dt, least)

    def missed(self, times: np.ndarray, laws: Sequence[tuple[float, np.ndarray]],
               elapsed: Callable[[float, float], float]) -> float:
        """Return the largest part of the mass that may have been moved in a step by what it cannot have followed.

        Parameters
        ----------
        times : array
            At which steps ended, with the start.
        laws : sequence of (float, array)
            Some times, and the laws then: each serves the steps that follow it.
        elapsed : callable
            Of t and dt: the length of a step by the clock of time_scale.
        """
        worst, known = 0.0, [t for t, _ in laws]
        self.clear = (self.t0, self.t0)
        for t, end in pairwise(times.tolist()):
            self.probe.weigh(laws[max(0, bisect_right(known, t) - 1)][1])
            left, least = self._left_over(t, end - t)
            if end - t > least and not self.follows(t, end - t):
                worst = max(worst, left * elapsed(t, end - t) / (end - t))
        return worst

    def _left_over(self, t: float, dt: float) -> tuple[float, float]:
        """Return what no polynomial follows in a step, and the least distance of its samples."""
        low, high = np.searchsorted(self.times, (t, t + dt), side="right")
        if high > low and self.times[high - 1] == t + dt:
            high -= 1
        if high <= low:
            return 0.0, dt
        # A jump ends a step, and no polynomial goes through it.
        k = bisect_right(self.ends, t)
        begin = max(low - BESIDE, self.firsts[k])
        end = min(high + BESIDE, self.firsts[k + 1])
        high = min(high, end)
        if end - begin < 3 or self.changes[end - 1] == self.changes[begin]:
            return 0.0, dt
        times = self.times[begin:end]
        gaps = self.gaps[begin:end]
        powers = np.vander((2.0 * times - (times[0] + times[-1])) / (times[-1] - times[0]),
                           min(DEGREE, end - begin - 2) + 1)
        values = self.values[begin:end]
        weighted = powers.T * gaps
        fit = np.linalg.solve(weighted @ powers, weighted @ values)
        inside = slice(low - begin, high - begin)
        effect = self.probe.effect(values[inside] - powers[inside] @ fit)
        return float(effect @ np.minimum(gaps[inside], dt)), float(gaps[inside].min())


def _weights(t: float, times: Sequence[float]) -> list[float]:
    """Return the weights at t of the polynomial through values at some times."""
    return [math.prod((t - other) / (own - other) for other in times if other != own) for own in times]


def _interpolated(t: np.ndarray, times: np.ndarray, values: np.ndarray, around: list[np.ndarray]) -> np.ndarray:
    """Return at each of some times the polynomial through the samples around it; those that coincide count once."""
    total = np.zeros((t.size, values.shape[1]))
    for j, own in enumerate(around):
        weight = np.ones(t.size)
        for k, other in enumerate(around):
            # At the ends of the list places are clipped, onto the time itself or onto a neighbor.
            if k != j:
                same = (times[other] == times[own]) | (times[other] == t)
                gap = np.where(same, 1.0, times[own] - times[other])
                weight *= np.where(same, 1.0, (t - times[other]) / gap)
        repeated = np.zeros(t.size, dtype=bool)
        for other in around[:j]:
            repeated |= other == own
        weight[repeated | (times[own] == t)] = 0.0
        total += weight[:, None] * values[own]
    return total
