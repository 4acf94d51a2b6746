r"""The verb ``sweep``: independent calls of one function, whose values depend on no schedule.

Item i of a sweep with seed s draws from the stream ``SeedSequence(s).spawn(n)[i]`` and from no other, so that its
values are the same whichever worker runs it, whenever, and however often the sweep was interrupted before.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.calls.explained import explained
from wgflow.checks import check_count, check_flag
from wgflow.errors import InvalidInput, StorageError, WGFlowError
from wgflow.files.archives import sweep_stale, target_of
from wgflow.progress import Progress, Reporter, check_progress

from .items import Item, Outcome, identity_of, item_file, items_of, read_item, run_item, write_item
from .result import SweepResult
from .workers import GivenExecutor, LocalProcesses, workers_of

__all__ = ["sweep"]

logger = logging.getLogger(__name__)


@explained('sweep(function, {"beta": [1.0, 2.0], "kappa": [0.4, 0.8]})')
def sweep(
    function: Callable[..., Any],
    parameters: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    *,
    rng: int | np.random.SeedSequence | np.random.Generator | None = None,
    folder: str | Path | None = None,
    executor: Executor | int | Any = None,
    retries: int = 2,
    progress: Progress = False,
    throw: bool = True,
) -> SweepResult:
    r"""Call a function at all combinations of parameters, in parallel, and keep what is done.

    .. math:: y_i = f(p_i, \omega_i), \qquad i = 1, \dots, n,

    with independent random streams omega_i that depend on the seed and on i alone. Items may run in any order, on any
    worker and again after a failure: the values have the same bits.

    Parameters
    ----------
    function : callable
        ``function(**parameters)`` or, with a seed, ``function(**parameters, rng=generator)``; returns a dictionary of
        real numbers or arrays, or a Solution (its last time and energy, and its certificate's numbers are kept). For
        processes it is defined at the top of a module; a script that starts a sweep does so under
        ``if __name__ == "__main__":``.
    parameters : dict of str to sequence, or sequence of dict
        Lists whose combinations are swept, or single points. Values are numbers, strings, booleans, None or tuples.
    rng : int, SeedSequence, Generator or None
        Seed of all streams; None if the function draws no random numbers, and then it gets none.
    folder : path, optional
        Each item's values are written there as soon as they come, atomically, one file an item; made if missing. Items
        whose file is there are read and not computed, and damaged files are computed again, with a warning in the log.
        A file is found by a hash of the function's source text, the parameters, the seed and wgflow's version: after a
        change in what the function calls, take another folder.
    executor : Executor, Client or int, optional
        Any ``concurrent.futures.Executor`` or a ``Client`` of dask.distributed (the extra ``cluster``), left open
        afterwards; or a number of spawned processes with one thread each, by default one for each core.
    retries : int
        How often an item is tried again whose worker died. An exception in the function is not tried again: the same
        parameters and random numbers would raise it once more.
    progress : bool or callable
        One bar, or a line now and then, for the whole sweep; a function is called with the items done and all of them.
    throw : bool
        Raise if an item failed, after all others are done; else the result names it in ``errors``.

    Returns
    -------
    SweepResult

    Raises
    ------
    InvalidInput
        For parameters, functions or executors that cannot be used.
    StorageError
        If the folder or a file in it cannot be written.
    WGFlowError
        If items failed and ``throw``; ``.partial`` is the result.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from wgflow.validation.sweeps import sweep
    >>> def area(a, b):
    ...     return {"area": a * b}
    >>> with ThreadPoolExecutor(2) as pool:
    ...     print(sweep(area, {"a": [1, 2], "b": [3, 4]}, executor=pool).values["area"].tolist())
    [[3, 4], [6, 8]]
    """
    if not callable(function):
        raise InvalidInput(f"function={function!r} must be callable")
    retries = check_count("retries", retries, 0)
    throw, progress = check_flag("throw", throw), check_progress(progress)
    axes, items = items_of(parameters, rng)
    kept = _Kept(function, items, folder)
    outcomes: list[dict[str, np.ndarray] | None] = [kept.read(item) for item in items]
    todo = [item for item, outcome in zip(items, outcomes) if outcome is None]
    workers = workers_of(executor, max(1, len(todo)))
    if isinstance(workers, LocalProcesses) and todo:
        _check_importable(function)
    errors: dict[int, str] = {}
    with Reporter("sweep", progress, tenths=True) as report:
        for item, outcome in _run(function, todo, workers, retries):
            if outcome.values is None:
                errors[item.index] = outcome.error
            else:
                kept.write(item, outcome.values)
                outcomes[item.index] = outcome.values
            done = sum(values is not None for values in outcomes) + len(errors)
            report(done, len(items))
    result = SweepResult(axes, [item.parameters for item in items], outcomes, dict(sorted(errors.items())), len(todo))
    if errors and throw:
        first = min(errors)
        error = WGFlowError(f"{len(errors)} of {len(items)} items failed; the first is {items[first].parameters}: "
                            f"{errors[first]}; .partial has the others")
        error.partial = result  # type: ignore[attr-defined]
        raise error
    return result


def _check_importable(function: Any) -> None:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", "")
    if "<" in name:
        raise InvalidInput(f"function={name} is not at the top of a module, where other processes could import it; "
                           "move it there, or give an executor of threads")


class _Kept:
    """The folder of a sweep's files, or none."""

    def __init__(self, function: Callable[..., Any], items: list[Item], folder: str | Path | None):
        self.paths: list[Path] = []
        if folder is None:
            return
        self.identities = [identity_of(function, item) for item in items]
        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use the folder {place}: {error}") from error
        self.paths = [item_file(place, identity) for identity in self.identities]
        for path in self.paths:
            target_of(path)
            sweep_stale(path)

    def read(self, item: Item) -> dict[str, np.ndarray] | None:
        return read_item(self.paths[item.index], self.identities[item.index]) if self.paths else None

    def write(self, item: Item, values: dict[str, np.ndarray]) -> None:
        if self.paths:
            write_item(self.paths[item.index], item, self.identities[item.index], values)


class _Running:
    """The items of a sweep that wait, those that run, and those that ran when a worker died.

    The death of a process breaks its pool and with it every call in flight, whoever was the cause. These items are
    tried again one at a time: what dies alone is itself the cause, and nobody else is charged with it.
    """

    def __init__(self, function: Callable[..., Any], items: list[Item], workers: LocalProcesses | GivenExecutor,
                 retries: int):
        self.function, self.workers, self.retries = function, workers, retries
        self.waiting = deque(items)
        self.suspects: deque[Item] = deque()
        self.flying: dict[Future, Item] = {}
        self.deaths: dict[int, int] = {}

    def submit(self) -> None:
        """Submit what may run now."""
        alone = self.workers.isolates and bool(self.suspects)
        room = 1 if alone else self.workers.window
        while len(self.flying) < room and (self.suspects or self.waiting):
            queue = self.suspects or self.waiting
            item = queue[0]
            self.flying[self.workers.submit(run_item, self.function, item)] = item
            queue.popleft()
            if alone:
                return

    def collect(self) -> list[tuple[Item, Outcome]]:
        """Wait for calls that end; return those that are finished for good."""
        ended: list[tuple[Item, Outcome]] = []
        died: list[tuple[Item, BaseException]] = []
        alone = len(self.flying) == 1
        done = wait(self.flying, return_when=FIRST_COMPLETED).done
        broken = self.workers.isolates and any(isinstance(_error(f), BrokenExecutor) for f in done)
        for future in list(self.flying) if broken else list(done):
            # Of a broken pool the results that had come are kept.
            item, error = self.flying.pop(future), _error(future)
            if error is None:
                ended.append((item, future.result()))
            else:
                died.append((item, error))
        if broken:
            self.workers.renew()
        for item, error in sorted(died, key=lambda pair: pair[0].index):
            count = self.deaths[item.index] = self.deaths.get(item.index, 0) + 1
            if count > self.retries and (alone or not broken):
                words = f"its worker died {count} times ({type(error).__name__}: {error})"
                ended.append((item, Outcome(None, words)))
                continue
            logger.warning("a worker died at %s (%s); trying again", item.parameters, type(error).__name__)
            self.suspects.append(item)
        return ended


def _error(future: Future) -> BaseException | None:
    """Return what went wrong around a call: exceptions inside the function are results."""
    try:
        return future.exception()
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return error


def _run(function: Callable[..., Any], items: list[Item], workers: LocalProcesses | GivenExecutor, retries: int):
    """Yield each item with its outcome, as they come."""
    running = _Running(function, items, workers, retries)
    finished, idle = False, 0
    try:
        while running.waiting or running.suspects or running.flying:
            try:
                running.submit()
            except (BrokenExecutor, RuntimeError) as error:
                if not running.flying and workers.isolates and idle < retries:
                    # A process died between two items.
                    idle += 1
                    workers.renew()
                    continue
                if not running.flying:
                    left = len(running.waiting) + len(running.suspects)
                    raise WGFlowError(f"the executor takes no more work ({type(error).__name__}: {error}); {left} items"
                                      " are left: call sweep again with a new executor, and with the same folder it "
                                      "computes only these") from error
            yield from running.collect()
        finished = True
    finally:
        workers.close(at_once=not finished)
