"""The forms in which an initial law can be given before there is a grid: each gives its extent, and a Density."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod

import numpy as np

from wgflow.atoms import Atoms
from wgflow.checks import call_user, real_array
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grid_checks import MAX_AXES
from wgflow.grids import Grid

__all__ = ["InitialLaw", "initial_law"]

#: Part of the mass that may lie outside of the extent of a law.
OUTSIDE = 1e-14
#: Deviations of a normal law that hold all but OUTSIDE of it.
DEVIATIONS = 7.8
#: Points along each axis at which a function is sampled to find its mass, by number of axes.
SEARCH_POINTS = {1: 4001, 2: 301, 3: 61, 4: 25}
#: The largest box that is searched reaches to 2**LARGEST.
LARGEST = 20
#: More points than this are thinned before they are smoothed.
MAX_POINTS = 4000


class InitialLaw(ABC):
    """An initial law before there is a grid.

    Attributes
    ----------
    ndim : int
    extent : list of (float, float)
        For each axis an interval that holds nearly all of the mass.
    deviations : array, shape (ndim,)
        Standard deviation of each coordinate.
    """

    ndim: int
    extent: list[tuple[float, float]]
    deviations: np.ndarray

    @abstractmethod
    def density(self, grid: Grid) -> Density:
        """Return the law as a density on a grid, of mass 1."""


class NormalLaw(InitialLaw):
    """N(mean, cov), given by its two numbers or arrays."""

    def __init__(self, mean, cov):
        self.mean, cov = np.atleast_1d(real_array(mean, "rho0[0], the mean,")), real_array(cov, "rho0[1], the cov,")
        self.ndim = self.mean.size
        if self.mean.ndim != 1 or self.ndim > MAX_AXES:
            raise InvalidInput(f"rho0: the mean has shape {self.mean.shape}; need a number or 1 to {MAX_AXES} of them")
        if cov.shape in ((), (self.ndim,)):
            cov = np.diag(np.broadcast_to(cov, (self.ndim,)))
        if (cov.shape != (self.ndim, self.ndim) or not np.isfinite(cov).all() or not np.isfinite(self.mean).all()
                or not np.linalg.eigvalsh(cov)[0] > 0):
            raise InvalidInput(f"rho0: mean={self.mean.tolist()}, cov={cov.tolist()}; need finite numbers and a "
                               "positive definite covariance")
        self.cov, self.deviations = cov, np.sqrt(np.diag(cov))
        self.extent = [(float(m - DEVIATIONS * s), float(m + DEVIATIONS * s))
                       for m, s in zip(self.mean, self.deviations)]

    def density(self, grid: Grid) -> Density:
        return Density.gaussian(grid, self.mean, self.cov)


class FunctionLaw(InitialLaw):
    """A law given by its density, a function of the coordinates."""

    def __init__(self, function, ndim: int, given: list):
        self.function, self.ndim = function, ndim
        box = [(-2.0**-6, 2.0**-6) if pair is None else pair for pair in given]
        box = self._grown(box, given)
        for _ in range(3):
            box = self._trimmed(box, given)
        self.extent = box
        masses, axes = self._look(box)
        profiles = [masses.sum(axis=tuple(k for k in range(ndim) if k != axis)) for axis in range(ndim)]
        means = [(p * x).sum() / p.sum() for p, x in zip(profiles, axes)]
        self.deviations = np.sqrt([((x - m) ** 2 * p).sum() / p.sum() for p, x, m in zip(profiles, axes, means)])

    def density(self, grid: Grid) -> Density:
        return Density.from_function(grid, self.function)

    def _look(self, box) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the mass of the function near each point of a lattice in a box."""
        n = SEARCH_POINTS[self.ndim]
        axes = [lo + (hi - lo) * (np.arange(n) + 0.5) / n for lo, hi in box]
        values = real_array(call_user(self.function, np.meshgrid(*axes, indexing="ij"), "rho0"), "rho0")
        if values.shape != (n,) * self.ndim:
            raise InvalidInput(f"rho0 returned shape {values.shape} for coordinates of shape {(n,) * self.ndim}; it "
                               "must return one value for each point")
        if not (np.isfinite(values) & (values >= 0)).all():
            raise InvalidInput(f"rho0 has values from {values.min():g} to {values.max():g} in the box {box}; a density "
                               "is finite and >= 0; give bounds= if it is defined on an interval only")
        return values * math.prod((hi - lo) / n for lo, hi in box), axes

    def _grown(self, box, given):
        """Double a box again and again until it holds the mass; return it."""
        best, most = None, 0.0
        for _ in range(LARGEST + 7):
            mass = float(self._look(box)[0].sum())
            if math.isfinite(mass) and mass > most * (1 + 1e-9):
                best, most = box, mass
            if all(pair is not None for pair in given):
                break
            box = [(2 * lo, 2 * hi) if pair is None else pair for (lo, hi), pair in zip(box, given)]
        if best is None:
            raise InvalidInput("rho0 is 0 at every point sampled; give bounds= near its mass, or (mean, cov)")
        return [(2 * lo, 2 * hi) if pair is None else pair for (lo, hi), pair in zip(best, given)]

    def _trimmed(self, box, given):
        """Return the smallest box that holds nearly all of the mass, with a margin."""
        masses, axes = self._look(box)
        total, out = masses.sum(), []
        if not 0 < total < math.inf:
            raise InvalidInput(f"rho0 has mass {total:g} in the box {box}, sampled at "
                               f"{SEARCH_POINTS[self.ndim]} points an axis; give bounds= near its mass, or (mean, cov)")
        for axis, (x, pair, (lo, hi)) in enumerate(zip(axes, given, box)):
            if pair is not None:
                out.append(pair)
                continue
            profile = masses.sum(axis=tuple(k for k in range(self.ndim) if k != axis)) / total
            inside = np.flatnonzero((np.cumsum(profile) > OUTSIDE) & (np.cumsum(profile[::-1])[::-1] > OUTSIDE))
            step = x[1] - x[0]
            first, last = x[inside[0]] - 1.5 * step, x[inside[-1]] + 1.5 * step
            if (first <= lo or last >= hi) and hi - lo > 2.0**LARGEST:
                raise InvalidInput(f"rho0 has mass beyond |x| = {2.0**LARGEST:.3g} along axis {axis} (more than "
                                   f"{OUTSIDE:g} of it); give bounds= that cut it")
            out.append((float(max(first, lo)), float(min(last, hi))))
        return out


