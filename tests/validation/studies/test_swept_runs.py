"""Runs of a study that are swept: which are made, which are read again, and when networks leave a plateau."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow.reduced_models import IsotropicGaussian
from wgflow.validation.fluctuations import Scatter
from wgflow.validation.particles import SGDResult, run_sgd
from wgflow.validation.studies.predicting_failure import failing_run
from wgflow.validation.studies.rectifier_escape import Escape, escape_check, escape_times, extrapolated
from wgflow.validation.studies.swept_runs import one_run, swept_runs

MODEL = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
TIMES = np.arange(0.0, 60.0, 2.5)


def test_a_run_is_that_of_run_sgd_with_its_own_seed():
    found = one_run(MODEL, seed=11, run=1, n_neurons=12, step_size=1e-3, t_eval=[0.0, 0.01])
    alone = run_sgd(MODEL, 12, 1e-3, [0.0, 0.01], rng=np.random.SeedSequence(11, spawn_key=(1,)))
    assert np.array_equal(found["risk"], alone.risk[0])
    assert np.array_equal(found["coordinates"], alone.coordinates[0])


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path):
    kinds = [{"kappa": 0.4, "growing": True, "n_neurons": n, "step_size": 1e-5, "times": (0.0, 1e-4), "seed": 5,
              "n_runs": n_runs} for n, n_runs in ((4, 1), (6, 2))]

    def files():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("item-*.npz")}

    first = swept_runs(failing_run, kinds, [MODEL, MODEL], tmp_path)
    assert [(sgd.n_neurons, sgd.n_runs, sgd.step_size) for sgd in first] == [(4, 1, 1e-5), (6, 2, 1e-5)]
    assert not np.array_equal(first[1].risk[0], first[1].risk[1])
    before = files()
    assert len(before) == 3
    next((tmp_path / "runs").glob("item-*.npz")).unlink()  # as if the study had been interrupted
    again = swept_runs(failing_run, kinds, [MODEL, MODEL], tmp_path)
    assert sum(files()[name] != time for name, time in before.items()) == 1
    assert all(np.array_equal(one.coordinates, other.coordinates) for one, other in zip(first, again))
    middle = files()
    swept_runs(failing_run, kinds, [MODEL, MODEL], tmp_path, fresh=True)
    assert all(files()[name] != time for name, time in middle.items())


def falling(at, n_neurons, step_size):
    """Runs whose risk falls from 1 to 0, half way at the given times."""
    at = np.atleast_1d(at)
    risk = 0.5 * (1.0 - np.tanh((TIMES - at[:, None]) / 6.0))
    return SGDResult(t=TIMES, steps=np.rint(TIMES / step_size).astype(int), theta=None, n_neurons=n_neurons,
                     step_size=step_size, seed_entropy=0, seed_state={}, model=MODEL, beta=math.inf, ridge=0.0,
                     coordinates=np.zeros((at.size, TIMES.size, n_neurons, 1)), risk=risk)


def escape(time=30.0):
    """The variance of the risk is 1/N + 100 times the step."""
    one, none = np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1, 1))
    scatter = Scatter(np.array([time]), ("risk",), np.array([[0.5]]), 10, 1e-3, one, 100.0 * one, none)
    return Escape(0.5, time, -0.1, scatter)


def test_when_the_risk_has_fallen_half_way():
    np.testing.assert_allclose(escape_times(falling([21.3, 30.0, 33.9], 5, 1e-3), 0.5), [21.3, 30.0, 33.9], atol=0.02)
    assert np.isnan(escape_times(falling(300.0, 5, 1e-3), 0.5)).all()
    assert escape().deviation(falling(30.0, 50, 1e-4)) == pytest.approx(math.sqrt(1 / 50 + 100 * 1e-4) / 0.1)


@pytest.mark.parametrize("kinds", [
    [(80, 1e-4), (40, 2e-4), (20, 4e-4)],
    [(80, 1e-4), (40, 2e-4), (20, 4e-4), (80, 2e-4), (20, 1e-4)],
])
def test_the_limit_is_found_from_kinds_of_runs(kinds):
    def at(n, step):
        return 30.0 + 5e3 * step + 1e6 * step**2 + 8.0 / n

    found = [falling(at(n, step), n, step) for n, step in kinds]
    time, error = extrapolated(escape(), found)
    assert time == pytest.approx(30.0, abs=0.05)
    assert error > 0.0
    four = [falling([at(n, step)] * 4, n, step) for n, step in kinds]
    assert extrapolated(escape(), four)[1] == pytest.approx(error / 2)
    assert escape_check("here", escape(), found, 0.01).passed
    assert not escape_check("here", escape(30.0 + 3.0 * error), found, 0.01).passed
