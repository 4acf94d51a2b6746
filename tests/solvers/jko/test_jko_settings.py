"""Settings of inner solvers: objects, strings and dicts that mean the same, in runs, checkpoints and files."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import StorageError
from wgflow.files import archives
from wgflow.files.checkpoints import KIND
from wgflow.jko_steps import JKOStep, pack_steps, unpack_steps
from wgflow.solvers import JKO, BackAndForth, Entropic, Linearized, Quantile
from wgflow.solvers.jko import InnerSettings, InnerSolver
from wgflow.solvers.jko.settings import INNER

GRID = wg.Grid([(-4, 4)], cells=100)
ENERGY = wg.Entropy(2.0) + wg.Potential(lambda x: x**2 / 2)
RHO0 = wg.Density.gaussian(GRID, 0.7, 0.3)
CHOICES = [Quantile(cells=40), Linearized(metric="linear"), BackAndForth(points=2), BackAndForth(threads=1),
           Entropic(epsilon=0.02, estimate_bias=False)]


# -------------------------------------------------------------------- one meaning, three ways to write it
@pytest.mark.parametrize("name", list(INNER))
def test_a_string_stands_for_the_default_object(name):
    method = JKO(tau=0.1, inner=name)
    assert method == JKO(tau=0.1, inner=INNER[name]())
    assert method.inner == INNER[name]()
    assert method.settings()["inner"] == name


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_options_are_settings_by_name(choice):
    method = JKO(tau=0.1, inner=choice.NAME, options=dataclasses.asdict(choice))
    assert method == JKO(tau=0.1, inner=choice)
    assert hash(method) == hash(JKO(tau=0.1, inner=choice))
    assert JKO(tau=0.1, inner=choice, options={}) == method


def test_options_replace_settings():
    assert JKO(tau=0.1, inner=Entropic(epsilon=0.3), options={"debiased": False}).inner == Entropic(0.3, debiased=False)
    method = JKO(tau=0.1, inner=Quantile(cells=40))
    assert dataclasses.replace(method, tau=0.2) == JKO(tau=0.2, inner=Quantile(cells=40))
    assert dataclasses.replace(method, options={"cells": 50}) == JKO(tau=0.1, inner=Quantile(cells=50))


def test_reprs_show_the_settings():
    assert "inner=Quantile(cells=300)" in repr(JKO(tau=0.1, inner=Quantile(cells=300)))
    assert "inner=Linearized(metric='linear')" in repr(JKO(tau=0.1, inner="linearized", options={"metric": "linear"}))


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_runs_of_both_ways_have_the_same_bits(choice):
    one, two = (wg.solve(ENERGY, RHO0, (0, 0.2), JKO(tau=0.1, **settings)) for settings in (
        {"inner": choice}, {"inner": choice.NAME, "options": dataclasses.asdict(choice)}))
    assert np.array_equal(one.final.values, two.final.values)
    assert one.jko_steps == two.jko_steps
    assert one.certificate.settings == two.certificate.settings


# -------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(("make", "words"), [
    (lambda: Quantile(cells=0), "cells=0"), (lambda: Linearized(metric="euclidean"), "metric='euclidean'.*'exact'"),
    (lambda: BackAndForth(points=0), "points=0"), (lambda: BackAndForth(threads=-1), "threads=-1"),
    (lambda: Entropic(epsilon=-1.0), "epsilon=-1"), (lambda: Entropic(epsilon=math.inf), "epsilon=inf"),
    (lambda: JKO(tau=0.1, options={"epsilon": 0.1}), "unknown option 'epsilon' of inner='quantile'.*allowed: cells"),
    (lambda: JKO(tau=0.1, options={3: 0.1}), "unknown option 3"),
    (lambda: JKO(tau=0.1, inner="entropic", order=2), None),
])
def test_settings_out_of_range(make, words):
    if words is None:
        with pytest.raises(wg.InvalidInput, match="order=2: inner='entropic' has order 1"):
            wg.solve(ENERGY, RHO0, (0, 1), make())
    else:
        with pytest.raises(wg.InvalidInput, match=words):
            make()


@pytest.mark.parametrize("make", [
    lambda: Quantile(cells=2.5), lambda: Quantile(cells=True), lambda: BackAndForth(points="2"),
    lambda: Entropic(epsilon="small"), lambda: Entropic(debiased=1), lambda: Entropic(estimate_bias=None),
    lambda: JKO(tau=0.1, inner=Quantile), lambda: JKO(tau=0.1, inner=None), lambda: JKO(tau=0.1, options="cells"),
])
def test_settings_of_the_wrong_kind(make):
    with pytest.raises(TypeError):
        make()


# -------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("choice", [*CHOICES, Quantile(), Quantile(cells=np.int64(40))], ids=repr)
def test_settings_survive_a_checkpoint(choice):
    method = JKO(tau=0.1, inner=choice)
    stored = json.loads(json.dumps(method.settings()))
    assert stored.pop("method") == "JKO"
    assert JKO(**stored) == method
    assert JKO(**stored).settings() == method.settings()


def test_settings_have_the_form_of_earlier_versions():
    assert JKO(tau=0.1).settings() == {
        "method": "JKO", "tau": 0.1, "inner": "quantile", "order": 1, "tol": None, "max_iterations": None,
        "adaptive": False, "rtol": 1e-3, "max_steps": 1_000_000, "time_limit": None, "options": None}
    assert JKO(tau=0.1, inner=Quantile(cells=40)).settings()["options"] == {"cells": 40}


@pytest.mark.parametrize("stored", [{"cells": 40}, {"cells": 40.0}, {"cels": 40}, [40]])
def test_runs_of_earlier_versions_are_resumed(stored, tmp_path):
    path, whole = tmp_path / "run", wg.solve(ENERGY, RHO0, (0, 0.5), JKO(tau=0.1, inner=Quantile(cells=40)))
    wg.solve(ENERGY, RHO0, (0, 0.5), JKO(tau=0.1, options={"cells": 40}, max_steps=2), checkpoint=path, throw=False)
    header, arrays = archives.read_npz(path, KIND)
    header["method"]["options"] = stored
    archives.write_npz(path, KIND, header, arrays)
    if stored != {"cells": 40} or not isinstance(stored["cells"], int):
        with pytest.raises(StorageError, match="not a checkpoint that can be used"):
            wg.resume(path, energy=ENERGY)
        return
    for method in (JKO(tau=0.1, inner=Quantile(cells=40)), JKO(tau=0.1, options={"cells": 40})):
        again = wg.resume(path, energy=ENERGY, method=method, checkpoint=tmp_path / "again")
        assert np.array_equal(again.final.values, whole.final.values)
        assert again.jko_steps == whole.jko_steps
    with pytest.raises(StorageError, match="options"):
        wg.resume(path, energy=ENERGY, method=JKO(tau=0.1, inner=Quantile(cells=50)))


def test_defaults_written_out_are_the_defaults(tmp_path):
    path = tmp_path / "run"
    wg.solve(ENERGY, RHO0, (0, 0.5), JKO(tau=0.1, max_steps=2), checkpoint=path, throw=False)
    assert wg.resume(path, energy=ENERGY, method=JKO(tau=0.1, options={"cells": None})).success


# -------------------------------------------------------------------- an inner solver of one's own
@dataclasses.dataclass(frozen=True)
class Resting(InnerSettings):
    NAME = "resting"

    residual: float = 0.0

    @classmethod
    def solver_class(cls):
        return RestingSolver


class RestingSolver(InnerSolver):
    settings: Resting

    def step(self, start, tau, guess=None):
        return JKOStep(start.rho, 0.0, start.energy, None, self.settings.residual, 1, tau)


def test_an_inner_solver_of_ones_own():
    sol = wg.solve(ENERGY, RHO0, (0, 0.3), JKO(tau=0.1, inner=Resting()))
    np.testing.assert_allclose(sol.final.values, RHO0.values, rtol=1e-14)
    assert sol.certificate.settings["inner"] == "resting"
    with pytest.raises(wg.ConvergenceError, match=r"inner='resting'.*residual 1\.00e-01"):
        wg.solve(ENERGY, RHO0, (0, 0.3), JKO(tau=0.1, inner=Resting(residual=0.1)))


# -------------------------------------------------------------------- the fields of a step
def test_fields_can_be_read_among_the_extras():
    step = JKOStep(None, 0.1, 0.2, None, 1e-9, 3, 0.1, dissipation=0.5, metric="exact", extras={"cells": 30})
    assert dict(step.extras) == {"cells": 30, "dissipation": 0.5, "metric": "exact"}
    assert "blur" not in step.extras
    with pytest.raises(TypeError):
        step.extras["cells"] = 3
    assert dataclasses.replace(step, metric="linear").extras["metric"] == "linear"
    assert "metric" not in dataclasses.replace(step, metric=None).extras


def test_extras_of_earlier_versions_set_the_fields():
    step = JKOStep(None, 0.1, 0.2, None, 1e-9, 3, 0.1, extras={"blur": 0.3, "round_off": 1e-12, "epsilon": 0.1})
    assert (step.blur, step.round_off, step.blur_length) == (0.3, 1e-12, None)
    assert step.extras["blur"] == 0.3
    assert dataclasses.replace(step, extras={"blur": 0.4}).blur == 0.4


def test_summaries_are_of_plain_numbers():
    step = JKOStep(RHO0, 0.1, 0.2, None, 1e-9, 3, 0.1, blur=np.float64(0.3), extras={"cells": np.int64(3)}).summary()
    assert type(step.blur) is float
    assert type(step.extras["cells"]) is int
    assert step.density is None
    with pytest.raises(wg.InvalidInput, match=r"sol\.densities"):
        assert step.rho


def test_steps_come_back_from_tables():
    steps = (JKOStep(None, 0.1, 0.2, None, 1e-9, 3, 0.1, dissipation=0.5, metric="exact", extras={"cells": 30}),
             JKOStep(None, 0.1, 0.2, 1e-9, 1e-9, 3, 0.1, bias=0.1, blur=0.2, extras={"debiased": False}))
    header, arrays = pack_steps(steps)
    again = unpack_steps(json.loads(json.dumps(header)), arrays)
    assert again == steps
    assert again[0].metric == "exact"
    assert again[1].dissipation is None


def test_tables_of_earlier_versions_are_read():
    # As wgflow wrote them when the fields were extras.
    header = {"count": 2, "columns": [
        {"name": name, "kind": kind, "extra": extra, "missing": missing} for name, kind, extra, missing in (
            ("w2_squared", "float", False, []), ("energy", "float", False, []), ("residual", "float", False, []),
            ("iterations", "int", False, []), ("tau", "float", False, []), ("dissipation", "float", True, []),
            ("round_off", "float", True, [1]), ("cells", "int", True, []))], "texts": {"metric": ["exact", None]}}
    numbers = {"w2_squared": [0.1, 0.2], "energy": [1.0, 0.9], "residual": [0.0, 0.0], "iterations": [3, 4],
               "tau": [0.1, 0.1], "dissipation": [0.5, 0.4], "round_off": [1e-12, 0.0], "cells": [30, 31]}
    steps = unpack_steps(header, {f"jko_{name}": np.array(values) for name, values in numbers.items()})
    assert [step.dissipation for step in steps] == [0.5, 0.4]
    assert [step.round_off for step in steps] == [1e-12, None]
    assert [step.metric for step in steps] == ["exact", None]
    assert [step.extras["cells"] for step in steps] == [30, 31]
    assert steps[0].extras["metric"] == "exact"
    assert pack_steps(steps)[0]["count"] == 2


def test_fields_are_saved_with_the_solution(tmp_path):
    sol = wg.solve(ENERGY, RHO0, (0, 0.2), JKO(tau=0.1, inner="linearized"))
    sol.save(tmp_path / "run.npz")
    again = wg.load(tmp_path / "run.npz")
    assert again.jko_steps == sol.jko_steps
    assert again.jko_steps[0].metric == sol.jko_steps[0].metric == "exact"
    assert again.jko_steps[0].extras["dissipation"] == sol.jko_steps[0].dissipation
