"""Checks of the arguments of `solve` and `resume`: the time span and output times."""

from __future__ import annotations

import math

import numpy as np

from wgflow.checks import as_float, check_memory, described, length_of, real_array
from wgflow.errors import InvalidInput, ResourceError

#: More output times than this are refused: the snapshots would need more memory and time than the solution.
MAX_OUTPUT_TIMES = 1_000_000
#: Output times nearer to an end of the span than this, relative to it, are that end.
TIME_SLACK = 4 * 2.0**-52
#: Nearer behind the start than this, relative to the last one, they are times of their own.
LEAST_SLACK = 1e-20


def check_span(t_span) -> tuple[float, float]:
    try:
        t0, t1 = t_span
    except (TypeError, ValueError) as error:
        end = f"{t_span:g}" if isinstance(t_span, (int, float)) and t_span > 0 else "1"
        raise InvalidInput(f"t_span={described(t_span)}: need a pair (start, end), such as t_span=(0, {end})"
                           + ("; output times are t_eval=" if length_of(t_span) > 2 else "")) from error
    t0, t1 = (as_float(f"t_span[{k}]", t) for k, t in enumerate((t0, t1)))
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise InvalidInput(f"t_span=({t0}, {t1}): both ends must be finite; for the law at rest take "
                           "wgflow.stationary(energy, grid), or a long span with stop=wgflow.stop.stationary(1e-6)")
    if t1 < t0:
        raise InvalidInput(f"t_span=({t0:g}, {t1:g}): the end must not lie before the start; flows do not run backward")
    return t0, t1


def check_times(t_eval, t0, t1, size: int, unit: str = "cells") -> tuple[float, ...]:
    if t_eval is None:
        return ()
    count = length_of(t_eval)
    if count > MAX_OUTPUT_TIMES:
        raise ResourceError(f"t_eval has {count} times; at most {MAX_OUTPUT_TIMES} snapshots are kept")
    times = real_array(t_eval, "t_eval")
    times = times if times.ndim else times.reshape(1)
    check_memory(8.0 * size * times.size, f"t_eval: {times.size} snapshots of {size} {unit}",
                 "ask for fewer times")
    if times.ndim != 1 or times.size == 0:
        raise InvalidInput(f"t_eval has shape {times.shape}; need a 1-D sequence of times, or None")
    if not np.isfinite(times).all():
        raise InvalidInput("t_eval must be finite")
    if times.size > 1 and not (np.diff(times) > 0).all():
        k = int(np.argmin(np.diff(times) > 0)) + 1
        raise InvalidInput(f"t_eval must increase strictly; "
                           f"t_eval[{k}]={times[k]:g} <= t_eval[{k - 1}]={times[k - 1]:g}")
    # Times formed by arithmetic may miss the ends by a last digit: they are replaced by the ends. Behind the start that
    # is a digit of the last time; much less is no error of arithmetic, but a time of a very long span.
    found = times.tolist()
    largest = max(abs(t0), abs(t1))
    late, after = found[0] - t0, found[-1] - t0
    if LEAST_SLACK * after <= late <= TIME_SLACK * after or -TIME_SLACK * largest <= late <= TIME_SLACK * abs(t0):
        found[0] = t0
    if abs(found[-1] - t1) <= TIME_SLACK * largest:
        found[-1] = t1
    first, last = found[0], found[-1]
    if first < t0 or last > t1:
        hint = ""
        if np.ndim(t_eval) == 0 and first == int(first) > 1:
            hint = f"; for so many output times take t_eval=np.linspace({t0:g}, {t1:g}, {int(first)})"
        raise InvalidInput(f"t_eval runs from {first:g} to {last:g}, outside t_span=({t0:g}, {t1:g}){hint}")
    return tuple(found)
