"""What a scheme tells of its steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wgflow.jko_steps import JKOStep

__all__ = ["Interior", "Step", "Steps"]


class Step(NamedTuple):
    """An accepted step, as a scheme tells it: the law after it, and what is known of the way there.

    Attributes
    ----------
    t : float
        The time after the step.
    law : array
        Masses of the cells, of the grid's shape, or points of the atoms (n_coordinates, n). Copied where it is kept,
        unless it is ``fresh``.
    energy : float
        The free energy of the law.
    clock : float
        The integral of time_scale from the start of the flow to t.
    rate : float or None
        The dissipation of the law, -dF/dt at time_scale 1, where it was formed.
    dissipated : float or None
        The dissipation integrated since the start, where the scheme integrates it along with the path.
    work : float
        The energy given to the law since the start by terms that change with time.
    fallback : bool
        Whether the step is another one than was asked for.
    residual : float
        What an inner solver left.
    bias : float or None
        By how much (W2) regularization has moved the law in this step.
    excess : float or None
        What the step lacks of an energy-dissipation inequality, over max(1, abs(F)); at most 0 where it holds.
    mass, min_density : float or None
        As the scheme measures them; by default those of the law.
    jko : JKOStep or None
        What is known of a step of the JKO scheme.
    inside : float or None
        The dissipation in the middle of the step by the clock, where it was formed.
    rate_before : float or None
        Where the energy jumps at t, the dissipation before the jump; ``rate`` is that after it.
    fresh : bool
        Whether the array of the law is this step's own, and the scheme never writes to it again.
    """

    t: float
    law: np.ndarray
    energy: float
    clock: float = 0.0
    rate: float | None = None
    dissipated: float | None = None
    work: float = 0.0
    fallback: bool = False
    residual: float = 0.0
    bias: float | None = None
    excess: float | None = None
    mass: float | None = None
    min_density: float | None = None
    jko: JKOStep | None = None
    inside: float | None = None
    rate_before: float | None = None
    fresh: bool = False


class Interior(NamedTuple):
    """A law inside the coming step, for the snapshots and the audit; told before the step is.

    Its energy is looked at where the method chooses the snapshots, that is without ``t_eval``.
    """

    t: float
    law: np.ndarray
    energy: float


class Steps(NamedTuple):
    """Accepted steps that a scheme has taken at once, none of them with more to tell than this; see `Step`.

    Attributes
    ----------
    t, energy, clock, rate : list of float
        Of each step, as `Step` has them.
    laws : array, shape (k, cells)
        The masses of the cells after each step.
    error : list of float
        The sum of the estimated errors after each step.
    rejected : list of int
        How many steps had been rejected when it was accepted.
    least : list of float
        The smallest of the masses after each step.
    """

    t: list[float]
    laws: np.ndarray
    energy: list[float]
    clock: list[float]
    rate: list[float]
    error: list[float]
    rejected: list[int]
    least: list[float]
