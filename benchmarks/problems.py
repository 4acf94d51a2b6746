"""The benchmark problems and their independent references.

Every problem is the no-flux Cauchy problem

    d rho/dt = div( rho grad Psi ) + beta^-1 Laplacian rho,     Psi = V + w * rho,     rho(0) = Gaussian,

on a box at whose edges the solution stays below 1e-13.  The reference solves the same equation by a
method that shares nothing with finite volumes: Fourier collocation in space (spectrally accurate, since the density
vanishes at the edges to round-off) and the eighth-order explicit Runge-Kutta method DOP853 at relative tolerance 1e-11.
Its Fourier series is integrated exactly over the cells of any grid, so that one reference serves all resolutions.

``python benchmarks/problems.py`` shows how far each reference can be trusted (see `checks`; ``--tiny``: those on one
axis).
References are computed once and kept in ``.cache/benchmarks`` under a hash of the problem, the resolution
and the code that computes them.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import scipy.fft
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import erf

Array = np.ndarray
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"
MODES = {1: 256, 2: 160}  # Fourier modes per axis of the references
RTOL = 1e-11


@dataclass(frozen=True)
class Problem:
    """A Fokker-Planck or McKean-Vlasov problem, as plain NumPy callables.

    ``potential(*x)`` and ``interaction(*z)`` (z = x - y) are vectorized; ``gradient`` and ``interaction_gradient``
    return one array per axis, for the references and the spectral methods.  ``mean`` and ``std`` describe the
    product-Gaussian start.
    """

    name: str
    bounds: tuple[tuple[float, float], ...]
    potential: Callable[..., Array]
    gradient: Callable[..., tuple[Array, ...]]
    beta: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    t_end: float
    interaction: Callable[..., Array] | None = None
    interaction_gradient: Callable[..., tuple[Array, ...]] | None = None
    series: Callable[[], Array] | None = None  # Fourier coefficients at t_end, where they are known without a solver

    @property
    def ndim(self) -> int:
        return len(self.bounds)

    def edges(self, cells: Sequence[int]) -> list[Array]:
        """Return the cell edges of the uniform grid, one array per axis."""
        return [np.linspace(lo, hi, n + 1) for (lo, hi), n in zip(self.bounds, cells, strict=True)]

    def mesh(self, cells: Sequence[int]) -> list[Array]:
        """Return the cell centers as full arrays, ij indexing."""
        return np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in self.edges(cells)], indexing="ij")

    def cell_volume(self, cells: Sequence[int]) -> float:
        return float(np.prod([(hi - lo) / n for (lo, hi), n in zip(self.bounds, cells, strict=True)]))

    def start(self, cells: Sequence[int]) -> Array:
        """Return the exact cell averages of the Gaussian start, normalized on the box."""
        values = np.ones(())
        for edges, mean, std in zip(self.edges(cells), self.mean, self.std, strict=True):
            mass = np.diff(erf((edges - mean) / (std * np.sqrt(2)))) / 2
            values = np.multiply.outer(values, mass / mass.sum())
        return values / self.cell_volume(cells)

    def truth(self, cells: Sequence[int]) -> Array:
        """Return the cell averages at ``t_end`` from the independent reference."""
        return series_cell_averages(self, self.series() if self.series else reference(self), tuple(cells))

    def error(self, values: Array, cells: Sequence[int]) -> float:
        """Return the L1 distance of cell averages to the reference, sum_i |rho_i - rho_ref,i| |cell_i|."""
        return float(np.abs(values - _truth(self, tuple(cells))).sum() * self.cell_volume(cells))


@cache
def _truth(problem: Problem, cells: tuple[int, ...]) -> Array:
    return problem.truth(cells)


# --- the problems -----------------------------------------------------------------------------------------------------


def _well(x: Array) -> Array:
    return x**4 / 4 - x**2 / 2


def _double_well_gradient(x: Array) -> tuple[Array, ...]:
    return (x**3 - x,)


def _coupled(x: Array, y: Array) -> Array:
    return _well(x) + 2 * y**2 + x * y / 2


def _coupled_gradient(x: Array, y: Array) -> tuple[Array, ...]:
    return x**3 - x + y / 2, 4 * y + x / 2


def _mild(x: Array, y: Array) -> Array:
    return _well(x) + y**2


def _mild_gradient(x: Array, y: Array) -> tuple[Array, ...]:
    return x**3 - x, 2 * y


STRENGTH, RANGE = 1.0, 0.8  # w(z) = -STRENGTH exp(-|z|^2 / (2 RANGE^2))


def _attraction(x: Array, y: Array) -> Array:
    return -STRENGTH * np.exp(-(x**2 + y**2) / (2 * RANGE**2))


def _attraction_gradient(x: Array, y: Array) -> tuple[Array, ...]:
    pull = STRENGTH / RANGE**2 * np.exp(-(x**2 + y**2) / (2 * RANGE**2))
    return pull * x, pull * y


DOUBLE_WELL = Problem("double-well-1d", ((-4.0, 4.0),), _well, _double_well_gradient, 4.0, (0.5,), (0.3,), 1.0)
ANISOTROPIC = Problem(
    "anisotropic-2d", ((-4.0, 4.0),) * 2, _coupled, _coupled_gradient, 4.0, (0.5, 0.8), (0.3, 0.4), 1.0
)
MCKEAN_VLASOV = Problem(
    "mckean-vlasov-2d",
    ((-4.0, 4.0),) * 2,
    _mild,
    _mild_gradient,
    4.0,
    (0.4, 0.8),
    (0.4, 0.4),
    1.0,
    _attraction,
    _attraction_gradient,
)


# --- the reference: Fourier collocation -------------------------------------------------------------------------------


def fourier_solution(problem: Problem, modes: int, rtol: float = RTOL) -> Array:
    """Return the Fourier coefficients of rho(t_end), shape ``(modes,) * ndim``, by collocation in flux form.

    The box is treated as periodic.  V jumps in slope across the seam, where the density is below round-off, so the
    seam is invisible.  The interaction is a zero-padded trapezoidal sum, spectrally accurate for the same reason.
    """
    lengths = np.array([hi - lo for lo, hi in problem.bounds])
    nodes = [lo + length * np.arange(modes) / modes for (lo, _), length in zip(problem.bounds, lengths, strict=True)]
    mesh = np.meshgrid(*nodes, indexing="ij")
    shape = mesh[0].shape
    axes = tuple(range(problem.ndim))
    k = np.meshgrid(
        *[2 * np.pi * scipy.fft.fftfreq(modes, 1 / modes) / length for length in lengths[:-1]],
        2 * np.pi * scipy.fft.rfftfreq(modes, 1 / modes) / lengths[-1],
        indexing="ij",
    )
    diffusion = sum(q**2 for q in k) / problem.beta
    slopes = problem.gradient(*mesh)
    kernels = None
    if problem.interaction_gradient is not None:
        steps = [
            (np.arange(2 * modes) - 2 * modes * (np.arange(2 * modes) >= modes)) * length / modes for length in lengths
        ]
        parts = problem.interaction_gradient(*np.meshgrid(*steps, indexing="ij"))
        kernels = [scipy.fft.rfftn(part) * np.prod(lengths / modes) for part in parts]

    def rate(_t: float, flat: Array) -> Array:
        rho = flat.reshape(shape)
        drift = slopes
        if kernels is not None:
            padded = scipy.fft.rfftn(rho, s=(2 * modes,) * problem.ndim)
            window = tuple(slice(modes) for _ in axes)
            drift = [
                slope + scipy.fft.irfftn(kernel * padded, s=(2 * modes,) * problem.ndim)[window]
                for slope, kernel in zip(slopes, kernels, strict=True)
            ]
        out = -diffusion * scipy.fft.rfftn(rho)
        for q, velocity in zip(k, drift, strict=True):
            out += 1j * q * scipy.fft.rfftn(rho * velocity)
        return scipy.fft.irfftn(out, s=shape).ravel()

    start = np.ones(shape)
    for x, mean, std in zip(mesh, problem.mean, problem.std, strict=True):
        start *= np.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
    run = solve_ivp(rate, (0, problem.t_end), start.ravel(), method="DOP853", rtol=rtol, atol=rtol / 100)
    if not run.success:
        raise RuntimeError(f"the reference of {problem.name} failed: {run.message}")
    return scipy.fft.fftn(run.y[:, -1].reshape(shape)) / modes**problem.ndim


def series_cell_averages(problem: Problem, coefficients: Array, cells: tuple[int, ...]) -> Array:
    """Return the exact averages of the Fourier series over the cells: one dense factor per axis."""
    out = coefficients
    for edges, (lo, hi), modes in zip(problem.edges(cells), problem.bounds, coefficients.shape, strict=True):
        k = 2 * np.pi * scipy.fft.fftfreq(modes, 1 / modes) / (hi - lo)
        middle = (edges[1:] + edges[:-1]) / 2
        half = (edges[1] - edges[0]) / 2
        factor = np.exp(1j * np.outer(middle - lo, k)) * np.sinc(k * half / np.pi)
        out = np.tensordot(out, factor, axes=(0, 1))  # the axis done moves to the back: after ndim turns, in order
    return out.real


def reference(problem: Problem) -> Array:
    """Return the Fourier coefficients of the solution at ``t_end``, from the cache or computed (up to a minute)."""
    functions = (problem.gradient, problem.interaction_gradient, fourier_solution)
    text = "".join(inspect.getsource(f) for f in functions if f is not None)
    facts = (problem.name, problem.bounds, problem.beta, problem.mean, problem.std, problem.t_end, STRENGTH, RANGE)
    key = hashlib.sha256(f"{facts}{MODES}{RTOL}{text}".encode()).hexdigest()[:16]
    path = CACHE / f"{problem.name}-{key}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    coefficients = fourier_solution(problem, MODES[problem.ndim])
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.npy")
    np.save(temporary, coefficients)
    os.replace(temporary, path)
    return coefficients


# --- what the references are held against -----------------------------------------------------------------------------


def legendre_solution(problem: Problem, degree: int = 160) -> Callable[[Array], Array]:
    """Solve a linear problem in 1-D by a second method: Legendre-Galerkin (natural no-flux ends), dense exponential.

    Return the function edges -> cell averages at ``t_end``.
    """
    (lo, hi), half = problem.bounds[0], (problem.bounds[0][1] - problem.bounds[0][0]) / 2
    node, weight = np.polynomial.legendre.leggauss(2 * degree)
    x = (lo + hi) / 2 + half * node
    norm = np.sqrt((2 * np.arange(degree) + 1) / (2 * half))
    basis = np.polynomial.legendre.legvander(node, degree - 1) * norm
    slope = np.polynomial.legendre.legval(node, np.polynomial.legendre.legder(np.eye(degree))).T / half * norm
    mass = half * weight[:, None]
    stiffness = -(slope.T @ (mass * (slope / problem.beta + problem.gradient(x)[0][:, None] * basis)))
    start = np.exp(-((x - problem.mean[0]) ** 2) / (2 * problem.std[0] ** 2)) / (problem.std[0] * np.sqrt(2 * np.pi))
    end = expm(problem.t_end * stiffness) @ (basis.T @ (mass[:, 0] * start))

    def averages(edges: Array) -> Array:
        primitive = np.polynomial.legendre.legint(end * norm, lbnd=-1)
        return np.diff(np.polynomial.legendre.legval((edges - (lo + hi) / 2) / half, primitive)) * half / np.diff(edges)

    return averages


def _quadratic(x: Array, y: Array) -> tuple[Array, ...]:
    return x, 2 * y


def _spring(x: Array, y: Array) -> tuple[Array, ...]:
    return 1.5 * x, 1.5 * y


def _gaussian_check() -> float:
    """Check the Fourier code on V = x^2/2 + y^2, w = 3/4 |z|^2, whose solution is a Gaussian with known moments."""
    problem = replace(MCKEAN_VLASOV, name="gaussian", gradient=_quadratic, interaction_gradient=_spring)
    cells = (128, 128)
    decay, stiffness = np.exp(-np.array([1.0, 2.0])), np.array([2.5, 3.5])
    rest = 1 / (problem.beta * stiffness)
    variance = rest + (np.array(problem.std) ** 2 - rest) * np.exp(-2 * stiffness)
    exact = replace(problem, mean=tuple(np.array(problem.mean) * decay), std=tuple(np.sqrt(variance)))
    values = series_cell_averages(problem, fourier_solution(problem, 128), cells)
    return float(np.abs(values - exact.start(cells)).sum() * problem.cell_volume(cells))


def checks(tiny: bool) -> dict[str, float]:
    """Return the L1 differences that bound the references' error; each must be far below the errors in the tables.

    Those on one axis alone if ``tiny``.
    """
    out: dict[str, float] = {}
    edges = DOUBLE_WELL.edges((400,))[0]
    out["1-D: Fourier - Legendre-Galerkin"] = DOUBLE_WELL.error(legendre_solution(DOUBLE_WELL)(edges), (400,))
    for problem in (DOUBLE_WELL,) if tiny else (DOUBLE_WELL, ANISOTROPIC, MCKEAN_VLASOV):
        cells = (256,) * problem.ndim
        coarse = fourier_solution(problem, 3 * MODES[problem.ndim] // 4, 1e-8)
        averages = series_cell_averages(problem, coarse, cells)
        out[f"{problem.name}: 3/4 of the modes, rtol 1e-8"] = problem.error(averages, cells)
        out[f"{problem.name}: negative part"] = float(-problem.truth(cells).clip(max=0).sum())
        out[f"{problem.name}: mass - 1"] = float(problem.truth(cells).sum() * problem.cell_volume(cells) - 1)
    if not tiny:
        out["2-D nonlocal code on an exact Gaussian"] = _gaussian_check()
    return out


if __name__ == "__main__":
    for label, value in checks("--tiny" in sys.argv[1:]).items():
        print(f"{label:60s} {value: .1e}")
