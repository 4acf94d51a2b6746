"""The base of all studies, and the report of one: pictures, tables, certificates and a verdict."""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wgflow.contracts import Contract
from wgflow.errors import StorageError

if TYPE_CHECKING:
    from ..comparison import Comparison

__all__ = ["Check", "Study", "StudyReport", "Table", "flow_times"]

#: Times nearer to each other than this are one.
_APART = 1e-9


@dataclass(frozen=True)
class Check:
    """One statement that a study judges, in words with the numbers that decide it.

    Attributes
    ----------
    text : str
    passed : bool
    value, bound : float or None
        Of a statement ``value <= bound``; None of any other.
    """

    text: str
    passed: bool
    value: float | None = None
    bound: float | None = None

    @classmethod
    def at_most(cls, text: str, value: float, bound: float) -> Check:
        """Return the statement ``value <= bound``; NaN does not pass."""
        return cls(text, bool(value <= bound), float(value), float(bound))

    @classmethod
    def inside(cls, comparison: Comparison) -> Check:
        """Return the statement that no difference is larger than its band: the largest share of a band is at most 1."""
        shares = np.asarray(comparison.share_of_band, dtype=float)
        return cls(comparison.verdict, bool(comparison.passed), float(np.max(shares)), 1.0)

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.text}"


@dataclass(frozen=True)
class Table:
    """Rows under column names; the file has all digits of a number, the text six, and NaN is left empty."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def text(self) -> str:
        """Return the table as aligned plain text."""
        cells = [list(self.columns)] + [[_print(value) for value in row] for row in self.rows]
        widths = [max(len(row[k]) for row in cells) for k in range(len(self.columns))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in cells]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def csv(self) -> str:
        """Return the table as comma-separated values."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


@dataclass(frozen=True)
class StudyReport:
    """The result of a study.

    Attributes
    ----------
    name, title : str
    conventions : str
        The choices of clock, data law and constants that every number and picture of the study uses.
    checks : tuple of Check
        What was judged.
    tables : dict of str to Table
    certificates : dict of str to str
        The certificate of each solution in words.
    pictures : tuple of Path
    """

    name: str
    title: str
    conventions: str
    checks: tuple[Check, ...]
    tables: dict[str, Table] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        count = sum(check.passed for check in self.checks)
        return f"{'PASS' if self.passed else 'FAIL'}: {self.title}: {count} of {len(self.checks)} checks hold."

    def text(self) -> str:
        """Return the whole report as plain text."""
        parts = [self.verdict, "Conventions: " + self.conventions, "\n".join(map(str, self.checks))]
        parts += [f"{label}\n{table.text()}" for label, table in self.tables.items()]
        parts += [f"{label}\n{words}" for label, words in self.certificates.items()]
        return "\n\n".join(parts) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Return name, title, conventions, verdict and checks as plain values, for JSON."""
        checks = [asdict(check) | {"passed": bool(check.passed)} for check in self.checks]
        return {"name": self.name, "title": self.title, "conventions": self.conventions, "verdict": self.verdict,
                "passed": self.passed, "checks": checks}

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write ``report.txt`` and every table as a CSV file, and return their paths.

        Raises
        ------
        StorageError
            If a file cannot be written.
        """
        texts = {folder / "report.txt": self.text()}
        for label, table in self.tables.items():
            texts[folder / f"{label.lower().replace(' ', '-')}.csv"] = table.csv()
        try:
            for path, text in texts.items():
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write the report into {folder}: {error}") from error
        return tuple(texts)


class Study(Contract):
    """An experiment that can be run again at two scales."""

    NEEDS = ("name", "title")
    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        """Run the experiment, write its pictures into a folder, and return what was found.

        Parameters
        ----------
        folder : Path
            An existing folder for pictures and kept SGD runs.
        quick : bool
            The small scale, within two minutes on two cores.
        fresh : bool
            Run SGD again even if its results are kept in the folder.
        """


def flow_times(times: Sequence[float] | np.ndarray, t_end: float | None = None, count: int = 61) -> np.ndarray:
    """Return the output times for a picture of a flow: the given ones, and ``count`` that are dense at the start.

    Parameters
    ----------
    times : sequence of float
        Kept exactly.
    t_end : float, optional
        The last of the others, which are cubes of equidistant numbers; the last of ``times`` by default.
    count : int
        How many others, with 0 and ``t_end``.

    Returns
    -------
    array, rising
    """
    given = np.unique(np.asarray(times, dtype=float))
    others = np.linspace(0.0, np.cbrt(given[-1] if t_end is None else t_end), count) ** 3
    if t_end is not None:
        others[-1] = t_end
    # The cube of a cubic root may miss a given time by rounding.
    new = others[np.abs(others[:, None] - given).min(axis=1) > _APART]
    return np.sort(np.concatenate([given, new]))


def _print(value: Any) -> str:
    return ("" if value != value else f"{value:.6g}") if isinstance(value, float) else str(value)
