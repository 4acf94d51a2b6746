r"""The dual problem of a free energy whose interaction is of low rank, and tests of convexity.

On laws of mass M an interaction acts only through its centered part :math:`U_c = P U P`, where P removes the mean over
the cells; the rest is a potential. With :math:`U_c = \sum_k s_k \phi_k \phi_k^T` and all :math:`s_k > 0`, put
:math:`f_k = \sqrt{s_k}\,\phi_k`; then

.. math:: \min_m F = \max_y\; -\tfrac12 |y|^2 - \frac{M}{\beta} \log \sum_i w_i e^{-\beta (V_i + y \cdot f_i)} + const,

a smooth and strongly concave problem in k unknowns, solved by :math:`y = \sum_i m_i f_i` with m the Gibbs law.

Convex functions of moments :math:`\Phi(\sum_i m_i f_i)` stand beside it in the same way: with y the moments,

.. math:: D(y) = \Phi(y) - y \cdot \nabla\Phi(y)
                 - \frac{M}{\beta} \log \sum_i w_i e^{-\beta (V_i + \nabla\Phi(y) \cdot f_i)}

is at most min F (Fenchel's equality :math:`-\Phi^*(g) = \Phi(y) - y \cdot g` at :math:`g = \nabla \Phi(y)`), and
its derivative is H (z - y), with the moments z of the Gibbs law and the Hessian H of :math:`\Phi`. The interaction is
:math:`\Phi = |y|^2/2`.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from .fixed_point import GROWTH, Tell, first_factor, not_told, projected, symmetric_form
from .gibbs import GibbsProblem, Iterate, Law

__all__ = ["Factors", "default_starts", "factorize", "is_convex", "least_curvature", "maximize_dual"]

#: Ranks tried by the range finder.
RANKS = (12, 32, 96)
#: Largest number of entries of a basis (features times cells): 160 MB.
BASIS_ENTRIES = 20_000_000
#: If more than this part of a convolution's kernel is missed at the second rank, the third is not tried.
SLOW = 1e-2
#: A given low-rank form with more features than this is compressed.
RANK_LIMIT = 96
#: Eigenvalues below this part of the largest are rounding errors.
NEGLIGIBLE = 1e-13
#: Cells up to which a kernel without a low-rank form is tested as a matrix.
TABLE_CELLS = 1500
#: Starts are tilted along this many leading features,
TILTS = 3
#: by this many standard deviations of the feature.
TILT = 2.0
#: Newton's method ends a stage when q changes by less than this,
STAGE_GOAL = 0.3
#: and the last stage when it changes by less than this.
FINAL_GOAL = 1e-9
#: Newton steps in one stage; if they do not suffice, the internal energy falls more slowly.
STAGE_STEPS = 30


class Factors(NamedTuple):
    """The centered interaction: ``features`` (k, n) of mean 0 over the cells, ``signs`` (k,) real numbers.

    ``shift`` (n,) is the potential that the centering splits off, for a law of mass 1.
    """

    features: np.ndarray
    signs: np.ndarray
    shift: np.ndarray


def factorize(problem: GibbsProblem) -> Factors | None:
    """Return the centered interaction in low rank, as given or by a randomized range finder; None if there is none."""
    n = problem.size
    shift = problem.interaction(np.full(n, 1.0 / n))
    operators = problem.on_grid.operators
    if all(operator.features is not None for _, operator in operators):
        signs = np.concatenate([[], *(factor * np.asarray(operator.signs) for factor, operator in operators)])
        if signs.size * n > BASIS_ENTRIES:
            return None
        if signs.size <= RANK_LIMIT:
            features = np.concatenate([np.zeros((0, n)), *(operator.features for _, operator in operators)])
            features = features - features.mean(axis=1, keepdims=True)
            features, signs = features[signs != 0], signs[signs != 0]
            if not (signs > 0).all():
                basis, triangle = np.linalg.qr(features.T)
                features, signs = _diagonalized(basis, (triangle * signs) @ triangle.T)
            return Factors(features, signs, shift)
    return _find_range(problem, shift)


def _find_range(problem: GibbsProblem, shift: np.ndarray) -> Factors | None:
    n, rng = problem.size, np.random.default_rng(90217)
    convolution = all(operator.transform is not None for _, operator in problem.on_grid.operators)

    def centered(columns: np.ndarray) -> np.ndarray:
        columns = columns - columns.mean(axis=0)
        image = np.stack([problem.interaction(np.ascontiguousarray(c)) for c in columns.T], axis=1)
        return image - image.mean(axis=0)

    probes = centered(rng.standard_normal((n, 4)))
    scale = max(float(np.linalg.norm(probes)), np.finfo(float).tiny)
    columns = np.zeros((n, 0))
    for rank in RANKS:
        rank = min(rank, n)
        if n * rank > BASIS_ENTRIES:
            return None
        columns = np.concatenate([columns, centered(rng.standard_normal((n, rank - columns.shape[1])))], axis=1)
        basis, _ = np.linalg.qr(columns)
        missed = float(np.linalg.norm(probes - basis @ (basis.T @ probes))) / scale
        if rank == n or missed <= 10 * NEGLIGIBLE:
            return Factors(*_diagonalized(basis, basis.T @ centered(basis)), shift)
        # Spectra of convolutions fall smoothly: one that is still high here will not be low at the largest rank.
        if rank == RANKS[1] < n - rank and missed > SLOW and convolution:
            return None
    return None


def _diagonalized(basis: np.ndarray, core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features and signs of basis core basis^T, without the eigenvalues that are rounding errors."""
    signs, vectors = np.linalg.eigh(0.5 * (core + core.T))
    keep = np.abs(signs) > NEGLIGIBLE * np.abs(signs).max(initial=0.0)
    return np.ascontiguousarray((basis @ vectors[:, keep]).T), signs[keep]


