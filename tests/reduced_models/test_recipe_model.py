"""The recipe of a network model passes check_model and agrees with SGD and an exact solution; wrong variants fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput
from wgflow.reduced_models import QuadraticActivation, check_model

PATH = Path(__file__).resolve().parents[2] / "examples" / "recipes" / "network_model.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("recipe_network_model", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipe_runs_and_passes(recipe, capsys):
    report, comparison = recipe.main()
    assert report.passed
    assert comparison.passed
    assert "risk 1.95" in capsys.readouterr().out


def test_the_class_stays_short():
    lines = PATH.read_text(encoding="utf-8").splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("class "))
    last = next(k for k, line in enumerate(lines) if line.startswith("def main"))
    assert last - first <= 62


@pytest.mark.parametrize("beta", [np.inf, 20.0])
def test_the_flow_is_that_of_all_weights(recipe, beta):
    # The second moments of w solve the Riccati equation of QuadraticActivation with B = e_1 e_1'.
    d, t, ridge = 5, 0.15, 0.2
    model = recipe.PhaseRetrieval(d)
    exact = QuadraticActivation(np.diag([1.0] + [0.0] * (d - 1))).exact(t, 0.0, 0.64 / d, beta, ridge)
    errors = []
    for cells in (50, 100):
        rho0 = model.initial_density(0.8, model.grid((2 * cells, cells)))
        sol = wg.solve(model.energy(beta, ridge), rho0, (0, t), time_scale=model.time_scale)
        assert sol.certificate.ok
        errors.append(abs(model.risk(sol.final) - exact.risk))
    assert errors[1] < 4e-4
    assert errors[1] < 0.4 * errors[0]


def test_noise_asks_for_the_models_grid(recipe):
    model = recipe.PhaseRetrieval(10)
    rho = wg.Density.uniform(wg.Grid([(-2, 2), (0, 2)], cells=20))
    with pytest.raises(InvalidInput, match="Lebesgue measure"):
        model.energy(beta=10.0)(rho)


def test_a_forgotten_root_fails(recipe):
    class Wrong(recipe.PhaseRetrieval):
        target = np.array([1.0, 1.0, 0.0])

    with pytest.raises(InvalidInput, match=r"Wrong \(phase retrieval\) fails V against samples: V\(m="):
        check_model(Wrong(10))


def test_the_weight_of_one_dimension_more_fails(recipe):
    class Wrong(recipe.PhaseRetrieval):
        def log_weight(self, grid):
            return super().log_weight(grid) + np.log(grid.mesh()[1])

    with pytest.raises(InvalidInput, match="fails log_weight: "):
        check_model(Wrong(10))


def test_sgd_does_not_lie_on_a_wrong_flow(recipe):
    model = recipe.PhaseRetrieval(10)
    sgd = wg.validation.run_sgd(model, 200, step_size=2e-4, t_eval=[0.0, 0.2], rng=20117, n_runs=8)
    rho0 = model.initial_density(0.8, model.grid())
    slow = wg.solve(model.energy(), rho0, (0, 0.2), t_eval=sgd.t, time_scale=1.0)
    assert not wg.validation.compare(slow, sgd).passed
