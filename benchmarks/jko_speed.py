"""JKO steps of the porous medium equation: back-and-forth compared with a plain version of the original method.

    python benchmarks/jko_speed.py [--cells 128 256 512] [--tau 0.005] [--steps 4] [--early 2] [--peak 12]

On the unit square, m = 2, from a parabola (a Barenblatt profile). The referee is a plain version of the back-and-forth
method as published: c-transforms from node to node along the axes (lower envelopes of parabolas), a pushforward by
bilinear deposits of parts of cells, gradient steps of constant size in the norm Theta_1 |u|^2 + Theta_2 |grad u|^2, at
most 200 iterations a step, stopped by the L1 residual. It shares no code with the package. Its residual stagnates at a
few percent on these problems, whatever the constant: it serves to compare milliseconds an iteration.

For wgflow a step runs to the relative gap; the times at which the L1 residual (the same: wanted less moved masses)
first passes .01 and .001 are recorded, too. An iteration is a transform with its deposits: an evaluation or a
product with the curvature; those on coarser grids count for their share of the cells. "The C++ code": milliseconds an
iteration and seconds a step that its authors' code took on one thread of a machine of this kind, and the same scaled by
the referee's milliseconds. All times are CPU seconds of one thread, after compilation; "n log n a second" of a cosine
transform measures the machine's speed.
"""

from __future__ import annotations

import argparse
import math
import time

import numba
import numpy as np
from scipy import fft

import wgflow as wg
from wgflow.solvers import BackAndForth
from wgflow.solvers.jko.back_and_forth.ascent import Ascent
from wgflow.solvers.jko.back_and_forth.solver import BackAndForthSolver

MOST_ITERATIONS = 200


@numba.njit(cache=True, error_model="numpy")
def envelope_rows(phi, t, out):
    """Return out[s] = min over nodes x of (x - s)^2 / 2t - phi[x], row by row: the lower envelope of the parabolas."""
    n = phi.shape[1]
    corner, start = np.empty(n, np.int64), np.empty(n + 1)
    for r in range(phi.shape[0]):
        count = 0
        for x in range(n):
            cross = -np.inf
            while count > 0:
                y = corner[count - 1]
                cross = 0.5 * (x + y) - t * (phi[r, x] - phi[r, y]) / (x - y)
                if cross > start[count - 1]:
                    break
                count -= 1
            corner[count], start[count] = x, cross if count > 0 else -np.inf
            count += 1
        k = 0
        for s in range(n):
            while k < count - 1 and start[k + 1] < s:
                k += 1
            x = corner[k]
            out[r, s] = (x - s) ** 2 / (2.0 * t) - phi[r, x]


@numba.njit(cache=True, error_model="numpy")
def push(mass, psi, t, out):
    """Move masses by x - t grad psi (in cells, centered differences).

    A cell is cut into as many parts as it is stretched over cells, at most 8 x 8; each is moved by the map interpolated
    bilinearly and deposited bilinearly.
    """
    n, m = mass.shape
    gx, gy = np.empty((n, m)), np.empty((n, m))
    for i in range(n):
        for j in range(m):
            gx[i, j] = 0.5 * t * (psi[min(i + 1, n - 1), j] - psi[max(i - 1, 0), j])
            gy[i, j] = 0.5 * t * (psi[i, min(j + 1, m - 1)] - psi[i, max(j - 1, 0)])
    out[:] = 0.0
    for i in range(n):
        for j in range(m):
            if mass[i, j] <= 0.0:
                continue
            right, up = min(i + 1, n - 1), min(j + 1, m - 1)
            longest = max(abs(gx[right, j] - gx[i, j]), abs(gy[i, up] - gy[i, j]))
            parts = min(8, int(2.0 + 2.0 * longest))
            share = mass[i, j] / parts**2
            for a in range(parts):
                for b in range(parts):
                    x, y = i + (a + 0.5) / parts - 0.5, j + (b + 0.5) / parts - 0.5
                    x, y = min(max(x, 0.0), n - 1.0), min(max(y, 0.0), m - 1.0)
                    k, l = min(int(x), n - 2), min(int(y), m - 2)
                    p, q = x - k, y - l
                    x -= ((1 - p) * ((1 - q) * gx[k, l] + q * gx[k, l + 1])
                          + p * ((1 - q) * gx[k + 1, l] + q * gx[k + 1, l + 1]))
                    y -= ((1 - p) * ((1 - q) * gy[k, l] + q * gy[k, l + 1])
                          + p * ((1 - q) * gy[k + 1, l] + q * gy[k + 1, l + 1]))
                    x, y = min(max(x, 0.0), n - 1.0), min(max(y, 0.0), m - 1.0)
                    k, l = min(int(x), n - 2), min(int(y), m - 2)
                    p, q = x - k, y - l
                    out[k, l] += (1 - p) * (1 - q) * share
                    out[k + 1, l] += p * (1 - q) * share
                    out[k, l + 1] += (1 - p) * q * share
                    out[k + 1, l + 1] += p * q * share


