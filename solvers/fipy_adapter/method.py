"""FiPy as an independent reference: the same flow by the operators of another library.

Pitfalls of FiPy 4, none of which it reports, and how this module avoids them:

* its solvers test their default criterion before the first iteration, so that a small step changes nothing: they are
  used with ``LinearLUSolver(criterion="initial")``, and a step that does not move a state that dissipates is an error;
* a solver that misses its tolerance warns and returns a result: this is an error here;
* a convection term keeps the weights of its first use (usnistgov/fipy, issue 1223): the equation is rebuilt whenever
  its coefficients change;
* a nonlocal drift, or a diffusion that depends on the density, is evaluated before the solve: it is iterated;
* its import reads ``sys.argv``, prefers PETSc and uses ``numpy.core``: `load` shields it from all three.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wgflow.calls.arguments import check_span, check_times
from wgflow.checks import check_count, check_positive
from wgflow.densities import Density
from wgflow.energies.free_energy import Term
from wgflow.energies.nonlinear_fluxes import Diffusion
from wgflow.errors import ConvergenceError, InvalidInput, WGFlowWarning
from wgflow.flows import Flow
from wgflow.grids import Grid
from wgflow.progress import announce
from wgflow.recorder import Step

from ..base import Method, Run
from .implicit import Array, Implicit, quiet
from .meshes import MeshProblem, MeshSolution, march

__all__ = ["FiPy", "MeshSolution", "solve_on_mesh"]

#: Steps for a time span where no step is given.
DEFAULT_STEPS = 200
#: If the expected fall of the energy in a step, relative to max(1, |F|), exceeds this, the state must have moved.
VISIBLE_FALL = 1e-12
#: Times nearer to each other than this part of a step are the same.
TIME_SLACK = 1e-6


@dataclass(frozen=True)
class FiPy(Method):
    r"""The flow by FiPy: implicit steps with exponentially fitted fluxes, an independent check of the other methods.

    :math:`\partial_t\rho = \nabla\cdot(\rho\nabla\Psi) + \beta^{-1}\Delta\rho`, with V and any interaction, on one to
    three axes, uniform or not, no-flux or periodic, weighted or not. FiPy discretizes it by its
    ``ExponentialConvectionTerm`` (``UpwindConvectionTerm``, of first order in space, at beta = infinity) and solves by
    LU factorization. Psi is iterated within the step until the density changes by less than ``tol`` (L1, relative to
    the mass), so that the interaction is implicit too.

    It is slow (some ms a solve whatever the size of the grid) and has none of the guarantees of `FiniteVolume`: the
    mass drifts by round-off, the energy may rise at large steps, order 2 may give negative values. The certificate
    reports all this, and its ``ok`` may be False although the densities are accurate to the order of the scheme.
    Negative values are set to zero in snapshots; ``history.min_density`` has the original ones.

    Nonlinear diffusion is solved with coefficients :math:`\rho H''(\rho)` at the arithmetic mean of neighbors, which
    are iterated to the same tolerance (a single iteration locks fronts to one cell a step), and upwind drift, of first
    order in space. Against Barenblatt's solutions on 100 cells the error in L1 is 2e-4 for m = 2, 3e-3 for m = 3 and
    1e-2 for m = 5, where the front dominates it: a WGFlowWarning says so.

    Good values: ``dt`` over which the density changes by some percent; halve it to see the error in time.

    Parameters
    ----------
    dt : float, optional
        Step (the last one before an output time is cut short); by default a 200th of the time span.
    order : {1, 2}
        1 is the implicit Euler method, which keeps the sign; 2 the implicit midpoint rule (half an Euler step,
        extrapolated), of second order.
    tol : float
        Change of the density at which the iteration of a step ends.
    max_sweeps : int
        Iterations of a step after which it fails with ConvergenceError (reason "tolerance").
    max_steps : int
        Steps after which the run stops with ConvergenceError (reason "max steps").
    time_limit : float, optional
        Seconds after which the run stops with ConvergenceError (reason "time limit").

    Raises
    ------
    InvalidInput
        If a setting is out of its range; when a run starts, if the grid has four axes or an origin, or FiPy is missing.

    References
    ----------
    J. E. Guyer, D. Wheeler and J. A. Warren, FiPy: partial differential equations with Python, Computing in Science and
    Engineering 11 (2009) 6-15.
    """

    EXAMPLE: ClassVar[str] = "FiPy()"

    dt: float | None = None
    order: int = 2
    tol: float = 1e-11
    max_sweeps: int = 100
    max_steps: int = 1_000_000
    time_limit: float | None = None

    KEEPS_CHECKPOINTS: ClassVar[bool] = False

    def __post_init__(self):
        check_positive("dt", self.dt, allow_none=True)
        check_count("order", self.order)
        if self.order not in (1, 2):
            raise InvalidInput(f"order={self.order}: need 1 (implicit Euler) or 2 (implicit midpoint rule)")
        check_positive("tol", self.tol)
        if not 1e-15 <= self.tol < 1:
            raise InvalidInput(f"tol={self.tol:g}: need a number between 1e-15 and 1")
        check_count("max_sweeps", self.max_sweeps)
        check_count("max_steps", self.max_steps)
        check_positive("time_limit", self.time_limit, allow_none=True)

    @property
    def time_order(self) -> int:
        """Order of the error in time."""
        return self.order

    def begin(self, flow: Flow) -> FiPyRun:
        return FiPyRun(self, flow)


class FiPyRun(Run):
    """A run of FiPy on a grid. FiPy numbers cells with the first axis fastest."""

    method: FiPy

    def __init__(self, method: FiPy, flow: Flow):
        super().__init__(method, flow)
        self.grid, self.on_grid = flow.grid, flow.on_grid
        self.on_grid.check_terms("FiPy()", internal=True)
        self.law = None
        if self.on_grid.internal:
            if self.grid.log_weight is not None:
                raise InvalidInput("method=FiPy: FiPy has no term for nonlinear diffusion on a weighted grid; use "
                                   "FiniteVolume")
            self.law = Diffusion(self.on_grid)
            warnings.warn("method=FiPy: nonlinear diffusion is accurate to about one percent if fronts are steep or "
                          "there is a potential (first order in space); refine, and compare with FiniteVolume",
                          WGFlowWarning, stacklevel=6)
        self.drift = self.on_grid.potential if self.law else self.on_grid.sweep_potential
        self.implicit = Implicit(load(), mesh_of(self.grid), self.on_grid.diffusion, self._psi,
                                 bool(self.on_grid.operators), method, self.law)
        self.volumes = self.grid.volumes.ravel(order="F")
        self.values = flow.density.values.ravel(order="F").copy()
        self.clock, self.dt = 0.0, method.dt or (flow.t1 - flow.t0) / DEFAULT_STEPS
        # Steps of length dt: where they began, their number, and how many of them are done.
        self.begin, self.count, self.done = flow.t0, 0, 0

    def _array(self, values: Array) -> Array:
        return np.ascontiguousarray(values.reshape(self.grid.shape, order="F"))

    def _psi(self, values: Array) -> Array:
        return self.on_grid.psi(self.drift, self._array(values * self.volumes)).ravel(order="F")

    def start(self) -> Step:
        self.energy, self.rate = self._measure(self.flow.density)
        return Step(self.t, self.flow.density.masses, self.energy, rate=self.rate)

    def advance(self, stop: float) -> Iterator[Step]:
        if self.done >= self.count:
            self.begin, self.done = self.t, 0
            self.count = max(1, math.ceil((stop - self.t) / self.dt - TIME_SLACK))
        self.done += 1
        yield self._step(stop if self.done == self.count else self.begin + self.done * self.dt)

    def _step(self, target: float) -> Step:
        dt = target - self.t
        self.check_moves(dt)
        scaled = self.flow.elapsed(self.t, dt)
        values = self.implicit.step(self.values, scaled, self.t, dt)
        density = Density(self.grid, self._array(np.maximum(values, 0.0)))
        energy, rate = self._measure(density)
        if self.rate * scaled > VISIBLE_FALL * max(1.0, abs(self.energy)) and (values == self.values).all():
            raise ConvergenceError(f"FiPy left the state at t = {self.t:.6g} unchanged, though it dissipates "
                                   f"{self.rate:.3g}; its linear solver did nothing", reason="tolerance",
                                   t=self.t, dt=dt)
        self.values, self.energy, self.rate = values, energy, rate
        self.t, self.clock = target, self.clock + scaled
        # The record has FiPy's own values, including negative ones.
        return Step(target, density.masses, energy, self.clock, rate, residual=self.implicit.change,
                    mass=float((values * self.volumes).sum()), min_density=float(values.min()))

    def _measure(self, density: Density) -> tuple[float, float]:
        """Return the free energy and dissipation, by wgflow's own formulas."""
        return self.flow.energy.energy(density), self.flow.energy.dissipation(density)


