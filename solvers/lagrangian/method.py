"""Lagrangian: the flow by its characteristics, and with noise by interacting Langevin particles."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.certificate import ENERGY_TOLERANCE
from wgflow.checks import check_count, check_positive
from wgflow.energies import FreeEnergy, is_internal
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.gradients import box_of

from ..base import Method

__all__ = ["Lagrangian"]

#: Solvers of SciPy by name, with the evaluations that an attempted step costs where it is a fixed number.
ODE = {"DOP853": 12, "RK45": 6, "RK23": 3, "Radau": 0, "BDF": 0, "LSODA": 0}
#: The flow leaves a step that ends at a time nearer than this part of the step to the next stop.
SMALLEST_STEP = 1e-14
#: Where inside a step snapshots are taken when there are no output times.
BETWEEN = (0.25, 0.5, 0.75)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lagrangian(Method):
    r"""The flow followed by points: exact transport, no grid, in any number of coordinates (1 to 4 in the models).

    **Without noise** (no entropy, or beta = infinity) the law :math:`\rho_t = \sum_i w_i\,\delta_{\theta_i(t)}` solves
    the equation exactly ("multiple deltas") if the atoms follow the characteristics

    .. math:: \dot\theta_i = -s(t)\,\nabla\Psi(\theta_i; \rho_t), \qquad
              \Psi = V + \int U(\cdot, \theta')\,\rho(d\theta').

    They are stepped by a solver of SciPy with error control, eighth order by default. What remains is the quadrature of
    the initial law: with a Gauss rule (``model.initial_atoms``) integrals of smooth functions converge spectrally until
    the mass splits; a `Density` becomes the atoms of `Atoms.from_density`, of fourth order in the cells. No step that
    raises F by more than round-off is accepted. An atom that reaches a bound stays there as long as the velocity points
    outward (a cone of Psi at r = 0 brings mass to rest at exactly 0). Periodic coordinates are wrapped. The dissipation
    :math:`\sum_i w_i |\nabla\Psi(\theta_i)|^2` is integrated along with the paths, with the same error control.

    **With noise** (finite beta) the atoms are interacting Langevin particles

    .. math:: d\theta_i = -s \Bigl(\nabla\Psi - \frac{p}{\beta \theta_i}\Bigr) dt + \sqrt{2 s / \beta}\;dB_i,

    with p the powers of the reference measure and reflection at bounds: a random sample of the law, of error
    n^(-1/2) beside that of the step. A step is noise for half the step, drift for one (Heun), noise for half a step.
    The noise is drawn exactly, also with the drift p/(beta x): it is the length of a Brownian motion in p + 1
    dimensions, hence positive. The splitting is symmetric: weak order 2 in dt away from bounds.

    Good values: the default for Gauss rules; ``ode="LSODA"`` or ``"Radau"`` for stiff wells over long times;
    ``rtol=1e-6`` for clouds of many atoms. With noise a ``dt`` over which the drift changes little.

    Parameters
    ----------
    rtol : float
        Tolerance of the ODE solver, relative to each coordinate and to its largest initial value.
    ode : {"DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA"}
        Solver of `scipy.integrate`.
    dt : float, optional
        Step with noise; by default a twentieth of the time in which the drift changes, measured at the start. Without
        noise the largest step.
    n_particles : int, optional
        Particles drawn from rho0, of equal weights, with noise: 1000 by default from a Density. Atoms are taken as they
        are unless it is given.
    rng : int, SeedSequence or Generator, optional
        Required with noise.
    max_steps : int
        Steps after which the run stops with ConvergenceError (reason "max steps").
    time_limit : float, optional
        Seconds after which the run stops with ConvergenceError (reason "time limit").

    Raises
    ------
    InvalidInput
        If a setting is out of its range; when a run starts, if there is noise and no ``rng``, or the energy is not
        known at points (arrays of values at cell centers, nonlinear diffusion).
    """

    rtol: float = 1e-9
    ode: str = "DOP853"
    dt: float | None = None
    n_particles: int | None = None
    rng: Any = None
    max_steps: int = 1_000_000
    time_limit: float | None = None

    DRIVEN = True

    def __post_init__(self):
        check_positive("rtol", self.rtol)
        if not 100 * np.finfo(float).eps <= self.rtol < 1:
            raise InvalidInput(f"rtol={self.rtol:g}: need a number between 100 eps = 2.2e-14 and 1")
        if self.ode not in ODE:
            raise InvalidInput(f"ode={self.ode!r}: need one of {', '.join(ODE)}, the solvers of scipy.integrate")
        check_positive("dt", self.dt, allow_none=True)
        if self.n_particles is not None:
            check_count("n_particles", self.n_particles)
        check_count("max_steps", self.max_steps)
        check_positive("time_limit", self.time_limit, allow_none=True)
        if self.rng is not None:
            _generator(self.rng)

    def settings(self) -> dict:
        """The settings by name, the seed of ``rng`` in its place."""
        names = ("rtol", "ode", "dt", "n_particles", "max_steps", "time_limit")
        seed = None
        if self.rng is not None:
            seed = getattr(_generator(self.rng).bit_generator.seed_seq, "entropy", None)
        return {"method": type(self).__name__, **{name: getattr(self, name) for name in names}, "rng": seed}

    def cloud(self, energy: FreeEnergy, rho0) -> Atoms:
        """The atoms that stand for rho0."""
        for _, term in energy.terms:
            if is_internal(term) and not hasattr(term, "beta"):
                raise InvalidInput(f"{term!r}: points can carry linear diffusion (Entropy) as noise, no other; use a "
                                   "method on a grid")
        if not energy.spreads:
            if self.n_particles is not None:
                raise InvalidInput(f"n_particles={self.n_particles}: without noise the atoms are a quadrature of rho0; "
                                   "leave it out, or give Atoms (rho0.sample draws points)")
            atoms = rho0 if isinstance(rho0, Atoms) else Atoms.from_density(rho0)
        else:
            atoms = self._particles(rho0)
        energy.gradient(atoms, atoms.points[:, :1])
        return atoms

    def _particles(self, rho0) -> Atoms:
        if self.rng is None:
            raise InvalidInput("rng: particles with noise (finite beta) need random numbers; give an odd seed, such as "
                               "Lagrangian(rng=7)")
        if isinstance(rho0, Atoms) and self.n_particles is None:
            return rho0
        law = rho0 if isinstance(rho0, Atoms) else Atoms.from_density(rho0)
        if not isinstance(rho0, Atoms) and rho0.grid.log_weight is not None and not any(law.powers):
            raise InvalidInput("rho0: the weight of its grid is not a product of powers of the coordinates, which is "
                               "what particles know; give Atoms with powers=")
        count = int(self.n_particles or 1000)
        # Another stream than that of the noise: with a seed both would start with the same numbers.
        rng = _generator(self.rng) if isinstance(self.rng, np.random.Generator) else _generator(self.rng).spawn(1)[0]
        points = rho0.sample(count, rng).reshape(count, -1).T
        return Atoms(points, np.full(count, law.mass / count), law.bounds, law.powers, law.names, law.periodic)

    def integrate(self, flow, recorder, *, checkpoint=None, state=None) -> None:
        """Step the flow to its end; see `Method.integrate`."""
        if flow.energy.spreads:
            from .langevin import LangevinRun

            LangevinRun(self, flow, recorder, _generator(self.rng)).go()
        elif flow.energy.time_dependent:
            raise InvalidInput("Lagrangian() without noise checks that F falls, so that it knows energies that do not "
                               "change with time; use FiniteVolume() for TimeDependent terms, or add an Entropy")
        else:
            _Characteristics(self, flow, recorder).go()


def _generator(rng) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"rng={rng!r}: need an int >= 0, a SeedSequence or a Generator") from error


class Cloud:
    """The atoms of a run: their bounds, and the forces on them."""

    def __init__(self, flow):
        self.flow, self.rho0 = flow, flow.rho0
        bounds, periods = box_of(self.rho0)
        self.low, self.high = (np.array(ends)[:, None] for ends in zip(*bounds))
        self.bounded = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self.turns = [(axis, self.rho0.bounds[axis][0], period) for axis, period in enumerate(periods) if period]

    def inside(self, points: Array) -> Array:
        """Points moved to the nearest point inside the bounds, and into the first period."""
        if self.bounded:
            points = np.clip(points, self.low, self.high)
        if self.turns:
            points = points.copy()
            for axis, start, period in self.turns:
                points[axis] = start + np.mod(points[axis] - start, period)
        return points

    def gradient(self, points: Array, t: float) -> Array:
        """grad Psi at points inside; not a number where the energy has no value there."""
        try:
            rho = self.rho0.moved(points)
            return self.flow.energy_at(t).gradient(rho, rho.points)
        except InvalidType:
            raise
        except InvalidInput as error:
            if error.__cause__ is not None:
                raise ConvergenceError(f"{error}", reason="callback", t=t) from error
            return np.full(points.shape, np.nan)

    def energy_of(self, points: Array, t: float) -> float:
        """F at points inside, without the entropy; infinite where it has no value."""
        try:
            return self.flow.energy_at(t).energy(self.rho0.moved(points))
        except InvalidInput as error:
            if error.__cause__ is not None:
                raise ConvergenceError(f"{error}", reason="callback", t=t) from error
            return math.inf

    def outward(self, points: Array, velocity: Array) -> NDArray[np.bool_]:
        """Which components lie on or beyond a bound and have a velocity that points out of it."""
        return ((points <= self.low) & (velocity < 0)) | ((points >= self.high) & (velocity > 0))


class Limits:
    """The limits of a run, checked before every step."""

    def __init__(self, method):
        self.max_steps, self.time_limit, self.steps = method.max_steps, method.time_limit, 0
        self.deadline = time.monotonic() + method.time_limit if method.time_limit else math.inf

    def check(self, t: float) -> None:
        """Count a step."""
        if self.steps >= self.max_steps:
            raise ConvergenceError(f"max_steps={self.max_steps} reached at t = {t:.6g}; raise max_steps, or loosen "
                                   "rtol", reason="max steps", t=t)
        if time.monotonic() > self.deadline:
            raise ConvergenceError(f"time_limit={self.time_limit:g} s reached at t = {t:.6g}", reason="time limit", t=t)
        self.steps += 1


class _Characteristics:
    """A run without noise. Its state is the points, row by row, and the energy dissipated so far."""

    def __init__(self, method: Lagrangian, flow, recorder):
        from scipy import integrate

        self.method, self.flow, self.recorder = method, flow, recorder
        self.cloud, self.limits = Cloud(flow), Limits(method)
        self.Solver = getattr(integrate, method.ode)
        self.shape, self.weights = flow.rho0.points.shape, flow.rho0.weights
        self.t, self.points, self.lost = flow.t0, self.cloud.inside(flow.rho0.points), 0.0
        self.next_dt: float | None = None
        self.failure: Exception | None = None

    def go(self) -> None:
        """Step to the end of the time span."""
        self.energy = self.lowest = self.cloud.energy_of(self.points, self.t)
        self.recorder.start(self.points, self.energy)
        if self.flow.t1 == self.flow.t0:
            return
        if not math.isfinite(self.energy):
            raise ConvergenceError(f"the free energy of rho0 is {self.energy}; scale the energy down",
                                   reason="non-finite", t=self.t)
        scale = np.abs(self.points).max(axis=1)
        sizes = np.repeat(np.where(scale > 0, scale, 1.0), self.shape[1])
        self.atol = self.method.rtol * np.append(sizes, max(1.0, abs(self.energy)))
        for stop in self.flow.stops:
            self._to(stop)

    def _to(self, stop: float) -> None:
        solver, largest = None, self.method.dt or math.inf
        while self.t < stop:
            self.limits.check(self.t)
            if solver is None:
                solver = self._start(stop, largest)
            before = solver.nfev
            message = solver.step()
            if self.failure is not None:
                raise self.failure
            if solver.status == "failed":
                raise ConvergenceError(f"step too small at t = {self.t:.6g} ({message}); the flow changes faster than "
                                       "floats can resolve, or the energy is not finite where atoms go",
                                       reason="step too small", t=self.t)
            self._count_rejected(solver.nfev - before)
            t = stop if solver.status == "finished" else solver.t
            moved = solver.y[:-1].reshape(self.shape)
            points = self.cloud.inside(moved)
            energy = self.cloud.energy_of(points, t)
            if not self._acceptable(t, points, energy):
                largest = self._halve(0.5 * (t - self.t))
                solver = None
                continue
            dt = t - self.t
            if not self.flow.t_eval:
                self._look_within(solver)
            landed = self.cloud.bounded and not np.array_equal(np.clip(moved, self.cloud.low, self.cloud.high), moved)
            self.lost = float(solver.y[-1])
            self.t, self.points, self.energy, self.lowest = t, points, energy, min(energy, self.lowest)
            self.recorder.dissipated = self.lost
            self.recorder.step(t, dt, points, energy)
            natural = getattr(solver, "h_abs", None) or solver.step_size
            self.next_dt = max(natural, dt) if t == stop and self.next_dt else natural
            if landed or self.released or (math.isfinite(largest) and largest != self.method.dt):
                solver, largest = None, self.method.dt or math.inf

    def _look_within(self, solver) -> None:
        """Snapshots inside a step, which may be long, from the solver's own interpolation."""
        path = solver.dense_output()
        for share in BETWEEN:
            t = path.t_old + share * (path.t - path.t_old)
            points = self.cloud.inside(path(t)[:-1].reshape(self.shape))
            self.recorder.within(t, points, self.cloud.energy_of(points, t))

    def _start(self, stop: float, largest: float):
        """A solver from the present state; components that press against a bound are held for as long as it runs."""
        self.velocity = -self.cloud.gradient(self.points, self.t)
        self.held = self.cloud.outward(self.points, self.velocity)
        self.any_held = bool(self.held.any())
        self.released = False
        y = np.append(self.points.ravel(), self.lost)
        span = stop - self.t
        first = None if self.next_dt is None else min(self.next_dt, largest, span)
        with np.errstate(all="ignore"):
            return self.Solver(self._rate, self.t, y, stop, first_step=first, rtol=self.method.rtol, atol=self.atol,
                               max_step=min(largest, span) if math.isfinite(largest) else np.inf)

    def _rate(self, t: float, y: Array) -> Array:
        try:
            points = y[:-1].reshape(self.shape)
            velocity = -self.cloud.gradient(self.cloud.inside(points), t)
            scale = self.flow._scale_at(self.flow.time_scale, t, 0.0) if callable(self.flow.time_scale) else (
                self.flow.time_scale)
        except Exception as error:  # an exception must not travel through SciPy's compiled solvers
            self.failure = self.failure or error
            return np.full(y.shape, np.nan)
        if self.any_held:
            velocity[self.held] = 0.0
        square = velocity * velocity
        if self.cloud.bounded:
            # What is on its way out of the bounds within this step goes on smoothly, and is clipped at its end.
            square[self.cloud.outward(points, velocity)] = 0.0
        return scale * np.append(velocity.ravel(), (self.weights * square.sum(axis=0)).sum())

    def _acceptable(self, t: float, points: Array, energy: float) -> bool:
        """Whether F has not risen, and no held component should have left its bound within the step."""
        self.released = False
        # Against the lowest value so far: rises below round-off in each of many steps would add up.
        if not energy <= self.lowest + 0.5 * ENERGY_TOLERANCE * max(1.0, abs(self.energy)):
            self.reason = "energy increase" if math.isfinite(energy) else "non-finite"
            return False
        if self.any_held:
            velocity = -self.cloud.gradient(points, t)
            leaving = self.held & ~self.cloud.outward(points, velocity) & (velocity != 0)
            if leaving.any():
                missed = 0.5 * float(np.abs(velocity[leaving]).max()) * self.flow.elapsed(self.t, t - self.t)
                self.reason, self.released = "step too small", True
                return missed <= float(self.atol[:-1].min())
        return True

    def _halve(self, dt: float) -> float:
        self.recorder.n_rejected += 1
        if not dt > SMALLEST_STEP * max(abs(self.t), abs(self.flow.t1 - self.flow.t0)):
            text = {"energy increase": "the free energy rises however short the step: is a gradient that was given "
                                       "that of its function?",
                    "non-finite": "the energy is not finite where atoms go",
                    "step too small": "atoms leave their bounds faster than floats can resolve"}[self.reason]
            raise ConvergenceError(f"step too small at t = {self.t:.6g}: {text}", reason=self.reason, t=self.t, dt=dt)
        self.next_dt = dt
        return dt

    def _count_rejected(self, evaluations: int) -> None:
        """Attempts that the solver itself threw away, where its evaluations tell."""
        attempt = ODE[self.method.ode]
        if attempt:
            self.recorder.n_rejected += max(0, evaluations // attempt - 1)
