"""The risk of particles against that of a law, and how the risk answers to first order when points replace a law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.reduced_models.base import ReducedModel
from wgflow.solution import Solution

from .atom_laws import AtomLaws
from .marginal_laws import DensityLaws, unresolved_share
from .particle_runs import ParticleRuns

__all__ = ["AtomRiskResponse", "RiskResponse", "Risks", "response_of", "risks_of"]

Array = NDArray[np.float64]
Index = NDArray[np.intp]
#: Standard errors by which a sample's own risk may be off.
_SCATTER = 2.6


@dataclass(frozen=True)
class Risks:
    """The two risks at all times, each array of shape (times,).

    Attributes
    ----------
    pde : array
        Of the law.
    difference, spread : array
        Mean over the runs minus that of the law, and variance over the runs.
    excess : array
        K/N, by which the mean risk of independent particles exceeds that of the law; 0 where the model does not say.
    notes : tuple of str
        What the reader must know.
    """

    pde: Array
    difference: Array
    spread: Array
    excess: Array
    notes: tuple[str, ...] = ()


def risks_of(sol: Solution, runs: ParticleRuns, model: ReducedModel, t: Array) -> Risks:
    """Return the risks of runs and solution at the solution's times t, checked."""
    if runs.risk is None:
        raise InvalidInput(f"{runs.argument} has no risk to compare")
    if runs.risk.shape != runs.coordinates.shape[:2] or not np.isfinite(runs.risk).all():
        raise InvalidInput(f"{runs.argument}.risk has shape {runs.risk.shape}: need finite numbers of shape "
                           f"{runs.coordinates.shape[:2]}, (runs, times)")
    pde = np.array([float(model.risk(sol.density(s))) for s in t])
    notes: tuple[str, ...] = ()
    excess = np.zeros(t.size)
    if hasattr(model, "finite_width_excess"):
        excess = np.array([max(float(model.finite_width_excess(sol.density(s))), 0.0) for s in t]) / runs.count
    else:
        notes = ("The model states no finite_width_excess: the risk's band has no K/N part.",)
    spread = runs.risk.var(axis=0, ddof=1) if runs.n_runs > 1 else np.zeros(t.size)
    return Risks(pde, runs.risk.mean(axis=0) - pde, spread, excess, notes)


def response_of(model: ReducedModel, source: DensityLaws | AtomLaws) -> RiskResponse | AtomRiskResponse:
    """Return how a model's risk answers to draws from a law."""
    return AtomRiskResponse(model, source) if isinstance(source, AtomLaws) else RiskResponse(model, source.rho)


def _risk_per_energy(model: ReducedModel) -> float:
    """Return R over F; 2, that of the square loss, where a model of one's own does not say it."""
    return float(getattr(model, "risk_per_energy", 2.0))


class RiskResponse:
    """First-order change of the risk when points replace rho, ``(c/N) sum_i (Psi(x_i) - int Psi rho)``, c = 2 for R."""

    def __init__(self, model: ReducedModel, rho: Density):
        psi = np.asarray(model.energy().first_variation(rho), dtype=float)
        share = np.asarray(rho.masses) / rho.mass
        self._mean = float(np.sum(share * psi))
        self._centers, self._psi, self._unit = rho.grid.centers, psi, _risk_per_energy(model)
        slopes = np.gradient(psi, *self._centers) if psi.ndim > 1 else [np.gradient(psi, self._centers[0])]
        widths = np.meshgrid(*rho.grid.widths, indexing="ij")
        values = np.asarray(rho.values)
        off = [unresolved_share(values, axis) * h for axis, h in enumerate(widths)]
        self.resolution = float(np.sum(share * sum(np.abs(g) * h for g, h in zip(slopes, off))))

    def __call__(self, x: Array, atoms: Index | None = None) -> Array:
        """Return the change, shape (sets, runs), for points x of shape (sets, runs, N, coordinates)."""
        if len(self._centers) == 1:
            values = np.interp(x[..., 0], self._centers[0], self._psi)
        else:
            from scipy.interpolate import RegularGridInterpolator

            inside = np.stack([np.clip(x[..., k], c[0], c[-1]) for k, c in enumerate(self._centers)], axis=-1)
            values = RegularGridInterpolator(self._centers, self._psi)(inside)
        return self._unit * (values.mean(axis=-1) - self._mean)


class AtomRiskResponse:
    """The same for a law of atoms: Psi is known at each of them."""

    def __init__(self, model: ReducedModel, source: AtomLaws):
        self._psi = np.asarray(model.energy().first_variation(source.rho), dtype=float)
        self._mean, self._unit = float(source.share @ self._psi), _risk_per_energy(model)
        self.resolution = 0.0
        if source.noisy:
            # The sample's own risk: its fluctuation, and the excess K/n of n independent particles.
            scatter = float(np.sqrt(source.share @ (self._psi - self._mean) ** 2 / source.effective_size))
            excess = model.finite_width_excess(source.rho) if hasattr(model, "finite_width_excess") else 0.0
            self.resolution = self._unit * _SCATTER * scatter + max(float(excess), 0.0) / source.effective_size

    def __call__(self, x: Array, atoms: Index | None) -> Array:
        """Return the change, shape (sets, runs), for the atoms that points belong to, shape (sets, runs, N)."""
        return self._unit * (self._psi[atoms].mean(axis=-1) - self._mean)
