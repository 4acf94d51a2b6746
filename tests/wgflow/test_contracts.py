"""What a class of one's own lacks is said when an object of it is made, with what each part means."""

import inspect
import pydoc
import re
from dataclasses import dataclass

import numpy as np
import pytest

import wgflow as wg
from wgflow.contracts import Contract
from wgflow.errors import InvalidType
from wgflow.reduced_models import NetworkModel
from wgflow.solvers import EvenSteps, Method
from wgflow.validation import Statistic
from wgflow.validation.studies import Study

GRID = wg.Grid((-3, 3), cells=16)
ENERGY = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)


@pytest.mark.parametrize(("base", "name"), [(wg.Term, "first_variation"), (Method, "begin"), (Statistic, "value"),
                                        (Study, "run"), (NetworkModel, "sample_data"), (EvenSteps, "move")])
def test_a_missing_method_is_named_with_its_meaning(base, name):
    class Mine(base):
        pass

    with pytest.raises(InvalidType, match=rf"^Mine, derived from {base.__name__}, lacks ") as caught:
        Mine()
    assert re.search(rf"^  {name}\(.*\): [A-Z]", str(caught.value), re.MULTILINE)


def test_a_target_that_only_init_sets_is_explained():
    class Mine(NetworkModel):
        def __init__(self):
            self.target = np.ones(1)

    with pytest.raises(InvalidType, match=r"target, a property or an attribute of the class"):
        Mine()


def test_attributes_may_be_set_in_the_class_or_in_init():
    class Named(Contract):
        NEEDS = ("name", "size")

    class Whole(Named):
        name = "whole"

        def __init__(self):
            self.size = 3

    class Part(Named):
        name = "part"

    assert Whole().size == 3
    with pytest.raises(InvalidType, match=r"^Part, .* lacks size; set it in the class or in __init__"):
        Part()


def test_studies_need_a_name_and_a_title():
    class Mine(Study):
        name = "mine"

        def run(self, folder, *, quick=False, fresh=False):
            raise NotImplementedError

    with pytest.raises(InvalidType, match="lacks title"):
        Mine()


def test_a_method_that_is_no_dataclass_is_refused_before_the_first_step():
    class Mine(Method):
        def begin(self, flow):
            raise AssertionError("too late")

    with pytest.raises(InvalidType, match=r"Mine is no dataclass; put @dataclass"):
        wg.solve(ENERGY, wg.Density.gaussian(GRID, 0.0, 0.3), (0, 1), method=Mine())


@pytest.mark.parametrize("factor", [1.01, 0.5, 1 + 1e-6])
def test_steps_that_change_the_mass_end_the_run_and_keep_what_was_computed(factor):
    @dataclass(frozen=True)
    class Leaky(Method):
        dt: float
        max_steps: int = 1000
        time_limit: float | None = None

        def begin(self, flow):
            return LeakyRun(self, flow, self.dt)

    class LeakyRun(EvenSteps):
        def move(self, masses, t, elapsed):
            return masses * (factor if t > 0.5 else 1.0)

    with pytest.raises(wg.ConvergenceError, match=r"changed the mass by .*LeakyRun.move") as caught:
        wg.solve(ENERGY, wg.Density.gaussian(GRID, 0.0, 0.3), (0, 1), method=Leaky(dt=0.125))
    assert caught.value.partial.history.t[-1] == pytest.approx(0.625)
    assert caught.value.partial.certificate.mass_drift < 1e-12


@pytest.mark.parametrize(("kind", "first"), [
    (wg.FiniteVolume, "dt"), (wg.Entropy, "beta"), (wg.reduced_models.IsotropicGaussian, "d"), (wg.JKO, "tau"),
])
def test_help_and_editors_see_the_arguments(kind, first):
    arguments = inspect.signature(kind).parameters
    assert next(iter(arguments)) == first
    assert "self" not in arguments
    assert list(arguments) == list(inspect.signature(kind.__init__).parameters)[1:]
    assert f" |  {kind.__name__}({first}" in pydoc.plain(pydoc.render_doc(kind))
