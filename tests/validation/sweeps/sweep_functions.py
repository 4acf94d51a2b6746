"""Functions that the tests sweep: other processes import them from this file by its folder on their path."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def draw(a, b, rng):
    """Random numbers whose bits tell the stream."""
    return {"sum": a * rng.normal() + b, "draws": rng.normal(size=3)}


def slow_draw(a, log, rng):
    """As `draw`, in a while, with a line in a log for each call."""
    with Path(log).open("a") as file:
        file.write(f"{a}\n")
    time.sleep(0.15)
    return {"draws": a + rng.normal(size=4)}


def dies_once(a, folder, rng):
    """Item 2 kills its worker in the first call."""
    mark = Path(folder) / "died"
    if a == 2 and not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"draw": a + rng.normal()}


def always_dies(a):
    """Item 2 kills its worker whenever it runs."""
    if a == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {"double": 2 * a}


def threads(a):
    """What a worker sees of the number of threads."""
    import numba

    return {"numba": numba.config.NUMBA_NUM_THREADS, "blas": int(os.environ["OPENBLAS_NUM_THREADS"])}
