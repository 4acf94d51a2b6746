"""Where the items of a sweep run: processes of this machine that are replaced when they die, or an executor given.

`LocalProcesses` starts its workers by spawn with one thread each: the sweep itself uses all cores, and threads of
libraries inside the workers would only wait for each other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from wgflow.checks import check_count
from wgflow.errors import InvalidInput

__all__ = ["GivenExecutor", "LocalProcesses", "workers_of"]

#: Variables that libraries read when they are imported.
ONE_THREAD = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class LocalProcesses:
    """Spawned processes of this machine. A pool whose worker has died takes no more work: `renew` starts another.

    Parameters
    ----------
    count : int
        Number of processes.
    """

    #: Whether an item can be run with no other beside it, so that a death is certainly its own.
    isolates = True

    def __init__(self, count: int):
        self.count = count
        self.window = count
        self.children: set[int | None] = set()
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Submit a call; all processes start with the first one."""
        if self.pool is not None:
            return self.pool.submit(function, *arguments)
        before = {child.pid for child in multiprocessing.active_children()}
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_start_worker)
        with _one_thread():
            future = self.pool.submit(function, *arguments)
        self.children = {child.pid for child in multiprocessing.active_children()} - before
        return future

    def renew(self) -> None:
        """Give up a broken pool."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None

    def close(self, *, at_once: bool) -> None:
        """End the processes; ``at_once`` also while they compute."""
        if self.pool is None:
            return
        if at_once:
            for child in multiprocessing.active_children():
                if child.pid in self.children:
                    child.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None


class GivenExecutor:
    """An executor of the user's: it gets all items at once and is left open."""

    isolates = False

    def __init__(self, executor: Executor):
        self.executor = executor
        self.window = 2**31
        self.futures: list[Future] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Submit a call; an executor that can take none raises BrokenExecutor or RuntimeError."""
        future = self.executor.submit(function, *arguments)
        self.futures.append(future)
        return future

    def renew(self) -> None:
        """Nothing: whether the executor has new workers is its own affair."""

    def close(self, *, at_once: bool) -> None:
        """Cancel what has not begun."""
        if at_once:
            for future in self.futures:
                future.cancel()


def workers_of(executor: object, n_items: int) -> LocalProcesses | GivenExecutor:
    """Return the workers for the argument ``executor`` of `sweep`."""
    if executor is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return LocalProcesses(min(cores, n_items))
    if isinstance(executor, int):
        return LocalProcesses(min(check_count("executor", executor), n_items))
    if hasattr(executor, "get_executor"):  # a Client of dask.distributed
        # Not pure: a second call with the same arguments must run again.
        executor = executor.get_executor(pure=False)
    if not isinstance(executor, Executor):
        raise InvalidInput(f"executor={executor!r}: need None, a number of processes, a concurrent.futures.Executor or "
                           "a Client of dask.distributed")
    return GivenExecutor(executor)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start within the block see one thread, whatever they import first."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    # Ctrl-C on a terminal reaches every process of its group; the first one alone decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """End this process when its parent has been killed: it would wait for work forever."""
    parent.join()
    os._exit(1)
