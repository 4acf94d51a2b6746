r"""A start for Newton's method where the step before gives none: continuation in tau, with masses as unknowns.

Masses M have pressures :math:`p = V + U M + H'(M)`. The Hamilton-Jacobi equation
:math:`\phi + \tfrac\tau2 |(\nabla\phi)^+|^2 = p`, which has a solution for every p, gives their potential. The equation
left to solve is that of transport, :math:`J(\phi)^\top M = M^0`, the stationarity of the dual value

.. math:: \langle M^0, \phi \rangle - \langle M, p \rangle + F(M).

Masses are the better unknowns in tails, where a small error of the potential moves the mass far away. Solutions for
short tau lead to those for long ones, since an iteration moves the places where the flow turns by a few cells only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.linearized import compensated_dot, imbalance, internal_slopes, invert_hamiltonian
from wgflow.progress import pulse

if TYPE_CHECKING:
    from .solver import LinearizedSolver

#: Part of the mass that is spread evenly, so that no cell of the start is empty.
SPREAD_MASS = 1e-12
#: First values of tau to try, as parts of the step's.
FIRST = (2.0**-3, 2.0**-6, 2.0**-10, 2.0**-16)
#: Factor from one tau to the next.
FACTOR = 2.0
#: Failures after which a start is given up; after each the factor is replaced by its root.
MAX_FAILURES = 6
#: Missing mass (relative) at which a stage ends.
STAGE = 1e-3
#: Missing mass from which on the last stage looks at the gap.
LAST = 1e-4
#: Iterations of a stage.
STAGE_ITERATIONS = 15
#: Iterations of the last stage.
LAST_ITERATIONS = 30
#: Largest change of the logarithm of a mass in an iteration.
LARGEST_CHANGE = 5.0
#: Least part of the predicted increase that a step must give.
ARMIJO = 1e-4
#: Halvings of a step.
MAX_HALVINGS = 30
#: Part of the value below which round-off hides an increase.
HIDDEN = 1e-11
#: Where it is hidden: the part of the slope at the start of a step that may be left at its end.
FLATTER = 0.8
#: Defect of the Hamilton-Jacobi equation, relative to its rounding errors' scale, at which it counts as solved.
HAMILTONIAN_TOLERANCE = 1e-15
#: Iterations for the Hamilton-Jacobi equation.
HAMILTONIAN_ITERATIONS = 200


def approach(solver: LinearizedSolver, start: np.ndarray, tau: float) -> tuple[np.ndarray, int]:
    """Return a potential near that of the step of length tau from masses, and the iterations it took."""
    if not solver.internal:
        return _potential(solver, solver.field(start), tau), 1
    factor, failures, count = FACTOR, 0, 0
    for part in FIRST:
        length = part * tau
        stage = _Stage(solver, start, _filled(solver, start), length)
        good, used = stage.run(last=False)
        count += used
        if good:
            break
    kept, before = stage, length
    while good or failures < MAX_FAILURES:
        if good:
            if length >= tau:
                return stage.phi, count
            kept, before = stage, length
        else:
            failures += 1
            factor = math.sqrt(factor)
        length = min(tau, before * factor)
        stage = _Stage(solver, start, kept.masses, length, kept.phi)
        good, used = stage.run(last=length >= tau)
        count += used
    return stage.phi, count


def improve(solver: LinearizedSolver, start: np.ndarray, tau: float, masses: np.ndarray,
            phi: np.ndarray) -> tuple[np.ndarray, int]:
    """Return a better potential for a step, from masses and a potential near the result, and the iterations."""
    stage = _Stage(solver, start, _filled(solver, masses), tau, phi)
    _, count = stage.run(last=True)
    return stage.phi, count


def _filled(solver: LinearizedSolver, masses: np.ndarray) -> np.ndarray:
    """Return masses without empty cells."""
    volumes = solver.grid.volumes.ravel()
    return (1 - SPREAD_MASS) * masses + SPREAD_MASS * masses.sum() * volumes / volumes.sum()


class _Stage:
    """Masses and their potential for one tau."""

    def __init__(self, solver: LinearizedSolver, start: np.ndarray, masses: np.ndarray, tau: float,
                 phi: np.ndarray | None = None):
        self.solver, self.start, self.tau = solver, start, tau
        self.phi = solver.field(masses) if phi is None else phi
        self.masses, self.phi, self.value, self.curvatures = self._look(masses, self.phi)

    def _look(self, masses, phi) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        solver = self.solver
        slopes, curvatures = np.empty((2, masses.size))
        internal_slopes(masses, solver.log_reference, solver.floor(self.start), solver.terms, slopes, curvatures)
        field = solver.field(masses)
        phi = _potential(solver, field + slopes, self.tau, phi)
        value = compensated_dot(self.start, phi) - compensated_dot(masses, slopes) + solver.internal_energy(masses)
        return masses, phi, value + solver.nonlocal_remainder(masses, field), curvatures

    def run(self, last: bool) -> tuple[bool, int]:
        """Iterate until little mass is missing, or until the step is solved if this is the last stage.

        Return whether that was reached, and the number of iterations.
        """
        total = float(self.start.sum())
        iterations = LAST_ITERATIONS if last else STAGE_ITERATIONS
        for iteration in range(iterations):
            missing = self._assemble()
            size = float(np.abs(missing).sum())
            pulse(f"Newton step {iteration}, {size / total:.1e} of the mass misplaced")
            if size <= (LAST if last else STAGE) * total and (not last or self._solved()):
                return True, iteration
            if not math.isfinite(size) or not self._iterate(missing):
                return False, iteration
        return False, iterations

    def _solved(self) -> bool:
        return self.solver.residual(self.phi, self.start, self.tau) <= self.solver.tolerance

    def _assemble(self, masses=None, phi=None) -> np.ndarray:
        """Form the matrix at a point, by default the present one; return the missing masses."""
        system, missing = self.solver.system, np.empty(self.start.size)
        masses, phi = (self.masses, self.phi) if phi is None else (masses, phi)
        system.assemble(phi, masses, self.curvatures, self.tau)
        imbalance(masses, self.start, system.diagonal, system.coupling, system.graph.first, system.graph.second,
                  missing)
        return missing

    def _iterate(self, missing: np.ndarray) -> bool:
        right = np.column_stack((missing, np.zeros(missing.size)))
        scales = self.solver.scales(self.masses)
        for second_variation in self.solver.second_variations:
            direction = self.solver.system.solve(right, scales, second_variation, fresh=True)
            if direction is None or not np.isfinite(direction).all():
                continue
            increase = compensated_dot(missing, direction[:, 0])
            if self._search(direction, increase):
                return True
        return False

    def _search(self, direction, increase: float) -> bool:
        change = direction[:, 1] / self.masses
        share, size = 1.0, max(1.0, abs(self.value))
        for _ in range(MAX_HALVINGS):
            step = np.clip(share * change, -LARGEST_CHANGE, None)
            if self.solver.parts.diffusion > 0:
                factor = np.exp(np.minimum(step, LARGEST_CHANGE))
            else:
                factor = np.where(step > 0, 1 + step, np.exp(np.minimum(step, 0.0)))
            masses = np.maximum(self.masses * factor, self.solver.floor(self.start))
            new = self._look(masses, self.phi + share * direction[:, 0])
            if abs(increase) > HIDDEN * size:
                good = new[2] >= self.value + ARMIJO * share * increase
            else:
                # Round-off hides the increase: judge by the slope at the end of the step.
                slope = compensated_dot(self._assemble(new[0], new[1]), direction[:, 0])
                good = new[2] >= self.value - HIDDEN * size and abs(slope) <= FLATTER * abs(increase)
            if good:
                self.masses, self.phi, self.value, self.curvatures = new
                return True
            share *= 0.5
        return False


def _potential(solver: LinearizedSolver, pressure: np.ndarray, tau: float,
               start: np.ndarray | None = None) -> np.ndarray:
    """Return the potential whose Hamiltonian is the pressure."""
    phi = np.array(pressure if start is None else start)
    starts, cells, rates = solver.graph.rows
    invert_hamiltonian(pressure, tau, starts, cells, rates, phi, HAMILTONIAN_TOLERANCE, HAMILTONIAN_ITERATIONS)
    return phi
