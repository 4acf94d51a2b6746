"""Writing NetCDF files: variables as arrays, or row by row, through a file object that keeps its first failure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from .rows import Rows

__all__ = ["write_netcdf"]


class _Watched:
    """A file for HDF5 that never fails: HDF5 crashes, or loses the exception, where a write fails as it closes a file.

    The first failure is kept; nothing is written after it, and whoever writes looks for it.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return self.file.write(data)
            except OSError as error:
                self.failure = error
        return len(data)

    def truncate(self, size: int) -> int:
        if self.failure is None:
            try:
                return self.file.truncate(size)
            except OSError as error:
                self.failure = error
        return size

    def flush(self) -> None:
        if self.failure is None:
            try:
                self.file.flush()
            except OSError as error:
                self.failure = error

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise self.failure


def write_netcdf(file: BinaryIO, variables: Mapping[str, tuple], attributes: Mapping[str, Any]) -> None:
    """Write variables (dimensions, values, attributes) and attributes as a NetCDF file.

    Parameters
    ----------
    file : binary file
        Open for reading and writing, empty.
    variables : mapping of str to (list of str, array or Rows, mapping)
        Booleans become bytes.
    attributes : mapping

    Raises
    ------
    OSError
        The first failure of the file.
    """
    import h5netcdf

    watched = _Watched(file)
    try:
        with h5netcdf.File(watched, "w") as made:
            made.dimensions = {name: size for dims, values, _ in variables.values()
                               for name, size in zip(dims, values.shape, strict=True)}
            for name, (dims, values, attrs) in variables.items():
                kind = np.dtype(np.int8) if values.dtype == bool else values.dtype
                variable = made.create_variable(name, dims, kind)
                if isinstance(values, Rows):
                    for k, row in enumerate(values):
                        variable[k] = row
                        watched.check()
                elif math.prod(values.shape):
                    variable[...] = values.astype(kind)
                variable.attrs.update(attrs)
                watched.check()
            made.attrs.update(attributes)
        watched.flush()
    finally:
        # Whatever HDF5 says of a file that it cannot write, this is the cause.
        watched.check()
