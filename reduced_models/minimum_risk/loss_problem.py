"""The least risk under any convex loss: weights by Newton's method on the simplex, gaps by convexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from .measure_problem import MeasureProblem, State

__all__ = ["LossProblem"]

FloatArray = NDArray[np.float64]
_STEPS = 60  # of Newton's method for the weights, at most
_HALVINGS = 40
_SUFFICIENT = 1e-4  # part of the predicted fall that a step must bring
#: Least curvature, relative to the largest one and to the largest slope: where a loss is straight its model is not.
_FLAT, _FLAT_SLOPE = 1e-4, 1e-3


class LossProblem(MeasureProblem):
    r"""The minimum of a convex function :math:`\Phi(\sum_i w_i F(x_i))`, whose second derivatives are diagonal.

    With :math:`g = \nabla\Phi(z)` and any measure of moments z', convexity gives
    :math:`\Phi(z') \ge \Phi(z) + g \cdot (z' - z)`, hence

    .. math:: \Phi(z) - \inf \Phi \le g \cdot z - \min_\theta g \cdot F(\theta)
              = \int \Psi\,d\rho - \min \Psi .

    The right-hand side is the value at z less that of the dual problem
    :math:`\max_g [\min_\theta g \cdot F(\theta) - \Phi^*(g)]` at g, by Fenchel's equality.
    """

    gap_unit = 1.0

    def take_risk(self) -> None:
        """Nothing is to be noted: the model says it all."""

    def value_of(self, z: FloatArray) -> float:
        return self.model.risk_of_moments(z)

    def slopes_of(self, z: FloatArray) -> FloatArray:
        return self.model.moment_slopes(z)

    def curvature_of(self, z: FloatArray) -> FloatArray:
        return self.model.moment_curvature(z)

    def first_point(self) -> FloatArray:
        psi = self.slopes_of(np.zeros(self.size)) @ self.search.features
        return self.search.points[:, [int(np.argmin(psi))]]

    def interaction(self, z: FloatArray) -> float:
        return math.nan

    def diagonal(self, state: State) -> FloatArray:
        return np.full(state.weights.size, math.nan)

    def weighed(self, points: FloatArray, limits: Sequence[int]) -> State:
        """Return the measure of least risk on given points.

        Each step minimizes the quadratic model of the risk on the simplex by non-negative least squares, and is halved
        until the risk falls.
        """
        empty = self.state(points, limits, np.zeros(points.shape[1] + len(limits)))
        columns, mass = empty.columns, self.masses(empty)
        w = mass / np.sum(mass)
        value = self.value_of(columns @ w)
        for _ in range(_STEPS):
            z = columns @ w
            slopes, bends = self.slopes_of(z), self.curvature_of(z)
            largest = float(np.max(np.abs(slopes), initial=0.0))
            if largest == 0.0:
                break
            bends = np.maximum(bends, max(_FLAT * float(np.max(bends)), _FLAT_SLOPE * largest))
            change = self._nearest(columns, mass, z - slopes / bends, bends) - w
            slope = float(slopes @ (columns @ change))
            size = 1.0
            for _ in range(_HALVINGS):
                lower = self.value_of(columns @ (w + size * change))
                if lower <= value + _SUFFICIENT * size * slope:
                    break
                size *= 0.5
            else:
                break
            if not (slope < 0.0 and lower < value):
                break
            w, value = np.maximum(w + size * change, 0.0), lower
        return self.kept(self.state(points, limits, w / np.sum(w * mass)), w > 0.0)

    @staticmethod
    def _nearest(columns: FloatArray, mass: FloatArray, target: FloatArray, bends: FloatArray) -> FloatArray:
        """Return the weights of total mass 1 whose moments are nearest to a target, each moment with a factor."""
        g = np.sqrt(bends)[:, None] * (columns - target[:, None] * mass)
        row = float(np.min(np.sqrt(np.sum(g * g, axis=0))[mass > 0.0])) or 1.0
        u, _ = nnls(np.concatenate([g, row * mass[None]]), np.append(np.zeros(len(g)), row))
        return u / np.sum(u * mass)
