"""Networks on finite samples with any loss: the energy as a convex function of the outputs on the samples."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

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
from .network_energies import loss_terms

__all__ = ["SampledLossModel"]


class SampledLossModel(NetworkModel):
    r"""A network on n samples :math:`(x_k, y_k)`, whose risk is the mean of a loss.

    Its features are those of the samples, :math:`F_k = \sigma_*(x_k; \cdot)/\sqrt n`, so that the outputs are
    :math:`f_k = \sqrt n\,z_k`. The square loss keeps the conventions of `ReducedModel`; with another the energy is
    :math:`\Phi(z) = \frac1n \sum_k l(y_k, \sqrt n\,z_k)`, which is the risk, on the clock of SGD by gradients of l.

    Attributes
    ----------
    y : ndarray, shape (n,)
    """

    y: FloatArray

    def _take_loss(self, loss: Loss | Sequence[Callable] | None) -> None:
        """Take up a loss, `Square` by default, that fits the labels."""
        self.loss = Square() if loss is None else as_loss(loss)
        self.loss.check_labels(self.y)
        self.quadratic = isinstance(self.loss, Square)
        if not self.quadratic:
            self.time_scale = self.risk_per_energy = 1.0

    @abstractmethod
    def _summed(self, points: FloatArray, weights: FloatArray) -> FloatArray:
        """Return the weighted sums of all n features over points (n_coordinates, m)."""

    def outputs(self, rho: Density | Atoms) -> FloatArray:
        """Return the outputs f of the network on the samples, shape (n,), from all n features."""
        points, weights = ((rho.points, rho.weights) if isinstance(rho, Atoms)
                           else (np.stack([c.ravel() for c in rho.grid.mesh()]), at_nodes(rho).masses.ravel()))
        return math.sqrt(self.y.size) * self._summed(points, weights)

    def mean_loss(self, rho: Density | Atoms) -> float:
        """Return the mean of l(y, f) over the samples; with the square loss this is half the risk."""
        return float(np.mean(self.loss.value(self.y, self.outputs(rho))))

    def _of_outputs(self, function: Callable[..., FloatArray], z: ArrayLike) -> FloatArray:
        """Return a function of labels and outputs at moments."""
        return function(self.y, math.sqrt(self.y.size) * np.asarray(z, dtype=np.float64))

    def risk_of_moments(self, z: ArrayLike) -> float:
        return super().risk_of_moments(z) if self.quadratic else float(np.mean(self._of_outputs(self.loss.value, z)))

    def moment_slopes(self, z: FloatArray) -> FloatArray:
        if self.quadratic:
            return super().moment_slopes(z)
        return self._of_outputs(self.loss.derivative, z) / math.sqrt(self.y.size)

    def moment_curvature(self, z: FloatArray) -> FloatArray:
        return super().moment_curvature(z) if self.quadratic else self._of_outputs(self.loss.second_derivative, z)

    def risk_terms(self, ridge: float) -> FreeEnergy:
        if self.quadratic:
            return super().risk_terms(ridge)
        return loss_terms(self, ridge, f"risk of {self.loss!r}")

    @property
    def signs(self) -> FloatArray:
        self._need_square("signs of a kernel U")
        return super().signs

    def potential(self, *coordinates: ArrayLike) -> FloatArray:
        self._need_square("potential V")
        return super().potential(*coordinates)

    def finite_width_excess(self, rho: Density | Atoms) -> float:
        r"""Return K of :math:`E\,R_N = R(\rho) + K/N` for N neurons drawn from ``rho``, to first order in 1/N:

        .. math:: K = \frac{1}{2 n} \sum_k l''(y_k, f_k)\,\mathrm{Var}_\rho\,\sigma_*(x_k; \cdot) .

        Of the square loss, whose risk is twice the mean loss, it is twice that, and exact.
        """
        if self.quadratic:
            return super().finite_width_excess(rho)
        points, weights = ((rho.points, rho.weights) if isinstance(rho, Atoms)
                           else (rho.grid.mesh(), at_nodes(rho).masses))
        features, z = self.features(*points), self.moments(rho)
        second = np.sum((features**2 * weights).reshape(len(features), -1), axis=1)
        return 0.5 * float(np.sum(self.moment_curvature(z) * (second - z**2)))

    def _need_square(self, what: str) -> None:
        if not self.quadratic:
            raise InvalidInput(f"{self!r} has no {what}: with loss={self.loss!r} its energy is not quadratic in the "
                               "law. What needs V and U (predicted scatter and bias of SGD) knows the square loss "
                               "alone; psi(rho, ...) is the first variation")
