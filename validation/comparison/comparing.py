"""A solution against particles: every statistic of every coordinate, and the risk, each against a computed band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_real
from wgflow.errors import InvalidInput
from wgflow.solution import Solution

from .bands import excess_factor, simultaneous_bands
from .null_law import Quantity, at_one_time, fits_of, is_sample, laws_at, quantities_of
from .particle_runs import ParticleRuns, Particles, particle_runs
from .predicted_scatter import check_scatter, predicted_ratios
from .result import Comparison
from .risk_response import Risks, response_of, risks_of
from .statistics import STATISTICS, Statistic, check_statistics

if TYPE_CHECKING:
    from wgflow.reduced_models.base import ReducedModel

    from ..fluctuations import Scatter
    from ..particles import SGDResult

__all__ = ["compare"]

Array = NDArray[np.float64]


def compare(
    sol: Solution,
    particles: Particles,
    *,
    statistics: Sequence[Statistic] = STATISTICS,
    coarse: SGDResult | Sequence[SGDResult] | None = None,
    scatter: Scatter | None = None,
    model: ReducedModel | None = None,
    level: float = 0.01,
    n_null: int = 400,
    rng: int | np.random.SeedSequence | np.random.Generator | None = 20011,
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
        ``risk`` of shape (runs, times) and ``model``. Three runs make a fair comparison, ten a sharp one.
    statistics : sequence of Statistic, optional
        What is compared on each coordinate; ``(*STATISTICS, yours)`` adds one, see `Statistic`.
    coarse : SGDResult, or sequence of one or two of them, optional
        Runs at the same times of half as many neurons with twice the step size, and then of a quarter as many with
        four times the step. N neurons with step epsilon are off the flow by b epsilon + c/N on average, beside their
        scatter, and to first order this is the difference between the first two kinds of runs: by its amount the bands
        are widened (``first_order_bias``; by 2.4 times of it for deviations and distances, which noise of order epsilon
        changes by its root). With the third kind the order p, between 1/2 and 1, need not be assumed: 2^p is by how
        much the second of the two differences is larger than the first. That the bias is known from runs that
        scatter widens the bands of differences and of the risk as well.
    scatter : Scatter, optional
        The scatter of the runs as `predict_scatter` gives it for their width, step size and times. It takes the place
        of the scatter that the runs show, which few runs show badly and a single run not at all.
    model : ReducedModel, optional
        The network model, ``particles.model`` by default; without one the risk is left out.
    level : float, optional
        Probability of a false alarm, 0.01 by default.
    n_null : int, optional
        Replicates that the null law is simulated with; at least 2 / level, better 10 / level.
    rng : None, int, SeedSequence or Generator, optional
        As in :func:`numpy.random.default_rng`; its entropy is stored in the result.

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
    level = check_real("level", level)
    if not 0.0 < level < 0.5:
        raise InvalidInput(f"level must lie in (0, 0.5), got {level:g}: it is the probability of a false alarm")
    n_null = check_count("n_null", n_null)
    if n_null < 2 / level:
        raise InvalidInput(f"n_null must be an integer >= 2 / level = {2 / level:.0f}, got {n_null}")
    statistics = check_statistics(statistics)
    start = sol.density(sol.t[0])
    runs = particle_runs(particles, start.ndim if isinstance(start, Atoms) else start.grid.ndim)
    model = runs.model if model is None else model
    runs = replace(runs, model=model)
    if scatter is not None:
        check_scatter(scatter, runs)
    found = _compared(sol, runs, statistics, model, level, n_null, np.random.default_rng(rng), scatter,
                      excess_allowed=coarse is None)
    return found if coarse is None else _with_first_order_bias(found, coarse, statistics, model)


def _compared(sol: Solution, runs: ParticleRuns, statistics: Sequence[Statistic], model: ReducedModel | None,
              level: float, n_null: int, rng: np.random.Generator, scatter: Scatter | None,
              excess_allowed: bool) -> Comparison:
    """Return the comparison without what coarser runs would tell."""
    t, start = runs.times_in(sol), sol.density(sol.t[0])
    names = _coordinate_names(start, model, runs.coordinates.shape[3])
    risks = None if model is None or runs.risk is None else risks_of(sol, runs, model, t)
    quantities = quantities_of(names, statistics, risks is not None)
    columns = []
    for j, s in enumerate(t):
        laws = laws_at(sol, s)
        response = None if risks is None or model is None else response_of(model, laws)
        risk = None if risks is None else (risks.difference[j], risks.spread[j])
        columns.append(at_one_time(laws, runs.coordinates[:, j], statistics, response, risk, n_null, rng))
    ratios = None if scatter is None else predicted_ratios(scatter, quantities, columns, runs)
    bands = simultaneous_bands(quantities, columns, runs.n_runs, level, ratios)
    difference = np.array([column.fit for column in columns]).T
    is_distance = np.array([q.is_distance for q in quantities])
    mute = is_distance[:, None] & (bands.upper >= np.array([q.largest for q in quantities])[:, None])
    pde = np.array([[q.at_law(column) for column in columns] for q in quantities])
    if risks is not None:
        pde[-1] = risks.pde
        if excess_allowed:
            bands.upper[-1] += risks.excess * excess_factor(runs.n_runs, int(getattr(model, "n_parameters", 1)), level)
    said = ~mute.all(axis=1) if not mute.all() else np.ones(len(quantities), dtype=bool)
    return Comparison(
        t, tuple(quantities[i].name for i in np.flatnonzero(said)), pde[said], (pde + difference)[said],
        difference[said], bands.lower[said], bands.upper[said], inflation=bands.inflation[said], level=level,
        n_runs=runs.n_runs, n_particles=runs.count, n_null=n_null,
        seed=getattr(rng.bit_generator.seed_seq, "entropy", None), solution=sol, runs=runs, coordinate_names=names,
        is_distance=is_distance[said], mute=mute[said],
        notes=(*_notes(sol, start, runs, model, risks, scatter), *_mute_notes(quantities, mute, t)))


def _with_first_order_bias(found: Comparison, coarse: SGDResult | Sequence[SGDResult], statistics: Sequence[Statistic],
                           model: ReducedModel | None) -> Comparison:
    """Return the comparison with bands widened by the bias of first order, which coarser runs measure."""
    levels = list(coarse) if isinstance(coarse, Sequence) else [coarse]
    if not 1 <= len(levels) <= 2:
        raise InvalidInput(f"coarse has {len(levels)} entries: give runs of half as many neurons with twice the step, "
                           "and if you have them those of a quarter as many with four times the step")
    quantities = quantities_of(found.coordinate_names, statistics, found.quantities[-1] == "risk")
    said = [q.name in found.quantities for q in quantities]
    rows = [found.difference] + [_coarse_differences(found, each, 2 * 2**k, statistics, model)[said]
                                 for k, each in enumerate(levels)]
    steps = np.abs(np.diff(rows, axis=0))
    if len(levels) == 1:
        bias = np.array([q.first_order_share for q in quantities])[said, None] * steps[0]
        note = "The bands hold the bias of first order in step size and 1/N, measured by coarser runs."
    else:
        bias = steps[0] / (_growth(steps) - 1.0)
        note = ("The bands hold the bias of step size and 1/N, whose size and order between 1/2 and 1 are measured by "
                "two kinds of coarser runs.")
    own = np.multiply(found.upper, _with_error_of_bias(found, levels[0]))
    return replace(found, upper=own + bias, notes=(*found.notes, note), first_order_bias=bias,
                   lower=np.where(found.is_distance[:, None], found.lower, -own - bias))


def _with_error_of_bias(found: Comparison, coarse: Particles) -> Array:
    """Return by what factor the scatter of each quantity grows since its bias is known from runs that scatter too.

    With twice the step and half as many neurons the variance is twice as large. A difference d of n runs with the bias
    b, and D of m coarser runs with the bias 2 b, leave ``d - (D - d) = 2 d - D``, whose variance is that of d times
    ``4 + 2 n / m``. Distances, whose scatter moves both the same way, keep theirs.
    """
    runs = particle_runs(coarse, len(found.coordinate_names), "coarse").n_runs
    factor = math.sqrt(4.0 + 2.0 * found.n_runs / runs)
    return np.where(found.is_distance[:, None], 1.0, factor)


def _growth(steps: Array) -> Array:
    """Return 2^p for each quantity and time, from what the two coarsenings change, (2, quantities, times)."""
    first, second = steps
    return np.clip(second / np.maximum(first, np.finfo(float).tiny), math.sqrt(2.0), 2.0)


def _coarse_differences(found: Comparison, coarse: Particles, factor: int, statistics: Sequence[Statistic],
                        model: ReducedModel | None) -> Array:
    """Return the differences, (quantities, times), of runs checked to be coarser by a factor."""
    sol, runs, t = found.solution, found.runs, found.t
    other = particle_runs(coarse, runs.coordinates.shape[3], "coarse")
    times = other.times_in(sol)
    if not np.array_equal(times, t):
        raise InvalidInput(f"coarse has {times.size} output times from {times[0]:g} to {times[-1]:g}: it must have "
                           "the output times of particles")
    words = {2: ("twice", "half"), 4: ("four times", "a quarter")}[factor]
    if not math.isclose(other.step_size, factor * runs.step_size, rel_tol=1e-9):
        raise InvalidInput(f"coarse.step_size={other.step_size:g} must be {words[0]} "
                           f"particles.step_size={runs.step_size:g}")
    if runs.count != factor * other.count:
        raise InvalidInput(f"coarse has {other.count} particles, the others {runs.count}: it must have {words[1]} as "
                           "many")
    rows = [fits_of(statistics, laws_at(sol, s).marginals, other.coordinates[None, :, j])[0][0]
            for j, s in enumerate(t)]
    if model is not None and found.quantities[-1] == "risk":
        rows = [np.append(row, value) for row, value in zip(rows, risks_of(sol, other, model, t).difference)]
    return np.array(rows).T


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


def _notes(sol: Solution, start: object, runs: ParticleRuns, model: ReducedModel | None,
           risks: Risks | None, scatter: Scatter | None) -> tuple[str, ...]:
    """Return what the reader must know beside the numbers."""
    notes = [] if risks is None else [*risks.notes]
    if model is None:
        notes.append("The risk was not compared: no model was given.")
    elif runs.risk is None:
        notes.append("The risk was not compared: the particles come without one.")
    if isinstance(start, Atoms):
        if is_sample(sol):
            notes.append(f"The solution is itself a sample, of {start.size} particles: its own error is in the bands.")
        elif start.ndim == 1:
            notes.append(f"Distances refer to the quantile function interpolated between {start.size} atoms.")
        else:
            notes.append(f"Distances refer to marginals smoothed from {start.size} atoms, and have wide bands; means, "
                         "deviations and risk are sharp.")
    notes += runs.notes
    if scatter is not None:
        notes.append("The scatter of the runs is predicted, to first order in 1/N and the step size.")
    elif runs.n_runs == 1:
        noise = "the noise of SGD" if runs.is_sgd else "noise that the particles share"
        notes.append(f"One run shows no scatter: {noise} is not in the bands.")
    return tuple(notes)
