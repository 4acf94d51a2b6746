r"""What lies beyond the ends of a grid that stand for infinity, estimated from the law between them.

No flux leaves at an end of a grid, where infinite space has :math:`J = \rho v - D\,\partial_n \rho` with the velocity
:math:`v = -\partial_n (V + U \rho) + D\,\partial_n \log w` outward and the diffusion constant
:math:`D = \beta^{-1} + r H''(r)`. What would be outside, if the walls were not there, is about
:math:`\int_{end} \rho\,\ell`, beside the mass inside, with a length

.. math:: \ell = \min\Bigl(\frac{D}{|v|},\ 2 \sqrt{D t / \pi},\ L\Bigr) :

* where v points inward, :math:`\rho D / |v|` is the mass of the exponential tail in which both parts of J cancel,
  summed over cells like the outermost one, :math:`m / (e^{h / \ell} - 1)` for its mass m;
* where v points outward, it is the mass of the layer in which the wall holds what would have left; a layer within a
  cell has the mass of that cell;
* where v is small, :math:`2 \rho \sqrt{D t / \pi}` is what diffusion has brought over a plane of constant density in
  the time t (by the clock of time_scale). Where the law falls towards the end, it is no more than its tail: a tail
  :math:`e^{-x/\ell}` and its image at the wall make :math:`\cosh`, from which the length follows. At most the box over
  again (L is its length) is thought to be outside.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.internal_energies import relative_density
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.energies.potentials import Potential
from wgflow.grids import Grid

__all__ = ["HOLDS", "Outermost", "Outside", "beyond_bounds", "goes_on", "judge_outside", "mass_outside"]

#: A law with a larger part of its mass beyond ends that stand for infinity cannot be said to be right,
HOLDS = 1e-4
#: and with a larger part than this it is wrong, if it is known that nothing ends there.
FAILS = 1e-2
#: The same for random particles, of which few are near an end.
SAMPLE_HOLDS, SAMPLE_FAILS = 5e-3, 2e-2
#: Near an end is what is nearer than this part of the distance between both ends.
NEAR = 0.05

Array = NDArray[np.float64]


class Outside(NamedTuple):
    """An estimate of what lies beyond the ends: the part of the mass, and the end where it is most, in words."""

    part: float
    end: str


class Outermost:
    """The outermost cells at the ends of a grid that stand for infinity, which are looked at after every step."""

    def __init__(self, grid: Grid):
        ends = [(axis, side, _length(grid, axis) / float(grid.widths[axis][side]))
                for axis, pair in enumerate(grid.open_ends) for side, is_open in zip((0, -1), pair) if is_open]
        self.few = [(side, factor) for _, side, factor in ends] if grid.ndim == 1 else []
        if self.few:
            return
        cells = [_numbers(grid.shape, axis, side) for axis, side, _ in ends]
        self.cells = np.concatenate(cells)
        self.factors = np.concatenate([np.full(part.size, factor) for part, (_, _, factor) in zip(cells, ends)])

    def most_outside(self, masses: Array) -> float:
        """Return an upper bound of what `mass_outside` finds, times the mass: :math:`\\int_{end} \\rho L`."""
        if self.few:
            return sum([masses.item(cell) * factor for cell, factor in self.few])
        held = masses.take(self.cells)
        held *= self.factors
        return float(held.sum())

    def most_of_several(self, laws: Array) -> float:
        """Return a bound of `most_outside` for several laws on one axis, an array of shape (k, n)."""
        return sum([max(laws[:, cell].tolist()) * factor for cell, factor in self.few])


def mass_outside(energy: EnergyOnGrid, masses: Array, elapsed: float = math.inf,
                 mobility: list[Array] | None = None) -> Outside:
    """Return which part of the mass is estimated to lie beyond the ends that stand for infinity, and where most of it.

    Parameters
    ----------
    energy : EnergyOnGrid
        The energy at the time of the law.
    masses : array of the grid's shape
    elapsed : float
        The time since the start by the clock of time_scale; infinite for a stationary state.
    mobility : list of arrays, optional
        The diagonal of A in the cells, by which both parts of J are multiplied.
    """
    grid, worst, total, where = energy.grid, 0.0, 0.0, ""
    psi = energy.psi(energy.potential, masses)
    spread_within = _diffusivity(energy, masses)
    for axis, ends in enumerate(grid.open_ends):
        for side, inner, is_open in zip((0, -1), (1, -2), ends):
            if not is_open:
                continue
            outermost, height = np.take(masses, side, axis), np.take(psi, side, axis)
            distance = float(grid.distances[axis][side])
            spreading = np.take(spread_within, side, axis)
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                speed = (np.take(psi, inner, axis) - height) / distance
                if grid.log_weight is not None:
                    lines = np.moveaxis(grid.log_weight, axis, 0)
                    speed = speed + spreading * (lines[side] - lines[inner]) / distance
                passed = elapsed if mobility is None else elapsed * np.take(mobility[axis], side, axis)
                spread = np.fmin(2.0 * np.sqrt(spreading * passed / math.pi), _decay(masses, grid, axis, side))
                length = spreading / np.abs(speed)
                length = np.where(length <= 2.0 * np.sqrt(spreading * passed / math.pi), length, spread)
                length = np.fmin(length, _length(grid, axis))
                cells = length / grid.widths[axis][side]
                held = outermost * np.where(speed > 0, np.maximum(cells, 1.0), 1.0 / np.expm1(1.0 / cells))
            part = float(np.where(outermost > 0, held, 0.0).sum())
            total += part
            if part > worst:
                worst, where = part, _words(grid.names[axis], side, grid.bounds[axis])
    return Outside(total / (float(masses.sum()) + total), where)


def beyond_bounds(points: Array, weights: Array, bounds, ends, names, noise: float) -> Outside:
    """Return which part of the mass of atoms the bounds that stand for infinity hold back, and where most of it.

    Parameters
    ----------
    points : array (n_coordinates, n)
    weights : array (n,)
    bounds, names : one (lo, hi) and one name for each coordinate
    ends : sequence of (bool, bool)
        Which bounds stand for infinity.
    noise : float
        :math:`2 t / \\beta`, the variance by noise since the start; 0 without noise. Atoms without noise rest on a
        bound. With it they are reflected, and those count that are near it.
    """
    worst, total, where = 0.0, 0.0, ""
    for x, (low, high), pair, name in zip(points, bounds, ends, names):
        near = min(NEAR * (high - low), math.sqrt(noise)) if noise > 0 else 0.0
        for side, is_open in zip((0, -1), pair):
            if is_open:
                part = float(weights[(x <= low + near) if side == 0 else (x >= high - near)].sum())
                total += part
                if part > worst:
                    worst, where = part, _words(name, side, (low, high))
    return Outside(total / float(weights.sum()), where)


def judge_outside(part: float, unbounded: bool, allowed: float = 0.0, *, sample: bool = False) -> bool | None:
    """Return whether so much mass beyond the ends leaves a result right (True), wrong (False), or unknown (None).

    Parameters
    ----------
    part : float
        The part of the mass.
    unbounded : bool
        Whether it is known that the domain does not end there. Otherwise walls may be meant, and nothing is wrong.
    allowed : float
        The error that the result has anyway, or that was asked for; 0 if it is not known.
    sample : bool
        Whether it is a part of random particles.
    """
    holds, fails = (SAMPLE_HOLDS, SAMPLE_FAILS) if sample else (HOLDS, FAILS)
    if part <= max(holds, min(allowed, fails)):
        return True
    return False if unbounded and part > fails else None


def goes_on(energy: FreeEnergy) -> bool:
    """Return whether an energy is one of reduced coordinates, which are known to go on beyond the ends of a grid."""
    return any(isinstance(term, Potential) and term.reduced for _, term in energy.terms)


def _numbers(shape: tuple[int, ...], axis: int, side: int) -> NDArray[np.intp]:
    """Return the numbers, in C order, of the cells at one end of an axis."""
    lines = [np.arange(n) for n in shape]
    lines[axis] = np.array([side % shape[axis]])
    return np.ravel_multi_index(np.ix_(*lines), shape).ravel()


def _decay(masses: Array, grid: Grid, axis: int, side: int) -> float:
    """Return the length over which the law falls towards an end, at most the length of the axis."""
    profile = masses.sum(axis=tuple(k for k in range(grid.ndim) if k != axis)) / grid.widths[axis]
    longest, centers = _length(grid, axis), grid.centers[axis]
    away = np.abs(centers - centers[side])
    inner = int(np.argmin(np.abs(away - NEAR * longest)))
    if not (profile[inner] > profile[side] > 0 and away[inner] > 0):
        return longest
    return min(longest, float(away[inner] / np.arccosh(profile[inner] / profile[side])))


def _diffusivity(energy: EnergyOnGrid, masses: Array) -> Array:
    """Return D at each cell."""
    total = np.broadcast_to(energy.diffusion, masses.shape)
    if energy.internal:
        r = np.maximum(relative_density(masses, energy.grid), 1e-300)
        for factor, term in energy.internal:
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                total = total + factor * np.nan_to_num(r * term.second_derivative(r), nan=0.0, posinf=0.0)
    return total


def _length(grid: Grid, axis: int) -> float:
    return float(grid.edges[axis][-1] - grid.edges[axis][0])


def _words(name: str, side: int, bounds: tuple[float, float]) -> str:
    return f"the {'lower' if side == 0 else 'upper'} end of {name}, {bounds[side]:g}"
