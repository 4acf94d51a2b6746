"""Pictures of single laws: a curve or steps on one axis, a map or a cloud on two, marginal laws on more."""

from __future__ import annotations

from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType

from .atoms import draw_cloud, draw_law_of_atoms, law_bins
from .figures import FLOW, STYLE, _ink, new_figure, save_figure, visible_range

__all__ = ["draw_law", "draw_map", "plot_law"]

#: A density on at most so many cells is drawn as steps, one on more as a line.
MOST_STEPS = 60


def plot_law(rho: Density | Atoms, path: Any = None, *, ax: Any = None, **style: Any) -> Any:
    """Draw a law; return the matplotlib Figure.

    Parameters
    ----------
    rho : Density or Atoms
    path : path-like, optional
        Where to write the picture.
    ax : matplotlib Axes, optional
        Draw here instead of into a new figure; for laws on one or two axes.
    **style
        Of the curve (matplotlib's ``Axes.plot``), the map (``pcolormesh``) or the cloud (``color``).

    Raises
    ------
    InvalidInput
        If ``ax`` is given for a law on three axes or more.
    """
    import matplotlib as mpl

    ndim = rho.ndim if isinstance(rho, Atoms) else rho.grid.ndim
    if ax is not None and not hasattr(ax, "get_figure"):
        raise InvalidType(f"ax must be a matplotlib Axes, got {type(ax).__name__}")
    if ax is not None and ndim > 2:
        raise InvalidInput(f"ax: a law on {ndim} axes has a panel for each; draw rho.marginal(name).plot(ax=ax)")
    with mpl.rc_context(STYLE):
        if ax is not None:
            _draw(ax, rho, style)
            return save_figure(ax.get_figure(), path)
        figure = new_figure(4.6 * (ndim if ndim > 2 else 1), 3.5)
        panels = figure.subplots(1, ndim if ndim > 2 else 1, squeeze=False)[0]
        for axis, axes in enumerate(panels):
            _draw(axes, rho if ndim <= 2 else rho.marginal(axis), style)
        return save_figure(figure, path)


def draw_law(axes: Any, rho: Density, **style: Any) -> None:
    """Draw a piecewise constant density: as steps where cells are visible, as a line where they are not."""
    edges = rho.grid.edges[0]
    if rho.values.size <= MOST_STEPS:
        axes.stairs(rho.values, edges, **style)
    else:
        axes.plot(rho.grid.centers[0], rho.values, **style)


def draw_map(axes: Any, rho: Density, **style: Any) -> Any:
    """Draw a density on two axes as a map, white at 0; return the mesh."""
    style = {"cmap": _ink(), "rasterized": True, "vmin": 0.0, "vmax": float(rho.values.max()), **style}
    if "norm" in style:
        style = {key: value for key, value in style.items() if key not in ("vmin", "vmax")}
    image = axes.pcolormesh(*rho.grid.edges, rho.values.T, **style)
    axes.grid(False)
    return image


def _draw(axes: Any, rho: Density | Atoms, style: dict[str, Any]) -> None:
    if isinstance(rho, Atoms):
        _draw_atoms(axes, rho, style)
    elif rho.grid.ndim == 1:
        draw_law(axes, rho, **{"color": FLOW, **style})
        axes.set_xlim(*visible_range([rho]))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(rho.grid.names[0])
        axes.set_ylabel("density")
    else:
        image = draw_map(axes, rho, **style)
        axes.get_figure().colorbar(image, ax=axes, label="density")
        axes.set_xlim(*visible_range([rho.marginal(0)]))
        axes.set_ylim(*visible_range([rho.marginal(1)]))
        axes.set_xlabel(rho.grid.names[0])
        axes.set_ylabel(rho.grid.names[1])
    if "label" in style:
        axes.legend(loc="best")


def _draw_atoms(axes: Any, rho: Atoms, style: dict[str, Any]) -> None:
    if rho.ndim == 1:
        edges = law_bins([rho], *visible_range([rho]))
        draw_law_of_atoms(axes, rho, edges, **{"color": FLOW, "linewidth": 1.6, **style})
        axes.plot(rho.points[0], np.zeros(rho.size), "|", color=style.get("color", FLOW), markersize=7, clip_on=False)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("density")
    else:
        draw_cloud(axes, rho, style.get("color", FLOW))
        axes.set_ylabel(rho.names[1])
    axes.set_xlabel(rho.names[0])
