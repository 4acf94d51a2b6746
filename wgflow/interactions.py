r"""Interactions :math:`\tfrac12 \iint U(\theta, \theta')\,\rho(d\theta)\,\rho(d\theta')` and their three exact forms.

`Interaction` takes a kernel and picks the cheapest form that is exact for it: `Convolution` (FFT), `LowRank`
(:math:`U = \sum_k s_k \phi_k \phi_k'`) or `Dense`. A form can also be given directly.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod

import numpy as np

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.energies import Term, need_function
from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import at_pairs, box_of, check_points, differences, displaced, pair_sum, values_at
from wgflow.grids import Grid, available_memory, call_user, check_memory, real_array
from wgflow.kernels.lowrank import combine_rows, rows_dot

__all__ = ["Convolution", "Dense", "Interaction", "LowRank"]

#: Relative agreement at which a sampled kernel counts as symmetric, as a convolution, or as of low rank.
EXACTNESS = 1e-11
#: Random pairs of cells on which a kernel's form is checked.
SAMPLED_PAIRS = 512
#: Cells sampled to find a kernel's numerical rank, and the largest rank that is still called low.
RANK_SAMPLE, RANK_LIMIT = 300, 96
#: Part of the free memory that a dense table may take; beyond it rows are evaluated on the fly.
TABLE_SHARE = 0.25
#: Entries of a dense kernel evaluated at a time on the fly (32 MB a block).
BLOCK_ENTRIES = 4_000_000
#: FFTs of at least this many points use both cores; the result has the same bits.
THREADED_FFT = 1 << 17


class _PairTerm(Term):
    """A term 1/2 int int U rho rho; a subclass says how U rho is formed on a grid."""

    def __init__(self):
        self._last = None

    @abstractmethod
    def _bind(self, grid: Grid):
        """The operator on a grid: an object with ``apply(masses)`` and a ``form`` in words."""

    def operator(self, grid: Grid):
        """What forms U rho on a grid, built once for each grid."""
        if self._last is None or self._last[0] != grid:
            self._last = (grid, self._bind(grid))
        return self._last[1]

    @abstractmethod
    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        """U rho at points (n_coordinates, n), shape (n,)."""

    def energy(self, rho: Density | Atoms) -> float:
        masses = rho.weights if isinstance(rho, Atoms) else rho.masses
        return 0.5 * float((masses * self.first_variation(rho)).sum())

    def first_variation(self, rho: Density | Atoms) -> np.ndarray:
        if isinstance(rho, Atoms):
            return self._at(rho, rho.points)
        return self.operator(rho.grid).apply(rho.masses)


class Convolution(_PairTerm):
    r"""The interaction of a kernel of the displacement, :math:`U(\theta, \theta') = w(\theta - \theta')`, by FFT.

    Exact on the grid: zero-padded on no-flux axes, circular on periodic ones; O(n log n).

    Parameters
    ----------
    w : callable
        A vectorized even function of the displacement, one array for each axis. On a periodic axis it is evaluated at
        displacements between minus and plus half the period.
    gradient : callable, optional
        The gradient of w for methods that move points: of the displacement, returns shape (n_coordinates, n). By
        default differences of sixth order are taken, with a step of 0.005.

    Raises
    ------
    InvalidInput
        If w is not even or not finite, or the grid is not uniform.
    """

    def __init__(self, w, gradient=None):
        super().__init__()
        if not callable(w):
            raise InvalidType(f"w must be a function of the displacement, got {type(w).__name__}")
        self.w, self._gradient = w, _check_gradient(gradient)

    def _bind(self, grid: Grid):
        return _ConvolutionOperator(self.w, grid)

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        return pair_sum(lambda x, y: displaced(self.w, x, y, rho, "w"), rho, points)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points = check_points(rho, points)
        if self._gradient is None:
            return differences(lambda x: self._at(rho, x), points, [(-np.inf, np.inf)] * len(points))
        return pair_sum(lambda x, y: displaced(self._gradient, x, y, rho, "gradient of w", len(points)), rho, points,
                         len(points))

    def __repr__(self):
        return f"Convolution({getattr(self.w, '__name__', type(self.w).__name__)})"


class LowRank(_PairTerm):
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

    def __init__(self, features, signs=None, gradients=None):
        super().__init__()
        self.features = features if callable(features) else real_array(features, "features")
        self.signs = None if signs is None else np.atleast_1d(real_array(signs, "signs"))
        self._gradients = _check_gradient(gradients, "gradients")

    def _bind(self, grid: Grid):
        features = self.features
        if callable(features):
            features = real_array(call_user(features, grid.mesh(), "features"), "features")
        if features.ndim == grid.ndim:
            features = features[None]
        if features.ndim != grid.ndim + 1 or features.shape[1:] != grid.shape:
            raise InvalidInput(f"features has shape {features.shape}; need (k, {', '.join(map(str, grid.shape))}): "
                               "one row of the grid's shape for each feature")
        if not np.isfinite(features).all():
            where = tuple(int(k) for k in np.argwhere(~np.isfinite(features))[0])
            raise InvalidInput(f"features is {features[where]} at {where} (feature, cell); it must be finite")
        return _LowRankOperator(features, self._signs(len(features)), grid)

    def _signs(self, count: int) -> np.ndarray:
        signs = np.ones(count) if self.signs is None else self.signs
        if signs.shape != (count,) or not np.isfinite(signs).all():
            raise InvalidInput(f"signs has shape {signs.shape}; need ({count},), finite, one for each feature")
        return signs

    def _moments(self, rho: Density | Atoms) -> np.ndarray:
        """The s_k int phi_k rho."""
        need_function(self.features, "features")
        if isinstance(rho, Atoms):
            features, masses = self._features_at(rho.points), rho.weights
        else:
            features, masses = self.operator(rho.grid).features, rho.masses.ravel()
        return self._signs(len(features)) * rows_dot(features, masses)

    def _features_at(self, points: np.ndarray) -> np.ndarray:
        need_function(self.features, "features")
        return np.ascontiguousarray(values_at(self.features, points, "features", (None,)))

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        return combine_rows(self._features_at(points), self._moments(rho))

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points, z = check_points(rho, points), self._moments(rho)
        if self._gradients is None:
            return differences(lambda x: combine_rows(self._features_at(x), z), points, box_of(rho)[0])
        slopes = values_at(self._gradients, points, "gradients", (z.size, len(points)))
        return combine_rows(np.ascontiguousarray(slopes.reshape(z.size, -1)), z).reshape(points.shape)

    def __repr__(self):
        return "LowRank(...)"


class Dense(_PairTerm):
    """The interaction of any symmetric kernel, by its table, or evaluated row by row where the table is too large.

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

    def _bind(self, grid: Grid):
        n = grid.size
        if not callable(self.U):
            if self.U.shape not in ((n, n), grid.shape * 2):
                raise InvalidInput(f"U has shape {self.U.shape}; need ({n}, {n}), the kernel between all cell centers")
            return _TableOperator(self.U.reshape(n, n), grid)
        need = 8.0 * n * n
        if self.table is None and need > TABLE_SHARE * available_memory():
            return _BlockOperator(self.U, grid)
        if self.table is False:
            return _BlockOperator(self.U, grid)
        check_memory(need, f"U on {n} cells: the dense table", "use LowRank or Convolution, or Dense(U, table=False)")
        return _TableOperator(_pairs(self.U, grid, np.arange(n)[:, None], np.arange(n)[None, :]), grid)

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        need_function(self.U, "U")
        return pair_sum(lambda x, y: at_pairs(self.U, x, y, "U"), rho, points)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points = check_points(rho, points)
        if self._gradient is None:
            return differences(lambda x: self._at(rho, x), points, box_of(rho)[0])
        return pair_sum(lambda x, y: at_pairs(self._gradient, x, y, "gradient of U", len(points)), rho, points,
                         len(points))

    def __repr__(self):
        return f"Dense({getattr(self.U, '__name__', type(self.U).__name__)})"


