"""Hashes of about fifty runs, recorded before and compared after a change that should not change any bit.

    python benchmarks/reference_runs.py record before.json      # with the code as it was
    python benchmarks/reference_runs.py compare before.json     # with the code as it is now, on the same machine

A run is hashed by the bytes of its times, densities (or atoms), energies and history, so that a change of one last bit
in one accepted step shows. Only public names are used: files and classes may move between the two commands. The bits
depend on the processor and on the versions of NumPy, SciPy and Numba, so hashes of another machine say nothing; the
file names the versions, and ``compare`` refuses others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import wgflow as wg

LINE = wg.Grid((-3, 3), cells=60)
PLANE = wg.Grid([(-2, 2), (-2, 2)], cells=(20, 24))
CIRCLE = wg.Grid((0, 2 * math.pi), cells=48, boundary="periodic")
TORUS = wg.Grid([(0, 2 * math.pi), (0, 1)], cells=(18, 16), boundary="periodic")
STRIP = wg.Grid([(-2, 2), (0, 1)], cells=(20, 16), boundary=("no-flux", "periodic"))
SPACE = wg.Grid([(-2, 2)] * 3, cells=(10, 11, 12))
FOUR = wg.Grid([(-2, 2)] * 4, cells=(6, 7, 6, 7))
GRADED = wg.Grid.graded((-3, 3), 50, lambda x: 1 + np.exp(-4 * x * x))
RADIUS = wg.Grid((0.5, 4), cells=50, log_weight=wg.grids.log_power_cell_average(np.linspace(0.5, 4, 51), 4))


def double_well(*x):
    """Return a double well along the first axis, tilted, a trap along the others."""
    return x[0] ** 4 / 4 - x[0] ** 2 / 2 + 0.2 * x[0] + sum(c * c for c in x[1:])


def bump(z):
    """Return an attraction that is not a polynomial."""
    return -np.exp(-z * z)


def start(grid: wg.Grid) -> wg.Density:
    """Return a Gaussian off the center."""
    return wg.Density.gaussian(grid, [0.4] + [0.1] * (grid.ndim - 1), [0.3] * grid.ndim)


def wave(grid: wg.Grid) -> wg.Density:
    """Return a smooth law on a grid with periodic axes."""
    return wg.Density.from_function(grid, lambda *x: 1.2 + np.cos(x[0]) + 0.1 * sum(np.sin(6.2 * c) for c in x[1:]))


def spread(beta=4.0, U=None, V=double_well, extra=None):
    """Return the sum of entropy, potential, and the other terms given."""
    energy = wg.Entropy(beta) + wg.Potential(V)
    energy = energy if U is None else energy + wg.Interaction(U)
    return energy if extra is None else energy + extra


def moving(t):
    """Return a trap that moves."""
    return wg.Potential(lambda *x: sum((c - t) ** 2 for c in x) / 2)


def kuramoto(grid):
    """Return the energy of noisy oscillators (Kuramoto)."""
    return wg.Entropy(2.0) + wg.Interaction(wg.LowRank(lambda x: np.stack([np.cos(x), np.sin(x)]), [-1.0, -1.0]))


def volumes(energy, rho0, t_end=0.3, **options):
    """Return a run of FiniteVolume, as a function of nothing."""
    settings = {key: options.pop(key) for key in ("dt", "rtol", "scheme", "corrected") if key in options}
    return lambda: wg.solve(energy, rho0, (0, t_end), method=wg.FiniteVolume(**settings), **options)


def jko(energy, rho0, t_end=0.2, tau=0.1, **settings):
    """Return a run of JKO, as a function of nothing."""
    return lambda: wg.solve(energy, rho0, (0, t_end), method=wg.JKO(tau=tau, **settings))


def isotropic(**options):
    """Return the smallest network, on its own grid, with noise or without."""
    model = wg.reduced_models.IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    grid = model.grid(cells=60)
    return wg.solve(model.energy(**options), model.initial_density(0.8, grid), (0, 0.5), time_scale=model.time_scale)


def relu():
    """Return a network of rectifiers, two coordinates or more."""
    model = wg.reduced_models.ReLUNetwork(d=10, delta=0.5, s0=3)
    grid = model.grid(cells=tuple([6] * model.n_coordinates))
    return wg.solve(model.energy(), model.initial_density(0.4, grid, width=0.3), (0, 0.05), time_scale=model.time_scale)


def sgd():
    """Return SGD in the full space."""
    model = wg.reduced_models.IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    runs = wg.validation.run_sgd(model, 20, 1e-3, [0.0, 0.1, 0.2], rng=7, n_runs=2, beta=50.0, ridge=0.01)
    return [runs.t, runs.theta, runs.coordinates, runs.risk]


def comparison():
    """Compare Langevin particles with their equation."""
    model = wg.reduced_models.IsotropicGaussian(d=10, tau_plus2=1.8, tau_minus2=0.2)
    times = [0.0, 0.1, 0.2]
    sol = wg.solve(model.energy(), model.initial_density(0.8, model.grid(cells=80)), (0, 0.2), t_eval=times,
                   time_scale=model.time_scale)
    found = wg.validation.compare(sol, wg.validation.run_sgd(model, 40, 1e-3, times, rng=7, n_runs=2))
    return [found.difference, found.lower, found.upper, found.inflation]


def resting(energy, grid, **options):
    """Return a stationary state, as a function of nothing."""
    def find():
        star = wg.stationary(energy, grid, **options)
        return [star.density.values, np.array([star.energy, star.residual])]

    return find


def atoms(noise: bool):
    """Return the flow of points that attract each other in a double well."""
    law = wg.Atoms(np.linspace(-1.5, 1.5, 30)[None, :], np.full(30, 1 / 30))
    energy = wg.Potential(double_well) + wg.Interaction(wg.Convolution(bump))
    if noise:
        return wg.solve(energy + wg.Entropy(4.0), law, (0, 0.3), method=wg.Lagrangian(rng=7))
    return wg.solve(energy, law, (0, 0.3), method=wg.Lagrangian())


def resumed():
    """Return a run that is resumed from its checkpoint."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.ckpt.npz"
        method = wg.FiniteVolume(max_steps=9)
        energy = spread(U=bump)
        wg.solve(energy, start(LINE), (0, 0.3), method=method, checkpoint=path, throw=False)
        return wg.resume(path, energy=energy, method=wg.FiniteVolume())


