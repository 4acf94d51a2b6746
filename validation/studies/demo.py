"""The demo: the isotropic Gaussian model solved, SGD run beside it, and the two compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wgflow.errors import StorageError
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solution import Solution
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ..comparison import Comparison, compare
from ..particles import SGDResult
from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table, flow_times
from .pictures import save_picture

__all__ = ["SGD_TIMES", "STUDY", "Demo", "DemoResult"]

#: Times at which SGD and the PDE are compared.
SGD_TIMES = (0.0, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 3.0)
#: Scale of the initial weights.
_KAPPA = 0.8


class DemoResult(NamedTuple):
    """The solution, the SGD runs and their comparison."""

    sol: Solution
    sgd: SGDResult
    comparison: Comparison

    @property
    def passed(self) -> bool:
        """Whether both the comparison and the certificate passed."""
        return self.comparison.passed and self.sol.certificate.ok

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write ``comparison.png``, ``solution.png`` and ``report.txt`` into a folder, and return their paths.

        Raises
        ------
        StorageError
            If a file cannot be written.
        """
        paths = folder / "comparison.png", folder / "solution.png", folder / "report.txt"
        self.comparison.plot(paths[0])
        self.sol.plot(paths[1])
        report = "\n\n".join([self.comparison.verdict, self.comparison.table(), self.sol.explain()])
        try:
            paths[2].write_text(report + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {paths[2]}: {error}") from error
        return paths


@dataclass(frozen=True)
class Demo(Study):
    """Two classes of Gaussian data in 40 dimensions, a two-layer network, and the flow of the law of |w|.

    Parameters
    ----------
    neurons : int
        Width of the networks.
    step_size : float
        Step of SGD.
    n_runs : int
        Independent SGD runs.
    cells : int
        Cells of the PDE's grid.
    seed : int
        Seed of the SGD runs.
    """

    name = "demo"
    title = "the demo: SGD on two isotropic Gaussians against the reduced PDE, d = 40"

    neurons: int = 800
    step_size: float = 1e-5
    n_runs: int = 3
    cells: int = 600
    seed: int = 7

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        study = Demo(self.neurons, 5.0 * self.step_size, self.n_runs, self.cells, self.seed) if quick else self
        sol, _, comparison = study.result(folder, fresh=fresh)
        conventions = ("x ~ N(0, tau^2 I_40), tau_+^2 = 1.8, tau_-^2 = 0.2; w ~ N(0, 0.8^2 I/d); step size "
                       f"{study.step_size:g}, t = steps times step size (xi = 1): d rho/dt = 2 div(rho grad Psi), "
                       "no noise, no ridge.")
        checks = (Check.inside(comparison), Check("the certificate of the PDE", sol.certificate.ok))
        pictures = (save_picture(comparison.plot(), folder / "comparison.png", conventions),
                    save_picture(sol.plot(), folder / "solution.png", conventions))
        rows = [tuple(row.values()) for row in comparison.rows]
        return StudyReport(self.name, self.title, conventions, checks,
                           {"comparison": Table(tuple(comparison.rows[0]), rows)}, {"PDE": sol.explain()},
                           pictures)

    def result(self, folder: Path, *, fresh: bool = False, say: Callable[[str], object] | None = None) -> DemoResult:
        """Solve, run SGD (or read the runs kept in the folder) and compare.

        Parameters
        ----------
        folder : Path
            An existing folder for the SGD runs.
        fresh : bool
            Run SGD again even if its results are kept in the folder.
        say : callable, optional
            Called with a line of text after each part, such as ``print``.
        """
        say = (lambda line: None) if say is None else say
        start, t_end = time.perf_counter(), SGD_TIMES[-1]
        model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
        rho0 = model.initial_density(_KAPPA, model.grid(cells=self.cells))
        sol = solve(model.energy(), rho0, (0.0, t_end), FiniteVolume(), t_eval=flow_times(SGD_TIMES, t_end, 61),
                    time_scale=model.time_scale, progress=True)
        say(f"PDE      {sol.certificate.n_accepted} steps on {self.cells} cells in "
            f"{time.perf_counter() - start:.1f} s, risk {model.risk(sol.densities[0]):.4f} -> "
            f"{model.risk(sol.densities[-1]):.4f}")
        sol.estimate_error(functional=model.risk)
        start = time.perf_counter()
        sgd = kept_sgd_runs(model, folder, n_neurons=self.neurons, step_size=self.step_size, t_eval=SGD_TIMES,
                            seed=self.seed, n_runs=self.n_runs, kappa=_KAPPA, fresh=fresh)
        say(f"SGD      {self.n_runs} run{'s' if self.n_runs > 1 else ''} of {self.neurons} neurons in 40 dimensions, "
            f"{round(t_end / self.step_size)} steps each, in {time.perf_counter() - start:.1f} s, "
            f"risk -> {', '.join(f'{r:.4f}' for r in sgd.risk[:, -1])}")
        start = time.perf_counter()
        comparison = compare(sol, sgd)
        say(f"Compare  {comparison.inside.size} laws, moments and risks against computed bands "
            f"in {time.perf_counter() - start:.1f} s")
        return DemoResult(sol, sgd, comparison)


STUDY = Demo()
