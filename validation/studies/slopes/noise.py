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
from wgflow.reduced_models import LinearNeuron
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ...comparison.statistics import Statistic
from ..base import Check, Study, StudyReport, Table
from ..pictures import save_picture
from .judging import runs_folder
from .neurons import counts_of
from .references import STATISTICS, Reference, gathered
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wgflow.solution import Solution

__all__ = ["STUDY", "NoiseConventions", "noise_conventions"]

#: Seed of the experiment, and N times its step size.
_SEED, _SCALE = 2707, 0.5
#: Inverse temperature and ridge.
_BETA, _RIDGE = 3.0, 0.7
#: Probability that a right theory fails any of its checks.
_LEVEL = 0.01


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


class NoiseConventionsStudy(Study):
    name = "noise-conventions"
    title = "three conventions of the noise, each with a flow of its own: linear neurons"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
        grid, t = model.grid(cells=400, kappa=0.8, beta=_BETA, ridge=_RIDGE), 2.0
        found = noise_conventions(model, grid, _BETA, [t], (50, 200, 800), (60, 40, 20) if quick else (800, 400, 200),
                                  neurons_times_step=_SCALE, ridge=_RIDGE, rng=_SEED, progress=True,
                                  folder=runs_folder(folder, fresh))
        conventions = ("w <- (1 - 2 ridge s) w + 2 s (y - yhat) grad sigma + sqrt(c s/beta) g; flow: d rho/dt = 2 "
                       "[div(rho grad Psi) + Laplacian rho / beta_eff]; x ~ N(0, 1.5), b = 1, beta = 3, ridge 0.7, "
                       f"s = 0.5/N, at t = {t:g}. Full lines: the flow of beta_eff = 4 beta/c; two standard errors.")
        checks = _judged(found, "W1 of theta")
        picture = save_picture(_picture(found, "W1 of theta"), folder / "noise-conventions.png", conventions)
        words = {f"c = {c:g}": sol.certificate.explain() for c, sol in zip(found.constants, found.solutions)}
        return StudyReport(self.name, self.title, conventions, tuple(checks), {"W1": found.table("W1 of theta")}, words,
                           (picture,))


def _judged(found: NoiseConventions, quantity: str) -> list[Check]:
    """Judge that the error to a convention's own flow falls at least like N^(-1/2), and that to no other one does."""
    checks = [Check("the certificates of the flows", all(sol.certificate.ok for sol in found.solutions))]
    level = 1.0 - _LEVEL / len(found.studies)
    for (c, other), study in found.studies.items():
        fit, beta = study.slope(quantity, level=level), found.betas[found.constants.index(other)]
        own = c == other
        checks.append(Check(f"SGD with c = {c:g}: {quantity} to the flow of beta = {beta:g} has slope {fit}, "
                            f"{'at most' if own else 'above'} -0.5", fit.low <= -0.5 if own else fit.low > -0.5))
    for c, beta, sol in zip(found.constants, found.betas, found.solutions):
        last = found.studies[c, c].curve(quantity).y[-1]
        others = [found.studies[c, other].curve(quantity) for other in found.constants if other != c]
        nearest = min(others, key=lambda curve: float(curve.y[-1]))
        low = float(np.quantile(nearest.replicates[:, -1], 0.5 * (1.0 - level)))
        checks.append(Check(f"SGD with c = {c:g} at the largest N: {quantity} is {last:.4f} to the flow of beta = "
                            f"{beta:g}, whose variance is {sol.final.cov():.4f}, and {nearest.y[-1]:.4f} to the "
                            f"nearest other, at least {low:.4f}", low > last))
    return checks


def _picture(found: NoiseConventions, quantity: str) -> Figure:
    import matplotlib as mpl

    from wgflow import plotting

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.2, 3.6)
        colors = (plotting.FLOW, plotting.PARTICLE, plotting.ALARM)
        for axes, c in zip(figure.subplots(1, len(found.constants), sharey=True), found.constants):
            for other, beta, color in zip(found.constants, found.betas, colors):
                curve = found.studies[c, other].curve(quantity)
                axes.errorbar(curve.x, curve.y, yerr=2.0 * curve.standard_errors, color=color, marker="o",
                              markersize=4, linestyle="-" if c == other else ":", label=f"flow of beta = {beta:g}")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(curve.x, [f"{n:.0f}" for n in curve.x])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("number of neurons N")
            axes.set_title(f"SGD with c = {c:g}: {quantity}")
        low, high = axes.get_ylim()
        axes.set_ylim(low * (low / high) ** 0.4, high)  # room for the legends
        for axes in figure.axes:
            axes.legend(loc="lower left", fontsize=7.5)
        return figure


STUDY = NoiseConventionsStudy()
