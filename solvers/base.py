"""What every method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, cast

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
