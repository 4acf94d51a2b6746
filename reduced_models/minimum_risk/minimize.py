"""The least risk of an infinitely wide network: a convex problem over measures, solved with a certificate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_count, check_flag, check_positive
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, WGFlowWarning

from .loss_problem import LossProblem
from .measure_problem import SIMPLER, LimitPoint, MeasureProblem, Solved, Watch
from .psi_search import Box, PsiSearch, check_box

if TYPE_CHECKING:
    from wgflow.atoms import Atoms

    from ..base import ReducedModel

__all__ = ["LimitPoint", "MinimumRisk", "minimum_risk"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MinimumRisk:
    r"""The infimum of the risk over probability measures, with a bound of the error.

    Attributes
    ----------
    value : float
        :math:`R(\rho)` of the measure found, an upper bound of the infimum over the ``box``.
    gap : float
        :math:`2(\int \Psi\,d\rho - \min \Psi)`, without the factor 2 where the risk is the mean of another loss than
        the square. By convexity ``value - gap`` is a lower bound of the infimum. The
        minimum is that of every dip of a dense sample of the box, followed to its bottom.
    atoms : ndarray, shape (n, n_coordinates)
        Points that carry the measure, by decreasing weight. A row of ``inf`` stands for neurons that escape to
        infinity: the infimum is then a limit, which no measure attains.
    weights : ndarray, shape (n,)
        Their weights, of sum 1. Neurons that escape so fast that a vanishing part of them counts have weight 0.
    moments : ndarray, shape (k,)
        :math:`z = \int F\,d\rho`, the one optimal value of the moments though the measure need not be unique.
    attained : bool
        Whether all atoms are finite, and none lies beyond 1,000 length scales on an infinite axis, where the features
        are at their limits but for rounding.
    finite_width_excess : float
        :math:`K = \int U(\theta, \theta)\,\rho(d\theta)` of
        :math:`\inf R \le \inf_\theta R_N \le \inf R + K/N`; NaN with another loss than the square.
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

    def __repr__(self) -> str:
        attained = "" if self.attained else ", not attained"
        return (f"MinimumRisk(value {self.value:.6g}, gap {self.gap:.1e}, {len(self.weights)} atoms{attained}, "
                f"{self.iterations} iterations)")

    @property
    def mass_at_infinity(self) -> float:
        """Weight of the atoms at infinity."""
        return float(np.sum(self.weights[~np.isfinite(self.atoms).all(axis=1)]))

    @property
    def boundary_mass(self) -> float:
        """Largest weight of the atoms on the edge of the box in one coordinate, beyond which the infimum may be less.

        A low end at 0 is that of a radius and no edge.
        """
        return max(mass for mass, *_ in self._edges())

    def _edges(self) -> list[tuple[float, int, float, float]]:
        """Return the weight on the edges of each coordinate, the coordinate, and its ends."""
        found = []
        for axis, (low, high) in enumerate(self.box):
            ends = [end for end in (low, high) if end != 0.0 and math.isfinite(end)]
            found.append((float(np.sum(self.weights[np.isin(self.atoms[:, axis], ends)])), axis, low, high))
        return found

    @property
    def measure(self) -> Atoms:
        """The finite atoms as a measure, of mass 1 less ``mass_at_infinity``."""
        from wgflow.atoms import Atoms

        finite = np.isfinite(self.atoms).all(axis=1)
        return Atoms(np.ascontiguousarray(self.atoms[finite].T), self.weights[finite])

    def expected_risk(self, n_neurons: int) -> float:
        r"""Return :math:`E R_N = R(\rho) + (K - \iint U \rho \rho)/N` of ``n_neurons`` drawn from the measure."""
        if math.isnan(self.interaction):
            raise InvalidInput("the expected risk of N neurons is known for the square loss alone; with another loss "
                               "model.risk(measure) + model.finite_width_excess(measure) / N is its first order")
        return self.value + (self.finite_width_excess - self.interaction) / check_count("n_neurons", n_neurons)

    def finite_width_bounds(self, n_neurons: int) -> tuple[float, float]:
        r"""Return bounds of :math:`\inf_\theta R_N` for ``n_neurons`` neurons.

        The lower one is ``value - gap``, since a network is a measure; the upper one :math:`E R_N` of neurons drawn
        from the measure, as `expected_risk`, since some draw is no worse than the mean.
        """
        return self.value - self.gap, self.expected_risk(n_neurons)


