"""Densities: non-negative cell averages on a grid, with their constructors, moments, marginals and samples."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.calls.explained import explained
from wgflow.calls.hints import Hints
from wgflow.checks import axis_numbers, call_user, check_memory, check_positive, described, kind_of, real_array
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.grids import Grid
from wgflow.sampling import deposit, sampler
from wgflow.uphill import uphill

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Density"]

#: Gauss-Legendre nodes per axis with which a function is averaged over cells, by number of axes.
AVERAGING_NODES = {1: 5, 2: 3, 3: 2, 4: 1}


class Density(Hints):
    r"""A density :math:`\rho(\theta) \ge 0` on a grid, held as its averages over cells.

    Values are per Lebesgue volume of the grid's coordinates (also on a weighted grid), so that the mass of a cell is
    ``values * grid.volumes``. A Density never changes: its arrays are read-only copies.

    Parameters
    ----------
    grid : Grid
    values : array of shape ``grid.shape``
        Cell averages, finite, at least 0, not all 0. Any real dtype; a float64 copy is taken.
    clip_negative : float, optional
        Negative values down to ``-clip_negative`` are set to 0 (round-off of a computation, say). The mass that this
        adds is `clipped_mass`.

    Attributes
    ----------
    masses : array of shape ``grid.shape``
    mass : float
    nodal : Density or None
        The same law by its values at the centers of the cells, where a solver has held those; moments, `expect` and
        energies are formed from it. None for a density that you made.
    sample_size : float or None
        Of a law that `from_samples` made, the number n of its points, for weighted ones the effective number
        :math:`(\sum w)^2 / \sum w^2`: its mean is known up to a standard error of :math:`\sigma / \sqrt n`, which
        `Solution.estimate_error` carries through the flow. You may set it for a histogram of your own.
    clipped_mass : float
        The mass that ``clip_negative`` added, at least 0: the part of `mass` that was not in the values given.

    Raises
    ------
    InvalidInput
        If the values break a rule above, or the total mass is 0 or not finite.
    InvalidType
        If the values are not real numbers.
    """

    grid: Grid
    values: np.ndarray
    masses: np.ndarray
    mass: float
    nodal: Density | None = None
    sample_size: float | None = None
    clipped_mass: float = 0.0

    @explained("Density(grid, values)")
    def __init__(self, grid: Grid, values, *, clip_negative: float = 0.0):
        _check_grid(grid, "Density(grid, values)")
        clip_negative = check_positive("clip_negative", clip_negative, zero=True)
        array = np.ascontiguousarray(real_array(values, "values"))
        if array.shape != grid.shape:
            raise InvalidInput(f"values: shape {array.shape} != grid {grid.shape}")
        if _has_negative(array, clip_negative):
            self.clipped_mass = -float((np.minimum(array, 0.0) * grid.volumes).sum())
            np.maximum(array, 0.0, out=array)
        self.grid = grid
        self.values = array
        with np.errstate(over="ignore"):
            self.masses = array * grid.volumes
            self.mass = float(self.masses.sum())
        if self.mass == 0:
            raise InvalidInput("values: total mass is 0; a density needs some mass")
        if not math.isfinite(self.mass):
            raise InvalidInput("values: total mass is not finite; scale the values down")
        self.values.flags.writeable = False
        self.masses.flags.writeable = False

    # ---------------------------------------------------------------- constructors
    @classmethod
    def trusted(cls, grid: Grid, values: np.ndarray) -> Density:
        """Return the density of values that a solver has checked: finite floats in C order, at least 0. Not copied."""
        rho = cls.__new__(cls)
        rho.grid, rho.values, rho.masses = grid, values, values * grid.volumes
        rho.mass = float(rho.masses.sum())
        values.flags.writeable = rho.masses.flags.writeable = False
        return rho

    @classmethod
    @explained("Density.from_values(grid, values)")
    def from_values(cls, grid: Grid, values, *, normalize: bool = False, clip_negative: float = 0.0) -> Density:
        """Return the density with these cell averages, divided by its mass if ``normalize``."""
        _check_grid(grid, "Density.from_values(grid, values)")
        rho = cls(grid, values, clip_negative=clip_negative)
        return rho.normalized() if normalize else rho

    @classmethod
    @explained("Density.from_function(grid, function)")
    def from_function(cls, grid: Grid, function, *, normalize: bool = True) -> Density:
        """Return the cell averages of ``function`` by Gauss-Legendre quadrature.

        Parameters
        ----------
        function : callable
            Takes one array for each coordinate, returns an array of their shape: finite, at least 0.
        normalize : bool
            Whether to divide by the mass, which makes it 1.
        """
        _check_grid(grid, "Density.from_function(grid, function)")
        return cls.from_values(grid, _average(grid, function, "function"), normalize=normalize)

    @classmethod
    def from_log_function(cls, grid: Grid, log_function) -> Density:
        """Return the normalized density proportional to ``exp(log_function)``, which may overflow."""
        _check_grid(grid, "Density.from_log_function(grid, log_function)")
        log_values = grid.evaluate(log_function, "log_function")
        return cls.from_values(grid, np.exp(log_values - log_values.max()), normalize=True)

    @classmethod
    def uniform(cls, grid: Grid) -> Density:
        """Return the uniform density of mass 1."""
        _check_grid(grid, "Density.uniform(grid)")
        return cls(grid, np.full(grid.shape, 1.0 / math.prod(hi - lo for lo, hi in grid.bounds)))

    @classmethod
    @explained("Density.gaussian(grid, mean=0.0, cov=1.0)")
    def gaussian(cls, grid: Grid, mean, cov) -> Density:
        r"""Return the normal law :math:`N(m, C)`, cut to the grid's box and normalized.

        A WGFlowWarning says so if its mean lies outside of the box.

        Parameters
        ----------
        mean : float or array_like, shape (ndim,)
        cov : float, array_like of shape (ndim,) or (ndim, ndim)
            Variance of each axis, or the covariance matrix (symmetric, positive definite). Cell averages are exact for
            independent axes and by quadrature otherwise.
        """
        _check_grid(grid, "Density.gaussian(grid, mean, cov)")
        mean, cov = real_array(mean, "mean"), real_array(cov, "cov")
        if mean.shape not in ((), (grid.ndim,)):
            raise InvalidInput(f"mean has shape {mean.shape}; need a number or ({grid.ndim},)")
        mean = np.broadcast_to(mean, (grid.ndim,))
        if cov.shape in ((), (grid.ndim,)):
            cov = np.diag(np.broadcast_to(cov, (grid.ndim,)))
        if cov.shape != (grid.ndim, grid.ndim):
            raise InvalidInput(f"cov has shape {cov.shape}; need a number, ({grid.ndim},) or "
                               f"({grid.ndim}, {grid.ndim})")
        # A covariance by matrix products is symmetric up to rounding, which counts beside the variances.
        rounding = 1e-10 * float(np.abs(np.diag(cov)).max())
        if not (np.isfinite(mean).all() and np.isfinite(cov).all() and np.abs(cov - cov.T).max() <= rounding
                and np.linalg.eigvalsh(cov)[0] > 0):
            raise InvalidInput(f"mean={mean.tolist()}, cov={cov.tolist()}: need finite numbers and a symmetric "
                               "positive definite covariance")
        cov = 0.5 * (cov + cov.T)
        if np.count_nonzero(cov - np.diag(np.diag(cov))) == 0:
            values = _normal_averages(grid.edges[0], mean[0], cov[0, 0])
            for axis in range(1, grid.ndim):
                values = values[..., None] * _normal_averages(grid.edges[axis], mean[axis], cov[axis, axis])
        else:
            precision = np.linalg.inv(cov)
            peak = min(_quadratic_form(precision, [x - m for x, m in zip(grid.mesh(), mean)]).min(), 1e3)
            values = _average(
                grid, lambda *x: np.exp(0.5 * (peak - _quadratic_form(precision, [a - m for a, m in zip(x, mean)]))),
                "gaussian")
        if not values.any():
            raise InvalidInput(f"mean={mean.tolist()}: the law has no mass on {grid}, where it underflows; "
                               "move the box")
        for name, center, (lo, hi) in zip(grid.names, mean, grid.bounds):
            if not lo <= center <= hi:
                warnings.warn(f"mean={mean.tolist()}: {name}={center:g} lies outside the grid, [{lo:g}, {hi:g}]; the "
                              "tail that lies there is scaled to the mass 1", WGFlowWarning, stacklevel=3)
        return cls.from_values(grid, values, normalize=True)

    @classmethod
    @explained("Density.from_samples(grid, samples)")
    def from_samples(cls, grid: Grid, samples, *, weights=None) -> Density:
        """Return the law of points, of mass 1: a histogram that has their mean and covariance.

        A point is shared by the cells whose centers are around it, and the masses are then changed a little so that
        `mean` and `cov` are those of the points to rounding, where cells can do that: a single point keeps its mean,
        and has the least variance that cells allow. Points within half a cell of a wall belong to the last cell.

        Parameters
        ----------
        samples : array_like, shape (n, ndim), or (n,) on a 1-axis grid
            Points inside the grid's box; a point outside is an error that names its index.
        weights : array_like, shape (n,), optional
            Masses of the points.
        """
        _check_grid(grid, "Density.from_samples(grid, samples)")
        x = real_array(samples, "samples")
        x = x[:, None] if x.ndim == 1 and grid.ndim == 1 else x
        if x.ndim != 2 or x.shape[1] != grid.ndim or x.shape[0] == 0:
            turned = f"; samples.T has shape {x.T.shape}" if x.ndim == 2 and x.shape[0] == grid.ndim else ""
            raise InvalidInput(f"samples has shape {x.shape}; need (n, {grid.ndim}) with n >= 1, a row for each point"
                               f"{turned}")
        lo, hi = np.array(grid.bounds).T
        outside = ~((x >= lo) & (x <= hi)).all(axis=1)
        if outside.any():
            k = int(np.argmax(outside))
            raise InvalidInput(f"samples[{k}]={x[k].tolist()} is outside the grid (or not finite), as are "
                               f"{int(outside.sum())} of {len(x)}; enlarge the grid or drop them")
        if weights is not None:
            weights = real_array(weights, "weights")
            if weights.shape != (len(x),):
                raise InvalidInput(f"weights has shape {weights.shape}; need ({len(x)},), one for each point")
            if not (np.isfinite(weights) & (weights >= 0)).all():
                raise InvalidInput("weights must be finite and >= 0: they are the masses of the points")
            if not weights.any():
                raise InvalidInput("weights are all 0; a density needs some mass")
        shares = np.ones(len(x)) if weights is None else weights / weights.max()
        rho = cls.from_values(grid, deposit(grid, x, shares) / grid.volumes, normalize=True)
        rho.sample_size = float(shares.sum() ** 2 / (shares**2).sum())
        return rho

    # ---------------------------------------------------------------- numbers
    def normalized(self) -> Density:
        """Return the same density scaled to mass 1."""
        # Of ordinary size nothing can overflow, and what holds of the values holds of these.
        ordinary = 1e-100 < self.mass < 1e100
        rho = (Density.trusted if ordinary else Density)(self.grid, self.values / self.mass)
        rho.sample_size, rho.clipped_mass = self.sample_size, self.clipped_mass / self.mass
        return rho

    def expect(self, function) -> float:
        """Return the integral of ``function``, or of an array of its values at cell centers, against the density."""
        f = function if isinstance(function, np.ndarray) else self.grid.evaluate(function, "function")
        return float(((self.nodal or self).masses * f).sum())

    def mean(self) -> np.ndarray | float:
        """Return the mean of each coordinate, shape (ndim,); a float on one axis. Divided by the mass."""
        if self.nodal is not None:
            return self.nodal.mean()
        means = np.array([(self._axis_masses(k) * c).sum() for k, c in enumerate(self.grid.centers)]) / self.mass
        return float(means[0]) if self.grid.ndim == 1 else means

    def cov(self) -> np.ndarray | float:
        """Return the covariance matrix, shape (ndim, ndim); the variance, a float, on one axis. Divided by the mass."""
        if self.nodal is not None:
            return self.nodal.cov()
        mean = np.atleast_1d(self.mean())
        ndim = self.grid.ndim
        deviations = [c - m for c, m in zip(self.grid.centers, mean)]
        cov = np.empty((ndim, ndim))
        for i in range(ndim):
            cov[i, i] = (self._axis_masses(i) * deviations[i] ** 2).sum()
            for j in range(i):
                others = tuple(k for k in range(ndim) if k not in (i, j))
                pair = self.masses.sum(axis=others) if others else self.masses
                cov[i, j] = cov[j, i] = (pair * deviations[j][:, None] * deviations[i]).sum()
        cov /= self.mass
        return float(cov[0, 0]) if ndim == 1 else cov

    def marginal(self, axes: int | str | Sequence[int | str]) -> Density:
        """Return the density of some of the coordinates, the others integrated out.

        Parameters
        ----------
        axes : int, str or sequence of them
            The axes to keep, by number or by name, increasing. The marginal's grid has no reference weight.
        """
        keep, ndim = axis_numbers(axes, self.grid.names), self.grid.ndim
        if not keep or any(not 0 <= k < ndim for k in keep) or list(keep) != sorted(set(keep)):
            raise InvalidInput(f"axes={axes!r}: need increasing axis numbers between 0 and {ndim - 1}")
        grid = Grid(edges=[self.grid.edges[k] for k in keep], boundary=tuple(self.grid.boundary[k] for k in keep),
                    names=[self.grid.names[k] for k in keep], origin=[self.grid.origin[k] for k in keep])
        masses = self.masses.sum(axis=tuple(k for k in range(ndim) if k not in keep))
        rho = Density(grid, masses / grid.volumes)
        rho.sample_size = self.sample_size
        return rho

    def cdf(self, x) -> np.ndarray | float:
        """Return the mass below x divided by the whole mass, on one axis (linear inside cells)."""
        self._need_one_axis("cdf")
        x = real_array(x, "x")
        check_memory(8.0 * 3 * x.size, f"x: {x.size} places", "take fewer at a time")
        return np.interp(x, self.grid.edges[0], self._cumulative(), left=0.0, right=1.0)

    def quantile(self, q) -> np.ndarray | float:
        """Return the smallest x below which a part q of the mass lies, on one axis.

        Parameters
        ----------
        q : float or array_like in [0, 1]
        """
        self._need_one_axis("quantile")
        q = real_array(q, "q")
        check_memory(8.0 * 12 * q.size, f"q: {q.size} levels, with the cells they are in", "take fewer at a time")
        if not ((q >= 0) & (q <= 1)).all():
            raise InvalidInput(f"q={described(q.tolist())}: need numbers in [0, 1]")
        cumulative, edges = self._cumulative(), self.grid.edges[0]
        cell = np.clip(np.searchsorted(cumulative, q, side="left") - 1, 0, edges.size - 2)
        rise = cumulative[cell + 1] - cumulative[cell]
        share = np.divide(q - cumulative[cell], rise, out=np.zeros(np.shape(q)), where=rise > 0)
        x = edges[cell] + np.clip(share, 0, 1) * (edges[cell + 1] - edges[cell])
        return float(x) if x.ndim == 0 else x

    def sample(self, n: int, rng=None) -> np.ndarray:
        """Return n independent points, shape (n, ndim) ((n,) on one axis), uniform inside cells.

        Parameters
        ----------
        rng : None, int, SeedSequence or Generator
            As `numpy.random.default_rng` takes it.
        """
        rng = sampler(n, self.grid.ndim, rng)
        cumulative = np.cumsum(self.masses.ravel())
        cell = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        index = np.unravel_index(np.minimum(cell, self.grid.size - 1), self.grid.shape)
        x = np.stack([e[k] + rng.random(n) * h[k]
                      for e, h, k in zip(self.grid.edges, self.grid.widths, index)], axis=1)
        return x[:, 0] if self.grid.ndim == 1 else x

    def plot(self, path: str | os.PathLike[str] | None = None, *, ax: Axes | None = None, **style: Any) -> Figure:
        """Return a matplotlib Figure of the density: a curve, a map, or a panel for each of more than two axes.

        Parameters
        ----------
        path : path, optional
            Where to write it.
        ax : matplotlib Axes, optional
            Draw here instead of into a new figure (one or two axes).
        **style
            Of matplotlib's ``Axes.plot``, or ``Axes.pcolormesh`` for a map.
        """
        return uphill("wgflow.pictures.laws", "plot_law")(self, path, ax=ax, **style)

    def _repr_html_(self) -> str:
        return uphill("wgflow.pictures.html", "law_html")(self)

    def __repr__(self):
        clipped = f", {self.clipped_mass:.3g} of it by clip_negative" if self.clipped_mass else ""
        return f"Density(mass={self.mass:.12g}{clipped}, mean={np.round(self.mean(), 6)}, on {self.grid})"

    def _axis_masses(self, axis: int) -> np.ndarray:
        return self.masses.sum(axis=tuple(k for k in range(self.grid.ndim) if k != axis))

    def _cumulative(self) -> np.ndarray:
        cumulative: np.ndarray = np.concatenate(([0.0], np.cumsum(self.masses)))
        return cumulative / cumulative[-1]

    def _need_one_axis(self, what: str) -> None:
        if self.grid.ndim != 1:
            raise InvalidInput(f"{what} needs a density on one axis, this has {self.grid.ndim}; take .marginal(axis)")


def _check_grid(grid: object, call: str) -> None:
    if not isinstance(grid, Grid):
        raise InvalidType(f"grid must be a wgflow.Grid, the first argument of {call}; got {kind_of(grid)}")


def _has_negative(array: np.ndarray, clip_negative: float) -> bool:
    """Return whether some values are below 0; InvalidInput if one is below -clip_negative, or not finite."""
    lowest = array.min()
    if lowest >= 0.0 and array.max() < math.inf:
        return False
    for kind, bad in (("NaN", np.isnan(array)), ("inf", np.isinf(array))):
        if bad.any():
            cell = tuple(int(k) for k in np.argwhere(bad)[0])
            raise InvalidInput(f"values has {int(bad.sum())} {kind}, first at {cell}; every cell average "
                               "must be finite")
    if lowest < -clip_negative:
        cell = tuple(int(k) for k in np.unravel_index(array.argmin(), array.shape))
        raise InvalidInput(f"values: min {lowest:g} at index {cell}; must be >= 0 (clip_negative={-lowest:.1g} "
                           "would set round-off to zero)")
    return bool(lowest < 0)


def _average(grid: Grid, function, what: str) -> np.ndarray:
    """Return the averages of a function over the cells, by tensor Gauss-Legendre quadrature in one call."""
    count = AVERAGING_NODES[grid.ndim]
    nodes, weights = np.polynomial.legendre.leggauss(count)
    axes = [(c[:, None] + 0.5 * h[:, None] * nodes).ravel() for c, h in zip(grid.centers, grid.widths)]
    mesh = np.meshgrid(*axes, indexing="ij")
    values = real_array(call_user(function, mesh, what), what)
    if values.shape != mesh[0].shape:
        raise InvalidInput(f"{what} returned shape {values.shape} for coordinates of shape {mesh[0].shape}; "
                           "it must return one value for each point")
    if not np.isfinite(values).all() or values.min() < 0:
        point = np.argwhere(~np.isfinite(values) | (values < 0))[0]
        place = ", ".join(f"{a[k]:g}" for a, k in zip(axes, point))
        raise InvalidInput(f"{what} is {values[tuple(point)]:g} at ({place}); a density is finite and >= 0")
    for axis in range(grid.ndim):
        split = values.shape[:axis] + (grid.shape[axis], count) + values.shape[axis + 1:]
        values = np.tensordot(values.reshape(split), 0.5 * weights, axes=(axis + 1, 0))
    return np.maximum(values, 0.0)


def _normal_averages(edges: np.ndarray, mean: float, variance: float) -> np.ndarray:
    """Return averages of the N(mean, variance) density over cells, accurate relative to themselves in both tails."""
    z = (edges - mean) / math.sqrt(2.0 * variance)
    # math.erfc, since importing SciPy's takes longer than a solve on one axis. Differences of the smaller tail keep the
    # digits: Phi(b) - Phi(a) = Phi(-a) - Phi(-b).
    lower = 0.5 * np.array([math.erfc(-v) for v in z])
    upper = 0.5 * np.array([math.erfc(v) for v in z])
    return np.where(z[:-1] > 0, -np.diff(upper), np.diff(lower)) / np.diff(edges)


def _quadratic_form(matrix: np.ndarray, x) -> np.ndarray:
    return sum(matrix[i, j] * x[i] * x[j] for i in range(len(x)) for j in range(len(x)))
