r"""How far apart may a density and a particle system be? Statistics of :func:`wgflow.validation.compare`.

At a time t let n independent runs of N particles each stand beside the density rho. A *statistic* has a fit S >= 0 (the
distance of the pooled particles to rho, or |mean over runs of g - g(rho)|) and a spread E^2 (how far the runs lie from
one another). Three things move a correct run away from rho:

1. *N is finite.* If the particles were independent draws from rho, the law of (S, E^2) would be known: it is simulated,
   M replicates of n runs of N draws at each time. With mu, sigma the mean and deviation of S over the replicates,

       Q = mu + c sigma,     c = the (1 - level) quantile over replicates of the largest (S - mu) / sigma,

   where "largest" runs over all statistics and times, so that ALL of them stay below Q at once with probability
   1 - level. No Bonferroni factor is needed; drawing the times independently is the conservative side, as
   the times of a true run are correlated. Errors of means and deviations are two-sided: there mu = 0.
2. *Particles are not independent.* They share the data (noise of SGD, of order sqrt(step_size) at any N) and interact,
   which damps or carries along the fluctuations of the start. The runs show it: phi, which is E^2 over the mean of
   E^2 over the replicates, is 1 for independent draws. What exceeds 1 is added as a variance,

       band^2 = Q^2 + (c kappa)^2 (mu^2 + sigma^2) max(0, phi~ - 1),
       kappa = t_{2(n-1)}(1 - level/2) / z(1 - level/2),

   taken as one Gaussian mode (a common shift), the least favorable case for a distance. As phi is itself estimated from
   few runs, phi~ = max(phi, (phi + median over times of phi) / 2) borrows strength from the other times, and kappa is
   the price in Student's currency. Damping (phi < 1) does not narrow the band. A single run has no spread: its
   band consists of part 1 alone, and the verdict says so.
3. *Pooling.* Runs that share noise scatter about rho, so that the law of all their particles is wider than rho by their
   excess scatter e^2 = E^2 - its mean over the replicates: W_1 and W_2 may grow by sqrt(s^2 + e^2) - s (s the deviation
   of rho), the Kolmogorov distance by 2 e^2. This is of second order, but does not fall with n as the rest does.
4. *Cells.* Half a cell is added: h/2 to W_p, mean and deviation (h the mean width under rho), half the mass of the
   heaviest cell to the Kolmogorov distance, h int |grad Psi| rho to the risk. For atoms see
   :mod:`wgflow.validation.comparison.atom_laws`.

For the risk, R_N = R + (2/N) sum_i (Psi(theta_i) - int Psi rho) + O(1/N) with Psi = V + int U rho (half of dR/drho).
For independent draws the last term has the mean K/N, K = int U(theta, theta) rho - int int U rho rho. The interaction
lowers the excess later on (gradient descent fits the network it has, not the average network), so any excess between
0 and K/N counts as explained: an allowance, exact at t = 0. The excess itself scatters like K/N times chi-square over
its degrees of freedom, at least the D parameters of a neuron in each of the n runs, so that the upper end of the band
lies (K/N) chi2_{nD}(1 - level/2) / (nD) above what parts 1 to 4 give.

The bias of order step_size is NOT in the band: if halving the step size changes the verdict, the first one was about
SGD's step, not about the flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtri, stdtrit

from ..distances import _from_masses, _is_density, _Law, _mean_power
from .atom_laws import MarginalLaw

__all__ = [
    "DISTANCES",
    "SCALARS",
    "CoordinateStatistics",
    "broadening",
    "excess_factor",
    "excess_variance",
    "simultaneous_factor",
]

Array = NDArray[np.float64]
DISTANCES = ("W1", "W2", "Kolmogorov")
SCALARS = ("mean", "deviation")


@dataclass(frozen=True)
class _Plan:
    """Where the levels i/count of a sample and those of a density fall into each other: the same for every sample."""

    width: Array
    lower: Array
    upper: Array
    index: NDArray[np.intp]

    @classmethod
    def make(cls, law: _Law, count: int) -> _Plan:
        levels = np.union1d(law.levels, np.arange(count + 1) / count)
        lo, hi = levels[:-1], levels[1:]
        middle = 0.5 * (lo + hi)
        piece = np.clip(np.searchsorted(law.levels, middle) - 1, 0, law.left.size - 1)
        index = np.clip((middle * count).astype(np.intp), 0, count - 1)
        return cls(hi - lo, law.at(piece, lo), law.at(piece, hi), index)

    def distances(self, x: Array) -> tuple[Array, Array]:
        """W_1 and W_2 between the density and each sorted sample x[..., count]."""
        values = x[..., self.index]
        lower, upper = self.lower - values, self.upper - values
        return _mean_power(lower, upper, 1) @ self.width, np.sqrt(_mean_power(lower, upper, 2) @ self.width)


class CoordinateStatistics:
    """Fit and spread of one coordinate's law, for many sets of runs at once.

    Parameters
    ----------
    rho : Density or MarginalLaw
        One-dimensional law of the coordinate.
    n_runs, n_particles : int
        Shape of a set of runs.
    """

    def __init__(self, rho: Any, n_runs: int, n_particles: int):
        if isinstance(rho, MarginalLaw):
            self._law, self._plan = rho.law, _Plan.make(rho.law, n_runs * n_particles)
            self.mean, self.deviation, self.resolution = rho.mean, rho.deviation, rho.resolution
            return
        if not _is_density(rho):
            raise TypeError("rho must be a Density")
        edges, masses = np.asarray(rho.grid.edges[0]), np.asarray(rho.masses)
        self._law = _from_masses(masses, edges[:-1], edges[1:])
        self._plan = _Plan.make(self._law, n_runs * n_particles)
        share, a, b = masses / masses.sum(), edges[:-1], edges[1:]
        self.mean = float(share @ (0.5 * (a + b)))
        # Of the piecewise constant density itself, with the variance inside the cells.
        self.deviation = float(np.sqrt(share @ ((a - self.mean) ** 2 + (a - self.mean) * (b - self.mean)
                                                + (b - self.mean) ** 2) / 3.0))
        half = 0.5 * float(share @ (b - a))
        self.resolution = {"W1": half, "W2": half, "Kolmogorov": 0.5 * float(share.max()), "mean": half,
                           "deviation": half}

    def cdf(self, x: Array) -> Array:
        """The law's distribution function."""
        return self._law.cdf(np.asarray(x, dtype=float), "right")

    def __call__(self, x: Array) -> dict[str, tuple[Array, Array]]:
        """``{name: (fit, spread)}`` for samples x of shape (sets, n_runs, n_particles); fits of scalars are signed."""
        sets, runs, count = x.shape
        flat = x.reshape(sets, runs * count)
        order = np.argsort(flat, axis=1)
        pooled = np.take_along_axis(flat, order, axis=1)
        own = np.sort(x, axis=2)
        out = dict(zip(DISTANCES, zip(self._plan.distances(pooled), self._between(own, pooled))))
        cdf = self._law.cdf(pooled.ravel(), "right").reshape(pooled.shape)
        steps = np.arange(runs * count + 1) / (runs * count)
        fit = np.maximum(np.abs(cdf - steps[1:]), np.abs(cdf - steps[:-1])).max(axis=1)
        spread = np.zeros(sets)
        for run in range(runs if runs > 1 else 0):
            share = np.cumsum(order // count == run, axis=1) / count
            spread += np.abs(share - steps[1:]).max(axis=1) ** 2 / runs
        out["Kolmogorov"] = (fit, spread)
        for name, value, truth in (("mean", x.mean(axis=2), self.mean), ("deviation", x.std(axis=2), self.deviation)):
            out[name] = (value.mean(axis=1) - truth, _variance(value))
        return out

    @staticmethod
    def _between(own: Array, pooled: Array) -> tuple[Array, Array]:
        """Mean over the runs of W_p(run, all runs)^2, p = 1, 2: a run's order statistic faces n of the pooled ones."""
        sets, runs, count = own.shape
        totals = np.zeros(sets), np.zeros(sets)
        for run in range(runs if runs > 1 else 0):
            gap = (pooled.reshape(sets, count, runs) - own[:, run, :, None]).reshape(sets, -1)
            totals[0][:] += np.mean(np.abs(gap), axis=1) ** 2 / runs
            totals[1][:] += np.einsum("ij,ij->i", gap, gap) / (count * runs**2)
        return totals


def _variance(values: Array) -> Array:
    return values.var(axis=1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))


