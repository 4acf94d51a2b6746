"""The catalogue of exact solutions, run and judged: ``wgflow verify``."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.errors import InvalidInput, StorageError, WGFlowError
from wgflow.solve import solve
from wgflow.solvers import JKO, FiniteVolume

from .distances import wasserstein_1d
from .exact_base import StateProblem
from .exact_catalogue import Case, DistanceCase, catalogue, families

if TYPE_CHECKING:
    import xarray

__all__ = ["Verification", "Verified", "verify"]

#: Largest relative error of a moment or energy at 200 cells an axis (on coarser grids it may grow like h^2), and of the
#: dissipation, the square of what may be a small velocity.
MOMENT_LIMIT, DISSIPATION_LIMIT, JUDGED_CELLS = 1e-3, 1e-2, 200
#: Largest drift of the mass and rise of the energy.
MASS_LIMIT, ENERGY_LIMIT = 1e-13, 1e-12
#: Largest distance of a front, in cells; rounding may put a front on the other side of an edge.
FRONT_LIMIT = 1.0 + 1e-6
#: Largest errors of JKO steps at 200 cells.
JKO_LIMIT = 1e-3
#: Quantities that are not judged as moments.
_APART = ("density", "dissipation", "front")
#: Grids of the quick scale have no more cells than this.
_QUICK_CELLS = 200


@dataclass(frozen=True)
class Verified:
    """One case as it came out.

    Attributes
    ----------
    family, name, method : str
    cells : tuple of int
        Cells an axis of the grids.
    errors : dict of str to tuple of float
        Error of each quantity on each grid: relative for moments and energies, L1 for ``"density"``, in cells for
        ``"front"``.
    orders : dict of str to float
        Observed order of each error by regression over all grids; NaN where there are less than three, or the error is
        rounding.
    mass_drift, energy_rise : float
        The largest over the grids, as the certificates have them.
    seconds : tuple of float
        CPU seconds of each grid.
    failures : tuple of str
        What missed its limit, in words.
    order_of : str
        The error whose order the table shows.
    """

    family: str
    name: str
    method: str
    cells: tuple[int, ...]
    errors: dict[str, tuple[float, ...]] = field(default_factory=dict)
    orders: dict[str, float] = field(default_factory=dict)
    mass_drift: float = 0.0
    energy_rise: float = 0.0
    seconds: tuple[float, ...] = ()
    failures: tuple[str, ...] = ()
    order_of: str = "density"

    @property
    def passed(self) -> bool:
        """Whether nothing missed its limit."""
        return not self.failures

    @property
    def judged(self) -> int:
        """Index of the judged grid: the first of at least 200 cells, else the last."""
        return next((k for k, n in enumerate(self.cells) if n >= JUDGED_CELLS), len(self.cells) - 1)

    @property
    def worst(self) -> tuple[str, float]:
        """The moment or energy of the largest error on the judged grid."""
        named = {name: values[self.judged] for name, values in self.errors.items() if name not in _APART}
        if not named:
            return "", math.nan
        name = max(named, key=named.__getitem__)
        return name, named[name]

    def error(self, name: str) -> float:
        """An error on the judged grid; NaN if there is none of this name."""
        return self.errors[name][self.judged] if name in self.errors else math.nan

    @property
    def order(self) -> float:
        """Observed order of the error in `order_of`; NaN if there is none."""
        return self.orders.get(self.order_of, math.nan)


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    cases : tuple of Verified
    quick : bool
    seconds : float
        CPU seconds of everything.
    """

    cases: tuple[Verified, ...]
    quick: bool = False
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return all(case.passed for case in self.cases)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        count = sum(case.passed for case in self.cases)
        return (f"{'PASS' if self.passed else 'FAIL'}: {count} of {len(self.cases)} cases of the catalogue hold "
                f"({self.seconds:.0f} s of CPU).")

    def rows(self) -> list[tuple[str, ...]]:
        """Heads and cells of the table as text."""
        rows: list[tuple[str, ...]] = [("family", "problem", "method", "cells", "error", "of", "L1", "front", "order",
                                        "mass", "energy", "CPU s", "verdict")]
        for case in self.cases:
            name, error = case.worst
            rows.append((case.family, case.name, case.method, str(case.cells[case.judged]), _digits(error), name,
                         _digits(case.error("density")), _fixed(case.error("front")), _fixed(case.order),
                         _digits(case.mass_drift), _digits(case.energy_rise), _fixed(sum(case.seconds)),
                         "ok" if case.passed else "FAIL"))
        return rows

    def failures(self) -> list[str]:
        """Every limit that was missed, in words."""
        return [f"{case.family}, {case.name} ({case.method}): {words}"
                for case in self.cases for words in case.failures]

    def table(self) -> str:
        """The table as plain text: one line a case, then what failed, then the verdict."""
        rows = self.rows()
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) if k in _LEFT else cell.rjust(w) for k, (cell, w) in
                           enumerate(zip(row, widths))).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, "", *self.failures(), self.verdict])

    def print(self) -> None:
        """Print the table with rich: in color on a terminal."""
        from rich.console import Console
        from rich.table import Table

        heads, *rows = self.rows()
        table = Table(box=None, header_style="bold", pad_edge=False)
        for k, head in enumerate(heads):
            table.add_column(head, justify="left" if k in _LEFT else "right", no_wrap=True)
        for case, row in zip(self.cases, rows):
            color = "green" if case.passed else "bold red"
            table.add_row(*row[:-1], f"[{color}]{row[-1]}[/]")
        console = Console(width=None if Console().is_terminal else 200, highlight=False)
        console.print(table)
        for words in self.failures():
            console.print(words, markup=False)
        console.print(self.verdict, style="green" if self.passed else "bold red")

    def to_dataset(self) -> xarray.Dataset:
        """Errors by case, grid and quantity, orders, mass, energy and time; NaN where a case has none."""
        import xarray

        quantities = list(dict.fromkeys(name for case in self.cases for name in case.errors))
        grids = max((len(case.cells) for case in self.cases), default=0)
        shape = (len(self.cases), grids)
        cells, seconds = np.zeros(shape, dtype=int), np.full(shape, np.nan)
        errors, orders = np.full((*shape, len(quantities)), np.nan), np.full((shape[0], len(quantities)), np.nan)
        for i, case in enumerate(self.cases):
            cells[i, : len(case.cells)], seconds[i, : len(case.seconds)] = case.cells, case.seconds
            for name, values in case.errors.items():
                errors[i, : len(values), quantities.index(name)] = values
                orders[i, quantities.index(name)] = case.orders.get(name, math.nan)
        per_case = {
            "family": [c.family for c in self.cases], "problem": [c.name for c in self.cases],
            "method": [c.method for c in self.cases], "mass_drift": [c.mass_drift for c in self.cases],
            "energy_rise": [c.energy_rise for c in self.cases], "passed": [int(c.passed) for c in self.cases],
            "failures": ["; ".join(c.failures) for c in self.cases],
        }
        variables = {name: ("case", np.asarray(values)) for name, values in per_case.items()}
        variables |= {"cells": (("case", "grid"), cells), "seconds": (("case", "grid"), seconds),
                      "error": (("case", "grid", "quantity"), errors), "order": (("case", "quantity"), orders)}
        return xarray.Dataset(variables, coords={"quantity": quantities},
                              attrs={"title": "wgflow catalogue of exact solutions", "verdict": self.verdict})

    def save(self, path: str | Path) -> None:
        """Write every error on every grid: CSV for ``.csv``, NetCDF for ``.nc``.

        Raises
        ------
        InvalidInput
            If the path ends in neither.
        StorageError
            If the file cannot be written.
        """
        path = Path(path)
        check_path(path)
        try:
            if path.suffix == ".nc":
                self.to_dataset().to_netcdf(path, engine="h5netcdf")
                return
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("family", "problem", "method", "cells", "quantity", "error", "order", "mass_drift",
                                 "energy_rise", "seconds", "verdict"))
                for case in self.cases:
                    for name, values in case.errors.items():
                        for n, error, spent in zip(case.cells, values, case.seconds):
                            writer.writerow((case.family, case.name, case.method, n, name, error, case.orders[name],
                                             case.mass_drift, case.energy_rise, spent,
                                             "ok" if case.passed else "FAIL"))
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error


