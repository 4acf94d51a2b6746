"""Snapshots written to a file as they come: the same laws as in memory, in bounded memory, also after a resume."""

from __future__ import annotations

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
    """600 snapshots of 10,000 cells are 48 MB."""
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
    assert peak < 16_000_000


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
    with pytest.raises(InvalidInput, match="to the end that it had"):
        wg.resume(path, 2.0, energy=energy, stream=laws)
    (tmp_path / "other.npy").write_bytes(b"not an array")
    with pytest.raises(StorageError, match="not a file of snapshots"):
        wg.resume(path, energy=energy, stream=tmp_path / "other.npy")
    np.save(tmp_path / "wrong.npy", np.zeros((21, 7)))
    with pytest.raises(StorageError, match=r"shape \(21, 7\)"):
        wg.resume(path, energy=energy, stream=tmp_path / "wrong.npy")
    again = wg.resume(path, energy=energy, stream=laws)
    assert np.array_equal(again.t, whole.t)
    assert all(np.array_equal(a.values, b.values) for a, b in zip(again.densities, whole.densities))


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
