r"""Steps of fourth order that solve both axes of a plane at once, for stiff directions that are oblique to the axes.

Split steps relax one axis after the other. In a narrow oblique valley a sweep moves the law to where a line crosses the
valley, whatever the length of the step: along the valley it then gets on by no more than the width of the valley, and
the steps must stay as short as the time in which the law relaxes across it. The equations of the compact fluxes,
:math:`m' = L m` with :math:`L = \sum_a B_a^{-1} A_a`, can be solved without splitting them:

.. math:: m(t + \Delta t) = \sum_{k=1}^{5} c_k J^k m, \qquad J = (I - \gamma\,\Delta t\,L)^{-1},

of order 5, L-stable, with the formula of order 3 of the first four terms for the error. Each J is found by GMRES,
preconditioned by :math:`P = (I - \gamma\,\Delta t \sum_a A_a)^{-1}`, of which a sparse LU decomposition is kept while
the length of the steps stays. The weights of B_a lie between 2/3 and 1 where the cells resolve Psi, so that eight
iterations or so serve at any length of the step.

The :math:`A_a` have positive rates and columns that sum to 0: P is a stochastic matrix, keeps mass, sign and Gibbs
states, and lowers every convex entropy relative to them. The same Gibbs states are those of L, and all directions of
GMRES have no mass. What the formula leaves negative is raised to a part of :math:`P^2 m`. It is tried first; where F
rises two steps of P of half the length take over, of first order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from wgflow.compiled.compact import (
    FIFTH_WEIGHTS,
    GAMMA5,
    LINE_POWER,
    THIRD_WEIGHTS,
    _add_strips,
    _mobile,
    _unit_rates,
    line_error,
    round_length,
)
from wgflow.energies.nodes import NodeGrid
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.progress import pulse

from ..krylov import gmres
from .compact import Compact, mend
from .compact_sweeps import CompactSweeps
from .stepper import Move, State, Stepper

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import SuperLU

__all__ = ["Unsplit", "UnsplitSweeps"]

#: Residual of a resolvent, relative to that of its preconditioner alone, and iterations in which it must be reached.
FORCING, MOST_ITERATIONS = 1e-7, 60
#: A residual below this part of the masses is round-off.
ROUND_OFF = 1e-15
#: Lengths of resolvents whose decompositions are kept: those of whole steps and of the two halves.
KEPT = 2


class UnsplitSweeps(CompactSweeps):
    """Compact fluxes of one plane with a fixed Psi, with resolvents of all axes at once.

    Attributes
    ----------
    iterations, decompositions : int
        Products with L in the resolvents, and decompositions, so far.
    """

    def __init__(self, grid: NodeGrid, diffusion: float, static: bool, threads: int,
                 mobility: Sequence[np.ndarray] | None = None):
        super().__init__(grid, diffusion, static, threads, mobility)
        self.operators: list[tuple[csc_matrix, SuperLU]] = []
        self.decomposed: dict[float, SuperLU] = {}
        self.iterations = self.decompositions = 0

    def plane(self, masses: np.ndarray, psi: np.ndarray, dt: float) -> tuple[np.ndarray, float, float] | None:
        """Return the masses after dt by the formula of order 5, their distance to that of order 3 and to the start.

        None where a resolvent was not found.
        """
        start = masses.ravel()
        x, best, third = start, np.zeros(start.size), np.zeros(start.size)
        for k, weight in enumerate(FIFTH_WEIGHTS):
            found = self._resolvent(x, psi, GAMMA5 * dt)
            if found is None:
                return None
            x = found
            best += weight * x
            if k < len(THIRD_WEIGHTS):
                third += THIRD_WEIGHTS[k] * x
        distance, whole = float(np.abs(best - third).sum()), float(np.abs(best - start).sum())
        self.moved = 0.0
        if best.min() < 0.0:
            self.moved = mend(best, self.safe(start, psi, GAMMA5 * dt))
        return best.reshape(masses.shape), distance, whole

    def safe(self, masses: np.ndarray, psi: np.ndarray, part: float) -> np.ndarray:
        """Return the masses after two implicit Euler steps by the positive rates alone: stochastic, of first order."""
        lu = self._decomposition(psi, part)
        x = masses.ravel()
        for _ in range(2):
            # Far out in the tails the solve leaves negative zeros and round-off.
            x = np.maximum(lu.solve(x), 0.0)
        return (x * (float(masses.sum()) / float(x.sum()))).reshape(masses.shape)

    def _resolvent(self, b: np.ndarray, psi: np.ndarray, s: float) -> np.ndarray | None:
        """Return (I - s L)^-1 b, by GMRES from P b on; None where that does not converge."""
        lu = self._decomposition(psi, s)

        def product(z: np.ndarray) -> np.ndarray:
            self.iterations += 1
            x = lu.solve(z)
            return x - s * self._generator(x)

        x = lu.solve(b)
        rest = b - (x - s * self._generator(x))
        size = math.sqrt(_dot(rest, rest) / _dot(b, b))
        if size <= ROUND_OFF:
            return x
        found = gmres(product, rest, dot=_dot, forcing=max(FORCING, ROUND_OFF / size), limit=MOST_ITERATIONS)
        return x + lu.solve(found.x) if found.converged else None

    def _generator(self, x: np.ndarray) -> np.ndarray:
        """Return L x, the sum of the rates of change of point masses along the axes."""
        total = np.zeros(x.size)
        for rates, weights in self.operators:
            total += weights.solve(rates @ x)
        return total

    def _decomposition(self, psi: np.ndarray, s: float) -> SuperLU:
        """Return the LU decomposition of I - s sum A_a; the length used least recently makes room."""
        from scipy.sparse import identity

        if not self.operators:
            self.operators = [self._operator(psi, axis) for axis in range(self.grid.ndim)]
        lu = self.decomposed.pop(s, None)
        if lu is None:
            while len(self.decomposed) >= KEPT:
                del self.decomposed[next(iter(self.decomposed))]
            lu = _decomposed(identity(self.grid.size) - s * sum(rates for rates, _ in self.operators),
                             "MMD_AT_PLUS_A")
            self.decompositions += 1
        self.decomposed[s] = lu
        return lu

    def _operator(self, psi: np.ndarray, axis: int) -> tuple[csc_matrix, SuperLU]:
        """Return A_a, and B_a decomposed."""
        from scipy.sparse import csc_matrix, identity

        n, size = self.grid.shape[axis], self.grid.size
        own, logarithm = self.mobile[axis]
        pull = psi if logarithm is None else psi - logarithm.reshape(psi.shape)
        lines = np.ascontiguousarray(np.moveaxis(pull, axis, 0), dtype=float).reshape(n, -1)
        cells = np.moveaxis(np.arange(size).reshape(self.grid.shape), axis, 0).reshape(n, -1)
        rates = np.empty((4, *lines.shape))
        _unit_rates(lines, self.diffusion, self.grid.steps[axis], self.grid.periodic[axis], rates)
        if own.size:
            a_lines = np.ascontiguousarray(np.moveaxis(own[:size].reshape(psi.shape), axis, 0)).reshape(n, -1)
            _mobile(rates, a_lines, self.grid.periodic[axis])
            if own.size > size and not self.grid.periodic[axis]:
                _add_strips(rates, *own[size:].tolist())
        a, b, p, r = rates
        edges = n if self.grid.periodic[axis] else n - 1
        here, there = cells[:edges].ravel(), np.roll(cells, -1, axis=0)[:edges].ravel()
        rows, columns = np.concatenate([there, here, here, there]), np.concatenate([here, here, there, there])

        def flows(right: np.ndarray, left: np.ndarray) -> csc_matrix:
            u, v = right[:edges].ravel(), left[:edges].ravel()
            return csc_matrix((np.concatenate([u, -u, v, -v]), (rows, columns)), shape=(size, size))

        return flows(a, b), _decomposed(identity(size) + flows(p, r), "NATURAL" if axis else "MMD_AT_PLUS_A")


class Unsplit(Compact):
    """The candidates of a step without splitting; see the module's text."""

    def moves(self, stepper: Stepper, energy: EnergyOnGrid, state: State, scaled: float,
              end: float) -> Iterator[Move]:
        sweeps, dt, masses = cast(UnsplitSweeps, stepper.sweeps), round_length(scaled), state.masses
        psi, found = sweeps.potential(energy), None
        if masses.any():
            found = sweeps.plane(masses, psi, dt)
        self.moved = 0.0
        if found is not None:
            best, distance, whole = found
            self.moved = sweeps.moved / stepper.mass
            self.power, self.error = LINE_POWER, line_error(distance, whole, stepper.mass)
            yield Move(stepper.conserve(best))
        safe = sweeps.safe(masses, psi, 0.5 * dt)
        self.moved = 0.0
        # Of first order: its error is like its distance to the formula of order 5, or to where it came from.
        other = masses if found is None else found[0]
        self.power, self.error = 2.0, float(np.abs(safe - other).sum()) / stepper.mass
        yield Move(stepper.conserve(safe))


def _decomposed(matrix: csc_matrix, order: str) -> SuperLU:
    """Return the LU decomposition of a matrix with a symmetric pattern and dominant columns: without pivoting."""
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    pulse(f"decomposing a matrix of {matrix.shape[0]:,} unknowns")
    return splu(csc_matrix(matrix), permc_spec=order, diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _dot(u: np.ndarray, v: np.ndarray) -> float:
    # Not by a BLAS, whose sums depend on the number of threads.
    return float((u * v).sum())
