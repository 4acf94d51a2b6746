"""Solutions: the result of a solve, and the history of its steps."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from wgflow.atoms import Atoms
from wgflow.calls.hints import Hints
from wgflow.checks import check_real
from wgflow.densities import Density
from wgflow.errors import InvalidInput, WGFlowWarning
from wgflow.files.streams import StoredLaws
from wgflow.progress import Progress, Reporter, check_progress
from wgflow.uphill import uphill

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wgflow.certificate import Certificate
    from wgflow.energies.free_energy import FreeEnergy
    from wgflow.energies.mobility import Mobility
    from wgflow.error_estimates import ErrorEstimate
    from wgflow.error_estimates.runs import Related
    from wgflow.grids import Grid
    from wgflow.jko_steps import JKOStep
    from wgflow.solvers.base import Method

__all__ = ["History", "Solution"]

#: Snapshots that differ by more than this part of the mass are not joined by straight lines without a word.
FAR_APART = 1e-3
#: The kind of the laws: densities on a grid, or atoms.
Law = TypeVar("Law", Density, Atoms)


class History:
    """The accepted steps of a run: every attribute is an array of the same length, whose entry 0 is the start.

    Of more than 2^20 steps every 2nd, 4th, ... and the last are kept, by ``accepted``; the certificate judges all.

    Attributes
    ----------
    t, dt : time after the step, and its length (0 at the start)
    energy, mass, min_density : of the state after the step (for atoms, min_density is the smallest weight)
    accepted, rejected : numbers of steps accepted and rejected so far
    fallback : whether the step took the unconditional fallback
    work : the energy given to the law so far by terms that change with time; 0 without any
    """

    NAMES = ("t", "dt", "energy", "mass", "min_density", "accepted", "rejected", "fallback", "work")

    t: np.ndarray
    dt: np.ndarray
    energy: np.ndarray
    mass: np.ndarray
    min_density: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    fallback: np.ndarray
    work: np.ndarray

    def __init__(self, columns: dict):
        for name in self.NAMES:
            setattr(self, name, np.asarray(columns[name]))

    def __len__(self):
        return self.t.size

    @property
    def steps(self) -> int:
        """The number of accepted steps of the run."""
        return int(self.accepted[-1])

    @property
    def is_whole(self) -> bool:
        """Whether every accepted step is here."""
        return len(self) == self.steps + 1

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return the columns by name."""
        return {name: getattr(self, name) for name in self.NAMES}

    def __repr__(self):
        part = "" if self.is_whole else f", {len(self) - 1} of them kept"
        return f"History({self.steps} steps{part}, t = {self.t[0]:g} to {self.t[-1]:g})"


