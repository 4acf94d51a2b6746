"""Spectral methods: what an expert would write for a problem known to be smooth, on a box known to hold the law.

Calling rule of referees.py, with knobs of their own: ``modes`` an axis and ``reach``, half the width of the box on
which they work, which may be smaller than the problem's.  Both are tuned against the reference like every other knob.
All is inside the time: nodes, quadrature, matrices, exponentials, and the exact integrals over the cells in which the
result is handed over.  None keeps signs or knows an energy; all need the gradient of V as a function.

* **Legendre-Galerkin** (1-D): weak form, natural no-flux ends, one dense matrix exponential for the whole time.
* **Fourier expm** (1-D): collocation on the box taken as periodic (the law vanishes at its ends), one exponential.
* **ETD-RK4** (several axes): Fourier collocation, the exponential Runge-Kutta method of Cox and Matthews (2002) with
  the coefficients of Kassam and Trefethen (2005); diffusion is exact.
* **Lawson-RK4** (several axes): V(x) = sum of its restrictions to the axes + a remainder.  The generator of the sum is
  a sum of one-dimensional ones, whose dense exponentials are formed once (one an axis); the remainder and the
  interaction are left to RK4 in the moving frame.  Good as long as the remainder is mild.

``cap`` bounds the slopes that are treated explicitly, smoothly: far out, where no mass is, they would cut the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
from problems import Array, Problem
from scipy.linalg import expm

Cells = tuple[int, ...]

# --- Fourier collocation: nodes, derivatives, cell averages -----------------------------------------------------------


def nodes(problem: Problem, axis: int, modes: int, reach: float) -> Array:
    """Return the equidistant nodes of an axis: the box of half width ``reach`` about the problem's center."""
    return sum(problem.bounds[axis]) / 2 - reach + 2 * reach / modes * np.arange(modes)


