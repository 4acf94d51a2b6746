"""The run of `Lagrangian` with noise: interacting Langevin particles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import ConvergenceError
from wgflow.flows import Flow
from wgflow.recorder import Step

from ..base import Run
from .cloud import Cloud

if TYPE_CHECKING:
    from .method import Lagrangian

#: The default step is this part of the time in which the drift changes,
DRIFT_SHARE = 0.05
#: and at most this part of the time span.
SPAN_SHARE = 0.02
#: Displacement at which the change of the drift is measured, relative to the cloud's extent or 1.
PROBE = 1e-4
#: A span that exceeds a whole number of steps by less than this part of it needs no additional step.
SLACK = 1e-9

Array = NDArray[np.float64]


class LangevinRun(Run):
    r"""Steps by Strang splitting: noise for half the step, drift for the step, noise for half the step.

    Drift: :math:`\dot\theta = -\nabla\Psi` by Heun's method, points kept inside the bounds. Noise: over the time h (by
    the clock of time_scale) each coordinate becomes

    .. math:: \sqrt{(x + \sigma g)^2 + \sigma^2 \chi_p^2}, \qquad \sigma^2 = 2 h / \beta,

    the law of :math:`dx = \frac{p}{\beta x} dt + \sqrt{2/\beta}\,dB` exactly: for whole p it is the length of a
    Brownian motion in p + 1 dimensions (a Bessel process; for any p >= 0 by the Laplace transform of its square).
    Without a power it is a Brownian motion. Bounds reflect it by folding, which is exact for p = 0.
    """

    method: Lagrangian

    def __init__(self, method: Lagrangian, flow: Flow, rng: np.random.Generator):
        super().__init__(method, flow)
        self.rng, self.cloud = rng, Cloud(flow)
        self.temperature = 1.0 / flow.energy.beta
        self.points = self.cloud.inside(flow.atoms.points)
        # Steps of equal length: where they began, their number, and how many of them are done.
        self.begin, self.count, self.done = flow.t0, 0, 0

    def start(self) -> Step:
        energy = self.cloud.energy_of(self.points, self.t)
        if self.flow.t1 > self.flow.t0 and math.isfinite(energy):
            self.dt = self.method.dt or self._default_step()
        return Step(self.t, self.points, energy)

    def advance(self, stop: float) -> Iterator[Step]:
        if self.done >= self.count:
            self.begin, self.done = self.t, 0
            self.count = max(1, math.ceil((stop - self.t) / self.dt * (1 - SLACK)))
        self.done += 1
        last = self.done == self.count
        end = stop if last else self.begin + (stop - self.begin) * (self.done / self.count)
        if end > self.t or last:
            yield self._step(end)

    def _default_step(self) -> float:
        """Return a part of 1 / L, L measuring how fast the drift of the initial particles changes with the point."""
        extent = np.ptp(self.points, axis=1, keepdims=True)
        probe = PROBE * np.where(extent > 0, extent, 1.0)
        # Fixed directions, so that the measurement draws no numbers from the stream of the noise.
        signs = np.where(np.random.default_rng(8191).random(self.points.shape) < 0.5, -1.0, 1.0)
        moved = self.cloud.inside(self.points + probe * signs)
        moved = np.where(moved == self.points, self.cloud.inside(self.points - probe * signs), moved)
        change = self._drift(moved, moved) - self._drift(self.points, self.points)
        span = self.flow.t1 - self.flow.t0
        rate = float(np.quantile(np.abs(change / probe).max(axis=0), 0.99))
        speed = self.flow.elapsed(self.flow.t0, SPAN_SHARE * span) / (SPAN_SHARE * span)
        return min(SPAN_SHARE * span, DRIFT_SHARE / (rate * speed)) if rate > 0 else SPAN_SHARE * span

    def _drift(self, points: Array, cloud: Array) -> Array:
        """Return -grad Psi at points of the law of the particles at ``cloud``."""
        return -self.flow.energy_at(self.flow.t0).gradient(self.cloud.rho0.moved(cloud), points)

    def _step(self, end: float) -> Step:
        dt = end - self.t
        self.check_moves(dt)
        elapsed = self.flow.elapsed(self.t, dt)
        points = self._noise(self.points, 0.5 * elapsed)
        first = -self.cloud.gradient(points, self.t)
        second = -self.cloud.gradient(self.cloud.inside(points + elapsed * first), end)
        points = self.cloud.inside(points + 0.5 * elapsed * (first + second))
        if np.isfinite(points).all():
            points = self._noise(points, 0.5 * elapsed)
        energy = self.cloud.energy_of(points, end) if np.isfinite(points).all() else math.inf
        if not math.isfinite(energy):
            raise ConvergenceError(f"a particle or the energy is not finite after the step from t = {self.t:.6g}; a "
                                   f"smaller dt (now {dt:.3g}) may help", reason="non-finite", t=self.t, dt=dt)
        self.t, self.points = end, points
        return Step(end, points, energy)

    def _noise(self, points: Array, elapsed: float) -> Array:
        """Return the points after a time ``elapsed`` of noise alone, kept inside the bounds."""
        sigma = math.sqrt(2.0 * self.temperature * elapsed)
        out = points + sigma * self.rng.standard_normal(points.shape)
        rho = self.cloud.rho0
        for axis, ((lo, hi), power, periodic) in enumerate(zip(rho.bounds, rho.powers, rho.periodic)):
            if power > 0:
                out[axis] = np.sqrt(out[axis] ** 2 + sigma**2 * self.rng.chisquare(power, points.shape[1]))
            if not periodic:
                out[axis] = fold(out[axis], lo, hi)
        return self.cloud.inside(out)


def fold(x: Array, lo: float, hi: float) -> Array:
    """Return the points reflected at the ends of an interval as often as it takes."""
    if math.isinf(lo) and math.isinf(hi):
        return x
    if math.isinf(hi):
        return lo + np.abs(x - lo)
    if math.isinf(lo):
        return hi - np.abs(x - hi)
    width = hi - lo
    return lo + width - np.abs(np.mod(x - lo, 2.0 * width) - width)
