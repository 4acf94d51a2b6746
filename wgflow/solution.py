"""Solutions: what a solve returns, and the recorder that collects it step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np

from wgflow.atoms import Atoms
from wgflow.certificate import Certificate, boundary_mass, library_versions, mass_on_bounds
from wgflow.densities import Density
from wgflow.errors import InvalidInput

__all__ = ["History", "Solution"]

#: Without t_eval about this many snapshots are kept, thinned as the run goes on, within this many bytes.
SNAPSHOTS = 64
SNAPSHOT_BYTES = 256e6


class History:
    """What happened at each accepted step; every attribute an array of the same length, the start being entry 0.

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

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns by name."""
        return {name: getattr(self, name) for name in self.NAMES}

    def __repr__(self):
        return f"History({len(self) - 1} steps, t = {self.t[0]:g} to {self.t[-1]:g})"


class Solution:
    r"""The path of laws that a solve found, with its certificate.

    Attributes
    ----------
    t : array, shape (k,)
        Times of the snapshots: ``t_eval``, or accepted steps thinned to about 64.
    densities : list of Density, or list of Atoms
        The snapshots; atoms where the method moves points.
    energy : array, shape (k,)
        Free energy at the snapshots; of particles with noise, whose entropy is not known, its other terms.
    history : History
        Time, step, energy, mass and sign at every accepted step.
    certificate : Certificate
    status : int
        0 if the end of the time span was reached, 1 if not.
    message : str
        The same in words.
    free_energy : FreeEnergy
    method : str
        The method and its settings.
    jko_steps : tuple of JKOStep
        With the JKO method, how well each step was solved (without its density); empty otherwise.
    """

    def __init__(self, *, t, densities, energy, history, certificate, status, message, free_energy, method,
                 time_scale=1.0, jko_steps=()):
        self.t = np.asarray(t, dtype=float)
        self.densities = list(densities)
        self.energy = np.asarray(energy, dtype=float)
        self.history = history
        self.certificate = certificate
        self.status, self.message = status, message
        self.free_energy, self.method, self.time_scale = free_energy, method, time_scale
        self.jko_steps = tuple(jko_steps)

    @property
    def success(self) -> bool:
        """Whether the end of the time span was reached."""
        return self.status == 0

    @property
    def is_atomic(self) -> bool:
        """Whether the snapshots are Atoms."""
        return isinstance(self.densities[0], Atoms)

    @property
    def grid(self):
        """The grid of the densities; None for atoms."""
        return None if self.is_atomic else self.densities[0].grid

    @property
    def final(self) -> Density | Atoms:
        """The last density."""
        return self.densities[-1]

    def density(self, t: float) -> Density | Atoms:
        """The density at a time: a snapshot, or linear in time between the two neighbors.

        Of atoms it is the path of each that is linear in time (the shorter way around on a periodic coordinate).

        Parameters
        ----------
        t : float
            Between the first and the last snapshot. Particles with noise are known at snapshots alone (InvalidInput).
        """
        t = float(t)
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
            return _between(self.densities[k - 1], self.densities[k], share)
        return Density(self.grid, (1 - share) * self.densities[k - 1].values + share * self.densities[k].values)

    @cached_property
    def dissipation(self) -> np.ndarray:
        r""":math:`\int \rho |\nabla \delta F/\delta\rho|^2` at the snapshots, the rate -dF/dt at time_scale 1."""
        if self.free_energy is None:
            raise InvalidInput("dissipation: a loaded solution does not hold its functions; "
                               "set solution.free_energy to the energy it was solved with")
        if not self.has_dissipation:
            raise InvalidInput("dissipation: particles with noise have no entropy, hence no dissipation; solve on a "
                               "grid (FiniteVolume) for it")
        return np.array([self.free_energy.at(t).dissipation(rho) for t, rho in zip(self.t, self.densities)])

    @property
    def has_dissipation(self) -> bool:
        """Whether `dissipation` can be had: not of particles with noise, nor of a loaded solution that lacks it."""
        if "dissipation" in vars(self):
            return True
        return self.free_energy is not None and not (self.is_atomic and self.free_energy.spreads)

    @property
    def dataset(self):
        """The solution as an xarray.Dataset: density(time, axes...), energy(time), history, attributes."""
        from wgflow.storage import to_dataset

        return to_dataset(self)

    def save(self, path) -> None:
        """Write the solution to a file: CF NetCDF for ``.nc`` (needs the io extra), NumPy's format for ``.npz``."""
        from wgflow.storage import save

        save(self, path)

    def plot(self, path=None, **options):
        """A picture of the densities and the energy; returns a matplotlib Figure, and writes it if a path is given."""
        from wgflow.plotting import plot_solution

        return plot_solution(self, path, **options)

    def animate(self, path, **options):
        """An animated GIF of the density."""
        from wgflow.plotting import animate_solution

        return animate_solution(self, path, **options)

    def __repr__(self):
        return (f"Solution({self.method}: t = {self.t[0]:g} to {self.t[-1]:g}, {len(self.t)} snapshots, "
                f"F = {self.energy[0]:.6g} to {self.energy[-1]:.6g}, {self.message})")

    def _repr_html_(self) -> str:
        return f"<pre>{self!r}\n{self.certificate.explain()}</pre>"


