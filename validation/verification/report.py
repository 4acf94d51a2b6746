"""The result of `verify`: one line a case, as text, in color, as a dataset, as a file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.errors import InvalidInput, StorageError

if TYPE_CHECKING:
    import xarray

__all__ = ["Verification", "Verified", "check_path", "judged_grid"]

#: Cells an axis at which moments are judged.
JUDGED_CELLS = 200
#: Quantities that are not judged as moments.
APART = ("density", "dissipation", "front")
#: Columns of the table that are words.
_LEFT = (0, 1, 2, 5)


@dataclass(frozen=True)
class Verified:
    """The result of one case.

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
    estimated : float
        The L1 error of the density that the solution on the judged grid states of itself; NaN where it states none.
    trusted : bool
        Whether the solution says that this is to be trusted; a question mark in the table where not.
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
    estimated: float = math.nan
    trusted: bool = True

    def __repr__(self) -> str:
        name, error = self.worst
        worst = f", error of {name} {error:.1e}" if name else ""
        return (f"Verified({self.family}, {self.name}, {self.method}, {self.cells[self.judged]} cells: "
                f"{'passed' if self.passed else 'FAILED'}{worst})")

    @property
    def passed(self) -> bool:
        """Whether nothing missed its limit."""
        return not self.failures

    @property
    def judged(self) -> int:
        """Index of the judged grid: the first of at least 200 cells, else the last."""
        return judged_grid(self.cells)

    @property
    def worst(self) -> tuple[str, float]:
        """The moment or energy of the largest error on the judged grid."""
        named = {name: values[self.judged] for name, values in self.errors.items() if name not in APART}
        if not named:
            return "", math.nan
        name = max(named, key=named.__getitem__)
        return name, named[name]

    def error(self, name: str) -> float:
        """Return an error on the judged grid; NaN if there is none of this name."""
        return self.errors[name][self.judged] if name in self.errors else math.nan

    @property
    def order(self) -> float:
        """Observed order of the error in `order_of`; NaN if there is none."""
        return self.orders.get(self.order_of, math.nan)


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

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

    def __repr__(self) -> str:
        return f"Verification({self.verdict})"

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
        """Return heads and cells of the table as text."""
        rows: list[tuple[str, ...]] = [("family", "problem", "method", "cells", "error", "of", "L1", "estimated",
                                        "front", "order", "mass", "energy", "CPU s", "verdict")]
        for case in self.cases:
            name, error = case.worst
            rows.append((case.family, case.name, case.method, str(case.cells[case.judged]), _digits(error), name,
                         _digits(case.error("density")), _digits(case.estimated) + ("" if case.trusted else " ?"),
                         _fixed(case.error("front")), _fixed(case.order),
                         _digits(case.mass_drift), _digits(case.energy_rise), _fixed(sum(case.seconds)),
                         "ok" if case.passed else "FAIL"))
        return rows

    def failures(self) -> list[str]:
        """Return every limit that was missed, in words."""
        return [f"{case.family}, {case.name} ({case.method}): {words}"
                for case in self.cases for words in case.failures]

    def table(self) -> str:
        """Return the table as plain text: one line a case, then what failed, then the verdict."""
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
        """Return errors by case, grid and quantity, orders, mass, energy and time; NaN where a case has none."""
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
            "method": [c.method for c in self.cases], "estimated": [c.estimated for c in self.cases],
            "mass_drift": [c.mass_drift for c in self.cases],
            "energy_rise": [c.energy_rise for c in self.cases], "passed": [int(c.passed) for c in self.cases],
            "failures": ["; ".join(c.failures) for c in self.cases],
        }
        variables: dict[str, Any] = {name: ("case", np.asarray(values)) for name, values in per_case.items()}
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
                writer.writerow(("family", "problem", "method", "cells", "quantity", "error", "estimated", "order",
                                 "mass_drift", "energy_rise", "seconds", "verdict"))
                for case in self.cases:
                    none = {"": (math.nan,) * len(case.cells)}
                    for name, values in (case.errors or none).items():
                        for k, (n, error) in enumerate(zip(case.cells, values)):
                            known = case.estimated if name == "density" and k == case.judged else math.nan
                            writer.writerow((case.family, case.name, case.method, n, name, error, known,
                                             case.orders.get(name, math.nan), case.mass_drift, case.energy_rise,
                                             case.seconds[k] if case.seconds else math.nan,
                                             "ok" if case.passed else "FAIL"))
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error


def judged_grid(cells: Sequence[int]) -> int:
    """Return the index of the grid at which errors are judged: the first of at least 200 cells, else the last."""
    return next((k for k, n in enumerate(cells) if n >= JUDGED_CELLS), len(cells) - 1)


def check_path(path: Path) -> None:
    """Raise unless the path ends in .csv or .nc."""
    if path.suffix not in (".csv", ".nc"):
        raise InvalidInput(f"{path}: the table is written as .csv or as NetCDF, .nc; give a name that ends in one.")


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1e}"


def _fixed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
