r"""Steps of third and higher order with compact sweeps: extrapolated Strang splitting.

With C one Strang step of length dt and F two of length dt/2, :math:`E = F + (F - C)/3` is of third order (the errors of
C and F are four to one), and :math:`|F - C|_1 / 3` estimates the error of F for nothing. C and F are products of
resolvents that keep mass, sign and Gibbs states and lower the energy; E is tried first, then F, then C. A single line
with a fixed Psi needs no splitting: it takes five resolvents of one length, of order 5.

On several axes with a fixed Psi, where little error is allowed, :math:`T_k`, k Strang steps of length dt/k with sweeps
of order 5, give :math:`G = T_1/24 - \tfrac{16}{15} T_2 + \tfrac{81}{40} T_3`, of order 5 with a splitting error of
order 6; it is tried before E.

With an interaction the field is needed at the middle of each of the three Strang steps: at dt/4 by extrapolation of
quadratic order through the last fields, then at dt/2 from the law in the middle, which serves C, and at 3 dt/4 through
it: two evaluations of U a step.

If the energy changes with time, C takes it in the middle of the step, F at its quarters, by the clock of time_scale.
Both are symmetric in time up to their resolvents, so that E stays of third order. The work of E is the quadrature

.. math:: \int \partial_t F(\rho(t), t)\,dt \approx \sum_{ij} A_{ij} F_j(\rho_i), \qquad
          A_{ij} = \int_0^1 l_i(s)\,l_j'(s)\,ds,

over start, middle and end, with the l_i of quadratic interpolation: of fourth order. F and C lower a frozen energy in
each of their sweeps, and the rest of the change of the energy is their work: of second order, and F less the work falls
whatever the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np

from wgflow.compiled.compact import (
    EXTRAPOLATED,
    FIFTH,
    LEFT,
    LINE_POWER,
    LONGEST_EXTRAPOLATION,
    OF_ESTIMATE,
    add_speed_of_field,
    combine,
    extrapolate,
    line_error,
    mixed,
    round_length,
)
from wgflow.compiled.sweep import IMPLICIT_EULER
from wgflow.energies.on_grid import EnergyOnGrid

from .compact_sweeps import CompactSweeps
from .energy_in_time import EnergyInTime, work_of
from .stepper import FieldRule, Move, State, Stepper

__all__ = ["Compact"]

#: The work of a step as a sum over the laws at start, middle and end (rows) and the energies at start, quarter, middle,
#: three quarters and end (columns): by quadratic interpolation of both at start, middle and end;
QUADRATIC = np.array([[-3, 0, 4, 0, -1], [-4, 0, 0, 0, 4], [1, 0, -4, 0, 3]]) / 6.0
#: with two frozen energies, and with one.
TWO_FROZEN = np.array([[-1.0, 1, 0, 0, 0], [0, -1, 0, 1, 0], [0, 0, 0, -1, 1]])
ONE_FROZEN = np.array([[-1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, -1, 0, 1]])

#: Strang steps in each member of the ladder; the weights of order 6, and these less those of order 4 without the first.
LADDER = (1, 2, 3)
LADDER_WEIGHTS = (1 / 24, -16 / 15, 81 / 40)
LADDER_DISTANCE = (1 / 24, -16 / 15 + 4 / 5, 81 / 40 - 9 / 5)
#: The ladder serves where a step may have an error of at most this: beyond it third order costs less.
LADDER_BELOW = 1e-2


class Compact(FieldRule):
    """The candidates of a step by compact sweeps; see the module's text.

    Attributes
    ----------
    error : float
        Estimated local error in time of the last candidate, relative to the mass.
    moved : float
        The part of the mass that was moved to mend negative entries: an error of the grid, which does not fall with dt.
    power : float
        The error is proportional to dt to this power.
    wanted : float
        The error that the next step may have, as far as it is known.
    by_ladder : bool
        Whether the last candidate was that of order 6.
    """

    def __init__(self) -> None:
        self.error, self.power, self.moved, self.wanted, self.by_ladder = 0.0, 4.0, 0.0, math.inf, False

    def moves(self, stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float,
              end: float) -> Iterator[Move]:
        sweeps = cast(CompactSweeps, stepper.sweeps)
        if not energy.moves and sweeps.static and len(sweeps.axes) == 1 and sweeps.keeps:
            yield from self._of_line(stepper, sweeps.potential(energy), state.masses, round_length(scaled))
        else:
            if len(sweeps.axes) > 1 and not energy.moves and sweeps.static and self.wanted <= LADDER_BELOW:
                yield from self._ladder(stepper, sweeps.potential(energy), state.masses, round_length(scaled))
            yield from self._extrapolated(stepper, Times(stepper.energies, energy, state.t, end), state,
                                          round_length(scaled))

    def _of_line(self, stepper: Stepper, psi: np.ndarray, masses: np.ndarray, dt: float) -> Iterator[Move]:
        """Yield the masses of a single line after a step with a fixed Psi."""
        sweeps = cast(CompactSweeps, stepper.sweeps)
        best, distance, whole = sweeps.line(masses, psi, dt)
        self.moved = sweeps.moved / stepper.mass
        self.power, self.error = LINE_POWER, line_error(distance, whole, stepper.mass)
        yield Move(stepper.conserve(best))
        for mode in sweeps.smooth:
            moved = sweeps.move(masses, psi, dt, mode)
            with np.errstate(invalid="ignore"):
                self.power, self.error = 3.0, float(np.abs(moved - best).sum()) / stepper.mass
            yield Move(stepper.conserve(moved))

    def _ladder(self, stepper: Stepper, psi: np.ndarray, masses: np.ndarray, dt: float) -> Iterator[Move]:
        """Yield the masses G after a step with a fixed Psi."""
        sweeps = cast(CompactSweeps, stepper.sweeps)
        laws, mended = [], []
        for count in LADDER:
            laws.append(sweeps.move(masses, psi, dt / count, FIFTH, count=count))
            mended.append(sweeps.moved)
        best = np.empty(masses.shape)
        flat = [law.ravel() for law in laws]
        distance, negative = combine(*flat, LADDER_WEIGHTS, LADDER_DISTANCE, best.ravel())
        # What the longer sweeps had to mend beyond the shortest falls with dt; the rest does not.
        moved, missed = mended[-1], max(0.0, max(mended) - mended[-1])
        if negative < 0.0:
            moved += mend(best, laws[-1])
        self.moved = moved / stepper.mass
        self.power, self.error, self.by_ladder = 5.0, (distance + missed) / stepper.mass, True
        yield Move(stepper.conserve(best))

    def _extrapolated(self, stepper: Stepper, times: Times, state: State, dt: float) -> Iterator[Move]:
        """Yield E, F and C."""
        middle, self.by_ladder = None, False
        if times.middle.moves:
            coarse, fine, half, mended, missed, middle = self._with_field(stepper, times, state, dt)
        elif times.driven:
            coarse, fine, half, mended = self._driven(stepper, times, state.masses, dt)
            missed = 0.0
        else:
            half = state.masses
            coarse, fine, mended = self._fixed(stepper, stepper.sweeps.potential(times.middle), state.masses, dt)
            missed = 0.0
        # What C had to mend beyond F falls with dt; what F had to, and E, does not.
        moved, missed = mended[1], missed + max(0.0, mended[0] - mended[1])
        best = np.empty(fine.shape)
        distance, whole, negative = extrapolate(state.masses.ravel(), fine.ravel(), coarse.ravel(), best.ravel())
        if negative < 0.0:
            moved += mend(best, fine)
        self.moved, missed = moved / stepper.mass, missed / stepper.mass
        distance, whole = distance / stepper.mass, whole / stepper.mass
        error = OF_ESTIMATE * distance * math.sqrt(distance / whole) if whole > 0.0 else 0.0
        # Half of what E adds to F belongs to the first half of the step.
        for masses, power, own, weights, share in ((best, 4.0, min(error, distance), QUADRATIC, 0.5),
                                                     (fine, 3.0, distance, TWO_FROZEN, 0.0),
                                                     (coarse, 3.0, 4.0 * distance, ONE_FROZEN, 0.0)):
            self.power, self.error = power, own + missed
            new = stepper.conserve(masses)
            inside = half + share * (new - fine) if times.driven and share else half
            yield Move(new, middle=middle, work=times.work(weights, (state.masses, inside, new)), half=inside)

    @staticmethod
    def _fixed(stepper: Stepper, psi: np.ndarray, masses: np.ndarray, dt: float):
        """Return C m and F m for a fixed Psi, and the mass that was moved to mend each of them."""
        sweeps = cast(CompactSweeps, stepper.sweeps)
        coarse = sweeps.move(masses, psi, dt, sweeps.second)
        moved = sweeps.moved
        fine = sweeps.move(masses, psi, 0.5 * dt, sweeps.second, count=2)
        return coarse, fine, (moved, sweeps.moved)

    @staticmethod
    def _driven(stepper: Stepper, times: Times, masses: np.ndarray, dt: float):
        """Return C m, F m, the law in the middle, and the mass moved to mend C and F, where Psi changes with time."""
        sweeps = cast(CompactSweeps, stepper.sweeps)
        coarse = sweeps.move(masses, sweeps.potential(times.middle), dt, sweeps.second)
        moved = sweeps.moved
        half = sweeps.move(masses, sweeps.potential(times.at(0.25)), 0.5 * dt, sweeps.second)
        more = sweeps.moved
        fine = sweeps.move(half, sweeps.potential(times.at(0.75)), 0.5 * dt, sweeps.second)
        return coarse, fine, half, (moved, more + sweeps.moved)

    def _with_field(self, stepper: Stepper, times: Times, state: State, dt: float):
        """Return C m, F m, the law in the middle, the mass moved to mend C and F, what the extrapolated field has
        missed, and the field in the middle.
        """
        sweeps, now = cast(CompactSweeps, stepper.sweeps), cast(np.ndarray, state.interaction)

        def half_step(masses, field, energy):
            new = sweeps.move(masses, stepper.psi(energy, field), 0.5 * dt, sweeps.second)
            return new, sweeps.moved

        def field_of(masses, energy):
            return energy.field(masses, energy.interaction(masses))

        energy, early, late = times.middle, times.at(0.25), times.at(0.75)

        last, guess = state.previous_dt, None
        if state.middle is not None and dt <= LONGEST_EXTRAPOLATION * last:
            past = (-last, -0.5 * last, 0.0), (state.previous, state.middle, now)
            first, guess = interpolated(0.25 * dt, *past), interpolated(0.5 * dt, *past)
        else:
            # Without fields of the past: the field of an implicit Euler step, mended by that of the half step.
            start = sweeps.move(state.masses, stepper.psi(energy, now), 0.5 * dt, IMPLICIT_EULER)
            half, _ = half_step(state.masses, 0.5 * (now + field_of(stepper.conserve(start), energy)), early)
            guess = field_of(half, energy)
            eighth = now + 0.25 * (guess - now)
            quarter = sweeps.move(state.masses, stepper.psi(times.at(0.125), eighth), 0.25 * dt, sweeps.second)
            first = field_of(quarter, early)
        half, moved = half_step(state.masses, first, early)
        middle = field_of(half, energy)
        if state.middle is not None and dt <= LONGEST_EXTRAPOLATION * last:
            second = interpolated(0.75 * dt, (-0.5 * last, 0.0, 0.5 * dt), (state.middle, now, middle))
        else:
            second = interpolated(0.75 * dt, (0.0, 0.25 * dt, 0.5 * dt), (now, first, middle))
        coarse = sweeps.move(state.masses, stepper.psi(energy, middle), dt, sweeps.second)
        mended = sweeps.moved
        fine, more = half_step(half, second, late)
        missed = EXTRAPOLATED * dt * speed_of_field(state.masses, guess - middle, sweeps)
        return coarse, fine, half, (mended, moved + more), missed, middle


class Times:
    """The energy at the times of a step; the same at all of them if it does not change.

    Parameters
    ----------
    energies : EnergyInTime
    middle : EnergyOnGrid
    start, end : float
    """

    def __init__(self, energies: EnergyInTime, middle: EnergyOnGrid, start: float, end: float):
        self.energies, self.middle, self.start, self.end = energies, middle, start, end
        self.driven = energies.driven

    def at(self, share: float) -> EnergyOnGrid:
        """Return the energy when a part of the step has passed by the clock."""
        return self.energies.within(self.start, self.end - self.start, share) if self.driven else self.middle

    def work(self, weights: np.ndarray, laws: tuple[np.ndarray, ...]) -> float | None:
        """Return the work by a quadrature over the laws at start, middle and end; None if the energy does not change.

        The columns of ``weights`` are the energies at start, quarter, middle, three quarters and end.
        """
        if not self.driven:
            return None
        energies = [self.energies.at(self.start), self.at(0.25), self.middle, self.at(0.75),
                    self.energies.before(self.end)]
        return work_of(weights, laws, energies)


def speed_of_field(masses: np.ndarray, field: np.ndarray, sweeps: CompactSweeps) -> float:
    """Return the L1 norm of div(rho A grad field), A diagonal: how fast a field moves a law."""
    change, m, w = np.zeros(masses.size), masses.ravel(), field.ravel()
    for (h, outer, inner, _, n, _, _), (mobility, _) in zip(sweeps.axes, sweeps.mobile):
        add_speed_of_field(m, w, mobility, 0.5 / (h * h), outer, n, inner, change)
    return float(np.abs(change, out=change).sum())


def interpolated(t: float, times: tuple[float, float, float], values: tuple) -> np.ndarray:
    """Return the value at t of the parabola through the values at three times."""
    weights = [math.prod((t - other) / (own - other) for j, other in enumerate(times) if j != i)
               for i, own in enumerate(times)]
    found = np.empty(values[0].shape)
    mixed(tuple(weights), *(field.ravel() for field in values), found.ravel())
    return found


def mend(masses: np.ndarray, safe: np.ndarray) -> float:
    """Raise negative entries to a part of those of ``safe``, scale to the mass of ``safe``; return the mass moved."""
    flat, found = masses.reshape(-1), np.flatnonzero(masses < 0)
    raised = LEFT * safe.reshape(-1)[found]
    moved = float((raised - flat[found]).sum())
    flat[found] = raised
    masses *= float(safe.sum()) / float(masses.sum())
    return moved