class Interaction(_PairTerm):
    r"""The interaction energy :math:`\tfrac12 \iint U \rho \rho`, in the cheapest form that is exact for U.

    On each grid the kernel is sampled at random pairs of cells: one that depends on the displacement alone becomes a
    `Convolution`, one of low numerical rank a `LowRank` (agreement 1e-11 relative to its largest value, checked at
    pairs that the factorization has not seen), any other `Dense`. ``form(grid)`` says which.

    Parameters
    ----------
    U : callable, array or one of the three forms
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

    def __init__(self, U, gradient=None):
        super().__init__()
        if not (callable(U) or isinstance(U, _PairTerm)):
            U = real_array(U, "U")
        if gradient is not None and isinstance(U, _PairTerm):
            raise InvalidInput("gradient: a form has a gradient of its own; give it there, as in "
                               "Convolution(w, gradient=...)")
        self.U, self._gradient = U, _check_gradient(gradient)

    def form(self, grid: Grid) -> str:
        """The form chosen on a grid, in words."""
        return self.operator(grid).form

    def _bind(self, grid: Grid):
        if isinstance(self.U, _PairTerm):
            return self.U.operator(grid)
        if not callable(self.U):
            return Dense(self.U).operator(grid)
        if _count_arguments(self.U, grid.ndim) == grid.ndim:
            return Convolution(self.U).operator(grid)
        return _choose_form(self.U, grid)

    def _on_points(self, ndim: int) -> _PairTerm:
        """The form that atoms are given: a sum over pairs, unless U is a form itself."""
        if isinstance(self.U, _PairTerm):
            return self.U
        if callable(self.U) and _count_arguments(self.U, ndim) == ndim:
            return Convolution(self.U, self._gradient)
        return Dense(self.U, gradient=self._gradient)

    def _at(self, rho: Density | Atoms, points: np.ndarray) -> np.ndarray:
        return self._on_points(len(points))._at(rho, points)

    def gradient(self, rho: Density | Atoms, points) -> np.ndarray:
        points = check_points(rho, points)
        return self._on_points(len(points)).gradient(rho, points)

    def __repr__(self):
        return f"Interaction({getattr(self.U, '__name__', repr(self.U))})"


# -------------------------------------------------------------------- operators
class _ConvolutionOperator:
    def __init__(self, w, grid: Grid):
        from scipy import fft

        if not all(grid.uniform):
            raise InvalidInput("Convolution needs a uniform grid; on given edges use Interaction(U) of two points")
        self.shape = grid.shape
        self.lengths = tuple(n if p else fft.next_fast_len(2 * n - 1, real=True)
                             for n, p in zip(grid.shape, grid.periodic))
        self.workers = 2 if np.prod(self.lengths) >= THREADED_FFT else 1
        offsets = [_circular_offsets(n, m) for n, m in zip(grid.shape, self.lengths)]
        mesh = np.meshgrid(*[k * h[0] for k, h in zip(offsets, grid.widths)], indexing="ij")
        kernel = real_array(call_user(w, mesh, "w"), "w")
        kernel = np.full(self.lengths, float(kernel)) if kernel.ndim == 0 else kernel
        if kernel.shape != self.lengths:
            raise InvalidInput(f"w returned shape {kernel.shape} for displacements of shape {self.lengths}; "
                               "it must return one value for each")
        _check_kernel(kernel, mesh)
        mirrored = np.roll(np.flip(kernel), 1, axis=tuple(range(grid.ndim)))
        self.transform = fft.rfftn(0.5 * (kernel + mirrored)).real
        self.form = f"convolution, {' x '.join(map(str, self.lengths))} FFT"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        from scipy import fft

        # Axis by axis, so that rows of padding zeros are never transformed.
        lengths, ndim, workers = self.lengths, masses.ndim, self.workers
        x = fft.rfft(masses, lengths[-1], axis=-1, workers=workers)
        for axis in range(ndim - 2, -1, -1):
            x = fft.fft(x, lengths[axis], axis=axis, overwrite_x=True, workers=workers)
        x *= self.transform
        for axis in range(ndim - 1):
            x = fft.ifft(x, axis=axis, overwrite_x=True, workers=workers)
            x = x[(slice(None),) * axis + (slice(0, self.shape[axis]),)]
        return fft.irfft(x, lengths[-1], axis=-1, workers=workers)[..., :self.shape[-1]]


class _LowRankOperator:
    def __init__(self, features: np.ndarray, signs: np.ndarray, grid: Grid):
        self.features = np.ascontiguousarray(features.reshape(len(features), grid.size))
        self.signs, self.shape = signs, grid.shape
        self.form = f"low rank, {len(features)} features"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        z = rows_dot(self.features, masses.ravel())
        return combine_rows(self.features, self.signs * z).reshape(self.shape)


class _TableOperator:
    def __init__(self, table: np.ndarray, grid: Grid):
        if not np.isfinite(table).all():
            i, j = (int(k) for k in np.argwhere(~np.isfinite(table))[0])
            raise InvalidInput(f"U is {table[i, j]} between cells {i} and {j}; it must be finite")
        gap = np.abs(table - table.T)
        scale = np.abs(table).max()
        if gap.max() > EXACTNESS * scale:
            i, j = (int(k) for k in np.unravel_index(gap.argmax(), gap.shape))
            raise _asymmetric(table[i, j], table[j, i], f"cells {i} and {j}")
        self.table, self.shape = np.ascontiguousarray(0.5 * (table + table.T)), grid.shape
        self.form = f"dense table, {table.shape[0]} x {table.shape[1]}"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        return rows_dot(self.table, masses.ravel()).reshape(self.shape)


class _BlockOperator:
    def __init__(self, U, grid: Grid):
        _check_sampled_symmetry(U, grid)
        self.U, self.grid = U, grid
        self.form = "dense, evaluated on the fly"

    def apply(self, masses: np.ndarray) -> np.ndarray:
        n = self.grid.size
        rows = max(1, BLOCK_ENTRIES // n)
        out = np.empty(n)
        for start in range(0, n, rows):
            block = np.arange(start, min(n, start + rows))
            out[block] = rows_dot(_pairs(self.U, self.grid, block[:, None], np.arange(n)[None, :]), masses.ravel())
        return out.reshape(self.grid.shape)


def _check_gradient(gradient, what: str = "gradient"):
    if gradient is not None and not callable(gradient):
        raise InvalidType(f"{what} must be a function, got {type(gradient).__name__}")
    return gradient


# -------------------------------------------------------------------- choosing a form
def _choose_form(U, grid: Grid):
    scale = _check_sampled_symmetry(U, grid)
    if all(grid.uniform) and _depends_on_displacement(U, grid, scale):
        return Convolution(_displacement_kernel(U, grid)).operator(grid)
    factors = _low_rank_factors(U, grid, scale)
    if factors is not None:
        return _LowRankOperator(*factors, grid)
    return Dense(U).operator(grid)


def _check_sampled_symmetry(U, grid: Grid) -> float:
    """The kernel's sampled scale, after checking that it is symmetric at random pairs of cells."""
    i, j = np.random.default_rng(20181).integers(grid.size, size=(2, SAMPLED_PAIRS))
    forward, backward = _pairs(U, grid, i, j), _pairs(U, grid, j, i)
    scale = float(np.abs(forward).max())
    gap = np.abs(forward - backward)
    if gap.max() > EXACTNESS * scale:
        k = int(gap.argmax())
        points = [tuple(round(float(c[m]), 6) for c, m in zip(grid.centers, np.unravel_index(cell, grid.shape)))
                  for cell in (i[k], j[k])]
        raise _asymmetric(forward[k], backward[k], f"{points[0]} and {points[1]}")
    return scale


