"""The statistics of the runs at one time, and their null law: those of as many independent draws from the density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.progress import pulse
from wgflow.solution import Solution

from .atom_laws import AtomLaws, extent_of
from .marginal_laws import ChosenLaws, DensityLaws, MarginalLaw
from .predicted_scatter import PredictedMoments
from .risk_response import AtomRiskResponse, RiskResponse
from .statistics import Runs, Statistic

__all__ = ["AtOneTime", "Predicted", "Quantity", "Resampled", "at_one_time", "fits_of", "is_sample", "laws_at",
           "quantities_of"]

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
    predicted : array of bool, shape (quantities,)
        Whether the replicates scatter as the runs are predicted to, about the predicted bias, not as independent draws.
    widening : array of shape (quantities,)
        By which factor that changes the deviation; 1 where it does not.
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
    predicted: NDArray[np.bool_]
    widening: Array
    resolution: Array


@dataclass(frozen=True)
class Predicted:
    """The predicted law of means, deviations and risk, and draws from it at one time.

    Attributes
    ----------
    law : PredictedMoments
    draws : array of shape (functionals, replicates, runs)
    time : int
        Index of the time.
    """

    law: PredictedMoments
    draws: Array
    time: int

    def allowances(self, marginals: Sequence[MarginalLaw], statistics: Sequence[Statistic]) -> list[float]:
        """Return what each quantity is allowed for the part of the bias that is not predicted."""
        found = []
        for k, own in enumerate(marginals):
            name = self.law.coordinates[k]
            shift, wider = (self.law.allowance(f"{what} of {name}", self.time) for what in ("mean", "deviation"))
            laws = [own.shifted(shift)] * (shift > 0.0) + [own.widened(own.deviation + wider)] * (wider > 0.0)
            found += [sum(each.between(own, other) for other in laws) for each in statistics]
        return [*found, self.law.allowance("risk", self.time)]


class Resampled:
    """The particles of all runs at one time in place of a law: draws of particles, the same ones at every time.

    Parameters
    ----------
    x : array of shape (runs, N, coordinates)
    """

    def __init__(self, x: Array):
        self.points = x.reshape(-1, x.shape[-1])
        self.marginals = [MarginalLaw.from_sorted(np.sort(own)) for own in self.points.T]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, None]:
        """Return particles drawn with replacement, shape (count, coordinates), and None: they belong to no atoms."""
        return self.points[rng.integers(len(self.points), size=count)], None


Response = RiskResponse | AtomRiskResponse
Laws = DensityLaws | AtomLaws | ChosenLaws


def quantities_of(coordinates: Sequence[str], statistics: Sequence[Statistic], with_risk: bool) -> tuple[Quantity, ...]:
    """Return the rows of a comparison, in order."""
    rows = [Quantity(f"{each.name} of {name}", k, each) for k, name in enumerate(coordinates) for each in statistics]
    return (*rows, Quantity("risk")) if with_risk else tuple(rows)


def laws_at(sol: Solution, t: float, axes: Sequence[int] | None = None) -> DensityLaws | AtomLaws | ChosenLaws:
    """Return the laws of a solution at a time, of all coordinates or of the axes given."""
    rho = sol.density(t)
    found: DensityLaws | AtomLaws = (AtomLaws(rho, is_sample(sol), extent_of(sol.densities[0]))
                                     if isinstance(rho, Atoms) else DensityLaws(rho))
    return found if axes is None else ChosenLaws(found, axes)


def is_sample(sol: Solution) -> bool:
    """Return whether a solution consists of random particles."""
    return bool(getattr(getattr(sol, "certificate", None), "noisy", False))


def fits_of(statistics: Sequence[Statistic], laws: Sequence[MarginalLaw], x: Array,
            spreads: bool = True) -> tuple[Array, Array]:
    """Return fit and spread of each statistic on each coordinate, (sets, quantities), of x (sets, runs, N, coords).

    With ``spreads=False`` the spreads, which take most of the time, are zeros.
    """
    pairs = []
    for k, law in enumerate(laws):
        runs = Runs(x[..., k])
        for each in statistics:
            pulse()
            pairs.append((each.fit(runs, law), each.spread(runs, law) if spreads else np.zeros(len(x))))
    fit, spread = zip(*pairs)
    return np.stack(fit, axis=1), np.stack(spread, axis=1)


def at_one_time(source: Laws, x: Array, statistics: Sequence[Statistic], response: Response | None,
                risk: tuple[float, float] | None, n_null: int, rng: np.random.Generator, *,
                predicted: Predicted | None = None, bootstrap: bool = False) -> AtOneTime:
    """Return the statistics of the runs and of their null law at one time.

    Parameters
    ----------
    source : DensityLaws, AtomLaws or ChosenLaws
    x : array of shape (runs, N, coordinates)
    response : RiskResponse or AtomRiskResponse, optional
        How the risk answers to draws from the law; given if and only if ``risk`` is.
    risk : (float, float), optional
        Difference of the two risks, and its variance over the runs.
    predicted : Predicted, optional
        The joint law of means, deviations and risk, and its draws at this time.
    bootstrap : bool
        Whether replicates are drawn from the particles in place of the law.
    """
    n_coords = x.shape[2]
    known = np.array([predicted is not None and predicted.law.covers(k) for k in range(n_coords) for _ in statistics]
                     + [predicted is not None and predicted.law.covers(None)] * (response is not None))
    fit, spread = (found[0] for found in fits_of(statistics, source.marginals, x[None], not known.all()))
    null = _null_of(source, x, statistics, response, n_null, rng, predicted, bootstrap, not known.all())
    mean, std = null.fits.mean(axis=0), null.fits.std(axis=0)
    resolution = [each for law in source.marginals for each in _resolutions(law, statistics)]
    widening = np.repeat(null.widening[:n_coords], len(statistics))
    if risk is not None and response is not None:
        fit, spread = np.append(fit, risk[0]), np.append(spread, risk[1])
        resolution.append(response.resolution)
        widening = np.append(widening, null.widening[-1])
    two_sided = np.array([not each.is_distance for _ in range(n_coords) for each in statistics]
                         + [True] * (response is not None))
    width = np.where(std > 0, std, 1.0)
    standardized = (null.fits - mean) / width
    standardized = np.where(two_sided, np.abs(standardized), standardized)
    if predicted is not None:
        resolution = [own + more for own, more in zip(resolution, predicted.allowances(source.marginals, statistics))]
    scatter = np.maximum(0.0, _scatter(x[None])[0] - null.scatter)
    return AtOneTime(source.marginals, scatter, fit, spread, mean, std, null.spread, standardized, known, widening,
                     np.array(resolution))


@dataclass(frozen=True)
class _Null:
    """Fits (replicates, quantities), mean spread, variance of the runs' means, widening of coordinates and risk."""

    fits: Array
    spread: Array
    scatter: Array
    widening: Array


