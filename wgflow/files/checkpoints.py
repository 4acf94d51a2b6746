"""Checkpoints: a run on disk while it goes on, and how it is taken up again with the same bits.

A checkpoint holds all that determines the rest of a run: the state of the method, its step-size control, what has been
recorded so far and the problem. Functions are not stored: the energy is given again and compared with its values on the
grid and its answer to a fixed density.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import warnings

import numpy as np

from wgflow.certificate import library_versions
from wgflow.checks import call_user
from wgflow.densities import Density
from wgflow.errors import InvalidInput, StorageError, WGFlowWarning
from wgflow.flows import Flow, make_flow, run
from wgflow.grids import Grid
from wgflow.jko_steps import pack_steps, unpack_steps
from wgflow.solution import History, Solution

from .archives import open_regular, peek, read_npz, replacing, sweep_stale, target_of, write_npz
from .locks import FileLock
from .solutions import unpack_grid

__all__ = ["Checkpoint", "resume"]

KIND = "checkpoint"
#: Relative difference of an energy's values that passes as another machine's rounding.
ROUNDING = 1e-10
#: Times at which a time_scale function is sampled, as parts of the time span.
SAMPLES = (np.arange(32) + 0.5) / 32
#: Exit status of a process ended by SIGTERM.
TERMINATED = 128 + 15


class Checkpoint:
    """Keeps the latest state of a run in a file, as a context around the run.

    The method hands over its state by `mark` whenever it could go on from there. It is written every `INTERVAL` seconds
    (less often where writing takes long), and when the run ends, in whatever way: by its end, an exception, Ctrl-C or
    SIGTERM (after which the process exits with status 143, if nobody else handles that signal). A file that cannot be
    written later on gives a WGFlowWarning and the run continues. While the run lives, no other run takes the same file.

    Parameters
    ----------
    path : path
    flow : Flow
    method : Method
    recorder : Recorder
    resumed : bool
        Whether the run comes from a checkpoint, which it may replace without a warning.
    """

    #: Seconds between two writes, and how many times longer than a write they are at least.
    INTERVAL, PATIENCE = 5.0, 20.0

    def __init__(self, path, flow: Flow, method, recorder, resumed: bool = False):
        # An absolute path: the working folder may change during a long run.
        self.path = os.path.abspath(target_of(path))
        self.lock = FileLock(self.path)
        self.method, self.recorder, self.resumed = method, recorder, resumed
        self.latest: tuple[dict, dict] | None = None
        self.written: object = None
        self.due = time.monotonic() + self.INTERVAL
        self.closing = self.terminated = self.catches = False
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
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
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
        if self.terminated:
            raise SystemExit(TERMINATED)

    def mark(self, state: dict) -> None:
        """Take a state that the method can go on from: numbers, None, tables of numbers, and arrays left unchanged."""
        self.latest = self.recorder.dump(), state
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Put the latest state on disk, unless it is there."""
        if self.latest is None or self.latest is self.written:
            return
        begin, latest = time.monotonic(), self.latest
        try:
            write_npz(self.path, KIND, *_pack(latest, self.header, self.arrays))
            self.written = latest
        except StorageError as error:
            warnings.warn(f"the checkpoint was not written, the run goes on: {error}", WGFlowWarning, stacklevel=4)
        self.due = time.monotonic() + max(self.INTERVAL, self.PATIENCE * (time.monotonic() - begin))

    def _terminate(self, number, frame):
        if self.closing:
            self.terminated = True
        else:
            raise SystemExit(TERMINATED)


