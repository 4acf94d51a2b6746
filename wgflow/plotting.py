"""Pictures in one style: solutions, their energy, animations, and PDE against particles.

Figures are made without pyplot, so that nothing global changes and no window or display is needed. Every function
returns the ``matplotlib.figure.Figure`` and writes it if given a path (PNG, PDF, SVG by its ending).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput, StorageError

__all__ = ["animate_solution", "new_figure", "plot_comparison", "plot_energy", "plot_solution", "save_figure",
           "time_axis", "visible_range"]

INK, FAINT, FLOW, PARTICLE, ALARM = "#20262e", "#8a929c", "#0b6e75", "#e2a53b", "#b5302a"
STYLE: Any = {
    "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.8,
    "legend.frameon": False, "legend.fontsize": 8.5, "axes.grid": True, "grid.color": "#e8ebee", "grid.linewidth": 0.7,
    "axes.axisbelow": True, "figure.facecolor": "white", "savefig.facecolor": "white",
}
MOST_SHARE = 1e3  # of a band that is drawn
VISIBLE_MASS = 1e-4  # axes are cut where less than this share of the mass lies beyond, at any of the times shown


def new_figure(width: float, height: float) -> Any:
    """A figure without pyplot, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Any) -> Any:
    """Write a figure if there is a path; returns the figure."""
    if path is not None:
        try:
            figure.savefig(Path(path), dpi=150)
        except OSError as error:
            raise StorageError(f"cannot write the picture {path}: {error}") from error
    return figure


def pick(t: np.ndarray, count: int) -> list[int]:
    """Indices of about ``count`` snapshots, denser where the path begins (gradient flows slow down)."""
    if t.size <= count:
        return list(range(t.size))
    fractions = np.linspace(0.0, 1.0, count) ** 2
    return sorted({int(np.abs(t - (t[0] + f * (t[-1] - t[0]))).argmin()) for f in fractions})


def time_axis(axes: Any, t: np.ndarray) -> None:
    """Linear time, or its cube root where the snapshots span decades: smooth, and zero stays on the axis."""
    positive = t[t > 0]
    if t[0] == 0 and positive.size > 2 and positive[-1] > 25 * positive[0]:
        axes.set_xscale("function", functions=(np.cbrt, lambda s: s**3))
        decades = 10.0 ** np.arange(np.floor(np.log10(positive[-1])) - 2, np.ceil(np.log10(positive[-1])) + 1)
        ticks = np.sort(np.concatenate([decades, 3 * decades]))
        ticks = ticks[(ticks <= 1.0001 * positive[-1]) & (ticks >= 8e-3 * positive[-1])]
        axes.set_xticks([0.0, *ticks], ["0", *(f"{tick:g}" for tick in ticks)])
    axes.set_xlim(t[0], t[-1])
    axes.set_xlabel("time t")


def visible_range(laws: Sequence[Any]) -> tuple[float, float]:
    """The interval outside which no law has more than VISIBLE_MASS on either side."""
    low = min(float(rho.quantile(VISIBLE_MASS)) for rho in laws)
    high = max(float(rho.quantile(1.0 - VISIBLE_MASS)) for rho in laws)
    lo, hi = laws[0].bounds[0] if isinstance(laws[0], Atoms) else laws[0].grid.edges[0][[0, -1]]
    pad = 0.06 * (high - low)
    return max(lo, low - pad), min(hi, high + pad)


def colors_of(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.05, 0.88, max(count, 2)))[:count]


