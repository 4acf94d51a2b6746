r"""The adjoint of the linearized flow, run backward in time, and the covariances that it gives.

Let f be a function and :math:`\eta` a small change of the law. The mean of f under the changed law is off by
:math:`\int g_u\,\eta_u`, at every time u before t, where :math:`g_t = f` and

.. math:: -\partial_u g_u = s \Bigl[ -\nabla g_u \cdot \nabla\Psi_u + \beta^{-1} \Delta g_u
          - \int \rho_u(d\theta')\,\nabla g_u(\theta') \cdot \nabla_1 U(\theta', \cdot) \Bigr],
          \qquad s = 2 \xi(u) .

With features, :math:`U = \sum_k s_k F_k F_k'`, the last term is :math:`\sum_k s_k c_k F_k` with the numbers
:math:`c_k(u) = \int \nabla g_u \cdot \nabla F_k\,\rho_u`. The scatter of N neurons under SGD of step :math:`\epsilon`,
for two functionals a and b, is then

.. math:: \frac1N \mathrm{Cov}_{\rho_0}(g^a_0, g^b_0)
          + 4 \epsilon \int_0^t \xi^2\,\mathrm{Cov}_{(x, y)}\bigl[(y - \hat y) B_a, (y - \hat y) B_b\bigr] du
          + \frac{4}{\beta N} \int_0^t \xi \int \nabla g^a \cdot \nabla g^b \rho\,du,

With another loss :math:`s = \xi`, :math:`s_k` is the second derivative :math:`\partial_k^2 \Phi` at the moments of
time u, and :math:`4 (y - \hat y)^2` becomes :math:`l'(y, \hat y)^2`; with :math:`2 \xi/\beta` for :math:`4 \xi/\beta`.

Here :math:`2 \epsilon (y - \hat y) B_a` is what a step on one sample adds (`ReducedModel.sample_covariance`). Rows are
pairs of a time and a functional, ordered by time; a row joins the backward run when it passes its time.

Noiseless flows move along characteristics: there g changes by the interaction alone, and its gradient obeys a linear
equation with the second derivatives of :math:`\Psi`. With noise the equation is solved on the cells of a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from wgflow.atoms import Atoms
from wgflow.errors import ConvergenceError, InvalidInput
from wgflow.progress import pulse
from wgflow.reduced_models.base import ReducedModel

from .functionals import Functional, WeightedPoints, differences

__all__ = ["Covariances", "along_characteristics", "law_along"]

Array = NDArray[np.float64]
Schedule = Callable[[float], float]
#: Relative accuracy of the characteristics and of the backward run.
_FORWARD, _BACKWARD = 1e-9, 1e-7


@dataclass(frozen=True)
class Covariances:
    """What `along_characteristics` and `on_grid` return, over rows ordered by time and then by functional.

    Attributes
    ----------
    values : array of shape (times, functionals)
        The functionals of the mean-field law.
    starts, samples, noise : array of shape (rows, rows)
        The three integrals: of the first and last N times, of the second 1/epsilon times the covariance is given.
    """

    values: Array
    starts: Array
    samples: Array
    noise: Array


def along_characteristics(model: ReducedModel, law_at: Callable[[float], WeightedPoints], t: Array,
                          functionals: tuple[Functional, ...], ridge: float, xi: Schedule) -> Covariances:
    """Return the covariances of a flow without noise at increasing times.

    Parameters
    ----------
    law_at : callable
        The law at any time, which `law_along` returns.
    """
    start = law_at(0.0)
    shape = start.points.shape
    laws = [law_at(u) for u in t]
    values = np.array([[each.value(law) for each in functionals] for law in laws])
    n, rows = len(functionals), t.size * len(functionals)
    g, slopes = np.zeros((rows, shape[1])), np.zeros((rows, *shape))
    samples = np.zeros((rows, rows))
    for j in range(t.size - 1, -1, -1):
        own = slice(j * n, (j + 1) * n)
        g[own] = [each.values(laws[j]) for each in functionals]
        slopes[own] = [each.slopes(laws[j]) for each in functionals]
        active = slice(j * n, rows)
        end = float(t[j - 1]) if j else 0.0
        if t[j] > end:
            step = _Backward(model, law_at, ridge, xi, rows - j * n, shape)
            g[active], slopes[active], gained = step.run(float(t[j]), end, g[active], slopes[active])
            samples[active, active] += gained
    centered = g - (g @ start.weights)[:, None]
    return Covariances(values, (centered * start.weights) @ centered.T, samples, np.zeros_like(samples))


def law_along(model: ReducedModel, start: WeightedPoints, t_end: float, ridge: float, xi: Schedule,
              lower: Array) -> Callable[[float], WeightedPoints]:
    """Return the law of a flow without noise at any time up to ``t_end``, by points that move along characteristics.

    Parameters
    ----------
    lower : array of shape (coordinates,)
        Values below which a coordinate cannot be: 0 for a length.
    """
    flow = _characteristics(model, start, t_end, ridge, xi, lower)
    return lambda u: WeightedPoints(flow(u).reshape(start.points.shape), start.weights)


def _characteristics(model: ReducedModel, start: WeightedPoints, t_end: float, ridge: float,
                     xi: Schedule, lower: Array) -> Callable[[float], Array]:
    """Return the points at any time, flattened."""
    shape = start.points.shape

    def velocity(u: float, x: Array) -> Array:
        pulse(f"the scatter of runs: their paths, t = {u:.3g}")
        # A length below 0 ends in an error below; on the way there features are not asked for it.
        law = WeightedPoints(np.maximum(x.reshape(shape), lower[:, None]), start.weights)
        slope = np.tensordot(_pull(model, law), model.feature_gradients(*law.points), axes=1)
        return -model.risk_per_energy * xi(u) * (slope + _ridge_slope(model, law.points, ridge)).ravel()

    if t_end == 0.0:
        return lambda u: start.points.ravel()
    found = solve_ivp(velocity, (0.0, t_end), start.points.ravel(), method="DOP853", rtol=_FORWARD,
                      atol=1e-3 * _FORWARD, dense_output=True)
    if not found.success or not np.isfinite(found.y).all():
        raise ConvergenceError(f"the characteristics end at t={found.t[-1]:g}: {found.message}", reason="non-finite",
                               t=float(found.t[-1]))
    if np.any(found.y.reshape(*shape, -1) < lower[:, None, None]):
        raise InvalidInput("the flow brings neurons to length 0, where it is not smooth and the scatter of particles "
                           "is not linear; end before that, or compare with runs")
    return found.sol


class _Backward:
    """The backward run of a number of rows between two times, along the characteristics."""

    def __init__(self, model: ReducedModel, law_at: Callable[[float], WeightedPoints], ridge: float, xi: Schedule,
                 rows: int, shape: tuple[int, ...]):
        self.model, self.law_at, self.ridge, self.xi, self.rows, self.shape = model, law_at, ridge, xi, rows, shape

    def run(self, start: float, end: float, g: Array, slopes: Array) -> tuple[Array, Array, Array]:
        """Return g, its gradient, and what the samples have added to the covariance."""
        zero = np.zeros((self.rows, self.rows))
        state = np.concatenate([part.ravel() for part in (g, slopes, zero)])
        found = solve_ivp(self._rates, (start, end), state, method="DOP853", rtol=_BACKWARD, atol=1e-3 * _BACKWARD)
        if not found.success or not np.isfinite(found.y[:, -1]).all():
            raise ConvergenceError(f"the backward run ends at t={found.t[-1]:g}: {found.message}", reason="non-finite",
                                   t=float(found.t[-1]))
        g, slopes, gained = self._split(found.y[:, -1])
        return g, slopes, -gained

    def _split(self, state: Array) -> tuple[Array, Array, Array]:
        n, size = self.rows * self.shape[1], self.rows * self.shape[0] * self.shape[1]
        return (state[:n].reshape(self.rows, -1), state[n : n + size].reshape(self.rows, *self.shape),
                state[n + size :].reshape(self.rows, self.rows))

    def _rates(self, u: float, state: Array) -> Array:
        pulse(f"the scatter of runs: back at t = {u:.3g}")
        model, law, speed = self.model, self.law_at(u), self.model.risk_per_energy * self.xi(u)
        _, slopes, _ = self._split(state)
        features, gradients = model.features(*law.points), model.feature_gradients(*law.points)
        c = np.einsum("acn,kcn,n->ak", slopes, gradients, law.weights)
        signed = c * model.moment_curvature(law.expect(features))
        curvature = self._curvature(law)
        moved = np.einsum("cdn,adn->acn", curvature, slopes) + np.einsum("ak,kcn->acn", signed, gradients)
        gained = speed**2 * model.sample_covariance(Atoms(law.points, law.weights), slopes)
        return np.concatenate([(speed * (signed @ features)).ravel(), (speed * moved).ravel(), gained.ravel()])

    def _curvature(self, law: WeightedPoints) -> Array:
        """Return the second derivatives of Psi and the ridge at the points, (coordinates, coordinates, n)."""
        model, pull = self.model, _pull(self.model, law)

        def slope(x: Array) -> Array:
            own = np.tensordot(pull, model.feature_gradients(*x), axes=1)
            return own + _ridge_slope(model, x, self.ridge)

        return differences(slope, law.points)


def _pull(model: ReducedModel, law: WeightedPoints) -> Array:
    """Return the numbers by which Psi is made of the features, ``s_k (z_k - p_k)`` of the square loss."""
    pull: Array = model.moment_slopes(law.expect(model.features(*law.points)))
    return pull


def _ridge_slope(model: ReducedModel, points: Array, ridge: float) -> Array:
    return 0.5 * ridge * model.squared_norm_gradient(*points) if ridge else np.zeros_like(points)

