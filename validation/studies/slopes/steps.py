r"""The error against the step size of SGD.

Runs that all start from the same N neurons differ by the samples alone. A functional of their law has then

.. math:: E\,\Phi = \Phi_0 + b\,\epsilon + O(\epsilon^2), \qquad \mathrm{Var}\,\Phi = B\,\epsilon + O(\epsilon^2)

about the limit of small steps, :math:`\Phi_0`: the bias has slope 1, the scatter slope 1/2. :math:`\Phi_0` is not the
mean-field value, from which these N neurons are off by c/N, and is not known exactly; so the bias is measured by the
difference to runs of the next larger step, :math:`b \epsilon = (m(q \epsilon) - m(\epsilon))/(q - 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_count
from wgflow.errors import InvalidInput
from wgflow.reduced_models import LinearNeuron
from wgflow.solution import Solution
from wgflow.verbs import solve

from ...comparison.statistics import Deviation, Mean, Statistic, check_statistics
from ...particles import seed_sequence
from ..base import Study, StudyReport
from ..pictures import save_picture
from .drawing import draw_errors
from .judging import report_of, runs_folder, slope_is
from .references import Reference, gathered, mean_field, predicted_scatter
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

__all__ = ["STUDY", "error_against_step_size"]

#: Seed and width of the experiment.
_SEED, _WIDTH = 6271, 30
#: Probability that a right theory fails any of its checks.
_LEVEL = 0.01
#: Half the widths that intervals of slopes may have at most, of the bias and of the scatter.
_PRECISIONS = {"bias": 0.3, "scatter": 0.1}

#: Of the stream from which the common start is drawn, apart from those of the runs.
_START_KEY = 2**31 - 1
#: A time may miss a whole number of steps by this share of a step.
_OFF_STEP = 1e-6


def error_against_step_size(
    model: Any,
    step_sizes: ArrayLike,
    t_eval: ArrayLike,
    n_runs: int | Sequence[int] = 200,
    *,
    n_neurons: int = 100,
    kappa: float = 0.8,
    beta: float = math.inf,
    ridge: float = 0.0,
    sol: Solution | None = None,
    statistics: Sequence[Statistic] = (Mean(), Deviation()),
    rng: Any = 7,
    folder: str | Path | None = None,
    executor: Any = None,
    progress: bool = False,
) -> ErrorStudy:
    r"""Measure bias and scatter of SGD against its step size, from one common start.

    Parameters
    ----------
    model : NetworkModel
    step_sizes : array_like
        Steps :math:`\epsilon`, increasing; every time is a whole number of each.
    t_eval : array_like
        Times, increasing.
    n_runs : int or sequence of int
        Runs at each step size. A bias :math:`b \epsilon` is seen through a scatter :math:`\sqrt{B \epsilon}` by more
        than :math:`B/(b^2 \epsilon)` runs.
    n_neurons : int
        Width of the network, whose start is drawn once.
    kappa, beta, ridge, sol
        As in `error_against_neurons`.
    statistics : sequence of Statistic
        Differences, such as `Mean` and `Deviation`.
    rng, folder, executor, progress
        As in `error_against_neurons`.

    Returns
    -------
    ErrorStudy
        ``by_doubling``; ``error`` refers to the limit of small steps, extrapolated by a straight line.

    Raises
    ------
    InvalidInput
        If an argument is out of range, a time is no whole number of steps, or a statistic is a distance.
    """
    steps, times = np.array(rising("step_sizes", step_sizes)), rising("t_eval", t_eval)
    if steps.size < 3 or steps[0] == 0.0:
        raise InvalidInput(f"step_sizes={steps.tolist()}: need three or more positive steps")
    off = np.abs(np.outer(times, 1.0 / steps) - np.rint(np.outer(times, 1.0 / steps)))
    if off.max() > _OFF_STEP:
        j, p = np.unravel_index(off.argmax(), off.shape)
        raise InvalidInput(f"t={times[j]:g} is {times[j] / steps[p]:.6g} steps of {steps[p]:g}: take steps of which "
                           "every time is a whole number, or the rest of a step would look like its bias")
    if any(statistic.is_distance for statistic in check_statistics(statistics)):
        raise InvalidInput("statistics must be differences: a distance to the mean field is that of the common start")
    runs = [n_runs] * steps.size if isinstance(n_runs, (int, np.integer)) else list(n_runs)
    if len(runs) != steps.size:
        raise InvalidInput(f"n_runs has {len(runs)} numbers for {steps.size} step sizes")
    seed = seed_sequence(rng)
    own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, _START_KEY))
    plain = Simulation(model, times, "sgd", kappa, beta, ridge)
    theta0 = model.initial_theta(check_count("n_neurons", n_neurons, 2), kappa, np.random.default_rng(own))
    simulation = replace(plain, theta0=theta0)
    reference = Reference(mean_field(simulation) if sol is None else sol, model, times, statistics)
    batches = simulate(simulation, [(n_neurons, step, n) for step, n in zip(steps.tolist(), runs)],
                       Settings(seed, folder, executor, progress))
    study = gathered([reference.observe(batch) for batch in batches], parameter="step_size", values=steps,
                     t=np.array(times), n_neurons=np.full(steps.size, n_neurons), step_sizes=steps,
                     signed=reference.signed, by_doubling=True, solutions=(reference.sol,),
                     predicted=predicted_scatter(simulation, [(n_neurons, step) for step in steps.tolist()]))
    return replace(study, errors={name: _about_limit(steps, each) for name, each in study.errors.items()})


def _about_limit(steps: np.ndarray, errors: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return differences to the intercept at step 0 of the weighted line through the means, at each time."""
    means = np.array([each.mean(axis=0) for each in errors])
    weights = np.array([len(each) / each.var(axis=0, ddof=1) for each in errors])
    weights /= weights.sum(axis=0)
    x, y = np.sum(weights * steps[:, None], axis=0), np.sum(weights * means, axis=0)
    gap = steps[:, None] - x
    limit = y - x * np.sum(weights * gap * means, axis=0) / np.sum(weights * gap**2, axis=0)
    return tuple(each - limit for each in errors)


