"""The gradient flow of N neurons: against the Lagrangian solution, exact laws and small-step SGD."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import NonMonotone
from wgflow.atoms import Atoms
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, ResourceError
from wgflow.reduced_models import AnisotropicGaussian, FiniteData, IsotropicGaussian, LinearNeuron
from wgflow.validation import compare, run_gradient_flow, run_sgd

ISOTROPIC = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)


@pytest.mark.parametrize("model", [
    ISOTROPIC,
    AnisotropicGaussian(d=40, s0=10, tau_plus2=1.5, tau_minus2=0.5),
    FiniteData(x=[[-1.0], [0.5], [2.0]], y=[-0.5, 0.2, 0.4]),
], ids=lambda model: model.name)
def test_equals_the_lagrangian_solution_of_the_same_atoms(model):
    flow = run_gradient_flow(model, 30, [0.0, 0.3, 1.0], rng=7, ridge=0.1, tolerance=1e-8)
    start = Atoms(flow.coordinates[0, 0].T, np.full(30, 1 / 30))
    sol = wg.solve(model.energy(ridge=0.1), start, (0, 1.0), t_eval=[0.0, 0.3, 1.0], time_scale=model.time_scale,
                   method=wg.Lagrangian())
    for j, t in enumerate(flow.t):
        atoms = np.sort(sol.density(t).points, axis=1)
        assert np.sort(flow.coordinates[0, j].T, axis=1) == pytest.approx(atoms, abs=1e-6)
        assert flow.risk[0, j] == pytest.approx(model.risk(sol.density(t)), abs=1e-6)
    assert np.abs(flow.coordinates[0, 2] - flow.coordinates[0, 0]).max() > 0.1


def test_linear_neuron_has_the_stated_mean():
    """m' = -2 ((S + ridge) m - S b) in the mean; deviations from the mean shrink by exp(-2 ridge t)."""
    covariance, b, ridge, t = np.diag([2.0, 0.5]), np.array([1.0, -1.0]), 0.7, 0.5
    flow = run_gradient_flow(LinearNeuron(covariance, b), 50, [0.0, t], rng=3, ridge=ridge, tolerance=1e-8)
    x0, x1 = flow.coordinates[0]
    rates, m0 = np.diag(covariance) + ridge, x0.mean(axis=0)
    rest = np.diag(covariance) * b / rates
    assert x1.mean(axis=0) == pytest.approx(rest + (m0 - rest) * np.exp(-2 * rates * t), abs=1e-7)
    assert x1 - x1.mean(axis=0) == pytest.approx((x0 - m0) * np.exp(-2 * ridge * t), abs=1e-7)


@pytest.mark.slow
def test_converges_to_the_mean_field_limit_at_the_rate_of_the_draw():
    """R(0.1) = .93594332 of the limit law; the error of the mean radius falls as the root of N."""
    errors = []
    for n in (50, 800):
        flow = run_gradient_flow(ISOTROPIC, n, [0.1], rng=11, n_runs=40, tolerance=1e-5)
        errors.append(np.sqrt(np.mean((flow.coordinates[:, 0].mean(axis=(1, 2)) - 1.1659538) ** 2)))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.35)
    assert flow.risk.mean() == pytest.approx(0.93594332, abs=4 * flow.risk.std() / np.sqrt(40) + 1e-3)


def test_the_same_seed_gives_the_neurons_that_sgd_starts_from():
    flow = run_gradient_flow(ISOTROPIC, 20, [0.0, 0.1], rng=7, n_runs=2)
    sgd = run_sgd(ISOTROPIC, 20, 1e-4, [0.0, 0.1], rng=7, n_runs=2)
    assert np.array_equal(flow.coordinates[:, 0], sgd.coordinates[:, 0])
    assert not np.array_equal(flow.coordinates[0, 0], flow.coordinates[1, 0])
    given = run_gradient_flow(ISOTROPIC, 20, [0.0, 0.1], rng=1, n_runs=2, theta0=sgd.theta[:, 0])
    assert np.array_equal(given.coordinates, flow.coordinates)


def test_output_times_change_the_curve_by_the_tolerance_only():
    few = run_gradient_flow(ISOTROPIC, 200, [1.0], rng=7, tolerance=1e-7)
    many = run_gradient_flow(ISOTROPIC, 200, np.linspace(0.0, 1.0, 23), rng=7, tolerance=1e-7)
    assert many.coordinates[0, -1] == pytest.approx(few.coordinates[0, -1], abs=1e-5)
    assert np.all(np.diff(many.risk[0]) < 0.0)


def test_radii_stop_at_zero():
    """NONMON from kappa = .1: all neurons fall to w = 0, where the risk is 1 + sigma(0)^2 = 7.25."""
    model = IsotropicGaussian(d=320, tau_plus2=1.5, tau_minus2=0.5, activation=NonMonotone())
    flow = run_gradient_flow(model, 200, [0.0, 0.1], rng=7, kappa=0.1)
    assert flow.risk[0, 1] == pytest.approx(7.25, abs=1e-6)
    assert flow.coordinates.min() >= 0.0
    assert flow.coordinates[0, 1].max() == 0.0


def test_compare_takes_it():
    flow = run_gradient_flow(ISOTROPIC, 400, [0.0, 0.1, 0.5], rng=5, n_runs=3)
    sol = wg.solve(ISOTROPIC.energy(), ISOTROPIC.initial_atoms(0.8, 80), (0, 0.5), t_eval=flow.t,
                   time_scale=ISOTROPIC.time_scale, method=wg.Lagrangian())
    assert compare(sol, flow).passed


@pytest.mark.slow
def test_bits_do_not_depend_on_the_threads():
    script = ("import hashlib; from wgflow.reduced_models import IsotropicGaussian;"
              "from wgflow.validation import run_gradient_flow;"
              "m = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2);"
              "print(hashlib.sha256(run_gradient_flow(m, 20000, [0.05], rng=7).coordinates.tobytes()).hexdigest())")
    bits = set()
    for threads in ("1", "2"):
        names = ("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
        bits.add(done.stdout)
    assert len(bits) == 1


@pytest.mark.parametrize(("change", "error", "message"), [
    (dict(model="isotropic"), InvalidType, "NetworkModel"),
    (dict(n_neurons=0), InvalidInput, "n_neurons=0"),
    (dict(n_runs=0), InvalidInput, "n_runs=0"),
    (dict(tolerance=0.0), InvalidInput, "tolerance=0"),
    (dict(ridge=-1.0), InvalidInput, "ridge=-1"),
    (dict(t_eval=[0.1, 0.0]), InvalidInput, "increase strictly"),
    (dict(rng=None), InvalidInput, "could not be repeated"),
    (dict(n_neurons=10**12), ResourceError, "n_neurons=1000000000000"),
    (dict(theta0=np.ones((5, 40))), InvalidInput, "theta0 has shape"),
    (dict(tolerance=1e-40), ConvergenceError, "needs steps below"),
])
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        run_gradient_flow(**{**dict(model=ISOTROPIC, n_neurons=4, t_eval=[0.0, 0.1], rng=7), **change})
