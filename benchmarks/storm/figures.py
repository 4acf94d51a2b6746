"""A figure of the storm: what was counted or measured, and the most that it may be; the table of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

#: The command that shows one figure alone.
ALONE = "python benchmarks/storm/storm.py --figure"
#: Cases of a figure that missed its target and are told.
TOLD = 9


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
    id : str
        The figure of the list in the README that it belongs to.
    least : bool
        Whether the target is the least that it may be.
    """

    part: str
    what: str
    seen: float
    most: float
    cases: int
    unit: str = ""
    told: tuple[str, ...] = ()
    id: str = ""
    least: bool = False

    @property
    def held(self) -> bool:
        reached = self.seen >= self.most if self.least else self.seen <= self.most
        return self.cases > 0 and math.isfinite(self.seen) and reached

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


def counted(id: str, part: str, what: str, cases: int, faults: Iterable[str], most: int = 0) -> Figure:
    """Return the figure of a count of faults, each told in a line."""
    faults = list(faults)
    return Figure(part, what, len(faults), most, cases, told=tuple(fault[:300] for fault in faults[:TOLD]), id=id)


def table(figures: list[Figure]) -> str:
    """Return the table that a terminal shows, with the cases that went wrong under their line."""
    lines = [f"{'':4s}{'part':9s} {'figure':58s} {'cases':>7s} {'seen':>9s} {'target':>10s}"]
    last = ""
    for f in sorted(figures, key=lambda f: int(f.id[1:] or 0)):
        if f.id != last:
            lines.append(f"{f.id:4s}{ALONE} {f.id}")
        last, sign = f.id, ">=" if f.least else "<="
        lines.append(f"{'':4s}{f.part:9s} {f.what:58s} {f.cases:7d} {f.seen:9.3g} {f'{sign} {f.most:.3g}':>10s} "
                     f"{f.unit:4s}{'held' if f.held else 'MISSED'}")
        lines += [f"{'':10s}! {one}" for one in f.told if not f.held]
    missed = sum(not f.held for f in figures)
    return "\n".join([*lines, f"{len(figures) - missed} of {len(figures)} figures held"])