POROUS = wg.PowerEntropy(2.0) + wg.Potential(lambda *x: sum(c * c for c in x) / 2)
HARMONIC = wg.Entropy(2.0) + wg.Potential(lambda *x: sum(c * c for c in x) / 2)

RUNS: dict[str, Callable] = {
    "fv 1-D linear": volumes(spread(), start(LINE)),
    "fv 1-D linear, fixed dt": volumes(spread(), start(LINE), dt=0.02),
    "fv 1-D linear, t_eval and clock": volumes(spread(), start(LINE), t_eval=[0.1, 0.25],
                                               time_scale=lambda t: 1 + 0.5 * math.sin(5 * t)),
    "fv 1-D plain fluxes": volumes(spread(), start(LINE), corrected=False),
    "fv 1-D beta = infinity": volumes(spread(math.inf), start(LINE)),
    "fv 1-D interaction": volumes(spread(U=bump), start(LINE)),
    "fv 1-D interaction, midpoint": volumes(spread(U=bump), start(LINE), scheme="midpoint"),
    "fv 1-D interaction, midpoint, long steps": volumes(spread(U=lambda z: -4 * np.exp(-z * z)), start(LINE), 5.0,
                                                        scheme="midpoint", dt=1.0),
    "fv 1-D interaction, long steps, fallback": volumes(
        spread(20.0, lambda z: 9 * np.cos(9 * z)), start(LINE), 4.0, dt=1.0),
    "fv 2-D interaction, long steps, fallback": volumes(
        spread(20.0, lambda x, y: 9 * np.cos(9 * x) * np.cos(9 * y)), start(PLANE), 2.0, dt=1.0),
    "fv 1-D driven, interaction, long steps, fallback": volumes(
        spread(20.0, lambda z: 9 * np.cos(9 * z), extra=wg.TimeDependent(moving)), start(LINE), 2.0, dt=1.0),
    "fv 1-D dense kernel": volumes(spread(U=wg.Dense(lambda x, y: np.cos(x * y))), start(LINE)),
    "fv 1-D driven": volumes(wg.Entropy(2.0) + wg.TimeDependent(moving), start(LINE)),
    "fv 1-D driven, midpoint, interaction": volumes(
        spread(2.0, bump, extra=wg.TimeDependent(moving)), start(LINE), scheme="midpoint"),
    "fv 1-D driven, nonlinear": volumes(wg.PowerEntropy(2.0) + wg.TimeDependent(moving), start(LINE), 0.1),
    "fv 1-D driven, nonlinear, midpoint": volumes(
        wg.PowerEntropy(2.0) + wg.TimeDependent(moving) + wg.Interaction(bump), start(LINE), 0.1, scheme="midpoint"),
    "fv 1-D graded": volumes(spread(), start(GRADED)),
    "fv 1-D weighted": volumes(wg.Entropy(5.0) + wg.Potential(lambda r: (r - 2) ** 2),
                               wg.Density.gaussian(RADIUS, 2.0, 0.2)),
    "fv 1-D periodic, low rank": volumes(kuramoto(CIRCLE), wave(CIRCLE), 1.0),
    "fv 1-D porous medium": volumes(POROUS, start(LINE)),
    "fv 1-D porous medium, interaction, midpoint": volumes(
        POROUS + wg.Interaction(bump), start(LINE), scheme="midpoint"),
    "fv 1-D entropy and power, weighted": volumes(wg.Entropy(5.0) + wg.PowerEntropy(2.0),
                                                  wg.Density.gaussian(RADIUS, 2.0, 0.2), 0.1),
    "fv 1-D log gas": volumes(wg.Entropy(50.0) + wg.Potential(lambda x: x * x / 2)
                              + wg.Interaction(wg.interactions.log(-1.0)), start(LINE)),
    "fv 2-D linear": volumes(spread(), start(PLANE)),
    "fv 2-D interaction": volumes(spread(U=lambda x, y: -np.exp(-x * x - y * y)), start(PLANE)),
    "fv 2-D interaction, midpoint": volumes(
        spread(U=lambda x, y: -np.exp(-x * x - y * y)), start(PLANE), scheme="midpoint"),
    "fv 2-D porous medium": volumes(POROUS, start(PLANE), 0.1),
    "fv 2-D torus": volumes(wg.Entropy(3.0) + wg.Potential(lambda x, y: np.cos(x) + np.cos(2 * math.pi * y) / 3),
                            wave(TORUS)),
    "fv 2-D mixed ends": volumes(wg.Entropy(3.0) + wg.Potential(lambda x, y: x * x + np.cos(2 * math.pi * y) / 3),
                                 start(STRIP)),
    "fv 3-D linear": volumes(spread(), start(SPACE), 0.1),
    "fv 4-D linear": volumes(spread(), start(FOUR), 0.1),
    "fv checkpoint and resume": resumed,
    "model isotropic, no noise": isotropic,
    "model isotropic, noise and ridge": lambda: isotropic(beta=100.0, ridge=0.01),
    "model rectifiers": relu,
    "jko quantile": jko(spread(U=bump), start(LINE)),
    "jko quantile, order 2": jko(HARMONIC, start(LINE), order=2),
    "jko quantile, porous medium": jko(POROUS, start(LINE)),
    "jko quantile, adaptive": jko(HARMONIC, start(LINE), adaptive=True),
    "jko linearized": jko(spread(U=bump), start(LINE), inner="linearized"),
    "jko linearized, order 2": jko(HARMONIC, start(LINE), inner="linearized", order=2),
    "jko linearized, published metric": jko(HARMONIC, start(LINE), inner="linearized", options={"metric": "linear"}),
    "jko linearized 2-D": jko(HARMONIC, start(PLANE), 0.1, inner="linearized"),
    "jko back-and-forth": jko(HARMONIC, start(LINE), inner="back-and-forth"),
    "jko back-and-forth 2-D": jko(HARMONIC, start(PLANE), 0.1, inner="back-and-forth"),
    "jko entropic": jko(HARMONIC, start(LINE), inner="entropic"),
    "jko entropic 2-D": jko(HARMONIC, start(PLANE), 0.1, inner="entropic"),
    "lagrangian, no noise": lambda: atoms(False),
    "lagrangian, Langevin": lambda: atoms(True),
    "lagrangian from a density": lambda: wg.solve(wg.Potential(double_well), start(LINE), (0, 0.3),
                                                  method=wg.Lagrangian()),
    "fipy": lambda: wg.solve(spread(), start(LINE), (0, 0.1), method=wg.FiPy(dt=0.02)),
    "sgd": sgd,
    "compare with sgd": comparison,
    "stationary, dual": resting(wg.Entropy(3.0) + wg.Potential(double_well)
                                + wg.Interaction(wg.LowRank(lambda x: x[None] / 2)), LINE),
    "stationary, fixed point": resting(spread(U=bump), LINE, method="fixed-point"),
}


