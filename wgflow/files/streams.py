"""Snapshots of a long run in one file, written as they come and read when they are asked for.

The file is an array in NumPy's format, shape (times, *state), of which ``numpy.load(path, mmap_mode="r")`` reads rows:
the masses of the cells, values at their centers (fluxes of fourth order) or the points of atoms. Rows that the run has
not reached yet are zeros, for which most file systems keep no space.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.lib import format as npy

from wgflow.errors import ResourceError, StorageError

from .archives import open_regular, target_of

__all__ = ["SnapshotStream", "StoredLaws"]

Law = TypeVar("Law")


class _StoredState:
    """One row of a stream; ``np.asarray`` reads it."""

    def __init__(self, stream: SnapshotStream, row: int):
        self.stream, self.row = stream, row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.stream.read(self.row), dtype=dtype)


class SnapshotStream(list):
    """The snapshots of a run, entries (t, state, energy), whose states are in a file.

    `create` begins a new file, `reopen` goes on with one.

    Parameters
    ----------
    path : str
    shape : tuple of int
        Number of output times, and the shape of a state.
    offset : int
        Where the first row begins in the file.
    """

    def __init__(self, path: str, shape: tuple[int, ...], offset: int):
        super().__init__()
        self.path, self.shape, self.offset = path, shape, offset
        self.bytes = 8 * math.prod(shape[1:])

    @classmethod
    def create(cls, path: Any, shape: tuple[int, ...]) -> SnapshotStream:
        """Begin a file.

        Raises
        ------
        StorageError
            If there is such a file already, or it cannot be made.
        ResourceError
            If the snapshots would not fit on the disk.
        """
        target = os.path.abspath(target_of(path))
        need, free = 8.0 * math.prod(shape), shutil.disk_usage(os.path.dirname(target)).free
        if need > free:
            raise ResourceError(f"stream={path!r}: {shape[0]} snapshots need {need / 2**30:.3g} GiB, "
                                f"{free / 2**30:.3g} GiB are free on this disk; take fewer times, or another disk")
        try:
            with open(target, "xb") as file:
                npy.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
                offset = file.tell()
                file.truncate(offset + 8 * math.prod(shape))
        except FileExistsError as error:
            raise StorageError(f"stream={path!r} exists; give the name of a new file, or remove it (a run is gone on "
                               "with by wgflow.resume(checkpoint, stream=...))") from error
        except OSError as error:
            raise StorageError(f"stream={path!r} cannot be written: {error}") from error
        return cls(target, shape, offset)

    @classmethod
    def reopen(cls, path: Any, shape: tuple[int, ...], rows: Iterable[tuple[float, float]]) -> SnapshotStream:
        """Go on with a file, of which the rows of some times and energies are there.

        Raises
        ------
        StorageError
            If it is no file of such snapshots.
        """
        target = os.path.abspath(target_of(path))
        with open_regular(target) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                version = npy.read_magic(file)
                found, fortran, dtype = npy.read_array_header_1_0(file)
            except ValueError as error:
                raise StorageError(f"stream={path!r} is not a file of snapshots: {error}") from error
            offset = file.tell()
        if (version, found, fortran, dtype) != ((1, 0), shape, False, np.dtype("<f8")) or (
                size < offset + 8 * math.prod(shape)):
            raise StorageError(f"stream={path!r} holds an array of shape {found}, the snapshots of this run have shape "
                               f"{shape}; give the file that the run has written")
        stream = cls(target, shape, offset)
        for row, (t, energy) in enumerate(rows):
            list.append(stream, (t, _StoredState(stream, row), energy))
        return stream

    def append(self, snapshot: tuple[float, Any, float]) -> None:
        """Write the state of a snapshot as the next row."""
        t, state, energy = snapshot
        row = len(self)
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(self.offset + row * self.bytes)
                rest = np.ascontiguousarray(state, dtype="<f8").data.cast("B")
                while rest:
                    rest = rest[file.write(rest):]
        except OSError as error:
            raise StorageError(f"stream={self.path!r}: the snapshot at t={t:g} cannot be written: {error}") from error
        super().append((t, _StoredState(self, row), energy))

    def read(self, row: int) -> np.ndarray:
        """Return a state."""
        with open_regular(self.path) as file:
            file.seek(self.offset + row * self.bytes)
            data = file.read(self.bytes)
        if len(data) != self.bytes:
            raise StorageError(f"stream={self.path!r} is shorter than it was; its snapshots are lost")
        return np.frombuffer(data, "<f8").astype(float).reshape(self.shape[1:])

    def sync(self) -> None:
        """Have the rows on disk, before a checkpoint counts on them."""
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class StoredLaws(Sequence, Generic[Law]):
    """Laws that are read when they are asked for: ``sol.densities`` of a solution whose snapshots are in a file.

    Parameters
    ----------
    stream : SnapshotStream
    law_of : callable
        Makes a law of the number of a snapshot and its state.
    """

    def __init__(self, stream: SnapshotStream, law_of: Callable[[int, Any], Law]):
        self.stream, self.law_of = stream, law_of

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        return self.law_of(k, np.asarray(self.stream[k][1]))

    def __repr__(self) -> str:
        return f"StoredLaws({len(self)} in {self.stream.path!r})"
