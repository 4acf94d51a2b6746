"""The mean-field law with which runs are compared, and how far each run is from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput
from wgflow.reduced_models.base import ReducedModel
from wgflow.solution import Solution
from wgflow.solvers import Lagrangian
from wgflow.verbs import solve

from ...comparison.marginal_laws import MarginalLaw
from ...comparison.more_statistics import BoundedLipschitz
from ...comparison.null_law import laws_at
from ...comparison.statistics import Kolmogorov, Mean, Statistic, Wasserstein, check_statistics
from ...fluctuations import predict_scatter
from .results import ErrorStudy
from .simulations import Batch, Simulation

__all__ = ["STATISTICS", "Observed", "Reference", "gathered", "mean_field", "predicted_scatter"]

Array = NDArray[np.float64]
#: What is measured on each coordinate by default.
STATISTICS: tuple[Statistic, ...] = (Wasserstein(1), Kolmogorov(), BoundedLipschitz(), Mean())
#: Cells of the initial density whose quantiles are carried along the flow.
_CELLS = 1000
#: A law is known too coarsely where its resolution is above this share of an error.
_COARSE = 0.2
#: Risks that differ by less are the same one.
_SAME = 1e-9
RISK, RISK_OF_LAW = "risk", "risk of the law"


def mean_field(simulation: Simulation) -> Solution:
    """Solve the noiseless mean-field flow of a simulation by characteristics.

    On one coordinate the atoms are the quadrature points of 1,000 cells of the initial density, so that the quantile
    function is known far better than the scatter of affordable widths; on several they are ``model.initial_atoms``.

    Raises
    ------
    InvalidInput
        With noise, where the flow needs a grid of the user's.
    """
    model = simulation.model
    if not math.isinf(simulation.beta):
        raise InvalidInput(f"beta={simulation.beta:g}: with noise give the solution yourself, sol=solve(model.energy("
                           "beta, ridge), rho0, ..., t_eval=t_eval, time_scale=model.time_scale)")
    start = model.initial_atoms(simulation.kappa)
    if model.n_coordinates == 1 and start.size > 1:
        start = Atoms.from_density(model.initial_density(simulation.kappa, model.grid(_CELLS)), per_cell=2)
        held = start.weights > 1e-15
        start = Atoms(start.points[:, held], start.weights[held], start.bounds, start.powers, start.names)
    times = [t for t in simulation.t if t > 0.0] or [1.0]
    return solve(model.energy(ridge=simulation.ridge), start, (0.0, times[-1]), Lagrangian(),
                 t_eval=[0.0, *times], time_scale=model.time_scale)


@dataclass(frozen=True)
class Observed:
    """How far each run is from the law, and from the law of all runs together.

    Attributes
    ----------
    errors : dict of str to array of shape (runs, times)
        Distances to the law, or signed differences.
    scatters : dict of str to array of shape (runs, times)
        Of each distance: that to all runs pooled, times sqrt(n/(n-1)) for n runs, since each is a part of them. In the
        Gaussian limit this has the law of the distance to the mean of infinitely many runs.
    """

    errors: dict[str, Array]
    scatters: dict[str, Array]


class Reference:
    """A solution as seen by statistics at given times.

    Parameters
    ----------
    sol : Solution
        Holds all of the times.
    model : ReducedModel
    t : sequence of float
    statistics : sequence of Statistic
    """

    def __init__(self, sol: Solution, model: ReducedModel, t: Sequence[float], statistics: Sequence[Statistic]):
        self.sol, self.model, self.t, self.statistics = sol, model, tuple(t), check_statistics(statistics)
        missing = [s for s in self.t if np.abs(np.asarray(sol.t) - s).min() > 1e-9 * max(float(np.ptp(sol.t)), 1e-300)]
        if missing:
            raise InvalidInput(f"sol has no time t={missing[0]:g}: solve(..., t_eval={list(self.t)})")
        self.laws: list[Sequence[MarginalLaw]] = [laws_at(sol, s).marginals for s in self.t]
        if len(self.laws[0]) != model.n_coordinates:
            raise InvalidInput(f"sol has {len(self.laws[0])} coordinates, {model.name} has {model.n_coordinates}")

    @cached_property
    def risk(self) -> Array:
        """The risks of the law, shape (times,)."""
        return np.array([self.model.risk(self.sol.density(s)) for s in self.t])

    @cached_property
    def resolution(self) -> dict[str, Array]:
        """How well each statistic knows the law itself, arrays of shape (times,)."""
        return {name: np.array([statistic.resolution(laws[k]) for laws in self.laws])
                for name, k, statistic in self._rows()}

    def observe(self, batch: Batch, *, scatter: bool = True) -> Observed:
        """Return the distances and differences of all runs of a batch."""
        runs, times = batch.risk.shape
        errors = {name: np.empty((runs, times)) for name, _, _ in self._rows()}
        scatters = {name: np.empty((runs, times)) for name, _, s in self._rows() if s.is_distance and scatter}
        for j in range(times):
            for k in range(self.model.n_coordinates):
                x = np.sort(batch.coordinates[:, j, :, k], axis=1)
                pooled = MarginalLaw.from_sorted(np.sort(x, axis=None)) if scatters else None
                for name, own, statistic in self._rows():
                    if own == k:
                        errors[name][:, j] = statistic.value(x, self.laws[j][k])
                        if name in scatters and pooled is not None:
                            scatters[name][:, j] = statistic.value(x, pooled) * math.sqrt(runs / (runs - 1))
        errors[RISK] = batch.risk - self.risk
        of_law = self._risk_of_laws(batch.coordinates)
        if np.abs(of_law - batch.risk).max() > _SAME * max(1.0, np.abs(batch.risk).max()):
            errors[RISK_OF_LAW] = of_law - self.risk
        return Observed(errors, scatters)

    @property
    def signed(self) -> tuple[str, ...]:
        """The quantities that are differences."""
        return (*(name for name, _, statistic in self._rows() if not statistic.is_distance), RISK, RISK_OF_LAW)

    def _rows(self) -> list[tuple[str, int, Statistic]]:
        return [(f"{statistic.name} of {name}", k, statistic)
                for k, name in enumerate(self.model.coordinate_names) for statistic in self.statistics]

    def _risk_of_laws(self, coordinates: Array) -> Array:
        """Return R of the empirical law of the coordinates, shape (runs, times): directions are averaged."""
        model = self.model
        return np.array([[model.risk_of_moments(np.mean(model.features(*x.T), axis=1)) for x in run]
                         for run in coordinates])


def predicted_scatter(simulation: Simulation, points: Sequence[tuple[int, float]]) -> dict[str, Array]:
    """Return the predicted standard deviations of means and risk over runs, arrays of shape (points, times).

    To first order in 1/N and the step size, by `predict_scatter`; empty where the model does not say what a sample
    adds, where the flow is noisy (which needs a grid), or is not smooth.
    """
    model = simulation.model
    if not math.isinf(simulation.beta):
        return {}
    means = [f"mean of {name}" for name in model.coordinate_names]
    fixed = simulation.theta0 is not None
    try:
        found = predict_scatter(model, simulation.t, points[0][0], points[0][1], kappa=simulation.kappa,
                                functionals=[*means, RISK], ridge=simulation.ridge)
    except InvalidInput:
        return {}
    predicted = {}
    for i, name in enumerate(found.functionals):
        starts, samples = (np.einsum("tt->t", part[i][:, i]) for part in (found.starts, found.samples))
        parts = [(0.0 if fixed else 1.0) * starts / n + step * samples for n, step in points]
        predicted[name] = np.sqrt(np.array(parts))
    return {**predicted, RISK_OF_LAW: predicted[RISK]}


def gathered(observed: Sequence[Observed], **fields: Any) -> ErrorStudy:
    """Return what was observed at each point of a parameter as one study; quantities that a point lacks are left out.

    Parameters
    ----------
    observed : sequence of Observed
    fields
        The other fields of `ErrorStudy`.
    """
    names = [name for name in observed[0].errors if all(name in each.errors for each in observed)]
    errors = {name: tuple(each.errors[name] for each in observed) for name in names}
    scatters = {name: tuple(each.scatters[name] for each in observed) for name in names if name in observed[0].scatters}
    predicted = {name: values for name, values in fields.pop("predicted", {}).items() if name in errors}
    notes = [f"the mean-field flow is not certified: {sol.certificate.explain()}"
             for sol in fields.get("solutions", ()) if not sol.certificate.ok]
    resolution = fields.get("resolution", {})
    for name in [name for name in names if name in resolution]:
        least = np.array([each.mean(axis=0) for each in errors[name]]).min(axis=0)
        if name not in fields.get("signed", ()) and np.any(resolution[name] > _COARSE * least):
            notes.append(f"{name}: the mean-field law is known to {resolution[name].max():.1e} only, more than "
                         f"{_COARSE:.0%} of the smallest error; give a finer sol.")
    return ErrorStudy(errors=errors, scatters=scatters, predicted=predicted, notes=tuple(notes), **fields)
