"""Checks of the arguments of `solve` and `resume`: time spans, output times, clocks."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import fields, is_dataclass
from typing import TypeVar

import numpy as np

from wgflow.checks import as_float, check_memory, real_array, shown
from wgflow.errors import InvalidInput, InvalidType, ResourceError

#: More output times than this are refused: the snapshots would need more memory and time than the solution.
MAX_OUTPUT_TIMES = 1_000_000
#: Output times nearer to an end of the span than this, relative to it, are that end.
TIME_SLACK = 4 * 2.0**-52

F = TypeVar("F", bound=Callable)


def without_unknown(function: F) -> F:
    """Return a function whose signature, for readers and ``help``, leaves out its ``**unknown`` arguments."""
    signature = inspect.signature(function)
    known = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    vars(function)["__signature__"] = signature.replace(parameters=known)
    return function


def refuse_unknown(unknown: Mapping[str, object], function: Callable, method: object, methods: Iterable[type]) -> None:
    """Refuse arguments that a function does not have, and say where they belong.

    Parameters
    ----------
    unknown : mapping
        The arguments by name.
    function : callable
    method : Method or None
        The method that was given.
    methods : iterable of type
        The methods there are, the default one first.

    Raises
    ------
    InvalidType
        If there are any; it names the first, and the method of which it is a setting, or a name that is like it.
    """
    for name, value in unknown.items():
        told, given = f"{name}={value!r}: {function.__name__} has no argument {name}", type(method)
        homes = [home for home in (given, *methods) if is_dataclass(home) and name in {f.name for f in fields(home)}]
        if homes:
            raise InvalidType(f"{told}; it is a setting of the method, method={homes[0].__name__}({name}={value!r})")
        names = list(inspect.signature(function).parameters)
        near = difflib.get_close_matches(name, names, n=1)
        raise InvalidType(f"{told}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"))


def check_span(t_span) -> tuple[float, float]:
    try:
        t0, t1 = t_span
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"t_span={shown(t_span)}: need a pair (start, end)") from error
    t0, t1 = (as_float(f"t_span[{k}]", t) for k, t in enumerate((t0, t1)))
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise InvalidInput(f"t_span=({t0}, {t1}): both ends must be finite; the law at rest is found by "
                           "wgflow.stationary(energy, grid)")
    if t1 < t0:
        raise InvalidInput(f"t_span=({t0:g}, {t1:g}): the end must not lie before the start; flows do not run backward")
    return t0, t1


def check_times(t_eval, t0, t1, size: int, unit: str = "cells") -> tuple[float, ...]:
    if t_eval is None:
        return ()
    count = len(t_eval) if isinstance(t_eval, Sized) else 1
    if count > MAX_OUTPUT_TIMES:
        raise ResourceError(f"t_eval has {count} times; at most {MAX_OUTPUT_TIMES} snapshots are kept")
    times = np.atleast_1d(real_array(t_eval, "t_eval"))
    check_memory(8.0 * size * times.size, f"t_eval: {times.size} snapshots of {size} {unit}",
                 "ask for fewer times")
    if times.ndim != 1 or times.size == 0:
        raise InvalidInput(f"t_eval has shape {times.shape}; need a 1-D sequence of times, or None")
    if not np.isfinite(times).all():
        raise InvalidInput("t_eval must be finite")
    if not (np.diff(times) > 0).all():
        k = int(np.argmin(np.diff(times) > 0)) + 1
        raise InvalidInput(f"t_eval must increase strictly; "
                           f"t_eval[{k}]={times[k]:g} <= t_eval[{k - 1}]={times[k - 1]:g}")
    # Times formed by arithmetic may miss the ends by a last digit: they are replaced by the ends.
    for k, end in ((0, t0), (-1, t1)):
        if abs(times[k] - end) <= TIME_SLACK * max(abs(t0), abs(t1)):
            times[k] = end
    if times[0] < t0 or times[-1] > t1:
        raise InvalidInput(f"t_eval runs from {times[0]:g} to {times[-1]:g}, outside t_span=({t0:g}, {t1:g})")
    return tuple(float(t) for t in times)
