"""The disk: full, read-only, too short for a file; links, pipes, folders and devices in the place of a file."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import children
import numpy as np
from figures import Figure, Scale, counted
from runs import RUNS, digest

import wgflow as wg
from wgflow.files import checkpoints

RUN = RUNS[0]


def _hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def _short_files(scale: Scale, folder: Path) -> list[str]:
    """Save over a good file where no file may be longer than a random limit: the old file stays whole."""
    rng, wrong = np.random.default_rng(scale.seed), []
    solution, expected = RUN.solve(), digest(RUN.solve())
    for name in ("solution.npz", "solution.nc"):
        path = folder / name
        solution.save(path)
        size = path.stat().st_size
        for limit in rng.integers(0, size, scale.pick(3, 40, 200)):
            def save(limit=int(limit), path=path):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                solution.save(path)

            ended = children.run(save)
            if ended.kind != "refused" or not ended.words.startswith("StorageError"):
                wrong.append(f"{name} of {size} bytes, limit {limit}: {ended.kind} {ended.words}")
            if digest(wg.load(path)) != expected:
                wrong.append(f"{name}, limit {limit}: the old file has changed")
            wrong += [f"{name}, limit {limit}: {one} stays" for one in _hidden(folder)]
    return wrong


def _short_checkpoints(scale: Scale, folder: Path) -> list[str]:
    """Let the disk fill up in mid-run: the run warns and ends with the same bits, and its last whole state stays."""
    rng, wrong, expected = np.random.default_rng(scale.seed), [], digest(RUN.solve())
    for k in range(scale.pick(2, 15, 60)):
        path, step = folder / f"run{k}.npz", int(rng.integers(1, 150))

        def solve(path=path, at=step):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            checkpoints.Checkpoint.INTERVAL = checkpoints.Checkpoint.PATIENCE = 0.0
            seen = []

            def fill(t, rho):
                seen.append(t)
                if len(seen) == at:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = digest(RUN.solve(checkpoint=path, callback=fill))
            return found == expected, sum("checkpoint was not written" in str(one.message) for one in told)

        ended = children.run(solve, 60)
        if not ended.value or not ended.value[0] or not ended.value[1]:
            wrong.append(f"run {k}: {ended.kind} {ended.words} same bits, warnings: {ended.value}")
        if digest(RUN.resume(path)) != expected:
            wrong.append(f"run {k}: goes on to other bits")
        wrong += [f"run {k}: {one} stays" for one in _hidden(folder)]
    return wrong


def _places(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """Return paths that are no place for a file, and the file of somebody else that must stay as it is."""
    victim = folder / "victim"
    victim.write_text("of somebody else")
    (folder / "link.npz").symlink_to(victim)
    (folder / "dangling.npz").symlink_to(folder / "nothing")
    (folder / ".locked.npz.lock").symlink_to(victim)
    (folder / ".hard.npz.lock").hardlink_to(victim)
    (folder / "folder.npz").mkdir()
    os.mkfifo(folder / "pipe.npz")
    os.mkfifo(folder / ".piped.npz.lock")
    names = ("link", "dangling", "locked", "hard", "folder", "pipe", "piped")
    return {name: (folder / f"{name}.npz", victim) for name in names} | {
        "device": (Path("/dev/full"), None), "nowhere": (folder / "none" / "run.npz", None)}


def _odd_places(folder: Path) -> tuple[int, list[str]]:
    solution, wrong, cases = RUN.solve(), [], 0
    for name, (path, victim) in _places(folder).items():
        actions: dict[str, Callable[[], object]] = {"a run": lambda path=path: RUN.solve(checkpoint=path) and None}
        if name not in ("locked", "hard", "piped"):  # locks of runs alone
            actions |= {"save": lambda path=path: solution.save(path)}
            if name != "link":  # may be read
                actions |= {"load": lambda path=path: wg.load(path) and None}
        for verb, act in actions.items():
            cases += 1
            ended = children.run(act, 10)
            if ended.kind != "refused":
                wrong.append(f"{verb}, {name}: {ended.kind} {ended.words}")
            if victim and victim.read_text() != "of somebody else":
                wrong.append(f"{verb}, {name}: the file of somebody else is changed")
                victim.write_text("of somebody else")
    return cases, wrong


def _read_only(folder: Path) -> list[str]:
    """Save into a folder in which this user may not write (root becomes nobody first)."""
    path = folder / "run.npz"
    solution = RUN.solve()
    solution.save(path)
    kept = path.read_bytes()
    folder.chmod(0o555)
    for parent in list(folder.parents)[:2]:
        if os.geteuid() == 0 and parent != Path("/tmp"):
            parent.chmod(0o755)

    def as_nobody(act):
        def acted():
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            act()

        return children.run(acted)

    wrong = []
    for verb, act in (("save", lambda: solution.save(path)), ("a run", lambda: RUN.resume(path, checkpoint=path)),
                      ("a new run", lambda: RUN.solve(checkpoint=folder / "new.npz"))):
        ended = as_nobody(act)
        if ended.kind != "refused" or not ended.words.startswith("StorageError"):
            wrong.append(f"{verb}: {ended.kind} {ended.words}")
    if path.read_bytes() != kept or os.listdir(folder) != [path.name]:
        wrong.append("the folder has changed")
    return wrong


#: Runs in a mount namespace of its own: a disk of 96 KiB that is nearly full.
FULL = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", sys.argv[1]], check=True)
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import runs, wgflow as wg
path = Path(sys.argv[1]) / "run.npz"
solution = runs.RUNS[0].solve(method=runs.RUNS[0].cut(3), throw=False)
solution.save(path)
kept = path.read_bytes()
filler = open(Path(sys.argv[1]) / "filler", "wb", buffering=0)
try:
    while True:
        filler.write(bytes(1024))
except OSError:
    pass
try:
    solution.save(path)
    print("saved on a full disk")
except wg.StorageError as error:
    print("" if error.errno == 28 else f"errno {error.errno}")
print("" if path.read_bytes() == kept and sorted(os.listdir(sys.argv[1])) == ["filler", "run.npz"] else "changed")
"""


def _full_disk(folder: Path) -> list[str] | None:
    """Save on a full disk; None where no small disk can be mounted."""
    if not shutil.which("unshare"):
        return None
    done = subprocess.run(["unshare", "-rm", sys.executable, "-c", FULL, str(folder), str(Path(__file__).parent)],
                          capture_output=True, text=True, timeout=300)
    if "mount" in done.stderr or "unshare" in done.stderr:
        return None
    return done.stdout.split() + [done.stderr[-300:]] * bool(done.returncode)


def disk(scale: Scale) -> list[Figure]:
    """Full and read-only disks, and odd places."""
    with tempfile.TemporaryDirectory(dir=scale.folder) as place:
        folders = [Path(place) / name for name in ("short", "checkpoints", "odd", "read-only", "full")]
        for folder in folders:
            folder.mkdir()
        found = [
            counted("F14", "disk", "saves cut short that are not refused, or do harm", 2 * scale.pick(3, 40, 200),
                    _short_files(scale, folders[0])),
            counted("F14", "disk", "runs that a full disk changes, or that do not say so", scale.pick(2, 15, 60),
                    _short_checkpoints(scale, folders[1])),
            counted("F14", "disk", "links, pipes, folders, devices: taken or harmed", *_odd_places(folders[2])),
            counted("F14", "disk", "writes into a read-only folder that are not refused", 3, _read_only(folders[3]))]
        full = _full_disk(folders[4])
        if full is not None:
            found.append(counted("F14", "disk", "saves on a full disk that are not refused", 1, full))
        folders[3].chmod(0o755)
    return found
