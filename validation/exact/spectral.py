"""Spectral reference solvers for one-dimensional flows that have no closed form, each with a checked tolerance.

They share nothing with the finite volumes they are compared with: polynomials instead of cells, a weak form instead of
fluxes, one high-order stiff integrator instead of splitting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.polynomial import legendre

from wgflow.errors import ConvergenceError

from .base import ExactProblem, check_time
from .cells import legendre_panels

__all__ = ["GibbsPolynomials", "LegendreGalerkin", "SpectralProblem", "agree", "double_well", "integrate"]

_Numbers = TypeVar("_Numbers", float, np.ndarray)

# Where the Gibbs weight has fallen by e^-700 even the square of a polynomial of degree 200 leaves nothing to see.
_LOG_CUTOFF = 700.0


class SpectralProblem(ExactProblem):
    """A flow whose solution is computed at two resolutions that must agree within ``tolerance``."""

    tolerance: float

    @abstractmethod
    def _sizes(self) -> tuple[int, int]:
        """Return the coarse and the fine resolution."""

    @abstractmethod
    def _quantities(self, t: float, size: int) -> dict[str, float]:
        """Return the quantities at one resolution."""

    def quantities(self, t: float) -> dict[str, float]:
        """Return the exact quantities at time ``t``, of the reference solution.

        Raises
        ------
        ConvergenceError
            If the two resolutions differ by more than the tolerance.
        """
        return dict(_checked_quantities(self, check_time(t)))


@lru_cache(maxsize=256)
def _checked_quantities(problem: SpectralProblem, t: float) -> dict[str, float]:
    coarse, fine = (problem._quantities(t, size) for size in problem._sizes())
    for name, value in fine.items():
        agree(name, coarse[name], value, problem.tolerance)
    return fine


def double_well(x: _Numbers) -> _Numbers:
    """Return ``V(x) = x^4/4 - x^2/2``."""
    return 0.25 * x**4 - 0.5 * x**2


class GibbsPolynomials:
    r"""Polynomials orthonormal in the Gibbs law ``w = e^{-beta W} / Z`` of a confining potential on the line.

    With ``rho = w sum_n c_n p_n`` the Fokker-Planck equation ``rho_t = D rho'' + (W' rho)'`` is

    .. math:: \dot c = -D S c, \qquad S_{mn} = \int p_m' p_n' w,

    symmetric and positive semi-definite: the eigenvalues of ``D S`` converge to the spectrum from above, and a density
    keeps its relative accuracy in the tails.

    Parameters
    ----------
    potential : callable
        W, vectorized, growing at both ends.
    beta : float
        Inverse temperature.
    degree : int
        Largest degree.

    Attributes
    ----------
    nodes, weights : arrays of shape (q,)
        Quadrature for the law: ``int f w = sum(weights * f(nodes))``.
    values, slopes : arrays of shape (degree + 1, q)
        p_n and p_n' at the nodes.
    log_partition : float
        ``log Z = log int e^{-beta W}``.
    """

    def __init__(self, potential: Callable[[np.ndarray], np.ndarray], beta: float, degree: int):
        self.potential, self.beta, self.degree = potential, beta, degree
        self.nodes, step = self._quadrature()
        log_weight = -beta * potential(self.nodes)
        top = log_weight.max()
        weights = step * np.exp(log_weight - top)
        self.log_partition = float(top + np.log(weights.sum()))
        self.weights = weights / weights.sum()
        self._recurrence = self._lanczos()
        self.values, self.slopes = self.evaluate(self.nodes)

    def _quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        reach = 1.0
        center = self.beta * self.potential(np.zeros(1))[0]
        while min(self.beta * self.potential(np.array([-reach, reach]))) < center + _LOG_CUTOFF:
            reach *= 1.1
        return legendre_panels(-reach, reach, panels=4 + self.degree, points=24)

    def _lanczos(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients in ``b_{n+1} p_{n+1} = (x - a_n) p_n - b_n p_{n-1}``, by full reorthogonalization."""
        basis = np.zeros((self.degree + 1, self.nodes.size))
        basis[0] = np.sqrt(self.weights)
        a, b = np.zeros(self.degree + 1), np.zeros(self.degree + 2)
        for n in range(self.degree + 1):
            product = self.nodes * basis[n]
            a[n] = basis[n] @ product
            for _ in range(2):
                product = product - basis[: n + 1].T @ (basis[: n + 1] @ product)
            b[n + 1] = np.linalg.norm(product)
            if n < self.degree:
                basis[n + 1] = product / b[n + 1]
        return a, b

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return p_n and p_n' at the points ``x``, each of shape ``(degree + 1, *x.shape)``."""
        a, b = self._recurrence
        values, slopes = np.zeros((2, self.degree + 1, *np.shape(x)))
        values[0] = 1.0
        for n in range(self.degree):
            before, slope_before = (values[n - 1], slopes[n - 1]) if n else (0.0, 0.0)
            values[n + 1] = ((x - a[n]) * values[n] - b[n] * before) / b[n + 1]
            slopes[n + 1] = (values[n] + (x - a[n]) * slopes[n] - b[n] * slope_before) / b[n + 1]
        return values, slopes

    def stiffness(self) -> np.ndarray:
        """Return the matrix S of shape (degree + 1, degree + 1)."""
        return (self.slopes * self.weights) @ self.slopes.T

    def drift(self) -> np.ndarray:
        """Return ``G_{mn} = int p_m' p_n w``: a constant velocity v acts as ``c' = v G c``."""
        return (self.slopes * self.weights) @ self.values.T

    def coefficients(self, f: np.ndarray) -> np.ndarray:
        """Return ``int f p_n w`` of values ``f = rho / w`` at the nodes."""
        return self.values @ (self.weights * f)

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the eigenvalues of ``D S`` in rising order, the first of them 0, and the eigenvectors as columns."""
        # p_0' = 0 makes the first row and column exact zeros; take it out to keep the zero mode clean.
        rates, vectors = np.linalg.eigh(self.stiffness()[1:, 1:] / self.beta)
        full = np.zeros((self.degree + 1, self.degree + 1))
        full[0, 0], full[1:, 1:] = 1.0, vectors
        return np.concatenate([[0.0], rates]), full

    def pdf(self, x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Return ``rho(x) = w(x) sum_n c_n p_n(x)``."""
        law = np.exp(-self.beta * self.potential(x) - self.log_partition)
        return law * np.tensordot(coefficients, self.evaluate(x)[0], axes=1)


class LegendreGalerkin:
    r"""Galerkin solution of ``rho_t = (D rho' + (W' - k m(t)) rho)'``, ``m = int x rho``, without flux at the ends.

    On ``[lo, hi]`` the solution is ``rho = sum_n c_n P_n`` in Legendre polynomials and the weak form against each of
    them, ``d/dt <P_m, rho> = -<P_m', D rho' + (W' - k m) rho>``, holds the boundary condition. It is the flow of the
    potential ``W - k x^2/2`` with the attraction ``U = k |x - x'|^2 / 2``; ``k = 0`` is a Fokker-Planck equation.

    Parameters
    ----------
    force : callable
        W', a polynomial of degree at most 3.
    coupling : float
        k.
    diffusion : float
        D.
    bounds : (lo, hi)
    size : int
        Number of polynomials.
    """

    def __init__(
        self,
        force: Callable[[np.ndarray], np.ndarray],
        coupling: float,
        diffusion: float,
        bounds: tuple[float, float],
        size: int,
    ):
        self.center, self.half, self.size = 0.5 * sum(bounds), 0.5 * (bounds[1] - bounds[0]), size
        # Exact for the products P_m' (W' P_n): degree at most 2 size + 2.
        s, weights = legendre.leggauss(size + 4)
        values = legendre.legvander(s, size - 1)
        slopes = np.stack([legendre.legval(s, legendre.legder(row)) for row in np.eye(size)], axis=1) / self.half
        x = self.center + self.half * s
        # Orthonormal on the interval, so that the mass matrix is the identity.
        scale = np.sqrt((2.0 * np.arange(size) + 1.0) / (2.0 * self.half))
        self.scale, self.nodes, self.weights = scale, x, weights * self.half
        self.values, self.slopes = values * scale, slopes * scale
        tested = self.slopes.T * self.weights
        self.linear = -tested @ (diffusion * self.slopes + force(x)[:, None] * self.values)
        self.drift = coupling * tested @ self.values
        self.first_moment = (self.values.T * self.weights) @ x

    def project(self, rho: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the coefficients of a density."""
        x, w = legendre_panels(self.center - self.half, self.center + self.half, panels=self.size)
        return (legendre.legvander((x - self.center) / self.half, self.size - 1) * self.scale).T @ (w * rho(x))

    def run(self, start: np.ndarray, t: float, rtol: float) -> np.ndarray:
        """Return the coefficients at time ``t``."""
        def slope(_: float, c: np.ndarray) -> np.ndarray:
            return self.linear @ c + (self.first_moment @ c) * (self.drift @ c)

        def jacobian(_: float, c: np.ndarray) -> np.ndarray:
            mean = self.first_moment @ c
            return self.linear + mean * self.drift + np.outer(self.drift @ c, self.first_moment)

        return integrate(slope, start, t, rtol=rtol, atol=1e-3 * rtol, jacobian=jacobian)

    def evaluate(self, x: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the density and its slope at the points ``x``."""
        s = (np.asarray(x) - self.center) / self.half
        return legendre.legval(s, c * self.scale), legendre.legval(s, legendre.legder(c * self.scale)) / self.half

    def cell_masses(self, edges: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return the exact integrals of the polynomial over the cells between ``edges``."""
        s = (edges - self.center) / self.half
        return np.diff(self.half * legendre.legval(s, legendre.legint(c * self.scale)))


def agree(name: str, coarse: Any, fine: Any, tolerance: float) -> None:
    """Raise ConvergenceError unless two resolutions agree within ``tolerance``, absolute for values below one.

    Parameters
    ----------
    name : str
        What is compared, for the message.
    coarse, fine : float or array
    tolerance : float
    """
    coarse, fine = np.asarray(coarse), np.asarray(fine)
    gap = float(np.max(np.abs(coarse - fine) / np.maximum(1.0, np.abs(fine))))
    if not gap <= tolerance:
        raise ConvergenceError(
            f"{name}: two resolutions of the reference solution differ by {gap:.2g}, more than tolerance="
            f"{tolerance:g}; give it more polynomials or modes, or a larger tolerance."
        )


def integrate(
    slope: Callable, start: np.ndarray, t: Any, *, rtol: float, atol: float, jacobian: Callable | None = None
) -> np.ndarray:
    """Return the solution of an ODE from time 0; with a Jacobian by the stiff method Radau, else by DOP853.

    Parameters
    ----------
    slope, jacobian : callable
        Of the time and the state.
    start : array of shape (n,)
    t : float or rising array of shape (k,)
    rtol, atol : float

    Returns
    -------
    array of shape (n,), or (n, k) for several times
    """
    times = np.atleast_1d(np.asarray(t, dtype=float))
    if times[-1] == 0.0:
        return start if np.ndim(t) == 0 else np.repeat(start[:, None], times.size, axis=1)
    from scipy.integrate import solve_ivp

    method: dict[str, Any] = {"method": "DOP853"} if jacobian is None else {"method": "Radau", "jac": jacobian}
    # The end itself comes without interpolation between steps.
    solution = solve_ivp(slope, (0.0, times[-1]), start, t_eval=None if np.ndim(t) == 0 else times, rtol=rtol,
                         atol=atol, **method)
    if not solution.success:
        raise ConvergenceError(f"reference solution stopped at t={solution.t[-1]:.6g}: {solution.message}",
                               t=float(times[-1]))
    return solution.y[:, -1] if np.ndim(t) == 0 else solution.y
