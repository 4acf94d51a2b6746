"""The noisy network model as a benchmark: its semi-discretization in NumPy, referees, and an independent reference.

The law of r = |w| of `wg.reduced_models.IsotropicGaussian` (d = 40) at beta = 100 on the model's own clock,

    d rho/dt = 2 d/dr [ rho Psi'(r; rho) + beta^-1 (rho' - rho (d-1)/r) ],   Psi = V + sum_k s_k F_k z_k,  z = int F rho

from ``model.initial_density(0.8)`` to t = 1.  All finite volumes use the model's grid, whose first cell is half as
wide, and its weight r^(d-1); a method returns the masses of the cells.  Referees share one semi-discretization:
Scharfetter-Gummel rates of psi = Psi - beta^-1 log w, w the weight's cell averages.

The reference shares nothing with them: Fourier collocation on [0.2, 4.2] (256 modes), where the law vanishes at both
ends to round-off, slopes from the model's ``feature_gradients``, DOP853 at relative tolerance 1e-11, and exact
integrals of the series over the cells of any grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from problems import Array
from referees import Cells, SymmetricBDF
from scipy.integrate import odeint, solve_ivp
from scipy.linalg import expm, lapack
from scipy.sparse import csc_array, diags_array
from spectral import derivatives, lawson_steps

MIDDLE, REACH = 2.2, 2.0  # the box of the reference
MODES, RTOL = 256, 1e-11


@dataclass(frozen=True)
class NetworkProblem:
    """The problem in the form that the benchmark asks for: a name, an error, and what wgflow needs."""

    name: str = "noisy-network"
    d: int = 40
    delta: float = 0.4
    beta: float = 100.0
    kappa: float = 0.8
    t_end: float = 1.0
    ndim: int = 1

    @cached_property
    def model(self) -> Any:
        import wgflow as wg

        return wg.reduced_models.IsotropicGaussian(d=self.d, delta=self.delta)

    def grid(self, cells: Cells) -> Any:
        return self.model.grid(cells=cells[0], beta=self.beta)

    def start(self, cells: Cells) -> Array:
        """Return the masses of the start."""
        return self.model.initial_density(self.kappa, self.grid(cells)).masses

    def error(self, masses: Array, cells: Cells) -> float:
        """Return the sum of the absolute differences of the masses of the cells to those of the reference."""
        return float(np.abs(masses - _truth(self, tuple(cells))).sum())


NETWORK = NetworkProblem()


# --- the reference, and the spectral method ---------------------------------------------------------------------------


class Collocation:
    """The problem on Fourier nodes of the box [middle - reach, middle + reach]."""

    def __init__(self, problem: NetworkProblem, modes: int, middle: float, reach: float):
        model, self.clock = problem.model, problem.model.time_scale
        self.modes, self.low, self.reach = modes, middle - reach, reach
        r = self.low + 2 * reach / modes * np.arange(modes)
        self.features = model.features(r) * (2 * reach / modes)
        slopes = model.feature_gradients(r)[:, 0]
        self.pulls = model.signs[:, None] * slopes
        self.slope = -model.target @ self.pulls - (problem.d - 1) / (problem.beta * r)
        self.first, second = derivatives(modes, reach)
        self.local = self.clock * (second / problem.beta + self.first * self.slope)
        log = (problem.d - 1) * np.log(r) - problem.d * r**2 / (2 * problem.kappa**2)
        rho = np.exp(log - log.max())
        self.start = rho / (rho.sum() * 2 * reach / modes)

    def pull(self, rho: Array) -> Array:
        """Return the part of d rho/dt due to the interaction."""
        return self.clock * (self.first @ ((self.features @ rho) @ self.pulls * rho))

    def masses(self, rho: Array, edges: Array) -> Array:
        """Return the exact integrals of the series over cells."""
        k = np.pi / self.reach * np.arange(1, self.modes // 2)
        c = np.fft.rfft(rho)[: self.modes // 2] / self.modes
        inside = np.clip(edges - self.low, 0, 2 * self.reach)
        waves = np.exp(1j * np.outer(inside, k))
        return np.diff(c[0].real * inside + 2 * (waves @ (c[1:] / (1j * k))).real)


def spectral(problem: NetworkProblem, cells: Cells, *, modes: int, steps: int, middle: float, reach: float) -> Array:
    """Solve by Fourier collocation and Lawson-RK4: diffusion and V by one dense exponential, the rest explicit."""
    box, dt = Collocation(problem, modes, middle, reach), problem.t_end / steps
    half = expm(dt / 2 * box.local)
    rho = lawson_steps(box.start, lambda v: half @ v, box.pull, steps, dt)
    return box.masses(rho, problem.grid(cells).edges[0])


@cache
def _reference(problem: NetworkProblem) -> tuple[Collocation, Array]:
    box = Collocation(problem, MODES, MIDDLE, REACH)
    run = solve_ivp(
        lambda _t, rho: box.local @ rho + box.pull(rho), (0, problem.t_end), box.start, "DOP853", [problem.t_end],
        rtol=RTOL, atol=RTOL / 100,
    )  # fmt: skip
    return box, run.y[:, -1]


@cache
def _truth(problem: NetworkProblem, cells: Cells) -> Array:
    box, rho = _reference(problem)
    return box.masses(rho, problem.grid(cells).edges[0])


# --- the semi-discretization ------------------------------------------------------------------------------------------


class Discrete:
    """m -> A(Psi(m)) m with Scharfetter-Gummel rates, times the model's clock."""

    def __init__(self, problem: NetworkProblem, cells: Cells):
        model, grid = problem.model, problem.grid(cells)
        r = grid.mesh()[0]
        self.features = model.features(r)
        self.signed = model.signs[:, None] * self.features
        self.potential = -model.target @ self.signed - model.log_weight(grid) / problem.beta
        self.beta = problem.beta
        scale = model.time_scale / (problem.beta * grid.distances[0])
        self.out, self.back = scale / grid.widths[0][:-1], scale / grid.widths[0][1:]
        self.start = problem.start(cells)

    def psi(self, masses: Array) -> Array:
        return self.potential + (self.features @ masses) @ self.signed

    def rates(self, psi: Array) -> tuple[Array, Array]:
        """Return the rates over each inner edge, out of its left and out of its right cell."""
        q = self.beta * np.diff(psi)
        q = np.where(np.abs(q) < 1e-9, 1e-9, q)
        forward = q / np.expm1(q)
        return self.out * forward, self.back * (forward + q)

    def change(self, masses: Array) -> Array:
        right, left = self.rates(self.psi(masses))
        flux = right * masses[:-1] - left * masses[1:]
        out = np.zeros_like(masses)
        out[:-1] -= flux
        out[1:] += flux
        return out

    def bands(self, masses: Array) -> Array:
        """Return upper, main and lower diagonal of A(Psi(m)), packed: the Jacobian without the interaction's part."""
        right, left = self.rates(self.psi(masses))
        packed = np.zeros((3, masses.size))
        packed[0, 1:], packed[2, :-1] = left, right
        packed[1, :-1] -= right
        packed[1, 1:] -= left
        return packed


