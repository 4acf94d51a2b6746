"""Training by the logistic loss: flow, particles and SGD beside each other, to the law at rest that the dual gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgflow import plotting
from wgflow.activations import Tanh
from wgflow.losses import Logistic
from wgflow.reduced_models import FiniteData
from wgflow.solvers import FiniteVolume
from wgflow.solvers.stationary import stationary
from wgflow.verbs import solve

from ..comparison import compare
from ..population import run_gradient_flow
from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table, flow_times
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_SAMPLES = 40
#: Centers of the classes are this vector and its opposite, with normal points around them of this deviation.
_CENTER, _DEVIATION = (0.8, 0.4), 0.8
_SCALE = 4.0
_BETA, _RIDGE = 20.0, 0.1
_KAPPA = 0.8
_BOX = ((-5.0, 6.0), (-5.0, 5.5))
_T_END = 200.0
_DATA_SEED, _SEED, _PARTICLE_SEED = 3301, 5017, 5119


class LogisticTraining(Study):
    name = "logistic-training"
    title = f"logistic loss on {_SAMPLES} samples in the plane: flow, particles and SGD"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model = _model()
        cells, step_size, n_runs = (88, 4e-3, 6) if quick else (220, 5e-4, 10)
        times = np.array([0.0, 0.3, 1.0, 3.0, 10.0])
        energy = model.energy(beta=_BETA, ridge=_RIDGE)
        grid = model.grid(cells, _BOX)
        star = stationary(energy, grid)
        # Of the order of ``stationary``, so that the energies of both are sums over the same masses of cells.
        sol = solve(energy, model.initial_density(_KAPPA, grid), (0.0, _T_END), FiniteVolume(order=2),
                    t_eval=flow_times(times, _T_END), time_scale=model.time_scale)
        sgd = kept_sgd_runs(model, folder, n_neurons=800, step_size=step_size, t_eval=times, seed=_SEED, n_runs=n_runs,
                            kappa=_KAPPA, beta=_BETA, ridge=_RIDGE, fresh=fresh, label=self.name)
        particles = run_gradient_flow(model, 800, times, _PARTICLE_SEED, n_runs=n_runs, kappa=_KAPPA, beta=_BETA,
                                      ridge=_RIDGE, store_theta=False)
        against_sgd, against_particles = compare(sol, sgd), compare(sol, particles)
        gap = np.nan if star.gap is None else star.gap
        duality = abs(star.energy - _dual_value(model, star, grid))
        rise, above = float(np.diff(sol.history.energy).max()), float(sol.energy[-1] - star.energy)
        checks = (
            Check.inside(against_sgd),
            Check.inside(against_particles),
            Check.at_most(f"F never rises: the largest change in a step is {rise:.1e}", rise, 1e-12),
            Check.at_most(f"at rest the dual gap is {gap:.1e}, F* = {star.energy:.12f}", gap, 1e-10),
            Check.at_most(f"F* is the value of the dual formed of the conjugate of the loss, up to {duality:.1e}",
                          duality, 1e-10),
            Check(f"the flow comes to rest: F({_T_END:g}) - F* = {above:.1e} (-1e-10 to 1e-7)",
                  -1e-10 <= above <= 1e-7),
            Check("the certificate of the flow", sol.certificate.ok),
        )
        conventions = (f"{_SAMPLES} samples y = +-1, x ~ N(y ({_CENTER[0]:g}, {_CENTER[1]:g}), {_DEVIATION:g}^2 I), "
                       f"seed {_DATA_SEED}; f = {_SCALE:g} int tanh(<w, x>) rho(dw); F = mean log(1 + exp(-y f)) + "
                       f"(ridge/2) int |w|^2 rho + (1/beta) int rho log rho, beta = {_BETA:g}, ridge = {_RIDGE:g}; "
                       "SGD: w <- (1 - ridge s) w - s l'(y, f) grad sigma_* + sqrt(2 s/beta) g, "
                       f"s = {step_size:g}, t = steps times s; d rho/dt = div(rho grad Psi) + Laplacian rho/beta.")
        pictures = (save_picture(_draw(model, sol, star, sgd, particles), folder / "training.png", conventions),
                    save_picture(against_sgd.plot(), folder / "comparison.png", conventions))
        laws = [sol.density(t) for t in times]
        rows = [(float(t), energy(law), model.mean_loss(law), float(particles.risk[:, j].mean()),
                 float(sgd.risk[:, j].mean())) for j, (t, law) in enumerate(zip(times, laws))]
        rows.append((np.inf, star.energy, model.mean_loss(star.density), np.nan, np.nan))
        columns = ("t", "F of the flow", "mean loss of the flow", "of particles", "of SGD")
        return StudyReport(self.name, self.title, conventions, checks, {"training": Table(columns, rows)},
                           {"flow": sol.certificate.explain(), "at rest": star.explain()}, pictures)


def _model() -> FiniteData:
    rng = np.random.default_rng(_DATA_SEED)
    y = np.where(np.arange(_SAMPLES) % 2 == 0, 1.0, -1.0)
    x = y[:, None] * np.array(_CENTER) + _DEVIATION * rng.standard_normal((_SAMPLES, 2))
    return FiniteData(x, y, Tanh(), loss=Logistic(), output_scale=_SCALE)


def _dual_value(model: FiniteData, star, grid) -> float:
    """Return - mean l*(y, n g) - log int exp(-beta Psi)/beta at g = l'/n, from the conjugate of the loss."""
    slopes = model.loss.derivative(model.y, model.outputs(star.density))
    psi = model.psi(star.density, *grid.mesh(), ridge=_RIDGE)
    least = float(psi.min())
    partition = float(np.log(np.sum(np.exp(-_BETA * (psi - least)) * grid.volumes)))
    return float(-np.mean(model.loss.conjugate(model.y, slopes)) - partition / _BETA + least)


