"""Solutions on disk: exact round trips, and files that are missing, damaged, hostile or not ours."""

from __future__ import annotations

import builtins
import errno
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import wgflow as wg
from wgflow.certificate import Certificate
from wgflow.errors import InvalidInput, InvalidType, ResourceError, StorageError
from wgflow.files import archives as _npz
from wgflow.files import solutions as storage
from wgflow.files.netcdf import write_netcdf
from wgflow.grids import log_power_cell_average
from wgflow.jko_steps import JKOStep, pack_steps, unpack_steps

SUFFIXES = (".npz", ".nc")


def harmonic(x):
    return x**2 / 2


@pytest.fixture(scope="module")
def small():
    grid = wg.Grid((-3, 3), cells=8)
    energy = wg.Entropy(2.0) + wg.Potential(harmonic)
    return wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.5), (0, 0.3), wg.FiniteVolume(dt=0.1),
                    t_eval=[0, 0.1, 0.3])


@pytest.fixture(scope="module")
def files(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for suffix in SUFFIXES:
        small.save(folder / f"run{suffix}")
    return {suffix: (folder / f"run{suffix}").read_bytes() for suffix in SUFFIXES}


def bits(solution: wg.Solution) -> dict:
    """All that a solution holds, as bytes."""
    history = {f"history {n}": (c.dtype.str, c.tobytes()) for n, c in solution.history.to_dict().items()}
    grid = solution.grid
    return {"t": solution.t.tobytes(), "energy": solution.energy.tobytes(), **history,
            "dissipation": solution.dissipation.tobytes(), "values": [r.values.tobytes() for r in solution.densities],
            "masses": [r.masses.tobytes() for r in solution.densities], "edges": [e.tobytes() for e in grid.edges],
            "widths": [h.tobytes() for h in grid.widths], "periodic": grid.periodic, "names": grid.names,
            "uniform": grid.uniform, "weight": None if grid.log_weight is None else grid.log_weight.tobytes(),
            "certificate": repr(solution.certificate.to_dict()), "status": solution.status,
            "message": solution.message, "method": solution.method, "time_scale": solution.time_scale}


def solved(kind: str) -> wg.Solution:
    if kind == "weighted":
        edges = np.sort(np.random.default_rng(71).uniform(0, 4, 30))
        grid = wg.Grid(edges=[edges], log_weight=log_power_cell_average(edges, 39), names=["r"])
        rho0 = wg.Density.from_values(grid, np.exp(-grid.centers[0]), normalize=True)
        return wg.solve(wg.Potential(harmonic) + wg.Entropy(40.0), rho0, (0, 0.1), time_scale=2.0)
    if kind == "periodic":
        grid = wg.Grid([(0, 1), (-1, 2)], cells=(12, 9), boundary=("periodic", "no-flux"), names=("time", "b/c 2"))
        energy = wg.Entropy(3.0) + wg.Potential(lambda x, y: np.cos(2 * np.pi * x) + y**2)
        return wg.solve(energy, wg.Density.gaussian(grid, [0.3, 0.1], [0.1, 0.2]), (0, 0.1), t_eval=[0.05, 0.1])
    grid = wg.Grid((0, 1), cells=5)
    return wg.solve(wg.Potential(harmonic), wg.Density.uniform(grid), (1, 1))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["weighted", "periodic", "no steps"])
