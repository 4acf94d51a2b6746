"""Networks whose weights keep a Gaussian law: their exact state, grids and initial laws, and checks of arguments."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, roots_hermitenorm

from wgflow.activations.base import finite_array
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_memory, check_positive, real_array
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grid_checks import MAX_AXES
from wgflow.grids import Grid

from .base import FloatArray, NetworkModel
from .radial_laws import LOST_MASS

__all__ = ["GaussianNetwork", "GaussianState"]

#: Cells of each axis of a default grid, by number of axes.
DEFAULT_CELLS = {1: 400, 2: 128, 3: 48, 4: 24}
#: Standard deviations of a law that a default grid holds.
REACH = 6.0
_NODES = 8  # Gauss-Hermite nodes of each coordinate
_SYMMETRY = 1e-12  # by which a matrix may miss symmetry or positivity, relative to its largest entry


@dataclass(frozen=True)
class GaussianState:
    r"""The exact solution :math:`\rho_t = N(m, C)` of a Gaussian flow; leading axes are those of ``t``.

    Attributes
    ----------
    t : ndarray
        Times.
    mean : ndarray, shape (*t.shape, D)
    cov : ndarray, shape (*t.shape, D, D)
    energy : ndarray, shape t.shape
        The free energy F; infinite where there is noise and the covariance is singular.
    risk : ndarray, shape t.shape
        The risk R, without entropy and ridge.
    dissipation : ndarray, shape t.shape
        :math:`\int \rho\,|\nabla\,\delta F/\delta\rho|^2`, as ``Solution.dissipation`` has it.
    energy_rate : ndarray, shape t.shape
        dF/dt on the clock asked for, which is minus ``time_scale`` times the dissipation.
    """

    t: FloatArray
    mean: FloatArray
    cov: FloatArray
    energy: FloatArray = field(repr=False)
    risk: FloatArray
    dissipation: FloatArray = field(repr=False)
    energy_rate: FloatArray = field(repr=False)

    def __repr__(self) -> str:
        times = np.atleast_1d(self.t)
        risk = np.atleast_1d(self.risk)
        return (f"GaussianState({self.mean.shape[-1]} coordinates, {times.size} times, t = {times.flat[0]:g} to "
                f"{times.flat[-1]:g}, risk {risk.flat[0]:.4g} to {risk.flat[-1]:.4g})")

    @property
    def second_moment(self) -> FloatArray:
        r"""The matrix :math:`\int \theta \theta^T \rho = C + m m^T`, shape (\*t.shape, D, D)."""
        return self.cov + self.mean[..., :, None] * self.mean[..., None, :]


class GaussianNetwork(NetworkModel):
    """A network whose coordinates are its first-layer weights w in R^d, started from a normal law.

    Grids exist for d up to 4; atoms, SGD and the exact solution for any d.
    """

    trains_readout = False

    @abstractmethod
    def _default_bounds(self, kappa: float, mean0: FloatArray, beta: float, ridge: float) -> FloatArray:
        """Return a box (d, 2) that holds the exact law at all times."""

    def grid(
        self,
        cells: int | tuple[int, ...] | None = None,
        bounds: ArrayLike | None = None,
        *,
        kappa: float = 0.8,
        mean0: ArrayLike = 0.0,
        beta: float = math.inf,
        ridge: float = 0.0,
    ) -> Grid:
        """Return a grid on the weights.

        Parameters
        ----------
        cells : int or tuple of int, optional
            By default 400, 128, 48 and 24 an axis on 1 to 4 axes.
        bounds : sequence of (lo, hi), optional
            By default what holds the mean and 6 standard deviations of the exact law at all times, from the initial law
            of ``kappa`` and ``mean0`` on and with the noise and ridge given.

        Raises
        ------
        InvalidInput
            If d > 4, or if noise without a ridge may spread the law forever and no bounds are given.
        """
        check_axes(self)
        if bounds is None:
            kappa, mean = check_positive("kappa", kappa), as_vector("mean0", mean0, self.n_coordinates)
            beta, ridge = check_positive("beta", beta, infinite=True), check_positive("ridge", ridge, zero=True)
            bounds = self._default_bounds(kappa, mean, beta, ridge).tolist()
        cells = DEFAULT_CELLS[self.n_coordinates] if cells is None else cells
        return Grid(bounds, cells=cells, names=self.coordinate_names)

    def initial_density(self, kappa: float, grid: Grid, mean0: ArrayLike = 0.0) -> Density:
        """Return the normal law of mean ``mean0`` and covariance ``kappa**2 / d`` times the identity on a grid.

        Raises
        ------
        InvalidInput
            If ``kappa`` is not positive or more than 1e-6 of the mass lies outside the grid.
        """
        self._check_axes(grid)
        return normal_density(grid, *self._initial(kappa, mean0), wider_grid(kappa, mean0))

    def initial_atoms(self, kappa: float, nodes: int | None = None, mean0: ArrayLike = 0.0) -> Atoms:
        """Return quadrature points of the law of `initial_density`.

        Parameters
        ----------
        nodes : int, optional
            Gauss-Hermite nodes of each coordinate, ``nodes**d`` points; by default 8 for d up to 4, and beyond that
            2 d points of equal weight with the law's first and second moments, which is all that the risk sees.
        """
        return normal_atoms(*self._initial(kappa, mean0), nodes, self.coordinate_names)

    def initial_theta(
        self, n_neurons: int, kappa: float, rng: np.random.Generator, mean0: ArrayLike = 0.0
    ) -> FloatArray:
        """Draw neurons from the law of `initial_density`, shape (n_neurons, d)."""
        mean, deviations = self._initial(kappa, mean0)
        return mean + deviations * rng.standard_normal((check_count("n_neurons", n_neurons), mean.size))

    def project(self, theta: ArrayLike) -> FloatArray:
        """Return ``theta`` itself, shape (..., d): every weight is a coordinate."""
        return self.check_theta(theta)

    def _initial(self, kappa: float, mean0: ArrayLike) -> tuple[FloatArray, FloatArray]:
        deviation = check_positive("kappa", kappa) / math.sqrt(self.n_coordinates)
        mean = as_vector("mean0", mean0, self.n_coordinates)
        return mean, np.full(self.n_coordinates, deviation)


def gaussian_state(
    t: FloatArray, mean: FloatArray, cov: FloatArray, risk: FloatArray, force: FloatArray, slope: FloatArray,
    beta: float, ridge: float, time_scale: float,
) -> GaussianState:
    r"""Return the state of a Gaussian law N(m, C) in a potential with gradient ``force + slope (theta - m)``.

    .. math::
        F = \tfrac12 R + \tfrac\lambda2 (|m|^2 + \mathrm{tr}\,C) - \tfrac1{2\beta} \log\det(2 \pi e\, C), \qquad
        \int \rho\,|\nabla\,\delta F/\delta\rho|^2 = |f|^2 + \mathrm{tr}\,(A C - \beta^{-1}) C^{-1} (C A - \beta^{-1}) .
    """
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise InvalidInput("mean0, cov0: the moments overflow; scale them, the data, the times or 1/beta down")
    energy = 0.5 * risk + 0.5 * ridge * (np.sum(mean**2, axis=-1) + np.trace(cov, axis1=-2, axis2=-1))
    dissipation = np.sum(force**2, axis=-1)
    if math.isinf(beta):
        dissipation = dissipation + np.einsum("...ij,...jk,...ki->...", slope, cov, slope)
    else:
        values, vectors = np.linalg.eigh(cov)
        excess = np.sum(((slope @ cov - np.eye(mean.shape[-1]) / beta) @ vectors) ** 2, axis=-2)
        parts = np.divide(excess, values, out=np.full_like(values, math.inf), where=values > 0.0)
        dissipation = dissipation + np.sum(parts, axis=-1)
        with np.errstate(divide="ignore"):
            log_det = np.sum(np.log(2.0 * math.pi * math.e * np.maximum(values, 0.0)), axis=-1)
        energy = energy - 0.5 / beta * log_det
    if not np.isfinite(risk).all() or np.isnan(energy).any() or np.isnan(dissipation).any():
        raise InvalidInput("mean0, cov0: the risk overflows; scale them, the data or 1/beta down")
    return GaussianState(t, mean, cov, energy, risk, dissipation, -time_scale * dissipation)


def wider_grid(kappa: ArrayLike, mean0: ArrayLike = 0.0) -> str:
    """Return the call of ``model.grid`` whose grid holds an initial law, for a message."""
    center = "" if not np.any(mean0) else f", mean0={np.asarray(mean0).tolist()}"
    return (f"give the grid the scale of the initial law, too, model.grid(kappa={np.asarray(kappa).tolist()}{center}), "
            "or wider bounds")


def normal_density(grid: Grid, mean: FloatArray, deviations: FloatArray, fix: str) -> Density:
    """Return N(mean, diag(deviations^2)) as exact cell averages, refusing grids that do not hold it.

    ``fix`` ends the message, and says which grid does.
    """
    inside = 1.0
    for (lo, hi), m, s in zip(grid.bounds, mean, deviations):
        inside *= float(ndtr((hi - m) / s) - ndtr((lo - m) / s))
    if 1.0 - inside > LOST_MASS:
        told = ", ".join(f"N({m:.4g}, {s:.3g}^2)" for m, s in zip(mean, deviations))
        box = " x ".join(f"[{lo:.4g}, {hi:.4g}]" for lo, hi in grid.bounds)
        raise InvalidInput(f"a part {1.0 - inside:.1e} of the initial law {told} lies outside the grid {box}; {fix}")
    return Density.gaussian(grid, mean, deviations**2)


def normal_atoms(mean: FloatArray, deviations: FloatArray, nodes: int | None, names: tuple[str, ...]) -> Atoms:
    """Return Gauss-Hermite points of N(mean, diag(deviations^2)), or 2 D points with its moments up to the third."""
    dim = mean.size
    if nodes is None and dim > MAX_AXES:
        unit = math.sqrt(dim) * np.concatenate([np.eye(dim), -np.eye(dim)], axis=1)
        return Atoms(mean[:, None] + deviations[:, None] * unit, np.full(2 * dim, 0.5 / dim), names=names)
    nodes = _NODES if nodes is None else check_count("nodes", nodes)
    check_memory(8.0 * (dim + 1.0) * float(nodes) ** dim, f"nodes={nodes}: {nodes}^{dim} atoms", "take fewer nodes")
    x, w = roots_hermitenorm(nodes)
    axes = np.meshgrid(*[m + s * x for m, s in zip(mean, deviations)], indexing="ij")
    weights = w / w.sum()
    for _ in range(dim - 1):
        weights = np.multiply.outer(weights, w / w.sum())
    return Atoms(np.stack([a.ravel() for a in axes]), weights.ravel(), names=names)


# -------------------------------------------------------------------- arguments
def check_times(t: ArrayLike) -> FloatArray:
    """Return times as float64, refusing negative and infinite ones."""
    times = real_array(t, "t")
    if not (np.isfinite(times) & (times >= 0.0)).all():
        raise InvalidInput(f"t={t!r}: times must be finite and >= 0")
    return times


def check_axes(model: NetworkModel) -> None:
    """Refuse a grid for more coordinates than a grid has axes."""
    if model.n_coordinates > MAX_AXES:
        raise InvalidInput(f"{model.name} has {model.n_coordinates} coordinates, a grid at most {MAX_AXES} axes; use "
                           "atoms (initial_atoms), SGD or the exact solution")


def as_vector(name: str, value: ArrayLike, size: int) -> FloatArray:
    """Return a vector of ``size`` finite numbers; a single number is repeated."""
    vector = finite_array(name, value)
    if vector.shape not in ((), (size,)):
        raise InvalidInput(f"{name} has shape {vector.shape}; need a number or ({size},)")
    return np.broadcast_to(vector, (size,)).copy()


def as_symmetric(name: str, value: ArrayLike, size: int) -> FloatArray:
    """Return a finite symmetric matrix; a number is that multiple of the identity, a vector the diagonal."""
    matrix = finite_array(name, value)
    if matrix.shape in ((), (size,)):
        matrix = np.diag(np.broadcast_to(matrix, (size,)))
    if matrix.shape != (size, size):
        raise InvalidInput(f"{name} has shape {matrix.shape}; need a number, ({size},) or ({size}, {size})")
    gap = float(np.max(np.abs(matrix - matrix.T)))
    if gap > _SYMMETRY * float(np.max(np.abs(matrix))):
        raise InvalidInput(f"{name} must be symmetric, entries differ by {gap:.3g}; take (A + A.T) / 2")
    return 0.5 * matrix + 0.5 * matrix.T


def as_covariance(name: str, value: ArrayLike, size: int) -> FloatArray:
    """Return a symmetric positive semi-definite matrix, given as `as_symmetric` takes it."""
    matrix = as_symmetric(name, value, size)
    values = np.linalg.eigvalsh(matrix)
    if values[0] < -_SYMMETRY * max(values[-1], 0.0) or values[-1] < 0.0:
        raise InvalidInput(f"{name} has the eigenvalue {values[0]:g}; a covariance has none below 0")
    return matrix


def coordinate_names(stem: str, count: int) -> tuple[str, ...]:
    """Return ``(stem,)`` for one coordinate, else ``(stem1, stem2, ...)``."""
    return (stem,) if count == 1 else tuple(f"{stem}{k + 1}" for k in range(count))


def stack_coordinates(model: NetworkModel, coordinates: tuple[ArrayLike, ...]) -> FloatArray:
    """Return coordinates broadcast and stacked, shape (n_coordinates, *shape)."""
    if len(coordinates) != model.n_coordinates:
        raise InvalidInput(f"{model.name} has {model.n_coordinates} coordinates {model.coordinate_names}, "
                           f"got {len(coordinates)}")
    return np.stack(np.broadcast_arrays(*[np.asarray(c, dtype=np.float64) for c in coordinates]))
