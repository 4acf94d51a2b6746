"""What notebooks show of an object: its numbers as a table, and a small picture where that takes no time."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density

from .figures import FAINT, FLOW, STYLE, new_figure, pick_laws
from .laws import plot_law
from .solutions import _plot_laws

__all__ = ["certificate_html", "comparison_html", "grid_html", "law_html", "solution_html"]

#: Numbers in the laws of a picture, up to which it is drawn.
MOST_DRAWN = 200_000
#: Lines of a grid that are drawn along an axis, at most.
MOST_LINES = 40
MARKS = {True: ("ok", "#0b6e75"), False: ("FAIL", "#b5302a"), None: ("?", "#8a6d1a")}


def law_html(rho: Density | Atoms) -> str:
    """Return a law: mass, mean, covariance, and its picture."""
    names = rho.names if isinstance(rho, Atoms) else rho.grid.names
    where = f"{rho.size} points" if isinstance(rho, Atoms) else " x ".join(
        f"[{lo:g}, {hi:g}]" for lo, hi in rho.grid.bounds) + f", {' x '.join(map(str, rho.grid.shape))} cells"
    mean, cov = np.atleast_1d(rho.mean()), np.atleast_2d(rho.cov())
    rows = [("on", where), ("mass", f"{rho.mass:.12g}")]
    rows += [(f"mean {name}", f"{m:.6g}") for name, m in zip(names, mean)]
    rows += [(f"variance {name}", f"{v:.6g}") for name, v in zip(names, np.diag(cov))]
    size = rho.points.size if isinstance(rho, Atoms) else rho.grid.size
    return _beside(_table(type(rho).__name__, rows), _picture(lambda: plot_law(rho), size))


def grid_html(grid: Any) -> str:
    """Return a grid: a row for each axis, and its cells."""
    rows = [(name, f"[{lo:g}, {hi:g}], {n} cells{'' if even else ', not uniform'}, {_ends(grid, k)}")
            for k, (name, (lo, hi), n, even) in enumerate(zip(grid.names, grid.bounds, grid.shape, grid.uniform))]
    if grid.log_weight is not None:
        rows.append(("measure", "weighted"))
    return _beside(_table("Grid", rows), _picture(lambda: _draw_grid(grid), 0) if grid.ndim <= 2 else "")


def certificate_html(certificate: Any) -> str:
    """Return a certificate: its verdict, and each check with its answer."""
    lines = certificate.explain().splitlines()
    checks = certificate.checks()
    rows = "".join(_check(name, answer, words) for name, (answer, words) in checks.items())
    notes = "".join(f"<tr><td></td><td colspan=2 style='text-align:left;color:{FAINT}'>{html.escape(line.strip())}</td>"
                    "</tr>" for line in lines[1 + len(checks):])
    return f"<b>{html.escape(lines[0])}</b><table>{rows}{notes}</table>"


def solution_html(sol: Any) -> str:
    """Return a solution: its span, energy and certificate, and pictures of the laws and of the energy."""
    rows = [("method", sol.method), ("time", f"{sol.t[0]:g} to {sol.t[-1]:g}, {len(sol.t)} snapshots, "
                                     f"{sol.history.steps} steps"),
            ("free energy", f"{sol.energy[0]:.6g} to {sol.energy[-1]:.6g}"), ("end", sol.message)]
    if sol.error is not None:
        rows.append(("error", sol.error.summary))
    first = sol.densities[0]
    size = 6 * (first.points.size if sol.is_atomic else first.grid.size)
    picture = _picture(lambda: _draw_solution(sol), size)
    details = f"<details><summary>{html.escape(sol.certificate.explain().splitlines()[0])}</summary>"
    return _beside(_table("Solution", rows), picture) + details + certificate_html(sol.certificate) + "</details>"


def comparison_html(comparison: Any) -> str:
    """Return a comparison: its verdict, the picture of all differences, and the table."""
    from .comparisons import plot_bands

    picture = _picture(lambda: plot_bands(comparison), comparison.share_of_band.size)
    answer, _, rest = comparison.verdict.partition(". ")
    return (f"<div><b>{html.escape(answer)}.</b> {html.escape(rest)}</div><div>{picture}</div>"
            f"<details><summary>table</summary><pre>{html.escape(comparison.table())}</pre></details>")


def _check(name: str, answer: bool | None, words: str) -> str:
    mark, color = MARKS[answer]
    return (f"<tr><td style='color:{color}'><b>{mark}</b></td><td style='text-align:left'>{html.escape(name)}</td>"
            f"<td style='text-align:left;padding-left:1em'>{html.escape(words)}</td></tr>")


def _ends(grid: Any, axis: int) -> str:
    if grid.periodic[axis]:
        return "periodic"
    low, high = ("infinity" if is_open else "no flux" for is_open in grid.open_ends[axis])
    return f"both ends: {low}" if low == high else f"ends: {low}, {high}"


def _draw_solution(sol: Any) -> Any:
    figure = new_figure(7.0, 2.6)
    laws, energy = figure.subplots(1, 2)
    first = sol.densities[0]
    if isinstance(first, Density) and first.grid.ndim == 1:
        chosen = pick_laws(sol, 6)
        _plot_laws(laws, [sol.densities[i] for i in chosen], sol.t[chosen], first.grid.names[0])
    else:
        ndim = first.ndim if isinstance(first, Atoms) else first.grid.ndim
        final = sol.final if ndim <= 2 else sol.final.marginal(0)
        plot_law(final, ax=laws)
        laws.set_title(f"t = {sol.t[-1]:.3g}")
    energy.plot(sol.history.t, sol.history.energy, color=FLOW)
    energy.set_title("energy without entropy" if sol.certificate.noisy else "free energy F")
    energy.set_xlabel("time t")
    return figure


def _draw_grid(grid: Any) -> Any:
    figure = new_figure(3.2, 0.9 if grid.ndim == 1 else 2.4)
    axes = figure.add_subplot()
    lines = [edges[:: max(1, -(-edges.size // MOST_LINES))] for edges in grid.edges]
    (lo, hi), style = grid.bounds[0], {"color": FAINT, "linewidth": 0.6}
    if grid.ndim == 1:
        axes.vlines(lines[0], 0, 1, **style)
        axes.set_yticks([])
    else:
        axes.vlines(lines[0], *grid.bounds[1], **style)
        axes.hlines(lines[1], lo, hi, **style)
        axes.set_ylabel(grid.names[1])
    axes.grid(False)
    axes.set_xlabel(grid.names[0])
    thinned = [n for n, edges in zip(lines, grid.edges) if n.size < edges.size]
    axes.set_title("some of its edges" if thinned else "its edges", fontsize=8)
    return figure


def _picture(draw: Callable[[], Any], size: int) -> str:
    """Return a figure as an image inside the page; nothing where it would take long to draw."""
    if size > MOST_DRAWN:
        return ""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure, stream = draw(), io.BytesIO()
        figure.savefig(stream, format="png", dpi=72)
    return f"<img src='data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}'/>"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td style='text-align:left'>{html.escape(name)}</td><td style='text-align:left;"
                    f"padding-left:1em'>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<b>{html.escape(title)}</b><table>{cells}</table>"


def _beside(left: str, right: str) -> str:
    return f"<div style='display:flex;gap:1em;flex-wrap:wrap'><div>{left}</div><div>{right}</div></div>"
