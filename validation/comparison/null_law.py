"""The statistics of the runs at one time, and their null law: those of as many independent draws from the density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.solution import Solution

from .atom_laws import AtomLaws, extent_of
from .marginal_laws import DensityLaws, MarginalLaw
from .risk_response import AtomRiskResponse, RiskResponse
from .statistics import Runs, Statistic

__all__ = ["AtOneTime", "Quantity", "at_one_time", "fits_of", "is_sample", "laws_at", "quantities_of"]

Array = NDArray[np.float64]
#: Particles of the null law that are held in memory at once.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Quantity:
    """A row of the comparison: a statistic of one coordinate, or the risk, which has no statistic."""

    name: str
    coordinate: int = 0
    statistic: Statistic | None = None

    @property
    def is_distance(self) -> bool:
        """Whether it has one side only."""
        return self.statistic is not None and self.statistic.is_distance

    @property
    def largest(self) -> float:
        """The largest value that it can have."""
        return np.inf if self.statistic is None else self.statistic.largest

    @property
    def first_order_share(self) -> float:
        """How much of the difference to coarser runs its band takes up; the risk's bias is linear in the step."""
        return 1.0 if self.statistic is None else self.statistic.first_order_share

    def at_law(self, column: AtOneTime) -> float:
        """Return its value for the solution at one time; NaN for distances, and for the risk, which is known apart."""
        return np.nan if self.statistic is None else self.statistic.at_law(column.laws[self.coordinate])

    def broadening(self, column: AtOneTime, excess: float) -> float:
        """Return by how much pooling runs that scatter together may move it at one time."""
        if self.statistic is None:
            return 0.0
        return self.statistic.broadening(column.laws[self.coordinate], excess, column.scatter[self.coordinate])


@dataclass(frozen=True)
class AtOneTime:
    """What was found at one time; all arrays but ``laws`` and ``scatter`` have an entry for each quantity.

    Attributes
    ----------
    laws : sequence of MarginalLaw
        The law of each coordinate.
    scatter : array of shape (coordinates,)
        What the variance of the runs' means has above that of independent draws.
    fit, spread : array of shape (quantities,)
        Of the runs.
    null_mean, null_std, null_spread : array of shape (quantities,)
        Mean and deviation of the fit, and mean of the spread, over the replicates of the null law.
    standardized : array of shape (replicates, quantities)
        (fit - mean) / deviation of each replicate, its size for quantities with two sides.
    resolution : array of shape (quantities,)
    """

    laws: Sequence[MarginalLaw]
    scatter: Array
    fit: Array
    spread: Array
    null_mean: Array
    null_std: Array
    null_spread: Array
    standardized: Array
    resolution: Array


Response = RiskResponse | AtomRiskResponse


def quantities_of(coordinates: Sequence[str], statistics: Sequence[Statistic], with_risk: bool) -> tuple[Quantity, ...]:
    """Return the rows of a comparison, in order."""
    rows = [Quantity(f"{each.name} of {name}", k, each) for k, name in enumerate(coordinates) for each in statistics]
    return (*rows, Quantity("risk")) if with_risk else tuple(rows)


def laws_at(sol: Solution, t: float) -> DensityLaws | AtomLaws:
    """Return the laws of a solution at a time."""
    rho = sol.density(t)
    return AtomLaws(rho, is_sample(sol), extent_of(sol.densities[0])) if isinstance(rho, Atoms) else DensityLaws(rho)


def is_sample(sol: Solution) -> bool:
    """Return whether a solution consists of random particles."""
    return bool(getattr(getattr(sol, "certificate", None), "noisy", False))


def fits_of(statistics: Sequence[Statistic], laws: Sequence[MarginalLaw], x: Array) -> tuple[Array, Array]:
    """Return fit and spread of each statistic on each coordinate, (sets, quantities), of x (sets, runs, N, coords)."""
    pairs = []
    for k, law in enumerate(laws):
        runs = Runs(x[..., k])
        pairs += [(each.fit(runs, law), each.spread(runs, law)) for each in statistics]
    fit, spread = zip(*pairs)
    return np.stack(fit, axis=1), np.stack(spread, axis=1)


def at_one_time(source: DensityLaws | AtomLaws, x: Array, statistics: Sequence[Statistic], response: Response | None,
                risk: tuple[float, float] | None, n_null: int, rng: np.random.Generator) -> AtOneTime:
    """Return the statistics of the runs and of their null law at one time.

    Parameters
    ----------
    source : DensityLaws or AtomLaws
    x : array of shape (runs, N, coordinates)
    response : RiskResponse or AtomRiskResponse, optional
        How the risk answers to draws from the law; given if and only if ``risk`` is.
    risk : (float, float), optional
        Difference of the two risks, and its variance over the runs.
    """
    runs, count, n_coords = x.shape
    fit, spread = (found[0] for found in fits_of(statistics, source.marginals, x[None]))
    fits, spreads, scatters = [], [], []
    block = max(1, _BLOCK // (runs * count))
    for start in range(0, n_null, block):
        sets = min(block, n_null - start)
        points, atoms = source.sample(sets * runs * count, rng)
        draws = points.reshape(sets, runs, count, n_coords)
        null_fit, null_spread = fits_of(statistics, source.marginals, draws)
        if response is not None:
            value = response(draws, None if atoms is None else atoms.reshape(sets, runs, count))
            own = value.var(axis=1, ddof=1) if runs > 1 else np.zeros(sets)
            null_fit = np.column_stack([null_fit, value.mean(axis=1)])
            null_spread = np.column_stack([null_spread, own])
        fits.append(null_fit)
        spreads.append(null_spread)
        scatters.append(_scatter(draws))
    null = np.concatenate(fits)
    mean, std = null.mean(axis=0), null.std(axis=0)
    resolution = [each for law in source.marginals for each in _resolutions(law, statistics)]
    if risk is not None and response is not None:
        fit, spread = np.append(fit, risk[0]), np.append(spread, risk[1])
        resolution.append(response.resolution)
    two_sided = np.array([not each.is_distance for _ in range(n_coords) for each in statistics]
                         + [True] * (response is not None))
    standardized = (null - mean) / np.where(std > 0, std, 1.0)
    standardized = np.where(two_sided, np.abs(standardized), standardized)
    scatter = np.maximum(0.0, _scatter(x[None])[0] - np.concatenate(scatters).mean(axis=0))
    return AtOneTime(source.marginals, scatter, fit, spread, mean, std, np.concatenate(spreads).mean(axis=0),
                     standardized, np.array(resolution))


def _scatter(x: Array) -> Array:
    """Return the variance over the runs of their means, (sets, coordinates), of x (sets, runs, N, coordinates)."""
    return x.mean(axis=2).var(axis=1, ddof=1) if x.shape[1] > 1 else np.zeros((len(x), x.shape[-1]))


def _resolutions(law: MarginalLaw, statistics: Sequence[Statistic]) -> list[float]:
    """Return what is not known of each statistic: its resolution, and the law's own error where it is a sample."""
    errors = np.zeros(len(statistics))
    for other in law.replicates():
        errors = np.maximum(errors, [each.between(law, other) for each in statistics])
    return [each.resolution(law) + float(error) for each, error in zip(statistics, errors)]
