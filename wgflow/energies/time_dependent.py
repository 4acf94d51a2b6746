"""Terms of a free energy that change with time: driven potentials, interactions that are switched on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.atoms import Atoms
from wgflow.checks import real_array
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.errors import InvalidInput, InvalidType

__all__ = ["TimeDependent"]


class TimeDependent(Term):
    r"""A term that changes with time, :math:`F(\rho, t)`: a moving trap, an interaction that is switched on.

    With it :math:`\partial_t \rho = s(t)\,\nabla\cdot(\rho \nabla \tfrac{\delta F}{\delta\rho}(\rho, t))`, and F
    changes for two reasons: the flow dissipates it, and the work :math:`W = \int \partial_t F(\rho(t), t)\,dt` is done
    on the law. A solution reports the work after each step (``sol.history.work``), and its certificate judges F less
    the work, which cannot rise.

    Parameters
    ----------
    term_at : callable
        A function of t that returns a `Potential`, an `Interaction` or a sum of such terms, e.g.
        ``lambda t: wg.Potential(lambda x: (x - np.sin(t))**2 / 2)``. It is called several times a step; construct an
        interaction outside of it, so that its kernel is evaluated once: ``U = wg.Interaction(...)``,
        ``lambda t: np.tanh(t) * U``.
    breakpoints : sequence of float, optional
        Times at which the term jumps, or begins or ends a short pulse. A step ends on each of them, and between two of
        them the term is looked at in any case. Jumps that last are found without being given.

    Raises
    ------
    InvalidInput
        If it returns something else, or an internal energy. For a diffusion D(t) that changes with time use
        ``time_scale=D`` and divide the other terms by D(t).

    Examples
    --------
    >>> import wgflow as wg
    >>> grid = wg.Grid([(-6, 8)], cells=280)
    >>> trap = TimeDependent(lambda t: wg.Potential(lambda x: (x - t) ** 2 / 2))
    >>> sol = wg.solve(wg.Entropy(1.0) + trap, wg.Density.gaussian(grid, 0.0, 1.0), (0, 1))
    >>> print(f"{sol.final.mean():.3f} {sol.history.work[-1]:.3f}")  # exp(-1) both
    0.368 0.368
    """

    def __init__(self, term_at: Callable[[float], Any], breakpoints: ArrayLike = ()):
        if isinstance(term_at, Term) or not callable(term_at):
            raise InvalidType(f"term_at must be a function of t that returns a term, got {type(term_at).__name__}")
        if _needed(term_at) > 1:
            raise InvalidType(f"term_at takes {_needed(term_at)} arguments; need a function of t alone that returns a "
                              "term, such as TimeDependent(lambda t: Potential(lambda x: t * x**2))")
        self._term_at = term_at
        times = np.atleast_1d(real_array(breakpoints, "breakpoints"))
        if times.ndim != 1 or not np.isfinite(times).all():
            raise InvalidInput(f"breakpoints has shape {times.shape}; need a sequence of finite times")
        self._breakpoints = tuple(sorted(set(times.tolist())))

    @property
    def time_dependent(self) -> bool:
        return True

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return self._breakpoints

    def at(self, t: float) -> Term:
        """Return the term as it is at a time."""
        term = self._term_at(float(t))
        if not isinstance(term, Term):
            raise InvalidType(f"TimeDependent: its function returned {type(term).__name__} at t={t:g}; need a "
                              "Potential, an Interaction or a sum of such terms")
        term = term.at(t)
        terms = [part for _, part in term.terms] if isinstance(term, FreeEnergy) else [term]
        internal = [part for part in terms if part.is_internal]
        if internal:
            raise InvalidInput(f"TimeDependent: its function returned {internal[0]!r}; internal energies cannot change "
                               "with time: add them outside (for a diffusion D(t): time_scale=D, and the other terms "
                               "divided by D(t))")
        return term

    def energy(self, rho: Density | Atoms) -> float:
        raise self._no_time("energy")

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        raise self._no_time("first_variation")

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        raise self._no_time("gradient")

    @staticmethod
    def _no_time(what: str) -> InvalidInput:
        return InvalidInput(f"{what}: a term changes with time; choose a time, as in energy.at(t)(rho)")

    def __repr__(self):
        return f"TimeDependent({getattr(self._term_at, '__name__', type(self._term_at).__name__)})"


def _needed(function: Callable[..., Any]) -> int:
    """Return how many arguments a function cannot do without; 1 where that is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