def is_convex(problem: GibbsProblem, factors: Factors | None) -> bool | None:
    """Return whether the interaction energy is convex on laws of one mass; None where it is not known.

    Known from the factors, from the eigenvalues of a convolution (exact on periodic axes, sufficient on others), or
    from a Cholesky factorization of the centered kernel on few cells.
    """
    if factors is not None:
        return bool((factors.signs > 0).all())
    if all(_is_positive(factor, operator) for factor, operator in problem.on_grid.operators):
        return True
    if problem.size > TABLE_CELLS:
        return None
    n = problem.size
    table = np.stack([problem.interaction(row) for row in np.eye(n)])
    table = table - table.mean(axis=0)
    table = table - table.mean(axis=1, keepdims=True)
    margin = 4 * n * np.finfo(float).eps * np.linalg.norm(table)
    try:
        np.linalg.cholesky(0.5 * (table + table.T) + margin * np.eye(n))
    except np.linalg.LinAlgError:
        return False
    return True


def _is_positive(factor: float, operator) -> bool:
    if operator.transform is not None:
        spectrum = factor * operator.transform.ravel()[1:]  # the first is the constant kernel, which moves nothing
        return bool((spectrum >= -NEGLIGIBLE * np.abs(operator.transform).max()).all())
    return operator.signs is not None and bool((factor * operator.signs >= 0).all())


class Moments:
    """The moments of a convex energy, and Phi as a function of them: an interaction's first, then those of functions.

    Attributes
    ----------
    features : array, shape (k, n)
    """

    def __init__(self, problem: GibbsProblem, factors: Factors | None):
        own = np.zeros((0, problem.size)) if factors is None else np.sqrt(factors.signs)[:, None] * factors.features
        self.quadratic, self.functionals = len(own), problem.functionals
        self.features = np.concatenate([own, *(term.features for _, term in problem.functionals)])

    def value(self, y: np.ndarray) -> float:
        """Return Phi."""
        first, rest = y[:self.quadratic], self._parts(y)
        return 0.5 * float(first @ first) + sum(factor * term.phi.value(z) for factor, term, z in rest)

    def gradient(self, y: np.ndarray) -> np.ndarray:
        """Return the gradient of Phi, shape (k,)."""
        return np.concatenate([y[:self.quadratic], *(factor * term.phi.gradient(z)
                                                     for factor, term, z in self._parts(y))])

    def hessian(self, y: np.ndarray) -> np.ndarray:
        """Return the Hessian of Phi, shape (k, k)."""
        total, start = np.eye(y.size), self.quadratic
        for factor, term, z in self._parts(y):
            total[start:start + z.size, start:start + z.size] = factor * term.phi.hessian(z)
            start += z.size
        return total

    def _parts(self, y: np.ndarray) -> list:
        cuts = self.quadratic + np.cumsum([len(term.features) for _, term in self.functionals], dtype=int)
        parts = np.split(y, [self.quadratic, *cuts])[1:]
        return [(factor, term, z) for (factor, term), z in zip(self.functionals, parts)]


def maximize_dual(problem: GibbsProblem, factors: Factors | None, masses: np.ndarray, budget: int,
                  tell: Tell = not_told) -> tuple[np.ndarray, int]:
    """Return the q of the minimizer of a convex energy, by Newton's method on the dual in stages.

    Where the internal energy is small the curvature of the dual changes abruptly where the law moves to other cells,
    and Newton's method alone would take tiny steps. In stages of falling internal energy each starts near its solution.

    Parameters
    ----------
    masses : array, shape (n,)
        Where to start; the result does not depend on it beyond rounding.

    Returns
    -------
    q, iterations
    """
    moments = Moments(problem, factors)
    base = problem.potential if factors is None else problem.potential + problem.mass * factors.shift
    y = moments.features @ masses
    factor, growth, done = first_factor(problem, base + moments.gradient(y) @ moments.features), GROWTH, 0
    while True:
        last = factor <= 1.0
        stage = problem if last else problem.scaled(factor)
        goal = FINAL_GOAL if last else STAGE_GOAL
        y, steps, reached = _newton(stage, moments, base, y, goal, min(STAGE_STEPS, budget - done))
        done += steps
        if tell is not not_told:
            tell(done, float(np.abs(_dual_point(stage, moments, base, y)[2]).max()))
        if done >= budget or (last and reached):
            break
        if not reached:
            growth = max(1.5, np.sqrt(growth))
            if last:
                break
        factor = max(1.0, factor / growth)
    return problem.gibbs(base + moments.gradient(y) @ moments.features), done


