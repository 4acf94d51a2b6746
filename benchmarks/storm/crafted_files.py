"""Crafted files: their digest is right, their header and arrays are not. What reads them must refuse or cope.

Each file is read by a child with limits of time and memory: solutions by `wgflow.load`, checkpoints by `load` too, or
by `resume` up to the first step.
"""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import numpy as np
from figures import Figure, Scale, counted
from runs import BUMP, FV, NOISE, PULL, RUNS, WELL, Run

import wgflow as wg
from wgflow.files import archives

#: Processor seconds that reading a file may take, until it is ended, and MiB above the size of the file.
SECONDS, PATIENCE, MEBIBYTES = 1.0, 10, 50.0
#: Bytes that a child may take at all.
ROOM = 1 << 30
LEAVES: list[Any] = [None, True, False, 0, -1, 1, 3, 1.5, 10**5, 10**9, 10**30, -(10**30), 2**63, -1.0, 1e308, 1e-308,
                     float("nan"), float("inf"), "", "x", "Entropy", "\x00", "9" * 50, [], {}, [[]], [None], {"a": 1},
                     [1, 1, 1], (1, 2)]
FLOATS = [0.0, -1.0, 1e308, float("nan"), float("inf"), 1e-308, -1e30, 7.0]
INTEGERS = [0, -1, 2**62, -(2**62), 7, 10**6]


def _files(folder: Path) -> list[tuple[str, str, Run, dict, dict]]:
    """Return kind, name, run, header and arrays of a solution and a checkpoint of every method."""
    found = []

    def keep(path: Path, kind: str, run: Run) -> None:
        found.append((kind, path.stem, run, *archives.read_npz(path, kind)))

    for run in RUNS:
        path, kept = folder / f"{run.name}.ck.npz", folder / f"{run.name}.npz"
        run.solve(method=run.cut(3), checkpoint=path, throw=False).save(kept)
        keep(path, "checkpoint", run)
        keep(kept, "solution", run)
        _compile(run, path, kept)
    atoms = folder / "atoms.npz"
    points = wg.Atoms(np.linspace(-1, 1, 7)[None], np.ones(7) / 7)
    wg.solve(WELL, points, (0, 1), method=wg.Lagrangian(max_steps=3), throw=False).save(atoms)
    keep(atoms, "solution", Run("atoms", NOISE + WELL + PULL, BUMP, FV()))
    return found


def _compile(run: Run, path: Path, kept: Path) -> None:
    """Import and compile here what the children call, at the steps that they may be told to take."""
    wg.load(kept)
    run.resume(path, checkpoint=path.with_suffix(".new"), stop=lambda *now: True)
    if isinstance(run.method, wg.FiniteVolume):
        for settings in ({"dt": 1e-12}, {"dt": 1e5}, {"dt": None, "rtol": 1e-2}, {"dt": 1e5, "scheme": "midpoint"}):
            for order in (2, None):
                run.solve(method=replace(run.method, order=order, **settings), stop=lambda t, rho: t > 0)


def _leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        yield (*path, key)
        yield from _leaves(value, (*path, key))


def _replaced(node: Any, path: tuple, change) -> Any:
    """Return a copy of a tree, one container of which is changed at a key."""
    if len(path) == 1:
        return change(node, path[0])
    kind = dict if isinstance(node, dict) else type(node)
    items = node.items() if kind is dict else enumerate(node)
    parts = [(key, _replaced(value, path[1:], change) if key == path[0] else value) for key, value in items]
    return dict(parts) if kind is dict else kind(value for _, value in parts)


def _change_header(rng: random.Random, header: dict) -> tuple[dict, str]:
    leaves = list(_leaves(header))
    if not leaves:
        return {"extra": rng.choice(LEAVES)}, "a header of its own"
    path = rng.choice(leaves)
    act, leaf = rng.random(), rng.choice(LEAVES)

    def change(node, key):
        if isinstance(node, dict) and act < 0.2:
            return {k: v for k, v in node.items() if k != key} if act < 0.15 else {**node, "extra": leaf}
        old = node[key]
        new = leaf
        if isinstance(old, (int, float)) and not isinstance(old, bool) and rng.random() < 0.4:
            new = rng.choice([-old, old + 1, old * 1e6, old * 1e-12, old * 2, int(old) if abs(old) < 1e300 else 0])
        parts = dict(node) if isinstance(node, dict) else list(node)
        parts[key] = new
        return tuple(parts) if isinstance(node, tuple) else parts

    return _replaced(header, path, change), f"{'.'.join(map(str, path))} ({act:.2f}, {str(leaf)[:12]!r})"


