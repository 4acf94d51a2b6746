r"""Smooth functions of moments, their discrete gradients, and energies made of them on one grid.

For the step of a scheme from moments z to z' a discrete gradient is any :math:`\bar g` with

.. math:: \Phi(z') - \Phi(z) = \bar g \cdot (z' - z) .

A step that lowers the energy with the frozen potential :math:`\sum_k \bar g_k F_k` then lowers the energy itself, as
the average :math:`U (\rho + \rho')/2` does for an interaction. Here :math:`\bar g` is the mean of the gradient along
the segment, by Gauss quadrature, plus what the quadrature misses, along the segment (Gonzalez). For quadratic
:math:`\Phi` it is the gradient in the middle.

References
----------
O. Gonzalez, Time integration and discrete Hamiltonian systems, J. Nonlinear Sci. 6 (1996) 449-467.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import real_array
from wgflow.compiled.lowrank import combine_rows, rows_dot
from wgflow.errors import InvalidInput, InvalidType, WGFlowError

__all__ = ["MomentFunction", "MomentsOnGrid"]

Array = NDArray[np.float64]
#: Gauss points and weights on [0, 1].
NODES = 0.5 + 0.5 * np.array([-np.sqrt(0.6), 0.0, np.sqrt(0.6)])
WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0
#: What a discrete gradient misses below this part of the values is their rounding.
ROUNDING = 16 * np.finfo(float).eps
#: Parts of the way over which values are differenced; where there is a kink on one of them the others decide.
DIFFERENCES = (1e-3, 1e-4, 1e-5)
#: Part of its size by which a difference may miss the gradient.
SAME_SLOPE = 1e-4
#: Directions, of random signs, along which a gradient is checked.
DIRECTIONS = 4
#: Length of the differences that stand for a Hessian, relative to 1 and the moment.
HESSIAN_STEP = 1e-5


class MomentFunction:
    r"""A function :math:`\Phi(z)` of k moments by a user's functions, whose values are checked.

    Parameters
    ----------
    value : callable
        Of an array (k,), returns a number.
    gradient : callable
        Returns shape (k,).
    hessian : callable, optional
        Returns shape (k, k), or (k,) for a diagonal matrix; by default differences of the gradient are taken.
    convex : bool
        Whether it is convex.
    """

    def __init__(self, value: Callable[..., Any], gradient: Callable[..., Any], hessian: Callable[..., Any] | None,
                 convex: bool):
        for function, name in ((value, "value"), (gradient, "gradient"), (hessian, "hessian")):
            if not (callable(function) or (function is None and name == "hessian")):
                raise InvalidType(f"{name} must be a function of the moments, got {type(function).__name__}")
        self._value, self._gradient, self._hessian, self.convex = value, gradient, hessian, convex

    def value(self, z: Array) -> float:
        """Return the value; infinite or NaN values pass, for a step that leads there is refused."""
        found = _called(self._value, z, "value")
        if found.size != 1:
            raise InvalidInput(f"value returned shape {found.shape} for moments of shape {z.shape}; need one number")
        return float(found.reshape(()))

    def gradient(self, z: Array) -> Array:
        """Return the gradient, shape (k,)."""
        found = _called(self._gradient, z, "gradient")
        if found.shape != z.shape:
            raise InvalidInput(f"gradient returned shape {found.shape} for moments of shape {z.shape}; need one "
                               "derivative for each moment")
        return found

    def hessian(self, z: Array) -> Array:
        """Return the Hessian, shape (k, k)."""
        if self._hessian is None:
            steps = HESSIAN_STEP * np.maximum(1.0, np.abs(z))
            rows = [(self.gradient(z + step) - self.gradient(z - step)) / (2.0 * size)
                    for step, size in zip(np.diag(steps), steps)]
            found = np.array(rows).reshape(z.size, z.size)
            return 0.5 * (found + found.T)
        found = _called(self._hessian, z, "hessian")
        if found.shape == z.shape:
            return np.diag(found)
        if found.shape != (z.size, z.size):
            raise InvalidInput(f"hessian returned shape {found.shape} for {z.size} moments; need ({z.size},) for a "
                               f"diagonal matrix or ({z.size}, {z.size})")
        return found

    def discrete_gradient(self, before: Array, after: Array) -> Array:
        """Return the discrete gradient from moments to others."""
        change = after - before
        mean = sum((w * self.gradient(before + s * change) for w, s in zip(WEIGHTS, NODES)), np.zeros(change.shape))
        first, last, length = self.value(before), self.value(after), float(change @ change)
        missed = last - first - float(mean @ change)
        size = abs(first) + abs(last) + float(np.abs(mean * change).sum())
        return mean + (missed / length) * change if length > 0 and abs(missed) > ROUNDING * size else mean

    def check(self, first: Array, second: Array) -> None:
        """Refuse a gradient that is not that of the value, and a function that is not as convex as it is said to be.

        Both are looked at around moments, over the way to others.
        """
        rng, value, slope = np.random.default_rng(70331), self.value(first), self.gradient(first)
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            raise InvalidInput(f"value is {value:g} and gradient {slope} at the moments {first}; both must be finite")
        way = second - first
        for k in range(DIRECTIONS):
            change = way if k == 0 else np.abs(way) * rng.choice([-1.0, 1.0], way.shape)
            told = float(slope @ change)
            quotients = [(self.value(first + s * change) - self.value(first - s * change)) / (2 * s)
                         for s in DIFFERENCES]
            size = float(np.abs(slope * change).sum()) + ROUNDING * (1.0 + abs(value)) / DIFFERENCES[0]
            if not min(abs(q - told) for q in quotients) <= SAME_SLOPE * size + ROUNDING * abs(value) / DIFFERENCES[1]:
                raise InvalidInput(f"gradient: along {change} the value changes at the rate {quotients[1]:.6g} at the "
                                   f"moments {first}, the gradient says {told:.6g}; it must be the derivative of value")
            if self.convex:
                after = self.gradient(first + change)
                growth = float((after - slope) @ change)
                if growth < -ROUNDING * float(((np.abs(after) + np.abs(slope)) * np.abs(change)).sum()):
                    raise InvalidInput(f"convex=True: from the moments {first} to {first + change} the slope falls, by "
                                       f"{-growth:.3g}; say convex=False, with which there is no duality gap")


def _called(function: Callable[..., Any], z: Array, what: str) -> Array:
    """Call a user's function of moments; overflow is left to the checks of its values."""
    try:
        with np.errstate(all="ignore"):
            return real_array(function(z.copy()), what)
    except (WGFlowError, MemoryError):
        raise
    except Exception as error:
        raise InvalidInput(f"{what} raised {type(error).__name__}: {error}; it is called with an array of {z.size} "
                           "moments") from error


