"""The backward run of :mod:`.backward` on the cells of a grid, for flows with noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.reduced_models.base import ReducedModel
from wgflow.solution import Solution

from .backward import Covariances, Schedule
from .functionals import Functional, WeightedPoints
from .noisy_step_bias import NoisyStepBias

__all__ = ["on_grid"]

Array = NDArray[np.float64]
_TINY = 1e-300


def on_grid(model: ReducedModel, sol: Solution, t: Array, functionals: tuple[Functional, ...], beta: float,
            ridge: float, xi: Schedule) -> tuple[Covariances, Array | None]:
    """Return the covariances along a solution of the mean-field equation with noise, and the bias where it is known.

    The bias is as that of `step_bias`, (3, functionals, times).

    Parameters
    ----------
    sol : Solution
        Its times are the ends and the middles of the steps of the backward run, in turn, and hold the times t.
    """
    grid = sol.densities[0].grid
    points = np.stack([x.ravel() for x in grid.mesh()])
    step = _Step(model, grid, points, beta, ridge)
    laws = {float(u): WeightedPoints(points, _masses(rho)) for u, rho in zip(sol.t, sol.densities)}
    values = np.array([[each.value(laws[float(u)]) for each in functionals] for u in t])
    n, rows = len(functionals), t.size * len(functionals)
    g, samples, noise = np.zeros((rows, points.shape[1])), np.zeros((rows, rows)), np.zeros((rows, rows))
    wanted = {float(u): j for j, u in enumerate(t)}
    first, bias = rows, np.zeros((3, rows))
    own_bias = _bias_of(model, grid, beta, ridge, xi)
    ends = [float(u) for u in sol.t[::2]]
    for k in range(len(ends) - 1, -1, -1):
        if ends[k] in wanted:
            first = wanted[ends[k]] * n
            g[first : first + n] = [each.values(laws[ends[k]]) for each in functionals]
        if k == 0:
            break
        dt, middle = ends[k] - ends[k - 1], float(sol.t[2 * k - 1])
        active = slice(first, rows)
        speed = model.risk_per_energy * xi(middle)
        g[active], mid = step.back(g[active], laws[middle], speed * dt)
        pushed, injected = step.rates(mid, laws[middle])
        samples[active, active] += speed**2 * dt * pushed
        noise[active, active] += 2.0 * speed / beta * dt * injected
        if own_bias is not None:
            around = (ends[k - 1], laws[ends[k - 1]]), (ends[k], laws[ends[k]])
            bias[:, active] += dt * own_bias.rates(mid, sol.densities[2 * k - 1], around, middle)
    start = laws[ends[0]].weights
    centered = g - (g @ start)[:, None]
    found = Covariances(values, (centered * start) @ centered.T + noise, samples, noise)
    return found, None if own_bias is None else bias.reshape(3, t.size, n).transpose(0, 2, 1)


def _bias_of(model: ReducedModel, grid: Grid, beta: float, ridge: float, xi: Schedule) -> NoisyStepBias | None:
    """Return what gives the bias of the step, or None where it is not known."""
    try:
        found = NoisyStepBias(model, grid, beta, ridge, xi)
        model.hidden_noise(Atoms(np.stack([x[:1] for x in grid.centers]) + grid.widths[0][0], np.ones(1)))
    except InvalidInput:
        return None
    return found


def _masses(rho: Density) -> Array:
    masses: Array = np.asarray(rho.masses).ravel() / rho.mass
    return masses


class _Step:
    """One step back in time by the implicit midpoint rule, with the interaction as an update of low rank."""

    def __init__(self, model: ReducedModel, grid: Grid, points: Array, beta: float, ridge: float):
        self.model, self.grid, self.points, self.beta, self.ridge = model, grid, points, beta, ridge
        self.features = np.asarray(model.features(*points))
        self.differences = _differences(grid)
        self.steepness = [(step @ self.features.T).T for step in self.differences]
        self.log_reference = np.asarray(grid.log_reference).ravel()

    def back(self, g: Array, law: WeightedPoints, length: float) -> tuple[Array, Array]:
        """Return g before a step, and in its middle, each of shape (rows, cells)."""
        size = self.points.shape[1]
        system = sparse.identity(size, format="csc") - 0.5 * length * self._generator(law)
        solve = splu(system.tocsc()).solve
        # (S + U C) g_mid = g with U = (length / 2) F' s, s the curvatures, and C g = c: Woodbury's formula.
        curvature = self.model.moment_curvature(law.expect(self.features))
        spread = solve(0.5 * length * (self.features * curvature[:, None]).T)
        pairing = self._pairing(law)
        plain = solve(g.T)
        inner = np.eye(len(self.features)) + pairing @ spread
        mid = (plain - spread @ np.linalg.solve(inner, pairing @ plain)).T
        return 2.0 * mid - g, mid

    def rates(self, g: Array, law: WeightedPoints) -> tuple[Array, Array]:
        """Return the covariance that a sample adds, and ``int grad g . grad g' rho``, each (rows, rows)."""
        injected, fields = np.zeros((len(g), len(g))), []
        for step in self.differences:
            steep, masses = (step @ g.T).T, _on_edges(step, law.weights)
            injected += (steep * masses) @ steep.T
            # Half of what an edge carries belongs to each of its cells.
            fields.append(0.5 * (abs(step) > 0).astype(float).T.dot((steep * masses).T).T)
        gradients = np.stack(fields, axis=1) / np.maximum(law.weights, _TINY)
        return self.model.sample_covariance(Atoms(self.points, law.weights), gradients), injected

    def _pairing(self, law: WeightedPoints) -> Array:
        """Return the matrix (features, cells) of ``g -> c_k = int grad g . grad F_k rho``."""
        total = np.zeros_like(self.features)
        for step, steep in zip(self.differences, self.steepness):
            total += (step.T @ (steep * _on_edges(step, law.weights)).T).T
        return total

    def _generator(self, law: WeightedPoints) -> sparse.csc_matrix:
        """Return the generator of the diffusion, ``-grad Psi . grad g + beta^-1 Lap g``, by Scharfetter-Gummel rates.

        It is in detailed balance with the masses exp(-beta Psi) times the reference measure of the cells.
        """
        model, size = self.model, self.points.shape[1]
        pull = model.moment_slopes(law.expect(self.features))
        psi = pull @ self.features + 0.5 * self.ridge * np.asarray(model.squared_norm(*self.points)).ravel()
        total = sparse.csc_matrix((size, size))
        for axis, step in enumerate(self.differences):
            # Reference masses are widths times a weight: its logarithm joins beta Psi, the widths stay.
            widths = np.broadcast_to(_along(self.grid.widths[axis], axis, self.grid.ndim), self.grid.shape).ravel()
            height = self.beta * psi - self.log_reference + np.log(widths)
            drop = _neighbor(step, height, 1) - _neighbor(step, height, -1)
            for side, q in ((-1, drop), (1, -drop)):
                rates = sparse.diags(-side * _bernoulli(q) / (self.beta * _neighbor(step, widths, side)))
                total = total + _selector(step, side).T @ rates @ step
        return total.tocsc()


