"""Resuming a run from its checkpoint, which is compared with the energy and the method given again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from wgflow.calls.arguments import check_times
from wgflow.certificate import library_versions
from wgflow.checks import check_real
from wgflow.densities import Density
from wgflow.energies.free_energy import Term
from wgflow.energies.mobility import Mobility, as_mobility
from wgflow.energies.nodes import with_nodes
from wgflow.errors import InvalidInput, StorageError, WGFlowWarning
from wgflow.files.agreement import check_run
from wgflow.files.archives import read_npz
from wgflow.files.checkpoints import KIND, SAMPLES, nonlinear_energies, probe_masses, sample_clock, unpack_run
from wgflow.files.grids import unpack_grid
from wgflow.files.streams import SnapshotStream
from wgflow.flows import Flow, make_flow, run
from wgflow.grids import Grid
from wgflow.progress import Progress
from wgflow.solution import Solution

if TYPE_CHECKING:
    from wgflow.solvers.base import Method
    from wgflow.watching.watch import Watch

#: Relative difference of an energy's values that counts as rounding on another machine.
ROUNDING = 1e-10

__all__ = ["resume"]


def resume(path, t_end=None, *, energy: Term, methods: dict[str, type[Method]], t_eval=None, time_scale=None,
           method: Method | None = None, mobility=None, checkpoint=None, stream=None, progress: Progress = False,
           throw: bool = True, watch: Watch | None = None) -> Solution:
    """Continue a run from its checkpoint, see `wgflow.resume`; ``methods`` has the classes that a file may name."""
    flow, method, saved, state = _read_run(path, energy, methods, method, time_scale, mobility)
    streamed = _check_stream(path, saved, stream)
    end, times = _new_end(path, flow, float(state["t"]), t_end, t_eval, streamed)
    options = {"progress": progress, "checkpoint": path if checkpoint is None else checkpoint, "throw": throw,
               "watch": watch}
    if end < flow.t1 or (end > flow.t1 and state["t"] == flow.t1):
        other = make_flow(energy, flow.rho0, (flow.t0, end), times or None, flow.time_scale, method, flow.mobility,
                          streamed=streamed)
        _reopen(other, saved, stream)
        return run(other, method, state=(saved, state), **options)
    _reopen(flow, saved, stream)
    solution = run(flow, method, state=(saved, state), **options)
    if end == flow.t1 or not solution.success or solution.stopped:
        return solution
    return resume(options.pop("checkpoint"), t_end, energy=energy, methods=methods, t_eval=t_eval, method=method,
                  time_scale=time_scale, mobility=mobility, stream=stream, **options)


def _check_stream(path, saved: dict, stream) -> bool:
    """Return whether a run streams its snapshots; its file must be given again, and none for a run without."""
    streamed = saved["streamed"]
    if stream is not None and not streamed:
        raise InvalidInput(f"stream={stream!r}: the run in {path} keeps its snapshots in memory; leave stream out")
    if streamed and stream is None:
        raise InvalidInput(f"stream: the run in {path} writes its snapshots to a file; give it again: "
                           "resume(path, energy=energy, stream=...)")
    return streamed


def _reopen(flow: Flow, saved: dict, stream) -> None:
    """Take up the file of the snapshots of a run that streams them, for the output times that it has now."""
    if stream is None:
        return
    shape = (len(flow.t_eval), *flow.grid.shape)
    rows = [(t, energy) for t, _, energy in saved["snapshots"]]
    flow.stream = SnapshotStream.reopen(stream, shape, rows, saved["stream_sums"])
    saved["snapshots"] = flow.stream


def _read_run(path, energy: Term, methods: dict[str, type[Method]], method: Method | None,
              time_scale, mobility) -> tuple[Flow, Method, dict, dict]:
    """Return the problem, the method, the record and the state in a checkpoint, checked against what is given again."""
    header, arrays = read_npz(path, KIND)
    try:
        method = _rebuild_method(path, header["method"], methods, method)
        saved, state = unpack_run(header, arrays)
        told, versions, times = header["flow"], dict(header["versions"]), arrays["t_eval"]
        span, _ = (float(told["t0"]), float(told["t1"])), float(told["diffusion"])
        rho0 = Density(unpack_grid(told["axes"], arrays), arrays["rho0"])
        if told.get("sample_size") is not None:
            rho0.sample_size = float(told["sample_size"])
        if "rho0_center_values" in arrays:
            with_nodes(rho0, arrays["rho0_center_values"])
        fixed = {name: arrays[name] for name in ("potential", "response") if name == "potential" or name in arrays}
        _check_state(path, rho0.grid, span, saved, state, fixed)
        method.check_state(rho0.grid, state)
        check_run(rho0.grid, saved, state, rho0.masses)
        if told["time_scale"] is None:
            _check_samples(arrays["time_scales"])
    except (InvalidInput, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is not a checkpoint that can be used: {type(error).__name__}: {error}") from error
    time_scale = _check_time_scale(path, told, arrays, time_scale)
    flow = make_flow(energy, rho0, span, times if times.size else None, time_scale, method,
                     _told_mobility(path, told, arrays, mobility), streamed=bool(header.get("streamed")))
    _check_mobility(path, arrays, flow)
    _check_energy(path, told, arrays, flow)
    _warn_of_versions(path, versions)
    return flow, method, saved, state


# -------------------------------------------------------------------- checks of what is resumed
def _rebuild_method(path, settings: dict, methods: dict[str, type], given):
    name = settings.pop("method")
    if name not in methods:
        raise StorageError(f"{path} was written by the method {name!r}; this wgflow has {', '.join(methods)}; give a "
                           "method of your own again: resume(..., method=...)")
    stored = methods[name](**settings)
    if given is None:
        return stored
    if type(given) is not type(stored):
        raise StorageError(f"method: {path} was written by {stored!r}, got {given!r}")
    mine, limits = given.settings(), given.LIMITS
    for key, value in stored.settings().items():
        if key not in limits and mine[key] != value:
            raise StorageError(f"method: {key}={value!r} in {path}, {key}={mine[key]!r} given; "
                               f"only {', '.join(limits)} can change in a run")
    return given


def _check_samples(samples: np.ndarray) -> None:
    if samples.shape != SAMPLES.shape or not (np.isfinite(samples) & (samples > 0)).all():
        raise ValueError(f"its time_scale has samples of shape {samples.shape}; need {SAMPLES.size} positive numbers")


def _check_time_scale(path, told: dict, arrays: dict[str, np.ndarray], given) -> float | Callable[[float], float]:
    stored = told["time_scale"]
    if stored is not None:
        if given is not None and given != stored:
            raise StorageError(f"time_scale: {path} has the number {stored!r}, got {given!r}; leave it out")
        return stored
    if not callable(given):
        raise InvalidInput(f"time_scale: the run in {path} had a function, which is not stored; give it again")
    gap = np.abs(sample_clock(given, told["t0"], told["t1"]) / arrays["time_scales"] - 1)
    if not gap.max() <= ROUNDING:
        t = told["t0"] + float(SAMPLES[int(gap.argmax())]) * (told["t1"] - told["t0"])
        raise StorageError(f"time_scale differs from the one of {path} by a factor {1 + gap.max():.3g} at t={t:g}")
    return given


def _told_mobility(path, told: dict, arrays: dict[str, np.ndarray], given) -> Mobility | None:
    """Return the mobility of a run: of numbers from the file, of functions as it is given again."""
    given, numbers = as_mobility(given), told.get("mobility")
    if given is not None:
        return given
    if "mobility" not in arrays:
        return None
    if numbers is None:
        raise InvalidInput(f"mobility: the run in {path} had functions, which are not stored; give it again")
    try:
        return Mobility.of_numbers(numbers)
    except (InvalidInput, LookupError, TypeError) as error:
        raise StorageError(f"{path} is not a checkpoint that can be used: its mobility is {numbers!r}") from error


def _check_mobility(path, arrays: dict[str, np.ndarray], flow: Flow) -> None:
    """Refuse a mobility that has other values on the grid than that of a file."""
    theirs = arrays.get("mobility")
    if (theirs is None) != (flow.mobility is None):
        raise StorageError(f"mobility: the run in {path} had {'none' if theirs is None else 'one'}, and "
                           f"{'one' if theirs is None else 'none'} is given")
    if theirs is None or flow.mobility is None:
        return
    ours = flow.mobility.values_on(flow.grid)
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=ROUNDING, atol=0.0):
        gap = f" by up to {np.abs(ours - theirs).max():.3g}" if ours.shape == theirs.shape else ""
        raise StorageError(f"mobility: {flow.mobility!r} differs from that of {path}{gap}")


def _check_energy(path, told: dict, arrays: dict, flow: Flow) -> None:
    on_grid, mine = flow.on_grid, "the energy given"
    if not math.isclose(on_grid.diffusion, told["diffusion"], rel_tol=ROUNDING):
        ours, theirs = (1 / d if d > 0 else math.inf for d in (on_grid.diffusion, told["diffusion"]))
        raise StorageError(f"energy: beta={theirs!r} in {path}, beta={ours!r} in {mine}")
    if bool(on_grid.operators) != ("response" in arrays):
        raise StorageError(f"energy: {path} has {'an' if 'response' in arrays else 'no'} interaction, {mine} has "
                           f"{'one' if on_grid.operators else 'none'}")
    probe = probe_masses(flow.grid)
    internal = nonlinear_energies(on_grid, probe)
    if len(internal) != len(told["internal"]) or not np.allclose(internal, told["internal"], rtol=ROUNDING, atol=0.0):
        raise StorageError(f"energy: the nonlinear internal energies of {mine} differ from those of {path} (energy "
                           f"{told['energy']})")
    pairs = [("the potential V", on_grid.potential, arrays["potential"])]
    response = on_grid.interaction(probe)
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
    """Check shapes and finiteness of what goes into compiled functions: a crafted file could hold anything."""
    grids = fixed | {f"snapshot at t={t:g}": masses for t, masses, _ in saved["snapshots"] if masses is not None}
    for name, array in grids.items():
        if array.dtype != float or array.shape != grid.shape or not np.isfinite(array).all():
            raise StorageError(f"{path} is not a checkpoint that can be used: {name} has shape {array.shape}, "
                               f"dtype {array.dtype}; need finite floats of shape {grid.shape}")
    t = state.get("t")
    if not (isinstance(t, float) and span[0] <= t <= span[1] and saved["columns"]["t"]
            and saved["columns"]["t"][-1] == t):
        raise StorageError(f"{path} is not a checkpoint that can be used: its state is at t={t!r}")


def _new_end(path, flow: Flow, reached: float, t_end, t_eval, streamed: bool) -> tuple[float, tuple[float, ...]]:
    """Return the end of the run, and the output times up to it; with ``streamed`` their laws need not fit in memory."""
    t1, end = flow.t1, flow.t1
    if t_end is not None:
        end = check_real("t_end", t_end)
        if end < flow.t0:
            raise InvalidInput(f"t_end={end:g}: the run began at t={flow.t0:g}; flows do not run backward")
    if end < t1:
        if end < reached:
            raise InvalidInput(f"t_end={end:g}: the run has reached t={reached:g} already; what lies before is in "
                               f"wgflow.load({str(path)!r}).density(t)")
        if t_eval is not None:
            raise InvalidInput(f"t_eval: output times can be added only after t={t1:g}, with a t_end beyond it")
        return end, (*(t for t in flow.t_eval if t < end), end) if flow.t_eval else ()
    if end == t1:
        if t_eval is not None:
            raise InvalidInput(f"t_eval: output times can be added only after t={t1:g}, with a t_end beyond it")
        return end, flow.t_eval
    if t_eval is None:
        return end, (*flow.t_eval, end) if flow.t_eval else ()
    times = check_times(t_eval, flow.t0, end, 1 if streamed else flow.grid.size)
    if times[0] <= t1:
        raise InvalidInput(f"t_eval[0]={times[0]:g}: output times can be added only after the old end t={t1:g}")
    return end, (*flow.t_eval, *times)


def _warn_of_versions(path, stored: dict) -> None:
    for name, version in library_versions().items():
        if stored.get(name) != version:
            warnings.warn(f"{path} was written with {name} {stored.get(name)}, this is {version}; the run may not have "
                          "the same bits as without the interruption", WGFlowWarning, stacklevel=3)