class Solution(Hints, Generic[Law]):
    r"""The path of laws that a solve found, with its certificate.

    Attributes
    ----------
    t : array, shape (k,)
        Times of the snapshots: ``t_eval``, or about 64 of the accepted steps.
    densities : list of Density, or list of Atoms
        The snapshots; atoms where the method moves points. Streamed ones are read from their file when used.
    energy : array, shape (k,)
        Free energy at the snapshots; for particles with noise, whose entropy is not known, its other terms.
    status : int
        0 if the end of the time span was reached, or the run was ended by ``stop``; 1 if not.
    message : str
        The status in words.
    stopped : str
        Why ``stop`` ended the run, and when, in words; empty where it did not.
    free_energy : FreeEnergy
    method : str
        The method and its settings.
    mobility : Mobility or None
        A(x); None for 1. One made of functions is known by its description alone after `load`.
    jko_steps : tuple of JKOStep
        The results of the steps of the JKO method (without densities); empty for other methods.
    errors : dict of int to ErrorEstimate
        What `estimate_error` has found, by the index of the snapshot.
    """

    def __init__(self, *, t: ArrayLike, densities: Sequence[Law], energy: ArrayLike,
                 history: History | Callable[[], History], certificate: Certificate | Callable[[], Certificate],
                 status: int, message: str, free_energy: FreeEnergy | None, method: str,
                 time_scale: float | Callable[[float], float] | None = 1.0, jko_steps: Sequence[JKOStep] = (),
                 stepped_by: Method | None = None, start: Density | Atoms | None = None,
                 mobility: Mobility | None = None, stopped: str = ""):
        self.t = np.asarray(t, dtype=float)
        # Laws that are read when they are asked for are not read now.
        self.densities: Sequence[Law] = densities if isinstance(densities, StoredLaws) else list(densities)
        self.energy = np.asarray(energy, dtype=float)
        self._history, self._certificate = history, certificate
        self.status, self.message, self.stopped = status, message, stopped
        self.free_energy, self.method, self.time_scale = free_energy, method, time_scale
        self.mobility = mobility
        self.jko_steps = tuple(jko_steps)
        self._stepped_by, self._start = stepped_by, start
        # Estimates of errors by index of the snapshot, and the runs they are made of.
        self.errors: dict[int, ErrorEstimate] = {}
        self._related: dict[int, Related] = {}

    @cached_property
    def history(self) -> History:
        """Time, step, energy, mass and sign at every accepted step; made when it is read for the first time."""
        return self._history() if callable(self._history) else self._history

    @property
    def certificate(self) -> Certificate:
        """The certificate; the equation is audited when it is read for the first time."""
        if callable(self._certificate):
            self._certificate = self._certificate()
        return self._certificate

    @certificate.setter
    def certificate(self, certificate: Certificate) -> None:
        self._certificate = certificate

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_history": self.history, "_certificate": self.certificate, "_related": {}}

    @property
    def success(self) -> bool:
        """Whether the end of the time span was reached, or ``stop`` ended the run before."""
        return self.status == 0

    @property
    def is_atomic(self) -> bool:
        """Whether the snapshots are Atoms."""
        return isinstance(self.densities[0], Atoms)

    @property
    def grid(self) -> Grid:
        """The grid of the densities; None for atoms."""
        first = self.densities[0]
        # Typed for the usual case, so that scripts about densities need not ask.
        return first.grid if isinstance(first, Density) else None  # type: ignore[return-value]

    @property
    def final(self) -> Law:
        """The last density."""
        return self.densities[-1]

    def density(self, t: float) -> Law:
        """Return the density at a time: a snapshot, or the flow from the last snapshot before, solved again up to t.

        A solution from a file does not hold what it was solved with: it is linear in time between two snapshots, with a
        warning where these differ by more than a thousandth of the mass. For atoms the path of each is linear in time
        (the shorter way around on a periodic coordinate).

        Parameters
        ----------
        t : float
            Between the first and the last snapshot. Particles with noise are known at snapshots only (InvalidInput).
        """
        t = check_real("t", t)
        if not self.t[0] <= t <= self.t[-1]:
            raise InvalidInput(f"t={t:g} is outside the solution, which has {self.t[0]:g} <= t <= {self.t[-1]:g}")
        k = int(np.searchsorted(self.t, t))
        if self.t[k] == t:
            return self.densities[k]
        share = (t - self.t[k - 1]) / (self.t[k] - self.t[k - 1])
        if self.is_atomic:
            if self.certificate.noisy:
                raise InvalidInput(f"t={t:g} lies between the snapshots at {self.t[k - 1]:g} and {self.t[k]:g}; the "
                                   "law of particles with noise is not known there: solve(..., t_eval=[...])")
            return cast(Law, _between(cast(Atoms, self.densities[k - 1]), cast(Atoms, self.densities[k]), share))
        first, second = (cast(Density, self.densities[j]) for j in (k - 1, k))
        if self._stepped_by is not None and self.free_energy is not None:
            found = uphill("wgflow.flows", "law_after")(self.free_energy, first, float(self.t[k - 1]), t,
                                                        self.time_scale, self._stepped_by, self.mobility)
            if found is not None:
                return cast(Law, found)
        apart = float(np.abs(second.masses - first.masses).sum()) / first.mass
        if apart > FAR_APART:
            warnings.warn(f"the density at t={t:g} is interpolated linearly between the snapshots at {self.t[k - 1]:g} "
                          f"and {self.t[k]:g}, which differ by {apart:.2g} of the mass (L1): it may be off by as much; "
                          "solve again with t_eval", WGFlowWarning, stacklevel=2)
        return cast(Law, Density(first.grid, (1 - share) * first.values + share * second.values))

    def estimate_error(self, t: float | None = None, *,
                       functional: Callable[[Law], float] | None = None,
                       progress: Progress = False) -> ErrorEstimate:
        r"""Return estimates of the errors of the density, the energy, the moments and of a functional.

        The same flow is solved on grids of half and of a quarter of the cells (Richardson), with the same steps, and
        with steps of half the length there. Each error is an `ErrorBar`, a float with its parts: ``space`` (the grid),
        ``time`` (the steps), ``box`` (mass beyond walls that stand for infinity), ``sample`` (one standard error, where
        the initial law is one of samples). The runs are kept, so that asking again costs nothing.

        Parameters
        ----------
        t : float, optional
            A time of a snapshot; by default the last one.
        functional : callable, optional
            A function of a law that returns a number, such as ``model.risk`` or ``lambda rho: rho.quantile(0.9)``.
        progress : bool or callable
            As in `wgflow.solve`; a function is called with (0, 1) while this takes, and with (1, 1) at its end.

        Returns
        -------
        ErrorEstimate

        Raises
        ------
        InvalidInput
            If t is no time of a snapshot; for particles with noise, whose error is that of sampling; for a solution
            from a file, which holds the estimate that was made before it was saved and no other; if the grid has fewer
            than about 32 cells along an axis, or the energy is given by values on its cells.
        ConvergenceError
            If a run on a coarser grid fails.

        Examples
        --------
        >>> import wgflow as wg
        >>> energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
        >>> sol = wg.solve(energy, wg.Density.gaussian(wg.Grid((-6, 6), cells=200), 2.0, 0.25), (0, 1))
        >>> error = sol.estimate_error()
        >>> bool(1e-7 < error.density < 1e-6), error.trusted
        (True, True)
        """
        k = len(self.t) - 1 if t is None else int(np.argmin(np.abs(self.t - check_real("t", t))))
        if t is not None and self.t[k] != t:
            raise InvalidInput(f"t={t:g} is no time of a snapshot, the nearest is {self.t[k]:g}; solve with t_eval")
        if functional is None and k in self.errors:
            return self.errors[k]
        if not self.history.is_whole:
            raise InvalidInput(f"estimate_error: {len(self.history)} of {self.history.steps} steps are kept, so they "
                               f"cannot be repeated; solve with less than {2**20} steps")
        if self._stepped_by is None or self._start is None or self.free_energy is None:
            raise InvalidInput("estimate_error: a solution from a file does not hold its functions, and no estimate of "
                               "this was made before it was saved; call estimate_error() after solve, or solve again")
        if self.is_atomic and self.certificate.noisy:
            raise InvalidInput("estimate_error: the error of particles with noise is that of sampling; run them again "
                               "with other seeds, or hold them against a solution by wgflow.validation.compare")
        estimate = uphill("wgflow.error_estimates.estimates", "estimate_error")
        with Reporter("estimating the error", check_progress(progress), estimate=False) as report:
            found, self._related[k] = estimate(self, self.free_energy, self._start, self._stepped_by, k, functional,
                                               self._related.get(k))
            report(1.0, 1.0, "done")
        self.errors[k] = found
        return cast("ErrorEstimate", found)

    def estimate_grid_error(self, *, progress: Progress = False) -> float | None:
        r"""Return the largest L1 error of the grid over the run, :math:`\max_k \|\rho_h(t_k) - \rho(t_k)\|` / mass.

        It is found as by `estimate_error`, at the end and at up to 15 other snapshots, by one solve on half and one on
        a quarter of the cells. The check "tolerance" of ``FiniteVolume(tol=...)`` is judged by it.

        Parameters
        ----------
        progress
            As in `estimate_error`.

        Returns
        -------
        float or None
            None if the problem cannot be posed on fewer cells (an energy given by values on the grid, an axis of fewer
            than 32 cells), if a solve there fails, for atoms, and where not every step is in the history.
        """
        if not (isinstance(self._start, Density) and self._stepped_by and self.free_energy and self.history.is_whole):
            return None
        largest = uphill("wgflow.error_estimates.whole_run", "largest_grid_error")
        with Reporter("estimating the error of the grid", check_progress(progress), estimate=False) as report:
            found = cast("float | None", largest(self, self.free_energy, self._start, self._stepped_by))
            report(1.0, 1.0, "done")
        return found

    @property
    def error(self) -> ErrorEstimate | None:
        """The estimate of the errors at the end, if `estimate_error` has been asked for it."""
        return self.errors.get(len(self.t) - 1)

    @cached_property
    def dissipation(self) -> np.ndarray:
        r""":math:`\int \rho\,\nabla\mu\cdot A\,\nabla\mu` at the snapshots, -dF/dt at time_scale 1; mu is dF/drho."""
        if self.free_energy is None:
            raise InvalidInput("dissipation: a loaded solution does not hold its functions; "
                               "set solution.free_energy to the energy it was solved with")
        if not self.has_dissipation:
            raise InvalidInput("dissipation: particles with noise have no entropy, hence no dissipation; solve on a "
                               "grid (FiniteVolume) for it")
        return np.array([self.free_energy.at(t).dissipation(rho, self.mobility)
                         for t, rho in zip(self.t, self.densities)])

    @property
    def has_dissipation(self) -> bool:
        """Whether `dissipation` is available: not for particles with noise, nor for a loaded solution without it."""
        if "dissipation" in vars(self):
            return True
        return self.free_energy is not None and not (self.is_atomic and self.free_energy.spreads)

    @property
    def dataset(self) -> xarray.Dataset:
        """An xarray.Dataset: density(time, axes...), energy(time), history. Tables are `to_pandas`, not xarray's."""
        return uphill("wgflow.files.solutions", "to_dataset")(self)

    def to_xarray(self) -> xarray.Dataset:
        """Return `dataset`: the solution with coordinates, units and attributes after the CF conventions."""
        return self.dataset

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Return copies of the arrays of the solution by the names that `dataset` has for them.

        ``time`` and ``energy``, shape (k,); for each axis its cell centers, by its name; ``density``, shape
        (k, *cells), averages over the cells. Of atoms each coordinate by its name, shape (k, n), and ``weight``,
        shape (n,).
        """
        return uphill("wgflow.files.exports", "to_numpy")(self)

    def to_pandas(self, table: str = "density") -> pandas.DataFrame:
        """Return a table of the solution.

        Parameters
        ----------
        table : {"density", "snapshots", "history"}
            ``"density"``: a row for each cell (or atom) of each snapshot, with time, coordinates, and density (or
            weight). ``"snapshots"``: a row for each snapshot, with energy, mass, mean and variance of each coordinate.
            ``"history"``: a row for each accepted step.

        Raises
        ------
        StorageError
            If pandas is missing.
        """
        return uphill("wgflow.files.exports", "to_pandas")(self, table)

    def to_csv(self, path: str | os.PathLike[str], table: str = "density") -> None:
        """Write a table of the solution, as of `to_pandas`, as text with commas; floats keep every bit.

        Parameters
        ----------
        path : path
        table : {"density", "snapshots", "history"}

        Raises
        ------
        StorageError
            If the file cannot be written; an old one is then unchanged.
        """
        uphill("wgflow.files.exports", "to_csv")(self, path, table)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the solution to a file: CF NetCDF for ``.nc`` (needs the io extra), NumPy's format for ``.npz``."""
        uphill("wgflow.files.solutions", "save")(self, path)

    def plot(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Figure:
        """Return a matplotlib Figure of the densities and the energy; it is written to a file if a path is given."""
        return uphill("wgflow.pictures.solutions", "plot_solution")(self, path, **options)

    def plot_drift(self, path: str | os.PathLike[str] | None = None, *, t: float | None = None,
                   ax: Axes | None = None) -> Figure:
        r"""Return a phase portrait: the drift :math:`-A\,\nabla\Psi` over the law at a time.

        Psi is the first variation of F without entropies, :math:`V + U\rho`; ``time_scale`` is left out. On one axis
        the drift is a curve, with dots where it is 0: full where neighbors come, empty where they leave. On two axes
        streamlines, thicker where the drift is faster.

        Parameters
        ----------
        path : path, optional
            Where to write it.
        t : float, optional
            A time of the solution, by default its end.
        ax : matplotlib Axes, optional
            Draw here instead of into a new figure.

        Raises
        ------
        InvalidInput
            If there are more than two axes, t lies outside the solution, the energy is not known (a loaded solution),
            or a term is given by values on cells alone.
        """
        return uphill("wgflow.pictures.drifts", "plot_drift")(self, path, t=t, ax=ax)

    def animate(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write a movie of the laws; return its path. ``frames``, ``fps`` and ``progress`` are options.

        ``.html`` is a page of its own, without a server or a network, with a slider over time and buttons; in a
        notebook ``IPython.display.HTML(filename=path)`` shows it. ``.gif``, and where ffmpeg is found ``.mp4``.
        """
        return uphill("wgflow.pictures.movies", "animate_solution")(self, path, **options)

    def __repr__(self):
        return (f"Solution({self.method}: t = {self.t[0]:g} to {self.t[-1]:g}, {len(self.t)} snapshots, "
                f"F = {self.energy[0]:.6g} to {self.energy[-1]:.6g}, {self.message}"
                + ("" if self.error is None else f"; {self.error.summary}") + ")")

    def explain(self) -> str:
        """Return the certificate in words, and the estimated errors where `estimate_error` has been asked for them."""
        return "\n".join([self.certificate.explain(), *(found.explain() for found in self.errors.values())])

    def _repr_html_(self) -> str:
        return uphill("wgflow.pictures.html", "solution_html")(self)


def _between(first: Atoms, second: Atoms, share: float) -> Atoms:
    """Return the atoms a part of the way along the straight lines from their first points to their second."""
    gap = second.points - first.points
    for axis, (periodic, (lo, hi)) in enumerate(zip(first.periodic, first.bounds)):
        if periodic:
            gap[axis] -= (hi - lo) * np.round(gap[axis] / (hi - lo))
    points = first.points + share * gap
    for axis, (periodic, (lo, hi)) in enumerate(zip(first.periodic, first.bounds)):
        points[axis] = lo + np.mod(points[axis] - lo, hi - lo) if periodic else np.clip(points[axis], lo, hi)
    return first.moved(points)
