"""Files with damaged bytes: cut, flipped, overwritten, exchanged, lengthened. None of them may be read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from figures import Figure, Scale, counted
from runs import RUNS, Run, digest

import wgflow as wg


def _damaged(rng: np.random.Generator, data: bytes, others: list[bytes]) -> tuple[bytes, str]:
    at, act = int(rng.integers(len(data))), int(rng.integers(7))
    end = min(len(data), at + int(rng.integers(1, 64)))
    if act == 0:
        return data[:at], f"cut at {at}"
    if act == 1:
        bit = int(rng.integers(8))
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1:], f"bit {bit} of byte {at}"
    if act == 2:
        return data[:at] + bytes(end - at) + data[end:], f"zeros from {at} to {end}"
    if act == 3:
        return data[:at] + rng.bytes(end - at) + data[end:], f"noise from {at} to {end}"
    if act == 4:
        return data + rng.bytes(end - at), f"{end - at} bytes more"
    if act == 5:
        return data[:at] + data[end:], f"without {at} to {end}"
    other = others[int(rng.integers(len(others)))]
    return data[:at] + other[at:], f"the end of another file from {at}"


def damaged(scale: Scale) -> list[Figure]:
    """A hundred thousand damages at full scale; each file is read by what reads its kind."""
    rng, count = np.random.default_rng(scale.seed), scale.pick(500, 10_000, 100_000)
    read, foreign = [], []
    with tempfile.TemporaryDirectory(dir=scale.folder) as place:
        files: list[tuple[Run, str, bytes]] = []
        found: dict[str, str] = {}
        for run in RUNS[::3]:
            for name in ("solution.npz", "solution.nc", "checkpoint.npz"):
                path = Path(place) / name
                checkpoint = {"checkpoint": path} if name.startswith("checkpoint") else {}
                solution = run.solve(method=run.cut(3), throw=False, **checkpoint)
                if not checkpoint:
                    solution.save(path)
                    found[run.name] = digest(wg.load(path))
                files.append((run, name, path.read_bytes()))
                path.unlink()
        whole = {data for _, _, data in files}
        for _ in range(count):
            run, name, data = files[int(rng.integers(len(files)))]
            bad, told = _damaged(rng, data, [other for _, _, other in files])
            if bad in whole:
                continue
            path = Path(place) / name
            path.write_bytes(bad)
            try:
                if name.startswith("checkpoint") and rng.random() < 0.5:
                    run.resume(path, stop=lambda *now: True)
                elif name.endswith(".nc") and digest(wg.load(path)) == found[run.name]:
                    continue  # only bytes that hold nothing: the digest of its content agrees
                else:
                    wg.load(path)
                read.append(f"{run.name} {name}: {told}")
            except wg.StorageError:
                pass
            except Exception as error:
                foreign.append(f"{run.name} {name}: {told}: {type(error).__name__}: {error}")
    return [counted("F16", "bytes", "damaged files that are read, with other content", count, read),
            counted("F16", "bytes", "exceptions other than StorageError", count, foreign)]
