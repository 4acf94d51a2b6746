"""The box and the cells of `Grid.for_problem`, found by trial solves on coarse grids.

The box begins as that of the initial law, grows at each end where a trial solve brings mass, and is cut where none ever
comes. Solves on two grids, each also with one axis refined, give the error due to each axis and its order p; from
error ~ h^p follows the number of cells that reaches the tolerance. A run with the tolerance on these cells, whose
certificate judges it, has the last word.
"""

from __future__ import annotations

import logging
import math
import numbers
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from wgflow.atoms import Atoms
from wgflow.certificate import ENERGY_TOLERANCE
from wgflow.checks import as_float, check_count
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.mobility import Mobility, as_mobility
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, ResourceError, WGFlowWarning
from wgflow.grid_checks import MAX_AXES, check_bounds, check_cells
from wgflow.grids import Grid

from .initial_laws import InitialLaw, initial_law

__all__ = ["problem_grid"]

logger = logging.getLogger("wgflow")

#: Part of the mass that may ever come to the outermost cells of a trial grid.
EDGE_MASS = 1e-12
#: Growth of the box at an end where mass arrives, as a part of its length.
GROWTH = 0.3
#: The box grows at most this many times.
MOST_GROWTHS = 60
#: Beyond this ratio of the box to that of the initial law the flow counts as running away: without and with t_end.
RUNAWAY = (100.0, 1e4)
#: Most steps of a trial solve for the box, which needs little accuracy,
BOX_STEPS = 5_000
#: and of one for the cells, whose error is measured.
ERROR_STEPS = 200_000
#: Cells of each axis of a trial grid for the box, by number of axes: at least,
BOX_CELLS = {1: 100, 2: 40, 3: 18, 4: 10}
#: and at most.
BOX_LIMIT = {1: 3000, 2: 250, 3: 60, 4: 20}
#: Cells of each axis of the first trial grid for the cells.
ERROR_CELLS = {1: 32, 2: 24, 3: 12, 4: 8}
#: Cells over one standard deviation of the initial law, at least, on a trial grid for the box.
RESOLUTION = 2.0
#: Output times as parts of the time span, at which errors are estimated.
SAMPLES = (1 / 1024, 1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0)
#: Output times of trial solves for the box, as parts of the time span.
HALVINGS = tuple(2.0**-k for k in range(20, -1, -1))
#: Multiples of its extent by which the law is moved and stretched to see whether its energy falls without bound.
FAR = (100.0, 1000.0)
#: Points by which the law is represented in this test.
FAR_POINTS = 200
#: The energy counts as unbounded if its fall from 100 to 1000 times the extent is at least this part of that to 100.
UNBOUNDED = 0.3
#: The flow has come to rest if it changes by less than this from half of the time span to its end.
REST = 1e-3
#: The time span is prolonged at most this many times.
MOST_PROLONGATIONS = 14
#: The estimated number of cells is multiplied by this.
SAFETY = 1.15
#: It is extrapolated by no more than this factor.
REACH = 4.0
#: Part of the tolerance that the error of the grid may take; the rest is for the steps, and for times between samples.
GRID_PART = 0.4
#: A run with the tolerance judges the cells, which are more by the second of these factors where it asks for more.
MOST_TRIALS, LEAST_GROWTH = 8, 1.1
#: The observed order of convergence is kept between these before it is used to extrapolate.
LEAST_ORDER, GREATEST_ORDER = 0.5, 4.0


