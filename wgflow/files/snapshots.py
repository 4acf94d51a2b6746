"""Folders of snapshots: arrays of a long simulation, written one at a time and read when they are asked for.

A folder holds ``about.npz``, the settings of all runs, and for the k-th snapshot of run r one archive for each array,
``coordinates-r-k.npz``, and last ``snapshot-r-k.npz`` with the numbers that belong to it. Every archive is sealed by
`write_npz`, and carries the key of its folder. A snapshot counts once the last of its files is there, so that a run
which was interrupted, in whatever way, leaves a folder of whole snapshots.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_memory, described
from wgflow.errors import InvalidType, ResourceError, StorageError

from .archives import encode, read_npz, write_npz

__all__ = ["SnapshotFolder", "StoredArray"]

Array = NDArray[np.float64]
ABOUT, KIND = "particles", "snapshot"
#: What arrays may be called: their names are parts of names of files.
NAME = re.compile(r"[a-z][a-z_]{0,30}", re.ASCII)
#: The last file of a snapshot: its run and its index.
SNAPSHOT = re.compile(r"snapshot-([0-9]{4,18})-([0-9]{6,18})\.npz", re.ASCII)
#: Bytes of an archive beside its arrays, at most.
OVERHEAD = 4096


class SnapshotFolder:
    """Snapshots of several runs at the same times in one folder.

    `create` begins a new folder, `open` reads one.

    Attributes
    ----------
    path : Path
    about : dict
        The settings that were written at the start.
    shape : tuple of int
        Numbers of runs and of output times.
    arrays : dict
        Shape of one snapshot of each array, by name.
    """

    def __init__(self, path: Path, about: dict[str, Any], shape: tuple[int, int], arrays: dict[str, tuple[int, ...]]):
        self.path, self.about, self.shape, self.arrays = path, about, shape, arrays
        text = json.dumps(encode({"about": about, "shape": shape, "arrays": arrays}), sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def create(cls, path: str | os.PathLike[str], about: dict[str, Any], shape: tuple[int, int],
               arrays: Mapping[str, tuple[int, ...]]) -> SnapshotFolder:
        """Begin a folder, which must be new or empty.

        Raises
        ------
        StorageError
            If the folder holds something, or cannot be written to.
        ResourceError
            If the snapshots would not fit on the disk.
        """
        target = _path_of(path)
        try:
            if target.is_symlink() or (target.exists() and not target.is_dir()):
                raise StorageError(f"folder={str(target)!r} is not a folder; give the name of a new one")
            if target.is_dir() and any(target.iterdir()):
                held = "holds snapshots already" if (target / "about.npz").exists() else "is not empty"
                raise StorageError(f"folder={str(target)!r} {held}; give the name of a new folder, or remove it")
            if not target.parent.is_dir():
                raise StorageError(f"folder={str(target)!r}: the folder {target.parent} does not exist; make it first")
            need = shape[0] * shape[1] * (sum(8.0 * math.prod(s) + OVERHEAD for s in arrays.values()) + OVERHEAD)
            free = shutil.disk_usage(target.parent).free
            if need > free:
                raise ResourceError(f"folder={str(target)!r}: the snapshots need {need / 2**30:.3g} GiB, "
                                    f"{free / 2**30:.3g} GiB are free on this disk; take fewer particles, runs or "
                                    "output times, or another disk")
            target.mkdir(exist_ok=True)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"folder={str(target)!r} cannot be used: {error}") from error
        folder = cls(target.absolute(), about, shape, dict(arrays))
        header = {"about": about, "shape": list(shape), "arrays": {k: list(s) for k, s in arrays.items()}}
        write_npz(folder.path / "about.npz", ABOUT, header | {"key": folder.key}, {})
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SnapshotFolder:
        """Read what a folder is about.

        Raises
        ------
        StorageError
            If this is not a folder that `create` made, or its settings are damaged.
        """
        target = _path_of(path)
        if not target.is_dir():
            raise StorageError(f"folder={str(target)!r} is not a folder of snapshots")
        header, _ = read_npz(target / "about.npz", ABOUT)
        from .schema import Snapshots, check_table

        try:
            check_table(header, Snapshots, "snapshots")
            (runs, times), arrays = header["shape"], {name: tuple(shape) for name, shape in header["arrays"].items()}
            if not all(NAME.fullmatch(name) for name in arrays):
                raise ValueError(f"unsafe names {described(sorted(arrays))}")
            folder = cls(target.absolute(), dict(header["about"]), (runs, times), arrays)
            if folder.key != header["key"]:
                raise ValueError("its key does not agree")
        except ValueError as error:
            raise StorageError(f"{target / 'about.npz'} cannot be used: {type(error).__name__}: {error}") from error
        return folder

    def write(self, run: int, index: int, arrays: Mapping[str, Array], numbers: dict[str, float]) -> None:
        """Write one snapshot; once this returns it is on disk."""
        where = {"key": self.key, "run": run, "index": index}
        for name, array in arrays.items():
            write_npz(self._file(name, run, index), KIND, where, {name: array})
        write_npz(self._file("snapshot", run, index), KIND, where | {"numbers": numbers}, {})

    def counts(self) -> dict[int, int]:
        """Return how many snapshots of each run there are, without a gap from the first one on; of no run 0.

        The files that are there are counted: what the folder says of runs and times may be any number.
        """
        found: dict[int, set[int]] = {}
        for path in self.path.iterdir():
            if place := SNAPSHOT.fullmatch(path.name):
                run, index = int(place[1]), int(place[2])
                if run < self.shape[0] and index < self.shape[1] and path.is_file():
                    found.setdefault(run, set()).add(index)
        lengths = {run: next(k for k in range(len(there) + 1) if k not in there) for run, there in found.items()}
        return {run: lengths[run] for run in sorted(lengths) if lengths[run]}

    def numbers(self, run: int, index: int) -> dict[str, float]:
        """Return the numbers that belong to a snapshot."""
        header, _ = self._read("snapshot", run, index)
        if not isinstance(header.get("numbers"), dict):
            raise StorageError(f"{self._file('snapshot', run, index)} holds no numbers")
        return header["numbers"]

    def read(self, name: str, run: int, index: int) -> Array:
        """Return one array of a snapshot, every byte of it checked."""
        _, arrays = self._read(name, run, index)
        array = arrays.get(name)
        if array is None or array.dtype != np.float64 or array.shape != self.arrays[name]:
            raise StorageError(f"{self._file(name, run, index)} does not hold {name} of shape {self.arrays[name]}")
        return array

    def _read(self, name: str, run: int, index: int) -> tuple[dict, dict[str, Array]]:
        path = self._file(name, run, index)
        header, arrays = read_npz(path, KIND)
        if (header.get("key"), header.get("run"), header.get("index")) != (self.key, run, index):
            raise StorageError(f"{path} is a snapshot of other runs, or another one of these")
        return header, arrays

    def _file(self, name: str, run: int, index: int) -> Path:
        return self.path / f"{name}-{run:04d}-{index:06d}.npz"


class StoredArray:
    """An array of shape (runs, times, ...) whose snapshots are read from a folder when they are asked for.

    Indexing returns ordinary arrays and reads only the snapshots that it needs, ``np.asarray`` reads all of them.

    Parameters
    ----------
    folder : SnapshotFolder
    name : str
    runs : sequence of int
        The runs that are there.
    times : int
        The number of snapshots of each.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, folder: SnapshotFolder, name: str, runs: list[int], times: int):
        self.folder, self.name, self.runs = folder, name, runs
        self.shape = (len(runs), times, *folder.arrays[name])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredArray({self.name}, shape={self.shape}, in {str(self.folder.path)!r})"

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored array is always copied from its files")
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key) -> Array:
        parts = list(key) if isinstance(key, tuple) else [key]
        dots = [k for k, part in enumerate(parts) if part is Ellipsis]
        if len(dots) > 1:
            raise IndexError("an index can have one ellipsis")
        if dots:
            parts[dots[0]:dots[0] + 1] = [slice(None)] * (self.ndim - len(parts) + 1)
        parts += [slice(None)] * (2 - len(parts))
        for part in parts:
            if isinstance(part, (bool, np.bool_)) or not isinstance(part, (int, np.integer, slice)):
                raise InvalidType(f"{self.name}[{part!r}]: snapshots on disk are indexed by integers and slices; "
                                  f"np.asarray({self.name}) reads all of them into memory")
        runs, times = (np.arange(n)[part] for n, part in zip(self.shape[:2], parts))
        inner = tuple(parts[2:])
        one = np.broadcast_to(np.empty(()), self.shape[2:])[inner].shape
        check_memory(8.0 * runs.size * times.size * math.prod(one), f"{self.name}[{key!r}]", "ask for fewer snapshots")
        found = np.empty((runs.size, times.size, *one))
        for r, run in enumerate(np.atleast_1d(runs)):
            for k, index in enumerate(np.atleast_1d(times)):
                found[r, k] = self.folder.read(self.name, self.runs[int(run)], int(index))[inner]
        return found.reshape((*runs.shape, *times.shape, *one))


def _path_of(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.fsdecode(path))
    except (TypeError, ValueError) as error:
        raise InvalidType(f"folder={path!r}: need the path of a folder") from error
