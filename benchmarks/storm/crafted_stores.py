"""Crafted files of every other kind: what a run, a study, a sweep or a comparison leaves behind and reads again.

NetCDF files, files of streamed snapshots with the checkpoints that count on them, folders of particles, the items of a
sweep, kept runs of SGD, the checkpoint of a study, the descriptions in TOML of studies and sweeps; and archives whose
bytes are changed below a right digest. Whatever reads them must refuse them by an exception of wgflow, compute what
they held again, or cope.
"""

from __future__ import annotations

import copy
import logging
import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import children
import numpy as np
from crafted_files import MEBIBYTES, PATIENCE, ROOM, SECONDS, mutated, unwarned, used
from figures import Figure, Scale, counted
from runs import BUMP, FV, NOISE, PULL, RUNS, WELL, Run

import wgflow as wg
from wgflow.files import archives, netcdf, solutions
from wgflow.validation import compare, load_trajectories, run_langevin, run_sgd, sweep
from wgflow.validation.sgd_runs import kept_sgd_runs
from wgflow.validation.study_files.study import load_study
from wgflow.validation.sweeps.sweep_files import sweep_from_file

#: Makes a crafted file, and returns its changes in words and what reads it.
Craft = Callable[[random.Random, Path], tuple[str, Callable[[], Any]]]
TIMES = [0.0, 0.5, 1.0]
STUDY = """
title = "a study"
[grid]
bounds = [-3.0, 3.0]
cells = 20
boundary = "no-flux"
[energy]
beta = 4.0
potential = "x**4 / 4 - x**2 / 2"
interaction = "z**2 / 2"
[start]
mean = 0.5
cov = 0.3
[solve]
t_end = 1.0
t_eval = [0.0, 0.5, 1.0]
[solve.method]
name = "FiniteVolume"
dt = 0.01
max_steps = 7
[output]
folder = "out"
files = ["npz"]
picture = false
checkpoint = true
"""
SWEEP = """
function = "area.py:area"
seed = 7
[parameters]
a = [1.0, 2.0]
b = [3, 4]
"""
AREA = "def area(a, b, rng):\n    return {'area': a * b + rng.random(), 'sides': [a, b]}\n"
#: What may stand in the place of a value of a TOML file.
TEXTS = ["-1", "0", "1e999", "nan", "-inf", '""', '"x"', "[]", "{}", "true", "1" + "0" * 31, "1e308",
         "[[1.0]]", '"x**x**x**9"', '"1/0*x"', '"' + "(" * 300 + '"', "[" * 2000, "1979-05-27", "5e-324", "3.5",
         '"\\u0000"', "[1.0, 2.0, 3.0]", "1_000_000"]


def area(a: float, b: float, rng: np.random.Generator) -> dict[str, Any]:
    return {"area": a * b + rng.random(), "sides": [a, b]}


def _changed(rng: random.Random, path: Path, kind: str) -> str:
    """Change an archive's header and arrays in place; its digest stays right."""
    header, arrays = archives.read_npz(path, kind)
    while True:
        changed, others, told = mutated(rng, copy.deepcopy(header), dict(arrays))
        try:
            archives.write_npz(path, kind, changed, others)
        except (ValueError, TypeError, KeyError, wg.WGFlowError):
            continue  # not even a file of ours
        return f"{path.name}: {told}"


class Here(Executor):
    """An executor that computes at once."""

    def submit(self, function, /, *arguments, **settings):
        future: Future = Future()
        future.set_result(function(*arguments, **settings))
        return future