class Original:
    """The referee: one step of the porous medium equation with m = 2 after another."""

    def __init__(self, n: int, tau: float):
        self.n, self.tau, self.t = n, tau, tau * n * n
        symbol = (2 * n * np.sin(0.5 * np.pi * np.arange(n) / n)) ** 2
        self.laplacian = symbol[:, None] + symbol[None, :]
        self.work, self.moved = np.empty((n, n)), np.empty((n, n))

    def transform(self, phi):
        envelope_rows(phi, self.t, self.work)
        half = np.ascontiguousarray(-self.work.T)
        envelope_rows(half, self.t, self.work)
        return np.ascontiguousarray(self.work.T)

    def wanted(self, phi):
        """Return the masses (c - phi)^+ / 2 with c for the total mass 1."""
        c = phi.min() + 1e-3
        for _ in range(60):
            positive = np.maximum(c - phi, 0.0)
            excess = 0.5 * positive.mean() - 1.0
            if abs(excess) < 1e-14:
                break
            c -= excess / (0.5 * (positive > 0).mean())
        return 0.5 * np.maximum(c - phi, 0.0) / self.n**2

    def step(self, masses, phi, tolerance):
        """Do one step; return masses, phi and residuals after each iteration."""
        weight = self.n**2 * masses.max()
        symbol = 0.5 + self.tau * weight * self.laplacian
        residuals = []
        for _ in range(MOST_ITERATIONS):
            psi = self.transform(phi)
            push(masses, psi, self.t, self.moved)
            wanted = self.wanted(phi)
            residuals.append(float(np.abs(wanted - self.moved).sum()))
            if residuals[-1] <= tolerance:
                break
            phi = phi + fft.idctn(fft.dctn((wanted - self.moved) * self.n**2) / symbol)
            psi = self.transform(phi)
            phi = self.transform(psi)
            wanted = self.wanted(phi)
            push(wanted, phi, self.t, self.moved)
            psi = psi + fft.idctn(fft.dctn((masses - self.moved) * self.n**2) / symbol)
            phi = self.transform(psi)
        return self.wanted(phi), phi, residuals


def start(n: int, peak: float) -> wg.Density:
    grid = wg.Grid([(0, 1), (0, 1)], cells=(n, n))
    radius_squared = 2.0 / (np.pi * peak)
    return wg.Density.from_function(grid, lambda x, y: np.maximum(radius_squared - (x - 0.5)**2 - (y - 0.5)**2, 0.0))


def run_original(rho: wg.Density, tau: float, steps: int, tolerance: float):
    n = rho.grid.shape[0]
    original, masses = Original(n, tau), rho.masses
    original.step(masses, np.zeros((n, n)), 10.0)
    phi, rows = -2.0 * rho.values, []
    for _ in range(steps):
        begin = time.process_time()
        masses, phi, residuals = original.step(masses, phi, tolerance)
        rows.append((time.process_time() - begin, len(residuals), min(residuals), float("nan")))
    return rows


def run_wgflow(rho: wg.Density, tau: float, steps: int, tolerance: float):
    """Run steps to a gap; return seconds, weighted iterations, seconds to L1 residuals .01 and .001, residual, gap."""
    energy = wg.FreeEnergy([(1.0, wg.PowerEntropy(2.0))])
    solver = BackAndForthSolver(energy.assemble(rho.grid), rho.grid, BackAndForth(threads=1), tolerance, 100)
    clock = Clock(rho.grid.shape)
    solver.step(solver.begin(rho), tau / 1000)
    state, rows = solver.begin(rho), []
    with clock:
        for _ in range(steps):
            clock.restart()
            state = solver.step(state, tau)
            rows.append((clock.elapsed(), clock.iterations, *clock.passed,
                         state.extras["l1_residual"], state.extras["relative_gap"]))
    return np.array(rows)


