"""The base of all exact problems: grid, energy and start for a solver, the exact solution, errors of a computed one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.special import xlogy

from wgflow.checks import check_count, check_interval, check_positive
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import Entropy
from wgflow.energies.mobility import Mobility
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

if TYPE_CHECKING:
    from wgflow.solution import Solution

__all__ = ["DEVIATIONS", "ExactProblem", "StateProblem"]
#: Half-width of the default boxes in standard deviations: the Gaussian mass outside is below 1e-12.
DEVIATIONS = 7.2


class ExactProblem(ABC):
    """A Wasserstein gradient flow whose solution is known.

    The flow is ``d rho/dt = div(rho grad(V + U rho)) + beta^-1 Laplacian rho``, the gradient flow of
    ``F = beta^-1 int rho log rho + int V rho + 1/2 int int U rho rho``, or that with a `mobility`. A problem holds the
    parameters of one member of a family; it gives the grid, the energy and the initial density for a solver, and the
    exact solution to compare with.

    Attributes
    ----------
    t_end : float
        Time up to which the default grid is large enough and at which errors are taken by default.
    smooth : bool
        Whether the solution is smooth up to t_end, so that a second-order method shows order 2; else it has free
        boundaries or jumps.
    has_density : bool
        Whether the density is known, not only its moments.
    has_jko_steps : bool
        Whether the steps of the JKO scheme are known too.

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
    def smooth(self) -> bool:
        """Whether the solution is smooth up to `t_end`."""
        return True

    @property
    def has_density(self) -> bool:
        """Whether the density is known at `t_end`."""
        return True

    @property
    def has_jko_steps(self) -> bool:
        """Whether the steps of the JKO scheme are known."""
        return False

    @property
    def expected_order(self) -> float:
        """Order in the cell width that a second-order method shows at least in L1: 2 for a smooth solution."""
        return 2.0 if self.smooth else 1.3

    @property
    def mobility(self) -> Mobility | None:
        """The mobility A(x) of the flow; None for 1."""
        return None

    @property
    def times(self) -> tuple[float, ...]:
        """Times of output that `path_quantities` needs, the last of them `t_end`."""
        return (self.t_end,)

    @property
    def diffusion(self) -> float:
        """``D = 1/beta``; 0 at ``beta = inf``."""
        return 1.0 / self.beta

    @abstractmethod
    def grid(self, cells: int | Sequence[int] = 200) -> Grid:
        """Return the grid of the problem's domain with ``cells`` cells (an integer: the same number on each axis)."""

    @abstractmethod
    def energy(self) -> FreeEnergy:
        """Return the free energy F of the flow."""

    @abstractmethod
    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages of the solution at time ``t``."""

    @abstractmethod
    def quantities(self, t: float) -> dict[str, float]:
        """Return the exact moments, free energy and dissipation at time ``t``, by name."""

    def measure(self, rho: Density) -> dict[str, float]:
        """Return the same quantities of a computed density: here mean, covariance and energies."""
        return moments(rho) | self._measure_energies(rho)

    def path_quantities(self, sol: Solution) -> dict[str, tuple[float, float]]:
        """Return what is known of a whole run with output at `times`: by name, the measured and the exact value."""
        return {}

    def front(self, t: float) -> np.ndarray | None:
        """Return the ends of the support at time ``t``, an array of shape (ndim, 2); None where there are none."""
        return None

    @property
    def front_level(self) -> float:
        """Part of the peak above which a cell counts as filled: 1e-4; 1e-3 at steep edges, 1/2 at jumps."""
        return 1e-4

    def initial_density(self, grid: Grid) -> Density:
        """Return the exact cell averages of the initial density."""
        return self.density(grid, 0.0)

    def errors(self, rho: Density, t: float | None = None) -> dict[str, float]:
        """Return the relative error of each quantity of ``rho``, and the L1 error of the density as ``"density"``.

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
        result = relative_errors(self.measure(rho), self.quantities(t))
        if self.has_density:
            result["density"] = l1_distance(rho, self.density(rho.grid, t))
        return result

    def front_error(self, rho: Density, t: float | None = None) -> float | None:
        """Return the largest distance, in cells, of a front from the last filled cell of ``rho``; None without fronts.

        A cell is filled if it holds more than `front_level` of the peak; a front inside the last such cell has the
        distance 0.
        """
        exact = self.front(self.t_end if t is None else t)
        if exact is None:
            return None
        worst = 0.0
        for axis, (edges, ends) in enumerate(zip(rho.grid.edges, exact)):
            profile = rho.values.max(axis=tuple(k for k in range(rho.grid.ndim) if k != axis))
            filled = np.flatnonzero(profile > self.front_level * profile.max())
            for cell, end in zip(filled[[0, -1]], ends):
                beyond = max(edges[cell] - end, end - edges[cell + 1], 0.0)
                worst = max(worst, float(beyond / (edges[cell + 1] - edges[cell])))
        return worst

    def _measure_energies(self, rho: Density) -> dict[str, float]:
        energy = self.energy()
        return {"energy": float(energy(rho)), "dissipation": float(energy.dissipation(rho, self.mobility))}

    def _with_entropy(self, *terms: Term) -> FreeEnergy:
        """Return the sum of the terms and of the entropy, which is left out at ``beta = inf``."""
        if not math.isinf(self.beta):
            terms = (Entropy(self.beta), *terms)
        return FreeEnergy([(1.0, term) for term in terms])