def solve_on_mesh(mesh, energy: Term, rho0, t_span: Sequence[float], *, dt: float | None = None, order: int = 2,
                  t_eval: Sequence[float] | None = None, tol: float = 1e-11, max_sweeps: int = 100) -> MeshSolution:
    r"""Solve :math:`\partial_t\rho = \nabla\cdot(\rho\nabla\Psi) + \beta^{-1}\Delta\rho` on a mesh of FiPy, no-flux.

    Meshes of triangles (`fipy.Tri2D`), with holes (sums of grids) and from files (`fipy.Gmsh2D`) have no wgflow Grid;
    this solves the flow on them, without a certificate, with V and U evaluated at cell centers. Two-point fluxes are
    consistent where the lines between neighboring centers are normal to the faces (Tri2D with dx = dy); a WGFlowWarning
    reports a mesh on which they are not.

    Parameters
    ----------
    mesh : fipy mesh
        Made after ``wgflow.solvers.fipy_adapter.load()``, which imports FiPy with SciPy's solvers.
    energy : Term or FreeEnergy
        Entropy, potentials and interactions given as functions of coordinates (`Interaction`, `Dense`, `LowRank`,
        `Convolution`); an interaction is summed over all pairs of cells, or by its features.
    rho0 : callable or array, shape (n_cells,)
        Initial density, a function of the coordinates or one value for each cell; divided by its mass.
    t_span : (float, float)
    dt, order, tol, max_sweeps
        As in `FiPy`.
    t_eval : sequence of float, optional
        Increasing output times; by default the two ends.

    Returns
    -------
    MeshSolution

    Raises
    ------
    InvalidInput
        If an argument breaks a rule.
    ConvergenceError
        If an iteration does not converge.
    """
    method = FiPy(dt=dt, order=order, tol=tol, max_sweeps=max_sweeps)
    t0, t1 = check_span(t_span)
    outputs = check_times(t_eval, t0, t1, 1) or tuple(dict.fromkeys((t0, t1)))
    fipy, problem = load(), MeshProblem(mesh, energy)
    values = problem.initial(rho0)
    scheme = Implicit(fipy, mesh, problem.diffusion, problem.psi, bool(problem.pairs), method)
    times = sorted({t0, t1, *outputs})
    kept, history = march(scheme, problem, values, times, method.dt or (t1 - t0) / DEFAULT_STEPS)
    chosen = [kept[times.index(t)] for t in outputs]
    return MeshSolution(mesh, np.array(outputs), np.array(chosen), history, scheme.change)


