r"""The exponential midpoint rule with the average of the interaction itself, solved for: F falls at any step.

.. math:: m' = S(\Delta t; V + W)\, m, \qquad W = U\,\frac{m + m'}{2}

S is the second-order resolvent product of `wgflow.compiled.sweep`, limited by resolvents where it would be negative.
With W frozen it keeps the mass, the sign and the Gibbs states of Psi = V + W, and it lowers the frozen energy
:math:`H_W(m) = D \sum m \log m + \langle V + W, m\rangle`. For any symmetric U and any W

.. math:: F(m') - F(m) = H_W(m') - H_W(m) + \langle U \tfrac{m + m'}{2} - W,\; m' - m\rangle,

so that F falls with H where the equation for W holds, whatever the length of the step, and still falls where it is
missed by less than H has fallen. The factors by which fluxes are corrected are taken from the first W and kept, so that
the equation is smooth.

It is solved by Anderson's acceleration, with two or three evaluations of S for steps that resolve the flow, and by
Newton's method for longer ones. Beyond the flow's own time scales it can have several solutions, of which any will do,
or one that is not found. Then S = J(dt/2)^2 is tried, the smoother map; and if that fails the best W met is taken, with
a part a of the step,

.. math:: F(m + a d) - F(m) \le a\,[H_W(m') - H_W(m) + \langle U m - W, d\rangle]
          + \tfrac{a^2}{2} \langle d, U d\rangle, \qquad d = m' - m,

which W = U m makes negative for a small enough. (1 - a) + a S is stochastic and keeps Gibbs states as S does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wgflow.compiled.sweep import HALVES, IMPLICIT_EULER, LIMITED_CORRECTED, LIMITED_PLAIN

from .driven import Driven
from .nonlinear import NonlinearStepper
from .nonlinear_equations import accelerate, newton_krylov, norm
from .splitting import Factors
from .stepper import ENERGY_SLACK, LONGEST_EXTRAPOLATION, State, Stepper

#: The equation for W is solved when U m' is wrong by this part of its change in the step, or of W itself.
CONSISTENCY, ROUNDING = 1e-6, 1e-15
#: Where it is not solved, F has to fall by this part of the fall of the frozen energy for the whole step to be taken.
ENOUGH = 0.5
#: Length of the differences in Newton's method, relative to the range of Psi.
DIFFERENCE = 1e-7


class _Midpoint:
    """What a stepper does otherwise under the midpoint scheme; see the module's text.

    Attributes
    ----------
    modes : (int, int)
        The second-order sweep, and the one that lowers the frozen energy whatever it is.
    n_evaluations, n_newton, n_damped : int
        Evaluations of S so far, steps that needed Newton's method, and steps of which a part was taken.
    """

    modes: tuple[int, int]
    found: tuple[Any, Any]
    n_evaluations = n_newton = n_damped = 0

    def step(self: Any, state: State, dt: float, stop: float | None = None) -> State | None:
        """The state a time dt later (exactly at ``stop`` if given), or None if it breaks a property."""
        scaled = self.flow.elapsed(state.t, dt)
        # Where nothing is solved for, nothing has to be smooth.
        modes = self.modes if self.parts.operators else (self.mode, *self.modes)
        for mode in modes:
            if self.flow.energy.time_dependent:
                self.freeze(state.t + 0.5 * dt)
            masses = self._move(state, scaled, mode, mode == modes[-1])
            new = None if masses is None else self._accept(state, dt, scaled, masses, stop)
            if new is not None:
                return new
        return None

    def _move(self: Any, state: State, scaled: float, mode: int, last: bool) -> np.ndarray | None:
        """The masses after a step; None if it is not the ``last`` mode and its equation is not solved, nor nearly."""
        if not self.parts.operators:
            self.n_evaluations += 1
            return self._conserve(self.split.move(state.masses, self.sweep_potential, scaled, mode))
        now: Any = self.parts.interaction(state.masses) if self.flow.energy.time_dependent else state.interaction
        equation = _Average(self, state.masses, now, scaled, mode)
        start = now
        if state.previous is not None and scaled <= LONGEST_EXTRAPOLATION * state.previous_dt:
            start = now + (0.5 * scaled / state.previous_dt) * (now - state.previous)
        near, solved = accelerate(equation.residual, start, equation.converged)
        if not solved and np.isfinite(equation.masses).all():
            self.n_newton += 1
            scale = DIFFERENCE * float(np.ptp(self.sweep_potential + now))
            root, solved = newton_krylov(equation.residual, now, equation.converged, scale)
            if not solved:
                masses = self._nearly(equation, (root, near), last)
                return None if masses is None else self._conserve(masses)
        self.found = equation.masses, equation.after
        return self._conserve(equation.masses)

    def _nearly(self: Any, equation: _Average, found, last: bool) -> np.ndarray | None:
        """The masses after a step whose equation is not solved, from the W found; a part of it if there is no other."""
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


class MidpointStepper(_Midpoint, Stepper):
    """Steps of one flow with linear diffusion."""

    def __init__(self, flow, corrected: bool, threads: int):
        super().__init__(flow, corrected, threads)
        self.modes = (LIMITED_CORRECTED if corrected else LIMITED_PLAIN), HALVES
        self.factors = Factors()
        self.found: tuple[Any, Any] = None, None

    def _accept(self, state: State, dt, scaled, masses, stop) -> State | None:
        if masses is not self.found[0]:
            return super()._accept(state, dt, scaled, masses, stop)
        # U rho is known from the last residual.
        interaction = self.found[1]
        energy = self.energy(masses, interaction)
        if not energy <= state.energy + ENERGY_SLACK * max(1.0, abs(state.energy)) or not masses.min() >= 0:
            return None
        return State(state.t + dt if stop is None else stop, state.clock + scaled, masses, energy, interaction,
                     state.interaction, scaled)


class NonlinearMidpointStepper(_Midpoint, NonlinearStepper):
    """Steps of one flow with nonlinear diffusion."""

    def __init__(self, flow, corrected: bool):
        super().__init__(flow, corrected)
        self.modes = self.mode, IMPLICIT_EULER


class DrivenMidpointStepper(Driven, MidpointStepper):
    """Steps of a driven flow with linear diffusion."""


class DrivenNonlinearMidpointStepper(Driven, NonlinearMidpointStepper):
    """Steps of a driven flow with nonlinear diffusion."""


class _Trial(NamedTuple):
    """A move m' = S m with W frozen: F(m + a d) - F(m) <= a slope + a^2 curvature / 2."""

    masses: np.ndarray
    fall: float
    slope: float
    curvature: float

    def share(self) -> float:
        """The part a of the move that lowers F most, as far as the bound tells."""
        if self.slope >= 0:
            return 0.0
        return 1.0 if self.curvature <= -self.slope else -self.slope / self.curvature

    def bound(self) -> float:
        """The bound at that part."""
        a = self.share()
        return a * (self.slope + 0.5 * a * self.curvature)


