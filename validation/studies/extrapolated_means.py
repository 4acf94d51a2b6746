r"""Smooth functionals of SGD, extrapolated to step 0 and infinitely many neurons, beside those of the flow.

Let :math:`\Phi` be a functional that is smooth in the parameters: a mean of a, b, :math:`|w_1|^2`, :math:`|w_2|^2`, or
the risk. (The length :math:`|w|` is not: its root makes the noise of the steps count as :math:`\sqrt\epsilon` where the
flow ends near 0.) Kinds h = 1, 2, 4 of runs have the step :math:`h \epsilon` and N/h neurons, so that

.. math:: \mathrm{E}\,\Phi_h = \Phi + b_1 h + b_2 h^2 + b_3 h^3 + \dots, \qquad
          \mathrm{Var}\,\Phi_h = h\,s^2\,(1 + O(h)),

with the deviation s of one run of the finest kind, which `predict_scatter` gives together with all correlations. With
:math:`n_h` runs of each kind and their means :math:`m_h`,

.. math:: \Phi^* = \tfrac13 (8 m_1 - 6 m_2 + m_4) \quad\text{has}\quad \mathrm{E}\,\Phi^* = \Phi + 8 b_3 + \dots, \qquad
          \mathrm{Var}\,\Phi^* = \frac{s^2}{9} \Bigl( \frac{64}{n_1} + \frac{72}{n_2} + \frac{4}{n_4} \Bigr),

With divided differences of :math:`g(h) = \mathrm{E}\,\Phi_h`, the line :math:`\Phi^l = 2 m_1 - m_2` and the curve
leave, whatever g is,

.. math:: \Phi^* - \Phi^l = 2 g[1, 2, 4] = C, \qquad
          \Phi^* - \Phi = 2 g[1, 2, 4] - 2 g[0, 1, 2] = 8 g[0, 1, 2, 4],

so that what :math:`\Phi^*` neglects is the change of the mean curvature of g from [1, 4] to [0, 2]. Where the terms of
the expansion do not grow at the coarsest kind, :math:`64 |b_3| \le 16 |b_2|`, it is at most :math:`|C|`. That fails
while networks leave a plateau. There longer steps shift the same descent to later times,
:math:`\Phi_h(t) = \phi(t - \delta h)`: C(t) is :math:`\delta^2 \phi''` averaged over :math:`[t - 4\delta, t - \delta]`,
and what is neglected is the difference to its average over :math:`[t - 2\delta, t]`. Near an inflection of
:math:`\phi` C vanishes, and that difference is largest. But the second average is close to C at the time
:math:`t + 4\delta/3`: both are bounded by what C is within a lag :math:`D = 4\delta` of the coarsest kind, and with

.. math:: A(t) = \max_{|s - t| \le D(t)} |C(s)|, \qquad D(t) = D \min(1, t/T),

a flow that is the limit of SGD satisfies

.. math:: |\Phi^* - \Phi| \le c\,\sqrt{\mathrm{Var}\,\Phi^*} + A

for all functionals and times at once with probability 1 - level, c being the quantile of the largest component of a
Gaussian vector of the predicted correlations. T is when the plateau is left: until then the lag grows with time, as
the rates of growth differ; the descents themselves are alike. A maximum over all earlier times would not do, since what
is needed lies later: a descent that begins sharply and slows down gently breaks it.

For logistic descents, their squares and those of Gumbel's law, which begin or end sharply, the remainder is at most A
up to a lag of two e-folding times (tests). It need not be where the lag grows like :math:`h^2` as much as like h: on
the rise of an exponential C can then vanish at all times. And near the last time of the runs nothing later is known.

Near a minimum of the risk its scatter is of second order and not predicted. A functional whose runs scatter
significantly more than predicted, with the variances of the three kinds pooled as :math:`\mathrm{Var}/h`, has what they
show added, at the level of c with Student's quantile for as many degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, stdtrit

from wgflow.atoms import Atoms
from wgflow.reduced_models import ReLUNetwork
from wgflow.reduced_models.base import ReducedModel
from wgflow.solution import Solution

from ..fluctuations import Scatter, predict_scatter
from ..particles import SGDResult
from .base import Check

__all__ = ["NAMES", "NO_LAG", "Extrapolation", "Lag", "extrapolate", "functionals_of_flow", "neglected",
           "scatter_of_means"]

Array = NDArray[np.float64]
#: The functionals, by the names under which they are reported.
NAMES = ("<a>", "<b>", "<r1^2>", "<r2^2>", "R")
#: The ratio of steps, and of numbers of neurons, between a kind and the finest.
_KINDS = (1.0, 2.0, 4.0)
_CURVE = np.array([8.0, -6.0, 1.0]) / 3.0
_LINE = np.array([2.0, -1.0, 0.0])
#: Draws of the Gaussian vector.
_DRAWS = 20_000
#: Share of the level that is spent on finding functionals that scatter more than predicted.
_SHARE = 0.1
#: Gauss nodes in each radius for the predicted scatter: with 12 it is the same within a few percent.
_NODES = 8
#: Times nearer to each other than this are one.
_APART = 1e-9
#: Differences of this size are rounding, where nothing scatters.
_ROUNDING = 1e-9


class Lag(NamedTuple):
    """By how much the coarsest kind is late when it leaves the plateau, and when the limit leaves it."""

    size: float
    time: float


#: Nothing is shifted.
NO_LAG = Lag(0.0, 1.0)


@dataclass(frozen=True)
class Extrapolation:
    """Functionals of the flow and of SGD; arrays have the shape (functionals, times).

    Attributes
    ----------
    t : array of shape (times,)
    flow, finest, limit : array
        Of the flow, the mean over the finest runs, and extrapolated.
    band : array
        How far the limit of a right flow may be off.
    deviation : array
        Predicted, of the limit.
    level : float
    factor : float
        The c of the band.
    more : dict of str to float
        Functionals that scatter more than predicted, and by which factor their variance is.
    """

    t: Array
    flow: Array
    finest: Array
    limit: Array
    band: Array
    deviation: Array
    level: float
    factor: float
    more: dict[str, float]

    @property
    def bias(self) -> Array:
        """By how much the finest runs are off their limit."""
        return self.finest - self.limit

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether the limit lies in its band."""
        return np.abs(self.limit - self.flow) <= self.band

    def check(self, label: str) -> Check:
        """Return the check that all limits lie in their bands."""
        share = np.abs(self.limit - self.flow) / self.band
        i, j = np.unravel_index(int(np.argmax(share)), share.shape)
        outside = int(np.sum(~self.inside))
        words = (f"{label}, means of a, b, r1^2, r2^2 and risk to t = {self.t[-1]:g}, extrapolated to step 0 and "
                 f"infinitely many neurons: {share.size - outside} of {share.size} lie in bands that a right flow "
                 f"leaves with a probability of {self.level:.2g} in all; farthest out: {NAMES[i]} at t = "
                 f"{self.t[j]:g}, {self.limit[i, j]:.4f} where the flow has {self.flow[i, j]:.4f} +- "
                 f"{self.band[i, j]:.4f}")
        if self.more:
            words += "; more scatter than predicted: " + ", ".join(f"{name}, variance {ratio:.3g} times"
                                                                   for name, ratio in self.more.items())
        return Check.at_most(words, float(share[i, j]), 1.0)


