"""JKO: its settings."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, fields, replace
from typing import Any, ClassVar, cast

import numpy as np

from wgflow.calls.memory import fixed_steps, reserve, working_of_operators
from wgflow.checks import check_count, check_flag, check_positive
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput, InvalidType
from wgflow.flows import Flow
from wgflow.grids import Grid

from ..base import Method
from .base import InnerSettings, InnerSolver, did_you_mean
from .run import JKORun
from .settings import INNER


@dataclass(frozen=True)
class JKO(Method):
    r"""Minimizing movements (Jordan, Kinderlehrer and Otto): every step is an optimization problem, solved and checked.

    .. math:: \rho_{k+1} = \operatorname{argmin}_\rho \; F(\rho) + \frac{1}{2 \tau s} W_2^2(\rho, \rho_k),

    with s the mean of time_scale over the step. Each step keeps mass and sign and obeys the energy-dissipation
    inequality :math:`F(\rho_{k+1}) + W_2^2(\rho_{k+1}, \rho_k) / (2 \tau s) \le F(\rho_k)`, which is checked. The
    error is of first order in tau. With ``order=2`` a step is the variational BDF2 scheme of Gallouet, Natale and
    Todeschini: a JKO step of length 2 tau / 3 from the point a third beyond :math:`\rho_k` on the geodesic from
    :math:`\rho_{k-1}`. Where it would raise F a plain step is taken; it counts in ``certificate.n_fallback``, and the
    certificate fails unless the law hardly moves in such steps (``certificate.substituted``).

    Steps are of equal length between two output times, and end on them: tau is shortened so that it divides the
    interval, never lengthened. Where time_scale is high, so that in a step more than four times tau (times the mean of
    time_scale) would pass by its clock, steps are shorter.

    With terms that change with time (`TimeDependent`; order 1, steps of a given length) a step minimizes the mean of F
    over its time, steps end on jumps and are shortened until they follow the terms, and the certificate judges F less
    the work.

    Parameters
    ----------
    tau : float
        The time step, in units of t; with ``adaptive`` the first and largest one.
    inner : {"quantile", "back-and-forth", "linearized", "entropic"} or InnerSettings
        How a step is solved: `Quantile`, `BackAndForth`, `Linearized` or `Entropic` with their settings, of which a
        string stands for the one of that name with its defaults. "quantile": one axis (also radial), in quantiles,
        where the distance is Euclidean, any energy; order 1 and 2. "linearized": one to three axes, by repeated
        linearization of the distance, which gives exact steps of second order in h on one and two axes; order 1 and 2
        (``Linearized(metric="linear")``, and three axes: the published scheme, of first order in h, a step O(tau^2)
        off the exact one). "back-and-forth": one to three axes, ascent of the dual problem, with its gap; order 1.
        "entropic": one to three uniform axes, debiased by default, its bias estimated; order 1.
    order : {1, 2}
        Order in tau.
    tol : float, optional
        Largest residual of an accepted step (dimensionless; `JKOStep.residual`); by default that of the inner solver.
    max_iterations : int, optional
        Iterations of the inner solver for a step; by default that of the inner solver.
    adaptive : bool
        Whether steps are chosen so that the estimated error of a step stays below ``rtol``: the distance W2 between a
        step of length 2 tau and two of length tau, relative to the standard deviation of the density.
    rtol : float
        That tolerance.
    max_steps : int
        Steps after which the run stops with ConvergenceError (reason "max steps").
    time_limit : float, optional
        Seconds after which the run stops with ConvergenceError (reason "time limit").
    options : dict, optional
        Settings of the inner solver by name, which replace those of ``inner``: another way to write
        ``inner=Quantile(cells=300)`` is ``inner="quantile", options={"cells": 300}``.

    Raises
    ------
    InvalidInput
        If a setting is out of its range or the inner solver is unknown; when a run starts, if the inner solver cannot
        serve the energy or the grid.

    Notes
    -----
    A step that misses its tolerance is tried again from the solutions of shorter steps. If that fails as well, the run
    stops with ConvergenceError; ``error.partial`` is the Solution so far and ``error.best`` the best iterate.
    ``solution.jko_steps`` holds the `JKOStep` of every step, without its density.

    References
    ----------
    R. Jordan, D. Kinderlehrer and F. Otto, The variational formulation of the Fokker-Planck equation, SIAM J. Math.
    Anal. 29 (1998) 1-17. T. O. Gallouet, A. Natale and G. Todeschini, From geodesic extrapolation to a variational BDF2
    scheme for Wasserstein gradient flows, Math. Comp. 93 (2024) 2769-2810.
    """

    EXAMPLE: ClassVar[str] = "JKO(tau=0.05)"

    tau: float
    inner: str | InnerSettings = "quantile"
    order: int = 1
    tol: float | None = None
    max_iterations: int | None = None
    adaptive: bool = False
    rtol: float = 1e-3
    max_steps: int = 1_000_000
    time_limit: float | None = None
    options: InitVar[dict[str, Any] | None] = None

    DRIVEN: ClassVar[bool] = True

    def __post_init__(self, options: dict[str, Any] | None):
        check_positive("tau", self.tau)
        check_count("order", self.order)
        if self.order not in (1, 2):
            raise InvalidInput(f"order={self.order}: need 1 or 2")
        check_positive("tol", self.tol, allow_none=True)
        if self.max_iterations is not None:
            check_count("max_iterations", self.max_iterations)
        check_flag("adaptive", self.adaptive)
        check_positive("rtol", self.rtol)
        check_count("max_steps", self.max_steps)
        check_positive("time_limit", self.time_limit, allow_none=True)
        object.__setattr__(self, "inner", _chosen(self.inner, options))

    @property
    def controlled(self) -> bool:
        """Whether steps follow an error tolerance."""
        return self.adaptive

    @property
    def time_order(self) -> int:
        """Order of the error in tau."""
        return self.order

    def stop_to_stop(self, longest: float, span: float) -> JKO:
        return replace(self, tau=longest, adaptive=False)

    def on_coarser_grid(self, factor: int) -> JKO:
        inner = cast(InnerSettings, self.inner)
        return replace(self, inner=inner.on_coarser_grid(factor))

    @property
    def follows(self) -> bool:
        """Whether steps are shortened until they can follow terms that change with time."""
        return True

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, as a checkpoint stores them: ``JKO(**settings)`` without "method" is equal."""
        inner = cast(InnerSettings, self.inner)
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {"method": type(self).__name__, **values, "inner": inner.NAME, "options": inner.given()}

    def make_inner(self, parts: EnergyOnGrid, grid: Grid) -> InnerSolver:
        """Return the inner solver for an energy on a grid."""
        inner = cast(InnerSettings, self.inner)
        solver = inner.solver_class()
        if self.order not in solver.ORDERS:
            raise InvalidInput(f"order={self.order}: inner={inner.NAME!r} has order "
                               f"{' and '.join(map(str, solver.ORDERS))}")
        if not solver.TAKES_FUNCTIONALS:
            parts.check_terms(f"inner={inner.NAME!r}", internal=True)
        return solver(parts, grid, inner, self.tol, self.max_iterations)

    def check_state(self, grid: Grid, state: dict[str, Any]) -> None:
        """Check the numbers; the arrays are looked at by the inner solver, when it takes them up."""
        from wgflow.files.schema import JKOState, check_table

        check_table({name: value for name, value in state.items() if not isinstance(value, np.ndarray)}, JKOState,
                    "state")

    def begin(self, flow: Flow) -> JKORun:
        if flow.energy.time_dependent and (self.adaptive or self.order != 1):
            what = "adaptive=True" if self.adaptive else "order=2"
            raise InvalidInput(f"{what}: with TimeDependent terms JKO takes steps of first order whose length is given "
                               "(they are shortened where the terms ask for it); leave it out, or use FiniteVolume()")
        inner = cast(InnerSettings, self.inner)
        steps = math.inf if self.adaptive else fixed_steps(flow, self.tau)
        reserve(flow, inner.working_bytes(flow.grid) + working_of_operators(flow), steps=steps)
        return JKORun(self, flow)


def _chosen(inner: str | InnerSettings, options: dict[str, Any] | None) -> InnerSettings:
    """Return the inner solver's settings that ``inner`` and ``options`` stand for."""
    if isinstance(inner, str):
        if inner not in INNER:
            raise InvalidInput(f"unknown inner solver {inner!r}{did_you_mean(inner, INNER)}; allowed: "
                               f"{', '.join(map(repr, INNER))}")
        inner = INNER[inner]()
    if not isinstance(inner, InnerSettings):
        raise InvalidType(f"inner={inner!r}: need one of {', '.join(map(repr, INNER))}, or an object such as "
                          "Quantile(cells=300)")
    if options is None:
        return inner
    if not isinstance(options, dict):
        raise InvalidType(f"options={options!r}: need a dict of the inner solver's settings by name")
    return inner.changed(options)