def _newton(problem: GibbsProblem, moments: Moments, base, y, goal, budget):
    """Do Newton's method on the dual of one stage; return the point, the steps, whether the goal is met."""
    value, law, missed = _dual_point(problem, moments, base, y)
    for step in range(budget):
        if problem.beta * np.ptp((moments.gradient(y + missed) - moments.gradient(y)) @ moments.features) <= goal:
            return y, step, True
        bend = moments.hessian(y)
        centered = problem.centered(law, moments.features)
        covariance = problem.beta * law.total * (centered * law.weights) @ centered.T
        direction = np.linalg.solve(np.eye(y.size) + covariance @ bend, missed)
        slope = float(missed @ bend @ direction)
        size = 1.0
        while size > 1e-12:
            trial = _dual_point(problem, moments, base, y + size * direction)
            gain = trial[0] - value
            if gain >= 1e-4 * size * slope:
                break
            # Within the rounding error of the value, the gradient decides.
            if abs(gain) <= 1e-13 * (1.0 + abs(value)) and np.abs(trial[2]).max() < np.abs(missed).max():
                break
            size *= 0.5
        else:
            return y, step, True  # nothing more to gain in floats
        y, (value, law, missed) = y + size * direction, trial
    return y, budget, False


def _dual_point(problem: GibbsProblem, moments: Moments, base, y) -> tuple[float, Law, np.ndarray]:
    """Return the value of the dual, the law of its potential and by how much its moments differ from y."""
    g = moments.gradient(y)
    psi = base + g @ moments.features
    law = problem.law_of(psi)
    return (problem.least(law, psi) + moments.value(y) - float(y @ g), law, moments.features @ law.masses - y)


def least_curvature(problem: GibbsProblem, state: Iterate, factors: Factors | None) -> tuple[float, np.ndarray]:
    """Return the least eigenvalue of T at a state (see `gibbs`; at most 1), and its eigenvector v."""
    if factors is not None:
        return _low_rank_curvature(problem, state, factors)
    apply = symmetric_form(problem, state)
    if problem.size <= 400:
        values, vectors = np.linalg.eigh(np.stack([apply(row) for row in np.eye(problem.size)], axis=1))
    else:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        operator = LinearOperator((problem.size, problem.size), matvec=apply, dtype=float)
        start = np.random.default_rng(5519).standard_normal(problem.size)
        try:
            values, vectors = eigsh(operator, k=1, which="SA", v0=start, tol=1e-9, ncv=min(problem.size, 40))
        except ArpackNoConvergence as error:
            if len(error.eigenvalues) == 0:
                return float("nan"), np.zeros(problem.size)
            values, vectors = error.eigenvalues, error.eigenvectors
    moved = state.total * np.sqrt(state.weights) * projected(problem, state, vectors[:, 0])
    return min(1.0, float(values[0])), problem.beta * problem.centered(state, problem.interaction(moved))


def _low_rank_curvature(problem: GibbsProblem, state: Iterate, factors: Factors) -> tuple[float, np.ndarray]:
    phi = problem.centered(state, factors.features)
    values, vectors = np.linalg.eigh((phi * state.weights) @ phi.T * state.total)
    half = vectors * np.sqrt(np.maximum(values, 0.0))
    spectrum, modes = np.linalg.eigh(half.T @ (factors.signs[:, None] * half))
    if spectrum.size == 0 or spectrum[0] >= 0:
        return 1.0, np.zeros(problem.size)
    return 1.0 + problem.beta * float(spectrum[0]), (factors.signs * (half @ modes[:, 0])) @ phi


def default_starts(problem: GibbsProblem, factors: Factors | None) -> list[np.ndarray]:
    """Return the q of laws from which stationary states of a nonconvex F are searched for.

    The law of the potential, alone and tilted along the leading features of the interaction; the reference
    measure; and lumps at a lattice of places.
    """
    grid = problem.on_grid.grid
    alone, flat = problem.gibbs(problem.potential), problem.gibbs(np.zeros(problem.size))
    starts = [alone, flat]
    if factors is not None:
        weights = problem.law(alone).masses / problem.mass
        for k in np.argsort(-np.abs(factors.signs))[:TILTS]:
            f = factors.features[k]
            variance = float((weights * (f - (weights * f).sum()) ** 2).sum())
            if variance > 0:
                starts += [alone + side * f / math.sqrt(variance) for side in (TILT, -TILT)]
    places = 3 if grid.ndim <= 2 else 2
    for index in itertools.product(range(places), repeat=grid.ndim):
        lump = np.zeros(grid.shape)
        for axis, k in enumerate(index):
            (lo, hi), shape = grid.bounds[axis], (-1,) + (1,) * (grid.ndim - 1 - axis)
            z = (grid.centers[axis] - lo) / (hi - lo) - (k + 0.5) / places
            z = z - np.round(z) if grid.periodic[axis] else z
            lump = lump - (0.5 * (3 * places * z) ** 2).reshape(shape)
        starts.append(flat + lump.ravel())
    return starts
