"""The synchronization of noisy phase oscillators: order parameter, growth and approach against the exact curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wgflow import plotting
from wgflow.densities import Density
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ..exact import Kuramoto
from .base import Check, Study, StudyReport, Table
from .bifurcation import Branch, branches, critical_value
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

#: D = 1/beta = 1/2, so that K_c = 1.
_BETA = 2.0
#: Of the start (1 + a cos x)/(2 pi) of the flows.
_AMPLITUDE = 0.2
#: The amplitude from which growth at the uniform state is measured.
_FAINT = 1e-4
#: How long the growth is measured.
_FAINT_TIME = 2.0
#: Fourier modes of the exact solution where it is drawn, checked to 1e-10 by itself.
_MODES = 24
#: End of the times that are drawn.
_SHOWN = 12.0
#: End of the long flows in units of the slowest exact rate.
_LONG = 14.0


class _Point(NamedTuple):
    problem: Kuramoto
    found: list[Branch]
    flow: float
    growth: float
    certified: bool
    words: str

    @property
    def coupling(self) -> float:
        return self.problem.coupling

    @property
    def exact(self) -> float:
        return self.problem.stationary()["order"]


class KuramotoTransition(Study):
    name = "kuramoto"
    title = "noisy Kuramoto: the order parameter r(K), K_c = 2 D"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        cells = 128 if quick else 256
        couplings = (0.5, 0.8, 1.2, 1.6, 2.0, 3.0) if quick else (
            0.3, 0.6, 0.8, 0.95, 1.05, 1.1, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0)
        points = [_point(Kuramoto(coupling=k, beta=_BETA, amplitude=_AMPLITUDE), cells) for k in couplings]
        curves = [_curve(k, cells) for k in ((0.8, 1.4, 2.0) if quick else (0.6, 0.95, 1.2, 1.6, 2.0, 3.0))]
        grid = Kuramoto().grid(cells)
        found = critical_value(lambda k: Kuramoto(coupling=k, beta=_BETA), 0.5, 2.0, grid)
        conventions = (f"U = -K cos(x - x') on the circle, D = 1/beta = {1 / _BETA:g}, {cells} cells; "
                       "d rho/dt = div(rho grad U rho) + D Laplacian rho; r = |E exp(ix)|; flows from "
                       f"(1 + {_AMPLITUDE:g} cos x)/(2 pi), growth from (1 + {_FAINT:g} cos x)/(2 pi).")
        checks = _checks(points, curves, found)
        picture = save_picture(_draw(points, curves), folder / "order.png", conventions)
        rows = [(p.coupling, p.exact, p.found[-1].order, p.flow, p.found[-1].energy, p.problem.stationary()["energy"],
                 p.problem.growth_rate, p.growth) for p in points]
        columns = ("K", "r exact", "r of the branch", "r of the flow", "F of the branch", "F exact", "growth exact",
                   "growth of the flow")
        times = [(k, float(t), float(a), float(b)) for k, t, measured, exact in curves
                 for t, a, b in zip(t, measured, exact)]
        words = {f"flow, K = {p.coupling:g}": p.words for p in (points[0], points[-1])}
        tables = {"order": Table(columns, rows), "approach": Table(("K", "t", "r of the flow", "r exact"), times)}
        return StudyReport(self.name, self.title, conventions, checks, tables, words, (picture,))


def _order(rho: Density) -> float:
    x = rho.grid.centers[0]
    return math.hypot(rho.expect(np.cos(x)), rho.expect(np.sin(x)))


def _point(problem: Kuramoto, cells: int) -> _Point:
    grid = problem.grid(cells)
    # Near K_c everything slows down; the rate at rest is about -2 growth on the ordered side.
    rate = max(abs(problem.growth_rate), 0.02)
    sol = solve(problem.energy(), problem.initial_density(grid), (0.0, _LONG / rate), FiniteVolume(),
                t_eval=[_LONG / rate])
    faint = Kuramoto(coupling=problem.coupling, beta=_BETA, amplitude=_FAINT)
    start = faint.initial_density(grid)
    grown = solve(faint.energy(), start, (0.0, _FAINT_TIME), FiniteVolume(rtol=1e-9), t_eval=[_FAINT_TIME]).final
    growth = math.log(_order(grown) / _order(start)) / _FAINT_TIME
    return _Point(problem, branches(problem, grid, _order), _order(sol.final), growth, sol.certificate.ok,
                  sol.certificate.explain())


def _curve(coupling: float, cells: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Return K, times, and the order parameter of the flow and of the exact solution at them."""
    problem = Kuramoto(coupling=coupling, beta=_BETA, amplitude=_AMPLITUDE, t_end=_SHOWN, size=_MODES)
    t = np.linspace(0.0, _SHOWN, 25)
    sol = solve(problem.energy(), problem.initial_density(problem.grid(cells)), (0.0, _SHOWN), FiniteVolume(rtol=1e-7),
                t_eval=t)
    return coupling, t, np.array([_order(sol.density(s)) for s in t]), problem.order_at(t)


