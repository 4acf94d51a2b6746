"""Grid.for_problem on the truths: its box holds the law, its cells keep the tolerance; graded grids."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, InvalidType, ResourceError

BOWL = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
WELLS = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
DESAI_ZWANZIG = WELLS + wg.Interaction(lambda x, y: (x - y) ** 2 / 2)
ROOM = 1e-10
BARENBLATT_C = 0.360562392577


def solved(grid, energy, rho0, times):
    sol = wg.solve(energy, rho0, (0, times[-1]), t_eval=times)
    assert sol.certificate.boundary_mass < ROOM
    return sol.densities


def error(rho, exact):
    return float(np.abs(rho.masses - exact.masses).sum()) / exact.mass


def on_grid(fine, grid):
    """A density of a grid that is finer by a whole factor."""
    count = fine.grid.shape[0] // grid.shape[0]
    return wg.Density(grid, fine.masses.reshape(-1, count).sum(axis=1) / grid.volumes)


# ---------------------------------------------------------------- the truths
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("t_end", [0.3, 1.0, None])
def test_ornstein_uhlenbeck(tol, t_end):
    grid = wg.Grid.for_problem(BOWL, (2.0, 0.25), t_end, tol=tol)
    times = [0.03, 0.1, 0.3] if t_end == 0.3 else [0.1, 0.4, 1.0]
    for t, rho in zip(times, solved(grid, BOWL, wg.Density.gaussian(grid, 2.0, 0.25), times)):
        exact = wg.Density.gaussian(grid, 2 * math.exp(-t), 0.25 * math.exp(-2 * t) + 1 - math.exp(-2 * t))
        assert error(rho, exact) <= tol
    # Neither is it wasteful: the error of the best uniform grid in the same box goes as the square of the cells.
    assert grid.size < 8 / math.sqrt(tol)


@pytest.mark.parametrize(("energy", "t_end"), [(WELLS, None), (WELLS, 2.0), (DESAI_ZWANZIG, None),
                                               (DESAI_ZWANZIG, 2.0)])
def test_wells_with_and_without_attraction(energy, t_end):
    grid = wg.Grid.for_problem(energy, (0.5, 0.2), t_end, tol=1e-3)
    times = [0.1, 0.5, 2.0]
    coarse = solved(grid, energy, wg.Density.gaussian(grid, 0.5, 0.2), times)
    fine = wg.Grid(grid.bounds, cells=8 * grid.size)
    for rho, better in zip(coarse, solved(fine, energy, wg.Density.gaussian(fine, 0.5, 0.2), times)):
        assert error(rho, on_grid(better, grid)) <= 1e-3
    if energy is DESAI_ZWANZIG:
        assert coarse[1].mean() == pytest.approx(0.547091647928, abs=1e-3)
        assert coarse[2].mean() == pytest.approx(0.652245502425, abs=1e-3)


@pytest.mark.parametrize("t_end", [0.5, 20.0])
def test_heat_spreads(t_end):
    energy = wg.Entropy(2.0)
    grid = wg.Grid.for_problem(energy, (0.0, 0.1), t_end, tol=1e-3)
    (rho,) = solved(grid, energy, wg.Density.gaussian(grid, 0.0, 0.1), [t_end])
    assert error(rho, wg.Density.gaussian(grid, 0.0, 0.1 + t_end)) <= 1e-3
    assert 6 < grid.bounds[0][1] / math.sqrt(0.1 + t_end) < 14


def barenblatt(t):
    return lambda x: t ** (-1 / 3) * np.maximum(BARENBLATT_C - x * x / 12 * t ** (-2 / 3), 0)


@pytest.mark.parametrize("t_end", [1.0, 7.0])
def test_the_support_of_a_porous_medium_grows(t_end):
    energy = wg.PowerEntropy(2.0)
    grid = wg.Grid.for_problem(energy, barenblatt(1.0), t_end, tol=2e-3)
    (rho,) = solved(grid, energy, wg.Density.from_function(grid, barenblatt(1.0)), [t_end])
    assert error(rho, wg.Density.from_function(grid, barenblatt(1 + t_end))) <= 2e-3
    front = math.sqrt(12 * BARENBLATT_C) * (1 + t_end) ** (1 / 3)
    assert front < grid.bounds[0][1] < 1.5 * front


def test_drift_is_followed_and_attraction_keeps():
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x) + wg.Interaction(lambda x, y: (x - y) ** 2 / 2)
    grid = wg.Grid.for_problem(energy, (0.0, 0.25), 5.0, tol=1e-2)
    (rho,) = solved(grid, energy, wg.Density.gaussian(grid, 0.0, 0.25), [5.0])
    assert rho.mean() == pytest.approx(-5.0, abs=0.02)
    assert grid.bounds[0][0] < -10
    kept = wg.Grid.for_problem(wg.Entropy(1.0) + wg.Interaction(lambda x, y: (x - y) ** 2 / 2), (3.0, 0.25), tol=1e-2)
    lo, hi = kept.bounds[0]
    assert lo == pytest.approx(6 - hi, abs=0.5)
    assert 6 < hi - 3 < 12


def test_attraction_of_short_range_against_a_porous_medium():
    # The steady state of the truths: A cos(w x) + B on |x| < (pi - atan w) / w with w = 1, the box holds its support.
    energy = 0.25 * wg.PowerEntropy(2.0) + wg.Interaction(lambda x, y: -0.5 * np.exp(-np.abs(x - y)))
    grid = wg.Grid.for_problem(energy, (0.0, 0.5), tol=2e-2)
    half = math.pi - math.atan(1.0)
    assert grid.bounds[0][1] > half
    rho = wg.solve(energy, wg.Density.gaussian(grid, 0.0, 0.5), (0, 60)).final
    assert rho.expect(lambda x: (np.abs(x) < half + 0.2) * 1.0) == pytest.approx(1.0, abs=1e-6)
    assert rho.values.max() == pytest.approx(0.359665324734, abs=5e-3)


def test_transport_without_diffusion():
    energy = wg.Potential(lambda x: x**2 / 2)
    grid = wg.Grid.for_problem(energy, (2.0, 0.25), 1.0, tol=1e-2)
    (rho,) = solved(grid, energy, wg.Density.gaussian(grid, 2.0, 0.25), [1.0])
    assert error(rho, wg.Density.gaussian(grid, 2 * math.exp(-1), 0.25 * math.exp(-2))) <= 1e-2


# ---------------------------------------------------------------- more axes, and what is given
def test_each_axis_has_the_cells_that_it_needs():
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: (x * x + 25 * y * y) / 2)
    grid = wg.Grid.for_problem(energy, ((1.0, 0.2), (0.5, 0.04)), 0.3, tol=2e-2)
    (rho,) = solved(grid, energy, wg.Density.gaussian(grid, [1.0, 0.2], [0.5, 0.04]), [0.3])
    decay = np.exp([-0.3, -7.5])
    spread = np.array([0.5, 0.04]) * decay**2 + (1 - decay**2) / [1, 25]
    assert error(rho, wg.Density.gaussian(grid, decay * [1.0, 0.2], spread)) <= 2e-2
    assert grid.widths[1][0] < 0.4 * grid.widths[0][0]
    assert grid.names == ("x", "y")


def test_periodic_axes_stay_as_given():
    energy = wg.Entropy(2.0) + wg.Potential(lambda x, y: np.cos(x) + y * y / 2)
    grid = wg.Grid.for_problem(energy, lambda x, y: (1 + 0.2 * np.sin(x)) * np.exp(-y * y), 0.5, tol=3e-2,
                               bounds=[(-math.pi, math.pi), None], boundary=("periodic", "no-flux"), names=("a", "b"))
    assert grid.bounds[0] == (-math.pi, math.pi)
    assert grid.boundary == ("periodic", "no-flux")
    assert grid.names == ("a", "b")
    assert -7 < grid.bounds[1][0] < -3 < 3 < grid.bounds[1][1] < 7


def test_walls_and_cells_are_kept():
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: 3 * x)
    grid = wg.Grid.for_problem(energy, lambda x: np.ones_like(x), bounds=(0, 1), tol=1e-3)
    assert grid.bounds == ((0.0, 1.0),)
    assert 10 < grid.size < 200
    assert wg.Grid.for_problem(BOWL, (0.0, 0.5), 0.2, cells=77).shape == (77,)


# ---------------------------------------------------------------- forms of the initial law
def test_one_law_in_many_forms():
    rng = np.random.default_rng(4099)
    samples = 2.0 + 0.5 * rng.normal(size=3000)
    trial = wg.Grid((-1, 5), cells=120)
    forms = [(2.0, 0.25), ([2.0], [[0.25]]), lambda x: np.exp(-2 * (x - 2) ** 2), samples, samples[:, None],
             wg.Atoms(samples, np.full(3000, 1 / 3000)), wg.Density.gaussian(trial, 2.0, 0.25)]
    first, *others = [wg.Grid.for_problem(BOWL, form, 1.0, tol=1e-2) for form in forms]
    for grid in others:
        np.testing.assert_allclose(grid.bounds, first.bounds, atol=0.8)
        assert abs(grid.size - first.size) < 0.35 * first.size


@pytest.mark.parametrize("place", [0.0, -40.0, 1e4])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 50.0])
def test_the_mass_of_a_function_is_found(place, scale):
    from wgflow.automatic_grids.initial_laws import initial_law

    if scale < 1 and abs(place) > 100:
        with pytest.raises(InvalidInput, match="give bounds= near its mass"):
            initial_law(lambda x: np.exp(-(((x - place) / scale) ** 2) / 2), None)
        return
    law = initial_law(lambda x: np.exp(-(((x - place) / scale) ** 2) / 2), None)
    (lo, hi), (deviation,) = law.extent[0], law.deviations
    assert deviation == pytest.approx(scale, rel=1e-2)
    assert 7 < (place - lo) / scale < 12
    assert 7 < (hi - place) / scale < 12


def test_a_density_on_a_trial_grid_keeps_mass_mean_and_sign():
    from wgflow.automatic_grids.initial_laws import initial_law

    trial = wg.Grid([(-3, 3), (-2, 4)], cells=(40, 30))
    rho = wg.Density.gaussian(trial, [0.3, 1.0], [[0.3, 0.1], [0.1, 0.2]])
    moved = initial_law(rho, None).density(wg.Grid([(-4, 4), (-3, 5)], cells=(133, 90)))
    assert moved.mass == pytest.approx(1.0, abs=1e-12)
    assert moved.values.min() >= 0
    np.testing.assert_allclose(moved.mean(), rho.mean(), atol=2e-3)
    np.testing.assert_allclose(moved.cov(), rho.cov(), atol=1e-2)


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(("arguments", "options", "error", "words"), [
    ((wg.Entropy(1.0), (0.0, 1.0)), {}, InvalidInput, "nothing confines the flow along axis 0.* spreads"),
    ((wg.Entropy(1.0) + wg.Potential(lambda x: x), (0.0, 1.0)), {}, InvalidInput, "nothing confines.* moves away"),
    ((wg.PowerEntropy(2.0), lambda x: np.maximum(1 - x * x, 0)), {}, InvalidInput, "nothing confines.* spreads"),
    ((lambda x: x, (0.0, 1.0)), {}, InvalidType, "sum of terms"),
    ((BOWL, 3.0), {}, InvalidType, "rho0 must be a function"),
    ((BOWL, (0.0, -1.0)), {}, InvalidInput, "positive definite"),
    ((BOWL, np.array([1.0, np.nan])), {}, InvalidInput, "samples are a finite array"),
    ((BOWL, np.ones(5)), {}, InvalidInput, "all points agree"),
    ((BOWL, lambda x: 1 / (1 + x * x)), {}, InvalidInput, r"mass beyond \|x\|"),
    ((BOWL, lambda x: 0 * x), {}, InvalidInput, "rho0 is 0 at every"),
    ((BOWL, lambda x: -np.exp(-x * x)), {}, InvalidInput, "finite and >= 0"),
    ((BOWL, lambda *x: x[0]), {}, InvalidInput, r"give bounds=\[None"),
    ((BOWL, (0.0, 1.0), -1.0), {}, InvalidInput, "t_end=-1"),
    ((BOWL, (0.0, 1.0), math.inf), {}, InvalidInput, "t_end=inf"),
    ((BOWL, (0.0, 1.0), "1"), {}, InvalidType, "t_end must be a number"),
    ((BOWL, (0.0, 1.0), 1.0), {"tol": 0.0}, InvalidInput, "tol=0"),
    ((BOWL, (0.0, 1.0), 1.0), {"tol": math.nan}, InvalidInput, "tol=nan"),
    ((BOWL, (0.0, 1.0), 1.0), {"bounds": [None, None]}, InvalidInput, "bounds has 2 entries, rho0 1"),
    ((BOWL, (0.0, 1.0), 1.0), {"bounds": (1, 0)}, InvalidInput, "lo=1 must be < hi=0"),
    ((BOWL, (0.0, 1.0), 1.0), {"bounds": 7}, InvalidType, "bounds=7"),
    ((BOWL, (0.0, 1.0), 1.0), {"boundary": "periodic"}, InvalidInput, "a periodic axis needs its bounds"),
    ((BOWL, (0.0, 1.0), 1.0), {"boundary": "no-flow"}, InvalidInput, "did you mean 'no-flux'"),
    ((BOWL, (0.0, 1.0), 1.0), {"cells": (3, 4)}, InvalidInput, "cells has 2 entries, rho0 1"),
    ((BOWL, (0.0, 1.0), 1.0), {"cells": 1}, InvalidInput, "need an integer >= 2"),
    ((BOWL, (0.0, 1.0), 1.0), {"max_cells": 0}, InvalidInput, "max_cells=0"),
    ((BOWL, (0.0, 1.0), 1.0), {"max_cells": 100, "tol": 1e-4}, ResourceError, "max_cells=100"),
])
def test_bad_arguments(arguments, options, error, words):
    with pytest.raises(error, match=words):
        wg.Grid.for_problem(*arguments, **options)


# ---------------------------------------------------------------- graded grids
def test_graded_cells_hold_equal_shares():
    grid = wg.Grid.graded((-4, 4), 50, lambda x: 0.05 + np.exp(-2 * x * x))
    below = [0.05 * x + math.sqrt(math.pi / 8) * math.erf(math.sqrt(2) * x) for x in grid.edges[0]]
    np.testing.assert_allclose(np.diff(below), (below[-1] - below[0]) / 50, rtol=1e-5)
    assert grid.bounds == ((-4.0, 4.0),)
    assert not grid.uniform[0]


def test_graded_axes_one_by_one():
    grid = wg.Grid.graded([(0, 1), (-1, 1)], (8, 20), [None, lambda y: 1 / (0.1 + y * y)],
                          boundary=("periodic", "no-flux"))
    assert grid.uniform == (True, False)
    assert grid.boundary == ("periodic", "no-flux")
    assert grid.widths[1].argmin() in (9, 10)
    constant = wg.Grid.graded((0, 2), 10, lambda x: 3.0 + 0 * x)
    np.testing.assert_allclose(constant.edges[0], np.linspace(0, 2, 11), atol=1e-14)


@pytest.mark.parametrize(("monitor", "words"), [
    (lambda x: x, "finite and > 0"), (lambda x: 1.0, "returned shape"), (lambda x: x / 0, "finite and > 0"),
    ([None, None], "monitor has 2 entries, bounds 1"),
])
def test_bad_monitors(monitor, words):
    with pytest.raises(InvalidInput, match=words):
        wg.Grid.graded((-1, 1), 10, monitor)


PROBLEMS = {
    "double well": (wg.Potential(lambda x: 2 * (x**2 - 1) ** 2) + wg.Entropy(10 / 3), 1.4, 0.05, 1.0),
    "wiggles": (wg.Potential(lambda x: (x**2 - 1) ** 2 / 4 + np.sin(8 * x) / 4) + wg.Entropy(20.0), 0.0, 0.1, 0.5),
    "kinked potential": (wg.Potential(np.abs) + wg.Entropy(5.0), 1.0, 0.1, 1.5),
    "kinked kernel": (wg.Potential(lambda x: x**2 / 2) + 0.5 * wg.Interaction(lambda x, y: np.abs(x - y))
                      + wg.Entropy(5.0), 0.5, 0.3, 1.0),
    "attraction": (wg.Interaction(lambda x, y: -2 * np.exp(-((x - y) ** 2))) + wg.Entropy(10.0), 0.0, 1.0, 2.0),
    "porous medium": (wg.Potential(lambda x: x**2 / 2) + wg.PowerEntropy(2.0), 0.5, 0.1, 0.5),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_grid_for_a_tolerance_passes_its_check_and_keeps_it(name):
    energy, mean, variance, t_end = PROBLEMS[name]
    for tol in (1e-2, 1e-3) if name != "porous medium" else (1e-2,):
        grid = wg.Grid.for_problem(energy, (mean, variance), t_end=t_end, tol=tol)
        sol = wg.solve(energy, wg.Density.gaussian(grid, mean, variance), (0, t_end), wg.FiniteVolume(tol=tol),
                       t_eval=[0, t_end / 16, t_end / 4, t_end])
        assert sol.certificate.ok, sol.certificate.explain()
        fine = wg.Grid(grid.bounds, cells=[8 * n for n in grid.shape], boundary=grid.boundary)
        true = wg.solve(energy, wg.Density.gaussian(fine, mean, variance), (0, t_end), wg.FiniteVolume(rtol=1e-7),
                        t_eval=sol.t)
        for rho, better in zip(sol.densities[1:], true.densities[1:]):
            assert np.abs(rho.masses - better.masses.reshape(grid.size, 8).sum(axis=1)).sum() < tol


def test_grading_pays_where_a_law_is_narrow():
    energy = wg.Entropy(200.0) + wg.Potential(lambda x: x**2 / 2)
    mean, variance, errors = 2 * math.exp(-3), math.exp(-6) * 0.02 + (1 - math.exp(-6)) / 200, []
    for grid in (wg.Grid((-1, 3), cells=120), wg.Grid.graded((-1, 3), 120, lambda x: 0.2 + np.exp(-8 * x * x))):
        rho = wg.solve(energy, wg.Density.gaussian(grid, 2.0, 0.02), (0, 3), method=wg.FiniteVolume(order=2)).final
        errors.append(error(rho, wg.Density.gaussian(grid, mean, variance)))
    assert errors[1] < 0.5 * errors[0]
