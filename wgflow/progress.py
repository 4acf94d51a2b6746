"""Progress of long jobs: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from wgflow.flows import Flow

__all__ = ["compilation_told", "progress_of", "run_progress"]

logger = logging.getLogger(__name__)

#: Seconds between two progress lines in a log.
LOG_SECONDS = 5.0
#: Whether this process has told that it compiles.
_told: list[bool] = []


@contextmanager
def compilation_told(tell: Callable[[str], None] = logger.info) -> Iterator[None]:
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
def progress_of(label: str) -> Iterator[Callable[[float], None]]:
    """Yield ``report(share)``, called with the part in [0, 1] that is done.

    Parameters
    ----------
    label : str
        Name of the job.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %")
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=1.0)
            yield lambda share: bar.update(task, completed=share)
        return
    shown = [0]

    def report(share: float) -> None:
        tenth = int(10 * share)
        if tenth > shown[0]:
            shown[0] = tenth
            logger.info("%s: %d %%", label, 10 * tenth)

    yield report


class run_progress:
    """Progress of a run: nothing, a bar on a terminal, or log lines."""

    def __init__(self, flow: Flow, progress: bool):
        self.flow, self.progress = flow, progress
        self.bar: Progress | None = None
        self.notes = ExitStack()

    def __enter__(self):
        if not self.progress:
            return None
        self.last = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("solving", total=self.flow.t1 - self.flow.t0)
            self.bar.start()
        self.notes.enter_context(compilation_told(logger.info if self.bar is None else self.bar.console.print))
        return self.tell

    def tell(self, t: float) -> None:
        now = time.monotonic()
        if self.bar is not None:
            if now - self.last > 0.1 or t >= self.flow.t1:
                self.bar.update(self.task, completed=t - self.flow.t0)
                self.last = now
        elif now - self.last > LOG_SECONDS or t >= self.flow.t1:
            logger.info("solving: t = %.6g of %.6g", t, self.flow.t1)
            self.last = now

    def __exit__(self, *exc):
        self.notes.close()
        if self.bar is not None:
            self.bar.stop()
        return False
