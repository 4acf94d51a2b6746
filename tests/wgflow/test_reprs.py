"""What an interpreter prints of public objects: one short line with what one wants to know first."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import wgflow as wg
from wgflow import reduced_models, testing, validation

#: Settings, whose fields are numbers and words, print them all.
SETTINGS = (wg.FiPy, wg.FiniteVolume, wg.JKO, wg.Lagrangian, reduced_models.ModelCheck)


def _classes():
    for module in (wg, reduced_models, validation, testing):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) and not inspect.isabstract(found) and not issubclass(found, BaseException):
                yield found


@pytest.mark.parametrize("kind", sorted(set(_classes()), key=str), ids=lambda kind: kind.__name__)
def test_every_public_class_says_what_it_is(kind):
    """Not the address of an object, and not a table of arrays that a dataclass would print."""
    own = next((vars(base)["__repr__"] for base in kind.__mro__[:-1] if "__repr__" in vars(base)), None)
    assert own is not None
    if kind not in SETTINGS and dataclasses.is_dataclass(kind):
        assert not hasattr(own, "__wrapped__"), "the repr that dataclass makes"


def test_reprs_are_short():
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2) + wg.Interaction(wg.Convolution(lambda z: z**2 / 4))
    grid = wg.Grid((-6, 6), cells=120)
    sol = wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.3), (0, 1))
    rest = wg.stationary(energy, grid)
    model = reduced_models.IsotropicGaussian(delta=0.8, d=10)
    sgd = validation.run_sgd(model, 20, 0.01, [0.0, 0.1], rng=1, n_runs=2)
    for found in (sol, sol.certificate, sol.final, grid, rest, sgd, model, sol.history, model.minimum_risk()):
        words = repr(found)
        assert "\n" not in words
        assert "array" not in words
        assert len(words) <= 250, words
    assert repr(rest).startswith(f"Stationary({rest.method}, beta=1: F = {rest.energy:.6g}, ")
    assert repr(rest).endswith(f"residual {rest.residual:.1e}, stable; holds)")
    steps = sol.certificate.n_accepted
    assert repr(sol.certificate).startswith(f"Certificate({sol.certificate.verdict}: {steps} steps")
    assert repr(sgd).startswith("SGDResult(SGD on IsotropicGaussian(")
    assert repr(sgd).endswith("2 runs of 20, step_size=0.01, 2 times, t = 0 to 0.1)")
    assert repr(validation.BoundedLipschitz()) == "BoundedLipschitz('bounded Lipschitz')"
    assert repr(validation.sweep(_square, {"x": [1.0, 2.0]})) == (
        "SweepResult(2 items over x (2), 0 failed)")
    assert repr(model.minimum_risk()).startswith("MinimumRisk(value ")


def _square(x):
    return {"y": np.array(x**2)}
