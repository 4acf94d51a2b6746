"""Networks with any loss: the energy as a convex function of the outputs at the nodes of a rule over the data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.nodes import at_nodes
from wgflow.errors import InvalidInput
from wgflow.losses.base import Loss, as_loss
from wgflow.losses.named import Square

from .base import FloatArray, NetworkModel
from .data_rules import weighted_covariance
from .network_energies import loss_terms

__all__ = ["LossModel"]


class LossModel(NetworkModel):
    r"""A network whose risk is the mean of a loss over nodes :math:`(x_k, y_k)` of weights :math:`\omega_k`, sum 1.

    The nodes are a finite sample, or a quadrature rule over what the outputs depend on. With the outputs
    :math:`\bar\sigma(x_k; \cdot)` of a neuron there, averaged over what its coordinates leave open, the features are

    .. math:: F_k = \sqrt{\omega_k}\,\bar\sigma(x_k; \cdot), \qquad f_k = z_k / \sqrt{\omega_k}, \qquad
              \Phi(z) = \sum_k \omega_k\,l(y_k, f_k),

    so that the second derivatives of :math:`\Phi` are diagonal, :math:`l''(y_k, f_k)`. The square loss keeps the
    conventions, and the features, of `ReducedModel`; with another the energy is :math:`\Phi`, which is the risk, on
    the clock of SGD by gradients of l.
    """

    @property
    @abstractmethod
    def node_labels(self) -> FloatArray:
        """The labels y of the nodes, shape (n,)."""

    @property
    @abstractmethod
    def node_weights(self) -> FloatArray:
        """The weights of the nodes, shape (n,), of sum 1."""

    def _take_loss(self, loss: Loss | Sequence[Callable] | None, labels: ArrayLike) -> None:
        """Take up a loss, `Square` by default, that fits the labels."""
        self.loss = Square() if loss is None else as_loss(loss)
        self.loss.check_labels(labels)
        self.quadratic = isinstance(self.loss, Square)
        if not self.quadratic:
            self.time_scale = self.risk_per_energy = 1.0

    @cached_property
    def _roots(self) -> FloatArray:
        """The roots of the weights of the nodes."""
        return np.sqrt(self.node_weights)

    def outputs(self, rho: Density | Atoms) -> FloatArray:
        """Return the outputs f of the network at the nodes, shape (n,)."""
        return self.moments(rho) / self._roots

    def mean_loss(self, rho: Density | Atoms) -> float:
        """Return the mean of l(y, f) over the data; with the square loss this is half the risk."""
        return self.risk(rho) / self.risk_per_energy

    def _of_outputs(self, function: Callable[..., FloatArray], z: ArrayLike) -> FloatArray:
        """Return a function of labels and outputs at moments."""
        return function(self.node_labels, np.asarray(z, dtype=np.float64) / self._roots)

    def risk_of_moments(self, z: ArrayLike) -> float:
        if self.quadratic:
            return super().risk_of_moments(z)
        return float(np.sum(self.node_weights * self._of_outputs(self.loss.value, z)))

    def moment_slopes(self, z: FloatArray) -> FloatArray:
        if self.quadratic:
            return super().moment_slopes(z)
        return self._roots * self._of_outputs(self.loss.derivative, z)

    def moment_curvature(self, z: FloatArray) -> FloatArray:
        return super().moment_curvature(z) if self.quadratic else self._of_outputs(self.loss.second_derivative, z)

    def risk_terms(self, ridge: float) -> FreeEnergy:
        if self.quadratic:
            return super().risk_terms(ridge)
        return loss_terms(self, ridge, f"risk of {self.loss!r}")

    @property
    def signs(self) -> FloatArray:
        self._need_square("potential V and kernel U")
        return super().signs

    def output_squares(self, rho: Density | Atoms) -> FloatArray:
        r"""Return :math:`\int E\,\sigma_*(x_k; \theta)^2 \rho` at the nodes, the mean over what is left open inside."""
        points, weights = ((rho.points, rho.weights) if isinstance(rho, Atoms)
                           else (rho.grid.mesh(), at_nodes(rho).masses))
        features = self.features(*points)
        return np.sum((features**2 * weights).reshape(len(features), -1), axis=1) / self.node_weights

    def finite_width_excess(self, rho: Density | Atoms) -> float:
        r"""Return K of :math:`E\,R_N = R(\rho) + K/N` for N neurons drawn from ``rho``, to first order in 1/N:

        .. math:: K = \frac12 \sum_k \omega_k\,l''(y_k, f_k)\,\mathrm{Var}\,\sigma_*(x_k; \cdot) .

        Of the square loss, whose risk is twice the mean loss, it is twice that, and exact.
        """
        if self.quadratic:
            return super().finite_width_excess(rho)
        z = self.moments(rho)
        variance = self.output_squares(rho) - (z / self._roots) ** 2
        return 0.5 * float(np.sum(self.node_weights * self.moment_curvature(z) * variance))

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        r"""Return the covariances of :math:`-l'(y, f(x)) B(x)` over the data; see `ReducedModel.sample_covariance`."""
        moments, slopes = self._moments_and_slopes(law, fields)
        pull = -self._of_outputs(self.loss.derivative, moments)
        return weighted_covariance(pull * slopes / self._roots, self.node_weights)

    def _need_square(self, what: str) -> None:
        if not self.quadratic:
            raise InvalidInput(f"{self!r} has no {what}: with loss={self.loss!r} its energy is not quadratic in the "
                               "law. What needs them knows the square loss alone; psi(rho, ...) is the first variation")
