"""One result for every simulator, in memory and in a folder, and what an interrupted job leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import Polynomial
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, ResourceError, StorageError, WGFlowWarning
from wgflow.reduced_models import IsotropicGaussian
from wgflow.validation import (
    SGDResult,
    Trajectories,
    compare,
    load_trajectories,
    run_gradient_flow,
    run_langevin,
    run_sgd,
)

MODEL = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
TIMES = [0.0, 0.05, 0.1]
WELL = wg.Entropy(beta=4.0) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
RHO0 = wg.Density.gaussian(wg.Grid((-4, 5), cells=300), 1.0, 0.1)


def sgd(**more):
    return run_sgd(MODEL, 200, 1e-4, TIMES, rng=7, n_runs=3, **more)


def flow(**more):
    return run_gradient_flow(MODEL, 200, TIMES, rng=7, n_runs=3, **more)


def noisy(**more):
    return run_gradient_flow(MODEL, 200, TIMES, rng=7, n_runs=3, beta=200.0, **more)


def full(**more):
    return run_gradient_flow(MODEL, 30, TIMES, rng=7, n_runs=2, space="full", tolerance=1e-4, **more)


def langevin(**more):
    return run_langevin(WELL, RHO0, 200, TIMES, rng=7, n_runs=3, **more)


SIMULATORS = [sgd, flow, pytest.param(noisy, marks=pytest.mark.slow), full, langevin]


@pytest.mark.parametrize("simulate", SIMULATORS)
def test_a_folder_holds_what_memory_would(simulate, tmp_path):
    memory, disk = simulate(), simulate(folder=tmp_path / "run")
    opened = load_trajectories(tmp_path / "run", memory.model)
    for found in (disk, opened):
        assert isinstance(found, Trajectories)
        assert np.array_equal(found.t, memory.t)
        assert np.array_equal(found.steps, memory.steps)
        assert found.coordinates.shape == memory.coordinates.shape
        assert np.array_equal(np.asarray(found.coordinates), memory.coordinates)
        assert (found.theta is None) == (memory.theta is None)
        if memory.theta is not None:
            assert np.array_equal(found.theta[1, 2], memory.theta[1, 2])
        if memory.risk is None:
            assert found.risk is None
        else:
            assert np.array_equal(found.risk, memory.risk)
        for name in ("n_neurons", "n_runs", "step_size", "seed_entropy", "seed_state", "model", "beta", "ridge",
                     "noise_constant", "batch_size", "n_samples", "simulator"):
            assert getattr(found, name) == getattr(memory, name), name
        assert found.folder == tmp_path / "run"
    assert memory.folder is None


@pytest.mark.slow
@pytest.mark.parametrize("simulate", SIMULATORS)
def test_compare_takes_each_from_memory_disk_and_arrays(simulate, tmp_path):
    """The same verdict, in the same numbers, whatever the particles come as."""
    memory = simulate()
    if memory.model is None:
        sol = wg.solve(WELL, RHO0, (0, 0.1), t_eval=TIMES)
    else:
        beta = memory.beta
        grid = MODEL.grid(400, kappa=0.8, beta=beta, t_end=0.1)
        sol = wg.solve(MODEL.energy(beta), MODEL.initial_density(0.8, grid), (0, 0.1), t_eval=TIMES, time_scale=2.0)
    forms = [memory, simulate(folder=tmp_path / "run"), load_trajectories(tmp_path / "run", memory.model)]
    results = [compare(sol, form, n_null=200) for form in forms]
    plain = compare(sol, (memory.t, memory.coordinates), n_null=200)
    assert len({result.table() for result in results}) == 1
    rows = {(row["quantity"], row["t"]): row["difference"] for row in results[0].rows}
    for row in plain.rows:
        assert rows[row["quantity"], row["t"]] == row["difference"]
    # Thirty neurons, too: two runs of theirs have wide bands.
    assert results[0].passed


def test_a_solution_of_atoms_is_compared_too():
    sol = wg.solve(WELL, RHO0, (0, 0.1), t_eval=TIMES)
    atoms = wg.solve(WELL, RHO0, (0, 0.1), t_eval=TIMES, method=wg.Lagrangian(rng=7, n_particles=400))
    assert compare(sol, atoms, n_null=200).passed


def test_the_result_of_a_network_is_one_of_particles():
    assert isinstance(sgd(), SGDResult)
    assert isinstance(flow(), SGDResult)
    assert not isinstance(langevin(), SGDResult)
    assert issubclass(SGDResult, Trajectories)


def test_indices_read_only_what_they_need(tmp_path):
    whole = sgd(folder=tmp_path / "run")
    memory = np.asarray(whole.theta)
    for key in [np.s_[0], np.s_[1, 2], np.s_[-1, :, 5], np.s_[:, 1:, ::2, 3], np.s_[..., 0], np.s_[0, 0, 3, 4],
                np.s_[:0], np.s_[2:, -1, ..., 1]]:
        assert np.array_equal(whole.theta[key], memory[key])
        assert np.shape(whole.theta[key]) == memory[key].shape
    assert len(whole.theta) == 3
    assert (whole.theta.ndim, whole.theta.size) == (4, memory.size)
    with pytest.raises(IndexError):
        whole.theta[3]
    with pytest.raises(InvalidType, match=r"np.asarray\(theta\)"):
        whole.theta[np.array([0, 1])]
    os.unlink(tmp_path / "run" / "theta-0000-000001.npz")
    assert np.array_equal(whole.theta[0, 0], memory[0, 0])
    with pytest.raises(StorageError, match="theta-0000-000001"):
        whole.theta[0, 1]


def test_damage_is_found_when_it_is_read(tmp_path):
    run = sgd(folder=tmp_path / "run")
    file = tmp_path / "run" / "coordinates-0001-000000.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert load_trajectories(tmp_path / "run").coordinates[0, 0].shape == (200, 1)
    with pytest.raises(StorageError, match="damaged"):
        run.coordinates[1, 0]


def test_snapshots_of_other_runs_are_not_taken_for_these(tmp_path):
    sgd(folder=tmp_path / "one")
    run_sgd(MODEL, 200, 1e-4, TIMES, rng=9, n_runs=3, folder=tmp_path / "two")
    name = "coordinates-0001-000001.npz"
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(StorageError, match="other runs"):
        load_trajectories(tmp_path / "one").coordinates[1, 1]
    shutil.copy(tmp_path / "one" / "coordinates-0001-000000.npz", tmp_path / "one" / name)
    with pytest.raises(StorageError, match="another one of these"):
        load_trajectories(tmp_path / "one").coordinates[1, 1]


def test_an_interrupted_job_leaves_what_it_had(tmp_path):
    def stop(done, total):
        if done > 2.5 * total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sgd(folder=tmp_path / "run", progress=stop)
    with pytest.warns(WGFlowWarning, match="2 of 3 runs, up to t = 0.1 of 0.1"):
        opened = load_trajectories(tmp_path / "run", MODEL)
    assert np.array_equal(np.asarray(opened.coordinates), sgd().coordinates[:2])
    assert opened.risk.shape == (2, 3)


def test_of_a_first_run_the_times_reached_are_there(tmp_path):
    model = IsotropicGaussian(d=7, tau_plus2=1.8, tau_minus2=0.2, activation=Polynomial([0.0, 0.0, 0.0, 1.0]))
    with pytest.raises(ConvergenceError, match="smaller step_size") as caught:
        run_sgd(model, 4, 0.2, [0.0, 400.0], rng=7, n_runs=2, folder=tmp_path / "run")
    with pytest.warns(WGFlowWarning, match="1 of 2 runs, up to t = 0 of 400"):
        opened = load_trajectories(tmp_path / "run", model)
    for found in (opened, caught.value.partial):
        assert found.theta.shape == (1, 1, 4, 7)
        assert found.t.tolist() == [0.0]


@pytest.mark.slow
def test_a_killed_job_leaves_a_readable_folder(tmp_path):
    """SIGKILL at any moment: every snapshot that counts is whole, and has the bits of an uninterrupted run."""
    script = ("from wgflow.reduced_models import IsotropicGaussian; from wgflow.validation import run_sgd\n"
              "import numpy as np; m = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)\n"
              f"run_sgd(m, 500, 1e-4, np.linspace(0, 20, 2001), rng=7, folder={str(tmp_path / 'run')!r})\n")
    job = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("run/snapshot-*"))) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    with pytest.warns(WGFlowWarning, match="interrupted"):
        opened = load_trajectories(tmp_path / "run", MODEL)
    count = opened.t.size
    assert 20 <= count < 2001
    again = run_sgd(MODEL, 500, 1e-4, np.linspace(0, 20, 2001)[:count], rng=7)
    assert np.array_equal(opened.coordinates[0, -1], again.coordinates[0, -1])
    assert np.array_equal(opened.risk, again.risk)


@pytest.mark.slow
def test_snapshots_on_disk_are_not_held_in_memory(tmp_path):
    def peak(**more):
        tracemalloc.start()
        run_sgd(MODEL, 20_000, 0.02, np.arange(5) * 0.02, rng=7, risk="coordinates", **more)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    one = 8.0 * 20_000 * 41
    assert peak() - peak(folder=tmp_path / "run") > 3 * one


def test_the_disk_is_looked_at_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 0, 10**5))
    with pytest.raises(ResourceError, match="free on this disk"):
        sgd(folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_memory_cannot_hold_goes_to_disk(tmp_path, monkeypatch):
    from wgflow import checks

    monkeypatch.setattr(checks, "available_memory", lambda: 3e8)
    times = np.arange(60) * 1e-3
    with pytest.raises(ResourceError, match="folder="):
        run_sgd(MODEL, 40_000, 1e-3, times, rng=7, risk="coordinates")
    run = run_sgd(MODEL, 40_000, 1e-3, times[:2], rng=7, risk="coordinates", folder=tmp_path / "run")
    assert run.theta[0, 1].shape == (40_000, 40)


def test_the_risk_of_coordinates_is_the_mean_over_directions():
    memory = run_sgd(MODEL, 8, 1e-4, [0.0], rng=7, n_runs=100)
    mean = run_sgd(MODEL, 8, 1e-4, [0.0], rng=7, n_runs=100, risk="coordinates")
    gap = (memory.risk - mean.risk)[:, 0]
    assert abs(gap.mean()) < 4 * gap.std() / 10
    assert memory.risk.mean() > 2.0
    with pytest.raises(InvalidInput, match="risk='none'"):
        run_sgd(MODEL, 8, 1e-4, [0.0], rng=7, risk="none")


@pytest.mark.parametrize("simulate", [sgd, flow, langevin])
def test_folders_that_are_refused(simulate, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    simulate(folder=tmp_path / "run")
    for name, message in (("file", "is not a folder"), ("other", "is not empty"), ("link", "is not a folder"),
                          ("run", "holds snapshots already"), ("none/run", "does not exist")):
        with pytest.raises(StorageError, match=message):
            simulate(folder=tmp_path / name)
    with pytest.raises(InvalidType, match=r"folder=3\.5"):
        simulate(folder=3.5)
    assert (tmp_path / "file").read_text() == (tmp_path / "other" / "mine.txt").read_text() == "kept"


def test_what_is_no_folder_of_particles(tmp_path):
    with pytest.raises(StorageError, match="not a folder of snapshots"):
        load_trajectories(tmp_path / "none")
    with pytest.raises(StorageError, match=r"about\.npz"):
        load_trajectories(tmp_path)
    sgd(folder=tmp_path / "run")
    with pytest.raises(InvalidInput, match="is not that of the runs"):
        load_trajectories(tmp_path / "run", IsotropicGaussian(d=21, tau_plus2=1.8, tau_minus2=0.2))
    for file in (tmp_path / "run").glob("snapshot-*"):
        file.unlink()
    with pytest.raises(StorageError, match="no complete snapshot"):
        load_trajectories(tmp_path / "run")


def test_a_disk_that_fills_up_keeps_what_is_there(tmp_path, monkeypatch):
    from wgflow.files import snapshots

    written, write = [], snapshots.write_npz

    def full_disk(path, *rest):
        written.append(path)
        if len(written) > 8:
            raise StorageError("cannot write: no space left on device")
        write(path, *rest)

    monkeypatch.setattr(snapshots, "write_npz", full_disk)
    with pytest.raises(StorageError, match="no space left") as caught:
        sgd(folder=tmp_path / "run")
    assert caught.value.partial.coordinates.shape == (1, 2, 200, 1)