class Clock:
    """Notes when the L1 residual on the finest grid first passes .01 and .001, by wrapping the ascent."""

    def __init__(self, shape):
        self.shape, self.cells = shape, math.prod(shape)

    def restart(self) -> None:
        self.begin, self.iterations, self.passed = time.process_time(), 0.0, [math.nan, math.nan]

    def elapsed(self) -> float:
        return time.process_time() - self.begin

    def __enter__(self):
        self.kept = Ascent.evaluate, Ascent._newton_product
        evaluate, product = self.kept

        def watched(ascent, phi):
            point = evaluate(ascent, phi)
            self.iterations += phi.size / self.cells
            if phi.shape == self.shape:
                for i, level in enumerate((1e-2, 1e-3)):
                    if math.isnan(self.passed[i]) and point.residual <= level:
                        self.passed[i] = self.elapsed()
            return point

        def counted(ascent, v, response):
            self.iterations += v.size / self.cells
            return product(ascent, v, response)

        Ascent.evaluate, Ascent._newton_product = watched, counted
        return self

    def __exit__(self, *_):
        Ascent.evaluate, Ascent._newton_product = self.kept


def transform_speed(n: int) -> float:
    """Return millions of n log n (n = cells) a second of a cosine transform and back."""
    array, best = np.random.default_rng(7).random((n, n)), np.inf
    for _ in range(7):
        begin = time.process_time()
        fft.idctn(fft.dctn(array))
        best = min(best, time.process_time() - begin)
    return 2e-6 * n * n * np.log2(n * n) / best


#: Milliseconds an iteration of the authors' C++ code, and seconds a step to L1 residuals of .01 and .001, by cells.
PUBLISHED = {128: (14.0, None, None), 256: (48.0, 0.48, 5.9), 512: (209.0, 2.3, 24.0), 1024: (980.0, 10.2, None)}


def report(n: int, tau: float, steps: int, early: int, peak: float, referee: int) -> None:
    rho = start(n, peak)
    print(f"\n{n} x {n}   ({transform_speed(n):.0f} million n log n a second)", flush=True)
    plain = np.array(run_original(rho, tau, min(steps, referee), 1e-3))
    per_plain = 1e3 * plain[:, 0].sum() / plain[:, 1].sum()
    print(f"  plain original: {per_plain:.1f} ms an iteration, {plain[:, 0].mean():.2f} s a step of "
          f"{plain[:, 1].mean():.0f} iterations, least L1 residual {plain[:, 2].min():.1e}", flush=True)
    rows = run_wgflow(rho, tau, steps, 1e-6)
    per = 1e3 * rows[:, 0].sum() / rows[:, 1].sum()
    print(f"  wgflow:         {per:.1f} ms an iteration ({per_plain / per:.1f} times cheaper than the plain original)")
    print(f"  {'':16s}{'s to L1 .01':>12s}{'s to L1 .001':>13s}{'s to gap 1e-6':>14s}{'iterations':>11s}"
          f"{'worst L1':>10s}{'worst gap':>10s}")
    for name, part in (("early steps", rows[:early]), ("late steps", rows[early:]), ("all steps", rows)):
        if len(part):
            mean = part.mean(axis=0)
            print(f"  {name:16s}{mean[2]:12.2f}{mean[3]:13.2f}{mean[0]:14.2f}{mean[1]:11.0f}"
                  f"{part[:, 4].max():10.1e}{part[:, 5].max():10.1e}")
    if n in PUBLISHED:
        iteration, *times = PUBLISHED[n]
        scale = per_plain / iteration
        line = f"  the C++ code: {iteration:.0f} ms an iteration ({iteration / per:.1f} times ours)"
        for level, seconds, ours in zip((".01", ".001"), times, rows.mean(axis=0)[2:4]):
            if seconds is not None:
                ratio = seconds / ours
                line += f"; {seconds:g} s to {level} ({ratio:.1f} times ours; scaled {scale * ratio:.1f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--tau", type=float, default=0.005)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--early", type=int, default=2, help="steps that count as early")
    parser.add_argument("--peak", type=float, default=12.0)
    parser.add_argument("--referee-steps", type=int, default=1, help="steps of the plain original")
    arguments = parser.parse_args()
    print(f"porous medium m = 2, unit square, tau = {arguments.tau:g}, peak {arguments.peak:g}; CPU seconds")
    for n in arguments.cells:
        report(n, arguments.tau, arguments.steps, arguments.early, arguments.peak, arguments.referee_steps)


if __name__ == "__main__":
    main()
