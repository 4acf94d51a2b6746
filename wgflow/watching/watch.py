"""What looks at a run as it goes: the user's callback, and the conditions that end it early."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.watching.stop import Condition

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.recorder import Recorder, Step
    from wgflow.solvers.base import Run

__all__ = ["Moment", "Stop", "Watch", "make_watch"]

#: What `solve(..., stop=)` takes: a condition, a function of (t, rho) or (t, rho, energy), or several of them.
Stop = Condition | Callable[..., bool] | Sequence[Condition | Callable[..., bool]]


class Moment:
    """A run after an accepted step: what conditions look at. What costs something is formed where it is asked for.

    Attributes
    ----------
    t, energy, mass : float
    """

    def __init__(self, step: Step, run: Run, recorder: Recorder):
        self.t, self.energy, self.mass = step.t, step.energy, recorder.flow.rho0.mass
        self._step, self._run, self._recorder = step, run, recorder

    @cached_property
    def rho(self) -> Density | Atoms:
        """The law: a copy, which may be kept."""
        return self._recorder.law_of(self._step.law.copy())

    @cached_property
    def dissipation(self) -> float:
        r""":math:`\int \rho |\nabla \delta F/\delta\rho|^2`, at time_scale 1."""
        step = self._step.jko
        if step is not None:
            # Forces on quantiles far out are rounding; the length of the way is not.
            return step.w2_squared / step.tau**2
        rate = self._run.dissipation() if self._step.rate is None else self._step.rate
        return self._recorder.flow.energy_at(self.t).dissipation(self.rho) if rate is None else rate

    @property
    def boundary_mass(self) -> float:
        """The part of the mass at an end of the domain, as the certificate has it."""
        return self._recorder.at_boundary(self._step.law)


class Watch:
    """A callback and conditions, called where a run starts and after each accepted step.

    Parameters
    ----------
    callback : callable or None
        Called with (t, rho), or with (t, rho, energy) if it has three parameters without defaults.
    conditions : sequence of Condition or callable
        A function is called in the same way and returns True where the run is to end.
    """

    def __init__(self, callback: Callable[..., object] | None, conditions: Sequence[Condition | Callable[..., bool]]):
        self.callback = None if callback is None else _Called("callback", callback)
        self.conditions = [each if isinstance(each, Condition) else _Called("stop", each) for each in conditions]

    def check(self, flow: Flow) -> None:
        """Refuse a flow on which a condition has no meaning."""
        for each in self.conditions:
            if isinstance(each, Condition):
                each.check(flow)

    def look(self, now: Moment) -> str:
        """Call the callback, then ask the conditions; return why the run ends here, or an empty string.

        Raises
        ------
        ConvergenceError
            (reason "callback") If a function raises an exception, or returns neither True nor False.
        """
        if self.callback is not None:
            self.callback(now)
        for each in self.conditions:
            words = each.met(now) if isinstance(each, Condition) else self._asked(each, now)
            if words:
                return f"stopped at t = {now.t:.6g}: {words}"
        return ""

    @staticmethod
    def _asked(function: _Called, now: Moment) -> str:
        answer = function(now)
        if not isinstance(answer, (bool, np.bool_)):
            raise ConvergenceError(f"stop: {function.name} returned {answer!r} at t = {now.t:.6g}; it must return "
                                   "True, where the run is to end, or False", reason="callback", t=now.t)
        return f"{function.name} returned True" if answer else ""


class _Called:
    """A user's function of (t, rho), or of (t, rho, energy)."""

    def __init__(self, role: str, function: Callable[..., object]):
        self.role, self.function = role, function
        self.name = getattr(function, "__name__", None) or type(function).__name__
        self.count = _count_of_arguments(role, function)

    def __call__(self, now: Moment) -> object:
        given = (now.t, now.rho, now.energy)[:self.count]
        try:
            return self.function(*given)
        except MemoryError:
            raise
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            raise ConvergenceError(f"{self.role}: {self.name} raised {words} at t = {now.t:.6g}; it is called with "
                                   f"{'(t, rho, energy)' if self.count == 3 else '(t, rho)'} after each accepted step",
                                   reason="callback", t=now.t) from error


def _count_of_arguments(role: str, function: Callable[..., object]) -> int:
    """Return with how many of (t, rho, energy) a function is called: 3 if it needs three, else 2."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return 2
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    if needed > 3 or (len(places) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        raise InvalidInput(f"{role}: {getattr(function, '__name__', function)} takes {needed} "
                           f"argument{'' if needed == 1 else 's'}; need a function of (t, rho), or of (t, rho, energy)")
    return 3 if needed == 3 else 2


def make_watch(callback: Callable[..., object] | None, stop: Stop | None) -> Watch | None:
    """Return what looks at a run; None if there is nothing to call.

    Raises
    ------
    InvalidType
        If ``callback`` or an entry of ``stop`` is neither a function nor a condition.
    InvalidInput
        If a function takes the wrong number of arguments.
    """
    if callback is None and stop is None:
        return None
    if callback is not None and (not callable(callback) or isinstance(callback, type)):
        raise InvalidType(f"callback={callback!r}: need a function of (t, rho), or None")
    conditions: list[Any] = [] if stop is None else list(stop) if isinstance(stop, (list, tuple)) else [stop]
    for each in conditions:
        if isinstance(each, type):
            name = each.__name__
            raise InvalidType(f"stop={name} is a class; give an object of it, such as stop={name}(1e-6)")
        if not (isinstance(each, Condition) or callable(each)):
            raise InvalidType(f"stop={each!r}: need a condition such as wgflow.stop.stationary(1e-6), a function of "
                              "(t, rho) that returns True or False, or a list of them")
    return Watch(callback, conditions)
