"""The run of `Lagrangian` with noise: interacting Langevin particles."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.energies.mobility import Mobility
from wgflow.errors import ConvergenceError, WGFlowWarning
from wgflow.flows import Flow
from wgflow.gradients import box_of
from wgflow.progress import duration
from wgflow.recorder import Step

from ..base import Run
from .cloud import Cloud
from .mobile_noise import mobile_step, reflected

if TYPE_CHECKING:
    from .method import Lagrangian

#: The default step is this part of the time in which the drift changes,
DRIFT_SHARE = 0.05
#: and at most this part of the time span.
SPAN_SHARE = 0.02
#: Where the flow changes with time, particles at whose points the change of the drift is measured before each step;
MEASURED = 64
#: a step may miss this part of the law's width of what it cannot follow of terms that change with time,
UNFOLLOWED = 1e-3
#: and is shortened so many times at most before it is tried.
SHORTENINGS = 60
#: Displacement at which the change of the drift is measured, relative to the cloud's extent or 1.
PROBE = 1e-4
#: A span that exceeds a whole number of steps by less than this part of it needs no additional step.
SLACK = 1e-9

#: Without a given dt the step is measured again after so many steps, and changed where it is off by this factor.
RENEWED, QUITE = 25, 2.0
#: Seconds after which the duration of a run is estimated, and the duration that is told.
EARLY, LONG = 1.0, 60.0

Array = NDArray[np.float64]


class LangevinRun(Run):
    r"""Steps by Strang splitting: noise for half the step, drift for the step, noise for half the step.

    Drift: :math:`\dot\theta = -\nabla\Psi` by Heun's method, points kept inside the bounds. Noise: over the time h (by
    the clock of time_scale) each coordinate becomes

    .. math:: \sqrt{(x + \sigma g)^2 + \sigma^2 \chi_p^2}, \qquad \sigma^2 = 2 h / \beta,

    the law of :math:`dx = \frac{p}{\beta x} dt + \sqrt{2/\beta}\,dB` exactly: for whole p it is the length of a
    Brownian motion in p + 1 dimensions (a Bessel process; for any p >= 0 by the Laplace transform of its square).
    Without a power it is a Brownian motion. Bounds reflect it by folding, which is exact for p = 0. With a mobility the
    drift is -A grad Psi, and the noise that of `mobile_noise`, of weak order 2; bounds reflect along A n.
    """

    method: Lagrangian

    def __init__(self, method: Lagrangian, flow: Flow, rng: np.random.Generator):
        super().__init__(method, flow)
        self.rng, self.cloud = rng, Cloud(flow)
        self.temperature = 1.0 / flow.energy.beta
        self.points = self.cloud.inside(flow.atoms.points)
        # Steps of equal length: where they began, their number, and how many of them are done.
        self.begin, self.count, self.done = flow.t0, 0, 0
        self.taken, self.told, self.started = 0, False, time.monotonic()
        # Without a given dt each step has its own length where the drift or the clock changes with time.
        self.rate: float | None = None
        self.changes = method.dt is None and (flow.drive is not None or flow.clock is not None)

    def start(self) -> Step:
        energy = self.cloud.energy_of(self.points, self.t)
        if self.flow.t1 > self.flow.t0 and math.isfinite(energy):
            self.dt = self.method.dt or self._default_step()
        return Step(self.t, self.points, energy)

    def advance(self, stop: float) -> Iterator[Step]:
        if self.changes:
            remaining = stop - self.t
            count = max(1, math.ceil(remaining / self._own_step(remaining) * (1 - SLACK)))
            yield self._step(stop if count == 1 else self.t + remaining / count)
            return
        if self.method.dt is None and self.taken and self.taken % RENEWED == 0:
            self._renew()
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
        span = self.flow.t1 - self.flow.t0
        rate = self._drift_rate(self.cloud.rho0, self.points, self.t)
        speed = self.flow.elapsed(self.flow.t0, SPAN_SHARE * span) / (SPAN_SHARE * span)
        return min(SPAN_SHARE * span, DRIFT_SHARE / (rate * speed)) if rate > 0 else SPAN_SHARE * span

    def _renew(self) -> None:
        """Measure the step again, where the particles are now, and take it if it is quite another one."""
        rate, span = self._rate_now(self.t), self.flow.t1 - self.flow.t0
        wanted = min(SPAN_SHARE * span, DRIFT_SHARE / (rate * self.flow.scale_at(self.t)) if rate > 0 else math.inf)
        if not self.dt / QUITE <= wanted <= self.dt * QUITE:
            self.dt, self.count = min(wanted, QUITE * self.dt), 0

    def _tell_duration(self) -> None:
        """Warn, once and early, of a run that takes long."""
        passed = time.monotonic() - self.started
        if self.told or self.taken < 3 or passed < EARLY:
            return
        self.told = True
        left = (self.flow.t1 - self.t) / (self.t - self.flow.t0) * passed
        if left > LONG:
            limit = self.method.time_limit
            what = ("; give time_limit to bound it" if limit is None else
                    f"; it will stop at time_limit={limit:g} s" if passed + left > limit else "")
            warnings.warn(f"this run of {self.points.shape[1]} particles will take about {duration(left)}: after "
                          f"{self.taken} steps of {1e3 * passed / self.taken:.3g} ms it is at t = {self.t:.3g} of "
                          f"{self.flow.t1:g}. Fewer particles, a larger dt, a gradient of V, or a kernel of the "
                          f"distance alone make it faster{what}", WGFlowWarning, stacklevel=2)

    def _drift_rate(self, law: Atoms, points: Array, t: float) -> float:
        """Return L, how fast the drift at points, which stand for the law, changes with the point."""
        extent = np.ptp(points, axis=1, keepdims=True)
        probe = PROBE * np.where(extent > 0, extent, 1.0)
        # Fixed directions, so that the measurement draws no numbers from the stream of the noise.
        signs = np.where(np.random.default_rng(8191).random(points.shape) < 0.5, -1.0, 1.0)
        moved = self.cloud.inside(points + probe * signs)
        moved = np.where(moved == points, self.cloud.inside(points - probe * signs), moved)
        energy = self.flow.energy_at(t)
        here, there = energy.gradient(law.moved(points), points), energy.gradient(law.moved(moved), moved)
        if self.flow.mobility is None:
            return float(np.quantile(np.abs((here - there) / probe).max(axis=0), 0.99))
        A, B = self.flow.mobility.at(points), self.flow.mobility.at(moved)
        change = np.einsum("ijn,jn->in", A, here) - np.einsum("ijn,jn->in", B, there)
        # Over a step of noise, too, A should change little: by the rate D |grad A|^2 / A.
        noise = self.temperature * ((A - B) ** 2 / probe**2).sum(axis=(0, 1)) / np.einsum("iin->n", A)
        return float(np.quantile(np.abs(change / probe).max(axis=0) + noise, 0.99))

    def _own_step(self, longest: float) -> float:
        """Return a step from the present time over which the drift, as it is at both ends, changes little."""
        dt, drive = min(longest, SPAN_SHARE * (self.flow.t1 - self.flow.t0)), self.flow.drive
        if drive is not None and not drive.follows(self.t, dt):
            dt = drive.longest(self.t, dt, UNFOLLOWED, self.points,
                               lambda t, length: self.flow.elapsed(t, length) / length)
        if self.rate is None or (drive is not None and self.t in drive.jumps):
            self.rate = self._rate_now(self.flow.sides(self.t)[1])
        for _ in range(SHORTENINGS):
            still = drive is None or drive.rests(self.t, dt)
            there = self.rate if still else self._rate_now(self.flow.sides(self.t + dt)[0])
            change = max(self.rate, there) * self.flow.elapsed(self.t, dt) / DRIFT_SHARE
            if change <= 1.0:
                break
            # What the end of the step showed may be far from what a shorter one meets.
            dt *= max(0.5, 0.95 / change)
        self.rate = there
        return dt

    def _rate_now(self, t: float) -> float:
        """Return how fast the drift at a time changes with the point, at some of the present particles."""
        points, rho = self.points[:, :: max(1, self.points.shape[1] // MEASURED)], self.cloud.rho0
        law = Atoms(points, np.full(points.shape[1], rho.mass / points.shape[1]), rho.bounds, rho.powers, rho.names,
                    rho.periodic)
        return self._drift_rate(law, points, t)

    def _step(self, end: float) -> Step:
        dt = end - self.t
        self.check_moves(dt)
        elapsed = self.flow.elapsed(self.t, dt)
        points = self._noise(self.points, 0.5 * elapsed)
        # A jump of the energy belongs to the step that begins there.
        first = -self.cloud.pull(points, self.flow.sides(self.t)[1])
        second = -self.cloud.pull(self.cloud.inside(points + elapsed * first), self.flow.sides(end)[0])
        points = self.cloud.inside(points + 0.5 * elapsed * (first + second))
        if np.isfinite(points).all():
            points = self._noise(points, 0.5 * elapsed)
        energy = self.cloud.energy_of(points, end) if np.isfinite(points).all() else math.inf
        if not math.isfinite(energy):
            raise ConvergenceError(f"a particle or the energy is not finite after the step from t = {self.t:.6g}; a "
                                   f"smaller dt (now {dt:.3g}) may help", reason="non-finite", t=self.t, dt=dt)
        self.t, self.points, self.taken = end, points, self.taken + 1
        self._tell_duration()
        return Step(end, points, energy)

    def _noise(self, points: Array, elapsed: float) -> Array:
        """Return the points after a time ``elapsed`` of noise alone, kept inside the bounds."""
        if self.flow.mobility is not None:
            return self._mobile_noise(points, elapsed, self.flow.mobility)
        sigma = math.sqrt(2.0 * self.temperature * elapsed)
        out = points + sigma * self.rng.standard_normal(points.shape)
        rho = self.cloud.rho0
        for axis, ((lo, hi), power, periodic) in enumerate(zip(rho.bounds, rho.powers, rho.periodic)):
            if power > 0:
                out[axis] = np.sqrt(out[axis] ** 2 + sigma**2 * self.rng.chisquare(power, points.shape[1]))
            if not periodic:
                out[axis] = fold(out[axis], lo, hi)
        return self.cloud.inside(out)


    def _mobile_noise(self, points: Array, elapsed: float, mobility: Mobility) -> Array:
        """Return the same with a mobility."""
        d, bounds = len(points), box_of(self.cloud.rho0)[0]
        normals = self.rng.standard_normal(points.shape)
        signs = np.ones((d, d, points.shape[1]))
        for r in range(d):
            for j in range(r):
                signs[r, j] = 1.0 - 2.0 * (self.rng.random(points.shape[1]) < 0.5)
        out = mobile_step(points, mobility, self.temperature, elapsed, normals, signs, self.cloud.inside, bounds)
        if np.isfinite(out).all():
            out = reflected(out, mobility, self.cloud.inside, bounds)
        return self.cloud.inside(np.array([fold(x, lo, hi) for x, (lo, hi) in zip(out, bounds)]))


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
