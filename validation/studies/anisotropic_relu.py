"""Risk of the rectifier network on anisotropic Gaussians at three separations, SGD against the four-coordinate flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wgflow import plotting
from wgflow.reduced_models import ReLUNetwork
from wgflow.solution import Solution
from wgflow.solvers import Lagrangian
from wgflow.verbs import solve

from ..comparison import Comparison, compare
from ..particles import SGDResult
from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table, flow_times
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_DELTAS = (0.2, 0.4, 0.6)
#: Scale of the initial weights.
_KAPPA = 0.8
_SEED = 6007
#: Gauss nodes in each of the two coordinates in which the start extends.
_NODES = 12
#: The step size of the talks, whose bias is shown to shrink.
_COARSE = 2e-4
#: Where its bias is shown: the separation, and the time.
_BIAS_DELTA = 0.4
_BIAS_TIME = 2.0


class _Run(NamedTuple):
    delta: float
    model: ReLUNetwork
    sol: Solution
    sgd: SGDResult
    comparison: Comparison


class AnisotropicReLU(Study):
    name = "anisotropic-relu"
    title = "rectifier network on anisotropic Gaussians, d = 320, s0 = 60, N = 800, three Delta"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        step_size, n_runs = (5e-5, 2) if quick else (2e-5, 3)
        times = np.array([0.0, 0.1, 0.3, 1.0, 2.0] if quick else [0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0])
        runs = [self._one(folder, delta, times, step_size, n_runs, fresh) for delta in _DELTAS]
        middle = next(run for run in runs if run.delta == _BIAS_DELTA)
        bias = self._bias(folder, middle, step_size, n_runs, fresh)
        conventions = ("x ~ N(0, diag(tau^2 I_60, I_260)), tau_+-^2 = 1 +- Delta; "
                       "yhat = (1/N) sum a_i (<w_i, x> + b_i)_+; w ~ N(0, 0.8^2 I/d), a = b = 1 at the start; "
                       f"step size {step_size:g}, t = steps times step size (xi = 1): "
                       f"d rho/dt = 2 div(rho grad Psi); PDE by characteristics from {_NODES}^2 Gauss nodes; "
                       "bands hold the bias of step size and width, measured by coarser runs.")
        checks = [Check(f"Delta = {run.delta:g}: {run.comparison.verdict}", run.comparison.passed) for run in runs]
        checks += [Check(f"the certificate of the flow at Delta = {run.delta:g}", run.sol.certificate.ok)
                   for run in runs]
        checks.append(_shrinks(bias))
        pictures = [save_picture(_draw(runs, bias), folder / "risk.png", conventions),
                    save_picture(middle.comparison.plot(), folder / "comparison.png", conventions)]
        columns = ("Delta", "t", "R of the PDE", "R of SGD",
                   *(f"<{c}> of the {k}" for c in middle.model.coordinate_names for k in ("PDE", "SGD")))
        rows = [_row(run, j) for run in runs for j in range(run.sgd.t.size)]
        end = runs[0].sol.t[-1]
        tables = {"risk": Table(columns, rows),
                  "plateau": Table(("Delta", "t", "R of the PDE"), [
                      (run.delta, float(t), run.model.risk(rho)) for run in runs
                      for t, rho in zip(run.sol.t, run.sol.densities) if t >= 0.1 * end]),
                  "step size": Table(("step size", "<a> of SGD", "<r2> of SGD", "<a> off", "<r2> off"), bias)}
        words = {f"flow, Delta = {run.delta:g}": run.sol.certificate.explain() for run in runs}
        return StudyReport(self.name, self.title, conventions, tuple(checks), tables, words, tuple(pictures))

    def _one(self, folder, delta, times, step_size, n_runs, fresh) -> _Run:
        model = ReLUNetwork(d=320, s0=60, delta=delta)
        t_end = 100.0
        output = flow_times(times, t_end, 41)
        sol = solve(model.energy(), model.initial_atoms(_KAPPA, nodes=_NODES), (0.0, float(output[-1])),
                    Lagrangian(rtol=1e-7), t_eval=output, time_scale=model.time_scale)
        sgd = self._sgd(folder, model, times, step_size, n_runs, fresh)
        coarse = self._sgd(folder, model, times, 2.0 * step_size, n_runs, fresh, n_neurons=400)
        return _Run(delta, model, sol, sgd, compare(sol, sgd, coarse=coarse))

    def _sgd(self, folder, model, times, step_size, n_runs, fresh, n_neurons=800) -> SGDResult:
        return kept_sgd_runs(model, folder, n_neurons=n_neurons, step_size=step_size, t_eval=times, seed=_SEED,
                             n_runs=n_runs, kappa=_KAPPA, fresh=fresh,
                             label=f"{self.name}, tau_+^2 = {model.tau_plus2:g}, step {step_size:g}")

    def _bias(self, folder, run: _Run, step_size, n_runs, fresh) -> list[tuple[float, ...]]:
        """Return the means of SGD at one time for falling step sizes, and how far they are off those of the flow."""
        rows: list[tuple[float, ...]] = []
        truth = np.asarray(run.sol.density(_BIAS_TIME).mean())
        at = int(np.argmin(np.abs(run.sgd.t - _BIAS_TIME)))
        for step in sorted({_COARSE, 2.0 * step_size, step_size}, reverse=True):
            sgd = self._sgd(folder, run.model, run.sgd.t[: at + 1], step, n_runs, fresh)
            a, _, _, r2 = sgd.coordinates[:, at].mean(axis=(0, 1))
            rows.append((step, float(a), float(r2), float(a - truth[0]), float(r2 - truth[3])))
        return rows


def _shrinks(bias) -> Check:
    """Return the check that the noise of the steps lengthens the remaining weights in proportion to the step size."""
    first, last = bias[0], bias[-1]
    rate = np.polyfit(np.log([row[0] for row in bias]), np.log(np.abs([row[4] for row in bias])), 1)[0]
    return Check(f"at Delta = {_BIAS_DELTA:g}, t = {_BIAS_TIME:g} SGD's <r2> is off by {first[4]:.4f} at step "
                 f"{first[0]:g} and by {last[4]:.4f} at {last[0]:g}: like its power {rate:.2f}",
                 bool(0.7 <= rate <= 1.3))


def _row(run: _Run, j: int) -> tuple[float, ...]:
    t = run.sgd.t[j]
    rho = run.sol.density(t)
    pairs = zip(np.asarray(rho.mean()), run.sgd.coordinates[:, j].mean(axis=(0, 1)))
    return (run.delta, float(t), run.model.risk(rho), float(run.sgd.risk[:, j].mean()),
            *(float(value) for pair in pairs for value in pair))


def _draw(runs: list[_Run], bias) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.6, 3.9)
        risk, means, step = figure.subplots(1, 3, width_ratios=[1.25, 1.1, 0.9])
        colors = mpl.colormaps["viridis"](np.linspace(0.1, 0.8, len(runs)))
        for run, color in zip(runs, colors):
            risk.plot(run.sol.t, [run.model.risk(rho) for rho in run.sol.densities], color=color,
                      label=f"Delta = {run.delta:g}")
            for values in run.sgd.risk:
                risk.plot(run.sgd.t, values, "o", color=color, markersize=4.5, markeredgecolor="white",
                          markeredgewidth=0.5)
        plotting.time_axis(risk, np.asarray(runs[0].sol.t))
        risk.set_title("risk: flow (lines), SGD (dots)")
        risk.legend(loc="lower left")
        middle = next(run for run in runs if run.delta == _BIAS_DELTA)
        averages = np.array([rho.mean() for rho in middle.sol.densities])
        for k, (name, color) in enumerate(zip(middle.model.coordinate_names, mpl.colormaps["viridis"](
                np.linspace(0.0, 0.85, 4)))):
            means.plot(middle.sol.t, averages[:, k], color=color, label=f"<{name}>")
            means.plot(middle.sgd.t, middle.sgd.coordinates[..., k].mean(axis=2).T, "o", color=color, markersize=4.5,
                       markeredgecolor="white", markeredgewidth=0.5)
        plotting.time_axis(means, np.asarray(middle.sol.t))
        means.set_title(f"means at Delta = {middle.delta:g}")
        means.legend(loc="best")
        _draw_bias(step, bias)
        return figure


def _draw_bias(axes: Axes, bias) -> None:
    """Draw how far SGD is off the flow against its step size, with a tick at each step size alone."""
    sizes = np.array([row[0] for row in bias])
    axes.loglog(sizes, np.abs([row[4] for row in bias]), "o-", color=plotting.FLOW, label="<r2>")
    axes.loglog(sizes, np.abs([row[3] for row in bias]), "s-", color=plotting.PARTICLE, label="<a>")
    axes.loglog(sizes, abs(bias[0][4]) * sizes / sizes[0], color=plotting.FAINT, linestyle="--", label="slope 1")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("step size of SGD")
    axes.set_title(f"SGD off the flow at t = {_BIAS_TIME:g}")
    axes.legend(loc="best")


STUDY = AnisotropicReLU()
