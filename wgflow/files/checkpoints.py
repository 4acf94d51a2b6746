"""Checkpoints: the state of a run on disk, from which it can be resumed with the same bits.

A checkpoint holds all that determines the rest of a run: the state of the method, its step-size control, the record so
far and the problem. Functions are not stored: the energy is given again, and compared by its values on the grid and its
response to a fixed density.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.audit.step_record import KINDS, StepRecord
from wgflow.certificate import library_versions
from wgflow.checks import call_user
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import StorageError, WGFlowWarning
from wgflow.jko_steps import pack_steps, unpack_steps
from wgflow.solution import History

from .agreement import check_laws
from .archives import open_regular, peek, read_npz, replacing, sweep_stale, target_of, write_npz
from .grids import pack_axes
from .locks import FileLock
from .streams import SnapshotStream

if TYPE_CHECKING:
    from wgflow.flows import Flow
    from wgflow.recorder import Recorder
    from wgflow.solvers.base import Method

__all__ = ["Checkpoint", "end_of_run", "probe_masses", "sample_clock", "unpack_run"]

KIND = "checkpoint"
#: Times at which a time_scale function is sampled, as parts of the time span.
SAMPLES = (np.arange(32) + 0.5) / 32
#: Exit status of a process ended by SIGTERM.
TERMINATED = 128 + 15


class Checkpoint:
    """The latest state of a run, kept in a file: a context around the run.

    The method hands over its state by `mark` whenever it could continue from it. It is written every `INTERVAL` seconds
    (less often if writing takes long), and when the run ends, normally or by an exception, Ctrl-C or SIGTERM (after
    which the process exits with status 143, unless another handler for that signal is set). If the file cannot be
    written later on, a WGFlowWarning says so and the run continues. During the run no other run can use the same file.

    Parameters
    ----------
    path : path
    flow : Flow
    method : Method
    recorder : Recorder
    resumed : bool
        Whether the run comes from a checkpoint, which it may replace without a warning.
    """

    #: Seconds between two writes,
    INTERVAL = 5.0
    #: but at least this many times the duration of a write.
    PATIENCE = 20.0

    def __init__(self, path, flow: Flow, method: Method, recorder: Recorder, resumed: bool = False):
        # An absolute path: the working folder may change during a long run.
        self.path = os.path.abspath(target_of(path))
        self.lock = FileLock(self.path)
        self.method, self.recorder, self.resumed = method, recorder, resumed
        self.latest: tuple[dict, dict] | None = None
        self.written: object = None
        self.due = time.monotonic() + self.INTERVAL
        self.closing = self.terminated = self.interrupted = self.catches = False
        self.hook: Any = None
        self.header, self.arrays = _describe(flow, method)

    def __enter__(self):
        with replacing(self.path, trial=True):
            pass
        self.lock.acquire()
        try:
            sweep_stale(self.path)
            _check_overwriting(self.path, self.resumed)
        except BaseException:
            self.lock.release()
            raise
        if threading.current_thread() is threading.main_thread():
            self.hook, sys.unraisablehook = sys.unraisablehook, self._heed
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._terminate)
                self.catches = True
        return self

    def __exit__(self, kind, error, trace):
        self.closing = True
        try:
            self.write()
            if self.latest is None and error is None:
                warnings.warn(f"{type(self.method).__name__} does not keep checkpoints; {self.path} was not written",
                              WGFlowWarning, stacklevel=4)
        finally:
            self.lock.release()
            if self.catches:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self.hook is not None:
                sys.unraisablehook = self.hook
        self._raise_again()

    def mark(self, state: dict) -> None:
        """Take a state from which the method can continue: numbers, None, tables of numbers, arrays left unchanged."""
        self.latest = self.recorder.dump(), state
        self._raise_again()
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write the latest state to disk, unless it has been written."""
        if self.latest is None or self.latest is self.written:
            return
        begin, latest = time.monotonic(), self.latest
        try:
            write_npz(self.path, KIND, *_pack(latest, self.header, self.arrays))
            self.written = latest
        except StorageError as error:
            warnings.warn(f"the checkpoint was not written, the run continues: {error}", WGFlowWarning, stacklevel=4)
        self.due = time.monotonic() + max(self.INTERVAL, self.PATIENCE * (time.monotonic() - begin))

    def _terminate(self, number, frame):
        # Python drops what is raised while it deletes an object; the next mark, or the end, then raises it once more.
        self.terminated = True
        if not self.closing:
            raise SystemExit(TERMINATED)

    def _heed(self, dropped) -> None:
        # Python hands here what it drops; Ctrl-C among it is raised once more, like SIGTERM.
        self.interrupted |= issubclass(dropped.exc_type, KeyboardInterrupt)
        self.hook(dropped)

    def _raise_again(self) -> None:
        if self.terminated:
            raise SystemExit(TERMINATED)
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt


