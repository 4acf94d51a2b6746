"""Threads, processes and settings of the interpreter: the same bits everywhere, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from multiprocessing import get_context
from pathlib import Path

from figures import Figure, Scale, counted
from runs import RUNS, digest, digests

THREADS = 8
#: Seconds until something that does not end counts as a hang.
PATIENCE = 120


def _solved(k: int) -> tuple[str, str]:
    run = RUNS[k % len(RUNS)]
    return run.name, digest(run.solve())


def _gather(futures: list[Future], expected: dict[str, str], told: str) -> list[str]:
    wrong = []
    for future in futures:
        try:
            name, found = future.result(PATIENCE)
        except TooLong:
            return [*wrong, f"{told}: a hang"]
        except Exception as error:
            wrong.append(f"{told}: {type(error).__name__}: {error}")
            continue
        if found != expected[name]:
            wrong.append(f"{told}: {name} has other bits")
    return wrong


def _processes(start: str, count: int, workers: int, expected: dict[str, str]) -> list[str]:
    pool = ProcessPoolExecutor(workers, mp_context=get_context(start))
    wrong = _gather([pool.submit(_solved, k) for k in range(count)], expected, start)
    if any("hang" in one for one in wrong):
        for process in list(pool._processes.values()):
            process.kill()
    pool.shutdown(wait=not wrong, cancel_futures=True)
    return wrong


def _forked_under_threads(count: int, expected: dict[str, str]) -> list[str]:
    """Fork pools while threads of this process solve."""
    wrong = []
    with ThreadPoolExecutor(2) as threads:
        for _ in range(count):
            busy = [threads.submit(_solved, k) for k in range(4)]
            wrong += _processes("fork", 2, 2, expected)
            wrong += _gather(busy, expected, "threads beside a fork")
    return wrong


def _interpreters(scale: Scale, expected: dict[str, str]) -> tuple[int, list[str]]:
    """Run fresh interpreters under other settings."""
    code = ("import sys, json; sys.path.insert(0, sys.argv[1])\n"
            "import runs; print(json.dumps(sorted(runs.digests().items())))")
    cases = [([], {"PYTHONHASHSEED": "7", "NUMBA_NUM_THREADS": "1"}), (["-O"], {"TZ": "Asia/Kolkata"}),
             (["-X", "dev"], {"PYTHONHASHSEED": "0"}), (["-OO", "-I"], {}), ([], {"OMP_NUM_THREADS": "1"}),
             (["-W", "error::RuntimeWarning"], {"LC_ALL": "C", "PYTHONMALLOC": "debug"})]
    cases, wrong = cases[:scale.pick(1, 6, 6)], []
    for flags, settings in cases:
        done = subprocess.run([sys.executable, *flags, "-c", code, str(Path(__file__).parent)], capture_output=True,
                              text=True, timeout=600, env={**os.environ, **settings})
        told = " ".join([*flags, *(f"{k}={v}" for k, v in settings.items())])
        if done.returncode:
            wrong.append(f"{told}: {done.stderr.strip()[-200:]}")
        elif done.stdout.strip() != str(sorted(map(list, expected.items()))).replace("'", '"'):
            wrong.append(f"{told}: other bits")
    return len(cases), wrong


def pools(scale: Scale) -> list[Figure]:
    """Concurrent solves by threads, by forked and by spawned processes, and in fresh interpreters."""
    expected = digests()
    solves = THREADS * scale.pick(4, 100, 1000)
    with ThreadPoolExecutor(THREADS) as threads:
        wrong = _gather([threads.submit(_solved, k) for k in range(solves)], expected, "threads")
    found = [counted("F17", "pools", f"solves by {THREADS} threads at once that differ or hang", solves, wrong)]
    for start, count in (("fork", scale.pick(2, 20, 100)), ("spawn", scale.pick(0, 4, 100))):
        wrong = [one for _ in range(count) for one in _processes(start, len(RUNS), 2, expected)]
        if count:
            what = f"solves in {start} pools that differ or hang"
            found.append(counted("F17", "pools", what, count * len(RUNS), wrong))
    count = scale.pick(2, 20, 100)
    found.append(counted("F17", "pools", "forks under running threads that differ or hang", count,
                         _forked_under_threads(count, expected)))
    count, wrong = _interpreters(scale, expected)
    return [*found, counted("F11", "pools", "fresh interpreters (flags, hash seeds) with other bits", count, wrong)]
