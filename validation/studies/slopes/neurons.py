r"""The error against the number of neurons, and the experiment that shows its slope -1/2.

For a smooth functional of the law, to leading orders in 1/N and the step size :math:`\epsilon`,

.. math:: E\,|\Phi(\rho_N) - \Phi(\rho)|^2 = \frac{A}{N} + \epsilon B + \Bigl(\frac{c}{N} + b\,\epsilon\Bigr)^2 .

The scatter A of the starts and B of the samples is what `predict_scatter` gives. With :math:`\epsilon` proportional to
1/N the scatter has slope -1/2 exactly, and the bias slope -1; where the bias is the larger of the two, the error falls
faster than :math:`N^{-1/2}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wgflow.checks import check_count, check_positive
from wgflow.errors import InvalidInput
from wgflow.reduced_models import IsotropicGaussian
from wgflow.solution import Solution

from ...comparison.statistics import Statistic
from ..base import Check, Study, StudyReport
from ..pictures import save_picture
from .drawing import draw_errors
from .judging import at_least_as_fast, report_of, runs_folder, slope_check
from .references import STATISTICS, Reference, gathered, mean_field, predicted_scatter
from .results import ErrorStudy
from .simulations import Settings, Simulation, rising, simulate

__all__ = ["STUDY", "counts_of", "error_against_neurons"]

_SEED = 8219
#: N times the step size of SGD.
_SCALE = 0.01
#: What the next order of the prediction may add to the scatter at the largest N.
_LEEWAY = 0.1


def error_against_neurons(
    model: Any,
    neurons: Sequence[int] = (25, 100, 400, 1600, 6400),
    t_eval: ArrayLike = (0.1, 1.0),
    n_runs: int | Sequence[int] = 64,
    *,
    dynamics: str = "gradient flow",
    neurons_times_step: float | None = None,
    step_size: float | None = None,
    kappa: float = 0.8,
    beta: float = math.inf,
    ridge: float = 0.0,
    noise_constant: float = 4.0,
    sol: Solution | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
    rng: Any = 7,
    folder: str | Path | None = None,
    executor: Any = None,
    progress: bool = False,
) -> ErrorStudy:
    r"""Measure how the error between N particles and the mean field falls with N.

    Parameters
    ----------
    model : ReducedModel
        SGD needs a `NetworkModel`.
    neurons : sequence of int
        Widths N, increasing.
    t_eval : array_like
        Times, increasing.
    n_runs : int or sequence of int
        Independent runs at each width, at least 2.
    dynamics : {"gradient flow", "sgd"}
        N neurons in the exact population risk, or SGD on one fresh sample a step.
    neurons_times_step : float, optional
        Of SGD: the step size is this number over N, as in the theorem, whose error :math:`\sqrt{1/N \vee D \epsilon}`
        then has one term.
    step_size : float, optional
        Of SGD: the same step size at all widths, in place of ``neurons_times_step``.
    kappa, beta, ridge, noise_constant
        As in `run_sgd`.
    sol : Solution, optional
        The mean-field law at the times; by default characteristics (`mean_field`). Needed with noise.
    statistics : sequence of Statistic
        What is measured on each coordinate; W1, Kolmogorov and bounded Lipschitz distance and the mean by default.
    rng, folder, executor, progress
        As in `sweep`, but that the default executor is one of threads; finished runs are kept in ``folder``.

    Returns
    -------
    ErrorStudy
        With the quantities ``"W1 of r"`` and so on, ``"risk"`` (of the network under SGD) and, where it is not the
        same, ``"risk of the law"``, in which directions are averaged.

    Raises
    ------
    InvalidInput
        If an argument is out of range.

    Examples
    --------
    >>> from wgflow.reduced_models import LinearNeuron
    >>> model = LinearNeuron(covariance=1.5, direction=1.0, noise_variance=0.3)
    >>> study = error_against_neurons(model, (25, 100, 400), [0.2], n_runs=100)
    >>> study.slope("mean of theta").within(-0.5, 0.06)
    True
    """
    widths, runs, times = *counts_of(neurons, n_runs), rising("t_eval", t_eval)
    steps = np.zeros(widths.size)
    if dynamics == "sgd":
        if (neurons_times_step is None) == (step_size is None):
            raise InvalidInput("SGD needs either neurons_times_step or step_size")
        steps = (np.full(widths.size, check_positive("step_size", step_size)) if neurons_times_step is None
                 else check_positive("neurons_times_step", neurons_times_step) / widths)
    elif neurons_times_step is not None or step_size is not None:
        raise InvalidInput("the gradient flow has no step size; take dynamics='sgd'")
    simulation = Simulation(model, times, dynamics, kappa, beta, ridge, noise_constant)
    reference = Reference(mean_field(simulation) if sol is None else sol, model, times, statistics)
    batches = simulate(simulation, list(zip(widths.tolist(), steps.tolist(), runs)),
                       Settings(rng, folder, executor, progress))
    return gathered([reference.observe(batch) for batch in batches], parameter="n_neurons", values=widths.astype(float),
                    t=np.array(times), n_neurons=widths, step_sizes=steps, signed=reference.signed,
                    predicted=predicted_scatter(simulation, list(zip(widths.tolist(), steps.tolist()))),
                    resolution=reference.resolution, solutions=(reference.sol,))


def counts_of(neurons: Sequence[int], n_runs: int | Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Return widths that increase, and the number of runs at each."""
    widths = np.array([check_count("neurons", n, 2) for n in neurons])
    if widths.size < 2 or np.any(np.diff(widths) <= 0):
        raise InvalidInput(f"neurons={list(neurons)}: need two or more widths that increase")
    runs = [n_runs] * widths.size if isinstance(n_runs, (int, np.integer)) else list(n_runs)
    if len(runs) != widths.size:
        raise InvalidInput(f"n_runs has {len(runs)} numbers for {widths.size} widths")
    return widths, [check_count("n_runs", each, 2) for each in runs]


