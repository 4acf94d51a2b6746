"""Noisy SGD against the noisy PDE: the free energy falls to its certified minimum, a Boltzmann fixed point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgflow import plotting
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solvers import FiniteVolume
from wgflow.solvers.stationary import stationary
from wgflow.verbs import solve

from ..comparison import compare
from ..distances import wasserstein
from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table, flow_times
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_BETA = 100.0
_RIDGE = 0.01
_SEED = 5003
#: Scales of the initial weights; SGD starts from the first.
_KAPPAS = (0.8, 2.0)
_T_END = 800.0
#: The risk is drawn up to this time.
_SHOWN = 20.0


class NoisySGD(Study):
    name = "noisy-sgd"
    title = "noisy SGD against the noisy PDE, d = 40, beta = 100, ridge 0.01"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
        energy = model.energy(beta=_BETA, ridge=_RIDGE)
        cells, step_size = (750, 4e-5) if quick else (3000, 5e-6)
        times = np.array([0.0, 0.03, 0.1, 0.3, 1.0] if quick else [0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 5.0])
        grid = model.grid(cells=cells, beta=_BETA, ridge=_RIDGE, r_max=9.0)  # 1e-9 of the law lies beyond
        star = stationary(energy, grid)
        output = flow_times(flow_times(times, _SHOWN, 41), _T_END, 41)
        # Of the order of ``stationary``, so that the energies of both are sums over the same masses of cells.
        sols = [solve(energy, model.initial_density(kappa, grid), (0.0, float(output[-1])), FiniteVolume(order=2),
                      t_eval=output, time_scale=model.time_scale) for kappa in _KAPPAS]
        sgd = kept_sgd_runs(model, folder, n_neurons=800, step_size=step_size, t_eval=times, seed=_SEED, n_runs=3,
                            kappa=_KAPPAS[0], beta=_BETA, ridge=_RIDGE, fresh=fresh, label=self.name)
        comparison = compare(sols[0], sgd)
        conventions = ("x ~ N(0, tau^2 I_40), tau_+^2 = 1.8, tau_-^2 = 0.2; F = R/2 + (ridge/2) int |w|^2 rho + "
                       f"(1/beta) int rho log rho in R^40, beta = {_BETA:g}, ridge = {_RIDGE:g}; SGD: w <- "
                       "(1 - 2 ridge s) w + 2 s "
                       f"(y - yhat) grad sigma + sqrt(4 s/beta) g, s = {step_size:g}, t = steps times s; d rho/dt = "
                       "2 [div(rho grad Psi) + Laplacian rho/beta]; rho* = exp(-beta Psi(rho*))/Z.")
        ends = [sol.final for sol in sols]
        scale = float(np.sqrt(star.density.cov()))
        apart = [wasserstein(end, star.density, p=2) / scale for end in ends]
        rises = np.max([np.diff(sol.history.energy).max() for sol in sols])
        gap = np.nan if star.gap is None else star.gap
        checks = (
            Check.inside(comparison),
            Check.at_most(f"primal = dual at the minimum: F* = {star.energy:.9f}, gap {gap:.1e}", gap, 1e-10),
            Check.at_most(f"rho* = exp(-beta Psi(rho*))/Z up to {star.residual:.1e}", star.residual, 1e-8),
            *(Check(f"from kappa = {kappa:g}: F({_T_END:g}) - F* = {sol.energy[-1] - star.energy:.1e}, W2(rho, rho*) = "
                    f"{w:.1e} of the width of rho*", -1e-10 <= sol.energy[-1] - star.energy <= 1e-6 and w <= 1e-2)
              for kappa, sol, w in zip(_KAPPAS, sols, apart)),
            Check.at_most(f"F never rises: the largest change in a step is {rises:.1e}", rises, 1e-12),
            *(Check(f"the certificate of the PDE from kappa = {kappa:g}", sol.certificate.ok)
              for kappa, sol in zip(_KAPPAS, sols)),
        )
        pictures = (save_picture(_draw(model, sols, star, sgd), folder / "free-energy.png", conventions),
                    save_picture(comparison.plot(), folder / "comparison.png", conventions))
        rows = [(float(t), energy(sols[0].density(t)), model.risk(sols[0].density(t)),
                 float(sgd.risk[:, j].mean()), float(sols[0].density(t).mean()), float(sgd.coordinates[:, j].mean()))
                for j, t in enumerate(times)]
        rows.append((np.inf, star.energy, model.risk(star.density), np.nan, float(star.density.mean()), np.nan))
        columns = ("t", "F of the PDE", "R of the PDE", "R of SGD", "<r> of the PDE", "<r> of SGD")
        words = {f"PDE, kappa = {kappa:g}": sol.certificate.explain() for kappa, sol in zip(_KAPPAS, sols)}
        return StudyReport(self.name, self.title, conventions, checks, {"noisy": Table(columns, rows)}, words, pictures)


def _draw(model, sols, star, sgd) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.2, 3.9)
        fall, law, risk = figure.subplots(1, 3)
        for sol, kappa, color in zip(sols, _KAPPAS, (plotting.FLOW, plotting.ALARM)):
            t = np.asarray(sol.history.t)[1:]
            above = np.asarray(sol.history.energy)[1:] - star.energy
            shown = above > 1e-14
            fall.loglog(t[shown], above[shown], color=color, label=f"kappa = {kappa:g}")
            law.plot(sol.grid.centers[0], sol.densities[0].values, color=color, linewidth=1.0, linestyle=":",
                     label=f"start, kappa = {kappa:g}")
            early = sol.t <= _SHOWN
            risk.plot(sol.t[early], [model.risk(rho) for rho, shown in zip(sol.densities, early) if shown], color=color,
                      label=f"PDE, kappa = {kappa:g}")
        fall.set_title("F - F*")
        fall.set_xlabel("time t")
        fall.legend(loc="lower left")
        law.plot(sols[0].grid.centers[0], sols[0].final.values, color=plotting.FLOW, label=f"t = {sols[0].t[-1]:g}")
        law.plot(star.density.grid.centers[0], star.density.values, color=plotting.PARTICLE, linestyle="--",
                 label="rho*, by duality")
        law.set_xlim(0.0, 7.0)
        law.set_ylim(0.0, 2.2 * float(star.density.values.max()))
        law.set_xlabel("|w|")
        law.set_title("law of |w|")
        law.legend(loc="upper right")
        risk.axhline(model.risk(star.density), color=plotting.FAINT, linestyle="--", label="R(rho*)")
        for values in sgd.risk:
            risk.plot(sgd.t, values, "o", color=plotting.PARTICLE, markersize=4)
        risk.plot([], [], "o", color=plotting.PARTICLE, markersize=4, label=f"SGD, N = {sgd.n_neurons}")
        plotting.time_axis(risk, np.array([t for t in sols[0].t if t <= _SHOWN]))
        risk.set_yscale("log")
        risk.set_title("risk")
        risk.legend(loc="upper right")
        return figure


STUDY = NoisySGD()
