"""The verbs: `solve`, `resume` and `show_versions`. They know every method, so they stand above the core."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from wgflow.calls.explained import explained, nearest
from wgflow.checks import check_flag, described
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.files.streams import SnapshotStream
from wgflow.flows import Flow, make_flow, run
from wgflow.progress import Progress, check_progress
from wgflow.watching.watch import Stop, make_watch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from wgflow.atoms import Atoms
    from wgflow.densities import Density
    from wgflow.energies.free_energy import Term
    from wgflow.solution import Solution
    from wgflow.solvers import Lagrangian, Method

__all__ = ["resume", "show_versions", "solve"]


@overload
def solve(
    energy: Term,
    rho0: Atoms,
    t_span: tuple[float, float] | Sequence[float],
    method: Method,
    *,
    t_eval: ArrayLike | None = None,
    time_scale: float | Callable[[float], float] = 1.0,
    mobility: Any = None,
    progress: Progress = False,
    callback: Callable[..., object] | None = None,
    stop: Stop | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    stream: str | os.PathLike[str] | None = None,
    throw: bool = True,
    error_estimate: bool = False,
) -> Solution[Atoms]: ...
@overload
def solve(  # type: ignore[overload-overlap]
    energy: Term,
    rho0: Density,
    t_span: tuple[float, float] | Sequence[float],
    method: Lagrangian,
    *,
    t_eval: ArrayLike | None = None,
    time_scale: float | Callable[[float], float] = 1.0,
    mobility: Any = None,
    progress: Progress = False,
    callback: Callable[..., object] | None = None,
    stop: Stop | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    stream: str | os.PathLike[str] | None = None,
    throw: bool = True,
    error_estimate: bool = False,
) -> Solution[Atoms]: ...
@overload
def solve(
    energy: Term,
    rho0: Density,
    t_span: tuple[float, float] | Sequence[float],
    method: Method | None = None,
    *,
    t_eval: ArrayLike | None = None,
    time_scale: float | Callable[[float], float] = 1.0,
    mobility: Any = None,
    progress: Progress = False,
    callback: Callable[..., object] | None = None,
    stop: Stop | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    stream: str | os.PathLike[str] | None = None,
    throw: bool = True,
    error_estimate: bool = False,
) -> Solution[Density]: ...
@explained("wgflow.solve(energy, rho0, (0, 1))", lambda named: _methods_for(named))
def solve(
    energy: Term,
    rho0: Density | Atoms,
    t_span: tuple[float, float] | Sequence[float],
    method: Method | None = None,
    *,
    t_eval: ArrayLike | None = None,
    time_scale: float | Callable[[float], float] = 1.0,
    mobility: Any = None,
    progress: Progress = False,
    callback: Callable[..., object] | None = None,
    stop: Stop | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    stream: str | os.PathLike[str] | None = None,
    throw: bool = True,
    error_estimate: bool = False,
) -> Solution[Density] | Solution[Atoms]:
    r"""Solve the Wasserstein gradient flow of a free energy.

    .. math:: \partial_t \rho = s(t)\, \nabla\cdot\bigl(\rho\,A(x)\, \nabla \tfrac{\delta F}{\delta \rho}\bigr),
              \qquad \rho(t_0) = \rho_0.

    Every accepted step keeps the mass and the sign of the density and does not raise F; the Solution's certificate says
    how well.

    Parameters
    ----------
    energy : Term or FreeEnergy
        F, e.g. ``Entropy(beta=4.0) + Potential(V) + Interaction(U)``; `TimeDependent` terms change with time.
    rho0 : Density or Atoms
        The initial density; its grid is the grid of the solution. Atoms are for methods that move points
        (`Lagrangian`), which take a Density too and make atoms of it.
    t_span : (float, float)
        Start and end. Equal ends return rho0 as it is, in 0 steps.
    method : Method, optional
        How the flow is stepped, `FiniteVolume()` by default.
    t_eval : sequence of float, optional
        Increasing times inside ``t_span`` at which the density is kept; steps end on them. By default accepted steps
        are kept, thinned to about 64 snapshots.
    time_scale : float or callable
        The factor s > 0, a number or a function of t (2 xi(t) for the clock of the network talks).
    mobility : number, function, sequence, rows or Mobility, optional
        A(x), symmetric and positive definite, by default 1: a scalar, an entry for each axis, or d rows of d entries,
        each a number or a function of the coordinates (`Mobility`). States at rest do not depend on it. For
        `FiniteVolume` and `Lagrangian`.
    progress : bool or callable
        True shows a bar on a terminal and lines elsewhere, with the time that is left: log lines where logging shows
        them (logger ``wgflow``, level INFO), else lines on the error stream. A function is called with (done, total),
        the time that the flow has passed and its whole length.
    callback : callable, optional
        Called where the run starts and after every accepted step with (t, rho), or with (t, rho, energy) if it has
        three parameters without defaults. rho is a Density or Atoms of its own. What it returns is not looked at.
    stop : condition, callable, or list of them, optional
        Ends the run at the first accepted step at which a condition holds: ``wgflow.stop.stationary(tol)``,
        ``energy_below(E)``, ``mass_at_boundary(part)``, or a function called as ``callback`` is, which returns True or
        False. The Solution ends there, is certified up to there, and says why in ``stopped``.
    checkpoint : path, optional
        File in which the state of the run is kept about every five seconds and at its end, so that `wgflow.resume` can
        go on from it. A run interrupted and resumed gives the same bits as one that was not. Not for atoms.
    stream : path, optional
        New file to which the snapshots at ``t_eval`` are written as they come, instead of being kept in memory;
        ``densities`` of the Solution reads them from there. NumPy's format, a row for each output time.
    throw : bool
        Whether a run that cannot be finished raises; otherwise the Solution so far is returned with ``status`` 1, also
        after Ctrl-C.
    error_estimate : bool
        Whether to call `Solution.estimate_error` at the end, and to put the error of the density and of the energy into
        the certificate. It takes at least about 32 cells along each axis, and an energy given by functions.

    Returns
    -------
    Solution

    Raises
    ------
    InvalidInput
        If an argument breaks a rule; nothing has been computed.
    ConvergenceError
        If the run could not go on, or a function of yours raised (reason "callback"); ``error.partial`` is the Solution
        up to the last accepted step.
    KeyboardInterrupt
        After Ctrl-C, with ``.partial`` too.

    Examples
    --------
    >>> import wgflow as wg
    >>> grid = wg.Grid([(-5, 5)], cells=200)
    >>> energy = wg.Entropy(beta=1.0) + wg.Potential(lambda x: x**2 / 2)
    >>> rho = wg.solve(energy, wg.Density.gaussian(grid, 2.0, 0.25), (0, 1)).final
    >>> print(f"{rho.mean():.3f} {rho.cov():.3f}")
    0.736 0.898
    """
    method = _check_method(method)
    progress, throw, watch = check_progress(progress), check_flag("throw", throw), make_watch(callback, stop)
    flow = make_flow(energy, rho0, t_span, t_eval, time_scale, method, mobility, streamed=stream is not None)
    if checkpoint is not None and not (flow.has_grid and method.KEEPS_CHECKPOINTS):
        raise InvalidInput(f"checkpoint={checkpoint!r}: {type(method).__name__} keeps no checkpoints; solve in parts, "
                           "each from the .final of the one before, and save them")
    wanted = check_flag("error_estimate", error_estimate)
    if wanted:
        _check_coarser(flow, method)
    if stream is not None:
        if not flow.t_eval:
            raise InvalidInput(f"stream={stream!r}: give the output times as well, t_eval=...; without them about 64 "
                               "snapshots are kept")
        state = flow.grid.shape if flow.has_grid else flow.atoms.points.shape
        flow.stream = SnapshotStream.create(stream, (len(flow.t_eval), *state))
    solution = run(flow, method, progress=progress, checkpoint=checkpoint, throw=throw, watch=watch)
    if getattr(method, "tol", None) is not None:
        # Other certificates are made when they are read.
        _judge_tolerance(solution, progress)
    if wanted and solution.success:
        _with_error_estimate(solution, progress)
    return solution


@explained("wgflow.resume(path, energy=energy): functions are not stored, so the energy is given again",
           lambda named: _methods_for(named))
def resume(
    path: str | os.PathLike[str],
    t_end: float | None = None,
    *,
    energy: Term,
    t_eval: ArrayLike | None = None,
    time_scale: float | Callable[[float], float] | None = None,
    method: Method | None = None,
    mobility: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    stream: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    callback: Callable[..., object] | None = None,
    stop: Stop | None = None,
    throw: bool = True,
) -> Solution:
    """Go on with a run from its checkpoint, the file that ``solve(..., checkpoint=path)`` wrote.

    **What is promised.** A run that was interrupted at any point and resumed (any number of times) to the end it had
    gives the same bits as the uninterrupted run: times, densities, history and certificate (but for limits in its
    ``settings``), on the same machine with the same versions of wgflow, NumPy, SciPy and Numba; a WGFlowWarning says
    where versions or the energy's last digits differ. A run that has reached its end can be extended to a later
    ``t_end``. That is a deterministic continuation of the same accuracy, but not bit for bit the run that would have
    had the later end from the start, since steps are cut to end at the old one. An interrupted run with a later
    ``t_end`` is first finished, then extended; with an earlier one, steps are cut to end there.

    Parameters
    ----------
    path : path
    t_end : float, optional
        The end of the time span, by default the one the run had; a later one extends it, an earlier one that the run
        has not passed yet shortens it.
    energy : Term or FreeEnergy
        The energy of the run: functions are not stored. It is compared with the stored values on the grid.
    t_eval : sequence of float, optional
        Output times of the extension, after the old end. By default ``t_end`` where the run had output times.
    time_scale : callable, optional
        The time_scale of the run if it was a function.
    method : Method, optional
        The method with other limits (``max_steps``, counted anew, ``time_limit``, ``threads``); all else must agree.
    mobility : optional
        The mobility of the run if it had one made of functions, which are compared by their values on the grid.
    checkpoint : path, optional
        Where to keep the state from here on, by default the same file.
    stream : path, optional
        The file of the snapshots, if the run writes them to one. The rows that the checkpoint knows are compared with
        their checksums; those of a later or an earlier end are added to, or taken from, the same file.
    progress, callback, stop, throw
        As in `solve`. ``callback`` and ``stop`` are not stored; they are looked at after each step from here on.

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
    from wgflow import resuming, solvers

    progress, throw, watch = check_progress(progress), check_flag("throw", throw), make_watch(callback, stop)
    methods = {name: getattr(solvers, name) for name in solvers.METHODS}
    if method is not None:
        methods.setdefault(type(_check_method(method)).__name__, type(method))
    solution = resuming.resume(path, t_end, energy=energy, methods=methods, t_eval=t_eval, time_scale=time_scale,
                               method=method, mobility=mobility, checkpoint=checkpoint, stream=stream,
                               progress=progress, throw=throw, watch=watch)
    return _judge_tolerance(solution, progress)


