r"""The dual of a KL-regularized square loss: a concave problem in as many unknowns as there are samples.

With :math:`f_k(p) = \alpha \int u\,h(w, x_k)\,p` and :math:`p_0 = N(0, \sigma_u^2) \otimes N(0, \sigma_w^2 I)`,

.. math::
    \min_p \frac1n |f(p) - y|^2 + \lambda\,KL(p \,|\, p_0)
    = \max_\nu -\frac n4 |\nu|^2 - \nu \cdot y - \lambda \log E_{p_0(w)}\, e^{s(w)^2/2}, \qquad
    s(w) = \frac{\alpha \sigma_u}{\lambda}\,\nu \cdot h(w),

since the square is :math:`\max_\nu \nu \cdot (f - y) - n |\nu|^2/4` and the least of
:math:`\nu \cdot f(p) + \lambda KL` is minus lambda times the logarithm of the partition function, in which the normal
u is integrated out. The law that attains it is

.. math:: p_\nu \propto p_0\,e^{-\alpha u\,\nu \cdot h(w)/\lambda}: \qquad
          q(w) \propto p_0(w)\,e^{s^2/2}, \quad u \,|\, w \sim N(-\sigma_u s(w), \sigma_u^2),

so that :math:`f = -\alpha \sigma_u E_q\,s h` and :math:`KL = E_q s^2 - \log E e^{s^2/2}`. Primal less dual at
:math:`\nu` is :math:`|f - y - n \nu/2|^2/n`, without cancellation, and :math:`\nu = \frac2n (f - y)` at the optimum.

The weights enter by their projections on the span of the inputs. Their normal law is integrated by the trapezoidal rule
on a ball, which converges geometrically for smooth activations; its step is halved until the optimum settles. In more
than 3 dimensions scrambled points take its place (`quasi_random`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from wgflow.activations.base import Activation
from wgflow.errors import ConvergenceError

from ..base import FloatArray

__all__ = ["MAX_RANK", "NormalRule", "RegularizedMinimum", "minimize_dual", "newton", "regularized_minimum",
           "span_of"]

#: Dimensions of the span of the inputs that the rule serves.
MAX_RANK = 3
#: Standard deviations that the rule reaches at first and at most, and the factor in between.
REACH, LONGEST_REACH, LONGER = 8.0, 40.0, 1.5
#: The share of the tilted law beyond the last deviation but one that a rule may have.
OUTER = 1e-12
#: The first step in standard deviations, halved while the points are at most so many numbers.
FIRST_STEP, LARGEST_RULE = 0.4, 6_000_000
#: Change of the optimum between two steps at which it has settled, and that is accepted at the last, relative.
SETTLED, ACCEPTED = 1e-13, 1e-6
#: Newton steps of one problem.
STEPS = 200
#: Root of primal less dual, relative to the labels, at which Newton's method ends; and that is accepted at rounding.
GOAL, ROUNDING = 1e-15, 1e-10


class NormalRule(NamedTuple):
    """A quadrature of the weights' normal law.

    Attributes
    ----------
    outputs : ndarray, shape (n, points)
        h at the points, for each sample.
    slopes : ndarray, shape (n, points)
        The activation's slopes there.
    log_weights : ndarray, shape (points,)
        Logarithms of weights of sum 1.
    outer : ndarray of bool, shape (points,)
        The points in the outermost standard deviation.
    """

    outputs: FloatArray
    slopes: FloatArray
    log_weights: FloatArray
    outer: np.ndarray


class DualPoint(NamedTuple):
    """The dual at some multipliers: minus its value, minus its gradient, the field s and the tilted weights."""

    value: float
    gradient: FloatArray
    tilt: FloatArray
    weights: FloatArray
    log_partition: float


@dataclass(frozen=True)
class RegularizedMinimum:
    r"""The minimizer of :math:`Q = \frac1n |f - y|^2 + \lambda\,KL(p\,|\,p_0)`, from its dual.

    Attributes
    ----------
    value, risk, divergence : float
        Q, the mean square L and KL at the minimizer.
    chi_square : float
        :math:`\chi^2(p\,|\,p_0) = E_{p_0} (dp/dp_0)^2 - 1`; infinite where it exceeds all numbers.
    multipliers : ndarray, shape (n,)
        :math:`\nu = \frac2n (f - y)`; the law is :math:`p_0\,e^{-\alpha u\,\nu \cdot h(w)/\lambda}` over its integral.
    output : ndarray, shape (n,)
        f at the samples.
    kernel : ndarray, shape (n, n)
        The tangent kernel of the minimizer.
    gap : float
        Primal less dual, which bounds the distance of ``value`` from the minimum.
    quadrature_error : float
        By how much the value changed when the step of the quadrature was last halved; where the inputs span more than
        3 dimensions, the standard error of the value over scrambled points.
    tilt : float
        The largest :math:`|s(w)|` within 6 standard deviations of the weights: the mean of u given w is
        :math:`-\sigma_u s`.
    """

    value: float
    risk: float
    divergence: float
    chi_square: float
    multipliers: FloatArray
    output: FloatArray
    kernel: FloatArray = field(repr=False)
    gap: float = field(repr=False)
    quadrature_error: float = field(repr=False)
    tilt: float = field(repr=False)

    def __repr__(self) -> str:
        return (f"RegularizedMinimum({len(self.output)} samples: value {self.value:.6g}, risk {self.risk:.6g}, KL "
                f"{self.divergence:.6g}, gap {self.gap:.1e})")


def normal_rule(activation: Activation, x: FloatArray, scale: float, step: float, reach: float) -> NormalRule:
    """Return the trapezoidal rule for w ~ N(0, scale^2 I), seen on the span of the inputs x (n, d)."""
    basis = span_of(x)
    count = math.floor(reach / step)
    axis = step * np.arange(-count, count + 1)
    mesh = np.meshgrid(*[axis] * basis.shape[1], indexing="ij")
    squares = sum(np.square(c) for c in mesh)
    kept = squares <= reach**2
    z = np.stack([c[kept] for c in mesh])
    logs = -0.5 * squares[kept]
    arguments = scale * (basis @ z)
    return NormalRule(activation.value(arguments), activation.derivative(arguments),
                      logs - np.log(np.sum(np.exp(logs))), squares[kept] >= (reach - 1.0) ** 2)


def span_of(x: FloatArray) -> FloatArray:
    """Return the inputs in an orthonormal basis of their span, (n, rank); one column of zeros if all vanish."""
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    rank = max(1, int(np.sum(sizes > sizes[0] * max(x.shape) * np.finfo(float).eps)))
    return left[:, :rank] * sizes[:rank]


def minimize_dual(activation: Activation, x: FloatArray, y: FloatArray, alpha: float, regularization: float,
                  readout_scale: float, weight_scale: float) -> tuple[RegularizedMinimum, NormalRule]:
    """Return the minimum and the quadrature that it was found with, for inputs that span up to 3 dimensions.

    Raises
    ------
    ConvergenceError
        If the partition function has no value (the activation grows, and alpha / lambda is too large for it), Newton's
        method does not converge, or the quadrature does not settle.
    """
    rank, reach, step = span_of(x).shape[1], REACH, FIRST_STEP
    strength = alpha * readout_scale / regularization
    found: tuple[RegularizedMinimum, NormalRule] | None = None
    nu: FloatArray | None = None
    while True:
        rule = normal_rule(activation, x, weight_scale, step, reach)
        nu, point = newton(rule, y, regularization, strength, nu)
        outer = float(np.sum(point.weights[rule.outer]))
        if outer > OUTER:
            reach, found = LONGER * reach, None
            if reach > LONGEST_REACH:
                raise ConvergenceError(
                    f"alpha={alpha:g} and regularization={regularization:g}: the law of the weights at the minimum "
                    f"has a part {outer:.1e} at {reach / LONGER:.0f} standard deviations. With an activation that "
                    "grows the partition function may have no value; take a smaller alpha, a larger regularization, "
                    "or a bounded activation", reason="domain")
            continue
        new = regularized_minimum(rule, x, y, nu, point, regularization, readout_scale, strength, math.inf)
        if found is not None:
            new = replace(new, quadrature_error=abs(new.value - found[0].value))
        found = new, rule
        size = float(np.mean(y**2)) or 1.0
        points = math.pi / 6.0 * (4.0 * reach / step) ** rank * len(y)  # of the next rule, in a ball
        if new.quadrature_error <= SETTLED * size:
            return found
        if points > LARGEST_RULE:
            break
        step *= 0.5
    if not new.quadrature_error <= ACCEPTED * size:
        raise ConvergenceError(f"the average over the weights changed by {new.quadrature_error:.1e} when its step was "
                               f"last halved, to {step:g} standard deviations; take smaller inputs or fewer of them",
                               reason="tolerance")
    return found


def dual_point(rule: NormalRule, y: FloatArray, regularization: float, strength: float, nu: FloatArray) -> DualPoint:
    """Return minus the dual function and its gradient."""
    s = strength * (nu @ rule.outputs)
    exponent = rule.log_weights + 0.5 * s * s
    top = float(np.max(exponent))
    weights = np.exp(exponent - top)
    total = float(np.sum(weights))
    weights /= total
    log_partition = top + math.log(total)
    value = 0.25 * y.size * float(nu @ nu) + float(nu @ y) + regularization * log_partition
    gradient = 0.5 * y.size * nu + y + regularization * strength * (rule.outputs @ (weights * s))
    return DualPoint(value, gradient, s, weights, log_partition)


def newton(rule: NormalRule, y: FloatArray, regularization: float, strength: float,
           start: FloatArray | None) -> tuple[FloatArray, DualPoint]:
    """Minimize minus the dual function, which is strongly convex, by damped Newton steps."""
    n, size = y.size, math.sqrt(float(np.mean(y**2))) or 1.0
    curvature = regularization * strength**2
    nu: FloatArray = np.zeros(n) if start is None else start
    if start is None:  # ridge regression with the kernel of the read-outs, the limit of large alpha
        kernel = (rule.outputs * np.exp(rule.log_weights)) @ rule.outputs.T
        nu[:] = np.linalg.solve(0.5 * n * np.eye(n) + curvature * kernel, -y)
    point = dual_point(rule, y, regularization, strength, nu)
    for _ in range(STEPS):
        miss = math.sqrt(float(point.gradient @ point.gradient) / n)
        if miss <= GOAL * size:
            return nu, point
        first = rule.outputs @ (point.weights * point.tilt)
        second = (rule.outputs * (point.weights * (1.0 + point.tilt**2))) @ rule.outputs.T
        hessian = 0.5 * n * np.eye(n) + curvature * (second - np.outer(first, first))
        move: FloatArray = np.linalg.solve(hessian, -point.gradient).astype(float)
        slope, length = float(point.gradient @ move), 1.0
        while length > 1e-12:
            trial = dual_point(rule, y, regularization, strength, nu + length * move)
            # Near the minimum differences of values are rounding, and the gradient decides.
            better = np.linalg.norm(trial.gradient) < 0.5 * np.linalg.norm(point.gradient)
            if miss <= ROUNDING * size and not better:
                return nu, point
            if better or trial.value <= point.value + 1e-4 * length * slope:
                break
            length *= 0.5
        else:
            raise ConvergenceError(f"Newton's method on the dual stopped with |f - y - n nu/2| = {miss:.1e}; take a "
                                   "larger regularization", reason="tolerance")
        nu, point = nu + length * move, trial
    miss = math.sqrt(float(point.gradient @ point.gradient) / n)
    if miss <= ROUNDING * size:
        return nu, point
    raise ConvergenceError(f"Newton's method on the dual took {STEPS} steps and reached {miss:.1e}; take a larger "
                           "regularization", reason="max steps")


def regularized_minimum(rule: NormalRule, x: FloatArray, y: FloatArray, nu: FloatArray, point: DualPoint,
                        regularization: float, readout_scale: float, strength: float,
                        error: float) -> RegularizedMinimum:
    """Return the minimum at multipliers, of which the quadrature has an error."""
    n, s, q = y.size, point.tilt, point.weights
    output = -regularization * strength * (rule.outputs @ (q * s))
    risk = float(np.mean((output - y) ** 2))
    divergence = float(np.sum(q * s * s)) - point.log_partition
    value = risk + regularization * divergence
    # E_{p_0} (p/p_0)^2 = E_{p_0(w)} e^{2 s^2} / Z^2.
    exponent = rule.log_weights + 2.0 * s * s - 2.0 * point.log_partition
    top = float(np.max(exponent))
    twice = np.exp(exponent - top)
    held = float(np.sum(twice[rule.outer])) <= OUTER * float(np.sum(twice))
    log_second = top + math.log(float(np.sum(twice)))
    chi_square = math.expm1(log_second) if held and log_second < 700.0 else math.inf
    kernel = (rule.outputs * q) @ rule.outputs.T
    kernel += readout_scale**2 * ((rule.slopes * (q * (1.0 + s * s))) @ rule.slopes.T) * (x @ x.T)
    inside = rule.log_weights >= np.max(rule.log_weights) - 18.0
    return RegularizedMinimum(value, risk, divergence, chi_square, nu, output, 0.5 * (kernel + kernel.T),
                              float(point.gradient @ point.gradient) / n, error,
                              float(np.max(np.abs(s[inside]))))
