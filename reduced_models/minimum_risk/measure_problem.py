"""The convex problem behind the least risk: quadratic in a measure, solved over its atoms and weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from wgflow.progress import say

from .psi_search import Box, PsiSearch

if TYPE_CHECKING:
    from ..base import ReducedModel

__all__ = ["LimitPoint", "MeasureProblem", "Solved", "State", "Watch"]

FloatArray = NDArray[np.float64]

_ROUNDS = 100  # of adding minima of Psi, at most
_NEWTON_STEPS = 30  # of one polish, at most; a few do where it converges
#: Part of the tolerance that the gap may take up for a measure of fewer or nearer atoms.
SIMPLER = 0.1
_LIGHT = 1e-4  # weight below which an atom is tried without
_FAR = 1e3  # length scales beyond which an atom is tried at infinity instead
_NEAR = 25.0  # length scales within which an atom counts as finite where another optimum needs atoms at infinity
_MERGE_RADII = (0.05, 0.01, 0.002, 0.0)  # in units of the search box
_DIFFERENCE = 1e-5  # step of the differences of gradients, in length scales


class LimitPoint(NamedTuple):
    r"""A limit of the features as a neuron's coordinates go to infinity.

    With ``mass=1``, ``features`` is the limit of :math:`F(\theta)` itself: the activation is bounded there and part of
    the neurons may sit at infinity. With ``mass=0`` features grow, and ``features`` is the limit of
    :math:`F(\theta)/g(\theta)`, g their growth: a vanishing part of the neurons, 1/g of them, then has a finite effect.
    ``point`` holds the coordinates (with ``inf``), ``diagonal`` the limit of :math:`U(\theta, \theta)`.
    """

    point: FloatArray
    features: FloatArray
    diagonal: float
    mass: float = 1.0


class State(NamedTuple):
    """Finite atoms and limit points with their weights; ``columns`` are the features of all, finite ones first."""

    points: FloatArray  # (n_coordinates, n)
    limits: tuple[int, ...]
    weights: FloatArray  # (n + number of limits,)
    columns: FloatArray  # (k, n + number of limits)
    value: float


class Solved(NamedTuple):
    """A measure, its certified gap and the rounds that it took."""

    state: State
    gap: float
    rounds: int


class Watch:
    """Looks at the clock, and tells of the progress, once in each round of a search.

    Parameters
    ----------
    time_limit : float or None
        Seconds.
    progress : bool or callable
        ``True`` writes to the log; a function is called with the number of rounds done and the gap.
    """

    def __init__(self, time_limit: float | None = None, progress: bool | Callable[[int, float], object] = False):
        self.deadline = math.inf if time_limit is None else time.monotonic() + time_limit
        self.progress, self.over, self.rounds = progress, False, 0

    def __call__(self, gap: float) -> bool:
        """Tell of one more round and of the gap reached; return whether the time is over."""
        self.rounds += 1
        if callable(self.progress):
            self.progress(self.rounds, gap)
        elif self.progress:
            say(f"minimum_risk: round {self.rounds}, gap {gap:.2e}")
        self.over = time.monotonic() >= self.deadline
        return self.over


class MeasureProblem:
    """The minimum of |sum_i w_i F(x_i) - p|^2 (weighted by the signs s) over atoms x_i in a box and limit points.

    The weights w_i are non-negative and of total mass 1. `LossProblem` has other functions of the moments.
    """

    #: The gap over the excess of the mean of Psi.
    gap_unit = 2.0

    def __init__(self, model: ReducedModel, box: Box, limits: tuple[LimitPoint, ...], search: PsiSearch,
                 watch: Watch | None = None):
        self.watch = watch or Watch()
        self.model, self.box, self.limits, self.search = model, box, limits, search
        self.size = model.target.size
        self.take_risk()
        self.limit_columns = np.array([p.features for p in limits]).reshape(len(limits), self.size).T
        self.limit_masses = np.array([p.mass for p in limits])

    # ---------------------------------------------------------------- the risk as a function of the moments
    def take_risk(self) -> None:
        """Note what the risk depends on."""
        self.target, self.signs = self.model.target, self.model.signs
        self.constant = self.model.label_second_moment - float(np.sum(self.signs * self.target**2))

    def value_of(self, z: FloatArray) -> float:
        """Return the risk at moments."""
        return float(np.sum(self.signs * (z - self.target) ** 2)) + self.constant

    def slopes_of(self, z: FloatArray) -> FloatArray:
        """Return the coefficients of Psi at moments."""
        return self.signs * (z - self.target)

    def curvature_of(self, z: FloatArray) -> FloatArray:
        """Return the derivative of each coefficient in its moment."""
        return self.signs

    def first_point(self) -> FloatArray:
        """Return the point of the sample from which the search starts, (n_coordinates, 1)."""
        distances = np.sum(self.signs[:, None] * (self.search.features - self.target[:, None]) ** 2, axis=0)
        return self.search.points[:, [int(np.argmin(distances))]]

    def interaction(self, z: FloatArray) -> float:
        """Return the interaction energy at moments, twice."""
        return float(np.sum(self.signs * z**2))

    def diagonal(self, state: State) -> FloatArray:
        """Return U(x, x) at the atoms, or its limits."""
        return np.append(self.model.diagonal(*state.points), [self.limits[i].diagonal for i in state.limits])

    def near_box(self) -> Box:
        """Return the box with its ends cut at 25 length scales beyond the default grid."""
        ends = [middle + _NEAR * scale for (_, middle), scale in zip(self.search.core, self.search.scales)]
        return tuple((low, min(high, end)) for (low, high), end in zip(self.box, ends))

    def far(self, state: State) -> NDArray[np.bool_]:
        """Return which finite atoms lie so far out on an infinite axis that they stand for infinity."""
        infinite = np.array([math.isinf(high) for _, high in self.box])
        return np.any(state.points[infinite] > _FAR * self.search.scales[infinite, None], axis=0)

    # ---------------------------------------------------------------- states
    def features(self, points: FloatArray) -> FloatArray:
        return np.asarray(self.model.features(*points), dtype=np.float64)

    def state(self, points: FloatArray, limits: Sequence[int], weights: FloatArray) -> State:
        chosen = self.limit_columns[:, list(limits)] if limits else np.empty((self.size, 0))
        columns = np.concatenate([self.features(points), chosen], axis=1)
        return State(points, tuple(limits), weights, columns, self.value_of(columns @ weights))

    def masses(self, state: State) -> FloatArray:
        return np.concatenate([np.ones(state.points.shape[1]), self.limit_masses[list(state.limits)]])

    def coefficients(self, state: State) -> FloatArray:
        return self.slopes_of(state.columns @ state.weights)

    def multiplier(self, state: State) -> float:
        """Return the mean of Psi under the measure; at every atom of an optimal measure Psi has this value."""
        return float(self.coefficients(state) @ (state.columns @ state.weights))

    def lowest(self, state: State) -> tuple[FloatArray, list[int], float]:
        """Return the local minima of Psi below its mean, the limit points below it, and the least value."""
        c, mean = self.coefficients(state), self.multiplier(state)
        points, values = self.search.minima(c)
        least = min(float(values[0]), *(c @ state.columns[:, : state.points.shape[1]]), math.inf)
        at_limits = self.limit_columns.T @ c - mean * self.limit_masses
        for excess, mass in zip(at_limits, self.limit_masses):
            if mass > 0.0:
                least = min(least, mean + float(excess))
            elif excess < -1e-13 * max(1.0, abs(mean)):
                least = -math.inf
        return points[:, values < mean], [int(i) for i in np.flatnonzero(at_limits < 0.0)], float(least)

    # ---------------------------------------------------------------- the algorithm
    def gap(self, state: State) -> float:
        return max(self.gap_unit * (self.multiplier(state) - self.lowest(state)[2]), 0.0)

    def solve(self, tolerance: float, state: State | None = None) -> Solved:
        """Return the optimal measure: minima of Psi are added and weights found anew until the gap stops falling."""
        if state is None:
            state = self.polished(self.state(self.first_point(), (), np.ones(1)))
        best, stalled = Solved(state, math.inf, 0), 0
        for rounds in range(1, _ROUNDS + 1):
            points, limits, least = self.lowest(state)
            gap = max(self.gap_unit * (self.multiplier(state) - least), 0.0)
            stalled = 0 if gap < best.gap else stalled + 1
            if gap < best.gap:
                best = Solved(state, gap, rounds)
            if self.watch(best.gap) or best.gap <= 1e-6 * tolerance or stalled >= (2 if best.gap <= tolerance else 8):
                break
            everything = np.concatenate([state.points, points], axis=1)
            state = self.refined(everything, sorted({*state.limits, *limits}))
        return best

    def simplified(self, solved: Solved, tolerance: float) -> Solved:
        """Return a measure of fewer atoms whose gap is small enough: far ones sent to infinity, near ones merged."""
        state = solved.state
        far = self.far(state)
        bounded = [i for i, mass in enumerate(self.limit_masses) if mass > 0.0]
        if np.any(far) and bounded:
            state = self.weighed(state.points[:, ~far], sorted({*state.limits, *bounded}))
        heavy = state.weights >= min(_LIGHT, float(np.max(state.weights[self.masses(state) > 0.0])))
        for start in (self.kept(state, heavy), state):
            for radius in _MERGE_RADII:
                if self.watch.over:
                    return solved
                trial = self.polished(self.merged(start, radius))
                gap = self.gap(trial)
                if gap <= max(solved.gap, SIMPLER * tolerance):
                    return Solved(trial, gap, solved.rounds)
        return solved

    def refined(self, points: FloatArray, limits: Sequence[int]) -> State:
        """Return the optimal measure on the points and limits, with near atoms merged, polished by Newton's method."""
        plain = self.weighed(points, limits)
        scale = max(1.0, abs(plain.value))
        for radius in _MERGE_RADII:
            state = self.polished(self.merged(plain, radius))
            if state.value <= plain.value + 1e-15 * scale:
                return state
        return plain

    def weighed(self, points: FloatArray, limits: Sequence[int]) -> State:
        r"""Return the measure of least risk on given points.

        The nearest point to 0 in the convex hull of columns g_i is that of the non-negative least squares problem
        min :math:`|\sum u_i g_i|^2 + c^2 (1 - \sum u_i)^2`, up to the scale of u, whatever c: the multiple of
        weights w that is best in it has the value :math:`c^2 D/(c^2 + D)`, D = :math:`|\sum w_i g_i|^2`.
        """
        empty = self.state(points, limits, np.zeros(points.shape[1] + len(limits)))
        mass = self.masses(empty)
        g = np.sqrt(self.signs)[:, None] * (empty.columns - self.target[:, None] * mass)
        lengths = np.sqrt(np.sum(g * g, axis=0))[mass > 0.0]
        row = float(np.min(lengths)) or 1.0
        u, _ = nnls(np.concatenate([g, row * mass[None]]), np.append(np.zeros(len(g)), row))
        return self.kept(self.state(points, limits, u / np.sum(u * mass)), u > 0.0)

    def kept(self, state: State, used: NDArray[np.bool_]) -> State:
        """Return the state with the used atoms alone, their weights scaled to total mass 1."""
        n, weights = state.points.shape[1], state.weights[used]
        limits = [limit for limit, use in zip(state.limits, used[n:]) if use]
        total = float(np.sum(weights * self.masses(state)[used]))
        return self.state(state.points[:, used[:n]], limits, weights / total)

    def merged(self, state: State, radius: float) -> State:
        """Return the state with atoms closer than ``radius`` in the unit box replaced by their center of mass."""
        n = state.points.shape[1]
        unit, left = self.search.to_unit(state.points), list(np.argsort(-state.weights[:n]))
        points, weights = [], []
        while left:
            near = [i for i in left if np.max(np.abs(unit[:, i] - unit[:, left[0]])) <= radius]
            left = [i for i in left if i not in near]
            mass = float(np.sum(state.weights[near]))
            points.append(state.points[:, near] @ state.weights[near] / mass)
            weights.append(mass)
        atoms = np.stack(points, axis=1) if points else state.points
        atoms = np.clip(atoms, self.search.low[:, None], self.search.high[:, None])  # rounding
        return self.state(atoms, state.limits, np.append(weights, state.weights[n:]))

    def polished(self, state: State) -> State:
        """Return the state after Newton steps on the optimality conditions, as long as their residual falls."""
        residual, jacobian, free = self.conditions(state)
        for _ in range(_NEWTON_STEPS):
            step = np.asarray(np.linalg.lstsq(jacobian, -residual, rcond=1e-12)[0], dtype=np.float64)
            trial = self.moved(state, step, free)
            if trial is None:
                break
            new = self.conditions(trial)
            if not np.linalg.norm(new[0]) < np.linalg.norm(residual):
                break
            state, (residual, jacobian, free) = trial, new
        return state

    def moved(self, state: State, step: FloatArray, free: NDArray[np.bool_]) -> State | None:
        """Return the state after a step, clipped to the box; None if a weight would turn negative."""
        n_free = int(np.sum(free))
        weights = state.weights + step[n_free:-1]
        total = float(np.sum(weights * self.masses(state)))
        if np.any(weights <= 0.0) or not total > 0.0:
            return None
        points = state.points.copy()
        points[free] += step[:n_free]
        points = np.clip(points, self.search.low[:, None], self.search.high[:, None])
        return self.state(points, state.limits, weights / total)

    def conditions(self, state: State) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        r"""Return the optimality conditions, their Jacobian, and which coordinates are free (not held at the box).

        .. math:: \nabla \Psi(x_i) = 0, \quad \Psi(x_i) = \lambda, \quad \sum_i w_i = 1
        """
        x, w, columns, mass = state.points, state.weights, state.columns, self.masses(state)
        dim, n = x.shape
        c = self.coefficients(state)
        gradients = np.asarray(self.model.feature_gradients(*x))  # (k, dim, n)
        slopes = np.tensordot(c, gradients, axes=1)
        low, high = self.search.low[:, None], self.search.high[:, None]
        free = ~((x <= low) & (slopes >= 0.0) | (x >= high) & (slopes <= 0.0))
        flat, owner = gradients[:, free], np.broadcast_to(np.arange(n), (dim, n))[free]
        psi, mean = c @ columns, self.multiplier(state)
        weighted = self.curvature_of(columns @ w)[:, None]
        d_values = columns.T @ (weighted * flat) * w[owner]
        d_values[owner, np.arange(owner.size)] += slopes[free]
        d_slopes = flat.T @ (weighted * flat) * w[owner]
        hessians = self.hessians(x, c)  # (dim, dim, n)
        rows = np.nonzero(free)[0]
        same = owner[:, None] == owner[None, :]
        d_slopes += np.where(same, hessians[rows[:, None], rows[None, :], owner[:, None]], 0.0)
        kernel = columns.T @ (weighted * columns)
        jacobian = np.block([
            [d_slopes, flat.T @ (weighted * columns), np.zeros((owner.size, 1))],
            [d_values, kernel, -mass[:, None]],
            [np.zeros((1, owner.size)), mass[None], np.zeros((1, 1))],
        ])
        return np.concatenate([slopes[free], psi - mean * mass, [np.sum(w * mass) - 1.0]]), jacobian, free

    def hessians(self, x: FloatArray, c: FloatArray) -> FloatArray:
        """Return the second derivatives of Psi by differences of the gradients, kept inside the box."""
        dim, n = x.shape
        result = np.empty((dim, dim, n))
        for j in range(dim):
            up, down = x.copy(), x.copy()
            up[j] = np.minimum(x[j] + _DIFFERENCE * self.search.scales[j], self.search.high[j])
            down[j] = np.maximum(x[j] - _DIFFERENCE * self.search.scales[j], self.search.low[j])
            slopes = [np.tensordot(c, np.asarray(self.model.feature_gradients(*y)), axes=1) for y in (up, down)]
            result[:, j] = (slopes[0] - slopes[1]) / (up[j] - down[j])
        return 0.5 * (result + result.transpose(1, 0, 2))
