"""Small runs of every method that keeps checkpoints, and what tells two results apart: a digest of every bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import wgflow as wg

LINE = wg.Grid((-3, 3), cells=40, boundary="no-flux")
PLANE = wg.Grid([(-2, 2), (0, 1)], cells=(10, 8), boundary=("no-flux", "periodic"))
NOISE = wg.Entropy(4.0)
WELL = wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
PULL = wg.Interaction(wg.Convolution(lambda z: z**2 / 2))
TROUGH = wg.Potential(lambda x, y: x**2 / 2 + 0.1 * np.sin(2 * np.pi * y))
BUMP = wg.Density.gaussian(LINE, mean=0.5, cov=0.3)
WAVE = wg.Density.from_function(PLANE, lambda x, y: 1.1 + np.sin(x + 2 * np.pi * y))


def clock(t: float) -> float:
    return 1.0 + t


@dataclass(frozen=True)
class Run:
    """A run: what it solves, by what, and what a resumed run has to be given again."""

    name: str
    energy: wg.FreeEnergy
    rho0: wg.Density
    method: Any
    again: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    def solve(self, **more) -> wg.Solution:
        return wg.solve(self.energy, self.rho0, (0, 1), **{"method": self.method, **self.options, **self.again, **more})

    def resume(self, path, **more) -> wg.Solution:
        return wg.resume(path, energy=self.energy, **{**self.again, **more})

    def cut(self, steps: int) -> Any:
        """Return the method with a limit of steps."""
        return replace(self.method, max_steps=steps)


FV = wg.FiniteVolume
RUNS = [
    Run("line", NOISE + WELL + PULL, BUMP, FV(dt=0.005)),
    Run("adaptive", NOISE + WELL, BUMP, FV(rtol=1e-9)),
    Run("midpoint", NOISE + WELL + PULL, BUMP, FV(dt=0.01, scheme="midpoint")),
    Run("plane", NOISE + TROUGH, WAVE, FV(dt=0.01), options={"t_eval": [0.1, 0.5, 1.0]}),
    Run("clock", NOISE + WELL, BUMP, FV(dt=0.01, order=2), again={"time_scale": clock}),
    Run("porous", wg.PowerEntropy(2.0) + WELL, BUMP, FV(dt=0.01)),
    Run("quantile", NOISE + WELL, BUMP, wg.JKO(0.02)),
    Run("linearized", NOISE + WELL, BUMP, wg.JKO(0.02, "linearized")),
]


def digest(solution: wg.Solution) -> str:
    """Return the SHA-256 of times, laws, history and certificate."""
    found = hashlib.sha256()
    for array in (solution.t, solution.energy, *(rho.values for rho in solution.densities),
                  *solution.history.to_dict().values()):
        found.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    proof = {name: value for name, value in solution.certificate.to_dict().items() if name != "settings"}
    found.update(repr(proof).encode())
    return found.hexdigest()


def digests() -> dict[str, str]:
    """Return the digest of every run."""
    return {run.name: digest(run.solve()) for run in RUNS}
