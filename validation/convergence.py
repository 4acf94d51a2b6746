"""Convergence: all methods on the same problems, error against time step and cost.

Three problems on the line, one nonconvex, one nonlocal, one with a free boundary. Errors are W2 distances to a
reference at the end: the exact Barenblatt profile, or finite volumes on a grid four times as fine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import Entropy, PowerEntropy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.interactions.terms import Convolution
from wgflow.solvers import JKO, FiniteVolume
from wgflow.verbs import solve

from .distances import wasserstein_1d

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wgflow.solvers.base import Method

__all__ = ["METHODS", "PROBLEMS", "ConvergenceStudy", "Problem", "Run", "convergence_study"]

#: How many times finer the grid of the reference is.
_REFINED = 4
#: Runs whose error is above so many times the least of their method count for its order: below it is the grid's.
_ABOVE_FLOOR = 3.0


@dataclass(frozen=True)
class Problem:
    """A flow on the line with a reference at its end.

    Attributes
    ----------
    name : str
    energy : Term
    bounds : (float, float)
    start : callable
        The initial density on a grid.
    t_span : (float, float)
    exact : callable or None
        The exact density at the end on a grid; otherwise finite volumes on a finer grid are the reference.
    """

    name: str
    energy: Term | FreeEnergy
    bounds: tuple[float, float]
    start: Callable[[Grid], Density]
    t_span: tuple[float, float]
    exact: Callable[[Grid], Density] | None = None

    def reference(self, cells: int) -> Density:
        """Return the density at the end, exact or by finite volumes on four times as many cells."""
        grid = Grid(self.bounds, cells=_REFINED * cells)
        if self.exact is not None:
            return self.exact(grid)
        return solve(self.energy, self.start(grid), self.t_span, FiniteVolume(rtol=1e-9), t_eval=[self.t_span[1]]).final


@dataclass(frozen=True)
class Run:
    """One run: its problem, method and step, the W2 distance to the reference, and what it cost in CPU seconds."""

    problem: str
    method: str
    tau: float
    error: float
    seconds: float
    certified: bool


@dataclass(frozen=True)
class ConvergenceStudy:
    """The result of `convergence_study`.

    Attributes
    ----------
    runs : tuple of Run
    cells : int
    """

    runs: tuple[Run, ...]
    cells: int

    def select(self, problem: str, method: str) -> list[Run]:
        """Return the runs of one method on one problem, by falling step."""
        return sorted((r for r in self.runs if (r.problem, r.method) == (problem, method)), key=lambda r: -r.tau)

    def order(self, problem: str, method: str) -> float:
        """Return the order in the step, by regression over the steps whose error is above the grid's; NaN if none."""
        runs = self.select(problem, method)
        floor = _ABOVE_FLOOR * min(r.error for r in runs)
        kept = [r for k, r in enumerate(runs) if r.error > floor or k == len(runs) - 1]
        if len(kept) < 3:
            return math.nan
        return float(np.polyfit(np.log([r.tau for r in kept]), np.log([r.error for r in kept]), 1)[0])

    def table(self) -> str:
        """Return one line for each run."""
        lines = [f"{'problem':<16} {'method':<26} {'step':>8} {'W2 error':>10} {'CPU s':>8} {'order':>6}  certificate"]
        lines.append("-" * len(lines[0]))
        for problem in dict.fromkeys(r.problem for r in self.runs):
            for method in dict.fromkeys(r.method for r in self.runs if r.problem == problem):
                runs, order = self.select(problem, method), self.order(problem, method)
                for k, r in enumerate(runs):
                    shown = f"{order:6.2f}" if k == len(runs) - 1 and math.isfinite(order) else " " * 6
                    lines.append(f"{problem:<16} {method:<26} {r.tau:8.4g} {r.error:10.2e} {r.seconds:8.3f} {shown}  "
                                 f"{'ok' if r.certified else 'FAILED'}")
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return a picture of error against step and cost for each problem, written to ``path`` if given."""
        import matplotlib as mpl

        from wgflow import plotting

        problems = list(dict.fromkeys(r.problem for r in self.runs))
        methods = list(dict.fromkeys(r.method for r in self.runs))
        colors = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, len(methods)))
        with mpl.rc_context(plotting.STYLE):
            figure = plotting.new_figure(4.2 * len(problems) + 1.6, 6.4)
            panels = figure.subplots(2, len(problems), squeeze=False)
            for column, problem in enumerate(problems):
                # First-order schemes share their error: open markers, the later the smaller, leave all of them seen.
                for k, (method, color, marker) in enumerate(zip(methods, colors, "osD^vPX*")):
                    runs = self.select(problem, method)
                    for row, x in enumerate(("tau", "seconds")):
                        panels[row, column].loglog([getattr(r, x) for r in runs], [r.error for r in runs], color=color,
                                                   marker=marker, markersize=10.0 - 0.9 * k, markerfacecolor="none",
                                                   linewidth=1.3, label=method)
                self._mark_slopes(panels[0, column], problem)
                panels[0, column].set_title(problem)
                panels[0, column].set_xlabel("time step")
                panels[1, column].set_xlabel("CPU seconds")
            for row in panels:
                row[0].set_ylabel("W2 to the reference")
            panels[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
            figure.suptitle(f"all methods on {self.cells} cells", x=0.01, ha="left", fontsize=11, fontweight="bold")
            return plotting.save_figure(figure, path)

    def _mark_slopes(self, axes: Axes, problem: str) -> None:
        """Ticks at the time steps, and dotted lines of slope 1 and 2 through the largest and the middle of errors."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

        runs = [r for r in self.runs if r.problem == problem]
        taus = np.array(sorted({r.tau for r in runs}))
        axes.xaxis.set_major_locator(FixedLocator(taus.tolist()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tau, _: f"{tau:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        first = [r.error for r in runs if r.tau == taus[-1]]
        for slope, start in ((1, max(first)), (2, float(np.sqrt(min(first) * max(first))))):
            axes.plot(taus, 1.3 * start * (taus / taus[-1]) ** slope, ":", color="0.6", linewidth=0.9, zorder=0)
            axes.annotate(f"order {slope}", (taus[0], 1.3 * start * (taus[0] / taus[-1]) ** slope), fontsize=7,
                          color="0.4", ha="left", va="bottom")


def _double_well() -> Problem:
    energy = Entropy(4.0) + Potential(lambda x: x**4 / 4 - x**2 / 2)
    return Problem("double well", energy, (-3.0, 3.0), lambda grid: Density.gaussian(grid, 0.6, 0.15), (0.0, 1.0))


def _attraction() -> Problem:
    attraction = Convolution(lambda z: -2.0 * np.exp(-z * z / 2))
    energy = Entropy(4.0) + Potential(lambda x: x**2 / 8) + attraction
    return Problem("attraction", energy, (-4.0, 4.0), lambda grid: Density.gaussian(grid, 0.5, 0.6), (0.0, 1.0))


def _barenblatt(grid: Grid, t: float) -> Density:
    """Return t^(-1/3) (C - x^2 / (12 t^(2/3)))_+, a solution of d rho/dt = (rho^2)'', by exact cell masses."""
    constant = (3.0 / (4.0 * math.sqrt(12.0))) ** (2.0 / 3.0)
    reach = math.sqrt(12.0 * constant)
    y = np.clip(grid.edges[0] / t ** (1.0 / 3.0), -reach, reach)
    return Density.from_values(grid, np.diff(constant * y - y**3 / 36.0) / grid.volumes, normalize=True)


def _porous_medium() -> Problem:
    span = (0.5, 1.5)
    return Problem("porous medium", PowerEntropy(2.0), (-3.0, 3.0), lambda grid: _barenblatt(grid, span[0]), span,
                   lambda grid: _barenblatt(grid, span[1]))


#: The problems by name.
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "double-well": _double_well, "attraction": _attraction, "porous-medium": _porous_medium,
}

#: The methods by name, as functions of the time step.
METHODS: dict[str, Callable[[float], Method]] = {
    "finite volume": lambda tau: FiniteVolume(dt=tau),
    "JKO quantile": lambda tau: JKO(tau=tau, inner="quantile"),
    "JKO quantile, order 2": lambda tau: JKO(tau=tau, inner="quantile", order=2),
    "JKO linearized": lambda tau: JKO(tau=tau, inner="linearized"),
    "JKO linearized, order 2": lambda tau: JKO(tau=tau, inner="linearized", order=2),
    "JKO back-and-forth": lambda tau: JKO(tau=tau, inner="back-and-forth", tol=1e-5),
    "JKO entropic": lambda tau: JKO(tau=tau, inner="entropic", options={"estimate_bias": False}),
}


def convergence_study(
    problems: Sequence[str] = tuple(PROBLEMS),
    methods: Sequence[str] = tuple(METHODS),
    *,
    taus: Sequence[float] = (0.2, 0.1, 0.05, 0.025),
    cells: int = 300,
    report: Callable[[float], object] | None = None,
) -> ConvergenceStudy:
    """Run every method on every problem with every time step.

    Parameters
    ----------
    problems, methods : sequence of str
        Names out of `PROBLEMS` and `METHODS`.
    taus : sequence of float
        Time steps, all smaller than the time span of 1.
    cells : int
        Cells of the grid, the same for all.
    report : callable, optional
        Called with the part that is done.

    Returns
    -------
    ConvergenceStudy

    Raises
    ------
    InvalidInput
        If a name is not known.
    """
    for what, names, known in (("problem", problems, PROBLEMS), ("method", methods, METHODS)):
        for name in names:
            if name not in known:
                raise InvalidInput(f"unknown {what} {name!r}; there are {', '.join(known)}")
    runs, total = [], len(problems) * len(methods) * len(taus)
    for problem in (PROBLEMS[name]() for name in problems):
        reference = problem.reference(cells)
        rho0 = problem.start(Grid(problem.bounds, cells=cells))
        for name in methods:
            # Once without a clock, so that no time holds the loading of compiled code.
            solve(problem.energy, rho0, problem.t_span, METHODS[name](max(taus)), t_eval=[problem.t_span[1]])
            for tau in taus:
                begin = time.process_time()
                sol = solve(problem.energy, rho0, problem.t_span, METHODS[name](tau), t_eval=[problem.t_span[1]])
                seconds = time.process_time() - begin
                error = wasserstein_1d(sol.final, reference, p=2)
                runs.append(Run(problem.name, name, tau, error, seconds, sol.certificate.ok))
                if report is not None:
                    report(len(runs) / total)
    return ConvergenceStudy(tuple(runs), cells)