def _differences(grid: Grid) -> list[sparse.csr_matrix]:
    """Return, for each axis, the matrix (edges, cells) of differences over the distance between two centers."""
    matrices = []
    for axis in range(grid.ndim):
        n, distances = grid.shape[axis], np.asarray(grid.distances[axis])
        count = distances.size  # n - 1 edges between cells, n on a circle
        upper = sparse.csr_matrix((1.0 / distances, (np.arange(count), (np.arange(count) + 1) % n)), shape=(count, n))
        lower = sparse.csr_matrix((1.0 / distances, (np.arange(count), np.arange(count))), shape=(count, n))
        matrix = upper - lower
        for k in range(axis - 1, -1, -1):
            matrix = sparse.kron(sparse.identity(grid.shape[k]), matrix)
        for k in range(axis + 1, grid.ndim):
            matrix = sparse.kron(matrix, sparse.identity(grid.shape[k]))
        matrices.append(matrix.tocsr())
    return matrices


def _selector(step: sparse.csr_matrix, side: int) -> sparse.csr_matrix:
    """Return the matrix (edges, cells) that picks the upper (1) or the lower (-1) cell of each edge."""
    return (step > 0 if side > 0 else step < 0).astype(float)


def _neighbor(step: sparse.csr_matrix, values: Array, side: int) -> Array:
    found: Array = _selector(step, side) @ values
    return found


def _on_edges(step: sparse.csr_matrix, masses: Array) -> Array:
    """Return the mean of the masses at both sides of each edge."""
    found: Array = 0.5 * (abs(step) > 0).astype(float) @ masses
    return found


def _along(values: Array, axis: int, ndim: int) -> Array:
    return np.asarray(values).reshape([-1 if k == axis else 1 for k in range(ndim)])


def _bernoulli(q: Array) -> Array:
    """Return q / (exp(q) - 1), 1 at q = 0."""
    small = np.abs(q) < 1e-8
    safe = np.where(small, 1.0, np.clip(q, -700.0, 700.0))
    return np.where(small, 1.0 - 0.5 * q, safe / np.expm1(safe))
