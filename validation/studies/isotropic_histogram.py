"""The histogram figure: the law of the neurons' lengths under SGD, and the reduced PDE over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wgflow.reduced_models import IsotropicGaussian
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ..comparison import compare
from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table, flow_times
from .pictures import save_picture

__all__ = ["STUDY"]

#: Scale of the initial weights.
_KAPPA = 0.8
_SEED = 1931


class IsotropicHistogram(Study):
    name = "isotropic-histogram"
    title = "SGD on two isotropic Gaussians against the reduced PDE, d = 40, N = 800"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        times = np.array([0.0, 0.01, 0.03, 0.1, 0.3, 1.0] if quick else [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
        step_size, cells = (1e-5, 600) if quick else (1e-6, 2000)
        model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
        conventions = ("x ~ N(0, tau^2 I_40), tau_+^2 = 1.8, tau_-^2 = 0.2 (tau^2 = 1 +- Delta, Delta = 0.8); "
                       f"w ~ N(0, 0.8^2 I/d); step size {step_size:g}, t = steps times step size (xi = 1): "
                       "d rho/dt = 2 div(rho grad Psi), Psi = V + U rho, no noise, no ridge.")
        output = flow_times(times, count=41)
        rho0 = model.initial_density(_KAPPA, model.grid(cells=cells))
        sol = solve(model.energy(), rho0, (0.0, times[-1]), FiniteVolume(), t_eval=output,
                    time_scale=model.time_scale)
        sgd = kept_sgd_runs(model, folder, n_neurons=800, step_size=step_size, t_eval=times, seed=_SEED, n_runs=3,
                            kappa=_KAPPA, fresh=fresh, label=self.name)
        comparison = compare(sol, sgd)
        picture = save_picture(comparison.plot(), folder / "histogram.png", conventions)
        risks = [(float(t), model.risk(sol.density(t)), *map(float, sgd.risk[:, j])) for j, t in enumerate(times)]
        checks = (Check.inside(comparison),
                  Check("the certificate of the PDE", sol.certificate.ok))
        rows = [tuple(row.values()) for row in comparison.rows]
        return StudyReport(self.name, self.title, conventions, checks,
                           {"risk": Table(("t", "PDE", *(f"SGD run {k + 1}" for k in range(3))), risks),
                            "comparison": Table(tuple(comparison.rows[0]), rows)},
                           {"PDE": sol.certificate.explain()}, (picture,))


STUDY = IsotropicHistogram()