def _depends_on_displacement(U, grid: Grid, scale: float) -> bool:
    rng = np.random.default_rng(31337)
    pairs = [rng.integers(n, size=(2, SAMPLED_PAIRS)) for n in grid.shape]
    shifted = []
    for (i, j), n, periodic in zip(pairs, grid.shape, grid.periodic):
        if periodic:
            move = rng.integers(n, size=SAMPLED_PAIRS)
            shifted.append(((i + move) % n, (j + move) % n))
        else:
            low = np.minimum(i, j)
            move = np.floor(rng.random(SAMPLED_PAIRS) * (n - np.abs(i - j))).astype(int) - low
            shifted.append((i + move, j + move))
    here = _pairs(U, grid, *(np.ravel_multi_index([p[s] for p in pairs], grid.shape) for s in (0, 1)))
    there = _pairs(U, grid, *(np.ravel_multi_index([p[s] for p in shifted], grid.shape) for s in (0, 1)))
    return bool(np.abs(here - there).max() <= EXACTNESS * scale)


def _displacement_kernel(U, grid: Grid):
    """The kernel as a function of the displacement, evaluated only at pairs of points inside the box."""
    def kernel(*displacement):
        first = [c[0] + np.maximum(d, 0.0) for c, d in zip(grid.centers, displacement)]
        second = [c[0] + np.maximum(-d, 0.0) for c, d in zip(grid.centers, displacement)]
        return U(*first, *second)

    return kernel


