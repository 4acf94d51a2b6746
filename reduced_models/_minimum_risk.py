"""The least risk of an infinitely wide network: a convex problem over measures, solved with a certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from wgflow.errors import ConvergenceError, InvalidInput, InvalidType

from ._psi_search import Box, PsiSearch, check_box

if TYPE_CHECKING:
    from wgflow.atoms import Atoms

    from .base import ReducedModel

__all__ = ["LimitPoint", "MinimumRisk", "minimum_risk"]

FloatArray = NDArray[np.float64]

_ROUNDS = 100
_NEWTON_STEPS = 30
_MERGE_RADII = (0.05, 0.01, 0.002, 0.0)  # in units of the search box
_DIFFERENCE = 1e-5  # step of the differences of gradients, in length scales


class LimitPoint(NamedTuple):
    r"""What the features tend to as a neuron's coordinates go to infinity.

    With ``mass=1``, ``features`` is the limit of :math:`F(\theta)` itself: the activation is bounded there and part of
    the neurons may sit at infinity. With ``mass=0`` features grow, and ``features`` is the limit of
    :math:`F(\theta)/g(\theta)`, g their growth: a vanishing part of the neurons, 1/g of them, then has a finite effect.
    ``point`` holds the coordinates (with ``inf``), ``diagonal`` the limit of :math:`U(\theta, \theta)`.
    """

    point: FloatArray
    features: FloatArray
    diagonal: float
    mass: float = 1.0


@dataclass(frozen=True, eq=False)
class MinimumRisk:
    r"""The infimum of the risk over probability measures, with a bound of the error.

    Attributes
    ----------
    value : float
        :math:`R(\rho)` of the measure found, an upper bound of the infimum over the ``box``.
    gap : float
        :math:`2(\int \Psi\,d\rho - \min \Psi)`. By convexity ``value - gap`` is a lower bound of the infimum. The
        minimum is that of every dip of a dense sample of the box, followed to its bottom.
    atoms : ndarray, shape (n, n_coordinates)
        Points that carry the measure, by decreasing weight. A row of ``inf`` stands for neurons that escape to
        infinity: the infimum is then a limit, which no measure attains.
    weights : ndarray, shape (n,)
        Their weights, of sum 1. Neurons that escape so fast that a vanishing part of them counts have weight 0.
    moments : ndarray, shape (k,)
        :math:`z = \int F\,d\rho`, the one optimal value of the moments though the measure need not be unique.
    attained : bool
        Whether all atoms are finite.
    finite_width_excess : float
        :math:`K = \int U(\theta, \theta)\,\rho(d\theta)` of
        :math:`\inf R \le \inf_\theta R_N \le \inf R + K/N`.
    iterations : int
    box : tuple of (low, high)
        Where the coordinates were searched.

    Notes
    -----
    The minimum over measures is a convex problem with the optimality condition that :math:`\Psi(\cdot; \rho)` takes
    its least value at every atom.
    """

    value: float
    gap: float
    atoms: FloatArray
    weights: FloatArray
    moments: FloatArray = field(repr=False)
    attained: bool
    finite_width_excess: float
    iterations: int
    box: Box
    interaction: float = field(repr=False, default=math.nan)

    @property
    def mass_at_infinity(self) -> float:
        """Weight of the atoms at infinity."""
        return float(np.sum(self.weights[~np.isfinite(self.atoms).all(axis=1)]))

    @property
    def measure(self) -> Atoms:
        """The finite atoms as a measure, of mass 1 less ``mass_at_infinity``."""
        from .base import Atoms

        finite = np.isfinite(self.atoms).all(axis=1)
        return Atoms(np.ascontiguousarray(self.atoms[finite].T), self.weights[finite])

    def expected_risk(self, n_neurons: int) -> float:
        r"""Return :math:`E R_N = R(\rho) + (K - \iint U \rho \rho)/N` of ``n_neurons`` drawn from the measure."""
        return self.value + (self.finite_width_excess - self.interaction) / _width(n_neurons)

    def finite_width_bounds(self, n_neurons: int) -> tuple[float, float]:
        r"""Return bounds of :math:`\inf_\theta R_N` for ``n_neurons`` neurons.

        The lower one is ``value - gap``, since a network is a measure; the upper one :math:`E R_N` of neurons drawn
        from the measure, as `expected_risk`, since some draw is no worse than the mean.
        """
        return self.value - self.gap, self.expected_risk(n_neurons)


class _State(NamedTuple):
    """Finite atoms and limit points with their weights; ``columns`` are the features of all, finite ones first."""

    points: FloatArray  # (n_coordinates, n)
    limits: tuple[int, ...]
    weights: FloatArray  # (n + number of limits,)
    columns: FloatArray  # (k, n + number of limits)
    value: float


def minimum_risk(
    model: ReducedModel,
    *,
    box: Sequence | None = None,
    tolerance: float = 1e-10,
    samples: int | None = None,
    throw: bool = True,
) -> MinimumRisk:
    """Return the infimum of the model's risk; see `ReducedModel.minimum_risk`."""
    from .base import as_integer, as_number

    tolerance = as_number("tolerance", tolerance, positive=True)
    if samples is not None:
        samples = as_integer("samples", samples, 3)
    if not isinstance(throw, (bool, np.bool_)):
        raise InvalidType(f"throw must be a bool, got {type(throw).__name__}")
    if not 1 <= model.n_coordinates <= 4:
        raise InvalidInput(f"minimum_risk searches 1 to 4 coordinates; {model.name} has {model.n_coordinates}")
    if np.any(model.signs <= 0.0):
        raise InvalidInput(f"the signs of {model.name} are not all positive, so that its risk is not convex in the "
                           "measure; minimum_risk would return one stationary point of many")
    searched = check_box(model.search_box() if box is None else box, model.n_coordinates)
    unbounded = any(math.isinf(high) for _, high in searched)
    limits = tuple(model.limit_points()) if unbounded else ()
    if unbounded and not limits:
        raise InvalidInput(f"box={searched} is infinite, but {model.name} does not know the limits of its features; "
                           "give a finite box")
    problem = _Problem(model, searched, limits, samples)
    best = problem.solve(tolerance)
    if best.state.limits:  # an optimum without them is preferred where there is one
        finite = _Problem(model, searched, (), samples, problem.search).solve(tolerance)
        margin = 1e-3 * tolerance + 1e-14 * abs(best.state.value)
        if finite.state.value <= best.state.value + margin:
            gap = 2.0 * (problem.multiplier(finite.state) - problem.lowest(finite.state)[2])
            best = finite._replace(gap=max(gap, 0.0))
    result = problem.result(best)
    if throw and not result.gap <= tolerance:
        raise _missed(result, tolerance)
    return result


