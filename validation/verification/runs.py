"""The catalogue of exact solutions, run and judged: ``wgflow verify``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from wgflow.calls.explained import nearest
from wgflow.errors import InvalidInput, WGFlowError
from wgflow.solution import Solution
from wgflow.solvers import JKO, FiniteVolume
from wgflow.verbs import solve

from ..distances import wasserstein_1d
from ..exact.base import StateProblem, relative_error
from .catalogue import AnyCase, Case, CollapseCase, DistanceCase, catalogue, families
from .report import APART, JUDGED_CELLS, Verification, Verified, check_path, judged_grid

__all__ = ["Verification", "Verified", "check_path", "families", "verify"]

#: Largest relative error of a moment or energy at 200 cells an axis; on coarser grids it may grow like h^2.
MOMENT_LIMIT = 1e-3
#: Largest relative error of the dissipation.
DISSIPATION_LIMIT = 1e-2
#: A dissipation below this part of that at the start is compared with this part.
DISSIPATION_FLOOR = 1e-2
#: Largest drift of the mass.
MASS_LIMIT = 1e-13
#: Largest rise of the energy in a step.
ENERGY_LIMIT = 1e-12
#: Largest distance of a front in cells; rounding may put it on the other side of an edge.
FRONT_LIMIT = 1.0 + 1e-6
#: Largest errors of JKO steps at 200 cells.
JKO_LIMIT = 1e-3
#: An estimated error is at least the true one over this, and for smooth solutions at most this times it,
ESTIMATE_FACTOR = 3.0
#: where the true one is above what references and their boxes are exact to.
ESTIMATE_FLOOR = 1e-10
#: Grids of the quick scale have no more cells than this.
QUICK_CELLS = 200
#: An order is judged over so many grids or more.
ORDER_GRIDS = 5


def verify(
    family: str | Sequence[str] | None = None,
    *,
    cells: Sequence[int] | None = None,
    quick: bool = False,
    report: Callable[[float], object] | None = None,
) -> Verification:
    """Run the catalogue of exact solutions and judge every case.

    Each problem is solved with FiniteVolume on several grids. What is judged: moments and energies within 1e-3 at 200
    cells an axis, the observed order of the density's L1 error, fronts within one cell, mass within 1e-13, no rise of
    the energy above 1e-12; and that the error which `Solution.estimate_error` states of the density is at least a third
    of the true one, for smooth solutions also at most three times as much, unless it says not to trust it. Where the
    JKO scheme has exact steps, ``JKO(inner="quantile")`` is compared with them too.

    Parameters
    ----------
    family : str or sequence of str, optional
        Only these families; all by default.
    cells : sequence of int, optional
        Cells an axis of the grids, for every case; orders are then shown, but judged only over five grids or more.
    quick : bool
        Leave out grids of more than 200 cells and the cases of several axes.
    report : callable, optional
        Called with the part that is done.

    Returns
    -------
    Verification

    Raises
    ------
    InvalidInput
        If a family is not known or ``cells`` are not integers of at least 8.
    """
    wanted = families() if family is None else (family,) if isinstance(family, str) else tuple(family)
    for name in wanted:
        if name not in families():
            near = nearest(str(name), families())
            raise InvalidInput(f"no family is called {name!r}; {f'did you mean {near}? ' if near else ''}there are "
                               f"{', '.join(families())}")
    if cells is not None and (len(cells) == 0 or any(int(n) != n or n < 8 for n in cells)):
        raise InvalidInput(f"cells={list(cells)}: need one or more integers >= 8")
    cases = [case for case in catalogue() if case.family in wanted and not (quick and case.slow)]
    ways: dict[type, Callable] = {Case: _flow, CollapseCase: _collapse, DistanceCase: _distance}
    jobs = [(ways[type(case)], case) for case in cases]
    jobs += [(_jko, case) for case in cases if isinstance(case, Case) and case.jko]
    begin, found = time.process_time(), []
    for done, (run, case) in enumerate(jobs):
        found.append(run(case, _grids(case, cells, quick)))
        if report is not None:
            report((done + 1) / len(jobs))
    return Verification(tuple(found), quick, time.process_time() - begin)


def _grids(case: AnyCase, cells: Sequence[int] | None, quick: bool) -> tuple[int, ...]:
    if len(case.cells) == 1:
        return case.cells
    chosen = case.cells if cells is None else tuple(sorted({int(n) for n in cells}))
    return tuple(n for n in chosen if n <= QUICK_CELLS) or chosen[:1] if quick else chosen


def _flow(case: Case, cells: tuple[int, ...]) -> Verified:
    """Solve on every grid, and judge."""
    problem, runs, seconds, drift, rise = case.problem, [], [], 0.0, 0.0
    judged, estimated, trusted = judged_grid(cells), math.nan, True
    try:
        for k, n in enumerate(cells):
            grid = problem.grid(n)
            energy, start = problem.energy(), problem.initial_density(grid)
            begin = time.process_time()
            sol = solve(energy, start, (0.0, problem.t_end), FiniteVolume(**case.settings), t_eval=problem.times,
                        mobility=problem.mobility)
            seconds.append(time.process_time() - begin)
            errors = problem.errors(sol.final)
            for name, (measured, exact) in problem.path_quantities(sol).items():
                errors[name] = relative_error(measured, exact)
            if "dissipation" in errors:
                first, last = (problem.quantities(t)["dissipation"] for t in (0.0, problem.t_end))
                errors["dissipation"] *= min(1.0, last / (DISSIPATION_FLOOR * first))
            front = problem.front_error(sol.final)
            if front is not None:
                errors["front"] = front
            runs.append(errors)
            if k == judged:
                estimated, trusted = _estimated(sol)
            drift = max(drift, sol.certificate.mass_drift)
            rise = max(rise, sol.certificate.max_energy_increase)
    except WGFlowError as error:
        return Verified(case.family, case.name, "finite volumes", cells, failures=(f"{n} cells: {error}",))
    table = {name: tuple(float(run[name]) for run in runs) for name in runs[0]}
    orders = {name: _order(cells, values) for name, values in table.items()}
    found = Verified(case.family, case.name, "finite volumes", cells, table, orders, drift, rise, tuple(seconds),
                     order_of=case.order_of, estimated=estimated, trusted=trusted)
    return _with_failures(found, _judge(case, found))


def _estimated(sol: Solution) -> tuple[float, bool]:
    """Return the L1 error that a solution states of itself, NaN where it can state none, and whether it trusts it."""
    try:
        found = sol.estimate_error()
    except InvalidInput:
        # Grids of few cells.
        return math.nan, True
    return math.nan if found.density is None else float(found.density), found.trusted


def _judge_estimate(case: Case, found: Verified) -> list[str]:
    """Return what is wrong with the error that the solution on the judged grid states of itself."""
    true = found.error("density")
    if math.isnan(true) or math.isnan(found.estimated) or true < ESTIMATE_FLOOR:
        return []
    ratio = found.estimated / true
    bounded = case.problem.smooth and found.trusted
    if ratio >= 1.0 / ESTIMATE_FACTOR and (ratio <= ESTIMATE_FACTOR or not bounded):
        return []
    return [f"the L1 error {true:.1e} was estimated to be {found.estimated:.1e}, on {found.cells[found.judged]} cells"]


def _judge(case: Case, found: Verified) -> list[str]:
    n, failures = found.cells[found.judged], _judge_estimate(case, found)
    room = max(1.0, (JUDGED_CELLS / n) ** 2)
    for name, values in found.errors.items():
        if name in ("density", "front"):
            continue
        limit = case.limits.get(name, (DISSIPATION_LIMIT if name == "dissipation" else MOMENT_LIMIT) * room)
        # A limit of the case's own holds on its finest grid.
        error = values[-1] if name in case.limits else values[found.judged]
        if not error <= limit:
            failures.append(f"{name} is off by {error:.2e}, more than {limit:.0e}, on "
                            f"{found.cells[-1] if name in case.limits else n} cells")
    for m, limit in case.density_limits.items():
        if m in found.cells and not found.errors["density"][found.cells.index(m)] <= limit:
            failures.append(f"L1 error {found.errors['density'][found.cells.index(m)]:.2e}, more than {limit:.0e}, on "
                            f"{m} cells")
    if "density" in case.limits and not found.errors["density"][-1] <= case.limits["density"]:
        failures.append(f"L1 error {found.errors['density'][-1]:.2e}, more than {case.limits['density']:.0e}")
    if case.order is not None and len(found.cells) >= ORDER_GRIDS and not found.orders[case.order_of] >= case.order:
        failures.append(f"observed order {found.orders[case.order_of]:.2f} of the {case.order_of}, less than "
                        f"{case.order:g}")
    if "front" in found.errors and not max(found.errors["front"]) <= FRONT_LIMIT:
        failures.append(f"the front is {max(found.errors['front']):.2f} cells away from where it must be")
    if not found.mass_drift <= MASS_LIMIT:
        failures.append(f"mass changed by {found.mass_drift:.1e}, more than {MASS_LIMIT:.0e}")
    if not found.energy_rise <= ENERGY_LIMIT:
        failures.append(f"the energy rose by {found.energy_rise:.1e}, more than {ENERGY_LIMIT:.0e}")
    return failures


def _jko(case: Case, cells: tuple[int, ...]) -> Verified:
    """Return JKO steps in quantile coordinates against the exact ones."""
    (tau, steps), problem = case.jko or (0.0, 0), case.problem
    n = min(JUDGED_CELLS, cells[-1])
    label = f"JKO, {steps} steps of {tau:g}"
    try:
        if not isinstance(problem, StateProblem):
            raise InvalidInput(f"{type(problem).__name__} has no exact JKO steps")
        grid = problem.grid(n)
        energy, start = problem.energy(), problem.initial_density(grid)
        begin = time.process_time()
        sol = solve(energy, start, (0.0, tau * steps), JKO(tau=tau, inner="quantile"), t_eval=[tau * steps])
        seconds = time.process_time() - begin
        found_errors = problem.jko_errors(sol.final, tau, steps)
        errors: dict[str, tuple[float, ...]] = {name: (float(value),) for name, value in found_errors.items()}
    except WGFlowError as error:
        return Verified(case.family, case.name, label, (n,), failures=(str(error),))
    found = Verified(case.family, case.name, label, (n,), errors, dict.fromkeys(errors, math.nan),
                     sol.certificate.mass_drift, sol.certificate.max_energy_increase, (seconds,))
    room = max(1.0, (JUDGED_CELLS / n) ** 2)
    failures = [f"{name} is off by {value:.2e}, more than {JKO_LIMIT * room:.0e}, on {n} cells"
                for name, (value,) in errors.items() if name not in APART and not value <= JKO_LIMIT * room]
    return _with_failures(found, failures)


def _collapse(case: CollapseCase, cells: tuple[int, ...]) -> Verified:
    """Follow a flow beyond its blow-up, which must be reported on every grid, with the solution before it kept."""
    problem, failures, seconds, drift, rise = case.problem, [], [], 0.0, 0.0
    for n in cells:
        grid = problem.grid(n)
        begin = time.process_time()
        sol = solve(problem.energy(), problem.initial_density(grid), (0.0, 2.0 * problem.collapse_time), FiniteVolume(),
                    throw=False)
        seconds.append(time.process_time() - begin)
        if sol.status == 0 or not sol.message.startswith("blow-up"):
            failures.append(f"the blow-up was not reported on {n} cells: {sol.message}")
        elif not 0.0 < sol.t[-1] <= problem.collapse_time or not np.isfinite(sol.final.values).all():
            failures.append(f"blow-up reported at t = {sol.t[-1]:.4g} on {n} cells, later than "
                            f"{problem.collapse_time:.4g}")
        drift = max(drift, sol.certificate.mass_drift)
        rise = max(rise, sol.certificate.max_energy_increase)
    found = Verified(case.family, case.name, "finite volumes", cells, {}, {}, drift, rise, tuple(seconds))
    if not drift <= MASS_LIMIT or not rise <= ENERGY_LIMIT:
        failures.append(f"mass changed by {drift:.1e}, the energy rose by {rise:.1e}")
    return _with_failures(found, failures)


def _distance(case: DistanceCase, cells: tuple[int, ...]) -> Verified:
    """Return W2 of the two laws on every grid."""
    values, seconds = [], []
    for n in cells:
        first, second = case.problem.densities(n)
        begin = time.process_time()
        found = wasserstein_1d(first, second, p=2)
        seconds.append(time.process_time() - begin)
        values.append(abs(found - case.problem.distance) / case.problem.distance)
    table = {"W2": tuple(values)}
    result = Verified(case.family, case.name, "wasserstein_1d", cells, table,
                      {"W2": _order(cells, values)}, seconds=tuple(seconds),
                      order_of="W2")
    error, n = result.error("W2"), cells[result.judged]
    limit = case.limit * max(1.0, (JUDGED_CELLS / n) ** 2)
    failures = [] if error <= limit else [f"W2 is off by {error:.2e}, more than {limit:.0e}, on {n} cells"]
    return _with_failures(result, failures)


def _with_failures(found: Verified, failures: list[str]) -> Verified:
    return replace(found, failures=tuple(failures))


def _order(cells: Sequence[int], values: Sequence[float]) -> float:
    """Return the observed order by regression; NaN for less than three grids, or rounding."""
    if len(cells) < 3 or min(values) < 1e-13:
        return math.nan
    return float(-np.polyfit(np.log(cells), np.log(values), 1)[0])
