"""What simulators, sweeps and studies left behind, changed by somebody who made its digest right again."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, StorageError
from wgflow.files import archives
from wgflow.files.snapshots import SnapshotFolder
from wgflow.reduced_models import IsotropicGaussian
from wgflow.validation import load_trajectories, run_langevin, sweep
from wgflow.validation.sgd_runs import kept_sgd_runs
from wgflow.validation.study_files.study import load_study
from wgflow.validation.sweeps.sweep_files import sweep_from_file

ENERGY = wg.Entropy(beta=4.0) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
RHO0 = wg.Density.gaussian(wg.Grid((-4, 5), cells=60), 1.0, 0.1)


@pytest.fixture
def particles(tmp_path):
    run_langevin(ENERGY, RHO0, 10, [0.0, 0.1], 7, 2, folder=tmp_path / "run")
    return tmp_path / "run"


def retold(folder, about=(), **more):
    """Let a folder say something else of itself, with the key that belongs to it."""
    header, _ = archives.read_npz(folder / "about.npz", "particles")
    header |= {"about": header["about"] | dict(about)} | more
    made = SnapshotFolder(folder, header["about"], tuple(header["shape"]),
                          {name: tuple(shape) for name, shape in header["arrays"].items()})
    archives.write_npz(folder / "about.npz", "particles", header | {"key": made.key}, {})
    for path in folder.glob("*-*.npz"):
        told, arrays = archives.read_npz(path, "snapshot")
        archives.write_npz(path, "snapshot", told | {"key": made.key}, arrays)


def test_a_folder_that_is_told_again_as_it_was_is_read(particles):
    before = np.asarray(load_trajectories(particles).coordinates)
    retold(particles)
    assert np.array_equal(np.asarray(load_trajectories(particles).coordinates), before)


@pytest.mark.parametrize("about", [
    {"beta": [None]}, {"beta": -1.0}, {"noise_constant": [1, 1]}, {"noise_constant": 0.0}, {"n_neurons": 11},
    {"n_neurons": 10**30}, {"t": [0.1, 0.0]}, {"t": [0.0, float("nan")]}, {"t": [0.0]}, {"t": []}, {"xi": "x"},
    {"step_size": -1.0}, {"batch_size": 0}, {"replacement": 1}, {"simulator": None},
])
def test_what_a_folder_says_of_particles_is_looked_at(particles, about):
    retold(particles, about)
    with pytest.raises(StorageError, match="does not hold particles"):
        load_trajectories(particles)


@pytest.mark.parametrize("more", [
    {"shape": [float("inf"), 2]}, {"shape": [2]}, {"shape": [2, 0]}, {"arrays": {"../x": [10, 1]}},
    {"arrays": {"coordinates": [-1, 1]}}, {"arrays": {"coordinates": [10**30, 1]}},
])
def test_the_shape_of_a_folder_is_looked_at(particles, more):
    retold(particles, **more)
    with pytest.raises(StorageError, match="cannot be used"):
        load_trajectories(particles)


@pytest.mark.parametrize("more", [{"arrays": {"coordinates": [10]}}, {"arrays": {"others": [10, 1]}}, {"arrays": {}}])
def test_arrays_of_a_folder_are_those_of_particles(particles, more):
    retold(particles, **more)
    with pytest.raises(StorageError, match="does not hold particles"):
        load_trajectories(particles)


def test_as_many_runs_are_looked_for_as_there_are_files(particles):
    retold(particles, shape=[2**62, 2])
    with pytest.warns(wg.WGFlowWarning, match="2 of 4611686018427387904 runs"):
        found = load_trajectories(particles)  # a loop over all of them would never end
    assert found.coordinates.shape == (2, 2, 10, 1)


@pytest.mark.parametrize("numbers", [{"steps": 10**30}, {"steps": "x"}, {"steps": -1}, {"risk": [1.0]}])
def test_numbers_beside_a_snapshot_are_looked_at(particles, numbers):
    path = particles / "snapshot-0001-000001.npz"
    header, arrays = archives.read_npz(path, "snapshot")
    archives.write_npz(path, "snapshot", header | {"numbers": header["numbers"] | numbers}, arrays)
    with pytest.raises(StorageError, match="snapshot 1 of run 1"):
        load_trajectories(particles)


def area(a, b):
    return {"area": a * b, "sum": a + b}


@pytest.mark.parametrize("names", [[[], "sum"], [{}, "sum"], ["sum", "sum"], [None, "sum"], "xy", None, ["area"]])
def test_items_of_a_sweep_with_other_names_are_computed_again(tmp_path, names):
    whole = sweep(area, {"a": [2], "b": [3]}, folder=tmp_path, executor=1)
    path = next(tmp_path.glob("item-*.npz"))
    header, arrays = archives.read_npz(path, "sweep")
    archives.write_npz(path, "sweep", header | {"names": names}, arrays)
    again = sweep(area, {"a": [2], "b": [3]}, folder=tmp_path, executor=1)
    assert again.n_computed == 1
    assert again.values == whole.values


@pytest.mark.parametrize("bad", [np.nan, np.inf, True])
def test_kept_runs_that_hold_no_coordinates_are_made_again(tmp_path, caplog, bad):
    model = IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)

    def kept():
        return kept_sgd_runs(model, tmp_path, n_neurons=5, step_size=0.1, t_eval=[0.0, 0.2], seed=7, n_runs=1)

    whole = kept()
    path = next(tmp_path.glob("sgd-*.npz"))
    header, arrays = archives.read_npz(path, "run")
    points = np.full(arrays["coordinates"].shape, bad)
    archives.write_npz(path, "run", header, {**arrays, "coordinates": points})
    assert np.array_equal(kept().coordinates, whole.coordinates)
    assert "the run is made again" in caplog.text


STUDY = """
[grid]
bounds = [-3.0, 3.0]
cells = 20
boundary = "no-flux"
[energy]
beta = 4.0
potential = "x**2"
[start]
uniform = true
[solve]
t_end = 1.0
[solve.method]
name = "FiniteVolume"
dt = 0.01
max_steps = 3
[output]
folder = "out"
files = []
picture = false
"""


@pytest.mark.parametrize("flow", [None, {}, [], {"t1": "x"}, {"t1": float("nan")}])
def test_a_study_refuses_the_checkpoint_of_no_flow(tmp_path, flow):
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    study = load_study(tmp_path / "study.toml")
    study.run()
    header, arrays = archives.read_npz(study.checkpoint_file, "checkpoint")
    archives.write_npz(study.checkpoint_file, "checkpoint", header | {"flow": flow}, arrays)
    with pytest.raises(StorageError, match="flow"):
        study.resume(study.checkpoint_file)


@pytest.mark.parametrize(("text", "words"), [
    ("a = " + "[" * 5000, "not a TOML file"), ('function = "a\\u0000.py:f"', "file.py:name"),
    (" " * 1_000_001, "larger"), ("function = [1]", "file.py:name"), ("a = 1\na = 2", "twice"),
])
def test_descriptions_of_sweeps_are_read_like_studies(tmp_path, text, words):
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=words):
        sweep_from_file(tmp_path / "sweep.toml")


def test_the_python_file_of_a_sweep_is_a_file(tmp_path):
    (tmp_path / "area.py").mkdir()
    (tmp_path / "sweep.toml").write_text('function = "area.py:area"\n', encoding="utf-8")
    for place in (tmp_path / "sweep.toml", tmp_path):
        with pytest.raises(StorageError, match="not a regular file"):
            sweep_from_file(place)
