"""Two Gaussian classes: their variances, the initial law of the limit d = inf, and the risk of any loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import roots_jacobi

from wgflow.atoms import Atoms
from wgflow.checks import check_positive
from wgflow.densities import Density
from wgflow.energies.nodes import at_nodes
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .any_loss import LossModel
from .base import FloatArray

CONVENTIONS = ("variance", "deviation")
#: Inputs at which the risk of a network is taken with another loss than the square, and numbers of a temporary array.
_INPUTS, _BLOCK = 8192, 1 << 22
_SEED = 60913
#: Nodes for the cosines of directions, by number of blocks, and in the limit of many dimensions.
_ANGLES, _LIMIT_ANGLES = {1: 64, 2: 12}, 64


class TwoClassModel(LossModel):
    r"""The base of the models with labels +1 and -1 and Gaussian inputs in blocks of equal variance.

    With another loss than the square the features are outputs at nodes of the data's law, of which the target holds the
    labels and weights, :math:`y_k \sqrt{\omega_k}`.
    """

    label_second_moment = 1.0

    @property
    def node_labels(self) -> FloatArray:
        self._need_nodes()
        return np.sign(self.target)

    @property
    def node_weights(self) -> FloatArray:
        self._need_nodes()
        return np.square(self.target)

    def _need_nodes(self) -> None:
        if self.quadratic:
            raise InvalidInput(f"{self!r} has no outputs at nodes of the data: with the square loss its features are "
                               "terms of a series; run_sgd and risk need none")

    @property
    @abstractmethod
    def node_lengths(self) -> FloatArray:
        """The lengths of the blocks of the inputs at the nodes, shape (blocks, n)."""

    @property
    @abstractmethod
    def block_dimensions(self) -> tuple[float, ...]:
        """The dimension of each block."""

    @abstractmethod
    def _signals(self, *coordinates: FloatArray) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
        """Return the read-out, the offset and the lengths of the blocks of neurons, each of shape (n,)."""

    def population_risk(self, theta: ArrayLike) -> FloatArray:
        r"""Return the risk of networks.

        Of the square loss it is exact, with the correlations :math:`\rho_{\pm ij}` of two preactivations in each class:

        .. math:: R_N = 1 + \frac2N \sum_i V(\theta_i) + \frac1{N^2} \sum_{ij} a_i a_j U_{ij}, \qquad
                  U_{ij} = \tfrac12 \sum_\pm \sum_k a_k(s_{\pm i}, b_i)\, a_k(s_{\pm j}, b_j)\, \rho_{\pm ij}^k .

        The series of each pair stops where its tail is below 1e-14 of the largest second moment; strongly correlated
        pairs and the diagonal use closed forms. Time is O(N^2 d), memory O(N). Of another loss

        .. math:: R_N = R(\rho_N) + E\,[\,l(y, \hat y) - l(y, \bar f) - l'(y, \bar f)(\hat y - \bar f)\,],

        with the output :math:`\bar f` averaged over the directions of the inputs, which is the mean of :math:`\hat y`
        given their lengths. R is exact to ``feature_error``; the second term, of order 1/N, is a mean over 8,192 inputs
        of fixed random directions, in time O(N d).

        Parameters
        ----------
        theta : array_like, shape (..., n_neurons, n_parameters)

        Returns
        -------
        ndarray, shape (...)
        """
        theta = self.check_theta(theta)
        flat = theta.reshape(-1, *theta.shape[-2:])
        risks = self._square_risks(flat) if self.quadratic else np.array([self._mean_loss_of(one)[0] for one in flat])
        return risks.reshape(theta.shape[:-2])

    def population_risk_error(self, theta: ArrayLike) -> FloatArray:
        if self.quadratic:
            return super().population_risk_error(theta)
        theta = self.check_theta(theta)
        errors = [self._mean_loss_of(one)[1] for one in theta.reshape(-1, *theta.shape[-2:])]
        return np.array(errors).reshape(theta.shape[:-2])

    @abstractmethod
    def _square_risks(self, networks: FloatArray) -> FloatArray:
        """Return the risks of the square loss, shape (m,), of networks (m, n_neurons, n_parameters)."""

    @cached_property
    def _inputs_at_nodes(self) -> tuple[FloatArray, np.ndarray]:
        """Inputs with the lengths of the nodes and random directions, shape (m, d), and the nodes that they belong to.

        Each node has a number of inputs in proportion to its weight, at least one.
        """
        rng = np.random.default_rng(_SEED)
        nodes = np.repeat(np.arange(self.target.size),
                          np.maximum(1, np.rint(_INPUTS * self.node_weights)).astype(int))
        parts = []
        for lengths, dim in zip(self.node_lengths, self.block_dimensions):
            x = rng.standard_normal((nodes.size, int(dim)))
            parts.append(x * (lengths[nodes] / np.sqrt(np.sum(x * x, axis=1)))[:, None])
        return np.concatenate(parts, axis=1), nodes

    def _mean_loss_of(self, theta: FloatArray) -> tuple[float, float]:
        """Return the mean loss of one network (n, n_parameters), and its standard error."""
        x, nodes = self._inputs_at_nodes
        z = np.mean(self.features(*np.moveaxis(self.project(theta), -1, 0)), axis=1)
        labels, mean = self.node_labels[nodes], (z / self._roots)[nodes]
        a, b, w = (theta[:, 0], theta[:, 1], theta[:, 2:]) if self.trains_readout else (1.0, 0.0, theta)
        rows = max(1, _BLOCK // len(theta))
        outputs = np.concatenate([np.mean(a * self.activation.value(x[i : i + rows] @ w.T + b), axis=1)
                                  for i in range(0, len(x), rows)])
        excess = self.loss.value(labels, outputs) - self.loss.value(labels, mean)
        excess -= self.loss.derivative(labels, mean) * (outputs - mean)
        counts = np.bincount(nodes)
        means = np.bincount(nodes, excess) / counts
        variances = np.bincount(nodes, (excess - means[nodes]) ** 2) / counts**2
        return (self.risk_of_moments(z) + float(np.sum(self.node_weights * means)),
                math.sqrt(float(np.sum(self.node_weights**2 * variances))))

    def output_squares(self, rho: Density | Atoms) -> FloatArray:
        points, weights = ((rho.points, rho.weights) if isinstance(rho, Atoms)
                           else (np.stack([c.ravel() for c in rho.grid.mesh()]), at_nodes(rho).masses.ravel()))
        rules = [_cosines(dim, _ANGLES[len(self.block_dimensions)]) for dim in self.block_dimensions]
        cosines = np.array(np.meshgrid(*(c for c, _ in rules), indexing="ij")).reshape(len(rules), -1)
        shares = np.ones(1)
        for _, own in rules:
            shares = np.multiply.outer(shares, own).ravel()
        squares, rows = np.zeros(self.target.size), max(1, _BLOCK // (shares.size * self.target.size))
        for i in range(0, weights.size, rows):
            a, b, lengths = self._signals(*points[:, i : i + rows])
            z = sum(np.multiply.outer(np.multiply.outer(length, own), c)
                    for length, own, c in zip(self.node_lengths, lengths, cosines)) + b[:, None]
            squares += (self.activation.value(z) ** 2 @ shares) @ (weights[i : i + rows] * a * a)
        return squares


def _cosines(dim: float, nodes: int) -> tuple[FloatArray, FloatArray]:
    """Return a rule for one coordinate of a random direction; of sqrt(dim) times it, a normal number, for dim = inf."""
    if math.isinf(dim):
        c, weights = np.polynomial.hermite_e.hermegauss(_LIMIT_ANGLES)
    elif dim == 1:
        return np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    else:
        c, weights = roots_jacobi(nodes, 0.5 * (dim - 3.0), 0.5 * (dim - 3.0))
    return c, weights / np.sum(weights)


def class_variances(plus: float | None, minus: float | None, delta: float | None,
                    convention: str) -> tuple[float, float]:
    """Return the variances of the two classes, given themselves or by their distance delta from 1."""
    check_convention(convention)
    if delta is None:
        if plus is None or minus is None:
            raise InvalidInput("give both tau_plus2 and tau_minus2, or delta with its convention")
        return check_positive("tau_plus2", plus), check_positive("tau_minus2", minus)
    if plus is not None or minus is not None:
        raise InvalidInput("give either tau_plus2 and tau_minus2, or delta, not both")
    delta = check_positive("delta", delta, zero=True)
    if delta >= 1.0:
        raise InvalidInput(f"delta={delta:g} must be < 1, so that both classes have a positive variance")
    return (1.0 + delta, 1.0 - delta) if convention == "variance" else ((1.0 + delta) ** 2, (1.0 - delta) ** 2)


def check_convention(convention: str) -> None:
    """Refuse what is no convention for delta."""
    if convention not in CONVENTIONS:
        raise InvalidInput(f"convention={convention!r} must be 'variance' or 'deviation'")


def delta_masses(kappa: float, grid: Grid) -> FloatArray:
    """Return the masses of a delta at ``kappa``, shared by the two nearest cell centers so that its mean is kappa."""
    centers, edges, masses = grid.centers[0], grid.edges[0], np.zeros(grid.shape)
    if not edges[0] <= kappa <= edges[-1]:
        return masses
    i = int(np.clip(np.searchsorted(centers, kappa) - 1, 0, centers.size - 2))
    share = np.clip((kappa - centers[i]) / (centers[i + 1] - centers[i]), 0.0, 1.0)
    masses[i], masses[i + 1] = 1.0 - share, share
    return masses
