"""Numbers, counts and sizes are looked at before anything is converted, copied or allocated."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import wgflow as wg
from wgflow import checks

HUGE = 2**10000
GRID = wg.Grid((-4, 4), cells=50)
WELL = wg.Potential(lambda x: x**2 / 2)
ENERGY = wg.Entropy(4.0) + WELL
LAW = wg.Density.gaussian(GRID, mean=0.5, cov=0.2)
ATOMS = wg.Atoms(np.zeros((1, 3)), np.ones(3) / 3)
MODEL = wg.reduced_models.IsotropicGaussian(d=40, delta=0.4)
Invalid, Resource, Stuck = wg.InvalidInput, wg.ResourceError, wg.ConvergenceError


def solved(**arguments):
    return wg.solve(**{"energy": ENERGY, "rho0": LAW, "t_span": (0, 1), **arguments})


def sgd(**arguments):
    return wg.validation.run_sgd(**{"model": MODEL, "n_neurons": 10, "step_size": 1e-3, "t_eval": [0, 1], "rng": 1,
                                    **arguments})


def langevin(**arguments):
    return wg.validation.run_langevin(**{"energy": ENERGY, "rho0": LAW, "n_particles": 10, "t_eval": [0, 1], "rng": 1,
                                         **arguments})


ROWS = {
    "a range of times": (lambda: solved(t_eval=range(10**9)), Resource, "t_eval has 1000000000 times"),
    "a range of more times than len can tell": (lambda: solved(t_eval=range(HUGE)), Resource, "t_eval has"),
    "a range of more levels than len can tell": (lambda: LAW.quantile(range(HUGE)), Resource, "q: an array of"),
    "a view of one time": (lambda: solved(t_eval=np.broadcast_to(0.5, (10**12,))), Resource, "t_eval has"),
    "times of particles": (lambda: langevin(t_eval=range(10**12)), Resource, "t_eval: an array of"),
    "times of SGD": (lambda: sgd(t_eval=range(10**12)), Resource, "t_eval: an array of"),
    "times without end": (lambda: sgd(t_eval=[0, 1e300]), Invalid, "steps of step_size=0.001"),
    "points": (lambda: LAW.sample(10**12, 1), Resource, "n=1000000000000 points needs"),
    "points of atoms": (lambda: ATOMS.sample(10**12, 1), Resource, "n=1000000000000 points needs"),
    "points beyond 64 bits": (lambda: LAW.sample(10**30, 1), Resource, "n=1e30"),
    "values": (lambda: wg.Density(GRID, np.broadcast_to(1.0, (10**12,))), Resource, "values: an array of"),
    "levels": (lambda: LAW.quantile(range(10**12)), Resource, "q: an array of"),
    "places": (lambda: LAW.cdf(range(10**12)), Resource, "x: an array of"),
    "neurons": (lambda: sgd(n_neurons=10**30), Resource, "n_neurons=1e30"),
    "runs": (lambda: sgd(n_runs=10**15), Resource, "GiB"),
    "a batch": (lambda: sgd(batch_size=10**30), Resource, "batch_size=1e30"),
    "particles": (lambda: langevin(n_particles=10**30), Resource, "n_particles=1e30"),
    "limit of steps": (lambda: wg.FiniteVolume(max_steps=10**30), Resource, "max_steps=1e30"),
    "cells of quantiles": (lambda: solved(method=wg.JKO(0.1, inner=wg.solvers.Quantile(cells=10**12))), Resource,
                           "GiB"),
    "factor": (lambda: HUGE * ENERGY, Invalid, "factor=1e3010: larger than any float"),
    "negative factor": (lambda: -HUGE * WELL, Invalid, "factor=-1e3010"),
    "factor of a kernel": (lambda: HUGE * wg.interactions.log(), Invalid, "factor=1e3010"),
    "beta": (lambda: wg.Entropy(HUGE), Invalid, "beta=1e3010"),
    "exponent": (lambda: wg.PowerEntropy(HUGE), Invalid, "m=1e3010"),
    "span": (lambda: solved(t_span=(0, HUGE)), Invalid, r"t_span\[1\]=1e3010"),
    "bounds": (lambda: wg.Grid((0, HUGE), cells=10), Invalid, r"bounds\[0\]=1e3010"),
    "few cells": (lambda: wg.Grid((0, 1), cells=-HUGE), Invalid, r"cells\[0\]=-1e3010"),
    "tau": (lambda: wg.JKO(HUGE), Invalid, "tau=1e3010"),
    "dimension": (lambda: wg.reduced_models.IsotropicGaussian(d=HUGE, delta=0.4), Resource, "d=1e3010"),
    "end of a problem": (lambda: wg.Grid.for_problem(ENERGY, LAW, t_end=HUGE), Invalid, "t_end=1e3010"),
    "clip": (lambda: wg.Density(GRID, np.ones(50), clip_negative=HUGE), Invalid, "clip_negative=1e3010"),
    "steps that stand still": (lambda: solved(method=wg.FiniteVolume(dt=1e-20)), Stuck, "would not move the time"),
    "tau that stands still": (lambda: solved(method=wg.JKO(1e-300)), Stuck, "would not move the time"),
    "atoms that stand still": (lambda: wg.solve(WELL, ATOMS, (0, 1), method=wg.Lagrangian(dt=1e-300)), Stuck,
                               "would not move the time"),
    "particles that stand still": (lambda: langevin(dt=1e-300), Stuck, "would not move the time"),
    "late steps": (lambda: solved(t_span=(1e16, 1e16 + 8), method=wg.FiniteVolume(dt=0.5)), Stuck,
                   "spacing of floats"),
}


@pytest.mark.parametrize("row", ROWS)
def test_refused_at_once_and_without_memory(row):
    call, error, words = ROWS[row]
    tracemalloc.start()
    with pytest.raises(error, match=words) as caught:
        call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # modules that are imported here, too
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_steps_just_above_the_spacing_are_taken():
    solution = solved(t_span=(0, 1e-15), method=wg.FiniteVolume(dt=2e-16))
    assert solution.t[-1] == 1e-15


def test_limits_of_containers_and_of_the_address_space_count(tmp_path, monkeypatch):
    group = {"memory.max": "3000000\n", "memory.current": "2500000\n", "memory.stat": "anon 1\ninactive_file 400000\n"}
    for name, text in group.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in group]
    assert checks._left(*paths) == [900000]
    (tmp_path / "memory.max").write_text("max\n")
    assert checks._left(*paths) == []
    monkeypatch.setattr(checks, "_left_by_containers", lambda: [100_000_000])
    with pytest.raises(Resource, match=r"0\.0931 GiB are free for this process"):
        LAW.sample(10**7, 1)


@pytest.mark.parametrize(("group", "expected"), [("/\n", [70]), ("/a/b\n", [70, 50, 20])])
def test_the_limits_of_all_groups_around_the_process_are_read(group, expected, monkeypatch):
    root = "/sys/fs/cgroup"
    files = {"/proc/self/cgroup": ["1:name=systemd:/elsewhere\n", f"0::{group}"]}
    for place, limit in (("", 100), ("/a", 80), ("/a/b", 50)):
        files |= {f"{root}{place}/memory.max": [f"{limit}\n"], f"{root}{place}/memory.current": ["30\n"]}
    monkeypatch.setattr(checks, "_lines", lambda path: files.get(path, []))
    assert checks._left_by_containers() == expected


def test_what_is_formed_from_a_list_of_levels_counts(monkeypatch):
    monkeypatch.setattr(checks, "_left_by_containers", lambda: [100_000_000])
    levels = np.full(4_000_000, 0.5)  # 32 MB: the list itself fits
    with pytest.raises(Resource, match="q: 4000000 levels, with the cells they are in"):
        LAW.quantile(levels)
    with pytest.raises(Resource, match="x: 5000000 places"):
        LAW.cdf(np.zeros(5_000_000))


def test_the_limit_of_the_address_space_counts():
    code = ("import resource, wgflow as wg; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
            "print(wg.grids.available_memory() < 3 << 30); "
            "rho = wg.Density.uniform(wg.Grid((0, 1), cells=10))\n"
            "try: rho.sample(10**8, 1)\n"
            "except wg.ResourceError as error: print('refused')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "refused"]


def test_the_largest_count_is_that_of_64_bits():
    assert wg.FiniteVolume(max_steps=2**63 - 1).max_steps == 2**63 - 1
    with pytest.raises(Resource, match="max_steps="):
        wg.FiniteVolume(max_steps=2**63)
