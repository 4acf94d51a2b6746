r"""The bias of SGD: by how much the mean over runs is off the mean field, to first order in the step and in 1/N.

On average N neurons under SGD of step :math:`\epsilon` move with the velocity :math:`v = -2 \xi \nabla\Psi`, but their
steps are finite and random. Expanding one step to second order, a neuron at x has besides

.. math:: -\tfrac{\epsilon}{2}\,\dot v + \epsilon\,\xi^2 \kappa, \qquad \text{and spreads by } \epsilon\,\xi^2 D,

the first since an Euler step lags behind the flow, kappa and D by the noise that enters through what its coordinates
leave open (`ReducedModel.hidden_noise`). In many dimensions kappa is the largest by far: the weights diffuse in all
directions, and so grow longer. The noise that all neurons share changes means to second order only. Each point
of the law then moves by :math:`\epsilon m` and spreads by :math:`\epsilon w`,

.. math:: m' = a m + \tfrac12 a' w - 2 \xi \sum_k s_k\,\delta z_k F_k' + \xi^2 \kappa - \tfrac12 \dot v, \qquad
          w' = 2 a w + \xi^2 D, \qquad \delta z_k = \int (F_k' m + \tfrac12 F_k'' w)\,\rho,

with :math:`a = v'` along its path, and a functional with influence function f is off by
:math:`\epsilon \int (f' m + \tfrac12 f'' w)\,\rho`. For one coordinate.

A network of N neurons is also off since each meets itself: with its own parameters, not with the mean over what its
coordinate leaves open. That adds the velocity

.. math:: -\frac{2 \xi}{N} \Bigl[ \tfrac12 \frac{d}{dr} U(\theta, \theta) - \partial_1 \bar U(r, r) \Bigr],

:math:`\bar U` being the kernel of the coordinates. The other neurons answer to it and lower it, as they lower the
excess K/N of the risk: this is the bias for neurons that are independent, and an upper end of it later.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from wgflow.atoms import Atoms
from wgflow.errors import ConvergenceError, InvalidInput
from wgflow.reduced_models.base import ReducedModel

from .functionals import Functional, WeightedPoints

__all__ = ["derivatives", "own_velocity", "step_bias", "velocity_under"]

Array = NDArray[np.float64]
Schedule = Callable[[float], float]
#: Times at which the noise is computed, closer to the start, where laws change fastest; and step of differences.
_TIMES, _STEP = 24, 1e-3
_TOLERANCE = 1e-6


def step_bias(model: ReducedModel, law_at: Callable[[float], WeightedPoints], t: Array,
              functionals: tuple[Functional, ...], ridge: float, xi: Schedule) -> Array:
    """Return the bias, (3, functionals, times): over the step from noise of samples and finite steps, and times N.

    Parameters
    ----------
    law_at : callable
        The mean-field law at any time, by points that move with the flow.

    Raises
    ------
    InvalidInput
        If the model has several coordinates, another loss than the square, or does not say what its hidden coordinates
        add.
    """
    if not model.quadratic:
        raise InvalidInput(f"the bias of the step is known for the square loss only, {model!r} has another")
    if model.n_coordinates > 1:
        raise InvalidInput("the bias of the step is known for one coordinate only")
    end = float(t[-1])
    if end == 0.0:
        return np.zeros((3, len(functionals), t.size))
    system = _System(model, law_at, end, ridge, xi)
    n = law_at(0.0).weights.size
    found = solve_ivp(system.rates, (0.0, end), np.zeros(4 * n), method="RK45", rtol=_TOLERANCE,
                      atol=_TOLERANCE * system.scale, t_eval=t)
    if not found.success or not np.isfinite(found.y).all():
        raise ConvergenceError(f"the bias of the step ends at t={found.t[-1]:g}: {found.message}", reason="non-finite",
                               t=float(found.t[-1]))
    bias = np.empty((3, len(functionals), t.size))
    for j, u in enumerate(t):
        law, (noisy, wide, lagging, own) = law_at(float(u)), found.y[:, j].reshape(4, n)
        for i, each in enumerate(functionals):
            slope, bend = derivatives(_on_the_line(each.influence(law)), law.points[0])
            bias[:, i, j] = [law.weights @ each for each in (slope * noisy + 0.5 * bend * wide, slope * lagging,
                                                             slope * own)]
    return bias


class _System:
    """The rates of m from noise, of w, of m from finite steps, and of m from what neurons are to themselves."""

    def __init__(self, model: ReducedModel, law_at: Callable[[float], WeightedPoints], end: float, ridge: float,
                 xi: Schedule):
        self.model, self.law_at, self.ridge, self.xi, self.end = model, law_at, ridge, xi, end
        times = end * np.linspace(0.0, 1.0, _TIMES) ** 2
        noise = []
        for u in times:
            law = law_at(float(u))
            drift, spread = model.hidden_noise(Atoms(law.points, law.weights))
            noise.append(xi(float(u)) ** 2 * np.stack([drift[0], spread[0, 0]]))
        more = [np.stack([-0.5 * self._acceleration(float(u)),
                          xi(float(u)) * own_velocity(model, law_at(float(u)).points[0])]) for u in times]
        self.sources = CubicSpline(times, np.concatenate([np.stack(noise), np.stack(more)], axis=1), axis=0)
        self.scale = float(np.abs(self.sources(times)).max()) * end + 1e-300

    def _velocity(self, u: float) -> Array:
        law = self.law_at(u)
        return velocity_under(self.model, law, self.ridge, self.xi(u))(law.points[0])

    def _acceleration(self, u: float) -> Array:
        """Return the time derivative of the velocity along the paths."""
        h = 1e-4 * self.end
        before, after = max(u - h, 0.0), min(u + h, self.end)
        return (self._velocity(after) - self._velocity(before)) / (after - before)

    def rates(self, u: float, state: Array) -> Array:
        model, law, speed = self.model, self.law_at(u), 2.0 * self.xi(u)
        noisy, wide, lagging, alone = state.reshape(4, -1)
        drift, spread, lag, own = self.sources(u)
        r, pull = law.points[0], _pull(model, law)
        slopes = model.feature_gradients(r)[:, 0]
        bends, thirds = derivatives(lambda x: model.feature_gradients(x)[:, 0], r)
        a = derivatives(velocity_under(model, law, self.ridge, self.xi(u)), r)[0]
        moved = (slopes * noisy + 0.5 * bends * wide, slopes * lagging, slopes * alone)
        changed = [each @ law.weights for each in moved]
        answers = [-speed * (model.signs * each) @ slopes for each in changed]
        return np.concatenate([a * noisy - 0.5 * speed * (pull @ thirds) * wide + answers[0] + drift,
                               2.0 * a * wide + spread, a * lagging + answers[1] + lag, a * alone + answers[2] + own])


def velocity_under(model: ReducedModel, law: WeightedPoints, ridge: float, xi: float) -> Callable[[Array], Array]:
    r"""Return the velocity :math:`-2 \xi \Psi'` of a neuron under a law, as a function of its one coordinate."""
    pull = _pull(model, law)

    def velocity(x: Array) -> Array:
        slope: Array = pull @ model.feature_gradients(x)[:, 0]
        return -2.0 * xi * (slope + (0.5 * ridge * model.squared_norm_gradient(x)[0] if ridge else 0.0))

    return velocity


def own_velocity(model: ReducedModel, r: Array) -> Array:
    """Return N times the velocity that a neuron gives to itself beyond the kernel of the coordinates, at xi = 1."""
    own = 0.5 * derivatives(lambda x: np.asarray(model.diagonal(x)), r)[0]
    found: Array = own - model.signs @ (model.features(r) * model.feature_gradients(r)[:, 0])
    return -2.0 * found


def _pull(model: ReducedModel, law: WeightedPoints) -> Array:
    pull: Array = model.signs * (law.expect(model.features(*law.points)) - model.target)
    return pull


def _on_the_line(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return a function of points (1, n) as one of values (n,)."""
    return lambda r: f(r[None, :])


def derivatives(f: Callable[[Array], Array], r: Array) -> tuple[Array, Array]:
    """Return first and second derivative of f(r) by central differences, one-sided at lengths below the step."""
    h = _STEP * (1.0 + np.abs(r))
    center = np.where((r >= 0.0) & (r < h), r + h, r)
    low, middle, high = f(center - h), f(center), f(center + h)
    return (high - low) / (2.0 * h), (high - 2.0 * middle + low) / h**2
