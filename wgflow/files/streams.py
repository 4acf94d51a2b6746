"""Snapshots of a long run in one file, written as they come and read when they are asked for.

The file is an array in NumPy's format, shape (times, *state), of which ``numpy.load(path, mmap_mode="r")`` reads rows:
the masses of the cells, values at their centers (fluxes of fourth order) or the points of atoms. Rows that the run has
not reached yet are zeros, for which most file systems keep no space.
"""

from __future__ import annotations

import math
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.lib import format as npy

from wgflow.checks import described
from wgflow.errors import ResourceError, StorageError

from .archives import MAX_NPY_HEADER, open_regular, target_of

__all__ = ["SnapshotStream", "StoredLaws"]

Law = TypeVar("Law")


class _StoredState:
    """One row of a stream; ``np.asarray`` reads it."""

    __slots__ = ("row", "stream")

    def __init__(self, stream: SnapshotStream, row: int):
        self.stream, self.row = stream, row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.stream.read(self.row), dtype=dtype)


class SnapshotStream(Sequence):
    """The snapshots of a run, entries (t, state, energy), whose states are in a file.

    `create` begins a new file, `reopen` goes on with one. In memory are 24 bytes for each snapshot: its time, its
    energy and the checksum (CRC-32) of its state, by which a row that another run has written over is found out.

    Parameters
    ----------
    path : str
    shape : tuple of int
        Number of output times, and the shape of a state.
    offset : int
        Where the first row begins in the file.
    """

    def __init__(self, path: str, shape: tuple[int, ...], offset: int):
        self.path, self.shape, self.offset = path, shape, offset
        self.bytes = 8 * math.prod(shape[1:])
        self.times, self.energies, self.sums = array("d"), array("d"), array("q")

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self.times[row], _StoredState(self, row), self.energies[row]

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
        _check_disk(target, 8.0 * math.prod(shape))
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
    def reopen(cls, path: Any, shape: tuple[int, ...], rows: Iterable[tuple[float, float]],
               sums: Sequence[int] | None = None) -> SnapshotStream:
        """Go on with a file, of which the rows of some times and energies are there.

        Its number of rows becomes that of ``shape``: a run that goes on to another end has other output times.

        Parameters
        ----------
        path : path
        shape : tuple of int
        rows : iterable of (float, float)
            Time and energy of each snapshot that is there.
        sums : sequence of int, optional
            Their checksums; files of former versions have none.

        Raises
        ------
        StorageError
            If it is no file of such snapshots, or its rows are not those that the run has written.
        ResourceError
            If the snapshots would not fit on the disk.
        """
        target = os.path.abspath(target_of(path))
        with open_regular(target) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                version = npy.read_magic(file)
                found, fortran, dtype = npy.read_array_header_1_0(file, max_header_size=MAX_NPY_HEADER)
            except Exception as error:  # the text of a head is parsed, which fails in many ways
                words = described(f"{type(error).__name__}: {error}")
                raise StorageError(f"stream={path!r} is not a file of snapshots: {words}") from error
            offset = file.tell()
        stream = cls(target, shape, offset)
        for t, energy in rows:
            stream.times.append(t)
            stream.energies.append(energy)
        fits = (version, found[1:], fortran, dtype) == ((1, 0), shape[1:], False, np.dtype("<f8"))
        if not fits or size < offset + len(stream) * stream.bytes:
            raise StorageError(f"stream={path!r} holds an array of shape {found}, the snapshots of this run have shape "
                               f"{shape}, and {len(stream)} of them are there; give the file that the run has written")
        stream._check_rows(path, sums)
        stream._resize(shape[0])
        return stream

    def _check_rows(self, path: Any, sums: Sequence[int] | None) -> None:
        """Take the checksums of the rows that are there, one row at a time, and compare them with those given."""
        with open_regular(self.path) as file:
            file.seek(self.offset)
            for row in range(len(self)):
                data = file.read(self.bytes)
                self.sums.append(zlib.crc32(data))
                if sums is not None and self.sums[row] != sums[row]:
                    raise StorageError(f"stream={path!r}: the snapshot at t={self.times[row]:g} is not the one that "
                                       "the run has written; give the file that belongs to the checkpoint")
                if sums is None and not np.isfinite(np.frombuffer(data, "<f8")).all():
                    raise StorageError(f"stream={path!r}: the snapshot at t={self.times[row]:g} is not finite")

    def _resize(self, count: int) -> None:
        """Give the file so many rows: the space first, so that its head never tells of rows that are not there."""
        header = BytesIO()
        npy.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (count, *self.shape[1:])})
        if header.tell() != self.offset:
            raise StorageError(f"stream={self.path!r} has a head of {self.offset} bytes, {header.tell()} are needed; "
                               "give the file that the run has written")
        size = self.offset + count * self.bytes
        try:
            _check_disk(self.path, size - os.path.getsize(self.path))
            with open(self.path, "r+b", buffering=0) as file:
                if size > os.fstat(file.fileno()).st_size:
                    file.truncate(size)
                file.write(header.getvalue())
                file.truncate(size)
        except OSError as error:
            raise StorageError(f"stream={self.path!r} cannot be written: {error}") from error
        self.shape = (count, *self.shape[1:])

    def append(self, snapshot: tuple[float, Any, float]) -> None:
        """Write the state of a snapshot as the next row."""
        t, state, energy = snapshot
        row = len(self)
        if row >= self.shape[0]:
            # A run that is ended between its last output time and its end keeps where it ended.
            self._resize(row + 1)
        data = np.ascontiguousarray(state, dtype="<f8").data.cast("B")
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(self.offset + row * self.bytes)
                rest = data
                while rest:
                    rest = rest[file.write(rest):]
        except OSError as error:
            raise StorageError(f"stream={self.path!r}: the snapshot at t={t:g} cannot be written: {error}") from error
        self.times.append(t)
        self.energies.append(energy)
        self.sums.append(zlib.crc32(data))

    def read(self, row: int) -> np.ndarray:
        """Return a state."""
        with open_regular(self.path) as file:
            file.seek(self.offset + row * self.bytes)
            data = file.read(self.bytes)
        if len(data) != self.bytes:
            raise StorageError(f"stream={self.path!r} is shorter than it was; its snapshots are lost")
        if zlib.crc32(data) != self.sums[row]:
            raise StorageError(f"stream={self.path!r}: the snapshot at t={self.times[row]:g} has been changed since it "
                               "was written; a resumed run takes the place of the end of the one before: use its "
                               "solution")
        return np.frombuffer(data, "<f8").astype(float).reshape(self.shape[1:])

    def sync(self) -> None:
        """Have the rows on disk, before a checkpoint counts on them."""
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _check_disk(path: str, need: float) -> None:
    free = shutil.disk_usage(os.path.dirname(path)).free
    if need > free:
        raise ResourceError(f"stream={path!r}: the snapshots need {need / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are "
                            "free on this disk; take fewer times, or another disk")


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
