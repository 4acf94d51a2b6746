"""A lock on the file of a run: a second run on the same file is refused as long as the first one is active."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from typing import IO

from wgflow.errors import StorageError

try:
    import fcntl
except ImportError:  # not a POSIX system: there is no lock
    fcntl = None  # type: ignore[assignment]

#: What a lock holds: nothing yet, or the process that holds or held it.
OWNER = re.compile(r"[0-9]{0,20}", re.ASCII)


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read(40).strip()


class FileLock:
    """A lock beside ``path``, which the system releases when the process ends, in whatever way.

    On systems without ``flock`` (Windows) nothing is locked.

    Parameters
    ----------
    path : str

    Raises
    ------
    StorageError
        By `acquire`, if another run holds it; the message names its process. Or if the file of the lock is a link, or
        anything else but a lock: it is left as it is.
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
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = _content(file) or "unknown"
                file.close()
                raise StorageError(f"{self.target} is locked by pid {owner}, whose run writes it; give each run a "
                                   "checkpoint of its own, or wait for that one") from error
            # Its last owner may have removed the file between opening and locking, so that this locks a removed file.
            if os.path.exists(self.path) and os.path.samestat(os.stat(self.path), os.fstat(file.fileno())):
                break
            file.close()
        if not OWNER.fullmatch(_content(file)):
            file.close()
            raise StorageError(f"{self.path} is not a lock of wgflow, whose name it has; move it away")
        file.seek(0)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self.file = file

    def _open(self) -> IO[str]:
        """Return the file of the lock, which is made if it is not there, unchanged.

        Another user of the folder may have put a link there, so that what is locked, emptied and removed would be
        another file: links, files with a second name, pipes, folders and devices are refused.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            cause = "it is a symlink" if error.errno == errno.ELOOP else error.strerror
            raise StorageError(f"the lock {self.path} cannot be made: {cause}") from error
        found = os.fstat(descriptor)
        # A lock that its owner has just removed has no name left, and is looked at again.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise StorageError(f"the lock {self.path} is not a regular file of its own; move it away")
        return open(descriptor, "r+", encoding="ascii", errors="replace")

    def release(self) -> None:
        """Release the lock."""
        if self.file is not None:
            with suppress(OSError):
                os.unlink(self.path)
            self.file.close()
            self.file = None