@dataclass
class TrialProblem:
    """A flow for which a grid is sought, and its trial solves.

    Attributes
    ----------
    energy : Term
    law : InitialLaw
    t_end : float or None
        None if the grid is to serve for all times.
    given : list
        For each axis its bounds, or None where they are to be found.
    boundary : tuple
        As in `Grid`, for each axis.
    method : Method or None
        Method of the trial solves.
    time_scale : float or callable
    names : sequence of str or None
    max_cells : int
    mobility : Mobility or None
    """

    energy: Term
    law: InitialLaw
    t_end: float | None
    given: list
    boundary: tuple[Any, ...]
    method: Any
    time_scale: Any
    names: Any
    max_cells: int
    mobility: Mobility | None = None

    def grid(self, box, shape) -> Grid:
        """Return a uniform grid."""
        return Grid(list(box), cells=tuple(shape), boundary=self.boundary, names=self.names)

    def solve(self, grid: Grid, t_end: float, t_eval, steps: int, tol: float | None = None):
        """Return the solution of a trial problem, by the method given, or with a tolerance for the whole run."""
        import wgflow

        method = self.method or wgflow.FiniteVolume(max_steps=steps, tol=tol)
        try:
            return wgflow.solve(self.energy, self.law.density(grid), (0.0, t_end), method=method, t_eval=t_eval,
                                time_scale=self.time_scale, mobility=self.mobility)
        except ConvergenceError as error:
            hint = "give t_end=" if self.t_end is None else "give bounds= and cells="
            raise ConvergenceError(f"a trial solve on {grid} until t = {t_end:.4g} did not end ({error}); {hint}",
                                   reason=error.reason, t=error.t, dt=error.dt) from error


# -------------------------------------------------------------------- the box
def choose_box(problem: TrialProblem) -> tuple[list[tuple[float, float]], float]:
    """Return the bounds of each axis, and the time span for which they were found."""
    box = [pair if pair is not None else _widened(*reach) for pair, reach in zip(problem.given, problem.law.extent)]
    start = [hi - lo for lo, hi in box]
    if problem.t_end is None:
        _check_confined(problem, box)
    horizon = problem.t_end if problem.t_end is not None else _first_horizon(problem, box)
    for _ in range(MOST_PROLONGATIONS):
        box, solution = _settled(problem, box, horizon, start)
        if problem.t_end is not None or _at_rest(solution):
            break
        horizon *= 4.0
    else:
        raise InvalidInput(f"t_end: the flow does not come to rest by t = {horizon:.3g}; give t_end=, the end of the "
                           "time span for which the grid is sought")
    if all(pair is not None for pair in problem.given):
        return box, horizon
    box = _cut(problem, box, solution)
    box, _ = _settled(problem, box, horizon, start)
    logger.info("for_problem: box %s for t <= %.4g", box, horizon)
    return box, horizon


def _widened(lo: float, hi: float) -> tuple[float, float]:
    margin = 0.05 * (hi - lo)
    return lo - margin, hi + margin


def _trial_shape(problem: TrialProblem, box) -> tuple[int, ...]:
    """Return the numbers of cells of a trial grid that resolves the initial law."""
    ndim = problem.law.ndim
    wanted = [RESOLUTION * (hi - lo) / s for (lo, hi), s in zip(box, problem.law.deviations)]
    return tuple(int(min(max(BOX_CELLS[ndim], n), BOX_LIMIT[ndim])) for n in wanted)


def _first_horizon(problem: TrialProblem, box) -> float:
    """Return the time in which the flow, at its initial speed, moves by the standard deviation of the initial law."""
    grid = problem.grid(box, _trial_shape(problem, box))
    rho = problem.law.density(grid)
    speed = math.sqrt(max(_as_sum(problem.energy).dissipation(rho, problem.mobility), 0.0))
    length = float(np.max(problem.law.deviations))
    return length / speed if math.isfinite(speed) and speed > 1e-12 * length else 1.0


def _as_sum(energy: Term) -> FreeEnergy:
    return energy if isinstance(energy, FreeEnergy) else FreeEnergy([(1.0, energy)])


def _settled(problem: TrialProblem, box, horizon: float, start):
    """Grow the box until no mass comes to its ends; return it, and the solution on it."""
    free = [pair is None for pair in problem.given]
    for _ in range(MOST_GROWTHS):
        solution = problem.solve(problem.grid(box, _trial_shape(problem, box)), horizon,
                                 [share * horizon for share in HALVINGS], BOX_STEPS)
        ends = _end_masses(solution)
        late = [[is_free and mass > EDGE_MASS for mass in pair] for is_free, pair in zip(free, ends)]
        if not any(map(any, late)):
            return box, solution
        box = [(lo - GROWTH * (hi - lo) * low, hi + GROWTH * (hi - lo) * high)
               for (lo, hi), (low, high) in zip(box, late)]
        if any(hi - lo > RUNAWAY[problem.t_end is not None] * length for (lo, hi), length in zip(box, start)):
            break
    axis = int(np.argmax([any(pair) for pair in late]))
    if problem.t_end is None:
        raise InvalidInput(f"t_end: nothing confines the flow along axis {axis}, mass still leaves the box "
                           f"{box[axis]} at t = {horizon:.3g}; give t_end=, or bounds= where there are walls")
    raise InvalidInput(f"bounds: mass leaves the box {box[axis]} along axis {axis} before t_end={horizon:g}, and every "
                       "larger one (heavy tails, or a flow that runs away); give bounds= for this axis")


