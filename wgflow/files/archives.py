"""Atomic writing of files, and npz archives that are used only after every byte has been checked.

An archive is a zip of ``.npy`` members as `numpy.savez` makes it (`numpy.load` reads it), stored without compression.
Its first member holds a header in JSON, and its zip comment names the kind of file, the format version and the SHA-256
of every byte before the digest. Nothing in it is ever run, and no size that it claims is trusted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from wgflow.checks import check_memory, described
from wgflow.errors import ResourceError, StorageError, WGFlowError

from .rows import Rows, pieces

__all__ = ["check_seal", "decode", "encode", "open_regular", "peek", "read_npz", "replacing", "seal", "sweep_stale",
           "target_of", "write_npz"]

#: Version of the layout that is written; all versions up to it are read. 2: steps of the JKO scheme, work.
FORMAT = 2
#: First bytes of a zip file,
ZIP_START = b"PK\x03\x04"
#: and of an HDF5 file.
HDF5_START = b"\x89HDF\r\n\x1a\n"
TRAILER = "\nwgflow {kind:<10s} format {format:04d} sha256 {digest:64s}\n"
TRAILER_PATTERN = re.compile(rb"\nwgflow ([a-z]+) +format ([0-9]{4}) sha256 ([0-9a-f]{64})\n")
TRAILER_LENGTH = len(TRAILER.format(kind="", format=FORMAT, digest=""))
#: Bytes of the trailer that the digest cannot cover: the digest and the end of the line.
DIGEST_LENGTH = 65
MEMBER_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}\.npy", re.ASCII)
#: Kinds of arrays that are stored: floats, integers, flags and the header's bytes.
DTYPES = {np.dtype(code): code for code in ("<f8", "<i8", "|b1", "|u1")}
#: Members of an archive, bytes of its JSON header and bytes of the header of an array: none of wgflow's files has more.
MAX_MEMBERS = 64
MAX_HEADER = 1 << 24
MAX_NPY_HEADER = 4096
#: An archive that claims to unpack to more than this many times its size is malicious, not a file of wgflow.
BOMB_RATIO = 100
#: Seconds between attempts to replace a file that is open elsewhere, where the system does not allow it.
PATIENCE = (0.01, 0.03, 0.1, 0.3, 0.6)
#: Temporary files that this process is writing now.
ACTIVE: set[str] = set()


# -------------------------------------------------------------------- writing
def target_of(path) -> Path:
    """Return the path of a file to be written, checked: the folder exists, the path is no link, folder or device."""
    try:
        target = Path(os.fsdecode(path))
        if target.is_symlink():
            raise StorageError(f"{target} is a symlink: writing would replace the link, not the file it points to; "
                               "give the path of the file itself")
        if target.exists() and not target.is_file():
            raise StorageError(f"{target} is not a regular file; give the path of a file")
        if not target.parent.is_dir():
            raise StorageError(f"the folder {target.parent} does not exist; make it first")
    except (TypeError, ValueError) as error:
        raise StorageError(f"path={path!r} is not the path of a file: {error}") from error
    except StorageError:
        raise
    except OSError as error:
        raise _failed("use", path, error) from error
    return target


@contextmanager
def replacing(path, *, trial: bool = False) -> Iterator[Path]:
    """Yield a temporary file in the same folder; once it is on disk it replaces ``path``, or else nothing changes.

    With ``trial`` it never replaces ``path``: this only tests whether the folder can be written to.

    Raises
    ------
    StorageError
        If a part of this fails, with the ``errno`` of the cause; the old file is unchanged.
    """
    target = target_of(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    ACTIVE.add(temporary.name)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        yield temporary
        if not trial:
            _sync(temporary)
            _replace(temporary, target)
            _sync(target.parent)
    except WGFlowError:
        raise
    except (OSError, ValueError) as error:
        raise _failed("write", target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        ACTIVE.discard(temporary.name)


def _replace(temporary: Path, target: Path) -> None:
    """Put a file in the place of another; on Windows some other program may be reading that one at the moment."""
    for pause in PATIENCE if os.name == "nt" else ():
        try:
            os.replace(temporary, target)
        except PermissionError:
            time.sleep(pause)
        else:
            return
    os.replace(temporary, target)


def sweep_stale(path) -> list[str]:
    """Remove temporary files beside ``path`` that dead processes left behind; return their names."""
    target = target_of(path)
    pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9]{1,10})-[0-9a-f]{8}\.tmp")
    removed = []
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            match = pattern.fullmatch(entry.name)
            if not match or entry.name in ACTIVE or not entry.is_file(follow_symlinks=False):
                continue
            if not _alive(int(match[1])):
                os.unlink(entry.path)
                removed.append(entry.name)
    return removed


def write_npz(path, kind: str, header: dict, arrays: dict[str, Any]) -> None:
    """Write a header and arrays (or `Rows`, or lists of arrays of one shape and dtype) as an archive, atomically."""
    text = json.dumps(encode(header), allow_nan=False).encode()
    with replacing(path) as temporary, temporary.open("r+b") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, value in {f"wgflow_{kind}": np.frombuffer(text, np.uint8), **arrays}.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    _write_member(member, value)
            archive.comment = TRAILER.format(kind=kind, format=FORMAT, digest="0" * 64).encode()
        _fill_digest(file)


def seal(path: Path, kind: str) -> None:
    """Append to a file of another format the content of an archive's zip comment: kind, format version and digest."""
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(TRAILER.format(kind=kind, format=FORMAT, digest="0" * 64).encode())
        _fill_digest(file)


