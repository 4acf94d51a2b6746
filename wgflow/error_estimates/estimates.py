r"""Error estimates of a solution: Richardson's for the grid and the steps, tails for the box, samples of a sample.

Along with the solution on n cells the same flow is solved on n/2 and on n/4 cells, with the same steps. The errors of
the steps then cancel in the differences, and with :math:`d_1`, :math:`d_2` the distances of the densities on n and n/2
and on n/2 and n/4 cells

.. math:: p = \log_2 (d_2 / d_1), \qquad \|\rho_h - \rho\| \approx \frac{d_1}{2^p - 1},

where p is kept between 1/2 and the order of the scheme. The error of the steps is what changes on n/4 cells when each
of them is halved, times :math:`2^q / (2^q - 1)` for steps of order q.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.checks import described
from wgflow.densities import Density
from wgflow.energies.nodes import is_smooth_everywhere
from wgflow.errors import InvalidType

from .coarsening import coarser
from .measures import differences, distances
from .resampling import spread_of_samples
from .result import ErrorBar, ErrorEstimate, Functional
from .runs import Known, Law, Related, related_runs, same_fluxes
from .walls import beyond_walls

if TYPE_CHECKING:
    from wgflow.energies.free_energy import FreeEnergy
    from wgflow.solution import Solution
    from wgflow.solvers.base import Method

__all__ = ["estimate_error"]

Array = NDArray[np.float64]
#: Least order with which an error is extrapolated.
LEAST_ORDER = 0.5
#: Order of the fluxes that the certificate calls of fourth order, of atoms from a density; of all others; at fronts.
FOURTH, SECOND, AT_FRONTS = 4.0, 2.0, 1.25
#: An observed order below this part of that is not the order of the scheme.
IN_ORDER = 0.6
#: A density falls from the first to the second of these parts of its largest value within two cells at a front.
ABOVE_FRONT, BELOW_FRONT = 1e-3, 1e-5
#: By how much the observed order of a functional may differ from that of the law.
IN_STEP = 0.25
#: By how much differences may fall faster than by the order of the law: beyond, the last one is small by accident.
AHEAD, AHEAD_OF_LAWS = 1.0, 2.0
#: Distances below this are round-off.
ROUNDING = 1e-12
#: Laws whose coarser twins differ by more than this part of the mass are not resolved there.
UNRESOLVED = 0.5


class _Order(NamedTuple):
    """The order with which differences are extrapolated, the observed one, trust, and what is to be said."""

    used: float
    observed: float | None
    trusted: bool
    note: str = ""


def estimate_error(solution: Solution, energy: FreeEnergy, start: Law, method: Method, k: int,
                   functional: Functional | None, related: Related | None) -> tuple[ErrorEstimate, Related]:
    """Return the errors at the k-th snapshot, and the runs they are made of; see `Solution.estimate_error`.

    Parameters
    ----------
    solution : Solution
    energy : FreeEnergy
    start : Density or Atoms
        The initial law.
    method : Method
    k : int
    functional : callable, optional
    related : Related, optional
        The runs, if they have been done.
    """
    if functional is not None and not callable(functional):
        raise InvalidType(f"functional={described(functional)}: need a function of a law, such as model.risk or lambda "
                          "rho: rho.quantile(0.9)")
    if related is None:
        related = related_runs(solution, energy, start, method, k)
    own, notes = related.own, []
    nothing = np.abs(differences(own, own, functional))
    space, order = _of_grid(related, functional, nothing)
    time = nothing if related.pair is None else related.time_gain * np.abs(differences(*related.pair, functional))
    box = sample = None
    if order.note:
        notes.append(order.note)
    if isinstance(start, Density) and start.sample_size is not None:
        if related.quarter is not None and isinstance(own.law, Density):
            sample = spread_of_samples(related, related.quarter, start.sample_size, functional)
        else:
            notes.append("the initial law is a sample, whose own error is not in this estimate")
    if isinstance(own.law, Density) and isinstance(start, Density):
        beyond, said = beyond_walls(solution, start, k)
        notes += said
        if np.isnan(beyond).sum() < beyond.size:
            box = _of_walls(own.law, energy.at(float(solution.t[k])), np.nan_to_num(beyond), functional)
    parts = [np.full(nothing.size, np.nan) if part is None else part for part in (space, time, box, sample)]
    bars = [None if math.isnan(nothing[j]) else ErrorBar(*(None if math.isnan(part[j]) else float(part[j])
                                                           for part in parts)) for j in range(nothing.size)]
    found = _result(float(solution.t[k]), bars, _shapes(start, related), order, tuple(notes))
    return replace(found, functional_name=_name_of(functional)), related


def _name_of(functional: Functional | None) -> str:
    """Return what texts call a functional: the name of its function, if it has one of its own."""
    name = str(getattr(functional, "__name__", ""))
    return name.replace("_", " ").strip()[:40] if name.isidentifier() else "functional"


def _of_grid(related: Related, functional: Functional | None, nothing: Array) -> tuple[Array | None, _Order]:
    """Return the errors of the grid, and the order with which they were found."""
    if not related.coarse:
        # Atoms that are the law themselves, or no step at all.
        atoms = isinstance(related.runner.start, Atoms)
        return None if atoms else nothing, _Order(math.nan, None, True, "the atoms are the initial law: there is "
                                                  "no error of a grid" if atoms else "")
    own, (half, quarter) = related.own, related.coarse
    first, second = differences(own, half, functional), differences(half, quarter, functional)
    order = _observed(related.runner.start, own, half, quarter)
    # Errors of a law that is not yet resolved fall faster than those that follow, within reason, and those of numbers
    # faster than those of the law, where both differences have one sign.
    ahead = np.where(first * second > 0, AHEAD_OF_LAWS, AHEAD)
    ahead[:1 + _ndim(own.law)] = AHEAD
    falling = 2.0 ** (order.used + ahead) if order.observed is not None else 2.0**order.used
    if not (same_fluxes(own, half) and same_fluxes(half, quarter)):
        second = np.zeros(second.size)
    space = np.maximum(np.abs(first), np.abs(second) / falling) / (2.0**order.used - 1.0)
    if isinstance(own.law, Atoms):
        # Atoms of any law are apart by what lies between them, on each grid alike.
        far = slice(0, 1 + _ndim(own.law))
        space[far] = np.abs(first[far])
    if isinstance(own.law, Density) and _has_front(own.law):
        # Where a front lies within its cell is known better than averages over cells can say.
        plain = Density(own.law.grid, own.law.values)
        joined = np.abs(differences(Known(coarser(plain), own.energy), Known(plain, own.energy), None))
        moments = slice(2 + _ndim(own.law), joined.size)
        space[moments] = np.maximum(space[moments], joined[moments] / (2.0**SECOND - 1.0))
    if functional is not None:
        space[-1] = _of_functional(own.law, functional, float(first[-1]), float(second[-1]), order)
    return space, order


def _of_functional(law: Law, functional: Functional, first: float, second: float, order: _Order) -> float:
    """Return the error of the grid in a functional, which need not be as smooth as the law.

    Quantiles, say, are interpolated within cells, with errors that come and go with the place of an edge. Differences
    that do not fall as those of the law are taken to be of first order, and what the cells of the solution say within
    themselves is seen from joining them.
    """
    steady = first * second > 0 and order.observed is not None and (
        abs(math.log2(second / first) - order.observed) <= IN_STEP)
    found = abs(first) / (2.0**order.used - 1.0) if steady else max(abs(first), abs(second) / 2.0)
    if isinstance(law, Density):
        plain = Density(law.grid, law.values)
        found = max(found, abs(functional(coarser(plain)) - functional(plain)) / (2.0**SECOND - 1.0))
    return found


def _observed(start: Law, own: Known, half: Known, quarter: Known) -> _Order:
    """Return the order of a density's L1 error; for atoms, which have none, of that of the energy."""
    highest = FOURTH if "fourth" in own.scheme or isinstance(own.law, Atoms) else SECOND
    expected = highest
    if highest == SECOND and isinstance(own.law, Density) and _has_front(own.law):
        # Where a front lies within its cells shows on no coarser grid.
        highest = expected = AT_FRONTS
    if isinstance(start, Density) and not is_smooth_everywhere(start.values):
        # What a histogram says within its cells is a matter of convention.
        expected = AT_FRONTS
    if not same_fluxes(own, half):
        # The difference is the error of the other fluxes on twice the width, an upper bound.
        return _Order(1.0, None, False, f"half of the cells take other fluxes than the run: {half.scheme}")
    if not same_fluxes(half, quarter):
        order = max(highest - 1.0, 1.0)
        return _Order(order, None, False, "a quarter of the cells takes other fluxes than the run: an order of "
                      f"{order:g} was assumed")
    first, second = (abs(a.energy - b.energy) if isinstance(a.law, Atoms) else float(distances(a.law, b.law)[0])
                     for a, b in ((own, half), (half, quarter)))
    if max(first, second) <= ROUNDING:
        return _Order(highest, None, True)
    observed = math.log2(max(second, ROUNDING) / max(first, ROUNDING))
    used = min(max(observed, LEAST_ORDER), highest)
    if observed < IN_ORDER * expected:
        return _Order(used, observed, False, f"the differences of the three grids do not fall as errors do (order "
                      f"{observed:.2f}, expected {expected:g}): more cells are needed to tell")
    if first > UNRESOLVED and isinstance(own.law, Density):
        return _Order(used, observed, False, f"half of the cells resolve nothing (L1 difference {first:.2g})")
    return _Order(used, observed, True)


