"""Progress of long jobs: a bar on a terminal, lines elsewhere, or a call of the user's function."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from wgflow.errors import ConvergenceError, InvalidType

if TYPE_CHECKING:
    from wgflow.flows import Flow

__all__ = ["Progress", "Reporter", "announce", "check_progress", "compilation_told", "duration", "progress_of", "pulse",
           "run_progress", "say"]

logger = logging.getLogger(__name__)

#: What an argument ``progress`` may be: True, False, or a function of (done, total).
Progress = bool | Callable[[float, float], object]

#: Seconds between two lines, and before the first.
LOG_SECONDS, FIRST_SECONDS = 5.0, 2.0
#: The first steps, which are short or wait for compilers, do not tell how long a job takes: the time that is left is
#: told when this share of it is done, or after so many seconds.
LEAST_SHARE, LONG_SECONDS = 0.01, 60.0
#: Seconds between two changes of a bar.
BAR_SECONDS = 0.1
#: Seconds between two calls of a function inside one step of a job.
PULSE_SECONDS = 0.5
#: Whether this process has told that it compiles.
_told: list[bool] = []
#: Who tells of the job that is at work.
_at_work: ContextVar[Reporter | None] = ContextVar("at_work", default=None)


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


def pulse(words: str = "") -> None:
    """Tell that a job goes on inside one of its steps; nothing where its progress is not followed.

    To be called in every loop that may take seconds: each call looks at the clock, and few are shown.

    Parameters
    ----------
    words : str
        What is known of the step, such as a residual; kept until there are others, or the next step.
    """
    reporter = _at_work.get()
    if reporter is not None:
        reporter.inside(words)


def announce(words: str) -> None:
    """Say at once what will take a while: where the progress of a job is shown, else in the log."""
    reporter = _at_work.get()
    if reporter is not None and reporter.progress is True:
        reporter.say(words)
    else:
        logger.info(words)


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
        of the time that is left. A function is called with (done, total), and inside a long step twice a second with
        the same numbers again; an exception in it ends the job with a ConvergenceError (reason "callback").
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
        # What was told last: numbers, words, and words of what goes on inside a step.
        self.latest = (0.0, 1.0)
        self.words = self.within = ""
        self.called = self.began

    def __enter__(self) -> Reporter:
        if self.progress is not False:
            before = _at_work.set(self)
            self.notes.callback(_at_work.reset, before)
        if self.progress is True:
            if sys.stderr.isatty():
                self._start_bar()
            self.notes.enter_context(compilation_told(self.say))
        return self

    def __exit__(self, *exc: object) -> None:
        self.notes.close()
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: float, total: float, words: str = "") -> None:
        """Tell how much of the whole is done, and in words if a share of it is not the best description."""
        if self.progress is False:
            return
        self.latest, self.words, self.within = (done, total), words, ""
        if self.progress is not True:
            self._call(done, total)
            return
        now, ended = time.monotonic(), done >= total
        if self.bar is not None:
            if now - self.last > BAR_SECONDS or ended:
                self.bar.update(self.task, completed=done, total=total, description=self.label)
                self.last = now
            return
        share = done / total if total > 0 else 1.0
        tenth = int(10 * share + 1e-9)
        if now - self.last > LOG_SECONDS or (self.tenths and tenth > self.shown) or (ended and not self.tenths):
            percent = 10 * tenth if self.tenths and tenth > self.shown else round(100 * share)
            left = self._left(now, share) if self.estimate and not ended else ""
            say(f"{self.label}: {words or f'{percent} %'}{left}")
            self.last, self.shown = now, tenth

    def inside(self, words: str = "") -> None:
        """Tell that the step of the job that is being taken goes on; see `pulse`."""
        self.within, now = words or self.within, time.monotonic()
        if self.progress is not True:
            if now - self.called > PULSE_SECONDS:
                self._call(*self.latest)
        elif self.bar is not None:
            if now - self.last > BAR_SECONDS:
                shown = f"{self.label} ({self.within})" if self.within else self.label
                self.bar.update(self.task, description=shown)
                self.last = now
        elif now - self.last > LOG_SECONDS:
            done = self.words or (f"{100 * self.latest[0] / self.latest[1]:.0f} %" if self.estimate else "")
            say(f"{self.label}: {', '.join(part for part in (done, self.within or 'at work') if part)}")
            self.last = now

    def say(self, words: str) -> None:
        """Say something else, above a bar."""
        if self.bar is None:
            say(words)
        else:
            self.bar.console.print(words)
        self.last = time.monotonic() + FIRST_SECONDS - LOG_SECONDS

    def _call(self, done: float, total: float) -> None:
        self.called = time.monotonic()
        try:
            cast(Callable[[float, float], object], self.progress)(done, total)
        except MemoryError:
            raise
        except Exception as error:
            raise ConvergenceError(f"progress({done:.6g}, {total:.6g}) raised {type(error).__name__}: {error}; it "
                                   "is called with (done, total)", reason="callback") from error

    def _left(self, now: float, share: float) -> str:
        """Return the time that is left in words, by the speed over the last half of the time that has passed."""
        if now - self.began < 1.0 or (share < LEAST_SHARE and now - self.began < LONG_SECONDS):
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
            function = event.data.get("dispatcher")
            if getattr(function, "__module__", "").startswith("wgflow"):
                pulse(f"compiling {function.__name__}")

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
        if flow.t1 > flow.t0:
            report.latest, report.words = (0.0, flow.t1 - flow.t0), f"t = {flow.t0:.6g} of {flow.t1:.6g}"
        yield lambda t: report(t - flow.t0, flow.t1 - flow.t0, f"t = {t:.6g} of {flow.t1:.6g}")


def _is_shown(log: logging.Logger | None) -> bool:
    """Return whether anything but a NullHandler listens to a logger."""
    while log is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in log.handlers):
            return True
        log = log.parent if log.propagate else None
    return False
