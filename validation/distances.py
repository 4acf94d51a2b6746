r"""Distances between laws, exact for the objects that wgflow computes with.

On the line the Wasserstein distance is an integral over quantile functions and the Kolmogorov distance a supremum over
distribution functions,

    W_p(a, b)^p = int_0^1 |Q_a(s) - Q_b(s)|^p ds,        K(a, b) = sup_x |F_a(x) - F_b(x)|.

A density given by cell averages has a piecewise linear Q, a weighted sample a piecewise constant one. Both integrals
are therefore finite sums over the merged breakpoints, and nothing is approximated: not the quantiles of a density
by its cell centers, not a sample by a histogram. A law may also be given by its quantile function; then the integral is
done by a double exponential rule at the two ends and Gauss-Legendre in between.

In more dimensions the distance between samples of equal size is an assignment problem, and the general weighted case a
linear program (POT). Entropic values are biased and never used here.

References
----------
Villani, Topics in Optimal Transportation (2003), section 2.2 (the line), Dowson and Landau (1982) (Gaussians).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_real, real_array
from wgflow.errors import InvalidInput, ResourceError

from .quantile_functions import GAUSS_NODES, GAUSS_WEIGHTS, QuantileFunction, mean_power, merged_gaps

__all__ = ["gaussian_wasserstein", "kolmogorov", "wasserstein", "wasserstein_1d", "wasserstein_points"]

Array = NDArray[np.float64]
#: Entries of the largest cost matrix, 320 MB; larger requests are refused before they are allocated.
MAX_COST_ENTRIES = 40_000_000
#: Relative difference of the masses of two laws that counts as rounding, and as the tails that a box leaves out.
SAME_MASS = 1e-6


def _numbers(values: ArrayLike, name: str, ndim: int | None = None) -> Array:
    """Return a float64 copy of finite numbers, or raise an error that says which entry is wrong."""
    array = real_array(values, name)
    if ndim is not None and array.ndim != ndim:
        raise InvalidInput(f"{name} has shape {array.shape}: need {ndim} axis/axes")
    if array.size == 0:
        raise InvalidInput(f"{name} is empty: need at least one point")
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidInput(f"{name} has {int(bad.sum())} non-finite entries, the first at index {where}")
    return array


def _weights(weights: ArrayLike | None, n: int, name: str) -> Array | None:
    """Return non-negative weights of total 1, or None for equal ones."""
    if weights is None:
        return None
    w = _numbers(weights, name, 1)
    if w.size != n:
        raise InvalidInput(f"{name} has {w.size} entries for {n} points")
    if w.min() < 0:
        raise InvalidInput(f"{name}[{int(w.argmin())}] = {w.min():g}: weights must be >= 0")
    if not w.sum() > 0 or not np.isfinite(w.sum()):
        raise InvalidInput(f"{name} has total {w.sum():g}: need a finite total > 0")
    return w / w.sum()


def _order(p: float) -> float:
    order = check_real("p", p, infinite=True)
    if order < 1:
        raise InvalidInput(f"p={order:g}: must be >= 1; below 1 W_p is not a distance")
    return order


def _is_density(obj: Any) -> bool:
    return hasattr(obj, "grid") and hasattr(obj, "masses")


def _is_atoms(obj: Any) -> bool:
    return hasattr(obj, "points") and hasattr(obj, "weights")


def _check_laws(a: Any, b: Any, a_weights: ArrayLike | None, b_weights: ArrayLike | None) -> None:
    """Refuse laws between which a distance makes no sense: of unequal mass, negative, or on a circle."""
    masses = []
    for obj, weights, name in ((a, a_weights, "a"), (b, b_weights, "b")):
        if not (_is_density(obj) or _is_atoms(obj)):
            continue
        kind = "Atoms" if _is_atoms(obj) else "a Density"
        own = np.asarray(obj.weights if _is_atoms(obj) else obj.masses, dtype=np.float64)
        if weights is not None:
            raise InvalidInput(f"{name} is {kind} and has its own masses: leave {name}_weights out")
        if not own.min() >= 0:
            raise InvalidInput(f"{name} is {kind} with a mass of {own.min():g}: masses must be >= 0 and numbers")
        periodic = obj.periodic if _is_atoms(obj) else obj.grid.periodic
        if any(periodic):
            raise InvalidInput(f"{name} lives on a circle in coordinate {list(periodic).index(True)}: these are "
                               "distances on the line and in space; compare the laws of an observable, such as cos(x), "
                               "instead")
        masses.append(float(own.sum()))
        if not (np.isfinite(masses[-1]) and masses[-1] > 0):
            raise InvalidInput(f"{name} has mass {masses[-1]:g}: need a finite mass > 0")
    if len(masses) == 2 and abs(masses[0] - masses[1]) > SAME_MASS * max(masses):
        raise InvalidInput(f"a has mass {masses[0]:.6g} and b has mass {masses[1]:.6g}: a distance is between laws of "
                           "one mass; for their shapes alone take .normalized() of a Density, or Atoms of weights / "
                           "weights.sum()")


def _law(obj: Any, weights: ArrayLike | None, name: str) -> QuantileFunction | Callable[[Array], Array]:
    """Return the quantile function of a Density, of Atoms, of a sample (with weights), or the given one."""
    if _is_atoms(obj):
        if obj.ndim != 1:
            raise InvalidInput(f"{name} has {obj.ndim} coordinates: take a marginal, or use wasserstein()")
        obj, weights = obj.points[0], obj.weights
    if _is_density(obj):
        if obj.grid.ndim != 1:
            raise InvalidInput(f"{name} has {obj.grid.ndim} axes: take a marginal, or use wasserstein()")
        edges, masses = np.asarray(obj.grid.edges[0]), np.asarray(obj.masses, dtype=np.float64)
        return QuantileFunction.from_masses(masses, edges[:-1], edges[1:])
    if callable(getattr(obj, "ppf", None)):
        obj = obj.ppf
    if callable(obj):
        if weights is not None:
            raise InvalidInput(f"{name} is a quantile function: {name}_weights makes no sense")
        return obj
    x = _numbers(obj, name, 1)
    w = _weights(weights, x.size, f"{name}_weights")
    order = np.argsort(x, kind="stable")
    if w is None:
        return QuantileFunction.from_sorted(x[order])
    return QuantileFunction.from_masses(w[order], x[order], x[order])


def _split_at_sign_changes(gap: Callable[[Array], Array], levels: Array) -> Array:
    """Add the zeros of ``gap`` (one at most in each piece) to the levels: |gap|^p is not smooth there."""
    inset = 1e-9 * np.diff(levels)
    lo, hi = levels[:-1] + inset, levels[1:] - inset
    change = gap(lo) * gap(hi) < 0
    lo, hi = lo[change], hi[change]
    if not lo.size:
        return levels
    rising = gap(hi) > 0
    for _ in range(60):
        middle = 0.5 * (lo + hi)
        up = (gap(middle) > 0) == rising
        lo, hi = np.where(up, lo, middle), np.where(up, middle, hi)
    return np.union1d(levels, 0.5 * (lo + hi))


def _quadrature(a: Callable[[Array], Array], b: Callable[[Array], Array], p: float) -> float:
    """Return ``int |Q_a - Q_b|^p`` where at least one side is a general quantile function."""
    probe = np.linspace(0.0, 1.0, 258)[1:-1]
    for name, quantile in (("a", a), ("b", b)):
        values = np.asarray(quantile(probe), dtype=np.float64)
        if values.shape != probe.shape or (np.diff(values) < -1e-12 * np.abs(values[1:])).any():
            raise InvalidInput(f"{name}: a quantile function must return an array of its argument's shape, and must "
                               "not fall; a distribution or density function is none")

    def gap(level: Array) -> Array:
        return np.asarray(a(level), dtype=np.float64) - np.asarray(b(level), dtype=np.float64)

    own = [q.levels for q in (a, b) if isinstance(q, QuantileFunction)]
    levels = np.unique(np.concatenate([np.linspace(0.0, 1.0, 65), *own]))
    if p != 2:
        levels = _split_at_sign_changes(gap, levels)
    lo, hi = levels[1:-2], levels[2:-1]
    inner = 0.5 * (lo + hi)[:, None] + 0.5 * (hi - lo)[:, None] * GAUSS_NODES
    values = np.abs(gap(inner)) ** p
    total = float(np.sum(0.5 * (hi - lo) * (values @ GAUSS_WEIGHTS)))
    # Quantile functions may blow up at 0 and 1 (logarithms, powers): tanh-sinh nodes crowd there. s stays above 1e-17
    # at the lower end and 1 - s above one ulp at the upper end; what lies beyond carries no mass in double precision.
    u = np.linspace(-3.2, 3.2, 257)
    x = 1.0 / (1.0 + np.exp(np.pi * np.sinh(u)))
    weight = np.pi * np.cosh(u) * x * (1.0 - x) * (u[1] - u[0])
    for start, width in ((0.0, levels[1]), (1.0, levels[-2] - 1.0)):
        s = start + width * x
        inside = (s > 0.0) & (s < 1.0)
        values = np.abs(gap(np.where(inside, s, 0.5))) ** p
        total += float(abs(width) * np.sum((weight * values)[inside]))
    if not np.isfinite(total):
        raise InvalidInput("a quantile function returned values that are not finite inside (0, 1)")
    return total


def wasserstein_1d(a: Any, b: Any, p: float = 2, *, a_weights: ArrayLike | None = None,
                   b_weights: ArrayLike | None = None) -> float:
    """Return W_p on the line, exact: ``(int_0^1 |Q_a - Q_b|^p)^(1/p)``.

    Parameters
    ----------
    a, b : Density, Atoms, array of shape (n,), quantile function or frozen SciPy distribution
        The two laws, of one mass, which counts as 1. A Density is read as what it is, constant in each cell, Atoms as
        point masses; samples have no mass of their own.
    p : float, optional
        Order, at least 1; ``numpy.inf`` gives the largest displacement. Default 2.
    a_weights, b_weights : array of shape (n,), optional
        Weights of the points of a sample; equal ones by default. Their total is normalized to 1.

    Returns
    -------
    float
        The distance, to rounding error; with a quantile function to about 1e-12.

    Raises
    ------
    InvalidInput
        For an empty or non-finite sample, negative weights, p < 1, laws of unequal mass, of several axes or on a
        circle, a quantile function that falls.

    Examples
    --------
    >>> wasserstein_1d([0.0, 1.0], [2.0, 5.0], p=1)
    3.0
    """
    p = _order(p)
    _check_laws(a, b, a_weights, b_weights)
    law_a, law_b = _law(a, a_weights, "a"), _law(b, b_weights, "b")
    if not (isinstance(law_a, QuantileFunction) and isinstance(law_b, QuantileFunction)):
        if p == np.inf:
            raise InvalidInput("p = inf needs densities or samples on both sides, not a quantile function")
        return _quadrature(law_a, law_b, p) ** (1.0 / p)
    width, d0, d1 = merged_gaps(law_a, law_b)
    scale = float(max(np.abs(d0).max(), np.abs(d1).max()))
    if p == np.inf or scale == 0.0:
        return scale
    # Dividing by the largest displacement keeps |d|^p inside the floating-point range for any p.
    return scale * float(np.sum(width * mean_power(d0 / scale, d1 / scale, p))) ** (1.0 / p)


def kolmogorov(a: Any, b: Any, *, a_weights: ArrayLike | None = None, b_weights: ArrayLike | None = None) -> float:
    """Return the Kolmogorov distance ``sup_x |F_a(x) - F_b(x)|``, exact.

    Both distribution functions are piecewise linear with jumps, so the supremum is reached at a breakpoint, on one
    side of it. Arguments as in :func:`wasserstein_1d`, quantile functions excepted.
    """
    _check_laws(a, b, a_weights, b_weights)
    law_a, law_b = _law(a, a_weights, "a"), _law(b, b_weights, "b")
    if not (isinstance(law_a, QuantileFunction) and isinstance(law_b, QuantileFunction)):
        raise InvalidInput("kolmogorov needs densities or samples, not a quantile function")
    return law_a.largest_cdf_gap(law_b)


def gaussian_wasserstein(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """Return W_2 of two Gaussians (Bures), the root of ``|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))``.

    Parameters
    ----------
    mean_a, mean_b : array of shape (d,) or float
    cov_a, cov_b : array of shape (d, d) or float
        Symmetric positive semi-definite; singular ones are allowed.

    Raises
    ------
    InvalidInput
        If shapes disagree, a covariance is not symmetric, or one has a negative eigenvalue.
    """
    ma, mb = (np.atleast_1d(_numbers(m, n)) for m, n in ((mean_a, "mean_a"), (mean_b, "mean_b")))
    roots = []
    for cov, name in ((cov_a, "cov_a"), (cov_b, "cov_b")):
        c = np.atleast_2d(_numbers(cov, name))
        if c.shape != (ma.size, ma.size) or ma.shape != mb.shape:
            raise InvalidInput(f"{name} has shape {c.shape}, the means {ma.shape} and {mb.shape}: need (d, d) and (d,)")
        if not np.allclose(c, c.T, rtol=1e-10, atol=1e-12 * np.abs(c).max()):
            raise InvalidInput(f"{name} is not symmetric: largest difference {np.abs(c - c.T).max():.3g}")
        values, vectors = np.linalg.eigh(0.5 * (c + c.T))
        if values[0] < -1e-10 * max(values[-1], 1e-300):
            raise InvalidInput(f"{name} has the eigenvalue {values[0]:.3g}: a covariance has none below 0")
        # The square root turns a rounding error of eps at a zero eigenvalue into sqrt(eps): zeros are made exact.
        values = np.where(values > 8 * np.finfo(float).eps * ma.size * values[-1], values, 0.0)
        roots.append((vectors * np.sqrt(values)) @ vectors.T)
    ra, rb = roots
    # tr A + tr B - 2 |A^(1/2) B^(1/2)|_* is the squared distance of A^(1/2) to the orbit of B^(1/2) under rotations
    # (polar factor), which is computed without subtracting large numbers: zero comes out as zero.
    u, _, vt = np.linalg.svd(ra @ rb)
    return float(np.sqrt(np.sum((ma - mb) ** 2) + np.sum((ra - (u @ vt) @ rb) ** 2)))


def wasserstein_points(x: ArrayLike, y: ArrayLike, p: float = 2, *, x_weights: ArrayLike | None = None,
                       y_weights: ArrayLike | None = None) -> float:
    """Return W_p between weighted points in any dimension, Euclidean ground distance.

    Parameters
    ----------
    x, y : array of shape (n, d) and (m, d)
        The points.
    p : float, optional
        Order, finite and at least 1. Default 2.
    x_weights, y_weights : array of shape (n,), (m,), optional
        Equal weights by default. Equal weights and ``n == m`` is an assignment problem (SciPy); anything else is a
        linear program and needs POT (``pip install wgflow[ot]``). Both are exact.

    Raises
    ------
    InvalidInput
        For shapes that do not match, or values that are not finite.
    ResourceError
        If the n x m cost matrix would be too large; use fewer points, or one-dimensional marginals.
    """
    p = _order(p)
    x, y = _numbers(x, "x", 2), _numbers(y, "y", 2)
    if x.shape[1] != y.shape[1]:
        raise InvalidInput(f"x has points in {x.shape[1]} dimensions, y in {y.shape[1]}")
    if not np.isfinite(p):
        raise InvalidInput("p = inf is available on the line only (wasserstein_1d)")
    wx, wy = _weights(x_weights, len(x), "x_weights"), _weights(y_weights, len(y), "y_weights")
    x, wx = (x, wx) if wx is None else (x[wx > 0], wx[wx > 0])
    y, wy = (y, wy) if wy is None else (y[wy > 0], wy[wy > 0])
    # Weights that are all the same are no weights.
    wx, wy = (None if w is not None and w.min() == w.max() else w for w in (wx, wy))
    if len(x) * len(y) > MAX_COST_ENTRIES:
        raise ResourceError(f"{len(x)} x {len(y)} points need a cost matrix of {8e-9 * len(x) * len(y):.1f} GB, the "
                            f"limit is {8e-9 * MAX_COST_ENTRIES:.2f} GB: thin the points or compare marginals")
    cost, exponent, lost = _costs(x, y, p)
    if wx is None and wy is None and len(x) == len(y):
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(cost)
        return _distance(float(np.mean(cost[rows, columns])), p, exponent, lost)
    try:
        import ot
    except ImportError as error:
        raise ImportError("points with unequal weights or numbers need POT: pip install 'wgflow[ot]'") from error
    wx = np.full(len(x), 1.0 / len(x)) if wx is None else wx
    wy = np.full(len(y), 1.0 / len(y)) if wy is None else wy
    return _distance(max(float(ot.emd2(wx, wy, cost, numItermax=10_000_000)), 0.0), p, exponent, lost)


def _costs(x: NDArray[np.float64], y: NDArray[np.float64], p: float) -> tuple[NDArray[np.float64], int, bool]:
    """Return the costs |x - y|^p in a unit in which they do not overflow, the power of two that this unit is, and
    whether costs of points that are apart have become 0."""
    from scipy.spatial.distance import cdist

    # By powers of two, which leave the digits as they are.
    exponent = math.frexp(max(float(np.abs(x).max()), float(np.abs(y).max())))[1]
    x, y = np.ldexp(x, -exponent), np.ldexp(y, -exponent)
    lengths = cdist(x, y)
    more = math.frexp(float(lengths.max()))[1]
    if p == 2:
        cost = cdist(np.ldexp(x, -more), np.ldexp(y, -more), "sqeuclidean")
    else:
        with np.errstate(under="ignore"):
            cost = np.ldexp(lengths, -more) ** p
    return cost, exponent + more, bool(((cost == 0) & (lengths > 0)).any())


def _distance(cost: float, p: float, exponent: int, lost: bool) -> float:
    """Return the distance of a cost in the unit of `_costs`."""
    if cost == 0.0 and lost:
        raise InvalidInput(f"p={p:g}: the powers of the distances between matched points are below all floats; take a "
                           "smaller p")
    try:
        return math.ldexp(cost ** (1.0 / p), exponent)
    except OverflowError as error:
        raise InvalidInput("x and y lie so far apart that no float holds their distance; measure in another unit"
                           ) from error


def wasserstein(a: Any, b: Any, p: float = 2, *, a_weights: ArrayLike | None = None,
                b_weights: ArrayLike | None = None) -> float:
    """Return W_p between two laws of any kind: the one-dimensional formula where it applies, points otherwise.

    A Density of several axes stands for its cell centers with the cells' masses, which moves no mass by more than half
    a cell's diagonal. Arguments as in :func:`wasserstein_1d` and :func:`wasserstein_points`.
    """

    def points(obj: Any, weights: ArrayLike | None) -> tuple[Any, Any]:
        if _is_atoms(obj):
            return obj.points.T, obj.weights
        if not _is_density(obj):
            return obj, weights
        mesh = obj.grid.mesh()
        return np.stack([np.ravel(axis) for axis in mesh], axis=1), np.ravel(obj.masses)

    def dimension(obj: Any) -> int:
        if _is_atoms(obj):
            return obj.ndim
        if _is_density(obj):
            return obj.grid.ndim
        if callable(obj) or callable(getattr(obj, "ppf", None)) or np.ndim(obj) < 2:
            return 1
        return int(np.shape(obj)[1])

    def on_line(obj: Any) -> Any:
        """Return points of shape (n, 1) as (n,)."""
        return obj if _is_atoms(obj) or _is_density(obj) or np.ndim(obj) < 2 else np.ravel(obj)

    _check_laws(a, b, a_weights, b_weights)
    if dimension(a) == 1 and dimension(b) == 1:
        return wasserstein_1d(on_line(a), on_line(b), p, a_weights=a_weights, b_weights=b_weights)
    if dimension(a) != dimension(b):
        raise InvalidInput(f"a lives in {dimension(a)} dimension(s) and b in {dimension(b)}: give points as (n, d)")
    (x, wx), (y, wy) = points(a, a_weights), points(b, b_weights)
    return wasserstein_points(x, y, p, x_weights=wx, y_weights=wy)
