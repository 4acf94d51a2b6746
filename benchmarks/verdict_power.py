"""How often `validation.compare` is wrong: false alarms where the equation is right, and misses where it is not.

``python benchmarks/verdict_power.py`` makes a table of two kinds of rows, with binomial intervals of 95 %:

* false alarms: SGD of 100 neurons (``--neurons``) against the right equation, 1, 3 and 10 runs at a time, each run used
  once, by the default (the scatter of the runs predicted) or what ``--scatter`` names; "measured" is the default with
  the bias of finite width measured, for the case "isotropic";
* power: 5 runs of 800 neurons against an equation whose tau_+, activation ramp or clock is 5 % off, or whose beta is
  20 % off.

``--seeds`` says how often each null comparison is repeated, ``--quick`` takes a tenth, ``--runs`` other run counts.
The bias of SGD's step is predicted where the model has one coordinate.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy.special import betaincinv

import wgflow as wg
from wgflow.validation import compare, predict_scatter, run_sgd

#: Replicates of the null law, and the levels at which p-values are counted.
N_NULL, LEVELS = 200, (0.05, 0.01)
TAU2, KAPPA = (1.8, 0.2), 0.8
LINEAR_BETA, NOISY_BETA, RIDGE = 3.0, 100.0, 0.7
#: Noise that particles share, in units of the scatter of the mean of independent ones.
SHARED = 3.0


@dataclass(frozen=True)
class Case:
    """A model, its SGD, and the wrong equations that it is held against."""

    title: str
    step_size: float
    t: tuple[float, ...]
    beta: float = np.inf
    ridge: float = 0.0
    cells: int = 600
    wrong: tuple[str, ...] = ()
    #: The law of a noisy network is narrow beside the default grid: half a cell would widen the bands by a third.
    r_max: float | None = None

    @property
    def reach(self) -> dict[str, float]:
        """Return the end of the grid as the keyword of the model's grid."""
        return {} if self.r_max is None else {"r_max": self.r_max}

    def model(self, change: str = "right") -> Any:
        raise NotImplementedError

    def beta_of(self, change: str) -> float:
        """Return beta, 20 % off where the change says so."""
        return self.beta * {"beta + 20 %": 1.2, "beta - 20 %": 0.8}.get(change, 1.0)


class Isotropic(Case):
    """Two isotropic Gaussians in 40 dimensions."""

    def model(self, change: str = "right") -> Any:
        plus, minus = (tau2 * {"tau_+ + 5 %": 1.05**2, "tau_+ - 5 %": 0.95**2}.get(change, 1.0) if k == 0 else tau2
                       for k, tau2 in enumerate(TAU2))
        # sigma(t / 1.05) on data of size tau is sigma on data of size tau / 1.05.
        ramp = 1.05**-2 if change == "ramp + 5 %" else 1.0
        return wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=plus * ramp, tau_minus2=minus * ramp)


class Linear(Case):
    """Linear neurons, whose equation has a closed solution."""

    def model(self, change: str = "right") -> Any:
        tau = {"tau + 5 %": 1.05, "tau - 5 %": 0.95}.get(change, 1.0)
        return wg.reduced_models.LinearNeuron(covariance=1.5 * tau**2, direction=1.0, noise_variance=0.3)


