"""The result of `Solution.estimate_error`: numbers that know their parts, and what they say in words."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["ErrorBar", "ErrorEstimate"]

#: The parts of an error.
PARTS = ("space", "time", "box", "sample")


class ErrorBar(float):
    """An estimated error: the sum of its parts, a float.

    Parameters
    ----------
    space, time : float or None
        Errors of the grid and of the steps.
    box : float or None
        What walls do that stand for infinity.
    sample : float or None
        One standard error of the sample that the initial law is; None where it is none.

    None stands for a part that was not estimated, or that there is not; it adds nothing.
    """

    space: float | None
    time: float | None
    box: float | None
    sample: float | None

    def __new__(cls, space: float | None = None, time: float | None = None, box: float | None = None,
                sample: float | None = None) -> ErrorBar:
        bar = super().__new__(cls, sum(part for part in (space, time, box, sample) if part is not None))
        bar.space, bar.time, bar.box, bar.sample = space, time, box, sample
        return bar

    def __getnewargs__(self) -> tuple[float | None, ...]:  # type: ignore[override]
        return self.parts

    @property
    def parts(self) -> tuple[float | None, ...]:
        """The parts, in the order space, time, box, sample."""
        return self.space, self.time, self.box, self.sample

    def __repr__(self) -> str:
        known = [f"{name}={part:.2g}" for name, part in zip(PARTS, self.parts) if part is not None]
        return f"ErrorBar({float(self):.2g}: {', '.join(known) or 'nothing estimated'})"


@dataclass(frozen=True)
class ErrorEstimate:
    r"""Estimated errors of a solution at a time: each an `ErrorBar`, a float with parts space, time, box and sample.

    Attributes
    ----------
    t : float
    density : ErrorBar or None
        :math:`\|\rho_h - \rho\|_{L^1}` on the cells of half the grid, relative to the mass; None for atoms.
    w1 : ErrorBar or None, or one for each axis
        The Wasserstein distance W1 of the laws on one axis, of their marginals on more, in units of the coordinate;
        around the circle on a periodic axis, None for atoms there.
    energy : ErrorBar
        Error of the free energy.
    mean, variance : ErrorBar, or one for each axis
        Errors of the mean and of the variance of each coordinate.
    functional : ErrorBar or None
        Error of the functional that was asked for.
    functional_name : str
        What texts call it: the name of its function, "risk" for ``model.risk``.
    order : float or None
        Observed order of the error in the width of the cells; None where none is to be seen.
    trusted : bool
        Whether the errors on the three grids fall as errors do, so that the estimate means something.
    cells : tuple of tuple of int
        Shapes of the three grids (numbers of atoms, for atoms).
    notes : tuple of str
        What was left out, and why the estimate is not to be trusted where it is not.
    """

    t: float
    density: ErrorBar | None
    w1: ErrorBar | tuple[ErrorBar | None, ...] | None
    energy: ErrorBar
    mean: ErrorBar | tuple[ErrorBar, ...]
    variance: ErrorBar | tuple[ErrorBar, ...]
    functional: ErrorBar | None = None
    functional_name: str = "functional"
    order: float | None = None
    trusted: bool = True
    cells: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def bars(self) -> dict[str, ErrorBar]:
        """Return every error by name: ``density``, ``energy``, ..., ``mean_0``, ... where there are many axes."""
        found: dict[str, ErrorBar] = {}
        for name in ("density", "w1", "energy", "mean", "variance", "functional"):
            value = getattr(self, name)
            if isinstance(value, ErrorBar):
                found[name] = value
            elif value is not None:
                found |= {f"{name}_{k}": bar for k, bar in enumerate(value) if bar is not None}
        return found

    def explain(self) -> str:
        """Return the estimate in words: a line for each quantity, with its parts."""
        head = f"estimated errors at t = {self.t:g}" + ("" if self.trusted else ": NOT TRUSTWORTHY")
        lines = [head, f"  {'':12s}{'error':>9s}" + "".join(f"{part:>9s}" for part in PARTS)]
        for name, bar in self.bars().items():
            parts = "".join(f"{'-' if part is None else format(part, '.1e'):>9s}" for part in bar.parts)
            lines.append(f"  {self.functional_name if name == 'functional' else name:12s}{float(bar):9.1e}{parts}")
        if self.order is not None:
            shapes = ", ".join("x".join(map(str, shape)) for shape in self.cells)
            lines.append(f"  grids of {shapes} cells: observed order {self.order:.2f}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The estimate in one line."""
        name, bar = next((name, bar) for name, bar in self.bars().items() if name not in ("mean", "variance"))
        kind = {"density": "of the density (L1)", "energy": "of the energy"}.get(name, "of the law (W1)")
        text = f"estimated error at t = {self.t:g}: {float(bar):.1e} {kind}"
        if name != "energy":
            text += f", {float(self.energy):.1e} of the energy"
        if self.functional is not None:
            text += f", {float(self.functional):.1e} of the {self.functional_name}"
        return text if self.trusted else f"{text}; not trustworthy: {'; '.join(self.notes)}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and tuples, from which `from_dict` makes it again."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ErrorEstimate:
        """Return the estimate that `to_dict` gave."""
        found = dict(values)
        for name in ("density", "w1", "energy", "mean", "variance", "functional"):
            found[name] = _bars(values[name])
        return cls(**found)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{html.escape(self.explain())}</pre>"


def _plain(value: Any) -> Any:
    if isinstance(value, ErrorBar):
        return dict(zip(PARTS, value.parts))
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value


def _bars(value: Any) -> Any:
    if isinstance(value, dict):
        return ErrorBar(**value)
    return None if value is None else tuple(_bars(item) for item in value)


#: A functional of a law.
Functional = Callable[[Any], float]