#: Columns of the table that are words.
_LEFT = (0, 1, 2, 5)


def check_path(path: Path) -> None:
    """Raise unless the path ends in .csv or .nc."""
    if path.suffix not in (".csv", ".nc"):
        raise InvalidInput(f"{path}: the table is written as .csv or as NetCDF, .nc; give a name that ends in one.")


def verify(
    family: str | Sequence[str] | None = None,
    *,
    cells: Sequence[int] | None = None,
    quick: bool = False,
    report: Callable[[float], Any] | None = None,
) -> Verification:
    """Run the catalogue of exact solutions and judge every case.

    Each problem is solved with FiniteVolume on several grids. What is judged: moments and energies within 1e-3 at 200
    cells an axis, the observed order of the density's L1 error, fronts within one cell, mass within 1e-13, no rise of
    the energy above 1e-12. Where the JKO scheme has exact steps, ``JKO(inner="quantile")`` is held against them too.

    Parameters
    ----------
    family : str or sequence of str, optional
        Only these families; all by default.
    cells : sequence of int, optional
        Cells an axis of the grids, for every case; orders are then shown, but judged only over five grids or more.
    quick : bool
        Leave out grids of more than 200 cells and the cases of several axes.
    report : callable, optional
        Called with the part that is done.

    Returns
    -------
    Verification

    Raises
    ------
    InvalidInput
        If a family is not known or ``cells`` are not integers of at least 8.
    """
    wanted = families() if family is None else (family,) if isinstance(family, str) else tuple(family)
    for name in wanted:
        if name not in families():
            raise InvalidInput(f"no family is called {name!r}; there are {', '.join(families())}")
    if cells is not None and (len(cells) == 0 or any(int(n) != n or n < 8 for n in cells)):
        raise InvalidInput(f"cells={list(cells)}: need one or more integers >= 8")
    cases = [case for case in catalogue() if case.family in wanted and not (quick and case.slow)]
    jobs: list[tuple[Callable, Case | DistanceCase]] = [
        (_distance if isinstance(case, DistanceCase) else _flow, case) for case in cases]
    jobs += [(_jko, case) for case in cases if isinstance(case, Case) and case.jko]
    begin, found = time.process_time(), []
    for done, (run, case) in enumerate(jobs):
        found.append(run(case, _grids(case, cells, quick)))
        if report is not None:
            report((done + 1) / len(jobs))
    return Verification(tuple(found), quick, time.process_time() - begin)