class ErrorAgainstStepSize(Study):
    name = "error-against-step-size"
    title = "bias of slope 1 and scatter of slope 1/2 in the step size: linear neurons"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
        early, late = 0.256, 2.048
        steps, runs = 2.5e-4 * 2.0 ** np.arange(6), (400 if quick else 4000)
        times = (early, late)
        sol = solve(model.energy(), model.initial_density(0.8, model.grid(cells=400)), (0.0, late), t_eval=times,
                    time_scale=model.time_scale)
        study = error_against_step_size(model, steps, times, runs, n_neurons=_WIDTH, rng=_SEED, progress=True, sol=sol,
                                        statistics=(Mean(),), folder=runs_folder(folder, fresh))
        conventions = ("y = x + noise, x ~ N(0, 1.5), noise of variance 0.3; N = 30 linear neurons, drawn once for all "
                       f"runs; {runs} runs of SGD at each step size e; bias: m(2e) - m(e) of means m over the runs; "
                       "scatter: standard deviation over runs, dashed: predicted to first order, of which the risk has "
                       "hardly any once it rests at its least. Points have two standard errors.")
        # The samples move the mean at any time; late, where it rests at its best, they are all of the risk's excess.
        judged = [("mean of theta", "scatter", early, 0.5), ("mean of theta", "scatter", late, 0.5),
                  ("risk", "bias", late, 1.0)]
        checks = [slope_is("SGD", study, quantity, kind, t, slope, _PRECISIONS[kind], 1.0 - _LEVEL / len(judged))
                  for quantity, kind, t, slope in judged]
        figure = draw_errors([(study, "mean of theta", "scatter"), (study, "risk", "scatter"),
                              (study, "risk", "bias")])
        picture = save_picture(figure, folder / "error-against-step-size.png", conventions)
        return report_of(self.name, self.title, conventions, checks, {"sgd": study}, (picture,))


STUDY = ErrorAgainstStepSize()
