"""The atoms of a run: their bounds, and the forces on them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wgflow.energies.free_energy import FreeEnergy
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.gradients import box_of

from .at_bounds import resting

__all__ = ["Cloud"]

Array = NDArray[np.float64]


class Cloud:
    """The atoms of a run: their bounds, and the forces on them."""

    def __init__(self, flow):
        self.flow, self.rho0, self.mobility = flow, flow.atoms, flow.mobility
        bounds, periods = box_of(self.rho0)
        self.low, self.high = (np.array(ends)[:, None] for ends in zip(*bounds))
        self.bounded = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self.mixed = self.bounded and self.mobility is not None and self.mobility.kind == "matrix"
        self.turns = [(axis, self.rho0.bounds[axis][0], period) for axis, period in enumerate(periods) if period]

    def inside(self, points: Array) -> Array:
        """Return points moved to the nearest point inside the bounds, and into the first period."""
        if self.bounded:
            points = np.clip(points, self.low, self.high)
        if self.turns:
            points = points.copy()
            for axis, start, period in self.turns:
                points[axis] = start + np.mod(points[axis] - start, period)
        return points

    def gradient(self, points: Array, t: float) -> Array:
        """Return grad Psi at points inside; not a number where the energy has no value there."""
        try:
            rho = self.rho0.moved(points)
            return self.flow.energy_at(t).gradient(rho, rho.points)
        except InvalidType:
            raise
        except InvalidInput as error:
            if error.__cause__ is not None:
                raise ConvergenceError(f"{error}", reason="callback", t=t) from error
            return np.full(points.shape, np.nan)

    def pull(self, points: Array, t: float) -> Array:
        """Return A grad Psi at points inside, minus the velocity; not a number where the energy has no value."""
        force = self.gradient(points, t)
        return force if self.mobility is None else self.moved(points, force)

    def moved(self, points: Array, force: Array) -> Array:
        """Return A times a force at points inside; not a number where A is none."""
        try:
            return self.mobility.applied(points, force)
        except InvalidType:
            raise
        except InvalidInput as error:
            if error.__cause__ is not None:
                raise ConvergenceError(f"{error}", reason="callback") from error
            return np.full(points.shape, np.nan)

    def matrices(self, points: Array) -> Array:
        """Return A at points inside, shape (d, d, n)."""
        units = np.eye(len(points))[:, :, None] * np.ones(points.shape[1])
        return np.stack([self.moved(points, unit) for unit in units], axis=1)

    def resting(self, points: Array, t: float) -> tuple[NDArray[np.bool_], Array]:
        """Return which components are held by a bound, and the velocity, at points inside."""
        force = -self.gradient(points, t)
        if self.mixed:
            return resting(self.matrices(points), force, points <= self.low, points >= self.high)
        velocity = force if self.mobility is None else self.moved(points, force)
        held = self.outward(points, velocity)
        return held, np.where(held, 0.0, velocity)

    def energy_of(self, points: Array, t: float, terms: FreeEnergy | None = None) -> float:
        """Return F, or some of its terms, at points inside, without the entropy; infinite where it has no value."""
        try:
            energy = self.flow.energy_at(t) if terms is None else terms.at(t)
            return energy.energy(self.rho0.moved(points))
        except InvalidInput as error:
            if error.__cause__ is not None:
                raise ConvergenceError(f"{error}", reason="callback", t=t) from error
            return math.inf

    def outward(self, points: Array, velocity: Array) -> NDArray[np.bool_]:
        """Return which components lie on or beyond a bound and have a velocity that points out of it."""
        return ((points <= self.low) & (velocity < 0)) | ((points >= self.high) & (velocity > 0))
