"""The picture of the free energy and its dissipation in time."""

from __future__ import annotations

from typing import Any

import numpy as np

from .figures import FLOW, PARTICLE, STYLE, new_figure, save_figure, time_axis

__all__ = ["plot_energy"]

#: From so many snapshots on, the dissipation is drawn as a line.
DENSE = 12


def plot_energy(sol: Any, path: Any = None, *, axes: Any = None) -> Any:
    """Plot the free energy F(t), and its dissipation on a logarithmic scale.

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
            _tell_errors(sol, axes)
            return save_figure(figure, path)
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        right.grid(False)
        rate = np.asarray(sol.dissipation)
        shown = rate > 0
        # It is known at the snapshots alone: between few of them a line would make up what it does.
        style: Any = {"linestyle": "", "marker": "o", "markersize": 4.0}
        if shown.sum() >= DENSE:
            style = {"linestyle": "--"}
        right.plot(np.asarray(sol.t)[shown], rate[shown], color=PARTICLE, linewidth=1.4, **style)
        right.set_yscale("log")
        right.set_ylabel("dissipation", color="#a8741a")
        axes.set_title("free energy and its dissipation")
        _tell_errors(sol, axes)
        return save_figure(figure, path)


def _tell_errors(sol: Any, axes: Any) -> None:
    """Draw the errors of the energy that are known as bars, and say how large they are at the end."""
    for k, found in sol.errors.items():
        axes.errorbar([sol.t[k]], [sol.energy[k]], yerr=[float(found.energy)], color=FLOW, capsize=3)
    if sol.error is not None:
        size = "" if sol.error.density is None else f"{float(sol.error.density):.1e} (density, L1), "
        trust = "" if sol.error.trusted else " ?"
        axes.set_xlabel(f"{axes.get_xlabel()}\nestimated error at the end: {size}{float(sol.error.energy):.1e} "
                        f"(energy){trust}")
