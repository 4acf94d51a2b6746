r"""The statistics by which particles are compared with a law, and how to write one.

Let rho be the law of one coordinate and x a sample of n particles. A *statistic* is a number S(x, rho) of one of two
kinds: a distance, S >= 0, which a wrong law makes larger, or a difference g(x) - g(rho), which it moves either way.
`compare` needs four things of it, and all but the first have defaults:

    fit          S(all particles of all runs, rho); of a difference, the mean over the runs of S(run, rho)
    spread       E^2 = mean over the runs of S(run, all runs)^2; of a difference, the variance of S(run, rho) over them
    resolution   how far S moves when rho is replaced by a law half a cell away, which the cells do not tell apart
    broadening   how far S moves when rho is as wide as the runs make it that scatter together

:mod:`wgflow.validation.comparison.bands` says how a band is made of these. `STATISTICS` holds those that `compare` uses
by default.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wgflow.contracts import Contract
from wgflow.errors import InvalidInput, InvalidType

from ..quantile_functions import mean_power, merged_gaps
from .marginal_laws import MarginalLaw

__all__ = ["STATISTICS", "Deviation", "Kolmogorov", "Mean", "Runs", "Statistic", "Wasserstein", "check_statistics"]

Array = NDArray[np.float64]
#: Noise of order epsilon spreads a narrow law by sqrt(epsilon): what twice the step adds to a width or a distance is
#: then sqrt(2) - 1 of what the step itself has added.
WIDTH_SHARE = 1.0 / (math.sqrt(2.0) - 1.0)
#: Points that stand for a law where a statistic compares two laws.
_POINTS = 512


class Runs:
    """Sets of independent runs of particles on one coordinate, sorted once for all statistics.

    Parameters
    ----------
    x : array of shape (sets, runs, n)
        The runs that are compared are one set; the null law has a set for each replicate.
    """

    def __init__(self, x: Array):
        self.x = x
        self.sets, self.runs, self.count = x.shape

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Which particle of a set is the i-th smallest, shape (sets, runs * n)."""
        return np.argsort(self.x.reshape(self.sets, -1), axis=1)

    @cached_property
    def pooled(self) -> Array:
        """All particles of each set, sorted, shape (sets, runs * n)."""
        return np.take_along_axis(self.x.reshape(self.sets, -1), self.order, axis=1)

    @cached_property
    def sorted(self) -> Array:
        """Each run sorted, shape (sets, runs, n)."""
        return np.sort(self.x, axis=2)


