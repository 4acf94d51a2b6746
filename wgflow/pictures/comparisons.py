"""Pictures of a comparison: histograms against densities, the risk with its band, and the share of each band."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms

from .figures import ALARM, FLOW, PARTICLE, STYLE, colors_of, new_figure, pick, save_figure, time_axis, visible_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Comparison and ReducedModel are Any here: the core imports nothing from other folders, not even types.
#: The largest share of a band that is drawn.
MOST_SHARE = 1e3


def plot_comparison(cmp: Any, path: str | Path | None = None, *, panels: int = 4) -> Figure:
    """Return a picture of particles against the PDE: histograms with densities, the risks, and every difference.

    Parameters
    ----------
    cmp : Comparison
    path : path-like, optional
        Where to write it.
    panels : int, optional
        Number of times at which the laws are shown.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        chosen = pick(cmp.t, panels)
        n_coords = len(cmp.coordinate_names)
        figure = new_figure(max(2.9 * len(chosen), 8.0), 2.7 * n_coords + 3.3)
        rows = figure.add_gridspec(n_coords + 1, 1, height_ratios=[2.7] * n_coords + [3.1])
        for k in range(n_coords):
            row = rows[k].subgridspec(1, len(chosen))
            for column, j in enumerate(chosen):
                axes = figure.add_subplot(row[column])
                _histogram(axes, cmp, j, k, first=column == 0)
        # Beside the title, since curves may be anywhere in the panels.
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right", ncols=2)
        bottom = rows[n_coords].subgridspec(1, 2, width_ratios=[1.0, 1.0])
        if "risk" in cmp.quantities and cmp.runs.model is not None and cmp.runs.risk is not None:
            _risk_curves(figure.add_subplot(bottom[0]), cmp, cmp.runs.model, cmp.runs.risk)
            _band_use(figure.add_subplot(bottom[1]), cmp)
        else:
            _band_use(figure.add_subplot(bottom[:]), cmp)
        figure.suptitle(cmp.verdict.split(". ")[0] + ".", x=0.01, ha="left", fontsize=11, fontweight="bold",
                        color=FLOW if cmp.passed else ALARM)
        return save_figure(figure, path)


def _histogram(axes: Axes, cmp: Any, j: int, k: int, *, first: bool) -> None:
    rho = cmp.solution.density(cmp.t[j])
    law = rho.marginal(k if cmp.axes is None else cmp.axes[k])
    x = np.ravel(cmp.runs.coordinates[:, j, :, k])
    lo, hi = visible_range([law])
    lo, hi = min(lo, float(x.min())), max(hi, float(np.quantile(x, 0.999)))
    lo, hi = (lo, hi) if hi > lo else (lo - 0.5, hi + 0.5)  # a law that is one point
    bins = np.linspace(lo, hi, int(np.clip(2 * x.size ** (1 / 3), 12, 40)) + 1)
    counts = np.histogram(x, bins)[0] / (x.size * np.diff(bins))
    label = "SGD neurons" if cmp.runs.is_sgd else "particles"
    axes.stairs(counts, bins, fill=True, color=PARTICLE, alpha=0.55, label=label)
    if isinstance(law, Atoms):
        heights = cmp.marginal_in_bins(j, k, bins)
        axes.stairs(heights, bins, color=FLOW, linewidth=1.8, label="PDE")
        highest = min(float(heights.max()), 2 * float(counts.max()))
    else:
        axes.plot(law.grid.centers[0], law.values, color=FLOW, label="PDE")
        highest = float(law.values.max())
    axes.set_xlim(lo, hi)
    axes.set_ylim(0, 1.15 * max(float(counts.max()), highest))
    axes.set_yticks([])
    axes.set_xlabel(cmp.coordinate_names[k])
    axes.set_title(f"t = {cmp.t[j]:.3g}")
    if first:
        axes.set_ylabel("density")


def _risk_curves(axes: Axes, cmp: Any, model: Any, networks: NDArray[np.float64]) -> None:
    sol, row = cmp.solution, cmp.quantities.index("risk")
    t = np.asarray(sol.t)
    t, densities = t[t <= cmp.t[-1]], sol.densities[: int(np.sum(t <= cmp.t[-1]))]
    risk = np.array([float(model.risk(rho)) for rho in densities])
    axes.plot(t, risk, color=FLOW, label="PDE", zorder=3)
    # The band is known at the times of the runs; between them its width is interpolated, not its ends.
    ends = [risk + np.interp(np.cbrt(t), np.cbrt(cmp.t), end[row]) for end in (cmp.lower, cmp.upper)]
    axes.fill_between(t, *ends, color=FLOW, alpha=0.15, linewidth=0, label="band")
    label = f"{'SGD' if cmp.runs.is_sgd else 'particles'}, {cmp.n_runs} run{'s' if cmp.n_runs > 1 else ''} of "
    for run, values in enumerate(networks):
        axes.plot(cmp.t, values, "o", markersize=4.5, color=PARTICLE, markeredgecolor="white", markeredgewidth=0.5,
                  label=None if run else f"{label}N = {cmp.n_particles}", zorder=4)
    axes.set_ylabel("risk R")
    axes.set_title("risk")
    time_axis(axes, np.asarray(cmp.t))
    lowest = min(float(np.min(cmp.pde[row])), float(np.min(networks)))
    if lowest > 0 and float(np.max(cmp.pde[row])) > 15 * lowest:
        axes.set_yscale("log")
    axes.legend(loc="best")


def plot_bands(cmp: Any, path: str | Path | None = None, *, ax: Any = None) -> Figure:
    """Return a picture of every difference of a comparison as a share of its band.

    Parameters
    ----------
    cmp : Comparison
    path : path-like, optional
        Where to write it.
    ax : matplotlib Axes, optional
        Draw here instead of into a new figure.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = new_figure(6.4, 3.0) if ax is None else ax.get_figure()
        _band_use(figure.add_subplot() if ax is None else ax, cmp)
        return save_figure(figure, path)


def _band_use(axes: Axes, cmp: Any) -> None:
    """Draw every difference as a share of its band: 1 is the end of the band."""
    use = np.minimum(cmp.share_of_band, MOST_SHARE)
    axes.axhspan(0, 1, color=FLOW, alpha=0.08, linewidth=0)
    axes.axhline(1.0, color=FLOW, linewidth=1.0)
    markers = "osD^vPX*<>h"
    for i, (name, color) in enumerate(zip(cmp.quantities, colors_of(len(cmp.quantities)))):
        axes.plot(cmp.t, use[i], color=color, linewidth=1.1, marker=markers[i % len(markers)], markersize=4, label=name)
    outside = ~cmp.inside
    axes.plot(np.broadcast_to(cmp.t, use.shape)[outside], use[outside], "o", markersize=9, markerfacecolor="none",
              markeredgecolor=ALARM)
    time_axis(axes, np.asarray(cmp.t))
    axes.set_ylim(0, max(1.25, 1.1 * float(use.max())))
    axes.set_ylabel("share of the band")
    axes.set_title("all differences, as shares of their bands")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(cmp.quantities) // 12)
