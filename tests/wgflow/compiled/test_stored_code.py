"""Compiled code on disk: damaged files are dropped and told once, folders of others are not used."""

import os
import subprocess
import sys

import pytest

from wgflow.compiled.stored_code import stranger_of

KERNELS = """
from wgflow.compiled.jit import jit

@jit
def tripled(x):
    return 3.0 * x

@jit
def third(x):
    return x / 3.0
"""
CALL = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
import kernels
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(kernels.tripled(2.0), kernels.third(6.0))
for one in told:
    print(one.category.__name__, str(one.message)[:60])
print(len(kernels.tripled.stats.cache_hits), len(kernels.third.stats.cache_hits))
"""


def called(folder):
    done = subprocess.run([sys.executable, "-c", CALL, str(folder)], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "compiled")})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.py").write_text(KERNELS)
    assert called(folder) == ["6.0 2.0", "0 0"]
    assert called(folder) == ["6.0 2.0", "1 1"]
    return folder


def files_of(folder):
    return sorted((folder / "compiled").rglob("*.nb?"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:7], lambda data: data[:-1], lambda data: data[: len(data) // 2],
    lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], lambda data: data[:30] + b"?" + data[31:],
    lambda data: data[:data.index(b"wgflow code")], lambda data: data + b"more",
], ids=["empty", "start", "cut", "half", "digest", "changed", "unsealed", "longer"])
def test_damaged_files_are_told_once_and_compiled_again(stored, damage):
    assert len(files_of(stored)) == 4
    for path in files_of(stored):
        path.write_bytes(damage(path.read_bytes()))
    first, told, hits = called(stored)
    assert first == "6.0 2.0"
    assert told.startswith("WGFlowWarning compiled code in")
    assert hits == "0 0"
    assert called(stored) == ["6.0 2.0", "1 1"]


@pytest.mark.slow
def test_stored_code_is_read_without_what_a_compilation_needs(stored):
    """Numba's implementations of functions are neither imported nor registered; a compilation after it does that."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import kernels, numba
print(kernels.tripled(2.0), "numba.typed.typeddict" in sys.modules)
print(numba.njit(lambda x: sorted([x, 1.0])[0] + len({1: x}))(2.0), "numba.typed.typeddict" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, str(stored)], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "NUMBA_CACHE_DIR": str(stored / "compiled")})
    assert done.stdout.splitlines() == ["6.0 False", "2.0 True"], done.stderr[-2000:]


@pytest.mark.slow
def test_code_in_a_folder_that_every_user_can_write_is_not_used(stored):
    places = {path.parent for path in files_of(stored)}
    for place in places:
        place.chmod(0o777)
    try:
        first, *told, hits = called(stored)
    finally:
        for place in places:
            place.chmod(0o755)
    assert first == "6.0 2.0"
    assert hits == "0 0"
    assert len(told) == 2
    assert all(one.startswith("WGFlowWarning compiled code is not kept in") for one in told)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_who_is_a_stranger(tmp_path, monkeypatch):
    source = tmp_path / "kernels.py"
    source.write_text("")
    assert stranger_of(str(tmp_path), str(source)) is None
    tmp_path.chmod(0o777)
    assert stranger_of(str(tmp_path), str(source)) == "every user can write it"
    tmp_path.chmod(0o775)  # of a group: on many systems each user has his own
    assert stranger_of(str(tmp_path), str(source)) is None

    real = os.stat
    owner = {str(tmp_path): 4321, str(source): real(source).st_uid}

    def owned(path):
        found = list(real(path))
        found[4] = owner[str(path)]
        return os.stat_result(found)

    monkeypatch.setattr(os, "stat", owned)
    assert stranger_of(str(tmp_path), str(source)) == "it belongs to another user (uid 4321)"
    owner[str(source)] = 4321  # who owns the source as well needs no other way
    assert stranger_of(str(tmp_path), str(source)) is None
