r"""Newton's method for a JKO step along straight geodesics on a line with an internal energy.

The unknowns are the slopes :math:`q = H'(M)` of the cells, with their masses M, and the ends y to which the map takes
the faces, with the mass R(y) below them. They meet

.. math:: P_K(y) = R(y_{K+1}) - R(y_K) = M_K, \qquad y_f = x_f + \tau (\nabla p)_f, \qquad p = q + V + U M.

The pairs (q, M) and (y, R) lie on monotone graphs with flat and steep parts: M(q) is exponential in tails and has a
corner at a front, R is flat in voids and steep in clusters. A step along the tangent of a graph overshoots where the
graph turns. So steps are taken in the parameter of Minty, the sum of both coordinates,

.. math:: s = q + \kappa M, \qquad t = y + R(y) / \sigma,

of which each coordinate is a function of slope at most 1: a step is then linear in M where M is large and linear in q
where it is small. Newton's matrix in q is the Laplacian weighted by :math:`\tau \rho(y)` plus the diagonal dM/dq,
symmetric and positive definite; with an interaction its response is added and GMRES solves. A step is shortened until
less mass is out of balance.

Where H' is infinite at 0, tails that are empty up to round-off leave the iteration, if asked for (`Tails`).

References
----------
G. J. Minty, Monotone (nonlinear) operators in Hilbert space, Duke Math. J. 29 (1962) 341-346. K. Brenner and
C. Cances, Improving Newton's method performance by parametrization: the case of the Richards equation, SIAM J. Numer.
Anal. 55 (2017) 1760-1785.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wgflow.compiled.linearized import compensated_dot, internal_slopes, masses_of_slopes, slopes_of_sums
from wgflow.compiled.remap import ends_of_sums, remap_line, sums_of_ends
from wgflow.progress import pulse

from ...krylov import gmres
from .tails import Tails

if TYPE_CHECKING:
    from .stage import Iterate, Stage

#: Least density at an end, and least derivative of a mass, in Newton's matrix, relative to the typical one (the largest
#: derivative is its reciprocal).
LEAST = 1e-13
#: The same where empty tails are left out.
LEAST_INSIDE = 1e-15
#: Relative difference of two masses below which the tangent of H' stands for the chord.
CLOSE = 1e-3
#: Cells with a density below this part of the typical one are void.
VOID = 1e-12
#: Part of the way to a void that an end goes at most, and the distance in cells from which on it may enter.
PART = 0.9
NEAR = 1e-6
#: Halvings of a step.
MAX_HALVINGS = 7
#: Iterations in a row that bring neither the residual nor the imbalance below its least value so far.
PATIENCE = 25
#: Reduction of the residual of the linear system where GMRES solves it.
FORCING = 1e-6
#: The largest one where empty tails are left out: up to this it is the part of the mass that is out of balance, with
#: which Newton's method stays quadratic.
COARSE = 1e-2
#: Iterations of GMRES.
MAX_LINEAR = 40


class _Pair(NamedTuple):
    """Slopes and ends with what follows from them.

    ``lag`` is :math:`(y - x) / \\tau - \\nabla p` at the faces, ``imbalance`` the mass that both equations miss.
    """

    unknown: np.ndarray
    asked: np.ndarray
    derivatives: np.ndarray
    ends: np.ndarray
    moved: np.ndarray
    weights: np.ndarray
    lag: np.ndarray
    imbalance: float


class LineNewton:
    """Newton's method for the equations of one step on a line.

    Parameters
    ----------
    stage : Stage
        The equations.
    tails : bool
        Whether empty tails are left out.
    """

    def __init__(self, stage: Stage, tails: bool = False):
        self.tails = Tails(stage) if tails else None
        self.least = LEAST_INSIDE if tails else LEAST
        self.stage, self.exact, self.solver = stage, stage.exact, stage.solver
        self.tau, self.edges = stage.tau, stage.exact.edges[0]
        self.below: np.ndarray = np.append(0.0, np.cumsum(stage.row))
        start, solver = stage.start, stage.solver
        density = start / np.diff(stage.grid.edges[0])
        self.sigma = compensated_dot(start, density) / stage.total
        self.floor = solver.floor(start)
        slopes, curvatures = np.empty((2, start.size))
        internal_slopes(start, solver.log_reference, self.floor, solver.terms, slopes, curvatures)
        self.left, self.right = self._voids()
        squares = start * start
        self.kappa = compensated_dot(squares, curvatures) / float(squares.sum())
        self.near = NEAR * float(np.diff(stage.grid.edges[0]).min())
        # No cell holds more than the whole mass.
        self.highest = np.empty(start.size)
        internal_slopes(np.full(start.size, stage.total), solver.log_reference, self.floor, solver.terms, self.highest,
                        curvatures)

    def _voids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each cell, the nearest void to its left and to its right; infinity where there is none, in voids,
        and where the internal energy leaves voids empty."""
        n = self.stage.row.size
        void = self.stage.row < VOID * self.sigma * np.diff(self.edges)
        if not self.exact.singular:
            return np.full(n, -np.inf), np.full(n, np.inf)
        left, right = np.where(void, self.edges[1:], -np.inf), np.where(void, self.edges[:-1], np.inf)
        left, right = np.maximum.accumulate(left), np.minimum.accumulate(right[::-1])[::-1]
        return np.where(void, -np.inf, left), np.where(void, np.inf, right)

    def run(self, point: Iterate, limit: int) -> tuple[Iterate, int]:
        """Iterate from a point until the residual meets the tolerance or nothing improves; return the best, and the
        count."""
        best, least, since, iteration = point, math.inf, 0, 0
        pair = self._look(point.unknown, np.clip(self.stage.ends(point.pressure), self.edges[0], self.edges[-1]))
        while pair is not None and best.residual > self.solver.tolerance and iteration < limit and since < PATIENCE:
            pulse(f"Newton step {iteration + 1}, residual {best.residual:.1e}")
            iteration, since = iteration + 1, since + 1
            pair = self._next(pair)
            found = None if pair is None else self.stage.look(pair.unknown)
            if pair is not None and pair.imbalance < 0.5 * least:
                least, since = pair.imbalance, 0
            if found is not None and found.residual < best.residual:
                since = 0 if found.residual < 0.5 * best.residual else since
                best = found
        return best, iteration

    def _look(self, unknown: np.ndarray, ends: np.ndarray) -> _Pair | None:
        solver, stage = self.solver, self.stage
        (asked, derivatives), weights = np.empty((2, unknown.size)), np.empty(ends.size)
        if not masses_of_slopes(unknown, solver.log_reference, solver.terms, asked, derivatives):
            return None
        field = solver.field(asked)
        if self.tails is not None:
            unknown, ends = self.tails.continued(unknown, ends, field)
            if not masses_of_slopes(unknown, solver.log_reference, solver.terms, asked, derivatives):
                return None
        pressure = unknown + field
        moved = np.empty(unknown.size)
        remap_line(stage.row, self.edges, stage.density, ends, moved, weights)
        weights[(ends < self.edges[0]) | (ends > self.edges[-1])] = 0.0
        lag = (ends - stage.grid.edges[0]) / self.tau - self.exact.differences(pressure, 0)
        imbalance = float(np.abs(moved - asked).sum() + self.tau * np.abs(weights * lag).sum())
        if not math.isfinite(imbalance):
            return None
        return _Pair(unknown, asked, derivatives, ends, moved, weights, lag, imbalance)

    def _next(self, pair: _Pair) -> _Pair | None:
        """Return the pair after one step of Newton's method."""
        # Where H' is finite at 0, an empty cell has no tangent, and mass that comes to it none to go by.
        derivatives = pair.derivatives if self.exact.singular else self._chords(pair)
        derivatives = np.clip(derivatives, self.least / self.kappa, 1.0 / (self.least * self.kappa))
        weights = np.maximum(pair.weights, self.least * self.sigma)
        change = self._direction(pair, derivatives, weights)
        if change is None:
            return None
        response = 0.0 if self.exact.local else self.solver.response(derivatives * change, pair.asked)
        shift = self.tau * (self.exact.differences(change + response, 0) - pair.lag)
        shift *= 1.0 + weights / self.sigma
        change *= 1.0 + self.kappa * derivatives
        sums = np.empty(pair.ends.size)
        sums_of_ends(pair.ends, self.stage.row, self.edges, self.stage.density, self.below, self.sigma, sums)
        slopes = pair.unknown + self.kappa * pair.asked
        best, share = None, 1.0
        for _ in range(MAX_HALVINGS + 1):
            new = self._moved(pair, slopes + share * change, sums + share * shift)
            if new is not None and (best is None or new.imbalance < best.imbalance):
                best = new
                if new.imbalance < (1.0 - 0.1 * share) * pair.imbalance:
                    break
            share *= 0.5
        return best

    def _chords(self, pair: _Pair) -> np.ndarray:
        """Return the slopes of the chords of M(q) from the masses asked for to those moved, which tend to dM/dq."""
        solver, target = self.solver, np.clip(pair.moved, self.floor, self.stage.total)
        slopes, rest = np.empty((2, target.size))
        internal_slopes(target, solver.log_reference, self.floor, solver.terms, slopes, rest)
        change = target - pair.asked
        far = np.abs(change) > CLOSE * np.maximum(target, pair.asked)
        far &= slopes != pair.unknown
        return np.divide(change, slopes - pair.unknown, out=pair.derivatives.copy(), where=far)

    def _direction(self, pair: _Pair, derivatives: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
        """Return the change of q."""
        system, distances = self.exact.system, self.stage.grid.distances[0]
        diagonal = system.set_rates([weights[1:][:distances.size] * self.tau / distances])
        if not system.factorize(derivatives + diagonal):
            return None
        right = pair.moved - pair.asked - np.diff(self.tau * weights * pair.lag)
        if self.exact.local:
            change = system.solve(right)
        else:
            def product(x: np.ndarray) -> np.ndarray:
                pulled = system.laplacian(x + self.solver.response(derivatives * x, pair.asked))
                return pulled + derivatives * x

            coarse = FORCING if self.tails is None else COARSE
            forcing = max(FORCING, min(coarse, pair.imbalance / self.stage.total))
            change = gmres(product, right, dot=compensated_dot, forcing=forcing, limit=MAX_LINEAR,
                           precondition=system.solve).x
        return change if np.isfinite(change).all() else None

    def _moved(self, pair: _Pair, slopes: np.ndarray, sums: np.ndarray) -> _Pair | None:
        """Return the pair at given parameters."""
        solver, stage = self.solver, self.stage
        unknown, ends = np.empty(slopes.size), np.empty(sums.size)
        slopes_of_sums(slopes, self.kappa, solver.log_reference, solver.terms, pair.asked, unknown)
        ends_of_sums(sums, stage.row, self.edges, stage.density, self.below, self.sigma, ends)
        return self._look(np.minimum(unknown, self.highest), self._before_voids(pair.ends, ends))

    def _before_voids(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Return new ends, none of which goes more than a part of the way from the old one to a void unless it is near.

        Beside a jump of the density to 0 the tangent takes ends into the void, from where the way back is long.
        """
        cells = np.clip(np.searchsorted(self.edges, old, side="right") - 1, 0, self.left.size - 1)
        room_left, room_right = old - self.left[cells], self.right[cells] - old
        low = np.where(room_left > self.near, old - PART * room_left, -np.inf)
        return np.clip(new, low, np.where(room_right > self.near, old + PART * room_right, np.inf))