class SharedNoise(Case):
    """Particles in a parabola, of which those of a run share noise as large as the scatter of their mean."""

    def particles(self, count: int, n_runs: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return exact steps of dX = -X dt + dB + c dW with a common W, as times and coordinates."""
        x = [1.5 + rng.normal(size=(n_runs, count))]
        for dt in np.diff(self.t):
            fall = np.exp(-dt)
            kicks = rng.normal(size=(n_runs, count)) + SHARED / np.sqrt(count) * rng.normal(size=(n_runs, 1))
            x.append(fall * x[-1] + np.sqrt(0.5 * (1.0 - fall**2)) * kicks)
        return np.array(self.t), np.stack(x, axis=1)[..., None]


CASES: dict[str, Case] = {
    "isotropic": Isotropic("isotropic model, d = 40", 1e-5, (0.0, 0.03, 0.1)),
    "isotropic-power": Isotropic("isotropic model, d = 40, N = 800", 1e-5, (0.0, 0.03, 0.1),
                                 wrong=("tau_+ + 5 %", "tau_+ - 5 %", "ramp + 5 %", "clock + 5 %")),
    "linear-noisy-power": Linear("linear neurons, beta = 3, ridge 0.7, N = 800", 2e-4, (0.0, 0.5, 2.0), LINEAR_BETA,
                                 RIDGE, 400, ("tau + 5 %", "beta + 20 %", "beta - 20 %")),
    "isotropic-noisy-power": Isotropic("isotropic model, d = 40, beta = 100, N = 800", 2e-5, (0.0, 0.03, 0.1),
                                       NOISY_BETA, 0.01, wrong=("beta + 20 %", "beta - 20 %"), r_max=3.0),
    "linear-noisy": Linear("linear neurons, beta = 3, ridge 0.7", 2e-4, (0.0, 0.5, 2.0), LINEAR_BETA, RIDGE,
                           400),
    "shared-noise": SharedNoise("particles that share noise, observed scatter", 0.0, (0.0, 0.1, 0.3, 1.0, 3.0)),
}


@cache
def solution_of(name: str, change: str) -> Any:
    """Return the mean-field solution of a case, once in a process."""
    case = CASES[name]
    if isinstance(case, SharedNoise):
        grid = wg.Grid((-6.0, 8.0), cells=case.cells)
        energy = wg.Entropy(beta=2.0) + wg.Potential(lambda x: x**2 / 2)
        return wg.solve(energy, wg.Density.gaussian(grid, 1.5, 1.0), (0, case.t[-1]), t_eval=case.t)
    model, beta = case.model(change), case.beta_of(change)
    options = {"beta": beta, "ridge": case.ridge}
    grid = model.grid(cells=case.cells, **({} if np.isinf(beta) else options), **case.reach)
    speed = model.time_scale * (1.05 if change == "clock + 5 %" else 1.0)
    return wg.solve(model.energy(**options), model.initial_density(KAPPA, grid), (0, case.t[-1]), t_eval=case.t,
                    time_scale=speed)


@cache
def scatter_of(name: str, n_neurons: int, measure_width: bool = False) -> Any:
    """Return the predicted scatter, which `compare` would compute anew for every comparison."""
    case = CASES[name]
    start = None if np.isinf(case.beta) else solution_of(name, "right").densities[0]
    return predict_scatter(case.model(), case.t, n_neurons, case.step_size, kappa=KAPPA, start=start, beta=case.beta,
                           ridge=case.ridge, n_steps=100, measure_width=measure_width)


def runs_of(name: str, n_neurons: int, n_runs: int, rng: np.random.Generator) -> Any:
    case = CASES[name]
    return run_sgd(case.model(), n_neurons, case.step_size, case.t, rng, n_runs=n_runs, beta=case.beta,
                   ridge=case.ridge, kappa=KAPPA, store_theta=False)


def null(name: str, n_neurons: int, runs: tuple[int, ...], kinds: tuple[str, ...], repeat: int,
         rng: np.random.Generator) -> dict[str, float]:
    """Return the p-values of comparisons with the right equation."""
    case, found, first = CASES[name], {}, 0
    shared = isinstance(case, SharedNoise)
    made = case.particles(n_neurons, sum(runs), rng) if shared else runs_of(name, n_neurons, sum(runs), rng)
    for n in runs:
        own = slice(first, first + n)
        part = (made[0], made[1][own]) if shared else replace(made, coordinates=made.coordinates[own],
                                                              risk=made.risk[own])
        for kind in ("observed",) if shared else kinds:
            of_case = kind in ("predicted", "measured")
            scatter = scatter_of(name, n_neurons, kind == "measured") if of_case else kind
            found[f"{kind} {n}"] = compare(solution_of(name, "right"), part, scatter=scatter, n_null=N_NULL,
                                           rng=[repeat, n]).p_value
        first += n
    return found


def power(name: str, n_neurons: int, n_runs: int, repeat: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the p-values of comparisons with the wrong equations."""
    sgd, scatter = runs_of(name, n_neurons, n_runs, rng), scatter_of(name, n_neurons)
    return {f"predicted {change}": compare(solution_of(name, change), sgd, scatter=scatter, n_null=N_NULL,
                                           rng=[repeat, n_runs]).p_value for change in CASES[name].wrong}


def interval(count: int, total: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of 95 %."""
    low = float(betaincinv(count, total - count + 1, 0.025)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0
    return low, high


def report(title: str, result: Any, words: str) -> None:
    print(f"\n{title}: {words}")
    print(f"{'scatter':<10} {'':<12}" + "".join(f"  {f'level {level:g}':<32}" for level in LEVELS) + "  median p")
    for key in result.values:
        p = np.asarray(result.values[key])
        line = f"{key.split(' ', 1)[0]:<10} {key.split(' ', 1)[1]:<12}"
        for level in LEVELS:
            count = int(np.sum(p <= level))
            low, high = interval(count, p.size)
            line += f"  {f'{count:3d} of {p.size:3d} = {count / p.size:.3f} [{low:.3f}, {high:.3f}]':<32}"
        print(f"{line}  {np.median(p):8.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="repetitions of each null comparison")
    parser.add_argument("--power-seeds", type=int, help="repetitions of each wrong one; a fifth by default")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--neurons", type=int, default=100, help="width of the networks of null comparisons")
    parser.add_argument("--scatter", nargs="+", default=["predicted"], help="null laws whose false alarms are counted",
                        choices=["predicted", "measured", "observed", "bootstrap"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--workers", type=int, help="processes; one for each core by default")
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    options = parser.parse_args()
    seeds = options.seeds // 10 if options.quick else options.seeds
    seeds_of_power = options.power_seeds or max(seeds // 5, 1)
    for name in options.cases:
        case, start = CASES[name], time.perf_counter()
        if case.wrong:
            points = [{"name": name, "n_neurons": 800, "n_runs": 5, "repeat": k} for k in range(seeds_of_power)]
            found = wg.sweep(power, points, rng=7001, executor=options.workers, progress=True)
            report(case.title, found, "wrong equations that are found by 5 runs")
        else:
            points = [{"name": name, "n_neurons": options.neurons, "runs": tuple(options.runs),
                       "kinds": tuple(options.scatter), "repeat": k} for k in range(seeds)]
            found = wg.sweep(null, points, rng=7003, executor=options.workers, progress=True)
            report(case.title, found, f"false alarms of networks of {options.neurons} neurons, by number of runs")
        print(f"step {case.step_size:g}, t = {', '.join(f'{t:g}' for t in case.t)}; "
              f"{time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
