"""The runs that an error estimate compares: the same problem on coarser grids, and with shorter steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput
from wgflow.flows import HIGH_ORDER, make_flow, run
from wgflow.progress import pulse

from .coarsening import coarser

if TYPE_CHECKING:
    from wgflow.energies.free_energy import FreeEnergy
    from wgflow.solution import Solution
    from wgflow.solvers.base import Method

__all__ = ["Known", "Law", "Related", "Runner", "related_runs", "same_fluxes"]

Array = NDArray[np.float64]
Law = Density | Atoms
#: What the certificate calls explicit steps.
EXPLICIT = "explicit steps"
#: On grids with fewer cells than these, in all and along an axis, errors of steps are not those of a finer grid.
ENOUGH_CELLS, ENOUGH_ALONG_AN_AXIS = 48, 32
#: Where steps follow a tolerance of each, it is divided by this to see what they miss.
TIGHTER = 32.0
#: Tightest tolerance that methods take.
TIGHTEST = 2.3e-14


@dataclass(frozen=True)
class Known:
    """A run at one time, such as its end: its law, its energy, and the fluxes it took."""

    law: Law
    energy: float
    scheme: str = ""


@dataclass(frozen=True)
class Related:
    r"""A solution up to a time, and the runs beside it.

    Attributes
    ----------
    own : Known
        The solution itself.
    coarse : tuple of Known
        The same on half and on a quarter of the cells, with the same steps where steps can be given; none for atoms
        that are the initial law themselves.
    pair : (Known, Known) or None
        Two runs on one of these grids: with steps like those of the solution, and with shorter ones.
    time_gain : float
        The error of the longer steps is this multiple of what the two differ by.
    runner : Runner
    quarter : Density or None
        The initial law on a quarter of the cells.
    """

    own: Known
    coarse: tuple[Known, ...]
    pair: tuple[Known, Known] | None
    time_gain: float
    runner: Runner
    quarter: Density | None

    def again(self, law: Density) -> Known:
        """Return the end of the run from another law on a quarter of the cells, with the steps of the solution."""
        return self.runner.end(law, self.runner.method_at(2))


class Runner:
    """Runs of the problem of a solution from other laws, up to the time of a snapshot.

    Parameters
    ----------
    solution : Solution
    energy : FreeEnergy
    start : Density or Atoms
    method : Method
    t : float
    """

    def __init__(self, solution: Solution, energy: FreeEnergy, start: Law, method: Method, t: float):
        self.energy, self.time_scale, self.start, self.method = energy, solution.time_scale, start, method
        self.mobility = solution.mobility
        self.t0, self.t = float(solution.history.t[0]), t
        times = solution.history.t
        self.ends: Array = times[(times > self.t0) & (times <= t)]
        lengths = np.diff(np.concatenate([[self.t0], self.ends]))
        self.halves: Array = np.sort(np.concatenate([self.ends, self.ends - 0.5 * lengths]))
        # Explicit steps are as long as their stability allows on each grid.
        explicit = EXPLICIT in solution.certificate.scheme
        self.high_order = HIGH_ORDER in solution.certificate.scheme
        longest = float(lengths.max()) if lengths.size else 0.0
        self.given = None if explicit or not longest else method.stop_to_stop(longest, t - self.t0)
        total = solution.certificate.error_estimate
        self.local: float | None = None
        if hasattr(method, "rtol"):
            self.local = method.rtol or (min(total / lengths.size, 0.5) if total and lengths.size else None)

    def method_at(self, level: int) -> Method:
        """Return the method on a grid that has been halved so many times."""
        return (self.given or self.method).on_coarser_grid(2**level)

    def end(self, law: Law, method: Method, ends: Array | None = None) -> Known:
        """Return the end of the run from a law, whose steps end where those of the solution do, or on given times."""
        return self.along(law, method, [self.t], ends)[-1]

    def along(self, law: Law, method: Method, times: list[float], ends: Array | None = None) -> list[Known]:
        """Return what a run from a law is at increasing times, the last of which is its end."""
        shape = _shape(law)
        pulse(f"the run of {' x '.join(map(str, shape))} {'cells' if isinstance(law, Density) else 'atoms'}")
        try:
            flow = make_flow(self.energy, law, (self.t0, times[-1]), times, self.time_scale, method, self.mobility)
            if self.given is not None:
                flow.stops = sorted({*flow.stops, *(self.ends if ends is None else ends).tolist()})
                flow.allowed_error = 0.0 if self.high_order else math.inf
            found = run(flow, method)
        except InvalidInput as error:
            raise InvalidInput("error estimate: the problem must make sense on coarser grids, its energy be given by "
                               f"functions; on {shape} cells: {error}") from error
        except ConvergenceError as error:
            raise ConvergenceError(f"error estimate: the run on {shape} cells failed: {error}",
                                   reason=error.reason) from error
        laws, words = found.densities[-len(times):], flow.scheme_in_words
        return [Known(each, float(value), words) for each, value in zip(laws, found.energy[-len(times):])]


def related_runs(solution: Solution, energy: FreeEnergy, start: Law, method: Method, k: int) -> Related:
    """Return the runs beside a solution up to its k-th snapshot.

    Raises
    ------
    InvalidInput
        If the grid cannot be halved twice, or the energy is given by values on its cells.
    ConvergenceError
        If a run beside it fails.
    """
    runner = Runner(solution, energy, start, method, float(solution.t[k]))
    own = Known(solution.densities[k], float(solution.energy[k]), solution.certificate.scheme)
    laws: list[Law] = [start]
    if isinstance(start, Density):
        half = coarser(start)
        laws = [half, coarser(half)]
    if not runner.ends.size:
        return Related(own, (), None, 1.0, runner, None)
    coarse = () if isinstance(start, Atoms) else tuple(
        runner.end(law, runner.method_at(level)) for level, law in enumerate(laws, 1))
    pair, gain = _in_time(runner, laws, coarse, own)
    return Related(own, coarse, pair, gain, runner, laws[-1] if isinstance(laws[-1], Density) else None)


def _in_time(runner: Runner, laws: list[Law], coarse: tuple[Known, ...],
             own: Known) -> tuple[tuple[Known, Known] | None, float]:
    r"""Return two runs that differ in their steps alone, and the gain.

    On the coarser grid if that is fine enough; for halved steps of order q the gain is :math:`2^q / (2^q - 1)`.
    """
    level = len(coarse)
    if level and not (same_fluxes(coarse[-1], own) and _is_fine(laws[-1])):
        level = 1
    law, base = (laws[level - 1], coarse[level - 1]) if level else (runner.start, own)
    method: Any = runner.method_at(level)
    if runner.given is not None:
        order = method.time_order
        return (base, runner.end(law, method, runner.halves)), 2.0**order / (2.0**order - 1.0)
    if runner.local is None:
        return None, 1.0
    if method.rtol is None:
        base = runner.end(law, replace(method, rtol=max(runner.local, TIGHTEST)))
    finer = runner.end(law, replace(method, rtol=max(runner.local / TIGHTER, TIGHTEST)))
    # The tolerance bounds local errors, of third order for steps of second: errors fall like its power 2/3, or faster.
    return (base, finer), 1.0 / (1.0 - TIGHTER ** (-2.0 / 3.0))


def _is_fine(law: Law) -> bool:
    return isinstance(law, Atoms) or (law.grid.size >= ENOUGH_CELLS and min(law.grid.shape) >= ENOUGH_ALONG_AN_AXIS)


def _shape(law: Law) -> tuple[int, ...]:
    return law.grid.shape if isinstance(law, Density) else (law.size,)


def same_fluxes(first: Known, second: Known) -> bool:
    """Return whether two runs took the same fluxes; why they did is told in brackets."""
    return _fluxes(first) == _fluxes(second)


def _fluxes(known: Known) -> str:
    return known.scheme.partition(" (")[0].partition(",")[0]
