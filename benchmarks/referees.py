"""Solvers of the benchmark problems with SciPy, as fast as we can write them.

All referees share one no-flux cell-centered discretization: with q = beta (Psi_{i+1} - Psi_i),

    F_{i+1/2} = (1 / (beta h)) [ b(q) rho_i - b(-q) rho_{i+1} ],   b(q) = q / (e^q - 1)   "sg" (Scharfetter-Gummel)
                                                                   b(q) = 1 - q / 2       "central"

and differ in how d rho/dt = L(Psi) rho is stepped.  A referee is called as ``referee(problem, cells, **knobs)`` and
returns the cell averages at ``problem.t_end``; everything it needs (matrix, factorization, kernel transform) is inside
the call, hence inside the time.  ``tier`` says how it is counted in the verdicts of speed.py:

* ``"named"`` (this file): LSODA / BDF with banded or sparse Jacobian, TR-BDF2 and semi-implicit BDF2 with one sparse
  factorization;
* ``"specialist"`` (specialists.py): methods that a numerical analyst would write for these problems: ADI on LAPACK
  tridiagonals, stabilized explicit Runge-Kutta-Chebyshev;
* ``"one-shot"`` (specialists.py): rational exponential: linear autonomous problems only, and the end time only;
* ``"fipy"`` (fipy_referee.py).

The interaction is a product with one matrix along each axis where the kernel is a product of functions of one
coordinate, as wgflow takes it, and a zero-padded FFT convolution elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.sparse as sp
from problems import Problem
from scipy.integrate import BDF, odeint, solve_ivp
from scipy.linalg import lapack
from scipy.sparse.linalg import splu

Array = np.ndarray
Cells = tuple[int, ...]


# --- the common discretization ----------------------------------------------------------------------------------------


def face_rates(psi: Array, axis: int, h: float, beta: float, scheme: str) -> tuple[Array, Array]:
    """Return the rates out of the lower and of the upper cell of each inner face along ``axis`` (the flux over h)."""
    q = beta * np.diff(psi, axis=axis)
    if scheme == "central":
        forward, backward = 1 - q / 2, 1 + q / 2
    else:
        q = np.where(np.abs(q) < 1e-9, 1e-9, q)  # b(1e-9) = 1 - 5e-10: far below the scheme's own error
        forward = q / np.expm1(q)
        backward = forward + q
    scale = 1 / (beta * h**2)
    forward *= scale
    backward *= scale
    return forward, backward


def tridiagonal(psi: Array, axis: int, h: float, beta: float, scheme: str) -> tuple[Array, Array, Array]:
    """Lower, main and upper diagonal of L_axis on the flattened array whose last axis is ``axis``."""
    psi = np.moveaxis(psi, axis, -1)
    forward, backward = face_rates(psi, -1, h, beta, scheme)
    lower, main, upper = np.zeros(psi.shape), np.zeros(psi.shape), np.zeros(psi.shape)
    lower[..., :-1] = forward
    upper[..., :-1] = backward
    main[..., :-1] -= forward
    main[..., 1:] -= backward
    return lower.ravel()[:-1], main.ravel(), upper.ravel()[:-1]


def spacings(problem: Problem, cells: Cells) -> list[float]:
    return [(hi - lo) / n for (lo, hi), n in zip(problem.bounds, cells, strict=True)]


def generator(problem: Problem, cells: Cells, psi: Array, scheme: str) -> sp.csr_array:
    """Return the sparse matrix L(psi), C order, on any number of axes."""
    main, bands, offsets = np.zeros(cells), [], []
    for axis, h in enumerate(spacings(problem, cells)):
        forward, backward = face_rates(psi, axis, h, problem.beta, scheme)
        lower = tuple(slice(None, -1) if a == axis else slice(None) for a in range(problem.ndim))
        upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(problem.ndim))
        main[lower] -= forward
        main[upper] -= backward
        stride = int(np.prod(cells[axis + 1 :]))
        for rates, offset in ((forward, -stride), (backward, stride)):
            band = np.zeros(cells)
            band[lower] = rates
            bands.append(band.ravel()[:-stride])
            offsets.append(offset)
    return sp.diags_array([main.ravel(), *bands], offsets=[0, *offsets]).tocsr()


class Convolution:
    """w * rho on the grid: a matrix along each axis if w is a product of functions of one coordinate, else by FFTs.

    These are padded to twice the length, without transforming the rows known to be zero.
    """

    def __init__(self, problem: Problem, cells: Cells):
        self.cells = cells
        self.padded = tuple(scipy.fft.next_fast_len(2 * n, real=True) for n in cells)
        shifts = [
            h * (np.arange(m) - m * (np.arange(m) >= m - n))
            for h, m, n in zip(spacings(problem, cells), self.padded, cells)
        ]
        kernel = problem.interaction(*np.meshgrid(*shifts, indexing="ij")) * problem.cell_volume(cells)
        self.factors: tuple[Array, Array] | None = None
        column, row = kernel[:, 0], kernel[0] / kernel[0, 0]
        if np.abs(kernel - np.outer(column, row)).max() <= 1e-14 * np.abs(kernel).max():
            places = [np.subtract.outer(np.arange(n), np.arange(n)) for n in cells]
            self.factors = column[places[0]], row[places[1]].T
        else:
            self.kernel = scipy.fft.rfftn(kernel)

    def __call__(self, rho: Array) -> Array:
        if self.factors is not None:
            return self.factors[0] @ rho @ self.factors[1]
        (n, m), (big_n, big_m) = self.cells, self.padded
        spectrum = scipy.fft.fft(scipy.fft.rfft(rho, big_m, axis=1), big_n, axis=0)
        spectrum *= self.kernel
        rows = scipy.fft.ifft(spectrum, axis=0, overwrite_x=True)[:n]
        return scipy.fft.irfft(rows, big_m, axis=1)[:, :m]


class FluxDivergence:
    """rho -> L(psi) rho without a matrix, for a potential that changes at every call (2-D)."""

    def __init__(self, problem: Problem, cells: Cells, scheme: str):
        self.beta, self.h, self.scheme = problem.beta, spacings(problem, cells), scheme

    def __call__(self, psi: Array, rho: Array) -> Array:
        out = np.zeros_like(rho)
        for axis, h in enumerate(self.h):
            forward, backward = face_rates(psi, axis, h, self.beta, self.scheme)
            lower = tuple(slice(None, -1) if a == axis else slice(None) for a in range(2))
            upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(2))
            forward *= rho[lower]
            backward *= rho[upper]
            forward -= backward
            out[lower] -= forward
            out[upper] += forward
        return out


class TridiagonalFactor:
    """LU of I - s L_axis for all lines of the grid at once (LAPACK gttrf on the concatenated lines)."""

    def __init__(self, bands: tuple[Array, Array, Array], s: float):
        lower, main, upper = bands
        self.factor = lapack.dgttrf(-s * lower, 1 - s * main, -s * upper)[:-1]

    def __call__(self, b: Array) -> Array:
        """Solve in place of ``b`` (C-contiguous, the factor's axis last)."""
        return lapack.dgttrs(*self.factor, b.reshape(-1, 1), overwrite_b=True)[0].reshape(b.shape)


# --- named: solve_ivp and TR-BDF2 -------------------------------------------------------------------------------------


def lsoda(problem: Problem, cells: Cells, *, rtol: float, scheme: str, driver: str = "odeint") -> Array:
    """Solve by LSODA, banded Jacobian given; ``odeint`` runs the same Fortran without solve_ivp's loop over steps."""
    start = problem.start(cells).ravel()
    matrix = generator(problem, cells, problem.potential(*problem.mesh(cells)), scheme)
    band = 1 if problem.ndim == 1 else cells[1]
    diagonals = [matrix.diagonal(k) for k in range(band, -band - 1, -1)]
    packed = np.zeros((2 * band + 1, start.size))
    for row, (k, values) in enumerate(zip(range(band, -band - 1, -1), diagonals)):
        packed[row, max(k, 0) : start.size + min(k, 0)] = values
    atol = rtol * start.max() * 1e-2
    if driver == "solve_ivp":
        run = solve_ivp(
            lambda t, y: matrix @ y, (0, problem.t_end), start, "LSODA", [problem.t_end], rtol=rtol, atol=atol,
            lband=band, uband=band, jac=lambda t, y: packed,
        )  # fmt: skip
        return run.y[:, -1].reshape(cells)
    out = odeint(
        lambda y, t: matrix @ y, start, [0, problem.t_end], Dfun=lambda y, t: packed, ml=band, mu=band, rtol=rtol,
        atol=atol, mxstep=100000,
    )  # fmt: skip
    return out[-1].reshape(cells)


class SymmetricBDF(BDF):
    """SciPy's BDF with the elimination ordering that suits 5-point matrices (its own default is COLAMD)."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.lu = _factor


def _factor(system: sp.csc_array):
    return splu(
        sp.csc_array(system), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def bdf(problem: Problem, cells: Cells, *, rtol: float, scheme: str) -> Array:
    """Solve by solve_ivp's BDF with the sparse Jacobian; nonlocal: its local part L(Psi), renewed when BDF asks."""
    start = problem.start(cells)
    potential = problem.potential(*problem.mesh(cells))
    options = {"rtol": rtol, "atol": rtol * start.max() * 1e-2, "t_eval": [problem.t_end]}
    if problem.interaction is None:
        matrix = generator(problem, cells, potential, scheme)
        run = solve_ivp(
            lambda t, y: matrix @ y, (0, problem.t_end), start.ravel(), SymmetricBDF, jac=matrix.tocsc(), **options
        )
        return run.y[:, -1].reshape(cells)
    convolve, divergence = Convolution(problem, cells), FluxDivergence(problem, cells, scheme)

    def rate(_t: float, y: Array) -> Array:
        rho = y.reshape(cells)
        return divergence(potential + convolve(rho), rho).ravel()

    def jacobian(_t: float, y: Array) -> sp.csc_array:
        return generator(problem, cells, potential + convolve(y.reshape(cells)), scheme).tocsc()

    run = solve_ivp(rate, (0, problem.t_end), start.ravel(), SymmetricBDF, jac=jacobian, **options)
    return run.y[:, -1].reshape(cells)


GAMMA = 2 - np.sqrt(2)


def _implicit_solver(matrix: sp.csr_array, s: float, ndim: int) -> Callable[[Array], Array]:
    """Return the map b -> (I - s L)^-1 b with one factorization."""
    if ndim == 1:
        return TridiagonalFactor((matrix.diagonal(-1), matrix.diagonal(0), matrix.diagonal(1)), s)
    return _factor(sp.eye_array(matrix.shape[0]) - s * matrix).solve


def tr_bdf2(problem: Problem, cells: Cells, *, steps: int, scheme: str) -> Array:
    """Solve by TR-BDF2, step fixed, one factorization: both stages share I - (gamma/2) dt L, gamma = 2 - sqrt 2.

    The trapezoidal stage needs no product with L: dt L rho comes back from the previous solve.
    """
    if problem.interaction is not None:
        return _imex_tr_bdf2(problem, cells, steps, scheme)
    matrix = generator(problem, cells, problem.potential(*problem.mesh(cells)), scheme)
    dt = problem.t_end / steps
    solve = _implicit_solver(matrix, GAMMA / 2 * dt, problem.ndim)
    new, old = 1 / (GAMMA * (2 - GAMMA)), (1 - GAMMA) ** 2 / (GAMMA * (2 - GAMMA))
    rho = problem.start(cells).ravel()
    slope = (GAMMA / 2 * dt) * (matrix @ rho)
    for _ in range(steps):
        middle = solve(rho + slope)
        right = new * middle - old * rho
        rho = solve(right.copy())
        slope = rho - right
    return rho.reshape(cells)


def _imex_tr_bdf2(problem: Problem, cells: Cells, steps: int, scheme: str) -> Array:
    """Solve by TR-BDF2 for the linear part, its explicit companion (Giraldo et al. 2013) for L(Psi) - L(V)."""
    potential = problem.potential(*problem.mesh(cells))
    convolve, divergence = Convolution(problem, cells), FluxDivergence(problem, cells, scheme)
    matrix = generator(problem, cells, potential, scheme)
    dt = problem.t_end / steps
    solve = _implicit_solver(matrix, GAMMA / 2 * dt, 2)
    a32, b1 = (3 + 2 * np.sqrt(2)) / 6, 1 / (2 * np.sqrt(2))
    rho = problem.start(cells).ravel()

    def pull(y: Array, linear: Array) -> Array:
        square = y.reshape(cells)
        return divergence(potential + convolve(square), square).ravel() - linear

    for _ in range(steps):
        linear1 = matrix @ rho
        pull1 = pull(rho, linear1)
        y2 = solve(rho + dt * (GAMMA / 2 * linear1 + GAMMA * pull1))
        linear2 = matrix @ y2
        pull2 = pull(y2, linear2)
        right = rho + dt * (b1 * (linear1 + linear2) + (1 - a32) * pull1 + a32 * pull2)
        y3 = solve(right)
        rho = y3 + dt * ((b1 - (1 - a32)) * pull1 + (b1 - a32) * pull2 + GAMMA / 2 * pull(y3, matrix @ y3))
    return rho.reshape(cells)


def sbdf2(problem: Problem, cells: Cells, *, steps: int, scheme: str) -> Array:
    """Solve by semi-implicit BDF2 (SBDF2): linear part implicit with one factorization, interaction extrapolated.

    One convolution and one solve a step.  The first step is a theta = 2/3 step.
    """
    potential = problem.potential(*problem.mesh(cells))
    convolve, divergence = Convolution(problem, cells), FluxDivergence(problem, cells, scheme)
    matrix = generator(problem, cells, potential, scheme)
    dt = problem.t_end / steps
    solve = _implicit_solver(matrix, 2 / 3 * dt, 2)

    def pull(y: Array) -> Array:
        square = y.reshape(cells)
        return divergence(potential + convolve(square), square).ravel() - matrix @ y

    old = problem.start(cells).ravel()
    old_pull = pull(old)
    # theta = 2/3 shares the factor; its local error, O(dt^2) once, keeps the global order
    first = solve(old + dt * (matrix @ old / 3 + old_pull))
    first_pull = pull(first)
    rho = solve(old + dt * (matrix @ old / 3 + (old_pull + first_pull) / 2))
    for _ in range(steps - 1):
        new_pull = pull(rho)
        rho, old = solve(4 / 3 * rho - old / 3 + 2 / 3 * dt * (2 * new_pull - old_pull)), rho
        old_pull = new_pull
    return rho.reshape(cells)
