"""Faults put into `Lagrangian`, for `fault_injection`: atoms along characteristics, and particles with noise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np

import wgflow as wg
from wgflow.energies.free_energy import FreeEnergy
from wgflow.flows import Flow
from wgflow.solvers.lagrangian.characteristics import CharacteristicsRun
from wgflow.solvers.lagrangian.cloud import Cloud
from wgflow.solvers.lagrangian.langevin import LangevinRun

Run = Callable[[], wg.Solution]
CLOUD = wg.Atoms(np.linspace(-0.6, 1.4, 60), np.full(60, 1 / 60))
TRAP = wg.Potential(lambda x: (x - 0.3) ** 2 / 2)
WELL = wg.Potential(lambda x: x * x * (x * x / 4 - 0.5))
PULL = wg.Interaction(wg.Convolution(lambda z: -np.exp(-(z**2))))
MEAN = wg.LowRank(lambda x: x[None], signs=[-0.5])


def atoms(energy: Any = WELL + PULL, t_end: float = 2.0, **options: Any) -> Run:
    return lambda: wg.solve(energy, CLOUD, (0, t_end), wg.Lagrangian(), **options)


NOISY = wg.Entropy(2.0) + WELL + MEAN


def particles(energy: Any = NOISY, n: int = 10000, t_end: float = 6.0, dt: float = 0.02,
              start: float = 0.5) -> Run:
    def run() -> wg.Solution:
        points = np.random.default_rng(8231).normal(start, 0.4, n)
        return wg.solve(energy, wg.Atoms(points, np.full(n, 1.0 / n)), (0, t_end), wg.Lagrangian(dt=dt, rng=63),
                        t_eval=[t_end])
    return run


def changed(cls: type, name: str, change: Callable[..., Any]) -> AbstractContextManager:
    """Return a context in which a method of a class is ``change(old, self, *args)``."""
    old = getattr(cls, name)
    return mock.patch.object(cls, name, lambda self, *args, **options: change(old, self, *args, **options))


def terms(**factors: float) -> AbstractContextManager:
    """Return a context in which the terms of the solver's energy are scaled, by the names of their classes."""
    def scaled(old, self, t):
        return FreeEnergy([(factor * factors.get(type(term).__name__, 1.0), term)
                           for factor, term in old(self, t).terms])

    return changed(Flow, "energy_at", scaled)


def scaled_noise(old, self, points, elapsed):
    return old(self, points, 1.1**2 * elapsed)


def clock(old, self, *args):
    return 1.03 * old(self, *args)


def drift(old, self, *args):
    return 1.03 * old(self, *args)


def frozen(old, self, t):
    return old(self, 0.0)


def swinging(t: float) -> wg.Potential:
    return wg.Potential(lambda x: (x - np.sin(2 * t)) ** 2 / 2)


SWING = wg.TimeDependent(swinging)
FALL = particles(wg.Entropy(2.0) + TRAP, 60000, 1.5, start=3.0)
CLOUD_RUN, PARTICLES = atoms(), particles()

ATOM_FAULTS: list[tuple[str, Run, Callable[[], AbstractContextManager]]] = [
    ("atoms: clock 3 % fast", CLOUD_RUN, lambda: changed(Flow, "scale_at", clock)),
    ("atoms: force 3 % strong", atoms(1.0 * TRAP), lambda: changed(Cloud, "gradient", drift)),
    ("atoms: potential left out", CLOUD_RUN, lambda: terms(Potential=0.0)),
    ("atoms: interaction halved", CLOUD_RUN, lambda: terms(Interaction=0.5)),
    ("atoms: interaction left out", CLOUD_RUN, lambda: terms(Interaction=0.0)),
    ("atoms: steps 3 % short", CLOUD_RUN, lambda: changed(
        CharacteristicsRun, "_rate", lambda old, self, t, y: 0.97 * old(self, t, y))),
    ("particles: clock 3 % fast", FALL, lambda: changed(Flow, "elapsed", clock)),
    ("particles: force 3 % strong", FALL, lambda: changed(Cloud, "gradient", drift)),
    ("particles: noise 10 % strong", PARTICLES, lambda: changed(LangevinRun, "_noise", scaled_noise)),
    ("particles: interaction halved", PARTICLES, lambda: terms(LowRank=0.5)),
    ("particles: potential left out", PARTICLES, lambda: terms(Potential=0.0)),
    ("particles: terms in time frozen", particles(wg.Entropy(2.0) + SWING, 4000, 4.0),
     lambda: changed(Flow, "energy_at", frozen)),
]
