r"""Interactions :math:`\tfrac12 \iint U(\theta, \theta')\,\rho(d\theta)\,\rho(d\theta')` and their three exact forms.

`Interaction` takes a kernel and picks the cheapest form that is exact for it: `Convolution` (FFT), `LowRank`
(:math:`U = \sum_k s_k \phi_k \phi_k'`) or `Dense`. A form can also be given directly.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import available_memory, check_memory, real_array
from wgflow.compiled.lowrank import combine_rows
from wgflow.densities import Density
from wgflow.energies.features import Features
from wgflow.energies.free_energy import Term
from wgflow.energies.nodes import at_nodes
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import box_of, check_points, check_seams, differences, need_function
from wgflow.grids import Grid

from .distance_tables import Tables
from .forms import count_arguments, depends_on_displacement, displacement_kernel, low_rank_factors
from .kernel_checks import EXACTNESS, check_sampled_symmetry
from .named_kernels import (
    Kernel,
    bessel,
    cosine,
    exponential,
    gaussian,
    log,
    morse,
    newtonian,
    power,
    quadratic,
    yukawa,
)
from .operators import (
    BlockOperator,
    CellPairsOperator,
    ConvolutionOperator,
    LowRankOperator,
    TableOperator,
    table_of_kernel,
)
from .pair_sums import at_pairs, displaced, kernel_sum, pair_sum

__all__ = ["EXACTNESS", "Convolution", "Dense", "Interaction", "Kernel", "LowRank", "bessel", "cosine", "exponential",
           "gaussian", "log", "morse", "newtonian", "power", "quadratic", "yukawa"]
#: Part of the free memory that a dense table may take; beyond it rows are evaluated on the fly.
TABLE_SHARE = 0.25


class PairTerm(Term):
    """A term 1/2 int int U rho rho; a subclass forms U rho on a grid and at points."""

    #: Whether U may have a kink where its two points coincide.
    singles_out_pairs: bool = True

    def __init__(self):
        self._last = None

    @abstractmethod
    def _bind(self, grid: Grid):
        """Return the operator on a grid: an object with ``apply(masses)`` and a ``form`` in words."""

    def operator(self, grid: Grid):
        """Return the operator that forms U rho on a grid, built once for each grid."""
        if self._last is None or self._last[0] != grid:
            self._last = (grid, self._bind(grid))
        return self._last[1]

    def check_atoms(self, rho: Atoms) -> None:
        if any(rho.periodic):
            check_seams(lambda points: self._at(rho, points), rho, "U rho")

    def on_grid(self, grid: Grid) -> EnergyOnGrid:
        return EnergyOnGrid(grid, operators=[(1.0, self.operator(grid))])

    @abstractmethod
    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        """Return U rho at points (n_coordinates, n), shape (n,)."""

    def energy(self, rho: Density | Atoms) -> float:
        masses = rho.weights if isinstance(rho, Atoms) else at_nodes(rho).masses
        return 0.5 * float((masses * self.first_variation(rho)).sum())

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        if isinstance(rho, Atoms):
            return self._at(rho, rho.points)
        return self.operator(rho.grid).apply(at_nodes(rho).masses)


class Convolution(PairTerm):
    r"""The interaction of a kernel of the displacement, :math:`U(\theta, \theta') = w(\theta - \theta')`, by FFT.

    Exact on the grid: zero-padded on no-flux axes, circular on periodic ones; O(n log n). In several coordinates a
    smooth kernel that is a product of functions of one each, such as a Gaussian, is formed by short products along each
    axis instead, several times as fast and as exact (`wgflow.interactions.separable`). On one axis the value at 0 of
    a function with a kink there, such as :math:`|x|`, is raised by 1/12 of the jump of its slope over a cell, so that
    sums keep fourth order (`wgflow.interactions.kinked_kernels`). A table is taken as it is.

    A kernel that is smooth at 0 is represented by its values at the displacements of the cell centers, one that is
    singular there by averages over cells, exact to rounding: let :math:`A w` be the average of w over one cell of a
    pair, then the grid uses :math:`2 A w - A^2 w`, which leaves smooth kernels unchanged up to :math:`h^4`.
    ``average="double"`` uses :math:`A^2 w`, the mean over both cells: the energy is then exact for densities that are
    constant on cells, and an upper bound of the minimum, but Psi is less accurate. The value at displacement 0 is the
    interaction of the mass in a cell with itself: for :math:`\log |x|` on one axis :math:`\log h - 1.886`
    (:math:`\log h - 3/2` with "double").

    Parameters
    ----------
    w : Kernel, callable or array
        A kernel of `wgflow.interactions`; a vectorized even function of the displacement, one array for each axis (on a
        periodic axis displacements lie between minus and plus half the period); or a table of values, along each axis
        of n cells at the 2 n - 1 displacements -(n - 1) h, ..., (n - 1) h (no-flux) or at the n displacements 0, h,
        ..., (n - 1) h (periodic). On periodic axes a kernel of `wgflow.interactions` is made periodic, see
        `wgflow.interactions.periodic_kernels`.
    gradient : callable, optional
        The gradient of w for methods that move points: of the displacement, returns shape (n_coordinates, n). By
        default that of the Kernel, or differences of sixth order with a step of 0.005.
    average : bool or "double", optional
        Whether averages over cells are taken; by default for a Kernel that is not smooth. A function is then averaged
        by adaptive quadrature: it may be singular at 0, with a finite integral, and is smooth elsewhere.

    Raises
    ------
    InvalidInput
        If w is not even, or not finite (at 0: without averages); if the grid is not uniform (except for a Kernel on one
        axis, by a dense table); for points that coincide under a kernel that is infinite at 0.
    """

    EXAMPLE: ClassVar[str] = "Convolution(lambda z: z**2 / 2)"

    def __init__(self, w, gradient=None, average: bool | str | None = None):
        super().__init__()
        self.w, self.average = _check_convolution(w, gradient, average), average
        self._gradient = _check_gradient(gradient)
        self._tables = Tables(self.w) if callable(self.w) and not isinstance(self.w, Kernel) else None

    def _bind(self, grid: Grid):
        if isinstance(self.w, Kernel) and not all(grid.uniform):
            return CellPairsOperator(self.w, grid, self.average)
        return ConvolutionOperator(self.w, grid, self.average)

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        need_function(self.w, "w")
        if isinstance(self.w, Kernel):
            return kernel_sum(self.w, rho, points)
        sums = self._sums(rho, points)
        if sums is not None:
            return sums[0]
        return pair_sum(lambda x, y: displaced(self.w, x, y, rho, "w"), rho, points)

    def _sums(self, rho: Density | Atoms, points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return U rho and its gradient from a table; None for a kernel that has none, or a gradient of its own."""
        return None if self._tables is None or self._gradient is not None else self._tables.sums(rho, points)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points = check_points(rho, points)
        need_function(self.w, "w")
        if isinstance(self.w, Kernel):
            return kernel_sum(self.w, rho, points, len(points))
        sums = self._sums(rho, points)
        if sums is not None:
            return sums[1]
        if self._gradient is None:
            return differences(lambda x: self._at(rho, x), points, [(-np.inf, np.inf)] * len(points))
        return pair_sum(lambda x, y: displaced(self._gradient, x, y, rho, "gradient of w", len(points)), rho, points,
                         len(points))

    def __repr__(self):
        if isinstance(self.w, Kernel):
            return f"Convolution({self.w!r})"
        return f"Convolution({getattr(self.w, '__name__', type(self.w).__name__)})"