class Recorder:
    """Collects accepted steps while a method runs, and makes the Solution of them.

    Parameters
    ----------
    flow : Flow
        The problem (`wgflow.solve.Flow`).
    method : object with ``settings()``, ``controlled``
    report : callable, optional
        Told the time after each accepted step (a progress bar).
    """

    COUNTERS = ("stride", "since_snapshot", "n_rejected", "n_fallback", "dissipated", "boundary", "residual",
                "error_estimate", "edi_defect", "bias", "_last_rate")

    def __init__(self, flow, method, report=None):
        self.flow, self.method, self.report = flow, method, report
        self.columns: dict[str, list] = {name: [] for name in History.NAMES}
        self.snapshots: list[tuple[float, np.ndarray, float]] = []
        self.stride, self.since_snapshot = 1, 0
        self.room = max(4, min(SNAPSHOTS, int(SNAPSHOT_BYTES / (8 * flow.size))))
        self.n_rejected = self.n_fallback = 0
        self.dissipated = self.boundary = self.residual = 0.0
        self.error_estimate: float | None = None
        self._last_rate: tuple[float, float] | None = None
        self.jko_steps: list = []
        self.edi_defect: float | None = None
        self.bias: float | None = None

    def start(self, masses, energy) -> None:
        """Record the initial state."""
        self._append(self.flow.t0, 0.0, masses, energy, False)
        self.boundary = self._at_boundary(masses)
        if not self.flow.t_eval or self.flow.t_eval[0] == self.flow.t0:
            self.snapshots.append((self.flow.t0, masses.copy(), energy))

    def step(self, t, dt, masses, energy, *, fallback=False, work=0.0) -> None:
        """Record an accepted step; masses are copied where they are kept, ``work`` is that since the start."""
        self.n_fallback += fallback
        self._append(t, dt, masses, energy, fallback, work)
        if not self.flow.t_eval:
            self.since_snapshot += 1
            if t >= self.flow.t1 or self.since_snapshot >= self.stride:
                self._snapshot(t, masses, energy)
        elif t in self.flow.output_times:
            self._snapshot(t, masses, energy)
        if self.report is not None:
            self.report(t)

    def rate(self, scaled_time: float, value: float) -> None:
        """Add the dissipation at a time (measured by the integral of time_scale) to its integral.

        Between two values the logarithmic mean is taken: exact for exponential decay, and calm where an initial
        density with empty cells dissipates at a huge rate for an instant.
        """
        if self._last_rate is not None:
            before_time, before = self._last_rate
            self.dissipated += (scaled_time - before_time) * _logarithmic_mean(before, value)
        self._last_rate = (scaled_time, value)

    def dump(self) -> dict:
        """What has been recorded: numbers, and lists of which only the first ``rows`` and ``n_snapshots`` are meant."""
        return {"columns": self.columns, "rows": len(self.columns["t"]), "snapshots": self.snapshots,
                "n_snapshots": len(self.snapshots), "jko_steps": self.jko_steps, "n_jko_steps": len(self.jko_steps),
                **{name: getattr(self, name) for name in self.COUNTERS}}

    def restore(self, saved: dict, masses) -> None:
        """Take up what `dump` gave, and the masses that were recorded last."""
        self.columns, self.snapshots, self.last_masses = saved["columns"], saved["snapshots"], masses
        self.jko_steps = list(saved["jko_steps"])
        for name in self.COUNTERS:
            setattr(self, name, saved[name])

    def solution(self, status: int, message: str) -> Solution:
        """The Solution of what has been recorded."""
        if status != 0 and self.columns["t"] and (
                not self.snapshots or self.columns["t"][-1] != self.snapshots[-1][0]):
            self._snapshot(self.columns["t"][-1], self.last_masses, self.columns["energy"][-1])
        densities = [self.flow.rho0 if k == 0 and t == self.flow.t0 else self._law(state)
                     for k, (t, state, _) in enumerate(self.snapshots)]
        for _, state, _ in self.snapshots:
            self.boundary = max(self.boundary, self._at_boundary(state))
        history = History(self.columns)
        return Solution(t=[s[0] for s in self.snapshots], densities=densities, energy=[s[2] for s in self.snapshots],
                        history=history, certificate=self._certificate(history, status), status=status, message=message,
                        free_energy=self.flow.energy, method=repr(self.method), time_scale=self.flow.time_scale,
                        jko_steps=self.jko_steps)

    def _append(self, t, dt, masses, energy, fallback, work=0.0) -> None:
        columns = self.columns
        columns["t"].append(t)
        columns["dt"].append(dt)
        columns["energy"].append(energy)
        mass, least = self._weigh(masses)
        columns["mass"].append(mass)
        columns["min_density"].append(least)
        columns["accepted"].append(len(columns["t"]) - 1)
        columns["rejected"].append(self.n_rejected)
        columns["fallback"].append(fallback)
        columns["work"].append(work)
        self.last_masses = masses

    def _weigh(self, masses) -> tuple[float, float]:
        """Mass, and the smallest density."""
        least = float((masses if self.flow.even else masses / self.flow.grid.volumes).min())
        return float(masses.sum()), least / self.flow.even_volume

    def _law(self, masses) -> Density | Atoms:
        return Density(self.flow.grid, masses / self.flow.grid.volumes)

    def _at_boundary(self, masses) -> float:
        return boundary_mass(masses, self.flow.grid)

    def _snapshot(self, t, masses, energy) -> None:
        self.snapshots.append((t, masses.copy(), energy))
        self.since_snapshot = 0
        if not self.flow.t_eval and len(self.snapshots) > self.room:
            self.snapshots = self.snapshots[:1] + self.snapshots[2::2]
            self.stride *= 2

    def _certificate(self, history: History, status: int) -> Certificate:
        # What the law lost by itself: the work of terms that change with time is not its own.
        energy, mass = history.energy - history.work, history.mass
        rises = np.diff(energy) / np.maximum(1.0, np.abs(energy[:-1]))
        lost = energy[0] - energy[-1] if len(history) > 1 else 0.0
        return Certificate(
            mass_drift=float(np.abs(mass / mass[0] - 1).max()),
            min_density=float(history.min_density.min()),
            max_energy_increase=max(0.0, float(rises.max())) if rises.size else 0.0,
            dissipation_defect=float(abs(lost - self.dissipated) / max(1.0, lost)),
            boundary_mass=self.boundary,
            n_accepted=len(history) - 1, n_rejected=self.n_rejected, n_fallback=self.n_fallback,
            residual=self.residual, error_estimate=self.error_estimate, edi_defect=self.edi_defect,
            bias=self.bias,
            completed=status == 0, controlled=self.method.controlled, settings=self.method.settings(),
            versions=dict(library_versions()))