def _ndim(law: Law) -> int:
    return law.ndim if isinstance(law, Atoms) else law.grid.ndim


def _has_front(rho: Density) -> bool:
    """Return whether a density ends, or jumps to almost nothing, within two cells."""
    level = float(rho.values.max())
    for axis in range(rho.grid.ndim):
        lines = np.moveaxis(rho.values, axis, 0)
        for one, other in ((lines[2:], lines[:-2]), (lines[:-2], lines[2:])):
            if ((one > ABOVE_FRONT * level) & (other < BELOW_FRONT * level)).any():
                return True
    return False


def _of_walls(law: Density, energy: FreeEnergy, beyond: Array, functional: Functional | None) -> Array:
    """Return by how much numbers change if the mass beyond the walls is added at the walls."""
    grid, mass = law.grid, float(beyond.sum())
    masses = (1.0 - mass) * law.masses / law.mass
    for axis in range(grid.ndim):
        for side in (0, 1):
            # Spread along a wall as the law is.
            across = np.moveaxis(masses, axis, 0)
            rest = law.masses.sum(axis=axis) / law.mass
            across[-side] += beyond[axis, side] * rest
    own, other = (Density(grid, m / grid.volumes) for m in (law.masses / law.mass, masses))
    changes = np.abs(differences(Known(other, float(energy(other))), Known(own, float(energy(own))), functional))
    changes[0] = 2.0 * mass
    return changes


def _shapes(start: Law, related: Related) -> tuple[tuple[int, ...], ...]:
    laws = [start] if isinstance(start, Atoms) else [start, *(known.law for known in related.coarse)]
    return tuple((law.size,) if isinstance(law, Atoms) else law.grid.shape for law in laws)


def _result(t: float, bars: list[ErrorBar | None], shapes: tuple[tuple[int, ...], ...], order: _Order,
            notes: tuple[str, ...]) -> ErrorEstimate:
    """Return the estimate of bars in the order of `differences`."""
    ndim = (len(bars) - 2) // 3

    def axes(first: int) -> Any:
        return bars[first] if ndim == 1 else tuple(bars[first:first + ndim])

    return ErrorEstimate(t=t, density=bars[0], w1=axes(1), energy=cast(ErrorBar, bars[1 + ndim]), mean=axes(2 + ndim),
                         variance=axes(2 + 2 * ndim), functional=(*bars, None)[2 + 3 * ndim],
                         order=order.observed, trusted=order.trusted, cells=shapes, notes=notes)