def _ink() -> Any:
    """White where there is nothing, dark where the mass is."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("wgflow", ["#ffffff", "#cfe7e3", "#6db9b3", FLOW, "#0d2f45", "#0a1020"])


def _draw_law(axes: Any, rho: Any, **style: Any) -> None:
    """A piecewise constant density, drawn as what it is where cells are visible and as a line where they are not."""
    edges = rho.grid.edges[0]
    if rho.values.size <= 60:
        axes.stairs(rho.values, edges, **style)
    else:
        axes.plot(rho.grid.centers[0], rho.values, **style)


def _name(grid: Any, axis: int) -> str:
    return str(grid.names[axis]) if grid.names is not None else f"x{axis}"


def plot_energy(sol: Any, path: Any = None, *, axes: Any = None) -> Any:
    """The free energy F(t), and its dissipation on a logarithmic scale.

    Parameters
    ----------
    sol : Solution
    path : path-like, optional
    axes : matplotlib Axes, optional
        Draw here instead of into a new figure.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = new_figure(5.0, 3.4) if axes is None else axes.figure
        axes = figure.add_subplot() if axes is None else axes
        # Steps of high order can be longer than the time between two snapshots.
        finer = sol if len(sol.t) > len(sol.history) else sol.history
        t, energy = np.asarray(finer.t), np.asarray(finer.energy)
        noisy = sol.certificate.noisy
        name = "energy without entropy" if noisy else "free energy F"
        axes.plot(t, energy, color=FLOW, label=name)
        axes.set_ylabel(name, color=FLOW)
        time_axis(axes, np.asarray(sol.t))
        if not sol.has_dissipation:
            axes.set_title(name)
            return save_figure(figure, path)
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        right.grid(False)
        rate = np.asarray(sol.dissipation)
        shown = rate > 0
        right.plot(np.asarray(sol.t)[shown], rate[shown], color=PARTICLE, linewidth=1.4, linestyle="--")
        right.set_yscale("log")
        right.set_ylabel("dissipation", color="#a8741a")
        axes.set_title("free energy and its dissipation")
        return save_figure(figure, path)


def plot_solution(sol: Any, path: Any = None, *, times: int = 6) -> Any:
    """The densities at several times beside the energy and its dissipation.

    One axis: curves over each other. Two axes: a row of maps. More: the marginal law of each coordinate. Atoms: their
    paths too on one axis, clouds whose markers have the area of the masses on two.

    Parameters
    ----------
    sol : Solution
    path : path-like, optional
        Where to write the picture.
    times : int, optional
        How many snapshots to show, 6 by default (4 in two dimensions).
    """
    import matplotlib as mpl

    if isinstance(times, bool) or not isinstance(times, (int, np.integer)) or times < 1:
        raise InvalidInput(f"times must be an integer >= 1, got {times!r}")
    with mpl.rc_context(STYLE):
        if sol.is_atomic:
            from wgflow.atom_plots import plot_atoms

            return save_figure(plot_atoms(sol, times), path)
        if sol.grid.ndim == 2:
            return save_figure(_plot_maps(sol, min(times, 4)), path)
        chosen, ndim = pick(sol.t, times), sol.grid.ndim
        figure = new_figure(4.6 * (ndim + 1), 3.5)
        panels = figure.subplots(1, ndim + 1, squeeze=False)[0]
        for axis in range(ndim):
            laws = [sol.densities[i] if ndim == 1 else sol.densities[i].marginal(axis) for i in chosen]
            _plot_laws(panels[axis], laws, sol.t[chosen], _name(sol.grid, axis))
        plot_energy(sol, axes=panels[-1])
        return save_figure(figure, path)


def _plot_laws(axes: Any, laws: Sequence[Any], t: np.ndarray, name: str) -> None:
    for rho, time, color in zip(laws, t, colors_of(len(laws))):
        _draw_law(axes, rho, color=color, label=f"t = {time:.3g}")
        axes.fill_between(rho.grid.centers[0], rho.values, color=color, alpha=0.10, linewidth=0)
    axes.set_xlim(*visible_range(laws))
    axes.set_ylim(0, 1.06 * max(float(rho.values.max()) for rho in laws))
    axes.set_xlabel(name)
    axes.set_ylabel("density")
    axes.set_title(f"law of {name}")
    axes.legend(loc="best")


