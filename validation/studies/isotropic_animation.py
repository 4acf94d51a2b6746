"""The animation: the law of 200 neurons in 80 dimensions against the reduced PDE, as a GIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wgflow.reduced_models import IsotropicGaussian
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ..comparison import compare
from ..sgd_runs import kept_sgd_runs
from .base import Check, Study, StudyReport, Table
from .pictures import animate_against_particles, save_picture

__all__ = ["STUDY"]

#: Scale of the initial weights.
_KAPPA = 0.8
_SEED = 2027
_RUNS = 3


class IsotropicAnimation(Study):
    name = "isotropic-animation"
    title = "SGD on two isotropic Gaussians as an animation, d = 80, N = 200"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        step_size, t_end, frames = (1e-5, 1.0, 31) if quick else (1e-6, 10.0, 91)
        model = IsotropicGaussian(d=80, tau_plus2=1.8, tau_minus2=0.2)
        conventions = ("x ~ N(0, tau^2 I_80), tau_+^2 = 1.8, tau_-^2 = 0.2 (tau^2 = 1 +- Delta, Delta = 0.8); "
                       f"w ~ N(0, 0.8^2 I/d); step size {step_size:g}, t = steps times step size (xi = 1): "
                       f"d rho/dt = 2 div(rho grad Psi), no noise, no ridge. Bars: {_RUNS} runs together.")
        # Times on whole steps, dense where the flow is fast.
        times = np.unique(np.rint(t_end * np.linspace(0.0, 1.0, frames) ** 3 / step_size)) * step_size
        rho0 = model.initial_density(_KAPPA, model.grid(cells=600 if quick else 1200))
        sol = solve(model.energy(), rho0, (0.0, times[-1]), FiniteVolume(), t_eval=times, time_scale=model.time_scale)
        sgd = kept_sgd_runs(model, folder, n_neurons=200, step_size=step_size, t_eval=times, seed=_SEED, n_runs=_RUNS,
                            kappa=_KAPPA, fresh=fresh, label=self.name)
        comparison = compare(sol, sgd)
        pictures = (animate_against_particles(sol, sgd, folder / "animation.gif", conventions),
                    save_picture(comparison.plot(), folder / "comparison.png", conventions))
        risks = [(float(t), model.risk(sol.density(t)), float(sgd.risk[:, j].mean())) for j, t in enumerate(times)]
        checks = (Check.inside(comparison),
                  Check("the certificate of the PDE", sol.certificate.ok))
        return StudyReport(self.name, self.title, conventions, checks,
                           {"risk": Table(("t", "PDE", f"mean of {_RUNS} SGD runs"), risks)},
                           {"PDE": sol.certificate.explain()}, pictures)


STUDY = IsotropicAnimation()
