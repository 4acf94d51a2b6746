r"""Newton's method for a debiased entropic step as a whole: its law and the scaling of that law with itself together.

With the logarithm e of the self-scaling d as unknown the law is :math:`\ell = e + \log K e^e`, so that
:math:`d\,K d = b` holds by definition, and the potential of the coupling is :math:`\log v = e - \kappa (V + U b +
H'(b))`, :math:`\kappa = \tau / \varepsilon`. Left is one equation a cell: the second marginal c of the coupling is b,

.. math:: R(e) = \log c - \ell = 0 .

With the averages P, P* under the coupling, Q under :math:`d\,K d`, and :math:`\lambda = \kappa\,b H''(b)` a change z of
e changes :math:`\ell` by :math:`s = (1 + Q) z` and R by

.. math:: -(Q + P^* P)\,z - (1 - P^* P)\,(\lambda s + \kappa U (b s)),

since 1 - P*P takes changes of log v to those of log c. Updating law and self-scaling in turn has no more than the
difference of 1 and :math:`(1 - P^* P) (1 + Q)^{-1}` to live on where :math:`\lambda` is small: for porous media it
crawls at fronts.

Where a law is about to leave a cell (R < 0, as the multiplier of b >= 0 has it), :math:`d\,R = 0` is the equation to
solve, in d itself: its derivative adds -R to the diagonal, and d falls by a large factor at once (Coleman and Li's
scaling), in place of a constant factor in each round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wgflow.compiled.log_convolution import LogSum, weighted_dot
from wgflow.progress import pulse

from ...krylov import gmres
from .fields import surrounding
from .scaling import Coupling, ScalingProblem, safe_exp

__all__ = ["JointNewton", "JointPoint"]

#: Iterations of GMRES for a step.
MAX_LINEAR = 40
#: Largest and least reduction of the residual that is asked of it.
COARSEST, FINEST = 1e-1, 1e-3
#: The damping after a step that was refused, at least; the factor by which it rises then, and falls after a good step.
FIRST_DAMPING, HARDER, EASIER = 1e-2, 10.0, 5.0
#: Dampings that are tried in a step.
MAX_TRIALS = 3
#: Factors by which d falls and rises at most in a step.
FALL, RISE = 1e-2, 10.0
#: The logarithm of the part of what is around a cell that it keeps.
LOWEST = -25.0
#: The logarithm of the part to which a cell that fills from almost nothing is filled before a step.
FILLED = -7.0
#: The part of the defect from which on that is done.
FEW = 0.1
#: The largest residual that counts: no cell changes by so large a factor in a step.
LARGEST = 50.0
#: Part of the largest mass below which a cell does not count.
NOTHING = 1e-100
#: The defect from which on no step is tried: the equations are exponentials, and only scaling steps are safe far away.
FAR = 0.1
#: A step that leaves more than this part of the defect is the last one.
SLOW = 0.5
#: Steps in a row.
MAX_STEPS = 12


class JointPoint(NamedTuple):
    """Log d, the sums K d, log b, the linear part of the energy at b, and the coupling of its first variation.

    ``floor`` is a small part of what is around a cell, as a logarithm, ``filling`` the mass that counts in a cell
    because it fills from almost nothing, ``defect`` that part of the mass which is misplaced, with both.
    """

    d: np.ndarray
    sums: LogSum
    logs: np.ndarray
    psi: np.ndarray
    coupling: Coupling
    floor: np.ndarray | float
    filling: np.ndarray | float
    defect: float


class JointNewton:
    """Newton's method for one debiased step at one epsilon.

    Parameters
    ----------
    problem : ScalingProblem
    linear : callable
        The linear part of the energy, self-transport included, at masses and log d.
    response : callable
        Its change with a change of the masses at fixed d: U times that, or None where there is no U.
    """

    def __init__(self, problem: ScalingProblem, linear: Callable[[np.ndarray, np.ndarray], np.ndarray],
                 response: Callable[[np.ndarray], np.ndarray | None]):
        self.problem, self.linear, self.response = problem, linear, response

    def look(self, d: np.ndarray) -> JointPoint:
        """Return the point at a self-scaling."""
        problem = self.problem
        sums = problem.convolution(d)
        logs = d + sums.values
        psi = self.linear(safe_exp(logs), d)
        coupling = problem.couple(psi, logs)
        if problem.energy.diffusion > 0:
            return JointPoint(d, sums, logs, psi, coupling, -np.inf, 0.0, coupling.defect)
        around = surrounding(problem.convolution, logs)
        filling = safe_exp(around) * np.clip(coupling.coupled - logs, 0.0, 1.0)
        return JointPoint(d, sums, logs, psi, coupling, around + LOWEST, filling,
                          coupling.defect + float(filling.sum()) / problem.mass)

    def run(self, d: np.ndarray, tolerance: float) -> tuple[JointPoint | None, int]:
        """Iterate from a self-scaling while the defect falls fast; return the best point, None where no step helps."""
        point, taken = self.look(d), 0
        self.damping = 0.0
        if point.defect > FAR:
            return None, 0
        while taken < MAX_STEPS and point.defect > tolerance:
            pulse(f"Newton step {taken + 1}, {point.defect:.1e} of the mass misplaced")
            new = self._search(point)
            if new is None:
                break
            taken, before, point = taken + 1, point.defect, new
            if point.defect > SLOW * before:
                break
        return (point if taken else None), taken

    def _search(self, point: JointPoint) -> JointPoint | None:
        """Return the next point; None where no damping lowers the defect."""
        base = self._filled(point)
        for _ in range(MAX_TRIALS):
            change = self._direction(base)
            factor = np.where(change < 0, np.maximum(1.0 + change, FALL), 1.0 + np.minimum(change, RISE))
            # A cell that is as good as empty is left so much that it can fill again.
            least = np.minimum(base.d, base.floor - base.sums.values)
            new = self.look(np.maximum(base.d + np.log(factor), least))
            if new.defect < point.defect:
                self.damping = self.damping / EASIER if self.damping > FIRST_DAMPING else 0.0
                return new
            self.damping = max(HARDER * self.damping, FIRST_DAMPING)
        return None

    def _filled(self, point: JointPoint) -> JointPoint:
        """Return the point with some mass in cells that fill from almost nothing, if much of the defect is in these."""
        if not float(np.sum(point.filling)) > FEW * point.defect * self.problem.mass:
            return point
        residual = np.clip(point.coupling.coupled - point.logs, np.finfo(float).tiny, 1.0)
        rise = point.floor - LOWEST + FILLED + np.log(residual) - point.logs
        return self.look(point.d + np.where(point.filling > 0, np.maximum(rise, 0.0), 0.0))

    def _direction(self, point: JointPoint) -> np.ndarray:
        """Return the relative change of d."""
        problem, coupling = self.problem, point.coupling
        residual, masses = coupling.coupled - point.logs, safe_exp(point.logs)
        stiffness = problem.kappa * problem.energy.stiffness(point.logs)
        weight = 0.5 * (masses + safe_exp(coupling.coupled)) + point.filling
        # Cells that do not count in the norm of the residual are left as they are: nothing bounds their changes.
        counts, weight = weight > NOTHING * weight.max(), weight.ravel()
        residual = np.where(counts, np.clip(residual, -LARGEST, LARGEST), 0.0)
        # The damping keeps changes small where the equations hardly determine them: between cells, at a front.
        added = np.maximum(-residual, 0.0) + self.damping
        scale = 1.0 / (1.0 + stiffness + added)

        def product(y: np.ndarray) -> np.ndarray:
            change = self.derivative(point, masses, stiffness, scale * y) + added * (scale * y)
            return np.where(counts, change, 0.0)

        def dot(x: np.ndarray, y: np.ndarray) -> float:
            return weighted_dot(weight, x.ravel(), y.ravel())

        forcing = max(FINEST, min(COARSEST, point.defect))
        # A search that leaves the range of numbers ends there.
        with np.errstate(over="ignore", invalid="ignore"):
            return scale * gmres(product, residual, dot=dot, forcing=forcing, limit=MAX_LINEAR).x

    def derivative(self, point: JointPoint, masses: np.ndarray, stiffness: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the change of -R with a change z of log d; ``stiffness`` is lambda."""
        problem, coupling = self.problem, point.coupling
        problem.check_time()
        s = z + point.sums.average(z)
        v = z - stiffness * s
        answer = self.response(masses * s)
        if answer is not None:
            v = v - problem.kappa * answer
        return s - v + coupling.back.average(coupling.toward.average(v))
