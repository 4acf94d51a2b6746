"""The report of `check_model`: each comparison, its deviation and the deviation allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wgflow.errors import InvalidInput

from .base import FloatArray, ReducedModel

__all__ = ["ModelCheck", "ModelReport"]


@dataclass(frozen=True)
class ModelCheck:
    """One check of a model.

    Attributes
    ----------
    name : str
        The method or the quantity that was checked.
    passed : bool or None
        None where the check does not apply, such as samples of a limit without a network.
    text : str
        What was compared, with the values where they disagree most.
    deviation, allowed : float
        The largest disagreement and its bound, in units that the text names; a check passes if it does not exceed the
        bound. Not a number where nothing was compared.
    error : Exception or None
        What the model raised during the check.
    """

    name: str
    passed: bool | None
    text: str
    deviation: float = float("nan")
    allowed: float = float("nan")
    error: Exception | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        verdict = {True: "passed", False: "FAILED", None: "  --  "}[self.passed]
        return f"{verdict}  {self.name}: {self.text}"


@dataclass(frozen=True)
class ModelReport:
    """The findings of `check_model`; ``print(report)`` shows it, ``report["potential"]`` is a single check.

    Attributes
    ----------
    model : str
        The model's ``repr``.
    checks : tuple of ModelCheck
        In the order in which a model is best mended: later checks rest on what earlier ones look at.
    false_alarm : float
        Bound of the probability that a check against samples fails although the model is right.
    """

    model: str
    checks: tuple[ModelCheck, ...]
    false_alarm: float

    def __repr__(self) -> str:
        return f"ModelReport({self.explain().splitlines()[0]})"

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[ModelCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def __getitem__(self, name: str) -> ModelCheck:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"{name!r}: the checks are {', '.join(repr(check.name) for check in self.checks)}")

    def __iter__(self) -> Iterator[ModelCheck]:
        return iter(self.checks)

    def __bool__(self) -> bool:
        return self.passed

    def explain(self) -> str:
        """Return a line for each check under a headline."""
        made = sum(check.passed is not None for check in self.checks)
        verdict = "all passed" if self.passed else f"{len(self.failed)} FAILED"
        head = f"{self.model}: {made} checks, {verdict} (a false alarm has a probability below {self.false_alarm:g})"
        return "\n".join([head, *(f"  {check}" for check in self.checks)])

    def __str__(self) -> str:
        return self.explain()

    def raise_if_failed(self) -> None:
        """Raise InvalidInput that names the first check that failed; its ``partial`` is this report."""
        if self.passed:
            return
        first, *others = self.failed
        more = f"; then look at {', '.join(check.name for check in others)}" if others else ""
        error = InvalidInput(f"{self.model} fails {first.name}: {first.text}{more}; check_model(model, throw=False) "
                             "returns the whole report")
        error.partial = self
        raise error from first.error


def kernel_error(model: ReducedModel) -> float:
    """Return the error that a model states for the kernel of its features, relative to its largest value or 1."""
    return float(getattr(model, "feature_error", getattr(model, "tolerance", None) or 0.0))


def place(model: ReducedModel, point: FloatArray) -> str:
    """Return coordinates with their names, for messages."""
    return "(" + ", ".join(f"{name}={value:.4g}" for name, value in zip(model.coordinate_names, point)) + ")"