class _Solved(NamedTuple):
    state: _State
    gap: float
    rounds: int


class _Problem:
    """min over w of |sum_i w_i F(x_i) - p|^2 with weights s, over atoms of a box and limit points, of total mass 1."""

    def __init__(self, model: ReducedModel, box: Box, limits: tuple[LimitPoint, ...], samples: int | None,
                 search: PsiSearch | None = None):
        self.model, self.box, self.limits = model, box, limits
        self.target, self.signs = model.target, model.signs
        self.constant = model.label_second_moment - float(np.sum(self.signs * self.target**2))
        self.scales = _scales(model, box)
        self.search = search or PsiSearch(model, box, self.scales, any(p.mass == 0.0 for p in limits), samples)
        self.limit_columns = np.array([p.features for p in limits]).reshape(len(limits), self.target.size).T
        self.limit_masses = np.array([p.mass for p in limits])

    # ---------------------------------------------------------------- states
    def features(self, points: FloatArray) -> FloatArray:
        return np.asarray(self.model.features(*points), dtype=np.float64)

    def state(self, points: FloatArray, limits: Sequence[int], weights: FloatArray) -> _State:
        chosen = self.limit_columns[:, list(limits)] if limits else np.empty((self.target.size, 0))
        columns = np.concatenate([self.features(points), chosen], axis=1)
        residual = columns @ weights - self.target
        value = float(np.sum(self.signs * residual**2)) + self.constant
        return _State(points, tuple(limits), weights, columns, value)

    def masses(self, state: _State) -> FloatArray:
        return np.concatenate([np.ones(state.points.shape[1]), self.limit_masses[list(state.limits)]])

    def coefficients(self, state: _State) -> FloatArray:
        return self.signs * (state.columns @ state.weights - self.target)

    def multiplier(self, state: _State) -> float:
        """The mean of Psi under the measure, to which Psi is equal at every atom of an optimal one."""
        return float(self.coefficients(state) @ (state.columns @ state.weights))

    def lowest(self, state: _State) -> tuple[FloatArray, list[int], float]:
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
        return points[:, values < mean], [int(i) for i in np.flatnonzero(at_limits < 0.0)], least

    # ---------------------------------------------------------------- the algorithm
    def solve(self, tolerance: float) -> _Solved:
        """Add the minima of Psi, solve for all weights, merge and polish, until the gap closes or stops falling."""
        distances = np.sum(self.signs[:, None] * (self.search.features - self.target[:, None]) ** 2, axis=0)
        start = self.search.points[:, [int(np.argmin(distances))]]
        state = self.polished(self.state(start, (), np.ones(1)))
        best: _Solved | None = None
        stalled = 0
        for rounds in range(1, _ROUNDS + 1):
            points, limits, least = self.lowest(state)
            gap = max(2.0 * (self.multiplier(state) - least), 0.0)
            if best is None or gap < best.gap:
                best, stalled = _Solved(state, gap, rounds), 0
            else:
                stalled += 1
            if best.gap <= 1e-6 * tolerance or stalled >= 8 or (stalled >= 2 and best.gap <= tolerance):
                break
            everything = np.concatenate([state.points, points], axis=1)
            state = self.refined(everything, sorted({*state.limits, *limits}))
        return best._replace(rounds=rounds) if best else _Solved(state, math.inf, 0)

    def refined(self, points: FloatArray, limits: Sequence[int]) -> _State:
        """Return the optimal measure on the points and limits, with near atoms merged, polished by Newton's method."""
        plain = self.weighed(points, limits)
        scale = max(1.0, abs(plain.value))
        for radius in _MERGE_RADII:
            state = self.polished(self.merged(plain, radius))
            if state.value <= plain.value + 1e-15 * scale:
                return state
        return plain

    def weighed(self, points: FloatArray, limits: Sequence[int]) -> _State:
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
        return self.kept(self.state(points, limits, u / np.sum(u * mass)))

    def kept(self, state: _State) -> _State:
        """Return the state without the atoms of weight 0."""
        n, used = state.points.shape[1], state.weights > 0.0
        limits = [limit for limit, use in zip(state.limits, used[n:]) if use]
        return self.state(state.points[:, used[:n]], limits, state.weights[used])

    def merged(self, state: _State, radius: float) -> _State:
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
        return self.state(atoms, state.limits, np.append(weights, state.weights[n:]))

    def polished(self, state: _State) -> _State:
        """Return the state after Newton steps on the optimality conditions, as long as their residual falls."""
        residual, jacobian, free = self.conditions(state)
        for _ in range(_NEWTON_STEPS):
            step = np.linalg.lstsq(jacobian, -residual, rcond=1e-12)[0]
            trial = self.moved(state, step, free)
            if trial is None:
                break
            new = self.conditions(trial)
            if not np.linalg.norm(new[0]) < np.linalg.norm(residual):
                break
            state, (residual, jacobian, free) = trial, new
        return state

    def moved(self, state: _State, step: FloatArray, free: NDArray[np.bool_]) -> _State | None:
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

    def conditions(self, state: _State) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
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
        weighted = self.signs[:, None]
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
            up[j] = np.minimum(x[j] + _DIFFERENCE * self.scales[j], self.search.high[j])
            down[j] = np.maximum(x[j] - _DIFFERENCE * self.scales[j], self.search.low[j])
            slopes = [np.tensordot(c, np.asarray(self.model.feature_gradients(*y)), axes=1) for y in (up, down)]
            result[:, j] = (slopes[0] - slopes[1]) / (up[j] - down[j])
        return 0.5 * (result + result.transpose(1, 0, 2))

    # ---------------------------------------------------------------- the answer
    def result(self, solved: _Solved) -> MinimumRisk:
        state = solved.state
        n, moments = state.points.shape[1], state.columns @ state.weights
        limits = [self.limits[i] for i in state.limits]
        atoms = np.concatenate([state.points.T, *(np.reshape(p.point, (1, -1)) for p in limits)])
        weights = np.append(state.weights[:n], state.weights[n:] * np.array([p.mass for p in limits]))
        diagonal = np.append(self.model.diagonal(*state.points), [p.diagonal for p in limits])
        excess = math.inf if any(p.mass == 0.0 for p in limits) else float(np.sum(weights * diagonal))
        order = np.argsort(-weights, kind="stable")
        return MinimumRisk(
            value=state.value, gap=solved.gap, atoms=atoms[order], weights=weights[order], moments=moments,
            attained=not limits, finite_width_excess=excess, iterations=solved.rounds, box=self.box,
            interaction=float(np.sum(self.signs * moments**2)),
        )


def _scales(model: ReducedModel, box: Box) -> list[float]:
    """Return a length for each coordinate: a quarter of the box, or of the default grid where the box is infinite."""
    widths = [high - low for low, high in box]
    if any(math.isinf(width) for width in widths):
        default = [high - low for low, high in model.grid(8).bounds]
        widths = [d if math.isinf(width) else width for width, d in zip(widths, default)]
    return [0.25 * width for width in widths]


def _width(n_neurons: int) -> int:
    from .base import as_integer

    return as_integer("n_neurons", n_neurons)


def _missed(result: MinimumRisk, tolerance: float) -> ConvergenceError:
    error = ConvergenceError(
        f"minimum_risk: the gap is {result.gap:.2e} after {result.iterations} rounds, above tolerance={tolerance:g}; "
        "the measure found is .partial of this exception; use a larger tolerance or more samples, or throw=False",
        reason="tolerance",
    )
    error.partial = result
    return error
