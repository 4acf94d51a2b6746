"""Faults put into the solvers by hand, and whether the certificate sees them; and right runs, which it must pass.

``python benchmarks/fault_injection.py`` prints a line for each fault: the change it makes in the law (L1, or the mean
way of atoms), the certificate's verdict, and the ratio of the defect of the equation to its bound. Each fault changes
one thing by three percent or more, by replacing a function of a solver.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from atom_faults import ATOM_FAULTS

import wgflow as wg
from wgflow.flows import Flow
from wgflow.interactions.operators import ConvolutionOperator
from wgflow.solvers.finite_volume.compact_sweeps import CompactSweeps
from wgflow.solvers.finite_volume.energy_in_time import EnergyInTime
from wgflow.solvers.finite_volume.splitting import LinearSweeps
from wgflow.solvers.jko.quantile.solver import QuantileSolver

Run = Callable[[], wg.Solution]
LINE = wg.Grid((-4, 4), cells=200, boundary="no-flux")
SHORT = wg.Grid((-4, 4), cells=64, boundary="no-flux")
PLANE = wg.Grid([(-3, 3), (-3, 3)], cells=48, boundary="no-flux")
DISK = wg.Grid((0, 4), cells=200, boundary="no-flux",
               log_weight=wg.grids.log_power_cell_average(np.linspace(0, 4, 201), 1.0))


def well(x):
    return x**4 / 4 - x**2 / 2


V = wg.Potential(well)
U = wg.Interaction(wg.Convolution(lambda z: z**2 / 2))
START = wg.Density.gaussian(LINE, 0.5, 0.2)
BOX = wg.Density.from_function(LINE, lambda x: (np.abs(x) < 0.5) * 1.0)


def line(order: int = 2, energy=None, rho0=START, t_end: float = 1.0, **options) -> Run:
    energy = wg.Entropy(4.0) + V + U if energy is None else energy
    return lambda: wg.solve(energy, rho0, (0, t_end), wg.FiniteVolume(order=order), **options)


def plane() -> wg.Solution:
    energy = wg.Entropy(2.0) + wg.Potential(lambda x, y: x**2 / 2 + y**2 + 0.3 * x * y)
    return wg.solve(energy, wg.Density.gaussian(PLANE, (0.7, -0.5), (0.2, 0.3)), (0, 0.5), wg.FiniteVolume(order=2))


def disk() -> wg.Solution:
    rho0 = wg.Density.from_function(DISK, lambda r: r * np.exp(-(r**2)))
    return wg.solve(wg.Entropy(2.0) + wg.Potential(lambda r: r**2 / 2), rho0, (0, 1))


def kick(t_end: float = 2.0) -> wg.Solution:
    """A pulse so short that no step looks at it."""
    pulse = wg.TimeDependent(lambda t: wg.Potential(lambda x: 40.0 * np.exp(-((t - 1.013) / 0.01) ** 2) * x))
    return wg.solve(wg.Entropy(4.0) + V + pulse, START, (0, t_end), wg.FiniteVolume(dt=0.1))


def narrow() -> wg.Solution:
    bump = wg.Interaction(wg.Convolution(lambda z: -3.0 * np.exp(-2.0 * z**2)))
    return wg.solve(wg.Entropy(4.0) + V + bump, START, (0, 1))


def swing() -> wg.Solution:
    trap = wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - np.sin(2 * t)) ** 2 / 2))
    return wg.solve(wg.Entropy(2.0) + trap, START, (0, 2))


def jko(inner: str, tau: float) -> Run:
    rho0 = wg.Density.gaussian(SHORT, 0.5, 0.2)
    return lambda: wg.solve(wg.Entropy(4.0) + V + U, rho0, (0, 1), wg.JKO(tau=tau, inner=inner))


def method(cls: type, name: str, change: Callable[..., Any]) -> AbstractContextManager:
    """Return a context in which a method of a class is ``change(old, self, *args)``."""
    old = getattr(cls, name)

    def changed(self, *args, **options):
        return change(old, self, *args, **options)

    return mock.patch.object(cls, name, changed)


def energy(**factors: float) -> AbstractContextManager:
    """Return a context in which parts of the energy that a solver sees are scaled."""
    found = Flow.__dict__["on_grid"].func

    def scaled(self):
        right = found(self)
        return replace(right, diffusion=right.diffusion * factors.get("diffusion", 1.0),
                       potential=right.potential * factors.get("potential", 1.0),
                       operators=[(c * factors.get("interaction", 1.0), part) for c, part in right.operators],
                       internal=[(c * factors.get("internal", 1.0), part) for c, part in right.internal])

    return mock.patch.object(Flow, "on_grid", property(scaled))


def moves(cls: type, change: Callable[..., Any]) -> AbstractContextManager:
    return method(cls, "move", change)


def short_of(share: float):
    return lambda old, self, m, psi, dt, mode, *rest: (1 - share) * old(self, m, psi, dt, mode, *rest) + share * m


@contextmanager
def one_by_one(fault: AbstractContextManager) -> Iterator[None]:
    """Put a fault into steps that are taken one by one, which compiled loops would not call."""
    with fault, mock.patch("wgflow.solvers.finite_volume.compact_run.field_loop", return_value=None):
        yield


def one_axis(old, self, m, psi, dt, mode, *rest):
    """The drift along the second axis is 5 % too strong."""
    return old(self, m, psi + 0.05 * psi.mean(axis=0), dt, mode, *rest)


FAULTS: list[tuple[str, Run, Callable[[], AbstractContextManager]]] = [
    ("clock 3 % fast", line(), lambda: method(Flow, "elapsed", lambda old, *a: 1.03 * old(*a))),
    ("clock 3 % slow, fourth order", line(4),
     lambda: one_by_one(method(Flow, "elapsed", lambda old, *a: 0.97 * old(*a)))),
    ("a changing clock read at the start", line(time_scale=lambda t: 1.0 + t),
     lambda: method(Flow, "elapsed", lambda old, self, t, dt: dt)),
    ("diffusion 3 % low", line(), lambda: energy(diffusion=0.97)),
    ("diffusion 3 % high, fourth order", line(4), lambda: energy(diffusion=1.03)),
    ("diffusion from a box 3 % low", line(2, wg.Entropy(1.0), BOX), lambda: energy(diffusion=0.97)),
    ("potential 3 % steep", line(), lambda: energy(potential=1.03)),
    ("potential 3 % flat, fourth order", line(4, wg.Entropy(4.0) + V), lambda: energy(potential=0.97)),
    ("potential left out", line(), lambda: energy(potential=0.0)),
    ("interaction halved", line(), lambda: energy(interaction=0.5)),
    ("interaction 3 % strong", line(4), lambda: energy(interaction=1.03)),
    ("interaction left out", line(), lambda: energy(interaction=0.0)),
    ("kernel 3 % wide", narrow,
     lambda: method(ConvolutionOperator, "__init__",
                    lambda old, self, w, *a: old(self, lambda z: w(z / 1.03), *a))),
    ("U rho one cell off", line(), lambda: method(ConvolutionOperator, "apply",
                                                  lambda old, self, m: np.roll(old(self, m), 1))),
    ("steps 3 % short", line(), lambda: moves(LinearSweeps, short_of(0.03))),
    ("steps 3 % short, fourth order", line(4), lambda: one_by_one(moves(CompactSweeps, short_of(0.03)))),
    ("drift along one axis 5 % strong", plane, lambda: moves(LinearSweeps, one_axis)),
    ("nonlinear diffusion 3 % low", line(2, wg.PowerEntropy(2.0), BOX, 0.3), lambda: energy(internal=0.97)),
    ("diffusion along a radius 3 % low", disk, lambda: energy(diffusion=0.97)),
    ("terms in time frozen at the start", swing,
     lambda: method(EnergyInTime, "_at", lambda old, self, t: old(self, 0.0))),
    ("a kick between the steps", kick, nullcontext),
    ("JKO, quantiles: steps of 1.1 tau", jko("quantile", 0.02),
     lambda: method(QuantileSolver, "step", lambda old, self, now, tau, *a: replace(
         old(self, now, 1.1 * tau, *a), tau=tau))),
    *ATOM_FAULTS,
]


def distance(first: wg.Density | wg.Atoms, second: wg.Density | wg.Atoms) -> float:
    """Return how far two laws are apart: L1, or the mean way of the atoms."""
    if isinstance(first, wg.Atoms) and isinstance(second, wg.Atoms):
        return float(np.abs(first.points - second.points).sum(axis=0) @ first.weights)
    return float(np.abs(first.masses - second.masses).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the name of a fault")
    only = parser.parse_args().only
    seen = failed = judged = false_alarms = 0
    right: dict[int, wg.Solution] = {}
    print(f"{'fault':38s} {'L1':>8s}  {'verdict':11s} {'defect':>8s} {'bound':>8s} {'ratio':>7s}   "
          "right run: defect, ratio")
    for name, run, fault in FAULTS:
        if only not in name:
            continue
        true = right.setdefault(id(run), run())
        with fault():
            wrong = run()
            c = wrong.certificate
        moved = distance(wrong.final, true.final)
        good = true.certificate
        judged += 1
        seen += not c.ok
        failed += c.verdict == "failed"
        expected = isinstance(fault(), nullcontext)
        false_alarms += not good.ok and not expected
        ratio = c.equation_defect / c.equation_bound if c.equation_bound else float("nan")
        other = good.equation_defect / good.equation_bound if good.equation_bound else float("nan")
        print(f"{name:38s} {moved:8.1e}  {c.verdict:11s} {c.equation_defect or 0:8.1e} {c.equation_bound or 0:8.1e} "
              f"{ratio:7.2f}   {good.verdict}: {good.equation_defect or 0:.1e}, {other:.3f}", flush=True)
    print(f"{seen} of {judged} faults do not hold, {failed} of them have failed; {false_alarms} right runs do not hold")
    return 0 if seen == judged and not false_alarms else 1


if __name__ == "__main__":
    sys.exit(main())