def _grids(case: Case | DistanceCase, cells: Sequence[int] | None, quick: bool) -> tuple[int, ...]:
    if len(case.cells) == 1:
        return case.cells
    chosen = case.cells if cells is None else tuple(sorted({int(n) for n in cells}))
    return tuple(n for n in chosen if n <= _QUICK_CELLS) or chosen[:1] if quick else chosen


def _flow(case: Case, cells: tuple[int, ...]) -> Verified:
    """Solve on every grid, and judge."""
    problem, runs, seconds, drift, rise = case.problem, [], [], 0.0, 0.0
    try:
        for n in cells:
            grid = problem.grid(n)
            energy, start = problem.energy(), problem.initial_density(grid)
            begin = time.process_time()
            sol = solve(energy, start, (0.0, problem.t_end), FiniteVolume(**case.settings), t_eval=problem.times)
            seconds.append(time.process_time() - begin)
            errors = problem.errors(sol.final)
            for name, (measured, exact) in problem.path_quantities(sol).items():
                errors[name] = abs(measured - exact) / (abs(exact) if abs(exact) > 1e-12 else 1.0)
            front = problem.front_error(sol.final)
            if front is not None:
                errors["front"] = front
            runs.append(errors)
            drift = max(drift, sol.certificate.mass_drift)
            rise = max(rise, sol.certificate.max_energy_increase)
    except WGFlowError as error:
        return Verified(case.family, case.name, "finite volumes", cells, failures=(f"{n} cells: {error}",))
    table = {name: tuple(float(run[name]) for run in runs) for name in runs[0]}
    orders = {name: _order(cells, values) for name, values in table.items()}
    found = Verified(case.family, case.name, "finite volumes", cells, table, orders, drift, rise, tuple(seconds),
                     order_of=case.order_of)
    return _with_failures(found, _judge(case, found))


