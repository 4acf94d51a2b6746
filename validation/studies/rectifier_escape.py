r"""When networks leave the plateau: the time at which the risk has made a quarter of its fall, beside that of the flow.

The risk R of N neurons under SGD of step epsilon falls through :math:`1 - (1 - R_\infty)/4` at a random time T.
To first order, with the predicted deviation of the risk at the time :math:`T_0` at which the flow falls through it,

.. math:: \mathrm{E}\,T = T_0 + b\,\epsilon + c / N, \qquad
          \mathrm{Var}\,T = \mathrm{Var}\,R_N(T_0) / R'(T_0)^2 .

Kinds of runs with different N and epsilon give :math:`T_0` by least squares, with the square of epsilon beside the
terms of first order and weights from the predicted variances: an estimate that owes nothing to the flow but weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri

from wgflow.reduced_models import ReLUNetwork
from wgflow.solution import Solution

from ..fluctuations import Scatter
from ..particles import SGDResult
from .base import Check
from .extrapolated_means import Lag

__all__ = ["Escape", "escape_check", "escape_of_flow", "escape_times", "extrapolated", "lag_of"]

Array = NDArray[np.float64]
#: Share of the fall of the risk after which a network has left the plateau.
_SHARE = 0.25


class Escape(NamedTuple):
    """The level a quarter down, the time at which the flow falls through it, its slope there, and the scatter of R."""

    level: float
    time: float
    slope: float
    scatter: Scatter

    def deviation(self, sgd: SGDResult) -> float:
        """Return the predicted standard deviation of the time of one run."""
        scatter = self.scatter.rescaled(n_neurons=sgd.n_neurons, step_size=sgd.step_size)
        risk, now = scatter.functionals.index("risk"), int(np.abs(scatter.t - self.time).argmin())
        return float(scatter.deviation[risk, now]) / abs(self.slope)


def escape_of_flow(model: ReLUNetwork, sol: Solution, scatter_at: Callable[[float], Scatter]) -> Escape:
    """Return when the flow has made a quarter of its fall from 1 to its last risk.

    Parameters
    ----------
    model : ReLUNetwork
    sol : Solution
    scatter_at : callable
        From the time of the escape to the predicted scatter of the risk, then and perhaps at other times.
    """
    risk = np.array([model.risk(rho) for rho in sol.densities])
    level = 1.0 - _SHARE * (1.0 - float(risk[-1]))
    time = _crossing(sol.t, risk, level)
    slope = float(PchipInterpolator(sol.t, risk).derivative()(time))
    return Escape(level, time, slope, scatter_at(time))


def escape_times(sgd: SGDResult, level: float) -> Array:
    """Return the time at which the risk of each run falls through a level, shape (runs,); NaN where it does not."""
    return np.array([_crossing(sgd.t, risk, level) for risk in sgd.risk])


def extrapolated(escape: Escape, kinds: Sequence[SGDResult]) -> tuple[float, float]:
    """Return the time for step 0 and infinitely many neurons, by least squares, and its standard deviation.

    Parameters
    ----------
    escape : Escape
    kinds : sequence of SGDResult
        At least three step sizes; where N varies at one step size, 1/N has a coefficient of its own, and otherwise
        N falls as the step grows, so that one coefficient holds both.
    """
    step = np.array([sgd.step_size for sgd in kinds])
    width = np.array([1.0 / sgd.n_neurons for sgd in kinds])
    columns = [np.ones(step.size), step / step.max(), (step / step.max()) ** 2]
    if np.unique(step).size < step.size:
        columns.append(width / width.max())
    times = np.array([escape_times(sgd, escape.level).mean() for sgd in kinds])
    error = np.array([escape.deviation(sgd) / np.sqrt(sgd.n_runs) for sgd in kinds])
    matrix = np.stack(columns, axis=1) / error[:, None]
    inverse = np.linalg.pinv(matrix)
    return float(inverse[0] @ (times / error)), float(np.linalg.norm(inverse[0]))


def lag_of(escape: Escape, kinds: Sequence[SGDResult]) -> Lag:
    """Return how late runs of the longest steps leave the plateau, and when they do in the limit.

    Where some never leave it, the lag is as long as the runs.
    """
    longest = max(kinds, key=lambda sgd: sgd.step_size)
    time, _ = extrapolated(escape, kinds)
    late = float(escape_times(longest, escape.level).mean()) - time
    return Lag(float(longest.t[-1]), escape.time) if np.isnan(late) else Lag(max(late, 0.0), time)


def escape_check(label: str, escape: Escape, kinds: Sequence[SGDResult], level: float) -> Check | None:
    """Return the check that the flow leaves the plateau when SGD does in the limit; None where runs never leave it.

    A right flow fails it with probability ``level``.
    """
    time, error = extrapolated(escape, kinds)
    factor = float(ndtri(1.0 - 0.5 * level))
    if np.isnan(time):
        return None
    fine = kinds[0]
    return Check(f"{label}: SGD has left the plateau, R = {escape.level:.3f}, at t = "
                 f"{escape_times(fine, escape.level).mean():.2f} (step {fine.step_size:g}, N = {fine.n_neurons}) and "
                 f"in the limit at {time:.2f} +- {factor * error:.2f}; the flow at {escape.time:.2f}",
                 bool(abs(time - escape.time) <= factor * error))


def _crossing(t: Array, risk: Array, level: float) -> float:
    """Return when a falling risk passes a level, by monotone cubic interpolation."""
    below = np.flatnonzero(risk <= level)
    if below.size == 0 or below[0] == 0:
        return float("nan")
    roots = PchipInterpolator(t, risk - level).roots(extrapolate=False)
    inside = roots[(roots >= t[below[0] - 1]) & (roots <= t[below[0]])]
    return float(inside[0]) if inside.size else float("nan")
