"""What every method is."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, cast

from wgflow.errors import InvalidInput, InvalidType

__all__ = ["Method"]


class Method(ABC):
    """A way of stepping a flow: a frozen dataclass of its settings with one method, `integrate`."""

    #: Whether the steps are chosen by an error tolerance.
    controlled: bool = True
    #: Whether the method knows energies that change with time.
    DRIVEN: ClassVar[bool] = False

    @abstractmethod
    def integrate(self, flow, recorder, *, checkpoint=None, state=None) -> None:
        """Step the flow from ``flow.t0`` to ``flow.t1``, telling the recorder of every accepted step.

        Parameters
        ----------
        flow : wgflow.solve.Flow
        recorder : wgflow.solution.Recorder
        checkpoint : path, optional
            Where to keep the state of the run.
        state : dict, optional
            A state read from a checkpoint, to go on from.
        """

    def settings(self) -> dict:
        """The settings by name."""
        return {"method": type(self).__name__, **asdict(cast(Any, self))}


def check_positive(name: str, value, *, allow_none: bool = False) -> None:
    """Refuse what is not a finite number > 0."""
    if value is None and allow_none:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidType(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise InvalidInput(f"{name}={value}: must be finite and > 0")


def check_count(name: str, value) -> None:
    """Refuse what is not an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidType(f"{name} must be an int, got {value!r}")
    if int(value) < 1:
        raise InvalidInput(f"{name}={value}: need an integer >= 1")
