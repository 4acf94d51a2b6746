"""Random flows: grids, energies of both signs, starts and steps drawn at random; what every accepted step must keep."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
from figures import Figure, Scale, counted

import wgflow as wg
from wgflow.calls import memory
from wgflow.testing.problems import (
    DENSITY_KINDS,
    random_density,
    random_grid,
    random_kernel,
    random_potential,
    wave_potential,
)

CELLS = {1: (5, 80), 2: (4, 18), 3: (3, 7)}
#: Relative change of the mass, rise of the energy by max(1, |F|), and L1 distance from a Gibbs state.
MASS, RISE, GIBBS = 1e-13, 1e-13, 1e-10


def _grid(rng: np.random.Generator, kind: str) -> wg.Grid:
    ndim = int(rng.choice([1, 1, 1, 2, 2, 3]))
    shape = tuple(int(rng.integers(*CELLS[ndim], endpoint=True)) for _ in range(ndim))
    boundary = tuple(str(rng.choice(["no-flux", "periodic"])) for _ in range(ndim))
    return random_grid(rng, shape, boundary, kind)


def _potential(rng: np.random.Generator, grid: wg.Grid) -> np.ndarray:
    scale = 10.0 ** rng.uniform(-1, 1.5)
    return random_potential(rng, grid, scale) if rng.random() < 0.5 else wave_potential(rng, grid, scale, 3.0)


def _flow(rng: np.random.Generator) -> tuple[wg.FreeEnergy, wg.Density, str]:
    """Return an energy, a start, and the draw in words."""
    kernel = str(rng.choice(["convolution", "low rank", "dense", "none"]))
    cells = str(rng.choice(["even", "even", "graded", "weighted"]))
    grid = _grid(rng, "even" if kernel == "convolution" else cells)
    beta = float(rng.choice([1.0, 10.0, 1e3, 1e6, math.inf]))
    energy = wg.Potential(_potential(rng, grid)) + wg.Entropy(beta)
    if kernel != "none":
        energy = energy + random_kernel(rng, grid, kernel, 10.0 ** rng.uniform(-1, 1.5)).term
    start = str(rng.choice(DENSITY_KINDS))
    return energy, random_density(rng, grid, start), f"{grid.shape} {cells} {kernel} beta={beta:g} {start}"


def _method(rng: np.random.Generator) -> tuple[wg.FiniteVolume, float]:
    """Return settings, and the length of the run: six fixed steps, or an adaptive run with a limit of steps."""
    dt, order = 10.0 ** rng.uniform(-3, 3), rng.choice([None, None, 2])
    scheme = str(rng.choice(["extrapolated", "extrapolated", "midpoint"]))
    if rng.random() < 0.25:
        return wg.FiniteVolume(rtol=float(rng.choice([1e-2, 1e-3])), max_steps=60, order=order, scheme=scheme), dt
    return wg.FiniteVolume(dt=dt, order=order, scheme=scheme), 6 * dt


def _worst(energy: wg.FreeEnergy, solution: wg.Solution) -> tuple[float, float, float]:
    """Return the least density, the largest drift of the mass and the largest rise of F, formed anew from the laws."""
    laws = solution.densities
    if len(laws) != len(solution.history):
        raise RuntimeError("not every accepted step was kept, so that rises would be those of several steps")
    masses = np.array([math.fsum(rho.masses.ravel()) for rho in laws])
    F = np.array([energy(rho) for rho in laws])
    rises = np.diff(F) / np.maximum(1.0, np.abs(F[:-1]))
    lowest = min(float(rho.values.min()) for rho in laws)  # NaN stays NaN, and fails
    return lowest, float(np.abs(masses / masses[0] - 1.0).max()), float(rises.max(initial=0.0))


def flows(scale: Scale) -> list[Figure]:
    """Every accepted step of random flows by finite volumes, and Gibbs states from which nothing may move."""
    rng, count = np.random.default_rng(scale.seed), scale.pick(60, 2000, 10_000)
    negative, drifts, rises, foreign, steps = [], [0.0], [0.0], [], 0
    with mock.patch.object(memory, "SNAPSHOTS", 100_000):
        for k in range(count):
            energy, rho, told = _flow(rng)
            method, span = _method(rng)
            told = f"case {k}: {told} {method}"
            try:
                solution = wg.solve(energy, rho, (0, span), method=method, throw=False)
                if not solution.success and "max_steps" not in solution.message:
                    foreign.append(f"{told}: {solution.message}")
                lowest, drift, rise = _worst(energy, solution)
            except Exception as error:
                foreign.append(f"{told}: {type(error).__name__}: {error}")
                continue
            steps += solution.certificate.n_accepted
            if not lowest >= 0.0:
                negative.append(f"{told}: {lowest:g}")
            drifts.append(drift)
            rises.append(rise)
    moved = _gibbs_states(rng, scale.pick(20, 400, 2000))
    return [counted("F15", "flows", "runs that end by an exception or early", count, foreign),
            counted("F2", "flows", "runs with a cell that is negative or not finite", count, negative),
            Figure("flows", "largest relative change of the mass", float(np.max(drifts)), MASS, steps, id="F1"),
            Figure("flows", "largest rise of the energy by max(1, |F|)", float(np.max(rises)), RISE, steps, id="F3"),
            Figure("flows", "largest way of a Gibbs state (L1)", float(np.max(moved)), GIBBS, len(moved),
                   id="F4")]


def _gibbs_states(rng: np.random.Generator, count: int) -> list[float]:
    """Return how far runs move that start from rho = w exp(-beta V) / Z."""
    moved = []
    for _ in range(count):
        grid = _grid(rng, str(rng.choice(["even", "graded", "weighted"])))
        beta, V = float(rng.choice([0.1, 1.0, 10.0])), _potential(rng, grid)
        exponent = -beta * V + (0.0 if grid.log_weight is None else grid.log_weight)
        start = wg.Density.from_values(grid, np.exp(exponent - exponent.max()), normalize=True)
        end = wg.solve(wg.Potential(V) + wg.Entropy(beta), start, (0, 10.0 ** rng.uniform(-2, 2)))
        moved.append(float(np.abs(end.final.masses - start.masses).sum()))
    return moved
