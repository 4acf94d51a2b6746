"""Pictures of solutions: their laws and their energy.

Figures are made without pyplot, so that nothing global changes and no window or display is needed. Every function
returns the ``matplotlib.figure.Figure`` and writes it if given a path (PNG, PDF, SVG by its ending).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wgflow.errors import InvalidInput

from .atoms import frame_of as atoms_frame_of
from .atoms import plot_atoms
from .energies import plot_energy
from .figures import (
    FLOW,
    STYLE,
    colors_of,
    highest,
    new_figure,
    pick_laws,
    save_figure,
    times_in_words,
    visible_range,
)
from .laws import draw_law, draw_map

__all__ = ["frame_of", "plot_solution"]


def _name(grid: Any, axis: int) -> str:
    return str(grid.names[axis]) if grid.names is not None else f"x{axis}"


def plot_solution(sol: Any, path: Any = None, *, times: int = 6, ax: Any = None) -> Any:
    """Plot the densities at several times beside the energy and its dissipation.

    One axis: curves over each other. Two axes: a row of maps. More: the marginal law of each coordinate. Atoms: on one
    axis their paths as well; on two axes clouds whose markers have areas in proportion to the masses.

    Parameters
    ----------
    sol : Solution
    path : path-like, optional
        Where to write the picture.
    times : int, optional
        Number of snapshots to show, 6 by default (4 in two dimensions): the first, the last, and others at equal
        distances (L1; of atoms, how far they moved) along the way of the law, so that they do not crowd where it rests.
    ax : matplotlib Axes, optional
        Draw the laws here, without the energy; for densities on one axis. (Of others draw single laws,
        ``sol.density(t).plot(ax=ax)``, and of the energy ``wgflow.plotting.plot_energy(sol, axes=ax)``.)
    """
    import matplotlib as mpl

    if isinstance(times, bool) or not isinstance(times, (int, np.integer)) or times < 1:
        raise InvalidInput(f"times must be an integer >= 1, got {times!r}")
    with mpl.rc_context(STYLE):
        if ax is not None:
            if sol.is_atomic or sol.grid.ndim > 1:
                raise InvalidInput("ax: this solution has several panels; draw its laws one by one, "
                                   "sol.density(t).plot(ax=ax)")
            chosen = pick_laws(sol, times)
            _plot_laws(ax, [sol.densities[i] for i in chosen], sol.t[chosen], _name(sol.grid, 0))
            ax.legend(loc="best")
            return save_figure(ax.get_figure(), path)
        if sol.is_atomic:
            return save_figure(plot_atoms(sol, times), path)
        if sol.grid.ndim == 2:
            return save_figure(_plot_maps(sol, min(times, 4)), path)
        chosen, ndim = pick_laws(sol, times), sol.grid.ndim
        figure = new_figure(4.6 * (ndim + 1) + 0.9, 3.5)
        panels = figure.subplots(1, ndim + 1, squeeze=False)[0]
        for axis in range(ndim):
            laws = [sol.densities[i] if ndim == 1 else sol.densities[i].marginal(axis) for i in chosen]
            _plot_laws(panels[axis], laws, sol.t[chosen], _name(sol.grid, axis))
        # The panels share their colors; curves may be anywhere in them.
        panels[ndim - 1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        plot_energy(sol, axes=panels[-1])
        return save_figure(figure, path)


def _plot_laws(axes: Any, laws: Sequence[Any], t: np.ndarray, name: str) -> None:
    for rho, time, color in zip(laws, times_in_words(t), colors_of(len(laws))):
        draw_law(axes, rho, color=color, label=f"t = {time}")
        axes.fill_between(rho.grid.centers[0], rho.values, color=color, alpha=0.10, linewidth=0)
    axes.set_xlim(*visible_range(laws))
    axes.set_ylim(0, 1.06 * max(float(rho.values.max()) for rho in laws))
    axes.set_xlabel(name)
    axes.set_ylabel("density")
    axes.set_title(f"law of {name}")


def _plot_maps(sol: Any, times: int) -> Any:
    chosen, grid = pick_laws(sol, times), sol.grid
    figure = new_figure(3.0 * len(chosen) + 4.6, 3.4)
    panels = figure.subplots(1, len(chosen) + 1, width_ratios=[3.0] * len(chosen) + [3.6], squeeze=False)[0]
    limits = [visible_range([sol.densities[i].marginal(axis) for i in chosen]) for axis in (0, 1)]
    peaks = [float(sol.densities[i].values.max()) for i in chosen]
    top = highest(peaks)
    for axes, i, time in zip(panels, chosen, times_in_words(sol.t[chosen])):
        image = draw_map(axes, sol.densities[i], vmax=top)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        axes.set_xlabel(_name(grid, 0))
        axes.set_title(f"t = {time}")
    # One scale for all panels; what is cut off at its top is told by an arrow.
    bar = figure.colorbar(image, ax=list(panels[:-1]), extend="max" if max(peaks) > top else "neither", pad=0.01)
    # Above the bar: at its side the word would stand next to the name of the energy's axis.
    bar.ax.set_title("density", fontsize=9, fontweight="normal", loc="left")
    panels[0].set_ylabel(_name(grid, 1))
    plot_energy(sol, axes=panels[-1])
    return figure


def frame_of(sol: Any, chosen: np.ndarray) -> Callable[[Any, int], None]:
    """Return what draws one frame of an animation of some snapshots, given axes and the index of the snapshot."""
    laws = [sol.densities[j] for j in chosen]
    if sol.is_atomic:
        return atoms_frame_of(sol, laws)
    grid = sol.grid
    limits = [visible_range([law.marginal(k) for law in laws] if grid.ndim > 1 else laws) for k in range(grid.ndim)]
    # For a density that ends as a spike all other frames would look flat: show up to four times the median peak.
    top = highest([float(law.values.max()) for law in laws])

    def draw(axes: Any, i: int) -> None:
        rho = sol.densities[i]
        if grid.ndim == 1:
            axes.fill_between(grid.centers[0], rho.values, color=FLOW, alpha=0.18, linewidth=0)
            draw_law(axes, rho, color=FLOW)
            axes.set_ylim(0, 1.06 * top)
            axes.set_ylabel("density")
        else:
            draw_map(axes, rho, vmax=top)
            axes.set_ylim(*limits[1])
            axes.set_ylabel(_name(grid, 1))
        axes.set_xlim(*limits[0])
        axes.set_xlabel(_name(grid, 0))
        axes.set_title(f"t = {sol.t[i]:.3g}    F = {sol.energy[i]:.4g}")

    return draw
