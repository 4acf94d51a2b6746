"""Style, colors and files of all pictures, and figures without pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput, StorageError

#: Colors of text, of edges and notes, of the flow, of particles, and of failed checks.
INK = "#20262e"
FAINT = "#8a929c"
FLOW = "#0b6e75"
PARTICLE = "#e2a53b"
ALARM = "#b5302a"
STYLE: Any = {
    "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.8,
    "legend.frameon": False, "legend.fontsize": 8.5, "axes.grid": True, "grid.color": "#e8ebee", "grid.linewidth": 0.7,
    "axes.axisbelow": True, "figure.facecolor": "white", "savefig.facecolor": "white",
}
#: Axes are cut where less than this part of the mass lies beyond, at all of the times shown.
VISIBLE_MASS = 1e-4
#: Least distance of labels on a time axis of cube roots, as a part of its length.
LABEL_WIDTH = 0.11


def new_figure(width: float, height: float) -> Any:
    """Return a figure made without pyplot, size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Any) -> Any:
    """Write a figure if there is a path; return the figure."""
    if path is not None:
        try:
            figure.savefig(Path(path), dpi=150)
        except OSError as error:
            raise StorageError(f"cannot write the picture {path}: {error}") from error
        except ValueError as error:
            if not str(error).startswith("Format "):
                raise
            raise InvalidInput(f"path={str(path)!r} must end in .png, .pdf or .svg, or another format of Matplotlib's"
                               ) from error
    return figure


#: Snapshots of a long solution that are looked at to choose those that are shown.
LOOKED_AT = 256


def pick(t: np.ndarray, count: int) -> list[int]:
    """Return the indices of about ``count`` snapshots, denser where the path begins (gradient flows slow down)."""
    if t.size <= count:
        return list(range(t.size))
    fractions = np.linspace(0.0, 1.0, count) ** 2
    return sorted({int(np.abs(t - (t[0] + f * (t[-1] - t[0]))).argmin()) for f in fractions})


def pick_laws(sol: Any, count: int) -> list[int]:
    """Return the indices of about ``count`` snapshots of a solution, at equal distances along the way of its law.

    The way is measured in L1 on a grid, and by how far atoms move; of those with noise, whose paths never rest, by how
    far the ordered values of each coordinate do. The first and the last snapshot are among them.
    """
    size = len(sol.t)
    if size <= count or count < 2:
        return pick(sol.t, count)
    some = np.unique(np.linspace(0, size - 1, min(size, LOOKED_AT)).astype(int))
    apart = (_apart_sorted if sol.free_energy is not None and sol.free_energy.spreads else _apart_by_atom) if (
        sol.is_atomic) else _apart
    way, before = [0.0], sol.densities[0]
    for k in some[1:]:
        law = sol.densities[k]
        way.append(way[-1] + apart(before, law))
        before = law
    if not way[-1] > 0:
        return [0, size - 1]
    places = np.searchsorted(way, np.linspace(0.0, way[-1], count)[1:-1])
    # Of the two snapshots around a place on the way the nearer one.
    nearer = [k - 1 if place - way[k - 1] < way[k] - place else k
              for k, place in zip(places.tolist(), np.linspace(0.0, way[-1], count)[1:-1].tolist())]
    return sorted({0, size - 1, *(int(some[k]) for k in nearer)})


def _apart(first: Density, second: Density) -> float:
    return float((np.abs(second.values - first.values) * first.grid.volumes).sum())


def _apart_sorted(first: Atoms, second: Atoms) -> float:
    return float(np.abs(np.sort(second.points, axis=1) - np.sort(first.points, axis=1)).mean())


def _apart_by_atom(first: Atoms, second: Atoms) -> float:
    moved = np.abs(second.points - first.points)
    for row, bounds, periodic in zip(moved, first.bounds, first.periodic):
        if periodic:
            np.minimum(row, bounds[1] - bounds[0] - row, out=row)
    return float((moved * first.weights).sum())


def times_in_words(t: np.ndarray) -> list[str]:
    """Return times with three digits, or as many as tell them apart."""
    for digits in range(3, 17):
        words = [f"{float(f'{time:.{digits}g}'):.{max(digits, 6)}g}" for time in t]
        if len(set(words)) == len(words):
            break
    return words


def time_axis(axes: Any, t: np.ndarray) -> None:
    """Set a linear time axis, or one of cube roots where snapshots span decades: smooth, with zero on the axis."""
    positive, label = t[t > 0], "time t"
    if t[0] == 0 and positive.size > 2 and positive[-1] > 25 * positive[0]:
        axes.set_xscale("function", functions=(np.cbrt, lambda s: s**3))
        decades = 10.0 ** np.arange(np.floor(np.log10(positive[-1])) - 2, np.ceil(np.log10(positive[-1])) + 1)
        ticks = np.sort(np.concatenate([decades, 3 * decades]))
        ticks = ticks[(ticks <= 1.0001 * positive[-1]) & (ticks >= 8e-3 * positive[-1])]
        label = "time t (scale of cube roots)"
        kept = [float(ticks[-1])]
        for tick in ticks[-2::-1]:
            if np.cbrt(kept[-1]) - np.cbrt(tick) > LABEL_WIDTH * np.cbrt(positive[-1]):
                kept.append(float(tick))
        axes.set_xticks([0.0, *kept[::-1]], ["0", *(f"{tick:g}" for tick in kept[::-1])])
    if t[0] < t[-1]:
        axes.set_xlim(t[0], t[-1])
    axes.set_xlabel(label)


def visible_range(laws: Sequence[Any]) -> tuple[float, float]:
    """Return the interval outside which no law has more than VISIBLE_MASS on either side."""
    low = min(float(rho.quantile(VISIBLE_MASS)) for rho in laws)
    high = max(float(rho.quantile(1.0 - VISIBLE_MASS)) for rho in laws)
    lo, hi = laws[0].bounds[0] if isinstance(laws[0], Atoms) else laws[0].grid.edges[0][[0, -1]]
    pad = 0.06 * (high - low)
    return max(lo, low - pad), min(hi, high + pad)


def highest(peaks: Sequence[float]) -> float:
    """Return the top of an axis for curves with these peaks: a spike among them is cut, since it would flatten all."""
    return min(max(peaks), 4 * float(np.median(peaks)))


def colors_of(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.05, 0.88, max(count, 2)))[:count]


def _ink() -> Any:
    """Return the color map: white where there is nothing, dark where the mass is."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("wgflow", ["#ffffff", "#cfe7e3", "#6db9b3", FLOW, "#0d2f45", "#0a1020"])