def _null_of(source: Laws, x: Array, statistics: Sequence[Statistic], response: Response | None,
             n_null: int, rng: np.random.Generator, predicted: Predicted | None, bootstrap: bool,
             spreads: bool) -> _Null:
    runs, count, n_coords = x.shape
    own = Resampled(x) if bootstrap else source
    fits, all_spreads, scatters, ratios = [], [], [], []
    block = max(1, _BLOCK // (runs * count))
    for start in range(0, n_null, block):
        pulse(f"replicate {start} of {n_null}")
        sets = min(block, n_null - start)
        points, atoms = own.sample(sets * runs * count, rng)
        draws = points.reshape(sets, runs, count, n_coords)
        values = None
        if response is not None:
            values = _risks_of(response, draws, atoms, source, own, rng)
        plain = draws
        if predicted is not None:
            moments = predicted.draws[:, start : start + sets]
            draws = predicted.law.displaced(draws, moments, source.marginals)
            given = predicted.law.risk(moments)
            ratios.append(_widening(plain, draws, values, given))
            values = values if given is None or values is None else given
        fit, spread = fits_of(statistics, own.marginals, draws, spreads)
        if values is not None:
            var = values.var(axis=1, ddof=1) if runs > 1 else np.zeros(sets)
            fit, spread = np.column_stack([fit, values.mean(axis=1)]), np.column_stack([spread, var])
        fits.append(fit)
        all_spreads.append(spread)
        scatters.append(_scatter(plain))
    widening = np.mean(ratios, axis=0) if ratios else np.ones(n_coords + 1)
    return _Null(np.concatenate(fits), np.concatenate(all_spreads).mean(axis=0),
                 np.concatenate(scatters).mean(axis=0), widening)


def _risks_of(response: Response, draws: Array, atoms: NDArray[np.intp] | None, source: Laws, own: Laws | Resampled,
              rng: np.random.Generator) -> Array:
    """Return how the risk answers to the draws, shape (sets, runs)."""
    if isinstance(own, Resampled) and isinstance(source, DensityLaws) and isinstance(response, RiskResponse):
        center: Array = response(own.points[None, None])
        return response(draws) - center
    if isinstance(own, Resampled):  # Psi is known at atoms alone
        points, atoms = source.sample(draws[..., 0].size, rng)
        draws = points.reshape(draws.shape)
    return response(draws, None if atoms is None else atoms.reshape(draws.shape[:3]))


def _widening(plain: Array, displaced: Array, values: Array | None, given: Array | None) -> Array:
    """Return how many times wider the runs' means, and their risks, scatter than those of independent draws."""
    pairs = [(displaced[..., k].mean(axis=2), plain[..., k].mean(axis=2)) for k in range(plain.shape[-1])]
    ratios = [float(new.std() / old.std()) if old.std() > 0.0 else 1.0 for new, old in pairs]
    if values is not None and given is not None and values.std() > 0.0:
        return np.array([*ratios, float(given.std() / values.std())])
    return np.array([*ratios, 1.0])


def _scatter(x: Array) -> Array:
    """Return the variance over the runs of their means, (sets, coordinates), of x (sets, runs, N, coordinates)."""
    return x.mean(axis=2).var(axis=1, ddof=1) if x.shape[1] > 1 else np.zeros((len(x), x.shape[-1]))


def _resolutions(law: MarginalLaw, statistics: Sequence[Statistic]) -> list[float]:
    """Return what is not known of each statistic: its resolution, and the law's own error where it is a sample."""
    errors = np.zeros(len(statistics))
    for other in law.replicates():
        errors = np.maximum(errors, [each.between(law, other) for each in statistics])
    return [each.resolution(law) + float(error) for each, error in zip(statistics, errors)]
