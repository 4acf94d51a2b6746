"""A solution against particles: every statistic of every coordinate, and the risk, each against a computed band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.calls.explained import explained
from wgflow.checks import check_count, check_real, described
from wgflow.errors import InvalidInput, InvalidType
from wgflow.progress import Progress, Reporter, check_progress
from wgflow.solution import Solution

from .bands import Bands, excess_factor, simultaneous_bands
from .first_order_bias import coarse_kinds, first_order_bias
from .marginal_laws import ChosenLaws
from .null_law import AtOneTime, Predicted, Quantity, at_one_time, is_sample, laws_at, quantities_of
from .particle_runs import ParticleRuns, Particles, particle_runs, width_of
from .result import Comparison
from .risk_response import Risks, response_of, risks_of
from .scatter_of_runs import NullChoice, ScatterChoice, null_choice
from .statistics import STATISTICS, Statistic, check_statistics

if TYPE_CHECKING:
    from wgflow.reduced_models.base import ReducedModel

    from ..trajectories import SGDResult

__all__ = ["compare"]

Array = NDArray[np.float64]


@explained("compare(sol, run_langevin(energy, rho0, 1000, sol.t, rng=7, n_runs=5))")
def compare(
    sol: Solution,
    particles: Particles,
    *,
    coordinates: Sequence[str] | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
    coarse: Particles | list[SGDResult] | None = None,
    scatter: ScatterChoice = None,
    model: ReducedModel | None = None,
    level: float = 0.01,
    n_null: int = 400,
    rng: int | np.random.SeedSequence | np.random.Generator | None = 20011,
    progress: Progress = False,
) -> Comparison:
    r"""Compare a solution with independent runs of particles, law by law.

    At every time of the particles and for every coordinate: the `statistics` of the law of all particles and the
    marginal of the solution, by default W_1, W_2 and the Kolmogorov distance and the differences of mean and
    deviation; then, for networks, the risk

        R(rho) = E y^2 + 2 int V rho + int int U rho rho

    against the mean risk of the networks. The bands hold *simultaneously*: a correct solution leaves any
    of them with probability about ``level``. See :mod:`wgflow.validation.comparison.bands` for the formulas.

    Parameters
    ----------
    sol : Solution
        Its times must contain those of the particles, up to half an SGD step (``solve(..., t_eval=sgd.t)``). Of
        densities or of atoms: :mod:`wgflow.validation.comparison.atom_laws` says which law atoms are taken for.
    particles : SGDResult, Solution, (times, array), or object with ``t`` and ``coordinates``
        An `SGDResult`; a Solution of atoms of equal weights (Langevin), which is one run; times and an array of shape
        (runs, times, n, coordinates); or any object with ``t`` and ``coordinates`` of these shapes and, for the risk,
        ``risk`` of shape (runs, times) and ``model``. Where the scatter is not
        predicted, five runs make a fair comparison and ten a sharp one.
    coordinates : sequence of str, optional
        The coordinates whose laws are compared, all by default: ``coordinates=("a",)`` compares the marginal of a
        alone, and the level belongs to it alone. Particles may have all coordinates of the solution, or these only,
        in this order. The risk, which is that of all coordinates, is then left out.
    statistics : sequence of Statistic, optional
        What is compared on each coordinate; ``(*STATISTICS, yours)`` adds one, see `Statistic`.
    coarse : SGDResult, or list of one or two of them, optional
        Runs at the same times of half as many neurons with twice the step size, and then of a quarter as many with
        four times the step. N neurons with step epsilon are off the flow by b epsilon + c/N on average, beside their
        scatter, and to first order this is the difference between the first two kinds of runs: by its amount the bands
        are widened (``first_order_bias``; by 2.4 times of it for deviations and distances, which noise of order epsilon
        changes by its root), and no bias is predicted. With the third kind the order, between 1/2 and 1, is measured
        too. That the bias is known from runs that scatter widens the bands of differences and of the risk as well.
    scatter : Scatter, "predicted", "observed" or "bootstrap", optional
        Where the null law, that of the differences where the equation is right, has its scatter from.

        - ``"predicted"``, or what `predict_scatter` returns: theory. Means, deviations and risk have the covariance
          predicted for this width, step size and start, and the draws of distances are moved accordingly; the bands lie
          about the bias of the step where that is known (one coordinate). They are sharp for any
          number of runs, a single one too.
        - ``"observed"``: independent draws from the solution, widened by what the runs scatter more than these;
          bands that assume least, and are too wide where interaction damps the scatter.
        - ``"bootstrap"``: the same with whole paths of particles drawn from the runs in place of draws from the
          solution, so that times and coordinates are correlated as those of the particles are.

        By default ``"predicted"`` where the theory knows the runs (`run_sgd` and `run_gradient_flow` of a model with
        ``sample_covariance``, from a start on one axis or of atoms), else ``"observed"``; the notes say why. Where the
        runs scatter significantly more than predicted, the default takes what they show.
    model : ReducedModel, optional
        The network model, ``particles.model`` by default; without one the risk is left out.
    level : float, optional
        Probability of a false alarm in all, 0.01 by default: that anything of what is compared leaves its band though
        the equation is right. docs/comparison.md has the rates that were counted.
    n_null : int, optional
        Replicates that the null law is simulated with; at least 2 / level, better 10 / level.
    rng : None, int, SeedSequence or Generator, optional
        As in :func:`numpy.random.default_rng`; its entropy is stored in the result.
    progress : bool or callable, optional
        As in `wgflow.solve`; a function is called with the times that are done, and their number.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInput
        If the times do not match, the numbers of coordinates differ, a particle is not finite, or a statistic returns
        what it must not.

    Examples
    --------
    Particles of your own, here independent draws, as times and an array:

    >>> import numpy as np, wgflow as wg
    >>> grid = wg.Grid((-4, 4), cells=200)
    >>> sol = wg.solve(wg.Entropy(1.0), wg.Density.gaussian(grid, 0.0, 0.1), (0, 0.1), t_eval=[0.0, 0.1])
    >>> x = np.stack([rho.sample(300, rng=7).reshape(3, 100) for rho in sol.densities], axis=1)[..., None]
    >>> compare(sol, (sol.t, x))
    Comparison(passed=True, 10 of 10 inside, level=0.01)
    """
    if not callable(getattr(sol, "density", None)):
        swapped = "; the arguments are swapped: compare(solution, particles)" if isinstance(particles, Solution) else ""
        raise InvalidType(f"sol must be a Solution, got {described(sol)}{swapped}")
    level = check_real("level", level)
    if not 0.0 < level < 0.5:
        raise InvalidInput(f"level must lie in (0, 0.5), got {level:g}: it is the probability of a false alarm")
    n_null = check_count("n_null", n_null)
    if n_null < 2 / level:
        raise InvalidInput(f"n_null must be an integer >= 2 / level = {2 / level:.0f}, got {n_null}")
    statistics = check_statistics(statistics)
    start = sol.density(sol.t[0])
    ndim = start.ndim if isinstance(start, Atoms) else start.grid.ndim
    model = getattr(particles, "model", None) if model is None else model
    names = _coordinate_names(start, model, ndim)
    axes = None if coordinates is None else _axes_of(coordinates, names)
    kinds: Any = coarse
    if axes is None:
        runs = particle_runs(particles, ndim)
    else:
        names, width = tuple(names[k] for k in axes), width_of(particles, ndim, len(axes))
        runs = particle_runs(particles, width).on_axes(axes)
        if coarse is not None:
            kinds = [particle_runs(each, width, "coarse").on_axes(axes) for each in coarse_kinds(coarse)]
    runs = replace(runs, model=model)
    with Reporter("comparing", check_progress(progress)) as report:
        return _compared(sol, runs, statistics, model, level, n_null, np.random.default_rng(rng), scatter, kinds, names,
                         axes, report)


def _compared(sol: Solution, runs: ParticleRuns, statistics: Sequence[Statistic], model: ReducedModel | None,
              level: float, n_null: int, rng: np.random.Generator, scatter: ScatterChoice,
              coarse: Particles | list[Any] | None, names: tuple[str, ...],
              axes: tuple[int, ...] | None, report: Reporter) -> Comparison:
    """Return the comparison of checked arguments."""
    t, start = runs.times_in(sol), sol.density(sol.t[0])
    risks = None if model is None or runs.risk is None else risks_of(sol, runs, model, t)
    quantities = quantities_of(names, statistics, risks is not None)
    null = null_choice(scatter, sol, runs, model, names, level, coarse is None,
                       None if risks is None else risks.excess)
    risks = allowed_for(risks, null)
    columns = _columns(sol, t, runs, statistics, model, risks, n_null, rng, null, axes, report)
    difference = np.array([column.fit for column in columns]).T
    bias = None
    if coarse is not None:
        bias = first_order_bias(sol, t, runs, coarse, difference, quantities, statistics, model, axes)
    bands_at = partial(bands_of, quantities, columns, runs, risks, bias)
    bands, is_distance = bands_at(level), np.array([q.is_distance for q in quantities])
    allowed = 0.0 if bias is None else bias[0]
    mute = is_distance[:, None] & (bands.upper - allowed >= np.array([q.largest for q in quantities])[:, None])
    pde = np.array([[q.at_law(column) for column in columns] for q in quantities])
    if risks is not None:
        pde[-1] = risks.pde
    said = ~mute.all(axis=1) if not mute.all() else np.ones(len(quantities), dtype=bool)
    notes = _notes(sol, start, runs, model, risks, null, coarse, axes)
    return Comparison(
        t, tuple(quantities[i].name for i in np.flatnonzero(said)), pde[said], (pde + difference)[said],
        difference[said], bands.lower[said], bands.upper[said], inflation=bands.inflation[said], level=level,
        n_runs=runs.n_runs, n_particles=runs.count, n_null=n_null,
        seed=getattr(rng.bit_generator.seed_seq, "entropy", None), solution=sol, runs=runs, coordinate_names=names,
        is_distance=is_distance[said], mute=mute[said], p_value=_p_value(difference, bands_at, n_null),
        scatter=null.kind, axes=axes, first_order_bias=None if bias is None else bias[0][said],
        notes=(*notes, *_mute_notes(quantities, mute, t)))


def allowed_for(risks: Risks | None, null: NullChoice) -> Risks | None:
    """Return the risks with the excess that is still to be allowed for: none where the replicates have it."""
    if risks is None or null.moments is None or not null.moments.knows_excess:
        return risks
    return replace(risks, excess=np.zeros_like(risks.excess))


def bands_of(quantities: Sequence[Quantity], columns: Sequence[AtOneTime], runs: ParticleRuns, risks: Risks | None,
             bias: tuple[Array, float] | None, level: float) -> Bands:
    """Return the bands at a level: with the bias that coarser runs measure, or else with the risk's excess.

    Parameters
    ----------
    bias : (array of shape (quantities, times), float), optional
        What `first_order_bias` returns.
    """
    bands = simultaneous_bands(quantities, columns, runs.n_runs, level)
    if bias is not None:
        size, spread = bias
        is_distance = np.array([q.is_distance for q in quantities])[:, None]
        factor = np.where(is_distance, 1.0, spread)
        return Bands(factor * bands.lower - np.where(is_distance, 0.0, size), factor * bands.upper + size,
                     bands.inflation)
    if risks is not None:
        excess = excess_factor(runs.n_runs, int(getattr(runs.model, "n_parameters", 1)), level)
        bands.upper[-1] += risks.excess * excess
    return bands


def _columns(sol: Solution, t: Array, runs: ParticleRuns, statistics: Sequence[Statistic], model: ReducedModel | None,
             risks: Risks | None, n_null: int, rng: np.random.Generator, null: NullChoice,
             axes: tuple[int, ...] | None, report: Reporter) -> list[AtOneTime]:
    """Return what is found at each time."""
    moments = None if null.moments is None else null.moments.draw(n_null, runs.n_runs, rng)
    # Paths that keep their order, or are drawn whole, take the same random numbers at every time.
    state = rng.bit_generator.state if null.same_draws else None
    columns = []
    for j, s in enumerate(t):
        laws = laws_at(sol, s, axes)
        response = None
        if risks is not None and model is not None and not isinstance(laws, ChosenLaws):
            response = response_of(model, laws)
        risk = None if risks is None else (risks.difference[j], risks.spread[j])
        if state is not None:
            rng.bit_generator.state = state
        predicted = None if null.moments is None or moments is None else Predicted(null.moments, moments[:, j], j)
        report(j, len(t))
        columns.append(at_one_time(laws, runs.coordinates[:, j], statistics, response, risk, n_null, rng,
                                   predicted=predicted, bootstrap=null.kind == "bootstrap"))
    report(len(t), len(t))
    return columns


def _p_value(difference: Array, bands_at: Callable[[float], Bands], n_null: int) -> float:
    """Return the least level k / (n_null + 1) at which the comparison fails; 1 if it fails at none."""
    low, high = 0, n_null + 1  # passes at low, fails at high
    while high - low > 1:
        middle = (low + high) // 2
        bands = bands_at(middle / (n_null + 1))
        inside = bool(np.all((difference >= bands.lower) & (difference <= bands.upper)))
        low, high = (middle, high) if inside else (low, middle)
    return high / (n_null + 1)


def _mute_notes(quantities: Sequence[Quantity], mute: NDArray[np.bool_], t: Array) -> tuple[str, ...]:
    """Return which distances could not fail, and when."""
    notes = []
    for quantity, silent in zip(quantities, mute):
        if silent.all():
            notes.append(f"{quantity.name} was left out: its band reaches {quantity.largest:g}, the largest value that "
                         "it can have.")
        elif silent.any():
            times = ", ".join(f"{s:.4g}" for s in t[silent])
            notes.append(f"{quantity.name} says nothing at t = {times}, where its band reaches {quantity.largest:g}.")
    return tuple(notes)


def _coordinate_names(start: object, model: ReducedModel | None, ndim: int) -> tuple[str, ...]:
    """Return the names of the coordinates: the model's, those of the grid or of the atoms, or x0, x1."""
    names = getattr(model, "coordinate_names", None)
    names = names or getattr(start if isinstance(start, Atoms) else getattr(start, "grid", None), "names", None)
    names = [f"x{k}" for k in range(ndim)] if names is None else list(names)
    if len(names) != ndim:
        raise InvalidInput(f"the particles have {ndim} coordinates, the names are {names}")
    return tuple(str(name) for name in names)


