"""Phase portraits: where the drift takes the mass at one time, over the law at that time."""

from __future__ import annotations

from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput

from .atoms import draw_cloud, draw_law_of_atoms, law_bins
from .figures import ALARM, FLOW, INK, STYLE, new_figure, save_figure, visible_range
from .laws import draw_law, draw_map

__all__ = ["drift_at", "plot_drift"]

#: Points along an axis at which the drift is formed: of a curve, and of streamlines.
CURVE, LATTICE = 241, 41


def drift_at(sol: Any, t: float, points: np.ndarray) -> np.ndarray:
    r"""Return the drift :math:`-A\,\nabla\Psi` at points, both of shape (n_coordinates, n), of the law at a time.

    Psi is the first variation without entropies, V plus U rho, so that atoms without noise move along it.
    """
    if sol.free_energy is None:
        raise InvalidInput("the drift is that of the energy, whose functions a loaded solution does not hold; set "
                           "solution.free_energy to the energy it was solved with")
    slope = sol.free_energy.at(t).gradient(sol.density(t), points)
    return -(slope if sol.mobility is None else np.einsum("ijn,jn->in", sol.mobility.at(points), slope))


def plot_drift(sol: Any, path: Any = None, *, t: float | None = None, ax: Any = None) -> Any:
    r"""Plot the drift of a solution at a time over its law; see `Solution.plot_drift`."""
    import matplotlib as mpl

    t = float(sol.t[-1]) if t is None else t
    rho = sol.density(t)
    atomic = isinstance(rho, Atoms)
    ndim, names = (rho.ndim, rho.names) if atomic else (rho.grid.ndim, rho.grid.names)
    if ndim > 2:
        raise InvalidInput(f"plot_drift: portraits show one or two axes, this solution has {ndim}")
    limits = [_visible(rho.marginal(k) if ndim > 1 else rho) for k in range(ndim)]
    with mpl.rc_context(STYLE):
        figure = new_figure(5.4, 3.8 if ndim == 1 else 4.4) if ax is None else ax.get_figure()
        axes = figure.add_subplot() if ax is None else ax
        (_draw_curve if ndim == 1 else _draw_streams)(axes, sol, t, rho, limits)
        axes.set_xlabel(names[0])
        axes.set_title(f"drift and law, t = {t:.3g}")
        return save_figure(figure, path)


def _visible(rho: Any) -> tuple[float, float]:
    """Return the range of an axis: where the mass is, and half of that beyond, within the box."""
    low, high = visible_range([rho])
    ends = rho.bounds[0] if isinstance(rho, Atoms) else rho.grid.bounds[0]
    pad = 0.25 * (high - low) or 0.5
    return max(ends[0], low - pad), min(ends[1], high + pad)


def _draw_curve(axes: Any, sol: Any, t: float, rho: Any, limits: list[tuple[float, float]]) -> None:
    """Draw the drift as a curve, its zeros as dots (full where they are stable), the law on a scale of its own."""
    x = np.linspace(*limits[0], CURVE)
    drift = drift_at(sol, t, x[None])[0]
    law = axes.twinx()
    if isinstance(rho, Atoms):
        draw_law_of_atoms(law, rho, law_bins([rho], *limits[0]), color=FLOW, fill=True, alpha=0.3)
    else:
        law.fill_between(rho.grid.centers[0], rho.values, color=FLOW, alpha=0.15, linewidth=0)
        draw_law(law, rho, color=FLOW, linewidth=1.2)
    law.set_ylim(bottom=0)
    law.set_ylabel("density", color=FLOW)
    law.grid(False)
    axes.set_zorder(law.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.axhline(0.0, color=INK, linewidth=0.7)
    axes.plot(x, drift, color=INK)
    for k in np.flatnonzero(drift[:-1] * drift[1:] < 0.0):
        place = x[k] - drift[k] * (x[k + 1] - x[k]) / (drift[k + 1] - drift[k])
        axes.plot(place, 0.0, "o", color=INK, markersize=7, markerfacecolor=INK if drift[k] > 0 else "white", zorder=5)
    # Where there is hardly any mass the drift may be as large as it likes.
    near = (x >= rho.quantile(0.001)) & (x <= rho.quantile(0.999))
    top = float(np.abs(drift[near]).max()) if near.any() else 0.0
    if top > 0.0:
        axes.set_ylim(-1.3 * top, 1.3 * top)
    axes.set_xlim(*limits[0])
    axes.set_ylabel(r"drift $-\nabla\Psi$" if sol.mobility is None else r"drift $-A\nabla\Psi$")


def _draw_streams(axes: Any, sol: Any, t: float, rho: Any, limits: list[tuple[float, float]]) -> None:
    """Draw streamlines over the map or the cloud, thicker where the drift is faster."""
    x, y = (np.linspace(*pair, LATTICE) for pair in limits)
    mesh = np.meshgrid(x, y)
    u, v = drift_at(sol, t, np.stack([each.ravel() for each in mesh])).reshape(2, LATTICE, LATTICE)
    speed = np.hypot(u, v)
    if isinstance(rho, Atoms):
        draw_cloud(axes, rho, FLOW)
    else:
        axes.get_figure().colorbar(draw_map(axes, rho), ax=axes, label="density")
    if speed.max() > 0.0:
        # Square roots, so that slow places are not left blank.
        axes.streamplot(x, y, u, v, color=ALARM, density=1.1, arrowsize=0.9,
                        linewidth=0.4 + 1.4 * np.sqrt(speed / speed.max()))
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    axes.set_ylabel(rho.names[1] if isinstance(rho, Atoms) else rho.grid.names[1])
