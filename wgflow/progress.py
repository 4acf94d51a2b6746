"""Progress of long jobs: a bar on a terminal, lines elsewhere, or a call of the user's function."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from wgflow.errors import ConvergenceError, InvalidType

if TYPE_CHECKING:
    from wgflow.flows import Flow

__all__ = ["Progress", "Reporter", "check_progress", "compilation_told", "duration", "progress_of", "run_progress",
           "say"]

logger = logging.getLogger(__name__)

#: What an argument ``progress`` may be: True, False, or a function of (done, total).
Progress = bool | Callable[[float, float], object]

#: Seconds between two lines, and before the first.
LOG_SECONDS, FIRST_SECONDS = 5.0, 2.0
#: Seconds between two changes of a bar.
BAR_SECONDS = 0.1
#: Whether this process has told that it compiles.
_told: list[bool] = []


def check_progress(value: object) -> Progress:
    """Return an argument ``progress``; raise InvalidType if it is neither True, False nor a function."""
    if isinstance(value, bool):
        return value
    if callable(value) and not isinstance(value, type):
        return value
    raise InvalidType(f"progress={value!r}: need True or False, or a function of (done, total)")


def say(words: str) -> None:
    """Log a line (level INFO), or print it on the error stream where the log would not show it."""
    if logger.isEnabledFor(logging.INFO) and _is_shown(logger):
        logger.info(words)
    else:
        print(words, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a number of seconds in words."""
    if seconds < 100.0:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60.0:.0f} minutes" if seconds < 6000.0 else f"{seconds / 3600.0:.1f} hours"


class Reporter:
    """Progress of one job: ``report(done, total, words)`` is called as often as is convenient.

    As a context it has a bar on a terminal, and says once that functions are compiled.

    Parameters
    ----------
    label : str
        Name of the job.
    progress : bool or callable
        True shows a bar on a terminal, and elsewhere a line every five seconds, the first after two, with an estimate
        of the time that is left. A function is called with (done, total); an exception in it ends the job with a
        ConvergenceError (reason "callback").
    tenths : bool
        Whether each tenth of the job has a line, however fast it passes.
    estimate : bool
        Whether the part that is done says how long the rest takes.
    """

    def __init__(self, label: str, progress: Progress = True, *, tenths: bool = False, estimate: bool = True):
        self.label, self.progress, self.tenths, self.estimate = label, progress, tenths, estimate
        self.bar: Any = None
        self.notes = ExitStack()
        # Pairs of a time and the part that was done, from which the speed is estimated.
        self.began, self.shown = time.monotonic(), 0
        self.last, self.marks = self.began + FIRST_SECONDS - LOG_SECONDS, [(self.began, 0.0)]

    def __enter__(self) -> Reporter:
        if self.progress is True:
            if sys.stderr.isatty():
                self._start_bar()
            self.notes.enter_context(compilation_told(say if self.bar is None else self.bar.console.print))
        return self

    def __exit__(self, *exc: object) -> None:
        self.notes.close()
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: float, total: float, words: str = "") -> None:
        """Tell how much of the whole is done, and in words if a share of it is not the best description."""
        if self.progress is False:
            return
        if self.progress is not True:
            try:
                self.progress(done, total)
            except MemoryError:
                raise
            except Exception as error:
                raise ConvergenceError(f"progress({done:.6g}, {total:.6g}) raised {type(error).__name__}: {error}; it "
                                       "is called with (done, total)", reason="callback") from error
            return
        now, ended = time.monotonic(), done >= total
        if self.bar is not None:
            if now - self.last > BAR_SECONDS or ended:
                self.bar.update(self.task, completed=done, total=total)
                self.last = now
            return
        share = done / total if total > 0 else 1.0
        tenth = int(10 * share + 1e-9)
        if now - self.last > LOG_SECONDS or (self.tenths and tenth > self.shown) or (ended and not self.tenths):
            percent = 10 * tenth if self.tenths and tenth > self.shown else round(100 * share)
            left = self._left(now, share) if self.estimate and not ended else ""
            say(f"{self.label}: {words or f'{percent} %'}{left}")
            self.last, self.shown = now, tenth

    def _left(self, now: float, share: float) -> str:
        """Return the time that is left in words, by the speed over the last half of the time that has passed."""
        if now - self.began < 1.0:
            return ""
        while len(self.marks) > 1 and self.marks[1][0] < 0.5 * (self.began + now):
            self.marks.pop(0)
        then, before = self.marks[0]
        self.marks.append((now, share))
        if share <= before or now <= then:
            return ""
        return f", about {duration((1.0 - share) / (share - before) * (now - then))} left"

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")
        self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(self.label, total=1.0)
        self.bar.start()


@contextmanager
def compilation_told(tell: Callable[[str], object] = logger.info) -> Iterator[None]:
    """Tell within the block, once in each process, that functions are being compiled: the first run waits for that.

    Parameters
    ----------
    tell : callable
        Takes the words; by default the log.
    """
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event):
            if not _told:
                _told.append(True)
                tell("compiling kernels, once: they are kept on disk for later runs")

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Listener()):
        yield


@contextmanager
def progress_of(label: str, progress: Progress = True) -> Iterator[Callable[[float], None]]:
    """Yield ``report(share)``, called with the part in [0, 1] that is done.

    Parameters
    ----------
    label : str
        Name of the job.
    progress : bool or callable
        As in `Reporter`; a function is called with (share, 1).
    """
    with Reporter(label, progress, tenths=True) as report:
        yield lambda share: report(share, 1.0)


@contextmanager
def run_progress(flow: Flow, progress: Progress) -> Iterator[Callable[[float], None] | None]:
    """Yield a function of the time reached by a run, or None where nothing is to be told."""
    if progress is False:
        yield None
        return
    with Reporter("solving", progress) as report:
        yield lambda t: report(t - flow.t0, flow.t1 - flow.t0, f"t = {t:.6g} of {flow.t1:.6g}")


def _is_shown(log: logging.Logger | None) -> bool:
    """Return whether anything but a NullHandler listens to a logger."""
    while log is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in log.handlers):
            return True
        log = log.parent if log.propagate else None
    return False