def _plot_maps(sol: Any, times: int) -> Any:
    chosen, grid = pick(sol.t, times), sol.grid
    figure = new_figure(3.0 * len(chosen) + 4.0, 3.4)
    panels = figure.subplots(1, len(chosen) + 1, width_ratios=[3.0] * len(chosen) + [3.6], squeeze=False)[0]
    limits = [visible_range([sol.densities[i].marginal(axis) for i in chosen]) for axis in (0, 1)]
    for axes, i in zip(panels, chosen):
        rho = sol.densities[i]
        image = axes.pcolormesh(*grid.edges, rho.values.T, cmap=_ink(), rasterized=True)
        image.set_clim(0, float(rho.values.max()))
        axes.grid(False)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        axes.set_xlabel(_name(grid, 0))
        axes.set_title(f"t = {sol.t[i]:.3g}")
        axes.text(0.97, 0.96, f"max {rho.values.max():.3g}", transform=axes.transAxes, ha="right", va="top",
                  fontsize=7.5, color=FAINT)
    panels[0].set_ylabel(_name(grid, 1))
    plot_energy(sol, axes=panels[-1])
    return figure


def animate_solution(sol: Any, path: Any, *, frames: int = 60, fps: int = 12) -> Path:
    """Write the path of densities as an animated GIF (one or two axes); returns the file's path.

    Parameters
    ----------
    sol : Solution
    path : path-like
        Ends in ``.gif``.
    frames, fps : int, optional
        How many snapshots at most, and how many a second.
    """
    import matplotlib as mpl
    from matplotlib.animation import PillowWriter

    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise InvalidInput(f"path must end in .gif, got {path.name!r}")
    ndim = sol.densities[0].ndim if sol.is_atomic else sol.grid.ndim
    if ndim > 2:
        raise InvalidInput(f"animations show one or two axes, the solution has {ndim}: animate a marginal")
    chosen = np.unique(np.linspace(0, sol.t.size - 1, min(frames, sol.t.size)).astype(int))
    with mpl.rc_context(STYLE):
        figure = new_figure(5.2, 3.8 if ndim == 1 else 4.6)
        axes = figure.add_subplot()
        writer = PillowWriter(fps=fps)
        try:
            with writer.saving(figure, str(path), dpi=100):
                for i in chosen:
                    axes.clear()
                    _draw_frame(axes, sol, int(i), chosen)
                    writer.grab_frame()
        except OSError as error:
            raise StorageError(f"cannot write the animation {path}: {error}") from error
    return path


def _draw_frame(axes: Any, sol: Any, i: int, chosen: np.ndarray) -> None:
    rho, grid = sol.densities[i], sol.grid
    if sol.is_atomic:
        from wgflow.atom_plots import draw_frame

        draw_frame(axes, sol, i, chosen)
        return
    if grid.ndim == 1:
        laws = [sol.densities[j] for j in chosen]
        axes.fill_between(grid.centers[0], rho.values, color=FLOW, alpha=0.18, linewidth=0)
        _draw_law(axes, rho, color=FLOW)
        axes.set_xlim(*visible_range(laws))
        # A density that ends as a spike would flatten all other frames: show up to four times the median peak.
        peaks = [float(law.values.max()) for law in laws]
        axes.set_ylim(0, 1.06 * min(max(peaks), 4 * float(np.median(peaks))))
        axes.set_ylabel("density")
    else:
        axes.pcolormesh(*grid.edges, rho.values.T, cmap=_ink(), rasterized=True)
        axes.grid(False)
        ends = [sol.densities[j] for j in chosen]
        axes.set_xlim(*visible_range([law.marginal(0) for law in ends]))
        axes.set_ylim(*visible_range([law.marginal(1) for law in ends]))
        axes.set_ylabel(_name(grid, 1))
    axes.set_xlabel(_name(grid, 0))
    axes.set_title(f"t = {sol.t[i]:.3g}    F = {sol.energy[i]:.4g}")