class ErrorAgainstNeurons(Study):
    name = "error-against-neurons"
    title = "the error falls like N^(-1/2): two isotropic Gaussians, d = 40"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        model, runs = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2), runs_folder(folder, fresh)
        times = (0.1, 1.0)
        widths = (25, 100, 400, 1600) if quick else (25, 100, 400, 1600, 6400)
        counts = (400, 400, 200, 100) if quick else (1000, 600, 400, 150, 48)
        flow = error_against_neurons(model, widths, times, counts, rng=_SEED, folder=runs, progress=True)
        sgd_widths, sgd_counts = ((25, 100, 400), (200, 100, 30)) if quick else (
            (25, 100, 400, 1600), (1000, 600, 200, 48))
        sgd = error_against_neurons(model, sgd_widths, times, sgd_counts, dynamics="sgd", neurons_times_step=_SCALE,
                                    sol=flow.solutions[0], rng=_SEED, folder=runs, progress=True)
        conventions = ("x ~ N(0, tau^2 I_40), tau_+^2 = 1.8, tau_-^2 = 0.2; w ~ N(0, 0.8^2 I/d); gradient flow: N "
                       "neurons in the exact risk, directions averaged; SGD: step 0.01/N, t = steps times step. Points "
                       "have two standard errors; error of a difference: root mean square; scatter: about the mean of "
                       "the runs; risk of the law: directions averaged, risk: of the network.")
        checks = [slope_check("gradient flow", flow, quantity, "error", t, -0.5)
                  for quantity in ("W1 of r", "Kolmogorov of r", "bounded Lipschitz of r", "mean of r", "risk")
                  for t in times]
        checks += [at_least_as_fast("SGD", sgd, quantity, t)
                   for quantity in ("W1 of r", "Kolmogorov of r", "mean of r", "risk", "risk of the law")
                   for t in times]
        checks += [_near_prediction("gradient flow", flow, quantity, t) for quantity in ("mean of r", "risk")
                   for t in times]
        checks += [_near_prediction("SGD", sgd, quantity, t) for quantity in ("mean of r", "risk of the law")
                   for t in times]
        figure = draw_errors([(flow, "W1 of r", "error"), (flow, "Kolmogorov of r", "error"), (flow, "risk", "error"),
                              (sgd, "W1 of r", "error"), (sgd, "mean of r", "scatter"), (sgd, "risk", "error")],
                             titles=["gradient flow: W1 of r", "gradient flow: Kolmogorov of r", "gradient flow: risk",
                                     "SGD: W1 of r", "SGD: mean of r, scatter", "SGD: risk of the network"])
        picture = save_picture(figure, folder / "error-against-neurons.png", conventions)
        return report_of(self.name, self.title, conventions, checks, {"flow": flow, "sgd": sgd}, (picture,))


def _near_prediction(label: str, study: ErrorStudy, quantity: str, t: float) -> Check:
    """Judge the scatter at the largest N against its prediction, which holds to relative order N^(-1/2)."""
    ratio, low, high = (float(each[-1]) for each in study.over_prediction(quantity, t))
    return Check(f"{label}, t = {t:g}: the scatter of {quantity} at N = {study.n_neurons[-1]} is {ratio:.2f} "
                 f"({low:.2f} to {high:.2f}) of its prediction", low - _LEEWAY <= 1.0 <= high + _LEEWAY)


STUDY = ErrorAgainstNeurons()
