r"""The exponential midpoint rule with the average field as an unknown: F falls at any step.

.. math:: m' = S(\Delta t; V + W)\, m, \qquad W = U\,\frac{m + m'}{2}

S is the second-order resolvent product of `wgflow.compiled.sweep`, limited by resolvents where it would be negative.
With W frozen it keeps the mass, the sign and the Gibbs states of Psi = V + W, and it lowers the frozen energy
:math:`H_W(m) = D \sum m \log m + \langle V + W, m\rangle`. For any symmetric U and any W

.. math:: F(m') - F(m) = H_W(m') - H_W(m) + \langle U \tfrac{m + m'}{2} - W,\; m' - m\rangle,

so that F falls with H at any length of the step if the equation for W holds, and also if its error is less than the
fall of H. The correction factors of the fluxes are taken from the first W and kept, so that the equation is smooth.

Functionals E of the masses that are not quadratic contribute a discrete gradient W (Gonzalez), for which
:math:`\langle W, m' - m\rangle = E(m') - E(m)`: the identity above then holds for them, too. Of a function of moments
it is a combination of the features, with the coefficients of `wgflow.energies.moments_on_grid`; of any other
functional the mean of the derivatives at m and m', plus the multiple of (m' - m) / volumes that is missing.

The equation is solved by Anderson's acceleration, with two or three evaluations of S for steps that resolve the flow,
and by Newton's method for longer ones. For steps beyond the time scales of the flow it can have several solutions, any
of which is accepted, or one that is not found. Then the smoother map S = J(dt/2)^2 is tried; if that fails, too, the
best W so far is taken, with a part a of the step,

.. math:: F(m + a d) - F(m) \le a\,[H_W(m') - H_W(m) + \langle U m - W, d\rangle]
          + \tfrac{a^2}{2} \langle d, U d\rangle, \qquad d = m' - m,

which W = U m makes negative for a small enough (with functionals a is halved until F has fallen). (1 - a) + a S is
stochastic and keeps Gibbs states as S does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid

from .nonlinear_equations import accelerate, newton_krylov, norm
from .stepper import LONGEST_EXTRAPOLATION, FieldRule, Move, State, Stepper, damped

__all__ = ["Midpoint"]

#: The equation for W counts as solved if the error of the field is at most this part of its change in the step,
CONSISTENCY = 1e-6
#: or this part of W itself.
ROUNDING = 1e-15
#: If it is not solved, the whole step is taken if F falls by at least this part of the fall of the frozen energy.
ENOUGH = 0.5
#: Length of the difference quotients in Newton's method, relative to the range of Psi.
DIFFERENCE = 1e-7


class Midpoint(FieldRule):
    """The average of the field over a step, found as the solution of an equation; see the module's text.

    Attributes
    ----------
    n_evaluations, n_newton, n_damped : int
        Evaluations of S so far, steps that needed Newton's method, and steps of which a part was taken.
    """

    def __init__(self) -> None:
        self.n_evaluations = self.n_newton = self.n_damped = 0

    def moves(self, stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float,
              end: float) -> Iterator[Move]:
        sweeps = stepper.sweeps
        if not energy.moves:
            # Without an equation the step need not be smooth in Psi: the mode of second order comes first.
            for mode in (sweeps.second, *sweeps.smooth):
                self.n_evaluations += 1
                yield Move(stepper.conserve(sweeps.move(state.masses, sweeps.potential(energy), scaled, mode)))
            return
        for mode in sweeps.smooth:
            move = self._solved(stepper, energy, state, scaled, mode)
            if move is not None:
                yield move

    def _solved(self, stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float,
                mode: int) -> Move | None:
        """Return the masses after a step in a mode; None if its equation is not nearly solved and others are left."""
        now: Any = state.interaction
        if stepper.energies.driven:
            now = energy.field(state.masses, energy.interaction(state.masses))
        equation = _Average(self, stepper, energy, state.masses, now, scaled, mode)
        start = now
        if state.previous is not None and scaled <= LONGEST_EXTRAPOLATION * state.previous_dt:
            start = now + (0.5 * scaled / state.previous_dt) * (now - state.previous)
        near, solved = accelerate(equation.residual, start, equation.converged)
        if not solved and np.isfinite(equation.masses).all():
            self.n_newton += 1
            scale = DIFFERENCE * float(np.ptp(stepper.sweeps.potential(energy) + now))
            root, solved = newton_krylov(equation.residual, now, equation.converged, scale)
            if not solved:
                masses = self._nearly(equation, (root, near), mode == stepper.sweeps.smooth[-1])
                return None if masses is None else Move(stepper.conserve(masses))
        return Move(stepper.conserve(equation.masses), equation.interaction)

    def _nearly(self, equation: _Average, found: Sequence[np.ndarray], last: bool) -> np.ndarray | None:
        """Return the masses after a step, or a part, whose equation is not solved; None if another mode is left."""
        if equation.energy.functionals:
            if not last:
                return None
            self.n_damped += 1
            equation.residual(equation.now)
            return damped(equation.energy, equation.start, equation.masses)
        trials = [equation.trial(w) for w in found]
        for trial in trials:
            if trial.slope + 0.5 * trial.curvature <= -ENOUGH * trial.fall:
                return trial.masses
        if not last:
            return None
        self.n_damped += 1
        trials.append(equation.trial(equation.now))
        best = min(trials, key=_Trial.bound)
        return equation.start + best.share() * (best.masses - equation.start)


class _Trial(NamedTuple):
    """A move m' = S m with W frozen: F(m + a d) - F(m) <= a slope + a^2 curvature / 2."""

    masses: np.ndarray
    fall: float
    slope: float
    curvature: float

    def share(self) -> float:
        """Return the part a of the move for which the bound of F is lowest."""
        if self.slope >= 0:
            return 0.0
        return 1.0 if self.curvature <= -self.slope else -self.slope / self.curvature

    def bound(self) -> float:
        """Return the bound of the change of F for that part."""
        a = self.share()
        return a * (self.slope + 0.5 * a * self.curvature)


