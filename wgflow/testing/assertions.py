"""Assertions on solutions, terms and kernels. Each raises AssertionError with the worst number and where it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_values, real_array
from wgflow.densities import Density
from wgflow.energies import Entropy, FreeEnergy, Potential, Term
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.solution import Solution
from wgflow.verbs import solve

__all__ = ["assert_energy_decays", "assert_first_variation", "assert_gibbs_fixed", "assert_mass_conserved",
           "assert_nonnegative", "assert_order", "assert_symmetric_kernel"]


def _laws(solution: Solution) -> list[Density]:
    if solution.is_atomic:
        raise InvalidInput("solution is one of atoms; this assertion needs densities on a grid")
    return list(solution.densities)


def assert_mass_conserved(solution: Solution, rtol: float = 1e-13) -> None:
    r"""Assert \|int rho(t) - int rho(0)\| <= rtol int rho(0) at every stored time.

    Parameters
    ----------
    solution : Solution
        On a grid. Sums are exact up to one rounding.
    rtol : float
    """
    totals = np.array([math.fsum(rho.masses.ravel()) for rho in _laws(solution)])
    drift = np.abs(totals / totals[0] - 1.0)
    # Not `>`: a NaN must fail, too.
    if not (drift <= rtol).all():
        k = int(np.argmax(np.where(np.isnan(drift), np.inf, drift)))
        raise AssertionError(f"mass is not conserved: it has changed by {drift[k]:.3g} of itself at "
                             f"t={solution.t[k]:g}, more than rtol={rtol:g}")


def assert_nonnegative(solution: Solution) -> None:
    """Assert rho >= 0, and that it is finite, in every cell at every stored time."""
    for t, rho in zip(solution.t, _laws(solution)):
        if not (rho.values >= 0.0).all() or not np.isfinite(rho.values).all():
            bad = np.argwhere(~((rho.values >= 0.0) & np.isfinite(rho.values)))[0]
            cell = tuple(int(k) for k in bad)
            raise AssertionError(f"the density is {rho.values[cell]:g} in cell {cell} at t={t:g}")


def assert_energy_decays(solution: Solution, energy: FreeEnergy | Callable[[Density], float] | None = None,
                         tol: float = 1e-12) -> None:
    r"""Assert that F never rises: F(t_{k+1}) - F(t_k) <= tol max(1, \|F(t_k)\|).

    Without ``energy`` this is the energy that the run itself recorded after each accepted step; with it F is formed
    again from the stored densities, apart from the run, and both are checked.

    Parameters
    ----------
    solution : Solution
        Of an energy that does not depend on time.
    energy : FreeEnergy or callable, optional
        F of a Density.
    tol : float
    """
    series: dict[str, tuple[ArrayLike, ArrayLike]] = {"recorded": (solution.history.t, solution.history.energy)}
    if energy is not None:
        series["formed again"] = (solution.t, [float(energy(rho)) for rho in _laws(solution)])
    for label, (times, energies) in series.items():
        t, values = np.asarray(times, dtype=float), np.asarray(energies, dtype=float)
        if not np.isfinite(values).all():
            raise AssertionError(f"the energy ({label}) is not finite")
        rises = np.diff(values) / np.maximum(1.0, np.abs(values[:-1]))
        if rises.max(initial=0.0) > tol:
            k = int(np.argmax(rises))
            raise AssertionError(f"the energy ({label}) rises from {values[k]:.15g} to {values[k + 1]:.15g} between "
                                 f"t={t[k]:g} and t={t[k + 1]:g}, by more than tol={tol:g}")


def assert_gibbs_fixed(potential: ArrayLike, beta: float, grid: Grid, method: Any = None, t: float = 1.0,
                       tol: float = 1e-10) -> None:
    r"""Assert that a method leaves the Gibbs state of a potential as it is.

    .. math:: \rho^*_i = w_i e^{-\beta V_i} / Z

    with the reference measure w of the grid (1 if there is none) is started from and solved for.

    Parameters
    ----------
    potential : array of the grid's shape
        V at the cell centers.
    beta : float
        Finite.
    grid : Grid
    method : Method, optional
        Finite volumes by default.
    t : float
        Length of the run.
    tol : float
        Largest L1 distance between the last density and the first one.
    """
    V = check_values(potential, grid, "potential")
    exponent = -beta * V + (0.0 if grid.log_weight is None else grid.log_weight)
    start = Density.from_values(grid, np.exp(exponent - exponent.max()), normalize=True)
    solution = solve(Potential(V) + Entropy(beta), start, (0.0, t), method=method)
    distance = float(np.abs(solution.final.masses - start.masses).sum())
    if not distance <= tol:
        raise AssertionError(f"the Gibbs state is not kept: after t={t:g} it has moved by {distance:.3g} in L1, more "
                             f"than tol={tol:g}")


def assert_order(sizes: ArrayLike, errors: ArrayLike, order: float, tol: float = 0.2) -> None:
    r"""Assert that errors fall as h^order: the slope of log(error) by log(h), fitted by least squares.

    Parameters
    ----------
    sizes, errors : array, shape (n,)
        At least two different h > 0, and an error > 0 of each.
    order : float
        The slope may be larger than order + tol only by an error: both sides are checked.
    tol : float
    """
    h, e = real_array(sizes, "sizes"), real_array(errors, "errors")
    if h.ndim != 1 or h.shape != e.shape or np.unique(h).size < 2:
        raise InvalidInput(f"sizes and errors have shapes {h.shape} and {e.shape}; need two or more different sizes, "
                           "and an error of each")
    if not ((h > 0) & (e > 0) & np.isfinite(h) & np.isfinite(e)).all():
        raise InvalidInput("sizes and errors must be finite and > 0: an error of 0 has no order")
    slope = float(np.polyfit(np.log(h), np.log(e), 1)[0])
    if abs(slope - order) > tol:
        raise AssertionError(f"the observed order is {slope:.3f}; {order:g} was to be, within {tol:g}")


def assert_first_variation(term: Term | FreeEnergy, rho: Density, rng: int | np.random.Generator = 0,
                           directions: int = 3, rtol: float = 1e-6) -> None:
    r"""Assert that ``first_variation`` is the derivative of ``energy`` along changes that keep the mass.

    .. math:: \frac{F(\rho + s \eta) - F(\rho - s \eta)}{2 s} \to \int \frac{\delta F}{\delta \rho} \eta,
       \qquad \eta = \rho (\varphi - \bar\varphi), \quad \int \eta = 0,

    for random phi in each cell, so that a constant in the first variation, which moves nothing, does not count. Two s
    are combined by Richardson's rule; the error is of order s^4.

    Parameters
    ----------
    term : Term or FreeEnergy
    rho : Density
        Where the derivative is taken; cells without mass stay without.
    rng : int or Generator
    directions : int
        Number of random phi.
    rtol : float
        Of the sum over cells of the parts of the integral, \|dF/drho eta\|, before they cancel.
    """
    free = term if isinstance(term, FreeEnergy) else 1.0 * term
    generator = np.random.default_rng(rng)
    slopes = check_values(free.first_variation(rho), rho.grid, "first_variation")
    slopes = slopes - (slopes * rho.masses).sum() / rho.mass
    for _ in range(directions):
        phi = generator.uniform(-1.0, 1.0, rho.grid.shape)
        phi = phi - (phi * rho.masses).sum() / rho.mass
        stated = float((slopes * phi * rho.masses).sum())
        scale = float(np.abs(slopes * phi * rho.masses).sum())
        coarse, fine = (_difference(free, rho, phi, step) for step in (0.02, 0.01))
        found = (4.0 * fine - coarse) / 3.0
        # The energies' own rounding, magnified by the division.
        rounding = 1e-12 * abs(float(free(rho)))
        if not abs(found - stated) <= rtol * max(scale, abs(found)) + rounding:
            raise AssertionError(f"first_variation is not the derivative of energy: differences of F give {found:.10g},"
                                 f" the integral of first_variation {stated:.10g}")


def _difference(free: FreeEnergy, rho: Density, phi: np.ndarray, step: float) -> float:
    up, down = (Density.from_values(rho.grid, rho.values * (1.0 + sign * step * phi), normalize=False)
                for sign in (1.0, -1.0))
    return (float(free(up)) - float(free(down))) / (2.0 * step)


def assert_symmetric_kernel(kernel: ArrayLike | Callable[..., Any], points: Sequence[ArrayLike] | None = None,
                            rtol: float = 1e-12) -> None:
    r"""Assert U(x, y) = U(y, x), within rtol of the largest \|U\|; the error names the worst pair.

    Parameters
    ----------
    kernel : array, shape (n, n), or callable
        A table, or ``U(x..., y...)`` of arrays, one for each coordinate of x and then of y.
    points : sequence of array, shape (n,) each
        The coordinates of the points at which a callable is looked at; for one axis ``[x]``.
    rtol : float
    """
    if callable(kernel):
        if points is None:
            raise InvalidInput("points=None: give the coordinates at which the kernel is looked at, as [x] on one axis")
        x = [real_array(c, "points").ravel() for c in points]
        table = real_array(kernel(*(c[:, None] for c in x), *(c[None, :] for c in x)), "kernel(x, y)")
    else:
        table = real_array(kernel, "kernel")
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise InvalidInput(f"kernel has shape {table.shape}; need (n, n)")
    gap = np.abs(table - table.T)
    if not (gap <= rtol * np.abs(table).max()).all():
        i, j = (int(k) for k in np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape))
        raise AssertionError(f"the kernel is not symmetric: U[{i}, {j}] = {table[i, j]:g}, "
                             f"U[{j}, {i}] = {table[j, i]:g}")
