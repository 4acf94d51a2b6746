"""Runs that are killed at random times, or cut at random steps: their files are whole, and lead to the same bits.

A child writes its checkpoint after every step and says, in memory that it shares, which time is on disk. After SIGKILL
the file must have that time or a later one; a file may be missing only if none was ever finished. The run that then
goes on (and may be killed again) must end with the bits of a run that nobody killed, and leave no file of its own.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import tempfile
import time
from pathlib import Path

import children
import numpy as np
from figures import Figure, Scale, counted
from runs import RUNS, Run, digest

import wgflow as wg
from wgflow.files import checkpoints
from wgflow.files.archives import read_npz

#: Writes after a signal that show that the run goes on: it may end the call of compiled code that it is in.
UNHEEDED = 10


class _Acknowledged:
    """The time of the latest state that a child has on disk, and how many it wrote, in memory shared with it."""

    def __init__(self, t: float = -1.0):
        self.memory = mmap.mmap(-1, 16)
        self.tell(t, 0.0)

    def tell(self, t: float, count: float) -> None:
        self.memory[:] = struct.pack("dd", t, count)

    @property
    def t(self) -> float:
        return struct.unpack("dd", self.memory[:])[0]

    @property
    def count(self) -> float:
        return struct.unpack("dd", self.memory[:])[1]


def _write_every_step(acknowledged: _Acknowledged) -> None:
    """In a child: write the state at every mark, and say what is on disk."""
    checkpoints.Checkpoint.INTERVAL = checkpoints.Checkpoint.PATIENCE = 0.0
    written = checkpoints.write_npz

    def write(path, kind, header, arrays):
        written(path, kind, header, arrays)
        acknowledged.tell(header["state"]["t"], acknowledged.count + 1)

    checkpoints.write_npz = write


def _begin(run: Run, path: Path, acknowledged: _Acknowledged) -> children.Started:
    def child():
        _write_every_step(acknowledged)
        if path.exists():
            run.resume(path)
        else:
            run.solve(checkpoint=path)

    return children.start(child)


def _length_of(run: Run, folder: Path) -> float:
    """Return the seconds that a run with its checkpoints takes."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _begin(run, Path(place) / "run.npz", _Acknowledged()).wait()
    return time.monotonic() - begin


def _struck(run: Run, path: Path, number: signal.Signals, delay: float) -> tuple[int, list[str]]:
    """Return how a run ends to which a signal is sent after a delay, and what is wrong with its file."""
    acknowledged = _Acknowledged(read_npz(path, "checkpoint")[0]["state"]["t"] if path.exists() else -1.0)
    child = _begin(run, path, acknowledged)
    time.sleep(delay)
    child.kill(number)
    count = acknowledged.count
    status = child.wait()
    if 0 < count < acknowledged.count - UNHEEDED:
        return status, [f"{run.name}: {number.name} at write {count:g} was not heeded until {acknowledged.count:g}"]
    if not path.exists():
        return status, [f"{run.name}: the file of t={acknowledged.t} is lost"] * (acknowledged.t >= 0)
    try:
        t = read_npz(path, "checkpoint")[0]["state"]["t"]
    except wg.WGFlowError as error:
        return status, [f"{run.name}: torn: {error}"]
    return status, [f"{run.name}: t={acknowledged.t} was on disk, the file has t={t}"] * (t < acknowledged.t)


def _end(run: Run, path: Path, expected: str) -> tuple[list[str], list[str]]:
    """Finish a run; return what is wrong with its bits, and the files that it leaves beside its own."""
    solution = run.resume(path) if path.exists() else run.solve(checkpoint=path)
    left = [name for name in os.listdir(path.parent) if name != path.name]
    return [f"{run.name}: other bits"] * (digest(solution) != expected), [f"{run.name}: {name}" for name in left]


def kills(scale: Scale) -> list[Figure]:
    """SIGKILL at a random time, in a third of the cases again while the run goes on."""
    part, rng, count = "kills", np.random.default_rng(scale.seed), scale.pick(5, 120, 1000)
    expected = {run.name: digest(run.solve()) for run in RUNS}
    lengths = {run.name: _length_of(run, scale.folder) for run in RUNS[:count]}
    torn, bits, files, struck = [], [], [], 0
    for k in range(count):
        run = RUNS[k % len(RUNS)]
        with tempfile.TemporaryDirectory(dir=scale.folder) as place:
            path = Path(place) / "run.npz"
            for _ in range(1 + (rng.random() < 1 / 3)):
                status, wrong = _struck(run, path, signal.SIGKILL, rng.uniform(0, lengths[run.name]))
                struck += status == -signal.SIGKILL
                torn += wrong
            if not wrong:
                other, left = _end(run, path, expected[run.name])
                bits, files = bits + other, files + left
    return [counted("F13", part, "torn files, or steps on disk that are lost", struck, torn),
            counted("F13", part, "runs that go on to other bits", count, bits),
            counted("F13", part, "files left behind after the run has gone on", count, files), *_cuts(scale, expected)]


def _cuts(scale: Scale, expected: dict[str, str]) -> list[Figure]:
    """Stop after a random number of steps, twice, and go on."""
    rng, count, wrong = np.random.default_rng(scale.seed + 1), scale.pick(8, 80, 400), []
    steps = {run.name: run.solve().certificate.n_accepted for run in RUNS}
    for k in range(count):
        run = RUNS[k % len(RUNS)]
        with tempfile.TemporaryDirectory(dir=scale.folder) as place:
            path = Path(place) / "run.npz"
            limits = rng.integers(1, steps[run.name], 2)
            run.solve(method=run.cut(int(limits[0])), checkpoint=path, throw=False)
            run.resume(path, method=run.cut(int(limits[1])), throw=False)
            if digest(run.resume(path, method=run.method)) != expected[run.name]:
                wrong.append(f"{run.name} cut after {limits.tolist()} steps")
    return [counted("F12", "kills", "runs cut at random steps that end with other bits", count, wrong)]


def signals(scale: Scale) -> list[Figure]:
    """SIGTERM and SIGINT (Ctrl-C) at a random time: the state is written, and the exit status tells the signal."""
    part, rng, count = "signals", np.random.default_rng(scale.seed), scale.pick(4, 60, 300)
    expected = {run.name: digest(run.solve()) for run in RUNS}
    lengths = {run.name: _length_of(run, scale.folder) for run in RUNS[:count // 2]}
    torn, codes, bits, files = [], [], [], []
    for k in range(count):
        run, number = RUNS[k // 2 % len(RUNS)], (signal.SIGTERM, signal.SIGINT)[k % 2]
        right = {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        with tempfile.TemporaryDirectory(dir=scale.folder) as place:
            path = Path(place) / "run.npz"
            status, wrong = _struck(run, path, number, rng.uniform(0, lengths[run.name]))
            torn += wrong
            # Before the run holds its file, and after it, a signal does what it does to any program.
            outside = status in (0, -number) or not path.exists()
            if status != right and not outside:
                codes.append(f"{run.name}: exit status {status} after {number.name}")
            if status == right:
                files += [f"{run.name}: {name}" for name in os.listdir(place) if name != path.name]
            other, left = _end(run, path, expected[run.name])
            bits, files = bits + other, files + left
    return [counted("F13", part, "torn files, lost steps, signals that are not heeded", count, torn),
            counted("F13", part, "exit statuses that do not tell the signal", count, codes),
            counted("F13", part, "runs that go on to other bits", count, bits),
            counted("F13", part, "files left behind", count, files)]
