"""Pictures of atoms: their paths, their laws as weighted histograms, and clouds in the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wgflow.atoms import Atoms

from .energies import plot_energy
from .figures import FLOW, colors_of, highest, new_figure, pick_laws, time_axis, visible_range

__all__ = ["binned", "draw_cloud", "draw_law_of_atoms", "frame_of", "law_bins", "plot_atoms"]

#: Largest number of paths that are drawn; of more atoms this many are chosen, evenly spread over the mass.
PATHS = 120
#: Bins of a law, from coarse (few atoms) to fine.
BINS = (24, 56)
#: Area of the marker of an atom that holds 1 / n of the mass, in points squared, for few and for many atoms.
MARKER = (36.0, 3.0)


def binned(rho: Atoms, edges: np.ndarray, blocks: int = 0) -> np.ndarray:
    """Return the mean density of a law on the line in bins: mass between two neighbors is spread evenly between them.

    If ``blocks`` is given, sorted atoms are first merged into that many blocks of about equal mass.
    """
    order = np.argsort(rho.points[0], kind="stable")
    x, share = rho.points[0][order], rho.weights[order] / rho.mass
    if blocks:
        part = np.minimum(((np.cumsum(share) - 0.5 * share) * blocks).astype(np.int64), blocks - 1)
        part = np.unique(part, return_inverse=True)[1]
        mass = np.bincount(part, weights=share)
        x = np.maximum.accumulate(np.bincount(part, share * x) / mass)
        share = np.asarray(mass, dtype=np.float64)
    middle = np.cumsum(share) - 0.5 * share
    places, first = np.unique(x, return_index=True)
    last = np.append(first[1:], x.size) - 1
    # At a place that several atoms share the distribution function jumps: its values below and above.
    nodes = np.repeat(places, 2)
    levels = np.column_stack([middle[first], middle[last]]).ravel()
    below = np.interp(edges, nodes, levels, left=0.0, right=1.0)
    below[0], below[-1] = 0.0, 1.0
    return np.diff(below) / np.diff(edges)


def _blocks_of(sol: Any) -> int:
    """Return the places where the atoms of a product rule start in a coordinate, if they are few; else 0."""
    first = sol.densities[0]
    places = max(np.unique(x).size for x in first.points)
    return places if first.ndim > 1 and places <= first.size // 2 else 0


def law_bins(laws: Sequence[Atoms], lo: float, hi: float) -> np.ndarray:
    """Return the edges of the bins on which these laws are shown."""
    count = int(np.clip(4 * laws[0].size ** 0.5, *BINS))
    pad = 1e-9 * max(1.0, abs(lo), abs(hi)) if hi <= lo else 0.0
    return np.linspace(lo - pad, hi + pad, count + 1)


def draw_law_of_atoms(axes: Any, rho: Atoms, edges: np.ndarray, blocks: int = 0, **style: Any) -> np.ndarray:
    """Draw the law as steps; return their heights."""
    heights = binned(rho, edges, blocks)
    axes.stairs(heights, edges, **style)
    return heights


def _plot_laws_of_atoms(axes: Any, laws: Sequence[Atoms], t: np.ndarray, lo: float, hi: float, colors: Any,
                        blocks: int = 0) -> None:
    """Draw the laws of one coordinate at several times over each other."""
    edges, peaks = law_bins(laws, lo, hi), []
    for rho, time, color in zip(laws, t, colors):
        heights = draw_law_of_atoms(axes, rho, edges, blocks, color=color, linewidth=1.6, label=f"t = {time:.3g}")
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.10)
        peaks.append(float(heights.max()))
    axes.set_xlim(edges[0], edges[-1])
    # Next to a law that ends as a point mass all others would look flat.
    axes.set_ylim(0, 1.06 * highest(peaks))
    name = laws[0].names[0]
    axes.set_xlabel(name)
    axes.set_ylabel("density")
    axes.set_title(f"law of {name}")
    axes.legend(loc="best")


def _plot_paths(axes: Any, sol: Any, axis: int) -> None:
    """Draw the paths of the atoms in one coordinate, heavier ones stronger, colored by where they start."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    first = sol.densities[0]
    order = np.argsort(first.points[axis], kind="stable")
    order = order[first.weights[order] > 1e-6 * first.mass]
    if order.size > PATHS:
        total = np.cumsum(first.weights[order])
        order = order[np.searchsorted(total, (np.arange(PATHS) + 0.5) / PATHS * total[-1])]
    paths = np.array([rho.points[axis, order] for rho in sol.densities]).T
    segments = [np.column_stack([sol.t, path]) for path in paths]
    if first.periodic[axis]:
        # No line across the picture where a path leaves one end and enters at the other.
        width = first.bounds[axis][1] - first.bounds[axis][0]
        segments = [piece for s in segments
                    for piece in np.split(s, np.flatnonzero(np.abs(np.diff(s[:, 1])) > 0.5 * width) + 1)]
        shade: Any = 0.5
    else:
        shade = np.clip(0.15 + 0.75 * first.weights[order] / first.weights[order].max(), 0, 0.9)
    colors = colormaps["viridis"](np.linspace(0.05, 0.88, len(segments)))
    colors[:, 3] = shade
    axes.add_collection(LineCollection(segments, colors=colors, linewidths=1.1))
    lo, hi = float(paths.min()), float(paths.max())
    pad = 0.04 * (hi - lo) or 0.5
    axes.set_ylim(lo - pad, hi + pad)
    axes.set_ylabel(first.names[axis])
    shown = f"{order.size} of {first.size} atoms" if order.size < first.size else f"{first.size} atoms"
    axes.set_title(f"paths of {shown}")


