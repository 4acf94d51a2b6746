r"""Blow-up told on a grid: when the mass of a few cells would lower the energy by concentrating further.

Mass m in one cell of volume v has the energy

.. math:: F(m, v) = v\,H(m / v) + \beta^{-1} m \log(m / v) + \tfrac12 m^2\,\bar w(v)

with the average :math:`\bar w(v)` of the kernel at displacement 0. Where it is lower in a cell of half the width,
:math:`F(m, 2^{-d} v) < F(m, v)`, no grid stops the collapse. For :math:`w = \chi \log |x|` and diffusion D this is
:math:`m \chi > 2 d D`, whatever the cells are: the critical mass itself (:math:`8 \pi D` for
:math:`\chi = 1 / 2 \pi` on two axes).
"""

from __future__ import annotations

import math

import numpy as np

from wgflow.energies import Assembled

__all__ = ["blow_up", "concentrates", "heaviest_block"]

#: Cells on each axis of the block on which a collapsed mass sits, and the part of all mass that it is at least.
BLOCK, MOST = 4, 0.5


def blow_up(parts: Assembled, masses: np.ndarray) -> str | None:
    """In words, that a law has collapsed onto a few cells and would go on on any grid; None where it has not.

    Two conditions: a block of four cells on each axis holds half of the mass or more, and that mass
    `concentrates`. A law of subcritical mass never meets the second one.

    Parameters
    ----------
    parts : Assembled
        The energy on the grid.
    masses : array of the grid's shape
    """
    total = float(masses.sum())
    if not parts.operators or float(masses.max()) * BLOCK**masses.ndim < MOST * total or not concentrates(parts, total):
        return None
    mass, cell = heaviest_block(masses, parts.grid.periodic)
    if mass < MOST * total or not concentrates(parts, mass):
        return None
    place = ", ".join(f"{c[k]:.6g}" for c, k in zip(parts.grid.centers, cell))
    return (f"blow-up: {mass / total:.1%} of the mass have collapsed onto {BLOCK**masses.ndim} cells at ({place}), and "
            "the energy falls further on any finer grid: the attraction of that mass is supercritical. Lower the mass "
            "or the attraction, add diffusion, or stop the run earlier")


def heaviest_block(masses: np.ndarray, periodic: tuple[bool, ...]) -> tuple[float, tuple[int, ...]]:
    """The largest mass of a block of four cells on each axis, and its heaviest cell."""
    sums = masses
    for axis, wraps in enumerate(periodic):
        n = masses.shape[axis]
        width = min(BLOCK, n)
        sums = sum((np.roll(sums, -k, axis=axis) for k in range(1, width)), sums)
        if not wraps:
            sums = sums[(slice(None),) * axis + (slice(0, n - width + 1),)]
    corner = np.unravel_index(int(sums.argmax()), sums.shape)
    cells = np.ix_(*[(k + np.arange(min(BLOCK, n))) % n for k, n in zip(corner, masses.shape)])
    heaviest = np.unravel_index(int(masses[cells].argmax()), masses[cells].shape)
    return float(sums[corner]), tuple(int(axis.ravel()[k]) for axis, k in zip(cells, heaviest))


def concentrates(parts: Assembled, mass: float) -> bool:
    """Whether a mass in one cell has less energy in a cell of half the width."""
    drop = sum(factor * getattr(operator, "self_drop", 0.0) for factor, operator in parts.operators)
    if not drop > 0:
        return False
    d = parts.grid.ndim
    rise = parts.diffusion * mass * d * math.log(2.0)
    volume = float(parts.grid.volumes.flat[0])
    for factor, term in parts.internal:
        narrow, wide = (v * float(np.asarray(term.H(np.array([mass / v])))[0]) for v in (volume / 2**d, volume))
        rise += factor * (narrow - wide)
    return rise < 0.5 * mass * mass * drop