def _low_rank_factors(U, grid: Grid, scale: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and signs of a kernel of low numerical rank, or None.

    A pivoted QR of the kernel between sampled cells gives the rank and pivot cells J. With Q an orthonormal basis of
    the columns U[:, J], U = Q B Q^T, where B follows from the rows J; its eigenvectors turn Q into features.
    """
    from scipy.linalg import qr

    rng = np.random.default_rng(4711)
    count = min(grid.size, RANK_SAMPLE)
    cells = rng.choice(grid.size, count, replace=False)
    _, triangle, order = qr(_pairs(U, grid, cells[:, None], cells[None, :]), mode="economic", pivoting=True)
    decay = np.abs(np.diag(triangle))
    rank = int((decay > 1e-15 * decay[0]).sum()) if decay[0] > 0 else 1
    if rank > min(RANK_LIMIT, 0.5 * count):
        return None
    pivots = cells[order[:rank]]
    basis, _ = np.linalg.qr(_pairs(U, grid, np.arange(grid.size)[:, None], pivots[None, :]))
    columns = _pairs(U, grid, np.arange(grid.size)[:, None], pivots[None, :])
    core = (basis.T @ columns) @ np.linalg.pinv(basis[pivots].T)
    signs, vectors = np.linalg.eigh(0.5 * (core + core.T))
    keep = np.abs(signs) > 1e-15 * np.abs(signs).max() if signs.any() else np.ones(1, bool)
    features, signs = (basis @ vectors[:, keep]).T, signs[keep]
    i, j = rng.integers(grid.size, size=(2, 4 * SAMPLED_PAIRS))
    error = np.abs((features[:, i] * signs[:, None] * features[:, j]).sum(axis=0) - _pairs(U, grid, i, j)).max()
    return (features, signs) if error <= EXACTNESS * scale else None


def _pairs(U, grid: Grid, i, j) -> np.ndarray:
    """U between the cells with flat numbers i and j (broadcast), checked."""
    i, j = np.broadcast_arrays(i, j)
    points = [c[k] for cells in (i, j) for c, k in zip(grid.centers, np.unravel_index(cells, grid.shape))]
    values = real_array(call_user(U, points, "U"), "U")
    if values.shape != i.shape:
        if values.ndim:
            raise InvalidInput(f"U returned shape {values.shape} for coordinates of shape {i.shape}; "
                               "it must return one value for each pair")
        values = np.full(i.shape, float(values))
    if not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0])
        places = [round(float(p[where]), 6) for p in points]
        raise InvalidInput(f"U is {values[where]} between {tuple(places[:grid.ndim])} and {tuple(places[grid.ndim:])}; "
                           "it must be finite on the grid (singular kernels: pass cell averages as a table)")
    return values


def _check_kernel(kernel: np.ndarray, mesh) -> None:
    if not np.isfinite(kernel).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(kernel))[0])
        place = tuple(float(x[where]) for x in mesh)
        hint = ": pass W as a singular kernel (cell average)" if not any(place) else "; it must be finite"
        name = "W(0)" if not any(place) else f"W{place}"
        raise InvalidInput(f"{name} is {kernel[where]}{hint}")
    mirrored = np.roll(np.flip(kernel), 1, axis=tuple(range(kernel.ndim)))
    gap = np.abs(kernel - mirrored)
    # At half a period (or in the padding) the two signs of a displacement share one entry: nothing to compare there.
    if gap.max() > EXACTNESS * np.abs(kernel).max():
        worst = np.unravel_index(gap.argmax(), gap.shape)
        point = ", ".join(f"{x[worst]:.6g}" for x in mesh)
        raise InvalidInput(f"W not even: max difference {gap.max():.3g} at x=({point}); an interaction is symmetric, "
                           "U(x, y) = U(y, x): symmetrize it, or put one-body forces into a Potential")


def _circular_offsets(n: int, length: int) -> np.ndarray:
    """Displacements in cells in FFT order: 0, 1, ..., then the negative ones; padding entries repeat the last."""
    k = np.arange(length)
    offsets = np.where(k <= length // 2, k, k - length)
    return offsets if length == n else np.clip(offsets, -(n - 1), n - 1)


def _asymmetric(forward, backward, where: str) -> InvalidInput:
    return InvalidInput(f"U is not symmetric: U(i,j)={forward:.6g} but U(j,i)={backward:.6g} between {where} (the "
                        "worst pair looked at); an interaction energy sees only the symmetric part (U + U')/2: "
                        "pass that")


def _count_arguments(function, ndim: int) -> int:
    """How many points' coordinates a kernel takes: ndim (a displacement) or 2 ndim (two points)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2 * ndim
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2 * ndim
    kinds = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in kinds)
    for count in (2 * ndim, ndim):
        if required <= count <= len(kinds):
            return count
    raise InvalidInput(f"U takes {required} arguments; on {ndim} axes it takes {2 * ndim} (two points) or {ndim} "
                       "(a displacement)")