def _noisy(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Change a few bytes, or take some away or add some."""
    at, act = rng.randrange(len(data)), rng.random()
    n = rng.choice([1, 1, 2, 4, 8, 64])
    if act < 0.4:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1:], f"a bit of byte {at}"
    if act < 0.7:
        return data[:at] + rng.randbytes(n) + data[at + n:], f"{n} bytes from {at}"
    if act < 0.8:
        return data[:at] + data[at + n:], f"without {n} bytes from {at}"
    if act < 0.9:
        return data[:at] + b"\xff" * n + data[at + n:], f"{n} bytes 255 from {at}"
    return data[:at] + rng.randbytes(n) + data[at:], f"{n} bytes more at {at}"


def _resealed(rng: random.Random, path: Path) -> str:
    """Change bytes below the digest, most of them in what tells of members and arrays, and fill the digest in."""
    data = path.read_bytes()
    body, told = data[:-archives.TRAILER_LENGTH], []
    places = [k for k in range(len(body)) if body.startswith((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06",
                                                              b"\x93NUMPY"), k)]
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.choice(places)
        if rng.random() < 0.7 and at < len(body):
            part, words = _noisy(rng, body[at:at + 160])
            body = body[:at] + part + body[at + 160:]
        else:
            body, words = _noisy(rng, body)
        told.append(f"{words} after {at}")
    path.write_bytes(body + data[-archives.TRAILER_LENGTH:])
    with path.open("r+b") as file:
        archives._fill_digest(file)
    return f"{path.name}: {'; '.join(told)}"


# ---------------------------------------------------------------------- the kinds
def _netcdf(folder: Path) -> Craft:
    """Solutions in NetCDF: their tables and variables are changed, their digests are right, or they are not there."""
    found = []
    for run in (RUNS[0], RUNS[3], RUNS[6]):
        path = folder / f"{run.name}.nc"
        run.solve(method=run.cut(3), throw=False).save(path)
        found.append((run.name, *solutions._read_netcdf(path)))
        used(wg.load(path))
    described = {name: solutions._described(wg.load(folder / f"{name}.nc")) for name, _, _ in found}

    def craft(rng: random.Random, place: Path) -> tuple[str, Callable[[], Any]]:
        name, header, arrays = rng.choice(found)
        variables, _, attributes = described[name]
        path = place / "crafted.nc"
        while True:
            changed, others, told = mutated(rng, copy.deepcopy(header), dict(arrays))
            texts = {part: solutions.json.dumps(archives.encode(changed.get(part)), allow_nan=False)
                     for part in solutions.HEADER}
            names = solutions._layout(header["problem"], variables)
            # Whatever shape they have now: each has dimensions of its own.
            made = {names[key]: ([f"{key}_{k}" for k in range(np.ndim(value))], value, {})
                    for key, value in others.items()}
            about = {**attributes, **texts, "sha256": solutions._digest(texts, others)}
            try:
                with path.open("w+b") as file:
                    netcdf.write_netcdf(file, made, about)
            except (ValueError, TypeError, KeyError, OSError, OverflowError):
                continue
            if rng.random() < 0.3:
                told += "; " + _restructured(rng, path)
            archives.seal(path, "solution")
            return f"{name}.nc: {told}", lambda: used(wg.load(path))

    return craft


def _restructured(rng: random.Random, path: Path) -> str:
    """Put something else than an array of numbers in the place of a variable or an attribute of a NetCDF file."""
    import h5py

    with h5py.File(path, "r+") as data:
        name = rng.choice([key for key in data if isinstance(data[key], h5py.Dataset)])
        act = rng.choice(["group", "soft", "external", "string", "compound", "huge", "packed", "small", "attribute",
                          "none", "half", "scalar", "big"])
        if act == "attribute":
            key = rng.choice(sorted(data.attrs))
            data.attrs[key] = rng.choice([3, 1.5, [1, 2], "x", b"\xff\xfe", np.zeros(3), "", "[" * 10**5, "1" * 10**5])
            return f"attribute {key}"
        old = np.asarray(data[name])
        del data[name]
        makers: dict[str, Callable[[], Any]] = {
            "group": lambda: data.create_group(name), "none": lambda: None,
            "soft": lambda: data.__setitem__(name, h5py.SoftLink("/density")),
            "external": lambda: data.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/density")),
            "string": lambda: data.create_dataset(name, data=["a"] * max(1, len(old.ravel()))),
            "compound": lambda: data.create_dataset(name, (3,), np.dtype([("a", "f8"), ("b", "i4")])),
            "huge": lambda: data.create_dataset(name, (10**12,), "f8", chunks=(10**6,)),
            "packed": lambda: data.create_dataset(name, (10**7,), "f8", chunks=(10**6,), compression="gzip",
                                                  fillvalue=1.0),
            "small": lambda: data.create_dataset(name, data=old.astype(np.uint8, casting="unsafe")),
            "half": lambda: data.create_dataset(name, data=old.astype(np.float16, casting="unsafe")),
            "scalar": lambda: data.create_dataset(name, data=1.5),
            "big": lambda: data.create_dataset(name, data=old.astype(old.dtype.newbyteorder(">"))),
        }
        with np.errstate(all="ignore"):
            makers[act]()
        return f"{name} as {act}"


def _archives(folder: Path) -> Craft:
    """Archives of bytes that were changed below the digest."""
    files = []
    for run in RUNS[::2]:
        path, kept = folder / f"{run.name}.ck.npz", folder / f"{run.name}.npz"
        run.solve(method=run.cut(3), checkpoint=path, throw=False).save(kept)
        run.resume(path, checkpoint=path.with_suffix(".new"), stop=lambda *now: True)
        files += [(run, path), (run, kept)]

    def craft(rng: random.Random, place: Path) -> tuple[str, Callable[[], Any]]:
        run, path = rng.choice(files)
        crafted = Path(shutil.copy(path, place))
        told = _resealed(rng, crafted)
        if ".ck" in path.name and rng.random() < 0.5:
            return told, lambda: run.resume(crafted, checkpoint=place / "new", stop=lambda *now: True).status
        return told, lambda: used(wg.load(crafted))

    return craft


def _streams(folder: Path) -> Craft:
    """A streamed run: its checkpoint is changed, or the file of its snapshots, or both."""
    run = Run("stream", NOISE + WELL, BUMP, FV(dt=0.01))
    state, rows = folder / "stream.ck.npz", folder / "rows.npy"
    times = np.linspace(0, 1, 21)
    run.solve(method=run.cut(40), t_eval=times, checkpoint=state, stream=rows, throw=False)
    again = [Path(shutil.copy(path, folder / f"copy-{path.name}")) for path in (state, rows)]
    used(run.resume(again[0], checkpoint=folder / "new", stream=again[1], stop=lambda *now: True))

    def craft(rng: random.Random, place: Path) -> tuple[str, Callable[[], Any]]:
        ours, theirs = (Path(shutil.copy(path, place)) for path in (state, rows))
        told, act = [], rng.random()
        if act < 0.6:
            told.append(_changed(rng, ours, "checkpoint"))
        if act > 0.5:
            data = theirs.read_bytes()
            bad, words = _noisy(rng, data) if rng.random() < 0.4 else _new_head(rng, data)
            theirs.write_bytes(bad)
            told.append(f"rows: {words}")
        if rng.random() < 0.2:
            return f"{told}", lambda: used(wg.load(ours))
        return f"{told}", lambda: used(run.resume(ours, checkpoint=place / "new", stream=theirs,
                                                  stop=lambda *now: True))

    return craft


def _new_head(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Give an array in NumPy's format another head."""
    size = struct.unpack("<H", data[8:10])[0]
    texts = ["{'descr': '<f8', 'fortran_order': False, 'shape': (21, 40), }", "{}", "[]", "x", "-" * 7000 + "1",
             "-" * 4000 + "1", "(" * 5000, "{'descr': '|O', 'fortran_order': False, 'shape': (21, 40), }",
             "{'descr': '<f8', 'fortran_order': False, 'shape': (10**20, 40), }",
             "{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000000000, 40), }",
             "{'descr': '<f8', 'fortran_order': True, 'shape': (21, 40), }",
             "{'descr': '<f8', 'fortran_order': False, 'shape': (), }", "{'descr': '<f4', 'shape': (21, 40)}",
             "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (21, 40), }",
             "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 40), }",
             "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 40), }",
             "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 40), }"]
    head = rng.choice(texts)
    text = head.encode() + b" " * max(0, size - len(head) - 1 if rng.random() < 0.7 else rng.randrange(100)) + b"\n"
    version = rng.choice([b"\x01\x00"] * 5 + [b"\x02\x00", b"\x03\x00", b"\x00\x00", b"\xff\xff"])
    return data[:6] + version + struct.pack("<H", len(text)) + text + data[10 + size:], f"head {version!r} {head[:80]}"


def _particles(folder: Path) -> Craft:
    """Folders of particles, which `compare` reads."""
    model = wg.reduced_models.IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    solution = wg.solve(NOISE + WELL + PULL, BUMP, (0, 1), t_eval=TIMES)
    places = {"langevin": folder / "langevin", "sgd": folder / "sgd"}
    run_langevin(NOISE + WELL + PULL, BUMP, 30, TIMES, 7, 3, dt=0.1, folder=places["langevin"])
    run_sgd(model, 20, 0.1, TIMES, 7, 3, folder=places["sgd"])
    grid = model.grid(cells=40)
    flow = wg.solve(model.energy(), model.initial_density(kappa=0.8, grid=grid), (0, 1), t_eval=TIMES,
                    time_scale=model.time_scale)
    solutions_of, models = {"langevin": solution, "sgd": flow}, {"langevin": None, "sgd": model}

    def read(place: Path, name: str) -> str:
        found = load_trajectories(place, models[name])
        repr(found)
        np.asarray(found.coordinates)
        compared = compare(solutions_of[name], found, scatter="observed", n_null=200)
        return f"{compared.passed} {len(compared.table())}"

    for name, path in places.items():
        read(path, name)

    def craft(rng: random.Random, place: Path) -> tuple[str, Callable[[], Any]]:
        name = rng.choice(list(places))
        crafted = Path(shutil.copytree(places[name], place / "particles"))
        told = []
        for _ in range(rng.choice([1, 1, 2])):
            path = crafted / "about.npz" if rng.random() < 0.6 else rng.choice(sorted(crafted.iterdir()))
            if path.name == "about.npz":
                told.append(_new_about(rng, crafted))
            else:
                told.append(_changed(rng, path, "snapshot"))
        return f"{name}: {told}", lambda: read(crafted, name)

    return craft


def _new_about(rng: random.Random, folder: Path) -> str:
    """Change what a folder says of itself; its key, and that of its snapshots, agree with it."""
    from wgflow.files.snapshots import ABOUT, KIND, SnapshotFolder

    header, _ = archives.read_npz(folder / "about.npz", ABOUT)
    changed, _, told = mutated(rng, copy.deepcopy(header), {"none": np.zeros(3)})
    try:
        key = SnapshotFolder(folder, dict(changed["about"]), tuple(changed["shape"]),
                             {str(k): tuple(v) for k, v in changed["arrays"].items()}).key
        changed["key"] = key
    except (KeyError, TypeError, ValueError, AttributeError):
        key = header["key"]
    archives.write_npz(folder / "about.npz", ABOUT, changed, {})
    for path in folder.iterdir():
        if path.name != "about.npz":
            of, arrays = archives.read_npz(path, KIND)
            archives.write_npz(path, KIND, of | {"key": key}, arrays)
    return f"about: {told}"


def _sweeps(folder: Path) -> Craft:
    """The items of a sweep, found again when the sweep is called again."""
    settings: dict[str, Any] = {"parameters": {"a": [1.0, 2.0], "b": [3, 4]}, "rng": 7, "progress": False}

    def again(place: Path) -> str:
        found = sweep(area, folder=place, executor=Here(), throw=False, **settings)
        repr(found)
        try:
            return f"{found.n_computed} {sorted(found.values)} {len(str(found.table))}"
        except wg.InvalidInput:
            return "other shapes"

    kept = folder / "sweep"
    again(kept)
    again(kept)

    return _of_a_folder(kept, again, "item-*.npz", "sweep")


def _of_a_folder(kept: Path, again: Callable[[Path], Any], files: str, kind: str) -> Craft:
    """Return what changes one of the files of a copy of a folder, and reads the copy."""
    def craft(rng: random.Random, place: Path) -> tuple[str, Callable[[], Any]]:
        crafted = Path(shutil.copytree(kept, place / kept.name))
        path = rng.choice(sorted(crafted.glob(files)))
        told = _changed(rng, path, kind) if rng.random() < 0.8 else _resealed(rng, path)
        return told, lambda: again(crafted)

    return craft


def _kept_runs(folder: Path) -> Craft:
    """Kept runs of SGD, found again when they are asked for again."""
    model = wg.reduced_models.IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)

    def again(place: Path) -> str:
        found = kept_sgd_runs(model, place, n_neurons=10, step_size=0.1, t_eval=TIMES, seed=7, n_runs=2)
        repr(found)
        return f"{float(np.mean(found.coordinates)):g} {found.coordinates.dtype} {float(np.mean(found.risk)):g}"

    kept = folder / "kept"
    kept.mkdir()
    right = again(kept)
    if again(kept) != right:
        raise RuntimeError("kept runs are not read again")

    return _of_a_folder(kept, again, "sgd-*.npz", "run")


