"""FiniteVolume, the default method: its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wgflow.checks import check_count, check_flag, check_positive
from wgflow.errors import InvalidInput
from wgflow.flows import Flow

from ..base import Method
from .run import FiniteVolumeRun

__all__ = ["FiniteVolume"]

#: How the interaction at the middle of a step is found.
SCHEMES = ("extrapolated", "midpoint")


@dataclass(frozen=True)
class FiniteVolume(Method):
    r"""Second-order finite volumes that keep mass, sign and Gibbs states and never raise the energy.

    Fluxes: Scharfetter-Gummel, :math:`F = \frac{1}{\beta h}[B(q) \rho_i - B(-q) \rho_{i+1}]` with
    :math:`q = \beta (\Psi_{i+1} - \Psi_i)` and :math:`B(z) = z / (e^z - 1)`, times a positive factor for each edge that
    removes their numerical diffusion: second order also at large cell Peclet numbers and beta = infinity. Time: the
    exponential midpoint rule, in which a stochastic second-order product of resolvents replaces the exponential; Strang
    splitting by axis.

    Behavior: without ``dt`` steps are chosen so that the local time error (L1, by step doubling) stays below ``rtol``,
    by default a small part of the error of the grid, estimated from the second differences of the density. A step whose
    energy rises is halved, six times at most, after which an implicit damped step takes over that lowers F for any
    symmetric U (``certificate.n_fallback``).

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
        interactions. Without an interaction the two take the same steps. Both solve nonlinear diffusion, too.

    Raises
    ------
    InvalidInput
        If a setting is out of its range.
    """

    dt: float | None = None
    rtol: float | None = None
    max_steps: int = 1_000_000
    time_limit: float | None = None
    corrected: bool = True
    threads: int | None = None
    scheme: str = "extrapolated"

    DRIVEN: ClassVar[bool] = True
    #: Settings that may change when a run is resumed.
    LIMITS: ClassVar[tuple[str, ...]] = ("max_steps", "time_limit", "threads")

    def __post_init__(self):
        check_positive("dt", self.dt, allow_none=True)
        check_positive("rtol", self.rtol, allow_none=True)
        if self.rtol is not None and not 100 * np.finfo(float).eps <= self.rtol < 1:
            raise InvalidInput(f"rtol={self.rtol:g}: need a number between 100 eps = 2.2e-14 and 1")
        check_count("max_steps", self.max_steps)
        check_positive("time_limit", self.time_limit, allow_none=True)
        check_flag("corrected", self.corrected)
        if self.threads is not None:
            check_count("threads", self.threads)
        if self.scheme not in SCHEMES:
            raise InvalidInput(f"scheme={self.scheme!r}: need one of {', '.join(map(repr, SCHEMES))}")

    @property
    def controlled(self) -> bool:
        """Whether steps are chosen by the error tolerance."""
        return self.dt is None

    def begin(self, flow: Flow) -> FiniteVolumeRun:
        return FiniteVolumeRun(self, flow)
