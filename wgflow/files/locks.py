"""A lock on the file of a run: a second run on the same file is refused as long as the first one is active."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from wgflow.errors import StorageError

if TYPE_CHECKING:
    import filelock

__all__ = ["FileLock"]

#: What a lock holds: nothing yet, or the process that holds or held it.
OWNER = re.compile(rb" ?[0-9]{0,20}")
#: More bytes than that has.
LONGEST = 40
#: How often a lock is tried whose holder has just removed it.
TRIALS = 100


class FileLock:
    """A lock beside ``path``, which the system releases when the process ends, in whatever way.

    It is that of the package `filelock`: ``flock`` on POSIX systems, ``LockFileEx`` on Windows. That opens the file
    without following a link, and empties none; what the file must be beyond that is looked at here, before it is locked
    and again when it is.

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
        self.held: filelock.BaseFileLock | None = None

    def acquire(self) -> None:
        """Acquire the lock."""
        # Imported by runs with a checkpoint alone.
        import filelock

        lock = filelock.FileLock(self.path, timeout=0, thread_local=False, fallback_to_soft=False,
                                 on_acquired=self._take)
        for _ in range(TRIALS):
            # Windows does not let a file be read from its start that another process has locked.
            with suppress(PermissionError):
                self._owner(check=True)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                if not os.path.lexists(self.path):
                    # Its holder removed the file between our opening and our locking it.
                    continue
                raise StorageError(f"{self.target} is locked by pid {self._owner()}, whose run writes it; give each "
                                   "run a checkpoint of its own, or wait for that one") from error
            except StorageError:
                raise
            except OSError as error:
                cause = "it is a symlink" if os.path.islink(self.path) else error.strerror
                raise StorageError(f"the lock {self.path} cannot be made: {cause}") from error
            self.held = lock
            return
        raise StorageError(f"the lock {self.path} comes and goes: other runs write {self.target}; give each run a "
                           "checkpoint of its own")

    def _take(self, descriptor: int) -> None:
        """Look at the file that is locked now, and write this process into it."""
        self._check(descriptor)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        # Windows lets nobody else read the first byte, which is what is locked there.
        os.write(descriptor, f" {os.getpid()}".encode())

    def _owner(self, *, check: bool = False) -> str:
        """Return the process that holds the lock, as the file names it."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            # A link, or no file at all: locking it says so.
            return "unknown"
        try:
            if check:
                self._check(descriptor)
            os.lseek(descriptor, 1, os.SEEK_SET)
            return os.read(descriptor, LONGEST).decode("ascii", "replace").strip() or "unknown"
        finally:
            os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        """Refuse what another user of the folder may have put there to be changed and removed as a lock.

        That is: a file with a second name, a pipe, a folder, a device, a text.
        """
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise StorageError(f"the lock {self.path} is not a regular file of its own; move it away")
        os.lseek(descriptor, 0, os.SEEK_SET)
        if not OWNER.fullmatch(os.read(descriptor, LONGEST).strip(b"\n")):
            raise StorageError(f"{self.path} is not a lock of wgflow, whose name it has; move it away")

    def release(self) -> None:
        """Release the lock."""
        if self.held is not None:
            # While it is held, so that nobody else's lock is removed; Windows removes the file by itself, afterwards.
            if os.name != "nt":
                with suppress(OSError):
                    os.unlink(self.path)
            self.held.release()
            self.held = None
