"""Peaks of memory against what a run asks for before it begins: one problem for each method and form of an interaction.

``python benchmarks/storm/predictions.py`` prints the table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import children
import numpy as np
from figures import Figure, Scale

import wgflow as wg
from wgflow.calls.memory import held
from wgflow.flows import make_flow

MEBIBYTE = 2**20
#: A peak may be this multiple of the prediction, and a prediction that of the peak, and MiB more.
FACTOR, PREDICTED_FACTOR, ABOVE = 1.1, 2.0, 50.0


def bowl(*x):
    return sum(v**2 for v in x) / 2


def linear() -> wg.FreeEnergy:
    return wg.Entropy(4.0) + wg.Potential(bowl)


def porous() -> wg.FreeEnergy:
    return wg.PowerEntropy(2.0) + wg.Potential(bowl)


def with_pairs(form: Callable[[], Any]) -> Callable[[], wg.FreeEnergy]:
    return lambda: linear() + wg.Interaction(form())


def well(*z):
    return -np.exp(-sum(v**2 for v in z))


def features(*x):
    return np.stack([sum(v**k for v in x) for k in range(1, 9)])


def pairs(*a):
    half = len(a) // 2
    return np.exp(-sum((x - y) ** 2 * (1 + 0.1 * np.cos(x * y)) for x, y in zip(a[:half], a[half:])))


def waves(*a):
    half = len(a) // 2
    return sum(np.cos(x * y) for x, y in zip(a[:half], a[half:]))


@functools.cache
def given_table() -> np.ndarray:
    """Return a table that the user has: it is there before a run."""
    return np.ones((3000, 3000))


@dataclass(frozen=True)
class Case:
    """A kind of run: its energy, its method, a small size to compile for and large ones to measure."""

    name: str
    energy: Callable[[], Any]
    method: Any
    small: tuple[int, ...]
    large: tuple[tuple[int, ...], ...]
    options: dict[str, Any] = field(default_factory=dict)
    atoms: bool = False
    gaussian: bool = False
    end: float = 0.02

    def law(self, size: tuple[int, ...]) -> Any:
        if self.atoms:
            n = size[0]
            return wg.Atoms(np.random.default_rng(7).normal(size=(2, n)), np.full(n, 1.0 / n))
        grid = wg.Grid([(-3, 3)] * len(size), cells=size)
        if self.gaussian:
            return wg.Density.gaussian(grid, [0.5] * len(size), [0.5] * len(size))
        return wg.Density.uniform(grid)

    def solve(self, size: tuple[int, ...]) -> str:
        solution = wg.solve(self.energy(), self.law(size), (0.0, self.end), self.method, **self.options)
        return solution.certificate.scheme

    def predicted(self, size: tuple[int, ...]) -> float:
        """Return the bytes that a run asks for, with those of its flow."""
        times, mobility = (self.options.get(name) for name in ("t_eval", "mobility"))
        flow = make_flow(self.energy(), self.law(size), (0.0, self.end), times, 1.0, self.method, mobility)
        self.method.begin(flow)
        return held(flow) + flow.reserved


def _finite_volume(**settings: Any) -> wg.FiniteVolume:
    return wg.FiniteVolume(**{"dt": 0.01, **settings})


LINE, PLANE, SPACE = ((20_000,), (400_000,)), ((200, 200), (500, 500)), ((32,) * 3, (64,) * 3)
MEDIUM = ((60, 60), (160, 160))
CASES = (
    Case("order 4, line", linear, _finite_volume(), (64,), (*LINE, (10**6,))),
    Case("order 4, plane", linear, _finite_volume(), (20, 20), (*PLANE, (1000, 1000))),
    Case("order 4, space", linear, _finite_volume(), (8,) * 3, (*SPACE, (100,) * 3)),
    Case("order 4, four axes", linear, _finite_volume(), (8,) * 4, ((10,) * 4, (20,) * 4)),
    Case("order 4, many snapshots", linear, _finite_volume(), (20, 20), PLANE,
         {"t_eval": np.linspace(0.0, 0.02, 40)}),
    Case("order 4, more steps", linear, _finite_volume(dt=0.001), (20, 20), PLANE),
    Case("order 4, adaptive", linear, _finite_volume(dt=None, rtol=1e-8), (20, 20), ((100, 100), (250, 250)),
         gaussian=True, end=2.0),
    Case("order 2, line", linear, _finite_volume(order=2), (64,), LINE),
    Case("order 2, plane", linear, _finite_volume(order=2), (20, 20), PLANE),
    Case("order 2, space", linear, _finite_volume(order=2), (8,) * 3, SPACE),
    Case("order 2, adaptive", linear, _finite_volume(order=2, dt=None, rtol=1e-6), (20, 20),
         ((100, 100), (250, 250)), gaussian=True, end=2.0),
    Case("no splitting", linear, _finite_volume(splitting="none"), (20, 20), ((100, 100), (300, 300)), gaussian=True),
    Case("midpoint", with_pairs(lambda: wg.Convolution(well)), _finite_volume(scheme="midpoint"), (20, 20), PLANE),
    Case("convolution, line", with_pairs(lambda: wg.Convolution(well)), _finite_volume(), (64,), LINE),
    Case("convolution, plane", with_pairs(lambda: wg.Convolution(well)), _finite_volume(), (20, 20), PLANE),
    Case("convolution, space", with_pairs(lambda: wg.Convolution(well)), _finite_volume(), (8,) * 3, SPACE),
    Case("named kernel", with_pairs(lambda: wg.interactions.log()), _finite_volume(), (20, 20), PLANE),
    Case("low rank", with_pairs(lambda: wg.LowRank(features)), _finite_volume(), (20, 20), PLANE),
    Case("found to be of low rank", with_pairs(lambda: waves), _finite_volume(), (200,), ((4000,), (40_000,))),
    Case("dense", with_pairs(lambda: wg.Dense(pairs, table=True)), _finite_volume(), (64,), ((2000,), (5000,))),
    Case("dense by rows", with_pairs(lambda: wg.Dense(pairs, table=False)), _finite_volume(), (64,), ((2000,),)),
    Case("a given table", with_pairs(given_table), _finite_volume(), (3000,), ((3000,),)),
    Case("mobility", linear, _finite_volume(), (20, 20), PLANE, {"mobility": lambda x, y: 1 + x**2}),
    Case("mobility, mixed terms", linear, _finite_volume(), (20, 20), PLANE, {"mobility": [[1.0, 0.4], [0.4, 1.0]]}),
    Case("changes with time", lambda: linear() + wg.TimeDependent(lambda t: wg.Potential(lambda x, y: x * t)),
         _finite_volume(), (20, 20), PLANE),
    Case("no diffusion", lambda: wg.FreeEnergy([(1.0, wg.Potential(bowl))]), _finite_volume(), (20, 20), PLANE),
    Case("no diffusion, smooth", lambda: wg.FreeEnergy([(1.0, wg.Potential(bowl))]), _finite_volume(dt=None), (64,),
         ((4000,), (16_000,)), gaussian=True),
    Case("porous medium, line", porous, _finite_volume(), (64,), LINE),
    Case("porous medium, plane", porous, _finite_volume(), (20, 20), ((100, 100), (400, 400))),
    Case("porous medium, space", porous, _finite_volume(), (8,) * 3, SPACE),
    Case("JKO quantile", linear, wg.JKO(tau=0.01), (64,), ((2000,), (20_000,))),
    Case("JKO linearized, line", linear, wg.JKO(tau=0.01, inner="linearized"), (64,), ((2000,), (20_000,))),
    Case("JKO linearized, plane", linear, wg.JKO(tau=0.01, inner="linearized"), (20, 20), MEDIUM),
    Case("JKO linearized, space", linear, wg.JKO(tau=0.01, inner="linearized"), (8,) * 3, ((16,) * 3,)),
    Case("JKO entropic", linear, wg.JKO(tau=0.01, inner="entropic"), (20, 20), MEDIUM),
    Case("JKO back-and-forth", porous, wg.JKO(tau=0.01, inner="back-and-forth"), (20, 20), MEDIUM),
    Case("characteristics", lambda: wg.FreeEnergy([(1.0, wg.Potential(bowl))]), wg.Lagrangian(), (50,),
         ((10_000,), (100_000,)), atoms=True, end=2.0),
    Case("characteristics, pairs", lambda: wg.Potential(bowl) + wg.Interaction(wg.Dense(pairs)), wg.Lagrangian(),
         (50,), ((500,),), atoms=True),
    Case("Langevin", linear, wg.Lagrangian(dt=0.005, rng=3), (50,), ((10_000,), (100_000,)), atoms=True),
)


def measured(case: Case, size: tuple[int, ...]) -> tuple[float, float, str]:
    """Return the peak of a run and its prediction, in MiB, and what went wrong; in a child that has compiled before."""
    def child() -> tuple[float, float, str]:
        case.solve(case.small)
        run = children.run(lambda: case.solve(size), 500)
        told = children.run(lambda: case.predicted(size) / MEBIBYTE, 500)
        good = run.kind == told.kind == "ok"
        return run.growth, told.value or 0.0, "" if good else f"{run.words} {told.words}"

    ended = children.run(child, 1000)
    return tuple(ended.value) if ended.value else (math.inf, 0.0, ended.words)


def predictions(scale: Scale) -> list[Figure]:
    """Return how far peaks lie above predictions, and predictions above peaks."""
    above, beyond, told = [], [], []
    for case in CASES[::scale.pick(13, 1, 1)]:
        for size in case.large[:1] if scale.size == "tiny" else case.large:
            peak, predicted, words = measured(case, size)
            above.append(math.inf if words else peak - FACTOR * predicted)
            beyond.append(math.inf if words else predicted - PREDICTED_FACTOR * peak)
            told.append(f"{case.name} {size}: {peak:.0f} MiB, predicted {predicted:.0f} {words}")
    first, second = int(np.argmax(above)), int(np.argmax(beyond))
    return [Figure("memory", "peak above 1.1 x predicted", above[first], ABOVE, len(told), "MiB", (told[first],),
                   "F18"),
            Figure("memory", "predicted above 2 x peak", beyond[second], ABOVE, len(told), "MiB", (told[second],),
                   "F18")]


def main() -> None:
    import sys

    print(f"{'run':28}{'size':>22}{'peak':>9}{'predicted':>11}{'ratio':>7}   MiB")
    for case in CASES:
        if sys.argv[1:] and not any(word in case.name for word in sys.argv[1:]):
            continue
        for size in case.large:
            peak, predicted, words = measured(case, size)
            mark = "" if peak <= FACTOR * predicted + ABOVE else "  too little"
            mark += "" if predicted <= PREDICTED_FACTOR * peak + ABOVE else "  too much"
            name = " x ".join(map(str, size))
            print(f"{case.name:28}{name:>22}{peak:9.1f}{predicted:11.1f}{peak / max(predicted, 1e-9):7.2f}{mark} "
                  f"{words}", flush=True)


if __name__ == "__main__":
    main()
