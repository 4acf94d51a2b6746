"""[model] of a study: every reduced model, as Python makes it, and faults in words."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput
from wgflow.validation.study_files.reading import json_schema
from wgflow.validation.study_files.study import MODELS, load_study


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "study.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_studies_have_all_reduced_models():
    known = {kind.__name__ for kind in vars(wg.reduced_models).values() if inspect.isclass(kind)
             and issubclass(kind, wg.reduced_models.ReducedModel) and not inspect.isabstract(kind)}
    assert set(MODELS) == known


def test_models_have_the_keys_that_studies_name():
    """Each key is an argument of the class, its grid, its initial law or its energy."""
    for name, kind in MODELS.items():
        known = {key for call in (kind, kind.grid, kind.initial_density, kind.energy)
                 for key in inspect.signature(call).parameters}
        assert set(json_schema()["$defs"][f"{name}Table"]["properties"]) - {"name"} <= known, name


DATA = "x = [1.0, -1.0]\ny = [0.8, -0.4]"
OTHER_MODELS = {
    "ReLUNetwork": ("d = 40\ns0 = 10\ndelta = 0.8\nkappa = 0.8\ncells = 6\na = 0.5\nwidth = 0.8", lambda model: model(
        40, 10, delta=0.8), {"cells": 6, "kappa": 0.8, "ridge": 0.0}, {"a": 0.5, "width": 0.8}),
    "FiniteData": (DATA + '\nactivation = "Erf"\nkappa = 0.5\ncells = 40\nmean0 = 0.2', lambda model: model(
        [1.0, -1.0], [0.8, -0.4], wg.activations.Erf()), {"cells": 40, "kappa": 0.5, "mean0": 0.2, "ridge": 0.0},
        {"mean0": 0.2}),
    "KernelLimit": (DATA + "\nkappa = 1.0\ncells = 24\nalpha = 2.0", lambda model: model(
        [1.0, -1.0], [0.8, -0.4], alpha=2.0), {"cells": 24, "kappa": 1.0}, {}),
    "KLRegularizedNetwork": (DATA + "\nkappa = 0.9\ncells = 24\nregularization = 1.0\nalpha = 2.0",
                             lambda model: model([1.0, -1.0], [0.8, -0.4], alpha=2.0, regularization=1.0),
                             {"cells": 24}, {}),
    "LinearNeuron": ("covariance = 1.0\ndirection = 1.5\nkappa = 0.5\nbeta = 10.0\nridge = 0.1\ncells = 60",
                     lambda model: model(1.0, 1.5), {"cells": 60, "kappa": 0.5, "beta": 10.0, "ridge": 0.1}, {}),
    "QuadraticActivation": ("matrix = 1.0\nkappa = 0.5\nbeta = 20.0\ncells = 60", lambda model: model(1.0),
                            {"cells": 60, "kappa": 0.5, "beta": 20.0, "ridge": 0.0}, {}),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_every_model_is_that_of_python(write, name):
    keys, made, place, start = OTHER_MODELS[name]
    study = load_study(write(f'[model]\nname = "{name}"\n{keys}\n[solve]\nt_end = 0.01\n'))
    model = made(getattr(wg.reduced_models, name))
    grid = model.grid(**place)
    rho0 = model.initial_density(place.get("kappa", 0.9), grid, **start)
    assert study.rho0.grid == grid
    np.testing.assert_array_equal(study.rho0.values, rho0.values)
    energy = model.energy(place["beta"], place["ridge"]) if "beta" in place else model.energy()
    assert study.energy(rho0) == energy(rho0)
    assert study.time_scale == model.time_scale
    assert (study.network is None) == (name in ("KernelLimit", "KLRegularizedNetwork"))


@pytest.mark.parametrize(("keys", "words"), [
    ('name = "ReLUNetwrk"', "name = 'ReLUNetwrk' in [model]: did you mean 'ReLUNetwork'?"),
    ('name = "ReLUNetwork"\nd = 40\nkapa = 0.8', "unknown key 'kapa' in [model]: did you mean 'kappa'?"),
    ('name = "ReLUNetwork"\nd = 40', "[model] needs kappa, a finite number > 0"),
    ('name = "ReLUNetwork"\nd = 40\nkappa = 0.8\ncells = [4, 4]', "cells = [4, 4] in [model]: need an integer >= 2"),
    ('name = "KLRegularizedNetwork"\nkappa = 1.0\n' + DATA + '\nactivation = "Tan"',
     "activation = 'Tan' in [model]: did you mean 'Tanh'?"),
    ('name = "KLRegularizedNetwork"\nkappa = 1.0\n' + DATA + "\nbeta = 3.0", "unknown key 'beta' in [model]"),
    ('name = "KLRegularizedNetwork"\nkappa = 1.0\nx = [1.0, 2.0]\ny = [1.0]', "in [model]: "),
])
def test_faults_of_models_have_a_line(write, keys, words):
    with pytest.raises(InvalidInput) as caught:
        load_study(write(f"[model]\n{keys}\n[solve]\nt_end = 0.01\n"))
    assert words in str(caught.value)


def test_particles_of_a_model_without_sgd_are_refused(write):
    study = f'[model]\nname = "KernelLimit"\nkappa = 1.0\n{DATA}\n[solve]\nt_end = 0.01\nt_eval = 3\n'
    particles = "[compare]\nn_particles = 20\nseed = 1\nstep_size = 1e-3\n"
    with pytest.raises(InvalidInput, match=r"\[compare\] beside \[model\] of KernelLimit"):
        load_study(write(study + particles))
    shifted = study.replace("KernelLimit", "FiniteData").replace("kappa = 1.0", "kappa = 1.0\nmean0 = 0.1")
    with pytest.raises(InvalidInput, match=r"mean0 in \[model\] beside \[compare\]"):
        load_study(write(shifted + particles))
