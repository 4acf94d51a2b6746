"""Faults put into the sweeps: steps that lose mass or raise the energy are refused, and what was computed is kept."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.solvers.finite_volume.splitting import LinearSweeps

GRID = wg.Grid([(-3, 3), (-2, 2)], cells=(12, 9), boundary="no-flux")
ENERGY = wg.Entropy(4.0) + wg.Potential(lambda x, y: x**2 / 2 - x + y**2) + wg.Interaction(
    lambda x, y: (x**2 + y**2) / 4)
BUMP = wg.Density.gaussian(GRID, [-1.0, 0.5], 0.2)
METHODS = {"second order": wg.FiniteVolume(dt=0.05, order=2),
           "midpoint": wg.FiniteVolume(dt=0.05, scheme="midpoint", order=2),
           "adaptive": wg.FiniteVolume(rtol=1e-3, order=2)}


def faulty(monkeypatch, change, after=3):
    """Let every sweep after some of them give masses that are changed."""
    original, count = LinearSweeps.move, iter(range(10**9))

    def move(self, *arguments, **settings):
        moved = original(self, *arguments, **settings)
        return change(moved) if next(count) >= after else moved

    monkeypatch.setattr(LinearSweeps, "move", move)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, 1.01, 1 + 1e-6])
def test_a_sweep_that_changes_the_mass_ends_the_run(monkeypatch, method, factor):  # row 69 of the table of faults
    faulty(monkeypatch, lambda masses: masses * factor)
    with pytest.raises(wg.ConvergenceError, match=r"changed by .* in a linear solve") as caught:
        wg.solve(ENERGY, BUMP, (0, 1), METHODS[method])
    assert caught.value.reason == "mass"
    assert f"{factor - 1:.1e}" in str(caught.value)
    assert caught.value.partial.certificate.mass_drift < 1e-13


@pytest.mark.parametrize("method", METHODS)
def test_a_sweep_that_runs_uphill_is_never_accepted(monkeypatch, method):  # row 68
    # Mass goes from where the law is to the corner where V is largest.
    def uphill(masses):
        moved = 0.9 * masses
        moved[0, 0] += 0.1 * masses.sum()
        return moved

    faulty(monkeypatch, uphill)
    sol = wg.solve(ENERGY, BUMP, (0, 0.5), METHODS[method], throw=False)
    assert sol.certificate.max_energy_increase <= 1e-13
    assert np.all(np.diff(sol.history.energy) <= 1e-13)
    assert sol.certificate.n_rejected + sol.certificate.n_fallback > 0
    assert not sol.certificate.ok


@pytest.mark.parametrize("method", METHODS)
def test_an_energy_that_has_another_value_at_every_call_ends_the_run(monkeypatch, method):  # row 68
    original, count = EnergyOnGrid.weigh, iter(range(10**9))

    def weigh(self, *arguments, **settings):
        found = original(self, *arguments, **settings)
        return found._replace(energy=found.energy + next(count))

    monkeypatch.setattr(EnergyOnGrid, "weigh", weigh)
    with pytest.raises(wg.ConvergenceError, match="now differs for the same density") as caught:
        wg.solve(ENERGY, BUMP, (0, 1), METHODS[method])
    assert caught.value.reason == "energy increase"
    assert np.all(np.diff(caught.value.partial.history.energy) <= 1e-13)
