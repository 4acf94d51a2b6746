"""How the risk answers to first order when points replace a law: the risk's part of the null law of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atom_laws import AtomLaws

__all__ = ["AtomRiskResponse", "RiskResponse"]

Array = NDArray[np.float64]
_SCATTER = 2.6  # standard errors by which a sample's own risk may be off


class RiskResponse:
    """First-order change of the risk when points replace rho, ``(2/N) sum_i (Psi(x_i) - int Psi rho)``."""

    def __init__(self, model: Any, rho: Any):
        psi = np.asarray(model.energy().first_variation(rho), dtype=float)
        share = np.asarray(rho.masses) / rho.mass
        self._mean = float(np.sum(share * psi))
        self._centers, self._psi = rho.grid.centers, psi
        slopes = np.gradient(psi, *self._centers) if psi.ndim > 1 else [np.gradient(psi, self._centers[0])]
        widths = np.meshgrid(*rho.grid.widths, indexing="ij")
        self.resolution = float(np.sum(share * sum(np.abs(g) * h for g, h in zip(slopes, widths))))

    def __call__(self, x: Array) -> Array:
        """Shape (sets, runs) for points of shape (sets, runs, N, coords)."""
        if len(self._centers) == 1:
            values = np.interp(x[..., 0], self._centers[0], self._psi)
        else:
            from scipy.interpolate import RegularGridInterpolator

            inside = np.stack([np.clip(x[..., k], c[0], c[-1]) for k, c in enumerate(self._centers)], axis=-1)
            values = RegularGridInterpolator(self._centers, self._psi)(inside)
        return 2.0 * (values.mean(axis=-1) - self._mean)


class AtomRiskResponse:
    """The same for atoms, of which Psi is known at each."""

    def __init__(self, model: Any, source: AtomLaws):
        self._psi = np.asarray(model.energy().first_variation(source.rho), dtype=float)
        self._mean = float(source.share @ self._psi)
        self.resolution = 0.0
        if source.noisy:
            # The sample's own risk: its fluctuation, and the excess K/n of n independent particles.
            scatter = float(np.sqrt(source.share @ (self._psi - self._mean) ** 2 / source.effective_size))
            excess = model.finite_width_excess(source.rho) if hasattr(model, "finite_width_excess") else 0.0
            self.resolution = 2.0 * _SCATTER * scatter + max(float(excess), 0.0) / source.effective_size

    def __call__(self, atoms: NDArray[np.intp]) -> Array:
        """Shape (sets, runs) for numbers of atoms of shape (sets, runs, N)."""
        return 2.0 * (self._psi[atoms].mean(axis=-1) - self._mean)