class StateProblem(ExactProblem):
    """A flow that keeps a family of laws, whose state is a few numbers; often its JKO steps keep the family too."""

    @abstractmethod
    def state(self, t: float) -> Any:
        """Return the state at time ``t``."""

    @abstractmethod
    def density_of(self, grid: Grid, state: Any) -> Density:
        """Return the exact cell averages of a state."""

    @abstractmethod
    def quantities_of(self, state: Any) -> dict[str, float]:
        """Return the exact quantities of a state."""

    def jko_step(self, state: Any, tau: float) -> Any:
        """Return the state after one JKO step, ``argmin W2(rho, state)^2 / (2 tau) + F(rho)``.

        Raises
        ------
        InvalidInput
            If `has_jko_steps` is False.
        """
        raise InvalidInput(f"{type(self).__name__}: its JKO steps have no closed form with these parameters.")

    def density(self, grid: Grid, t: float) -> Density:
        """Return the exact cell averages at time ``t``."""
        return self.density_of(grid, self.state(check_time(t)))

    def quantities(self, t: float) -> dict[str, float]:
        """Return the exact quantities at time ``t``."""
        return self.quantities_of(self.state(check_time(t)))

    def jko_states(self, tau: float, steps: int) -> list[Any]:
        """Return the states 0, 1, ..., ``steps`` of the JKO scheme with the step ``tau``.

        Parameters
        ----------
        tau : float
        steps : int

        Returns
        -------
        list of length ``steps + 1``
        """
        check_positive("tau", tau)
        check_count("steps", steps, 0)
        states = [self.state(0.0)]
        for _ in range(steps):
            states.append(self.jko_step(states[-1], tau))
        return states

    def jko_table(self, tau: float, steps: int) -> list[dict[str, float]]:
        """Return the exact quantities after 0, 1, ..., ``steps`` JKO steps."""
        return [self.quantities_of(state) for state in self.jko_states(tau, steps)]

    def jko_errors(self, rho: Density, tau: float, steps: int) -> dict[str, float]:
        """Return the errors of a density computed by ``steps`` JKO steps, as `errors` has them."""
        state = self.jko_states(tau, steps)[-1]
        result = relative_errors(self.measure(rho), self.quantities_of(state))
        return result | {"density": l1_distance(rho, self.density_of(rho.grid, state))}


def relative_error(measured: float, exact: float) -> float:
    """Return ``|measured - exact| / |exact|``; absolute where the exact value is zero to rounding."""
    return abs(measured - exact) / (abs(exact) if abs(exact) > 1e-12 else 1.0)


def relative_errors(measured: dict[str, float], exact: dict[str, float]) -> dict[str, float]:
    """Return the relative error of every quantity, by name."""
    return {name: relative_error(measured[name], value) for name, value in exact.items()}


def l1_distance(rho: Density, other: Density) -> float:
    """Return the L1 distance of two densities on the same grid."""
    if rho.grid != other.grid:
        raise InvalidInput(f"the densities live on {rho.grid} and {other.grid}; put both on one grid")
    return float(np.sum(np.abs(rho.values - other.values) * rho.grid.volumes))


def box_of(bounds: Any, reach: Any, cells: int | Sequence[int], boundary: str | None = None) -> Grid:
    """Return the grid of ``bounds``; if these are None, of the smallest box that holds what ``reach`` gives.

    Parameters
    ----------
    bounds : sequence of (lo, hi) or None
    reach : callable
        Returns the lower and the upper corners of what the box must hold, each of shape (n, d).
    cells : int or sequence of int
    boundary
        As in `Grid`: "no-flux" where the problem has walls.
    """
    if bounds is None:
        low, high = (np.asarray(corner) for corner in reach())
        bounds = list(zip(low.min(axis=0).tolist(), high.max(axis=0).tolist()))
    pairs = [bounds] if np.ndim(bounds) == 1 else list(bounds)
    counts = (cells,) * len(pairs) if np.ndim(cells) == 0 else tuple(cast(Sequence[int], cells))
    return Grid(pairs, cells=counts, boundary=boundary)


def check_boxes(bounds: Any, ndim: int) -> Any:
    """Return ``bounds`` as a tuple of one pair (lo, hi) for each axis, None left as it is."""
    if bounds is None:
        return None
    given = [bounds] if np.ndim(bounds) == 1 else list(bounds)
    if len(given) != ndim:
        raise InvalidInput(f"bounds={bounds!r}: need one (lo, hi) for each of the {ndim} axes.")
    return tuple(check_interval("bounds", pair) for pair in given)


def check_time(t: float) -> float:
    """Return ``t`` as a float after checking that it is not negative."""
    return check_positive("t", t, zero=True)


def check_axes(grid: Grid, ndim: int) -> None:
    """Raise unless ``grid`` has ``ndim`` axes."""
    if grid.ndim != ndim:
        raise InvalidInput(f"grid: the problem has {ndim} axes, the grid has {grid.ndim}; use problem.grid(cells).")


def moments(rho: Density) -> dict[str, float]:
    """Return mean and covariance by name: ``mean``, ``variance``, or ``mean_0``, ``cov_01`` on several axes."""
    return name_moments(np.atleast_1d(rho.mean()), np.atleast_2d(rho.cov()))


def name_moments(mean: np.ndarray, cov: np.ndarray) -> dict[str, float]:
    """Return the names of the entries of a mean (d,) and a covariance (d, d)."""
    if len(mean) == 1:
        return {"mean": float(mean[0]), "variance": float(cov[0, 0])}
    named = {f"mean_{i}": float(m) for i, m in enumerate(mean)}
    named |= {f"cov_{i}{j}": float(cov[i, j]) for i in range(len(mean)) for j in range(i, len(mean))}
    return named


def entropy_and_dissipation(
    x_weights: np.ndarray, rho: np.ndarray, slope: np.ndarray, force: np.ndarray, diffusion: float
) -> tuple[float, float]:
    """Return ``int rho log rho`` and ``int (D rho' + rho Psi')^2 / rho`` from values at the nodes of a quadrature.

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