def test_round_trip_keeps_every_bit(kind, suffix, tmp_path):
    solution = solved(kind)
    path = tmp_path / f"run{suffix}"
    solution.save(path)
    back = wg.load(path)
    assert bits(back) == bits(solution)
    assert back.certificate == solution.certificate
    assert back.grid == solution.grid
    assert back.free_energy is None
    back.save(str(path))
    assert bits(wg.load(str(path).encode())) == bits(solution)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_function_as_time_scale_and_odd_certificates_survive(small, tmp_path):
    proof = Certificate(0.0, np.float64(1e-300), np.inf, np.nan, 0.1, 1, 2, 3, error_estimate=-np.inf,
                        settings={"a": (1, (2.5, np.inf)), "b": [None, True], "c": np.int64(3)}, versions={"x": "é"})
    odd = wg.Solution(t=small.t, densities=small.densities, energy=[np.nan, -0.0, 1.0], history=small.history,
                      certificate=proof, status=1, message="stopped at 'x'\n\"", free_energy=None, method="m",
                      time_scale=lambda t: 1 + t)
    for suffix in SUFFIXES:
        odd.save(tmp_path / f"odd{suffix}")
        back = wg.load(tmp_path / f"odd{suffix}")
        assert repr(back.certificate) == repr(proof).replace("np.float64(1e-300)", "1e-300").replace("np.int64(3)", "3")
        assert back.time_scale is None
        assert (back.status, back.message) == (1, odd.message)
        assert back.energy.tobytes() == odd.energy.tobytes()
        with pytest.raises(InvalidInput, match="free_energy"):
            _ = back.dissipation


def test_numpy_alone_reads_the_archive(small, files):
    with np.load(io.BytesIO(files[".npz"]), allow_pickle=False) as data:
        assert data["density"].shape == (3, 8)
        assert data["t"].tolist() == [0, 0.1, 0.3]
        assert json.loads(data["wgflow_solution"].tobytes())["problem"]["status"] == 0
    again = io.BytesIO(files[".npz"])
    assert zipfile.ZipFile(again).testzip() is None


def test_dataset_follows_the_conventions(small):
    data = small.dataset
    assert data["density"].dims == ("time", "x")
    assert data["energy"].dims == ("time",)
    assert np.array_equal(data["density"], [rho.values for rho in small.densities])
    assert np.array_equal(data["x_edges"], small.grid.edges[0])
    assert data["x"].attrs["bounds"] == "x_bounds"
    assert np.array_equal(data["x_bounds"][:, 0], small.grid.edges[0][:-1])
    assert data["history_dt"].sizes == {"step": len(small.history)}
    assert all(v.attrs["units"] == "1" and v.attrs["long_name"] for n, v in data.variables.items() if "bounds" not in n)
    assert data.attrs["Conventions"].startswith("CF-")
    for name in ("problem", "certificate", "settings", "versions"):
        assert isinstance(json.loads(data.attrs[name]), dict)
    assert json.loads(data.attrs["settings"])["dt"] == 0.1


def test_netcdf_opens_elsewhere_and_may_be_added_to(small, files, tmp_path):
    import h5py
    import xarray

    path = tmp_path / "run.nc"
    path.write_bytes(files[".nc"])
    with xarray.open_dataset(path, engine="h5netcdf") as data:
        xarray.testing.assert_equal(data.load(), small.dataset.assign(
            history_fallback=small.dataset["history_fallback"].astype("i1")))
    with h5py.File(path, "a") as file:
        file.attrs["comment"] = "mine"
    assert bits(wg.load(path)) == bits(small)
    packed = {name: {"zlib": True} for name in ("density", "history_t")}
    small.dataset.to_netcdf(path, engine="h5netcdf", encoding=packed)
    assert bits(wg.load(path)) == bits(small)
    with h5py.File(path, "a") as file:
        file["density"][1, 3] += 1e-12
    with pytest.raises(StorageError, match="checksum"):
        wg.load(path)


def test_content_decides_not_the_name(files, tmp_path, small):
    for suffix, other in zip(SUFFIXES, SUFFIXES[::-1]):
        path = tmp_path / f"x{other}"
        path.write_bytes(files[suffix])
        assert bits(wg.load(path)) == bits(small)


# -------------------------------------------------------------------- what is not a file of ours
@pytest.mark.parametrize("path", ["run.txt", "run", ""])
def test_saving_needs_a_known_ending(small, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=r"must end in \.nc"):
        small.save(path)
    with pytest.raises(InvalidType, match="path"):
        small.save(3)
    assert not list(tmp_path.iterdir())


