"""The budget for the errors of split steps: what a step may take of it, and a run that needs it."""

from __future__ import annotations

import pytest

import wgflow as wg
from wgflow.solvers.finite_volume.tolerance import Tolerance


def test_steps_become_more_accurate_as_the_budget_is_used():
    plain = Tolerance(None, None, 3.0, 1e-10, 5e-3)
    tolerance = Tolerance(None, None, 3.0, 1e-10, 5e-3, budget=0.02)
    found = [tolerance.of_step(1.0, used, 0.01, 10.0) for used in (0.0, 0.01, 0.019, 1.0)]
    assert found == pytest.approx([5e-3, 2.5e-3, 2.5e-4, 2e-4])
    # Accurate steps are not asked for more, nor is a run with a tolerance of its own.
    assert tolerance.of_step(1e-6, 0.0, 0.01, 10.0) == plain.of_step(1e-6, 0.0, 0.01, 10.0) == pytest.approx(3e-6)
    assert Tolerance(1e-2, None, 3.0, 1e-10, 5e-3, budget=0.02).of_step(1.0, 1.0, 0.01, 10.0) == 1e-2


@pytest.mark.slow
def test_a_long_drift_in_a_curved_valley_ends_right():
    """The mean of x is .974 by refinement; without the budget the default ended at .718."""
    grid = wg.Grid([(-2.2, 3.0), (-1.5, 7.5)], cells=(160, 160))
    energy = wg.Entropy(4.0) + wg.Potential(lambda x, y: (1 - x) ** 2 / 2 + 50 * (y - x**2) ** 2)
    sol = wg.solve(energy, wg.Density.gaussian(grid, [-1.0, 1.0], [0.04, 0.04]), (0.0, 20.0))
    assert sol.final.mean()[0] == pytest.approx(0.974, abs=0.005)
