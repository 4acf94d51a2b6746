"""A predicted scatter of the runs, in place of the one that they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput, InvalidType

from .null_law import AtOneTime, Quantity
from .particle_runs import ParticleRuns

if TYPE_CHECKING:
    from ..fluctuations import Scatter

__all__ = ["check_scatter", "predicted_ratios"]

Array = NDArray[np.float64]


def check_scatter(scatter: Scatter, runs: ParticleRuns) -> None:
    """Refuse a prediction for other particles than those of the runs."""
    from ..fluctuations import Scatter

    if not isinstance(scatter, Scatter):
        raise InvalidType(f"scatter must be what predict_scatter returns, got {type(scatter).__name__}")
    if scatter.n_neurons != runs.count:
        raise InvalidInput(f"scatter is predicted for n_neurons={scatter.n_neurons}, the runs have {runs.count}: give "
                           f"scatter.rescaled(n_neurons={runs.count})")
    if not np.isclose(scatter.step_size, runs.step_size, rtol=1e-9, atol=0.0):
        raise InvalidInput(f"scatter is predicted for step_size={scatter.step_size:g}, the runs have "
                           f"{runs.step_size:g}: give scatter.rescaled(step_size={runs.step_size:g})")
    span = max(float(runs.t[-1]), 1e-300)
    missing = np.abs(scatter.t[:, None] - runs.t).min(axis=0) > max(1e-9 * span, 0.51 * runs.step_size)
    if missing.any():
        raise InvalidInput(f"scatter has no time {runs.t[missing][0]:g}: predict_scatter(..., t_eval=particles.t)")


def predicted_ratios(scatter: Scatter, quantities: Sequence[Quantity], columns: Sequence[AtOneTime],
                     runs: ParticleRuns) -> Array:
    """Return the predicted variance of each quantity over that of independent draws, shape (quantities, times).

    Means, deviations and the risk are found by their names. A distance takes the largest ratio of its coordinate: among
    all ways in which a law can move, shifts and changes of width are those that particles amplify together. NaN where
    nothing is predicted.
    """
    times = np.abs(scatter.t[:, None] - runs.t).argmin(axis=0)
    null = np.array([column.null_std for column in columns]).T ** 2 * runs.n_runs
    ratios = np.full(null.shape, np.nan)
    for i, quantity in enumerate(quantities):
        if quantity.name in scatter.functionals:
            predicted = scatter.variance[scatter.functionals.index(quantity.name), times]
            ratios[i] = predicted / np.where(null[i] > 0.0, null[i], np.inf)
    for i, quantity in enumerate(quantities):
        if quantity.is_distance:
            own = [k for k, other in enumerate(quantities) if other.statistic is not None and not other.is_distance
                   and other.coordinate == quantity.coordinate and np.isfinite(ratios[k]).all()]
            if own:
                ratios[i] = ratios[own].max(axis=0)
    return ratios
