"""Finite width: the least risk of N neurons lies between inf R and inf R + K/N."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgflow import plotting
from wgflow.reduced_models import IsotropicGaussian

from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_SEED = 4409
#: Scale of the initial weights.
_KAPPA = 0.8
#: A mean of networks drawn at random may be so many standard errors off.
_SIGMAS = 4.0


class FiniteWidth(Study):
    name = "finite-width"
    title = "inf R <= inf R_N <= inf R + K/N for two isotropic Gaussians, d = 40"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model = IsotropicGaussian(d=40, tau_plus2=1.5, tau_minus2=0.5)
        widths = (10, 20, 50, 100, 200) if quick else (10, 20, 50, 100, 200, 400, 800)
        draws, step_size, t_end = (60, 2e-5, 6.0) if quick else (200, 5e-6, 20.0)
        best = model.minimum_risk()
        excess = model.finite_width_excess(best.measure)
        drawn = _draw_networks(model, best, widths, draws)
        trained = {}
        for n in widths:
            sgd = kept_sgd_runs(model, folder, n_neurons=n, step_size=step_size, t_eval=[t_end], seed=_SEED, n_runs=2,
                                kappa=_KAPPA, fresh=fresh, label=f"{self.name}, N = {n}")
            trained[n] = sgd.risk[:, -1]
        own = excess + float(np.sum(model.signs * model.moments(best.measure) ** 2))  # K = int U(theta, theta) rho
        conventions = ("x ~ N(0, tau^2 I_40), tau_+^2 = 1.5, tau_-^2 = 0.5 (tau^2 = 1 +- Delta, Delta = 0.5); "
                       f"R = E(y - yhat)^2; trained by SGD from w ~ N(0, {_KAPPA:g}^2 I/d) with step {step_size:g} "
                       f"to t = {t_end:g} (t = steps times s); drawn: neurons independent from the optimal law.")
        rows, checks = [], [Check.at_most(f"inf R = {best.value:.10f}, certified to {best.gap:.1e}", best.gap, 1e-6)]
        for n in widths:
            expected, sample = best.value + excess / n, drawn[n]
            error = float(sample.std(ddof=1)) / np.sqrt(draws)
            low, high = best.value - best.gap, best.value + own / n
            rows.append((n, float(trained[n].min()), float(trained[n].max()), float(sample.mean()), error, expected,
                         best.value + own / n))
            checks.append(Check(f"N = {n}: trained networks reach R_N = {trained[n].min():.5f}, between "
                                f"inf R = {low:.5f} and inf R + K/N = {high:.5f}",
                                bool(low <= trained[n].min() <= high)))
            apart = abs(float(sample.mean()) - expected) / error
            checks.append(Check.at_most(
                f"N = {n}: networks drawn from the optimal law have R_N = {sample.mean():.4f} +- {error:.4f} on "
                f"average, the identity says {expected:.4f}: {apart:.1f} standard errors apart", apart, _SIGMAS))
        columns = ("N", "least R_N trained", "largest R_N trained", "mean R_N drawn", "its standard error",
                   "inf R + (K - int int U)/N", "inf R + K/N")
        picture = save_picture(_picture(best.value, excess, own, widths, trained, drawn), folder / "finite-width.png",
                               conventions)
        return StudyReport(self.name, self.title, conventions, tuple(checks), {"risk": Table(columns, rows)},
                           {"inf R": f"value {best.value:.12f}, gap {best.gap:.2e}, K = {own:.10f}"}, (picture,))


def _draw_networks(model, best, widths, draws: int) -> dict[int, np.ndarray]:
    """Return the exact risks of networks of independent neurons from the optimal law, with uniform directions."""
    rng, risks = np.random.default_rng(_SEED), {}
    for n in widths:
        radii = best.measure.sample(draws * n, rng).reshape(draws, n)
        directions = rng.standard_normal((draws, n, model.n_parameters))
        directions /= np.linalg.norm(directions, axis=2, keepdims=True)
        risks[n] = model.population_risk(radii[..., None] * directions)
    return risks


def _picture(least, excess, own, widths, trained, drawn) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(6.2, 4.2)
        axes = figure.add_subplot()
        n = np.array(widths, dtype=float)
        axes.plot(n, own / n, color=plotting.INK, linestyle="--", label="bound K/N")
        axes.plot(n, excess / n, color=plotting.FLOW, label="(K - int int U rho rho)/N")
        axes.plot(n, [drawn[k].mean() - least for k in widths], "s", color=plotting.FLOW, markersize=5,
                  label="neurons drawn from the optimal law, mean")
        for i, k in enumerate(widths):
            axes.plot(np.full(trained[k].size, k), trained[k] - least, "o", color=plotting.PARTICLE, markersize=5,
                      markeredgecolor="white", markeredgewidth=0.5, label=None if i else "trained by SGD")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(n, [str(k) for k in widths])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("number of neurons N")
        axes.set_ylabel("R_N - inf R")
        axes.set_title("what a finite width costs")
        axes.legend(loc="best")
        return figure


STUDY = FiniteWidth()
