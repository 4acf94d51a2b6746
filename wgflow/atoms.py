"""Atoms: laws of weighted points, with the moments, quantiles and samples that a Density has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.calls.explained import explained
from wgflow.checks import axis_numbers, call_user, real_array
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grid_checks import check_names
from wgflow.sampling import sampler
from wgflow.uphill import uphill

if TYPE_CHECKING:
    from wgflow.densities import Density

__all__ = ["Atoms"]

Bounds = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Atoms:
    r"""The law :math:`\rho = \sum_i w_i\,\delta_{\theta_i}`: weighted points in any number of coordinates.

    Parameters
    ----------
    points : array_like, shape (n_coordinates, n)
        One row for each coordinate; an array of shape (n,) is one coordinate. Copied, and read-only from then on.
    weights : array_like, shape (n,)
        Masses of the points, at least 0, not all 0.
    bounds : sequence of (lo, hi), optional
        For each coordinate the interval in which the law lives, such as ``(0, inf)`` for a radius; the whole line by
        default. The ends belong to the interval.
    powers : sequence of float, optional
        Exponents p of the reference measure :math:`\prod_i x_i^{p_i}\,dx` that an entropy is relative to: d - 1 for a
        radius in R^d, 0 (the default) for a plain coordinate. A coordinate with a power has the lower bound 0 or more.
    names : sequence of str, optional
        Names of the coordinates; x, y, z, w by default.
    periodic : sequence of bool, optional
        Which coordinates are angles: their two bounds are the same point.

    Raises
    ------
    InvalidInput
        If shapes disagree, a number is not finite, a weight is negative or a point lies outside the bounds.
    InvalidType
        If points or weights are not real numbers.

    Examples
    --------
    >>> rho = Atoms([[0.0, 1.0, 3.0]], [0.5, 0.25, 0.25])
    >>> rho.mean(), rho.quantile(0.6)
    (1.0, 1.0)
    """

    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    bounds: Any = None
    powers: Any = None
    names: Any = None
    periodic: Any = None

    def __post_init__(self):
        points, weights = _check_points(self.points, self.weights)
        ndim = len(points)
        powers = _check_powers(self.powers, ndim)
        periodic = _check_periodic(self.periodic, ndim)
        bounds = _check_bounds(self.bounds, powers, periodic, ndim)
        _check_inside(points, bounds)
        found = {"points": points, "weights": weights, "bounds": bounds, "powers": powers,
                 "names": _check_names(self.names, ndim), "periodic": periodic}
        for name, value in found.items():
            object.__setattr__(self, name, value)
        points.flags.writeable = weights.flags.writeable = False

    # ---------------------------------------------------------------- constructors
    @classmethod
    def from_density(cls, rho: Density, per_cell: int | None = None) -> Atoms:
        r"""Return atoms that represent a density on a grid; the mass of each cell is kept.

        On one axis the density is taken as a parabola in each cell, with the cell's mass and edge values of fourth
        order, and the atoms are its ``per_cell`` Gauss points: integrals of smooth functions are of fourth order. On
        several axes a cell becomes one atom. At the cell's center integrals would be too small by
        :math:`h^2/24 \int f'' \rho`, at the cell's center of mass too large by as much; the atom lies halfway between,
        which is again of fourth order.

        Bounds, names and periodic axes are those of the grid; powers are found from its weight if that is a product of
        powers.

        Parameters
        ----------
        rho : Density
        per_cell : int, optional
            Points in a cell on one axis, at least 2; by default enough for about 1000 in all.
        """
        from wgflow.atoms_of_cells import atoms_of_cells, powers_of

        if per_cell is not None:
            _check_per_cell(per_cell, rho.grid.ndim)
        points, weights = atoms_of_cells(rho, per_cell)
        return cls(points, weights, rho.grid.bounds, powers_of(rho.grid), rho.grid.names, rho.grid.periodic)

    def moved(self, points: NDArray[np.float64]) -> Atoms:
        """Return the same weights at other points, shape (n_coordinates, n)."""
        points = _check_places(points)
        if points.shape != self.points.shape:
            raise InvalidInput(f"points has shape {points.shape}; need {self.points.shape}, a place for each atom")
        _check_inside(points, self.bounds)
        points.flags.writeable = False
        # The rest has been checked when these atoms were made: a run moves them many thousand times.
        law = object.__new__(Atoms)
        for name, value in vars(self).items():
            object.__setattr__(law, name, points if name == "points" else value)
        return law

    # ---------------------------------------------------------------- numbers
    @property
    def ndim(self) -> int:
        """Number of coordinates."""
        return len(self.points)

    @property
    def size(self) -> int:
        """Number of points."""
        return self.weights.size

    @property
    def mass(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum())

    def expect(self, function) -> float:
        """Return the integral of ``function``, or of an array (n,) of its values at the points, against the law."""
        if isinstance(function, np.ndarray):
            f = function
        else:
            f = real_array(call_user(function, tuple(self.points), "function"), "function")
        if f.shape not in ((), (self.size,)):
            raise InvalidInput(f"function has shape {f.shape}; need ({self.size},), one value for each point")
        return float((self.weights * f).sum())

    def mean(self) -> NDArray[np.float64] | float:
        """Return the mean of each coordinate, shape (n_coordinates,), a float for one; divided by the mass."""
        means: NDArray[np.float64] = (self.points * self.weights).sum(axis=1) / self.mass
        return float(means[0]) if self.ndim == 1 else means

    def cov(self) -> NDArray[np.float64] | float:
        """Return the covariance matrix, (n_coordinates, n_coordinates), for one the variance; divided by the mass."""
        gaps = self.points - np.atleast_1d(self.mean())[:, None]
        cov: NDArray[np.float64] = (gaps[:, None] * gaps * self.weights).sum(axis=2) / self.mass
        return float(cov[0, 0]) if self.ndim == 1 else cov

    def marginal(self, axes: int | str | Sequence[int | str]) -> Atoms:
        """Return the law of some of the coordinates: the same weights, the other coordinates dropped, without powers.

        Parameters
        ----------
        axes : int, str or sequence of them
            The coordinates to keep, by number or by name, increasing.
        """
        keep = list(axis_numbers(axes, self.names))
        if not keep or any(not 0 <= k < self.ndim for k in keep) or keep != sorted(set(keep)):
            raise InvalidInput(f"axes={axes!r}: need increasing coordinate numbers between 0 and {self.ndim - 1}")
        bounds, names, periodic = ([part[k] for k in keep] for part in (self.bounds, self.names, self.periodic))
        return Atoms(self.points[keep], self.weights, bounds, None, names, periodic)

    def cdf(self, x: ArrayLike) -> NDArray[np.float64] | float:
        """Return the mass at and below x divided by the whole mass, for one coordinate; it jumps at the points."""
        self._need_one_coordinate("cdf")
        order = np.argsort(self.points[0], kind="stable")
        total = np.concatenate([[0.0], np.cumsum(self.weights[order])])
        below = total[np.searchsorted(self.points[0][order], real_array(x, "x"), side="right")] / total[-1]
        return float(below) if np.ndim(below) == 0 else below

    def quantile(self, q: ArrayLike) -> NDArray[np.float64] | float:
        """Return the smallest point at and below which a part q of the mass lies, for one coordinate.

        Parameters
        ----------
        q : float or array_like in [0, 1]
        """
        self._need_one_coordinate("quantile")
        q = real_array(q, "q")
        if not ((q >= 0) & (q <= 1)).all():
            raise InvalidInput(f"q={q!r}: need numbers in [0, 1]")
        order = np.argsort(self.points[0], kind="stable")
        order = order[self.weights[order] > 0]
        total = np.cumsum(self.weights[order])
        k = np.searchsorted(total / total[-1], q, side="left")
        x = self.points[0][order][np.minimum(k, order.size - 1)]
        return float(x) if x.ndim == 0 else x

    def sample(self, n: int, rng: Any = None) -> NDArray[np.float64]:
        """Return n independent points, shape (n, n_coordinates) ((n,) for one coordinate), drawn by their weights.

        Parameters
        ----------
        rng : None, int, SeedSequence or Generator
            As `numpy.random.default_rng` takes it.
        """
        rng = sampler(n, self.ndim, rng)
        total = np.cumsum(self.weights)
        index = np.minimum(np.searchsorted(total, rng.random(n) * total[-1], side="right"), self.size - 1)
        x: NDArray[np.float64] = self.points[:, index].T.copy()
        return x[:, 0] if self.ndim == 1 else x

    def __eq__(self, other):
        if not isinstance(other, Atoms):
            return NotImplemented
        same = (self.bounds, self.powers, self.names, self.periodic) == (other.bounds, other.powers, other.names,
                                                                         other.periodic)
        return same and np.array_equal(self.points, other.points) and np.array_equal(self.weights, other.weights)

    __hash__ = None  # type: ignore[assignment]

    def plot(self, path: Any = None, *, ax: Any = None, **style: Any) -> Any:
        """Return a matplotlib Figure of the law: a histogram, a cloud, or a panel for each of more coordinates.

        Parameters
        ----------
        path : path, optional
            Where to write it.
        ax : matplotlib Axes, optional
            Draw here instead of into a new figure (one or two coordinates).
        **style
            Of matplotlib's ``Axes.stairs``; of clouds ``color``.
        """
        return uphill("wgflow.pictures.laws", "plot_law")(self, path, ax=ax, **style)

    def _repr_html_(self) -> str:
        return str(uphill("wgflow.pictures.html", "law_html")(self))

    def __repr__(self):
        return f"Atoms({self.size} points, mass={self.mass:.12g}, mean={np.round(self.mean(), 6)}, on {self.names})"

    def _need_one_coordinate(self, what: str) -> None:
        if self.ndim != 1:
            raise InvalidInput(f"{what} needs atoms in one coordinate, these have {self.ndim}; take .marginal(axis)")


# -------------------------------------------------------------------- checks
# Dataclasses write their own __init__.
Atoms.__init__ = explained("Atoms(points, weights)")(Atoms.__init__)  # type: ignore[method-assign]


def _check_places(points) -> NDArray[np.float64]:
    """Return points as an array of their own, finite, with a row for each coordinate."""
    points = real_array(points, "points")
    points = np.ascontiguousarray(points[None] if points.ndim == 1 else points)
    if points.ndim != 2 or 0 in points.shape:
        raise InvalidInput(f"points has shape {points.shape}; need (n_coordinates, n) with at least one of each")
    _check_finite("points", points)
    return points


def _check_finite(name: str, array: NDArray[np.float64]) -> None:
    if not np.isfinite(array).all():
        where = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise InvalidInput(f"{name}{list(where)} is {array[where]}; it must be finite")


def _check_points(points, weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = _check_places(points), real_array(weights, "weights")
    if weights.shape != points.shape[1:]:
        turned = f"; points.T has shape {points.T.shape}" if weights.shape == points.shape[:1] else ""
        raise InvalidInput(f"weights has shape {weights.shape} for {points.shape[1]} points; need one for each "
                           f"(points has one row for each coordinate{turned})")
    _check_finite("weights", weights)
    if weights.min() < 0:
        k = int(weights.argmin())
        raise InvalidInput(f"weights[{k}]={weights[k]:g}: the mass of a point must be >= 0")
    with np.errstate(over="ignore"):
        total = float(weights.sum())
    if not 0 < total < math.inf:
        raise InvalidInput(f"weights: total mass is {total:g}; need a finite number > 0")
    return points, weights


def _check_powers(powers, ndim: int) -> tuple[float, ...]:
    if powers is None:
        return (0.0,) * ndim
    array = np.atleast_1d(real_array(powers, "powers"))
    if array.shape != (ndim,):
        raise InvalidInput(f"powers has shape {array.shape}; need ({ndim},), an exponent for each coordinate")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise InvalidInput(f"powers={array.tolist()}: need finite exponents >= 0 (d - 1 for a radius in R^d)")
    return tuple(array.tolist())


def _check_periodic(periodic, ndim: int) -> tuple[bool, ...]:
    if periodic is None:
        return (False,) * ndim
    flags = tuple(bool(p) for p in np.atleast_1d(periodic))
    if len(flags) != ndim:
        raise InvalidInput(f"periodic has {len(flags)} entries for {ndim} coordinates")
    return flags


def _check_bounds(bounds, powers, periodic, ndim: int) -> Bounds:
    if bounds is None:
        bounds = [(0.0 if p > 0 else -math.inf, math.inf) for p in powers]
    array = real_array([tuple(pair) for pair in bounds], "bounds")
    if array.shape != (ndim, 2):
        raise InvalidInput(f"bounds has shape {array.shape}; need a (lo, hi) pair for each of {ndim} coordinates")
    for axis, (lo, hi) in enumerate(array.tolist()):
        if not lo < hi:
            raise InvalidInput(f"bounds[{axis}]: lo={lo:g} must be < hi={hi:g} (infinite ends are allowed)")
        if powers[axis] > 0 and lo < 0:
            raise InvalidInput(f"bounds[{axis}]: lo={lo:g}, but powers[{axis}]={powers[axis]:g} makes it a radius; "
                               "need lo >= 0")
        if periodic[axis] and not (math.isfinite(lo) and math.isfinite(hi)):
            raise InvalidInput(f"bounds[{axis}]=({lo:g}, {hi:g}): a periodic coordinate has finite bounds")
    return tuple((lo, hi) for lo, hi in array.tolist())


def _check_inside(points, bounds: Bounds) -> None:
    for axis, (lo, hi) in enumerate(bounds):
        outside = (points[axis] < lo) | (points[axis] > hi)
        if outside.any():
            k = int(np.argmax(outside))
            raise InvalidInput(f"points[{axis}, {k}]={points[axis, k]:g} lies outside bounds[{axis}]=({lo:g}, {hi:g})")


def _check_names(names, ndim: int) -> tuple[str, ...]:
    if names is None:
        return _default_names(ndim)
    return check_names(names, ndim, "coordinate")


def _check_per_cell(per_cell, ndim: int) -> None:
    if isinstance(per_cell, bool) or not isinstance(per_cell, (int, np.integer)):
        raise InvalidType(f"per_cell must be an int, got {per_cell!r}")
    if ndim > 1:
        raise InvalidInput(f"per_cell={per_cell}: on {ndim} axes a cell becomes one atom; leave it out")
    if not 2 <= per_cell <= 1000:
        raise InvalidInput(f"per_cell={per_cell}: need an integer between 2 and 1000")


def _default_names(ndim: int) -> tuple[str, ...]:
    return ("x", "y", "z", "w")[:ndim] if ndim <= 4 else tuple(f"x{k}" for k in range(ndim))
