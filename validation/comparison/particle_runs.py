"""Particles from anywhere, in the one form in which they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.atoms import Atoms
from wgflow.checks import real_array
from wgflow.errors import InvalidInput, InvalidType
from wgflow.solution import Solution

if TYPE_CHECKING:
    from wgflow.reduced_models.base import ReducedModel

    from ..particles import SGDResult

__all__ = ["HasCoordinates", "ParticleRuns", "Particles", "particle_runs", "width_of"]

Array = NDArray[np.float64]
#: Weights of atoms that differ by less than this share are equal.
_EQUAL = 1e-9
#: What particles may come as, in messages.
_KINDS = ("an SGDResult, a Solution of atoms, a pair (times, array of shape (runs, times, n, coordinates)), or an "
          "object with .t and .coordinates")


class HasCoordinates(Protocol):
    """Any object with times and with coordinates of shape (runs, times, n, coordinates)."""

    @property
    def t(self) -> ArrayLike: ...

    @property
    def coordinates(self) -> ArrayLike: ...


Particles: TypeAlias = "SGDResult | Solution | tuple[ArrayLike, ArrayLike] | HasCoordinates"


@dataclass(frozen=True)
class ParticleRuns:
    """Independent runs of particles.

    Attributes
    ----------
    t : array of shape (times,)
    coordinates : array of shape (runs, times, n, coordinates)
    source : object
        What they came from, as it was given.
    argument : str
        The name of the argument in messages.
    risk : array of shape (runs, times), optional
    model : ReducedModel, optional
    step_size : float
        Of SGD; 0 for other particles.
    notes : tuple of str
        What the reader must know.
    """

    t: Array
    coordinates: Array = field(repr=False)
    source: Any = field(repr=False)
    argument: str = "particles"
    risk: Array | None = field(default=None, repr=False)
    model: ReducedModel | None = None
    step_size: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.coordinates)

    @property
    def count(self) -> int:
        """Number of particles in each run."""
        return self.coordinates.shape[2]

    @property
    def is_sgd(self) -> bool:
        """Whether the particles are neurons under SGD: those have a step size."""
        return self.step_size > 0.0

    def on_axes(self, axes: Sequence[int]) -> ParticleRuns:
        """Return the same runs with some of their coordinates, and without a risk, which is that of all of them."""
        few = self.coordinates if self.coordinates.shape[3] == len(axes) else self.coordinates[..., list(axes)]
        return replace(self, coordinates=few, risk=None)

    def times_in(self, sol: Solution) -> Array:
        """Return the times of the solution that stand for those of the runs, or say which one is missing."""
        span = max(float(np.ptp(sol.t)), 1e-300)
        known = np.asarray(sol.t, dtype=float)
        nearest = known[np.abs(known[:, None] - self.t).argmin(axis=0)]
        # SGD's output times are whole numbers of steps: half a step is its own resolution of time.
        missing = np.abs(nearest - self.t) > max(1e-9 * span, 0.51 * self.step_size)
        if missing.any():
            times = f"{self.argument}[0]" if isinstance(self.source, (tuple, list)) else f"{self.argument}.t"
            raise InvalidInput(f"{times} holds {self.t[missing][0]:g}, which is not among sol.t: "
                               f"solve(..., t_eval={times})")
        return nearest


def particle_runs(source: Particles, ndim: int, argument: str = "particles") -> ParticleRuns:
    """Return particles from any source as runs, checked.

    Parameters
    ----------
    source : SGDResult, Solution of atoms, (times, array) or object with ``t`` and ``coordinates``
    ndim : int
        Number of coordinates that they must have.
    argument : str, optional
        The name of the argument in messages.
    """
    if isinstance(source, Solution):
        return _from_solution(source, ndim, argument)
    if isinstance(source, (tuple, list)):
        if len(source) != 2:
            raise InvalidInput(f"{argument} is a {type(source).__name__} of {len(source)} entries: need {_KINDS}")
        return _from_arrays(source[0], source[1], source, ndim, argument, (f"{argument}[0]", f"{argument}[1]"))
    for name in ("t", "coordinates"):
        if not hasattr(source, name):
            raise InvalidType(f"{argument} has no attribute {name!r}, it is of type {type(source).__name__}: need "
                              f"{_KINDS}")
    return _from_arrays(source.t, source.coordinates, source, ndim, argument,
                        (f"{argument}.t", f"{argument}.coordinates"))


def width_of(source: Particles, ndim: int, chosen: int) -> int:
    """Return how many coordinates particles have: all ``ndim``, or no more than the ``chosen`` ones."""
    given: Any = source
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    x: Any = given[1] if pair else getattr(given, "coordinates", None)
    return chosen if np.shape(x)[-1:] == (chosen,) else ndim


def _from_solution(sol: Solution, ndim: int, argument: str) -> ParticleRuns:
    """Return the atoms of a Solution as one run."""
    laws = [rho for rho in sol.densities if isinstance(rho, Atoms)]
    if len(laws) < len(sol.densities):
        raise InvalidInput(f"{argument} is a Solution of densities on a grid: it must be one of atoms, as "
                           "solve(..., method=Lagrangian(...)) returns; to compare two densities take "
                           "validation.wasserstein")
    weights = laws[0].weights
    if np.ptp(weights) > _EQUAL * weights.max():
        raise InvalidInput(f"{argument} is a Solution of atoms with weights from {weights.min():.3g} to "
                           f"{weights.max():.3g}: particles have equal ones. Solve with noise "
                           "(Lagrangian(n_particles=..., rng=...)), or compare the other way around, with these atoms "
                           "as the solution")
    x = np.stack([law.points.T for law in laws])[None]
    notes: tuple[str, ...] = ()
    if not sol.certificate.noisy:
        notes = ("The particles were placed, not drawn at random: they may be nearer to the law than the bands "
                 "expect.",)
    return _from_arrays(sol.t, x, sol, ndim, argument, (f"{argument}.t", f"{argument}.densities"), notes)


def _from_arrays(t: ArrayLike, x: ArrayLike, source: Any, ndim: int, argument: str, words: Sequence[str],
                 notes: tuple[str, ...] = ()) -> ParticleRuns:
    """Return runs from times and coordinates, whose names in messages are the two ``words``."""
    times, points = np.atleast_1d(real_array(t, words[0])), real_array(x, words[1])
    if times.ndim != 1 or times.size == 0 or not np.isfinite(times).all():
        raise InvalidInput(f"{words[0]} has shape {times.shape}: need a 1-D array of finite times")
    if (points.ndim != 4 or points.shape[0] < 1 or points.shape[1] != times.size or points.shape[2] < 2
            or points.shape[3] != ndim):
        raise InvalidInput(f"{words[1]} has shape {points.shape}: need (runs, {times.size} times, particles >= 2, "
                           f"{ndim} coordinates)" + _missing_axis(points, times.size, ndim))
    if not np.isfinite(points).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(points))[0])
        cause = "the run blew up, use a smaller step_size" if hasattr(source, "step_size") else "every one must be"
        raise InvalidInput(f"{words[1]}{list(where)} is not finite: {cause}")
    risk = getattr(source, "risk", None)
    return ParticleRuns(times, points, source, argument, None if risk is None else np.asarray(risk, dtype=float),
                        getattr(source, "model", None), float(getattr(source, "step_size", 0.0)), notes)


def _missing_axis(points: Array, times: int, ndim: int) -> str:
    """Return the fix where only an axis of length 1 is missing."""
    if points.ndim == 3 and ndim == 1 and points.shape[1] == times:
        return "; for a single coordinate add the last axis, x[..., None]"
    if points.ndim == 3 and points.shape[0] == times and points.shape[2] == ndim:
        return "; for a single run add the first axis, x[None]"
    return ""