def scatter_of_means(model: ReLUNetwork, t: Sequence[float] | Array, n_neurons: int, step_size: float,
                     kappa: float) -> Scatter:
    """Return the predicted scatter of the functionals of `NAMES`."""
    return predict_scatter(model, t, n_neurons, step_size, start=model.initial_atoms(kappa, nodes=_NODES),
                           functionals=["mean of a", "mean of b", lambda a, b, r1, r2: r1**2,
                                        lambda a, b, r1, r2: r2**2, "risk"])


def extrapolate(sol: Solution, model: ReLUNetwork, kinds: Sequence[SGDResult], scatter: Scatter, level: float,
                lag: Lag = NO_LAG, rng: int = 20011) -> Extrapolation:
    """Compare a flow with SGD of three kinds, of steps 1, 2 and 4 and numbers of neurons 1, 1/2 and 1/4.

    Parameters
    ----------
    sol : Solution
        Of atoms, at the times of the runs.
    model : ReLUNetwork
    kinds : sequence of SGDResult
        The finest first, two runs of each or more.
    scatter : Scatter
        By `scatter_of_means`, for one run of the finest kind. Those of its times at which there are runs are compared.
    level : float
        Probability that a right flow leaves a band.
    lag : Lag, optional
        Of the coarsest kind behind the limit; none by default, where nothing is left that shifts.
    rng : int

    Returns
    -------
    Extrapolation
    """
    known = np.abs(scatter.t[:, None] - kinds[0].t).min(axis=1) < _APART
    scatter = _at(scatter, known)
    t = scatter.t
    flow = functionals_of_flow(sol, model, t)
    values = [_of_runs(sgd, t) for sgd in kinds]
    means = np.array([each.mean(axis=1) for each in values])
    counts = np.array([sgd.n_runs for sgd in kinds])
    limit = np.einsum("k,kij->ij", _CURVE, means)
    growth = float(np.sqrt(np.sum(_CURVE**2 * np.array(_KINDS) / counts)))
    variance = scatter.variance
    factor = _simultaneous(scatter, level, rng)
    added, more = _more_scatter(values, variance, level, factor)
    deviation = growth * np.sqrt(variance + added)
    band = factor * deviation + neglected(kinds, t, lag) + _ROUNDING
    return Extrapolation(t, flow, means[0], limit, band, deviation, level, factor, more)


