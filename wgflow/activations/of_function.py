"""A user's own smooth activation: a function, its averages by quadrature, its derivatives given or by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from wgflow.checks import call_user, check_positive, kind_of, real_array
from wgflow.errors import InvalidInput

from .base import FloatArray, KernelActivation
from .smooth import SmoothActivation

__all__ = ["Smooth"]

#: Points on each side of a central difference: of order 16.
_SIDE = 8
#: Steps that are tried; the largest serves functions that bend over about 1, the others steeper ones.
_STEPS = 0.1 * 0.5 ** np.arange(8)
#: Where the steps are compared, and by how much two may differ, relative to the largest derivative.
_PROBES = np.linspace(-16.0, 16.0, 4001)
_ALLOWED = 1e-7
#: Nodes and reach of the table for compiled loops, of cubics with the values and slopes of the function.
_NODES, _REACH = 1 << 13, 64.0
#: The table goes on by straight lines where the function does, up to this part of its slopes.
_STRAIGHT = 1e-9


def _weights() -> tuple[FloatArray, FloatArray]:
    r"""Return c_j, of :math:`\sum_j c_j (f(t+jh) - f(t-jh)) / h = f'(t)` and of the same for even parts and f''.

    With :math:`c_j = (-1)^{j+1} m!^2 / (j\,(m-j)!\,(m+j)!)` the error of the first is
    :math:`m!^2 h^{2m} f^{(2m+1)} / (2m+1)!`; the second has :math:`2 c_j / j`.
    """
    j = np.arange(1, _SIDE + 1)
    c = np.array([(-1) ** (k + 1) * math.factorial(_SIDE) ** 2
                  / (k * math.factorial(_SIDE - k) * math.factorial(_SIDE + k)) for k in j.tolist()])
    return c, 2.0 * c / j


_FIRST, _SECOND = _weights()


class Smooth(SmoothActivation):
    r"""An activation given by a smooth function :math:`\sigma` of yours.

    All averages (V, U, risks) are taken from :math:`\sigma` by quadrature to 1e-13 wherever no derivative is needed.
    Derivatives that are not given are central differences of order 16, whose step is chosen by comparing it with its
    half: typically right to 1e-13 (first) and 1e-11 (second). Compiled loops (SGD) take a table of cubics with the
    values and slopes of :math:`\sigma` at 8,192 points between -64 and 64, right to about 3e-11 times
    :math:`\max|\sigma''''|`, and beyond it a straight line; where :math:`\sigma` does not go on straight, a run that
    gets there ends with an error.

    Parameters
    ----------
    function : callable
        :math:`\sigma` of an array, with values of its shape; smooth everywhere. A function with kinks is given by
        `PiecewiseLinear`.
    derivative : callable, optional
        :math:`\sigma'` of an array.
    length_scale : float
        Distance from 0 over which the function bends.

    Raises
    ------
    InvalidInput
        If the values have another shape, are not finite, or not smooth enough to be differentiated; if the derivative
        is not that of the function.

    Examples
    --------
    >>> import numpy as np
    >>> import wgflow as wg
    >>> swish = wg.activations.Smooth(lambda t: t / (1 + np.exp(-t)))
    >>> print(f"{swish(1.0):.4f} {swish.derivative(1.0):.4f} {swish.gaussian_mean(1.0):.4f}")
    0.7311 0.9277 0.2066
    """

    def __init__(self, function: Callable[[Any], Any], derivative: Callable[[Any], Any] | None = None, *,
                 length_scale: float = 1.0):
        self.function, self._given = function, derivative
        self._length = check_positive("length_scale", length_scale)
        # By the order of the derivative: what values may be off.
        self._noise = [0.0, 0.0, 0.0]
        self._steps = [0.0, 0.0, 0.0]
        self._values(np.array([-1.0, 0.0, 2.0]), "function")
        if derivative is None:
            self._choose_step(1)
            self._choose_step(2)
        else:
            self._check_derivative()
            self._choose_step(2)

    @property
    def length_scale(self) -> float:
        return self._length

    def kernel_arguments(self) -> KernelActivation:
        return self._table

    @cached_property
    def _table(self) -> KernelActivation:
        t = np.linspace(-_REACH, _REACH, _NODES)
        values, slopes = self._evaluate(t, 0), self._evaluate(t, 1)
        ends = []
        for place, side in ((0, -1.0), (-1, 1.0)):
            beyond = t[place] + side * np.array([1.0, 8.0, 64.0])
            line = values[place] + slopes[place] * (beyond - t[place])
            with np.errstate(all="ignore"):
                off = np.abs(np.asarray(self.function(beyond), dtype=float) - line).max()
            ends.append(slopes[place] if off <= _STRAIGHT * max(1.0, np.abs(line).max()) else math.nan)
        return KernelActivation(5, np.array([-_REACH, _REACH, *ends]), slopes, values)

    def _values(self, t: FloatArray, what: str) -> FloatArray:
        """Return a function's values, looked at."""
        function = self.function if what == "function" else self._given
        found = real_array(call_user(function, (t,), f"{what} of Smooth"), f"what {what} of Smooth returns")
        if found.shape != t.shape:
            raise InvalidInput(f"{what} of Smooth returned shape {found.shape} for an array of shape {t.shape}; it "
                               "must work on arrays: np.vectorize makes such a function of one of numbers")
        if not np.isfinite(found).all():
            worst = t[~np.isfinite(found)].flat[0]
            raise InvalidInput(f"{what} of Smooth is {found[~np.isfinite(found)].flat[0]} at {worst:g}; it must be "
                               "finite: write it so that nothing overflows, such as np.logaddexp(0, t)")
        return found

    def _evaluate(self, t: FloatArray, order: int) -> FloatArray:
        if order == 0 or (order == 1 and self._given is not None):
            return self._values(t, "function" if order == 0 else "derivative")
        return self._difference(t, order, self._steps[order])

    def _difference(self, t: FloatArray, order: int, h: float) -> FloatArray:
        """Return a derivative as a central difference: of the function, or of its derivative if that is given."""
        what = "function" if self._given is None else "derivative"
        # Sums of differences of neighbors first: less is lost than by forming each term by itself.
        total = np.zeros(np.shape(t))
        if order == 1 or self._given is not None:
            for k in range(_SIDE, 0, -1):
                total += _FIRST[k - 1] * (self._values(t + k * h, what) - self._values(t - k * h, what))
            return total / h
        middle = self._values(t, what)
        for k in range(_SIDE, 0, -1):
            after, before = self._values(t + k * h, what), self._values(t - k * h, what)
            total += _SECOND[k - 1] * ((after - middle) - (middle - before))
        return total / h**2

    def _choose_step(self, order: int) -> None:
        """Choose the step whose difference is closest to that of the next smaller one, and note how close that is."""
        found = [self._difference(_PROBES, order, h) for h in _STEPS]
        size = max(1.0, float(np.abs(found[-1]).max()))
        gaps = [float(np.abs(a - b).max()) / size for a, b in pairwise(found)]
        best = int(np.argmin(gaps))
        if not gaps[best] <= _ALLOWED:
            place = _PROBES[int(np.abs(found[best] - found[best + 1]).argmax())]
            of, given = ("function", self.function) if self._given is None else ("derivative", self._given)
            raise InvalidInput(f"{of}={given!r} of Smooth is not smooth near {place:.3g}: its differences of two "
                               f"steps differ by {gaps[best]:.1e}; give a "
                               "function with kinks as a table, PiecewiseLinear(t, sigma(t), left_slope=, "
                               "right_slope=), and of a steep one the derivative too")
        self._steps[order], self._noise[order] = float(_STEPS[best]), gaps[best] * size

    def _check_derivative(self) -> None:
        """Refuse a derivative that is not that of the function, by the integral of it over each interval of probes."""
        nodes, weights = np.polynomial.legendre.leggauss(8)
        half = 0.5 * (_PROBES[1] - _PROBES[0])
        middles = 0.5 * (_PROBES[1:] + _PROBES[:-1])
        change = np.diff(self._values(_PROBES, "function"))
        integral = half * (self._values(middles[:, None] + half * nodes, "derivative") @ weights)
        off = np.abs(integral - change)
        if not off.max() <= 1e-6 * half * max(1.0, np.abs(change).max() / half):
            k = int(off.argmax())
            raise InvalidInput(f"derivative={self._given!r} of Smooth is not that of the function: near "
                               f"{middles[k]:.3g} it is {integral[k] / (2 * half):.6g} on average, and the function "
                               f"rises by {change[k] / (2 * half):.6g}; leave derivative out to have it formed")

    def _tolerance(self, order: int, reach: float) -> float:
        # Where t is large the numbers that are subtracted are rounded more.
        return super()._tolerance(order, reach) + 10.0 * self._noise[order] * max(1.0, reach)

    def _key(self) -> tuple:
        return ("function", self.function, self._given, self._length)

    def __repr__(self) -> str:
        more = "" if self._given is None else f", {_name(self._given)}"
        return f"Smooth({_name(self.function)}{more})"


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", kind_of(function)))
