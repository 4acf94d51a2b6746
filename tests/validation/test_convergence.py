"""All methods agree: each converges to the same reference on three problems, at its order in the time step."""

from __future__ import annotations

import math

import pytest

import wgflow as wg
from wgflow import cli
from wgflow.errors import InvalidInput
from wgflow.validation.convergence import METHODS, PROBLEMS, ConvergenceStudy, Run, convergence_study
from wgflow.validation.distances import wasserstein_1d

JKO_METHODS = [name for name in METHODS if name.startswith("JKO")]


@pytest.fixture(scope="module")
def study():
    return convergence_study(taus=(0.2, 0.1, 0.05), cells=200)


def floor(name: str) -> float:
    """W2 distance of the averages of a reference over coarse cells to itself."""
    problem = next(make() for make in PROBLEMS.values() if make().name == name)
    fine = problem.reference(200)
    grid = wg.Grid(problem.bounds, cells=200)
    return wasserstein_1d(wg.Density(grid, fine.masses.reshape(200, -1).sum(axis=1) / grid.volumes), fine)


@pytest.mark.slow
@pytest.mark.parametrize("problem", [make().name for make in PROBLEMS.values()])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_converges_to_the_reference(study, problem, method):
    runs = study.select(problem, method)
    assert all(run.certified for run in runs)
    assert runs[-1].error <= 5e-3
    if method in JKO_METHODS and "order 2" not in method:
        # First order in tau, with a constant that all first-order JKO schemes share.
        assert 0.4 <= runs[2].error / runs[1].error <= 0.6
        plain = study.select(problem, "JKO quantile")
        assert runs[0].error == pytest.approx(plain[0].error, rel=0.05)
    elif "linearized" not in method:
        assert runs[-1].error <= 0.25 * study.select(problem, "JKO quantile")[-1].error
        if method == "finite volume":
            # Of order three to five in time: steps of any of these lengths are at the floor of the grid.
            assert runs[0].error <= 1.1 * floor(problem)
        else:
            assert runs[1].error <= 0.45 * runs[0].error


@pytest.mark.slow
def test_the_linearized_scheme_converges_with_the_grid():
    # The error falls with tau and h together.
    errors = [convergence_study(["porous-medium"], ["JKO linearized"], taus=[tau], cells=cells).runs[0].error
              for tau, cells in ((0.1, 100), (0.05, 200), (0.025, 400))]
    assert errors[1] < 0.65 * errors[0]
    assert errors[2] < 0.65 * errors[1]


def test_orders_are_seen_above_the_floor_of_the_grid():
    taus = (0.2, 0.1, 0.05, 0.025, 0.0125)
    runs = tuple(Run("p", "m", tau, tau**2 + 2e-3, 1.0, True) for tau in taus)
    assert math.isfinite(ConvergenceStudy(runs, 100).order("p", "m"))
    exact = tuple(Run("p", "m", tau, tau**2, 1.0, True) for tau in taus)
    assert ConvergenceStudy(exact, 100).order("p", "m") == pytest.approx(2.0)
    assert math.isnan(ConvergenceStudy(exact[:2], 100).order("p", "m"))


def test_unknown_names():
    with pytest.raises(InvalidInput, match="unknown problem 'heat'; there are double-well"):
        convergence_study(["heat"])
    with pytest.raises(InvalidInput, match="unknown method"):
        convergence_study(methods=["magic"])


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    few = {"finite volume": METHODS["finite volume"], "JKO quantile": METHODS["JKO quantile"]}
    study = convergence_study(["double-well"], list(few), taus=(0.2, 0.1), cells=60)
    monkeypatch.setattr("wgflow.validation.convergence.convergence_study", lambda **_: study)
    assert cli.main(["convergence", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(study.table())
    assert (tmp_path / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "convergence.txt").read_text() == study.table() + "\n"
