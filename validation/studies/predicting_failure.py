"""Predicting failure: a non-monotone activation fails from small weights and succeeds from larger ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wgflow import plotting
from wgflow.activations import NonMonotone
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solution import Solution
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ..comparison import Comparison, compare
from ..particles import SGDResult
from .base import Check, Study, StudyReport, Table, flow_times
from .pictures import save_picture
from .swept_runs import one_run, swept_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDY", "failing_run"]

#: The scale of the initial weights that fails.
_SMALL = 0.1
#: The scale that succeeds.
_LARGE = 0.4
_SEED = 3011
#: How many times longer the steps become after the fast start, when the risk and with it the noise of SGD have fallen.
_GROWTH = 8.0
#: Time around which they grow.
_GROWTH_TIME = 0.12
#: Output times of SGD from the two starts, up to those at which they have come to rest.
_TIMES = {_SMALL: (0.0, 0.004, 0.008, 0.012, 0.016, 0.025, 0.05),
          _LARGE: (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.26, 0.35, 0.5)}
#: The PDE is solved up to this time from both starts.
_T_END = 0.5
#: By how much the mean length of a law at rest may be off the length where it would stay, relative to the largest.
_AT_REST = 1e-3


def failing_run(kappa: float, growing: bool, n_neurons: int, step_size: float, times: tuple[float, ...], seed: int,
                run: int) -> dict[str, np.ndarray]:
    """Return one run of SGD, an item of the study's sweep."""
    return one_run(_model(), seed=seed, run=run, n_neurons=n_neurons, step_size=step_size, t_eval=times, kappa=kappa,
                   xi=_growing if growing else 1.0)


def _model() -> IsotropicGaussian:
    return IsotropicGaussian(d=320, tau_plus2=1.5, tau_minus2=0.5, activation=NonMonotone())


class _Run(NamedTuple):
    kappa: float
    sol: Solution
    sgd: SGDResult
    comparison: Comparison
    #: The training time, the integral of xi, as a function of t.
    progress: Callable[[np.ndarray], np.ndarray]


class PredictingFailure(Study):
    name = "predicting-failure"
    title = "a non-monotone activation fails from kappa = 0.1 and succeeds from 0.4, d = 320, N = 800"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model = _model()
        n_runs, cells = (2, 3000) if quick else (5, 6000)  # of three the scatter judges little at kappa = 0.1
        small_step, large_step = (4e-7, 1e-6) if quick else (1e-7, 2.5e-7)
        kinds = [kind for kappa, step in ((_SMALL, small_step), (_LARGE, large_step))
                 for kind in _kinds(kappa, step, n_runs)]
        sgd = swept_runs(failing_run, kinds, [model] * len(kinds), folder, fresh=fresh)
        small = _one(model, _SMALL, cells, None, sgd[:2])
        large = _one(model, _LARGE, cells, _growing, sgd[2:])
        failed = 1.0 + float(model.activation(np.zeros(1))[0]) ** 2
        conventions = ("x ~ N(0, tau^2 I_320), tau_+^2 = 1.5, tau_-^2 = 0.5 (tau^2 = 1 +- Delta, Delta = 0.5); "
                       f"w ~ N(0, kappa^2 I/d); step sizes {small_step:g} (kappa = 0.1, xi = 1) and "
                       f"{large_step:g} xi(t), "
                       f"xi = 1 + {_GROWTH - 1:g} x^4/(1 + x^4), x = t/{_GROWTH_TIME:g} (kappa = 0.4); training time = "
                       "integral of xi dt; d rho/dt = 2 xi div(rho grad Psi), no noise, no ridge; "
                       "bands hold the bias of step size and width, measured by coarser runs.")
        end_small, end_large = (model.risk(run.sol.densities[-1]) for run in (small, large))
        last = float(large.sgd.risk[:, -1].mean())
        best = min(model.stationary_deltas(), key=lambda delta: delta.risk)
        checks = (
            Check(f"kappa = 0.1 ends at R = {end_small:.9f}, all weights at 0: 1 + sigma(0)^2 = {failed:g}",
                  abs(end_small - failed) <= 1e-6),
            Check(f"kappa = 0.4 ends at R = {end_large:.6f}, the least risk of a single delta being {best.risk:.6f}",
                  abs(end_large - best.risk) <= 1e-3 * best.risk),
            *(_rests(run, radius, best.radius) for run, radius in ((small, 0.0), (large, best.radius))),
            Check(f"SGD from kappa = 0.1 ends at R = {small.sgd.risk[:, -1].mean():.4f}, from 0.4 at {last:.4f}",
                  float(small.sgd.risk[:, -1].min()) > failed and last < 0.05 * failed),
            *(Check(f"kappa = {run.kappa:g}: {run.comparison.verdict}", run.comparison.passed)
              for run in (small, large)),
            *(Check(f"the certificate of the PDE from kappa = {run.kappa:g}", run.sol.certificate.ok)
              for run in (small, large)),
        )
        pictures = [save_picture(_draw(model, (small, large)), folder / "failure.png", conventions)]
        pictures += [save_picture(run.comparison.plot(), folder / f"comparison-kappa-{run.kappa:g}.png", conventions)
                     for run in (small, large)]
        return StudyReport(self.name, self.title, conventions, checks, {"risk": _table(model, (small, large))},
                           {f"PDE, kappa = {run.kappa:g}": run.sol.certificate.explain() for run in (small, large)},
                           tuple(pictures))