def test_missing_folder_pipe_and_device(tmp_path):
    with pytest.raises(StorageError, match="No such file") as caught:
        wg.load(tmp_path / "none.npz")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(StorageError, match="not a regular file"):
        wg.load(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "pipe.npz", "/dev/zero"):
        with pytest.raises(StorageError, match="not a regular file"):
            wg.load(path)
    for path in (None, 3, "a\0b"):
        with pytest.raises(StorageError, match="cannot read"):
            wg.load(path)
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        with pytest.raises(StorageError):
            wg.load(tmp_path)
    assert not descriptors or len(os.listdir("/proc/self/fd")) <= descriptors


def refused(path: Path, content: bytes, match: str | None = None) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageError, match=match):
        wg.load(path)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1:]


def sampled(content: bytes, suffix: str) -> range:
    return range(0, len(content), 3 if suffix == ".npz" else 61)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated(suffix, files, tmp_path):
    content = files[suffix]
    for length in (*sampled(content, suffix), len(content) - 1):
        refused(tmp_path / "cut", content[:length], "truncated or damaged" if length > 7 else None)
    refused(tmp_path / "cut", content + b"x")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_bit_flipped(suffix, files, tmp_path):
    content = files[suffix]
    for place in sampled(content, suffix):
        refused(tmp_path / "bad", flipped(content, place, place % 8))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_or_flipped_at_every_byte(suffix, files, tmp_path, small):
    content, path = files[suffix], tmp_path / "bad"
    path.write_bytes(content)
    # In place: to make a new file for each of the many thousand cases takes longer than to read it.
    with path.open("r+b", buffering=0) as file:
        for place in range(len(content)):
            os.pwrite(file.fileno(), bytes([content[place] ^ (1 << (place * 5) % 8)]), place)
            with pytest.raises(StorageError):
                wg.load(path)
            os.pwrite(file.fileno(), content[place:place + 1], place)
        assert bits(wg.load(path)) == bits(small)
        for place in reversed(range(len(content))):
            file.truncate(place)
            # HDF5 proper ends where the seal begins: cut just there, nothing is lost and nothing is refused.
            if suffix == ".nc" and place == len(content) - _npz.TRAILER_LENGTH:
                assert bits(wg.load(path)) == bits(small)
            else:
                with pytest.raises(StorageError):
                    wg.load(path)


def test_other_files_are_named_as_such(tmp_path, files):
    np.savez(tmp_path / "other.npz", density=np.ones(3))
    for content in ((tmp_path / "other.npz").read_bytes(), b"x" * 500, b"\x93NUMPY" + b"0" * 200):
        refused(tmp_path / "a", content, "not a wgflow file")
    refused(tmp_path / "a", b"", "truncated")
    newer = files[".npz"].replace(b"format 0002", b"format 0007")
    assert newer != files[".npz"]
    refused(tmp_path / "a", newer, r"format 7, this wgflow reads up to 2; upgrade")


@pytest.mark.parametrize("suffix", [".npz", ".nc"])
@pytest.mark.parametrize(("inner", "options"), [("quantile", None), ("linearized", None), ("back-and-forth", None),
                                                ("entropic", {"debiased": False})])
def test_steps_of_jko_are_kept(tmp_path, suffix, inner, options):
    grid = wg.Grid([(-3, 3)], cells=40)
    energy = wg.Entropy(2.0) + wg.Potential(lambda x: x**2 / 2)
    sol = wg.solve(energy, wg.Density.gaussian(grid, 0.5, 0.4), (0, 0.3), wg.JKO(tau=0.1, inner=inner, options=options))
    sol.save(tmp_path / f"run{suffix}")
    loaded = wg.load(tmp_path / f"run{suffix}")
    assert len(loaded.jko_steps) == 3
    assert loaded.jko_steps == sol.jko_steps
    for mine, theirs in zip(loaded.jko_steps, sol.jko_steps):
        assert {k: type(v) for k, v in mine.extras.items()} == {k: type(v) for k, v in theirs.extras.items()}
    # A loaded solution is saved like the one that was solved.
    loaded.save(tmp_path / f"again{suffix}")
    assert wg.load(tmp_path / f"again{suffix}").jko_steps == sol.jko_steps
    if suffix == ".nc":
        assert sol.dataset["jko_w2_squared"].dims == ("jko_step",)
        assert sol.dataset["jko_tau"].values == pytest.approx(0.1)