class LowRank(PairTerm):
    r"""The interaction :math:`U(\theta, \theta') = \sum_k s_k\,\phi_k(\theta)\,\phi_k(\theta')`, in O(n k).

    Parameters
    ----------
    features : callable or array, shape (k, *grid.shape)
        A function of the coordinates that returns the k features, or their values at the cell centers.
    signs : array_like, shape (k,), optional
        The s_k, any real numbers; 1 by default.
    gradients : callable, optional
        The gradients of the features for methods that move points: of the coordinates, returns shape
        (k, n_coordinates, n). By default differences of sixth order are taken, with a step of 0.005.
    """

    singles_out_pairs = False

    def __init__(self, features, signs=None, gradients=None):
        super().__init__()
        self._known = Features(features, gradients)
        self.signs = None if signs is None else np.atleast_1d(real_array(signs, "signs"))

    @property
    def features(self):
        """The features: a function of the coordinates, or values at the cell centers."""
        return self._known.function

    def _bind(self, grid: Grid):
        features = self._known.on_grid(grid)
        return LowRankOperator(features, self._signs(len(features)), grid)

    def _signs(self, count: int) -> np.ndarray:
        signs = np.ones(count) if self.signs is None else self.signs
        if signs.shape != (count,) or not np.isfinite(signs).all():
            raise InvalidInput(f"signs has shape {signs.shape}; need ({count},), finite, one for each feature")
        return signs

    def _moments(self, rho: Density | Atoms) -> np.ndarray:
        """Return the moments s_k int phi_k rho."""
        need_function(self.features, "features")
        moments = self._known.moments(rho)
        return self._signs(len(moments)) * moments

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        return combine_rows(self._known.at(points), self._moments(rho))

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        return self._known.gradient(rho, points, self._moments(rho))

    def __repr__(self):
        return "LowRank(...)"