def _draw(model, sol, star, sgd, particles) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.2, 7.4)
        (fall, risk), (law, data) = figure.subplots(2, 2)
        t, above = np.asarray(sol.history.t)[1:], np.asarray(sol.history.energy)[1:] - star.energy
        shown = above > 1e-13
        fall.loglog(t[shown], above[shown], color=plotting.FLOW)
        fall.set_title("F - F*")
        fall.set_xlabel("time t")
        early = sol.t <= sgd.t[-1]
        risk.plot(sol.t[early], [model.mean_loss(rho) for rho, use in zip(sol.densities, early) if use],
                  color=plotting.FLOW, label="flow")
        risk.axhline(model.mean_loss(star.density), color=plotting.FAINT, linestyle="--", label="at rest")
        for runs, marker, color, label in ((particles, "s", plotting.ALARM, "particles"),
                                           (sgd, "o", plotting.PARTICLE, "SGD")):
            for k, values in enumerate(runs.risk):
                risk.plot(runs.t, values, marker, color=color, markersize=4, linestyle="none", alpha=0.7,
                          label=None if k else f"{label}, N = {runs.n_neurons}")
        plotting.time_axis(risk, sol.t[early])
        risk.set_title("mean loss")
        risk.legend(loc="upper right")
        x, y = star.density.grid.centers
        top = float(star.density.values.max())
        law.contour(x, y, star.density.values.T, levels=top * np.array([0.01, 0.1, 0.3, 0.6, 0.9]),
                    colors=plotting.FLOW, linewidths=1.0)
        neurons = sgd.coordinates[0, -1]
        law.plot(neurons[:, 0], neurons[:, 1], "o", color=plotting.PARTICLE, markersize=2, alpha=0.6)
        law.set_xlim(-2.5, 3.0)
        law.set_ylim(-2.2, 3.2)
        law.set_title(f"neurons of SGD at t = {sgd.t[-1]:g}, law at rest")
        law.set_xlabel("w1")
        law.set_ylabel("w2")
        _draw_data(data, model, star)
        return figure


def _draw_data(axes, model, star) -> None:
    """Draw the samples, and where the network at rest is how sure."""
    reach = float(np.abs(model.x).max()) * 1.1
    line = np.linspace(-reach, reach, 81)
    points = np.stack(np.meshgrid(line, line, indexing="ij")).reshape(2, -1)
    w, masses = np.stack([c.ravel() for c in star.density.grid.mesh()]), star.density.masses.ravel()
    keep = masses > 1e-7
    f = _SCALE * np.array([np.sum(masses[keep] * np.tanh(p @ w[:, keep])) for p in points.T])
    shown = axes.contourf(line, line, (1.0 / (1.0 + np.exp(-f))).reshape(81, 81).T, levels=np.linspace(0.0, 1.0, 11),
                          cmap="RdBu", alpha=0.5)
    axes.figure.colorbar(shown, ax=axes, label="1 / (1 + exp(-f))")
    for label, marker, color in ((1.0, "o", plotting.FLOW), (-1.0, "s", plotting.ALARM)):
        chosen = model.y == label
        axes.plot(model.x[chosen, 0], model.x[chosen, 1], marker, color=color, markersize=4,
                  markeredgecolor="white", markeredgewidth=0.5, label=f"y = {label:+g}")
    axes.set_title("the network at rest")
    axes.set_xlabel("x1")
    axes.set_ylabel("x2")
    axes.legend(loc="upper left")


STUDY = LogisticTraining()