class _Average:
    """The equation W = average of the fields of m and of S(V + W) m."""

    def __init__(self, rule: Midpoint, stepper: Stepper, energy: EnergyOnGrid, masses: np.ndarray, now: np.ndarray,
                 dt: float, mode: int):
        self.rule, self.stepper, self.energy = rule, stepper, energy
        self.start, self.now, self.dt, self.mode = masses, now, dt, mode
        self.factors = stepper.sweeps.factors(mode)
        self.masses, self.interaction = masses, energy.interaction(masses) if energy.functionals else None
        self.after: Any = now
        self.start_value = _functionals(energy, masses) if energy.functionals else 0.0
        self.start_interaction = self.interaction

    def residual(self, w: np.ndarray) -> np.ndarray:
        """Return the average field less W; store m' and its field."""
        stepper = self.stepper
        self.rule.n_evaluations += 1
        self.masses = stepper.sweeps.move(self.start, stepper.sweeps.potential(self.energy) + w, self.dt, self.mode,
                                          self.factors)
        self.interaction = self.energy.interaction(self.masses)
        self.after = self.energy.field(self.masses, self.interaction)
        average = 0.5 * (self.now + self.after)
        if self.energy.functionals:
            average = average + self._correction()
        return average - w

    def _correction(self) -> np.ndarray | float:
        """Return the term that turns the mean of the functionals' derivatives into a discrete gradient."""
        known = sum((factor * term.discrete_correction(self.start, self.masses)
                     for factor, term in self.energy.of_moments), np.zeros(()))
        if not self.energy.opaque:
            return known
        change = self.masses - self.start
        direction = change / self.energy.grid.volumes
        length = float((direction * change).sum())
        if not length > 0:
            return known
        slopes = 0.5 * (self.now + self.after) + known
        if self.interaction is not None:
            slopes = slopes - 0.5 * (self.start_interaction + self.interaction)
        missed = _functionals(self.energy, self.masses) - self.start_value - float((slopes * change).sum())
        return known + (missed / length) * direction

    def converged(self, w: np.ndarray, size: float, rate: float) -> bool:
        """Return whether the error of the field is small against its change in the step, by the last residual, at W.

        The error after one more evaluation of S is estimated as ``rate`` times the residual.
        """
        return (rate * size <= 0.5 * CONSISTENCY * norm(self.after - self.now)
                or size <= ROUNDING * norm(w))

    def trial(self, w: np.ndarray) -> _Trial:
        """Return the move with W frozen, and the numbers that bound its change of F."""
        self.residual(w)
        d = self.masses - self.start
        fall = self.energy.frozen_energy(self.start, w) - self.energy.frozen_energy(self.masses, w)
        return _Trial(self.masses, fall, float(((self.now - w) * d).sum()) - fall,
                      float(((self.after - self.now) * d).sum()))


def _functionals(energy: EnergyOnGrid, masses: np.ndarray) -> float:
    """Return the functionals' part of the energy."""
    return sum(factor * term.energy(masses) for factor, term in energy.functionals)