def _fill_digest(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    digest = _digest(file, size - DIGEST_LENGTH)
    file.seek(size - DIGEST_LENGTH)
    file.write(digest.encode())


def _write_member(member, value) -> None:
    if isinstance(value, list):
        value = Rows(len(value), value.__getitem__)
    array = value if isinstance(value, Rows) else np.asarray(value)
    code = DTYPES[array.dtype.newbyteorder("<")]
    npy.write_array_header_1_0(member, {"descr": code, "fortran_order": False, "shape": array.shape})
    for part in pieces(array):
        member.write(np.ascontiguousarray(part, dtype=code).data.cast("B") if np.size(part) else b"")


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle of a folder to flush
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    """Return whether another process has this id; temporary files of this process itself are known by name."""
    if pid == os.getpid():
        return False
    if os.name == "nt":
        return True  # there os.kill(pid, 0) would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _failed(verb: str, path, error: Exception) -> StorageError:
    failure = StorageError(f"cannot {verb} {path}: {error}")
    failure.errno = getattr(error, "errno", None)
    return failure


# -------------------------------------------------------------------- reading
@contextmanager
def open_regular(path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a missing file, a folder, a pipe or a device is a StorageError at once."""
    try:
        name = os.fsdecode(path)
        # A plain open of a pipe without a writer would wait forever.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (TypeError, ValueError, OSError) as error:
        shown = path if isinstance(path, (str, bytes, os.PathLike)) else described(path)
        raise _failed("read", shown, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StorageError(f"{path} is not a regular file; give the path of a file")
    with open(descriptor, "rb") as file:
        yield file


def read_npz(path, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the header and arrays of an archive, after its digest and every member have been checked.

    Raises
    ------
    StorageError
        If the file is not a complete and unchanged archive of this kind and of a known version.
    ResourceError
        If it claims more than memory holds, or more than the file itself.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        check_seal(file, path, kind, size)
        try:
            members = _read_members(file, path, size)
            header = decode(members.pop(f"wgflow_{kind}").tobytes().decode())
        except (WGFlowError, MemoryError):
            raise
        except Exception as error:  # zipfile, npy headers and JSON fail in many ways, which all mean damage
            raise StorageError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise StorageError(f"{path} is damaged: its header is not a table")
    return header, members


def peek(path, kind: str) -> dict | None:
    """Return the header alone, unchecked, or None if the file is not a complete archive of this kind."""
    with open_regular(path) as file, suppress(Exception), zipfile.ZipFile(file) as archive:
        return decode(_read_member(archive, archive.getinfo(f"wgflow_{kind}.npy"), path).tobytes().decode())
    return None


def check_seal(file: BinaryIO, path, kind: str, size: int) -> None:
    """Raise StorageError unless the file ends as `write_npz` and `seal` make it, and its digest agrees."""
    file.seek(0)
    head = file.read(64)
    file.seek(max(0, size - TRAILER_LENGTH))
    match = TRAILER_PATTERN.fullmatch(file.read(TRAILER_LENGTH))
    if not match:
        if b"wgflow_" in head or head.startswith(HDF5_START) or (size < 64 and ZIP_START.startswith(head[:4])):
            raise StorageError(f"{path} is truncated or damaged: {size} bytes, and its end is missing")
        raise StorageError(f"{path} is not a wgflow file")
    found, version = match[1].decode(), int(match[2])
    if version > FORMAT:
        raise StorageError(f"{path} was written by format {version}, this wgflow reads up to {FORMAT}; upgrade wgflow")
    if found != kind:
        use = {"solution": "wgflow.load", "checkpoint": "wgflow.resume"}.get(found)
        raise StorageError(f"{path} holds a {found}, not a {kind}" + (f"; read it by {use}" if use else ""))
    if _digest(file, size - DIGEST_LENGTH) != match[3].decode():
        raise StorageError(f"{path} is damaged: its checksum (SHA-256) does not agree; take another copy")


def _digest(file: BinaryIO, length: int) -> str:
    """Return the SHA-256 digest of the first bytes of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0:
        block = file.read(min(length, 1 << 20))
        if not block:
            break
        digest.update(block)
        length -= len(block)
    return digest.hexdigest()


def _read_members(file: BinaryIO, path, size: int) -> dict[str, np.ndarray]:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise StorageError(f"{path} has {len(members)} members; at most {MAX_MEMBERS} are read")
        names = [info.filename for info in members]
        for info in members:
            if not MEMBER_NAME.fullmatch(info.filename) or info.orig_filename != info.filename:
                raise StorageError(f"{path}: unsafe member name {info.orig_filename!r}")
            if names.count(info.filename) > 1:
                raise StorageError(f"{path}: unsafe member name {info.filename!r}, which is there twice")
        total = sum(info.file_size for info in members)
        if total > BOMB_RATIO * size:
            raise ResourceError(f"{path}: {size} bytes that claim to unpack to {total}; do not trust this file")
        check_memory(total, f"{path}: its content", "read it on a larger machine")
        return {info.filename[:-4]: _read_member(archive, info, path) for info in members}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path) -> np.ndarray:
    """Return one array; its size is checked against archive, header and memory before anything is allocated."""
    what = f"{path}, member {info.filename!r}"
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise StorageError(f"{what} is compressed, which wgflow's files are not")
    with archive.open(info) as member:
        if npy.read_magic(member) != (1, 0):
            raise StorageError(f"{what} is not in npy format 1.0, the only one that is read")
        shape, fortran, dtype = npy.read_array_header_1_0(member, max_header_size=MAX_NPY_HEADER)
        if dtype.hasobject:
            raise StorageError(f"{what} holds Python objects: pickle refused, nothing in it was run")
        if dtype not in DTYPES or fortran:
            raise StorageError(f"{what} has dtype {dtype}, order {'F' if fortran else 'C'}; "
                               "need f8, i8, b1 or u1 in C order")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise StorageError(f"{what} has shape {shape}")
        need = dtype.itemsize * math.prod(shape)
        check_memory(need, f"{what} of shape {shape}", "do not trust this file, or read it on a larger machine")
        here = info.file_size - member.tell()
        if need != here or (info.filename.startswith("wgflow_") and need > MAX_HEADER):
            raise StorageError(f"{what} claims {need} bytes and has {here}")
        data = member.read()
    array = np.frombuffer(data, dtype).reshape(shape)
    if dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise StorageError(f"{what} has flags that are neither 0 nor 1")
    return array


# -------------------------------------------------------------------- JSON
def encode(value):
    """Return a value as plain JSON that `decode` reads back: non-finite floats and tuples marked, the rest as repr."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [encode(item) for item in value]
        return {"$tuple": items} if isinstance(value, tuple) else items
    return repr(value)


def decode(text: str):
    """Return the value of a JSON text; duplicate keys and bare NaN or Infinity are refused (ValueError)."""
    def table(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        if found.keys() == {"$float"} and found["$float"] in ("inf", "-inf", "nan"):
            return float(found["$float"])
        if found.keys() == {"$tuple"} and isinstance(found["$tuple"], list):
            return tuple(found["$tuple"])
        return found

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=table, parse_constant=refuse)