class Dense(PairTerm):
    """The interaction of any symmetric kernel, by its table, or evaluated row by row where the table is too large.

    On one axis the diagonal of the table of a function is mended where the kernel has a kink at x = x2; see
    `Convolution`. That of rows that are evaluated one by one, or of a table that is given, is not.

    Parameters
    ----------
    U : callable or array, shape (n, n)
        A vectorized function of the coordinates of both points (``U(x, x2)``, ``U(x, y, x2, y2)``), or the table of its
        values between cell centers, n = ``grid.size`` in C order.
    table : bool, optional
        Whether to store the table; by default if it takes less than a quarter of the free memory.
    gradient : callable, optional
        The gradient of U in its first point for methods that move points: of the coordinates of both points, returns
        shape (n_coordinates, n). By default differences of sixth order are taken, with a step of 0.005.
    """

    def __init__(self, U, table: bool | None = None, gradient=None):
        super().__init__()
        self.U = U if callable(U) else real_array(U, "U")
        self.table = table
        self._gradient = _check_gradient(gradient)
        self._tables = Tables(self.U, pairs=True) if callable(self.U) and gradient is None else None

    def _bind(self, grid: Grid):
        n = grid.size
        if not callable(self.U):
            return _operator_of_table(self.U, grid)
        need = 8.0 * n * n
        if self.table is None and need > TABLE_SHARE * available_memory():
            return BlockOperator(self.U, grid)
        if self.table is False:
            return BlockOperator(self.U, grid)
        check_memory(need, f"U on {n} cells: the dense table", "use LowRank or Convolution, or Dense(U, table=False)")
        return TableOperator(table_of_kernel(self.U, grid), grid)

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        need_function(self.U, "U")
        sums = None if self._tables is None else self._tables.sums(rho, points)
        if sums is not None:
            return sums[0]
        return pair_sum(lambda x, y: at_pairs(self.U, x, y, "U"), rho, points)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points = check_points(rho, points)
        sums = None if self._tables is None else self._tables.sums(rho, points)
        if sums is not None:
            return sums[1]
        if self._gradient is None:
            return differences(lambda x: self._at(rho, x), points, box_of(rho)[0])
        return pair_sum(lambda x, y: at_pairs(self._gradient, x, y, "gradient of U", len(points)), rho, points,
                         len(points))

    def __repr__(self):
        return f"Dense({getattr(self.U, '__name__', type(self.U).__name__)})"


