"""Memory: peaks against what is predicted, requests under a limit of the address space, and leaks over many runs."""

from __future__ import annotations

import gc
import math
import os
import threading

import children
import numpy as np
from figures import Figure, Scale, counted
from predictions import predictions
from runs import RUNS

import wgflow as wg

MEBIBYTE = 2**20
#: What may stay after many runs, in MiB.
LEAK = 1.0


def _plain(cells: tuple[int, ...]):
    grid = wg.Grid([(-3, 3)] * len(cells), cells=cells)
    energy = wg.Entropy(4.0) + wg.Potential(lambda *x: sum(v**2 for v in x) / 2)
    return wg.solve(energy, wg.Density.uniform(grid), (0, 0.02), wg.FiniteVolume(dt=0.01))


def _convolved(cells: tuple[int, ...]):
    grid = wg.Grid([(-3, 3)] * len(cells), cells=cells)
    kernel = wg.Interaction(wg.Convolution(lambda *z: -np.exp(-sum(v**2 for v in z))))
    energy = wg.Entropy(4.0) + wg.Potential(lambda *x: sum(v**2 for v in x) / 2) + kernel
    return wg.solve(energy, wg.Density.uniform(grid), (0, 0.02), wg.FiniteVolume(dt=0.01))


def _porous(cells: tuple[int, ...]):
    grid = wg.Grid([(-3, 3)] * len(cells), cells=cells)
    energy = wg.PowerEntropy(2.0) + wg.Potential(lambda *x: sum(v**2 for v in x) / 2)
    return wg.solve(energy, wg.Density.uniform(grid), (0, 0.02), wg.FiniteVolume(dt=0.01))


def _limited(scale: Scale) -> Figure:
    """Ask for more and more under a limit of 300 MiB above what the process has: an answer or a ResourceError."""
    requests = {
        "points": lambda n: RUNS[0].rho0.sample(n, 1).size, "cells": lambda n: _plain((n,)).status,
        "plane": lambda n: _porous((math.isqrt(n), math.isqrt(n))).status,
        "quantiles": lambda n: RUNS[0].rho0.quantile(np.broadcast_to(0.5, (n,))).size,
        "convolution": lambda n: _convolved((math.isqrt(n), math.isqrt(n))).status,
        "dense": lambda n: wg.Interaction(wg.Dense(lambda x, y: (x - y) ** 2)).energy(
            wg.Density.uniform(wg.Grid((0, 1), cells=math.isqrt(n) // 4))),
        "snapshots": lambda n: RUNS[0].solve(method=RUNS[0].cut(3), throw=False,
                                             t_eval=np.linspace(0, 1, max(2, n // 1000))).status,
    }
    _plain((64,)), _porous((20, 20)), _convolved((8, 8))
    sizes = [int(n) for n in np.geomspace(1e5, 1e9, scale.pick(2, 13, 40))]
    wrong, cases = [], 0
    for name, ask in requests.items():
        for n in sizes:
            ended = children.run(lambda ask=ask, n=n: ask(n) and None, 60, 300 * MEBIBYTE)
            cases += 1
            refused = ended.kind == "refused" and ended.words.startswith("ResourceError")
            if ended.kind != "ok" and not refused:
                wrong.append(f"{name}, n={n:.2g}: {ended.kind} {ended.words}")
    return counted("F18", "memory", "requests under RLIMIT_AS that are neither met nor refused", cases, wrong)


def _leaks(scale: Scale) -> list[Figure]:
    """Return what stays of many runs: memory, open files, threads."""
    count = scale.pick(40, 1000, 10_000)

    def many():
        for run in RUNS:  # imports, compiles, and fills what is kept for the next run
            run.solve(t_eval=[0.5]), run.solve()
        for k in range(count):
            RUNS[k % len(RUNS)].solve(t_eval=[0.5]) if k % 10 == 0 else RUNS[k % 2 + 1].solve()
            if k == count // 2:
                gc.collect()
                before = children.resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
        gc.collect()
        after = children.resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
        return [new - old for new, old in zip(after, before)]

    ended = children.run(many, 3000)
    bytes_more, files, threads = ended.value or (math.inf, math.inf, math.inf)
    told = (ended.words,) if ended.words else ()
    return [Figure("memory", "growth of memory over the second half of the runs", bytes_more / MEBIBYTE, LEAK, count,
                   "MiB", told, "F18"),
            Figure("memory", "files and threads that stay open", files + threads, 0, count, "", told, "F18")]


def memory(scale: Scale) -> list[Figure]:
    """Peaks, limits, leaks; each run is in a child of its own."""
    return [*predictions(scale), _limited(scale), *_leaks(scale)]
