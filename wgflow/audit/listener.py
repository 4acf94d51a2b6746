r"""The audit of a run on a grid: it listens to accepted steps, and compares both sides of the equation at the end.

For each test function :math:`\varphi_k` of `weak_form`, and for the whole run as for parts of it,

.. math:: \mathrm{defect}_k = M_k(b) - M_k(a) - \int_a^b s(t)\,R_k(t)\,dt .

The integral is taken from R at the accepted steps (a sample of them, where there are many) by cubics; where terms
change with time, at times of the audit's own between the steps. A right run has a defect too, which its errors explain:

.. math:: |\mathrm{defect}_k| \le 0.006 \int |s R_k| + 0.0007 \sum_{parts} \int |s R_k^{part}|
          + \text{errors},

where the errors are what the integral over time leaves open, one and a half times the error in
time that the run has estimated and what its resolution leaves open, and what the moments at a and b leave open where
the scheme knows where in its cell a jump is and the averages do not (`WeakForm.unplaced`). For the steps of JKO

.. math:: \Bigl|\int \varphi\,(\rho_1 - \rho_0) - \tau R_\varphi(\rho_1)\Bigr|
          \le \tfrac12 \sup |D^2\varphi|\,W_2^2(\rho_0, \rho_1)

by the Euler-Lagrange equation of a step and Taylor's formula; the right side is added, and the integral is the sum of
:math:`\tau R(\rho_1)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.audit.quadrature import StepIntegrals
from wgflow.audit.weak_form import WeakForm
from wgflow.errors import WGFlowError

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.recorder import Step

__all__ = ["Audit", "Finding", "Missed", "worst_of"]

Array = NDArray[np.float64]
#: Samples that are kept: so many at least, and up to the second number where the grid is small, so that they have the
#: third number of cells in all. Beyond it every second one is dropped, but for those between whose neighbors moments
#: go further than on average between half as many samples: the early steps of a run do most of the way, and may be few
#: beside those of its tail.
ROOM, MOST_ROOM, ROOM_CELLS = 64, 192, 1.2e6
#: The same where terms change with time, and with them the law perhaps at every step.
LONG_ROOM = 4096
#: Memory for laws that wait to be looked at.
KEPT_BYTES = 32e6
#: Least number of cells of an axis with which anything can be said; with fewer there is no audit.
FEWEST_CELLS = 6
#: Parts of the run that are judged by themselves, beside the whole.
WINDOWS = 4
#: A right run may miss this part of the change that the equation demands,
OF_CHANGE = 0.006
#: and this part of what drift, interaction and diffusion demand separately,
OF_PARTS = 7e-4
#: and this part of what they demand for the test function for which it is most.
OF_LARGEST = 2e-4
#: Defects are told relative to the parts, or where these are small to this part of the largest of them.
OF_SIZE = 0.05
#: Multiple of the error in time that a run has estimated,
TIME_MARGIN = 1.5
#: of the same times the speed at which R reacts to it, over a step: cubics may double it at each end,
STIFF_MARGIN = 5.0
#: and of what its resolution leaves open.
SPACE_MARGIN = 1.5
#: A bound above this part of the demanded change, for every test function, judges nothing.
JUDGES = 0.5
#: A bound below this part of the mass is good enough, whatever is demanded.
NEGLIGIBLE = 1e-3
#: Cubics and parabolas through the rates that differ by more than this part of their size do not resolve a step.
UNRESOLVED = 0.1
#: Nor does a step over which the rate changes much and that is longer than its time by this factor.
STIFF = 3.0
#: Gauss-Legendre nodes between two steps at which terms that change with time are evaluated.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)
#: Changes of moments below this part of the mass are nothing.
NOTHING = 2e-5


class Finding(NamedTuple):
    """What an audit found.

    Attributes
    ----------
    defect, bound : float or None
        Of the test function and part of the run for which their ratio is largest, relative to what drift, interaction
        and diffusion demand there. None where nothing was audited.
    note : str
        Why the equation could not be judged, in words; empty if it was.
    """

    defect: float | None
    bound: float | None
    note: str = ""


class Missed(NamedTuple):
    """What was found over each interval between two laws, for each test function: arrays of shape (n, K).

    Attributes
    ----------
    missed
        The change of a moment, less that which the equation demands.
    change, parts
        The size of the demanded change, and those of its parts together.
    allowed
        What known errors may have missed.
    square
        What random errors may have missed, squared: over several intervals their squares add.
    """

    missed: Array
    change: Array
    parts: Array
    allowed: Array
    square: Array


class Pending(NamedTuple):
    """A law that waits to be looked at: time, estimated error so far, what JKO may miss so far, masses."""

    t: float
    error: float
    may_miss: float
    law: Array


class Audit:
    """Listens to the accepted steps of a run on a grid.

    Laws are kept and looked at when the certificate is read, or before where they would take too much memory: a solve
    pays for copies alone.

    Parameters
    ----------
    flow : Flow
    nearly : bool
        Whether the steps of JKO are known to be those of a distance near W2: they may miss twice as much.
    """

    def __init__(self, flow: Flow, nearly: bool = False):
        self.flow, self.allowed_jko = flow, 1.0 if nearly else 0.5
        self.form: WeakForm | None = None
        self.stride, self.steps, self.failure, self.judged_by = 1, 0, "", "steps"
        self.room = self._usual_room()
        # A law that has been looked at is a row: time, error, what JKO may miss, what its moments leave open, the
        # sides, and the integrals so far of drift and interaction by terms that change with time.
        self.samples: list[Pending | Array] = []
        self.seen: Array | None = None
        self.may_miss = 0.0
        self.kept = max(1, int(KEPT_BYTES / (8 * flow.size)))

    def start(self, step: Step) -> None:
        """Take the initial state."""
        if min(self.flow.grid.shape) >= FEWEST_CELLS and self.flow.t1 > self.flow.t0:
            self.samples.append(Pending(step.t, 0.0, 0.0, step.law.copy()))

    def step(self, step: Step, error: float | None) -> None:
        """Take an accepted step, and the error in time that has been estimated so far (None: it is not estimated)."""
        if self.failure or not self.samples:
            return
        if step.jko is not None and step.excess is not None:
            self.judged_by = "JKO"
            self.may_miss += self.allowed_jko * step.jko.w2_squared
        elif error is None or step.jko is not None:
            self.judged_by = "first order"
        self.take(step.t, step.law, error or 0.0, step.fresh)

    def take(self, t: float, law: Array, error: float, fresh: bool = False) -> None:
        """Take the law after an accepted step, and the error in time that has been estimated so far.

        A ``fresh`` law is kept as it is: nobody changes it.
        """
        if self.failure or not self.samples:
            return
        self.steps += 1
        if self.judged_by != "JKO" and self.steps % self.stride and t < self.flow.t1:
            return
        self.samples.append(Pending(t, error, self.may_miss, law if fresh else law.copy()))
        driven = self.flow.energy.time_dependent
        full = len(self.samples) > self.room and self.judged_by != "JKO"
        if len(self.samples) % self.kept == 0 or (full and driven):
            self._guarded(self._look)
        if full and len(self.samples) > 2:
            self._guarded(self._thin)

    def end(self, step: Step, error: float | None) -> None:
        """Take the step with which a run was told to end, unless it has been taken."""
        if self.samples and not self.failure and float(self.samples[-1][0]) < step.t:
            self.samples.append(Pending(step.t, error or 0.0, self.may_miss, step.law.copy()))

    def _usual_room(self) -> int:
        if self.flow.energy.time_dependent:
            return LONG_ROOM
        return int(min(max(ROOM, ROOM_CELLS / self.flow.size), MOST_ROOM))

    def _thin(self) -> None:
        """Drop every second sample but those between whose neighbors the moments change much."""
        form, last = self._formed(), len(self.samples) - 1
        moments = [form.moments(x.law) if isinstance(x, Pending) else x[4:4 + form.count] for x in self.samples]
        ways = np.abs(np.diff(moments, axis=0)).sum(axis=1)
        most = 2.0 / min(self._usual_room(), MOST_ROOM) * float(ways.sum())
        self.samples = [x for k, x in enumerate(self.samples)
                        if k % 2 == 0 or k == last or ways[k - 1] + ways[k] > most]
        # Those that were spared take no room from new ones.
        self.room = len(self.samples) + self._usual_room() // 2 - 1
        self.stride *= 2

    def within(self, t: float, law: Array) -> None:
        """Take a law inside the coming step: it is not needed."""

    def dump(self) -> dict:
        """Return what has been found; ``rows_of`` gives the samples as rows of numbers."""
        return {"rows_of": partial(self._rows_or_none, self.samples[:], self.seen), "may_miss": self.may_miss,
                "stride": self.stride, "steps": self.steps, "failure": self.failure, "judged_by": self.judged_by,
                "room": self.room, "opens": True}

    def restore(self, saved: dict | None, law: Array) -> None:
        """Take up what `dump` gave, its samples as rows, and the law that was recorded last."""
        if saved is None:
            self.failure = "its first part was run by another version of wgflow"
            return
        rows = np.asarray(saved["samples"], dtype=float)
        self.stride, self.steps, self.may_miss = int(saved["stride"]), int(saved["steps"]), float(saved["may_miss"])
        self.failure, self.judged_by = str(saved["failure"]), str(saved["judged_by"])
        if not self.failure and self.steps and not len(rows):
            self.failure = "a term could not be evaluated in weak form"
        if len(rows) and "opens" not in saved:
            # Files of former versions do not tell what moments leave open.
            rows = np.insert(rows, 3, 0.0, axis=1)
        if len(rows) and not (rows.shape[1:] == (4 + 8 * self._formed().count,) and np.isfinite(rows).all()):
            raise ValueError("the samples of the audit do not fit the flow")
        if len(rows) and not (self.flow.t0 <= rows[0, 0] and (np.diff(rows[:, 0]) > 0).all()
                              and rows[-1, 0] <= self.flow.t1):
            raise ValueError("the times of the samples of the audit do not increase")
        self.samples, self.seen, self.room = list(rows), law, int(saved.get("room", self._usual_room()))

    def rows_of(self, samples: list[Pending | Array], seen: Array | None) -> Array:
        """Return samples as rows of numbers, given the law of the last one that is a row already."""
        form = self._formed()
        rows: list[Array] = []
        for sample in samples:
            if isinstance(sample, Pending):
                sums: Array = rows[-1][-2 * form.count:] if rows else np.zeros(2 * form.count)
                if form.driven and rows and seen is not None:
                    sums = sums + self._between(float(rows[-1][0]), sample.t, seen, sample.law).ravel()
                seen = sample.law
                sample = np.concatenate([[*sample[:3], self._open(sample.law)], *form.sides(sample.law), sums])
            rows.append(sample)
        return np.array(rows)

    def _rows_or_none(self, samples: list[Pending | Array], seen: Array | None) -> Array:
        """Return samples as rows, and none where a term cannot be evaluated."""
        rows = [np.zeros((0, 0))]
        self._guarded(lambda: rows.append(self.rows_of(samples, seen)))
        return rows[-1]

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (WGFlowError, ArithmeticError, ValueError, TypeError) as error:
            self.failure = f"a term could not be evaluated in weak form: {error}"

    def _look(self) -> None:
        last = self.samples[-1]
        self.samples = list(self.rows_of(self.samples, self.seen))
        if isinstance(last, Pending):
            self.seen = last.law

    def _formed(self) -> WeakForm:
        if self.form is None:
            self.form = WeakForm(self.flow.energy, self.flow.density, nodal=self.flow.law is not None,
                                 mobility=self.flow.mobility)
        return self.form

    def _open(self, law: Array) -> float:
        """Return what the moments of a law leave open, for slopes of 1."""
        return self._formed().unplaced(law) if self.flow.places else 0.0

    def _between(self, begin: float, end: float, before: Array, after: Array) -> Array:
        """Return drift and interaction by terms that change with time over a step, (2, K)."""
        share = 0.5 * (1.0 + NODES)
        times = begin + (end - begin) * share
        # The inequality of a step of JKO is about the law at its end.
        laws = [after if self.judged_by == "JKO" else (1.0 - a) * before + a * after for a in share]
        parts = self._formed().changing_rates(laws, times)
        return 0.5 * (end - begin) * (WEIGHTS * np.array([self.flow.scale_at(float(t)) for t in times])) @ parts

    # ---------------------------------------------------------------- the end
    def finding(self) -> Finding:
        """Return what was found."""
        if self.failure or len(self.samples) < 2:
            return Finding(None, None, self.failure)
        self._guarded(self._look)
        if self.failure:
            return Finding(None, None, self.failure)
        rows, count = np.array(self.samples), self._formed().count
        table = rows[:, 4:].reshape(len(rows), 8, count).swapaxes(0, 1)
        return self._judge(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], table)

    def _judge(self, t: Array, error: Array, may_miss: Array, unplaced: Array, table: Array) -> Finding:
        """Return the finding from the samples: defect, demand and allowed errors of each interval between them."""
        moments, drift, interaction, diffusion, doubt, speed = table[:6]
        driven_drift, driven_interaction = np.diff(table[6:], axis=1)
        jumps = () if self.flow.drive is None else self.flow.drive.ends
        integral = StepIntegrals(t, self.flow.scale_at if callable(self.flow.time_scale) else self.flow.time_scale,
                                 jumps)
        rate, mass = drift + interaction + diffusion, self._formed().mass
        change, size = integral(rate, 4), integral.mean(np.abs(rate))
        allowed = np.diff(may_miss)[:, None] * self._formed().modes.bend + SPACE_MARGIN * integral.mean(doubt)
        stiff = integral.mean(speed)
        if self.judged_by == "JKO":
            change = integral.ends(rate)
        else:
            gap = np.abs(change - integral(rate, min(3, len(t) - 1)))
            # A wave that changes much within a step: what the step does to it is not known in between.
            # Cubics overshoot where steps of very different lengths follow each other.
            mean = integral.mean(rate)
            change = np.where(np.abs(change - mean) > np.abs(integral.mean(np.abs(rate))) + gap, mean, change)
            jump = np.abs(np.diff(rate, axis=0)) > 0.5 * np.maximum(np.abs(rate[1:]), np.abs(rate[:-1]))
            unresolved = (gap > UNRESOLVED * size) | (jump & (stiff > STIFF))
            if self.judged_by == "first order":
                gap += np.abs(change - integral.ends(rate))
                unresolved |= stiff > 1.0
            allowed += np.where(unresolved, size + np.abs(np.diff(moments, axis=0)), gap)
            allowed += mass * np.diff(error)[:, None] * (TIME_MARGIN + STIFF_MARGIN * stiff)
        driven = np.abs(driven_drift) + np.abs(driven_interaction)
        if self._formed().driven and self.judged_by != "JKO":
            # Between two steps the law was taken to be linear in time.
            smooth = integral(moments, 4)
            bent = np.abs(smooth - integral.mean(moments))
            if self.judged_by == "first order":
                bent += np.abs(smooth - integral.ends(moments))
            allowed += driven * (bent / integral.lengths).max(axis=1)[:, None] * 2.0 / mass
        demand = (np.abs(integral.mean(drift) + driven_drift) + np.abs(integral.mean(interaction) + driven_interaction)
                  + np.abs(integral.mean(diffusion)))
        change = change + driven_drift + driven_interaction
        found = Missed(np.diff(moments, axis=0) - change, np.abs(change), demand, allowed, np.zeros(change.shape))
        return worst_of(found, mass, OF_CHANGE, OF_PARTS,
                        "the run is too coarse, since its own errors may be as large as what the equation demands; "
                        "take more cells, or shorter steps", unplaced[:, None] * self._formed().steepest)


def worst_of(found: Missed, mass: float, of_change: float, of_parts: float, remedy: str,
             open_moments: Array | None = None) -> Finding:
    """Return the test function and the part of a run for which the defect is the largest part of its bound.

    Parameters
    ----------
    found : Missed
    mass : float
    of_change, of_parts : float
        What a right run may miss, relative to the demanded change, and to what its parts demand separately.
    remedy : str
        Why nothing could be judged, and what to do, if that is so.
    open_moments : array of shape (n + 1, K), optional
        By how much the moments themselves may be off at the times between the intervals.
    """
    n = len(found.missed)
    cuts = [round(n * k / WINDOWS) for k in range(WINDOWS + 1)] if n >= 4 * WINDOWS else []
    worst, note = (-1.0, 0.0, 0.0), ""
    for begin, end in [(0, n), *pairwise(cuts)]:
        missed, change, parts, allowed, square = (part[begin:end].sum(axis=0) for part in found)
        least = OF_LARGEST * float(parts.max()) + NOTHING * mass
        bound = of_change * change + of_parts * parts + allowed + np.sqrt(square) + least
        if open_moments is not None:
            bound = bound + open_moments[begin] + open_moments[end]
        defect = np.abs(missed)
        if not np.isfinite(defect / bound).all():
            return Finding(None, None, "its terms are not finite in weak form")
        k = int(np.argmax(defect / bound))
        size = max(float(parts[k]), OF_SIZE * float(parts.max()), least)
        if open_moments is not None and end - begin < n and defect[k] <= bound[k] and bound[k] > size:
            # A part that is too short to tell anything.
            continue
        worst = max(worst, (float(defect[k] / bound[k]), float(defect[k] / size), float(bound[k] / size)))
        if end - begin == n and not (bound <= np.maximum(JUDGES * parts, NEGLIGIBLE * mass)).any():
            note = remedy
    return Finding(worst[1], worst[2], note if worst[0] <= 1.0 else "")
