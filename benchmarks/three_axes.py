"""A linear problem on three axes with an exact solution, and specialists for it.

V(x) = v_1(y_1) + v_2(y_2) + v_3(y_3) with y = R x: a double well and two parabolas of different stiffness, turned by
the rotation R against the axes of the grid, which V therefore couples in all pairs.  An isotropic Gaussian start stays
a product in y, whose factors solve three problems on one axis: the reference is as good as those, and no solver on
three axes has a part in it.

The methods follow the calling rule of referees.py:

* **Strang + CN** (specialist): Crank-Nicolson along x, y, z, y, x, two half steps and a whole one, each one LAPACK
  solve of all lines; (I + s L) v is 2 v - (I - s L) v, so that no product with L is formed.
* **Douglas** (specialist): the ADI method of Douglas, theta = 1/2, second order, three solves a step.
* **TR-BDF2** (named): the systems by BiCGStab; a sparse factorization is out of reach here (1.9 s and 16 million
  entries at 32^3, growing like the sixth power of the cells an axis).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import scipy.sparse as sp
from problems import Array, Problem, fourier_solution
from referees import GAMMA, Cells, TridiagonalFactor, generator, spacings, tridiagonal
from scipy.interpolate import CubicSpline
from scipy.sparse.linalg import bicgstab

BETA, STD, MEAN = 4.0, 0.35, (0.5, 0.6, -0.4)
ANGLES = {(0, 1): 0.5, (1, 2): 0.4}
MODES = 96  # Fourier modes an axis of the reference: its coefficients have fallen below 1e-15 there


def _rotation() -> Array:
    turn = np.eye(3)
    for (i, j), angle in ANGLES.items():
        plane = np.eye(3)
        plane[i, i] = plane[j, j] = math.cos(angle)
        plane[i, j], plane[j, i] = -math.sin(angle), math.sin(angle)
        turn = turn @ plane
    return turn


ROTATION = _rotation()


def _turned(*x: Array) -> list[Array]:
    return [sum(ROTATION[i, j] * x[j] for j in range(3)) for i in range(3)]


def _potential(*x: Array) -> Array:
    a, b, c = _turned(*x)
    return a**4 / 4 - a**2 / 2 + b**2 + 1.5 * c**2


SLOPES: tuple[Callable[[Array], Array], ...] = (lambda a: a**3 - a, lambda b: 2 * b, lambda c: 3 * c)


def _gradient(*x: Array) -> tuple[Array, ...]:
    own = [slope(y) for slope, y in zip(SLOPES, _turned(*x))]
    return tuple(sum(ROTATION[i, j] * own[i] for i in range(3)) for j in range(3))


def _factor(index: int) -> CubicSpline:
    """Return the law of y_index at ``t_end``, between -4 and 4, from the Fourier code on one axis."""
    mean, slope = float(ROTATION[index] @ np.array(MEAN)), SLOPES[index]
    problem = Problem(
        f"y{index}", ((-4.0, 4.0),), slope, lambda y: (slope(y),), BETA, (mean,), (STD,), ROTATED.t_end
    )
    coefficients, n = fourier_solution(problem, 256), 8192
    padded = np.concatenate([coefficients[:128], np.zeros(n - 256), coefficients[128:]])
    values = np.fft.ifft(padded).real * n
    return CubicSpline(np.linspace(-4, 4, n + 1), np.append(values, values[0]))


@cache
def _series() -> Array:
    """Return the Fourier coefficients of the exact solution at ``t_end``."""
    x = -4 + 8 / MODES * np.arange(MODES)
    rho = np.ones((MODES,) * 3)
    for index, y in enumerate(_turned(*np.meshgrid(x, x, x, indexing="ij"))):
        rho *= np.where(np.abs(y) < 4, _factor(index)(np.clip(y, -4, 4)), 0)
    return np.fft.fftn(rho) / MODES**3


ROTATED = Problem(
    "rotated-double-well-3d", ((-4.0, 4.0),) * 3, _potential, _gradient, BETA, MEAN, (STD,) * 3, 1.0, series=_series
)


# --- methods ----------------------------------------------------------------------------------------------------------


class _Axis:
    """L along one axis: products and solves for all lines of the grid."""

    def __init__(self, problem: Problem, cells: Cells, psi: Array, axis: int, scheme: str):
        self.axis, h = axis, spacings(problem, cells)[axis]
        self.bands = tridiagonal(psi, axis, h, problem.beta, scheme)

    def factor(self, s: float) -> TridiagonalFactor:
        return TridiagonalFactor(self.bands, s)

    def lines(self, values: Array) -> Array:
        """Return a copy with the axis last."""
        return np.array(np.moveaxis(values, self.axis, -1), order="C")

    def back(self, lines: Array) -> Array:
        return np.moveaxis(lines, -1, self.axis)

    def product(self, values: Array) -> Array:
        lower, main, upper = self.bands
        lines = self.lines(values)
        flat = lines.ravel()
        out = main * flat
        out[1:] += lower * flat[:-1]
        out[:-1] += upper * flat[1:]
        return self.back(out.reshape(lines.shape))


def strang(problem: Problem, cells: Cells, *, steps: int, scheme: str) -> Array:
    """Solve by Strang splitting with Crank-Nicolson along each axis (linear problems, several axes)."""
    psi, dt = problem.potential(*problem.mesh(cells)), problem.t_end / steps
    axes = [_Axis(problem, cells, psi, axis, scheme) for axis in range(problem.ndim)]
    # dt/2 of Crank-Nicolson over a time s: halves of the palindrome on all axes but the last
    factors = [axis.factor(dt / 4) for axis in axes[:-1]] + [axes[-1].factor(dt / 2)]
    # the first axis ends one step and begins the next: its two half steps in a row stay apart, as Crank-Nicolson needs
    order = [*range(problem.ndim), *range(problem.ndim - 2, -1, -1)]
    rho = problem.start(cells)
    for _ in range(steps):
        for k in order:
            right = axes[k].lines(rho)
            solved = factors[k](right.copy())
            solved *= 2
            solved -= right
            rho = axes[k].back(solved)
    return np.ascontiguousarray(rho)


def douglas(problem: Problem, cells: Cells, *, steps: int, scheme: str) -> Array:
    """Solve by Douglas ADI, theta = 1/2 (linear problems, several axes).

    With s = dt/2: (I - s L_x) y_1 = (I + s L_x + 2 s L_y + 2 s L_z) rho along the first axis, and
    (I - s L) y_k = y_{k-1} - s L rho along the others.
    """
    psi, dt = problem.potential(*problem.mesh(cells)), problem.t_end / steps
    axes = [_Axis(problem, cells, psi, axis, scheme) for axis in range(problem.ndim)]
    factors = [axis.factor(dt / 2) for axis in axes]
    rho = problem.start(cells)
    for _ in range(steps):
        slopes = [(dt / 2) * axis.product(rho) for axis in axes]
        stage = rho + 2 * sum(slopes)
        for axis, factor, slope in zip(axes, factors, slopes):
            stage = axis.back(factor(axis.lines(stage - slope)))
        rho = stage
    return np.ascontiguousarray(rho)


def tr_bdf2_krylov(problem: Problem, cells: Cells, *, steps: int, scheme: str) -> Array:
    """Solve by TR-BDF2 with BiCGStab, started from the stage before, preconditioned by the diagonal.

    The tolerance of the solves falls with the error of a step: 1e-4 at 10 steps.
    """
    tolerance = 1e-2 / steps**2
    matrix = generator(problem, cells, problem.potential(*problem.mesh(cells)), scheme)
    dt = problem.t_end / steps
    system = (sp.eye_array(matrix.shape[0]) - (GAMMA / 2 * dt) * matrix).tocsr()
    diagonal = sp.diags_array(1 / system.diagonal())

    def solve(right: Array, guess: Array) -> Array:
        return bicgstab(system, right, x0=guess, rtol=tolerance, atol=0.0, M=diagonal)[0]

    new, old = 1 / (GAMMA * (2 - GAMMA)), (1 - GAMMA) ** 2 / (GAMMA * (2 - GAMMA))
    rho = problem.start(cells).ravel()
    for _ in range(steps):
        middle = solve(rho + (GAMMA / 2 * dt) * (matrix @ rho), rho)
        rho = solve(new * middle - old * rho, middle)
    return rho.reshape(cells)


if __name__ == "__main__":
    grid = ((24 if "--tiny" in sys.argv[1:] else 96),) * 3
    truth = ROTATED.truth(grid)
    print(f"mass - 1: {truth.sum() * ROTATED.cell_volume(grid) - 1:.1e}, least value: {truth.min():.1e}")
    print(f"largest coefficient in the outermost shell: {np.abs(_series()[MODES // 2]).max():.1e}")