def test_steps_of_every_kind_are_tables_and_back():
    steps = (JKOStep(None, 1.0, 2.0, None, 1e-9, 3, 0.1, extras={"flag": True, "n": 4, "x": 0.5, "word": "a"}),
             JKOStep(None, 1.5, 1.0, 0.25, 1e-9, 3, 0.1, bias=0.5, extras={"n": 5, "x": 1, "late": math.inf}))
    header, arrays = pack_steps(steps)
    back = unpack_steps(header, arrays)
    assert back == steps
    assert isinstance(back[0].extras["flag"], bool)
    assert isinstance(back[0].extras["n"], int)
    assert unpack_steps(*pack_steps(())) == ()
    for spoil in ({"count": 3}, {"count": -1}, {"count": True}, {"columns": []}):
        with pytest.raises(ValueError, match="JKO steps"):
            unpack_steps({**header, **spoil}, arrays)


@pytest.mark.parametrize("suffix", [".npz", ".nc"])
def test_files_of_format_1_are_read(tmp_path, monkeypatch, files, suffix):
    """What format 1 wrote: no steps of JKO, no history of work, no number of the format among the problem's parts."""
    sol = wg.load(_written(tmp_path, files, suffix))
    original = storage._pack

    def first_format(solution):
        header, arrays = original(solution)
        del header["problem"]["jko_steps"], header["problem"]["format"], arrays["history_work"]
        return header, arrays

    path = tmp_path / f"old{suffix}"
    if suffix == ".npz":
        monkeypatch.setattr(_npz, "FORMAT", 1)
        _npz.write_npz(path, "solution", *first_format(sol))
        assert b"format 0001" in path.read_bytes()
    else:
        header, arrays = first_format(sol)
        dataset = storage.to_dataset(sol).drop_vars("history_work")
        texts = {part: json.dumps(_npz.encode(header[part])) for part in storage.HEADER}
        dataset.attrs |= {**texts, "wgflow_format": 1, "sha256": storage._digest(texts, arrays)}
        variables = {name: (list(v.dims), v.values, v.attrs) for name, v in dataset.variables.items()}
        with path.open("w+b") as file:
            write_netcdf(file, variables, dataset.attrs)
    old = wg.load(path)
    assert old.jko_steps == ()
    assert (old.history.work == 0).all()
    assert np.array_equal(old.final.values, sol.final.values)


def _written(tmp_path, files, suffix):
    path = tmp_path / f"new{suffix}"
    path.write_bytes(files[suffix])
    return path


