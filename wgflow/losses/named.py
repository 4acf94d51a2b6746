r"""The losses that have names. With the margin :math:`m = y f` of a label :math:`y = \pm 1`:

==============  ==============================================  =============================================
loss            :math:`l(y, f)`                                 :math:`l^*(y, g)`, p = - y g
==============  ==============================================  =============================================
Square          :math:`(y - f)^2 / 2`                           :math:`g y + g^2 / 2`
Huber           the same to :math:`|y - f| = \delta`, then      the same for :math:`|g| \le \delta`
                :math:`\delta |y - f| - \delta^2 / 2`
Logistic        :math:`\log(1 + e^{-m})`                        :math:`p \log p + (1 - p) \log(1 - p)`
Exponential     :math:`e^{-m}`                                  :math:`p \log p - p`
SmoothHinge     :math:`0;\ (1 - m)^2 / 2 w;\ 1 - m - w/2`       :math:`- p + w p^2 / 2` for p in [0, 1]
==============  ==============================================  =============================================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, expit

from wgflow.checks import check_positive

from .base import FloatArray, KernelLoss, Loss

__all__ = ["Exponential", "Huber", "Logistic", "SmoothHinge", "Square"]


def _pair(y: ArrayLike, f: ArrayLike) -> tuple[FloatArray, FloatArray]:
    first, second = np.broadcast_arrays(np.asarray(y, dtype=np.float64), np.asarray(f, dtype=np.float64))
    return first, second


class Square(Loss):
    r"""The square loss :math:`l = (y - f)^2 / 2`, so that the mean loss is half the risk :math:`E (y - f)^2`.

    Examples
    --------
    >>> float(Square().value(1.0, 3.0))
    2.0
    """

    def value(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return 0.5 * (y - f) ** 2

    def derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return f - y

    def second_derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        return np.ones(_pair(y, f)[0].shape)

    def conjugate(self, y: ArrayLike, g: ArrayLike) -> FloatArray:
        y, g = _pair(y, g)
        return g * y + 0.5 * g * g

    def kernel_arguments(self) -> KernelLoss:
        return KernelLoss(0, 1.0)


class Huber(Loss):
    r"""Huber's loss: the square loss up to :math:`|y - f| = \delta`, and :math:`\delta |y - f| - \delta^2/2` beyond.

    Parameters
    ----------
    delta : float
        Positive.

    References
    ----------
    P. J. Huber, Robust estimation of a location parameter, Ann. Math. Statist. 35 (1964).

    Examples
    --------
    >>> float(Huber(1.0).value(0.0, 3.0))
    2.5
    """

    def __init__(self, delta: float = 1.0):
        self.delta = check_positive("delta", delta)

    def value(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        gap = np.abs(y - f)
        near = np.minimum(gap, self.delta)
        return 0.5 * near * near + self.delta * (gap - near)

    def derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return np.clip(f - y, -self.delta, self.delta)

    def second_derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return (np.abs(f - y) <= self.delta).astype(np.float64)

    def conjugate(self, y: ArrayLike, g: ArrayLike) -> FloatArray:
        y, g = _pair(y, g)
        return np.where(np.abs(g) <= self.delta, g * y + 0.5 * g * g, np.inf)

    def kernel_arguments(self) -> KernelLoss:
        return KernelLoss(3, self.delta)

    def __repr__(self) -> str:
        return f"Huber({self.delta:g})"


class _MarginLoss(Loss):
    """A loss of the margin y f of labels -1 and 1; a subclass gives it and its derivatives as functions of that."""

    classifies = True

    def of_margin(self, m: FloatArray, order: int) -> FloatArray:
        """Return the loss of a margin, or a derivative of order 1 or 2."""
        raise NotImplementedError

    def dual_cost(self, p: FloatArray) -> FloatArray:
        """Return the conjugate at p = - y g."""
        raise NotImplementedError

    def value(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return self.of_margin(y * f, 0)

    def derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return y * self.of_margin(y * f, 1)

    def second_derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        y, f = _pair(y, f)
        return y * y * self.of_margin(y * f, 2)

    def conjugate(self, y: ArrayLike, g: ArrayLike) -> FloatArray:
        y, g = _pair(y, g)
        return self.dual_cost(-y * g)


class Logistic(_MarginLoss):
    r"""The logistic loss :math:`l = \log(1 + e^{-y f})` of labels -1 and 1.

    Formed without overflow at any margin: :math:`l = \max(-m, 0) + \log(1 + e^{-|m|})`.

    Examples
    --------
    >>> [f"{value:.6g}" for value in Logistic().value(1.0, [-1000.0, 0.0, 1000.0])]
    ['1000', '0.693147', '0']
    """

    def of_margin(self, m: FloatArray, order: int) -> FloatArray:
        if order == 0:
            return np.logaddexp(0.0, -m)
        return -expit(-m) if order == 1 else expit(m) * expit(-m)

    def dual_cost(self, p: FloatArray) -> FloatArray:
        inside = (p >= 0.0) & (p <= 1.0)
        p = np.clip(p, 0.0, 1.0)
        return np.where(inside, -entr(p) - entr(1.0 - p), np.inf)

    def kernel_arguments(self) -> KernelLoss:
        return KernelLoss(1, 1.0)


class Exponential(_MarginLoss):
    r"""The exponential loss :math:`l = e^{-y f}` of labels -1 and 1; infinite at margins below -709, as floats are.

    Examples
    --------
    >>> float(Exponential().value(1.0, 0.0))
    1.0
    """

    def of_margin(self, m: FloatArray, order: int) -> FloatArray:
        with np.errstate(over="ignore"):
            value = np.exp(-m)
        return -value if order == 1 else value

    def dual_cost(self, p: FloatArray) -> FloatArray:
        inside = p >= 0.0
        p = np.maximum(p, 0.0)
        return np.where(inside, -entr(p) - p, np.inf)

    def kernel_arguments(self) -> KernelLoss:
        return KernelLoss(2, 1.0)


class SmoothHinge(_MarginLoss):
    r"""The hinge loss max(0, 1 - m) of the margin m = y f with its corner rounded over a width w.

    .. math:: l = 0 \ (m \ge 1), \qquad \frac{(1 - m)^2}{2 w} \ (1 - w \le m \le 1), \qquad
              1 - m - \frac w2 \ (m \le 1 - w).

    Parameters
    ----------
    width : float
        w, positive; 1 by default. As w falls to 0 it becomes the hinge loss.

    References
    ----------
    S. Shalev-Shwartz and T. Zhang, Stochastic dual coordinate ascent methods for regularized loss minimization, J.
    Mach. Learn. Res. 14 (2013).

    Examples
    --------
    >>> [float(value) for value in SmoothHinge().value(1.0, [-1.0, 0.5, 2.0])]
    [1.5, 0.125, 0.0]
    """

    def __init__(self, width: float = 1.0):
        self.width = check_positive("width", width)

    def of_margin(self, m: FloatArray, order: int) -> FloatArray:
        short = np.maximum(1.0 - m, 0.0)
        near = np.minimum(short, self.width)
        if order == 0:
            return 0.5 * near * near / self.width + (short - near)
        return -near / self.width if order == 1 else ((m < 1.0) & (m > 1.0 - self.width)) / self.width

    def dual_cost(self, p: FloatArray) -> FloatArray:
        return np.where((p >= 0.0) & (p <= 1.0), -p + 0.5 * self.width * p * p, np.inf)

    def kernel_arguments(self) -> KernelLoss:
        return KernelLoss(4, self.width)

    def __repr__(self) -> str:
        return f"SmoothHinge({self.width:g})"
