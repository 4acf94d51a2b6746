"""Pictures of errors against a parameter, with fits and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow import plotting
from wgflow.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .results import ErrorStudy

__all__ = ["draw_errors"]

#: What a parameter is called on an axis.
_WORDS = {"n_neurons": "number of neurons N", "step_size": "step size", "dimension": "dimension d"}
_MARKERS = "osD^vP"
_PANELS_A_ROW = 3


def draw_errors(panels: Sequence[tuple[ErrorStudy, str, str]], *, titles: Sequence[str] | None = None,
                times: Sequence[float] | None = None, word: str = "t") -> Figure:
    """Return log-log panels: points with two standard errors, fitted lines, and predicted scatter dashed.

    Parameters
    ----------
    panels : sequence of (study, quantity, kind)
    titles : sequence of str, optional
    times : sequence of float, optional
        Which times of the studies are drawn; all by default.
    word : str
        The symbol of a time: T where it is the end of an interval.
    """
    import matplotlib as mpl

    columns = min(len(panels), _PANELS_A_ROW)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(3.7 * columns, 3.4 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel()[len(panels):]:
            axes.set_axis_off()
        for k, (axes, (study, quantity, kind)) in enumerate(zip(grid.ravel(), panels)):
            _draw_panel(axes, study, quantity, kind, study.t if times is None else times, word)
            axes.set_title(f"{kind}: {quantity}" if titles is None else titles[k])
        return figure


def _draw_panel(axes: Any, study: ErrorStudy, quantity: str, kind: str, times: Sequence[float] | np.ndarray,
                word: str) -> None:
    import matplotlib as mpl

    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.75, max(len(times), 2)))
    for color, marker, t in zip(colors, _MARKERS * len(times), times):
        curve = study.curve(quantity, kind, float(t))
        label = f"{word} = {t:g}"
        try:
            fit = study.slope(quantity, kind, float(t))
            label += f": slope {fit.slope:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
            axes.plot(curve.x, fit.line(curve.x), color=color, linewidth=1.1)
        except InvalidInput:
            label += ": noise"
        bars = np.minimum(2.0 * curve.standard_errors, 0.9 * curve.y)  # a bar to 0 would leave the axis
        axes.errorbar(curve.x, curve.y, yerr=bars, fmt=marker, color=color, markersize=4, linewidth=1.0, label=label)
        if quantity in study.predicted and kind != "bias":
            j = int(np.abs(study.t - t).argmin())
            axes.plot(study.values, study.predicted[quantity][:, j], color=color, linestyle="--", linewidth=1.1)
    axes.plot([], [], color=plotting.FAINT, linestyle="--", label="predicted scatter"
              if quantity in study.predicted and kind != "bias" else "_")
    axes.set_xscale("log")
    axes.set_yscale("log")
    values = np.asarray(study.values)
    whole = bool(np.all(values == np.rint(values)))
    axes.set_xticks(values, [f"{v:.0f}" if whole else f"{v:.1e}".replace("e-0", "e-") for v in values])
    axes.set_xticks([], minor=True)
    if not whole:
        axes.tick_params(axis="x", labelrotation=40)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (0.1 + 0.11 * len(times)))  # room for the legend
    axes.set_xlabel(_WORDS.get(study.parameter, study.parameter))
    axes.legend(loc="upper right", fontsize=7.5)
