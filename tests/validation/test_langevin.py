"""Langevin particles in independent runs: exact laws, streams of random numbers, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, ResourceError
from wgflow.validation import run_langevin

GRID = wg.Grid((-5, 6), cells=400)
RHO0 = wg.Density.gaussian(GRID, 1.5, 0.1)
WELL = wg.Entropy(beta=4.0) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)


def test_ornstein_uhlenbeck_has_its_mean_and_variance():
    run = run_langevin(WELL, RHO0, 4000, [0.0, 0.5], rng=7, n_runs=2)
    x = run.coordinates[:, 1, :, 0]
    variance = 0.25 + (0.1 - 0.25) * math.exp(-1.0)
    assert x.mean() == pytest.approx(1.5 * math.exp(-0.5), abs=4.5 * math.sqrt(variance / 8000))
    assert x.var() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / 8000))
    assert (run.simulator, run.model, run.risk, run.theta, run.step_size) == ("Langevin", None, None, None, 0.0)


def test_interacting_particles_pull_each_other():
    """U = (x - y)^2 / 2 without V: the mean of each run stays up to its noise, the variance falls as exp(-2 t)."""
    energy = wg.Entropy(beta=1e5) + wg.Interaction(lambda x, y: (x - y) ** 2 / 2)
    run = run_langevin(energy, RHO0, 300, [0.0, 1.0], rng=7, n_runs=2)
    first, last = run.coordinates[:, 0, :, 0], run.coordinates[:, 1, :, 0]
    assert last.mean(axis=1) == pytest.approx(first.mean(axis=1), abs=5 * math.sqrt(2e-5 / 300))
    assert last.var(axis=1) == pytest.approx(first.var(axis=1) * math.exp(-2.0), rel=0.02)


def test_a_clock_and_terms_that_change_with_time():
    fast = run_langevin(WELL, RHO0, 2000, [0.25], rng=7, time_scale=lambda t: 8 * t)
    assert fast.coordinates.mean() == pytest.approx(1.5 * math.exp(-0.25), abs=0.05)
    moving = wg.Entropy(beta=4.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - 3 * t) ** 2 / 2))
    run = run_langevin(moving, RHO0, 2000, [1.0], rng=7)
    # m' = 3 t - m from 1.5
    assert run.coordinates.mean() == pytest.approx(3 * (1 - 1) + 3 * math.exp(-1.0) + 1.5 * math.exp(-1.0), abs=0.06)


def test_runs_have_streams_of_their_own():
    one, two = (run_langevin(WELL, RHO0, 50, [0.0, 0.1], rng=7, n_runs=n) for n in (1, 2))
    assert np.array_equal(one.coordinates[0], two.coordinates[0])
    assert not np.array_equal(two.coordinates[0], two.coordinates[1])
    more = run_langevin(WELL, RHO0, 50, [0.0, 0.03, 0.1], rng=7)
    assert np.array_equal(more.coordinates[0, 0], one.coordinates[0, 0])
    state = np.random.SeedSequence(**two.seed_state)
    assert np.array_equal(run_langevin(WELL, RHO0, 50, [0.0, 0.1], rng=state, n_runs=2).coordinates, two.coordinates)


def test_a_limit_keeps_what_there_is():
    with pytest.raises(ConvergenceError, match="max_steps=3") as caught:
        run_langevin(WELL, RHO0, 50, [0.0, 0.01, 5.0], rng=7, dt=0.01, max_steps=3)
    assert caught.value.partial.t.tolist() == [0.0, 0.01]


@pytest.mark.parametrize(("change", "error", "message"), [
    (dict(energy="well"), InvalidType, "sum of terms"),
    (dict(energy=wg.Potential(lambda x: x**2)), InvalidInput, "no noise"),
    (dict(energy=WELL + wg.PowerEntropy(2.0)), InvalidInput, "linear diffusion"),
    (dict(rho0=np.zeros(3)), InvalidType, "Density or Atoms"),
    (dict(n_particles=0), InvalidInput, "n_particles=0"),
    (dict(n_particles=10**13), ResourceError, "n_neurons=10000000000000"),
    (dict(n_runs=0), InvalidInput, "n_runs=0"),
    (dict(t_eval=[0.2, 0.1]), InvalidInput, "increase strictly"),
    (dict(rng=None), InvalidInput, "could not be repeated"),
    (dict(dt=0.0), InvalidInput, "dt=0"),
    (dict(time_scale=-1.0), InvalidInput, "time_scale=-1"),
])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        run_langevin(**{**dict(energy=WELL, rho0=RHO0, n_particles=20, t_eval=[0.0, 0.1], rng=7), **change})