def draw_cloud(axes: Any, rho: Atoms, color: Any) -> None:
    """Draw atoms in the plane, the area of each in proportion to its mass."""
    share = rho.weights / rho.mass * rho.size
    unit = float(np.interp(np.log(rho.size), np.log([30.0, 3000.0]), MARKER))
    axes.scatter(*rho.points[:2], s=np.clip(unit * share, 0.05, 12 * unit), color=color, alpha=0.55, linewidths=0,
                 rasterized=rho.size > 2000)


def plot_atoms(sol: Any, times: int) -> Any:
    """Return a figure of a solution: paths and laws on one axis, clouds on two, else marginal laws; and the energy."""
    ndim = sol.densities[0].ndim
    chosen = pick_laws(sol, min(times, 4) if ndim == 2 else times)
    count = {1: 2, 2: len(chosen)}.get(ndim, ndim)
    figure = new_figure((3.0 if ndim == 2 else 4.4) * count + 4.2, 3.5)
    panels = figure.subplots(1, count + 1, squeeze=False)[0]
    limits = [visible_range([sol.densities[i].marginal(axis) for i in chosen]) for axis in range(ndim)]
    colors = colors_of(len(chosen))
    if ndim == 1:
        _plot_paths(panels[0], sol, 0)
        time_axis(panels[0], sol.t)
        _plot_laws_of_atoms(panels[1], [sol.densities[i] for i in chosen], sol.t[chosen], *limits[0], colors)
    elif ndim == 2:
        for axes, i in zip(panels, chosen):
            _draw_plane(axes, sol, i, limits)
    else:
        for axis, axes in enumerate(panels[:-1]):
            _plot_laws_of_atoms(axes, [sol.densities[i].marginal(axis) for i in chosen], sol.t[chosen], *limits[axis],
                               colors, _blocks_of(sol))
    plot_energy(sol, axes=panels[-1])
    return figure


def _draw_plane(axes: Any, sol: Any, i: int, limits: Sequence[tuple[float, float]]) -> None:
    rho = sol.densities[i]
    draw_cloud(axes, rho, FLOW)
    for (lo, hi), name, side in zip(limits, rho.names, ("x", "y")):
        pad = 0.02 * (hi - lo) or 0.5
        getattr(axes, f"set_{side}lim")(lo - pad, hi + pad)
        getattr(axes, f"set_{side}label")(name)
    axes.set_title(f"t = {sol.t[i]:.3g}")


def frame_of(sol: Any, laws: Sequence[Atoms]) -> Callable[[Any, int], None]:
    """Return what draws one frame of an animation of some laws, given axes and the index of the snapshot."""
    limits = [visible_range([law.marginal(axis) for law in laws]) for axis in range(laws[0].ndim)]
    edges = law_bins(laws, *limits[0])
    top = highest([float(binned(law, edges).max()) for law in laws]) if laws[0].ndim == 1 else 0.0

    def draw(axes: Any, i: int) -> None:
        rho = sol.densities[i]
        if rho.ndim == 2:
            _draw_plane(axes, sol, i, limits)
        else:
            draw_law_of_atoms(axes, rho, edges, fill=True, color=FLOW, alpha=0.35)
            axes.set_xlim(edges[0], edges[-1])
            axes.set_ylim(0, 1.06 * top)
            axes.plot(rho.points[0], np.zeros(rho.size), "|", color=FLOW, markersize=9, clip_on=False)
            axes.set_xlabel(rho.names[0])
            axes.set_ylabel("density")
        axes.set_title(f"t = {sol.t[i]:.3g}    F = {sol.energy[i]:.4g}")

    return draw
