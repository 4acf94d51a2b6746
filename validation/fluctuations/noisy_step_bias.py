r"""The bias of SGD with injected noise, to first order in the step, for one coordinate.

Let :math:`v = -2 \xi \nabla\Psi` be the velocity of the mean field and :math:`\delta` the centered push of a sample.
A step changes the mean of a function g of the weights by

.. math:: \epsilon\,(v \cdot \nabla + D \Delta) g + \epsilon^2 \bigl[\tfrac12 E\,\delta\delta : \nabla^2
          + \tfrac12 (v \cdot \nabla + D \Delta)^2_{v\,\mathrm{fixed}} \bigr] g, \qquad D = 2 \xi / \beta,

the square being that with v held where the step begins, and the flow :math:`L = v \cdot \nabla + D \Delta` itself by
:math:`\epsilon L g + \tfrac12 \epsilon^2 (L^2 + \partial_u L) g`. So SGD is off the flow at the rate
:math:`\epsilon M g`,

.. math:: M = \tfrac12 E\,\delta\delta : \nabla^2 - \tfrac12 \bigl[(\partial_u v + v \cdot \nabla v + D \Delta v)
          \cdot \nabla + 2 D\,\nabla v : \nabla^2 + \partial_u D\,\Delta\bigr] .

For functions of one coordinate r with the reference measure :math:`r^p dr` (p = d - 1 for a length in d dimensions, 0
for a parameter), a velocity along r, and the drift kappa and the spread S of what samples add through hidden
coordinates (`ReducedModel.hidden_noise`),

.. math:: M g = \xi^2 (\kappa g' + \tfrac12 S g'') - \tfrac12 (\partial_u v + v v') g'
          - \tfrac12 D \Bigl(v'' + \frac{p v'}{r} + \frac{p v}{r^2}\Bigr) g' - D v' g''
          - \tfrac12 \partial_u D \Bigl(g'' + \frac{p}{r} g'\Bigr) .

With the solution g of the adjoint of the linearized flow that ends as the influence function of a functional, the bias
of the functional is :math:`\epsilon \int_0^t \int M g_u\,\rho_u\,du`: the answer of the other neurons is in g.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid, log_power_cell_average
from wgflow.reduced_models.base import ReducedModel

from .backward import Schedule
from .functionals import WeightedPoints
from .gauss_atoms import gauss_atoms
from .step_bias import derivatives, own_velocity, velocity_under

__all__ = ["NoisyStepBias"]

Array = NDArray[np.float64]
#: By how much the weight of a cell may be off that of a power, relative.
_ROUNDING = 1e-6


class NoisyStepBias:
    """The rates at which functionals of SGD leave the flow with noise.

    Parameters
    ----------
    model : ReducedModel
    grid : Grid
    beta, ridge : float
    xi : callable

    Raises
    ------
    InvalidInput
        If the model has several coordinates, another loss than the square, or a reference measure that is no power.
    """

    def __init__(self, model: ReducedModel, grid: Grid, beta: float, ridge: float, xi: Schedule):
        if not model.quadratic or grid.ndim > 1:
            raise InvalidInput("the bias of the step is known for the square loss and one coordinate only")
        self.model, self.beta, self.ridge, self.xi = model, beta, ridge, xi
        self.centers, self.power = np.asarray(grid.centers[0]), _power_of(grid)

    def rates(self, g: Array, rho: Density, ends: tuple[tuple[float, WeightedPoints], tuple[float, WeightedPoints]],
              u: float) -> Array:
        """Return the rates of the bias at a time u, from noise of samples, from finite steps, and times N.

        Parameters
        ----------
        g : array of shape (rows, cells)
            Adjoint solutions at the time u.
        rho : Density
            The law at the time u.
        ends : pair of (time, law)
            Before and after u, by which time derivatives are formed.

        Returns
        -------
        array of shape (3, rows)
        """
        atoms = gauss_atoms(rho)
        r, weights = np.asarray(atoms.points[0]), np.asarray(atoms.weights) / atoms.mass
        spline = CubicSpline(self.centers, g, axis=1)
        slope, bend = spline(r, 1), spline(r, 2)
        xi, p_r = self.xi(u), self.power / r if self.power else np.zeros_like(r)
        drift, spread = self.model.hidden_noise(Atoms(r[None], weights))
        law = WeightedPoints(r[None], weights)
        velocity = velocity_under(self.model, law, self.ridge, xi)
        v, (v1, v2) = velocity(r), derivatives(velocity, r)
        (before, first), (after, last) = ends
        span = after - before
        v_u = (velocity_under(self.model, last, self.ridge, self.xi(after))(r)
               - velocity_under(self.model, first, self.ridge, self.xi(before))(r)) / span
        noise, noise_u = 2.0 * xi / self.beta, 2.0 * (self.xi(after) - self.xi(before)) / (self.beta * span)
        lag = -0.5 * (v_u + v * v1 + noise * (v2 + p_r * v1 + p_r * v / np.where(r > 0.0, r, 1.0)) + noise_u * p_r)
        return np.stack([xi**2 * (slope * drift[0] + 0.5 * bend * spread[0, 0]) @ weights,
                         (slope * lag - bend * (noise * v1 + 0.5 * noise_u)) @ weights,
                         xi * (slope * own_velocity(self.model, r)) @ weights])


def _power_of(grid: Grid) -> float:
    """Return the p of a reference measure r^p dr, 0 for Lebesgue's."""
    if grid.log_weight is None:
        return 0.0
    weight, edges = np.asarray(grid.log_weight), grid.edges[0]
    power = float((weight[-1] - weight[-2]) / np.log(grid.centers[0][-1] / grid.centers[0][-2]))
    power = round(power)
    expected = log_power_cell_average(edges, power)
    if not np.allclose(expected - expected[-1], weight - weight[-1], rtol=_ROUNDING, atol=_ROUNDING):
        raise InvalidInput("the bias of the step is known where the reference measure is a power of the coordinate")
    return float(power)
