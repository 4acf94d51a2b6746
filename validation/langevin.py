"""Interacting Langevin particles for any energy of the core, in independent runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.atoms import Atoms
from wgflow.calls.explained import explained
from wgflow.checks import check_count
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.errors import InvalidInput, InvalidType
from wgflow.flows import make_flow
from wgflow.solvers.base import Run
from wgflow.solvers.lagrangian import Lagrangian

from .particles import StepProgress, output_times, seed_sequence
from .trajectories import Trajectories, TrajectoryRecorder

if TYPE_CHECKING:
    from wgflow.recorder import Recorder, Step

__all__ = ["follow_particles", "run_langevin"]

Array = NDArray[np.float64]
#: Copies of the positions that a step needs beside the terms of the energy.
WORK_ARRAYS = 12


@explained("run_langevin(energy, rho0, 1000, [0.0, 0.5, 1.0], rng=7)")
def run_langevin(
    energy: Term,
    rho0: Density | Atoms,
    n_particles: int,
    t_eval: ArrayLike,
    rng: int | np.random.SeedSequence | np.random.Generator,
    n_runs: int = 1,
    *,
    dt: float | None = None,
    time_scale: float | Callable[[float], float] = 1.0,
    mobility: Any = None,
    max_steps: int = 1_000_000,
    time_limit: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], object] = False,
) -> Trajectories:
    r"""Run interacting Langevin particles in the potential of an energy, independently for each run.

    .. math:: d\theta_i = -s(t)\,\nabla\Psi(\theta_i; \rho_N)\,dt + \sqrt{2 s(t) / \beta}\;dB_i, \qquad
              \rho_N = \frac1N \sum_i \delta_{\theta_i},

    whose law tends to the gradient flow of the energy as N grows. Each run draws its N particles from ``rho0`` and
    takes the steps of `wgflow.Lagrangian`: drift and noise by Strang splitting, the noise drawn exactly.
    ``wgflow.solve`` with that method is one run, with a certificate.

    Parameters
    ----------
    energy : Term or FreeEnergy
        With an `Entropy` of finite beta. A `LowRank` interaction costs N times its rank a step, others N^2.
    rho0 : Density or Atoms
        The initial law.
    n_particles : int
        Number N of particles in each run.
    t_eval : array_like, shape (T,)
        Increasing output times from the start at 0 on, met exactly.
    rng : int, SeedSequence or Generator
        Each run spawns its own random numbers, so that the runs do not depend on how many there are.
    n_runs : int
        Number of independent runs.
    dt : float, optional
        Length of a step, chosen from the change of the drift if it is left out.
    time_scale : float or callable
        The clock s(t) of `wgflow.solve`.
    mobility : optional
        A(x) as in `wgflow.solve`: drift :math:`-A \nabla\Psi + \beta^{-1} \nabla\cdot A`, noise
        :math:`\sqrt{2 A/\beta}`.
    max_steps, time_limit
        Steps and seconds after which a run stops with ConvergenceError.
    folder : path, optional
        A new folder to which the snapshots are written one by one, as in `run_sgd`.
    progress : bool or callable
        As in `run_sgd`; what is counted are output times.

    Returns
    -------
    Trajectories
        ``coordinates`` are the positions; ``theta``, ``risk`` and ``model`` are None.

    Raises
    ------
    InvalidInput
        If an argument is out of range, or the energy has no noise, or terms that particles do not support.
    ResourceError
        If the particles or their snapshots would not fit in memory, or on the disk, before anything is computed.
    ConvergenceError
        If a run blows up or reaches a limit; the complete runs, or the snapshots so far, are its ``partial``.

    Examples
    --------
    >>> import wgflow as wg
    >>> energy = wg.Entropy(beta=4.0) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
    >>> rho0 = wg.Density.gaussian(wg.Grid((-4, 5), cells=200), 2.0, 0.1)
    >>> run = run_langevin(energy, rho0, 1000, [0.0, 1.0], rng=7, n_runs=3)
    >>> bool(abs(run.coordinates[:, 1].mean() - 2 / 2.71828) < 0.05)
    True
    """
    if not isinstance(energy, Term):
        raise InvalidType(f"energy must be a sum of terms such as Entropy(1.0) + Potential(V), got {energy!r}")
    energy = energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])
    if not energy.spreads:
        raise InvalidInput("energy has no noise (no Entropy of finite beta), so that particles are no Langevin "
                           "particles; use solve(..., method=Lagrangian()), or run_gradient_flow for a network")
    if not isinstance(rho0, (Density, Atoms)):
        raise InvalidType(f"rho0 must be a wgflow.Density or Atoms, got {type(rho0).__name__}")
    n_particles, n_runs = check_count("n_particles", n_particles), check_count("n_runs", n_runs)
    t, seed = output_times(t_eval, 1.0), seed_sequence(rng)
    ndim = rho0.ndim if isinstance(rho0, Atoms) else rho0.grid.ndim
    report = StepProgress(progress, n_runs, t.size, "Langevin")
    recorder = TrajectoryRecorder(
        {"n_neurons": n_particles, "step_size": 0.0, "seed_entropy": seed.entropy, "seed_state": dict(seed.state),
         "model": None, "beta": energy.beta, "ridge": 0.0, "noise_constant": 4.0, "batch_size": 1, "n_samples": None,
         "replacement": True, "xi": 1.0, "simulator": "Langevin"},
        t, n_runs, {"coordinates": (n_particles, ndim)}, folder, 8.0 * WORK_ARRAYS * n_particles * ndim)

    def one(run: int, child: np.random.SeedSequence) -> None:
        start, noise = (np.random.default_rng(s) for s in child.spawn(2))
        law = Lagrangian(rng=start, n_particles=n_particles).atoms(energy.at(0.0), rho0)
        method = Lagrangian(rng=noise, dt=dt, max_steps=max_steps, time_limit=time_limit)

        def take(steps: int, points: Array) -> None:
            recorder.take(run, steps, {"coordinates": points.T})
            report.advance(1)

        follow_particles(energy, law, t, time_scale, method, take, mobility,
                         lambda time: report.inside(run, time / float(t[-1])))

    with report.report:
        return recorder.run_all(seed, one, report.finished)


def follow_particles(energy: Term, law: Atoms, t: Array, time_scale: float | Callable[[float], float],
                     method: Lagrangian, take: Callable[[int, Array], None], mobility: Any = None,
                     tell: Callable[[float], object] = lambda time: None) -> None:
    """Run a method on atoms from time 0, and hand over the number of steps and the points at each output time.

    ``tell`` is called with the time after each step.
    """
    flow = make_flow(energy, law, (0.0, float(t[-1])), None, time_scale, method, mobility)
    # Not as t_eval, whose laws the flow would plan to keep in memory.
    flow.stops = sorted({*flow.stops, *(float(time) for time in t if time > 0.0)})
    method.integrate(flow, cast("Recorder", _OutputTimes(t, take, tell)))


class _OutputTimes:
    """Listens to the steps of a run as a recorder does, and hands over those that end at an output time."""

    #: Nobody watches such a run, or ends it.
    watch, stopped = None, ""

    def __init__(self, t: Array, take: Callable[[int, Array], None], tell: Callable[[float], object]):
        self.t, self.hand_over, self.tell, self.steps, self.next = t, take, tell, 0, 0

    def start(self, step: Step) -> None:
        if math.isfinite(step.energy) or self.t[-1] == 0.0:
            self._look(step)

    def step(self, step: Step) -> None:
        self.steps += 1
        self._look(step)
        self.tell(step.t)

    def take(self, run: Run) -> None:
        """Take the counts of the run, of which none are kept here."""

    def _look(self, step: Step) -> None:
        if self.next < self.t.size and step.t >= self.t[self.next]:
            self.hand_over(self.steps, step.law)
            self.next += 1