def show_versions() -> None:
    """Print the versions of Python, wgflow and its libraries, and what else a report of a fault needs.

    `wgflow.about.environment` returns the same as a dictionary.
    """
    from wgflow.about import environment

    for name, version in environment().items():
        print(f"{name:21s} {version}")


def _check_coarser(flow: Flow, method: Method) -> None:
    """Refuse, before the run, a law whose grid is none or cannot be made coarser."""
    from wgflow.error_estimates.coarsening import coarser

    if not flow.has_grid:
        raise InvalidInput(f"error_estimate=True: {type(method).__name__} has no grid; it is for laws on a grid")
    coarser(coarser(flow.density))


def _with_error_estimate(solution: Solution, progress: Progress) -> None:
    """Put the estimated errors at the end into the certificate; a failure leaves the solution in ``error.partial``."""
    try:
        found = solution.estimate_error(progress=progress)
    except (ConvergenceError, InvalidInput) as error:
        vars(error)["partial"] = solution
        raise
    solution.certificate = replace(solution.certificate, error_estimate=float(found.density or 0.0),
                                   error_order=found.order, energy_error=float(found.energy))


def _judge_tolerance(solution: Solution, progress: Progress) -> Solution:
    """Put the error of the grid, found by solves on fewer cells, into the certificate of a run with a tolerance."""
    if solution.success and solution.certificate.grid_error is not None and solution.certificate.settings.get("tol"):
        found = solution.estimate_grid_error(progress=progress)
        if found is not None:
            solution.certificate = replace(solution.certificate, grid_error=found, grid_compared=True)
    return solution


def _methods_for(named: Mapping[str, object]) -> list[type]:
    """Return the classes of methods, that of the method of a call first, then the default one."""
    from wgflow import solvers

    return [type(named.get("method")), solvers.FiniteVolume, *(getattr(solvers, name) for name in solvers.METHODS)]


def _check_method(method: Method | None) -> Method:
    from wgflow import solvers
    from wgflow.solvers import FiniteVolume, Method

    if method is None:
        return FiniteVolume()
    if not isinstance(method, Method):
        word = method.__name__ if isinstance(method, type) else method if isinstance(method, str) else ""
        near = nearest(word, solvers.METHODS)
        if near:
            use = vars(getattr(solvers, near)).get("EXAMPLE") or f"{near}()"
            raise InvalidType(f"method={described(method)}: need an object, method=wgflow.{use}")
        raise InvalidType(f"method must be a solver such as wgflow.FiniteVolume(), got {described(method)}; one of "
                          "your own is a subclass of wgflow.solvers.Method")
    if type(method).settings is Method.settings and not is_dataclass(method):
        raise InvalidType(f"method: {type(method).__name__} is no dataclass; put @dataclass(frozen=True) above the "
                          "class, so that its settings can be kept with the solution")
    return method
