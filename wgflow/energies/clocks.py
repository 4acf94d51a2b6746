r"""The integral of a time_scale function, the clock on which a flow is autonomous.

On each of some panels s is interpolated at 8 Gauss points, :math:`s \approx \sum_k c_k P_k`, and the polynomial is
integrated. A panel is halved while its length times :math:`|c_6| + |c_7|`, or times a part of what the polynomial
misses at its ends, is not negligible. So
:math:`\tau(t) = \int_{t_0}^t s` is one and the same function for all steps, whatever their length.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.polynomial import legendre

from wgflow.errors import ConvergenceError

__all__ = ["Clock"]

NODES, WEIGHTS = legendre.leggauss(8)
#: Legendre coefficients of a function by its values at the nodes.
COEFFICIENTS = (np.arange(8) + 0.5)[:, None] * legendre.legvander(NODES, 7).T * WEIGHTS
#: Powers of the integral from -1 by the same values.
INTEGRALS = np.array([np.pad(p, (0, 9 - p.size)) for p in (
    legendre.leg2poly(legendre.legint(c, lbnd=-1)) for c in COEFFICIENTS.T)]).T
#: Beyond the outermost node lies this part of a panel, or less.
OUTSIDE = 0.02
#: Panels of a time span to begin with.
PANELS = 40
#: What a panel may miss, over the time span times the largest value on it: with few panels so far, and with many.
EXACT, FEW = 1e-11, 500
ENOUGH, MANY = 1e-8, 5000
#: A panel is not halved below this part of the span, and where s fails not below that.
SHORTEST, FAILING = 1e-13, 1e-5
#: A step below this part of its panel takes the value of s instead of a difference of integrals.
SHORT = 1e-7


class Clock:
    """The integral of a function s(t) > 0 from t0 to t1, formed as far as it has been asked for.

    Parameters
    ----------
    scale : callable
        Raises ConvergenceError where s has no value.
    t0, t1 : float

    Attributes
    ----------
    gap : float
        The longest time between two values of s: a shorter pulse may have been missed.
    """

    def __init__(self, scale: Callable[[float], float], t0: float, t1: float):
        self.scale, self.end, self.span = scale, t1, t1 - t0
        ends = t0 + self.span * np.arange(PANELS + 1) / PANELS
        ends[-1] = t1
        self.gap = float(np.diff(NODES).max()) * 0.5 * self.span / PANELS
        self.waiting = list(zip(ends[:-1].tolist(), ends[1:].tolist()))[::-1]
        self.starts: list[float] = []
        self.panels: list[tuple[float, list[float], float]] = []
        self.failure: tuple[float, ConvergenceError] | None = None
        # The end of the last panel looked at, and s there.
        self.last_end = (math.nan, math.nan)

    def elapsed(self, t: float, dt: float) -> float:
        """Return the integral of s from t to t + dt."""
        over = t + dt - self.end
        if over > 0 and over > SHORTEST * self.span:
            # Beyond the span s stays what it is at the end.
            return self.elapsed(t, self.end - t) + over * self.scale(self.end)
        self._reach(t + dt)
        first, last = (max(0, bisect_right(self.starts, time) - 1) for time in (t, t + dt))
        if first == last:
            start = self.starts[first]
            if dt < SHORT * self.panels[first][2]:
                return dt * self.scale(min(t + 0.5 * dt, self.end))
            return self._part(first, t + dt - start) - self._part(first, t - start)
        total = self.panels[last][0] - self.panels[first + 1][0]
        whole = self.panels[first + 1][0] - self.panels[first][0]
        return (whole - self._part(first, t - self.starts[first])) + total + self._part(
            last, t + dt - self.starts[last])

    def _part(self, k: int, length: float) -> float:
        """Return the integral over the first part of a panel."""
        _, powers, width = self.panels[k]
        x, total = 2.0 * length / width - 1.0, 0.0
        for power in powers:
            total = total * x + power
        return 0.5 * width * total

    def _reach(self, t: float) -> None:
        """Form the integral up to a time."""
        while self.waiting and (not self.starts or self.starts[-1] + self.panels[-1][2] < t):
            a, b = self.waiting[-1]
            if self.failure is not None and a >= self.failure[0]:
                break
            self.waiting.pop()
            self._add(a, b)
        if self.failure is not None and t > self.failure[0]:
            raise self.failure[1]

    def _value(self, t: float, guess: float) -> float:
        """Return s at the end of a panel; a guess where it has no value there, as where it is 0 at a single time."""
        try:
            return self.scale(t)
        except ConvergenceError:
            return guess

    def _add(self, a: float, b: float) -> None:
        half = 0.5 * (b - a)
        try:
            values = np.array([self.scale(float(t)) for t in a + half * (1.0 + NODES)])
        except ConvergenceError as error:
            if 2.0 * half > FAILING * self.span:
                self.waiting += [(a + half, b), (a, a + half)]
                return
            self.failure = a, error
            self.waiting.append((a, b))
            return
        c = COEFFICIENTS @ values
        first, last = float(c[::2].sum() - c[1::2].sum()), float(c.sum())
        begin, end = self.last_end[1] if self.last_end[0] == a else self._value(a, first), self._value(b, last)
        outside, largest = abs(last - end) + abs(first - begin), max(begin, end, float(values.max()))
        missed = 2.0 * half * (abs(c[6]) + abs(c[7]) + OUTSIDE * outside) / (self.span * largest)
        allowed = EXACT if len(self.starts) < FEW else ENOUGH if len(self.starts) < MANY else 1.0
        if missed > allowed and 2.0 * half > SHORTEST * self.span and a < a + half < b:
            self.waiting += [(a + half, b), (a, a + half)]
            return
        self.last_end = b, end
        # At x = 1 a polynomial is the sum of its powers.
        done = self.panels[-1][0] + 0.5 * self.panels[-1][2] * sum(self.panels[-1][1]) if self.panels else 0.0
        self.starts.append(a)
        self.panels.append((done, (INTEGRALS @ values)[::-1].tolist(), b - a))
