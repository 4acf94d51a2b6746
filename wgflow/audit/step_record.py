"""The record of the accepted steps of a run: each of them up to a million, then every second, every fourth, ...

What a certificate says of all steps (the largest drift of the mass, the largest rise of the energy, the smallest
density, the longest step) is taken from each step before it is left out, so that it is exact however many there are.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from wgflow.certificate import largest_drift, largest_rise
from wgflow.solution import History

__all__ = ["StepRecord"]

#: Kinds of numbers of the columns that do not hold floats.
KINDS = {"accepted": "q", "rejected": "q", "fallback": "b"}


class StepRecord:
    """Accepted steps, in bounded memory.

    Parameters
    ----------
    whole : bool
        Whether no step may be left out, however many there are.

    Attributes
    ----------
    columns : dict of str to array
        By the names of `History`: the steps whose number is a multiple of ``stride``.
    last : dict or None
        The latest step where it is not among the columns.
    worst : dict or None
        What is known of the steps up to the latest once some are left out: ``drift``, ``rise``, ``least`` and
        ``longest``.
    """

    #: Steps that are kept, at most; an even number. A step takes 66 bytes.
    ROOM = 1 << 20

    def __init__(self, whole: bool = False):
        self.whole, self.stride = whole, 1
        self.columns = {name: array(KINDS.get(name, "d")) for name in History.NAMES}
        self.last: dict[str, Any] | None = None
        self.worst: dict[str, float] | None = None
        self.count = 0

    def append(self, row: dict[str, Any]) -> None:
        """Add a step, by the names of `History` but for ``accepted``, which is counted here."""
        row["accepted"] = self.count
        if self.worst is not None:
            self._look(self.worst, row)
        if self.count % self.stride == 0:
            for name, column in self.columns.items():
                column.append(row[name])
            self.last = None
        else:
            self.last = row
        self.count += 1
        if len(self.columns["t"]) > self.ROOM and not self.whole:
            self._thin()

    def extend(self, rows: dict[str, list]) -> None:
        """Add several steps, each column by its name, as `append` adds each of them."""
        count = len(rows["t"])
        if self.stride > 1 or (len(self.columns["t"]) + count > self.ROOM and not self.whole):
            for row in zip(*rows.values()):
                self.append(dict(zip(rows, row)))
            return
        self.columns["accepted"].extend(range(self.count, self.count + count))
        for name, values in rows.items():
            self.columns[name].extend(values)
        self.count += count

    def latest(self, name: str) -> Any:
        """Return a number of the latest step."""
        return self.columns[name][-1] if self.last is None else self.last[name]

    def first(self, name: str) -> Any:
        """Return a number of the start."""
        return self.columns[name][0]

    def extremes(self) -> dict[str, float]:
        """Return ``drift``, ``rise``, ``least`` and ``longest`` over all steps, as a certificate tells them."""
        if self.worst is not None:
            return self.worst
        history = History(self.columns)
        return {"drift": largest_drift(history.mass), "rise": largest_rise(history.energy - history.work),
                "least": float(history.min_density.min()), "longest": float(history.dt.max())}

    def least(self) -> float:
        """Return the smallest density of all steps."""
        return self.worst["least"] if self.worst is not None else float(np.asarray(self.columns["min_density"]).min())

    def history(self) -> History:
        """Return the steps that are kept, with the latest."""
        return History(self._with_latest(self.columns, len(self.columns["t"]), self.last))

    def dump(self) -> dict[str, Any]:
        """What is recorded: of the columns only the first ``rows`` are meant."""
        return {"columns": self.columns, "rows": len(self.columns["t"]), "latest": self.last, "of_steps": {
            "stride": self.stride, "count": self.count, **({} if self.worst is None else self.worst)}}

    @classmethod
    def to_arrays(cls, dumped: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the columns of what `dump` gave, with the latest step, as arrays."""
        return cls._with_latest(dumped["columns"], dumped["rows"], dumped["latest"])

    def restore(self, columns: Mapping[str, array], told: Mapping[str, Any] | None) -> None:
        """Take up columns with the latest step, and what was told of the steps (by former versions nothing).

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        told = {"stride": 1, "count": len(columns["t"])} if told is None else told
        stride, count = int(told["stride"]), int(told["count"])
        extremes = ("drift", "rise", "least", "longest")
        if stride > 1 and not told.keys() >= set(extremes):
            raise ValueError(f"its record has every {stride}th step, but not what is known of all of them")
        numbers = [*range(0, count, stride), *([count - 1] if (count - 1) % stride else [])] if (
            0 < count <= stride * len(columns["t"])) else []
        if not numbers or list(columns["accepted"]) != numbers:
            raise ValueError(f"its record has {count} steps, every {stride}th of them, with other numbers")
        self.columns, self.stride, self.count = dict(columns), stride, count
        self.worst = {name: float(told[name]) for name in extremes} if stride > 1 else None
        if (count - 1) % stride:
            self.last = {name: column.pop() for name, column in self.columns.items()}

    @staticmethod
    def _with_latest(columns: Mapping[str, array], rows: int, latest: dict | None) -> dict[str, np.ndarray]:
        kinds = {"d": float, "q": np.int64, "b": bool}
        found = {name: np.array(column if len(column) == rows else column[:rows], dtype=kinds[column.typecode])
                 for name, column in columns.items()}
        if latest is None:
            return found
        return {name: np.append(column, np.array(latest[name], dtype=column.dtype)) for name, column in found.items()}

    def _look(self, worst: dict[str, float], row: dict[str, Any]) -> None:
        """Take a step into the extremes; NaN, once there, stays."""
        before = self.latest("energy") - self.latest("work")
        rise = 0.0 if before == math.inf else (row["energy"] - row["work"] - before) / max(1.0, abs(before))
        drift = abs(row["mass"] / self.columns["mass"][0] - 1) if self.columns["mass"][0] else math.nan
        worst = {"drift": _larger(worst["drift"], drift), "rise": _larger(worst["rise"], rise),
                 "least": -_larger(-worst["least"], -row["min_density"]),
                 "longest": _larger(worst["longest"], row["dt"])}
        # A new table: a checkpoint may still mean the old one.
        self.worst = worst

    def _thin(self) -> None:
        """Leave out every second step; new columns, since a checkpoint may still mean the old ones."""
        if self.worst is None:
            self.worst = self.extremes()
        self.stride *= 2
        if (self.count - 1) % self.stride:
            self.last = {name: column[-1] for name, column in self.columns.items()}
        self.columns = {name: column[::2] for name, column in self.columns.items()}


def _larger(a: float, b: float) -> float:
    return b if b > a or math.isnan(b) else a
