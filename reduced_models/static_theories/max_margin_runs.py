"""Max-margin classifiers at finite size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtr

from wgflow.checks import check_count, check_flag, check_memory
from wgflow.errors import ConvergenceError, InvalidInput

from ..base import FloatArray
from .simulated import Simulated, as_generator, over_runs, sphere_points

if TYPE_CHECKING:
    from .max_margin import MaxMargin

__all__ = ["largest_margin", "simulate_margin"]

_TEST_POINTS = 20_000
_NO_MARGIN = 1e-7  # margin over the largest row norm below which the rows count as not separable
_GAP = 1e-7  # relative difference of the margin reached and its upper bound


def largest_margin(rows: FloatArray) -> tuple[float, FloatArray]:
    r"""Return :math:`\max_{|a| \le 1} \min_i \langle a, r_i \rangle` and its a; 0 and 0 where none is positive.

    The dual is the point of least norm in the convex hull of the rows. Up to its scale it minimizes
    :math:`|R^T x|^2 + (1 - \sum x)^2` over :math:`x \ge 0`: non-negative least squares, by SciPy's active sets, which
    end after finitely many steps whether or not there is a margin. The norm of any point of the hull bounds the margin
    from above, so that each result proves itself.

    Raises
    ------
    ConvergenceError
        If the margin reached is not the bound, to 1e-7.
    """
    size = float(np.max(np.linalg.norm(rows, axis=1)))
    if size == 0.0:
        return 0.0, np.zeros(rows.shape[1])
    system = np.vstack([rows.T / size, np.ones(len(rows))])
    target = np.zeros(system.shape[0])
    target[-1] = 1.0
    try:
        x, _ = nnls(system, target, maxiter=30 * len(rows))
    except RuntimeError as error:
        raise ConvergenceError(f"the largest margin of {len(rows)} rows was not found: {error}",
                               reason="inner-solver") from error
    point = rows.T @ (x / x.sum())
    norm = float(np.linalg.norm(point))
    if norm <= _NO_MARGIN * size:
        return 0.0, np.zeros(rows.shape[1])
    a = point / norm
    margin = float(np.min(rows @ a))
    if norm - margin > _GAP * max(norm, _NO_MARGIN * size / _GAP):
        raise ConvergenceError(f"the largest margin of {len(rows)} rows is between {margin:.9g} and {norm:.9g}: the "
                               "dual problem was not solved", reason="inner-solver")
    return margin, a


def simulate_margin(theory: MaxMargin, d: int, n_runs: int, equivalent: bool,
                    rng: int | np.random.Generator | None) -> tuple[Simulated, Simulated]:
    """Return margins and errors of independent draws; see :meth:`MaxMargin.simulate`."""
    check_count("d", d, 2)
    check_flag("equivalent", equivalent)
    n_neurons, n_samples = (round(psi * d) for psi in (theory.psi1, theory.psi2))
    if min(n_neurons, n_samples) < 1:
        raise InvalidInput(f"d={d}: psi1 d and psi2 d must round to at least 1; take a larger d")
    check_memory(8.0 * (_TEST_POINTS + 4 * n_samples) * (n_neurons + d), f"d={d}: a simulation", "take a smaller d")
    errors = []

    def one(generator: np.random.Generator) -> float:
        w = sphere_points(generator, n_neurons, d, 1.0)
        u, y = _draw(theory, generator, w, n_samples, equivalent)
        margin, a = largest_margin(y[:, None] * u)
        errors.append(_error(theory, generator, w, a, equivalent) if margin > 0.0 else 0.5)
        return max(margin, 0.0)

    margins = over_runs(one, n_runs, as_generator(rng))
    values = np.array(errors)
    return margins, Simulated(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n_runs)), values)


def _draw(theory: MaxMargin, generator: np.random.Generator, w: FloatArray, count: int, equivalent: bool):
    """Return features and labels; beta is the first unit vector."""
    x = generator.standard_normal((count, w.shape[1]))
    mean, linear, nonlinear = theory.coefficients
    if equivalent:
        u = linear * (x @ w.T) + nonlinear * generator.standard_normal((count, len(w)))
    else:
        u = theory.activation(x @ w.T) - mean
    y = np.where(generator.random(count) < theory.label_probability(x[:, 0]), 1.0, -1.0)
    return u, y


def _error(theory: MaxMargin, generator: np.random.Generator, w: FloatArray, a: FloatArray, equivalent: bool) -> float:
    """Return the share of new points that ``a`` misclassifies."""
    if not equivalent:
        u, y = _draw(theory, generator, w, _TEST_POINTS, False)
        return float(np.mean(y * (u @ a) <= 0.0))
    # <a, u> = alpha x_1 + gamma Z: integrate over x_1 on both sides of 0, where the link may jump.
    _, linear, nonlinear = theory.coefficients
    projected = linear * (a @ w)
    alpha, gamma = projected[0], np.sqrt(np.sum(projected[1:] ** 2) + nonlinear**2 * (a @ a))
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = np.concatenate([4.5 * (nodes - 1.0), 4.5 * (nodes + 1.0)])
    density = np.tile(4.5 * weights, 2) * np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi)
    chance, positive = theory.label_probability(t), ndtr(alpha * t / gamma)
    return float(density @ (chance * (1.0 - positive) + (1.0 - chance) * positive))