class MomentsOnGrid:
    r"""The functional :math:`\Phi(\sum_i F_k(x_i)\,m_i)` of the masses of cells, or at their centers.

    Parameters
    ----------
    features : array, shape (k, cells)
    phi : MomentFunction
    shape : tuple of int
        Of the grid.
    name : str
        The term in messages.
    """

    def __init__(self, features: Array, phi: MomentFunction, shape: tuple[int, ...], name: str):
        self.features, self.phi, self.shape, self.name = features, phi, shape, name

    def moments(self, masses: Array) -> Array:
        """Return the moments, shape (k,)."""
        return rows_dot(self.features, masses.ravel())

    def energy(self, masses: Array) -> float:
        """Return the value at masses."""
        return self.phi.value(self.moments(masses))

    def first_variation(self, masses: Array) -> Array:
        """Return the derivative in each mass, of the grid's shape."""
        return self.combined(self.phi.gradient(self.moments(masses)))

    def discrete_correction(self, before: Array, after: Array) -> Array:
        """Return what a discrete gradient has beyond the mean of the derivatives at two laws, of the grid's shape."""
        first, last = self.moments(before), self.moments(after)
        mean = 0.5 * (self.phi.gradient(first) + self.phi.gradient(last))
        return self.combined(self.phi.discrete_gradient(first, last) - mean)

    def combined(self, g: Array) -> Array:
        """Return sum_k g_k F_k, of the grid's shape."""
        return combine_rows(self.features, g).reshape(self.shape)

    def __repr__(self) -> str:
        return self.name
