r"""Noisy SGD under three conventions of its noise, and what each converges to.

A step adds :math:`\sqrt{c\,\epsilon/\beta}\,g`, with c = 4, 2 or 1. The limit is the flow whose Laplacian has
the coefficient :math:`c/(2\beta)`, that of the free energy at inverse temperature :math:`4\beta/c`: each convention
converges to one of three flows, at the rate :math:`N^{-1/2}`, and stays away from the two others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_positive
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ...comparison.statistics import Statistic
from ..base import Table
from .neurons import counts_of
from .references import STATISTICS, Reference, gathered
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

if TYPE_CHECKING:
    from wgflow.solution import Solution

__all__ = ["NoiseConventions", "noise_conventions"]


@dataclass(frozen=True)
class NoiseConventions:
    """Errors of SGD under each convention against the flow of each.

    Attributes
    ----------
    constants : tuple of float
        c of the noise.
    betas : tuple of float
        4 beta / c, the inverse temperature of the flow that belongs to each.
    studies : dict of (float, float) to ErrorStudy
        ``studies[c, other]``: SGD with the constant c against the flow that belongs to the constant ``other``.
    solutions : tuple of Solution
        The flows.
    """

    constants: tuple[float, ...]
    betas: tuple[float, ...]
    studies: dict[tuple[float, float], ErrorStudy] = field(repr=False)
    solutions: tuple[Solution, ...] = field(repr=False)

    def table(self, quantity: str, t: float | None = None) -> Table:
        """Return the errors of a quantity at one time, by default the last: a row for each c and flow, N across."""
        first = next(iter(self.studies.values()))
        rows = [(c, beta, *(float(y) for y in self.studies[c, other].curve(quantity, "error", t).y))
                for c in self.constants for other, beta in zip(self.constants, self.betas)]
        return Table(("c of SGD", "beta of the flow", *(f"N = {n}" for n in first.n_neurons)), rows)

    def separation(self, quantity: str, t: float | None = None) -> float:
        """Return by how much the nearest wrong flow is farther away than the right one, at the largest N."""
        def error(c: float, other: float) -> float:
            return float(self.studies[c, other].curve(quantity, "error", t).y[-1])

        return min(error(c, other) / error(c, c) for c in self.constants for other in self.constants if other != c)


def noise_conventions(
    model: Any,
    grid: Grid,
    beta: float,
    t_eval: ArrayLike,
    neurons: Sequence[int] = (50, 200, 800),
    n_runs: int | Sequence[int] = 16,
    *,
    neurons_times_step: float,
    constants: Sequence[float] = (4.0, 2.0, 1.0),
    ridge: float = 0.0,
    kappa: float = 0.8,
    statistics: Sequence[Statistic] = STATISTICS,
    rng: Any = 7,
    folder: str | Path | None = None,
    executor: Any = None,
    progress: bool = False,
) -> NoiseConventions:
    r"""Measure how far SGD under each convention of the noise is from the flow of each.

    Parameters
    ----------
    model : NetworkModel
    grid : Grid
        On the model's coordinates; it holds the flows of all conventions.
    beta : float
        As in `run_sgd`.
    t_eval : array_like
        Times, increasing.
    neurons, n_runs, neurons_times_step, ridge, kappa, statistics, rng, folder, executor, progress
        As in `error_against_neurons`.
    constants : sequence of float
        The noise constants c, two or more.

    Returns
    -------
    NoiseConventions

    Raises
    ------
    InvalidInput
        If an argument is out of range.
    """
    widths, runs, times = *counts_of(neurons, n_runs), rising("t_eval", t_eval)
    beta, scale = check_positive("beta", beta), check_positive("neurons_times_step", neurons_times_step)
    chosen = tuple(check_positive("constants", c) for c in constants)
    if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen):
        raise InvalidInput(f"constants={list(chosen)}: need two or more different ones")
    steps = scale / widths
    betas = tuple(4.0 * beta / c for c in chosen)
    start = model.initial_density(kappa, grid)
    sols = tuple(solve(model.energy(beta=b, ridge=ridge), start, (0.0, times[-1]), FiniteVolume(), t_eval=times,
                       time_scale=model.time_scale) for b in betas)
    references = [Reference(sol, model, times, statistics) for sol in sols]
    studies = {}
    for c in chosen:
        simulation = Simulation(model, times, "sgd", kappa, beta, ridge, c)
        # The same starts and samples for all: what differs is the noise alone.
        batches = simulate(simulation, list(zip(widths.tolist(), steps.tolist(), runs)),
                           Settings(rng, folder, executor, progress))
        for other, reference in zip(chosen, references):
            studies[c, other] = gathered([reference.observe(batch) for batch in batches], parameter="n_neurons",
                                         values=widths.astype(float), t=np.array(times), n_neurons=widths,
                                         step_sizes=steps, signed=reference.signed, resolution=reference.resolution,
                                         solutions=(reference.sol,))
    return NoiseConventions(chosen, betas, studies, sols)