# -------------------------------------------------------------------- the content of a checkpoint
def _describe(flow: Flow, method) -> tuple[dict, dict]:
    """Return the part of a checkpoint that stays the same during a run."""
    grid, on_grid = flow.grid, flow.on_grid
    header = {
        "flow": {"t0": flow.t0, "t1": flow.t1, "time_scale": None if callable(flow.time_scale) else flow.time_scale,
                 "axes": pack_axes(grid),
                 "diffusion": on_grid.diffusion, "energy": repr(flow.energy), "sample_size": flow.density.sample_size},
        "method": method.settings(), "versions": library_versions(),
    }
    arrays = {f"edges_{k}": edges for k, edges in enumerate(grid.edges)}
    arrays |= {"rho0": flow.density.values,
               "t_eval": np.array(flow.t_eval, dtype=float), "potential": on_grid.potential}
    if flow.density.nodal is not None:
        arrays["rho0_center_values"] = flow.density.nodal.values
    if grid.log_weight is not None:
        arrays["log_weight"] = grid.log_weight
    probe = probe_masses(grid)
    response = on_grid.interaction(probe)
    if response is not None:
        arrays["response"] = response
    header["flow"]["internal"] = nonlinear_energies(on_grid, probe)
    if flow.mobility is not None:
        header["flow"]["mobility"] = flow.mobility.numbers
        arrays["mobility"] = flow.mobility.values_on(grid)
    if callable(flow.time_scale):
        arrays["time_scales"] = sample_clock(flow.time_scale, flow.t0, flow.t1)
    return header, arrays


