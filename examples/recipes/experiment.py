"""An experiment of one's own: how fast a double well forgets where it started, against the temperature.

A `Study` runs, judges itself by checks, and leaves tables and pictures; ``STUDY.run(folder)`` returns the report. The
file is a command too: ``wgflow reproduce examples/recipes/experiment.py --quick``. The truth here is the first
eigenvalue of the generator, known to the exact family `DoubleWellDecay`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import wgflow as wg
from wgflow.validation.exact import DoubleWellDecay
from wgflow.validation.studies.base import Check, Study, StudyReport, Table

BETAS = (2.0, 4.0, 6.0)


class ForgettingTime(Study):
    name = "forgetting-time"
    title = "Relaxation in a double well against the gap of its generator"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        """Solve at each temperature and fit the rate at which the mean decays."""
        rows, certified = [], True
        for beta in BETAS[:2] if quick else BETAS:
            problem = DoubleWellDecay(beta=beta)
            grid = problem.grid(200)
            rate = problem.rates()[0]
            times = np.linspace(1.0, 2.0, 6) / rate
            sol = wg.solve(problem.energy(), problem.initial_density(grid), (0, times[-1]), t_eval=times)
            means = np.array([rho.mean() for rho in sol.densities])
            measured = -np.polyfit(times, np.log(means / means[0]), 1)[0]
            rows.append((beta, rate, measured, measured / rate - 1))
            certified = certified and sol.certificate.ok
        worst = max(abs(row[-1]) for row in rows)
        checks = (Check.at_most(f"rates are off the generator's gap by at most {worst:.1e} of it", worst, 0.01),
                  Check("every certificate holds", certified))
        conventions = "V = x^4/4 - x^2/2, d rho/dt = div(rho grad V) + Laplacian rho / beta."
        return StudyReport(self.name, self.title, conventions, checks,
                           {"rates": Table(("beta", "gap", "measured", "relative error"), rows)}, {}, ())


STUDY = ForgettingTime()


def main() -> StudyReport:
    """Run the experiment at its quick scale and print the report."""
    with tempfile.TemporaryDirectory() as folder:
        report = STUDY.run(Path(folder), quick=True)
    print(report.text())
    return report


if __name__ == "__main__":
    main()