class AtomRecorder(Recorder):
    """The recorder of a method that moves atoms: a state is an array of points (n_coordinates, n)."""

    def within(self, t, points, energy) -> None:
        """Record a state inside a step, for the snapshots alone; told before the step is."""
        self.since_snapshot += 1
        if self.since_snapshot >= self.stride:
            self._snapshot(t, points, energy)

    def _weigh(self, points) -> tuple[float, float]:
        weights = self.flow.rho0.weights
        return float(weights.sum()), float(weights.min())

    def _law(self, points) -> Atoms:
        return self.flow.rho0.moved(points)

    def _at_boundary(self, points) -> float:
        return mass_on_bounds(points, self.flow.rho0)

    def _certificate(self, history: History, status: int) -> Certificate:
        certificate = super()._certificate(history, status)
        if not self.flow.energy.spreads:
            return replace(certificate, atomic=True)
        return replace(certificate, atomic=True, noisy=True, controlled=False, dissipation_defect=None)


def _between(first: Atoms, second: Atoms, share: float) -> Atoms:
    """The atoms at a part of the straight way from their first points to their second."""
    gap = second.points - first.points
    for axis, (periodic, (lo, hi)) in enumerate(zip(first.periodic, first.bounds)):
        if periodic:
            gap[axis] -= (hi - lo) * np.round(gap[axis] / (hi - lo))
    points = first.points + share * gap
    for axis, (periodic, (lo, hi)) in enumerate(zip(first.periodic, first.bounds)):
        points[axis] = lo + np.mod(points[axis] - lo, hi - lo) if periodic else np.clip(points[axis], lo, hi)
    return first.moved(points)


def _logarithmic_mean(a: float, b: float) -> float:
    low, high = min(a, b), max(a, b)
    if low <= 0.0 or high <= low * (1 + 1e-6):
        return 0.5 * (low + high) if low > 0.0 or high == 0.0 else 0.0
    return (high - low) / math.log(high / low)