def _end_masses(solution) -> list[tuple[float, float]]:
    """Return, for each axis, the largest part of the mass ever in the outer 1 % of the cells at each of its ends."""
    grid, ends = solution.grid, []
    for axis in range(grid.ndim):
        count = max(1, grid.shape[axis] // 100)
        profiles = [_profile(rho, axis) for rho in solution.densities]
        ends.append((max(float(p[:count].sum()) for p in profiles), max(float(p[-count:].sum()) for p in profiles)))
    return ends


def _profile(rho: Density, axis: int) -> np.ndarray:
    """Return the marginal of the mass along an axis, normalized."""
    return rho.masses.sum(axis=tuple(k for k in range(rho.grid.ndim) if k != axis)) / rho.mass


def _check_confined(problem: TrialProblem, box) -> None:
    """Refuse an energy that falls without bound as the law moves away or spreads along an axis."""
    grid = problem.grid(box, _trial_shape(problem, box))
    rho = problem.law.density(grid)
    cells = np.random.default_rng(90817).choice(grid.size, FAR_POINTS, p=rho.masses.ravel() / rho.mass)
    points = np.array([x.ravel()[cells] for x in grid.mesh()])
    energy = _as_sum(problem.energy)
    others = not all(term.is_internal for _, term in energy.terms)
    for axis, pair in enumerate(problem.given):
        if pair is not None:
            continue
        x, length = points[axis], box[axis][1] - box[axis][0]
        for words, shift, stretch in (("moves away", -1, 0), ("moves away", 1, 0), ("spreads", 0, 1)):
            values = [_energy_of(energy, points, rho, axis, x + factor * (shift * length + stretch * (x - x.mean())),
                                 1.0 + factor * stretch) for factor in (0.0, *FAR)]
            first, second = values[0] - values[1], values[1] - values[2]
            # A logarithm falls by another half of its first fall, a linear function by nine times that, a bounded one
            # hardly. Without potential and interaction any fall will do.
            least = UNBOUNDED if others else 0.0
            if second > least * first and second > 0.0 and first > EDGE_MASS * max(1.0, abs(values[0])):
                raise InvalidInput(f"t_end: nothing confines the flow along axis {axis}, its energy falls forever as "
                                   f"the law {words}; give t_end=, or bounds= where there are walls")


def _energy_of(energy: FreeEnergy, points, rho: Density, axis: int, x, stretch: float) -> float:
    """Return the energy of points with new coordinates along an axis, the internal energy being that of rho stretched.

    NaN where the energy cannot be evaluated.
    """
    moved = points.copy()
    moved[axis] = x
    wide = Grid([(stretch * lo, stretch * hi) if k == axis else (lo, hi) for k, (lo, hi) in enumerate(rho.grid.bounds)],
                cells=rho.grid.shape)
    stretched = Density(wide, rho.masses / wide.volumes)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            value = energy.energy(Atoms(moved, np.full(points.shape[1], rho.mass / points.shape[1])))
            return value + sum(factor * term.energy(stretched) for factor, term in energy.terms if term.is_internal)
    except InvalidInput:
        return math.nan


def _at_rest(solution) -> bool:
    half = solution.density(solution.t[-2])
    return float(np.abs(solution.final.masses - half.masses).sum()) <= REST * solution.final.mass


def _cut(problem: TrialProblem, box, solution) -> list[tuple[float, float]]:
    """Return the box without the outer parts that no mass ever reaches."""
    out = []
    for axis, (pair, (lo, hi), edges) in enumerate(zip(problem.given, box, solution.grid.edges)):
        if pair is not None:
            out.append(pair)
            continue
        # The initial law counts too: the trial grid holds it as the density at the start.
        laws = [problem.law.density(solution.grid), *solution.densities]
        most = np.max([_profile(rho, axis) for rho in laws], axis=0)
        inside = np.flatnonzero((np.cumsum(most) > 0.1 * EDGE_MASS) & (np.cumsum(most[::-1])[::-1] > 0.1 * EDGE_MASS))
        low, high = _widened(float(edges[inside[0]]), float(edges[inside[-1] + 1]))
        out.append(_rounded(max(low, lo), min(high, hi)))
    return out


def _rounded(lo: float, hi: float) -> tuple[float, float]:
    """Return the ends moved outward to round numbers, by less than 2 percent of the length."""
    step = 10.0 ** math.floor(math.log10(0.02 * (hi - lo)))
    return round(math.floor(lo / step) * step, 12), round(math.ceil(hi / step) * step, 12)


# -------------------------------------------------------------------- the cells
def choose_cells(problem: TrialProblem, box, horizon: float, tol: float, fixed) -> tuple[int, ...]:
    """Return the cells of each axis for an L1 error, relative to the mass, of at most ``tol`` at the sampled times.

    ``fixed`` has the number of cells of each axis, or None where it is to be found.
    """
    ndim = problem.law.ndim
    free = [axis for axis in range(ndim) if fixed[axis] is None]
    shape = [ERROR_CELLS[ndim] if n is None else n for n in fixed]
    before: list[float] | None = None
    while free:
        _check_size(problem, shape, tol, 2)
        errors = _axis_errors(problem, box, shape, horizon, free)
        if before is not None:
            orders = [min(max(math.log2(b / e), LEAST_ORDER), GREATEST_ORDER) if e > 0 else GREATEST_ORDER
                      for b, e in zip(before, errors)]
            needed = [max(1.0, SAFETY * (len(free) * error / (GRID_PART * tol)) ** (1.0 / order) if error > 0 else 1.0)
                      for error, order in zip(errors, orders)]
            if max(needed) <= REACH:
                for axis, factor in zip(free, needed):
                    shape[axis] = _in_fours(factor * shape[axis])
                _check_size(problem, shape, tol)
                logger.info("for_problem: cells %s; errors %s by axis, orders %s", shape, errors, orders)
                break
        before, shape = errors, [2 * n if axis in free else n for axis, n in enumerate(shape)]
    return tuple(shape)


def _in_fours(cells: float) -> int:
    """Return a number of cells that can be halved twice, so that errors are seen by joining cells."""
    return 4 * math.ceil(0.25 * cells)


def _enough(problem: TrialProblem, box, shape: tuple[int, ...], horizon: float, tol: float, fixed) -> tuple[int, ...]:
    """Return cells with which the certificate of a run with the tolerance finds the error of the grid small enough."""
    for _ in range(MOST_TRIALS):
        trial = problem.solve(problem.grid(box, shape), horizon, None, ERROR_STEPS, tol)
        found = trial.certificate.grid_error or 0.0
        if not trial.certificate.grid_compared or found <= GRID_PART * tol:
            break
        order = 4.0 if "fourth" in trial.certificate.scheme else 2.0
        factor = min(max((found / (GRID_PART * tol)) ** (1.0 / order), LEAST_GROWTH), REACH)
        shape = tuple(n if kept is not None else _in_fours(factor * n) for n, kept in zip(shape, fixed))
        _check_size(problem, shape, tol)
        logger.info("for_problem: cells %s; error of the grid %.2g with fewer", shape, found)
    return shape


def _check_size(problem: TrialProblem, shape, tol: float, factor: int = 1) -> None:
    if factor * math.prod(shape) > problem.max_cells:
        raise ResourceError(f"tol={tol:g} needs more than max_cells={problem.max_cells} cells ({tuple(shape)} were too "
                            f"few, or are too many); loosen tol, raise max_cells or give bounds= of the part that "
                            "matters. A law that concentrates to points has no density that converges: take "
                            "Lagrangian, or JKO")


def _axis_errors(problem: TrialProblem, box, shape, horizon: float, free) -> list[float]:
    """Return the error of a grid due to each of some axes: differences to grids refined along one, extrapolated."""
    times = [share * horizon for share in SAMPLES]
    coarse = problem.solve(problem.grid(box, shape), horizon, times, ERROR_STEPS)
    errors = []
    for axis in free:
        finer = [2 * n if k == axis else n for k, n in enumerate(shape)]
        fine = problem.solve(problem.grid(box, finer), horizon, times, ERROR_STEPS)
        largest = 0.0
        for rho, better in zip(coarse.densities, fine.densities):
            split = better.masses.shape[:axis] + (shape[axis], 2) + better.masses.shape[axis + 1:]
            gap = np.abs(better.masses.reshape(split).sum(axis=axis + 1) - rho.masses).sum() / rho.mass
            largest = max(largest, float(gap))
        errors.append(4.0 / 3.0 * largest if largest > ENERGY_TOLERANCE else 0.0)
    return errors


# -------------------------------------------------------------------- the arguments
def problem_grid(energy, rho0, t_end, tol, bounds, cells, boundary, method, time_scale, names, max_cells,
                 mobility=None) -> Grid:
    """Return the grid of `Grid.for_problem`, which has the documentation."""
    if not isinstance(energy, Term):
        raise InvalidType(f"energy must be a sum of terms such as Entropy(1.0) + Potential(V), got {energy!r}")
    _check_number("tol", tol, 1e-8, 1.0)
    if t_end is not None:
        _check_number("t_end", t_end, 0.0, math.inf)
    check_count("max_cells", max_cells)
    given = None if bounds is None else _check_given(bounds)
    law = initial_law(rho0, given)
    given = given if given is not None else [None] * law.ndim
    if len(given) != law.ndim:
        raise InvalidInput(f"bounds has {len(given)} entries, rho0 {law.ndim} coordinates")
    words = [boundary] * law.ndim if boundary is None or isinstance(boundary, str) else list(boundary)
    # A grid of two cells checks the words, the names and the bounds that are given.
    Grid([(0.0, 1.0) if pair is None else pair for pair in given], cells=2, boundary=tuple(words), names=names)
    for axis, (word, pair) in enumerate(zip(words, given)):
        if word == "periodic" and pair is None:
            raise InvalidInput(f"bounds[{axis}]: a periodic axis needs its bounds, which are its period")
    # Bounds that are given are walls.
    words = ["no-flux" if word is None and pair is not None else word for word, pair in zip(words, given)]
    fixed = _check_fixed(cells, law.ndim)
    problem = TrialProblem(energy, law, None if t_end is None else float(t_end), given, tuple(words), method,
                           time_scale, names, int(max_cells), as_mobility(mobility))
    with warnings.catch_warnings():
        # Warnings about a coarse trial grid are repeated for the grid that is chosen.
        warnings.simplefilter("ignore", WGFlowWarning)
        box, horizon = choose_box(problem)
        shape = choose_cells(problem, box, horizon, float(tol), fixed)
        if method is None and None in fixed:
            shape = _enough(problem, box, shape, horizon, float(tol), fixed)
    return problem.grid(box, shape)


def _check_number(name: str, value, low: float, high: float) -> None:
    value = as_float(name, value)
    if not low < value < high:
        raise InvalidInput(f"{name}={value}: need a number between {low:g} and {high:g}")


def _check_given(bounds) -> list:
    """Return the bounds for each axis, or None; a single pair is one axis."""
    try:
        entries = list(bounds)
    except TypeError as error:
        raise InvalidType(f"bounds={bounds!r}: need a (lo, hi) pair or None for each axis") from error
    if len(entries) == 2 and all(isinstance(entry, numbers.Real) for entry in entries):
        entries = [tuple(entries)]
    if not 1 <= len(entries) <= MAX_AXES:
        raise InvalidInput(f"bounds has {len(entries)} axes; a grid has 1 to {MAX_AXES}")
    return [None if entry is None else check_bounds([entry])[0] for entry in entries]


def _check_fixed(cells, ndim: int) -> list:
    entries = [cells] * ndim if cells is None or isinstance(cells, numbers.Integral) else list(cells)
    if len(entries) != ndim:
        raise InvalidInput(f"cells has {len(entries)} entries, rho0 {ndim} coordinates")
    return [None if entry is None else check_cells(entry, 1)[0] for entry in entries]
