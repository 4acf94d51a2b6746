"""A lock on the file of a run: a second run on the same file is refused as long as the first one is active."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO

from wgflow.errors import StorageError

try:
    import fcntl
except ImportError:  # not a POSIX system: there is no lock
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """A lock beside ``path``, which the system releases when the process ends, in whatever way.

    Parameters
    ----------
    path : str

    Raises
    ------
    StorageError
        By `acquire`, if another run holds it; the message names its process.
    """

    def __init__(self, path: str):
        folder, name = os.path.split(path)
        self.target, self.path = path, os.path.join(folder, f".{name}.lock")
        self.file: IO[str] | None = None

    def acquire(self) -> None:
        """Acquire the lock."""
        if fcntl is None:
            return
        while True:
            try:
                file = open(self.path, "a+", encoding="ascii")  # noqa: SIM115  (held until release)
            except OSError as error:
                raise StorageError(f"the lock {self.path} cannot be made: {error.strerror}") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read(20).strip() or "unknown"
                file.close()
                raise StorageError(f"{self.target} is locked by pid {owner}, whose run writes it; give each run a "
                                   "checkpoint of its own, or wait for that one") from error
            # Its last owner may have removed the file between opening and locking, so that this locks a removed file.
            if os.path.exists(self.path) and os.path.samestat(os.stat(self.path), os.fstat(file.fileno())):
                break
            file.close()
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self.file = file

    def release(self) -> None:
        """Release the lock."""
        if self.file is not None:
            with suppress(OSError):
                os.unlink(self.path)
            self.file.close()
            self.file = None