# -------------------------------------------------------------------- crafted archives, with a digest that agrees
def sealed(members, kind="solution", compression=zipfile.ZIP_STORED) -> bytes:
    """An archive of (name, bytes) pairs that passes the check of its digest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
        archive.comment = _npz.TRAILER.format(kind=kind, format=1, digest="0" * 64).encode()
    _npz._fill_digest(buffer)
    return buffer.getvalue()


def members_of(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **options)
    return buffer.getvalue()


def claim(shape, descr="<f8") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0" * 8


def with_member(files, name: str, content: bytes) -> bytes:
    return sealed([(n, content if n == name else c) for n, c in members_of(files[".npz"])])


def test_the_crafting_itself_is_sound(files, tmp_path, small):
    (tmp_path / "a").write_bytes(sealed(members_of(files[".npz"])))
    assert bits(wg.load(tmp_path / "a")) == bits(small)


class Trap:
    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_pickles_are_refused_and_not_run(files, tmp_path):
    content = npy(np.array([Trap()], dtype=object), allow_pickle=True)
    refused(tmp_path / "a", with_member(files, "density.npy", content), "pickle refused")
    assert not Trap.sprung


@pytest.mark.parametrize("content", [
    npy(np.ones((3, 8), complex)), npy(np.ones((3, 8), np.float32)), npy(np.array(["a"])), npy(np.ones((3, 7))),
    npy(np.full((3, 8), np.nan)), npy(-np.ones((3, 8))), npy(np.asfortranarray(np.ones((3, 8)))), claim((2,)),
    npy(np.ones(24)), npy(1.0), b"", b"\x93NUMPY", npy(np.ones((3, 8)))[:-8], npy(np.ones((3, 8))) + b"more",
    claim((-1, -1)), claim((True,)), b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, b"\x93NUMPY\x03\x00" + b"\xff" * 40,
], ids=range(18))
def test_members_that_are_no_densities(files, tmp_path, content):
    refused(tmp_path / "a", with_member(files, "density.npy", content))


def test_claims_are_checked_before_memory_is_taken(files, tmp_path):
    path = tmp_path / "a"
    for shape in ((10**12,), (10**6, 10**6), (2**62, 2**62)):
        path.write_bytes(with_member(files, "density.npy", claim(shape)))
        with pytest.raises(ResourceError, match="do not trust this file"):
            wg.load(path)


def test_bombs(files, tmp_path):
    path = tmp_path / "a"
    bomb = [(name, bytes(30_000_000) if name == "density.npy" else c) for name, c in members_of(files[".npz"])]
    path.write_bytes(sealed(bomb, compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 100_000
    with pytest.raises(ResourceError, match="unpack"):
        wg.load(path)
    refused(path, sealed(members_of(files[".npz"]), compression=zipfile.ZIP_DEFLATED), "compressed")


@pytest.mark.parametrize("name", ["../../x.npy", "/etc/x.npy", "a\\b.npy", "density.npy\0.txt", "x.txt", "C:x.npy",
                                  ".npy", "é.npy", "density.npy"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unsafe_member_names(files, tmp_path, name):
    raw = name.replace("\0", "@")
    content = sealed([*members_of(files[".npz"]), (raw, npy(np.ones(3)))])
    if "\0" in name:
        content = content.replace(raw.encode(), name.encode())
        buffer = io.BytesIO(content)
        _npz._fill_digest(buffer)
        content = buffer.getvalue()
    refused(tmp_path / "a", content, "unsafe member name|File name in directory")


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', "9" * 10_000, "[]", "null", "", "{", "\udce1",
    '{"problem": {}}', '{"problem": {"axes": 3}}', '{"problem": {"axes": [{"name": "x", "boundary": "no-flux"}]}}',
])
def test_headers_that_are_none(files, tmp_path, text):
    content = npy(np.frombuffer(text.encode(errors="surrogatepass"), np.uint8))
    refused(tmp_path / "a", with_member(files, "wgflow_solution.npy", content))


def test_a_missing_member_is_no_solution(files, tmp_path):
    members = members_of(files[".npz"])
    for k in range(len(members)):
        if members[k][0] == "dissipation.npy":
            continue
        refused(tmp_path / "a", sealed(members[:k] + members[k + 1:]))
    refused(tmp_path / "a", sealed([*members, *((f"x{k}.npy", npy(1.0)) for k in range(80))]), "at most")


def test_netcdf_claims_and_links(small, tmp_path):
    import h5py

    path = tmp_path / "run.nc"
    (tmp_path / "secret.bin").write_bytes(b"\0" * 192)

    def spoiled(spoil, error, match):
        path.unlink(missing_ok=True)
        small.dataset.to_netcdf(path, engine="h5netcdf")
        with h5py.File(path, "a") as file:
            spoil(file)
        with pytest.raises(error, match=match):
            wg.load(path)

    def replaced(**options):
        def spoil(file):
            del file["density"]
            file.create_dataset("density", **options)
        return spoil

    def linked(file):
        del file["density"]
        file["density"] = h5py.ExternalLink("other.nc", "/density")

    spoiled(replaced(shape=(10**6, 10**6), dtype="f8", chunks=(1000, 1000)), ResourceError, "do not trust")
    spoiled(replaced(shape=(3, 8), dtype="f8", external=[(str(tmp_path / "secret.bin"), 0, 192)]), StorageError, "own")
    spoiled(replaced(data=np.array([b"x"], dtype=object), dtype=h5py.string_dtype()), StorageError, "dtype")
    spoiled(linked, StorageError, "link")
    spoiled(lambda f: f.attrs.__delitem__("wgflow_format"), StorageError, "not a wgflow file")
    spoiled(lambda f: f.attrs.__setitem__("wgflow_format", 7), StorageError, "format 7")
    spoiled(lambda f: f.attrs.__setitem__("certificate", "{}"), StorageError, "checksum")


# -------------------------------------------------------------------- writing that fails
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_symlinks_folders_and_missing_folders_are_not_written_to(small, tmp_path, suffix):
    target = tmp_path / f"target{suffix}"
    target.write_bytes(b"precious")
    link = tmp_path / f"link{suffix}"
    link.symlink_to(target)
    with pytest.raises(StorageError, match="symlink"):
        small.save(link)
    assert target.read_bytes() == b"precious"
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(StorageError, match="regular file"):
        small.save(tmp_path / f"folder{suffix}")
    with pytest.raises(StorageError, match="make it first"):
        small.save(tmp_path / "none" / f"run{suffix}")
    assert link.is_symlink()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("where", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_write_that_fails_leaves_the_old_file(small, tmp_path, monkeypatch, suffix, where, code):
    path = tmp_path / f"run{suffix}"
    path.write_bytes(b"old")

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(StorageError, match=os.strerror(code)) as caught:
            small.save(path)
    assert caught.value.errno == code
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_a_disk_that_is_full(small, tmp_path):
    resource = pytest.importorskip("resource")
    code = (f"import resource, signal, wgflow as wg\nsol = wg.load({str(tmp_path)!r} + '/in.npz')\n"
            "import xarray, h5netcdf, h5py\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
            "for suffix in ('.npz', '.nc'):\n"
            f"    try: sol.save({str(tmp_path)!r} + '/out' + suffix)\n"
            "    except wg.StorageError as error: print('refused')\n")
    assert resource
    small.save(tmp_path / "in.npz")
    for suffix in SUFFIXES:
        (tmp_path / f"out{suffix}").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["refused", "refused"], done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"in.npz", "out.npz", "out.nc"}
    assert all((tmp_path / f"out{suffix}").read_bytes() == b"old" for suffix in SUFFIXES)


def test_without_the_extra_the_message_says_how_to_install(small, files, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "h5netcdf" else find(name, *a))
    (tmp_path / "in.nc").write_bytes(files[".nc"])
    for call in (lambda: small.save(tmp_path / "run.nc"), lambda: small.dataset, lambda: wg.load(tmp_path / "in.nc")):
        with pytest.raises(StorageError, match=re.escape("h5netcdf: pip install 'wgflow[io]'")):
            call()
    small.save(tmp_path / "run.npz")
    assert bits(wg.load(tmp_path / "run.npz")) == bits(small)


def test_plain_archives_need_no_extra(files, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] in ("xarray", "h5netcdf", "h5py", "pickle"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    (tmp_path / "run.npz").write_bytes(files[".npz"])
    monkeypatch.setattr(builtins, "__import__", without)
    wg.load(tmp_path / "run.npz").save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == files[".npz"]


def test_variable_names_are_valid_and_different():
    names = storage.variables(("density", "a b", "a_b", "1"))
    assert names == ["density_axis", "a_b", "a_b_axis", "axis_1"]
    assert len(set(storage.variables(("x", "x_edges", "x_bounds", "x_edge")))) == 4
