"""The picture of double descent: theory and simulations over width and ridge, and two panels on digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wgflow import plotting
from wgflow.activations import ReLU
from wgflow.reduced_models import RandomFeatures

from . import double_descent_runs as study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .double_descent_runs import DigitsResult, LimitResult

__all__ = ["COLORS", "draw"]

#: Colors of up to four curves, told apart by their lightness too.
COLORS = (plotting.ALARM, plotting.PARTICLE, plotting.FLOW, plotting.INK)
#: Predictions are drawn up to here; without a ridge they are infinite at N = n.
_TOP = 1e4
_MARKS = ("o", "s", "^", "D")


def draw(limit: LimitResult, shown: DigitsResult, best) -> Figure:
    """Return the figure."""
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 7.6)
        (first, second), (third, fourth) = figure.subplots(2, 2)
        _over_widths(first, limit, best)
        _over_ridges(second, limit)
        _random_features(third, shown)
        _trained(fourth, shown)
        return figure


def _over_widths(axes: Axes, limit: LimitResult, best) -> None:
    psi1 = np.unique(np.concatenate([np.geomspace(0.3, 12.0, 160), np.linspace(2.5, 3.6, 80)]))
    axes.plot(psi1, np.minimum(study.theory(psi1, 1e-8), 1e3), color=plotting.FAINT, label="lambda = 1e-8")
    for ridge, color, mark in zip(study.RIDGES, COLORS, _MARKS):
        axes.plot(psi1, study.theory(psi1, ridge), color=color)
        axes.plot(study.PSI1, [limit.points[ridge, p][1].mean for p in study.PSI1], mark, color=color, markersize=5,
                  markeredgecolor="white", markeredgewidth=0.5, label=f"lambda = {ridge:g}")
    axes.plot(best[0], best[2], color=plotting.INK, linestyle=":", label="best lambda at each width")
    axes.axvline(study.PSI2, color=plotting.FAINT, linewidth=0.8, linestyle="--")
    axes.set(xscale="log", yscale="log", ylim=(0.15, 30.0), xlabel="psi1 = N/d  (dashed line: N = n)", ylabel="risk")
    _ticks(axes, (0.3, 1, 3, 10), (0.2, 0.5, 1, 2, 5, 10))
    axes.set_title("random features over the width")
    axes.legend(loc="upper left")


def _over_ridges(axes: Axes, limit: LimitResult) -> None:
    ridges = np.geomspace(1e-5, 10.0, 200)
    for psi1, style, color in ((study.BESIDE, "-", plotting.FLOW), (8.0, "--", plotting.INK)):
        axes.plot(ridges, study.theory(psi1, ridges), style, color=color, label=f"theory, psi1 = {psi1:g}")
        ridge, risk = RandomFeatures(ReLU(), psi1, study.PSI2).best_ridge(study.SIGNAL, noise=study.NOISE)
        axes.plot(ridge, risk, "*", color=plotting.ALARM, markersize=11,
                  label="best lambda" if psi1 == study.BESIDE else None)
    for d, face, k in ((limit.sizes[0], "white", 0), (limit.sizes[1], plotting.PARTICLE, 1)):
        found = [each[k] for each in limit.over_ridges.values()]
        axes.errorbar(list(limit.over_ridges), [each.mean for each in found],
                      [3.0 * each.standard_error for each in found], fmt="o", color=plotting.PARTICLE,
                      markerfacecolor=face, markersize=5, capsize=2, label=f"simulated, d = {d}, 3 standard errors")
    axes.set(xscale="log", xlabel="lambda", ylabel="risk", ylim=(0.0, 2.2))
    axes.set_title(f"over the ridge, n/d = {study.PSI2:g}")
    axes.legend(loc="upper right")


def _random_features(axes: Axes, shown: DigitsResult) -> None:
    d, n = shown.digits.x.shape[1], study.IMAGES
    fine = np.unique(np.concatenate([np.geomspace(10, 3000, 150), np.linspace(250, 360, 60)]))
    for (ridge, errors), color, mark in zip(shown.random_features.items(), COLORS, _MARKS):
        x = errors.widths / n
        axes.plot([n / study.IMAGES for n in shown.predicted], [min(each[ridge], _TOP) for each in
                                                                shown.predicted.values()], color=color, linewidth=1.3)
        axes.plot(x, np.median(errors.test, axis=0), mark, color=color, markersize=5, markeredgecolor="white",
                  markeredgewidth=0.5, label=f"new images, lambda = {ridge:g}")
        if ridge in (0.0, 0.1):
            share = shown.digits.linear_share
            uniform = RandomFeatures(ReLU(), fine / d, n / d, ridge).risk(share, noise=study.IMAGE_NOISE,
                                                                          nonlinear=1.0 - share)
            axes.plot(fine / n, uniform, color=color, linestyle=":", linewidth=1.2)
    train = np.median(shown.random_features[0.0].train, axis=0)
    axes.plot(shown.random_features[0.0].widths / n, np.maximum(train, 1e-3), "x", color=plotting.FAINT, markersize=5,
              label="training images, lambda = 0")
    axes.plot([], [], color=plotting.INK, linewidth=1.3, label="predicted by the covariance")
    axes.plot([], [], color=plotting.INK, linestyle=":", linewidth=1.2, label="theory for uniform inputs")
    _size_axis(axes, "N/n")
    axes.set_title("digits: random features")


def _trained(axes: Axes, shown: DigitsResult) -> None:
    x, errors = study.parameters(shown) / study.IMAGES, shown.trained
    low, middle, high = np.quantile(errors.test, [0.25, 0.5, 0.75], axis=0)
    axes.fill_between(x, low, high, color=plotting.FLOW, alpha=0.2, linewidth=0)
    axes.plot(x, middle, "o-", color=plotting.FLOW, markersize=4, label="new images, quartiles")
    axes.plot(x, np.maximum(np.median(errors.train, axis=0), 1e-3), "x-", color=plotting.FAINT, markersize=5,
              linewidth=1.0, label="training images")
    axes.plot(x, np.median(errors.wrong, axis=0), "s--", color=plotting.PARTICLE, markersize=4, linewidth=1.2,
              label="share of new images misclassified")
    _size_axis(axes, "parameters/n")
    for k in range(0, len(x), max(1, len(x) // 6)):
        axes.annotate(f"N = {errors.widths[k]}", (x[k], middle[k]), textcoords="offset points", xytext=(0, 9),
                      ha="center", fontsize=7.5, color=plotting.FAINT)
    axes.set_title("digits: all weights trained")


def _size_axis(axes: Axes, label: str) -> None:
    peaked = label == "N/n"
    axes.axvline(1.0, color=plotting.FAINT, linewidth=0.8, linestyle="--")
    axes.set(xscale="log", yscale="log", ylim=(7e-4, 3e3 if peaked else 60.0), xlabel=label,
             ylabel="mean squared error")
    _ticks(axes, (0.1, 0.3, 1, 3, 10) if peaked else (0.3, 1, 3, 10, 30),
           (1e-3, 1e-2, 0.1, 1, 10, *((100, 1000) if peaked else ())))
    axes.legend(loc="lower left" if peaked else "upper right", fontsize=7.5)


def _ticks(axes: Axes, x, y) -> None:
    axes.set_xticks(x, [f"{v:g}" for v in x])
    axes.set_yticks(y, [f"{v:g}" for v in y])
    axes.set_xticks([], minor=True)
    axes.set_yticks([], minor=True)