def resume(path, t_end=None, *, energy, methods: dict[str, type], t_eval=None, time_scale=None, method=None,
           checkpoint=None, progress=False, throw=True) -> Solution:
    """Go on with a run from its checkpoint, the file that ``solve(..., checkpoint=path)`` wrote.

    **What is promised.** A run that was interrupted at any point and resumed (any number of times) to the end it had
    gives the same bits as the uninterrupted run: times, densities, history and certificate, on the same machine with
    the same versions of wgflow, NumPy, SciPy and Numba; a WGFlowWarning says where versions or the energy's last digits
    differ. A run that has reached its end can be extended to a later ``t_end``. That is a deterministic continuation of
    the same accuracy, but not bit for bit the run that would have had the later end from the start, since steps are cut
    to end at the old one. An interrupted run with a later ``t_end`` is first finished, then extended.

    Parameters
    ----------
    path : path
    t_end : float, optional
        The end of the time span, by default the one the run had; a later one extends it, an earlier one is refused.
    energy : Term or FreeEnergy
        The energy of the run: functions are not stored. It is compared with the stored values on the grid.
    t_eval : sequence of float, optional
        Output times of the extension, after the old end. By default ``t_end`` where the run had output times.
    time_scale : callable, optional
        The time_scale of the run if it was a function.
    method : Method, optional
        The method with other limits (``max_steps``, counted anew, ``time_limit``, ``threads``); all else must agree.
    checkpoint : path, optional
        Where to keep the state from here on, by default the same file.
    progress, throw : bool
        As in `solve`.

    Returns
    -------
    Solution
        From the start of the run, not only from the checkpoint.

    Raises
    ------
    StorageError
        If the file is not a whole checkpoint, or was written for another energy, time_scale or method.
    InvalidInput
        If ``t_end`` or ``t_eval`` breaks a rule.
    """
    flow, method, saved, state = _read_run(path, energy, methods, method, time_scale)
    later, times = _extension(flow, t_end, t_eval)
    options = {"progress": progress, "checkpoint": path if checkpoint is None else checkpoint, "throw": throw}
    if later is not None and state["t"] == flow.t1:
        longer = make_flow(energy, flow.rho0, (flow.t0, later), times or None, flow.time_scale)
        return run(longer, method, state=(saved, state), **options)
    solution = run(flow, method, state=(saved, state), **options)
    if later is None or not solution.success:
        return solution
    return resume(options.pop("checkpoint"), t_end, energy=energy, methods=methods, t_eval=t_eval, method=method,
                  time_scale=time_scale, **options)