def _checks(points: list[_Point], curves: list, found: float) -> tuple[Check, ...]:
    critical = points[0].problem.critical_coupling
    below = [p for p in points if p.coupling <= critical]
    above = [p for p in points if p.coupling > critical]
    stable = (all(len(p.found) == 1 and p.found[0].stable for p in below)
              and all([b.stable for b in p.found] == [False, True] for p in above))
    gaps = np.max([abs(p.found[-1].order - p.exact) for p in points])
    energies = np.max([abs(p.found[-1].energy - p.problem.stationary()["energy"]) for p in points])
    flows = np.max([abs(p.flow - p.exact) for p in points])
    growth = np.max([abs(p.growth - p.problem.growth_rate) for p in points])
    approach = np.max([float(np.abs(measured - exact).max()) for _, _, measured, exact in curves])
    return (
        Check.at_most(f"K_c: {found:.10f} on the grid, {critical:.10f} exact", abs(found - critical), 1e-8),
        Check(f"{len(below)} couplings below K_c have the uniform state alone, stable; {len(above)} above have it "
              "unstable, and a stable cluster", stable),
        Check.at_most(f"r of the branches is off by at most {gaps:.1e}", gaps, 1e-8),
        Check.at_most(f"F of the branches is off by at most {energies:.1e}", energies, 1e-8),
        Check.at_most(f"r at the end of the flows is off by at most {flows:.1e}", flows, 1e-4),
        Check.at_most(f"growth rates at the uniform state are off K/2 - D by at most {growth:.1e}", growth, 1e-3),
        Check.at_most(f"r(t) is off the exact solution by at most {approach:.1e}", approach, 1e-3),
        Check("the certificates of all flows", all(p.certified for p in points)),
    )


def _draw(points: list[_Point], curves: list) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(11.4, 3.9)
        order, growth, approach = figure.subplots(1, 3)
        critical, top = points[0].problem.critical_coupling, points[-1].coupling
        couplings = critical + (top - critical) * np.linspace(0.0, 1.0, 80) ** 2
        exact = [Kuramoto(coupling=float(k), beta=_BETA).stationary()["order"] for k in couplings]
        order.plot([points[0].coupling, critical, *couplings], [0.0, 0.0, *exact], color=plotting.FLOW,
                   label="exact, stable")
        order.plot([critical, top], [0.0, 0.0], color=plotting.FLOW, linestyle=":", label="exact, unstable")
        for stable, face, label in ((True, plotting.PARTICLE, "branch, stable"), (False, "white", "unstable")):
            marks = [(p.coupling, b.order) for p in points for b in p.found if b.stable is stable]
            order.plot(*np.array(marks).T, "o", color=plotting.PARTICLE, markerfacecolor=face, markersize=5.5,
                       label=label)
        order.plot([p.coupling for p in points], [p.flow for p in points], "x", color=plotting.ALARM, markersize=7,
                   label="end of a flow")
        order.axvline(critical, color=plotting.FAINT, linewidth=0.8, linestyle="--")
        order.set_xlabel("K")
        order.set_title(f"order parameter r(K), K_c = {critical:g}")
        order.legend(loc="center right")
        growth.plot([points[0].coupling, top], [p.problem.growth_rate for p in (points[0], points[-1])],
                    color=plotting.FLOW, label="exact, K/2 - D")
        growth.plot([p.coupling for p in points], [p.growth for p in points], "x", color=plotting.ALARM, markersize=7,
                    label="flow")
        growth.axhline(0.0, color=plotting.FAINT, linewidth=0.8)
        growth.axvline(critical, color=plotting.FAINT, linewidth=0.8, linestyle="--")
        growth.set_xlabel("K")
        growth.set_title("growth of r at the uniform state")
        growth.legend(loc="lower right")
        colors = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(curves)))
        for (coupling, t, measured, truth), color in zip(curves, colors):
            approach.plot(t, truth, color=color, label=f"K = {coupling:g}")
            approach.plot(t, measured, "x", color=color, markersize=5)
        approach.set_xlabel("time t")
        approach.set_title("r(t): exact (lines), flow (crosses)")
        approach.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


STUDY = KuramotoTransition()