def plot_comparison(cmp: Any, path: Any = None, *, panels: int = 4) -> Any:
    """Particles against the PDE: histograms with densities, the two risks with the band, and every difference.

    Parameters
    ----------
    cmp : Comparison
    path : path-like, optional
    panels : int, optional
        At how many times the laws are shown.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        chosen = pick(cmp.t, panels)
        n_coords = cmp.sgd.coordinates.shape[-1]
        figure = new_figure(max(2.9 * len(chosen), 8.0), 2.7 * n_coords + 3.3)
        rows = figure.add_gridspec(n_coords + 1, 1, height_ratios=[2.7] * n_coords + [3.1])
        names = [q.removeprefix("W1 of ") for q in cmp.quantities if q.startswith("W1 of ")]
        for k in range(n_coords):
            row = rows[k].subgridspec(1, len(chosen))
            for column, j in enumerate(chosen):
                axes = figure.add_subplot(row[column])
                _histogram(axes, cmp, j, k, names[k], first=column == 0)
        bottom = rows[n_coords].subgridspec(1, 2, width_ratios=[1.0, 1.0])
        if "risk" in cmp.quantities:
            _risk_curves(figure.add_subplot(bottom[0]), cmp)
            _band_use(figure.add_subplot(bottom[1]), cmp)
        else:
            _band_use(figure.add_subplot(bottom[:]), cmp)
        figure.suptitle(cmp.verdict.split(". ")[0] + ".", x=0.01, ha="left", fontsize=11, fontweight="bold",
                        color=FLOW if cmp.passed else ALARM)
        return save_figure(figure, path)


def _histogram(axes: Any, cmp: Any, j: int, k: int, name: str, *, first: bool) -> None:
    rho = cmp.solution.density(cmp.t[j])
    law = rho.marginal(k)
    x = np.ravel(cmp.sgd.coordinates[:, j, :, k])
    lo, hi = visible_range([law])
    lo, hi = min(lo, float(x.min())), max(hi, float(np.quantile(x, 0.999)))
    lo, hi = (lo, hi) if hi > lo else (lo - 0.5, hi + 0.5)  # a law that is one point
    bins = np.linspace(lo, hi, int(np.clip(2 * x.size ** (1 / 3), 12, 40)) + 1)
    counts = np.histogram(x, bins)[0] / (x.size * np.diff(bins))
    axes.stairs(counts, bins, fill=True, color=PARTICLE, alpha=0.55, label="SGD neurons")
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
    axes.set_xlabel(name)
    axes.set_title(f"t = {cmp.t[j]:.3g}")
    if first:
        axes.set_ylabel("density")
        axes.legend(loc="best")


def _risk_curves(axes: Any, cmp: Any) -> None:
    sol, row = cmp.solution, cmp.quantities.index("risk")
    model = cmp.sgd.model
    t = np.asarray(sol.t)
    t, densities = t[t <= cmp.t[-1]], sol.densities[: int(np.sum(t <= cmp.t[-1]))]
    risk = np.array([float(model.risk(rho)) for rho in densities])
    axes.plot(t, risk, color=FLOW, label="PDE", zorder=3)
    # The band is known at the times of the runs; between them its width is interpolated, not its ends.
    ends = [risk + np.interp(np.cbrt(t), np.cbrt(cmp.t), end[row]) for end in (cmp.lower, cmp.upper)]
    axes.fill_between(t, *ends, color=FLOW, alpha=0.15, linewidth=0, label="band")
    for run, values in enumerate(np.asarray(cmp.sgd.risk)):
        axes.plot(cmp.t, values, "o", markersize=4.5, color=PARTICLE, markeredgecolor="white", markeredgewidth=0.5,
                  label=None if run else f"SGD, {cmp.n_runs} run{'s' if cmp.n_runs > 1 else ''} of N = {cmp.n_neurons}",
                  zorder=4)
    axes.set_ylabel("risk R")
    axes.set_title("risk")
    time_axis(axes, np.asarray(cmp.t))
    lowest = min(float(np.min(cmp.pde[row])), float(np.min(cmp.sgd.risk)))
    if lowest > 0 and float(np.max(cmp.pde[row])) > 15 * lowest:
        axes.set_yscale("log")
    axes.legend(loc="best")


def _band_use(axes: Any, cmp: Any) -> None:
    """Every difference as a share of its band: 1 is the end of the band."""
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
