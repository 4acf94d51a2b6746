"""Low-rank forms of the kernel between the lengths of two random weights."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import numpy as np

from wgflow.activations.base import Activation
from wgflow.activations.piecewise_linear import PiecewiseLinear
from wgflow.activations.smooth import Polynomial
from wgflow.errors import WGFlowWarning

from ..base import FloatArray
from ..radial_laws import chi_rule, cosine_moments

__all__ = ["HermiteFeatures", "QuadratureFeatures", "choose_features", "tail_at_infinity"]

_SERIES_LIMIT = 40  # terms beyond which the quadrature is shorter
_TAIL_TERMS = 64  # terms computed to bound the tail of the series
_SMOOTH_TAIL_TERMS = 20  # the same where the coefficients come from quadrature, which resolves degrees up to 42
_RULE_LIMIT = 1024  # nodes of the largest quadrature rule tried
_SAMPLES = 48  # radii at which errors are measured


def tail_at_infinity(activation: Activation) -> tuple[Activation, float, float] | None:
    r"""Return what the even part of an activation tends to: (activation, mass, diagonal), or None if not known.

    The features see the even part alone. Where it tends to a constant c, that is returned with ``mass`` 1, and the
    limit of :math:`E\,\sigma(sG)^2`. Where it grows like a power, :math:`a |t|` or :math:`a t^{2m}`, this power is
    returned with ``mass`` 0.
    """
    code, _, slopes, intercepts = activation.kernel_arguments()
    if code == 0:
        growth = 0.5 * float(slopes[-1] - slopes[0])
        if growth == 0.0:
            bounded = slopes[0] == 0.0
            square = 0.5 * float(intercepts[0] ** 2 + intercepts[-1] ** 2) if bounded else math.inf
            return Polynomial([0.5 * float(intercepts[0] + intercepts[-1])]), 1.0, square
        return PiecewiseLinear([0.0], [0.0], -growth, growth), 0.0, math.inf
    if code in (1, 2):
        return Polynomial([0.0]), 1.0, 1.0
    if code == 3:
        even = np.flatnonzero(slopes[2::2])
        if even.size == 0:
            square = math.inf if np.any(slopes[1:]) else float(slopes[0] ** 2)
            return Polynomial(slopes[:1]), 1.0, square
        top = 2 * int(even[-1]) + 2
        return Polynomial(np.where(np.arange(top + 1) == top, slopes[top], 0.0)), 0.0, math.inf
    if code == 4:
        return PiecewiseLinear([0.0], [0.0], -0.5, 0.5), 0.0, math.inf
    return None


class _AtInfinity:
    """The limit at infinity of both forms of the features."""

    activation: Activation

    @property
    def at_infinity(self) -> tuple[FloatArray, float, float] | None:
        """The limit of the features, over their growth if they grow; that of U(r, r); and the mass (see LimitPoint)."""
        tail = tail_at_infinity(self.activation)
        if tail is None:
            return None
        same = copy.copy(self)
        same.activation, mass, diagonal = tail
        return same(np.float64(1.0), 0), diagonal, mass  # type: ignore[operator]


class HermiteFeatures(_AtInfinity):
    r"""The features :math:`\sqrt{M_{2j}/2}\; a_{2j}(\tau_\pm r)`, j = 0, ..., ``terms``; those of + come first."""

    def __init__(self, activation: Activation, deviations: tuple[float, float], d: float, terms: int, error: float):
        self.activation, self.deviations, self.error = activation, deviations, error
        self.degree = 2 * terms
        self.amplitudes = np.sqrt(0.5 * cosine_moments(d, terms))
        self.target = np.zeros(2 * (terms + 1))
        self.target[0], self.target[terms + 1] = math.sqrt(0.5), -math.sqrt(0.5)

    def __call__(self, r: FloatArray, order: int) -> FloatArray:
        column = (-1,) + (1,) * r.ndim
        # Both deviations at once, on an axis of their own.
        tau = np.array(self.deviations).reshape(column)
        scales = np.array([tau**order for tau in self.deviations]).reshape(column)
        found = self.activation.hermite_coefficients(tau * r, self.degree, order)[::2]
        found = scales * self.amplitudes.reshape((-1, 1) + (1,) * r.ndim) * found
        return found.swapaxes(0, 1).reshape((-1, *r.shape))


class QuadratureFeatures(_AtInfinity):
    r"""The features :math:`\sqrt{\omega_m/2}\; E_c\,\sigma(\tau_\pm \chi_m r c)` of a rule for :math:`\chi_d`."""

    def __init__(self, activation: Activation, deviations: tuple[float, float], d: int, nodes: int, error: float,
                 rule: Callable[[int, int], tuple[FloatArray, FloatArray]] = chi_rule):
        self.activation, self.deviations, self.d, self.error = activation, deviations, d, error
        self.nodes, weights = rule(d, nodes)
        self.amplitudes = np.sqrt(0.5 * weights)
        self.target = np.concatenate([self.amplitudes, -self.amplitudes])

    def __call__(self, r: FloatArray, order: int) -> FloatArray:
        column = (-1,) + (1,) * r.ndim
        parts = []
        for tau in self.deviations:
            speed = tau * self.nodes.reshape(column)
            mean = self.activation.sphere_mean(speed * r, self.d, order)
            parts.append(self.amplitudes.reshape(column) * speed**order * mean)
        return np.concatenate(parts)


def choose_features(
    activation: Activation, deviations: tuple[float, float], d: float, r_max: float, tolerance: float
) -> HermiteFeatures | QuadratureFeatures:
    """Return the shorter of the two forms that reproduces the kernel on ``[0, r_max]``.

    The error is relative to ``max(1, max_r U(r, r))``. By the Cauchy-Schwarz inequality the largest error of a cut
    series lies on the diagonal, where it is the sum of the terms left out; these are bounded by the computed ones and
    :math:`M_{2J+2}` times what remains of :math:`E\\,\\sigma^2`.
    """
    if math.isinf(d):
        return HermiteFeatures(activation, deviations, d, 0, 0.0)
    r = np.linspace(0.0, r_max, _SAMPLES + 1)[1:]
    tails, scale = _series_tails(activation, deviations, d, r)
    enough = np.flatnonzero(tails[:_SERIES_LIMIT] <= tolerance * scale)
    if enough.size:
        return HermiteFeatures(activation, deviations, d, int(enough[0]), float(tails[enough[0]] / scale))
    dim, n, error = int(d), 32, math.inf
    kernel = _kernel(QuadratureFeatures(activation, deviations, dim, n, 0.0)(r, 0))
    while error > tolerance and n < _RULE_LIMIT:
        finer = _kernel(QuadratureFeatures(activation, deviations, dim, 2 * n, 0.0)(r, 0))
        error = float(np.max(np.abs(finer - kernel))) / scale
        n, kernel = 2 * n, finer
    if error > tolerance:
        warnings.warn(f"the kernel at d={d} is accurate to {error:.1e}, not to tolerance={tolerance:.1e}, with {n} "
                      f"features a class: an activation with kinks converges slowly in low dimension", WGFlowWarning,
                      stacklevel=3)
    return QuadratureFeatures(activation, deviations, dim, n, error)


def _series_tails(
    activation: Activation, deviations: tuple[float, float], d: float, r: FloatArray
) -> tuple[FloatArray, float]:
    """Return the largest tail over ``r`` of the diagonal series cut after each J, and the scale of the kernel."""
    terms = _SMOOTH_TAIL_TERMS if activation.kernel_arguments().code else _TAIL_TERMS
    moments = cosine_moments(d, terms + 1)
    tails, diagonal = np.zeros((terms + 1, r.size)), np.zeros(r.size)
    for tau in deviations:
        squares = activation.hermite_coefficients(tau * r, 2 * terms) ** 2
        second_moment = activation.pair_expectation(tau * r, tau * r, 1.0)
        remainder = moments[-1] * np.maximum(second_moment - np.sum(squares, axis=0), 0.0)
        weighted = 0.5 * moments[:-1, None] * squares[::2]
        diagonal += np.sum(weighted, axis=0)
        tails += np.cumsum(weighted[::-1], axis=0)[::-1] - weighted + 0.5 * remainder
    return np.max(tails, axis=1), max(1.0, float(np.max(diagonal)))


def _kernel(features: FloatArray) -> FloatArray:
    return np.einsum("ki,kj->ij", features, features)
