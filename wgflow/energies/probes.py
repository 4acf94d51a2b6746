"""Points at which terms that change with time are sampled: some cells of a grid, or some atoms."""

from __future__ import annotations

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density

from .free_energy import FreeEnergy, Term
from .potentials import Potential

__all__ = ["AtomProbe", "GridProbe"]

#: Points along each axis, by the number of axes.
POINTS = {1: 16, 2: 8, 3: 5, 4: 4}
#: Terms whose first variations at the points are kept, so that a switched interaction is formed once.
KEPT = 4
#: Atoms that are looked at.
ATOMS = 32


class GridProbe:
    """Some cells of a grid, evenly chosen, each standing for the block of cells around it.

    The law of a sampled interaction is half the initial law by blocks, half a point, so that no symmetry of the initial
    law hides it.

    Parameters
    ----------
    rho : Density
    """

    def __init__(self, rho: Density):
        self.grid, self.mass = rho.grid, rho.mass
        ndim = self.grid.ndim
        self.strides = tuple(max(1, n // POINTS.get(ndim, 3)) for n in self.grid.shape)
        self.shape = tuple(n // s for n, s in zip(self.grid.shape, self.strides))
        self.first = tuple((n - b * s) // 2 for n, b, s in zip(self.grid.shape, self.shape, self.strides))
        picked = [slice(f + s // 2, f + b * s, s) for f, s, b in zip(self.first, self.strides, self.shape)]
        self.picked = tuple(picked)
        centers = [c[p] for c, p in zip(self.grid.centers, picked)]
        self.distances = [np.diff(c) for c in centers]
        self.points = np.array([c.ravel() for c in np.meshgrid(*centers, indexing="ij")])
        self.weigh(rho.masses)
        weights = 0.5 * np.maximum(self.masses, 0.0).ravel()
        weights[weights.size // 3] += max(0.5 * self.mass, self.mass - float(weights.sum()))
        self.atoms = Atoms(self.points, weights, self.grid.bounds, None, None, self.grid.periodic)
        self.law = rho.masses
        self.at_points = True
        self.kept: list[tuple[Term, np.ndarray]] = []

    def sample(self, terms: list[tuple[float, Term]]) -> np.ndarray:
        if self.at_points:
            try:
                return self._at_points(terms)
            except Exception:
                # Known on the cells of the grid alone; or it fails there, too.
                value = self._on_cells(terms)
                self.at_points = False
                return value
        return self._on_cells(terms)

    def _on_cells(self, terms: list[tuple[float, Term]]) -> np.ndarray:
        energy = FreeEnergy(terms).assemble(self.grid, check=False)
        return np.broadcast_to(energy.psi(energy.potential, self.law), self.grid.shape)[self.picked].ravel()

    def _at_points(self, terms: list[tuple[float, Term]]) -> np.ndarray:
        total = np.zeros(self.points.shape[1])
        for factor, term in terms:
            value: np.ndarray
            if isinstance(term, Potential) and callable(term.V):
                value = np.asarray(term.V(*self.points), dtype=float)
            else:
                value = self._kept(term)
            total += factor * value
        return total

    def _kept(self, term: Term) -> np.ndarray:
        """Return the first variation of a term at the points; those of the last few terms are kept."""
        for known, value in self.kept:
            if known is term:
                return value
        if isinstance(term, FreeEnergy):
            return self._at_points(list(term.terms))
        value = term.first_variation(self.atoms)
        self.kept = [*self.kept[1 - KEPT:], (term, value)]
        return value

    def weigh(self, law: np.ndarray) -> None:
        masses = law[tuple(slice(f, f + b * s) for f, s, b in zip(self.first, self.strides, self.shape))]
        for axis, (b, s) in enumerate(zip(self.shape, self.strides)):
            shape = masses.shape
            masses = masses.reshape(*shape[:axis], b, s, *shape[axis + 1:]).sum(axis=axis + 1)
        self.masses = masses
        if len(self.shape) == 1:
            # Differences, densities and differences again as one matrix.
            slopes = np.diff(np.eye(self.shape[0]), axis=0)
            self.matrix = slopes.T @ ((0.5 * (masses[1:] + masses[:-1]) / self.distances[0] ** 2)[:, None] * slopes)

    def effect(self, changes: np.ndarray) -> np.ndarray:
        r"""Return the L1 norms of div(rho grad psi) over the mass, summed over the axes, by differences of blocks."""
        if len(self.shape) == 1:
            return np.abs(changes @ self.matrix).sum(axis=1) / self.mass
        fields = changes.reshape(-1, *self.shape)
        total = np.zeros(len(fields))
        for axis, distances in enumerate(self.distances):
            if not distances.size:
                continue
            psi, m = np.moveaxis(fields, axis + 1, -1), np.moveaxis(self.masses, axis, -1)
            # m over the width of a block is the density along the axis, up to the width across.
            flux = 0.5 * (m[..., 1:] + m[..., :-1]) * np.diff(psi, axis=-1) / distances**2
            across = tuple(range(1, flux.ndim))
            inner = np.abs(np.diff(flux, axis=-1)).sum(axis=across)
            total += inner + np.abs(flux[..., [0, -1]]).sum(axis=across)
        return total / self.mass

    def bend(self, values: np.ndarray) -> np.ndarray:
        fields = values.reshape(-1, *self.shape)
        total = np.zeros(len(fields))
        for axis, n in enumerate(self.shape):
            if n > 2:
                psi, m = np.moveaxis(fields, axis + 1, -1), np.moveaxis(self.masses, axis, -1)[..., 1:-1]
                total += (np.abs(np.diff(psi, 2, axis=-1)) * m).sum(axis=tuple(range(1, psi.ndim)))
        return total


class AtomProbe:
    """Some atoms of a law, and the forces on them.

    Parameters
    ----------
    rho : Atoms
    """

    def __init__(self, rho: Atoms):
        n = rho.points.shape[1]
        # Evenly chosen by the first coordinate.
        order = np.argsort(rho.points[0], kind="stable")
        self.chosen = order[np.linspace(0, n - 1, min(n, ATOMS)).astype(int)]
        weights = np.full(self.chosen.size, rho.mass / self.chosen.size)
        self.atoms = Atoms(rho.points[:, self.chosen], weights, rho.bounds, rho.powers, rho.names, rho.periodic)
        self.weigh(rho.points)

    def sample(self, terms: list[tuple[float, Term]]) -> np.ndarray:
        return FreeEnergy(terms).gradient(self.atoms, self.atoms.points).ravel()

    def weigh(self, law: np.ndarray) -> None:
        spread = law.std(axis=1)
        self.widths = np.where(spread > 0, spread, 1.0)

    def effect(self, changes: np.ndarray) -> np.ndarray:
        """Return the mean speeds of the atoms in units of the width of the law, summed over the coordinates."""
        forces = np.abs(changes.reshape(len(changes), self.widths.size, -1)).mean(axis=2)
        return (forces / self.widths).sum(axis=1)

    def bend(self, values: np.ndarray) -> np.ndarray:
        forces = values.reshape(len(values), self.widths.size, -1)
        return np.abs(np.diff(forces, axis=2)).sum(axis=(1, 2))
