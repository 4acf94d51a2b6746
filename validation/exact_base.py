"""What every exact problem offers, and exact cell averages of smooth densities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, xlogy

from wgflow.densities import Density
from wgflow.energies import Entropy, FreeEnergy, Term
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid

__all__ = ["ExactProblem", "cell_averages", "gaussian_cell_averages"]

# Gauss-Legendre points a cell and axis: exact to rounding while a cell is narrower than the density's own width.
_POINTS = 8


class ExactProblem(ABC):
    """A Wasserstein gradient flow whose solution is known.

    The flow is ``d rho/dt = div(rho grad(V + U rho)) + beta^-1 Laplacian rho``, the gradient flow of
    ``F = beta^-1 int rho log rho + int V rho + 1/2 int int U rho rho``. A problem holds the parameters of one member of
    a family and answers with the grid, the energy and the initial density to be handed to a solver, and with the exact
    solution to be held against the answer.

    Attributes
    ----------
    t_end : float
        The time up to which the default grid is large enough and at which the errors are looked at by default.

    Examples
    --------
    >>> import wgflow as wg
    >>> from wgflow.validation.exact import OrnsteinUhlenbeck
    >>> problem = OrnsteinUhlenbeck()
    >>> grid = problem.grid(200)
    >>> sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, problem.t_end))
    >>> max(problem.errors(sol.density(problem.t_end), problem.t_end).values()) < 1e-3
    True
    """

    t_end: float
    beta: float

    @property
    def diffusion(self) -> float:
        """``D = 1/beta``; 0 at ``beta = inf``."""
        return 1.0 / self.beta

    @abstractmethod
    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Grid of the problem's domain with ``cells`` cells (an integer: the same number on each axis)."""

    @abstractmethod
    def energy(self) -> FreeEnergy:
        """The free energy F of the flow."""

    @abstractmethod
    def density(self, grid: Grid, t: float) -> Density:
        """Exact cell averages of the solution at time ``t``."""

    @abstractmethod
    def quantities(self, t: float) -> dict[str, float]:
        """Exact moments, free energy and dissipation at time ``t``, by name."""

    @abstractmethod
    def measure(self, rho: Density) -> dict[str, float]:
        """The same quantities, under the same names, of a computed density."""

    def initial_density(self, grid: Grid) -> Density:
        """Exact cell averages of the initial density."""
        return self.density(grid, 0.0)

    def errors(self, rho: Density, t: float | None = None) -> dict[str, float]:
        """Relative error of each quantity of ``rho``, and the L1 distance to the exact density as ``"density"``.

        Parameters
        ----------
        rho : Density
            Computed density.
        t : float, optional
            Time it belongs to; `t_end` by default.

        Returns
        -------
        dict of str to float
            ``|measured - exact| / |exact|``; the absolute error where the exact value is zero to rounding.
        """
        t = self.t_end if t is None else t
        exact, measured = self.quantities(t), self.measure(rho)
        result = {}
        for name, value in exact.items():
            scale = abs(value) if abs(value) > 1e-12 else 1.0
            result[name] = abs(measured[name] - value) / scale
        result["density"] = float(np.sum(np.abs(rho.values - self.density(rho.grid, t).values) * rho.grid.volumes))
        return result

    def _measure_energies(self, rho: Density) -> dict[str, float]:
        energy = self.energy()
        return {"energy": float(energy(rho)), "dissipation": float(energy.dissipation(rho))}

    def _with_entropy(self, *terms: Term) -> FreeEnergy:
        """Sum of the terms and of the entropy, which is left out at ``beta = inf``."""
        if not math.isinf(self.beta):
            terms = (Entropy(self.beta), *terms)
        return FreeEnergy([(1.0, term) for term in terms])


def check_positive(name: str, value: float, *, zero: bool = False, infinite: bool = False) -> float:
    """Return ``value`` as a float after checking that it is a positive real number."""
    number = check_real(name, value, infinite=infinite)
    if number < 0.0 or (number == 0.0 and not zero):
        raise InvalidInput(f"{name}={value!r}: must be {'>= 0' if zero else '> 0'}.")
    return number