class Statistic(Contract):
    r"""A distance :math:`S(x, \rho) \ge 0`, or a difference :math:`S(x, \rho) = g(x) - g(\rho)`, on one coordinate.

    A subclass gives ``name`` and `value`, and ``is_distance = False`` if it is a difference; the rest derives from
    these. A distance should fall like :math:`n^{-1/2}` for n independent draws from rho: of a squared distance, such as
    the energy distance, take the root. Override the other methods where a formula is at hand.

    Attributes
    ----------
    name : str
        As in ``"W2"``; the rows of a comparison are called ``"W2 of r"``.
    is_distance : bool
        True for a distance, whose band begins at 0; False for a difference, whose band has two sides.
    largest : float
        The largest value that S can have, infinity by default.
    first_order_share : float
        By how much of the difference to coarser runs the band widens, where `compare` is given such runs: 1 if the bias
        of S is linear in the step size, by default 1/(sqrt(2) - 1), for a bias like its root.

    Examples
    --------
    The Cramer-von Mises distance, the root of :math:`\int (F_n - F)^2 dF`:

    >>> class CramerVonMises(Statistic):
    ...     name = "Cramer-von Mises"
    ...
    ...     def value(self, x, law):
    ...         n = x.shape[1]
    ...         middle = (np.arange(n) + 0.5) / n
    ...         return np.sqrt(1 / (12 * n**2) + np.mean((law.cdf(x) - middle) ** 2, axis=1))

    ``compare(sol, particles, statistics=(*STATISTICS, CramerVonMises()))`` then has it in its table, with a band.
    """

    name: str
    is_distance: bool = True
    largest: float = math.inf
    first_order_share: float = WIDTH_SHARE

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return S for each of several samples.

        Parameters
        ----------
        x : array of shape (samples, n)
            Each row is a sample, in ascending order.
        law : MarginalLaw
            Has ``cdf(x)``, ``quantile(s)``, ``mean``, ``deviation`` and ``points(count)``; it may be the law of a
            sample, whose ``quantile`` and ``cdf`` jump.

        Returns
        -------
        array of shape (samples,)
        """

    def at_law(self, law: MarginalLaw) -> float:
        """Return g(rho) of a difference, for the table; NaN, the default, leaves its place empty."""
        return math.nan

    def fit(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return S of each set of runs: of all particles for a distance, the mean over the runs for a difference."""
        if self.is_distance:
            return self._checked(runs.pooled, law)
        return self._of_each_run(runs, law).mean(axis=1)

    def spread(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return how far the runs of each set lie from one another, a variance; 0 for a single run."""
        if runs.runs == 1:
            return np.zeros(runs.sets)
        if not self.is_distance:
            return self._of_each_run(runs, law).var(axis=1, ddof=1)
        squares = [self._checked(own, MarginalLaw.from_sorted(pooled)) ** 2
                   for own, pooled in zip(runs.sorted, runs.pooled)]
        return np.mean(squares, axis=1)

    def between(self, law: MarginalLaw, other: MarginalLaw) -> float:
        """Return by how much S changes when particles have the law ``other`` in place of ``law``."""
        own, changed = (self._checked(each.points(_POINTS)[None, :], law)[0] for each in (law, other))
        return abs(float(changed - own))

    def resolution(self, law: MarginalLaw) -> float:
        """Return how far S is known where only masses of cells, or atoms, are known."""
        return max((self.between(law, other) for other in law.neighbors), default=0.0) + law.rounding

    def broadening(self, law: MarginalLaw, excess: float, scatter: float) -> float:
        """Return by how much S grows since runs that scatter together are wider than rho when pooled.

        Parameters
        ----------
        law : MarginalLaw
        excess : float
            What E^2 of the runs has above that of independent draws, at least 0.
        scatter : float
            What the variance of the runs' means has above that of independent draws, at least 0.
        """
        if not self.is_distance or scatter == 0.0:
            return 0.0
        return self.between(law, law.widened(math.sqrt(law.deviation**2 + scatter)))

    def _of_each_run(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return S of every run, shape (sets, runs)."""
        return self._checked(runs.sorted.reshape(-1, runs.count), law).reshape(runs.sets, runs.runs)

    def _checked(self, x: Array, law: MarginalLaw) -> Array:
        """Return `value`, checked: it may be a user's."""
        found = np.asarray(self.value(x, law))
        what = f"statistic {self.name!r}: value(x, law) with x of shape {x.shape} returned"
        if found.shape != x.shape[:1] or found.dtype.kind not in "fiu":
            raise InvalidInput(f"{what} {found.dtype} of shape {found.shape}; it must return numbers of shape "
                               f"{x.shape[:1]}, one for each row (reduce over axis=1)")
        if not np.isfinite(found).all() or (self.is_distance and found.min() < 0.0):
            bad = found[~np.isfinite(found)][0] if not np.isfinite(found).all() else found.min()
            fix = "a distance is finite and >= 0 (set is_distance = False if it is none)"
            raise InvalidInput(f"{what} {bad:g}; {fix if self.is_distance else 'it must be finite'}")
        return found.astype(np.float64, copy=False)


class Wasserstein(Statistic):
    r""":math:`W_p(x, \rho) = (\int_0^1 |Q_x - Q_\rho|^p ds)^{1/p}` for p = 1 or 2, exact.

    Parameters
    ----------
    p : int
    """

    def __init__(self, p: int):
        self.p = p
        self.name = f"W{p}"

    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return W_p of each sample."""
        width, lower, upper = law.gaps(x)
        return self._root(mean_power(lower, upper, self.p) @ width)

    def spread(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return the mean over the runs of W_p(run, all runs)^2: a run's order statistic faces n of the pooled ones."""
        total = np.zeros(runs.sets)
        for run in range(runs.runs if runs.runs > 1 else 0):
            shape = (runs.sets, runs.count, runs.runs)
            gap = (runs.pooled.reshape(shape) - runs.sorted[:, run, :, None]).reshape(runs.sets, -1)
            if self.p == 1:
                total += np.mean(np.abs(gap), axis=1) ** 2 / runs.runs
            else:
                total += np.einsum("ij,ij->i", gap, gap) / (runs.count * runs.runs**2)
        return total

    def between(self, law: MarginalLaw, other: MarginalLaw) -> float:
        """Return W_p of the two laws."""
        width, d0, d1 = merged_gaps(law.law, other.law)
        return float(self._root(mean_power(d0, d1, self.p) @ width))

    def resolution(self, law: MarginalLaw) -> float:
        """Return half a cell, or what half as many atoms would change."""
        return law.half_cell if law.half_cell > 0.0 else super().resolution(law)

    def broadening(self, law: MarginalLaw, excess: float, scatter: float) -> float:
        """Return the W_2 distance of two Gaussians, one of them wider by the variance ``excess``."""
        return float(np.sqrt(law.deviation * law.deviation + excess)) - law.deviation

    def _root(self, power: Array) -> Array:
        return power if self.p == 1 else np.sqrt(power)


class Kolmogorov(Statistic):
    r""":math:`\sup_x |F_n(x) - F(x)|` of the distribution functions of sample and law."""

    name = "Kolmogorov"
    largest = 1.0

    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return the largest gap, which is at one side of a particle."""
        cdf = law.cdf(x.ravel()).reshape(x.shape)
        steps = np.arange(x.shape[1] + 1) / x.shape[1]
        return np.maximum(np.abs(cdf - steps[1:]), np.abs(cdf - steps[:-1])).max(axis=1)

    def spread(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return the mean over the runs of the squared distance between a run and all runs."""
        steps = np.arange(runs.runs * runs.count + 1) / (runs.runs * runs.count)
        total = np.zeros(runs.sets)
        for run in range(runs.runs if runs.runs > 1 else 0):
            share = np.cumsum(runs.order // runs.count == run, axis=1) / runs.count
            total += np.abs(share - steps[1:]).max(axis=1) ** 2 / runs.runs
        return total

    def between(self, law: MarginalLaw, other: MarginalLaw) -> float:
        """Return the Kolmogorov distance of the two laws."""
        return law.law.largest_cdf_gap(other.law)

    def resolution(self, law: MarginalLaw) -> float:
        """Return half the mass of the heaviest cell; of atoms at least the largest mass at one place."""
        if law.half_cell > 0.0:
            return law.jump
        return max([law.jump, *(self.between(law, other) for other in law.neighbors)]) + law.rounding

    def broadening(self, law: MarginalLaw, excess: float, scatter: float) -> float:
        """Return twice the excess, at most 1."""
        return min(1.0, 2.0 * excess)


class _Moment(Statistic):
    """A difference g(x) - g(rho) of which both parts are known by themselves."""

    is_distance = False

    @abstractmethod
    def at_sample(self, x: Array) -> Array:
        """Return g over the last axis."""

    def value(self, x: Array, law: MarginalLaw) -> Array:
        """Return g(x) - g(rho)."""
        return self.at_sample(x) - self.at_law(law)

    def fit(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return the mean over the runs of g, minus g(rho)."""
        return self.at_sample(runs.x).mean(axis=1) - self.at_law(law)

    def spread(self, runs: Runs, law: MarginalLaw) -> Array:
        """Return the variance of g over the runs."""
        return self.at_sample(runs.x).var(axis=1, ddof=1) if runs.runs > 1 else np.zeros(runs.sets)

    def between(self, law: MarginalLaw, other: MarginalLaw) -> float:
        """Return the difference of g."""
        return abs(self.at_law(other) - self.at_law(law))

    def resolution(self, law: MarginalLaw) -> float:
        """Return half a cell, or what half as many atoms would change."""
        return law.half_cell if law.half_cell > 0.0 else super().resolution(law)


class Mean(_Moment):
    """The difference of the means."""

    name = "mean"
    first_order_share = 1.0

    def at_sample(self, x: Array) -> Array:
        """Return the mean of each sample."""
        return x.mean(axis=-1)

    def at_law(self, law: MarginalLaw) -> float:
        """Return the mean of the law."""
        return law.mean


class Deviation(_Moment):
    """The difference of the standard deviations."""

    name = "deviation"

    def at_sample(self, x: Array) -> Array:
        """Return the standard deviation of each sample."""
        return x.std(axis=-1)

    def at_law(self, law: MarginalLaw) -> float:
        """Return the standard deviation of the law."""
        return law.deviation


#: What `compare` looks at on each coordinate, in this order.
STATISTICS: tuple[Statistic, ...] = (Wasserstein(1), Wasserstein(2), Kolmogorov(), Mean(), Deviation())


def check_statistics(statistics: Sequence[Statistic]) -> tuple[Statistic, ...]:
    """Return the statistics as a tuple, or raise an error that names the one that cannot be used."""
    if isinstance(statistics, Statistic):
        raise InvalidType(f"statistics is a single {type(statistics).__name__}: give a sequence, "
                          "statistics=(*STATISTICS, yours)")
    try:
        found = tuple(statistics)
    except TypeError as error:
        raise InvalidType(f"statistics={statistics!r}: must be a sequence of Statistic") from error
    for each in found:
        if not isinstance(each, Statistic):
            fix = f"give an instance, {each.__name__}()" if isinstance(each, type) else "subclass Statistic"
            raise InvalidType(f"statistics holds {each!r}, which is no Statistic: {fix}")
        name = getattr(each, "name", None)
        if not isinstance(name, str) or not name.strip():
            raise InvalidInput(f"{type(each).__name__}.name={name!r}: must be a word for the rows of the table")
    names = [each.name for each in found]
    if not names or len(set(names)) < len(names):
        raise InvalidInput(f"statistics have the names {names}: there must be one at least, and each name once")
    return found