def _change_array(rng: random.Random, arrays: dict) -> tuple[dict, str]:
    name, act = rng.choice(list(arrays)), rng.random()
    a = np.array(arrays[name])
    if act < 0.1:
        return {k: v for k, v in arrays.items() if k != name}, f"without {name}"
    if act < 0.2:
        a = np.zeros(0)
    elif act < 0.3:
        a = a.reshape(-1)[:rng.randrange(max(1, a.size))]
    elif act < 0.4:
        a = np.concatenate([a.reshape(-1)] * 2)
    elif act < 0.5:
        with np.errstate(invalid="ignore"):
            a = a.astype(rng.choice([float, np.int64, bool, np.uint8]))
    elif act < 0.55:
        a = a[None]
    elif act < 0.6:
        a = a.reshape(-1)[::-1].copy()
    elif a.size and a.dtype.kind in "fi":
        a.reshape(-1)[rng.randrange(a.size)] = rng.choice(FLOATS if a.dtype.kind == "f" else INTEGERS)
    return {**arrays, name: a}, f"{name}: {a.dtype}{list(a.shape)} ({act:.2f})"


def mutated(rng: random.Random, header: dict, arrays: dict) -> tuple[dict, dict, str]:
    """Return a header and arrays with one to three changes, and the changes in words."""
    header, arrays, told = copy.deepcopy(header), dict(arrays), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.6 or not arrays:
            header, words = _change_header(rng, header)
        else:
            arrays, words = _change_array(rng, arrays)
        told.append(words)
    return header, arrays, "; ".join(told)


def used(found: wg.Solution) -> str:
    """Use a solution that was read: what is accepted must not fail later."""
    repr(found)
    found.explain()
    found.density(found.t[-1])
    found.to_numpy()
    found.final.mean()
    return found.certificate.verdict


def unwarned(read: Callable[[], Any]) -> Callable[[], Any]:
    """Return a reading that fails where NumPy warns: it has computed with numbers that nobody looked at."""

    def unwarned_read() -> Any:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", wg.WGFlowWarning)
            try:
                return read()
            finally:
                if told:
                    raise RuntimeError(f"{told[0].message} at {Path(told[0].filename).name}:{told[0].lineno}")

    return unwarned_read


def _reader(kind: str, path: Path, run: Run, resumes: bool):
    def read():
        if kind == "solution" or not resumes:
            return used(wg.load(path))
        return run.resume(path, checkpoint=path.with_suffix(".new"), stop=lambda *now: True).status

    return unwarned(read)


def crafted(scale: Scale) -> list[Figure]:
    """Ten thousand mutations at full scale, each with a right digest."""
    rng, count = random.Random(scale.seed), scale.pick(60, 2500, 10_000)
    foreign, slow, large, done = [], [], [], 0
    with tempfile.TemporaryDirectory(dir=scale.folder) as place:
        files, path = _files(Path(place)), Path(place) / "mutated"
        while done < count:
            kind, name, run, header, arrays = rng.choice(files)
            header, arrays, told = mutated(rng, header, arrays)
            try:
                archives.write_npz(path, kind, header, arrays)
            except (ValueError, TypeError, KeyError, wg.WGFlowError):
                continue  # not even a file of ours
            done += 1
            resumes = rng.random() < 0.5
            ended = children.run(_reader(kind, path, run, resumes), PATIENCE, ROOM)
            words = f"{name}, {'resumed' if resumes and kind == 'checkpoint' else 'loaded'}: {told}: {ended.words}"
            if ended.kind == "foreign":
                foreign.append(words)
            if ended.kind == "dead" or ended.seconds > SECONDS:
                slow.append(f"{ended.seconds:.1f} s, {words}")
            if ended.growth > MEBIBYTES:
                large.append(f"{ended.growth:.0f} MiB, {words}")
    return [counted("F16", "crafted", "foreign exceptions", done, foreign),
            counted("F16", "crafted", f"hangs, crashes, or more than {SECONDS:g} s", done, slow),
            counted("F16", "crafted", f"readings that take more than {MEBIBYTES:g} MiB", done, large)]
