"""The picture of the rectifier study: risks, means, widths and step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wgflow import plotting
from wgflow.solution import Solution

from ..particles import SGDResult
from .extrapolated_means import NAMES, Extrapolation, functionals_of_flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Shown", "draw_rectifier"]

_DOT: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4.0, "markeredgecolor": "white",
                        "markeredgewidth": 0.4}


class Shown(NamedTuple):
    """One separation: the flow, SGD, what comes of comparing them, and when the flow has left the plateau."""

    delta: float
    sol: Solution
    sgd: SGDResult
    limits: Extrapolation
    escape: float


def draw_rectifier(runs: Sequence[Shown], middle: Shown, kinds: Sequence[SGDResult],
                   bias: Sequence[tuple[float, ...]], bias_times: Sequence[float]) -> Figure:
    """Return the picture.

    Parameters
    ----------
    runs : sequence of Shown
        The separations.
    middle : Shown
        The one that the other panels show.
    kinds : sequence of SGDResult
        All kinds of runs of that one.
    bias : sequence of tuples
        A row for each step size: the step, then for each of the times the excess of <r2^2> and of the risk.
    bias_times : sequence of float
    """
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.6, 7.6)
        risk, means, widths, steps = figure.subplots(2, 2).ravel()
        _draw_risks(risk, runs)
        _draw_means(means, middle)
        _draw_widths(widths, middle, [sgd for sgd in kinds if sgd.step_size == middle.sgd.step_size])
        _draw_bias(steps, bias, bias_times)
        return figure


def _colors(count: int, end: float = 0.8):
    import matplotlib as mpl

    return mpl.colormaps["viridis"](np.linspace(0.05, end, count))


def _draw_risks(axes: Axes, runs: Sequence[Shown]) -> None:
    """Draw the risk at each separation with the band in which that of SGD must lie."""
    for run, color in zip(runs, _colors(len(runs))):
        _band(axes, run, "R", np.array(_risks(run)), color)
        axes.plot(run.sol.t, _risks(run), color=color, label=f"Delta = {run.delta:g}")
        axes.plot(run.sgd.t, run.sgd.risk.T, color=color, **_DOT)
    plotting.time_axis(axes, np.asarray(runs[0].sol.t))
    axes.set_ylim(0.0, None)
    axes.set_title("risk: flow (lines), SGD (dots), bands")
    axes.legend(loc="upper right")


def _draw_means(axes: Axes, run: Shown) -> None:
    """Draw the means of a and b, and the root mean squares of the lengths."""
    flow = functionals_of_flow(run.sol, run.sgd.model, run.sol.t)
    a, b, r1, r2 = np.moveaxis(run.sgd.coordinates, -1, 0)
    seen = [x.mean(axis=2) for x in (a, b, r1**2, r2**2)]
    for k, (values, color) in enumerate(zip(seen, _colors(4, 0.9))):
        squares = k > 1
        _band(axes, run, NAMES[k], flow[k], color, root=squares)
        axes.plot(run.sol.t, np.sqrt(flow[k]) if squares else flow[k], color=color,
                  label=f"{NAMES[k]}^(1/2)" if squares else NAMES[k])
        axes.plot(run.sgd.t, (np.sqrt(values) if squares else values).T, color=color, **_DOT)
    plotting.time_axis(axes, np.asarray(run.sol.t))
    axes.set_title(f"means at Delta = {run.delta:g}")
    axes.legend(loc="upper left")


def _draw_widths(axes: Axes, run: Shown, kinds: Sequence[SGDResult]) -> None:
    """Draw the descent at one step size for several numbers of neurons, on a plain axis of time."""
    kinds = sorted(kinds, key=lambda sgd: sgd.n_neurons)
    axes.plot(run.sol.t, _risks(run), color="black", linewidth=1.0, label="flow")
    for sgd, color in zip(kinds, _colors(len(kinds))):
        axes.plot(sgd.t, sgd.risk.T, color=color, **_DOT)
        axes.plot([], [], color=color, label=f"N = {sgd.n_neurons}", **_DOT)
    axes.set_xlim(0.3 * run.escape, 2.4 * run.escape)
    axes.set_ylim(0.0, 1.05)
    axes.set_xlabel("time t")
    axes.set_title(f"risk at Delta = {run.delta:g}, step size {run.sgd.step_size:g}")
    axes.legend(loc="upper right")


def _draw_bias(axes: Axes, bias: Sequence[tuple[float, ...]], times: Sequence[float]) -> None:
    """Draw how far SGD is off the flow against its step size, with a tick at each step size alone."""
    sizes = np.array([row[0] for row in bias])
    for k, (t, color) in enumerate(zip(times, (plotting.FLOW, plotting.PARTICLE))):
        excess = np.abs([row[1 + 2 * k] for row in bias])
        axes.loglog(sizes, excess, "o-", color=color, label=f"<r2^2> at t = {t:g}")
        axes.loglog(sizes, excess[-1] * sizes / sizes[-1], color=plotting.FAINT, linestyle="--",
                    label=None if k else "slope 1")
    axes.loglog(sizes, np.abs([row[2 * len(times)] for row in bias]), "s-", color=plotting.ALARM,
                label=f"risk at t = {times[-1]:g}")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("step size of SGD")
    axes.set_title("SGD off the flow")
    axes.legend(loc="best")


def _band(axes: Axes, run: Shown, name: str, flow: np.ndarray, color, root: bool = False) -> None:
    """Shade where the mean of SGD must lie: about the flow and the bias; between the judged times that is read off."""
    own, k = run.limits, NAMES.index(name)
    known = run.sol.t <= own.t[-1]
    t = np.asarray(run.sol.t)[known]
    low, high = (np.interp(np.cbrt(t), np.cbrt(own.t), own.bias[k] + sign * own.band[k]) + flow[known]
                 for sign in (-1, 1))
    if root:
        low, high = (np.sqrt(np.maximum(end, 0.0)) for end in (low, high))
    axes.fill_between(t, low, high, color=color, alpha=0.2, linewidth=0)


def _risks(run: Shown) -> list[float]:
    return [run.sgd.model.risk(rho) for rho in run.sol.densities]
