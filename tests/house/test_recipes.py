"""Each recipe runs as it stands, is one file of 50 to 150 lines, and says something that is true."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import wgflow as wg

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.py"))


def recipe(name: str):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "examples" / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in annotations
    spec.loader.exec_module(module)
    return module


def test_the_page_names_every_recipe():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [path.stem for path in RECIPES] == ["distance", "experiment", "network_model", "property_tests", "scheme",
                                              "term"]
    for path in RECIPES:
        assert f"(../examples/recipes/{path.name})" in page


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_one_short_file(path):
    assert 50 <= path.read_text(encoding="utf-8").count("\n") <= 150


def test_a_distance(capsys):
    comparison = recipe("distance").main()
    assert comparison.passed
    rows = [comparison.row("energy distance of x", t=t) for t in comparison.t]
    assert all(0 < row["difference"] < row["upper"] < 0.2 for row in rows)
    assert "energy distance of x" in capsys.readouterr().out


def test_a_distance_sees_what_is_wrong():
    module = recipe("distance")
    grid = wg.Grid((-4, 4), cells=200)
    sol = wg.solve(wg.Potential(lambda x: 0 * x), wg.Density.gaussian(grid, 0.0, 1.0), (0, 1), t_eval=[0.0])
    wrong = np.random.default_rng(7).normal(0.4, 1.0, size=(5, 1, 160, 1))
    found = wg.validation.compare(sol, ([0.0], wrong), statistics=(module.EnergyDistance(),))
    assert not found.passed


def test_a_term():
    module = recipe("term")
    solutions = module.main()
    for sol in solutions.values():
        assert sol.certificate.ok
        assert sol.energy[-1] == pytest.approx(sol.free_energy(sol.final), rel=1e-12)
    first, second = (sol.final.masses for sol in solutions.values())
    assert float(np.abs(first - second).sum()) < 1e-3
    jko = wg.JKO(tau=0.1, inner="linearized")
    sol = next(iter(solutions.values()))
    stepped = wg.solve(sol.free_energy, sol.densities[0], (0, 0.5), method=jko)
    assert stepped.energy[-1] == pytest.approx(sol.free_energy(stepped.final), rel=1e-12)


def test_a_scheme():
    sol = recipe("scheme").main()
    assert sol.certificate.ok
    assert sol.final.mean() == pytest.approx(math.exp(-1), abs=1e-3)
    assert sol.final.cov() == pytest.approx(1 - 0.75 * math.exp(-2), abs=2e-3)


def test_a_scheme_in_the_plane_is_of_second_order_in_time():
    Heun = recipe("scheme").Heun
    grid = wg.Grid([(-3, 3), (-3, 3)], cells=(20, 18), boundary=("no-flux", "periodic"))
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: x**2 / 2 + np.cos(math.pi * y / 3))
    rho0 = wg.Density.gaussian(grid, [0.5, 0.0], [0.3, 0.5])

    def final(steps):
        return wg.solve(energy, rho0, (0, 0.2), method=Heun(dt=0.2 / steps)).final.masses

    truth, counts = final(640), (20, 28, 40, 57, 80)
    errors = [float(np.abs(final(n) - truth).sum()) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1)


def test_a_scheme_can_be_resumed(tmp_path):
    Heun = recipe("scheme").Heun
    grid = wg.Grid((-3, 3), cells=40)
    energy, path = wg.Entropy(1.0) + wg.Potential(lambda x: x**4 / 4), tmp_path / "run.ckpt.npz"
    rho0 = wg.Density.gaussian(grid, 0.5, 0.3)
    whole = wg.solve(energy, rho0, (0, 0.2), method=Heun(dt=0.004), t_eval=[0.1, 0.2])
    part = wg.solve(energy, rho0, (0, 0.2), method=Heun(dt=0.004, max_steps=17), t_eval=[0.1, 0.2], checkpoint=path,
                    throw=False)
    assert part.status == 1
    again = wg.resume(path, energy=energy, method=Heun(dt=0.004))
    np.testing.assert_array_equal(again.final.values, whole.final.values)
    np.testing.assert_array_equal(again.history.energy, whole.history.energy)
    assert again.certificate.dissipation_defect == whole.certificate.dissipation_defect
    with pytest.raises(wg.StorageError, match=r"resume\(\.\.\., method=\.\.\.\)"):
        wg.resume(path, energy=energy)


def test_property_tests(capsys):
    recipe("property_tests").main()
    assert capsys.readouterr().out.count(" holds\n") == 3


def test_property_tests_see_what_is_wrong(monkeypatch):
    module = recipe("property_tests")
    right = module.Press.first_variation
    monkeypatch.setattr(module.Press, "first_variation", lambda self, rho: 1.01 * right(self, rho))
    with pytest.raises(AssertionError, match="first_variation is not the derivative of energy"):
        module.test_the_first_variation_is_the_derivative_of_the_energy()
    # A flow of strength 2 beside the formula for 2.2.
    monkeypatch.setattr(module, "STRENGTH", 2.2)
    monkeypatch.setattr(module.Press, "first_variation", lambda self, rho: right(self, rho) / 1.1)
    monkeypatch.setattr(module.Press, "energy", lambda self, rho: 0.5 * self.moment(rho) ** 2)
    with pytest.raises(AssertionError, match="the observed order is"):
        module.test_the_second_moment_follows_its_equation()


def test_an_experiment(tmp_path):
    module = recipe("experiment")
    report = module.STUDY.run(tmp_path, quick=True)
    assert report.passed
    report.write(tmp_path)
    assert (tmp_path / "rates.csv").read_text(encoding="utf-8").startswith("beta,gap,measured,relative error\n2.0,")
