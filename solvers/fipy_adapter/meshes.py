"""A flow on a mesh of FiPy: the problem at the cell centers, and the solution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.certificate import largest_drift, largest_rise
from wgflow.checks import call_user, check_memory, real_array
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import Entropy
from wgflow.energies.on_grid import TINY
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.interactions.terms import PairTerm

from .implicit import Array, Implicit

__all__ = ["MeshProblem", "MeshSolution", "march"]

#: Times nearer to each other than this part of a step are the same.
TIME_SLACK = 1e-6
#: A mesh with more non-orthogonality than this counts as skewed.
SKEWNESS = 1e-6


@dataclass
class MeshSolution:
    """A flow on a mesh of FiPy.

    Attributes
    ----------
    mesh : fipy mesh
    t : array, shape (k,)
        Output times.
    values : array, shape (k, n_cells)
        Density in each cell.
    history : dict of arrays
        ``t``, ``energy``, ``mass`` and ``min_density`` at the start and after every step.
    sweep_change : float
        Largest change of the density in the last iteration of a step.
    """

    mesh: Any
    t: Array
    values: Array
    history: dict[str, Array] = field(repr=False)
    sweep_change: float = 0.0

    @property
    def mass_drift(self) -> float:
        """Largest relative change of the mass."""
        return largest_drift(self.history["mass"])

    @property
    def max_energy_increase(self) -> float:
        """Largest rise of the free energy in a step, divided by max(1, abs(F)); 0 if it never rose."""
        return largest_rise(self.history["energy"])

    def expect(self, function, k: int = -1) -> float:
        """Return the integral of a function of the coordinates against the k-th density, by values at cell centers."""
        centers = np.asarray(self.mesh.cellCenters.value)
        return float((np.asarray(function(*centers)) * self.values[k] * np.asarray(self.mesh.cellVolumes)).sum())


class MeshProblem:
    """An energy on a mesh: Psi and F of densities with one value for each cell."""

    def __init__(self, mesh, energy):
        if not all(hasattr(mesh, name) for name in ("cellCenters", "cellVolumes", "numberOfCells")):
            raise InvalidType(f"mesh must be a mesh of FiPy, got {type(mesh).__name__}")
        if not isinstance(energy, Term):
            raise InvalidType(f"energy must be a sum of terms such as Entropy(1.0) + Potential(V), got {energy!r}")
        energy = energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])
        self.volumes = np.array(mesh.cellVolumes, dtype=float)
        self.centers = np.array(mesh.cellCenters.value, dtype=float)
        self.diffusion, self.drifts = 0.0, []
        for factor, term in energy.terms:
            if isinstance(term, Entropy):
                self.diffusion += factor / term.beta
            elif isinstance(term, (Potential, PairTerm)):
                self.drifts.append((factor, term))
            else:
                raise InvalidInput(f"{term!r}: on meshes only Entropy, Potential and interactions are supported; take "
                                   "a Grid and FiniteVolume() for other terms")
        atoms = self._atoms(np.full(self.volumes.size, 1.0))
        self.fixed = np.zeros(self.volumes.size)
        self.pairs: list[tuple[float, Any]] = []
        for factor, term in self.drifts:
            if isinstance(term, PairTerm):
                self.pairs.append((factor, term))
                check_memory(8.0 * self.volumes.size**2, f"{term!r} between all {self.volumes.size} cells",
                             "take fewer cells, or LowRank")
            else:
                self.fixed = self.fixed + factor * term.first_variation(atoms)
        skew = float(np.abs(np.asarray(getattr(mesh, "_nonOrthogonality", 0.0))).max())
        if skew > SKEWNESS:
            warnings.warn(f"mesh: lines between neighboring centers miss the normals of faces by up to {skew:.2g}; "
                          "FiPy's two-point fluxes are not consistent there, and refinement does not help",
                          WGFlowWarning, stacklevel=4)

    def _atoms(self, masses: Array) -> Atoms:
        return Atoms(self.centers, masses)

    def initial(self, rho0) -> Array:
        """Return the initial density, of mass 1."""
        if callable(rho0):
            rho0 = call_user(rho0, list(self.centers), "rho0")
        values = real_array(rho0, "rho0")
        if values.shape != self.volumes.shape:
            raise InvalidInput(f"rho0 has shape {values.shape}; need ({self.volumes.size},), one value for each cell")
        mass = float((values * self.volumes).sum())
        if not (np.isfinite(values).all() and values.min() >= 0 and 0 < mass < math.inf):
            raise InvalidInput(f"rho0 has values from {values.min():g} to {values.max():g} and mass {mass:g}; a "
                               "density is finite, >= 0 and not all 0")
        return values / mass

    def interaction(self, masses: Array) -> Array:
        """Return U rho at the cell centers."""
        total = np.zeros(masses.shape)
        for factor, term in self.pairs:
            total += factor * term.first_variation(self._atoms(masses))
        return total

    def psi(self, values: Array) -> Array:
        """Return V + U rho at the cell centers."""
        return self.fixed + self.interaction(np.maximum(values, 0.0) * self.volumes) if self.pairs else self.fixed

    def measure(self, values: Array) -> tuple[float, float, float]:
        """Return the free energy, mass and smallest value."""
        masses = np.maximum(values, 0.0) * self.volumes
        mu = self.fixed + 0.5 * self.interaction(masses)
        mu = mu + self.diffusion * (np.log(np.maximum(masses, TINY)) - np.log(self.volumes))
        return float((masses * mu).sum()), float((values * self.volumes).sum()), float(values.min())


def march(scheme: Implicit, problem: MeshProblem, values: Array, times: Sequence[float], dt: float):
    """Return the densities at given times, and the history of all steps."""
    t, kept, history = times[0], [values], [(times[0], *problem.measure(values))]
    for stop in times[1:]:
        begin, count = t, max(1, math.ceil((stop - t) / dt - TIME_SLACK))
        for k in range(1, count + 1):
            target = stop if k == count else begin + k * dt
            values, t = scheme.step(values, target - t, t, target - t), target
            history.append((t, *problem.measure(values)))
        kept.append(values)
    return kept, dict(zip(("t", "energy", "mass", "min_density"), np.array(history).T))
