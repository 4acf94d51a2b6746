r"""The bands of :func:`wgflow.validation.compare`: how far apart may a density and a particle system be?

At a time t let n independent runs of N particles each stand beside the density rho. A *statistic* has a fit S >= 0 (the
distance of the pooled particles to rho, or |mean over runs of g - g(rho)|) and a spread E^2 (how far the runs lie from
one another). Three things move a correct run away from rho:

1. *N is finite.* If the particles were independent draws from rho, the law of (S, E^2) would be known: it is simulated,
   M replicates of n runs of N draws at each time. With mu, sigma the mean and deviation of S over the replicates,

       Q = mu + c sigma,     c = the (1 - level) quantile over replicates of the largest (S - mu) / sigma,

   where "largest" runs over all statistics and times, so that ALL of them stay below Q at once with probability
   1 - level. No Bonferroni factor is needed; drawing the times independently is the conservative side, as
   the times of a true run are correlated. Errors of means and deviations are two-sided: there mu = 0. The quantile
   of M replicates is the k-th largest that a further draw exceeds with probability k / (M + 1).
2. *Particles are not independent.* They share noise (that of the data under SGD, of order sqrt(step_size) at any N) and
   interact, which damps or carries along the fluctuations of the start. The runs show it: phi, which is E^2 over the
   mean of E^2 over the replicates, is 1 for independent draws. What exceeds that is added as a variance,

       band^2 = Q^2 + K^2 (mu^2 + sigma^2) max(0, phi~ - phi_0),

   taken as one Gaussian mode (a common shift), the least favorable case for a distance. As phi is itself estimated from
   n runs, K is the quantile of Student's law of n - 1 degrees of freedom, and phi_0 is below 1, since few runs may show
   no scatter though there is some (:mod:`wgflow.validation.comparison.small_samples` finds it). The modes, one for each
   coordinate and one for the risk at each time, are allowed for by Sidak's inequality; phi~ = max(phi, (phi + median
   over times of phi) / 2) borrows strength from the other times. So from five runs on the price is small, two or three
   have wide bands. Damping (phi < 1) does not narrow the band. A single run has no spread: its band consists of part 1
   alone, and the verdict says so.

   Where the scatter is predicted (:func:`wgflow.validation.predict_scatter`), parts 2 and 3 are left out: replicates
   themselves scatter as the runs do (:mod:`wgflow.validation.comparison.predicted_scatter`), jointly over all times and
   about the predicted bias of the step, so that the level is kept for any number of runs, a single one too.
3. *Pooling.* Runs that share noise scatter about rho, so that the law of all their particles is wider than rho by their
   excess scatter e^2 = E^2 - its mean over the replicates: W_1 and W_2 may grow by sqrt(s^2 + e^2) - s (s the deviation
   of rho), the Kolmogorov distance by 2 e^2, any other distance by its value between rho and rho stretched to the
   variance s^2 + e^2, with e^2 the excess variance of the runs' means. This is of second order, but does not fall with
   n as the rest does.
4. *Cells.* Where in its cell of width h the mass lies is known up to u h/2, u = min(1, jump to the neighbors over the
   density itself): half a cell where a single cell holds all, of order h^2 where the law is resolved. The root mean
   square of u h/2 is added to W_p, mean and deviation, the largest u/2 times the mass of a cell to the Kolmogorov
   distance, int u h |grad Psi| rho to the risk; to any other statistic the largest change when rho is moved or widened
   by so much. For atoms see :mod:`wgflow.validation.comparison.atom_laws`.

For the risk, R_N = R + (2/N) sum_i (Psi(theta_i) - int Psi rho) + O(1/N) with Psi = V + int U rho (half of dR/drho).
For independent draws the last term has the mean K/N, K = int U(theta, theta) rho - int int U rho rho. The interaction
lowers the excess later on (gradient descent fits the network it has, not the average network), so any excess between
0 and K/N counts as explained: an allowance, exact at t = 0. The excess itself scatters like K/N times chi-square over
its degrees of freedom, at least the D parameters of a neuron in each of the n runs, so that the upper end of the band
lies (K/N) chi2_{nD}(1 - level/2) / (nD) above what parts 1 to 4 give. Where the bias of finite width is measured
(:mod:`wgflow.validation.fluctuations.width_bias`), the replicates have it with its scatter.

Coarser runs (``coarse``) measure the excess together with the bias of the step: the allowance is then left out. That
they scatter themselves widens the bands of differences, see :func:`first_order_bias`.

The bias of order step_size is in the band where it is predicted with the scatter, or measured by coarser runs.
Elsewhere it is NOT: if halving the step size changes the verdict, the first one was about SGD's step, not the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from .null_law import AtOneTime, Quantity
from .small_samples import borrowed, observed_scatter

__all__ = ["Bands", "excess_factor", "excess_variance", "simultaneous_bands", "simultaneous_factor"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bands:
    """Lower and upper ends of the bands, and by how much scatter widened them, each of shape (quantities, times)."""

    lower: Array
    upper: Array
    inflation: Array


def simultaneous_bands(quantities: Sequence[Quantity], columns: Sequence[AtOneTime], n_runs: int,
                       level: float) -> Bands:
    """Return the bands of parts 1 to 4, from what was found at each time."""
    observed, null_mean, null_std, null_spread, predicted, widening = (
        np.array([getattr(column, name) for column in columns]).T
        for name in ("spread", "null_mean", "null_std", "null_spread", "predicted", "widening"))
    factor = simultaneous_factor(np.concatenate([column.standardized for column in columns], axis=1), level)
    is_distance = np.array([q.is_distance for q in quantities])[:, None]
    mean = np.where(is_distance, null_mean, 0.0)
    modes = len({(q.coordinate, q.statistic is None) for q in quantities})
    added = np.stack([excess_variance(*rows, n_runs, modes, level) for rows in zip(observed, null_spread)])
    added = np.where(predicted, 0.0, added)  # the replicates scatter as the runs do
    independent = mean + factor * null_std
    scattered = np.sqrt(independent**2 + (mean**2 + null_std**2) * added)
    excess = np.where(predicted, 0.0, np.maximum(0.0, observed - null_spread))
    wider = np.array([[q.broadening(column, float(e)) for column, e in zip(columns, row)]
                      for q, row in zip(quantities, excess)])
    wider = np.where(predicted, 0.0, wider)
    upper = scattered + wider + np.array([column.resolution for column in columns]).T
    upper = np.minimum(upper, np.array([q.largest for q in quantities])[:, None])
    # Predicted differences are off 0 by the bias of the step and that of a sample's deviation.
    center = np.where(predicted & ~is_distance, null_mean, 0.0)
    return Bands(np.where(is_distance, 0.0, center - upper), center + upper,
                 widening * scattered / np.where(independent > 0, independent, 1.0))


def simultaneous_factor(standardized: Array, level: float) -> float:
    """Return the c of part 1: quantile over replicates (axis 0) of the largest standardized fit (axis 1)."""
    # Of n replicates the k-th largest is left with probability k / (n + 1).
    return float(np.quantile(standardized.max(axis=1), 1.0 - level, method="weibull"))


def excess_variance(spread: Array, null_spread: Array, n_runs: int, n_modes: int, level: float) -> Array:
    """Return what part 2 adds, ``K^2 max(0, phi~ - phi_0)``, for one statistic at all times.

    Parameters
    ----------
    spread, null_spread : array of shape (times,)
        E^2 of the runs, and its mean over the replicates.
    n_modes : int
        Coordinates, and one more with the risk.
    level : float
        Of all bands.
    """
    if n_runs == 1:
        return np.zeros_like(spread)
    phi = borrowed(spread / np.maximum(null_spread, np.finfo(float).tiny))
    student, start = observed_scatter(n_runs, spread.size, n_modes, level)
    return student**2 * np.maximum(0.0, phi - start)


def excess_factor(n_runs: int, n_parameters: int, level: float) -> float:
    """Return by what factor the mean excess risk of n runs may exceed its mean, ``chi2_{nD}(1 - level/2) / (nD)``."""
    modes = n_runs * n_parameters
    return float(chdtri(modes, level / 2)) / modes
