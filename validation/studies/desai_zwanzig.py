"""The phase transition of the Desai-Zwanzig model: branches, flows and rates against the exact curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import brentq

from wgflow import plotting
from wgflow.densities import Density

from ..exact import DesaiZwanzig
from .base import Check, Study, StudyReport, Table
from .bifurcation import Branch, LateFlow, branches, critical_value, late_flow
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_BOUNDS = (-4.0, 4.0)
#: The fixed inverse temperature of the diagram in theta.
_BETA = 4.0
#: Mean of the start of the long flows: off the center, so that they fall into one of two wells.
_MEAN = 0.5
#: Its variance.
_VARIANCE = 0.2
#: The longest step of the long flows; a particle at the bottom of a well forgets its place in a time of about 1/2.
_LONGEST_STEP = 0.1


class _Point(NamedTuple):
    value: float
    problem: DesaiZwanzig
    found: list[Branch]
    flow: LateFlow
    stable_rate: float
    center_rate: float

    @property
    def exact(self) -> float:
        return self.problem.stationary_mean()


class DesaiZwanzigTransition(Study):
    name = "desai-zwanzig"
    title = "Desai-Zwanzig: the pitchfork in beta and in theta"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        cells = 160 if quick else 400
        betas = (1.2, 1.8, 2.4, 4.0, 6.0) if quick else (1.0, 1.4, 1.8, 2.1, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
        thetas = (0.2, 0.6, 2.0) if quick else (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
        in_beta = [_point(beta, DesaiZwanzig(beta=beta, bounds=_BOUNDS), cells) for beta in betas]
        in_theta = [_point(theta, DesaiZwanzig(coupling=theta, beta=_BETA, bounds=_BOUNDS), cells) for theta in thetas]
        grid = DesaiZwanzig(bounds=_BOUNDS).grid(cells)
        exact = DesaiZwanzig().critical_beta(), _critical_coupling(_BETA)
        found = (critical_value(lambda beta: DesaiZwanzig(beta=beta, bounds=_BOUNDS), 1.5, 3.0, grid),
                 critical_value(lambda theta: DesaiZwanzig(coupling=theta, beta=_BETA, bounds=_BOUNDS), 0.1, 1.0, grid))
        conventions = ("V = x^4/4 - x^2/2, U = theta |x - x'|^2/2, F = (1/beta) int rho log rho + int V rho + "
                       f"(1/2) int int U rho rho on {list(_BOUNDS)}, {cells} cells; "
                       "d rho/dt = div(rho grad(V + U rho)) + Laplacian rho/beta; "
                       f"flows from N({_MEAN:g}, {_VARIANCE:g}).")
        points = in_beta + in_theta
        checks = _checks(points, exact, found)
        picture = save_picture(_draw(in_beta, in_theta, exact), folder / "bifurcation.png", conventions)
        columns = ("beta", "theta", "|m| exact", "|m| of the branch", "|m| of the flow", "F ordered", "F disordered",
                   "rate exact", "rate of the flow", "rate of m = 0")
        rows = [_row(p) for p in points]
        critical = [("beta at theta = 1", exact[0], found[0]), (f"theta at beta = {_BETA:g}", exact[1], found[1])]
        words = {f"flow, beta = {p.problem.beta:g}, theta = {p.problem.coupling:g}": p.flow.words
                 for p in (in_beta[0], in_beta[-1])}
        tables = {"branches": Table(columns, rows), "transition": Table(("critical", "exact", "on the grid"), critical)}
        return StudyReport(self.name, self.title, conventions, checks, tables, words, (picture,))


def _mean(rho: Density) -> float:
    return float(rho.mean())


def _point(value: float, problem: DesaiZwanzig, cells: int) -> _Point:
    grid = problem.grid(cells)
    limit = problem.stationary_mean()
    center = problem.linear_rate("disordered")
    rate = problem.linear_rate("ordered") if limit > 0.0 else center
    found = branches(problem, grid, _mean)
    # Its own limit on the grid: what is left of the distance falls at one rate.
    end = min((branch.order for branch in found if branch.stable), key=lambda m: abs(m - limit))
    flow = late_flow(problem, Density.gaussian(grid, _MEAN, _VARIANCE), _mean, -rate, end,
                     _LONGEST_STEP)
    return _Point(value, problem, found, flow, rate, center)


def _critical_coupling(beta: float) -> float:
    """Return the theta at which ``beta`` is the critical inverse temperature."""

    def excess(log_theta: float) -> float:
        return DesaiZwanzig(coupling=math.exp(log_theta)).critical_beta() - beta

    return math.exp(brentq(excess, -3.0, 1.0, xtol=1e-13))


def _checks(points: list[_Point], exact: tuple[float, float], found: tuple[float, float]) -> tuple[Check, ...]:
    gaps = np.max([abs(max(branch.order for branch in p.found) - p.exact) for p in points])
    energies = np.max([abs(b.energy - p.problem.stationary("ordered" if b.order > 1e-6 else "disordered")["energy"])
                       for p in points for b in p.found])
    below = [p for p in points if p.exact == 0.0]
    above = [p for p in points if p.exact > 0.0]
    pitchfork = (all(len(p.found) == 1 and p.found[0].stable for p in below)
                 and all([b.stable for b in p.found] == [False, True] for p in above))
    flows = np.max([abs(p.flow.order - p.exact) for p in points])
    rates = np.max([abs(p.flow.rate / -p.stable_rate - 1.0) for p in points])
    return (
        Check.at_most(f"critical beta at theta = 1: {found[0]:.10f} on the grid, {exact[0]:.10f} exact",
                      abs(found[0] - exact[0]), 1e-8),
        Check.at_most(f"critical theta at beta = {_BETA:g}: {found[1]:.10f} on the grid, {exact[1]:.10f} exact",
                      abs(found[1] - exact[1]), 1e-8),
        Check(f"{len(below)} points below the transition have one state, stable; {len(above)} above have m = 0, "
              "unstable, and a stable pair", pitchfork),
        Check.at_most(f"|m| of the branches is off by at most {gaps:.1e}", gaps, 1e-8),
        Check.at_most(f"F of the branches is off by at most {energies:.1e}", energies, 1e-8),
        Check.at_most(f"|m| at the end of the flows is off by at most {flows:.1e}", flows, 1e-4),
        Check.at_most(f"rates of return of the flows are off by at most {rates:.3%}", rates, 1e-3),
        Check("the certificates of all flows", all(p.flow.certified for p in points)),
    )


def _row(p: _Point) -> tuple[float, ...]:
    ordered, disordered = p.found[-1], p.found[0]
    return (p.problem.beta, p.problem.coupling, p.exact, ordered.order, p.flow.order,
            ordered.energy if p.exact > 0.0 else math.nan, disordered.energy, -p.stable_rate, p.flow.rate,
            -p.center_rate)


def _draw(in_beta: list[_Point], in_theta: list[_Point], critical: tuple[float, float]) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 3.9)
        left, middle, right = figure.subplots(1, 3)
        for axes, points, at, name in ((left, in_beta, critical[0], "beta"), (middle, in_theta, critical[1], "theta")):
            make = (lambda b: DesaiZwanzig(beta=b)) if name == "beta" else (
                lambda t: DesaiZwanzig(coupling=t, beta=_BETA))
            top = points[-1].value
            # Dense where the branch rises like a square root.
            values = at + (top - at) * np.linspace(0.0, 1.0, 40) ** 2
            means = [0.0, *(make(float(v)).stationary_mean() for v in values[1:])]
            axes.plot(values, means, color=plotting.FLOW, label="exact, stable")
            axes.plot(values, -np.array(means), color=plotting.FLOW)
            axes.plot([points[0].value, at], [0.0, 0.0], color=plotting.FLOW)
            axes.plot([at, top], [0.0, 0.0], color=plotting.FLOW, linestyle=":", label="exact, unstable")
            _mark(axes, points)
            axes.axvline(at, color=plotting.FAINT, linewidth=0.8, linestyle="--")
            axes.set_xlabel(f"{name}, at {'theta = 1' if name == 'beta' else f'beta = {_BETA:g}'}")
            axes.set_title(f"mean m, {name}_c = {at:.5f}")
        lines, marks = left.get_legend_handles_labels()[0][:2], left.get_legend_handles_labels()[0][2:]
        left.legend(handles=marks, loc="center right", bbox_to_anchor=(1.0, 0.63))
        middle.legend(handles=lines, loc="center right", bbox_to_anchor=(1.0, 0.63))
        below = np.linspace(in_beta[0].value, critical[0], 15)
        above = np.linspace(critical[0], in_beta[-1].value, 30)
        rates = [-DesaiZwanzig(beta=float(b)).linear_rate("ordered") for b in (*below, *above)]
        center = [-DesaiZwanzig(beta=float(b)).linear_rate("disordered") for b in above]
        right.plot([*below, *above], rates, color=plotting.FLOW, label="exact, to the stable state")
        right.plot(above, center, color=plotting.FLOW, linestyle=":", label="exact, at m = 0")
        right.plot([p.value for p in in_beta], [p.flow.rate for p in in_beta], "x", color=plotting.ALARM, markersize=7,
                   label="flow")
        right.axhline(0.0, color=plotting.FAINT, linewidth=0.8)
        # Up to the legend.
        right.axvline(critical[0], ymax=0.74, color=plotting.FAINT, linewidth=0.8, linestyle="--")
        right.set_xlabel("beta, at theta = 1")
        right.set_title("rate of return to rest")
        right.legend(loc="upper left")
        return figure


def _mark(axes: Axes, points: list[_Point]) -> None:
    for stable, face, label in ((True, plotting.PARTICLE, "branch, stable"), (False, "white", "unstable")):
        marks = [(p.value, s * b.order) for p in points for b in p.found if b.stable is stable
                 for s in ((1.0, -1.0) if b.order > 1e-6 else (1.0,))]
        axes.plot(*np.array(marks).T, "o", color=plotting.PARTICLE, markerfacecolor=face, markersize=5.5, label=label)
    axes.plot([p.value for p in points], [p.flow.order for p in points], "x", color=plotting.ALARM, markersize=7,
              label="end of a flow")


STUDY = DesaiZwanzigTransition()