def simultaneous_factor(standardized: Array, level: float) -> float:
    """The c of part 1: quantile over replicates (axis 0) of the largest standardized fit (axis 1)."""
    return float(np.quantile(standardized.max(axis=1), 1.0 - level))


def excess_variance(spread: Array, null_spread: Array, n_runs: int, level: float) -> Array:
    """What part 2 adds, ``kappa^2 max(0, phi~ - 1)``, for one statistic at all times.

    Parameters
    ----------
    spread, null_spread : array of shape (times,)
        E^2 of the runs, and its mean over the replicates.
    """
    if n_runs == 1:
        return np.zeros_like(spread)
    phi = spread / np.maximum(null_spread, np.finfo(float).tiny)
    phi = np.maximum(phi, 0.5 * (phi + np.median(phi)))
    kappa = stdtrit(2 * (n_runs - 1), 1.0 - level / 2) / ndtri(1.0 - level / 2)
    return kappa**2 * np.maximum(0.0, phi - 1.0)


def broadening(name: str, spread: Array, null_spread: Array, deviation: Array) -> Array:
    """What part 3 adds to the band of a statistic, each array of shape (times,)."""
    if name not in DISTANCES:
        return np.zeros_like(spread)
    excess = np.maximum(0.0, spread - null_spread)
    if name == "Kolmogorov":
        return np.minimum(1.0, 2.0 * excess)
    return np.sqrt(deviation**2 + excess) - deviation


def excess_factor(n_runs: int, n_parameters: int, level: float) -> float:
    """By how much the mean excess risk of n runs may exceed its expectation, ``chi2_{nD}(1 - level/2) / (nD)``."""
    modes = n_runs * n_parameters
    return float(chdtri(modes, level / 2)) / modes
