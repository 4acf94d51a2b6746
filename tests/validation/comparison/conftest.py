"""Many comparisons of one solution: the null law, which depends on no run, is simulated once for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wgflow.progress import Reporter
from wgflow.validation.comparison import comparing
from wgflow.validation.comparison.null_law import fits_of, quantities_of
from wgflow.validation.comparison.particle_runs import particle_runs
from wgflow.validation.comparison.risk_response import risks_of
from wgflow.validation.comparison.scatter_of_runs import null_choice
from wgflow.validation.comparison.statistics import STATISTICS


def count_alarms(sol, particles, n_runs, levels, *, scatter=None, statistics=STATISTICS, n_null=1000, rng=20011):
    """Compare each ``n_runs`` of the runs in turn: whether any band is left, and by how much each quantity fills its.

    Returns
    -------
    alarms : array of bool, shape (levels, sets)
    shares : dict of str to array of shape (levels, sets, times)
        Of each quantity, its difference in half widths from the middle of its band (a distance: over its band).
    """
    everything = particle_runs(particles, 1)
    model, t = everything.model, everything.times_in(sol)
    sets = everything.n_runs // n_runs
    first = replace(everything, coordinates=everything.coordinates[:n_runs],
                    risk=None if everything.risk is None else everything.risk[:n_runs])
    risks = None if everything.risk is None else risks_of(sol, first, model, t)
    names = ("x",) if model is None else model.coordinate_names
    quantities = quantities_of(names, statistics, risks is not None)
    null = null_choice(scatter, sol, first, model, names, 0.05, True, None if risks is None else risks.excess)
    risks = comparing.allowed_for(risks, null)
    columns = comparing._columns(sol, t, first, statistics, model, risks, n_null, np.random.default_rng(rng), null,
                                   None, Reporter("comparing", False))
    x = everything.coordinates[: sets * n_runs].reshape(sets, n_runs, *everything.coordinates.shape[1:])
    found = [fits_of(statistics, column.laws, x[:, :, j], spreads=not column.predicted.all())
             for j, column in enumerate(columns)]
    if risks is not None:
        off = everything.risk[: sets * n_runs].reshape(sets, n_runs, -1) - risks.pde
        spreads = off.var(axis=1, ddof=1) if n_runs > 1 else np.zeros((sets, t.size))
        found = [(np.column_stack([fit, off[:, :, j].mean(axis=1)]), np.column_stack([spread, spreads[:, j]]))
                 for j, (fit, spread) in enumerate(found)]
    one_sided = np.array([q.is_distance for q in quantities])[:, None]
    shares = np.empty((len(levels), sets, len(quantities), t.size))
    for k in range(sets):
        own = [replace(column, fit=fit[k], spread=spread[k]) for column, (fit, spread) in zip(columns, found)]
        difference = np.array([column.fit for column in own]).T
        for i, level in enumerate(levels):
            bands = comparing.bands_of(quantities, own, first, risks, None, level)
            middle = np.where(one_sided, 0.0, 0.5 * (bands.lower + bands.upper))
            shares[i, k] = (difference - middle) / (bands.upper - middle)
    found = {q.name: shares[:, :, i] for i, q in enumerate(quantities)}
    return np.any(np.abs(shares) > 1.0, axis=(2, 3)), found


@pytest.fixture
def alarms():
    """The function that counts them."""
    return count_alarms