def probe_masses(grid) -> np.ndarray:
    """Return masses that look random, from integers alone: the same forever, on any machine."""
    scrambled = (np.arange(1, grid.size + 1, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    return ((0.5 + scrambled / 2.0**32) / grid.size).reshape(grid.shape)


def sample_clock(time_scale, t0: float, t1: float) -> np.ndarray:
    times = [t0 + float(part) * (t1 - t0) for part in SAMPLES]
    return np.array([call_user(time_scale, (t,), "time_scale") for t in times], dtype=float)


def nonlinear_energies(energy: EnergyOnGrid, masses: np.ndarray) -> list[float]:
    """Return the value of each internal energy beside the entropy, and of each functional, at some masses."""
    return [*(factor * term.energy_of(masses, energy.grid) for factor, term in energy.internal),
            *(factor * term.energy(masses) for factor, term in energy.functionals)]


def _pack(latest: tuple[dict, dict], header: dict, arrays: dict) -> tuple[dict, dict]:
    recorded, state = latest
    count = recorded["n_snapshots"]
    arrays = dict(arrays)
    arrays |= {f"column_{name}": column for name, column in StepRecord.to_arrays(recorded).items()}
    kept = recorded["snapshots"]
    if isinstance(kept, SnapshotStream):
        kept.sync()
        header = header | {"streamed": True}
        arrays |= {"snapshot_t": np.array(kept.times[:count]), "snapshot_energy": np.array(kept.energies[:count]),
                   "stream_sums": np.array(kept.sums[:count], dtype=np.int64)}
    else:
        snapshots = kept[:count]
        arrays["snapshot_t"] = np.array([s[0] for s in snapshots], dtype=float)
        arrays["snapshot_energy"] = np.array([s[2] for s in snapshots], dtype=float)
        if snapshots:
            arrays["snapshot_masses"] = [s[1] for s in snapshots]
    arrays |= {f"state_{name}": value for name, value in state.items() if isinstance(value, np.ndarray)}
    audit = recorded["audit"]
    arrays["audit_samples"] = audit["rows_of"]()
    header = header | {"audit": {name: value for name, value in audit.items() if name != "rows_of"}}
    steps, step_arrays = pack_steps(recorded["jko_steps"][:recorded["n_jko_steps"]])
    header = header | {
        "state": {name: value for name, value in state.items() if not isinstance(value, np.ndarray)},
        "recorder": {name: value for name, value in recorded.items()
                     if name not in ("columns", "latest", "snapshots", "jko_steps", "audit")} | {
                         "rows": arrays["column_t"].size},
        "jko_steps": steps,
    }
    return header, arrays | step_arrays


def unpack_run(header: dict, arrays: dict) -> tuple[dict, dict]:
    """Return the record and the state from which a recorder and a method continue.

    Raises
    ------
    ValueError, LookupError, TypeError, AttributeError
        If they are not what a run has written.
    """
    from .schema import Audit, Record, Told, check_table

    check_table(header["flow"], Told, "flow")
    check_table(header["recorder"], Record, "recorder")
    if "audit" in header:
        check_table(header["audit"], Audit, "audit")
    check_laws(arrays)
    state = dict(header["state"])
    # Copies: arrays from a file are read-only, and functions are compiled for writable arrays alone.
    state |= {name[6:]: array.copy() for name, array in arrays.items() if name.startswith("state_")}
    times, energies = arrays["snapshot_t"].tolist(), arrays["snapshot_energy"].tolist()
    masses: list = [m.copy() for m in arrays.get("snapshot_masses", ())]
    if header.get("streamed"):
        # They are in a file of their own.
        masses = [None] * len(times)
    columns = {name: _column(name, arrays[f"column_{name}"]) for name in History.NAMES}
    lengths = {len(column) for column in columns.values()}
    if not len(times) == len(energies) == len(masses) or lengths != {header["recorder"]["rows"]}:
        raise ValueError("its columns have different lengths")
    sums = arrays.get("stream_sums")
    if sums is not None and (sums.dtype != np.int64 or sums.shape != (len(times),)):
        raise ValueError(f"{len(times)} snapshots, but checksums of shape {sums.shape}")
    # Files of former versions have none.
    audit = header["audit"] | {"samples": arrays["audit_samples"]} if "audit" in header else None
    record = {"columns": columns, "audit": audit, "streamed": bool(header.get("streamed")),
              "stream_sums": sums, "snapshots": list(zip(times, masses, energies)),
              "jko_steps": unpack_steps(header["jko_steps"], arrays)}
    return {"of_steps": None, **header["recorder"], **record}, state


def end_of_run(path: str | os.PathLike[str]) -> float:
    """Return the end of the time span of the run in a checkpoint.

    Raises
    ------
    StorageError
        If the file is not a whole checkpoint.
    """
    from .schema import Told, check_table

    header, _ = read_npz(path, KIND)
    try:
        check_table(header.get("flow"), Told, "flow")
    except ValueError as error:
        raise StorageError(f"{path} is not a checkpoint that can be used: {error}") from error
    return float(header["flow"]["t1"])


def _column(name: str, values: np.ndarray) -> array:
    """Return a column of the record of steps as it grows in a run."""
    if values.ndim != 1:
        raise ValueError(f"its column {name} has shape {values.shape}")
    found = array(KINDS.get(name, "d"))
    found.frombytes(values.astype(found.typecode).tobytes())
    return found


def _check_overwriting(path, resumed: bool) -> None:
    """Refuse to replace a file that is not a checkpoint, and warn if an unfinished run would be lost."""
    if not os.path.exists(path):
        return
    with open_regular(path) as file:
        head = file.read(64)
    if head and b"wgflow_checkpoint" not in head:
        raise StorageError(f"checkpoint={path!r} exists and is not a checkpoint; give another name, or remove it")
    found = None if resumed else peek(path, KIND)
    if found is None:
        return
    try:
        t, t1 = found["state"]["t"], found["flow"]["t1"]
        unfinished = t < t1
    except (KeyError, TypeError):
        return
    if unfinished:
        warnings.warn(f"checkpoint={path!r} holds a run that stopped at t={t:g} of {t1:g}, and will be replaced; to "
                      "continue that run use wgflow.resume", WGFlowWarning, stacklevel=4)
