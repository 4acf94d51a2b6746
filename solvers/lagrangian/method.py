"""Lagrangian: the flow by its characteristics, and with noise by interacting Langevin particles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.calls.memory import fixed_steps, reserve
from wgflow.checks import check_count, check_positive
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.internal_energies import Entropy
from wgflow.errors import InvalidInput
from wgflow.flows import Flow
from wgflow.interactions.terms import PairTerm

from ..base import Method, Run
from .characteristics import ODE, CharacteristicsRun
from .langevin import LangevinRun

__all__ = ["Lagrangian"]
Array = NDArray[np.float64]
#: Times at which a driven energy is looked at before a run.
LOOKS = 5
#: Arrays of the size of the points that a solver of SciPy keeps, with the laws inside a step; and matrices of as many
#: rows and columns.
STAGES = {"DOP853": 45, "RK45": 30, "RK23": 26, "Radau": 30, "BDF": 40, "LSODA": 35}
MATRICES = {"Radau": 6, "BDF": 4, "LSODA": 2}
#: Arrays of a step with noise; bytes of the forces and the audit for each pair of points, up to a number of pairs.
NOISY_ARRAYS = 25
PAIR_BYTES, PAIRS = 1000.0, 100_000


@dataclass(frozen=True)
class Lagrangian(Method):
    r"""The flow represented by points: exact transport, no grid, any number of coordinates (1 to 4 in the models).

    **Without noise** (no entropy, or beta = infinity) the law :math:`\rho_t = \sum_i w_i\,\delta_{\theta_i(t)}` solves
    the equation exactly ("multiple deltas") if the atoms follow the characteristics

    .. math:: \dot\theta_i = -s(t)\,\nabla\Psi(\theta_i; \rho_t), \qquad
              \Psi = V + \int U(\cdot, \theta')\,\rho(d\theta').

    They are integrated by a solver of SciPy with error control, of eighth order by default. The main error is the
    quadrature of the initial law: with a Gauss rule (``model.initial_atoms``) integrals of smooth functions converge
    spectrally until the mass splits; a `Density` becomes the atoms of `Atoms.from_density`, of fourth order in the
    cells. No step that raises F by more than round-off is accepted. An atom that reaches a bound stays there as long as
    the velocity points outward (a cone of Psi at r = 0 brings mass to rest at exactly 0). Periodic coordinates are
    wrapped. Atoms that meet under a force that jumps there, such as that of |z|, move as one from then on. The
    dissipation :math:`\sum_i w_i |\nabla\Psi(\theta_i)|^2` is integrated along with the paths, with the same error
    control.

    Where terms change with time (`TimeDependent`) steps end on their jumps and are shortened until they follow the
    terms; F less the work of the terms cannot rise.

    A kernel that is a function of yours, depends on the distance alone and has no ``gradient`` is tabulated: its sums
    over pairs then call no Python.

    **With noise** (finite beta) the atoms are interacting Langevin particles

    .. math:: d\theta_i = -s \Bigl(\nabla\Psi - \frac{p}{\beta \theta_i}\Bigr) dt + \sqrt{2 s / \beta}\;dB_i,

    with p the powers of the reference measure and reflection at bounds: a random sample of the law, with an error of
    n^(-1/2) beside that of the step. A step is noise for half of it, drift for all of it (Heun), noise for half of it.
    The noise is drawn exactly, also with the drift p/(beta x): it is the length of a Brownian motion in p + 1
    dimensions, hence positive. The splitting is symmetric: weak order 2 in dt away from bounds.

    **With a mobility** A(x) the velocity is :math:`-s A \nabla\Psi`, and the noise that of the generator
    :math:`s \beta^{-1} \nabla\cdot(A \nabla f)`, that is with the Ito drift :math:`s \beta^{-1} \nabla\cdot A`, by a
    scheme of weak order 2.

    Good values: the default for Gauss rules; ``ode="LSODA"`` or ``"Radau"`` for stiff wells over long times; ``"RK45"``
    for kernels with kinks away from 0, where every pair that passes one costs steps; ``rtol=1e-6`` for clouds of many
    atoms. With noise a ``dt`` over which the drift changes little.

    Parameters
    ----------
    rtol : float
        Tolerance of the ODE solver, relative to each coordinate and to its largest initial value.
    ode : {"DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA"}
        Solver of `scipy.integrate`.
    dt : float, optional
        Step with noise; by default a twentieth of the time in which the drift changes, measured at the start and after
        every 25 steps, and before each step where terms or time_scale change with time. Without noise the largest
        step.
    n_particles : int, optional
        With noise, the number of particles of equal weights drawn from rho0: 1000 by default for a Density. Atoms are
        used as they are unless it is given.
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

    EXAMPLE: ClassVar[str] = "Lagrangian()"

    rtol: float = 1e-9
    ode: str = "DOP853"
    dt: float | None = None
    n_particles: int | None = None
    rng: Any = None
    max_steps: int = 1_000_000
    time_limit: float | None = None

    DRIVEN: ClassVar[bool] = True
    KNOWS_MOBILITY: ClassVar[bool] = True
    MOVES_ATOMS: ClassVar[bool] = True
    KEEPS_CHECKPOINTS: ClassVar[bool] = False
    STEPS: ClassVar[tuple[str, ...]] = ()

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

    @property
    def controlled(self) -> bool:
        """Whether an error tolerance chooses the steps: without noise it does."""
        return True

    @property
    def follows(self) -> bool:
        """Whether steps are shortened until they can follow terms that change with time."""
        return self.dt is None

    def settings(self) -> dict:
        """Return the settings by name, the seed of ``rng`` in its place."""
        names = ("rtol", "ode", "dt", "n_particles", "max_steps", "time_limit")
        seed = None
        if self.rng is not None:
            seed = getattr(_generator(self.rng).bit_generator.seed_seq, "entropy", None)
        return {"method": type(self).__name__, **{name: getattr(self, name) for name in names}, "rng": seed}

    def atoms(self, energy: FreeEnergy, rho0: Density | Atoms) -> Atoms:
        for _, term in energy.terms:
            if term.is_internal and not isinstance(term, Entropy):
                raise InvalidInput(f"{term!r}: points support linear diffusion (Entropy) alone, as noise; use a "
                                   "method on a grid")
        if isinstance(rho0, Density):
            energy.check_grid(rho0.grid, energy)
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
            raise InvalidInput("rho0: the weight of its grid is not a product of powers of the coordinates, the "
                               "only ones that particles support; give Atoms with powers=")
        count = int(self.n_particles or 1000)
        # A stream different from that of the noise: with one seed both would start with the same numbers.
        rng = _generator(self.rng) if isinstance(self.rng, np.random.Generator) else _generator(self.rng).spawn(1)[0]
        points = rho0.sample(count, rng).reshape(count, -1).T
        return Atoms(points, np.full(count, law.mass / count), law.bounds, law.powers, law.names, law.periodic)

    def begin(self, flow: Flow) -> Run:
        for t in np.linspace(flow.t0, flow.t1, LOOKS) if flow.energy.time_dependent else (flow.t0,):
            flow.energy_at(float(t)).check_atoms(flow.atoms)
        steps = fixed_steps(flow, self.dt) if self.dt is not None and flow.energy.spreads else math.inf
        reserve(flow, self._working_bytes(flow), steps=steps, arrays_of_snapshot=2)
        if flow.energy.spreads:
            return LangevinRun(self, flow, _generator(self.rng))
        return CharacteristicsRun(self, flow)

    def _working_bytes(self, flow: Flow) -> float:
        """Return the bytes that a run works with: the stages of a solver, and what the forces are formed of."""
        atoms, size = flow.atoms, flow.size
        working = 8.0 * (NOISY_ARRAYS if flow.energy.spreads else STAGES[self.ode]) * size
        if self.ode in ("Radau", "BDF", "LSODA") and not flow.energy.spreads:
            working += 8.0 * MATRICES[self.ode] * size**2
        pairs = [term for _, term in flow.energy.terms if isinstance(term, PairTerm)]
        if any(term.singles_out_pairs for term in pairs):
            working += PAIR_BYTES * min(PAIRS, atoms.size**2)
        return working


def _generator(rng) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"rng={rng!r}: need an int >= 0, a SeedSequence or a Generator") from error