def _axes_of(coordinates: Sequence[str], names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the places of the coordinates that are asked for."""
    if isinstance(coordinates, str):
        raise InvalidType(f"coordinates={coordinates!r} is a string: give a sequence, coordinates=({coordinates!r},)")
    chosen = tuple(coordinates)
    unknown = [each for each in chosen if each not in names]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise InvalidInput(f"coordinates={list(chosen)}: name one or more of {', '.join(names)}, each once")
    return tuple(names.index(each) for each in chosen)


def _notes(sol: Solution, start: object, runs: ParticleRuns, model: ReducedModel | None,
           risks: Risks | None, null: NullChoice,
           coarse: Particles | list[Any] | None, axes: tuple[int, ...] | None) -> tuple[str, ...]:
    """Return what the reader must know beside the numbers."""
    notes = [] if risks is None else [*risks.notes]
    if axes is not None:
        notes.append("The risk was not compared: it is that of all coordinates.")
    elif model is None and runs.risk is not None:
        notes.append("The risk was not compared: no model was given.")
    elif model is not None and runs.risk is None:
        notes.append("The risk was not compared: the particles come without one.")
    if isinstance(start, Atoms):
        if is_sample(sol):
            notes.append(f"The solution is itself a sample, of {start.size} particles: its own error is in the bands.")
        elif start.ndim == 1:
            notes.append(f"Distances refer to the quantile function interpolated between {start.size} atoms.")
        else:
            notes.append(f"Distances refer to marginals smoothed from {start.size} atoms, and have wide bands; means, "
                         "deviations and risk are sharp.")
    notes += [*runs.notes, *null.notes]
    if runs.n_runs == 1 and null.kind in ("observed", "bootstrap"):
        noise = "the noise of SGD" if runs.is_sgd else "noise that the particles share"
        notes.append(f"One run shows no scatter: {noise} is not in the bands.")
    if coarse is not None:
        notes.append("The bands hold the bias of first order in step size and 1/N, measured by coarser runs."
                     if len(coarse_kinds(coarse)) == 1 else
                     "The bands hold the bias of step size and 1/N, whose size and order, between 1/2 and 1, are "
                     "measured by two kinds of coarser runs.")
    return tuple(notes)
