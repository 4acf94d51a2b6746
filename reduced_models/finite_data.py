"""Any data set in low dimension, and any loss: the features are the data, so that the risk is the empirical one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation
from wgflow.activations.smooth import Tanh
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_flag, check_memory, check_positive
from wgflow.densities import Density
from wgflow.energies.nodes import at_nodes
from wgflow.errors import InvalidInput
from wgflow.grid_checks import MAX_AXES
from wgflow.grids import Grid
from wgflow.losses.base import Loss

from .any_loss import LossModel
from .base import FloatArray
from .data_rules import DataRule
from .finite_samples import checked_samples
from .gaussian_laws import (
    DEFAULT_CELLS,
    REACH,
    as_vector,
    coordinate_names,
    normal_atoms,
    normal_density,
    stack_coordinates,
    wider_grid,
)
from .radial_laws import noisy_deviation

__all__ = ["FiniteData"]

_KAPPA = 0.8  # the initial scale that a default grid holds
_WIDTH = 4.0  # of a default grid, in lengths at which a typical input reaches the activation's scale
_BLOCK = 1 << 22  # numbers of a temporary array
_SAMPLE_SEED = 50221  # of the points at which a compression is chosen and checked


class FiniteData(LossModel):
    r"""A network on n given samples :math:`(x_k, y_k)`, in the space of its own parameters.

    The neuron is :math:`\sigma_*(x; w) = \alpha\,\sigma(\langle w, x \rangle)`, or :math:`\sigma_*(x; a, b, w) =
    \alpha\,a\,\sigma(\langle w, x \rangle + b)` with ``trains_readout=True``; the scale :math:`\alpha` of the output
    is 1 unless it is given. Expectations are means over the samples,

    .. math::
        F_k(\theta) = \frac{\sigma_*(x_k; \theta)}{\sqrt n}, \quad p_k = \frac{y_k}{\sqrt n}, \qquad
        R(\rho) = \frac1n \sum_k \Bigl( y_k - \int \sigma_*(x_k; \theta)\,\rho(d\theta) \Bigr)^2 ,

    so that the population risk is the empirical risk, exactly. With another ``loss`` it is, with the outputs
    :math:`f_k = \int \sigma_*(x_k; \theta)\,\rho(d\theta)`, a convex function of the moments, and so is the energy,

    .. math:: R(\rho) = \frac1n \sum_k l(y_k, f_k), \qquad
              F(\rho) = R(\rho) + \tfrac\lambda2 \int |\theta|^2 \rho + \beta^{-1} \int \rho \log \rho, \qquad
              \Psi(\theta; \rho) = \frac1n \sum_k l'(y_k, f_k)\,\sigma_*(x_k; \theta) .

    The square loss :math:`l = (y - f)^2/2`, the default, keeps the conventions of all other models: the risk is
    :math:`(y - f)^2`, of which F is half, and ``time_scale`` is 2. With any other loss l is used as it stands: the risk
    is the mean loss, and ``time_scale`` is 1, the clock of SGD by gradients of l. `mean_loss` is the mean of l always.

    SGD draws samples with replacement. For a bias without a
    read-out add a column of ones to ``x``.

    Cost: features on a grid are n numbers a cell, and a step of a solver takes time in proportion. For smooth
    activations few directions matter: with ``tolerance`` the features are projected onto :math:`p` and onto the leading
    singular vectors of a sample of them on the default grid, as few as keep the kernel there to that accuracy. V stays
    exact and the risk is then below the true one by at most ``tolerance`` times the largest
    :math:`\frac1n \sum_k \sigma_*(x_k; \theta)^2`.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        Inputs. There are D = d coordinates, or d + 2 with a read-out; D is at most 4. Samples may repeat.
    y : array_like, shape (n,)
        Labels.
    activation : Activation, optional
        `Tanh` by default.
    trains_readout : bool
        Whether a and b learn too; the coordinates are then (a, b, w).
    tolerance : float, optional
        Accuracy of the kernel relative to its largest value; by default all n features are kept. For the square loss.
    loss : Loss or (l, l', l''), optional
        One of `wgflow.losses`, or three functions of (y, f); `Square` by default.
    output_scale : float
        :math:`\alpha`, positive.

    Raises
    ------
    InvalidInput
        If there is no sample, shapes disagree, a number is not finite, D > 4, a label does not fit the loss (a class
        other than -1 and 1), or a tolerance is given with another loss than the square.

    Examples
    --------
    >>> model = FiniteData(x=[[-1.0], [0.5], [2.0]], y=[-0.5, 0.2, 0.4])
    >>> rho = Atoms([[0.3, 0.9]], [0.5, 0.5])
    >>> yhat = [0.5 * np.tanh(0.3 * x) + 0.5 * np.tanh(0.9 * x) for x in (-1.0, 0.5, 2.0)]
    >>> bool(np.isclose(model.risk(rho), np.mean((np.array([-0.5, 0.2, 0.4]) - yhat) ** 2), atol=1e-15))
    True
    """

    name = "FiniteData"

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        activation: Activation | None = None,
        trains_readout: bool = False,
        tolerance: float | None = None,
        loss: Loss | Sequence[Callable] | None = None,
        output_scale: float = 1.0,
    ):
        inputs, labels, self.activation = checked_samples(x, y, activation, Tanh())
        self.trains_readout = check_flag("trains_readout", trains_readout)
        d = inputs.shape[1]
        self.coordinate_names = (("a", "b") if self.trains_readout else ()) + coordinate_names("w", d)
        if self.n_coordinates > MAX_AXES:
            raise InvalidInput(f"x has {d} inputs: the coordinates would be {self.coordinate_names}, {MAX_AXES} at "
                               "most are possible; project x on fewer directions")
        self.x, self.y, self.input_dimension = inputs, labels, float(d)
        for array in (self.x, self.y):
            array.flags.writeable = False
        self.tolerance = None if tolerance is None else check_positive("tolerance", tolerance)
        self.output_scale = check_positive("output_scale", output_scale)
        self._take_loss(loss, labels)
        if not self.quadratic and tolerance is not None:
            raise InvalidInput(f"tolerance={tolerance:g}: fewer features than samples are for the square loss; leave "
                               f"it out with loss={self.loss!r}")
        with np.errstate(over="ignore"):
            self.label_second_moment = float(np.mean(labels**2))
            self._input_scale = math.sqrt(float(np.mean(np.sum(inputs**2, axis=1))))
        if not math.isfinite(self.label_second_moment + self._input_scale):
            raise InvalidInput("the squares of x or y overflow; scale the data down")

    @property
    def n_samples(self) -> int:
        """Number n of samples."""
        return self.y.size

    @property
    def node_labels(self) -> FloatArray:
        """The labels of the samples, shape (n,)."""
        return self.y

    @property
    def node_weights(self) -> FloatArray:
        """1/n for each sample, shape (n,)."""
        return np.full(self.n_samples, 1.0 / self.n_samples)

    def arguments(self, points: FloatArray) -> FloatArray:
        """Return what the activation is taken at, ``<w, x> + b`` at points (D, m) and all n samples, shape (n, m)."""
        _, b, w = self._split(points)
        found: FloatArray = self.x @ w + b
        return found

    def outputs(self, rho: Density | Atoms) -> FloatArray:
        """Return the outputs f of the network on the samples, shape (n,), from all n features."""
        points, weights = ((rho.points, rho.weights) if isinstance(rho, Atoms)
                           else (np.stack([c.ravel() for c in rho.grid.mesh()]), at_nodes(rho).masses.ravel()))
        return math.sqrt(self.n_samples) * self._summed(points, weights)

    def mean_loss(self, rho: Density | Atoms) -> float:
        """Return the mean of l(y, f) over the samples; with the square loss this is half the risk."""
        return float(np.mean(self.loss.value(self.y, self.outputs(rho))))

    def __repr__(self) -> str:
        more = "" if self.quadratic else f", loss={self.loss!r}"
        more += "" if self.output_scale == 1.0 else f", output_scale={self.output_scale!r}"
        return (f"FiniteData({self.n_samples} samples, coordinates={self.coordinate_names}, "
                f"activation={self.activation!r}{more})")

    # ---------------------------------------------------------------- reduced coordinates
    def _values(self, points: FloatArray) -> FloatArray:
        """Return the n features at points (D, m), shape (n, m)."""
        a, b, w = self._split(points)
        return self.output_scale * a * self.activation.value(self.x @ w + b) / math.sqrt(self.n_samples)

    def _gradients(self, points: FloatArray) -> FloatArray:
        """Return the gradients of the n features at points (D, m), shape (n, D, m)."""
        a, b, w = self._split(points)
        z = self.x @ w + b
        slope = self.output_scale * a * self.activation.derivative(z)
        by_w = slope[:, None] * self.x[:, :, None]
        if not self.trains_readout:
            return by_w / math.sqrt(self.n_samples)
        parts = [self.output_scale * self.activation.value(z)[:, None], slope[:, None], by_w]
        return np.concatenate(parts, axis=1) / math.sqrt(self.n_samples)

    def _summed(self, points: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the weighted sum of all n features over points (D, m), whatever the tolerance; by blocks of points."""
        size = max(1, _BLOCK // self.n_samples)
        return sum((np.sum(self._values(points[:, i : i + size]) * weights[i : i + size], axis=1)
                    for i in range(0, weights.size, size)), np.zeros(self.n_samples))

    def _split(self, points: FloatArray) -> tuple[FloatArray | float, FloatArray | float, FloatArray]:
        return (points[0], points[1], points[2:]) if self.trains_readout else (1.0, 0.0, points)

    @cached_property
    def _basis(self) -> FloatArray | None:
        """Orthonormal columns (n, k) onto which features are projected, or None where all are kept."""
        return None if self.tolerance is None else self._compressed(self.tolerance)

    def _compressed(self, tolerance: float) -> FloatArray | None:
        """Return the basis whose residual, squared, is at most ``tolerance`` on other points of the default grid."""
        rng, p = np.random.default_rng(_SAMPLE_SEED), self.y / math.sqrt(self.n_samples)
        first = p[:, None] / np.sqrt(np.sum(p * p)) if p.any() else np.empty((self.n_samples, 0))
        lo, hi = np.array(self.grid(2).bounds).T[..., None]

        def sample(count: int) -> FloatArray:
            return self._values(lo + (hi - lo) * rng.random((self.n_coordinates, count)))

        corners = np.stack([c.ravel() for c in np.meshgrid(*self.grid(2).bounds, indexing="ij")])
        check = np.concatenate([self._values(corners), sample(500)], axis=1)
        allowed = tolerance * float(np.max(np.sum(check**2, axis=0)))
        check = check - first @ (first.T @ check)
        count = 16
        while 2 * count < self.n_samples:
            values = sample(2 * count)
            vectors = np.linalg.svd(values - first @ (first.T @ values), full_matrices=False)[0][:, :count]
            parts = vectors.T @ check
            rest = np.sum((check - vectors @ parts) ** 2, axis=0)
            left = rest + np.cumsum(np.concatenate([parts, np.zeros_like(rest)[None]])[::-1] ** 2, axis=0)[::-1]
            enough = np.flatnonzero(np.max(left, axis=1) <= allowed)
            if enough.size:
                # Once more orthonormalized: vectors of singular values near rounding are not orthogonal to p.
                return np.linalg.qr(np.concatenate([first, vectors[:, : enough[0]]], axis=1))[0]
            count *= 2
        return None

    @cached_property
    def target(self) -> FloatArray:
        p = self.y / math.sqrt(self.n_samples)
        return p if self._basis is None else self._basis.T @ p

    def features(self, *coordinates: ArrayLike) -> FloatArray:
        return self._projected(self._values, coordinates, 1)

    def feature_gradients(self, *coordinates: ArrayLike) -> FloatArray:
        return self._projected(self._gradients, coordinates, self.n_coordinates)

    def _projected(
        self, function: Callable[[FloatArray], FloatArray], coordinates: tuple[ArrayLike, ...], width: int
    ) -> FloatArray:
        """Return values (k, [width,] *shape) of a function of points, in the basis, by blocks of points."""
        count, size = self.target.size, math.prod(np.broadcast_shapes(*map(np.shape, coordinates)))
        check_memory(8.0 * count * width * size, f"{count} features at {size} points",
                     "take fewer cells, or give the model a tolerance, which keeps fewer features")
        points = stack_coordinates(self, coordinates)
        shape, points = points.shape[1:], points.reshape(self.n_coordinates, -1)
        if self._basis is None:
            values = function(points)
        else:
            basis, size = self._basis, max(1, _BLOCK // (self.n_samples * width))
            blocks = [np.tensordot(basis.T, function(points[:, i : i + size]), axes=1)
                      for i in range(0, max(points.shape[1], 1), size)]
            values = np.concatenate(blocks, axis=-1)
        return values.reshape(values.shape[:-1] + shape)

    @cached_property
    def _data_rule(self) -> DataRule:
        scale = math.sqrt(self.n_samples)
        outputs = scale * (np.eye(self.n_samples) if self._basis is None else self._basis)
        return DataRule(np.full(self.n_samples, 1.0 / self.n_samples), self.y, outputs)

    def hidden_noise(self, law: Atoms) -> tuple[FloatArray, FloatArray]:
        c, n = self.n_coordinates, law.size
        return np.zeros((c, n)), np.zeros((c, c, n))

    def neuron_outputs(self, theta: ArrayLike, x: ArrayLike) -> FloatArray:
        return self.output_scale * super().neuron_outputs(theta, x)

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        if not self.quadratic:
            return super().sample_covariance(law, fields)
        return self._data_rule.sample_covariance(*self._moments_and_slopes(law, fields))

    def diagonal(self, *coordinates: ArrayLike) -> FloatArray:
        points = stack_coordinates(self, coordinates)
        shape, points = points.shape[1:], points.reshape(self.n_coordinates, -1)
        size = max(1, _BLOCK // self.n_samples)
        own = [np.sum(self._values(points[:, i : i + size]) ** 2, axis=0)
               for i in range(0, max(points.shape[1], 1), size)]
        return np.concatenate(own).reshape(shape)

    def grid(
        self,
        cells: int | tuple[int, ...] | None = None,
        bounds: ArrayLike | None = None,
        *,
        kappa: ArrayLike = _KAPPA,
        mean0: ArrayLike = 0.0,
        beta: float = math.inf,
        ridge: float = 0.0,
        t_end: float | None = None,
    ) -> Grid:
        """Return a grid on the parameters.

        Parameters
        ----------
        cells : int or tuple of int, optional
            By default 400, 128, 48 and 24 an axis on 1 to 4 axes.
        bounds : sequence of (lo, hi), optional
            By default a box around ``mean0`` that holds 6 standard deviations of the initial law of ``kappa``, 6 of the
            law under noise and ridge alone (until ``t_end``, where no ridge holds it), the weights (and biases) that
            carry an input of root mean square length 4 times as far as the activation bends, and 4 times the root mean
            square of the labels for a.
        """
        if bounds is None:
            mean, deviations = self._initial(kappa, mean0)
            noise = np.array([noisy_deviation(float(s), 1.0, beta, ridge, t_end, self.time_scale) for s in deviations])
            reach = _WIDTH * self.activation.length_scale
            widths = np.full(self.n_coordinates, reach / self._input_scale if self._input_scale > 0.0 else reach)
            if self.trains_readout:
                widths[0], widths[1] = _WIDTH * math.sqrt(self.label_second_moment), reach
            half = np.maximum(REACH * noise, widths)
            half = np.where(half > 0.0, half, 1.0)
            bounds = np.stack([mean - half, mean + half], axis=1).tolist()
        cells = DEFAULT_CELLS[self.n_coordinates] if cells is None else cells
        return Grid(bounds, cells=cells, names=self.coordinate_names)

    def initial_density(self, kappa: ArrayLike, grid: Grid, mean0: ArrayLike = 0.0) -> Density:
        """Return the normal law with independent coordinates on a grid.

        Parameters
        ----------
        kappa : float or array_like, shape (D,)
            Standard deviation of each coordinate. One number stands for ``kappa / sqrt(d)`` of each weight and
            ``kappa`` of a and b.
        mean0 : float or array_like, shape (D,)
            Mean of each coordinate.

        Raises
        ------
        InvalidInput
            If a scale is not positive or more than 1e-6 of the mass lies outside the grid.
        """
        self._check_axes(grid)
        mean, deviations = self._initial(kappa, mean0)
        if not deviations.all():
            raise InvalidInput(f"kappa={deviations.tolist()}: a density needs every scale > 0; atoms may have scales 0")
        return normal_density(grid, mean, deviations, wider_grid(kappa, mean0))

    def initial_atoms(self, kappa: ArrayLike, nodes: int | None = None, mean0: ArrayLike = 0.0) -> Atoms:
        """Return Gauss-Hermite points of the law of `initial_density`, ``nodes`` (8 by default) a coordinate.

        A coordinate of scale 0 rests at its mean.
        """
        mean, deviations = self._initial(kappa, mean0)
        moving = np.flatnonzero(deviations)
        if moving.size == 0:
            return Atoms(mean[:, None], np.ones(1), names=self.coordinate_names)
        names = tuple(self.coordinate_names[k] for k in moving)
        law = normal_atoms(mean[moving], deviations[moving], nodes, names)
        points = np.tile(mean[:, None], law.weights.size)
        points[moving] = law.points
        return Atoms(points, law.weights, names=self.coordinate_names)

    def _initial(self, kappa: ArrayLike, mean0: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of each coordinate."""
        if np.ndim(kappa) == 0:
            deviations = np.full(self.n_coordinates, check_positive("kappa", kappa))
            deviations[-self.x.shape[1]:] /= math.sqrt(self.x.shape[1])
        else:
            deviations = as_vector("kappa", kappa, self.n_coordinates)
            if deviations.min() < 0.0:
                raise InvalidInput(f"kappa={deviations.tolist()}: standard deviations must be >= 0")
        return as_vector("mean0", mean0, self.n_coordinates), deviations

    # ---------------------------------------------------------------- the network
    def sample_data(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw ``n`` of the samples with replacement."""
        index = rng.integers(0, self.n_samples, size=n)
        return self.x[index], self.y[index]

    def initial_theta(
        self, n_neurons: int, kappa: ArrayLike, rng: np.random.Generator, mean0: ArrayLike = 0.0
    ) -> FloatArray:
        """Draw neurons from the law of `initial_density`, shape (n_neurons, D)."""
        mean, deviations = self._initial(kappa, mean0)
        return mean + deviations * rng.standard_normal((check_count("n_neurons", n_neurons), mean.size))

    def project(self, theta: ArrayLike) -> FloatArray:
        """Return ``theta`` itself, shape (..., D): every parameter is a coordinate."""
        return self.check_theta(theta)

    def population_risk(self, theta: ArrayLike) -> FloatArray:
        """Return the empirical risk of networks (..., n_neurons, D), with all samples whatever the tolerance."""
        theta = self.check_theta(theta)
        flat = theta.reshape(-1, *theta.shape[-2:])
        risks = np.empty(len(flat))
        for k, network in enumerate(flat):
            mean = self._summed(network.T, np.ones(len(network))) / len(network)
            gap = mean - self.y / math.sqrt(self.n_samples)
            risks[k] = np.sum(gap * gap) if self.quadratic else self.risk_of_moments(mean)
        return risks.reshape(theta.shape[:-2])
