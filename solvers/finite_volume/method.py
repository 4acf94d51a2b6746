"""FiniteVolume, the default method: its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from wgflow.checks import check_count, check_flag, check_positive
from wgflow.energies.oblique import smooth_everywhere
from wgflow.errors import InvalidInput
from wgflow.flows import Flow
from wgflow.grids import Grid

from ..base import Method
from ..finite_volume_memory import reserve_for
from .choice import carries, loss_of_order, why_not_compact, why_split
from .compact_run import CompactMidpointRun, CompactRun
from .oblique import why_not_oblique
from .run import FiniteVolumeRun

__all__ = ["FiniteVolume"]

#: How the interaction at the middle of a step is found.
SCHEMES = ("extrapolated", "midpoint")
#: How a certificate tells that cells vary in width.
GRADED = " on cells of smoothly varying widths"
#: The least tolerance of a step: above the rounding of a sum over the cells.
LEAST_RTOL = 100 * 2.0**-52
#: Steps that no run takes.
NO_LIMIT = 10**9
#: Orders in space; by default 4 where that is better.
ORDERS = (None, 2, 4)
#: How several axes are treated in a step.
SPLITTINGS = ("strang", "none")


@dataclass(frozen=True)
class FiniteVolume(Method):
    r"""Finite volumes that keep mass, sign and Gibbs states and never raise the energy; of order 4 where that pays.

    Fluxes of order 4: values at the centers of the cells, compact Scharfetter-Gummel fluxes
    :math:`F = \tfrac{D f}{h} [B(q) \rho_i - B(-q) \rho_{i+1}]` with :math:`q = \beta (\Psi_{i+1} - \Psi_i)`,
    :math:`B(z) = z / (e^z - 1)`, a factor f for the curvature of Psi and a tridiagonal mass matrix; time by
    extrapolated Strang splitting of order 3 (several axes, interactions), or of order 5 where small errors are asked
    for without an interaction, or a rational approximation of order 5 (one axis). docs/fourth-order.md derives them.
    Fluxes of order 2: averages over the cells and factors that depend on the density, at any Peclet number, also at
    beta = infinity, with the exponential midpoint rule.
    No diffusion: masses are carried along characteristics, with jumps kept within a cell; a smooth law on one axis
    takes explicit steps of third order. See docs/schemes.md.
    A mobility A(x) (`wgflow.solve`): the same fluxes with A in them; with mixed terms along directions of the grid, for
    linear diffusion on even cells of two or three axes.
    Fronts on a line, of nonlinear diffusion by a power and of charges (a logarithmic repulsion without diffusion):
    points carry the masses, of second order wherever in a cell a front is, as long as they serve.

    Behavior: without ``dt`` steps are chosen so that the local time error (L1) stays below ``rtol``, by default a part
    of the error of the grid, estimated from differences of the density. A step whose energy rises is halved, six times
    at most, after which an implicit damped step takes over that lowers F for any symmetric U
    (``certificate.n_fallback``).

    Good values: the default, which leaves the time error below the space error; ``rtol=1e-8`` for references. Fixed
    ``dt`` is for convergence studies.

    Parameters
    ----------
    dt : float, optional
        Fixed step (the last one before an output time is cut short). By default steps are adaptive.
    rtol : float, optional
        Tolerance of the local error of a pair of adaptive steps, relative to the mass.
    max_steps : int
        Steps after which the run stops with ConvergenceError (reason "max steps").
    time_limit : float, optional
        Seconds after which the run stops with ConvergenceError (reason "time limit").
    corrected : bool
        Whether the fluxes are corrected for the curvature of Psi and the slope of the flux; plain
        Scharfetter-Gummel fluxes (upwind at beta = infinity) otherwise.
    threads : int, optional
        Threads for large grids; all cores by default. Results have the same bits for any number.
    scheme : str
        How the interaction at the middle of a step is found. "extrapolated": from the step before, or from a half step,
        with one evaluation of U a step. "midpoint": as the average of U rho at both ends, for which an equation is
        solved, with two or three evaluations for steps that resolve the flow (1.5 to 2 times the work for a time error
        that is as small or smaller). F then falls at any step for any symmetric U without cut steps, and stable
        stationary states stay stable under steps of any length: for long steps, runs to rest, strong and singular
        interactions. Without an interaction the two take the same steps. Both solve nonlinear diffusion, too, and take
        fluxes of order 4 where these serve.

    order : int, optional
        Order of the fluxes in space, 4 or 2; by default the better of the two, as the certificate tells
        (``certificate.scheme``). Those of order 4 are for smooth problems with linear diffusion, on cells that are even
        or vary smoothly; at kinks they are of lower order, which the certificate tells, too. With 4 a problem that they
        do not serve is refused; 2 also keeps to fluxes where points would carry fronts.

    tol : float, optional
        Tolerance of the whole run: the error of the density (L1, relative to the mass). Half of it is for the errors of
        the steps, and the certificate fails (check "tolerance") where these and the estimated error of the grid exceed
        it, with the number of cells that would do. That error is found by solves on half and a quarter of the cells
        (`Solution.estimate_grid_error`), which cost about as much again on a line and a third in the plane.
        `Grid.for_problem` chooses the cells for a tolerance.
    max_step : float, optional
        Longest step.
    splitting : str
        How the axes of a step are treated. "strang": one after the other, at the least cost a step. "none": both at
        once, by a sparse LU decomposition and a few iterations; each step costs ten to a hundred times as much. For
        stiff potentials in the plane whose valleys are oblique or curved (a Rosenbrock function), where split steps
        must be as short as the time in which the law relaxes across the valley. Two axes, fluxes of order 4, and
        energies without interaction that do not change with time; else it is refused.

    Raises
    ------
    InvalidInput
        If a setting is out of its range.
    """

    EXAMPLE: ClassVar[str] = "FiniteVolume()"

    dt: float | None = None
    rtol: float | None = None
    max_steps: int = 1_000_000
    time_limit: float | None = None
    corrected: bool = True
    threads: int | None = None
    scheme: str = "extrapolated"
    order: int | None = None
    tol: float | None = None
    max_step: float | None = None
    splitting: str = "strang"

    DRIVEN: ClassVar[bool] = True
    KNOWS_MOBILITY: ClassVar[bool] = True
    #: Settings that may change when a run is resumed.
    LIMITS: ClassVar[tuple[str, ...]] = ("max_steps", "time_limit", "threads")

    def __post_init__(self):
        for name in ("dt", "rtol", "tol", "max_step", "time_limit"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.rtol is not None and not LEAST_RTOL <= self.rtol < 1:
            raise InvalidInput(f"rtol={self.rtol:g}: need a number between 100 eps = 2.2e-14 and 1")
        if self.tol is not None and not 1e-10 <= self.tol < 1:
            raise InvalidInput(f"tol={self.tol:g}: need a number between 1e-10 and 1")
        if self.tol is not None and (self.rtol is not None or self.dt is not None):
            raise InvalidInput(f"tol={self.tol:g}: leave out rtol and dt; with tol the solver chooses the steps")
        if self.max_step is not None and self.dt is not None:
            raise InvalidInput(f"max_step={self.max_step:g}: leave it out where dt is given")
        check_count("max_steps", self.max_steps)
        check_flag("corrected", self.corrected)
        if self.threads is not None:
            check_count("threads", self.threads)
        if self.order not in ORDERS:
            raise InvalidInput(f"order={self.order!r}: need 2, 4, or None for the better of the two")
        if self.scheme not in SCHEMES:
            raise InvalidInput(f"scheme={self.scheme!r}: need one of {', '.join(map(repr, SCHEMES))}")
        if self.splitting not in SPLITTINGS:
            raise InvalidInput(f"splitting={self.splitting!r}: need one of {', '.join(map(repr, SPLITTINGS))}")

    @property
    def controlled(self) -> bool:
        """Whether steps are chosen by the error tolerance."""
        return self.dt is None

    @property
    def follows(self) -> bool:
        """Whether steps are shortened until they can follow terms that change with time."""
        return self.dt is None

    @property
    def time_order(self) -> int:
        """Order of the error in time, at least."""
        return 2

    def stop_to_stop(self, longest: float, span: float) -> FiniteVolume:
        # Fixed steps end on multiples of dt, of which there are none before the end.
        return replace(self, dt=2.0 * span, rtol=None, tol=None, max_step=None, max_steps=NO_LIMIT)

    def check_state(self, grid: Grid, state: dict[str, Any]) -> None:
        from wgflow.files.schema import FiniteVolumeState, check_table

        check_table({name: value for name, value in state.items() if not isinstance(value, np.ndarray)},
                    FiniteVolumeState, "state")
        mesh = state.get("mesh")
        super().check_state(grid, {name: value for name, value in state.items() if name != "mesh"})
        if mesh is not None and not (isinstance(mesh, np.ndarray) and mesh.dtype == float and mesh.ndim == 2
                                     and len(mesh) == 2 and np.isfinite(mesh).all() and (np.diff(mesh[0]) > 0).all()
                                     and (mesh[1, :-1] > 0).all()):
            raise ValueError("mesh has to be rising points and the positive masses between them")

    def begin(self, flow: Flow) -> FiniteVolumeRun:
        directions = None if flow.mobility is None else flow.mobility.directions(flow.grid)
        if directions is not None:
            refused = why_not_oblique(flow, self)
            if refused is not None:
                raise InvalidInput(f"mobility={flow.mobility!r}: on a grid a matrix with mixed terms is not for "
                                   f"{refused}; leave that out, give a diagonal, or use Lagrangian()")
            rough = why_not_compact(flow, self)
            if rough is None and not smooth_everywhere(directions, flow.grid):
                rough = "directions that change with the place"
            if self.order == 4 and rough is not None and flow.t1 > flow.t0:
                raise InvalidInput(f"order=4: fluxes of fourth order do not serve {rough}; leave order out")
            order = "fourth" if rough is None else "second"
            flow.scheme = (f"fluxes of {order} order in space along directions of the grid ({len(directions)} for a "
                           f"mobility with mixed terms{'' if rough is None else '; ' + rough})")
            flow.loss = loss_of_order if rough is None else None
            reserve_for(flow, self, rough is None)
            return CompactRun(self, flow) if rough is None else FiniteVolumeRun(self, flow)
        reason = why_not_compact(flow, self)
        if self.splitting == "none" and flow.t1 > flow.t0:
            refused = reason or why_split(flow)
            if refused is not None:
                raise InvalidInput(f"splitting='none' does not serve {refused}; leave splitting out")
        moving = "" if flow.mobility is None else f", with a {flow.mobility.kind} mobility"
        if reason is None:
            together = ", all axes at once" if self.splitting == "none" else ""
            cells = "" if all(even or half for even, half in zip(flow.grid.uniform, flow.grid.origin)) else GRADED
            flow.scheme = f"fluxes of fourth order in space{cells}{together}{moving}"
            flow.loss = loss_of_order
            reserve_for(flow, self, True)
            implicit = self.scheme == "midpoint" and flow.on_grid.moves
            return CompactMidpointRun(self, flow) if implicit else CompactRun(self, flow)
        if self.order == 4 and flow.t1 > flow.t0:
            raise InvalidInput(f"order=4: fluxes of fourth order do not serve {reason}; leave order out")
        if carries(flow, self):
            flow.scheme = "characteristics, of second order in space, with jumps kept within a cell (no diffusion)"
        else:
            flow.scheme = f"fluxes of second order in space{moving} ({reason})"
        reserve_for(flow, self, False)
        return FiniteVolumeRun(self, flow)