def derivatives(modes: int, reach: float) -> tuple[Array, Array]:
    """Return the dense matrices of the first and second derivative on periodic nodes (``modes`` even)."""
    k = np.pi / reach * np.fft.fftfreq(modes, 1 / modes)
    odd = 1j * k
    odd[modes // 2] = 0
    turn = (np.arange(modes)[:, None] - np.arange(modes)) % modes
    return np.fft.ifft(odd).real[turn], np.fft.ifft(-(k**2)).real[turn]


def averages(problem: Problem, axis: int, edges: Array, modes: int, reach: float) -> Array:
    """Return the matrix from values at the nodes to exact averages of their series over cells; 0 beyond the box."""
    k = np.pi / reach * np.arange(1, modes // 2)
    inside = np.clip(edges - sum(problem.bounds[axis]) / 2, -reach, reach) + reach
    primitive = np.empty((edges.size, 2 * k.size + 1))
    primitive[:, 0] = inside / modes
    primitive[:, 1 : k.size + 1] = np.sin(np.outer(inside, k)) / (k * modes / 2)
    primitive[:, k.size + 1 :] = (1 - np.cos(np.outer(inside, k))) / (k * modes / 2)
    phases = np.pi / reach * np.outer(np.arange(1, modes // 2), 2 * reach / modes * np.arange(modes))
    transform = np.concatenate([np.ones((1, modes)), np.cos(phases), np.sin(phases)])
    return np.diff(primitive, axis=0) / np.diff(edges)[:, None] @ transform


def start(problem: Problem, x: list[Array]) -> Array:
    """Return the Gaussian start at the nodes."""
    values = np.ones(())
    for points, mean, std in zip(x, problem.mean, problem.std, strict=True):
        values = np.multiply.outer(
            values, np.exp(-((points - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
        )
    return values


def along(matrix: Array, values: Array, axis: int) -> Array:
    """Apply a matrix to an array along one axis."""
    if axis == values.ndim - 1:
        return values @ matrix.T
    if axis == 0:
        return (matrix @ values.reshape(values.shape[0], -1)).reshape(matrix.shape[:1] + values.shape[1:])
    return np.matmul(matrix, values) if axis == values.ndim - 2 else np.moveaxis(
        np.tensordot(matrix, values, (1, axis)), 0, axis
    )


def to_cells(problem: Problem, values: Array, cells: Cells, modes: int, reach: float) -> Array:
    """Return the cell averages of values at the nodes, on any grid."""
    for axis, edges in enumerate(problem.edges(cells)):
        values = along(averages(problem, axis, edges, modes, reach), values, axis)
    return values


def capped(slopes: Sequence[Array], cap: float | None) -> list[Array]:
    """Return slopes bent smoothly to stay below a bound."""
    return list(slopes) if cap is None else [g / (1 + (g / cap) ** 8) ** 0.125 for g in slopes]


def kernels(problem: Problem, modes: int, reach: float) -> list[Array] | None:
    """Return the transforms of the interaction's slopes, periodic without padding; None without an interaction.

    Twice the box would hold all distances; the law is so small near its ends that the images do not count.
    """
    if problem.interaction_gradient is None:
        return None
    width = 2 * reach / modes
    shift = width * ((np.arange(modes) + modes // 2) % modes - modes // 2)
    mesh = np.meshgrid(*[shift] * problem.ndim, indexing="ij")
    return [scipy.fft.rfftn(part) * width**problem.ndim for part in problem.interaction_gradient(*mesh)]


# --- one axis: one matrix exponential ---------------------------------------------------------------------------------


def legendre(problem: Problem, cells: Cells, *, modes: int, reach: float) -> Array:
    """Solve by Legendre-Galerkin and one dense exponential (linear problems on one axis)."""
    middle = sum(problem.bounds[0]) / 2
    node, weight = np.polynomial.legendre.leggauss(modes + 8)
    x = middle + reach * node
    norm = np.sqrt((2 * np.arange(modes) + 1) / (2 * reach))
    basis = np.polynomial.legendre.legvander(node, modes - 1)
    # P'_n = (2n - 1) P_{n-1} + P'_{n-2}
    slope = np.zeros_like(basis)
    for n in range(1, modes):
        slope[:, n] = (2 * n - 1) * basis[:, n - 1] + (slope[:, n - 2] if n > 1 else 0)
    basis *= norm
    slope *= norm / reach
    mass = reach * weight[:, None]
    generator = -(slope.T @ (mass * (slope / problem.beta + problem.gradient(x)[0][:, None] * basis)))
    end = (expm(problem.t_end * generator) @ (basis.T @ (mass[:, 0] * start(problem, [x])))) * norm
    edges = problem.edges(cells)[0]
    primitive = np.polynomial.legendre.legint(end, lbnd=-1)
    inside = np.clip((edges - middle) / reach, -1, 1)
    return reach * np.diff(np.polynomial.legendre.legval(inside, primitive)) / np.diff(edges)


def fourier(problem: Problem, cells: Cells, *, modes: int, reach: float) -> Array:
    """Solve by Fourier collocation and one dense exponential (linear problems on one axis)."""
    x = nodes(problem, 0, modes, reach)
    first, second = derivatives(modes, reach)
    end = expm(problem.t_end * (second / problem.beta + first * problem.gradient(x)[0])) @ start(problem, [x])
    return to_cells(problem, end, cells, modes, reach)


# --- several axes -----------------------------------------------------------------------------------------------------


def lawson(
    problem: Problem, cells: Cells, *, modes: int, reach: float, steps: int, cap: float | None = None
) -> Array:
    """Solve by Lawson-RK4: exact exponentials of the separable part, RK4 for the rest."""
    ndim, dt = problem.ndim, problem.t_end / steps
    x = [nodes(problem, axis, modes, reach) for axis in range(ndim)]
    first, second = derivatives(modes, reach)
    rest = list(problem.gradient(*np.meshgrid(*x, indexing="ij")))
    halves = []
    for axis in range(ndim):
        on_axis = [x[axis] if a == axis else np.zeros(modes) for a in range(ndim)]
        slope = problem.gradient(*on_axis)[axis]
        halves.append(expm(dt / 2 * (second / problem.beta + first * slope)))
        rest[axis] = rest[axis] - slope.reshape([-1 if a == axis else 1 for a in range(ndim)])
    rest = capped(rest, cap)
    pulls = kernels(problem, modes, reach)
    shape = (modes,) * ndim

    def half(values: Array) -> Array:
        for axis in range(ndim):
            values = along(halves[axis], values, axis)
        return values

    def rate(values: Array) -> Array:
        slopes = rest
        if pulls is not None:
            transform = scipy.fft.rfftn(values)
            slopes = [r + scipy.fft.irfftn(k * transform, s=shape) for r, k in zip(rest, pulls, strict=True)]
        return sum(along(first, slope * values, axis) for axis, slope in enumerate(slopes))

    return to_cells(problem, lawson_steps(start(problem, x), half, rate, steps, dt), cells, modes, reach)


def lawson_steps(
    values: Array, half: Callable[[Array], Array], rate: Callable[[Array], Array], steps: int, dt: float
) -> Array:
    """Return the values after ``steps`` steps of RK4 in the frame that ``half`` moves by dt/2."""
    for _ in range(steps):
        k1 = half(rate(values))
        moved = half(values)
        k2 = rate(moved + dt / 2 * k1)
        k3 = rate(moved + dt / 2 * k2)
        k4 = rate(half(moved + dt * k3))
        values = half(moved + dt / 6 * k1 + dt / 3 * (k2 + k3)) + dt / 6 * k4
    return values


def etd(problem: Problem, cells: Cells, *, modes: int, reach: float, steps: int, cap: float) -> Array:
    """Solve by Fourier collocation and ETD-RK4 (several axes)."""
    ndim, dt, shape = problem.ndim, problem.t_end / steps, (modes,) * problem.ndim
    x = [nodes(problem, axis, modes, reach) for axis in range(ndim)]
    k = np.pi / reach * scipy.fft.fftfreq(modes, 1 / modes)
    waves = np.meshgrid(*[k] * (ndim - 1), np.pi / reach * scipy.fft.rfftfreq(modes, 1 / modes), indexing="ij")
    whole, half, q, f1, f2, f3 = _etd_tables(-dt / problem.beta * sum(w**2 for w in waves), dt)
    slopes = capped(problem.gradient(*np.meshgrid(*x, indexing="ij")), cap)
    pulls = kernels(problem, modes, reach)

    def rate(transform: Array) -> Array:
        values, drift = scipy.fft.irfftn(transform, s=shape), slopes
        if pulls is not None:
            drift = [g + scipy.fft.irfftn(p * transform, s=shape) for g, p in zip(slopes, pulls, strict=True)]
        return sum(1j * w * scipy.fft.rfftn(g * values) for w, g in zip(waves, drift, strict=True))

    v = scipy.fft.rfftn(start(problem, x))
    for _ in range(steps):
        n1, moved = rate(v), half * v
        a = moved + q * n1
        n2 = rate(a)
        n3 = rate(moved + q * n2)
        n4 = rate(half * a + q * (2 * n3 - n1))
        v = whole * v + f1 * n1 + 2 * f2 * (n2 + n3) + f3 * n4
    return to_cells(problem, scipy.fft.irfftn(v, s=shape), cells, modes, reach)


def _etd_tables(z: Array, dt: float) -> tuple[Array, ...]:
    """Return exp(z), exp(z/2) and the four coefficients of ETD-RK4, as means over a circle about z."""
    distinct, where = np.unique(z, return_inverse=True)
    r = distinct[:, None] + np.exp(1j * np.pi * (np.arange(16) + 0.5) / 16)
    e = np.exp(r)
    means = (
        (np.exp(r / 2) - 1) / r,
        (-4 - r + e * (4 - 3 * r + r**2)) / r**3,
        (2 + r + e * (r - 2)) / r**3,
        (-4 - 3 * r - r**2 + e * (4 - r)) / r**3,
    )
    tables = [dt * mean.mean(axis=-1).real for mean in means]
    return tuple(table[where].reshape(z.shape) for table in (np.exp(distinct), np.exp(distinct / 2), *tables))
