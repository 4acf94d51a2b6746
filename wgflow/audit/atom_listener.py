r"""The audit of a run that moves atoms: it listens to steps, and compares both sides of the equation at the end.

With the sides M and R of `atom_sides`, for each test function, for the whole run as for parts of it,

.. math:: \mathrm{defect}_k = M_k(b) - M_k(a) - \int_a^b s(t)\,R_k(t)\,dt .

**Without noise** a right run has almost none: what counts is how well the integral is known. Polynomials of several
orders go through R at the steps, and those that agree best are taken; with terms that change with time all is evaluated
between the steps, at places on cubics through the places of each atom.

**With noise** the defect is random, and the law of its size is known: its variance is that of a martingale (see
`atom_sides`), to which comes what the drawing of pairs and the sum over some of the steps leave open. A right run stays
within `Z` standard errors, up to the error of a step: the drift is split from the noise, which in a step of length h
misses a part of up to :math:`(h \lambda)^2 / 4` of R, where the drift changes at the rate :math:`\lambda`, and near
a wall, at which atoms that the drift has carried beyond are put back, the part of the drift there.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.audit.atom_sides import ALL_PAIRS, AtomForm, AtomSides, modes_of_atoms
from wgflow.audit.listener import NODES, WEIGHTS, Finding, Missed, worst_of
from wgflow.audit.quadrature import StepIntegrals, passed
from wgflow.audit.weak_form import flat
from wgflow.errors import WGFlowError
from wgflow.interactions.terms import PairTerm

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.recorder import Step

__all__ = ["AtomAudit"]

Array = NDArray[np.float64]
#: Laws that are kept without noise, and memory for them; beyond it half of them are dropped.
ROOM, KEPT_BYTES, FEWEST = 64, 64e6, 9
#: The same where there are no pairs, or all of them are looked at.
LONG_ROOM = 256
#: With noise: even output times, and times that halve toward the start.
EVEN_TIMES, EARLY_TIMES = 64, 8
#: Of as many steps one is looked at, where there are enough of them.
ONE_IN = 16
#: A right run may miss this part of the change that the equation demands, and of what its parts demand separately.
OF_CHANGE, OF_PARTS = 0.003, 3e-4
#: Standard errors within which the defect of a right run lies.
Z = 4.0
#: Polynomials go through so many values at most.
MOST_POINTS = 6
#: Multiple of the difference of two polynomials that their better one may miss.
GAP_MARGIN = 2.0
#: Orders that agree better than the lowest ones by less than this factor show rates that are not smooth.
CONVERGED = 0.3
#: A kink of the rates in a stretch changes its integral by up to about this part of their change over it.
KINK = 1.0
#: Polynomials that differ by more than this part of the rates' size do not resolve a stretch.
UNRESOLVED = 0.1
#: Round-off of R, relative to its largest value: what differences leave of the gradient of a function.
ROUNDED = 1e-13
#: A step with noise misses this multiple of (h lambda)^2, relative to the parts of R.
SPLITTING = 0.25


class Kept(NamedTuple):
    """A law that waits to be looked at: time, steps so far, points."""

    t: float
    steps: int
    points: Array


class AtomAudit:
    """Listens to the accepted steps of a run of atoms; a solve pays for copies of some laws alone.

    Parameters
    ----------
    flow : Flow
    """

    def __init__(self, flow: Flow):
        self.flow, self.noisy = flow, flow.energy.spreads
        self.laws: list[Kept] = []
        self.steps = 0
        # How far a law must lie from the last one that was kept, in units of time and of place.
        self.apart, self.units = 0.0, np.ones(2)
        pairs = any(isinstance(term, PairTerm) and term.singles_out_pairs for _, term in flow.energy.terms)
        room = ROOM if pairs and flow.atoms.size > ALL_PAIRS else LONG_ROOM
        self.room = max(FEWEST, min(room, int(KEPT_BYTES / (8 * flow.size))))
        span = flow.t1 - flow.t0
        even = max(FEWEST, min(EVEN_TIMES, self.room - EARLY_TIMES))
        # Times from which the next law is kept, the first last.
        self.wanted = sorted({*(flow.t0 + span * np.arange(1, even + 1) / even).tolist(),
                              *(flow.t0 + span / even * 0.5 ** np.arange(EARLY_TIMES)).tolist()}, reverse=True)

    def start(self, step: Step) -> None:
        """Take the initial state."""
        if self.flow.t1 > self.flow.t0:
            self.laws.append(Kept(step.t, 0, step.law.copy()))

    def step(self, step: Step, error: float | None) -> None:
        """Take an accepted step."""
        if not self.laws:
            return
        self.steps += 1
        last, marked = step.t >= self.flow.t1, step.t in self._jumps()
        if self.noisy:
            wanted = step.t >= self.wanted[-1] if self.wanted else False
            while self.wanted and step.t >= self.wanted[-1]:
                self.wanted.pop()
        else:
            wanted = self._far(step.t, step.law)
        if wanted or last or marked:
            self._keep(step.t, step.law)

    def end(self, step: Step, error: float | None) -> None:
        """Take the step with which a run was told to end, unless it has been taken."""
        if self.laws and self.laws[-1].t < step.t:
            self._keep(step.t, step.law)

    def within(self, t: float, law: Array) -> None:
        """Take a law inside the coming step."""
        if self.laws and self._far(t, law):
            self._keep(t, law)

    def _keep(self, t: float, law: Array) -> None:
        self.laws.append(Kept(t, self.steps, law.copy()))
        if self.noisy or len(self.laws) <= self.room:
            return
        # Of laws at even distances, in time and in place together, half as many as there is room for.
        ways = np.array([[second.t - first.t, self._way(first.points, second.points)]
                         for first, second in pairwise(self.laws)])
        self.units = np.maximum(ways.sum(axis=0), np.finfo(float).tiny)
        self.apart = 4.0 / self.room
        levels = np.append(0, (np.cumsum((ways / self.units).sum(axis=1)) / self.apart).astype(int))
        wanted = np.append(levels[1:] != levels[:-1], True)
        wanted[0] = True
        jumps = self._jumps()
        self.laws = [law for law, good in zip(self.laws, wanted) if good or law.t in jumps]

    def _far(self, t: float, law: Array) -> bool:
        """Return whether a law is far from the last that was kept, in time and in place together."""
        last = self.laws[-1]
        if not self.apart:
            return True
        way = np.array([t - last.t, self._way(last.points, law)])
        return bool((way / self.units).sum() >= self.apart)

    def _way(self, first: Array, second: Array) -> float:
        return float((np.abs(self._moved(first, second)).sum(axis=0) * self.flow.atoms.weights).sum())

    def dump(self) -> dict:
        """Return nothing: runs of atoms keep no checkpoints."""
        return {}

    def restore(self, saved: dict | None, law: Array) -> None:
        """Take up nothing."""

    def _jumps(self) -> dict | set:
        return set() if self.flow.drive is None else self.flow.drive.jumps

    # ---------------------------------------------------------------- the end
    def finding(self) -> Finding:
        """Return what was found."""
        if len(self.laws) < 2:
            return Finding(None, None)
        try:
            return self._found()
        except (WGFlowError, ArithmeticError, ValueError, TypeError) as error:
            return Finding(None, None, f"a term could not be evaluated in weak form: {error}")

    def _found(self) -> Finding:
        if self.noisy:
            enough = max(FEWEST, self.steps // ONE_IN)
            of, end, jumps = max(1, len(self.laws) // enough), len(self.laws) - 1, self._jumps()
            self.laws = [law for k, law in enumerate(self.laws) if k % of == 0 or k == end or law.t in jumps]
        laws, flow = self.laws, self.flow
        modes = modes_of_atoms(flow.atoms, [law.points for law in laws])
        form = AtomForm(flow.energy, flow.atoms, modes, flow.mobility)
        rows = [form.sides(law.points, draw) for draw, law in enumerate(laws)]
        sides = AtomSides(*(np.array(column) for column in zip(*rows)))
        t = np.array([law.t for law in laws])
        # By its clock the flow is smooth, whatever pulses the clock has.
        clock = passed(flow.time_scale, t)
        integral = StepIntegrals(clock, 1.0, clock[[law.t in self._jumps() for law in laws]].tolist())
        change, gap = self._integrated(integral, sides.drift + sides.interaction + sides.diffusion, sides.moments)
        parts = np.sum([np.abs(integral.mean(part)) for part in (sides.drift, sides.interaction, sides.diffusion)],
                       axis=0)
        variance = _squares(integral, sides.variance)
        # A law at rest moves by the round-off of its forces in the weak form, which a long time multiplies.
        rounded = ROUNDED * np.abs(sides.drift + sides.interaction).max() * integral.lengths
        allowed = rounded + gap
        if self.noisy:
            # Errors of the sum over some of the steps are as random as the noise.
            allowed = rounded + self._step_error(form, integral, parts)
            variance = variance + integral.mean(sides.spread) + (GAP_MARGIN / Z * gap) ** 2
        if form.changing:
            driven, open_part, more = self._driven(form, integral, t, sides.moments)
            change, parts = change + driven.sum(axis=0), parts + np.abs(driven).sum(axis=0)
            allowed, variance = allowed + open_part, variance + more
        missed = np.diff(sides.moments, axis=0) - change
        found = Missed(missed, np.abs(change), parts, allowed, variance * Z**2)
        return worst_of(found, form.mass, OF_CHANGE, OF_PARTS, self._remedy())

    def _remedy(self) -> str:
        if self.noisy:
            return (f"the sampling error of {self.flow.atoms.size} particles is as large as what the equation demands; "
                    "take more particles, or a smaller dt where it is given")
        return ("the steps are too far apart for what the law does between them; give t_eval, or a dt")

    def _integrated(self, integral: StepIntegrals, rate: Array, moments: Array) -> tuple[Array, Array]:
        """Return the integrals of R over the intervals by the polynomials that agree best, and what they may miss."""
        count = len(rate)
        if count < 3:
            best = integral.mean(rate)
            return best, np.abs(best - integral.ends(rate))
        # Polynomials through times that are many powers of ten apart overflow: these orders are not taken.
        with np.errstate(over="ignore", invalid="ignore"):
            found = [integral.mean(rate)] + [integral(rate, k) for k in range(3, min(MOST_POINTS, count) + 1)]
            gaps = np.array([np.abs(second - first) for first, second in pairwise(found)])
        gaps = np.where(np.isfinite(gaps), gaps, np.inf)
        # Their agreement is judged by all test functions together, so that none agrees by chance.
        k = np.argmin(gaps.sum(axis=2), axis=0)
        rows = np.arange(len(k))
        best, gap = np.array(found)[k + 1, rows], gaps[k, rows]
        if self.noisy:
            return best, gap
        # Where higher orders do not agree better the rates are not smooth, and those that agree do so by chance.
        gap = np.where(gap > CONVERGED * gaps[0], np.maximum(gaps[0], gap), gap)
        # Where atoms meet the rates have a kink, which no polynomial sees.
        places = np.array([np.unique(law.points, axis=1).shape[1] for law in self.laws])
        kink = (np.diff(places) != 0)[:, None] * KINK * integral.lengths * np.abs(np.diff(rate, axis=0))
        gap = np.where(kink > 0.0, np.maximum(gaps[0], kink), gap)
        size = integral.mean(np.abs(rate)) + np.abs(np.diff(moments, axis=0))
        lost = gap > UNRESOLVED * size
        return np.where(lost, found[0], best), np.where(lost, size, GAP_MARGIN * gap)

    def _step_error(self, form: AtomForm, integral: StepIntegrals, parts: Array) -> Array:
        """Return what steps with noise may miss over each interval."""
        flow, laws = self.flow, self.laws
        steps = np.diff([law.steps for law in laws])[:, None]
        h = integral.lengths / np.maximum(steps, 1)
        looked = {0, len(laws) // 2, len(laws) - 1}
        found = [form.steepness(laws[k].points, flat(flow.energy_at(laws[k].t))) for k in looked]
        strength, rate = max(force for force, _ in found), max(bend for _, bend in found)
        out = SPLITTING * (h * rate) ** 2 * parts
        walls = [(axis, end) for axis, (ends, power) in enumerate(zip(form.box, form.rho.powers))
                 for end in ends if np.isfinite(end) and not (power and end == 0.0)]
        for axis, end in walls:
            # Within a layer as thick as the noise of a step the drift of that step is lost.
            layer = np.sqrt(2.0 * form.diffusion * h)
            near = np.array([[float(form.rho.weights[np.abs(law.points[axis] - end) < thick].sum())]
                             for law, thick in zip(laws[1:], layer[:, 0])])
            out = out + form.modes.waves[:, axis] ** 2 * near * layer * strength * integral.lengths
        return out

    def _driven(self, form: AtomForm, integral: StepIntegrals, t: Array, moments: Array) -> tuple[Array, Array, Array]:
        """Return the integrals of drift and interaction by terms that change with time, (2, n - 1, K).

        Beside them what the places of atoms between the laws leave open, and the variance by the drawing of pairs.
        """
        driven, (doubt, variance) = np.zeros((2, t.size - 1, form.count)), np.zeros((2, t.size - 1, form.count))
        for k in range(t.size - 1):
            for node, (place, weight) in enumerate(zip(0.5 * (1.0 + NODES), 0.5 * WEIGHTS)):
                time = float(t[k] + (t[k + 1] - t[k]) * place)
                factor, draw = self.flow.scale_at(time) * weight * (t[k + 1] - t[k]), k * NODES.size + node
                for share, points in self._laws_at(k, time, place, integral, 4):
                    *part, more = form.changing_rates(points, time, draw)
                    driven[:, k] += factor * share * np.array(part)
                    variance[k] += (factor * share) ** 2 * more
                if not self.noisy:
                    [(_, points)] = self._laws_at(k, time, place, integral, 3)
                    rough = form.changing_rates(points, time, draw)
                    doubt[k] += factor * (rough[0] + rough[1])
        total = driven.sum(axis=0)
        if not self.noisy:
            return driven, np.abs(total - doubt), variance
        # Between two laws R was taken to be linear in time.
        bent = np.abs(integral(moments, 4) - integral.mean(moments)) / integral.lengths
        return driven, np.abs(driven).sum(axis=0) * bent.max(axis=1)[:, None] * 2.0 / form.mass, variance

    def _laws_at(self, k: int, time: float, place: float, integral: StepIntegrals,
                 points: int) -> list[tuple[float, Array]]:
        """Return laws at a time between two of those that were kept, with their shares.

        Without noise it is one: each atom lies on the polynomial in time through its places at some laws around.
        """
        if self.noisy:
            return [(1.0 - place, self.laws[k].points), (place, self.laws[k + 1].points)]
        begin, end = next(piece for piece in integral.pieces if piece[0] <= k < piece[1])
        count = min(points, end - begin + 1)
        first = min(max(k - (count - 1) // 2, begin), end + 1 - count)
        near = self.laws[first:first + count]
        found = np.zeros(near[0].points.shape)
        here = self.laws[k].points
        for own in near:
            weight = np.prod([(time - other.t) / (own.t - other.t) for other in near if other is not own])
            found += weight * self._moved(here, own.points)
        return [(1.0, self._inside(here + found))]

    def _moved(self, here: Array, there: Array) -> Array:
        """Return the ways from some places to others, the shorter ones around."""
        way = there - here
        for axis, ((lo, hi), turns) in enumerate(zip(self.flow.atoms.bounds, self.flow.atoms.periodic)):
            if turns:
                way[axis] -= (hi - lo) * np.round(way[axis] / (hi - lo))
        return way

    def _inside(self, points: Array) -> Array:
        for axis, ((lo, hi), turns) in enumerate(zip(self.flow.atoms.bounds, self.flow.atoms.periodic)):
            points[axis] = lo + np.mod(points[axis] - lo, hi - lo) if turns else np.clip(points[axis], lo, hi)
        return points


def _squares(integral: StepIntegrals, variance: Array) -> Array:
    """Return the variances of the integrals over intervals of values with independent errors of some variance."""
    reach = np.zeros((len(variance), 1))
    reach[1:] += 0.5 * integral.lengths
    reach[:-1] += 0.5 * integral.lengths
    # Times of long runs have no squares.
    whole = (reach * np.sqrt(variance)) ** 2
    # Each value counts for the interval before it; the first for the one behind it.
    out: Array = whole[1:].copy()
    out[0] += whole[0]
    return out
