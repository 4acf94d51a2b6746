"""Child processes that may be killed, hang, or take too much: each is a copy of this one, with limits of its own."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wgflow.errors import WGFlowError


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes
    ----------
    kind : str
        ``"ok"``, ``"refused"`` (an exception of wgflow), ``"foreign"`` (any other) or ``"dead"`` (a signal, as a hang
        that was ended).
    words : str
        Of the exception, and where it came from.
    value : Any
        What the function returned: JSON.
    seconds : float
        Processor time.
    growth : float
        MiB that the resident set has grown by, at its peak.
    """

    kind: str
    words: str = ""
    value: Any = None
    seconds: float = 0.0
    growth: float = 0.0


def address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def resident() -> int:
    """Return the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def run(function: Callable[[], Any], seconds: int = 30, room: int | None = None) -> Outcome:
    """Return how a function ends in a child that has so many seconds, and ``room`` bytes more than this process."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reader)
        signal.alarm(seconds)
        if room is not None:
            limit = address_space() + room
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _send(writer, _outcome_of(function))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if not data:
        number = os.waitstatus_to_exitcode(status)
        return Outcome("dead", f"ended by signal {-number}" if number < 0 else f"exit status {number}",
                       seconds=float(seconds))
    return Outcome(**json.loads(data))


def _outcome_of(function: Callable[[], Any]) -> dict:
    begin, base = time.process_time(), resident()
    value, words, kind = None, "", "ok"
    try:
        value = function()
    except WGFlowError as error:
        kind, words = "refused", f"{type(error).__name__}: {error}"
    except BaseException as error:
        trace = traceback.extract_tb(error.__traceback__)[-1]
        kind = "foreign"
        words = f"{type(error).__name__}: {str(error)[:120]} at {os.path.basename(trace.filename)}:{trace.lineno}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"kind": kind, "words": words[:400], "value": value, "seconds": time.process_time() - begin,
            "growth": (peak - base) / 2**20}


def _send(writer: int, outcome: dict) -> None:
    with open(writer, "wb") as pipe:
        pipe.write(json.dumps(outcome).encode())


@dataclass
class Started:
    """A child that runs on its own until it ends or is killed."""

    pid: int

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60.0) -> int:
        """Return the exit status, or minus the signal; a child that does not end in time is killed: -9."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        self.kill(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -signal.SIGKILL


def start(function: Callable[[], Any]) -> Started:
    """Start a child; its exit status is 0, that of SystemExit, 130 after Ctrl-C, or 1 after another exception."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Started(pid)
    status = 1
    try:
        # A program in the background of a shell would ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
