"""A figure of the storm: what was counted or measured, and the most that it may be; the table of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

#: Cases of a figure that missed its target and are told.
TOLD = 5


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes
    ----------
    part, what : str
    seen : float
        The count of what went wrong, or the worst measured number.
    most : float
        The target: ``seen`` may be that large.
    cases : int
        How many trials it comes from. A figure without trials is missed.
    unit : str
    told : tuple of str
        The first cases that went wrong.
    """

    part: str
    what: str
    seen: float
    most: float
    cases: int
    unit: str = ""
    told: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return self.cases > 0 and math.isfinite(self.seen) and self.seen <= self.most

    def to_dict(self) -> dict:
        return {**asdict(self), "held": self.held}


@dataclass(frozen=True)
class Scale:
    """How large the storm is, where it may write, and its seed."""

    size: str
    seed: int
    folder: Path

    def pick(self, tiny, quick, full):
        return {"tiny": tiny, "quick": quick, "full": full}[self.size]


Part = Callable[[Scale], list[Figure]]


def counted(part: str, what: str, cases: int, faults: Iterable[str], most: int = 0) -> Figure:
    """Return the figure of a count of faults, each told in a line."""
    faults = list(faults)
    return Figure(part, what, len(faults), most, cases, told=tuple(fault[:300] for fault in faults[:TOLD]))


def table(figures: list[Figure]) -> str:
    """Return the table that a terminal shows, with the cases that went wrong under their line."""
    lines = [f"{'part':9s} {'figure':58s} {'cases':>7s} {'seen':>9s} {'target':>10s}"]
    for f in figures:
        lines.append(f"{f.part:9s} {f.what:58s} {f.cases:7d} {f.seen:9.3g} {f'<= {f.most:.3g}':>10s} {f.unit:4s}"
                     f"{'held' if f.held else 'MISSED'}")
        lines += [f"{'':10s}! {one}" for one in f.told if not f.held]
    missed = sum(not f.held for f in figures)
    return "\n".join([*lines, f"{len(figures) - missed} of {len(figures)} figures held"])
