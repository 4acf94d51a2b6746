"""Snapshots written to a file as they come: the same laws as in memory, in bounded memory, also after a resume."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, ResourceError, StorageError

LINE = wg.Density.gaussian(wg.Grid((-5, 5), cells=120), 1.0, 0.3)
PLANE = wg.Density.gaussian(wg.Grid([(-5, 5), (-5, 5)], cells=(20, 24)), [1.0, 0.0], 0.4)
BOWL = wg.Potential(lambda *x: sum(c**2 for c in x) / 2)
PULL = wg.Interaction(wg.Convolution(lambda z: z**2 / 4))
TIMES = np.linspace(0, 1, 21)
ATOMS = wg.Atoms(np.linspace(-1, 1, 12)[None], np.full(12, 1 / 12))

CASES = {
    "fourth order": (wg.Entropy(1.0) + BOWL, LINE, wg.FiniteVolume()),
    "second order": (wg.Entropy(1.0) + BOWL + PULL, LINE, wg.FiniteVolume(order=2)),
    "plane": (wg.Entropy(1.0) + BOWL, PLANE, wg.FiniteVolume()),
    "JKO": (wg.Entropy(1.0) + BOWL, LINE, wg.JKO(tau=0.05)),
    "driven": (wg.Entropy(1.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - t) ** 2 / 2)), LINE,
               wg.FiniteVolume(dt=0.05)),
    "atoms": (1 * BOWL, ATOMS, wg.Lagrangian()),
    "FiPy": (wg.Entropy(1.0) + BOWL, LINE, wg.FiPy(dt=0.05)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_laws_are_those_that_memory_would_hold(tmp_path, name):
    energy, rho0, method = CASES[name]
    whole = wg.solve(energy, rho0, (0, 1), method=method, t_eval=TIMES)
    sol = wg.solve(energy, rho0, (0, 1), method=method, t_eval=TIMES, stream=tmp_path / "laws.npy")
    assert np.array_equal(sol.t, whole.t)
    assert len(sol.densities) == len(whole.densities) == 21
    for ours, theirs in zip(sol.densities, whole.densities):
        a, b = (law.points if name == "atoms" else law.values for law in (ours, theirs))
        assert np.array_equal(a, b)
    assert sol.certificate.explain() == whole.certificate.explain()
    assert np.array_equal(sol.energy, whole.energy)
    assert np.array_equal(sol.history.min_density, whole.history.min_density)
    assert [law.mass for law in sol.densities[3:5]] == [law.mass for law in whole.densities[3:5]]
    rows = np.load(tmp_path / "laws.npy", mmap_mode="r")
    assert rows.shape == (21, *(rho0.points.shape if name == "atoms" else rho0.grid.shape))
    if name == "second order":
        assert np.allclose(rows[7], whole.densities[7].masses, rtol=1e-15, atol=0.0)


def test_memory_does_not_grow_with_the_output_times(tmp_path):
    """600 snapshots of 10,000 cells are 48 MB; the audit keeps 120 laws at most, 10 MB."""
    rho0 = wg.Density.gaussian(wg.Grid((-5, 5), cells=10_000), 0.0, 0.5)
    wg.solve(wg.Entropy(1.0) + BOWL, rho0, (0, 0.1))
    tracemalloc.start()
    try:
        sol = wg.solve(wg.Entropy(1.0) + BOWL, rho0, (0, 1), method=wg.FiniteVolume(dt=0.01, order=2),
                       t_eval=np.linspace(0, 1, 600), stream=tmp_path / "laws.npy")
        middle = sol.density(float(sol.t[300]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "laws.npy").stat().st_size > 48_000_000
    assert abs(middle.mass - 1) < 1e-12
    assert peak < 20_000_000


def test_a_run_that_streams_is_resumed_with_the_same_bits(tmp_path):
    energy, path, laws = wg.Entropy(1.0) + BOWL + PULL, tmp_path / "run.npz", tmp_path / "laws.npy"
    whole = wg.solve(energy, LINE, (0, 1), t_eval=TIMES)
    part = wg.solve(energy, LINE, (0, 1), t_eval=TIMES, checkpoint=path, stream=laws, stop=lambda t, rho: t > 0.4)
    assert 0.4 < part.t[-1] < 0.5
    # What the checkpoint alone has is where the run is.
    assert wg.load(path).t.tolist() == [part.t[-1]]
    assert path.stat().st_size < 60_000
    with pytest.raises(InvalidInput, match="writes its snapshots to a file"):
        wg.resume(path, energy=energy)
    (tmp_path / "other.npy").write_bytes(b"not an array")
    with pytest.raises(StorageError, match="not a file of snapshots"):
        wg.resume(path, energy=energy, stream=tmp_path / "other.npy")
    np.save(tmp_path / "wrong.npy", np.zeros((21, 7)))
    with pytest.raises(StorageError, match=r"shape \(21, 7\)"):
        wg.resume(path, energy=energy, stream=tmp_path / "wrong.npy")
    again = wg.resume(path, energy=energy, stream=laws)
    assert np.array_equal(again.t, whole.t)
    assert all(np.array_equal(a.values, b.values) for a, b in zip(again.densities, whole.densities))


def _same(ours, theirs) -> bool:
    return (np.array_equal(ours.t, theirs.t) and np.array_equal(ours.energy, theirs.energy)
            and ours.history.to_dict().keys() == theirs.history.to_dict().keys()
            and all(np.array_equal(a, b) for a, b in zip(ours.history.to_dict().values(),
                                                         theirs.history.to_dict().values()))
            and all(np.array_equal(a.values, b.values) for a, b in zip(ours.densities, theirs.densities, strict=True)))


@pytest.mark.parametrize("name", ["fourth order", "second order", "plane", "JKO"])
def test_another_end_gives_the_bits_that_memory_would_give(tmp_path, name):
    """To the end, to an earlier one, to a later one, and to a later one before the old end was reached."""
    energy, rho0, method = CASES[name]
    laws = tmp_path / "laws.npy"

    def both(t_end=None, **options):
        ours = wg.resume(tmp_path / "ours.npz", t_end, energy=energy, stream=laws, **options)
        theirs = wg.resume(tmp_path / "theirs.npz", t_end, energy=energy, **options)
        assert _same(ours, theirs)
        rows = np.load(laws, mmap_mode="r")
        assert rows.shape == (len(ours.t), *rho0.grid.shape)
        assert ours.certificate.explain() == theirs.certificate.explain()
        return ours

    options = {"method": method, "t_eval": [0.0, 0.1, 0.7, 1.0], "stop": lambda t, rho: t > 0.15}
    first = wg.solve(energy, rho0, (0, 1), checkpoint=tmp_path / "ours.npz", stream=laws, **options)
    wg.solve(energy, rho0, (0, 1), checkpoint=tmp_path / "theirs.npz", **options)
    assert first.t[-1] < 0.7
    last = first.densities[-1].values.copy()
    earlier = both(0.78)
    assert earlier.t[-1] == 0.78
    # The row of the law at which the first run was stopped belongs to another law now, which is told.
    with pytest.raises(StorageError, match="changed since"):
        _ = first.densities[-1]
    assert np.array_equal(first.densities[1].values, earlier.densities[1].values)
    assert not np.array_equal(last, earlier.final.values)
    later = both(1.5, t_eval=[0.9, 1.2, 1.4])
    assert later.t[-1] == 1.4
    both(2.0)
    wg.solve(energy, rho0, (0, 1), checkpoint=tmp_path / "ours2.npz", stream=tmp_path / "laws2.npy", **options)
    wg.solve(energy, rho0, (0, 1), checkpoint=tmp_path / "theirs2.npz", **options)
    ours = wg.resume(tmp_path / "ours2.npz", 1.3, energy=energy, stream=tmp_path / "laws2.npy", t_eval=[1.1, 1.3])
    assert _same(ours, wg.resume(tmp_path / "theirs2.npz", 1.3, energy=energy, t_eval=[1.1, 1.3]))


def test_the_file_of_another_run_is_refused(tmp_path):
    energy, path, laws = wg.Entropy(1.0) + BOWL, tmp_path / "run.npz", tmp_path / "laws.npy"
    wg.solve(energy, LINE, (0, 1), t_eval=TIMES, checkpoint=path, stream=laws, stop=lambda t, rho: t > 0.4)
    wg.solve(energy + BOWL, LINE, (0, 1), t_eval=TIMES, stream=tmp_path / "other.npy")
    with pytest.raises(StorageError, match="is not the one that the run has written"):
        wg.resume(path, energy=energy, stream=tmp_path / "other.npy")
    rows = np.load(laws, mmap_mode="r+")
    rows[2, 5] *= 1 + 1e-15
    rows.flush()
    with pytest.raises(StorageError, match=r"t=0\.1 is not the one"):
        wg.resume(path, energy=energy, stream=laws)


def test_a_run_that_ends_before_its_times_do_keeps_where_it_ended(tmp_path):
    """The last output time lies behind, so that the file has one row more than there are output times."""
    laws = tmp_path / "laws.npy"
    sol = wg.solve(wg.Entropy(1.0) + BOWL, LINE, (0, 3), t_eval=[0.0, 0.5], stream=laws, stop=lambda t, rho: t > 1.0)
    assert len(sol.t) == 3 == len(np.load(laws))
    assert np.array_equal(np.load(laws)[2] >= 0, sol.final.values >= 0)


SCRIPT = """
import sys
import numpy as np
import wgflow as wg
from wgflow.files.checkpoints import Checkpoint

