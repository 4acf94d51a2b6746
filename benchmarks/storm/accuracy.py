"""Errors against exact solutions: orders, rates, moments, steps of JKO, distances, symmetries, particles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from figures import Figure, Scale
from runs import FV

import wgflow as wg
from wgflow.validation import exact, gaussian_wasserstein, run_langevin, verify, wasserstein

#: Standard errors by which the mean over runs of particles may differ from the equation.
STANDARD_ERRORS = 3.0


def _slope(x: Sequence[float], errors: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(errors), 1)[0])


def _errors(problem: exact.ExactProblem, cells: Sequence[int], **settings) -> list[float]:
    found = []
    for n in cells:
        grid = problem.grid(n)
        sol = wg.solve(problem.energy(), problem.initial_density(grid), (0.0, problem.t_end), FV(**settings))
        found.append(problem.errors(sol.final, problem.t_end)["density"])
    return found


def _in_time(scheme: str, steps: Sequence[int]) -> float:
    """Return the order in time on one grid, against many steps of the same scheme."""
    grid = wg.Grid((-3, 3), cells=60, boundary="no-flux")
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2) + wg.Interaction(lambda z: z**2 / 2)
    start = wg.Density.gaussian(grid, mean=0.5, cov=0.3)

    def at_end(count: int) -> np.ndarray:
        return wg.solve(energy, start, (0, 0.5), FV(dt=0.5 / count, scheme=scheme)).final.masses

    true = at_end(16 * steps[-1])
    return -_slope(steps, [float(np.abs(at_end(n) - true).sum()) for n in steps])


def _orders(scale: Scale) -> list[Figure]:
    smooth, cells = exact.OrnsteinUhlenbeck(), [40, 56, 80, 112, 160]
    second = -_slope(cells, _errors(smooth, cells, rtol=1e-7, order=2))
    fourth = -_slope(cells, _errors(smooth, cells, rtol=1e-9, order=4))
    fronts = [50, 71, 100, 141, 200, 283] if scale.size == "tiny" else [50, 71, 100, 141, 200, 283, 400]
    compact = -_slope(fronts, _errors(exact.PorousMedium(), fronts))
    implicit, taus = exact.OrnsteinUhlenbeck(), [0.1, 0.05, 0.025, 0.0125, 0.00625]
    grid = implicit.grid(200)
    jko = [implicit.errors(wg.solve(implicit.energy(), implicit.initial_density(grid), (0, 0.5), wg.JKO(tau)).final,
                           0.5)["density"] for tau in taus]
    return [
        Figure("accuracy", "order in space, fluxes of second order, less 2", abs(second - 2), 0.1, len(cells), id="F5"),
        Figure("accuracy", "order in space, fluxes of fourth order, less 4", abs(fourth - 4), 0.2, len(cells), id="F5"),
        Figure("accuracy", "order in time, midpoint scheme, less 2",
               abs(_in_time("midpoint", [16, 32, 64, 128, 256, 512]) - 2), 0.1, 6, id="F5"),
        Figure("accuracy", "order in tau of the JKO scheme, less 1", abs(_slope(taus, jko) - 1), 0.1, len(taus),
               id="F5"),
        Figure("accuracy", "order of the L1 error, compact support", compact, 1.3, len(fronts), id="F5", least=True)]


def _rates() -> list[Figure]:
    """The first eigenvalue of a double well, and the eigenvalues of the fluxes between two points."""
    errors = []
    for n in (100, 200, 400):
        problem = exact.DoubleWellDecay(beta=4.0, field=0.2, t_end=8.0 / exact.DoubleWellDecay(beta=4.0).rates(1)[0])
        sol = wg.solve(problem.energy(), problem.initial_density(problem.grid(n)), (0.0, problem.t_end),
                       FV(rtol=1e-9, order=2), t_eval=problem.times)
        errors.append(abs(problem.path_quantities(sol)["rate"][0] / problem.rates(1)[0] - 1))
    grid, energy, worst = wg.Grid((0, 1), cells=32, boundary="no-flux"), 1.0 * wg.Entropy(2.0), 0.0
    for mode in (1, 2, 7):
        cosine = np.cos(mode * math.pi * grid.centers[0])
        rho = wg.Density.from_values(grid, 1.0 + 0.5 * cosine)
        rate = 0.5 * 4 * 32**2 * math.sin(mode * math.pi / 64) ** 2
        seen = []
        for steps in (16, 32):
            end = 0.01 / rate
            final = wg.solve(energy, rho, (0, end), FV(dt=end / steps, order=2)).final
            seen.append(-math.log(float((final.masses * cosine).sum() / (rho.masses * cosine).sum())) / end)
        # The error of second order in time is extrapolated away.
        worst = max(worst, abs((4 * seen[1] - seen[0]) / 3 / rate - 1))
    return [Figure("accuracy", "decay of a double well against lambda_1, 400 cells", errors[-1], 1e-4, 1, id="F6"),
            Figure("accuracy", "order of that error in the cells", -_slope((100, 200, 400), errors), 1.9, 3, id="F6",
                   least=True),
            Figure("accuracy", "eigenvalues 4 D / h^2 sin^2 of the two-point flux", worst, 1e-11, 3, id="F6")]


def _moments() -> list[Figure]:
    """The catalogue of exact solutions at 200 cells: moments and energies, and steps of JKO where these are exact."""
    found = verify(cells=[200], quick=True).cases
    flows = [(case.worst[1], f"{case.name}: {case.worst[0]}") for case in found if "JKO" not in case.method]
    steps = [(case.worst[1], f"{case.name}: {case.worst[0]}") for case in found if "JKO" in case.method]
    flows, steps = ([one for one in part if not math.isnan(one[0])] for part in (flows, steps))
    return [Figure("accuracy", "moments and energies at 200 cells", *_worst(flows, 1e-3), id="F7"),
            Figure("accuracy", "moments after steps of JKO at 200 cells", *_worst(steps, 1e-3), id="F8"), _one_step()]


def _worst(found: list[tuple[float, str]], most: float) -> tuple[float, float, int, str, tuple[str, ...]]:
    worst = max(found)
    return worst[0], most, len(found), "", (worst[1],)


def _one_step() -> Figure:
    """One step of JKO of a Gaussian in a quadratic well: mean and variance in closed form."""
    problem = exact.OrnsteinUhlenbeck()
    start = problem.initial_density(problem.grid(400))
    reach = 6.5 * math.sqrt(float(start.cov()))  # 1e-10 of the mass lies beyond
    grid = wg.Grid((float(start.mean()) - reach, float(start.mean()) + reach), cells=400)
    sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, 0.1), wg.JKO(0.1))
    errors = problem.jko_errors(sol.final, 0.1, 1)
    worst = max(errors["mean"], 0.5 * errors["variance"])  # relative, of the standard deviation
    return Figure("accuracy", "one step of JKO at 400 cells: mean, deviation", worst, 1e-4, 1, id="F8")


def _distances(scale: Scale) -> list[Figure]:
    rng, line, plane = np.random.default_rng(scale.seed), 0.0, 0.0
    count = scale.pick(20, 200, 1000)
    for _ in range(count):
        a, b = rng.normal(size=(2, 101)) * rng.uniform(0.1, 10)
        exact_w2 = math.sqrt(np.mean((np.sort(a) - np.sort(b)) ** 2))
        line = max(line, abs(wasserstein(a, b) / exact_w2 - 1))
        g, h = rng.normal(size=(2, 3, 3))
        t, cov = g @ g.T + np.eye(3), h @ h.T
        bures = math.sqrt(np.trace((t - np.eye(3)) @ cov @ (t - np.eye(3))))
        plane = max(plane, abs(gaussian_wasserstein(np.zeros(3), cov, np.zeros(3), t @ cov @ t) / bures - 1))
    return [Figure("accuracy", "W2 of samples against the sorted formula", line, 1e-12, count, id="F9"),
            Figure("accuracy", "Bures distance against a map of Brenier", plane, 1e-10, count, id="F9")]


def _symmetries(scale: Scale) -> list[Figure]:
    rng, worst = np.random.default_rng(scale.seed), {"mirror": 0.0, "shift": 0.0, "permuted": 0.0}
    line = wg.Grid((-2, 2), cells=40, boundary="no-flux")
    torus = wg.Grid([(-2, 2), (-2, 2)], cells=(16, 16), boundary="periodic")
    for _ in range(scale.pick(2, 10, 50)):
        for name, grid, turned in (("mirror", line, lambda a: a[::-1]), ("permuted", torus, np.transpose),
                                   ("shift", torus, lambda a: np.roll(a, (3, 5), (0, 1)))):
            V, values = rng.normal(size=grid.shape), rng.random(grid.shape)
            there, here = (wg.solve(wg.Entropy(2.0) + wg.Potential(np.ascontiguousarray(turn(V))),
                                    wg.Density(grid, np.ascontiguousarray(turn(values))), (0, 0.4),
                                    FV(dt=0.02)).final.masses for turn in (lambda a: a, turned))
            worst[name] = max(worst[name], float(np.abs(turned(there) - here).sum() / there.sum()))
    count = scale.pick(2, 10, 50)
    return [Figure("accuracy", "a mirrored problem (L1)", worst["mirror"], 1e-14, count, id="F10"),
            Figure("accuracy", "a problem shifted on a torus (L1)", worst["shift"], 1e-13, count, id="F10"),
            Figure("accuracy", "axes that couple, exchanged (L1)", worst["permuted"], 1e-13, count, id="F10")]


def _particles(scale: Scale) -> Figure:
    r"""The variance of particles that attract each other: its mean over runs is that of the equation times 1 - 1/N."""
    n, runs = 100, scale.pick(50, 60, 400)
    grid = wg.Grid((-5, 5), cells=200)
    energy = wg.Entropy(2.0) + wg.Potential(lambda x: x**2 / 2) + wg.Interaction(lambda z: z**2 / 2)
    start = wg.Density.gaussian(grid, mean=0.5, cov=0.2)
    expected = float(wg.solve(energy, start, (0, 0.5), FV(rtol=1e-8)).final.cov()) * (1 - 1 / n)
    found = run_langevin(energy, start, n_particles=n, n_runs=runs, t_eval=[0.0, 0.5], dt=5e-4, rng=scale.seed)
    points = np.asarray(found.coordinates)[:, -1].reshape(runs, n)
    seen = points.var(axis=1)
    error = seen.std(ddof=1) / math.sqrt(runs)
    told = (f"{seen.mean():.6f} +- {error:.1g}, expected {expected:.6f}",)
    return Figure("accuracy", "particles against the equation, in standard errors", abs(seen.mean() - expected) / error,
                  STANDARD_ERRORS, runs, "", told, "F21")


def accuracy(scale: Scale) -> list[Figure]:
    """Everything that has an exact value."""
    return [*_orders(scale), *_rates(), *_moments(), *_distances(scale), *_symmetries(scale), _particles(scale)]