def _studies(folder: Path) -> Craft:
    """The state of a study that was interrupted, and studies and sweeps whose text is changed."""
    path = folder / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    study = load_study(path)
    study.run(progress=False)
    (folder / "area.py").write_text(AREA, encoding="utf-8")
    (folder / "sweep.toml").write_text(SWEEP, encoding="utf-8")

    def craft(rng: random.Random, place: Path) -> tuple[str, Callable[[], Any]]:
        if rng.random() < 0.5:
            crafted = Path(shutil.copy(study.checkpoint_file, place / "checkpoint.npz"))
            told = _changed(rng, crafted, "checkpoint")
            return f"study: {told}", lambda: study.resume(crafted).status
        shutil.copy(folder / "area.py", place)
        name = rng.choice(["study.toml", "study.toml", "sweep.toml"])
        text, told = _new_text(rng, (folder / name).read_text(encoding="utf-8"))
        crafted = place / name
        crafted.write_bytes(text)
        if name == "study.toml":
            return told, lambda: repr(load_study(crafted)) and None
        return told, lambda: repr(sweep_from_file(crafted, throw=False, executor=Here())) and None

    return craft


def _new_text(rng: random.Random, text: str) -> tuple[bytes, str]:
    """Change values, keys and lines of a text in TOML."""
    lines, told = text.strip().splitlines(), []
    for _ in range(rng.choice([1, 1, 2, 3])):
        k, act = rng.randrange(len(lines)), rng.random()
        key, is_there, _ = lines[k].partition(" = ")
        if act < 0.6 and is_there:
            lines[k] = f"{key} = {rng.choice(TEXTS)}"
        elif act < 0.7:
            lines[k] = lines[k].replace("a", rng.choice(["", "b", "\x00", "é"]), 1)
        elif act < 0.8:
            lines.insert(k, rng.choice(lines))
        elif act < 0.9 and len(lines) > 1:
            del lines[k]
        else:
            bad, words = _noisy(rng, "\n".join(lines).encode())
            return bad, f"{'; '.join(told)}; {words}"
        told.append(lines[min(k, len(lines) - 1)][:90])
    return "\n".join(lines).encode(), "; ".join(told)


