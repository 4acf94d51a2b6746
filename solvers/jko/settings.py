"""The four ways to solve a JKO step, each with its settings.

``JKO(tau=0.1, inner="quantile")`` takes `Quantile` with its defaults, ``JKO(tau=0.1, inner=Quantile(cells=300))`` other
settings. This file brings no compiled code: a solver is imported when a run needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from wgflow.checks import check_count, check_flag, check_positive
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.uphill import uphill

from .base import InnerSettings, InnerSolver

__all__ = ["INNER", "METRICS", "BackAndForth", "Entropic", "Linearized", "Quantile"]

#: The distances that `Linearized` can take.
METRICS = ("exact", "linear")


@dataclass(frozen=True)
class Quantile(InnerSettings):
    r"""Newton's method in quantiles: one axis (also radial), any energy, order 1 and 2.

    With the quantile functions X and Y of :math:`\rho` and :math:`\rho_k` the Wasserstein distance is Euclidean, so
    that a step is

    .. math:: \min_X \; \frac{1}{2\tau} \int_0^M |X(s) - Y(s)|^2 \, ds + F(X_\# ds),

    convex where V, U and the internal energies are. Mass stays between its quantiles, so that nothing is interpolated
    twice; without an internal energy the quantiles are atoms. See `QuantileSolver`.

    Parameters
    ----------
    cells : int, optional
        Cells between the quantiles, a number that then stays the same. By default as many as the grid has, and more
        where a step needs them.

    Raises
    ------
    InvalidInput
        If ``cells`` is below 1.
    """

    NAME: ClassVar[str] = "quantile"
    ARRAYS: ClassVar[int] = 55

    cells: int | None = None

    def __post_init__(self):
        if self.cells is not None:
            _set(self, cells=check_count("cells", self.cells))

    def working_bytes(self, grid: Grid) -> float:
        return 8.0 * self.ARRAYS * max(grid.size, self.cells or 0)

    def on_coarser_grid(self, factor: int) -> Quantile:
        return self if self.cells is None else replace(self, cells=max(1, self.cells // factor))

    @classmethod
    def solver_class(cls) -> type[InnerSolver]:
        return uphill("wgflow.solvers.jko.quantile", "QuantileSolver")


@dataclass(frozen=True)
class Linearized(InnerSettings):
    r"""Finite volumes on a linearized distance: one to three axes, order 1 and 2.

    With ``metric="exact"``, on one and two axes, the distance is linearized again and again about the present iterate,
    until

    .. math:: \rho_k = (\mathrm{id} + \tau \nabla p)_\# \rho_{k+1}, \qquad
        p = \frac{\delta F}{\delta \rho}(\rho_{k+1}),

    which is the exact step for any tau, of second order in h. With ``metric="linear"``, and on three axes, a step is
    the published scheme

    .. math:: \min_\rho \; F(\rho) + \frac{1}{2\tau} \|\rho_k - \rho\|^2_{\dot H^{-1}_\rho}

    of Cances, Gallouet and Todeschini, one linearization, which differs from the exact step by :math:`O(\tau^2)` and is
    of first order in h. `JKOStep.metric` says which of them a step is. See `LinearizedSolver`.

    Parameters
    ----------
    metric : {"exact", "linear"}
        The distance of a step. A step for which the exact one does not converge is taken with the linear one; it counts
        in ``certificate.n_fallback``, and the certificate fails.

    Raises
    ------
    InvalidInput
        If ``metric`` is none of these.
    """

    NAME: ClassVar[str] = "linearized"
    ARRAYS: ClassVar[int] = 105
    #: Entries of the factor a cell on grids of n cells: so many times log2 n less so many on two axes, and times the
    #: third root of n on three, as measured to 200 x 200 and 24 x 24 x 24; each is four floats and the number of a row.
    FACTOR: ClassVar[dict[int, tuple[float, float]]] = {1: (0.0, -1.0), 2: (3.45, 20.0), 3: (8.4, 38.0)}
    FACTOR_BYTES: ClassVar[float] = 40.0

    metric: Literal["exact", "linear"] = "exact"

    def __post_init__(self):
        if self.metric not in METRICS:
            raise InvalidInput(f"metric={self.metric!r}: need one of {', '.join(map(repr, METRICS))}")

    @classmethod
    def solver_class(cls) -> type[InnerSolver]:
        return uphill("wgflow.solvers.jko.linearized", "LinearizedSolver")

    def working_bytes(self, grid: Grid) -> float:
        n = grid.size
        slope, less = self.FACTOR[min(3, grid.ndim)]
        entries = max(2.0, slope * (n ** (1 / 3) if grid.ndim > 2 else math.log2(n)) - less)
        return super().working_bytes(grid) + self.FACTOR_BYTES * entries * n


@dataclass(frozen=True)
class BackAndForth(InnerSettings):
    r"""Ascent of the dual problem: one to three uniform axes with walls, an internal energy, order 1.

    With :math:`E(\rho) = \int h(\rho) + \int V \rho` a step is solved as

    .. math:: \max_\varphi \int \varphi^c \, d\rho_k - E^*(-\varphi), \qquad
        \varphi^c(y) = \min_x \frac{|x - y|^2}{2\tau} - \varphi(x),

    and reports the gap between the two problems, which bounds its error. See `BackAndForthSolver`.

    Parameters
    ----------
    points : int
        Intervals for each cell and axis by which the density is represented.
    threads : int, optional
        Threads on large grids, at most two. By default as many as the machine has cores. Results have the same bits for
        any number.

    Raises
    ------
    InvalidInput
        If a setting is below 1.
    """

    NAME: ClassVar[str] = "back-and-forth"

    points: int = 1
    threads: int | None = None

    def __post_init__(self):
        _set(self, points=check_count("points", self.points))
        if self.threads is not None:
            _set(self, threads=check_count("threads", self.threads))

    @classmethod
    def solver_class(cls) -> type[InnerSolver]:
        return uphill("wgflow.solvers.jko.back_and_forth", "BackAndForthSolver")


@dataclass(frozen=True)
class Entropic(InnerSettings):
    r"""Entropic optimal transport in the log domain: one to three uniform axes, order 1.

    With the cost :math:`c = |x - y|^2 / 2` and

    .. math::
        OT_\varepsilon(a, b) = \min_\gamma \langle c, \gamma \rangle + \varepsilon \sum \gamma (\log \gamma - 1), \qquad
        S_\varepsilon(a, b) = OT_\varepsilon(a, b) - \tfrac12 OT_\varepsilon(a, a) - \tfrac12 OT_\varepsilon(b, b)

    a debiased step minimizes :math:`S_\varepsilon(\rho_k, \rho) / \tau + F(\rho)`, with an error of second order in
    epsilon. A plain one has :math:`OT_\varepsilon` in place of :math:`S_\varepsilon` and is blurred
    (`JKOStep.blur`). See `EntropicSolver`.

    Parameters
    ----------
    epsilon : float, optional
        The regularization, in squared units of length; by default the squared width of the widest cells. Below half of
        that the density is locked to its cells, and a warning says so.
    debiased : bool
        Whether the distance is the debiased one.
    estimate_bias : bool
        Whether each step is solved at 2 epsilon as well, to estimate its distance from the step without regularization
        (`JKOStep.bias`); this about doubles the work.

    Raises
    ------
    InvalidInput
        If ``epsilon`` is not a finite number > 0, or a flag is not True or False.
    """

    NAME: ClassVar[str] = "entropic"
    ARRAYS: ClassVar[int] = 170

    epsilon: float | None = None
    debiased: bool = True
    estimate_bias: bool = True

    def __post_init__(self):
        _set(self, epsilon=check_positive("epsilon", self.epsilon, allow_none=True),
             debiased=check_flag("debiased", self.debiased),
             estimate_bias=check_flag("estimate_bias", self.estimate_bias))

    @classmethod
    def solver_class(cls) -> type[InnerSolver]:
        return uphill("wgflow.solvers.jko.entropic", "EntropicSolver")


#: The settings that a string stands for.
INNER: dict[str, type[InnerSettings]] = {
    "quantile": Quantile,
    "back-and-forth": BackAndForth,
    "linearized": Linearized,
    "entropic": Entropic,
}


def _set(settings: InnerSettings, **values) -> None:
    """Set fields of a frozen dataclass to their checked values: Python's own numbers, which a checkpoint can store."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)
