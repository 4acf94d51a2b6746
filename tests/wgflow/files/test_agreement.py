"""Files with a right digest whose values do not agree with each other, or overflow when they are used."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, StorageError
from wgflow.files import archives
from wgflow.files.agreement import check_arrays, check_masses
from wgflow.files.schema import check_certificate

WELL = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
PULL = WELL + wg.Interaction(wg.Convolution(lambda z: z**2 / 2))
BUMP = wg.Density.gaussian(wg.Grid((-3, 3), cells=30, boundary="no-flux"), mean=0.5, cov=0.3)
RUNS = {
    "fourth order": (WELL, wg.FiniteVolume(dt=0.01, max_steps=4)),
    "second order": (PULL, wg.FiniteVolume(dt=0.01, order=2, max_steps=4)),
    "midpoint": (PULL, wg.FiniteVolume(dt=0.01, scheme="midpoint", max_steps=4)),
    "quantile": (WELL, wg.JKO(0.02, max_steps=4)),
    "linearized": (PULL, wg.JKO(0.02, "linearized", max_steps=4)),
}


def checkpoint(path, name):
    energy, method = RUNS[name]
    wg.solve(energy, BUMP, (0, 1), method=method, checkpoint=path, throw=False)
    return energy, *archives.read_npz(path, "checkpoint")


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_agrees_with_itself_until_a_law_is_scaled(tmp_path, name):
    path, new = tmp_path / "run", tmp_path / "new"
    energy, header, arrays = checkpoint(path, name)
    assert wg.resume(path, energy=energy, checkpoint=new, stop=lambda t, rho: True).stopped
    laws = [key for key in ("state_masses", "state_now_density", "snapshot_masses", "rho0", "column_mass")
            if key in arrays]
    assert len(laws) == 4
    for key in laws:
        for factor in (0.0, 1e-6, 1.0001, 2.0, 1e300):
            archives.write_npz(path, "checkpoint", header, {**arrays, key: arrays[key] * factor})
            for read in (lambda: wg.load(path), lambda: wg.resume(path, energy=energy, checkpoint=new)):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    with pytest.raises(StorageError, match=r"mass|beyond"):
                        read()


@pytest.mark.parametrize("name", RUNS)
def test_numbers_whose_squares_overflow_are_refused_without_a_warning(tmp_path, name):
    path, new = tmp_path / "run", tmp_path / "new"
    energy, header, arrays = checkpoint(path, name)
    for key in (key for key in arrays if key.startswith(("state_", "audit_")) and arrays[key].dtype == float):
        for value in (1e308, -1e200):
            bad = arrays[key].copy()
            bad.reshape(-1)[bad.size // 2] = value
            archives.write_npz(path, "checkpoint", header, {**arrays, key: bad})
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(StorageError):
                    wg.resume(path, energy=energy, checkpoint=new)


def test_laws_whose_sums_overflow_are_refused_before_they_are_formed(tmp_path):
    path, new = tmp_path / "run", tmp_path / "new"
    energy = wg.Entropy(4.0) + wg.Potential(lambda x, y: (x**2 + y**2) / 2)
    plane = wg.Density.gaussian(wg.Grid([(-3, 3), (-2, 2)], cells=(16, 14)), mean=(0.5, 0), cov=0.3)
    wg.solve(energy, plane, (0, 1), method=wg.FiniteVolume(dt=0.01, order=4, max_steps=4), checkpoint=path, throw=False)
    header, arrays = archives.read_npz(path, "checkpoint")
    assert header["state"]["holds"] == "values at centers"
    for key in ("rho0", "snapshot_masses"):
        for count in (1, 2, plane.values.size):
            bad = arrays[key].copy()
            bad.reshape(-1)[:count] = 1e308
            archives.write_npz(path, "checkpoint", header, {**arrays, key: bad})
            for read in (lambda: wg.load(path), lambda: wg.resume(path, energy=energy, checkpoint=new)):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    with pytest.raises(StorageError, match=f"{key} holds numbers beyond"):
                        read()


@pytest.mark.parametrize("name", RUNS)
def test_numbers_of_the_audit_whose_products_overflow_are_refused(tmp_path, name):
    path = tmp_path / "run"
    energy, header, arrays = checkpoint(path, name)
    archives.write_npz(path, "checkpoint", {**header, "audit": {**header["audit"], "may_miss": 1e308}}, arrays)
    with pytest.raises(StorageError, match="may_miss"):
        wg.resume(path, energy=energy, checkpoint=tmp_path / "new")


def test_times_of_the_audit_that_do_not_increase_are_refused(tmp_path):
    path = tmp_path / "run"
    energy, header, arrays = checkpoint(path, "second order")
    rows = arrays["audit_samples"].copy()
    rows[1, 0] = rows[0, 0]
    archives.write_npz(path, "checkpoint", header, {**arrays, "audit_samples": rows})
    with pytest.raises(StorageError, match="times of the samples"):
        wg.resume(path, energy=energy, checkpoint=tmp_path / "new")


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_samples_of_a_clock_are_positive_numbers(tmp_path, bad):
    path = tmp_path / "run"
    wg.solve(WELL, BUMP, (0, 1), wg.FiniteVolume(dt=0.01, max_steps=3), time_scale=lambda t: 1 + t, checkpoint=path,
             throw=False)
    header, arrays = archives.read_npz(path, "checkpoint")
    samples = arrays["time_scales"].copy()
    samples[3] = bad
    archives.write_npz(path, "checkpoint", header, {**arrays, "time_scales": samples})
    with pytest.raises(StorageError, match="time_scale"):
        wg.resume(path, energy=WELL, time_scale=lambda t: 1 + t, checkpoint=tmp_path / "new")


def test_a_solution_whose_laws_have_other_masses_than_its_history_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    wg.solve(WELL, BUMP, (0, 0.1), wg.FiniteVolume(dt=0.01)).save(path)
    header, arrays = archives.read_npz(path, "solution")
    for key in ("density", "history_mass"):
        archives.write_npz(path, "solution", header, {**arrays, key: arrays[key] * 1.001})
        with pytest.raises(StorageError, match="mass"):
            wg.load(path)
    archives.write_npz(path, "solution", header, arrays)
    assert wg.load(path).final.mass == pytest.approx(1.0)


def test_masses_are_compared_with_all_that_were_recorded():
    recorded = np.array([1.0, 0.9, 0.8])  # of a method that loses mass, which the certificate tells
    check_masses([("a", np.array([0.4, 0.45])), ("b", np.array([0.8, 0.0]))], recorded)
    for masses in ([0.5, 0.6], [0.7, 0.0], [-0.1, 1.0], [np.nan, 1.0], [np.inf, 0.0], [1e308, 1e308]):
        with pytest.raises(ValueError, match="no density of this run"):
            check_masses([("a", np.array(masses))], recorded)
    check_masses([("a", np.array([0.5, 0.55]))], recorded, drift=0.06)  # a step that is left out had that mass
    for mass in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            check_masses([], np.array([1.0, mass]))
    check_arrays({"a": np.array([1e139, np.nan, np.inf]), "b": np.arange(3), "c": "text"})
    with pytest.raises(ValueError, match="beyond"):
        check_arrays({"a": np.array([1.0, -1e141])})


@pytest.mark.parametrize("head", ["-" * 3000 + "1", "-" * 7000 + "1", "(" * 4000, "[]", "x", "{}",
                                  "{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 30), }",
                                  "{'descr': '|O', 'fortran_order': False, 'shape': (6, 30), }",
                                  "{'descr': '<f8', 'fortran_order': False, 'shape': (), }"])
def test_a_head_of_a_stream_that_is_none_is_refused(tmp_path, head):
    path, stream = tmp_path / "run", tmp_path / "laws.npy"
    wg.solve(WELL, BUMP, (0, 1), wg.FiniteVolume(dt=0.01, max_steps=50), t_eval=np.linspace(0, 1, 6), stream=stream,
             checkpoint=path, throw=False)
    data = stream.read_bytes()
    text = head.encode().ljust(struct.unpack("<H", data[8:10])[0] - 1) + b"\n"
    stream.write_bytes(data[:8] + struct.pack("<H", len(text)) + text + data[128:])
    with pytest.raises(StorageError, match=r"laws\.npy"):
        wg.resume(path, energy=WELL, stream=stream, checkpoint=tmp_path / "new")


def test_coordinates_whose_squares_overflow_are_refused_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (lambda: wg.Grid(edges=[np.array([-1e308, 0.0, 1e308])]), lambda: wg.Grid((-1e200, 1e200), cells=9),
                     lambda: wg.Grid(edges=[np.array([0.0, 1.0, 1e151])])):
            with pytest.raises(InvalidInput, match="another unit"):
                make()
        assert np.isfinite(wg.Density.uniform(wg.Grid((-1e150, 1e150), cells=9)).cov())
    with pytest.warns(wg.WGFlowWarning, match="cell ratio 1.0e\\+150"):
        wg.Grid(edges=[np.array([-1e-150, 0.0, 1.0])])


def test_an_error_of_the_energy_comes_with_that_of_the_law():
    check_certificate({"energy_error": 0.25, "error_estimate": 0.5})
    check_certificate({"energy_error": None, "error_estimate": 0.5})
    for lone in ({"energy_error": 0.25}, {"energy_error": 0.25, "error_estimate": None}):
        with pytest.raises(ValueError, match="energy_error is given without error_estimate"):
            check_certificate(lone)