class _Average:
    """The equation W = U (m + S(V + W) m) / 2."""

    def __init__(self, stepper: Any, masses: np.ndarray, now: np.ndarray, dt: float, mode: int):
        self.stepper, self.start, self.now, self.dt, self.mode = stepper, masses, now, dt, mode
        self.kept = (stepper.factors,) if mode == LIMITED_CORRECTED else ()
        if self.kept:
            stepper.factors.known = False
        self.masses, self.after = masses, now

    def residual(self, w: np.ndarray) -> np.ndarray:
        """U (m + m') / 2 - W; m' and U m' are kept."""
        stepper = self.stepper
        stepper.n_evaluations += 1
        self.masses = stepper.split.move(self.start, stepper.sweep_potential + w, self.dt, self.mode, *self.kept)
        self.after = stepper.parts.interaction(self.masses)
        return 0.5 * (self.now + self.after) - w

    def converged(self, w: np.ndarray, size: float, rate: float) -> bool:
        """Whether U m' is right beside its change in the step; asked for the last residual, of norm ``size``, at W.

        S passes an error of W on as it passed on the last one, from one residual to the next: by ``rate``.
        """
        return (rate * size <= 0.5 * CONSISTENCY * norm(self.after - self.now)
                or size <= ROUNDING * norm(w))

    def trial(self, w: np.ndarray) -> _Trial:
        """What a move with W frozen does to F."""
        self.residual(w)
        d = self.masses - self.start
        energy = self.stepper.energy
        fall = energy(self.start, 2.0 * w) - energy(self.masses, 2.0 * w)
        return _Trial(self.masses, fall, float(((self.now - w) * d).sum()) - fall,
                      float(((self.after - self.now) * d).sum()))
