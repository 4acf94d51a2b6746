"""Style, colors and files of all pictures, and figures without pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
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


def pick(t: np.ndarray, count: int) -> list[int]:
    """Return the indices of about ``count`` snapshots, denser where the path begins (gradient flows slow down)."""
    if t.size <= count:
        return list(range(t.size))
    fractions = np.linspace(0.0, 1.0, count) ** 2
    return sorted({int(np.abs(t - (t[0] + f * (t[-1] - t[0]))).argmin()) for f in fractions})


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
