"""Independent runs of particles at many widths and step sizes, through `sweep`: any executor, with restart."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from wgflow.checks import check_count, check_positive, real_array
from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models.base import NetworkModel, ReducedModel

from ...particles import run_sgd
from ...sweeps import sweep

__all__ = ["DYNAMICS", "Batch", "Simulation", "Settings", "rising", "simulate"]

Array = NDArray[np.float64]
DYNAMICS = ("sgd", "gradient flow")
#: Parts into which the runs of one width and step are divided; each is an item of the sweep.
_PARTS = 16
#: Of the error of a step of the gradient flow: far below the scatter of any width that is affordable.
_TOLERANCE = 1e-5
#: Cells of the grid from whose density points are drawn where a model has no network.
_CELLS = 800


@dataclass(frozen=True)
class Settings:
    """How runs are made, whatever they are for.

    Attributes
    ----------
    rng : int or SeedSequence
        Seed of all runs.
    folder : path, optional
        Where finished runs are kept; the same call finds them there.
    executor : Executor or int, optional
        As in `sweep`; by default threads, one for each core.
    progress : bool
    """

    rng: Any = 7
    folder: str | Path | None = None
    executor: Any = None
    progress: bool = False


@dataclass(frozen=True)
class Batch:
    """Runs at one width and step size: coordinates (runs, times, n_neurons, coordinates) and risks (runs, times)."""

    n_neurons: int
    step_size: float
    coordinates: Array = field(repr=False)
    risk: Array = field(repr=False)


@dataclass(frozen=True)
class Simulation:
    """A function from a width, a step size and a generator to the coordinates and risks of independent runs.

    Attributes
    ----------
    model : ReducedModel
        SGD needs a `NetworkModel`; the gradient flow takes any.
    t : tuple of float
        Output times, increasing.
    dynamics : {"sgd", "gradient flow"}
        The gradient flow of N particles in the population risk has no samples and no step size.
    kappa, beta, ridge, noise_constant
        As in `run_sgd`.
    theta0 : array of shape (n_neurons, n_parameters), optional
        The start of every run; by default each draws its own.
    """

    model: ReducedModel
    t: tuple[float, ...]
    dynamics: str = "sgd"
    kappa: float = 0.8
    beta: float = math.inf
    ridge: float = 0.0
    noise_constant: float = 4.0
    theta0: Array | None = field(default=None, repr=False)

    #: Under which `sweep` files the results.
    name = "simulation"

    def __post_init__(self) -> None:
        if not isinstance(self.model, ReducedModel):
            raise InvalidType(f"model must be a wgflow.reduced_models.ReducedModel, got {type(self.model).__name__}")
        if self.dynamics not in DYNAMICS:
            raise InvalidInput(f"dynamics={self.dynamics!r}: must be one of {', '.join(map(repr, DYNAMICS))}")
        if self.dynamics == "sgd" and not isinstance(self.model, NetworkModel):
            raise InvalidInput(f"{self.model.name} is no NetworkModel, so that SGD has nothing to train; take "
                               "dynamics='gradient flow'")
        if self.dynamics == "gradient flow" and not math.isinf(self.beta):
            raise InvalidInput(f"beta={self.beta:g}: the gradient flow of particles has no noise; take dynamics='sgd'")

    @cached_property
    def digest(self) -> str:
        """A name for everything that decides the runs, the same in every process."""
        points = np.asarray(self.model.initial_atoms(self.kappa).points)
        # A repr may round the model's numbers, or be the default one.
        known: list[Any] = [self.model.features(*points).tolist(), self.model.target.tolist()]
        if isinstance(self.model, NetworkModel):
            x, y = self.model.sample_data(4, np.random.default_rng(20011))
            known += [x.tolist(), y.tolist()]
        theta0 = None if self.theta0 is None else np.asarray(self.theta0).tolist()
        known += [type(self.model).__qualname__, self.t, self.dynamics, self.kappa, self.beta, self.ridge,
                  self.noise_constant, theta0]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def __call__(self, n_neurons: int, step_size: float, runs: int, part: int,
                 rng: np.random.Generator) -> dict[str, Array]:
        """Return ``coordinates`` (runs, times, n_neurons, coordinates) and ``risk`` (runs, times)."""
        model = self.model
        if self.dynamics == "sgd" and isinstance(model, NetworkModel):
            made = run_sgd(model, n_neurons, step_size, self.t, rng, runs, self.beta, self.ridge, self.kappa,
                           self.theta0, noise_constant=self.noise_constant, store_theta=False)
            return {"coordinates": made.coordinates, "risk": made.risk}
        coordinates = self._flow(np.stack([self._start(n_neurons, rng) for _ in range(runs)], axis=1))
        moments = [[np.mean(model.features(*x), axis=1) for x in at_time.swapaxes(0, 1)] for at_time in coordinates]
        risk = np.array([[model.risk_of_moments(z) for z in at_time] for at_time in moments])
        return {"coordinates": coordinates.transpose(2, 0, 3, 1), "risk": risk.T}

    @cached_property
    def _density(self) -> Density:
        return self.model.initial_density(self.kappa, self.model.grid(_CELLS))

    def _start(self, count: int, rng: np.random.Generator) -> Array:
        """Return independent draws from the initial law, shape (coordinates, count)."""
        if isinstance(self.model, NetworkModel):
            theta = self.model.initial_theta(count, self.kappa, rng) if self.theta0 is None else self.theta0
            return self.model.project(theta).T
        return np.asarray(self._density.sample(count, rng)).reshape(count, -1).T

    def _flow(self, start: Array) -> Array:
        """Move points (coordinates, runs, N) in the risk of their own run; shape (times, coordinates, runs, N).

        The flow of `run_gradient_flow`, for all runs at once: small networks one by one would cost calls alone.
        """
        model, shape = self.model, start.shape
        lower = _lowest(model)[:, None]

        def velocity(_: float, state: Array) -> Array:
            raw = state.reshape(shape[0], -1)
            x = np.maximum(raw, lower)
            moments = model.features(*x).reshape(-1, *shape[1:]).mean(axis=2)
            pull = model.signs[:, None] * (moments - model.target[:, None])
            slopes = model.feature_gradients(*x).reshape(-1, *shape)
            found = np.einsum("kr,kcrn->crn", pull, slopes).reshape(shape[0], -1)
            if self.ridge:
                found = found + 0.5 * self.ridge * model.squared_norm_gradient(*x)
            rate = -model.time_scale * found
            return np.where(raw > lower, rate, np.maximum(rate, 0.0)).ravel()

        if self.t[-1] == 0.0:
            return start[None]
        found = solve_ivp(velocity, (0.0, self.t[-1]), start.ravel(), method="DOP853", t_eval=self.t, rtol=_TOLERANCE,
                          atol=_TOLERANCE)
        if not found.success or not np.isfinite(found.y).all():
            raise ConvergenceError(f"the gradient flow of {self.model.name} ends at t={found.t[-1]:g}: {found.message}",
                                   reason="step", t=float(found.t[-1]))
        return np.maximum(found.y.T.reshape(-1, shape[0], shape[1] * shape[2]), lower).reshape(-1, *shape)


def _lowest(model: ReducedModel) -> Array:
    """Return the least value of each coordinate: 0 for lengths, which carry a reference measure, else -infinity."""
    grid = model.grid(8)
    low = np.array([low for low, _ in grid.bounds])
    return np.where((low == 0.0) & (model.log_weight(grid) is not None), 0.0, -np.inf)


def rising(name: str, values: ArrayLike, least: float = 0.0) -> tuple[float, ...]:
    """Return values as numbers that rise from above ``least`` (0 is allowed for times), or say what is wrong."""
    found = np.atleast_1d(real_array(values, name))
    if found.ndim != 1 or not np.isfinite(found).all() or found[0] < least or np.any(np.diff(found) <= 0.0):
        raise InvalidInput(f"{name} must be a 1-D array of numbers >= {least:g} that increase strictly, got {values!r}")
    return tuple(map(float, found))


def simulate(simulation: Simulation, points: Sequence[tuple[int, float, int]], settings: Settings) -> list[Batch]:
    """Make independent runs at several widths and step sizes.

    Parameters
    ----------
    simulation : Simulation
    points : sequence of (n_neurons, step_size, runs)
        The step size of the gradient flow is 0.
    settings : Settings

    Returns
    -------
    list of Batch
        In the order of ``points``.
    """
    # The dearest first, so that no worker is left alone with it at the end.
    order = sorted(range(len(points)), key=lambda k: -points[k][0] / (points[k][1] or 1.0))
    items, owners = [], []
    for k in order:
        n_neurons, step_size, runs = points[k]
        check_count("runs", runs, 2)
        check_positive("step_size", step_size, zero=simulation.dynamics != "sgd")
        for part, size in enumerate(_parts(runs)):
            items.append({"n_neurons": int(n_neurons), "step_size": float(step_size), "runs": size, "part": part})
            owners.append(k)
    threads = ThreadPoolExecutor(os.cpu_count() or 1) if settings.executor is None else nullcontext(settings.executor)
    with threads as executor:
        made = sweep(simulation, items, rng=settings.rng, folder=settings.folder, executor=executor,
                     progress=settings.progress)
    batches = []
    for k, (n_neurons, step_size, _) in enumerate(points):
        own = [found for owner, found in zip(owners, made.outcomes) if owner == k and found is not None]
        batches.append(Batch(n_neurons, step_size, *(np.concatenate([each[name] for each in own])
                                                     for name in ("coordinates", "risk"))))
    return batches


def _parts(runs: int) -> list[int]:
    """Return ``runs`` as a sum of at most `_PARTS` numbers that differ by one at most."""
    count = min(runs, _PARTS)
    return [runs // count + (k < runs % count) for k in range(count)]
