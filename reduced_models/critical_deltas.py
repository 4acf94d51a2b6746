"""Single lengths of the weights: which are stationary, and between which class differences one of them is optimal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from .minimum_risk.psi_search import PsiSearch

if TYPE_CHECKING:
    from .isotropic_gaussian import IsotropicGaussian

__all__ = ["CriticalDeltas", "StationaryDelta", "critical_deltas", "delta_margin", "stationary_deltas"]

FloatArray = NDArray[np.float64]

_SCAN = 27  # values of Delta at which signs are taken first
_SAMPLES = 201  # radii at which stationary deltas and their competitors are sought


class StationaryDelta(NamedTuple):
    """A radius at which a single delta is a stationary point of the risk.

    ``curvature`` is the second derivative of Psi at the delta itself: positive where the delta is linearly stable.
    """

    radius: float
    risk: float
    curvature: float


class CriticalDeltas(NamedTuple):
    r"""Thresholds of the class difference :math:`\Delta` in the given convention; None where there is no such value.

    For ``lower`` < Delta < ``upper`` the infimum of the risk over all measures is that of a single delta at
    :math:`r_*`: no other radius, finite or infinite, has a smaller :math:`\Psi(\cdot; \delta_{r_*})`. For Delta >
    ``unstable`` the curvature :math:`\Psi''(r_*; \delta_{r_*})` is negative: mass splits off the delta itself.
    """

    lower: float | None
    upper: float | None
    unstable: float | None
    convention: str


def stationary_deltas(model: IsotropicGaussian, r_max: float, samples: int) -> list[StationaryDelta]:
    """Return the stationary deltas on ``0 < r <= r_max``, from sign changes of the slope between ``samples`` points."""
    target = model.target

    def slope(r: ArrayLike) -> FloatArray:
        values = model.features(r) - target.reshape((-1,) + (1,) * np.ndim(r))
        return np.sum(model.feature_gradients(r)[:, 0] * values, axis=0)

    r = np.linspace(0.0, r_max, samples + 1)[1:]
    g = slope(r)
    result = []
    for i in np.flatnonzero(g[:-1] * g[1:] < 0.0):
        radius = float(brentq(slope, r[i], r[i + 1], xtol=1e-14, rtol=1e-14))
        values = model.features(radius)
        curvature = np.sum(model.feature_curvatures(radius) * (values - target))
        risk = 1.0 + 2.0 * model.potential(radius) + np.sum(values**2)
        result.append(StationaryDelta(radius, float(risk), float(curvature)))
    return result


def critical_deltas(make: Callable[[float], IsotropicGaussian], d: float, convention: str) -> CriticalDeltas:
    """Return the thresholds of a family of models, given for each difference of the standard deviations."""
    def margin(delta: float) -> float:
        return delta_margin(make(delta))[0]

    def curvature(delta: float) -> float:
        return delta_margin(make(delta))[1]

    # The lower threshold is of the order of 1/d.
    start = 1e-3 if math.isinf(d) else min(1e-2, 0.1 / d)
    scan = np.concatenate([np.geomspace(start, 0.1, _SCAN // 3), np.linspace(0.1, 0.97, _SCAN - _SCAN // 3)[1:]])
    margins, curvatures = np.array([delta_margin(make(x)) for x in scan]).T
    optimal = np.flatnonzero(margins > 0.0)
    lower = upper = None
    if optimal.size:
        first = int(optimal[0])
        lower = _crossing(margin, scan, first - 1) if first else 0.0
        after = np.flatnonzero(margins[first:] <= 0.0)
        upper = _crossing(margin, scan, first + int(after[0]) - 1) if after.size else None
    turns = np.flatnonzero((curvatures[:-1] > 0.0) & (curvatures[1:] <= 0.0))
    unstable = _crossing(curvature, scan, int(turns[0])) if turns.size else None
    if convention == "variance":  # (1 + x)^2 / (1 - x)^2 = (1 + Delta) / (1 - Delta)
        lower, upper, unstable = (x if x is None else 2.0 * x / (1.0 + x * x) for x in (lower, upper, unstable))
    return CriticalDeltas(lower, upper, unstable, convention)


def _crossing(function: Callable[[float], float], scan: np.ndarray, i: int) -> float:
    return float(brentq(function, scan[i], scan[i + 1], xtol=1e-15, rtol=1e-14))


def delta_margin(model: IsotropicGaussian) -> tuple[float, float]:
    r"""Return the least :math:`\Psi(r; \delta_{r_*}) - \Psi(r_*; \delta_{r_*})` and :math:`\Psi''(r_*; \delta_{r_*})`.

    :math:`r_*` is the stationary delta of least risk, r runs over the other local minima, the ends 0 and infinity among
    them. The delta is optimal among all measures if the first is not negative.
    """
    deltas = stationary_deltas(model, model.grid(8).bounds[0][1], _SAMPLES)
    if not deltas:
        return -1.0, -1.0
    radius, _, curvature = min(deltas, key=lambda s: s.risk)
    c = model.signs * (model.features(radius) - model.target)
    here = float(c @ model.features(radius))
    limits = model.limit_points()
    search = PsiSearch.for_model(model, ((0.0, math.inf),), limits, _SAMPLES)
    others = search.bracketed(c, c @ search.features)[0]
    if curvature > 0.0:  # one of them is r_* itself, less exactly
        others = others[np.abs(others - radius) > 2.0 * search.core[0][1] / _SAMPLES]
    candidates = [*(c @ model.features(others)), *(float(c @ p.features) + (1.0 - p.mass) * here for p in limits)]
    return float(min(candidates, default=math.inf)) - here, curvature
