r"""The audit of a run on a grid: it listens to accepted steps, and compares both sides of the equation at the end.

For each test function :math:`\varphi_k` of `weak_form`, and for the whole run as for parts of it,

.. math:: \mathrm{defect}_k = M_k(b) - M_k(a) - \int_a^b s(t)\,R_k(t)\,dt .

The integral is taken from R at the accepted steps (a sample of them, where there are many) by cubics; where terms change
with time, at times of the audit's own between the steps. A right run has a defect too, which its errors explain:

.. math:: |\mathrm{defect}_k| \le \tfrac{1}{100} \int |s R_k| + \tfrac{1}{1000} \sum_{parts} \int |s R_k^{part}|
          + \text{errors},

where the errors are what the integral over time leaves open, twice the error in time that the run has estimated, and
three times what its resolution leaves open. For the steps of JKO

.. math:: \Bigl|\int \varphi\,(\rho_1 - \rho_0) - \tau R_\varphi(\rho_1)\Bigr|
          \le \tfrac12 \sup |D^2\varphi|\,W_2^2(\rho_0, \rho_1)

by the Euler-Lagrange equation of a step and Taylor's formula; the right side is added, and the integral is the sum of
:math:`\tau R(\rho_1)`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.audit.quadrature import step_integrals
from wgflow.audit.weak_form import WeakForm
from wgflow.errors import WGFlowError

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.recorder import Step

__all__ = ["Audit", "Finding"]

Array = NDArray[np.float64]
#: Samples that are kept; beyond it every second one is dropped.
ROOM = 64
#: Parts of the run that are judged by themselves, beside the whole.
WINDOWS = 4
#: A right run may miss this part of the change that the equation demands,
OF_CHANGE = 0.01
#: and this part of what drift, interaction and diffusion demand separately,
OF_PARTS = 1e-3
#: and this part of what they demand for the test function for which it is most.
OF_LARGEST = 2e-4
#: Multiples of the errors that a run has estimated in time, and of what its resolution leaves open.
TIME_MARGIN, SPACE_MARGIN = 2.0, 3.0
#: A bound above this part of the demanded change, for every test function, judges nothing.
JUDGES = 0.15
#: A bound below this part of the mass is good enough, whatever is demanded.
NEGLIGIBLE = 1e-3
#: Cubics and parabolas through the rates that differ by more than this part of their size do not resolve a step.
UNRESOLVED = 0.1
#: Gauss-Legendre nodes between two steps at which terms that change with time are evaluated.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)
#: Changes of moments below this part of the mass are rounding.
ROUNDING = 1e-11


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


class Audit:
    """Listens to the accepted steps of a run on a grid.

    Parameters
    ----------
    flow : Flow
    """

    def __init__(self, flow: Flow):
        self.flow = flow
        self.form: WeakForm | None = None
        self.stride, self.steps, self.failure = 1, 0, ""
        # Each sample is a row of numbers: the time, the error in time so far, the sides, and the sums over steps.
        self.samples: list[Array] = []
        # Drift and interaction by terms that change with time, and what JKO may miss, summed over all steps.
        self.sums = np.zeros((3, 0))
        self.judged_by = "steps"
        self.last: tuple[float, Array] | None = None

    def start(self, step: Step) -> None:
        """Take the initial state."""
        if self.flow.t1 > self.flow.t0:
            self._guarded(lambda: self._take(step, 0.0))

    def step(self, step: Step, error: float | None) -> None:
        """Take an accepted step, and the error in time that has been estimated so far (None: it is not estimated)."""
        if self.failure or self.form is None and not self.samples:
            return
        self.steps += 1
        self._guarded(lambda: self._take(step, error))

    def dump(self) -> dict:
        """Return what has been found: of the samples only the first ``rows`` are meant."""
        return {"samples": self.samples, "rows": len(self.samples), "sums": self.sums, "stride": self.stride,
                "steps": self.steps, "failure": self.failure, "judged_by": self.judged_by}

    def restore(self, saved: dict | None, law: Array) -> None:
        """Take up what `dump` gave, and the law that was recorded last."""
        if saved is None:
            self.failure = "its first part was run by another version of wgflow"
            return
        self.samples, self.sums = [np.asarray(row) for row in saved["samples"]], np.asarray(saved["sums"])
        self.stride, self.steps = int(saved["stride"]), int(saved["steps"])
        self.failure, self.judged_by = str(saved["failure"]), str(saved["judged_by"])
        if self.samples:
            self.last = float(self.samples[-1][0]), law

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (WGFlowError, ArithmeticError, ValueError, TypeError) as error:
            self.failure = f"a term could not be evaluated in weak form: {error}"

    def _take(self, step: Step, error: float | None) -> None:
        if self.form is None:
            self.form = WeakForm(self.flow.energy, self.flow.density, nodal=self.flow.law is not None)
            if not self.samples:
                self.sums = np.zeros((3, self.form.count))
        if self.steps:
            self._over(step, error)
        if self.form.driven:
            self.last = step.t, step.law.copy()
        if self.judged_by == "JKO" or self.steps % self.stride == 0 or step.t >= self.flow.t1:
            sides = self.form.sides(step.law)
            self.samples.append(np.concatenate([[step.t, error or 0.0], *sides, *self.sums]))
            if len(self.samples) > ROOM and self.judged_by != "JKO":
                self.samples = [*self.samples[:-1:2], self.samples[-1]] if len(self.samples) % 2 else self.samples[::2]
                self.stride *= 2

    def _over(self, step: Step, error: float | None) -> None:
        """Take what happens between the last law and the one after a step."""
        sums = self.sums.copy()
        if step.jko is not None and step.excess is not None:
            self.judged_by = "JKO"
            sums[2] += 0.5 * self.form.modes.bend * step.jko.w2_squared
        elif error is None or step.jko is not None:
            self.judged_by = "first order"
        if self.form.driven and self.last is not None:
            (begin, before), share = self.last, 0.5 * (1.0 + NODES)
            times = begin + (step.t - begin) * share
            parts = self.form.changing_rates([(1.0 - a) * before + a * step.law for a in share], times)
            clock = 0.5 * (step.t - begin) * WEIGHTS * np.array([self.flow.scale_at(float(t)) for t in times])
            sums[0] += clock @ parts[0]
            sums[1] += clock @ parts[1]
        self.sums = sums

    # ---------------------------------------------------------------- the end
    def finding(self) -> Finding:
        """Return what was found."""
        if self.failure or len(self.samples) < 2 or self.form is None:
            return Finding(None, None, self.failure)
        rows, count = np.array(self.samples), self.form.count
        if rows.shape[1] != 2 + 8 * count:
            return Finding(None, None, "its first part was run by another version of wgflow")
        try:
            return self._judge(rows[:, 0], rows[:, 1], rows[:, 2:].reshape(len(rows), 8, count).swapaxes(0, 1))
        except (WGFlowError, ArithmeticError, ValueError) as error:
            return Finding(None, None, f"the clock could not be evaluated: {error}")

    def _judge(self, t: Array, error: Array, table: Array) -> Finding:
        """Return the finding from the samples: defect, demand and allowed errors of each interval between them."""
        moments, drift, interaction, diffusion, doubt = table[:5]
        driven_drift, driven_interaction, may_miss = np.diff(table[5:], axis=1)
        clock = self.flow.scale_at if callable(self.flow.time_scale) else float(self.flow.time_scale)
        rate = drift + interaction + diffusion
        weights, lower = step_integrals(t, clock, 4), step_integrals(t, clock, min(3, len(t) - 1))
        straight = np.abs(step_integrals(t, clock, 2))
        # Of each interval the value at its end.
        ends = np.zeros(weights.shape)
        np.fill_diagonal(ends[:, 1:], straight.sum(axis=1))
        allowed = may_miss + SPACE_MARGIN * (straight @ doubt)
        if self.judged_by == "JKO":
            weights = ends
        else:
            gap, most = np.abs((weights - lower) @ rate), straight @ np.abs(rate)
            # A wave that changes much within a step: what the step does to it is not known in between.
            allowed += np.where(gap > UNRESOLVED * most, most + np.abs(np.diff(moments, axis=0)), gap)
            allowed += (TIME_MARGIN * self.form.mass * np.diff(error))[:, None]
            if self.judged_by == "first order":
                allowed += np.abs((weights - ends) @ rate)
            if self.form.driven:
                allowed += np.abs((weights - straight) @ rate)
        change = weights @ rate + driven_drift + driven_interaction
        demand = (np.abs(weights @ drift + driven_drift) + np.abs(weights @ interaction + driven_interaction)
                  + np.abs(weights @ diffusion))
        return self._worst(np.diff(moments, axis=0) - change, np.abs(change), demand, allowed)

    def _worst(self, missed: Array, change: Array, demand: Array, allowed: Array) -> Finding:
        """Return the test function and the part of the run for which the defect is the largest part of its bound."""
        n, mass = len(missed), self.form.mass
        cuts = [round(n * k / WINDOWS) for k in range(WINDOWS + 1)] if n >= 4 * WINDOWS else []
        worst, note = (-1.0, 0.0, 0.0), ""
        for begin, end in [(0, n), *pairwise(cuts)]:
            parts = demand[begin:end].sum(axis=0)
            least = OF_LARGEST * float(parts.max()) + ROUNDING * mass
            bound = (OF_CHANGE * change[begin:end].sum(axis=0) + OF_PARTS * parts + allowed[begin:end].sum(axis=0)
                     + least)
            defect = np.abs(missed[begin:end].sum(axis=0))
            k = int(np.argmax(defect / bound))
            size = max(float(parts[k]), least)
            worst = max(worst, (float(defect[k] / bound[k]), float(defect[k] / size), float(bound[k] / size)))
            if end - begin == n and not (bound <= np.maximum(JUDGES * parts, NEGLIGIBLE * mass)).any():
                note = ("the run is too coarse, since its own errors may be as large as what the equation demands; "
                        "take more cells, or shorter steps")
        return Finding(worst[1], worst[2], note if worst[0] <= 1.0 else "")
