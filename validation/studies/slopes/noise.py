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
from wgflow.reduced_models import IsotropicGaussian, LinearNeuron
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

_SEED = 2707
#: N times the step size of SGD on the isotropic model.
_SCALE = 0.01
#: Above the slope -1/2, for few runs at few widths.
_BAND = 0.15
#: By how much a wrong flow must be farther away than the right one.
_APART = 2.0


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
    title = "three conventions of the noise, each with a flow of its own"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        runs = runs_folder(folder, fresh)
        linear = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
        rest = noise_conventions(linear, linear.grid(cells=400, kappa=0.8, beta=3.0, ridge=0.7), 3.0, [0.3, 2.0],
                                 (50, 200, 800), (60, 30, 10) if quick else (400, 200, 60), neurons_times_step=0.5,
                                 ridge=0.7, rng=_SEED, folder=runs, progress=True)
        model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
        grid = model.grid(cells=600 if quick else 2000, kappa=0.8, beta=100.0, ridge=0.01)
        widths, counts = ((25, 100), (40, 12)) if quick else ((50, 200, 800), (60, 30, 8))
        radial = noise_conventions(model, grid, 100.0, [0.1, 0.5], widths, counts, neurons_times_step=_SCALE,
                                   ridge=0.01, rng=_SEED, folder=runs, progress=True)
        conventions = ("w <- (1 - 2 ridge s) w + 2 s (y - yhat) grad sigma + sqrt(c s/beta) g; flow: d rho/dt = 2 "
                       "[div(rho grad Psi) + Laplacian rho / beta_eff]. Linear neuron: S = 1.5, b = 1, beta = 3, ridge "
                       "0.7, s = 0.5/N, at t = 2. Radius: d = 40, tau^2 = (1.8, 0.2), beta = 100, ridge 0.01, s = "
                       "0.01/N, at t = 0.5. Full lines: the flow of beta_eff = 4 beta/c; two standard errors.")
        checks = [*_judge("linear neuron", rest, "W1 of theta"), *_judge("radius", radial, "W1 of r")]
        for c, beta, sol in zip(rest.constants, rest.betas, rest.solutions):
            at_rest = 1.0 / (beta * 0.7)
            checks.append(Check(f"c = {c:g}: the flow is at variance {sol.final.cov():.4f} at t = 2, at rest "
                                f"c/(4 beta ridge) = {at_rest:.4f}", abs(sol.final.cov() / at_rest - 1.0) < 0.1))
        picture = save_picture(_picture(rest, radial), folder / "noise-conventions.png", conventions)
        tables = {"linear neuron W1": rest.table("W1 of theta"), "radius W1": radial.table("W1 of r")}
        words = {f"{label}, c = {c:g}": sol.certificate.explain()
                 for label, found in (("linear neuron", rest), ("radius", radial))
                 for c, sol in zip(found.constants, found.solutions)}
        return StudyReport(self.name, self.title, conventions, tuple(checks), tables, words, (picture,))


def _judge(label: str, found: NoiseConventions, quantity: str) -> list[Check]:
    checks = [Check(f"{label}: the certificates of the flows", all(sol.certificate.ok for sol in found.solutions))]
    for c, beta in zip(found.constants, found.betas):
        fit = found.studies[c, c].slope(quantity)
        checks.append(Check(f"{label}, c = {c:g}: {quantity} to the flow of beta = {beta:g} falls with the slope {fit}",
                            fit.slope <= -0.5 + _BAND))
    apart = found.separation(quantity)
    checks.append(Check(f"{label}: at the largest N the nearest wrong flow is {apart:.1f} times as far as its own",
                        apart >= _APART))
    return checks


def _picture(rest: NoiseConventions, radial: NoiseConventions) -> Figure:
    import matplotlib as mpl

    from wgflow import plotting

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.2, 6.4)
        panels = figure.subplots(2, len(rest.constants))
        colors = (plotting.FLOW, plotting.PARTICLE, plotting.ALARM)
        for row, found, quantity in zip(panels, (rest, radial), ("W1 of theta", "W1 of r")):
            for axes, c in zip(row, found.constants):
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
                axes.set_ylim(low * (low / high) ** 0.4, high)  # room for the legend
                axes.legend(loc="lower left", fontsize=7.5)
        return figure


STUDY = NoiseConventionsStudy()
