r"""The dual of a KL-regularized square loss where the inputs span many dimensions: scrambled points, with an error.

The average :math:`E_{p_0(w)}\,e^{s(w)^2/2}` is taken over 16 independent scramblings of a Sobol set. Of all points
together the dual gives the optimum; each scrambling has an optimum of its own, whose scatter gives the standard error
of their mean. The number of points is doubled while that is worth while.

References
----------
A. B. Owen, Scrambled net variance for integrals of smooth functions, Ann. Statist. 25 (1997) 1541-1562.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from wgflow.activations.base import Activation
from wgflow.errors import ConvergenceError

from ..base import FloatArray
from .duality import LARGEST_RULE, NormalRule, RegularizedMinimum, newton, regularized_minimum

__all__ = ["minimize_scrambled"]

#: Independent scramblings, and the binary logarithm of the points of each at first.
SCRAMBLINGS, FIRST = 16, 8
#: Standard error, relative to the labels' mean square, at which points are not doubled again; and that is accepted.
ENOUGH, ACCEPTED = 1e-7, 1e-3
#: The largest share of the tilted law that one point may hold.
LARGEST_SHARE = 0.01
_SEED = 90210


def minimize_scrambled(activation: Activation, x: FloatArray, span: FloatArray, y: FloatArray, alpha: float,
                       regularization: float, readout_scale: float,
                       weight_scale: float) -> tuple[RegularizedMinimum, NormalRule]:
    """Return the minimum, whose ``quadrature_error`` is a standard error, and all points that it was found with.

    Parameters
    ----------
    span : ndarray, shape (n, rank)
        The inputs in an orthonormal basis of their span.

    Raises
    ------
    ConvergenceError
        If the law of the weights at the minimum is held by too few of the points, or the error stays too large.
    """
    strength, size = alpha * readout_scale / regularization, float(np.mean(y**2)) or 1.0
    power, nu = FIRST, None
    while True:
        rules = [_rule(activation, weight_scale * span, power, k) for k in range(SCRAMBLINGS)]
        rule = _joined(rules)
        nu, point = newton(rule, y, regularization, strength, nu)
        values = [-newton(one, y, regularization, strength, nu)[1].value for one in rules]
        error = float(np.std(values, ddof=1)) / math.sqrt(SCRAMBLINGS)
        last = 2 * rule.log_weights.size * len(y) > LARGEST_RULE
        if last or error <= ENOUGH * size:
            break
        power += 1
    share = float(np.max(point.weights))
    if share > LARGEST_SHARE or not error <= ACCEPTED * size:
        raise ConvergenceError(
            f"alpha={alpha:g} and regularization={regularization:g}: inputs that span {span.shape[1]} dimensions are "
            f"averaged over {rule.log_weights.size} scrambled points, of which one holds {share:.1e} of the law of the "
            f"weights; the minimum has the standard error {error:.1e}. Take a smaller alpha, a larger regularization, "
            "or inputs that span up to 3 dimensions", reason="tolerance")
    found = regularized_minimum(rule, x, y, nu, point, regularization, readout_scale, strength, error)
    return found, rule


def _rule(activation: Activation, inputs: FloatArray, power: int, k: int) -> NormalRule:
    """Return one scrambled set of 2^power points of the weights' normal law."""
    from scipy.stats import qmc

    points = qmc.Sobol(inputs.shape[1], scramble=True, rng=np.random.default_rng([_SEED, k])).random_base2(power)
    arguments = inputs @ ndtri(np.clip(points, 1e-16, 1.0 - 1e-16)).T
    count = points.shape[0]
    return NormalRule(activation.value(arguments), activation.derivative(arguments),
                      np.full(count, -math.log(count)), np.zeros(count, dtype=bool))


def _joined(rules: list[NormalRule]) -> NormalRule:
    outputs, slopes = (np.concatenate([getattr(one, name) for one in rules], axis=1) for name in ("outputs", "slopes"))
    logs = np.concatenate([one.log_weights for one in rules]) - math.log(len(rules))
    return NormalRule(outputs, slopes, logs, np.zeros(logs.size, dtype=bool))
