"""Random grids, densities, potentials and kernels of a given kind, drawn from a generator on the box [-2, 2]^d."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.densities import Density
from wgflow.energies import FreeEnergy
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.interactions import Convolution, Dense, Interaction, LowRank

__all__ = ["DENSITY_KINDS", "GRID_KINDS", "KERNEL_KINDS", "Kernel", "RandomFlow", "random_density", "random_grid",
           "random_kernel", "random_potential", "wave_potential"]

GRID_KINDS = ("even", "graded", "weighted")
DENSITY_KINDS = ("rough", "holes", "delta", "deltas", "smooth", "tiny")
KERNEL_KINDS = ("convolution", "low rank", "dense", "waves")


class Kernel(NamedTuple):
    """A symmetric kernel U: the term 1/2 int int U rho rho, and U between all cells, formed apart from the term.

    Attributes
    ----------
    term : Interaction
    table : array, shape (n, n)
        U between the centers of the n cells, in C order.
    """

    term: Interaction
    table: NDArray[np.float64]


@dataclass(frozen=True)
class RandomFlow:
    """A flow with its parts as arrays: d rho/dt = div(rho grad(V + U rho)) + beta^-1 Laplacian rho.

    Attributes
    ----------
    grid : Grid
    beta : float
        Inverse temperature; infinite without diffusion.
    V : array of the grid's shape
        The potential at the cell centers.
    table : array, shape (n, n)
        U between all cell centers; zeros if there is no interaction.
    energy : FreeEnergy
    rho : Density
        The start.
    drawn : tuple
        What was drawn, which is what a failing test prints.
    """

    grid: Grid
    beta: float
    V: NDArray[np.float64]
    table: NDArray[np.float64]
    energy: FreeEnergy
    rho: Density
    drawn: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"RandomFlow({self.drawn})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Of a dataclass, hypothesis prints every array.
        printer.text(repr(self))


def random_grid(rng: np.random.Generator, shape: tuple[int, ...], boundary: tuple[str, ...], kind: str) -> Grid:
    """Return a grid on [-2, 2]^d: of even or graded cells, or even ones with a rough reference measure."""
    edges = [np.linspace(-2, 2, n + 1) for n in shape]
    if kind == "graded":
        edges = [np.concatenate(([0.0], np.cumsum(rng.uniform(0.2, 1.0, n)))) for n in shape]
        edges = [4 * e / e[-1] - 2 for e in edges]
    log_weight = rng.normal(size=shape) if kind == "weighted" else None
    return Grid(edges=edges, boundary=boundary, log_weight=log_weight)


def random_density(rng: np.random.Generator, grid: Grid, kind: str) -> Density:
    """Return a density of a kind in `DENSITY_KINDS`; its mass is 1 or, half of the time, another number."""
    values = rng.random(grid.shape) ** 3
    if kind == "holes":
        values *= rng.random(grid.shape) < 0.5
    elif kind in ("delta", "deltas"):
        values = np.zeros(grid.shape)
        values.flat[rng.integers(grid.size, size=1 if kind == "delta" else 3)] = 1.0
    elif kind == "smooth":
        values = np.exp(-sum((x - 0.3) ** 2 for x in grid.mesh()))
    elif kind == "tiny":
        values = 10.0 ** rng.uniform(-300, 0, grid.shape)
    values = values if values.any() else np.ones(grid.shape)
    return Density.from_values(grid, values, normalize=bool(rng.integers(2)))


def random_potential(rng: np.random.Generator, grid: Grid, scale: float) -> NDArray[np.float64]:
    """Return an independent normal number of deviation ``scale`` in each cell."""
    return rng.normal(size=grid.shape) * scale


def wave_potential(rng: np.random.Generator, grid: Grid, scale: float, wavenumber: float) -> NDArray[np.float64]:
    """Return a smooth potential with several wells: two waves along each axis."""
    waves = [np.cos(wavenumber * x + rng.normal()) + rng.normal() * np.cos(np.pi * x) for x in grid.mesh()]
    return scale * np.sum(waves, axis=0)


def random_kernel(rng: np.random.Generator, grid: Grid, kind: str, scale: float) -> Kernel:
    """Return a symmetric, indefinite kernel of a kind in `KERNEL_KINDS` (convolutions: on even cells)."""
    n = grid.size
    if kind == "dense":
        A = rng.normal(size=(n, n)) * scale
        return Kernel(Interaction(Dense(A + A.T)), A + A.T)
    if kind == "low rank":
        features, signs = rng.normal(size=(5, *grid.shape)) * math.sqrt(scale), rng.choice([-1.0, 1.0], 5)
        flat = features.reshape(5, n)
        return Kernel(Interaction(LowRank(features, signs)), flat.T @ (signs[:, None] * flat))
    if kind == "waves":
        shifts, signs = rng.uniform(0, 2 * np.pi, (3, grid.ndim)), rng.choice([-1.0, 1.0], 3)
        features = np.array([np.prod([np.cos(np.pi / 2 * x + c) for x, c in zip(grid.mesh(), shift)], axis=0)
                             for shift in shifts]) * math.sqrt(scale)
        flat = features.reshape(3, n)
        return Kernel(Interaction(LowRank(features, signs)), flat.T @ (signs[:, None] * flat))
    if kind != "convolution":
        raise InvalidInput(f"kind={kind!r}: need one of {', '.join(KERNEL_KINDS)}")
    a, b = rng.normal(size=2) * scale

    # Around a circle by the chord: smooth at the far side, too.
    turns = [math.pi / (high - low) if around else 0.0 for (low, high), around in zip(grid.bounds, grid.periodic)]

    def w(*x):
        squares = sum((np.sin(k * v) / k if k else v) ** 2 for v, k in zip(x, turns))
        return a * np.exp(-squares) + b * np.prod([np.cos(0.5 * np.pi * v) for v in x], axis=0)

    return Kernel(Interaction(Convolution(w)), w(*_displacements(grid)))


def _displacements(grid: Grid) -> list[NDArray[np.float64]]:
    """Return the displacements between all cells of an even grid, the shorter way around on periodic axes."""
    steps = []
    for k, i in enumerate(np.unravel_index(np.arange(grid.size), grid.shape)):
        step = i[:, None] - i[None, :]
        if grid.periodic[k]:
            cells = grid.shape[k]
            step = (step + cells // 2) % cells - cells // 2
        steps.append(step * ((grid.edges[k][-1] - grid.edges[k][0]) / grid.shape[k]))
    return steps
