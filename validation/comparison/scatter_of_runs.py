"""Where the null law has its scatter from: theory where it knows the runs, or what the runs show themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, ResourceError
from wgflow.reduced_models.finite_data import FiniteData
from wgflow.solution import Solution

from .null_law import is_sample
from .particle_runs import ParticleRuns
from .predicted_scatter import PredictedMoments, check_scatter, scattering_more, second_order_variance

if TYPE_CHECKING:
    from wgflow.reduced_models.base import ReducedModel

    from ..fluctuations import Scatter

__all__ = ["NullChoice", "ScatterChoice", "null_choice", "scatter_for"]

#: What `compare` takes as ``scatter``.
ScatterChoice: TypeAlias = "Scatter | Literal['predicted', 'observed', 'bootstrap'] | None"

Array = NDArray[np.float64]
_PREDICTED = "The scatter of the runs is predicted, to first order in 1/N and the step size."
#: Rows times points of the backward run above which it takes more than some seconds.
_LARGE = 60_000
#: Steps of the backward run on a grid.
_STEPS = 100


@dataclass(frozen=True)
class NullChoice:
    """How the null law is made.

    Attributes
    ----------
    kind : str
        ``"predicted"``, ``"observed"`` or ``"bootstrap"``.
    moments : PredictedMoments, optional
    notes : tuple of str
        What the reader must know.
    """

    kind: Literal["predicted", "observed", "bootstrap"]
    moments: PredictedMoments | None = None
    notes: tuple[str, ...] = ()

    @property
    def same_draws(self) -> bool:
        """Whether particles are the same at every time: drawn whole, or in an order that they keep."""
        return self.kind == "bootstrap" or (self.moments is not None and self.moments.comonotone)


def null_choice(scatter: ScatterChoice, sol: Solution, runs: ParticleRuns, model: ReducedModel | None,
                coordinates: Sequence[str], level: float, with_bias: bool, excess: Array | None = None) -> NullChoice:
    """Return what the argument ``scatter`` of `compare` comes to for these runs, with or without the step's bias.

    Parameters
    ----------
    excess : array of shape (times,), optional
        K/N, the mean excess of the risk of independent neurons.

    Raises
    ------
    InvalidInput
        If what is asked for cannot be predicted, or was predicted for other runs.
    """
    if isinstance(scatter, str) and scatter not in ("predicted", "observed", "bootstrap"):
        raise InvalidType("scatter must be 'predicted', 'observed', 'bootstrap' or what predict_scatter returns, got "
                          f"{scatter!r}")
    if scatter in ("observed", "bootstrap"):
        return NullChoice("bootstrap" if scatter == "bootstrap" else "observed")
    if scatter is not None and not isinstance(scatter, str):
        check_scatter(scatter, runs)
        return NullChoice("predicted", PredictedMoments(scatter, coordinates, runs, (), with_bias),
                          _words(scatter, with_bias))
    try:
        found = scatter_for(sol, runs, model)
    except InvalidInput as error:
        if scatter == "predicted":
            raise InvalidInput(f"scatter='predicted' is not possible: {error}") from error
        why = (f"The scatter of the runs was not predicted: {error}.",) if runs.is_sgd else ()
        return NullChoice("observed", None, why)
    moments = PredictedMoments(found, coordinates, runs, (), with_bias)
    of_risk = None if excess is None else second_order_variance(excess, int(getattr(model, "n_parameters", 1)))
    more = scattering_more(moments, runs, level, of_risk) if scatter is None else {}
    if not more:
        return NullChoice("predicted", moments, _words(found, with_bias))
    words = ", ".join(f"{name} with {ratio:.3g} times the predicted variance" for name, ratio in more.items())
    note = f"But the runs scatter more: {words}; of these the observed scatter was taken."
    moments = PredictedMoments(found, coordinates, runs, more, with_bias)
    return NullChoice("predicted", moments if moments.names else None, (*_words(found, with_bias), note))


def _words(scatter: Scatter, with_bias: bool) -> tuple[str, ...]:
    if scatter.step_size == 0.0 or not with_bias:
        return (_PREDICTED,)
    if scatter.step_bias is None:
        return (_PREDICTED, "The bias of the step size is not in the bands.")
    width = () if scatter.width_samples is None else ("The bias of finite width was measured with small networks.",)
    return (_PREDICTED, "So is the bias of the step, about which the bands lie.", *width)


def scatter_for(sol: Solution, runs: ParticleRuns, model: ReducedModel | None) -> Scatter:
    """Predict the scatter of SGD runs from the start of a solution.

    Raises
    ------
    InvalidInput
        With the reason, if it cannot be predicted for these runs, or not in some seconds.
    """
    from ..fluctuations import predict_scatter
    from ..particles import SGDResult

    sgd = runs.source
    if not isinstance(sgd, SGDResult) or model is None:
        raise InvalidInput("only that of run_sgd and run_gradient_flow is known from theory")
    if sgd.n_samples is not None and not (sgd.replacement and isinstance(model, FiniteData)):
        raise InvalidInput("the runs draw from a finite sample in passes")
    if sgd.xi is None:
        raise InvalidInput("the schedule xi of the runs was a function, which their folder does not keep")
    beta = 4.0 * sgd.beta / sgd.noise_constant
    start = _start_of(sol, math.isfinite(beta))
    rows = runs.t.size * (2 * model.n_coordinates + 1)
    if isinstance(start, Atoms) and rows * start.size > _LARGE:
        raise InvalidInput(f"{rows} rows of {start.size} atoms take long, give scatter=predict_scatter(...)")
    try:
        found = predict_scatter(model, runs.t, runs.count, runs.step_size, start=start, beta=beta, ridge=sgd.ridge,
                                xi=sgd.xi, n_steps=_STEPS)
    except (InvalidInput, ConvergenceError, ResourceError) as error:
        raise InvalidInput(str(error)) from error
    # The mean over a batch has 1/M of the variance of one sample.
    bias = None if found.step_bias is None else found.step_bias / np.array([sgd.batch_size, 1.0])[:, None, None]
    return replace(found, samples=found.samples / sgd.batch_size, step_bias=bias)


def _start_of(sol: Solution, noisy: bool) -> Atoms | Density:
    """Return the start in the form in which `predict_scatter` takes it, of few atoms where there is no noise."""
    rho = sol.density(sol.t[0])
    if isinstance(rho, Atoms):
        if noisy or is_sample(sol):
            raise InvalidInput("with noise a solution on a grid is needed")
        return rho
    if not isinstance(rho, Density) or float(sol.t[0]) != 0.0 or rho.grid.ndim > 1:
        raise InvalidInput("the solution is none of a density on one axis from t = 0 on, give "
                           "scatter=predict_scatter(...)")
    from ..fluctuations.gauss_atoms import gauss_atoms

    return rho if noisy else gauss_atoms(rho)
