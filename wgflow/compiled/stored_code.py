"""Compiled code on disk: files that are used only if they are whole, in a folder that no stranger can write.

Numba stores compiled functions as pickles beside the source (or in ``NUMBA_CACHE_DIR``), and reads them back without a
look: a file cut by a full disk ends every later run with an error from deep inside pickle or LLVM, and whoever can
write the folder can run code of his own. Here each file ends with its SHA-256. A damaged file is dropped, which is
said once, and its function compiled again.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys

from wgflow.errors import WGFlowWarning

__all__ = ["seal_files", "stranger_of"]

#: What stands before the digest, at the end of a file.
MAGIC = b"\nwgflow code 1 sha256 "
DIGEST_LENGTH = hashlib.sha256().digest_size

_told = False


def stranger_of(folder: str, source: str) -> str | None:
    """Return why somebody else could have put code into a folder; None if nobody but trusted users can write it.

    Trusted are this user, root, and the owner of the source: who writes the source needs no other way to run code.
    """
    if os.name == "nt":
        return None
    try:
        found, trusted = os.stat(folder), {os.geteuid(), 0, os.stat(source).st_uid}
    except OSError:
        return None  # Numba says itself what it cannot read
    if found.st_uid not in trusted:
        return f"it belongs to another user (uid {found.st_uid})"
    return "every user can write it" if found.st_mode & 0o002 else None


def seal_files(cache: Any) -> None:
    """Let a cache of Numba (``numba.core.caching.FunctionCache``) write and read sealed files, under other names."""
    cache.__class__ = _QuickCache
    files = cache._cache_file
    files.__class__ = _SealedFiles
    name = files._index_name.removesuffix(".nbi")
    files._index_name, files._data_name_pattern = f"{name}.sealed.nbi", f"{name}.sealed.{{number:d}}.nbc"
    files._index_path = os.path.join(files._cache_path, files._index_name)


class _QuickCache(FunctionCache):
    """Numba's cache, which reads compiled code without making ready to compile.

    Before it reads, Numba imports and registers all that it knows of Python's and NumPy's functions, which takes a
    third of the time to the first result of a process. Machine code needs none of it; a compilation does it itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function of a signature, or None."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
        return None


class _SealedFiles(IndexDataCacheFile):
    """The index and the data files of one function; where a file is damaged, there is none."""

    def _load_index(self) -> Any:
        return super()._load_index() if self._whole(self._index_path) else {}

    def _load_data(self, name: str) -> Any:
        if not self._whole(self._data_path(name)):
            raise FileNotFoundError(name)  # the caller then compiles
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        buffer = io.BytesIO()
        yield buffer
        content = buffer.getvalue()
        with super()._open_for_write(filepath) as file:
            # Whoever reads the pickles stops at their ends.
            file.write(content + MAGIC + hashlib.sha256(content).digest())

    def _whole(self, path: str) -> bool:
        """Return whether a file is there and is what was written; one that is not is removed."""
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return False
        content = data[:-len(MAGIC) - DIGEST_LENGTH]
        if data == content + MAGIC + hashlib.sha256(content).digest():
            return True
        _tell(path)
        with suppress(OSError):
            os.unlink(path)
        return False


def _tell(path: str) -> None:
    global _told
    if not _told:
        _told = True
        warnings.warn(f"compiled code in {path} is damaged (cut, or changed on disk): it is dropped and compiled "
                      "again, as all such files are", WGFlowWarning, stacklevel=2)