def _read_run(path, energy, methods, method, time_scale):
    """The problem, the method, the record and the state in a checkpoint, checked against what is given again."""
    header, arrays = read_npz(path, KIND)
    try:
        method = _rebuild_method(path, header["method"], methods, method)
        saved, state = _unpack(header, arrays)
        told, versions, times = header["flow"], dict(header["versions"]), arrays["t_eval"]
        span, _ = (float(told["t0"]), float(told["t1"])), float(told["diffusion"])
        rho0 = Density(unpack_grid(told["axes"], arrays), arrays["rho0"])
        fixed = {name: arrays[name] for name in ("potential", "response") if name == "potential" or name in arrays}
        own = getattr(method, "CHECKS_STATE", False)
        _check_state(path, rho0.grid, span, saved, {"t": state["t"]} if own else state, fixed)
        if told["time_scale"] is None and arrays["time_scales"].shape != SAMPLES.shape:
            raise ValueError("its time_scale has another number of samples")
    except (InvalidInput, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is not a checkpoint that can be used: {type(error).__name__}: {error}") from error
    time_scale = _check_time_scale(path, told, arrays, time_scale)
    flow = make_flow(energy, rho0, span, times if times.size else None, time_scale)
    _check_energy(path, told, arrays, flow)
    _warn_of_versions(path, versions)
    return flow, method, saved, state


# -------------------------------------------------------------------- what a checkpoint says
def _describe(flow: Flow, method) -> tuple[dict, dict]:
    """The part of a checkpoint that stays the same during a run."""
    grid, parts = flow.grid, flow.parts
    header = {
        "flow": {"t0": flow.t0, "t1": flow.t1, "time_scale": None if callable(flow.time_scale) else flow.time_scale,
                 "axes": [{"name": n, "boundary": b, "origin": o}
                          for n, b, o in zip(grid.names, grid.boundary, grid.origin)],
                 "diffusion": parts.diffusion, "energy": repr(flow.energy)},
        "method": method.settings(), "versions": library_versions(),
    }
    arrays = {f"edges_{k}": edges for k, edges in enumerate(grid.edges)}
    arrays |= {"rho0": flow.rho0.values, "t_eval": np.array(flow.t_eval, dtype=float), "potential": parts.potential}
    if grid.log_weight is not None:
        arrays["log_weight"] = grid.log_weight
    probe = _probe(grid)
    response = parts.interaction(probe)
    if response is not None:
        arrays["response"] = response
    header["flow"]["internal"] = [factor * term.energy_of(probe, grid) for factor, term in parts.internal]
    if callable(flow.time_scale):
        arrays["time_scales"] = _sample(flow.time_scale, flow.t0, flow.t1)
    return header, arrays


def _probe(grid) -> np.ndarray:
    """Masses that look random, from integers alone: the same for ever, on any machine."""
    scrambled = (np.arange(1, grid.size + 1, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)
    return ((0.5 + scrambled / 2.0**32) / grid.size).reshape(grid.shape)


def _sample(time_scale, t0: float, t1: float) -> np.ndarray:
    times = [t0 + float(part) * (t1 - t0) for part in SAMPLES]
    return np.array([call_user(time_scale, (t,), "time_scale") for t in times], dtype=float)


def _pack(latest: tuple[dict, dict], header: dict, arrays: dict) -> tuple[dict, dict]:
    recorded, state = latest
    rows, count = recorded["rows"], recorded["n_snapshots"]
    snapshots = recorded["snapshots"][:count]
    arrays = dict(arrays)
    kinds: dict[str, type] = {"accepted": np.int64, "rejected": np.int64, "fallback": bool}
    for name in History.NAMES:
        arrays[f"column_{name}"] = np.array(recorded["columns"][name][:rows], dtype=kinds.get(name, float))
    arrays["snapshot_t"] = np.array([s[0] for s in snapshots], dtype=float)
    arrays["snapshot_energy"] = np.array([s[2] for s in snapshots], dtype=float)
    if snapshots:
        arrays["snapshot_masses"] = [s[1] for s in snapshots]
    arrays |= {f"state_{name}": value for name, value in state.items() if isinstance(value, np.ndarray)}
    steps, step_arrays = pack_steps(recorded["jko_steps"][:recorded["n_jko_steps"]])
    header = header | {
        "state": {name: value for name, value in state.items() if not isinstance(value, np.ndarray)},
        "recorder": {name: value for name, value in recorded.items()
                     if name not in ("columns", "snapshots", "jko_steps")},
        "jko_steps": steps,
    }
    return header, arrays | step_arrays


def _unpack(header: dict, arrays: dict) -> tuple[dict, dict]:
    """What a recorder and a method go on from."""
    state = dict(header["state"])
    # Copies: what comes from a file is read-only, and kernels are compiled for writable arrays alone.
    state |= {name[6:]: array.copy() for name, array in arrays.items() if name.startswith("state_")}
    times, energies = arrays["snapshot_t"].tolist(), arrays["snapshot_energy"].tolist()
    masses = [m.copy() for m in arrays.get("snapshot_masses", ())]
    columns = {name: arrays[f"column_{name}"].tolist() for name in History.NAMES}
    lengths = {len(column) for column in columns.values()}
    if not len(times) == len(energies) == len(masses) or lengths != {header["recorder"]["rows"]}:
        raise ValueError("its columns have different lengths")
    record = {"columns": columns, "snapshots": list(zip(times, masses, energies)),
              "jko_steps": unpack_steps(header["jko_steps"], arrays)}
    return header["recorder"] | record, state


# -------------------------------------------------------------------- checks of what is resumed
def _rebuild_method(path, settings: dict, methods: dict[str, type], given):
    name = settings.pop("method")
    if name not in methods:
        raise StorageError(f"{path} was written by the method {name!r}; this wgflow has {', '.join(methods)}")
    stored = methods[name](**settings)
    if given is None:
        return stored
    if type(given) is not type(stored):
        raise StorageError(f"method: {path} was written by {stored!r}, got {given!r}")
    mine, limits = given.settings(), getattr(given, "LIMITS", ())
    for key, value in stored.settings().items():
        if key not in limits and mine[key] != value:
            raise StorageError(f"method: {key}={value!r} in {path}, {key}={mine[key]!r} given; "
                               f"only {', '.join(limits)} can change in a run")
    return given


def _check_time_scale(path, told: dict, arrays: dict, given):
    stored = told["time_scale"]
    if stored is not None:
        if given is not None and given != stored:
            raise StorageError(f"time_scale: {path} has the number {stored!r}, got {given!r}; leave it out")
        return stored
    if not callable(given):
        raise InvalidInput(f"time_scale: the run in {path} had a function, which is not stored; give it again")
    gap = np.abs(_sample(given, told["t0"], told["t1"]) / arrays["time_scales"] - 1)
    if not gap.max() <= ROUNDING:
        t = told["t0"] + float(SAMPLES[int(gap.argmax())]) * (told["t1"] - told["t0"])
        raise StorageError(f"time_scale differs from the one of {path} by a factor {1 + gap.max():.3g} at t={t:g}")
    return given


def _check_energy(path, told: dict, arrays: dict, flow: Flow) -> None:
    parts, mine = flow.parts, "the energy given"
    if parts.diffusion != told["diffusion"]:
        ours, theirs = (1 / d if d > 0 else math.inf for d in (parts.diffusion, told["diffusion"]))
        raise StorageError(f"energy: beta={theirs!r} in {path}, beta={ours!r} in {mine}")
    if bool(parts.operators) != ("response" in arrays):
        raise StorageError(f"energy: {path} has {'an' if 'response' in arrays else 'no'} interaction, {mine} has "
                           f"{'one' if parts.operators else 'none'}")
    probe = _probe(flow.grid)
    internal = [factor * term.energy_of(probe, flow.grid) for factor, term in parts.internal]
    if len(internal) != len(told["internal"]) or not np.allclose(internal, told["internal"], rtol=ROUNDING, atol=0.0):
        raise StorageError(f"energy: the nonlinear internal energies of {mine} differ from those of {path} (energy "
                           f"{told['energy']})")
    pairs = [("the potential V", parts.potential, arrays["potential"])]
    response = parts.interaction(probe)
    if response is not None:
        pairs.append(("the interaction U", response, arrays["response"]))
    for what, ours, theirs in pairs:
        if np.array_equal(ours, theirs):
            continue
        gap = np.abs(ours - theirs)
        if not gap.max() <= ROUNDING * np.abs(theirs).max():
            cell = np.unravel_index(int(gap.argmax()), gap.shape)
            place = ", ".join(f"{c[k]:g}" for c, k in zip(flow.grid.centers, cell))
            raise StorageError(f"energy: {what} of {mine} differs from that of {path} (energy {told['energy']}) "
                               f"by up to {gap.max():.3g}, at ({place})")
        warnings.warn(f"{what} differs from that of {path} in its last digits; the run will not have the same bits as "
                      "without the interruption", WGFlowWarning, stacklevel=4)


def _check_state(path, grid: Grid, span, saved: dict, state: dict, fixed: dict) -> None:
    """A crafted file could hold anything: what goes into kernels has the right shape and is finite."""
    grids = fixed | {name: array for name, array in state.items() if isinstance(array, np.ndarray)}
    grids |= {f"snapshot at t={t:g}": masses for t, masses, _ in saved["snapshots"]}
    for name, array in grids.items():
        if array.dtype != float or array.shape != grid.shape or not np.isfinite(array).all():
            raise StorageError(f"{path} is not a checkpoint that can be used: {name} has shape {array.shape}, "
                               f"dtype {array.dtype}; need finite floats of shape {grid.shape}")
    t = state.get("t")
    if not (isinstance(t, float) and span[0] <= t <= span[1] and saved["columns"]["t"]
            and saved["columns"]["t"][-1] == t):
        raise StorageError(f"{path} is not a checkpoint that can be used: its state is at t={t!r}")


def _extension(flow: Flow, t_end, t_eval) -> tuple[float | None, tuple[float, ...]]:
    """The later end asked for, or None, and the output times up to it."""
    from wgflow.arguments import check_span, check_times

    t1 = flow.t1
    _, later = check_span((flow.t0, t1 if t_end is None else t_end))
    if later < t1:
        raise InvalidInput(f"t_end={later:g}: the run was made to end at t={t1:g}; give that or a later end")
    if later == t1:
        if t_eval is not None:
            raise InvalidInput(f"t_eval: output times can be added after t={t1:g} alone, with a t_end beyond it")
        return None, flow.t_eval
    if t_eval is None:
        return later, (*flow.t_eval, later) if flow.t_eval else ()
    times = check_times(t_eval, flow.t0, later, flow.grid.size)
    if times[0] <= t1:
        raise InvalidInput(f"t_eval[0]={times[0]:g}: output times can be added after the old end t={t1:g} alone")
    return later, (*flow.t_eval, *times)


def _warn_of_versions(path, stored: dict) -> None:
    for name, version in library_versions().items():
        if stored.get(name) != version:
            warnings.warn(f"{path} was written with {name} {stored.get(name)}, this is {version}; the run may not have "
                          "the same bits as without the interruption", WGFlowWarning, stacklevel=3)


def _check_overwriting(path, resumed: bool) -> None:
    """Refuse to replace what is not a checkpoint, and warn where an unfinished run would be lost."""
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
        warnings.warn(f"checkpoint={path!r} holds a run that stopped at t={t:g} of {t1:g}, and will be replaced; to go "
                      "on with that run use wgflow.resume", WGFlowWarning, stacklevel=4)
