"""Exact cell averages: Gaussians, smooth functions by quadrature, powers that vanish on a circle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import beta as beta_function
from scipy.special import betainc, ndtr

from wgflow.grids import Grid

__all__ = ["ball_cell_averages", "cell_averages", "gaussian_cell_averages", "legendre_panels", "normal_cell_masses"]

# Gauss-Legendre points a cell and axis: exact to rounding while a cell is narrower than the density's own width.
_POINTS = 8
# Points on each smooth piece of a cell that a circle cuts.
_CUT_POINTS = 20


def normal_cell_masses(edges: np.ndarray, mean: np.ndarray | float, deviation: float) -> np.ndarray:
    """Return the mass of the normal law in each interval between ``edges``; relative accuracy kept in both tails.

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
    """Return the cell averages of the Gaussian ``N(mean, cov)`` on a grid of one to four axes.

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
    """Return the cell averages of a smooth function by Gauss-Legendre quadrature in each cell.

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


def legendre_panels(lo: float, hi: float, panels: int = 60, points: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of composite Gauss-Legendre quadrature on ``[lo, hi]``."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    edges = np.linspace(lo, hi, panels + 1)
    half = 0.5 * np.diff(edges)
    x = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    return x.ravel(), (half[:, None] * weights).ravel()


def ball_cell_averages(grid: Grid, center: Sequence[float], radius: float, exponent: float) -> np.ndarray:
    r"""Return the cell averages of the law with density proportional to :math:`(1 - |x - c|^2 / R^2)_+^p`, of mass 1.

    In closed form on one axis. On two axes one integral is in closed form, the other by Gauss-Legendre quadrature
    between the points where the circle crosses the sides of a cell: exact to about 1e-13.

    Parameters
    ----------
    grid : Grid
        Of one or two axes.
    center : sequence of float
        c, one number for each axis.
    radius : float
        R.
    exponent : float
        p > -1; 0 gives the uniform law of the ball.

    Returns
    -------
    array of shape ``grid.shape``
    """
    edges = [(e - c) / radius for e, c in zip(grid.edges, center)]
    if grid.ndim == 1:
        return np.diff(_line_mass(edges[0], exponent)) / grid.widths[0]
    masses = np.zeros(grid.shape)
    nearest = [np.maximum(np.maximum(e[:-1], -e[1:]), 0.0) for e in edges]
    rows, columns = np.nonzero(nearest[0][:, None] ** 2 + nearest[1][None, :] ** 2 < 1.0)
    x, y = edges
    masses[rows, columns] = _disk_masses(x[rows], x[rows + 1], y[columns], y[columns + 1], exponent)
    return masses / grid.volumes


def _line_mass(x: np.ndarray, exponent: float) -> np.ndarray:
    """Return the mass of the law on [0, x], of either sign, for the unit ball of the line."""
    return 0.5 * np.sign(x) * betainc(0.5, exponent + 1.0, np.minimum(x * x, 1.0))


def _disk_masses(x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray, exponent: float) -> np.ndarray:
    """Return the masses of the law of the unit disk in rectangles, arrays of shape (n,)."""
    crossings = [np.sqrt(np.maximum(1.0 - y * y, 0.0)) for y in (y0, y1)]
    inner = [np.clip(s * c, x0, x1) for c in crossings for s in (-1.0, 1.0)]
    cuts = np.sort(np.stack([np.maximum(x0, -1.0), *inner, np.minimum(x1, 1.0)]), axis=0)
    cuts = np.clip(cuts, np.maximum(x0, -1.0), np.minimum(x1, 1.0))
    nodes, weights = np.polynomial.legendre.leggauss(_CUT_POINTS)
    s = 0.5 * (nodes + 1.0)
    # Crowded towards both ends, where the inner integral is a power of the distance.
    place, jacobian = s * s * (3.0 - 2.0 * s), 3.0 * weights * s * (1.0 - s)
    # Of the inner integral: int_0^y (a^2 - z^2)^p dz = a^(2p+1) B(1/2, p+1) I(y^2/a^2) / 2.
    norm = (exponent + 1.0) / math.pi * 0.5 * beta_function(0.5, exponent + 1.0)
    total = np.zeros_like(x0)
    for low, high in itertools.pairwise(cuts):
        length = high - low
        some = np.flatnonzero(length > 0.0)
        if some.size == 0:
            continue
        x = low[some, None] + length[some, None] * place
        a2 = np.maximum(1.0 - x * x, 1e-300)
        ends = [np.sign(y[some, None]) * betainc(0.5, exponent + 1.0, np.minimum(y[some, None] ** 2 / a2, 1.0))
                for y in (y0, y1)]
        total[some] += length[some] * ((a2 ** (exponent + 0.5) * (ends[1] - ends[0])) @ jacobian)
    return norm * total