def load() -> Any:
    """Import FiPy with SciPy's solvers; the arguments and environment of the process are restored.

    Raises
    ------
    InvalidInput
        If FiPy is not installed, or was imported before with other solvers.
    """
    if "fipy" not in sys.modules:
        announce("importing FiPy: a second, or some where it is read from disk for the first time")
    suite, argv = os.environ.get("FIPY_SOLVERS"), sys.argv
    os.environ["FIPY_SOLVERS"], sys.argv = "scipy", argv[:1]
    try:
        with quiet():
            import fipy
            import fipy.solvers
    except ImportError as error:
        raise InvalidInput(f"method=FiPy needs FiPy, which cannot be imported ({error}); run `pip install fipy`, or "
                           "use method=wgflow.FiniteVolume()") from error
    finally:
        sys.argv = argv
        if suite is None:
            del os.environ["FIPY_SOLVERS"]
        else:
            os.environ["FIPY_SOLVERS"] = suite
    if fipy.solvers.solver_suite != "scipy":
        raise InvalidInput(f"FiPy was imported with the solvers of {fipy.solvers.solver_suite!r}; this adapter "
                           "needs those of SciPy: set FIPY_SOLVERS=scipy before the first import of fipy")
    return fipy


def mesh_of(grid: Grid) -> Any:
    """Return a grid as a mesh of FiPy, with its first corner at 0 (only differences of coordinates matter)."""
    if grid.ndim > 3:
        raise InvalidInput(f"method=FiPy: the grid has {grid.ndim} axes, FiPy's meshes at most 3; use FiniteVolume")
    if any(grid.origin):
        raise InvalidInput("method=FiPy: FiPy has no half cell at an origin; make the grid without origin=True")
    sides = [word for word, periodic in zip(("LeftRight", "TopBottom", "FrontBack"), grid.periodic) if periodic]
    name = f"Grid{grid.ndim}D"
    if sides:
        name = "Periodic" + name + ("" if len(sides) == grid.ndim else "".join(sides))
    options: dict[str, Any] = {}
    for letter, widths, uniform in zip("xyz", grid.widths, grid.uniform):
        options |= {f"d{letter}": float(widths[0]), f"n{letter}": widths.size} if uniform else {f"d{letter}": widths}
    with quiet():
        return getattr(load(), name)(**options)