def _kinds(kappa: float, step_size: float, n_runs: int) -> list[dict[str, Any]]:
    """Return the fine runs from one start, and the coarse ones that measure their bias."""
    times = tuple(float(t) for t in np.rint(np.array(_TIMES[kappa]) / (2.0 * step_size)) * (2.0 * step_size))
    return [{"kappa": kappa, "growing": kappa == _LARGE, "n_neurons": n, "step_size": step, "times": times,
             "seed": _SEED + k + 2 * (kappa == _LARGE), "n_runs": n_runs}
            for k, (n, step) in enumerate(((800, step_size), (400, 2.0 * step_size)))]


def _one(model: IsotropicGaussian, kappa: float, cells: int, schedule: Callable | None, sgd: list[SGDResult]) -> _Run:
    """Return the PDE from one start, and what came of comparing it with runs."""
    output = flow_times(sgd[0].t, _T_END, 51)
    grid = model.grid(cells=cells, r_max=3.0)  # fine enough for the law of |w| at kappa = 0.1, 0.004 wide
    sol = solve(model.energy(), model.initial_density(kappa, grid), (0.0, float(output[-1])), FiniteVolume(),
                t_eval=output, time_scale=2.0 if schedule is None else lambda t: 2.0 * schedule(t))
    return _Run(kappa, sol, sgd[0], compare(sol, sgd[0], coarse=sgd[1]), _clock(schedule))


def _rests(run: _Run, radius: float, scale: float) -> Check:
    """Return the check that the law has come to rest before SGD ends, at a length where it stays."""
    t = run.sgd.t[-1]
    off = abs(float(run.sol.density(t).mean()) - radius)
    return Check(f"from kappa = {run.kappa:g} the mean of |w| is {off:.2g} off its value at rest, {radius:.6g}, at the "
                 f"last time of SGD, t = {t:g}", off <= _AT_REST * scale)


def _growing(t):
    x = (np.asarray(t) / _GROWTH_TIME) ** 4
    return 1.0 + (_GROWTH - 1.0) * x / (1.0 + x)


def _clock(schedule):
    """Return the training time, the integral of xi from 0, as a function of arrays of times."""
    nodes, weights = np.polynomial.legendre.leggauss(32)

    def clock(t):
        t = np.asarray(t, dtype=float)
        if schedule is None:
            return t
        return 0.5 * t * np.sum(weights * schedule(0.5 * t[..., None] * (1.0 + nodes)), axis=-1)

    return clock


def _draw(model, runs: tuple[_Run, _Run]) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(8.6, 3.9)
        risk, radius = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
        for run, color in zip(runs, (plotting.ALARM, plotting.FLOW)):
            t = run.progress(run.sol.t)
            label = f"kappa = {run.kappa:g}"
            risk.plot(t, [model.risk(rho) for rho in run.sol.densities], color=color, label=f"PDE, {label}")
            radius.plot(t, [rho.mean() for rho in run.sol.densities], color=color, label=f"PDE, {label}")
            s = run.progress(run.sgd.t)
            for axes, values in ((risk, run.sgd.risk), (radius, run.sgd.coordinates[..., 0].mean(axis=2))):
                axes.plot(s, values.T, "o", color=color, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
                axes.plot([], [], "o", color=color, markersize=4.5, label=f"SGD, {label}")
        for axes, name in ((risk, "risk R"), (radius, "mean of |w|")):
            axes.set_xscale("function", functions=(np.cbrt, lambda s: s**3))
            end = float(runs[1].progress(runs[1].sgd.t[-1]))
            axes.set_xlim(0.0, 1.05 * end)
            ticks = [0.0, *(tick for tick in (1e-2, 0.1, 0.3, 1.0, 3.0) if tick <= end)]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xlabel("training time")
            axes.set_title(name)
        risk.set_yscale("log")
        risk.legend(loc="lower left")
        return figure


def _table(model, runs: tuple[_Run, _Run]) -> Table:
    rows = []
    for run in runs:
        for j, t in enumerate(run.sgd.t):
            rho = run.sol.density(t)
            rows.append((run.kappa, float(t), float(run.progress(t)), model.risk(rho), float(run.sgd.risk[:, j].mean()),
                         float(rho.mean()), float(run.sgd.coordinates[:, j].mean())))
    return Table(("kappa", "t", "training time", "R of the PDE", "R of SGD", "<r> of the PDE", "<r> of SGD"), rows)


STUDY = PredictingFailure()
