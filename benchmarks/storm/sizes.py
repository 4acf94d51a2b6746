"""Sizes and numbers that nobody can serve, and the table of bad inputs: refused at once, and without memory.

The rows are those of the tests (tests/wgflow/test_sizes.py and test_bad_inputs.py), each in a child; beside them random
huge numbers go to every argument that is a size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import children
import numpy as np
from figures import Figure, Scale, counted
from runs import BUMP, LINE, NOISE, RUNS, WELL

import wgflow as wg

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEBIBYTES = 1.0, 50.0


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "wgflow" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows() -> dict[str, Callable[[], object]]:
    rows = {f"size: {name}": row[0] for name, row in _module("test_sizes").ROWS.items()}
    for k, row in enumerate(_module("test_bad_inputs").ROWS):
        rows[f"row {row.number}.{k}"] = partial(row.call, *row.arrays)
    return rows


def _compile() -> None:
    """Import and compile here what the children call, so that their memory is that of the calls."""
    for run in RUNS:
        run.solve()
    wg.solve(WELL, wg.Atoms(np.zeros((1, 3)), np.ones(3) / 3), (0, 1), method=wg.Lagrangian())
    wg.validation.run_langevin(NOISE + WELL, BUMP, n_particles=10, t_eval=[0, 1], rng=1)


def _huge(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1, 1, 1])) * 10 ** int(rng.integers(10, 400)) + int(rng.integers(3))


def _random_call(rng: np.random.Generator) -> tuple[str, Callable[[], object]]:
    """Return a call with a huge number in the place of a size, a count or a time."""
    n, run = _huge(rng), RUNS[0]
    particles = {"energy": NOISE + WELL, "rho0": BUMP, "n_particles": 10, "t_eval": [0, 1], "rng": 1}
    calls: dict[str, Callable[[], object]] = {
        "Grid cells": lambda: wg.Grid((0, 1), cells=n), "Grid bounds": lambda: wg.Grid((-n, n), cells=10),
        "Grid plane": lambda: wg.Grid([(0, 1), (0, 1)], cells=(n, 3)), "sample": lambda: BUMP.sample(n, 1),
        "seed": lambda: BUMP.sample(3, -abs(n)), "Entropy": lambda: wg.Entropy(n), "factor": lambda: n * WELL,
        "PowerEntropy": lambda: wg.PowerEntropy(n), "max_steps": lambda: wg.FiniteVolume(max_steps=n),
        "rtol": lambda: wg.FiniteVolume(rtol=n), "tau": lambda: wg.JKO(-abs(n)),
        "t_eval": lambda: run.solve(t_eval=range(abs(n))), "t_end": lambda: run.resume(n),
        "n_particles": lambda: wg.validation.run_langevin(**{**particles, "n_particles": n}),
        "n_runs": lambda: wg.validation.run_langevin(**{**particles, "n_runs": n}),
        "view": lambda: wg.Density(LINE, np.broadcast_to(1.0, (10**13,))),
        "quantiles": lambda: wg.JKO(0.1, inner=wg.solvers.Quantile(cells=n)),
        "model": lambda: wg.reduced_models.IsotropicGaussian(d=-abs(n), delta=0.4),
    }
    name = str(rng.choice(list(calls)))
    return f"{name} {'-' * (n < 0)}1e{len(str(abs(n))) - 1}", calls[name]


def sizes(scale: Scale) -> list[Figure]:
    """Every row, then random ones."""
    rng = np.random.default_rng(scale.seed)
    rows = _rows()
    _compile()
    if scale.size == "tiny":
        rows = {name: rows[name] for name in sorted(rows)[::6]}
    calls = [*rows.items(), *(_random_call(rng) for _ in range(scale.pick(20, 600, 5000)))]
    foreign, slow, large = [], [], []
    for name, call in calls:
        ended = children.run(lambda call=call: call() and None, 60, 4 << 30)
        words = f"{name}: {ended.kind} {ended.words}"
        # What a random number gives may be right: factors and bounds up to 1e308 are numbers.
        if ended.kind in ("foreign", "dead") or (ended.kind == "ok" and name in rows):
            foreign.append(words)
        if ended.seconds > SECONDS:
            slow.append(f"{ended.seconds:.1f} s, {words}")
        if ended.growth > MEBIBYTES:
            large.append(f"{ended.growth:.0f} MiB, {words}")
    return [counted("F14", "sizes", "bad inputs and huge numbers that are not refused", len(calls), foreign),
            counted("F14", "sizes", f"refusals that take more than {SECONDS:g} s", len(calls), slow),
            counted("F14", "sizes", f"refusals that take more than {MEBIBYTES:g} MiB", len(calls), large)]