def _judge(case: Case, found: Verified) -> list[str]:
    n, failures = found.cells[found.judged], []
    room = max(1.0, (JUDGED_CELLS / n) ** 2)
    for name, values in found.errors.items():
        if name in ("density", "front"):
            continue
        limit = case.limits.get(name, (DISSIPATION_LIMIT if name == "dissipation" else MOMENT_LIMIT) * room)
        # A limit of the case's own holds on its finest grid.
        error = values[-1] if name in case.limits else values[found.judged]
        if not error <= limit:
            failures.append(f"{name} is off by {error:.2e}, more than {limit:.0e}, on "
                            f"{found.cells[-1] if name in case.limits else n} cells")
    for m, limit in case.density_limits.items():
        if m in found.cells and not found.errors["density"][found.cells.index(m)] <= limit:
            failures.append(f"L1 error {found.errors['density'][found.cells.index(m)]:.2e}, more than {limit:.0e}, on "
                            f"{m} cells")
    if "density" in case.limits and not found.errors["density"][-1] <= case.limits["density"]:
        failures.append(f"L1 error {found.errors['density'][-1]:.2e}, more than {case.limits['density']:.0e}")
    if case.order is not None and len(found.cells) >= 5 and not found.orders[case.order_of] >= case.order:
        failures.append(f"observed order {found.orders[case.order_of]:.2f} of the {case.order_of}, less than "
                        f"{case.order:g}")
    if "front" in found.errors and not max(found.errors["front"]) <= FRONT_LIMIT:
        failures.append(f"the front is {max(found.errors['front']):.2f} cells away from where it must be")
    if not found.mass_drift <= MASS_LIMIT:
        failures.append(f"mass changed by {found.mass_drift:.1e}, more than {MASS_LIMIT:.0e}")
    if not found.energy_rise <= ENERGY_LIMIT:
        failures.append(f"the energy rose by {found.energy_rise:.1e}, more than {ENERGY_LIMIT:.0e}")
    return failures


def _jko(case: Case, cells: tuple[int, ...]) -> Verified:
    """JKO steps in quantile coordinates against the exact ones."""
    (tau, steps), problem = case.jko or (0.0, 0), case.problem
    n = min(JUDGED_CELLS, cells[-1])
    label = f"JKO, {steps} steps of {tau:g}"
    try:
        if not isinstance(problem, StateProblem):
            raise InvalidInput(f"{type(problem).__name__} has no exact JKO steps")
        grid = problem.grid(n)
        energy, start = problem.energy(), problem.initial_density(grid)
        begin = time.process_time()
        sol = solve(energy, start, (0.0, tau * steps), JKO(tau=tau, inner="quantile"), t_eval=[tau * steps])
        seconds = time.process_time() - begin
        errors = {name: (float(value),) for name, value in problem.jko_errors(sol.final, tau, steps).items()}
    except WGFlowError as error:
        return Verified(case.family, case.name, label, (n,), failures=(str(error),))
    found = Verified(case.family, case.name, label, (n,), errors, dict.fromkeys(errors, math.nan),
                     sol.certificate.mass_drift, sol.certificate.max_energy_increase, (seconds,))
    room = max(1.0, (JUDGED_CELLS / n) ** 2)
    failures = [f"{name} is off by {value:.2e}, more than {JKO_LIMIT * room:.0e}, on {n} cells"
                for name, (value,) in errors.items() if name not in _APART and not value <= JKO_LIMIT * room]
    return _with_failures(found, failures)


def _distance(case: DistanceCase, cells: tuple[int, ...]) -> Verified:
    """W2 of the two laws on every grid."""
    values, seconds = [], []
    for n in cells:
        first, second = case.problem.densities(n)
        begin = time.process_time()
        found = wasserstein_1d(first, second, p=2)
        seconds.append(time.process_time() - begin)
        values.append(abs(found - case.problem.distance) / case.problem.distance)
    table = {"W2": tuple(values)}
    result = Verified(case.family, case.name, "wasserstein_1d", cells, table,
                      {"W2": _order(cells, values)}, seconds=tuple(seconds),
                      order_of="W2")
    error, n = result.error("W2"), cells[result.judged]
    limit = case.limit * max(1.0, (JUDGED_CELLS / n) ** 2)
    failures = [] if error <= limit else [f"W2 is off by {error:.2e}, more than {limit:.0e}, on {n} cells"]
    return _with_failures(result, failures)


def _with_failures(found: Verified, failures: list[str]) -> Verified:
    return replace(found, failures=tuple(failures))


def _order(cells: Sequence[int], values: Sequence[float]) -> float:
    """Observed order by regression; NaN for less than three grids, or rounding."""
    if len(cells) < 3 or min(values) < 1e-13:
        return math.nan
    return float(-np.polyfit(np.log(cells), np.log(values), 1)[0])


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1e}"


def _fixed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