Checkpoint.INTERVAL, Checkpoint.PATIENCE = 0.05, 0.0
energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
rho0 = wg.Density.gaussian(wg.Grid((-5, 5), cells=400), 1.0, 0.3)
method = wg.FiniteVolume(dt=1e-4, order=2)
wg.solve(energy, rho0, (0, 4), method=method, t_eval=np.linspace(0, 4, 2001), checkpoint=sys.argv[1],
         stream=sys.argv[2])
"""


@pytest.mark.slow
def test_killed_in_mid_stream(tmp_path):
    """SIGKILL, at which the file has rows that the checkpoint does not know; resumed to an end of its own."""
    path, laws = tmp_path / "run.npz", tmp_path / "laws.npy"
    (tmp_path / "run.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(path), str(laws)])
    try:
        deadline = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    energy, rho0 = wg.Entropy(1.0) + BOWL, wg.Density.gaussian(wg.Grid((-5, 5), cells=400), 1.0, 0.3)
    reached = float(wg.load(path).t[-1])
    assert 0 < reached < 4
    end = round(reached, 2) + 0.05
    sol = wg.resume(path, end, energy=energy, stream=laws)
    whole = wg.solve(energy, rho0, (0, end), method=wg.FiniteVolume(dt=1e-4, order=2),
                     t_eval=[*(t for t in np.linspace(0, 4, 2001) if t < end), end])
    assert np.array_equal(sol.t, whole.t)
    assert all(np.array_equal(a.values, b.values) for a, b in zip(sol.densities, whole.densities, strict=True))


@pytest.mark.parametrize("suffix", [".npz", ".nc"])
@pytest.mark.parametrize("name", ["second order", "fourth order", "atoms"])
def test_saved_files_are_those_of_a_run_in_memory(tmp_path, name, suffix):
    energy, rho0, method = CASES[name]
    sol = wg.solve(energy, rho0, (0, 1), method=method, t_eval=TIMES, stream=tmp_path / "laws.npy")
    whole = wg.solve(energy, rho0, (0, 1), method=method, t_eval=TIMES)
    for one, path in ((sol, "ours"), (whole, "theirs")):
        one.save(tmp_path / f"{path}{suffix}")
    ours, theirs = ((tmp_path / f"{path}{suffix}").read_bytes() for path in ("ours", "theirs"))
    assert len(ours) == len(theirs)
    if suffix == ".npz":
        assert ours == theirs
    back = wg.load(tmp_path / f"ours{suffix}")
    for a, b in zip(back.densities, whole.densities, strict=True):
        a, b = (law.points if name == "atoms" else law.values for law in (a, b))
        assert np.array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".nc"])
def test_a_long_stream_is_resumed_and_saved_in_bounded_memory(tmp_path, suffix):
    """600 snapshots of 10,000 cells are 48 MB, and their densities as much again."""
    energy, path, laws = wg.Entropy(1.0) + BOWL, tmp_path / "run.npz", tmp_path / "laws.npy"
    rho0 = wg.Density.gaussian(wg.Grid((-5, 5), cells=10_000), 0.0, 0.5)
    wg.solve(energy, rho0, (0, 1), method=wg.FiniteVolume(dt=0.02, order=2), t_eval=np.linspace(0, 1, 300),
             stream=laws, checkpoint=path)
    tracemalloc.start()
    try:
        sol = wg.resume(path, 2.0, energy=energy, stream=laws, t_eval=np.linspace(1, 2, 301)[1:])
        sol.save(tmp_path / f"sol{suffix}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(sol.densities) == 600
    assert (tmp_path / f"sol{suffix}").stat().st_size > 48_000_000
    assert peak < 16_000_000


def test_a_full_disk_leaves_the_old_netcdf_file(tmp_path, monkeypatch):
    """HDF5 may drop what its file raises; the first failure is told all the same."""
    sol = wg.solve(wg.Entropy(1.0) + BOWL, LINE, (0, 1), t_eval=TIMES)
    sol.save(tmp_path / "sol.nc")
    before = (tmp_path / "sol.nc").read_bytes()

    class Full(io.FileIO):
        """A file on a disk on which there is little room."""

        room = 0

        def write(self, data):
            if self.tell() + len(bytes(data)) > self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr("wgflow.files.solutions.Path.open", lambda path, mode: Full(path, mode))
    for room in range(0, len(before), 7919):
        Full.room = room
        with pytest.raises(StorageError, match="No space left"):
            sol.save(tmp_path / "sol.nc")
    assert (tmp_path / "sol.nc").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["sol.nc"]


def test_what_is_refused(tmp_path, monkeypatch):
    energy, laws = wg.Entropy(1.0) + BOWL, tmp_path / "laws.npy"
    with pytest.raises(InvalidInput, match="give the output times"):
        wg.solve(energy, LINE, (0, 1), stream=laws)
    laws.write_text("a thesis")
    with pytest.raises(StorageError, match="exists"):
        wg.solve(energy, LINE, (0, 1), t_eval=TIMES, stream=laws)
    assert laws.read_text() == "a thesis"
    path = tmp_path / "run.npz"
    wg.solve(energy, LINE, (0, 1), t_eval=TIMES, checkpoint=path)
    with pytest.raises(InvalidInput, match="keeps its snapshots in memory"):
        wg.resume(path, 2.0, energy=energy, stream=laws)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match="free on this disk"):
        wg.solve(energy, LINE, (0, 1), t_eval=TIMES, stream=tmp_path / "new.npy")
    assert not (tmp_path / "new.npy").exists()
