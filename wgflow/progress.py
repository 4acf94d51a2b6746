"""Progress of long jobs: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_of"]

logger = logging.getLogger(__name__)


@contextmanager
def progress_of(label: str) -> Iterator[Callable[[float], None]]:
    """Yield ``report(share)``, called with the part in [0, 1] that is done.

    Parameters
    ----------
    label : str
        What is being done.
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