def lsoda(problem: NetworkProblem, cells: Cells, *, rtol: float) -> Array:
    """Solve by LSODA (odeint), banded quasi-Newton."""
    system = Discrete(problem, cells)
    return odeint(
        lambda m, _t: system.change(m), system.start, [0, problem.t_end], Dfun=lambda m, _t: system.bands(m),
        ml=1, mu=1, rtol=rtol, atol=rtol * system.start.max() * 1e-2, mxstep=100000,
    )[-1]  # fmt: skip


def bdf(problem: NetworkProblem, cells: Cells, *, rtol: float) -> Array:
    """Solve by solve_ivp's BDF, sparse quasi-Newton."""
    system = Discrete(problem, cells)

    def jacobian(_t: float, masses: Array) -> csc_array:
        upper, main, lower = system.bands(masses)
        return diags_array([lower[:-1], main, upper[1:]], offsets=[-1, 0, 1]).tocsc()

    run = solve_ivp(
        lambda _t, m: system.change(m), (0, problem.t_end), system.start, SymmetricBDF, [problem.t_end], jac=jacobian,
        rtol=rtol, atol=rtol * system.start.max() * 1e-2,
    )  # fmt: skip
    return run.y[:, -1]


def crank_nicolson(problem: NetworkProblem, cells: Cells, *, steps: int) -> Array:
    """Solve by Crank-Nicolson with psi extrapolated to the middle of the step: one tridiagonal solve a step."""
    system, dt = Discrete(problem, cells), problem.t_end / steps

    def step(masses: Array, psi: Array, dt: float) -> Array:
        right, left = system.rates(psi)
        main = np.ones(masses.size)
        main[:-1] += dt / 2 * right
        main[1:] += dt / 2 * left
        return 2 * lapack.dgtsv(-dt / 2 * right, main, -dt / 2 * left, masses)[3] - masses

    masses = system.start
    now = system.psi(masses)
    middle = system.psi(step(masses, now, dt / 2))
    masses = step(masses, middle, dt)
    for _ in range(steps - 1):
        old, now = now, system.psi(masses)
        masses = step(masses, 1.5 * now - 0.5 * old, dt)
    return masses


def finite_volume(problem: NetworkProblem, cells: Cells, **settings: Any) -> Array:
    """Solve by wgflow's public functions."""
    import wgflow as wg

    rho0 = problem.model.initial_density(problem.kappa, problem.grid(cells))
    energy = problem.model.energy(beta=problem.beta)
    return wg.solve(
        energy, rho0, (0.0, problem.t_end), wg.FiniteVolume(**settings), t_eval=[problem.t_end],
        time_scale=problem.model.time_scale,
    ).final.masses  # fmt: skip


if __name__ == "__main__":
    grid = (400,)
    box, rho = _reference(NETWORK)
    print(f"mass - 1: {_truth(NETWORK, grid).sum() - 1:.1e}, least value at a node: {rho.min():.1e}")
    coarse = spectral(NETWORK, grid, modes=160, steps=200, middle=MIDDLE, reach=REACH)
    print(f"160 modes, 200 steps of Lawson-RK4: {NETWORK.error(coarse, grid):.1e}")