def check_real(name: str, value: float, *, infinite: bool = False) -> float:
    """Return ``value`` as a float after checking that it is a real number, finite unless said otherwise."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidType(f"{name}={value!r}: must be a real number, got {type(value).__name__}.")
    number = float(value)
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise InvalidInput(f"{name}={value!r}: must be finite.")
    return number


def check_interval(name: str, value: Sequence[float]) -> tuple[float, float]:
    """Return ``value`` as a pair ``(lo, hi)`` with ``lo < hi``."""
    try:
        lo, hi = (check_real(name, end) for end in value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name}={value!r}: must be a pair (lo, hi) of finite numbers.") from error
    if lo >= hi:
        raise InvalidInput(f"{name}={value!r}: lo must be < hi.")
    return lo, hi


def check_time(t: float) -> float:
    """Return ``t`` as a float after checking that it is not negative."""
    return check_positive("t", t, zero=True)


def check_axes(grid: Grid, ndim: int) -> None:
    """Raise unless ``grid`` has ``ndim`` axes."""
    if grid.ndim != ndim:
        raise InvalidInput(f"grid: the problem has {ndim} axes, the grid has {grid.ndim}; use problem.grid(cells).")


def normal_cell_masses(edges: np.ndarray, mean: np.ndarray | float, deviation: float) -> np.ndarray:
    """Mass of the normal law in each interval between ``edges``; relative accuracy kept in both tails.

    Parameters
    ----------
    edges : array of shape (n + 1,)
    mean : array of shape (...)
        One mean for each row of the answer.
    deviation : float
        Standard deviation.

    Returns
    -------
    array of shape (..., n)
    """
    z = (edges - np.asarray(mean)[..., None]) / deviation
    left, right = z[..., :-1], z[..., 1:]
    # On the right of the mean the two distribution functions are close to 1 and cancel: use the mirror image there.
    flip = left > 0.0
    lower, upper = np.where(flip, -right, left), np.where(flip, -left, right)
    return ndtr(upper) - ndtr(lower)


def gaussian_cell_averages(grid: Grid, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Cell averages of the Gaussian ``N(mean, cov)`` on a grid of one to four axes.

    The last axis is integrated in closed form given the others, the others by Gauss-Legendre quadrature in each cell:
    exact to rounding as long as cells are not wider than the Gaussian.

    Parameters
    ----------
    grid : Grid
    mean : array of shape (d,)
    cov : array of shape (d, d)
        Symmetric positive definite.

    Returns
    -------
    array of shape ``grid.shape``
    """
    mean, cov = np.atleast_1d(mean).astype(float), np.atleast_2d(cov).astype(float)
    ndim = grid.ndim
    width = grid.widths[-1]
    if ndim == 1:
        return normal_cell_masses(grid.edges[0], mean[0], math.sqrt(cov[0, 0])) / width
    head, cross = cov[:-1, :-1], cov[:-1, -1]
    gain = np.linalg.solve(head, cross)
    deviation = math.sqrt(cov[-1, -1] - cross @ gain)
    precision = np.linalg.inv(head)
    log_norm = -0.5 * ((ndim - 1) * math.log(2.0 * math.pi) + np.linalg.slogdet(head)[1])

    def outer(*points: np.ndarray) -> np.ndarray:
        shift = np.stack([x - m for x, m in zip(points, mean[:-1])])
        marginal = np.exp(log_norm - 0.5 * np.einsum("i...,ij,j...->...", shift, precision, shift))
        conditional = mean[-1] + np.einsum("i,i...->...", gain, shift)
        return marginal[..., None] * normal_cell_masses(grid.edges[-1], conditional, deviation) / width

    return _cell_quadrature(grid.centers[:-1], grid.widths[:-1], outer)


def cell_averages(grid: Grid, f: Callable[..., np.ndarray], points: int = _POINTS) -> np.ndarray:
    """Cell averages of a smooth function by Gauss-Legendre quadrature in each cell.

    Parameters
    ----------
    grid : Grid
    f : callable
        Vectorized function of the coordinates.
    points : int
        Quadrature points a cell and axis.

    Returns
    -------
    array of shape ``grid.shape``
    """
    return _cell_quadrature(grid.centers, grid.widths, f, points)


def _cell_quadrature(
    centers: Sequence[np.ndarray], widths: Sequence[np.ndarray], f: Callable[..., np.ndarray], points: int = _POINTS
) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total: Any = 0.0
    # One quadrature point of every cell at a time keeps the memory at one array of the grid's size.
    for index in np.ndindex(*(points,) * len(centers)):
        shifted = [c + 0.5 * nodes[i] * w for c, w, i in zip(centers, widths, index)]
        total = total + math.prod(0.5 * weights[i] for i in index) * f(*np.meshgrid(*shifted, indexing="ij"))
    return total


def moments(rho: Density) -> dict[str, float]:
    """Mean and covariance of a density by name: ``mean``, ``variance``, or ``mean_0``, ``cov_01`` on several axes."""
    return name_moments(np.atleast_1d(rho.mean()), np.atleast_2d(rho.cov()))


def name_moments(mean: np.ndarray, cov: np.ndarray) -> dict[str, float]:
    """Names of the entries of a mean (d,) and a covariance (d, d)."""
    if len(mean) == 1:
        return {"mean": float(mean[0]), "variance": float(cov[0, 0])}
    named = {f"mean_{i}": float(m) for i, m in enumerate(mean)}
    named |= {f"cov_{i}{j}": float(cov[i, j]) for i in range(len(mean)) for j in range(i, len(mean))}
    return named


def legendre_panels(lo: float, hi: float, panels: int = 60, points: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of composite Gauss-Legendre quadrature on ``[lo, hi]``."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    edges = np.linspace(lo, hi, panels + 1)
    half = 0.5 * np.diff(edges)
    x = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    return x.ravel(), (half[:, None] * weights).ravel()


def entropy_and_dissipation(
    x_weights: np.ndarray, rho: np.ndarray, slope: np.ndarray, force: np.ndarray, diffusion: float
) -> tuple[float, float]:
    """``int rho log rho`` and ``int (D rho' + rho Psi')^2 / rho`` from values at the nodes of a quadrature.

    Parameters
    ----------
    x_weights, rho, slope, force : arrays of shape (n,)
        Quadrature weights, rho, rho' and Psi' at the nodes.
    diffusion : float
        D.
    """
    # Far in the tails a spectral sum is only rounding noise around zero; it adds nothing to either integral.
    seen = rho > 1e-14 * rho.max()
    flux = diffusion * slope + rho * force
    entropy = float(np.sum(x_weights[seen] * xlogy(rho[seen], rho[seen])))
    return entropy, float(np.sum(x_weights[seen] * flux[seen] ** 2 / rho[seen]))