def digest(result) -> str:
    """Return the SHA-256 digest of the result of a run."""
    if isinstance(result, list):
        arrays = result
    else:
        laws = [law.points if isinstance(law, wg.Atoms) else law.values for law in result.densities]
        history = result.history.to_dict()
        steps = [[step.energy, step.w2_squared, step.residual] for step in result.jko_steps]
        arrays = [result.t, *laws, result.energy, *(history[name] for name in sorted(history)), np.array(steps)]
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array, dtype=float)
        found.update(f"{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions on which the bits depend beside the code."""
    import platform

    import numba
    import scipy

    return {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
            "numba": numba.__version__, "machine": platform.machine()}


def hashes(chosen: str) -> dict[str, str]:
    """Return the hash of each run, or the error it ended with."""
    found = {}
    for name, run in RUNS.items():
        if chosen in name:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found[name] = digest(run())
                except wg.WGFlowError as error:
                    found[name] = f"{type(error).__name__}: {error}"
            print(f"{found[name][:60]:16s}  {name}", flush=True)
    return found


def main() -> int:
    """Record or compare; the exit code says whether all agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    if arguments.command == "record":
        arguments.file.write_text(json.dumps({"versions": versions(), "runs": hashes(arguments.only)}, indent=1) + "\n")
        return 0
    stored = json.loads(arguments.file.read_text())
    if stored["versions"] != versions():
        print(f"{arguments.file} was recorded with {stored['versions']}, this is {versions()}", file=sys.stderr)
        return 2
    now = hashes(arguments.only)
    differing = [name for name in now if stored["runs"].get(name) != now[name]]
    print(f"\n{len(now) - len(differing)} of {len(now)} runs have the same bits")
    for name in differing:
        print(f"  differs: {name} ({stored['runs'].get(name, 'not recorded')[:60]} -> {now[name][:60]})")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