class DensityLaw(InitialLaw):
    """A law given on a trial grid; between cells its distribution function is a monotone cubic."""

    def __init__(self, rho: Density):
        if rho.grid.log_weight is not None or any(rho.grid.origin):
            raise InvalidInput("rho0 lives on a weighted grid; reduced models have their own model.grid(cells=...)")
        self.rho, self.ndim = rho, rho.grid.ndim
        self.deviations = np.sqrt(np.diag(np.atleast_2d(rho.cov())))
        self.extent = []
        for axis, edges in enumerate(rho.grid.edges):
            cumulative = np.cumsum(rho.masses.sum(axis=tuple(k for k in range(self.ndim) if k != axis))) / rho.mass
            first = int(np.argmax(cumulative > OUTSIDE))
            last = int(np.argmax(cumulative >= 1 - OUTSIDE))
            self.extent.append((float(edges[first]), float(edges[last + 1])))

    def density(self, grid: Grid) -> Density:
        from scipy.interpolate import PchipInterpolator

        masses = self.rho.masses
        for axis, (old, new) in enumerate(zip(self.rho.grid.edges, grid.edges)):
            below = np.concatenate([np.zeros_like(masses.take([0], axis)), np.cumsum(masses, axis=axis)], axis=axis)
            masses = np.diff(PchipInterpolator(old, below, axis=axis)(np.clip(new, old[0], old[-1])), axis=axis)
        return Density.from_values(grid, np.maximum(masses, 0.0) / grid.volumes, normalize=True)


class PointsLaw(InitialLaw):
    """A law given by points, smoothed by normal kernels of Silverman's width."""

    def __init__(self, points: np.ndarray, weights: np.ndarray):
        self.ndim, size = points.shape
        if size > MAX_POINTS:
            keep = np.random.default_rng(20231).choice(size, MAX_POINTS, p=weights / weights.sum())
            points, weights, size = points[:, keep], np.ones(MAX_POINTS), MAX_POINTS
        self.points, self.weights = points, weights / weights.sum()
        mean = points @ self.weights
        self.deviations = np.sqrt(((points - mean[:, None]) ** 2) @ self.weights)
        if not (self.deviations > 0).all():
            raise InvalidInput("rho0: all points agree in a coordinate, so no grid can hold the law; give (mean, cov)")
        effective = 1.0 / (self.weights**2).sum()
        self.widths = self.deviations * (4 / ((self.ndim + 2) * effective)) ** (1 / (self.ndim + 4))
        self.extent = [(float(x.min() - DEVIATIONS * w), float(x.max() + DEVIATIONS * w))
                       for x, w in zip(points, self.widths)]

    def density(self, grid: Grid) -> Density:
        from scipy.special import ndtr

        parts = []
        for edges, x, width in zip(grid.edges, self.points, self.widths):
            parts.append(np.diff(ndtr((edges[None, :] - x[:, None]) / width), axis=1))
        masses = parts[0] * self.weights[:, None]
        letters = "abcd"[:self.ndim]
        formula = ",".join(f"i{letter}" for letter in letters) + "->" + letters
        return Density.from_values(grid, np.einsum(formula, masses, *parts[1:], optimize=True) / grid.volumes,
                                   normalize=True)


def initial_law(rho0, given: list | None) -> InitialLaw:
    """Return rho0 of `Grid.for_problem` in its own form; ``given`` holds the given bounds of each axis, or None."""
    if isinstance(rho0, Density):
        return DensityLaw(rho0)
    if isinstance(rho0, Atoms):
        return PointsLaw(np.array(rho0.points), np.array(rho0.weights))
    if callable(rho0):
        ndim = len(given) if given is not None else _count_coordinates(rho0)
        return FunctionLaw(rho0, ndim, given or [None] * ndim)
    if isinstance(rho0, tuple) and len(rho0) == 2:
        return NormalLaw(*rho0)
    if isinstance(rho0, np.ndarray):
        x = real_array(rho0, "rho0")
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or len(x) < 2 or not 1 <= x.shape[1] <= MAX_AXES or not np.isfinite(x).all():
            raise InvalidInput(f"rho0 has shape {x.shape}; samples are a finite array (n, ndim) with n >= 2 and "
                               f"ndim <= {MAX_AXES}")
        return PointsLaw(np.ascontiguousarray(x.T), np.ones(len(x)))
    raise InvalidType(f"rho0 must be a function of the coordinates, a pair (mean, cov), samples as an array (n, ndim), "
                      f"a Density or Atoms; got {type(rho0).__name__}")


def _count_coordinates(function) -> int:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if not 1 <= len(kinds) <= MAX_AXES or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise InvalidInput("rho0: the number of coordinates of this function cannot be found; give bounds=[None, ...], "
                           "one entry for each")
    return len(kinds)
