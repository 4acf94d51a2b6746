"""Long runs of every method: mass, sign and energy at every step, states of rest, and faults put into a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from figures import Figure, Scale, counted
from runs import BUMP, FV, LINE, NOISE, PLANE, RUNS, WELL, Run

import wgflow as wg

#: Relative change of the mass and of a state of rest, rise of the energy by max(1, |F|), and the defect of its balance.
MASS, REST, RISE, BALANCE = 1e-13, 1e-12, 1e-13, 1e-10


def _lengthened(run: Run, steps: int) -> tuple[int, float, float, float]:
    """Return steps, worst change of the mass, lowest value and worst rise of the energy of a run of so many steps."""
    fixed = run.method if getattr(run.method, "rtol", None) is None else FV(dt=0.01)
    length = fixed.tau if isinstance(fixed, wg.JKO) else fixed.dt
    masses, lowest = [math.fsum(run.rho0.masses.ravel())], [math.inf]

    def look(t, rho):
        masses.append(math.fsum(rho.masses.ravel()))
        lowest.append(float(rho.values.min()))

    solution = wg.solve(run.energy, run.rho0, (0, steps * length), fixed, callback=look, t_eval=[steps * length],
                        **run.again)
    F = solution.history.energy
    rise = np.diff(F) / np.maximum(1.0, np.abs(F[:-1]))
    drift = np.abs(np.array(masses) / masses[0] - 1).max()
    return len(masses) - 1, float(drift), min(lowest), float(rise.max(initial=0.0))


def _of_every_method(scale: Scale) -> list[Figure]:
    steps, drifts, lowest, rises = 0, [], [], []
    for run in RUNS:
        count = scale.pick(100, 5000, 100_000)
        taken, drift, low, rise = _lengthened(run, count // 10 if isinstance(run.method, wg.JKO) else count)
        steps += taken
        drifts.append(drift), lowest.append(low), rises.append(rise)
    told = tuple(f"{run.name}: mass {d:.2g}, rise {r:.2g}" for run, d, r in zip(RUNS, drifts, rises))
    return [Figure("long", "largest change of the mass, every method", max(drifts), MASS, steps, "", told, "F1"),
            Figure("long", "lowest density at any step", min(lowest), 0.0, steps, "", told, "F2", True),
            Figure("long", "largest rise of the energy by max(1, |F|)", max(rises), RISE, steps, "", told, "F3")]


def _balance() -> list[Figure]:
    """Energy lost against dissipation: sums over steps that need no quadrature to be compared."""
    proofs = {run.name: run.solve().certificate for run in RUNS}
    gaps = {name: proof.dissipation_gap for name, proof in proofs.items() if proof.dissipation_gap is not None}
    steps = {name: proof.edi_defect for name, proof in proofs.items() if proof.edi_defect is not None}
    return [Figure("long", "energy lost beyond what steps dissipate", max(gaps.values()), BALANCE, len(gaps),
                   "", (str(gaps),), "F3"),
            Figure("long", "energy-dissipation inequality of JKO, excess", max(steps.values()), BALANCE, len(steps),
                   "", (str(steps),), "F3")]


def _at_rest(scale: Scale) -> Figure:
    """Start at the discrete Gibbs state and go on: the largest relative change of a cell."""
    steps, moved, taken = scale.pick(100, 5000, 100_000), [], 0
    wells = (LINE, lambda x: x**4 / 4 - x**2 / 2), (PLANE, lambda x, y: x**2 / 2 + 0.1 * np.sin(2 * np.pi * y))
    for grid, V in wells:
        energy = NOISE + wg.Potential(V)
        start = wg.Density.from_values(grid, np.exp(-4.0 * V(*grid.mesh())), normalize=True)
        for order in (2, None):
            sol = wg.solve(energy, start, (0, 0.01 * steps), FV(dt=0.01, order=order), t_eval=[0.01 * steps])
            moved.append(float(np.abs(sol.final.values / start.values - 1).max()))
            taken += sol.certificate.n_accepted
    return Figure("long", "largest relative change of a Gibbs state", max(moved), REST, int(taken), id="F4")


def _spoiled(value, what: str):
    if what == "raises":
        raise KeyError("in the middle")
    return value * (math.nan if what == "nan" else math.inf)


def _faults(scale: Scale) -> Figure:
    """NaN, infinity or an exception from a user's function, from a call or a time on: no step is accepted with it."""
    rng, wrong, count = np.random.default_rng(scale.seed), [], scale.pick(6, 100, 600)
    for k in range(count):
        what, call, end = ("nan", "inf", "raises")[k % 3], int(rng.integers(1, 60)), float(rng.uniform(0.05, 0.9))
        seen: dict[str, Any] = {"calls": 0, "running": False, "late": 0}

        def clock(t, what=what, end=end):
            return 1.0 + t if t <= end else _spoiled(1.0, what)

        def kernel(x, y, what=what, call=call, seen=seen):
            seen["calls"] += seen["running"]
            return np.cos(x - y) if seen["calls"] < call else _spoiled(np.cos(x - y), what)

        def look(t, rho, call=call, end=end, seen=seen, by_time=bool(k % 2)):
            seen["running"] = True
            seen["late"] += t > end if by_time else seen["calls"] >= call
            seen["late"] += not np.isfinite(rho.values).all()

        told = f"case {k} ({what}, {f'time_scale after {end:.3g}' if k % 2 else f'U at call {call}'})"
        try:
            if k % 2:
                wg.solve(NOISE + WELL, BUMP, (0, 1), FV(dt=0.01), time_scale=clock, callback=look)
            else:
                energy = NOISE + wg.Interaction(wg.Dense(kernel, table=False))
                wg.solve(energy, BUMP, (0, 1), FV(dt=0.01), callback=look)
            wrong.append(f"{told}: the run goes on")
        except wg.WGFlowError:
            if seen["late"]:
                wrong.append(f"{told}: {seen['late']} steps were accepted after it")
        except Exception as error:
            wrong.append(f"{told}: {type(error).__name__}: {error}")
    return counted("F15", "long", "faults within a step that are not seen in it", count, wrong)


def long_runs(scale: Scale) -> list[Figure]:
    """A hundred thousand steps of finite volumes at full scale, and a tenth as many of JKO."""
    return [*_of_every_method(scale), *_balance(), _at_rest(scale), _faults(scale)]
