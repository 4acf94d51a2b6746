"""Referees beyond the usual SciPy recipes: ADI, Runge-Kutta-Chebyshev, the rational exponential, extrapolation.

Same discretization and calling rule as referees.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import scipy.sparse as sp
from problems import Problem
from referees import (
    Array,
    Cells,
    Convolution,
    TridiagonalFactor,
    generator,
    spacings,
    tridiagonal,
)
from scipy.linalg import hankel, lapack
from scipy.sparse.linalg import splu

# --- alternating directions -------------------------------------------------------------------------------------------


def adi(problem: Problem, cells: Cells, *, steps: int, scheme: str) -> Array:
    """Solve by Peaceman-Rachford ADI, order 2: LAPACK tridiagonal solves of all lines at once.

    Linear problems factor each direction once, and no product with L is formed: (I + s L) v = 2 v - (I - s L) v, and
    the last bracket is the right-hand side just solved for.
    """
    if problem.interaction is not None:
        return _adi_nonlocal(problem, cells, steps, scheme)
    potential = problem.potential(*problem.mesh(cells))
    h, half = spacings(problem, cells), problem.t_end / steps / 2
    bands_y = tridiagonal(potential, 1, h[1], problem.beta, scheme)
    solve_x = TridiagonalFactor(tridiagonal(potential, 0, h[0], problem.beta, scheme), half)
    solve_y = TridiagonalFactor(bands_y, half)
    rho = problem.start(cells)
    right = rho + half * _banded_product(bands_y, rho)
    for _ in range(steps):
        right_x = np.ascontiguousarray(right.T)
        middle = solve_x(right_x.copy())
        middle *= 2
        middle -= right_x
        right_y = np.ascontiguousarray(middle.T)
        rho = solve_y(right_y.copy())
        right = 2 * rho - right_y
    return rho


def _banded_product(bands: tuple[Array, Array, Array], values: Array) -> Array:
    lower, main, upper = bands
    flat = values.ravel()
    out = main * flat
    out[1:] += lower * flat[:-1]
    out[:-1] += upper * flat[1:]
    return out.reshape(values.shape)


def _adi_nonlocal(problem: Problem, cells: Cells, steps: int, scheme: str) -> Array:
    """Solve by Peaceman-Rachford ADI with the potential extrapolated to mid-step: one convolution a step."""
    potential, convolve = problem.potential(*problem.mesh(cells)), Convolution(problem, cells)
    h, half = spacings(problem, cells), problem.t_end / steps / 2
    rho = problem.start(cells)

    def step(rho: Array, psi: Array, half: float) -> Array:
        bands_y = tridiagonal(psi, 1, h[1], problem.beta, scheme)
        right = np.ascontiguousarray((rho + half * _banded_product(bands_y, rho)).T)
        middle = TridiagonalFactor(tridiagonal(psi, 0, h[0], problem.beta, scheme), half)(right.copy())
        middle *= 2
        middle -= right
        return TridiagonalFactor(bands_y, half)(np.ascontiguousarray(middle.T))

    old = potential + convolve(rho)
    now = old
    halfway = potential + convolve(step(rho, old, half / 2))
    rho = step(rho, halfway, half)
    for _ in range(steps - 1):
        old, now = now, potential + convolve(rho)
        rho = step(rho, 1.5 * now - 0.5 * old, half)
    return rho


# --- stabilized explicit ----------------------------------------------------------------------------------------------


def rkc(problem: Problem, cells: Cells, *, steps: int, scheme: str, damping: float = 10.0) -> Array:
    """Solve by second-order Runge-Kutta-Chebyshev (Sommeijer-Shampine-Verwer 1998), sparse products only.

    Stages from Gershgorin's bound.  The usual damping, 2/13, blows up here (errors of 1e2 at 256^2): the corners of the
    box are drift-dominated, the generator is far from normal there, and the stability region must be wide as well as
    long.  Damping 10 costs 40 % more stages and is stable.
    Nonlocal problems freeze the potential, extrapolated to the middle of the step.
    """
    dt = problem.t_end / steps
    potential = problem.potential(*problem.mesh(cells))
    rho = problem.start(cells).ravel()
    if problem.interaction is None:
        matrix = dt * generator(problem, cells, potential, scheme)
        tables = _rkc_tables(2.04 * np.abs(matrix.diagonal()).max(), damping)
        for _ in range(steps):
            rho = _rkc_step(matrix, rho, tables)
        return rho.reshape(cells)
    convolve = Convolution(problem, cells)
    old = potential + convolve(rho.reshape(cells))
    now = old
    matrix = generator(problem, cells, old, scheme)
    tables = _rkc_tables(2.2 * dt * np.abs(matrix.diagonal()).max(), damping)  # 10 % for the change of psi
    half = _rkc_step(dt / 2 * matrix, rho, tables)
    middle = potential + convolve(half.reshape(cells))
    for _ in range(steps):
        rho = _rkc_step(dt * generator(problem, cells, middle, scheme), rho, tables)
        old, now = now, potential + convolve(rho.reshape(cells))
        middle = 1.5 * now - 0.5 * old
    return rho.reshape(cells)


def _rkc_tables(reach: float, damping: float) -> list[tuple[float, float, float, float]]:
    """Return the coefficients of the fewest stages whose stability interval covers [-reach, 0]."""
    stages = 2
    while (table := _rkc_coefficients(stages, damping))[0] < reach:
        stages += 1
    return table[1]


def _rkc_coefficients(s: int, damping: float) -> tuple[float, list[tuple[float, float, float, float]]]:
    """Return the length of the stability interval, and (mu, nu, mu~, gamma~) of the stages 1..s."""
    w0 = 1 + damping / s**2
    t, d, dd = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, s + 1):
        dd.append(4 * d[-1] + 2 * w0 * dd[-1] - dd[-2])
        d.append(2 * t[-1] + 2 * w0 * d[-1] - d[-2])
        t.append(2 * w0 * t[-1] - t[-2])
    w1 = d[s] / dd[s]
    b = [0.0, 0.0] + [dd[j] / d[j] ** 2 for j in range(2, s + 1)]
    b[0] = b[1] = b[2]
    table = [(0.0, 0.0, b[1] * w1, 0.0)]
    for j in range(2, s + 1):
        shift = 2 * b[j] * w1 / b[j - 1]
        table.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], shift, -(1 - b[j - 1] * t[j - 1]) * shift))
    return (w0 + 1) / w1, table


def _rkc_step(matrix: sp.csr_array, rho: Array, table: list[tuple[float, float, float, float]]) -> Array:
    slope = matrix @ rho
    before, now = rho, rho + table[0][2] * slope
    for mu, nu, mu_rate, gamma in table[1:]:
        new = matrix @ now
        new *= mu_rate
        new += mu * now
        new += nu * before
        new += (1 - mu - nu) * rho
        new += gamma * slope
        before, now = now, new
    return now


# --- the rational exponential -----------------------------------------------------------------------------------------


@cache
def exponential_poles(n: int) -> tuple[Array, Array, float]:
    """Return poles z_k, residues c_k and limit r of the near-best exp(x) ~ r + sum c_k / (x - z_k) on x <= 0.

    Caratheodory-Fejer (Trefethen, Weideman & Schmelzer, BIT 46, 2006, section 4); error about 9.3^-n.
    """
    kept, samples, scale = 75, 1024, 9.0
    w = np.exp(2j * np.pi * np.arange(samples) / samples)
    c = np.fft.fft(np.exp(scale * (w.real - 1) / (w.real + 1 + 1e-16))).real / samples
    u, s, vh = np.linalg.svd(hankel(c[1 : kept + 1]))
    pad = np.zeros(samples - kept)
    blaschke = np.fft.fft(np.concatenate([u[::-1, n], pad])) / np.fft.fft(np.concatenate([vh[n], pad]))
    values = np.polyval(c[kept::-1], w) - s[n] * w**kept * blaschke
    roots = np.roots(vh[n])
    q = roots[np.abs(roots) > 1]
    top = np.fft.fft(values * np.polyval(np.poly(q), w)).real[n::-1] / samples
    residues = np.array([np.polyval(top, p) / np.prod(p - np.delete(q, k)) for k, p in enumerate(q)])
    poles = scale * (q - 1) ** 2 / (q + 1) ** 2
    residues = 4 * residues * poles / (q**2 - 1)
    return poles, residues, float((1 + (residues / poles).sum()).real)


def rational(problem: Problem, cells: Cells, *, poles: int, scheme: str) -> Array:
    """Return rho(t_end) = exp(t_end L) rho(0) in one step: ``poles / 2`` complex solves, no path in between."""
    matrix = generator(problem, cells, problem.potential(*problem.mesh(cells)), scheme) * problem.t_end
    start = problem.start(cells).ravel()
    z, c, limit = exponential_poles(poles)
    rho = limit * start
    for pole, residue in zip(z, c):
        if pole.imag <= 1e-12:
            continue
        if problem.ndim == 1:
            main = matrix.diagonal(0) - pole
            solution = lapack.zgtsv(matrix.diagonal(-1), main, matrix.diagonal(1), start)[3]
        else:
            system = (matrix - pole * sp.eye_array(start.size)).tocsc()
            factor = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
            solution = factor.solve(start.astype(complex))
        rho = rho + 2 * (residue * solution).real
    return rho.reshape(cells)


# --- extrapolation to order 4 -----------------------------------------------------------------------------------------


def extrapolated(run: Callable[..., Array]) -> Callable[..., Array]:
    """Return Richardson's extrapolation of a method of second order: (4 fine - coarse) / 3.

    The fine run has half the width of the cells and half the step, so that both leading errors go. It is what anyone
    can do with a code that is at hand; it keeps mass, but not signs.
    """

    def both(problem: Problem, cells: Cells, **knobs) -> Array:
        twice = {**knobs, "steps": 2 * knobs["steps"]} if "steps" in knobs else knobs
        coarse = run(problem, cells, **knobs)
        fine = run(problem, tuple(2 * n for n in cells), **twice)
        for axis in range(problem.ndim):
            pairs = fine.reshape(*fine.shape[:axis], cells[axis], 2, *fine.shape[axis + 1 :])
            fine = pairs.mean(axis=axis + 1)
        return (4 * fine - coarse) / 3

    return both