def neglected(kinds: Sequence[SGDResult], t: Array, lag: Lag) -> Array:
    """Return the A of the band, (functionals, times): the largest |C| at the times of the runs within the lag."""
    times = np.asarray(kinds[0].t, dtype=float)
    means = np.array([_of_runs(sgd, times).mean(axis=1) for sgd in kinds])
    curvature = np.abs(np.einsum("k,kij->ij", _CURVE - _LINE, means))
    reach = lag.size * np.minimum(1.0, t / lag.time) + _APART
    near = np.abs(t[:, None] - times) <= reach[:, None]
    return np.array([[row[own].max() for own in near] for row in curvature])


def functionals_of_flow(sol: Solution, model: ReducedModel, t: Sequence[float] | Array) -> Array:
    """Return the functionals of `NAMES` at times of a flow of atoms, shape (functionals, times)."""
    return np.array([_of_atoms(sol.density(u), model) for u in t]).T


def _at(scatter: Scatter, kept: NDArray[np.bool_]) -> Scatter:
    """Return a prediction at some of its times."""
    parts = {name: getattr(scatter, name)[:, kept][..., kept] for name in ("starts", "samples", "noise")}
    return replace(scatter, t=scatter.t[kept], mean_field=scatter.mean_field[:, kept], step_bias=None, width_bias=None,
                   **parts)


def _of_atoms(rho: object, model: ReducedModel) -> list[float]:
    if not isinstance(rho, Atoms):
        raise TypeError("the flow is one of atoms")
    a, b, r1, r2 = (np.asarray(x) for x in rho.points)
    share = np.asarray(rho.weights) / rho.mass
    return [*(float(share @ x) for x in (a, b, r1**2, r2**2)), model.risk(rho)]


def _of_runs(sgd: SGDResult, t: Array) -> Array:
    """Return the functionals of each run, shape (functionals, runs, times)."""
    at = np.abs(sgd.t[:, None] - t).argmin(axis=0)
    a, b, r1, r2 = np.moveaxis(sgd.coordinates[:, at], -1, 0)
    return np.stack([*(x.mean(axis=2) for x in (a, b, r1**2, r2**2)), sgd.risk[:, at]])


def _simultaneous(scatter: Scatter, level: float, rng: int) -> float:
    """Return the quantile of the largest component of a Gaussian vector of the predicted correlations."""
    size = scatter.variance.size
    covariance = scatter.covariance.reshape(size, size)
    moves = np.sqrt(np.diag(covariance)) > 1e-6 * np.sqrt(np.max(np.diag(covariance)))
    deviation = np.sqrt(np.diag(covariance)[moves])
    values, vectors = np.linalg.eigh(covariance[np.ix_(moves, moves)] / np.outer(deviation, deviation))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = root @ np.random.default_rng(rng).standard_normal((deviation.size, _DRAWS))
    return float(np.quantile(np.abs(draws).max(axis=0), 1.0 - level, method="weibull"))


def _more_scatter(values: Sequence[Array], variance: Array, level: float,
                  factor: float) -> tuple[Array, dict[str, float]]:
    """Return what is added to the variances of one run of the finest kind, and of which functionals."""
    degrees = sum(each.shape[1] - 1 for each in values)
    seen = sum((each.shape[1] - 1) * each.var(axis=1, ddof=1) / kind for each, kind in zip(values, _KINDS)) / degrees
    seen = np.asarray(seen, dtype=float)
    limit = chdtri(degrees, _SHARE * level / variance.size) / degrees
    ratio = np.where(seen > _ROUNDING**2, seen / np.maximum(variance, np.finfo(float).tiny), 0.0)
    flagged = ratio.max(axis=1) > limit
    student = (stdtrit(degrees, ndtr(factor)) / factor) ** 2
    added = np.where(flagged[:, None], student * np.maximum(seen - variance, 0.0), 0.0)
    return added, {name: float(own.max()) for name, own, wide in zip(NAMES, ratio, flagged) if wide}