def minimum_risk(
    model: ReducedModel,
    *,
    box: Sequence | None = None,
    tolerance: float = 1e-10,
    samples: int | None = None,
    throw: bool = True,
    time_limit: float | None = None,
    progress: bool | Callable[[int, float], object] = False,
) -> MinimumRisk:
    """Return the infimum of the model's risk; see `ReducedModel.minimum_risk`."""

    tolerance = check_positive("tolerance", tolerance)
    if samples is not None:
        samples = check_count("samples", samples, 3)
    throw = check_flag("throw", throw)
    check_positive("time_limit", time_limit, allow_none=True)
    if not (isinstance(progress, bool) or callable(progress)):
        raise InvalidType(f"progress must be a bool or a function of (rounds, gap), got {progress!r}")
    watch = Watch(time_limit, progress)
    if not 1 <= model.n_coordinates <= 4:
        raise InvalidInput(f"minimum_risk searches 1 to 4 coordinates; {model.name} has {model.n_coordinates}")
    if model.quadratic and np.any(model.signs <= 0.0):
        raise InvalidInput(f"the signs of {model.name} are not all positive, so that its risk is not convex in the "
                           "measure; minimum_risk would return one stationary point of many")
    searched = check_box(model.search_box() if box is None else box, model.n_coordinates)
    unbounded = any(math.isinf(high) for _, high in searched)
    limits = tuple(model.limit_points()) if unbounded else ()
    if unbounded and not limits:
        raise InvalidInput(f"box={searched} is infinite, but {model.name} does not know the limits of its features; "
                           "give a finite box")
    kind = MeasureProblem if model.quadratic else LossProblem
    problem = kind(model, searched, limits, PsiSearch.for_model(model, searched, limits, samples), watch)
    best = problem.simplified(problem.solve(tolerance), tolerance)
    if best.state.limits and not watch.over:  # an optimum without them is preferred where there is one
        cut = problem.near_box()
        search = PsiSearch.for_model(model, cut, (), samples)
        near = kind(model, cut, (), search, watch).solve(tolerance).state
        gap = problem.gap(near)
        if gap <= max(best.gap, SIMPLER * tolerance):
            best = Solved(near, gap, best.rounds)
    # A dip between two samples would make the gap too small: look again with other, closer samples.
    problem.search = PsiSearch.for_model(model, searched, limits, samples, closer=True)
    best = best._replace(gap=problem.gap(best.state))
    if best.gap > tolerance and not watch.over:
        best = problem.solve(tolerance, best.state)
    result = _result(problem, best)
    if box is None:
        _warn_of_edges(result)
    if throw and not result.gap <= tolerance:
        raise _missed(result, tolerance, time_limit if watch.over else None)
    return result


def _result(problem: MeasureProblem, solved: Solved) -> MinimumRisk:
    state = solved.state
    n, moments = state.points.shape[1], state.columns @ state.weights
    limits = [problem.limits[i] for i in state.limits]
    atoms = np.concatenate([state.points.T, *(np.reshape(p.point, (1, -1)) for p in limits)])
    weights = np.append(state.weights[:n], state.weights[n:] * np.array([p.mass for p in limits]))
    excess = math.inf if any(p.mass == 0.0 for p in limits) else float(np.sum(weights * problem.diagonal(state)))
    order = np.argsort(-weights, kind="stable")
    return MinimumRisk(
        value=state.value, gap=solved.gap, atoms=atoms[order], weights=weights[order], moments=moments,
        attained=not (limits or np.any(problem.far(state))), finite_width_excess=excess, iterations=solved.rounds,
        box=problem.box, interaction=problem.interaction(moments),
    )


def _warn_of_edges(result: MinimumRisk) -> None:
    """Warn where atoms lie on the edge of the default box, beyond which the infimum may be less."""
    for mass, axis, low, high in result._edges():
        if mass > 0.0:
            warnings.warn(f"a part {mass:.2g} of the optimal measure lies on the edge of the searched box, coordinate "
                          f"{axis} in [{low:g}, {high:g}]: the infimum over all measures may be less; give a larger "
                          "box, or this one if it is meant as a constraint", WGFlowWarning, stacklevel=4)


def _missed(result: MinimumRisk, tolerance: float, time_limit: float | None) -> ConvergenceError:
    late = "" if time_limit is None else f", at time_limit={time_limit:g} s"
    error = ConvergenceError(
        f"minimum_risk: the gap is {result.gap:.2e} after {result.iterations} rounds{late}, above "
        f"tolerance={tolerance:g}; the measure found is .partial of this exception; use a larger "
        "tolerance or more samples, or throw=False",
        reason="tolerance" if time_limit is None else "time limit",
    )
    error.partial = result
    return error
