"""Noisy gradient descent: its mean step, its limit flow, its reference run, and bad input."""

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Softplus
from wgflow.reduced_models import Atoms, FiniteData, KLRegularizedNetwork
from wgflow.validation import compare, load_trajectories, run_noisy_gradient_descent

ANGLES = np.deg2rad([0.0, 60.0, 120.0])
X = 1.5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
Y = np.array([0.5, -0.3, 0.8])
LINE = KLRegularizedNetwork([1.0, -1.0], [0.8, -0.4], Softplus(), alpha=4.0, regularization=0.1)


def test_the_mean_step_is_the_gradient_of_the_energy_and_its_spread_the_temperature():
    m = KLRegularizedNetwork(X, Y, alpha=3.0, regularization=0.2, readout_scale=0.8, weight_scale=1.3)
    point, count, eta = np.array([0.7, -0.4, 0.9]), 40_000, 1e-3
    run = run_noisy_gradient_descent(m, count, eta, [0.0, eta], rng=3, theta0=np.tile(point, (count, 1)))
    move = (run.coordinates[0, 1] - run.coordinates[0, 0]) / eta
    law = Atoms(point[:, None], [1.0])
    gradient = m.energy().gradient(law, point[:, None])[:, 0]
    spread = np.sqrt(2 * 0.2 / eta)
    assert move.mean(axis=0) == pytest.approx(-gradient, abs=4.5 * spread / np.sqrt(count))
    assert move.std(axis=0) == pytest.approx([spread] * 3, rel=0.02)


def test_reference_run_of_a_wide_network():
    """N = 20,000 in pairs at alpha = 16: one draw, whose outputs scatter by alpha / sqrt(N)."""
    m = KLRegularizedNetwork(X, Y, alpha=16.0, regularization=0.1)
    run = run_noisy_gradient_descent(m, 20_000, 1e-4, [0.0, 0.0078, 0.0156, 0.0313, 0.0625], rng=5)
    assert run.risk[0, 0] == pytest.approx(np.mean(Y**2), abs=1e-15)
    assert np.sqrt(run.risk[0, 1:]) == pytest.approx(np.sqrt([0.1316, 0.0620, 0.0146, 0.0012]), abs=0.01)


@pytest.mark.slow
def test_particles_follow_the_flow():
    sol = wg.solve(LINE.energy(), LINE.initial_density(1.0, LINE.grid(128)), (0.0, 0.25), wg.FiniteVolume(rtol=1e-6),
                   t_eval=[0.0, 0.25])
    run = run_noisy_gradient_descent(LINE, 1200, 1e-3, sol.t, rng=5, n_runs=5, paired=False)
    comparison = compare(sol, run)
    assert comparison.passed, comparison
    other = KLRegularizedNetwork([1.0, -1.0], [0.8, -0.4], Softplus(), alpha=4.0, regularization=0.1, readout_scale=0.8)
    wrong = wg.solve(other.energy(), other.initial_density(1.0, other.grid(128)), (0.0, 0.25), t_eval=sol.t)
    assert not compare(wrong, run).passed


def test_runs_repeat_and_are_kept(tmp_path):
    runs = [run_noisy_gradient_descent(LINE, 100, 1e-3, [0.0, 0.05], rng=9, n_runs=2, folder=folder)
            for folder in (None, tmp_path / "kept")]
    kept = load_trajectories(tmp_path / "kept")
    for run in (runs[1], kept):
        np.testing.assert_array_equal(np.asarray(run.coordinates), runs[0].coordinates)
    assert runs[0].simulator == "noisy gradient descent"
    seen = []
    run_noisy_gradient_descent(LINE, 10, 1e-3, [0.1], rng=9, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100, 100)


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"n_neurons": 3}, wg.InvalidInput, "pairs"), ({"step_size": 0.0}, wg.InvalidInput, "step_size"),
    ({"t_eval": [0.1, 0.1001]}, wg.InvalidInput, "apart"), ({"theta0": np.ones((4, 3))}, wg.InvalidInput, "theta0"),
    ({"step_size": 20.0, "t_eval": [20000.0]}, wg.ConvergenceError, "smaller step_size"),
    ({"model": FiniteData([1.0], [1.0])}, TypeError, "KLRegularizedNetwork"),
])
def test_bad_input(change, error, words):
    settings = {"model": LINE, "n_neurons": 4, "step_size": 1e-3, "t_eval": [0.0, 0.1], "rng": 1} | change
    with pytest.raises(error, match=words):
        run_noisy_gradient_descent(**settings)