class Interaction(PairTerm):
    r"""The interaction energy :math:`\tfrac12 \iint U \rho \rho`, in the cheapest form that is exact for U.

    On each grid the kernel is sampled at random pairs of cells: one that depends on the displacement alone becomes a
    `Convolution`, one of low numerical rank a `LowRank` (agreement 1e-11 relative to its largest value, checked at
    pairs that the factorization has not seen), any other `Dense`. ``form(grid)`` says which.

    Parameters
    ----------
    U : callable, array, kernel of `wgflow.interactions` or one of the three forms
        A function of the coordinates of both points, ``U(x, x2)`` on one axis and ``U(x, y, x2, y2)`` on two; or of
        the displacement, with one argument for each axis; vectorized. Or the table of its values, shape (n, n).
    gradient : callable, optional
        The gradient of U in its first point (of the displacement, if U takes that) for methods that move points:
        returns shape (n_coordinates, n). By default differences of sixth order are taken, with a step of 0.005.

    Raises
    ------
    InvalidInput
        If U is not symmetric (the worst sampled pair is named) or not finite.
    """

    EXAMPLE: ClassVar[str] = "Interaction(lambda x, y: (x - y)**2 / 2)"

    def __init__(self, U, gradient=None):
        super().__init__()
        if isinstance(U, PairTerm):
            self.singles_out_pairs = U.singles_out_pairs
        if not (callable(U) or isinstance(U, PairTerm)):
            U = real_array(U, "U")
            if U.ndim != 2:
                raise InvalidType(f"U has shape {U.shape}: Interaction(U) takes a function of two points, or of their "
                                  "displacement, a named kernel, or a table (n, n) between cell centers")
        if gradient is not None and isinstance(U, PairTerm):
            raise InvalidInput("gradient: a form has a gradient of its own; give it there, as in "
                               "Convolution(w, gradient=...)")
        if isinstance(U, Kernel):
            U, gradient = Convolution(U, gradient), None
        self.U, self._gradient = U, _check_gradient(gradient)
        self._form: tuple[int, PairTerm] | None = None

    def form(self, grid: Grid) -> str:
        """Return the form chosen on a grid, in words."""
        return self.operator(grid).form

    def _bind(self, grid: Grid):
        if isinstance(self.U, PairTerm):
            return self.U.operator(grid)
        if not callable(self.U):
            return _operator_of_table(self.U, grid)
        if count_arguments(self.U, grid.ndim) == grid.ndim:
            return Convolution(self.U).operator(grid)
        return _choose_form(self.U, grid)

    def _on_points(self, ndim: int) -> PairTerm:
        """Return the form used for atoms: a sum over pairs, unless U is itself such a form."""
        if isinstance(self.U, PairTerm):
            return self.U
        if self._form is None or self._form[0] != ndim:
            displaced = callable(self.U) and count_arguments(self.U, ndim) == ndim
            self._form = ndim, (Convolution(self.U, self._gradient) if displaced else
                                Dense(self.U, gradient=self._gradient))
        return self._form[1]

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        return self._on_points(len(points))._at(rho, points)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points = check_points(rho, points)
        return self._on_points(len(points)).gradient(rho, points)

    def __repr__(self):
        return f"Interaction({getattr(self.U, '__name__', repr(self.U))})"


def _check_gradient(gradient, what: str = "gradient"):
    if gradient is not None and not callable(gradient):
        raise InvalidType(f"{what} must be a function, got {type(gradient).__name__}")
    return gradient


def _check_convolution(w, gradient, average):
    """Check a kernel, function or table of a Convolution and its options; return them."""
    if not callable(w):
        if not isinstance(w, (np.ndarray, list, tuple)):
            raise InvalidType("w must be a function of the displacement, a kernel of wgflow.interactions or a table of "
                              f"values, got {type(w).__name__}")
        w = real_array(w, "w")
        if average is not None:
            raise InvalidInput("average: a table is taken as it is; leave average out, or give a function")
    if isinstance(w, Kernel) and gradient is not None:
        raise InvalidInput(f"gradient: {w!r} has a gradient of its own; leave it out")
    if not (average is None or isinstance(average, bool) or average == "double"):
        raise InvalidInput(f"average={average!r}: need True, False, 'double' or None (as the kernel asks)")
    return w


# -------------------------------------------------------------------- choosing a form
def _operator_of_table(table: np.ndarray, grid: Grid) -> TableOperator:
    n = grid.size
    if table.shape not in ((n, n), grid.shape * 2):
        raise InvalidInput(f"U has shape {table.shape}; need ({n}, {n}), the kernel between all cell centers")
    check_memory(8.0 * n * n, f"U on {n} cells: a symmetric copy of the table", "use LowRank or Convolution")
    return TableOperator(table.reshape(n, n).copy(), grid, mend=False)


def _choose_form(U, grid: Grid):
    scale = check_sampled_symmetry(U, grid)
    if all(grid.uniform) and depends_on_displacement(U, grid, scale):
        return Convolution(displacement_kernel(U, grid)).operator(grid)
    factors = low_rank_factors(U, grid, scale)
    if factors is not None:
        return LowRankOperator(*factors, grid)
    return Dense(U).operator(grid)