KINDS: dict[str, Callable[[Path], Craft]] = {
    "netcdf": _netcdf, "archives": _archives, "streams": _streams, "particles": _particles, "sweeps": _sweeps,
    "runs of SGD": _kept_runs, "studies": _studies,
}


def stores(scale: Scale) -> list[Figure]:
    """As many crafted files of each kind; seven times 1,500 at full scale."""
    rng, count, figures = random.Random(scale.seed), scale.pick(8, 300, 1500), []
    logging.getLogger("wgflow").setLevel(logging.CRITICAL)
    for kind, prepare in KINDS.items():
        foreign, slow, large = [], [], []
        with tempfile.TemporaryDirectory(dir=scale.folder) as folder:
            craft = prepare(Path(folder))
            for _ in range(count):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    told, read = craft(rng, Path(place))
                    ended = children.run(unwarned(read), PATIENCE, ROOM)
                words = f"{told}: {ended.words}"
                if ended.kind == "foreign":
                    foreign.append(words)
                if ended.kind == "dead" or ended.seconds > SECONDS:
                    slow.append(f"{ended.seconds:.1f} s, {words}")
                if ended.growth > MEBIBYTES:
                    large.append(f"{ended.growth:.0f} MiB, {words}")
        figures += [counted("F16", "stores", f"{kind}: foreign exceptions, NumPy's warnings", count, foreign),
                    counted("F16", "stores", f"{kind}: hangs, crashes, more than {SECONDS:g} s", count, slow),
                    counted("F16", "stores", f"{kind}: more than {MEBIBYTES:g} MiB", count, large)]
    return figures
